//! The task that owns the swarm: turns what libp2p reports into comings, goings and requests, and calls whom the dialler
//! says. It awaits nothing but the next thing to happen.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Multiaddr;
use libp2p::request_response::{self, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{PeerId, Swarm, allow_block_list, identify, kad, mdns, ping};
use store::id::NodeId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, sleep_until, timeout};

use super::behaviour::{ANSWER_MAX, Behaviour, BehaviourEvent, REQUESTS_MAX};
use super::dial::{Dialler, Target};
use super::door::Porter;
use super::hello::{self, Hello, dialable};
use super::peer::{quic, socket, tcp};
use super::{Command, EVENTS_MAX, Error, Event, Members, Peer, Seen, Settings, look, node_id, peer_id};
use crate::config::Address;

/// Searches by Kademlia at once. A point that is simply off costs one each time it is called in vain.
const SEARCHES_MAX: usize = 4;
/// The longest a host name may take to be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Addresses tried in one call.
const ADDRESSES_MAX: usize = 16;
/// A refused point stays connected this long, so that our greeting reaches it and it can tell its people why too.
const PARTING: Duration = Duration::from_secs(1);
/// A connection without an answered ping for this long is dead: two pings and room for a bad line's retransmissions. libp2p's
/// own ping keeps its first failure to itself and reports the second a quarter of a minute after the line broke.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How often silence is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Saying goodbye takes this long at most.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

type Message = request_response::Event<Bytes, Bytes>;
/// Who asked, where the answer goes, and the answer if there is one.
type Answered = (NodeId, ResponseChannel<Bytes>, Option<Bytes>);

pub(super) struct Task {
    own: NodeId,
    swarm: Swarm<Behaviour>,
    porter: Porter,
    settings: Settings,
    members: HashMap<PeerId, NodeId>,
    dialler: Dialler,
    /// Calls in work.
    attempts: HashMap<ConnectionId, Attempt>,
    /// Host names being looked up for a call; at most one for each target.
    lookups: FuturesUnordered<BoxFuture<'static, (Target, Vec<SocketAddr>)>>,
    /// Points with at least one connection.
    links: BTreeMap<NodeId, Link>,
    /// Our questions without an answer yet; bounded by [`REQUESTS_MAX`] for each point.
    asked: HashMap<OutboundRequestId, (NodeId, oneshot::Sender<Result<Bytes, Error>>)>,
    /// Others' questions the driver thinks about; bounded likewise.
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Refused points and the connections about to be ended; one for each link.
    partings: FuturesUnordered<BoxFuture<'static, PeerId>>,
    searches: HashSet<kad::QueryId>,
    /// Events the driver has no room for yet. Requests and the refused stop at [`EVENTS_MAX`]; comings and goings of one
    /// point cancel out, so there are two of each point at most.
    outbox: VecDeque<Event>,
    seen: Arc<Mutex<Seen>>,
}

struct Attempt {
    target: Target,
    /// What to try when this fails, for an address of which we do not know who is there.
    rest: VecDeque<Multiaddr>,
}

struct Link {
    peer: PeerId,
    /// Never empty.
    connections: BTreeMap<ConnectionId, Wire>,
    up: bool,
    parting: bool,
    /// Our questions to it without an answer.
    asking: usize,
    /// Its questions to us without an answer.
    asked: usize,
}

struct Wire {
    at: Option<SocketAddr>,
    /// When it was made or a ping on it was answered last.
    heard: Instant,
}

impl Task {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        porter: Porter,
        own: NodeId,
        settings: Settings,
        seen: Arc<Mutex<Seen>>,
    ) -> Self {
        let others = settings.members.iter().filter(|(node, _)| **node != own);
        let members: HashMap<_, _> =
            others.clone().filter_map(|(&node, _)| Some((peer_id(&node).ok()?, node))).collect();
        look(&seen).peers = members.values().map(|&node| (node, Peer::default())).collect();
        for (node, addresses) in others.clone() {
            for ip in addresses.iter().filter_map(|address| address.host.parse().ok()) {
                porter.know(*node, ip);
            }
        }
        let known = others.map(|(&node, addresses)| (node, addresses.clone()));
        let dialler = Dialler::new(Instant::now(), known, settings.peers.iter().cloned());
        Self {
            own,
            swarm,
            porter,
            settings,
            members,
            dialler,
            attempts: HashMap::new(),
            lookups: FuturesUnordered::new(),
            links: BTreeMap::new(),
            asked: HashMap::new(),
            answers: FuturesUnordered::new(),
            partings: FuturesUnordered::new(),
            searches: HashSet::new(),
            outbox: VecDeque::new(),
            seen,
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut members: watch::Receiver<Members>,
        events: mpsc::Sender<Event>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.call_whoever_is_due();
            // Whoever waits longer is looked at again at the next tick.
            let deadline = self.dialler.deadline().unwrap_or_else(|| Instant::now() + LOOK_EVERY);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                command = commands.recv() => match command {
                    Some(Command::Ask { to, message, reply }) => self.ask(to, message, reply),
                    Some(Command::Stop { done }) => {
                        self.say_goodbye().await;
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                // Fails only when the last hold on the mesh is gone, which the commands tell as well.
                Ok(()) = members.changed() => {
                    let members = members.borrow_and_update().clone();
                    self.set_members(members);
                }
                room = events.reserve(), if !self.outbox.is_empty() => match (room, self.outbox.pop_front()) {
                    (Ok(room), Some(event)) => room.send(event),
                    _ => return,
                },
                Some(answered) = self.answers.next() => self.answer(answered),
                Some(peer) = self.partings.next() => {
                    // An error means that the connection has just ended by itself.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                Some((target, found)) = self.lookups.next() => self.call(target, &found),
                _ = look.tick() => self.drop_the_silent(),
                () = sleep_until(deadline.into()) => {}
            }
        }
    }

    async fn say_goodbye(&mut self) {
        for link in self.links.values() {
            // An error means that the connection has just ended by itself.
            let _ = self.swarm.disconnect_peer_id(link.peer);
        }
        let _ = timeout(GOODBYE_MAX, async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        })
        .await;
    }

    // Membership.

    fn set_members(&mut self, wanted: Members) {
        let gone = self.members.iter().filter(|(_, node)| !wanted.contains_key(*node));
        for (peer, node) in gone.map(|(peer, node)| (*peer, *node)).collect::<Vec<_>>() {
            self.forget(peer, node);
        }
        self.porter.retain(|node| wanted.contains_key(node));
        let now = Instant::now();
        for (node, addresses) in wanted.into_iter().filter(|(node, _)| *node != self.own) {
            let Ok(peer) = peer_id(&node) else { continue };
            for ip in addresses.iter().filter_map(|address| address.host.parse().ok()) {
                self.porter.know(node, ip);
            }
            if self.members.insert(peer, node).is_none() {
                self.swarm.behaviour_mut().allowed.allow_peer(peer);
                look(&self.seen).peers.insert(node, Peer::default());
                self.dialler.add(now, node, addresses);
            } else {
                addresses.into_iter().for_each(|address| self.dialler.learn(now, node, address));
            }
        }
    }

    /// A point is none any more.
    fn forget(&mut self, peer: PeerId, node: NodeId) {
        // This ends its connections too.
        self.swarm.behaviour_mut().allowed.disallow_peer(peer);
        self.swarm.behaviour_mut().kad.remove_peer(&peer);
        self.members.remove(&peer);
        self.dialler.forget(Instant::now(), node);
        if self.links.remove(&node).is_some_and(|link| link.up) {
            tracing::info!(node = %node.short(), "a point is no member any more and was cut off");
            self.tell_down(node);
        }
        for (_, (_, reply)) in self.asked.extract_if(|_, (asked, _)| *asked == node) {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(Err(Error::NotConnected));
        }
        look(&self.seen).peers.remove(&node);
    }

    // Calling.

    fn call_whoever_is_due(&mut self) {
        for target in self.dialler.due(Instant::now()) {
            let addresses = self.dialler.addresses(&target);
            self.lookups.push(lookup(target, addresses).boxed());
        }
    }

    fn call(&mut self, target: Target, found: &[SocketAddr]) {
        let mut addresses: VecDeque<Multiaddr> = found.iter().flat_map(|&at| [quic(at), tcp(at)]).collect();
        match &target {
            Target::Point(node) => {
                let Ok(peer) = peer_id(node) else { return };
                // All at once, the first to answer wins; Kademlia and multicast may know more addresses.
                let options = DialOpts::peer_id(peer)
                    // A connection that libp2p still closes must not stand in the way.
                    .condition(PeerCondition::NotDialing)
                    .addresses(addresses.into())
                    .extend_addresses_through_behaviour();
                self.dial(options.build(), Attempt { target, rest: VecDeque::new() });
            }
            // One after another, as several could succeed.
            Target::Address(_) => match addresses.pop_front() {
                Some(first) => {
                    let options = DialOpts::unknown_peer_id().address(first).build();
                    self.dial(options, Attempt { target, rest: addresses });
                }
                None => self.in_vain(&target),
            },
        }
    }

    fn dial(&mut self, options: DialOpts, attempt: Attempt) {
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.attempts.insert(connection, attempt);
            }
            Err(error) => self.missed(attempt, &error),
        }
    }

    fn missed(&mut self, mut attempt: Attempt, error: &DialError) {
        tracing::debug!(target = ?attempt.target, %error, "call");
        if let DialError::LocalPeerId { .. } = error {
            self.dialler.is_own(&attempt.target);
            return;
        }
        if let (DialError::Denied { cause }, Target::Address(address)) = (error, &attempt.target)
            && cause.downcast_ref::<allow_block_list::NotAllowed>().is_some()
        {
            tracing::warn!(%address, "whoever answers at this configured address is not in the roster");
            look(&self.seen).strangers += 1;
        } else if let Some(next) = attempt.rest.pop_front() {
            self.dial(DialOpts::unknown_peer_id().address(next).build(), attempt);
            return;
        }
        self.in_vain(&attempt.target);
    }

    fn in_vain(&mut self, target: &Target) {
        self.dialler.failed(Instant::now(), target, rand::random());
        if let Target::Point(node) = target
            && let Ok(peer) = peer_id(node)
            && self.searches.len() < SEARCHES_MAX
            && self.links.values().any(|link| link.up)
        {
            // Kademlia itself connects to whom it finds.
            self.searches.insert(self.swarm.behaviour_mut().kad.get_closest_peers(peer));
        }
    }

    // What libp2p reports.

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connection(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "connection ended");
                self.lose(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(attempt) = self.attempts.remove(&connection_id) {
                    self.missed(attempt, &error);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, peer_id, .. } => {
                tracing::debug!(from = %send_back_addr, %error, "nobody came in");
                if let ListenError::Denied { cause } = &error
                    && cause.downcast_ref::<allow_block_list::NotAllowed>().is_some()
                {
                    look(&self.seen).strangers += 1;
                    // Whoever came so far has answered us, so the address is its own.
                    if let (Some(node), Some(from)) = (peer_id.as_ref().and_then(node_id), socket(&send_back_addr)) {
                        self.tell_refused(Event::Stranger { node, from: from.ip() });
                    }
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some(at) = socket(&address).filter(|at| dialable(&at.ip(), self.settings.listen.is_loopback())) {
                    look(&self.seen).listening.insert(at);
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if let Some(at) = socket(&address) {
                    look(&self.seen).listening.remove(&at);
                }
            }
            SwarmEvent::ListenerClosed { reason: Err(error), addresses, .. } => {
                tracing::error!(%error, ?addresses, "the mesh can no longer listen here: restart the node");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listening"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Allowed(never) | BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Hello(message) => self.on_hello(message),
            BehaviourEvent::Ask(message) => self.on_ask(message),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, step, .. }) => {
                if step.last {
                    self.searches.remove(&id);
                }
            }
            BehaviourEvent::Kad(_) => {}
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_addresses(peer_id, &info.listen_addrs);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Ping(ping::Event { peer, connection, result }) => match result {
                Ok(rtt) => self.on_ping(peer, connection, rtt),
                Err(error) => {
                    tracing::debug!(%peer, %error, "ping");
                    self.swarm.close_connection(connection);
                    self.lose(peer, connection);
                }
            },
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.learn(peer, &address);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
        }
    }

    fn on_connection(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let attempt = self.attempts.remove(&connection);
        let Some(&node) = self.members.get(&peer) else {
            // The allow-list has no one else.
            self.swarm.close_connection(connection);
            return;
        };
        if endpoint.is_dialer() {
            self.learn(peer, endpoint.get_remote_address());
        }
        self.dialler.connected(node, attempt.as_ref().map(|attempt| &attempt.target));
        let link = self.links.entry(node).or_insert_with(|| Link {
            peer,
            connections: BTreeMap::new(),
            up: false,
            parting: false,
            asking: 0,
            asked: 0,
        });
        let at = socket(endpoint.get_remote_address());
        if let Some(at) = at {
            self.porter.know(node, at.ip());
        }
        link.connections.insert(connection, Wire { at, heard: Instant::now() });
        if link.connections.len() == 1 {
            let hello = self.hello().encode().into();
            self.swarm.behaviour_mut().hello.send_request(&peer, hello);
        }
        self.show_addresses(node);
    }

    fn on_ping(&mut self, peer: PeerId, connection: ConnectionId, rtt: Duration) {
        let Some(&node) = self.members.get(&peer) else { return };
        if let Some(wire) = self.links.get_mut(&node).and_then(|link| link.connections.get_mut(&connection)) {
            wire.heard = Instant::now();
            self.show(node, |peer| {
                peer.rtt = Some(rtt);
                peer.last_seen = Some(SystemTime::now());
            });
        }
    }

    fn drop_the_silent(&mut self) {
        let now = Instant::now();
        let mut silent = Vec::new();
        for link in self.links.values() {
            let dead = link.connections.iter().filter(|(_, wire)| now.duration_since(wire.heard) > SILENCE_MAX);
            silent.extend(dead.map(|(&connection, _)| (link.peer, connection)));
        }
        for (peer, connection) in silent {
            tracing::debug!(%peer, "a silent connection");
            self.swarm.close_connection(connection);
            self.lose(peer, connection);
        }
    }

    /// The connection is of no use any more. libp2p may need a while to close it, which nobody should wait for.
    fn lose(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(&node) = self.members.get(&peer) else { return };
        let Some(link) = self.links.get_mut(&node) else { return };
        link.connections.remove(&connection);
        if link.connections.is_empty() {
            let up = link.up;
            self.links.remove(&node);
            self.dialler.lost(Instant::now(), node, rand::random());
            if up {
                tracing::info!(node = %node.short(), "point is gone");
                self.tell_down(node);
            }
            self.show(node, |peer| {
                peer.up = false;
                peer.rtt = None;
            });
        }
        self.show_addresses(node);
    }

    fn on_addresses(&mut self, peer: PeerId, reported: &[Multiaddr]) {
        let Some(link) = self.members.get(&peer).and_then(|node| self.links.get(node)) else { return };
        let near = link.seen_at().iter().any(IpAddr::is_loopback);
        for address in reported.iter().take(ADDRESSES_MAX) {
            if let Some(at) = socket(address).filter(|at| dialable(&at.ip(), near)) {
                // A port is one for both.
                for address in [quic(at), tcp(at)] {
                    self.swarm.behaviour_mut().kad.add_address(&peer, address);
                }
                self.learn(peer, address);
            }
        }
    }

    fn learn(&mut self, peer: PeerId, address: &Multiaddr) {
        if let (Some(&node), Some(at)) = (self.members.get(&peer), socket(address)) {
            self.dialler.learn(Instant::now(), node, Address::from(at));
        }
    }

    // Greeting.

    fn hello(&self) -> Hello {
        let listening = look(&self.seen).listening.clone();
        Hello {
            version: hello::VERSION,
            program: concat!("diemcau ", env!("CARGO_PKG_VERSION")).to_owned(),
            name: self.settings.name.clone(),
            media_port: self.settings.media_port,
            addresses: listening.iter().map(SocketAddr::ip).take(ADDRESSES_MAX).collect(),
            mesh_port: listening.first().map_or(0, SocketAddr::port),
        }
    }

    fn on_hello(&mut self, message: Message) {
        use request_response::{Event as E, Message as M};
        match message {
            E::Message { peer, message: M::Request { request, channel, .. }, .. } => {
                // Answered in any case, so that a point of another version can tell its people too.
                let answer = self.hello().encode().into();
                let _ = self.swarm.behaviour_mut().hello.send_response(channel, answer);
                self.greeted(peer, &request);
            }
            E::Message { peer, message: M::Response { response, .. }, .. } => self.greeted(peer, &response),
            E::OutboundFailure { peer, error, .. } => {
                let Some(&node) = self.members.get(&peer) else { return };
                if let OutboundFailure::ConnectionClosed = error
                    && self.links.get(&node).is_some_and(|link| !link.up)
                {
                    // It went out on a connection that was ending; there is another one.
                    let hello = self.hello().encode().into();
                    self.swarm.behaviour_mut().hello.send_request(&peer, hello);
                } else {
                    self.refuse(node, format!("it does not answer a greeting ({error})"));
                }
            }
            E::InboundFailure { .. } | E::ResponseSent { .. } => {}
        }
    }

    fn greeted(&mut self, peer: PeerId, bytes: &[u8]) {
        let Some(&node) = self.members.get(&peer) else { return };
        let Some(link) = self.links.get_mut(&node) else { return };
        let hello = match Hello::decode(bytes) {
            Ok(hello) => hello,
            Err(error) => {
                let reason = error.to_string();
                if self.refuse(node, reason.clone()) {
                    self.tell_refused(Event::Refused { node, reason });
                }
                return;
            }
        };
        if link.up || link.parting {
            return;
        }
        link.up = true;
        let (media, mesh) = (hello.media(&link.seen_at()), hello.mesh(&link.seen_at()));
        // Who is here has said where it can be called: what else it says of its addresses may come too late.
        mesh.into_iter().for_each(|at| self.dialler.learn(Instant::now(), node, Address::from(at)));
        tracing::info!(node = %node.short(), program = hello.program, "point is here");
        self.dialler.settled(node);
        self.dialler.hurry(Instant::now());
        self.show(node, |peer| {
            peer.up = true;
            peer.last_seen = Some(SystemTime::now());
            peer.refused = None;
            peer.media.clone_from(&media);
            peer.name = hello.name;
            peer.program = hello.program;
        });
        self.outbox.push_back(Event::Up { node, media });
    }

    /// Connected and in the roster, but no point to talk to. False if it was refused already, or is up.
    fn refuse(&mut self, node: NodeId, reason: String) -> bool {
        let Some(link) = self.links.get_mut(&node).filter(|link| !link.up && !link.parting) else { return false };
        link.parting = true;
        let peer = link.peer;
        self.partings.push(tokio::time::sleep(PARTING).map(move |()| peer).boxed());
        let mut news = false;
        self.show(node, |peer| {
            news = peer.refused.as_ref() != Some(&reason);
            peer.refused = Some(reason.clone());
        });
        if news {
            tracing::warn!(node = %node.short(), reason, "a point of the roster is refused");
        }
        true
    }

    // Questions.

    fn ask(&mut self, to: NodeId, message: Bytes, reply: oneshot::Sender<Result<Bytes, Error>>) {
        let refusal = match self.links.get_mut(&to) {
            Some(link) if link.up && link.asking < REQUESTS_MAX => {
                link.asking += 1;
                let request = self.swarm.behaviour_mut().ask.send_request(&link.peer, message);
                self.asked.insert(request, (to, reply));
                return;
            }
            Some(link) if link.up => Error::Busy,
            _ => Error::NotConnected,
        };
        // Whoever asked may have stopped waiting, here and below.
        let _ = reply.send(Err(refusal));
    }

    fn on_ask(&mut self, message: Message) {
        use request_response::{Event as E, Message as M};
        match message {
            E::Message { peer, message: M::Request { request, channel, .. }, .. } => {
                self.asked_by(peer, request, channel);
            }
            E::Message { message: M::Response { request_id, response }, .. } => {
                self.settle(request_id, Ok(response));
            }
            E::OutboundFailure { request_id, error, .. } => {
                tracing::debug!(%error, "question");
                self.settle(request_id, Err(Error::Unanswered));
            }
            E::InboundFailure { .. } | E::ResponseSent { .. } => {}
        }
    }

    fn settle(&mut self, request: OutboundRequestId, answer: Result<Bytes, Error>) {
        let Some((node, reply)) = self.asked.remove(&request) else { return };
        if let Some(link) = self.links.get_mut(&node) {
            link.asking = link.asking.saturating_sub(1);
        }
        let _ = reply.send(answer);
    }

    /// Dropping the channel refuses.
    fn asked_by(&mut self, peer: PeerId, message: Bytes, channel: ResponseChannel<Bytes>) {
        let Some(&node) = self.members.get(&peer) else { return };
        let Some(link) = self.links.get_mut(&node).filter(|link| link.up && link.asked < REQUESTS_MAX) else { return };
        if self.outbox.len() >= EVENTS_MAX {
            tracing::warn!(node = %node.short(), "a question is refused: too many events wait");
            return;
        }
        link.asked += 1;
        let (reply, answer) = oneshot::channel();
        self.outbox.push_back(Event::Request { from: node, message, reply });
        let waited = async move {
            let answer = timeout(ANSWER_MAX, answer).await.ok().and_then(Result::ok);
            (node, channel, answer)
        };
        self.answers.push(waited.boxed());
    }

    fn answer(&mut self, (node, channel, answer): Answered) {
        if let Some(link) = self.links.get_mut(&node) {
            link.asked = link.asked.saturating_sub(1);
        }
        if let Some(answer) = answer {
            // An error means that the point did not wait for it.
            let _ = self.swarm.behaviour_mut().ask.send_response(channel, answer);
        }
    }

    // Telling.

    /// Whom the driver has no room for is in the numbers only.
    fn tell_refused(&mut self, event: Event) {
        if self.outbox.len() < EVENTS_MAX {
            self.outbox.push_back(event);
        }
    }

    /// A coming that was not told yet and this going cancel out.
    fn tell_down(&mut self, node: NodeId) {
        let untold = self.outbox.iter().rposition(|event| match event {
            Event::Up { node: up, .. } => *up == node,
            Event::Down { .. } | Event::Request { .. } | Event::Stranger { .. } | Event::Refused { .. } => false,
        });
        match untold {
            Some(at) => {
                self.outbox.remove(at);
                self.outbox.retain(|event| !matches!(event, Event::Request { from, .. } if *from == node));
            }
            None => self.outbox.push_back(Event::Down { node }),
        }
    }

    fn show(&self, node: NodeId, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = look(&self.seen).peers.get_mut(&node) {
            change(peer);
        }
    }

    fn show_addresses(&self, node: NodeId) {
        let addresses = self.links.get(&node).map_or_else(Vec::new, Link::addresses);
        self.show(node, |peer| peer.addresses = addresses);
    }
}

impl Link {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.connections.values().filter_map(|wire| wire.at).collect()
    }

    fn seen_at(&self) -> Vec<IpAddr> {
        self.connections.values().filter_map(|wire| wire.at).map(|at| at.ip()).collect()
    }
}

async fn lookup(target: Target, addresses: Vec<Address>) -> (Target, Vec<SocketAddr>) {
    let mut found = Vec::new();
    for Address { host, port } in addresses {
        match timeout(LOOKUP_MAX, tokio::net::lookup_host((host.as_str(), port))).await {
            Ok(Ok(more)) => found.extend(more),
            Ok(Err(error)) => tracing::debug!(host, %error, "name lookup"),
            Err(_) => tracing::debug!(host, "name lookup takes too long"),
        }
    }
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    (target, found)
}
