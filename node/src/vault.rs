//! The one thread that owns the archive's disk: everything that is written goes through it, in order.
//!
//! A sync write costs the same for one group as for twenty, and on an office PC's disk it may cost fifty milliseconds.
//! So writers do not wait for each other: they queue, and the thread takes all groups that wait into one write and
//! confirms each of them after it. Order is kept across kinds: what was put before a journal entry is on the disk before
//! it. Encoder threads call [`Vault::put`], which waits only when the queue is full; that is the back-pressure a slow
//! disk exerts on the room, and the encoders drop pictures then, never sound.
//!
//! Reading needs no turn: RocksDB serves readers beside the writer, so those who fetch from us and the commands that list
//! go straight to the archive.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use store::archive::{self, Archive};
use store::id::GroupId;
use store::record::Record;

use crate::media::{Held, Shelf};

/// Jobs waiting: a 40-point session closes 40 groups a second, so this is three seconds of a disk that stands still,
/// at most some 40 MB.
const JOBS_MAX: usize = 128;

/// Groups in one write; archive notes: sixteen groups a sync when fetching, and a central's second of groups live.
const BATCH_MAX: usize = 64;

/// What is called when a group is on the disk, or could not be put there.
pub type Then = Box<dyn FnOnce(Result<(), archive::Error>) + Send>;

/// Any other work on the archive.
type Work = Box<dyn FnOnce(&Archive) + Send>;

enum Job {
    Put(Record, Then),
    Do(Work),
    Stop,
}

/// The vault is closed: the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the archive is closed, as the node is stopping")]
pub struct Closed;

/// A hold on the vault. Cheap to clone. [`Vault::close`] ends it for all.
#[derive(Clone)]
pub struct Vault {
    jobs: SyncSender<Job>,
    archive: Arc<Archive>,
    coming: Coming,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Groups that are queued and not yet on the disk; no more than the queue holds, and those who wait for a place in it.
#[derive(Clone, Default)]
struct Coming(Arc<Mutex<BTreeSet<GroupId>>>);

impl Coming {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<GroupId>) -> T) -> T {
        // Each change is one insertion or removal.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// Why the vault could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive's disk.
    #[error("the archive in {0} cannot be opened")]
    Archive(std::path::PathBuf, #[source] archive::Error),
    /// The system gave no thread.
    #[error("no thread for the archive could be started")]
    Thread(#[source] std::io::Error),
}

impl Vault {
    /// Opens the archive in `dir` and starts its thread.
    pub fn open(dir: &Path) -> Result<Vault, Error> {
        let archive = Archive::open(dir).map_err(|error| Error::Archive(dir.to_owned(), error))?;
        Vault::over(archive)
    }

    /// A vault over an archive that is open already.
    pub fn over(archive: Archive) -> Result<Vault, Error> {
        let archive = Arc::new(archive);
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let (owned, coming) = (Arc::clone(&archive), Coming::default());
        let written = coming.clone();
        let thread = std::thread::Builder::new()
            .name("vault".into())
            .spawn(move || run(&owned, &written, &queue))
            .map_err(Error::Thread)?;
        Ok(Vault { jobs, archive, coming, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Stores a whole group; `then` is called on the vault's thread once it is synced, or could not be, and must be
    /// quick. Waits while the queue is full, so never call it from a tokio worker.
    pub fn put(&self, record: Record, then: Then) -> Result<(), Closed> {
        let id = record.id();
        self.coming.with(|coming| coming.insert(id));
        self.jobs.send(Job::Put(record, then)).map_err(|_| {
            self.coming.with(|coming| coming.remove(&id));
            Closed
        })
    }

    /// Does anything else with the archive, in turn. Waits while the queue is full.
    pub fn then(&self, work: impl FnOnce(&Archive) + Send + 'static) -> Result<(), Closed> {
        self.jobs.send(Job::Do(Box::new(work))).map_err(|_| Closed)
    }

    /// Does something with the archive, in turn, and gives what came of it. Waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(&Archive) -> T + Send + 'static) -> Result<T, Closed> {
        let (send, receive) = sync_channel(1);
        self.then(move |archive| {
            // Nobody waits any more when this fails.
            let _ = send.send(work(archive));
        })?;
        receive.recv().map_err(|_| Closed)
    }

    /// The archive, for reading beside the writer.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Carries out everything queued so far, then ends the thread. Later jobs are refused.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // An error means that the thread has ended already.
        let _ = self.jobs.send(Job::Stop);
        if thread.join().is_err() {
            tracing::error!("the vault's thread panicked; what it had confirmed is on the disk");
        }
    }

    /// Leaves the archive in order once nobody writes to it any more: the last thing a node does. May take some seconds.
    pub fn settle(&self) {
        if let Err(error) = self.archive.settle() {
            tracing::warn!(%error, "the archive could not be left in order; what was confirmed is on the disk");
        }
    }
}

impl Shelf for Vault {
    fn get(&self, id: GroupId) -> Held {
        // In this order: what leaves the queue meanwhile is found on the disk.
        if self.coming.with(|coming| coming.contains(&id)) {
            return Held::NotYet;
        }
        match self.archive.get(&id) {
            Ok(record) => Held::Whole(record.bytes().clone()),
            Err(archive::Error::Missing(_)) => Held::Missing,
            Err(error @ archive::Error::Damaged(_)) => {
                tracing::error!(group = %id, %error, "a stored group is not what it was; it is not served");
                Held::Missing
            }
            Err(error) => {
                tracing::error!(group = %id, %error, "a stored group cannot be read now");
                Held::NotYet
            }
        }
    }
}

fn run(archive: &Archive, coming: &Coming, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            match job {
                Job::Stop => return,
                Job::Do(work) => work(archive),
                Job::Put(record, then) => {
                    let (mut records, mut thens) = (vec![record], vec![then]);
                    while records.len() < BATCH_MAX {
                        match queue.try_recv() {
                            Ok(Job::Put(record, then)) => {
                                records.push(record);
                                thens.push(then);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                        }
                    }
                    store(archive, coming, &records, thens);
                }
            }
        }
    }
}

/// Stores a batch. A group the archive refuses must not take the others with it, so after a failure each is tried
/// alone.
fn store(archive: &Archive, coming: &Coming, records: &[Record], thens: Vec<Then>) {
    let over = |record: &Record| coming.with(|coming| coming.remove(&record.id()));
    if archive.put_groups(records).is_ok() {
        records.iter().for_each(|record| {
            over(record);
        });
        thens.into_iter().for_each(|then| then(Ok(())));
        return;
    }
    for (record, then) in records.iter().zip(thens) {
        let result = archive.put_groups(std::slice::from_ref(record));
        if let Err(error) = &result {
            tracing::error!(group = %record.id(), %error, "a group could not be stored");
        }
        over(record);
        then(result.map(|_| ()));
    }
}

#[cfg(test)]
mod tests;
