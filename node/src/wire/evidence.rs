//! What points say to each other about what they signed: segments on their way to central, and manifests on their way to who
//! countersigns them.
//!
//! Bytes: the letter `E`, which begins no other message, one version byte, then the message in CBOR. A record travels whole,
//! as it was signed; it is looked at by whoever takes it, like one from a stranger.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::id::SessionId;
use store::manifest::{Countersignature, Manifest};
use store::segment::Segment;
use store::signed::Content as _;

use super::envelope::{self, Envelope, Error};

/// First byte of every such message.
pub const KIND: u8 = b'E';
/// The version written, and the only one read.
pub const VERSION: u8 = 1;
/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Longest reason of a refusal, in bytes of UTF-8.
pub const REASON_MAX: usize = 300;

/// A message between two points, request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A point to central: a segment of mine. Answered by `Wants` or `Refused`.
    Segment {
        /// The session.
        session: SessionId,
        /// The signed segment.
        record: Bytes,
    },
    /// Central to a point: I have all of your segments before this number.
    Wants {
        /// The session.
        session: SessionId,
        /// The number.
        next: u32,
    },
    /// Central to a point: this is what the session consists of; sign for your part. Answered by `Countersigned` or `Refused`.
    Manifest {
        /// The session.
        session: SessionId,
        /// The signed manifest.
        record: Bytes,
    },
    /// A point to central: what you have of me is what I signed.
    Countersigned {
        /// The session.
        session: SessionId,
        /// The signed countersignature.
        record: Bytes,
    },
    /// What was sent is not taken; a sentence says why.
    Refused {
        /// The session.
        session: SessionId,
        /// The sentence, at most [`REASON_MAX`] bytes.
        reason: String,
    },
}

const ENVELOPE: Envelope = Envelope { kind: KIND, version: VERSION, len_max: MESSAGE_MAX, about: "signed records" };

impl Message {
    /// A refusal, cut to the length allowed.
    pub fn refused(session: SessionId, reason: &str) -> Message {
        Message::Refused { session, reason: envelope::cut(reason, REASON_MAX) }
    }

    /// The session this message speaks of.
    pub fn session(&self) -> SessionId {
        match self {
            Message::Segment { session, .. }
            | Message::Wants { session, .. }
            | Message::Manifest { session, .. }
            | Message::Countersigned { session, .. }
            | Message::Refused { session, .. } => *session,
        }
    }

    /// The bytes to send.
    ///
    /// # Panics
    /// If a record is longer than its kind may be, which whoever signed it saw to.
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
            Message::Segment { record, .. } => record.len() <= Segment::LEN_MAX,
            Message::Manifest { record, .. } => record.len() <= Manifest::LEN_MAX,
            Message::Countersigned { record, .. } => record.len() <= Countersignature::LEN_MAX,
            Message::Refused { reason, .. } => reason.len() <= REASON_MAX,
            Message::Wants { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each() -> Vec<Message> {
        let session = SessionId::from_parts(1_700_000_000_000, [9; 10]);
        vec![
            Message::Segment { session, record: Bytes::from_static(b"abc") },
            Message::Wants { session, next: 7 },
            Message::Manifest { session, record: Bytes::from_static(b"abc") },
            Message::Countersigned { session, record: Bytes::from_static(b"abc") },
            Message::refused(session, "vì sao"),
        ]
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
    fn what_is_too_long_is_refused_and_a_reason_is_cut_between_letters() {
        let session = SessionId::from_parts(0, [0; 10]);
        let mut bytes = vec![KIND, VERSION];
        let long = Message::Segment { session, record: vec![0; Segment::LEN_MAX + 1].into() };
        ciborium::into_writer(&long, &mut bytes).unwrap();
        assert_eq!(Message::decode(&bytes), Err(ENVELOPE.malformed()));
        let Message::Refused { reason, .. } = Message::refused(session, &"ế".repeat(200)) else { unreachable!() };
        assert_eq!(reason, "ế".repeat(100));
        let longest = Message::Segment { session, record: vec![0; Segment::LEN_MAX].into() };
        assert_eq!(Message::decode(&longest.encode()), Ok(longest));
    }
}
