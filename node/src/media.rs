//! The media plane: live groups and copies between neighbours, over QUIC.
//!
//! `Media` is the handle the driver holds. Behind it one task accepts, one dials each neighbour that is to be dialled,
//! one serves each connection, and the hub (`send`) writes for all. In a session the star is known beforehand: a
//! delegate gets everything from central, central gets each track from its origin, so what is subscribed where
//! follows from who one is. What a peer may do is asked of `engine::rights`, in the greeting and in `Session::admits_*`.
//!
//! Nothing here waits for a neighbour, opens a frame, or keeps what could be read again from a log.

pub mod bench;
mod fetch;
pub mod live;
mod probe;
mod receive;
mod send;
mod session;
#[cfg(test)]
mod tests;
mod tls;
pub mod visit;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, VarInt};
use store::access;
use store::id::{GroupId, NodeId, SessionId, TrackId};
use store::keys::NodeKey;
use store::record::Header;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::engine::door::{Door, Knocks, Limits, Rate};
use crate::engine::fanout::{LaneId, Track};
use crate::engine::rights::{Deed, Denied, Members, Part, Who, may};
use crate::wire::media::{Close, Message};
pub use fetch::{FetchError, Fetched};
use send::Command;
pub use session::Session;

/// Commands the hub has not taken yet; whoever has more waits.
const COMMANDS_MAX: usize = 1024;
/// Events the driver has not taken yet; connections wait when it is behind.
const EVENTS_MAX: usize = 4096;
/// Control messages waiting for one neighbour: a full session's subscriptions twice over. One that does not take them
/// is cut off.
const CONTROL_MAX: usize = 1024;
/// Holders remembered that showed what they were assigned.
const ASSIGNED_MAX: usize = 4096;
/// Ports tried when the default is taken.
const PORTS_TRIED: u16 = 100;
/// Wait between two attempts to reach a neighbour, growing from the first to the second.
const REDIAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// The longest a handshake that we began may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// The door. Each point has two connections; after a power cut all of an office begin at once, from one address if they
/// stand behind one translator. A handshake costs about half a millisecond.
const DOOR: Limits = Limits {
    address: Rate { burst: 64, per_second: 8 },
    address_work_max: 32,
    address_open_max: 512,
    total: Rate { burst: 300, per_second: 100 },
    total_work_max: 200,
    unproven_max: 16,
    proofs: Rate { burst: 1_000, per_second: 1_000 },
    stranger_time: Duration::from_secs(2),
    known_time: Duration::from_secs(5),
};

/// How the media plane is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// Take the next free port when this one is taken.
    pub give_way: bool,
    /// What a line is thought to carry before it was probed, bits per second.
    pub line_bits: u64,
    /// Zero of the local clock that neighbours are told, in microseconds.
    pub epoch: Instant,
}

/// Where stored groups are read for those who fetch.
pub trait Shelf: Send + Sync + 'static {
    /// What there is of a group. May block on the disk.
    fn get(&self, id: GroupId) -> Held;
}

/// What a node has of a group it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The record's bytes, checked.
    Whole(Bytes),
    /// It is waiting for the disk, or the disk does not answer: another time it may be there.
    NotYet,
    /// It is not here, and nobody is about to write it.
    Missing,
}

/// What the driver learns.
#[derive(Debug)]
pub enum Event {
    /// A neighbour is connected and its line measured.
    Up { node: NodeId },
    /// Its connection is gone; whether it said so itself, in good order.
    Down { node: NodeId, said: bool, reason: String },
    /// Nothing was heard of it for 2 s; its tile should say so.
    Quiet { node: NodeId },
    /// It is heard again.
    Heard { node: NodeId },
    /// It offers these tracks of a session.
    Announced { node: NodeId, session: SessionId, tracks: Vec<TrackId> },
    /// A group begins to arrive.
    Group(live::Reader),
    /// Somebody wants this own track live, or nobody does any more.
    Wanted { session: SessionId, track: TrackId, wanted: bool },
    /// Somebody needs a keyframe of this own track.
    Keyframe { session: SessionId, track: TrackId },
    /// An exchange of clocks: local microseconds when the question left, the neighbour's when it came, local when the
    /// answer came.
    Clock { node: NodeId, sent: u64, remote: u64, received: u64 },
    /// A neighbour goes without this group; the record keeps it.
    Shed { node: NodeId, session: SessionId, track: TrackId, seq: u64 },
    /// Bits per second that pictures may use towards a neighbour.
    Budget { node: NodeId, bits: u64 },
    /// Somebody at the door was turned away.
    Stranger { who: Stranger, from: IpAddr },
    /// A neighbour did what it may not; its connection was closed.
    Refused { node: NodeId, why: String },
    /// A neighbour wanted what it has no right to, and got nothing.
    Denied { node: NodeId, deed: access::Deed, session: SessionId, denied: Denied },
    /// Somebody, of the roster or not, wants to join.
    Visit(visit::Visit),
}

/// Who was turned away at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// Whoever has this key, which is no point's.
    Proved(NodeId),
    /// Whoever showed a certificate that proves nothing.
    Unproved,
}

/// Why the media plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program has the port, or the address is not ours.
    #[error("media cannot listen on UDP {0}; set another port under [media] in the configuration")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("media cannot start")]
    Tls(#[from] tls::Error),
}

/// Handle to the media plane; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Media {
    shared: Arc<Shared>,
    _running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    endpoint: Endpoint,
    tasks: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(Close::Done as u32), b"");
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

pub(crate) struct Shared {
    me: NodeId,
    keypair: tls::Keypair,
    config: Config,
    endpoint: Endpoint,
    shelf: Arc<dyn Shelf>,
    state: Mutex<State>,
    /// What strangers meet first.
    door: Mutex<Door>,
    hub: mpsc::Sender<Command>,
    events: mpsc::Sender<Event>,
    dirty: Arc<live::Dirty>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("me", &self.me).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    /// Who belongs to the mesh, and with which rights.
    members: Members,
    sessions: BTreeMap<SessionId, Session>,
    peers: BTreeMap<NodeId, Peer>,
    /// For each neighbour, newest last. Both sides may make one at the same moment.
    copies: BTreeMap<NodeId, Vec<Connection>>,
    dials: BTreeMap<NodeId, (Vec<SocketAddr>, AbortHandle)>,
    lanes: LaneId,
    /// Groups that a neighbour fetched, since somebody asked. Only of sessions it may fetch and points, so bounded by both.
    taken: BTreeMap<(NodeId, SessionId), u64>,
    /// Who showed that it is to hold a session, and what it is in it.
    assigned: BTreeMap<(SessionId, NodeId), Part>,
    /// Where the media planes of points are that may not be connected live.
    places: BTreeMap<NodeId, Vec<SocketAddr>>,
}

#[derive(Debug)]
struct Peer {
    lane: LaneId,
    connection: Connection,
    control: mpsc::Sender<Message>,
    probe: Arc<probe::Pending>,
}

impl Media {
    /// Listens, and begins to accept. Must be called within a tokio runtime.
    pub fn bind(key: &NodeKey, config: Config, shelf: Arc<dyn Shelf>) -> Result<(Self, mpsc::Receiver<Event>), Error> {
        let socket = listen(config.listen, config.give_way)?;
        let failed = |error| Error::Listen(config.listen, error);
        let keypair = crate::mesh::keypair(key);
        let server = tls::server(&keypair)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime).map_err(failed)?;
        let (hub, commands) = mpsc::channel(COMMANDS_MAX);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let dirty = Arc::new(live::Dirty::default());
        let shared = Arc::new(Shared {
            me: key.id(),
            keypair,
            config,
            endpoint: endpoint.clone(),
            shelf,
            state: Mutex::new(State::new(key.id())),
            door: Mutex::new(Door::new(Instant::now(), DOOR)),
            hub,
            events,
            dirty: Arc::clone(&dirty),
        });
        let hub = tokio::spawn(send::Hub::new(Arc::clone(&shared)).run(dirty, commands));
        let accept = tokio::spawn(receive::accept(Arc::clone(&shared)));
        let tasks = vec![hub.abort_handle(), accept.abort_handle()];
        Ok((Self { shared, _running: Arc::new(Running { endpoint, tasks }) }, receiver))
    }

    /// The UDP address it listens on.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// The points of the roster: nobody else is answered. Who is no longer among them is cut off, and not called.
    pub fn set_members(&self, members: Members) {
        let mut state = self.shared.state();
        state.members = members;
        let known = state.peers.keys().chain(state.copies.keys()).chain(state.dials.keys()).copied();
        let gone: BTreeSet<NodeId> = known.filter(|node| !state.may_connect(*node)).collect();
        for node in gone {
            state.cut(node, Close::Stranger);
            if let Some((_, task)) = state.dials.remove(&node) {
                task.abort();
            }
        }
        let State { members, places, .. } = &mut *state;
        places.retain(|node, _| members.contains(node));
        self.shared.door().retain(|node| state.may_connect(*node));
    }

    /// A point that is a member is or was at these addresses, so it is let in from there however many strangers knock.
    pub fn know(&self, node: NodeId, addresses: &[SocketAddr]) {
        {
            let mut door = self.shared.door();
            addresses.iter().for_each(|address| door.know(node, address.ip()));
        }
        self.shared.state().places.insert(node, addresses.to_vec());
    }

    /// `node`, which is `part` in the session, has shown that it is to hold a copy, and may fetch.
    pub fn assign(&self, session: SessionId, node: NodeId, part: Part) {
        let mut state = self.shared.state();
        state.assigned.insert((session, node), part);
        while state.assigned.len() > ASSIGNED_MAX {
            // Whoever still needs it shows its assignment again when it asks what there is.
            state.assigned.pop_first();
        }
    }

    /// What came to the door before anybody knew who it was.
    pub fn knocks(&self) -> Knocks {
        self.shared.door().knocks()
    }

    /// From now on the session's tracks may be announced, subscribed and sent. Opening it again takes out the points
    /// that have been removed since.
    pub fn open_session(&self, session: Session) {
        let id = session.id;
        match self.shared.state().sessions.entry(id) {
            Entry::Occupied(mut known) => known.get_mut().remove(session.removed()),
            Entry::Vacant(place) => drop(place.insert(session)),
        }
        self.shared.announce_to_all(id);
    }

    /// A point takes no part in the session any more: its connection ends, and its tracks are gone.
    pub fn expel(&self, session: SessionId, node: NodeId) {
        {
            let mut state = self.shared.state();
            if let Some(known) = state.sessions.get_mut(&session) {
                known.remove(known.number(node));
            }
            state.cut(node, Close::Removed);
        }
        self.shared.announce_to_all(session);
    }

    /// The session is over: its groups in the air are taken back.
    pub async fn close_session(&self, session: SessionId) {
        self.shared.state().sessions.remove(&session);
        self.shared.tell_hub(Command::Closed { session }).await;
    }

    /// Keeps a connection to `node` until it is hung up, trying its addresses in turn. New addresses for the same
    /// node take effect at the next attempt only when they differ.
    pub fn dial(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        let mut state = self.shared.state();
        if !state.may_connect(node) {
            return tracing::warn!(peer = %node.short(), "media: it is no point of this mesh, so it is not called");
        }
        if state.dials.get(&node).is_some_and(|(known, _)| *known == addresses) {
            return;
        }
        let task = tokio::spawn(dial(Arc::clone(&self.shared), node, addresses.clone()));
        if let Some((_, old)) = state.dials.insert(node, (addresses, task.abort_handle())) {
            old.abort();
        }
    }

    /// Ends the connection to `node`, and tries no more.
    pub fn hang_up(&self, node: NodeId) {
        let mut state = self.shared.state();
        if let Some((_, task)) = state.dials.remove(&node) {
            task.abort();
        }
        state.cut(node, Close::Done);
    }

    /// Own tracks of a session; replaces what was announced before.
    pub fn announce(&self, session: SessionId, tracks: Vec<TrackId>) {
        let me = self.shared.me;
        if let Some(session) = self.shared.state().sessions.get_mut(&session) {
            session.offer_own(me, tracks);
        }
        self.shared.announce_to_all(session);
    }

    /// An own group begins. Cheap; may be called from any thread.
    pub fn publish(&self, header: &Header, head: Bytes) -> live::Writer {
        live::Writer::new(live::Log::begin(header.clone(), head, None, Arc::clone(&self.shared.dirty)))
    }

    /// Wants this track of another point live, from now until the session is closed or `unsubscribe`. 7 is the
    /// highest priority, 0 the lowest.
    pub fn subscribe(&self, session: SessionId, track: TrackId, priority: u8) {
        self.shared.desire((session, track), |desire| desire.by_driver = Some(priority.min(7)));
    }

    /// Wants it no longer.
    pub fn unsubscribe(&self, session: SessionId, track: TrackId) {
        self.shared.desire((session, track), |desire| desire.by_driver = None);
    }

    /// Asks the source for a new group of this track soon.
    pub fn request_keyframe(&self, session: SessionId, track: TrackId) {
        let state = self.shared.state();
        let source = state.sessions.get(&session).and_then(|known| known.source(self.shared.me, track));
        if let Some(peer) = source.and_then(|source| state.peers.get(&source)) {
            self.shared.tell(peer, Message::Keyframe { session, track });
        }
    }

    /// Groups `from..=to` of a track as `node` holds them, in order, up to `len_max` bytes.
    pub async fn fetch(&self, node: NodeId, id: GroupId, to: u64, len_max: u64) -> Result<Vec<Fetched>, FetchError> {
        fetch::fetch(&self.shared, node, id, to, len_max).await
    }

    /// Measures what the line to `node` carries now, bits per second.
    pub async fn probe(&self, node: NodeId) -> Option<u64> {
        let (lane, connection, probe) = {
            let state = self.shared.state();
            let peer = state.peers.get(&node)?;
            (peer.lane, peer.connection.clone(), Arc::clone(&peer.probe))
        };
        let bits = probe::measure(&connection, &probe).await?;
        self.shared.tell_hub(Command::Probed { lane, bits }).await;
        Some(bits)
    }

    /// The delay of the line to `node`, the bits per second it is thought to carry, and whether it is used live.
    pub async fn line(&self, node: NodeId) -> Option<(Duration, u64, bool)> {
        let lane = self.shared.state().peers.get(&node)?.lane;
        self.shared.line(lane).await
    }

    /// Who fetched how many groups of which session since this was asked last.
    pub fn taken(&self) -> BTreeMap<(NodeId, SessionId), u64> {
        std::mem::take(&mut self.shared.state().taken)
    }

    /// The neighbours connected now.
    pub fn connected(&self) -> Vec<NodeId> {
        self.shared.state().peers.keys().copied().collect()
    }
}

impl State {
    /// In no mesh, until the members are set.
    fn new(me: NodeId) -> State {
        State {
            members: Members::new(me, BTreeMap::new(), BTreeSet::new()),
            sessions: BTreeMap::new(),
            peers: BTreeMap::new(),
            copies: BTreeMap::new(),
            dials: BTreeMap::new(),
            lanes: 0,
            taken: BTreeMap::new(),
            assigned: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// May `node` fetch stored groups of a session? `None` if it is nobody's business here.
    fn admits_fetch(&self, id: SessionId, node: NodeId) -> Option<Result<(), Denied>> {
        let open = self.sessions.get(&id).map(|session| session.admits_fetch(&self.members, node));
        let assigned = self
            .assigned
            .get(&(id, node))
            .map(|part| may(&self.members, &Who::Node(node), Deed::Fetch { part: *part, assigned: true }));
        match (open, assigned) {
            (Some(Ok(())), _) | (_, None) => open,
            (_, assigned) => assigned,
        }
    }

    fn may_connect(&self, node: NodeId) -> bool {
        may(&self.members, &Who::Node(node), Deed::Connect).is_ok()
    }

    /// Ends the connections with a neighbour.
    fn cut(&mut self, node: NodeId, why: Close) {
        let live = self.peers.get(&node).map(|peer| peer.connection.clone());
        for connection in live.into_iter().chain(self.copies.remove(&node).into_iter().flatten()) {
            connection.close(VarInt::from_u32(why as u32), b"");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        // Each change is whole before anything can panic.
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell_hub(&self, command: Command) {
        // The hub ends only with everything else.
        let _ = self.hub.send(command).await;
    }

    /// Tells of somebody turned away, if the driver has room: strangers do not make anybody wait. All are counted at the door.
    fn tell_stranger(&self, who: Stranger, from: IpAddr) {
        let _ = self.events.try_send(Event::Stranger { who, from });
    }

    async fn tell_driver(&self, event: Event) {
        // The driver ends only with everything else.
        let _ = self.events.send(event).await;
    }

    async fn line(&self, lane: LaneId) -> Option<(Duration, u64, bool)> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.tell_hub(Command::Line { lane, reply }).await;
        answer.await.ok().flatten()
    }

    /// Local microseconds, as neighbours are told.
    fn micros(&self) -> u64 {
        u64::try_from(self.config.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A control message to a neighbour. One that lets a thousand wait is not well, and is cut off.
    fn tell(&self, peer: &Peer, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(_)) = peer.control.try_send(message) {
            peer.connection.close(VarInt::from_u32(Close::Silent as u32), b"control is not read");
        }
    }

    /// Tells every neighbour in the session what can be had here.
    fn announce_to_all(&self, id: SessionId) {
        let state = self.state();
        let Some(session) = state.sessions.get(&id) else { return };
        for (node, peer) in &state.peers {
            if let Some(tracks) = session.offers_to(self.me, *node) {
                self.tell(peer, Message::Announce { session: id, tracks });
            }
        }
    }

    /// Changes what is wanted of a track, and tells its source when that makes a difference.
    fn desire(&self, track: Track, change: impl FnOnce(&mut session::Desire)) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(session) = state.sessions.get_mut(&track.0) else { return };
        let Some(source) = session.source(self.me, track.1) else { return };
        let desire = session.desires.entry(track.1).or_default();
        let before = desire.priority();
        change(desire);
        let after = desire.priority();
        let Some(peer) = state.peers.get(&source).filter(|_| before != after) else { return };
        if !session.offered_by(source, track.1) {
            return;
        }
        self.tell(
            peer,
            match after {
                Some(priority) => Message::Subscribe { session: track.0, track: track.1, priority },
                None => Message::Unsubscribe { session: track.0, track: track.1 },
            },
        );
    }

    /// The fan-out wants a track, or no longer: an own one is the driver's business, another's its source's.
    fn want(&self, track: Track, wanted: bool) -> Option<Event> {
        let own = self.state().sessions.get(&track.0).is_some_and(|session| session.node(track.1) == Some(self.me));
        if own {
            return Some(Event::Wanted { session: track.0, track: track.1, wanted });
        }
        self.desire(track, |desire| desire.by_neighbours = wanted);
        None
    }
}

/// A UDP socket on `address`, or on one of the next ports if it may give way.
fn listen(address: SocketAddr, give_way: bool) -> Result<UdpSocket, Error> {
    let mut tried = address;
    loop {
        match bind(tried) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && give_way => {
                let next = tried.port().checked_add(1).filter(|next| next - address.port() < PORTS_TRIED);
                tried.set_port(next.ok_or(Error::Listen(address, error))?);
            }
            Err(error) => return Err(Error::Listen(tried, error)),
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    /// Room for what arrives while the processor is busy elsewhere: 0.3 s of a 100 Mb/s line. The kernel may grant
    /// less.
    const BUFFER: usize = 4 << 20;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Smaller buffers only mean more loss under load.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Keeps a live and a copy connection to `node`, until aborted.
async fn dial(shared: Arc<Shared>, node: NodeId, addresses: Vec<SocketAddr>) {
    let mut wait = REDIAL.0;
    loop {
        for address in &addresses {
            let live = match connect(&shared, &node, *address, tls::Purpose::Live).await {
                Ok(live) => live,
                Err(error) => {
                    tracing::debug!(%address, error, "media: no connection");
                    continue;
                }
            };
            wait = REDIAL.0;
            // The far side may be unable to dial us, so the way for its fetches is made from here.
            if let Ok(copy) = connect(&shared, &node, *address, tls::Purpose::Copy).await {
                tokio::spawn(fetch::serve(Arc::clone(&shared), node, copy));
            }
            receive::run(Arc::clone(&shared), node, live, receive::Side::Dialled).await;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(REDIAL.1);
    }
}

/// One attempt; an error in words.
async fn connect(
    shared: &Shared,
    node: &NodeId,
    address: SocketAddr,
    purpose: tls::Purpose,
) -> Result<Connection, String> {
    let config = tls::client(&shared.keypair, node, purpose).map_err(|error| error.to_string())?;
    // The name is not looked at: libp2p certificates carry a key instead.
    let connecting =
        shared.endpoint.connect_with(config, address, "diemcau.invalid").map_err(|error| error.to_string())?;
    let connection = tokio::time::timeout(HANDSHAKE_MAX, connecting)
        .await
        .map_err(|_| "no answer on UDP".to_owned())?
        .map_err(|error| error.to_string())?;
    match tls::peer_of(&connection) {
        Some((proven, _)) if proven == *node => Ok(connection),
        _ => Err("another node answered".to_owned()),
    }
}
