//! WAV: raw sound in chunks (RIFF, Microsoft and IBM 1991; extensible format of 2001).

use std::fs;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::{Fault, Media};
use crate::audio::surround::Downmix;
use crate::samples::{Samples, lasting};
use crate::time::MediaTime;

/// Runs given at once, per second: 20 ms each.
const RUNS: u32 = 50;

/// Chunks before the sound that are looked through.
const CHUNKS_MAX: usize = 1_000;

pub(super) struct Sounds {
    input: BufReader<fs::File>,
    format: Format,
    /// For more than two channels.
    downmix: Option<Downmix>,
    /// Where the sound begins, and its bytes as the file says.
    start: u64,
    length: u64,
    /// Moments given.
    given: u64,
}

impl Sounds {
    pub(super) fn open(file: fs::File) -> Result<Self, Fault> {
        let mut input = BufReader::new(file);
        input.seek(SeekFrom::Start(12))?;
        let mut format = None;
        for _ in 0..CHUNKS_MAX {
            let mut head = [0; 8];
            input.read_exact(&mut head)?;
            let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            match &head[..4] {
                b"fmt " => {
                    let mut body = Vec::new();
                    Read::by_ref(&mut input).take(u64::from(size.min(64))).read_to_end(&mut body)?;
                    format = Some(Format::parse(&body)?);
                    skip(&mut input, i64::from(size) - body.len() as i64 + i64::from(size % 2))?;
                }
                b"data" => {
                    let format = format.ok_or_else(|| Fault::Damaged("its sound comes before its format".into()))?;
                    let start = input.stream_position()?;
                    // A writer that did not know the length says zero or all ones.
                    let length = if size == 0 || size == u32::MAX { u64::MAX } else { u64::from(size) };
                    let downmix = (format.channels > 2).then(|| Downmix::wave(format.channels, format.speakers));
                    return Ok(Self { input, format, downmix, start, length, given: 0 });
                }
                _ => skip(&mut input, i64::from(size) + i64::from(size % 2))?,
            }
        }
        Err(Fault::Damaged("it has no sound among its first thousand chunks".into()))
    }
}

fn skip(input: &mut BufReader<fs::File>, bytes: i64) -> Result<(), Fault> {
    Ok(input.seek_relative(bytes)?)
}

impl Media<Samples> for Sounds {
    fn next(&mut self) -> Result<Option<(Samples, MediaTime)>, Fault> {
        let moment = u64::from(self.format.channels) * self.format.width.bytes() as u64;
        let left = self.length.saturating_sub(self.given * moment) / moment;
        let wanted = left.min(u64::from(self.format.rate / RUNS)) * moment;
        let mut raw = Vec::new();
        match Read::by_ref(&mut self.input).take(wanted).read_to_end(&mut raw) {
            Ok(_) => {}
            // What was cut off is the end of the sound.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error.into()),
        }
        raw.truncate(raw.len() / moment as usize * moment as usize);
        if raw.is_empty() {
            return Ok(None);
        }
        let at = MediaTime::ZERO.saturating_add(lasting(self.given, self.format.rate));
        let values = raw.chunks_exact(self.format.width.bytes());
        let pcm: Vec<i16> = values.map(|value| self.format.width.sample(value)).collect();
        let (channels, pcm) = match &self.downmix {
            Some(downmix) => (1, downmix.mix(&pcm)),
            None => (self.format.channels, pcm),
        };
        let samples = Samples { rate: self.format.rate, channels, pcm, at };
        self.given += samples.len() as u64;
        let end = MediaTime::ZERO.saturating_add(lasting(self.given, self.format.rate));
        Ok(Some((samples, end)))
    }

    fn rewind(&mut self) -> Result<(), Fault> {
        self.input.seek(SeekFrom::Start(self.start))?;
        self.given = 0;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Format {
    rate: u32,
    channels: u16,
    /// One bit for each loudspeaker, if the file says so.
    speakers: Option<u32>,
    width: Width,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Unsigned8,
    Signed16,
    Signed24,
    Signed32,
    Float32,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Self::Unsigned8 => 1,
            Self::Signed16 => 2,
            Self::Signed24 => 3,
            Self::Signed32 | Self::Float32 => 4,
        }
    }

    /// The upper sixteen bits of a sample of exactly this width.
    fn sample(self, value: &[u8]) -> i16 {
        match (self, value) {
            (Self::Unsigned8, &[value]) => (i16::from(value) - 128) << 8,
            (Self::Signed16, &[low, high])
            | (Self::Signed24, &[_, low, high])
            | (Self::Signed32, &[_, _, low, high]) => i16::from_le_bytes([low, high]),
            // The conversion saturates, and makes silence of what is no number.
            (Self::Float32, &[a, b, c, d]) => (f32::from_le_bytes([a, b, c, d]) * 32_767.0) as i16,
            _ => 0,
        }
    }
}

impl Format {
    fn parse(body: &[u8]) -> Result<Self, Fault> {
        let short = |at: usize| body.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        let cut = || Fault::Damaged("its format is cut off".into());
        let mut kind = short(0).ok_or_else(cut)?;
        let channels = short(2).ok_or_else(cut)?;
        let rate = u32::from(short(4).ok_or_else(cut)?) | u32::from(short(6).ok_or_else(cut)?) << 16;
        let bits = short(14).ok_or_else(cut)?;
        let mut speakers = None;
        if kind == 0xfffe {
            // Extensible: the loudspeakers stand at 20, and the kind proper begins the identifier at 24.
            let [low, high] = [short(20).ok_or_else(cut)?, short(22).ok_or_else(cut)?];
            speakers = Some(u32::from(low) | u32::from(high) << 16);
            kind = short(24).ok_or_else(cut)?;
        }
        let width = match (kind, bits) {
            (1, 8) => Width::Unsigned8,
            (1, 16) => Width::Signed16,
            (1, 24) => Width::Signed24,
            (1, 32) => Width::Signed32,
            (3, 32) => Width::Float32,
            _ => {
                let found = format!("its sound is of kind {kind} with {bits} bits, only plain samples can be played");
                return Err(Fault::Foreign(found));
            }
        };
        if !(1..=8).contains(&channels) || !(8_000..=192_000).contains(&rate) {
            let found = format!("its sound has {channels} channels at {rate} Hz, use 1 to 8 at 8000 to 192000 Hz");
            return Err(Fault::Foreign(found));
        }
        Ok(Self { rate, channels, speakers, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(kind: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&kind.to_le_bytes());
        body.extend_from_slice(&channels.to_le_bytes());
        body.extend_from_slice(&rate.to_le_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&bits.to_le_bytes());
        body
    }

    #[test]
    fn plain_formats_are_understood_and_others_named() {
        let good = Format::parse(&format(1, 2, 44_100, 16)).expect("good");
        assert_eq!(good, Format { rate: 44_100, channels: 2, speakers: None, width: Width::Signed16 });
        for (kind, channels, rate, bits) in
            [(2, 1, 8_000, 4), (1, 0, 8_000, 16), (1, 1, 7, 16), (1, 9, 48_000, 16), (3, 1, 48_000, 64)]
        {
            assert!(matches!(Format::parse(&format(kind, channels, rate, bits)), Err(Fault::Foreign(_))));
        }
        assert!(matches!(Format::parse(&format(1, 1, 8_000, 16)[..15]), Err(Fault::Damaged(_))));
    }

    #[test]
    fn every_width_gives_the_same_sound() {
        assert_eq!(Width::Unsigned8.sample(&[0xc0]), 0x4000);
        assert_eq!(Width::Signed16.sample(&[0x00, 0x40]), 0x4000);
        assert_eq!(Width::Signed24.sample(&[0xff, 0x00, 0x40]), 0x4000);
        assert_eq!(Width::Signed32.sample(&[0xff, 0xff, 0x00, 0x40]), 0x4000);
        assert_eq!(Width::Float32.sample(&0.5_f32.to_le_bytes()), 16_383);
        assert_eq!(Width::Float32.sample(&f32::NAN.to_le_bytes()), 0);
        assert_eq!(Width::Float32.sample(&9.0_f32.to_le_bytes()), i16::MAX);
    }
}
