//! What of a session is in an archive, track by track, and what is not.
//!
//! Three things tell of a missing group: the journal, which says why; the archive's count of what it once held; and a hole
//! in the numbers between the first and the last group that are here, which says only that. Numbers may be left out at the source without anything being lost (a
//! point that restarts skips those it had set aside), so a hole the journal does not explain is named as just that.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};
use store::archive::{self, Archive, Totals};
use store::id::{SessionId, TrackId, TrackKind};
use store::inventory::Have;
use store::journal::{Chain, Entry, Event, GapReason};
use store::keys::Epoch;
use store::session::Head;
use store::signed::Signed;

use crate::control;

/// Ranges named per gap and track. A session of two hours has 3,600 groups a track, so there are never that many.
const RANGES_MAX: usize = 4096;

/// One track of a session, as far as it is here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holding {
    /// The session.
    #[serde(skip)]
    pub session: SessionId,
    /// Name of the point that made it.
    pub point: String,
    /// Which track.
    pub track: TrackId,
    /// Groups here.
    pub groups: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Numbers of the groups here, rising.
    #[serde(skip)]
    pub runs: Vec<RangeInclusive<u64>>,
    /// What is not here.
    pub missing: Vec<Missing>,
}

/// Groups of a track that are not here or cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which track.
    pub track: TrackId,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
    /// Why.
    pub reason: Reason,
}

/// Why groups are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// As the journal says.
    Journal(GapReason),
    /// They were stored here, and the disk has them no more.
    Lost,
    /// They are here and are not what they should be.
    Damaged(&'static str),
    /// They are here, sealed with the key of an epoch this point was not given.
    Sealed(Epoch),
    /// Nobody says.
    Unexplained,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(reason) => f.write_str(control::session::why(*reason)),
            Self::Lost => f.write_str("they were stored here, and are lost from this disk"),
            Self::Damaged(found) => write!(f, "damaged: {found}"),
            Self::Sealed(epoch) => write!(f, "sealed: this point has no key of epoch {epoch}"),
            Self::Unexplained => f.write_str("not here, and the journal does not say why"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the journal calls missing: track, first and last number, why.
type Gap = (TrackId, u64, u64, GapReason);

/// The recorded tracks of which something is here or is said to be missing, by point and kind. Reads some fifty bytes a
/// group, and no group.
pub fn holdings(archive: &Archive, head: &Head) -> Result<Vec<Holding>, archive::Error> {
    let totals = archive.totals(&head.id)?;
    let gaps = gaps(archive, head)?;
    let lost = archive.lost(&head.id)?;
    let mut holdings = Vec::new();
    for member in &head.points {
        for kind in TrackKind::ALL {
            let track = TrackId::new(member.number, kind);
            let Totals { groups, frames, bytes } = totals.get(&track).copied().unwrap_or_default();
            let have = archive.have(&head.id, track)?;
            let missing = missing(track, &have, &gaps, lost.get(&track));
            if have.is_empty() && missing.is_empty() {
                continue;
            }
            let (session, point, runs) = (head.id, member.name.clone(), have.runs().collect());
            holdings.push(Holding { session, point, track, groups, frames, bytes, runs, missing });
        }
    }
    Ok(holdings)
}

/// The journal's gaps, as far as the journal is whole.
fn gaps(archive: &Archive, head: &Head) -> Result<Vec<Gap>, archive::Error> {
    let mut chain = Chain::new(head.id, head.central);
    let mut gaps = Vec::new();
    for bytes in archive.journal(&head.id, 0)? {
        let Ok(entry) = Signed::<Entry>::parse(bytes) else { break };
        if chain.accept(&entry).is_err() {
            break;
        }
        if let Event::Gap { track, from_seq, to_seq, reason } = entry.content().event {
            gaps.push((track, from_seq, to_seq, reason));
        }
    }
    Ok(gaps)
}

/// What is not here, each number once: that it was here once counts most, then what the journal said first of it.
fn missing(track: TrackId, have: &Have, gaps: &[Gap], lost: Option<&Have>) -> Vec<Missing> {
    let mut told: Vec<(u64, u64)> = Vec::new();
    let mut missing = Vec::new();
    let mut name = |from: u64, to: u64, reason, told: &[(u64, u64)]| {
        for range in have.missing(from..=to, RANGES_MAX).into_iter().flat_map(|range| beyond(range, told)) {
            missing.push(Missing { track, from: *range.start(), to: *range.end(), reason });
        }
    };
    for (from, to) in lost.into_iter().flat_map(Have::runs).map(RangeInclusive::into_inner) {
        name(from, to, Reason::Lost, &told);
        told.push((from, to));
    }
    for &(_, from, to, reason) in gaps.iter().filter(|(of, from, to, _)| *of == track && from <= to) {
        name(from, to, Reason::Journal(reason), &told);
        told.push((from, to));
    }
    let first = have.runs().next().map(|run| *run.start());
    if let (Some(first), Some(last)) = (first, have.last()) {
        name(first, last, Reason::Unexplained, &told);
    }
    tidy(&mut missing);
    missing
}

/// The parts of a range that lie in none of `spans`.
fn beyond(range: RangeInclusive<u64>, spans: &[(u64, u64)]) -> Vec<RangeInclusive<u64>> {
    let mut left = vec![range];
    for &(from, to) in spans {
        let cut = |range: RangeInclusive<u64>| {
            let (start, end) = range.into_inner();
            let before = (start < from).then(|| start..=end.min(from - 1));
            let after = (end > to).then(|| start.max(to + 1)..=end);
            before.into_iter().chain(after)
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}

/// Sorts by track and number, and joins neighbours.
pub(super) fn tidy(missing: &mut Vec<Missing>) {
    missing.sort_by_key(|missing| (missing.track, missing.from, missing.to));
    missing.dedup_by(|next, last| {
        let joins = next.track == last.track && next.reason == last.reason && next.from <= last.to.saturating_add(1);
        if joins {
            last.to = last.to.max(next.to);
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use store::id::PointNumber;

    use super::*;

    #[test]
    fn what_is_missing_is_named_once_and_with_its_reason() {
        let track = TrackId::new(PointNumber::new(1).unwrap(), TrackKind::Main);
        let other = TrackId::new(PointNumber::new(2).unwrap(), TrackKind::Main);
        let mut have = Have::new();
        for seq in [2, 3, 6, 9] {
            have.insert(seq);
        }
        let gaps = [
            (track, 3, 5, GapReason::Shed),
            (track, 5, 5, GapReason::Lost),
            (other, 0, 100, GapReason::Lost),
            (track, 10, 12, GapReason::NotMade),
        ];
        let lost: Have = [4, 13].into_iter().collect();
        let found = missing(track, &have, &gaps, Some(&lost));
        let found: Vec<_> = found.iter().map(|gap| (gap.from, gap.to, gap.reason)).collect();
        let journal = Reason::Journal;
        let expected = [
            (4, 4, Reason::Lost),
            (5, 5, journal(GapReason::Shed)),
            (7, 8, Reason::Unexplained),
            (10, 12, journal(GapReason::NotMade)),
            (13, 13, Reason::Lost),
        ];
        assert_eq!(found, expected);
        assert!(missing(track, &Have::new(), &[], None).is_empty());
    }
}
