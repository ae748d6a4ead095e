//! Signed records: COSE_Sign1 (RFC 9052) with Ed25519 over a deterministic CBOR payload, so that any COSE library can check
//! them without this program.
//!
//! The protected header names the algorithm, the kind of record with its version (as content type, so that a
//! signature over one kind can never be shown as another) and the signer (as key id). There is exactly one encoding,
//! since records are chained and compared by the hash of their bytes: whatever does not encode to the same bytes again
//! is refused before its signature is looked at. `node/TRUST.md` describes every kind for those who check without us.

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
    /// The payload contradicts itself or a limit, whoever signed it.
    #[error("the signed record has {0}")]
    Unsound(String),
}

/// Longest signed record in bytes, unless its kind says otherwise. A journal entry that names 8192 points has half of it.
pub const LEN_MAX: usize = 1 << 20;

/// Longest protected header in bytes. Ours have about 90; in a small one there is no room for much to build.
const HEADER_LEN_MAX: usize = 256;

/// A value that is signed. `KIND` names it and its version; when the form changes the name changes.
pub trait Content: Serialize + DeserializeOwned {
    /// Media type of the record, for instance `application/vnd.diemcau.journal.v1+cbor`.
    const KIND: &'static str;

    /// Longest record of this kind in bytes.
    const LEN_MAX: usize = LEN_MAX;

    /// Says, after "the record has", what in this value cannot be. Records of such values are refused.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
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

    /// Signs `content` if it is sound and not too long: what others would refuse is not signed.
    pub fn sound(content: T, key: &NodeKey) -> Result<Self, Error> {
        content.check().map_err(Error::Unsound)?;
        let signed = Self::new(content, key);
        match signed.bytes.len() {
            len if len > T::LEN_MAX => Err(Error::TooLong { len, max: T::LEN_MAX }),
            _ => Ok(signed),
        }
    }

    /// Reads a record and checks its form, its signature and its content. Whether the signer may sign such a thing is
    /// for the caller.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > T::LEN_MAX {
            return Err(Error::TooLong { len: bytes.len(), max: T::LEN_MAX });
        }
        outline(&bytes).ok_or(Error::Form)?;
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
        let content: T = cbor::decode(payload, T::LEN_MAX)?;
        content.check().map_err(Error::Unsound)?;
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

/// Whether the bytes are laid out as a record of ours: tag 18, four items, a short protected header, no unprotected one,
/// payload, signature. Looked at byte by byte first, since a CBOR reader turns each byte of a hostile record into a value of
/// thirty.
fn outline(bytes: &[u8]) -> Option<()> {
    let rest = bytes.strip_prefix(&[0xd2, 0x84])?;
    let (header, rest) = byte_string(rest)?;
    let (_payload, rest) = byte_string(rest.strip_prefix(&[0xa0])?)?;
    let (signature, rest) = byte_string(rest)?;
    (header.len() <= HEADER_LEN_MAX && signature.len() == 64 && rest.is_empty()).then_some(())
}

/// A CBOR byte string at the front, and what follows it.
fn byte_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (len, rest) = match first {
        0x40..=0x57 => (usize::from(first & 0x1f), rest),
        0x58 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x59 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        0x5a => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_be_bytes(*len)).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}
