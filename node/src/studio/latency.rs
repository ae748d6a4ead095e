//! How late frames are, in a fixed amount of memory.
//!
//! Counted in steps of one millisecond up to half a second, where the difference matters, and of twenty beyond. The
//! largest is kept exactly.

use std::time::Duration;

const FINE: usize = 500;
/// Coarse steps end here, in milliseconds; what is later counts as this late, save for the largest.
const END_MS: usize = 10_500;
const COARSE_MS: usize = 20;
const STEPS: usize = FINE + (END_MS - FINE) / COARSE_MS;

/// Counts of delays.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    steps: Vec<u64>,
    count: u64,
    max: Duration,
}

/// What people want to know of many delays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half were sooner.
    pub p50: Duration,
    /// 19 of 20 were sooner.
    pub p95: Duration,
    /// 99 of 100 were sooner.
    pub p99: Duration,
    /// The latest.
    pub max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { steps: vec![0; STEPS], count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, delay: Duration) {
        let ms = usize::try_from(delay.as_millis()).unwrap_or(usize::MAX).min(END_MS - 1);
        let step = if ms < FINE { ms } else { FINE + (ms - FINE) / COARSE_MS };
        self.steps[step] += 1;
        self.count += 1;
        self.max = self.max.max(delay);
    }

    /// Zero for all while nothing was counted. Percentiles are the upper ends of their steps.
    pub(super) fn latency(&self) -> Latency {
        Latency { p50: self.within(50), p95: self.within(95), p99: self.within(99), max: self.max }
    }

    fn within(&self, percent: u64) -> Duration {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (step, count) in self.steps.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                let end = if step < FINE { step + 1 } else { FINE + (step - FINE + 1) * COARSE_MS };
                return Duration::from_millis(end as u64).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_the_step() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.latency(), Latency::default());
        (1..=1_000u64).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        let latency = histogram.latency();
        assert!(latency.p50.as_millis().abs_diff(500) <= 20);
        assert!(latency.p95.as_millis().abs_diff(950) <= 20 && latency.p99.as_millis().abs_diff(990) <= 20);
        assert_eq!(latency.max.as_millis(), 1_000);
        let mut histogram = Histogram::default();
        (1..=100u64).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert_eq!(histogram.latency().p50.as_millis(), 51);
    }

    #[test]
    fn a_delay_of_hours_is_the_largest_and_nothing_worse() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_secs(7_200));
        let latency = histogram.latency();
        assert_eq!(latency.max, Duration::from_secs(7_200));
        assert!(latency.p50 <= latency.max);
    }
}
