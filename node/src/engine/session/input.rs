//! What the session engine is told.

use std::collections::BTreeMap;

use store::id::{GroupId, Hash, NodeId, PointNumber, SessionId, TrackId};
use store::journal::{Event, LeftReason, NoteKind};
use store::keys::{Epoch, Wrap};
use store::session::Head;

use crate::engine::keeper::{self, Cut};
use crate::engine::rights::Members;
use crate::wire::control::{Last, Message, Span};

/// Names a question that waits for our answer: from a node over the mesh, or from an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The session key of one epoch for everybody who is given it: the points that take part, and the authority's recovery
/// key, which stands beside them as a recipient that is no point.
pub type Wraps = BTreeMap<NodeId, Wrap>;

/// A new session's secrets and names, made outside where randomness is.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Its id.
    pub id: SessionId,
    /// Commitment to its key of epoch 0.
    pub commitment: Hash,
    /// That key for every point that may be named, us included, and for the recovery key.
    pub wraps: Wraps,
    /// Who stands for the recovery key among them; `None` if the roster names no such key.
    pub recovery: Option<NodeId>,
    /// Wall clock, Unix milliseconds.
    pub unix_ms: u64,
}

/// Where our own tracks of a session stand on our disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// First group number that was never reserved.
    pub first_seq: u64,
    /// Numbers reserved by an earlier run and, as far as can be known, never begun.
    pub unused: Vec<Span>,
    /// Last stored group of each recorded track.
    pub tracks: Vec<Last>,
}

/// A session found in the archive when the node starts.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// Its head.
    pub head: Head,
    /// Our own tracks.
    pub own: Own,
    /// If we are its central: every wrap, by epoch.
    pub wraps: BTreeMap<Epoch, Wraps>,
    /// If we are its central: the latest epoch the journal tells of.
    pub told: Epoch,
    /// If we are its central: the latest session time in journal and groups, in microseconds.
    pub last_us: u64,
    /// If we are its central: what is stored of each track of others, and what the journal says is missing.
    pub kept: Vec<keeper::Input>,
    /// If we are its central: groups of our own that were under way when our program was cut off.
    pub cut_short: Vec<Span>,
}

/// What the engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A point is online in the mesh.
    Up {
        /// The point.
        node: NodeId,
    },
    /// A point is no longer online in the mesh.
    Down {
        /// The point.
        node: NodeId,
    },
    /// The media connection with a point stands.
    MediaUp {
        /// The point.
        node: NodeId,
    },
    /// The media connection with a point is gone.
    MediaDown {
        /// The point.
        node: NodeId,
        /// Why, for the journal.
        reason: LeftReason,
    },
    /// A point asks; answer with [`Output::Reply`](super::Output::Reply).
    Asked {
        /// Who.
        from: NodeId,
        /// Names the answer.
        ticket: Ticket,
        /// What.
        message: Message,
    },
    /// What became of [`Output::Ask`](super::Output::Ask).
    Answered {
        /// Whom we asked.
        node: NodeId,
        /// About which session.
        session: SessionId,
        /// The answer; `None` when there was none.
        answer: Option<Message>,
    },
    /// The operator starts a session; answer with [`Output::Tell`](super::Output::Tell).
    Start {
        /// Names the answer.
        ticket: Ticket,
        /// What the session is called.
        title: String,
        /// Who takes part, besides us.
        points: Vec<NodeId>,
        /// Its secrets.
        fresh: Fresh,
    },
    /// The operator ends the running session, or the one named.
    End {
        /// Names the answer.
        ticket: Ticket,
        /// Which, if named.
        session: Option<SessionId>,
        /// Wall clock, Unix milliseconds.
        unix_ms: u64,
    },
    /// The operator removes a point from the running session, or the one named; answer with [`Output::Tell`](super::Output::Tell).
    Remove {
        /// Names the answer.
        ticket: Ticket,
        /// From which, if named.
        session: Option<SessionId>,
        /// Whom.
        node: NodeId,
    },
    /// Somebody writes into the journal of the running session, or the one named; answer with [`Output::Tell`](super::Output::Tell).
    Note {
        /// Names the answer.
        ticket: Ticket,
        /// Of which, if named.
        session: Option<SessionId>,
        /// What it is about.
        kind: NoteKind,
        /// The point that it concerns, if it is one.
        node: Option<NodeId>,
        /// Who writes, if it is an account.
        by: Option<String>,
        /// What.
        text: String,
    },
    /// Who belongs to the mesh has changed. Who is no longer a point is removed from the sessions we chair.
    Roster {
        /// Who belongs to it now.
        members: Members,
    },
    /// Answer to [`Output::Rekey`](super::Output::Rekey).
    Keyed {
        /// The session.
        session: SessionId,
        /// The epoch the key is for.
        epoch: Epoch,
        /// Commitment to the key and the key for each point, us included, and for the recovery key; or why there is none.
        result: Result<(Hash, Wraps), String>,
    },
    /// Answer to [`Output::Found`](super::Output::Found), [`Output::Admit`](super::Output::Admit) and [`Output::Renew`](super::Output::Renew).
    Persisted {
        /// The session.
        session: SessionId,
        /// The present epoch of the head that was written.
        epoch: Epoch,
        /// Where our own tracks stand, or why it could not be written or opened.
        result: Result<Own, String>,
    },
    /// Answer to [`Output::Unpublish`](super::Output::Unpublish): all our groups are closed and stored.
    Closed {
        /// The session.
        session: SessionId,
        /// Where our own tracks stand.
        own: Own,
    },
    /// The archive knows this session from before the node started.
    Recall {
        /// What it knows.
        recalled: Box<Recalled>,
        /// Wall clock, Unix milliseconds.
        unix_ms: u64,
    },
    /// A clock exchange with a neighbour, on local clocks in microseconds.
    Clock {
        /// The neighbour.
        node: NodeId,
        /// When we asked.
        sent: u64,
        /// What its clock said.
        remote: u64,
        /// When we heard.
        received: u64,
    },
    /// A neighbour offers tracks.
    Announced {
        /// The neighbour.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// The tracks.
        tracks: Vec<TrackId>,
    },
    /// A live group of another point begins to arrive.
    Began(GroupId),
    /// A group broke off, or could not be kept.
    Broke {
        /// Which.
        group: GroupId,
        /// By what.
        cut: Cut,
    },
    /// A group of another point is on our disk.
    Stored(GroupId),
    /// Central: something that a point signed does not fit what is here, to be written into the journal.
    Incident {
        /// The session.
        session: SessionId,
        /// The point.
        point: PointNumber,
        /// What.
        event: Event,
    },
    /// A fetch is over; what it brought was stored, and told, before.
    Fetched {
        /// The session.
        session: SessionId,
        /// Whom we asked.
        origin: NodeId,
        /// What the origin has not got; `None` when it did not answer to the end.
        missing: Option<Vec<u64>>,
    },
    /// Time passed.
    Tick,
}
