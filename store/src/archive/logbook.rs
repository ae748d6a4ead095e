//! Where the access log lies: one column of `meta`, which this writes and reads and nothing removes from.
//!
//! It opens without the groups, because a command that exports from a stopped node must write down that it does, and
//! has no other reason to open the archive for writing. The end of the log is looked up at each write and not
//! remembered: whoever writes, a node or a command between two runs of it, goes on where the disk ends.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{Archive, Error, broken, check_layout, make_private};
use crate::{
    access::{Access, Chain},
    db::{Batch, Db, Durability, rocks::Rocks},
    id::NodeId,
    keys::NodeKey,
    schema::{self, Column, Store},
};

/// The access log of one archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logbook {
    meta: Arc<dyn Db>,
    /// A turn of its own: an entry is in no batch with anything else, so it need not wait for groups being synced.
    writing: Arc<Mutex<()>>,
    read_only: bool,
}

/// Entries as they are stored, and the end of the log before the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Reads these entries: see [`Chain::read`].
    pub chain: Chain,
    /// Numbers and bytes, rising, unchecked.
    pub entries: Vec<(u64, Bytes)>,
}

impl Archive {
    /// The access log.
    pub fn logbook(&self) -> Logbook {
        Logbook { meta: Arc::clone(&self.meta), writing: Arc::clone(&self.logging), read_only: self.read_only }
    }
}

impl Logbook {
    /// Opens the log of the archive in `dir` for writing, and makes it if it is not there. Not possible while a
    /// node has the archive: [`crate::db::Error::Busy`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        make_private(dir)?;
        let (meta, _) = Rocks::open(Store::Meta, &dir.join(Store::Meta.name())).map_err(broken(Store::Meta))?;
        Logbook::over(Arc::new(meta))
    }

    /// Opens the log of the archive in `dir` for reading, as it is at this moment.
    pub fn open_read_only(dir: &Path) -> Result<Self, Error> {
        if !dir.join(Store::Meta.name()).join("CURRENT").is_file() {
            return Err(Error::Absent(dir.to_owned()));
        }
        let meta = Rocks::open_read_only(Store::Meta, &dir.join(Store::Meta.name())).map_err(broken(Store::Meta))?;
        check_layout(&meta)?;
        Ok(Logbook { meta: Arc::new(meta), writing: Arc::default(), read_only: true })
    }

    fn over(meta: Arc<dyn Db>) -> Result<Self, Error> {
        super::set_layout(&*meta)?;
        check_layout(&*meta)?;
        Ok(Logbook { meta, writing: Arc::default(), read_only: false })
    }

    /// Writes these in order, in one synced batch, signed with the node's key.
    pub fn append(&self, key: &NodeKey, wall_ms: u64, accesses: Vec<Access>) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        // The guarded value is nothing, so a writer that panicked left nothing half done in it.
        let _writing = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut chain = self.end(key.id())?;
        let mut batch = Batch::new();
        for access in accesses {
            let n = chain.len();
            batch.put(Column::Access, &schema::access_key(n), chain.append(key, wall_ms, access).bytes().clone());
        }
        if !batch.is_empty() {
            self.meta.write(batch, Durability::Synced)?;
        }
        Ok(())
    }

    /// Ends the work of this program with the log: see [`Archive::settle`], which does it for a whole archive.
    pub fn settle(&self) -> Result<(), Error> {
        Ok(self.meta.settle()?)
    }

    fn end(&self, node: NodeId) -> Result<Chain, Error> {
        match self.meta.last(Column::Access, &[], None)? {
            Some((key, bytes)) => Ok(Chain::after(node, number(&key)?, &bytes)),
            None => Ok(Chain::new(node)),
        }
    }

    /// At most `limit` entries from number `from` on, of the log that `node` signs. A reader that goes from page to page,
    /// each from the number after the last, has checked every link.
    pub fn page(&self, node: NodeId, from: u64, limit: usize) -> Result<Logged, Error> {
        let mut entries: Vec<(u64, Bytes)> = Vec::new();
        let mut bad = Ok(());
        // One entry earlier, which the first one must follow.
        let first = schema::access_key(from.saturating_sub(1));
        self.meta.scan(Column::Access, &first, None, &mut |key, value| {
            match number(key) {
                Ok(n) => entries.push((n, Bytes::copy_from_slice(value))),
                Err(error) => bad = Err(error),
            }
            if entries.len() > limit || bad.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bad?;
        let chain = match entries.first() {
            Some((n, bytes)) if *n < from => {
                let chain = Chain::after(node, *n, bytes);
                entries.remove(0);
                chain
            }
            _ => Chain::new(node),
        };
        entries.truncate(limit);
        Ok(Logged { chain, entries })
    }
}

fn number(key: &[u8]) -> Result<u64, Error> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Error::Unreadable("access log".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{self, Deed, Entry, What, Who},
        db::{self, memory::Memory},
    };

    fn key() -> NodeKey {
        NodeKey::from_bytes(&[5; 32])
    }

    fn access(n: u64) -> Access {
        Access::done(Who::Local {}, Deed::Export, What::Roster { number: n }, n)
    }

    fn append(log: &Logbook, numbers: std::ops::Range<u64>) -> Result<(), Error> {
        log.append(&key(), 7, numbers.map(access).collect())
    }

    /// Reads the whole log in pages of `limit`: what it tells, and its faults.
    fn read(log: &Logbook, limit: usize) -> (Vec<Entry>, Vec<access::Error>) {
        let (mut entries, mut faults, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            let mut page = log.page(key().id(), from, limit).unwrap();
            for (n, bytes) in page.entries.iter().cloned() {
                let (entry, fault) = page.chain.read(n, bytes);
                entries.extend(entry);
                faults.extend(fault);
                from = n + 1;
            }
            if page.entries.len() < limit {
                return (entries, faults);
            }
        }
    }

    fn told(log: &Logbook) -> Vec<Access> {
        read(log, 100).0.into_iter().map(|entry| entry.access).collect()
    }

    #[test]
    fn what_is_written_is_read_in_pages_of_any_size_and_every_link_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        for log in [Logbook::over(Arc::new(Memory::new())).unwrap(), Logbook::open(dir.path()).unwrap()] {
            assert_eq!(read(&log, 10), (vec![], vec![]));
            append(&log, 0..5).unwrap();
            append(&log, 5..5).unwrap();
            append(&log, 5..11).unwrap();
            for limit in [1, 3, 11, 100] {
                let (entries, faults) = read(&log, limit);
                assert_eq!(faults, [], "pages of {limit}");
                assert_eq!(entries.iter().map(|entry| entry.n).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
                assert_eq!(
                    entries.into_iter().map(|e| e.access).collect::<Vec<_>>(),
                    (0..11).map(access).collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn a_command_between_two_runs_of_a_node_continues_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        append(&archive.logbook(), 0..2).unwrap();
        assert_eq!(Logbook::open(dir.path()).unwrap_err(), Error::Storage(db::Error::Busy));
        drop(archive);
        append(&Logbook::open(dir.path()).unwrap(), 2..3).unwrap();
        append(&Archive::open(dir.path()).unwrap().logbook(), 3..4).unwrap();
        let log = Logbook::open_read_only(dir.path()).unwrap();
        assert_eq!(told(&log), (0..4).map(access).collect::<Vec<_>>());
        assert_eq!(read(&log, 9).1, []);
        assert_eq!(append(&log, 4..5), Err(Error::ReadOnly));
        let nowhere = dir.path().join("nowhere");
        assert_eq!(Logbook::open_read_only(&nowhere).unwrap_err(), Error::Absent(nowhere));
    }

    #[test]
    fn a_log_is_on_the_disk_when_the_write_returns() {
        let meta = Arc::new(Memory::new());
        let log = Logbook::over(meta.clone()).unwrap();
        append(&log, 0..3).unwrap();
        meta.crash(0);
        assert_eq!(told(&log).len(), 3);
    }

    #[test]
    fn a_full_disk_refuses_the_entry_and_the_next_takes_its_number() {
        let meta = Arc::new(Memory::new());
        let log = Logbook::over(meta.clone()).unwrap();
        append(&log, 0..1).unwrap();
        meta.set_capacity(Some(1));
        assert_eq!(append(&log, 1..2), Err(Error::Storage(db::Error::Full)));
        meta.set_capacity(None);
        append(&log, 2..3).unwrap();
        assert_eq!(told(&log), [access(0), access(2)]);
        assert_eq!(read(&log, 9).1, []);
    }

    #[test]
    fn what_was_removed_or_rewritten_on_the_disk_is_named_and_the_log_goes_on() {
        let meta = Arc::new(Memory::new());
        let log = Logbook::over(meta.clone()).unwrap();
        append(&log, 0..6).unwrap();
        let mut batch = Batch::new();
        batch.delete(Column::Access, &schema::access_key(2));
        batch.put(Column::Access, &schema::access_key(4), &b"rot"[..]);
        meta.write(batch, Durability::Synced).unwrap();
        append(&log, 6..7).unwrap();
        for limit in [1, 2, 9] {
            let (entries, faults) = read(&log, limit);
            assert_eq!(entries.iter().map(|entry| entry.n).collect::<Vec<_>>(), [0, 1, 3, 5, 6]);
            assert_eq!(faults[0], access::Error::Number { n: 2, found: 3 }, "pages of {limit}");
            assert!(matches!(faults[1], access::Error::Entry { n: 4, .. }));
            assert_eq!(faults[2..], [access::Error::Link { n: 5 }]);
        }
        // The first ones as well.
        let mut batch = Batch::new();
        batch.delete(Column::Access, &schema::access_key(0));
        meta.write(batch, Durability::Synced).unwrap();
        assert_eq!(read(&log, 9).1[0], access::Error::Number { n: 0, found: 1 });
    }

    #[test]
    fn many_writers_make_one_chain() {
        let log = Logbook::over(Arc::new(Memory::new())).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20).for_each(|n| append(&log, n..n + 1).unwrap()));
            }
        });
        let (entries, faults) = read(&log, 1000);
        assert_eq!((entries.len(), faults), (160, vec![]));
    }
}
