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

#[cfg(test)]
mod tests {
    use store::id::{NodeId, PointNumber, SessionId, TrackId};
    use store::keys::SessionKey;
    use store::record::{Flags, Item, Reader, Writer};
    use store::seal::{Opener, Sealer, Start, Suite};

    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);

    /// Frames of a group, sealed, 33 ms apart, and what opens them.
    fn group(kind: TrackKind, seq: u64, frames: u64) -> (GroupOpener, Vec<SealedFrame>) {
        let key = SessionKey::from_bytes(&[3; 32]);
        let track = TrackId::new(PointNumber::new(2).expect("a small number"), kind);
        let start = Start::from_bits(seq);
        let sealer = Sealer::new(&key, Suite::default(), SESSION, NodeId::from_bytes([1; 32]), track, 0, start);
        let (mut writer, head) = Writer::new(sealer, seq, seq * 2_000_000);
        let mut reader = Reader::new();
        reader.push(&head);
        for n in 0..frames {
            let flags = Flags { key: n == 0, discardable: false };
            reader.push(&writer.frame(n * 33_000, flags, b"frame").expect("it fits"));
        }
        let mut sealed = Vec::new();
        while let Some(item) = reader.next().expect("a good group") {
            if let Item::Frame(frame) = item {
                sealed.push(frame);
            }
        }
        let mut opener = Opener::new(SESSION);
        opener.insert(0, key);
        (opener.group(writer.header()).expect("a key"), sealed)
    }

    struct Screen {
        forward: Forward,
        now: Instant,
        /// What was sent: kind, group, place in it, time in milliseconds.
        sent: Vec<(TrackKind, u64, u32, u64)>,
        follows: Vec<Reading>,
        again: Vec<(TrackKind, u64)>,
        asked: usize,
    }

    impl Screen {
        fn new(wanted: Layer) -> Screen {
            let (sent, follows, again) = (Vec::new(), Vec::new(), Vec::new());
            Screen { forward: Forward::new(wanted), now: Instant::now(), sent, follows, again, asked: 0 }
        }

        fn tell(&mut self, input: Input) {
            self.forward.handle(self.now, input);
            while let Some(output) = self.forward.poll() {
                match output {
                    Output::Follow(reading) => self.follows.push(reading),
                    Output::Again { kind, seq } => self.again.push((kind, seq)),
                    Output::Send { kind, at, opener, frame } => {
                        self.sent.push((kind, opener.header().seq, frame.index, at / 1_000));
                    }
                    Output::Ask(_) => self.asked += 1,
                }
            }
        }

        fn wait(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
            self.tell(Input::Tick);
        }

        /// A group begins that began `age` milliseconds ago.
        fn begin(&mut self, kind: TrackKind, seq: u64, age: u64) {
            let (opener, _) = group(kind, seq, 0);
            let began = self.now.checked_sub(Duration::from_millis(age)).expect("a machine that runs for a while");
            self.tell(Input::Begin { kind, seq, t0: seq * 2_000_000, began, opener });
        }

        /// The frames of whatever reading of a group is the latest.
        fn frames(&mut self, kind: TrackKind, seq: u64, places: std::ops::Range<usize>) {
            let of = |reading: &&Reading| (reading.kind, reading.seq) == (kind, seq);
            let Some(&reading) = self.follows.iter().rfind(of) else { return };
            let (_, frames) = group(kind, seq, places.end as u64);
            for frame in &frames[places] {
                self.tell(Input::Frame { reading, frame: frame.clone() });
            }
        }

        fn over(&mut self, kind: TrackKind, seq: u64, frames: Option<u32>) {
            let of = |reading: &&Reading| (reading.kind, reading.seq) == (kind, seq);
            let Some(&reading) = self.follows.iter().rfind(of) else { return };
            self.tell(Input::Over { reading, frames });
        }
    }

    use TrackKind::{Audio, Main, Thumb};

    #[test]
    fn a_newcomer_gets_the_past_at_once_and_the_present_with_its_time() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Main, 5, 1_000);
        screen.begin(Audio, 5, 1_000);
        screen.frames(Main, 5, 0..40);
        screen.frames(Audio, 5, 0..40);
        let pictures: Vec<_> = screen.sent.iter().filter(|sent| sent.0 == Main).collect();
        assert_eq!(pictures.len(), 40, "every picture depends on the ones before");
        let present = 10_000 + 1_000 - 150;
        assert_eq!((pictures[0].3, pictures[10].3), (present, present + 10));
        assert_eq!(pictures[39].3, 10_000 + 39 * 33, "what is seen now has its own time");
        assert!(pictures.windows(2).all(|pair| pair[0].3 < pair[1].3));
        let sounds: Vec<_> = screen.sent.iter().filter(|sent| sent.0 == Audio).collect();
        assert!(
            sounds.iter().all(|sound| sound.3 >= present && sound.3 == 10_000 + u64::from(sound.2) * 33),
            "{sounds:?}"
        );
        assert!(!sounds.is_empty());
    }

    #[test]
    fn a_group_of_long_ago_is_no_place_to_begin() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Main, 5, 5_000);
        assert!(screen.follows.is_empty());
        screen.begin(Main, 6, 0);
        assert_eq!(screen.follows.len(), 1);
    }

    #[test]
    fn the_other_layer_stands_in_when_the_wanted_one_does_not_come() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Thumb, 1, 0);
        assert!(screen.follows.is_empty(), "the whole picture may be on its way");
        screen.wait(300);
        screen.frames(Thumb, 1, 0..2);
        assert_eq!(screen.sent.len(), 2);
        screen.begin(Main, 1, 0);
        assert_eq!(screen.follows.len(), 1, "a group is shown in one layer");
        screen.over(Thumb, 1, Some(2));
        screen.begin(Thumb, 2, 0);
        screen.begin(Main, 2, 0);
        screen.frames(Main, 2, 0..1);
        assert_eq!(screen.sent.last().map(|sent| (sent.0, sent.1)), Some((Main, 2)));
        screen.wait(1_000);
        assert!(screen.follows.iter().all(|reading| (reading.kind, reading.seq) != (Thumb, 2)));
    }

    #[test]
    fn another_layer_begins_with_the_next_group() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Main, 1, 0);
        screen.begin(Thumb, 1, 0);
        screen.frames(Main, 1, 0..2);
        screen.tell(Input::Layer(Layer::Thumb));
        screen.frames(Main, 1, 2..3);
        screen.over(Main, 1, Some(3));
        screen.begin(Main, 2, 0);
        screen.begin(Thumb, 2, 0);
        screen.frames(Thumb, 2, 0..2);
        let shown: Vec<_> = screen.sent.iter().map(|sent| (sent.0, sent.1, sent.2)).collect();
        assert_eq!(shown, [(Main, 1, 0), (Main, 1, 1), (Main, 1, 2), (Thumb, 2, 0), (Thumb, 2, 1)]);
    }

    #[test]
    fn a_request_for_a_keyframe_begins_the_open_group_again_once_a_second() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Main, 1, 0);
        screen.frames(Main, 1, 0..3);
        let before = *screen.follows.last().expect("it is read");
        screen.wait(200);
        for _ in 0..5 {
            screen.tell(Input::Keyframe);
        }
        assert_eq!(screen.again, [(Main, 1)]);
        screen.begin(Main, 1, 200);
        // What the former reading still brings is not sent.
        let (_, frames) = group(Main, 1, 4);
        screen.tell(Input::Frame { reading: before, frame: frames[3].clone() });
        screen.frames(Main, 1, 0..4);
        let places: Vec<_> = screen.sent.iter().map(|sent| sent.2).collect();
        assert_eq!(places, [0, 1, 2, 0, 1, 2, 3]);
        assert!(screen.sent.windows(2).all(|pair| pair[0].3 < pair[1].3), "times grow: {:?}", screen.sent);
        assert_eq!(screen.asked, 0, "nobody else is bothered");
    }

    #[test]
    fn without_an_open_group_the_room_that_sends_is_asked_once_a_second() {
        let mut screen = Screen::new(Layer::Main);
        for _ in 0..20 {
            screen.tell(Input::Keyframe);
            screen.wait(100);
        }
        assert_eq!(screen.asked, 2);
    }

    #[test]
    fn after_a_hole_it_goes_on_with_the_next_keyframe() {
        let mut screen = Screen::new(Layer::Main);
        screen.begin(Main, 1, 0);
        screen.frames(Main, 1, 0..2);
        screen.over(Main, 1, None);
        // Number 2 was given up on the way.
        screen.wait(2_000);
        screen.begin(Main, 3, 0);
        screen.frames(Main, 3, 0..2);
        screen.wait(600);
        let shown: Vec<_> = screen.sent.iter().map(|sent| (sent.1, sent.2, sent.3)).collect();
        assert_eq!(shown, [(1, 0, 2_000), (1, 1, 2_033), (3, 0, 6_000), (3, 1, 6_033)]);
    }
}
