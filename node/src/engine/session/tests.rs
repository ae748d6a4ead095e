//! What sessions promise: between engines in a small world, and from one engine to its operator.

mod cut;
mod epochs;
mod world;

use store::id::TrackKind;
use store::journal::{EndReason, Event, GapReason, LeftReason, Note, NoteKind};

use self::world::{SECOND, World, id, point, track};
use super::*;
use crate::wire::control::{Finished, Invite, Last, Span};

fn ended(world: &World) -> usize {
    world.count(1, |event| matches!(event, Event::Ended { .. }))
}

#[test]
fn named_points_are_invited_join_and_publish_by_themselves() {
    let (world, session) = World::in_session();
    for n in 1..=3 {
        assert_eq!(world.nodes[&n].publishing, Some((session, 0)), "node {n}");
        assert!(world.time(n).abs_diff(2_000_000) < 50_000, "node {n} is at {} µs", world.time(n));
    }
    let journal = world.journal(1);
    assert!(matches!(&journal[0], Event::Started { points, .. } if points.len() == 3));
    assert_eq!(journal[1..], [Event::Joined { point: point(2) }, Event::Joined { point: point(3) }]);
    let wanted = [track(2, TrackKind::Audio), track(2, TrackKind::Main)];
    assert_eq!(world.nodes[&1].subscribed[&id(2)], wanted);
}

#[test]
fn a_delegate_takes_sound_and_picture_of_every_other_point_from_central() {
    let (mut world, session) = World::in_session();
    let tracks: Vec<_> = [1, 2, 3, 9].iter().flat_map(|&n| TrackKind::ALL.map(|kind| track(n, kind))).collect();
    world.tell(2, Input::Announced { node: id(3), session, tracks: tracks.clone() });
    world.settle();
    assert!(world.nodes[&2].subscribed.is_empty(), "only central forwards");
    world.tell(2, Input::Announced { node: id(1), session, tracks });
    world.settle();
    let screen = [1, 3].map(|n| track(n, TrackKind::Screen));
    let mut wanted: Vec<_> =
        [1, 3].iter().flat_map(|&n| [track(n, TrackKind::Audio), track(n, TrackKind::Main)]).chain(screen).collect();
    wanted.sort();
    assert_eq!(world.nodes[&2].subscribed[&id(1)], wanted);
}

#[test]
fn a_point_that_comes_online_late_joins_the_running_session() {
    let mut world = World::new(3);
    (1..=2).for_each(|n| world.power_on(n));
    let session = world.start(1, &[2, 3]).expect("nothing speaks against it");
    world.pass(60 * SECOND);
    assert!(world.messages(1, 3, 0).is_empty(), "nobody asks a point that is not there");
    world.power_on(3);
    assert_eq!(world.nodes[&3].publishing, Some((session, 0)));
    assert!(world.time(3).abs_diff(60_000_000) < 50_000);
    assert_eq!(world.journal(1).last(), Some(&Event::Joined { point: point(3) }));
}

#[test]
fn an_invitation_is_repeated_only_while_a_point_is_online_and_not_joined() {
    let mut world = World::new(2);
    world.power_on(1);
    world.nodes.get_mut(&2).expect("two nodes").disk_works = false;
    world.power_on(2);
    world.start(1, &[2]).expect("nothing speaks against it");
    world.pass(30 * SECOND);
    let refused = world.messages(2, 1, 0).len();
    assert!((15..=25).contains(&refused), "{refused} refusals in 30 s");
    world.nodes.get_mut(&2).expect("two nodes").disk_works = true;
    world.pass(2 * SECOND);
    let joined = world.sent.len();
    world.pass(60 * SECOND);
    assert_eq!(world.sent.len(), joined, "a session at rest says nothing");
}

#[test]
fn a_second_copy_of_an_invitation_is_answered_alike_and_changes_nothing() {
    let (mut world, session) = World::in_session();
    let invite = world.messages(1, 2, 0)[0].clone();
    let before = (world.journal(1), world.nodes[&2].publishing);
    let answer = world.ask(1, 2, invite);
    assert!(matches!(answer, Some(Message::Accepted(accepted)) if accepted.session == session));
    world.pass(5 * SECOND);
    assert_eq!((world.journal(1), world.nodes[&2].publishing), before);
}

#[test]
fn invitations_that_must_not_be_followed_are_refused_with_a_reason() {
    let mut world = World::new(45);
    (1..=5).for_each(|n| world.power_on(n));
    let session = world.start(1, &[2]).expect("nothing speaks against it");
    let head = world.head(1, session);
    let mut check = |from: u8, change: &dyn Fn(&mut Head), expected: &str| {
        let mut head = Head { id: SessionId::from_bytes([77; 16]), ..head.clone() };
        head.points[1].node = id(4);
        change(&mut head);
        let wraps = BTreeMap::from([(0, world::wraps(head.id, 0, [id(4), world::recovery()]))]);
        let invite = Invite { head, wraps, media: vec![], media_port: 7000 + u16::from(from), origin: 0, used: 0 };
        let answer = world.ask(from, 4, Message::Invite(Box::new(invite)));
        let Some(Message::Refused { reason, .. }) = answer else { panic!("{expected}: {answer:?}") };
        assert!(reason.contains(expected), "{reason:?} instead of {expected:?}");
        assert_eq!(world.nodes[&4].publishing, None);
        assert!(world.nodes[&4].disk.heads.is_empty(), "nothing is written for a refused invitation");
    };
    check(3, &|_| {}, "lacks the right \"chair\"");
    check(88, &|_| {}, "not in this point's roster");
    check(2, &|_| {}, "only the session's central point");
    check(1, &|head| head.points[1].node = id(5), "not named");
    check(1, &|head| head.state = State::Ended, "has ended");
    check(1, &|head| head.points[0].node = id(88), "not in this point's roster");
    let many = |head: &mut Head| {
        let seats = (6..=45).map(|n| store::session::Member {
            number: point(n),
            node: NodeId::from_bytes([n as u8; 32]),
            name: "x".into(),
        });
        head.points.extend(seats);
    };
    check(1, &many, "more than the 40");
}

#[test]
fn an_invitation_played_again_after_the_end_is_refused() {
    let (mut world, session) = World::in_session();
    let invite = world.messages(1, 2, 0)[0].clone();
    let ticket = world.end(1);
    let answer = world.ask(1, 2, invite.clone());
    assert!(matches!(answer, Some(Message::Refused { .. })), "{answer:?}");
    world.pass(10 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    world.kill(2);
    world.power_on(2);
    let answer = world.ask(1, 2, invite);
    assert!(matches!(answer, Some(Message::Refused { .. })), "{answer:?}");
    assert_eq!(world.nodes[&2].publishing, None);
}

#[test]
fn a_node_takes_part_in_one_session_at_a_time() {
    let (mut world, first) = World::in_session();
    assert_eq!(world.start(1, &[3]), Err(Refusal::Busy(first)));
    assert_eq!(world.start(2, &[3]), Err(Refusal::Busy(first)));
    let mut world = World::new(4);
    (1..=4).for_each(|n| world.power_on(n));
    let first = world.start(1, &[3]).expect("nothing speaks against it");
    let second = world.start(2, &[3, 4]).expect("another central, not in a session itself");
    world.pass(10 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((first, 0)));
    assert_eq!(world.nodes[&4].publishing, Some((second, 0)));
    world.end(1);
    world.pass(10 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((second, 0)), "free again, it follows the other invitation");
}

#[test]
fn two_operators_who_start_at_once_leave_one_session_each_and_a_clear_refusal() {
    let mut world = World::new(3);
    (1..=3).for_each(|n| world.power_on(n));
    world.set_cut(1, 2, true);
    let first = world.start(1, &[2, 3]).expect("nothing speaks against it");
    let second = world.start(2, &[1, 3]).expect("it cannot know of the other");
    world.set_cut(1, 2, false);
    world.pass(10 * SECOND);
    assert_eq!(world.nodes[&1].publishing, Some((first, 0)));
    assert_eq!(world.nodes[&2].publishing, Some((second, 0)));
    assert_eq!(world.nodes[&3].publishing, Some((first, 0)), "the first come");
    let refusals = world.messages(3, 2, 0);
    assert!(refusals.iter().all(|message| matches!(message, Message::Refused { .. })) && !refusals.is_empty());
}

#[test]
fn a_later_session_of_the_same_central_ends_the_earlier_one_we_missed_the_end_of() {
    let (mut world, first) = World::in_session();
    world.set_cut(1, 2, true);
    world.end(1);
    world.pass(40 * SECOND);
    let second = world.start(1, &[2, 3]).expect("the first is over");
    world.set_cut(1, 2, false);
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&2].publishing.map(|(session, _)| session), Some(second));
    assert_eq!(world.head(2, first).state, State::Ended);
}

#[test]
fn what_an_operator_cannot_have_is_refused_in_words() {
    let mut world = World::new(45);
    world.power_on(1);
    world.power_on(3);
    let ticket = world.end(3);
    assert_eq!(world.outcome(3, ticket), Some(Err(Refusal::NotRunning)));
    assert_eq!(world.start(1, &[1]), Err(Refusal::Alone));
    assert_eq!(world.start(1, &[77]), Err(Refusal::Unknown(id(77))));
    let all: Vec<u8> = (1..=45).collect();
    assert_eq!(world.start(1, &all), Err(Refusal::TooMany { named: 45, max: 40 }));
    assert!(world.start(1, &all[..40]).is_ok(), "forty points are allowed");
}

#[test]
fn only_central_ends_a_session() {
    let (mut world, session) = World::in_session();
    let ticket = world.end(2);
    assert_eq!(world.outcome(2, ticket), Some(Err(Refusal::NotCentral("Điểm 1".into()))));
    let end = crate::wire::control::End { session, unix_ms: 0, media: vec![], media_port: 1 };
    assert!(matches!(world.ask(3, 2, Message::End(end)), Some(Message::Refused { .. })));
    assert_eq!(world.nodes[&2].publishing, Some((session, 0)));
}

#[test]
fn a_point_that_signs_nonsense_fills_no_journal_and_hides_nobody_elses() {
    let (mut world, session) = World::in_session();
    let mut forge = |number: u16, times: u32| {
        for n in 0..times {
            let point = point(number);
            world.tell(1, Input::Incident { session, point, event: Event::Forked { point, n } });
        }
        world.pass(SECOND);
        world.count(1, |event| matches!(event, Event::Forked { point: of, .. } if *of == point(number)))
    };
    assert_eq!((forge(2, 1000), forge(3, 1)), (16, 1));
}

#[test]
fn what_is_noted_stands_in_the_journal_and_what_cannot_be_is_refused() {
    let (mut world, session) = World::in_session();
    let ticket = world.note(1, Some(2), "mất điện 10 phút");
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    let (kind, by, text) = (NoteKind::Incident, Some("lan".to_owned()), "mất điện 10 phút".to_owned());
    assert_eq!(world.journal(1).last(), Some(&Event::Noted(Note { kind, point: Some(point(2)), by, text })));
    let written = world.journal(1).len();
    let mut refused = |n: u8, about: Option<u8>, text: &str| {
        let ticket = world.note(n, about, text);
        world.outcome(n, ticket).expect("an answer").expect_err("it cannot be written")
    };
    assert!(matches!(refused(2, None, "a"), Refusal::NotCentral(_)));
    assert!(matches!(refused(1, Some(9), "a"), Refusal::NotThere(_)));
    for wrong in ["", "hai\ndòng", &"a".repeat(1001)] {
        assert!(matches!(refused(1, None, wrong), Refusal::Text(_)), "{wrong:?}");
    }
    assert_eq!(world.journal(1).len(), written);
    let notes = (0..3000).filter(|_| {
        let ticket = world.note(1, None, "a");
        world.outcome(1, ticket) == Some(Ok(session))
    });
    assert_eq!(notes.count(), 2879, "a journal that somebody fills on purpose has an end");
    world.end(1);
    world.pass(30 * SECOND);
    let late = world.note(1, None, "quá muộn");
    assert_eq!(world.outcome(1, late), Some(Err(Refusal::NotRunning)));
}

#[test]
fn a_session_without_a_written_head_never_begins() {
    let mut world = World::new(2);
    (1..=2).for_each(|n| world.power_on(n));
    world.nodes.get_mut(&1).expect("two nodes").disk_works = false;
    assert_eq!(world.start(1, &[2]), Err(Refusal::Storage("the disk is full".into())));
    world.pass(10 * SECOND);
    assert!(world.sent.is_empty() && world.nodes[&1].engine.view(world.now).session.is_none());
}

#[test]
fn at_the_end_everybody_closes_reports_and_hangs_up() {
    let (mut world, session) = World::in_session();
    let ticket = world.end(1);
    world.pass(5 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    assert_eq!(world.journal(1).last(), Some(&Event::Ended { reason: EndReason::Closed }));
    assert_eq!(world.count(1, |event| matches!(event, Event::Left { .. })), 0, "leaving after the end is no event");
    for n in 1..=3 {
        assert_eq!(world.nodes[&n].publishing, None);
        assert_eq!(world.head(n, session).state, State::Ended);
        assert_eq!(world.nodes[&n].closed, [session]);
        assert_eq!(world.nodes[&n].engine.view(world.now), View::default());
    }
    let sent = world.sent.len();
    world.pass(600 * SECOND);
    assert_eq!(world.sent.len(), sent);
}

#[test]
fn a_point_that_loses_its_line_is_journalled_and_joins_again_by_itself() {
    let (mut world, session) = World::in_session();
    world.set_cut(1, 3, true);
    assert_eq!(world.journal(1).last(), Some(&Event::Left { point: point(3), reason: LeftReason::Lost }));
    world.pass(40 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((session, 0)), "its room is recorded all the while");
    world.set_cut(1, 3, false);
    assert_eq!(world.journal(1).last(), Some(&Event::Joined { point: point(3) }));
    assert_eq!(world.count(1, |event| matches!(event, Event::Joined { .. })), 3);
}

#[test]
fn a_delegate_that_dies_joins_again_with_numbers_it_never_used() {
    let (mut world, session) = World::in_session();
    world.kill(2);
    world.pass(20 * SECOND);
    world.power_on(2);
    world.pass(SECOND);
    assert_eq!(world.nodes[&2].publishing, Some((session, 10)));
    assert!(world.time(2).abs_diff(world.time(1)) < 1_000);
    assert_eq!(world.journal(1).last(), Some(&Event::Joined { point: point(2) }));
}

#[test]
fn a_restarted_central_takes_up_its_session_and_its_time_and_calls_everybody() {
    let (mut world, session) = World::in_session();
    world.pass(10 * SECOND);
    world.kill(1);
    world.pass(20 * SECOND);
    for n in 2..=3 {
        assert_eq!(world.nodes[&n].publishing, Some((session, 0)), "points go on recording");
    }
    let before = world.time(2);
    world.power_on(1);
    world.pass(2 * SECOND);
    assert_eq!(world.nodes[&1].publishing, Some((session, 10)));
    let journal = world.journal(1);
    let resumed = journal.iter().position(|event| *event == Event::Resumed {}).expect("it says so");
    assert_eq!(journal[resumed + 1..], [Event::Joined { point: point(2) }, Event::Joined { point: point(3) }]);
    for n in 1..=3 {
        assert!(world.time(n).abs_diff(34_000_000) < 100_000, "node {n} is at {} µs", world.time(n));
    }
    assert!(world.time(2) > before);
}

#[test]
fn session_time_never_runs_back_though_centrals_wall_clock_was_set_back() {
    let (mut world, session) = World::in_session();
    world.pass(100 * SECOND);
    world.set_cut(1, 3, true);
    let head = world.head(1, session);
    let last_us = world.nodes[&1].disk.journal.last().expect("a journal").0;
    let mut engine = Engine::new(Config { me: id(1), ..world_config(&world) });
    let recalled = Recalled {
        head,
        own: Own::default(),
        wraps: BTreeMap::new(),
        told: 0,
        last_us,
        kept: vec![],
        cut_short: vec![],
    };
    let recalled = Box::new(recalled);
    engine.handle(world.now, Input::Recall { recalled, unix_ms: world::WALL - 1_000_000 });
    let at = std::iter::from_fn(|| engine.poll()).find_map(|output| match output {
        Output::Journal { at, event: Event::Resumed {}, .. } => Some(at),
        _ => None,
    });
    assert!(at.expect("it resumes") > last_us);
}

#[test]
fn what_centrals_own_room_was_saying_when_it_was_cut_off_is_a_gap_in_the_journal() {
    let (mut world, session) = World::in_session();
    world.pass(10 * SECOND);
    let head = world.head(1, session);
    let track = TrackId::new(head.number(&id(1)).expect("central is a point"), TrackKind::Audio);
    let mut engine = Engine::new(Config { me: id(1), ..world_config(&world) });
    let cut_short = vec![Span { track, from: 5, to: 5 }];
    let (own, wraps) = (Own::default(), BTreeMap::new());
    let recalled = Recalled { head, own, wraps, told: 0, last_us: 9_000_000, kept: vec![], cut_short };
    engine.handle(world.now, Input::Recall { recalled: Box::new(recalled), unix_ms: world::WALL + 20_000 });
    let told: Vec<Event> = std::iter::from_fn(|| engine.poll())
        .filter_map(|output| match output {
            Output::Journal { event, .. } => Some(event),
            _ => None,
        })
        .collect();
    let gap = Event::Gap { track, from_seq: 5, to_seq: 5, reason: GapReason::LostAtSource };
    assert_eq!(told[..2], [Event::Resumed {}, gap]);
}

fn world_config(world: &World) -> Config {
    Config {
        me: id(1),
        epoch: world.now,
        members: world::members(1, 3, &BTreeSet::new()),
        points_max: 40,
        whole_within: 30 * SECOND,
        finish_within: 3 * SECOND,
        absence_max: 600 * SECOND,
        media: vec![],
        media_port: 7001,
        thumbs: false,
    }
}

#[test]
fn a_point_away_at_the_end_learns_of_it_when_it_is_back() {
    let (mut world, session) = World::in_session();
    world.kill(3);
    let ticket = world.end(1);
    world.pass(5 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)), "the end does not wait for who is away");
    world.pass(3_600 * SECOND);
    world.power_on(3);
    world.pass(5 * SECOND);
    assert_eq!(world.head(3, session).state, State::Ended);
    assert_eq!(world.nodes[&3].publishing, None);
    assert_eq!(world.nodes[&3].closed, [session]);
    assert_eq!(world.nodes[&1].closed, [session], "now nobody owes anything");
}

#[test]
fn a_point_that_never_came_learns_of_the_end_and_owes_nothing() {
    let mut world = World::new(3);
    (1..=2).for_each(|n| world.power_on(n));
    let session = world.start(1, &[2, 3]).expect("nothing speaks against it");
    world.pass(5 * SECOND);
    world.end(1);
    world.pass(5 * SECOND);
    assert!(world.nodes[&1].closed.is_empty());
    world.power_on(3);
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&1].closed, [session]);
    assert_eq!(world.nodes[&3].publishing, None);
}

#[test]
fn a_gap_is_journalled_fetched_and_journalled_as_repaired() {
    let (mut world, session) = World::in_session();
    let sound = track(2, TrackKind::Audio);
    for seq in [0, 1, 4] {
        world.tell(1, Input::Stored(GroupId { session, track: sound, seq }));
    }
    world.pass(5 * SECOND);
    let gap = Event::Gap { track: sound, from_seq: 2, to_seq: 3, reason: GapReason::Shed };
    assert_eq!(world.journal(1).last(), Some(&gap));
    assert_eq!(world.nodes[&1].fetches, [(session, id(2), sound, 2, 3)]);
    for seq in [2, 3] {
        world.tell(1, Input::Stored(GroupId { session, track: sound, seq }));
    }
    world.tell(1, Input::Fetched { session, origin: id(2), missing: Some(vec![]) });
    world.settle();
    assert_eq!(world.journal(1).last(), Some(&Event::Repaired { track: sound, from_seq: 2, to_seq: 3 }));
}

/// Node 2 made one group more than central has; its report says so.
fn report(world: &mut World, session: SessionId, last: u64) -> Option<Message> {
    let tracks = vec![Last { track: track(2, TrackKind::Audio), seq: last }];
    world.ask(2, 1, Message::Finished(Finished { session, tracks, unused: vec![] }))
}

#[test]
fn the_end_waits_until_the_record_is_whole() {
    let (mut world, session) = World::in_session();
    let sound = track(2, TrackKind::Audio);
    world.nodes.get_mut(&2).expect("three nodes").running = false;
    world.tell(1, Input::Stored(GroupId { session, track: sound, seq: 0 }));
    let ticket = world.end(1);
    assert_eq!(report(&mut world, session, 1), Some(Message::Wait { session }));
    world.pass(10 * SECOND);
    assert_eq!((world.outcome(1, ticket), ended(&world)), (None, 0));
    assert_eq!(world.nodes[&1].fetches, [(session, id(2), sound, 1, 1)]);
    world.tell(1, Input::Stored(GroupId { session, track: sound, seq: 1 }));
    world.tell(1, Input::Fetched { session, origin: id(2), missing: Some(vec![]) });
    world.settle();
    assert_eq!((world.outcome(1, ticket), ended(&world)), (Some(Ok(session)), 1));
    assert_eq!(report(&mut world, session, 1), Some(Message::Done { session }));
}

#[test]
fn the_end_waits_no_longer_than_its_bound_and_repair_goes_on_after_it() {
    let (mut world, session) = World::in_session();
    let sound = track(2, TrackKind::Audio);
    world.nodes.get_mut(&2).expect("three nodes").running = false;
    world.tell(1, Input::Stored(GroupId { session, track: sound, seq: 0 }));
    let ticket = world.end(1);
    assert_eq!(report(&mut world, session, 1), Some(Message::Wait { session }));
    world.pass(29 * SECOND);
    assert_eq!(world.outcome(1, ticket), None);
    world.pass(2 * SECOND);
    assert_eq!(world.outcome(1, ticket), Some(Ok(session)));
    let gap = Event::Gap { track: sound, from_seq: 1, to_seq: 1, reason: GapReason::Shed };
    let journal = world.journal(1);
    let told = journal.iter().position(|event| *event == gap).expect("the gap is told before the end");
    assert!(told < journal.len() - 1 && ended(&world) == 1);
    world.tell(1, Input::Stored(GroupId { session, track: sound, seq: 1 }));
    world.tell(1, Input::Fetched { session, origin: id(2), missing: Some(vec![]) });
    world.settle();
    assert_eq!(world.journal(1).last(), Some(&Event::Repaired { track: sound, from_seq: 1, to_seq: 1 }));
}

#[test]
fn a_point_cannot_speak_for_the_tracks_of_another() {
    let (mut world, session) = World::in_session();
    let theirs = track(3, TrackKind::Audio);
    world.end(1);
    let tracks = vec![Last { track: theirs, seq: 500 }];
    let unused = vec![Span { track: theirs, from: 0, to: 100 }];
    world.ask(2, 1, Message::Finished(Finished { session, tracks, unused }));
    world.pass(5 * SECOND);
    assert!(world.nodes[&1].fetches.is_empty());
    assert_eq!(world.count(1, |event| matches!(event, Event::Gap { .. })), 0);
}

#[test]
fn a_delegate_that_hears_nothing_of_central_for_long_stops_and_is_free_for_others() {
    let (mut world, session) = World::in_session();
    world.kill(1);
    world.pass(599 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((session, 0)));
    world.pass(10 * SECOND);
    assert_eq!(world.nodes[&3].publishing, None);
    let other = world.start(2, &[3]).expect("node 2 is free too");
    world.pass(5 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((other, 0)));
}

#[test]
fn sessions_that_are_over_are_forgotten_beyond_a_limit() {
    let mut world = World::new(3);
    (1..=2).for_each(|n| world.power_on(n));
    for _ in 0..PAST_MAX + 3 {
        world.start(1, &[2, 3]).expect("the one before is over");
        world.pass(5 * SECOND);
        world.end(1);
        world.pass(10 * SECOND);
    }
    let view = world.nodes[&1].engine.view(world.now);
    assert!(view.past.len() <= PAST_MAX, "{} sessions wait for node 3", view.past.len());
    assert!(world.nodes[&1].closed.len() >= 3);
}

#[test]
fn an_answer_that_comes_unasked_is_refused() {
    let (mut world, session) = World::in_session();
    for message in [Message::Done { session }, Message::Wait { session }, Message::Ending { session, took_part: false }]
    {
        assert!(matches!(world.ask(2, 1, message), Some(Message::Refused { .. })));
    }
}

#[test]
fn a_delegate_that_restarts_unnoticed_says_so_and_is_invited_at_once() {
    let (mut world, session) = World::in_session();
    // Its program is replaced while the lines seem to stand: central sees it neither go nor come.
    let sent = world.sent.len();
    world.replace(2);
    world.pass(SECOND / 10);
    assert!(matches!(world.messages(2, 1, sent)[0], Message::Back { .. }));
    assert_eq!(world.nodes[&2].publishing, Some((session, 10)));
    let journal = world.journal(1);
    let again = [Event::Left { point: point(2), reason: LeftReason::Lost }, Event::Joined { point: point(2) }];
    assert_eq!(journal[journal.len() - 2..], again);
}

#[test]
fn a_point_whose_archive_was_lost_uses_no_number_again_that_it_may_have_used() {
    let (mut world, session) = World::in_session();
    for seq in 0..5 {
        world.tell(1, Input::Began(GroupId { session, track: track(2, TrackKind::Main), seq }));
    }
    world.kill(2);
    world.nodes.get_mut(&2).expect("three nodes").disk = world::Disk::default();
    world.pass(60 * SECOND);
    world.power_on(2);
    world.pass(2 * SECOND);
    // It may have made one a second since group 4 began.
    let Some((_, first)) = world.nodes[&2].publishing else { panic!("it is in session again") };
    assert!((65..75).contains(&first), "{first}");
    // One whose archive is whole goes on where its own disk says, if that is further.
    world.kill(3);
    world.power_on(3);
    world.pass(2 * SECOND);
    assert_eq!(world.nodes[&3].publishing, Some((session, 10)));
}

#[test]
fn a_group_of_centrals_own_room_that_its_disk_does_not_take_is_a_gap() {
    let (mut world, session) = World::in_session();
    let group = GroupId { session, track: track(1, TrackKind::Audio), seq: 3 };
    world.tell(1, Input::Broke { group, cut: keeper::Cut::NotStored });
    world.settle();
    let gap = Event::Gap { track: group.track, from_seq: 3, to_seq: 3, reason: GapReason::NotStored };
    assert_eq!(world.journal(1).last(), Some(&gap));
    // At a delegate it is central's affair, which has it or asks for it.
    let group = GroupId { track: track(2, TrackKind::Audio), ..group };
    world.tell(2, Input::Broke { group, cut: keeper::Cut::NotStored });
    world.settle();
    assert_eq!(world.journal(1).last(), Some(&gap));
}

#[test]
fn a_central_that_is_back_after_a_night_is_offered_what_it_lacks() {
    let (mut world, session) = World::in_session();
    // A group began and did not come, so central waits for it.
    world.tell(1, Input::Began(GroupId { session, track: track(2, TrackKind::Audio), seq: 0 }));
    world.end(1);
    world.pass(SECOND);
    assert!(world.messages(1, 2, 0).contains(&&Message::Wait { session }));
    world.kill(1);
    world.pass(14 * 3_600 * SECOND);
    let sent = world.sent.len();
    world.power_on(1);
    world.pass(2 * SECOND);
    assert!(world.messages(2, 1, sent).iter().any(|message| matches!(message, Message::Finished(_))));
}
