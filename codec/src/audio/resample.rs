//! Any rate and channels to 48 kHz mono.
//!
//! The rates are fixed numbers, so the synchronous resampler is exact and cheap; a device clock that drifts against
//! ours is dealt with on the time line, which moves the packets' times rather than bending the sound. Each run comes
//! out with its own time, worked back from the end of what was put in, so that buffering here never adds up to an
//! offset.

use std::time::Duration;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use super::{Error, RATE, within};
use crate::samples::{Samples, lasting};

/// Rates that sound comes in, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 8_000..=192_000;

/// Channels that are mixed down; more is no microphone.
const CHANNELS: std::ops::RangeInclusive<u32> = 1..=8;

/// Input handled at once: 10 ms keeps the delay below a packet's length.
const CHUNKS_PER_SECOND: u32 = 100;

/// Converts one point's sound; starts anew when its rate changes.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    rate: u32,
    library: Fft<f32>,
    /// Input that does not fill a chunk yet.
    waiting: Vec<f32>,
    output: Vec<f32>,
    delay: Duration,
}

impl Resampler {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The same sound at 48 kHz in one channel. May give less than was put in, and the rest with the next run.
    pub(crate) fn convert(&mut self, samples: &Samples) -> Result<Samples, Error> {
        within("a sample rate", samples.rate, RATES)?;
        within("a number of channels", u32::from(samples.channels), CHANNELS)?;
        if !samples.pcm.len().is_multiple_of(usize::from(samples.channels)) {
            return Err(Error::Damaged { bytes: samples.pcm.len() * 2 });
        }
        if samples.rate == RATE {
            let pcm = if samples.channels == 1 {
                samples.pcm.clone()
            } else {
                mix(samples).map(|mean| mean as i16).collect()
            };
            return Ok(Samples { rate: RATE, channels: 1, pcm, at: samples.at });
        }
        let running = match self.running.take() {
            Some(running) if running.rate == samples.rate => running,
            _ => Running::new(samples.rate)?,
        };
        self.running.insert(running).convert(samples)
    }
}

impl Running {
    fn new(rate: u32) -> Result<Self, Error> {
        let chunk = (rate / CHUNKS_PER_SECOND) as usize;
        let library = Fft::new(rate as usize, RATE as usize, chunk, 1, FixedSync::Both).map_err(|_| {
            Error::Setting { what: "a sample rate", found: rate, least: *RATES.start(), most: *RATES.end() }
        })?;
        let output = vec![0.0; library.output_frames_max()];
        let delay = lasting(library.output_delay() as u64, RATE);
        Ok(Self { rate, library, waiting: Vec::new(), output, delay })
    }

    fn convert(&mut self, samples: &Samples) -> Result<Samples, Error> {
        let refused = Error::Damaged { bytes: samples.pcm.len() * 2 };
        self.waiting.extend(mix(samples).map(|mean| mean as f32));
        let chunk = self.library.input_frames_next();
        let mut pcm = Vec::new();
        let mut used = 0;
        while let Some(input) = self.waiting.get(used..used + chunk) {
            let room = self.output.len();
            let Ok(input) = InterleavedSlice::new(input, 1, chunk) else { return Err(refused) };
            let Ok(mut output) = InterleavedSlice::new_mut(&mut self.output, 1, room) else { return Err(refused) };
            let Ok((_, made)) = self.library.process_into_buffer(&input, &mut output, None) else {
                return Err(refused);
            };
            // The conversion to i16 saturates.
            pcm.extend(self.output[..made].iter().map(|&value| value.round() as i16));
            used += chunk;
        }
        self.waiting.drain(..used);
        let end =
            samples.end().saturating_sub(lasting(self.waiting.len() as u64, self.rate)).saturating_sub(self.delay);
        let at = end.saturating_sub(lasting(pcm.len() as u64, RATE));
        Ok(Samples { rate: RATE, channels: 1, pcm, at })
    }
}

/// The mean of the channels, moment by moment.
fn mix(samples: &Samples) -> impl Iterator<Item = i32> {
    let channels = usize::from(samples.channels);
    samples.pcm.chunks_exact(channels).map(move |moment| {
        let sum: i32 = moment.iter().map(|&value| i32::from(value)).sum();
        sum / channels as i32
    })
}
