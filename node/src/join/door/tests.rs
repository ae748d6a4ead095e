//! What strangers and the hasty meet at the door.

use super::super::knock::{Knock, Newcomer, Next};
use super::super::tests::{House, arrives, converse, granted, host, invite, line, newcomer};
use super::super::wire::Knock as Proving;
use super::*;
use crate::join::secret::Secret;

const SECOND: Duration = Duration::from_secs(1);

/// A knock with a code that was never made.
fn guess(house: &mut House, from: [u8; 4], n: u8) -> Option<Close> {
    let node = newcomer(4);
    let line = line(&node, n);
    let (_, first) = Knock::new(Secret::from_bytes(&[n; 10]), line, arrives(&node));
    let (talk, said) = house.come(from, line);
    if said.close.is_some() {
        return said.close;
    }
    let said = house.hear(talk, &first);
    assert!(said.frames.is_empty());
    said.close
}

#[test]
fn a_wrong_proof_and_an_unknown_invite_look_alike() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let mut seen = Vec::new();
    for invite in [secret.id(), GrantId::from_bytes([5; 16])] {
        let (talk, said) = house.come([10, 0, 0, 7], line(&node, 1));
        assert!(said.frames.is_empty() && said.close.is_none(), "nothing is said before something is heard");
        let said = house.hear(talk, &wire::encode(&Proving { invite, proof: [6; 32] }));
        seen.push((said.frames.len(), said.close));
    }
    assert_eq!(seen, [(0, Some(Close::Stranger)); 2]);
    assert_eq!(house.attempts, [Outcome::Wrong, Outcome::Wrong]);
    // The key that is tried for an invite that does not exist opens nothing either.
    let nobodys = MacKey::from_bytes(&[7; 32]);
    let unknown = GrantId::from_bytes([5; 16]);
    let proof = *nobodys.proof(Role::Knocker, &line(&node, 1), &unknown).as_bytes();
    let (talk, _) = house.come([10, 0, 0, 7], line(&node, 1));
    let said = house.hear(talk, &wire::encode(&Proving { invite: unknown, proof }));
    assert_eq!((said.frames.len(), said.close), (0, Some(Close::Stranger)));
}

#[test]
fn an_address_that_guesses_waits_longer_and_longer() {
    let mut house = House::new([]);
    let from = [10, 0, 0, 9];
    for n in 1..=FREE_FAILURES {
        assert_eq!(guess(&mut house, from, n as u8), Some(Close::Stranger));
    }
    let mut wait = WAIT.0;
    for n in 10..20 {
        house.attempts.clear();
        assert_eq!(guess(&mut house, from, n), Some(Close::Busy));
        assert_eq!(guess(&mut house, from, n), Some(Close::Busy));
        assert_eq!(house.attempts, [Outcome::TooMany], "it is logged once in a wait");
        house.now += wait - Duration::from_millis(1);
        assert_eq!(guess(&mut house, from, n), Some(Close::Busy), "{wait:?}");
        // Another address does not suffer.
        assert_eq!(guess(&mut house, [10, 0, 1, n], n), Some(Close::Stranger));
        house.now += Duration::from_millis(1);
        assert_eq!(guess(&mut house, from, n), Some(Close::Stranger));
        wait = (wait * 2).min(WAIT.1);
    }
    house.now += FORGIVEN_AFTER + SECOND;
    for n in 1..=FREE_FAILURES {
        assert_eq!(guess(&mut house, from, n as u8), Some(Close::Stranger), "after a while it begins anew");
    }
}

#[test]
fn neighbours_in_one_ipv6_network_count_as_one() {
    let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    assert_eq!(neighbourhood(a), neighbourhood(b));
    assert_ne!(neighbourhood(a), neighbourhood(c));
    let [mapped, plain] = ["::ffff:10.0.0.1", "10.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    assert_eq!(neighbourhood(mapped), plain);
}

#[test]
fn all_addresses_together_have_sixty_attempts_a_minute() {
    let mut house = House::new([]);
    for n in 0..PER_MINUTE_MAX {
        assert_eq!(guess(&mut house, [10, 1, 0, n as u8], 1), Some(Close::Stranger));
    }
    assert_eq!(guess(&mut house, [10, 2, 0, 1], 1), Some(Close::Busy));
    house.now += MINUTE;
    assert_eq!(guess(&mut house, [10, 2, 0, 1], 1), Some(Close::Stranger));
}

#[test]
fn silent_strangers_hold_four_places_for_ten_seconds() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let begun = house.now;
    for n in 0..TALKS_MAX {
        assert_eq!(house.come([10, 1, 0, n as u8], line(&newcomer(4), n as u8)).1.close, None);
    }
    assert_eq!(house.come([10, 1, 0, 0], line(&newcomer(4), 9)).1.close, Some(Close::Busy), "one each");
    let node = newcomer(2);
    assert_eq!(house.come([10, 0, 0, 7], line(&node, 10)).1.close, Some(Close::Busy));
    assert_eq!(house.door.deadline(), Some(begun + TALK_MAX));
    house.now += TALK_MAX;
    house.door.handle(house.now, Input::Tick);
    assert_eq!(house.drain().close, Some(Close::Silent));
    assert_eq!(house.attempts, vec![Outcome::Broken; TALKS_MAX]);
    assert_eq!(house.door.deadline(), None);
    let (joined, _) = converse(&mut house, &secret, &node, line(&node, 11));
    assert!(joined.is_ok());
}

#[test]
fn whoever_has_proved_himself_takes_no_strangers_place() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    for n in 0..ALL_MAX {
        let node = newcomer(20 + n as u8);
        let line = line(&node, n as u8);
        let (_, first) = Knock::new(secret.clone(), line, arrives(&node));
        let (talk, said) = house.come([10, 0, 0, 7], line);
        assert_eq!(said.close, None);
        assert_eq!(house.hear(talk, &first).frames.len(), 1, "it is welcomed");
    }
    assert_eq!(house.come([10, 0, 0, 8], line(&newcomer(4), 99)).1.close, Some(Close::Busy));
}

#[test]
fn what_is_no_frame_ends_a_conversation_at_every_stage() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let long = vec![0; HEARD_MAX + 1];
    for (n, bad) in [&b""[..], b"GET / HTTP/1.1", &[0xff; 100], &long].into_iter().enumerate() {
        house.now += FORGIVEN_AFTER + SECOND;
        let early = line(&node, 1);
        let (talk, _) = house.come([10, 0, n as u8, 7], early);
        assert_eq!(house.hear(talk, bad).close, Some(Close::Stranger));
        let late = line(&node, 2);
        let (_, first) = Knock::new(secret.clone(), late, arrives(&node));
        let (talk, _) = house.come([10, 0, n as u8, 7], late);
        house.hear(talk, &first);
        assert_eq!(house.hear(talk, bad).close, Some(Close::Stranger));
    }
    assert!(house.attempts.iter().all(|outcome| *outcome == Outcome::Broken));
    assert_eq!(house.membership.points().len(), 1);
}

#[test]
fn many_small_frames_are_bounded_like_one_long_one() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let late = line(&node, 2);
    let (_, first) = Knock::new(secret, late, arrives(&node));
    let (talk, _) = house.come([10, 0, 0, 7], late);
    house.hear(talk, &first);
    let rest = vec![0; HEARD_MAX - first.len() + 1];
    assert_eq!(house.hear(talk, &rest).close, Some(Close::Stranger));
}

#[test]
fn a_proof_for_another_wrap_key_admits_nobody() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let line = line(&node, 1);
    let (mut knock, first) = Knock::new(secret, line, arrives(&node));
    let (talk, _) = house.come([10, 0, 0, 7], line);
    let welcome = house.hear(talk, &first).frames.remove(0);
    let Ok(Next::Say(frame)) = knock.hear(&welcome) else { panic!() };
    let mut ask: Ask = wire::decode(&frame).unwrap();
    ask.wrap = store::keys::WrapKey::generate().public();
    assert_eq!(house.hear(talk, &wire::encode(&ask)).close, Some(Close::Stranger));
    assert_eq!(house.attempts, [Outcome::Broken]);
}

#[test]
fn an_address_that_leads_nowhere_is_not_taken_into_the_membership() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let line = line(&node, 1);
    let newcomer = Newcomer { addresses: vec!["../../etc".into()], ..arrives(&node) };
    let (mut knock, first) = Knock::new(secret, line, newcomer);
    let (talk, _) = house.come([10, 0, 0, 7], line);
    let welcome = house.hear(talk, &first).frames.remove(0);
    let Ok(Next::Say(frame)) = knock.hear(&welcome) else { panic!() };
    assert_eq!(house.hear(talk, &frame).close, Some(Close::Stranger));
}

#[test]
fn strangers_from_everywhere_take_bounded_memory() {
    let mut house = House::new([]);
    for n in 0..3 * CALLERS_MAX {
        house.now += SECOND;
        let from = [10, (n >> 16) as u8, (n >> 8) as u8, n as u8];
        guess(&mut house, from, 1);
    }
    assert!(house.door.callers.len() <= CALLERS_MAX && house.door.begun.len() <= PER_MINUTE_MAX);
    assert!(house.door.talks.is_empty());
}

#[test]
fn a_node_that_leaves_is_forgotten_and_one_that_left_while_let_in_is_a_point() {
    let (secret, invite) = invite();
    let node = newcomer(2);
    let mut door = Door::new([invite.clone()], MacKey::from_bytes(&[7; 32]));
    let (now, talk) = (Instant::now(), TalkId(1));
    door.handle(now, Input::Came { talk, from: "10.0.0.7".parse().unwrap(), line: line(&node, 1) });
    door.handle(now, Input::Gone { talk });
    assert!(matches!(door.poll(), Some(Output::Attempt(Attempt { outcome: Outcome::Broken, .. }))));
    assert!(door.talks.is_empty());
    // The answer of the disk comes when nobody waits for it any more.
    let admission = granted(&invite, 2);
    let letter = Letter { admission, membership: Bytes::new(), unix_ms: 1 };
    door.handle(now, Input::Admitted { talk, invite: secret.id(), outcome: Ok(letter) });
    assert!(door.poll().is_none());
    assert_eq!(door.invite(&secret.id()).unwrap().used_by(), Some(node.id()));
    assert_eq!(door.invites().count(), 1);
    assert_ne!(node.id(), host().id());
}
