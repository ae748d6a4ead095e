//! What messages between nodes have around them: a letter that says of what they are, one version byte, then the message in
//! CBOR (RFC 8949) to the end. A message of another version is told apart from one that is none.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Nesting of CBOR in one message. None of ours comes near it, and a deeper one would cost a stack.
const NESTING_MAX: usize = 16;

/// The envelope of one kind of message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    /// The letter, which begins no other kind.
    pub(super) kind: u8,
    /// The version written, and the only one read.
    pub(super) version: u8,
    /// Longest message in bytes, envelope included.
    pub(super) len_max: usize,
    /// Of what the messages are, in a word.
    pub(super) about: &'static str,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// From a node of another version of this program.
    #[error("a message about {about} of version {found}; this program speaks version {known}: update the older node")]
    Version {
        /// Of what.
        about: &'static str,
        /// Its version.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// Not CBOR, not of this shape, or over a limit.
    #[error("a message about {0} that cannot be read")]
    Malformed(&'static str),
}

/// A message, with the limits of its parts.
pub(super) trait Message: Serialize + DeserializeOwned {
    /// Whether every part is within its limit.
    fn fits(&self) -> bool;
}

impl Envelope {
    /// The bytes to send.
    ///
    /// # Panics
    /// If a limit is exceeded, which whoever makes messages keeps.
    pub(super) fn seal<M: Message>(&self, message: &M) -> Bytes {
        let mut bytes = vec![self.kind, self.version];
        ciborium::into_writer(message, &mut bytes).expect("writing into memory does not fail");
        assert!(bytes.len() <= self.len_max && message.fits(), "a message of ours is within the limits");
        bytes.into()
    }

    /// Reads one message that fills `bytes` exactly, and checks every limit.
    pub(super) fn open<M: Message>(&self, bytes: &[u8]) -> Result<M, Error> {
        let rest = bytes.strip_prefix(&[self.kind]).filter(|_| bytes.len() <= self.len_max);
        let (version, mut body) = rest.and_then(<[u8]>::split_first).ok_or(self.malformed())?;
        if *version != self.version {
            return Err(self.of_version(*version));
        }
        let read: Result<M, _> = ciborium::de::from_reader_with_recursion_limit(&mut body, NESTING_MAX);
        read.ok().filter(|message| body.is_empty() && message.fits()).ok_or(self.malformed())
    }

    pub(super) fn malformed(&self) -> Error {
        Error::Malformed(self.about)
    }

    pub(super) fn of_version(&self, found: u8) -> Error {
        Error::Version { about: self.about, found, known: self.version }
    }
}

/// A sentence of at most so many bytes, cut between letters.
pub(super) fn cut(sentence: &str, len_max: usize) -> String {
    let end = (0..=sentence.len().min(len_max)).rfind(|&end| sentence.is_char_boundary(end)).unwrap_or(0);
    sentence[..end].to_owned()
}
