//! Keys: who signs (`NodeKey`), who can be given a session's key (`WrapKey`), and the session's key itself.
//!
//! Signing and unwrapping have separate keys, not one key converted between the two uses, so that either can be
//! replaced alone. A session key is never used directly: HKDF-SHA256 (RFC 5869) gives one SFrame base key per track
//! and epoch, since RFC 9605 allows a base key one sender. GCM does not commit to its key, so one ciphertext could be
//! made to open under two of them; the session head therefore carries a commitment, and whoever unwraps a key that does not
//! match it must refuse it.
//!
//! Wrapping is HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. It says nothing about who wrapped;
//! that comes from the signed or authenticated message the wrap arrives in, and from the commitment.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hpke::{
    Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _,
    aead::AesGcm128,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::id::{GroupId, Hash, NodeId, SessionId, TrackId, bytes_serde, hex_name};

/// A period of a session with one key; removing a point starts the next. It has 8 bits because the SFrame key id has
/// 8 bits for it.
pub type Epoch = u8;

/// Why a key could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The wrap is for another recipient, session or epoch, or was changed. Ask central for one made for this point.
    #[error("the session key's wrap does not open for this point, session and epoch")]
    Wrap,
    /// The wrapped bytes are not of a form this version knows.
    #[error("a session key's wrap of {0} bytes is not of a kind this version knows")]
    Form(usize),
    /// The public key cannot be used for an exchange. Correct the roster.
    #[error("the recipient's wrap key is not a usable X25519 key; correct the roster")]
    Recipient,
    /// The key is not the one the session head names. Treat whoever sent it as dishonest or confused.
    #[error("the session key does not match the commitment in the session's head")]
    Commitment,
    /// The signature is not by this node over these bytes.
    #[error("the signature is not by the node it names")]
    Signature,
}

/// Random bytes from the operating system.
///
/// # Panics
/// If the operating system has none to give: nothing secret can be made then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A node's Ed25519 secret key (RFC 8032). Wiped from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// A fresh key.
    pub fn generate() -> Self {
        let seed = Zeroizing::new(random());
        Self::from_bytes(&seed)
    }

    /// The key whose RFC 8032 seed is these bytes.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        NodeKey(SigningKey::from_bytes(seed))
    }

    /// The RFC 8032 seed, to be kept in a file only its owner can read.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half, which names the node.
    pub fn id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.id().short())
    }
}

/// Checks that `node` signed `message`. Strict: small-order keys and malleable signatures are refused, so that all
/// verifiers agree.
pub fn verify(node: &NodeId, message: &[u8], signature: &[u8; 64]) -> Result<(), Error> {
    let key = VerifyingKey::from_bytes(node.as_bytes()).map_err(|_| Error::Signature)?;
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).map_err(|_| Error::Signature)
}

/// The public half of a [`WrapKey`], as the roster lists it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WrapPublic([u8; 32]);
hex_name!(WrapPublic, "a wrap key (64 hexadecimal digits)");

/// Whom a session key's wrap names as recipient when it is made for the authority's recovery key. No node stands behind
/// that key, so it is named by its own bytes.
pub fn recovery_recipient(recovery: &WrapPublic) -> NodeId {
    NodeId::from_bytes(recovery.0)
}

/// The X25519 secret key with which a point opens session keys wrapped for it. Wiped from memory when dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct WrapKey([u8; 32]);

impl WrapKey {
    /// A fresh key.
    pub fn generate() -> Self {
        WrapKey(random())
    }

    /// The key that is these bytes (RFC 7748, clamped when used).
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        WrapKey(*secret)
    }

    /// The secret bytes, to be kept in a file only its owner can read.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    /// The public half, for the roster.
    pub fn public(&self) -> WrapPublic {
        WrapPublic(X25519HkdfSha256::sk_to_pk(&self.hpke()).to_bytes().into())
    }

    fn hpke(&self) -> <X25519HkdfSha256 as hpke::Kem>::PrivateKey {
        <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(&self.0).expect("any 32 bytes are an X25519 secret")
    }
}

impl fmt::Debug for WrapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrapKey(of {})", self.public().short())
    }
}

/// What a wrap is bound to. Opening needs the same three values, so a wrap cannot be passed off as another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrapContext {
    /// The session whose key it is.
    pub session: SessionId,
    /// The epoch the key serves.
    pub epoch: Epoch,
    /// The node it is wrapped for.
    pub recipient: NodeId,
}

impl WrapContext {
    /// HPKE `info`: a domain that no other use shares, then the context, all of fixed length.
    fn info(&self) -> Vec<u8> {
        [&b"diemcau/1 session key wrap"[..], self.session.as_bytes(), &[self.epoch], self.recipient.as_bytes()].concat()
    }
}

/// A session key sealed to one recipient: version 1, encapsulated key (32), ciphertext (32) and tag (16).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wrap([u8; Wrap::LEN]);

impl Wrap {
    /// Bytes of an encoded wrap.
    pub const LEN: usize = 1 + 32 + 32 + 16;
    const VERSION: u8 = 1;

    /// The encoded wrap.
    pub const fn as_bytes(&self) -> &[u8; Wrap::LEN] {
        &self.0
    }

    const fn from_bytes(bytes: [u8; Wrap::LEN]) -> Self {
        Wrap(bytes)
    }

    /// Reads an encoded wrap; whether it opens is another question.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match <[u8; Wrap::LEN]>::try_from(bytes) {
            Ok(wrap) if wrap[0] == Self::VERSION => Ok(Wrap(wrap)),
            _ => Err(Error::Form(bytes.len())),
        }
    }

    /// The session key in it, if it was wrapped for this key in this context.
    pub fn open(&self, key: &WrapKey, context: &WrapContext) -> Result<SessionKey, Error> {
        if self.0[0] != Self::VERSION {
            return Err(Error::Form(Self::LEN));
        }
        let (encapped, sealed) = self.0[1..].split_at(32);
        let encapped = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(encapped).map_err(|_| Error::Wrap)?;
        let opened = hpke::single_shot_open::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key.hpke(),
            &encapped,
            &context.info(),
            sealed,
            b"",
        );
        let plain = Zeroizing::new(opened.map_err(|_| Error::Wrap)?);
        let mut secret = [0; 32];
        secret.copy_from_slice(&plain);
        Ok(SessionKey(secret))
    }
}

impl std::str::FromStr for Wrap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Wrap::decode(&hex::decode(text).map_err(|_| Error::Form(text.len()))?)
    }
}

impl fmt::Display for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
bytes_serde!(Wrap, 81, "a wrapped session key (81 bytes)");

/// The secret of one session and epoch, made by its central. Wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// A fresh key.
    pub fn generate() -> Self {
        SessionKey(random())
    }

    /// The key that is these bytes.
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        SessionKey(*secret)
    }

    /// The secret bytes.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    /// What a session's head says of its key: binding (two keys never share it) and telling nothing about the key.
    pub fn commitment(&self) -> Hash {
        Hash::from_bytes(blake3::derive_key("diemcau 2026 session key commitment v1", &self.0))
    }

    /// Refuses this key unless it is the one committed to.
    pub fn check(&self, commitment: &Hash) -> Result<(), Error> {
        if self.commitment() == *commitment { Ok(()) } else { Err(Error::Commitment) }
    }

    /// Seals the key so that only `recipient`, in this context, can open it.
    pub fn wrap(&self, recipient: &WrapPublic, context: &WrapContext) -> Result<Wrap, Error> {
        self.wrap_with(recipient, context, &mut System)
    }

    fn wrap_with(
        &self,
        recipient: &WrapPublic,
        context: &WrapContext,
        rng: &mut impl hpke::rand_core::CryptoRng,
    ) -> Result<Wrap, Error> {
        let public = <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(recipient.as_bytes())
            .map_err(|_| Error::Recipient)?;
        let (encapped, sealed) = hpke::single_shot_seal_with_rng::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &context.info(),
            &self.0,
            b"",
            rng,
        )
        .map_err(|_| Error::Recipient)?;
        let mut bytes = [0; Wrap::LEN];
        bytes[0] = Wrap::VERSION;
        bytes[1..33].copy_from_slice(&encapped.to_bytes());
        bytes[33..].copy_from_slice(&sealed);
        Ok(Wrap(bytes))
    }

    /// The SFrame base key of one track in one epoch (RFC 9605 4.4: one sender per base key).
    pub(crate) fn base_key(&self, session: &SessionId, epoch: Epoch, track: TrackId) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"diemcau/1 sframe base key", session.as_bytes(), &[epoch], &track.to_u16().to_be_bytes()])
    }

    /// The key under which hashes of plaintext are made for signed segments.
    pub fn mac_key(&self, session: &SessionId, epoch: Epoch) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"diemcau/1 plaintext mac key", session.as_bytes(), &[epoch]])
    }

    /// The key of one group's hash of plaintext. It is derived from [`Self::mac_key`] for each group, so that one of them
    /// can be given away to prove a released group, and proves no other.
    pub fn group_mac_key(&self, group: &GroupId, epoch: Epoch) -> Zeroizing<[u8; 32]> {
        let key = SessionKey(*self.mac_key(&group.session, epoch));
        key.derive(&[
            b"diemcau/1 plaintext mac of group",
            &group.track.to_u16().to_be_bytes(),
            &group.seq.to_be_bytes(),
        ])
    }

    fn derive(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(info, key.as_mut_slice())
            .expect("32 bytes are within what HKDF-SHA256 gives");
        key
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// The operating system's randomness in the shape HPKE asks for.
struct System;

impl TryRng for System {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_ne_bytes(random()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_ne_bytes(random()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
        Ok(())
    }
}

impl TryCryptoRng for System {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PointNumber, TrackKind};

    type Kem = X25519HkdfSha256;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// Gives out the bytes it was made of: the sender's ephemeral key then is the vector's.
    struct Fixed([u8; 32]);

    impl TryRng for Fixed {
        type Error = std::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            unreachable!("HPKE draws its key in one piece")
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            unreachable!("HPKE draws its key in one piece")
        }
        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
            out.copy_from_slice(&self.0);
            Ok(())
        }
    }
    impl TryCryptoRng for Fixed {}

    /// RFC 9180 appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base mode.
    #[test]
    fn our_hpke_suite_agrees_with_rfc_9180() {
        let info = hex::decode("4f6465206f6e2061204772656369616e2055726e").unwrap();
        let ikm_sender = bytes::<32>("7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234");
        let ikm_recipient = bytes::<32>("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037");
        let enc = bytes::<32>("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
        let plain = hex::decode("4265617574792069732074727574682c20747275746820626561757479").unwrap();
        let sealed = [
            (
                "436f756e742d30",
                "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
            ),
            (
                "436f756e742d31",
                "af2d7e9ac9ae7e270f46ba1f975be53c09f8d875bdc8535458c2494e8a6eab251c03d0c22a56b8ca42c2063b84",
            ),
        ];

        let (secret, public) = Kem::derive_keypair(&ikm_recipient);
        let listed = bytes::<32>("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
        assert_eq!(WrapKey::from_bytes(&listed).hpke().to_bytes(), secret.to_bytes(), "the RFC lists it unclamped");
        assert_eq!(hex::encode(public.to_bytes()), "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
        let ours = WrapKey::from_bytes(&secret.to_bytes().into());
        assert_eq!(ours.public().as_bytes()[..], public.to_bytes()[..]);

        let (made, mut sender) = hpke::setup_sender_with_rng::<AesGcm128, HkdfSha256, Kem>(
            &OpModeS::Base,
            &public,
            &info,
            &mut Fixed(ikm_sender),
        )
        .unwrap();
        assert_eq!(made.to_bytes()[..], enc);
        let encapped = <Kem as hpke::Kem>::EncappedKey::from_bytes(&enc).unwrap();
        let mut recipient =
            hpke::setup_receiver::<AesGcm128, HkdfSha256, Kem>(&OpModeR::Base, &ours.hpke(), &encapped, &info).unwrap();
        for (aad, ciphertext) in sealed {
            let aad = hex::decode(aad).unwrap();
            assert_eq!(hex::encode(sender.seal(&plain, &aad).unwrap()), ciphertext);
            assert_eq!(recipient.open(&hex::decode(ciphertext).unwrap(), &aad).unwrap(), plain);
        }
    }

    fn context() -> WrapContext {
        WrapContext {
            session: SessionId::from_parts(1_700_000_000_000, [9; 10]),
            epoch: 3,
            recipient: NodeKey::from_bytes(&[1; 32]).id(),
        }
    }

    /// The first version's wrap of a fixed key for a fixed recipient; must open for ever.
    const WRAP_1: &str = include_str!("../tests/vectors/wrap-v1.hex");

    #[test]
    fn the_first_version_of_a_wrap_opens_for_ever() {
        let key = SessionKey::from_bytes(&[7; 32]);
        let recipient = WrapKey::from_bytes(&[2; 32]);
        let wrap = key.wrap_with(&recipient.public(), &context(), &mut Fixed([4; 32])).unwrap();
        assert_eq!(wrap.to_string(), WRAP_1.trim());
        let kept: Wrap = WRAP_1.trim().parse().unwrap();
        assert_eq!(kept.open(&recipient, &context()), Ok(key));
    }

    #[test]
    fn a_wrap_opens_only_for_its_recipient_and_in_its_context() {
        let key = SessionKey::generate();
        let recipient = WrapKey::generate();
        let wrap = key.wrap(&recipient.public(), &context()).unwrap();
        assert_eq!(wrap.open(&recipient, &context()), Ok(key.clone()));

        assert_eq!(wrap.open(&WrapKey::generate(), &context()), Err(Error::Wrap));
        for other in [
            WrapContext { epoch: 4, ..context() },
            WrapContext { session: SessionId::from_bytes([0; 16]), ..context() },
            WrapContext { recipient: NodeId::from_bytes([0; 32]), ..context() },
        ] {
            assert_eq!(wrap.open(&recipient, &other), Err(Error::Wrap), "{other:?}");
        }
        for at in 0..Wrap::LEN {
            let mut bytes = *wrap.as_bytes();
            bytes[at] ^= 0x10;
            assert!(Wrap::decode(&bytes).and_then(|wrap| wrap.open(&recipient, &context())).is_err(), "byte {at}");
        }
        assert_eq!(Wrap::decode(&wrap.as_bytes()[1..]), Err(Error::Form(80)));
    }

    #[test]
    fn two_wraps_of_one_key_share_nothing() {
        let (key, recipient) = (SessionKey::generate(), WrapKey::generate().public());
        let wraps = [(); 2].map(|()| key.wrap(&recipient, &context()).unwrap());
        assert_ne!(wraps[0].as_bytes()[1..33], wraps[1].as_bytes()[1..33]);
        assert_ne!(wraps[0].as_bytes()[33..], wraps[1].as_bytes()[33..]);
    }

    #[test]
    fn a_useless_recipient_key_is_refused() {
        let zero = WrapPublic::from_bytes([0; 32]);
        assert_eq!(SessionKey::generate().wrap(&zero, &context()), Err(Error::Recipient));
    }

    #[test]
    fn a_key_that_was_not_committed_to_is_refused() {
        let key = SessionKey::from_bytes(&[7; 32]);
        assert_eq!(key.check(&key.commitment()), Ok(()));
        assert_eq!(SessionKey::from_bytes(&[8; 32]).check(&key.commitment()), Err(Error::Commitment));
        let kept = "177fd8a1789529a547b255c42d87a7c07710f5d7e2162466daf5a5cacbf3cc15";
        assert_eq!(key.commitment().to_string(), kept);
    }

    #[test]
    fn every_derived_key_is_its_own() {
        let key = SessionKey::from_bytes(&[7; 32]);
        let session = context().session;
        let track = |point, kind| TrackId::new(PointNumber::new(point).unwrap(), kind);
        let base = key.base_key(&session, 3, track(1, TrackKind::Main));
        assert_eq!(hex::encode(*base), "e8840f27d1550682abd27a311b36c99eff727b9f9a43e631558edf34e14500fb");
        for other in [
            key.base_key(&session, 3, track(1, TrackKind::Audio)),
            key.base_key(&session, 3, track(2, TrackKind::Main)),
            key.base_key(&session, 4, track(1, TrackKind::Main)),
            key.base_key(&SessionId::from_bytes([0; 16]), 3, track(1, TrackKind::Main)),
            SessionKey::from_bytes(&[8; 32]).base_key(&session, 3, track(1, TrackKind::Main)),
            key.mac_key(&session, 3),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_signature_is_good_only_for_its_signer_and_message() {
        let key = NodeKey::generate();
        let signature = key.sign(b"message");
        assert_eq!(verify(&key.id(), b"message", &signature), Ok(()));
        assert_eq!(verify(&key.id(), b"massage", &signature), Err(Error::Signature));
        assert_eq!(verify(&NodeKey::generate().id(), b"message", &signature), Err(Error::Signature));
        assert_eq!(NodeKey::from_bytes(&key.secret_bytes()).id(), key.id());
    }

    #[test]
    fn secrets_are_never_printed() {
        let printed = format!(
            "{:?} {:?} {:?}",
            NodeKey::from_bytes(&[0xaa; 32]),
            WrapKey::from_bytes(&[0xaa; 32]),
            SessionKey::from_bytes(&[0xaa; 32])
        );
        assert!(!printed.contains("aaaa") && !printed.contains("170"), "{printed}");
    }
}
