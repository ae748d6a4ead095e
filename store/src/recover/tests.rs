//! What is believed of a record that somebody gives: a good one of two points, changed in one place at a time.

use super::*;
use crate::{
    id::TrackKind,
    journal::{EndReason, Event},
    keys::{NodeKey, SessionKey},
    manifest::{ChainEnd, TrackEnd},
    record::{Flags, Writer},
    seal::{Opener, Sealer, Start, Suite},
    session::{Member, Period},
};

fn key(point: u16) -> NodeKey {
    NodeKey::from_bytes(&[point as u8 + 1; 32])
}

fn number(point: u16) -> PointNumber {
    PointNumber::new(point).unwrap()
}

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn track(point: u16) -> TrackId {
    TrackId::new(number(point), TrackKind::Main)
}

fn session_key() -> SessionKey {
    SessionKey::from_bytes(&[7; 32])
}

/// Two groups of a point, as it signs them.
fn groups(point: u16) -> Vec<Group> {
    let mut opener = Opener::new(session());
    opener.insert(0, session_key());
    let group = |seq: u64| {
        let start = Start::from_bits(seq);
        let sealer = Sealer::new(&session_key(), Suite::default(), session(), key(point).id(), track(point), 0, start);
        let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
        writer.frame(0, Flags { key: true, discardable: false }, &[point as u8; 100]).unwrap();
        Group::of(&writer.finish().record, &opener).unwrap()
    };
    (0..2).map(group).collect()
}

/// A point's chain: a segment for each group, the last of them closed.
fn chain(point: u16) -> Vec<Signed<Segment>> {
    let mut chain = segment::Chain::new(session(), number(point), key(point).id());
    let sign = |(n, group): (usize, Group)| {
        let mut segment = chain.begin(1_700_000_030_000 + n as u64);
        segment.list(track(point), group, session_key().commitment());
        segment.last = n == 1;
        chain.append(&key(point), segment).unwrap()
    };
    groups(point).into_iter().enumerate().map(sign).collect()
}

fn open() -> Head {
    let member = |point: u16| Member { number: number(point), node: key(point).id(), name: format!("Xã {point}") };
    Head {
        id: session(),
        title: "Định kỳ".into(),
        state: State::Open,
        central: key(0).id(),
        points: vec![member(0), member(1)],
        epochs: vec![Period::first(session_key().commitment())],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: None,
    }
}

fn journal() -> Vec<Signed<Entry>> {
    let mut chain = journal::Chain::new(session(), key(0).id());
    let started = Event::Started { title: open().title, points: open().points };
    [started, Event::Ended { reason: EndReason::Closed }].map(|event| chain.append(&key(0), 0, 0, event)).into()
}

fn bytes<T: Content>(records: &[Signed<T>]) -> Vec<Bytes> {
    records.iter().map(|record| record.bytes().clone()).collect()
}

/// All that central has of a session that it closed.
fn whole() -> (Given, Manifest) {
    let head = Head { state: State::Ended, ended_unix_ms: Some(1_700_000_060_000), ..open() };
    let journal = journal();
    let end = |point: u16| {
        let chain = chain(point);
        let bytes = groups(point).iter().map(|group| u64::from(group.len)).sum();
        let tracks = vec![TrackEnd { track: track(point), next: 2, groups: 2, bytes, missing: 0 }];
        ChainEnd { point: number(point), segments: 2, last: chain[1].hash(), closed: true, tracks }
    };
    let manifest = Manifest {
        session: session(),
        n: 0,
        prev: Hash::NONE,
        wall_ms: 0,
        head: Hash::of(&head.encode()),
        entries: 2,
        journal: journal[1].hash(),
        chains: vec![end(0), end(1)],
    };
    let by = Countersignature {
        session: session(),
        point: number(1),
        n: 0,
        manifest: Hash::NONE,
        segments: 2,
        last: chain(1)[1].hash(),
        wall_ms: 0,
    };
    let given = Given {
        head: head.encode().into(),
        manifests: vec![Signed::new(manifest.clone(), &key(0)).bytes().clone()],
        countersigned: vec![Signed::new(by, &key(1)).bytes().clone()],
        journal: bytes(&journal),
        segments: [0, 1].map(|point| (number(point), bytes(&chain(point)))).into(),
        ..Given::default()
    };
    (given, manifest)
}

fn looked(given: Given) -> Result<Checked, String> {
    check(session(), given, |node| *node == key(0).id())
}

#[test]
fn a_good_record_is_whole_and_each_thing_that_is_changed_in_it_is_named() {
    let (good, _) = whole();
    let checked = looked(good.clone()).unwrap();
    assert!(checked.is_whole);
    assert_eq!((checked.journal.len(), checked.segments.len(), checked.countersigned.len()), (2, 4, 1));

    let wrong = |change: fn(&mut Given), told: &str| {
        let (mut given, _) = whole();
        change(&mut given);
        let error = looked(given).expect_err(told);
        assert!(error.contains(told), "{told:?}: {error}");
    };
    let other = SessionId::from_parts(1, [1; 10]);
    assert!(check(other, good.clone(), |_| true).unwrap_err().contains("another session"));
    assert!(check(session(), good, |_| false).unwrap_err().contains("no point of this mesh"));
    wrong(|given| given.head = Bytes::from_static(b"\x02nothing"), "head");
    wrong(|given| given.journal.swap(0, 1), "journal");
    wrong(|given| drop(given.journal.pop()), "does not end where the manifest says");
    wrong(|given| drop(given.segments.get_mut(&number(1)).unwrap().remove(0)), "segment");
    wrong(|given| given.segments.insert(number(1), bytes(&chain(0))).map_or((), drop), "");
    wrong(
        |given| {
            let mut forged = segment::Chain::new(session(), number(0), key(0).id());
            let sign = |wall_ms| {
                let segment = forged.begin(wall_ms);
                forged.append(&key(0), segment).unwrap()
            };
            let signed: Vec<_> = (1..3).map(sign).collect();
            given.segments.insert(number(0), bytes(&signed));
        },
        "not those that the manifest names",
    );
    wrong(
        |given| {
            let manifest = Signed::<Manifest>::parse(given.manifests[0].clone()).unwrap();
            given.manifests[0] = Signed::new(manifest.content().clone(), &key(1)).bytes().clone();
        },
        "not by the session's central",
    );
}

#[test]
fn a_part_is_good_as_far_as_it_goes_and_is_not_whole() {
    let part = |change: fn(&mut Given)| {
        let (mut given, _) = whole();
        change(&mut given);
        let checked = looked(given).expect("nothing in it is false");
        assert!(!checked.is_whole);
        checked
    };
    // What a point has that only took part.
    let own = part(|given| {
        given.journal.clear();
        given.segments.remove(&number(0));
    });
    assert_eq!((own.segments.len(), own.manifests.len()), (2, 1));
    assert_eq!(part(|given| drop(given.segments.get_mut(&number(1)).unwrap().pop())).segments.len(), 3);
    // A point that was away at the end has another head; nothing says then which of the two is right.
    let away =
        part(|given| given.head = Head { title: "Khác".into(), ..Head::decode(&given.head).unwrap() }.encode().into());
    assert_eq!(away.manifests, []);
}

#[test]
fn a_record_is_ours_by_what_we_signed_in_it() {
    let us = |points: &[u16]| points.iter().map(|point| key(*point).id()).collect::<BTreeSet<_>>();
    let tie = |change: fn(&mut Given), points: &[u16]| {
        let (mut given, _) = whole();
        change(&mut given);
        looked(given).expect("nothing in it is false").tie(&us(points))
    };
    assert_eq!(tie(|_| {}, &[0]), Tie::Central, "we chaired it");
    let open_head = |given: &mut Given| given.head = open().encode().into();
    assert_eq!(tie(open_head, &[0]), Tie::Central, "the journal is ours too");
    let points_only = |given: &mut Given| {
        given.head = open().encode().into();
        given.journal.clear();
        given.segments.remove(&number(0));
    };
    assert_eq!(tie(points_only, &[0]), Tie::Nothing, "anybody can call us central");
    assert_eq!(tie(points_only, &[1]), Tie::Session);
    assert_eq!(tie(|_| {}, &[1]), Tie::Session, "the countersignature is of another manifest");
    assert_eq!(tie(|given| drop(given.segments.remove(&number(1))), &[1]), Tie::Nothing);
    assert_eq!(tie(|_| {}, &[7]), Tie::Nothing);
    let named = |given: &mut Given| Signed::<Manifest>::parse(given.manifests[0].clone()).unwrap().hash();
    fn countersigned(given: &mut Given, manifest: Hash) {
        let by = Signed::<Countersignature>::parse(given.countersigned[0].clone()).unwrap().content().clone();
        given.countersigned = vec![Signed::new(Countersignature { manifest, ..by }, &key(1)).bytes().clone()];
    }
    let (mut given, _) = whole();
    let manifest = named(&mut given);
    countersigned(&mut given, manifest);
    assert_eq!(looked(given.clone()).unwrap().tie(&us(&[1])), Tie::Central);
    // The same under a head that calls another central, who signed a manifest of his own.
    let mut forged = given.clone();
    let other = Head { central: key(1).id(), ..Head::decode(&forged.head).unwrap() };
    forged.head = other.encode().into();
    forged.manifests.clear();
    forged.journal.clear();
    let forged = check(session(), forged, |_| true).unwrap();
    assert_eq!(forged.tie(&us(&[0])), Tie::Session, "our segments do not say who chaired it");
    let receipt = Receipt { session: session(), manifest, groups: 1, bytes: 1, wall_ms: 0 };
    let held = |manifest| {
        let (given, _) = whole();
        let receipts = vec![Signed::new(Receipt { manifest, ..receipt.clone() }, &key(7)).bytes().clone()];
        looked(Given { receipts, ..given }).unwrap().tie(&us(&[7]))
    };
    assert_eq!((held(manifest), held(Hash::NONE)), (Tie::Central, Tie::Nothing));
}

#[test]
fn a_session_whose_central_was_lost_in_the_middle_is_closed_where_somebody_signed_last() {
    let given =
        Given { head: open().encode().into(), segments: [(number(1), bytes(&chain(1)))].into(), ..Given::default() };
    let checked = looked(given).unwrap();
    assert_eq!((checked.head.state, checked.head.ended_unix_ms), (State::Ended, Some(1_700_000_030_001)));
    assert!(!checked.is_whole && checked.head.check().is_ok());
    let nothing = looked(Given { head: open().encode().into(), ..Given::default() }).unwrap();
    assert_eq!(nothing.head.ended_unix_ms, Some(open().started_unix_ms));
}

#[test]
fn who_chaired_or_held_it_wants_all_and_who_took_part_its_own() {
    let head = open();
    let us = |points: &[u16]| points.iter().map(|point| key(*point).id()).collect::<BTreeSet<_>>();
    assert_eq!(Scope::of(&head, &us(&[]), &us(&[0])), Scope::All);
    assert_eq!(Scope::of(&head, &us(&[0]), &us(&[1])), Scope::Own(number(1)));
    assert_eq!(Scope::of(&head, &us(&[1]), &us(&[1, 7])), Scope::All, "it had signed that it holds it");
    assert_eq!(Scope::of(&head, &us(&[]), &us(&[7, 0])), Scope::All, "it has central's place");
    assert_eq!(Scope::of(&head, &us(&[7]), &us(&[7])), Scope::All);
}

#[test]
fn what_is_here_is_not_wanted_and_wrong_bytes_are() {
    let listed: Listed = [0, 1]
        .into_iter()
        .flat_map(|point| groups(point).into_iter().map(move |group| ((track(point), group.seq), group)))
        .collect();
    let len = |point: u16, seq: u64| u64::from(listed[&(track(point), seq)].len);
    let nothing = Wanted::of::<()>(&listed, Scope::All, |_, _| Ok(None)).unwrap();
    assert_eq!((nothing.groups, nothing.missing_bytes), (4, nothing.bytes));
    let here = |of: TrackId, seq| {
        Ok::<_, ()>(match (of == track(0), seq) {
            (true, 0) => Some(listed[&(of, seq)].hash),
            (true, _) => Some(Hash::NONE),
            (false, _) => None,
        })
    };
    let some = Wanted::of(&listed, Scope::All, here).unwrap();
    assert_eq!(some.missing[&track(0)].runs().collect::<Vec<_>>(), [1..=1]);
    assert_eq!(some.missing_bytes, some.bytes - len(0, 0));
    let own = Wanted::of(&listed, Scope::Own(number(1)), here).unwrap();
    assert_eq!((own.groups, own.missing.len(), own.missing_bytes), (2, 1, len(1, 0) + len(1, 1)));
    assert_eq!(Wanted::of(&listed, Scope::All, |_, _| Err("disk")), Err("disk"));
}

#[test]
fn an_archive_reaches_a_manifest_with_all_that_central_kept_and_perhaps_more() {
    let (_, last) = whole();
    assert!(has_all(&last, &last));
    let less = |change: fn(&mut Manifest)| {
        let mut ours = last.clone();
        change(&mut ours);
        (has_record(&ours, &last), has_all(&ours, &last))
    };
    assert_eq!(less(|ours| ours.entries = 1), (false, false));
    assert_eq!(less(|ours| ours.head = Hash::NONE), (false, false));
    assert_eq!(less(|ours| ours.chains[1].segments = 1), (false, false));
    assert_eq!(less(|ours| ours.chains[1].last = Hash::NONE), (false, false));
    assert_eq!(less(|ours| drop(ours.chains.pop())), (false, false));
    assert_eq!(less(|ours| ours.chains[0].tracks[0].groups = 1), (true, false));
    assert_eq!(less(|ours| ours.chains[0].tracks.clear()), (true, false));
    assert_eq!(less(|ours| (ours.chains[1].segments, ours.chains[1].last) = (3, Hash::NONE)), (true, true));
}

#[test]
fn a_run_of_records_is_taken_apart_or_known_to_be_cut_off() {
    let run = [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0]].concat();
    assert_eq!(unframe(&run), Some(vec![Bytes::from_static(b"ab"), Bytes::new()]));
    assert_eq!(unframe(&[]), Some(vec![]));
    (1..run.len()).filter(|len| *len != 6).for_each(|len| assert_eq!(unframe(&run[..len]), None, "{len}"));
    assert_eq!(unframe(&[0xff; 8]), None);
}
