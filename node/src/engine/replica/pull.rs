//! Fetching what this node is to hold.
//!
//! A session that was offered is taken if it fits into what this node offers. Then its record is learnt from one who has it
//! (who took part, what they signed), which says what groups there are and by which hash to know them; then up to three
//! senders are asked what they have, and groups are fetched from all of them at once, sixteen at a time from each. What is
//! missing is a bitmap read from the disk, so a copy that was broken off, by whatever, goes on where it was: there is no
//! other state that could be lost. When nothing is missing, the copy is compared with the manifest and signed for.
//!
//! A sender that gives wrong bytes is not asked again for this session while there are others; a slow one is helped by those
//! who have nothing left to do. Nothing new is begun while a session that runs here shows loss.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use store::id::{Hash, NodeId, SessionId, TrackId};
use store::inventory::Have;

use super::Dice;

/// Senders asked at once for one session.
pub const SENDERS_MAX: usize = 3;
/// Groups in one fetch: as many as are written in one sync.
pub const FETCH_GROUPS: u64 = 16;
/// Sessions copied at once. The line is shared; more would only finish later together.
const ACTIVE_MAX: usize = 2;
/// Sessions that wait to be copied. Beyond, offers are refused, and come again.
const WAITING_MAX: usize = 4096;
/// Senders known of one session.
const KNOWN_MAX: usize = 16;
/// A fetch that takes longer is begun by another sender too, if that one has nothing left to do.
const SLOW: Duration = Duration::from_secs(60);

/// Groups, by track.
pub type Groups = BTreeMap<TrackId, Have>;

/// What the part is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What this node offers to hold for others, in bytes.
    Offer {
        /// How many.
        bytes: u64,
    },
    /// This node holds a session for others since an earlier run.
    Holding {
        /// The session.
        session: SessionId,
        /// How large it is.
        bytes: u64,
    },
    /// Somebody who may wants this node to hold a session, which it does not wholly. Answered by [`Output::Answer`].
    Offered {
        /// The session.
        session: SessionId,
        /// By whom; it has all of the record.
        from: NodeId,
        /// The manifest up to which.
        manifest: Hash,
        /// How large it is, all in all.
        bytes: u64,
        /// Who has something of it, `from` among them or not.
        senders: Vec<NodeId>,
        /// Whether this node took part: then it does not count as held for others.
        took_part: bool,
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
    /// Whether a session runs here whose line shows loss.
    Strained {
        /// Whether.
        strained: bool,
    },
    /// Answer to [`Output::Learn`]: the record is here, and these groups are not.
    Learnt {
        /// The session.
        session: SessionId,
        /// What is missing; `None` if the record did not come.
        missing: Option<Groups>,
    },
    /// Answer to [`Output::Survey`].
    Surveyed {
        /// The session.
        session: SessionId,
        /// The sender.
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
        /// What the sender said it does not have.
        absent: Have,
        /// How it went.
        end: End,
    },
    /// Answer to [`Output::Sign`]: whether the copy was as the manifest says, and was signed for.
    Signed {
        /// The session.
        session: SessionId,
        /// Whether.
        whole: bool,
    },
    /// A session is not to be held any more, or not by this part. What comes of it after is not looked at.
    Forget {
        /// The session.
        session: SessionId,
    },
    /// Time passed.
    Tick,
}

/// How a fetch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Well. What neither came nor is absent would have been too much for one answer.
    Good,
    /// The line failed, or this node's disk.
    Broken,
    /// The sender gave something else than what was signed.
    Wrong,
}

/// What the part wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell who offered a session whether it is taken.
    Answer {
        /// The session.
        session: SessionId,
        /// Whom.
        to: NodeId,
        /// Whether.
        taken: bool,
    },
    /// Fetch the record of a session; answer with [`Input::Learnt`].
    Learn {
        /// The session.
        session: SessionId,
        /// From whom.
        from: NodeId,
    },
    /// Ask what somebody has of it; answer with [`Input::Surveyed`].
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
    /// Compare the copy with the manifest and sign for it, to whoever offered it; answer with [`Input::Signed`].
    Sign {
        /// The session.
        session: SessionId,
        /// Who waits for it.
        to: NodeId,
    },
}

/// The sessions this node is to hold and does not yet.
#[derive(Debug)]
pub struct Pulls {
    me: NodeId,
    dice: Dice,
    offered: u64,
    /// What is held for others, or will be.
    held: BTreeMap<SessionId, u64>,
    up: BTreeSet<NodeId>,
    strained: bool,
    pulls: BTreeMap<SessionId, Pull>,
    /// Those that wait, and until when.
    waiting: BTreeSet<(Instant, SessionId)>,
    active: BTreeSet<SessionId>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Pull {
    by: NodeId,
    manifest: Hash,
    senders: BTreeMap<NodeId, Sender>,
    /// Failures in a row.
    tries: u32,
    at: Instant,
    stage: Stage,
    missing: Groups,
    flights: Vec<Flight>,
    /// Something came since it was last begun.
    moved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Learning,
    Copying,
    Signing,
}

#[derive(Debug, Default)]
struct Sender {
    /// What it has; `None` before it was asked.
    has: Option<Groups>,
    asked: bool,
    /// Not asked any more in this attempt.
    failed: bool,
    /// Gave wrong bytes.
    wrong: bool,
}

/// A fetch under way.
#[derive(Debug)]
struct Flight {
    node: NodeId,
    track: TrackId,
    groups: RangeInclusive<u64>,
    begun: Instant,
    /// It takes so long that others may help.
    slow: bool,
}

impl Pulls {
    /// For node `me`.
    pub fn new(me: NodeId, dice: Dice) -> Pulls {
        Pulls {
            me,
            dice,
            offered: 0,
            held: BTreeMap::new(),
            up: BTreeSet::new(),
            strained: false,
            pulls: BTreeMap::new(),
            waiting: BTreeSet::new(),
            active: BTreeSet::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Offer { bytes } => self.offered = bytes,
            Input::Holding { session, bytes } => drop(self.held.insert(session, bytes)),
            Input::Offered { session, from, manifest, bytes, senders, took_part } => {
                let taken = self.has_room(&session, bytes, took_part);
                if taken {
                    if !took_part {
                        self.held.insert(session, bytes);
                    }
                    self.take(now, session, from, manifest, senders);
                }
                self.outbox.push_back(Output::Answer { session, to: from, taken });
            }
            Input::Up { node } => {
                self.up.insert(node);
                let of = |pull: &&SessionId| self.pulls[*pull].senders.contains_key(&node);
                let sessions: Vec<_> = self.pulls.keys().filter(of).copied().collect();
                for session in sessions {
                    if let Some(pull) = self.pulls.get_mut(&session).filter(|pull| pull.stage == Stage::Waiting) {
                        self.waiting.remove(&(pull.at, session));
                        pull.at = now;
                        self.waiting.insert((now, session));
                    }
                }
            }
            Input::Down { node } => drop(self.up.remove(&node)),
            Input::Strained { strained } => self.strained = strained,
            Input::Learnt { session, missing } => self.with(session, Stage::Learning, |pull| match missing {
                Some(missing) => (pull.missing, pull.stage) = (missing, Stage::Copying),
                None => pull.stage = Stage::Waiting,
            }),
            Input::Surveyed { session, node, has } => self.with(session, Stage::Copying, |pull| {
                let sender = pull.senders.entry(node).or_default();
                (sender.asked, sender.failed) = (false, has.is_none());
                sender.has = has;
            }),
            Input::Fetched { session, node, track, from, got, absent, end } => {
                self.with(session, Stage::Copying, |pull| {
                    pull.fetched((node, track, from), &got, &absent, end);
                })
            }
            Input::Signed { session, whole } => {
                if let Some(pull) = self.pulls.get(&session).filter(|pull| pull.stage == Stage::Signing) {
                    let at = pull.at;
                    match whole {
                        true => {
                            self.pulls.remove(&session);
                            self.active.remove(&session);
                            self.waiting.remove(&(at, session));
                        }
                        false => self.with(session, Stage::Signing, |pull| pull.stage = Stage::Waiting),
                    }
                }
            }
            Input::Forget { session } => {
                if let Some(pull) = self.pulls.remove(&session) {
                    self.waiting.remove(&(pull.at, session));
                    self.active.remove(&session);
                }
            }
            Input::Tick => {}
        }
        self.work(now);
    }

    /// Whether a session is still to be copied here.
    pub fn wants(&self, session: &SessionId) -> bool {
        self.pulls.contains_key(session)
    }

    /// Whether it is being copied at this moment.
    pub fn is_active(&self, session: &SessionId) -> bool {
        self.active.contains(session)
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let waits =
            self.waiting.first().map(|(at, _)| *at).filter(|_| !self.strained && self.active.len() < ACTIVE_MAX);
        let active = self.active.iter().filter_map(|session| self.pulls.get(session));
        let flights = active.flat_map(|pull| &pull.flights).filter(|flight| !flight.slow);
        waits.into_iter().chain(flights.map(|flight| flight.begun + SLOW)).min()
    }

    /// What is held for others, or will be, in bytes.
    pub fn held(&self) -> u64 {
        self.held.values().sum()
    }

    fn has_room(&self, session: &SessionId, bytes: u64, took_part: bool) -> bool {
        let room = self.pulls.contains_key(session) || self.pulls.len() < WAITING_MAX;
        let others: u64 = self.held.iter().filter(|(of, _)| *of != session).map(|(_, bytes)| bytes).sum();
        room && (took_part || others.saturating_add(bytes) <= self.offered)
    }

    fn take(&mut self, now: Instant, session: SessionId, by: NodeId, manifest: Hash, senders: Vec<NodeId>) {
        let fresh = || Pull {
            by,
            manifest,
            senders: BTreeMap::new(),
            tries: 0,
            at: now,
            stage: Stage::Waiting,
            missing: Groups::new(),
            flights: Vec::new(),
            moved: false,
        };
        let me = self.me;
        let pull = self.pulls.entry(session).or_insert_with(fresh);
        if pull.manifest != manifest && pull.stage != Stage::Waiting {
            // What is under way is worth having; then the rest is learnt.
            pull.stage = Stage::Waiting;
        }
        (pull.by, pull.manifest) = (by, manifest);
        for node in std::iter::once(by).chain(senders).filter(|node| *node != me) {
            if pull.senders.len() < KNOWN_MAX || pull.senders.contains_key(&node) {
                pull.senders.entry(node).or_default();
            }
        }
        if pull.stage == Stage::Waiting {
            self.active.remove(&session);
            self.waiting.remove(&(pull.at, session));
            // Who offers it has it and is awake.
            (pull.at, pull.flights) = (now, Vec::new());
            self.waiting.insert((now, session));
        }
    }

    /// Changes an active pull in this stage; one that then waits is put off.
    fn with(&mut self, session: SessionId, stage: Stage, change: impl FnOnce(&mut Pull)) {
        if let Some(pull) = self.pulls.get_mut(&session).filter(|pull| pull.stage == stage) {
            change(pull);
        }
    }

    fn work(&mut self, now: Instant) {
        let active: Vec<_> = self.active.iter().copied().collect();
        active.into_iter().for_each(|session| self.step(now, session));
        while !self.strained && self.active.len() < ACTIVE_MAX {
            let Some(&(at, session)) = self.waiting.first() else { break };
            if at > now {
                break;
            }
            self.waiting.pop_first();
            self.active.insert(session);
            self.begin(now, session);
        }
    }

    /// Learns the record, from who offered it, or else in turn from the others.
    fn begin(&mut self, now: Instant, session: SessionId) {
        let Some(pull) = self.pulls.get_mut(&session) else { return };
        pull.moved = false;
        for sender in pull.senders.values_mut() {
            *sender = Sender { wrong: sender.wrong, ..Sender::default() };
        }
        if pull.senders.values().all(|sender| sender.wrong) {
            // Perhaps their disks were mended; the pause was long enough.
            pull.senders.values_mut().for_each(|sender| sender.wrong = false);
        }
        let others = pull.senders.keys().filter(|node| **node != pull.by);
        let all = std::iter::once(&pull.by).chain(others);
        let up: Vec<NodeId> = all.filter(|node| self.up.contains(node) && !pull.senders[node].wrong).copied().collect();
        match up.get(pull.tries as usize % up.len().max(1)) {
            Some(&from) => {
                pull.stage = Stage::Learning;
                self.outbox.push_back(Output::Learn { session, from });
            }
            None => self.put_off(now, session),
        }
    }

    /// Does what is next in an active pull.
    fn step(&mut self, now: Instant, session: SessionId) {
        let Some(pull) = self.pulls.get_mut(&session) else { return };
        match pull.stage {
            Stage::Learning | Stage::Signing => {}
            Stage::Waiting => self.put_off(now, session),
            Stage::Copying => {
                pull.missing.retain(|_, have| !have.is_empty());
                if pull.missing.is_empty() {
                    pull.stage = Stage::Signing;
                    pull.flights.clear();
                    let to = pull.by;
                    return self.outbox.push_back(Output::Sign { session, to });
                }
                pull.flights.iter_mut().for_each(|flight| flight.slow |= flight.begun + SLOW <= now);
                if self.strained {
                    return;
                }
                pull.fetch(now, session, &self.up, &mut self.outbox);
                pull.survey(session, &self.up, &mut self.outbox);
                if pull.flights.is_empty() && !pull.senders.values().any(|sender| sender.asked) {
                    self.put_off(now, session);
                }
            }
        }
    }

    fn put_off(&mut self, now: Instant, session: SessionId) {
        let Some(pull) = self.pulls.get_mut(&session) else { return };
        pull.tries = if pull.moved { 1 } else { pull.tries.saturating_add(1) };
        (pull.stage, pull.at) = (Stage::Waiting, now + self.dice.pause(&session, &self.me, pull.tries));
        pull.flights.clear();
        self.active.remove(&session);
        self.waiting.insert((pull.at, session));
    }
}

impl Pull {
    fn fetched(&mut self, of: (NodeId, TrackId, u64), got: &Have, absent: &Have, end: End) {
        let is_it = |flight: &Flight| (flight.node, flight.track, *flight.groups.start()) == of;
        let Some(place) = self.flights.iter().position(is_it) else { return };
        self.flights.swap_remove(place);
        let (node, track, _) = of;
        self.moved |= !got.is_empty();
        if let Some(missing) = self.missing.get_mut(&track) {
            *missing = missing.without(got);
        }
        let Some(sender) = self.senders.get_mut(&node) else { return };
        match end {
            End::Good if !got.is_empty() || !absent.is_empty() => {
                if let Some(has) = sender.has.as_mut().and_then(|has| has.get_mut(&track)) {
                    *has = has.without(absent);
                }
            }
            // An answer of nothing would be asked for for ever.
            End::Good | End::Broken => sender.failed = true,
            End::Wrong => (sender.failed, sender.wrong) = (true, true),
        }
    }

    /// Asks senders what they have, until enough have said so.
    fn survey(&mut self, session: SessionId, up: &BTreeSet<NodeId>, outbox: &mut VecDeque<Output>) {
        let in_use = |sender: &Sender| !sender.failed && (sender.asked || sender.has.is_some());
        let mut used = self.senders.values().filter(|sender| in_use(sender)).count();
        for (&node, sender) in &mut self.senders {
            let fit = !sender.failed && !sender.wrong && !sender.asked && sender.has.is_none();
            if used < SENDERS_MAX && fit && up.contains(&node) {
                sender.asked = true;
                used += 1;
                outbox.push_back(Output::Survey { session, node });
            }
        }
    }

    /// Gives every idle sender something to send.
    fn fetch(&mut self, now: Instant, session: SessionId, up: &BTreeSet<NodeId>, outbox: &mut VecDeque<Output>) {
        for (&node, sender) in &mut self.senders {
            let Some(has) = sender.has.as_ref().filter(|_| !sender.failed) else { continue };
            if !up.contains(&node) || self.flights.iter().any(|flight| flight.node == node) {
                continue;
            }
            let next = next_of(&self.missing, has, &self.flights, |_| true)
                .or_else(|| next_of(&self.missing, has, &self.flights, |flight| !flight.slow));
            match next {
                Some((track, groups)) => {
                    self.flights.push(Flight { node, track, groups: groups.clone(), begun: now, slow: false });
                    outbox.push_back(Output::Fetch { session, node, track, groups });
                }
                // It has no more of what is missing; another may be asked in its place.
                None if self.flights.is_empty() => sender.failed = true,
                None => {}
            }
        }
    }
}

/// The first run of groups that are missing, that a sender has, and that no flight of this kind brings.
fn next_of(
    missing: &Groups,
    has: &Groups,
    flights: &[Flight],
    counts: impl Fn(&Flight) -> bool,
) -> Option<(TrackId, RangeInclusive<u64>)> {
    missing.iter().find_map(|(track, missing)| {
        let has = has.get(track)?;
        let mut left = missing.without(&missing.without(has));
        let mut flying = Have::new();
        let of_track = flights.iter().filter(|flight| flight.track == *track && counts(flight));
        for seq in of_track.flat_map(|flight| flight.groups.clone()) {
            flying.insert(seq);
        }
        left = left.without(&flying);
        let (first, last) = left.runs().next()?.into_inner();
        Some((*track, first..=last.min(first + FETCH_GROUPS - 1)))
    })
}

#[cfg(test)]
mod tests;
