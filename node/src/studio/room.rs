//! This point's own picture and sound, from the encoders to the disk and the line.
//!
//! For each group: a header goes out at once, each frame is sealed and goes out as it is made, and when the group is
//! complete the record goes to the vault. Only when it is on the disk does the end go out. So whoever holds a whole
//! group of ours knows that we hold it too; a group without an end may be lost with us, and nobody claims otherwise.
//!
//! If our disk refuses a group, its end goes out all the same: central's copy is then the only one, and worth more than
//! the rule.
//!
//! Group numbers are reserved on the disk ahead of their use, so a run of the program that was killed leaves none behind
//! that could be used again.
//!
//! Which key seals a group follows from its start, by the session's head: a new epoch begins between two groups.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use codec::capture::Source;
use codec::frame::Frame;
use codec::production::{self, Layer, Production};
use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::record::{Flags, Writer};
use store::seal::{Opener, Sealer, Start};
use store::session::Head;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::inlet::{Feed, Inlet};
use super::stage::Stage;
use super::timeline::Timeline;
use super::{Event, Keys};
use crate::engine::keeper::Cut;
use crate::engine::session::is_recorded;
use crate::media::{Media, live};
use crate::vault::Vault;

/// Group numbers reserved at once: half a minute, so that reserving is rare and a restart skips little.
pub(crate) const RESERVE: u64 = 16;

/// What a room needs to publish.
pub(super) struct Setup {
    pub(super) head: Head,
    pub(super) keys: Keys,
    pub(super) me: NodeId,
    pub(super) number: PointNumber,
    /// Group numbers that are reserved on the disk.
    pub(super) reserved: Range<u64>,
    pub(super) production: production::Config,
    pub(super) timeline: Timeline,
    /// Opens what we seal, for this room's own screen.
    pub(super) opener: Arc<Opener>,
    pub(super) stage: Stage,
    pub(super) media: Media,
    pub(super) vault: Vault,
    /// Hears of groups that our disk did not take.
    pub(super) events: mpsc::Sender<Event>,
}

/// A room that publishes. Dropping it closes its groups.
#[derive(Debug)]
pub(super) struct Room {
    maker: Maker,
    lanes: Arc<Lanes>,
}

/// Who encodes.
#[derive(Debug)]
enum Maker {
    /// This program.
    Own(Production),
    /// A browser.
    Browser(Feed),
}

impl Room {
    /// Starts to capture, encode, seal, keep and send. Must be called within a tokio runtime.
    pub(super) fn start(source: Box<dyn Source>, setup: Setup) -> Result<Room, production::Error> {
        let timeline = setup.timeline.clone();
        let config = production::Config { first_seq: setup.reserved.start, ..setup.production };
        let lanes = Arc::new(Lanes::new(setup));
        let sink = Arc::clone(&lanes);
        let production = Production::start(
            source,
            config,
            Arc::new(move |local| timeline.session(local)),
            Arc::new(move |layer, output| sink.take(layer, output)),
        )?;
        Ok(Room { maker: Maker::Own(production), lanes })
    }

    /// Starts to seal, keep and send what a browser encodes. Must be called within a tokio runtime.
    pub(super) fn start_fed(inlet: &Inlet, setup: Setup) -> std::io::Result<Room> {
        let timeline = setup.timeline.clone();
        let (first_seq, length) = (setup.reserved.start, setup.production.group);
        let lanes = Arc::new(Lanes::new(setup));
        let sink = Arc::clone(&lanes);
        let sink = Arc::new(move |layer, output| sink.take(layer, output));
        let feed = Feed::start(inlet, first_seq, length, timeline, sink)?;
        Ok(Room { maker: Maker::Browser(feed), lanes })
    }

    pub(super) fn session(&self) -> SessionId {
        self.lanes.session
    }

    pub(super) fn number(&self) -> PointNumber {
        self.lanes.number
    }

    /// The session has gone on to another key, or will.
    pub(super) fn renew(&self, head: &Head, keys: &Keys, opener: &Arc<Opener>) {
        let ring = Ring { head: head.clone(), keys: keys.clone(), opener: Arc::clone(opener) };
        *self.lanes.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    /// What was made so far.
    pub(super) fn stats(&self) -> production::Stats {
        match &self.maker {
            Maker::Own(production) => production.stats(),
            Maker::Browser(feed) => feed.stats(),
        }
    }

    /// All layers begin a new group soon.
    pub(super) fn keyframe(&self) {
        match &self.maker {
            Maker::Own(production) => production.keyframe(),
            Maker::Browser(feed) => feed.ask_keyframe(),
        }
    }

    /// Makes the small picture, or stops making it.
    pub(super) fn enable_thumb(&self, on: bool) {
        match &self.maker {
            Maker::Own(production) => production.enable(Layer::Thumb, on),
            Maker::Browser(feed) => feed.enable_thumb(on),
        }
    }

    /// The recorded picture may have so many bits per second.
    pub(super) fn set_bitrate(&self, bits: u32) {
        match &self.maker {
            Maker::Own(production) => production.set_bitrate(Layer::Main, bits),
            Maker::Browser(feed) => feed.set_bitrate(bits),
        }
    }

    /// Group numbers that are reserved and that no layer has used.
    pub(super) fn reserved(&self) -> Range<u64> {
        self.lanes.next_seq.load(Ordering::Relaxed)..self.lanes.reserved.load(Ordering::Relaxed)
    }

    /// Ends capture and closes every group; they are in the vault's queue when this returns. Blocks for some frames.
    pub(super) fn stop(self) -> production::Stats {
        match self.maker {
            Maker::Own(production) => production.stop(),
            Maker::Browser(feed) => feed.stop(),
        }
    }
}

/// The layers of a room. Each is fed by its own encoder thread.
#[derive(Debug)]
struct Lanes {
    session: SessionId,
    me: NodeId,
    number: PointNumber,
    ring: RwLock<Ring>,
    stage: Stage,
    media: Media,
    vault: Vault,
    events: mpsc::Sender<Event>,
    runtime: Handle,
    audio: Mutex<Lane>,
    main: Mutex<Lane>,
    thumb: Mutex<Lane>,
    /// Numbers below are reserved on the disk.
    reserved: Arc<AtomicU64>,
    /// Numbers below are reserved or being reserved.
    asked: AtomicU64,
    next_seq: AtomicU64,
}

/// What seals and opens.
#[derive(Debug)]
struct Ring {
    /// Says when which key is used.
    head: Head,
    keys: Keys,
    opener: Arc<Opener>,
}

#[derive(Debug)]
struct Lane {
    kind: TrackKind,
    /// That of the last group; here between groups, in the writer during one.
    sealer: Option<Sealer>,
    open: Option<Open>,
}

/// A group being made.
#[derive(Debug)]
struct Open {
    writer: Writer,
    live: live::Writer,
}

impl Lanes {
    fn new(setup: Setup) -> Lanes {
        let Setup { head, keys, me, number, reserved, opener, stage, media, vault, events, .. } = setup;
        let lane = |kind| Mutex::new(Lane { kind, sealer: None, open: None });
        Lanes {
            session: head.id,
            me,
            number,
            ring: RwLock::new(Ring { head, keys, opener }),
            stage,
            media,
            vault,
            events,
            runtime: Handle::current(),
            audio: lane(TrackKind::Audio),
            main: lane(TrackKind::Main),
            thumb: lane(TrackKind::Thumb),
            reserved: Arc::new(AtomicU64::new(reserved.end)),
            asked: AtomicU64::new(reserved.end),
            next_seq: AtomicU64::new(reserved.start),
        }
    }

    fn lane(&self, layer: Layer) -> MutexGuard<'_, Lane> {
        let lane = match layer {
            Layer::Audio => &self.audio,
            Layer::Main => &self.main,
            Layer::Thumb => &self.thumb,
        };
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, layer: Layer, output: production::Output) {
        let mut lane = self.lane(layer);
        match output {
            production::Output::Open { seq, t0 } => {
                self.next_seq.fetch_max(seq.saturating_add(1), Ordering::Relaxed);
                if self.reserve(seq) {
                    self.begin(&mut lane, seq, t0.micros());
                }
            }
            production::Output::Frame(frame) => lane.frame(&frame),
            production::Output::Close { .. } => self.end(&mut lane),
        }
    }

    /// Sees to it that `seq` is reserved on the disk, and asks for more in time. Waits only when the disk has not
    /// confirmed within half of what was reserved; false when it cannot.
    fn reserve(&self, seq: u64) -> bool {
        let confirmed = || self.reserved.load(Ordering::Acquire);
        let asked = self.asked.load(Ordering::Relaxed);
        let enough = seq.saturating_add(RESERVE / 2) < asked;
        // Layers come here at the same time; one of them asks.
        let more = asked.max(seq).saturating_add(RESERVE);
        if !enough && self.asked.compare_exchange(asked, more, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let (session, reserved) = (self.session, Arc::clone(&self.reserved));
            let count = more - asked;
            // A vault that is closed confirms nothing, which is found out below.
            let _ = self.vault.then(move |archive| match archive.reserve_seqs(&session, 0, count) {
                Ok(range) => drop(reserved.fetch_max(range.end, Ordering::Release)),
                Err(error) => tracing::error!(%session, %error, "no group numbers could be reserved"),
            });
        }
        if seq >= confirmed() {
            // The vault works in order, so after this the question above was answered.
            let _ = self.vault.run(|_| ());
            if seq >= confirmed() {
                // Ask again at the next group.
                self.asked.store(confirmed(), Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    fn begin(&self, lane: &mut Lane, seq: u64, t0: u64) {
        self.end(lane);
        let Some(sealer) = self.sealer(lane.sealer.take(), lane.kind, t0) else { return };
        let (writer, head) = Writer::new(sealer, seq, t0);
        let live = self.media.publish(writer.header(), head);
        let opener = Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner).opener);
        self.stage.begin(live.reader(), opener);
        lane.open = Some(Open { writer, live });
    }

    /// What seals a group that begins at `t0`: the one before if its epoch goes on, so that its count does.
    fn sealer(&self, last: Option<Sealer>, kind: TrackKind, t0: u64) -> Option<Sealer> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let Ring { head, keys, .. } = &*ring;
        let epoch = head.epoch_at(t0);
        if let Some(last) = last.filter(|last| last.epoch() == epoch) {
            return Some(last);
        }
        let Some(key) = keys.get(&epoch) else {
            tracing::error!(session = %self.session, epoch, "the key of this epoch is not here, so nothing is sealed");
            return None;
        };
        let track = TrackId::new(self.number, kind);
        Some(Sealer::new(key, head.suite, head.id, self.me, track, epoch, Start::random()))
    }

    fn end(&self, lane: &mut Lane) {
        let Some(Open { writer, live }) = lane.open.take() else { return };
        let finished = writer.finish();
        lane.sealer = Some(finished.sealer);
        let end: Bytes = finished.end.encode();
        if !is_recorded(lane.kind) {
            live.end(end);
            return;
        }
        let (group, events, runtime) = (finished.record.id(), self.events.clone(), self.runtime.clone());
        let stored = self.vault.put(
            finished.record,
            Box::new(move |result| {
                if let Err(error) = result {
                    tracing::error!(%error, "an own group is kept by others only");
                    // The vault does not wait for anybody. The driver ends only with everything else.
                    runtime.spawn(async move { events.send(Event::Broke { group, cut: Cut::NotStored }).await });
                }
                live.end(end);
            }),
        );
        if stored.is_err() {
            tracing::warn!("a group was not kept, as the node is stopping");
        }
    }
}

impl Lane {
    fn frame(&mut self, frame: &Frame) {
        let Some(open) = &mut self.open else { return };
        let t0 = open.writer.header().t0;
        let flags = Flags { key: frame.keyframe, discardable: frame.discardable };
        match open.writer.frame(frame.at.micros().saturating_sub(t0), flags, &frame.data) {
            Ok(bytes) => open.live.append(bytes),
            Err(error) => tracing::warn!(track = %self.kind, %error, "a frame does not fit its group"),
        }
    }
}
