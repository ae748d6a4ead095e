//! A group in the air: one append-only log of bytes that everybody reads at his own place.
//!
//! The source appends what it makes or receives; the fan-out, the archive and the room's decoder read. Nothing is
//! copied: a chunk is a reference into the packet it came in, unless it is so short that it would keep much more in memory
//! than itself. The log lives until its slowest reader is done, and no longer than its group's limit allows it to grow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use store::id::NodeId;
use store::record::Header;
use tokio::sync::Notify;

use crate::engine::fanout::{Fate, LiveId, Track};
use crate::wire::media::LIVE_GROUP_LEN_MAX;

/// What the fan-out must look at: logs that are new, and logs that grew. Each log stands here at most once.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    lists: Mutex<Lists>,
    pub(super) changed: Notify,
}

impl Dirty {
    pub(super) fn take(&self) -> Lists {
        std::mem::take(&mut *lock(&self.lists))
    }
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) fresh: Vec<Arc<Log>>,
    pub(super) grown: Vec<Arc<Log>>,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: LiveId,
    pub(super) header: Header,
    /// The neighbour it came from; `None` when it is made here.
    pub(super) from: Option<NodeId>,
    state: Mutex<State>,
    grew: Notify,
    noted: AtomicBool,
    dirty: Arc<Dirty>,
}

#[derive(Debug)]
struct State {
    /// Chunks with the offset each begins at.
    chunks: Vec<(usize, Bytes)>,
    len: usize,
    fate: Fate,
    left_out: bool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Log {
    /// A log beginning with a group's header, known to the fan-out at once.
    pub(super) fn begin(header: Header, head: Bytes, from: Option<NodeId>, dirty: Arc<Dirty>) -> Arc<Self> {
        let state = State { len: head.len(), chunks: vec![(0, head)], fate: Fate::Open, left_out: false };
        let log = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            header,
            from,
            state: Mutex::new(state),
            grew: Notify::new(),
            noted: AtomicBool::new(true),
            dirty,
        });
        lock(&log.dirty.lists).fresh.push(Arc::clone(&log));
        log.dirty.changed.notify_one();
        log
    }

    pub(super) fn track(&self) -> Track {
        (self.header.session, self.header.track)
    }

    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        {
            let mut state = lock(&self.state);
            if state.fate != Fate::Open {
                return;
            }
            change(&mut state);
        }
        self.grew.notify_waiters();
        if !self.noted.swap(true, Ordering::AcqRel) {
            lock(&self.dirty.lists).grown.push(Arc::clone(self));
            self.dirty.changed.notify_one();
        }
    }

    /// The log's length and fate, for the fan-out; from now on a change is noted again.
    pub(super) fn look(&self) -> (usize, Fate) {
        self.noted.store(false, Ordering::Release);
        let state = lock(&self.state);
        (state.len, state.fate)
    }

    /// The bytes from `from` to `to`, as references, put behind what is in `into`.
    pub(super) fn slice(&self, from: usize, to: usize, into: &mut Vec<Bytes>) {
        let state = lock(&self.state);
        let first = state.chunks.partition_point(|(offset, chunk)| offset + chunk.len() <= from);
        for (offset, chunk) in &state.chunks[first..] {
            if *offset >= to {
                break;
            }
            let start = from.saturating_sub(*offset);
            let end = (to - offset).min(chunk.len());
            into.push(chunk.slice(start..end));
        }
    }
}

/// The source's end of a log. Dropping it breaks the group off: half a group must never look whole.
#[derive(Debug)]
pub struct Writer {
    log: Arc<Log>,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self { log }
    }

    /// A place at the beginning of what is written.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.log))
    }

    /// More of the group, in any pieces. A group beyond `LIVE_GROUP_LEN_MAX` is broken off.
    pub fn append(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.log.change(|state| {
            if state.len + bytes.len() > LIVE_GROUP_LEN_MAX {
                state.fate = Fate::Broken;
                return;
            }
            state.chunks.push((state.len, bytes.clone()));
            state.len += bytes.len();
        });
    }

    /// The group is whole; `end` is its end record, or empty when that was appended already.
    pub fn end(self, end: Bytes) {
        self.append(end);
        self.log.change(|state| state.fate = Fate::Whole);
    }

    /// Its sender gave the rest up, as his line is too slow for it.
    pub(super) fn leave_out(self) {
        self.log.change(|state| {
            state.left_out = true;
            state.fate = Fate::Broken;
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.log.change(|state| state.fate = Fate::Broken);
    }
}

/// What a reader finds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Bytes in order: the header, frames, the end record.
    Chunk(Bytes),
    /// All was read, and the group is whole.
    Whole,
    /// The group ended early. The rest is at its origin.
    Broken {
        /// Whether its sender gave it up for a slow line, and the connection went on.
        left_out: bool,
    },
}

/// A reader's place in a group that arrives.
#[derive(Debug)]
pub struct Reader {
    log: Arc<Log>,
    next: usize,
}

impl Reader {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self { log, next: 0 }
    }

    /// The group's header.
    pub fn header(&self) -> &Header {
        &self.log.header
    }

    /// The neighbour it comes from; `None` when it is made here.
    pub fn from(&self) -> Option<NodeId> {
        self.log.from
    }

    /// A second place in the same group, at its beginning.
    pub fn again(&self) -> Self {
        Self::new(Arc::clone(&self.log))
    }

    /// The next piece, waiting for it if need be.
    pub async fn next(&mut self) -> Item {
        let log = Arc::clone(&self.log);
        loop {
            let grew = log.grew.notified();
            if let Some(item) = self.try_next() {
                return item;
            }
            grew.await;
        }
    }

    /// The next piece if it is there.
    pub fn try_next(&mut self) -> Option<Item> {
        let state = lock(&self.log.state);
        if let Some((_, chunk)) = state.chunks.get(self.next) {
            self.next += 1;
            return Some(Item::Chunk(chunk.clone()));
        }
        match state.fate {
            Fate::Open => None,
            Fate::Whole => Some(Item::Whole),
            Fate::Broken => Some(Item::Broken { left_out: state.left_out }),
        }
    }
}

/// A thread that panicked while it held one of these locks left whole values behind: each change is one assignment
/// after the other of plain data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
