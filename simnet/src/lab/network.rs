//! The network between hosts, without hosts: offices with their routers and lines, and what joins them. Pure.
//!
//! ```text
//!  host ─┐                                    up                                  up              ┌─ host
//!  host ─┼─ office's network ─ router ══════════════════ carrier ══════════════════ router ─ ... ─┼─ host
//!  host ─┘                                   down                                 down            └─ host
//! ```
//!
//! Inside an office packets pass at once, and what is sent to all reaches all; that is how points of one office find each
//! other. What leaves it passes the router, with its firewall and its translation of addresses, then the office's line
//! upwards, and enters the other office by that one's line downwards. The carrier in the middle is perfect, and knows
//! public addresses only. Nobody is told of packets that come to nothing: firewalls and dead lines are silent.
//!
//! All offices behind translation have the same addresses inside, as offices with the same router out of the box have.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::nat::{Kind, Nat};
use super::packet::{Packet, Protocol};
use crate::link::{self, Link, Verdict};
use crate::rng;
use crate::waiting::Waiting;

/// Offices of one lab; each has a public network of its own.
pub const OFFICES_MAX: usize = 255;

/// Hosts of one office.
pub const HOSTS_MAX: usize = 200;

/// Bytes that may be on the way, all lines together: a second at 500 Mb/s. What is beyond is lost.
pub const WAITING_BYTES_MAX: usize = 64 << 20;

/// The first host's number in its office's network.
const HOST_FIRST: u8 = 10;

/// One office: a network of hosts, a router, and a line.
#[derive(Debug, Clone)]
pub struct Office {
    pub hosts: usize,
    /// `None`: its hosts have public addresses, and everybody may send to them.
    pub nat: Option<Kind>,
    /// What its firewall lets neither out nor in.
    pub blocked: Option<Protocol>,
    /// The line from the office. Its rate counts whole IP packets.
    pub up: link::Config,
    /// The line to the office.
    pub down: link::Config,
}

/// One host, public, on a perfect line.
impl Default for Office {
    fn default() -> Self {
        let perfect = link::Config::default();
        Self { hosts: 1, nat: None, blocked: None, up: perfect.clone(), down: perfect }
    }
}

/// What became of the packets at one office's edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub up: link::Counters,
    pub down: link::Counters,
    /// Kept in by the router: blocked, or without a mapping.
    pub kept_in: u64,
    /// Kept out by the router: blocked, or of someone nobody here wrote to.
    pub kept_out: u64,
    /// Beyond [`WAITING_BYTES_MAX`].
    pub refused: u64,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Input {
    /// A host, by its number among all, sends.
    Sent { host: usize, packet: Packet },
    /// Time passes.
    Tick,
}

/// Offices, what is on its way between them, and what has arrived.
#[derive(Debug)]
pub(super) struct Network {
    sites: Vec<Site>,
    hosts: Vec<Host>,
    waiting: Waiting<Moving>,
    /// What has arrived, and at which host.
    arrived: VecDeque<(usize, Packet)>,
}

#[derive(Debug)]
struct Host {
    site: usize,
    address: Ipv4Addr,
}

#[derive(Debug)]
struct Site {
    nat: Option<Nat>,
    blocked: Option<Protocol>,
    up: Link,
    down: Link,
    kept_in: u64,
    kept_out: u64,
    refused: u64,
}

/// A packet at the end of a line, when its time has come.
#[derive(Debug)]
enum Moving {
    /// At the carrier.
    Up { from: usize, packet: Packet },
    /// At the office's router.
    Down { to: usize, packet: Packet },
}

impl Network {
    /// # Panics
    ///
    /// With more than [`OFFICES_MAX`] or [`HOSTS_MAX`]: a test that asks for this has a mistake in it.
    pub(super) fn new(seed: u64, offices: &[Office]) -> Self {
        assert!(offices.len() <= OFFICES_MAX, "there are public networks for {OFFICES_MAX} offices");
        let mut network = Self {
            sites: Vec::new(),
            hosts: Vec::new(),
            waiting: Waiting::new(WAITING_BYTES_MAX),
            arrived: VecDeque::new(),
        };
        for (office, number) in offices.iter().zip(0u8..) {
            assert!(office.hosts <= HOSTS_MAX, "a network has numbers for {HOSTS_MAX} hosts");
            let seed = |part| rng::seed_of(seed, 2 * u64::from(number) + part);
            network.sites.push(Site {
                nat: office.nat.map(|kind| Nat::new(kind, Ipv4Addr::from(public(number, 1)))),
                blocked: office.blocked,
                up: Link::new(office.up.clone(), seed(0)),
                down: Link::new(office.down.clone(), seed(1)),
                kept_in: 0,
                kept_out: 0,
                refused: 0,
            });
            for host in (HOST_FIRST..).take(office.hosts) {
                let address = match office.nat {
                    Some(_) => [192, 168, 1, host],
                    None => public(number, host),
                };
                network.hosts.push(Host { site: usize::from(number), address: address.into() });
            }
        }
        network
    }

    /// Office and address of every host, office by office.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (usize, Ipv4Addr)> {
        self.hosts.iter().map(|host| (host.site, host.address))
    }

    pub(super) fn handle(&mut self, now: Duration, input: Input) {
        while let Some((at, moving)) = self.waiting.take(now) {
            match moving {
                Moving::Up { from, packet } => self.carry(at, from, packet),
                Moving::Down { to, packet } => self.enter(at, to, packet),
            }
        }
        match input {
            Input::Sent { host, packet } => self.sent(now, host, packet),
            Input::Tick => {}
        }
    }

    /// What has arrived, and at which host.
    pub(super) fn poll(&mut self) -> Option<(usize, Packet)> {
        self.arrived.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.waiting.next()
    }

    /// Changes an office's line, upwards and downwards, from the next packet on.
    pub(super) fn change(&mut self, office: usize, change: impl FnOnce(&mut link::Config, &mut link::Config)) {
        let Site { up, down, .. } = &mut self.sites[office];
        let (mut up_config, mut down_config) = (up.config().clone(), down.config().clone());
        change(&mut up_config, &mut down_config);
        up.set(up_config);
        down.set(down_config);
    }

    pub(super) fn counters(&self, office: usize) -> Counters {
        let Site { up, down, kept_in, kept_out, refused, .. } = &self.sites[office];
        Counters { up: up.counters(), down: down.counters(), kept_in: *kept_in, kept_out: *kept_out, refused: *refused }
    }

    /// On the network of the sender's office.
    fn sent(&mut self, now: Duration, sender: usize, packet: Packet) {
        let Some(&Host { site, address }) = self.hosts.get(sender) else { return };
        let to = packet.destination();
        let [own @ .., _] = address.octets();
        let [network @ .., last] = to.octets();
        if to.is_multicast() || to.is_broadcast() || (network, last) == (own, 255) {
            let others = self.hosts.iter().enumerate().filter(|(number, host)| host.site == site && *number != sender);
            let others: Vec<_> = others.map(|(number, _)| number).collect();
            self.arrived.extend(others.into_iter().map(|number| (number, packet.clone())));
        } else if network == own {
            self.arrive(site, to, packet);
        } else {
            self.leave(now, site, packet);
        }
    }

    /// Through the router into the line.
    fn leave(&mut self, now: Duration, from: usize, mut packet: Packet) {
        let site = &mut self.sites[from];
        if !packet.hop() || !site.out(now, &mut packet) {
            site.kept_in += 1;
            return;
        }
        let verdict = site.up.offer(now, packet.bytes().len());
        self.keep(from, verdict, packet, |packet| Moving::Up { from, packet });
    }

    /// At the carrier, into the line of whose address it is.
    fn carry(&mut self, now: Duration, from: usize, packet: Packet) {
        let [a, b, number, _] = packet.destination().octets();
        let to = usize::from(number);
        if public(number, 0)[..2] != [a, b] || to >= self.sites.len() {
            // Nobody's.
            return;
        }
        let verdict = self.sites[to].down.offer(now, packet.bytes().len());
        self.keep(from, verdict, packet, |packet| Moving::Down { to, packet });
    }

    /// Through the router onto the office's network.
    fn enter(&mut self, now: Duration, to: usize, mut packet: Packet) {
        let site = &mut self.sites[to];
        if !packet.hop() || !site.into(now, &mut packet) {
            site.kept_out += 1;
            return;
        }
        self.arrive(to, packet.destination(), packet);
    }

    fn arrive(&mut self, site: usize, address: Ipv4Addr, packet: Packet) {
        let host = self.hosts.iter().position(|host| (host.site, host.address) == (site, address));
        self.arrived.extend(host.map(|host| (host, packet)));
    }

    fn keep(&mut self, from: usize, verdict: Verdict, packet: Packet, moving: impl Fn(Packet) -> Moving) {
        let Verdict::Deliver { at, again } = verdict else { return };
        for at in [Some(at), again].into_iter().flatten() {
            if !self.waiting.keep(at, packet.bytes().len(), moving(packet.clone())) {
                self.sites[from].refused += 1;
            }
        }
    }
}

impl Site {
    /// Whether the packet may leave; then it looks as from here.
    fn out(&mut self, now: Duration, packet: &mut Packet) -> bool {
        if self.blocks(packet) {
            return false;
        }
        let Some(nat) = &mut self.nat else { return true };
        let source = packet.flow().and_then(|flow| nat.outward(now, &flow));
        source.map(|source| packet.set_source(source)).is_some()
    }

    /// Whether the packet may come in; then it is addressed to a host here.
    fn into(&mut self, now: Duration, packet: &mut Packet) -> bool {
        if self.blocks(packet) {
            return false;
        }
        let Some(nat) = &mut self.nat else { return true };
        let host = packet.flow().and_then(|flow| nat.inward(now, &flow));
        host.map(|host: SocketAddrV4| packet.set_destination(host)).is_some()
    }

    fn blocks(&self, packet: &Packet) -> bool {
        self.blocked.is_some() && self.blocked == packet.protocol()
    }
}

/// An address of an office's public network. The block is the one for trying out networks (RFC 2544): nobody's in life.
fn public(office: u8, host: u8) -> [u8; 4] {
    [198, 18, office, host]
}

#[cfg(test)]
mod tests;
