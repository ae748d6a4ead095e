//! Segments: what a point recorded, as the point itself signs it, every half minute while it records.
//!
//! A group can be checked by its address alone, but an address says nothing of who made the group, and nothing of the
//! groups that are not there. So each origin signs, for all of its tracks, which groups it recorded since it signed last,
//! in one chain per point. Every group number is in it exactly once, as a group or in a gap with a reason: what is left
//! out is missing in a list that its maker signed, and whoever holds the last segment can tell whether any was changed,
//! dropped or swapped. Why not sign each group: a signature a group would say the same at three times the bytes, and still
//! not that none is missing.
//!
//! Every segment lists every track the one before it listed, even if nothing came, so the end of a chain can be
//! taken from its last segment alone. It also closes what sealing leaves open: `mac` is a keyed hash of the plaintext and
//! `keys` the commitment to each key, so that the point stands by one content of its ciphertext (see [`crate::seal`]).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{Hash, NodeId, PointNumber, SEQ_MAX, SessionId, TrackId},
    keys::{Epoch, NodeKey},
    record::{DT_MAX, FRAME_COUNT_MAX, GROUP_LEN_MAX, Record, T0_MAX},
    seal::{self, Opener},
    signed::{self, Content, Signed},
};

/// Most groups and gaps in one segment, all tracks together. Half a minute of two tracks has 30; a point that has more to
/// sign, after a crash for instance, signs several segments.
pub const ENTRIES_MAX: usize = 256;

/// Most tracks of one point: as many as a point's number leaves room for.
pub const TRACKS_MAX: usize = 8;

/// Latest session time of anything, in microseconds: the end of the last possible group.
const US_MAX: u64 = T0_MAX + DT_MAX.as_micros() as u64;

/// Why a chain of segments is not whole. `n` is the segment at which it was noticed; what comes before it is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not a signed segment.
    #[error("segment {n} of point {point} cannot be read")]
    Segment {
        /// The point.
        point: PointNumber,
        /// Number the segment should have.
        n: u32,
        /// What is wrong with it.
        #[source]
        source: signed::Error,
    },
    /// Somebody else signed it.
    #[error("segment {n} of point {point} is signed by {signer}, who is not that point")]
    Signer {
        /// The point.
        point: PointNumber,
        /// Number the segment should have.
        n: u32,
        /// Who signed.
        signer: NodeId,
    },
    /// It is of another session or point.
    #[error("segment {n} of point {point} is of another session or point")]
    Elsewhere {
        /// The point.
        point: PointNumber,
        /// Number the segment should have.
        n: u32,
    },
    /// Its number is not the next: segments are missing, doubled or swapped.
    #[error("segment {n} of point {point} is expected, but {found} comes")]
    Number {
        /// The point.
        point: PointNumber,
        /// Number the segment should have.
        n: u32,
        /// The number it has.
        found: u32,
    },
    /// It does not follow the segment before it: one of the two was exchanged.
    #[error("segment {n} of point {point} does not follow the one before it")]
    Link {
        /// The point.
        point: PointNumber,
        /// Number of the segment.
        n: u32,
    },
    /// It follows by its hash, and leaves out groups or time all the same: whoever signed it is at fault.
    #[error("segment {n} of point {point} does not go on where the one before it ends ({what})")]
    Leap {
        /// The point.
        point: PointNumber,
        /// Number of the segment.
        n: u32,
        /// Of what.
        what: &'static str,
    },
    /// The point had said that nothing more would come.
    #[error("segment {n} of point {point} comes after the one that was signed as its last")]
    AfterLast {
        /// The point.
        point: PointNumber,
        /// Number of the segment.
        n: u32,
    },
}

/// Why a group is not in its point's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// The point never stored it: it was not made, its disk refused it, or it was under way when the point's program was
    /// cut off.
    NotStored,
    /// The point stored it, and its disk lost it.
    Lost,
    /// The point has it, and the bytes are not those that were stored.
    Damaged,
}

/// One group as its point signs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its number in the track.
    pub seq: u64,
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// Bytes of header and frames.
    pub len: u32,
    /// How many frames it has.
    pub frames: u32,
    /// Session time of its start in microseconds.
    pub t0_us: u64,
    /// From its start to its last frame, in microseconds.
    pub span_us: u64,
    /// The epoch whose key seals it.
    pub epoch: Epoch,
    /// Keyed hash of what it says: [`Opener::mac`].
    pub mac: Hash,
}

impl Group {
    /// What is to be signed of a group. An error if it does not open: then it is not what its point made.
    pub fn of(record: &Record, opener: &Opener) -> Result<Self, seal::Error> {
        let header = record.header();
        Ok(Group {
            seq: header.seq,
            hash: record.hash(),
            len: record.bytes().len() as u32,
            frames: record.frame_count(),
            t0_us: header.t0,
            span_us: span_us(record),
            epoch: header.kid.epoch(),
            mac: opener.mac(record)?,
        })
    }

    /// Says in words what of this does not fit the record that lies at its address; nothing of it needs a key.
    pub fn contradicts(&self, record: &Record) -> Option<&'static str> {
        let header = record.header();
        let checks = [
            (self.hash == record.hash(), "another address"),
            (self.seq == header.seq, "another number"),
            (self.len as usize == record.bytes().len(), "another length"),
            (self.frames == record.frame_count(), "another number of frames"),
            (self.t0_us == header.t0, "another start"),
            (self.span_us == span_us(record), "another duration"),
            (self.epoch == header.kid.epoch(), "another epoch"),
        ];
        checks.into_iter().find(|(fits, _)| !fits).map(|(_, what)| what)
    }

    fn end_us(&self) -> u64 {
        self.t0_us.saturating_add(self.span_us)
    }
}

fn span_us(record: &Record) -> u64 {
    record.frames().map(|frame| frame.dt).max().unwrap_or(0)
}

/// Groups that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
    /// Why.
    pub reason: Absence,
}

/// One track of a segment: the groups from number `from` up to, but without, `next`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The track.
    pub track: TrackId,
    /// First number this segment speaks of: where the segment before ended, 0 if the track is new.
    pub from: u64,
    /// First number it does not speak of.
    pub next: u64,
    /// The groups, rising.
    pub groups: Vec<Group>,
    /// The gaps, rising. With the groups they give each number once.
    pub gaps: Vec<Gap>,
}

impl Listed {
    fn check(&self) -> Result<(), String> {
        let of = |what: &str| Err(format!("track {} with {what}", self.track));
        let mut gaps = self.gaps.iter().peekable();
        let mut groups = self.groups.iter().peekable();
        let mut expected = self.from;
        loop {
            expected = match (groups.peek(), gaps.peek()) {
                (Some(group), _) if group.seq == expected => {
                    groups.next();
                    expected + 1
                }
                (_, Some(gap)) if gap.from == expected && gap.to >= gap.from && gap.to <= SEQ_MAX => {
                    let after = gap.to + 1;
                    gaps.next();
                    after
                }
                (None, None) => break,
                _ => return of("a number left out or twice"),
            };
            if expected > SEQ_MAX + 1 {
                return of("a number above the limit");
            }
        }
        if expected != self.next {
            return of("an end that does not fit its groups");
        }
        for group in &self.groups {
            let fits = group.len as usize <= GROUP_LEN_MAX
                && group.frames <= FRAME_COUNT_MAX
                && group.t0_us <= T0_MAX
                && u128::from(group.span_us) <= DT_MAX.as_micros();
            if !fits {
                return of("a group above the limits");
            }
        }
        Ok(())
    }
}

/// A key that groups of a segment are sealed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// Its epoch.
    pub epoch: Epoch,
    /// What the key must match.
    pub commitment: Hash,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The session.
    pub session: SessionId,
    /// The point.
    pub point: PointNumber,
    /// Its number in the point's chain, from 0 without a gap.
    pub n: u32,
    /// Hash of the signed segment before; [`Hash::NONE`] for the first.
    pub prev: Hash,
    /// Session time the segment before spoke up to, in microseconds; 0 for the first.
    pub from_us: u64,
    /// Session time up to which this one speaks: no group of it goes on longer.
    pub to_us: u64,
    /// The point's wall clock, unix milliseconds. For people; it decides nothing.
    pub wall_ms: u64,
    /// The keys its groups are sealed with, by epoch: those and no others.
    pub keys: Vec<Commitment>,
    /// The tracks, by number: all that the segment before listed, and perhaps more.
    pub tracks: Vec<Listed>,
    /// Whether the session is over for the point, and nothing more will come.
    pub last: bool,
}

impl Content for Segment {
    const KIND: &'static str = "application/vnd.diemcau.segment.v1+cbor";

    /// 256 groups have 36 KB; a segment fits into one message between nodes.
    const LEN_MAX: usize = 48 * 1024;

    fn check(&self) -> Result<(), String> {
        if self.tracks.len() > TRACKS_MAX {
            return Err(format!("{} tracks; a point has at most {TRACKS_MAX}", self.tracks.len()));
        }
        if self.entries() > ENTRIES_MAX {
            return Err(format!("{} groups and gaps; {ENTRIES_MAX} are allowed", self.entries()));
        }
        if let Some(pair) = self.tracks.windows(2).find(|pair| pair[0].track >= pair[1].track) {
            return Err(format!("track {} out of order or twice", pair[1].track));
        }
        if let Some(listed) = self.tracks.iter().find(|listed| listed.track.point() != self.point) {
            return Err(format!("track {}, which is another point's", listed.track));
        }
        self.tracks.iter().try_for_each(Listed::check)?;
        if self.from_us > self.to_us || self.to_us > US_MAX {
            return Err("an end before its beginning, or beyond all time".into());
        }
        if self.groups().any(|(_, group)| group.end_us() > self.to_us) {
            return Err("a group that goes on longer than it speaks of".into());
        }
        let used: BTreeSet<Epoch> = self.groups().map(|(_, group)| group.epoch).collect();
        match self.keys.iter().map(|key| key.epoch).eq(used) {
            true => Ok(()),
            false => Err("other keys than its groups are sealed with".into()),
        }
    }
}

impl Segment {
    /// Every group it lists.
    pub fn groups(&self) -> impl Iterator<Item = (TrackId, &Group)> {
        self.tracks.iter().flat_map(|listed| listed.groups.iter().map(|group| (listed.track, group)))
    }

    /// Every gap it names.
    pub fn gaps(&self) -> impl Iterator<Item = (TrackId, &Gap)> {
        self.tracks.iter().flat_map(|listed| listed.gaps.iter().map(|gap| (listed.track, gap)))
    }

    /// Groups and gaps.
    pub fn entries(&self) -> usize {
        self.tracks.iter().map(|listed| listed.groups.len() + listed.gaps.len()).sum()
    }

    /// Whether no more fits in.
    pub fn is_full(&self) -> bool {
        self.entries() >= ENTRIES_MAX
    }

    /// The next number of a track that is neither a group nor in a gap.
    pub fn next_of(&self, track: TrackId) -> u64 {
        self.tracks.iter().find(|listed| listed.track == track).map_or(0, |listed| listed.next)
    }

    /// Lists the next group of a track, sealed with a key of this commitment.
    pub fn list(&mut self, track: TrackId, group: Group, commitment: Hash) {
        self.to_us = self.to_us.max(group.end_us());
        if let Err(place) = self.keys.binary_search_by_key(&group.epoch, |key| key.epoch) {
            self.keys.insert(place, Commitment { epoch: group.epoch, commitment });
        }
        let listed = self.listed(track);
        listed.next = group.seq + 1;
        listed.groups.push(group);
    }

    /// Says that the next groups of a track, up to number `to`, are not there.
    pub fn miss(&mut self, track: TrackId, to: u64, reason: Absence) {
        let listed = self.listed(track);
        listed.gaps.push(Gap { from: listed.next, to, reason });
        listed.next = to + 1;
    }

    fn listed(&mut self, track: TrackId) -> &mut Listed {
        let place = match self.tracks.binary_search_by_key(&track, |listed| listed.track) {
            Ok(place) => place,
            Err(place) => {
                let fresh = Listed { track, from: 0, next: 0, groups: Vec::new(), gaps: Vec::new() };
                self.tracks.insert(place, fresh);
                place
            }
        };
        &mut self.tracks[place]
    }
}

/// The end of a point's chain: continues it, or checks one from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    session: SessionId,
    point: PointNumber,
    node: NodeId,
    next: u32,
    last: Hash,
    to_us: u64,
    tracks: BTreeMap<TrackId, u64>,
    closed: bool,
}

impl Chain {
    /// The end of a chain that has no segment yet. `node` is the point's.
    pub fn new(session: SessionId, point: PointNumber, node: NodeId) -> Self {
        Chain { session, point, node, next: 0, last: Hash::NONE, to_us: 0, tracks: BTreeMap::new(), closed: false }
    }

    /// The end of the chain that this segment is the last of. What came before it is not looked at.
    pub fn after(segment: &Signed<Segment>) -> Self {
        let Segment { session, point, .. } = *segment.content();
        let mut chain = Chain::new(session, point, segment.signer());
        chain.step(segment);
        chain
    }

    /// Checks stored segments from the first on and gives the end they lead to. An error names the first that does not
    /// fit; a chain cut off at its end is noticed by [`Chain::is_closed`], or by comparing with what others hold.
    pub fn verify(
        session: SessionId,
        point: PointNumber,
        node: NodeId,
        segments: impl IntoIterator<Item = Bytes>,
    ) -> Result<Self, Error> {
        let mut chain = Chain::new(session, point, node);
        for bytes in segments {
            let segment = Signed::parse(bytes).map_err(|source| Error::Segment { point, n: chain.next, source })?;
            chain.accept(&segment)?;
        }
        Ok(chain)
    }

    /// Takes the next segment if it is the one that must follow.
    pub fn accept(&mut self, segment: &Signed<Segment>) -> Result<(), Error> {
        if segment.signer() != self.node {
            return Err(Error::Signer { point: self.point, n: self.next, signer: segment.signer() });
        }
        self.follows(segment.content())?;
        self.step(segment);
        Ok(())
    }

    /// Whether this is what may be signed next.
    pub fn follows(&self, segment: &Segment) -> Result<(), Error> {
        let (point, n) = (self.point, self.next);
        if (segment.session, segment.point) != (self.session, self.point) {
            return Err(Error::Elsewhere { point, n });
        }
        if segment.n != n {
            return Err(Error::Number { point, n, found: segment.n });
        }
        if segment.prev != self.last {
            return Err(Error::Link { point, n });
        }
        if self.closed {
            return Err(Error::AfterLast { point, n });
        }
        if segment.from_us != self.to_us {
            return Err(Error::Leap { point, n, what: "in time" });
        }
        if self.tracks.keys().any(|track| !segment.tracks.iter().any(|listed| listed.track == *track)) {
            return Err(Error::Leap { point, n, what: "a track is left out" });
        }
        if segment.tracks.iter().any(|listed| listed.from != self.next_of(listed.track)) {
            return Err(Error::Leap { point, n, what: "groups are left out or twice" });
        }
        Ok(())
    }

    fn step(&mut self, segment: &Signed<Segment>) {
        let content = segment.content();
        self.next = content.n.saturating_add(1);
        self.last = segment.hash();
        self.to_us = content.to_us;
        self.tracks = content.tracks.iter().map(|listed| (listed.track, listed.next)).collect();
        self.closed = content.last;
    }

    /// The segment that comes next, with nothing in it yet.
    pub fn begin(&self, wall_ms: u64) -> Segment {
        let listed = |(&track, &next)| Listed { track, from: next, next, groups: Vec::new(), gaps: Vec::new() };
        Segment {
            session: self.session,
            point: self.point,
            n: self.next,
            prev: self.last,
            from_us: self.to_us,
            to_us: self.to_us,
            wall_ms,
            keys: Vec::new(),
            tracks: self.tracks.iter().map(listed).collect(),
            last: false,
        }
    }

    /// Signs the next segment. The chain moves on, so store what is returned before the next one is signed.
    ///
    /// # Panics
    /// If `key` is not the point's: only the point signs its segments.
    pub fn append(&mut self, key: &NodeKey, segment: Segment) -> Result<Signed<Segment>, Error> {
        assert_eq!(key.id(), self.node, "a point signs its own segments");
        let (point, n) = (self.point, self.next);
        self.follows(&segment)?;
        let signed = Signed::sound(segment, key).map_err(|source| Error::Segment { point, n, source })?;
        self.step(&signed);
        Ok(signed)
    }

    /// How many segments there are: the number of the next.
    pub fn len(&self) -> u32 {
        self.next
    }

    /// Whether there is no segment yet.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Hash of the last segment, [`Hash::NONE`] if there is none.
    pub fn last(&self) -> Hash {
        self.last
    }

    /// Whether the point has said that nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The first number of a track that no segment speaks of.
    pub fn next_of(&self, track: TrackId) -> u64 {
        self.tracks.get(&track).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
