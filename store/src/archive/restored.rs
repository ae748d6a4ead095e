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

    /// Marks a session whose beginning this archive has lost: nothing is signed in it before our own segments are back.
    pub fn set_owed(&self, session: &SessionId, owed: bool) -> Result<(), Error> {
        self.mark(&[schema::OWED, session.as_bytes()].concat(), owed.then(Vec::new))
    }

    /// Whether our own segments of a session must come back first.
    pub fn is_owed(&self, session: &SessionId) -> Result<bool, Error> {
        Ok(self.meta.get(Column::Config, &[schema::OWED, session.as_bytes()].concat())?.is_some())
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
    use crate::db::memory::Memory;

    #[test]
    fn what_was_lost_is_remembered_until_it_is_back() {
        let (meta, media) = (Arc::<Memory>::default(), Arc::<Memory>::default());
        let open = || Archive::over(meta.clone(), media.clone()).unwrap();
        let session = |n| SessionId::from_parts(n, [1; 10]);
        let recovery = Recovery { only: Some(session(1)), from: vec![NodeId::from_bytes([7; 32])] };
        let archive = open();
        assert_eq!(archive.recovery(), Ok(None));
        archive.put_recovery(Some(&recovery)).unwrap();
        archive.set_restored(&session(1)).unwrap();
        archive.set_owed(&session(2), true).unwrap();
        let archive = open();
        assert_eq!(archive.recovery(), Ok(Some(recovery)));
        assert_eq!([1, 2].map(|n| archive.is_restored(&session(n)).unwrap()), [true, false]);
        assert_eq!([1, 2].map(|n| archive.is_owed(&session(n)).unwrap()), [false, true]);
        archive.put_recovery(None).unwrap();
        archive.set_owed(&session(2), false).unwrap();
        assert_eq!((archive.recovery(), archive.is_owed(&session(2))), (Ok(None), Ok(false)));
    }
}
