//! A browser that watches a point: its groups are read, opened and sent on, as `forward` says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::video;
use store::id::{PointNumber, TrackId, TrackKind};
use store::record::{self, Item};
use str0m::Event;
use str0m::media::{MediaKind, Mid, Pt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::forward::{Forward, Input, Output, Reading};
use super::peer::{Ended, Peer};
use super::{Layer, Refusal, Seat, UNITS_MAX};
use crate::media::live;
use crate::studio::stage::{Group, News};

/// Frames that were read and are not sent yet. Readers wait beyond it, which costs nothing: the bytes are in the group's
/// log anyway.
const READ_MAX: usize = 256;
/// Groups that may be begun once more: the open one and its neighbours, of three tracks.
const GROUPS_MAX: usize = 12;
/// How far behind the present frames are said to have been captured. The browser is told when a time was only if that is
/// past; one offset for sound and picture leaves them together.
const BEHIND: Duration = Duration::from_millis(500);
/// Session time that departs from the clock by more than this has jumped.
const JUMP: Duration = Duration::from_secs(10);

/// What was read.
enum Read {
    Frame(record::SealedFrame),
    Over(Option<u32>),
}

/// A media line of the connection.
#[derive(Clone, Copy)]
struct Line {
    mid: Mid,
    pt: Pt,
}

struct Watching {
    peer: Peer,
    forward: Forward,
    groups: VecDeque<Arc<Group>>,
    readers: JoinSet<()>,
    read: mpsc::Sender<(Reading, Read)>,
    sound: Option<Line>,
    picture: Option<Line>,
    /// A moment, and the session time that belongs to it.
    base: Option<(Instant, u64)>,
}

/// Serves one connection to its end.
pub(super) async fn run(
    seat: Seat,
    point: PointNumber,
    layer: Layer,
    offer: String,
    reply: oneshot::Sender<Result<String, Refusal>>,
    mut orders: mpsc::Receiver<Layer>,
) {
    let peer = match Peer::answer(&seat.shared.terms, &offer) {
        Ok((peer, answer)) => {
            if reply.send(Ok(answer)).is_err() {
                return;
            }
            peer
        }
        Err(refusal) => return drop(reply.send(Err(refusal))),
    };
    let (read, mut frames) = mpsc::channel(READ_MAX);
    let mut watching = Watching {
        peer,
        forward: Forward::new(layer),
        groups: VecDeque::new(),
        readers: JoinSet::new(),
        read,
        sound: None,
        picture: None,
        base: None,
    };
    let ended = watching.run(&seat, point, layer, &mut frames, &mut orders).await;
    watching.peer.close();
    match ended {
        Ended::Left | Ended::Never => tracing::debug!(%point, %ended, "a browser watches no longer"),
        Ended::Broken(_) => tracing::warn!(%point, %ended, "the connection of a browser that watched broke"),
    }
}

impl Watching {
    async fn run(
        &mut self,
        seat: &Seat,
        point: PointNumber,
        mut wanted: Layer,
        frames: &mut mpsc::Receiver<(Reading, Read)>,
        orders: &mut mpsc::Receiver<Layer>,
    ) -> Ended {
        let mut news: Option<broadcast::Receiver<News>> = None;
        loop {
            if let Err(ended) = self.settle(seat, point) {
                return ended;
            }
            if news.is_none() && self.peer.is_connected() {
                // Not before: what is sent to a browser that is not there is lost.
                match self.join(seat, point, wanted) {
                    Some(receiver) => news = Some(receiver),
                    None => return Ended::Left,
                }
                continue;
            }
            let deadline = self.forward.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                waited = self.peer.wait() => if let Err(ended) = waited { return ended },
                Some((reading, read)) = frames.recv() => {
                    let input = match read {
                        Read::Frame(frame) => Input::Frame { reading, frame },
                        Read::Over(frames) => Input::Over { reading, frames },
                    };
                    self.forward.handle(Instant::now(), input);
                }
                told = hear(&mut news) => match told {
                    Ok(News::Group(group)) => {
                        if group.header().track.point() == point {
                            self.begin(group);
                        }
                    }
                    Ok(News::Over) | Err(RecvError::Closed) => return Ended::Left,
                    // Behind: the newest groups are enough to go on.
                    Err(RecvError::Lagged(_)) => news = None,
                },
                order = orders.recv() => match order {
                    Some(layer) => {
                        wanted = layer;
                        self.forward.handle(Instant::now(), Input::Layer(layer));
                    }
                    None => return Ended::Left,
                },
                () = sleep_until(deadline.into()) => self.forward.handle(Instant::now(), Input::Tick),
            }
            while self.readers.try_join_next().is_some() {}
        }
    }

    /// Begins with what is live now, and hears of what comes.
    fn join(&mut self, seat: &Seat, point: PointNumber, wanted: Layer) -> Option<broadcast::Receiver<News>> {
        let (mut groups, news) = seat.shared.stage.watch(point)?;
        // The wanted layer first, or the other would be waited with.
        groups.sort_by_key(|group| group.header().track.kind() != wanted.kind());
        groups.into_iter().for_each(|group| self.begin(group));
        Some(news)
    }

    fn begin(&mut self, group: Arc<Group>) {
        let header = group.header();
        let (kind, seq, t0) = (header.track.kind(), header.seq, header.t0);
        match group.opener().group(header) {
            Ok(opener) => {
                let began = group.began();
                self.groups.push_back(group);
                if self.groups.len() > GROUPS_MAX {
                    self.groups.pop_front();
                }
                self.forward.handle(Instant::now(), Input::Begin { kind, seq, t0, began, opener });
            }
            Err(error) => tracing::debug!(group = %header.id(), %error, "a group cannot be opened"),
        }
    }

    /// Carries out what is to be done until there is nothing more.
    fn settle(&mut self, seat: &Seat, point: PointNumber) -> Result<(), Ended> {
        loop {
            while let Some(event) = self.peer.work()? {
                self.event(event);
            }
            let Some(output) = self.forward.poll() else { return Ok(()) };
            match output {
                Output::Follow(reading) => self.follow(reading),
                Output::Again { kind, seq } => {
                    let known = self.groups.iter().position(|group| {
                        let header = group.header();
                        (header.track.kind(), header.seq) == (kind, seq)
                    });
                    if let Some(group) = known.and_then(|at| self.groups.remove(at)) {
                        self.begin(group);
                    }
                }
                Output::Send { kind, at, opener, frame } => match opener.open(&frame) {
                    Ok(plain) if kind != TrackKind::Audio && video::units(&plain, UNITS_MAX + 1) > UNITS_MAX => {
                        tracing::debug!(group = %opener.header().id(), "a frame of too many pieces is not shown");
                        let seq = opener.header().seq;
                        self.forward.handle(Instant::now(), Input::Spoilt { kind, seq });
                    }
                    Ok(plain) => self.send(kind, at, &plain)?,
                    Err(error) => {
                        let header = opener.header();
                        tracing::debug!(group = %header.id(), %error, "a frame is not shown");
                        let seq = header.seq;
                        self.forward.handle(Instant::now(), Input::Spoilt { kind, seq });
                    }
                },
                Output::Ask(kind) => seat.shared.wish(TrackId::new(point, kind)),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::MediaAdded(added) => {
                let line = self.peer.payload_type(added.mid).map(|pt| Line { mid: added.mid, pt });
                match added.kind {
                    MediaKind::Audio => self.sound = line,
                    MediaKind::Video => self.picture = line,
                }
            }
            Event::KeyframeRequest(_) => self.forward.handle(Instant::now(), Input::Keyframe),
            _ => {}
        }
    }

    fn follow(&mut self, reading: Reading) {
        let group = self.groups.iter().rev().find(|group| {
            let header = group.header();
            (header.track.kind(), header.seq) == (reading.kind, reading.seq)
        });
        if let Some(group) = group {
            self.readers.spawn(follow(group.read(), reading, self.read.clone()));
        }
    }

    fn send(&mut self, kind: TrackKind, at: u64, plain: &[u8]) -> Result<(), Ended> {
        let line = if kind == TrackKind::Audio { self.sound } else { self.picture };
        // The browser did not ask for it.
        let Some(Line { mid, pt }) = line else { return Ok(()) };
        let wallclock = self.wallclock(Instant::now(), at);
        self.peer.send(mid, pt, wallclock, at, plain)
    }

    /// The moment that belongs to a session time, in the past, the same for sound and picture.
    fn wallclock(&mut self, now: Instant, at: u64) -> Instant {
        if let Some((moment, base)) = self.base {
            let moment = match at.checked_sub(base) {
                Some(after) => moment.checked_add(Duration::from_micros(after)),
                None => moment.checked_sub(Duration::from_micros(base - at)),
            };
            if let Some(moment) = moment.filter(|moment| *moment <= now && now.duration_since(*moment) < JUMP) {
                return moment;
            }
        }
        let moment = now.checked_sub(BEHIND).unwrap_or(now);
        self.base = Some((moment, at));
        moment
    }
}

async fn hear(news: &mut Option<broadcast::Receiver<News>>) -> Result<News, RecvError> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads a group from its beginning to its end. Ends by itself: a live group is bounded in length and in time.
async fn follow(mut reader: live::Reader, reading: Reading, to: mpsc::Sender<(Reading, Read)>) {
    let mut parser = record::Reader::new();
    let frames = 'group: loop {
        match reader.next().await {
            live::Item::Chunk(bytes) => parser.push(&bytes),
            live::Item::Whole => break Some(parser.frame_count()),
            live::Item::Broken { .. } => break None,
        }
        loop {
            match parser.next() {
                Ok(Some(Item::Frame(frame))) => {
                    if to.send((reading, Read::Frame(frame))).await.is_err() {
                        return;
                    }
                }
                Ok(Some(Item::Header(_) | Item::End(_))) => {}
                Ok(None) => break,
                // Whoever keeps it says what is wrong with it.
                Err(_) => break 'group None,
            }
        }
    };
    // The connection may be over.
    let _ = to.send((reading, Read::Over(frames))).await;
}
