//! What a node that lost its archive asks the others: which of its sessions they know, and their record. The groups themselves
//! are fetched over the media plane, like copies.
//!
//! Bytes: the letter `V`, which begins no other message, one version byte, then the message in CBOR. Nothing is shown beside:
//! who asks has a right to a session by its part in it, or by the part of the node whose place the roster says it has taken, or
//! by its receipt. A list comes in pages, each after the last session of the one before, so whoever answers remembers nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::id::SessionId;

use super::envelope::{self, Envelope, Error};
use super::replica::{PIECE_MAX, Part, REASON_MAX, RUN_MAX};

/// First byte of every such message.
pub const KIND: u8 = b'V';
/// The version written, and the only one read.
pub const VERSION: u8 = 1;
/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Most sessions in one message.
pub const PAGE_MAX: usize = 400;

/// A session that somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which.
    pub session: SessionId,
    /// Number of the last manifest, if the record up to it is there, with the journal and everybody's segments.
    pub record: Option<u32>,
    /// Whether all groups are there too.
    pub whole: bool,
}

/// A message between two points, request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Which sessions do you know that I had? Answered by `Sessions`.
    List {
        /// After this one.
        after: Option<SessionId>,
    },
    /// These.
    Sessions {
        /// By start, at most [`PAGE_MAX`].
        sessions: Vec<Known>,
        /// Whether there are more after the last.
        more: bool,
    },
    /// Give me this part of a session's record, from this byte on. Answered by `Piece` or `Refused`.
    Ask {
        /// The session.
        session: SessionId,
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
    /// No; a sentence says why.
    Refused {
        /// The sentence.
        reason: String,
    },
}

const ENVELOPE: Envelope = Envelope { kind: KIND, version: VERSION, len_max: MESSAGE_MAX, about: "recovery" };

impl Message {
    /// A refusal, cut to the length allowed.
    pub fn refused(reason: &str) -> Message {
        Message::Refused { reason: envelope::cut(reason, REASON_MAX) }
    }

    /// The bytes to send.
    ///
    /// # Panics
    /// If a list or piece is longer than it may be, which whoever made it saw to.
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
            Message::Sessions { sessions, more } => {
                let rising = sessions.windows(2).all(|pair| pair[0].session < pair[1].session);
                sessions.len() <= PAGE_MAX && rising && !(*more && sessions.is_empty())
            }
            Message::Piece { len, bytes, .. } => bytes.len() <= PIECE_MAX && *len <= RUN_MAX,
            Message::Refused { reason } => reason.len() <= REASON_MAX,
            Message::List { .. } | Message::Ask { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(n: u64) -> Known {
        Known { session: SessionId::from_parts(n, [9; 10]), record: Some(u32::MAX), whole: true }
    }

    #[test]
    fn every_message_is_read_as_it_was_written_and_never_in_part() {
        let session = known(1).session;
        let full = Message::Sessions { sessions: (0..PAGE_MAX as u64).map(known).collect(), more: true };
        let each = [
            Message::List { after: None },
            Message::List { after: Some(session) },
            Message::Ask { session, part: Part::Head, from: 7 },
            Message::Ask { session, part: Part::Receipts, from: 0 },
            Message::Piece { session, len: 70_003, bytes: Bytes::from_static(b"abc") },
            Message::refused("vì sao"),
            Message::Sessions { sessions: vec![known(1)], more: false },
        ];
        assert_eq!(Message::decode(&full.encode()), Ok(full));
        for message in each {
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
    fn a_list_that_goes_back_or_never_ends_is_none() {
        let check = |sessions: Vec<Known>, more, good| {
            let mut bytes = vec![KIND, VERSION];
            ciborium::into_writer(&Message::Sessions { sessions, more }, &mut bytes).unwrap();
            assert_eq!(Message::decode(&bytes).is_ok(), good);
        };
        check(vec![], false, true);
        check(vec![], true, false);
        check(vec![known(1), known(2)], true, true);
        check(vec![known(2), known(1)], false, false);
        check(vec![known(1), known(1)], false, false);
        check((0..=PAGE_MAX as u64).map(known).collect(), false, false);
    }
}
