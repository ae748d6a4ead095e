//! Writing the access log (`store::access`) while the node works, without making it wait.
//!
//! Two ways in. What was refused, or is done often, is dropped into a bounded queue and forgotten by the caller; a thread
//! counts it (`engine::tally`) and writes it within seconds, many entries with one sync. What must not happen unseen,
//! such as an export, asks [`Log::sure`] first: that returns when the entry is on the disk, and if it cannot be, the deed is
//! not done.
//!
//! When the queue is full its rest is a number in the log and no more: a flood costs us neither memory nor time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use store::access::{Access, Deed, Outcome, What, Who};
use store::archive::{self, Logbook};
use store::keys::NodeKey;

use crate::engine::tally::{Input, Tally};

/// Accesses waiting for the thread; some hundred kilobytes. Beyond, they are only counted.
const QUEUE_MAX: usize = 1024;
/// Entries waiting for the disk: all that one tally can give at once.
const PENDING_MAX: usize = 1024;
/// How long an entry that nobody waits for may wait for others, to be synced together.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// What is said of accesses that found the queue full or the disk unwilling.
const LOST: &str = "these could not be written down one by one";

/// It is not in the access log, so it must not be done.
#[derive(Debug, thiserror::Error)]
pub enum Unlogged {
    /// The disk refused.
    #[error("this must stand in the access log before it is done, and cannot be written there")]
    Disk(#[source] archive::Error),
    /// The node is on its way out.
    #[error("this must stand in the access log before it is done, and the node is stopping")]
    Stopping,
}

enum Note {
    /// Often: to be counted.
    Count(Access),
    /// Once: to be written soon.
    Write(Access),
    /// To be written now, with everything before it.
    Sure(Access, SyncSender<Result<(), archive::Error>>),
    Stop,
}

/// A hold on the log. Cheap to clone; [`Log::close`] ends it for all.
#[derive(Clone)]
pub struct Log {
    notes: SyncSender<Note>,
    lost: Arc<AtomicU64>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Starts the thread that writes.
    pub fn start(book: Logbook, key: NodeKey) -> Result<Log, std::io::Error> {
        let (notes, queue) = sync_channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            book,
            key,
            lost: Arc::clone(&lost),
            refused: Tally::default(),
            done: Tally::default(),
            pending: Vec::new(),
            due: None,
        };
        let thread = std::thread::Builder::new().name("access".into()).spawn(move || writer.run(&queue))?;
        Ok(Log { notes, lost, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// A log that keeps nothing and is sure of nothing, for parts that run without a node.
    pub fn nowhere() -> Log {
        let (notes, _) = sync_channel(0);
        Log { notes, lost: Arc::default(), thread: Arc::default() }
    }

    /// Says that something was refused. Never waits; what comes often is counted.
    pub fn refused(&self, who: Who, deed: Deed, what: What, reason: &str) {
        self.drop_in(Note::Count(Access::refused(who, deed, what, reason, unix_ms())));
    }

    /// Says that something was refused so many times. Never waits; it is counted.
    pub fn refused_often(&self, who: Who, deed: Deed, what: What, reason: &str, times: u64) {
        self.drop_in(Note::Count(Access { times, ..Access::refused(who, deed, what, reason, unix_ms()) }));
    }

    /// Says that something was done that may be done often, so many times. Never waits; it is counted.
    pub fn counted(&self, who: Who, deed: Deed, what: What, times: u64) {
        self.drop_in(Note::Count(Access { times, ..Access::done(who, deed, what, unix_ms()) }));
    }

    /// Says that something was done so many times since then. Never waits; it is written within seconds, so whoever says
    /// it gathers.
    pub fn done_often(&self, who: Who, deed: Deed, what: What, times: u64, since_ms: u64) {
        self.drop_in(Note::Write(Access { times, ..Access::done(who, deed, what, since_ms) }));
    }

    /// Says that something was done. Never waits; it is written within seconds.
    pub fn done(&self, who: Who, deed: Deed, what: What) {
        self.drop_in(Note::Write(Access::done(who, deed, what, unix_ms())));
    }

    /// Writes down what is about to be done and returns when that is on the disk. Do it only then. Waits for the
    /// disk, so never call it from a tokio worker.
    pub fn sure(&self, who: Who, deed: Deed, what: What) -> Result<(), Unlogged> {
        let (answer, written) = sync_channel(1);
        let note = Note::Sure(Access::done(who, deed, what, unix_ms()), answer);
        self.notes.send(note).map_err(|_| Unlogged::Stopping)?;
        written.recv().map_err(|_| Unlogged::Stopping)?.map_err(Unlogged::Disk)
    }

    /// Writes what was said so far and ends the thread. What is said later is lost.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // An error means that the thread has ended already.
        let _ = self.notes.send(Note::Stop);
        if thread.join().is_err() {
            tracing::error!("the access log's thread panicked; what it had confirmed is on the disk");
        }
    }

    fn drop_in(&self, note: Note) {
        if let Err(TrySendError::Full(Note::Count(access) | Note::Write(access))) = self.notes.try_send(note) {
            self.lost.fetch_add(access.times, Ordering::Relaxed);
        }
    }
}

struct Writer {
    book: Logbook,
    key: NodeKey,
    lost: Arc<AtomicU64>,
    /// Apart, so that a flood of strangers does not make those nameless who were let in.
    refused: Tally,
    done: Tally,
    pending: Vec<Access>,
    /// When what is pending must be on its way to the disk.
    due: Option<Instant>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Note>) {
        loop {
            let deadline = [self.due, self.refused.deadline(), self.done.deadline()].into_iter().flatten().min();
            let wait = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(Note::Count(access)) => self.count(access),
                Ok(Note::Write(access)) => self.write(access),
                Ok(Note::Sure(access, answer)) => {
                    self.pending.push(access);
                    // Nobody waits any more when this fails.
                    let _ = answer.send(self.sync());
                }
                Err(RecvTimeoutError::Timeout) => self.tick(Input::Tick),
                Ok(Note::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.tick(Input::Stop);
                    self.sync_soon();
                    return;
                }
            }
            if self.due.is_some_and(|due| due <= Instant::now()) || self.pending.len() >= PENDING_MAX {
                self.sync_soon();
            }
        }
    }

    fn count(&mut self, access: Access) {
        let tally = match access.outcome {
            Outcome::Done {} => &mut self.done,
            Outcome::Refused { .. } => &mut self.refused,
        };
        tally.handle(Instant::now(), Input::Happened(access));
        self.collect();
    }

    fn tick(&mut self, input: Input) {
        let now = Instant::now();
        self.refused.handle(now, input.clone());
        self.done.handle(now, input);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(access) = self.refused.poll().or_else(|| self.done.poll()) {
            self.write(access);
        }
    }

    fn write(&mut self, access: Access) {
        self.pending.push(access);
        self.due.get_or_insert_with(|| Instant::now() + SYNC_EVERY);
    }

    /// Puts what is pending on the disk, for nobody in particular.
    fn sync_soon(&mut self) {
        if let Err(error) = self.sync() {
            tracing::error!(error = &error as &dyn std::error::Error, "the access log cannot be written");
        }
    }

    fn sync(&mut self) -> Result<(), archive::Error> {
        self.due = None;
        let mut accesses = std::mem::take(&mut self.pending);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let now = unix_ms();
        if lost > 0 {
            let access = Access::refused(Who::Many {}, Deed::Ask, What::Log {}, LOST, now);
            accesses.push(Access { times: lost, ..access });
        }
        let times = accesses.iter().fold(0u64, |sum, access| sum.saturating_add(access.times));
        let written = self.book.append(&self.key, now, accesses);
        if written.is_err() {
            self.lost.fetch_add(times, Ordering::Relaxed);
        }
        written
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use store::access::{Chain, Door, Entry};
    use store::archive::Archive;
    use store::db;
    use store::db::memory::Memory;

    use super::*;

    fn key() -> NodeKey {
        NodeKey::from_bytes(&[5; 32])
    }

    fn archive(meta: &Arc<Memory>) -> Archive {
        Archive::over(meta.clone(), Arc::new(Memory::new())).expect("a database that works")
    }

    /// What stands in the log on the disk, which must be whole.
    fn read(meta: &Arc<Memory>) -> Vec<Entry> {
        let logged = archive(meta).logbook().page(key().id(), 0, 100_000).expect("a log");
        let mut chain = Chain::new(key().id());
        let entries = logged.entries.into_iter().map(|(n, bytes)| {
            let (entry, fault) = chain.read(n, bytes);
            assert_eq!(fault, None);
            entry.expect("without a fault")
        });
        entries.collect()
    }

    fn knock(log: &Log, from: u32) {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(from));
        log.refused(Who::Address { ip }, Deed::Connect, What::Door { door: Door::Mesh }, "not a point");
    }

    #[test]
    fn what_is_sure_is_on_the_disk_with_what_was_said_before_it() {
        let meta = Arc::new(Memory::new());
        let log = Log::start(archive(&meta).logbook(), key()).expect("a thread");
        knock(&log, 1);
        log.done(Who::Local {}, Deed::Roster, What::Roster { number: 2 });
        log.sure(Who::Local {}, Deed::Export, What::Archive {}).expect("a disk that works");
        meta.crash(0);
        let deeds: Vec<_> = read(&meta).iter().map(|entry| entry.access.deed).collect();
        assert_eq!(deeds, [Deed::Connect, Deed::Roster, Deed::Export]);
        log.close();
        assert!(matches!(log.sure(Who::Local {}, Deed::Export, What::Archive {}), Err(Unlogged::Stopping)));
    }

    #[test]
    fn what_cannot_be_written_down_is_not_sure_and_is_counted() {
        let meta = Arc::new(Memory::new());
        let log = Log::start(archive(&meta).logbook(), key()).expect("a thread");
        meta.set_capacity(Some(1));
        let refused = log.sure(Who::Local {}, Deed::Export, What::Archive {});
        assert!(matches!(refused, Err(Unlogged::Disk(archive::Error::Storage(db::Error::Full)))));
        meta.set_capacity(None);
        log.sure(Who::Local {}, Deed::Export, What::Archive {}).expect("room again");
        log.close();
        let told: Vec<_> = read(&meta).into_iter().map(|entry| (entry.access.what, entry.access.times)).collect();
        assert_eq!(told, [(What::Archive {}, 1), (What::Log {}, 1)]);
    }

    #[test]
    fn a_flood_is_counted_to_the_last_and_few_entries() {
        const KNOCKS: u32 = 200_000;
        let meta = Arc::new(Memory::new());
        let log = Log::start(archive(&meta).logbook(), key()).expect("a thread");
        let began = Instant::now();
        (0..KNOCKS).for_each(|n| knock(&log, n % 5000));
        let took = began.elapsed();
        log.close();
        let entries = read(&meta);
        let times: u64 = entries.iter().map(|entry| entry.access.times).sum();
        // Whoever is lost between the last sync and the end of the thread is not told any more; here nobody speaks then.
        assert_eq!(times, u64::from(KNOCKS));
        assert!(entries.len() < 4000, "{} entries", entries.len());
        assert!(took < Duration::from_secs(10), "those who refuse do not wait: {took:?}");
    }

    #[test]
    fn a_log_to_nowhere_takes_anything_and_is_sure_of_nothing() {
        let log = Log::nowhere();
        knock(&log, 1);
        log.close();
        assert!(matches!(log.sure(Who::Local {}, Deed::Export, What::Archive {}), Err(Unlogged::Stopping)));
    }
}
