//! What each kind lets through and how long, in packets' words.

use super::*;
use crate::lab::packet::tests::at;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const HOST: &str = "192.168.1.10:7500";
const S: Duration = Duration::from_secs(1);

fn flow(from: impl ToString, to: impl ToString) -> Flow {
    Flow { protocol: Protocol::Udp, source: at(&from.to_string()), destination: at(&to.to_string()) }
}

fn nat(kind: Kind) -> Nat {
    Nat::new(kind, PUBLIC)
}

/// Sends from the host to `to`, and says by which public end.
fn out(nat: &mut Nat, now: Duration, from: &str, to: &str) -> SocketAddrV4 {
    nat.outward(now, &flow(from, to)).expect("a mapping")
}

/// Whether a packet from `from` to that public end reaches the host.
fn comes_in(nat: &mut Nat, now: Duration, from: &str, to: SocketAddrV4) -> bool {
    match nat.inward(now, &flow(from, to)) {
        Some(host) => {
            assert_eq!(host, at(HOST));
            true
        }
        None => false,
    }
}

#[test]
fn each_kind_lets_in_whom_it_should() {
    // Written to: 9.9.9.9:1. Then: the same, another port there, another address.
    let expected = [[true, true, true], [true, true, false], [true, false, false], [true, false, false]];
    for ((name, kind), expected) in Kind::USUAL.iter().zip(expected) {
        let mut nat = nat(*kind);
        let public = out(&mut nat, S, HOST, "9.9.9.9:1");
        let got = ["9.9.9.9:1", "9.9.9.9:2", "8.8.8.8:1"].map(|from| comes_in(&mut nat, S, from, public));
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_mapping_depends_on_the_remote_end_as_its_kind_says() {
    let ends = ["9.9.9.9:1", "9.9.9.9:2", "8.8.8.8:1"];
    for (mapping, different) in
        [(Dependence::Independent, 1), (Dependence::Address, 2), (Dependence::AddressAndPort, 3)]
    {
        let mut nat = nat(Kind { mapping, filtering: Dependence::Independent });
        let mut ports: Vec<_> = ends.map(|end| out(&mut nat, S, HOST, end).port()).to_vec();
        assert_eq!(ends.map(|end| out(&mut nat, S * 2, HOST, end).port()).to_vec(), ports, "they stay");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), different, "{mapping:?}");
    }
}

#[test]
fn hosts_and_protocols_do_not_share_a_port_nor_keep_their_own() {
    let mut nat = nat(Kind::FULL_CONE);
    let first = out(&mut nat, S, HOST, "9.9.9.9:1");
    let second = out(&mut nat, S, "192.168.1.11:7500", "9.9.9.9:1");
    let tcp = Flow { protocol: Protocol::Tcp, ..flow(HOST, "9.9.9.9:1") };
    let third = nat.outward(S, &tcp).expect("a mapping");
    assert!(first != second && first != third);
    assert_eq!(nat.inward(S, &flow("9.9.9.9:1", second)), Some(at("192.168.1.11:7500")));
    assert_eq!(nat.inward(S, &flow("9.9.9.9:1", third)), None, "that port is TCP's");
    for port in PORT_MIN..PORT_MIN + 50 {
        let public = out(&mut nat, S, &format!("192.168.1.12:{port}"), "9.9.9.9:1");
        assert_ne!(public.port(), port);
    }
}

#[test]
fn nobody_comes_in_before_something_went_out_or_by_another_address() {
    let mut nat = nat(Kind::FULL_CONE);
    assert!(!comes_in(&mut nat, S, "9.9.9.9:1", SocketAddrV4::new(PUBLIC, PORT_MIN)));
    let public = out(&mut nat, S, HOST, "9.9.9.9:1");
    assert!(!comes_in(&mut nat, S, "9.9.9.9:1", SocketAddrV4::new(Ipv4Addr::new(198, 18, 1, 2), public.port())));
}

#[test]
fn packets_outwards_keep_a_mapping_and_packets_inwards_do_not() {
    let mut nat = nat(Kind::PORT_RESTRICTED);
    let idle = idle_max(Protocol::Udp);
    let public = out(&mut nat, S, HOST, "9.9.9.9:1");
    let just = S + idle - Duration::from_nanos(1);
    assert!(comes_in(&mut nat, just, "9.9.9.9:1", public));
    assert!(!comes_in(&mut nat, S + idle, "9.9.9.9:1", public));
    // Forgotten, it may come back as another.
    let again = out(&mut nat, S + idle, HOST, "9.9.9.9:1");
    assert_ne!(again, public);
    assert!(!comes_in(&mut nat, S + idle, "9.9.9.9:1", public));
    assert!(comes_in(&mut nat, S + idle, "9.9.9.9:1", again));
    assert_eq!(out(&mut nat, S + idle * 2 - Duration::from_nanos(1), HOST, "9.9.9.9:1"), again);
    assert!(comes_in(&mut nat, S + idle * 2, "9.9.9.9:1", again));
    // Other remote ends keep the mapping, not each other's leave to answer.
    let mut nat = self::nat(Kind::PORT_RESTRICTED);
    let public = out(&mut nat, S, HOST, "9.9.9.9:1");
    assert_eq!(out(&mut nat, just, HOST, "8.8.8.8:1"), public);
    assert!(!comes_in(&mut nat, S + idle, "9.9.9.9:1", public));
    assert!(comes_in(&mut nat, S + idle, "8.8.8.8:1", public));
}

#[test]
fn mappings_are_bounded_and_those_forgotten_make_room() {
    let mut nat = nat(Kind::SYMMETRIC);
    let to = |n: usize| format!("9.9.{}.{}:1", n / 250, n % 250 + 1);
    for n in 0..MAPPINGS_MAX {
        out(&mut nat, S, HOST, &to(n));
    }
    assert_eq!(nat.outward(S * 2, &flow(HOST, "8.8.8.8:1")), None);
    assert_eq!(out(&mut nat, S * 2, HOST, &to(0)).port(), PORT_MIN, "those that are there go on");
    out(&mut nat, S + idle_max(Protocol::Udp), HOST, "8.8.8.8:1");
    assert_eq!((nat.mappings.len(), nat.ports.len()), (2, 2));
}

#[test]
fn remote_ends_are_bounded_and_the_oldest_makes_room() {
    let mut nat = nat(Kind::PORT_RESTRICTED);
    let mut public = out(&mut nat, S, HOST, "8.8.8.8:1");
    for n in 0..REMOTES_MAX {
        public = out(&mut nat, S * 2, HOST, &format!("9.9.9.{}:{}", n % 250 + 1, n + 1));
    }
    assert!(!comes_in(&mut nat, S * 2, "8.8.8.8:1", public));
    assert!(comes_in(&mut nat, S * 2, "9.9.9.1:1", public));
    assert_eq!(nat.mappings[&(Protocol::Udp, public.port())].remotes.len(), REMOTES_MAX);
}
