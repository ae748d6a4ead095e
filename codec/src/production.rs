//! A point's production: one source in, the encoded layers out in groups.
//!
//! ```text
//!             ┌ pictures (2) ─▶ main   ─ encode ─▶ sink
//!  source ────┼ pictures (2) ─▶ thumb  ─ encode ─▶ sink
//!             └ sound ────────▶ audio  ─ encode ─▶ sink
//! ```
//!
//! Each arrow is a thread, since encoding takes longer than a device waits. The rule of this file: *a slow encoder drops
//! pictures, never sound*. A picture queue holds two, and a third puts out the oldest, because an old picture is worth
//! less than a new one; what was dropped is counted. Sound is so cheap to encode that its queue only fills when the
//! sink itself stands still, and then the source waits.
//!
//! Where a picture belongs is decided when it is captured, not when it is encoded, so dropping some never moves a
//! group's start. The first picture of a group that reaches the encoder becomes its keyframe.

mod queue;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::queue::{Queue, Work};
use crate::capture::{Event, Kind, Source};
use crate::frame::Frame;
use crate::group::{Cutter, Place};
use crate::picture::Picture;
use crate::samples::Samples;
use crate::time::MediaTime;
use crate::{audio, video};

/// Pictures that wait for an encoder. One is encoded while the next arrives; a second covers a slow moment.
const PICTURES_MAX: usize = 2;

/// Runs of sound that wait: about ten seconds at the usual 20 ms.
const RUNS_MAX: usize = 500;

/// How long the source is waited for before looking whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// How much earlier than the first thing captured the first group begins: sound is stamped with its first sample and
/// loses the encoder's look-ahead, so its first packet may be a little before the first picture.
const BEFORE_FIRST: Duration = Duration::from_millis(40);

/// One encoded track of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Sound.
    Audio,
    /// The picture that is recorded.
    Main,
    /// The small picture, made while somebody wants it.
    Thumb,
}

/// What a layer gives, in this order: `Open`, frames of it, `Close`, and again.
#[derive(Debug, Clone)]
pub enum Output {
    /// A group begins. Numbers grow; one may be left out when nothing of the kind was captured.
    Open {
        /// Its number, shared by the layers.
        seq: u64,
        /// Its start in session time, shared by the layers.
        t0: MediaTime,
    },
    /// The next frame of the open group, not before its start and later than the one before. The first of a picture
    /// group is a keyframe.
    Frame(Frame),
    /// The open group is complete.
    Close {
        /// Its number.
        seq: u64,
    },
}

/// What to produce.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The recorded picture; on from the start.
    pub main: video::Config,
    /// The small picture; off until [`Production::enable`].
    pub thumb: video::Config,
    /// The sound; on from the start.
    pub audio: audio::Config,
    /// Length of a group that no request cuts short.
    pub group: Duration,
    /// Number of the first group.
    pub first_seq: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            main: video::Config::MAIN,
            thumb: video::Config::THUMB,
            audio: audio::Config::VOICE,
            group: Duration::from_secs(2),
            first_seq: 0,
        }
    }
}

/// Capture time to session time. Called from the capture thread; should not jump without need.
pub type ToSession = Arc<dyn Fn(MediaTime) -> MediaTime + Send + Sync>;

/// Takes what is produced. Called from each layer's own thread; while it blocks, that layer's pictures are dropped.
pub type Sink = Arc<dyn Fn(Layer, Output) + Send + Sync>;

/// Why production could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A picture encoder refused its settings.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// The sound encoder refused its settings.
    #[error(transparent)]
    Audio(#[from] audio::Error),
    /// The system gave no thread.
    #[error("no thread for encoding could be started")]
    Thread(#[source] std::io::Error),
}

/// What became of the source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum State {
    /// It delivers, or will.
    #[default]
    Running,
    /// It said that it has ended.
    Ended,
    /// It failed, for the reason in the text. Open it anew to go on.
    Failed(String),
}

/// What was produced so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stats {
    /// What became of the source.
    pub source: State,
    /// Why there are no pictures, while there are none.
    pub no_picture: Option<String>,
    /// Why there is no sound, while there is none.
    pub no_sound: Option<String>,
    /// Pictures captured.
    pub captured: u64,
    /// The layers.
    pub audio: LayerStats,
    /// The layers.
    pub main: LayerStats,
    /// The layers.
    pub thumb: LayerStats,
}

/// What one layer made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LayerStats {
    /// Frames given to the sink.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pictures put out because the encoder or the sink was slow. Always zero for sound.
    pub dropped: u64,
    /// Pictures or runs the encoder could not encode.
    pub failed: u64,
}

/// A running production. Dropping it stops it.
pub struct Production {
    shared: Arc<Shared>,
    capture: Option<JoinHandle<()>>,
    encoders: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Production {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Production").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Production {
    /// Starts the threads. Encoders are made here, so that wrong settings are said at once.
    pub fn start(source: Box<dyn Source>, config: Config, to_session: ToSession, sink: Sink) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new(config));
        let main = video::Encoder::new(config.main)?;
        let thumb = video::Encoder::new(config.thumb)?;
        let sound = audio::Encoder::new(config.audio)?;
        let mut production = Self { shared: Arc::clone(&shared), capture: None, encoders: Vec::new() };
        let run = |layer| Run::new(layer, Arc::clone(&shared), Arc::clone(&sink));
        let (main_run, thumb_run, audio_run) = (run(Layer::Main), run(Layer::Thumb), run(Layer::Audio));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::Thread)
        };
        production.encoders.push(spawn("encode main", Box::new(move || main_run.pictures(main)))?);
        production.encoders.push(spawn("encode thumb", Box::new(move || thumb_run.pictures(thumb)))?);
        production.encoders.push(spawn("encode audio", Box::new(move || audio_run.sound(sound)))?);
        let capture = move || Capturing(&shared).run(source, &to_session);
        production.capture = Some(spawn("capture", Box::new(capture))?);
        Ok(production)
    }

    /// Asks for a keyframe soon: all layers begin a new group, at most one a second.
    pub fn keyframe(&self) {
        // Everything captured so far has a place; the cut comes after it.
        if let Some(cutter) = lock(&self.shared.cutter).as_mut() {
            cutter.request(MediaTime::ZERO);
        }
    }

    /// Changes a layer's bitrate from its next frame on, kept within what the encoder can do.
    pub fn set_bitrate(&self, layer: Layer, bitrate: u32) {
        let (wanted, range) = match layer {
            Layer::Audio => (&self.shared.audio_bitrate, audio::BITRATE),
            Layer::Main => (&self.shared.main.bitrate, video::BITRATE),
            Layer::Thumb => (&self.shared.thumb.bitrate, video::BITRATE),
        };
        wanted.store(bitrate.clamp(*range.start(), *range.end()), Ordering::Relaxed);
    }

    /// Makes a picture layer or stops making it, at once. A layer that comes back within a group it had already closed
    /// waits for the next. Sound is always made.
    pub fn enable(&self, layer: Layer, on: bool) {
        let pictures = match layer {
            Layer::Audio => return,
            Layer::Main => &self.shared.main,
            Layer::Thumb => &self.shared.thumb,
        };
        if pictures.enabled.swap(on, Ordering::Relaxed) && !on {
            pictures.queue.pause();
        }
    }

    /// What was produced so far.
    pub fn stats(&self) -> Stats {
        let mut stats = lock(&self.shared.source).clone();
        stats.captured = self.shared.captured.load(Ordering::Relaxed);
        stats.audio = self.shared.audio_counts.get();
        stats.main = self.shared.main.counts.get();
        stats.thumb = self.shared.thumb.counts.get();
        stats
    }

    /// Stops capturing, encodes what waits, closes the groups and gives the final count.
    pub fn stop(mut self) -> Stats {
        self.finish();
        self.stats()
    }

    fn finish(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The capture thread first: it may be waiting to hand over sound, which the encoders go on taking.
        let ended = |thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!("a thread of the production panicked");
            }
        };
        self.capture.take().into_iter().for_each(ended);
        self.shared.close();
        self.encoders.drain(..).for_each(ended);
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the threads share.
struct Shared {
    first_seq: u64,
    group: Duration,
    /// Made at the first capture.
    cutter: Mutex<Option<Cutter>>,
    stop: AtomicBool,
    source: Mutex<Stats>,
    captured: AtomicU64,
    main: Pictures,
    thumb: Pictures,
    sound: Queue<Samples>,
    audio_bitrate: AtomicU32,
    audio_counts: Counts,
}

/// One picture layer, seen from the capture thread.
struct Pictures {
    fps: u32,
    enabled: AtomicBool,
    bitrate: AtomicU32,
    queue: Queue<Captured>,
    counts: Counts,
}

/// A picture and where it belongs, both decided at capture.
struct Captured {
    picture: Arc<Picture>,
    at: MediaTime,
    place: Place,
}

#[derive(Default)]
struct Counts {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn get(&self) -> LayerStats {
        LayerStats {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn new(config: Config) -> Self {
        let pictures = |config: video::Config, on| Pictures {
            fps: config.fps,
            enabled: AtomicBool::new(on),
            bitrate: AtomicU32::new(config.bitrate),
            queue: Queue::new(PICTURES_MAX),
            counts: Counts::default(),
        };
        Self {
            first_seq: config.first_seq,
            group: config.group,
            cutter: Mutex::default(),
            stop: AtomicBool::new(false),
            source: Mutex::default(),
            captured: AtomicU64::new(0),
            main: pictures(config.main, true),
            thumb: pictures(config.thumb, false),
            sound: Queue::new(RUNS_MAX),
            audio_bitrate: AtomicU32::new(config.audio.bitrate),
            audio_counts: Counts::default(),
        }
    }

    fn missing(&self, kind: Kind, why: Option<String>) {
        let mut source = lock(&self.source);
        match kind {
            Kind::Picture => source.no_picture = why,
            Kind::Sound => source.no_sound = why,
        }
    }

    fn place(&self, at: MediaTime) -> Place {
        let mut cutter = lock(&self.cutter);
        cutter.get_or_insert_with(|| self.first(at)).place(at)
    }

    /// Fixes the start of the first group, if this is the first thing captured.
    fn begin(&self, at: MediaTime) {
        lock(&self.cutter).get_or_insert_with(|| self.first(at));
    }

    fn first(&self, at: MediaTime) -> Cutter {
        Cutter::new(self.first_seq, at.saturating_sub(BEFORE_FIRST), self.group)
    }

    fn close(&self) {
        self.main.queue.close();
        self.thumb.queue.close();
        self.sound.close();
    }
}

/// The capture thread. However it ends, the encoders learn of it: a source may be other people's code.
struct Capturing<'a>(&'a Shared);

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.source).source = State::Failed("the source broke off by a fault of the program".into());
        }
        self.0.close();
    }
}

impl Capturing<'_> {
    fn run(self, mut source: Box<dyn Source>, to_session: &ToSession) {
        let shared = self.0;
        let (mut main, mut thumb) = (Thinning::new(shared.main.fps), Thinning::new(shared.thumb.fps));
        while !shared.stop.load(Ordering::Relaxed) {
            match source.next(PATIENCE) {
                Ok(None) => {}
                Ok(Some(Event::Picture(picture))) => {
                    shared.captured.fetch_add(1, Ordering::Relaxed);
                    let at = to_session(picture.at);
                    let place = shared.place(at);
                    for (layer, thinning) in [(&shared.main, &mut main), (&shared.thumb, &mut thumb)] {
                        if layer.enabled.load(Ordering::Relaxed) && thinning.take(picture.at) {
                            let picture = Arc::clone(&picture);
                            if layer.queue.displace(Captured { picture, at, place }) {
                                layer.counts.dropped.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                }
                Ok(Some(Event::Samples(mut samples))) => {
                    samples.at = to_session(samples.at);
                    shared.begin(samples.at);
                    shared.sound.wait(samples);
                }
                Ok(Some(Event::Appeared(kind))) => shared.missing(kind, None),
                Ok(Some(Event::Vanished(kind, why))) => {
                    tracing::info!(?kind, why, "a source vanished");
                    shared.missing(kind, Some(why));
                    match kind {
                        Kind::Sound => shared.sound.pause(),
                        Kind::Picture => {
                            shared.main.queue.pause();
                            shared.thumb.queue.pause();
                        }
                    }
                }
                Ok(Some(Event::Ended)) => {
                    lock(&shared.source).source = State::Ended;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the source failed");
                    lock(&shared.source).source = State::Failed(sentence(&error));
                    return;
                }
            }
        }
    }
}

/// Leaves out pictures of a source faster than the layer.
///
/// The capture clock is divided into one slot per frame of the layer, and the first picture of each slot is taken. A
/// slot begins a little early, so that a camera of the layer's own rate may jitter; for a faster source by half its own
/// interval at most, so that the picture at a whole second is taken and not the one before.
struct Thinning {
    slot: Duration,
    seen: Option<MediaTime>,
    taken: Option<u128>,
}

impl Thinning {
    fn new(fps: u32) -> Self {
        Self { slot: Duration::from_secs(1) / fps, seen: None, taken: None }
    }

    fn take(&mut self, at: MediaTime) -> bool {
        let interval = self.seen.map_or(self.slot, |seen| at.since(seen));
        self.seen = Some(at);
        let early = (self.slot / 4).min(interval / 2);
        let slot = (at.since_zero() + early).as_nanos() / self.slot.as_nanos();
        let take = self.taken.is_none_or(|taken| slot > taken);
        if take {
            self.taken = Some(slot);
        }
        take
    }
}

/// How many pictures a second reach an encoder, taken anew at each group: a camera of fifteen, or a machine that
/// manages fifteen, gets the whole bitrate for them.
struct Rate {
    fps: u32,
    most: u32,
    /// Start of the count and pictures since.
    since: Option<(MediaTime, u32)>,
}

impl Rate {
    /// Counts a picture; the new rate when it differs by more than a tenth.
    fn changed(&mut self, at: MediaTime, opens: bool) -> Option<u32> {
        let (start, count) = self.since.unwrap_or((at, 0));
        let length = at.since(start);
        // Half a second at least, as one late picture would sway less.
        if !opens || length < Duration::from_millis(500) {
            self.since = Some((start, count + 1));
            return None;
        }
        self.since = Some((at, 1));
        let fps = (f64::from(count) / length.as_secs_f64()).round().clamp(1.0, f64::from(self.most)) as u32;
        if fps.abs_diff(self.fps) * 10 <= self.fps {
            return None;
        }
        self.fps = fps;
        Some(fps)
    }
}

/// One layer's thread: gives frames to the sink in groups.
struct Run {
    layer: Layer,
    shared: Arc<Shared>,
    sink: Sink,
    open: Option<u64>,
    /// No group below this may be opened (again).
    next: u64,
    last: Option<MediaTime>,
}

impl Run {
    fn new(layer: Layer, shared: Arc<Shared>, sink: Sink) -> Self {
        Self { layer, shared, sink, open: None, next: 0, last: None }
    }

    fn pictures(mut self, mut encoder: video::Encoder) {
        let shared = Arc::clone(&self.shared);
        let layer = if self.layer == Layer::Thumb { &shared.thumb } else { &shared.main };
        let mut bitrate = layer.bitrate.load(Ordering::Relaxed);
        let mut rate = Rate { fps: layer.fps, most: layer.fps, since: None };
        while let Some(work) = layer.queue.take() {
            let Work::Media(Captured { picture, at, place }) = work else {
                self.close();
                continue;
            };
            let wanted = layer.bitrate.load(Ordering::Relaxed);
            if wanted != bitrate {
                bitrate = wanted;
                report(&layer.counts, encoder.set_bitrate(wanted));
            }
            let opens = self.open != Some(place.seq);
            if opens && place.seq < self.next {
                continue;
            }
            if let Some(fps) = rate.changed(at, opens) {
                report(&layer.counts, encoder.set_fps(fps));
            }
            if let Some(Some(mut frame)) = report(&layer.counts, encoder.encode(&picture, opens)) {
                frame.at = at;
                // A picture of another size starts anew in mid-group, which is allowed; a group without its keyframe
                // is not.
                if frame.keyframe || !opens {
                    self.give(frame, place, &layer.counts);
                }
            }
        }
        self.close();
    }

    fn sound(mut self, mut encoder: audio::Encoder) {
        let shared = Arc::clone(&self.shared);
        let mut bitrate = shared.audio_bitrate.load(Ordering::Relaxed);
        while let Some(work) = shared.sound.take() {
            let wanted = shared.audio_bitrate.load(Ordering::Relaxed);
            if wanted != bitrate {
                bitrate = wanted;
                report(&shared.audio_counts, encoder.set_bitrate(wanted));
            }
            match work {
                Work::Media(samples) => {
                    let frames = report(&shared.audio_counts, encoder.encode(&samples)).unwrap_or_default();
                    frames.into_iter().for_each(|frame| self.give_sound(frame));
                }
                Work::Break => {
                    self.rest_of(&mut encoder);
                    self.close();
                }
            }
        }
        self.rest_of(&mut encoder);
        self.close();
    }

    fn rest_of(&mut self, encoder: &mut audio::Encoder) {
        if let Some(Some(frame)) = report(&self.shared.audio_counts, encoder.finish()) {
            self.give_sound(frame);
        }
    }

    fn give_sound(&mut self, frame: Frame) {
        let shared = Arc::clone(&self.shared);
        let place = shared.place(frame.at);
        if self.open == Some(place.seq) || place.seq >= self.next {
            self.give(frame, place, &shared.audio_counts);
        }
    }

    fn give(&mut self, mut frame: Frame, place: Place, counts: &Counts) {
        if self.open != Some(place.seq) {
            self.close();
            (self.sink)(self.layer, Output::Open { seq: place.seq, t0: place.t0 });
            self.open = Some(place.seq);
            self.next = place.seq.saturating_add(1);
        }
        // Session time may be corrected backwards under us; a group's frames still follow each other.
        let after_last = self.last.map_or(MediaTime::ZERO, |last| last.saturating_add(Duration::from_micros(1)));
        frame.at = frame.at.max(place.t0).max(after_last);
        self.last = Some(frame.at);
        counts.frames.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
        (self.sink)(self.layer, Output::Frame(frame));
    }

    fn close(&mut self) {
        if let Some(seq) = self.open.take() {
            (self.sink)(self.layer, Output::Close { seq });
        }
    }
}

/// Counts and logs what an encoder refused, and goes on.
fn report<T, E: std::error::Error>(counts: &Counts, result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "encoding failed");
        })
        .ok()
}

/// An error and its causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(fps: u32, times: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut thinning = Thinning::new(fps);
        times.filter(|&at| thinning.take(MediaTime(at))).collect()
    }

    #[test]
    fn a_slow_camera_gets_its_bitrate_over_the_pictures_it_gives() {
        let mut rate = Rate { fps: 30, most: 30, since: None };
        let mut run = |from: u64, fps: u64, count: u64| -> Vec<u32> {
            let times = (0..count).map(|index| MediaTime(from + index * 1_000_000 / fps));
            times
                .enumerate()
                .filter_map(|(index, at)| rate.changed(at, index.is_multiple_of(2 * fps as usize)))
                .collect()
        };
        assert_eq!(run(0, 30, 120), [], "as expected");
        assert_eq!(run(4_000_000, 15, 120), [15], "said once");
        assert_eq!(run(12_000_000, 60, 240), [30], "never more than the layer");
    }

    #[test]
    fn a_source_of_the_layers_rate_keeps_every_picture() {
        let exact: Vec<u64> = (0..300).map(|index| index * 1_000_000 / 30).collect();
        assert_eq!(taken(30, exact.iter().copied()), exact);
        let jittering: Vec<u64> = (1..300).map(|index| index * 1_000_000 / 30 + index * 7_919 % 4_000).collect();
        assert_eq!(taken(30, jittering.iter().copied()), jittering);
    }

    #[test]
    fn a_faster_source_is_thinned_evenly_and_keeps_whole_seconds() {
        let times = |fps: u64| (0..fps * 4).map(move |index| index * 1_000_000 / fps);
        for (from, to) in [(30, 10), (60, 30), (50, 10), (25, 10)] {
            let taken = taken(to, times(from));
            let wanted = 4 * to as usize;
            assert!(taken.len().abs_diff(wanted) <= wanted / 5, "{from} to {to}: {}", taken.len());
            assert!((0..4).all(|second| taken.contains(&(second * 1_000_000))), "{from} to {to}: {taken:?}");
        }
    }
}
