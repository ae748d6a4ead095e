//! Names of things: points, sessions, tracks, groups, and the hash of some bytes.
//!
//! Each is a fixed number of bytes that sorts as its meaning sorts (a session begins with its start time, a group's
//! parts are big-endian), because keys on disk are these bytes and ranges of them are what is listed and deleted.
//! Every name has one printed form and parses from it again; `short()` is for people and for log lines only. In
//! human-readable formats (JSON, TOML) serde uses the printed form, in binary ones (CBOR) the bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a printed or encoded name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not a name of this kind; write it as it was printed.
    #[error("{text:?} is not {expected}")]
    Text {
        /// What such a name looks like.
        expected: &'static str,
        /// What was given instead, cut to a length fit for a message.
        text: String,
    },
    /// The number names nothing we know; a newer version may.
    #[error("{value} is not {expected}")]
    Number {
        /// What such a number must be.
        expected: &'static str,
        /// What was given instead.
        value: u64,
    },
}

impl Error {
    pub(crate) fn text(expected: &'static str, text: &str) -> Self {
        Error::Text { expected, text: text.chars().take(80).collect() }
    }
}

/// Serialises a fixed run of bytes as text or bytes, whichever the format prefers, and reads both.
macro_rules! bytes_serde {
    ($name:ident, $len:literal, $expected:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(self.as_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        let bytes: [u8; $len] = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                        Ok($name::from_bytes(bytes))
                    }
                }
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    deserializer.deserialize_bytes(Visitor)
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
pub(crate) use bytes_serde;

/// A name of 32 bytes printed as 64 hexadecimal digits.
macro_rules! hex_name {
    ($name:ident, $expected:literal) => {
        impl $name {
            /// The name that is these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }

            /// The bytes themselves.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight digits: enough to tell a few apart, never to identify.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::id::Error;

            fn from_str(text: &str) -> Result<Self, $crate::id::Error> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| $crate::id::Error::text($expected, text))?;
                Ok($name(bytes))
            }
        }

        $crate::id::bytes_serde!($name, 32, $expected);
    };
}
pub(crate) use hex_name;

/// A point's node: its Ed25519 public key, which is also its libp2p peer and its TLS identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);
hex_name!(NodeId, "a node id (64 hexadecimal digits)");

/// BLAKE3 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);
hex_name!(Hash, "a hash (64 hexadecimal digits)");

impl Hash {
    /// What stands where there is nothing before: the `prev` of a first journal entry.
    pub const NONE: Hash = Hash([0; 32]);

    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Hash(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Hash(*hash.as_bytes())
    }
}

/// One reception: 48 bits of its start (unix milliseconds), then 80 random bits, so that ids sort by start and two
/// centrals starting at once still differ. Printed as 26 digits of Crockford's base 32, as ULIDs are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);
bytes_serde!(SessionId, 16, "a session id (26 letters and digits)");

/// Crockford's digits: no i, l, o, u, so that an id read over the telephone is not misheard.
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl SessionId {
    /// How many characters a printed id has.
    pub const PRINTED: usize = 26;

    /// A fresh id for a session that starts now; times past the year 10889 wrap.
    pub fn generate(unix_ms: u64) -> Self {
        Self::from_parts(unix_ms, crate::keys::random())
    }

    /// The id made of a start time (its low 48 bits) and ten bytes.
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        SessionId(bytes)
    }

    /// The id that is these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        SessionId(bytes)
    }

    /// The bytes themselves.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// When the session started by its central's wall clock, unix milliseconds. For people only: clocks lie.
    pub fn unix_ms(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("eight of sixteen bytes")) >> 16
    }

    /// The first ten characters, which are the start time: a prefix of the printed form.
    pub fn short(&self) -> String {
        let mut printed = self.to_string();
        printed.truncate(10);
        printed
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        (0..Self::PRINTED).rev().try_for_each(|place| {
            let digit = (value >> (5 * place)) as usize & 31;
            fmt::Write::write_char(f, char::from(CROCKFORD[digit]))
        })
    }
}

impl FromStr for SessionId {
    type Err = Error;

    /// Reads either case; nothing is guessed (no `o` for `0`).
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::text("a session id (26 letters and digits)", text);
        // 26 digits hold 130 bits: the first may only be 0 to 7.
        if text.len() != Self::PRINTED || text.as_bytes()[0] > b'7' {
            return Err(refuse());
        }
        let value = text.bytes().try_fold(0u128, |value, byte| {
            let digit = CROCKFORD.iter().position(|d| *d == byte.to_ascii_lowercase())?;
            Some(value << 5 | digit as u128)
        });
        Ok(SessionId(value.ok_or_else(refuse)?.to_be_bytes()))
    }
}

/// A point's number within one session: 13 bits, given by central when the session starts and never reused in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PointNumber(u16);

impl PointNumber {
    /// The largest number; a session, and so a roster, has at most one more points than this.
    pub const MAX: u16 = 8191;

    /// The number, if it is not above [`Self::MAX`].
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Self::MAX { Some(PointNumber(number)) } else { None }
    }

    /// The plain number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for PointNumber {
    type Error = Error;

    fn try_from(number: u16) -> Result<Self, Error> {
        PointNumber::new(number).ok_or(Error::Number { expected: "a point's number (0 to 8191)", value: number.into() })
    }
}

impl From<PointNumber> for u16 {
    fn from(number: PointNumber) -> u16 {
        number.0
    }
}

impl fmt::Display for PointNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a track carries. The numbers are on disk and wire; 4 to 7 are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TrackKind {
    /// The microphone.
    Audio = 0,
    /// The camera, the layer that is the record.
    Main = 1,
    /// The camera small, live only.
    Thumb = 2,
    /// A shared screen.
    Screen = 3,
}

impl TrackKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [TrackKind; 4] = [TrackKind::Audio, TrackKind::Main, TrackKind::Thumb, TrackKind::Screen];

    /// The word for it in names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            TrackKind::Audio => "audio",
            TrackKind::Main => "main",
            TrackKind::Thumb => "thumb",
            TrackKind::Screen => "screen",
        }
    }
}

impl fmt::Display for TrackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A track of a session: the point's number (13 bits) above the kind (3 bits). Printed as `3-main`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(u16);

impl TrackId {
    /// The track of this kind of this point.
    pub const fn new(point: PointNumber, kind: TrackKind) -> Self {
        TrackId(point.0 << 3 | kind as u16)
    }

    /// The point it comes from.
    pub const fn point(self) -> PointNumber {
        PointNumber(self.0 >> 3)
    }

    /// What it carries.
    pub fn kind(self) -> TrackKind {
        TrackKind::ALL[usize::from(self.0 & 7)]
    }

    /// The number as it is on disk and wire.
    pub const fn to_u16(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for TrackId {
    type Error = Error;

    /// Refuses kinds this version does not know.
    fn try_from(number: u16) -> Result<Self, Error> {
        if usize::from(number & 7) < TrackKind::ALL.len() {
            Ok(TrackId(number))
        } else {
            Err(Error::Number { expected: "a track of a known kind", value: number.into() })
        }
    }
}

impl From<TrackId> for u16 {
    fn from(track: TrackId) -> u16 {
        track.0
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.point(), self.kind())
    }
}

impl fmt::Debug for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrackId({self})")
    }
}

impl FromStr for TrackId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (number, kind) = text.split_once('-')?;
            let kind = TrackKind::ALL.into_iter().find(|k| k.name() == kind)?;
            Some(TrackId::new(PointNumber::new(number.parse().ok()?)?, kind))
        };
        parse().ok_or_else(|| Error::text("a track (such as 3-main)", text))
    }
}

impl Serialize for TrackId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u16(self.0) }
    }
}

impl<'de> Deserialize<'de> for TrackId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u16::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
        }
    }
}

/// The largest group number. At a group a microsecond it lasts half a year; the archive's pages of 4096 are then
/// numbered by 32 bits.
pub const SEQ_MAX: u64 = (1 << 44) - 1;

/// One group of one track of one session. Sorts by session, then track, then number, as the archive does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId {
    /// The session it belongs to.
    pub session: SessionId,
    /// The track it is a piece of.
    pub track: TrackId,
    /// Its place in the track; sound and picture of a point share it.
    pub seq: u64,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.session, self.track, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(point: u16, kind: TrackKind) -> TrackId {
        TrackId::new(PointNumber::new(point).unwrap(), kind)
    }

    #[test]
    fn printed_names_are_kept_for_ever() {
        let session = SessionId::from_parts(1_700_000_000_000, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(session.to_string(), "01hf7yat00000g40r40m30e209");
        assert_eq!(session.short(), "01hf7yat00");
        assert_eq!(session.unix_ms(), 1_700_000_000_000);
        assert_eq!(track(3, TrackKind::Main).to_string(), "3-main");
        assert_eq!(NodeId([0xab; 32]).short(), "abababab");
        let group = GroupId { session, track: track(8191, TrackKind::Screen), seq: 7 };
        assert_eq!(group.to_string(), "01hf7yat00000g40r40m30e209/8191-screen/7");
    }

    #[test]
    fn printed_names_parse_back() {
        for session in [SessionId([0; 16]), SessionId([0xff; 16]), SessionId::generate(1_700_000_000_000)] {
            assert_eq!(session.to_string().parse(), Ok(session));
            assert_eq!(session.to_string().to_uppercase().parse(), Ok(session));
        }
        for kind in TrackKind::ALL {
            assert_eq!(track(17, kind).to_string().parse(), Ok(track(17, kind)));
        }
        assert_eq!(Hash::of(b"x").to_string().parse(), Ok(Hash::of(b"x")));
    }

    #[test]
    fn what_is_not_a_name_is_refused_in_a_sentence() {
        for text in ["", "8zzzzzzzzzzzzzzzzzzzzzzzzz", "01hf7yat00000g40r40m30e20u", "điểm cầu số một hai b"] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?}");
        }
        for text in ["8192-main", "1-film", "main", "-1-main"] {
            assert!(text.parse::<TrackId>().is_err(), "{text:?}");
        }
        assert_eq!("9".parse::<Hash>().unwrap_err().to_string(), "\"9\" is not a hash (64 hexadecimal digits)");
        assert!(PointNumber::try_from(8192).is_err());
        assert!(TrackId::try_from(4).is_err());
    }

    #[test]
    fn sessions_sort_by_start() {
        let early = SessionId::from_parts(1, [0xff; 10]);
        let late = SessionId::from_parts(2, [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn a_fresh_session_differs_from_one_started_in_the_same_millisecond() {
        assert_ne!(SessionId::generate(5), SessionId::generate(5));
    }

    #[test]
    fn text_formats_carry_text_and_binary_formats_bytes() {
        let node = NodeId([7; 32]);
        let id = GroupId { session: SessionId([1; 16]), track: track(2, TrackKind::Audio), seq: 3 };
        let json = serde_json::to_string(&(node, id)).unwrap();
        assert!(json.contains("2-audio") && json.contains(&node.to_string()), "{json}");
        assert_eq!(serde_json::from_str::<(NodeId, GroupId)>(&json).unwrap(), (node, id));
        let mut cbor = Vec::new();
        ciborium::into_writer(&(node, id), &mut cbor).unwrap();
        assert!(cbor.len() < 100, "{}", cbor.len());
        assert_eq!(ciborium::from_reader::<(NodeId, GroupId), _>(&cbor[..]).unwrap(), (node, id));
    }
}
