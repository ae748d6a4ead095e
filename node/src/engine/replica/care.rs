//! Looking after the copies of sessions that are over.
//!
//! A copy counts from the moment its holder signed for it, and for as long as it goes on signing: it is asked twice a day. Two
//! thresholds say when another copy is made. Computers of an office sleep at night and over a holiday; whoever made a new copy
//! each time would do nothing else. So a holder's silence is borne for seven days. But when fewer than two copies were
//! confirmed within a day, the recording may be one fire away from being lost: then somebody who is awake takes one at once.
//! Who comes back after being replaced is counted again; nothing is deleted because there is too much of it.
//!
//! One node looks after a session: central, and if it is silent for seven days or is no point of the mesh any more, the next
//! of those who took part, in the order of the session's head. All of them have its manifest, so nobody has to be told;
//! should two act at once for a while, there are a few copies more. Who comes to look after a session so has not heard of
//! its holders for long, since they told central; it asks them first, and only after an hour makes others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{Hash, NodeId, SessionId};
use store::placement::{self, Candidate};

use super::Dice;

/// How long a signature says that a copy is there.
pub const FRESH: Duration = Duration::from_secs(24 * 3600);
/// Silence after which a holder is replaced.
pub const SILENCE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Below so many fresh copies another is made at once.
pub const COPIES_LEAST: usize = 2;

/// A holder is asked to sign again after this: twice before its signature is no longer fresh.
const CONFIRM_EVERY: Duration = Duration::from_secs(12 * 3600);
/// Who took an offer is reminded of it: it may have been started anew since.
const REMIND_EVERY: Duration = Duration::from_secs(3600);
/// Every session is looked at so often at least, give or take some minutes. So precisely the thresholds are kept.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Who refused an offer is not asked again for so long.
const ASIDE: Duration = Duration::from_secs(24 * 3600);
/// So many questions without an answer, some two hours of them, are a refusal.
const SILENT_MAX: u32 = 7;
/// What a node is thought to offer before it said so, in gigabytes.
const WEIGHT: u32 = 100;
/// Holders remembered of one session. Beyond, the one longest silent is forgotten.
const HOLDERS_MAX: usize = 64;

/// A point of the mesh, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its zone.
    pub zone: String,
    /// Whether it may hold sessions it had no part in.
    pub holds: bool,
    /// Whether it may hold those in which it took part.
    pub holds_own: bool,
}

/// What the part is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The points of the mesh, in place of those before.
    Mesh {
        /// By node; this one may be among them.
        nodes: BTreeMap<NodeId, Node>,
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
    /// A session is over and has a manifest, or a further one. Again with the same manifest changes nothing.
    Closed {
        /// The session.
        session: SessionId,
        /// Its manifest.
        manifest: Hash,
        /// Central and the points that took part, in the order in which they look after the session.
        owners: Vec<NodeId>,
    },
    /// A good receipt of a node for this manifest, which came so long ago: now, or in an earlier run of this node.
    Receipt {
        /// The session.
        session: SessionId,
        /// Its manifest.
        manifest: Hash,
        /// Who holds it.
        node: NodeId,
        /// How long ago.
        age: Duration,
    },
    /// Answer to [`Output::Offer`] that is no receipt.
    Answered {
        /// The session.
        session: SessionId,
        /// The point.
        node: NodeId,
        /// What it said.
        answer: Answer,
    },
    /// A holder says that it has not got all of a session and goes on: it was started anew, perhaps without having been
    /// missed.
    Resumes {
        /// The session.
        session: SessionId,
        /// The holder.
        node: NodeId,
    },
    /// What a point offers to hold for others, as it said.
    Offers {
        /// The point.
        node: NodeId,
        /// How much, in gigabytes.
        gigabytes: u32,
    },
    /// Time passed.
    Tick,
}

/// What comes back on an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It holds all of it; its receipt was told apart, by [`Input::Receipt`].
    Holds,
    /// It will fetch it, or does so already.
    Taken,
    /// It has no room, or does not want it.
    Refused,
    /// Nothing, or nothing that can be understood.
    Silent,
}

/// What the part wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Offer a session, or ask whether it is still held, which is the same question; answer with [`Input::Answered`],
    /// after [`Input::Receipt`] if it was one.
    Offer {
        /// The session.
        session: SessionId,
        /// To whom.
        node: NodeId,
    },
}

/// The sessions this node may have to look after.
#[derive(Debug)]
pub struct Care {
    me: NodeId,
    copies: usize,
    dice: Dice,
    /// When this node began to listen. Who was never seen is silent since then.
    begun: Option<Instant>,
    nodes: BTreeMap<NodeId, Node>,
    weights: BTreeMap<NodeId, u32>,
    up: BTreeSet<NodeId>,
    /// When those who are not up were last.
    seen: BTreeMap<NodeId, Instant>,
    sessions: BTreeMap<SessionId, Tended>,
    /// When to look at each session.
    due: BTreeSet<(Instant, SessionId)>,
    /// Sessions in which a node is holder or was asked: they are looked at when it comes.
    of: BTreeMap<NodeId, BTreeSet<SessionId>>,
    /// What each node is to be asked, one after the other.
    questions: BTreeMap<NodeId, BTreeSet<SessionId>>,
    asking: BTreeSet<NodeId>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Tended {
    manifest: Hash,
    owners: Vec<NodeId>,
    holders: BTreeMap<NodeId, Holder>,
    look_at: Instant,
    /// Since when this node looks after it.
    mine: Option<Instant>,
}

/// What is known of a node and a session.
#[derive(Debug, Default)]
struct Holder {
    /// When it last signed for the last manifest. An age, since it may be older than this machine's clock can say.
    signed: Option<Instant>,
    /// When it last said that it would fetch it.
    taken: Option<Instant>,
    /// When to ask it next. While it is being asked: when to ask again if this brings no answer, since it came back meanwhile.
    ask_at: Option<Instant>,
    /// Whether it is being asked, or will be when its other questions are answered.
    asked: bool,
    /// Questions without an answer since the last one with.
    silent: u32,
    /// Until when it is not asked.
    aside: Option<Instant>,
}

impl Holder {
    /// When it last gave reason to count on it.
    fn counted(&self) -> Option<Instant> {
        self.signed.max(self.taken)
    }

    fn counts(&self, now: Instant, within: Duration) -> bool {
        self.counted().is_some_and(|at| now.saturating_duration_since(at) < within)
    }
}

impl Care {
    /// For node `me`: of each session there should be `copies`, central's among them.
    pub fn new(me: NodeId, copies: usize, dice: Dice) -> Care {
        Care {
            me,
            copies,
            dice,
            begun: None,
            nodes: BTreeMap::new(),
            weights: BTreeMap::new(),
            up: BTreeSet::new(),
            seen: BTreeMap::new(),
            sessions: BTreeMap::new(),
            due: BTreeSet::new(),
            of: BTreeMap::new(),
            questions: BTreeMap::new(),
            asking: BTreeSet::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.begun.get_or_insert(now);
        match input {
            Input::Mesh { nodes } => {
                self.weights.retain(|node, _| nodes.contains_key(node));
                self.seen.retain(|node, _| nodes.contains_key(node));
                self.nodes = nodes;
                // Who left holds nothing any more, as far as we can know; the next look finds out what that comes to.
                self.due = self.sessions.keys().map(|session| (now, *session)).collect();
                self.sessions.values_mut().for_each(|tended| tended.look_at = now);
            }
            Input::Up { node } => {
                self.up.insert(node);
                self.seen.remove(&node);
                let sessions = self.of.get(&node).cloned().unwrap_or_default();
                for session in sessions {
                    if let Some(holder) = self.sessions.get_mut(&session).and_then(|own| own.holders.get_mut(&node)) {
                        // Whether it took it or did not hear us: it may have begun anew.
                        if holder.signed.is_none() {
                            (holder.ask_at, holder.silent) = (Some(now), 0);
                        }
                    }
                    self.look(now, session);
                }
                // What waits for whoever is awake, and is not this one's by its name.
                self.ask(node);
            }
            Input::Down { node } => {
                if self.up.remove(&node) {
                    self.seen.insert(node, now);
                }
                for session in self.questions.remove(&node).unwrap_or_default() {
                    let tended = self.sessions.get_mut(&session);
                    if let Some(holder) = tended.and_then(|tended| tended.holders.get_mut(&node)) {
                        (holder.asked, holder.ask_at) = (false, Some(now));
                    }
                }
            }
            Input::Closed { session, manifest, owners } => self.closed(now, session, manifest, owners),
            Input::Receipt { session, manifest, node, age } => self.signed(now, session, manifest, node, age),
            Input::Answered { session, node, answer } => self.answered(now, session, node, answer),
            Input::Resumes { session, node } => {
                let tended = self.sessions.get_mut(&session);
                if let Some(holder) = tended.and_then(|tended| tended.holders.get_mut(&node)) {
                    (holder.ask_at, holder.silent) = (Some(now), 0);
                }
                self.look(now, session);
            }
            Input::Offers { node, gigabytes } => drop(self.weights.insert(node, gigabytes)),
            Input::Tick => {}
        }
        while let Some(&(at, session)) = self.due.first()
            && at <= now
        {
            self.look(now, session);
        }
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Who signed for the session's last manifest within [`SILENCE_MAX`], this node not among them.
    pub fn confirmed(&self, now: Instant, session: &SessionId) -> BTreeSet<NodeId> {
        let holders = self.sessions.get(session).into_iter().flat_map(|tended| &tended.holders);
        let signed = holders
            .filter(|(_, holder)| holder.signed.is_some_and(|at| now.saturating_duration_since(at) < SILENCE_MAX));
        signed.map(|(node, _)| *node).collect()
    }

    fn closed(&mut self, now: Instant, session: SessionId, manifest: Hash, owners: Vec<NodeId>) {
        let fresh = || Tended { manifest, owners: Vec::new(), holders: BTreeMap::new(), look_at: now, mine: None };
        let tended = self.sessions.entry(session).or_insert_with(fresh);
        tended.owners = owners;
        if tended.manifest != manifest {
            tended.manifest = manifest;
            // They have most of it and are asked first, but what they signed is not all there is any more.
            for holder in tended.holders.values_mut() {
                (holder.taken, holder.signed, holder.ask_at) = (holder.counted(), None, Some(now));
            }
        }
        self.look(now, session);
    }

    fn signed(&mut self, now: Instant, session: SessionId, manifest: Hash, node: NodeId, age: Duration) {
        let Some(tended) = self.sessions.get_mut(&session).filter(|tended| tended.manifest == manifest) else { return };
        // Its silence before this run does not wear out all patience: it has had no time to answer.
        let age = age.min(SILENCE_MAX.saturating_sub(FRESH));
        let Some(at) = now.checked_sub(age).or(Some(now)) else { return };
        let holder = tended.holders.entry(node).or_default();
        holder.signed = holder.signed.max(Some(at));
        (holder.taken, holder.silent, holder.aside) = (None, 0, None);
        holder.ask_at = Some(at + CONFIRM_EVERY - self.dice.part(CONFIRM_EVERY / 4, &session, &node, 0));
        self.of.entry(node).or_default().insert(session);
        if tended.holders.len() > HOLDERS_MAX {
            let oldest = tended.holders.iter().min_by_key(|(_, holder)| holder.counted()).map(|(node, _)| *node);
            oldest.and_then(|node| tended.holders.remove(&node));
        }
        self.look(now, session);
    }

    fn answered(&mut self, now: Instant, session: SessionId, node: NodeId, answer: Answer) {
        self.asking.remove(&node);
        let dice = self.dice;
        if let Some(holder) = self.sessions.get_mut(&session).and_then(|tended| tended.holders.get_mut(&node)) {
            holder.asked = false;
            match answer {
                Answer::Holds => {}
                Answer::Taken => {
                    // What it signed is gone from its disk.
                    (holder.signed, holder.taken, holder.silent) = (None, Some(now), 0);
                    holder.ask_at = Some(now + REMIND_EVERY);
                }
                Answer::Refused => {
                    (holder.signed, holder.taken, holder.ask_at) = (None, None, None);
                    holder.aside = Some(now + ASIDE);
                }
                Answer::Silent => {
                    holder.silent += 1;
                    let pause = dice.pause(&session, &node, holder.silent);
                    holder.ask_at = holder.ask_at.or(Some(now + pause));
                    if holder.silent >= SILENT_MAX {
                        holder.aside = Some(now + ASIDE);
                    }
                }
            }
        }
        self.look(now, session);
        self.ask(node);
    }

    /// Whether it is for `node` to look after a session, as far as this one can tell: all before it are gone.
    pub fn is_turn_of(&self, now: Instant, session: &SessionId, node: &NodeId) -> bool {
        self.sessions.get(session).is_some_and(|tended| self.succeeds(now, &tended.owners, node))
    }

    fn succeeds(&self, now: Instant, owners: &[NodeId], node: &NodeId) -> bool {
        let mut before = owners.iter().take_while(|owner| *owner != node);
        owners.contains(node) && before.all(|owner| self.is_gone(now, owner))
    }

    /// Whether nothing is to be expected of a node. This one is always there.
    fn is_gone(&self, now: Instant, node: &NodeId) -> bool {
        let left = !self.nodes.is_empty() && !self.nodes.contains_key(node);
        *node != self.me && (left || self.silence(now, node) >= SILENCE_MAX)
    }

    /// How long nothing was heard of a node.
    fn silence(&self, now: Instant, node: &NodeId) -> Duration {
        if self.up.contains(node) {
            return Duration::ZERO;
        }
        let since = self.seen.get(node).copied().or(self.begun).unwrap_or(now);
        now.saturating_duration_since(since)
    }

    /// Looks at one session: who is to be asked, and when to look again.
    fn look(&mut self, now: Instant, session: SessionId) {
        let Some(mut tended) = self.sessions.remove(&session) else { return };
        self.due.remove(&(tended.look_at, session));
        tended.look_at = now + LOOK_EVERY + self.dice.part(LOOK_EVERY / 8, &session, &self.me, 0);
        let is_mine = self.succeeds(now, &tended.owners, &self.me);
        tended.mine = tended.mine.or(Some(now)).filter(|_| is_mine);
        if is_mine {
            tended.holders.retain(|node, _| self.nodes.contains_key(node));
            let wanted = self.wanted(now, &session, &tended);
            for &node in &wanted {
                let holder = tended.holders.entry(node).or_default();
                if !holder.asked {
                    holder.ask_at.get_or_insert(now);
                }
                self.of.entry(node).or_default().insert(session);
            }
            for (&node, holder) in &mut tended.holders {
                let concerns = holder.counted().is_some() || wanted.contains(&node);
                // Who is not up is looked for when it comes.
                if holder.asked || !concerns || !self.up.contains(&node) {
                    continue;
                }
                match holder.ask_at.max(holder.aside) {
                    Some(at) if at > now => tended.look_at = tended.look_at.min(at),
                    Some(_) => {
                        (holder.asked, holder.ask_at) = (true, None);
                        self.questions.entry(node).or_default().insert(session);
                    }
                    None => {}
                }
            }
        }
        self.due.insert((tended.look_at, session));
        let nodes: Vec<NodeId> = tended.holders.keys().copied().collect();
        self.sessions.insert(session, tended);
        nodes.into_iter().for_each(|node| self.ask(node));
    }

    /// Who should hold a session beside those that are counted on.
    fn wanted(&self, now: Instant, session: &SessionId, tended: &Tended) -> Vec<NodeId> {
        let me = self.me;
        let is_central = tended.owners.first() == Some(&me);
        // Central has all; who looks after a session in its place has only its own part, unless it signed for the rest.
        let signed = tended.holders.get(&me).is_some_and(|holder| holder.signed.is_some());
        let own = usize::from(is_central || signed);
        let others = || tended.holders.iter().filter(|(node, _)| **node != me);
        let within = |span| others().filter(|(_, holder)| holder.counts(now, span)).count() + own;
        let (fresh, kept) = (within(FRESH), within(SILENCE_MAX));
        let stale = |holder: &Holder| holder.counted().is_some() && !holder.counts(now, SILENCE_MAX);
        let is_new = tended.mine.is_some_and(|since| now.saturating_duration_since(since) < LOOK_EVERY);
        if is_new && !is_central && others().any(|(_, holder)| stale(holder)) {
            return Vec::new();
        }
        let awake = COPIES_LEAST.min(self.copies).saturating_sub(fresh);
        let all = self.copies.saturating_sub(kept);
        if awake == 0 && all == 0 {
            return Vec::new();
        }
        let counted = others().filter(|(_, holder)| holder.counts(now, SILENCE_MAX));
        let zone = |node: &NodeId| self.nodes.get(node).map(|node| node.zone.as_str());
        let own = Some(self.me).filter(|_| own == 1);
        let zones: Vec<&str> = counted.map(|(node, _)| *node).chain(own).filter_map(|node| zone(&node)).collect();
        let took_part: BTreeSet<&NodeId> = tended.owners.iter().collect();
        let may = |node: &NodeId, as_point: &Node| {
            let aside = tended
                .holders
                .get(node)
                .is_some_and(|holder| holder.counts(now, SILENCE_MAX) || holder.aside.is_some_and(|until| until > now));
            let allowed = if took_part.contains(node) { as_point.holds || as_point.holds_own } else { as_point.holds };
            allowed && !aside && *node != self.me && self.silence(now, node) < SILENCE_MAX
        };
        let candidates: Vec<Candidate<'_>> = self
            .nodes
            .iter()
            .filter(|(node, as_point)| may(node, as_point))
            .map(|(node, as_point)| Candidate {
                node: *node,
                zone: &as_point.zone,
                took_part: took_part.contains(node),
                weight: self.weights.get(node).copied().unwrap_or(WEIGHT),
            })
            .collect();
        let mut wanted = placement::choose(session, zones.iter().copied(), &candidates, all);
        let up = wanted.iter().filter(|node| self.up.contains(node)).count();
        if up < awake {
            let rest: Vec<_> = candidates
                .into_iter()
                .filter(|candidate| self.up.contains(&candidate.node) && !wanted.contains(&candidate.node))
                .collect();
            wanted.extend(placement::choose(session, zones, &rest, awake - up));
        }
        wanted
    }

    /// Asks a node the next thing, if it is up and nothing is being asked of it: a holder of a thousand sessions is not
    /// asked for all of them in one moment.
    fn ask(&mut self, node: NodeId) {
        if !self.up.contains(&node) || self.asking.contains(&node) {
            return;
        }
        let Some(questions) = self.questions.get_mut(&node) else { return };
        let Some(session) = questions.pop_first() else { return };
        if questions.is_empty() {
            self.questions.remove(&node);
        }
        self.asking.insert(node);
        self.outbox.push_back(Output::Offer { session, node });
    }
}

#[cfg(test)]
mod tests;
