//! The same line between real sockets: a UDP relay that does in real time what two links decide.
//!
//! A client sends to [`Relay::addr`] instead of to the target. As a home router does, the relay gives each client
//! (address and port) a socket of its own towards the target, so the target sees one peer per client and its answers
//! find the way back. All clients share the two links, like the computers behind one router; lines that are bad each
//! in its own way are several relays.
//!
//! One thread does everything: it waits in `poll(2)` for the next packet or the next delivery, whichever is first.
//! That needs no runtime, so a test that stalls its own cannot bend the line, and it is precise: `poll` takes its time
//! limit in nanoseconds, whereas the timers of an async runtime tick in milliseconds. A packet is never early; it is
//! as late as the machine is busy, on an idle one some 0.1 ms.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::link::{self, Link, Tally, Verdict};
use crate::rng;
use crate::waiting::Waiting;

/// What a datagram carries around its payload, IPv4 and UDP. A line's rate counts it, as a real line does.
pub const HEADERS_LEN: usize = 28;

/// Clients that may speak through one relay, each with a socket. Packets of further ones are refused.
pub const CLIENTS_MAX: usize = 256;

/// Payload that may be on the way, both directions together: a second at 500 Mb/s. What is beyond is refused.
pub const WAITING_BYTES_MAX: usize = 64 << 20;

/// Packets taken from one socket before the others, and what is due, have their turn.
const BATCH: usize = 32;

/// Room in the kernel for what arrives while the thread waits for a processor.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// A UDP relay over a bad line; it stops when dropped.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    waker: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

/// What became of the packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    /// What the link decided; bytes with [`HEADERS_LEN`] for each packet.
    pub link: link::Counters,
    /// Handed to the kernel for delivery, copies included; bytes of payload.
    pub sent: Tally,
    /// Beyond [`CLIENTS_MAX`] or [`WAITING_BYTES_MAX`], or not taken by the kernel; bytes of payload.
    pub refused: Tally,
}

/// What became of all packets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// From clients to the target.
    pub up: Line,
    /// From the target to clients.
    pub down: Line,
    /// Packets on the way at this moment, both directions together.
    pub waiting: usize,
}

impl Relay {
    /// Starts to relay between a fresh port on loopback and `target`. `up` is the line from clients to the target,
    /// `down` the way back; `seed` decides what happens to the packets of each.
    pub fn start(target: SocketAddr, up: link::Config, down: link::Config, seed: u64) -> io::Result<Self> {
        let front = UdpSocket::bind(match target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        })?;
        prepare(&front)?;
        let addr = front.local_addr()?;
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        waker.connect(waker.local_addr()?)?;
        let woken = waker.try_clone()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                up: Way::new(up, rng::seed_of(seed, 0)),
                down: Way::new(down, rng::seed_of(seed, 1)),
                waiting: Waiting::new(WAITING_BYTES_MAX),
            }),
            stop: AtomicBool::new(false),
        });
        let body =
            Body { front, target, woken, clients: BTreeMap::new(), shared: shared.clone(), epoch: Instant::now() };
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || body.run())?;
        Ok(Self { addr, shared, waker, thread: Some(thread) })
    }

    /// Where clients send to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the line towards the target, from the next packet on.
    pub fn set_up(&self, config: link::Config) {
        self.shared.lock().up.link.set(config);
    }

    /// Changes the line back to the clients, from the next packet on.
    pub fn set_down(&self, config: link::Config) {
        self.shared.lock().down.link.set(config);
    }

    /// Cuts both directions, or joins them again. What is on the way still arrives.
    pub fn cut(&self, cut: bool) {
        let mut state = self.shared.lock();
        let State { up, down, .. } = &mut *state;
        for way in [up, down] {
            let config = link::Config { cut, ..way.link.config().clone() };
            way.link.set(config);
        }
    }

    pub fn counters(&self) -> Counters {
        let state = self.shared.lock();
        Counters { up: state.up.line(), down: state.down.line(), waiting: state.waiting.len() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // A socket that sends to itself: if even that fails, waiting for the thread could take for ever.
        if self.waker.send(&[0]).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What the handle and the thread both touch.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the relay's state")
    }
}

#[derive(Debug)]
struct State {
    up: Way,
    down: Way,
    waiting: Waiting<Packet>,
}

#[derive(Debug)]
struct Way {
    link: Link,
    sent: Tally,
    refused: Tally,
}

impl Way {
    fn new(config: link::Config, seed: u64) -> Self {
        Self { link: Link::new(config, seed), sent: Tally::default(), refused: Tally::default() }
    }

    fn line(&self) -> Line {
        Line { link: self.link.counters(), sent: self.sent, refused: self.refused }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// A packet on the way.
#[derive(Debug)]
struct Packet {
    direction: Direction,
    client: SocketAddr,
    payload: Arc<[u8]>,
}

/// What the thread owns.
struct Body {
    front: UdpSocket,
    target: SocketAddr,
    woken: UdpSocket,
    clients: BTreeMap<SocketAddr, UdpSocket>,
    shared: Arc<Shared>,
    epoch: Instant,
}

impl Body {
    fn run(mut self) {
        let mut buffer = vec![0; 1 << 16];
        while !self.shared.stop.load(Ordering::Acquire) {
            self.deliver();
            let ready = self.wait();
            for client in ready {
                match client {
                    None => self.take_from_clients(&mut buffer),
                    Some(client) => self.take_from_target(client, &mut buffer),
                }
            }
        }
    }

    /// Sends what is due.
    fn deliver(&self) {
        let now = self.epoch.elapsed();
        let mut state = self.shared.lock();
        while let Some((_, packet)) = state.waiting.take(now) {
            let sent = match packet.direction {
                Direction::Up => self.clients.get(&packet.client).map(|socket| socket.send(&packet.payload)),
                Direction::Down => Some(self.front.send_to(&packet.payload, packet.client)),
            };
            let way = match packet.direction {
                Direction::Up => &mut state.up,
                Direction::Down => &mut state.down,
            };
            match sent {
                Some(Ok(_)) => way.sent.add(packet.payload.len()),
                // Nobody listens there at the moment, or the kernel has no room. Networks lose packets.
                Some(Err(_)) | None => way.refused.add(packet.payload.len()),
            }
        }
    }

    /// Waits for the next packet or the next delivery: the sockets that have something, `None` for the front.
    fn wait(&self) -> Vec<Option<SocketAddr>> {
        let due = self.shared.lock().waiting.next();
        let patience = due.map(|due| {
            let left = due.saturating_sub(self.epoch.elapsed());
            // An hour is as good as for ever, and fits every kernel's number.
            let left = left.min(Duration::from_secs(3600));
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let sockets = [&self.woken, &self.front].into_iter().chain(self.clients.values());
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        if poll(&mut fds, patience.as_ref()).is_err() {
            // A signal came between. The loop comes back with the time that is left.
            return Vec::new();
        }
        let clients = std::iter::once(None).chain(self.clients.keys().copied().map(Some));
        let ready = fds[1..].iter().zip(clients).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, client)| client).collect()
    }

    fn take_from_clients(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            // Not being connected, this socket has no errors but that there is nothing to read.
            let Ok((len, client)) = self.front.recv_from(buffer) else {
                return;
            };
            if !self.clients.contains_key(&client) {
                let socket = match self.clients.len() < CLIENTS_MAX {
                    true => upstream(self.target).ok(),
                    false => None,
                };
                let Some(socket) = socket else {
                    self.shared.lock().up.refused.add(len);
                    continue;
                };
                self.clients.insert(client, socket);
            }
            self.offer(Direction::Up, client, &buffer[..len]);
        }
    }

    fn take_from_target(&self, client: SocketAddr, buffer: &mut [u8]) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        for _ in 0..BATCH {
            match socket.recv(buffer) {
                Ok(len) => self.offer(Direction::Down, client, &buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The target is down and its host says so. It may come back, and other packets may wait behind this.
                Err(_) => (),
            }
        }
    }

    fn offer(&self, direction: Direction, client: SocketAddr, payload: &[u8]) {
        let now = self.epoch.elapsed();
        let mut state = self.shared.lock();
        let State { up, down, waiting } = &mut *state;
        let way = match direction {
            Direction::Up => up,
            Direction::Down => down,
        };
        let Verdict::Deliver { at, again } = way.link.offer(now, payload.len() + HEADERS_LEN) else {
            return;
        };
        let payload = Arc::<[u8]>::from(payload);
        for at in std::iter::once(at).chain(again) {
            let packet = Packet { direction, client, payload: payload.clone() };
            if !waiting.keep(at, payload.len(), packet) {
                way.refused.add(payload.len());
            }
        }
    }
}

/// A socket of one client's own. Being connected, it hears nobody but the target.
fn upstream(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // The kernel gives as much of it as it allows.
    sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_LEN)?;
    sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_LEN)?;
    Ok(())
}

#[cfg(test)]
mod tests;
