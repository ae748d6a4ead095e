//! Who may come in before anybody knows who it is: limits on handshakes, for both planes.
//!
//! A handshake costs us a signature or two and its sender almost nothing, and over UDP the sender may write any address
//! he likes on it. So there are three questions, cheapest first. Has this address had its share? Has it shown that it
//! is its own, which means that it can hear us (QUIC Retry, RFC 9000 8.1.2)? Do strangers together leave us the time
//! for one more? What gets a no is dropped without a word, since an answer to a forged address would hit somebody else.
//!
//! Two rules keep the honest from being shut out. An address counts against itself only when it has shown that it is
//! its own, so nobody can use up another's share. And an address from which a member came before is not counted among
//! the strangers: however many of those knock, it gets in.
//!
//! Memory does not grow with the number of addresses: an entry is made only for who was let in, which happens at a
//! bounded rate, and goes when it says nothing any more. IPv6 is counted by /64, of which anybody has as many addresses as he
//! likes.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use store::id::NodeId;

/// Addresses remembered of one member: home, office, and the line that takes over when the first fails.
const KNOWN_MAX: usize = 4;
/// Addresses with something to remember. More cannot come about while `total` and `open_max` are what they are; beyond,
/// nobody new is let in.
const SOURCES_MAX: usize = 8_192;

/// So many at once, and per second after that.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub burst: u32,
    pub per_second: u32,
}

/// The limits of one plane.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes of one address.
    pub address: Rate,
    /// Handshakes in work with one address.
    pub address_work_max: usize,
    /// Handshakes in work with one address and connections it has.
    pub address_open_max: usize,
    /// Handshakes of all strangers.
    pub total: Rate,
    /// Handshakes in work with strangers.
    pub total_work_max: usize,
    /// Handshakes in work with addresses that have not shown that they are their own.
    pub unproven_max: usize,
    /// How often addresses are asked to show that; those where members were, and all others.
    pub proofs: Rate,
    /// The longest a handshake may take from where no member came before, and from where one did.
    pub stranger_time: Duration,
    pub known_time: Duration,
}

/// What an address has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// That it is its own: it answered us.
    Given,
    /// Nothing; it can be asked.
    Askable,
}

/// What to do with who knocks.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Begin the handshake, and give the visit back when it is over.
    Enter(Visit),
    /// Ask it to show that it hears us.
    Prove,
    /// Say nothing and forget it.
    Ignore,
}

/// A handshake in work, or the connection it led to. Ended exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a visit that is never ended keeps its place"]
pub struct Visit {
    source: Source,
    /// Counted against its own address.
    counted: bool,
    /// Counted among the strangers.
    stranger: bool,
    /// Led to a connection with a member.
    open: bool,
}

/// What came to the door since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knocks {
    pub entered: u64,
    pub asked: u64,
    pub ignored: u64,
}

/// An address as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// A token bucket, kept as the moment at which it is full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Whether it holds a token.
    fn has(&self, now: Instant, rate: Rate) -> bool {
        self.missing(now) + step(rate) <= step(rate) * rate.burst
    }

    /// Takes a token if it holds one.
    fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let had = self.has(now, rate);
        if had {
            self.full_at = self.full_at.max(now) + step(rate);
        }
        had
    }

    /// How long it takes to be full.
    fn missing(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }
}

fn step(rate: Rate) -> Duration {
    Duration::from_secs(1) / rate.per_second.max(1)
}

#[derive(Debug)]
struct Caller {
    bucket: Bucket,
    work: usize,
    open: usize,
}

impl Caller {
    /// It says nothing that an address never heard of would not say.
    fn is_blank(&self, now: Instant) -> bool {
        self.work == 0 && self.open == 0 && self.bucket.missing(now).is_zero()
    }
}

/// The door of one plane.
#[derive(Debug)]
pub struct Door {
    limits: Limits,
    callers: BTreeMap<Source, Caller>,
    /// Where members came from, newest last, and how many of them came from there.
    known: BTreeMap<NodeId, VecDeque<Source>>,
    known_sources: BTreeMap<Source, usize>,
    total: Bucket,
    proofs: Bucket,
    proofs_known: Bucket,
    strangers: usize,
    unproven: usize,
    /// Blank entries are looked for when there are so many entries.
    sweep_at: usize,
    knocks: Knocks,
}

impl Door {
    /// A door nobody came to yet.
    pub fn new(now: Instant, limits: Limits) -> Self {
        let full = Bucket { full_at: now };
        Self {
            limits,
            callers: BTreeMap::new(),
            known: BTreeMap::new(),
            known_sources: BTreeMap::new(),
            total: full,
            proofs: full,
            proofs_known: full,
            strangers: 0,
            unproven: 0,
            sweep_at: 64,
            knocks: Knocks::default(),
        }
    }

    /// Somebody wants to begin a handshake.
    pub fn knock(&mut self, now: Instant, from: IpAddr, proof: Proof) -> Answer {
        let answer = self.answer(now, from, proof);
        let count = match &answer {
            Answer::Enter(_) => &mut self.knocks.entered,
            Answer::Prove => &mut self.knocks.asked,
            Answer::Ignore => &mut self.knocks.ignored,
        };
        *count += 1;
        answer
    }

    /// What came to this door so far.
    pub fn knocks(&self) -> Knocks {
        self.knocks
    }

    fn answer(&mut self, now: Instant, from: IpAddr, proof: Proof) -> Answer {
        let limits = self.limits;
        let source = Source::from(from);
        if let Some(caller) = self.callers.get(&source) {
            let full = caller.work >= limits.address_work_max || caller.work + caller.open >= limits.address_open_max;
            if full || !caller.bucket.has(now, limits.address) {
                return Answer::Ignore;
            }
        }
        let known = self.known_sources.contains_key(&source);
        let mut counted = true;
        if proof != Proof::Given {
            // Without proof only as long as there is little to do; else each of these might be forged.
            if self.unproven < limits.unproven_max && self.is_calm(now) {
                counted = false;
            } else {
                let proofs = if known { &mut self.proofs_known } else { &mut self.proofs };
                return if proofs.take(now, limits.proofs) { Answer::Prove } else { Answer::Ignore };
            }
        }
        if !known && (self.strangers >= limits.total_work_max || !self.total.take(now, limits.total)) {
            return Answer::Ignore;
        }
        if counted {
            if !self.callers.contains_key(&source) && !self.has_room(now) {
                return Answer::Ignore;
            }
            let blank = Caller { bucket: Bucket { full_at: now }, work: 0, open: 0 };
            let caller = self.callers.entry(source).or_insert(blank);
            caller.bucket.take(now, limits.address);
            caller.work += 1;
        } else {
            self.unproven += 1;
        }
        self.strangers += usize::from(!known);
        Answer::Enter(Visit { source, counted, stranger: !known, open: false })
    }

    /// The longest this handshake may take.
    pub fn patience(&self, visit: &Visit) -> Duration {
        if visit.stranger { self.limits.stranger_time } else { self.limits.known_time }
    }

    /// The handshake led to a connection with this member. The visit goes on for as long as that does.
    pub fn welcome(&mut self, now: Instant, visit: &mut Visit, node: NodeId) {
        if !std::mem::replace(&mut visit.open, true) {
            self.leave_work(visit);
            let blank = Caller { bucket: Bucket { full_at: now }, work: 0, open: 0 };
            self.callers.entry(visit.source).or_insert(blank).open += 1;
        }
        self.remember(node, visit.source);
    }

    /// The handshake led to nothing, or the connection is over.
    pub fn end(&mut self, visit: Visit) {
        if !visit.open {
            return self.leave_work(&visit);
        }
        if let Some(caller) = self.callers.get_mut(&visit.source) {
            caller.open -= 1;
        }
    }

    /// A member is or was to be reached at this address, so it is likely to come from there.
    pub fn know(&mut self, node: NodeId, address: IpAddr) {
        self.remember(node, address.into());
    }

    /// Forgets the addresses of all who are not members.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        let gone: Vec<NodeId> = self.known.keys().filter(|node| !is_member(node)).copied().collect();
        for source in gone.iter().filter_map(|node| self.known.remove(node)).flatten().collect::<Vec<_>>() {
            self.forget(source);
        }
    }

    fn leave_work(&mut self, visit: &Visit) {
        self.strangers -= usize::from(visit.stranger);
        if !visit.counted {
            self.unproven -= 1;
        } else if let Some(caller) = self.callers.get_mut(&visit.source) {
            caller.work -= 1;
        }
    }

    /// At least half of what strangers may do is left.
    fn is_calm(&self, now: Instant) -> bool {
        let Rate { burst, .. } = self.limits.total;
        self.total.missing(now) <= step(self.limits.total) * (burst / 2)
    }

    fn remember(&mut self, node: NodeId, source: Source) {
        let sources = self.known.entry(node).or_default();
        if let Some(at) = sources.iter().position(|known| *known == source) {
            sources.remove(at);
            sources.push_back(source);
            return;
        }
        sources.push_back(source);
        let oldest = if sources.len() > KNOWN_MAX { sources.pop_front() } else { None };
        *self.known_sources.entry(source).or_default() += 1;
        oldest.into_iter().for_each(|source| self.forget(source));
    }

    fn forget(&mut self, source: Source) {
        if let Some(count) = self.known_sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.known_sources.remove(&source);
            }
        }
    }

    /// Room for one more entry. Blank ones are looked for each time their number has doubled.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.callers.len() >= self.sweep_at.min(SOURCES_MAX) {
            self.callers.retain(|_, caller| !caller.is_blank(now));
            self.sweep_at = (2 * self.callers.len()).max(64);
        }
        self.callers.len() < SOURCES_MAX
    }
}

#[cfg(test)]
mod tests;
