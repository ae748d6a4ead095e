//! What journal and segments say of a session, added up as they are read: which groups there must be, and which gaps are
//! known.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{Hash, PointNumber, TrackId},
    journal::{Entry, Event, GapReason},
    segment::{Gap, Group, Segment},
    session::{Head, Member},
};

#[derive(Debug, Default)]
pub(super) struct Account {
    /// The groups their points signed for.
    pub(super) signed: BTreeMap<(TrackId, u64), Group>,
    /// Hashes of the journal's good entries, in order.
    pub(super) journal: Vec<Hash>,
    /// Hashes of each point's good segments, in order.
    pub(super) chains: BTreeMap<PointNumber, Vec<Hash>>,
    /// The first number of each track that no segment speaks of.
    next: BTreeMap<TrackId, u64>,
    /// Gaps of segments that were not asked for yet.
    gaps: Vec<(TrackId, Gap)>,
    /// What the journal called missing, in its order, and whether it came after all.
    told: Vec<(TrackId, u64, u64, GapReason)>,
    repaired: Vec<(TrackId, u64, u64)>,
    joined: BTreeSet<PointNumber>,
    /// Points whose segments have no end.
    pub(super) unfinished: BTreeSet<PointNumber>,
    pub(super) ended: bool,
    /// Keys the journal tells of.
    pub(super) epochs: usize,
    /// There is no journal that could be believed.
    pub(super) broken: bool,
}

impl Account {
    /// The next good entry of the journal; an error says what of it does not fit the head.
    pub(super) fn hear(&mut self, head: &Head, entry: &Entry) -> Result<(), String> {
        let first = entry.n == 0;
        match &entry.event {
            Event::Started { title, points } => {
                self.epochs = 1;
                match first && *title == head.title && *points == head.points {
                    true => Ok(()),
                    false => Err("has another title or other points than the head".into()),
                }
            }
            _ if first => Err("does not say how the session started".into()),
            Event::Epoch { epoch, commitment, from_us } => {
                self.epochs = usize::from(*epoch) + 1;
                let period = head.epochs.iter().find(|period| period.epoch == *epoch);
                match period.is_some_and(|period| (period.commitment, period.from_us) == (*commitment, *from_us)) {
                    true => Ok(()),
                    false => Err(format!("tells of another key of epoch {epoch} than the head")),
                }
            }
            Event::Joined { point } => {
                self.joined.insert(*point);
                Ok(())
            }
            Event::Gap { track, from_seq, to_seq, reason } => {
                self.told.push((*track, *from_seq, *to_seq, *reason));
                Ok(())
            }
            Event::Repaired { track, from_seq, to_seq } => {
                self.repaired.push((*track, *from_seq, *to_seq));
                Ok(())
            }
            Event::Ended { .. } => {
                self.ended = true;
                Ok(())
            }
            Event::Disputed { track, from_seq, to_seq } => {
                Err(format!("says that groups {from_seq} to {to_seq} of {track} are not those their point signed"))
            }
            Event::Forked { point, n } => Err(format!("says that point {point} signed two different segments {n}")),
            Event::Left { .. } | Event::Removed { .. } | Event::Resumed {} | Event::Noted(_) => Ok(()),
        }
    }

    /// The next good segment of a point.
    pub(super) fn list(&mut self, segment: &Segment) {
        self.signed.extend(segment.groups().map(|(track, group)| ((track, group.seq), group.clone())));
        self.gaps.extend(segment.gaps().map(|(track, gap)| (track, *gap)));
        self.next.extend(segment.tracks.iter().map(|listed| (listed.track, listed.next)));
    }

    /// The gaps of the segments since this was asked last.
    pub(super) fn take_gaps(&mut self) -> Vec<(TrackId, Gap)> {
        std::mem::take(&mut self.gaps)
    }

    /// Why the journal says that a group is missing, unless it says that it came after all.
    pub(super) fn gap(&self, track: TrackId, seq: u64) -> Option<GapReason> {
        let within = |of: TrackId, from: u64, to: u64| of == track && (from..=to).contains(&seq);
        let told = self.told.iter().find(|(of, from, to, _)| within(*of, *from, *to))?;
        let repaired = self.repaired.iter().any(|(of, from, to)| within(*of, *from, *to));
        (!repaired).then_some(told.3)
    }

    pub(super) fn next_of(&self, track: TrackId) -> u64 {
        self.next.get(&track).copied().unwrap_or(0)
    }

    pub(super) fn took_part(&self, head: &Head, member: &Member) -> bool {
        member.node == head.central || self.joined.contains(&member.number) || self.broken
    }
}
