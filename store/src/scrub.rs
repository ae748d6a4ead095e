//! How far a session was read again from the disk, and what was found: what must survive a restart.
//!
//! One record for each session, rewritten every few seconds while it is read, so that a computer which is switched off every
//! evening gets to the end of its archive all the same. Findings stay in it for as long as the disk's alarm may need them;
//! they are few, since whoever finds many of them looks at the disk and not at the list.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{cbor, id::TrackId};

/// Findings kept of one session. Of more the oldest are forgotten; the count goes on.
pub const FOUND_MAX: usize = 32;

/// Longest sentence of a finding, in characters.
const SENTENCE_MAX: usize = 200;

/// Longest encoded record: as many findings as are kept, of the longest sentences.
const LEN_MAX: usize = 64 * 1024;

const VERSION: u8 = 1;

/// The next group to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Its track.
    pub track: TrackId,
    /// Its number.
    pub seq: u64,
}

/// What is wrong on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A group's bytes are not those that its point signed.
    Group {
        /// Its track.
        track: TrackId,
        /// Its number.
        seq: u64,
    },
    /// A table of the groups' database cannot be read: the database has to be built anew.
    Table {
        /// What was seen.
        what: String,
    },
    /// Something of `meta`, the truth.
    Truth {
        /// What was seen.
        what: String,
    },
}

/// A fault, and when it was found by this node's wall clock, unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// When.
    pub wall_ms: u64,
    /// What.
    pub fault: Fault,
}

/// What is known of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Wall clock of when the session was last read to its end, or else of when it was first known to be over.
    pub checked_ms: u64,
    /// Whether it was ever read to its end.
    pub whole: bool,
    /// Where reading goes on; `None` if it begins anew.
    pub next: Option<Cursor>,
    /// Groups read since it began.
    pub read: u64,
    /// Faults found since it began, or in the round before if none is under way.
    pub faults: u64,
    /// The latest faults, oldest first.
    pub found: Vec<Found>,
}

impl Progress {
    /// Of a session that is known since this moment.
    pub fn new(now_ms: u64) -> Progress {
        Progress { checked_ms: now_ms, whole: false, next: None, read: 0, faults: 0, found: Vec::new() }
    }

    /// Takes up a new round: a session is read from its beginning.
    pub fn begin(&mut self) {
        (self.next, self.read, self.faults) = (None, 0, 0);
    }

    /// Adds what one stretch of reading brought. `next` is where it goes on, and `None` that the end was reached.
    pub fn advance(&mut self, groups: u64, faults: Vec<Fault>, next: Option<Cursor>, now_ms: u64) {
        self.read = self.read.saturating_add(groups);
        self.faults = self.faults.saturating_add(faults.len() as u64);
        self.found.extend(faults.into_iter().map(|fault| Found { wall_ms: now_ms, fault: fault.cut() }));
        self.found.drain(..self.found.len().saturating_sub(FOUND_MAX));
        self.next = next;
        if next.is_none() {
            (self.checked_ms, self.whole) = (now_ms, true);
        }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode_versioned(VERSION, self)
    }

    /// Reads what was stored.
    pub fn decode(bytes: &[u8]) -> Result<Progress, cbor::Error> {
        cbor::decode_versioned(VERSION, bytes, LEN_MAX)
    }
}

impl Fault {
    /// With its sentence no longer than is kept.
    fn cut(self) -> Fault {
        let short = |what: String| what.chars().take(SENTENCE_MAX).collect();
        match self {
            Fault::Group { .. } => self,
            Fault::Table { what } => Fault::Table { what: short(what) },
            Fault::Truth { what } => Fault::Truth { what: short(what) },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Group { track, seq } => write!(f, "group {seq} of {track} is not what was stored"),
            Fault::Table { what } => write!(f, "the recordings' database is damaged ({what})"),
            Fault::Truth { what } => write!(f, "the archive's `meta` is damaged ({what})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Hash, PointNumber, TrackKind};

    fn track() -> TrackId {
        TrackId::new(PointNumber::new(3).unwrap(), TrackKind::Main)
    }

    fn truth(what: &str) -> Fault {
        Fault::Truth { what: what.into() }
    }

    #[test]
    fn a_round_counts_for_itself_and_its_findings_stay() {
        let mut progress = Progress::new(7);
        let next = Some(Cursor { track: track(), seq: 4 });
        progress.advance(4, vec![Fault::Group { track: track(), seq: 2 }], next, 10);
        assert_eq!((progress.checked_ms, progress.whole, progress.next), (7, false, next));
        progress.advance(3, vec![], None, 20);
        assert_eq!((progress.checked_ms, progress.whole, progress.read, progress.faults), (20, true, 7, 1));
        progress.begin();
        progress.advance(7, vec![], None, 30);
        assert_eq!((progress.checked_ms, progress.read, progress.faults, progress.found.len()), (30, 7, 0, 1));
    }

    #[test]
    fn records_have_a_bound_and_are_kept_for_ever() {
        let mut progress = Progress::new(1);
        progress.advance(1, (0..99).map(|_| truth(&"ế".repeat(500))).collect(), None, 2);
        assert_eq!((progress.faults, progress.found.len()), (99, FOUND_MAX));
        assert!(progress.encode().len() < LEN_MAX);
        assert_eq!(Progress::decode(&progress.encode()), Ok(progress));

        let mut kept = Progress::new(1);
        let next = Some(Cursor { track: track(), seq: 4 });
        let table = Fault::Table { what: "000012.sst".into() };
        kept.advance(9, vec![Fault::Group { track: track(), seq: 2 }, table, truth("journal")], next, 2);
        assert_eq!(Hash::of(&kept.encode()).short(), "a1a20d78");
        assert_eq!(Progress::decode(&kept.encode()), Ok(kept));
    }
}
