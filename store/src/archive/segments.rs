//! Where signed segments lie, and how a point's own next one comes to be.
//!
//! **Groups first, then their segment.** Both are synced, so a segment never lists what a power cut can take back. A
//! group that no segment lists yet is listed by the next one, after a restart too: nothing needs to be remembered, as the
//! last stored segment says which number comes next.
//!
//! **No number is signed twice.** A point that signed two different segments of one number would look like a forger for
//! ever. What is to be signed is gathered from the disk without a turn, which takes a while; it is signed in the turn of the
//! writer, and only if the stored chain still ends where it was gathered for.

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, RangeInclusive},
};

use bytes::Bytes;

use super::{Archive, Error};
use crate::{
    db::{Batch, Durability},
    id::{GroupId, Hash, NodeId, PointNumber, SessionId, TrackId},
    inventory::Have,
    keys::{Epoch, NodeKey, SessionKey},
    schema::{self, Column},
    seal::Opener,
    segment::{Absence, Chain, ENTRIES_MAX, Group, Segment},
    signed::Signed,
};

/// What a point signs its segments by.
#[derive(Debug)]
pub struct Signing<'a> {
    /// The session.
    pub session: SessionId,
    /// The point's number in it.
    pub point: PointNumber,
    /// Its node.
    pub node: NodeId,
    /// The tracks that are kept of it.
    pub tracks: &'a [TrackId],
    /// The session's keys, by epoch.
    pub keys: &'a BTreeMap<Epoch, SessionKey>,
}

impl Archive {
    /// Stores the next segment of a point, `node`. Storing the same segment again does nothing; a different one of the same
    /// number is [`Error::Forked`].
    pub fn append_segment(&self, node: NodeId, segment: &Signed<Segment>) -> Result<(), Error> {
        let _writing = self.write()?;
        let Segment { session, point, n, .. } = *segment.content();
        match self.meta.get(Column::Segments, &schema::segment_key(&session, point, n))? {
            Some(bytes) if bytes == *segment.bytes() => return Ok(()),
            Some(_) if segment.signer() == node => return Err(Error::Forked { session, point, n }),
            Some(_) | None => {}
        }
        self.chain_before(&session, point, node, n)?.accept(segment)?;
        self.put_segment(segment)
    }

    /// The end of the stored chain, if it has `n` segments; a longer or shorter one does not take number `n`.
    fn chain_before(&self, session: &SessionId, point: PointNumber, node: NodeId, n: u32) -> Result<Chain, Error> {
        let stored = |n| self.meta.get(Column::Segments, &schema::segment_key(session, point, n));
        let before = match n.checked_sub(1) {
            Some(before) if stored(n)?.is_none() => stored(before)?,
            _ => None,
        };
        match before {
            Some(bytes) => chain_after(bytes, session, point, node),
            None => self.segment_chain(session, point, node),
        }
    }

    /// The end of a point's chain as it is stored. What was stored was checked then.
    pub fn segment_chain(&self, session: &SessionId, point: PointNumber, node: NodeId) -> Result<Chain, Error> {
        match self.last_with(&self.meta, Column::Segments, &schema::point_prefix(session, point))? {
            Some(last) => chain_after(last, session, point, node),
            None => Ok(Chain::new(*session, point, node)),
        }
    }

    /// The signed segments of a point from number `from` on, at most `limit`, in order and unchecked: see [`Chain::verify`].
    pub fn segments(
        &self,
        session: &SessionId,
        point: PointNumber,
        from: u32,
        limit: usize,
    ) -> Result<Vec<Bytes>, Error> {
        let mut segments = Vec::new();
        let first = schema::segment_key(session, point, from);
        let end = schema::after(&schema::point_prefix(session, point));
        self.meta.scan(Column::Segments, &first, end.as_deref(), &mut |_, value| {
            if segments.len() == limit {
                return ControlFlow::Break(());
            }
            segments.push(Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        Ok(segments)
    }

    /// What the point has to sign next, read from the disk group by group: an address is signed for bytes that were read
    /// back, and never for what was meant to be written. `None` if there is nothing new; if the session is `over`, there
    /// is at least its last segment to sign.
    pub fn gather_segment(&self, by: &Signing<'_>, wall_ms: u64, over: bool) -> Result<Option<Segment>, Error> {
        let chain = self.segment_chain(&by.session, by.point, by.node)?;
        if chain.is_closed() {
            return Ok(None);
        }
        let mut opener = Opener::new(by.session);
        by.keys.iter().for_each(|(&epoch, key)| opener.insert(epoch, key.clone()));
        let mut segment = chain.begin(wall_ms);
        for &track in by.tracks {
            self.gather_track(by, track, &opener, &mut segment)?;
        }
        // What does not fit any more goes into the next one.
        segment.last = over && !segment.is_full();
        Ok((segment.entries() > 0 || segment.last).then_some(segment))
    }

    fn gather_track(
        &self,
        by: &Signing<'_>,
        track: TrackId,
        opener: &Opener,
        segment: &mut Segment,
    ) -> Result<(), Error> {
        let from = segment.next_of(track);
        // First what ever was here, then what is: groups are stored meanwhile, and one that came between the two must not look lost.
        let ever = self.ever(&by.session, track)?;
        let here = self.have(&by.session, track)?;
        // By the inventory, as a list of addresses would end at the first that cannot be read.
        for seq in here.runs().filter_map(|run| from_on(run, from)).flatten().take(ENTRIES_MAX) {
            gather_gaps(&ever, track, seq, segment);
            if segment.is_full() {
                return Ok(());
            }
            match self.signable(&GroupId { session: by.session, track, seq }, opener)? {
                Some(group) => {
                    let commitment = by.keys.get(&group.epoch).map_or(Hash::NONE, SessionKey::commitment);
                    segment.list(track, group, commitment);
                }
                None => segment.miss(track, seq, Absence::Damaged),
            }
        }
        // Groups after the last that is here, which the disk once had.
        gather_gaps(&ever, track, ever.last().map_or(0, |last| last + 1), segment);
        Ok(())
    }

    /// A group as its point may sign it; `None` if its bytes are not those that were stored.
    fn signable(&self, id: &GroupId, opener: &Opener) -> Result<Option<Group>, Error> {
        let record = match self.outline(id) {
            // Its own bytes say whether they are what was sealed: it is opened below.
            Err(Error::Damaged(_)) => self.bytes(id),
            _ => self.get(id),
        };
        let record = match record {
            Ok(record) => record,
            Err(Error::Damaged(_) | Error::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        match Group::of(&record, opener) {
            Ok(group) => Ok(Some(group)),
            // Without the key nothing can be said of the group; that is no damage, and nothing is signed.
            Err(error @ crate::seal::Error::Key { .. }) => Err(Error::Unsealed(error)),
            Err(_) => Ok(None),
        }
    }

    /// Signs what [`Archive::gather_segment`] gave and stores it, if the chain still ends there.
    pub fn sign_segment(&self, key: &NodeKey, segment: Segment) -> Result<Signed<Segment>, Error> {
        let _writing = self.write()?;
        let mut chain = self.chain_before(&segment.session, segment.point, key.id(), segment.n)?;
        let signed = chain.append(key, segment)?;
        self.put_segment(&signed)?;
        Ok(signed)
    }

    fn put_segment(&self, segment: &Signed<Segment>) -> Result<(), Error> {
        let Segment { session, point, n, .. } = *segment.content();
        let mut batch = Batch::new();
        batch.put(Column::Segments, &schema::segment_key(&session, point, n), segment.bytes().clone());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// The groups a point signs for that are here and are other bytes: one of the two is not the point's.
    pub fn disputed(&self, segment: &Segment) -> Result<Vec<GroupId>, Error> {
        let mut disputed = Vec::new();
        for (track, group) in segment.groups() {
            let id = GroupId { session: segment.session, track, seq: group.seq };
            match self.outline(&id) {
                Ok(Some(outline)) if outline.hash != group.hash => disputed.push(id),
                // A damaged address is a matter of this disk.
                Ok(_) | Err(Error::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(disputed)
    }
}

/// Names what is missing from the segment's end of a track up to, but without, number `to`, of which `ever` was once here.
fn gather_gaps(ever: &Have, track: TrackId, to: u64, segment: &mut Segment) {
    let from = segment.next_of(track);
    if from >= to {
        return;
    }
    for run in ever.missing(from..=to - 1, ENTRIES_MAX) {
        let (first, last) = run.into_inner();
        if first > segment.next_of(track) && !segment.is_full() {
            segment.miss(track, first - 1, Absence::Lost);
        }
        if !segment.is_full() {
            segment.miss(track, last, Absence::NotStored);
        }
    }
    if segment.next_of(track) < to && !segment.is_full() {
        segment.miss(track, to - 1, Absence::Lost);
    }
}

/// What of a run of numbers is not below `from`.
fn from_on(run: RangeInclusive<u64>, from: u64) -> Option<RangeInclusive<u64>> {
    let (first, last) = run.into_inner();
    (last >= from).then(|| first.max(from)..=last)
}

/// The end of the chain that these stored bytes are the last of.
fn chain_after(bytes: Bytes, session: &SessionId, point: PointNumber, node: NodeId) -> Result<Chain, Error> {
    match Signed::<Segment>::parse(bytes) {
        Ok(segment) if segment.signer() == node => Ok(Chain::after(&segment)),
        _ => Err(Error::Unreadable(format!("last segment of point {point} in session {session}"))),
    }
}

#[cfg(test)]
mod tests;
