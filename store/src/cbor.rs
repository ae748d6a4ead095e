//! Deterministic CBOR (RFC 8949 4.2.1): shortest integers, definite lengths, map keys in the order of their bytes.
//!
//! What is signed or hashed must have one encoding, or two honest programs disagree about a hash. `ciborium` writes
//! the shortest forms but leaves maps in the order of the struct's fields, so values are sorted on the way out, and on the way in
//! whatever does not encode to the same bytes again is refused.

use ciborium::Value;
use serde::{Serialize, de::DeserializeOwned};

/// Why bytes are not the value they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than such a value may have.
    #[error("{len} bytes are more than the {max} such a record may have")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not CBOR, or not in its one deterministic form.
    #[error("the record is not deterministic CBOR")]
    Form,
    /// CBOR, but not of what is expected here.
    #[error("the record does not hold what it should: {0}")]
    Content(String),
    /// The version byte names a form this program does not know.
    #[error("the record has version {found}; this program reads version {known}")]
    Version {
        /// Found in front of the record.
        found: u8,
        /// What this program reads.
        known: u8,
    },
}

/// The deterministic encoding of a value of ours.
///
/// # Panics
/// If the value cannot be CBOR: our own types all can.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let value = Value::serialized(value).expect("our own records are CBOR");
    write(&sort(value).expect("our own records have no key twice"))
}

/// Reads a value of at most `max` bytes and refuses any but its deterministic encoding.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, Error> {
    if bytes.len() > max {
        return Err(Error::TooLong { len: bytes.len(), max });
    }
    let value: Value = ciborium::from_reader(bytes).map_err(|_| Error::Form)?;
    let value = sort(value).ok_or(Error::Form)?;
    // Also refuses bytes after the value, which the reader leaves alone.
    if write(&value) != bytes {
        return Err(Error::Form);
    }
    let value: T = value.deserialized().map_err(|error| Error::Content(error.to_string()))?;
    // The reader passes over tags and may take one form of a field for another, so the value itself has the last word.
    if encode(&value) != bytes {
        return Err(Error::Form);
    }
    Ok(value)
}

/// A version byte, then the value: how records that may change form are stored.
pub fn encode_versioned<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    bytes.append(&mut encode(value));
    bytes
}

/// Reads what [`encode_versioned`] wrote with this version; other versions are refused, never guessed.
pub fn decode_versioned<T: Serialize + DeserializeOwned>(version: u8, bytes: &[u8], max: usize) -> Result<T, Error> {
    let (found, rest) = bytes.split_first().ok_or(Error::Form)?;
    if *found != version {
        return Err(Error::Version { found: *found, known: version });
    }
    decode(rest, max)
}

fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a Vec takes all that is written");
    bytes
}

/// The value with all maps sorted by the bytes of their keys; `None` if a map has a key twice. The depth is bounded
/// by the reader (256) or by our own types.
fn sort(value: Value) -> Option<Value> {
    Some(match value {
        Value::Map(pairs) => {
            let mut pairs = pairs
                .into_iter()
                .map(|(key, value)| {
                    let key = sort(key)?;
                    Some((write(&key), key, sort(value)?))
                })
                .collect::<Option<Vec<_>>>()?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            if pairs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return None;
            }
            Value::Map(pairs.into_iter().map(|(_, key, value)| (key, value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sort).collect::<Option<_>>()?),
        Value::Tag(tag, inner) => Value::Tag(tag, Box::new(sort(*inner)?)),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        zz: u64,
        a: String,
    }

    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let bytes = encode(&Sample { zz: 1000, a: "á".into() });
        assert_eq!(hex::encode(&bytes), "a2616162c3a1627a7a1903e8");
        assert_eq!(decode::<Sample>(&bytes, 100), Ok(Sample { zz: 1000, a: "á".into() }));
    }

    #[test]
    fn any_other_encoding_of_the_same_value_is_refused() {
        for (what, hex) in [
            ("keys in another order", "a2627a7a1903e8616162c3a1"),
            ("a long integer", "a2616162c3a1627a7a1a000003e8"),
            ("an indefinite map", "bf616162c3a1627a7a1903e8ff"),
            ("a key twice", "a3616162c3a1616162c3a1627a7a1903e8"),
            ("a byte after it", "a2616162c3a1627a7a1903e800"),
        ] {
            let bytes = hex::decode(hex).unwrap();
            assert_eq!(decode::<Sample>(&bytes, 100), Err(Error::Form), "{what}");
        }
    }

    #[test]
    fn a_tag_that_the_reader_passes_over_is_refused() {
        let node = crate::id::NodeId::from_bytes([7; 32]);
        let bytes = encode(&node);
        assert_eq!(decode(&bytes, 100), Ok(node));
        assert_eq!(decode::<crate::id::NodeId>(&[&[0xce], &bytes[..]].concat(), 100), Err(Error::Form));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let bytes = encode(&BTreeMap::from([("a", "x"), ("b", "y"), ("zz", "z")]));
        assert!(matches!(decode::<Sample>(&bytes, 100), Err(Error::Content(_))));
        assert_eq!(decode::<Sample>(&bytes, 3), Err(Error::TooLong { len: bytes.len(), max: 3 }));
        let bytes = encode_versioned(2, &1u8);
        assert_eq!(decode_versioned::<u8>(1, &bytes, 9), Err(Error::Version { found: 2, known: 1 }));
        assert_eq!(decode_versioned::<u8>(2, &bytes, 9), Ok(1));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Sample>(&bytes, 200);
        }
    }
}
