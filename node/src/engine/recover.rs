//! The course of taking an archive back from others after it was lost.
//!
//! First everybody in reach is asked which sessions of this node it knows. Then the records come, one after the other and the
//! newest session first: they are small, and with them everything is known and much can be listed again. Of several who
//! have a record, whoever has the latest manifest is asked first; who gives only a part is followed by the next, until the
//! record is as whole as its manifest says or nobody is left. Last come the groups, of the sessions that the fewest others hold
//! first: should one more house burn down meanwhile, those would be lost. They are fetched as copies are, by [`Pulls`]: from
//! three at once, each group looked at before it is written, and never while a running session shows loss.
//!
//! What is here is never fetched again, because what is missing is read from the disk each time, so nothing of this need
//! survive a crash. Whoever gives something false is not asked any more and is named; whoever names sessions that it
//! cannot give is passed over after a few. What nobody in reach has is left, and tried again when somebody comes.
//!
//! Any point can invent sessions of ours. So a record must show something that we signed ([`Proof`]), and one that does not say by
//! our signature who chaired the session is compared with what all others say of it; if they differ, it is left to the operator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use store::id::{Hash, NodeId, SessionId, TrackId};
use store::inventory::Have;
use store::recover::Wanted;

use super::replica::Dice;
use super::replica::pull::{self, End, Groups, Pulls};
use crate::wire::recover::Known;

/// Time for points to come online before the first that answered decide what there is.
pub const GRACE: Duration = Duration::from_secs(5);
/// Sessions taken back at once. The line is shared; more would only finish later together.
const COPYING_MAX: usize = 2;
/// Sessions looked for: more than any office held. What somebody names beyond them is not looked at.
pub const SESSIONS_MAX: usize = 65_536;
/// Sessions among them that one point alone can bring in. Without it whoever answers first could leave no room for what others know.
const SHARE_MAX: usize = SESSIONS_MAX / 16;
/// Sessions of one point that are believed though nothing of ours is signed in them: a central that burns with its records leaves
/// one behind, or the few that it had left open.
const BARE_MAX: usize = 8;
/// Pause before somebody who did not answer is asked again, and before what nobody had is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Records in a row that somebody named and did not give, until it is passed over.
const EMPTY_MAX: u32 = 8;

/// What the part is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants the archive back. What an earlier wish was about is dropped; what it brought is on the disk.
    Begin {
        /// This session alone.
        only: Option<SessionId>,
        /// From these alone; from all if there are none.
        from: BTreeSet<NodeId>,
    },
    /// A point is online.
    Up {
        /// The point.
        node: NodeId,
    },
    /// A point is no longer online.
    Down {
        /// The point.
        node: NodeId,
    },
    /// Answer to [`Output::List`].
    Listed {
        /// By whom.
        node: NodeId,
        /// What it knows; `None` if it did not say.
        sessions: Option<Vec<Known>>,
    },
    /// Answer to [`Output::Record`].
    Recorded {
        /// The session.
        session: SessionId,
        /// From whom.
        node: NodeId,
        /// What came of it.
        end: Came,
    },
    /// Answer to [`Output::Plan`]: what is missing; `None` if the disk did not say.
    Planned {
        /// The session.
        session: SessionId,
        /// What.
        wanted: Option<Wanted>,
    },
    /// Answer to [`Output::Survey`].
    Surveyed {
        /// The session.
        session: SessionId,
        /// Who was asked.
        node: NodeId,
        /// What it has; `None` if it did not say.
        has: Option<Groups>,
    },
    /// Answer to [`Output::Fetch`]; what came is on the disk.
    Fetched {
        /// The session.
        session: SessionId,
        /// The sender.
        node: NodeId,
        /// The track.
        track: TrackId,
        /// First group that was asked for. It names the fetch.
        from: u64,
        /// What came.
        got: Have,
        /// Bytes of it.
        bytes: u64,
        /// What the sender said it does not have.
        absent: Have,
        /// How it went.
        end: End,
    },
    /// Answer to [`Output::Finish`]: whether all is here that central kept.
    Finished {
        /// The session.
        session: SessionId,
        /// Whether.
        whole: bool,
    },
    /// Whether a session runs here whose line shows loss.
    Strained {
        /// Whether.
        strained: bool,
    },
    /// Time passed.
    Tick,
}

/// What came of asking somebody for a record. What was good in it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// All that its manifest names is here now, and something that we signed says whose session it was.
    Whole(Wanted),
    /// Something, and others may have more, or may know the session otherwise.
    Part(Wanted),
    /// The same, and nothing in it is signed by us: it is believed by its head alone.
    Bare(Wanted),
    /// The session runs here: the room is in it, and nothing is to be taken back.
    Running,
    /// Whoever was asked says that it is not over.
    Open,
    /// Less is signed by us in it than was asked for. Nothing of it is on the disk.
    Foreign,
    /// Another says that somebody else chaired it, and nothing that we signed says who is right. Nothing of it is on the disk.
    Disputed,
    /// It was not given.
    Nothing,
    /// The line failed, or this node's disk.
    Silent,
    /// Something false.
    Wrong,
}

/// What a record must show for being one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Something that we signed.
    Signed,
    /// That, or a head that calls us central: of a session that broke off with its central, the others have nothing it signed.
    Chaired,
    /// Nothing: somebody at this node named the session.
    Named,
}

/// What the part wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask somebody which sessions of ours it knows; answer with [`Input::Listed`].
    List {
        /// Whom.
        node: NodeId,
    },
    /// Fetch a session's record, look at it, store it; answer with [`Input::Recorded`].
    Record {
        /// The session.
        session: SessionId,
        /// From whom.
        node: NodeId,
        /// Number of the last manifest it says it has.
        manifest: Option<u32>,
        /// What it must show.
        proof: Proof,
    },
    /// Read from the disk what is missing of a session; answer with [`Input::Planned`].
    Plan {
        /// The session.
        session: SessionId,
    },
    /// Ask somebody which of the missing groups it has; answer with [`Input::Surveyed`].
    Survey {
        /// The session.
        session: SessionId,
        /// Whom.
        node: NodeId,
    },
    /// Fetch groups, compare each with what was signed, store them; answer with [`Input::Fetched`].
    Fetch {
        /// The session.
        session: SessionId,
        /// From whom.
        node: NodeId,
        /// The track.
        track: TrackId,
        /// Which groups.
        groups: RangeInclusive<u64>,
    },
    /// Compare what is here with the manifest and sign for it; answer with [`Input::Finished`].
    Finish {
        /// The session.
        session: SessionId,
    },
    /// Nothing is left to do with those who are in reach.
    Done {
        /// Whether everything that anybody named is here.
        whole: bool,
        /// Who has said what it knows since it began, whether or not it is still in reach.
        heard: BTreeSet<NodeId>,
    },
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Somebody wants something back.
    pub wanted: bool,
    /// Points that said which sessions they know.
    pub answered: usize,
    /// Whether nothing is left to do with those who are in reach.
    pub idle: bool,
    /// Sessions that somebody named.
    pub sessions: usize,
    /// Those whose record is here, as far as anybody had it.
    pub records: usize,
    /// Those of which everything is here.
    pub whole: usize,
    /// Those of which nobody in reach has the rest.
    pub left: Vec<SessionId>,
    /// Those of them of which points say different things.
    pub disputed: Vec<SessionId>,
    /// Sessions that somebody named and in which nothing that we signed is left.
    pub foreign: usize,
    /// Groups of those whose record is here, and bytes of them.
    pub groups: u64,
    /// See [`View::groups`].
    pub bytes: u64,
    /// Groups still missing of those, and bytes of them.
    pub missing_groups: u64,
    /// See [`View::missing_groups`].
    pub missing_bytes: u64,
    /// Bytes that came since it began.
    pub fetched_bytes: u64,
    /// Points that gave something false.
    pub wrong: Vec<NodeId>,
    /// Whether it waits for a running session.
    pub strained: bool,
}

/// The taking back of what was lost.
#[derive(Debug)]
pub struct Recover {
    pulls: Pulls,
    up: BTreeSet<NodeId>,
    strained: bool,
    wish: Option<Wish>,
    lists: BTreeMap<NodeId, List>,
    /// Who ever said what it knows.
    heard: BTreeSet<NodeId>,
    /// Sessions that each named before anybody else.
    brought: BTreeMap<NodeId, usize>,
    /// Records in a row that each named and did not give.
    empty: BTreeMap<NodeId, u32>,
    /// Whose last record brought nothing, for whatever reason. Others come first.
    poor: BTreeSet<NodeId>,
    /// Sessions that are believed without a signature of ours, by who gave them.
    bare: BTreeMap<NodeId, BTreeSet<SessionId>>,
    wrong: BTreeSet<NodeId>,
    sessions: BTreeMap<SessionId, Session>,
    /// The record under way. One at a time: each is in memory until it is looked at.
    recording: Option<(SessionId, NodeId)>,
    fetched_bytes: u64,
    /// Who was in reach has said what it knows.
    settled: bool,
    idle: bool,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Wish {
    only: Option<SessionId>,
    from: BTreeSet<NodeId>,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Asked,
    Known,
    Silent { until: Instant },
}

#[derive(Debug)]
struct Session {
    /// Who knows it, and what of it.
    from: BTreeMap<NodeId, Known>,
    /// Whom its record was asked of.
    tried: BTreeSet<NodeId>,
    /// Something of its record is here.
    learnt: bool,
    /// Something that we signed says whose session it was.
    firm: bool,
    /// Who said that it is not over.
    open: BTreeSet<NodeId>,
    /// Who showed nothing that we signed.
    foreign: BTreeSet<NodeId>,
    /// Points say different things of it.
    disputed: bool,
    stage: Stage,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its record is to be fetched.
    Record,
    /// Its groups are.
    Groups,
    /// They are being fetched; `begun` if that has really begun.
    Copying { begun: bool },
    /// It is being compared.
    Checking,
    /// All is here.
    Whole,
    /// Nobody in reach has more.
    Left { until: Instant },
    /// It is not over.
    Running,
    /// Whoever knows it shows nothing that we signed.
    Foreign,
}

impl Recover {
    /// For node `me`; nothing is wanted yet.
    pub fn new(me: NodeId, dice: Dice) -> Recover {
        Recover {
            pulls: Pulls::new(me, dice),
            up: BTreeSet::new(),
            strained: false,
            wish: None,
            lists: BTreeMap::new(),
            heard: BTreeSet::new(),
            brought: BTreeMap::new(),
            empty: BTreeMap::new(),
            poor: BTreeSet::new(),
            bare: BTreeMap::new(),
            wrong: BTreeSet::new(),
            sessions: BTreeMap::new(),
            recording: None,
            fetched_bytes: 0,
            settled: false,
            idle: false,
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Begin { only, from } => self.begin(now, only, from),
            Input::Up { node } => {
                self.up.insert(node);
                // It may be on a better line now, or have a disk that works.
                self.empty.remove(&node);
                self.poor.remove(&node);
                self.pulls.handle(now, pull::Input::Up { node });
            }
            Input::Down { node } => {
                self.up.remove(&node);
                // It is asked again when it is back: it may know more by then.
                self.lists.remove(&node);
                self.pulls.handle(now, pull::Input::Down { node });
            }
            Input::Listed { node, sessions } => self.listed(now, node, sessions),
            Input::Recorded { session, node, end } => self.recorded(session, node, end),
            Input::Planned { session, wanted } => {
                if let Some(known) = self.sessions.get_mut(&session)
                    && let Some(wanted) = &wanted
                {
                    known.wanted = wanted.clone();
                }
                let missing = wanted.map(|wanted| wanted.missing);
                self.pulls.handle(now, pull::Input::Learnt { session, missing });
            }
            Input::Surveyed { session, node, has } => {
                self.pulls.handle(now, pull::Input::Surveyed { session, node, has });
            }
            Input::Fetched { session, node, track, from, got, bytes, absent, end } => {
                if end == End::Wrong {
                    self.wrong.insert(node);
                }
                self.fetched_bytes = self.fetched_bytes.saturating_add(bytes);
                if let Some(known) = self.sessions.get_mut(&session) {
                    known.wanted.missing_bytes = known.wanted.missing_bytes.saturating_sub(bytes);
                    if let Some(missing) = known.wanted.missing.get_mut(&track) {
                        *missing = missing.without(&got);
                    }
                }
                self.pulls.handle(now, pull::Input::Fetched { session, node, track, from, got, absent, end });
            }
            Input::Finished { session, whole } => {
                self.pulls.handle(now, pull::Input::Forget { session });
                if let Some(known) = self.sessions.get_mut(&session).filter(|known| known.stage == Stage::Checking) {
                    known.stage = if whole { Stage::Whole } else { Stage::Left { until: now + AGAIN } };
                }
            }
            Input::Strained { strained } => {
                self.strained = strained;
                self.pulls.handle(now, pull::Input::Strained { strained });
            }
            Input::Tick => self.pulls.handle(now, pull::Input::Tick),
        }
        self.work(now);
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let wish = self.wish.as_ref()?;
        // Who has not answered is waited for without looking at the clock.
        let waits = self.lists.values().any(|list| *list == List::Asked);
        let grace = (!self.settled && !waits).then_some(wish.since + GRACE);
        let silent = self.lists.values().filter_map(|list| match list {
            List::Silent { until } => Some(*until),
            List::Asked | List::Known => None,
        });
        let left = self.sessions.values().filter_map(|session| match session.stage {
            Stage::Left { until } => Some(until),
            _ => None,
        });
        // What was left is tried again only while there is anybody to ask.
        let left = left.filter(|_| !self.up.is_empty());
        [grace, self.pulls.deadline()].into_iter().flatten().chain(silent).chain(left).min()
    }

    /// How far it has come.
    pub fn view(&self) -> View {
        let ours = |session: &&Session| !matches!(session.stage, Stage::Running | Stage::Foreign);
        let sessions = || self.sessions.values().filter(ours);
        let count = |is: &dyn Fn(&Session) -> bool| sessions().filter(|session| is(session)).count();
        let left = || self.sessions.iter().filter(|(_, session)| matches!(session.stage, Stage::Left { .. }));
        let disputed = left().filter(|(_, session)| session.disputed);
        let missing = |session: &Session| session.wanted.missing.values().map(Have::len).sum::<u64>();
        View {
            wanted: self.wish.is_some(),
            answered: self.lists.values().filter(|list| **list == List::Known).count(),
            idle: self.idle,
            sessions: count(&|_| true),
            records: count(&|session| session.learnt && session.stage != Stage::Record),
            whole: count(&|session| session.stage == Stage::Whole),
            left: left().map(|(session, _)| *session).collect(),
            disputed: disputed.map(|(session, _)| *session).collect(),
            foreign: self.sessions.values().filter(|session| session.stage == Stage::Foreign).count(),
            groups: sessions().map(|session| session.wanted.groups).sum(),
            bytes: sessions().map(|session| session.wanted.bytes).sum(),
            missing_groups: sessions().map(missing).sum(),
            missing_bytes: sessions().map(|session| session.wanted.missing_bytes).sum(),
            fetched_bytes: self.fetched_bytes,
            wrong: self.wrong.iter().copied().collect(),
            strained: self.strained,
        }
    }

    fn begin(&mut self, now: Instant, only: Option<SessionId>, from: BTreeSet<NodeId>) {
        for session in std::mem::take(&mut self.sessions).into_keys() {
            self.pulls.handle(now, pull::Input::Forget { session });
        }
        self.wish = Some(Wish { only, from, since: now });
        self.lists.clear();
        self.heard.clear();
        self.brought.clear();
        self.empty.clear();
        self.poor.clear();
        self.bare.clear();
        self.wrong.clear();
        (self.recording, self.fetched_bytes, self.settled, self.idle) = (None, 0, false, false);
    }

    fn listed(&mut self, now: Instant, node: NodeId, sessions: Option<Vec<Known>>) {
        if self.lists.get(&node) != Some(&List::Asked) {
            return;
        }
        let Some(sessions) = sessions else {
            self.lists.insert(node, List::Silent { until: now + AGAIN });
            return;
        };
        self.lists.insert(node, List::Known);
        self.heard.insert(node);
        let only = self.wish.as_ref().and_then(|wish| wish.only);
        let brought = self.brought.entry(node).or_default();
        // The newest first, as far as its share goes.
        for known in sessions.into_iter().rev().filter(|known| only.is_none_or(|only| only == known.session)) {
            if !self.sessions.contains_key(&known.session) {
                if self.sessions.len() >= SESSIONS_MAX || *brought >= SHARE_MAX {
                    continue;
                }
                *brought += 1;
            }
            let session = self.sessions.entry(known.session).or_insert_with(Session::new);
            let best = session.from.values().map(|known| known.record).max().flatten();
            let before = session.from.insert(node, known);
            let is_news = before != Some(known) || !session.tried.contains(&node);
            match session.stage {
                // Somebody who was away has a later manifest, or what nobody else had.
                Stage::Whole if known.record > best => session.again(node),
                // Or knows whose it was.
                Stage::Whole if !session.firm && !session.tried.contains(&node) => session.again(node),
                Stage::Left { .. } if session.disputed => session.again(node),
                Stage::Left { .. } if before != Some(known) || session.tried.is_empty() => session.again(node),
                Stage::Left { .. } => session.stage = Stage::Groups,
                Stage::Running | Stage::Foreign if is_news => session.again(node),
                Stage::Record
                | Stage::Groups
                | Stage::Copying { .. }
                | Stage::Checking
                | Stage::Whole
                | Stage::Running
                | Stage::Foreign => {}
            }
        }
    }

    fn recorded(&mut self, session: SessionId, node: NodeId, end: Came) {
        if self.recording != Some((session, node)) {
            return;
        }
        self.recording = None;
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.tried.insert(node);
        match &end {
            Came::Whole(_) | Came::Part(_) | Came::Bare(_) => {
                self.empty.remove(&node);
                self.poor.remove(&node);
            }
            Came::Nothing => {
                *self.empty.entry(node).or_default() += 1;
                self.poor.insert(node);
            }
            Came::Open | Came::Foreign | Came::Silent => drop(self.poor.insert(node)),
            Came::Wrong => drop(self.wrong.insert(node)),
            Came::Running | Came::Disputed => {}
        }
        match end {
            Came::Whole(wanted) => {
                (known.learnt, known.firm, known.disputed) = (true, true, false);
                (known.wanted, known.stage) = (wanted, Stage::Groups);
            }
            Came::Part(wanted) => (known.learnt, known.wanted) = (true, wanted),
            Came::Bare(wanted) => {
                (known.learnt, known.wanted) = (true, wanted);
                self.bare.entry(node).or_default().insert(session);
            }
            Came::Running => known.stage = Stage::Running,
            Came::Open => drop(known.open.insert(node)),
            Came::Foreign => drop(known.foreign.insert(node)),
            Came::Disputed => known.disputed = true,
            Came::Nothing | Came::Silent | Came::Wrong => {}
        }
    }

    /// Whether somebody may be asked for anything.
    fn is_good(&self, node: &NodeId) -> bool {
        self.up.contains(node)
            && !self.wrong.contains(node)
            && self.empty.get(node).is_none_or(|empty| *empty < EMPTY_MAX)
    }

    fn work(&mut self, now: Instant) {
        let Some(wish) = &self.wish else { return self.drain(now) };
        let allowed = |node: &&NodeId| wish.from.is_empty() || wish.from.contains(*node);
        for &node in self.up.iter().filter(allowed) {
            let due = match self.lists.get(&node) {
                None => true,
                Some(List::Silent { until }) => *until <= now,
                Some(List::Asked | List::Known) => false,
            };
            if due {
                self.idle = false;
                self.lists.insert(node, List::Asked);
                self.outbox.push_back(Output::List { node });
            }
        }
        let waits = self.lists.values().any(|list| *list == List::Asked);
        self.settled |= !waits && now >= wish.since + GRACE;
        if !self.settled {
            return self.drain(now);
        }
        for session in self.sessions.values_mut() {
            if let Stage::Left { until } = session.stage
                && until <= now
            {
                session.afresh();
            }
        }
        if self.recording.is_none() {
            self.next_record(now);
        }
        // Who brings nothing must not keep from the groups what others brought.
        if self.recording.is_none_or(|(_, node)| self.poor.contains(&node)) {
            self.feed(now);
        }
        self.drain(now);
        let open = |session: &Session| match session.stage {
            Stage::Record | Stage::Groups | Stage::Copying { .. } | Stage::Checking => true,
            Stage::Whole | Stage::Left { .. } | Stage::Running | Stage::Foreign => false,
        };
        let busy = self.recording.is_some() || self.sessions.values().any(open);
        let answered = self.lists.values().any(|list| *list == List::Known);
        if busy || waits || !answered {
            self.idle = false;
        } else if !self.idle {
            self.idle = true;
            let left = |session: &Session| matches!(session.stage, Stage::Left { .. });
            let whole = !self.sessions.values().any(left);
            self.outbox.push_back(Output::Done { whole, heard: self.heard.clone() });
        }
    }

    /// Begins the next record, of the newest session that has one to ask for; those that have none go on without. Whose last
    /// record brought nothing is asked when nobody else is left to ask, and first for sessions that are ours for certain.
    fn next_record(&mut self, now: Instant) {
        let good: BTreeSet<NodeId> = self.up.iter().filter(|node| self.is_good(node)).copied().collect();
        let mut next: Option<(SessionId, NodeId, Option<u32>)> = None;
        let mut highest = (false, false);
        for (&id, session) in self.sessions.iter_mut().rev().filter(|(_, session)| session.stage == Stage::Record) {
            let fit = |(node, _): &(&NodeId, &Known)| good.contains(*node) && !session.tried.contains(*node);
            let key = |(node, known): &(&NodeId, &Known)| (!self.poor.contains(*node), known.record, known.whole);
            let Some((&node, known)) = session.from.iter().filter(fit).max_by_key(key) else {
                session.stage = session.unasked(now);
                continue;
            };
            let rank = (!self.poor.contains(&node), session.learnt);
            if next.is_none() || rank > highest {
                (next, highest) = (Some((id, node, known.record)), rank);
            }
            if rank.0 {
                break;
            }
        }
        let Some((session, node, manifest)) = next else { return };
        let bare = self.bare.get(&node);
        let proof = match bare.is_none_or(|bare| bare.len() < BARE_MAX || bare.contains(&session)) {
            _ if self.wish.as_ref().is_some_and(|wish| wish.only.is_some()) => Proof::Named,
            true => Proof::Chaired,
            false => Proof::Signed,
        };
        self.recording = Some((session, node));
        self.outbox.push_back(Output::Record { session, node, manifest, proof });
    }

    /// Begins to fetch the groups of the sessions that the fewest others hold; of the same, the newest first.
    fn feed(&mut self, now: Instant) {
        let copying = |session: &&Session| matches!(session.stage, Stage::Copying { .. } | Stage::Checking);
        while self.sessions.values().filter(copying).count() < COPYING_MAX {
            let ready = self.sessions.iter().filter(|(_, session)| session.stage == Stage::Groups);
            let holders = |session: &Session| session.from.values().filter(|known| known.whole).count();
            let next = ready.min_by_key(|(id, session)| (holders(session), Reverse(**id)));
            let Some((&id, session)) = next else { return };
            // Whoever holds all of it first: only so many are asked.
            let mut senders: Vec<_> = session.from.iter().filter(|(node, _)| self.is_good(node)).collect();
            senders.sort_by_key(|(node, known)| (Reverse(known.whole), **node));
            let senders: Vec<NodeId> = senders.into_iter().map(|(node, _)| *node).collect();
            let first = senders.first().copied();
            let Some(session) = self.sessions.get_mut(&id) else { return };
            let Some(from) = first else {
                // Perhaps nothing is missing.
                session.stage = Stage::Checking;
                self.outbox.push_back(Output::Finish { session: id });
                continue;
            };
            session.stage = Stage::Copying { begun: false };
            let (manifest, bytes) = (Hash::NONE, 0);
            let offered = pull::Input::Offered { session: id, from, manifest, bytes, senders, took_part: true };
            self.pulls.handle(now, offered);
            self.drain(now);
        }
    }

    /// Passes on what the fetching part wants, and sees which sessions it has given up.
    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.pulls.poll() {
            let output = match output {
                pull::Output::Answer { .. } => continue,
                pull::Output::Learn { session, .. } => Output::Plan { session },
                pull::Output::Survey { session, node } => Output::Survey { session, node },
                pull::Output::Fetch { session, node, track, groups } => Output::Fetch { session, node, track, groups },
                pull::Output::Sign { session, .. } => match self.sessions.get_mut(&session) {
                    Some(known) => {
                        known.stage = Stage::Checking;
                        Output::Finish { session }
                    }
                    None => continue,
                },
            };
            self.outbox.push_back(output);
        }
        let mut given_up = Vec::new();
        for (&id, session) in &mut self.sessions {
            if let Stage::Copying { begun } = &mut session.stage {
                match self.pulls.is_active(&id) {
                    true => *begun = true,
                    false if *begun => given_up.push(id),
                    false => {}
                }
            }
        }
        for session in given_up {
            // What central itself did not keep may be all that is missing.
            if let Some(known) = self.sessions.get_mut(&session) {
                known.stage = Stage::Checking;
            }
            self.pulls.handle(now, pull::Input::Forget { session });
            self.outbox.push_back(Output::Finish { session });
        }
    }
}

impl Session {
    fn new() -> Session {
        Session {
            from: BTreeMap::new(),
            tried: BTreeSet::new(),
            learnt: false,
            firm: false,
            open: BTreeSet::new(),
            foreign: BTreeSet::new(),
            disputed: false,
            stage: Stage::Record,
            wanted: Wanted::default(),
        }
    }

    /// Where it stands when nobody is left to ask for its record.
    fn unasked(&self, now: Instant) -> Stage {
        let is_none = |node| self.open.contains(node) || self.foreign.contains(node);
        match self.learnt {
            true if !self.disputed => Stage::Groups,
            false if self.from.keys().all(is_none) && self.open.is_empty() => Stage::Foreign,
            false if self.from.keys().all(is_none) => Stage::Running,
            true | false => Stage::Left { until: now + AGAIN },
        }
    }

    /// Asks everybody for its record again.
    fn afresh(&mut self) {
        self.tried.clear();
        self.open.clear();
        self.foreign.clear();
        self.disputed = false;
        self.stage = Stage::Record;
    }

    /// Asks a node for its record, once more if need be.
    fn again(&mut self, node: NodeId) {
        self.tried.remove(&node);
        self.stage = Stage::Record;
    }
}

#[cfg(test)]
mod tests;
