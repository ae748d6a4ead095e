//! The first words between two points: which version they speak and where their sound and picture are received.
//!
//! The protocol's name never changes, so that any two versions can exchange this much and each can tell its people why it
//! goes no further. A version we do not know is refused, not guessed at.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What this program speaks, over the mesh and on the media plane.
pub const VERSION: u32 = 1;
/// Largest greeting in bytes, with room for what later versions add.
pub const BYTES_MAX: usize = 8 * 1024;
/// Addresses of a point we are ready to try.
const CANDIDATES_MAX: usize = 8;
/// Longest name taken from a greeting, in characters. The roster's name is the one that counts.
const NAME_CHARS_MAX: usize = 200;

/// A greeting. A map in CBOR; fields unknown to the reader are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Comes first in every version.
    pub version: u32,
    /// Program and its version, for logs.
    pub program: String,
    /// What the sender calls itself.
    pub name: String,
    /// UDP port of its media plane. 0: it has none.
    pub media_port: u16,
    /// Addresses it believes it has.
    pub addresses: Vec<IpAddr>,
    /// Port of its mesh, UDP and TCP. 0: it does not say.
    #[serde(default)]
    pub mesh_port: u16,
}

/// Why a greeting leads nowhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It is another version.
    #[error("it speaks version {0} of the mesh and this program version {VERSION}: update the older one")]
    Version(u32),
    /// It is no greeting.
    #[error("its greeting cannot be read")]
    Garbage,
}

impl Hello {
    /// The greeting as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).expect("writing into memory does not fail");
        bytes
    }

    /// Reads a greeting of at most [`BYTES_MAX`], and cuts its texts to what may be shown.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = ciborium::from_reader(bytes).map_err(|_| Error::Garbage)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let mut hello: Self = ciborium::from_reader(bytes).map_err(|_| Error::Garbage)?;
        for text in [&mut hello.name, &mut hello.program] {
            *text = text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        }
        Ok(hello)
    }

    /// Where to try its media plane: first where it was `seen` connecting from, then where it says it is.
    pub fn media(&self, seen: &[IpAddr]) -> Vec<SocketAddr> {
        self.candidates(self.media_port, seen)
    }

    /// Where to call it when this connection is lost, in the same order.
    pub fn mesh(&self, seen: &[IpAddr]) -> Vec<SocketAddr> {
        self.candidates(self.mesh_port, seen)
    }

    fn candidates(&self, port: u16, seen: &[IpAddr]) -> Vec<SocketAddr> {
        if port == 0 {
            return Vec::new();
        }
        let near = seen.iter().any(IpAddr::is_loopback);
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for &ip in seen.iter().chain(self.addresses.iter().filter(|ip| dialable(ip, near))) {
            let address = SocketAddr::new(ip, port);
            if !candidates.contains(&address) && candidates.len() < CANDIDATES_MAX {
                candidates.push(address);
            }
        }
        candidates
    }
}

/// Whether an address that somebody else reports can lead to them. Loopback addresses do only when they are `near`, on
/// this machine; link-local IPv6 addresses need a zone that the report does not carry.
pub(super) fn dialable(ip: &IpAddr, near: bool) -> bool {
    let linklocal = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !ip.is_unspecified() && !ip.is_multicast() && !linklocal && (near || !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            program: "diemcau 0.1.0".into(),
            name: "UBND xã Kim Thành".into(),
            media_port: 7500,
            addresses: ["127.0.0.1", "0.0.0.0", "192.168.1.5", "fe80::1", "2001:db8::5"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            mesh_port: 7400,
        }
    }

    #[test]
    fn a_greeting_keeps_its_bytes() {
        let bytes = hello().encode();
        let expected = "a66776657273696f6e016770726f6772616d6d6469656d63617520302e312e30646e616d65735542\
                        4e442078c3a3204b696d205468c3a06e68";
        let expected: String = expected.split_whitespace().collect();
        assert!(hex::encode(&bytes).starts_with(&expected), "{}", hex::encode(&bytes));
        assert_eq!(Hello::decode(&bytes).unwrap(), hello());
    }

    #[test]
    fn another_version_is_named_even_if_all_else_changed() {
        let mut later = Vec::new();
        ciborium::into_writer(&std::collections::BTreeMap::from([("version", 7)]), &mut later).unwrap();
        assert_eq!(Hello::decode(&later), Err(Error::Version(7)));
        assert_eq!(
            Error::Version(7).to_string(),
            "it speaks version 7 of the mesh and this program version 1: update the older one"
        );
    }

    #[test]
    fn rubbish_is_no_greeting() {
        let whole = hello().encode();
        for bytes in [&b""[..], b"GET / HTTP/1.1", &[0xff; 100], &whole[..whole.len() - 1], &[0x9b; 9]] {
            assert_eq!(Hello::decode(bytes), Err(Error::Garbage));
        }
    }

    #[test]
    fn media_is_tried_first_where_the_point_was_seen() {
        let media = hello().media(&["10.0.0.9".parse().unwrap()]);
        assert_eq!(media, ["10.0.0.9:7500", "192.168.1.5:7500", "[2001:db8::5]:7500"].map(|a| a.parse().unwrap()));
        let near = hello().media(&["127.0.0.1".parse().unwrap()]);
        assert_eq!(near[0], "127.0.0.1:7500".parse().unwrap());
        assert_eq!(Hello { media_port: 0, ..hello() }.media(&[]), []);
        assert_eq!(hello().mesh(&[])[0], "192.168.1.5:7400".parse().unwrap());
    }
}
