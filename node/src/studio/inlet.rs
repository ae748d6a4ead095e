//! The way in for what a browser encodes: its connection on one side, the room that publishes on the other.
//!
//! The two come and go by themselves. A page may be open while no session runs; then what it sends goes nowhere. A session
//! may run while no page is open; then nothing is published, and the state says so. Between them is a bounded queue, since
//! sealing waits for the disk and a browser for nobody: what does not fit is lost, which costs a keyframe.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codec::production::{self, Layer};
use codec::time::MediaTime;
use tokio::sync::watch;

use super::intake::{Input, Intake, Output};
use super::timeline::Timeline;

/// What waits for the room: two seconds of everything.
const WAITING_MAX: usize = 512;
/// How often is looked whether something stopped coming.
const TICK: Duration = Duration::from_millis(200);

/// What a room wants of the browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Keyframes of the recorded picture asked for so far.
    pub main: u64,
    /// Likewise of the small one.
    pub thumb: u64,
    /// What the recorded picture may use, in bits per second.
    pub bits: Option<u32>,
}

/// The way in. Copies share it.
#[derive(Clone, Debug)]
pub struct Inlet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// The room that publishes, by its number.
    room: Mutex<Option<(u64, SyncSender<Input>)>>,
    rooms: AtomicU64,
    /// Whose turn it is as the room's camera, and of how many.
    turn: Mutex<(Option<u64>, u64)>,
    /// Something did not fit since the last that did.
    lost: AtomicBool,
    asks: watch::Sender<Asks>,
}

impl Inlet {
    /// Nobody is there on either side. Local times count from `epoch`.
    pub fn new(epoch: Instant) -> Inlet {
        let shared = Shared {
            epoch,
            room: Mutex::default(),
            rooms: AtomicU64::new(0),
            turn: Mutex::default(),
            lost: AtomicBool::new(false),
            asks: watch::Sender::new(Asks::default()),
        };
        Inlet { shared: Arc::new(shared) }
    }

    /// A moment on the local clock.
    pub(crate) fn local(&self, moment: Instant) -> MediaTime {
        let since = moment.saturating_duration_since(self.shared.epoch);
        MediaTime::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// A browser came, or another took over: it is its turn from now on, by the number given.
    pub(crate) fn join(&self) -> u64 {
        let mut turn = lock(&self.shared.turn);
        let number = turn.1;
        *turn = (Some(number), number + 1);
        self.hand(Input::Joined);
        number
    }

    /// It is gone. If it is another's turn by now, that changes nothing.
    pub(crate) fn leave(&self, turn: u64) {
        let mut now = lock(&self.shared.turn);
        if now.0.take_if(|now| *now == turn).is_some() {
            self.hand(Input::Left);
        }
    }

    /// What it sends, as long as it is its turn; times of frames are local.
    pub(crate) fn tell(&self, turn: u64, input: Input) {
        let now = lock(&self.shared.turn);
        if now.0 == Some(turn) {
            self.hand(input);
        }
    }

    fn hand(&self, input: Input) {
        let mut room = lock(&self.shared.room);
        let Some((_, sender)) = room.as_ref() else { return };
        if self.shared.lost.swap(false, Ordering::Relaxed) {
            for layer in [Layer::Main, Layer::Thumb] {
                if sender.try_send(Input::Lost(layer)).is_err() {
                    self.shared.lost.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
        match sender.try_send(input) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.shared.lost.store(true, Ordering::Relaxed),
            Err(TrySendError::Disconnected(_)) => *room = None,
        }
    }

    /// What the room asks, and when that changes.
    pub(crate) fn asks(&self) -> watch::Receiver<Asks> {
        self.shared.asks.subscribe()
    }
}

/// A room that publishes what browsers send.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: Option<SyncSender<Input>>,
    number: u64,
    inlet: Inlet,
    thumb: Arc<AtomicBool>,
    stats: Arc<Mutex<production::Stats>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Takes what comes from now on, with group numbers from `first_seq`.
    pub(crate) fn start(
        inlet: &Inlet,
        first_seq: u64,
        length: Duration,
        timeline: Timeline,
        sink: production::Sink,
    ) -> std::io::Result<Feed> {
        let (sender, inputs) = sync_channel(WAITING_MAX);
        let stats = Arc::new(Mutex::new(missing(true, true, production::Stats::default())));
        let thumb = Arc::new(AtomicBool::new(false));
        let work = Work { inlet: inlet.clone(), timeline, sink, stats: Arc::clone(&stats), thumb: Arc::clone(&thumb) };
        let intake = Intake::new(first_seq, length);
        let thread =
            std::thread::Builder::new().name("browser room".into()).spawn(move || work.run(intake, &inputs))?;
        let number = inlet.shared.rooms.fetch_add(1, Ordering::Relaxed);
        let turn = lock(&inlet.shared.turn);
        if turn.0.is_some() {
            // The queue is new, so there is room.
            let _ = sender.try_send(Input::Joined);
        }
        *lock(&inlet.shared.room) = Some((number, sender.clone()));
        drop(turn);
        Ok(Feed { sender: Some(sender), number, inlet: inlet.clone(), thumb, stats, thread: Some(thread) })
    }

    /// Somebody needs a keyframe soon. With a full queue nothing is done: whoever needs it asks again.
    pub(crate) fn ask_keyframe(&self) {
        if let Some(sender) = &self.sender {
            // The thread ends only with this, or by a fault that was reported.
            let _ = sender.try_send(Input::Keyframe);
        }
    }

    /// Somebody wants the small picture, or nobody does.
    pub(crate) fn enable_thumb(&self, wanted: bool) {
        self.thumb.store(wanted, Ordering::Relaxed);
    }

    /// The recorded picture may have so many bits per second.
    pub(crate) fn set_bitrate(&self, bits: u32) {
        self.inlet.shared.asks.send_if_modified(|asks| asks.bits.replace(bits) != Some(bits));
    }

    /// What was made so far.
    pub(crate) fn stats(&self) -> production::Stats {
        lock(&self.stats).clone()
    }

    /// Closes every group; they were given to the sink when this returns.
    pub(crate) fn stop(mut self) -> production::Stats {
        self.finish();
        self.stats()
    }

    fn finish(&mut self) {
        if self.sender.take().is_some() {
            // By now another may publish.
            let _ = lock(&self.inlet.shared.room).take_if(|(number, _)| *number == self.number);
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the room's browser panicked");
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the thread works with.
struct Work {
    inlet: Inlet,
    timeline: Timeline,
    sink: production::Sink,
    stats: Arc<Mutex<production::Stats>>,
    thumb: Arc<AtomicBool>,
}

impl Work {
    fn run(self, mut intake: Intake, inputs: &Receiver<Input>) {
        let mut thumb = false;
        loop {
            let input = match inputs.recv_timeout(TICK) {
                Ok(Input::Frame { layer, mut frame }) => {
                    frame.at = self.timeline.session(frame.at);
                    Input::Frame { layer, frame }
                }
                Ok(other) => other,
                Err(RecvTimeoutError::Timeout) => Input::Tick,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let wanted = self.thumb.load(Ordering::Relaxed);
            if std::mem::replace(&mut thumb, wanted) != wanted {
                self.handle(&mut intake, Input::Thumb(wanted));
            }
            self.handle(&mut intake, input);
        }
        self.handle(&mut intake, Input::Left);
    }

    fn handle(&self, intake: &mut Intake, input: Input) {
        let now = self.timeline.session(self.inlet.local(Instant::now()));
        intake.handle(now, input);
        while let Some(output) = intake.poll() {
            match output {
                Output::Made(layer, made) => (self.sink)(layer, made),
                Output::Ask(layer) => self.inlet.shared.asks.send_modify(|asks| match layer {
                    Layer::Audio => {}
                    Layer::Main => asks.main += 1,
                    Layer::Thumb => asks.thumb += 1,
                }),
            }
        }
        let picture = intake.comes(now, Layer::Main);
        let sound = intake.comes(now, Layer::Audio);
        let made = production::Stats {
            captured: intake.stats(Layer::Main).frames,
            audio: intake.stats(Layer::Audio),
            main: intake.stats(Layer::Main),
            thumb: intake.stats(Layer::Thumb),
            ..production::Stats::default()
        };
        let made = missing(!picture, !sound, made);
        *lock(&self.stats) = made;
    }
}

/// With the words for what does not come.
fn missing(picture: bool, sound: bool, stats: production::Stats) -> production::Stats {
    production::Stats {
        no_picture: picture.then(|| "no browser sends any".to_owned()),
        no_sound: sound.then(|| "no browser sends any".to_owned()),
        ..stats
    }
}

/// What is under this lock is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use codec::production::Output as Made;

    use super::*;
    use crate::engine::clock::Line;
    use crate::studio::intake::frame;

    fn feed(inlet: &Inlet, sink: impl Fn(Layer, Made) + Send + Sync + 'static) -> Feed {
        let timeline = Timeline::new(inlet.shared.epoch);
        timeline.set(Line::central(0));
        Feed::start(inlet, 0, Duration::from_secs(2), timeline, Arc::new(sink)).unwrap()
    }

    fn sound(inlet: &Inlet) -> Input {
        let frame = frame(inlet.local(Instant::now()), true, Bytes::from_static(b"sound"));
        Input::Frame { layer: Layer::Audio, frame }
    }

    #[test]
    fn a_room_that_ends_late_takes_nothing_from_the_one_after_it() {
        let inlet = Inlet::new(Instant::now());
        let (before, after) = (feed(&inlet, |_, _| ()), feed(&inlet, |_, _| ()));
        before.stop();
        let turn = inlet.join();
        inlet.tell(turn, sound(&inlet));
        assert_eq!(after.stop().audio.frames, 1);
    }

    #[test]
    fn who_was_replaced_says_nothing_more() {
        let inlet = Inlet::new(Instant::now());
        let room = feed(&inlet, |_, _| ());
        let (first, second) = (inlet.join(), inlet.join());
        inlet.tell(first, sound(&inlet));
        inlet.leave(first);
        inlet.tell(second, sound(&inlet));
        assert_eq!(room.stop().audio.frames, 1);
    }

    #[test]
    fn a_wish_for_the_small_picture_is_not_lost_in_a_full_queue() {
        let inlet = Inlet::new(Instant::now());
        let (open, gate) = sync_channel::<()>(0);
        let gate = Mutex::new(gate);
        let room = feed(&inlet, move |_, made| {
            // The disk takes nothing until the gate opens.
            if let Made::Open { .. } = made {
                let _ = lock(&gate).recv();
            }
        });
        let turn = inlet.join();
        for _ in 0..2 * WAITING_MAX {
            inlet.tell(turn, sound(&inlet));
        }
        assert!(inlet.shared.lost.load(Ordering::Relaxed), "the queue is full");
        let mut asks = inlet.asks();
        let before = asks.borrow_and_update().thumb;
        room.enable_thumb(true);
        drop(open);
        let deadline = Instant::now() + Duration::from_secs(10);
        while inlet.asks().borrow().thumb == before {
            assert!(Instant::now() < deadline, "nobody asked for the small picture");
            inlet.tell(turn, sound(&inlet));
            std::thread::yield_now();
        }
    }
}
