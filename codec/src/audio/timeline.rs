//! Keeps a run of samples and the clock together.
//!
//! Samples are counted by the device's clock and stamped by ours. The two never agree exactly: stamps jitter by
//! milliseconds and drift by seconds a day. Packets therefore follow the count, and the count is drawn towards the
//! stamps by at most a tenth of a millisecond per run, which nobody hears and which follows any clock that is less
//! than 0.5 % wrong. Only a step too large for that is taken as what it is: a gap, or sound that was already there.

use std::time::Duration;

use super::{PACKET_SAMPLES, RATE};
use crate::samples::{Samples, lasting};
use crate::time::MediaTime;

/// A difference this large is a gap or an overlap. Two packets: more than stamps jitter, less than lips show.
const STEP: Duration = Duration::from_millis(40);

/// Correction per run of samples.
const NUDGE_MAX: Duration = Duration::from_micros(100);

/// Cuts samples into packets with the time of each.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    waiting: Vec<i16>,
    /// A packet that ended early because time stepped forward after it.
    before_gap: Option<(MediaTime, Vec<i16>)>,
    /// When the first waiting sample was heard, once there was one.
    at: Option<MediaTime>,
    /// Samples since `at` was last set by a stamp, so that rounding does not add up.
    taken: u64,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a run at [`RATE`], one channel.
    pub(super) fn push(&mut self, samples: &Samples) {
        if samples.is_empty() {
            return;
        }
        let mut pcm = &samples.pcm[..];
        match self.at {
            None => self.at = Some(samples.at),
            Some(_) => {
                let expected = self.time_of(self.waiting.len());
                let apart = samples.at.distance(expected);
                if apart < STEP {
                    self.nudge(samples.at, expected);
                } else if samples.at > expected {
                    self.before_gap = self.rest();
                    self.at = Some(samples.at);
                    self.taken = 0;
                } else {
                    let known = (apart.as_micros() * u128::from(RATE) / 1_000_000) as usize;
                    pcm = pcm.get(known..).unwrap_or(&[]);
                }
            }
        }
        self.waiting.extend_from_slice(pcm);
    }

    /// The next whole packet.
    pub(super) fn packet(&mut self) -> Option<(MediaTime, Vec<i16>)> {
        if let Some(packet) = self.before_gap.take() {
            return Some(packet);
        }
        if self.waiting.len() < PACKET_SAMPLES {
            return None;
        }
        let at = self.time_of(0);
        let pcm = self.waiting.drain(..PACKET_SAMPLES).collect();
        self.taken += PACKET_SAMPLES as u64;
        Some((at, pcm))
    }

    /// What waits, filled up with silence to a packet.
    pub(super) fn rest(&mut self) -> Option<(MediaTime, Vec<i16>)> {
        if self.waiting.is_empty() {
            return None;
        }
        debug_assert!(self.waiting.len() < PACKET_SAMPLES, "whole packets are taken before");
        let at = self.time_of(0);
        self.waiting.resize(PACKET_SAMPLES, 0);
        self.taken += PACKET_SAMPLES as u64;
        Some((at, std::mem::take(&mut self.waiting)))
    }

    fn time_of(&self, ahead: usize) -> MediaTime {
        self.at.unwrap_or_default().saturating_add(lasting(self.taken + ahead as u64, RATE))
    }

    fn nudge(&mut self, stamp: MediaTime, expected: MediaTime) {
        let by = stamp.distance(expected).div_f64(16.0).min(NUDGE_MAX);
        let at = self.at.unwrap_or_default();
        self.at = Some(if stamp > expected { at.saturating_add(by) } else { at.saturating_sub(by) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(timeline: &mut Timeline, at: u64, count: usize) -> Vec<MediaTime> {
        timeline.push(&Samples { rate: RATE, channels: 1, pcm: vec![1; count], at: MediaTime(at) });
        std::iter::from_fn(|| timeline.packet())
            .map(|(at, pcm)| {
                assert_eq!(pcm.len(), PACKET_SAMPLES);
                at
            })
            .collect()
    }

    #[test]
    fn packets_follow_the_count_of_samples() {
        let mut timeline = Timeline::new();
        assert_eq!(run(&mut timeline, 5_000, 500), []);
        assert_eq!(run(&mut timeline, 15_416, 1_500), [MediaTime(5_000), MediaTime(25_000)]);
    }

    #[test]
    fn jitter_in_the_stamps_hardly_moves_a_packet() {
        let mut timeline = Timeline::new();
        let mut last = None;
        for index in 0..500_u64 {
            let jitter = [0, 9_000, 3_000, 14_000][index as usize % 4];
            for at in run(&mut timeline, index * 20_000 + jitter, 960) {
                if let Some(last) = last {
                    let apart = at.since(last).as_micros();
                    assert!((19_900..=20_100).contains(&apart), "{apart}");
                }
                last = Some(at);
            }
        }
        let end = last.expect("packets came").micros();
        assert!(end.abs_diff(499 * 20_000 + 6_500) < 5_000, "the mean of the stamps is kept: {end}");
    }

    #[test]
    fn a_device_clock_that_drifts_is_followed() {
        let mut timeline = Timeline::new();
        let mut last = MediaTime(0);
        // 500 parts in a million fast, for ten minutes.
        for index in 0..30_000_u64 {
            for at in run(&mut timeline, index * 20_010, 960) {
                last = at;
            }
        }
        assert!(last.micros().abs_diff(29_999 * 20_010) < 1_000, "{last:?}");
    }

    #[test]
    fn a_gap_stays_a_gap_and_nothing_is_lost_before_it() {
        let mut timeline = Timeline::new();
        assert_eq!(run(&mut timeline, 0, 1_000), [MediaTime(0)]);
        let packets = run(&mut timeline, 500_000, 960);
        assert_eq!(packets, [MediaTime(20_000), MediaTime(500_000)]);
    }

    #[test]
    fn sound_that_was_there_already_is_not_said_twice() {
        let mut timeline = Timeline::new();
        assert_eq!(run(&mut timeline, 0, 9_600).len(), 10);
        assert_eq!(run(&mut timeline, 100_000, 4_800), []);
        assert_eq!(run(&mut timeline, 150_000, 4_800), [MediaTime(200_000), MediaTime(220_000)]);
    }
}
