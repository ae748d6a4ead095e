//! QUIC for libp2p, with the door (`engine/door.rs`) in front of it.
//!
//! libp2p's own QUIC transport takes every first packet: it makes a connection, signs an answer, and when we then want
//! nothing to do with it, keeps what is left of the connection for three seconds, as QUIC asks (RFC 9000 10.2). A thousand
//! forged packets a second were more than 100 MiB at any time. It also has no way to ask an address for proof first. Here
//! nothing is made for a first packet before the door has said yes, and the door may ask. On the wire nothing
//! differs: the certificates, the protocol name and what a stream is are those of the libp2p specifications.
//!
//! An address like 0.0.0.0 is not reported as one to be reached at: TCP listens on the same port and reports those of
//! every interface, and whoever learns a port of ours by one protocol tries it by both.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{BoxFuture, pending};
use futures::{AsyncRead, AsyncWrite, FutureExt, ready};
use libp2p::PeerId;
use libp2p::core::Endpoint as Role;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::identity::Keypair;
use libp2p::multiaddr::{Multiaddr, Protocol};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};

use super::door::{Admission, Place, Porter, TURNED_AWAY_MAX, shake_hands};
use super::peer::{quic, socket};
use crate::engine::door::Proof;

/// Nothing heard for so long, and the connection is dead. Pings notice that before.
const IDLE_MAX: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Newcomers that the door has not looked at yet, and what may be kept of what they send meanwhile. It looks at once.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES: u64 = 8 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;
/// The name that TLS wants. It is not looked at: the certificate carries a key instead.
const NAME: &str = "diemcau.invalid";

/// What a connection may hold that we have not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Streams that the other side may have open.
    pub(super) streams_max: u32,
    /// Of one stream.
    pub(super) stream_bytes_max: u32,
    /// Of all together.
    pub(super) connection_bytes_max: u32,
}

/// The transport.
pub(super) struct Quic {
    server: ServerConfig,
    client: ClientConfig,
    porter: Porter,
    listeners: Vec<Listener>,
    /// For calls that cannot go out from where we listen: one for each family of addresses.
    callers: [Option<Endpoint>; 2],
    events: VecDeque<TransportEvent<Upgrade, io::Error>>,
    waker: Option<Waker>,
}

type Connected = (PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, io::Result<Connected>>;

struct Listener {
    id: ListenerId,
    at: SocketAddr,
    endpoint: Endpoint,
    next: BoxFuture<'static, Option<Incoming>>,
}

impl Quic {
    pub(super) fn new(keypair: &Keypair, limits: Limits, porter: Porter) -> io::Result<Self> {
        let transport = Arc::new(transport(limits));
        Ok(Self {
            server: server(keypair, Arc::clone(&transport))?,
            client: client(keypair, transport)?,
            porter,
            listeners: Vec::new(),
            callers: [None, None],
            events: VecDeque::new(),
            waker: None,
        })
    }

    /// Where a call to `to` goes out from: our own port if it can be reached from there, as that is where we are known to be.
    fn caller(&mut self, to: SocketAddr) -> io::Result<Endpoint> {
        let reaches = |at: &SocketAddr| {
            at.is_ipv4() == to.is_ipv4() && (at.ip().is_unspecified() || at.ip().is_loopback() == to.ip().is_loopback())
        };
        if let Some(listener) = self.listeners.iter().find(|listener| reaches(&listener.at)) {
            return Ok(listener.endpoint.clone());
        }
        let caller = &mut self.callers[usize::from(to.is_ipv6())];
        if let Some(endpoint) = caller {
            return Ok(endpoint.clone());
        }
        let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let endpoint = Endpoint::new(EndpointConfig::default(), None, bind(SocketAddr::new(any, 0))?, runtime())?;
        Ok(caller.insert(endpoint).clone())
    }
}

impl Transport for Quic {
    type Output = Connected;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let at = supported(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        let server = Some(self.server.clone());
        let endpoint = bind(at)
            .and_then(|socket| Endpoint::new(EndpointConfig::default(), server, socket, runtime()))
            .map_err(TransportError::Other)?;
        let at = endpoint.local_addr().map_err(TransportError::Other)?;
        if !at.ip().is_unspecified() {
            self.events.push_back(TransportEvent::NewAddress { listener_id: id, listen_addr: quic(at) });
        }
        self.listeners.push(Listener { id, at, next: next(&endpoint), endpoint });
        self.waker.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        self.listeners.retain(|listener| listener.id != id);
        let removed = self.listeners.len() < before;
        if removed {
            self.events.push_back(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
            self.waker.take().into_iter().for_each(Waker::wake);
        }
        removed
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Upgrade, TransportError<io::Error>> {
        // Both sides at once, through two routers, is nothing that anything here asks for.
        let to = supported(&address).filter(|to| options.role == Role::Dialer && to.port() != 0);
        let to = to.ok_or(TransportError::MultiaddrNotSupported(address))?;
        let endpoint = self.caller(to).map_err(TransportError::Other)?;
        let client = self.client.clone();
        Ok(async move {
            let connecting = endpoint.connect_with(client, to, NAME).map_err(io::Error::other)?;
            connected(connecting.await?)
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        let this = &mut *self;
        if let Some(event) = this.events.pop_front() {
            return Poll::Ready(event);
        }
        for listener in &mut this.listeners {
            for turn in 0.. {
                if turn == TURNED_AWAY_MAX {
                    // Others have their turn.
                    context.waker().wake_by_ref();
                    break;
                }
                let incoming = match listener.next.poll_unpin(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(incoming)) => incoming,
                    Poll::Ready(None) => {
                        listener.next = pending().boxed();
                        let reason = Err(io::Error::other("its UDP socket failed"));
                        return Poll::Ready(TransportEvent::ListenerClosed { listener_id: listener.id, reason });
                    }
                };
                listener.next = next(&listener.endpoint);
                let from = incoming.remote_address();
                let proof = if incoming.remote_address_validated() { Proof::Given } else { Proof::Askable };
                match this.porter.admit(from.ip(), proof) {
                    Admission::Enter(place) => {
                        return Poll::Ready(TransportEvent::Incoming {
                            listener_id: listener.id,
                            upgrade: accept(incoming, place).boxed(),
                            local_addr: quic(listener.at),
                            send_back_addr: quic(from),
                        });
                    }
                    Admission::Prove => {
                        // Fails only for an address that was validated already.
                        let _ = incoming.retry();
                    }
                    Admission::Ignore => incoming.ignore(),
                }
            }
        }
        this.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn runtime() -> Arc<TokioRuntime> {
    Arc::new(TokioRuntime)
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::DGRAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// The socket address of `/ip4|ip6/…/udp/…/quic-v1`, with or without a name behind it.
fn supported(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter().skip(1);
    let ours = matches!((parts.next()?, parts.next()?), (Protocol::Udp(_), Protocol::QuicV1))
        && matches!((parts.next(), parts.next()), (None | Some(Protocol::P2p(_)), None));
    socket(address).filter(|_| ours)
}

fn next(endpoint: &Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

async fn accept(incoming: Incoming, place: Place) -> io::Result<Connected> {
    shake_hands(async move { connected(incoming.accept()?.await?) }, place).await
}

/// Who is at the other end, as its certificate proves.
fn connected(connection: Connection) -> io::Result<Connected> {
    let proved = || {
        let shown = connection.peer_identity()?.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
        Some(libp2p_tls::certificate::parse(shown.first()?).ok()?.peer_id())
    };
    let peer = proved().ok_or_else(|| io::Error::other("a certificate that is no node's"))?;
    Ok((peer, StreamMuxerBox::new(Muxer { connection, inbound: None, outbound: None, closing: None })))
}

fn server(keypair: &Keypair, transport: Arc<TransportConfig>) -> io::Result<ServerConfig> {
    let mut tls = libp2p_tls::make_server_config(keypair).map_err(io::Error::other)?;
    // It would write session keys to the file that an environment variable names.
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    // Each connection proves itself.
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(io::Error::other)?));
    config.transport_config(transport);
    // libp2p has no word for a peer whose address changes.
    config.migration(false);
    config
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

/// Takes whoever answers: libp2p compares it with whom it called.
fn client(keypair: &Keypair, transport: Arc<TransportConfig>) -> io::Result<ClientConfig> {
    let mut tls = libp2p_tls::make_client_config(keypair, None).map_err(io::Error::other)?;
    tls.key_log = Arc::new(rustls::NoKeyLog {});
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(io::Error::other)?));
    config.transport_config(transport);
    Ok(config)
}

fn transport(limits: Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_max))
        .stream_receive_window(VarInt::from_u32(limits.stream_bytes_max))
        .receive_window(VarInt::from_u32(limits.connection_bytes_max))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX.as_millis() as u32))));
    config
}

type Opened = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A connection as libp2p wants to see it.
struct Muxer {
    connection: Connection,
    inbound: Option<Opened>,
    outbound: Option<Opened>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl StreamMuxer for Muxer {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let connection = self.connection.clone();
        let opening = self.inbound.get_or_insert_with(|| async move { connection.accept_bi().await }.boxed());
        let opened = ready!(opening.poll_unpin(context));
        self.inbound = None;
        Poll::Ready(opened.map(|(sender, receiver)| Stream { sender, receiver }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let connection = self.connection.clone();
        let opening = self.outbound.get_or_insert_with(|| async move { connection.open_bi().await }.boxed());
        let opened = ready!(opening.poll_unpin(context));
        self.outbound = None;
        Poll::Ready(opened.map(|(sender, receiver)| Stream { sender, receiver }))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let connection = self.connection.clone();
        let closing = self.closing.get_or_insert_with(|| {
            connection.close(VarInt::from_u32(0), b"");
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(context)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error)),
        }
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        Poll::Pending
    }
}

/// A stream as libp2p wants to see it.
struct Stream {
    sender: SendStream,
    receiver: RecvStream,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.receiver.poll_read(context, into).map_err(io::Error::from)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sender).poll_write(context, bytes).map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Fails only on a stream that is over.
        let _ = self.sender.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quic_addresses_are_its_own() {
        let at: SocketAddr = "10.1.2.3:7400".parse().unwrap();
        let named = quic(at).with(Protocol::P2p(PeerId::random()));
        for address in [quic(at), named.clone(), quic("[::1]:7".parse().unwrap())] {
            assert_eq!(supported(&address), socket(&address), "{address}");
        }
        let relayed = named.with(Protocol::P2pCircuit).to_string();
        for other in ["/ip4/10.1.2.3/tcp/7400", "/ip4/10.1.2.3/udp/7400", "/dns4/hue.vn/udp/1/quic-v1", &relayed] {
            assert_eq!(supported(&other.parse().unwrap()), None, "{other}");
        }
    }
}
