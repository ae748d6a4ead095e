//! Mesh and local socket ask for rights before anything is done. The other side of the mesh is one with a point's keys,
//! without a program behind it.

use std::net::{IpAddr, Ipv4Addr};

use store::id::{Hash, PointNumber};
use store::session::{Head, Member, Period};

use super::*;
use crate::config::{Address, Port};
use crate::wire::control::{End, Invite, Message};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A point of the mesh that says whatever it is told to.
struct Puppet {
    mesh: Mesh,
    me: NodeId,
    to: NodeId,
}

impl Puppet {
    /// With the keys in `folder`, connected to a node.
    async fn connect(folder: &Path, node: &Node) -> Puppet {
        let status = node.status().await;
        let keys = Identity::load(folder).expect("keys");
        let to: NodeId = status.own.node.parse().expect("a node's id");
        let settings = mesh::Settings {
            name: "puppet".into(),
            listen: LOOPBACK,
            port: Port::ANY,
            media_port: 7500,
            multicast: false,
            peers: vec![Address::from(SocketAddr::new(LOOPBACK, status.own.mesh_port))],
            members: [(to, vec![]), (keys.id(), vec![])].into(),
        };
        let (mesh, mut events) = Mesh::start(&keys.node, settings).expect("a free port");
        while !matches!(events.recv().await, Some(mesh::Event::Up { node, .. }) if node == to) {}
        // What the node asks in turn is left unanswered.
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Puppet { mesh, me: keys.id(), to }
    }

    /// What the node answers.
    async fn ask(&self, message: Message) -> Message {
        let bytes = message.encode().expect("a message within the limits").into();
        Message::decode(&self.mesh.ask(self.to, bytes).await.expect("an answer")).expect("a message")
    }

    /// Why the node refuses.
    async fn refused(&self, message: Message) -> String {
        match self.ask(message).await {
            Message::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// An invitation of this central to the node and whoever sends it.
    fn invitation(&self, central: NodeId) -> Message {
        let member = |(number, node): (u16, NodeId)| Member {
            number: PointNumber::new(number).expect("a small number"),
            node,
            name: number.to_string(),
        };
        let mut nodes = vec![self.me, self.to];
        nodes.extend((!nodes.contains(&central)).then_some(central));
        let head = Head {
            id: SessionId::from_bytes([7; 16]),
            title: "Thử".into(),
            state: store::session::State::Open,
            central,
            points: (1..).zip(nodes).map(member).collect(),
            epochs: vec![Period::first(Hash::NONE)],
            suite: store::seal::Suite::default(),
            started_unix_ms: 1,
            ended_unix_ms: None,
        };
        Message::Invite(Box::new(Invite {
            head,
            wraps: BTreeMap::new(),
            media: vec![],
            media_port: 1,
            origin: 0,
            used: 0,
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_mesh_a_point_gets_what_it_has_a_right_to_and_the_rest_is_refused_and_reported() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up_with(base.path(), [&[], &[], &[Right::Chair]]);
    let node = Node::start(&folders[0], None).await;
    let plain = Puppet::connect(&folders[1], &node).await;
    let chair = Puppet::connect(&folders[2], &node).await;
    let counted = async |name: &str| node.status().await.counters.0.get(name).copied().unwrap_or(0);

    let reason = plain.refused(plain.invitation(plain.me)).await;
    assert_eq!(reason, "the sender's roster entry lacks the right \"chair\"");
    assert_eq!((counted("deeds_refused").await, counted("forgeries_refused").await), (1, 0));
    let reason = chair.refused(chair.invitation(plain.me)).await;
    assert_eq!(reason, "only the session's central point may do that");
    assert_eq!((counted("deeds_refused").await, counted("forgeries_refused").await), (1, 1));
    // Who may call is heard, and only then is looked at the key, which is not there.
    assert_eq!(chair.refused(chair.invitation(chair.me)).await, "the key of epoch 0 is missing");
    // The end of a session nobody here knows is confirmed to whoever may chair.
    let session = SessionId::from_bytes([8; 16]);
    let end = || Message::End(End { session, unix_ms: 0, media: vec![], media_port: 1 });
    assert_eq!(chair.ask(end()).await, Message::Ending { session, took_part: false });
    assert!(plain.refused(end()).await.contains("lacks the right"));
    assert_eq!(counted("deeds_refused").await, 2);
    node.stop().await;

    // All of it is in the access log, by whom.
    let archive = Archive::open_read_only(&config::archive(&folders[0])).expect("an archive");
    let keys = Identity::load(&folders[0]).expect("keys");
    let page = control::access::read(&archive.logbook(), keys.id(), |_| None, &Default::default(), 0).expect("a log");
    let refused = |puppet: &Puppet| {
        let who = puppet.me.to_string();
        page.lines.iter().filter(|line| line.refused.is_some() && line.who.as_ref() == Some(&who)).count()
    };
    assert_eq!((refused(&plain), refused(&chair)), (2, 1), "{:?}", page.lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_socket_people_get_what_their_point_has_a_right_to() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up_with(base.path(), [&[], &[Right::Chair], &[]]);
    let node = Node::start(&folders[0], None).await;
    let refused = async |request: Request| match node.ask(request).await {
        Response::Not { fault: control::Fault::Refused, reason } => reason,
        other => panic!("not refused: {other:?}"),
    };
    let start = Request::SessionStart { title: "Thử".into(), points: vec![] };
    let remove = Request::SessionRemove { point: "Xã Tân Phú".into(), session: None };
    let export = Request::Exporting { session: SessionId::from_bytes([1; 16]).to_string() };
    for (request, right) in [(start, "chair"), (remove, "chair"), (export, "read")] {
        let reason = refused(request).await;
        assert!(reason.contains(&format!("lacks the right \"{right}\"")), "{reason}");
    }
    assert!(matches!(node.ask(Request::SessionList).await, Response::Sessions { .. }));
    assert_eq!(node.status().await.counters.0.get("deeds_refused"), Some(&3));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ordered_what_at_the_socket_is_in_the_access_log_by_the_number_of_the_user() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    let node = Node::start(&folders[0], None).await;
    let points = vec!["Xã Tân Phú".to_owned(), "Xã Kim Thành".to_owned()];
    let start = || Request::SessionStart { title: "Thử".into(), points: points.clone() };
    let session = node.session(start()).await;
    assert!(matches!(node.ask(start()).await, Response::Not { .. }), "one session at a time");
    node.session(Request::SessionRemove { point: points[0].clone(), session: None }).await;
    node.session(Request::SessionEnd { session: None }).await;
    let ordered = async || {
        let Response::AccessLog(page) = node.ask(Request::AccessLog { from: 0, filter: Default::default() }).await
        else {
            panic!("no log")
        };
        let mine = page.lines.into_iter().filter(|line| line.who == Some(control::own_uid().to_string()));
        mine.map(|line| (line.by, line.deed, line.which, line.refused.is_some())).collect::<Vec<_>>()
    };
    let line = |deed: &str, of: bool| ("local".to_owned(), deed.to_owned(), of.then(|| session.id.clone()), !of);
    let expected = [line("session", true), line("session", false), line("remove", true), line("session", true)];
    until("all are written", async || ordered().await.len() == expected.len()).await;
    assert_eq!(ordered().await, expected);
    node.stop().await;
}
