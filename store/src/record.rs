//! A group as it travels and lies on disk: one byte layout, written once at the source.
//!
//! ```text
//! header  version u8 = 1 | suite u8 | session 16 | point 32 | track u16 | seq u64 | kid u64 | first ctr u64 | t0 u64
//! frame   length varint | dt varint | flags u8 | SFrame bytes                            (any number, in order)
//! end     varint 0 | frames u32 | length u64 | BLAKE3 32                                 (on the wire only)
//! ```
//!
//! Integers are big-endian, varints QUIC's (RFC 9000 16) in their shortest form; `t0` and `dt` are microseconds, of
//! session time and after `t0`. The header leaves before the frames exist, so it holds only what is known then; what
//! is known last comes last, in the end, which is a claim to check what came before it and is neither stored nor hashed.
//! The address of a group is BLAKE3 of header and frames.
//!
//! There is exactly one encoding of a group: long varints, unknown flags and SFrame headers other than the shortest
//! one of the expected key and counter are refused. So equal content has an equal address, and a frame left out, doubled or moved
//! within its group is found by anyone, without keys.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    id::{GroupId, Hash, NodeId, SEQ_MAX, SessionId, TrackId},
    seal::{KeyId, Preface, Suite, TAG},
};

mod read;
mod write;

pub use read::{Item, Reader};
pub use write::{Finished, Writer};

/// Longest frame in bytes, counted after its length field. A 720p keyframe has 20 to 60 KB.
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// Longest group in bytes, header and frames. Two seconds at 2.5 Mb/s have 0.6 MB.
pub const GROUP_LEN_MAX: usize = 16 << 20;

/// Most frames in a group. Two seconds of sound have 100, ten of a screen some hundreds.
pub const FRAME_COUNT_MAX: u32 = 4096;

/// Longest time between a group's start and a frame of it. Groups last 2 s, those of a screen up to 10.
pub const DT_MAX: Duration = Duration::from_secs(60);

/// Latest session time of a group, in microseconds (285 years): what JSON numbers still hold exactly.
pub const T0_MAX: u64 = 1 << 53;

/// Why bytes are not a group, or a group cannot grow. Whoever sent such bytes is at fault or the line is; nothing of
/// the group may be used further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A newer sender, or no sender of ours.
    #[error("a group of version {0} is unknown here; this program reads version {version}", version = Header::VERSION)]
    Version(u8),
    /// A header field holds what no sender writes.
    #[error("the group's header has an impossible {0}")]
    Header(&'static str),
    /// A frame is not encoded as the layout demands.
    #[error("frame {index} of the group has {what}")]
    Frame {
        /// The frame's place in the group.
        index: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A named limit would be passed.
    #[error("the group has {0}")]
    TooMuch(&'static str),
    /// The end does not fit what came before it: bytes were lost or changed on the way.
    #[error("the group's end claims another {0} than what arrived")]
    End(&'static str),
    /// Bytes follow where none may.
    #[error("bytes follow the group's end")]
    Trailing,
    /// The bytes stop in mid-frame or before the end.
    #[error("the group is cut short after {frames} whole frames")]
    Short {
        /// Frames that are whole.
        frames: u32,
    },
}

/// The first bytes of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How its frames are sealed.
    pub suite: Suite,
    /// The session.
    pub session: SessionId,
    /// The node that sealed it.
    pub point: NodeId,
    /// The track.
    pub track: TrackId,
    /// The group's number in the track, at most [`SEQ_MAX`].
    pub seq: u64,
    /// The SFrame key id of all its frames.
    pub kid: KeyId,
    /// The SFrame counter of its first frame; the others follow without a gap.
    pub first_ctr: u64,
    /// Session time of its start in microseconds, at most [`T0_MAX`].
    pub t0: u64,
}

impl Header {
    /// Bytes of an encoded header.
    pub const LEN: usize = 84;
    /// The version this program writes and the only one it reads.
    pub const VERSION: u8 = 1;

    /// Which group it begins.
    pub fn id(&self) -> GroupId {
        GroupId { session: self.session, track: self.track, seq: self.seq }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = Self::VERSION;
        bytes[1] = self.suite.into();
        bytes[2..18].copy_from_slice(self.session.as_bytes());
        bytes[18..50].copy_from_slice(self.point.as_bytes());
        bytes[50..52].copy_from_slice(&self.track.to_u16().to_be_bytes());
        bytes[52..60].copy_from_slice(&self.seq.to_be_bytes());
        bytes[60..68].copy_from_slice(&self.kid.to_u64().to_be_bytes());
        bytes[68..76].copy_from_slice(&self.first_ctr.to_be_bytes());
        bytes[76..84].copy_from_slice(&self.t0.to_be_bytes());
        bytes
    }

    /// Reads a header, refusing whatever no sender writes.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Error> {
        if bytes[0] != Self::VERSION {
            return Err(Error::Version(bytes[0]));
        }
        let header = Header {
            suite: Suite::try_from(bytes[1]).map_err(|_| Error::Header("suite"))?,
            session: SessionId::from_bytes(fixed(bytes, 2)),
            point: NodeId::from_bytes(fixed(bytes, 18)),
            track: TrackId::try_from(u16::from_be_bytes(fixed(bytes, 50))).map_err(|_| Error::Header("track"))?,
            seq: u64::from_be_bytes(fixed(bytes, 52)),
            kid: KeyId::from_u64(u64::from_be_bytes(fixed(bytes, 60))),
            first_ctr: u64::from_be_bytes(fixed(bytes, 68)),
            t0: u64::from_be_bytes(fixed(bytes, 76)),
        };
        if header.kid.track_bits() != header.track.to_u16() {
            return Err(Error::Header("key id: it is of another track"));
        }
        if header.seq > SEQ_MAX {
            return Err(Error::Header("number"));
        }
        if header.first_ctr > u64::MAX - u64::from(FRAME_COUNT_MAX) {
            return Err(Error::Header("first counter"));
        }
        if header.t0 > T0_MAX {
            return Err(Error::Header("start time"));
        }
        Ok(header)
    }

    /// What SFrame authenticates beside the frame: this header and the frame's clear fields, all of fixed length.
    pub(crate) fn metadata(&self, dt: u64, flags: Flags) -> [u8; METADATA] {
        let mut bytes = [0; METADATA];
        bytes[..Self::LEN].copy_from_slice(&self.encode());
        bytes[Self::LEN..Self::LEN + 8].copy_from_slice(&dt.to_be_bytes());
        bytes[METADATA - 1] = flags.to_u8();
        bytes
    }
}

/// Bytes of the metadata of a frame.
const METADATA: usize = Header::LEN + 8 + 1;

fn fixed<const N: usize>(bytes: &[u8; Header::LEN], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the fields lie within the header")
}

/// What a relay may know of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Decoding can begin here.
    pub key: bool,
    /// Nothing else needs this frame.
    pub discardable: bool,
}

impl Flags {
    const KEY: u8 = 1;
    const DISCARDABLE: u8 = 2;

    /// The byte in the layout.
    pub fn to_u8(self) -> u8 {
        u8::from(self.key) * Self::KEY + u8::from(self.discardable) * Self::DISCARDABLE
    }

    /// The flags in a byte, if it has no bit this version does not know.
    pub fn from_u8(byte: u8) -> Option<Self> {
        let flags = Flags { key: byte & Self::KEY != 0, discardable: byte & Self::DISCARDABLE != 0 };
        (flags.to_u8() == byte).then_some(flags)
    }
}

/// One frame as it travels. Cheap to clone: the bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFrame {
    /// Its place in the group, from 0.
    pub index: u32,
    /// Microseconds after the group's start, at most [`DT_MAX`].
    pub dt: u64,
    /// The clear flags.
    pub flags: Flags,
    bytes: Bytes,
    sframe: usize,
}

impl SealedFrame {
    /// The SFrame header, ciphertext and tag.
    pub fn sframe(&self) -> &[u8] {
        &self.bytes[self.sframe..]
    }

    /// The frame with its length and clear fields, exactly as it travels and is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What a sender says of a group once it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How many frames it has.
    pub frames: u32,
    /// Bytes of header and frames.
    pub length: u64,
    /// BLAKE3 of header and frames: the group's address.
    pub hash: Hash,
}

impl End {
    /// Bytes of an encoded end.
    pub const LEN: usize = 1 + 4 + 8 + 32;

    /// The end as it travels.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.push(0);
        bytes.extend_from_slice(&self.frames.to_be_bytes());
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes.extend_from_slice(self.hash.as_bytes());
        bytes.into()
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (counts, hash) = bytes[1..].split_at(12);
        End {
            frames: u32::from_be_bytes(counts[..4].try_into().expect("four of twelve bytes")),
            length: u64::from_be_bytes(counts[4..].try_into().expect("eight of twelve bytes")),
            hash: Hash::from_bytes(hash.try_into().expect("32 of 45 bytes")),
        }
    }
}

/// A whole group whose form was checked: header, frames in order, and the hash of exactly these bytes. It cannot be
/// made otherwise, so the archive never holds plaintext or half a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    header: Header,
    frames: u32,
    hash: Hash,
    bytes: Bytes,
}

impl Record {
    /// Checks the form of stored bytes (without end) and hashes them. Whether they are the right bytes is told by
    /// comparing [`Self::hash`] with an address one trusts.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > GROUP_LEN_MAX {
            return Err(Error::TooMuch("more bytes than a group may have"));
        }
        let header = bytes.first_chunk().ok_or(Error::Short { frames: 0 })?;
        let header = Header::decode(header)?;
        let mut at = Header::LEN;
        let mut frames = 0;
        while at < bytes.len() {
            match Parsed::read(&bytes[at..], &header, frames)? {
                Some(frame) => at += frame.len,
                None => return Err(Error::Short { frames }),
            }
            frames += 1;
        }
        Ok(Record::of(header, frames, bytes))
    }

    /// The record of bytes that are known to be this header and so many whole frames.
    fn of(header: Header, frames: u32, bytes: Bytes) -> Self {
        Record { hash: Hash::of(&bytes), header, frames, bytes }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which group it is.
    pub fn id(&self) -> GroupId {
        self.header.id()
    }

    /// BLAKE3 of the bytes: the group's address.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The bytes as they travelled, without the end.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many frames it has.
    pub fn frame_count(&self) -> u32 {
        self.frames
    }

    /// The end that a sender of this group writes after it.
    pub fn end(&self) -> End {
        End { frames: self.frames, length: self.bytes.len() as u64, hash: self.hash }
    }

    /// The frames, sharing the record's bytes.
    pub fn frames(&self) -> impl Iterator<Item = SealedFrame> + '_ {
        let mut at = Header::LEN;
        (0..self.frames).map(move |index| {
            let parsed = Parsed::read(&self.bytes[at..], &self.header, index)
                .ok()
                .flatten()
                .expect("a record's frames were checked when it was made");
            let bytes = self.bytes.slice(at..at + parsed.len);
            at += parsed.len;
            parsed.with(index, bytes)
        })
    }
}

/// Where the parts of a frame lie, once it is whole and well-formed.
struct Parsed {
    len: usize,
    dt: u64,
    flags: Flags,
    sframe: usize,
}

impl Parsed {
    /// Reads the frame at the front of `bytes`; `None` if it is not all there. The length is judged before anything
    /// waits for that many bytes. A zero length, the end's mark, is no frame and refused: whoever expects an end looks first.
    fn read(bytes: &[u8], header: &Header, index: u32) -> Result<Option<Self>, Error> {
        let wrong = |what| Error::Frame { index, what };
        let Some((length, prefix)) = varint(bytes).map_err(|()| wrong("a length not in its shortest form"))? else {
            return Ok(None);
        };
        if length > FRAME_LEN_MAX as u64 {
            return Err(wrong("a length above the limit"));
        }
        if index >= FRAME_COUNT_MAX {
            return Err(Error::TooMuch("more frames than a group may have"));
        }
        let len = prefix + length as usize;
        let Some(body) = bytes.get(prefix..len) else {
            return Ok(None);
        };
        let (dt, dt_len) = varint(body)
            .map_err(|()| wrong("a time not in its shortest form"))?
            .ok_or(wrong("no room for its fields"))?;
        if dt > DT_MAX.as_micros() as u64 {
            return Err(wrong("a time beyond the limit"));
        }
        let flags = *body.get(dt_len).ok_or(wrong("no room for its fields"))?;
        let flags = Flags::from_u8(flags).ok_or(wrong("flags this version does not know"))?;
        let sframe = &body[dt_len + 1..];
        let preface = Preface::new(header.kid, header.first_ctr + u64::from(index));
        if !sframe.starts_with(preface.as_bytes()) {
            return Err(wrong("another key id or counter than its place in the group"));
        }
        if sframe.len() < preface.as_bytes().len() + TAG {
            return Err(wrong("no room for its tag"));
        }
        Ok(Some(Parsed { len, dt, flags, sframe: prefix + dt_len + 1 }))
    }

    fn with(self, index: u32, bytes: Bytes) -> SealedFrame {
        SealedFrame { index, dt: self.dt, flags: self.flags, bytes, sframe: self.sframe }
    }
}

/// A QUIC varint at the front of `bytes` and its length; `None` if it is not all there, an error if a shorter form
/// exists.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, ()> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    let len = 1 << (first >> 6);
    let Some(rest) = bytes.get(1..len) else {
        return Ok(None);
    };
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    if varint_len(value) == len { Ok(Some((value, len))) } else { Err(()) }
}

/// Bytes of the shortest varint of `value`, which must be below 2^62.
fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Writes the shortest varint of `value` at the end of `bytes` and returns where it begins.
fn put_varint_before(bytes: &mut [u8], value: u64) -> usize {
    let len = varint_len(value);
    let mark = (len.trailing_zeros() as u8) << 6;
    let at = bytes.len() - len;
    bytes[at..].copy_from_slice(&value.to_be_bytes()[8 - len..]);
    bytes[at] |= mark;
    at
}

#[cfg(test)]
mod tests;
