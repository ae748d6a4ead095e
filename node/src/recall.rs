//! What the archive tells the engine: where our own tracks stand, and where a session stood when the program ended.

use std::collections::BTreeMap;
use std::ops::Range;

use store::archive::{self, Archive};
use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::inventory::Have;
use store::journal::{Chain, Entry, Event, GapReason};
use store::keys::Epoch;
use store::session::{Head, State};
use store::signed::Signed;

use crate::engine::keeper;
use crate::engine::keeper::runs::Runs;
use crate::engine::session::{Own, Recalled, is_recorded};
use crate::studio::RESERVE;
use crate::wire::control::{Last, Span};

/// A group's time after its start that a restarted central leaves alone, in microseconds: longer than any group.
const AFTER_LAST_US: u64 = 2_500_000;

/// So many numbers a central is believed that a lost archive has used: eight days of groups, as far as a central believes a
/// point that leaves numbers out. More would let it use up all there are.
const USED_MAX: u64 = 350_000;

/// A session that lasts longer is not believed to have begun so long ago: as many days as [`USED_MAX`] has.
const LASTS_MS_MAX: u64 = 8 * 24 * 3600 * 1000;

/// The clocks of two offices differ by less.
const CLOCKS_MS_MAX: u64 = 24 * 3600 * 1000;

/// A session as the archive knows it, and, if we are its central, the end of its journal. Numbers are set aside for a
/// session that goes on here.
pub fn recall(archive: &Archive, head: Head, me: NodeId) -> Result<(Recalled, Option<Chain>), archive::Error> {
    let id = head.id;
    let mut wraps = archive.all_wraps(&id)?;
    // Those of an epoch whose head was not written any more are of no use.
    wraps.retain(|epoch, _| head.commitment(*epoch).is_some());
    let number = head.number(&me);
    let chairs = head.central == me;
    let resumes = chairs && head.state == State::Open;
    let own = match number {
        Some(number) if resumes => reserve(archive, &id, number, 0)?,
        Some(number) => own(archive, &id, number)?,
        None => Own::default(),
    };
    let mut recalled = Recalled { head, own, wraps, told: 0, last_us: 0, kept: Vec::new(), cut_short: Vec::new() };
    if !chairs {
        return Ok((recalled, None));
    }
    let (chain, journal) = read_journal(archive, &id, me)?;
    let last_us = journal.iter().map(|entry| entry.content().at_us).max().unwrap_or(0);
    recalled.last_us = last_us.max(last_group_us(archive, &recalled.head)?);
    recalled.told = journal.iter().filter_map(|entry| epoch_of(&entry.content().event)).max().unwrap_or(0);
    let lost = archive.lost(&id)?;
    recalled.kept = kept_of(archive, &recalled.head, me, &journal, &lost)?;
    if let Some(number) = number.filter(|_| resumes)
        && archive.is_unsettled(&id)?
    {
        recalled.cut_short = under_way(archive, &recalled.head, number, recalled.own.first_seq)?;
    }
    let ours = lost.iter().filter(|(track, _)| number == Some(track.point()));
    recalled.cut_short.extend(ours.flat_map(|(track, lost)| spans(*track, lost)));
    recalled.cut_short.retain(|span| !is_told(&journal, span));
    Ok((recalled, Some(chain)))
}

/// The epoch an entry of the journal says has begun.
fn epoch_of(event: &Event) -> Option<Epoch> {
    match event {
        Event::Epoch { epoch, .. } => Some(*epoch),
        Event::Started { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::Removed { .. }
        | Event::Gap { .. }
        | Event::Repaired { .. }
        | Event::Resumed {}
        | Event::Ended { .. }
        | Event::Disputed { .. }
        | Event::Forked { .. }
        | Event::Noted(_) => None,
    }
}

/// Where our own tracks of a session stand.
pub fn own(archive: &Archive, session: &SessionId, number: PointNumber) -> Result<Own, archive::Error> {
    let first_seq = archive.reserved(session)?;
    let mut tracks = Vec::new();
    for track in recorded(number) {
        let (have, ever) = (archive.have(session, track)?.last(), archive.ever(session, track)?.last());
        // What the disk has lost is named like what it has, up to the last number it may have been: so it is missed.
        let last = if have < ever { ever.max(first_seq.checked_sub(1)) } else { have };
        tracks.extend(last.map(|seq| Last { track, seq }));
    }
    Ok(Own { first_seq, unused: Vec::new(), tracks })
}

/// What [`reserve`] does, for a session that central invites to and of which it says that we used numbers below `used`.
pub fn join(
    archive: &Archive,
    head: &Head,
    number: PointNumber,
    used: u64,
    now_ms: u64,
) -> Result<Own, archive::Error> {
    let used = used.min(USED_MAX);
    if used > 0 && archive.reserved(&head.id)? == 0 && may_have_lost(archive, head, now_ms)? {
        // What it signed before is lost with it, and must be back before anything is signed.
        archive.set_owed(&head.id, Some(used))?;
    }
    reserve(archive, &head.id, number, used)
}

/// Whether this archive may have lost what we did in a session that it does not know: not if it is older. Else central could say of any
/// session that we were in it before, and we would wait for ever for what we never signed.
fn may_have_lost(archive: &Archive, head: &Head, now_ms: u64) -> Result<bool, archive::Error> {
    let began_ms = head.started_unix_ms.max(now_ms.saturating_sub(LASTS_MS_MAX));
    Ok(archive.born()?.is_none_or(|born_ms| born_ms >= began_ms.saturating_sub(CLOCKS_MS_MAX)))
}

/// The same for a run that begins to publish: numbers are set aside for it, not below `used` if this archive knows of none,
/// and those an earlier run left are named.
pub fn reserve(archive: &Archive, session: &SessionId, number: PointNumber, used: u64) -> Result<Own, archive::Error> {
    // An archive that knows the session knows its numbers better than central does.
    let used = if archive.reserved(session)? == 0 { used } else { 0 };
    let Range { start, .. } = archive.reserve_seqs(session, used, RESERVE)?;
    let own = own(archive, session, number)?;
    // A group may have been under way when the run before ended; central does not take one it saw begin for unused.
    let begun = own.tracks.iter().map(|last| last.seq + 1).max().unwrap_or(0);
    let unused = match start.checked_sub(1) {
        Some(to) if begun <= to => own.tracks.iter().map(|last| Span { track: last.track, from: begun, to }).collect(),
        _ => Vec::new(),
    };
    Ok(Own { first_seq: start, unused, ..own })
}

/// The groups of our own room that were under way when the program was cut off, one of each track. Whoever saw them live
/// kept no part of them, so they are lost. If the disk lost groups too, nobody knows how many came after the last it is
/// known to have had: every number that was set aside may be one.
fn under_way(archive: &Archive, head: &Head, number: PointNumber, first: u64) -> Result<Vec<Span>, archive::Error> {
    let mut spans = Vec::new();
    for track in recorded(number) {
        let (have, ever) = (archive.have(&head.id, track)?, archive.ever(&head.id, track)?);
        let Some(last) = ever.last() else { continue };
        // The numbers end before this run's own.
        let Some(end) = first.checked_sub(1).filter(|end| last < *end) else { continue };
        let to = if have.last() == Some(last) { last + 1 } else { end };
        spans.push(Span { track, from: last + 1, to });
    }
    Ok(spans)
}

/// The tracks of a point that are recorded.
fn recorded(number: PointNumber) -> impl Iterator<Item = TrackId> {
    TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)).map(move |kind| TrackId::new(number, kind))
}

fn spans(track: TrackId, groups: &Have) -> impl Iterator<Item = Span> + '_ {
    groups.runs().map(move |run| Span { track, from: *run.start(), to: *run.end() })
}

/// Whether the journal calls all of these groups missing already, in one entry.
fn is_told(journal: &[Signed<Entry>], span: &Span) -> bool {
    journal.iter().any(|entry| match &entry.content().event {
        Event::Gap { track, from_seq, to_seq, .. } => {
            *track == span.track && *from_seq <= span.from && span.to <= *to_seq
        }
        _ => false,
    })
}

/// Reads a journal we write, checks it, and gives its end. A journal that is not whole is continued from its last good
/// entry if that is its end; anything else is an error, for nothing may be written over it.
fn read_journal(
    archive: &Archive,
    session: &SessionId,
    central: NodeId,
) -> Result<(Chain, Vec<Signed<Entry>>), archive::Error> {
    let unreadable = |why: &dyn std::fmt::Display| archive::Error::Unreadable(format!("journal of {session} ({why})"));
    let mut chain = Chain::new(*session, central);
    let mut entries = Vec::new();
    for bytes in archive.journal(session, 0)? {
        let entry = Signed::<Entry>::parse(bytes).map_err(|error| unreadable(&error))?;
        chain.accept(&entry).map_err(|error| unreadable(&error))?;
        entries.push(entry);
    }
    Ok((chain, entries))
}

/// Session time after the last group stored of any track, in microseconds.
fn last_group_us(archive: &Archive, head: &Head) -> Result<u64, archive::Error> {
    let mut latest = 0;
    for track in archive.tracks(&head.id)? {
        let Some(last) = archive.have(&head.id, track)?.last() else { continue };
        for outline in archive.outlines(&head.id, track, last..last + 1, 1)? {
            latest = latest.max(outline.t0.saturating_add(AFTER_LAST_US));
        }
    }
    Ok(latest)
}

/// What a journal says at its end of a track's groups. As runs, for a point can make gaps of any size by leaving numbers out.
#[derive(Default)]
struct Told {
    /// Missing, and to be had from their origin.
    open: Runs,
    /// Lost at their source.
    lost: Runs,
    /// Missing once, and repaired.
    back: Runs,
}

impl Told {
    fn of(journal: &[Signed<Entry>], track: TrackId) -> Self {
        let mut told = Self::default();
        for entry in journal {
            let (of, from, to, into) = match &entry.content().event {
                Event::Gap { track, from_seq, to_seq, reason: GapReason::LostAtSource } => {
                    (track, *from_seq, *to_seq, Into::Lost)
                }
                Event::Gap { track, from_seq, to_seq, .. } => (track, *from_seq, *to_seq, Into::Open),
                Event::Repaired { track, from_seq, to_seq } => (track, *from_seq, *to_seq, Into::Back),
                _ => continue,
            };
            if *of == track {
                [&mut told.open, &mut told.lost, &mut told.back].into_iter().for_each(|runs| runs.remove(from, to));
                match into {
                    Into::Open => told.open.insert(from, to),
                    Into::Lost => told.lost.insert(from, to),
                    Into::Back => told.back.insert(from, to),
                }
            }
        }
        told
    }
}

/// Which of the three an entry says.
enum Into {
    Open,
    Lost,
    Back,
}

/// What the keeper must know of a session it did not see: gaps the journal names, what is here, and what was.
fn kept_of(
    archive: &Archive,
    head: &Head,
    me: NodeId,
    journal: &[Signed<Entry>],
    lost: &BTreeMap<TrackId, Have>,
) -> Result<Vec<keeper::Input>, archive::Error> {
    let mut kept = Vec::new();
    for point in head.points.iter().filter(|point| point.node != me) {
        for kind in TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)) {
            let track = TrackId::new(point.number, kind);
            let have = archive.have(&head.id, track)?;
            let told = Told::of(journal, track);
            kept.extend(told.lost.iter().map(|(from, to)| keeper::Input::Told { track, from, to, lost: true }));
            kept.extend(told.open.iter().map(|(from, to)| keeper::Input::Told { track, from, to, lost: false }));
            kept.extend(have.runs().map(|run| {
                let (from, to) = run.into_inner();
                keeper::Input::Held { track, from, to }
            }));
            // What came back once was here, whether or not that was counted before it was lost.
            let mut gone = told.back;
            lost.get(&track).into_iter().flat_map(Have::runs).for_each(|run| gone.insert(*run.start(), *run.end()));
            have.runs().for_each(|run| gone.remove(*run.start(), *run.end()));
            kept.extend(gone.iter().map(|(from, to)| keeper::Input::Gone { track, from, to }));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::id::Hash;
    use store::keys::NodeKey;
    use store::seal::Suite;
    use store::session::{Member, Period};

    use super::*;

    fn archive() -> Archive {
        Archive::over(Arc::new(Memory::new()), Arc::new(Memory::new())).expect("a database that works")
    }

    fn point(number: u16) -> PointNumber {
        PointNumber::new(number).expect("a small number")
    }

    #[test]
    fn gaps_of_any_size_cost_no_more_than_their_entries() {
        let (archive, central, other) = (archive(), NodeKey::from_bytes(&[1; 32]), NodeKey::from_bytes(&[2; 32]));
        let member = |number, key: &NodeKey| Member { number: point(number), node: key.id(), name: "Xã".into() };
        let head = Head {
            id: SessionId::from_bytes([3; 16]),
            title: "Định kỳ".into(),
            state: State::Open,
            central: central.id(),
            points: vec![member(1, &central), member(2, &other)],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms: 1,
            ended_unix_ms: None,
        };
        archive.put_head(&head).expect("a database that works");
        let mut chain = Chain::new(head.id, central.id());
        let track = TrackId::new(point(2), TrackKind::Audio);
        let mut tell = |event| archive.append_journal(&chain.append(&central, 0, 0, event)).expect("it follows");
        let wide = 1 << 40;
        for gap in 0..100 {
            let (from_seq, to_seq) = (gap * wide, gap * wide + wide - 2);
            tell(Event::Gap { track, from_seq, to_seq, reason: GapReason::Shed });
            if gap % 2 == 0 {
                tell(Event::Repaired { track, from_seq, to_seq: from_seq + wide / 2 });
            }
        }
        let (recalled, _) = recall(&archive, head, central.id()).expect("it can be read");
        let last = recalled.kept.iter().rev().find(|input| matches!(input, keeper::Input::Told { .. }));
        let (from, to) = (99 * wide, 99 * wide + wide - 2);
        assert_eq!(last, Some(&keeper::Input::Told { track, from, to, lost: false }));
    }

    /// A session that began then.
    fn began(id: u8, started_unix_ms: u64) -> Head {
        let member = |number, byte| Member {
            number: point(number),
            node: NodeKey::from_bytes(&[byte; 32]).id(),
            name: "Xã".into(),
        };
        Head {
            id: SessionId::from_bytes([id; 16]),
            title: "Định kỳ".into(),
            state: State::Open,
            central: NodeKey::from_bytes(&[1; 32]).id(),
            points: vec![member(1, 1), member(2, 2)],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms,
            ended_unix_ms: None,
        }
    }

    #[test]
    fn a_central_cannot_use_up_the_numbers_of_a_point() {
        let archive = archive();
        let first = |id, used| join(&archive, &began(id, 1), point(2), used, 1).expect("there are numbers").first_seq;
        assert_eq!(first(3, 100), 100);
        assert_eq!(first(3, u64::MAX), 100 + RESERVE, "what the archive knows counts");
        assert_eq!(first(4, u64::MAX), USED_MAX);
    }

    #[test]
    fn a_central_cannot_make_a_point_believe_that_it_lost_something() {
        let day = 24 * 3600 * 1000;
        let owed = |born: Option<u64>, started, used, now| {
            let archive = archive();
            born.iter().for_each(|born| archive.set_born(*born).expect("a database that works"));
            join(&archive, &began(3, started), point(2), used, now).expect("there are numbers");
            archive.owed(&SessionId::from_bytes([3; 16])).expect("readable")
        };
        let start = 1_000 * day;
        assert_eq!(owed(Some(start + 60_000), start, 70, start + 90_000), Some(70), "a new disk in mid-session");
        assert_eq!(owed(Some(start - day / 2), start, 70, start), Some(70), "a clock that is half a day off");
        assert_eq!(owed(None, start, 70, start), Some(70), "nobody noted how old it is");
        assert_eq!(owed(Some(start + 60_000), start, 0, start + 90_000), None, "it was never in it");
        assert_eq!(owed(Some(start - 2 * day), start, 1, start), None, "it was there all the time and knows better");
        assert_eq!(owed(Some(start - 10 * day), 1, 1, start), None, "no session is so old");
    }
}
