//! Pictures to H.264 and back.
//!
//! Constrained baseline, one slice, no B frames: every browser and every hardware decoder takes it, and a frame can
//! be shown as soon as it has arrived. A second size is a second encoder, since the library's own layers cannot be
//! switched one by one. The encoder never decides on a keyframe by itself; groups do.

mod openh264;

pub(crate) mod annexb;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::frame::Frame;
use crate::picture::{self, Picture, SIDE_MAX, SIDE_MIN};
use crate::time::MediaTime;

/// Bitrates the encoder can hold, in bits per second: below, nothing is recognizable; above, the level forbids it.
pub const BITRATE: std::ops::RangeInclusive<u32> = 16_000..=20_000_000;

/// Frame rates the encoder can spread its bits over.
pub const FPS: std::ops::RangeInclusive<u32> = 1..=60;

/// What an encoder makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most pixels across; a larger picture is scaled down in its shape, a smaller one stays as it is.
    pub width: u32,
    /// Most pixels down.
    pub height: u32,
    /// Pictures per second that the bitrate is spread over, within [`FPS`].
    pub fps: u32,
    /// Bits per second, within [`BITRATE`].
    pub bitrate: u32,
}

impl Config {
    /// The layer that is recorded.
    pub const MAIN: Self = Self { width: 1280, height: 720, fps: 30, bitrate: 1_200_000 };
    /// The small live layer.
    pub const THUMB: Self = Self { width: 320, height: 180, fps: 10, bitrate: 80_000 };

    /// What a keyframe should stay below: six mean frames. The encoder knows nothing of a scene when it makes its first,
    /// so one above this is made again with what was learnt.
    fn keyframe_bytes_max(&self) -> usize {
        (self.bitrate / self.fps / 8 * 6) as usize
    }
}

/// Why pictures could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting outside its bounds. Ask for another.
    #[error("{what} of {found} is not possible, choose one from {least} to {most}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        found: u32,
        /// The smallest possible.
        least: u32,
        /// The largest possible.
        most: u32,
    },
    /// A picture larger than we handle.
    #[error("a picture of {width}x{height} cannot be used: sides must be from {SIDE_MIN} to {SIDE_MAX} pixels")]
    Size {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// The bytes are no picture, or one whose predecessors are missing. Go on at the next keyframe.
    #[error(
        "an H.264 frame is damaged or lacks the frames before it (decoder code {code}): go on at the next keyframe"
    )]
    Damaged {
        /// The library's word for it.
        code: i32,
    },
    /// The library was built while nasm was missing, which its own build does not say.
    #[error(
        "the H.264 encoder was built without its assembly and is three times too slow: with nasm installed, run `cargo clean -p openh264-sys2` and build again"
    )]
    Slow,
    /// The library refused for a reason of its own.
    #[error("the H.264 library failed at {what} (code {code})")]
    Library {
        /// What it was to do.
        what: &'static str,
        /// The library's word for it.
        code: i32,
    },
}

/// Encodes one layer of one point's pictures.
pub struct Encoder {
    config: Config,
    library: Option<openh264::Encoder>,
    /// Where larger pictures are scaled to; kept, as one is needed for each picture.
    scaled: Option<Picture>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder with these settings. The size it will make is known at the first picture.
    pub fn new(config: Config) -> Result<Self, Error> {
        within("a width", config.width, SIDE_MIN..=SIDE_MAX)?;
        within("a height", config.height, SIDE_MIN..=SIDE_MAX)?;
        within("a frame rate", config.fps, FPS)?;
        within("a bitrate", config.bitrate, BITRATE)?;
        if !openh264::is_fast() {
            return Err(Error::Slow);
        }
        Ok(Self { config, library: None, scaled: None })
    }

    /// Encodes a picture; the first one, one of a new size and one with `keyframe` become keyframes. `None` when
    /// the library made nothing of it.
    pub fn encode(&mut self, picture: &Picture, keyframe: bool) -> Result<Option<Frame>, Error> {
        let size = picture::fit(picture.width(), picture.height(), self.config.width, self.config.height);
        let known = self.library.take().filter(|library| library.size() == size);
        let begins = known.is_none();
        let mut library = match known {
            Some(library) => library,
            None => openh264::Encoder::new(size.0, size.1, &self.config)?,
        };
        let budget = self.config.keyframe_bytes_max();
        let fitting = if size == (picture.width(), picture.height()) { picture } else { self.scale(picture, size)? };
        let mut encoded = library.encode(fitting, keyframe);
        if begins && matches!(&encoded, Ok(Some(first)) if first.bytes.len() > budget) {
            encoded = library.encode(fitting, true);
        }
        self.library = Some(library);
        let Some(encoded) = encoded? else { return Ok(None) };
        let data = Bytes::from(encoded.bytes);
        Ok(Some(Frame { at: picture.at, keyframe: encoded.keyframe, discardable: false, data }))
    }

    /// Changes the bitrate from the next picture on.
    pub fn set_bitrate(&mut self, bitrate: u32) -> Result<(), Error> {
        within("a bitrate", bitrate, BITRATE)?;
        self.config.bitrate = bitrate;
        self.library.as_mut().map_or(Ok(()), |library| library.set_bitrate(bitrate))
    }

    /// Spreads the bitrate over this many pictures a second from the next one on, when fewer come than expected.
    pub fn set_fps(&mut self, fps: u32) -> Result<(), Error> {
        within("a frame rate", fps, FPS)?;
        self.config.fps = fps;
        self.library.as_mut().map_or(Ok(()), |library| library.set_fps(fps))
    }

    fn scale(&mut self, picture: &Picture, (width, height): (u32, u32)) -> Result<&Picture, Error> {
        let mut target = match self.scaled.take() {
            Some(target) if (target.width(), target.height()) == (width, height) => target,
            _ => Picture::black(width, height, picture.at).map_err(|_| Error::Size { width, height })?,
        };
        picture.scale_into(&mut target);
        Ok(self.scaled.insert(target))
    }
}

/// Whether decoding can begin at this access unit in Annex B form: a whole picture with its parameter sets. Reads what
/// others made, and decodes nothing.
pub fn begins(unit: &[u8]) -> bool {
    let has = |kind| annexb::nals(unit).any(|nal| annexb::kind_of(nal) == kind);
    has(annexb::kind::IDR) && has(annexb::kind::SPS) && has(annexb::kind::PPS)
}

/// NAL units of an access unit in Annex B form, counted up to `most`.
pub fn units(unit: &[u8], most: usize) -> usize {
    annexb::nals(unit).take(most).count()
}

/// Decodes one stream.
pub struct Decoder {
    library: openh264::Decoder,
    /// Times of frames whose pictures have not come out. A stream with B frames gives pictures in the order they are
    /// seen, so the earliest of these is the next picture's.
    pending: BinaryHeap<Reverse<MediaTime>>,
}

/// Pictures a stream may hold back for ordering (ITU-T H.264 A.3.1 allows 16 stored pictures).
const PENDING_MAX: usize = 16;

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder that awaits a keyframe.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { library: openh264::Decoder::new()?, pending: BinaryHeap::new() })
    }

    /// Decodes one access unit in Annex B form. A live stream gives its picture at once; one with B frames may give
    /// that of an earlier unit or none.
    ///
    /// After an error nothing is given until the next keyframe decodes.
    pub fn decode(&mut self, at: MediaTime, unit: &[u8]) -> Result<Option<Picture>, Error> {
        // The library allocates what a parameter set asks for, so look at it first.
        for nal in annexb::nals(unit).filter(|nal| annexb::kind_of(nal) == annexb::kind::SPS) {
            let Some(sequence) = annexb::Sequence::parse(nal) else { return Err(Error::Damaged { code: 0 }) };
            let (width, height) = (sequence.width, sequence.height);
            if width.max(height) > SIDE_MAX || width.min(height) < SIDE_MIN {
                return Err(Error::Size { width, height });
            }
        }
        self.pending.push(Reverse(at));
        let decoded = self.library.decode(unit, at);
        if decoded.is_err() {
            self.pending.clear();
        }
        let picture = decoded?;
        if self.pending.len() > PENDING_MAX {
            self.pending.pop();
        }
        Ok(picture.map(|picture| self.timed(picture)))
    }

    /// The pictures still held back, when the stream is over. The decoder can go on with a keyframe.
    pub fn flush(&mut self) -> Result<Vec<Picture>, Error> {
        let mut pictures = Vec::new();
        while pictures.len() < PENDING_MAX {
            let Some(picture) = self.library.flush()? else { break };
            pictures.push(self.timed(picture));
        }
        self.pending.clear();
        Ok(pictures)
    }

    fn timed(&mut self, mut picture: Picture) -> Picture {
        if let Some(Reverse(at)) = self.pending.pop() {
            picture.at = at;
        }
        picture
    }
}

fn within(what: &'static str, found: u32, range: std::ops::RangeInclusive<u32>) -> Result<(), Error> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(Error::Setting { what, found, least: *range.start(), most: *range.end() })
}
