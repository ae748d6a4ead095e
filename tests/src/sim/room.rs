//! The room of a simulated point: what a studio would record, with one small frame to a group and the size of a real one.

use std::collections::BTreeMap;
use std::time::Duration;

use simnet::rng::Rng;
use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::Epoch;
use store::record::{Flags, Record, Writer};
use store::seal::{Sealer, Start};
use store::session::Head;

use node::studio::Keys;

/// Length of a group.
pub(super) const GROUP: Duration = Duration::from_secs(2);

/// Bytes of a real group: 1.2 Mb/s of picture, a microphone.
pub(super) fn weight(kind: TrackKind) -> usize {
    match kind {
        TrackKind::Audio => 13_000,
        TrackKind::Main | TrackKind::Screen => 300_000,
        TrackKind::Thumb => 20_000,
    }
}

const KINDS: [TrackKind; 2] = [TrackKind::Audio, TrackKind::Main];

/// A room that records.
#[derive(Debug)]
pub(super) struct Room {
    /// The session's head as it was opened last: it says which key is to be used.
    pub(super) head: Head,
    /// Its keys.
    pub(super) keys: Keys,
    me: NodeId,
    number: PointNumber,
    /// The next group number, and the first that is not reserved.
    seqs: std::ops::Range<u64>,
    /// When the group under way ends, or the next attempt to begin one is made.
    turn: Duration,
    /// The group under way: session time it began at, and its number.
    open: Option<(u64, u64)>,
    sealers: BTreeMap<TrackKind, Sealer>,
}

impl Room {
    /// A room that begins now. `None` if the point has no place in the session.
    pub(super) fn new(head: Head, keys: Keys, me: NodeId, seqs: std::ops::Range<u64>) -> Option<Room> {
        let number = head.number(&me)?;
        Some(Room { head, keys, me, number, seqs, turn: Duration::ZERO, open: None, sealers: BTreeMap::new() })
    }

    /// The session.
    pub(super) fn session(&self) -> SessionId {
        self.head.id
    }

    /// When the group under way ends, or the next is tried.
    pub(super) fn turn(&self) -> Duration {
        self.turn
    }

    /// No group can begin now.
    pub(super) fn wait(&mut self, now: Duration) {
        (self.turn, self.open) = (now + GROUP, None);
    }

    /// Whether more numbers must be reserved before the next group.
    pub(super) fn wants_numbers(&self) -> bool {
        self.seqs.is_empty()
    }

    /// Further numbers.
    pub(super) fn reserved(&mut self, seqs: std::ops::Range<u64>) {
        self.seqs = seqs;
    }

    /// Begins the next group at `now`, which is `at_us` of session time; gives the groups, one of each track.
    pub(super) fn begin(&mut self, now: Duration, at_us: u64) -> Vec<GroupId> {
        let Some(seq) = self.seqs.next() else { return Vec::new() };
        (self.turn, self.open) = (now + GROUP, Some((at_us, seq)));
        self.groups(seq)
    }

    fn groups(&self, seq: u64) -> Vec<GroupId> {
        let group = |kind| GroupId { session: self.head.id, track: TrackId::new(self.number, kind), seq };
        KINDS.into_iter().map(group).collect()
    }

    /// Ends the groups under way and gives what was recorded.
    pub(super) fn end(&mut self, chance: &mut Rng) -> Vec<Record> {
        let Some((at_us, seq)) = self.open.take() else { return Vec::new() };
        let epoch = self.head.epoch_at(at_us);
        KINDS.into_iter().filter_map(|kind| self.record(kind, epoch, seq, at_us, chance)).collect()
    }

    fn record(&mut self, kind: TrackKind, epoch: Epoch, seq: u64, at_us: u64, chance: &mut Rng) -> Option<Record> {
        let key = self.keys.get(&epoch)?;
        let sealer = match self.sealers.remove(&kind) {
            Some(sealer) if sealer.epoch() == epoch => sealer,
            _ => {
                let track = TrackId::new(self.number, kind);
                let start = Start::from_bits(chance.bits());
                Sealer::new(key, self.head.suite, self.head.id, self.me, track, epoch, start)
            }
        };
        let (mut writer, _) = Writer::new(sealer, seq, at_us);
        writer.frame(0, Flags { key: true, ..Flags::default() }, &seq.to_be_bytes()).ok()?;
        let finished = writer.finish();
        self.sealers.insert(kind, finished.sealer);
        Some(finished.record)
    }
}
