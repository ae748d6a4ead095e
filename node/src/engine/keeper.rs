//! Keeps central's record whole: finds which groups are missing, says so once, and has them fetched from their origin.
//!
//! Live may skip, the record may not. A slow line loses the tail of a group, a broken one loses minutes, and none of it
//! is gone: the origin stored every group before it sent it. So a missing group is work, not damage, and this part
//! knows the work that is left.
//!
//! The obvious way, asking for a group the moment its number is skipped, asks too early: groups of one track travel on
//! streams of their own and overtake each other, and a question about a group the origin has not closed yet is
//! answered "not here", which would read as lost. So everything rests on one notion, *complete at the source*: a group
//! is complete once a later one of its track has begun, or once its origin has named its last one. [`GRACE`] after that
//! moment a group we do not hold is a gap: it goes into the journal once and is fetched. Only an origin that has not
//! got a group [`SETTLED`] after it was complete has lost it.
//!
//! Fetches go one at a time per origin, sound before picture, backing off while they fail, and never to an origin that
//! is away. A gap's reason is what was seen: groups whose time passed while their origin was out of reach were lost with
//! the line, and what did not come although it was connected was left out by it. Nothing here is sized by what a peer says: numbers are kept as runs, and a number far beyond the last one
//! known is ignored.

pub(crate) mod runs;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use store::id::{NodeId, TrackId};

use self::runs::Runs;

/// How long after it was complete at the source a live group may still be on its way: a resend over a bad line, a
/// batch in the vault.
pub const GRACE: Duration = Duration::from_secs(3);

/// How long after it was complete at the source "not here" from its origin is believed. Stored before sent, a group
/// is on its origin's disk when the next one begins; this leaves room for a disk that hangs.
pub const SETTLED: Duration = Duration::from_secs(10);

/// First and longest pause after a fetch that brought nothing.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// See [`BACKOFF_MIN`].
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Groups asked for at once: two minutes of one track, so that sound gets its turn after two minutes of picture.
const FETCH_GROUPS_MAX: u64 = 64;

/// Bytes of one answer, a few seconds of an office uplink. A single larger group still comes, alone.
const FETCH_BYTES_MAX: u64 = 4 << 20;

/// Fetches under way at once, all origins together: central's downlink carries the live session first.
const FETCHES_MAX: usize = 4;

/// A number this far above the last known one is a lie or a fault: eight days of groups that last two seconds.
const JUMP_MAX: u64 = 350_000;

/// Separate runs of numbers kept per track. A hole every other group for nine hours; beyond it a track keeps its
/// state and learns nothing new until it is built again from the archive.
const RUNS_MAX: usize = 8_192;

/// Marks closer together than this become one, which bounds their number.
const MARK_APART: Duration = Duration::from_secs(1);

/// What the keeper is told. Group numbers in pairs include both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This track belongs to the record.
    Track {
        /// The track.
        track: TrackId,
        /// Who makes it, and is asked for it.
        origin: NodeId,
    },
    /// These groups were stored before this keeper began. Holes between them wait until their origin can be asked, for it
    /// may say that it never used those numbers.
    Held {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// These groups were stored before this keeper began, and our disk has lost them.
    Gone {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// The journal names this gap already.
    Told {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Whether it says that the origin has lost them.
        lost: bool,
    },
    /// A live group began to arrive.
    Began {
        /// The track.
        track: TrackId,
        /// Its number.
        seq: u64,
    },
    /// A group that began to arrive is not to be had any more but by a fetch.
    Broke {
        /// The track.
        track: TrackId,
        /// Its number.
        seq: u64,
        /// What it broke by.
        cut: Cut,
    },
    /// A group is on our disk.
    Stored {
        /// The track.
        track: TrackId,
        /// Its number.
        seq: u64,
    },
    /// The origin never used these numbers. Not believed of groups this keeper saw begin, or the journal calls missing.
    Unused {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// The origin says that this was its last group, stored like all before it.
    Finished {
        /// The track.
        track: TrackId,
        /// Number of the last group; `None` when there never was one.
        last: Option<u64>,
    },
    /// An origin can be asked, or no longer.
    Reachable {
        /// The origin.
        origin: NodeId,
        /// Whether it can be asked.
        reachable: bool,
    },
    /// A fetch is over. What it brought was stored, and told here, before.
    Fetched {
        /// Whom we asked.
        origin: NodeId,
        /// Numbers the origin says it has not got; `None` when there was no complete answer.
        missing: Option<Vec<u64>>,
    },
    /// No more waiting for late groups: what is missing now is a gap now. For the last moment before the end.
    Reckon,
    /// Time passed.
    Tick,
}

/// What a group broke by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its sender gave it up for a slow line, and said so.
    LeftOut,
    /// The stream ended early without such a word: with its connection, or by a fault.
    Line,
    /// It came, and our disk did not take it.
    NotStored,
}

/// What the keeper wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write into the journal that these groups are missing.
    Gap {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Why.
        reason: Reason,
    },
    /// Write into the journal that these groups, once told missing, are here.
    Repaired {
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
    },
    /// Ask an origin for these groups, store them, and answer with [`Input::Fetched`].
    Fetch {
        /// Whom to ask.
        origin: NodeId,
        /// The track.
        track: TrackId,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// Longest answer in bytes.
        max_bytes: u64,
    },
}

/// Why groups are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Their origin was connected and did not send them, or not to their end: its line is too slow.
    LeftOut,
    /// Their origin was out of reach.
    OutOfReach,
    /// They came, and our disk did not take them.
    NotStored,
    /// They were stored, and our disk has lost them.
    Gone,
    /// Their origin has not got them either. Final.
    LostAtSource,
}

/// What is known of one track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Groups on our disk.
    pub held: u64,
    /// Groups known to exist, or to have existed, that are not.
    pub missing: u64,
    /// Those of the missing that a fetch under way asks for.
    pub fetching: u64,
    /// Groups their origin has lost.
    pub lost: u64,
    /// Whether the origin has named its last group.
    pub finished: bool,
}

/// The keeper of one session's record.
#[derive(Debug, Default)]
pub struct Keeper {
    tracks: BTreeMap<TrackId, Track>,
    origins: BTreeMap<NodeId, Origin>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Track {
    origin: NodeId,
    /// On our disk, lost at the source, or never used: nothing left to do.
    done: Runs,
    lost: Runs,
    unused: Runs,
    /// In the journal as missing and not yet repaired.
    told: Runs,
    /// Told missing, here since, not yet in the journal as repaired.
    mended: Runs,
    /// Given up by their sender for a slow line.
    left_out: Runs,
    /// Not taken by our disk.
    unwritten: Runs,
    /// Stored once, and lost by our disk.
    gone: Runs,
    /// Missed while their origin was out of reach.
    missed: Runs,
    /// The first number that can have been missed since the origin is out of reach; `None` once something came again.
    away_from: Option<u64>,
    /// Seen to begin by this keeper and not stored.
    begun: Runs,
    /// Every hole below this number was told.
    told_below: u64,
    /// Highest number seen to begin or stored.
    newest: Option<u64>,
    /// When which numbers were complete at the source; both rise.
    marks: VecDeque<Mark>,
    finished: bool,
    /// Taken up from an archive, and its origin has not been heard since: holes may be numbers it never used.
    unsure: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// All numbers below this one are complete.
    below: u64,
}

#[derive(Debug, Default)]
struct Origin {
    reachable: bool,
    busy: Option<Asked>,
    /// Where the next search begins, so that a group that never comes does not hold up the others.
    resume: Option<(TrackId, u64)>,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    track: TrackId,
    from: u64,
    to: u64,
    /// Numbers of the range that were still to be had when we asked.
    open: u64,
}

impl Keeper {
    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Track { track, origin } => {
                self.tracks.entry(track).or_insert_with(|| Track::new(origin));
                self.origins.entry(origin).or_default();
            }
            Input::Held { track, from, to } => self.with(track, |state| {
                if from <= to {
                    // Told missing by an earlier run that ended before it could tell that they came.
                    while let Some((from, to)) = state.told.first_run(from, to) {
                        state.told.remove(from, to);
                        state.mended.insert(from, to);
                    }
                    state.done.insert(from, to);
                    state.newest = state.newest.max(Some(to));
                    state.unsure = true;
                }
            }),
            Input::Gone { track, from, to } => self.with(track, |state| {
                if from <= to && state.gone.len() < RUNS_MAX {
                    state.gone.insert(from, to);
                    state.newest = state.newest.max(Some(to));
                    state.unsure = true;
                }
            }),
            Input::Told { track, from, to, lost } => self.with(track, |state| {
                if lost {
                    state.lost.insert(from, to);
                    state.done.insert(from, to);
                    state.told.remove(from, to);
                } else {
                    state.told.insert(from, to);
                }
                state.newest = state.newest.max(Some(to));
            }),
            Input::Began { track, seq } => self.with(track, |state| state.began(now, seq)),
            Input::Broke { track, seq, cut } => self.with(track, |state| {
                let runs = match cut {
                    Cut::LeftOut => &mut state.left_out,
                    Cut::NotStored => &mut state.unwritten,
                    Cut::Line => return,
                };
                if state.begun.contains(seq) && runs.len() < RUNS_MAX {
                    runs.insert(seq, seq);
                }
            }),
            Input::Stored { track, seq } => self.stored(now, track, seq),
            Input::Unused { track, from, to } => self.with(track, |state| state.never_used(from, to)),
            Input::Finished { track, last } => self.with(track, |state| {
                // A group that was seen to begin after the last one was cut short at its source.
                let last = last.filter(|last| state.plausible(*last)).max(state.newest);
                if let Some(last) = last {
                    state.complete_below(now, last.saturating_add(1));
                }
                state.finished = true;
            }),
            Input::Reachable { origin, reachable } => {
                if let Some(state) = self.origins.get_mut(&origin)
                    && state.reachable != reachable
                {
                    state.reachable = reachable;
                    state.failures = 0;
                    state.not_before = None;
                }
                for state in self.tracks.values_mut().filter(|state| state.origin == origin) {
                    match reachable {
                        true if std::mem::take(&mut state.unsure) => {
                            state.complete_below(now, state.newest.map_or(0, |newest| newest.saturating_add(1)));
                        }
                        true => {}
                        false => state.out_of_reach(),
                    }
                }
            }
            Input::Fetched { origin, missing } => self.fetched(now, origin, missing),
            Input::Reckon => {
                for (track, state) in &mut self.tracks {
                    let marked = state.marks.back().map_or(0, |mark| mark.below);
                    let below = state.newest.filter(|_| state.unsure).map_or(marked, |newest| marked.max(newest));
                    state.tell(*track, below, &mut self.outbox);
                }
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
        let slots = self.origins.values().filter(|origin| origin.busy.is_some()).count() < FETCHES_MAX;
        self.tracks
            .values()
            .filter_map(|track| {
                let falls_due = track.next_due();
                let origin = self.origins.get(&track.origin)?;
                let retry = match (slots && origin.reachable && origin.busy.is_none(), origin.not_before) {
                    (true, Some(at)) if track.has_hole_told() => Some(at),
                    _ => None,
                };
                [falls_due, retry].into_iter().flatten().min()
            })
            .min()
    }

    /// Whether everything known to have existed is here or lost, and everyone of whom we hold anything has named the
    /// last group of each track.
    pub fn is_whole(&self) -> bool {
        self.tracks.values().all(Track::is_whole)
    }

    /// The same for the tracks of one origin.
    pub fn is_whole_of(&self, origin: NodeId) -> bool {
        self.tracks.values().filter(|track| track.origin == origin).all(Track::is_whole)
    }

    /// What is known of each track.
    pub fn standing(&self) -> BTreeMap<TrackId, Standing> {
        self.tracks
            .iter()
            .map(|(&id, track)| {
                let lost = track.lost.count();
                let here = track.done.count() - lost - track.unused.count();
                let missing = track.holes();
                let asked = self.origins.get(&track.origin).and_then(|origin| origin.busy);
                let fetching = asked.filter(|asked| asked.track == id).map_or(0, |asked| asked.open);
                (id, Standing { held: here, missing, fetching, lost, finished: track.finished })
            })
            .collect()
    }

    /// The first group number of an origin above all that are known to have begun.
    pub fn next_of(&self, origin: NodeId) -> u64 {
        let tracks = self.tracks.values().filter(|track| track.origin == origin);
        tracks.filter_map(|track| track.newest).max().map_or(0, |newest| newest.saturating_add(1))
    }

    fn with(&mut self, track: TrackId, change: impl FnOnce(&mut Track)) {
        if let Some(state) = self.tracks.get_mut(&track)
            && state.done.len() < RUNS_MAX
        {
            change(state);
        }
    }

    fn stored(&mut self, now: Instant, id: TrackId, seq: u64) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        if !track.plausible(seq) {
            return;
        }
        track.began(now, seq);
        track.done.insert(seq, seq);
        if track.lost.contains(seq) {
            // It was called lost, and is not.
            track.lost.remove(seq, seq);
            track.mended.insert(seq, seq);
        }
        track.unused.remove(seq, seq);
        track.settle(seq, seq);
        track.begun.remove(seq, seq);
        if track.told.contains(seq) {
            track.told.remove(seq, seq);
            track.mended.insert(seq, seq);
        }
    }

    fn fetched(&mut self, now: Instant, origin: NodeId, missing: Option<Vec<u64>>) {
        let Some(state) = self.origins.get_mut(&origin) else { return };
        let Some(asked) = state.busy.take() else { return };
        let Some(track) = self.tracks.get_mut(&asked.track) else { return };
        if let Some(missing) = &missing {
            let settled = track.complete_at(now.checked_sub(SETTLED));
            let mut lost = Runs::default();
            for &seq in missing {
                if (asked.from..=asked.to).contains(&seq) && seq < settled && !track.done.contains(seq) {
                    lost.insert(seq, seq);
                }
            }
            for (from, to) in lost.iter() {
                track.done.insert(from, to);
                track.lost.insert(from, to);
                track.told.remove(from, to);
                track.settle(from, to);
                self.outbox.push_back(Output::Gap { track: asked.track, from, to, reason: Reason::LostAtSource });
            }
        }
        let left = self.tracks.get(&asked.track).map_or(0, |track| track.open_in(asked.from, asked.to));
        if missing.is_some() && left < asked.open {
            // An answer may end early at its limit of bytes; the rest of the range comes first.
            state.resume = Some((asked.track, asked.from));
            state.failures = 0;
            state.not_before = None;
        } else {
            let pause = BACKOFF_MIN.saturating_mul(1 << state.failures.min(6)).min(BACKOFF_MAX);
            state.failures = state.failures.saturating_add(1);
            state.not_before = Some(now + pause);
        }
    }

    /// Tells what has become a gap and what is no gap any more, and asks for what may be asked for. While a fetch runs,
    /// repairs are gathered so that the journal gets one line for it.
    fn work(&mut self, now: Instant) {
        for (&id, track) in &mut self.tracks {
            if self.origins.get(&track.origin).is_none_or(|origin| origin.busy.is_none()) {
                track.tell_mended(id, &mut self.outbox);
            }
        }
        for (id, track) in self.tracks.iter_mut().filter(|(_, track)| !track.unsure) {
            let due = track.complete_at(now.checked_sub(GRACE));
            track.tell(*id, due, &mut self.outbox);
        }
        let mut busy = self.origins.values().filter(|origin| origin.busy.is_some()).count();
        for (&node, origin) in &mut self.origins {
            let waits = origin.not_before.is_some_and(|at| at > now);
            if busy >= FETCHES_MAX || !origin.reachable || origin.busy.is_some() || waits {
                continue;
            }
            let Some(asked) = next_hole(&self.tracks, node, origin.resume) else { continue };
            origin.busy = Some(asked);
            origin.resume = asked.to.checked_add(1).map(|next| (asked.track, next));
            origin.not_before = None;
            busy += 1;
            self.outbox.push_back(Output::Fetch {
                origin: node,
                track: asked.track,
                from: asked.from,
                to: asked.to,
                max_bytes: FETCH_BYTES_MAX,
            });
        }
    }
}

/// The first told hole of `node` at or after `resume`, else the first of all.
fn next_hole(tracks: &BTreeMap<TrackId, Track>, node: NodeId, resume: Option<(TrackId, u64)>) -> Option<Asked> {
    let search = |from: Option<(TrackId, u64)>| {
        tracks.iter().filter(|(_, track)| track.origin == node).find_map(|(&id, track)| {
            let start = match from {
                Some((first, _)) if id < first => return None,
                Some((first, seq)) if id == first => seq,
                _ => 0,
            };
            let (from, to) = track.hole_from(start)?;
            let to = to.min(from.saturating_add(FETCH_GROUPS_MAX - 1));
            Some(Asked { track: id, from, to, open: track.open_in(from, to) })
        })
    };
    search(resume).or_else(|| resume.and_then(|_| search(None)))
}

impl Track {
    fn new(origin: NodeId) -> Track {
        Track {
            origin,
            done: Runs::default(),
            lost: Runs::default(),
            unused: Runs::default(),
            told: Runs::default(),
            mended: Runs::default(),
            left_out: Runs::default(),
            unwritten: Runs::default(),
            gone: Runs::default(),
            missed: Runs::default(),
            away_from: Some(0),
            begun: Runs::default(),
            told_below: 0,
            newest: None,
            marks: VecDeque::new(),
            finished: false,
            unsure: false,
        }
    }

    fn plausible(&self, seq: u64) -> bool {
        let known = self.marks.back().map_or(0, |mark| mark.below).max(self.newest.unwrap_or(0));
        seq <= known.saturating_add(JUMP_MAX)
    }

    fn began(&mut self, now: Instant, seq: u64) {
        if self.plausible(seq) {
            if let Some(from) = self.away_from.filter(|from| seq >= *from) {
                self.away_from = None;
                if from < seq && self.missed.len() < RUNS_MAX {
                    self.missed.insert(from, seq - 1);
                }
            }
            self.newest = self.newest.max(Some(seq));
            self.complete_below(now, seq);
            if self.begun.len() < RUNS_MAX && !self.done.contains(seq) {
                self.begun.insert(seq, seq);
            }
        }
    }

    /// The origin is out of reach: what began to arrive and did not end ends here, and what comes next is missed, until
    /// something begins again.
    fn out_of_reach(&mut self) {
        for (from, to) in self.begun.iter() {
            if self.missed.len() < RUNS_MAX {
                self.missed.insert(from, to);
            }
        }
        for (from, to) in self.left_out.iter().chain(self.unwritten.iter()) {
            self.missed.remove(from, to);
        }
        let next = self.newest.map_or(0, |newest| newest.saturating_add(1));
        self.away_from = Some(self.away_from.map_or(next, |from| from.min(next)));
    }

    /// Why these numbers are missing is of no interest any more.
    fn settle(&mut self, from: u64, to: u64) {
        for runs in [&mut self.left_out, &mut self.unwritten, &mut self.gone, &mut self.missed] {
            runs.remove(from, to);
        }
    }

    /// Why the number `seq` is missing, and the last one up to `last` of which the same can be said.
    fn reason(&self, seq: u64, last: u64) -> (Reason, u64) {
        let known =
            [(&self.gone, Reason::Gone), (&self.unwritten, Reason::NotStored), (&self.missed, Reason::OutOfReach)];
        let mut end = last;
        for (runs, reason) in known {
            match runs.first_run(seq, end) {
                Some((first, last)) if first == seq => return (reason, last),
                Some((first, _)) => end = first - 1,
                None => {}
            }
        }
        match self.away_from {
            Some(away) if seq >= away => (Reason::OutOfReach, end),
            Some(away) => (Reason::LeftOut, end.min(away - 1)),
            None => (Reason::LeftOut, end),
        }
    }

    /// All numbers below `below` are complete at the source as of `now`.
    fn complete_below(&mut self, now: Instant, below: u64) {
        let count = self.marks.len();
        match self.marks.back() {
            Some(last) if below <= last.below => return,
            // The later time stands for both: waiting a little longer is harmless, asking too early is not. Measured
            // from the mark before, so that numbers that come quickly cannot put it off for ever.
            Some(last) if count > 1 && last.at.saturating_duration_since(self.marks[count - 2].at) < MARK_APART => {
                self.marks[count - 1] = Mark { at: now, below };
            }
            _ => self.marks.push_back(Mark { at: now, below }),
        }
        // Older than any horizon, only the newest of the old ones says something.
        while self.marks.len() > 1 && now.saturating_duration_since(self.marks[1].at) >= SETTLED {
            self.marks.pop_front();
        }
    }

    /// Below which number everything was complete at `moment`.
    fn complete_at(&self, moment: Option<Instant>) -> u64 {
        let Some(moment) = moment else { return 0 };
        self.marks.iter().rev().find(|mark| mark.at <= moment).map_or(0, |mark| mark.below)
    }

    fn never_used(&mut self, from: u64, to: u64) {
        if !self.plausible(to) {
            return;
        }
        let mut kept = self.begun.clone();
        self.told.iter().for_each(|(first, last)| kept.insert(first, last));
        let mut from = from;
        while let Some((first, last)) = self.done.first_gap(from, to) {
            let mut cursor = first;
            while let Some((first, last)) = kept.first_gap(cursor, last) {
                self.unused.insert(first, last);
                self.done.insert(first, last);
                let Some(next) = last.checked_add(1) else { return };
                cursor = next;
            }
            let Some(next) = last.checked_add(1) else { return };
            from = next;
        }
    }

    /// Tells every hole below `below` that was not told yet.
    fn tell(&mut self, id: TrackId, below: u64, outbox: &mut VecDeque<Output>) {
        let mut from = self.told_below;
        while from < below {
            let Some((first, last)) = self.done.first_gap(from, below - 1) else { break };
            let mut cursor = first;
            while let Some((first, last)) = self.told.first_gap(cursor, last) {
                let (reason, last) = self.reason(first, last);
                self.told.insert(first, last);
                outbox.push_back(Output::Gap { track: id, from: first, to: last, reason });
                cursor = last + 1;
            }
            self.settle(first, last);
            from = last + 1;
        }
        self.told_below = self.told_below.max(below);
    }

    fn tell_mended(&mut self, id: TrackId, outbox: &mut VecDeque<Output>) {
        if self.mended.is_empty() {
            return;
        }
        outbox.extend(self.mended.iter().map(|(from, to)| Output::Repaired { track: id, from, to }));
        self.mended.clear();
    }

    /// The first hole at or after `start` that was told.
    fn hole_from(&self, start: u64) -> Option<(u64, u64)> {
        let last = self.told_below.checked_sub(1)?;
        self.done.first_gap(start, last)
    }

    fn has_hole_told(&self) -> bool {
        self.hole_from(0).is_some()
    }

    /// When the next hole becomes a gap.
    fn next_due(&self) -> Option<Instant> {
        if self.unsure {
            return None;
        }
        self.marks
            .iter()
            .find(|mark| mark.below > self.told_below && self.done.first_gap(self.told_below, mark.below - 1).is_some())
            .map(|mark| mark.at + GRACE)
    }

    /// How many numbers of `from..=to` are still to be had.
    fn open_in(&self, from: u64, to: u64) -> u64 {
        let (mut open, mut cursor) = (0u64, from);
        while let Some((first, last)) = self.done.first_gap(cursor, to) {
            open = open.saturating_add((last - first).saturating_add(1));
            let Some(next) = last.checked_add(1) else { break };
            cursor = next;
        }
        open
    }

    fn holes(&self) -> u64 {
        match self.marks.back().and_then(|mark| mark.below.checked_sub(1)) {
            Some(last) => self.open_in(0, last),
            None => 0,
        }
    }

    fn is_whole(&self) -> bool {
        let idle = self.newest.is_none() && self.marks.is_empty();
        idle || (self.finished && self.holes() == 0)
    }
}

#[cfg(test)]
mod tests;
