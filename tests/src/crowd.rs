//! A crowd of strangers: handshakes that are begun from many addresses and never finished, and connections that say
//! nothing.
//!
//! What they send was made beforehand, so that attacking costs this machine little while the attacked node is measured.
//! They come from the whole of 127.0.0.0/8, which a node on loopback cannot tell from as many hosts.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use libp2p::identity::Keypair;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};

/// A client's first words to a QUIC server, which take two datagrams.
pub type Attempt = [Vec<u8>; 2];

/// What came of a flood.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flood {
    pub attempts: usize,
    pub bytes: usize,
    pub took: Duration,
}

/// How a stranger with a key of its own speaks to a server of this protocol.
///
/// # Panics
///
/// If the libraries refuse their own keys.
pub fn stranger(protocol: &[u8]) -> ClientConfig {
    let mut tls = libp2p_tls::make_client_config(&Keypair::generate_ed25519(), None).expect("a good key");
    tls.alpn_protocols = vec![protocol.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")))
}

/// The beginnings of so many handshakes, no two alike.
///
/// # Panics
///
/// If there is no loopback.
pub fn attempts(count: usize, protocol: &[u8]) -> Vec<Attempt> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let sink = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = sink.local_addr().expect("bound");
        let client = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
        let config = stranger(protocol);
        // Attempts are told apart by the connection id they are addressed to. One that is given up says goodbye, which
        // is the same kind of packet.
        let destination = |datagram: &[u8]| datagram[6..6 + usize::from(datagram[5])].to_vec();
        let (mut seen, mut attempts) = (BTreeSet::new(), Vec::with_capacity(count));
        while attempts.len() < count {
            let connecting = client.connect_with(config.clone(), address, "x").expect("a good address");
            let mut first: Option<Vec<u8>> = None;
            loop {
                let mut buffer = vec![0; 2048];
                let length = sink.recv(&mut buffer).await.expect("a datagram");
                buffer.truncate(length);
                match first {
                    None if seen.insert(destination(&buffer)) => first = Some(buffer),
                    Some(begun) if destination(&begun) == destination(&buffer) => {
                        attempts.push([begun, buffer]);
                        break;
                    }
                    other => first = other,
                }
            }
            drop(connecting);
        }
        attempts
    })
}

/// Sends these attempts evenly over `time`, each from an address of its own, and answers nothing.
///
/// # Panics
///
/// If loopback does not take them.
pub fn flood(to: SocketAddr, attempts: &[Attempt], time: Duration) -> Flood {
    let begun = Instant::now();
    let mut flood = Flood::default();
    for (n, attempt) in (0_u32..).zip(attempts) {
        let due = time * n / u32::try_from(attempts.len()).expect("not that many");
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let socket = UdpSocket::bind((address(n), 0)).expect("an address of loopback");
        for datagram in attempt {
            match socket.send_to(datagram, to) {
                Ok(length) => flood.bytes += length,
                // What the kernel has no room for is lost, as on any line.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("loopback refuses a datagram: {error}"),
            }
        }
        flood.attempts += 1;
    }
    flood.took = begun.elapsed();
    flood
}

/// Opens so many connections evenly over `time`, each from an address of its own, says `word` on each and no more, and
/// leaves the oldest when five hundred are open. How many were not refused at once.
pub fn connections(to: SocketAddr, count: u32, word: &[u8], time: Duration) -> usize {
    const OPEN_MAX: usize = 500;
    let begun = Instant::now();
    let (mut open, mut taken) = (VecDeque::new(), 0);
    for n in 0..count {
        thread::sleep((time * n / count).saturating_sub(begun.elapsed()));
        if let Ok(mut stream) = connection(to, address(n)) {
            taken += 1;
            // It may be closed already.
            let _ = stream.write_all(word);
            open.push_back(stream);
            if open.len() > OPEN_MAX {
                open.pop_front();
            }
        }
    }
    taken
}

fn connection(to: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// The `n`th address of the crowd, apart from those that tests and nodes use.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f40_0001 + n)
}
