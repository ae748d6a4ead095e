//! The table of rights: for each deed who may, and what is said to everybody else.

use store::id::{Hash, PointNumber, SessionId};
use store::session::{self, Period, State};

use super::*;

/// The points of the test's mesh. Node 0 is this point; each has the right it is named by and no other.
const US: u8 = 0;
const CHAIR: u8 = 1;
const RELAY: u8 = 2;
const HOLD: u8 = 3;
const READ: u8 = 4;
const ADMIN: u8 = 5;
const PLAIN: u8 = 6;
const REVOKED: u8 = 7;
const STRANGER: u8 = 8;

fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node + 1; 32])
}

/// A mesh in which this point has these rights.
fn members(ours: &[Right]) -> Members {
    let rights: [(u8, &[Right]); 7] = [
        (US, ours),
        (CHAIR, &[Right::Chair]),
        (RELAY, &[Right::Relay]),
        (HOLD, &[Right::Hold]),
        (READ, &[Right::Read]),
        (ADMIN, &[Right::Admin]),
        (PLAIN, &[]),
    ];
    let member = |(node, rights): (u8, &[Right])| {
        (id(node), Member { name: format!("Điểm {node}"), rights: rights.iter().copied().collect() })
    };
    Members::new(id(US), rights.into_iter().map(member).collect(), [id(REVOKED)].into())
}

fn account(role: Role) -> Who {
    Who::Account { name: "lan".into(), role }
}

fn head(central: u8, points: &[u8]) -> Head {
    let member = |(number, node): (u16, &u8)| session::Member {
        number: PointNumber::new(number).unwrap(),
        node: id(*node),
        name: format!("Điểm {node}"),
    };
    Head {
        id: SessionId::from_bytes([9; 16]),
        title: "Tiếp công dân".into(),
        state: State::Open,
        central: id(central),
        points: (0..).zip(points).map(member).collect(),
        epochs: vec![Period::first(Hash::NONE)],
        suite: Default::default(),
        started_unix_ms: 0,
        ended_unix_ms: None,
    }
}

/// Every node but this one, allowed or denied as `expected` says of it; a stranger and a revoked point never may.
fn nodes(deed: Deed<'_>, expected: impl Fn(u8) -> Result<(), Denied>) {
    let mesh = members(&Right::ALL);
    for node in [CHAIR, RELAY, HOLD, READ, ADMIN, PLAIN] {
        assert_eq!(may(&mesh, &Who::Node(id(node)), deed), expected(node), "node {node}: {deed:?}");
    }
    assert_eq!(may(&mesh, &Who::Node(id(REVOKED)), deed), Err(Denied::Revoked), "{deed:?}");
    assert_eq!(may(&mesh, &Who::Node(id(STRANGER)), deed), Err(Denied::Stranger), "{deed:?}");
    for who in [Who::Owner { uid: 0 }, account(Role::Admin)] {
        assert_eq!(may(&mesh, &who, deed), Err(Denied::Entrance), "{deed:?}");
    }
    assert_eq!(may(&mesh, &Who::Browser, deed), Err(Denied::Login), "{deed:?}");
    assert_eq!(may(&mesh, &Who::User { uid: 1 }, deed), Err(Denied::User), "{deed:?}");
}

/// Allowed with this right in the roster.
fn with(right: Right) -> impl Fn(u8) -> Result<(), Denied> {
    let holder = [CHAIR, RELAY, HOLD, READ, ADMIN][Right::ALL.iter().position(|known| *known == right).unwrap()];
    move |node| if node == holder { Ok(()) } else { Err(Denied::Lacks(right)) }
}

#[test]
fn every_point_is_connected_and_told_the_roster_and_nobody_else() {
    nodes(Deed::Connect, |_| Ok(()));
    nodes(Deed::Learn, |_| Ok(()));
}

#[test]
fn the_right_chair_calls_to_a_session() {
    let heads: Vec<_> = (0..=STRANGER).map(|central| head(central, &[US, central])).collect();
    let mesh = members(&[]);
    for node in 1..=STRANGER {
        let denied = may(&mesh, &Who::Node(id(node)), Deed::Invite(&heads[usize::from(node)]));
        let expected = match node {
            CHAIR => Ok(()),
            REVOKED => Err(Denied::Revoked),
            STRANGER => Err(Denied::Stranger),
            _ => Err(Denied::Lacks(Right::Chair)),
        };
        assert_eq!(denied, expected, "node {node}");
    }
}

#[test]
fn a_call_comes_from_its_own_central_names_us_and_no_stranger() {
    let mesh = members(&[]);
    let check = |head: Head, expected| {
        assert_eq!(may(&mesh, &Who::Node(id(CHAIR)), Deed::Invite(&head)), expected, "{head:?}");
    };
    check(head(CHAIR, &[CHAIR, US, PLAIN]), Ok(()));
    check(head(PLAIN, &[CHAIR, US, PLAIN]), Err(Denied::NotCentral));
    check(head(CHAIR, &[CHAIR, PLAIN]), Err(Denied::NotNamed));
    check(head(CHAIR, &[CHAIR, US, STRANGER]), Err(Denied::Unknown(id(STRANGER))));
    check(head(CHAIR, &[CHAIR, US, REVOKED]), Err(Denied::Unknown(id(REVOKED))));
    let removed = |number| vec![PointNumber::new(number).unwrap()];
    let without = |head: Head, number| head.next(Hash::NONE, 0, removed(number)).unwrap();
    check(without(head(CHAIR, &[CHAIR, US, REVOKED]), 2), Ok(()));
    check(without(head(CHAIR, &[CHAIR, US, PLAIN]), 1), Err(Denied::NotNamed));
}

#[test]
fn only_central_speaks_for_a_session() {
    nodes(Deed::Direct(Part::Central), |_| Ok(()));
    for part in [Part::Point, Part::Removed, Part::Outside] {
        nodes(Deed::Direct(part), |_| Err(Denied::NotCentral));
    }
    nodes(Deed::Direct(Part::Unknown), with(Right::Chair));
}

#[test]
fn taking_part_is_reporting_and_having_what_is_live() {
    for deed in [Deed::Report, Deed::Receive, |part| Deed::Send(part, Tracks::Own)] {
        nodes(deed(Part::Central), |_| Ok(()));
        nodes(deed(Part::Point), |_| Ok(()));
        nodes(deed(Part::Removed), |_| Err(Denied::Removed));
        nodes(deed(Part::Outside), |_| Err(Denied::Outside));
    }
    nodes(Deed::Receive(Part::Unknown), |_| Err(Denied::Outside));
    nodes(Deed::Report(Part::Unknown), |_| Ok(()));
}

#[test]
fn the_right_relay_forwards_what_others_made() {
    let forward = |part| Deed::Send(part, Tracks::Anothers);
    nodes(forward(Part::Central), |_| Ok(()));
    nodes(forward(Part::Point), |node| if node == RELAY { Ok(()) } else { Err(Denied::Another) });
    nodes(forward(Part::Removed), |_| Err(Denied::Removed));
    nodes(forward(Part::Outside), |_| Err(Denied::Outside));
}

#[test]
fn the_right_read_fetches_what_one_took_part_in() {
    let fetch = |part| Deed::Fetch { part, assigned: false };
    nodes(fetch(Part::Central), |_| Ok(()));
    nodes(fetch(Part::Point), with(Right::Read));
    nodes(fetch(Part::Removed), |_| Err(Denied::Removed));
    nodes(fetch(Part::Outside), |_| Err(Denied::Outside));
    nodes(fetch(Part::Unknown), |_| Err(Denied::Outside));
}

#[test]
fn only_central_says_who_is_to_hold_a_session() {
    let assign = |part, succeeds| Deed::Assign { part, succeeds };
    nodes(assign(Part::Central, false), |_| Ok(()));
    nodes(assign(Part::Unknown, false), with(Right::Chair));
    nodes(assign(Part::Point, true), |_| Ok(()));
    nodes(assign(Part::Removed, true), |_| Err(Denied::NotCentral));
    for part in [Part::Point, Part::Removed, Part::Outside] {
        nodes(assign(part, false), |_| Err(Denied::NotCentral));
    }
}

#[test]
fn the_right_hold_fetches_what_one_was_given_to_keep() {
    let fetch = |part| Deed::Fetch { part, assigned: true };
    nodes(fetch(Part::Outside), with(Right::Hold));
    nodes(fetch(Part::Unknown), with(Right::Hold));
    nodes(fetch(Part::Point), |node| if node == HOLD { Ok(()) } else { with(Right::Read)(node) });
    nodes(fetch(Part::Removed), |_| Err(Denied::Removed));
}

/// What people may do at a point: with `right` if any is needed, in these roles.
fn people(deed: Deed<'_>, right: Option<Right>, roles: &[Role]) {
    let (all, none) = (members(&Right::ALL), members(&[]));
    let without = right.map_or(Ok(()), |right| Err(Denied::WeLack(right)));
    assert_eq!(may(&all, &Who::User { uid: 1 }, deed), Err(Denied::User), "{deed:?}");
    assert_eq!(may(&all, &Who::Owner { uid: 1 }, deed), Ok(()), "{deed:?}");
    assert_eq!(may(&none, &Who::Owner { uid: 0 }, deed), without, "{deed:?}");
    for role in Role::ALL {
        let allowed = roles.contains(&role);
        let refused = if roles.is_empty() { Denied::Entrance } else { Denied::Role(role) };
        assert_eq!(may(&all, &account(role), deed), if allowed { Ok(()) } else { Err(refused) }, "{deed:?}");
        assert_eq!(may(&none, &account(role), deed), if allowed { without } else { Err(refused) }, "{deed:?}");
    }
    let unknown = if deed == Deed::See { Ok(()) } else { Err(Denied::Login) };
    assert_eq!(may(&all, &Who::Browser, deed), unknown, "{deed:?}");
    for node in [CHAIR, RELAY, HOLD, READ, ADMIN, PLAIN] {
        assert_eq!(may(&all, &Who::Node(id(node)), deed), Err(Denied::Entrance), "nodes do not command each other");
    }
}

#[test]
fn what_people_may_is_bounded_by_their_role_and_by_their_points_rights() {
    let conduct = [Role::Operator, Role::Chair, Role::Admin];
    people(Deed::See, None, &Role::ALL);
    people(Deed::Start, Some(Right::Chair), &conduct);
    people(Deed::End, None, &conduct);
    people(Deed::Remove, Some(Right::Chair), &[Role::Chair, Role::Admin]);
    people(Deed::Note, None, &Role::ALL);
    people(Deed::Read, Some(Right::Read), &[Role::Secretary, Role::Chair]);
    people(Deed::Copy, None, &[]);
    people(Deed::Scrub, None, &[Role::Operator, Role::Admin]);
    people(Deed::HandIn, None, &[Role::Admin]);
    people(Deed::Administer, Some(Right::Admin), &[Role::Admin]);
    people(Deed::ReadLog, None, &[Role::Admin]);
    people(Deed::Stop, None, &[Role::Operator, Role::Admin]);
}

#[test]
fn a_point_that_was_revoked_itself_may_do_nothing_that_needs_a_right() {
    let revoked = Members::new(id(US), BTreeMap::new(), [id(US)].into());
    assert_eq!(may(&revoked, &Who::Owner { uid: 0 }, Deed::Start), Err(Denied::WeLack(Right::Chair)));
    assert_eq!(may(&revoked, &Who::Owner { uid: 0 }, Deed::Read), Err(Denied::WeLack(Right::Read)));
    assert_eq!(may(&revoked, &Who::Owner { uid: 0 }, Deed::See), Ok(()));
}

#[test]
fn what_is_missing_is_said_in_a_sentence() {
    for (denied, sentence) in [
        (Denied::Lacks(Right::Read), "the sender's roster entry lacks the right \"read\""),
        (
            Denied::WeLack(Right::Chair),
            "this point's roster entry lacks the right \"chair\": ask whoever keeps the roster for it",
        ),
        (
            Denied::Role(Role::Secretary),
            "the role \"secretary\" does not allow that: log in as somebody else, or ask an administrator of this point",
        ),
    ] {
        assert_eq!(denied.to_string(), sentence);
    }
    assert!(Denied::Another.is_forgery() && Denied::NotCentral.is_forgery() && !Denied::Stranger.is_forgery());
}

#[test]
fn a_part_follows_from_the_head() {
    let head = head(CHAIR, &[CHAIR, US, PLAIN]).next(Hash::NONE, 0, vec![PointNumber::new(2).unwrap()]).unwrap();
    let parts = [CHAIR, US, PLAIN, READ].map(|node| Part::of(&head, &id(node)));
    assert_eq!(parts, [Part::Central, Part::Point, Part::Removed, Part::Outside]);
}

#[test]
fn who_lost_its_archive_gets_back_what_it_had_a_right_to() {
    nodes(Deed::Recover(Part::Central, Tracks::Anothers), |_| Ok(()));
    for part in [Part::Central, Part::Point, Part::Removed] {
        nodes(Deed::Recover(part, Tracks::Own), |_| Ok(()));
    }
    nodes(Deed::Recover(Part::Point, Tracks::Anothers), |node| match node {
        HOLD | READ => Ok(()),
        _ => Err(Denied::Lacks(Right::Read)),
    });
    nodes(Deed::Recover(Part::Removed, Tracks::Anothers), |_| Err(Denied::Removed));
    for part in [Part::Outside, Part::Unknown] {
        for tracks in [Tracks::Own, Tracks::Anothers] {
            nodes(Deed::Recover(part, tracks), |_| Err(Denied::Outside));
        }
    }
}

#[test]
fn a_new_machine_has_the_part_of_those_whose_place_it_took_and_of_nobody_else() {
    use store::keys::{NodeKey, WrapKey};
    use store::roster::{Revoked, Roster};
    use store::signed::Signed;

    let revoked = |node, by: Option<u8>| Revoked {
        node: id(node),
        name: format!("Điểm {node}"),
        reason: "replaced".into(),
        unix_ms: 0,
        replaced_by: by.map(id),
    };
    let point = |node: u8, replaces: Option<u8>| Point {
        node: id(node),
        wrap: WrapKey::from_bytes(&[node + 1; 32]).public(),
        name: format!("Xã {node}"),
        level: String::new(),
        zone: String::new(),
        rights: BTreeSet::new(),
        addresses: vec![],
        replaces: replaces.map(id),
    };
    let roster = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: "Thử".into(),
        recovery: WrapKey::from_bytes(&[99; 32]).public(),
        issued_unix_ms: 0,
        points: vec![point(0, None), point(3, Some(2))],
        // The first machine, its heir, which died too, and one that was thrown out.
        revoked: vec![revoked(1, Some(2)), revoked(2, Some(3)), revoked(4, None)],
        void: vec![],
    };
    let key = NodeKey::from_bytes(&[42; 32]);
    let roster = Membership::new(Signed::new(roster, &key), &key.id()).unwrap();
    let mesh = Members::of(id(0), &roster);
    assert_eq!(mesh.with_before(&id(3)), [1, 2, 3].map(id).into());
    assert_eq!(mesh.with_before(&id(0)), [id(0)].into());
    assert!(mesh.knew(&id(4)) && !mesh.knew(&id(5)));
    let part = |of: &Head, node| Part::best(of, &mesh.with_before(&id(node)));
    assert_eq!(part(&head(1, &[0, 1]), 3), Part::Central);
    assert_eq!(part(&head(0, &[0, 2]), 3), Part::Point);
    assert_eq!(part(&head(0, &[0, 4]), 3), Part::Outside);
    let mut removed = head(0, &[0, 2]);
    let (number, commitment) = (removed.points[1].number, Hash::NONE);
    removed = removed.next(commitment, 1, vec![number]).unwrap();
    assert_eq!(part(&removed, 3), Part::Removed);
}
