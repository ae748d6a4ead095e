//! An IP packet as a router sees it: where it goes, whose it is, and how to say otherwise.
//!
//! Only IPv4, and of what it carries only UDP and TCP, as far as their ports. An address that is rewritten changes three
//! numbers far apart: itself, the checksum of the header, and that of UDP or TCP, which covers the addresses too. The
//! checksums are corrected by the difference (RFC 1624) and not computed anew, so that a packet which was damaged
//! before stays damaged and is refused where it arrives.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Length of an IP header without options.
const HEADER_LEN: usize = 20;
const TTL_AT: usize = 8;
const PROTOCOL_AT: usize = 9;
const CHECKSUM_AT: usize = 10;
const SOURCE_AT: usize = 12;
const DESTINATION_AT: usize = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is carried, as far as ports and a NAT's rules go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// Shortest header, and where in it the checksum stands.
    fn header(self) -> (usize, usize) {
        match self {
            Self::Udp => (8, 6),
            Self::Tcp => (20, 16),
        }
    }
}

/// Whose a packet is: the five numbers that name a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    pub(super) source: SocketAddrV4,
    pub(super) destination: SocketAddrV4,
}

/// A whole IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    bytes: Vec<u8>,
    header_len: usize,
}

impl Packet {
    /// `None` for what is not one whole IPv4 packet. Checksums are not looked at; whoever receives it does.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header_len = usize::from(first & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        let whole = first >> 4 == 4 && header_len >= HEADER_LEN && header_len <= total && total == bytes.len();
        whole.then(|| Self { bytes: bytes.to_vec(), header_len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn source(&self) -> Ipv4Addr {
        self.address(SOURCE_AT)
    }

    pub(super) fn destination(&self) -> Ipv4Addr {
        self.address(DESTINATION_AT)
    }

    pub(super) fn protocol(&self) -> Option<Protocol> {
        match self.bytes[PROTOCOL_AT] {
            UDP => Some(Protocol::Udp),
            TCP => Some(Protocol::Tcp),
            _ => None,
        }
    }

    /// `None` for what has no ports: other protocols, and fragments, of which only the first would have them.
    pub(super) fn flow(&self) -> Option<Flow> {
        let protocol = self.protocol()?;
        // More fragments, or not the first.
        let fragment = u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x3fff != 0;
        if fragment || self.bytes.len() < self.header_len + protocol.header().0 {
            return None;
        }
        let port = |at| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        Some(Flow {
            protocol,
            source: SocketAddrV4::new(self.source(), port(self.header_len)),
            destination: SocketAddrV4::new(self.destination(), port(self.header_len + 2)),
        })
    }

    /// The packet passes a router: false if it may pass no more.
    #[must_use]
    pub(super) fn hop(&mut self) -> bool {
        let Some(ttl @ 1..) = self.bytes[TTL_AT].checked_sub(1) else { return false };
        self.write(TTL_AT, [ttl, self.bytes[PROTOCOL_AT]], &[CHECKSUM_AT]);
        true
    }

    /// As if it came from there. Only for what has a [`Packet::flow`].
    pub(super) fn set_source(&mut self, source: SocketAddrV4) {
        self.set(SOURCE_AT, self.header_len, source);
    }

    /// As if it went there. Only for what has a [`Packet::flow`].
    pub(super) fn set_destination(&mut self, destination: SocketAddrV4) {
        self.set(DESTINATION_AT, self.header_len + 2, destination);
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    fn set(&mut self, address_at: usize, port_at: usize, to: SocketAddrV4) {
        let Some(protocol) = self.protocol() else { return };
        let inner = self.header_len + protocol.header().1;
        // UDP may do without a checksum; then it stays without.
        let without = protocol == Protocol::Udp && self.bytes[inner..inner + 2] == [0, 0];
        let [a, b, c, d] = to.ip().octets();
        let sums = if without { &[CHECKSUM_AT][..] } else { &[CHECKSUM_AT, inner] };
        self.write(address_at, [a, b], sums);
        self.write(address_at + 2, [c, d], sums);
        self.write(port_at, to.port().to_be_bytes(), &sums[1..]);
        if protocol == Protocol::Udp && !without && self.bytes[inner..inner + 2] == [0, 0] {
            // Zero would say that there is none; this is the same number in ones' complement.
            self.bytes[inner..inner + 2].fill(0xff);
        }
    }

    /// Writes two bytes that begin at an even place of what the checksums cover, and corrects those checksums.
    fn write(&mut self, at: usize, new: [u8; 2], checksums: &[usize]) {
        let old = [self.bytes[at], self.bytes[at + 1]];
        self.bytes[at..at + 2].copy_from_slice(&new);
        for &sum in checksums {
            let before = u16::from_be_bytes([self.bytes[sum], self.bytes[sum + 1]]);
            let after = corrected(before, u16::from_be_bytes(old), u16::from_be_bytes(new));
            self.bytes[sum..sum + 2].copy_from_slice(&after.to_be_bytes());
        }
    }
}

/// The checksum after `old` became `new`: RFC 1624, equation 3.
fn corrected(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
pub(super) mod tests;
