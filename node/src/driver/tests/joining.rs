//! Whole nodes in one process, over real sockets: who comes in by a code, who does not, and what all others learn of it.

use std::net::{TcpListener, UdpSocket};

use simnet::link::{self, Loss, Share};
use simnet::relay::Relay;
use store::id::Hash;
use store::keys::{NodeKey, WrapKey};
use store::roster::{Grant, Membership, Revoked, Roster};
use store::signed::Signed;

use super::*;
use crate::config::Address;
use crate::identity::roster;
use crate::join::call::{self, Refusal};
use crate::join::code::Code;
use crate::join::invite::{self, Invite};
use crate::join::knock::{Joined, Knock, Newcomer, Next};
use crate::join::secret::{Line, Secret};
use crate::join::wire::FRAME_MAX;
use crate::media::visit::{self, Visit};

/// A mesh whose authority is at hand: the first point may admit.
struct Mesh {
    base: tempfile::TempDir,
    authority: NodeKey,
    central: PathBuf,
}

fn point(identity: &Identity, name: &str, rights: &[Right]) -> Point {
    Point {
        node: identity.id(),
        wrap: identity.wrap.public(),
        name: name.into(),
        level: String::new(),
        zone: String::new(),
        rights: rights.iter().copied().collect(),
        addresses: vec![],
        replaces: None,
    }
}

impl Mesh {
    fn found() -> Mesh {
        let base = tempfile::tempdir().expect("a place for files");
        let central = base.path().join("central");
        let (identity, _) = Identity::load_or_create(&central).expect("a folder of our own");
        let authority = NodeKey::generate();
        let roster = Roster {
            number: 1,
            prev: Hash::NONE,
            agency: "Hải Phòng".into(),
            recovery: WrapKey::generate().public(),
            issued_unix_ms: 0,
            points: vec![point(&identity, "Trung tâm", &[Right::Chair, Right::Admin])],
            revoked: vec![],
            void: vec![],
        };
        let membership = Membership::new(Signed::sound(roster, &authority).expect("sound"), &authority.id());
        roster::save(&central, &membership.expect("a good roster")).expect("room on the disk");
        Mesh { base, authority, central }
    }

    fn identity(&self, name: &str) -> Identity {
        Identity::load_or_create(&self.base.path().join(name)).expect("a folder of our own").0
    }

    /// Puts an invite into central's folder, before or while it runs.
    fn invite(&self, name: &str, not_after_unix_ms: u64) -> Secret {
        let secret = Secret::generate();
        let grant = Grant {
            id: secret.id(),
            issuer: self.identity("central").id(),
            name: name.into(),
            level: String::new(),
            zone: String::new(),
            rights: [Right::Hold].into(),
            replaces: None,
            key: secret.signing_key().id(),
            not_after_unix_ms,
        };
        let grant = Signed::sound(grant, &self.authority).expect("sound");
        invite::save(&self.central, &Invite::new(grant, &secret)).expect("room on the disk");
        secret
    }

    /// An invite that is good, made while central runs.
    async fn invite_now(&self, central: &Node, name: &str) -> Secret {
        let secret = self.invite(name, unix_ms() + 60_000);
        assert_eq!(central.ask(Request::InviteTake { id: secret.id() }).await, Response::Done);
        secret
    }

    fn membership(&self, name: &str) -> Membership {
        roster::read(&self.base.path().join(name).join(roster::FILE)).expect("a membership")
    }

    /// Hands central the roster that follows what it knows, changed so.
    async fn sign(&self, central: &Node, change: impl FnOnce(&mut Roster)) -> Response {
        let known = self.membership("central");
        let mut next = known.next_roster(0);
        change(&mut next);
        let signed = Signed::sound(next, &self.authority).expect("sound");
        let after = Membership::new(signed, &self.authority.id()).expect("ours");
        let folder = self.base.path().join("stick");
        std::fs::create_dir_all(&folder).expect("room on the disk");
        roster::save(&folder, &after).expect("room on the disk");
        central.ask(Request::RosterSet { from: folder.join(roster::FILE) }).await
    }

    /// The whole of what `diemcau join` does, over `at`.
    async fn join(&self, name: &str, secret: &Secret, at: &[SocketAddr], mesh_port: u16) -> Result<Joined, Refusal> {
        let addresses = at.iter().map(|at| Address::from(*at)).collect();
        let code = Code::new(secret.clone(), mesh_port, addresses).expect("it fits");
        let joined = call::call(&self.identity(name), &code, vec![], unix_ms()).await?;
        roster::save(&self.base.path().join(name), &joined.membership).expect("room on the disk");
        Ok(joined)
    }
}

async fn media_of(node: &Node) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], node.status().await.own.media_port))
}

/// The line of a village: 80 ms and one packet in fifty lost, each way.
fn bad_line() -> link::Config {
    link::Config {
        delay: Duration::from_millis(80),
        loss: Loss::Random(Share::percent(2.0)),
        ..link::Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_comes_in_over_a_bad_line_and_is_one_of_us() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let secret = mesh.invite_now(&central, "UBND xã Kim Thành").await;
    let relay = Relay::start(media_of(&central).await, bad_line(), bad_line(), 5).expect("a relay");
    let joined = mesh.join("new", &secret, &[relay.addr()], 7400).await.expect("let in");
    assert_eq!(joined.membership, mesh.membership("central"), "it was on the disk before it was said");
    let central_port = central.status().await.own.mesh_port;
    let new = Node::start(&mesh.base.path().join("new"), Some(central_port)).await;
    until("they meet", async || central.status().await.points.iter().all(|point| point.online)).await;
    assert_eq!(new.status().await.own.name, "UBND xã Kim Thành");
    new.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_for_one_node_across_restarts_of_the_inviting_point() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let secret = mesh.invite_now(&central, "UBND xã Kim Thành").await;
    let at = media_of(&central).await;
    let first = mesh.join("new", &secret, &[at], 7400).await.expect("let in");
    let other = mesh.join("other", &secret, &[at], 7400).await;
    assert_eq!(other.unwrap_err(), Refusal::Used);
    // The same words again, and once more after the point has forgotten all that it only remembered.
    assert_eq!(mesh.join("new", &secret, &[at], 7400).await.expect("again").membership, first.membership);
    central.stop().await;
    // A crash came between the invite's file and the membership's: the latter is as it was before.
    let before = Membership::new(first.membership.roster().clone(), &mesh.authority.id()).expect("ours");
    roster::save(&mesh.central, &before).expect("room on the disk");
    let central = Node::start(&mesh.central, None).await;
    assert_eq!(central.status().await.points.len(), 2, "it was made up for at the start");
    let at = media_of(&central).await;
    assert_eq!(mesh.join("new", &secret, &[at], 7400).await.expect("again").membership, first.membership);
    assert_eq!(mesh.join("other", &secret, &[at], 7400).await.unwrap_err(), Refusal::Used);
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why() {
    let mesh = Mesh::found();
    let late = mesh.invite("Quá hạn", unix_ms() - 1);
    let taken_back = mesh.invite("Thu hồi", unix_ms() + 60_000);
    let central = Node::start(&mesh.central, None).await;
    let at = media_of(&central).await;
    assert_eq!(central.ask(Request::InviteCancel { id: taken_back.id() }).await, Response::Done);
    let refused = async |secret: &Secret| mesh.join("new", secret, &[at], 7400).await.unwrap_err();
    assert!(matches!(refused(&late).await, Refusal::Expired { .. }));
    assert_eq!(refused(&taken_back).await, Refusal::Withdrawn);
    assert_eq!(refused(&Secret::generate()).await, Refusal::Wrong);

    // Nobody there; and somebody whose UDP is lost on the way.
    let [silent, dead] = [(); 2].map(|()| UdpSocket::bind(("127.0.0.1", 0)).expect("a free port"));
    let [silent, gone] = [silent.local_addr(), dead.local_addr()].map(|at| at.expect("bound"));
    drop(dead);
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let open = listener.local_addr().expect("bound").port();
    let closed = {
        let closed = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        closed.local_addr().expect("bound").port()
    };
    let secret = Secret::generate();
    let tried = |at: SocketAddr| vec![at.to_string()];
    assert_eq!(mesh.join("new", &secret, &[silent], open).await.unwrap_err(), Refusal::UdpBlocked(tried(silent)));
    assert_eq!(mesh.join("new", &secret, &[gone], closed).await.unwrap_err(), Refusal::NoRoute(tried(gone)));
    // A dead address beside a good one does no harm.
    let good = mesh.invite_now(&central, "UBND xã Kim Thành").await;
    mesh.join("new", &good, &[gone, at], closed).await.expect("let in");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_told_apart_from_a_code_that_is_late() {
    let mesh = Mesh::found();
    let late = mesh.invite("Quá hạn", unix_ms() - 1_000);
    let central = Node::start(&mesh.central, None).await;
    let code = Code::new(late, 7400, vec![Address::from(media_of(&central).await)]).expect("it fits");
    let refused = async |unix_ms| call::call(&mesh.identity("new"), &code, vec![], unix_ms).await.unwrap_err();
    let hour = 3_600_000;
    let Refusal::ClockOff { ahead_ms, .. } = refused(unix_ms() - hour).await else { panic!("the clock is off") };
    assert!((ahead_ms + hour as i64).abs() < 10_000, "{ahead_ms}");
    assert!(matches!(refused(unix_ms() - 60_000).await, Refusal::Expired { .. }), "a minute is nothing");
    assert!(matches!(refused(unix_ms() + hour).await, Refusal::Expired { .. }), "late by either clock");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_recorded_on_one_connection_open_nothing_on_another() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let at = media_of(&central).await;
    let secret = mesh.invite_now(&central, "UBND xã Kim Thành").await;
    let node = mesh.identity("new");
    let mut visit = Visit::call(&node.node, at).await.expect("it answers");
    let line = Line { binding: visit.binding, knocker: node.id(), host: visit.node };
    let newcomer = Newcomer { wrap: node.wrap.public(), addresses: vec![], unix_ms: unix_ms() };
    let (mut knock, first) = Knock::new(secret, line, newcomer);
    visit.say(&first).await.expect("sent");
    let welcome = visit.hear(FRAME_MAX).await.expect("welcomed");
    let Ok(Next::Say(ask)) = knock.hear(&welcome) else { panic!("it goes on") };
    // Broken off here: what was said is recorded, and nobody came in.
    visit.close(crate::wire::media::Close::Done);
    for key in [&node.node, &mesh.identity("thief").node] {
        let mut visit = Visit::call(key, at).await.expect("it answers");
        visit.say(&first).await.expect("sent");
        // Said at once, as a replay would be; it may find the line closed.
        let _ = visit.say(&ask).await;
        assert_eq!(visit.hear(FRAME_MAX).await.unwrap_err(), visit::Error::Stranger);
    }
    assert_eq!(central.status().await.points.len(), 1);
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_nothing_and_after_a_few_guesses_is_not_listened_to() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let at = media_of(&central).await;
    let stranger = mesh.identity("stranger");
    let mut answers = Vec::new();
    for _ in 0..5 {
        let mut visit = Visit::call(&stranger.node, at).await.expect("it answers");
        // Whether or not it is still open to what we say.
        let _ = visit.say(b"who is there?").await;
        answers.push(visit.hear(FRAME_MAX).await.unwrap_err());
    }
    let [stranger, busy] = [visit::Error::Stranger, visit::Error::Busy];
    assert_eq!(answers, [stranger.clone(), stranger.clone(), stranger, busy.clone(), busy]);
    assert_eq!(central.status().await.counters.0["knocks_refused"], 4, "three guesses, and once that it must wait");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_learns_who_came_in_and_who_was_revoked_is_cut_off_everywhere() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let (at, port) = (media_of(&central).await, central.status().await.own.mesh_port);
    let mut nodes = vec![central];
    for name in ["Một", "Hai", "Ba"] {
        let secret = mesh.invite_now(&nodes[0], name).await;
        mesh.join(name, &secret, &[at], port).await.expect("let in");
        nodes.push(Node::start(&mesh.base.path().join(name), Some(port)).await);
        let count = nodes.len();
        for node in &nodes {
            until("everybody sees everybody", async || {
                let points = node.status().await.points;
                points.len() == count && points.iter().all(|point| point.online && point.same_roster != Some(false))
            })
            .await;
        }
    }
    let gone = mesh.identity("Hai").id();
    let begun = Instant::now();
    let change = |next: &mut Roster| {
        let place = next.points.iter().position(|point| point.node == gone).expect("it is a point");
        let name = next.points.remove(place).name;
        next.revoked.push(Revoked { node: gone, name, reason: "mất máy".into(), unix_ms: 0, replaced_by: None });
    };
    assert_eq!(mesh.sign(&nodes[0], change).await, Response::Done);
    let revoked = nodes.remove(2);
    for node in &nodes {
        until("it is a point no more, and the others are well", async || {
            let status = node.status().await;
            let others = status.points.iter().all(|point| point.online && point.node != gone.to_string());
            status.own.roster == 2 && status.points.len() == 3 && others
        })
        .await;
    }
    let all_know = begun.elapsed();
    // It was not told, and sees the others go.
    until("it is alone", async || {
        let points = revoked.status().await.points;
        points.iter().filter(|point| point.online).count() == 1
    })
    .await;
    let cut = begun.elapsed();
    println!("all others know after {all_know:?}, the revoked point is alone after {cut:?}");
    assert!(cut < Duration::from_secs(5), "{cut:?}");

    // It starts anew and knocks at every door it knows; the three go on as before.
    revoked.stop().await;
    let strangers = nodes[0].status().await.counters.0["strangers_refused"];
    let again = Node::start(&mesh.base.path().join("Hai"), Some(port)).await;
    until("it was turned away", async || nodes[0].status().await.counters.0["strangers_refused"] > strangers).await;
    assert_eq!(again.status().await.points.iter().filter(|point| point.online).count(), 1);
    // Nor does an old roster help anybody: what is older than what is known is not taken.
    let old = mesh.base.path().join("Hai").join(roster::FILE);
    assert_eq!(nodes[1].ask(Request::RosterSet { from: old }).await, Response::Done, "it says nothing new");
    assert_eq!(nodes[1].status().await.own.roster, 2);
    again.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_roster_is_refused_and_told_of() {
    let mesh = Mesh::found();
    let central = Node::start(&mesh.central, None).await;
    let forger = Mesh { authority: NodeKey::generate(), base: tempfile::tempdir().expect("room"), ..Mesh::found() };
    let stick = forger.base.path().join("stick");
    std::fs::create_dir_all(&stick).expect("room on the disk");
    let mut forged = mesh.membership("central").next_roster(0);
    forged.points[0].rights.clear();
    let forged = Signed::sound(forged, &forger.authority).expect("sound");
    let forged = Membership::new(forged, &forger.authority.id()).expect("its own");
    roster::save(&stick, &forged).expect("room on the disk");
    let from = stick.join(roster::FILE);
    let Response::Not { reason, .. } = central.ask(Request::RosterSet { from }).await else { panic!("it was taken") };
    assert!(reason.contains("the authority of this mesh is"), "{reason}");
    // A second roster of the authority's own with one number.
    assert_eq!(mesh.sign(&central, |next| next.agency = "Một".into()).await, Response::Done);
    let mut fork = mesh.membership("central").roster().content().clone();
    fork.agency = "Hai".into();
    let fork = Membership::new(Signed::sound(fork, &mesh.authority).expect("sound"), &mesh.authority.id());
    roster::save(&stick, &fork.expect("ours")).expect("room on the disk");
    let from = stick.join(roster::FILE);
    let Response::Not { reason, .. } = central.ask(Request::RosterSet { from }).await else { panic!("it was taken") };
    assert!(reason.contains("two rosters 2"), "{reason}");
    assert_eq!(central.status().await.own.roster, 2);
    central.stop().await;
}
