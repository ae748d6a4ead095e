//! What holds of a chain of segments, and its first version, which is read for ever.

use super::*;
use crate::{
    id::TrackKind,
    keys::SessionKey,
    record::{Flags, Writer},
    seal::{Sealer, Start, Suite},
};

fn key() -> NodeKey {
    NodeKey::from_bytes(&[5; 32])
}

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn point() -> PointNumber {
    PointNumber::new(3).unwrap()
}

fn track(kind: TrackKind) -> TrackId {
    TrackId::new(point(), kind)
}

fn session_key(epoch: Epoch) -> SessionKey {
    SessionKey::from_bytes(&[7 + epoch; 32])
}

fn opener() -> Opener {
    let mut opener = Opener::new(session());
    [0, 1].into_iter().for_each(|epoch| opener.insert(epoch, session_key(epoch)));
    opener
}

fn record(track: TrackId, seq: u64, epoch: Epoch) -> Record {
    let start = Start::from_bits(seq);
    let sealer = Sealer::new(&session_key(epoch), Suite::default(), session(), key().id(), track, epoch, start);
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, b"pictures").unwrap();
    writer.frame(1_900_000, Flags::default(), &seq.to_be_bytes()).unwrap();
    writer.finish().record
}

fn list(segment: &mut Segment, kind: TrackKind, seq: u64, epoch: Epoch) {
    let group = Group::of(&record(track(kind), seq, epoch), &opener()).unwrap();
    segment.list(track(kind), group, session_key(epoch).commitment());
}

/// A chain in which everything happens once.
fn segments() -> Vec<Signed<Segment>> {
    let mut chain = Chain::new(session(), point(), key().id());
    let mut first = chain.begin(1_700_000_030_000);
    (0..3).for_each(|seq| list(&mut first, TrackKind::Audio, seq, 0));
    (0..2).for_each(|seq| list(&mut first, TrackKind::Main, seq, 0));
    let mut signed = vec![chain.append(&key(), first).unwrap()];
    let mut second = chain.begin(1_700_000_060_000);
    list(&mut second, TrackKind::Audio, 3, 0);
    list(&mut second, TrackKind::Audio, 4, 1);
    second.miss(track(TrackKind::Main), 2, Absence::Damaged);
    second.miss(track(TrackKind::Main), 7, Absence::NotStored);
    list(&mut second, TrackKind::Main, 8, 1);
    second.miss(track(TrackKind::Main), 9, Absence::Lost);
    signed.push(chain.append(&key(), second).unwrap());
    signed.push(chain.append(&key(), chain.begin(1_700_000_090_000)).unwrap());
    let last = Segment { last: true, ..chain.begin(1_700_000_099_000) };
    signed.push(chain.append(&key(), last).unwrap());
    signed
}

fn stored() -> Vec<Bytes> {
    segments().iter().map(|segment| segment.bytes().clone()).collect()
}

fn verify(segments: &[Bytes]) -> Result<Chain, Error> {
    Chain::verify(session(), point(), key().id(), segments.iter().cloned())
}

/// Written by the first version; must be readable for ever.
const VERSION_1: &str = include_str!("../../tests/vectors/segment-v1.hex");

#[test]
fn the_first_version_is_read_for_ever() {
    let kept: Vec<Bytes> = VERSION_1.lines().map(|line| hex::decode(line).unwrap().into()).collect();
    assert_eq!(verify(&kept).unwrap().len(), 4);
    let read: Vec<Signed<Segment>> = kept.into_iter().map(|bytes| Signed::parse(bytes).unwrap()).collect();
    assert_eq!(read, segments());
}

#[test]
fn a_whole_chain_is_verified_and_its_end_is_in_its_last_segment() {
    let chain = verify(&stored()).unwrap();
    assert!(chain.is_closed() && chain.len() == 4);
    assert_eq!((chain.next_of(track(TrackKind::Audio)), chain.next_of(track(TrackKind::Main))), (5, 10));
    for n in 1..=stored().len() {
        assert_eq!(verify(&stored()[..n]).unwrap(), Chain::after(&segments()[n - 1]));
    }
}

#[test]
fn a_changed_a_dropped_a_doubled_and_a_swapped_segment_are_found() {
    for n in 0..stored().len() {
        for at in 0..stored()[n].len() {
            let mut segments = stored();
            let mut bytes = segments[n].to_vec();
            bytes[at] ^= 1;
            segments[n] = bytes.into();
            let error = verify(&segments).unwrap_err();
            assert!(matches!(error, Error::Segment { n: found, .. } if found == n as u32), "{n}, {at}: {error}");
        }
    }
    for n in 0..stored().len() as u32 - 1 {
        let at = n as usize;
        let mut dropped = stored();
        dropped.remove(at);
        assert_eq!(verify(&dropped), Err(Error::Number { point: point(), n, found: n + 1 }));
        let mut doubled = stored();
        doubled.insert(at, doubled[at].clone());
        assert_eq!(verify(&doubled), Err(Error::Number { point: point(), n: n + 1, found: n }));
        let mut swapped = stored();
        swapped.swap(at, at + 1);
        assert!(verify(&swapped).is_err());
    }
}

#[test]
fn the_point_itself_cannot_leave_out_a_group_or_go_on_after_its_end() {
    let chain = Chain::after(&segments()[0]);
    let follow = |change: fn(&mut Segment)| {
        let mut segment = segments()[1].content().clone();
        change(&mut segment);
        chain.follows(&segment).unwrap_err().to_string()
    };
    let leap = |what: &str| format!("segment 1 of point 3 does not go on where the one before it ends ({what})");
    assert_eq!(follow(|s| s.tracks[0].from += 1), leap("groups are left out or twice"));
    assert_eq!(follow(|s| drop(s.tracks.remove(0))), leap("a track is left out"));
    assert_eq!(follow(|s| s.from_us += 1), leap("in time"));
    assert_eq!(follow(|s| s.prev = Hash::NONE), "segment 1 of point 3 does not follow the one before it");
    let closed = Chain::after(&segments()[3]);
    let more = closed.begin(0);
    assert_eq!(closed.follows(&more), Err(Error::AfterLast { point: point(), n: 4 }));
}

#[test]
fn a_segment_that_contradicts_itself_is_refused() {
    let check = |change: fn(&mut Segment), expected: &str| {
        let mut segment = segments()[1].content().clone();
        change(&mut segment);
        let error = Signed::sound(segment.clone(), &key()).unwrap_err().to_string();
        assert_eq!(error, format!("the signed record has {expected}"));
        let forged = Signed::new(segment, &key());
        assert!(Signed::<Segment>::parse(forged.bytes().clone()).is_err(), "{expected}");
    };
    check(|s| s.tracks.swap(0, 1), "track 3-audio out of order or twice");
    check(|s| s.point = PointNumber::new(4).unwrap(), "track 3-audio, which is another point's");
    check(|s| s.tracks[0].groups.truncate(1), "track 3-audio with an end that does not fit its groups");
    check(|s| s.tracks[0].next += 1, "track 3-audio with an end that does not fit its groups");
    check(|s| s.tracks[1].gaps[1].to = 4, "track 3-main with a number left out or twice");
    check(|s| s.tracks[1].gaps[2].to = u64::MAX, "track 3-main with a number left out or twice");
    check(|s| s.tracks[0].groups[0].frames = u32::MAX, "track 3-audio with a group above the limits");
    check(|s| s.to_us = s.from_us, "a group that goes on longer than it speaks of");
    check(|s| s.from_us = s.to_us + 1, "an end before its beginning, or beyond all time");
    check(|s| s.keys.truncate(1), "other keys than its groups are sealed with");
}

#[test]
fn a_segment_has_room_for_what_is_allowed_and_is_never_longer() {
    let chain = Chain::new(session(), point(), key().id());
    let mut full = chain.begin(u64::MAX);
    for seq in 0..(ENTRIES_MAX / 2) as u64 {
        let at = T0_MAX - 10_000_000;
        let sample = Group::of(&record(track(TrackKind::Main), 0, 0), &opener()).unwrap();
        let seq = SEQ_MAX - ENTRIES_MAX as u64 + 2 * seq;
        let group = Group { seq, t0_us: at, len: 1 << 23, frames: 4_000, ..sample };
        full.miss(track(TrackKind::Main), seq - 1, Absence::NotStored);
        full.list(track(TrackKind::Main), group, Hash::NONE);
    }
    assert!(full.is_full());
    let signed = Signed::sound(full.clone(), &key()).unwrap();
    assert!(signed.bytes().len() * 4 / 3 < Segment::LEN_MAX, "{}", signed.bytes().len());
    full.miss(track(TrackKind::Main), SEQ_MAX, Absence::NotStored);
    assert!(Signed::sound(full, &key()).is_err());
}

#[test]
fn what_was_said_in_another_group_or_under_another_key_has_another_mac() {
    let of = |seq, epoch| Group::of(&record(track(TrackKind::Main), seq, epoch), &opener()).unwrap().mac;
    assert_eq!(of(1, 0), of(1, 0));
    assert_ne!(of(1, 0), of(2, 0));
    assert_ne!(of(1, 0), of(1, 1));
    let mut other = Opener::new(session());
    other.insert(0, session_key(1));
    assert!(Group::of(&record(track(TrackKind::Main), 1, 0), &other).is_err());
}

#[test]
fn what_a_segment_says_of_a_group_is_compared_with_its_bytes() {
    let record = record(track(TrackKind::Main), 1, 0);
    let group = Group::of(&record, &opener()).unwrap();
    assert_eq!(group.contradicts(&record), None);
    assert_eq!(Group { frames: 3, ..group.clone() }.contradicts(&record), Some("another number of frames"));
    assert_eq!(Group { hash: Hash::NONE, ..group }.contradicts(&record), Some("another address"));
}
