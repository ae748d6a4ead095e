//! Fetching the record of a session that is to be held here, and checking it before it is stored.
//!
//! The assignment names one manifest by its hash. From there everything hangs together: the manifest names the head and the
//! ends of the journal and of each point's segments, and those are chains of signed records. Wrapped keys alone are taken as
//! they come: a wrong one opens nothing, and says so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::archive::Archive;
use store::id::{GroupId, Hash, NodeId, SessionId, TrackId};
use store::inventory::Have;
use store::journal::{self, Entry};
use store::keys::{Epoch, Wrap};
use store::manifest::{Countersignature, Manifest};
use store::receipt::Assignment;
use store::segment::{self, Group, Segment};
use store::session::{Head, State};
use store::signed::{Content, Signed};
use store::verify::sentence;
use tokio::task::spawn_blocking;

use crate::engine::replica::pull::Groups;
use crate::mesh::Mesh;
use crate::vault::Vault;
use crate::wire::replica::{Message, Part, RUN_MAX};

/// Longest record that is fetched, whatever the assignment says of the groups: it is in memory until it is checked. Forty
/// points that speak for a day make some 150 MB.
const RECORD_MAX: u64 = 256 << 20;

/// Longest record of a session whose groups have so many bytes: sixteen times what is usual of a long session, and enough for
/// the head and the keys of a short one with thousands of points.
pub(super) fn record_max(bytes: u64) -> u64 {
    ((4 << 20) + bytes / 8).min(RECORD_MAX)
}

/// What the points signed, by track and number.
pub(super) type Listed = BTreeMap<(TrackId, u64), Group>;

/// A record that is stored here now.
#[derive(Debug)]
pub(in crate::driver) struct Learnt {
    pub(super) listed: Listed,
    /// What central keeps of it and we do not.
    pub(super) missing: Groups,
}

/// A session's record, checked.
struct Record {
    head: Head,
    manifests: Vec<Signed<Manifest>>,
    countersigned: Vec<Signed<Countersignature>>,
    journal: Vec<Signed<Entry>>,
    segments: Vec<(NodeId, Signed<Segment>)>,
    wraps: BTreeMap<Epoch, Vec<(NodeId, Wrap)>>,
}

/// Fetches the record that was assigned from `from`, checks and stores it.
pub(super) async fn learn(
    mesh: Mesh,
    vault: Vault,
    me: NodeId,
    order: Signed<Assignment>,
    from: NodeId,
) -> Result<Learnt, String> {
    let Assignment { session, bytes, .. } = *order.content();
    let mut left = record_max(bytes);
    let record = fetch(&mesh, &order, from, &mut left).await?;
    let mut listed = Listed::new();
    for (_, segment) in &record.segments {
        for (track, group) in segment.content().groups() {
            listed.insert((track, group.seq), group.clone());
        }
    }
    // What central could not get either is no part of what the manifest counts; of others, who took part may have less.
    let head = &record.head;
    let whole = from == head.central || from == order.signer() || head.number(&from).is_none();
    let kept = match whole {
        true => Some(survey(&mesh, &order, from, &tracks(&listed)).await?),
        false => None,
    };
    let stored = spawn_blocking(move || {
        vault.run(move |archive| {
            put(archive, me, &record).map_err(|error| error.to_string())?;
            let missing = missing(archive, session, &listed, kept).map_err(|error| sentence(&error))?;
            let len = |(track, have): (&TrackId, &Have)| {
                let groups = have.runs().flatten().filter_map(|seq| listed.get(&(*track, seq)));
                groups.map(|group| u64::from(group.len)).sum::<u64>()
            };
            match missing.iter().map(len).sum::<u64>() {
                more if more > bytes => Err("the session is larger than its assignment says".to_owned()),
                _ => Ok(Learnt { listed, missing }),
            }
        })
    });
    match stored.await {
        Ok(Ok(learnt)) => learnt,
        Ok(Err(closed)) => Err(closed.to_string()),
        Err(_) => Err("the archive's thread is gone".to_owned()),
    }
}

/// What somebody has of these tracks.
pub(super) async fn survey(
    mesh: &Mesh,
    order: &Signed<Assignment>,
    node: NodeId,
    tracks: &BTreeSet<TrackId>,
) -> Result<Groups, String> {
    let mut has = Groups::new();
    let mut left = record_max(order.content().bytes);
    for &track in tracks {
        let bytes = run(mesh, order, node, Part::Have(track), &mut left).await?;
        has.insert(track, Have::decode(&bytes).map_err(|error| sentence(&error))?);
    }
    Ok(has)
}

/// The tracks of what was signed.
pub(super) fn tracks(listed: &Listed) -> BTreeSet<TrackId> {
    listed.keys().map(|(track, _)| *track).collect()
}

async fn fetch(mesh: &Mesh, order: &Signed<Assignment>, from: NodeId, left: &mut u64) -> Result<Record, String> {
    let Assignment { session, manifest: assigned, .. } = *order.content();
    let manifests: Vec<Signed<Manifest>> = parse(&run(mesh, order, from, Part::Manifests, left).await?)?;
    let last = manifests.iter().position(|manifest| manifest.hash() == assigned);
    let manifests: Vec<_> = manifests.into_iter().take(last.map_or(0, |last| last + 1)).collect();
    let last = manifests.last().ok_or("the manifest that was assigned is not there")?;
    let manifest = last.content();
    let bytes = run(mesh, order, from, Part::Head, left).await?;
    let head = Head::decode(&bytes).map_err(|error| sentence(&error))?;
    if Hash::of(&bytes) != manifest.head || head.id != session || manifest.session != session {
        return Err("the head is not the one the manifest names".to_owned());
    }
    let by_central = manifests.iter().all(|manifest| manifest.signer() == head.central);
    let by = order.signer();
    if !by_central || (by != head.central && !head.takes_part(&by)) || head.state != State::Ended {
        return Err(
            "the manifest or the assignment is not by the session's central, or the session is not over".to_owned()
        );
    }
    let mut chain = journal::Chain::new(session, head.central);
    let entries: Vec<Signed<Entry>> = parse(&run(mesh, order, from, Part::Journal, left).await?)?;
    let journal: Vec<_> = entries.into_iter().take(usize::try_from(manifest.entries).unwrap_or(usize::MAX)).collect();
    for entry in &journal {
        chain.accept(entry).map_err(|error| sentence(&error))?;
    }
    if (chain.len(), chain.last()) != (manifest.entries, manifest.journal) {
        return Err("the journal does not end where the manifest says".to_owned());
    }
    let mut segments = Vec::new();
    for end in manifest.chains.iter().filter(|end| end.segments > 0) {
        let node = head.member(end.point).ok_or("the manifest names a point that the head does not")?.node;
        let all: Vec<Signed<Segment>> = parse(&run(mesh, order, from, Part::Segments(end.point), left).await?)?;
        let mut chain = segment::Chain::new(session, end.point, node);
        for segment in all.into_iter().take(end.segments as usize) {
            chain.accept(&segment).map_err(|error| sentence(&error))?;
            segments.push((node, segment));
        }
        if (chain.len(), chain.last()) != (end.segments, end.last) {
            return Err(format!("the segments of point {} do not end where the manifest says", end.point));
        }
    }
    let countersigned: Vec<Signed<Countersignature>> =
        parse(&run(mesh, order, from, Part::Countersigned, left).await?)?;
    let own = |by: &Signed<Countersignature>| {
        by.content().session == session && head.number(&by.signer()) == Some(by.content().point)
    };
    let countersigned = countersigned.into_iter().filter(own).collect();
    let wraps = wraps(&run(mesh, order, from, Part::Wraps, left).await?)?;
    Ok(Record { head, manifests, countersigned, journal, segments, wraps })
}

/// A part of the record, piece by piece, of at most so many bytes as are left for it.
async fn run(
    mesh: &Mesh,
    order: &Signed<Assignment>,
    node: NodeId,
    part: Part,
    left: &mut u64,
) -> Result<Vec<u8>, String> {
    let session = order.content().session;
    let mut run = Vec::new();
    loop {
        let ask = Message::Ask { session, record: order.bytes().clone(), part, from: run.len() as u64 };
        let answer = mesh.ask(node, ask.encode()).await.map_err(|error| sentence(&error))?;
        match Message::decode(&answer).map_err(|error| sentence(&error))? {
            Message::Piece { session: of, len, bytes } if of == session => {
                *left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or("the record is longer than one of such a session can be")?;
                run.extend_from_slice(&bytes);
                match (run.len() as u64).cmp(&len) {
                    std::cmp::Ordering::Equal => return Ok(run),
                    std::cmp::Ordering::Less if !bytes.is_empty() && len <= RUN_MAX => {}
                    std::cmp::Ordering::Less | std::cmp::Ordering::Greater => {
                        return Err("a part of the record that is longer or shorter than it says".to_owned());
                    }
                }
            }
            Message::Refused { reason, .. } => return Err(reason),
            _ => return Err("something else was answered".to_owned()),
        }
    }
}

/// Signed records, each behind its length.
fn parse<T: Content>(mut run: &[u8]) -> Result<Vec<Signed<T>>, String> {
    let mut records = Vec::new();
    while let Some((len, rest)) = run.split_first_chunk() {
        let len = u32::from_be_bytes(*len) as usize;
        let (record, rest) = rest.split_at_checked(len).ok_or("a record that is cut off")?;
        records.push(Signed::parse(Bytes::copy_from_slice(record)).map_err(|error| sentence(&error))?);
        run = rest;
    }
    if run.is_empty() { Ok(records) } else { Err("a record that is cut off".to_owned()) }
}

pub(in crate::driver) fn wraps(run: &[u8]) -> Result<BTreeMap<Epoch, Vec<(NodeId, Wrap)>>, String> {
    let mut wraps: BTreeMap<Epoch, Vec<(NodeId, Wrap)>> = BTreeMap::new();
    let (all, rest) = run.as_chunks::<{ 1 + 32 + Wrap::LEN }>();
    for wrapped in all {
        let recipient: &[u8; 32] = wrapped[1..].first_chunk().expect("as long as was said");
        let wrap = Wrap::decode(&wrapped[33..]).map_err(|error| sentence(&error))?;
        wraps.entry(wrapped[0]).or_default().push((NodeId::from_bytes(*recipient), wrap));
    }
    if rest.is_empty() { Ok(wraps) } else { Err("a wrapped key that is cut off".to_owned()) }
}

/// Stores a record; the head last, so that a session that is listed can be opened.
fn put(archive: &Archive, me: NodeId, record: &Record) -> Result<(), String> {
    let said = |error: store::archive::Error| sentence(&error);
    let head = &record.head;
    let known = archive.head(&head.id).map_err(said)?;
    // A point of the session that knows nothing of it has lost its archive: it signs nothing more in it.
    let is_lost = known.is_none() && head.number(&me).is_some();
    if is_lost {
        archive.set_restored(&head.id).map_err(said)?;
    }
    if let Some(known) = known
        && (known.state == State::Open || !head.continues(&known))
    {
        return Err("this point knows the session otherwise, or is still in it".to_owned());
    }
    record.journal.iter().try_for_each(|entry| archive.append_journal(entry)).map_err(said)?;
    for (node, segment) in record.segments.iter().filter(|(node, _)| is_lost || *node != me) {
        archive.append_segment(*node, segment).map_err(said)?;
    }
    record.manifests.iter().try_for_each(|manifest| archive.put_manifest(manifest)).map_err(said)?;
    record.countersigned.iter().try_for_each(|by| archive.put_countersignature(by)).map_err(said)?;
    for (epoch, wraps) in &record.wraps {
        archive.put_wraps(&head.id, *epoch, wraps).map_err(said)?;
    }
    archive.put_head(head).map_err(said)
}

/// The groups that were signed, that central has if it said so, and that are not here.
fn missing(
    archive: &Archive,
    session: SessionId,
    listed: &Listed,
    kept: Option<Groups>,
) -> Result<Groups, store::archive::Error> {
    let mut missing = Groups::new();
    for ((track, seq), group) in listed {
        let there = kept.as_ref().is_none_or(|kept| kept.get(track).is_some_and(|have| have.contains(*seq)));
        let here = match archive.outline(&GroupId { session, track: *track, seq: *seq }) {
            Ok(outline) => outline.is_some_and(|outline| outline.hash == group.hash),
            Err(store::archive::Error::Damaged(_)) => false,
            Err(error) => return Err(error),
        };
        if there && !here {
            missing.entry(*track).or_default().insert(*seq);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::id::PointNumber;
    use store::keys::NodeKey;
    use store::seal::Suite;
    use store::session::{Member, Period};

    use super::*;

    fn key(of: u16) -> NodeKey {
        NodeKey::from_bytes(&[of as u8; 32])
    }

    /// A session that 1 chaired and 2 took part in, with a segment of each.
    fn record() -> Record {
        let number = |of| PointNumber::new(of).expect("small");
        let member = |of| Member { number: number(of), node: key(of).id(), name: format!("Xã {of}") };
        let head = Head {
            id: SessionId::from_parts(1_700_000_000_000, [1; 10]),
            title: "Định kỳ".into(),
            state: State::Ended,
            central: key(1).id(),
            points: vec![member(1), member(2)],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: Some(1_700_000_060_000),
        };
        let segment = |of| {
            let mut chain = segment::Chain::new(head.id, number(of), key(of).id());
            (key(of).id(), chain.append(&key(of), chain.begin(0)).expect("it follows"))
        };
        let segments = vec![segment(1), segment(2)];
        let (manifests, countersigned, journal, wraps) = (vec![], vec![], vec![], BTreeMap::new());
        Record { head, manifests, countersigned, journal, segments, wraps }
    }

    #[test]
    fn a_copy_of_a_session_that_a_point_was_in_and_has_lost_is_marked_and_of_others_it_is_not() {
        let took = |me: u16, known: bool| {
            let archive = Archive::over(Arc::<Memory>::default(), Arc::<Memory>::default()).expect("an archive");
            let record = record();
            if known {
                archive.put_head(&record.head).expect("room");
            }
            put(&archive, key(me).id(), &record).expect("it is good");
            let own = archive.segments(&record.head.id, PointNumber::new(2).expect("small"), 0, 9).expect("readable");
            (archive.is_restored(&record.head.id).expect("readable"), own.len())
        };
        assert_eq!(took(2, false), (true, 1), "how far it had signed is for others to say");
        assert_eq!(took(2, true), (false, 0), "it was there, and knows itself what it signed");
        assert_eq!(took(7, false), (false, 1), "it only holds it");
    }
}
