//! Three hours between two points whose clocks are 50 parts in a million apart: half a second, if nobody followed. Time
//! is virtual; the clock, the cutter, sealing, the archive, and the writer and reader of films are the real ones.
//! Pictures are tiny and sound is silence, as only their times matter.

use codec::group::Cutter;
use codec::mp4::{Reader, Track};
use codec::picture::Picture;

use super::*;
use crate::engine::clock::{self, Clock, Line};

const SECOND: u64 = 1_000_000;
const LENGTH: u64 = 3 * 3_600 * SECOND;
/// Every fifth of a second a picture, every fiftieth a packet of sound; the same moment of the world has both.
const PICTURE: u64 = SECOND / 5;
const SOUND: u64 = SECOND / 50;
/// When the session began, in the world's time.
const BEGUN: u64 = 10 * SECOND;

/// Clocks of the two PCs at a moment of the world.
fn local_of_central(world: u64) -> u64 {
    5 * SECOND + world
}

fn local_of_delegate(world: u64) -> u64 {
    777 * SECOND + world + world * 50 / SECOND
}

/// Session time at the delegate, learnt from an exchange a second over a line whose delay changes from one to the next.
struct Learning {
    clock: Clock,
    line: Line,
    dice: u64,
}

impl Learning {
    fn new() -> Self {
        let origin = i64::try_from(local_of_central(BEGUN)).unwrap();
        let mut learning = Self { clock: Clock::default(), line: Line::central(0), dice: 1 };
        learning.clock.handle(local_of_delegate(0), clock::Input::Rebase { origin });
        (0..BEGUN / SECOND).for_each(|second| learning.exchange(second * SECOND));
        assert!(learning.clock.is_steady());
        learning
    }

    /// A way of 8 to 40 ms, and now and then one that met a queue.
    fn way(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = self.dice >> 40;
        8_000 + roll % 32_000 + if roll.is_multiple_of(50) { 300_000 } else { 0 }
    }

    fn exchange(&mut self, world: u64) {
        let (there, back) = (self.way(), self.way());
        let sent = local_of_delegate(world);
        let remote = local_of_central(world + there);
        let received = local_of_delegate(world + there + back);
        self.clock.handle(received, clock::Input::Sample { sent, remote, received });
        while let Some(clock::Output::Line(line)) = self.clock.poll() {
            self.line = line;
        }
    }
}

/// One track being recorded.
struct Recorder<'a> {
    scene: &'a Scene,
    sealer: Option<Sealer>,
    open: Option<Writer>,
    last: u64,
}

impl<'a> Recorder<'a> {
    fn new(scene: &'a Scene, point: u16, kind: TrackKind) -> Self {
        let (head, node) = (&scene.head, scene.points[usize::from(point)].id());
        let track = TrackId::new(number(point), kind);
        let sealer = Sealer::new(&scene.key, head.suite, head.id, node, track, head.epoch(), Start::random());
        Self { scene, sealer: Some(sealer), open: None, last: 0 }
    }

    /// Puts a frame captured at `at` where the cutter says. `data` is given its place in the group.
    fn frame(&mut self, cutter: &mut Cutter, at: u64, data: impl Fn(usize) -> Bytes) {
        let place = cutter.place(MediaTime(at));
        let t0 = place.t0.micros();
        if self.open.as_ref().is_none_or(|open| open.header().seq != place.seq) {
            self.close();
            self.open = Some(Writer::new(self.sealer.take().unwrap(), place.seq, t0).0);
        }
        let writer = self.open.as_mut().unwrap();
        let index = writer.frame_count() as usize;
        self.last = at.max(t0).max(self.last + 1);
        let flags = Flags { key: index == 0, ..Flags::default() };
        writer.frame(self.last - t0, flags, &data(index)).unwrap();
    }

    fn close(&mut self) {
        if let Some(writer) = self.open.take() {
            let finished = writer.finish();
            self.scene.archive.put_groups(&[finished.record]).unwrap();
            self.sealer = Some(finished.sealer);
        }
    }
}

/// Records one point for three hours; `session` tells session time at a moment of the world.
fn record(scene: &Scene, point: u16, mut session: impl FnMut(u64) -> u64) {
    let mut encoder = video::Encoder::new(video::Config::THUMB).unwrap();
    let pictures: Vec<Bytes> = (0..10_u64)
        .map(|index| {
            let picture = Picture::black(64, 36, MediaTime(index * PICTURE)).unwrap();
            encoder.encode(&picture, index == 0).unwrap().unwrap().data
        })
        .collect();
    // One packet of silence: 20 ms, full band, one channel (RFC 6716 section 3.1).
    let silence = Bytes::from_static(&[0xf8, 0xff, 0xfe]);
    let mut cutter = Cutter::new(0, MediaTime(session(BEGUN)), Duration::from_micros(GROUP_US));
    let (mut video, mut audio) =
        (Recorder::new(scene, point, TrackKind::Main), Recorder::new(scene, point, TrackKind::Audio));
    for moment in 0..LENGTH / SOUND {
        let world = BEGUN + moment * SOUND;
        let at = session(world);
        audio.frame(&mut cutter, at, |_| silence.clone());
        if (moment * SOUND).is_multiple_of(PICTURE) {
            video.frame(&mut cutter, at, |index| pictures[index.min(pictures.len() - 1)].clone());
        }
    }
    video.close();
    audio.close();
}

/// When each picture and each sound of a film is played.
fn played(film: &Path) -> [Vec<i64>; 2] {
    let reader = Reader::open(std::io::BufReader::new(std::fs::File::open(film).unwrap())).unwrap();
    let (Track::Found(video), Track::Found(sound)) = (&reader.video, &reader.sound) else { panic!("both are there") };
    [&video.samples[..], sound.samples()].map(|samples| samples.iter().map(|sample| sample.at).collect())
}

#[test]
fn a_clap_after_three_hours_is_seen_and_heard_at_once_though_clocks_drift() {
    let scene = Scene::new();
    record(&scene, 0, |world| Line::central(local_of_central(BEGUN) as i64).session_at(local_of_central(world)));
    let mut learning = Learning::new();
    record(&scene, 1, |world| {
        if world.is_multiple_of(SECOND) {
            learning.exchange(world);
        }
        learning.line.session_at(local_of_delegate(world))
    });
    let base = tempfile::tempdir().unwrap();
    let exported = scene.export(base.path(), &films()).unwrap();
    assert_eq!(exported.exports.iter().flat_map(|export| &export.missing).count(), 0);
    let films: Vec<[Vec<i64>; 2]> = exported.exports.iter().map(|export| played(&export.path)).collect();
    assert_eq!(films.len(), 2);
    for export in &exported.exports {
        assert!((length(&export.path) - LENGTH as f64 / 1e6).abs() < 0.5, "{export:?}");
    }
    let mut apart_max = 0;
    for clap in (0..LENGTH).step_by(60 * SECOND as usize) {
        let (picture, sound) = ((clap / PICTURE) as usize, (clap / SOUND) as usize);
        let moments = films.iter().flat_map(|[pictures, sounds]| [pictures[picture], sounds[sound]]);
        let (first, last) = (moments.clone().min().unwrap(), moments.max().unwrap());
        assert!(last - first < 40_000, "{} s: a clap is seen and heard from {first} to {last} µs", clap / SECOND);
        apart_max = apart_max.max(last - first);
    }
    println!("a clap is seen and heard at two points within {apart_max} µs");
}
