//! Session keys: made, wrapped for those who are to have them, and opened. The engine never sees one.

use std::collections::BTreeMap;

use store::id::{Hash, NodeId, SessionId};
use store::keys::{Epoch, SessionKey, WrapContext, recovery_recipient};
use store::session::Head;
use store::verify::sentence;
use tokio::task::block_in_place;

use super::Driver;
use crate::engine::session::{Input, Own, Wraps};
use crate::studio::Keys;

impl Driver {
    /// Makes a key and keeps it; gives the commitment to it, and it for each of these points and for the recovery key.
    pub(super) fn new_key<'a>(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        points: impl Iterator<Item = &'a NodeId>,
    ) -> (Hash, Wraps) {
        let key = SessionKey::generate();
        let mut wraps = BTreeMap::new();
        let points = points.filter_map(|node| self.roster.point(node));
        let recovery = self.roster.recovery();
        let recipients =
            points.map(|point| (point.node, point.wrap)).chain([(recovery_recipient(&recovery), recovery)]);
        for (recipient, public) in recipients {
            match key.wrap(&public, &WrapContext { session, epoch, recipient }) {
                Ok(wrap) => drop(wraps.insert(recipient, wrap)),
                Err(error) => {
                    tracing::error!(%session, recipient = %recipient.short(), %error, "no key can be wrapped")
                }
            }
        }
        let commitment = key.commitment();
        // Kept before the engine hears of it, as what it wants done next needs it.
        self.keys.entry(session).or_default().insert(epoch, key);
        (commitment, wraps)
    }

    /// Central: a key for the points that stay.
    pub(super) fn rekey(&mut self, session: SessionId, epoch: Epoch, points: &[NodeId]) {
        let (commitment, wraps) = self.new_key(session, epoch, points.iter());
        let recovery = recovery_recipient(&self.roster.recovery());
        let result = match wraps.contains_key(&recovery) {
            true => Ok((commitment, wraps)),
            false => Err("the recovery key of the roster cannot be used".to_owned()),
        };
        self.tell(Input::Keyed { session, epoch, result });
    }

    /// Central: writes the head with its new epoch, after that epoch's wraps.
    pub(super) fn renew(&mut self, head: Head, wraps: Wraps) {
        let (session, epoch) = (head.id, head.epoch());
        let wraps: Vec<_> = wraps.into_iter().collect();
        self.store(move |archive| {
            let written = archive.put_wraps(&session, epoch, &wraps).and_then(|()| archive.put_head(&head));
            let result = written.map(|()| Own::default()).map_err(|error| sentence(&error));
            Some(Input::Persisted { session, epoch, result })
        });
    }

    /// Opens what was wrapped for us and checks it against the head. All epochs must be there.
    pub(super) fn open_keys(&self, head: &Head, wraps: &BTreeMap<Epoch, Wraps>) -> Result<Keys, String> {
        let ours = wraps.iter().filter_map(|(&epoch, wraps)| Some((epoch, *wraps.get(&self.me)?))).collect();
        let keys = head.open(&ours, &self.identity.wrap, self.me).map_err(|error| sentence(&error))?;
        match head.epochs.iter().find(|period| !keys.contains_key(&period.epoch)) {
            Some(period) => Err(format!("the key of epoch {} is missing", period.epoch)),
            None => Ok(keys),
        }
    }

    /// Cuts a point off from a session.
    pub(super) fn expel(&self, session: SessionId, node: NodeId) {
        tracing::info!(%session, point = self.name(node), "a point is cut off from the session");
        let media = self.media.clone();
        block_in_place(|| media.expel(session, node));
    }
}
