//! Whoever is told the same knows the same; what is forged, old, used or void changes nothing.

use proptest::prelude::*;

use super::*;
use crate::keys::NodeKey;
use crate::roster::Proof;
use crate::roster::tests::{authority, first, key, point};

const NOT_AFTER: u64 = 2_000;

fn id(byte: u8) -> NodeId {
    key(byte).id()
}

/// The key that a code's secret gives for this grant.
fn code_key(grant: u8) -> NodeKey {
    NodeKey::from_bytes(&[grant ^ 0xff; 32])
}

/// A grant redeemed by point 1.
fn grant(byte: u8, name: &str) -> Grant {
    Grant {
        id: GrantId::from_bytes([byte; 16]),
        issuer: id(1),
        name: name.into(),
        level: "xã".into(),
        zone: "ven sông".into(),
        rights: BTreeSet::from([Right::Hold]),
        replaces: None,
        key: code_key(byte).id(),
        not_after_unix_ms: NOT_AFTER,
    }
}

/// The admission of a node on a grant, all as it should be.
fn good(grant: &Grant, node: u8, unix_ms: u64) -> Admission {
    let wrap = WrapPublic::from_bytes([node; 32]);
    Admission {
        grant: Signed::sound(grant.clone(), &authority()).unwrap().bytes().clone(),
        node: id(node),
        wrap,
        addresses: vec!["10.0.0.9:7400".into()],
        proof: Proof::new(&code_key(grant.id.as_bytes()[0]), &grant.id, &id(node), &wrap),
        unix_ms,
    }
}

fn admission(grant: &Grant, node: u8, unix_ms: u64) -> Signed<Admission> {
    Signed::sound(good(grant, node, unix_ms), &key(1)).unwrap()
}

fn sign(roster: Roster) -> Signed<Roster> {
    Signed::sound(roster, &authority()).unwrap()
}

/// Points 1 (admin), 2 and 3.
fn membership() -> Membership {
    let admin = Point { rights: BTreeSet::from([Right::Admin]), ..point(1, "Trung tâm") };
    let roster = first(vec![admin, point(2, "Xã Hai"), point(3, "Xã Ba")]);
    Membership::new(sign(roster), &authority().id()).unwrap()
}

/// The same membership after the authority signed what follows, changed.
fn followed(before: &Membership, change: impl FnOnce(&mut Roster)) -> Signed<Roster> {
    let mut next = before.next_roster(1_700_000_000_001);
    change(&mut next);
    sign(next)
}

fn revoke(roster: &mut Roster, node: u8) {
    let place = roster.points.iter().position(|point| point.node == id(node)).unwrap();
    let point = roster.points.remove(place);
    roster.revoked.push(Revoked {
        node: point.node,
        name: point.name,
        reason: "thử".into(),
        unix_ms: 5,
        replaced_by: None,
    });
}

fn names(membership: &Membership) -> Vec<&str> {
    membership.points().iter().map(|point| point.name.as_str()).collect()
}

/// Written by the first version; must be readable for ever.
const VERSION_1: &str = include_str!("../../../tests/vectors/membership-v1.hex");

#[test]
fn the_first_version_is_read_for_ever() {
    let mut ours = membership();
    ours.merge_admission(admission(&grant(1, "Xã Bốn"), 4, 100)).unwrap();
    assert_eq!(hex::encode(ours.encode()), VERSION_1.trim());
    assert_eq!(Membership::decode(hex::decode(VERSION_1.trim()).unwrap().into()), Ok(ours.clone()));
    let kept = "40ae7a11f8404a94cdaf03a46f6652d3d74a4654204f9c468916450b1a228f28";
    assert_eq!(ours.hash().to_string(), kept);
}

#[test]
fn an_admitted_node_is_a_point_as_its_grant_says() {
    let mut ours = membership();
    let admission = admission(&grant(1, "Xã Bốn"), 4, 100);
    assert_eq!(ours.merge_admission(admission.clone()), Ok(true));
    assert_eq!(ours.merge_admission(admission.clone()), Ok(false));
    let point = ours.named("xã bốn").unwrap();
    assert_eq!((point.node, point.wrap), (id(4), admission.content().wrap));
    assert_eq!((point.zone.as_str(), &point.addresses), ("ven sông", &admission.content().addresses));
    assert!(ours.may(&id(4), Right::Hold) && !ours.may(&id(4), Right::Chair) && !ours.may(&id(9), Right::Hold));
    assert_eq!(names(&ours), ["Trung tâm", "Xã Hai", "Xã Ba", "Xã Bốn"]);
}

#[test]
fn an_admission_that_is_not_good_is_refused_in_a_sentence() {
    let the = grant(1, "Xã Bốn");
    let check = |admission: Signed<Admission>, expected: &str| {
        let mut ours = membership();
        let Err(Error::Admission { why, .. }) = ours.merge_admission(admission) else { panic!("{expected}") };
        assert!(why.to_string().contains(expected), "{why}");
        assert_eq!(ours, membership(), "nothing of it is kept");
    };
    let signed = |admission| Signed::sound(admission, &key(1)).unwrap();

    check(Signed::sound(good(&the, 4, 100), &key(2)).unwrap(), "only");
    check(admission(&Grant { key: code_key(7).id(), ..the.clone() }, 4, 100), "does not prove");
    check(signed(Admission { node: id(5), ..good(&the, 4, 100) }), "does not prove");
    check(signed(Admission { wrap: WrapPublic::from_bytes([9; 32]), ..good(&the, 4, 100) }), "does not prove");
    check(signed(Admission { proof: Proof::from_bytes([0; 64]), ..good(&the, 4, 100) }), "does not prove");
    check(admission(&the, 4, NOT_AFTER + 1), "had expired");
    let foreign = Signed::sound(the.clone(), &key(1)).unwrap().bytes().clone();
    check(signed(Admission { grant: foreign, ..good(&the, 4, 100) }), "not the authority");
    check(signed(Admission { grant: Bytes::from_static(b"x"), ..good(&the, 4, 100) }), "cannot be read");
    let roster = membership().roster().bytes().clone();
    check(signed(Admission { grant: roster, ..good(&the, 4, 100) }), "cannot be read");
}

#[test]
fn a_void_grant_admits_nobody_and_puts_out_whom_it_admitted() {
    let the = grant(1, "Xã Bốn");
    let taken_back = followed(&membership(), |next| next.void.push(the.id));
    let mut before = membership();
    before.merge_admission(admission(&the, 4, 100)).unwrap();
    let mut after = membership();
    after.merge_roster(taken_back.clone()).unwrap();
    assert_eq!(after.merge_admission(admission(&the, 4, 100)), Err(Error::Admission { node: id(4), why: Unfit::Void }));
    assert!(before.point(&id(4)).is_some());
    assert_eq!(before.merge_roster(taken_back), Ok(true));
    assert_eq!(before.point(&id(4)), None);
    assert_eq!(before, after);
}

#[test]
fn what_a_revoked_point_let_in_is_no_point_until_a_roster_says_so() {
    let the = grant(1, "Xã Bốn");
    let mut ours = membership();
    ours.merge_admission(admission(&the, 4, 100)).unwrap();
    let mut absorbed = ours.clone();
    let without = followed(&membership(), |next| revoke(next, 1));
    ours.merge_roster(without).unwrap();
    assert_eq!(names(&ours), ["Xã Hai", "Xã Ba"]);
    assert_eq!(
        ours.merge_admission(admission(&the, 4, 100)),
        Err(Error::Admission { node: id(4), why: Unfit::Revoked })
    );
    let knowing = followed(&absorbed, |next| revoke(next, 1));
    absorbed.merge_roster(knowing).unwrap();
    assert_eq!(names(&absorbed), ["Xã Hai", "Xã Ba", "Xã Bốn"]);
}

#[test]
fn the_roster_that_follows_absorbs_the_admissions_for_good() {
    let the = grant(1, "Xã Bốn");
    let mut ours = membership();
    ours.merge_admission(admission(&the, 4, 100)).unwrap();
    let points = ours.points().to_vec();
    let next = followed(&ours, |_| {});
    assert_eq!(ours.merge_roster(next), Ok(true));
    assert_eq!(ours.points(), points);
    assert_eq!(ours.admissions().count(), 0);
    // Its issuer cannot use the grant again, and a peer that has not heard says nothing wrong.
    assert_eq!(ours.merge_admission(admission(&the, 4, 100)), Ok(false));
    assert_eq!(ours.merge_admission(admission(&the, 5, 50)), Err(Error::Admission { node: id(5), why: Unfit::Void }));
}

#[test]
fn of_two_nodes_on_one_grant_the_earlier_is_in_whichever_is_heard_first() {
    let the = grant(1, "Xã Bốn");
    let (early, late) = (admission(&the, 4, 100), admission(&the, 5, 101));
    let mut one = membership();
    one.merge_admission(early.clone()).unwrap();
    let refused = one.merge_admission(late.clone());
    assert_eq!(refused, Err(Error::Admission { node: id(5), why: Unfit::Used(id(4)) }));
    let mut two = membership();
    two.merge_admission(late).unwrap();
    assert!(two.point(&id(5)).is_some());
    assert_eq!(two.merge_admission(early), Ok(true));
    assert_eq!(two.point(&id(5)), None);
    assert_eq!(one, two);
}

#[test]
fn a_replacement_puts_the_old_node_out_and_keeps_the_name() {
    let the = Grant { replaces: Some(id(2)), ..grant(1, "Xã Hai") };
    let mut ours = membership();
    ours.merge_admission(admission(&the, 4, 100)).unwrap();
    assert_eq!(ours.named("Xã Hai").unwrap().node, id(4));
    assert_eq!(ours.point(&id(2)), None);
    let revoked = ours.revoked(&id(2)).unwrap();
    assert_eq!((revoked.replaced_by, revoked.unix_ms), (Some(id(4)), 100));
    // Nobody takes the same place once more.
    let again = Grant { replaces: Some(id(2)), ..grant(2, "Xã Năm") };
    assert_eq!(ours.merge_admission(admission(&again, 5, 200)), Ok(true));
    assert_eq!(ours.point(&id(5)), None);
    let next = followed(&ours, |_| {});
    ours.merge_roster(next).unwrap();
    assert_eq!(ours.revoked(&id(2)).unwrap().replaced_by, Some(id(4)));
    assert_eq!(ours.point(&id(4)).unwrap().replaces, Some(id(2)));
}

#[test]
fn a_place_of_a_node_already_revoked_can_still_be_taken() {
    let mut ours = membership();
    ours.merge_roster(followed(&membership(), |next| revoke(next, 2))).unwrap();
    let the = Grant { replaces: Some(id(2)), ..grant(1, "Xã Hai") };
    ours.merge_admission(admission(&the, 4, 100)).unwrap();
    assert_eq!(ours.named("Xã Hai").unwrap().node, id(4));
    assert_eq!(ours.revoked(&id(2)).unwrap().replaced_by, Some(id(4)));
    // A revoked node itself does not come back, whoever lets it in.
    let back = grant(2, "Xã Hai cũ");
    ours.merge_admission(admission(&back, 2, 100)).unwrap();
    assert_eq!(ours.point(&id(2)), None);
}

#[test]
fn a_name_that_is_taken_is_not_given_again() {
    let mut ours = membership();
    assert_eq!(ours.merge_admission(admission(&grant(1, "xã HAI"), 4, 100)), Ok(true));
    assert_eq!(ours.point(&id(4)), None);
    assert_eq!(ours.named("Xã Hai").unwrap().node, id(2));
    assert!(ours.admitted().all(|(_, _, effect)| !effect));
    // It waits for the name.
    ours.merge_roster(followed(&ours.clone(), |next| revoke(next, 2))).unwrap();
    assert_eq!(ours.named("Xã Hai").unwrap().node, id(4));
}

#[test]
fn there_is_no_way_back_and_no_fork() {
    let old = membership();
    let mut ours = membership();
    let second = followed(&old, |next| revoke(next, 2));
    assert_eq!(ours.merge_roster(second.clone()), Ok(true));
    assert_eq!(ours.merge_roster(second.clone()), Ok(false));
    let newest = ours.clone();
    assert_eq!(ours.merge_roster(old.roster().clone()), Err(Error::Older { ours: 2, theirs: 1 }));

    let other = followed(&old, |next| revoke(next, 3));
    let fork = |number, ours: Hash, theirs: Hash| Error::Fork { number, ours, theirs };
    assert_eq!(ours.merge_roster(other.clone()), Err(fork(2, second.hash(), other.hash())));
    let mut astray = membership();
    astray.merge_roster(other.clone()).unwrap();
    let third = followed(&astray, |_| {});
    assert_eq!(ours.merge_roster(third.clone()), Err(fork(2, second.hash(), other.hash())));
    // Two numbers ahead the link is not seen, but what it forgets is.
    astray.merge_roster(third).unwrap();
    let error = ours.merge_roster(followed(&astray, |_| {})).unwrap_err();
    assert!(error.to_string().starts_with("roster 4 forgets that node"), "{error}");
    assert_eq!(ours, newest);
}

#[test]
fn another_authority_has_no_say() {
    let forged = Signed::sound(membership().next_roster(0), &key(1)).unwrap();
    let error = Error::Authority { signer: id(1), authority: authority().id() };
    assert_eq!(membership().merge_roster(forged.clone()), Err(error.clone()));
    assert_eq!(Membership::new(forged, &authority().id()), Err(error));
}

#[test]
fn a_roster_may_forget_no_void_grant() {
    let mut ours = membership();
    ours.merge_roster(followed(&membership(), |next| next.void.push(GrantId::from_bytes([7; 16])))).unwrap();
    let error = ours.merge_roster(followed(&ours.clone(), |next| next.void.clear())).unwrap_err();
    assert!(error.to_string().starts_with("roster 3 forgets that grant 0707"), "{error}");
}

#[test]
fn bytes_that_were_changed_are_refused() {
    let mut ours = membership();
    ours.merge_admission(admission(&grant(1, "Xã Bốn"), 4, 100)).unwrap();
    ours.merge_admission(admission(&grant(2, "Xã Năm"), 5, 100)).unwrap();
    let bytes = ours.encode();
    assert_eq!(Membership::decode(bytes.clone().into()).unwrap(), ours);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        assert!(Membership::decode(changed.into()).is_err(), "byte {at}");
        // Cut off between two records it is a membership that knows less.
        if let Ok(less) = Membership::decode(Bytes::copy_from_slice(&bytes[..at])) {
            assert!(less.admissions().count() < 2);
        }
    }
    let (first, second) = (admission(&grant(1, "Xã Bốn"), 4, 100), admission(&grant(2, "Xã Năm"), 5, 100));
    let mut swapped = membership().encode();
    for record in [&second, &first] {
        swapped.extend(u32::try_from(record.bytes().len()).unwrap().to_be_bytes());
        swapped.extend(record.bytes());
    }
    assert_eq!(Membership::decode(swapped.into()), Err(Error::Form("have records twice or out of order")));
}

/// Something a node may be told.
#[derive(Debug, Clone)]
enum News {
    Roster(Signed<Roster>),
    Admission(Signed<Admission>),
}

/// News of a small world in which names, grants, nodes and replacements collide often.
fn news() -> impl Strategy<Value = News> {
    let rosters = {
        let two = followed(&membership(), |next| revoke(next, 2));
        let mut ours = membership();
        ours.merge_roster(two.clone()).unwrap();
        ours.merge_admission(admission(&grant(1, "Xã Bốn"), 4, 101)).unwrap();
        let three = followed(&ours, |next| next.void.push(GrantId::from_bytes([3; 16])));
        ours.merge_roster(three.clone()).unwrap();
        let four = followed(&ours, |next| revoke(next, 4));
        prop::sample::select(vec![membership().roster().clone(), two, three, four])
    };
    let admissions = (1u8..6, 0usize..3, 2u8..8, prop::option::of(2u8..5), 99u64..103).prop_map(
        |(id_byte, name, node, replaces, unix_ms)| {
            let name = ["Xã Bốn", "Xã Hai", "Xã Sáu"][name];
            admission(&Grant { replaces: replaces.map(id), ..grant(id_byte, name) }, node, unix_ms)
        },
    );
    prop_oneof![1 => rosters.prop_map(News::Roster), 4 => admissions.prop_map(News::Admission)]
}

fn tell(membership: &mut Membership, news: &News) {
    let number = membership.number();
    let _ = match news.clone() {
        News::Roster(roster) => membership.merge_roster(roster),
        News::Admission(admission) => membership.merge_admission(admission),
    };
    assert!(membership.number() >= number, "never back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_told_the_same_knows_the_same(
        (all, shuffled) in prop::collection::vec(news(), 0..12).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        let (mut one, mut two) = (membership(), membership());
        for news in &all {
            tell(&mut one, news);
            let before = one.clone();
            tell(&mut one, news);
            prop_assert_eq!(&one, &before, "twice is once");
        }
        for news in &shuffled {
            tell(&mut two, news);
        }
        prop_assert_eq!(one.hash(), two.hash());
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(Membership::decode(one.encode().into()).unwrap(), one.clone());

        let next = Signed::sound(one.next_roster(0), &authority());
        let points = one.points().to_vec();
        prop_assert!(one.merge_roster(next.unwrap()).unwrap());
        prop_assert_eq!(one.points(), points, "absorbing changes no point");
    }

    #[test]
    fn memberships_put_together_know_what_both_knew(
        left in prop::collection::vec(news(), 0..8),
        right in prop::collection::vec(news(), 0..8),
    ) {
        let (mut one, mut two, mut all) = (membership(), membership(), membership());
        left.iter().for_each(|news| { tell(&mut one, news); tell(&mut all, news) });
        right.iter().for_each(|news| { tell(&mut two, news); tell(&mut all, news) });
        let (mut joined, mut other_way) = (one.clone(), two.clone());
        let _ = joined.merge(&two);
        let _ = other_way.merge(&one);
        prop_assert_eq!(&joined, &other_way);
        prop_assert_eq!(&joined, &all);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Membership::decode(bytes.clone().into());
        let _ = Membership::decode([&[1, 0, 0, 0, 40][..], &bytes].concat().into());
    }
}
