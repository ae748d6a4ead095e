//! The lab in the kernel: what its pure parts decide is felt by sockets. As with the relay, a busy machine may make a
//! packet later, so what is asserted holds then too.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use super::nat::Kind;
use super::*;
use crate::link::{Config, Queue, Rate};

const MS: Duration = Duration::from_millis(1);
/// Longer than any machine needs. A test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn lay(offices: &[Office]) -> Lab {
    Lab::lay(1, offices).expect("it was possible a moment ago")
}

/// A UDP socket on a host.
fn socket(host: &Host, port: u16) -> UdpSocket {
    let bound = host.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let socket = bound.expect("a host").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    socket
}

fn pass(from: &UdpSocket, to: impl std::net::ToSocketAddrs, at: &UdpSocket) -> SocketAddr {
    from.send_to(b"payload", to).expect("sent");
    let mut buffer = [0; 100];
    let (len, source) = at.recv_from(&mut buffer).expect("a packet within the patience");
    assert_eq!(&buffer[..len], b"payload");
    source
}

#[test]
fn programs_on_hosts_meet_and_feel_the_line() {
    trial("lab::tests::programs_on_hosts_meet_and_feel_the_line", || {
        let far = Office { up: Config { delay: 30 * MS, ..Config::default() }, ..Office::default() };
        let lab = lay(&[far.clone(), far]);
        let [a, b] = [0, 1].map(|office| socket(lab.host(office), 7500));
        let start = Instant::now();
        let source = pass(&a, (lab.host(1).address(), 7500), &b);
        assert_eq!(source, SocketAddr::from((lab.host(0).address(), 7500)));
        pass(&b, source, &a);
        assert!(start.elapsed() >= 60 * MS, "{:?}", start.elapsed());
        let script = "exec 3<>/dev/tcp/198.18.1.10/80 && cat <&3";
        let server = lab.host(1).within(|| TcpListener::bind("0.0.0.0:80")).expect("a host").expect("a port");
        let [program, args @ ..] = &lab.host(0).command()[..] else { panic!("no command") };
        let mut child = Command::new(program);
        child.args(args).args(["bash", "-c", script]).stdout(std::process::Stdio::piped());
        let child = child.spawn().expect("it starts");
        let (mut connection, from) = server.accept().expect("a caller");
        assert_eq!(from.ip(), lab.host(0).address());
        connection.write_all(b"hello").expect("it listens");
        drop(connection);
        assert_eq!(child.wait_with_output().expect("it ends").stdout, b"hello");
    });
}

#[test]
fn the_kernel_takes_what_every_kind_of_router_rewrote() {
    trial("lab::tests::the_kernel_takes_what_every_kind_of_router_rewrote", || {
        let behind = |(_, kind)| Office { nat: Some(kind), ..Office::default() };
        let offices: Vec<_> = Kind::USUAL.into_iter().map(behind).chain([Office::default()]).collect();
        let lab = lay(&offices);
        let server = lab.host(4);
        let public = socket(server, 7500);
        let listener = server.within(|| TcpListener::bind("0.0.0.0:7400")).expect("a host").expect("a port");
        for office in 0..4 {
            let host = lab.host(office);
            let client = socket(host, 7500);
            let seen = pass(&client, (server.address(), 7500), &public);
            assert_eq!(seen.ip(), Ipv4Addr::new(198, 18, office as u8, 1));
            assert_eq!(pass(&public, seen, &client), SocketAddr::from((server.address(), 7500)));
            // More than one segment, each way, with a checksum over all of it by TCP.
            let address = (server.address(), 7400);
            let mut connection = host.within(|| TcpStream::connect(address)).expect("a host").expect("it listens");
            let (mut answering, _) = listener.accept().expect("a caller");
            let sent = vec![office as u8; 100_000];
            let mut got = vec![0; sent.len()];
            thread::scope(|scope| {
                scope.spawn(|| connection.write_all(&sent).expect("it reads"));
                answering.read_exact(&mut got).expect("it writes");
            });
            assert!(got == sent);
        }
    });
}

#[test]
fn several_labs_stand_side_by_side() {
    trial("lab::tests::several_labs_stand_side_by_side", || {
        let labs = [(); 3].map(|()| lay(&[Office { hosts: 2, ..Office::default() }]));
        for lab in &labs {
            let [a, b] = [0, 1].map(|host| socket(lab.hosts(0).nth(host).expect("two hosts"), 7500));
            pass(&a, "198.18.0.11:7500", &b);
        }
    });
}

#[test]
fn multicast_finds_the_hosts_of_one_office() {
    trial("lab::tests::multicast_finds_the_hosts_of_one_office", || {
        let lab = lay(&[Office { hosts: 3, nat: Some(Kind::SYMMETRIC), ..Office::default() }]);
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let sockets: Vec<_> = lab.hosts(0).map(|host| (host, socket(host, 5353))).collect();
        for (host, socket) in &sockets {
            host.within(|| socket.join_multicast_v4(&group, &host.address())).expect("a host").expect("it joins");
        }
        let source = pass(&sockets[0].1, (group, 5353), &sockets[1].1);
        assert_eq!(source.ip(), lab.host(0).address());
        let mut buffer = [0; 100];
        assert_eq!(sockets[2].1.recv_from(&mut buffer).expect("a packet").1, source);
    });
}

#[test]
fn a_rate_holds_for_what_the_kernel_cut_into_packets() {
    trial("lab::tests::a_rate_holds_for_what_the_kernel_cut_into_packets", || {
        // With 400,000 bytes to carry and 10 Mb/s it takes 0.33 s or, as of that line, more.
        let up = Config { rate: Some(Rate::new(10_000_000, Queue::Time(500 * MS))), ..Config::default() };
        let lab = lay(&[Office { up, ..Office::default() }, Office::default()]);
        let server = lab.host(1);
        let listener = server.within(|| TcpListener::bind("0.0.0.0:80")).expect("a host").expect("a port");
        let address = (server.address(), 80);
        let mut connection = lab.host(0).within(|| TcpStream::connect(address)).expect("a host").expect("it listens");
        let (mut answering, _) = listener.accept().expect("a caller");
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| connection.write_all(&vec![7; 400_000]).expect("it reads"));
            answering.read_exact(&mut vec![0; 400_000]).expect("it writes");
        });
        assert!(start.elapsed() >= 320 * MS, "{:?}", start.elapsed());
        let carried = lab.counters(0).up.accepted;
        assert!(carried.packets >= 400_000 / 1448 && carried.bytes >= 400_000, "{carried:?}");
    });
}

/// The namespaces of all processes we may look at.
fn networks() -> Vec<std::path::PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    processes.filter_map(|process| std::fs::read_link(process.path().join("ns/net")).ok()).collect()
}

#[test]
fn a_lab_is_gone_with_the_process_however_that_ends() {
    const ROLE: &str = "LAB_TEST_ROLE";
    let name = "lab::tests::a_lab_is_gone_with_the_process_however_that_ends";
    if std::env::var_os(ROLE).is_some() {
        let lab = lay(&[Office::default()]);
        let network = lab.host(0).within(|| std::fs::read_link("/proc/thread-self/ns/net")).expect("a host");
        println!("network {}", network.expect("a name").display());
        let [program, args @ ..] = &lab.host(0).command()[..] else { panic!("no command") };
        let mut child = Command::new("setpriv");
        child.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args).args(["sleep", "1000"]);
        child.status().expect("it starts");
        return;
    }
    trial(name, || {
        let this = std::env::current_exe().expect("a test knows itself");
        let mut victim = Command::new(this);
        victim.args(["--exact", name, "--nocapture"]).env(ROLE, "victim").stdout(std::process::Stdio::piped());
        let mut victim = victim.spawn().expect("it starts");
        let mut printed = io::BufReader::new(victim.stdout.take().expect("it was asked for"));
        let network = std::iter::from_fn(|| {
            let mut line = String::new();
            io::BufRead::read_line(&mut printed, &mut line).is_ok_and(|len| len > 0).then_some(line)
        });
        let network = network.filter_map(|line| Some(line.split_once("network ")?.1.trim().to_owned())).next();
        let network = std::path::PathBuf::from(network.expect("the victim names its network"));
        let until = |what: &str, is: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !is() {
                assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
                thread::sleep(MS);
            }
        };
        until("a process is in it", &|| networks().contains(&network));
        victim.kill().expect("it runs");
        victim.wait().expect("it ends");
        until("no process is in it", &|| !networks().contains(&network));
    });
}
