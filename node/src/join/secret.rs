//! The secret of an invite and what is derived from it. 80 random bits: the inviting node looks at some sixty attempts a
//! minute, and whoever records a whole conversation has 2^80 guesses before him, so no slow hash is needed.
//!
//! Each use has a key of its own (BLAKE3 `derive_key`), so that what one of them shows says nothing of the others: the
//! id is spoken before anything is proved, the MAC key lies in the inviting node's folder, and the signing key is in
//! nobody's hands but those of who holds the code.

use std::fmt;

use blake3::{Hash, Hasher};
use store::id::NodeId;
use store::keys::NodeKey;
use store::roster::GrantId;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// What an invite code keeps from others. Wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Secret([u8; Secret::LEN]);

impl Secret {
    /// Bytes of a secret.
    pub const LEN: usize = 10;

    /// A fresh secret.
    ///
    /// # Panics
    /// If the operating system has no random bytes to give: nothing secret can be made then.
    pub fn generate() -> Self {
        let mut bytes = [0; Self::LEN];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// The secret that is these bytes.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(*bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The name under which the inviting node keeps the invite.
    pub fn id(&self) -> GrantId {
        let derived = blake3::derive_key("diemcau 2026 invite id v1", &self.0);
        GrantId::from_bytes(*derived.first_chunk().expect("16 of 32 bytes"))
    }

    /// The key of the proofs in the conversation.
    pub fn mac_key(&self) -> MacKey {
        MacKey(blake3::derive_key("diemcau 2026 invite mac key v1", &self.0))
    }

    /// The key whose public half the authority grants a place to.
    pub fn signing_key(&self) -> NodeKey {
        NodeKey::from_bytes(&Zeroizing::new(blake3::derive_key("diemcau 2026 invite signing key v1", &self.0)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The new node.
    Knocker,
    /// The inviting node.
    Host,
}

/// Two nodes on one connection, as both of them see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Keying material of the connection's TLS (RFC 8446 7.5). No other connection has the same, so a proof that was
    /// recorded or passed on is worth nothing.
    pub binding: [u8; 32],
    /// The new node, as its certificate proves.
    pub knocker: NodeId,
    /// The inviting node, likewise.
    pub host: NodeId,
}

/// The key of the proofs. Wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// A key nobody has, to be tried in place of one that does not exist.
    ///
    /// # Panics
    /// If the operating system has no random bytes to give.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// The key that is these bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(*bytes)
    }

    /// The bytes, to be kept in a file only its owner can read.
    pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    /// What shows that `role` knows the secret, on this line and for this invite alone. Hashes compare in the same time
    /// whatever they are.
    pub fn proof(&self, role: Role, line: &Line, invite: &GrantId) -> Hash {
        let mut hasher = Hasher::new_keyed(&self.0);
        hasher.update(match role {
            Role::Knocker => b"diemcau join 1 knocker",
            Role::Host => b"diemcau join 1 host...",
        });
        for part in [&line.binding[..], line.knocker.as_bytes(), line.host.as_bytes(), invite.as_bytes()] {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line { binding: [1; 32], knocker: NodeId::from_bytes([2; 32]), host: NodeId::from_bytes([3; 32]) }
    }

    #[test]
    fn what_is_derived_stays_the_same_for_ever() {
        let secret = Secret::from_bytes(b"0123456789");
        let proof = secret.mac_key().proof(Role::Knocker, &line(), &secret.id());
        let derived = [secret.id().to_string(), secret.signing_key().id().to_string(), proof.to_string()];
        assert_eq!(derived, V1);
    }

    const V1: [&str; 3] = [
        "cba2e6fd9c29ea344c80bdffecebb552",
        "57805ca83abb5f5132d9d05b753b4c76ca82843855a43de9578bccd17feb342b",
        "04905efa2fb4c00b344c11beb3f75b02be0821f0bf4b0bfec2fbe8f5f67b749a",
    ];

    #[test]
    fn a_proof_is_for_one_side_one_line_and_one_invite() {
        let (secret, other) = (Secret::from_bytes(b"0123456789"), Secret::from_bytes(b"0123456780"));
        let (key, id) = (secret.mac_key(), secret.id());
        let proof = key.proof(Role::Knocker, &line(), &id);
        let lines = [
            Line { binding: [9; 32], ..line() },
            Line { knocker: NodeId::from_bytes([9; 32]), ..line() },
            Line { host: NodeId::from_bytes([9; 32]), ..line() },
            Line { knocker: line().host, host: line().knocker, ..line() },
        ];
        assert!(lines.iter().all(|line| key.proof(Role::Knocker, line, &id) != proof));
        assert_ne!(key.proof(Role::Host, &line(), &id), proof);
        assert_ne!(key.proof(Role::Knocker, &line(), &other.id()), proof);
        assert_ne!(other.mac_key().proof(Role::Knocker, &line(), &id), proof);
    }

    #[test]
    fn printing_a_secret_shows_nothing() {
        let secret = Secret::generate();
        assert_ne!(secret, Secret::generate());
        assert_eq!(format!("{secret:?} {:?}", secret.mac_key()), "Secret(..) MacKey(..)");
    }
}
