//! A database in memory that does what disks do on bad days: forgets what was not synced, fills up, damages values.
//! The simulator and the tests of the archive run on it; it keeps to the same contract as RocksDB, including that a
//! synced write makes everything before it durable too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
    sync::Mutex,
};

use bytes::Bytes;

use super::{Batch, Change, Db, Durability, Error, Visitor, refuse_to_scan_groups};
use crate::schema::Column;

type Map = BTreeMap<(Column, Vec<u8>), Bytes>;

/// The twin.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: Map,
    durable: Map,
    /// Since the last sync, oldest first.
    buffered: Vec<Batch>,
    capacity: Option<usize>,
    full: bool,
    stalls: u32,
    damaged: BTreeSet<(Column, Vec<u8>)>,
}

impl Memory {
    /// An empty database on an endless disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the disk a size in bytes, or none. Deletes do not need space, writes that would pass it are refused.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// Makes every write of a value find no space, whatever there is, or ends that.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Makes the next writes come to a disk that does not keep up, so many of them.
    pub fn stall(&self, writes: u32) {
        self.state().stalls = writes;
    }

    /// Power cut: of what was not synced only the first `kept` batches are found again.
    pub fn crash(&self, kept: usize) {
        let state = &mut *self.state();
        let mut map = state.durable.clone();
        state.buffered.iter().take(kept).for_each(|batch| apply(&mut map, batch));
        state.durable = map.clone();
        state.live = map;
        state.buffered.clear();
    }

    /// How many batches a power cut may lose at this moment.
    pub fn unsynced(&self) -> usize {
        self.state().buffered.len()
    }

    /// Makes a value unreadable until it is written again.
    pub fn damage(&self, column: Column, key: &[u8]) {
        self.state().damaged.insert((column, key.to_vec()));
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for change in batch.changes() {
        match change {
            Change::Put(column, key, value) => {
                map.insert((*column, key.clone()), value.clone());
            }
            Change::Delete(column, key) => {
                map.remove(&(*column, key.clone()));
            }
            Change::DeleteRange(column, from, to) => {
                map.retain(|(c, key), _| c != column || key < from || key >= to);
            }
        }
    }
}

fn size(map: &Map) -> usize {
    map.iter().map(|((_, key), value)| key.len() + value.len()).sum()
}

impl Db for Memory {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        let state = &mut *self.state();
        if let Some(left) = state.stalls.checked_sub(1) {
            state.stalls = left;
            return Err(Error::Stalled);
        }
        if state.full && batch.changes().iter().any(|change| matches!(change, Change::Put(..))) {
            return Err(Error::Full);
        }
        if let Some(capacity) = state.capacity {
            let mut map = state.live.clone();
            apply(&mut map, &batch);
            let needed = size(&map);
            if needed > capacity && needed > size(&state.live) {
                return Err(Error::Full);
            }
        }
        apply(&mut state.live, &batch);
        for change in batch.changes() {
            if let Change::Put(column, key, _) = change
                && !state.damaged.is_empty()
            {
                state.damaged.remove(&(*column, key.clone()));
            }
        }
        state.buffered.push(batch);
        if durability == Durability::Synced {
            for batch in state.buffered.drain(..) {
                apply(&mut state.durable, &batch);
            }
        }
        Ok(())
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let state = self.state();
        let place = (column, key.to_vec());
        if state.damaged.contains(&place) {
            return Err(Error::Damaged(format!("a value in {}", column.name())));
        }
        Ok(state.live.get(&place).cloned())
    }

    fn scan(&self, column: Column, from: &[u8], to: Option<&[u8]>, visit: &mut Visitor<'_>) -> Result<(), Error> {
        refuse_to_scan_groups(column);
        let state = self.state();
        for ((_, key), value) in state.live.range((column, from.to_vec())..).take_while(|((c, _), _)| *c == column) {
            if to.is_some_and(|to| &key[..] >= to) {
                break;
            }
            if state.damaged.contains(&(column, key.clone())) {
                return Err(Error::Damaged(format!("a value in {}", column.name())));
            }
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, column: Column, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Vec<u8>, Bytes)>, Error> {
        refuse_to_scan_groups(column);
        let state = self.state();
        let range = state.live.range((column, from.to_vec())..);
        let is_before = |key: &[u8]| to.is_none_or(|to| key < to);
        let last = range.rev().find(|((c, key), _)| *c == column && is_before(key));
        match last {
            Some(((_, key), _)) if state.damaged.contains(&(column, key.clone())) => {
                Err(Error::Damaged(format!("a value in {}", column.name())))
            }
            last => Ok(last.map(|((_, key), value)| (key.clone(), value.clone()))),
        }
    }

    fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    fn checkpoint(&self, _dir: &Path) -> Result<(), Error> {
        Err(Error::Other("a database in memory has no files to share".into()))
    }
}
