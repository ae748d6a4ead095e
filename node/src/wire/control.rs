//! What nodes say to each other over the mesh about sessions: invitations, ends, and the answers to both.
//!
//! Bytes: one version byte, then the message in CBOR. The version stands outside the CBOR so that a node can refuse a
//! newer message with a clear word before it tries to understand any of it. The whole is at most [`MESSAGE_MAX`], which
//! is also what the mesh lets through, and every list and text inside has its own limit, checked once in
//! [`Message::decode`]; who holds a decoded message need not count again.
//!
//! Every message is a request with exactly one answer. Asking again is always allowed: invitations and ends are
//! repeated until they are answered, so each of them means the same the second time.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use store::id::{SessionId, TrackId};
use store::keys::Wrap;
use store::session::Head;

/// The version written, and the only one read.
pub const VERSION: u8 = 1;

/// Longest message in bytes, version included. The largest is an invitation: 256 points with names of 150 bytes are
/// about 52 KiB.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Most points one session can name on the wire. The limit an operator meets is set in the configuration, below this.
pub const POINTS_MAX: usize = 256;

/// Most media addresses one node may give; more than any PC has interfaces worth trying.
pub const ADDRESSES_MAX: usize = 16;

/// Most tracks one point may have in one session: four kinds exist, the rest is room.
pub const TRACKS_MAX: usize = 16;

/// Longest reason of a refusal, in bytes of UTF-8.
pub const REASON_MAX: usize = 300;

/// Nesting of a message: enum, structure, list, structure, and some to spare.
const DEPTH_MAX: usize = 16;

/// A message between two nodes, request or answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Central to a named point: this session runs, here is your key, come. Answered by `Accepted` or `Refused`.
    Invite(Box<Invite>),
    /// The point has stored the head and the key and will dial central's media address.
    Accepted(Accepted),
    /// The point does not do what was asked; a sentence for the operator says why.
    Refused {
        /// The session spoken of.
        session: SessionId,
        /// One sentence, at most [`REASON_MAX`] bytes.
        reason: String,
    },
    /// Central to every point of the session: it is over. Answered by `Ending`.
    End(End),
    /// The point closes its groups now and will report them by `Finished`, or never took part.
    Ending {
        /// The session spoken of.
        session: SessionId,
        /// Whether this node has anything of the session; if not, central need not wait for it.
        took_part: bool,
    },
    /// A point to central: everything of mine is stored, these were my last groups. Answered by `Wait` or `Done`.
    Finished(Finished),
    /// Central still misses groups of this point: stay connected and ask again.
    Wait {
        /// The session spoken of.
        session: SessionId,
    },
    /// Central needs nothing more from this point for this session.
    Done {
        /// The session spoken of.
        session: SessionId,
    },
}

/// An invitation into a running session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invite {
    /// What the session is; `head.central` is the sender.
    pub head: Head,
    /// The session key of `head.epoch`, readable by the recipient alone.
    pub wrap: Wrap,
    /// Where central's media endpoint listens; empty means the addresses the mesh knows, with `media_port`.
    pub media: Vec<SocketAddr>,
    /// Port of central's media endpoint.
    pub media_port: u16,
    /// Start of session time on central's local clock, in microseconds. Negative when central restarted since.
    pub origin: i64,
}

/// The answer of a point that comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The session spoken of.
    pub session: SessionId,
    /// First group number this run of the point publishes; everything it made before lies below.
    pub first_seq: u64,
    /// Group numbers below `first_seq` that an earlier run reserved and, as far as the point can know, never began.
    pub unused: Vec<Span>,
}

/// Central's word that a session is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The session that ended.
    pub session: SessionId,
    /// Wall clock of central at the end, Unix milliseconds; for display only.
    pub unix_ms: u64,
    /// Where central's media endpoint listens, for points that come back later and still owe groups.
    pub media: Vec<SocketAddr>,
    /// Port of central's media endpoint.
    pub media_port: u16,
}

/// A point's account of its own tracks after the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The session that ended.
    pub session: SessionId,
    /// Last group number of each recorded track; a track that has none was never used.
    pub tracks: Vec<Last>,
    /// As in [`Accepted::unused`].
    pub unused: Vec<Span>,
}

/// The last group of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The track.
    pub track: TrackId,
    /// Number of its last group.
    pub seq: u64,
}

/// A run of group numbers of one track, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The track.
    pub track: TrackId,
    /// First number.
    pub from: u64,
    /// Last number, not below `from`.
    pub to: u64,
}

/// Why bytes are not a message, or a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`MESSAGE_MAX`].
    #[error("a message of {0} bytes is longer than the {MESSAGE_MAX} allowed")]
    TooLong(usize),
    /// Nothing but perhaps a version.
    #[error("an empty message")]
    Empty,
    /// From a node of another version of this program.
    #[error("a message of version {0}; this program speaks version {VERSION}: update the older of the two nodes")]
    Version(u8),
    /// Not CBOR, or not of this shape.
    #[error("a message that cannot be read: {0}")]
    Malformed(String),
    /// Readable, but over a limit or against a rule.
    #[error("a message with {0}")]
    Limit(&'static str),
}

impl Message {
    /// The bytes to send. Fails when a list or text is over its limit, so that nothing leaves that nobody would read.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let mut bytes = vec![VERSION];
        ciborium::into_writer(self, &mut bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        if bytes.len() > MESSAGE_MAX {
            return Err(Error::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads one message that fills `bytes` exactly, and checks every limit.
    pub fn decode(bytes: &[u8]) -> Result<Message, Error> {
        if bytes.len() > MESSAGE_MAX {
            return Err(Error::TooLong(bytes.len()));
        }
        let (version, mut body) = bytes.split_first().ok_or(Error::Empty)?;
        if *version != VERSION {
            return Err(Error::Version(*version));
        }
        let message: Message = ciborium::de::from_reader_with_recursion_limit(&mut body, DEPTH_MAX)
            .map_err(|error| Error::Malformed(error.to_string()))?;
        if !body.is_empty() {
            return Err(Error::Malformed(format!("{} bytes after its end", body.len())));
        }
        message.check()?;
        Ok(message)
    }

    /// The session this message speaks of.
    pub fn session(&self) -> SessionId {
        match self {
            Message::Invite(invite) => invite.head.id,
            Message::Accepted(accepted) => accepted.session,
            Message::End(end) => end.session,
            Message::Finished(finished) => finished.session,
            Message::Refused { session, .. }
            | Message::Ending { session, .. }
            | Message::Wait { session }
            | Message::Done { session } => *session,
        }
    }

    /// A refusal, cut to the length allowed.
    pub fn refused(session: SessionId, reason: impl Into<String>) -> Message {
        let mut reason: String = reason.into();
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Message::Refused { session, reason }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Message::Invite(invite) => invite.check(),
            Message::Accepted(accepted) => check_spans(&accepted.unused),
            Message::Refused { reason, .. } => at_most(reason.len(), REASON_MAX, "too long a reason"),
            Message::End(end) => at_most(end.media.len(), ADDRESSES_MAX, "too many addresses"),
            Message::Finished(finished) => {
                at_most(finished.tracks.len(), TRACKS_MAX, "too many tracks")?;
                check_spans(&finished.unused)
            }
            Message::Ending { .. } | Message::Wait { .. } | Message::Done { .. } => Ok(()),
        }
    }
}

impl Invite {
    fn check(&self) -> Result<(), Error> {
        at_most(self.media.len(), ADDRESSES_MAX, "too many addresses")?;
        at_most(self.head.points.len(), POINTS_MAX, "too many points")?;
        self.head.check().map_err(|error| Error::Malformed(error.to_string()))
    }
}

fn check_spans(spans: &[Span]) -> Result<(), Error> {
    at_most(spans.len(), TRACKS_MAX, "too many spans")?;
    match spans.iter().all(|span| span.from <= span.to) {
        true => Ok(()),
        false => Err(Error::Limit("a span that ends before it begins")),
    }
}

fn at_most(found: usize, max: usize, what: &'static str) -> Result<(), Error> {
    match found <= max {
        true => Ok(()),
        false => Err(Error::Limit(what)),
    }
}
