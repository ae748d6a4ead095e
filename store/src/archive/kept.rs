//! What is known to have been here, so that a loss is noticed whatever its cause.
//!
//! `media` can lose groups and not know it: a log that was cut, a folder that was emptied. So `meta`, the truth, has for
//! each track the numbers of the groups that were ever stored here, and what it lists and `media` lacks is lost. It is
//! brought up to date now and then, at the end of a session and by a clean stop; to do it with each group would cost
//! every group a second sync.
//!
//! For what was stored since, there is a mark in `meta` for each session that is being written, put there before its first
//! group and taken away by a clean stop. After any other end those sessions are looked through: a group in the inventory
//! without an address is lost. There are such groups, for a page of the inventory is written whole each time, and so
//! one that survived tells of groups before it that did not. The inventory is then made to say what is there, and `meta`
//! what was.

use std::{collections::BTreeMap, ops::ControlFlow};

use super::{Archive, Error, Writing};
use crate::{
    db::{Batch, Durability},
    id::{SessionId, TrackId},
    inventory::Have,
    schema::{self, Column},
};

/// Groups of a session stored between two counts: half a minute of a session of two points.
const COUNT_EVERY: u64 = 64;

impl Archive {
    /// The groups of a session that were stored here and are not here any more, by track. They can be asked for again, and
    /// are lost no longer once they are stored.
    pub fn lost(&self, session: &SessionId) -> Result<BTreeMap<TrackId, Have>, Error> {
        let mut lost = BTreeMap::new();
        for (track, kept) in self.kept(session)? {
            let gone = kept.without(&self.have(session, track)?);
            if !gone.is_empty() {
                lost.insert(track, gone);
            }
        }
        Ok(lost)
    }

    /// Whether groups were stored in this session and no clean stop followed. Asked before this program stores any, it
    /// says that the one before was cut off, by a kill or a power cut.
    pub fn is_unsettled(&self, session: &SessionId) -> Result<bool, Error> {
        Ok(self.meta.get(Column::Touched, session.as_bytes())?.is_some())
    }

    /// Ends the work of this program with the archive: counts what is here, and moves it out of the logs, where a damaged
    /// byte does most harm. What was acknowledged is on the disk without this too.
    pub fn settle(&self) -> Result<(), Error> {
        let mut writing = self.write()?;
        self.media.settle()?;
        let mut batch = Batch::new();
        for session in writing.fresh.keys() {
            self.count(session, &mut batch)?;
            batch.delete(Column::Touched, session.as_bytes());
        }
        if !batch.is_empty() {
            self.meta.write(batch, Durability::Synced)?;
        }
        writing.fresh.clear();
        Ok(self.meta.settle()?)
    }

    /// Before groups are stored in a session: marks it as being written, if it is not yet.
    pub(super) fn touch(&self, writing: &mut Writing, session: &SessionId) -> Result<(), Error> {
        if !writing.fresh.contains_key(session) {
            let mut batch = Batch::new();
            batch.put(Column::Touched, session.as_bytes(), Vec::new());
            self.meta.write(batch, Durability::Synced)?;
            writing.fresh.insert(*session, 0);
        }
        Ok(())
    }

    /// After groups were stored in a session: counts what is here if it is time. The groups are stored whatever comes of it.
    pub(super) fn stored(&self, writing: &mut Writing, session: &SessionId, groups: u64) {
        let fresh = writing.fresh.entry(*session).or_default();
        *fresh += groups;
        if *fresh < COUNT_EVERY {
            return;
        }
        let mut batch = Batch::new();
        let counted = self.count(session, &mut batch).and_then(|()| Ok(self.meta.write(batch, Durability::Synced)?));
        match counted {
            Ok(()) => *fresh = 0,
            Err(error) => {
                tracing::warn!(%session, %error, "what is stored could not be counted; it will be tried again")
            }
        }
    }

    /// The changes that make `meta` know of every group of a session that is here.
    pub(super) fn count(&self, session: &SessionId, batch: &mut Batch) -> Result<(), Error> {
        let known = self.kept(session)?;
        for track in self.tracks(session)? {
            let before = known.get(&track);
            let mut kept = self.have(session, track)?;
            before.into_iter().for_each(|before| kept.merge(before));
            if before != Some(&kept) {
                batch.put(Column::Kept, &schema::track_prefix(session, track), kept.encode());
            }
        }
        Ok(())
    }

    /// What was ever stored of a session, as last counted.
    pub(super) fn kept(&self, session: &SessionId) -> Result<BTreeMap<TrackId, Have>, Error> {
        let mut kept = BTreeMap::new();
        let mut bad = false;
        self.scan_prefix(&self.meta, Column::Kept, session.as_bytes(), &mut |key, value| {
            match (track_of(key), Have::decode(value)) {
                (Some(track), Ok(have)) => drop(kept.insert(track, have)),
                _ => bad = true,
            }
            ControlFlow::Continue(())
        })?;
        if bad { Err(Error::Unreadable(format!("count of session {session}"))) } else { Ok(kept) }
    }

    /// Which groups of a track were ever stored, as far as is known: those last counted, and those that are here.
    pub fn ever(&self, session: &SessionId, track: TrackId) -> Result<Have, Error> {
        let mut ever = self.have(session, track)?;
        if let Some(kept) = self.kept(session)?.get(&track) {
            ever.merge(kept);
        }
        Ok(ever)
    }

    /// When the archive is opened for writing: looks through the sessions that no clean stop was made of, and says what is
    /// lost.
    pub(super) fn look_through(&self) -> Result<(), Error> {
        let mut writing = self.write()?;
        let mut touched = Vec::new();
        self.meta.scan(Column::Touched, &[], None, &mut |key, _| {
            touched.extend(key.try_into().map(SessionId::from_bytes));
            ControlFlow::Continue(())
        })?;
        for session in touched {
            writing.fresh.insert(session, 0);
            self.reconcile(&session)?;
        }
        for head in self.sessions()?.heads {
            let lost: u64 = self.lost(&head.id)?.values().map(Have::len).sum();
            if lost > 0 {
                tracing::error!(session = %head.id, groups = lost, "groups that were stored are lost from this disk");
            }
        }
        Ok(())
    }

    /// Makes the inventory of a session say what is there. What it said before is not forgotten: it goes to `meta` first.
    fn reconcile(&self, session: &SessionId) -> Result<(), Error> {
        let mut there = self.addressed(session)?;
        for track in self.tracks(session)? {
            there.entry(track).or_default();
        }
        let mut known = Batch::new();
        self.count(session, &mut known)?;
        let mut mended = Batch::new();
        for (track, there) in there {
            let have = self.have(session, track)?;
            for (number, page) in there.pages_unlike(&have) {
                mended.put(Column::Have, &schema::page_key(session, track, number), page.encode());
            }
        }
        if !mended.is_empty() {
            tracing::error!(%session, "the inventory of this session names groups that are lost; it is put right");
            self.meta.write(known, Durability::Synced)?;
            self.media.write(mended, Durability::Synced)?;
        }
        Ok(())
    }

    /// The groups of a session that have an address, by track.
    fn addressed(&self, session: &SessionId) -> Result<BTreeMap<TrackId, Have>, Error> {
        let mut there: BTreeMap<TrackId, Have> = BTreeMap::new();
        self.scan_prefix(&self.media, Column::Addresses, session.as_bytes(), &mut |key, _| {
            if let Some(id) = schema::parse_group_key(key) {
                there.entry(id.track).or_default().insert(id.seq);
            }
            ControlFlow::Continue(())
        })?;
        Ok(there)
    }
}

fn track_of(key: &[u8]) -> Option<TrackId> {
    let number = key.get(16..18)?;
    TrackId::try_from(u16::from_be_bytes([number[0], number[1]])).ok()
}
