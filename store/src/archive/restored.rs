//! What an archive that was lost once must remember of that.
//!
//! **No number is signed twice, not even after a loss.** Who signed a chain of segments, a journal or manifests and lost them
//! does not know how they went on, and one more record under an old number makes an honest point look like a forger. So a
//! session that was taken back from others is marked before anything of it is written, and this node signs nothing more in it;
//! and a session that runs on after our archive was lost is marked until our own segments are here again.

use serde::{Deserialize, Serialize};

use super::{Archive, Error};
use crate::{
    cbor,
    db::{Batch, Durability},
    id::{NodeId, SessionId},
    schema::{self, Column},
};

/// What somebody wants taken back, kept until it is, so that a node which was killed goes on by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// This session alone.
    pub only: Option<SessionId>,
    /// From these points alone; from all if there are none.
    pub from: Vec<NodeId>,
}

/// Version of the values of [`schema::OWED`].
const OWED_VERSION: u8 = 1;

impl Recovery {
    const VERSION: u8 = 1;
    const LEN_MAX: usize = 1 << 20;
}

impl Archive {
    /// Keeps in mind what is being taken back; `None` when it is done.
    pub fn put_recovery(&self, recovery: Option<&Recovery>) -> Result<(), Error> {
        let bytes = recovery.map(|recovery| cbor::encode_versioned(Recovery::VERSION, recovery));
        self.mark(schema::RECOVERY_KEY, bytes)
    }

    /// What an earlier run was taking back.
    pub fn recovery(&self) -> Result<Option<Recovery>, Error> {
        let Some(bytes) = self.meta.get(Column::Config, schema::RECOVERY_KEY)? else { return Ok(None) };
        cbor::decode_versioned(Recovery::VERSION, &bytes, Recovery::LEN_MAX)
            .map(Some)
            .map_err(|_| Error::Unreadable("note of what is being recovered".into()))
    }

    /// Marks a session as taken back from others.
    pub fn set_restored(&self, session: &SessionId) -> Result<(), Error> {
        self.mark(&[schema::RESTORED, session.as_bytes()].concat(), Some(Vec::new()))
    }

    /// Whether it was, so that nothing more is signed in it here.
    pub fn is_restored(&self, session: &SessionId) -> Result<bool, Error> {
        Ok(self.meta.get(Column::Config, &[schema::RESTORED, session.as_bytes()].concat())?.is_some())
    }

    /// Drops the record of a session that was taken back from others, so that it can be taken from somebody else. The mark stays, and
    /// so do the groups: each is compared with what was signed when it is read back or asked for. What this node knows
    /// by its own part in it is not touched.
    pub fn discard_record(&self, session: &SessionId) -> Result<(), Error> {
        if !self.is_restored(session)? {
            return Ok(());
        }
        let _writing = self.write()?;
        let from = session.as_bytes();
        let Some(end) = schema::after(from) else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete(Column::Sessions, from);
        for column in
            [Column::Journal, Column::Segments, Column::Manifests, Column::Wraps, Column::Receipts, Column::Scrubs]
        {
            batch.delete_range(column, from, &end);
        }
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// Marks a session whose beginning this archive has lost: nothing is signed in it before our own segments are back. Others say
    /// that we used group numbers below `used`; `None` when the segments are here.
    pub fn set_owed(&self, session: &SessionId, used: Option<u64>) -> Result<(), Error> {
        let value = used.map(|used| cbor::encode_versioned(OWED_VERSION, &used));
        self.mark(&[schema::OWED, session.as_bytes()].concat(), value)
    }

    /// Up to which number we are said to have used, if our own segments of a session must come back first.
    pub fn owed(&self, session: &SessionId) -> Result<Option<u64>, Error> {
        let value = self.meta.get(Column::Config, &[schema::OWED, session.as_bytes()].concat())?;
        Ok(value.map(|bytes| match bytes.is_empty() {
            // An older program did not keep it.
            true => 0,
            // What cannot be read is owed all the same.
            false => cbor::decode_versioned(OWED_VERSION, &bytes, 16).unwrap_or(u64::MAX),
        }))
    }

    /// Keeps in mind that the archive is in use since `unix_ms` at the latest.
    pub fn set_born(&self, unix_ms: u64) -> Result<(), Error> {
        match self.born()? {
            Some(_) => Ok(()),
            None => self.mark(schema::BORN_KEY, Some(unix_ms.to_be_bytes().to_vec())),
        }
    }

    /// Since when the archive is in use, if that was noted. What happened here after it, and is not in it, did not happen.
    pub fn born(&self) -> Result<Option<u64>, Error> {
        let Some(bytes) = self.meta.get(Column::Config, schema::BORN_KEY)? else { return Ok(None) };
        let bytes: Option<[u8; 8]> = (*bytes).try_into().ok();
        bytes.map(|bytes| Some(u64::from_be_bytes(bytes))).ok_or_else(|| Error::Unreadable("note of its age".into()))
    }

    fn mark(&self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(Column::Config, key, value),
            None => batch.delete(Column::Config, key),
        }
        Ok(self.meta.write(batch, Durability::Synced)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        db::memory::Memory,
        id::{Hash, PointNumber},
        journal::{Chain, Event},
        keys::NodeKey,
        seal::Suite,
        session::{Head, Member, Period, State},
        signed::Signed,
    };

    fn session(n: u64) -> SessionId {
        SessionId::from_parts(n, [1; 10])
    }

    #[test]
    fn what_was_lost_is_remembered_until_it_is_back() {
        let (meta, media) = (Arc::<Memory>::default(), Arc::<Memory>::default());
        let open = || Archive::over(meta.clone(), media.clone()).unwrap();
        let recovery = Recovery { only: Some(session(1)), from: vec![NodeId::from_bytes([7; 32])] };
        let archive = open();
        assert_eq!(archive.recovery(), Ok(None));
        archive.put_recovery(Some(&recovery)).unwrap();
        archive.set_restored(&session(1)).unwrap();
        archive.set_owed(&session(2), Some(70)).unwrap();
        archive.set_born(5).unwrap();
        archive.set_born(9).unwrap();
        let archive = open();
        assert_eq!(archive.recovery(), Ok(Some(recovery)));
        assert_eq!([1, 2].map(|n| archive.is_restored(&session(n)).unwrap()), [true, false]);
        assert_eq!([1, 2].map(|n| archive.owed(&session(n)).unwrap()), [None, Some(70)]);
        assert_eq!(archive.born(), Ok(Some(5)), "the first time counts");
        archive.put_recovery(None).unwrap();
        archive.set_owed(&session(2), None).unwrap();
        assert_eq!((archive.recovery(), archive.owed(&session(2))), (Ok(None), Ok(None)));
        // As an older program wrote it, and as no program does.
        let mark = |value: &[u8]| archive.mark(&[schema::OWED, session(3).as_bytes()].concat(), Some(value.to_vec()));
        mark(&[]).unwrap();
        assert_eq!(archive.owed(&session(3)), Ok(Some(0)));
        mark(&[9, 9, 9]).unwrap();
        assert_eq!(archive.owed(&session(3)), Ok(Some(u64::MAX)));
    }

    #[test]
    fn only_what_came_from_others_is_discarded_and_its_groups_stay() {
        let archive = Archive::over(Arc::<Memory>::default(), Arc::<Memory>::default()).unwrap();
        let (key, number) = (NodeKey::from_bytes(&[1; 32]), PointNumber::new(1).unwrap());
        let put = |n| {
            let session = session(n);
            let points = vec![Member { number, node: key.id(), name: "Xã".into() }];
            let mut journal = Chain::new(session, key.id());
            let started = Event::Started { title: "Định kỳ".into(), points: points.clone() };
            archive.append_journal(&journal.append(&key, 0, 0, started)).unwrap();
            let head = Head {
                id: session,
                title: "Định kỳ".into(),
                state: State::Ended,
                central: key.id(),
                points,
                epochs: vec![Period::first(Hash::NONE)],
                suite: Suite::default(),
                started_unix_ms: 1,
                ended_unix_ms: Some(2),
            };
            archive.put_head(&head).unwrap();
            archive.put_manifest(&Signed::new(archive.draw_manifest(&head, 0).unwrap(), &key)).unwrap();
        };
        let there = |n| {
            let (head, last) = (archive.head(&session(n)).unwrap(), archive.last_manifest(&session(n)).unwrap());
            (head.is_some(), last.is_some(), archive.has_journal(&session(n)).unwrap())
        };
        (1..=3).for_each(put);
        archive.set_restored(&session(2)).unwrap();
        (1..=3).for_each(|n| archive.discard_record(&session(n)).unwrap());
        assert_eq!([1, 2, 3].map(there), [(true, true, true), (false, false, false), (true, true, true)]);
        assert_eq!(archive.is_restored(&session(2)), Ok(true), "nothing is signed in it all the same");
        put(2);
        assert_eq!(there(2), (true, true, true));
    }
}
