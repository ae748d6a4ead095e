//! A few engines joined by a mesh and media connections that do as they are told: everything a driver would carry out
//! is carried out at once, and what was done is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::journal::{Event, LeftReason, NoteKind};
use store::keys::{Epoch, SessionKey, Wrap, WrapContext, WrapKey};
use store::roster::Right;
use store::session::Head;

use super::super::*;
use crate::engine::clock::Line;
use crate::engine::rights::{Member, Who, may};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Wall clock at the beginning of every world, Unix milliseconds.
pub(super) const WALL: u64 = 1_700_000_000_000;

/// What survives a restart of a node.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) heads: BTreeMap<SessionId, Head>,
    pub(super) wraps: BTreeMap<SessionId, BTreeMap<Epoch, Wraps>>,
    /// First group number never reserved, per session.
    pub(super) reserved: BTreeMap<SessionId, u64>,
    pub(super) journal: Vec<(u64, Event)>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) disk: Disk,
    pub(super) running: bool,
    /// Session and first group number while it publishes.
    pub(super) publishing: Option<(SessionId, u64)>,
    pub(super) line: Option<Line>,
    opened: BTreeSet<SessionId>,
    pub(super) subscribed: BTreeMap<NodeId, Vec<TrackId>>,
    pub(super) told: Vec<(Ticket, Result<SessionId, Refusal>)>,
    pub(super) fetches: Vec<(SessionId, NodeId, TrackId, u64, u64)>,
    pub(super) closed: Vec<SessionId>,
    dialled: BTreeSet<NodeId>,
    epoch: Instant,
    /// Whether the disk takes what is written.
    pub(super) disk_works: bool,
    /// The last head that was opened, by which groups would be sealed.
    pub(super) open: Option<Head>,
    /// Who was cut off from which session.
    pub(super) expelled: Vec<(SessionId, NodeId)>,
    /// What the program dies of: the moment before the output of this name would be carried out.
    pub(super) dies_before: Option<&'static str>,
    /// Or the moment after.
    pub(super) dies_after: Option<&'static str>,
}

pub(super) struct World {
    pub(super) now: Instant,
    begin: Instant,
    pub(super) nodes: BTreeMap<u8, Node>,
    /// Pairs that cannot reach each other, lower first.
    cut: BTreeSet<(u8, u8)>,
    /// Questions on their way: who waits for the answer, and about what.
    asked: BTreeMap<Ticket, (u8, u8, SessionId)>,
    tickets: u64,
    /// Every message sent, in order.
    pub(super) sent: Vec<(u8, u8, Message)>,
    /// Nodes the roster does not name any more.
    revoked: BTreeSet<u8>,
}

pub(super) fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node; 32])
}

pub(super) fn point(number: u16) -> PointNumber {
    PointNumber::new(number).expect("a small point number")
}

pub(super) fn track(number: u16, kind: TrackKind) -> TrackId {
    TrackId::new(point(number), kind)
}

/// Who stands for the recovery key.
pub(super) fn recovery() -> NodeId {
    id(200)
}

/// Nodes 1 and 2 may chair; the others may not.
pub(super) fn members(me: u8, count: u8, revoked: &BTreeSet<u8>) -> Members {
    let rights = |n| if n <= 2 { BTreeSet::from([Right::Chair]) } else { BTreeSet::new() };
    let member = |n| (id(n), Member { name: format!("Điểm {n}"), rights: rights(n) });
    let points = (1..=count).filter(|n| !revoked.contains(n)).map(member).collect();
    Members::new(id(me), points, revoked.iter().map(|&n| id(n)).collect())
}

/// A key made in the test's order: by session and epoch.
pub(super) fn key(session: SessionId, epoch: Epoch) -> SessionKey {
    let mut bytes = [epoch; 32];
    bytes[..16].copy_from_slice(session.as_bytes());
    SessionKey::from_bytes(&bytes)
}

/// A key for some recipients, who all have the same wrap key here.
pub(super) fn wraps(session: SessionId, epoch: Epoch, to: impl IntoIterator<Item = NodeId>) -> Wraps {
    let public = WrapKey::from_bytes(&[5; 32]).public();
    let wrap = |recipient| -> Wrap {
        let context = WrapContext { session, epoch, recipient };
        key(session, epoch).wrap(&public, &context).expect("a key wraps to a good recipient")
    };
    to.into_iter().map(|node| (node, wrap(node))).collect()
}

fn config(me: u8, count: u8, epoch: Instant, revoked: &BTreeSet<u8>) -> Config {
    Config {
        me: id(me),
        epoch,
        members: members(me, count, revoked),
        points_max: 40,
        whole_within: 30 * SECOND,
        finish_within: 3 * SECOND,
        absence_max: 600 * SECOND,
        media: vec![],
        media_port: 7000 + u16::from(me),
        thumbs: false,
    }
}

impl World {
    /// `count` nodes that are switched off.
    pub(super) fn new(count: u8) -> World {
        let begin = Instant::now() + 3_600 * SECOND;
        let nodes = (1..=count).map(|n| {
            let node = Node {
                engine: Engine::new(config(n, count, begin, &BTreeSet::new())),
                disk: Disk::default(),
                running: false,
                publishing: None,
                line: None,
                opened: BTreeSet::new(),
                subscribed: BTreeMap::new(),
                told: Vec::new(),
                fetches: Vec::new(),
                closed: Vec::new(),
                dialled: BTreeSet::new(),
                epoch: begin,
                disk_works: true,
                open: None,
                expelled: Vec::new(),
                dies_before: None,
                dies_after: None,
            };
            (n, node)
        });
        World {
            now: begin,
            begin,
            nodes: nodes.collect(),
            cut: BTreeSet::new(),
            asked: BTreeMap::new(),
            tickets: 0,
            sent: Vec::new(),
            revoked: BTreeSet::new(),
        }
    }

    /// Three nodes online and a session started by node 1 that all joined.
    pub(super) fn in_session() -> (World, SessionId) {
        let mut world = World::new(3);
        (1..=3).for_each(|n| world.power_on(n));
        let session = world.start(1, &[2, 3]).expect("nothing speaks against it");
        world.pass(2 * SECOND);
        (world, session)
    }

    pub(super) fn wall(&self) -> u64 {
        WALL + u64::try_from(self.now.duration_since(self.begin).as_millis()).expect("a short test")
    }

    fn config_of(&self, n: u8) -> Config {
        config(n, self.count_of_nodes(), self.now, &self.revoked)
    }

    fn count_of_nodes(&self) -> u8 {
        u8::try_from(self.nodes.len()).expect("few nodes")
    }

    /// The authority revokes a node; the others learn it, and cut it off.
    pub(super) fn revoke(&mut self, n: u8) {
        self.revoked.insert(n);
        for other in self.others_in_reach(n) {
            self.set_cut(n, other, true);
        }
        for learner in self.nodes.keys().copied().filter(|&other| other != n).collect::<Vec<_>>() {
            let members = members(learner, self.count_of_nodes(), &self.revoked);
            self.tell(learner, Input::Roster { members });
        }
        self.settle();
    }

    /// The operator of a node removes a point; the answer comes when the others go on with another key.
    pub(super) fn remove(&mut self, n: u8, point: u8) -> Ticket {
        let ticket = self.ticket();
        self.tell(n, Input::Remove { ticket, session: None, node: id(point) });
        self.settle();
        ticket
    }

    /// Somebody at a node writes into the journal.
    pub(super) fn note(&mut self, n: u8, about: Option<u8>, text: &str) -> Ticket {
        let (ticket, node, kind) = (self.ticket(), about.map(id), NoteKind::Incident);
        let (session, by, text) = (None, Some("lan".to_owned()), text.to_owned());
        self.tell(n, Input::Note { ticket, session, kind, node, by, text });
        self.settle();
        ticket
    }

    /// Starts a node's program: a new engine with what the disk remembers, then whoever is online is seen.
    pub(super) fn power_on(&mut self, n: u8) {
        self.boot(n);
        for other in self.others_in_reach(n) {
            self.tell(n, Input::Up { node: id(other) });
            self.tell(other, Input::Up { node: id(n) });
        }
        self.settle();
    }

    fn boot(&mut self, n: u8) {
        let config = self.config_of(n);
        let (now, wall) = (self.now, self.wall());
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        assert!(!node.running, "node {n} is running");
        node.running = true;
        node.epoch = now;
        node.engine = Engine::new(config);
        let heads: Vec<Head> = node.disk.heads.values().cloned().collect();
        for head in heads {
            let own = own_of(&node.disk, head.id);
            let wraps = node.disk.wraps.get(&head.id).cloned().unwrap_or_default();
            let last_us = node.disk.journal.iter().map(|(at, _)| *at).max().unwrap_or(0);
            let epochs = node.disk.journal.iter().filter_map(|(_, event)| match event {
                Event::Epoch { epoch, .. } => Some(*epoch),
                _ => None,
            });
            let told = epochs.max().unwrap_or(0);
            let recalled = Box::new(Recalled { head, own, wraps, told, last_us, kept: vec![], cut_short: vec![] });
            node.engine.handle(now, Input::Recall { recalled, unix_ms: wall });
        }
    }

    /// Ends a node's program without a word.
    pub(super) fn kill(&mut self, n: u8) {
        let reach = self.others_in_reach(n);
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        node.running = false;
        node.publishing = None;
        node.line = None;
        node.open = None;
        node.opened.clear();
        node.dialled.clear();
        for other in reach {
            self.part(n, other);
        }
        self.settle();
    }

    /// Starts a node's program anew so quickly that the others notice nothing.
    pub(super) fn replace(&mut self, n: u8) {
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        node.running = false;
        node.publishing = None;
        node.line = None;
        node.open = None;
        node.opened.clear();
        node.dialled.clear();
        self.boot(n);
        for other in self.others_in_reach(n) {
            self.tell(n, Input::Up { node: id(other) });
        }
        self.settle();
    }

    /// Cuts the line between two nodes, or mends it.
    pub(super) fn set_cut(&mut self, a: u8, b: u8, cut: bool) {
        let pair = (a.min(b), a.max(b));
        if cut {
            self.cut.insert(pair);
            self.part(a, b);
        } else {
            self.cut.remove(&pair);
            for (from, to) in [(a, b), (b, a)] {
                self.tell(from, Input::Up { node: id(to) });
                if self.nodes[&from].dialled.contains(&id(to)) {
                    self.connect(from, to);
                }
            }
        }
        self.settle();
    }

    fn part(&mut self, a: u8, b: u8) {
        self.asked
            .retain(|_, (asker, answerer, _)| !matches!((*asker, *answerer), pair if pair == (a, b) || pair == (b, a)));
        for (n, other) in [(a, b), (b, a)] {
            if self.nodes[&n].running {
                self.tell(n, Input::Down { node: id(other) });
                self.tell(n, Input::MediaDown { node: id(other), reason: LeftReason::Lost });
            }
        }
    }

    fn in_reach(&self, a: u8, b: u8) -> bool {
        self.nodes[&a].running && self.nodes[&b].running && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn others_in_reach(&self, n: u8) -> Vec<u8> {
        self.nodes.keys().copied().filter(|&other| other != n && self.in_reach(n, other)).collect()
    }

    /// Lets a media connection stand, with one clock exchange and every track of who publishes announced.
    fn connect(&mut self, a: u8, b: u8) {
        if !self.in_reach(a, b) {
            return;
        }
        for (n, other) in [(a, b), (b, a)] {
            self.tell(n, Input::MediaUp { node: id(other) });
            let sent = micros(self.now - self.nodes[&n].epoch);
            let remote = micros(self.now - self.nodes[&other].epoch);
            self.tell(n, Input::Clock { node: id(other), sent, remote, received: sent });
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// The operator of a node starts a session.
    pub(super) fn start(&mut self, n: u8, points: &[u8]) -> Result<SessionId, Refusal> {
        let ticket = self.ticket();
        let session = SessionId::from_parts(self.wall(), [u8::try_from(ticket.0).expect("few tickets"); 10]);
        let wraps = wraps(session, 0, self.nodes.keys().map(|&node| id(node)).chain([recovery()]));
        let (commitment, recovery) = (key(session, 0).commitment(), Some(recovery()));
        let fresh = Fresh { id: session, commitment, wraps, recovery, unix_ms: self.wall() };
        let points = points.iter().map(|&node| id(node)).collect();
        self.tell(n, Input::Start { ticket, title: "Tiếp công dân".into(), points, fresh });
        self.settle();
        self.outcome(n, ticket).expect("a start is answered at once")
    }

    /// The operator of a node ends the session; the answer comes when it is over.
    pub(super) fn end(&mut self, n: u8) -> Ticket {
        let ticket = self.ticket();
        let unix_ms = self.wall();
        self.tell(n, Input::End { ticket, session: None, unix_ms });
        self.settle();
        ticket
    }

    pub(super) fn outcome(&self, n: u8, ticket: Ticket) -> Option<Result<SessionId, Refusal>> {
        self.nodes[&n].told.iter().find(|(told, _)| *told == ticket).map(|(_, outcome)| outcome.clone())
    }

    pub(super) fn tell(&mut self, n: u8, input: Input) {
        let now = self.now;
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        if node.running {
            node.engine.handle(now, input);
        }
    }

    /// A message from outside the world's own traffic; gives the answer.
    pub(super) fn ask(&mut self, from: u8, to: u8, message: Message) -> Option<Message> {
        let ticket = self.ticket();
        let sent = self.sent.len();
        self.asks(from, to, ticket, message);
        self.settle();
        self.sent[sent..].iter().find(|(n, m, _)| (*n, *m) == (to, 0)).map(|(_, _, message)| message.clone())
    }

    /// A question at the gate of a node, which asks whether it may come in as the driver does.
    fn asks(&mut self, from: u8, to: u8, ticket: Ticket, message: Message) {
        let node = &self.nodes[&to];
        let part = node.engine.part(&message.session(), &id(from));
        let deed = question(&message, part);
        match may(&members(to, self.count_of_nodes(), &self.revoked), &Who::Node(id(from)), deed) {
            Ok(()) => self.tell(to, Input::Asked { from: id(from), ticket, message }),
            Err(denied) => {
                let message = Message::refused(message.session(), denied.to_string());
                self.carry_out(to, Output::Reply { ticket, message });
            }
        }
    }

    /// Lets time pass from deadline to deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(at) = self.deadline().filter(|&at| at <= end) {
            assert!(at > self.now, "a deadline lies ahead once its work is done");
            self.now = at;
            self.tick();
        }
        self.now = end;
        self.tick();
    }

    fn deadline(&self) -> Option<Instant> {
        self.nodes.values().filter(|node| node.running).filter_map(|node| node.engine.deadline()).min()
    }

    fn tick(&mut self) {
        for n in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.tell(n, Input::Tick);
        }
        self.settle();
    }

    /// Carries out everything there is to do.
    pub(super) fn settle(&mut self) {
        loop {
            let mut idle = true;
            for n in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(output) = self.nodes.get_mut(&n).expect("a node of this world").engine.poll() {
                    idle = false;
                    if self.nodes[&n].running {
                        self.carry_out_alive(n, output);
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Carries out one output, unless the node is to die of it.
    fn carry_out_alive(&mut self, n: u8, output: Output) {
        let name = format!("{output:?}");
        let is = |wanted: Option<&str>| wanted.is_some_and(|wanted| name.starts_with(wanted));
        let node = &self.nodes[&n];
        let (before, after) = (is(node.dies_before), is(node.dies_after));
        if !before {
            self.carry_out(n, output);
        }
        if before || after {
            let node = self.nodes.get_mut(&n).expect("a node of this world");
            (node.dies_before, node.dies_after) = (None, None);
            self.kill(n);
        }
    }

    fn carry_out(&mut self, n: u8, output: Output) {
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        match output {
            Output::Found { head, wraps } => {
                let wraps = BTreeMap::from([(head.epoch(), wraps)]);
                self.write_head(n, head, wraps);
            }
            Output::Renew { head, wraps } => {
                let wraps = BTreeMap::from([(head.epoch(), wraps)]);
                self.write_head(n, head, wraps);
            }
            Output::Admit { head, wraps, used } => {
                let reserved = node.disk.reserved.entry(head.id).or_default();
                *reserved = used.max(*reserved);
                for period in &head.epochs {
                    let given = wraps.get(&period.epoch).expect("the key of every epoch is given");
                    assert_eq!(given.keys().collect::<Vec<_>>(), [&id(n), &recovery()], "ours and the recovery key's");
                    assert_eq!(period.commitment, key(head.id, period.epoch).commitment());
                }
                self.write_head(n, head, wraps);
            }
            Output::Rekey { session, epoch, points } => {
                let wraps = wraps(session, epoch, points.into_iter().chain([recovery()]));
                let result = Ok((key(session, epoch).commitment(), wraps));
                self.tell(n, Input::Keyed { session, epoch, result });
            }
            Output::Expel { session, node: out } => {
                node.expelled.push((session, out));
                let other = out.as_bytes()[0];
                self.tell(n, Input::MediaDown { node: out, reason: LeftReason::Lost });
                self.tell(other, Input::MediaDown { node: id(n), reason: LeftReason::Lost });
            }
            Output::Update { head } => {
                node.disk.heads.insert(head.id, head);
            }
            Output::Journal { at, event, .. } => node.disk.journal.push((at, event)),
            Output::Open { head } => {
                node.opened.insert(head.id);
                node.open = Some(head);
            }
            Output::Close { session } => {
                node.opened.remove(&session);
                node.closed.push(session);
            }
            Output::Dial { node: to, port, .. } => {
                let other = to.as_bytes()[0];
                assert_eq!(port, 7000 + u16::from(other), "the port of whom is dialled");
                node.dialled.insert(to);
                self.connect(n, other);
            }
            Output::HangUp { node: to } => {
                let other = to.as_bytes()[0];
                node.dialled.remove(&to);
                self.tell(n, Input::MediaDown { node: to, reason: LeftReason::Left });
                self.tell(other, Input::MediaDown { node: id(n), reason: LeftReason::Left });
            }
            Output::Publish { session, tracks, first_seq } => {
                assert!(node.publishing.is_none(), "node {n} publishes one session at a time");
                assert!(node.line.is_some() && node.opened.contains(&session), "frames need session time");
                node.publishing = Some((session, first_seq));
                // As the body does: numbers are reserved ahead of their use.
                node.disk.reserved.insert(session, first_seq + 10);
                let central = node.disk.heads[&session].central.as_bytes()[0];
                if central != n {
                    self.tell(central, Input::Announced { node: id(n), session, tracks });
                }
            }
            Output::Unpublish { session } => {
                let own = own_of(&node.disk, session);
                node.publishing = None;
                self.tell(n, Input::Closed { session, own });
            }
            Output::Subscribe { from, tracks, .. } => {
                node.subscribed.insert(from, tracks.into_iter().map(|(track, _)| track).collect());
            }
            Output::Clock { session, line } => {
                assert!(node.opened.contains(&session), "session time is of use only in an open session");
                node.line = Some(line);
            }
            Output::Fetch { session, origin, track, from, to, .. } => {
                node.fetches.push((session, origin, track, from, to));
            }
            Output::Ask { node: to, message } => {
                let other = to.as_bytes()[0];
                let session = message.session();
                Message::decode(&message.encode().expect("what is sent can be written")).expect("and read");
                self.sent.push((n, other, message.clone()));
                if self.in_reach(n, other) {
                    let ticket = self.ticket();
                    self.asked.insert(ticket, (n, other, session));
                    self.asks(n, other, ticket, message);
                } else {
                    self.tell(n, Input::Answered { node: to, session, answer: None });
                }
            }
            Output::Reply { ticket, message } => match self.asked.remove(&ticket) {
                Some((asker, answerer, session)) => {
                    self.sent.push((n, asker, message.clone()));
                    self.tell(asker, Input::Answered { node: id(answerer), session, answer: Some(message) });
                }
                None => self.sent.push((n, 0, message)),
            },
            Output::Tell { ticket, outcome } => node.told.push((ticket, outcome)),
        }
    }

    /// Journal entries of a node, without their times.
    pub(super) fn journal(&self, n: u8) -> Vec<Event> {
        self.nodes[&n].disk.journal.iter().map(|(_, event)| event.clone()).collect()
    }

    pub(super) fn count(&self, n: u8, wanted: impl Fn(&Event) -> bool) -> usize {
        self.journal(n).iter().filter(|event| wanted(event)).count()
    }

    /// Session time at a node now, in microseconds.
    pub(super) fn time(&self, n: u8) -> u64 {
        let node = &self.nodes[&n];
        node.line.expect("session time is known").session_at(micros(self.now - node.epoch))
    }

    /// Messages sent from one node to another since the `skip`th of the world.
    pub(super) fn messages(&self, from: u8, to: u8, skip: usize) -> Vec<&Message> {
        self.sent[skip..].iter().filter(|(a, b, _)| (*a, *b) == (from, to)).map(|(_, _, message)| message).collect()
    }

    pub(super) fn head(&self, n: u8, session: SessionId) -> Head {
        self.nodes[&n].disk.heads[&session].clone()
    }

    /// Writes a head and the wraps that come with it, if the disk takes them.
    fn write_head(&mut self, n: u8, head: Head, wraps: BTreeMap<Epoch, Wraps>) {
        let node = self.nodes.get_mut(&n).expect("a node of this world");
        let (session, epoch) = (head.id, head.epoch());
        let result = node.disk_works.then(|| own_of(&node.disk, session)).ok_or("the disk is full".to_owned());
        if result.is_ok() {
            node.disk.wraps.entry(session).or_default().extend(wraps);
            node.disk.heads.insert(session, head);
        }
        self.tell(n, Input::Persisted { session, epoch, result });
    }

    /// The epoch with whose key a node would seal a group that begins now.
    pub(super) fn epoch(&self, n: u8) -> Epoch {
        let head = self.nodes[&n].open.as_ref().expect("an open session");
        head.epoch_at(self.time(n))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("a short test")
}

fn own_of(disk: &Disk, session: SessionId) -> Own {
    Own { first_seq: disk.reserved.get(&session).copied().unwrap_or(0), unused: vec![], tracks: vec![] }
}
