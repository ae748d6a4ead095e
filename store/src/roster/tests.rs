//! What a roster may say, how it looks as bytes for ever, and that the largest one fits.

use super::*;
use crate::{keys::NodeKey, signed, signed::Signed};

/// The authority of all rosters here.
pub(super) fn authority() -> NodeKey {
    NodeKey::from_bytes(&[0xaa; 32])
}

/// The key of the point made of this byte.
pub(super) fn key(byte: u8) -> NodeKey {
    NodeKey::from_bytes(&[byte; 32])
}

pub(super) fn point(byte: u8, name: &str) -> Point {
    Point {
        node: key(byte).id(),
        wrap: WrapPublic::from_bytes([byte; 32]),
        name: name.into(),
        level: "xã".into(),
        zone: String::new(),
        rights: BTreeSet::from([Right::Chair, Right::Hold]),
        addresses: vec!["10.0.0.7:7400".into()],
        replaces: None,
    }
}

/// The first roster of these points.
pub(super) fn first(points: Vec<Point>) -> Roster {
    Roster {
        number: 1,
        prev: Hash::NONE,
        agency: "UBND tỉnh".into(),
        recovery: WrapPublic::from_bytes([0xcc; 32]),
        issued_unix_ms: 1_700_000_000_000,
        points,
        revoked: vec![],
        void: vec![],
    }
}

/// A roster with something in every field.
fn full() -> Roster {
    let admin = Point { rights: Right::ALL.into(), ..point(1, "Trung tâm") };
    let heir = Point { replaces: Some(key(3).id()), zone: "ngoài đê".into(), ..point(2, "Xã Tân Phú") };
    let gone = Revoked {
        node: key(3).id(),
        name: "Xã Tân Phú".into(),
        reason: "máy hỏng".into(),
        unix_ms: 1_700_000_000_001,
        replaced_by: Some(key(2).id()),
    };
    Roster {
        number: 2,
        prev: Hash::of(b"roster 1"),
        revoked: vec![gone],
        void: vec![GrantId::from_bytes([0xdd; 16])],
        ..first(vec![admin, heir])
    }
}

/// Written by the first version; must be readable for ever.
const VERSION_1: &str = include_str!("../../tests/vectors/roster-v1.hex");

#[test]
fn the_first_version_is_read_for_ever() {
    let kept: Signed<Roster> = Signed::parse(hex::decode(VERSION_1.trim()).unwrap().into()).unwrap();
    assert_eq!(kept.content(), &full());
    assert_eq!(kept.signer(), authority().id());
    assert_eq!(hex::encode(Signed::sound(full(), &authority()).unwrap().bytes()), VERSION_1.trim());
}

#[test]
fn points_are_found_by_name_in_any_case() {
    let roster = full();
    assert_eq!(roster.named("XÃ TÂN PHÚ"), Some(&roster.points[1]));
    assert!(roster.named("trung tâm").unwrap().may(Right::Admin));
    assert!(!roster.named("xã tân phú").unwrap().may(Right::Relay));
    assert_eq!(roster.named("nowhere"), None);
}

#[test]
fn a_roster_that_cannot_be_right_is_neither_signed_nor_read() {
    let check = |change: &dyn Fn(&mut Roster), expected: &str| {
        let mut roster = full();
        change(&mut roster);
        let error = signed::Error::Unsound(expected.into());
        assert_eq!(Signed::sound(roster.clone(), &authority()), Err(error.clone()));
        assert_eq!(Signed::<Roster>::parse(Signed::new(roster, &authority()).bytes().clone()), Err(error));
    };
    check(&|r| r.number = 0, "roster number 0 and a roster before it that do not fit together");
    check(&|r| r.prev = Hash::NONE, "roster number 2 and a roster before it that do not fit together");
    check(&|r| r.agency = " A".into(), "an agency whose name begins or ends with a space");
    let second = |why: &str| format!("point 2 (\"Xã Tân Phú\"): {why}");
    check(&|r| r.points[0].name = "xã tân phú".into(), &second("another point has the same name"));
    check(&|r| r.points[0].node = key(2).id(), &second("another point has the same node"));
    check(&|r| r.points[0].wrap = r.points[1].wrap, &second("another point has the same wrap key"));
    check(&|r| r.points[1].zone = "a\nb".into(), &second("its zone has a control character"));
    check(&|r| r.points[1].replaces = Some(key(9).id()), &second("the node it replaces is not revoked"));
    check(&|r| r.points[1].addresses = vec!["x".into(); ADDRESSES_MAX + 1], &second("more than 16 addresses"));
    check(&|r| r.points[1].addresses = vec![String::new()], &second("an address of it is empty"));
    check(&|r| r.points[0].name.clear(), "point 1 (\"\"): its name is empty");
    check(&|r| r.revoked[0].node = key(1).id(), "point 1 (\"Trung tâm\"): its node is revoked");
    check(
        &|r| r.revoked.push(r.revoked[0].clone()),
        &format!("revoked node {}: it is there twice", key(3).id().short()),
    );
    check(&|r| r.void = vec![GrantId::from_bytes([1; 16]); VOID_MAX + 1], "65537 void grants; 65536 are possible");
}

#[test]
fn a_full_roster_fits() {
    let points = (0..POINTS_MAX).map(|n| {
        let seed = Hash::of(&n.to_be_bytes());
        Point {
            node: NodeId::from_bytes(*seed.as_bytes()),
            wrap: WrapPublic::from_bytes(*seed.as_bytes()),
            name: format!("Ủy ban nhân dân xã Nguyễn Bỉnh Khiêm số {n}"),
            zone: "phía bắc sông Thái Bình".into(),
            rights: Right::ALL.into(),
            addresses: vec!["113.160.224.117:7400".into(), "[2001:db8:1234:5678:9abc:def0:1234:5678]:7400".into()],
            ..point(0, "")
        }
    });
    let void = (0..VOID_MAX as u64)
        .map(|n| GrantId::from_bytes(*Hash::of(&n.to_be_bytes()).as_bytes().first_chunk().unwrap()));
    let roster = Roster { void: void.collect(), ..first(points.collect()) };
    let signed = Signed::sound(roster, &authority()).unwrap();
    assert!(signed.bytes().len() < Roster::LEN_MAX / 2, "{}", signed.bytes().len());
    assert_eq!(Signed::parse(signed.bytes().clone()).unwrap(), signed);
}

#[test]
fn a_roster_too_long_to_be_read_is_not_signed() {
    let name = |n| format!("{n}{}", "ủ".repeat(190));
    let long = (0..POINTS_MAX).map(|n| {
        let seed = *Hash::of(&n.to_be_bytes()).as_bytes();
        let (node, wrap) = (NodeId::from_bytes(seed), WrapPublic::from_bytes(seed));
        Point { node, wrap, name: name(n), level: name(n), zone: name(n), ..point(0, "") }
    });
    let error = Signed::sound(first(long.collect()), &authority()).unwrap_err();
    assert!(matches!(error, signed::Error::TooLong { max: Roster::LEN_MAX, .. }), "{error}");
}
