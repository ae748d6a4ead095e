//! The words of joining. Four frames in turn on one stream: the new node proves that it knows the secret, the inviting one
//! proves it too, the new node asks for its place, the inviting one answers; what the mesh knows of itself follows.
//!
//! The knocker proves first, since the host is the one a stranger can call: who knows no invite hears the same nothing
//! from every node. What it shows by that, an invite's id and a MAC over this very connection, helps nobody: there
//! are 2^80 secrets to try. Its own name, keys and addresses it says only after the host has proved itself. From then on
//! TLS protects what is said, as the proofs are bound to it.
//!
//! Each frame is CBOR behind a 16-bit length. The ALPN carries the version: other words get another one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::keys::WrapPublic;
use store::roster::{ADDRESSES_MAX, GrantId, Proof};

/// Longest frame the inviting node reads, and most it reads of one knocker in all.
pub const HEARD_MAX: usize = 8 * 1024;
/// Longest frame.
pub const FRAME_MAX: usize = 32 * 1024;
/// Longest address of a point, in bytes.
const ADDRESS_MAX: usize = 300;
/// Longest reason, in bytes.
const REASON_MAX: usize = 1024;

/// First frame: the knocker's proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knock {
    /// Which invite.
    pub invite: GrantId,
    /// `MacKey::proof` of the knocker.
    pub proof: [u8; 32],
}

/// Second frame: the host's proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// `MacKey::proof` of the host.
    pub proof: [u8; 32],
}

/// Third frame: what the new point is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The key for which session keys are to be wrapped.
    pub wrap: WrapPublic,
    /// Where its mesh may be called, as `HOST:PORT`.
    pub addresses: Vec<String>,
    /// The code's key over the invite, the node and its wrap key.
    pub proof: Proof,
    /// Its wall clock, Unix milliseconds.
    pub unix_ms: u64,
}

/// Fourth frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is a point from now on.
    Admitted {
        /// The signed admission.
        admission: Bytes,
        /// Bytes of the membership that follow, in frames of their own that are no CBOR.
        membership_len: u64,
        /// The host's wall clock, Unix milliseconds.
        unix_ms: u64,
    },
    /// Another node has come in by this invite.
    Used,
    /// It is too late.
    Expired {
        /// Until when the invite was good, Unix milliseconds.
        not_after_unix_ms: u64,
        /// The host's wall clock, Unix milliseconds.
        unix_ms: u64,
    },
    /// The invite was taken back.
    Withdrawn,
    /// The host cannot do it; a sentence for people says why.
    Unable {
        /// One sentence.
        reason: String,
    },
}

/// The bytes are no frame of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that cannot be read")]
pub struct Garbled;

/// A frame's limits, beside its length.
pub trait Frame: Serialize + for<'de> Deserialize<'de> {
    /// Whether every list and text in it is within its limit.
    fn fits(&self) -> bool {
        true
    }
}

impl Frame for Knock {}
impl Frame for Welcome {}

impl Frame for Ask {
    fn fits(&self) -> bool {
        self.addresses.len() <= ADDRESSES_MAX && self.addresses.iter().all(|address| address.len() <= ADDRESS_MAX)
    }
}

impl Frame for Answer {
    fn fits(&self) -> bool {
        match self {
            Answer::Unable { reason } => reason.len() <= REASON_MAX,
            Answer::Admitted { .. } | Answer::Used | Answer::Expired { .. } | Answer::Withdrawn => true,
        }
    }
}

impl Answer {
    /// A refusal with its sentence cut to the length allowed.
    pub fn unable(mut reason: String) -> Self {
        let end = (0..=REASON_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
        reason.truncate(end.unwrap_or_default());
        Answer::Unable { reason }
    }
}

/// A frame's bytes, without their length.
///
/// # Panics
/// If it is longer than [`FRAME_MAX`] or over another limit, which the callers' own limits rule out.
pub fn encode(frame: &impl Frame) -> Bytes {
    let mut bytes = Vec::new();
    ciborium::into_writer(frame, &mut bytes).expect("writing into memory does not fail");
    assert!(bytes.len() <= FRAME_MAX && frame.fits(), "a frame of ours is within the limits");
    bytes.into()
}

/// The frame that fills `bytes`.
pub fn decode<F: Frame>(bytes: &[u8]) -> Result<F, Garbled> {
    let mut rest = bytes;
    let read: Result<F, _> = ciborium::de::from_reader_with_recursion_limit(&mut rest, 16);
    read.ok().filter(|frame| rest.is_empty() && frame.fits()).ok_or(Garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask {
            wrap: WrapPublic::from_bytes([1; 32]),
            addresses: vec!["10.0.0.1:7400".into()],
            proof: Proof::from_bytes([2; 64]),
            unix_ms: 1_700_000_000_000,
        }
    }

    fn each() -> [Bytes; 7] {
        let admission = Bytes::from_static(b"admission");
        [
            encode(&Knock { invite: GrantId::from_bytes([3; 16]), proof: [4; 32] }),
            encode(&Welcome { proof: [5; 32] }),
            encode(&ask()),
            encode(&Answer::Admitted { admission, membership_len: 9, unix_ms: 7 }),
            encode(&Answer::Used),
            encode(&Answer::Expired { not_after_unix_ms: 5, unix_ms: 6 }),
            encode(&Answer::unable("vì lý do".into())),
        ]
    }

    #[test]
    fn the_first_version_is_read_for_ever() {
        let written: Vec<String> = each().iter().map(hex::encode).collect();
        assert_eq!(written, V1.lines().collect::<Vec<_>>());
        assert_eq!(decode(&each()[2]), Ok(ask()));
        assert_eq!(decode(&each()[4]), Ok(Answer::Used));
    }

    const V1: &str = include_str!("wire-v1.hex");

    #[test]
    fn what_is_over_a_limit_is_not_read() {
        let mut many = ask();
        many.addresses = vec!["a:1".into(); ADDRESSES_MAX + 1];
        let mut long = ask();
        long.addresses = vec!["x".repeat(ADDRESS_MAX + 1)];
        for wrong in [many, long] {
            let mut bytes = Vec::new();
            ciborium::into_writer(&wrong, &mut bytes).unwrap();
            assert_eq!(decode::<Ask>(&bytes), Err(Garbled));
        }
        let Answer::Unable { reason } = Answer::unable("ế".repeat(1000)) else { panic!() };
        assert!(reason.len() <= REASON_MAX && reason.chars().all(|c| c == 'ế'));
    }

    #[test]
    fn whatever_bytes_come_there_is_an_error_and_nothing_worse() {
        for frame in each() {
            for end in 0..frame.len() {
                assert_eq!(decode::<Knock>(&frame[..end]), Err(Garbled));
                assert_eq!(decode::<Ask>(&frame[..end]), Err(Garbled));
                assert_eq!(decode::<Answer>(&frame[..end]), Err(Garbled));
            }
            let mut longer = frame.to_vec();
            longer.push(0);
            assert_eq!(decode::<Answer>(&longer), Err(Garbled));
        }
        for bad in
            [&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255][..], &[0x81; 8_000], &[0x5b, 127, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(decode::<Ask>(bad), Err(Garbled));
            assert_eq!(decode::<Answer>(bad), Err(Garbled));
        }
    }
}
