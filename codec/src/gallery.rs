//! A whole session as one film: every point's picture side by side, every point's sound mixed.
//!
//! This is the one export that decodes and encodes again; the tracks themselves are exported as they were recorded.
//! It follows the session's clock, not the frames': thirty times a second each tile shows the latest picture seen by
//! then, so that points of any frame rate, late joiners and holes all end up where they were in the session. Frames are
//! pulled one by one and only what is on the wall is held, so an hour needs no more memory than a minute.

use std::io::{Seek, Write};
use std::iter::Peekable;
use std::time::Duration;

use crate::audio::{self, PACKET_SAMPLES, RATE};
use crate::frame::Frame;
use crate::lettering::Lettering;
use crate::mp4::{self, Writer};
use crate::picture::{self, Picture};
use crate::samples::{Samples, lasting};
use crate::time::MediaTime;
use crate::video;

/// Size of the film.
pub const WIDTH: u32 = 1280;
/// Size of the film.
pub const HEIGHT: u32 = 720;
/// Pictures per second.
pub const FPS: u32 = 30;

/// Twice a point's: a wall of tiles has more edges than a room.
const BITRATE: u32 = 2_500_000;

/// Opus for several voices at once.
const SOUND: audio::Config = audio::Config { bitrate: 64_000, loss_percent: 0 };

/// Pictures between keyframes, and between the film's changes from picture to sound: two seconds.
const GROUP: u64 = 2 * FPS as u64;

/// A tile without a new picture for this long goes dark: the point has left, or its line is gone.
const STALE: Duration = Duration::from_secs(3);

/// Sound this near to where it is expected continues what came before; further away there is a hole, or it was
/// there already. Ten milliseconds.
const SLACK: u64 = 480;

const WALL: [u8; 3] = [24, 128, 128];
const DARK: [u8; 3] = [40, 132, 126];

/// Why there is no film.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No point, or no time.
    #[error("there is nothing to show: no point, or a session that ends before it starts")]
    Empty,
    /// The pictures could not be encoded.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// The sound could not be encoded.
    #[error(transparent)]
    Audio(#[from] audio::Error),
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] mp4::Error),
    /// A size that cannot be; never seen, as sizes are ours.
    #[error(transparent)]
    Picture(#[from] picture::Error),
}

/// One point's recording, in session time and in order. Damaged frames are passed over.
pub struct Point<'a> {
    /// Shown in its tile.
    pub name: String,
    /// Its H.264 frames.
    pub video: Box<dyn Iterator<Item = Frame> + 'a>,
    /// Its Opus packets.
    pub audio: Box<dyn Iterator<Item = Frame> + 'a>,
}

impl std::fmt::Debug for Point<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Point").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Part of the film, in pixels; all even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Across.
    pub width: u32,
    /// Down.
    pub height: u32,
}

/// Where point `index` of `count` is on the wall: row by row, in the squarest grid.
pub fn tile(index: usize, count: usize) -> Tile {
    let columns = (1..).find(|columns| columns * columns >= count).unwrap_or(1).max(1);
    let rows = count.div_ceil(columns).max(1);
    let (width, height) = (even(WIDTH / columns as u32), even(HEIGHT / rows as u32));
    Tile { x: (index % columns) as u32 * width, y: (index / columns) as u32 * height, width, height }
}

/// Where a picture of this size lies in a tile: as large as fits, in the middle.
pub fn place(tile: Tile, width: u32, height: u32) -> Tile {
    let (w, h) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (tile_w, tile_h) = (u64::from(tile.width), u64::from(tile.height));
    let (width, height) = if w * tile_h >= h * tile_w { (tile_w, tile_w * h / w) } else { (tile_h * w / h, tile_h) };
    let (width, height) = (even(width as u32), even(height as u32));
    let x = tile.x + even((tile.width - width) / 2);
    let y = tile.y + even((tile.height - height) / 2);
    Tile { x, y, width, height }
}

/// Makes the film of a session from `from` to `until`, both in session time, and gives back what it was written to.
/// `progress` is told how far it has come, every two seconds of film.
pub fn write<W: Write + Seek>(
    points: Vec<Point<'_>>,
    from: MediaTime,
    until: MediaTime,
    out: W,
    mut progress: impl FnMut(MediaTime),
) -> Result<W, Error> {
    let pictures = pictures_until(until.since(from));
    if points.is_empty() || pictures == 0 {
        return Err(Error::Empty);
    }
    let count = points.len();
    let (mut screens, mut voices) = (Vec::new(), Vec::new());
    for (index, point) in points.into_iter().enumerate() {
        screens.push(Screen::new(point.name, tile(index, count), point.video)?);
        voices.push(Voice::new(from, point.audio)?);
    }
    let mut wall = Picture::black(WIDTH, HEIGHT, from)?;
    wall.fill(0, 0, WIDTH, HEIGHT, WALL);
    screens.iter_mut().for_each(|screen| screen.darken(&mut wall));
    let mut encoder = video::Encoder::new(video::Config { width: WIDTH, height: HEIGHT, fps: FPS, bitrate: BITRATE })?;
    let mut mixer = audio::Encoder::new(SOUND)?;
    let mut writer = Writer::new(out, from)?;
    let mut packets = 0;
    let mut mixed: Vec<Frame> = Vec::new();
    for number in 0..pictures {
        let at = from.saturating_add(picture_time(number));
        for screen in &mut screens {
            screen.show(at, &mut wall);
        }
        wall.at = at;
        if let Some(frame) = encoder.encode(&wall, number.is_multiple_of(GROUP))? {
            writer.video(&frame)?;
        }
        // Sound up to the end of this picture; written in runs of a group, so that the file has few pieces.
        let end = picture_time(number + 1);
        while lasting((packets + 1) * PACKET_SAMPLES as u64, RATE) <= end {
            let mut sum = [0_i32; PACKET_SAMPLES];
            for voice in &mut voices {
                voice.add(packets * PACKET_SAMPLES as u64, &mut sum);
            }
            let pcm = sum.iter().map(|&value| value.clamp(i16::MIN.into(), i16::MAX.into()) as i16).collect();
            let at = from.saturating_add(lasting(packets * PACKET_SAMPLES as u64, RATE));
            mixed.extend(mixer.encode(&Samples { rate: RATE, channels: 1, pcm, at })?);
            packets += 1;
        }
        if (number + 1).is_multiple_of(GROUP) || number + 1 == pictures {
            for frame in mixed.drain(..) {
                writer.audio(&frame)?;
            }
            progress(at);
        }
    }
    Ok(writer.finish()?)
}

fn even(side: u32) -> u32 {
    side & !1
}

/// How many pictures begin within a film of this length.
fn pictures_until(length: Duration) -> u64 {
    let count = (length.as_micros() * u128::from(FPS)).div_ceil(1_000_000);
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn picture_time(number: u64) -> Duration {
    Duration::from_micros(number.saturating_mul(1_000_000) / u64::from(FPS))
}

/// One point's tile.
struct Screen<'a> {
    name: String,
    tile: Tile,
    frames: Box<dyn Iterator<Item = Frame> + 'a>,
    decoder: video::Decoder,
    /// Decoded, and not yet due.
    next: Option<Picture>,
    /// When what is shown was seen; `None` while dark.
    shown: Option<MediaTime>,
    label: Lettering,
    /// Width and height of the plate under the label.
    plate: (u32, u32),
    caption: Lettering,
}

impl<'a> Screen<'a> {
    fn new(name: String, tile: Tile, frames: Box<dyn Iterator<Item = Frame> + 'a>) -> Result<Self, Error> {
        let decoder = video::Decoder::new()?;
        let line = (tile.height / 20).max(14);
        let label = Lettering::fitting(&name, line, tile.width / 2);
        let plate = (even(label.width(&name) as u32 + 13), even(line + 5));
        let caption = Lettering::fitting(&name, (tile.height / 8).max(14), tile.width * 9 / 10);
        Ok(Self { name, tile, frames, decoder, next: None, shown: None, label, plate, caption })
    }

    /// Brings the tile to what was seen by `at`.
    fn show(&mut self, at: MediaTime, wall: &mut Picture) {
        let mut due = None;
        while let Some(next) = self.next.take().or_else(|| self.decode()) {
            if next.at > at {
                self.next = Some(next);
                break;
            }
            due = Some(next);
        }
        // A picture from before a hole in the record that ends right here is as stale as one on the wall.
        if let Some(picture) = due.filter(|picture| at.since(picture.at) <= STALE) {
            self.draw(&picture, wall);
        } else if self.shown.is_some_and(|shown| at.since(shown) > STALE) {
            self.darken(wall);
        }
    }

    /// The next picture that can be decoded.
    fn decode(&mut self) -> Option<Picture> {
        self.frames.by_ref().find_map(|frame| self.decoder.decode(frame.at, &frame.data).ok().flatten())
    }

    fn draw(&mut self, picture: &Picture, wall: &mut Picture) {
        let Tile { x, y, width, height } = self.tile;
        let place = place(self.tile, picture.width(), picture.height());
        if self.shown.is_none() {
            wall.fill(x, y, width, height, WALL);
        }
        picture.scale_onto(wall, place.x, place.y, place.width, place.height);
        // A plate, as the picture below may be as bright as the letters, or not reach there, and letters drawn upon
        // themselves grow thick.
        wall.fill(x, y, self.plate.0, self.plate.1, WALL);
        self.label.draw(wall, x + 6, y + 2, &self.name, 235);
        self.shown = Some(picture.at);
    }

    /// The tile of a point that is not there: its name only.
    fn darken(&mut self, wall: &mut Picture) {
        let Tile { x, y, width, height } = self.tile;
        wall.fill(x + 2, y + 2, width - 4, height - 4, DARK);
        let left = (width.saturating_sub(self.caption.width(&self.name) as u32)) / 2;
        self.caption.draw(wall, x + left, y + height * 7 / 16, &self.name, 150);
        self.shown = None;
    }
}

/// One point's sound, laid on the film's count of samples.
struct Voice<'a> {
    zero: MediaTime,
    packets: Peekable<Box<dyn Iterator<Item = Frame> + 'a>>,
    decoder: audio::Decoder,
    /// Decoded sound, beginning at sample `start` of the film; silence before and after.
    pcm: Vec<i16>,
    start: u64,
}

impl<'a> Voice<'a> {
    fn new(zero: MediaTime, packets: Box<dyn Iterator<Item = Frame> + 'a>) -> Result<Self, Error> {
        let decoder = audio::Decoder::new()?;
        Ok(Self { zero, packets: packets.peekable(), decoder, pcm: Vec::new(), start: 0 })
    }

    /// Adds one packet's length of sound from sample `from` on.
    fn add(&mut self, from: u64, sum: &mut [i32; PACKET_SAMPLES]) {
        let (until, zero) = (from + PACKET_SAMPLES as u64, self.zero);
        while self.end() < until
            && let Some(packet) = self.packets.next_if(|packet| sample_at(packet.at, zero) < until)
        {
            self.take(&packet);
        }
        // What is heard by now is not needed again.
        let heard = (from.saturating_sub(self.start) as usize).min(self.pcm.len());
        self.pcm.drain(..heard);
        self.start += heard as u64;
        if self.pcm.is_empty() {
            self.start = self.start.max(from);
        }
        let Some(offset) = self.start.checked_sub(from) else { return };
        for (sum, &value) in sum.iter_mut().skip(offset as usize).zip(&self.pcm) {
            *sum += i32::from(value);
        }
    }

    fn end(&self) -> u64 {
        self.start + self.pcm.len() as u64
    }

    fn take(&mut self, packet: &Frame) {
        let place = sample_at(packet.at, self.zero);
        if self.pcm.is_empty() {
            if place > self.start + SLACK {
                self.start = place;
            }
        } else if let Some(hole) = place.checked_sub(self.end() + SLACK) {
            // A hole below a packet's length, or a lost packet, of which this one may hold a copy.
            let hole = (hole + SLACK) as usize;
            let lost = hole.abs_diff(PACKET_SAMPLES) <= SLACK as usize;
            let copy = lost.then(|| self.decoder.conceal(packet.at, Some(&packet.data)).ok()).flatten();
            let copy = copy.map_or_else(Vec::new, |samples| samples.pcm);
            self.pcm.extend(copy.into_iter().chain(std::iter::repeat(0)).take(hole));
        }
        // Heard by the decoder in any case, so that what follows is right.
        let Ok(samples) = self.decoder.decode(packet.at, &packet.data) else { return };
        // What lies before the film, or was there already, is not heard again.
        let before = sample_at(self.zero, packet.at);
        let twice = (self.end().saturating_sub(place)).saturating_sub(SLACK);
        let known = before.max(if self.pcm.is_empty() { 0 } else { twice });
        self.pcm.extend(samples.pcm.iter().skip(known as usize));
    }
}

/// Number of the film's sample at a moment.
fn sample_at(at: MediaTime, zero: MediaTime) -> u64 {
    (at.since(zero).as_micros() * u128::from(RATE) / 1_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_on_the_wall_and_apart() {
        for count in 1..=130 {
            let tiles: Vec<_> = (0..count).map(|index| tile(index, count)).collect();
            for (index, a) in tiles.iter().enumerate() {
                assert!(a.x + a.width <= WIDTH && a.y + a.height <= HEIGHT && a.width >= 64, "{count}: {a:?}");
                assert!([a.x, a.y, a.width, a.height].iter().all(|side| side.is_multiple_of(2)));
                for b in &tiles[index + 1..] {
                    let apart =
                        a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
                    assert!(apart, "{count}: {a:?} {b:?}");
                }
            }
        }
        assert_eq!(tile(3, 4), Tile { x: 640, y: 360, width: 640, height: 360 });
    }

    #[test]
    fn a_picture_keeps_its_shape_in_its_tile() {
        let tile = Tile { x: 640, y: 0, width: 640, height: 720 };
        assert_eq!(place(tile, 1280, 720), Tile { x: 640, y: 180, width: 640, height: 360 });
        assert_eq!(place(tile, 320, 180), Tile { x: 640, y: 180, width: 640, height: 360 });
        assert_eq!(place(tile, 720, 1280), Tile { x: 758, y: 0, width: 404, height: 720 });
    }

    #[test]
    fn the_film_is_as_long_as_the_session() {
        let cases = [(0, 0), (1, 1), (33_333, 1), (33_334, 2), (1_000_000, 30), (1_000_001, 31)];
        for (micros, pictures) in cases {
            assert_eq!(pictures_until(Duration::from_micros(micros)), pictures, "{micros}");
        }
    }
}
