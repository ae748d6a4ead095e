//! The transport of the media plane: TLS bound to node identities, and QUIC set for live media.
//!
//! The certificates are libp2p's (libp2p TLS specification): self-signed, carrying the node's Ed25519 key and its
//! signature over the certificate's key, so that a media connection proves the same identity as the mesh. libp2p's
//! own QUIC cannot be used, since it allows no unidirectional streams and hides priorities and congestion. Four things
//! of its TLS configuration are changed: the ALPN, which would say `libp2p`; the key log, which would write session
//! keys to the file `SSLKEYLOGFILE` names; on the server's side *any* valid peer passes, so the caller compares
//! `peer_of` with the roster before it reads a byte; and resumption is off, so that each connection proves itself.

use std::sync::Arc;
use std::time::Duration;

pub(super) use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionError, IdleTimeout, ServerConfig, TransportConfig, TransportErrorCode, VarInt,
};
use store::id::NodeId;

use crate::wire::media::{ALPN_COPY, ALPN_JOIN, ALPN_LIVE};

/// Nothing heard for so long, and the connection is dead. The room is told of silence much earlier, by our own clock
/// exchange.
const IDLE_MAX: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Bytes handed to the transport and not yet acknowledged. More would hide lateness from the fan-out: even this is 2 s
/// at 1 Mb/s, which is why pictures are paced before they get here.
const SEND_WINDOW: u64 = 384 * 1024;
/// Groups under way at once from one neighbour. A full limit is congestion, which the fan-out treats as such.
const GROUP_STREAMS: u32 = 128;
/// Fetches under way at once from one neighbour.
const FETCH_STREAMS: u32 = 4;

/// Newcomers that the door has not looked at yet, and what may be kept of what they send meanwhile. It looks at once.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES: u64 = 8 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;

/// What a connection is for; each has its own ALPN, congestion window and priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Live,
    Copy,
    /// The one purpose that is open to nodes outside the roster.
    Join,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Live, Purpose::Copy, Purpose::Join];

    const fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Live => ALPN_LIVE,
            Purpose::Copy => ALPN_COPY,
            Purpose::Join => ALPN_JOIN,
        }
    }
}

/// Why a connection's configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up from the node key: {0}")]
pub struct Error(String);

fn fault(error: impl std::fmt::Display) -> Error {
    Error(error.to_string())
}

/// Accepts every purpose. Who it is, is asked afterwards.
pub(super) fn server(keypair: &Keypair) -> Result<ServerConfig, Error> {
    let mut tls = libp2p_tls::make_server_config(keypair).map_err(fault)?;
    tls.alpn_protocols = Purpose::ALL.iter().map(|purpose| purpose.alpn().to_vec()).collect();
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(fault)?));
    // The purpose is known only after the handshake; fetch streams are then closed to live connections by hand.
    config.transport_config(Arc::new(transport(FETCH_STREAMS)));
    config
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

/// Connects to `peer` and to nobody else.
pub(super) fn client(keypair: &Keypair, peer: &NodeId, purpose: Purpose) -> Result<ClientConfig, Error> {
    connect(keypair, Some(peer), purpose)
}

/// Connects to whoever is there, to join. What it may believe of the other side is for the caller.
pub(super) fn visitor(keypair: &Keypair) -> Result<ClientConfig, Error> {
    connect(keypair, None, Purpose::Join)
}

fn connect(keypair: &Keypair, peer: Option<&NodeId>, purpose: Purpose) -> Result<ClientConfig, Error> {
    let expected = peer.map(crate::mesh::peer_id).transpose().map_err(fault)?;
    let mut tls = libp2p_tls::make_client_config(keypair, expected).map_err(fault)?;
    tls.alpn_protocols = vec![purpose.alpn().to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(fault)?));
    config.transport_config(Arc::new(transport(match purpose {
        Purpose::Live | Purpose::Join => 0,
        Purpose::Copy => FETCH_STREAMS,
    })));
    Ok(config)
}

/// The proven identity and the purpose of a connection, or `None` when it has neither.
pub(super) fn peer_of(connection: &Connection) -> Option<(NodeId, Purpose)> {
    let chain = connection.peer_identity()?.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    let certificate = libp2p_tls::certificate::parse(chain.first()?).ok()?;
    let node = crate::mesh::node_id(&certificate.peer_id())?;
    let handshake = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    let purpose = Purpose::ALL.into_iter().find(|purpose| handshake.protocol.as_deref() == Some(purpose.alpn()))?;
    Some((node, purpose))
}

/// Whether a handshake failed over the certificate that the other side showed or did not show. Then it has answered us, so
/// its address is its own.
pub(super) fn is_unproved(error: &ConnectionError) -> bool {
    /// Bad, unsupported, revoked, expired, unknown certificates, of an unknown authority, without access, with a wrong
    /// signature, and none (RFC 8446 6.2), as QUIC carries them (RFC 9001 4.8).
    const ALERTS: [u8; 9] = [42, 43, 44, 45, 46, 48, 49, 51, 116];
    let ConnectionError::TransportError(error) = error else { return false };
    ALERTS.into_iter().any(|alert| error.code == TransportErrorCode::crypto(alert))
}

/// QUIC as live media needs it. CUBIC is only the fuse: the fan-out stays below what the line carries.
fn transport(bidirectional: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(bidirectional))
        .max_concurrent_uni_streams(VarInt::from_u32(GROUP_STREAMS))
        .stream_receive_window(VarInt::from_u32(1 << 20))
        .receive_window(VarInt::from_u32(8 << 20))
        .send_window(SEND_WINDOW)
        .send_fairness(true)
        .initial_mtu(1200)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX.as_millis() as u32))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(quinn::congestion::CubicConfig::default()));
    config
}
