//! Signed records: COSE_Sign1 (RFC 9052) with Ed25519 over a deterministic CBOR payload, so that any COSE library can check
//! them without this program.
//!
//! The protected header names the algorithm, the kind of record with its version (as content type, so that a
//! signature over one kind can never be shown as another) and the signer (as key id). There is exactly one encoding,
//! since records are chained and compared by the hash of their bytes: whatever does not encode to the same bytes again
//! is refused before its signature is looked at.

use bytes::Bytes;
use coset::{CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _, iana};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cbor,
    id::{Hash, NodeId},
    keys::{self, NodeKey},
};

/// Why bytes are not a signed record of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than such a record may have.
    #[error("{len} bytes are more than the {max} a signed record may have")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not a COSE_Sign1 as this program writes them.
    #[error("the bytes are not a signed record")]
    Form,
    /// Another kind of record, or another version of it.
    #[error("the signed record is {found:?}, not {expected:?}")]
    Kind {
        /// What it says it is.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Not signed by whom it names, or changed since.
    #[error("the record's signature is not by the node it names: {0}")]
    Signature(NodeId),
    /// The payload is not what its kind says.
    #[error("the signed record's content")]
    Content(#[from] cbor::Error),
}

/// Longest signed record in bytes. A journal entry that names 8192 points has half of it.
pub const LEN_MAX: usize = 1 << 20;

/// A value that is signed. `KIND` names it and its version; when the form changes the name changes.
pub trait Content: Serialize + DeserializeOwned {
    /// Media type of the record, for instance `application/vnd.diemcau.journal.v1+cbor`.
    const KIND: &'static str;
}

/// A value with a good signature over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    content: T,
    signer: NodeId,
    bytes: Bytes,
}

impl<T: Content> Signed<T> {
    /// Signs `content`.
    pub fn new(content: T, key: &NodeKey) -> Self {
        let signer = key.id();
        let sign = CoseSign1Builder::new()
            .protected(header::<T>(&signer))
            .payload(cbor::encode(&content))
            .create_signature(b"", |message| key.sign(message).to_vec())
            .build();
        let bytes = sign.to_tagged_vec().expect("a COSE_Sign1 of ours can be encoded").into();
        Signed { content, signer, bytes }
    }

    /// Reads a record and checks its form and its signature. Whether the signer may sign such a thing is for the caller.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > LEN_MAX {
            return Err(Error::TooLong { len: bytes.len(), max: LEN_MAX });
        }
        let sign = CoseSign1::from_tagged_slice(&bytes).map_err(|_| Error::Form)?;
        let protected = &sign.protected.header;
        let signer = protected.key_id.as_slice().try_into().map(NodeId::from_bytes).map_err(|_| Error::Form)?;
        let found = match &protected.content_type {
            Some(coset::RegisteredLabel::Text(text)) => text.as_str(),
            _ => return Err(Error::Form),
        };
        if found != T::KIND {
            let found = found.chars().take(80).collect();
            return Err(Error::Kind { found, expected: T::KIND });
        }
        let payload = sign.payload.as_deref().ok_or(Error::Form)?;
        let signature: [u8; 64] = sign.signature.as_slice().try_into().map_err(|_| Error::Form)?;
        let again = CoseSign1Builder::new()
            .protected(header::<T>(&signer))
            .payload(payload.to_vec())
            .signature(signature.to_vec())
            .build();
        if again.to_tagged_vec().map_err(|_| Error::Form)? != bytes {
            return Err(Error::Form);
        }
        keys::verify(&signer, &sign.tbs_data(b""), &signature).map_err(|_| Error::Signature(signer))?;
        let content = cbor::decode(payload, LEN_MAX)?;
        Ok(Signed { content, signer, bytes })
    }

    /// What was signed.
    pub fn content(&self) -> &T {
        &self.content
    }

    /// Who signed it.
    pub fn signer(&self) -> NodeId {
        self.signer
    }

    /// The record as it is stored and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// BLAKE3 of the record, by which a later one refers to it.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.bytes)
    }
}

fn header<T: Content>(signer: &NodeId) -> coset::Header {
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .content_type(T::KIND.to_owned())
        .key_id(signer.as_bytes().to_vec())
        .build()
}
