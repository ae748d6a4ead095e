//! The relay on real sockets. What a busy machine may do is make a packet later, so what is asserted is what holds
//! then too: nothing is early, the fastest of many is on time, counts are exact. Wherever the verdicts do not depend on
//! time, a link with the same seed foretells which packets arrive.

use super::*;
use crate::link::{Config, Loss, Queue, Rate, Share};

const MS: Duration = Duration::from_millis(1);
/// Longer than any machine needs. A test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// With its headers such a packet takes 10 ms at 1 Mb/s.
const PAYLOAD_LEN: usize = 1250 - HEADERS_LEN;

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    socket
}

/// A client connected to a relay that leads to a target.
fn ends(up: Config, down: Config, seed: u64) -> (UdpSocket, Relay, UdpSocket) {
    let target = socket();
    let relay = Relay::start(target.local_addr().expect("bound"), up, down, seed).expect("a relay");
    (client(&relay), relay, target)
}

fn client(relay: &Relay) -> UdpSocket {
    let client = socket();
    client.connect(relay.addr()).expect("an address");
    client
}

fn numbered(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(PAYLOAD_LEN, 0);
    payload
}

/// The number of the next packet, and who sent it.
fn next(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut buffer = [0; 1500];
    let (len, from) = socket.recv_from(&mut buffer).expect("a packet within the patience");
    assert_eq!(len, PAYLOAD_LEN);
    (u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]), from)
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(MS);
    }
}

/// The fastest of a number of packets sent one after the other, as `pass` takes them across.
fn fastest(mut pass: impl FnMut(u32)) -> Duration {
    let time = |number| {
        let start = Instant::now();
        pass(number);
        start.elapsed()
    };
    (0..30).map(time).min().expect("some were sent")
}

#[test]
fn delay_is_kept_to_the_millisecond_and_each_way_has_its_own() {
    let up = Config { delay: 20 * MS, ..Config::default() };
    let down = Config { delay: 7 * MS, ..Config::default() };
    let (client, relay, target) = ends(up, down, 1);
    let there = fastest(|number| {
        client.send(&numbered(number)).expect("sent");
        assert_eq!(next(&target).0, number);
    });
    assert!((20 * MS..22 * MS).contains(&there), "{there:?}");

    client.send(&numbered(0)).expect("sent");
    let (_, seen) = next(&target);
    let back = fastest(|number| {
        target.send_to(&numbered(number), seen).expect("sent");
        assert_eq!(next(&client), (number, relay.addr()));
    });
    assert!((7 * MS..9 * MS).contains(&back), "{back:?}");
}

#[test]
fn each_client_is_one_peer_and_gets_its_own_answers() {
    let (first, relay, target) = ends(Config::default(), Config::default(), 1);
    let second = client(&relay);
    let mut seen = Vec::new();
    for (number, client) in [(1, &first), (2, &second), (1, &first)] {
        client.send(&numbered(number)).expect("sent");
        let (heard, from) = next(&target);
        assert_eq!(heard, number);
        target.send_to(&numbered(number + 10), from).expect("sent");
        assert_eq!(next(client), (number + 10, relay.addr()));
        seen.push(from);
    }
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn a_rate_spaces_the_packets() {
    let rate = Some(Rate::new(1_000_000, Queue::Time(Duration::from_secs(10))));
    let (client, relay, target) = ends(Config { rate, ..Config::default() }, Config::default(), 1);
    let start = Instant::now();
    for number in 0..40 {
        client.send(&numbered(number)).expect("sent");
    }
    for number in 0..40 {
        assert_eq!(next(&target).0, number);
        let passed = start.elapsed();
        assert!(passed >= 10 * MS * (number + 1), "packet {number} came after {passed:?}");
    }
    let up = relay.counters().up;
    assert_eq!(up.link.accepted, Tally { packets: 40, bytes: 40 * 1250 });
    assert_eq!(up.sent, Tally { packets: 40, bytes: 40 * PAYLOAD_LEN as u64 });
}

#[test]
fn a_full_queue_drops_and_counts() {
    let rate = Some(Rate::new(1_000_000, Queue::Time(100 * MS)));
    let (client, relay, target) = ends(Config { rate, ..Config::default() }, Config::default(), 1);
    let start = Instant::now();
    for number in 0..100 {
        client.send(&numbered(number)).expect("sent");
    }
    until("all were offered", || relay.counters().up.link.offered.packets == 100);
    let up = relay.counters().up.link;
    // Eleven fit at once, and one more for each 10 ms the machine took to send.
    let most = 11 + start.elapsed().as_millis() as u64 / 10 + 1;
    assert!((11..=most).contains(&up.accepted.packets), "{up:?}");
    assert_eq!(up.accepted.packets + up.overflowed.packets, 100);
    for _ in 0..up.accepted.packets {
        next(&target);
    }
    assert_eq!(relay.counters().waiting, 0);
}

#[test]
fn the_seed_decides_which_packets_get_lost() {
    let up = Config { loss: Loss::Random(Share::percent(20.0)), ..Config::default() };
    let seed = 42;
    let (client, relay, target) = ends(up.clone(), Config::default(), seed);
    let mut oracle = Link::new(up, rng::seed_of(seed, 0));
    for number in 0..500 {
        client.send(&numbered(number)).expect("sent");
        if let Verdict::Deliver { .. } = oracle.offer(Duration::ZERO, PAYLOAD_LEN + HEADERS_LEN) {
            assert_eq!(next(&target).0, number);
        }
    }
    until("all were offered", || relay.counters().up.link.offered.packets == 500);
    assert_eq!(relay.counters().up.link, oracle.counters());
}

#[test]
fn a_duplicate_arrives_twice() {
    let up = Config { duplicate: Share::ALL, ..Config::default() };
    let (client, relay, target) = ends(up, Config::default(), 1);
    client.send(&numbered(5)).expect("sent");
    assert_eq!([next(&target).0, next(&target).0], [5, 5]);
    assert_eq!(relay.counters().up.sent.packets, 2);
}

#[test]
fn a_cut_holds_until_it_is_mended_and_what_was_on_the_way_arrives() {
    let up = Config { delay: 50 * MS, ..Config::default() };
    let (client, relay, target) = ends(up.clone(), Config::default(), 1);
    client.send(&numbered(1)).expect("sent");
    until("it is on the way", || relay.counters().up.link.accepted.packets == 1);
    relay.cut(true);
    for number in 2..5 {
        client.send(&numbered(number)).expect("sent");
    }
    until("they met the cut", || relay.counters().up.link.cut.packets == 3);
    relay.cut(false);
    client.send(&numbered(5)).expect("sent");
    assert_eq!([next(&target).0, next(&target).0], [1, 5]);
}

#[test]
fn a_line_changes_while_it_runs() {
    let (client, relay, target) = ends(Config::default(), Config::default(), 1);
    client.send(&numbered(1)).expect("sent");
    let (_, seen) = next(&target);
    relay.set_up(Config { delay: 30 * MS, ..Config::default() });
    relay.set_down(Config { loss: Loss::Random(Share::ALL), ..Config::default() });
    let start = Instant::now();
    client.send(&numbered(2)).expect("sent");
    assert_eq!(next(&target).0, 2);
    assert!(start.elapsed() >= 30 * MS);
    target.send_to(&numbered(3), seen).expect("sent");
    until("the answer is lost", || relay.counters().down.link.lost.packets == 1);
}

#[test]
fn a_target_that_was_away_is_reached_again() {
    // An address of its own on loopback, so that nobody takes the port in between.
    let away = UdpSocket::bind("127.77.0.1:0").expect("a port");
    let addr = away.local_addr().expect("bound");
    let relay = Relay::start(addr, Config::default(), Config::default(), 1).expect("a relay");
    let client = client(&relay);
    drop(away);
    for number in 0..5 {
        client.send(&numbered(number)).expect("sent");
        until("it was handed on", || relay.counters().waiting == 0);
    }
    until("all were offered", || relay.counters().up.link.offered.packets == 5 && relay.counters().waiting == 0);
    let target = UdpSocket::bind(addr).expect("the port again");
    target.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // The host's word that nobody listens may still be there to be read by one send; the next goes through.
    client.send(&numbered(5)).expect("sent");
    client.send(&numbered(6)).expect("sent");
    assert!([5, 6].contains(&next(&target).0));
}

#[test]
fn clients_beyond_the_limit_are_refused_and_disturb_nobody() {
    let (first, relay, target) = ends(Config::default(), Config::default(), 1);
    let mut clients = vec![first];
    clients.extend((1..CLIENTS_MAX).map(|_| client(&relay)));
    for (number, client) in clients.iter().enumerate() {
        client.send(&numbered(number as u32)).expect("sent");
        assert_eq!(next(&target).0, number as u32);
    }
    client(&relay).send(&numbered(1000)).expect("sent");
    until("it is refused", || relay.counters().up.refused.packets == 1);
    clients[0].send(&numbered(0)).expect("sent");
    assert_eq!(next(&target).0, 0);
}

#[test]
fn a_dropped_relay_leaves_its_port() {
    let (_client, relay, _target) = ends(Config::default(), Config::default(), 1);
    let addr = relay.addr();
    drop(relay);
    UdpSocket::bind(addr).expect("the port is free");
}
