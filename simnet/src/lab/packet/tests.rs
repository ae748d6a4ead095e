//! Packets made and judged by the long way: every checksum summed up from all the bytes it covers.

use super::*;

pub(in crate::lab) fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an address and a port")
}

fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let words = bytes.chunks(2).map(|word| u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum that IP gives UDP and TCP: over addresses, protocol, length, and all they carry.
fn inner_sum(bytes: &[u8], header_len: usize) -> u16 {
    let length = (bytes.len() - header_len) as u16;
    sum(&[&bytes[12..20], &[0, bytes[9]], &length.to_be_bytes(), &bytes[header_len..]])
}

/// A packet with right checksums.
pub(in crate::lab) fn packet(protocol: Protocol, from: &str, to: &str, payload: &[u8]) -> Packet {
    let (inner_len, sum_at) = protocol.header();
    let (from, to) = (at(from), at(to));
    let total = HEADER_LEN + inner_len + payload.len();
    let mut bytes = vec![0; HEADER_LEN + inner_len];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    bytes[TTL_AT] = 64;
    bytes[PROTOCOL_AT] = if protocol == Protocol::Udp { UDP } else { TCP };
    bytes[SOURCE_AT..][..4].copy_from_slice(&from.ip().octets());
    bytes[DESTINATION_AT..][..4].copy_from_slice(&to.ip().octets());
    let header_sum = !sum(&[&bytes[..HEADER_LEN]]);
    bytes[CHECKSUM_AT..][..2].copy_from_slice(&header_sum.to_be_bytes());
    bytes[HEADER_LEN..][..2].copy_from_slice(&from.port().to_be_bytes());
    bytes[HEADER_LEN + 2..][..2].copy_from_slice(&to.port().to_be_bytes());
    if protocol == Protocol::Udp {
        bytes[HEADER_LEN + 4..][..2].copy_from_slice(&((inner_len + payload.len()) as u16).to_be_bytes());
    }
    bytes.extend_from_slice(payload);
    let inner = !inner_sum(&bytes, HEADER_LEN);
    let inner = if protocol == Protocol::Udp && inner == 0 { 0xffff } else { inner };
    bytes[HEADER_LEN + sum_at..][..2].copy_from_slice(&inner.to_be_bytes());
    Packet::parse(&bytes).expect("a whole packet")
}

#[track_caller]
fn must_be_right(packet: &Packet) {
    assert_eq!(sum(&[&packet.bytes[..packet.header_len]]), 0xffff, "the header's checksum");
    assert_eq!(inner_sum(&packet.bytes, packet.header_len), 0xffff, "the checksum of what it carries");
}

#[test]
fn a_rewritten_packet_is_right_whatever_the_numbers() {
    let ends = ["192.168.1.10:7500", "0.0.0.0:0", "255.255.255.255:65535", "198.18.0.1:1", "1.2.3.4:256"];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for payload in [&b""[..], b"x", b"even", &[0xff; 1400]] {
            for (from, to) in ends.iter().flat_map(|from| ends.map(|to| (from, to))) {
                let mut packet = packet(protocol, "10.0.0.1:7500", "10.0.0.2:7400", payload);
                must_be_right(&packet);
                packet.set_source(at(from));
                packet.set_destination(at(to));
                assert_eq!(packet.flow(), Some(Flow { protocol, source: at(from), destination: at(to) }));
                must_be_right(&packet);
                assert!(packet.bytes.ends_with(payload));
            }
        }
    }
}

#[test]
fn a_checksum_of_udp_never_becomes_the_zero_that_means_none() {
    // Of all payloads of two bytes, the one with which the sum over the new addresses has every bit set.
    let found = (0..=u16::MAX).any(|word| {
        let mut packet = packet(Protocol::Udp, "10.0.0.1:7500", "10.0.0.2:7400", &word.to_be_bytes());
        packet.set_source(at("198.18.0.1:1024"));
        must_be_right(&packet);
        packet.bytes[HEADER_LEN + 6..][..2] == [0xff, 0xff]
    });
    assert!(found);
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut packet = packet(Protocol::Udp, "10.0.0.1:7500", "10.0.0.2:7400", b"payload");
    packet.bytes[HEADER_LEN + 6..][..2].fill(0);
    packet.set_source(at("198.18.0.1:1024"));
    assert_eq!(packet.bytes[HEADER_LEN + 6..][..2], [0, 0]);
    assert_eq!(sum(&[&packet.bytes[..HEADER_LEN]]), 0xffff);
}

#[test]
fn what_was_damaged_stays_damaged() {
    let mut packet = packet(Protocol::Tcp, "10.0.0.1:7500", "10.0.0.2:7400", b"payload");
    packet.bytes[HEADER_LEN + 20] ^= 1;
    packet.set_source(at("198.18.0.1:1024"));
    assert_ne!(inner_sum(&packet.bytes, HEADER_LEN), 0xffff);
}

#[test]
fn a_packet_passes_as_many_routers_as_it_may() {
    let mut packet = packet(Protocol::Udp, "10.0.0.1:7500", "10.0.0.2:7400", b"payload");
    for _ in 0..63 {
        assert!(packet.hop());
        must_be_right(&packet);
    }
    assert!(!packet.hop());
}

#[test]
fn options_of_the_header_are_passed_over() {
    let plain = packet(Protocol::Udp, "10.0.0.1:7500", "10.0.0.2:7400", b"payload");
    let mut bytes = plain.bytes.clone();
    bytes.splice(HEADER_LEN..HEADER_LEN, [1, 1, 1, 1]);
    bytes[0] = 0x46;
    let total = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[CHECKSUM_AT..][..2].fill(0);
    let header_sum = !sum(&[&bytes[..HEADER_LEN + 4]]);
    bytes[CHECKSUM_AT..][..2].copy_from_slice(&header_sum.to_be_bytes());
    let mut packet = Packet::parse(&bytes).expect("a whole packet");
    assert_eq!(packet.flow(), plain.flow());
    packet.set_destination(at("198.18.0.1:7400"));
    must_be_right(&packet);
}

#[test]
fn what_is_no_packet_is_none_and_what_has_no_ports_has_no_flow() {
    let whole = packet(Protocol::Tcp, "10.0.0.1:7500", "10.0.0.2:7400", b"payload").bytes;
    for end in 0..whole.len() {
        assert_eq!(Packet::parse(&whole[..end]), None, "of {end} bytes");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Packet::parse(&bytes)
    };
    assert_eq!(with(0, 0x65), None, "another version");
    assert_eq!(with(0, 0x44), None, "a header too short");
    assert_eq!(with(0, 0x4f), None, "a header longer than the packet");
    assert_eq!(with(PROTOCOL_AT, 1).and_then(|packet| packet.flow()), None, "another protocol");
    assert_eq!(with(6, 0x20).and_then(|packet| packet.flow()), None, "a first fragment");
    assert_eq!(with(7, 1).and_then(|packet| packet.flow()), None, "a later fragment");
    let mut short = packet(Protocol::Udp, "10.0.0.1:7500", "10.0.0.2:7400", b"").bytes;
    short[PROTOCOL_AT] = TCP;
    assert_eq!(Packet::parse(&short).and_then(|packet| packet.flow()), None, "too short for its ports");
}
