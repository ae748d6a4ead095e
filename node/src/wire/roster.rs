//! What points say to each other about the mesh itself: what each knows of it, and the records the other lacks.
//!
//! Bytes: the letter `R`, which begins no message about sessions, one version byte, then the message in CBOR. A roster of
//! a whole province is longer than a message may be, so records go in parts, named by the hash of the whole: whoever
//! puts parts together knows that they are the record that was meant before he looks into it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::id::Hash;

use super::envelope::{self, Envelope, Error};

/// First byte of every such message.
pub const KIND: u8 = b'R';
/// The version written, and the only one read.
pub const VERSION: u8 = 1;
/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Bytes of a record in one part.
pub const PART_MAX: usize = 48 * 1024;
/// Admissions one can tell of at once. A few wait between two rosters; what is beyond is told when these are absorbed.
pub const ADMISSIONS_MAX: usize = 1024;

/// A message between two points, request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// This is what I know. Answered by the same from the other side.
    News(News),
    /// Give me this record from this byte on. Answered by `Part` or `Gone`.
    Get {
        /// Hash of the record.
        item: Hash,
        /// First byte wanted.
        from: u64,
    },
    /// A part of a record.
    Part {
        /// Bytes of the whole record.
        total: u64,
        /// The bytes asked for, at most [`PART_MAX`].
        bytes: Bytes,
    },
    /// I have it no more: something newer took its place.
    Gone,
}

/// What a node knows of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Number of its roster.
    pub number: u64,
    /// Hash of its roster.
    pub roster: Hash,
    /// Hashes of the admissions beside it.
    pub admissions: Vec<Hash>,
}

const ENVELOPE: Envelope = Envelope { kind: KIND, version: VERSION, len_max: MESSAGE_MAX, about: "the roster" };

impl Message {
    /// The bytes to send.
    ///
    /// # Panics
    /// If a limit is exceeded, which the engine that makes messages keeps.
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
            Message::News(news) => news.admissions.len() <= ADMISSIONS_MAX,
            Message::Part { bytes, .. } => bytes.len() <= PART_MAX,
            Message::Get { .. } | Message::Gone => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each() -> Vec<Message> {
        let hash = Hash::of(b"x");
        vec![
            Message::News(News { number: 7, roster: hash, admissions: vec![Hash::NONE] }),
            Message::Get { item: hash, from: 49_152 },
            Message::Part { total: 3, bytes: Bytes::from_static(b"abc") },
            Message::Gone,
        ]
    }

    /// Written by the first version, which other nodes may still speak.
    const VERSION_1: &str = include_str!("roster-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        assert_eq!(
            each().iter().map(|m| hex::encode(m.encode())).collect::<Vec<_>>(),
            VERSION_1.lines().collect::<Vec<_>>()
        );
        let kept = VERSION_1.lines().map(|line| Message::decode(&hex::decode(line).expect("hex")).expect("version 1"));
        assert_eq!(kept.collect::<Vec<_>>(), each());
    }

    #[test]
    fn the_longest_messages_fit() {
        let full = Message::Part { total: 1 << 40, bytes: vec![7; PART_MAX].into() };
        let many =
            Message::News(News { number: u64::MAX, roster: Hash::NONE, admissions: vec![Hash::NONE; ADMISSIONS_MAX] });
        for message in [full, many] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn whatever_bytes_come_there_is_an_error_and_nothing_worse() {
        assert_eq!(Message::decode(&[KIND, 2, 0xf6]), Err(ENVELOPE.of_version(2)));
        for message in each() {
            let bytes = message.encode();
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert_eq!(Message::decode(&longer), Err(ENVELOPE.malformed()));
        }
        let over = Message::Part { total: 1, bytes: vec![7; PART_MAX + 1].into() };
        let mut bytes = vec![KIND, VERSION];
        ciborium::into_writer(&over, &mut bytes).expect("memory");
        assert_eq!(Message::decode(&bytes), Err(ENVELOPE.malformed()));
        for bad in
            [&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255][..], &[0x81; 60_000], &[0x5b, 127, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Message::decode(&[&[KIND, VERSION], bad].concat()), Err(ENVELOPE.malformed()));
        }
    }
}
