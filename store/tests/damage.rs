//! Damage to an archive's files on a real disk, seen from outside: whatever was acknowledged is there, or its loss is
//! named. Nothing is ever silently less.
//!
//! What a killed process leaves is what lies in its folder at that moment, so the folder of an open archive is copied.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use store::access::{Access, Deed, What, Who};
use store::archive::{Archive, Error, rebuild};
use store::id::{GroupId, Hash, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::{NodeKey, SessionKey};
use store::record::{Flags, Record, Writer};
use store::schema::Store;
use store::scrub::Fault;
use store::seal::{Sealer, Start, Suite};
use store::session::{Head, Member, Period, State};

/// Groups of each track.
const GROUPS: u64 = 12;

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn node() -> NodeId {
    NodeId::from_bytes([1; 32])
}

fn tracks() -> [TrackId; 2] {
    let point = PointNumber::new(1).expect("one is a point's number");
    [TrackKind::Audio, TrackKind::Main].map(|kind| TrackId::new(point, kind))
}

fn record(track: TrackId, seq: u64) -> Record {
    let key = SessionKey::from_bytes(&[7; 32]);
    let sealer = Sealer::new(&key, Suite::default(), session(), node(), track, 0, Start::from_bits(seq));
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    let len = if track.kind() == TrackKind::Audio { 2_000 } else { 30_000 };
    writer.frame(0, Flags { key: true, discardable: false }, &vec![seq as u8; len]).expect("a small frame");
    writer.finish().record
}

fn head(state: State) -> Head {
    let member = Member { number: PointNumber::new(1).expect("a number"), node: node(), name: "Trung tâm".into() };
    Head {
        id: session(),
        title: "Định kỳ".into(),
        state,
        central: node(),
        points: vec![member],
        epochs: vec![Period::first(Hash::NONE)],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: (state == State::Ended).then_some(1_700_000_060_000),
    }
}

/// An archive in a folder, and what it acknowledged.
struct Office {
    folder: tempfile::TempDir,
    promised: BTreeMap<GroupId, Hash>,
}

impl Office {
    fn home(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn media(&self) -> PathBuf {
        self.home().join(Store::Media.name())
    }

    /// An archive that is being written when its process dies.
    fn killed() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut office = Office { folder, promised: BTreeMap::new() };
        let archive = Archive::open(&office.home()).expect("a new archive");
        archive.put_head(&head(State::Open)).expect("a disk that works");
        for seq in 0..GROUPS {
            office.put(&archive, seq);
        }
        office.copy()
    }

    /// An archive that was ended politely.
    fn settled(state: State) -> Self {
        let office = Office::killed();
        let archive = Archive::open(&office.home()).expect("it opens");
        archive.put_head(&head(state)).expect("a disk that works");
        let access = Access::done(Who::Local {}, Deed::Export, What::Archive {}, 7);
        archive.logbook().append(&NodeKey::from_bytes(&[5; 32]), 7, vec![access]).expect("a disk that works");
        archive.settle().expect("a disk that works");
        office
    }

    fn put(&mut self, archive: &Archive, seq: u64) {
        let records = tracks().map(|track| record(track, seq));
        archive.put_groups(&records).expect("a disk that works");
        self.promised.extend(records.iter().map(|record| (record.id(), record.hash())));
    }

    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = Office { folder, promised: self.promised.clone() };
        copy_all(&self.home(), &copy.home());
        copy
    }

    /// The full logs of a database.
    fn logs(&self, store: Store) -> Vec<PathBuf> {
        self.files(store, "log")
    }

    fn files(&self, store: Store, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home().join(store.name())).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let full = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() > 0);
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).filter(full).collect()
    }

    /// Opens the archive and sees that what is missing is named, group by group or at least as lost; that it stays named
    /// when it is opened again; and that it is whole once the groups came back. Gives how many were missing.
    fn check(&self, what: &str) -> usize {
        let archive = Archive::open(&self.home()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let missing = self.missing(&archive, what);
        assert!(missing.is_empty() || archive.loss().is_some() || !lost(&archive).is_empty(), "{what}: silently less");
        for id in &missing {
            let have = archive.have(&session(), id.track).expect("an inventory");
            assert!(!have.contains(id.seq), "{what}: the inventory names {id}, which is gone");
        }
        let known = lost(&archive);
        assert!(known.iter().all(|id| missing.contains(id)), "{what}: {known:?} are called lost and are here");
        archive.settle().expect("a disk that works");
        drop(archive);

        let archive = Archive::open(&self.home()).expect("it opens again");
        assert_eq!((archive.loss(), lost(&archive)), (None, known), "{what}: opened again");
        let records: Vec<Record> = missing.iter().map(|id| record(id.track, id.seq)).collect();
        assert_eq!(archive.put_groups(&records), Ok(records.len()), "{what}");
        assert_eq!((self.missing(&archive, what), lost(&archive)), (Vec::new(), Vec::new()), "{what}: all came back");
        missing.len()
    }

    fn missing(&self, archive: &Archive, what: &str) -> Vec<GroupId> {
        let mut missing = Vec::new();
        for (id, hash) in &self.promised {
            match archive.get(id) {
                Ok(record) => assert_eq!(record.hash(), *hash, "{what}"),
                Err(Error::Missing(_)) => missing.push(*id),
                Err(error) => panic!("{what}: {error}"),
            }
        }
        missing
    }
}

/// Every group the archive calls lost.
fn lost(archive: &Archive) -> Vec<GroupId> {
    let lost = archive.lost(&session()).expect("a count");
    let ids = |(track, have): (&TrackId, &store::inventory::Have)| {
        let track = *track;
        have.runs().flatten().map(|seq| GroupId { session: session(), track, seq }).collect::<Vec<_>>()
    };
    lost.iter().flat_map(ids).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).expect("a file");
}

#[test]
fn after_a_clean_stop_no_log_can_lose_anything() {
    let office = Office::settled(State::Open);
    assert_eq!((office.logs(Store::Meta), office.logs(Store::Media)), (vec![], vec![]));
    for store in [Store::Meta, Store::Media] {
        for entry in fs::read_dir(office.home().join(store.name())).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                fs::remove_file(path).expect("a log");
            }
        }
    }
    assert_eq!(office.check("without logs"), 0);
}

#[test]
fn a_flipped_byte_after_a_kill_costs_the_groups_it_hits_and_they_are_named() {
    let killed = Office::killed();
    let [log] = &killed.logs(Store::Media)[..] else { panic!("one log") };
    let len = fs::metadata(log).expect("a log").len() as usize;
    let mut hit = 0;
    for at in (0..len).step_by(len / 16).chain([len - 40_000, len - 1]) {
        let office = killed.copy();
        flip(&office.media().join(log.file_name().expect("a name")), at);
        let read_only = Archive::open_read_only(&office.home());
        assert!(matches!(read_only, Err(Error::Broken { store: Store::Media, .. })), "byte {at}: {read_only:?}");
        let missing = office.check(&format!("byte {at} of {len}"));
        assert!((1..=6).contains(&missing), "byte {at}: {missing} groups are missing");
        hit += 1;
    }
    assert!(hit >= 16);
}

#[test]
fn a_log_of_groups_cut_off_or_gone_is_named() {
    let killed = Office::killed();
    let [log] = &killed.logs(Store::Media)[..] else { panic!("one log") };
    let len = fs::metadata(log).expect("a log").len();
    for left in [len - 1, len - 5_000, len / 2, 0] {
        let office = killed.copy();
        let log = office.media().join(log.file_name().expect("a name"));
        fs::OpenOptions::new().write(true).open(log).and_then(|file| file.set_len(left)).expect("a log");
        assert!(office.check(&format!("{left} bytes of {len} left")) > 0);
    }
    let office = killed.copy();
    fs::remove_file(office.media().join(log.file_name().expect("a name"))).expect("a log");
    assert_eq!(office.check("the log gone"), office.promised.len());
}

#[test]
fn a_damaged_log_of_the_truth_is_refused() {
    let killed = Office::killed();
    let [log] = &killed.logs(Store::Meta)[..] else { panic!("one log") };
    let len = fs::metadata(log).expect("a log").len() as usize;
    for at in (0..len).step_by(len / 8).chain([len - 1]) {
        let office = killed.copy();
        flip(&office.home().join(Store::Meta.name()).join(log.file_name().expect("a name")), at);
        for opened in [Archive::open_read_only(&office.home()), Archive::open(&office.home())] {
            assert!(matches!(opened, Err(Error::Broken { store: Store::Meta, .. })), "byte {at}: {opened:?}");
        }
    }
}

#[test]
fn groups_that_vanished_with_their_whole_database_are_named_one_by_one() {
    for state in [State::Open, State::Ended] {
        let office = Office::settled(state);
        fs::remove_dir_all(office.media()).expect("a folder");
        let archive = Archive::open(&office.home()).expect("an empty database is made");
        assert_eq!(lost(&archive), office.promised.keys().copied().collect::<Vec<_>>());
        drop(archive);
        assert_eq!(office.check("all groups gone"), office.promised.len());
    }
}

#[test]
fn a_lost_file_of_groups_is_damage_to_them_alone() {
    let mut office = Office::settled(State::Open);
    let old = office.files(Store::Media, "blob");
    let archive = Archive::open(&office.home()).expect("it opens");
    office.put(&archive, GROUPS);
    archive.settle().expect("a disk that works");
    drop(archive);
    old.iter().for_each(|blob| fs::remove_file(blob).expect("a file"));
    match Archive::open(&office.home()) {
        Ok(archive) => {
            for (id, hash) in &office.promised {
                match archive.get(id) {
                    // Sound of this length is kept elsewhere than pictures.
                    Ok(record) => {
                        assert_eq!(record.hash(), *hash);
                        assert!(id.seq == GROUPS || id.track.kind() == TrackKind::Audio, "{id}");
                    }
                    Err(error) => assert_eq!(error, Error::Damaged(*id)),
                }
            }
        }
        Err(error) => assert!(matches!(error, Error::Broken { store: Store::Media, .. }), "{error}"),
    }
}

/// Reads everything again, and gives what was found.
fn scrub(archive: &Archive) -> Vec<Fault> {
    let head = archive.head(&session()).expect("a readable head").expect("the session is known");
    let (mut faults, mut from) = (Vec::new(), None);
    loop {
        let stretch = archive.scrub(&head, from, 1 << 20).expect("a disk that works");
        archive.scrubbed(&head.id, &stretch, 1).expect("a disk that works");
        faults.extend(stretch.faults);
        from = stretch.next;
        if from.is_none() {
            return faults;
        }
    }
}

/// Reads everything again and puts back from elsewhere what is lost, as a node does with what other points hold. Until
/// then nothing is given out that is not what was promised.
fn heal(office: &Office, archive: &Archive, what: &str) -> Vec<Fault> {
    for (id, hash) in &office.promised {
        if let Ok(record) = archive.get(id) {
            assert_eq!(record.hash(), *hash, "{what}");
        }
    }
    let faults = scrub(archive);
    let records: Vec<Record> =
        office.promised.keys().filter(|id| archive.get(id).is_err()).map(|id| record(id.track, id.seq)).collect();
    assert_eq!(archive.put_groups(&records), Ok(records.len()), "{what}");
    assert_eq!(office.missing(archive, what), Vec::new(), "{what}: all came back");
    faults
}

#[test]
fn a_flipped_byte_in_any_file_of_groups_is_found_by_one_scrub_and_healed() {
    let whole = Office::settled(State::Ended);
    let mut found = 0;
    for extension in ["blob", "sst"] {
        for file in whole.files(Store::Media, extension) {
            let (name, len) = (file.file_name().expect("a name"), fs::metadata(&file).expect("a file").len() as usize);
            // The last bytes of a table say where everything else is; without them it does not open.
            for at in (0..len - 600).step_by((len / 9).max(1)) {
                let what = format!("byte {at} of {}", name.to_string_lossy());
                let office = whole.copy();
                flip(&office.media().join(name), at);
                let faults = match Archive::open(&office.home()) {
                    Ok(archive) => {
                        let lost = lost(&archive);
                        let faults = heal(&office, &archive, &what);
                        archive.settle().unwrap_or_else(|error| panic!("{what}: {error}"));
                        if faults.iter().any(|fault| matches!(fault, Fault::Table { .. })) {
                            rebuild::want(&office.home()).expect("room for a mark");
                        }
                        faults.len() + lost.len()
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Broken { store: Store::Media, .. }), "{what}: {error}");
                        continue;
                    }
                };
                found += usize::from(faults > 0);
                let archive = Archive::open(&office.home()).unwrap_or_else(|error| panic!("{what}: {error}"));
                heal(&office, &archive, &what);
                assert_eq!(scrub(&archive), [], "{what}: after it was built anew");
                assert_eq!(archive.totals(&session()).expect("a list").len(), 2, "{what}");
                assert!(!rebuild::is_wanted(&office.home()), "{what}");
            }
        }
    }
    assert!(found >= 9, "{found} flips hit something that is read");
}

#[test]
fn a_flipped_byte_in_a_table_of_the_truth_is_found_by_one_scrub_or_keeps_the_archive_shut() {
    let whole = Office::settled(State::Ended);
    let mut found = 0;
    for file in whole.files(Store::Meta, "sst") {
        let (name, len) = (file.file_name().expect("a name"), fs::metadata(&file).expect("a file").len() as usize);
        // The first block of a table holds its values.
        for at in [1, 9] {
            let office = whole.copy();
            flip(&office.home().join(Store::Meta.name()).join(name), at.min(len - 1));
            let what = format!("byte {at} of {}", name.to_string_lossy());
            match Archive::open(&office.home()) {
                Ok(archive) => {
                    let faults = scrub(&archive);
                    assert!(faults.iter().any(|fault| matches!(fault, Fault::Truth { .. })), "{what}: {faults:?}");
                    found += 1;
                }
                Err(error) => assert!(matches!(error, Error::Broken { .. } | Error::Storage(_)), "{what}: {error}"),
            }
        }
    }
    assert!(found > 0, "some tables are not read when the archive opens");
}
