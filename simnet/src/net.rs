//! Who can reach whom, and what each of two hosts believes of their connection.
//!
//! Every host has a line of its own, which carries what it sends and what it is sent; a partition stands in the way of
//! some packets in one direction. A connection lives at both its ends, and they need not agree: when a way breaks, each
//! end notices at a time of its own, and one end may have begun anew before the other has noticed. It is in these
//! moments that protocols fail, so they are what is modelled; acknowledgements and congestion windows are not.
//! Transports of ours repeat what is lost, so a loss is a delay here, and what a sender does not want to wait for is
//! given up by itself, which the other end is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::host::{HostId, Plane};
use crate::link::{Config, Link, Share};
use crate::rng::seed_of;

/// How connections of one kind behave.
#[derive(Debug, Clone, Copy)]
pub struct PlaneConfig {
    /// Silence after which an end believes the connection gone; each end waits up to a third longer or shorter.
    pub idle: Duration,
    /// Longest pause before a connection that should stand is tried again.
    pub retry: Duration,
    /// Whether every two hosts that can reach each other are connected; else who dials.
    pub always: bool,
    /// Whether an end that has not noticed the loss is told when a new connection stands.
    pub again: bool,
}

/// A host's line.
#[derive(Debug)]
pub(crate) struct Line {
    /// What it sends and what it is sent, by lane.
    pub(crate) up: Vec<Link>,
    pub(crate) down: Vec<Link>,
    normal: (Config, Config),
}

/// Two hosts, the lower first, and the kind of connection.
pub(crate) type Pair = (Plane, HostId, HostId);

/// One connection, seen from both ends.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// Which connection of these two it is.
    pub(crate) generation: u32,
    /// Whether each end believes that it stands; the lower host's first.
    pub(crate) up: [bool; 2],
    /// Whether each end wants it.
    pub(crate) wanted: [bool; 2],
    /// Whether an attempt is under way.
    pub(crate) trying: bool,
}

impl Connection {
    pub(crate) fn stands(&self) -> bool {
        self.up == [true; 2]
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct Net {
    lines: Vec<Line>,
    lanes: Vec<Share>,
    powered: Vec<bool>,
    /// Ways on which nothing passes.
    barred: BTreeSet<(HostId, HostId)>,
    pub(crate) connections: BTreeMap<Pair, Connection>,
}

/// The place of a host in the two ends of a pair.
pub(crate) fn end_of(pair: &Pair, host: HostId) -> usize {
    usize::from(host != pair.1)
}

pub(crate) fn pair(plane: Plane, a: HostId, b: HostId) -> Pair {
    (plane, a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn new(lines: Vec<(Config, Config)>, lanes: Vec<Share>, seed: u64) -> Self {
        let powered = vec![false; lines.len()];
        let mut part = 0;
        let mut links = |config: &Config| -> Vec<Link> {
            let link = |share: &Share| {
                part += 1;
                Link::new(config.share(*share), seed_of(seed, part))
            };
            lanes.iter().map(link).collect()
        };
        let line = |(up, down): (Config, Config)| Line { up: links(&up), down: links(&down), normal: (up, down) };
        let lines = lines.into_iter().map(line).collect();
        Self { lines, lanes, powered, barred: BTreeSet::new(), connections: BTreeMap::new() }
    }

    pub(crate) fn is_powered(&self, host: HostId) -> bool {
        self.powered[usize::from(host.0)]
    }

    pub(crate) fn set_powered(&mut self, host: HostId, powered: bool) {
        self.powered[usize::from(host.0)] = powered;
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.lines.len()).map(|number| HostId(u16::try_from(number).unwrap_or(u16::MAX)))
    }

    pub(crate) fn line(&mut self, host: HostId) -> &mut Line {
        &mut self.lines[usize::from(host.0)]
    }

    /// Changes a host's line from what it normally is, each direction by itself.
    pub(crate) fn set_line(&mut self, host: HostId, change: impl FnOnce(&mut Config, &mut Config)) {
        let lanes = self.lanes.clone();
        let line = self.line(host);
        let (mut up, mut down) = line.normal.clone();
        change(&mut up, &mut down);
        for (lane, share) in lanes.iter().enumerate() {
            line.up[lane].set(up.share(*share));
            line.down[lane].set(down.share(*share));
        }
    }

    pub(crate) fn set_barred(&mut self, from: HostId, to: HostId, barred: bool) {
        match barred {
            true => self.barred.insert((from, to)),
            false => self.barred.remove(&(from, to)),
        };
    }

    /// Whether a packet would arrive.
    pub(crate) fn passes(&self, from: HostId, to: HostId) -> bool {
        let cut = |host: HostId, up: bool| {
            let line = &self.lines[usize::from(host.0)];
            let links = if up { &line.up } else { &line.down };
            links.iter().any(|link| link.config().cut)
        };
        let powered = self.is_powered(from) && self.is_powered(to);
        powered && !cut(from, true) && !cut(to, false) && !self.barred.contains(&(from, to))
    }

    /// Whether a connection can be made.
    pub(crate) fn reaches(&self, a: HostId, b: HostId) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }
}
