//! A point's production, in real time: groups in order, layers aligned, and what happens when something is slow or goes
//! away.

mod scenes;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use codec::capture::pattern::Pattern;
use codec::capture::{Error, Event, Kind, Source};
use codec::frame::Frame;
use codec::production::{Config, Layer, Output, Production, Sink, State, Stats, ToSession};
use codec::samples::Samples;
use codec::time::MediaTime;
use codec::video;

#[derive(Debug, Default, Clone)]
struct Group {
    t0: MediaTime,
    frames: Vec<Frame>,
    closed: bool,
}

type Groups = BTreeMap<(Layer, u64), Group>;

/// Collects what is produced and holds each layer to the order that `Output` promises.
#[derive(Default)]
struct Collected {
    groups: Groups,
    open: BTreeMap<Layer, u64>,
}

impl Collected {
    fn take(&mut self, layer: Layer, output: Output) {
        match output {
            Output::Open { seq, t0 } => {
                assert_eq!(self.open.insert(layer, seq), None, "one group is open at a time");
                let before = self.groups.insert((layer, seq), Group { t0, ..Group::default() });
                assert!(before.is_none(), "{layer:?} {seq} is opened once");
            }
            Output::Frame(frame) => {
                let seq = self.open[&layer];
                let group = self.groups.get_mut(&(layer, seq)).expect("it was opened");
                assert!(frame.at >= group.t0, "no frame is before its group");
                assert!(group.frames.last().is_none_or(|last| last.at < frame.at), "frames follow each other");
                assert!(frame.keyframe || !group.frames.is_empty(), "a group begins with a keyframe");
                group.frames.push(frame);
            }
            Output::Close { seq } => {
                assert_eq!(self.open.remove(&layer), Some(seq));
                self.groups.get_mut(&(layer, seq)).expect("it was opened").closed = true;
            }
        }
    }
}

fn collector() -> (Arc<Mutex<Collected>>, Sink) {
    let collected = Arc::new(Mutex::new(Collected::default()));
    let sink = Arc::clone(&collected);
    (collected, Arc::new(move |layer, output| sink.lock().expect("no check failed").take(layer, output)))
}

/// Session time that is ahead of capture time.
fn later(by: u64) -> ToSession {
    Arc::new(move |at| at.saturating_add(Duration::from_millis(by)))
}

fn until(deadline: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < deadline, "it does not happen within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish(production: Production, collected: &Mutex<Collected>) -> (Stats, Groups) {
    let stats = production.stop();
    let groups = std::mem::take(&mut collected.lock().expect("no check failed").groups);
    assert!(groups.values().all(|group| group.closed), "stopping closes every group");
    (stats, groups)
}

fn small() -> Config {
    let main = video::Config { width: 320, height: 180, fps: 30, bitrate: 300_000 };
    Config { main, ..Config::default() }
}

#[test]
fn layers_share_number_and_start_of_their_groups() {
    let (collected, sink) = collector();
    let source = Box::new(Pattern::new("Điểm cầu", Instant::now()));
    let config = Config { first_seq: 70, group: Duration::from_secs(1), ..small() };
    let production = Production::start(source, config, later(5_000), sink).expect("it starts");
    production.enable(Layer::Thumb, true);
    until(Duration::from_secs(10), || {
        collected.lock().expect("no check failed").groups.contains_key(&(Layer::Audio, 73))
    });
    let (stats, groups) = finish(production, &collected);
    for seq in 71..73 {
        let [audio, main, thumb] = [Layer::Audio, Layer::Main, Layer::Thumb].map(|layer| &groups[&(layer, seq)]);
        assert!(audio.t0 == main.t0 && main.t0 == thumb.t0 && main.t0 >= MediaTime(5_000_000));
        assert_eq!(audio.frames.len(), 50);
        // A busy machine may drop a picture, which is counted.
        assert!(main.frames.len() <= 30 && main.frames.len() as u64 + stats.main.dropped >= 30, "{stats:?}");
        assert!(thumb.frames.len() <= 10 && thumb.frames.len() as u64 + stats.thumb.dropped >= 10, "{stats:?}");
    }
    assert_eq!((stats.audio.dropped, stats.audio.failed, stats.main.failed), (0, 0, 0));
    let bytes: usize = groups.values().flat_map(|group| &group.frames).map(|frame| frame.data.len()).sum();
    assert_eq!(stats.audio.bytes + stats.main.bytes + stats.thumb.bytes, bytes as u64);
}

#[test]
fn a_slow_encoder_drops_pictures_and_never_sound() {
    let (collected, inner) = collector();
    // Whoever takes the pictures needs a tenth of a second for each: a third of what is captured gets through.
    let sink: Sink = Arc::new(move |layer, output| {
        if layer == Layer::Main && matches!(output, Output::Frame(_)) {
            std::thread::sleep(Duration::from_millis(100));
        }
        inner(layer, output);
    });
    let source = Box::new(Pattern::new("Điểm cầu", Instant::now()));
    let production = Production::start(source, small(), later(1_000), sink).expect("it starts");
    until(Duration::from_secs(20), || production.stats().captured >= 90);
    let (stats, groups) = finish(production, &collected);
    assert!(stats.main.dropped >= 40, "{stats:?}");
    assert_eq!(stats.main.frames + stats.main.dropped, stats.captured, "each picture is encoded or counted");
    assert_eq!(stats.audio.dropped, 0);
    let sound: Vec<_> =
        groups.iter().filter(|((layer, _), _)| *layer == Layer::Audio).flat_map(|(_, group)| &group.frames).collect();
    assert!(sound.len() >= 145, "{} packets in three seconds", sound.len());
    for pair in sound.windows(2) {
        let apart = pair[1].at.since(pair[0].at).as_micros();
        assert!((19_000..=21_000).contains(&apart), "sound has no hole: {apart}");
    }
    let late = groups.iter().filter(|((layer, _), _)| *layer == Layer::Main).flat_map(|(_, group)| &group.frames);
    assert!(late.clone().count() > 10, "pictures still come");
}

#[test]
fn a_requested_keyframe_comes_within_a_second_for_all_layers() {
    let (collected, sink) = collector();
    let source = Box::new(Pattern::new("Điểm cầu", Instant::now()));
    let config = Config { group: Duration::from_secs(60), ..small() };
    let production = Production::start(source, config, later(0), sink).expect("it starts");
    until(Duration::from_secs(5), || production.stats().main.frames >= 40);
    for _ in 0..10 {
        production.keyframe();
    }
    let opened = |layer| collected.lock().expect("no check failed").groups.contains_key(&(layer, 1));
    until(Duration::from_secs(2), || opened(Layer::Main) && opened(Layer::Audio));
    let (stats, groups) = finish(production, &collected);
    let (main, audio) = (&groups[&(Layer::Main, 1)], &groups[&(Layer::Audio, 1)]);
    assert_eq!(main.t0, audio.t0);
    assert!(main.frames[0].keyframe);
    assert!(stats.main.frames < 80, "the request did not have to wait for the regular cut");
    assert!(!groups.contains_key(&(Layer::Main, 2)), "ten requests are one keyframe");
}

#[test]
fn a_layer_can_be_switched_while_running() {
    let (collected, sink) = collector();
    let source = Box::new(Pattern::new("Điểm cầu", Instant::now()));
    let config = Config { group: Duration::from_secs(1), ..small() };
    let production = Production::start(source, config, later(0), sink).expect("it starts");
    until(Duration::from_secs(5), || production.stats().main.frames >= 10);
    assert_eq!(production.stats().thumb.frames, 0, "nobody wants it yet");
    production.enable(Layer::Thumb, true);
    until(Duration::from_secs(5), || production.stats().thumb.frames >= 3);
    production.enable(Layer::Thumb, false);
    let closed = || !collected.lock().expect("no check failed").open.contains_key(&Layer::Thumb);
    until(Duration::from_secs(5), closed);
    // Back within the same group or not: `Collected` refuses a group that is opened twice.
    production.enable(Layer::Thumb, true);
    let frames = production.stats().thumb.frames;
    until(Duration::from_secs(5), || production.stats().thumb.frames > frames + 3);
    finish(production, &collected);
}

#[test]
fn a_bitrate_can_be_changed_while_running() {
    let (collected, sink) = collector();
    let source = Box::new(Pattern::new("Điểm cầu", Instant::now()));
    let production = Production::start(source, small(), later(0), sink).expect("it starts");
    until(Duration::from_secs(5), || production.stats().audio.frames >= 10);
    production.set_bitrate(Layer::Audio, 64_000);
    until(Duration::from_secs(5), || production.stats().audio.frames >= 30);
    let (_, groups) = finish(production, &collected);
    let sizes: std::collections::BTreeSet<_> = groups
        .iter()
        .filter(|((layer, _), _)| *layer == Layer::Audio)
        .flat_map(|(_, group)| group.frames.iter().map(|frame| frame.data.len()))
        .collect();
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [80, 160], "32 and 64 kb/s in 20 ms");
}

/// A device under a test's control: gives what it is told.
struct Device(Receiver<Result<Event, Error>>);

impl Source for Device {
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, Error> {
        self.0.recv_timeout(patience).ok().transpose()
    }
}

fn device() -> (Sender<Result<Event, Error>>, Box<dyn Source>) {
    let (sender, receiver) = channel();
    (sender, Box::new(Device(receiver)))
}

/// A picture for each tenth of a second, each waited for so that none is dropped, and the sound after it.
fn feed(device: &Sender<Result<Event, Error>>, production: &Production, tenths: std::ops::Range<u64>, pictures: bool) {
    for tenth in tenths {
        if pictures {
            let frames = production.stats().main.frames;
            let mut picture = scenes::lively(64, 64, 1).next().expect("a picture");
            picture.at = MediaTime(tenth * 100_000);
            device.send(Ok(Event::Picture(Arc::new(picture)))).expect("it listens");
            until(Duration::from_secs(5), || production.stats().main.frames > frames);
        }
        let samples = Samples { rate: 48_000, channels: 1, pcm: vec![100; 4_800], at: MediaTime(tenth * 100_000) };
        device.send(Ok(Event::Samples(samples))).expect("it listens");
    }
}

#[test]
fn when_the_picture_vanishes_sound_goes_on_and_its_groups_are_closed() {
    let (collected, sink) = collector();
    let (device, source) = device();
    let production = Production::start(source, small(), later(0), sink).expect("it starts");
    feed(&device, &production, 0..10, true);
    device.send(Ok(Event::Vanished(Kind::Picture, "cable pulled".into()))).expect("it listens");
    feed(&device, &production, 10..50, false);
    until(Duration::from_secs(5), || production.stats().audio.frames >= 248);
    assert_eq!(production.stats().no_picture.as_deref(), Some("cable pulled"));
    assert!(!collected.lock().expect("no check failed").open.contains_key(&Layer::Main));
    device.send(Ok(Event::Appeared(Kind::Picture))).expect("it listens");
    feed(&device, &production, 50..70, true);
    device.send(Ok(Event::Ended)).expect("it listens");
    until(Duration::from_secs(5), || production.stats().source == State::Ended);
    let (stats, groups) = finish(production, &collected);
    assert_eq!(stats.no_picture, None);
    let of = |layer| groups.keys().filter(|key| key.0 == layer).map(|key| key.1).collect::<Vec<_>>();
    assert_eq!(of(Layer::Audio), [0, 1, 2, 3], "sound has every group");
    assert_eq!(of(Layer::Main), [0, 2, 3], "the picture has those in which there was one");
}

#[test]
fn a_source_that_fails_is_reported_and_its_groups_are_closed() {
    let (collected, sink) = collector();
    let (device, source) = device();
    let production = Production::start(source, small(), later(0), sink).expect("it starts");
    feed(&device, &production, 0..3, true);
    let error = Error::Spec("camera:9".into());
    let sentence = error.to_string();
    device.send(Err(error)).expect("it listens");
    until(Duration::from_secs(5), || {
        let collected = collected.lock().expect("no check failed");
        collected.open.is_empty() && collected.groups.len() == 2
    });
    assert_eq!(production.stats().source, State::Failed(sentence));
    let (stats, groups) = finish(production, &collected);
    assert_eq!(stats.audio.frames, 15, "all sound that was captured is there");
    assert_eq!(groups.len(), 2);
}

/// A source with a fault.
struct Faulty;

impl Source for Faulty {
    fn next(&mut self, _: Duration) -> Result<Option<Event>, Error> {
        panic!("this fault is part of the test");
    }
}

#[test]
fn a_source_that_panics_ends_like_one_that_fails() {
    let (collected, sink) = collector();
    let production = Production::start(Box::new(Faulty), small(), later(0), sink).expect("it starts");
    until(Duration::from_secs(5), || matches!(production.stats().source, State::Failed(_)));
    let (_, groups) = finish(production, &collected);
    assert!(groups.is_empty());
}
