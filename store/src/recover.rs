//! Taking a session back from others: what can be believed of a record that somebody gives, and what there is to want.
//!
//! Whoever lost its archive can compare nothing with what it had. But a record holds itself together: central's last manifest
//! names the head, the journal's end and the end of each point's segments, those are chains of signed records, and the segments
//! name every group by its hash. So one honest signature, central's under the manifest, is enough to know all of it, whoever
//! brings it. If central was lost before it signed one, each point's own segments still prove that point's groups, and the
//! head alone is believed for want of better; [`Checked::is_whole`] says which of the two it is.
//!
//! A record that ends too early is no lie: an honest point that only took part has its own segments and no journal. What is
//! there must be good to its last byte; then it is put together with what others have.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    id::{Hash, NodeId, PointNumber, SessionId, TrackId},
    inventory::Have,
    journal::{self, Entry},
    keys::{Epoch, Wrap},
    manifest::{Countersignature, Manifest},
    receipt::Receipt,
    segment::{self, Group, Segment},
    session::{Head, State},
    signed::{Content, Signed},
    verify::sentence,
};

/// What somebody gave of a session's record, as it came.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The head, as it is stored.
    pub head: Bytes,
    /// The manifests.
    pub manifests: Vec<Bytes>,
    /// The countersignatures of them.
    pub countersigned: Vec<Bytes>,
    /// The journal.
    pub journal: Vec<Bytes>,
    /// The segments, by point.
    pub segments: BTreeMap<PointNumber, Vec<Bytes>>,
    /// The wrapped keys, by epoch and recipient.
    pub wraps: BTreeMap<Epoch, Vec<(NodeId, Wrap)>>,
    /// Receipts of those who hold copies.
    pub receipts: Vec<Bytes>,
}

/// A record in which everything is good.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The head. It is closed, even where central was lost before it could close it.
    pub head: Head,
    /// The manifests, from the first that was there.
    pub manifests: Vec<Signed<Manifest>>,
    /// Countersignatures by points of the session.
    pub countersigned: Vec<Signed<Countersignature>>,
    /// The journal; all of it or nothing, if there is a manifest.
    pub journal: Vec<Signed<Entry>>,
    /// Segments of each point from its first on, and who signed them.
    pub segments: Vec<(NodeId, Signed<Segment>)>,
    /// The wrapped keys. A wrong one opens nothing, and says so.
    pub wraps: BTreeMap<Epoch, Vec<(NodeId, Wrap)>>,
    /// Receipts, each signed by its holder.
    pub receipts: Vec<Signed<Receipt>>,
    /// Whether this is all that the last manifest names.
    pub is_whole: bool,
}

/// How far a record is shown to be of a session of ours, by what we signed ourselves. Everything else in it anybody can make, for
/// any session: a head is signed by nobody, and its manifest by whomever it calls central.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// We signed nothing of it.
    Nothing,
    /// We signed what we recorded in this session. That names the session, and nobody as its central.
    Session,
    /// We signed whose it is: we chaired it ourselves, or countersigned one of its manifests, or said that we hold it.
    Central,
}

impl Checked {
    /// By what `us`, this node and those whose place it has, signed in it.
    pub fn tie(&self, us: &BTreeSet<NodeId>) -> Tie {
        let chaired = us.contains(&self.head.central) && !(self.manifests.is_empty() && self.journal.is_empty());
        let names = |manifest: Hash| self.manifests.iter().any(|ours| ours.hash() == manifest);
        let countersigned =
            self.countersigned.iter().any(|by| us.contains(&by.signer()) && names(by.content().manifest));
        let held = self.receipts.iter().any(|by| us.contains(&by.signer()) && names(by.content().manifest));
        match chaired || countersigned || held {
            true => Tie::Central,
            false if self.segments.iter().any(|(node, _)| us.contains(node)) => Tie::Session,
            false => Tie::Nothing,
        }
    }
}

/// Looks at what somebody gave of a session. `is_known` says who is a point of the mesh, or was one. The sentence says what is
/// false; a good record never has anything false in it.
pub fn check(session: SessionId, given: Given, is_known: impl Fn(&NodeId) -> bool) -> Result<Checked, String> {
    let mut head = Head::decode(&given.head).map_err(|error| sentence(&error))?;
    if head.id != session {
        return Err("the head is of another session".into());
    }
    if !is_known(&head.central) {
        return Err("the session's central is no point of this mesh and never was".into());
    }
    let manifests = manifests(&head, Hash::of(&given.head), given.manifests)?;
    let last = manifests.last().map(|last| last.content().clone());
    let journal = journal(&head, last.as_ref(), given.journal)?;
    let mut is_whole = last.as_ref().is_some_and(|last| journal.len() as u64 == last.entries);
    let mut segments = Vec::new();
    for member in &head.points {
        let records = given.segments.get(&member.number).cloned().unwrap_or_default();
        let end = last.as_ref().and_then(|last| last.chain(member.number));
        let mut chain = segment::Chain::new(session, member.number, member.node);
        for record in records {
            let segment = parse::<Segment>(record)?;
            chain.accept(&segment).map_err(|error| sentence(&error))?;
            if end.is_some_and(|end| chain.len() == end.segments && chain.last() != end.last) {
                return Err(format!("the segments of point {} are not those that the manifest names", member.number));
            }
            segments.push((member.node, segment));
        }
        is_whole &= end.is_some_and(|end| chain.len() >= end.segments);
    }
    let mut countersigned = Vec::new();
    for record in given.countersigned {
        let by = parse::<Countersignature>(record)?;
        if by.content().session == session && head.number(&by.signer()) == Some(by.content().point) {
            countersigned.push(by);
        }
    }
    let mut receipts = Vec::new();
    for record in given.receipts {
        let receipt = parse::<Receipt>(record)?;
        if receipt.content().session == session {
            receipts.push(receipt);
        }
    }
    if head.state == State::Open {
        // Nobody knows when it ended; it went on at least until somebody signed for the last time.
        let last_ms = segments.iter().map(|(_, segment)| segment.content().wall_ms).max();
        head.ended_unix_ms = Some(last_ms.unwrap_or(0).max(head.started_unix_ms));
        head.state = State::Ended;
    }
    Ok(Checked { head, manifests, countersigned, journal, segments, wraps: given.wraps, receipts, is_whole })
}

fn parse<T: Content>(record: Bytes) -> Result<Signed<T>, String> {
    Signed::parse(record).map_err(|error| sentence(&error))
}

/// The manifests, all by the session's central and each after the one before; none if the last does not name this head.
fn manifests(head: &Head, hash: Hash, records: Vec<Bytes>) -> Result<Vec<Signed<Manifest>>, String> {
    let mut manifests: Vec<Signed<Manifest>> = Vec::new();
    for record in records {
        let manifest = parse::<Manifest>(record)?;
        let content = manifest.content();
        if content.session != head.id || manifest.signer() != head.central {
            return Err("a manifest is not by the session's central".into());
        }
        if let Some(before) = manifests.last() {
            if before.content().n >= content.n {
                return Err("the manifests are out of order".into());
            }
            if let Some(what) = content.contradicts(before) {
                return Err(format!("manifest {} {what}", content.n));
            }
        }
        manifests.push(manifest);
    }
    // A point that was away when the session ended has another head than central. It is as good as one without a manifest.
    let is_named = manifests.last().is_some_and(|last| last.content().head == hash && head.state == State::Ended);
    Ok(if is_named { manifests } else { Vec::new() })
}

/// The journal as far as the manifest names it.
fn journal(head: &Head, last: Option<&Manifest>, records: Vec<Bytes>) -> Result<Vec<Signed<Entry>>, String> {
    let mut chain = journal::Chain::new(head.id, head.central);
    let mut entries = Vec::new();
    let count = last.map_or(u64::MAX, |last| last.entries);
    for record in records.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let entry = parse::<Entry>(record)?;
        chain.accept(&entry).map_err(|error| sentence(&error))?;
        entries.push(entry);
    }
    match last {
        Some(last) if !entries.is_empty() && (chain.len(), chain.last()) != (last.entries, last.journal) => {
            Err("the journal does not end where the manifest says".into())
        }
        Some(_) | None => Ok(entries),
    }
}

/// The records in a run of them, each behind its length in four bytes; `None` if the last is cut off.
pub fn unframe(mut run: &[u8]) -> Option<Vec<Bytes>> {
    let mut records = Vec::new();
    while let Some((len, rest)) = run.split_first_chunk() {
        let (record, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        records.push(Bytes::copy_from_slice(record));
        run = rest;
    }
    run.is_empty().then_some(records)
}

/// How much of a session should be here again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it: we chaired it, or had signed that we hold it.
    All,
    /// Our own tracks: we only took part.
    Own(PointNumber),
}

impl Scope {
    /// By the head and by who has signed that he holds all of it. `us` are this node and those whose place it has.
    pub fn of(head: &Head, holders: &BTreeSet<NodeId>, us: &BTreeSet<NodeId>) -> Scope {
        let own = us.iter().find_map(|node| head.number(node));
        match own {
            Some(number) if !us.contains(&head.central) && holders.is_disjoint(us) => Scope::Own(number),
            Some(_) | None => Scope::All,
        }
    }

    /// Whether a track is in it.
    pub fn has(self, track: TrackId) -> bool {
        match self {
            Scope::All => true,
            Scope::Own(number) => track.point() == number,
        }
    }
}

/// What the points signed, by track and number.
pub type Listed = BTreeMap<(TrackId, u64), Group>;

/// What is missing of a session, and how much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Groups that were signed and are not here.
    pub missing: BTreeMap<TrackId, Have>,
    /// Bytes of them.
    pub missing_bytes: u64,
    /// All groups that were signed.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Wanted {
    /// Of what the points signed, given what is here: the hash of a group's bytes.
    pub fn of<E>(
        listed: &Listed,
        scope: Scope,
        mut here: impl FnMut(TrackId, u64) -> Result<Option<Hash>, E>,
    ) -> Result<Wanted, E> {
        let mut wanted = Wanted::default();
        for (&(track, seq), group) in listed.iter().filter(|((track, _), _)| scope.has(*track)) {
            let len = u64::from(group.len);
            wanted.groups += 1;
            wanted.bytes += len;
            if here(track, seq)? != Some(group.hash) {
                wanted.missing.entry(track).or_default().insert(seq);
                wanted.missing_bytes += len;
            }
        }
        Ok(wanted)
    }
}

/// Whether an archive of which `ours` could be signed has all the record that `last` names, whatever groups it has.
pub fn has_record(ours: &Manifest, last: &Manifest) -> bool {
    let reaches = |end: &crate::manifest::ChainEnd| {
        ours.chain(end.point)
            .is_some_and(|mine| mine.segments > end.segments || (mine.segments, mine.last) == (end.segments, end.last))
    };
    ours.head == last.head && ours.entries >= last.entries && last.chains.iter().all(reaches)
}

/// The same with the groups: as many and as large as `last` says that central kept.
pub fn has_all(ours: &Manifest, last: &Manifest) -> bool {
    let tracks = |manifest: &Manifest| -> BTreeMap<TrackId, (u64, u64)> {
        let tracks = manifest.chains.iter().flat_map(|end| &end.tracks);
        tracks.map(|track| (track.track, (track.groups, track.bytes))).collect()
    };
    let mine = tracks(ours);
    let enough = |(track, (groups, bytes)): (&TrackId, &(u64, u64))| {
        mine.get(track).is_some_and(|(ours, size)| ours >= groups && size >= bytes) || *groups == 0
    };
    has_record(ours, last) && tracks(last).iter().all(enough)
}

#[cfg(test)]
mod tests;
