//! The libp2p protocols of a node and their limits.
//!
//! The allow-list comes first among them: a connection whose key is not in the roster ends right after the handshake,
//! before identify, Kademlia or anything of ours has said a word on it. A stranger learns the node's public key, which
//! the handshake itself needs, and nothing else.

use std::io;
use std::time::Duration;

use libp2p::allow_block_list::{self, AllowedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, Swarm, identify, mdns, noise, ping, swarm, tcp, yamux};

use super::codec::Codec;
use super::door::{Guarded, Porter};
use super::quic::{self, Quic};
use super::{MESSAGE_BYTES_MAX, hello};

/// Requests of one point in work at once, each way.
pub(super) const REQUESTS_MAX: usize = 32;
/// A request without an answer has failed. Three times what a bad line with a full queue takes.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Two lost in a row are noticed within [`PING_TIMEOUT`]; the picture has its own, faster heartbeat.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes in work that we began.
const PENDING_OUT_MAX: u32 = 256;
/// Two points may call each other at once over two protocols; more connections than this are of no use.
pub(super) const PER_POINT_MAX: u32 = 6;
/// Streams of one connection. Requests go both ways, and Kademlia, identify and ping need a few. Over TCP each may hold
/// 256 KiB that we have not read yet.
const STREAMS_MAX: usize = 3 * REQUESTS_MAX;
/// What a QUIC stream and connection may hold that we have not read yet.
const STREAM_BYTES_MAX: u32 = 256 * 1024;
const CONNECTION_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// A handshake that we began takes four round trips at most; who needs longer is not there. Those that others began are
/// bounded at the door.
const HANDSHAKE_MAX: Duration = Duration::from_secs(8);
/// How often the local network is asked who is there, beside what newcomers say of themselves.
const MDNS_INTERVAL: Duration = Duration::from_secs(30);
/// How long a multicast answer is believed without being repeated.
const MDNS_TTL: Duration = Duration::from_secs(120);

/// Carries greetings of all versions; see `hello.rs`.
pub(super) const HELLO: StreamProtocol = StreamProtocol::new("/diemcau/hello");
/// Carries requests between points of the same version.
const ASK: StreamProtocol = StreamProtocol::new("/diemcau/ask/1");
const KAD: StreamProtocol = StreamProtocol::new("/diemcau/kad/1");

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) allowed: allow_block_list::Behaviour<AllowedPeers>,
    limits: connection_limits::Behaviour,
    pub(super) hello: request_response::Behaviour<Codec>,
    pub(super) ask: request_response::Behaviour<Codec>,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// A swarm that talks to `members` only and does not listen yet; strangers meet `porter` first.
pub(super) fn swarm(
    keypair: &Keypair,
    members: impl IntoIterator<Item = PeerId>,
    multicast: bool,
    porter: Porter,
) -> io::Result<Swarm<Behaviour>> {
    let transport = transport(keypair, porter)?;
    let behaviour = Behaviour::new(keypair, members, multicast);
    // Points stay connected whether or not they have something to say; ping finds the dead ones.
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::MAX);
    Ok(Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config))
}

/// QUIC and TCP, both behind the door.
pub(super) fn transport(keypair: &Keypair, porter: Porter) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let mut streams = yamux::Config::default();
    streams.set_max_num_streams(STREAMS_MAX);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).map_err(io::Error::other)?)
        .multiplex(streams)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let limits = quic::Limits {
        streams_max: STREAMS_MAX as u32,
        stream_bytes_max: STREAM_BYTES_MAX,
        connection_bytes_max: CONNECTION_BYTES_MAX,
    };
    let quic = Quic::new(keypair, limits, porter.clone())?;
    let both = quic.or_transport(Guarded::new(tcp, porter)).map(|either, _| either.into_inner()).boxed();
    Ok(TransportTimeout::with_outgoing_timeout(both, HANDSHAKE_MAX).boxed())
}

impl Behaviour {
    fn new(keypair: &Keypair, members: impl IntoIterator<Item = PeerId>, multicast: bool) -> Self {
        let own = keypair.public().to_peer_id();
        let mut allowed = allow_block_list::Behaviour::default();
        for member in members {
            allowed.allow_peer(member);
        }
        let limits = ConnectionLimits::default()
            .with_max_pending_outgoing(Some(PENDING_OUT_MAX))
            .with_max_established_per_peer(Some(PER_POINT_MAX));
        let exchange = |protocol, bytes_max| {
            let config = request_response::Config::default()
                .with_request_timeout(ANSWER_MAX)
                .with_max_concurrent_streams(2 * REQUESTS_MAX);
            request_response::Behaviour::with_codec(Codec { bytes_max }, [(protocol, ProtocolSupport::Full)], config)
        };
        let mdns = mdns::Config { ttl: MDNS_TTL, query_interval: MDNS_INTERVAL, enable_ipv6: false };
        let mdns = match multicast.then(|| mdns::tokio::Behaviour::new(mdns, own)).transpose() {
            Ok(mdns) => mdns,
            Err(error) => {
                tracing::warn!(%error, "points are not found by multicast here: give addresses in mesh.peers");
                None
            }
        };
        Self {
            allowed,
            limits: connection_limits::Behaviour::new(limits),
            hello: exchange(HELLO, hello::BYTES_MAX),
            ask: exchange(ASK, MESSAGE_BYTES_MAX),
            kad: kad(own),
            identify: identify::Behaviour::new(
                // No cache: it would offer addresses for dialling that nobody looked at.
                identify::Config::new("diemcau/1".to_owned(), keypair.public())
                    .with_agent_version(format!("diemcau/{}", env!("CARGO_PKG_VERSION")))
                    .with_push_listen_addr_updates(true)
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
            mdns: mdns.into(),
        }
    }
}

/// Kademlia as a directory of addresses only: what others want to store here is dropped.
fn kad(own: PeerId) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(KAD);
    config.set_record_filtering(kad::StoreInserts::FilterBoth).set_caching(kad::Caching::Disabled);
    config.set_query_timeout(2 * ANSWER_MAX);
    let mut kad = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}
