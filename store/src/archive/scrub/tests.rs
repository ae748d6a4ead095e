//! What reading again finds, on the twin whose values can be damaged. Real files are in `store/tests/damage.rs`.

use std::sync::Arc;

use super::*;
use crate::{
    archive::Signing,
    db::{Db, memory::Memory},
    id::{PointNumber, TrackKind},
    journal::{Chain, Event},
    keys::{NodeKey, SessionKey},
    record::{Flags, Writer},
    seal::{Sealer, Start, Suite},
    session::{Member, Period, State},
};

const ALL: u64 = u64::MAX;

fn key() -> NodeKey {
    NodeKey::from_bytes(&[1; 32])
}

fn track() -> TrackId {
    TrackId::new(PointNumber::new(3).unwrap(), TrackKind::Main)
}

fn head() -> Head {
    let member = Member { number: track().point(), node: key().id(), name: "Trung tâm".into() };
    Head {
        id: SessionId::from_parts(1_700_000_000_000, [1; 10]),
        title: "Định kỳ".into(),
        state: State::Ended,
        central: key().id(),
        points: vec![member],
        epochs: vec![Period::first(Hash::NONE)],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: Some(1_700_000_060_000),
    }
}

fn id(seq: u64) -> GroupId {
    GroupId { session: head().id, track: track(), seq }
}

fn session_key() -> SessionKey {
    SessionKey::from_bytes(&[7; 32])
}

fn group(seq: u64) -> Record {
    let sealer =
        Sealer::new(&session_key(), Suite::default(), head().id, key().id(), track(), 0, Start::from_bits(seq));
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, &[seq as u8; 1_000]).unwrap();
    writer.finish().record
}

/// A session of ten groups, signed.
struct Twin {
    archive: Archive,
    meta: Arc<Memory>,
    media: Arc<Memory>,
}

impl Twin {
    fn new() -> Self {
        let (meta, media): (Arc<Memory>, Arc<Memory>) = (Arc::default(), Arc::default());
        let archive = Archive::over(meta.clone(), media.clone()).unwrap();
        archive.put_groups(&(0..10).map(group).collect::<Vec<_>>()).unwrap();
        let mut journal = Chain::new(head().id, key().id());
        for at in 0..3 {
            archive.append_journal(&journal.append(&key(), at, at, Event::Resumed {})).unwrap();
        }
        let keys = BTreeMap::from([(0, session_key())]);
        let by =
            Signing { session: head().id, point: track().point(), node: key().id(), tracks: &[track()], keys: &keys };
        let segment = archive.gather_segment(&by, 1, true).unwrap().unwrap();
        archive.sign_segment(&key(), segment).unwrap();
        archive.put_head(&head()).unwrap();
        archive.settle().unwrap();
        Twin { archive, meta, media }
    }

    /// Reads all of it, a few groups at a time.
    fn scrub(&self, bytes: u64) -> (u64, Vec<Fault>) {
        let (mut groups, mut faults, mut from) = (0, Vec::new(), None);
        loop {
            let stretch = self.archive.scrub(&head(), from, bytes).unwrap();
            self.archive.scrubbed(&head().id, &stretch, 5).unwrap();
            groups += stretch.groups;
            faults.extend(stretch.faults);
            from = stretch.next;
            if from.is_none() {
                return (groups, faults);
            }
        }
    }

    fn lost(&self) -> Vec<u64> {
        self.archive.lost(&head().id).unwrap().remove(&track()).unwrap_or_default().runs().flatten().collect()
    }

    fn change(&self, seq: u64, bytes: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Column::Groups, &schema::group_key(&id(seq)), bytes.to_vec());
        self.media.write(batch, Durability::Synced).unwrap();
    }
}

fn bad(seq: u64) -> Fault {
    Fault::Group { track: track(), seq }
}

#[test]
fn what_is_whole_is_read_once_and_nothing_is_found() {
    for bytes in [1, 3_000, ALL] {
        let twin = Twin::new();
        assert_eq!(twin.scrub(bytes), (10, vec![]), "{bytes} bytes at a time");
        let progress = twin.archive.scrub_progress(&head().id).unwrap().unwrap();
        assert_eq!((progress.read, progress.whole, progress.checked_ms, progress.next), (10, true, 5, None));
    }
}

#[test]
fn a_bad_group_is_set_aside_as_lost_and_is_itself_again_once_it_is_stored_again() {
    let twin = Twin::new();
    twin.media.damage(Column::Groups, &schema::group_key(&id(2)));
    let mut other = group(7).bytes().to_vec();
    *other.last_mut().unwrap() ^= 1;
    twin.change(7, &other);
    assert_eq!(twin.scrub(3_000), (10, vec![bad(2), bad(7)]));
    assert_eq!(twin.lost(), [2, 7]);
    for seq in [2, 7] {
        assert_eq!(twin.archive.get(&id(seq)), Err(Error::Missing(id(seq))), "it is given to nobody");
    }
    assert_eq!(twin.scrub(ALL), (10, vec![]), "what is known to be lost is not found again");
    assert_eq!(twin.archive.put_groups(&[group(2), group(7)]), Ok(2));
    assert_eq!((twin.scrub(ALL), twin.lost()), ((10, vec![]), vec![]));
    assert_eq!(twin.archive.get(&id(7)), Ok(group(7)));
}

#[test]
fn bytes_that_are_good_again_come_back_by_themselves() {
    let twin = Twin::new();
    twin.change(4, b"what a bad cable gives");
    assert_eq!(twin.scrub(ALL).1, [bad(4)]);
    assert_eq!(twin.lost(), [4]);
    twin.change(4, group(4).bytes());
    assert_eq!((twin.scrub(ALL), twin.lost()), ((10, vec![]), vec![]));
}

#[test]
fn what_nobody_signed_and_does_not_fit_its_address_stays_lost() {
    let twin = Twin::new();
    twin.archive.put_groups(&[group(10), group(11)]).unwrap();
    let mut other = group(10).bytes().to_vec();
    *other.last_mut().unwrap() ^= 1;
    twin.change(10, &other);
    assert_eq!(twin.scrub(ALL), (12, vec![bad(10)]));
    for round in 0..2 {
        assert_eq!((twin.scrub(ALL).1, twin.lost()), (vec![], vec![10]), "round {round}");
        assert_eq!(twin.archive.get(&id(10)), Err(Error::Missing(id(10))));
    }
    twin.media.damage(Column::Addresses, &schema::group_key(&id(11)));
    twin.scrub(ALL);
    assert_eq!((twin.lost(), twin.archive.get(&id(11))), (vec![10], Ok(group(11))), "its address could not be read");
}

#[test]
fn a_group_whose_address_or_page_cannot_be_read_is_listed_anew_from_its_own_bytes() {
    let twin = Twin::new();
    twin.media.damage(Column::Addresses, &schema::group_key(&id(3)));
    assert_eq!(twin.archive.get(&id(3)), Err(Error::Damaged(id(3))));
    assert_eq!(twin.scrub(ALL), (10, vec![]), "its bytes are what was signed");
    assert_eq!(twin.archive.get(&id(3)), Ok(group(3)));

    twin.media.damage(Column::Have, &schema::page_key(&head().id, track(), 0));
    let faults = twin.scrub(ALL).1;
    assert!(matches!(&faults[..], [Fault::Table { .. }, ..]), "{faults:?}");
    twin.media.damage(Column::Have, &schema::page_key(&head().id, track(), 0));
    twin.media.damage(Column::Groups, &schema::group_key(&id(9)));
    assert!(twin.scrub(ALL).1.contains(&bad(9)));
    assert_eq!(twin.lost(), [9], "the page was written anew without it");
}

#[test]
fn a_damaged_or_exchanged_record_of_the_truth_is_found() {
    let journal_key = schema::journal_key(&head().id, 1);
    let change = |twin: &Twin, column, key: &[u8]| {
        let mut batch = Batch::new();
        batch.put(column, key, &b"rot"[..]);
        twin.meta.write(batch, Durability::Synced).unwrap();
    };
    let found = |twin: &Twin| match &twin.scrub(ALL).1[..] {
        [Fault::Truth { what }] => what.clone(),
        other => panic!("{other:?}"),
    };
    let twin = Twin::new();
    change(&twin, Column::Journal, &journal_key);
    assert!(found(&twin).starts_with("journal of session"), "{}", found(&twin));
    let twin = Twin::new();
    change(&twin, Column::Segments, &schema::segment_key(&head().id, track().point(), 0));
    assert!(found(&twin).starts_with("segments of point 3"), "{}", found(&twin));
    let twin = Twin::new();
    change(&twin, Column::Manifests, &schema::manifest_key(&head().id, 0));
    assert!(found(&twin).starts_with("manifests of session"), "{}", found(&twin));
    let twin = Twin::new();
    twin.meta.damage(Column::Journal, &journal_key);
    assert!(twin.scrub(ALL).1.iter().any(|fault| matches!(fault, Fault::Truth { what } if what.contains("jnl"))));
}
