//! A request: a node's own word on its keys and on what it wants to be called, for the authority to make it a point by
//! hand. For machines that cannot be invited over the network.
//!
//! It is signed by the node, so that nobody can be made to list a key he does not have, and a letter lost on the way is
//! noticed. It claims nothing else: what it may do is for the authority to say.

use serde::{Deserialize, Serialize};

use super::{check_addresses, check_place};
use crate::{keys::WrapPublic, signed::Content};

/// What a node asks for. Signed by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The key for which session keys are to be wrapped.
    pub wrap: WrapPublic,
    /// What it wants to be called.
    pub name: String,
    /// Its level of administration; may be empty.
    pub level: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Where its mesh port may be reached.
    pub addresses: Vec<String>,
}

impl Content for Request {
    const KIND: &'static str = "application/vnd.diemcau.request.v1+cbor";

    /// Three texts and sixteen addresses of 200 characters of up to four bytes, and the rest.
    const LEN_MAX: usize = 16 << 10;

    fn check(&self) -> Result<(), String> {
        check_place(&self.name, &self.level, &self.zone)
            .and_then(|()| check_addresses(&self.addresses))
            .map_err(|why| format!("a point asked for: {why}"))
    }
}
