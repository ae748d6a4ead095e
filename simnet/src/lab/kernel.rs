//! A host's end of the lab in the kernel: a network namespace with one device, whose other end is a file of ours.
//!
//! The namespace has no name. A thread is born for it, moves into one of its own, makes and sets up the device, and is
//! gone; what holds the namespace is a file, and what holds the device is another. So nothing has to be cleaned up:
//! when the process ends, however it ends, the kernel closes its files, and device and namespace are no more.
//!
//! The device is a TUN, so it carries IP packets and no Ethernet: there is nothing to be asked about neighbours. Its
//! address and routes are set by `ip`, which says what it does in words that people know.
#![expect(unsafe_code, reason = "a namespace and a TUN device are had by system calls that no safe library offers")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;

use super::Missing;

/// As of every line in the lab, so that no packet has to be cut up on its way.
const MTU: usize = 1500;

/// Packets that wait in the kernel for our thread: a tenth of a second at 100 Mb/s.
const QUEUE_LEN: usize = 1000;

/// Where the device has to be made.
const TUN: &str = "/dev/net/tun";

/// Two files that keep a host's network there.
#[derive(Debug)]
pub(super) struct Host {
    /// One read is one packet it sends, one write is one it receives. Does not block.
    pub(super) device: File,
    /// What a process enters to be on this host.
    pub(super) namespace: File,
}

/// Makes a host with this address in a network of 256, and everything else beyond its router.
pub(super) fn host(address: Ipv4Addr) -> Result<Host, Missing> {
    let made = thread::Builder::new().name("host".into()).spawn(move || make(address));
    let made = made.map_err(|error| Missing::new("no thread can be started", error))?;
    made.join().expect("it returns its errors")
}

/// Moves this thread for good.
fn make(address: Ipv4Addr) -> Result<Host, Missing> {
    // SAFETY: it takes no pointer, and of what threads share it takes nothing away: files, memory and folder stay.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map_err(|error| {
        Missing::new("networks cannot be made: that needs root, or root in a user namespace (`unshare -r`)", error)
    })?;
    let namespace = File::open("/proc/thread-self/ns/net").map_err(|error| Missing::new("no /proc", error))?;
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
    let device = device.and_then(|device| attach(&device).map(|()| device)).map_err(|error| {
        Missing::new(
            "no network device can be made: that needs the kernel's `tun` and the right to /dev/net/tun",
            error,
        )
    })?;
    set_up(address)?;
    Ok(Host { device, namespace })
}

/// Makes the device `lab` in this thread's network; it is there as long as the file is open.
fn attach(device: &File) -> io::Result<()> {
    /// `struct ifreq` of the kernel: a name, and 24 bytes of which this call reads the first two.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request =
        Request { name: [0; libc::IFNAMSIZ], flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short, rest: [0; 22] };
    request.name[..3].copy_from_slice(b"lab");
    // SAFETY: the structure has the layout and at least the size that the kernel copies in and out, and lives as long
    // as the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Does something on a thread that is in this namespace. A socket made there belongs to it and works from anywhere.
pub(super) fn within<T: Send>(namespace: &File, deed: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("host".into()).spawn_scoped(scope, || {
            // SAFETY: it takes a file that is open, and moves only this thread.
            check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(|()| deed())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A child has the network of the thread that bears it.
fn set_up(address: Ipv4Addr) -> Result<(), Missing> {
    let steps = format!(
        "link set lo up\n\
         link set lab mtu {MTU} txqueuelen {QUEUE_LEN} up\n\
         address add {address}/24 dev lab\n\
         route add default dev lab\n"
    );
    let missing = |error| Missing::new("no network can be set up by `ip` (package iproute2)", error);
    let ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut ip = ip.map_err(missing)?;
    // Its input ends with the statement. If it does not read on, it says why.
    let written = ip.stdin.take().expect("it was asked for").write_all(steps.as_bytes());
    let done = ip.wait_with_output().map_err(missing)?;
    match (done.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(missing(error)),
        (false, _) => Err(missing(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned()))),
    }
}
