//! What the session engine wants done, and what people may see of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use store::id::{NodeId, PointNumber, SessionId, TrackId};
use store::journal::Event;
use store::keys::Epoch;
use store::session::Head;

use super::{Ticket, Wraps};
use crate::engine::clock::Line;
use crate::engine::keeper;
use crate::wire::control::Message;

/// What the engine wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Central: write a new session's head and wraps; answer with
    /// [`Input::Persisted`](super::Input::Persisted).
    Found {
        /// The head.
        head: Head,
        /// The key for each point, and for the recovery key.
        wraps: Wraps,
    },
    /// Delegate: open our wraps, check them against the head, write all; answer with
    /// [`Input::Persisted`](super::Input::Persisted). Comes again with every new epoch.
    Admit {
        /// The head.
        head: Head,
        /// The keys for us, by epoch, with those for the recovery key.
        wraps: BTreeMap<Epoch, Wraps>,
        /// Our group numbers below this may be used already.
        used: u64,
    },
    /// Central: make a key and wrap it; answer with [`Input::Keyed`](super::Input::Keyed).
    Rekey {
        /// The session.
        session: SessionId,
        /// The epoch it is for.
        epoch: Epoch,
        /// Whom it is for beside the recovery key, us included.
        points: Vec<NodeId>,
    },
    /// Central: write the head with its new epoch, and that epoch's wraps before it; answer with
    /// [`Input::Persisted`](super::Input::Persisted).
    Renew {
        /// The head.
        head: Head,
        /// The new epoch's key for each point, and for the recovery key.
        wraps: Wraps,
    },
    /// Cut a point off from this session: it is sent nothing of it any more, and nothing of it is taken from it.
    Expel {
        /// The session.
        session: SessionId,
        /// The point.
        node: NodeId,
    },
    /// Write a changed head.
    Update {
        /// The head.
        head: Head,
    },
    /// Central: append to the journal.
    Journal {
        /// The session.
        session: SessionId,
        /// Session time in microseconds.
        at: u64,
        /// What happened.
        event: Event,
    },
    /// Let the points that take part exchange tracks with us, with the keys known so far. Comes again when points or
    /// keys changed.
    Open {
        /// The session.
        head: Head,
    },
    /// The session is over and nobody owes anything: forget it outside the archive.
    Close {
        /// The session.
        session: SessionId,
    },
    /// Keep a media connection to this point.
    Dial {
        /// The point.
        node: NodeId,
        /// Where its media endpoint listens; empty means at the addresses the mesh knows.
        addresses: Vec<SocketAddr>,
        /// Its media port.
        port: u16,
    },
    /// No more need for a media connection to this point.
    HangUp {
        /// The point.
        node: NodeId,
    },
    /// Encode, seal, keep and send our room from this group number on.
    Publish {
        /// The session.
        session: SessionId,
        /// Our tracks.
        tracks: Vec<TrackId>,
        /// First group number.
        first_seq: u64,
    },
    /// Close our groups and stop; answer with [`Input::Closed`](super::Input::Closed) once all is stored.
    Unpublish {
        /// The session.
        session: SessionId,
    },
    /// Ask for these tracks live; replaces what was asked of this neighbour before.
    Subscribe {
        /// The neighbour.
        from: NodeId,
        /// The session.
        session: SessionId,
        /// Tracks with their importance, 7 the highest.
        tracks: Vec<(TrackId, u8)>,
    },
    /// Session time from now on.
    Clock {
        /// The session.
        session: SessionId,
        /// Local to session time.
        line: Line,
    },
    /// Fetch past groups, store them, tell [`Input::Stored`](super::Input::Stored) of each, then [`Input::Fetched`](super::Input::Fetched).
    Fetch {
        /// The session.
        session: SessionId,
        /// Whom to ask.
        origin: NodeId,
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Longest answer in bytes.
        max_bytes: u64,
    },
    /// Ask a point over the mesh; answer with [`Input::Answered`](super::Input::Answered) in every case.
    Ask {
        /// Whom.
        node: NodeId,
        /// What.
        message: Message,
    },
    /// Answer a point.
    Reply {
        /// The question.
        ticket: Ticket,
        /// The answer.
        message: Message,
    },
    /// Answer the operator.
    Tell {
        /// The question.
        ticket: Ticket,
        /// The session, or why not.
        outcome: Result<SessionId, Refusal>,
    },
}

/// Why an operator's command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One at a time.
    #[error("session {0} is running here; end it first")]
    Busy(SessionId),
    /// Nobody could open the recording when the points' own keys are lost.
    #[error(
        "this node's roster names no recovery key, so what is recorded could be lost with the points' keys: have the \
         authority sign a roster that names one"
    )]
    NoRecovery,
    /// Nobody to talk to.
    #[error("name at least one other point")]
    Alone,
    /// Not in the roster.
    #[error("{0} is not a point of this node's roster")]
    Unknown(NodeId),
    /// No key was wrapped for it.
    #[error("{0} has no wrapping key in this node's roster")]
    NoKey(NodeId),
    /// Over the limit.
    #[error("{named} points are more than the {max} this node allows in one session (session.points_max)")]
    TooMany {
        /// Central included.
        named: usize,
        /// The limit.
        max: usize,
    },
    /// A title or name nobody can print.
    #[error("{0}")]
    Text(String),
    /// Nothing to end.
    #[error("no session is running here")]
    NotRunning,
    /// Another session than the running one was named.
    #[error("session {0} is not running here")]
    Other(SessionId),
    /// Only central ends a session or removes points.
    #[error("only its central point, {0}, can do that in this session")]
    NotCentral(String),
    /// Not in the session.
    #[error("{0} does not take part in this session")]
    NotThere(NodeId),
    /// Central cannot go without the others.
    #[error("this point is central of the session: end it instead")]
    Central,
    /// No key is left.
    #[error(transparent)]
    Epochs(#[from] store::session::Error),
    /// It is ending already.
    #[error("session {0} is already ending")]
    Ending(SessionId),
    /// The disk refused.
    #[error("the session could not be written: {0}")]
    Storage(String),
}

/// What people may see of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The running session.
    pub session: Option<Running>,
    /// Sessions that are over while somebody still owes groups.
    pub past: Vec<SessionId>,
}

/// A running session as people may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: SessionId,
    /// Its title.
    pub title: String,
    /// Its central point.
    pub central: NodeId,
    /// One word for what is going on.
    pub phase: &'static str,
    /// Session time in microseconds, once known.
    pub time_us: Option<u64>,
    /// How wrong that may be here.
    pub time_error_us: Option<u64>,
    /// Its points.
    pub points: Vec<Seat>,
    /// At central: the record, track by track.
    pub record: BTreeMap<TrackId, keeper::Standing>,
}

/// A point in a running session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number.
    pub number: PointNumber,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether its media connection stands and it takes part. A delegate knows this of itself and central only.
    pub joined: bool,
    /// Whether it was removed. It stays named, since what it recorded before stays.
    pub removed: bool,
}
