//! Giving the records of sessions back to a node that had them and lost them. Who asks is looked at for each question anew: a
//! point has a right by its part in the session, or by that of the node whose place the roster gives it, or because it signed
//! that it holds the session. What is given is sealed or signed as it lies here; nothing is opened for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use store::archive::{self, Archive};
use store::id::{NodeId, SessionId};
use store::session::Head;
use store::verify::sentence;

use super::super::replica::give::Runs;
use crate::engine::rights::{self, Deed, Denied, Members, Tracks, Who, may};
use crate::wire::recover::{Known, Message, PAGE_MAX};
use crate::wire::replica::{Message as Copied, Part};

/// Questions of other points answered at once. Beyond, they are refused, and come again.
const PLACES_MAX: usize = 16;
/// Those of one point: an honest one asks for a record, for what is there of two sessions and for what was countersigned of two.
const PLACES_EACH_MAX: usize = 6;

/// Who has questions in work, and how many. No point can have all of the places.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<BTreeMap<NodeId, usize>>);

/// A place for one question, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    node: NodeId,
}

impl Places {
    /// A place for a question of this point, if one is free for it.
    pub(super) fn take(self: &Arc<Self>, node: NodeId) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.get(&node).copied().unwrap_or(0);
        if own >= PLACES_EACH_MAX || taken.values().sum::<usize>() >= PLACES_MAX {
            return None;
        }
        taken.insert(node, own + 1);
        Some(Place { places: Arc::clone(self), node })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<NodeId, usize>> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get(&self.node).copied() {
            Some(own @ 2..) => drop(taken.insert(self.node, own - 1)),
            Some(_) | None => drop(taken.remove(&self.node)),
        }
    }
}

/// How much of a session somebody may have back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entitled {
    /// All of it, or what it signed itself.
    pub(super) all: bool,
    /// What it is in the session, or what the node was whose place it has.
    pub(super) part: rights::Part,
}

/// What this node may have back of a session that is here.
pub(super) fn entitled(
    archive: &Archive,
    members: &Members,
    from: &NodeId,
    head: &Head,
) -> Result<Result<Entitled, Denied>, archive::Error> {
    let (them, who) = (members.with_before(from), Who::Node(*from));
    let part = rights::Part::best(head, &them);
    let all = may(members, &who, Deed::Recover(part, Tracks::Anothers));
    if all.is_ok() {
        return Ok(Ok(Entitled { all: true, part }));
    }
    if holders(archive, &head.id)?.is_disjoint(&them) {
        return Ok(may(members, &who, Deed::Recover(part, Tracks::Own)).map(|()| Entitled { all: false, part }));
    }
    let held = may(members, &who, Deed::Fetch { part: rights::Part::Outside, assigned: true });
    Ok(held.map(|()| Entitled { all: true, part: rights::Part::Outside }))
}

/// Who has signed that it holds a session, whichever manifest it was for.
fn holders(archive: &Archive, session: &SessionId) -> Result<BTreeSet<NodeId>, archive::Error> {
    Ok(archive.receipts(session)?.into_iter().map(|received| received.receipt.signer()).collect())
}

/// A page of the sessions here that somebody may have back.
pub(super) fn list(
    archive: &Archive,
    members: &Members,
    me: &NodeId,
    from: &NodeId,
    after: Option<SessionId>,
) -> Result<Message, archive::Error> {
    let mut sessions = Vec::new();
    for head in archive.sessions()?.heads {
        if after.is_some_and(|after| head.id <= after) || entitled(archive, members, from, &head)?.is_err() {
            continue;
        }
        if sessions.len() == PAGE_MAX {
            return Ok(Message::Sessions { sessions, more: true });
        }
        let last = archive.last_manifest(&head.id)?.map(|last| last.content().n);
        // Who only takes part has no journal.
        let record = if archive.has_journal(&head.id)? { last } else { None };
        let holds = head.central == *me || archive.holders(&head.id)?.contains(me);
        sessions.push(Known { session: head.id, record, whole: record.is_some() && holds });
    }
    Ok(Message::Sessions { sessions, more: false })
}

/// The piece of a part that begins at byte `at`.
pub(super) fn piece(
    (archive, runs): (&Archive, &Runs),
    members: &Members,
    from: &NodeId,
    head: &Head,
    what: (Part, u64),
    entitled: Entitled,
) -> Result<Message, archive::Error> {
    let (part, at) = what;
    let own = |number| members.with_before(from).iter().any(|node| head.number(node) == Some(number));
    let open = match part {
        // By its countersignature a point knows again whose session it was.
        Part::Head | Part::Manifests | Part::Countersigned => true,
        Part::Segments(number) => entitled.all || own(number),
        Part::Journal | Part::Wraps | Part::Have(_) | Part::Receipts => entitled.all,
    };
    if !open {
        return Ok(Message::refused("this point may have back what it signed itself, and no more"));
    }
    Ok(match runs.piece(archive, head, part, at, Instant::now())? {
        Copied::Piece { session, len, bytes } => Message::Piece { session, len, bytes },
        Copied::Refused { reason, .. } => Message::refused(&reason),
        _ => Message::refused("that part cannot be given"),
    })
}

/// A refusal because of this node's disk.
pub(super) fn unreadable(error: &archive::Error) -> Message {
    tracing::error!(error = sentence(error), "what another point had cannot be read to be given back");
    Message::refused("that cannot be read here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_point_has_all_places_and_each_is_free_again() {
        let (places, node) = (Arc::new(Places::default()), |n| NodeId::from_bytes([n; 32]));
        let mut of_one: Vec<_> = std::iter::from_fn(|| places.take(node(1))).take(100).collect();
        assert_eq!(of_one.len(), PLACES_EACH_MAX);
        let of_others: Vec<_> = (2..100).filter_map(|n| places.take(node(n))).collect();
        assert_eq!(of_others.len(), PLACES_MAX - PLACES_EACH_MAX);
        of_one.pop();
        assert!(places.take(node(7)).is_some(), "one came free");
        drop((of_one, of_others));
        assert!(places.taken().is_empty(), "nobody is remembered");
    }
}
