//! Points set up and used as people do: folders, processes, commands. Only their roster is not asked for by a command:
//! it is signed by an authority that is thrown away, which takes no passphrase and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use node::control::{self, Request, Response, Session, Stats, Status};
use node::identity::{Identity, roster};
use serde_json::Value;
use store::archive::Archive;
use store::id::{GroupId, NodeId, SessionId};
use store::journal::{Chain, Entry, Event};
use store::record::Record;
use store::roster::Right;
use store::signed::Signed;

use crate::program::{Call, Folder, Running, until};

/// Time that whatever a node does by itself may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Takes the machine for a test that runs several nodes. Encoders and decoders need all of its cores, so such tests take
/// turns.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // It guards nothing that a failed test could have left broken.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets up the machine on `data` and gives its request to become a point.
pub fn init(data: &Path, name: &str) -> String {
    let report: Value = Call::new(["init", "--name", name, "--json"]).data(data).json();
    report["request"].as_str().expect("`init --json` prints the machine's request").to_owned()
}

/// The machine on `data` as a point that may do everything.
pub fn entry(data: &Path, name: &str) -> store::roster::Point {
    let identity = Identity::load(data).expect("keys that `init` made");
    store::roster::Point {
        node: identity.id(),
        wrap: identity.wrap.public(),
        name: name.to_owned(),
        level: "commune".to_owned(),
        zone: String::new(),
        rights: Right::ALL.into(),
        addresses: Vec::new(),
        replaces: None,
    }
}

/// Sets up the machines on these folders as the points of one mesh.
pub fn found(points: &[(&Path, &str)]) {
    for (data, name) in points {
        init(data, name);
    }
    let entries = points.iter().map(|(data, name)| entry(data, name)).collect();
    let membership = roster::for_good("Thử", entries).expect("a good roster");
    for (data, _) in points {
        roster::save(data, &membership).expect("room for a roster");
    }
}

/// One point: its folder, and its process while it runs.
#[derive(Debug)]
pub struct Point {
    pub name: String,
    pub data: PathBuf,
    running: Option<Running>,
}

impl Point {
    /// A point that is set up already.
    pub fn on(data: PathBuf, name: &str) -> Self {
        Self { name: name.to_owned(), data, running: None }
    }

    /// Runs it on loopback with no multicast and these further arguments, and returns when it answers.
    pub fn run(&mut self, more: &[&str]) -> Status {
        let usual = ["run", "--listen", "127.0.0.1", "--mdns", "false", "--media-port", "0", "--console-port", "0"];
        self.start(Call::new(usual.into_iter().chain(more.iter().copied())))
    }

    /// Runs it by this call and returns when it answers.
    pub fn start(&mut self, call: Call) -> Status {
        self.running = Some(call.data(&self.data).start());
        until("the node answers", SOON, || {
            let running = self.running.as_mut().expect("just started");
            assert!(running.is_running(), "{} ended: {}", self.name, running.stderr());
            Some(self.status()).filter(|status| status.own.running)
        })
    }

    pub fn status(&self) -> Status {
        Call::new(["status", "--json"]).data(&self.data).json()
    }

    /// What its room has been shown of the running or last session.
    pub fn stats(&self) -> Stats {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        match runtime.block_on(control::call(&self.data, &Request::Stats)) {
            Ok(Response::Stats(stats)) => *stats,
            other => panic!("asked what was shown, the node of {} answered {other:?}", self.name),
        }
    }

    /// Whether this point can reach the one called `name`.
    pub fn sees(&self, name: &str) -> bool {
        self.status().points.iter().any(|point| point.name == name && point.online)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").pid()
    }

    /// Whether it was started and not stopped.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub fn log(&self) -> String {
        self.running.as_ref().map(Running::stderr).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.running.take().expect("it runs").kill();
    }

    /// Ctrl-C, which must end it well.
    pub fn stop(&mut self) {
        self.running.take().expect("it runs").interrupt().succeeded();
    }

    pub fn start_session(&self, title: &str) -> Session {
        Call::new(["session", "start", "--title", title, "--json"]).data(&self.data).json()
    }

    pub fn end_session(&self) -> Session {
        Call::new(["session", "end", "--json"]).data(&self.data).json()
    }

    pub fn session(&self, id: &str) -> Session {
        Call::new(["session", "show", id, "--json"]).data(&self.data).json()
    }

    /// Waits until every point of the session is in it, as this point knows.
    pub fn wait_for_all(&self, id: &str) {
        until("all points are in the session", SOON, || {
            self.session(id).points.iter().all(|point| point.present).then_some(())
        });
    }

    /// Waits until this many groups more than now are kept here.
    pub fn wait_for_groups(&self, more: u64) {
        let before = self.status().disk.groups;
        until("groups are kept", SOON, || (self.status().disk.groups >= before + more).then_some(()));
    }

    /// What its archive holds of a session, read as it lies on the disk.
    pub fn kept(&self, session: &str) -> Kept {
        Kept::read(&self.data.join("archive"), session)
    }
}

/// Points of one roster, the first of them central, set up and not yet running.
#[derive(Debug)]
pub struct Office {
    pub points: Vec<Point>,
    pub folder: Folder,
}

impl Office {
    pub fn new(names: &[&str]) -> Self {
        let folder = Folder::new();
        let points: Vec<_> = (1..).zip(names).map(|(n, name)| Point::on(folder.join(format!("{n}")), name)).collect();
        found(&points.iter().map(|point| (&*point.data, &*point.name)).collect::<Vec<_>>());
        Self { points, folder }
    }

    /// Points with these rights, each in a zone of its own.
    pub fn of(points: &[(&str, &[Right])]) -> Self {
        let folder = Folder::new();
        let mut entries = Vec::new();
        let mut all = Vec::new();
        for (n, (name, rights)) in (1..).zip(points) {
            let data = folder.join(format!("{n}"));
            init(&data, name);
            let rights = rights.iter().copied().collect::<BTreeSet<_>>();
            entries.push(store::roster::Point { rights, zone: (*name).to_owned(), ..entry(&data, name) });
            all.push(Point::on(data, name));
        }
        let membership = roster::for_good("Thử", entries).expect("a good roster");
        all.iter().for_each(|point| roster::save(&point.data, &membership).expect("room for a roster"));
        Self { points: all, folder }
    }

    /// Runs all of them; the others call central. Returns when central sees all, with the mesh port of each.
    pub fn run(&mut self) -> Vec<u16> {
        let mut ports = Vec::new();
        for point in &mut self.points {
            let peer = ports.first().map(|port| format!("127.0.0.1:{port}"));
            let mut more = vec!["--port", "0"];
            more.extend(peer.iter().flat_map(|peer| ["--peer", peer]));
            ports.push(point.run(&more).own.mesh_port);
        }
        self.wait_until_met();
        ports
    }

    /// A point with an authority of its own, which says that central and it are of one mesh.
    pub fn stranger(&self) -> Point {
        let (data, name, central) = (self.folder.join("stranger"), "Người lạ", &self.points[0]);
        init(&data, name);
        let points = vec![entry(&data, name), entry(&central.data, &central.name)];
        roster::save(&data, &roster::for_good("Thử", points).expect("a good roster")).expect("room for a roster");
        Point::on(data, name)
    }

    /// Until central sees all.
    pub fn wait_until_met(&self) {
        until("central sees all points", SOON, || {
            self.points[0].status().points.iter().all(|point| point.online).then_some(())
        });
    }

    pub fn stop(&mut self) {
        self.points.iter_mut().for_each(Point::stop);
    }
}

/// What an archive holds of one session.
#[derive(Debug)]
pub struct Kept {
    pub groups: BTreeMap<GroupId, Bytes>,
    /// Checked: each entry continues the one before and is signed by central.
    pub journal: Vec<Entry>,
    /// Node of each point, by its number in the session.
    pub nodes: BTreeMap<u16, NodeId>,
}

impl Kept {
    pub fn read(archive: &Path, session: &str) -> Self {
        let archive = Archive::open_read_only(archive).expect("the archive opens");
        let session: SessionId = session.parse().expect("an id as the program prints it");
        let head = archive.head(&session).expect("a readable head").expect("the session is known");
        let mut groups = BTreeMap::new();
        for track in archive.tracks(&session).expect("a list of tracks") {
            let have = archive.have(&session, track).expect("a list of groups");
            for seq in have.runs().flatten() {
                let id = GroupId { session, track, seq };
                groups.insert(id, archive.get(&id).expect("a group that is listed is whole").bytes().clone());
            }
        }
        let mut chain = Chain::new(session, head.central);
        let mut journal = Vec::new();
        for bytes in archive.journal(&session, 0).expect("a journal") {
            let entry = Signed::<Entry>::parse(bytes).expect("a journal entry");
            chain.accept(&entry).expect("an entry that continues the chain");
            journal.push(entry.content().clone());
        }
        let nodes = head.points.iter().map(|member| (member.number.get(), member.node)).collect();
        Self { groups, journal, nodes }
    }

    /// The records in order, with when each of their frames was made, in microseconds of session time.
    pub fn times(&self, point: u16, kind: store::id::TrackKind) -> Vec<u64> {
        let ours = |id: &&GroupId| id.track.point().get() == point && id.track.kind() == kind;
        let mut times = Vec::new();
        for id in self.groups.keys().filter(ours) {
            let record = Record::parse(self.groups[id].clone()).expect("it was checked when it was read");
            times.extend(record.frames().map(|frame| record.header().t0 + frame.dt));
        }
        times
    }

    /// Fails unless everything that `before` had is here byte for byte.
    pub fn must_have(&self, before: &Self, whose: &str) {
        assert!(!before.groups.is_empty(), "{whose} had kept something");
        for (id, bytes) in &before.groups {
            assert!(self.groups.get(id) == Some(bytes), "group {id}, which {whose} had kept, is not the same here");
        }
    }

    /// Whether the journal says that this group is missing.
    pub fn names(&self, id: &GroupId) -> bool {
        self.journal.iter().any(|entry| match entry.event {
            Event::Gap { track, from_seq, to_seq, .. } => track == id.track && (from_seq..=to_seq).contains(&id.seq),
            _ => false,
        })
    }

    /// Groups up to the last of each track that are neither here nor called missing by the journal.
    pub fn unexplained(&self) -> Vec<GroupId> {
        let tracks: BTreeSet<_> = self.groups.keys().map(|id| (id.session, id.track)).collect();
        let mut unexplained = Vec::new();
        for (session, track) in tracks {
            let last = self.groups.keys().rfind(|id| id.track == track).map_or(0, |id| id.seq);
            let all = (0..=last).map(|seq| GroupId { session, track, seq });
            unexplained.extend(all.filter(|id| !self.groups.contains_key(id) && !self.names(id)));
        }
        unexplained
    }
}
