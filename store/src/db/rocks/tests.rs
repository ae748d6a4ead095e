//! What RocksDB's logs keep, and what is told when they do not: every byte of one is damaged in turn.
//!
//! What a killed process leaves is what lies in its folder at that moment, so a folder is copied while its database is
//! open.

use std::{fs, path::PathBuf};

use super::*;

/// A folder with a database in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("db")
    }

    /// The same files in another folder.
    fn copy(&self) -> Self {
        let copy = Folder::new();
        fs::create_dir(copy.path()).unwrap();
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    }

    /// The one log that holds something.
    fn log(&self) -> PathBuf {
        let logs = log::logs(&self.path()).unwrap();
        let mut full = logs.into_iter().filter(|path| path.metadata().unwrap().len() > 0);
        let log = full.next().unwrap();
        assert_eq!(full.next(), None);
        log
    }

    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.log()).unwrap();
        change(&mut bytes);
        fs::write(self.log(), bytes).unwrap();
    }
}

/// A column of each database whose values may have any form.
fn column(store: Store) -> Column {
    match store {
        Store::Meta => Column::Config,
        Store::Media => Column::Have,
    }
}

/// Values of many lengths, so that writes lie within blocks, across two and across several.
fn value(n: u64) -> Vec<u8> {
    let len = [40, 900, 5_000, 200, 70_000, 12, 33_000][n as usize % 7];
    (0..len).map(|at| (at as u64 * 31 + n * 7) as u8).collect()
}

const WRITES: u64 = 16;

fn write(db: &Rocks, store: Store, n: u64) {
    let mut batch = Batch::new();
    batch.put(column(store), &n.to_be_bytes(), value(n));
    batch.put(column(store), &[n as u8], &b"beside it"[..]);
    db.write(batch, Durability::Synced).unwrap();
}

/// What a killed process leaves after [`WRITES`] writes.
fn killed(store: Store) -> Folder {
    let folder = Folder::new();
    let (db, loss) = Rocks::open(store, &folder.path()).unwrap();
    assert_eq!(loss, None);
    (0..WRITES).for_each(|n| write(&db, store, n));
    folder.copy()
}

/// How many of the writes are there; a write is there with all it changed, or with nothing.
fn count(db: &Rocks, store: Store) -> u64 {
    let there = |n: u64| {
        let one = db.get(column(store), &n.to_be_bytes()).unwrap();
        let two = db.get(column(store), &[n as u8]).unwrap();
        assert_eq!(one.is_some(), two.is_some(), "half of write {n} is there");
        one.is_some_and(|one| {
            assert_eq!(one, value(n));
            true
        })
    };
    (0..WRITES).filter(|n| there(*n)).count() as u64
}

/// Opens a folder whose log something was done to, and sees that everything is there or the loss is named.
fn check(folder: &Folder, store: Store, what: &str) -> u64 {
    let read_only = Rocks::open_read_only(store, &folder.path());
    let (db, there) = match (Rocks::open(store, &folder.path()), store) {
        (Ok((db, None)), _) => {
            assert_eq!(count(&db, store), WRITES, "{what}: something is gone and nobody says so");
            assert_eq!(read_only.map(|db| count(&db, store)).map_err(|error| error.to_string()), Ok(WRITES), "{what}");
            (db, WRITES)
        }
        (Ok((db, Some(Loss { changes }))), Store::Media) => {
            let there = count(&db, store);
            // Of the first of all nobody knows which numbers it had.
            let told = there + changes / 2 == WRITES || changes == 0 && there >= WRITES - 7;
            assert!(told, "{what}: {changes} changes lost, they say, and {there} writes there");
            assert!(matches!(read_only, Err(Error::Damaged(_))), "{what}: {read_only:?}");
            (db, there)
        }
        (Err(Error::Damaged(_)), Store::Meta) => {
            assert!(matches!(read_only, Err(Error::Damaged(_))), "{what}: {read_only:?}");
            let again = Rocks::open(store, &folder.path());
            assert!(matches!(again, Err(Error::Damaged(_))), "{what}: refused once, then {again:?}");
            return 0;
        }
        (other, _) => panic!("{what}: {other:?}"),
    };
    write(&db, store, WRITES);
    drop(db);
    let (db, loss) = Rocks::open(store, &folder.path()).unwrap();
    assert_eq!((count(&db, store), loss), (there, None), "{what}: a loss is told once, and work goes on");
    there
}

/// Offsets of all fragments' headers in a log.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 7 <= bytes.len() {
        if at % (32 << 10) > (32 << 10) - 7 {
            at = at.next_multiple_of(32 << 10);
            continue;
        }
        found.push(at);
        at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    found
}

#[test]
fn a_flipped_byte_of_a_log_costs_what_it_hits_and_is_named() {
    for store in [Store::Meta, Store::Media] {
        let killed = killed(store);
        let log = fs::read(killed.log()).unwrap();
        let headers = headers(&log);
        // Each byte of some headers, with flips that make a length longer and shorter and a type another; and some bytes
        // of what lies between.
        let some = [0, headers.len() / 2, headers.len() - 1].map(|place| headers[place]);
        let mut flips: Vec<(usize, u8)> = Vec::new();
        for at in some {
            flips.extend((at..at + 7).flat_map(|at| [(at, 4), (at, 0x80)]));
        }
        flips.extend((0..log.len()).step_by(log.len() / 8).map(|at| (at, 1)));
        flips.push((log.len() - 1, 1));
        for (at, bit) in flips {
            let folder = killed.copy();
            folder.change(|bytes| bytes[at] ^= bit);
            let there = check(&folder, store, &format!("{store:?}: byte {at} of {} with {bit:#x}", log.len()));
            if store == Store::Media {
                assert!(there >= WRITES - 7, "byte {at}: only {there} writes survive");
            }
        }
    }
}

#[test]
fn a_log_cut_off_or_gone_is_named() {
    for store in [Store::Meta, Store::Media] {
        let killed = killed(store);
        let len = fs::metadata(killed.log()).unwrap().len() as usize;
        for cut in [1, 6, 7, 8, 3_000, len / 2, len - 5, len] {
            let folder = killed.copy();
            folder.change(|bytes| bytes.truncate(len - cut));
            check(&folder, store, &format!("{store:?}: the last {cut} bytes gone"));
        }
        let folder = killed.copy();
        fs::remove_file(folder.log()).unwrap();
        check(&folder, store, &format!("{store:?}: the log gone"));
        let folder = killed.copy();
        folder.change(|bytes| bytes[len / 3..len / 3 + 8_192].fill(0));
        check(&folder, store, &format!("{store:?}: two sectors of zeros"));
    }
}

#[test]
fn what_a_power_cut_leaves_half_written_is_dropped_and_no_loss() {
    for store in [Store::Meta, Store::Media] {
        let folder = Folder::new();
        let (db, _) = Rocks::open(store, &folder.path()).unwrap();
        (0..WRITES).for_each(|n| write(&db, store, n));
        let before = folder.copy();
        let whole = fs::metadata(folder.log()).unwrap().len() as usize;
        // Of five blocks and a half.
        let mut batch = Batch::new();
        batch.put(column(store), b"the last", vec![7; 180_000]);
        db.write(batch, Durability::Synced).unwrap();
        drop(db);
        let last = fs::read(folder.log()).unwrap()[whole..].to_vec();
        // It came to the disk up to somewhere, or with a hole where a sector did not.
        let mut torn: Vec<Vec<u8>> =
            [1, 6, 7, 19, 4_000, 32_768, 100_000, last.len() - 1].map(|len| last[..len].to_vec()).into();
        for hole in [0, 4_096, 65_536] {
            let mut bytes = last.clone();
            bytes[hole..hole + 4_096].fill(0);
            torn.push(bytes);
        }
        torn.push(vec![0; 50_000]);
        for (n, torn) in torn.iter().enumerate() {
            let folder = before.copy();
            folder.change(|bytes| bytes.extend_from_slice(torn));
            assert_eq!(check(&folder, store, &format!("{store:?}: torn {n}")), WRITES);
        }
    }
}

#[test]
fn a_settled_database_has_nothing_in_its_logs() {
    for store in [Store::Meta, Store::Media] {
        let folder = Folder::new();
        let (db, _) = Rocks::open(store, &folder.path()).unwrap();
        (0..WRITES).for_each(|n| write(&db, store, n));
        db.settle().unwrap();
        drop(db);
        for log in log::logs(&folder.path()).unwrap() {
            assert_eq!(fs::metadata(&log).unwrap().len(), 0);
            fs::remove_file(log).unwrap();
        }
        assert_eq!(check(&folder, store, "without its logs"), WRITES);
    }
}

#[test]
fn a_loss_among_several_logs_is_named_and_the_others_are_read() {
    let folder = Folder::new();
    let (db, _) = Rocks::open(Store::Media, &folder.path()).unwrap();
    for n in 0..WRITES {
        write(&db, Store::Media, n);
        if n == 5 || n == 9 {
            // A full buffer of one column begins a new log; the others' contents keep the old one.
            let mut batch = Batch::new();
            batch.put(Column::Addresses, b"n", n.to_be_bytes().to_vec());
            db.write(batch, Durability::Synced).unwrap();
            db.db.flush_cf(&db.column(Column::Addresses)).unwrap();
        }
    }
    let killed = folder.copy();
    drop(db);
    let logs = log::logs(&killed.path()).unwrap();
    assert_eq!(logs.len(), 3);
    let clean = log::survey(&killed.path()).unwrap();
    assert_eq!((clean.missing, clean.last), (0, Some(2 * WRITES + 2)));
    let len = fs::metadata(&logs[0]).unwrap().len();
    for log in &logs[..2] {
        let folder = killed.copy();
        let log = folder.path().join(log.file_name().unwrap());
        let mut bytes = fs::read(&log).unwrap();
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        fs::write(&log, bytes).unwrap();
        let (db, loss) = Rocks::open(Store::Media, &folder.path()).unwrap();
        let Loss { changes } = loss.unwrap();
        assert!((1..=4).contains(&changes), "{changes} changes, of {len} bytes");
        assert!(count(&db, Store::Media) >= WRITES - 2);
    }
}

#[test]
fn every_single_bit_of_a_log_counts() {
    // The logs alone, without the database: so each place can be tried.
    let killed = Folder::new();
    let (db, _) = Rocks::open(Store::Meta, &killed.path()).unwrap();
    for n in 0..8u64 {
        let mut batch = Batch::new();
        batch.put(Column::Config, &n.to_be_bytes(), vec![n as u8; 500 * n as usize]);
        db.write(batch, Durability::Synced).unwrap();
    }
    for n in 8..12u64 {
        let mut batch = Batch::new();
        batch.put(Column::Config, &n.to_be_bytes(), vec![n as u8; 9_000]);
        db.write(batch, Durability::Synced).unwrap();
    }
    let marked = mark::read(&killed.path());
    assert_eq!(marked, Some(12));
    let path = killed.log();
    let clean = fs::read(&path).unwrap();
    assert!(clean.len() > 32 << 10, "it has more than one block");
    for at in 0..clean.len() {
        let mut bytes = clean.clone();
        bytes[at] ^= 1 << (at % 8);
        let mut survey = Survey::default();
        survey.log(&path, &bytes[..]).unwrap();
        assert!(survey.is_damaged() || survey.last < marked, "byte {at}: {survey:?}");
    }
}

#[test]
fn a_mended_log_is_the_log_that_rocksdb_wrote() {
    let killed = killed(Store::Media);
    let clean = fs::read(killed.log()).unwrap();
    // A torn end alone is no damage and is left to RocksDB; here it only makes the log be written again.
    killed.change(|bytes| bytes.extend_from_slice(&[1; 1_000]));
    log::survey(&killed.path()).unwrap().mend().unwrap();
    assert!(fs::read(killed.log()).unwrap() == clean, "another form than RocksDB's");
    assert_eq!(check(&killed, Store::Media, "mended"), WRITES);
}

#[test]
fn near_a_full_disk_only_deletes_are_let_through() {
    let dir = tempfile::tempdir().unwrap();
    let (mut db, _) = Rocks::open(Store::Media, dir.path()).unwrap();
    let mut put = Batch::new();
    put.put(Column::Have, b"a", &b"1"[..]);
    db.write(put.clone(), Durability::Synced).unwrap();

    db.free_min = u64::MAX;
    let mut delete = Batch::new();
    delete.delete(Column::Have, b"a");
    assert_eq!(db.write(put.clone(), Durability::Synced), Err(Error::Full));
    db.write(delete, Durability::Synced).unwrap();
    assert_eq!(db.get(Column::Have, b"a"), Ok(None));

    db.free_min = 0;
    db.write(put, Durability::Synced).unwrap();
    assert!(db.get(Column::Have, b"a").unwrap().is_some());
}

#[test]
fn what_is_said_of_a_session_can_be_written_when_its_groups_have_filled_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let [meta, media] =
        [Store::Meta, Store::Media].map(|store| Rocks::open(store, &dir.path().join(store.name())).unwrap().0);
    assert!(media.free_min >= 4 * meta.free_min, "{} and {}", media.free_min, meta.free_min);
}

#[test]
fn a_column_of_an_older_program_goes_and_the_rest_stays() {
    let folder = Folder::new();
    drop(Rocks::open(Store::Media, &folder.path()).unwrap());
    let mut older = columns(Store::Media);
    older.push(ColumnFamilyDescriptor::new("part", Options::default()));
    let db = DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(&instance(), folder.path(), older).unwrap();
    db.put_cf(&db.cf_handle("part").unwrap(), b"k", b"half a group").unwrap();
    db.put_cf(&db.cf_handle(Column::Have.name()).unwrap(), b"k", b"kept").unwrap();
    drop(db);
    for _ in 0..2 {
        let (db, loss) = Rocks::open(Store::Media, &folder.path()).unwrap();
        assert_eq!(loss, None);
        assert_eq!(db.get(Column::Have, b"k").unwrap().as_deref(), Some(&b"kept"[..]));
        assert!(
            !DBWithThreadMode::<MultiThreaded>::list_cf(&instance(), folder.path()).unwrap().contains(&"part".into())
        );
    }
    let reading = Rocks::open_read_only(Store::Media, &folder.path()).unwrap();
    assert_eq!(reading.get(Column::Have, b"k").unwrap().as_deref(), Some(&b"kept"[..]));
}

#[test]
fn what_an_older_program_left_is_read_before_a_newer_one_has_written() {
    let folder = Folder::new();
    let older = columns(Store::Meta).into_iter().filter(|column| column.name() != Column::Access.name());
    let db = DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(&instance(), folder.path(), older).unwrap();
    db.put_cf(&db.cf_handle(Column::Config.name()).unwrap(), b"k", b"kept").unwrap();
    drop(db);
    let reading = Rocks::open_read_only(Store::Meta, &folder.path()).unwrap();
    assert_eq!(reading.get(Column::Config, b"k").unwrap().as_deref(), Some(&b"kept"[..]));
    assert_eq!(reading.get(Column::Access, b"k"), Ok(None));
    assert_eq!(reading.last(Column::Access, b"", None), Ok(None));
    let mut seen = 0;
    let mut visit = |_: &[u8], _: &[u8]| {
        seen += 1;
        ControlFlow::Continue(())
    };
    reading.scan(Column::Access, b"", None, &mut visit).unwrap();
    assert_eq!(seen, 0);
    drop(reading);
    let (writing, loss) = Rocks::open(Store::Meta, &folder.path()).unwrap();
    assert!(loss.is_none() && writing.last(Column::Access, b"", None) == Ok(None));
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_and_a_full_disk_is_not() {
    let read =
        "IO error: While pread offset 4096 len 8192: /var/lib/diemcau/archive/media/000012.sst: Input/output error";
    assert!(is_bad_sector(read));
    assert!(is_bad_sector("IO error: While open a file for random read: /a/media/000007.blob: Input/output error"));
    assert!(!is_bad_sector("IO error: While appending to file: /a/media/000012.log: No space left on device"));
    assert!(!is_bad_sector("Operation aborted: Input/output error"));
}
