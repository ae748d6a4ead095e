//! The mesh: who is there, and short messages between points, over libp2p.
//!
//! One task owns the swarm. Everything reaches it and leaves it through bounded queues, and it never waits for anybody:
//! a driver that is slow to take events makes the mesh refuse requests, not stop pinging. Who may connect is the roster's
//! word, given at the start and whenever it changes; the mesh itself greets each point (`mesh/hello.rs`), so that whoever hears
//! [`Event::Up`] knows that the two programs understand one another and where that point's sound and picture go.
//!
//! Points are looked for in four places at once: addresses in the configuration, addresses in the roster, multicast on
//! the local network, and Kademlia among those already found. `mesh/dial.rs` decides whom to call when.

mod behaviour;
pub mod codec;
mod dial;
mod door;
pub mod hello;
mod listen;
mod peer;
mod quic;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use store::id::NodeId;
use store::keys::NodeKey;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Address, Port};
use crate::engine::door::Knocks;

pub use peer::{NotAKey, keypair, node_id, peer_id};

/// Longest message in bytes, either way.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Events waiting for the driver. Beyond, requests of others are refused and strangers only counted; comings and goings
/// are kept (two a point).
const EVENTS_MAX: usize = 256;
/// Questions waiting for the task. Beyond, [`Mesh::ask`] waits.
const COMMANDS_MAX: usize = 256;

/// What the mesh needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What this point calls itself; for the logs of others.
    pub name: String,
    /// Address to listen on.
    pub listen: IpAddr,
    /// Port to listen on, UDP and TCP.
    pub port: Port,
    /// UDP port of this node's media plane, told to others. 0 for none.
    pub media_port: u16,
    /// Whether to find and be found by multicast. Off by itself when listening on loopback.
    pub multicast: bool,
    /// Addresses to call, whoever is there.
    pub peers: Vec<Address>,
    /// The points of the roster and where it says they are. This node itself may be among them.
    pub members: Members,
}

/// The points of the roster and where it says they are.
pub type Members = BTreeMap<NodeId, Vec<Address>>;

/// What happens in the mesh.
#[derive(Debug)]
pub enum Event {
    /// A point is there, speaks our version and can be asked.
    Up {
        /// Who.
        node: NodeId,
        /// Where to try its media plane, likeliest first. Empty if it has none.
        media: Vec<SocketAddr>,
    },
    /// A point that was up is gone: the last connection to it ended.
    Down {
        /// Who.
        node: NodeId,
    },
    /// Somebody proved a key that is no point's, and was sent away.
    Stranger {
        /// Whose key.
        node: NodeId,
        /// From where.
        from: IpAddr,
    },
    /// A point cannot be talked to, and was sent away.
    Refused {
        /// Who.
        node: NodeId,
        /// Why, in a sentence.
        reason: String,
    },
    /// A point that is up asks something.
    Request {
        /// Who. The connection proves it.
        from: NodeId,
        /// What; anything at all, up to [`MESSAGE_BYTES_MAX`].
        message: Bytes,
        /// Where the answer goes, within ten seconds. Dropping it refuses.
        reply: oneshot::Sender<Bytes>,
    },
}

/// Why the mesh cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is somebody else's.
    #[error(
        "port {port} on {listen} is taken by another program: choose another mesh.port, or leave it out to have one found"
    )]
    PortTaken {
        /// Which address.
        listen: IpAddr,
        /// Which port.
        port: u16,
    },
    /// The system refused.
    #[error("the mesh cannot listen on {listen}")]
    Listen {
        /// Which address.
        listen: IpAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not there now. An [`Event::Up`] will tell when it is.
    #[error("the point is not connected")]
    NotConnected,
    /// It did not answer in time, refused, or went away. It may have acted on the question.
    #[error("the point did not answer")]
    Unanswered,
    /// Too many questions to it wait already. Later.
    #[error("too many questions to this point wait for an answer")]
    Busy,
    /// The question is longer than [`MESSAGE_BYTES_MAX`].
    #[error("the message is too long")]
    TooLong,
    /// The mesh has ended.
    #[error("the mesh has stopped")]
    Stopped,
}

/// A point as the mesh sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Peer {
    /// Whether it can be asked now.
    pub up: bool,
    /// What it calls itself.
    pub name: String,
    /// Its program and version.
    pub program: String,
    /// Where it is connected from, as seen here.
    pub addresses: Vec<SocketAddr>,
    /// Where to try its media plane, likeliest first.
    pub media: Vec<SocketAddr>,
    /// Round trip of the last ping.
    pub rtt: Option<Duration>,
    /// When something was last heard from it.
    pub last_seen: Option<SystemTime>,
    /// Why it is connected but not up, if so: one sentence.
    pub refused: Option<String>,
}

/// A hold on the running mesh. Cheap to clone; the mesh ends when the last one or the event queue is dropped.
#[derive(Debug, Clone)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    members: watch::Sender<Members>,
    seen: Arc<Mutex<Seen>>,
    porter: door::Porter,
    port: u16,
}

/// A wish on its way to the task.
#[derive(Debug)]
enum Command {
    Ask { to: NodeId, message: Bytes, reply: oneshot::Sender<Result<Bytes, Error>> },
    Stop { done: oneshot::Sender<()> },
}

/// What the task shows to everybody.
#[derive(Debug, Default)]
struct Seen {
    listening: BTreeSet<SocketAddr>,
    peers: BTreeMap<NodeId, Peer>,
    strangers: u64,
}

impl Mesh {
    /// Listens, and starts looking for the members. Must be called inside a tokio runtime.
    pub fn start(key: &NodeKey, settings: Settings) -> Result<(Self, mpsc::Receiver<Event>), StartError> {
        let refused = |source| StartError::Listen { listen: settings.listen, source };
        let multicast = settings.multicast && !settings.listen.is_loopback();
        let members = settings.members.keys().filter_map(|node| peer_id(node).ok());
        let porter = door::Porter::new();
        let mut swarm = behaviour::swarm(&keypair(key), members, multicast, porter.clone()).map_err(refused)?;
        let port = listen::listen(&mut swarm, settings.listen, settings.port).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError::PortTaken { listen: settings.listen, port: settings.port.number },
            _ => refused(error),
        })?;
        let (commands, to_task) = mpsc::channel(COMMANDS_MAX);
        let (from_task, events) = mpsc::channel(EVENTS_MAX);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (members, changed) = watch::channel(settings.members.clone());
        let task = task::Task::new(swarm, porter.clone(), key.id(), settings, Arc::clone(&seen));
        tokio::spawn(task.run(to_task, changed, from_task));
        Ok((Self { commands, members, seen, porter, port }, events))
    }

    /// Asks a point and waits for its answer, ten seconds at most.
    pub async fn ask(&self, to: NodeId, message: Bytes) -> Result<Bytes, Error> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask { to, message, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// The points from now on. Connections of those who are none any more end at once, and they get no new one; those who
    /// are new are called.
    pub fn set_members(&self, members: Members) {
        self.members.send_replace(members);
    }

    /// Says goodbye to every point and ends the mesh, so that others see this one leave at once and not by silence.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop { done }).await.is_ok() {
            // An error means that it has ended without us.
            let _ = stopped.await;
        }
    }

    /// The port it listens on, UDP and TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Addresses to give to other points, in order. Filled in shortly after the start.
    pub fn listening(&self) -> Vec<SocketAddr> {
        look(&self.seen).listening.iter().copied().collect()
    }

    /// Every member as it looks now, without this node.
    pub fn peers(&self) -> BTreeMap<NodeId, Peer> {
        look(&self.seen).peers.clone()
    }

    /// What came to the door before anybody knew who it was.
    pub fn knocks(&self) -> Knocks {
        self.porter.knocks()
    }

    /// How many connections were ended because their key is not in the roster.
    pub fn strangers(&self) -> u64 {
        look(&self.seen).strangers
    }
}

fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Each change is a few plain assignments, so what a panicking thread left behind is whole.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
