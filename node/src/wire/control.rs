//! What nodes say to each other over the mesh about sessions: invitations, ends, and the answers to both.
//!
//! Bytes: one version byte, then the message in CBOR. The version stands outside the CBOR so that a node can refuse a
//! newer message with a clear word before it tries to understand any of it. The whole is at most [`MESSAGE_MAX`], which
//! is also what the mesh lets through, and every list and text inside has its own limit, checked once in
//! [`Message::decode`]; who holds a decoded message need not count again.
//!
//! Every message is a request with exactly one answer. Asking again is always allowed: invitations and ends are
//! repeated until they are answered, so each of them means the same the second time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use store::id::{NodeId, SessionId, TrackId};
use store::keys::{Epoch, Wrap};
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

/// Most wraps of one key that one point is given: its own, and the recovery key's.
pub const WRAPS_MAX: usize = 2;

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
    /// Central to a point it removed: the session goes on without you. Answered by `Ending`.
    Removed {
        /// The session spoken of.
        session: SessionId,
    },
    /// The point closes its groups now and will report them by `Finished`, or never took part.
    Ending {
        /// The session spoken of.
        session: SessionId,
        /// Whether this node has anything of the session; if not, central need not wait for it.
        took_part: bool,
    },
    /// A point to central: everything of mine is stored, these were my last groups. Answered by `Wait` or `Done`.
    Finished(Finished),
    /// A point to central: this session lies open in my archive, but I started anew, or was away for long. Answered by
    /// `Wait`; then central asks, as it would a point that just came online.
    Back {
        /// The session spoken of.
        session: SessionId,
    },
    /// To `Finished`: central still misses groups of this point; stay connected and ask again. To `Back`: an invitation or
    /// the end follows.
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

/// An invitation into a running session. It is sent again when the session has gone on to another key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invite {
    /// What the session is; `head.central` is the sender.
    pub head: Head,
    /// The session keys of all epochs, each readable by the recipient and, in a second wrap to be kept with it, by whoever
    /// has the authority's recovery key.
    pub wraps: BTreeMap<Epoch, BTreeMap<NodeId, Wrap>>,
    /// Where central's media endpoint listens; empty means the addresses the mesh knows, with `media_port`.
    pub media: Vec<SocketAddr>,
    /// Port of central's media endpoint.
    pub media_port: u16,
    /// Start of session time on central's local clock, in microseconds. Negative when central restarted since.
    pub origin: i64,
    /// The recipient's group numbers below this may be used already. Its own disk knows better, unless it is a new one.
    #[serde(default)]
    pub used: u64,
}

/// The answer of a point that comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The session spoken of.
    pub session: SessionId,
    /// The latest epoch whose key the point has stored.
    #[serde(default)]
    pub epoch: Epoch,
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
            | Message::Removed { session }
            | Message::Ending { session, .. }
            | Message::Back { session }
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
            Message::Removed { .. }
            | Message::Ending { .. }
            | Message::Back { .. }
            | Message::Wait { .. }
            | Message::Done { .. } => Ok(()),
        }
    }
}

impl Invite {
    /// Bytes by which an invitation grows with each epoch, generously: what the head says of it, and two wraps.
    const EPOCH_LEN: usize = 384;
    /// Bytes of all the rest.
    const REST_LEN: usize = 1_024;

    /// Whether an invitation with this head can be sent, and can still be after so many more epochs.
    pub fn fits(head: &Head, more: usize) -> bool {
        let mut bytes = Vec::new();
        let epochs = head.epochs.len() + more;
        ciborium::into_writer(head, &mut bytes).is_ok()
            && bytes.len() + epochs * Self::EPOCH_LEN + Self::REST_LEN <= MESSAGE_MAX
    }

    fn check(&self) -> Result<(), Error> {
        at_most(self.media.len(), ADDRESSES_MAX, "too many addresses")?;
        at_most(self.head.points.len(), POINTS_MAX, "too many points")?;
        at_most(self.wraps.len(), self.head.epochs.len(), "more keys than epochs")?;
        for wraps in self.wraps.values() {
            at_most(wraps.len(), WRAPS_MAX, "too many wraps of one key")?;
        }
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

#[cfg(test)]
mod tests {
    use store::id::{Hash, PointNumber, TrackKind};
    use store::keys::{SessionKey, WrapContext, WrapKey};
    use store::session::{Member, Period, State};

    use super::*;

    fn session() -> SessionId {
        SessionId::from_parts(1_700_000_000_000, [9; 10])
    }

    fn track() -> TrackId {
        TrackId::new(PointNumber::new(2).expect("a small number"), TrackKind::Audio)
    }

    /// An invitation of `count` points with names of `length` bytes.
    fn invite(count: u16, length: usize) -> Invite {
        let key = SessionKey::from_bytes(&[7; 32]);
        let context = WrapContext { session: session(), epoch: 0, recipient: NodeId::from_bytes([2; 32]) };
        let wrap = key.wrap(&WrapKey::from_bytes(&[5; 32]).public(), &context).expect("a good recipient");
        let points = (1..=count).map(|n| Member {
            number: PointNumber::new(n).expect("a small number"),
            node: NodeId::from_bytes([n.to_be_bytes()[1]; 32]),
            name: "x".repeat(length),
        });
        let head = Head {
            id: session(),
            title: "Tiếp công dân".into(),
            state: State::Open,
            central: NodeId::from_bytes([1; 32]),
            points: points.collect(),
            epochs: vec![Period::first(key.commitment())],
            suite: store::seal::Suite::default(),
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: None,
        };
        let media = vec!["10.0.0.1:7500".parse().expect("an address"), "[::1]:7500".parse().expect("an address")];
        // The second stands for the recovery key's.
        let each = BTreeMap::from([(NodeId::from_bytes([2; 32]), wrap), (NodeId::from_bytes([9; 32]), wrap)]);
        Invite { head, wraps: BTreeMap::from([(0, each)]), media, media_port: 7500, origin: -5, used: 0 }
    }

    fn each() -> Vec<Message> {
        let session = session();
        let unused = vec![Span { track: track(), from: 3, to: 9 }];
        vec![
            Message::Invite(Box::new(invite(3, 20))),
            Message::Accepted(Accepted { session, epoch: 0, first_seq: 16, unused: unused.clone() }),
            Message::refused(session, "vì lý do"),
            Message::End(End { session, unix_ms: 7, media: vec![], media_port: 7500 }),
            Message::Ending { session, took_part: true },
            Message::Finished(Finished { session, tracks: vec![Last { track: track(), seq: 40 }], unused }),
            Message::Back { session },
            Message::Wait { session },
            Message::Done { session },
            Message::Removed { session },
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in each() {
            let bytes = message.encode().expect("a message within the limits");
            assert_eq!(Message::decode(&bytes).expect("our own bytes"), message);
            assert_eq!(message.session(), session());
        }
    }

    /// Written by the first version, which other nodes may still speak: all but the invitation, whose wrap is random.
    const VERSION_1: &str = include_str!("control-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let kept: Vec<Message> = VERSION_1
            .lines()
            .map(|line| Message::decode(&hex::decode(line).expect("hex")).expect("a message of version 1"))
            .collect();
        assert_eq!(kept, each()[1..]);
    }

    #[test]
    fn a_session_of_as_many_points_as_allowed_fits() {
        let bytes = Message::Invite(Box::new(invite(255, 150))).encode().expect("it fits");
        assert!(bytes.len() <= MESSAGE_MAX && bytes.len() > MESSAGE_MAX / 2, "{} bytes", bytes.len());
    }

    #[test]
    fn an_invitation_that_is_said_to_fit_does_after_every_removal() {
        for (count, length) in [(40, 150), (120, 20), (255, 100)] {
            let mut invite = invite(count, length);
            let wraps = invite.wraps[&0].clone();
            let more = (1..256).take_while(|&more| Invite::fits(&invite.head, more)).last().unwrap_or(0);
            for number in (2..=count).take(more) {
                let removed = vec![PointNumber::new(number).expect("a small number")];
                let Ok(head) = invite.head.next(Hash::NONE, u64::MAX, removed) else { break };
                invite.wraps.insert(head.epoch(), wraps.clone());
                invite.head = head;
            }
            assert!(invite.head.epochs.len() > 25, "{count} points: {} epochs", invite.head.epochs.len());
            assert!(Message::Invite(Box::new(invite)).encode().is_ok());
        }
    }

    #[test]
    fn what_is_over_a_limit_is_neither_written_nor_read() {
        let check = |message: Message, expected: &str| {
            let error = message.encode().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
            let mut bytes = vec![VERSION];
            ciborium::into_writer(&message, &mut bytes).expect("memory");
            assert!(Message::decode(&bytes).is_err(), "{expected}");
        };
        let (session, span) = (session(), Span { track: track(), from: 3, to: 9 });
        let accepted = |unused| Message::Accepted(Accepted { session, epoch: 0, first_seq: 0, unused });
        check(accepted(vec![span; TRACKS_MAX + 1]), "too many spans");
        check(accepted(vec![Span { from: 10, ..span }]), "ends before it begins");
        check(Message::Refused { session, reason: "x".repeat(REASON_MAX + 1) }, "too long a reason");
        let tracks = vec![Last { track: track(), seq: 0 }; TRACKS_MAX + 1];
        check(Message::Finished(Finished { session, tracks, unused: vec![] }), "too many tracks");
        let mut many = invite(2, 5);
        many.media = vec![many.media[0]; ADDRESSES_MAX + 1];
        check(Message::Invite(Box::new(many)), "too many addresses");
        let mut keys = invite(2, 5);
        keys.wraps.insert(1, keys.wraps[&0].clone());
        check(Message::Invite(Box::new(keys)), "more keys than epochs");
        let mut wraps = invite(2, 5);
        let (_, wrap) = wraps.wraps[&0].first_key_value().map(|(node, wrap)| (*node, *wrap)).expect("two wraps");
        wraps.wraps.entry(0).or_default().insert(NodeId::from_bytes([7; 32]), wrap);
        check(Message::Invite(Box::new(wraps)), "too many wraps");
        let mut twice = invite(2, 5);
        twice.head.points[1].node = twice.head.points[0].node;
        check(Message::Invite(Box::new(twice)), "twice");
        let mut headless = invite(2, 5);
        headless.head.central = NodeId::from_bytes([99; 32]);
        check(Message::Invite(Box::new(headless)), "not one of its points");
    }

    #[test]
    fn a_long_reason_is_cut_between_letters() {
        let Message::Refused { reason, .. } = Message::refused(session(), "ế".repeat(200)) else { panic!() };
        assert!(reason.len() <= REASON_MAX && reason.chars().all(|c| c == 'ế'));
    }

    #[test]
    fn whatever_bytes_come_there_is_an_error_and_nothing_worse() {
        assert!(matches!(Message::decode(&[]), Err(Error::Empty)));
        assert!(matches!(Message::decode(&[2, 0xa0]), Err(Error::Version(2))));
        assert!(matches!(Message::decode(&[VERSION; MESSAGE_MAX + 1]), Err(Error::TooLong(_))));
        for message in each() {
            let bytes = message.encode().expect("a message within the limits");
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(Message::decode(&longer).is_err(), "bytes after the end");
            for at in 1..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x80;
                // Either another message or an error; what counts is that it returns.
                drop(Message::decode(&bytes));
            }
        }
        // Lengths and depths no message has.
        for bad in [
            &[0x9b, 255, 255, 255, 255, 255, 255, 255, 255][..],
            &[0x81; 60_000][..],
            &[0x5b, 127, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(Message::decode(&[&[VERSION], bad].concat()).is_err());
        }
    }
}
