//! The manifest of a session that is over: what it says, who is to countersign it, and what a point asks itself before it does.

use std::collections::BTreeSet;

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{Hash, NodeId, PointNumber, SessionId};
use store::journal::{Entry, Event};
use store::keys::NodeKey;
use store::manifest::{Countersignature, Manifest};
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;

use crate::wire::evidence::Message;

/// What is to be signed.
#[derive(Debug)]
pub struct Drawn {
    /// The manifest.
    pub manifest: Manifest,
    /// The last that was signed, if it says the same.
    pub same: Option<Signed<Manifest>>,
    points: Vec<(PointNumber, NodeId)>,
}

impl Drawn {
    /// Who has not countersigned the manifest with this hash and has to.
    pub fn open(&self, archive: &Archive, manifest: Hash) -> Result<BTreeSet<NodeId>, archive::Error> {
        let done = archive.countersigners(&self.manifest.session, manifest)?;
        Ok(self.points.iter().filter(|(number, _)| !done.contains(number)).map(|(_, node)| *node).collect())
    }
}

/// What central is to sign of a session that is over; `None` if it is too early. With `all` it is too early until every point
/// that took part has signed its last segment.
pub fn draw(archive: &Archive, session: SessionId, all: bool, now_ms: u64) -> Result<Option<Drawn>, archive::Error> {
    let Some(head) = archive.head(&session)?.filter(|head| head.state == State::Ended) else { return Ok(None) };
    // What was lost once is closed: what central signed of it last is for others to say.
    if archive.is_restored(&session)? {
        return Ok(None);
    }
    let (mut points, mut silent) = (Vec::new(), Vec::new());
    // Before all of every chain is read, and the journal: this is asked every few seconds.
    for member in head.points.iter().filter(|member| !head.was_removed(member.number)) {
        let chain = archive.segment_chain(&session, member.number, member.node)?;
        match (chain.is_empty(), chain.is_closed()) {
            (true, _) => silent.push((member.number, member.node)),
            (false, false) if all => return Ok(None),
            (false, _) => points.push((member.number, member.node)),
        }
    }
    if !silent.is_empty() {
        let joined = joined(archive, &head)?;
        silent.retain(|(number, _)| joined.contains(number));
        if all && !silent.is_empty() {
            return Ok(None);
        }
        points.append(&mut silent);
    }
    points.retain(|(_, node)| *node != head.central);
    let manifest = archive.draw_manifest(&head, now_ms)?;
    let same = archive.last_manifest(&session)?.filter(|last| last.content().says_what(&manifest));
    Ok(Some(Drawn { manifest, same, points }))
}

/// The points that took part: central, and whom the journal says joined.
fn joined(archive: &Archive, head: &Head) -> Result<BTreeSet<PointNumber>, archive::Error> {
    let mut joined: BTreeSet<_> = head.number(&head.central).into_iter().collect();
    for bytes in archive.journal(&head.id, 0)? {
        if let Ok(entry) = Signed::<Entry>::parse(bytes)
            && let Event::Joined { point } = entry.content().event
        {
            joined.insert(point);
        }
    }
    Ok(joined)
}

/// What a point said when it was asked to countersign.
#[derive(Debug)]
pub enum Heard {
    /// What it has of the session is what the manifest says.
    Countersigned(Box<Signed<Countersignature>>),
    /// It will not, and says why. Asking again brings nothing else.
    Refused(String),
    /// No answer to that.
    Nothing,
}

/// What a point's answer comes to.
pub fn heard(node: NodeId, manifest: &Signed<Manifest>, answer: &[u8]) -> Heard {
    let (session, point) = (manifest.content().session, node.short());
    let record = match Message::decode(answer) {
        Ok(Message::Countersigned { session: of, record }) if of == session => record,
        Ok(Message::Refused { reason, .. }) => {
            tracing::error!(%session, point, reason, "a point does not countersign the manifest");
            return Heard::Refused(reason);
        }
        Ok(
            Message::Countersigned { .. } | Message::Manifest { .. } | Message::Segment { .. } | Message::Wants { .. },
        ) => return Heard::Nothing,
        Err(error) => {
            tracing::warn!(point, %error, "its answer");
            return Heard::Nothing;
        }
    };
    match Signed::<Countersignature>::parse(record) {
        Ok(by) if by.signer() == node && answers(by.content(), manifest) => Heard::Countersigned(Box::new(by)),
        Ok(_) | Err(_) => {
            let reason = "what it sent is something else than its countersignature".to_owned();
            tracing::error!(%session, point, reason, "a point does not countersign the manifest");
            Heard::Refused(reason)
        }
    }
}

/// Stores a countersignature of the point that gave it.
pub fn keep(archive: &Archive, by: &Signed<Countersignature>) -> Result<(), archive::Error> {
    let number = archive.head(&by.content().session)?.and_then(|head| head.number(&by.signer()));
    match number == Some(by.content().point) {
        true => archive.put_countersignature(by),
        false => Ok(()),
    }
}

/// Whether this is a countersignature of that manifest, and lies under its number.
fn answers(by: &Countersignature, manifest: &Signed<Manifest>) -> bool {
    let Manifest { session, n, .. } = *manifest.content();
    (by.session, by.n, by.manifest) == (session, n, manifest.hash())
}

/// What a point answers when central asks it to countersign.
pub fn countersign(
    archive: &Archive,
    key: &NodeKey,
    (session, from): (SessionId, NodeId),
    record: Bytes,
    now_ms: u64,
) -> Message {
    match try_countersign(archive, key, (session, from), record, now_ms) {
        Ok(record) => Message::Countersigned { session, record },
        Err(reason) => {
            tracing::error!(%session, reason, "the manifest is not countersigned");
            Message::refused(session, &reason)
        }
    }
}

fn try_countersign(
    archive: &Archive,
    key: &NodeKey,
    (session, from): (SessionId, NodeId),
    record: Bytes,
    now_ms: u64,
) -> Result<Bytes, String> {
    let said = |error: archive::Error| sentence(&error);
    let manifest = Signed::<Manifest>::parse(record).map_err(|error| sentence(&error))?;
    let head = archive.head(&session).map_err(said)?.ok_or("this point knows nothing of that session")?;
    if manifest.signer() != from || head.central != from || manifest.content().session != session {
        return Err("the manifest is not of that session, or not by its central".into());
    }
    let point = head.number(&key.id()).ok_or("this point is none of that session")?;
    // What came back may end before what it signed.
    if archive.is_restored(&session).map_err(said)? || archive.owed(&session).map_err(said)?.is_some() {
        return Err("what this point signed in that session was lost here".into());
    }
    let chain = archive.segment_chain(&session, point, key.id()).map_err(said)?;
    if let Some(objection) = Countersignature::objection(manifest.content(), point, chain.len(), chain.last()) {
        return Err(objection);
    }
    archive.put_manifest(&manifest).map_err(said)?;
    let by = Countersignature {
        session,
        point,
        n: manifest.content().n,
        manifest: manifest.hash(),
        segments: chain.len(),
        last: chain.last(),
        wall_ms: now_ms,
    };
    let by = Signed::new(by, key);
    archive.put_countersignature(&by).map_err(said)?;
    Ok(by.bytes().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::manifest::{ChainEnd, MANIFESTS_MAX};
    use store::seal::Suite;
    use store::session::{Member, Period};

    use super::*;

    fn key(byte: u8) -> NodeKey {
        NodeKey::from_bytes(&[byte; 32])
    }

    fn number(number: u16) -> PointNumber {
        PointNumber::new(number).expect("a number")
    }

    /// The archive of point 2, which was in a session that point 1 chaired.
    fn point() -> (Archive, Head) {
        let archive = Archive::over(Arc::<Memory>::default(), Arc::<Memory>::default()).expect("an archive");
        let member = |n: u16| Member { number: number(n), node: key(n as u8).id(), name: format!("Xã {n}") };
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
        archive.put_head(&head).expect("room");
        (archive, head)
    }

    fn manifest(head: &Head, n: u32, prev: Hash, wall_ms: u64, entries: u64) -> Signed<Manifest> {
        let end = |point| ChainEnd { point, segments: 0, last: Hash::NONE, closed: false, tracks: vec![] };
        let chains = head.points.iter().map(|member| end(member.number)).collect();
        let (journal, session) = (Hash::NONE, head.id);
        let manifest = Manifest { session, n, prev, wall_ms, head: Hash::of(&head.encode()), entries, journal, chains };
        Signed::new(manifest, &key(1))
    }

    fn ask(archive: &Archive, head: &Head, manifest: &Signed<Manifest>) -> Result<(), String> {
        match countersign(archive, &key(2), (head.id, key(1).id()), manifest.bytes().clone(), 9) {
            Message::Countersigned { .. } => Ok(()),
            Message::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_central_that_signs_without_end_fills_no_disk() {
        let (archive, head) = point();
        let mut prev = Hash::NONE;
        for n in 0..10_000 {
            let manifest = manifest(&head, n, prev, u64::from(n), u64::from(n));
            prev = manifest.hash();
            match ask(&archive, &head, &manifest) {
                Ok(()) => assert!(n < MANIFESTS_MAX),
                Err(reason) => {
                    assert!(n >= MANIFESTS_MAX, "{reason}");
                    assert!(
                        reason.ends_with(&format!("number {n}, and a session has at most 256 manifests")),
                        "{reason}"
                    );
                }
            }
        }
        let stored = archive.manifests(&head.id).expect("readable");
        assert_eq!((stored.manifests.len(), stored.countersigned.len()), (256, 256));
    }

    #[test]
    fn a_manifest_that_only_says_the_same_later_is_not_stored_again() {
        let (archive, head) = point();
        let first = manifest(&head, 0, Hash::NONE, 1, 5);
        assert_eq!(ask(&archive, &head, &first), Ok(()));
        assert_eq!(ask(&archive, &head, &first), Ok(()), "the answer was lost, and central asks again");
        let again = ask(&archive, &head, &manifest(&head, 1, first.hash(), 2, 5)).expect_err("nothing is new");
        assert!(again.ends_with("says nothing that the one before it does not say"), "{again}");
        let forked = ask(&archive, &head, &manifest(&head, 1, Hash::NONE, 2, 6)).expect_err("none is before it");
        assert!(forked.contains("a manifest before it though it is the first, or none though it is not"), "{forked}");
        assert_eq!(ask(&archive, &head, &manifest(&head, 1, first.hash(), 2, 6)), Ok(()));
        assert_eq!(ask(&archive, &head, &manifest(&head, 7, Hash::of(b"6"), 3, 6)), Ok(()), "it was away for some");
        assert_eq!(archive.manifests(&head.id).expect("readable").manifests.len(), 3);
    }

    #[test]
    fn who_lost_what_it_signed_bears_witness_to_nothing() {
        let lost: [fn(&Archive, SessionId); 2] = [
            |archive, session| archive.set_restored(&session).expect("room"),
            |archive, session| archive.set_owed(&session, Some(7)).expect("room"),
        ];
        for lose in lost {
            let (archive, head) = point();
            let manifest = manifest(&head, 0, Hash::NONE, 1, 5);
            lose(&archive, head.id);
            assert_eq!(
                ask(&archive, &head, &manifest),
                Err("what this point signed in that session was lost here".into())
            );
            assert_eq!(archive.manifests(&head.id).expect("readable").manifests.len(), 0);
        }
        let (archive, head) = point();
        archive.set_owed(&head.id, Some(7)).expect("room");
        archive.set_owed(&head.id, None).expect("room");
        assert_eq!(ask(&archive, &head, &manifest(&head, 0, Hash::NONE, 1, 5)), Ok(()), "it is back");
    }

    #[test]
    fn a_countersignature_is_of_the_manifest_that_was_asked_about() {
        let (archive, head) = point();
        let manifest = manifest(&head, 0, Hash::NONE, 1, 5);
        let answer = countersign(&archive, &key(2), (head.id, key(1).id()), manifest.bytes().clone(), 9);
        let Message::Countersigned { record, .. } = answer else { panic!("{answer:?}") };
        let by = Signed::<Countersignature>::parse(record).expect("good");
        assert!(answers(by.content(), &manifest));
        let other = Countersignature { n: 200, ..by.content().clone() };
        assert!(!answers(&other, &manifest), "a place of another manifest must not be taken");
    }
}
