//! The way in for what a browser encodes: its connection on one side, the room that publishes on the other.
//!
//! The two come and go by themselves. A page may be open while no session runs; then what it sends goes nowhere. A session
//! may run while no page is open; then nothing is published, and the state says so. Between them is a bounded queue, since
//! sealing waits for the disk and a browser for nobody: what does not fit is lost, which costs a keyframe.

use std::sync::atomic::{AtomicBool, Ordering};
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
    room: Mutex<Option<SyncSender<Input>>>,
    /// Whether a browser is there.
    joined: AtomicBool,
    /// Something did not fit since the last that did.
    lost: AtomicBool,
    asks: watch::Sender<Asks>,
}

impl Inlet {
    /// Nobody is there on either side. Local times count from `epoch`.
    pub fn new(epoch: Instant) -> Inlet {
        let (room, joined, lost) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Inlet { shared: Arc::new(Shared { epoch, room, joined, lost, asks: watch::Sender::new(Asks::default()) }) }
    }

    /// A moment on the local clock.
    pub(crate) fn local(&self, moment: Instant) -> MediaTime {
        let since = moment.saturating_duration_since(self.shared.epoch);
        MediaTime::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// A browser came, or another took over.
    pub(crate) fn join(&self) {
        self.shared.joined.store(true, Ordering::Relaxed);
        self.tell(Input::Joined);
    }

    /// It is gone.
    pub(crate) fn leave(&self) {
        self.shared.joined.store(false, Ordering::Relaxed);
        self.tell(Input::Left);
    }

    /// What it sends; times of frames are local.
    pub(crate) fn tell(&self, input: Input) {
        let mut room = self.shared.room();
        let Some(sender) = room.as_ref() else { return };
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

impl Shared {
    /// Under this lock one value is put in place of another.
    fn room(&self) -> MutexGuard<'_, Option<SyncSender<Input>>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room that publishes what browsers send.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: Option<SyncSender<Input>>,
    inlet: Inlet,
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
        let work = Work { inlet: inlet.clone(), timeline, sink, stats: Arc::clone(&stats) };
        let intake = Intake::new(first_seq, length);
        let thread =
            std::thread::Builder::new().name("browser room".into()).spawn(move || work.run(intake, &inputs))?;
        if inlet.shared.joined.load(Ordering::Relaxed) {
            // The queue is new, so there is room.
            let _ = sender.try_send(Input::Joined);
        }
        *inlet.shared.room() = Some(sender.clone());
        Ok(Feed { sender: Some(sender), inlet: inlet.clone(), stats, thread: Some(thread) })
    }

    /// Tells the room, unless its queue is full: whoever needs it asks again.
    pub(crate) fn tell(&self, input: Input) {
        if let Some(sender) = &self.sender {
            // The thread ends only with this, or by a fault that was reported.
            let _ = sender.try_send(input);
        }
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
            *self.inlet.shared.room() = None;
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
}

impl Work {
    fn run(self, mut intake: Intake, inputs: &Receiver<Input>) {
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
