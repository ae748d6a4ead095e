//! A grant: the authority's word that one more node may become a point, given before the node is known.
//!
//! It names the point that may redeem it (the issuer), so that it is used once however often it is shown: one machine
//! decides, and writes down that it did. It names a key derived from the secret of the invitation's code, so that the issuer alone
//! cannot use it up for a node of its choice without having held the code.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Right, check_place};
use crate::{
    id::{self, NodeId, bytes_serde},
    keys,
    signed::Content,
};

/// Names a grant: 16 random bytes, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId([u8; 16]);
bytes_serde!(GrantId, 16, "a grant's id (32 hexadecimal digits)");

impl GrantId {
    /// A fresh id.
    pub fn generate() -> Self {
        GrantId(keys::random())
    }

    /// The id that is these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        GrantId(bytes)
    }

    /// The bytes themselves.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for GrantId {
    type Err = id::Error;

    fn from_str(text: &str) -> Result<Self, id::Error> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| id::Error::text("a grant's id (32 hexadecimal digits)", text))?;
        Ok(GrantId(bytes))
    }
}

/// A place in the mesh for whoever holds an invitation's code. Signed by the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its name, by which a roster can make it void.
    pub id: GrantId,
    /// The point that redeems it. No other can.
    pub issuer: NodeId,
    /// What the new point will be called.
    pub name: String,
    /// Its level of administration; may be empty.
    pub level: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// What it may do.
    pub rights: BTreeSet<Right>,
    /// The node whose place it takes, which is revoked by that.
    pub replaces: Option<NodeId>,
    /// Public half of the Ed25519 key derived from the code's secret.
    pub key: NodeId,
    /// The last moment at which it may be used, by the issuer's clock, unix milliseconds.
    pub not_after_unix_ms: u64,
}

impl Content for Grant {
    const KIND: &'static str = "application/vnd.diemcau.grant.v1+cbor";

    /// Three texts of 200 characters of up to four bytes, and the rest.
    const LEN_MAX: usize = 4 << 10;

    fn check(&self) -> Result<(), String> {
        check_place(&self.name, &self.level, &self.zone).map_err(|why| format!("a point to be admitted: {why}"))
    }
}
