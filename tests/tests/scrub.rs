//! Bit rot: what a disk changed by itself is found by one scrub, never given out as right, and mended by other points.

use std::fs;
use std::path::Path;
use std::time::Duration;

use node::control::scrub::Scrubs;
use store::archive::Archive;
use store::id::SessionId;
use store::roster::Right;
use tests::office::{Office, Point, alone};
use tests::program::{Call, until};

/// A manifest is signed, offered, fetched and signed for.
const COPIED_WITHIN: Duration = Duration::from_secs(90);

/// Flips a bit in some places of every file of a stopped node's groups.
fn rot(point: &Point, places: usize) {
    let media = point.data.join("archive").join("media");
    let files = fs::read_dir(media).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut flipped = 0;
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "blob")) {
        let mut bytes = fs::read(&file).expect("a file");
        let len = bytes.len();
        (1..=places).for_each(|n| bytes[n * len / (places + 1)] ^= 1);
        fs::write(&file, bytes).expect("a file");
        flipped += places;
    }
    assert!(flipped > 0, "pictures lie in files of their own");
}

fn scrub(point: &Point) -> Scrubs {
    Call::new(["archive", "scrub", "--now", "--json"]).data(&point.data).json()
}

/// How many groups a point's archive calls lost, as it lies on the disk.
fn lost(data: &Path, session: &SessionId) -> u64 {
    let archive = Archive::open_read_only(&data.join("archive")).expect("the archive opens");
    archive.lost(session).expect("a count").values().map(store::inventory::Have::len).sum()
}

#[test]
fn flipped_bits_at_central_a_delegate_and_a_holder_are_found_by_one_scrub_and_mended_by_the_others() {
    let _machine = alone();
    let mut office =
        Office::of(&[("Trung tâm", &Right::ALL), ("Xã Kim Thành", &[Right::Read]), ("Kho lưu trữ", &[Right::Hold])]);
    let port = office.points[0].run(&["--port", "0"]).own.mesh_port;
    let peer = format!("127.0.0.1:{port}");
    office.points[1..].iter_mut().for_each(|point| drop(point.run(&["--port", "0", "--peer", &peer])));
    office.wait_until_met();
    let call = Call::new(["session", "start", "--title", "Tiếp công dân", "--point", "Xã Kim Thành", "--json"]);
    let started: node::control::Session = call.data(&office.points[0].data).json();
    let (session, id) = (started.id.clone(), started.id.parse::<SessionId>().expect("an id"));
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(40);
    let during = scrub(&office.points[0]);
    assert_eq!(during.sessions, [], "a session that runs is not read again");
    office.points[0].end_session();
    until("two others hold all of it", COPIED_WITHIN, || {
        (office.points[0].session(&session).holders == 2).then_some(())
    });
    let clean = scrub(&office.points[0]);
    assert_eq!((clean.sessions[0].faults, clean.sessions[0].lost, clean.alarm), (0, 0, false));
    assert_eq!(clean.sessions[0].read, clean.sessions[0].groups);
    assert!(clean.sessions[0].checked.is_some());
    office.stop();
    let before = office.points[0].kept(&session);

    for damaged in 0..3 {
        rot(&office.points[damaged], 4);
        let port = office.points[0].run(&["--port", "0"]).own.mesh_port;
        let peer = format!("127.0.0.1:{port}");
        office.points[1..].iter_mut().for_each(|point| drop(point.run(&["--port", "0", "--peer", &peer])));
        office.wait_until_met();
        let found = scrub(&office.points[damaged]);
        let read = &found.sessions[0];
        assert!(read.faults >= 3 && read.found.len() as u64 >= read.faults, "{damaged}: {read:?}");
        assert_eq!(read.lost, 0, "{damaged}: {read:?}\n{}", office.points[damaged].log());
        assert!(found.alarm && office.points[damaged].status().disk.alarm, "three in a day");
        assert_eq!(scrub(&office.points[damaged]).sessions[0].faults, 0, "{damaged}: it is whole again");
        office.stop();
        let after = office.points[damaged].kept(&session);
        after.must_have(&before, "the point before its disk changed");
        assert_eq!(lost(&office.points[damaged].data, &id), 0);
        let stopped: Scrubs = Call::new(["archive", "scrub", "--json"]).data(&office.points[damaged].data).json();
        assert!(stopped.sessions[0].found.len() >= 3, "what was found is told of a stopped node too");
    }
}
