//! Writing a record that is good in itself beside what is here of the session.
//!
//! A record holds itself together, but that is no proof of whose it is: the head says who is central, and a manifest signed by
//! that node names the head, so any point can make such a pair for any session. What this node knows by its own part in it
//! is therefore never given up for it. What came by recovery gives way to a record that is tied to us by a signature of ours if
//! it is not itself, or when somebody at this node says whom to believe; else the two are left as they are ([`Fault::Disputed`]).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{NodeId, SessionId};
use store::keys::{Epoch, Wrap, WrapContext, WrapKey};
use store::recover::{Checked, Tie};
use store::segment::Segment;
use store::session::{Head, State};
use store::signed::{Content, Signed};
use store::verify::sentence;

use super::super::unix_ms;
use super::take::{Fault, broken};
use crate::engine::rights::Members;
use crate::vault::Vault;

/// Records written in one turn of the vault, so that a running session waits for few of them.
const TURN: usize = 32;

/// Group numbers that a point may have used before it signs for the first time, with those that a short run set aside.
const UNSIGNED_MAX: u64 = 80;

/// What it takes to judge a record, and to write it.
pub(super) struct Writing<'a> {
    pub(super) vault: &'a Vault,
    pub(super) members: &'a Members,
    pub(super) me: NodeId,
    /// This node and those whose place it has.
    pub(super) us: &'a BTreeSet<NodeId>,
    pub(super) wrap: &'a WrapKey,
    /// Somebody named whom to ask: what came from others before may be bad.
    pub(super) anew: bool,
}

/// What a record means for what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// Others know more of what we signed than is here: it was lost here, and nobody knows how much was signed in it.
    is_lost: bool,
    /// Its head takes the place of the one that is here.
    takes_head: bool,
    /// All that is here of the session goes before.
    replaces: bool,
}

impl Writing<'_> {
    /// Stores a record that is good; the head last, so that a session that is listed can be opened.
    pub(super) fn put(&self, checked: Checked) -> Result<(), Fault> {
        let Verdict { is_lost, takes_head, replaces } = self.judge(&checked)?;
        let Checked { head, manifests, countersigned, journal, segments, wraps, receipts, is_whole: _ } = checked;
        let session = head.id;
        if is_lost {
            self.turn(move |archive| archive.set_restored(&session))?;
        }
        if replaces {
            tracing::warn!(%session, "what others gave of this session before gives way to a better record");
            self.turn(move |archive| archive.discard_record(&session))?;
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

    /// What to make of a good record, given what is here. Its manifests are all by the central its head names.
    fn judge(&self, checked: &Checked) -> Result<Verdict, Fault> {
        let (archive, head) = (self.vault.archive(), &checked.head);
        let read = || {
            let Some(known) = archive.head(&head.id)? else { return Ok(None) };
            let ours = archive.last_manifest(&head.id)?.map(|last| last.content().n);
            Ok(Some((tie(archive, self.us, &known)?, archive.is_restored(&head.id)?, ours, known)))
        };
        let Some((tie, is_restored, ours, known)) = read().map_err(|error: archive::Error| broken(&error))? else {
            return Ok(Verdict { is_lost: true, takes_head: true, replaces: false });
        };
        if known.state == State::Open {
            return Err(Fault::Running);
        }
        let theirs = checked.manifests.last().map(|last| last.content().n);
        // A point that was away in the end has an older head, and is as honest.
        if head.continues(&known) || known.continues(head) {
            let takes_head = match theirs {
                Some(_) => theirs >= ours,
                None => is_restored && ours.is_none() && head.epochs.len() > known.epochs.len(),
            };
            let is_lost = is_behind(archive, self.me, checked).map_err(|error| broken(&error))?;
            return Ok(Verdict { is_lost, takes_head, replaces: false });
        }
        let wrong = || Fault::Wrong("another head than the one that is known here".into());
        let names_us = self.us.iter().any(|node| known.number(node).is_some());
        if names_us && !is_restored {
            return Err(wrong());
        }
        let (named, is_named) = (ours.is_some(), theirs.is_some());
        let replaces = match (tie, checked.tie(self.us)) {
            (Tie::Nothing | Tie::Session, Tie::Central) => true,
            // A copy that was only held says by our receipt that we held it, and not what we did in the session.
            (Tie::Central, Tie::Nothing | Tie::Session) if names_us => return Err(wrong()),
            // Of two heads with one central, that one's manifest decides.
            _ if head.central == known.central && named != is_named => match is_named {
                true => true,
                false => return Err(wrong()),
            },
            (Tie::Nothing | Tie::Session | Tie::Central, _) => self.anew,
        };
        match replaces {
            true => Ok(Verdict { is_lost: true, takes_head: true, replaces: true }),
            false => Err(Fault::Disputed),
        }
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

/// Stores what we signed ourselves in a session that runs on, as its central gives it; then we may go on signing.
pub(super) fn put_own(
    archive: &Archive,
    me: NodeId,
    session: &SessionId,
    segments: &[Signed<Segment>],
) -> Result<(), String> {
    let put = || {
        if segments.is_empty() && archive.owed(session)?.is_some_and(|used| used > UNSIGNED_MAX) {
            return Ok(false);
        }
        segments.iter().try_for_each(|segment| archive.append_segment(me, segment))?;
        archive.set_owed(session, None).map(|()| true)
    };
    match put().map_err(|error: archive::Error| sentence(&error))? {
        true => Ok(()),
        false => Err("central says that this point recorded before, and gives nothing that it signed".into()),
    }
}

/// How far what is here is known to be of a session of ours. If we were in it, and it did not come by recovery, it is.
pub(super) fn tie(archive: &Archive, us: &BTreeSet<NodeId>, head: &Head) -> Result<Tie, archive::Error> {
    let session = head.id;
    let chaired = us.contains(&head.central) && archive.has_journal(&session)?;
    let names_us = us.iter().any(|node| head.number(node).is_some());
    if chaired || names_us && !archive.is_restored(&session)? {
        return Ok(Tie::Central);
    }
    let stored = archive.manifests(&session)?;
    let mut segments = Vec::new();
    for node in us {
        let Some(number) = head.number(node) else { continue };
        segments.extend(
            parse(archive.segments(&session, number, 0, 1)?, &session)?.into_iter().map(|first| (*node, first)),
        );
    }
    let here = Checked {
        head: head.clone(),
        manifests: parse(stored.manifests, &session)?,
        countersigned: parse(stored.countersigned, &session)?,
        journal: Vec::new(),
        segments,
        wraps: BTreeMap::new(),
        receipts: archive.receipts(&session)?.into_iter().map(|received| received.receipt).collect(),
        is_whole: false,
    };
    Ok(here.tie(us))
}

fn parse<T: Content>(records: Vec<Bytes>, session: &SessionId) -> Result<Vec<Signed<T>>, archive::Error> {
    let parsed = records.into_iter().map(Signed::parse).collect::<Result<_, _>>();
    parsed.map_err(|_| archive::Error::Unreadable(format!("record of session {session}")))
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
