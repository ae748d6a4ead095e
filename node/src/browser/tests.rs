//! A browser's part played by the same library, against the real page: offers by HTTP, packets over loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::production::{Layer as Made, Output as MadeOutput};
use store::archive::Archive;
use store::db::memory::Memory;
use store::id::{GroupId, NodeId};
use store::keys::{NodeKey, SessionKey};
use store::record::{Flags, Writer};
use store::seal::{Opener, Sealer, Start, Suite};
use str0m::change::SdpAnswer;
use str0m::format::{Codec, PayloadParams};
use str0m::media::{
    Direction, Frequency, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Mid, Rid, Simulcast, SimulcastLayer,
};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::*;
use crate::accounts::Accounts;
use crate::config::{self, Port};
use crate::console::{Console, Parts};
use crate::engine::clock::Line;
use crate::media::{self, Held, Media, Shelf, live};
use crate::studio::inlet::Feed;
use crate::studio::timeline::Timeline;

/// A node of which there is only what browsers meet: the page, and what is live.
struct Room {
    console: Console,
    browser: Browser,
    stage: Stage,
    inlet: Inlet,
    epoch: Instant,
    media: Media,
    session: SessionId,
    key: SessionKey,
    node: NodeId,
    _data: tempfile::TempDir,
}

struct Nothing;

impl Shelf for Nothing {
    fn get(&self, _: GroupId) -> Held {
        Held::Missing
    }
}

/// A group that is being made.
struct Making {
    writer: Writer,
    live: live::Writer,
}

impl Making {
    fn frame(&mut self, dt: u64, key: bool, data: &[u8]) {
        let bytes = self.writer.frame(dt, Flags { key, discardable: false }, data).expect("it fits");
        self.live.append(bytes);
    }

    fn end(self) {
        let end: Bytes = self.writer.finish().end.encode();
        self.live.end(end);
    }
}

fn point(number: u16) -> PointNumber {
    PointNumber::new(number).expect("a small number")
}

/// An access unit: one that stands for a whole picture has parameter sets.
fn picture(key: bool, mark: u8) -> Vec<u8> {
    let mut unit = Vec::new();
    let nals: &[&[u8]] = match key {
        true => &[&[0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x68], &[0x68, 0xce, 0x3c, 0x80], &[0x65, 0x88, 0x84]],
        false => &[&[0x41, 0x9a, 0x02]],
    };
    for nal in nals {
        unit.extend_from_slice(&[0, 0, 0, 1]);
        unit.extend_from_slice(nal);
    }
    unit.extend_from_slice(&[mark.max(1); 40]);
    unit
}

impl Room {
    async fn new() -> Room {
        let node = NodeKey::generate();
        let listen = "127.0.0.1:0".parse().expect("an address");
        let epoch = Instant::now();
        let config = media::Config { listen, give_way: false, line_bits: 1_000_000, epoch };
        let (media, _) = Media::bind(&node, config, Arc::new(Nothing)).expect("a free port");
        let session = SessionId::generate(1_700_000_000_000);
        let stage = Stage::default();
        stage.open(session, [point(1), point(2)].into());
        let loopback = "127.0.0.1".parse().expect("an address");
        let inlet = Inlet::new(epoch);
        let started = Browser::start(loopback, stage.clone(), Some(inlet.clone())).await;
        let (browser, _) = started.expect("a socket");
        let data = tempfile::tempdir().expect("a folder");
        let archive = Archive::over(Arc::new(Memory::new()), Arc::new(Memory::new())).expect("a database");
        let parts = Parts {
            handler: mpsc::channel(1).0,
            accounts: Arc::new(Accounts::load(data.path()).expect("no accounts")),
            log: crate::access::Log::start(archive.logbook(), NodeKey::generate()).expect("a thread"),
            browser: browser.clone(),
        };
        let settings = config::Console { address: loopback, port: Port::ANY };
        let console = Console::start(&settings, parts).await.expect("a free port");
        let node = node.id();
        Room { console, browser, stage, inlet, epoch, media, session, key: SessionKey::generate(), node, _data: data }
    }

    fn begin(&self, track: TrackId, seq: u64, t0: u64) -> Making {
        let suite = Suite::default();
        let sealer = Sealer::new(&self.key, suite, self.session, self.node, track, 0, Start::random());
        let (writer, head) = Writer::new(sealer, seq, t0);
        let live = self.media.publish(writer.header(), head);
        let mut opener = Opener::new(self.session);
        opener.insert(0, self.key.clone());
        self.stage.begin(live.reader(), Arc::new(opener));
        Making { writer, live }
    }

    /// Asks as the page does; gives the status, the head and the body.
    async fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> (u16, String, String) {
        let url = self.console.url();
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(host).await.expect("a page");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("a page that reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_owned(), body.to_owned())
    }

    /// A browser that brings sound, and a picture in these layers, connected.
    async fn publish(&self, layers: &[&str]) -> Client {
        let mut client = Client::new().await;
        let mut change = client.rtc.sdp_api();
        let audio = change.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        let mut simulcast = Simulcast::new();
        layers.iter().for_each(|rid| simulcast.add_send_layer(SimulcastLayer::new(rid)));
        let simulcast = (!layers.is_empty()).then_some(simulcast);
        let video = change.add_media(MediaKind::Video, Direction::SendOnly, None, None, simulcast);
        let (offer, pending) = change.apply().expect("something to offer");
        let (status, head, answer) = self.ask("POST", "/api/whip", "application/sdp", &offer.to_sdp_string()).await;
        assert_eq!(status, 201, "{answer}");
        client.at = head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location").to_owned();
        let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        client.rtc.sdp_api().accept_answer(pending, answer).expect("an answer to the offer");
        (client.audio, client.video) = (Some(audio), Some(video));
        client.until(|client| client.connected).await;
        client
    }

    /// A browser that watches a point, connected.
    async fn watch(&self, number: u16, layer: &str) -> Client {
        let mut client = Client::new().await;
        let mut change = client.rtc.sdp_api();
        change.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let video = change.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        let (offer, pending) = change.apply().expect("something to offer");
        let path = format!("/api/whep/{number}?layer={layer}");
        let (status, head, answer) = self.ask("POST", &path, "application/sdp", &offer.to_sdp_string()).await;
        assert_eq!(status, 201, "{answer}");
        client.at = head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location").to_owned();
        let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        client.rtc.sdp_api().accept_answer(pending, answer).expect("an answer to the offer");
        client.video = Some(video);
        client.until(|client| client.connected).await;
        client
    }
}

/// What stands for a browser.
struct Client {
    rtc: Rtc,
    udp: UdpSocket,
    local: SocketAddr,
    at: String,
    audio: Option<Mid>,
    video: Option<Mid>,
    /// Keyframes that we asked of it.
    asked: Vec<Option<Rid>>,
    connected: bool,
    left: bool,
    got: Vec<MediaData>,
}

impl Client {
    async fn new() -> Client {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let local = udp.local_addr().expect("a bound socket");
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let mut rtc = RtcConfig::new().set_crypto_provider(crypto).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").expect("an address"));
        let (at, asked, got) = (String::new(), Vec::new(), Vec::new());
        Client { rtc, udp, local, at, audio: None, video: None, asked, connected: false, left: false, got }
    }

    /// Goes on until `enough`, at most ten seconds.
    async fn until(&mut self, enough: impl Fn(&Client) -> bool) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !enough(self) {
            assert!(Instant::now() < patience, "it never came to that; {} frames came", self.got.len());
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        let timeout = loop {
            match self.rtc.poll_output().expect("a library that works") {
                Output::Timeout(at) => break at,
                Output::Transmit(packet) => {
                    let _ = self.udp.send_to(&packet.contents, packet.destination).await;
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::MediaData(data)) => self.got.push(data),
                Output::Event(Event::KeyframeRequest(request)) => self.asked.push(request.rid),
                Output::Event(Event::Closed) => self.left = true,
                Output::Event(_) => {}
            }
        };
        let mut buffer = [0; 2_000];
        let soon = Instant::now() + Duration::from_millis(20);
        tokio::select! {
            received = self.udp.recv_from(&mut buffer) => {
                let (len, from) = received.expect("a socket that works");
                if let Ok(receive) = Receive::new(Protocol::Udp, from, self.local, &buffer[..len]) {
                    self.rtc.handle_input(Input::Receive(Instant::now(), receive)).expect("good packets");
                }
            }
            () = tokio::time::sleep_until(timeout.min(soon).into()) => {
                self.rtc.handle_input(Input::Timeout(Instant::now())).expect("time passes");
            }
        }
    }

    /// Sends a frame that was captured now.
    fn send(&mut self, mid: Option<Mid>, codec: Codec, rid: Option<&str>, at: MediaTime, data: &[u8]) {
        let mid = mid.expect("a media line");
        let writer = self.rtc.writer(mid).expect("a line");
        let fits = |params: &&PayloadParams| {
            let format = params.spec().format;
            params.spec().codec == codec && (codec != Codec::H264 || format.profile_level_id == Some(0x42_e01f))
        };
        let pt = writer.payload_params().find(fits).expect("a codec both have").pt();
        let writer = rid.into_iter().fold(writer, |writer, rid| writer.rid(Rid::from(rid)));
        writer.write(pt, Instant::now(), at, data).expect("room for a frame");
    }

    /// Frames of the picture that came: bytes, and time in microseconds.
    fn pictures(&self) -> Vec<(Vec<u8>, u64)> {
        let of = self.got.iter().filter(|data| Some(data.mid) == self.video);
        of.map(|data| (data.data.to_vec(), micros(data))).collect()
    }

    fn sounds(&self) -> Vec<(Vec<u8>, u64)> {
        let of = self.got.iter().filter(|data| Some(data.mid) != self.video);
        of.map(|data| (data.data.to_vec(), micros(data))).collect()
    }
}

fn micros(data: &MediaData) -> u64 {
    data.time.numer() * 1_000_000 / u64::from(data.time.denom())
}

const MAIN: TrackKind = TrackKind::Main;

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_sees_the_open_group_at_once_and_then_everything_with_its_time() {
    let room = Room::new().await;
    let t0 = 60_000_000;
    let mut main = room.begin(TrackId::new(point(2), MAIN), 7, t0);
    let mut audio = room.begin(TrackId::new(point(2), TrackKind::Audio), 7, t0);
    for n in 0..10 {
        main.frame(n * 33_000, n == 0, &picture(n == 0, n as u8 + 1));
    }
    let mut client = room.watch(2, "main").await;
    client.until(|client| client.pictures().len() >= 10).await;
    let before = client.pictures();
    assert_eq!(before[0].0, picture(true, 1), "the keyframe comes first, unchanged");
    assert!(before.windows(2).all(|pair| pair[0].1 < pair[1].1), "times grow: {before:?}");

    // From now on each frame is made at its time.
    let begun = Instant::now();
    let since = |base: u64| base + u64::try_from(begun.elapsed().as_micros()).expect("a short test");
    let start = 1_000_000;
    let mut times = Vec::new();
    for n in 0..20_u8 {
        let dt = since(start);
        main.frame(dt, false, &picture(false, 100 + n));
        audio.frame(dt, true, &[0xf8, n, 1, 2, 3]);
        times.push(t0 + dt);
        let due = begun + Duration::from_millis(25 * (u64::from(n) + 1));
        while Instant::now() < due {
            client.turn().await;
        }
    }
    client.until(|client| client.pictures().len() >= 30 && client.sounds().len() >= 20).await;
    let (pictures, sounds) = (client.pictures(), client.sounds());
    for (n, at) in times.iter().enumerate() {
        let (picture_at, sound_at) = (pictures[10 + n].1, sounds[n].1);
        assert!(picture_at.abs_diff(*at) < 100, "picture {n}: {picture_at}, made at {at}");
        assert!(sound_at.abs_diff(*at) < 100, "sound {n}: {sound_at}, made at {at}");
        assert_eq!(sounds[n].0[1], n as u8);
    }
    main.end();
    audio.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_keyframe_is_answered_from_the_open_group() {
    let room = Room::new().await;
    let mut main = room.begin(TrackId::new(point(2), MAIN), 0, 0);
    main.frame(0, true, &picture(true, 1));
    main.frame(33_000, false, &picture(false, 2));
    let mut client = room.watch(2, "main").await;
    client.until(|client| client.pictures().len() >= 2).await;
    let video = client.video.expect("a media line");
    client.rtc.writer(video).expect("a line").request_keyframe(None, KeyframeRequestKind::Pli).expect("one that came");
    client.until(|client| client.pictures().len() >= 4).await;
    let pictures = client.pictures();
    assert_eq!((&pictures[2].0, &pictures[3].0), (&picture(true, 1), &picture(false, 2)));
    assert!(pictures.windows(2).all(|pair| pair[0].1 < pair[1].1), "times grow: {pictures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layer_changes_with_a_group_and_whoever_cares_is_told() {
    let room = Room::new().await;
    let wanted = room.browser.wanted();
    let (main, thumb) = (TrackId::new(point(2), MAIN), TrackId::new(point(2), TrackKind::Thumb));
    let mut first = [room.begin(main, 0, 0), room.begin(thumb, 0, 0)];
    for (n, group) in first.iter_mut().enumerate() {
        group.frame(0, true, &picture(true, 10 + n as u8));
    }
    let mut client = room.watch(2, "thumb").await;
    client.until(|client| !client.pictures().is_empty()).await;
    assert_eq!(client.pictures()[0].0, picture(true, 11), "the small one");
    assert!(wanted.borrow().contains(&thumb) && !wanted.borrow().contains(&main));

    let path = format!("{}/layer", client.at);
    assert_eq!(room.ask("PUT", &path, "application/json", r#"{"layer":"main"}"#).await.0, 204);
    assert!(wanted.borrow().contains(&main) && !wanted.borrow().contains(&thumb));
    first[1].frame(33_000, false, &picture(false, 12));
    client.until(|client| client.pictures().len() >= 2).await;
    first.into_iter().for_each(Making::end);
    for (mark, track) in [(21, thumb), (20, main)] {
        let mut group = room.begin(track, 1, 2_000_000);
        group.frame(0, true, &picture(true, mark));
        group.end();
    }
    client.until(|client| client.pictures().len() >= 3).await;
    assert_eq!(client.pictures()[1].0, picture(false, 12), "the group is finished in the layer it began in");
    assert_eq!(client.pictures()[2].0, picture(true, 20), "and the next is in the other");

    assert_eq!(room.ask("DELETE", &client.at, "text/plain", "").await.0, 200);
    client.until(|client| client.left).await;
    assert!(wanted.borrow().is_empty(), "nobody watches");
    assert_eq!(room.ask("DELETE", &client.at, "text/plain", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_refused_with_a_reason() {
    let room = Room::new().await;
    let offer = {
        let mut client = Client::new().await;
        let mut change = client.rtc.sdp_api();
        change.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        change.apply().expect("something to offer").0.to_sdp_string()
    };
    let sdp = "application/sdp";
    let long = "a".repeat(OFFER_BYTES_MAX + 1);
    for (path, kind, body, status) in [
        ("/api/whep/9", sdp, offer.as_str(), 404),
        ("/api/whep/x", sdp, offer.as_str(), 404),
        ("/api/whep/2?layer=huge", sdp, offer.as_str(), 400),
        ("/api/whep/2", "text/plain", offer.as_str(), 415),
        ("/api/whep/2", sdp, "hello", 400),
        ("/api/whep/2", sdp, "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", 400),
        ("/api/whep/2", sdp, long.as_str(), 413),
    ] {
        let (found, _, answer) = room.ask("POST", path, kind, body).await;
        assert_eq!(found, status, "{path} {kind}: {answer}");
    }
    for n in 0..WATCHED_MAX {
        let watched = room.browser.watch(point(1), Layer::Thumb, offer.clone()).await;
        assert!(watched.is_ok(), "{n}: {watched:?}");
    }
    let (status, _, answer) = room.ask("POST", "/api/whep/2", sdp, &offer).await;
    assert!(status == 503 && answer.contains("already"), "{answer}");
    // The session is over, and with it what was watched.
    room.stage.close_if(room.session);
    assert_eq!(room.ask("POST", "/api/whep/2", sdp, &offer).await.0, 404);
}

/// What a room made of what came: of each layer, group by group, numbers, starts and frames.
type Groups = Arc<Mutex<Vec<(Made, u64, u64, Vec<(u64, Bytes)>)>>>;

/// A room that publishes, into a list.
fn feed(room: &Room, first: u64) -> (Feed, Groups) {
    let timeline = Timeline::new(room.epoch);
    timeline.set(Line::central(0));
    let groups = Groups::default();
    let into = Arc::clone(&groups);
    let sink = move |layer, output| {
        let mut groups = into.lock().expect("nobody panicked");
        match output {
            MadeOutput::Open { seq, t0 } => groups.push((layer, seq, t0.micros(), Vec::new())),
            MadeOutput::Frame(frame) => {
                let open = groups.iter_mut().rev().find(|group| group.0 == layer).expect("an open group");
                open.3.push((frame.at.micros(), frame.data));
            }
            MadeOutput::Close { .. } => {}
        }
    };
    let feed = Feed::start(&room.inlet, first, Duration::from_secs(2), timeline, Arc::new(sink)).expect("a thread");
    (feed, groups)
}

/// Sends sound and pictures for so long, with a keyframe of each layer when it is asked for.
async fn film(client: &mut Client, layers: &[Option<&str>], length: Duration) {
    let begun = Instant::now();
    let mut answered = client.asked.len();
    let mut n = 0_u64;
    while begun.elapsed() < length {
        let at = u64::try_from(begun.elapsed().as_micros()).expect("a short test") + 5_000_000;
        let ticks = |rate: u64| at * rate / 1_000_000;
        let audio = client.audio;
        client.send(audio, Codec::Opus, None, MediaTime::new(ticks(48_000), Frequency::FORTY_EIGHT_KHZ), &[0xf8, 1, 2]);
        if n.is_multiple_of(2) {
            let asked = client.asked.split_off(answered);
            for rid in layers {
                let key = n == 0 || asked.iter().any(|asked| asked.as_deref() == *rid);
                let video = client.video;
                let time = MediaTime::new(ticks(90_000), Frequency::NINETY_KHZ);
                client.send(video, Codec::H264, *rid, time, &picture(key, 9));
            }
            client.asked.extend(asked);
            answered = client.asked.len();
        }
        n += 1;
        let due = begun + Duration::from_millis(20 * n);
        while Instant::now() < due {
            client.turn().await;
        }
    }
}

fn numbers(groups: &Groups, layer: Made) -> Vec<(u64, u64)> {
    let groups = groups.lock().expect("nobody panicked");
    groups.iter().filter(|group| group.0 == layer).map(|group| (group.1, group.2)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_encodes_becomes_groups_that_begin_with_keyframes() {
    let room = Room::new().await;
    let (feed, groups) = feed(&room, 30);
    feed.enable_thumb(true);
    let mut client = room.publish(&["main", "thumb"]).await;
    film(&mut client, &[Some("main"), Some("thumb")], Duration::from_secs(7)).await;
    let stats = tokio::task::spawn_blocking(move || feed.stop()).await.expect("a room that can be closed");
    let (sound, main, thumb) =
        (numbers(&groups, Made::Audio), numbers(&groups, Made::Main), numbers(&groups, Made::Thumb));
    assert!(sound.len() >= 3 && sound[0].0 >= 30, "{sound:?}");
    for picture in [&main, &thumb] {
        assert!(picture.len() >= 3, "{picture:?}; asked {:?}", client.asked);
        assert!(picture.iter().all(|group| sound.contains(group)), "{picture:?} of {sound:?}");
    }
    for (layer, seq, t0, frames) in &*groups.lock().expect("nobody panicked") {
        assert!(frames.windows(2).all(|pair| pair[0].0 < pair[1].0), "{layer:?} {seq}: times grow");
        if *layer != Made::Audio {
            assert_eq!(*frames[0].1, picture(true, 9), "{layer:?} {seq} begins with a keyframe, unchanged");
            assert!(frames[0].0 - t0 < 400_000, "{layer:?} {seq}: its keyframe comes soon after its start");
        }
    }
    assert!(stats.audio.frames > 250 && stats.main.frames > 100, "{stats:?}");
    assert_eq!((stats.no_picture, stats.no_sound), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_comes_anew_takes_over_and_no_number_is_used_twice() {
    let room = Room::new().await;
    let (feed, groups) = feed(&room, 0);
    let mut first = room.publish(&[]).await;
    film(&mut first, &[None], Duration::from_secs(3)).await;
    let mut second = room.publish(&[]).await;
    first.until(|client| client.left).await;
    film(&mut second, &[None], Duration::from_secs(4)).await;
    assert_eq!(room.ask("DELETE", &second.at, "text/plain", "").await.0, 200);
    second.until(|client| client.left).await;
    let stats = tokio::task::spawn_blocking(move || feed.stop()).await.expect("a room that can be closed");
    for layer in [Made::Audio, Made::Main] {
        let numbers = numbers(&groups, layer);
        assert!(numbers.len() >= 3, "{layer:?} {numbers:?}");
        assert!(numbers.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{layer:?} {numbers:?}");
    }
    assert!(stats.main.frames > 100, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_nobody_stands_behind_leaves_the_camera_alone() {
    let room = Room::new().await;
    let (feed, groups) = feed(&room, 0);
    let mut camera = room.publish(&[]).await;
    film(&mut camera, &[None], Duration::from_secs(1)).await;
    // A second tab that is closed as soon as it has asked.
    let offer = {
        let mut ghost = Client::new().await;
        let mut change = ghost.rtc.sdp_api();
        change.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        change.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
        change.apply().expect("something to offer").0.to_sdp_string()
    };
    assert_eq!(room.ask("POST", "/api/whip", "application/sdp", &offer).await.0, 201);
    film(&mut camera, &[None], Duration::from_secs(4)).await;
    assert!(!camera.left, "the camera that works goes on");
    drop(tokio::task::spawn_blocking(move || feed.stop()).await.expect("a room that can be closed"));
    let sounds = groups.lock().expect("nobody panicked");
    let sounds: usize = sounds.iter().filter(|group| group.0 == Made::Audio).map(|group| group.3.len()).sum();
    assert!(sounds > 200, "{sounds} of 250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_thousand_pieces_is_left_out_and_the_next_group_is_shown() {
    let room = Room::new().await;
    let track = TrackId::new(point(2), MAIN);
    let mut bad = room.begin(track, 0, 0);
    bad.frame(0, true, &picture(true, 1));
    bad.frame(33_000, false, &[0, 0, 1, 0x61].repeat(100_000));
    let mut client = room.watch(2, "main").await;
    client.until(|client| !client.pictures().is_empty()).await;
    bad.end();
    let mut good = room.begin(track, 1, 2_000_000);
    good.frame(0, true, &picture(true, 2));
    client.until(|client| client.pictures().len() >= 2).await;
    assert_eq!(client.pictures()[1].0, picture(true, 2));
    assert!(!client.left);
    good.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_vanished_is_watched_for_no_longer() {
    let room = Room::new().await;
    let client = room.watch(2, "main").await;
    let mut wanted = room.browser.wanted();
    assert!(!wanted.borrow_and_update().is_empty());
    // As a machine that sleeps or a browser that is killed: nothing more comes, not even a goodbye.
    drop(client);
    let gone = tokio::time::timeout(Duration::from_secs(40), wanted.changed()).await;
    assert!(gone.is_ok() && wanted.borrow().is_empty());
}
