//! Our names and libp2p's: a node id is an Ed25519 public key, a `PeerId` the same key in libp2p's wrapping.

use std::net::{IpAddr, SocketAddr};

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::multiaddr::{Multiaddr, Protocol};
use store::id::NodeId;
use store::keys::NodeKey;

/// The id is not an Ed25519 key. A roster can hold one, but nobody can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node id {0} is not an Ed25519 key: correct the roster")]
pub struct NotAKey(NodeId);

/// libp2p's name of a node.
pub fn peer_id(node: &NodeId) -> Result<PeerId, NotAKey> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).map_err(|_| NotAKey(*node))?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The node that libp2p calls `peer`. `None` if its key is not Ed25519.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    let multihash = peer.as_ref();
    // Code 0 is "identity": the key itself, in protobuf. Longer keys are hashed and cannot be ours.
    if multihash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(NodeId::from_bytes(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The node's key in libp2p's form.
pub fn keypair(key: &NodeKey) -> Keypair {
    let mut secret = key.secret_bytes();
    Keypair::ed25519_from_bytes(&mut *secret).expect("any 32 bytes are an Ed25519 secret")
}

/// The socket address a multiaddress begins with, if it begins with one.
pub(super) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

pub(super) fn quic(at: SocketAddr) -> Multiaddr {
    Multiaddr::from(at.ip()).with(Protocol::Udp(at.port())).with(Protocol::QuicV1)
}

pub(super) fn tcp(at: SocketAddr) -> Multiaddr {
    Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_through_libp2p() {
        let key = NodeKey::generate();
        let peer = peer_id(&key.id()).unwrap();
        assert_eq!(node_id(&peer), Some(key.id()));
        assert_eq!(keypair(&key).public().to_peer_id(), peer);
    }

    #[test]
    fn a_name_that_is_no_ed25519_key_is_no_node() {
        assert_eq!(node_id(&PeerId::random()), None);
        // The y coordinate 2 belongs to no point of the curve.
        let mut off = [0; 32];
        off[0] = 2;
        assert_eq!(peer_id(&NodeId::from_bytes(off)), Err(NotAKey(NodeId::from_bytes(off))));
    }

    #[test]
    fn socket_addresses_are_read_from_multiaddresses() {
        let at: SocketAddr = "10.1.2.3:7400".parse().unwrap();
        assert_eq!(socket(&quic(at)), Some(at));
        assert_eq!(socket(&tcp(at)), Some(at));
        assert_eq!(socket(&"/dns4/hue.vn/tcp/1".parse().unwrap()), None);
    }
}
