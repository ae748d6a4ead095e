//! The sessions an earlier run left, told to the engine.

use store::archive;
use store::session::{Head, State};

use super::{Driver, Error, unix_ms};
use crate::engine::session::{Input, PAST_MAX, Recalled};
use crate::recall;

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
        // What was lost once is closed: nothing more is signed in it.
        let is_closed = |head: &Head| archive.is_restored(&head.id).unwrap_or(true);
        let ours = sessions.heads.into_iter().filter(|head| head.number(&self.me).is_some() && !is_closed(head));
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
                Err(error) => {
                    tracing::error!(session = %id, %error, "this session cannot be taken up; it is tried again");
                    self.untaken.push(id);
                }
            }
        }
        Ok(())
    }

    /// Tries again those that could not be taken up, as when the disk had no space.
    pub(super) fn recall_again(&mut self) {
        for id in std::mem::take(&mut self.untaken) {
            let head = self.vault.archive().head(&id);
            match head.and_then(|head| head.map(|head| self.recalled(head)).transpose()) {
                Ok(Some(recalled)) => {
                    tracing::info!(session = %id, "this session is taken up after all");
                    let recalled = Box::new(recalled);
                    self.tell(Input::Recall { recalled, unix_ms: unix_ms() });
                    self.carry_out_all();
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(session = %id, %error, "not yet");
                    self.untaken.push(id);
                }
            }
        }
    }

    fn recalled(&mut self, head: Head) -> Result<Recalled, archive::Error> {
        self.attest(&head);
        let (recalled, chain) = recall::recall(self.vault.archive(), head, self.me)?;
        let id = recalled.head.id;
        self.chains.extend(chain.map(|chain| (id, chain)));
        match self.open_keys(&recalled.head, &recalled.wraps) {
            Ok(keys) => drop(self.keys.insert(id, keys)),
            Err(error) => tracing::warn!(session = %id, error, "the keys of this session are not all here"),
        }
        Ok(recalled)
    }
}
