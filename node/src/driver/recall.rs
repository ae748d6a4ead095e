//! What the archive tells the engine: where our own tracks stand, and which sessions were left open.

use std::collections::BTreeMap;
use std::ops::Range;

use store::archive::{self, Archive};
use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::inventory::Have;
use store::journal::{Chain, Entry, Event, GapReason};
use store::keys::Epoch;
use store::session::{Head, State};
use store::signed::Signed;

use super::{Driver, Error, unix_ms};
use crate::engine::keeper;
use crate::engine::session::{Input, Own, PAST_MAX, Recalled, is_recorded};
use crate::studio::RESERVE;
use crate::wire::control::{Last, Span};

/// A group's time after its start that a restarted central leaves alone, in microseconds: longer than any group.
const AFTER_LAST_US: u64 = 2_500_000;

impl Driver {
    /// Tells the engine of the sessions the archive knows: the open ones, and the latest that are over, in which somebody
    /// may still owe groups.
    pub(super) fn recall(&mut self) -> Result<(), Error> {
        let archive = self.vault.archive();
        let sessions = archive.sessions()?;
        for damaged in sessions.damaged {
            tracing::error!(session = %damaged, "the head of this session cannot be read; its groups are left alone");
        }
        // The latest first: it is the one to resume, should there be two.
        // Those that are only held for others are no business of the room.
        let ours = sessions.heads.into_iter().filter(|head| head.number(&self.me).is_some());
        let latest: Vec<Head> = ours.rev().collect();
        let (open, over): (Vec<Head>, Vec<Head>) = latest.into_iter().partition(|head| head.state == State::Open);
        for head in open.into_iter().take(PAST_MAX).chain(over.into_iter().take(PAST_MAX / 2)) {
            let id = head.id;
            match self.recalled(head) {
                Ok(recalled) => {
                    let recalled = Box::new(recalled);
                    self.tell(Input::Recall { recalled, unix_ms: unix_ms() });
                    self.carry_out_all();
                }
                Err(error) => tracing::error!(session = %id, %error, "this session cannot be taken up"),
            }
        }
        Ok(())
    }

    fn recalled(&mut self, head: Head) -> Result<Recalled, archive::Error> {
        let (id, me) = (head.id, self.me);
        self.attest(&head);
        let archive = self.vault.archive();
        let mut wraps = archive.all_wraps(&id)?;
        // Those of an epoch whose head was not written any more are of no use.
        wraps.retain(|epoch, _| head.commitment(*epoch).is_some());
        let keys = self.open_keys(&head, &wraps);
        let archive = self.vault.archive();
        let number = head.number(&me);
        let chairs = head.central == me;
        let resumes = chairs && head.state == State::Open;
        let own = match number {
            Some(number) if resumes => reserve(archive, &id, number)?,
            Some(number) => own(archive, &id, number)?,
            None => Own::default(),
        };
        let cut_off = resumes && archive.is_unsettled(&id)?;
        let (mut last_us, mut told, mut kept, mut cut_short) = (0, 0, Vec::new(), Vec::new());
        if chairs {
            let (chain, journal) = read_journal(archive, &id, me)?;
            last_us = journal.iter().map(|entry| entry.content().at_us).max().unwrap_or(0);
            last_us = last_us.max(last_group_us(archive, &head)?);
            told = journal.iter().filter_map(|entry| epoch_of(&entry.content().event)).max().unwrap_or(0);
            let lost = archive.lost(&id)?;
            kept = kept_of(archive, &head, me, &journal, &lost)?;
            if cut_off {
                cut_short = under_way(&own);
            }
            let ours = lost.iter().filter(|(track, _)| number == Some(track.point()));
            cut_short.extend(ours.flat_map(|(track, lost)| spans(*track, lost)));
            cut_short.retain(|span| !is_told(&journal, span));
            self.chains.insert(id, chain);
        }
        match keys {
            Ok(keys) => drop(self.keys.insert(id, keys)),
            Err(error) => tracing::warn!(session = %id, error, "the keys of this session are not all here"),
        }
        Ok(Recalled { head, own, wraps, told, last_us, kept, cut_short })
    }
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
pub(super) fn own(archive: &Archive, session: &SessionId, number: PointNumber) -> Result<Own, archive::Error> {
    let mut tracks = Vec::new();
    for kind in TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)) {
        let track = TrackId::new(number, kind);
        tracks.extend(archive.have(session, track)?.last().map(|seq| Last { track, seq }));
    }
    Ok(Own { first_seq: archive.reserved(session)?, unused: Vec::new(), tracks })
}

/// The same for a run that begins to publish: numbers are set aside for it, and those an earlier run left are named.
pub(super) fn reserve(archive: &Archive, session: &SessionId, number: PointNumber) -> Result<Own, archive::Error> {
    let Range { start, .. } = archive.reserve_seqs(session, RESERVE)?;
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
/// kept no part of them, so they are lost.
fn under_way(own: &Own) -> Vec<Span> {
    own.tracks.iter().map(|last| Span { track: last.track, from: last.seq + 1, to: last.seq + 1 }).collect()
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
