//! What holds of groups: one layout for ever, nothing moved, nothing lost unnoticed, no limit passed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    id::{PointNumber, TrackKind},
    keys::{NodeKey, SessionKey},
    seal::{self, GroupOpener, Opener, Sealer, Start},
};

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn track(point: u16, kind: TrackKind) -> TrackId {
    TrackId::new(PointNumber::new(point).unwrap(), kind)
}

fn session_key() -> SessionKey {
    SessionKey::from_bytes(&[7; 32])
}

fn sealer_of(suite: Suite, track: TrackId, start: Start) -> Sealer {
    let point = NodeKey::from_bytes(&[1; 32]).id();
    Sealer::new(&session_key(), suite, session(), point, track, 2, start)
}

fn sealer() -> Sealer {
    sealer_of(Suite::Aes128GcmSha256, track(3, TrackKind::Main), Start::from_bits(0x1234567890))
}

fn opener() -> Opener {
    let mut opener = Opener::new(session());
    opener.insert(2, session_key());
    opener
}

/// A keyframe, a frame, and a discardable one, longer than 63 bytes so that lengths need two bytes.
const FRAMES: [(u64, Flags, &[u8]); 3] = [
    (0, Flags { key: true, discardable: false }, &[0x11; 70]),
    (33_333, Flags { key: false, discardable: false }, b"frame"),
    (66_666, Flags { key: false, discardable: true }, b""),
];

/// The stream of a group and what it must read as.
fn group(sealer: Sealer, seq: u64, frames: &[(u64, Flags, &[u8])]) -> (Vec<u8>, Finished) {
    let (mut writer, header) = Writer::new(sealer, seq, 2_000_000 * seq);
    let mut stream = header.to_vec();
    for (dt, flags, plaintext) in frames {
        stream.extend_from_slice(&writer.frame(*dt, *flags, plaintext).unwrap());
    }
    let finished = writer.finish();
    stream.extend_from_slice(&finished.end.encode());
    (stream, finished)
}

/// All items of a stream that comes in pieces which end at these places.
fn read(stream: &[u8], ends: &[usize]) -> (Reader, Result<Vec<Item>, Error>) {
    let mut reader = Reader::new();
    let mut items = Vec::new();
    let mut from = 0;
    for end in ends.iter().copied().chain([stream.len()]) {
        reader.push(&stream[from..end]);
        from = end;
        loop {
            match reader.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (reader, Err(error)),
            }
        }
    }
    (reader, Ok(items))
}

/// Written by the first version of this layout, one line a suite; must be readable for ever.
const VERSION_1: &str = include_str!("../../tests/vectors/group-v1.hex");

#[test]
fn the_first_version_is_read_for_ever() {
    let suites = [Suite::Aes128GcmSha256, Suite::Aes256GcmSha512];
    assert_eq!(VERSION_1.lines().count(), suites.len());
    for (suite, line) in suites.into_iter().zip(VERSION_1.lines()) {
        let sealer = sealer_of(suite, track(3, TrackKind::Main), Start::from_bits(0x1234567890));
        let (stream, finished) = group(sealer, 5, &FRAMES);
        assert_eq!(hex::encode(&stream), line, "{suite:?}");
        let (reader, items) = read(&hex::decode(line).unwrap(), &[]);
        assert_eq!(items.unwrap().len(), 5);
        assert_eq!(reader.into_record().unwrap(), finished.record);
        let plain: Vec<_> = opened(&finished.record);
        assert_eq!(plain, FRAMES.map(|frame| frame.2.to_vec()));
    }
}

fn opened(record: &Record) -> Vec<Vec<u8>> {
    let opener = opener().group(record.header()).unwrap();
    record.frames().map(|frame| opener.open(&frame).unwrap().to_vec()).collect()
}

#[test]
fn what_travels_is_what_is_stored_is_what_is_hashed() {
    let (stream, finished) = group(sealer(), 5, &FRAMES);
    let stored = &stream[..stream.len() - End::LEN];
    assert_eq!(finished.record.bytes(), stored);
    assert_eq!(finished.record.hash(), Hash::of(stored));
    assert_eq!(Record::parse(Bytes::copy_from_slice(stored)), Ok(finished.record.clone()));
    let frames: Vec<u8> = finished.record.frames().flat_map(|frame| frame.bytes().to_vec()).collect();
    assert_eq!(frames, stored[Header::LEN..]);
}

#[test]
fn the_clear_fields_are_read_without_keys() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    assert_eq!(finished.record.id(), GroupId { session: session(), track: track(3, TrackKind::Main), seq: 5 });
    assert_eq!(finished.record.header().t0, 10_000_000);
    let read: Vec<_> = finished.record.frames().map(|frame| (frame.index, frame.dt, frame.flags)).collect();
    assert_eq!(read, [0, 1, 2].map(|n| (n as u32, FRAMES[n].0, FRAMES[n].1)));
}

#[test]
fn the_counter_runs_on_from_group_to_group() {
    let (_, first) = group(sealer(), 0, &FRAMES);
    let (_, second) = group(first.sealer, 1, &FRAMES);
    assert_eq!(first.record.header().first_ctr, 0);
    assert_eq!(second.record.header().first_ctr, 3);
    assert_eq!(second.record.header().kid, first.record.header().kid);
}

#[test]
fn a_restart_never_repeats_a_key_id_and_counter() {
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let mut sealer = sealer_of(Suite::Aes128GcmSha256, track(3, TrackKind::Main), Start::random());
        for seq in 0..2 {
            let (_, finished) = group(sealer, seq, &FRAMES);
            let header = finished.record.header();
            for index in 0..u64::from(finished.record.frame_count()) {
                assert!(seen.insert((header.kid, header.first_ctr + index)));
            }
            sealer = finished.sealer;
        }
    }
}

#[test]
fn a_frame_opens_only_where_it_was_sealed() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    let header = finished.record.header();
    let frames: Vec<_> = finished.record.frames().collect();
    let refused = |group: GroupOpener, frame: &SealedFrame| {
        assert!(matches!(group.open(frame), Err(seal::Error::Frame { .. })), "{:?} {frame:?}", group.header());
    };

    let moved_track = track(3, TrackKind::Audio);
    for moved in [
        Header { seq: 6, ..header.clone() },
        Header { t0: 1, ..header.clone() },
        Header { point: NodeId::from_bytes([0; 32]), ..header.clone() },
        Header { track: moved_track, ..header.clone() },
        Header { kid: KeyId::new(header.track, 2, Start::from_bits(1)), ..header.clone() },
        Header { first_ctr: 1, ..header.clone() },
        Header { suite: Suite::Aes256GcmSha512, ..header.clone() },
    ] {
        refused(opener().group(&moved).unwrap(), &frames[0]);
    }
    // The same key and counter in another session, for a holder of that session's equal key.
    let other = SessionId::from_bytes([1; 16]);
    let mut elsewhere = Opener::new(other);
    elsewhere.insert(2, session_key());
    refused(elsewhere.group(&Header { session: other, ..header.clone() }).unwrap(), &frames[0]);

    let here = || opener().group(header).unwrap();
    refused(here(), &SealedFrame { index: 1, ..frames[0].clone() });
    refused(here(), &SealedFrame { dt: 1, ..frames[0].clone() });
    refused(here(), &SealedFrame { flags: Flags::default(), ..frames[0].clone() });
    assert_eq!(here().open(&frames[0]).unwrap(), FRAMES[0].2);
}

#[test]
fn groups_of_other_sessions_and_unknown_epochs_are_named() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    let header = finished.record.header();
    let stranger = Opener::new(SessionId::from_bytes([1; 16]));
    assert_eq!(stranger.group(header).unwrap_err(), seal::Error::Session(header.id()));
    let keyless = Opener::new(session());
    assert_eq!(keyless.group(header).unwrap_err(), seal::Error::Key { group: header.id(), epoch: 2 });
    let mut wrong = Opener::new(session());
    wrong.insert(2, SessionKey::from_bytes(&[8; 32]));
    let frame = finished.record.frames().next().unwrap();
    assert!(wrong.group(header).unwrap().open(&frame).is_err());
}

#[test]
fn every_changed_byte_of_a_stream_is_caught() {
    let (stream, _) = group(sealer(), 5, &FRAMES);
    for at in 0..stream.len() {
        for bit in 0..8 {
            let mut changed = stream.clone();
            changed[at] ^= 1 << bit;
            let (reader, items) = read(&changed, &[]);
            assert!(items.is_err() || reader.into_record().is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_changed_byte_of_a_record_changes_its_address_or_is_refused() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    for at in 0..finished.record.bytes().len() {
        let mut changed = finished.record.bytes().to_vec();
        changed[at] ^= 1;
        if let Ok(record) = Record::parse(changed.into()) {
            assert_ne!(record.hash(), finished.record.hash(), "byte {at}");
        }
    }
}

#[test]
fn a_frame_left_out_doubled_or_swapped_is_found_without_keys() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    let header = finished.record.header().encode();
    let frames: Vec<_> = finished.record.frames().map(|frame| frame.bytes().to_vec()).collect();
    let parse = |order: &[usize]| {
        let parts = order.iter().flat_map(|n| frames[*n].clone());
        Record::parse(header.iter().copied().chain(parts).collect())
    };
    assert!(parse(&[0, 1, 2]).is_ok());
    assert!(parse(&[0, 1]).is_ok(), "a tail cut between frames is a shorter group with another address");
    for (order, place) in [(&[0, 2][..], 1), (&[1, 2], 0), (&[0, 0, 1, 2], 1), (&[0, 2, 1], 1)] {
        assert!(matches!(parse(order), Err(Error::Frame { index, .. }) if index == place), "{order:?}");
    }
}

#[test]
fn the_end_must_fit_what_came_before_it() {
    let (stream, finished) = group(sealer(), 5, &FRAMES);
    let body = &stream[..stream.len() - End::LEN];
    let end = finished.end;
    let check = |end: End, expected: Error| {
        let (reader, items) = read(&[body, &end.encode()].concat(), &[]);
        assert_eq!(items, Err(expected.clone()));
        assert_eq!(reader.into_record(), Err(expected));
    };
    check(End { frames: 4, ..end }, Error::End("number of frames"));
    check(End { length: end.length + 1, ..end }, Error::End("length"));
    check(End { hash: Hash::NONE, ..end }, Error::End("hash"));
    let (_, items) = read(&[&stream[..], &[0]].concat(), &[]);
    assert_eq!(items, Err(Error::Trailing));
}

#[test]
fn half_a_group_never_becomes_a_record() {
    let (stream, _) = group(sealer(), 5, &FRAMES);
    for len in 0..stream.len() {
        let (reader, items) = read(&stream[..len], &[]);
        assert!(items.is_ok());
        assert!(matches!(reader.into_record(), Err(Error::Short { .. })), "{len} bytes");
    }
}

#[test]
fn a_header_that_no_sender_writes_is_refused() {
    let (_, finished) = group(sealer(), 5, &FRAMES);
    let header = finished.record.header();
    let check = |change: fn(&mut [u8; Header::LEN]), expected: Error| {
        let mut bytes = header.encode();
        change(&mut bytes);
        assert_eq!(Header::decode(&bytes), Err(expected));
    };
    assert_eq!(Header::decode(&header.encode()).as_ref(), Ok(header));
    check(|b| b[0] = 2, Error::Version(2));
    check(|b| b[1] = 1, Error::Header("suite"));
    check(|b| b[51] |= 7, Error::Header("track"));
    check(|b| b[60] ^= 1, Error::Header("key id: it is of another track"));
    check(|b| b[52] = 1, Error::Header("number"));
    check(|b| b[68..76].fill(0xff), Error::Header("first counter"));
    check(|b| b[76] = 1, Error::Header("start time"));
    let mut reader = Reader::new();
    reader.push(&[2]);
    assert_eq!(reader.next(), Err(Error::Version(2)), "one byte is enough to know");
}

#[test]
fn a_frame_that_no_sender_writes_is_refused() {
    let header = sealer().header(0, 0);
    let preface = Preface::new(header.kid, 0);
    let frame = |length: &[u8], dt: &[u8], flags: u8, tag: usize| {
        [&header.encode()[..], length, dt, &[flags], preface.as_bytes(), &vec![0; tag]].concat()
    };
    let check = |bytes: Vec<u8>, what: &'static str| {
        let refused = Error::Frame { index: 0, what };
        assert_eq!(read(&bytes, &[]).1, Err(refused.clone()), "{what}");
        assert_eq!(Record::parse(bytes.into()), Err(refused));
    };
    let body = 2 + preface.as_bytes().len() as u8 + 16;
    assert!(Record::parse(frame(&[body], &[0], 0, 16).into()).is_ok());
    check(frame(&[0x40, body], &[0], 0, 16), "a length not in its shortest form");
    check(frame(&[0x80, 0x10, 0, 1], &[0], 0, 16), "a length above the limit");
    check(frame(&[0xff; 8], &[0], 0, 16), "a length above the limit");
    check(frame(&[body + 1], &[0x40, 1], 0, 16), "a time not in its shortest form");
    check(frame(&[body + 3], &[0x83, 0x93, 0x87, 1], 0, 16), "a time beyond the limit");
    check(frame(&[body], &[0], 4, 16), "flags this version does not know");
    check(frame(&[body - 1], &[0], 0, 15), "no room for its tag");
    check(frame(&[1], &[0], 0, 0), "no room for its fields");
    check(
        frame(&[body], &[0], 0, 16)[..Header::LEN].iter().copied().chain([1, 0x40]).collect(),
        "no room for its fields",
    );
}

#[test]
fn no_limit_can_be_passed() {
    let (mut writer, header) = Writer::new(sealer(), 0, 0);
    let mut reader = Reader::new();
    reader.push(&header);
    let big = vec![0; FRAME_LEN_MAX - 100];
    let late = DT_MAX.as_micros() as u64 + 1;
    assert!(matches!(writer.frame(late, Flags::default(), b""), Err(Error::Frame { .. })));
    assert!(matches!(writer.frame(0, Flags::default(), &vec![0; FRAME_LEN_MAX]), Err(Error::Frame { .. })));
    for _ in 0..16 {
        reader.push(&writer.frame(0, Flags::default(), &big).unwrap());
    }
    assert!(matches!(writer.frame(0, Flags::default(), &big), Err(Error::TooMuch(_))));
    while reader.next().unwrap().is_some() {}

    // A sender that passes the limit all the same.
    let finished = writer.finish();
    let mut lying = finished.sealer;
    let metadata = finished.record.header().metadata(0, Flags::default());
    let sealed = lying.seal(&metadata, &big)[METADATA..].to_vec();
    let length = (sealed.len() as u32 + 2) | 0x8000_0000;
    reader.push(&[&length.to_be_bytes()[..], &[0, 0], &sealed].concat());
    assert_eq!(reader.next(), Err(Error::TooMuch("more bytes than a group may have")));

    let (mut writer, header) = Writer::new(sealer(), 0, 0);
    let mut stream = header.to_vec();
    for _ in 0..FRAME_COUNT_MAX {
        stream.extend_from_slice(&writer.frame(0, Flags::default(), b"").unwrap());
    }
    let too_many = Error::TooMuch("more frames than a group may have");
    assert_eq!(writer.frame(0, Flags::default(), b""), Err(too_many.clone()));
    assert!(read(&stream, &[]).1.is_ok());
    stream.push(20);
    assert_eq!(read(&stream, &[]).1, Err(too_many));
}

#[test]
fn an_error_is_final() {
    let (stream, _) = group(sealer(), 5, &FRAMES);
    let mut reader = Reader::new();
    reader.push(&[9]);
    assert_eq!(reader.next(), Err(Error::Version(9)));
    reader.push(&stream);
    assert_eq!(reader.next(), Err(Error::Version(9)));
    assert_eq!(reader.into_record(), Err(Error::Version(9)));
}

/// RFC 9000 appendix A.1.
#[test]
fn varints_agree_with_rfc_9000() {
    for (hex, value) in
        [("c2197c5eff14e88c", 151_288_809_941_952_652), ("9d7f3e7d", 494_878_333), ("7bbd", 15_293), ("25", 37)]
    {
        let bytes = hex::decode(hex).unwrap();
        assert_eq!(varint(&bytes), Ok(Some((value, bytes.len()))));
        let mut room = [0; 8];
        let at = put_varint_before(&mut room, value);
        assert_eq!(room[at..], bytes);
        assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None));
    }
    assert_eq!(varint(&[0x40, 0x25]), Err(()), "37 in two bytes");
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_items(
        frames in proptest::collection::vec((0..60_000_000u64, 0..4u8, proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
        mut ends in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        let plain: Vec<_> =
            frames.iter().map(|(dt, flags, data)| (*dt, Flags::from_u8(*flags).unwrap(), &data[..])).collect();
        let (stream, finished) = group(sealer(), 9, &plain);
        let mut ends: Vec<_> = ends.drain(..).map(|end| end.index(stream.len())).collect();
        ends.sort_unstable();
        let (whole, whole_items) = read(&stream, &[]);
        let (split, split_items) = read(&stream, &ends);
        prop_assert_eq!(whole_items.unwrap(), split_items.unwrap());
        prop_assert_eq!(whole.into_record().unwrap(), finished.record.clone());
        prop_assert_eq!(split.into_record().unwrap(), finished.record.clone());
        let texts: Vec<_> = frames.into_iter().map(|frame| frame.2).collect();
        prop_assert_eq!(opened(&finished.record), texts);
    }

    #[test]
    fn garbage_never_panics_and_is_never_waited_for(
        head in any::<bool>(),
        tail in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let header = sealer().header(0, 0).encode();
        let stream = if head { [&header[..], &tail].concat() } else { tail };
        let (reader, _) = read(&stream, &[]);
        // Whatever lengths it claims, it holds no more than came.
        prop_assert!(reader.arrived_capacity() <= 2 * stream.len().max(64));
        let _ = Record::parse(stream.into());
    }
}
