//! Copies that were asked for and copies that are there, each signed by who says so.
//!
//! An *assignment* is how a node that may not see a session comes to hold a copy of it: whoever looks after the session signs
//! which node is to hold what, and every point that has a part of it gives to who shows it. Nobody needs to know how
//! holders are chosen, or to choose the same ones. A *receipt* is the holder's word that its archive has everything a
//! manifest names; who keeps receipts knows where to look when a house has burnt down.

use serde::{Deserialize, Serialize};

use crate::{
    id::{Hash, NodeId, SessionId},
    signed::Content,
};

/// Most nodes an assignment can name as having something of the session.
pub const SENDERS_MAX: usize = 16;

/// Somebody is to hold a copy of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The session.
    pub session: SessionId,
    /// Hash of the signed manifest of what is to be held.
    pub manifest: Hash,
    /// Who is to hold it.
    pub holder: NodeId,
    /// How large it is: bytes of all groups.
    pub bytes: u64,
    /// Nodes that have something of it.
    pub senders: Vec<NodeId>,
    /// The signer's wall clock, unix milliseconds. For people; it decides nothing.
    pub wall_ms: u64,
}

impl Content for Assignment {
    const KIND: &'static str = "application/vnd.diemcau.assignment.v1+cbor";

    const LEN_MAX: usize = 2048;

    fn check(&self) -> Result<(), String> {
        match self.senders.len() {
            0..=SENDERS_MAX => Ok(()),
            more => Err(format!("{more} senders, more than {SENDERS_MAX}")),
        }
    }
}

/// The signer holds everything that a manifest says central keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The session.
    pub session: SessionId,
    /// Hash of the signed manifest.
    pub manifest: Hash,
    /// Groups held.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The signer's wall clock, unix milliseconds. For people; it decides nothing.
    pub wall_ms: u64,
}

impl Content for Receipt {
    const KIND: &'static str = "application/vnd.diemcau.receipt.v1+cbor";

    const LEN_MAX: usize = 1024;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::NodeKey, signed::Signed};

    #[test]
    fn records_of_copies_are_kept_for_ever_and_have_limits() {
        let key = NodeKey::from_bytes(&[7; 32]);
        let session = SessionId::from_bytes([0xaa; 16]);
        let (manifest, holder) = (Hash::from_bytes([0xbb; 32]), NodeId::from_bytes([0xcc; 32]));
        let receipt = Signed::new(Receipt { session, manifest, groups: 3, bytes: 500, wall_ms: 7 }, &key);
        assert_eq!(Signed::parse(receipt.bytes().clone()), Ok(receipt.clone()));
        let senders = vec![holder; SENDERS_MAX];
        let longest = Assignment { session, manifest, holder, bytes: u64::MAX, senders, wall_ms: u64::MAX };
        let signed = Signed::sound(longest.clone(), &key).unwrap();
        assert_eq!(Signed::parse(signed.bytes().clone()), Ok(signed.clone()));
        let more = Assignment { senders: vec![holder; SENDERS_MAX + 1], ..longest };
        assert!(Signed::sound(more, &key).is_err());
        let hashes = [receipt.hash(), signed.hash()].map(|hash| hash.short());
        assert_eq!(hashes, ["ad162bbc", "9a8af1cf"]);
        assert!(Signed::<Assignment>::parse(receipt.bytes().clone()).is_err(), "one is not the other");
    }
}
