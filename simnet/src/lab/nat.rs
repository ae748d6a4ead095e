//! The router of an office with one public address: network address and port translation.
//!
//! Four kinds have names of old ("full cone", "symmetric", ...), but two questions make them, and RFC 4787 asks these: does
//! a host's port keep its public port whomever it speaks to ([`Kind::mapping`]), and whose packets may come in by it
//! ([`Kind::filtering`])? Here a kind is its two answers, and the old names are four of the nine.
//!
//! Unkind where routers may be: a public port is never the host's own (nothing may count on port preservation), a
//! mapping dies half a minute after the last packet outwards (RFC 4787 wants two minutes; many routers do not care), and
//! packets from outside keep nothing alive. What is bounded: the mappings, and for each the remote ends that may answer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::packet::{Flow, Protocol};

/// How far a decision depends on the remote end: RFC 4787's endpoint-independent, address-dependent, and address- and
/// port-dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    Independent,
    Address,
    AddressAndPort,
}

/// What a router does with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What a host's public port depends on besides its own port.
    pub mapping: Dependence,
    /// How well the sender of a packet from outside must be known: written to from this port at all, at that address,
    /// at that address and port.
    pub filtering: Dependence,
}

impl Kind {
    pub const FULL_CONE: Self = Self { mapping: Dependence::Independent, filtering: Dependence::Independent };
    pub const ADDRESS_RESTRICTED: Self = Self { mapping: Dependence::Independent, filtering: Dependence::Address };
    pub const PORT_RESTRICTED: Self = Self { mapping: Dependence::Independent, filtering: Dependence::AddressAndPort };
    pub const SYMMETRIC: Self = Self { mapping: Dependence::AddressAndPort, filtering: Dependence::AddressAndPort };

    /// The four usual ones, kindest first, with their names.
    pub const USUAL: [(&'static str, Self); 4] = [
        ("full cone", Self::FULL_CONE),
        ("address-restricted", Self::ADDRESS_RESTRICTED),
        ("port-restricted", Self::PORT_RESTRICTED),
        ("symmetric", Self::SYMMETRIC),
    ];
}

/// Mappings at a time. With so many in use, a new conversation gets none and its packets are dropped.
pub const MAPPINGS_MAX: usize = 1024;

/// Remote ends remembered for a mapping. The one not written to for the longest makes room.
pub const REMOTES_MAX: usize = 256;

/// A mapping that nothing left by for so long is forgotten.
pub const fn idle_max(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Udp => Duration::from_secs(30),
        // RFC 5382 for connections that stand. One that has ended is not looked for: the mappings are many enough.
        Protocol::Tcp => Duration::from_secs(2 * 3600 + 4 * 60),
    }
}

/// The first port given out; those below belong to the router itself.
const PORT_MIN: u16 = 1024;

#[derive(Debug)]
pub(super) struct Nat {
    kind: Kind,
    public: Ipv4Addr,
    mappings: BTreeMap<(Protocol, u16), Mapping>,
    /// The public port of each.
    ports: BTreeMap<Inner, u16>,
    /// Where the search for a free port begins.
    next: u16,
}

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inner {
    protocol: Protocol,
    host: SocketAddrV4,
    /// Whom it speaks to, as far as the mapping depends on that.
    towards: SocketAddrV4,
}

#[derive(Debug)]
struct Mapping {
    inner: Inner,
    /// When a packet left by it last.
    used: Duration,
    /// Remote ends written to, as far as the filter depends on them, and when last.
    remotes: BTreeMap<SocketAddrV4, Duration>,
}

impl Nat {
    pub(super) fn new(kind: Kind, public: Ipv4Addr) -> Self {
        Self { kind, public, mappings: BTreeMap::new(), ports: BTreeMap::new(), next: PORT_MIN }
    }

    /// A packet of this flow leaves: what becomes of its source, or `None` if there is no mapping to be had.
    pub(super) fn outward(&mut self, now: Duration, flow: &Flow) -> Option<SocketAddrV4> {
        let Flow { protocol, source, destination } = *flow;
        let inner = Inner { protocol, host: source, towards: known_by(self.kind.mapping, destination) };
        let port = match self.ports.get(&inner).copied() {
            Some(port) if self.lives(now, (protocol, port)) => port,
            _ => self.map(now, inner)?,
        };
        let mapping = self.mappings.get_mut(&(protocol, port))?;
        mapping.used = now;
        let remote = known_by(self.kind.filtering, destination);
        if mapping.remotes.len() == REMOTES_MAX && !mapping.remotes.contains_key(&remote) {
            let oldest = mapping.remotes.iter().min_by_key(|(_, used)| **used).map(|(remote, _)| *remote);
            oldest.and_then(|oldest| mapping.remotes.remove(&oldest));
        }
        mapping.remotes.insert(remote, now);
        Some(SocketAddrV4::new(self.public, port))
    }

    /// A packet of this flow comes from outside: which host it is for, or `None` if it may not come in.
    pub(super) fn inward(&mut self, now: Duration, flow: &Flow) -> Option<SocketAddrV4> {
        let key = (flow.protocol, flow.destination.port());
        if *flow.destination.ip() != self.public || !self.lives(now, key) {
            return None;
        }
        let mapping = self.mappings.get(&key)?;
        let used = *mapping.remotes.get(&known_by(self.kind.filtering, flow.source))?;
        (now.saturating_sub(used) < idle_max(flow.protocol)).then_some(mapping.inner.host)
    }

    fn map(&mut self, now: Duration, inner: Inner) -> Option<u16> {
        if self.mappings.len() == MAPPINGS_MAX {
            let expired: Vec<_> = self.mappings.keys().copied().filter(|key| !self.lives(now, *key)).collect();
            expired.into_iter().for_each(|key| self.forget(key));
        }
        if self.mappings.len() == MAPPINGS_MAX {
            return None;
        }
        // Fewer mappings than ports: there is a free one.
        let free = |port: &u16| *port != inner.host.port() && !self.mappings.contains_key(&(inner.protocol, *port));
        let port = (self.next..=u16::MAX).chain(PORT_MIN..self.next).find(free)?;
        self.next = port.checked_add(1).unwrap_or(PORT_MIN);
        self.mappings.insert((inner.protocol, port), Mapping { inner, used: now, remotes: BTreeMap::new() });
        if let Some(expired) = self.ports.insert(inner, port) {
            self.mappings.remove(&(inner.protocol, expired));
        }
        Some(port)
    }

    fn lives(&self, now: Duration, key: (Protocol, u16)) -> bool {
        self.mappings.get(&key).is_some_and(|mapping| now.saturating_sub(mapping.used) < idle_max(key.0))
    }

    fn forget(&mut self, key: (Protocol, u16)) {
        if let Some(mapping) = self.mappings.remove(&key) {
            self.ports.remove(&mapping.inner);
        }
    }
}

/// A remote end as far as a decision depends on it.
fn known_by(dependence: Dependence, remote: SocketAddrV4) -> SocketAddrV4 {
    match dependence {
        Dependence::Independent => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        Dependence::Address => SocketAddrV4::new(*remote.ip(), 0),
        Dependence::AddressAndPort => remote,
    }
}

#[cfg(test)]
mod tests;
