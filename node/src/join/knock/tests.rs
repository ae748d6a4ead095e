//! What a host can and cannot make a new node believe.

use store::keys::{NodeKey, WrapKey};

use super::super::tests::{
    House, NOW, admit, arrives, authority, converse, grant, granted, host, invite, line, membership, newcomer,
};
use super::*;
use crate::join::invite::Invite;

/// A knock that has been welcomed and has asked.
fn asked(secret: &Secret, node: &NodeKey) -> (Knock, Ask) {
    let line = line(node, 1);
    let (mut knock, _) = Knock::new(secret.clone(), line, arrives(node));
    assert!(!knock.is_with_host());
    let proof = *secret.mac_key().proof(Role::Host, &line, &secret.id()).as_bytes();
    let Ok(Next::Say(ask)) = knock.hear(&wire::encode(&Welcome { proof })) else { panic!("it goes on") };
    assert!(knock.is_with_host());
    (knock, wire::decode(&ask).unwrap())
}

fn admitted(admission: &Signed<Admission>, membership_len: usize) -> Bytes {
    let admission = admission.bytes().clone();
    wire::encode(&Answer::Admitted { admission, membership_len: membership_len as u64, unix_ms: NOW })
}

#[test]
fn nothing_of_the_new_node_is_said_before_the_host_has_proved_itself() {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(2));
    let line = line(&node, 1);
    let (mut knock, first) = Knock::new(secret.clone(), line, arrives(&node));
    let has = |part: &[u8]| first.windows(part.len()).any(|window| window == part);
    assert!(!has(arrives(&node).wrap.as_bytes()) && !has(b"10.0.0.7") && !has(secret.signing_key().id().as_bytes()));
    // Its own proof sent back, the other role's, or rubbish.
    let own = *secret.mac_key().proof(Role::Knocker, &line, &secret.id()).as_bytes();
    for bad in [wire::encode(&Welcome { proof: own }), wire::encode(&Answer::Used), Bytes::from_static(b"x")] {
        assert_eq!(knock.hear(&bad).unwrap_err(), Error::Imposter);
        (knock, _) = Knock::new(secret.clone(), line, arrives(&node));
    }
}

#[test]
fn an_admission_must_be_ours_on_a_grant_for_our_code() {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(2));
    let check = |admission: Signed<Admission>, expected: &'static str| {
        let (mut knock, _) = asked(&secret, &node);
        assert_eq!(knock.hear(&admitted(&admission, 100)).unwrap_err(), Error::Wrong(expected));
    };
    let (_, ask) = asked(&secret, &node);
    let (_, invite) = invite();
    check(granted(&invite, 3), "holds an admission for somebody else");
    // Another invite's, though of the same authority.
    let other = Secret::from_bytes(b"abcdefghij");
    let others = Invite::new(grant(&other), &other);
    check(admit(&others, node.id(), &ask), "holds an admission that does not hold");
    // Signed by whoever is at the other end, and not by whom the grant names.
    let stranger = Signed::sound(admit(&invite, node.id(), &ask).content().clone(), &newcomer(5)).unwrap();
    check(stranger, "holds an admission that does not hold");
    let (mut knock, _) = asked(&secret, &node);
    let rubbish = Answer::Admitted { admission: Bytes::from_static(b"x"), membership_len: 9, unix_ms: NOW };
    assert_eq!(knock.hear(&wire::encode(&rubbish)).unwrap_err(), Error::Wrong("holds no admission"));
}

#[test]
fn a_roster_must_be_the_authoritys_and_have_both() {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(2));
    let (_, invite) = invite();
    let check = |membership: Vec<u8>, expected: &'static str| {
        let (mut knock, ask) = asked(&secret, &node);
        let admission = admit(&invite, node.id(), &ask);
        assert!(matches!(knock.hear(&admitted(&admission, membership.len())), Ok(Next::Listen)));
        assert_eq!(knock.hear(&membership).unwrap_err(), Error::Wrong(expected));
    };
    check(membership().encode(), "holds a roster without this point");
    check(vec![1, 2, 3], "holds no good roster");
    // Another authority's roster in which all are points.
    let thief = NodeKey::from_bytes(&[66; 32]);
    let mut roster = membership().roster().content().clone();
    let us = store::roster::Point {
        node: node.id(),
        wrap: WrapKey::generate().public(),
        name: "X".into(),
        ..roster.points[0].clone()
    };
    roster.points.push(us);
    let forged = Membership::new(Signed::sound(roster.clone(), &thief).unwrap(), &thief.id()).unwrap();
    check(forged.encode(), "holds a roster of another authority");
    roster.points.remove(0);
    let without = Membership::new(Signed::sound(roster, &authority()).unwrap(), &authority().id()).unwrap();
    check(without.encode(), "holds a roster without the point that invited");
}

#[test]
fn a_roster_is_as_long_as_announced_and_no_longer() {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(2));
    let (_, invite) = invite();
    for len in [0, Membership::LEN_MAX + 1, usize::MAX] {
        let (mut knock, ask) = asked(&secret, &node);
        let admission = admit(&invite, node.id(), &ask);
        let Err(Error::Wrong(why)) = knock.hear(&admitted(&admission, len)) else { panic!() };
        assert!(why.contains("impossible length"));
    }
    let (mut knock, ask) = asked(&secret, &node);
    let admission = admit(&invite, node.id(), &ask);
    knock.hear(&admitted(&admission, 10)).unwrap();
    assert_eq!(knock.hear(&[0; 11]).unwrap_err(), Error::Wrong("is longer than it said"));
    assert_eq!(knock.hear(&[0; 1]).unwrap_err(), Error::Wrong("goes on after its end"));
}

#[test]
fn a_roster_of_many_points_comes_in_parts() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let mut roster = house.membership.next_roster(NOW);
    for n in 0..3_000_u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        bytes[31] = 1;
        roster.points.push(store::roster::Point {
            node: store::id::NodeId::from_bytes(bytes),
            wrap: WrapPublic::from_bytes(bytes),
            name: format!("Uỷ ban nhân dân xã số {n}"),
            ..roster.points[0].clone()
        });
    }
    house.membership.merge_roster(Signed::sound(roster, &authority()).unwrap()).unwrap();
    let node = newcomer(2);
    let (joined, _) = converse(&mut house, &secret, &node, line(&node, 1));
    let joined = joined.unwrap();
    assert_eq!(joined.membership.points().len(), 3_002);
    assert!(joined.membership.encode().len() > 10 * wire::FRAME_MAX);
    assert_eq!(joined.membership.point(&host().id()).map(|point| point.name.as_str()), Some("Trung tâm"));
}

#[test]
fn whatever_a_host_says_there_is_an_error_and_nothing_worse() {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(2));
    for bad in [&b""[..], &[0xff; 1000], &[0x9b, 255, 255, 255, 255, 255, 255, 255, 255], b"HTTP/1.1 400"] {
        let (mut knock, _) = asked(&secret, &node);
        assert_eq!(knock.hear(bad).unwrap_err(), Error::Wrong("cannot be read"));
    }
    let (mut knock, _) = asked(&secret, &node);
    let rude = wire::encode(&Answer::unable("\u{1b}[31mno\r\n".into()));
    assert_eq!(knock.hear(&rude).unwrap_err(), Error::Unable("[31mno".into()), "no terminal is steered");
}
