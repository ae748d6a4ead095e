//! What the points of a simulated mesh have in common: their keys, what they send each other, what is done to them, and what
//! they are held to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use node::engine::rights::{Member, Members};
use node::engine::session::Refusal;
use simnet::host::HostId;
use store::id::{GroupId, Hash, NodeId, SessionId, TrackId};
use store::journal::Event;
use store::keys::{NodeKey, WrapKey, WrapPublic};
use store::record::Record;
use store::roster::Right;

/// What all points of a world have in common.
#[derive(Debug)]
pub(super) struct Mesh {
    /// The moment the world begins at.
    pub(super) base: Instant,
    /// Its wall clock then, Unix milliseconds.
    pub(super) wall_ms: u64,
    /// Each point's keys.
    pub(super) keys: Vec<(NodeKey, WrapKey)>,
    /// The authority's recovery key.
    pub(super) recovery: WrapPublic,
    /// How many of the points, from the first on, may chair.
    pub(super) chairs: u16,
    numbers: BTreeMap<NodeId, HostId>,
    /// The seed of the run.
    pub(super) seed: u64,
}

impl Mesh {
    /// A mesh of so many points.
    pub(super) fn new(points: u16, chairs: u16, seed: u64) -> Mesh {
        let key = |n: u16| {
            let mut bytes = [0x5a; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            (NodeKey::from_bytes(&bytes), WrapKey::from_bytes(&bytes))
        };
        let keys: Vec<_> = (0..points).map(key).collect();
        let numbers = keys.iter().zip(0..).map(|((key, _), n)| (key.id(), HostId(n))).collect();
        let recovery = WrapKey::from_bytes(&[7; 32]).public();
        // A day's start, with room before it for clocks that are wrong by years.
        let base = Instant::now() + Duration::from_secs(3_600);
        Mesh { base, wall_ms: 1_800_000_000_000, keys, recovery, chairs, numbers, seed }
    }

    /// A point's node.
    pub(super) fn node(&self, host: HostId) -> NodeId {
        self.keys[usize::from(host.0)].0.id()
    }

    /// A node's host.
    pub(super) fn host(&self, node: &NodeId) -> Option<HostId> {
        self.numbers.get(node).copied()
    }

    pub(super) fn members(&self, me: NodeId) -> Members {
        let member = |(&node, &host): (&NodeId, &HostId)| {
            let chair = (host.0 < self.chairs).then_some(Right::Chair);
            let rights = [Right::Hold, Right::Read].into_iter().chain(chair).collect();
            (node, Member { name: format!("Điểm {}", host.0 + 1), rights })
        };
        Members::new(me, self.numbers.iter().map(member).collect(), BTreeSet::new())
    }
}

/// What points send each other.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    /// A question over the mesh.
    Ask(u64, Vec<u8>),
    /// Its answer.
    Answer(u64, Vec<u8>),
    /// The local clock of the asker.
    Clock(u64),
    /// It, and that of who answers.
    ClockReply(u64, u64),
    /// What a point offers.
    Announce(SessionId, Vec<TrackId>),
    /// A group begins to arrive.
    Begin(GroupId),
    /// It is there.
    Group(Record),
    /// Past groups are asked for.
    Fetch {
        /// Names the answer.
        question: u64,
        /// First.
        from: GroupId,
        /// Last number.
        to: u64,
        /// Longest answer.
        max_bytes: u64,
    },
    /// What came of it.
    Fetched {
        /// The question.
        question: u64,
        /// What there is.
        records: Vec<Record>,
        /// What there is not.
        missing: Vec<u64>,
    },
}

/// What people do at a point, and what happens to it.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// The operator starts a session with these points.
    Start(Vec<HostId>),
    /// The operator ends the session.
    End,
    /// The operator removes a point.
    Remove(HostId),
    /// The disk loses every group.
    LoseMedia,
    /// The disk is a new one; only while the point is switched off.
    LoseDisk,
    /// The disk is full, or not any more.
    Full(bool),
    /// Writes take so much longer.
    Slow(Duration),
    /// Some stored groups change: so many in a thousand.
    Rot(u16),
    /// The wall clock is wrong by so many milliseconds.
    Wall(i64),
}

/// What a point did that others hold it to.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// It recorded a group.
    Made(GroupId, Hash),
    /// A group is on its disk.
    Kept(GroupId, Hash),
    /// A group on its disk is harmed.
    Harmed(GroupId),
    /// Every group on its disk is.
    HarmedAll,
    /// It wrote into the journal.
    Journal(SessionId, u64, Event),
    /// An entry of the journal was not written.
    NotWritten,
    /// It signed what it recorded.
    Signed,
    /// It signed what a session consists of.
    Closed,
    /// A point does not countersign.
    Objected(SessionId, HostId, String),
    /// Its operator was answered.
    Told(Result<SessionId, Refusal>),
    /// Its program has begun.
    Booted,
}
