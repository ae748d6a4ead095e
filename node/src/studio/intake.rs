//! Cuts what a browser encodes into groups, as our own encoders' is.
//!
//! Our encoders are told where a group begins before they see a picture of it; a browser's can only be asked for a
//! keyframe, and gives one some frames later. So the cut itself stays a moment on the clock, known beforehand and the same
//! for every layer (`codec::group`): sound goes over at it exactly, and each layer of the picture at its first keyframe
//! after it, which is asked for as soon as a picture from behind the cut arrives. Until it comes, pictures go on in the group
//! they depend on.
//!
//! What comes is bounded here, since a page may send anything: a frame in length, a group in length, frames and time.
//! Beyond that the group is closed, and the layer goes on with the next keyframe.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use codec::frame::Frame;
use codec::group::Cutter;
use codec::production::{Layer, LayerStats, Output as Made};
use codec::time::MediaTime;

/// Largest frame taken: four times a large keyframe of a large picture. A group may have six of them.
pub(crate) const FRAME_BYTES_MAX: usize = 512 << 10;
/// Largest group. Sealed it is a little more, and four mebibytes are not passed on live.
const GROUP_BYTES_MAX: usize = 3 << 20;
/// Most frames of a group: at sixty a second, ten times its length.
const GROUP_FRAMES_MAX: u32 = 1_200;
/// Longest a picture's group waits for a keyframe.
const GROUP_TIME_MAX: Duration = Duration::from_secs(12);
/// Least time between two requests for a keyframe of a layer. A browser takes a tenth of a second to give one.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A layer that stops for so long has its group closed, so that the record holds what there is.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How much earlier than the first frame the first group begins: sound arrives sooner than the picture of its moment, and
/// either may be first.
const BEFORE_FIRST: Duration = Duration::from_millis(120);

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A browser is there, perhaps another than before: nothing of its pictures depends on what came till now.
    Joined,
    /// It is gone.
    Left,
    /// A frame. Its time is session time.
    Frame {
        /// Of which layer.
        layer: Layer,
        /// What came.
        frame: Frame,
    },
    /// Something of this layer was lost.
    Lost(Layer),
    /// Somebody needs a keyframe soon.
    Keyframe,
    /// Somebody wants the small picture, or nobody does.
    Thumb(bool),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// Seal and send.
    Made(Layer, Made),
    /// Ask the browser for a keyframe of this layer.
    Ask(Layer),
}

/// What becomes of one browser after the other, in one session.
#[derive(Debug)]
pub(crate) struct Intake {
    first_seq: u64,
    length: Duration,
    cutter: Option<Cutter>,
    thumb: bool,
    audio: Lane,
    main: Lane,
    small: Lane,
    outbox: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Lane {
    open: Option<Open>,
    /// Number of the last group opened. It is never opened again.
    used: Option<u64>,
    /// Something it depends on is missing: nothing until the next keyframe.
    spoilt: bool,
    asked: Option<MediaTime>,
    heard: Option<MediaTime>,
    stats: LayerStats,
}

#[derive(Debug)]
struct Open {
    seq: u64,
    t0: MediaTime,
    last: Option<MediaTime>,
    bytes: usize,
    frames: u32,
}

impl Lane {
    fn close(&mut self, layer: Layer, out: &mut VecDeque<Output>) {
        if let Some(open) = self.open.take() {
            out.push_back(Output::Made(layer, Made::Close { seq: open.seq }));
        }
    }

    fn begin(&mut self, layer: Layer, seq: u64, t0: MediaTime, out: &mut VecDeque<Output>) {
        self.close(layer, out);
        self.used = Some(seq);
        self.open = Some(Open { seq, t0, last: None, bytes: 0, frames: 0 });
        out.push_back(Output::Made(layer, Made::Open { seq, t0 }));
    }

    fn push(&mut self, layer: Layer, mut frame: Frame, out: &mut VecDeque<Output>) {
        let Some(open) = &mut self.open else { return };
        frame.at = frame.at.max(open.t0);
        if let Some(last) = open.last {
            frame.at = frame.at.max(last.saturating_add(Duration::from_micros(1)));
        }
        open.last = Some(frame.at);
        open.bytes += frame.data.len();
        open.frames += 1;
        self.stats.frames += 1;
        self.stats.bytes += frame.data.len() as u64;
        out.push_back(Output::Made(layer, Made::Frame(frame)));
    }

    fn is_new(&self, seq: u64) -> bool {
        self.used.is_none_or(|used| seq > used)
    }

    fn ask(&mut self, now: MediaTime, layer: Layer, out: &mut VecDeque<Output>) {
        if self.asked.is_none_or(|asked| now >= asked.saturating_add(ASK_AGAIN)) {
            self.asked = Some(now);
            out.push_back(Output::Ask(layer));
        }
    }
}

impl Open {
    /// Whether a frame is more than a group may have.
    fn is_full(&self, frame: &Frame) -> bool {
        self.bytes + frame.data.len() > GROUP_BYTES_MAX
            || self.frames >= GROUP_FRAMES_MAX
            || frame.at.since(self.t0) > GROUP_TIME_MAX
    }
}

impl Intake {
    /// Groups begin with this number and last so long.
    pub(crate) fn new(first_seq: u64, length: Duration) -> Intake {
        Intake {
            first_seq,
            length,
            cutter: None,
            thumb: false,
            audio: Lane::default(),
            main: Lane::default(),
            small: Lane::default(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened at session time `now`.
    pub(crate) fn handle(&mut self, now: MediaTime, input: Input) {
        match input {
            Input::Joined => {
                self.close();
                // Whoever shows it must begin anew, and soon.
                self.cut(now);
                self.need(now, Layer::Main);
                self.need(now, Layer::Thumb);
            }
            Input::Left => self.close(),
            Input::Frame { layer: Layer::Audio, frame } => self.sound(now, frame),
            Input::Frame { layer, frame } => self.picture(now, layer, frame),
            Input::Lost(Layer::Audio) => {}
            Input::Lost(layer) => {
                self.parts(layer).0.spoilt = true;
                self.need(now, layer);
            }
            Input::Keyframe => self.cut(now),
            Input::Thumb(wanted) => {
                if std::mem::replace(&mut self.thumb, wanted) != wanted {
                    match wanted {
                        true => self.need(now, Layer::Thumb),
                        false => self.small.close(Layer::Thumb, &mut self.outbox),
                    }
                }
            }
            Input::Tick => {}
        }
        for layer in [Layer::Audio, Layer::Main, Layer::Thumb] {
            let (lane, out) = self.parts(layer);
            if lane.heard.is_some_and(|heard| now > heard.saturating_add(SILENCE_MAX)) {
                lane.close(layer, out);
            }
        }
    }

    /// The next thing to do; drain until `None`.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// What was made of a layer.
    pub(crate) fn stats(&self, layer: Layer) -> LayerStats {
        match layer {
            Layer::Audio => self.audio.stats,
            Layer::Main => self.main.stats,
            Layer::Thumb => self.small.stats,
        }
    }

    /// Whether a layer came lately.
    pub(crate) fn comes(&self, now: MediaTime, layer: Layer) -> bool {
        let lane = match layer {
            Layer::Audio => &self.audio,
            Layer::Main => &self.main,
            Layer::Thumb => &self.small,
        };
        lane.heard.is_some_and(|heard| now <= heard.saturating_add(SILENCE_MAX))
    }

    /// Closes what is open.
    fn close(&mut self) {
        for layer in [Layer::Audio, Layer::Main, Layer::Thumb] {
            let (lane, out) = self.parts(layer);
            lane.close(layer, out);
        }
    }

    fn cut(&mut self, now: MediaTime) {
        if let Some(cutter) = &mut self.cutter {
            cutter.request(now);
        }
    }

    fn need(&mut self, now: MediaTime, layer: Layer) {
        let (lane, out) = self.parts(layer);
        lane.ask(now, layer, out);
    }

    fn parts(&mut self, layer: Layer) -> (&mut Lane, &mut VecDeque<Output>) {
        let lane = match layer {
            Layer::Audio => &mut self.audio,
            Layer::Main => &mut self.main,
            Layer::Thumb => &mut self.small,
        };
        (lane, &mut self.outbox)
    }

    fn cutter(&mut self, at: MediaTime) -> &mut Cutter {
        let (first, length) = (self.first_seq, self.length);
        self.cutter.get_or_insert_with(|| Cutter::new(first, at.saturating_sub(BEFORE_FIRST), length))
    }

    fn sound(&mut self, now: MediaTime, frame: Frame) {
        self.audio.heard = Some(now);
        if frame.data.len() > FRAME_BYTES_MAX || frame.data.is_empty() {
            self.audio.stats.failed += 1;
            return;
        }
        let place = self.cutter(frame.at).place(frame.at);
        let (lane, out) = (&mut self.audio, &mut self.outbox);
        if lane.is_new(place.seq) {
            lane.begin(Layer::Audio, place.seq, place.t0, out);
        }
        if lane.open.as_ref().is_some_and(|open| open.is_full(&frame)) {
            lane.close(Layer::Audio, out);
        }
        match lane.open {
            Some(_) => lane.push(Layer::Audio, frame, out),
            // Its group was closed, and the next is not due.
            None => {
                lane.stats.dropped += 1;
                self.cut(now);
            }
        }
    }

    fn picture(&mut self, now: MediaTime, layer: Layer, frame: Frame) {
        let wanted = layer == Layer::Main || self.thumb;
        let place = self.cutter(frame.at).place(frame.at);
        let (lane, out) = self.parts(layer);
        lane.heard = Some(now);
        if !wanted {
            return;
        }
        if frame.data.len() > FRAME_BYTES_MAX || frame.data.is_empty() {
            lane.stats.failed += 1;
            lane.spoilt = true;
            return lane.ask(now, layer, out);
        }
        if lane.open.as_ref().is_some_and(|open| open.is_full(&frame)) {
            lane.close(layer, out);
        }
        let due = lane.is_new(place.seq);
        if frame.keyframe {
            lane.spoilt = false;
            if due {
                lane.begin(layer, place.seq, place.t0, out);
            }
        } else if due || lane.open.is_none() || lane.spoilt {
            lane.ask(now, layer, out);
        }
        if lane.open.is_some() && !lane.spoilt {
            return lane.push(layer, frame, out);
        }
        lane.stats.dropped += 1;
        if !due {
            // The group of this moment was closed: the next must begin for anything to be seen.
            self.cut(now);
        }
    }
}

/// A frame as a browser sends it.
pub(crate) fn frame(at: MediaTime, keyframe: bool, data: Bytes) -> Frame {
    Frame { at, keyframe, discardable: false, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MediaTime {
        MediaTime::from_micros(ms * 1_000)
    }

    struct Desk {
        intake: Intake,
        /// What was made of each layer, group by group: number, start, times of frames in milliseconds.
        groups: Vec<(Layer, u64, u64, Vec<u64>)>,
        asked: Vec<(Layer, u64)>,
        closed: usize,
    }

    impl Desk {
        fn new(first: u64) -> Desk {
            let intake = Intake::new(first, Duration::from_secs(2));
            let mut desk = Desk { intake, groups: Vec::new(), asked: Vec::new(), closed: 0 };
            desk.tell(0, Input::Joined);
            desk
        }

        fn tell(&mut self, now: u64, input: Input) {
            self.intake.handle(ms(now), input);
            while let Some(output) = self.intake.poll() {
                match output {
                    Output::Ask(layer) => self.asked.push((layer, now)),
                    Output::Made(layer, Made::Open { seq, t0 }) => {
                        self.groups.push((layer, seq, t0.micros() / 1_000, Vec::new()));
                    }
                    Output::Made(layer, Made::Frame(frame)) => {
                        let group = self.groups.iter_mut().rev().find(|group| group.0 == layer).expect("an open group");
                        assert!(frame.at.micros() >= group.2 * 1_000, "no frame is before its group");
                        if layer != Layer::Audio && group.3.is_empty() {
                            assert!(frame.keyframe, "a group begins with a keyframe");
                        }
                        group.3.push(frame.at.micros() / 1_000);
                    }
                    Output::Made(_, Made::Close { .. }) => self.closed += 1,
                }
            }
        }

        fn frame(&mut self, layer: Layer, at: u64, now: u64, key: bool) {
            let frame = frame(ms(at), key, Bytes::from_static(b"frame"));
            self.tell(now, Input::Frame { layer, frame });
        }

        /// A browser that gives keyframes 100 ms after they were asked for; sound arrives after 10 ms, pictures after 60.
        fn run(&mut self, from: u64, to: u64) {
            for at in (from..to).step_by(20) {
                self.frame(Layer::Audio, at, at + 10, true);
                if at % 40 == 0 {
                    let due = self
                        .asked
                        .iter()
                        .any(|(layer, when)| *layer == Layer::Main && (*when + 100..*when + 140).contains(&(at + 60)));
                    self.frame(Layer::Main, at, at + 60, due);
                }
            }
        }

        fn of(&self, layer: Layer) -> Vec<(u64, u64)> {
            self.groups.iter().filter(|group| group.0 == layer).map(|group| (group.1, group.2)).collect()
        }
    }

    #[test]
    fn sound_and_picture_share_numbers_and_starts() {
        let mut desk = Desk::new(40);
        desk.run(0, 9_000);
        let (sound, picture) = (desk.of(Layer::Audio), desk.of(Layer::Main));
        assert!(sound.len() >= 4 && sound[0].0 == 40, "{sound:?}");
        assert!(picture.iter().all(|group| sound.contains(group)), "{picture:?} of {sound:?}");
        assert!(picture.len() + 1 >= sound.len(), "{picture:?} of {sound:?}");
        for group in desk.groups.iter().filter(|group| group.0 == Layer::Main).skip(1) {
            let late = group.3[0] - group.2;
            assert!(late < 250, "the keyframe of {} came {late} ms after its start", group.1);
        }
    }

    #[test]
    fn a_number_is_never_opened_twice_whoever_comes_back() {
        let mut desk = Desk::new(0);
        desk.run(0, 3_000);
        for n in 0..4 {
            let at = 3_000 + n * 1_500;
            desk.tell(at, Input::Left);
            desk.tell(at, Input::Joined);
            desk.run(at + 20, at + 1_500);
        }
        for layer in [Layer::Audio, Layer::Main] {
            let seqs: Vec<u64> = desk.of(layer).into_iter().map(|(seq, _)| seq).collect();
            assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{layer:?} {seqs:?}");
            assert!(seqs.len() >= 4, "{layer:?} {seqs:?}");
        }
    }

    #[test]
    fn without_keyframes_a_group_ends_and_nothing_is_made_until_one_comes() {
        let mut desk = Desk::new(0);
        desk.frame(Layer::Main, 100, 160, true);
        for n in 1..2_000 {
            desk.frame(Layer::Main, 100 + n * 20, 160 + n * 20, false);
        }
        assert_eq!(desk.of(Layer::Main).len(), 1);
        assert!(desk.groups[0].3.len() as u64 * 20 <= 12_100, "{}", desk.groups[0].3.len());
        assert!(desk.asked.len() > 50, "asked again and again, {} times", desk.asked.len());
        desk.frame(Layer::Main, 50_000, 50_060, true);
        assert_eq!(desk.of(Layer::Main).len(), 2);
    }

    #[test]
    fn what_is_too_large_or_lost_spoils_the_layer_until_the_next_keyframe() {
        let mut desk = Desk::new(0);
        desk.frame(Layer::Main, 100, 160, true);
        let huge = frame(ms(140), false, Bytes::from(vec![0; FRAME_BYTES_MAX + 1]));
        desk.tell(200, Input::Frame { layer: Layer::Main, frame: huge });
        desk.frame(Layer::Main, 180, 240, false);
        assert_eq!(desk.groups[0].3, [100]);
        desk.frame(Layer::Main, 220, 280, true);
        desk.frame(Layer::Main, 260, 320, false);
        assert_eq!(desk.groups[0].3, [100, 220, 260]);
        desk.tell(330, Input::Lost(Layer::Main));
        desk.frame(Layer::Main, 300, 360, false);
        assert_eq!(desk.groups[0].3.len(), 3);
    }

    #[test]
    fn the_small_picture_is_taken_while_it_is_wanted() {
        let mut desk = Desk::new(0);
        desk.frame(Layer::Thumb, 100, 160, true);
        assert!(desk.of(Layer::Thumb).is_empty());
        desk.tell(200, Input::Thumb(true));
        desk.frame(Layer::Thumb, 240, 300, true);
        desk.tell(400, Input::Thumb(false));
        assert_eq!((desk.of(Layer::Thumb).len(), desk.closed), (1, 1));
    }

    #[test]
    fn a_browser_that_falls_silent_has_its_groups_closed() {
        let mut desk = Desk::new(0);
        desk.run(0, 1_000);
        let open = desk.groups.len();
        desk.tell(1_500, Input::Tick);
        assert_eq!(desk.closed, 0);
        desk.tell(4_000, Input::Tick);
        assert_eq!(desk.closed, open);
        assert!(!desk.intake.comes(ms(4_000), Layer::Audio));
    }
}
