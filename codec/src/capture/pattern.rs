//! A test picture that can be read back, with clicks to hear.
//!
//! People see the point's name, a clock and a counter; programs read the same from large black and white cells with a
//! check sum, in any picture that came through encoders and scaling, so that "who saw which picture how late" is
//! measured on pictures and not on packets. At each whole second of the capture clock one picture flashes and a tone
//! starts, which shows how far sound and picture are apart.
//!
//! Most of it stands still, as a meeting room does: it is cheap to draw and to encode, and what moves (a disc, digits,
//! cells) keeps the encoder honest. Cells are 32 pixels, so that they are two blocks of the transform in the small layer
//! and still several pixels in a wall of forty pictures.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Error, Event, Kind, Source, wait};
use crate::audio::RATE;
use crate::lettering::Lettering;
use crate::picture::Picture;
use crate::samples::Samples;
use crate::time::MediaTime;

/// Size of the picture.
pub const WIDTH: u32 = 1280;
/// Size of the picture.
pub const HEIGHT: u32 = 720;
/// Pictures per second; the counter counts them from the epoch.
pub const FPS: u64 = 30;

/// Sound given at once: 20 ms.
const RUN: u64 = 960;
/// How late a picture or a run is still given. After that we were suspended, and go on with the present.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Cells: three rows of 32 hold a counter of 32 bits, a time of 48 and a check sum of 16.
const CELL: u32 = 32;
const COLUMNS: u32 = 32;
const CELLS_X: u32 = 128;
const CELLS_Y: u32 = 608;
const CELL_DARK: u8 = 32;
const CELL_BRIGHT: u8 = 208;

const FLASH_X: u32 = 1120;
const FLASH_Y: u32 = 32;
const FLASH_SIDE: u32 = 128;
const FLASH_BRIGHT: u8 = 235;

const GROUND: [u8; 3] = [56, 138, 122];

/// What the cells of one picture say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Pictures since the epoch.
    pub counter: u32,
    /// When the picture was made, in milliseconds of Unix time.
    pub unix_ms: u64,
}

/// The source.
pub struct Pattern {
    epoch: Instant,
    /// Unix time of the epoch, in microseconds.
    unix_epoch: u64,
    drawing: Drawing,
    /// Number of the next picture, since the epoch.
    picture: u64,
    /// Number of the next run of sound, since the epoch.
    run: u64,
    appeared: Vec<Kind>,
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pattern").field("picture", &self.picture).field("run", &self.run).finish_non_exhaustive()
    }
}

impl Pattern {
    /// A pattern showing `name`, in real time from now on.
    pub fn new(name: &str, epoch: Instant) -> Self {
        let since = epoch.elapsed();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            epoch,
            unix_epoch: unix.saturating_sub(since).as_micros() as u64,
            drawing: Drawing::new(name),
            picture: number_at(since, PICTURES),
            run: number_at(since, RUNS),
            appeared: vec![Kind::Sound, Kind::Picture],
        }
    }

    fn next_picture(&mut self) -> Event {
        let at = time_of(self.picture, PICTURES);
        let mark = Mark { counter: self.picture as u32, unix_ms: (self.unix_epoch + at.micros()) / 1_000 };
        let picture = self.drawing.draw(at, self.picture.is_multiple_of(FPS), mark);
        self.picture += 1;
        Event::Picture(Arc::new(picture))
    }

    fn next_run(&mut self) -> Event {
        let at = time_of(self.run, RUNS);
        let pcm = sound(self.run * RUN).take(RUN as usize).collect();
        self.run += 1;
        Event::Samples(Samples { rate: RATE, channels: 1, pcm, at })
    }
}

impl Source for Pattern {
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, Error> {
        if let Some(kind) = self.appeared.pop() {
            return Ok(Some(Event::Appeared(kind)));
        }
        let now = self.epoch.elapsed();
        if now.saturating_sub(time_of(self.picture, PICTURES).since_zero()) > LATE_MAX {
            self.picture = number_at(now, PICTURES);
        }
        if now.saturating_sub(time_of(self.run, RUNS).since_zero()) > LATE_MAX {
            self.run = number_at(now, RUNS);
        }
        let picture_due = time_of(self.picture, PICTURES).since_zero();
        // Sound is there when its last sample is.
        let run_due = time_of(self.run + 1, RUNS).since_zero();
        if !wait(self.epoch, picture_due.min(run_due), patience) {
            return Ok(None);
        }
        Ok(Some(if picture_due <= run_due { self.next_picture() } else { self.next_run() }))
    }
}

/// How often something comes: `count` times in `micros`.
#[derive(Clone, Copy)]
struct Pace {
    count: u64,
    micros: u64,
}

const PICTURES: Pace = Pace { count: FPS, micros: 1_000_000 };
const RUNS: Pace = Pace { count: RATE as u64, micros: RUN * 1_000_000 };

fn time_of(number: u64, pace: Pace) -> MediaTime {
    MediaTime((u128::from(number) * u128::from(pace.micros) / u128::from(pace.count)) as u64)
}

/// The first that is not before `since`.
fn number_at(since: Duration, pace: Pace) -> u64 {
    (since.as_micros() * u128::from(pace.count)).div_ceil(u128::from(pace.micros)) as u64
}

/// The pattern's sound from a sample on: 30 ms of tone at each whole second.
pub fn sound(from: u64) -> impl Iterator<Item = i16> {
    (from..).map(|index| {
        let place = index % u64::from(RATE);
        if place >= u64::from(RATE) * 3 / 100 {
            return 0;
        }
        // A cosine: the first sample is the loudest, so that the start is sharp.
        let phase = place as f64 * 1_000.0 / f64::from(RATE) * TAU;
        (phase.cos() * 16_000.0) as i16
    })
}

/// People read the clock in Vietnam, which has one time zone and no summer time.
const ZONE_MS: u64 = 7 * 3_600_000;

/// Draws the pattern without waiting for anything: the still part, and letters for what changes.
#[derive(Debug)]
pub struct Drawing {
    ground: Picture,
    clock: Lettering,
    counter: Lettering,
}

impl Drawing {
    /// The still part, with the point's name as large as fits.
    pub fn new(name: &str) -> Self {
        let mut ground = Picture::black(WIDTH, HEIGHT, MediaTime::ZERO).expect("the size is good");
        ground.fill(0, 0, WIDTH, HEIGHT, GROUND);
        let bars = [
            [180, 128, 128],
            [168, 44, 136],
            [145, 147, 44],
            [133, 63, 52],
            [63, 193, 204],
            [51, 109, 212],
            [28, 212, 120],
        ];
        for (index, colour) in (0_u32..).zip(bars) {
            ground.fill(index * 160 + 80, 176, 160, 80, colour);
        }
        ground.fill(CELLS_X - CELL, CELLS_Y - 16, (COLUMNS + 2) * CELL, 3 * CELL + 32, [CELL_DARK, 128, 128]);
        ground.fill(FLASH_X, FLASH_Y, FLASH_SIDE, FLASH_SIDE, [CELL_DARK, 128, 128]);
        Lettering::fitting(name, 88, FLASH_X - 96).draw(&mut ground, 48, 56, name, 225);
        Self { ground, clock: Lettering::new(88), counter: Lettering::new(72) }
    }

    /// One picture, seen at `at`, in [`WIDTH`] by [`HEIGHT`].
    pub fn draw(&mut self, at: MediaTime, flash: bool, mark: Mark) -> Picture {
        let mut picture = self.ground.clone();
        picture.at = at;
        let day = (mark.unix_ms + ZONE_MS) % 86_400_000;
        let (hours, minutes, seconds) = (day / 3_600_000, day / 60_000 % 60, day / 1_000 % 60);
        let clock = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", day % 1_000);
        self.clock.draw(&mut picture, 48, 280, &clock, 225);
        self.counter.draw(&mut picture, 48, 376, &format!("#{:06}", mark.counter), 225);
        disc(&mut picture, place_of_disc(mark.counter), 520, 48);
        if flash {
            picture.fill(FLASH_X, FLASH_Y, FLASH_SIDE, FLASH_SIDE, [FLASH_BRIGHT, 128, 128]);
        }
        for (index, bright) in (0_u32..).zip(bits(mark)) {
            if bright {
                let (column, row) = (index % COLUMNS, index / COLUMNS);
                picture.fill(CELLS_X + column * CELL, CELLS_Y + row * CELL, CELL, CELL, [CELL_BRIGHT, 128, 128]);
            }
        }
        picture
    }
}

/// Left to right and back in eight seconds.
fn place_of_disc(counter: u32) -> u32 {
    let step = counter % 240;
    96 + step.min(240 - step) * 9
}

fn disc(picture: &mut Picture, x: u32, y: u32, radius: u32) {
    for row in (0..2 * radius).step_by(2) {
        let from_middle = row.abs_diff(radius);
        let half = (radius * radius).saturating_sub(from_middle * from_middle).isqrt();
        picture.fill(x - half, y - radius + row, 2 * half, 2, [190, 60, 170]);
    }
}

fn bits(mark: Mark) -> impl Iterator<Item = bool> {
    let bytes = bytes(mark);
    let sum = check_sum(&bytes).to_be_bytes();
    let all: Vec<u8> = bytes.into_iter().chain(sum).collect();
    (0..96).map(move |index| all[index / 8] >> (7 - index % 8) & 1 == 1)
}

fn bytes(mark: Mark) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..4].copy_from_slice(&mark.counter.to_be_bytes());
    bytes[4..].copy_from_slice(&mark.unix_ms.to_be_bytes()[2..]);
    bytes
}

/// CRC-16/CCITT-FALSE. It starts from ones, so a picture that is all dark does not pass.
fn check_sum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |sum, &byte| {
        (0..8).fold(sum ^ u16::from(byte) << 8, |sum, _| if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 })
    })
}

/// Reads the cells of a picture that shows the whole pattern, in any size. `None` when they cannot be read or it is
/// another picture.
pub fn read(picture: &Picture) -> Option<Mark> {
    let mut all = [0_u8; 12];
    for index in 0..96 {
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        let bright =
            brightness(picture, CELLS_X + column * CELL, CELLS_Y + row * CELL, CELL) > middle(CELL_DARK, CELL_BRIGHT);
        all[index as usize / 8] |= u8::from(bright) << (7 - index % 8);
    }
    let (bytes, sum) = all.split_at(10);
    if check_sum(bytes).to_be_bytes() != sum {
        return None;
    }
    let (counter, time) = bytes.split_at(4);
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    Some(Mark { counter: number(counter) as u32, unix_ms: number(time) })
}

/// Whether a picture that shows the whole pattern, in any size, flashes.
pub fn flash(picture: &Picture) -> bool {
    brightness(picture, FLASH_X, FLASH_Y, FLASH_SIDE) > middle(CELL_DARK, FLASH_BRIGHT)
}

/// Where tones start in 48 kHz mono sound: an index for each, at least half a second apart.
pub fn clicks(pcm: &[i16]) -> Vec<usize> {
    /// A quarter of the loudest; what an encoder smears before the start is far below.
    const LOUD: u16 = 4_000;
    let mut starts: Vec<usize> = Vec::new();
    for (index, value) in pcm.iter().enumerate() {
        let ready = starts.last().is_none_or(|&last| index >= last + RATE as usize / 2);
        if value.unsigned_abs() > LOUD && ready {
            starts.push(index);
        }
    }
    starts
}

fn middle(dark: u8, bright: u8) -> u8 {
    dark.midpoint(bright)
}

/// Brightness of the inner half of a square of the pattern, wherever scaling put it.
fn brightness(picture: &Picture, x: u32, y: u32, side: u32) -> u8 {
    let range = |start: u32, full: u32, found: u32| {
        let first = (start + side / 4) * found / full;
        first..((start + side * 3 / 4) * found).div_ceil(full).max(first + 1)
    };
    picture.brightness(range(x, WIDTH, picture.width()), range(y, HEIGHT, picture.height()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(mark: Mark, flash: bool) -> Picture {
        Drawing::new("Xã Ea Kar").draw(MediaTime(0), flash, mark)
    }

    #[test]
    fn a_mark_is_read_at_every_size() {
        for counter in [0, 1, 0x5555_5555, u32::MAX] {
            let mark = Mark { counter, unix_ms: 1_790_000_000_123 + u64::from(counter) };
            let picture = draw(mark, counter == 1);
            for (width, height) in [(1280, 720), (640, 360), (426, 240), (320, 180), (182, 102), (1920, 1080)] {
                let mut scaled = Picture::black(width, height, MediaTime(0)).expect("an even size");
                picture.scale_into(&mut scaled);
                assert_eq!(read(&scaled), Some(mark), "{width}x{height}");
                assert_eq!(flash(&scaled), counter == 1, "{width}x{height}");
            }
        }
    }

    #[test]
    fn another_picture_has_no_mark() {
        let mut picture = Picture::black(640, 360, MediaTime(0)).expect("an even size");
        assert_eq!(read(&picture), None);
        picture.fill(0, 0, 640, 360, [235, 128, 128]);
        assert_eq!(read(&picture), None);
        let mut damaged = draw(Mark { counter: 77, unix_ms: 1_790_000_000_123 }, false);
        damaged.fill(CELLS_X, CELLS_Y, CELL, CELL, [CELL_BRIGHT, 128, 128]);
        assert_eq!(read(&damaged), None, "one wrong cell is noticed");
    }

    #[test]
    fn tones_start_at_whole_seconds() {
        let pcm: Vec<i16> = sound(40_000).take(150_000).collect();
        assert_eq!(clicks(&pcm), [8_000, 56_000, 104_000]);
        assert_eq!(clicks(&[0; 1_000]), []);
    }

    #[test]
    fn pictures_and_sound_come_in_order_and_on_time() {
        let epoch = Instant::now();
        let mut source = Pattern::new("Sở Nội vụ", epoch);
        let (mut pictures, mut runs) = (Vec::new(), Vec::new());
        while pictures.len() < 12 {
            let event = source.next(Duration::from_millis(50)).expect("the pattern never fails");
            let now = epoch.elapsed();
            match event {
                Some(Event::Picture(picture)) => {
                    assert!(picture.at.since_zero() <= now, "no picture is from the future");
                    let mark = read(&picture).expect("its mark");
                    assert_eq!(u64::from(mark.counter) * 1_000_000 / FPS, picture.at.micros());
                    assert_eq!(flash(&picture), picture.at.micros().is_multiple_of(1_000_000));
                    pictures.push(mark.counter);
                }
                Some(Event::Samples(samples)) => {
                    assert!(samples.end().since_zero() <= now);
                    runs.push(samples.at);
                }
                Some(Event::Appeared(_)) => assert!(pictures.is_empty() && runs.is_empty()),
                other => assert!(other.is_none(), "{other:?}"),
            }
        }
        assert!(pictures.windows(2).all(|pair| pair[1] > pair[0]), "{pictures:?}");
        assert!(runs.windows(2).all(|pair| pair[1] > pair[0]), "{runs:?}");
    }

    #[test]
    fn the_next_is_never_before_now() {
        for micros in [0, 1, 33_332, 33_333, 33_334, 1_000_000, 86_400_000_001] {
            for pace in [PICTURES, RUNS] {
                let number = number_at(Duration::from_micros(micros), pace);
                assert!(time_of(number, pace).micros() + 1 >= micros);
                assert!(number == 0 || time_of(number - 1, pace).micros() < micros);
            }
        }
    }
}
