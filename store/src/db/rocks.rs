//! RocksDB, and everything this program knows about it. Plain `DB`, because a full disk ends a `TransactionDB` for
//! good; two instances with the options below, each chosen by measurement.
//!
//! Groups are large values in blob files (BlobDB), written once: garbage collection is off since it rewrote live
//! groups again and again and, on a full disk, left no way to open. A session leaves by a range delete and
//! compaction, which frees whole files. An iterator reads every blob it passes and stops at a damaged one, so groups are
//! never scanned: their addresses and bitmaps are columns of their own with small values.
//!
//! The log is looked through before RocksDB sees it ([`log`]), and what it must have brought is compared with what it
//! brought ([`mark`]), because RocksDB drops what follows a damaged byte and says nothing. `meta` is then not opened, as it
//! is the truth; of `media` all that can be read is taken, and the loss is told.

mod crc32c;
mod log;
mod mark;

use std::{
    fmt,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ChecksumType, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, DBWithThreadMode, ErrorKind, FlushOptions, MultiThreaded, Options, ReadOptions, WriteBatch,
    WriteOptions, checkpoint::Checkpoint,
};

use self::{log::Survey, mark::Mark};
use super::{Batch, Change, Db, Durability, Error, Loss, Visitor, refuse_to_scan_groups};
use crate::schema::{Column, RETIRED, Store};

const MIB: usize = 1 << 20;

/// Values from here on go to blob files. Lower keeps sound groups (8 KB) there too, which measured best.
const BLOB_LEN_MIN: u64 = 4096;

/// Compaction and flush together write no faster than this, in bytes a second: they must not starve the recorder.
const BACKGROUND_RATE_MAX: i64 = 20 * MIB as i64;

/// How long a write waits for flushing and compaction to catch up before it fails. A burst of copies is over sooner; on
/// a full disk the caller must hear of it.
const STALL_MAX: Duration = Duration::from_secs(5);

/// How long it sleeps between two tries: a flush of 64 MiB at the background rate takes 3 s.
const STALL_STEP: Duration = Duration::from_millis(20);

/// With less free space than this, in bytes, nothing is written. All that is in memory (three buffers of 64 MiB and
/// the small ones) must still find room in tables: a RocksDB that could not flush for want of space kept its logs
/// too, and went on failing after some space had returned. Refusing before that costs nothing and ends at once.
pub(crate) const FREE_MIN: u64 = 256 * MIB as u64;

/// The same of `meta`, whose buffers are small. What is said of a session can be written, and the session closed, when the
/// groups have filled the disk.
const META_FREE_MIN: u64 = 64 * MIB as u64;

/// One RocksDB instance.
pub struct Rocks {
    db: DBWithThreadMode<MultiThreaded>,
    store: Store,
    free_min: u64,
    /// None when opened for reading. Held during a write, so that the number written down is that of a write that is done.
    mark: Option<Mutex<Mark>>,
}

impl Rocks {
    /// Opens the database in `dir` for writing, and makes it if it is not there. One process at a time can. A damaged
    /// `meta` is [`Error::Damaged`]; of a damaged `media` all that can be read is there, and what is not is told.
    pub fn open(store: Store, dir: &Path) -> Result<(Self, Option<Loss>), Error> {
        let rate_max = (store == Store::Media).then_some(BACKGROUND_RATE_MAX);
        Self::open_at(store, dir, rate_max)
    }

    /// The same of a database that nobody records into: it is written at the disk's speed.
    pub(crate) fn open_alone(store: Store, dir: &Path) -> Result<Self, Error> {
        Ok(Self::open_at(store, dir, None)?.0)
    }

    fn open_at(store: Store, dir: &Path, rate_max: Option<i64>) -> Result<(Self, Option<Loss>), Error> {
        let survey = log::survey(dir).map_err(|error| unreadable(dir, &error))?;
        if survey.is_damaged() {
            if store == Store::Meta {
                return Err(damaged(dir));
            }
            survey.mend().map_err(|error| unreadable(dir, &error))?;
        }
        let mut options = instance();
        let marked = mark::read(dir);
        let retired = retired(store, dir);
        let open = |options: &Options| {
            let old = retired.iter().map(|name| ColumnFamilyDescriptor::new(*name, Options::default()));
            let all = columns(store).into_iter().chain(old);
            DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(options, dir, all).map_err(error)
        };
        // Opening writes the log's groups (up to 192 MiB) to a blob file. It would keep to the rate too, and a node
        // that restarts in mid-session would be away for ten seconds; so that is done first, at the disk's speed.
        if has_log(dir) {
            drop(open(&options)?);
        }
        if let Some(rate_max) = rate_max {
            options.set_ratelimiter(rate_max, 100_000, 10);
        }
        let db = open(&options)?;
        for name in &retired {
            db.drop_cf(name).map_err(error)?;
        }
        let here = db.latest_sequence_number();
        let changes = survey.missing.saturating_add(beyond(here, marked, &survey));
        let loss = (changes > 0 || survey.is_damaged()).then_some(Loss { changes });
        if let Some(loss) = loss.filter(|_| store == Store::Meta) {
            return Err(cut(dir, loss.changes));
        }
        let mark = Mark::set(dir, here).map_err(|error| unreadable(dir, &error))?;
        let free_min = match store {
            Store::Media => FREE_MIN,
            Store::Meta => META_FREE_MIN,
        };
        Ok((Rocks { db, store, free_min, mark: Some(Mutex::new(mark)) }, loss))
    }

    /// Opens the database in `dir` as it is at this moment, for reading, even while another process writes. What is
    /// written afterwards is not seen, and once the writer compacts, files may vanish: then open again. A damaged one is
    /// [`Error::Damaged`]: only a writer can mend it.
    pub fn open_read_only(store: Store, dir: &Path) -> Result<Self, Error> {
        // Before the database, or the writer may have gone on in between.
        let marked = mark::read(dir);
        let survey = log::survey(dir).map_err(|error| unreadable(dir, &error))?;
        if survey.is_damaged() {
            return Err(damaged(dir));
        }
        // An older program made fewer columns; what is not there yet is read as empty.
        let there = names(dir);
        // Where no names can be read, opening says why.
        let is_there =
            |column: &ColumnFamilyDescriptor| there.is_empty() || there.iter().any(|name| name == column.name());
        let known = columns(store).into_iter().filter(is_there);
        let log_may_exist = false;
        let db =
            DBWithThreadMode::open_cf_descriptors_read_only(&instance(), dir, known, log_may_exist).map_err(error)?;
        match beyond(db.latest_sequence_number(), marked, &survey) {
            0 => Ok(Rocks { db, store, free_min: 0, mark: None }),
            changes => Err(cut(dir, changes)),
        }
    }

    /// Refuses what would take space that is needed to put away what is in memory. Deletes are let through.
    fn check_space(&self, batch: &Batch) -> Result<(), Error> {
        let puts = batch.changes().iter().any(|change| matches!(change, Change::Put(..)));
        if puts && free_space(self.db.path())? < self.free_min { Err(Error::Full) } else { Ok(()) }
    }

    /// The batch in RocksDB's form.
    fn writes(&self, batch: &Batch) -> WriteBatch {
        let mut writes = WriteBatch::default();
        for change in batch.changes() {
            match change {
                Change::Put(column, key, value) => writes.put_cf(&self.column(*column), key, value),
                Change::Delete(column, key) => writes.delete_cf(&self.column(*column), key),
                Change::DeleteRange(column, from, to) => writes.delete_range_cf(&self.column(*column), from, to),
            }
        }
        writes
    }

    /// A column to write to.
    fn column(&self, column: Column) -> Arc<BoundColumnFamily<'_>> {
        self.there(column).expect("a database opened for writing has all columns")
    }

    /// A column to read; one that an older program did not make is not there.
    fn there(&self, column: Column) -> Option<Arc<BoundColumnFamily<'_>>> {
        assert!(column.store() == self.store, "each column is asked for in its own database");
        self.db.cf_handle(column.name())
    }
}

impl fmt::Debug for Rocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rocks({}, {:?})", self.store.name(), self.db.path())
    }
}

/// Options of both instances.
fn instance() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // What a power cut leaves half written at the end of the log is dropped. So would be all that follows a damaged byte,
    // which is why the log was looked through before.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_total_wal_size(256 * MIB as u64);
    options.set_recycle_log_file_num(0);
    options.set_keep_log_file_num(5);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_bytes_per_sync(MIB as u64);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options
}

/// The names of the columns in `dir`. A database that is not there yet has none.
fn names(dir: &Path) -> Vec<String> {
    DBWithThreadMode::<MultiThreaded>::list_cf(&Options::default(), dir).unwrap_or_default()
}

/// The columns in `dir` that nothing is kept in any more.
fn retired(store: Store, dir: &Path) -> Vec<&'static str> {
    let there = names(dir);
    let ours = RETIRED.iter().filter(|(of, _)| *of == store).map(|(_, name)| *name);
    ours.filter(|name| there.iter().any(|found| found == name)).collect()
}

/// Whether a log in `dir` holds writes that are in no table yet.
fn has_log(dir: &Path) -> bool {
    let logs = log::logs(dir).unwrap_or_default();
    logs.iter().any(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0))
}

/// How many changes are known of that a database whose last change has the number `here` does not have.
fn beyond(here: u64, marked: Option<u64>, survey: &Survey) -> u64 {
    marked.max(survey.last).unwrap_or(0).saturating_sub(here)
}

fn damaged(dir: &Path) -> Error {
    Error::Damaged(format!("a log in {} cannot be read in the middle", dir.display()))
}

fn cut(dir: &Path, changes: u64) -> Error {
    Error::Damaged(format!("the last {changes} changes in {} are gone, though they were written", dir.display()))
}

fn unreadable(dir: &Path, error: &std::io::Error) -> Error {
    Error::Other(format!("{}: {error}", dir.display()))
}

/// The columns of an instance with their options. A column this program does not know fails the opening.
fn columns(store: Store) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(match store {
        Store::Meta => 8 * MIB,
        Store::Media => 32 * MIB,
    });
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_bloom_filter(10.0, false);
    table.set_checksum_type(ChecksumType::XXH3);
    let column = |column: Column| {
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_target_file_size_base(4 * MIB as u64);
        options.set_max_bytes_for_level_base(32 * MIB as u64);
        options.set_write_buffer_size(4 * MIB);
        if column == Column::Groups {
            options.set_write_buffer_size(64 * MIB);
            options.set_max_write_buffer_number(3);
            options.set_enable_blob_files(true);
            options.set_min_blob_size(BLOB_LEN_MIN);
            options.set_blob_file_size(256 * MIB as u64);
            options.set_blob_compression_type(DBCompressionType::None);
            options.set_enable_blob_gc(false);
        }
        ColumnFamilyDescriptor::new(column.name(), options)
    };
    // RocksDB insists on its own column; nothing is kept there.
    let default = ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, Options::default());
    store.columns().map(column).chain([default]).collect()
}

/// Bytes that may still be written to the disk of `dir`.
#[cfg(unix)]
pub(crate) fn free_space(dir: &Path) -> Result<u64, Error> {
    let disk = rustix::fs::statvfs(dir).map_err(|error| Error::Other(format!("{}: {error}", dir.display())))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Not asked for on this system, so only RocksDB itself notices that the disk is full.
#[cfg(not(unix))]
pub(crate) fn free_space(_dir: &Path) -> Result<u64, Error> {
    Ok(u64::MAX)
}

/// RocksDB gives some reasons as text only: a full disk, a lost file and a taken lock are known by their words.
fn error(error: rocksdb::Error) -> Error {
    let kind = error.kind();
    let text = error.into_string();
    match kind {
        ErrorKind::Corruption => Error::Damaged(text),
        ErrorKind::Incomplete => Error::Stalled,
        _ if text.contains("No space left on device") || text.contains("Out of space") => Error::Full,
        ErrorKind::IOError if text.contains("No such file or directory") => Error::Damaged(text),
        ErrorKind::IOError if text.contains("lock ") && text.contains("LOCK") => Error::Busy,
        _ => Error::Other(text),
    }
}

/// The same of a read. A sector the disk cannot read is damage to what lies there and to nothing else; RocksDB calls it a
/// failed call, as if to try again could help.
fn read_error(failed: rocksdb::Error) -> Error {
    match error(failed) {
        Error::Other(text) if is_bad_sector(&text) => Error::Damaged(text),
        error => error,
    }
}

/// Whether a failure is that of a disk that could not read a sector, in the system's words.
fn is_bad_sector(text: &str) -> bool {
    text.starts_with("IO error: ") && text.contains("Input/output error")
}

impl Db for Rocks {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        self.check_space(&batch)?;
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // Without this a write waits inside RocksDB until flushing can go on: for ever, on a full disk.
        options.set_no_slowdown(true);
        let mark = self.mark.as_ref().ok_or_else(|| Error::Other("opened for reading only".into()))?;
        let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        loop {
            match self.db.write_opt(self.writes(&batch), &options) {
                Err(error) if error.kind() == ErrorKind::Incomplete && began.elapsed() < STALL_MAX => {
                    std::thread::sleep(STALL_STEP);
                }
                result => {
                    result.map_err(error)?;
                    break;
                }
            }
        }
        if durability == Durability::Synced
            && let Err(error) = mark.write(self.db.latest_sequence_number())
        {
            // The write is done. What is lost is that the loss of it would be noticed.
            tracing::warn!(database = self.store.name(), %error, "the last write could not be noted down");
        }
        Ok(())
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let Some(column) = self.there(column) else { return Ok(None) };
        let value = self.db.get_cf(&column, key).map_err(read_error)?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, column: Column, from: &[u8], to: Option<&[u8]>, visit: &mut Visitor<'_>) -> Result<(), Error> {
        refuse_to_scan_groups(column);
        let Some(column) = self.there(column) else { return Ok(()) };
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(&column, options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(read_error)
    }

    fn last(&self, column: Column, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Vec<u8>, Bytes)>, Error> {
        refuse_to_scan_groups(column);
        let Some(column) = self.there(column) else { return Ok(None) };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(&column, options);
        iterator.seek_to_last();
        let last = iterator.item().map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value)));
        iterator.status().map_err(read_error)?;
        Ok(last)
    }

    fn settle(&self) -> Result<(), Error> {
        let columns: Vec<_> = self.store.columns().map(|column| self.column(column)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&columns.iter().collect::<Vec<_>>(), &options).map_err(error)
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), Error> {
        // The log is copied rather than flushed: a flush for every checkpoint would leave a small blob file each time.
        let without_flush = u64::MAX;
        let checkpoint = Checkpoint::new(&self.db).map_err(error)?;
        checkpoint.create_checkpoint_with_log_size(dir, without_flush).map_err(error)
    }
}

#[cfg(all(test, unix))]
mod tests;
