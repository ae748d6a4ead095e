//! Strangers, and points that do not keep the rules of any protocol we speak: they get nowhere, hold nothing for long, and
//! the others talk on. The hostile side is libp2p's transports with nothing behind them, and raw sockets.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, identity, ping, request_response};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::*;

/// All that a point speaks: ours, and libp2p's.
const PROTOCOLS: [&str; 6] =
    ["/diemcau/hello", "/diemcau/ask/1", "/diemcau/kad/1", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"];

/// A connection on which only this test speaks.
struct Raw {
    streams: mpsc::Sender<oneshot::Sender<SubstreamBox>>,
    driven: JoinHandle<()>,
}

impl Raw {
    async fn connect(
        key: &identity::Keypair,
        to: SocketAddr,
        over: fn(SocketAddr) -> libp2p::Multiaddr,
    ) -> Option<Raw> {
        let mut transport = behaviour::transport(key, door::Porter::new()).expect("keys");
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dialled = transport.dial(over(to), options).expect("a good address").await;
        let (_, muxer): (PeerId, StreamMuxerBox) = dialled.ok()?;
        let (streams, wishes) = mpsc::channel(1);
        Some(Raw { streams, driven: tokio::spawn(drive(muxer, wishes)) })
    }

    async fn stream(&self) -> Option<SubstreamBox> {
        let (stream, opened) = oneshot::channel();
        self.streams.send(stream).await.ok()?;
        opened.await.ok()
    }

    /// A stream of this protocol, agreed on or not.
    async fn speaking(&self, protocol: &str) -> Option<SubstreamBox> {
        let mut stream = self.stream().await?;
        let mut words = Vec::new();
        for line in ["/multistream/1.0.0", protocol] {
            // Lengths below 128 are one byte of a varint.
            words.push(u8::try_from(line.len() + 1).expect("a short line"));
            words.extend([line.as_bytes(), b"\n"].concat());
        }
        stream.write_all(&words).await.ok()?;
        stream.flush().await.ok()?;
        Some(stream)
    }
}

/// Moves a connection on to its end. Streams that the other side opens are held and not answered.
async fn drive(mut muxer: StreamMuxerBox, mut wishes: mpsc::Receiver<oneshot::Sender<SubstreamBox>>) {
    let (mut wish, mut held) = (None, Vec::new());
    poll_fn(|context| {
        loop {
            if let Poll::Ready(Err(_)) = muxer.poll_unpin(context) {
                return Poll::Ready(());
            }
            match muxer.poll_inbound_unpin(context) {
                Poll::Ready(Ok(stream)) => {
                    held.push(stream);
                    continue;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if wish.is_none() {
                match wishes.poll_recv(context) {
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(some) => wish = some,
                    Poll::Pending => return Poll::Pending,
                }
            }
            match muxer.poll_outbound_unpin(context) {
                Poll::Ready(Ok(stream)) => {
                    if let Some(wish) = wish.take() {
                        let _: Result<(), SubstreamBox> = oneshot::Sender::send(wish, stream);
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Two points that talk, and the keys of a third that does not keep the rules.
struct Scene {
    central: Mesh,
    hostile: NodeKey,
    /// Asks central without a pause until told to stop; then how often, and what the longest answer took.
    talk: JoinHandle<(u32, Duration)>,
    stop: oneshot::Sender<()>,
}

impl Scene {
    async fn new() -> Scene {
        let keys = [(); 3].map(|()| NodeKey::generate());
        let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
        let [first, second, hostile] = keys;
        let mut central = start(&first, &ids, vec![]);
        let mut honest = start(&second, &ids, vec![central.address()]);
        central.meets(vec![ids[1]]).await;
        honest.meets(vec![ids[0]]).await;
        let (central, (stop, mut stopped)) = (echo(central), oneshot::channel());
        let to = ids[0];
        let talk = tokio::spawn(async move {
            let (mut asked, mut longest) = (0, Duration::ZERO);
            while asked < 20 || stopped.try_recv().is_err() {
                let begun = Instant::now();
                let answer = honest.mesh.ask(to, Bytes::from_static(b"ab")).await;
                assert_eq!(answer.expect("an honest question is answered"), "abab");
                (asked, longest) = (asked + 1, longest.max(begun.elapsed()));
                sleep(Duration::from_millis(5)).await;
            }
            (asked, longest)
        });
        Scene { central, hostile, talk, stop }
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.central.port())
    }

    /// Nothing of the hostile point is left, and the honest one was answered all the time.
    async fn ends_well(self) {
        eventually(|| self.central.peers()[&self.hostile.id()].addresses.is_empty()).await;
        let _ = self.stop.send(());
        let (asked, longest) = self.talk.await.expect("no panic");
        println!("{asked} questions answered meanwhile, the longest in {longest:?}");
        assert!(longest < Duration::from_secs(2), "{asked} answers, the longest in {longest:?}");
    }
}

/// What a hostile point does with a stream that it opened for a protocol.
const ATTACKS: [&str; 5] = ["noise", "cut short", "too long", "a byte and then nothing", "a hundred streams"];

async fn attack(raw: &Raw, how: &str, protocol: &str) -> Vec<SubstreamBox> {
    let count = if how == "a hundred streams" { 100 } else { 1 };
    let mut held = Vec::new();
    for n in 0..count {
        // The connection may be at its limit of streams, or over: both are what is wanted.
        let Ok(Some(mut stream)) = timeout(Duration::from_millis(500), raw.speaking(protocol)).await else { break };
        let noise: Vec<u8> = (0..20_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let long = [&[0xff, 0xff, 0xff, 0xff][..], &vec![0x61; 300_000]].concat();
        let bytes: &[u8] = match how {
            "noise" => &noise,
            "cut short" => &[0, 0, 0, 9, 1, 2],
            "too long" => &long,
            _ => &[0],
        };
        let _ = timeout(Duration::from_millis(500), async {
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            if how == "cut short" {
                let _ = stream.close().await;
            }
        })
        .await;
        if n == 0 && how != "a byte and then nothing" && how != "a hundred streams" {
            // Whatever is answered ends, and is short.
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_millis(500), (&mut stream).take(1 << 20).read_to_end(&mut answer)).await;
            // A ping is sent back as it came, and identify says who we are.
            let worth = answer.len();
            assert!(worth < bytes.len() + 4096, "{how} on {protocol} is worth {worth} bytes");
        }
        held.push(stream);
    }
    held
}

async fn a_hostile_point(over: fn(SocketAddr) -> libp2p::Multiaddr) {
    let scene = Scene::new().await;
    let key = keypair(&scene.hostile);
    for how in ATTACKS {
        let raw = Raw::connect(&key, scene.at(), over).await.expect("a point may connect");
        let begun = Instant::now();
        let mut held = Vec::new();
        for protocol in PROTOCOLS {
            held.extend(attack(&raw, how, protocol).await);
        }
        // It answers no ping, so it is not kept for longer than silence may last, whatever it sends.
        timeout(Duration::from_secs(10), raw.driven).await.expect("cut off in time").expect("no panic");
        println!("{how}: {} streams, cut off after {:?}", held.len(), begun.elapsed());
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_a_point_that_breaks_every_protocol_is_not_felt() {
    a_hostile_point(peer::tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_quic_a_point_that_breaks_every_protocol_is_not_felt() {
    a_hostile_point(peer::quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_has_few_connections_however_many_it_makes() {
    let scene = Scene::new().await;
    let key = keypair(&scene.hostile);
    let mut held = Vec::new();
    for n in 0..24 {
        let over = if n % 2 == 0 { peer::tcp } else { peer::quic };
        held.extend(Raw::connect(&key, scene.at(), over).await);
        let of = scene.central.peers()[&scene.hostile.id()].addresses.len();
        assert!(of <= behaviour::PER_POINT_MAX as usize, "{of} connections");
    }
    // Over both transports a handshake is over for the caller before it is for us: those beyond the limit end at once.
    let live = || held.iter().filter(|raw| !raw.driven.is_finished()).count();
    eventually(|| live() <= behaviour::PER_POINT_MAX as usize).await;
    drop(held);
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_can_open_no_stream_and_is_cut_off_at_once() {
    let scene = Scene::new().await;
    for over in [peer::tcp, peer::quic] {
        for protocol in PROTOCOLS {
            let key = keypair(&NodeKey::generate());
            // Over TCP the end may come before the stranger knows that the handshake went well.
            let Some(raw) = Raw::connect(&key, scene.at(), over).await else { continue };
            let told = async {
                let mut stream = raw.speaking(protocol).await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.ok()?;
                Some(answer)
            };
            let told = timeout(PATIENCE, told).await.expect("an end").unwrap_or_default();
            assert!(told.is_empty(), "a stranger is told {told:?}");
            timeout(Duration::from_secs(2), raw.driven).await.expect("cut off at once").expect("no panic");
        }
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_does_not_finish_is_not_waited_for() {
    let scene = Scene::new().await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for n in 0_u8..20 {
        let mut stream = TcpStream::connect(scene.at()).await.expect("the kernel takes it");
        // Nothing, the beginning of a word, another protocol.
        let words: [&[u8]; 3] = [b"", b"\x13/multi", b"GET / HTTP/1.1\r\n\r\n"];
        tokio::io::AsyncWriteExt::write_all(&mut stream, words[usize::from(n) % 3]).await.expect("connected");
        silent.push(stream);
    }
    let noise = UdpSocket::bind((LOOPBACK, 0)).await.expect("a socket");
    for n in 0_u16..1_000 {
        // Long headers of QUIC, short ones, and nothing like it.
        let datagram: Vec<u8> = (0..1200).map(|at: u16| (at.wrapping_mul(n | 1) >> 3) as u8).collect();
        let _ = noise.send_to(&datagram, scene.at()).await;
    }
    for mut stream in silent {
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.expect("an end");
    }
    // A known address has eight seconds, because a member on a bad line needs them.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    scene.ends_well().await;
}

/// As much of a point as another program must be, so that it is not taken for dead.
#[derive(NetworkBehaviour)]
struct Another {
    hello: request_response::Behaviour<codec::Codec>,
    ping: ping::Behaviour,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_libp2p_program_reaches_us_over_quic() {
    let keys = [(); 2].map(|()| NodeKey::generate());
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let mut point = start(&keys[0], &ids, vec![]);
    // libp2p's own QUIC, with our protocols on top.
    let key = keypair(&keys[1]);
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_quic()
        .with_behaviour(|_| {
            let config = request_response::Config::default();
            let greeting = (behaviour::HELLO, request_response::ProtocolSupport::Full);
            let codec = codec::Codec { bytes_max: hello::BYTES_MAX };
            let hello = request_response::Behaviour::with_codec(codec, [greeting], config);
            Another { hello, ping: ping::Behaviour::default() }
        })
        .expect("a behaviour")
        .build();
    swarm.dial(peer::quic(SocketAddr::new(LOOPBACK, point.mesh.port()))).expect("a good address");
    let hello = hello::Hello {
        version: hello::VERSION,
        program: "another".into(),
        name: "Xã Tân Phú".into(),
        media_port: 7500,
        addresses: vec![],
        mesh_port: 0,
    };
    let greeting = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    swarm.behaviour_mut().hello.send_request(&peer_id, hello.encode().into());
                }
                SwarmEvent::Behaviour(AnotherEvent::Hello(Exchange::Message {
                    message: Message::Request { channel, .. },
                    ..
                })) => {
                    let _ = swarm.behaviour_mut().hello.send_response(channel, hello.encode().into());
                }
                SwarmEvent::Behaviour(AnotherEvent::Hello(Exchange::Message {
                    message: Message::Response { response, .. },
                    ..
                })) => {
                    return hello::Hello::decode(&response).expect("a greeting");
                }
                SwarmEvent::Behaviour(AnotherEvent::Hello(Exchange::OutboundFailure { error, .. })) => {
                    panic!("{error}")
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
                _ => {}
            }
        }
    };
    assert_eq!(timeout(PATIENCE, greeting).await.expect("an answer in time").media_port, 7500);
    point.meets(vec![ids[1]]).await;
}
