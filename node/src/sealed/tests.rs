//! That a folder appears whole or not at all, and that what is read from one is what was stored.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use store::archive::{Archive, Signing};
use store::db::memory::Memory;
use store::id::{GroupId, NodeId, PointNumber, TrackKind};
use store::journal::{Chain, EndReason, Event};
use store::keys::{NodeKey, SessionKey, WrapContext, WrapKey};
use store::record::{Flags, Writer};
use store::schema::Column;
use store::seal::{Sealer, Start, Suite};
use store::session::{Head, Member, Period, State};
use store::signed::Signed;
use store::verify::{Exhibit, Options, verify};

use super::*;

fn key() -> NodeKey {
    NodeKey::from_bytes(&[1; 32])
}

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [1; 10])
}

fn track() -> TrackId {
    TrackId::new(PointNumber::new(1).unwrap(), TrackKind::Main)
}

fn head(session_key: &SessionKey) -> Head {
    Head {
        id: session(),
        title: "Định kỳ".into(),
        state: State::Ended,
        central: key().id(),
        points: vec![Member { number: track().point(), node: key().id(), name: "Trung tâm".into() }],
        epochs: vec![Period::first(session_key.commitment())],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: Some(1_700_000_060_000),
    }
}

/// An archive of one point that recorded three groups, and the database its groups lie in.
fn archive() -> (Archive, Arc<Memory>) {
    let media = Arc::new(Memory::default());
    let archive = Archive::over(Arc::new(Memory::default()), media.clone()).unwrap();
    let session_key = SessionKey::from_bytes(&[7; 32]);
    let head = head(&session_key);
    for seq in 0..3 {
        let start = Start::from_bits(seq);
        let sealer = Sealer::new(&session_key, Suite::default(), session(), key().id(), track(), 0, start);
        let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
        writer.frame(0, Flags { key: true, discardable: false }, b"words").unwrap();
        archive.put_groups(&[writer.finish().record]).unwrap();
    }
    let context = WrapContext { session: session(), epoch: 0, recipient: key().id() };
    let wrap = session_key.wrap(&WrapKey::from_bytes(&[5; 32]).public(), &context).unwrap();
    archive.put_wraps(&session(), 0, &[(key().id(), wrap)]).unwrap();
    let mut chain = Chain::new(session(), key().id());
    let started = Event::Started { title: head.title.clone(), points: head.points.clone() };
    for event in [started, Event::Ended { reason: EndReason::Closed }] {
        archive.append_journal(&chain.append(&key(), 0, 0, event)).unwrap();
    }
    let keys = BTreeMap::from([(0, session_key)]);
    let (point, node) = (track().point(), key().id());
    let by = Signing { session: session(), point, node, tracks: &[track()], keys: &keys };
    let segment = archive.gather_segment(&by, 0, true).unwrap().unwrap();
    archive.sign_segment(&key(), segment).unwrap();
    archive.put_head(&head).unwrap();
    let manifest = archive.draw_manifest(&head, 0).unwrap();
    archive.put_manifest(&Signed::sound(manifest, &key()).unwrap()).unwrap();
    (archive, media)
}

fn found(exhibit: &dyn Exhibit) -> Vec<String> {
    let report = verify(exhibit, &Options::default(), &mut |_, _| {});
    report.findings.iter().map(ToString::to_string).collect()
}

/// The rosters here are no rosters, which is always found.
const ROSTER_FOUND: &str = "roster: ";

#[test]
fn what_is_in_the_folder_is_what_is_in_the_archive() {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = archive();
    let to = place.path().join("new/recording");
    let written = write(&archive, &session(), b"roster", &to, &mut |_, _| {}).unwrap();
    assert_eq!((written.groups, written.segments, written.entries), (3, 1, 2));
    let names: Vec<_> = fs::read_dir(place.path().join("new")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [&*to], "nothing lies beside it");
    let folder = Folder::open(&to).unwrap();
    let stored = Stored { archive: &archive, session: session(), roster: Some(b"roster".to_vec().into()) };
    assert_eq!(folder.head(), stored.head());
    assert_eq!(folder.roster(), stored.roster());
    assert_eq!(folder.journal().collect::<Vec<_>>(), stored.journal().collect::<Vec<_>>());
    let segments = |exhibit: &dyn Exhibit| exhibit.segments(track().point()).collect::<Vec<_>>();
    assert_eq!(segments(&folder), segments(&stored));
    assert_eq!(folder.manifests().collect::<Vec<_>>(), stored.manifests().collect::<Vec<_>>());
    assert_eq!(folder.groups(), stored.groups());
    let id = GroupId { session: session(), track: track(), seq: 2 };
    assert_eq!(folder.group(&id), stored.group(&id));
    assert_eq!(folder.wraps(&key().id()).unwrap(), archive.wraps(&session(), &key().id()).unwrap());
    assert!(folder.wraps(&NodeId::from_bytes([9; 32])).unwrap().is_empty());
    for exhibit in [&folder as &dyn Exhibit, &stored] {
        let found = found(exhibit);
        assert!(found.len() == 1 && found[0].starts_with(ROSTER_FOUND), "{found:?}");
    }
}

#[test]
fn what_is_there_already_is_not_written_over_and_a_failure_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = archive();
    fs::write(place.path().join("mine"), "x").unwrap();
    let refused = write(&archive, &session(), b"", place.path(), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.fault(), Fault::Refused, "{refused}");
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write(&archive, &session(), b"", &empty, &mut |_, _| {}).unwrap();
    let missing = write(&archive, &SessionId::from_bytes([3; 16]), b"", &place.path().join("a"), &mut |_, _| {});
    assert_eq!(missing.unwrap_err().fault(), Fault::Missing);
    let mut left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty", "mine"]);
}

#[test]
fn what_a_crash_left_is_removed_and_what_a_person_put_there_is_not() {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = archive();
    let all = || {
        let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let export = |name: &str| write(&archive, &session(), b"", &place.path().join(name), &mut |_, _| {}).unwrap();
    export("a");
    fs::rename(place.path().join("a"), place.path().join(".b.half1")).unwrap();
    export("b");
    assert_eq!(all(), ["b"], "a whole one under a hidden name is what a crash may leave too");

    let theirs = place.path().join(".c.half1/groups/1-main");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("notes.txt"), "x").unwrap();
    fs::write(place.path().join(".c.half2"), "x").unwrap();
    export("c");
    assert_eq!(all(), [".c.half1", ".c.half2", "b", "c"]);
    assert_eq!(fs::read(theirs.join("notes.txt")).unwrap(), b"x");
}

#[test]
fn two_exports_of_one_name_do_not_disturb_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = archive();
    let to = place.path().join("a");
    let mut second = None;
    let mut begin_again = |_, _| {
        second.get_or_insert_with(|| write(&archive, &session(), b"", &to, &mut |_, _| {}));
    };
    let first = write(&archive, &session(), b"", &to, &mut begin_again);
    second.unwrap().unwrap();
    assert!(first.is_err(), "the name is taken by then");
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["a"], "and it leaves nothing");
}

#[test]
fn a_damaged_group_is_left_out_and_named() {
    let place = tempfile::tempdir().unwrap();
    let (archive, media) = archive();
    let id = GroupId { session: session(), track: track(), seq: 1 };
    media.damage(Column::Groups, &store::schema::group_key(&id));
    let to = place.path().join("recording");
    let written = write(&archive, &session(), b"", &to, &mut |_, _| {}).unwrap();
    assert_eq!((written.groups, written.damaged), (2, vec![id.to_string()]));
    let found = found(&Folder::open(&to).unwrap());
    assert!(found.iter().any(|what| what.contains("group 1 of 1-main")), "{found:?}");
}

#[test]
fn files_that_do_not_belong_there_or_are_cut_are_named() {
    let place = tempfile::tempdir().unwrap();
    let (archive, _) = archive();
    let to = place.path().join("recording");
    write(&archive, &session(), b"", &to, &mut |_, _| {}).unwrap();
    fs::write(to.join("groups/1-main/1.group"), "x").unwrap();
    fs::write(to.join("more"), "x").unwrap();
    let journal = fs::read(to.join(JOURNAL)).unwrap();
    fs::write(to.join(JOURNAL), &journal[..journal.len() - 1]).unwrap();
    let found = found(&Folder::open(&to).unwrap());
    for what in [
        "file more: does not belong to a recording",
        "file groups/1-main/1.group: does not belong to a recording",
        "journal entry 1: journal.cose ends in the middle of a record; what follows cannot be believed",
    ] {
        assert!(found.iter().any(|found| found == what), "{what}: {found:?}");
    }
}

#[test]
fn only_a_folder_that_says_so_is_a_recording() {
    let place = tempfile::tempdir().unwrap();
    assert_eq!(Folder::open(place.path()).unwrap_err().fault(), Fault::Missing);
    fs::write(place.path().join(MARK.0), "diemcau sealed recording 2\n").unwrap();
    assert_eq!(Folder::open(place.path()).unwrap_err().fault(), Fault::Refused);
}
