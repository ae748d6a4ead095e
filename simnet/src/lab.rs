//! A network of offices for real programs: each host has its own address and routes, each office a router and a line,
//! and lines are as bad as a test wants them, in real time.
//!
//! ```text
//!  program on a host                  this process                       program on a host
//!  ┌──────────────────┐   ┌───────────────────────────────────────┐   ┌──────────────────┐
//!  │ sockets          │   │ thread `lab`                          │   │ sockets          │
//!  │ kernel: routes   │   │   router ═ line ═ carrier ═ line ═ router │ kernel: routes   │
//!  │ device `lab` ────┼───┼── file                         file ──┼───┼── device `lab`   │
//!  └──────────────────┘   └───────────────────────────────────────┘   └──────────────────┘
//!    network namespace                                                  network namespace
//! ```
//!
//! A host is a network namespace with a TUN device; the other end of the device is a file in our hands. One thread reads
//! the IP packets from all these files, lets [`network`] decide what becomes of them, and writes them into the files of
//! those who receive them when it is time. What happens on the way is decided by the same [`link`](crate::link) as in
//! virtual time; routers that translate addresses are in [`nat`]. No bridge, no packet filter, no traffic control of the
//! kernel's: it does not have all of this, shows little of it, and would share it with everything else on the machine.
//!
//! Nothing has a name that another lab could have too, and nothing survives the process, so labs may stand side by side
//! and a test may die as it likes. What it needs is said by [`Missing`] when it is not there: Linux, the right to make
//! networks (root, or a user namespace around the whole program, which [`trial`] sees to), `/dev/net/tun`, and `ip`.

mod kernel;
pub mod nat;
pub mod network;
mod packet;
mod trial;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::network::{Counters, Office};
use self::network::{Input, Network};
use self::packet::Packet;
pub use self::packet::Protocol;
pub use self::trial::trial;
use crate::link;

/// Packets taken from one host before the others, and what is due, have their turn.
const BATCH: usize = 32;

/// A network that stands until this is dropped.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    shared: Arc<Shared>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    office: usize,
    address: Ipv4Addr,
    namespace: File,
}

impl Host {
    /// Its own address, which outside its office may mean nothing.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What to put before a program and its arguments to have it run on this host: it becomes that program.
    pub fn command(&self) -> Vec<OsString> {
        // By way of our process, as files of ours are not handed down.
        let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        ["nsenter", &namespace, "--"].map(OsString::from).into()
    }

    /// Does something on this host, such as making a socket, which stays its own wherever it is used later.
    pub fn within<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> io::Result<T> {
        kernel::within(&self.namespace, deed)
    }
}

/// What a lab needs and this machine, or this user, has not got.
#[derive(Debug)]
pub struct Missing {
    what: &'static str,
    source: io::Error,
}

impl Missing {
    fn new(what: &'static str, source: io::Error) -> Self {
        Self { what, source }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Missing {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Lab {
    /// Lays a network of these offices. `seed` decides what happens to packets on lines with chance in them.
    ///
    /// # Panics
    ///
    /// With more offices or hosts than there are addresses for.
    pub fn lay(seed: u64, offices: &[Office]) -> Result<Self, Missing> {
        let network = Network::new(seed, offices);
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for (office, address) in network.hosts() {
            let made = kernel::host(address)?;
            hosts.push(Host { office, address, namespace: made.namespace });
            devices.push(made.device);
        }
        let starting = |error| Missing::new("no thread can be started", error);
        let (waker, woken) = UnixStream::pair().map_err(starting)?;
        let shared = Arc::new(Shared { network: Mutex::new(network), stop: AtomicBool::new(false) });
        let body = Body { devices, woken, shared: shared.clone(), epoch: Instant::now() };
        let thread = thread::Builder::new().name("lab".into()).spawn(move || body.run()).map_err(starting)?;
        Ok(Self { hosts, shared, waker, thread: Some(thread) })
    }

    /// The hosts of an office, by its place in the list the lab was laid from.
    pub fn hosts(&self, office: usize) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.office == office)
    }

    /// The first host of an office.
    ///
    /// # Panics
    ///
    /// If it has none.
    pub fn host(&self, office: usize) -> &Host {
        self.hosts(office).next().expect("the office has a host")
    }

    /// Changes an office's line, upwards and downwards, from the next packet on.
    pub fn change(&self, office: usize, change: impl FnOnce(&mut link::Config, &mut link::Config)) {
        self.shared.lock().change(office, change);
    }

    /// Cuts an office's line in both directions, or joins it again. What is on the way still arrives.
    pub fn cut(&self, office: usize, cut: bool) {
        self.change(office, |up, down| (up.cut, down.cut) = (cut, cut));
    }

    pub fn counters(&self, office: usize) -> Counters {
        self.shared.lock().counters(office)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // If even that fails, waiting for the thread could take for ever.
        if self.waker.write_all(&[0]).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What the handle and the thread both touch.
#[derive(Debug)]
struct Shared {
    network: Mutex<Network>,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().expect("nothing panics while it holds the network")
    }
}

/// What the thread owns.
struct Body {
    /// One for each host, in the network's order.
    devices: Vec<File>,
    woken: UnixStream,
    shared: Arc<Shared>,
    epoch: Instant,
}

impl Body {
    fn run(self) {
        let mut buffer = vec![0; 1 << 16];
        while !self.shared.stop.load(Ordering::Acquire) {
            self.deliver();
            for host in self.wait() {
                self.take(host, &mut buffer);
            }
        }
    }

    /// Hands over what is due.
    fn deliver(&self) {
        let mut network = self.shared.lock();
        network.handle(self.epoch.elapsed(), Input::Tick);
        while let Some((host, packet)) = network.poll() {
            // A kernel that has no room loses it, as networks do.
            let _ = (&self.devices[host]).write(packet.bytes());
        }
    }

    /// Waits for the next packet or the next delivery: the hosts that have sent something.
    fn wait(&self) -> Vec<usize> {
        let due = self.shared.lock().deadline();
        let patience = due.map(|due| {
            // An hour is as good as for ever, and fits every kernel's number.
            let left = due.saturating_sub(self.epoch.elapsed()).min(Duration::from_secs(3600));
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        fds.extend(self.devices.iter().map(|device| PollFd::new(device, PollFlags::IN)));
        if poll(&mut fds, patience.as_ref()).is_err() {
            // A signal came between. The loop comes back with the time that is left.
            return Vec::new();
        }
        let ready = fds[1..].iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(host, _)| host).collect()
    }

    fn take(&self, host: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            // The only error of a device that is there is that it has nothing to read.
            let Ok(len) = (&self.devices[host]).read(buffer) else { return };
            // What is not IPv4 goes nowhere: the kernel's own IPv6, looking for routers.
            if let Some(packet) = Packet::parse(&buffer[..len]) {
                self.shared.lock().handle(self.epoch.elapsed(), Input::Sent { host, packet });
            }
        }
    }
}

#[cfg(test)]
mod tests;
