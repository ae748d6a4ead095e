//! Real nodes over loopback sockets in one process.

mod hostile;

use super::behaviour::{self, BehaviourEvent};
use super::*;
use futures::StreamExt;
use libp2p::identify;
use libp2p::request_response::{Event as Exchange, Message};
use libp2p::swarm::SwarmEvent;
use simnet::link;
use simnet::relay::Relay;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Node {
    id: NodeId,
    mesh: Mesh,
    events: mpsc::Receiver<Event>,
}

fn settings(members: &[NodeId], peers: Vec<Address>) -> Settings {
    Settings {
        name: "UBND xã Kim Thành".into(),
        listen: LOOPBACK,
        port: Port::ANY,
        media_port: 7500,
        multicast: false,
        peers,
        members: members.iter().map(|&node| (node, Vec::new())).collect(),
    }
}

fn start(key: &NodeKey, members: &[NodeId], peers: Vec<Address>) -> Node {
    let (mesh, events) = Mesh::start(key, settings(members, peers)).unwrap();
    Node { id: key.id(), mesh, events }
}

impl Node {
    fn address(&self) -> Address {
        Address::from(SocketAddr::new(LOOPBACK, self.mesh.port()))
    }

    /// What happens next, leaving strangers aside.
    async fn next(&mut self) -> Event {
        loop {
            let next = timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a running mesh");
            if !matches!(next, Event::Stranger { .. }) {
                return next;
            }
        }
    }

    /// Waits until these and no others have come.
    async fn meets(&mut self, mut others: Vec<NodeId>) {
        while !others.is_empty() {
            let Event::Up { node, media } = self.next().await else { panic!("not a coming") };
            assert!(others.contains(&node));
            assert_eq!(media[0], "127.0.0.1:7500".parse().unwrap());
            others.retain(|&other| other != node);
        }
    }
}

/// Answers every question with what was asked, twice.
fn echo(mut node: Node) -> Mesh {
    let mesh = node.mesh.clone();
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let Event::Request { message, reply, .. } = event {
                let _ = reply.send([&message[..], &message[..]].concat().into());
            }
        }
    });
    mesh
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it holds in time");
}

#[tokio::test]
async fn three_points_find_one_another_through_one_address_and_talk() {
    let keys = [(); 3].map(|()| NodeKey::generate());
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let mut central = start(&keys[0], &ids, vec![]);
    let mut second = start(&keys[1], &ids, vec![central.address()]);
    let mut third = start(&keys[2], &ids, vec![central.address()]);
    central.meets(vec![ids[1], ids[2]]).await;
    second.meets(vec![ids[0], ids[2]]).await;
    third.meets(vec![ids[0], ids[1]]).await;
    let peer = second.mesh.peers()[&ids[2]].clone();
    assert!(peer.up && peer.last_seen.is_some() && !peer.addresses.is_empty(), "{peer:?}");
    assert_eq!(peer.name, "UBND xã Kim Thành");
    let asker = central.mesh.clone();
    let _answering = [echo(central), echo(second), echo(third)];
    for to in [ids[1], ids[2]] {
        assert_eq!(asker.ask(to, Bytes::from_static(b"ab")).await.unwrap(), "abab");
    }
    assert_eq!(asker.ask(NodeKey::generate().id(), Bytes::new()).await, Err(Error::NotConnected));
}

#[tokio::test]
async fn a_message_has_a_limit_and_a_dropped_question_is_unanswered() {
    let keys = [(); 2].map(|()| NodeKey::generate());
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let mut one = start(&keys[0], &ids, vec![]);
    let mut two = start(&keys[1], &ids, vec![one.address()]);
    one.meets(vec![ids[1]]).await;
    two.meets(vec![ids[0]]).await;
    let asker = two.mesh.clone();
    let longest = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
    assert_eq!(asker.ask(ids[0], Bytes::from(vec![7; MESSAGE_BYTES_MAX + 1])).await, Err(Error::TooLong));
    let asking = tokio::spawn({
        let longest = longest.clone();
        async move { asker.ask(ids[0], longest).await }
    });
    let Event::Request { from, message, reply } = one.next().await else { panic!() };
    assert_eq!((from, &message), (two.id, &longest));
    drop(reply);
    assert_eq!(asking.await.unwrap(), Err(Error::Unanswered));
}

#[tokio::test]
async fn a_point_that_leaves_is_missed_and_found_again() {
    let keys = [(); 2].map(|()| NodeKey::generate());
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let mut stays = start(&keys[0], &ids, vec![]);
    let mut leaves = start(&keys[1], &ids, vec![stays.address()]);
    stays.meets(vec![ids[1]]).await;
    leaves.meets(vec![ids[0]]).await;
    leaves.mesh.stop().await;
    assert!(matches!(stays.next().await, Event::Down { node } if node == ids[1]));
    assert!(!stays.mesh.peers()[&ids[1]].up);
    assert_eq!(leaves.mesh.ask(ids[0], Bytes::new()).await, Err(Error::Stopped));
    let _back = start(&keys[1], &ids, vec![stays.address()]);
    stays.meets(vec![ids[1]]).await;
}

#[tokio::test]
async fn a_line_that_falls_silent_is_missed_and_another_way_is_found() {
    let keys = [(); 2].map(|()| NodeKey::generate());
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let mut far = start(&keys[0], &ids, vec![]);
    let target = SocketAddr::new(LOOPBACK, far.mesh.port());
    let relay = Relay::start(target, link::Config::default(), link::Config::default(), 1).unwrap();
    let mut near = start(&keys[1], &ids, vec![Address::from(relay.addr())]);
    far.meets(vec![ids[1]]).await;
    near.meets(vec![ids[0]]).await;
    relay.cut(true);
    let cut = std::time::Instant::now();
    for node in [&mut far, &mut near] {
        assert!(matches!(node.next().await, Event::Down { .. }));
    }
    // Seven seconds, and as many for a machine that has other things to do.
    assert!(cut.elapsed() < Duration::from_secs(14), "{:?}", cut.elapsed());
    // The relay stays cut, but the point has said where it listens.
    far.meets(vec![ids[1]]).await;
    near.meets(vec![ids[0]]).await;
}

#[tokio::test]
async fn a_stranger_is_sent_away_and_learns_nothing() {
    let keys = [(); 3].map(|()| NodeKey::generate());
    let [one, two, stranger] = [0, 1, 2].map(|n: usize| keys[n].id());
    let mut point = start(&keys[0], &[one, two], vec![]);
    // The stranger runs our own program and knows the point's key.
    let mut swarm = behaviour::swarm(&keypair(&keys[2]), peer_id(&one), false, door::Porter::new()).unwrap();
    let address = peer::quic(SocketAddr::new(LOOPBACK, point.mesh.port()));
    swarm.dial(address.with_p2p(peer_id(&one).unwrap()).unwrap()).unwrap();
    let peer = peer_id(&one).unwrap();
    swarm.behaviour_mut().hello.send_request(&peer, Bytes::from_static(b"who is there?"));
    let mut refused = false;
    while !refused || point.mesh.strangers() == 0 {
        match timeout(PATIENCE, swarm.select_next_some()).await.expect("sent away in time") {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
                panic!("the stranger was told {info:?}");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Hello(Exchange::Message { .. })) => {
                panic!("the stranger was greeted")
            }
            SwarmEvent::Behaviour(BehaviourEvent::Hello(Exchange::OutboundFailure { .. })) => refused = true,
            _ => {}
        }
    }
    assert!(!point.mesh.peers().contains_key(&stranger));
    let told = timeout(PATIENCE, point.events.recv()).await.expect("an event in time");
    assert!(matches!(told, Some(Event::Stranger { node, from }) if (node, from) == (stranger, LOOPBACK)), "{told:?}");
    // And the point is as well as before.
    let _second = start(&keys[1], &[one, two], vec![point.address()]);
    point.meets(vec![two]).await;
}

#[tokio::test]
async fn who_becomes_a_point_is_met_and_who_is_none_any_more_is_cut_off_and_stays_out() {
    let keys = [(); 3].map(|()| NodeKey::generate());
    let [one, two, three] = [0, 1, 2].map(|n: usize| keys[n].id());
    let mut central = start(&keys[0], &[one, two], vec![]);
    let mut second = start(&keys[1], &[one, two], vec![central.address()]);
    let mut third = start(&keys[2], &[one, two, three], vec![central.address()]);
    central.meets(vec![two]).await;
    second.meets(vec![one]).await;
    let members = |nodes: &[NodeId]| nodes.iter().map(|&node| (node, Vec::new())).collect::<Members>();
    for node in [&central, &second] {
        node.mesh.set_members(members(&[one, two, three]));
    }
    central.meets(vec![three]).await;
    second.meets(vec![three]).await;
    third.meets(vec![one, two]).await;

    let asking = tokio::spawn({
        let mesh = central.mesh.clone();
        async move { mesh.ask(two, Bytes::from_static(b"?")).await }
    });
    let Event::Request { reply: unanswered, .. } = second.next().await else { panic!("not a question") };
    let cut = std::time::Instant::now();
    for node in [&central, &third] {
        node.mesh.set_members(members(&[one, three]));
    }
    for node in [&mut central, &mut third] {
        assert!(matches!(node.next().await, Event::Down { node } if node == two));
    }
    assert_eq!(asking.await.unwrap(), Err(Error::NotConnected));
    for _ in 0..2 {
        assert!(matches!(second.next().await, Event::Down { .. }));
    }
    assert!(cut.elapsed() < Duration::from_secs(5), "{:?}", cut.elapsed());
    drop(unanswered);
    // It calls again and again, and those two talk as before.
    eventually(|| central.mesh.strangers() > 0).await;
    assert!(!central.mesh.peers().contains_key(&two));
    let asker = third.mesh.clone();
    let _answering = echo(central);
    assert_eq!(asker.ask(one, Bytes::from_static(b"ab")).await.unwrap(), "abab");
    assert!(second.events.try_recv().is_err(), "nobody came back");
}

#[tokio::test]
async fn a_point_of_another_version_or_with_a_strange_greeting_is_refused_by_name() {
    let mut later = Vec::new();
    ciborium::into_writer(&BTreeMap::from([("version", 7)]), &mut later).unwrap();
    for (greeting, reason) in [(later, "version 7"), (b"GET / HTTP/1.1".to_vec(), "cannot be read")] {
        let keys = [(); 2].map(|()| NodeKey::generate());
        let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
        let mut point = start(&keys[0], &ids, vec![]);
        let mut swarm = behaviour::swarm(&keypair(&keys[1]), peer_id(&ids[0]), false, door::Porter::new()).unwrap();
        swarm.dial(peer::tcp(SocketAddr::new(LOOPBACK, point.mesh.port()))).unwrap();
        let mut answered = false;
        let talk = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                        let greeting = greeting.clone().into();
                        swarm.behaviour_mut().hello.send_request(&peer_id, greeting);
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Hello(Exchange::Message {
                        message: Message::Request { .. },
                        ..
                    })) => answered = true,
                    SwarmEvent::ConnectionClosed { .. } => return,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, talk).await.expect("refused in time");
        assert!(answered, "the point says its own version");
        eventually(|| point.mesh.peers()[&ids[1]].refused.is_some()).await;
        let refused = point.mesh.peers()[&ids[1]].refused.clone().unwrap();
        assert!(refused.contains(reason), "{refused}");
        let told = point.next().await;
        assert!(matches!(&told, Event::Refused { node, reason } if *node == ids[1] && *reason == refused), "{told:?}");
        assert!(point.events.try_recv().is_err(), "nobody came");
    }
}

#[tokio::test]
async fn a_default_port_gives_way_and_a_chosen_one_does_not() {
    let key = NodeKey::generate();
    let first = start(&key, &[], vec![]);
    let taken = first.mesh.port();
    let give_way = Settings { port: Port { number: taken, fixed: false }, ..settings(&[], vec![]) };
    let (second, _events) = Mesh::start(&NodeKey::generate(), give_way).unwrap();
    assert!(second.port() > taken && second.port() - taken <= 100);
    let insist = Settings { port: Port { number: taken, fixed: true }, ..settings(&[], vec![]) };
    let error = Mesh::start(&NodeKey::generate(), insist).unwrap_err().to_string();
    assert!(error.starts_with(&format!("port {taken} on 127.0.0.1 is taken by another program")), "{error}");
}

#[tokio::test]
async fn a_port_taken_for_tcp_alone_is_taken() {
    let other = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let taken = other.local_addr().unwrap().port();
    let insist = Settings { port: Port { number: taken, fixed: true }, ..settings(&[], vec![]) };
    assert!(matches!(Mesh::start(&NodeKey::generate(), insist), Err(StartError::PortTaken { .. })));
}
