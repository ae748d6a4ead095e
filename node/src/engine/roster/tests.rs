//! Points that tell each other, with real rosters and admissions.

use store::keys::{NodeKey, WrapKey};
use store::roster::{Grant, GrantId, Membership, Point, Proof};
use store::signed::Signed;

use super::*;

fn key(n: u8) -> NodeKey {
    NodeKey::from_bytes(&[n; 32])
}

fn authority() -> NodeKey {
    key(200)
}

fn point(n: u8) -> Point {
    Point {
        node: key(n).id(),
        wrap: WrapKey::from_bytes(&[n; 32]).public(),
        name: format!("Xã {n}"),
        level: String::new(),
        zone: String::new(),
        rights: BTreeSet::new(),
        addresses: vec![],
        replaces: None,
    }
}

fn first(points: u8) -> Membership {
    let roster = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: "Thử".into(),
        recovery: WrapKey::from_bytes(&[99; 32]).public(),
        issued_unix_ms: 0,
        points: (0..points).map(point).collect(),
        revoked: vec![],
        void: vec![],
    };
    Membership::new(Signed::sound(roster, &authority()).unwrap(), &authority().id()).unwrap()
}

/// The next roster, changed so.
fn next(before: &Membership, change: impl FnOnce(&mut Roster)) -> Membership {
    let mut roster = before.next_roster(0);
    change(&mut roster);
    let mut after = before.clone();
    after.merge_roster(Signed::sound(roster, &authority()).unwrap()).unwrap();
    after
}

/// Point `n` is let in by point 0.
fn admission(n: u8) -> Signed<Admission> {
    let code = key(100 + n);
    let grant = Grant {
        id: GrantId::from_bytes([n; 16]),
        issuer: key(0).id(),
        name: format!("Xã {n}"),
        level: String::new(),
        zone: String::new(),
        rights: BTreeSet::new(),
        replaces: None,
        key: code.id(),
        not_after_unix_ms: 10,
    };
    let (node, wrap) = (key(n).id(), point(n).wrap);
    let proof = Proof::new(&code, &grant.id, &node, &wrap);
    let grant = Signed::sound(grant, &authority()).unwrap().bytes().clone();
    Signed::sound(Admission { grant, node, wrap, addresses: vec![], proof, unix_ms: 5 }, &key(0)).unwrap()
}

fn known(membership: &Membership) -> Known {
    Known {
        number: membership.number(),
        roster: membership.roster().bytes().clone(),
        admissions: membership.admissions().map(|admission| admission.bytes().clone()).collect(),
    }
}

/// A node: the engine and what its driver does.
struct Node {
    engine: Engine,
    membership: Membership,
    refused: Vec<String>,
}

/// Nodes, and which of them hear each other.
struct World {
    now: Instant,
    nodes: Vec<Node>,
    cut: BTreeSet<(usize, usize)>,
    /// Bytes of all messages.
    bytes: usize,
    messages: usize,
    /// Every which message gets lost, 0 for none.
    lose: usize,
}

impl World {
    fn new(memberships: Vec<Membership>) -> Self {
        let node =
            |membership: Membership| Node { engine: Engine::new(known(&membership)), membership, refused: Vec::new() };
        let nodes = memberships.into_iter().map(node).collect();
        Self { now: Instant::now(), nodes, cut: BTreeSet::new(), bytes: 0, messages: 0, lose: 0 }
    }

    fn meet(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if a != b && !self.is_cut(a, b) {
                    self.nodes[a].engine.handle(self.now, Input::Up { node: key(b as u8).id() });
                }
            }
        }
        self.settle();
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn changed(&mut self, n: usize, membership: Membership) {
        self.nodes[n].membership = membership;
        let known = known(&self.nodes[n].membership);
        self.nodes[n].engine.handle(self.now, Input::Changed(known));
        self.settle();
    }

    /// Carries out what the engines want, until they want nothing more.
    fn settle(&mut self) {
        let mut steps = 0;
        while let Some((n, output)) = (0..self.nodes.len()).find_map(|n| Some((n, self.nodes[n].engine.poll()?))) {
            steps += 1;
            assert!(steps < 100_000, "they never come to rest");
            self.carry_out(n, output);
        }
    }

    fn carry_out(&mut self, n: usize, output: Output) {
        match output {
            Output::Ask { node, message } => {
                let to = (0..self.nodes.len()).find(|to| key(*to as u8).id() == node).unwrap();
                let answer = self.ask(n, to, &message);
                self.nodes[n].engine.handle(self.now, Input::Answered { node, asked: message, answer });
            }
            Output::Take { item, bytes, .. } => {
                let hash = Hash::of(&bytes);
                let known = self.nodes[n].take(item, bytes);
                let input = known.map_or(Input::Refused { item: hash }, Input::Changed);
                self.nodes[n].engine.handle(self.now, input);
            }
            Output::Reply { .. } => panic!("an answer to nobody"),
        }
    }

    fn ask(&mut self, from: usize, to: usize, message: &Message) -> Option<Message> {
        let bytes = message.encode();
        self.messages += 1;
        self.bytes += bytes.len();
        if self.is_cut(from, to) || (self.lose > 0 && self.messages.is_multiple_of(self.lose)) {
            return None;
        }
        let message = Message::decode(&bytes).unwrap();
        let from = key(from as u8).id();
        let mut others = Vec::new();
        self.nodes[to].engine.handle(self.now, Input::Asked { from, ticket: Ticket(1), message });
        let mut answer = None;
        while let Some(output) = self.nodes[to].engine.poll() {
            match output {
                Output::Reply { message, .. } => {
                    self.bytes += message.encode().len();
                    answer = Some(message);
                }
                other => others.push(other),
            }
        }
        others.into_iter().for_each(|output| self.carry_out(to, output));
        answer
    }

    /// Time passes, with all that falls due in it.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = self.nodes.iter().filter_map(|node| node.engine.deadline()).min();
            let Some(due) = due.filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            let now = self.now;
            self.nodes.iter_mut().for_each(|node| node.engine.handle(now, Input::Tick));
            self.settle();
        }
        self.now = until;
    }

    fn agree(&self) -> bool {
        self.nodes.iter().all(|node| node.membership.hash() == self.nodes[0].membership.hash())
    }
}

impl Node {
    fn take(&mut self, item: Item, bytes: Bytes) -> Option<Known> {
        let merged = match item {
            Item::Roster => Signed::parse(bytes)
                .map_err(|error| error.to_string())
                .and_then(|roster| self.membership.merge_roster(roster).map_err(|error| error.to_string())),
            Item::Admission => Signed::parse(bytes)
                .map_err(|error| error.to_string())
                .and_then(|admission| self.membership.merge_admission(admission).map_err(|error| error.to_string())),
        };
        match merged {
            Ok(true) => Some(known(&self.membership)),
            Ok(false) => None,
            Err(why) => {
                self.refused.push(why);
                None
            }
        }
    }
}

#[test]
fn points_that_meet_come_to_know_the_same() {
    let old = first(3);
    let new = next(&old, |roster| roster.agency = "Mới".into());
    let mut with = new.clone();
    with.merge_admission(admission(50)).unwrap();
    let mut also = old.clone();
    also.merge_admission(admission(51)).unwrap();
    // One has the roster, one an admission beside it, one an admission beside the old roster.
    let mut world = World::new(vec![new, with, also]);
    world.meet();
    assert!(world.agree());
    assert_eq!(world.nodes[0].membership.points().len(), 5);
    assert_eq!(world.nodes[2].membership.agency(), "Mới");
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        assert_eq!(world.nodes[a].engine.compare(&key(b).id()), Some((2, true)));
    }
}

#[test]
fn news_reach_everybody_at_once_also_round_a_cut_line() {
    let mut world = World::new(vec![first(4); 4]);
    world.cut.insert((0, 3));
    world.meet();
    let now = world.now;
    let mut with = world.nodes[0].membership.clone();
    with.merge_admission(admission(50)).unwrap();
    world.changed(0, with.clone());
    assert!(world.agree());
    world.changed(2, next(&with, |roster| roster.agency = "Mới".into()));
    assert!(world.agree());
    assert_eq!(world.now, now, "nobody waited for a clock");
}

#[test]
fn lost_messages_are_made_up_for() {
    for lose in 2..8 {
        let mut world = World::new(vec![first(4); 4]);
        world.lose = lose;
        world.meet();
        world.changed(0, next(&world.nodes[0].membership.clone(), |roster| roster.agency = "Mới".into()));
        world.pass(COMPARE);
        assert!(world.agree(), "with every {lose}th message lost");
    }
}

#[test]
fn points_at_rest_say_little() {
    let mut world = World::new(vec![first(10); 10]);
    world.meet();
    (world.messages, world.bytes) = (0, 0);
    world.pass(10 * COMPARE);
    assert!(world.messages <= 11 * 90, "{} exchanges in ten minutes", world.messages);
    assert!(world.bytes / world.messages < 200, "{} bytes each", world.bytes / world.messages);
}

#[test]
fn a_roster_of_a_whole_province_comes_in_parts_once() {
    let old = first(3);
    let many = next(&old, |roster| {
        for n in 0..3_300_u32 {
            let mut bytes = [1; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let name = format!("Uỷ ban nhân dân xã số {n}");
            let node = NodeId::from_bytes(bytes);
            roster.points.push(Point { node, wrap: WrapKey::from_bytes(&bytes).public(), name, ..point(0) });
        }
    });
    let len = many.roster().bytes().len();
    assert!(len > 10 * PART_MAX, "{len} bytes");
    let mut world = World::new(vec![old.clone(), old.clone(), old]);
    world.meet();
    world.bytes = 0;
    world.changed(0, many);
    assert!(world.agree());
    assert!(world.bytes < 2 * len + len / 10, "{} bytes for two copies of {len}", world.bytes);
}

#[test]
fn a_fork_is_looked_at_once_and_an_older_roster_never() {
    let old = first(3);
    let ours = next(&old, |roster| roster.agency = "Một".into());
    let theirs = next(&old, |roster| roster.agency = "Hai".into());
    let mut world = World::new(vec![ours.clone(), theirs, old]);
    world.meet();
    world.pass(10 * COMPARE);
    assert_eq!(world.nodes[0].membership, ours, "nobody is talked over");
    assert_eq!(world.nodes[0].refused.len(), 1);
    assert!(world.nodes[0].refused[0].contains("two rosters 2"), "{:?}", world.nodes[0].refused);
    assert_eq!(world.nodes[1].refused.len(), 1);
    assert_eq!(world.nodes[2].membership.number(), 2, "it took the first it was told of");
    assert_eq!(world.nodes[0].engine.compare(&key(1).id()), Some((2, false)));
}

#[test]
fn another_meshs_roster_is_refused() {
    let foreign = {
        let mut roster = first(3).roster().content().clone();
        (roster.number, roster.prev) = (9, Hash::of(b"before"));
        Membership::new(Signed::sound(roster, &key(201)).unwrap(), &key(201).id()).unwrap()
    };
    let mut world = World::new(vec![first(3), foreign]);
    world.meet();
    assert_eq!(world.nodes[0].membership.number(), 1);
    assert!(world.nodes[0].refused[0].contains("the authority of this mesh is"), "{:?}", world.nodes[0].refused);
}

#[test]
fn who_offers_what_he_does_not_give_costs_little() {
    let mut engine = Engine::new(known(&first(2)));
    let (node, now) = (key(1).id(), Instant::now());
    engine.handle(now, Input::Up { node });
    let asked = |engine: &mut Engine| match engine.poll() {
        Some(Output::Ask { message, .. }) => Some(message),
        None => None,
        Some(other) => panic!("{other:?}"),
    };
    let news = asked(&mut engine).unwrap();
    let offer = Message::News(News { number: 9, roster: Hash::of(b"nothing"), admissions: vec![] });
    let answers = [
        None,
        Some(Message::Gone),
        Some(Message::Part { total: 3, bytes: Bytes::from_static(b"abc") }),
        Some(Message::Part { total: 0, bytes: Bytes::new() }),
        Some(Message::Part { total: u64::MAX, bytes: Bytes::from_static(b"abc") }),
        Some(Message::Part { total: 2, bytes: Bytes::from_static(b"abc") }),
        Some(offer.clone()),
    ];
    let mut time = now;
    let mut question = news;
    for answer in answers {
        engine.handle(time, Input::Answered { node, asked: question, answer: Some(offer.clone()) });
        let get = asked(&mut engine).unwrap();
        assert!(matches!(get, Message::Get { from: 0, .. }));
        engine.handle(time, Input::Answered { node, asked: get, answer });
        assert_eq!(asked(&mut engine), None, "not again at once");
        assert_eq!(engine.deadline(), Some(time + AGAIN));
        assert!(engine.fetches.is_empty());
        time += AGAIN;
        engine.handle(time, Input::Tick);
        question = asked(&mut engine).unwrap();
    }
}

#[test]
fn a_point_that_is_gone_is_neither_asked_nor_waited_for() {
    let mut engine = Engine::new(known(&first(2)));
    let (node, now) = (key(1).id(), Instant::now());
    engine.handle(now, Input::Up { node });
    let Some(Output::Ask { message, .. }) = engine.poll() else { panic!() };
    engine.handle(now, Input::Down { node });
    engine.handle(now, Input::Answered { node, asked: message, answer: None });
    assert!(engine.poll().is_none() && engine.deadline().is_none());
    assert_eq!(engine.compare(&node), None);
}
