//! What removing a point promises: it is out at once, the others go on with a key it has not, and no death in between
//! changes that.

use store::id::Hash;
use store::journal::RemovedReason;
use store::keys::Epoch;

use super::*;
use crate::engine::session::renew::LEAD;

/// Four nodes in a session of node 1.
fn four() -> (World, SessionId) {
    let mut world = World::new(4);
    (1..=4).for_each(|n| world.power_on(n));
    let session = world.start(1, &[2, 3, 4]).expect("nothing speaks against it");
    world.pass(2 * SECOND);
    (world, session)
}

/// What the journal says of removals and keys.
fn removals(world: &World) -> Vec<Event> {
    let told = |event: &Event| matches!(event, Event::Removed { .. } | Event::Epoch { .. });
    world.journal(1).into_iter().filter(told).collect()
}

fn removed(number: u16, reason: RemovedReason) -> Event {
    Event::Removed { point: point(number), reason }
}

/// Which keys a node has on its disk, made for it.
fn keys(world: &World, n: u8, session: SessionId) -> Vec<Epoch> {
    let wraps = &world.nodes[&n].disk.wraps[&session];
    wraps.iter().filter(|(_, wraps)| wraps.contains_key(&id(n))).map(|(epoch, _)| *epoch).collect()
}

#[test]
fn a_revoked_point_is_out_at_once_and_the_others_go_on_with_a_key_it_has_not() {
    let (mut world, session) = four();
    let sent = world.sent.len();
    world.revoke(3);
    assert_eq!(world.nodes[&1].expelled, [(session, id(3))]);
    let head = world.head(1, session);
    let epoch = |from_us| Event::Epoch { epoch: 1, commitment: world::key(session, 1).commitment(), from_us };
    assert_eq!(removals(&world), [removed(3, RemovedReason::Revoked), epoch(head.epochs[1].from_us)]);
    assert_eq!(world.nodes[&1].disk.wraps[&session][&1].keys().copied().collect::<Vec<_>>(), {
        [id(1), id(2), id(4), world::recovery()]
    });
    for n in [2, 4] {
        assert_eq!(world.head(n, session), head, "node {n} was told and has written it");
        assert_eq!(keys(&world, n, session), [0, 1]);
    }
    assert_eq!(keys(&world, 3, session), [0]);
    assert!(world.messages(1, 3, sent).is_empty(), "who was revoked is not spoken to");
    // Nobody seals with the new key before everybody has it, and everybody does from the same moment on.
    for n in [1, 2, 4] {
        assert_eq!(world.epoch(n), 0, "node {n}");
    }
    world.pass(LEAD);
    for n in [1, 2, 4] {
        assert_eq!(world.epoch(n), 1, "node {n}");
        assert_eq!(world.nodes[&n].publishing, Some((session, 0)), "the room goes on as it was");
    }
    let (journal, sent) = (world.journal(1), world.sent.len());
    world.pass(60 * SECOND);
    assert_eq!((world.journal(1), world.sent.len()), (journal, sent), "then the session is at rest again");
}

#[test]
fn a_point_the_chair_sends_out_is_told_and_closes_its_room() {
    let (mut world, session) = four();
    let ticket = world.remove(1, 3);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    assert_eq!(removals(&world)[0], removed(3, RemovedReason::Chair));
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&3].publishing, None);
    assert_eq!(world.head(3, session).state, State::Ended);
    assert_eq!(keys(&world, 3, session), [0]);
    assert_eq!(world.nodes[&3].closed, [session]);
    for (n, joined) in [(2, true), (3, false), (4, true)] {
        let view = world.nodes[&1].engine.view(world.now).session.expect("it goes on");
        let seat = view.points.iter().find(|seat| seat.node == id(n)).expect("it stays named");
        assert_eq!((seat.joined, seat.removed), (joined, n == 3), "node {n}");
    }
    let seen = world.nodes[&2].engine.view(world.now).session.expect("it goes on");
    assert!(seen.points.iter().all(|seat| seat.removed == (seat.node == id(3))), "the others know it: {seen:?}");
    // It comes back and asks; it stays out.
    world.kill(3);
    world.power_on(3);
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&3].publishing, None);
    let refused = world.ask(3, 1, Message::Back { session });
    assert!(matches!(&refused, Some(Message::Refused { reason, .. }) if reason.contains("removed")), "{refused:?}");
    let ticket = world.end(1);
    world.pass(5 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    assert_eq!(world.nodes[&1].closed, [session], "nothing more is awaited of it");
}

#[test]
fn a_point_out_of_reach_when_it_is_sent_out_learns_it_when_it_is_back() {
    let (mut world, session) = four();
    world.set_cut(1, 3, true);
    world.remove(1, 3);
    world.pass(30 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((session, 0)), "it cannot know");
    world.set_cut(1, 3, false);
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&3].publishing, None);
    assert_eq!(world.count(1, |event| matches!(event, Event::Joined { point } if *point == world::point(3))), 1);
}

#[test]
fn a_point_that_was_away_gets_the_keys_of_all_epochs_it_is_a_point_in() {
    let (mut world, session) = four();
    world.kill(2);
    world.revoke(3);
    world.pass(5 * SECOND);
    world.remove(1, 4);
    world.pass(5 * SECOND);
    assert_eq!(world.head(1, session).epoch(), 2);
    assert_eq!(keys(&world, 4, session), [0, 1], "it took part in the second epoch and not in the third");
    world.power_on(2);
    world.pass(5 * SECOND);
    assert_eq!(keys(&world, 2, session), [0, 1, 2]);
    assert_eq!((world.head(2, session), world.epoch(2)), (world.head(1, session), 2));
    assert_eq!(world.journal(1).last(), Some(&Event::Joined { point: point(2) }));
}

#[test]
fn points_revoked_together_leave_in_one_epoch_and_one_after_the_other_in_two() {
    let (mut world, session) = four();
    let both = BTreeSet::from([3, 4]);
    world.tell(1, Input::Roster { members: world::members(1, 4, &both) });
    world.settle();
    assert_eq!(world.head(1, session).epochs[1].removed, [point(3), point(4)]);
    let reasons = [3, 4].map(|n| removed(n, RemovedReason::Revoked));
    assert_eq!(removals(&world)[..2], reasons);
    let (mut world, session) = four();
    world.revoke(4);
    world.revoke(3);
    let left: Vec<_> = world.head(1, session).epochs.into_iter().map(|period| period.removed).collect();
    assert_eq!(left, [vec![], vec![point(4)], vec![point(3)]]);
}

/// What must hold after node 3 was revoked, whatever died meanwhile.
fn check_after(world: &World, session: SessionId, what: &str) {
    let head = world.head(1, session);
    assert!(head.was_removed(point(3)), "{what}: the head says it");
    let told: Vec<_> = removals(world);
    let epochs =
        told.iter().filter_map(|event| if let Event::Epoch { epoch, .. } = event { Some(*epoch) } else { None });
    assert_eq!(epochs.collect::<Vec<_>>(), (1..=head.epoch()).collect::<Vec<_>>(), "{what}: each epoch is told once");
    let out = told.iter().filter(|event| **event == removed(3, RemovedReason::Revoked)).count();
    assert_eq!(out, 1, "{what}: its removal is told once");
    for n in [2, 4] {
        assert_eq!(world.head(n, session), head, "{what}: node {n} has the head");
        assert_eq!(keys(world, n, session), (0..=head.epoch()).collect::<Vec<_>>(), "{what}: node {n} has the keys");
        assert!(world.nodes[&n].publishing.is_some(), "{what}: node {n} publishes");
        assert_eq!(world.epoch(n), head.epoch(), "{what}: node {n} uses the last key");
    }
    assert_eq!(world.epoch(1), head.epoch(), "{what}: so does central");
    assert_eq!(keys(world, 3, session), [0], "{what}: who is out has no more keys");
    let view = world.nodes[&1].engine.view(world.now).session.expect("it runs");
    let joined = view.points.iter().filter(|seat| seat.joined).count();
    assert_eq!(joined, 3, "{what}: all but one are there");
}

#[test]
fn central_may_die_at_any_step_and_the_point_is_out_when_it_is_back() {
    for step in ["Expel", "Rekey", "Renew", "Journal", "Open", "Ask"] {
        for before in [true, false] {
            let (mut world, session) = four();
            let node = world.nodes.get_mut(&1).expect("four nodes");
            *(if before { &mut node.dies_before } else { &mut node.dies_after }) = Some(step);
            world.revoke(3);
            let what = format!("death {} {step}", if before { "before" } else { "after" });
            assert!(!world.nodes[&1].running, "{what}");
            world.pass(7 * SECOND);
            world.power_on(1);
            world.pass(7 * SECOND);
            check_after(&world, session, &what);
        }
    }
}

#[test]
fn a_delegate_may_die_at_any_step_and_has_the_keys_when_it_is_back() {
    for step in ["Admit", "Open", "Reply"] {
        for before in [true, false] {
            let (mut world, session) = four();
            let node = world.nodes.get_mut(&2).expect("four nodes");
            *(if before { &mut node.dies_before } else { &mut node.dies_after }) = Some(step);
            world.revoke(3);
            let what = format!("delegate's death {} {step}", if before { "before" } else { "after" });
            assert!(!world.nodes[&2].running, "{what}");
            world.pass(7 * SECOND);
            world.power_on(2);
            world.pass(7 * SECOND);
            check_after(&world, session, &what);
        }
    }
}

#[test]
fn a_disk_that_refuses_delays_the_key_and_not_the_removal() {
    let (mut world, session) = four();
    world.nodes.get_mut(&1).expect("four nodes").disk_works = false;
    let ticket = world.remove(1, 3);
    assert_eq!(world.nodes[&1].expelled, [(session, id(3))]);
    assert_eq!(world.outcome(1, ticket), Some(Err(Refusal::Storage("the disk is full".into()))));
    world.pass(10 * SECOND);
    assert_eq!((removals(&world), world.head(1, session).epoch()), (vec![], 0), "nothing is told that is not written");
    world.nodes.get_mut(&1).expect("four nodes").disk_works = true;
    world.pass(5 * SECOND);
    assert_eq!((removals(&world).len(), world.head(2, session).epoch()), (2, 1));
}

#[test]
fn a_delegate_whose_disk_refuses_is_asked_until_it_has_the_key() {
    let (mut world, session) = four();
    world.nodes.get_mut(&2).expect("four nodes").disk_works = false;
    world.revoke(3);
    world.pass(10 * SECOND);
    assert_eq!((world.head(2, session).epoch(), world.epoch(2)), (0, 0));
    assert_eq!(world.nodes[&2].publishing, Some((session, 0)), "its room is recorded all the while");
    world.nodes.get_mut(&2).expect("four nodes").disk_works = true;
    world.pass(5 * SECOND);
    assert_eq!((world.head(2, session).epoch(), world.epoch(2)), (1, 1));
}

#[test]
fn a_session_that_ends_while_a_point_leaves_says_so_and_needs_no_key() {
    let (mut world, session) = four();
    world.nodes.get_mut(&1).expect("four nodes").disk_works = false;
    world.revoke(3);
    world.nodes.get_mut(&1).expect("four nodes").disk_works = true;
    let ticket = world.end(1);
    world.pass(10 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    assert_eq!(removals(&world), [removed(3, RemovedReason::Revoked)]);
    assert_eq!((world.head(1, session).epoch(), world.head(1, session).state), (0, State::Ended));
}

#[test]
fn a_later_copy_of_an_earlier_invitation_changes_nothing() {
    let (mut world, session) = four();
    let first = world.messages(1, 2, 0)[0].clone();
    world.remove(1, 3);
    world.pass(5 * SECOND);
    let before = world.head(2, session);
    let answer = world.ask(1, 2, first);
    assert!(matches!(&answer, Some(Message::Accepted(accepted)) if accepted.epoch == 1), "{answer:?}");
    assert_eq!((world.head(2, session), world.epoch(2)), (before, 1));
}

#[test]
fn a_head_with_another_history_is_refused() {
    let (mut world, session) = four();
    world.remove(1, 3);
    world.pass(5 * SECOND);
    let Some(Message::Invite(invite)) =
        world.messages(1, 2, 0).into_iter().rev().find(|m| matches!(m, Message::Invite(_)))
    else {
        panic!("it was invited")
    };
    let mut forged = invite.clone();
    forged.head.epochs[1].commitment = Hash::of(b"a key of somebody else's");
    let answer = world.ask(1, 2, Message::Invite(forged));
    assert!(
        matches!(&answer, Some(Message::Refused { reason, .. }) if reason.contains("another session")),
        "{answer:?}"
    );
    assert_eq!(world.head(2, session), world.head(1, session));
}

#[test]
fn a_removal_that_cannot_be_is_refused_in_words() {
    let mut world = World::new(3);
    world.power_on(1);
    let ticket = world.remove(1, 2);
    assert_eq!(world.outcome(1, ticket), Some(Err(Refusal::NotRunning)));
    let (mut world, session) = World::in_session();
    for (n, point, refusal) in
        [(1, 1, Refusal::Central), (1, 99, Refusal::NotThere(id(99))), (2, 3, Refusal::NotCentral("Điểm 1".into()))]
    {
        let ticket = world.remove(n, point);
        assert_eq!(world.outcome(n, ticket), Some(Err(refusal)));
    }
    world.remove(1, 3);
    let ticket = world.remove(1, 3);
    assert_eq!(world.outcome(1, ticket), Some(Err(Refusal::NotThere(id(3)))), "it is out already");
    // The end waits a moment for who is out of reach.
    world.set_cut(1, 2, true);
    world.end(1);
    let ticket = world.remove(1, 2);
    assert_eq!(world.outcome(1, ticket), Some(Err(Refusal::Ending(session))));
}

#[test]
fn without_a_recovery_key_no_session_starts() {
    let mut world = World::new(2);
    world.power_on(1);
    let check = |world: &mut World, recovery: Option<NodeId>, named: bool| {
        let ticket = world.ticket();
        let session = SessionId::from_bytes([3; 16]);
        let to = [id(1), id(2)].into_iter().chain(named.then(world::recovery));
        let (wraps, commitment) = (world::wraps(session, 0, to), Hash::NONE);
        let fresh = Fresh { id: session, commitment, wraps, recovery, unix_ms: 0 };
        world.tell(1, Input::Start { ticket, title: "Thử".into(), points: vec![id(2)], fresh });
        world.settle();
        assert_eq!(world.outcome(1, ticket), Some(Err(Refusal::NoRecovery)));
    };
    check(&mut world, None, true);
    check(&mut world, Some(world::recovery()), false);
    assert!(world.nodes[&1].disk.heads.is_empty());
}

#[test]
fn a_central_that_is_revoked_ends_its_session_and_everybody_leaves_it() {
    let (mut world, session) = World::in_session();
    world.revoke(1);
    world.tell(1, Input::Roster { members: world::members(1, 3, &BTreeSet::from([1])) });
    world.settle();
    world.pass(10 * SECOND);
    for n in 1..=3 {
        assert_eq!(world.nodes[&n].publishing, None, "node {n}");
        assert_eq!(world.head(n, session).state, State::Ended, "node {n}");
    }
}

#[test]
fn a_session_without_keys_left_still_cuts_a_point_off() {
    let (mut world, session) = World::in_session();
    let mut head = world.head(1, session);
    while let Ok(next) = head.next(Hash::of(&[head.epoch()]), 0, vec![]) {
        head = next;
    }
    let mut engine = Engine::new(Config { me: id(1), ..world_config(&world) });
    let told = head.epoch();
    let recalled = Recalled {
        head,
        own: Own::default(),
        wraps: BTreeMap::new(),
        told,
        last_us: 0,
        kept: vec![],
        cut_short: vec![],
    };
    engine.handle(world.now, Input::Recall { recalled: Box::new(recalled), unix_ms: world.wall() });
    engine.handle(world.now, Input::Remove { ticket: world.ticket(), session: None, node: id(3) });
    let outputs: Vec<_> = std::iter::from_fn(|| engine.poll()).collect();
    assert!(outputs.contains(&Output::Expel { session, node: id(3) }));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Rekey { .. })));
    let told =
        outputs.iter().find_map(|output| if let Output::Tell { outcome, .. } = output { Some(outcome) } else { None });
    let sentence = told.expect("an answer").as_ref().expect_err("no key is left").to_string();
    assert_eq!(sentence, "no further key fits into this session: end it and start another");
}
