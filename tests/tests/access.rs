//! The access log from the outside: what commands leave in it, and what happens when they cannot.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use node::config;
use node::control::access::AccessLine;
use node::identity::{Identity, roster};
use store::archive::{Archive, Logbook};
use store::db::rocks::Rocks;
use store::db::{Batch, Db, Durability};
use store::id::{Hash, SessionId};
use store::roster::Right;
use store::schema::{self, Column, Store};
use store::session::{Head, Member, Period, State};
use tests::office::{Point, entry, found};
use tests::program::{Call, Finished, Folder};

/// A point whose archive has a session with nothing in it.
fn point(folder: &Folder) -> Point {
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let identity = Identity::load(&data).expect("a point");
    let archive = Archive::open(&config::archive(&data)).expect("room for an archive");
    let number = store::id::PointNumber::new(0).expect("a small number");
    let head = Head {
        id: SessionId::from_parts(1_795_327_511_000, [7; 10]),
        title: "Vụ bà Nguyễn Thị X".into(),
        state: State::Ended,
        central: identity.id(),
        points: vec![Member { number, node: identity.id(), name: "Xã Kim Thành".into() }],
        epochs: vec![Period::first(Hash::NONE)],
        suite: Default::default(),
        started_unix_ms: 1_795_327_511_000,
        ended_unix_ms: Some(1_795_327_512_000),
    };
    archive.put_head(&head).expect("a good head");
    Point::on(data, "Xã Kim Thành")
}

fn log(data: &Path, more: &[&str]) -> Vec<AccessLine> {
    Call::new(["log", "access", "--json"].iter().chain(more)).data(data).json()
}

/// There is nothing in the session, so the export ends without a film; what matters is what it leaves in the log.
fn export(data: &Path, code: i32) -> Finished {
    let films = data.with_file_name("films");
    Call::new(["archive", "export", "last", "--to"]).arg(films).data(data).run().ended_with(code)
}

#[test]
fn an_export_stands_in_the_log_whether_the_node_runs_or_not() {
    let folder = Folder::new();
    let mut point = point(&folder);
    assert_eq!(log(&point.data, &[]), []);
    export(&point.data, 3);
    point.run(&["--port", "0"]);
    export(&point.data, 3);
    // Listing and showing open nothing.
    Call::new(["archive", "list"]).data(&point.data).run().succeeded();
    Call::new(["archive", "show", "last"]).data(&point.data).run().succeeded();
    let running = log(&point.data, &[]);
    point.stop();
    let stopped = log(&point.data, &[]);
    assert_eq!(running, stopped);
    let session = SessionId::from_parts(1_795_327_511_000, [7; 10]).to_string();
    assert_eq!(stopped.iter().map(|line| line.n).collect::<Vec<_>>(), [0, 1]);
    for line in &stopped {
        let told = (line.by.as_str(), line.deed.as_str(), line.what.as_deref(), line.which.as_ref(), &line.refused);
        assert_eq!(told, ("local", "export", Some("session"), Some(&session), &None));
    }
    assert_eq!(log(&point.data, &["--who", "local"]).len(), 2);
    assert_eq!(log(&point.data, &["--refused"]).len(), 0);
    assert_eq!(log(&point.data, &["--from", "2100-01-01"]).len(), 0);
    let table = Call::new(["log", "access"]).data(&point.data).run().succeeded().stdout;
    assert!(table.contains(&format!("export  session {session}")), "{table}");
    assert!(!table.contains("Nguyễn"), "what a session is about is not in the log: {table}");
}

#[test]
fn an_export_that_cannot_be_written_down_is_not_made() {
    let folder = Folder::new();
    let point = point(&folder);
    let taken = Logbook::open(&config::archive(&point.data)).expect("a log");
    let done = export(&point.data, 5);
    assert!(done.stderr.contains("must stand in the access log"), "{done}");
    assert!(!folder.join("films").exists());
    drop(taken);
    assert_eq!(log(&point.data, &[]), []);
}

#[test]
fn a_point_without_the_right_to_read_exports_nothing_and_the_log_says_who_tried() {
    let folder = Folder::new();
    let mut point = point(&folder);
    let mut own = entry(&point.data, "Xã Kim Thành");
    own.rights.remove(&Right::Read);
    let membership = roster::for_good("Thử", vec![own]).expect("a good roster");
    // Under another authority than the one before, so with an archive that has not seen that.
    roster::save(&point.data, &membership).expect("room for a roster");
    let refused = |data: &Path| {
        let done = export(data, 5);
        assert!(done.stderr.contains("lacks the right \"read\""), "{done}");
        assert!(!folder.join("films").exists());
    };
    refused(&point.data);
    point.run(&["--port", "0"]);
    refused(&point.data);
    Call::new(["archive", "show", "last"]).data(&point.data).run().succeeded();
    point.stop();
    let lines = log(&point.data, &["--refused"]);
    let told = |line: &AccessLine| (line.by.clone(), line.deed.clone(), line.times);
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), vec![("local".into(), "export".into(), 1); 2]);
}

#[test]
fn a_log_that_somebody_touched_is_shown_with_the_place_and_ends_with_4() {
    let folder = Folder::new();
    let mut point = point(&folder);
    (0..3).for_each(|_| drop(export(&point.data, 3)));
    let (meta, _) =
        Rocks::open(Store::Meta, &config::archive(&point.data).join("meta")).expect("a stopped node's archive");
    let entry = |n| meta.get(Column::Access, &schema::access_key(n)).expect("a disk that works").expect("an entry");
    let mut bytes = entry(1).to_vec();
    let at = bytes.len() - 80;
    bytes[at] ^= 1;
    let mut batch = Batch::new();
    batch.put(Column::Access, &schema::access_key(1), Bytes::from(bytes));
    meta.write(batch, Durability::Synced).expect("a disk that works");
    drop(meta);

    let check = |data: &Path| {
        let done = Call::new(["log", "access", "--json"]).data(data).run().ended_with(4);
        assert!(done.stderr.contains("access log entry 1 "), "{done}");
        let lines: Vec<AccessLine> = serde_json::from_str(&done.stdout).expect("JSON alone");
        assert_eq!(lines.iter().map(|line| line.n).collect::<Vec<_>>()[..2], [0, 2]);
    };
    check(&point.data);
    point.run(&["--port", "0"]);
    check(&point.data);
    // What happens now is still written down.
    export(&point.data, 3);
    check(&point.data);
    point.stop();
}

#[test]
fn a_point_that_never_ran_has_an_empty_log_and_an_empty_folder_is_a_mistake() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    assert_eq!(log(&data, &[]), []);
    assert!(!config::archive(&data).exists(), "looking makes nothing");
    fs::create_dir(folder.join("empty")).expect("room for a folder");
    Call::new(["log", "access"]).data(folder.join("empty")).run().ended_with(3);
}
