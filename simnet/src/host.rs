//! What a host of the world is: the three verbs, and what goes in and out.
//!
//! A host is a whole node with its disk, seen from the network. It survives its own power cuts: what a [`Input::Boot`]
//! finds is what the [`Input::Crash`] before left on the disk, and keeping that apart from what is lost is the host's affair.

use std::fmt;
use std::time::Duration;

/// A host by its number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One of the kinds of connection two hosts may have, by its place in [`crate::world::Config::planes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plane(pub u8);

/// What happens to a host. `P` is what hosts send each other, `O` what people and bad luck do to them.
#[derive(Debug)]
pub enum Input<P, O> {
    /// Its program starts.
    Boot,
    /// Its program ends without a word: a power cut, a kill.
    Crash,
    /// A connection with another host stands. Comes again when it was made anew and the old one was not missed.
    Up {
        /// Of which kind.
        plane: Plane,
        /// With whom.
        peer: HostId,
    },
    /// A connection is gone.
    Down {
        /// Of which kind.
        plane: Plane,
        /// With whom.
        peer: HostId,
        /// Whether the other side said so.
        said: bool,
    },
    /// Something arrived.
    Packet {
        /// On which kind of connection.
        plane: Plane,
        /// From whom.
        from: HostId,
        /// What.
        packet: P,
    },
    /// The other side gave up sending this, and said so.
    GivenUp {
        /// On which kind of connection.
        plane: Plane,
        /// From whom.
        from: HostId,
        /// What it was going to send.
        packet: P,
    },
    /// An order from outside the network.
    Order(O),
    /// Time passed.
    Tick,
}

/// What a host wants done.
#[derive(Debug)]
pub enum Output<P> {
    /// Send something. It is lost without a word if there is no such connection.
    Send {
        /// On which kind of connection.
        plane: Plane,
        /// To whom.
        to: HostId,
        /// Length in bytes, for the line.
        len: usize,
        /// On which part of our line, by its place in [`crate::world::Config::lanes`].
        lane: u8,
        /// How long it may wait for its turn on our line before it is given up; `None` if it is worth waiting for.
        patience: Option<Duration>,
        /// What.
        packet: P,
    },
    /// Keep a connection with a host, on a plane where connections are made on demand.
    Dial {
        /// Of which kind.
        plane: Plane,
        /// With whom.
        to: HostId,
    },
    /// End a connection and keep it no more.
    HangUp {
        /// Of which kind.
        plane: Plane,
        /// With whom.
        to: HostId,
    },
}

/// A host of the world.
pub trait Host {
    /// What hosts send each other.
    type Packet: Clone;
    /// What people and bad luck do to them.
    type Order;

    /// Something happened. `now` is the time of the world.
    fn handle(&mut self, now: Duration, input: Input<Self::Packet, Self::Order>);

    /// What to do; drained until `None` after each `handle`.
    fn poll(&mut self) -> Option<Output<Self::Packet>>;

    /// When to come back with [`Input::Tick`].
    fn deadline(&self) -> Option<Duration>;

    /// A number that stands for a packet in the trace: equal for equal packets in every run of a seed.
    fn digest(packet: &Self::Packet) -> u64;
}
