//! The media plane on a good line: who gets what, in which order, and what stays when a connection goes.

use super::*;
use crate::media::Fetched;
use crate::media::tls::{self, Purpose};
use crate::wire::media::{self as wire, Message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_hears_everybody_through_central() {
    let mut central = Node::start(0, 3);
    let mut delegates = [Node::start(1, 3), Node::start(2, 3)];
    for (number, delegate) in delegates.iter_mut().enumerate() {
        let me = number as u16 + 1;
        delegate.media.dial(key(0).id(), vec![central.addr()]);
        delegate.media.announce(session_id(), vec![track(me, TrackKind::Audio)]);
        central.media.subscribe(session_id(), track(me, TrackKind::Audio), 6);
        for other in (0..3).filter(|other| *other != me) {
            delegate.media.subscribe(session_id(), track(other, TrackKind::Audio), 6);
        }
    }
    central.media.announce(session_id(), vec![track(0, TrackKind::Audio)]);
    for delegate in &mut delegates {
        delegate
            .until("wish of the others", |event| matches!(event, Event::Wanted { wanted: true, .. }).then_some(()))
            .await;
    }
    central
        .until("wish of the others", |event| matches!(event, Event::Wanted { wanted: true, .. }).then_some(()))
        .await;
    let [one, two] = delegates;
    let offer = Offer::sound(Duration::from_secs(2));
    let speakers = [(&central, 0), (&one, 1), (&two, 2)];
    let talks = speakers.map(|(node, number)| {
        tokio::spawn(talk(
            node.media.clone(),
            Arc::clone(&node.kept),
            number,
            u64::from(number) * 10,
            offer,
            Published::default(),
        ))
    });
    let heard = [central.events, one.events, two.events].map(|events| listen(events).0);
    for talk in talks {
        talk.await.expect("no panic");
    }
    for (me, heard) in heard.iter().enumerate() {
        let others: BTreeSet<(TrackKind, u64)> =
            (0..3).filter(|other| *other != me).map(|other| (TrackKind::Audio, other as u64 * 10)).collect();
        eventually("both others are heard whole", || heard.lock().expect("no panic").whole == others).await;
        assert_eq!(heard.lock().expect("no panic").at.len(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_joins_late_gets_the_open_group_from_its_keyframe() {
    let mut central = Node::start(0, 2);
    let mut delegate = Node::start(1, 2);
    central.media.announce(session_id(), vec![track(0, TrackKind::Main), track(0, TrackKind::Audio)]);
    let offer = Offer::picture(400_000, 4, Duration::from_secs(2));
    let published = Published::default();
    let talk =
        tokio::spawn(talk(central.media.clone(), Arc::clone(&central.kept), 0, 0, offer, Arc::clone(&published)));
    delegate.media.dial(key(0).id(), vec![central.addr()]);
    central.until_up(key(1).id()).await;
    // The group is under way: several pictures have left.
    eventually("ten pictures are out", || published.lock().expect("no panic").contains_key(&(TrackKind::Main, 0, 10)))
        .await;
    delegate.media.subscribe(session_id(), track(0, TrackKind::Main), 4);
    let mut reader =
        delegate.until("group", |event| if let Event::Group(reader) = event { Some(reader) } else { None }).await;
    let joined = published.lock().expect("no panic").len();
    assert!(joined < 100, "the group is still open when the newcomer gets it");
    let live::Item::Chunk(first) = reader.next().await else { panic!("the header comes first") };
    assert!(!first.is_empty());
    talk.await.expect("no panic");
    let (heard, _) = listen(delegate.events);
    hear(reader.again(), Arc::clone(&heard)).await;
    let heard = heard.lock().expect("no panic");
    let pictures: Vec<u32> = heard.at.keys().map(|(_, _, index)| *index).collect();
    assert_eq!(pictures, (0..50).collect::<Vec<u32>>(), "from the keyframe, without a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_is_what_was_stored_and_what_is_missing_is_said() {
    let mut central = Node::start(0, 2);
    let delegate = Node::start(1, 2);
    delegate.media.dial(key(0).id(), vec![central.addr()]);
    central.until_up(key(1).id()).await;
    let offer = Offer::sound(Duration::from_secs(4));
    talk(delegate.media.clone(), Arc::clone(&delegate.kept), 1, 5, offer, Published::default()).await;
    let id = |seq| GroupId { session: session_id(), track: track(1, TrackKind::Audio), seq };
    // Central fetches although it did not dial: the delegate made the way.
    let fetched = central.media.fetch(key(1).id(), id(4), 7, 1 << 20).await.expect("connected");
    let [Fetched::Missing(4), Fetched::Record(five), Fetched::Record(six), Fetched::Missing(7)] = &fetched[..] else {
        panic!("{fetched:?}");
    };
    for (record, seq) in [(five, 5), (six, 6)] {
        assert_eq!(record.bytes(), record_of(&delegate.kept, id(seq)).bytes());
    }
    // As often as need be: a fetch gives its place back.
    for _ in 0..20 {
        let fetched = central.media.fetch(key(1).id(), id(5), 5, 1 << 20).await.expect("connected");
        assert!(matches!(&fetched[..], [Fetched::Record(_)]));
    }
    // The other way round over the same connection.
    let fetched = delegate.media.fetch(key(0).id(), id(5), 5, 1 << 20).await.expect("connected");
    assert!(matches!(fetched[..], [Fetched::Missing(5)]));
    // What waits for the disk is not said to be missing: the answer ends before it.
    delegate.kept.1.lock().expect("no panic").insert(id(6));
    let fetched = central.media.fetch(key(1).id(), id(5), 7, 1 << 20).await.expect("connected");
    assert!(matches!(&fetched[..], [Fetched::Record(five)] if five.id() == id(5)), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_measures_the_line() {
    let mut central = Node::start(0, 2);
    let delegate = Node::start(1, 2);
    let line = simnet::link::Config {
        delay: Duration::from_millis(10),
        rate: Some(simnet::link::Rate::new(2_000_000, simnet::link::Queue::Time(Duration::from_millis(300)))),
        ..simnet::link::Config::default()
    };
    let relay = simnet::relay::Relay::start(central.addr(), line.clone(), line, 5).expect("a relay");
    delegate.media.dial(key(0).id(), vec![relay.addr()]);
    central.until_up(key(1).id()).await;
    let (_, bits, _) = central.media.line(key(1).id()).await.expect("connected");
    assert!((1_400_000..2_300_000).contains(&bits), "a line of 2 Mb/s was measured as {bits}");
}

/// On one thread whoever reads the connection's streams always learns of its end before whoever waits for the end.
#[tokio::test]
async fn what_a_neighbour_said_at_its_leaving_is_known_whoever_learns_of_it_first() {
    let mut central = Node::start(0, 2);
    let mut delegate = Node::start(1, 2);
    delegate.media.dial(key(0).id(), vec![central.addr()]);
    central.until_up(key(1).id()).await;
    delegate.until_up(key(0).id()).await;
    delegate.media.hang_up(key(0).id());
    let ended = |event| if let Event::Down { said, reason, .. } = event { Some((said, reason)) } else { None };
    let (said, reason) = central.until("loss", ended).await;
    assert!(said, "it left in good order: {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_neighbour_is_told_and_comes_back_by_itself() {
    let mut central = Node::start(0, 2);
    let address = central.addr();
    let mut delegate = Node::start(1, 2);
    delegate.media.dial(key(0).id(), vec![address]);
    delegate.until_up(key(0).id()).await;
    central.until_up(key(1).id()).await;
    // Central's program ends and begins again on the same port.
    drop(central);
    delegate.until("loss", |event| matches!(event, Event::Down { .. }).then_some(())).await;
    let config = Config { listen: address, give_way: false, line_bits: 5_000_000, epoch: Instant::now() };
    let (media, mut events) = loop {
        match Media::bind(&key(0), config.clone(), Arc::new(Kept::default())) {
            Ok(bound) => break bound,
            // The old socket is closed by a task that may still be about it.
            Err(crate::media::Error::Listen(..)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    };
    media.set_members(members(0, 0..2));
    delegate.until_up(key(0).id()).await;
    let up = async { while !matches!(events.recv().await, Some(Event::Up { node }) if node == key(1).id()) {} };
    tokio::time::timeout(Duration::from_secs(20), up).await.expect("central knows it too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_important_streams_leave_first_when_the_line_is_full() {
    let central = Node::start(0, 2);
    // Faster than it is, so that only the order of streams decides.
    let config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        give_way: false,
        line_bits: 1_000_000_000,
        epoch: Instant::now(),
    };
    let (media, mut events) = Media::bind(&key(0), config, Arc::new(Kept::default())).expect("a socket");
    drop(central);
    media.set_members(members(0, [1]));
    media.open_session(session(2));
    let line = simnet::link::Config {
        rate: Some(simnet::link::Rate::new(2_000_000, simnet::link::Queue::Time(Duration::from_secs(2)))),
        ..simnet::link::Config::default()
    };
    let target = media.local_addr().expect("bound");
    let relay = simnet::relay::Relay::start(target, simnet::link::Config::default(), line, 6).expect("a relay");
    // A receiver of our own, which sees bytes as they leave: it answers no probe, so no estimate holds them back.
    let client = tls::client(&crate::mesh::keypair(&key(1)), &key(0).id(), Purpose::Live).expect("keys");
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    let connection = endpoint.connect_with(client, relay.addr(), "x").expect("valid").await.expect("connected");
    let (mut control, _answers) = connection.open_bi().await.expect("a stream");
    let tracks = [(TrackKind::Screen, 2), (TrackKind::Main, 4), (TrackKind::Audio, 6)];
    for (kind, priority) in tracks {
        let message = Message::Subscribe { session: session_id(), track: track(0, kind), priority };
        control.write_all(&wire::encode(&message).expect("small")).await.expect("connected");
    }
    for _ in tracks {
        while !matches!(events.recv().await, Some(Event::Wanted { wanted: true, .. })) {}
    }
    // All begin at once, the least important first, each with more than the line carries at once.
    let mut writers = Vec::new();
    for (kind, _) in tracks {
        let sealer = Sealer::new(
            &SessionKey::generate(),
            Suite::default(),
            session_id(),
            key(0).id(),
            track(0, kind),
            0,
            Start::random(),
        );
        let (mut writer, head) = record::Writer::new(sealer, 0, 0);
        let live = media.publish(writer.header(), head);
        for _ in 0..3 {
            live.append(writer.frame(0, Flags::default(), &[0x5a; 20_000]).expect("within limits"));
        }
        live.end(writer.finish().end.encode());
        writers.push(kind);
    }
    let ends = Arc::new(Mutex::new(Vec::new()));
    let mut streams = tokio::task::JoinSet::new();
    while ends.lock().expect("no panic").len() < 3 {
        tokio::select! {
            stream = connection.accept_uni() => {
                let (mut stream, ends) = (stream.expect("connected"), Arc::clone(&ends));
                streams.spawn(async move {
                    let Ok(bytes) = stream.read_to_end(1 << 20).await else { return };
                    if bytes.first() == Some(&crate::wire::media::STREAM_GROUP) {
                        let record = record::Header::decode(bytes[1..=record::Header::LEN].try_into().expect("its length"));
                        ends.lock().expect("no panic").push(record.expect("ours").track.kind());
                    }
                });
            }
            Some(_) = streams.join_next() => {}
        }
    }
    assert_eq!(*ends.lock().expect("no panic"), [TrackKind::Audio, TrackKind::Main, TrackKind::Screen]);
}
