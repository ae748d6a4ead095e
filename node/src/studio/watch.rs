//! The room's view of one other point: its sound and picture opened and decoded on a thread of their own.
//!
//! One thread a point, not a pool: a decoder is stateful, so a point's frames must be decoded one after the other
//! anyway, and a point whose pictures are heavy slows nobody else. Sound goes first whenever there is some. Frames are
//! opened here and not where they arrive, so that what is skipped costs nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codec::time::MediaTime;
use codec::{audio, video};
use store::id::{TrackId, TrackKind};
use store::record::SealedFrame;
use store::seal::GroupOpener;

use super::latency::{Histogram, Latency};
use super::order::{Counts, Order, Rule};
use super::timeline::Timeline;

/// What of a track was seen or heard here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames decoded.
    pub decoded: u64,
    /// Frames the point made while this room watched; an estimate for groups whose end never came.
    pub expected: u64,
    /// Frames that arrived and were left out: too late, or more than could be decoded.
    pub skipped: u64,
    /// Frames that could not be opened or decoded.
    pub failed: u64,
    /// First group of which a frame was decoded.
    pub first_seq: Option<u64>,
    /// Last group of which a frame was decoded.
    pub last_seq: Option<u64>,
    /// Capture to ready-to-show.
    pub latency: Latency,
}

/// What of a point was seen and heard here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its pictures.
    pub video: Tally,
    /// Its sound.
    pub audio: Tally,
}

/// Asks for a keyframe of a track soon.
pub(super) type AskKeyframe = Box<dyn Fn(TrackId) + Send>;

/// A running view of one point. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Watch {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

/// Where arriving frames go.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    sound: Order,
    picture: Order,
    results: Results,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Results {
    sound: Decoded,
    picture: Decoded,
}

#[derive(Debug, Default)]
struct Decoded {
    frames: u64,
    failed: u64,
    latency: Histogram,
}

/// Which of the two tracks of a point a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Sound,
    Picture,
}

impl Sense {
    /// Nothing for tracks that are not shown.
    fn of(kind: TrackKind) -> Option<Sense> {
        match kind {
            TrackKind::Audio => Some(Sense::Sound),
            // The low layer comes in place of the whole picture, with the same group numbers; whichever begins first is shown.
            TrackKind::Main | TrackKind::Thumb => Some(Sense::Picture),
            TrackKind::Screen => None,
        }
    }
}

impl State {
    fn order(&mut self, sense: Sense) -> &mut Order {
        match sense {
            Sense::Sound => &mut self.sound,
            Sense::Picture => &mut self.picture,
        }
    }

    fn decoded(&mut self, sense: Sense) -> &mut Decoded {
        match sense {
            Sense::Sound => &mut self.results.sound,
            Sense::Picture => &mut self.results.picture,
        }
    }
}

impl Watch {
    /// Starts watching; `name` is for the thread.
    pub(super) fn start(name: &str, timeline: Timeline, ask_keyframe: AskKeyframe) -> std::io::Result<Watch> {
        let state = State {
            sound: Order::new(Rule::SOUND),
            picture: Order::new(Rule::PICTURE),
            results: Results::default(),
            stopping: false,
        };
        let inbox = Arc::new(Inbox { state: Mutex::new(state), changed: Condvar::new() });
        let work = Arc::clone(&inbox);
        let thread = std::thread::Builder::new()
            .name(format!("watch {name}"))
            .spawn(move || run(&work, &timeline, &ask_keyframe))?;
        Ok(Watch { inbox, thread: Some(thread) })
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    pub(super) fn shown(&self) -> Shown {
        self.inbox.shown()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inbox.lock().stopping = true;
        self.inbox.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a decoding thread panicked");
        }
    }
}

impl Inbox {
    /// A group begins to arrive. False when nobody wants it.
    pub(super) fn begin(&self, opener: GroupOpener) -> bool {
        let header = opener.header();
        let (seq, kind) = (header.seq, header.track.kind());
        Sense::of(kind).is_some_and(|sense| self.lock().order(sense).begin(Instant::now(), seq, opener))
    }

    /// The next frame of a group.
    pub(super) fn frame(&self, track: TrackId, seq: u64, frame: SealedFrame) {
        if let Some(sense) = Sense::of(track.kind()) {
            self.lock().order(sense).frame(seq, frame);
            self.changed.notify_one();
        }
    }

    /// A group ended, with so many frames, or early.
    pub(super) fn over(&self, track: TrackId, seq: u64, frames: Option<u32>) {
        if let Some(sense) = Sense::of(track.kind()) {
            self.lock().order(sense).over(seq, frames);
            self.changed.notify_one();
        }
    }

    fn shown(&self) -> Shown {
        let state = self.lock();
        let tally = |counts: Counts, decoded: &Decoded| Tally {
            decoded: decoded.frames,
            expected: counts.made.max(counts.given),
            skipped: counts.skipped,
            failed: decoded.failed,
            first_seq: counts.first_seq,
            last_seq: counts.last_seq,
            latency: decoded.latency.latency(),
        };
        Shown {
            video: tally(state.picture.counts(), &state.results.picture),
            audio: tally(state.sound.counts(), &state.results.sound),
        }
    }

    /// The next frame to decode, waiting for it; `None` when it is time to stop.
    fn take(&self) -> Option<(Sense, Arc<GroupOpener>, SealedFrame)> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let now = Instant::now();
            if let Some((opener, frame)) = state.sound.take(now) {
                return Some((Sense::Sound, opener, frame));
            }
            if let Some((opener, frame)) = state.picture.take(now) {
                return Some((Sense::Picture, opener, frame));
            }
            let deadline = [state.sound.deadline(), state.picture.deadline()].into_iter().flatten().min();
            state = match deadline {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).map_or_else(|error| error.into_inner().0, |(state, _)| state)
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Every change under this lock leaves whole values, so a thread that panicked left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(inbox: &Inbox, timeline: &Timeline, ask_keyframe: &AskKeyframe) {
    let mut decoders = match Decoders::new() {
        Ok(decoders) => decoders,
        Err(error) => {
            tracing::error!(%error, "no decoder could be made; this point is not shown");
            return;
        }
    };
    while let Some((sense, opener, frame)) = inbox.take() {
        let header = opener.header();
        let at = MediaTime::from_micros(header.t0.saturating_add(frame.dt));
        let result = decoders.decode(sense, at, &opener, &frame);
        let late = timeline.now().map(|now| Duration::from_micros(now.micros().saturating_sub(at.micros())));
        let mut state = inbox.lock();
        match result {
            Ok(true) => {
                let decoded = state.decoded(sense);
                decoded.frames += 1;
                decoded.latency.add(late.unwrap_or_default());
            }
            Ok(false) => {}
            Err(error) => {
                state.decoded(sense).failed += 1;
                if sense == Sense::Picture {
                    state.picture.spoil(header.seq);
                }
                drop(state);
                tracing::debug!(%error, group = %header.id(), frame = frame.index, "a frame is not shown");
                if sense == Sense::Picture {
                    ask_keyframe(header.track);
                }
            }
        }
    }
}

struct Decoders {
    sound: audio::Decoder,
    picture: video::Decoder,
}

/// Why a frame is not shown.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Seal(#[from] store::seal::Error),
    #[error(transparent)]
    Sound(#[from] audio::Error),
    #[error(transparent)]
    Picture(#[from] video::Error),
}

impl Decoders {
    fn new() -> Result<Decoders, Error> {
        Ok(Decoders { sound: audio::Decoder::new()?, picture: video::Decoder::new()? })
    }

    /// Opens and decodes; whether something to show came of it.
    fn decode(
        &mut self,
        sense: Sense,
        at: MediaTime,
        opener: &GroupOpener,
        frame: &SealedFrame,
    ) -> Result<bool, Error> {
        let plain = opener.open(frame)?;
        match sense {
            Sense::Sound => {
                self.sound.decode(at, &plain)?;
                Ok(true)
            }
            Sense::Picture => Ok(self.picture.decode(at, &plain)?.is_some()),
        }
    }
}
