//! A world of hosts on virtual time: one queue of events, one seed, no clock and no thread.
//!
//! Time jumps from event to event, so a day in which little happens costs little. Events of one moment come in the order
//! in which they were caused. All chance is drawn from the world's seed, by purpose: the lines, the connections. So the
//! same hosts, orders and seed give the same run, which [`World::trace`] shows in one number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::host::{Host, HostId, Input, Output, Plane};
use crate::link::{self, Reason, Verdict};
pub use crate::net::PlaneConfig;
use crate::net::{Net, Pair, end_of, pair};
use crate::rng::{Rng, seed_of};
use crate::trace::Trace;

/// Pause before a packet that was lost is sent again, as a transport does that hears no acknowledgement; twice as long each
/// time.
const RESEND_MIN: Duration = Duration::from_millis(200);
/// See [`RESEND_MIN`].
const RESEND_MAX: Duration = Duration::from_secs(3);

/// Events of one host in one moment; with more of them time stands still for it.
const MOMENT_MAX: u32 = 100_000;

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The source of all chance.
    pub seed: u64,
    /// Each host's line: what it sends, what it is sent.
    pub lines: Vec<(link::Config, link::Config)>,
    /// What part of each line's rate each lane has. Lanes do not wait for each other.
    pub lanes: Vec<link::Share>,
    /// The kinds of connection; [`Plane`] names them by their place.
    pub planes: Vec<PlaneConfig>,
}

/// Something that changes in the world around the hosts.
#[derive(Debug, Clone)]
pub enum Change<O> {
    /// A host's power comes or goes.
    Power(HostId, bool),
    /// A host's line is cut, in one direction or both.
    Cut {
        /// Whose.
        host: HostId,
        /// What it sends.
        up: bool,
        /// What it is sent.
        down: bool,
    },
    /// A host's line is another one.
    Line(HostId, Box<(link::Config, link::Config)>),
    /// A host's line is what it was in the beginning.
    Mend(HostId),
    /// Nothing passes from one host to another, or all does again.
    Bar(HostId, HostId, bool),
    /// An order to a host.
    Order(HostId, O),
}

/// What happened last, for whoever looks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A host was told something.
    Told(HostId),
    /// Something happened on the way.
    Elsewhere,
}

/// Why a world cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// A host asks to be woken at a moment that is there already, again and again.
    Moment(HostId),
}

enum Event<P, O> {
    Change(Change<O>),
    Wake(HostId),
    /// A packet waits for its turn on its sender's line.
    Offer(Box<Flight<P>>),
    /// It is before its receiver's line.
    Enter(Box<Flight<P>>),
    Arrive(Box<Flight<P>>),
    /// An end of a connection has heard nothing for too long.
    Idle {
        pair: Pair,
        end: usize,
        generation: u32,
    },
    Connect {
        pair: Pair,
    },
    /// The other end has left, and this end hears of it.
    Left {
        pair: Pair,
        end: usize,
        generation: u32,
    },
}

#[derive(Clone)]
struct Flight<P> {
    plane: Plane,
    from: HostId,
    to: HostId,
    generation: u32,
    len: usize,
    lane: usize,
    /// From when on its sender does not want to wait any more.
    until: Option<Duration>,
    pause: Duration,
    given_up: bool,
    packet: P,
}

struct Due<P, O> {
    at: Duration,
    order: u64,
    event: Event<P, O>,
}

impl<P, O> PartialEq for Due<P, O> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<P, O> Eq for Due<P, O> {}
impl<P, O> PartialOrd for Due<P, O> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<P, O> Ord for Due<P, O> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Hosts, the network between them, and what is still to happen.
pub struct World<H: Host> {
    now: Duration,
    hosts: Vec<H>,
    net: Net,
    planes: Vec<PlaneConfig>,
    queue: BinaryHeap<Reverse<Due<H::Packet, H::Order>>>,
    ordered: u64,
    /// When each host is to be woken, and how often it was told something in this moment.
    wakes: Vec<(Option<Duration>, u32)>,
    /// Packets that were on their way when it broke, by sender and receiver.
    held: BTreeMap<(HostId, HostId), Vec<Flight<H::Packet>>>,
    chance: Rng,
    trace: Trace,
    stuck: Option<Stuck>,
}

impl<H: Host + std::fmt::Debug> std::fmt::Debug for World<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl<H: Host> World<H> {
    /// A world of hosts that are switched off. There must be a line for each.
    pub fn new(config: Config, hosts: Vec<H>) -> Self {
        assert_eq!(config.lines.len(), hosts.len(), "each host has a line");
        World {
            now: Duration::ZERO,
            wakes: vec![(None, 0); hosts.len()],
            hosts,
            net: Net::new(config.lines, config.lanes, seed_of(config.seed, 0)),
            planes: config.planes,
            queue: BinaryHeap::new(),
            ordered: 0,
            held: BTreeMap::new(),
            chance: Rng::new(seed_of(config.seed, 1)),
            trace: Trace::default(),
            stuck: None,
        }
    }

    /// The time of the world.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What happened so far, as one number.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// A host.
    pub fn host(&self, host: HostId) -> &H {
        &self.hosts[usize::from(host.0)]
    }

    /// The same, to take from it what it has to tell.
    pub fn host_mut(&mut self, host: HostId) -> &mut H {
        &mut self.hosts[usize::from(host.0)]
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &H)> {
        self.net.hosts().zip(&self.hosts)
    }

    /// Whether a host's power is on.
    pub fn is_powered(&self, host: HostId) -> bool {
        self.net.is_powered(host)
    }

    /// Something will change at a time; what lies in the past changes now.
    pub fn schedule(&mut self, at: Duration, change: Change<H::Order>) {
        self.push(at, Event::Change(change));
    }

    /// Lets the next thing happen, unless it lies beyond `end`: then the time is `end`.
    pub fn step(&mut self, end: Duration) -> Result<Option<Happened>, Stuck> {
        let due = match self.queue.peek() {
            Some(Reverse(due)) if due.at <= end => self.queue.pop().map(|Reverse(due)| due),
            _ => None,
        };
        let Some(due) = due else {
            self.now = self.now.max(end);
            return Ok(None);
        };
        if due.at > self.now {
            self.now = due.at;
            self.wakes.iter_mut().for_each(|(_, told)| *told = 0);
        }
        let happened = match due.event {
            Event::Change(change) => self.change(change),
            Event::Wake(host) => {
                let wake = &mut self.wakes[usize::from(host.0)].0;
                if *wake != Some(due.at) || !self.net.is_powered(host) {
                    return Ok(Some(Happened::Elsewhere));
                }
                *wake = None;
                self.tell(host, Input::Tick)
            }
            Event::Offer(flight) => self.offer(*flight),
            Event::Enter(flight) => self.enter(*flight),
            Event::Arrive(flight) => self.arrive(*flight),
            Event::Idle { pair, end, generation } => self.idle(pair, end, generation),
            Event::Connect { pair } => self.connect(pair),
            Event::Left { pair, end, generation } => self.left(pair, end, generation),
        };
        match self.stuck.take() {
            Some(stuck) => Err(stuck),
            None => Ok(Some(happened)),
        }
    }

    fn push(&mut self, at: Duration, event: Event<H::Packet, H::Order>) {
        self.ordered += 1;
        self.queue.push(Reverse(Due { at: at.max(self.now), order: self.ordered, event }));
    }

    fn note(&mut self, kind: u64, host: HostId, detail: u64) {
        let now = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        self.trace.event(&[now, kind << 32 | u64::from(host.0), detail]);
    }

    fn tell(&mut self, host: HostId, input: Input<H::Packet, H::Order>) -> Happened {
        let place = usize::from(host.0);
        let (kind, detail) = match &input {
            Input::Boot => (1, 0),
            Input::Crash => (2, 0),
            Input::Up { plane, peer } => (3, u64::from(plane.0) << 32 | u64::from(peer.0)),
            Input::Down { plane, peer, said } => {
                (4, u64::from(*said) << 40 | u64::from(plane.0) << 32 | u64::from(peer.0))
            }
            Input::Packet { from, packet, .. } => (5, H::digest(packet) ^ u64::from(from.0)),
            Input::GivenUp { from, packet, .. } => (6, H::digest(packet) ^ u64::from(from.0)),
            Input::Order(_) => (7, 0),
            Input::Tick => (8, 0),
        };
        self.note(kind, host, detail);
        self.hosts[place].handle(self.now, input);
        while let Some(output) = self.hosts[place].poll() {
            self.carry_out(host, output);
        }
        let told = &mut self.wakes[place].1;
        *told += 1;
        if *told > MOMENT_MAX {
            self.stuck = Some(Stuck::Moment(host));
        }
        if self.net.is_powered(host)
            && let Some(at) = self.hosts[place].deadline()
            && self.wakes[place].0.is_none_or(|known| at.max(self.now) < known)
        {
            let at = at.max(self.now);
            self.wakes[place].0 = Some(at);
            self.push(at, Event::Wake(host));
        }
        Happened::Told(host)
    }

    fn carry_out(&mut self, host: HostId, output: Output<H::Packet>) {
        match output {
            Output::Send { plane, to, len, lane, patience, packet } => {
                let pair = pair(plane, host, to);
                let Some(connection) = self.net.connections.get(&pair).filter(|known| known.up[end_of(&pair, host)])
                else {
                    return;
                };
                let generation = connection.generation;
                let until = patience.map(|patience| self.now + patience);
                let pause = RESEND_MIN;
                let (from, lane) = (host, usize::from(lane));
                let flight = Flight { plane, from, to, generation, len, lane, until, pause, given_up: false, packet };
                self.offer(flight);
            }
            Output::Dial { plane, to } => self.want(pair(plane, host, to), host, true),
            Output::HangUp { plane, to } => self.hang_up(pair(plane, host, to), host),
        }
    }

    fn change(&mut self, change: Change<H::Order>) -> Happened {
        match change {
            Change::Power(host, on) if self.net.is_powered(host) == on => Happened::Elsewhere,
            Change::Power(host, true) => {
                self.net.set_powered(host, true);
                self.tell(host, Input::Boot);
                self.look_at(host);
                Happened::Told(host)
            }
            Change::Power(host, false) => {
                self.tell(host, Input::Crash);
                self.net.set_powered(host, false);
                self.wakes[usize::from(host.0)].0 = None;
                let always: Vec<bool> = self.planes.iter().map(|plane| plane.always).collect();
                for (pair, connection) in &mut self.net.connections {
                    if pair.1 == host || pair.2 == host {
                        let end = end_of(pair, host);
                        connection.up[end] = false;
                        connection.wanted[end] &= always[usize::from(pair.0.0)];
                    }
                }
                self.look_at(host);
                Happened::Told(host)
            }
            Change::Cut { host, up, down } => {
                self.net.set_line(host, |out, back| (out.cut, back.cut) = (up, down));
                self.around(10, host)
            }
            Change::Line(host, line) => {
                self.net.set_line(host, |out, back| (*out, *back) = *line);
                self.around(11, host)
            }
            Change::Mend(host) => {
                self.net.set_line(host, |_, _| {});
                self.around(12, host)
            }
            Change::Bar(from, to, barred) => {
                self.net.set_barred(from, to, barred);
                self.note(13, from, u64::from(barred) << 32 | u64::from(to.0));
                let planes = self.all_planes();
                planes.into_iter().for_each(|plane| self.look(pair(plane, from, to)));
                Happened::Elsewhere
            }
            Change::Order(host, order) => self.tell(host, Input::Order(order)),
        }
    }

    fn around(&mut self, kind: u64, host: HostId) -> Happened {
        self.note(kind, host, 0);
        self.look_at(host);
        Happened::Elsewhere
    }

    fn all_planes(&self) -> Vec<Plane> {
        (0..self.planes.len()).map(|plane| Plane(u8::try_from(plane).unwrap_or(u8::MAX))).collect()
    }

    /// Something changed at a host or its line.
    fn look_at(&mut self, host: HostId) {
        for plane in self.all_planes() {
            for other in self.net.hosts().filter(|other| *other != host) {
                let pair = pair(plane, host, other);
                if self.planes[usize::from(plane.0)].always || self.net.connections.contains_key(&pair) {
                    self.look(pair);
                }
            }
        }
    }

    /// Sees what follows for a connection from the way between its hosts.
    fn look(&mut self, pair: Pair) {
        let (plane, a, b) = pair;
        let config = self.planes[usize::from(plane.0)];
        let works = self.net.reaches(a, b);
        let connection = self.net.connections.entry(pair).or_default();
        if config.always {
            connection.wanted = [true; 2];
        }
        let (up, generation) = (connection.up, connection.generation);
        if works && connection.stands() {
            return self.release(pair);
        }
        // Each end that believes in it will see that it is gone.
        for end in (0..2).filter(|&end| up[end]) {
            // An end that sends to one that does not know the connection any more is told so.
            let idle = if works { Duration::from_millis(50) } else { config.idle };
            let at = self.now + self.about(idle);
            self.push(at, Event::Idle { pair, end, generation });
        }
        self.try_again(pair);
    }

    /// A third more or less.
    fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.chance.unit().mul_add(2.0 / 3.0, 2.0 / 3.0))
    }

    /// Packets that waited for the way go on.
    fn release(&mut self, pair: Pair) {
        for (from, to) in [(pair.1, pair.2), (pair.2, pair.1)] {
            let flights = self.held.remove(&(from, to)).unwrap_or_default();
            let (mine, others): (Vec<_>, Vec<_>) = flights.into_iter().partition(|flight| flight.plane == pair.0);
            if !others.is_empty() {
                self.held.insert((from, to), others);
            }
            for flight in mine {
                self.offer(flight);
            }
        }
    }

    fn try_again(&mut self, pair: Pair) {
        let config = self.planes[usize::from(pair.0.0)];
        let works = self.net.reaches(pair.1, pair.2);
        let Some(connection) = self.net.connections.get_mut(&pair) else { return };
        let wanted = connection.wanted.contains(&true);
        if works && wanted && !connection.stands() && !connection.trying {
            connection.trying = true;
            let pause = config.retry.mul_f64(self.chance.unit()).max(Duration::from_millis(20));
            self.push(self.now + pause, Event::Connect { pair });
        }
    }

    fn connect(&mut self, pair: Pair) -> Happened {
        let config = self.planes[usize::from(pair.0.0)];
        let works = self.net.reaches(pair.1, pair.2);
        // Whether an end that has not missed the old one is told that it went before it is told of the new one.
        let noticed = self.chance.unit() < 0.5;
        let Some(connection) = self.net.connections.get_mut(&pair) else { return Happened::Elsewhere };
        connection.trying = false;
        if !works || connection.stands() || !connection.wanted.contains(&true) {
            return Happened::Elsewhere;
        }
        let before = std::mem::replace(&mut connection.up, [true; 2]);
        connection.generation += 1;
        let mut happened = Happened::Elsewhere;
        for (end, host, peer) in [(0, pair.1, pair.2), (1, pair.2, pair.1)] {
            let plane = pair.0;
            if before[end] && noticed {
                self.tell(host, Input::Down { plane, peer, said: false });
            }
            if !before[end] || noticed || config.again {
                happened = self.tell(host, Input::Up { plane, peer });
            }
        }
        happened
    }

    fn idle(&mut self, pair: Pair, end: usize, generation: u32) -> Happened {
        let works = self.net.reaches(pair.1, pair.2);
        let Some(connection) = self.net.connections.get(&pair) else { return Happened::Elsewhere };
        let same = connection.generation == generation && connection.up[end];
        if !same || (works && connection.stands()) {
            return Happened::Elsewhere;
        }
        self.gone(pair, end, false)
    }

    /// An end sees that its connection is gone.
    fn gone(&mut self, pair: Pair, end: usize, said: bool) -> Happened {
        let (host, peer) = if end == 0 { (pair.1, pair.2) } else { (pair.2, pair.1) };
        if let Some(connection) = self.net.connections.get_mut(&pair) {
            connection.up[end] = false;
        }
        if let Some(held) = self.held.get_mut(&(host, peer)) {
            held.retain(|flight| flight.plane != pair.0);
        }
        let happened = self.tell(host, Input::Down { plane: pair.0, peer, said });
        self.look(pair);
        happened
    }

    fn want(&mut self, pair: Pair, host: HostId, wanted: bool) {
        let end = end_of(&pair, host);
        self.net.connections.entry(pair).or_default().wanted[end] = wanted;
        self.try_again(pair);
    }

    fn hang_up(&mut self, pair: Pair, host: HostId) {
        let end = end_of(&pair, host);
        let Some(connection) = self.net.connections.get_mut(&pair) else { return };
        connection.wanted[end] = false;
        if connection.up[end] {
            let generation = connection.generation;
            // Our own end hears of it like any other, a moment later.
            self.push(self.now, Event::Left { pair, end, generation });
        }
    }

    fn left(&mut self, pair: Pair, end: usize, generation: u32) -> Happened {
        let (host, peer) = if end == 0 { (pair.1, pair.2) } else { (pair.2, pair.1) };
        let Some(connection) = self.net.connections.get(&pair) else { return Happened::Elsewhere };
        if connection.generation != generation || !connection.up[end] {
            return Happened::Elsewhere;
        }
        let first = connection.up[1 - end];
        if first && self.net.passes(host, peer) {
            let at = self.now + Duration::from_millis(50);
            self.push(at, Event::Left { pair, end: 1 - end, generation });
        }
        // The one who leaves was told nothing by the other.
        self.gone(pair, end, !first)
    }

    /// Whether a packet still belongs to a connection that its sender believes in.
    fn is_carried(&self, flight: &Flight<H::Packet>) -> bool {
        let pair = pair(flight.plane, flight.from, flight.to);
        let connection = self.net.connections.get(&pair);
        connection.is_some_and(|known| known.generation == flight.generation && known.up[end_of(&pair, flight.from)])
    }

    fn hold(&mut self, flight: Flight<H::Packet>) {
        self.held.entry((flight.from, flight.to)).or_default().push(flight);
    }

    fn offer(&mut self, mut flight: Flight<H::Packet>) -> Happened {
        if !self.is_carried(&flight) {
            return Happened::Elsewhere;
        }
        if !self.net.passes(flight.from, flight.to) {
            self.hold(flight);
            return Happened::Elsewhere;
        }
        let now = self.now;
        if flight.until.is_some_and(|until| until < now) {
            // A word that finds room on any line.
            flight.given_up = true;
            let up = self.net.line(flight.from).up[flight.lane].config().delay;
            let down = self.net.line(flight.to).down[flight.lane].config().delay;
            self.push(now + up + down, Event::Arrive(Box::new(flight)));
            return Happened::Elsewhere;
        }
        match self.net.line(flight.from).up[flight.lane].offer(now, flight.len) {
            Verdict::Deliver { at, .. } => self.push(at, Event::Enter(Box::new(flight))),
            Verdict::Drop(reason) => self.resend(flight, reason),
        }
        Happened::Elsewhere
    }

    fn resend(&mut self, mut flight: Flight<H::Packet>, reason: Reason) {
        let at = match reason {
            // The modem takes it as soon as there is room.
            Reason::Queue => self.now + RESEND_MIN,
            Reason::Loss | Reason::Cut => {
                let at = self.now + flight.pause;
                flight.pause = (flight.pause * 2).min(RESEND_MAX);
                at
            }
        };
        self.push(at, Event::Offer(Box::new(flight)));
    }

    fn enter(&mut self, flight: Flight<H::Packet>) -> Happened {
        let now = self.now;
        match self.net.line(flight.to).down[flight.lane].offer(now, flight.len) {
            Verdict::Deliver { at, .. } => self.push(at, Event::Arrive(Box::new(flight))),
            Verdict::Drop(reason) => self.resend(flight, reason),
        }
        Happened::Elsewhere
    }

    fn arrive(&mut self, flight: Flight<H::Packet>) -> Happened {
        let (plane, from, to) = (flight.plane, flight.from, flight.to);
        let pair = pair(plane, from, to);
        let heard = self
            .net
            .connections
            .get(&pair)
            .is_some_and(|known| known.generation == flight.generation && known.up[end_of(&pair, to)]);
        if !self.net.passes(from, to) {
            if self.is_carried(&flight) {
                self.hold(flight);
            }
            return Happened::Elsewhere;
        }
        if !heard {
            return Happened::Elsewhere;
        }
        let packet = flight.packet;
        match flight.given_up {
            true => self.tell(to, Input::GivenUp { plane, from, packet }),
            false => self.tell(to, Input::Packet { plane, from, packet }),
        }
    }
}

#[cfg(test)]
mod tests;
