//! Strangers, and points that do not keep the rules: they get nowhere, and nobody else notices.

use super::*;
use crate::media::Stranger;
use crate::media::tls::{self, Purpose};
use crate::wire::media::{self as wire, Close, FetchRequest, Message, STREAM_GROUP};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, VarInt};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

/// A talking pair beside which somebody misbehaves: central, a listener, and the events of both.
pub(super) struct Scene {
    pub(super) central: Node,
    heard: Arc<Mutex<Heard>>,
    _delegate: Media,
}

pub(super) const STRANGER: u16 = 99;
/// The first of the points that misbehave; the others follow.
pub(super) const HOSTILE: u16 = 2;
const POINTS: u16 = 12;

pub(super) async fn scene() -> Scene {
    let mut central = Node::start(0, POINTS);
    let mut delegate = Node::start(1, POINTS);
    delegate.media.dial(key(0).id(), vec![central.addr()]);
    delegate.until_up(key(0).id()).await;
    central.until_up(key(1).id()).await;
    central.media.announce(session_id(), vec![track(0, TrackKind::Audio)]);
    delegate.media.subscribe(session_id(), track(0, TrackKind::Audio), 6);
    central.until("wish", |event| matches!(event, Event::Wanted { wanted: true, .. }).then_some(())).await;
    // Central would take sound from the hostile points, if it were any.
    for number in HOSTILE..POINTS {
        central.media.subscribe(session_id(), track(number, TrackKind::Audio), 6);
    }
    let (heard, _) = listen(delegate.events);
    Scene { central, heard, _delegate: delegate.media }
}

impl Scene {
    /// Lets two seconds of sound pass while `attack` goes on, and shows that none of it was harmed.
    pub(super) async fn undisturbed<T>(&self, seq: u64, attack: impl Future<Output = T>) -> T {
        let offer = Offer::sound(Duration::from_secs(2));
        let published = Published::default();
        let talk =
            talk(self.central.media.clone(), Arc::clone(&self.central.kept), 0, seq, offer, Arc::clone(&published));
        let (result, ()) = tokio::join!(attack, talk);
        let whole = || self.heard.lock().expect("no panic").whole.contains(&(TrackKind::Audio, seq));
        eventually("the honest hear everything", whole).await;
        result
    }
}

pub(super) async fn connect(address: SocketAddr, number: u16, purpose: Purpose) -> Result<Connection, ConnectionError> {
    let client = tls::client(&crate::mesh::keypair(&key(number)), &key(0).id(), purpose).expect("keys");
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    endpoint.connect_with(client, address, "x").expect("valid").await
}

/// A connection of a point that takes part, with its control stream.
pub(super) async fn hostile(address: SocketAddr, number: u16) -> (Connection, quinn::SendStream) {
    let connection = connect(address, number, Purpose::Live).await.expect("a point may connect");
    let (mut control, _) = connection.open_bi().await.expect("a stream");
    control.write_all(&wire::encode(&Message::Clock { sent: 1 }).expect("small")).await.expect("connected");
    (connection, control)
}

/// Ended by the far side. It says why, unless its window towards us is full at that moment: quinn holds the close back
/// then, as if it were data, and a stateless reset (RFC 9000, 10.3) ends the connection a little later.
pub(super) fn turned_out(error: &ConnectionError) -> bool {
    closed_with(error, Close::Malformed) || closed_with(error, Close::Silent) || matches!(error, ConnectionError::Reset)
}

pub(super) fn closed_with(error: &ConnectionError, code: Close) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(code as u32))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_turned_away_and_told_nothing() {
    let mut scene = scene().await;
    let address = scene.central.addr();
    let attack = async {
        for purpose in [Purpose::Live, Purpose::Copy] {
            let connection = connect(address, STRANGER, purpose).await.expect("the handshake itself is open to all");
            // Whatever it sends, it hears of nothing but the end.
            let error = loop {
                tokio::select! {
                    stream = connection.accept_uni() => if let Err(error) = stream { break error },
                    stream = connection.accept_bi() => if let Err(error) = stream { break error },
                }
            };
            assert!(closed_with(&error, Close::Stranger), "{error}");
            assert_eq!(connection.stats().frame_rx.stream, 0, "no byte of ours reached the stranger");
        }
    };
    scene.undisturbed(0, attack).await;
    for _ in 0..2 {
        assert_eq!(turned_away(&mut scene.central).await, Stranger::Proved(key(STRANGER).id()));
    }
}

/// Who was turned away at a node's door.
async fn turned_away(node: &mut Node) -> Stranger {
    let (who, from) = node
        .until("stranger", |event| if let Event::Stranger { who, from } = event { Some((who, from)) } else { None })
        .await;
    assert_eq!(from, Ipv4Addr::LOCALHOST);
    who
}

/// What a client shows of itself: nothing, or a certificate whose key it does not have.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_or_anothers_is_turned_away() {
    let mut node = Node::start(0, 2);
    let member = crate::mesh::keypair(&key(1));
    let mut client = libp2p_tls::make_client_config(&member, None).expect("keys");
    client.alpn_protocols = vec![wire::ALPN_LIVE.to_vec()];
    // Certificates are public: anybody who was called by a member has seen one.
    let (certificate, _) = libp2p_tls::certificate::generate(&member).expect("keys");
    let (_, own) = libp2p_tls::certificate::generate(&crate::mesh::keypair(&key(STRANGER))).expect("keys");
    let own = client.crypto_provider().key_provider.load_private_key(own).expect("a good key");
    let stolen = CertifiedKey::new(vec![certificate], own);
    for shown in [None, Some(Arc::new(stolen))] {
        client.client_auth_cert_resolver = Arc::new(Shown(shown));
        let config = QuicClientConfig::try_from(client.clone()).expect("TLS 1.3");
        let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connecting = endpoint.connect_with(config, node.addr(), "x").expect("valid");
        // In TLS 1.3 a client is done before its certificate was looked at.
        if let Ok(connection) = connecting.await {
            connection.closed().await;
        }
        assert_eq!(turned_away(&mut node).await, Stranger::Unproved);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pretends_to_be_central_is_found_out() {
    let node = Node::start(0, 2);
    // The address of a node, and the key of another: the certificate does not fit.
    let client = tls::client(&crate::mesh::keypair(&key(1)), &key(7).id(), Purpose::Live).expect("keys");
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    assert!(endpoint.connect_with(client, node.addr(), "x").expect("valid").await.is_err());
}

/// One way to break the rules on a stream of groups.
async fn send_group(connection: &Connection, bytes: &[u8]) {
    let mut stream = connection.open_uni().await.expect("a stream");
    // The far side may have closed already, which is what is wanted.
    let _ = stream.write_all(bytes).await;
    let _ = stream.finish();
}

pub(super) fn group_of(point: u16, seq: u64) -> Vec<u8> {
    let track = track(point, TrackKind::Audio);
    let sealer = Sealer::new(
        &SessionKey::generate(),
        Suite::default(),
        session_id(),
        key(point).id(),
        track,
        0,
        Start::random(),
    );
    let (mut writer, head) = record::Writer::new(sealer, seq, 0);
    let frame = writer.frame(0, Flags { key: true, ..Flags::default() }, &[0x5a; 100]).expect("within limits");
    let end = writer.finish().end.encode();
    [&[STREAM_GROUP][..], &head, &frame, &end].concat()
}

/// What a hostile point writes, and where.
enum Attack {
    Stream(Vec<u8>),
    Control(Vec<u8>),
    Fetch(Vec<u8>),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_kind_of_stream_ends_the_connection_it_came_on() {
    let mut scene = scene().await;
    let address = scene.central.addr();
    let mut damaged = group_of(HOSTILE + 4, 50);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let clock = wire::encode(&Message::Clock { sent: 1 }).expect("small");
    let attacks = [
        ("a kind of stream that does not exist", Attack::Stream(vec![0x77; 100])),
        ("noise for a group", Attack::Stream([&[STREAM_GROUP][..], &[0xa5; 4000]].concat())),
        ("a group in another's name", Attack::Stream(group_of(1, 51))),
        ("central's own group sent back to it", Attack::Stream(group_of(0, 51))),
        ("a group whose hash is wrong", Attack::Stream(damaged)),
        ("noise on the control stream", Attack::Control(vec![0x10; 5000])),
        ("a control message that is too long", Attack::Control(vec![0xff; 70_000])),
        ("a flood of control messages", Attack::Control(clock.repeat(20_000))),
        ("noise for a fetch", Attack::Fetch(vec![0x00, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
    ];
    let count = attacks.len();
    let all = futures::future::join_all(
        attacks
            .into_iter()
            .zip(HOSTILE..)
            .map(|((what, attack), number)| async move { (what, misbehave(address, number, attack).await) }),
    );
    for (what, error) in scene.undisturbed(0, all).await {
        assert!(turned_out(&error), "{what}: {error}");
    }
    let mut reported = BTreeSet::new();
    // A fetch is not worth an event, as its connection carries nothing else; and who floods us may be cut off for not
    // reading the answers before the flood is noticed.
    while reported.len() < count - 2 {
        let refused = |event| if let Event::Refused { node, .. } = event { Some(node) } else { None };
        reported.insert(scene.central.until("report", refused).await);
    }
}

/// How the connection of one that misbehaves ends.
async fn misbehave(address: SocketAddr, number: u16, attack: Attack) -> ConnectionError {
    // The far side may have closed before all was written, which is what is wanted.
    match attack {
        Attack::Stream(bytes) => {
            let (connection, _control) = hostile(address, number).await;
            send_group(&connection, &bytes).await;
            connection.closed().await
        }
        Attack::Control(bytes) => {
            let (connection, mut control) = hostile(address, number).await;
            let _ = control.write_all(&bytes).await;
            connection.closed().await
        }
        Attack::Fetch(bytes) => {
            let connection = connect(address, number, Purpose::Copy).await.expect("a point may connect");
            let (mut stream, _answer) = connection.open_bi().await.expect("a stream");
            let _ = stream.write_all(&bytes).await;
            connection.closed().await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_group_never_looks_whole() {
    let mut scene = scene().await;
    let (connection, _control) = hostile(scene.central.addr(), HOSTILE).await;
    let bytes = group_of(HOSTILE, 60);
    // All but the end record, and then the stream finishes as if that were all.
    send_group(&connection, &bytes[..bytes.len() - record::End::LEN]).await;
    let mut reader =
        scene.central.until("group", |event| if let Event::Group(reader) = event { Some(reader) } else { None }).await;
    let last = loop {
        match reader.next().await {
            live::Item::Chunk(_) => {}
            item => break item,
        }
    };
    assert_eq!(last, live::Item::Broken { left_out: false });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_group_is_not_taken_twice() {
    let mut scene = scene().await;
    let (connection, _control) = hostile(scene.central.addr(), HOSTILE).await;
    let bytes = group_of(HOSTILE, 61);
    send_group(&connection, &bytes).await;
    let first = |event| if let Event::Group(reader) = event { Some(reader.header().seq) } else { None };
    assert_eq!(scene.central.until("group", first).await, 61);
    send_group(&connection, &bytes).await;
    send_group(&connection, &group_of(HOSTILE, 62)).await;
    assert_eq!(scene.central.until("group", first).await, 62, "the repetition was passed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_for_a_session_one_is_not_in_brings_nothing() {
    let scene = scene().await;
    let connection = connect(scene.central.addr(), HOSTILE, Purpose::Copy).await.expect("a point may connect");
    let (mut stream, mut answer) = connection.open_bi().await.expect("a stream");
    let other = SessionId::from_bytes([8; 16]);
    let request = FetchRequest { session: other, track: track(0, TrackKind::Audio), from: 0, to: 5, len_max: 1000 };
    stream.write_all(&wire::encode(&request).expect("small")).await.expect("connected");
    stream.finish().expect("open");
    assert!(answer.read_to_end(1000).await.is_err(), "the stream is reset");
    assert!(connection.close_reason().is_none(), "the session may just have ended: no punishment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_opened_and_never_used_block_only_their_owner() {
    let scene = scene().await;
    let (connection, _control) = hostile(scene.central.addr(), HOSTILE).await;
    let attack = async {
        let mut held = Vec::new();
        // As many as the transport admits; the next would wait.
        while let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await {
            let _ = stream.write_all(&[STREAM_GROUP]).await;
            held.push(stream);
        }
        held.len()
    };
    let opened = scene.undisturbed(0, attack).await;
    assert!(opened <= 128, "{opened} streams at once");
}
