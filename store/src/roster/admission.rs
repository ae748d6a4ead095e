//! An admission: one node came in on a [`Grant`]. The authority's key is not needed for it.
//!
//! Three signatures tell three things: the authority's under the grant, that there is such a place; the code key's
//! under the proof, that who held the code chose this node; the issuer's under the whole, that it let this node in
//! and, being the only one who can, no other.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Grant, GrantId, Unfit, check_addresses};
use crate::{
    id::{self, NodeId, bytes_serde},
    keys::{self, NodeKey, WrapPublic},
    signed::{Content, Signed},
};

/// The code key's signature over a grant and the node that takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof([u8; 64]);
bytes_serde!(Proof, 64, "a proof (128 hexadecimal digits)");

impl Proof {
    /// Proves, with the key derived from the code's secret, that the code's holder wants this node to come in.
    pub fn new(key: &NodeKey, grant: &GrantId, node: &NodeId, wrap: &WrapPublic) -> Self {
        Proof(key.sign(&Self::message(grant, node, wrap)))
    }

    /// The proof that is these bytes; whether it proves anything is another question.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Proof(bytes)
    }

    /// The bytes themselves.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// Whether the grant's code key made this proof for this node with this wrap key.
    pub fn check(&self, grant: &Grant, node: &NodeId, wrap: &WrapPublic) -> bool {
        keys::verify(&grant.key, &Self::message(&grant.id, node, wrap), &self.0).is_ok()
    }

    /// A domain that no other signature shares, then the three values, all of fixed length.
    fn message(grant: &GrantId, node: &NodeId, wrap: &WrapPublic) -> Vec<u8> {
        [&b"diemcau/1 grant taken by"[..], grant.as_bytes(), node.as_bytes(), wrap.as_bytes()].concat()
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Proof {
    type Err = id::Error;

    fn from_str(text: &str) -> Result<Self, id::Error> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| id::Error::text("a proof (128 hexadecimal digits)", text))?;
        Ok(Proof(bytes))
    }
}

/// A node let in by the issuer of a grant. Signed by that issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// The signed grant.
    pub grant: Bytes,
    /// The node that came in.
    pub node: NodeId,
    /// The key for which session keys are wrapped.
    pub wrap: WrapPublic,
    /// Where its mesh port may be reached.
    pub addresses: Vec<String>,
    /// That who held the code wants this node.
    pub proof: Proof,
    /// When, by the issuer's clock, unix milliseconds. Between two admissions on one grant the earlier counts.
    pub unix_ms: u64,
}

impl Content for Admission {
    const KIND: &'static str = "application/vnd.diemcau.admission.v1+cbor";

    /// The grant, sixteen addresses of 200 characters of up to four bytes, and the rest.
    const LEN_MAX: usize = 20 << 10;

    fn check(&self) -> Result<(), String> {
        check_addresses(&self.addresses).map_err(|why| format!("an admitted point: {why}"))
    }
}

impl Signed<Admission> {
    /// The grant, if this admission is a good use of it in a mesh of this authority. Whether a roster has made the
    /// grant void is for [`super::Membership`].
    pub fn grant(&self, authority: &NodeId) -> Result<Grant, Unfit> {
        let admission = self.content();
        let grant: Signed<Grant> = Signed::parse(admission.grant.clone()).map_err(Unfit::Grant)?;
        if grant.signer() != *authority {
            return Err(Unfit::Granter(grant.signer()));
        }
        let grant = grant.content();
        if self.signer() != grant.issuer {
            return Err(Unfit::Issuer { signer: self.signer(), issuer: grant.issuer });
        }
        if !admission.proof.check(grant, &admission.node, &admission.wrap) {
            return Err(Unfit::Proof);
        }
        if admission.unix_ms > grant.not_after_unix_ms {
            return Err(Unfit::Expired);
        }
        Ok(grant.clone())
    }
}
