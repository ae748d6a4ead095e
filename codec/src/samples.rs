//! Raw sound.

use std::time::Duration;

use crate::time::MediaTime;

/// A run of 16-bit samples, channels interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Samples per second and channel.
    pub rate: u32,
    /// Channels, interleaved in `pcm`.
    pub channels: u16,
    /// The samples; a whole number of moments (`pcm.len()` is a multiple of `channels`).
    pub pcm: Vec<i16>,
    /// When the first sample was heard.
    pub at: MediaTime,
}

impl Samples {
    /// Moments in the run: samples of one channel.
    pub fn len(&self) -> usize {
        self.pcm.len() / usize::from(self.channels.max(1))
    }

    /// No sound at all.
    pub fn is_empty(&self) -> bool {
        self.pcm.is_empty()
    }

    /// How long the run lasts.
    pub fn duration(&self) -> Duration {
        lasting(self.len() as u64, self.rate)
    }

    /// When the run is over.
    pub fn end(&self) -> MediaTime {
        self.at.saturating_add(self.duration())
    }
}

/// How long `count` samples at `rate` last, to the microsecond below. A rate of zero lasts nothing.
pub fn lasting(count: u64, rate: u32) -> Duration {
    if rate == 0 {
        return Duration::ZERO;
    }
    let micros = u128::from(count) * 1_000_000 / u128::from(rate);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_counts_moments_not_numbers() {
        let stereo = Samples { rate: 48_000, channels: 2, pcm: vec![0; 1_920], at: MediaTime(5) };
        assert_eq!(stereo.len(), 960);
        assert_eq!(stereo.duration(), Duration::from_millis(20));
        assert_eq!(stereo.end(), MediaTime(20_005));
    }

    #[test]
    fn a_day_of_sound_keeps_its_length() {
        assert_eq!(lasting(44_100 * 86_400, 44_100), Duration::from_secs(86_400));
        assert_eq!(lasting(1, 0), Duration::ZERO);
    }
}
