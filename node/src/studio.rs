//! What the room sees, hears and says: threads for its own production, and for opening and decoding what others send.
//!
//! The studio joins the three parts that know nothing of each other: `codec` makes and shows pictures and sound, `store`
//! seals and opens, `media` carries. It decides nothing: the session engine says when to publish and what to subscribe
//! to, and hears of groups that began, broke off or were stored.
//!
//! A central that does not watch stores what it receives without decoding a frame of it.

mod arrive;
pub mod inlet;
pub(crate) mod intake;
mod latency;
pub(crate) mod order;
mod room;
pub mod stage;
pub(crate) mod timeline;
mod watch;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::capture;
use codec::production;
use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::{Epoch, SessionKey};
use store::record::Record;
use store::seal::Opener;
use store::session::{Head, State};
use tokio::sync::mpsc;

use self::arrive::Arrival;
use self::inlet::Inlet;
use self::room::{Room, Setup};
use self::stage::Stage;
use self::timeline::Timeline;
use self::watch::Watch;
use crate::config::Source;
use crate::engine::clock::Line;
use crate::engine::keeper::Cut;
use crate::media::{Media, live};
use crate::vault::Vault;

pub use self::latency::Latency;
pub(crate) use self::room::RESERVE;
pub use self::watch::{Shown, Tally};

/// How long after a source failed or ended it is opened anew.
const REOPEN: Duration = Duration::from_secs(3);

/// Least bitrate of the recorded picture in bits per second; below it faces are no longer recognised at 720p.
const MAIN_BITS_MIN: u32 = 300_000;

/// What a studio is set up with.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// This point's name, which a test picture shows.
    pub name: String,
    /// Zero of the local clock.
    pub epoch: Instant,
    /// Where picture and sound come from.
    pub source: Source,
    /// What is made of them.
    pub production: production::Config,
    /// Whether what others send is decoded.
    pub watch: bool,
    /// Where browsers find what is live.
    pub stage: Stage,
    /// Where a browser's picture and sound come in.
    pub inlet: Inlet,
}

/// What the studio tells the driver.
#[derive(Debug)]
pub enum Event {
    /// A group of another point that we keep began to arrive.
    Began(GroupId),
    /// It broke off, or could not be kept.
    Broke {
        /// Which.
        group: GroupId,
        /// By what.
        cut: Cut,
    },
    /// It is on our disk.
    Stored(GroupId),
    /// A node gave us something that is not what it says.
    Forged {
        /// Who.
        node: NodeId,
        /// What.
        what: String,
    },
    /// A fetch is over; what it brought is stored, and was told before.
    Fetched {
        /// The session.
        session: SessionId,
        /// Who was asked.
        origin: NodeId,
        /// What it has not got; `None` when there was no complete answer.
        missing: Option<Vec<u64>>,
    },
}

/// Why the room does not publish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source.
    #[error("the room's source cannot be used")]
    Source(#[from] capture::Error),
    /// The encoders.
    #[error("the room's picture and sound cannot be encoded")]
    Production(#[from] production::Error),
    /// The system gave no thread.
    #[error("no thread for the room's browser could be started")]
    Thread(#[source] std::io::Error),
}

/// A room that stopped publishing and has yet to close its groups.
#[derive(Debug)]
pub struct Stopped {
    room: Room,
}

impl Stopped {
    /// Its point number in the session.
    pub fn number(&self) -> PointNumber {
        self.room.number()
    }

    /// Closes every group; when this returns they are in the vault's queue. Blocks for the length of some frames.
    pub fn finish(self) -> production::Stats {
        self.room.stop()
    }
}

/// The studio of one node.
#[derive(Debug)]
pub struct Studio {
    config: Config,
    media: Media,
    vault: Vault,
    events: mpsc::Sender<Event>,
    sessions: BTreeMap<SessionId, Scene>,
    room: Option<Room>,
    /// What to start again when its source is back, and when to try.
    waiting: Option<Waiting>,
    thumb: Thumb,
}

/// Who wants our small picture layer, which is made only then.
#[derive(Clone, Copy, Debug, Default)]
struct Thumb {
    /// Neighbours, in this session.
    neighbours: Option<SessionId>,
    /// This room's page.
    page: bool,
}

/// A room that will publish once its source can be opened.
#[derive(Clone, Debug)]
struct Waiting {
    at: Instant,
    session: SessionId,
    /// Group numbers it may use at once.
    reserved: Range<u64>,
}

/// Session keys by epoch.
pub type Keys = BTreeMap<Epoch, SessionKey>;

/// One session as the studio knows it.
#[derive(Debug)]
struct Scene {
    head: Head,
    keys: Keys,
    opener: Arc<Opener>,
    timeline: Timeline,
    keeps: bool,
    watches: BTreeMap<NodeId, Watch>,
}

impl Studio {
    /// A studio in no session. `events` must be drained.
    pub fn new(config: Config, media: Media, vault: Vault, events: mpsc::Sender<Event>) -> Studio {
        Studio {
            config,
            media,
            vault,
            events,
            sessions: BTreeMap::new(),
            room: None,
            waiting: None,
            thumb: Thumb::default(),
        }
    }

    /// A session whose tracks may arrive. `keeps`: whether groups of others are stored here. Again for a session that has
    /// gone on to another key: from now on groups of that key can be opened, and our own are sealed with it when it is
    /// time.
    pub fn open(&mut self, head: Head, keys: Keys, keeps: bool) {
        let mut opener = Opener::new(head.id);
        for (&epoch, key) in &keys {
            opener.insert(epoch, key.clone());
        }
        let opener = Arc::new(opener);
        if let Some(room) = self.room.as_ref().filter(|room| room.session() == head.id) {
            room.renew(&head, &keys, &opener);
        }
        if head.state == State::Open {
            self.show(&head);
        }
        match self.sessions.entry(head.id) {
            Entry::Occupied(mut known) => {
                let scene = known.get_mut();
                (scene.head, scene.keys, scene.opener) = (head, keys, opener);
            }
            Entry::Vacant(place) => {
                let timeline = Timeline::new(self.config.epoch);
                place.insert(Scene { head, keys, opener, timeline, keeps, watches: BTreeMap::new() });
            }
        }
    }

    /// The session is over here: nobody watches it any more.
    pub fn close(&mut self, session: SessionId) {
        self.config.stage.close_if(session);
        self.sessions.remove(&session);
    }

    /// From now on browsers may watch the points of this session.
    fn show(&self, head: &Head) {
        let points = head.points.iter().map(|point| point.number).filter(|number| !head.was_removed(*number));
        self.config.stage.open(head.id, points.collect());
    }

    /// Session time from now on.
    pub fn clock(&mut self, session: SessionId, line: Line) {
        match self.sessions.get(&session) {
            Some(scene) => scene.timeline.set(line),
            None => tracing::error!(%session, "session time came for a session that is not open"),
        }
    }

    /// Begins to publish with the group numbers `reserved` on the disk; more are reserved in time. A source that cannot
    /// be opened is tried again until [`Studio::unpublish`].
    pub fn publish(&mut self, session: SessionId, reserved: Range<u64>) -> Result<(), Error> {
        self.waiting = None;
        let result = self.start(session, reserved.clone());
        if result.is_err() {
            self.waiting = Some(Waiting { at: Instant::now() + REOPEN, session, reserved });
        }
        result
    }

    /// Stops publishing; [`Stopped::finish`] the room on a thread that may block.
    pub fn unpublish(&mut self, session: SessionId) -> Option<Stopped> {
        self.config.stage.close_if(session);
        self.waiting.take_if(|waiting| waiting.session == session);
        let room = self.room.take_if(|room| room.session() == session)?;
        Some(Stopped { room })
    }

    /// Looks after the source: to be called about once a second. Gives a room whose source failed, to be finished.
    pub fn look(&mut self, now: Instant) -> Option<Stopped> {
        if let Some(Waiting { session, reserved, .. }) = self.waiting.take_if(|waiting| waiting.at <= now)
            && let Err(error) = self.publish(session, reserved)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the room sends nothing");
        }
        let failed = self.room.take_if(|room| room.stats().source != production::State::Running)?;
        tracing::warn!(state = ?failed.stats().source, "the room's source stopped; it is opened anew");
        let (session, reserved) = (failed.session(), failed.reserved());
        self.waiting = Some(Waiting { at: now + REOPEN, session, reserved });
        Some(Stopped { room: failed })
    }

    fn start(&mut self, session: SessionId, reserved: Range<u64>) -> Result<(), Error> {
        let Some(scene) = self.sessions.get(&session) else { return Ok(()) };
        let Some(number) = scene.head.number(&self.config.me) else { return Ok(()) };
        let setup = Setup {
            head: scene.head.clone(),
            keys: scene.keys.clone(),
            me: self.config.me,
            number,
            reserved,
            production: self.config.production,
            timeline: scene.timeline.clone(),
            opener: Arc::clone(&scene.opener),
            stage: self.config.stage.clone(),
            media: self.media.clone(),
            vault: self.vault.clone(),
            events: self.events.clone(),
        };
        self.show(&scene.head);
        self.room = Some(match &self.config.source {
            Source::Browser => Room::start_fed(&self.config.inlet, setup).map_err(Error::Thread)?,
            Source::Own(spec) => Room::start(capture::open(spec, &self.config.name, self.config.epoch)?, setup)?,
        });
        self.make_thumb();
        Ok(())
    }

    /// A group of another point begins to arrive. Must be called within a tokio runtime.
    pub fn group(&mut self, reader: live::Reader) {
        let header = reader.header();
        let (session, node) = (header.session, header.point);
        let Some(scene) = self.sessions.get_mut(&session) else { return };
        let inbox = self.config.watch.then(|| scene.watch(node, &self.media)).flatten();
        let keep = scene.keeps.then(|| self.vault.clone());
        let opener = Arc::clone(&scene.opener);
        self.config.stage.begin(reader.again(), Arc::clone(&opener));
        tokio::spawn(Arrival { keep, inbox, opener, events: self.events.clone() }.follow(reader));
    }

    /// Some neighbour wants an own track live, or none does.
    pub fn wanted(&mut self, session: SessionId, track: TrackId, wanted: bool) {
        // Sound and the recorded picture are made in any case.
        if track.kind() == TrackKind::Thumb {
            match wanted {
                true => self.thumb.neighbours = Some(session),
                false => drop(self.thumb.neighbours.take_if(|known| *known == session)),
            }
            self.make_thumb();
        }
    }

    /// This room's own page wants our small picture, or does not.
    pub fn page_wants_thumb(&mut self, wanted: bool) {
        self.thumb.page = wanted;
        self.make_thumb();
    }

    fn make_thumb(&self) {
        if let Some(room) = &self.room {
            let wanted = self.thumb.page || self.thumb.neighbours == Some(room.session());
            room.enable_thumb(wanted);
        }
    }

    /// Somebody needs a keyframe of an own track.
    pub fn keyframe(&self, session: SessionId, track: TrackId) {
        if let Some(room) = self.room_of(session, track) {
            room.keyframe();
        }
    }

    /// What pictures may use of the line, in bits per second: the recorded picture is made to fit.
    pub fn budget(&self, bits: u64) {
        let most = self.config.production.main.bitrate;
        let bits = u32::try_from(bits).unwrap_or(u32::MAX).clamp(MAIN_BITS_MIN.min(most), most);
        if let Some(room) = &self.room {
            room.set_bitrate(bits);
        }
    }

    fn room_of(&self, session: SessionId, track: TrackId) -> Option<&Room> {
        self.room.as_ref().filter(|room| room.session() == session && room.number() == track.point())
    }

    /// What was made here, while the room publishes.
    pub fn produced(&self) -> Option<production::Stats> {
        self.room.as_ref().map(Room::stats)
    }

    /// The latest session of which anything was seen or heard here, and what.
    pub fn latest_shown(&self) -> Option<(SessionId, BTreeMap<NodeId, Shown>)> {
        let session = *self.sessions.iter().rev().find(|(_, scene)| !scene.watches.is_empty())?.0;
        Some((session, self.shown(session)))
    }

    /// What of each other point was seen and heard here in a session.
    pub fn shown(&self, session: SessionId) -> BTreeMap<NodeId, Shown> {
        let Some(scene) = self.sessions.get(&session) else { return BTreeMap::new() };
        scene.watches.iter().map(|(&node, watch)| (node, watch.shown())).collect()
    }
}

/// Stores a group of another point; `events` hears [`Event::Stored`] when it is on the disk.
pub async fn keep(vault: Vault, record: Record, events: mpsc::Sender<Event>) {
    arrive::keep_record(vault, record, events).await;
}

impl Scene {
    /// Where frames of this point go to be shown; starts to watch it if nobody does yet.
    fn watch(&mut self, node: NodeId, media: &Media) -> Option<Arc<watch::Inbox>> {
        if let Some(watch) = self.watches.get(&node) {
            return Some(watch.inbox());
        }
        // Only points of the session are watched, so there are no more threads than points.
        let number = self.head.number(&node)?;
        let (session, media) = (self.head.id, media.clone());
        let ask = Box::new(move |track| media.request_keyframe(session, track));
        match Watch::start(&number.to_string(), self.timeline.clone(), ask) {
            Ok(watch) => {
                let inbox = watch.inbox();
                self.watches.insert(node, watch);
                Some(inbox)
            }
            Err(error) => {
                tracing::error!(%error, point = %number, "no thread to decode this point");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
