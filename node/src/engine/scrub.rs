//! When what is stored is read again, and when what was found bad is asked of others.
//!
//! Each session is read every 30 days, give or take ten: the ten are drawn from this node's name and the session's, so that
//! offices which recorded the same session do not all read it in one night, when each is also asked to mend the others.
//! The one that was not read for the longest goes first. Reading goes at two megabytes a second, which nobody feels, and
//! pauses while a session runs at this point; a terabyte takes six days of that. Who asks for it gets it at full pace, but a
//! running session still comes first.
//!
//! What is lost is asked of others at once, then after pauses that double, and at once again when somebody comes who may
//! have it. One session at a time, for the line is the office's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{NodeId, SessionId};
use store::scrub::Cursor;

use super::replica::Dice;

/// A session is read again this long after the last time at the earliest.
const EVERY_LEAST: Duration = Duration::from_secs(20 * DAY);
/// And this much later at the latest.
const EVERY_SPREAD: Duration = Duration::from_secs(20 * DAY);
/// Bytes a second.
const PACE: u64 = 2_000_000;
/// Bytes read in one go: two seconds' worth, then the disk is somebody else's.
const STRETCH: u64 = 4_000_000;
/// After a stretch that failed nothing is read for this long: the disk may be busy.
const AGAIN: Duration = Duration::from_secs(60);
/// And its session is left to itself for this long, while others are read: it may be the only one that cannot be.
const ASIDE: Duration = Duration::from_secs(600);
/// The disk is suspected when this many groups were found bad within [`ALARM_WITHIN`].
const BAD_MAX: usize = 3;
/// See [`BAD_MAX`].
const ALARM_WITHIN: Duration = Duration::from_secs(DAY);
/// An alarm stands until nothing was found for so long: by then everything was read once more.
const ALARM_STANDS: Duration = Duration::from_secs(40 * DAY);
/// Findings remembered. Far fewer raise the alarm.
const FOUND_MAX: usize = 1024;

const DAY: u64 = 24 * 3600;

/// Of what kind a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A group.
    Group,
    /// A table of the groups' database, or something of the truth: one is enough.
    Grave,
}

/// What the part is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A session that is over is stored here; again with what has changed.
    Stored {
        /// The session.
        session: SessionId,
        /// How long ago it was last read to its end, or else since when it is known to be over.
        age: Duration,
        /// Where an earlier run stopped reading.
        next: Option<Cursor>,
        /// Whether groups of it are lost from this disk.
        lost: bool,
    },
    /// Something was found, so long ago: now or in an earlier run.
    Found {
        /// What.
        kind: Kind,
        /// When.
        age: Duration,
    },
    /// Whether a session runs at this point.
    Live {
        /// Whether.
        live: bool,
    },
    /// Somebody wants one session read now, or all of them.
    Now {
        /// Which.
        session: Option<SessionId>,
    },
    /// Answer to [`Output::Read`].
    Read {
        /// The session.
        session: SessionId,
        /// What came of it; `None` if the disk did not let itself be read, or written to.
        stretch: Option<Stretch>,
    },
    /// Answer to [`Output::Mend`].
    Mended {
        /// The session.
        session: SessionId,
        /// Whether some of it is still lost.
        lost: bool,
    },
    /// A point is online.
    Up {
        /// Which.
        node: NodeId,
    },
    /// Time passed.
    Tick,
}

/// What one stretch of reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes read.
    pub bytes: u64,
    /// Where it goes on; `None` at the session's end.
    pub next: Option<Cursor>,
    /// Whether groups of the session are lost now.
    pub lost: bool,
}

/// What the part wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read on in a session and write down how far it is; answer with [`Input::Read`], after [`Input::Found`] for each thing
    /// that was found.
    Read {
        /// The session.
        session: SessionId,
        /// From where; `None`: from its beginning.
        from: Option<Cursor>,
        /// How many bytes, about.
        bytes: u64,
    },
    /// Ask others for what is lost of a session; answer with [`Input::Mended`].
    Mend {
        /// The session.
        session: SessionId,
    },
}

/// What there is to say of it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The session that is being read.
    pub reading: Option<SessionId>,
    /// Whether reading waits for a session that runs here.
    pub paused: bool,
    /// Sessions somebody asked for that are not read to their end, or whose loss was not asked of others yet.
    pub asked: usize,
    /// Whether the disk is suspected.
    pub alarm: bool,
}

/// The part.
#[derive(Debug)]
pub struct Scrub {
    me: NodeId,
    dice: Dice,
    sessions: BTreeMap<SessionId, Known>,
    /// When each session is to be read; those that were asked for are not in it.
    due: BTreeSet<(Instant, SessionId)>,
    /// Those that somebody asked for, in turn.
    asked: VecDeque<SessionId>,
    /// Asked for, read, and not yet asked of others.
    unmended: BTreeSet<SessionId>,
    live: bool,
    reading: Option<SessionId>,
    /// What is being read was asked for meanwhile, all of it.
    afresh: bool,
    /// When the next stretch may begin.
    not_before: Option<Instant>,
    /// Sessions whose last stretch failed, and when they may be tried again.
    aside: BTreeMap<SessionId, Instant>,
    mending: Option<SessionId>,
    /// When to ask others for what is lost.
    mend_at: BTreeSet<(Instant, SessionId)>,
    found: VecDeque<(Kind, Instant)>,
    /// The alarm that was raised by the findings up to this moment.
    alarm: Option<Instant>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Known {
    due: Instant,
    next: Option<Cursor>,
    tries: u32,
    mend_at: Option<Instant>,
}

impl Scrub {
    /// For node `me`.
    pub fn new(me: NodeId, dice: Dice) -> Scrub {
        Scrub {
            me,
            dice,
            sessions: BTreeMap::new(),
            due: BTreeSet::new(),
            asked: VecDeque::new(),
            unmended: BTreeSet::new(),
            live: false,
            reading: None,
            afresh: false,
            not_before: None,
            aside: BTreeMap::new(),
            mending: None,
            mend_at: BTreeSet::new(),
            found: VecDeque::new(),
            alarm: None,
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Stored { session, age, next, lost } => {
                // What is overdue is so by as much; an age that no clock of this machine can say is as good as now.
                let due = now.checked_sub(age).map_or(now, |read| read + self.span(&session));
                let known = self.sessions.entry(session).or_insert(Known { due, next, tries: 0, mend_at: None });
                self.due.remove(&(known.due, session));
                known.due = due;
                if self.reading != Some(session) {
                    known.next = next;
                }
                if !self.asked.contains(&session) {
                    self.due.insert((due, session));
                }
                self.lose(now, session, lost);
            }
            Input::Found { kind, age } => self.find(now, kind, age),
            Input::Live { live } => self.live = live,
            Input::Now { session } => {
                let wanted: Vec<SessionId> = match session {
                    Some(session) => vec![session],
                    None => self.oldest_first(),
                };
                for session in wanted {
                    let Some(known) = self.sessions.get_mut(&session) else { continue };
                    self.due.remove(&(known.due, session));
                    self.aside.remove(&session);
                    if !self.asked.contains(&session) {
                        // All of it, wherever the slow reading was.
                        known.next = None;
                        self.afresh |= self.reading == Some(session);
                        self.asked.push_back(session);
                        self.unmended.insert(session);
                    }
                }
                self.not_before = None;
            }
            Input::Read { session, stretch } => self.read(now, session, stretch),
            Input::Mended { session, lost } => {
                self.mending = self.mending.filter(|mending| *mending != session);
                if !self.asked.contains(&session) {
                    self.unmended.remove(&session);
                }
                let pause = self.sessions.get_mut(&session).map(|known| {
                    known.tries = if lost { known.tries.saturating_add(1) } else { 0 };
                    self.dice.pause(&session, &self.me, known.tries)
                });
                if let Some(pause) = pause.filter(|_| lost) {
                    self.put_mend(session, Some(now + pause));
                }
            }
            Input::Up { .. } => {
                let waiting: Vec<SessionId> = self.mend_at.iter().map(|(_, session)| *session).collect();
                waiting.into_iter().for_each(|session| self.put_mend(session, Some(now)));
            }
            Input::Tick => {}
        }
        self.work(now);
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let read = if self.live || self.reading.is_some() {
            None
        } else if self.asked.iter().any(|session| !self.aside.contains_key(session)) {
            self.not_before
        } else {
            let due = self.due.iter().find(|(_, session)| !self.aside.contains_key(session)).map(|(at, _)| *at);
            let first = due.into_iter().chain(self.aside.values().copied()).min();
            first.map(|at| self.not_before.map_or(at, |not| not.max(at)))
        };
        let mend = self.mend_at.first().map(|(at, _)| *at).filter(|_| self.mending.is_none());
        [read, mend].into_iter().flatten().min()
    }

    /// How it stands.
    pub fn view(&self, now: Instant) -> View {
        let asked = self.asked.iter().chain(&self.unmended).collect::<BTreeSet<_>>().len();
        let next = self.asked.front().is_some() || self.due.first().is_some_and(|(at, _)| *at <= now);
        View {
            reading: self.reading.or_else(|| self.asked.front().copied()),
            paused: self.live && next,
            asked,
            alarm: self.alarm.is_some_and(|at| now.saturating_duration_since(at) < ALARM_STANDS),
        }
    }

    /// In how long each session will be read, if nobody asks for it earlier.
    pub fn all_due(&self, now: Instant) -> BTreeMap<SessionId, Duration> {
        let due = |known: &Known| known.due.saturating_duration_since(now);
        self.sessions.iter().map(|(session, known)| (*session, due(known))).collect()
    }

    /// From one reading of a session to the next.
    fn span(&self, session: &SessionId) -> Duration {
        EVERY_LEAST + self.dice.part(EVERY_SPREAD, session, &self.me, 0)
    }

    fn oldest_first(&self) -> Vec<SessionId> {
        let mut all: Vec<_> = self.sessions.iter().map(|(session, known)| (known.due, *session)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, session)| session).collect()
    }

    fn find(&mut self, now: Instant, kind: Kind, age: Duration) {
        // What is older than this machine's clock can say was found long ago.
        let Some(at) = now.checked_sub(age) else { return };
        self.found.push_back((kind, at));
        if self.found.len() > FOUND_MAX {
            self.found.pop_front();
        }
        let near = |other: &Instant| at.max(*other).saturating_duration_since(at.min(*other)) < ALARM_WITHIN;
        let bad = self.found.iter().filter(|(_, other)| near(other)).count();
        if kind == Kind::Grave || bad >= BAD_MAX {
            self.alarm = self.alarm.max(Some(at));
        }
    }

    fn read(&mut self, now: Instant, session: SessionId, stretch: Option<Stretch>) {
        if self.reading != Some(session) {
            return;
        }
        self.reading = None;
        let asked = self.asked.contains(&session);
        let Some(Stretch { bytes, next, lost }) = stretch else {
            (self.not_before, self.afresh) = (Some(now + AGAIN), false);
            self.aside.insert(session, now + ASIDE);
            return;
        };
        let pause = Duration::from_secs_f64(bytes as f64 / PACE as f64);
        self.not_before = if asked { None } else { Some(now + pause) };
        let due = now + self.span(&session);
        let Some(known) = self.sessions.get_mut(&session) else { return };
        if std::mem::take(&mut self.afresh) {
            known.next = None;
            return self.lose(now, session, lost);
        }
        known.next = next;
        if next.is_none() {
            self.due.remove(&(known.due, session));
            known.due = due;
            self.due.insert((due, session));
            self.asked.retain(|other| *other != session);
            if !lost {
                self.unmended.remove(&session);
            }
        }
        self.lose(now, session, lost);
    }

    /// Groups of a session are lost, or not any more.
    fn lose(&mut self, now: Instant, session: SessionId, lost: bool) {
        let Some(known) = self.sessions.get(&session) else { return };
        match (lost, known.mend_at) {
            (true, None) if self.mending != Some(session) => self.put_mend(session, Some(now)),
            (false, Some(_)) => self.put_mend(session, None),
            (true, _) | (false, None) => {}
        }
    }

    fn put_mend(&mut self, session: SessionId, at: Option<Instant>) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.mend_at.take().map(|before| self.mend_at.remove(&(before, session)));
        known.mend_at = at;
        self.mend_at.extend(at.map(|at| (at, session)));
    }

    fn work(&mut self, now: Instant) {
        if self.mending.is_none()
            && let Some(&(_, session)) = self.mend_at.first().filter(|(at, _)| *at <= now)
        {
            self.put_mend(session, None);
            self.mending = Some(session);
            self.outbox.push_back(Output::Mend { session });
        }
        if self.live || self.reading.is_some() || self.not_before.is_some_and(|at| at > now) {
            return;
        }
        self.aside.retain(|_, until| *until > now);
        let is_aside = |session: &SessionId| self.aside.contains_key(session);
        let asked = self.asked.iter().copied().find(|session| !is_aside(session));
        let due = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, session)| *session);
        let Some(session) = asked.or_else(|| due.into_iter().find(|session| !is_aside(session))) else { return };
        let from = self.sessions.get(&session).and_then(|known| known.next);
        self.reading = Some(session);
        self.outbox.push_back(Output::Read { session, from, bytes: STRETCH });
    }
}

#[cfg(test)]
mod tests;
