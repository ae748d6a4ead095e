//! What was said of a session and the disk has not taken yet.
//!
//! An entry of the journal that finds no space on the disk must not be dropped: those after it link to it, so all of them
//! would be refused until the program starts again. Neither must a head that says that a session is over: the session would
//! run on at the next start. Both are kept here in order and tried again, with whatever comes next and every few seconds.
//! A power cut loses them, as it loses what was never said; the archive is then as it was, and its chain whole.

use std::collections::{BTreeMap, VecDeque};

use store::archive::{self, Archive};
use store::id::SessionId;
use store::journal::Entry;
use store::session::Head;
use store::signed::Signed;

/// Entries kept. A disk that is full for an hour makes some ten thousand, of 300 bytes each.
pub const ENTRIES_MAX: usize = 100_000;

/// Heads and entries on their way to the disk.
#[derive(Debug, Default)]
pub struct Unwritten {
    entries: VecDeque<Signed<Entry>>,
    heads: BTreeMap<SessionId, Head>,
}

impl Unwritten {
    /// The next entry of a journal. False if there is no room for it: from then on the journal has an end.
    pub fn journal(&mut self, entry: Signed<Entry>) -> bool {
        let room = self.entries.len() < ENTRIES_MAX;
        if room {
            self.entries.push_back(entry);
        }
        room
    }

    /// A changed head; it replaces an earlier one.
    pub fn update(&mut self, head: Head) {
        self.heads.insert(head.id, head);
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.heads.is_empty()
    }

    /// Writes what can be written, entries before heads, and gives the entries that are on the disk now. What is left over is
    /// tried again; the error is the first met.
    pub fn write(&mut self, archive: &Archive) -> (Vec<Signed<Entry>>, Result<(), archive::Error>) {
        let (mut written, mut result) = (Vec::new(), Ok(()));
        while let Some(entry) = self.entries.front() {
            if let Err(error) = archive.append_journal(entry) {
                result = Err(error);
                break;
            }
            written.extend(self.entries.pop_front());
        }
        // A session whose last entries are missing is not over.
        let waits = |session: &SessionId| self.entries.iter().any(|entry| entry.content().session == *session);
        let heads: Vec<SessionId> = self.heads.keys().copied().filter(|session| !waits(session)).collect();
        for session in heads {
            let put = self.heads.get(&session).map_or(Ok(()), |head| archive.put_head(head));
            match put {
                Ok(()) => drop(self.heads.remove(&session)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        (written, result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::id::{Hash, PointNumber};
    use store::journal::{Chain, Event};
    use store::keys::NodeKey;
    use store::seal::Suite;
    use store::session::{Member, Period, State};

    use super::*;

    #[test]
    fn what_found_no_space_is_written_in_order_once_there_is_some() {
        let (meta, media) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
        let archive = Archive::over(meta.clone(), media).expect("a database that works");
        let (key, session) = (NodeKey::from_bytes(&[1; 32]), SessionId::from_bytes([2; 16]));
        let number = PointNumber::new(1).expect("a small number");
        let head = Head {
            id: session,
            title: "Định kỳ".into(),
            state: State::Ended,
            central: key.id(),
            points: vec![Member { number, node: key.id(), name: "Trung tâm".into() }],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms: 1,
            ended_unix_ms: Some(2),
        };
        let mut chain = Chain::new(session, key.id());
        let mut unwritten = Unwritten::default();
        let mut say = |unwritten: &mut Unwritten| unwritten.journal(chain.append(&key, 0, 0, Event::Resumed {}));
        assert!(say(&mut unwritten));
        assert_eq!(unwritten.write(&archive).0.len(), 1);
        meta.set_full(true);
        assert!(say(&mut unwritten) && say(&mut unwritten));
        unwritten.update(head.clone());
        let (written, result) = unwritten.write(&archive);
        assert!(written.is_empty() && result.is_err() && !unwritten.is_empty());
        meta.set_full(false);
        assert!(say(&mut unwritten));
        let (written, result) = unwritten.write(&archive);
        assert_eq!((written.len(), result, unwritten.is_empty()), (3, Ok(()), true));
        let journal = archive.journal(&session, 0).expect("a database that works");
        assert_eq!(Chain::verify(session, key.id(), journal).map(|chain| chain.len()), Ok(4));
        assert_eq!(archive.head(&session), Ok(Some(head)));
    }
}
