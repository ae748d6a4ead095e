//! The media plane's own words: stream kinds, control messages, fetch and probe, their bytes and limits.
//!
//! A neighbour is one QUIC connection for live media and one for copies, told apart by ALPN. On each, the side that
//! dialled opens one bidirectional *control* stream. Groups and probes are unidirectional streams whose first byte
//! names their kind; a fetch is a bidirectional stream of its own. Control messages are CBOR (RFC 8949) behind a
//! 16-bit length: small, few, and readable by any tool, whereas the bytes of a group are a fixed layout
//! (`store::record`) because they are hashed. The model (announce, subscribe, fetch, probe; track, group, frame) is
//! that of Media over QUIC (draft-ietf-moq-transport).

use serde::{Deserialize, Serialize};
use store::id::{SessionId, TrackId};

/// The ALPN (RFC 7301) of a connection that carries live groups. A new version of these words is a new name.
pub const ALPN_LIVE: &[u8] = b"diemcau-live/1";
/// The ALPN of a connection that carries copies of stored groups.
pub const ALPN_COPY: &[u8] = b"diemcau-copy/1";

/// The ALPN of a connection of a node that wants to join; its words are `join::wire`.
pub const ALPN_JOIN: &[u8] = b"diemcau join 1";

/// First byte of a unidirectional stream that carries one group as it is made.
pub const STREAM_GROUP: u8 = 0x01;
/// First byte of a unidirectional stream of padding that measures the line.
pub const STREAM_PROBE: u8 = 0x02;

/// Longest control message or fetch request, in bytes.
pub const MESSAGE_LEN_MAX: usize = 16 * 1024;
/// Most tracks one announcement may name: 130 points with three tracks each.
pub const TRACKS_MAX: usize = 512;
/// Most bytes of one probe: what a 5 Mb/s line carries in 0.8 s.
pub const PROBE_LEN_MAX: u64 = 512 * 1024;
/// Most groups one fetch may ask for.
pub const FETCH_GROUPS_MAX: u64 = 64;
/// Most bytes one fetch may bring.
pub const FETCH_LEN_MAX: u64 = 32 * 1024 * 1024;
/// Longest group that is passed on live. A 2 s group at 2.5 Mb/s is 0.6 MB; anything near this bound is an attack.
pub const LIVE_GROUP_LEN_MAX: usize = 4 * 1024 * 1024;

/// Why a stream was reset, as a QUIC application error code (RFC 9000, 20.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// The line is too slow for this group; the next one may come. The whole stays at its origin, to be fetched.
    Shed = 1,
    /// A newer group of the track took its place.
    Late = 2,
    /// The source ended the group early: its own line or program failed.
    Broken = 3,
    /// The bytes are not what this version speaks.
    Malformed = 4,
    /// The sender may not send this.
    Refused = 5,
    /// Nobody here wants it.
    Unwanted = 6,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// The node stops, or the session is over.
    Done = 0,
    /// The peer is not in the roster.
    Stranger = 1,
    /// The peer broke the rules of this protocol.
    Malformed = 2,
    /// A newer connection from the same peer took its place.
    Replaced = 3,
    /// Nothing was heard for too long.
    Silent = 4,
    /// Too many connections.
    Busy = 5,
    /// The peer was removed from the session.
    Removed = 6,
}

/// One message on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// These tracks of a session can be had here; replaces what was announced before for the session.
    Announce { session: SessionId, tracks: Vec<TrackId> },
    /// Send this track's groups as they come, beginning with the open one.
    Subscribe { session: SessionId, track: TrackId, priority: u8 },
    /// Send it no longer.
    Unsubscribe { session: SessionId, track: TrackId },
    /// Begin a new group of this track soon.
    Keyframe { session: SessionId, track: TrackId },
    /// What is the time there? `sent` is the asker's clock, microseconds.
    Clock { sent: u64 },
    /// The answer: the question's `sent`, and the answerer's clock when it came.
    ClockReply { sent: u64, remote: u64 },
    /// A probe arrived: bytes of its second half and the microseconds they took.
    Probed { bytes: u64, micros: u64 },
}

/// What a fetch asks for: groups `from..=to` of one track, as many as fit `len_max` bytes, from the lowest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    pub session: SessionId,
    pub track: TrackId,
    pub from: u64,
    pub to: u64,
    pub len_max: u64,
}

/// Before each group of a fetch's answer: which one, and its length in bytes, or `None` when it is not held there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchItem {
    pub seq: u64,
    pub len: Option<u64>,
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sender is broken or hostile, or speaks a version we do not.
    #[error("a message of {0} bytes is longer than {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// As above.
    #[error("a message cannot be read: {0}")]
    Malformed(String),
}

/// A message behind its 16-bit length.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0, 0];
    ciborium::into_writer(message, &mut bytes).map_err(|error| Error::Malformed(error.to_string()))?;
    let len = bytes.len() - 2;
    if len > MESSAGE_LEN_MAX {
        return Err(Error::TooLong(len));
    }
    let prefix = u16::try_from(len).map_err(|_| Error::TooLong(len))?;
    bytes[..2].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// The message in `bytes`, which are without their length.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(Error::TooLong(bytes.len()));
    }
    ciborium::de::from_reader_with_recursion_limit(bytes, 16).map_err(|error| Error::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::id::{PointNumber, TrackKind};

    fn track() -> TrackId {
        TrackId::new(PointNumber::new(8000).expect("in range"), TrackKind::Main)
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        let session = SessionId::from_bytes([7; 16]);
        let messages = [
            Message::Announce { session, tracks: vec![track(); 3] },
            Message::Subscribe { session, track: track(), priority: 4 },
            Message::Unsubscribe { session, track: track() },
            Message::Keyframe { session, track: track() },
            Message::Clock { sent: u64::MAX },
            Message::ClockReply { sent: 1, remote: 2 },
            Message::Probed { bytes: 3, micros: 4 },
        ];
        for message in messages {
            let bytes = encode(&message).expect("small");
            assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
            assert_eq!(decode::<Message>(&bytes[2..]).expect("ours"), message);
        }
    }

    #[test]
    fn a_full_announcement_fits_a_message() {
        let session = SessionId::from_bytes([7; 16]);
        let tracks = vec![track(); TRACKS_MAX];
        assert!(encode(&Message::Announce { session, tracks }).is_ok());
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&b""[..], &[0xff; 40], &[0x9f; 2000], &[0xa1, 0x61, b'x', 0x00]] {
            assert!(decode::<Message>(bytes).is_err());
        }
    }
}
