//! What is found wrong with a recording, and what is not: a good one of two points, changed in one place at a time.

use super::*;
use crate::{
    id::TrackKind,
    journal::{Chain, EndReason, Event},
    keys::{NodeKey, SessionKey, WrapPublic},
    manifest::{ChainEnd, Countersignature, Manifest},
    record::{Flags, Writer},
    roster::{Point, Roster},
    seal::{Sealer, Start, Suite},
    session::Period,
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

fn session_key() -> SessionKey {
    SessionKey::from_bytes(&[7; 32])
}

fn track(point: u16) -> TrackId {
    TrackId::new(number(point), TrackKind::Main)
}

fn opener() -> Opener {
    let mut opener = Opener::new(session());
    opener.insert(0, session_key());
    opener
}

fn record(point: u16, seq: u64, says: &[u8]) -> Record {
    let start = Start::from_bits(seq);
    let sealer = Sealer::new(&session_key(), Suite::default(), session(), key(point).id(), track(point), 0, start);
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, says).unwrap();
    writer.finish().record
}

/// A recording in memory.
#[derive(Clone)]
struct Case {
    head: Head,
    roster: Option<Bytes>,
    journal: Vec<Bytes>,
    segments: BTreeMap<PointNumber, Vec<Bytes>>,
    groups: BTreeMap<(TrackId, u64), Bytes>,
    manifests: Vec<Bytes>,
    countersigned: Vec<Bytes>,
}

impl Case {
    /// Central signs what there is, and the other point countersigns it.
    fn close(&mut self) {
        let end = |point: u16| {
            let segments = &self.segments[&number(point)];
            let chain = segment::Chain::verify(session(), number(point), key(point).id(), segments.iter().cloned());
            let chain = chain.unwrap();
            let (segments, last, closed) = (chain.len(), chain.last(), chain.is_closed());
            ChainEnd { point: number(point), segments, last, closed, tracks: vec![] }
        };
        let journal = Chain::verify(session(), key(0).id(), self.journal.iter().cloned()).unwrap();
        let manifest = Manifest {
            session: session(),
            n: 0,
            prev: Hash::NONE,
            wall_ms: 0,
            head: Hash::of(&self.head.encode()),
            entries: journal.len(),
            journal: journal.last(),
            chains: vec![end(0), end(1)],
        };
        let manifest = Signed::sound(manifest, &key(0)).unwrap();
        let ChainEnd { point, segments, last, .. } = end(1);
        let (n, wall_ms) = (0, 0);
        let by = Countersignature { session: session(), point, n, manifest: manifest.hash(), segments, last, wall_ms };
        self.countersigned = vec![Signed::sound(by, &key(1)).unwrap().bytes().clone()];
        self.manifests = vec![manifest.bytes().clone()];
    }
}

impl Exhibit for Case {
    fn head(&self) -> Result<Bytes, String> {
        Ok(self.head.encode().into())
    }
    fn roster(&self) -> Result<Option<Bytes>, String> {
        Ok(self.roster.clone())
    }
    fn journal(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        Box::new(self.journal.iter().cloned().map(Ok))
    }
    fn segments(&self, point: PointNumber) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        Box::new(self.segments.get(&point).into_iter().flatten().cloned().map(Ok))
    }
    fn manifests(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        Box::new(self.manifests.iter().cloned().map(Ok))
    }
    fn countersigned(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        Box::new(self.countersigned.iter().cloned().map(Ok))
    }
    fn groups(&self) -> Result<BTreeSet<(TrackId, u64)>, String> {
        Ok(self.groups.keys().copied().collect())
    }
    fn group(&self, id: &GroupId) -> Result<Bytes, String> {
        self.groups.get(&(id.track, id.seq)).cloned().ok_or_else(|| "is not here".into())
    }
    fn strangers(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Three segments of two, two and no groups of one track.
fn segments_of(point: u16) -> Vec<Bytes> {
    let mut chain = segment::Chain::new(session(), number(point), key(point).id());
    let mut segments = Vec::new();
    for seqs in [0..2, 2..4, 4..4] {
        let mut next = chain.begin(0);
        for seq in seqs.clone() {
            let group = segment::Group::of(&record(point, seq, b"words"), &opener()).unwrap();
            next.list(track(point), group, session_key().commitment());
        }
        next.last = seqs.is_empty();
        segments.push(chain.append(&key(point), next).unwrap().bytes().clone());
    }
    segments
}

fn journal(head: &Head, events: Vec<Event>) -> Vec<Bytes> {
    let mut chain = Chain::new(head.id, head.central);
    let started = Event::Started { title: head.title.clone(), points: head.points.clone() };
    let events = [started, Event::Joined { point: number(1) }].into_iter().chain(events);
    let ended = Event::Ended { reason: EndReason::Closed };
    events.chain([ended]).map(|event| chain.append(&key(0), 0, 0, event).bytes().clone()).collect()
}

fn good() -> Case {
    let member = |point| Member { number: number(point), node: key(point).id(), name: format!("Xã {point}") };
    let head = Head {
        id: session(),
        title: "Định kỳ".into(),
        state: State::Ended,
        central: key(0).id(),
        points: vec![member(0), member(1)],
        epochs: vec![Period::first(session_key().commitment())],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: Some(1_700_000_600_000),
    };
    let point = |number: u16| Point {
        node: key(number).id(),
        wrap: WrapPublic::from_bytes([number as u8; 32]),
        name: format!("Xã {number}"),
        level: String::new(),
        zone: String::new(),
        rights: BTreeSet::new(),
        addresses: vec![],
        replaces: None,
    };
    let roster = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: "UBND tỉnh".into(),
        recovery: WrapPublic::from_bytes([0xcc; 32]),
        issued_unix_ms: 0,
        points: vec![point(0), point(1)],
        revoked: vec![],
        void: vec![],
    };
    let authority = NodeKey::from_bytes(&[0xaa; 32]);
    let membership = Membership::new(Signed::sound(roster, &authority).unwrap(), &authority.id()).unwrap();
    let groups = [0, 1]
        .into_iter()
        .flat_map(|point| (0..4).map(move |seq| ((track(point), seq), record(point, seq, b"words").bytes().clone())));
    let mut case = Case {
        roster: Some(membership.encode().into()),
        journal: journal(&head, vec![]),
        segments: [0, 1].map(|point| (number(point), segments_of(point))).into(),
        groups: groups.collect(),
        manifests: vec![],
        countersigned: vec![],
        head,
    };
    case.close();
    case
}

fn look_at(case: &Case) -> Report {
    let opener = opener();
    verify(case, &Options { opener: Some(&opener), ..Options::default() }, &mut |_, _| {})
}

/// Says what is found when one thing of a good recording is changed.
#[track_caller]
fn check(change: impl FnOnce(&mut Case), expected: &[&str]) {
    let mut case = good();
    change(&mut case);
    let found: Vec<String> = look_at(&case).findings.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn in_a_good_recording_nothing_is_found() {
    let report = look_at(&good());
    assert_eq!((report.findings, report.notes), (vec![], Vec::<String>::new()));
    assert_eq!((report.entries, report.segments, report.groups, report.opened), (3, 6, 8, 8));
    assert_eq!(report.manifest, Some(0));
    let sealed = verify(&good(), &Options::default(), &mut |_, _| {});
    assert_eq!((sealed.findings.len(), sealed.groups, sealed.opened), (0, 8, 0));
}

#[test]
fn a_group_that_is_changed_swapped_dropped_or_slipped_in_is_named() {
    let at = (track(1), 2);
    let group = "group 2 of 1-main (Xã 1, main)";
    let other = format!("{group}: is not the group that its point signed: its bytes have another hash");
    check(
        |case| {
            let mut bytes = case.groups[&at].to_vec();
            bytes[100] ^= 1;
            case.groups.insert(at, bytes.into());
        },
        &[&other],
    );
    check(
        |case| {
            let (this, next) = (case.groups[&at].clone(), case.groups[&(track(1), 3)].clone());
            case.groups.extend([(at, next), ((track(1), 3), this)]);
        },
        &[&other, &other.replace("group 2", "group 3")],
    );
    check(
        |case| drop(case.groups.remove(&at)),
        &[&format!("{group}: is not here, and the journal does not say that it is missing")],
    );
    check(
        |case| drop(case.groups.insert((track(1), 4), record(1, 4, b"more").bytes().clone())),
        &["group 4 of 1-main (Xã 1, main): is signed by nobody: its point has signed that there is no such group"],
    );
    check(|case| drop(case.groups.insert(at, record(1, 2, b"other words").bytes().clone())), &[&other]);
}

#[test]
fn a_gap_that_the_journal_names_is_a_part_of_the_truth() {
    let gap = Event::Gap { track: track(1), from_seq: 2, to_seq: 2, reason: GapReason::Lost };
    let repaired = Event::Repaired { track: track(1), from_seq: 2, to_seq: 2 };
    let mut case = good();
    case.groups.remove(&(track(1), 2));
    case.journal = journal(&case.head, vec![gap.clone()]);
    case.close();
    let report = look_at(&case);
    assert_eq!(report.findings, []);
    assert_eq!(report.notes, ["Xã 1, main: group 2 is not here: the point could not be reached, as the journal says"]);
    case.journal = journal(&case.head, vec![gap, repaired]);
    case.close();
    assert_eq!(look_at(&case).findings.len(), 1, "it came after all, and is not here");
}

#[test]
fn a_journal_that_was_exchanged_cut_or_is_anothers_is_named() {
    check(
        |case| drop(case.journal.pop()),
        &[
            "journal: the session has ended, and its end is not in the journal",
            "journal: is cut off: the manifest knows of 3 entries, 2 are here",
        ],
    );
    check(
        |case| {
            let repaired = Event::Repaired { track: track(1), from_seq: 1, to_seq: 1 };
            case.journal = journal(&case.head, vec![repaired]);
            case.close();
            case.journal = journal(&case.head, vec![]);
        },
        &["journal: is cut off: the manifest knows of 4 entries, 3 are here"],
    );
    check(
        |case| drop(case.journal.remove(1)),
        &["journal entry 1: journal entry 1 is expected, but 2 comes; what follows cannot be believed"],
    );
    check(
        |case| case.journal = journal(&Head { title: "Khác".into(), ..case.head.clone() }, vec![]),
        &[
            "journal entry 0: has another title or other points than the head",
            "journal entry 2: is another than the manifest names",
        ],
    );
    check(|case| case.journal.clear(), &["journal: is not there: central keeps it"]);
    let dispute = Event::Disputed { track: track(1), from_seq: 1, to_seq: 1 };
    check(
        |case| {
            case.journal = journal(&case.head, vec![dispute]);
            case.close();
        },
        &["journal entry 2: says that groups 1 to 1 of 1-main are not those their point signed"],
    );
}

#[test]
fn a_segment_that_is_dropped_is_named_and_the_last_one_too() {
    let unsigned = "is signed by nobody: the segments that are here end before it";
    check(
        |case| drop(case.segments.get_mut(&number(1)).unwrap().remove(1)),
        &[
            "segment 1 of Xã 1: segment 1 of point 1 is expected, but 2 comes; what follows cannot be believed",
            "segments of Xã 1: are cut off: the manifest knows of 3, 1 good ones are here",
            &format!("group 2 of 1-main (Xã 1, main): {unsigned}"),
            &format!("group 3 of 1-main (Xã 1, main): {unsigned}"),
        ],
    );
    check(
        |case| drop(case.segments.get_mut(&number(1)).unwrap().pop()),
        &[
            "segments of Xã 1: the last of them is missing: 2 are here, and none says that it is the last",
            "segments of Xã 1: are cut off: the manifest knows of 3, 2 good ones are here",
        ],
    );
}

#[test]
fn points_and_keys_that_are_not_the_meshs_are_named() {
    check(|case| case.roster = None, &["roster: is not there: nobody vouches for the points' keys"]);
    let stranger = NodeId::from_bytes([0x55; 32]);
    let report = verify(&good(), &Options { authority: Some(stranger), ..Options::default() }, &mut |_, _| {});
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    check(
        |case| {
            case.head.epochs[0].commitment = Hash::NONE;
            case.close();
        },
        &[0, 1]
            .map(|n| format!("segment {n} of Xã 0: names another key of epoch 0 than the head"))
            .into_iter()
            .chain([0, 1].map(|n| format!("segment {n} of Xã 1: names another key of epoch 0 than the head")))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
}

#[test]
fn a_ciphertext_that_opens_to_something_else_is_named_to_who_has_the_key() {
    let mut case = good();
    let mut chain = segment::Chain::new(session(), number(1), key(1).id());
    let mut lying = chain.begin(0);
    let mut group = segment::Group::of(&record(1, 0, b"words"), &opener()).unwrap();
    group.mac = Hash::of(b"other words");
    lying.list(track(1), group, session_key().commitment());
    lying.last = true;
    case.segments.insert(number(1), vec![chain.append(&key(1), lying).unwrap().bytes().clone()]);
    case.groups.retain(|(of, seq), _| of.point() == number(0) || *seq == 0);
    case.close();
    let found: Vec<_> = look_at(&case).findings.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["group 0 of 1-main (Xã 1, main): opens to something else than its point signed for"]);
    assert_eq!(verify(&case, &Options::default(), &mut |_, _| {}).findings, []);
}

#[test]
fn a_points_own_record_can_be_looked_at_alone() {
    let mut case = good();
    case.journal.clear();
    case.segments.remove(&number(0));
    case.groups.retain(|(of, _), _| of.point() == number(1));
    let report = verify(&case, &Options { only: Some(number(1)), ..Options::default() }, &mut |_, _| {});
    assert_eq!((report.findings, report.groups), (vec![], 4));
}

#[test]
fn what_a_removed_point_recorded_last_is_told_and_is_no_fault() {
    let mut case = good();
    let (commitment, from_us) = (session_key().commitment(), 9_000_000);
    case.head = case.head.next(commitment, from_us, vec![number(1)]).unwrap();
    case.journal = journal(&case.head, vec![Event::Epoch { epoch: 1, commitment, from_us }]);
    case.segments.get_mut(&number(1)).unwrap().truncate(1);
    case.close();
    let report = look_at(&case);
    assert_eq!(report.findings, []);
    assert_eq!(
        report.notes,
        [
            "Xã 1 was removed: what it recorded last is not signed off, and counts as far as it is signed",
            "Xã 1, main: 2 groups from before the point was removed are not signed",
        ]
    );
}

#[test]
fn a_manifest_that_is_changed_dropped_or_anothers_is_named() {
    check(
        |case| case.manifests.clear(),
        &["manifest: is not there: that nothing was cut off at the end cannot be shown"],
    );
    check(
        |case| case.head.ended_unix_ms = Some(1_700_000_600_001),
        &["head: is not the one that central signed for in the manifest"],
    );
    let resigned = |case: &mut Case, key: &NodeKey, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = Signed::<Manifest>::parse(case.manifests[0].clone()).unwrap().content().clone();
        change(&mut manifest);
        case.manifests = vec![Signed::new(manifest, key).bytes().clone()];
        case.countersigned.clear();
    };
    let other = SessionId::from_parts(1, [1; 10]);
    check(|case| resigned(case, &key(0), &|m| m.session = other), &["manifest 0: is of another session"]);
    check(|case| resigned(case, &key(1), &|_| {}), &["manifest 0: is not signed by central"]);
    check(|case| resigned(case, &key(0), &|m| drop(m.chains.pop())), &["manifest: does not name Xã 1"]);
    check(
        |case| resigned(case, &key(0), &|m| m.chains[1].last = Hash::of(b"other")),
        &["segment 2 of Xã 1: is another than the manifest names"],
    );
}

#[test]
fn a_point_that_was_away_lacks_manifests_and_that_is_no_fault() {
    let mut case = good();
    case.countersigned.clear();
    let first = Signed::<Manifest>::parse(case.manifests[0].clone()).unwrap();
    let later = |n, prev| Signed::new(Manifest { n, prev, ..first.content().clone() }, &key(0));
    let third = later(2, Hash::of(b"second"));
    let fourth = later(3, third.hash());
    let of = |manifests: &[&Signed<Manifest>], only| {
        let manifests = manifests.iter().map(|manifest| manifest.bytes().clone()).collect();
        let case = Case { manifests, ..case.clone() };
        let report = verify(&case, &Options { only, ..Options::default() }, &mut |_, _| {});
        report.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let point = Some(number(1));
    assert_eq!(of(&[&third, &fourth], point), [""; 0]);
    assert_eq!(of(&[&first, &third, &fourth], point), [""; 0]);
    assert_eq!(of(&[&third, &first], point), ["manifest 1: does not follow the one before it"]);
    assert_eq!(of(&[&third, &later(3, first.hash())], point), ["manifest 1: does not follow the one before it"]);
    assert_eq!(of(&[&third], None), ["manifest 0: does not follow the one before it"], "central has all");
}

#[test]
fn who_has_not_countersigned_is_told_and_a_false_countersignature_is_named() {
    let mut case = good();
    let good = std::mem::take(&mut case.countersigned);
    let report = look_at(&case);
    assert_eq!((report.findings, report.notes), (vec![], vec!["Xã 1 has not countersigned the manifest".to_owned()]));
    let by = Signed::<Countersignature>::parse(good[0].clone()).unwrap().content().clone();
    check(
        |case| case.countersigned = vec![Signed::new(by.clone(), &key(0)).bytes().clone()],
        &["countersignature 0: is not signed by the point it names"],
    );
    let fewer = Countersignature { segments: 2, ..by };
    check(
        |case| case.countersigned = vec![Signed::new(fewer, &key(1)).bytes().clone()],
        &["countersignature 0: the manifest names another end of this point's segments than it has signed"],
    );
}
