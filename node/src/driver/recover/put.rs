//! Writing a record that is good in itself beside what is here of the session.
//!
//! A record holds itself together, but that is no proof of whose it is: the head says who is central, and a manifest signed by
//! that node names the head, so any point can make such a pair for any session. What this node knows by its own part in it,
//! or by a manifest it has, is therefore never given up for it. Only a head that came by recovery and that no manifest names
//! yet can give way to one that a manifest names.

use std::collections::BTreeMap;

use store::archive::{self, Archive};
use store::id::NodeId;
use store::keys::{Epoch, Wrap, WrapContext, WrapKey};
use store::recover::Checked;
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;

use super::super::unix_ms;
use super::take::{Fault, broken};
use crate::engine::rights::Members;
use crate::vault::Vault;

/// Records written in one turn of the vault, so that a running session waits for few of them.
const TURN: usize = 32;

/// What it takes to judge a record, and to write it.
pub(super) struct Writing<'a> {
    pub(super) vault: &'a Vault,
    pub(super) members: &'a Members,
    pub(super) me: NodeId,
    pub(super) wrap: &'a WrapKey,
    /// What is here already may be bad.
    pub(super) anew: bool,
}

/// What a record means for what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// Others know more of what we signed than is here: it was lost here, and nobody knows how much was signed in it.
    is_lost: bool,
    /// Its head takes the place of the one that is here.
    takes_head: bool,
}

impl Writing<'_> {
    /// Stores a record that is good; the head last, so that a session that is listed can be opened.
    pub(super) fn put(&self, checked: Checked) -> Result<(), Fault> {
        let Verdict { is_lost, takes_head } = judge(self.vault.archive(), self.me, &checked)?;
        let Checked { head, manifests, countersigned, journal, segments, wraps, receipts, is_whole: _ } = checked;
        let session = head.id;
        if is_lost {
            self.turn(move |archive| archive.set_restored(&session))?;
        }
        for entries in journal.chunks(TURN) {
            let entries = entries.to_vec();
            self.turn(move |archive| entries.iter().try_for_each(|entry| archive.append_journal(entry)))?;
        }
        for segments in segments.chunks(TURN) {
            let segments = segments.to_vec();
            self.turn(move |archive| {
                segments.iter().try_for_each(|(node, segment)| archive.append_segment(*node, segment))
            })?;
        }
        let last = manifests.last().map(Signed::hash);
        let wraps = self.fresh_wraps(&head, wraps)?;
        let known_holder = |node: &NodeId| self.members.knew(node);
        let receipts: Vec<_> = receipts
            .into_iter()
            .filter(|receipt| Some(receipt.content().manifest) == last && known_holder(&receipt.signer()))
            .collect();
        self.turn(move |archive| {
            manifests.iter().try_for_each(|manifest| archive.put_manifest(manifest))?;
            countersigned.iter().try_for_each(|by| archive.put_countersignature(by))?;
            receipts.iter().try_for_each(|receipt| archive.put_receipt(receipt, unix_ms()))?;
            wraps.iter().try_for_each(|(epoch, wraps)| archive.put_wraps(&session, *epoch, wraps))?;
            if takes_head { archive.put_head(&head) } else { Ok(()) }
        })
    }

    /// The wraps that are not here yet, or that are wanted anew. One for this point that does not open is none: another may bring
    /// a good one.
    fn fresh_wraps(
        &self,
        head: &Head,
        wraps: BTreeMap<Epoch, Vec<(NodeId, Wrap)>>,
    ) -> Result<BTreeMap<Epoch, Vec<(NodeId, Wrap)>>, Fault> {
        let archive = self.vault.archive();
        let here = archive.all_wraps(&head.id).map_err(|error| broken(&error))?;
        let anew = self.anew && archive.is_restored(&head.id).map_err(|error| broken(&error))?;
        let opens = |epoch: Epoch, wrap: &Wrap| {
            let context = WrapContext { session: head.id, epoch, recipient: self.me };
            let key = wrap.open(self.wrap, &context).ok();
            key.zip(head.commitment(epoch)).is_some_and(|(key, commitment)| key.check(commitment).is_ok())
        };
        let fresh = |epoch: Epoch, (node, wrap): &(NodeId, Wrap)| {
            let is_here = here.get(&epoch).is_some_and(|wraps| wraps.contains_key(node));
            (anew || !is_here) && (*node != self.me || opens(epoch, wrap))
        };
        Ok(wraps
            .into_iter()
            .map(|(epoch, wraps)| (epoch, wraps.into_iter().filter(|wrap| fresh(epoch, wrap)).collect()))
            .collect())
    }

    /// Writes something in its turn. What contradicts what is here is false: what is here was looked at too.
    fn turn(&self, write: impl FnOnce(&Archive) -> Result<(), archive::Error> + Send + 'static) -> Result<(), Fault> {
        match self.vault.run(write) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error {
                archive::Error::Journal { .. }
                | archive::Error::Segment(_)
                | archive::Error::Forked { .. }
                | archive::Error::Manifest { .. }
                | archive::Error::Sequel { .. } => Fault::Wrong(sentence(&error)),
                error => broken(&error),
            }),
            Err(closed) => Err(Fault::Broken(closed.to_string())),
        }
    }
}

/// What to make of a good record, given what is here. Its manifests are all by the central its head names.
fn judge(archive: &Archive, me: NodeId, checked: &Checked) -> Result<Verdict, Fault> {
    let read = || {
        let known = archive.head(&checked.head.id)?;
        Ok((known, archive.is_restored(&checked.head.id)?, archive.last_manifest(&checked.head.id)?))
    };
    let (known, is_restored, ours) = read().map_err(|error: archive::Error| broken(&error))?;
    let Some(known) = known else { return Ok(Verdict { is_lost: true, takes_head: true }) };
    if known.state == State::Open {
        return Err(Fault::Running);
    }
    let head = &checked.head;
    let (ours, theirs) = (ours.map(|last| last.content().n), checked.manifests.last().map(|last| last.content().n));
    let settled = !is_restored || ours.is_some();
    // A point that was away in the end has an older head, and is as honest.
    let fits = head.continues(&known) || known.continues(head);
    if !fits && (settled || theirs.is_none()) {
        return Err(Fault::Wrong("another head than the one that is known here".into()));
    }
    let takes_head = match theirs {
        Some(_) => theirs >= ours,
        None => !settled && head.epochs.len() > known.epochs.len(),
    };
    let is_lost = is_behind(archive, me, checked).map_err(|error| broken(&error))?;
    Ok(Verdict { is_lost, takes_head })
}

/// Whether others know more of what this node signed in a session than is here. What others signed meanwhile is no loss of ours.
fn is_behind(archive: &Archive, me: NodeId, checked: &Checked) -> Result<bool, archive::Error> {
    let Checked { head, manifests, journal, segments, .. } = checked;
    if head.central == me {
        let ours = archive.last_manifest(&head.id)?.map(|manifest| manifest.content().n);
        let theirs = manifests.last().map(|manifest| manifest.content().n);
        if theirs > ours || journal.len() > archive.journal(&head.id, 0)?.len() {
            return Ok(true);
        }
    }
    let own = segments.iter().filter(|(node, _)| *node == me).count();
    let signed = match head.number(&me) {
        Some(number) => archive.segment_chain(&head.id, number, me)?.len() as usize,
        None => 0,
    };
    Ok(own > signed)
}

#[cfg(test)]
mod tests;
