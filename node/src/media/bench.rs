//! The load that measures the fan-out, and the bare peer it is measured beside.
//!
//! One publisher sends 30 pictures of 5,000 bytes and 50 sound packets of 120 bytes a second, in groups of two
//! seconds, to N subscribers. *Ours* goes publisher → forwarding node → subscriber, sealed and parsed as in a session.
//! *Bare* is a quinn program that makes the same frames itself, opens a stream for each group and writes: the least
//! that QUIC allows, with one hop less. Both have the same transport settings and the same receivers, so that the
//! ratio says what the fan-out costs. Times are those of the wall clock, which all processes of a machine share.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use store::id::{GroupId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::{Epoch, NodeKey, SessionKey};
use store::record::{self, Flags, Item};
use store::seal::{Sealer, Start, Suite};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::tls::{self, Purpose};
use super::{Config, Held, Media, Session, Shelf, probe};
use crate::engine::rights::{Member, Members};
use crate::wire::media::{self as wire, Message, STREAM_GROUP, STREAM_PROBE};

/// Pictures a second, their bytes, and how many make a group.
const PICTURES: (u32, usize, u32) = (30, 5000, 60);
/// Sound packets a second, their bytes, and how many make a group.
const SOUNDS: (u32, usize, u32) = (50, 120, 100);
/// Groups a run may last: four minutes.
const GROUPS_MAX: usize = 120;
const FORWARDER: u16 = 0;
const PUBLISHER: u16 = 1;
const FIRST_SUBSCRIBER: u16 = 2;
/// Time after everybody is connected before anything counts: lines are probed, windows grow.
const WARM_UP: Duration = Duration::from_secs(4);
/// How long everybody may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// What the receivers of one run saw.
#[derive(Debug, Default)]
pub struct Received {
    /// Frames and bytes taken within the measured time, all subscribers together.
    pub frames: u64,
    pub bytes: u64,
    /// Publish to receive of each, microseconds, sorted.
    pub late_us: Vec<u32>,
}

/// Nothing is stored in this measurement.
#[derive(Debug)]
struct Empty;

impl Shelf for Empty {
    fn get(&self, _: GroupId) -> Held {
        Held::Missing
    }
}

fn key(number: u16) -> NodeKey {
    NodeKey::from_bytes(blake3::hash(format!("diemcau bench {number}").as_bytes()).as_bytes())
}

fn point(number: u16) -> PointNumber {
    PointNumber::new(number).expect("fewer subscribers than points")
}

fn track(kind: TrackKind) -> TrackId {
    TrackId::new(point(PUBLISHER), kind)
}

fn session_id() -> SessionId {
    SessionId::from_bytes([0xbe; 16])
}

fn session(subscribers: u16) -> Session {
    let points = (0..FIRST_SUBSCRIBER + subscribers).map(|number| (point(number), key(number).id())).collect();
    Session::new(session_id(), points, key(FORWARDER).id())
}

fn members(number: u16, subscribers: u16) -> Members {
    let member = |number: u16| (key(number).id(), Member { name: number.to_string(), rights: BTreeSet::new() });
    Members::new(key(number).id(), (0..FIRST_SUBSCRIBER + subscribers).map(member).collect(), BTreeSet::new())
}

fn config() -> Config {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config { listen, give_way: false, line_bits: 1_000_000_000, epoch: Instant::now() }
}

fn media(number: u16, subscribers: u16) -> Result<(Media, tokio::sync::mpsc::Receiver<super::Event>)> {
    let (media, events) = Media::bind(&key(number), config(), Arc::new(Empty)).map_err(text)?;
    media.set_members(members(number, subscribers));
    media.open_session(session(subscribers));
    Ok((media, events))
}

/// Errors of a measurement are words for the person who runs it.
type Result<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(0)
}

/// The forwarding node: says its port, then works until it is killed or its input closes.
pub async fn forward(subscribers: u16, ready: impl FnOnce(u16)) -> Result<()> {
    let (media, mut events) = media(FORWARDER, subscribers)?;
    media.subscribe(session_id(), track(TrackKind::Audio), 6);
    media.subscribe(session_id(), track(TrackKind::Main), 4);
    ready(media.local_addr().map_err(text)?.port());
    while events.recv().await.is_some() {}
    Ok(())
}

/// The bare peer: waits for all subscribers, then makes frames and writes them, until it is killed.
pub async fn bare(subscribers: u16, ready: impl FnOnce(u16)) -> Result<()> {
    let server = tls::server(&crate::mesh::keypair(&key(FORWARDER))).map_err(text)?;
    let endpoint = endpoint(Some(server))?;
    ready(endpoint.local_addr().map_err(text)?.port());
    let mut connections = Vec::new();
    for _ in 0..subscribers {
        let connection = endpoint.accept().await.ok_or("closed")?.await.map_err(text)?;
        connections.push(Bare { connection, streams: [None, None] });
    }
    let mut load = Load::new();
    loop {
        let (kind, begins, bytes) = load.next().await;
        let mut frame = BytesMut::with_capacity(bytes + 12);
        frame.put_u32(u32::try_from(bytes).map_err(text)?);
        frame.put_u64(now_us());
        frame.put_bytes(0x5a, bytes - 8);
        let frame = frame.freeze();
        for peer in &mut connections {
            peer.write(kind, begins, &frame).await.map_err(text)?;
        }
    }
}

struct Bare {
    connection: Connection,
    streams: [Option<SendStream>; 2],
}

impl Bare {
    async fn write(&mut self, kind: usize, begins: bool, frame: &Bytes) -> std::result::Result<(), quinn::WriteError> {
        if begins {
            if let Some(mut old) = self.streams[kind].take() {
                // Fails only when the subscriber stopped it.
                let _ = old.finish();
            }
            self.streams[kind] = Some(self.connection.open_uni().await?);
        }
        match &mut self.streams[kind] {
            Some(stream) => stream.write_chunk(frame.clone()).await,
            None => Ok(()),
        }
    }
}

/// When which frame is due: 0 sound, 1 picture.
struct Load {
    begun: tokio::time::Instant,
    sounds: u32,
    pictures: u32,
}

impl Load {
    fn new() -> Self {
        Self { begun: tokio::time::Instant::now(), sounds: 0, pictures: 0 }
    }

    /// Waits for the next frame's time: its kind, whether it begins a group, its bytes.
    async fn next(&mut self) -> (usize, bool, usize) {
        let sound = Duration::from_secs(1) * self.sounds / SOUNDS.0;
        let picture = Duration::from_secs(1) * self.pictures / PICTURES.0;
        tokio::time::sleep_until(self.begun + sound.min(picture)).await;
        if sound <= picture {
            self.sounds += 1;
            (0, (self.sounds - 1).is_multiple_of(SOUNDS.2), SOUNDS.1)
        } else {
            self.pictures += 1;
            (1, (self.pictures - 1).is_multiple_of(PICTURES.2), PICTURES.1)
        }
    }
}

/// When each frame of our publisher left, microseconds of the wall clock; 0 before.
#[derive(Debug)]
struct Published {
    times: [Vec<AtomicU64>; 2],
}

impl Published {
    fn new() -> Self {
        let empty = |per_group: u32| (0..GROUPS_MAX * per_group as usize).map(|_| AtomicU64::new(0)).collect();
        Self { times: [empty(SOUNDS.2), empty(PICTURES.2)] }
    }

    fn at(&self, kind: usize, seq: u64, index: u32) -> Option<&AtomicU64> {
        let per_group = [SOUNDS.2, PICTURES.2][kind];
        self.times[kind].get(usize::try_from(seq).ok()? * per_group as usize + index as usize)
    }
}

/// One run with our forwarding node at `port`.
///
/// `mark` is called when the measured time begins and when it ends.
pub async fn measure_ours(port: u16, subscribers: u16, time: Duration, mark: &(dyn Fn() + Sync)) -> Result<Received> {
    let published = Arc::new(Published::new());
    let meter = Arc::new(Meter::default());
    let mut tasks = subscribe(port, subscribers, &meter, Some(&published)).await?;
    let publisher = tokio::spawn(publish(port, subscribers, Arc::clone(&published)));
    let received = meter.run(time, mark).await;
    if publisher.is_finished() {
        return Err("the publisher stopped".to_owned());
    }
    publisher.abort();
    tasks.shutdown().await;
    Ok(received)
}

/// One run with the bare peer at `port`.
/// `mark` is as above.
pub async fn measure_bare(port: u16, subscribers: u16, time: Duration, mark: &(dyn Fn() + Sync)) -> Result<Received> {
    let meter = Arc::new(Meter::default());
    let mut tasks = subscribe(port, subscribers, &meter, None).await?;
    let received = meter.run(time, mark).await;
    tasks.shutdown().await;
    Ok(received)
}

async fn publish(port: u16, subscribers: u16, published: Arc<Published>) -> Result<()> {
    let (media, mut events) = media(PUBLISHER, subscribers)?;
    media.dial(key(FORWARDER).id(), vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    media.announce(session_id(), vec![track(TrackKind::Audio), track(TrackKind::Main)]);
    let mut wanted = 0;
    while wanted < 2 {
        match events.recv().await {
            Some(super::Event::Wanted { wanted: true, .. }) => wanted += 1,
            Some(_) => {}
            None => return Err("the publisher's media plane ended".to_owned()),
        }
    }
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let secret = SessionKey::generate();
    let me = key(PUBLISHER).id();
    let sealer = |kind| {
        let suite = Suite::default();
        Some(Sealer::new(&secret, suite, session_id(), me, track(kind), Epoch::default(), Start::random()))
    };
    let mut sealers = [sealer(TrackKind::Audio), sealer(TrackKind::Main)];
    let mut open: [Option<(record::Writer, super::live::Writer)>; 2] = [None, None];
    let mut seqs = [0_u64, 0];
    let mut load = Load::new();
    loop {
        let (kind, begins, bytes) = load.next().await;
        if begins {
            if let Some((writer, live)) = open[kind].take() {
                let finished = writer.finish();
                live.end(finished.end.encode());
                sealers[kind] = Some(finished.sealer);
            }
            let sealer = sealers[kind].take().ok_or("a sealer for each group")?;
            let (writer, head) = record::Writer::new(sealer, seqs[kind], now_us() % (1 << 40));
            let live = media.publish(writer.header(), head);
            seqs[kind] += 1;
            open[kind] = Some((writer, live));
        }
        let Some((writer, live)) = &mut open[kind] else { continue };
        let index = writer.frame_count();
        let dt = u64::from(index) * 20_000;
        let plain = vec![0x5a; bytes];
        let frame = writer.frame(dt.min(2_000_000), Flags { key: begins, ..Flags::default() }, &plain).map_err(text)?;
        if let Some(time) = published.at(kind, seqs[kind] - 1, index) {
            time.store(now_us(), Ordering::Relaxed);
        }
        live.append(frame);
    }
}

/// Counts what arrives while it is open.
#[derive(Debug, Default)]
struct Meter {
    open: AtomicBool,
    received: Mutex<Received>,
}

impl Meter {
    async fn run(&self, time: Duration, mark: &(dyn Fn() + Sync)) -> Received {
        tokio::time::sleep(WARM_UP).await;
        mark();
        self.open.store(true, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        self.open.store(false, Ordering::Relaxed);
        mark();
        let mut received = std::mem::take(&mut *self.received.lock().await);
        received.late_us.sort_unstable();
        received
    }

    async fn take(&self, frames: &mut Vec<(u32, usize)>) {
        if self.open.load(Ordering::Relaxed) && !frames.is_empty() {
            let mut received = self.received.lock().await;
            for (late, bytes) in frames.iter() {
                received.frames += 1;
                received.bytes += *bytes as u64;
                received.late_us.push(*late);
            }
        }
        frames.clear();
    }
}

fn endpoint(server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let socket = super::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(text)?;
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).map_err(text)
}

/// Connects all subscribers, each with its own socket.
async fn subscribe(
    port: u16,
    subscribers: u16,
    meter: &Arc<Meter>,
    published: Option<&Arc<Published>>,
) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for number in 0..subscribers {
        let keypair = crate::mesh::keypair(&key(FIRST_SUBSCRIBER + number));
        let config = tls::client(&keypair, &key(FORWARDER).id(), Purpose::Live).map_err(text)?;
        let endpoint = endpoint(None)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connecting = endpoint.connect_with(config, address, "diemcau.invalid").map_err(text)?;
        let connection = tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(text)?.map_err(text)?;
        tasks.spawn(receive(endpoint, connection, Arc::clone(meter), published.cloned()));
    }
    Ok(tasks)
}

async fn receive(endpoint: Endpoint, connection: Connection, meter: Arc<Meter>, published: Option<Arc<Published>>) {
    let mut control = None;
    if published.is_some() {
        let Ok((sender, mut receiver)) = connection.open_bi().await else { return };
        let sender = control.insert(Arc::new(Mutex::new(sender)));
        for (kind, priority) in [(TrackKind::Audio, 6), (TrackKind::Main, 4)] {
            send(sender, &Message::Subscribe { session: session_id(), track: track(kind), priority }).await;
        }
        tokio::spawn(async move { while let Ok(Some(_)) = receiver.read_chunk(4096, true).await {} });
    }
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { break };
                let (meter, published, control) = (Arc::clone(&meter), published.clone(), control.clone());
                streams.spawn(async move {
                    match published {
                        Some(published) => receive_ours(stream, meter, published, control).await,
                        None => receive_bare(stream, meter).await,
                    }
                });
            }
            Some(_) = streams.join_next() => {}
        }
    }
    drop(endpoint);
}

async fn send(control: &Mutex<SendStream>, message: &Message) {
    let bytes = wire::encode(message).expect("a few bytes");
    // A forwarder that is gone ends the run by the missing frames.
    let _ = control.lock().await.write_all(&bytes).await;
}

async fn receive_ours(
    mut stream: RecvStream,
    meter: Arc<Meter>,
    published: Arc<Published>,
    control: Option<Arc<Mutex<SendStream>>>,
) {
    let mut kind = [0];
    match stream.read_exact(&mut kind).await {
        Ok(()) if kind[0] == STREAM_GROUP => {}
        Ok(()) if kind[0] == STREAM_PROBE => {
            if let (Some(answer), Some(control)) = (probe::take(stream).await, control) {
                send(&control, &answer).await;
            }
            return;
        }
        Ok(()) | Err(_) => return,
    }
    let mut parser = record::Reader::new();
    let (mut group, mut index, mut frames) = (None, 0, Vec::new());
    while let Ok(Some(chunk)) = stream.read_chunk(64 * 1024, true).await {
        parser.push(&chunk.bytes);
        while let Ok(Some(item)) = parser.next() {
            match (item, &group) {
                (Item::Header(header), _) => {
                    group = Some((usize::from(header.track.kind() == TrackKind::Main), header.seq));
                }
                (Item::Frame(frame), Some((kind, seq))) => {
                    if let Some(time) = published.at(*kind, *seq, index) {
                        let late = now_us().saturating_sub(time.load(Ordering::Relaxed));
                        frames.push((u32::try_from(late).unwrap_or(u32::MAX), frame.bytes().len()));
                    }
                    index += 1;
                }
                (Item::Frame(_) | Item::End(_), _) => {}
            }
        }
        meter.take(&mut frames).await;
    }
}

async fn receive_bare(mut stream: RecvStream, meter: Arc<Meter>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    while let Ok(Some(chunk)) = stream.read_chunk(64 * 1024, true).await {
        buffer.extend_from_slice(&chunk.bytes);
        while let Some((len, rest)) = buffer.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some(sent) = rest.first_chunk::<8>().filter(|_| rest.len() >= len) else { break };
            let late = now_us().saturating_sub(u64::from_be_bytes(*sent));
            frames.push((u32::try_from(late).unwrap_or(u32::MAX), len));
            drop(buffer.split_to(4 + len));
        }
        meter.take(&mut frames).await;
    }
}
