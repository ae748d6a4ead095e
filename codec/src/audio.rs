//! Sound to Opus and back.
//!
//! 48 kHz mono in packets of 20 ms at a constant rate, without silence suppression: on an encrypted line a packet's
//! size would otherwise show who speaks. In-band error correction lets a receiver rebuild a lost packet from the one
//! after it.
//!
//! Opus gives back sound later than it was put in (the look-ahead, 6.5 ms). The encoder takes that off the time it
//! writes on a frame, so `Frame::at` is when the *decoded* packet was heard, and nobody after it has to know.

pub(crate) mod resample;
pub(crate) mod surround;

mod timeline;

use std::time::Duration;

use bytes::Bytes;

use self::resample::Resampler;
pub use self::surround::Streams;
use self::timeline::Timeline;
use crate::frame::Frame;
use crate::samples::{Samples, lasting};
use crate::time::MediaTime;

/// Samples per second, always.
pub const RATE: u32 = 48_000;

/// Samples in a packet.
pub const PACKET_SAMPLES: usize = 960;

/// Length of a packet.
pub const PACKET: Duration = Duration::from_millis(20);

/// Samples a decoder gives before the first that was put in: the encoder's look-ahead, which MP4 wants to know.
pub const LOOKAHEAD_SAMPLES: u16 = 312;

/// Bitrates that make sense for one voice, in bits per second.
pub const BITRATE: std::ops::RangeInclusive<u32> = 6_000..=256_000;

/// Longest packet there is: 120 ms (RFC 6716 section 2.1.4).
const PACKET_SAMPLES_MAX: usize = 5_760;

/// Largest packet we make or take: at 256 kb/s one of 120 ms has 3840 bytes.
const PACKET_BYTES_MAX: usize = 4_000;

/// What an encoder makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bits per second, within [`BITRATE`].
    pub bitrate: u32,
    /// Lost packets in a hundred that error correction prepares for, 0 to 100. Zero sends none.
    pub loss_percent: u8,
}

impl Config {
    /// A microphone in a room.
    pub const VOICE: Self = Self { bitrate: 32_000, loss_percent: 5 };
}

/// Why sound could not be encoded or decoded.
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
    /// The bytes are no Opus packet. Conceal it and go on.
    #[error("an Opus packet of {bytes} bytes is damaged")]
    Damaged {
        /// Its length.
        bytes: usize,
    },
    /// The library refused for a reason of its own.
    #[error("the Opus library failed at {what}")]
    Library {
        /// What it was to do.
        what: &'static str,
        /// The library's word for it.
        #[source]
        source: opus::Error,
    },
}

fn library(what: &'static str) -> impl FnOnce(opus::Error) -> Error {
    move |source| Error::Library { what, source }
}

/// Encodes one point's sound, whatever rate and channels it comes in.
#[derive(Debug)]
pub struct Encoder {
    library: opus::Encoder,
    resampler: Resampler,
    timeline: Timeline,
    lookahead: Duration,
}

impl Encoder {
    /// An encoder with these settings.
    pub fn new(config: Config) -> Result<Self, Error> {
        within("a bitrate", config.bitrate, BITRATE)?;
        within("an expected loss", u32::from(config.loss_percent), 0..=100)?;
        let what = library("starting an encoder");
        let mut encoder = opus::Encoder::new(RATE, opus::Channels::Mono, opus::Application::Voip).map_err(what)?;
        let mut set = || {
            encoder.set_bitrate(opus::Bitrate::Bits(config.bitrate as i32))?;
            encoder.set_vbr(false)?;
            encoder.set_dtx(false)?;
            encoder.set_inband_fec(config.loss_percent > 0)?;
            encoder.set_packet_loss_perc(i32::from(config.loss_percent))?;
            // Half the default effort: no listener tells them apart at this rate, and it costs half.
            encoder.set_complexity(5)?;
            encoder.get_lookahead()
        };
        let lookahead = set().map_err(library("setting up an encoder"))?;
        debug_assert_eq!(lookahead, i32::from(LOOKAHEAD_SAMPLES), "the files say how long the look-ahead is");
        Ok(Self {
            library: encoder,
            resampler: Resampler::new(),
            timeline: Timeline::new(),
            lookahead: lasting(u64::from(LOOKAHEAD_SAMPLES), RATE),
        })
    }

    /// Takes a run of samples and gives the packets it completes. What is left waits for the next run. A gap in time
    /// is kept; a clock that runs slightly fast or slow is followed without a jump.
    pub fn encode(&mut self, samples: &Samples) -> Result<Vec<Frame>, Error> {
        let samples = self.resampler.convert(samples)?;
        self.timeline.push(&samples);
        let mut frames = Vec::new();
        while let Some((at, pcm)) = self.timeline.packet() {
            frames.push(self.packet(at, &pcm)?);
        }
        Ok(frames)
    }

    /// The last packet, filled up with silence, if anything waits for one.
    pub fn finish(&mut self) -> Result<Option<Frame>, Error> {
        match self.timeline.rest() {
            Some((at, pcm)) => self.packet(at, &pcm).map(Some),
            None => Ok(None),
        }
    }

    /// Changes the bitrate from the next packet on.
    pub fn set_bitrate(&mut self, bitrate: u32) -> Result<(), Error> {
        within("a bitrate", bitrate, BITRATE)?;
        self.library.set_bitrate(opus::Bitrate::Bits(bitrate as i32)).map_err(library("changing the bitrate"))
    }

    fn packet(&mut self, at: MediaTime, pcm: &[i16]) -> Result<Frame, Error> {
        let data = self.library.encode_vec(pcm, PACKET_BYTES_MAX).map_err(library("encoding a packet"))?;
        let at = at.saturating_sub(self.lookahead);
        Ok(Frame { at, keyframe: true, discardable: false, data: Bytes::from(data) })
    }
}

/// Decodes one track to 48 kHz mono.
#[derive(Debug)]
pub struct Decoder {
    library: opus::Decoder,
}

impl Decoder {
    /// A decoder that knows nothing yet; any packet may come first.
    pub fn new() -> Result<Self, Error> {
        let library = opus::Decoder::new(RATE, opus::Channels::Mono).map_err(library("starting a decoder"))?;
        Ok(Self { library })
    }

    /// The sound of one packet, heard at `at`.
    pub fn decode(&mut self, at: MediaTime, packet: &[u8]) -> Result<Samples, Error> {
        if packet.is_empty() || packet.len() > PACKET_BYTES_MAX {
            return Err(Error::Damaged { bytes: packet.len() });
        }
        self.run(at, packet, PACKET_SAMPLES_MAX, false)
    }

    /// 20 ms in place of a packet that is lost: rebuilt from the packet after it where that carries a copy, guessed
    /// from what came before otherwise.
    pub fn conceal(&mut self, at: MediaTime, next: Option<&[u8]>) -> Result<Samples, Error> {
        let next = next.filter(|packet| packet.len() <= PACKET_BYTES_MAX).unwrap_or(&[]);
        self.run(at, next, PACKET_SAMPLES, !next.is_empty())
    }

    fn run(&mut self, at: MediaTime, packet: &[u8], room: usize, rebuild: bool) -> Result<Samples, Error> {
        let mut pcm = vec![0; room];
        let length =
            self.library.decode(packet, &mut pcm, rebuild).map_err(|_| Error::Damaged { bytes: packet.len() })?;
        pcm.truncate(length);
        Ok(Samples { rate: RATE, channels: 1, pcm, at })
    }
}

fn within(what: &'static str, found: u32, range: std::ops::RangeInclusive<u32>) -> Result<(), Error> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(Error::Setting { what, found, least: *range.start(), most: *range.end() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, channels: u16, at: u64, count: usize) -> Samples {
        let start = at as f64 / 1e6;
        let pcm = (0..count)
            .flat_map(|index| {
                let phase = (start + index as f64 / f64::from(rate)) * 440.0 * std::f64::consts::TAU;
                std::iter::repeat_n((phase.sin() * 9_000.0) as i16, usize::from(channels))
            })
            .collect();
        Samples { rate, channels, pcm, at: MediaTime(at) }
    }

    /// How alike decoded sound is to the tone at its own times, 1 for equal.
    fn likeness(decoded: &Samples) -> f64 {
        let original = tone(RATE, 1, decoded.at.micros(), decoded.len());
        let product = |a: &Samples, b: &Samples| -> f64 {
            a.pcm.iter().zip(&b.pcm).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        product(decoded, &original) / (product(decoded, decoded) * product(&original, &original)).sqrt()
    }

    #[test]
    fn sound_comes_back_at_the_time_it_was_made() {
        for (rate, channels) in [(48_000, 1), (48_000, 2), (44_100, 2), (16_000, 1), (96_000, 1)] {
            let mut encoder = Encoder::new(Config::VOICE).expect("an encoder");
            let mut decoder = Decoder::new().expect("a decoder");
            let step = rate as usize / 100;
            let mut worst: f64 = 1.0;
            let mut packets = 0;
            for index in 0..100 {
                let input = tone(rate, channels, 1_000_000 + index * 10_000, step);
                for frame in encoder.encode(&input).expect("sound is encoded") {
                    let decoded = decoder.decode(frame.at, &frame.data).expect("and decoded");
                    packets += 1;
                    if packets > 5 {
                        worst = worst.min(likeness(&decoded));
                    }
                }
            }
            assert!(packets >= 46, "{rate} Hz gave {packets} packets");
            // A fifth of a millisecond late would make it 0.85.
            assert!(worst > 0.85, "{rate} Hz, {channels} channels: likeness {worst}");
        }
    }

    #[test]
    fn every_packet_has_the_same_size_even_in_silence() {
        let mut encoder = Encoder::new(Config::VOICE).expect("an encoder");
        let mut sizes = std::collections::BTreeSet::new();
        for index in 0..50 {
            let mut input = tone(48_000, 1, index * 20_000, 960);
            if index > 20 {
                input.pcm.fill(0);
            }
            sizes.extend(encoder.encode(&input).expect("sound is encoded").iter().map(|frame| frame.data.len()));
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [80], "32 kb/s in 20 ms");
    }

    #[test]
    fn a_lost_packet_is_rebuilt_from_the_next() {
        // The pitch jumps with the lost packet, so a guess from what came before cannot be right.
        const LOST: usize = 40;
        let mut encoder = Encoder::new(Config { bitrate: 32_000, loss_percent: 30 }).expect("an encoder");
        let mut frames = Vec::new();
        for index in 0..60 {
            let mut input = tone(48_000, 1, index * 20_000, 960);
            if index < LOST as u64 {
                for (place, value) in input.pcm.iter_mut().enumerate() {
                    *value = ((place as f64 / 48.0).sin() * 9_000.0) as i16;
                }
            }
            frames.extend(encoder.encode(&input).expect("sound is encoded"));
        }
        let [mut rebuilding, mut guessing] = [(); 2].map(|()| Decoder::new().expect("a decoder"));
        for frame in &frames[..LOST] {
            rebuilding.decode(frame.at, &frame.data).expect("a packet");
            guessing.decode(frame.at, &frame.data).expect("a packet");
        }
        let at = frames[LOST].at;
        let rebuilt = rebuilding.conceal(at, Some(&frames[LOST + 1].data)).expect("a rebuilt packet");
        let guessed = guessing.conceal(at, None).expect("a guess");
        assert_eq!((rebuilt.len(), guessed.len()), (PACKET_SAMPLES, PACKET_SAMPLES));
        let (rebuilt, guessed) = (likeness(&rebuilt), likeness(&guessed));
        assert!(rebuilt > 0.5 && rebuilt > guessed + 0.3, "rebuilt {rebuilt}, guessed {guessed}");
    }

    #[test]
    fn settings_and_sound_out_of_bounds_are_refused() {
        assert!(Encoder::new(Config { bitrate: 1_000, loss_percent: 0 }).is_err());
        assert!(Encoder::new(Config { bitrate: 32_000, loss_percent: 101 }).is_err());
        let mut encoder = Encoder::new(Config::VOICE).expect("an encoder");
        for (rate, channels, length) in [(0, 1, 10), (1_000, 1, 10), (48_000, 0, 10), (48_000, 2, 11), (48_000, 99, 99)]
        {
            let input = Samples { rate, channels, pcm: vec![0; length], at: MediaTime(0) };
            assert!(encoder.encode(&input).is_err(), "{rate} Hz, {channels} channels, {length} numbers");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_packets_are_never_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut decoder = Decoder::new().expect("a decoder");
            if let Ok(samples) = decoder.decode(MediaTime(0), &bytes) {
                proptest::prop_assert!(samples.len() <= PACKET_SAMPLES_MAX);
            }
            let _ = decoder.conceal(MediaTime(0), Some(&bytes));
        }
    }
}
