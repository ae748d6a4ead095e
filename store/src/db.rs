//! The contract with a database: what the archive needs of one and no more, so that a twin in memory can stand in for
//! RocksDB and crash, lose what was not synced and fill up on purpose.

use std::{fmt, ops::ControlFlow, path::Path};

use bytes::Bytes;

use crate::schema::Column;

pub mod memory;
pub mod rocks;

/// Why a database did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No space is left, or only what the database needs to stay sound; nothing of the batch was written. Free some and
    /// try again.
    #[error("the disk is full")]
    Full,
    /// The disk does not keep up, or is so full that the database cannot put its own house in order. Nothing of the
    /// batch was written. Look at the free space; trying again may help.
    #[error("the disk does not keep up, or is full")]
    Stalled,
    /// Bytes on disk are not those that were written. Fetch them from elsewhere, and look at the disk.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Another process has it open for writing. Read it read-only, or ask that process.
    #[error("another process has the database open")]
    Busy,
    /// Anything else, in the database's words. Trying again may help.
    #[error("the database failed: {0}")]
    Other(String),
}

/// What a database lost that it had acknowledged, found when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// How many changes, such as one value set, as far as they are known to have been.
    pub changes: u64,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

/// One change of a batch.
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets a value.
    Put(Column, Vec<u8>, Bytes),
    /// Removes a key, if it is there.
    Delete(Column, Vec<u8>),
    /// Removes all keys from the first up to, but without, the second.
    DeleteRange(Column, Vec<u8>, Vec<u8>),
}

impl Batch {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    pub fn put(&mut self, column: Column, key: &[u8], value: impl Into<Bytes>) {
        self.changes.push(Change::Put(column, key.to_vec(), value.into()));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.changes.push(Change::Delete(column, key.to_vec()));
    }

    /// Removes all keys from `from` up to, but without, `to`.
    pub fn delete_range(&mut self, column: Column, from: &[u8], to: &[u8]) {
        self.changes.push(Change::DeleteRange(column, from.to_vec(), to.to_vec()));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once it survives a power cut. Whatever is acknowledged to anybody is written like this.
    Synced,
    /// At once; a crash may take it back, together with all that was written after it.
    Buffered,
}

/// What a scan calls with each key and value; it goes on until told to break.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A database with columns of sorted keys.
pub trait Db: Send + Sync + fmt::Debug {
    /// Carries out a batch. After an error nothing of it is there.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error>;

    /// The value of a key, if there is one.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Visits the keys from `from` up to, but without, `to` (`None`: to the end), rising.
    ///
    /// # Panics
    /// For [`Column::Groups`]: a scan would read every group, and end at the first damaged one.
    fn scan(&self, column: Column, from: &[u8], to: Option<&[u8]>, visit: &mut Visitor<'_>) -> Result<(), Error>;

    /// The last key from `from` up to, but without, `to` (`None`: to the end), and its value, if there is one. What comes
    /// before it is not read.
    ///
    /// # Panics
    /// For [`Column::Groups`], as above.
    fn last(&self, column: Column, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Vec<u8>, Bytes)>, Error>;

    /// Moves everything out of the log, which a damaged byte harms most, into files that are checked piece by piece. For
    /// the end of a program: it may take some seconds.
    fn settle(&self) -> Result<(), Error>;

    /// Makes a copy of the present state in a folder that does not exist yet, on the same disk, sharing files.
    fn checkpoint(&self, dir: &Path) -> Result<(), Error>;
}

/// Guards [`Db::scan`].
fn refuse_to_scan_groups(column: Column) {
    assert!(column != Column::Groups, "groups are read by key and listed by their addresses");
}

#[cfg(test)]
mod tests;
