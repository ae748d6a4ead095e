//! Whole nodes in one process, over real sockets: what a session between three points leaves behind.

mod entrances;
mod gate;
mod removal;

use std::path::{Path, PathBuf};

use store::archive::Archive;
use store::id::TrackId;
use store::record::Record;
use store::roster::{Point, Right};
use tokio::task::JoinHandle;
use toml::Value;

use super::*;
use crate::config;
use crate::control::{Session, State, Stats, Status};

mod joining;

/// A running node and its folder.
struct Node {
    data: PathBuf,
    task: JoinHandle<Result<(), Error>>,
}

/// Keys and a common roster for three points that may chair, in folders of their own.
fn set_up(base: &Path) -> Vec<PathBuf> {
    set_up_with(base, [&[Right::Chair]; 3])
}

/// The same with these rights.
fn set_up_with(base: &Path, rights: [&[Right]; 3]) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = (1..=3).map(|n| base.join(n.to_string())).collect();
    let mut points = Vec::new();
    for ((folder, name), rights) in folders.iter().zip(["Trung tâm", "Xã Tân Phú", "Xã Kim Thành"]).zip(rights) {
        let (identity, _) = Identity::load_or_create(folder).expect("a folder of our own");
        points.push(Point {
            node: identity.id(),
            wrap: identity.wrap.public(),
            name: name.into(),
            level: String::new(),
            zone: String::new(),
            rights: rights.iter().copied().collect(),
            addresses: vec![],
            replaces: None,
        });
    }
    let roster = roster::for_good("Thử", points).expect("a good roster");
    for folder in &folders {
        roster::save(folder, &roster).expect("a folder of our own");
    }
    folders
}

impl Node {
    /// Starts a node that calls `peer`, and waits until it answers.
    async fn start(data: &Path, peer: Option<u16>) -> Node {
        let mut flags = vec![
            ("mesh.listen", Value::String("127.0.0.1".into())),
            ("mesh.port", Value::Integer(0)),
            ("media.port", Value::Integer(0)),
            ("console.port", Value::Integer(0)),
        ];
        flags.extend(peer.map(|port| ("mesh.peers", Value::Array(vec![Value::String(format!("127.0.0.1:{port}"))]))));
        let config = config::load(None, Some(data), flags).expect("good settings");
        let node = Node { data: data.to_owned(), task: tokio::spawn(run(config, None)) };
        let patience = Instant::now() + Duration::from_secs(30);
        while control::call(data, &Request::Status).await.is_err() {
            if node.task.is_finished() {
                panic!("the node has stopped: {:?}", node.task.await);
            }
            assert!(Instant::now() < patience, "the node does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node
    }

    async fn ask(&self, request: Request) -> Response {
        control::call(&self.data, &request).await.expect("a running node answers")
    }

    async fn status(&self) -> Status {
        let Response::Status(status) = self.ask(Request::Status).await else { panic!("not a status") };
        *status
    }

    async fn stats(&self) -> Stats {
        let Response::Stats(stats) = self.ask(Request::Stats).await else { panic!("no stats") };
        *stats
    }

    async fn session(&self, request: Request) -> Session {
        match self.ask(request).await {
            Response::Session(session) => *session,
            other => panic!("not a session: {other:?}"),
        }
    }

    async fn stop(self) {
        assert_eq!(self.ask(Request::Stop).await, Response::Done);
        self.task.await.expect("no panic").expect("a clean stop");
        // Tasks that ask others something end a moment later, where a program would end with all of them.
        let archive = config::archive(&self.data);
        until("nobody has the archive any more", async || Archive::open(&archive).is_ok()).await;
    }
}

/// Looks again and again until `enough`, at most half a minute.
async fn until(what: &str, mut enough: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !enough().await {
        assert!(Instant::now() < patience, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every group a stopped node keeps, by name.
fn kept(data: &Path) -> BTreeMap<(SessionId, TrackId, u64), Record> {
    let archive = Archive::open_read_only(&config::archive(data)).expect("an archive");
    let mut kept = BTreeMap::new();
    for head in archive.sessions().expect("good heads").heads {
        for track in archive.tracks(&head.id).expect("a good inventory") {
            for seq in archive.have(&head.id, track).expect("a good inventory").runs().flatten() {
                let id = store::id::GroupId { session: head.id, track, seq };
                kept.insert((head.id, track, seq), archive.get(&id).expect("a good group"));
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn three_points_meet_and_central_keeps_every_group_of_everyone() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    let central = Node::start(&folders[0], None).await;
    let port = central.status().await.own.mesh_port;
    let mut nodes = vec![central];
    for folder in &folders[1..] {
        nodes.push(Node::start(folder, Some(port)).await);
    }
    until("all are online", async || nodes[0].status().await.points.iter().all(|point| point.online)).await;

    let title = "Tiếp công dân định kỳ".to_owned();
    let started = nodes[0].session(Request::SessionStart { title, points: vec![] }).await;
    assert_eq!((started.state, started.points.len()), (State::Open, 3));
    for node in &nodes {
        until("everybody sees and hears the two others", async || {
            let shown = node.stats().await.shown;
            shown.len() == 2 && shown.iter().all(|row| row.video_frames > 60 && row.audio_frames > 100)
        })
        .await;
    }
    let present = nodes[0].status().await.session.expect("a running session").present;
    assert_eq!(present.len(), 3);

    let ended = nodes[0].session(Request::SessionEnd { session: None }).await;
    assert_eq!((ended.state, ended.gaps), (State::Ended, 0));
    let words: Vec<&str> = ended.journal.iter().map(|line| line.event.as_str()).collect();
    assert!(words.first().is_some_and(|line| line.contains("started")), "{words:?}");
    assert!(words.last().is_some_and(|line| line.contains("ended")), "{words:?}");
    assert_eq!(words.iter().filter(|line| line.contains("joined")).count(), 2, "{words:?}");
    for node in &nodes {
        until("everybody knows the end", async || {
            let Response::Sessions { sessions } = node.ask(Request::SessionList).await else { panic!("no list") };
            sessions.iter().all(|session| session.state == State::Ended)
        })
        .await;
    }
    for node in nodes {
        node.stop().await;
    }
    let central = kept(&folders[0]);
    assert_eq!(central.len() as u64, ended.groups);
    for folder in &folders[1..] {
        let own = kept(folder);
        assert!(own.len() >= 4, "{} groups", own.len());
        assert!(own.iter().all(|(name, record)| central.get(name) == Some(record)), "central has them byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_that_stops_politely_comes_back_into_the_session() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    let central = Node::start(&folders[0], None).await;
    let port = central.status().await.own.mesh_port;
    let delegate = Node::start(&folders[1], Some(port)).await;
    until("both are online", async || central.status().await.points[1].online).await;
    let points = vec!["Xã Tân Phú".to_owned()];
    let session = central.session(Request::SessionStart { title: "Thử".into(), points }).await;
    let seen = async |least: u64| {
        let shown = central.stats().await.shown;
        shown.first().is_some_and(|row| row.video_frames > least)
    };
    until("the delegate is seen", async || seen(30).await).await;
    delegate.stop().await;
    let before = central.stats().await.shown[0].video_frames;
    let again = Node::start(&folders[1], Some(port)).await;
    until("the delegate is seen again", async || seen(before + 30).await).await;
    let running = again.status().await.session.expect("it is in the session");
    assert_eq!((running.id, running.role.as_str()), (session.id, "delegate"));
    let ended = central.session(Request::SessionEnd { session: None }).await;
    assert_eq!(ended.gaps, 0, "{:?}", ended.journal);
    let said = |word: &str| ended.journal.iter().filter(|line| line.event.contains(word)).count();
    assert_eq!((said("left"), said("lost")), (1, 0), "{:?}", ended.journal);
    central.stop().await;
    again.stop().await;
    let record = kept(&folders[0]);
    assert!(kept(&folders[1]).iter().all(|(name, group)| record.get(name) == Some(group)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_that_lost_its_recordings_has_the_others_again_and_says_what_is_gone() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    let central = Node::start(&folders[0], None).await;
    let delegate = Node::start(&folders[1], Some(central.status().await.own.mesh_port)).await;
    until("both are online", async || central.status().await.points[1].online).await;
    let points = vec!["Xã Tân Phú".to_owned()];
    let session = central.session(Request::SessionStart { title: "Thử".into(), points }).await;
    let kept_so_far = async |node: &Node| node.status().await.counters.0.get("groups_stored").copied().unwrap_or(0);
    until("groups of the delegate are kept", async || kept_so_far(&central).await >= 4).await;
    central.stop().await;

    let archive = config::archive(&folders[0]);
    std::fs::remove_dir_all(archive.join("media")).expect("the recordings are gone");
    let central = Node::start(&folders[0], Some(delegate.status().await.own.mesh_port)).await;
    until("the session goes on", async || central.stats().await.shown.first().is_some_and(|row| row.video_frames > 30))
        .await;
    let ended = central.session(Request::SessionEnd { session: None }).await;
    assert_eq!(ended.id, session.id);
    let lines = |word: &str| ended.journal.iter().filter(|line| line.event.contains(word)).count();
    assert!(lines("the disk") > 0, "what the disk lost is told: {:?}", ended.journal);
    assert!(lines("has not got them either") > 0, "central's own groups are nowhere else: {:?}", ended.journal);
    delegate.stop().await;
    central.stop().await;
    let record = kept(&folders[0]);
    assert!(kept(&folders[1]).iter().all(|(name, group)| record.get(name) == Some(group)), "{:?}", ended.journal);
}
