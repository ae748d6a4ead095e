//! What holds of segments in an archive, on the twin that crashes.

use std::sync::Arc;

use super::*;
use crate::{
    db::memory::Memory,
    id::TrackKind,
    record::{Flags, Record, Writer},
    seal::{Sealer, Start, Suite},
    segment,
};

fn key() -> NodeKey {
    NodeKey::from_bytes(&[1; 32])
}

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [1; 10])
}

fn point() -> PointNumber {
    PointNumber::new(3).unwrap()
}

fn track(kind: TrackKind) -> TrackId {
    TrackId::new(point(), kind)
}

fn keys() -> BTreeMap<Epoch, SessionKey> {
    BTreeMap::from([(0, SessionKey::from_bytes(&[7; 32]))])
}

fn group(kind: TrackKind, seq: u64) -> Record {
    let start = Start::from_bits(seq);
    let sealer = Sealer::new(&keys()[&0], Suite::default(), session(), key().id(), track(kind), 0, start);
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, &seq.to_be_bytes()).unwrap();
    writer.finish().record
}

struct Twin {
    archive: Archive,
    meta: Arc<Memory>,
    media: Arc<Memory>,
}

impl Twin {
    fn new() -> Self {
        Self::over(Arc::default(), Arc::default())
    }

    fn over(meta: Arc<Memory>, media: Arc<Memory>) -> Self {
        Twin { archive: Archive::over(meta.clone(), media.clone()).unwrap(), meta, media }
    }

    fn put(&self, kind: TrackKind, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            self.archive.put_groups(&[group(kind, seq)]).unwrap();
        }
    }

    fn gather(&self, over: bool) -> Option<Segment> {
        let tracks = [track(TrackKind::Audio), track(TrackKind::Main)];
        let by = Signing { session: session(), point: point(), node: key().id(), tracks: &tracks, keys: &keys() };
        self.archive.gather_segment(&by, 1_700_000_000_000, over).unwrap()
    }

    fn sign(&self, over: bool) -> Signed<Segment> {
        self.archive.sign_segment(&key(), self.gather(over).unwrap()).unwrap()
    }

    fn chain(&self) -> Chain {
        let segments = self.archive.segments(&session(), point(), 0, usize::MAX).unwrap();
        Chain::verify(session(), point(), key().id(), segments).unwrap()
    }
}

#[test]
fn every_group_is_signed_once_and_what_is_not_there_is_a_gap() {
    let twin = Twin::new();
    assert_eq!(twin.gather(false), None);
    twin.put(TrackKind::Audio, [0, 1, 2]);
    twin.put(TrackKind::Main, [0, 1]);
    assert_eq!(twin.sign(false).content().entries(), 5);
    assert_eq!(twin.gather(false), None, "nothing new");
    twin.put(TrackKind::Main, [2, 6]);
    let second = twin.sign(false);
    let gaps: Vec<_> = second.content().gaps().map(|(_, gap)| (gap.from, gap.to, gap.reason)).collect();
    assert_eq!(gaps, [(3, 5, Absence::NotStored)]);
    assert!(twin.sign(true).content().last);
    assert_eq!(twin.gather(true), None, "a closed chain stays closed");
    assert_eq!(twin.chain(), twin.archive.segment_chain(&session(), point(), key().id()).unwrap());
}

#[test]
fn more_than_one_segment_holds_goes_into_the_next_ones() {
    let twin = Twin::new();
    twin.put(TrackKind::Main, 0..300);
    let (first, second) = (twin.sign(true), twin.sign(true));
    assert_eq!((first.content().entries(), first.content().last), (ENTRIES_MAX, false));
    assert_eq!((second.content().entries(), second.content().last), (300 - ENTRIES_MAX, true));
    assert_eq!(twin.chain().next_of(track(TrackKind::Main)), 300);
}

#[test]
fn what_a_crash_left_unsigned_is_signed_afterwards_and_no_number_twice() {
    let twin = Twin::new();
    twin.put(TrackKind::Main, [0, 1]);
    let gathered = twin.gather(false).unwrap();
    let first = twin.archive.sign_segment(&key(), gathered.clone()).unwrap();
    twin.put(TrackKind::Main, [2]);
    [&twin.meta, &twin.media].iter().for_each(|db| db.crash(0));
    let twin = Twin::over(twin.meta.clone(), twin.media.clone());
    assert_eq!(twin.archive.segments(&session(), point(), 0, 9).unwrap(), [first.bytes().clone()]);
    let late = Segment { wall_ms: 9, ..gathered };
    let refused = twin.archive.sign_segment(&key(), late).unwrap_err();
    assert!(matches!(refused, Error::Segment(segment::Error::Number { n: 1, found: 0, .. })), "{refused}");
    assert_eq!(twin.sign(false).content().n, 1);
    assert_eq!(twin.chain().next_of(track(TrackKind::Main)), 3);
}

#[test]
fn another_point_takes_a_chain_in_order_and_once() {
    let (origin, central) = (Twin::new(), Twin::new());
    origin.put(TrackKind::Main, [0, 1]);
    let first = origin.sign(false);
    let second = origin.sign(true);
    let take = |segment: &Signed<Segment>| central.archive.append_segment(key().id(), segment);
    assert!(matches!(take(&second), Err(Error::Segment(segment::Error::Number { n: 0, found: 1, .. }))));
    assert_eq!((take(&first), take(&first)), (Ok(()), Ok(())));
    let other = Signed::new(Segment { wall_ms: 5, ..first.content().clone() }, &key());
    assert_eq!(take(&other), Err(Error::Forked { session: session(), point: point(), n: 0 }));
    let stranger = Signed::new(second.content().clone(), &NodeKey::from_bytes(&[2; 32]));
    assert!(matches!(take(&stranger), Err(Error::Segment(segment::Error::Signer { .. }))));
    assert_eq!(take(&second), Ok(()));
    assert_eq!(central.chain(), origin.chain());
}

#[test]
fn the_end_of_a_chain_is_read_without_what_comes_before_it() {
    let twin = Twin::new();
    for seq in 0..3 {
        twin.put(TrackKind::Main, [seq]);
        twin.sign(false);
    }
    twin.meta.damage(Column::Segments, &schema::segment_key(&session(), point(), 1));
    assert_eq!(twin.archive.segment_chain(&session(), point(), key().id()).unwrap().len(), 3);
    assert!(twin.archive.segments(&session(), point(), 0, usize::MAX).is_err(), "while all of it cannot be read");
}

#[test]
fn a_group_that_is_not_what_its_point_signed_is_disputed() {
    let (origin, central) = (Twin::new(), Twin::new());
    origin.put(TrackKind::Main, [0, 1]);
    central.put(TrackKind::Main, [0]);
    let mut segment = origin.sign(false).content().clone();
    assert_eq!(central.archive.disputed(&segment), Ok(vec![]));
    segment.tracks[0].groups[0].hash = Hash::NONE;
    let id = GroupId { session: session(), track: track(TrackKind::Main), seq: 0 };
    assert_eq!(central.archive.disputed(&segment), Ok(vec![id]));
}

#[test]
fn without_the_key_nothing_is_signed() {
    let twin = Twin::new();
    twin.put(TrackKind::Main, [0]);
    let tracks = [track(TrackKind::Main)];
    let keys = BTreeMap::new();
    let by = Signing { session: session(), point: point(), node: key().id(), tracks: &tracks, keys: &keys };
    assert!(matches!(twin.archive.gather_segment(&by, 0, true), Err(Error::Unsealed(_))));
}

#[test]
fn what_is_stored_while_a_segment_is_gathered_is_not_said_to_be_lost() {
    const GROUPS: u64 = 3_000;
    let twin = Twin::new();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| twin.put(TrackKind::Main, 0..GROUPS));
        while !writing.is_finished() {
            let Some(segment) = twin.gather(false) else { continue };
            let gaps = segment.tracks.iter().map(|listed| listed.gaps.len()).sum::<usize>();
            assert_eq!(gaps, 0, "{segment:?}");
            twin.archive.sign_segment(&key(), segment).unwrap();
        }
    });
}

#[test]
fn a_bad_block_in_a_list_keeps_nothing_from_being_signed_that_can_be_read() {
    let twin = Twin::new();
    twin.put(TrackKind::Main, 0..6);
    let key = |seq| schema::group_key(&GroupId { session: session(), track: track(TrackKind::Main), seq });
    twin.media.damage(Column::Addresses, &key(1));
    twin.media.damage(Column::Addresses, &key(4));
    twin.media.damage(Column::Groups, &key(4));
    let segment = twin.sign(true);
    let listed: Vec<_> = segment.content().groups().map(|(_, group)| (group.seq, group.hash)).collect();
    let expected = [0, 1, 2, 3, 5].map(|seq| (seq, group(TrackKind::Main, seq).hash()));
    assert_eq!(listed, expected, "the key shows that the bytes of 1 are what was sealed");
    let gaps: Vec<_> = segment.content().gaps().map(|(_, gap)| (gap.from, gap.to, gap.reason)).collect();
    assert_eq!(gaps, [(4, 4, Absence::Damaged)]);
}
