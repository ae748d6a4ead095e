//! Packets through offices, on a clock of numbers.

use super::*;
use crate::lab::packet::tests::{at, packet};
use crate::link::{Config, Queue, Rate};

const MS: Duration = Duration::from_millis(1);

/// Everything that arrives from now on until nothing is on its way: when, where, from whom.
fn arrivals(network: &mut Network, from: Duration) -> Vec<(Duration, usize, SocketAddrV4)> {
    let mut now = from;
    let mut arrived = Vec::new();
    loop {
        while let Some((host, packet)) = network.poll() {
            let flow = packet.flow().expect("these have ports");
            assert_eq!(*flow.destination.ip(), network.hosts[host].address, "it is addressed to whom it reaches");
            arrived.push((now, host, flow.source));
        }
        let Some(due) = network.deadline() else { return arrived };
        now = due;
        network.handle(now, Input::Tick);
    }
}

fn send(network: &mut Network, now: Duration, host: usize, to: &str) {
    let from = format!("{}:7500", network.hosts[host].address);
    network.handle(now, Input::Sent { host, packet: packet(Protocol::Udp, &from, to, b"payload") });
}

/// What host 0 sends at zero, and where and when it arrives.
fn sent_by_first(network: &mut Network, to: &str) -> Vec<(Duration, usize, SocketAddrV4)> {
    send(network, Duration::ZERO, 0, to);
    arrivals(network, Duration::ZERO)
}

fn delayed(ms: u32) -> Config {
    Config { delay: MS * ms, ..Config::default() }
}

#[test]
fn what_is_sent_to_all_reaches_all_of_the_office_and_nobody_else() {
    for nat in [None, Some(Kind::FULL_CONE)] {
        let offices = [Office { hosts: 3, nat, ..Office::default() }, Office { nat, ..Office::default() }];
        let mut network = Network::new(1, &offices);
        let [a, b, c, _] = network.hosts[1].address.octets();
        for to in ["224.0.0.251:5353".to_owned(), "255.255.255.255:9".to_owned(), format!("{a}.{b}.{c}.255:9")] {
            send(&mut network, Duration::ZERO, 1, &to);
            let reached: Vec<_> = std::iter::from_fn(|| network.poll()).map(|(host, _)| host).collect();
            assert_eq!(reached, [0, 2], "{to}");
            assert_eq!(network.deadline(), None, "{to}");
        }
    }
}

#[test]
fn inside_an_office_packets_arrive_at_once_whatever_its_line() {
    let cut = Config { cut: true, ..delayed(50) };
    let office = Office { hosts: 2, up: cut.clone(), down: cut, ..Office::default() };
    let mut network = Network::new(1, &[office]);
    assert_eq!(sent_by_first(&mut network, "198.18.0.11:7400"), [(Duration::ZERO, 1, at("198.18.0.10:7500"))]);
    assert_eq!(sent_by_first(&mut network, "198.18.0.12:7400"), [], "nobody has that address");
}

#[test]
fn a_packet_takes_one_line_up_and_one_down() {
    let offices = [
        Office { up: delayed(10), down: delayed(1000), ..Office::default() },
        Office { up: delayed(1000), down: delayed(5), ..Office::default() },
    ];
    let mut network = Network::new(1, &offices);
    assert_eq!(sent_by_first(&mut network, "198.18.1.10:7400"), [(15 * MS, 1, at("198.18.0.10:7500"))]);
    for nobody in ["198.18.1.11:7400", "198.18.2.10:7400", "203.0.113.5:7400", "192.168.1.10:7400"] {
        assert_eq!(sent_by_first(&mut network, nobody), [], "{nobody}");
    }
}

#[test]
fn packets_do_not_bunch_on_their_second_line_because_somebody_looks_late() {
    // It carries a packet in a millisecond, and none may wait.
    let narrow = Config { rate: Some(Rate::new(280_000, Queue::Time(Duration::ZERO))), ..Config::default() };
    let offices = [Office { up: delayed(50), ..Office::default() }, Office { down: narrow, ..Office::default() }];
    let mut network = Network::new(1, &offices);
    for n in 0..10 {
        send(&mut network, MS * n, 0, "198.18.1.10:7400");
    }
    network.handle(MS * 200, Input::Tick);
    assert_eq!(arrivals(&mut network, MS * 200).len(), 10);
}

#[test]
fn a_router_hides_its_hosts_and_lets_answers_in() {
    let behind = Office { hosts: 2, nat: Some(Kind::PORT_RESTRICTED), ..Office::default() };
    let mut network = Network::new(1, &[behind.clone(), Office::default(), behind]);
    assert_eq!(network.hosts[0].address, network.hosts[3].address, "inside they have the same addresses");
    let seen = sent_by_first(&mut network, "198.18.1.10:7400");
    let [(_, 2, public)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(*public.ip(), Ipv4Addr::new(198, 18, 0, 1));
    // From port 7500 of the host that was written to at 7400.
    send(&mut network, MS, 2, &public.to_string());
    assert_eq!(arrivals(&mut network, MS), [], "another port must not come in");
    assert_eq!(network.counters(0).kept_out, 1);
    let answer = packet(Protocol::Udp, "198.18.1.10:7400", &public.to_string(), b"answer");
    network.handle(MS, Input::Sent { host: 2, packet: answer });
    assert_eq!(arrivals(&mut network, MS), [(MS, 0, at("198.18.1.10:7400"))]);
    // One inside the other office, which has the address that the sender itself has.
    send(&mut network, MS, 3, "198.18.0.1:1024");
    assert_eq!(arrivals(&mut network, MS), []);
}

#[test]
fn a_firewall_stops_what_it_blocks_both_ways_and_nothing_else() {
    let offices = [Office { hosts: 2, blocked: Some(Protocol::Udp), ..Office::default() }, Office::default()];
    let mut network = Network::new(1, &offices);
    assert_eq!(sent_by_first(&mut network, "198.18.1.10:7400"), []);
    send(&mut network, MS, 2, "198.18.0.10:7400");
    assert_eq!(arrivals(&mut network, MS), []);
    assert_eq!((network.counters(0).kept_in, network.counters(0).kept_out), (1, 1));
    assert_eq!(sent_by_first(&mut network, "198.18.0.11:7400").len(), 1, "inside the office there is no firewall");
    let tcp = packet(Protocol::Tcp, "198.18.0.10:7500", "198.18.1.10:7400", b"");
    network.handle(MS, Input::Sent { host: 0, packet: tcp });
    assert_eq!(arrivals(&mut network, MS).len(), 1);
}

#[test]
fn a_line_is_cut_one_way_or_both_and_joined_again() {
    let mut network = Network::new(1, &[Office::default(), Office::default()]);
    let passes = |network: &mut Network| {
        let mut pass = |host, to| {
            send(network, MS, host, to);
            !arrivals(network, MS).is_empty()
        };
        [pass(0, "198.18.1.10:7400"), pass(1, "198.18.0.10:7400")]
    };
    assert_eq!(passes(&mut network), [true, true]);
    network.change(0, |up, _| up.cut = true);
    assert_eq!(passes(&mut network), [false, true]);
    network.change(0, |_, down| down.cut = true);
    assert_eq!(passes(&mut network), [false, false]);
    network.change(0, |up, _| up.cut = false);
    assert_eq!(passes(&mut network), [true, false]);
    assert_eq!((network.counters(0).up.cut.packets, network.counters(0).down.cut.packets), (2, 2));
}

#[test]
fn what_waits_is_bounded() {
    let offices = [Office { up: delayed(60_000), ..Office::default() }, Office::default()];
    let mut network = Network::new(1, &offices);
    let payload = vec![0; 60_000];
    let large = packet(Protocol::Udp, "198.18.0.10:7500", "198.18.1.10:7400", &payload);
    let fit = WAITING_BYTES_MAX / large.bytes().len();
    for _ in 0..fit + 3 {
        network.handle(MS, Input::Sent { host: 0, packet: large.clone() });
    }
    assert_eq!(network.counters(0).refused, 3);
    assert_eq!(arrivals(&mut network, MS).len(), fit);
}
