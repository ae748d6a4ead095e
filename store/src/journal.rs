//! The journal: what happened in a session, in order, signed by central. Minutes and reports are drawn from it.
//!
//! Each entry holds the hash of the one before, so whoever has the last entry can tell whether any was changed,
//! dropped or swapped. A gap in a recording is an entry like any other: what is missing is said, not found out. Order
//! is by number; the times are what clocks said and decide nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{Hash, NodeId, PointNumber, SessionId, TrackId},
    keys::{Epoch, NodeKey},
    session::{self, Member},
    signed::{self, Content, Signed},
};

/// Why a journal is not whole. `n` is the entry at which it was noticed; what comes before it is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The entry's bytes are not a signed journal entry.
    #[error("journal entry {n} cannot be read")]
    Entry {
        /// Number the entry should have.
        n: u64,
        /// What is wrong with it.
        #[source]
        source: signed::Error,
    },
    /// Somebody else signed it.
    #[error("journal entry {n} is signed by {signer}, who is not the session's central")]
    Signer {
        /// Number the entry should have.
        n: u64,
        /// Who signed.
        signer: NodeId,
    },
    /// It is of another session.
    #[error("journal entry {n} is of session {session}")]
    Session {
        /// Number the entry should have.
        n: u64,
        /// The session it is of.
        session: SessionId,
    },
    /// Its number is not the next: entries are missing, doubled or swapped.
    #[error("journal entry {n} is expected, but {found} comes")]
    Number {
        /// Number the entry should have.
        n: u64,
        /// The number it has.
        found: u64,
    },
    /// It does not follow the entry before it: one of the two was exchanged.
    #[error("journal entry {n} does not follow the one before it")]
    Link {
        /// Number of the entry.
        n: u64,
    },
}

/// Why a point left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftReason {
    /// It said goodbye.
    Left,
    /// Nothing was heard from it any more.
    Lost,
    /// Central removed it.
    Removed,
}

/// Why a point was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovedReason {
    /// The authority revoked it.
    Revoked,
    /// The chair sent it out.
    Chair,
}

/// Why groups are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The point could not be reached.
    Lost,
    /// The point was connected and its line too slow, so it left them out.
    Shed,
    /// The point was not running, or its camera or microphone was gone: they were never made.
    NotMade,
    /// The point made them, or should have, and has not got them either.
    LostAtSource,
    /// They were here, and the disk has lost or changed them.
    Damaged,
    /// Central could not write them to its disk.
    NotStored,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Central closed it.
    Closed,
    /// It stopped without being closed, and was closed afterwards.
    Interrupted,
}

/// Longest note, in characters. What is longer belongs into the minutes.
pub const NOTE_MAX: usize = 1000;

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// The course of the session.
    Course,
    /// A fault: of a machine, a line, the power.
    Incident,
    /// A breach of order in a room.
    Violation,
    /// What the chair decided.
    Decision,
}

impl NoteKind {
    /// Every kind.
    pub const ALL: [NoteKind; 4] = [NoteKind::Course, NoteKind::Incident, NoteKind::Violation, NoteKind::Decision];

    /// Its name, as it is stored.
    pub const fn name(self) -> &'static str {
        match self {
            NoteKind::Course => "course",
            NoteKind::Incident => "incident",
            NoteKind::Violation => "violation",
            NoteKind::Decision => "decision",
        }
    }
}

/// What somebody wrote into the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// The point that it concerns, if it is one.
    pub point: Option<PointNumber>,
    /// Name of the account it was written from; none if it was written by a command at central's machine.
    pub by: Option<String>,
    /// What was written: one line of up to [`NOTE_MAX`] characters.
    pub text: String,
}

impl Note {
    /// Refuses a text that is empty, longer than [`NOTE_MAX`], or not one line, and a writer's name that cannot be shown, in words
    /// that follow "a note that".
    pub fn check(&self) -> Result<(), &'static str> {
        if self.text.trim().is_empty() {
            return Err("is empty");
        }
        if self.text.chars().any(char::is_control) {
            return Err("has a line break or another control character");
        }
        if self.text.chars().count() > NOTE_MAX {
            return Err("is longer than 1000 characters");
        }
        match &self.by {
            Some(by) if session::check_text(by).is_err() => Err("is by a name that cannot be shown"),
            _ => Ok(()),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The session began.
    Started {
        /// What it is about.
        title: String,
        /// Who was called to it.
        points: Vec<Member>,
    },
    /// A point joined, for the first time or again.
    Joined {
        /// Which.
        point: PointNumber,
    },
    /// A point is gone.
    Left {
        /// Which.
        point: PointNumber,
        /// Why.
        reason: LeftReason,
    },
    /// A point was removed, and is given no more keys.
    Removed {
        /// Which.
        point: PointNumber,
        /// Why.
        reason: RemovedReason,
    },
    /// The session goes on with another key.
    Epoch {
        /// Its number.
        epoch: Epoch,
        /// What the key must match.
        commitment: Hash,
        /// Session time in microseconds from which groups are sealed with it.
        from_us: u64,
    },
    /// Central does not have these groups.
    Gap {
        /// Of this track.
        track: TrackId,
        /// First missing.
        from_seq: u64,
        /// Last missing.
        to_seq: u64,
        /// Why.
        reason: GapReason,
    },
    /// These groups were missing and came after all.
    Repaired {
        /// Of this track.
        track: TrackId,
        /// First that came.
        from_seq: u64,
        /// Last that came.
        to_seq: u64,
    },
    /// Central was down and continues.
    Resumed {},
    /// The session ended.
    Ended {
        /// Why.
        reason: EndReason,
    },
    /// Central keeps other groups under these numbers than the point has signed for in its segments.
    Disputed {
        /// Of this track.
        track: TrackId,
        /// First number.
        from_seq: u64,
        /// Last number.
        to_seq: u64,
    },
    /// A point has signed two different segments with one number.
    Forked {
        /// Which.
        point: PointNumber,
        /// The number.
        n: u32,
    },
    /// Somebody who leads the session wrote something down.
    Noted(Note),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, from 0 without a gap.
    pub n: u64,
    /// Hash of the signed entry before; [`Hash::NONE`] for the first.
    pub prev: Hash,
    /// The session.
    pub session: SessionId,
    /// Session time in microseconds.
    pub at_us: u64,
    /// Central's wall clock, unix milliseconds.
    pub wall_ms: u64,
    /// What happened.
    pub event: Event,
}

impl Content for Entry {
    const KIND: &'static str = "application/vnd.diemcau.journal.v1+cbor";

    /// Texts are shown in lines, on screens and terminals, whoever central is.
    fn check(&self) -> Result<(), String> {
        match &self.event {
            Event::Started { title, points } => {
                session::check_text(title).map_err(|why| format!("a title that {why}"))?;
                let names = points.iter().map(|member| session::check_text(&member.name));
                names.collect::<Result<(), _>>().map_err(|why| format!("a point's name that {why}"))
            }
            Event::Noted(note) => note.check().map_err(|why| format!("a note that {why}")),
            _ => Ok(()),
        }
    }
}

/// The end of a journal: continues it, or checks one from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    session: SessionId,
    central: NodeId,
    next: u64,
    last: Hash,
}

impl Chain {
    /// The end of a journal that has no entry yet.
    pub fn new(session: SessionId, central: NodeId) -> Self {
        Chain { session, central, next: 0, last: Hash::NONE }
    }

    /// Checks stored entries from the first on and gives the end they lead to. An error names the first entry that
    /// does not fit; a journal cut off at its end is only noticed by comparing [`Chain::last`] with what others hold.
    pub fn verify(
        session: SessionId,
        central: NodeId,
        entries: impl IntoIterator<Item = Bytes>,
    ) -> Result<Self, Error> {
        let mut chain = Chain::new(session, central);
        for bytes in entries {
            let entry = Signed::parse(bytes).map_err(|source| Error::Entry { n: chain.next, source })?;
            chain.accept(&entry)?;
        }
        Ok(chain)
    }

    /// Takes the next entry if it is the one that must follow.
    pub fn accept(&mut self, entry: &Signed<Entry>) -> Result<(), Error> {
        let n = self.next;
        let content = entry.content();
        if entry.signer() != self.central {
            return Err(Error::Signer { n, signer: entry.signer() });
        }
        if content.session != self.session {
            return Err(Error::Session { n, session: content.session });
        }
        if content.n != n {
            return Err(Error::Number { n, found: content.n });
        }
        if content.prev != self.last {
            return Err(Error::Link { n });
        }
        self.next += 1;
        self.last = entry.hash();
        Ok(())
    }

    /// Writes the next entry. The chain moves on, so store what is returned before the next one is written.
    ///
    /// # Panics
    /// If `key` is not central's: only central writes the journal.
    pub fn append(&mut self, key: &NodeKey, at_us: u64, wall_ms: u64, event: Event) -> Signed<Entry> {
        let entry = Entry { n: self.next, prev: self.last, session: self.session, at_us, wall_ms, event };
        let signed = Signed::new(entry, key);
        self.accept(&signed).expect("central continues its own journal");
        signed
    }

    /// How many entries there are: the number of the next.
    pub fn len(&self) -> u64 {
        self.next
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Hash of the last entry, [`Hash::NONE`] if there is none.
    pub fn last(&self) -> Hash {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrackKind;

    fn key() -> NodeKey {
        NodeKey::from_bytes(&[5; 32])
    }

    fn session() -> SessionId {
        SessionId::from_parts(1_700_000_000_000, [9; 10])
    }

    fn point(number: u16) -> PointNumber {
        PointNumber::new(number).unwrap()
    }

    /// A journal with one entry of each kind. A new kind comes last, as the entries before it are kept for ever.
    fn journal() -> Vec<Signed<Entry>> {
        let track = TrackId::new(point(3), TrackKind::Main);
        let member = Member { number: point(3), node: key().id(), name: "Xã Tân Phú".into() };
        let events = [
            Event::Started { title: "Định kỳ".into(), points: vec![member] },
            Event::Joined { point: point(3) },
            Event::Left { point: point(3), reason: LeftReason::Lost },
            Event::Gap { track, from_seq: 5, to_seq: 9, reason: GapReason::Shed },
            Event::Repaired { track, from_seq: 5, to_seq: 9 },
            Event::Resumed {},
            Event::Ended { reason: EndReason::Closed },
            Event::Removed { point: point(3), reason: RemovedReason::Revoked },
            Event::Epoch { epoch: 1, commitment: Hash::of(b"key"), from_us: 62_000_000 },
            Event::Disputed { track, from_seq: 5, to_seq: 9 },
            Event::Forked { point: point(3), n: 2 },
            Event::Noted(Note {
                kind: NoteKind::Incident,
                point: Some(point(3)),
                by: Some("lan".into()),
                text: "mất điện 10 phút".into(),
            }),
            Event::Noted(Note { kind: NoteKind::Decision, point: None, by: None, text: "tạm dừng".into() }),
        ];
        let mut chain = Chain::new(session(), key().id());
        (0..).zip(events).map(|(n, event)| chain.append(&key(), n * 1_000_000, 1_700_000_000_000 + n, event)).collect()
    }

    fn verify(entries: &[Bytes]) -> Result<Chain, Error> {
        Chain::verify(session(), key().id(), entries.iter().cloned())
    }

    fn stored() -> Vec<Bytes> {
        journal().iter().map(|entry| entry.bytes().clone()).collect()
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/journal-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let kept: Vec<Bytes> = VERSION_1.lines().map(|line| hex::decode(line).unwrap().into()).collect();
        assert_eq!(verify(&kept).unwrap().len(), 13);
        let read: Vec<Signed<Entry>> = kept.into_iter().map(|bytes| Signed::parse(bytes).unwrap()).collect();
        assert_eq!(read, journal());
    }

    #[test]
    fn a_note_is_one_line_and_no_longer_than_it_may_be() {
        let check = |text: &str| Note { kind: NoteKind::Course, point: None, by: None, text: text.to_owned() }.check();
        assert_eq!(check("Người dân trình bày"), Ok(()));
        assert_eq!(check(&"ữ".repeat(NOTE_MAX)), Ok(()));
        for wrong in ["", "  ", "a\nb", "\u{7f}", &"ữ".repeat(NOTE_MAX + 1)] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        for kind in NoteKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn no_text_of_a_journal_can_move_a_terminals_cursor() {
        let member = |name: &str| Member { number: point(1), node: key().id(), name: name.into() };
        let note = |text: &str, by: Option<&str>| {
            let (text, by) = (text.to_owned(), by.map(str::to_owned));
            Event::Noted(Note { kind: NoteKind::Course, point: None, by, text })
        };
        for event in [
            Event::Started { title: "\u{1b}[2J".into(), points: vec![] },
            Event::Started { title: "Định kỳ".into(), points: vec![member("Xã\u{1b}[31m")] },
            note("\u{1b}[2J", None),
            note("mất điện", Some("lan\u{7}")),
            note(&"a".repeat(NOTE_MAX + 1), None),
        ] {
            let entry = Chain::new(session(), key().id()).append(&key(), 0, 0, event);
            let read = verify(&[entry.bytes().clone()]).expect_err("it cannot be shown");
            assert!(matches!(read, Error::Entry { n: 0, source: signed::Error::Unsound(_) }), "{read}");
        }
    }

    #[test]
    fn a_whole_journal_is_verified_and_continued() {
        let mut chain = verify(&stored()).unwrap();
        assert_eq!(chain.last(), journal().last().unwrap().hash());
        let mut entries = stored();
        entries.push(chain.append(&key(), 8_000_000, 1, Event::Resumed {}).bytes().clone());
        assert_eq!(verify(&entries), Ok(chain));
    }

    #[test]
    fn a_changed_entry_is_found() {
        for n in 0..stored().len() {
            let clean = &stored()[n];
            for at in 0..clean.len() {
                let mut entries = stored();
                let mut bytes = clean.to_vec();
                bytes[at] ^= 1;
                entries[n] = bytes.into();
                let error = verify(&entries).unwrap_err();
                assert!(
                    matches!(error, Error::Entry { n: found, .. } if found == n as u64),
                    "entry {n}, byte {at}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_dropped_a_doubled_and_a_swapped_entry_are_found() {
        for n in 0..stored().len() - 1 {
            let mut dropped = stored();
            dropped.remove(n);
            assert_eq!(verify(&dropped), Err(Error::Number { n: n as u64, found: n as u64 + 1 }));
            let mut doubled = stored();
            doubled.insert(n, doubled[n].clone());
            assert_eq!(verify(&doubled), Err(Error::Number { n: n as u64 + 1, found: n as u64 }));
            let mut swapped = stored();
            swapped.swap(n, n + 1);
            assert!(verify(&swapped).is_err());
        }
    }

    #[test]
    fn an_entry_exchanged_for_another_good_one_is_found_at_the_next() {
        let mut entries = stored();
        let other = Entry { wall_ms: 1, ..journal()[2].content().clone() };
        entries[2] = Signed::new(other, &key()).bytes().clone();
        assert_eq!(verify(&entries), Err(Error::Link { n: 3 }));
    }

    #[test]
    fn only_central_writes_and_only_of_its_session() {
        let stranger = NodeKey::from_bytes(&[6; 32]);
        let entry =
            Entry { n: 0, prev: Hash::NONE, session: session(), at_us: 0, wall_ms: 0, event: Event::Resumed {} };
        let forged = Signed::new(entry.clone(), &stranger);
        assert_eq!(verify(&[forged.bytes().clone()]), Err(Error::Signer { n: 0, signer: stranger.id() }));
        let elsewhere = SessionId::from_parts(0, [0; 10]);
        let moved = Signed::new(Entry { session: elsewhere, ..entry }, &key());
        assert_eq!(verify(&[moved.bytes().clone()]), Err(Error::Session { n: 0, session: elsewhere }));
    }
}
