//! What comes in: connections, control messages, groups. Here the outside is met, so here is every limit.
//!
//! A connection is first a stranger: its certificate proves a key, and the roster says whether the key is a point's.
//! Until then nothing is read from it, and nothing said, except on a connection that is for joining and nothing else
//! (`media/visit.rs`). After that each stream has its own small task, bounded in
//! bytes and in time; what breaks a rule ends the connection, what is merely not wanted ends the stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, ReadError, ReadExactError, RecvStream, SendStream, VarInt};
use store::access;
use store::id::{NodeId, SessionId};
use store::record::{self, Item};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::live::{Log, Reader, Writer};
use super::probe::{self, Pending};
use super::send::Command;
use super::session::Inadmissible;
use super::tls::{self, Purpose};
use super::visit;
use super::{CONTROL_MAX, Event, HANDSHAKE_MAX, Peer, Shared, Stranger, fetch};
use crate::engine::door::{Answer, Proof, Visit};
use crate::engine::fanout::LaneId;
use crate::engine::rights::Denied;
use crate::wire::media::{self as wire, Close, MESSAGE_LEN_MAX, Message, Reset, STREAM_GROUP, STREAM_PROBE};

/// A group's stream must say what it is within this time.
const HEADER_MAX: Duration = Duration::from_secs(5);
/// A group from which nothing comes for so long is broken: sound comes every 20 ms, a still screen every 10 s.
const GROUP_SILENCE_MAX: Duration = Duration::from_secs(15);
/// No group is open for longer.
const GROUP_TIME_MAX: Duration = Duration::from_secs(60);
/// Pieces a group may come in: eight for each frame it may have at most is more than any line makes of it.
const CHUNKS_MAX: u32 = 8 * record::FRAME_COUNT_MAX;
/// A piece shorter than this is copied out of the packet it came in, which it would keep in memory with it.
const CHUNK_LEN_MIN: usize = 1024;
/// Clock exchanges, which are also the heartbeat: often at first, for a good offset soon.
const CLOCK_FIRST: (u32, Duration) = (8, Duration::from_millis(150));
const CLOCK_INTERVAL: Duration = Duration::from_millis(700);
/// Silence after which a tile says so.
const QUIET_AFTER: Duration = Duration::from_millis(2000);
/// A control message that began must be whole within this time. Between messages there may be any time: a neighbour that
/// is not heard at all is noticed by the clock exchange, and ended by the transport.
const MESSAGE_MAX: Duration = Duration::from_secs(10);
/// Control messages a neighbour may send at once, and per second after that.
const MESSAGES_BURST: f64 = 2048.0;
const MESSAGES_RATE: f64 = 200.0;
/// A train of padding ends by itself within half a second, or is of no use.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// Time between two trains of padding from one neighbour.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialled,
    Accepted,
}

/// Accepts until the endpoint closes.
pub(super) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let proof = if incoming.remote_address_validated() { Proof::Given } else { Proof::Askable };
        let answer = shared.door().knock(Instant::now(), incoming.remote_address().ip(), proof);
        match answer {
            Answer::Enter(visit) => {
                let guest = Guest { shared: Arc::clone(&shared), visit: Some(visit) };
                tokio::spawn(greet(incoming, guest));
            }
            Answer::Prove => {
                // Fails only for an address that was validated already.
                let _ = incoming.retry();
            }
            Answer::Ignore => incoming.ignore(),
        }
    }
}

/// Somebody's place at the door, given back when dropped.
struct Guest {
    shared: Arc<Shared>,
    visit: Option<Visit>,
}

impl Guest {
    fn patience(&self) -> Duration {
        self.visit.as_ref().map_or(Duration::ZERO, |visit| self.shared.door().patience(visit))
    }

    fn welcome(&mut self, node: NodeId) {
        if let Some(visit) = &mut self.visit {
            self.shared.door().welcome(Instant::now(), visit, node);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(visit) = self.visit.take() {
            self.shared.door().end(visit);
        }
    }
}

async fn greet(incoming: Incoming, mut guest: Guest) {
    let from = incoming.remote_address().ip();
    let shared = Arc::clone(&guest.shared);
    let connection = match tokio::time::timeout(guest.patience(), incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) if tls::is_unproved(&error) => return shared.tell_stranger(Stranger::Unproved, from),
        // Nothing came of it, and nobody has shown that this is his address.
        Ok(Err(_)) | Err(_) => return,
    };
    let Some((node, purpose)) = tls::peer_of(&connection) else {
        shared.tell_stranger(Stranger::Unproved, from);
        return connection.close(VarInt::from_u32(Close::Malformed as u32), b"");
    };
    let is_point = shared.state().may_connect(node);
    if is_point {
        guest.welcome(node);
    }
    match purpose {
        Purpose::Join => {
            if let Some(visit) = visit::Visit::receive(node, connection).await {
                shared.tell_driver(Event::Visit(visit)).await;
            }
        }
        Purpose::Live if is_point => run(shared, node, connection, Side::Accepted).await,
        Purpose::Copy if is_point => fetch::serve(shared, node, connection).await,
        Purpose::Live | Purpose::Copy => {
            tracing::info!(peer = %node.short(), "media: a stranger was turned away");
            connection.close(VarInt::from_u32(Close::Stranger as u32), b"");
            shared.tell_stranger(Stranger::Proved(node), from);
        }
    }
}

/// One live connection, from the moment its peer is known until it ends.
struct Link {
    shared: Arc<Shared>,
    node: NodeId,
    lane: LaneId,
    connection: Connection,
    probe: Arc<Pending>,
    /// Local microseconds when something was last heard.
    heard: AtomicU64,
    /// When the neighbour last sent a train of padding.
    probed: Mutex<Option<Instant>>,
}

/// Serves a live connection to its end.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, connection: Connection, side: Side) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(u32::from(side == Side::Accepted)));
    let control = async {
        match side {
            Side::Dialled => connection.open_bi().await,
            Side::Accepted => connection.accept_bi().await,
        }
    };
    let Ok(Ok((sender, receiver))) = tokio::time::timeout(HANDSHAKE_MAX, control).await else {
        return connection.close(VarInt::from_u32(Close::Malformed as u32), b"no control stream");
    };
    let (link, outgoing) = enter(&shared, node, connection.clone()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(write_control(outgoing, sender));
    tasks.spawn(read_control(Arc::clone(&link), receiver));
    tasks.spawn(accept_streams(Arc::clone(&link)));
    tasks.spawn(keep_time(Arc::clone(&link)));
    tasks.spawn(introduce(Arc::clone(&link)));
    let reason = connection.closed().await;
    tasks.shutdown().await;
    leave(&link, &reason).await;
}

/// Takes the place of an older connection from the same peer, which may be one it no longer knows of.
async fn enter(shared: &Arc<Shared>, node: NodeId, connection: Connection) -> (Arc<Link>, mpsc::Receiver<Message>) {
    let (control, outgoing) = mpsc::channel(CONTROL_MAX);
    let probe = Arc::new(Pending::default());
    let (lane, replaced) = {
        let mut state = shared.state();
        state.lanes += 1;
        let lane = state.lanes;
        let peer = Peer { lane, connection: connection.clone(), control, probe: Arc::clone(&probe) };
        (lane, state.peers.insert(node, peer))
    };
    if let Some(old) = replaced {
        old.connection.close(VarInt::from_u32(Close::Replaced as u32), b"");
    }
    let estimate = shared.config.line_bits;
    shared.tell_hub(Command::Up { lane, node, connection: connection.clone(), estimate }).await;
    let heard = AtomicU64::new(shared.micros());
    let link = Link { shared: Arc::clone(shared), node, lane, connection, probe, heard, probed: Mutex::default() };
    (Arc::new(link), outgoing)
}

async fn leave(link: &Link, reason: &ConnectionError) {
    let shared = &link.shared;
    shared.tell_hub(Command::Down { lane: link.lane }).await;
    let sessions: Vec<SessionId> = {
        let mut state = shared.state();
        // A newer connection may have taken the place already: then the peer is not gone.
        if state.peers.get(&link.node).is_none_or(|peer| peer.lane != link.lane) {
            return;
        }
        state.peers.remove(&link.node);
        let offering = state.sessions.iter_mut().filter_map(|(id, session)| session.withdraw(link.node).then_some(*id));
        offering.collect()
    };
    sessions.into_iter().for_each(|session| shared.announce_to_all(session));
    let done = VarInt::from_u32(Close::Done as u32);
    let said = matches!(reason, ConnectionError::ApplicationClosed(close) if close.error_code == done);
    shared.tell_driver(Event::Down { node: link.node, said, reason: reason.to_string() }).await;
}

/// Measures the line, then tells both sides that the neighbour is there, and what can be had here.
async fn introduce(link: Arc<Link>) {
    if let Some(bits) = probe::measure(&link.connection, &link.probe).await {
        tracing::debug!(peer = %link.node.short(), bits, "media: line measured");
        link.shared.tell_hub(Command::Probed { lane: link.lane, bits }).await;
    }
    link.shared.tell_driver(Event::Up { node: link.node }).await;
    let sessions: Vec<SessionId> = link.shared.state().sessions.keys().copied().collect();
    sessions.into_iter().for_each(|session| link.shared.announce_to_all(session));
}

async fn write_control(mut outgoing: mpsc::Receiver<Message>, mut stream: SendStream) {
    // Control is never behind media.
    let _ = stream.set_priority(i32::MAX);
    while let Some(message) = outgoing.recv().await {
        let bytes = wire::encode(&message).expect("our own messages keep within their limits");
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_control(link: Arc<Link>, mut stream: RecvStream) {
    let (mut allowed, mut counted) = (MESSAGES_BURST, Instant::now());
    let mut buffer = vec![0; MESSAGE_LEN_MAX];
    loop {
        let mut len = [0; 2];
        if let Err(over) = stream.read_exact(&mut len[..1]).await {
            return link.end(&over);
        }
        let rest = async {
            stream.read_exact(&mut len[1..]).await?;
            let len = usize::from(u16::from_be_bytes(len));
            // One that is too long is not waited for.
            let body = buffer.get_mut(..len);
            if let Some(body) = body {
                stream.read_exact(body).await?;
            }
            Ok(len)
        };
        let len = match tokio::time::timeout(MESSAGE_MAX, rest).await {
            Ok(Ok(len)) if len <= MESSAGE_LEN_MAX => len,
            Ok(Ok(_)) => return link.refuse("a control message is too long").await,
            Ok(Err(over)) => return link.end(&over),
            Err(_) => return link.refuse("a control message that does not end").await,
        };
        allowed = (allowed + counted.elapsed().as_secs_f64() * MESSAGES_RATE).min(MESSAGES_BURST) - 1.0;
        counted = Instant::now();
        if allowed < 0.0 {
            return link.refuse("control messages come too fast").await;
        }
        let Ok(message) = wire::decode(&buffer[..len]) else {
            return link.refuse("a control message cannot be read").await;
        };
        link.heard.store(link.shared.micros(), Ordering::Relaxed);
        link.hear(message).await;
    }
}

impl Link {
    /// Ends the connection whose control stream is over. One that has ended already is left as it is: closing it again
    /// would replace what the neighbour said at its leaving by our own closing.
    fn end(&self, over: &ReadExactError) {
        if !matches!(over, ReadExactError::ReadError(ReadError::ConnectionLost(_))) {
            self.connection.close(VarInt::from_u32(Close::Done as u32), b"");
        }
    }

    /// Ends the connection of a neighbour that broke a rule, and tells the driver which.
    async fn refuse(&self, why: &str) {
        tracing::warn!(peer = %self.node.short(), why, "media: connection closed");
        self.connection.close(VarInt::from_u32(Close::Malformed as u32), why.as_bytes());
        self.shared.tell_driver(Event::Refused { node: self.node, why: why.to_owned() }).await;
    }

    /// Ends the connection of a neighbour that wants what it has no right to, and tells the driver.
    async fn deny(&self, deed: access::Deed, session: SessionId, denied: Denied) {
        tracing::warn!(peer = %self.node.short(), %session, %denied, "media: connection closed");
        self.connection.close(VarInt::from_u32(Close::Malformed as u32), b"no right to it");
        self.shared.tell_driver(Event::Denied { node: self.node, deed, session, denied }).await;
    }

    /// A train of padding costs us its bytes, so they may not follow each other closely.
    fn admits_probe(&self) -> bool {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = probed.is_none_or(|at| at.elapsed() > PROBE_INTERVAL);
        if admitted {
            *probed = Some(Instant::now());
        }
        admitted
    }

    fn reply(&self, message: Message) {
        let state = self.shared.state();
        if let Some(peer) = state.peers.get(&self.node).filter(|peer| peer.lane == self.lane) {
            self.shared.tell(peer, message);
        }
    }

    async fn hear(&self, message: Message) {
        let shared = &self.shared;
        match message {
            Message::Announce { session, tracks } => self.announced(session, tracks).await,
            Message::Subscribe { session, track, priority } => {
                let admitted = {
                    let state = shared.state();
                    // The session may just have ended here.
                    let Some(known) = state.sessions.get(&session) else { return };
                    known.admits_subscriber(&state.members, self.node).map(|()| known.is_anothers(self.node, track))
                };
                match admitted {
                    Ok(true) => {
                        let (lane, track, priority) = (self.lane, (session, track), priority.min(7));
                        shared.tell_hub(Command::Subscribe { lane, track, priority }).await;
                    }
                    // Its point was removed a moment ago.
                    Ok(false) => {}
                    Err(denied) => self.deny(access::Deed::Ask, session, denied).await,
                }
            }
            Message::Unsubscribe { session, track } => {
                shared.tell_hub(Command::Unsubscribe { lane: self.lane, track: (session, track) }).await;
            }
            Message::Keyframe { session, track } => self.keyframe(session, track).await,
            Message::Clock { sent } => self.reply(Message::ClockReply { sent, remote: shared.micros() }),
            Message::ClockReply { sent, remote } => {
                let received = shared.micros();
                // An answer to a question never asked would move our clock at the neighbour's will.
                if sent <= received && received - sent < 60_000_000 {
                    shared.tell_driver(Event::Clock { node: self.node, sent, remote, received }).await;
                }
            }
            Message::Probed { bytes, micros } => {
                let waiting = self.probe.lock().unwrap_or_else(PoisonError::into_inner).take();
                // A train of which nothing arrived shows nothing.
                if let Some(waiting) = waiting.filter(|_| bytes > 0) {
                    // Whoever asked may have given up.
                    let _ = waiting.send(bytes.saturating_mul(8_000_000) / micros.max(1));
                }
            }
        }
    }

    async fn announced(&self, id: SessionId, tracks: Vec<store::id::TrackId>) {
        let shared = &self.shared;
        let offered = {
            let mut state = shared.state();
            let state = &mut *state;
            let Some(session) = state.sessions.get_mut(&id) else { return };
            session.offer(&state.members, shared.me, self.node, tracks).map(|()| {
                let Some(peer) = state.peers.get(&self.node) else { return Vec::new() };
                for (track, priority) in session.to_subscribe(shared.me, self.node) {
                    shared.tell(peer, Message::Subscribe { session: id, track, priority });
                }
                session.offered(self.node)
            })
        };
        let offered = match offered {
            Ok(offered) => offered,
            Err(denied) => return self.deny(access::Deed::Send, id, denied).await,
        };
        if shared.state().sessions.get(&id).is_some_and(|session| session.is_central(shared.me)) {
            shared.announce_to_all(id);
        }
        shared.tell_driver(Event::Announced { node: self.node, session: id, tracks: offered }).await;
    }

    /// A request for a keyframe goes to the track's source; requests are merged where groups are cut.
    async fn keyframe(&self, id: SessionId, track: store::id::TrackId) {
        let shared = &self.shared;
        let own = {
            let state = shared.state();
            let Some(session) = state.sessions.get(&id) else { return };
            let admitted = session.admits_subscriber(&state.members, self.node).is_ok();
            if !admitted || !session.is_anothers(self.node, track) {
                return;
            }
            if let Some(peer) = session.source(shared.me, track).and_then(|source| state.peers.get(&source)) {
                shared.tell(peer, Message::Keyframe { session: id, track });
            }
            session.node(track) == Some(shared.me)
        };
        if own {
            shared.tell_driver(Event::Keyframe { session: id, track }).await;
        }
    }
}

/// Asks for the time again and again, which also shows that the neighbour lives.
async fn keep_time(link: Arc<Link>) {
    let mut asked = 0_u32;
    let mut quiet = false;
    loop {
        let wait = if asked < CLOCK_FIRST.0 { CLOCK_FIRST.1 } else { CLOCK_INTERVAL };
        asked = asked.saturating_add(1);
        link.reply(Message::Clock { sent: link.shared.micros() });
        tokio::time::sleep(wait).await;
        let silence = link.shared.micros().saturating_sub(link.heard.load(Ordering::Relaxed));
        let is_quiet = silence > QUIET_AFTER.as_micros() as u64;
        if is_quiet != quiet {
            quiet = is_quiet;
            let node = link.node;
            link.shared.tell_driver(if quiet { Event::Quiet { node } } else { Event::Heard { node } }).await;
        }
    }
}

async fn accept_streams(link: Arc<Link>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = link.connection.accept_uni() => match stream {
                // As many at once as the transport admits.
                Ok(stream) => drop(streams.spawn(take_stream(Arc::clone(&link), stream))),
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// A stream's first byte names its kind. With loss it may come after the first bytes of later streams, which is why
/// nobody else waits for it.
async fn take_stream(link: Arc<Link>, mut stream: RecvStream) {
    let mut kind = [0];
    match tokio::time::timeout(HEADER_MAX, stream.read_exact(&mut kind)).await {
        Ok(Ok(())) => {}
        // Reset before it said anything, as a group that was shed at once is, or silent for too long.
        Ok(Err(_)) | Err(_) => return,
    }
    match kind[0] {
        STREAM_GROUP => take_group(link, stream).await,
        STREAM_PROBE if link.admits_probe() => {
            if let Ok(Some(answer)) = tokio::time::timeout(PROBE_MAX, probe::take(stream)).await {
                link.reply(answer);
            }
        }
        STREAM_PROBE => {
            // Fails only on a stream that is over.
            let _ = stream.stop(VarInt::from_u32(Reset::Refused as u32));
        }
        _ => link.refuse("a stream of a kind this version does not know").await,
    }
}

/// What a sender says when its line is too slow for a group.
const LEFT_OUT: [VarInt; 2] = [VarInt::from_u32(Reset::Shed as u32), VarInt::from_u32(Reset::Late as u32)];

/// How the taking of a group ended, when it was not whole.
enum Fault {
    /// The stream ended early, or nothing came.
    Broken,
    /// The sender gave the group up for a slow line.
    LeftOut,
    Unwanted,
    /// The bytes or the sender break a rule.
    Rule(&'static str),
}

async fn take_group(link: Arc<Link>, mut stream: RecvStream) {
    match forward_group(&link, &mut stream).await {
        Ok(()) | Err(Fault::Broken | Fault::LeftOut) => {}
        Err(Fault::Unwanted) => {
            // Fails only on a stream that is over.
            let _ = stream.stop(VarInt::from_u32(Reset::Unwanted as u32));
        }
        Err(Fault::Rule(why)) => link.refuse(why).await,
    }
}

/// Passes a group on as it comes. Its bytes are parsed and hashed on the way, and never waited for.
async fn forward_group(link: &Link, stream: &mut RecvStream) -> Result<(), Fault> {
    let begun = Instant::now();
    let mut parser = record::Reader::new();
    let mut head: Vec<Bytes> = Vec::new();
    let header = loop {
        let left = HEADER_MAX.saturating_sub(begun.elapsed());
        let chunk = read(stream, left).await?.ok_or(Fault::Broken)?;
        parser.push(&chunk);
        head.push(chunk);
        if let Some(item) = parser.next().map_err(|_| Fault::Rule("a group that cannot be read"))? {
            let Item::Header(header) = item else { return Err(Fault::Rule("a group without a header")) };
            break header;
        }
    };
    let admitted = {
        let mut state = link.shared.state();
        let state = &mut *state;
        match state.sessions.get_mut(&header.session) {
            Some(session) => session.admits_group(&state.members, link.shared.me, link.node, &header),
            None => Err(Inadmissible::Unwanted),
        }
    };
    match admitted {
        Ok(()) => {}
        Err(Inadmissible::Unwanted) => return Err(Fault::Unwanted),
        Err(Inadmissible::Forged(why)) => return Err(Fault::Rule(why)),
    }
    let mut admitted = Admitted { link, header: &header, whole: false };
    let mut head = head.into_iter();
    let first = head.next().unwrap_or_default();
    let log = Log::begin(header.clone(), first, Some(link.node), Arc::clone(&link.shared.dirty));
    let writer = Writer::new(Arc::clone(&log));
    head.for_each(|chunk| writer.append(chunk));
    link.shared.tell_driver(Event::Group(Reader::new(log))).await;
    let mut ended = drain(&mut parser)?;
    let mut chunks = 0;
    loop {
        let chunk = match read(stream, GROUP_SILENCE_MAX).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(fault) => {
                if matches!(fault, Fault::LeftOut) {
                    writer.leave_out();
                }
                return Err(fault);
            }
        };
        if ended || begun.elapsed() > GROUP_TIME_MAX {
            return Err(Fault::Rule("a group that does not end"));
        }
        chunks += 1;
        if chunks > CHUNKS_MAX {
            return Err(Fault::Rule("a group in too many pieces"));
        }
        parser.push(&chunk);
        ended = drain(&mut parser)?;
        writer.append(chunk);
    }
    if !ended {
        return Err(Fault::Broken);
    }
    admitted.whole = true;
    writer.end(Bytes::new());
    Ok(())
}

/// Gives the group's place back however its taking ends.
struct Admitted<'a> {
    link: &'a Link,
    header: &'a record::Header,
    whole: bool,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.link.shared.state().sessions.get_mut(&self.header.session) {
            session.group_over(self.header, self.whole);
        }
    }
}

async fn read(stream: &mut RecvStream, patience: Duration) -> Result<Option<Bytes>, Fault> {
    match tokio::time::timeout(patience, stream.read_chunk(64 * 1024, true)).await {
        Ok(Ok(chunk)) => Ok(chunk.map(|chunk| match chunk.bytes.len() {
            ..CHUNK_LEN_MIN => Bytes::copy_from_slice(&chunk.bytes),
            _ => chunk.bytes,
        })),
        Ok(Err(ReadError::Reset(code))) if LEFT_OUT.contains(&code) => Err(Fault::LeftOut),
        Ok(Err(_)) | Err(_) => Err(Fault::Broken),
    }
}

/// Parses what is there; true when the end record was read and is right.
fn drain(parser: &mut record::Reader) -> Result<bool, Fault> {
    let mut ended = false;
    while let Some(item) = parser.next().map_err(|_| Fault::Rule("a group that cannot be read"))? {
        ended |= matches!(item, Item::End(_));
    }
    Ok(ended)
}
