//! What is copied out of a damaged database, on the twin whose values can be damaged. Real files are in
//! `store/tests/damage.rs`.

use super::*;
use crate::{
    db::memory::Memory,
    id::{NodeId, PointNumber},
    keys::SessionKey,
    record::{Flags, Writer},
    seal::{Sealer, Start, Suite},
    session::{Head, Member, Period, State},
};

const GROUPS: u64 = 10;

fn node() -> NodeId {
    NodeId::from_bytes([1; 32])
}

fn older() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [1; 10])
}

fn newer() -> SessionId {
    SessionId::from_parts(1_800_000_000_000, [1; 10])
}

fn track() -> TrackId {
    TrackId::new(PointNumber::new(3).unwrap(), TrackKind::Main)
}

fn id(session: SessionId, seq: u64) -> GroupId {
    GroupId { session, track: track(), seq }
}

fn group(session: SessionId, seq: u64) -> Record {
    let key = SessionKey::from_bytes(&[7; 32]);
    let sealer = Sealer::new(&key, Suite::default(), session, node(), track(), 0, Start::from_bits(seq));
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, &[seq as u8; 1_000]).unwrap();
    writer.finish().record
}

fn head(id: SessionId, state: State) -> Head {
    let member = Member { number: track().point(), node: node(), name: "Trung tâm".into() };
    Head {
        id,
        title: "Định kỳ".into(),
        state,
        central: node(),
        points: vec![member],
        epochs: vec![Period::first(Hash::NONE)],
        suite: Suite::default(),
        started_unix_ms: id.unix_ms(),
        ended_unix_ms: (state == State::Ended).then_some(id.unix_ms() + 1),
    }
}

/// A session that ended, and one that ran when the power went: nobody has counted or signed its groups.
struct Twin {
    meta: Arc<Memory>,
    media: Arc<Memory>,
}

impl Twin {
    fn new() -> Self {
        let (meta, media): (Arc<Memory>, Arc<Memory>) = (Arc::default(), Arc::default());
        let archive = Archive::over(meta.clone(), media.clone()).unwrap();
        for (session, state) in [(older(), State::Ended), (newer(), State::Open)] {
            archive.put_groups(&(0..GROUPS).map(|seq| group(session, seq)).collect::<Vec<_>>()).unwrap();
            archive.put_head(&head(session, state)).unwrap();
        }
        assert!(archive.kept(&newer()).unwrap().is_empty(), "they were not counted yet");
        Twin { meta, media }
    }

    /// Builds `media` anew, and opens the archive with it.
    fn rebuild(&self) -> Archive {
        let new = Arc::new(Memory::new());
        build(&Archive::reading(self.meta.clone(), self.media.clone()), &*new).unwrap();
        Archive::over(self.meta.clone(), new).unwrap()
    }
}

/// The groups of a session that are there, byte for byte, and those that are known to be lost.
fn found(archive: &Archive, session: SessionId) -> (Vec<u64>, Vec<u64>) {
    let whole = |seq: &u64| archive.get(&id(session, *seq)).is_ok_and(|record| record == group(session, *seq));
    let lost = archive.lost(&session).unwrap().remove(&track()).unwrap_or_default();
    ((0..GROUPS).filter(whole).collect(), lost.runs().flatten().collect())
}

fn all() -> Vec<u64> {
    (0..GROUPS).collect()
}

#[test]
fn a_bad_block_of_an_old_session_does_not_cost_what_was_recorded_when_the_power_went() {
    let twin = Twin::new();
    twin.media.damage(Column::Addresses, &schema::group_key(&id(older(), 0)));
    let archive = twin.rebuild();
    assert_eq!(found(&archive, newer()), (all(), vec![]));
    assert_eq!(found(&archive, older()), (all(), vec![]));
}

#[test]
fn bad_blocks_of_the_session_that_ran_cost_nothing_that_can_be_read() {
    let twin = Twin::new();
    twin.media.damage(Column::Addresses, &schema::group_key(&id(newer(), 0)));
    assert_eq!(found(&twin.rebuild(), newer()), (all(), vec![]), "the inventory knows them");
    twin.media.damage(Column::Have, &schema::page_key(&newer(), track(), 0));
    assert_eq!(found(&twin.rebuild(), newer()), (all(), vec![]), "any number of its page may be one");
}

#[test]
fn groups_of_a_session_whose_head_cannot_be_read_are_copied() {
    let twin = Twin::new();
    let mut rot = Batch::new();
    rot.put(Column::Sessions, newer().as_bytes(), &b"rot"[..]);
    twin.meta.write(rot, Durability::Synced).unwrap();
    twin.media.damage(Column::Addresses, &schema::group_key(&id(older(), 0)));
    twin.media.damage(Column::Addresses, &schema::group_key(&id(newer(), 4)));
    assert_eq!(found(&twin.rebuild(), newer()), (all(), vec![]));
}

#[test]
fn what_cannot_be_copied_is_lost_by_name() {
    let twin = Twin::new();
    twin.media.damage(Column::Addresses, &schema::group_key(&id(newer(), 0)));
    twin.media.damage(Column::Groups, &schema::group_key(&id(newer(), 3)));
    let archive = twin.rebuild();
    assert_eq!(found(&archive, newer()), (vec![0, 1, 2, 4, 5, 6, 7, 8, 9], vec![3]));
    assert_eq!(archive.put_groups(&[group(newer(), 3)]), Ok(1));
    assert_eq!(found(&archive, newer()), (all(), vec![]));
}

#[test]
fn a_disk_that_does_not_keep_up_for_a_while_costs_no_more_than_that() {
    let twin = Twin::new();
    let old = Archive::reading(twin.meta.clone(), twin.media.clone());
    let new = Memory::new();
    new.stall(TRIES - 1);
    assert_eq!(build(&old, &new), Ok(2 * GROUPS));
    new.stall(TRIES);
    assert_eq!(build(&old, &new), Err(Error::Storage(db::Error::Stalled)), "it does not wait for ever");
}

#[test]
fn room_for_all_of_it_and_to_go_on_writing_is_asked_for_before_anything_is_copied() {
    assert!(is_enough(1_000 + rocks::FREE_MIN, 1_000));
    assert!(!is_enough(999 + rocks::FREE_MIN, 1_000));
    assert!(!is_enough(u64::MAX - 1, u64::MAX));
}
