//! Sealing frames, singly, with SFrame (RFC 9605): once, at the source, and opened only where they are shown.
//!
//! **Why a restart never repeats a nonce.** A (base key, KID, CTR) must be used once. The base key is one per session,
//! epoch and track, so a node that restarts in mid-session comes back to the same one, having forgotten its counter.
//! It therefore does not try to remember: the KID holds 40 fresh random bits each time a [`Sealer`] is made, and RFC 9605
//! derives the AEAD key and salt from the KID, so the counter begins at 0 under another key. A thousand restarts of
//! one track in one epoch meet the same start with a chance of one in two million.
//!
//! **What is authenticated.** The plaintext, the SFrame header, and as metadata the whole group header and the frame's
//! clear fields. So a frame moved to another session, point, track, group, place in the group, time or flag does not open.
//! It does not prove which holder of the session key made it (RFC 9605 9.2 leaves that out); signed segments do.

use std::{collections::BTreeMap, convert::Infallible, fmt};

use bytes::Bytes;
use sframe::{
    CipherSuite,
    frame::{EncryptedFrameView, FrameCounter, MediaFrameView},
    header::SframeHeader,
    key::{DecryptionKey, EncryptionKey},
};

use crate::{
    id::{GroupId, Hash, NodeId, SessionId, TrackId},
    keys::{Epoch, SessionKey, random},
    record::{Header, Record, SealedFrame},
};

/// Why a frame could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The group is of a session this opener was not made for.
    #[error("group {0} is of another session than the keys at hand")]
    Session(GroupId),
    /// We have no key of this epoch. Ask central for its wrap.
    #[error("the key of epoch {epoch} is not here, so group {group} cannot be opened")]
    Key {
        /// The group to open.
        group: GroupId,
        /// The epoch whose key is needed.
        epoch: Epoch,
    },
    /// The bytes are not what the point sealed, or the key is another. Never show it.
    #[error("frame {index} of group {group} is not what its point sealed")]
    Frame {
        /// The group it claims to belong to.
        group: GroupId,
        /// Its place in the group.
        index: u32,
    },
}

/// The SFrame suites in use, by their number in RFC 9605 (8.1). The ones with short tags are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[repr(u8)]
pub enum Suite {
    /// `AES_128_GCM_SHA256_128`.
    #[default]
    Aes128GcmSha256 = 4,
    /// `AES_256_GCM_SHA512_128`.
    Aes256GcmSha512 = 5,
}

impl TryFrom<u8> for Suite {
    type Error = crate::id::Error;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            4 => Ok(Suite::Aes128GcmSha256),
            5 => Ok(Suite::Aes256GcmSha512),
            other => Err(crate::id::Error::Number { expected: "a known SFrame suite (4 or 5)", value: other.into() }),
        }
    }
}

impl From<Suite> for u8 {
    fn from(suite: Suite) -> u8 {
        suite as u8
    }
}

impl From<Suite> for CipherSuite {
    fn from(suite: Suite) -> CipherSuite {
        match suite {
            Suite::Aes128GcmSha256 => CipherSuite::AesGcm128Sha256,
            Suite::Aes256GcmSha512 => CipherSuite::AesGcm256Sha512,
        }
    }
}

/// Bytes of the tag, in both suites.
pub(crate) const TAG: usize = 16;

/// The 40 bits that make one life of a sender differ from its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start(u64);

impl Start {
    /// A fresh start, as every sender must use.
    pub fn random() -> Self {
        Self::from_bits(u64::from_be_bytes(random()))
    }

    /// The low 40 bits of `bits`. For tests and simulations, which must repeat exactly; never for a real session.
    pub const fn from_bits(bits: u64) -> Self {
        Start(bits & 0xff_ffff_ffff)
    }
}

/// The SFrame key id: track (16 bits), epoch (8), start (40).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl KeyId {
    /// The key id of these parts.
    pub const fn new(track: TrackId, epoch: Epoch, start: Start) -> Self {
        KeyId((track.to_u16() as u64) << 48 | (epoch as u64) << 40 | start.0)
    }

    pub(crate) const fn from_u64(kid: u64) -> Self {
        KeyId(kid)
    }

    /// The number as it travels.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The bits that should be those of the track.
    pub(crate) const fn track_bits(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The epoch whose session key serves.
    pub const fn epoch(self) -> Epoch {
        (self.0 >> 40) as u8
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({:016x})", self.0)
    }
}

/// Seals one track of one point in one epoch, group after group. It is not `Clone`: two of one start would repeat
/// nonces.
pub struct Sealer {
    key: EncryptionKey,
    suite: Suite,
    session: SessionId,
    point: NodeId,
    track: TrackId,
    kid: KeyId,
    next: u64,
}

impl Sealer {
    /// A sealer for `track` of `point`; give it [`Start::random`].
    pub fn new(
        key: &SessionKey,
        suite: Suite,
        session: SessionId,
        point: NodeId,
        track: TrackId,
        epoch: Epoch,
        start: Start,
    ) -> Self {
        let kid = KeyId::new(track, epoch, start);
        let base = key.base_key(&session, epoch, track);
        let key = EncryptionKey::derive_from(suite.into(), kid.0, base.as_slice())
            .expect("HKDF gives keys of a suite's length");
        Sealer { key, suite, session, point, track, kid, next: 0 }
    }

    /// The header of a group begun now: the frames sealed next are its own.
    pub(crate) fn header(&self, seq: u64, t0: u64) -> Header {
        Header {
            suite: self.suite,
            session: self.session,
            point: self.point,
            track: self.track,
            seq,
            kid: self.kid,
            first_ctr: self.next,
            t0,
        }
    }

    /// The track it seals.
    pub fn track(&self) -> TrackId {
        self.track
    }

    /// The epoch it seals in.
    pub fn epoch(&self) -> Epoch {
        self.kid.epoch()
    }

    /// How many bytes sealing the next frame adds: SFrame header and tag.
    pub(crate) fn overhead(&self) -> usize {
        SframeHeader::new(self.kid.0, self.next).len() + TAG
    }

    /// `metadata | SFrame header | ciphertext | tag` in one allocation; the caller cuts the metadata off.
    pub(crate) fn seal(&mut self, metadata: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        MediaFrameView::with_meta_data(&mut Counter(&mut self.next), plaintext, metadata)
            .encrypt_into(&self.key, &mut sealed)
            .expect("AES-GCM seals a frame of at most a few mebibytes");
        sealed
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("track", &self.track).field("kid", &self.kid).field("next", &self.next).finish()
    }
}

/// Counts each sealed frame once.
struct Counter<'a>(&'a mut u64);

impl FrameCounter for Counter<'_> {
    type Error = Infallible;

    fn try_next(&mut self) -> Result<u64, Infallible> {
        let counter = *self.0;
        *self.0 = counter.checked_add(1).expect("nobody seals 2^64 frames");
        Ok(counter)
    }
}

/// The SFrame header that the frame with this counter must carry, in its only (shortest) form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preface {
    bytes: [u8; 17],
    len: usize,
}

impl Preface {
    pub(crate) fn new(kid: KeyId, counter: u64) -> Self {
        let header = SframeHeader::new(kid.0, counter);
        let mut bytes = [0; 17];
        header.serialize(&mut bytes[..]).expect("an SFrame header has at most 17 bytes");
        Preface { bytes, len: header.len() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Opens the groups of one session with the keys this point was given.
#[derive(Debug, Clone)]
pub struct Opener {
    session: SessionId,
    keys: BTreeMap<Epoch, SessionKey>,
}

impl Opener {
    /// An opener for `session` that has no key yet.
    pub fn new(session: SessionId) -> Self {
        Opener { session, keys: BTreeMap::new() }
    }

    /// Adds the key of an epoch; check it against its commitment first.
    pub fn insert(&mut self, epoch: Epoch, key: SessionKey) {
        self.keys.insert(epoch, key);
    }

    /// Derives what opens the frames of one group. Costs a few microseconds, once a group, so nothing a peer sends
    /// can fill a cache.
    pub fn group(&self, header: &Header) -> Result<GroupOpener, Error> {
        let group = header.id();
        if header.session != self.session {
            return Err(Error::Session(group));
        }
        let epoch = header.kid.epoch();
        let key = self.keys.get(&epoch).ok_or(Error::Key { group, epoch })?;
        let base = key.base_key(&self.session, epoch, header.track);
        let key = DecryptionKey::derive_from(header.suite.into(), header.kid.0, base.as_slice())
            .expect("HKDF gives keys of a suite's length");
        Ok(GroupOpener { key, header: header.clone() })
    }

    /// Keyed BLAKE3 over the group's header and, for each frame, its clear fields and its plaintext. The point signs it in
    /// a segment: who has the key sees that the point meant this content, and who has not learns nothing of it.
    pub fn mac(&self, record: &Record) -> Result<Hash, Error> {
        let (header, id) = (record.header(), record.id());
        let opener = self.group(header)?;
        let epoch = header.kid.epoch();
        let key = self.keys.get(&epoch).ok_or(Error::Key { group: id, epoch })?;
        let mut hasher = blake3::Hasher::new_keyed(&key.group_mac_key(&id, epoch));
        hasher.update(&header.encode());
        for frame in record.frames() {
            let plain = opener.open(&frame)?;
            hasher.update(&frame.dt.to_be_bytes());
            hasher.update(&[frame.flags.to_u8()]);
            hasher.update(&(plain.len() as u64).to_be_bytes());
            hasher.update(&plain);
        }
        Ok(hasher.finalize().into())
    }
}

/// Opens the frames of one group, in any order.
#[derive(Debug)]
pub struct GroupOpener {
    key: DecryptionKey,
    header: Header,
}

impl GroupOpener {
    /// The header of the group it opens.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The plaintext of a frame of this group.
    pub fn open(&self, frame: &SealedFrame) -> Result<Bytes, Error> {
        let refuse = || Error::Frame { group: self.header.id(), index: frame.index };
        let counter = self.header.first_ctr.checked_add(frame.index.into()).ok_or_else(refuse)?;
        if !frame.sframe().starts_with(Preface::new(self.header.kid, counter).as_bytes()) {
            return Err(refuse());
        }
        let metadata = self.header.metadata(frame.dt, frame.flags);
        let sealed = EncryptedFrameView::try_with_meta_data(frame.sframe(), &metadata).map_err(|_| refuse())?;
        let mut opened = Vec::new();
        sealed.decrypt_into(&self.key, &mut opened).map_err(|_| refuse())?;
        Ok(Bytes::from(opened).split_off(metadata.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 9605 appendix C: all headers (C.1), and the suites in use (C.3).
    const VECTORS: &str = include_str!("../tests/vectors/rfc9605.json");

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    #[test]
    fn headers_agree_with_rfc_9605() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let headers = vectors["header"].as_array().unwrap();
        assert_eq!(headers.len(), 289);
        for vector in headers {
            let kid = KeyId::from_u64(vector["kid"].as_u64().unwrap());
            let preface = Preface::new(kid, vector["ctr"].as_u64().unwrap());
            assert_eq!(preface.as_bytes(), bytes(&vector["encoded"]));
        }
    }

    #[test]
    fn our_suites_agree_with_rfc_9605() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        for vector in vectors["sframe"].as_array().unwrap() {
            let suite = Suite::try_from(vector["cipher_suite"].as_u64().unwrap() as u8).unwrap();
            let kid = vector["kid"].as_u64().unwrap();
            let (metadata, plain) = (bytes(&vector["metadata"]), bytes(&vector["pt"]));
            let base = bytes(&vector["base_key"]);

            let key = EncryptionKey::derive_from(suite.into(), kid, &base).unwrap();
            let mut sealed = Vec::new();
            MediaFrameView::with_meta_data(&mut Counter(&mut vector["ctr"].as_u64().unwrap()), &plain, &metadata)
                .encrypt_into(&key, &mut sealed)
                .unwrap();
            assert_eq!(sealed[metadata.len()..], bytes(&vector["ct"]), "{suite:?}");

            let key = DecryptionKey::derive_from(suite.into(), kid, &base).unwrap();
            let ciphertext = bytes(&vector["ct"]);
            let frame = EncryptedFrameView::try_with_meta_data(&ciphertext, &metadata).unwrap();
            assert_eq!(frame.decrypt(&key).unwrap().payload(), plain, "{suite:?}");
        }
        assert_eq!(vectors["sframe"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_key_id_holds_track_epoch_and_start() {
        let track = TrackId::try_from(0x1a3b).unwrap();
        let kid = KeyId::new(track, 0xee, Start::from_bits(0xff_1234_5678_9abc));
        assert_eq!(kid.to_u64(), 0x1a3b_ee34_5678_9abc);
        assert_eq!((kid.track_bits(), kid.epoch()), (0x1a3b, 0xee));
    }
}
