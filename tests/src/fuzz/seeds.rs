//! Good examples for each target, made by the program as it is, so that a change of form never leaves the targets with
//! inputs that nobody understands. Keys and ids are fixed.

use std::collections::BTreeSet;
use std::io::Cursor;

use codec::audio;
use codec::frame::Frame;
use codec::mp4::{Fragmenter, Writer};
use codec::picture::Picture;
use codec::samples::Samples;
use codec::time::MediaTime;
use codec::video;
use node::config::{self, Address};
use node::control::Request;
use node::join::code::Code;
use node::join::secret::Secret;
use node::join::wire::{self as joining, Answer, Ask, Knock, Welcome};
use node::mesh::hello::{self, Hello};
use node::wire::control::{Accepted, End, Finished, Invite, Last, Message, Span};
use node::wire::{evidence, media, recover, replica, roster as news};
use store::cbor;
use store::id::{Hash, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::inventory::{Have, Page};
use store::journal::{Chain, EndReason, Event, GapReason, LeftReason};
use store::keys::{NodeKey, SessionKey, Wrap, WrapContext, WrapKey, WrapPublic};
use store::locked;
use store::manifest::{ChainEnd, Countersignature, Manifest, TrackEnd};
use store::receipt::{Assignment, Receipt};
use store::record::{self, Flags};
use store::roster::{Admission, Grant, GrantId, Membership, Point, Proof, Request as Asked, Revoked, Right, Roster};
use store::seal::{Sealer, Start, Suite};
use store::segment::{self, Segment};
use store::session::{Head, Member, Period, State};
use store::shares;
use store::signed::{Content, Signed};

/// Examples for the target of this name, each of which it understands.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "control_message" => control_messages(),
        "roster_message" => roster_messages(),
        "media_message" => media_messages(),
        "group" => groups(),
        "hello" => vec![hello().encode()],
        "framing" => vec![framed(b""), framed(b"abc"), framed(&[0xff; 64])],
        "inventory" => inventories(),
        "join_code" => join_codes(),
        "join_frame" => join_frames(),
        "signed" => signed(),
        "journal" => vec![journal().iter().flat_map(|entry| prefixed(&entry.bytes)).collect()],
        "segment" => vec![segments().iter().flat_map(|segment| prefixed(segment.bytes())).collect()],
        "manifest" => vec![manifest().bytes().to_vec()],
        "evidence_message" => evidence_messages(),
        "copies_message" => copies_messages(),
        "recovery_message" => recovery_messages(),
        "head" => vec![head().encode(), Head { state: State::Ended, ended_unix_ms: Some(9), ..head() }.encode()],
        "cbor" => vec![cbor::encode(&(1, "á", [None, Some(-7)])), vec![0xa2, 0x61, 0x61, 0xf5, 0x61, 0x62, 0x80]],
        "membership" => memberships(),
        "locked" => vec![locked::lock("authority", &SECRET, PASSPHRASE).into_bytes()],
        "share" => shares(),
        "wrap" => vec![wrap().as_bytes().to_vec()],
        "names" => names(),
        "config" => vec![config::template().into_bytes(), uncommented().into_bytes()],
        "request" => requests(),
        "mp4" => films(),
        "y4m" => vec![y4m()],
        "wav" => vec![wav(1, 16), wav(2, 8), wav(1, 24)],
        "annexb" => pictures().into_iter().take(1).map(|frame| frame.data.to_vec()).collect(),
        other => panic!("no examples of {other:?}"),
    }
}

pub(super) const PASSPHRASE: &str = "sáu từ không ai đoán được";
pub(super) const SECRET: [u8; 32] = [7; 32];

pub(super) fn node_key(number: u8) -> NodeKey {
    NodeKey::from_bytes(&[number + 1; 32])
}

pub(super) fn session_key() -> SessionKey {
    SessionKey::from_bytes(&[7; 32])
}

pub(super) fn wrap_key() -> WrapKey {
    WrapKey::from_bytes(&[8; 32])
}

pub(super) fn wrap_context() -> WrapContext {
    WrapContext { session: session(), epoch: 0, recipient: node_key(1).id() }
}

pub(super) fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn number(n: u16) -> PointNumber {
    PointNumber::new(n).expect("a small number")
}

pub(super) fn point() -> PointNumber {
    number(1)
}

fn track() -> TrackId {
    TrackId::new(number(1), TrackKind::Main)
}

fn roster_messages() -> Vec<Vec<u8>> {
    let known = news::News { number: 3, roster: Hash::of(b"roster"), admissions: vec![Hash::of(b"one")] };
    let messages = [
        news::Message::News(known),
        news::Message::Get { item: Hash::of(b"one"), from: 4 },
        news::Message::Part { total: 9, bytes: vec![1; 5].into() },
        news::Message::Gone,
    ];
    messages.iter().map(|message| message.encode().to_vec()).collect()
}

fn join_codes() -> Vec<Vec<u8>> {
    let at = |host: &str, port| Address { host: host.to_owned(), port };
    let places =
        [vec![at("192.0.2.7", 7500)], vec![at("2001:db8::7", 7501), at("tiepdan.example.vn", 7500), at("10.0.0.1", 9)]];
    let codes = places.map(|places| Code::new(Secret::from_bytes(&[6; Secret::LEN]), 7400, places).expect("they fit"));
    codes.iter().map(|code| code.text().as_bytes().to_vec()).collect()
}

fn join_frames() -> Vec<Vec<u8>> {
    let ask = Ask {
        wrap: wrap_key().public(),
        addresses: vec!["10.0.0.1:7400".to_owned()],
        proof: Proof::from_bytes([2; 64]),
        unix_ms: 1_700_000_000_000,
    };
    let admitted = Answer::Admitted { admission: vec![1; 40].into(), membership_len: 9, unix_ms: 7 };
    let frames = [
        joining::encode(&Knock { invite: GrantId::from_bytes([3; 16]), proof: [4; 32] }),
        joining::encode(&Welcome { proof: [5; 32] }),
        joining::encode(&ask),
        joining::encode(&admitted),
        joining::encode(&Answer::Expired { not_after_unix_ms: 5, unix_ms: 6 }),
        joining::encode(&Answer::unable("đĩa đầy".to_owned())),
    ];
    frames.iter().map(|frame| frame.to_vec()).collect()
}

fn wrap() -> Wrap {
    session_key().wrap(&wrap_key().public(), &wrap_context()).expect("a good key")
}

fn head() -> Head {
    let member = |n: u8, name: &str| Member { number: number(n.into()), node: node_key(n).id(), name: name.to_owned() };
    Head {
        id: session(),
        title: "Tiếp công dân định kỳ".to_owned(),
        state: State::Open,
        central: node_key(0).id(),
        points: vec![member(0, "Trung tâm"), member(1, "Xã Tân Phú")],
        epochs: vec![Period::first(session_key().commitment())],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: None,
    }
}

fn control_messages() -> Vec<Vec<u8>> {
    let (session, media) = (session(), vec!["192.168.1.5:7500".parse().expect("an address"); 2]);
    let unused = vec![Span { track: track(), from: 3, to: 4 }];
    let messages = [
        Message::Invite(Box::new(Invite {
            head: head(),
            wraps: [(0, [(wrap_context().recipient, wrap())].into())].into(),
            media: media.clone(),
            media_port: 7500,
            origin: -5,
            used: 0,
        })),
        Message::Accepted(Accepted { session, epoch: 0, first_seq: 17, unused: unused.clone() }),
        Message::refused(session, "bận"),
        Message::End(End { session, unix_ms: 5, media, media_port: 7500 }),
        Message::Ending { session, took_part: true },
        Message::Finished(Finished { session, tracks: vec![Last { track: track(), seq: 9 }], unused }),
        Message::Back { session },
        Message::Removed { session },
        Message::Wait { session },
        Message::Done { session },
    ];
    messages.iter().map(|message| message.encode().expect("within limits")).collect()
}

fn media_messages() -> Vec<Vec<u8>> {
    let (session, track) = (session(), track());
    let messages = [
        media::Message::Announce { session, tracks: vec![track; 3] },
        media::Message::Subscribe { session, track, priority: 4 },
        media::Message::Unsubscribe { session, track },
        media::Message::Keyframe { session, track },
        media::Message::Clock { sent: u64::MAX },
        media::Message::ClockReply { sent: 1, remote: 2 },
        media::Message::Probed { bytes: 3, micros: 4 },
    ];
    let mut all: Vec<_> = messages.iter().map(|message| media::encode(message).expect("small")).collect();
    all.push(media::encode(&media::FetchRequest { session, track, from: 0, to: 5, len_max: 1000 }).expect("small"));
    all.push(media::encode(&media::FetchItem { seq: 5, len: Some(7) }).expect("small"));
    all.push(media::encode(&media::FetchItem { seq: 6, len: None }).expect("small"));
    all.into_iter().map(|message| message[2..].to_vec()).collect()
}

/// One on the wire, with its end, and one as it is stored.
fn groups() -> Vec<Vec<u8>> {
    let sealer = |suite| {
        let start = Start::from_bits(5);
        Sealer::new(&session_key(), suite, session(), node_key(1).id(), track(), 0, start)
    };
    let made = |suite, frames: u64| {
        let (mut writer, head) = record::Writer::new(sealer(suite), 12, 24_000_000);
        let mut wire = head.to_vec();
        for n in 0..frames {
            let flags = Flags { key: n == 0, ..Flags::default() };
            wire.extend(writer.frame(n * 20_000, flags, &[n as u8; 30]).expect("within limits"));
        }
        let finished = writer.finish();
        (finished.record.bytes().to_vec(), [wire, finished.end.encode().to_vec()].concat())
    };
    let (stored, wire) = made(Suite::Aes128GcmSha256, 3);
    vec![wire, stored, made(Suite::Aes256GcmSha512, 1).1, made(Suite::default(), 0).1]
}

fn hello() -> Hello {
    Hello {
        version: hello::VERSION,
        program: "diemcau 0.1.0".to_owned(),
        name: "UBND xã Kim Thành".to_owned(),
        media_port: 7500,
        addresses: ["127.0.0.1", "192.168.1.5", "2001:db8::5"].map(|ip| ip.parse().expect("an address")).into(),
        mesh_port: 7400,
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).expect("short").to_be_bytes()[..], message].concat()
}

fn inventories() -> Vec<Vec<u8>> {
    let mut have = Have::new();
    let mut page = Page::EMPTY;
    let mut all = vec![have.encode()];
    for seq in (0..5_000).chain((9_000..9_500).step_by(2)).chain([70_000, 1 << 30]) {
        have.insert(seq);
    }
    page.insert(5);
    all.extend([have.encode(), page.encode()]);
    all
}

struct Written {
    bytes: Vec<u8>,
    content: Vec<u8>,
}

fn journal() -> Vec<Written> {
    let key = node_key(0);
    let mut chain = Chain::new(session(), key.id());
    let events = [
        Event::Started { title: head().title, points: head().points },
        Event::Joined { point: number(1) },
        Event::Gap { track: track(), from_seq: 3, to_seq: 5, reason: GapReason::Lost },
        Event::Repaired { track: track(), from_seq: 4, to_seq: 4 },
        Event::Left { point: number(1), reason: LeftReason::Lost },
        Event::Resumed {},
        Event::Ended { reason: EndReason::Closed },
    ];
    let entries = events.into_iter().enumerate().map(|(n, event)| chain.append(&key, n as u64 * 1_000, 5, event));
    entries.map(|entry| Written { bytes: entry.bytes().to_vec(), content: cbor::encode(entry.content()) }).collect()
}

/// Two segments of one track, with a gap in the second.
fn segments() -> Vec<Signed<Segment>> {
    let mut chain = segment::Chain::new(session(), point(), node_key(1).id());
    let group = |seq: u64| segment::Group {
        seq,
        hash: Hash::of(&seq.to_be_bytes()),
        len: 5_000,
        frames: 60,
        t0_us: seq * 2_000_000,
        span_us: 1_966_667,
        epoch: 0,
        mac: Hash::of(b"words"),
    };
    let mut first = chain.begin(1_700_000_030_000);
    (0..2).for_each(|seq| first.list(track(), group(seq), session_key().commitment()));
    let mut signed = vec![chain.append(&node_key(1), first).expect("a good segment")];
    let mut last = chain.begin(1_700_000_060_000);
    last.miss(track(), 3, segment::Absence::NotStored);
    last.list(track(), group(4), session_key().commitment());
    last.last = true;
    signed.push(chain.append(&node_key(1), last).expect("a good segment"));
    signed
}

fn manifest() -> Signed<Manifest> {
    let track = TrackEnd { track: track(), next: 5, groups: 2, bytes: 10_000, missing: 1 };
    let last = segments()[1].hash();
    let chain = ChainEnd { point: point(), segments: 2, last, closed: true, tracks: vec![track] };
    let manifest = Manifest {
        session: session(),
        n: 0,
        prev: Hash::NONE,
        wall_ms: 1_700_000_600_000,
        head: Hash::of(&head().encode()),
        entries: 7,
        journal: Hash::of(b"entry 6"),
        chains: vec![chain],
    };
    Signed::new(manifest, &node_key(0))
}

fn countersignature() -> Signed<Countersignature> {
    let (manifest, last) = (manifest().hash(), segments()[1].hash());
    let by = Countersignature { session: session(), point: point(), n: 0, manifest, segments: 2, last, wall_ms: 9 };
    Signed::new(by, &node_key(1))
}

fn copies_messages() -> Vec<Vec<u8>> {
    let (session, manifest, holder) = (session(), manifest().hash(), node_key(2).id());
    let order = Assignment { session, manifest, holder, bytes: 5_000, senders: vec![node_key(0).id()], wall_ms: 9 };
    let record = Signed::new(order, &node_key(0)).bytes().clone();
    let receipt = Signed::new(Receipt { session, manifest, groups: 7, bytes: 5_000, wall_ms: 9 }, &node_key(2));
    let messages = [
        replica::Message::Offer { session, record: record.clone() },
        replica::Message::Holds { session, record: receipt.bytes().clone(), offers: 100 },
        replica::Message::Takes { session, offers: 100 },
        replica::Message::Resumes { session },
        replica::Message::Noted { session },
        replica::Message::Lacks { session },
        replica::Message::Order { session, record: record.clone() },
        replica::Message::Ask { session, record, part: replica::Part::Segments(point()), from: 70_000 },
        replica::Message::Piece { session, len: 3, bytes: vec![1, 2, 3].into() },
        replica::Message::refused(session, "vì sao"),
    ];
    messages.iter().map(|message| message.encode().to_vec()).collect()
}

fn recovery_messages() -> Vec<Vec<u8>> {
    let session = session();
    let messages = [
        recover::Message::List { after: Some(session) },
        recover::Message::Sessions {
            sessions: vec![recover::Known { session, record: Some(2), whole: true }],
            more: true,
        },
        recover::Message::Ask { session, part: replica::Part::Segments(point()), from: 70_000 },
        recover::Message::Ask { session, part: replica::Part::Receipts, from: 0 },
        recover::Message::Piece { session, len: 3, bytes: vec![1, 2, 3].into() },
        recover::Message::refused("vì sao"),
    ];
    messages.iter().map(|message| message.encode().to_vec()).collect()
}

fn evidence_messages() -> Vec<Vec<u8>> {
    let session = session();
    let record = segments().remove(0).bytes().clone();
    let messages = [
        evidence::Message::Segment { session, record },
        evidence::Message::Wants { session, next: 3 },
        evidence::Message::Manifest { session, record: manifest().bytes().clone() },
        evidence::Message::Countersigned { session, record: countersignature().bytes().clone() },
        evidence::Message::refused(session, "vì sao"),
    ];
    messages.iter().map(|message| message.encode().to_vec()).collect()
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

fn place(n: u8, name: &str) -> Point {
    Point {
        node: node_key(n).id(),
        wrap: WrapKey::from_bytes(&[n + 20; 32]).public(),
        name: name.to_owned(),
        level: "xã".to_owned(),
        zone: "3".to_owned(),
        rights: BTreeSet::from([Right::Chair, Right::Hold]),
        addresses: vec!["10.0.0.7:7400".to_owned()],
        replaces: None,
    }
}

fn roster() -> Roster {
    let gone = Revoked {
        node: node_key(9).id(),
        name: "Xã cũ".to_owned(),
        reason: "lost".to_owned(),
        unix_ms: 5,
        replaced_by: Some(node_key(1).id()),
    };
    Roster {
        number: 2,
        prev: Hash::of(b"the one before"),
        agency: "UBND tỉnh".to_owned(),
        recovery: wrap_key().public(),
        issued_unix_ms: 7,
        points: vec![place(0, "Trung tâm"), Point { replaces: Some(gone.node), ..place(1, "Xã Tân Phú") }],
        revoked: vec![gone],
        void: vec![GrantId::from_bytes([4; 16])],
    }
}

/// The authority's grant and an admission on it, whose code key is the fifth.
fn admission() -> (Signed<Grant>, Signed<Admission>) {
    let (code, node) = (node_key(5), node_key(6).id());
    let grant = Grant {
        id: GrantId::from_bytes([3; 16]),
        issuer: node_key(0).id(),
        name: "Xã mới".to_owned(),
        level: "xã".to_owned(),
        zone: String::new(),
        rights: BTreeSet::new(),
        replaces: None,
        key: code.id(),
        not_after_unix_ms: 1_000,
    };
    let wrap = WrapKey::from_bytes(&[60; 32]).public();
    let proof = Proof::new(&code, &grant.id, &node, &wrap);
    let grant = Signed::new(grant, &node_key(7));
    let admission = Admission { grant: grant.bytes().clone(), node, wrap, addresses: Vec::new(), proof, unix_ms: 900 };
    (grant, Signed::new(admission, &node_key(0)))
}

fn memberships() -> Vec<Vec<u8>> {
    let authority = node_key(7);
    let alone = Membership::new(Signed::new(roster(), &authority), &authority.id()).expect("its own roster");
    let mut with = alone.clone();
    with.merge_admission(admission().1).expect("a good admission");
    vec![alone.encode(), with.encode()]
}

/// One of each kind: signed, and what is signed.
fn signed() -> Vec<Vec<u8>> {
    fn both<T: Content>(record: &Signed<T>) -> [Vec<u8>; 2] {
        [record.bytes().to_vec(), cbor::encode(record.content())]
    }
    let (grant, admission) = admission();
    let place = place(3, "Xã xin vào");
    let request =
        Asked { wrap: place.wrap, name: place.name, level: place.level, zone: place.zone, addresses: place.addresses };
    let mut all: Vec<_> = journal().iter().flat_map(|entry| [entry.bytes.clone(), entry.content.clone()]).collect();
    all.extend(segments().iter().flat_map(both));
    all.extend(both(&manifest()));
    all.extend(both(&countersignature()));
    all.extend(both(&Signed::new(roster(), &node_key(7))));
    all.extend(both(&grant));
    all.extend(both(&admission));
    all.extend(both(&Signed::new(request, &node_key(3))));
    all
}

fn shares() -> Vec<Vec<u8>> {
    let shares = shares::split(&wrap_key(), 5, 3).expect("possible numbers");
    shares.iter().flat_map(|share| [share.to_text().as_bytes().to_vec(), share.to_line().as_bytes().to_vec()]).collect()
}

fn names() -> Vec<Vec<u8>> {
    let names = [
        node_key(0).id().to_string(),
        session().to_string(),
        Hash::of(b"x").to_string(),
        WrapPublic::from_bytes([3; 32]).to_string(),
        wrap().to_string(),
        NodeId::from_bytes([0xab; 32]).to_string().to_uppercase(),
        "10.1.2.3:7400".to_owned(),
        "[2001:db8::1]:7400".to_owned(),
        "xa-kim-thanh.example:7400".to_owned(),
        "pattern".to_owned(),
        "file:clip.mp4".to_owned(),
    ];
    names.into_iter().map(String::into_bytes).collect()
}

/// Every setting given its default.
fn uncommented() -> String {
    let lines = config::template();
    let settings =
        lines.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line));
    settings.collect::<Vec<_>>().join("\n")
}

fn requests() -> Vec<Vec<u8>> {
    let session = session().to_string();
    let requests = [
        Request::Status,
        Request::SessionStart { title: "Họp".to_owned(), points: vec!["Xã Tân Phú".to_owned()] },
        Request::SessionEnd { session: None },
        Request::SessionEnd { session: Some(session.clone()) },
        Request::SessionList,
        Request::SessionShow { session },
        Request::Checkpoint { to: "/tmp/x".into() },
        Request::Stats,
        Request::Scrubs,
        Request::ScrubNow { session: None },
        Request::Stop,
    ];
    requests.iter().map(|request| serde_json::to_vec(request).expect("text keys")).collect()
}

/// Three small pictures, the first of them a keyframe.
fn pictures() -> Vec<Frame> {
    let config = video::Config { width: 32, height: 32, fps: 10, bitrate: 16_000 };
    let mut encoder = video::Encoder::new(config).expect("possible settings");
    let picture = |n: u64| {
        let mut picture = Picture::black(32, 32, MediaTime(n * 100_000)).expect("an even size");
        picture.y[usize::try_from(n).expect("small") * 40] = 200;
        picture
    };
    (0..3).filter_map(|n| encoder.encode(&picture(n), n == 0).expect("a good picture")).collect()
}

fn sounds() -> Vec<Frame> {
    let mut encoder = audio::Encoder::new(audio::Config::VOICE).expect("possible settings");
    let samples = Samples { rate: 48_000, channels: 1, pcm: vec![0; 4_800], at: MediaTime::ZERO };
    encoder.encode(&samples).expect("good samples")
}

fn films() -> Vec<Vec<u8>> {
    let (pictures, sounds) = (pictures(), sounds());
    let mut whole = Writer::new(Cursor::new(Vec::new()), MediaTime::ZERO).expect("a file begins");
    pictures.iter().for_each(|frame| whole.video(frame).expect("a picture"));
    sounds.iter().for_each(|frame| whole.audio(frame).expect("a sound"));
    let (mut pieces, head) = Fragmenter::new(Some(&pictures[0]), true, MediaTime::ZERO).expect("it begins");
    let piece = pieces.fragment(&pictures, &sounds).expect("a piece");
    vec![whole.finish().expect("a file ends").into_inner(), [head.to_vec(), piece.to_vec()].concat()]
}

fn y4m() -> Vec<u8> {
    let picture = [&b"FRAME\n"[..], &[16; 16 * 16], &[128; 2 * 8 * 8]].concat();
    [&b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n"[..], &picture, &picture].concat()
}

fn wav(channels: u16, bits: u16) -> Vec<u8> {
    let width = channels * bits / 8;
    let sound = vec![1; usize::from(width) * 400];
    let format: Vec<u8> = [
        &1_u16.to_le_bytes()[..],
        &channels.to_le_bytes(),
        &8_000_u32.to_le_bytes(),
        &(8_000 * u32::from(width)).to_le_bytes(),
        &width.to_le_bytes(),
        &bits.to_le_bytes(),
    ]
    .concat();
    let chunk =
        |name: &[u8], body: &[u8]| [name, &u32::try_from(body.len()).expect("short").to_le_bytes(), body].concat();
    let body = [b"WAVE".to_vec(), chunk(b"fmt ", &format), chunk(b"data", &sound)].concat();
    chunk(b"RIFF", &body)
}
