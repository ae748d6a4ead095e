//! The one UDP socket of all browsers, and who gets which datagram.
//!
//! A browser proves with its first STUN message (RFC 8489) which connection it means: the message names the user fragment
//! that our answer gave it. From then on its address says so. What names none of ours is dropped; nothing is answered here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use str0m::ice::StunMessage;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Datagrams that wait for a connection; about a tenth of a second of a camera. What is beyond is lost, as on any line.
const WAITING_MAX: usize = 256;
/// Addresses remembered for a connection: a machine's own, of which a browser tries each.
const ADDRESSES_MAX: usize = 16;
/// Longer datagrams are no browser's: they keep to the Ethernet frame.
const DATAGRAM_MAX: usize = 2_048;

/// A datagram of a browser.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) bytes: Bytes,
}

/// The socket, and who is behind it.
#[derive(Debug)]
pub(super) struct Socket {
    udp: UdpSocket,
    at: SocketAddr,
    routes: Mutex<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    /// By the user fragment we gave.
    connections: BTreeMap<String, Route>,
    /// Whose address it is.
    addresses: BTreeMap<SocketAddr, String>,
}

#[derive(Debug)]
struct Route {
    to: mpsc::Sender<Datagram>,
    addresses: Vec<SocketAddr>,
}

impl Socket {
    /// Binds to any port of `address`.
    pub(super) async fn bind(address: IpAddr) -> io::Result<Arc<Socket>> {
        let udp = UdpSocket::bind((address, 0)).await?;
        let at = udp.local_addr()?;
        Ok(Arc::new(Socket { udp, at, routes: Mutex::default() }))
    }

    /// Where browsers find it.
    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    /// Takes what comes for this user fragment, until what is returned is dropped.
    pub(super) fn open(self: &Arc<Self>, fragment: &str) -> (Open, mpsc::Receiver<Datagram>) {
        let (to, datagrams) = mpsc::channel(WAITING_MAX);
        self.routes().connections.insert(fragment.to_owned(), Route { to, addresses: Vec::new() });
        (Open { socket: Arc::clone(self), fragment: fragment.to_owned() }, datagrams)
    }

    /// Sends; a datagram that the system has no room for is lost, as on any line.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) {
        if let Err(error) = self.udp.try_send_to(bytes, to) {
            tracing::trace!(%error, "a datagram to a browser");
        }
    }

    /// Hands out what comes, until dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            match self.udp.recv_from(&mut buffer).await {
                Ok((len, from)) => {
                    if let Some(to) = self.routes().route(&buffer[..len], from) {
                        // A connection that does not keep up loses some.
                        let _ = to.try_send(Datagram { from, bytes: Bytes::copy_from_slice(&buffer[..len]) });
                    }
                }
                Err(error) => {
                    // The system tells of a port that was closed meanwhile; that connection ends by itself.
                    tracing::debug!(%error, "the socket for browsers");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Each change under this lock is an insertion or a removal.
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    fn route(&mut self, datagram: &[u8], from: SocketAddr) -> Option<mpsc::Sender<Datagram>> {
        // RFC 7983: the first byte of a STUN message is below four, of DTLS and RTP never.
        if datagram.first().is_some_and(|first| *first < 4)
            && let Ok(message) = StunMessage::parse(datagram)
            && let Some((ours, _)) = message.split_username()
        {
            let fragment = ours.to_owned();
            let route = self.connections.get_mut(&fragment)?;
            if !route.addresses.contains(&from) {
                route.addresses.push(from);
                if route.addresses.len() > ADDRESSES_MAX {
                    let oldest = route.addresses.remove(0);
                    self.addresses.remove(&oldest);
                }
            }
            let to = route.to.clone();
            self.addresses.insert(from, fragment);
            return Some(to);
        }
        let fragment = self.addresses.get(&from)?;
        self.connections.get(fragment).map(|route| route.to.clone())
    }
}

/// A connection's place at the socket. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) socket: Arc<Socket>,
    fragment: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut routes = self.socket.routes();
        routes.connections.remove(&self.fragment);
        routes.addresses.retain(|_, fragment| *fragment != self.fragment);
    }
}
