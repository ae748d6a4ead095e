//! A simulated point: the node's engines in a body that is only time, a disk in memory and packets.
//!
//! What the driver does with sockets and threads is done here in the same order: what is written goes through one writer
//! that takes its time, what is asked over the mesh is given up after a while, and a group is told to have begun before it is there. What
//! the driver leaves to the archive is asked of the same functions, [`node::recall`] among them.

mod attest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use node::attest::Signer;
use node::engine::clock::Line;
use node::engine::evidence as witness;
use node::engine::keeper::Cut;
use node::engine::manifest as closing;
use node::engine::rights::{Part, Who, may};
use node::engine::session::{self, Engine, Fresh, Input, Output, Ticket, Wraps};
use node::recall;
use node::studio::Keys;
use node::wire::control::Message;
use node::wire::evidence::KIND as EVIDENCE;
use simnet::host::{self, Host, HostId, Plane};
use simnet::rng::{Rng, seed_of};
use store::archive::Archive;
use store::id::{GroupId, Hash, NodeId, SessionId, TrackId};
use store::journal::{Chain, LeftReason};
use store::keys::{Epoch, SessionKey, WrapContext, recovery_recipient};
use store::session::{Head, State};

use self::attest::Asked;
use super::disk::{Disk, Done, Job, Writer};
use super::mesh::{Fact, Mesh, Order, Packet};
use super::room::{Room, weight};

/// Questions, sessions.
pub(super) const MESH: Plane = Plane(0);
/// Groups and what belongs to them.
pub(super) const MEDIA: Plane = Plane(1);

/// What must not wait, and what has the rest of the line.
const LIVE: u8 = 0;
/// See [`LIVE`].
const COPIES: u8 = 1;

/// How long an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same for groups that are fetched: on a slow line an answer of some megabytes takes as long, and something of it
/// comes all the time.
const FETCH_MAX: Duration = Duration::from_secs(180);
/// How long picture and sound wait for their turn on a slow line before they are given up.
const PATIENCE: [Duration; 2] = [Duration::from_millis(1_500), Duration::from_secs(4)];
/// How often a session is tried again that could not be taken up.
const RECALL: Duration = Duration::from_secs(10);
/// Exchanges of clocks: first ones quickly, then now and then.
const CLOCKS: (u32, Duration, Duration) = (4, Duration::from_millis(300), Duration::from_secs(10));

/// What does not survive the program.
#[derive(Debug)]
struct Run {
    booted: Duration,
    engine: Engine,
    evidence: witness::Engine,
    manifests: closing::Engine,
    archive: Archive,
    writer: Writer,
    keys: BTreeMap<SessionId, Keys>,
    chains: BTreeMap<SessionId, Chain>,
    open: BTreeMap<SessionId, Head>,
    lines: BTreeMap<SessionId, Line>,
    room: Option<Room>,
    announced: Option<(SessionId, Vec<TrackId>)>,
    linked: BTreeMap<HostId, (u32, Duration)>,
    asked: BTreeMap<u64, (Duration, NodeId, Asked)>,
    fetching: BTreeMap<u64, (Duration, NodeId, GroupId, u64)>,
    replies: BTreeMap<Ticket, (HostId, u64)>,
    arriving: BTreeMap<HostId, BTreeSet<GroupId>>,
    numbers: u64,
    /// Sessions taken up from the archive, and when those are tried again that could not be.
    taken: BTreeSet<SessionId>,
    untaken: Option<Duration>,
    /// When what the disk did not take is tried again.
    again: Option<Duration>,
}

/// A point.
#[derive(Debug)]
pub(super) struct Point {
    mesh: Arc<Mesh>,
    me: HostId,
    node: NodeId,
    signer: Signer,
    now: Duration,
    /// What is on its disk.
    pub(super) disk: Disk,
    run: Option<Run>,
    wall_error_ms: i64,
    chance: Rng,
    out: VecDeque<host::Output<Packet>>,
    facts: Vec<Fact>,
}

impl Point {
    /// A point that is switched off, with an empty disk.
    pub(super) fn new(mesh: Arc<Mesh>, me: HostId) -> Point {
        let (node, chance) = (mesh.node(me), Rng::new(seed_of(mesh.seed, 1_000 + u64::from(me.0))));
        let (disk, out, facts) = (Disk::default(), VecDeque::new(), Vec::new());
        let (key, wrap) = mesh.keys[usize::from(me.0)].clone();
        let signer = Signer { node: key, wrap };
        Point { mesh, me, node, signer, now: Duration::ZERO, disk, run: None, wall_error_ms: 0, chance, out, facts }
    }

    /// What it did since it was asked last.
    pub(super) fn facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// Its engine, while it runs.
    pub(super) fn engine(&self) -> Option<&Engine> {
        self.run.as_ref().map(|run| &run.engine)
    }

    /// The time as engines have it.
    pub(super) fn instant(&self) -> Instant {
        self.mesh.base + self.now
    }

    fn wall_ms(&self) -> u64 {
        let now = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        (self.mesh.wall_ms + now).saturating_add_signed(self.wall_error_ms)
    }

    fn local_us(&self) -> u64 {
        let booted = self.run.as_ref().map_or(Duration::ZERO, |run| run.booted);
        u64::try_from(self.now.saturating_sub(booted).as_micros()).unwrap_or(u64::MAX)
    }

    fn boot(&mut self) {
        let archive = self.disk.archive().expect("a database in memory opens");
        let config = session::Config {
            me: self.node,
            epoch: self.mesh.base + self.now,
            members: self.mesh.members(self.node),
            points_max: 40,
            whole_within: Duration::from_secs(30),
            finish_within: Duration::from_secs(3),
            absence_max: Duration::from_secs(30 * 60),
            media: Vec::new(),
            media_port: 7_000,
            thumbs: false,
        };
        self.facts.push(Fact::Booted);
        self.run = Some(Run {
            booted: self.now,
            engine: Engine::new(config),
            evidence: witness::Engine::new(self.node),
            manifests: closing::Engine::default(),
            archive,
            writer: Writer::default(),
            keys: BTreeMap::new(),
            chains: BTreeMap::new(),
            open: BTreeMap::new(),
            lines: BTreeMap::new(),
            room: None,
            announced: None,
            linked: BTreeMap::new(),
            asked: BTreeMap::new(),
            fetching: BTreeMap::new(),
            replies: BTreeMap::new(),
            arriving: BTreeMap::new(),
            numbers: 0,
            taken: BTreeSet::new(),
            untaken: None,
            again: None,
        });
        self.recall();
    }

    fn recall(&mut self) {
        let Some(run) = &mut self.run else { return };
        run.untaken = None;
        let heads = run.archive.sessions().map(|sessions| sessions.heads).unwrap_or_default();
        let latest = heads.into_iter().rev();
        let (open, over): (Vec<Head>, Vec<Head>) = latest.partition(|head| head.state == State::Open);
        let heads = open.into_iter().take(session::PAST_MAX).chain(over.into_iter().take(session::PAST_MAX / 2));
        for head in heads {
            let Some(run) = &mut self.run else { return };
            let id = head.id;
            if run.taken.contains(&id) || run.open.contains_key(&id) {
                continue;
            }
            self.attest(&head);
            let Some(run) = &mut self.run else { return };
            let (recalled, chain) = match recall::recall(&run.archive, head, self.node) {
                Ok(recalled) => recalled,
                // The disk has no space; it is tried again.
                Err(_) => {
                    run.untaken = Some(self.now + RECALL);
                    continue;
                }
            };
            run.taken.insert(id);
            run.chains.extend(chain.map(|chain| (id, chain)));
            if let Ok(keys) = self.open_keys(&recalled.head, &recalled.wraps)
                && let Some(run) = &mut self.run
            {
                run.keys.insert(id, keys);
            }
            let unix_ms = self.wall_ms();
            self.tell(Input::Recall { recalled: Box::new(recalled), unix_ms });
        }
    }

    fn open_keys(&self, head: &Head, wraps: &BTreeMap<Epoch, Wraps>) -> Result<Keys, String> {
        let ours = wraps.iter().filter_map(|(&epoch, wraps)| Some((epoch, *wraps.get(&self.node)?))).collect();
        let wrap = &self.mesh.keys[usize::from(self.me.0)].1;
        let keys = head.open(&ours, wrap, self.node).map_err(|error| error.to_string())?;
        match head.epochs.iter().all(|period| keys.contains_key(&period.epoch)) {
            true => Ok(keys),
            false => Err("a key is missing".into()),
        }
    }

    /// Tells the engine, and carries out what it wants.
    fn tell(&mut self, input: Input) {
        let now = self.instant();
        if let Some(run) = &mut self.run {
            run.engine.handle(now, input);
        }
        while let Some(output) = self.run.as_mut().and_then(|run| run.engine.poll()) {
            self.carry_out(output);
        }
    }

    fn write(&mut self, job: Job) {
        let takes = self.disk.latency(self.chance.unit());
        let now = self.now;
        if let Some(run) = &mut self.run {
            run.writer.push(now, takes, job);
        }
    }

    fn send(&mut self, plane: Plane, to: HostId, len: usize, patience: Option<Duration>, packet: Packet) {
        let lane = if matches!(packet, Packet::Fetched { .. }) { COPIES } else { LIVE };
        self.out.push_back(host::Output::Send { plane, to, len, lane, patience, packet });
    }

    fn number(&mut self) -> u64 {
        let Some(run) = &mut self.run else { return 0 };
        run.numbers += 1;
        // Not those of an earlier run, whose answers may still be on their way.
        u64::try_from(run.booted.as_millis()).unwrap_or(u64::MAX) << 24 | run.numbers
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Found { head, wraps } => self.write(Job::Found(head, wraps)),
            Output::Admit { head, wraps, used } => match self.open_keys(&head, &wraps) {
                Ok(keys) => {
                    if let Some(run) = &mut self.run {
                        run.keys.insert(head.id, keys);
                    }
                    self.write(Job::Admit(head, wraps, used));
                }
                Err(reason) => {
                    let (session, epoch) = (head.id, head.epoch());
                    self.tell(Input::Persisted { session, epoch, result: Err(reason) });
                }
            },
            Output::Rekey { session, epoch, points } => {
                let (commitment, wraps) = self.new_key(session, epoch, &points);
                self.tell(Input::Keyed { session, epoch, result: Ok((commitment, wraps)) });
            }
            Output::Renew { head, wraps } => self.write(Job::Renew(head, wraps)),
            Output::Expel { node, .. } => self.hang_up(node),
            Output::Update { head } => {
                self.write(Job::Update(head.clone()));
                self.attest(&head);
            }
            Output::Journal { session, at, event } => {
                let wall = self.wall_ms();
                let key = &self.mesh.keys[usize::from(self.me.0)].0;
                let Some(run) = &mut self.run else { return };
                let chain = run.chains.entry(session).or_insert_with(|| Chain::new(session, self.node));
                let entry = chain.append(key, at, wall, event);
                self.close_record(closing::Input::Changed { session });
                self.write(Job::Journal(entry));
            }
            Output::Open { head } => {
                self.attest(&head);
                if let Some(run) = &mut self.run {
                    if let (Some(room), Some(keys)) = (&mut run.room, run.keys.get(&head.id))
                        && room.session() == head.id
                    {
                        (room.head, room.keys) = (head.clone(), keys.clone());
                    }
                    run.open.insert(head.id, head);
                }
            }
            Output::Close { session } => {
                if let Some(run) = &mut self.run {
                    run.open.remove(&session);
                    run.keys.remove(&session);
                    run.chains.remove(&session);
                    run.lines.remove(&session);
                }
            }
            Output::Dial { node, .. } => {
                if let Some(to) = self.mesh.host(&node) {
                    self.out.push_back(host::Output::Dial { plane: MEDIA, to });
                }
            }
            Output::HangUp { node } => self.hang_up(node),
            Output::Publish { session, tracks, first_seq } => self.publish(session, tracks, first_seq),
            Output::Unpublish { session } => {
                self.end_groups();
                if let Some(run) = &mut self.run {
                    (run.room, run.announced) = (None, None);
                }
                self.write(Job::Own(session));
            }
            // The pictures of others do not matter here; central takes what it is sent.
            Output::Subscribe { .. } => {}
            Output::Clock { session, line } => {
                if let Some(run) = &mut self.run {
                    run.lines.insert(session, line);
                }
            }
            Output::Fetch { session, origin, track, from, to, max_bytes } => {
                let question = self.number();
                let from = GroupId { session, track, seq: from };
                let (until, Some(host)) = (self.now + FETCH_MAX, self.mesh.host(&origin)) else { return };
                if let Some(run) = &mut self.run {
                    run.fetching.insert(question, (until, origin, from, to));
                }
                self.send(MEDIA, host, 60, None, Packet::Fetch { question, from, to, max_bytes });
            }
            Output::Ask { node, message } => {
                let session = message.session();
                if let Ok(bytes) = message.encode() {
                    self.ask(node, Asked::Session(session), bytes.into());
                }
            }
            Output::Reply { ticket, message } => {
                let asked = self.run.as_mut().and_then(|run| run.replies.remove(&ticket));
                if let (Some((to, question)), Ok(bytes)) = (asked, message.encode()) {
                    self.send(MESH, to, bytes.len(), None, Packet::Answer(question, bytes));
                }
            }
            Output::Tell { outcome, .. } => self.facts.push(Fact::Told(outcome)),
        }
    }

    fn hang_up(&mut self, node: NodeId) {
        if let Some(to) = self.mesh.host(&node) {
            self.out.push_back(host::Output::HangUp { plane: MEDIA, to });
        }
    }

    fn new_key(&mut self, session: SessionId, epoch: Epoch, points: &[NodeId]) -> (Hash, Wraps) {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.chance.bits().to_be_bytes()));
        let key = SessionKey::from_bytes(&bytes);
        let publics = points.iter().filter_map(|node| {
            let host = self.mesh.host(node)?;
            Some((*node, self.mesh.keys[usize::from(host.0)].1.public()))
        });
        let recovery = (recovery_recipient(&self.mesh.recovery), self.mesh.recovery);
        let wraps = publics.chain([recovery]).map(|(recipient, public)| {
            let context = WrapContext { session, epoch, recipient };
            (recipient, key.wrap(&public, &context).expect("a good key"))
        });
        let (commitment, wraps) = (key.commitment(), wraps.collect());
        if let Some(run) = &mut self.run {
            run.keys.entry(session).or_default().insert(epoch, key);
        }
        (commitment, wraps)
    }

    fn publish(&mut self, session: SessionId, tracks: Vec<TrackId>, first_seq: u64) {
        let Some(run) = &mut self.run else { return };
        let (Some(head), Some(keys)) = (run.open.get(&session), run.keys.get(&session)) else { return };
        let reserved = run.archive.reserved(&session).unwrap_or(first_seq);
        run.room = Room::new(head.clone(), keys.clone(), self.node, first_seq..reserved);
        run.announced = Some((session, tracks));
        let linked: Vec<HostId> = run.linked.keys().copied().collect();
        linked.into_iter().for_each(|peer| self.announce(peer));
        self.begin_groups();
    }

    fn announce(&mut self, peer: HostId) {
        let announced = self.run.as_ref().and_then(|run| run.announced.clone());
        if let Some((session, tracks)) = announced {
            self.send(MEDIA, peer, 60, None, Packet::Announce(session, tracks));
        }
    }

    /// Central of the session the room takes part in, if it is another point that is connected.
    fn central(&self) -> Option<HostId> {
        let run = self.run.as_ref()?;
        let central = self.mesh.host(&run.room.as_ref()?.head.central)?;
        (central != self.me && run.linked.contains_key(&central)).then_some(central)
    }

    fn begin_groups(&mut self) {
        let (now, local) = (self.now, self.local_us());
        let Some(run) = &mut self.run else { return };
        let Some(room) = &mut run.room else { return };
        let session = room.session();
        if room.wants_numbers() {
            // A disk that takes no promise gets no group; the room waits for it.
            match run.archive.reserve_seqs(&session, 0, 16) {
                Ok(seqs) => room.reserved(seqs),
                Err(_) => return room.wait(now),
            }
        }
        let at = run.lines.get(&session).map_or(0, |line| line.session_at(local));
        let groups = room.begin(now, at);
        if let Some(central) = self.central() {
            for group in groups {
                self.send(MEDIA, central, 100, None, Packet::Begin(group));
            }
        }
    }

    fn end_groups(&mut self) {
        let Some(room) = self.run.as_mut().and_then(|run| run.room.as_mut()) else { return };
        let records = room.end(&mut self.chance);
        let central = self.central();
        for record in records {
            self.facts.push(Fact::Made(record.id(), record.hash()));
            let kind = record.id().track.kind();
            self.write(Job::Put(record.clone()));
            if let Some(central) = central {
                let patience = PATIENCE[usize::from(kind == store::id::TrackKind::Audio)];
                self.send(MEDIA, central, weight(kind), Some(patience), Packet::Group(record));
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Persisted { session, epoch, result } => self.tell(Input::Persisted { session, epoch, result }),
            Done::Put(record, result) => {
                let group = record.id();
                let own = record.header().point == self.node;
                if result.is_ok() {
                    self.facts.push(Fact::Kept(group, record.hash()));
                }
                match result {
                    Ok(()) if own => {}
                    Ok(()) => {
                        self.close_record(closing::Input::Changed { session: group.session });
                        self.tell(Input::Stored(group));
                    }
                    Err(_) => self.tell(Input::Broke { group, cut: Cut::NotStored }),
                }
            }
            Done::Proved(proved) => self.proved(proved),
            Done::Closed(session, own) => self.tell(Input::Closed { session, own }),
            Done::Fetched(session, origin, missing) => {
                self.tell(Input::Fetched { session, origin, missing: Some(missing) });
            }
            Done::Written(entries, all) => {
                for entry in entries {
                    let entry = entry.content();
                    self.facts.push(Fact::Journal(entry.session, entry.at_us, entry.event.clone()));
                }
                if !all {
                    self.facts.push(Fact::NotWritten);
                    let (now, again) = (self.now, Duration::from_secs(5));
                    if let Some(run) = &mut self.run
                        && run.again.is_none()
                    {
                        run.again = Some(now + again);
                    }
                }
            }
        }
    }

    fn order(&mut self, order: Order) {
        let unix_ms = self.wall_ms();
        match order {
            Order::Start(hosts) => self.start(&hosts, unix_ms),
            Order::End => {
                let ticket = Ticket(self.number());
                self.tell(Input::End { ticket, session: None, unix_ms });
            }
            Order::Remove(host) => {
                let (ticket, node) = (Ticket(self.number()), self.mesh.node(host));
                self.tell(Input::Remove { ticket, session: None, node });
            }
            Order::LoseMedia => {
                self.disk.lose_media();
                self.facts.push(Fact::HarmedAll);
            }
            Order::LoseDisk => {
                self.disk = Disk::default();
                self.facts.push(Fact::HarmedAll);
            }
            Order::Full(full) => self.disk.set_full(full),
            Order::Slow(slow) => self.disk.slow = slow,
            Order::Rot(share) => self.rot(share),
            Order::Wall(error) => self.wall_error_ms = error,
        }
    }

    fn start(&mut self, hosts: &[HostId], unix_ms: u64) {
        if self.run.is_none() {
            return;
        }
        let ticket = Ticket(self.number());
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.chance.bits().to_be_bytes());
        let id = SessionId::from_parts(unix_ms, random);
        let points: Vec<NodeId> = hosts.iter().map(|host| self.mesh.node(*host)).collect();
        let all: Vec<NodeId> = points.iter().copied().chain([self.node]).collect();
        let (commitment, wraps) = self.new_key(id, 0, &all);
        let recovery = Some(recovery_recipient(&self.mesh.recovery));
        let fresh = Fresh { id, commitment, wraps, recovery, unix_ms };
        self.tell(Input::Start { ticket, title: "Tiếp công dân".into(), points, fresh });
    }

    fn rot(&mut self, share: u16) {
        let Ok(archive) = self.disk.archive() else { return };
        let heads = archive.sessions().map(|sessions| sessions.heads).unwrap_or_default();
        for head in heads {
            for track in archive.tracks(&head.id).unwrap_or_default() {
                let have = archive.have(&head.id, track).unwrap_or_default();
                for seq in have.runs().flatten() {
                    if self.chance.unit() * 1_000.0 < f64::from(share) {
                        let group = GroupId { session: head.id, track, seq };
                        self.disk.rot(&group);
                        self.facts.push(Fact::Harmed(group));
                    }
                }
            }
        }
    }

    fn packet(&mut self, from: HostId, packet: Packet) {
        let node = self.mesh.node(from);
        match packet {
            Packet::Ask(question, bytes) if bytes.first() == Some(&EVIDENCE) => {
                self.asked_of_evidence(from, node, question, &bytes);
            }
            Packet::Ask(question, bytes) => self.asked(from, node, question, &bytes),
            Packet::Answer(question, bytes) => {
                let Some(run) = &mut self.run else { return };
                let Some((_, asked, about)) = run.asked.remove(&question) else { return };
                self.answered(asked, about, Some(&bytes));
            }
            Packet::Clock(sent) => {
                let remote = self.local_us();
                self.send(MEDIA, from, 40, None, Packet::ClockReply(sent, remote));
            }
            Packet::ClockReply(sent, remote) => {
                let received = self.local_us();
                if sent <= received {
                    self.tell(Input::Clock { node, sent, remote, received });
                }
            }
            Packet::Announce(session, tracks) => self.tell(Input::Announced { node, session, tracks }),
            Packet::Begin(group) => {
                if self.admits(node, &group) {
                    if let Some(run) = &mut self.run {
                        run.arriving.entry(from).or_default().insert(group);
                    }
                    self.tell(Input::Began(group));
                }
            }
            Packet::Group(record) => {
                let group = record.id();
                if record.header().point != node || !self.admits(node, &group) {
                    return;
                }
                let known = self.run.as_mut().and_then(|run| run.arriving.get_mut(&from));
                if !known.is_some_and(|arriving| arriving.remove(&group)) {
                    self.tell(Input::Began(group));
                }
                self.write(Job::Put(record));
            }
            Packet::Fetch { question, from: first, to, max_bytes } => self.give(from, question, first, to, max_bytes),
            Packet::Fetched { question, records, missing } => {
                let Some(run) = &mut self.run else { return };
                let Some((_, origin, group, to)) = run.fetching.remove(&question) else { return };
                let good = records.iter().all(|record| {
                    let (id, header) = (record.id(), record.header());
                    header.point == origin
                        && (id.session, id.track) == (group.session, group.track)
                        && (group.seq..=to).contains(&id.seq)
                });
                if !good {
                    self.tell(Input::Fetched { session: group.session, origin, missing: None });
                    return;
                }
                records.into_iter().for_each(|record| self.write(Job::Put(record)));
                self.write(Job::Fetched(group.session, origin, missing));
            }
        }
    }

    /// Whether a live group of a point is taken.
    fn admits(&self, from: NodeId, group: &GroupId) -> bool {
        let Some(run) = &self.run else { return false };
        let Some(head) = run.open.get(&group.session) else { return false };
        head.central == self.node
            && head.number(&from) == Some(group.track.point())
            && run.engine.part(&group.session, &from) == Part::Point
    }

    fn asked(&mut self, from: HostId, node: NodeId, question: u64, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else { return };
        let (id, ticket) = (message.session(), Ticket(self.number()));
        let Some(run) = &mut self.run else { return };
        run.replies.insert(ticket, (from, question));
        let part = run.engine.part(&id, &node);
        let deed = session::question(&message, part);
        match may(&self.mesh.members(self.node), &Who::Node(node), deed) {
            Ok(()) => self.tell(Input::Asked { from: node, ticket, message }),
            Err(denied) => {
                let message = Message::refused(id, denied.to_string());
                self.carry_out(Output::Reply { ticket, message });
            }
        }
    }

    /// Past groups for who asks.
    fn give(&mut self, to_host: HostId, question: u64, first: GroupId, to: u64, max_bytes: u64) {
        let Some(run) = &self.run else { return };
        if !run.open.contains_key(&first.session) {
            return;
        }
        let (mut records, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0);
        for seq in first.seq..=to.min(first.seq.saturating_add(255)) {
            let group = GroupId { seq, ..first };
            if run.writer.is_coming(&group) {
                break;
            }
            match run.archive.get(&group) {
                Ok(record) => {
                    bytes += weight(first.track.kind());
                    if bytes as u64 > max_bytes && !records.is_empty() {
                        break;
                    }
                    records.push(record);
                }
                Err(_) => missing.push(seq),
            }
        }
        self.send(MEDIA, to_host, bytes + 100, None, Packet::Fetched { question, records, missing });
    }

    fn media_down(&mut self, peer: HostId, said: bool) {
        let node = self.mesh.node(peer);
        let Some(run) = &mut self.run else { return };
        run.linked.remove(&peer);
        let broken = run.arriving.remove(&peer).unwrap_or_default();
        let asked: Vec<u64> =
            run.fetching.iter().filter(|(_, (_, origin, ..))| *origin == node).map(|(&number, _)| number).collect();
        for group in broken {
            self.tell(Input::Broke { group, cut: Cut::Line });
        }
        asked.into_iter().for_each(|question| self.fetch_failed(question));
        let reason = if said { LeftReason::Left } else { LeftReason::Lost };
        self.tell(Input::MediaDown { node, reason });
    }

    fn fetch_failed(&mut self, question: u64) {
        let asked = self.run.as_mut().and_then(|run| run.fetching.remove(&question));
        if let Some((_, origin, group, _)) = asked {
            self.tell(Input::Fetched { session: group.session, origin, missing: None });
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        loop {
            let Some(run) = &mut self.run else { return };
            let Some(done) = run.writer.next(now, &run.archive, &self.signer) else { break };
            self.done(done);
        }
        let Some(run) = &mut self.run else { return };
        let over: Vec<u64> = run.asked.iter().filter(|(_, (at, ..))| *at <= now).map(|(&number, _)| number).collect();
        let late: Vec<u64> =
            run.fetching.iter().filter(|(_, (at, ..))| *at <= now).map(|(&number, _)| number).collect();
        for question in over {
            let asked = self.run.as_mut().and_then(|run| run.asked.remove(&question));
            if let Some((_, node, about)) = asked {
                self.answered(node, about, None);
            }
        }
        late.into_iter().for_each(|question| self.fetch_failed(question));
        if self.run.as_ref().and_then(|run| run.room.as_ref()).is_some_and(|room| room.turn() <= now) {
            self.end_groups();
            self.begin_groups();
        }
        self.clocks();
        if self.run.as_mut().is_some_and(|run| run.again.take_if(|at| *at <= now).is_some()) {
            self.write(Job::Again);
        }
        if self.run.as_ref().and_then(|run| run.untaken).is_some_and(|at| at <= now) {
            self.recall();
        }
        self.tell(Input::Tick);
        self.witness(witness::Input::Tick);
        self.close_record(closing::Input::Tick);
    }

    fn clocks(&mut self) {
        let (now, local) = (self.now, self.local_us());
        let Some(run) = &mut self.run else { return };
        let mut due = Vec::new();
        for (&peer, (asked, at)) in &mut run.linked {
            if *at <= now {
                *asked = asked.saturating_add(1);
                *at = now + if *asked < CLOCKS.0 { CLOCKS.1 } else { CLOCKS.2 };
                due.push(peer);
            }
        }
        for peer in due {
            self.send(MEDIA, peer, 40, None, Packet::Clock(local));
        }
    }
}

impl Host for Point {
    type Packet = Packet;
    type Order = Order;

    fn handle(&mut self, now: Duration, input: host::Input<Packet, Order>) {
        self.now = now;
        match input {
            host::Input::Boot => self.boot(),
            host::Input::Crash => {
                self.run = None;
                self.out.clear();
                self.disk.crash();
            }
            host::Input::Order(order) => self.order(order),
            _ if self.run.is_none() => {}
            host::Input::Up { plane, peer } => {
                let node = self.mesh.node(peer);
                if plane == MESH {
                    self.tell(Input::Up { node });
                    self.witness(witness::Input::Up { node });
                    return self.close_record(closing::Input::Up { node });
                }
                if let Some(run) = &mut self.run {
                    run.linked.insert(peer, (0, now));
                }
                self.tell(Input::MediaUp { node });
                self.announce(peer);
                self.clocks();
            }
            host::Input::Down { plane, peer, .. } if plane == MESH => {
                let node = self.mesh.node(peer);
                self.tell(Input::Down { node });
                self.witness(witness::Input::Down { node });
                self.close_record(closing::Input::Down { node });
            }
            host::Input::Down { peer, said, .. } => self.media_down(peer, said),
            host::Input::Packet { from, packet, .. } => self.packet(from, packet),
            host::Input::GivenUp { from, packet, .. } => {
                if let Packet::Group(record) = packet {
                    let group = record.id();
                    let known = self.run.as_mut().and_then(|run| run.arriving.get_mut(&from));
                    if known.is_some_and(|arriving| arriving.remove(&group)) {
                        self.tell(Input::Broke { group, cut: Cut::LeftOut });
                    }
                }
            }
            host::Input::Tick => self.tick(),
        }
    }

    fn poll(&mut self) -> Option<host::Output<Packet>> {
        self.out.pop_front()
    }

    fn deadline(&self) -> Option<Duration> {
        let run = self.run.as_ref()?;
        let engine = run.engine.deadline().map(|at| at.saturating_duration_since(self.mesh.base));
        let asked = run.asked.values().map(|(at, ..)| *at).min();
        let fetching = run.fetching.values().map(|(at, ..)| *at).min();
        let clocks = run.linked.values().map(|(_, at)| *at).min();
        let room = run.room.as_ref().map(Room::turn);
        [engine, asked, fetching, clocks, room, run.untaken, run.again, run.writer.deadline(), self.proof_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn digest(packet: &Packet) -> u64 {
        let group = |id: &GroupId| id.seq << 16 | u64::from(id.track.to_u16());
        match packet {
            Packet::Ask(question, bytes) => 1 ^ question ^ (bytes.len() as u64) << 40,
            Packet::Answer(question, bytes) => 2 ^ question ^ (bytes.len() as u64) << 40,
            Packet::Clock(sent) => 3 ^ sent,
            Packet::ClockReply(sent, remote) => 4 ^ sent ^ remote,
            Packet::Announce(_, tracks) => 5 ^ tracks.len() as u64,
            Packet::Begin(id) => 6 ^ group(id) << 4,
            Packet::Group(record) => {
                let hash = record.hash();
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&hash.as_bytes()[..8]);
                7 ^ u64::from_be_bytes(bytes)
            }
            Packet::Fetch { question, from, to, .. } => 8 ^ question ^ group(from) ^ to << 8,
            Packet::Fetched { question, records, missing } => {
                9 ^ question ^ (records.len() as u64) << 32 ^ (missing.len() as u64) << 16
            }
        }
    }
}
