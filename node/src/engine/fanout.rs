//! Who gets which bytes of which group, when, and what is given up.
//!
//! A group in the air is one append-only log, shared by all. Each neighbour that wants it has a *flow*: a stream and a
//! position in the log. So a slow neighbour costs a number, not a queue, a newcomer starts at the log's beginning,
//! which is the keyframe, and nothing is copied. This part decides; the shell opens streams and writes.
//!
//! Sound goes at once. Pictures go as the line's bucket allows (`rate`), the most important first. When the delay
//! gate fires, or a group is still far behind when the next begins, the camera's group is given up and the low layer
//! takes its place for some groups: layers of a point share group numbers, so the change falls on a boundary.
//! Dropping old groups repairs the picture only; sound stays on time because pictures are held below what the line
//! carries.
//!
//! The three verbs are those of every engine, with one rule for the shell: when the transport took fewer bytes than
//! were asked, it says so (`Input::Held`) after draining `poll` and before anything else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{PointNumber, SessionId, TrackId, TrackKind};

use super::rate::{Gate, Line, Path, SLICE_MIN};
use crate::wire::media::Reset;

/// How many groups the low layer is sent after the gate fired: 8 s, long enough for a full queue to drain.
const LOW_GROUPS: u8 = 4;
/// Time between two looks at what the bucket held back.
const TICK: Duration = Duration::from_millis(10);
/// A picture's group may go on for so long after the next began.
const PICTURE_LATE: Duration = Duration::from_millis(500);
/// A picture's group that is this far behind when the next begins is given up at once.
const PICTURE_BEHIND: Duration = Duration::from_millis(250);
/// Sound may go on for so long after the next group began: it is given up last, and never before 1 s.
const SOUND_LATE: Duration = Duration::from_secs(2);
/// Transport priorities leave room between two of ours, to put an old group before or behind its successor.
const PRIORITY_STEP: i32 = 4;
/// Most subscriptions of one neighbour: every track of a full session.
const SUBSCRIPTIONS_MAX: usize = crate::wire::media::TRACKS_MAX;

/// A neighbour's number, given by the shell.
pub type LaneId = usize;
/// A group's number while it is in the air, given by the shell.
pub type LiveId = u64;
/// A stream's number, given by this part and used again after it ended.
pub type Slot = usize;
/// One track of one session.
pub type Track = (SessionId, TrackId);

/// What became of a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// More may come.
    Open,
    /// Its end record is in the log.
    Whole,
    /// It will never be whole here.
    Broken,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A neighbour is connected; its line is thought to carry `estimate` bits per second.
    Up {
        lane: LaneId,
        estimate: u64,
    },
    Down {
        lane: LaneId,
    },
    Subscribe {
        lane: LaneId,
        track: Track,
        priority: u8,
    },
    Unsubscribe {
        lane: LaneId,
        track: Track,
    },
    /// A group began.
    Opened {
        live: LiveId,
        track: Track,
        seq: u64,
    },
    /// Its log is now `len` bytes long.
    Grew {
        live: LiveId,
        len: usize,
        fate: Fate,
    },
    /// The transport took bytes only up to `sent`.
    Held {
        lane: LaneId,
        live: LiveId,
        sent: usize,
    },
    /// The neighbour or the transport refused the stream.
    Refused {
        lane: LaneId,
        live: LiveId,
    },
    Path {
        lane: LaneId,
        path: Path,
    },
    Probed {
        lane: LaneId,
        bits: u64,
    },
    /// The session is over: forget its tracks.
    Closed {
        session: SessionId,
    },
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a stream for this group.
    Start {
        lane: LaneId,
        live: LiveId,
        slot: Slot,
        priority: i32,
    },
    /// Write these bytes of its log.
    Send {
        lane: LaneId,
        live: LiveId,
        slot: Slot,
        from: usize,
        to: usize,
    },
    /// All was written and the group is whole.
    Finish {
        slot: Slot,
    },
    Reset {
        slot: Slot,
        code: Reset,
    },
    Priority {
        slot: Slot,
        priority: i32,
    },
    /// Nobody needs the log any more.
    Drop {
        live: LiveId,
    },
    /// Somebody wants this track, or nobody does.
    Want {
        track: Track,
        wanted: bool,
    },
    /// A neighbour goes without this group; the record keeps it.
    Shed {
        lane: LaneId,
        track: Track,
        seq: u64,
    },
    /// What the line to a neighbour carries changed, bits per second.
    Budget {
        lane: LaneId,
        bits: u64,
    },
}

#[derive(Debug)]
struct Lane {
    line: Line,
    subscriptions: BTreeMap<Track, u8>,
    /// Cameras sent in the low layer, and for how many more groups.
    low: BTreeMap<(SessionId, PointNumber), u8>,
    /// Groups with bytes waiting for the bucket or the transport.
    held: Vec<LiveId>,
    told: u64,
}

#[derive(Debug)]
struct Group {
    track: Track,
    seq: u64,
    len: usize,
    fate: Fate,
    /// When the next group of the track began.
    succeeded: Option<Instant>,
    flows: Vec<Flow>,
}

#[derive(Debug)]
struct Flow {
    lane: LaneId,
    slot: Slot,
    sent: usize,
    priority: i32,
    held: bool,
    finished: bool,
}

#[derive(Debug, Default)]
struct TrackState {
    subscribers: BTreeMap<LaneId, u8>,
    newest: Option<LiveId>,
}

/// The fan-out of one node.
#[derive(Debug, Default)]
pub struct Fanout {
    lanes: BTreeMap<LaneId, Lane>,
    tracks: BTreeMap<Track, TrackState>,
    groups: BTreeMap<LiveId, Group>,
    wanted: BTreeSet<Track>,
    slots_used: usize,
    slots_free: Vec<Slot>,
    /// Groups with a finished flow, to be cleared once the shell had its say.
    finished: Vec<LiveId>,
    next_tick: Option<Instant>,
    outbox: VecDeque<Output>,
}

impl Fanout {
    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if !matches!(input, Input::Held { .. }) {
            self.clear_finished();
        }
        match input {
            Input::Up { lane, estimate } => self.up(now, lane, estimate),
            Input::Down { lane } => self.down(lane),
            Input::Subscribe { lane, track, priority } => self.subscribe(now, lane, track, priority),
            Input::Unsubscribe { lane, track } => self.unsubscribe(lane, track),
            Input::Opened { live, track, seq } => self.opened(now, live, track, seq),
            Input::Grew { live, len, fate } => self.grew(now, live, len, fate),
            Input::Held { lane, live, sent } => self.hold(now, lane, live, sent),
            Input::Refused { lane, live } => self.refused(lane, live),
            Input::Path { lane, path } => self.path(now, lane, path),
            Input::Probed { lane, bits } => {
                if let Some(lane) = self.lanes.get_mut(&lane) {
                    lane.line.probed(now, bits);
                }
            }
            Input::Closed { session } => self.closed(session),
            Input::Tick => self.tick(now),
        }
    }

    /// What to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with `Tick`.
    pub fn deadline(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The delay of a neighbour's line, the bits per second it is thought to carry, and whether it is used live: whether
    /// anything flows there, as a session that is ending still has its subscribers and nothing for them.
    pub fn line(&self, id: LaneId) -> Option<(Duration, u64, bool)> {
        let lane = self.lanes.get(&id)?;
        let used = self.groups.values().any(|group| group.flows.iter().any(|flow| flow.lane == id));
        Some((lane.line.delay(), lane.line.estimate(), used))
    }

    fn up(&mut self, now: Instant, lane: LaneId, estimate: u64) {
        let line = Line::new(now, estimate);
        let fresh = Lane { line, subscriptions: BTreeMap::new(), low: BTreeMap::new(), held: Vec::new(), told: 0 };
        self.lanes.insert(lane, fresh);
    }

    fn down(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.remove(&id) else { return };
        for track in lane.subscriptions.keys() {
            if let Some(state) = self.tracks.get_mut(track) {
                state.subscribers.remove(&id);
            }
        }
        for group in self.groups.values_mut() {
            if let Some(at) = group.flows.iter().position(|flow| flow.lane == id) {
                let flow = group.flows.swap_remove(at);
                self.outbox.push_back(Output::Reset { slot: flow.slot, code: Reset::Broken });
                self.slots_free.push(flow.slot);
            }
        }
        for track in lane.subscriptions.into_keys() {
            self.reconsider(track);
            self.reconsider(thumb_of(track));
        }
        self.drop_unneeded();
    }

    fn subscribe(&mut self, now: Instant, id: LaneId, track: Track, priority: u8) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.subscriptions.len() >= SUBSCRIPTIONS_MAX && !lane.subscriptions.contains_key(&track) {
            return;
        }
        let known = lane.subscriptions.insert(track, priority).is_some();
        let state = self.tracks.entry(track).or_default();
        state.subscribers.insert(id, priority);
        let newest = state.newest;
        self.reconsider(track);
        // A newcomer gets the open group from its beginning, which is the keyframe.
        if let Some(live) = newest.filter(|_| !known) {
            self.start(now, id, live, priority);
        }
    }

    fn unsubscribe(&mut self, id: LaneId, track: Track) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.subscriptions.remove(&track);
        lane.low.remove(&(track.0, track.1.point()));
        if let Some(state) = self.tracks.get_mut(&track) {
            state.subscribers.remove(&id);
        }
        for group in self.groups.values_mut().filter(|group| group.track == track) {
            if let Some(at) = group.flows.iter().position(|flow| flow.lane == id) {
                let flow = group.flows.swap_remove(at);
                self.outbox.push_back(Output::Reset { slot: flow.slot, code: Reset::Unwanted });
                self.slots_free.push(flow.slot);
            }
        }
        self.reconsider(track);
        self.reconsider(thumb_of(track));
        self.drop_unneeded();
    }

    fn opened(&mut self, now: Instant, live: LiveId, track: Track, seq: u64) {
        let state = self.tracks.entry(track).or_default();
        let before = state.newest.replace(live);
        let subscribers: Vec<(LaneId, u8)> =
            state.subscribers.iter().map(|(lane, priority)| (*lane, *priority)).collect();
        let fresh = Group {
            track,
            seq,
            len: 0,
            fate: Fate::Open,
            succeeded: None,
            flows: Vec::with_capacity(subscribers.len()),
        };
        self.groups.insert(live, fresh);
        if let Some(before) = before {
            self.succeeded(now, before);
        }
        match track.1.kind() {
            TrackKind::Audio => {
                for (lane, priority) in subscribers {
                    self.start(now, lane, live, priority);
                }
            }
            TrackKind::Main => {
                for (lane, priority) in subscribers {
                    self.offer_main(now, lane, live, track, seq, priority);
                }
                self.reconsider(thumb_of(track));
            }
            TrackKind::Thumb => self.offer_thumb(now, live, track, subscribers),
            TrackKind::Screen => {
                for (lane, priority) in subscribers {
                    if self.lanes.get(&lane).is_some_and(|lane| lane.line.gate(now) < Gate::SoundOnly) {
                        self.start(now, lane, live, priority);
                    } else {
                        self.outbox.push_back(Output::Shed { lane, track, seq });
                    }
                }
            }
        }
    }

    /// A camera's group begins: the whole picture, or the low layer in its place.
    fn offer_main(&mut self, now: Instant, id: LaneId, live: LiveId, track: Track, seq: u64, priority: u8) {
        let yields = !self.has_lesser_camera(id, priority);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.line.group_passed(now);
        let gate = lane.line.gate(now);
        let camera = (track.0, track.1.point());
        let mut left = lane.low.remove(&camera).unwrap_or(0);
        if left == 0 && gate >= Gate::Low && yields {
            lane.line.fired();
            left = LOW_GROUPS;
        }
        if left == 0 {
            return self.start(now, id, live, priority);
        }
        lane.low.insert(camera, left - 1);
        self.outbox.push_back(Output::Shed { lane: id, track, seq });
        let thumb = self.tracks.get(&thumb_of(track)).and_then(|state| state.newest);
        let same = thumb.filter(|thumb| self.groups.get(thumb).is_some_and(|group| group.seq == seq));
        if let Some(thumb) = same.filter(|_| gate < Gate::SoundOnly) {
            self.start(now, id, thumb, priority);
        }
    }

    fn offer_thumb(&mut self, now: Instant, live: LiveId, track: Track, subscribers: Vec<(LaneId, u8)>) {
        let camera = (track.0, track.1.point());
        let main = main_of(track);
        let low = self.lanes.iter().filter(|(_, lane)| lane.low.contains_key(&camera));
        let in_place_of_main = low.filter_map(|(id, lane)| Some((*id, *lane.subscriptions.get(&main)?)));
        let mut takers: BTreeMap<LaneId, u8> = in_place_of_main.collect();
        takers.extend(subscribers);
        for (lane, priority) in takers {
            if self.lanes.get(&lane).is_some_and(|lane| lane.line.gate(now) < Gate::SoundOnly) {
                self.start(now, lane, live, priority);
            }
        }
    }

    /// Is there a camera on this lane that should give way first?
    fn has_lesser_camera(&self, id: LaneId, priority: u8) -> bool {
        let Some(lane) = self.lanes.get(&id) else { return false };
        lane.subscriptions.iter().any(|((session, track), other)| {
            track.kind() == TrackKind::Main && *other < priority && !lane.low.contains_key(&(*session, track.point()))
        })
    }

    fn start(&mut self, now: Instant, id: LaneId, live: LiveId, priority: u8) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&live) else { return };
        if group.fate == Fate::Broken || group.flows.iter().any(|flow| flow.lane == id) {
            return;
        }
        let slot = self.slots_free.pop().unwrap_or_else(|| {
            self.slots_used += 1;
            self.slots_used - 1
        });
        let priority = i32::from(priority) * PRIORITY_STEP;
        self.outbox.push_back(Output::Start { lane: id, live, slot, priority });
        let mut flow = Flow { lane: id, slot, sent: 0, priority, held: false, finished: false };
        let done = advance(now, live, lane, group.track, group.len, group.fate, &mut flow, &mut self.outbox);
        group.flows.push(flow);
        if done {
            self.finished.push(live);
        }
        self.wake(now, id);
    }

    fn grew(&mut self, now: Instant, live: LiveId, len: usize, fate: Fate) {
        let Some(group) = self.groups.get_mut(&live) else { return };
        group.len = group.len.max(len);
        group.fate = fate;
        if fate == Fate::Broken {
            for flow in group.flows.drain(..) {
                self.outbox.push_back(Output::Reset { slot: flow.slot, code: Reset::Broken });
                self.slots_free.push(flow.slot);
            }
            return self.drop_unneeded();
        }
        let (mut done, mut held) = (false, false);
        for flow in &mut group.flows {
            let Some(lane) = self.lanes.get_mut(&flow.lane) else { continue };
            if !flow.held {
                done |= advance(now, live, lane, group.track, group.len, fate, flow, &mut self.outbox);
                held |= flow.held;
            }
        }
        if done {
            self.finished.push(live);
        }
        if held {
            self.next_tick.get_or_insert(now + TICK);
        }
        if fate == Fate::Whole && self.groups.get(&live).is_some_and(|group| group.flows.is_empty()) {
            self.drop_unneeded();
        }
    }

    fn hold(&mut self, now: Instant, id: LaneId, live: LiveId, sent: usize) {
        let Some(group) = self.groups.get_mut(&live) else { return };
        let Some(flow) = group.flows.iter_mut().find(|flow| flow.lane == id) else { return };
        flow.sent = flow.sent.min(sent);
        flow.finished = false;
        if !flow.held {
            flow.held = true;
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.held.push(live);
            }
        }
        self.wake(now, id);
    }

    fn refused(&mut self, id: LaneId, live: LiveId) {
        let Some(group) = self.groups.get_mut(&live) else { return };
        let Some(at) = group.flows.iter().position(|flow| flow.lane == id) else { return };
        let flow = group.flows.swap_remove(at);
        self.slots_free.push(flow.slot);
        self.outbox.push_back(Output::Shed { lane: id, track: group.track, seq: group.seq });
        self.drop_unneeded();
    }

    /// The next group of its track began: the old one loses or gains rank, or is given up.
    fn succeeded(&mut self, now: Instant, live: LiveId) {
        let Some(group) = self.groups.get_mut(&live) else { return };
        group.succeeded = Some(now);
        let sound = group.track.1.kind() == TrackKind::Audio;
        let mut behind = Vec::new();
        for flow in group.flows.iter_mut().filter(|flow| flow.held) {
            let Some(lane) = self.lanes.get(&flow.lane) else { continue };
            let waiting = (group.len - flow.sent) as u64 * 8;
            if !sound && waiting > lane.line.pace() * PICTURE_BEHIND.as_millis() as u64 / 1000 {
                behind.push(flow.lane);
                continue;
            }
            // Old sound is heard first; an old picture only helps the next one to be late.
            flow.priority += if sound { 1 } else { -1 };
            self.outbox.push_back(Output::Priority { slot: flow.slot, priority: flow.priority });
        }
        for lane in behind {
            self.give_up(lane, live, Reset::Late);
        }
    }

    /// Takes a picture's group back, and sends the low layer for some groups if it was a camera.
    fn give_up(&mut self, id: LaneId, live: LiveId, code: Reset) {
        let Some(group) = self.groups.get_mut(&live) else { return };
        let Some(at) = group.flows.iter().position(|flow| flow.lane == id) else { return };
        let flow = group.flows.swap_remove(at);
        let (track, seq) = (group.track, group.seq);
        self.outbox.push_back(Output::Reset { slot: flow.slot, code });
        self.outbox.push_back(Output::Shed { lane: id, track, seq });
        self.slots_free.push(flow.slot);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.held.retain(|held| *held != live);
            if track.1.kind() == TrackKind::Main {
                // Being behind shows that the picture is more than the estimate, not that the estimate is wrong.
                if code == Reset::Shed {
                    lane.line.fired();
                }
                lane.low.insert((track.0, track.1.point()), LOW_GROUPS);
            }
        }
        self.reconsider(thumb_of(track));
        self.drop_unneeded();
    }

    fn path(&mut self, now: Instant, id: LaneId, path: Path) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.line.sample(now, path);
        let gate = lane.line.gate(now);
        let pace = lane.line.pace();
        if pace.abs_diff(lane.told) * 10 > lane.told {
            lane.told = pace;
            self.outbox.push_back(Output::Budget { lane: id, bits: pace });
        }
        if gate < Gate::Shed {
            return;
        }
        let flowing = |group: &Group| group.flows.iter().find(|flow| flow.lane == id).map(|flow| flow.priority);
        let kinds: &[TrackKind] = match gate {
            Gate::SoundOnly => &[TrackKind::Main, TrackKind::Thumb, TrackKind::Screen],
            _ => &[TrackKind::Main],
        };
        let shown = self.groups.iter().filter(|(_, group)| kinds.contains(&group.track.1.kind()));
        let cameras: Vec<(LiveId, i32)> = shown.filter_map(|(live, group)| Some((*live, flowing(group)?))).collect();
        // The least important go first; the others only if that did not help.
        let Some(least) = cameras.iter().map(|(_, priority)| *priority).min() else { return };
        for (live, _) in
            cameras.into_iter().filter(|(_, priority)| gate == Gate::SoundOnly || *priority < least + PRIORITY_STEP)
        {
            self.give_up(id, live, Reset::Shed);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.next_tick = None;
        let lanes: Vec<LaneId> =
            self.lanes.iter().filter(|(_, lane)| !lane.held.is_empty()).map(|(id, _)| *id).collect();
        for id in lanes {
            self.tick_lane(now, id);
        }
        self.drop_unneeded();
    }

    fn tick_lane(&mut self, now: Instant, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let held = std::mem::take(&mut lane.held);
        let mut waiting = Vec::with_capacity(held.len());
        for live in held {
            let Some(group) = self.groups.get(&live) else { continue };
            let Some(flow) = group.flows.iter().find(|flow| flow.lane == id) else { continue };
            let sound = group.track.1.kind() == TrackKind::Audio;
            let late = if sound { SOUND_LATE } else { PICTURE_LATE };
            if group.succeeded.is_some_and(|at| now - at > late) {
                self.give_up(id, live, Reset::Late);
                continue;
            }
            waiting.push((std::cmp::Reverse(flow.priority), live));
        }
        waiting.sort_unstable();
        for (_, live) in waiting {
            let (Some(lane), Some(group)) = (self.lanes.get_mut(&id), self.groups.get_mut(&live)) else { continue };
            let Some(flow) = group.flows.iter_mut().find(|flow| flow.lane == id) else { continue };
            flow.held = false;
            if advance(now, live, lane, group.track, group.len, group.fate, flow, &mut self.outbox) {
                self.finished.push(live);
            }
        }
        self.wake(now, id);
    }

    fn closed(&mut self, session: SessionId) {
        let tracks: Vec<Track> = self.tracks.keys().filter(|track| track.0 == session).copied().collect();
        for track in &tracks {
            self.tracks.remove(track);
            self.wanted.remove(track);
        }
        for lane in self.lanes.values_mut() {
            lane.subscriptions.retain(|track, _| track.0 != session);
            lane.low.retain(|camera, _| camera.0 != session);
        }
        let outbox = &mut self.outbox;
        let free = &mut self.slots_free;
        self.groups.retain(|live, group| {
            if group.track.0 != session {
                return true;
            }
            for flow in group.flows.drain(..) {
                outbox.push_back(Output::Reset { slot: flow.slot, code: Reset::Unwanted });
                free.push(flow.slot);
            }
            outbox.push_back(Output::Drop { live: *live });
            false
        });
    }

    /// Says upstream whether a track is wanted, when that changed.
    fn reconsider(&mut self, track: Track) {
        let camera = (track.0, track.1.point());
        let asked = self.tracks.get(&track).is_some_and(|state| !state.subscribers.is_empty());
        let low = track.1.kind() == TrackKind::Thumb && self.lanes.values().any(|lane| lane.low.contains_key(&camera));
        let wanted = asked || low;
        if wanted != self.wanted.contains(&track) {
            if wanted {
                self.wanted.insert(track)
            } else {
                self.wanted.remove(&track)
            };
            self.outbox.push_back(Output::Want { track, wanted });
        }
    }

    fn clear_finished(&mut self) {
        for live in std::mem::take(&mut self.finished) {
            let Some(group) = self.groups.get_mut(&live) else { continue };
            let free = &mut self.slots_free;
            group.flows.retain(|flow| {
                if flow.finished {
                    free.push(flow.slot);
                }
                !flow.finished
            });
            if group.flows.is_empty() && group.fate == Fate::Whole {
                self.forget(live);
            }
        }
    }

    /// Forgets the groups that will not grow and that nobody is still being sent.
    fn drop_unneeded(&mut self) {
        let over = |group: &Group| group.flows.is_empty() && group.fate != Fate::Open;
        let gone: Vec<LiveId> = self.groups.iter().filter(|(_, group)| over(group)).map(|(live, _)| *live).collect();
        for live in gone {
            self.forget(live);
        }
    }

    fn forget(&mut self, live: LiveId) {
        let Some(group) = self.groups.remove(&live) else { return };
        if let Some(state) = self.tracks.get_mut(&group.track) {
            state.newest = state.newest.filter(|newest| *newest != live);
        }
        self.outbox.push_back(Output::Drop { live });
    }

    fn wake(&mut self, now: Instant, id: LaneId) {
        if self.lanes.get(&id).is_some_and(|lane| !lane.held.is_empty()) {
            self.next_tick.get_or_insert(now + TICK);
        }
    }
}

/// Sends what may go; true when the flow is done.
#[expect(clippy::too_many_arguments, reason = "the pieces of one group, borrowed apart from its flows")]
fn advance(
    now: Instant,
    live: LiveId,
    lane: &mut Lane,
    track: Track,
    len: usize,
    fate: Fate,
    flow: &mut Flow,
    outbox: &mut VecDeque<Output>,
) -> bool {
    let waiting = len - flow.sent;
    let may = match track.1.kind() {
        TrackKind::Audio => waiting,
        _ => match lane.line.allowance(now).min(waiting) {
            some if some < waiting && some < SLICE_MIN => 0,
            some => some,
        },
    };
    if may > 0 {
        outbox.push_back(Output::Send { lane: flow.lane, live, slot: flow.slot, from: flow.sent, to: flow.sent + may });
        flow.sent += may;
        lane.line.spend(may);
    }
    if flow.sent < len {
        flow.held = true;
        lane.held.push(live);
        return false;
    }
    if fate == Fate::Whole && !flow.finished {
        flow.finished = true;
        outbox.push_back(Output::Finish { slot: flow.slot });
        return true;
    }
    false
}

fn thumb_of(track: Track) -> Track {
    (track.0, TrackId::new(track.1.point(), TrackKind::Thumb))
}

fn main_of(track: Track) -> Track {
    (track.0, TrackId::new(track.1.point(), TrackKind::Main))
}

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;
