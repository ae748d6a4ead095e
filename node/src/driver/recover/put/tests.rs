//! What of others' records is written, and what is kept against them: a session that 1 chaired, at point 2, and a liar, 3.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use store::db::memory::Memory;
use store::id::{Hash, PointNumber, SessionId};
use store::journal::{self, EndReason, Entry, Event};
use store::keys::NodeKey;
use store::manifest::{ChainEnd, Countersignature, Manifest};
use store::recover::{Given, check};
use store::seal::Suite;
use store::segment::Chain;
use store::session::{Member, Period};

use super::*;

const CENTRAL: u8 = 1;
const ME: u8 = 2;
const LIAR: u8 = 3;

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes(&[of; 32])
}

fn number(of: u8) -> PointNumber {
    PointNumber::new(of.into()).expect("small")
}

fn id() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [1; 10])
}

/// A head with all three, chaired by one of them.
fn head(central: u8, title: &str) -> Head {
    let member = |of: u8| Member { number: number(of), node: key(of).id(), name: format!("Xã {of}") };
    Head {
        id: id(),
        title: title.into(),
        state: State::Ended,
        central: key(central).id(),
        points: [CENTRAL, ME, LIAR].map(member).into(),
        epochs: vec![Period::first(Hash::NONE)],
        suite: Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: Some(1_700_000_060_000),
    }
}

fn segments(of: u8, count: usize) -> Vec<Signed<Segment>> {
    let mut chain = Chain::new(id(), number(of), key(of).id());
    (0..count).map(|n| chain.append(&key(of), chain.begin(n as u64)).expect("it follows")).collect()
}

/// Somebody's record of the session under this head: its journal, these segments, and manifest `n` over all of them.
fn record(head: &Head, n: u32, chains: &[Vec<Signed<Segment>>]) -> Given {
    let central = [CENTRAL, ME, LIAR].map(key).into_iter().find(|key| key.id() == head.central).expect("one of them");
    let mut journal = journal::Chain::new(id(), central.id());
    let events = [
        Event::Started { title: head.title.clone(), points: head.points.clone() },
        Event::Ended { reason: EndReason::Closed },
    ];
    let entries: Vec<Signed<Entry>> = events.map(|event| journal.append(&central, 0, 0, event)).into();
    let of = |point: PointNumber| {
        chains.iter().find(|chain| chain.first().is_some_and(|first| first.content().point == point))
    };
    let end = |member: &Member| {
        let chain = of(member.number).map(Vec::as_slice).unwrap_or_default();
        let last = chain.last().map_or(Hash::NONE, Signed::hash);
        ChainEnd { point: member.number, segments: chain.len() as u32, last, closed: false, tracks: vec![] }
    };
    let manifest = Manifest {
        session: id(),
        n,
        prev: if n == 0 { Hash::NONE } else { Hash::of(b"the one before") },
        wall_ms: n.into(),
        head: Hash::of(&head.encode()),
        entries: journal.len(),
        journal: journal.last(),
        chains: head.points.iter().map(end).collect(),
    };
    Given {
        head: head.encode().into(),
        manifests: vec![Signed::new(manifest, &central).bytes().clone()],
        journal: entries.iter().map(|entry| entry.bytes().clone()).collect(),
        segments: head
            .points
            .iter()
            .map(|member| (member.number, of(member.number).map_or(vec![], |chain| bytes(chain))))
            .collect(),
        ..Given::default()
    }
}

fn bytes(chain: &[Signed<Segment>]) -> Vec<Bytes> {
    chain.iter().map(|segment| segment.bytes().clone()).collect()
}

/// The archive of point 2.
struct Mine {
    vault: Vault,
    members: Members,
    wrap: WrapKey,
}

impl Mine {
    fn new() -> Mine {
        let archive = Archive::over(Arc::<Memory>::default(), Arc::<Memory>::default()).expect("an archive");
        let members = Members::new(key(ME).id(), BTreeMap::new(), BTreeSet::new());
        Mine { vault: Vault::over(archive).expect("a thread"), members, wrap: WrapKey::generate() }
    }

    /// One in which it took part in the session, and has what it signed.
    fn that_was_there(own: usize) -> Mine {
        let mine = Mine::new();
        mine.archive().put_head(&head(CENTRAL, "Định kỳ")).expect("room");
        segments(ME, own).iter().for_each(|own| mine.archive().append_segment(key(ME).id(), own).expect("room"));
        mine
    }

    fn archive(&self) -> &Archive {
        self.vault.archive()
    }

    fn take(&self, given: Given) -> Result<(), Fault> {
        self.take_from(given, false)
    }

    fn take_from(&self, given: Given, anew: bool) -> Result<(), Fault> {
        let checked = check(id(), given, |_| true).expect("nothing in it contradicts itself");
        let (Mine { vault, members, wrap }, us) = (self, [key(ME).id()].into());
        Writing { vault, members, me: key(ME).id(), us: &us, wrap, anew }.put(checked)
    }

    fn title(&self) -> String {
        self.archive().head(&id()).expect("readable").expect("it is known").title
    }

    fn last_manifest(&self) -> Option<(u32, NodeId)> {
        let last = self.archive().last_manifest(&id()).expect("readable");
        last.map(|last| (last.content().n, last.signer()))
    }

    fn is_restored(&self) -> bool {
        self.archive().is_restored(&id()).expect("readable")
    }

    /// What there is of the session.
    fn all(&self) -> (String, Option<(u32, NodeId)>, bool, usize) {
        (
            self.title(),
            self.last_manifest(),
            self.is_restored(),
            self.archive().journal(&id(), 0).expect("readable").len(),
        )
    }
}

/// The session as it was.
fn true_record() -> Given {
    record(&head(CENTRAL, "Định kỳ"), 0, &[segments(ME, 2)])
}

/// The same with what point 2 really signed, under the liar's head.
fn forged_record() -> Given {
    record(&head(LIAR, "Của tôi"), 255, &[segments(ME, 2), segments(LIAR, 1)])
}

/// With the countersignature of point 2.
fn countersigned(given: Given) -> Given {
    let manifest = Signed::<Manifest>::parse(given.manifests[0].clone()).expect("good");
    let by = Countersignature {
        session: id(),
        point: number(ME),
        n: manifest.content().n,
        manifest: manifest.hash(),
        segments: 2,
        last: segments(ME, 2)[1].hash(),
        wall_ms: 0,
    };
    Given { countersigned: vec![Signed::new(by, &key(ME)).bytes().clone()], ..given }
}

fn wrong() -> Fault {
    Fault::Wrong("another head than the one that is known here".into())
}

#[test]
fn nobody_makes_himself_central_of_a_session_that_is_here() {
    let refuses = |mine: &Mine, as_what: Fault| {
        let before = mine.all();
        assert_eq!(mine.take(forged_record()), Err(as_what));
        assert_eq!(mine.all(), before, "nothing is written");
    };
    let mine = Mine::that_was_there(2);
    refuses(&mine, wrong());
    assert_eq!(mine.take(true_record()), Ok(()));
    assert_eq!(mine.last_manifest(), Some((0, key(CENTRAL).id())));
    refuses(&mine, wrong());
    assert_eq!(mine.take_from(forged_record(), true), Err(wrong()), "whoever is to be believed");
    let restored = Mine::new();
    assert_eq!(restored.take(countersigned(true_record())), Ok(()));
    assert_eq!(restored.all(), ("Định kỳ".into(), Some((0, key(CENTRAL).id())), true, 2));
    refuses(&restored, wrong());
    assert_eq!(restored.take_from(forged_record(), true), Err(wrong()), "we signed whose it was");
    let unsure = Mine::new();
    assert_eq!(unsure.take(true_record()), Ok(()));
    refuses(&unsure, Fault::Disputed);
}

#[test]
fn what_a_liar_gave_first_gives_way_to_what_we_signed_and_to_whom_the_operator_names() {
    let mine = Mine::new();
    assert_eq!(mine.take(forged_record()), Ok(()), "nothing here says otherwise");
    let forged = mine.all();
    assert_eq!(forged, ("Của tôi".into(), Some((255, key(LIAR).id())), true, 2));
    assert_eq!((mine.take(true_record()), mine.all()), (Err(Fault::Disputed), forged.clone()));
    assert_eq!(mine.take(countersigned(true_record())), Ok(()));
    let right = ("Định kỳ".into(), Some((0, key(CENTRAL).id())), true, 2);
    assert_eq!(mine.all(), right);
    assert_eq!(mine.archive().segment_chain(&id(), number(LIAR), key(LIAR).id()).expect("readable").len(), 0);

    let mine = Mine::new();
    assert_eq!(mine.take(forged_record()), Ok(()));
    assert_eq!((mine.take_from(true_record(), true), mine.all()), (Ok(()), right));
}

#[test]
fn a_copy_that_is_only_held_calls_nobody_a_liar_who_knows_what_we_did() {
    let mut held = head(LIAR, "Của tôi");
    held.points.remove(1);
    let holds = || {
        let mine = Mine::new();
        mine.archive().put_head(&held).expect("room");
        mine
    };
    let mine = holds();
    assert_eq!(mine.take(true_record()), Err(Fault::Disputed));
    assert_eq!(mine.take(countersigned(true_record())), Ok(()));
    let right = ("Định kỳ".into(), Some((0, key(CENTRAL).id())), true, 2);
    assert_eq!(mine.all(), right);
    let mine = holds();
    assert_eq!((mine.take_from(true_record(), true), mine.all()), (Ok(()), right));
}

#[test]
fn of_two_heads_with_one_central_its_manifest_decides() {
    let mut other = head(CENTRAL, "Định kỳ");
    other.points.pop();
    let unsigned = || Given { head: other.encode().into(), ..Given::default() };
    let mine = Mine::new();
    assert_eq!(mine.take(unsigned()), Ok(()));
    assert_eq!(mine.take(true_record()), Ok(()));
    assert_eq!(mine.archive().head(&id()), Ok(Some(head(CENTRAL, "Định kỳ"))));
    assert_eq!(mine.take(unsigned()), Err(wrong()));
}

#[test]
fn a_head_that_nobody_signed_changes_none_that_is_known() {
    let mine = Mine::that_was_there(1);
    let longer = head(CENTRAL, "Khác").next(Hash::of(b"a key of nobody"), 5, vec![]).expect("room for an epoch");
    let unsigned = || Given { head: longer.encode().into(), ..Given::default() };
    assert_eq!(mine.take(unsigned()), Ok(()));
    assert_eq!(mine.title(), "Định kỳ");
    let restored = Mine::new();
    assert_eq!(restored.take(record(&head(CENTRAL, "Định kỳ"), 3, &[])), Ok(()));
    assert_eq!(restored.take(unsigned()), Ok(()));
    assert_eq!(restored.title(), "Định kỳ", "a manifest names the other");
    let earlier = Head { ended_unix_ms: Some(1_700_000_050_000), ..head(CENTRAL, "Định kỳ") };
    assert_eq!(restored.take(record(&earlier, 1, &[])), Ok(()), "its central ended it twice");
    assert_eq!(restored.archive().head(&id()), Ok(Some(head(CENTRAL, "Định kỳ"))), "the later manifest counts");
}

#[test]
fn a_point_that_was_away_in_the_end_has_an_older_head_and_is_no_liar() {
    let older = head(CENTRAL, "Định kỳ");
    let newer = older.next(Hash::of(b"next"), 5, vec![]).expect("room for an epoch");
    let mine = Mine::new();
    assert_eq!(mine.take(record(&newer, 0, &[segments(ME, 1)])), Ok(()));
    let from_away = Given { head: older.encode().into(), ..record(&newer, 0, &[segments(ME, 2), segments(LIAR, 3)]) };
    assert_eq!(mine.take(Given { journal: vec![], ..from_away }), Ok(()));
    assert_eq!(mine.archive().head(&id()), Ok(Some(newer)));
    let chain = |of: u8| mine.archive().segment_chain(&id(), number(of), key(of).id()).expect("readable").len();
    assert_eq!((chain(ME), chain(LIAR)), (2, 3), "what it knows beside is taken");
}

#[test]
fn only_what_was_signed_here_and_is_gone_closes_a_session() {
    let signed = head(CENTRAL, "Định kỳ");
    let mine = Mine::that_was_there(2);
    assert_eq!(mine.take(record(&signed, 0, &[segments(ME, 2), segments(LIAR, 1)])), Ok(()));
    assert_eq!(mine.take(record(&signed, 2, &[segments(ME, 2), segments(LIAR, 9)])), Ok(()));
    assert_eq!(mine.last_manifest().map(|last| last.0), Some(2));
    assert!(!mine.is_restored(), "it was off when central signed; it has all that it signed itself");
    assert_eq!(mine.take(record(&signed, 4, &[segments(ME, 3), segments(LIAR, 9)])), Ok(()));
    assert!(mine.is_restored(), "it had signed more");

    let chaired = head(ME, "Định kỳ");
    let behind = |more: fn(&Mine, Given)| {
        let mine = Mine::new();
        mine.archive().put_head(&chaired).expect("room");
        more(&mine, record(&chaired, 0, &[]));
        mine.is_restored()
    };
    assert!(behind(|mine, given| mine.take(given).expect("good")), "a manifest and a journal that are not here");
    assert!(!behind(|mine, given| {
        let parts = check(id(), given.clone(), |_| true).expect("good");
        parts.journal.iter().try_for_each(|entry| mine.archive().append_journal(entry)).expect("room");
        parts.manifests.iter().try_for_each(|manifest| mine.archive().put_manifest(manifest)).expect("room");
        mine.take(given).expect("good");
    }));
}

#[test]
fn a_point_whose_archive_was_lost_signs_again_when_it_has_what_it_signed_before() {
    let after = |used: u64, given: &[Signed<Segment>]| {
        let mine = Mine::new();
        mine.archive().set_owed(&id(), Some(used)).expect("room");
        let put = put_own(mine.archive(), key(ME).id(), &id(), given);
        let chain = mine.archive().segment_chain(&id(), number(ME), key(ME).id()).expect("readable");
        (put.is_ok(), mine.archive().owed(&id()).expect("readable").is_none(), chain.len())
    };
    assert_eq!(after(500, &segments(ME, 3)), (true, true, 3));
    assert_eq!(after(20, &[]), (true, true, 0), "it had recorded for less than half a minute");
    assert_eq!(after(500, &[]), (false, false, 0), "it must have signed something");
    assert_eq!(after(20, &segments(LIAR, 1)), (false, false, 0), "that is another's");
    assert_eq!(after(500, &segments(ME, 3)[1..]), (false, false, 0), "the first is missing");
}
