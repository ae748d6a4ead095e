//! The media plane on real sockets: a good line, a bad line, and bad neighbours.

mod flood;
mod hostile;
mod line;
mod plane;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::{NodeKey, SessionKey};
use store::record::{self, Flags, Item, Record};
use store::roster::Right;
use store::seal::{Sealer, Start, Suite};
use tokio::sync::mpsc;

use super::{Config, Event, Held, Media, Session, Shelf, live};
use crate::engine::rights::{Member, Members};

fn key(number: u16) -> NodeKey {
    NodeKey::from_bytes(blake3::hash(&number.to_be_bytes()).as_bytes())
}

fn session_id() -> SessionId {
    SessionId::from_bytes([3; 16])
}

fn track(point: u16, kind: TrackKind) -> TrackId {
    TrackId::new(PointNumber::new(point).expect("a small number"), kind)
}

/// Point 0 is central.
fn session(points: u16) -> Session {
    let all = (0..points).map(|number| (PointNumber::new(number).expect("a small number"), key(number).id())).collect();
    Session::new(session_id(), all, key(0).id())
}

/// As many points with all rights, seen from one of them.
fn members(me: u16, points: impl IntoIterator<Item = u16>) -> Members {
    let all: BTreeSet<Right> = Right::ALL.into();
    let member = |number: u16| (key(number).id(), Member { name: number.to_string(), rights: all.clone() });
    Members::new(key(me).id(), points.into_iter().map(member).collect(), BTreeSet::new())
}

/// Records by id, and those that wait for the disk; its part in these tests, which are about the line.
#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<GroupId, Bytes>>, Mutex<BTreeSet<GroupId>>);

impl Shelf for Kept {
    fn get(&self, id: GroupId) -> Held {
        if self.1.lock().expect("no panic").contains(&id) {
            return Held::NotYet;
        }
        self.0.lock().expect("no panic").get(&id).cloned().map_or(Held::Missing, Held::Whole)
    }
}

struct Node {
    media: Media,
    events: mpsc::Receiver<Event>,
    kept: Arc<Kept>,
}

impl Node {
    fn start(number: u16, points: u16) -> Self {
        let kept = Arc::new(Kept::default());
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config { listen, give_way: false, line_bits: 5_000_000, epoch: Instant::now() };
        let (media, events) = Media::bind(&key(number), config, Arc::clone(&kept) as Arc<dyn Shelf>).expect("a socket");
        media.set_members(members(number, 0..points));
        media.open_session(session(points));
        Self { media, events, kept }
    }

    fn addr(&self) -> SocketAddr {
        self.media.local_addr().expect("bound")
    }

    /// The first event that `pick` knows, within 20 s.
    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the plane runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no {what} in 20 s"))
    }

    async fn until_up(&mut self, node: NodeId) {
        self.until("connection", |event| matches!(event, Event::Up { node: up } if up == node).then_some(())).await;
    }
}

/// What a talker says.
#[derive(Clone, Copy)]
struct Offer {
    pictures: bool,
    /// Pictures a second.
    rate: u32,
    keyframe: usize,
    other: usize,
    /// Bytes of each picture of the low layer, ten a second; none if 0.
    thumb: usize,
    time: Duration,
}

const GROUP: Duration = Duration::from_secs(2);
/// Opus at 32 kb/s.
const SOUND: usize = 80;

impl Offer {
    /// `bits` per second at 25 pictures a second, a keyframe being `times` the others.
    fn picture(bits: usize, times: usize, time: Duration) -> Self {
        let other = bits / 8 * 2 / (49 + times);
        Self { pictures: true, rate: 25, keyframe: other * times, other, thumb: 0, time }
    }

    fn sound(time: Duration) -> Self {
        Self { pictures: false, rate: 25, keyframe: 0, other: 0, thumb: 0, time }
    }
}

type FrameId = (TrackKind, u64, u32);

/// When each frame left.
type Published = Arc<Mutex<BTreeMap<FrameId, Instant>>>;

/// Publishes as a point does: sealed, in groups of 2 s, stored before they end.
async fn talk(media: Media, kept: Arc<Kept>, point: u16, first_seq: u64, offer: Offer, published: Published) {
    let secret = SessionKey::generate();
    let me = key(point).id();
    let mut kinds = vec![(TrackKind::Audio, 50)];
    kinds.extend(offer.pictures.then_some((TrackKind::Main, offer.rate)));
    kinds.extend((offer.thumb > 0).then_some((TrackKind::Thumb, 10)));
    let mut tasks = tokio::task::JoinSet::new();
    let begun = tokio::time::Instant::now();
    for (kind, rate) in kinds {
        let (media, kept, published) = (media.clone(), Arc::clone(&kept), Arc::clone(&published));
        let sealer = Sealer::new(&secret, Suite::default(), session_id(), me, track(point, kind), 0, Start::random());
        tasks.spawn(async move {
            let mut sealer = Some(sealer);
            let per_group = rate * GROUP.as_secs() as u32;
            let frames = offer.time.as_secs() as u32 * rate;
            let mut group: Option<(record::Writer, live::Writer)> = None;
            for number in 0..frames {
                tokio::time::sleep_until(begun + Duration::from_secs(1) * number / rate).await;
                let (seq, index) = (first_seq + u64::from(number / per_group), number % per_group);
                if index == 0 {
                    let seal = sealer.take().expect("the last group gave it back");
                    let t0 = seq * GROUP.as_micros() as u64;
                    let (writer, head) = record::Writer::new(seal, seq, t0);
                    let live = media.publish(writer.header(), head);
                    group = Some((writer, live));
                }
                let (writer, live) = group.as_mut().expect("begun above");
                let bytes = match (kind, index) {
                    (TrackKind::Audio, _) => SOUND,
                    (TrackKind::Thumb, _) => offer.thumb,
                    (_, 0) => offer.keyframe,
                    _ => offer.other,
                };
                let dt = u64::from(index) * 1_000_000 / u64::from(rate);
                let flags = Flags { key: index == 0, ..Flags::default() };
                let sealed = writer.frame(dt, flags, &vec![0x5a; bytes]).expect("within limits");
                published.lock().expect("no panic").insert((kind, seq, index), Instant::now());
                live.append(sealed);
                if index + 1 == per_group {
                    let (writer, live) = group.take().expect("begun above");
                    let finished = writer.finish();
                    kept.0.lock().expect("no panic").insert(finished.record.id(), finished.record.bytes().clone());
                    live.end(finished.end.encode());
                    sealer = Some(finished.sealer);
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
}

/// What a listener heard.
#[derive(Debug, Default)]
struct Heard {
    at: BTreeMap<FrameId, Instant>,
    whole: BTreeSet<(TrackKind, u64)>,
    shed: BTreeSet<(TrackId, u64)>,
}

impl Heard {
    /// Publish to receive of every frame of a kind, sorted.
    fn late(&self, published: &Published, kind: TrackKind) -> Vec<Duration> {
        let published = published.lock().expect("no panic");
        let frames = self.at.iter().filter(|((of, ..), _)| *of == kind);
        let mut late: Vec<Duration> = frames.filter_map(|(id, at)| Some(*at - *published.get(id)?)).collect();
        late.sort_unstable();
        late
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Takes every group until dropped.
fn listen(mut events: mpsc::Receiver<Event>) -> (Arc<Mutex<Heard>>, tokio::task::JoinHandle<()>) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let into = Arc::clone(&heard);
    let task = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                Event::Group(reader) => {
                    tokio::spawn(hear(reader, Arc::clone(&into)));
                }
                Event::Shed { track, seq, .. } => {
                    into.lock().expect("no panic").shed.insert((track, seq));
                }
                _ => {}
            }
        }
    });
    (heard, task)
}

async fn hear(mut reader: live::Reader, heard: Arc<Mutex<Heard>>) {
    let (kind, seq) = (reader.header().track.kind(), reader.header().seq);
    let mut parser = record::Reader::new();
    let mut index = 0;
    loop {
        match reader.next().await {
            live::Item::Chunk(chunk) => parser.push(&chunk),
            live::Item::Whole => {
                heard.lock().expect("no panic").whole.insert((kind, seq));
                return;
            }
            live::Item::Broken { .. } => return,
        }
        while let Some(item) = parser.next().expect("checked on the way in") {
            if matches!(item, Item::Frame(_)) {
                heard.lock().expect("no panic").at.insert((kind, seq, index), Instant::now());
                index += 1;
            }
        }
    }
}

/// Waits until `done`, at most 30 s.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what}: not in 30 s"));
}

fn record_of(kept: &Kept, id: GroupId) -> Record {
    let Held::Whole(bytes) = kept.get(id) else { panic!("{id} is kept") };
    Record::parse(bytes).expect("ours")
}
