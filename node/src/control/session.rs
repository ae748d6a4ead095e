//! Sessions as an archive tells them: for the running node's answers, and for commands that read a stopped node's folder.
//! The journal is checked as it is read; what does not continue the chain is not shown as having happened.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use store::archive::{self, Archive, Totals};
use store::id::{PointNumber, SessionId, TrackId};
use store::journal::{Chain, EndReason, Entry, Event, GapReason, LeftReason, Note, NoteKind, RemovedReason};
use store::session::{self, Head};
use store::signed::Signed;

use super::{Fact, Fault, JournalLine, Session, SessionPoint, State};

/// Runs of missing groups counted in one gap: an hour of a track has 1,800 groups.
const RUNS_MAX: usize = 100_000;

/// What is called missing, by track: first and last number.
type Gaps = BTreeMap<TrackId, Vec<(u64, u64)>>;

/// Why no session is shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing here begins so.
    #[error("there is no session {0:?} here: `diemcau session list` shows those that are")]
    Missing(String),
    /// More than one begins so.
    #[error("{count} sessions begin with {text:?}: write more of the id")]
    Several {
        /// What was asked for.
        text: String,
        /// How many fit.
        count: usize,
    },
    /// The archive cannot tell.
    #[error("the archive of sessions")]
    Archive(#[from] archive::Error),
}

impl Error {
    /// Of what kind this is to whoever asked.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Missing(_) | Self::Archive(archive::Error::Absent(_)) => Fault::Missing,
            Self::Several { .. } => Fault::Refused,
            Self::Archive(
                archive::Error::Damaged(_) | archive::Error::Unreadable(_) | archive::Error::Broken { .. },
            ) => Fault::Damaged,
            Self::Archive(_) => Fault::Failed,
        }
    }
}

/// Every session of the archive, oldest first, without journals.
pub fn list(archive: &Archive) -> Result<Vec<Session>, Error> {
    let all = archive.sessions()?;
    for id in &all.damaged {
        tracing::warn!(session = %id, "the head of a session cannot be read");
    }
    all.heads.iter().map(|head| Ok(Session { journal: Vec::new(), ..of(archive, head)? })).collect()
}

/// One session with its journal.
pub fn show(archive: &Archive, id: &SessionId) -> Result<Session, Error> {
    let head = archive.head(id)?.ok_or_else(|| Error::Missing(id.to_string()))?;
    of(archive, &head)
}

/// The session whose id begins with `text`, in either case, or the `last` one: no id begins with an l.
pub fn find(archive: &Archive, text: &str) -> Result<SessionId, Error> {
    pick(archive.sessions()?.heads.iter().map(|head| head.id), text)
}

/// `ids` are from old to new.
fn pick(ids: impl Iterator<Item = SessionId>, text: &str) -> Result<SessionId, Error> {
    let wanted = text.trim().to_lowercase();
    if wanted == "last" {
        return ids.last().ok_or_else(|| Error::Missing(text.to_owned()));
    }
    let found: Vec<_> = ids.filter(|id| !wanted.is_empty() && id.to_string().starts_with(&wanted)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(Error::Missing(text.to_owned())),
        _ => Err(Error::Several { text: text.to_owned(), count: found.len() }),
    }
}

fn of(archive: &Archive, head: &Head) -> Result<Session, Error> {
    let mut totals = Totals::default();
    for track in archive.totals(&head.id)?.into_values() {
        totals += track;
    }
    let (mut session, mut gaps) = tell(head, totals, archive.journal(&head.id, 0)?);
    session.holders = archive.holders(&head.id)?.len() as u64;
    for (track, lost) in archive.lost(&head.id)? {
        gaps.entry(track).or_default().extend(lost.runs().map(RangeInclusive::into_inner));
    }
    for (track, missing) in gaps {
        let have = archive.have(&head.id, track)?;
        let runs = apart(missing).into_iter().flat_map(|(from, to)| have.missing(from..=to, RUNS_MAX));
        session.gaps = runs.fold(session.gaps, |sum, run| sum.saturating_add(groups(*run.start(), *run.end())));
    }
    Ok(session)
}

/// Puts together what the head, the groups and the journal say. Gaps are not counted yet: much of them may have come.
fn tell(head: &Head, totals: Totals, journal: Vec<Bytes>) -> (Session, Gaps) {
    let mut told = Told { lines: Vec::new(), present: BTreeSet::new(), gaps: Gaps::new() };
    let mut chain = Chain::new(head.id, head.central);
    for bytes in journal {
        let entry = match Signed::<Entry>::parse(bytes) {
            Ok(entry) if chain.accept(&entry).is_ok() => entry,
            _ => {
                told.broken(chain.len());
                break;
            }
        };
        told.add(head, entry.content());
    }
    let points = head.points.iter().map(|member| SessionPoint {
        number: member.number.get(),
        name: member.name.clone(),
        node: member.node.to_string(),
        present: told.present.contains(&member.number),
    });
    let session = Session {
        id: head.id.to_string(),
        title: head.title.clone(),
        state: match head.state {
            session::State::Open => State::Open,
            session::State::Ended => State::Ended,
        },
        central: head.number(&head.central).map_or_else(|| head.central.to_string(), |number| name(head, number)),
        started: head.started_unix_ms,
        ended: head.ended_unix_ms,
        points: points.collect(),
        groups: totals.groups,
        bytes: totals.bytes,
        gaps: 0,
        holders: 0,
        journal: told.lines,
    };
    (session, told.gaps)
}

/// The same numbers in spans that do not overlap, rising.
fn apart(mut spans: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    spans.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match apart.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => apart.push((from, to)),
        }
    }
    apart
}

struct Told {
    lines: Vec<JournalLine>,
    present: BTreeSet<PointNumber>,
    gaps: Gaps,
}

impl Told {
    fn add(&mut self, head: &Head, entry: &Entry) {
        match &entry.event {
            Event::Joined { point } => {
                self.present.insert(*point);
            }
            Event::Left { point, .. } | Event::Removed { point, .. } => {
                self.present.remove(point);
            }
            Event::Gap { track, from_seq, to_seq, .. } => {
                self.gaps.entry(*track).or_default().push((*from_seq, *to_seq));
            }
            Event::Ended { .. } => self.present.clear(),
            Event::Started { .. }
            | Event::Epoch { .. }
            | Event::Repaired { .. }
            | Event::Resumed {}
            | Event::Disputed { .. }
            | Event::Forked { .. }
            | Event::Noted(_) => {}
        }
        let (event, fact) = (words(head, &entry.event), fact(head, &entry.event));
        self.lines.push(JournalLine { n: entry.n, at_ms: entry.at_us / 1000, wall: entry.wall_ms, event, fact });
    }

    fn broken(&mut self, n: u64) {
        let event = "the journal is damaged from here on: what follows cannot be believed".to_owned();
        let before = self.lines.last();
        let (at_ms, wall) = before.map_or((0, 0), |line| (line.at_ms, line.wall));
        let fact = Fact { kind: "broken".to_owned(), ..Fact::default() };
        self.lines.push(JournalLine { n, at_ms, wall, event, fact });
    }
}

/// How many numbers there are from one to the other.
fn groups(from_seq: u64, to_seq: u64) -> u64 {
    to_seq.saturating_sub(from_seq).saturating_add(1)
}

fn words(head: &Head, event: &Event) -> String {
    match event {
        Event::Started { title, points } => {
            let names: Vec<_> = points.iter().map(|point| point.name.as_str()).collect();
            format!("started {title:?} with {}", names.join(", "))
        }
        Event::Joined { point } => format!("{} joined", name(head, *point)),
        Event::Left { point, reason } => {
            let why = match reason {
                LeftReason::Left => "left",
                LeftReason::Lost => "was lost: nothing is heard from it",
                LeftReason::Removed => "was removed",
            };
            format!("{} {why}", name(head, *point))
        }
        Event::Removed { point, reason } => {
            let why = match reason {
                RemovedReason::Revoked => "the authority revoked it",
                RemovedReason::Chair => "the chair sent it out",
            };
            format!("{} was removed: {why}", name(head, *point))
        }
        Event::Epoch { epoch, from_us, .. } => {
            format!("key {epoch} is used from {:.1} s on: who was removed does not have it", *from_us as f64 / 1e6)
        }
        Event::Gap { track, from_seq, to_seq, reason } => {
            let why = why(*reason);
            format!("{} missing: {why}", span(head, *track, *from_seq, *to_seq))
        }
        Event::Repaired { track, from_seq, to_seq } => {
            format!("{} came after all", span(head, *track, *from_seq, *to_seq))
        }
        Event::Resumed {} => "central was down and continues".to_owned(),
        Event::Ended { reason: EndReason::Closed } => "ended".to_owned(),
        Event::Ended { reason: EndReason::Interrupted } => "ended: it had been interrupted".to_owned(),
        Event::Disputed { track, from_seq, to_seq } => {
            let which = span(head, *track, *from_seq, *to_seq);
            format!("{which}: what central keeps is not what the point has signed for")
        }
        Event::Forked { point, n } => {
            format!("{} has signed two different lists {n} of what it recorded", name(head, *point))
        }
        Event::Noted(Note { kind, point, by, text }) => {
            let what = match kind {
                NoteKind::Course => "note",
                NoteKind::Incident => "incident",
                NoteKind::Violation => "breach of order",
                NoteKind::Decision => "decision of the chair",
            };
            let at = point.map_or_else(String::new, |point| format!(" at {}", name(head, point)));
            let by = by.as_ref().map_or_else(String::new, |by| format!(" (written by {by})"));
            format!("{what}{at}: {text}{by}")
        }
    }
}

fn fact(head: &Head, event: &Event) -> Fact {
    let kind = |kind: &str| Fact { kind: kind.to_owned(), ..Fact::default() };
    let of = |fact: Fact, point: &PointNumber| Fact { points: vec![name(head, *point)], ..fact };
    let span = |fact: Fact, track: &TrackId, from: &u64, to: &u64| Fact {
        track: Some(track.kind().to_string()),
        from: Some(*from),
        to: Some(*to),
        ..of(fact, &track.point())
    };
    match event {
        Event::Started { title, points } => Fact {
            title: Some(title.clone()),
            points: points.iter().map(|point| point.name.clone()).collect(),
            ..kind("started")
        },
        Event::Joined { point } => of(kind("joined"), point),
        Event::Left { point, reason } => Fact { why: stored(reason), ..of(kind("left"), point) },
        Event::Removed { point, reason } => Fact { why: stored(reason), ..of(kind("removed"), point) },
        Event::Epoch { .. } => kind("epoch"),
        Event::Gap { track, from_seq, to_seq, reason } => {
            Fact { why: stored(reason), ..span(kind("gap"), track, from_seq, to_seq) }
        }
        Event::Repaired { track, from_seq, to_seq } => span(kind("repaired"), track, from_seq, to_seq),
        Event::Resumed {} => kind("resumed"),
        Event::Ended { reason } => Fact { why: stored(reason), ..kind("ended") },
        Event::Disputed { track, from_seq, to_seq } => span(kind("disputed"), track, from_seq, to_seq),
        Event::Forked { point, .. } => of(kind("forked"), point),
        Event::Noted(note) => Fact {
            points: note.point.map(|point| name(head, point)).into_iter().collect(),
            why: Some(note.kind.name().to_owned()),
            by: note.by.clone(),
            text: Some(note.text.clone()),
            ..kind("noted")
        },
    }
}

/// A reason's name as the journal stores it.
fn stored(reason: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(reason).ok()?.as_str().map(str::to_owned)
}

/// A gap's reason in words.
pub fn why(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Lost => "the point could not be reached",
        GapReason::Shed => "the line was too slow",
        GapReason::NotMade => "they were never made",
        GapReason::LostAtSource => "the point has not got them either",
        GapReason::NotStored => "they could not be written to the disk here",
        GapReason::Damaged => "they were here, and the disk has them no more as they were",
    }
}

fn span(head: &Head, track: TrackId, from_seq: u64, to_seq: u64) -> String {
    let whose = name(head, track.point());
    match from_seq == to_seq {
        true => format!("{whose}, {}: group {from_seq}", track.kind()),
        false => format!("{whose}, {}: groups {from_seq} to {to_seq}", track.kind()),
    }
}

fn name(head: &Head, point: PointNumber) -> String {
    head.member(point).map_or_else(|| format!("point {}", point.get()), |member| member.name.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::id::TrackKind;
    use store::keys::{NodeKey, SessionKey};
    use store::record::Writer;
    use store::seal::{Sealer, Start};

    use super::*;

    fn number(n: u16) -> PointNumber {
        PointNumber::new(n).unwrap()
    }

    fn head(key: &NodeKey) -> Head {
        let member = |n, name: &str, node| session::Member { number: number(n), node, name: name.to_owned() };
        Head {
            id: SessionId::from_parts(1_795_327_511_000, [7; 10]),
            title: "Phiên thử".to_owned(),
            state: session::State::Open,
            central: key.id(),
            points: vec![member(0, "Trung tâm", key.id()), member(1, "Kim Thành", NodeKey::generate().id())],
            epochs: vec![session::Period::first(store::id::Hash::NONE)],
            suite: Default::default(),
            started_unix_ms: 1_795_327_511_000,
            ended_unix_ms: None,
        }
    }

    #[test]
    fn a_journal_becomes_sentences_and_sums() {
        let key = NodeKey::generate();
        let head = head(&key);
        let mut chain = Chain::new(head.id, key.id());
        let track = TrackId::new(number(1), TrackKind::Main);
        let events = [
            Event::Started { title: head.title.clone(), points: head.points.clone() },
            Event::Joined { point: number(0) },
            Event::Joined { point: number(1) },
            Event::Left { point: number(1), reason: LeftReason::Lost },
            Event::Gap { track, from_seq: 3, to_seq: 5, reason: GapReason::Lost },
            Event::Repaired { track, from_seq: 4, to_seq: 4 },
        ];
        let mut journal: Vec<Bytes> = Vec::new();
        for (n, event) in events.into_iter().enumerate() {
            journal.push(chain.append(&key, n as u64 * 1_000_000, 5, event).bytes().clone());
        }
        let (session, gaps) = tell(&head, Totals { groups: 2, frames: 9, bytes: 100 }, journal.clone());
        let lines: Vec<_> = session.journal.iter().map(|line| line.event.as_str()).collect();
        let expected = [
            "started \"Phiên thử\" with Trung tâm, Kim Thành",
            "Trung tâm joined",
            "Kim Thành joined",
            "Kim Thành was lost: nothing is heard from it",
            "Kim Thành, main: groups 3 to 5 missing: the point could not be reached",
            "Kim Thành, main: group 4 came after all",
        ];
        assert_eq!(lines, expected);
        let facts: Vec<_> =
            session.journal[3..].iter().map(|line| serde_json::to_string(&line.fact).unwrap()).collect();
        let expected = [
            r#"{"kind":"left","points":["Kim Thành"],"why":"lost"}"#,
            r#"{"kind":"gap","points":["Kim Thành"],"why":"lost","track":"main","from":3,"to":5}"#,
            r#"{"kind":"repaired","points":["Kim Thành"],"track":"main","from":4,"to":4}"#,
        ];
        assert_eq!(facts, expected);
        assert_eq!((session.groups, session.bytes), (2, 100));
        assert_eq!(gaps, Gaps::from([(track, vec![(3, 5)])]));
        assert_eq!(session.points.iter().map(|point| point.present).collect::<Vec<_>>(), [true, false]);
        assert_eq!((session.central.as_str(), session.journal[3].at_ms), ("Trung tâm", 3000));

        journal.remove(1);
        let (broken, _) = tell(&head, Totals::default(), journal);
        assert_eq!(broken.journal.len(), 2);
        assert!(broken.journal[1].event.contains("damaged from here on"));
        assert!(broken.points.iter().all(|point| !point.present));
    }

    #[test]
    fn groups_that_this_disk_lost_are_gaps_though_no_journal_names_them() {
        let key = NodeKey::generate();
        let head = Head { state: session::State::Ended, ended_unix_ms: Some(1_795_327_600_000), ..head(&key) };
        let meta = Arc::new(Memory::new());
        let archive = Archive::over(meta.clone(), Arc::new(Memory::new())).unwrap();
        let track = TrackId::new(number(0), TrackKind::Audio);
        let secret = SessionKey::from_bytes(&[7; 32]);
        let group = |seq| {
            let sealer = Sealer::new(&secret, head.suite, head.id, key.id(), track, 0, Start::from_bits(seq));
            Writer::new(sealer, seq, seq * 2_000_000).0.finish().record
        };
        archive.put_groups(&[group(0), group(1), group(2)]).unwrap();
        archive.put_head(&head).unwrap();
        assert_eq!(list(&archive).unwrap()[0].gaps, 0);
        // Its other database is gone, and one group came back.
        let archive = Archive::over(meta, Arc::new(Memory::new())).unwrap();
        archive.put_groups(&[group(1)]).unwrap();
        let [session] = &list(&archive).unwrap()[..] else { panic!("one session") };
        assert_eq!((session.groups, session.gaps), (1, 2));
    }

    #[test]
    fn a_group_in_two_gaps_is_missing_once() {
        assert_eq!(apart(vec![(5, 9), (1, 2), (3, 6), (7, 7), (20, 20)]), [(1, 2), (3, 9), (20, 20)]);
    }

    #[test]
    fn a_session_is_found_by_the_beginning_of_its_id() {
        let ids = [[1; 10], [2; 10]].map(|random| SessionId::from_parts(1_795_327_511_000, random));
        let printed = ids[1].to_string();
        assert_eq!(pick(ids.into_iter(), &printed.to_uppercase()).unwrap(), ids[1]);
        assert_eq!(pick(ids.into_iter(), &printed[..13]).unwrap(), ids[1]);
        assert!(matches!(pick(ids.into_iter(), &printed[..4]), Err(Error::Several { count: 2, .. })));
        assert_eq!(pick(ids.into_iter(), "last").unwrap(), ids[1]);
        assert!(matches!(pick([].into_iter(), "last"), Err(Error::Missing(_))));
        assert!(matches!(pick(ids.into_iter(), "zzz"), Err(Error::Missing(_))));
        assert!(matches!(pick(ids.into_iter(), ""), Err(Error::Missing(_))));
    }
}
