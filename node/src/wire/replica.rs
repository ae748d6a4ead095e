//! What nodes say to each other about copies: would you hold this, do you still, and give me its record. The groups themselves
//! are fetched over the media plane.
//!
//! Bytes: the letter `C`, which begins no other message, one version byte, then the message in CBOR. A question for part of a
//! record carries the assignment that gives a right to it, so whoever answers need remember nothing of who asks. Records
//! travel as the pieces of one run of bytes, since a journal or a head of a large session does not fit into a message.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::id::{PointNumber, SessionId, TrackId};
use store::receipt::{Assignment, Receipt};
use store::signed::Content as _;

use super::envelope::{self, Envelope, Error};

/// First byte of every such message.
pub const KIND: u8 = b'C';
/// The version written, and the only one read.
pub const VERSION: u8 = 1;
/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Longest piece of a run in bytes.
pub const PIECE_MAX: usize = 56 * 1024;
/// Longest run that is fetched: the segments of one point of a session that went on for three days.
pub const RUN_MAX: u64 = 64 << 20;
/// Longest reason of a refusal, in bytes of UTF-8.
pub const REASON_MAX: usize = 300;

/// A part of a session's record, as one run of bytes: records one after the other, each behind its length in four bytes, if
/// nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The head alone, as it is stored.
    Head,
    /// The journal's entries.
    Journal,
    /// A point's segments.
    Segments(PointNumber),
    /// The manifests.
    Manifests,
    /// The countersignatures of all manifests.
    Countersigned,
    /// The wrapped keys: epoch (1 byte), recipient (32), wrap each.
    Wraps,
    /// Which groups of a track are there: an inventory alone.
    Have(TrackId),
    /// The receipts of those who hold copies.
    Receipts,
}

/// A message between two points, request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Hold this session, or say whether you still do. Answered by `Holds`, `Takes` or `Refused`.
    Offer {
        /// The session.
        session: SessionId,
        /// The signed assignment.
        record: Bytes,
    },
    /// I have all of it. An answer, or told by itself when a copy has become whole; then answered by `Noted`.
    Holds {
        /// The session.
        session: SessionId,
        /// The signed receipt.
        record: Bytes,
        /// What I offer to hold for others, in gigabytes.
        offers: u32,
    },
    /// I shall have it.
    Takes {
        /// The session.
        session: SessionId,
        /// What I offer to hold for others, in gigabytes.
        offers: u32,
    },
    /// You told me to hold this, I have not got all of it, and have been away. Answered by `Noted`; an offer follows.
    Resumes {
        /// The session.
        session: SessionId,
    },
    /// It is kept in mind.
    Noted {
        /// The session.
        session: SessionId,
    },
    /// Give me this part of the session's record, from this byte on. Answered by `Piece` or `Refused`.
    Ask {
        /// The session.
        session: SessionId,
        /// The signed assignment of who asks.
        record: Bytes,
        /// Which part.
        part: Part,
        /// From where.
        from: u64,
    },
    /// A piece of a part.
    Piece {
        /// The session.
        session: SessionId,
        /// How long the part is, all in all.
        len: u64,
        /// Its bytes from where was asked.
        bytes: Bytes,
    },
    /// Groups of a session that were here are lost from my disk: let me fetch them. Answered by `Order` or `Refused`.
    Lacks {
        /// The session.
        session: SessionId,
    },
    /// An assignment of yours, which gives a right to fetch.
    Order {
        /// The session.
        session: SessionId,
        /// The signed assignment.
        record: Bytes,
    },
    /// No; a sentence says why.
    Refused {
        /// The session.
        session: SessionId,
        /// The sentence, at most [`REASON_MAX`] bytes.
        reason: String,
    },
}

const ENVELOPE: Envelope = Envelope { kind: KIND, version: VERSION, len_max: MESSAGE_MAX, about: "copies" };

impl Message {
    /// A refusal, cut to the length allowed.
    pub fn refused(session: SessionId, reason: &str) -> Message {
        Message::Refused { session, reason: envelope::cut(reason, REASON_MAX) }
    }

    /// The session this message speaks of.
    pub fn session(&self) -> SessionId {
        match self {
            Message::Offer { session, .. }
            | Message::Holds { session, .. }
            | Message::Takes { session, .. }
            | Message::Resumes { session }
            | Message::Noted { session }
            | Message::Lacks { session }
            | Message::Order { session, .. }
            | Message::Ask { session, .. }
            | Message::Piece { session, .. }
            | Message::Refused { session, .. } => *session,
        }
    }

    /// The bytes to send.
    ///
    /// # Panics
    /// If a record or piece is longer than it may be, which whoever made it saw to.
    pub fn encode(&self) -> Bytes {
        ENVELOPE.seal(self)
    }

    /// Reads one message that fills `bytes` exactly, and checks every limit.
    pub fn decode(bytes: &[u8]) -> Result<Message, Error> {
        ENVELOPE.open(bytes)
    }
}

impl envelope::Message for Message {
    fn fits(&self) -> bool {
        match self {
            Message::Offer { record, .. } | Message::Ask { record, .. } | Message::Order { record, .. } => {
                record.len() <= Assignment::LEN_MAX
            }
            Message::Holds { record, .. } => record.len() <= Receipt::LEN_MAX,
            Message::Piece { len, bytes, .. } => bytes.len() <= PIECE_MAX && *len <= RUN_MAX,
            Message::Refused { reason, .. } => reason.len() <= REASON_MAX,
            Message::Takes { .. } | Message::Resumes { .. } | Message::Noted { .. } | Message::Lacks { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use store::id::TrackKind;

    use super::*;

    fn each() -> Vec<Message> {
        let session = SessionId::from_parts(1_700_000_000_000, [9; 10]);
        let record = Bytes::from_static(b"abc");
        let point = PointNumber::new(3).unwrap();
        let ask = |part| Message::Ask { session, record: record.clone(), part, from: 70_000 };
        let mut each = vec![
            Message::Offer { session, record: record.clone() },
            Message::Holds { session, record: record.clone(), offers: 100 },
            Message::Takes { session, offers: 100 },
            Message::Resumes { session },
            Message::Noted { session },
            Message::Piece { session, len: 70_003, bytes: record.clone() },
            Message::Lacks { session },
            Message::Order { session, record: record.clone() },
            Message::refused(session, "vì sao"),
        ];
        each.extend([Part::Head, Part::Journal, Part::Segments(point), Part::Manifests, Part::Countersigned].map(ask));
        each.extend([Part::Wraps, Part::Have(TrackId::new(point, TrackKind::Main)), Part::Receipts].map(ask));
        each
    }

    #[test]
    fn every_message_is_read_as_it_was_written_and_never_in_part() {
        for message in each() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            (0..bytes.len()).for_each(|len| assert!(Message::decode(&bytes[..len]).is_err()));
            assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), Err(ENVELOPE.malformed()));
            let mut newer = bytes.to_vec();
            newer[1] = 2;
            assert_eq!(Message::decode(&newer), Err(ENVELOPE.of_version(2)));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_and_the_longest_fits() {
        let session = SessionId::from_parts(0, [0; 10]);
        let check = |message: Message, good: bool| {
            let mut bytes = vec![KIND, VERSION];
            ciborium::into_writer(&message, &mut bytes).unwrap();
            assert_eq!(Message::decode(&bytes).is_ok(), good, "{} bytes", bytes.len());
        };
        let piece = |len, whole| Message::Piece { session, len: whole, bytes: vec![0; len].into() };
        check(piece(PIECE_MAX, RUN_MAX), true);
        check(piece(PIECE_MAX + 1, RUN_MAX), false);
        check(piece(1, RUN_MAX + 1), false);
        check(Message::Offer { session, record: vec![0; Assignment::LEN_MAX].into() }, true);
        check(Message::Offer { session, record: vec![0; Assignment::LEN_MAX + 1].into() }, false);
        let long = vec![0; Receipt::LEN_MAX + 1].into();
        check(Message::Holds { session, record: long, offers: 0 }, false);
        let Message::Refused { reason, .. } = Message::refused(session, &"ế".repeat(200)) else { unreachable!() };
        assert_eq!(reason, "ế".repeat(100));
    }
}
