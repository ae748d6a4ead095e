//! Taking a port for the mesh: the same number for QUIC (UDP) and TCP, so that people have one to write down.
//!
//! libp2p opens its TCP listener with `SO_REUSEPORT`, so two nodes would share a port without either noticing. A plain
//! listener opened and closed beforehand finds the port taken; the UDP socket, which is exclusive, is opened first
//! and settles the race between two nodes that start together.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Swarm;

use super::behaviour::Behaviour;
use super::peer;
use crate::config::Port;

/// How often a port chosen by the system may turn out to be taken for TCP before something else is wrong.
const ANY_TRIES: usize = 16;

/// Listens and returns the port.
pub(super) fn listen(swarm: &mut Swarm<Behaviour>, ip: IpAddr, port: Port) -> io::Result<u16> {
    let mut refusal = None;
    let any = (0..ANY_TRIES).map_while(|_| Some(UdpSocket::bind((ip, 0)).ok()?.local_addr().ok()?.port()));
    let candidates: Box<dyn Iterator<Item = u16>> =
        if port.number == 0 { Box::new(any) } else { Box::new(port.candidates()) };
    for number in candidates {
        match take(swarm, SocketAddr::new(ip, number)) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn take(swarm: &mut Swarm<Behaviour>, at: SocketAddr) -> io::Result<()> {
    drop(UdpSocket::bind(at)?);
    // Lost between the line above and this one: as good as taken.
    let taken = |_| io::Error::from(io::ErrorKind::AddrInUse);
    let quic = swarm.listen_on(peer::quic(at)).map_err(taken)?;
    let tcp = TcpListener::bind(at).map(drop).and_then(|()| swarm.listen_on(peer::tcp(at)).map_err(taken));
    if tcp.is_err() {
        swarm.remove_listener(quic);
    }
    tcp.map(|_| ())
}
