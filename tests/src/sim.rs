//! A province in a moment: the engines of all points in one world on virtual time, people and misfortune from a seed, and
//! rules that are looked at after every event.
//!
//! What runs here is the node's brain (sessions, the keeper of gaps, segments, manifests) with the archive's twin in memory.
//! What does not is the body: libp2p, quinn, RocksDB, threads, sound and picture; of a group there is one small frame and the
//! length of a real one. The fan-out to the rooms has its own tests, as no record depends on it.

mod disk;
mod mesh;
mod model;
mod plan;
mod point;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use node::attest::closing;
use node::sealed::Stored;
use simnet::host::HostId;
use simnet::link::Share;
use simnet::world::{self, Change, Happened, PlaneConfig, World};
use store::archive::Archive;
use store::id::{GroupId, SessionId, TrackId, TrackKind};
use store::journal::Chain;
use store::session::{Head, State};
use store::verify;

use self::mesh::{Fact, Mesh, Order};
pub use self::model::{Broken, Model};
pub use self::plan::Faults;
use self::plan::Plan;
use self::point::Point;

/// How long a world is left alone after everything is mended, before it is looked at for the last time. A point that comes back
/// is heard at once; fetches back off for a minute at most.
const HEALING: Duration = Duration::from_secs(3 * 3_600);

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// The source of all chance.
    pub seed: u64,
    /// Points of the mesh; a tenth of them, two at least, may chair.
    pub points: u16,
    /// How long, from seven in the morning.
    pub hours: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// Only these of the faults, by number.
    pub only: Option<BTreeSet<usize>>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run in one number.
    pub trace: String,
    /// Events of the world.
    pub events: u64,
    /// Sessions held.
    pub sessions: usize,
    /// Faults that happened.
    pub faults: usize,
    /// How long it took in the world.
    pub simulated: Duration,
    /// How many of each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The run.
    pub config: Config,
    /// When, counted from seven in the morning.
    pub at: Duration,
    /// Which rule, and how.
    pub broken: Broken,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { at, broken, .. } = self;
        write!(f, "after {:.3} s: {}: {}", at.as_secs_f64(), broken.rule, broken.how)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { seed, points, hours, faults, only } = self;
        let faults = match faults {
            Faults::None => "none",
            Faults::Common => "common",
            Faults::All => "all",
        };
        write!(f, "--seed {seed} --points {points} --hours {hours} --faults {faults}")?;
        if let Some(only) = only {
            let only: Vec<String> = only.iter().map(usize::to_string).collect();
            write!(f, " --only {}", only.join(","))?;
        }
        Ok(())
    }
}

/// The faults of a run, in words, by number.
pub fn faults(config: &Config) -> Vec<String> {
    let plan = Plan::new(config.seed, config.points, chairs(config.points), config.hours, config.faults);
    let chosen = |(number, _): &(usize, &plan::Fault)| config.only.as_ref().is_none_or(|only| only.contains(number));
    let told =
        |(number, fault): (usize, &plan::Fault)| format!("{number}: at {:.1} s {}", fault.at.as_secs_f64(), fault.what);
    plan.faults.iter().enumerate().filter(chosen).map(told).collect()
}

fn chairs(points: u16) -> u16 {
    (points / 10).max(2)
}

/// Runs a world to its end. `look` is called with what the world has come to, for those who trace.
pub fn run(config: &Config, look: &mut dyn FnMut(Duration, HostId, &str)) -> Result<Report, Box<Failure>> {
    let mut run = Run::new(config);
    let outcome = run.go(look).and_then(|()| run.last_look());
    match outcome {
        Ok(()) => Ok(Report {
            trace: run.world.trace().to_string(),
            events: run.world.trace().events(),
            sessions: run.model.sessions.len(),
            faults: run.faults,
            simulated: run.world.now(),
            counts: run.model.counts,
        }),
        Err(broken) => Err(Box::new(Failure { config: config.clone(), at: run.world.now(), broken })),
    }
}

/// Fewer faults that break the same rule: halves, then quarters, and so on are left out as long as it still fails.
pub fn shrink(failure: &Failure) -> Failure {
    let all = faults(&Config { only: None, ..failure.config.clone() }).len();
    let mut worst = failure.clone();
    let mut chosen: Vec<usize> = match &failure.config.only {
        Some(only) => only.iter().copied().collect(),
        None => (0..all).collect(),
    };
    let mut size = chosen.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < chosen.len() {
            let rest: Vec<usize> =
                chosen.iter().enumerate().filter(|(n, _)| !(at..at + size).contains(n)).map(|(_, f)| *f).collect();
            let only = Some(rest.iter().copied().collect());
            match run(&Config { only, ..failure.config.clone() }, &mut |_, _, _| {}) {
                Err(again) if again.broken.rule == failure.broken.rule => (chosen, worst) = (rest, *again),
                Ok(_) | Err(_) => at += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    worst
}

struct Run {
    world: World<Point>,
    mesh: Arc<Mesh>,
    model: Model,
    end: Duration,
    faults: usize,
}

impl Run {
    fn new(config: &Config) -> Run {
        let chairs = chairs(config.points);
        let plan = Plan::new(config.seed, config.points, chairs, config.hours, config.faults);
        let mesh = Arc::new(Mesh::new(config.points, chairs, config.seed));
        let hosts = (0..config.points).map(|n| Point::new(Arc::clone(&mesh), HostId(n))).collect();
        let second = Duration::from_secs(1);
        let mesh_plane = PlaneConfig { idle: 15 * second, retry: 4 * second, always: true, again: false };
        let media_plane = PlaneConfig { idle: 6 * second, retry: 2 * second, always: false, again: true };
        let world = World::new(
            world::Config {
                seed: config.seed,
                lines: (0..config.points).map(|n| plan::line(n < chairs)).collect(),
                lanes: vec![Share::ALL, Share::percent(30.0)],
                planes: vec![mesh_plane, media_plane],
            },
            hosts,
        );
        let end = Duration::from_secs(config.hours * 3_600);
        let mut run = Run { world, mesh, model: Model::default(), end, faults: 0 };
        run.schedule(&plan, config.only.as_ref(), config.points);
        run
    }

    fn schedule(&mut self, plan: &Plan, only: Option<&BTreeSet<usize>>, points: u16) {
        let world = &mut self.world;
        for (at, change) in &plan.office {
            world.schedule(*at, change.clone());
        }
        for reception in &plan.receptions {
            let (begins, ends) = reception.at;
            let order = |order| Change::Order(reception.central, order);
            world.schedule(begins.saturating_sub(Duration::from_secs(120)), Change::Power(reception.central, true));
            world.schedule(begins, order(Order::Start(reception.points.clone())));
            // Whoever ends it looks whether it ended.
            for again in 0..30 {
                world.schedule(ends + Duration::from_secs(60) * again, order(Order::End));
            }
        }
        for (number, fault) in plan.faults.iter().enumerate() {
            if only.is_none_or(|only| only.contains(&number)) {
                self.faults += 1;
                for (after, change) in &fault.changes {
                    world.schedule(fault.at + *after, change.clone());
                }
            }
        }
        for host in (0..points).map(HostId) {
            world.schedule(self.end, Change::Mend(host));
            world.schedule(self.end, Change::Order(host, Order::Full(false)));
            world.schedule(self.end, Change::Order(host, Order::Slow(Duration::ZERO)));
            world.schedule(self.end, Change::Power(host, true));
            for other in (0..points).map(HostId).filter(|other| *other != host) {
                if plan.faults.iter().any(|fault| bars(fault, host, other)) {
                    world.schedule(self.end, Change::Bar(host, other, false));
                }
            }
            // An operator who comes back in the morning and finds yesterday's session running.
            for hour in 1..3 {
                world.schedule(self.end + Duration::from_secs(1_200 * hour), Change::Order(host, Order::End));
            }
        }
    }

    fn go(&mut self, look: &mut dyn FnMut(Duration, HostId, &str)) -> Result<(), Broken> {
        let end = self.end + HEALING;
        loop {
            let happened =
                self.world.step(end).map_err(|stuck| Broken { rule: "time-passes", how: format!("{stuck:?}") })?;
            match happened {
                None => return Ok(()),
                Some(Happened::Elsewhere) => {}
                Some(Happened::Told(host)) => self.listen(host, look)?,
            }
        }
    }

    fn listen(&mut self, host: HostId, look: &mut dyn FnMut(Duration, HostId, &str)) -> Result<(), Broken> {
        let now = self.world.now();
        let facts = self.world.host_mut(host).facts();
        for fact in facts {
            look(now, host, &format!("{fact:?}"));
            let booted = matches!(fact, Fact::Booted);
            let harmed = matches!(fact, Fact::HarmedAll);
            let kept = self.model.kept.get(&host).filter(|_| harmed).cloned().unwrap_or_default();
            self.model.hear(host, fact)?;
            if harmed {
                let disk = self.head_count(host) == 0;
                if disk {
                    self.model.disk_lost(host, kept);
                }
                let Model { sessions, ended, orphaned, .. } = &mut self.model;
                let theirs = sessions.iter().filter(|(session, central)| {
                    // What is lost after the end is not asked for as long as its points have forgotten the session.
                    **central == host && (disk || ended.contains(*session))
                });
                orphaned.extend(theirs.map(|(session, _)| *session));
            }
            if booted {
                self.kept_stays(host)?;
            }
        }
        Ok(())
    }

    fn archive(&self, host: HostId) -> Archive {
        self.world.host(host).disk.archive().expect("a database in memory opens")
    }

    fn head_count(&self, host: HostId) -> usize {
        self.archive(host).sessions().map(|sessions| sessions.heads.len()).unwrap_or_default()
    }

    /// What was acknowledged is there after a start.
    fn kept_stays(&self, host: HostId) -> Result<(), Broken> {
        let archive = self.archive(host);
        let Some(kept) = self.model.kept.get(&host) else { return Ok(()) };
        let mut have = BTreeMap::new();
        for group in kept.keys() {
            let known = have
                .entry((group.session, group.track))
                .or_insert_with(|| archive.have(&group.session, group.track).unwrap_or_default());
            if !known.contains(group.seq) {
                return Err(Broken { rule: "kept-stays", how: format!("{host} had {group} on its disk, and has not") });
            }
        }
        Ok(())
    }

    /// The rules that hold once everything is mended and time has passed.
    fn last_look(&mut self) -> Result<(), Broken> {
        let broken = |rule, how| Err(Broken { rule, how });
        for (host, point) in self.world.hosts() {
            let view = point.engine().map(|engine| engine.view(point.instant()));
            if let Some(session) = view.and_then(|view| view.session)
                && !self.model.orphaned.contains(&session.id)
            {
                return broken("all-ends", format!("{host} is still in session {}", session.id));
            }
        }
        let sessions: Vec<(SessionId, HostId)> = self.model.sessions.iter().map(|(id, host)| (*id, *host)).collect();
        for (session, central) in sessions {
            if !self.model.orphaned.contains(&session) {
                self.whole(session, central)?;
            }
        }
        Ok(())
    }

    fn whole(&self, session: SessionId, central: HostId) -> Result<(), Broken> {
        let broken = |rule, how| Err(Broken { rule, how });
        let archive = self.archive(central);
        let Ok(Some(head)) = archive.head(&session) else {
            return broken("closed", format!("{central} does not know its session {session}"));
        };
        if head.state != State::Ended {
            return broken("closed", format!("{session} was never closed at {central}"));
        }
        let journal = archive.journal(&session, 0).unwrap_or_default();
        if let Err(error) = Chain::verify(session, self.mesh.node(central), journal) {
            return broken("journal-chain", format!("{session}: {error}"));
        }
        let gaps = self.model.gaps.get(&session).cloned().unwrap_or_default();
        for member in &head.points {
            let Some(origin) = self.mesh.host(&member.node) else { continue };
            for kind in [TrackKind::Audio, TrackKind::Main] {
                let track = TrackId::new(member.number, kind);
                let first = GroupId { session, track, seq: 0 };
                let last = GroupId { session, track, seq: u64::MAX };
                for (group, hash) in self.model.made.range(first..=last) {
                    let here = archive.get(group).ok();
                    if let Some(here) = &here
                        && here.hash() != *hash
                    {
                        return broken("byte-for-byte", format!("{group} at {central} is not what was recorded"));
                    }
                    let told = gaps.contains(group);
                    let source = self.model.kept.get(&origin).is_some_and(|kept| kept.contains_key(group));
                    match (here.is_some(), told) {
                        (true, true) => {
                            return broken("gap-true", format!("{group} is at {central}, and told missing"));
                        }
                        // What rots is for a scrub to find.
                        (false, _) if self.model.harmed.contains(&(central, *group)) => {}
                        (false, _) if source && origin != central && !head.was_removed(member.number) => {
                            return broken("whole", format!("{group} is at {origin} and never came to {central}"));
                        }
                        (false, false)
                            if self.model.acknowledged.contains(group) && !head.was_removed(member.number) =>
                        {
                            return broken("gap-told", format!("{group} is not at {central}, and nobody says so"));
                        }
                        (true, false) | (false, _) => {}
                    }
                }
            }
        }
        self.proved(&archive, &head)
    }

    /// What is signed is all that is there, and everybody has signed it, as far as somebody without a key can see.
    fn proved(&self, archive: &Archive, head: &Head) -> Result<(), Broken> {
        let broken = |rule, how| Err(Broken { rule, how });
        let (session, hosts) = (head.id, head.points.iter().filter_map(|member| self.mesh.host(&member.node)));
        if hosts.into_iter().any(|host| self.model.fresh.contains(&host)) {
            return Ok(());
        }
        let stored = Stored { archive, session, roster: None };
        let report = verify::verify(&stored, &verify::Options::default(), &mut |_, _| {});
        // Nobody vouches for keys here, and what rots is for a scrub to find.
        let excused = |found: &&verify::Finding| found.place == "roster" || found.what.starts_with("is damaged on");
        if let Some(found) = report.findings.iter().find(|found| !excused(found)) {
            return broken("proved", format!("{session}: {found}"));
        }
        match closing::draw(archive, session, false, 0) {
            Ok(Some(drawn)) => match (&drawn.same, drawn.same.as_ref().map(|last| drawn.open(archive, last.hash()))) {
                (Some(_), Some(Ok(open))) if open.is_empty() => Ok(()),
                (Some(last), Some(Ok(open))) => {
                    let (n, names) = (last.content().n, open.iter().filter_map(|node| self.mesh.host(node)));
                    let names: Vec<String> = names.map(|host| host.to_string()).collect();
                    broken("countersigned", format!("manifest {n} of {session} is not by {}", names.join(", ")))
                }
                _ => broken("manifest", format!("the last of {session} does not say what is there")),
            },
            Ok(None) => broken("manifest", format!("{session} is said not to be over")),
            Err(error) => broken("manifest", format!("{session}: {error}")),
        }
    }
}

fn bars(fault: &plan::Fault, host: HostId, other: HostId) -> bool {
    let bar = |change: &Change<Order>| matches!(change, Change::Bar(a, b, true) if (*a, *b) == (host, other));
    fault.changes.iter().any(|(_, change)| bar(change))
}
