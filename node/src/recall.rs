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
use crate::engine::session::{Own, Recalled, is_recorded};
use crate::studio::RESERVE;
use crate::wire::control::{Last, Span};

/// A group's time after its start that a restarted central leaves alone, in microseconds: longer than any group.
const AFTER_LAST_US: u64 = 2_500_000;

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
        | Event::Forked { .. } => None,
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

/// The same for a run that begins to publish: numbers not below `used` are set aside for it, and those an earlier run left
/// are named.
pub fn reserve(archive: &Archive, session: &SessionId, number: PointNumber, used: u64) -> Result<Own, archive::Error> {
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
        let to = if have.last() == Some(last) { last + 1 } else { first.saturating_sub(1).max(last + 1) };
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

/// The groups of a track that a journal calls missing at its end, those lost at their source left out.
fn open_gaps(journal: &[Signed<Entry>], track: TrackId) -> Have {
    let mut open = Have::new();
    for entry in journal {
        match &entry.content().event {
            Event::Gap { track: of, from_seq, to_seq, reason }
                if *of == track && *reason != GapReason::LostAtSource =>
            {
                open.merge(&numbers(*from_seq, *to_seq));
            }
            Event::Gap { track: of, from_seq, to_seq, .. } | Event::Repaired { track: of, from_seq, to_seq }
                if *of == track =>
            {
                open = open.without(&numbers(*from_seq, *to_seq));
            }
            _ => {}
        }
    }
    open
}

fn numbers(from: u64, to: u64) -> Have {
    let mut numbers = Have::new();
    for seq in from..=to {
        numbers.insert(seq);
    }
    numbers
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
            // What was lost was here, so whatever the journal called missing of it was repaired since.
            let mut was = have.clone();
            lost.get(&track).into_iter().for_each(|lost| was.merge(lost));
            let told = journal.iter().filter_map(|entry| match &entry.content().event {
                Event::Gap { track: of, from_seq, to_seq, reason } if *of == track => {
                    Some((*from_seq..=*to_seq, *reason == GapReason::LostAtSource))
                }
                _ => None,
            });
            for (told, lost) in told {
                // A journal names gaps once, so there are no more of these than entries.
                let missing = was.missing(told, usize::MAX);
                kept.extend(missing.into_iter().map(|run| {
                    let (from, to) = run.into_inner();
                    keeper::Input::Told { track, from, to, lost }
                }));
            }
            // The program ended after these were stored, and before it could say so.
            let unsaid = open_gaps(journal, track);
            kept.extend(unsaid.runs().map(|run| {
                let (from, to) = run.into_inner();
                keeper::Input::Told { track, from, to, lost: false }
            }));
            kept.extend(have.runs().map(|run| {
                let (from, to) = run.into_inner();
                keeper::Input::Held { track, from, to }
            }));
            kept.extend(lost.get(&track).into_iter().flat_map(Have::runs).map(|run| {
                let (from, to) = run.into_inner();
                keeper::Input::Gone { track, from, to }
            }));
        }
    }
    Ok(kept)
}
