//! The media plane asks before it connects, offers, sends, takes and gives: what becomes of who has no right to it.

use super::*;
use crate::engine::rights::Denied;
use crate::media::FetchError;
use crate::wire::media::{self as wire, Close};

/// Central and two delegates that are connected, seen from outside.
async fn three() -> [Node; 3] {
    let mut nodes = [Node::start(0, 3), Node::start(1, 3), Node::start(2, 3)];
    let address = nodes[0].addr();
    let [central, delegates @ ..] = &mut nodes;
    for delegate in delegates {
        delegate.media.dial(central.media.shared.me, vec![address]);
        delegate.until_up(key(0).id()).await;
        central.until_up(delegate.media.shared.me).await;
    }
    nodes
}

/// The same mesh with point `number` having these rights only.
fn with_rights(me: u16, number: u16, rights: &[Right]) -> Members {
    let all: BTreeSet<Right> = Right::ALL.into();
    let rights = |n: u16| if n == number { rights.iter().copied().collect() } else { all.clone() };
    let member = |n: u16| (key(n).id(), Member { name: n.to_string(), rights: rights(n) });
    Members::new(key(me).id(), (0..3).map(member).collect(), BTreeSet::new())
}

async fn denied(node: &mut Node) -> (NodeId, Denied) {
    node.until("refusal", |event| match event {
        Event::Denied { node, denied, .. } => Some((node, denied)),
        _ => None,
    })
    .await
}

fn keep_one(node: &Node, point: u16) -> GroupId {
    let id = GroupId { session: session_id(), track: track(point, TrackKind::Audio), seq: 0 };
    let sealer = Sealer::new(
        &SessionKey::generate(),
        Suite::default(),
        session_id(),
        key(point).id(),
        id.track,
        0,
        Start::random(),
    );
    let (mut writer, _) = record::Writer::new(sealer, 0, 0);
    writer.frame(0, Flags::default(), b"sound").expect("within limits");
    node.kept.0.lock().expect("no panic").insert(id, writer.finish().record.bytes().clone());
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_while_connected_is_cut_off_and_not_called_again() {
    let [mut central, mut one, _two] = three().await;
    central.media.set_members(members(0, [0, 2]));
    let gone = |event| matches!(event, Event::Down { node, .. } if node == key(1).id()).then_some(());
    central.until("loss", gone).await;
    let why = one.until("loss", |event| if let Event::Down { reason, .. } = event { Some(reason) } else { None }).await;
    assert!(why.contains(&(Close::Stranger as u32).to_string()), "{why}");
    one.media.set_members(members(1, [1, 2]));
    assert!(one.media.shared.state().dials.is_empty(), "it does not call who is no point to it");
    assert!(central.media.connected().contains(&key(2).id()) && !central.media.connected().contains(&key(1).id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_gets_no_past_group() {
    let [mut central, one, _two] = three().await;
    let id = keep_one(&central, 0);
    central.media.set_members(with_rights(0, 1, &[Right::Chair, Right::Relay, Right::Hold, Right::Admin]));
    let nothing = one.media.fetch(key(0).id(), id, 0, 10_000).await;
    assert!(matches!(nothing, Err(FetchError::Line(_))), "{nothing:?}");
    assert_eq!(denied(&mut central).await, (key(1).id(), Denied::Lacks(Right::Read)));
    central.media.set_members(with_rights(0, 1, &[Right::Read]));
    assert_eq!(central.media.taken(), BTreeMap::new());
    assert_eq!(one.media.fetch(key(0).id(), id, 0, 10_000).await.expect("it may now").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_took_how_much_of_a_session_is_known_until_it_is_asked() {
    let [central, one, two] = three().await;
    let id = keep_one(&central, 0);
    let nothing = GroupId { seq: 7, ..id };
    for taker in [&one, &two, &two] {
        taker.media.fetch(key(0).id(), id, 0, 10_000).await.expect("it may");
        taker.media.fetch(key(0).id(), nothing, 9, 10_000).await.expect("it may");
    }
    let count = |number: u16, groups: u64| ((key(number).id(), session_id()), groups);
    let mut taken = BTreeMap::new();
    // A fetch is counted a moment after its last byte has left.
    eventually("all are counted", || {
        for (who, groups) in central.media.taken() {
            *taken.entry(who).or_default() += groups;
        }
        taken == [count(1, 1), count(2, 2)].into()
    })
    .await;
    assert_eq!(central.media.taken(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_fetches_what_a_point_made_whatever_its_own_rights() {
    let [central, one, _two] = three().await;
    let id = keep_one(&one, 1);
    one.media.set_members(with_rights(1, 0, &[]));
    assert_eq!(central.media.fetch(key(1).id(), id, 0, 10_000).await.expect("it keeps the record").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_relay_and_offers_anothers_track_is_cut_off_and_reported() {
    let [mut central, one, two] = three().await;
    central.media.set_members(with_rights(0, 1, &[Right::Chair, Right::Read, Right::Hold, Right::Admin]));
    // Our own program leaves that out.
    one.media.announce(session_id(), vec![track(2, TrackKind::Audio)]);
    let peer = key(0).id();
    let announce = |media: &Media, tracks: &[TrackId]| {
        let message = wire::Message::Announce { session: session_id(), tracks: tracks.to_vec() };
        media.shared.tell(&media.shared.state().peers[&peer], message);
    };
    announce(&one.media, &[track(2, TrackKind::Audio)]);
    assert_eq!(denied(&mut central).await, (key(1).id(), Denied::Another));
    // Who may relay is heard, though by this session's order the track does not come from it.
    central.media.set_members(with_rights(0, 2, &[Right::Relay]));
    announce(&two.media, &[track(1, TrackKind::Audio), track(2, TrackKind::Audio)]);
    let offered = |event| match event {
        // The first, when it connected, was empty.
        Event::Announced { node, tracks, .. } if node == key(2).id() && !tracks.is_empty() => Some(tracks),
        Event::Denied { node, denied, .. } if node == key(2).id() => panic!("{denied}"),
        _ => None,
    };
    assert_eq!(central.until("offer", offered).await, [track(2, TrackKind::Audio)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_is_cut_off_has_its_offers_withdrawn_and_gets_nothing_any_more() {
    let [mut central, mut one, mut two] = three().await;
    let id = keep_one(&central, 0);
    one.media.announce(session_id(), vec![track(1, TrackKind::Audio)]);
    let offers = |wanted: usize| {
        move |event| match event {
            Event::Announced { tracks, .. } => (tracks.len() == wanted).then_some(()),
            _ => None,
        }
    };
    two.until("offer", offers(1)).await;
    central.media.expel(session_id(), key(1).id());
    two.until("withdrawal", offers(0)).await;
    let why = one.until("loss", |event| if let Event::Down { reason, .. } = event { Some(reason) } else { None }).await;
    assert!(why.contains(&(Close::Removed as u32).to_string()), "{why}");
    // It calls again by itself; it is still a point of the mesh. What it says of the session is not heard.
    assert_eq!(denied(&mut central).await, (key(1).id(), Denied::Removed));
    let nothing = one.media.fetch(key(0).id(), id, 0, 10_000).await;
    assert!(nothing.is_err(), "{nothing:?}");
    // The same by the head of the session, for who learns of it that way.
    let removed = [PointNumber::new(2).expect("a small number")].into();
    central.media.open_session(session(3).without(removed));
    assert!(two.media.fetch(key(0).id(), id, 0, 10_000).await.is_err());
    eventually("it is said who asked", || {
        std::iter::from_fn(|| central.events.try_recv().ok())
            .any(|event| matches!(event, Event::Denied { node, denied: Denied::Removed, .. } if node == key(2).id()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_in_a_session_can_have_none_of_it() {
    let mut central = Node::start(0, 3);
    central.media.set_members(members(0, 0..5));
    let mut outsider = Node::start(4, 5);
    outsider.media.dial(key(0).id(), vec![central.addr()]);
    outsider.until_up(key(0).id()).await;
    central.until_up(key(4).id()).await;
    let message = wire::Message::Subscribe { session: session_id(), track: track(0, TrackKind::Audio), priority: 7 };
    let shared = &outsider.media.shared;
    shared.tell(&shared.state().peers[&key(0).id()], message);
    assert_eq!(denied(&mut central).await, (key(4).id(), Denied::Outside));
}

/// What a point that is not called to a session can say of it on its control stream, and whether it is refused aloud; what is
/// not comes to nothing, or has nothing to do with sessions.
fn said_of(session: SessionId) -> Vec<(wire::Message, bool)> {
    let track = track(0, TrackKind::Audio);
    vec![
        (wire::Message::Announce { session, tracks: vec![track] }, true),
        (wire::Message::Subscribe { session, track, priority: 7 }, true),
        (wire::Message::Unsubscribe { session, track }, false),
        (wire::Message::Keyframe { session, track }, false),
        (wire::Message::Clock { sent: 1 }, false),
        (wire::Message::ClockReply { sent: u64::MAX, remote: 1 }, false),
        (wire::Message::Probed { bytes: 0, micros: 0 }, false),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_session_that_one_is_not_called_to_one_can_say_nothing_that_is_heard() {
    let theirs = SessionId::from_bytes([4; 16]);
    let names = said_of(theirs)
        .into_iter()
        .map(|(message, _)| format!("{message:?}").split([' ', '{']).next().expect("a name").to_owned());
    let all = crate::wire::cases(&serde_json::from_str::<wire::Message>(r#"{"?":0}"#).expect_err("no such message"));
    assert_eq!(names.collect::<BTreeSet<_>>(), all, "a message without a row");

    let [mut central, _one, two] = three().await;
    let called = (0..2).map(|number| (PointNumber::new(number).expect("small"), key(number).id())).collect();
    central.media.open_session(Session::new(theirs, called, key(0).id()));
    central.media.announce(theirs, vec![track(0, TrackKind::Audio)]);
    let outsider = two.media.shared.me;
    for (message, aloud) in said_of(theirs) {
        let tell = |message: wire::Message| {
            two.media.shared.tell(&two.media.shared.state().peers[&key(0).id()], message);
        };
        tell(message.clone());
        if !aloud {
            // What is refused for sure follows, so whatever came of the first comes before that.
            tell(wire::Message::Subscribe { session: theirs, track: track(0, TrackKind::Audio), priority: 7 });
        }
        let first = central
            .until("refusal", |event| match event {
                Event::Denied { node, denied, .. } => Some((node, denied)),
                Event::Wanted { session, .. } | Event::Keyframe { session, .. } | Event::Announced { session, .. }
                    if session == theirs =>
                {
                    panic!("{message:?} was heard")
                }
                _ => None,
            })
            .await;
        assert_eq!(first, (outsider, Denied::Outside), "{message:?}");
        // It was cut off, and calls again by itself.
        central.until_up(outsider).await;
        eventually("both know that", || two.media.connected().contains(&key(0).id())).await;
    }
}
