//! Who is known to hold a copy of which session.

use std::ops::ControlFlow;

use super::{Archive, Error};
use crate::{
    db::{Batch, Durability},
    id::{NodeId, SessionId},
    receipt::Receipt,
    schema::{self, Column},
    signed::Signed,
};

/// A receipt, and when it came by the wall clock of who keeps it, unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The receipt.
    pub receipt: Signed<Receipt>,
    /// When it came.
    pub wall_ms: u64,
}

impl Archive {
    /// Keeps a holder's receipt in place of the one before.
    pub fn put_receipt(&self, receipt: &Signed<Receipt>, wall_ms: u64) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut batch = Batch::new();
        let value = [&wall_ms.to_be_bytes()[..], receipt.bytes()].concat();
        batch.put(Column::Receipts, &schema::receipt_key(&receipt.content().session, &receipt.signer()), value);
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// The last receipt of each holder of a session, by node, whichever manifest they are for.
    pub fn receipts(&self, session: &SessionId) -> Result<Vec<Received>, Error> {
        let mut found = Vec::new();
        let mut bad = false;
        self.scan_prefix(&self.meta, Column::Receipts, session.as_bytes(), &mut |_, value| {
            let received = value.split_first_chunk().and_then(|(wall_ms, record)| {
                let receipt = Signed::parse(bytes::Bytes::copy_from_slice(record)).ok()?;
                Some(Received { receipt, wall_ms: u64::from_be_bytes(*wall_ms) })
            });
            match received {
                Some(received) => found.push(received),
                None => bad = true,
            }
            ControlFlow::Continue(())
        })?;
        if bad { Err(Error::Unreadable(format!("receipts of session {session}"))) } else { Ok(found) }
    }

    /// Those who signed that they hold everything of the session's last manifest.
    pub fn holders(&self, session: &SessionId) -> Result<Vec<NodeId>, Error> {
        let Some(manifest) = self.last_manifest(session)? else { return Ok(Vec::new()) };
        let receipts = self.receipts(session)?.into_iter().map(|received| received.receipt);
        let current = receipts.filter(|receipt| receipt.content().manifest == manifest.hash());
        Ok(current.map(|receipt| receipt.signer()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{db::memory::Memory, id::Hash, keys::NodeKey};

    #[test]
    fn the_last_receipt_of_each_holder_is_kept() {
        let archive = Archive::over(Arc::new(Memory::default()), Arc::new(Memory::default())).unwrap();
        let session = SessionId::from_parts(1, [1; 10]);
        let key = |byte| NodeKey::from_bytes(&[byte; 32]);
        let receipt = |byte, groups| {
            Signed::new(Receipt { session, manifest: Hash::NONE, groups, bytes: 0, wall_ms: 0 }, &key(byte))
        };
        archive.put_receipt(&receipt(1, 5), 10).unwrap();
        archive.put_receipt(&receipt(2, 5), 11).unwrap();
        archive.put_receipt(&receipt(1, 6), 12).unwrap();
        let kept = archive.receipts(&session).unwrap();
        let mut told: Vec<_> = kept.iter().map(|kept| (kept.receipt.content().groups, kept.wall_ms)).collect();
        told.sort_unstable();
        assert_eq!(told, [(5, 11), (6, 12)]);
        assert_eq!(archive.receipts(&SessionId::from_parts(2, [1; 10])), Ok(Vec::new()));
        assert_eq!(archive.holders(&session), Ok(Vec::new()), "there is no manifest to hold");
    }
}
