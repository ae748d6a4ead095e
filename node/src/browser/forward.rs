//! What of a point goes to a browser that watches it, in which order, and with which times.
//!
//! Frames are passed on as they were encoded, so what can be decided here is little and must be right: which layer of the
//! picture, which is a matter of whole groups as the layers share their numbers; where to begin, which is a keyframe; and
//! what RTP time a frame has. That is its capture time in session time, of sound and picture alike, and so the browser
//! keeps them together whatever came late.
//!
//! A newcomer gets the open group from its keyframe on, at once. Its frames are up to two seconds old; with their true
//! times the browser would think the line slow and show everything that much later. So those of the past are given times
//! just before the present, a millisecond apart: it decodes them all and shows the last. The same answers a request for a
//! keyframe, without asking the room that sends for one: the open group begins once more.
//!
//! The order is `studio::order`'s, the same as for the room's own decoder.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::id::TrackKind;
use store::record::SealedFrame;
use store::seal::GroupOpener;

use super::Layer;
use crate::studio::order::{Order, Rule};

/// How long the wanted layer is waited for when the other one of the same group is there: a layer that a slow line leaves
/// out never comes.
const LAYER_PATIENCE: Duration = Duration::from_millis(300);

/// A group that began longer ago is no place to begin: the next one is near, or the point is gone.
const OPEN_MAX: Duration = Duration::from_secs(4);

/// Frames older than this when they are first sent are of the past.
const PRESENT: Duration = Duration::from_millis(150);

/// Distance of the times that frames of the past are given, in microseconds.
const STEP_US: u64 = 1_000;

/// Least time between two answers to requests for a keyframe. Browsers repeat theirs until they are served.
const REPEAT_MIN: Duration = Duration::from_secs(1);

/// Groups whose layer is remembered.
const PICKED_MAX: usize = 8;

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// A group begins, or is there already.
    Begin {
        /// Of which kind of track.
        kind: TrackKind,
        /// Its number.
        seq: u64,
        /// Its start in session time, in microseconds.
        t0: u64,
        /// When it began to arrive.
        began: Instant,
        /// What opens it.
        opener: GroupOpener,
    },
    /// The next frame of a group that is followed.
    Frame {
        /// Of which reading.
        reading: Reading,
        /// The frame.
        frame: SealedFrame,
    },
    /// A group that is followed ended, with so many frames, or early.
    Over {
        /// Of which reading.
        reading: Reading,
        /// Its frames, if it is whole.
        frames: Option<u32>,
    },
    /// A frame that was to be sent cannot be opened.
    Spoilt {
        /// Of which kind of track.
        kind: TrackKind,
        /// Its group.
        seq: u64,
    },
    /// Another layer is wanted.
    Layer(Layer),
    /// The browser cannot go on without a keyframe.
    Keyframe,
    /// Time passed.
    Tick,
}

/// One reading of a group; one that begins anew is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reading {
    /// The kind of track.
    pub(super) kind: TrackKind,
    /// The group.
    pub(super) seq: u64,
    /// Which reading it is.
    pub(super) pass: u32,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Output {
    /// Read this group from its beginning.
    Follow(Reading),
    /// Tell of this group's beginning once more.
    Again {
        /// Of which kind of track.
        kind: TrackKind,
        /// Its number.
        seq: u64,
    },
    /// Send a frame.
    Send {
        /// Of which kind of track.
        kind: TrackKind,
        /// Its time, in microseconds of session time.
        at: u64,
        /// What opens it.
        opener: Arc<GroupOpener>,
        /// The frame.
        frame: SealedFrame,
    },
    /// Ask the room that sends for a keyframe.
    Ask(TrackKind),
}

/// What one browser gets of one point.
#[derive(Debug)]
pub(super) struct Forward {
    wanted: Layer,
    sound: Order,
    sound_times: Times,
    picture: Order,
    picture_times: Times,
    /// The layer that each group is sent in.
    picked: BTreeMap<u64, TrackKind>,
    /// The newest group picked.
    newest: Option<Newest>,
    /// A group of the layer that is not wanted, in case the other does not come.
    spare: Option<Spare>,
    pass: u32,
    answered: Option<Instant>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Newest {
    kind: TrackKind,
    seq: u64,
    t0: u64,
    began: Instant,
}

#[derive(Debug)]
struct Spare {
    group: Newest,
    opener: GroupOpener,
    at: Instant,
}

/// The times of one track.
#[derive(Debug, Default)]
struct Times {
    /// Capture times before this are of the past.
    present: Option<u64>,
    last: Option<u64>,
}

impl Times {
    /// Frames are sent from here on; those before the present moment `edge` are of the past.
    fn begin(&mut self, edge: u64) {
        let present = edge.saturating_sub(micros(PRESENT));
        self.present = Some(self.last.map_or(present, |last| present.max(last.saturating_add(STEP_US))));
    }

    /// Whether a frame is of the past.
    fn is_past(&self, at: u64) -> bool {
        self.present.is_some_and(|present| at < present)
    }

    /// The time that a frame captured at `at` is sent with: later than the one before.
    fn give(&mut self, at: u64) -> u64 {
        let least = self.last.map_or(0, |last| last.saturating_add(STEP_US));
        let given = at.max(self.present.unwrap_or(0)).max(least);
        self.last = Some(given);
        given
    }
}

impl Forward {
    /// Nothing is sent yet.
    pub(super) fn new(wanted: Layer) -> Forward {
        Forward {
            wanted,
            sound: Order::new(Rule::SOUND),
            sound_times: Times::default(),
            picture: Order::new(Rule::PICTURE),
            picture_times: Times::default(),
            picked: BTreeMap::new(),
            newest: None,
            spare: None,
            pass: 0,
            answered: None,
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Begin { kind, seq, t0, began, opener } => self.begin(now, Newest { kind, seq, t0, began }, opener),
            Input::Frame { reading, frame } => {
                if let Some(order) = self.order_of(reading) {
                    order.frame(reading.seq, frame);
                }
            }
            Input::Over { reading, frames } => {
                if let Some(order) = self.order_of(reading) {
                    order.over(reading.seq, frames);
                }
            }
            Input::Spoilt { kind, seq } => {
                if kind != TrackKind::Audio {
                    self.picture.spoil(seq);
                    self.ask(now, kind);
                }
            }
            Input::Layer(layer) => {
                self.wanted = layer;
                if let Some(spare) = self.spare.take_if(|spare| spare.group.kind == layer.kind()) {
                    self.pick(now, spare.group, spare.opener);
                }
            }
            Input::Keyframe => self.begin_again(now),
            Input::Tick => {}
        }
        if let Some(spare) = self.spare.take_if(|spare| spare.at <= now) {
            self.pick(now, spare.group, spare.opener);
        }
        self.send(now);
    }

    /// The next thing to do; drain until `None`.
    pub(super) fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        let spare = self.spare.as_ref().map(|spare| spare.at);
        [spare, self.sound.deadline(), self.picture.deadline()].into_iter().flatten().min()
    }

    fn begin(&mut self, now: Instant, group: Newest, opener: GroupOpener) {
        if now.saturating_duration_since(group.began) > OPEN_MAX {
            return;
        }
        match group.kind {
            TrackKind::Audio => {
                if self.sound_times.present.is_none() {
                    self.sound_times.begin(edge(now, &group));
                }
                if self.sound.begin(now, group.seq, opener) {
                    self.outbox.push_back(Output::Follow(Reading { kind: group.kind, seq: group.seq, pass: 0 }));
                }
            }
            TrackKind::Main | TrackKind::Thumb => {
                if self.picked.contains_key(&group.seq) {
                    return;
                }
                if group.kind == self.wanted.kind() {
                    self.spare = self.spare.take().filter(|spare| spare.group.seq > group.seq);
                    self.pick(now, group, opener);
                } else {
                    self.spare = Some(Spare { group, opener, at: now + LAYER_PATIENCE });
                }
            }
            // It has a connection of its own.
            TrackKind::Screen => {}
        }
    }

    fn pick(&mut self, now: Instant, group: Newest, opener: GroupOpener) {
        if self.newest.is_none() {
            self.picture_times.begin(edge(now, &group));
        }
        if !self.picture.begin(now, group.seq, opener) {
            return;
        }
        self.picked.insert(group.seq, group.kind);
        if self.picked.len() > PICKED_MAX {
            self.picked.pop_first();
        }
        self.outbox.push_back(Output::Follow(Reading { kind: group.kind, seq: group.seq, pass: self.pass }));
        if self.newest.as_ref().is_none_or(|newest| newest.seq < group.seq) {
            self.newest = Some(group);
        }
    }

    /// Sends the open group once more, from its keyframe; asks for another when there is none to send.
    fn begin_again(&mut self, now: Instant) {
        if self.answered.is_some_and(|at| now < at + REPEAT_MIN) {
            return;
        }
        let open = self.newest.take().filter(|group| now.saturating_duration_since(group.began) <= OPEN_MAX);
        match open {
            Some(Newest { kind, seq, .. }) => {
                self.answered = Some(now);
                // What is still read of the groups before goes nowhere.
                self.pass = self.pass.wrapping_add(1);
                self.picture = Order::new(Rule::PICTURE);
                self.picked.clear();
                self.spare = None;
                self.outbox.push_back(Output::Again { kind, seq });
            }
            None => self.ask(now, self.wanted.kind()),
        }
    }

    fn ask(&mut self, now: Instant, kind: TrackKind) {
        if self.answered.is_none_or(|at| now >= at + REPEAT_MIN) {
            self.answered = Some(now);
            self.outbox.push_back(Output::Ask(kind));
        }
    }

    /// The order that a reading belongs to, unless it is a former one.
    fn order_of(&mut self, reading: Reading) -> Option<&mut Order> {
        match reading.kind {
            TrackKind::Audio => Some(&mut self.sound),
            TrackKind::Main | TrackKind::Thumb => (reading.pass == self.pass).then_some(&mut self.picture),
            TrackKind::Screen => None,
        }
    }

    fn send(&mut self, now: Instant) {
        while let Some((opener, frame)) = self.sound.take(now) {
            let at = opener.header().t0.saturating_add(frame.dt);
            // Nobody wants to hear what was said before he came.
            if !self.sound_times.is_past(at) {
                let at = self.sound_times.give(at);
                self.outbox.push_back(Output::Send { kind: TrackKind::Audio, at, opener, frame });
            }
        }
        while let Some((opener, frame)) = self.picture.take(now) {
            let header = opener.header();
            let (kind, at) = (header.track.kind(), header.t0.saturating_add(frame.dt));
            let at = self.picture_times.give(at);
            self.outbox.push_back(Output::Send { kind, at, opener, frame });
        }
    }
}

/// Session time now, as a group's beginning tells it.
fn edge(now: Instant, group: &Newest) -> u64 {
    group.t0.saturating_add(micros(now.saturating_duration_since(group.began)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
