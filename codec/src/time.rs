//! A moment of media.
//!
//! Microseconds fit every frame rate and sample rate we meet closely enough (a 48 kHz sample lasts 20.8 us) and are
//! what travels in the group header. The type does not say which clock it counts on, because the same picture passes
//! through two: the capture clock (since an epoch the process chose) and session time. The function that takes one
//! names its clock. Arithmetic saturates: a moment before zero is zero, since sources may deliver a little before
//! the session's start and nothing downstream can use that.

use std::time::Duration;

/// Microseconds on the clock the context names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaTime(pub u64);

impl MediaTime {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// The moment `micros` microseconds after zero.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since zero.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// How long after zero.
    pub const fn since_zero(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// The moment `by` later, or the last one there is.
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// The moment `by` earlier, or zero.
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// The moment `by` later, or `None` past the end of the clock.
    pub fn checked_add(self, by: Duration) -> Option<Self> {
        self.0.checked_add(u64::try_from(by.as_micros()).ok()?).map(Self)
    }

    /// The moment `by` earlier, or `None` before zero.
    pub fn checked_sub(self, by: Duration) -> Option<Self> {
        self.0.checked_sub(u64::try_from(by.as_micros()).ok()?).map(Self)
    }

    /// How long after `earlier` this is; nothing when it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// How far apart two moments are, whichever comes first.
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stops_at_the_ends_of_the_clock() {
        let second = Duration::from_secs(1);
        assert_eq!(MediaTime::ZERO.saturating_sub(second), MediaTime::ZERO);
        assert_eq!(MediaTime::ZERO.checked_sub(second), None);
        assert_eq!(MediaTime(u64::MAX).saturating_add(second), MediaTime(u64::MAX));
        assert_eq!(MediaTime(u64::MAX).checked_add(second), None);
        assert_eq!(MediaTime(u64::MAX).saturating_sub(Duration::MAX), MediaTime::ZERO);
    }

    #[test]
    fn a_difference_is_exact_and_never_negative() {
        let (early, late) = (MediaTime(1_000), MediaTime(21_833));
        assert_eq!(late.since(early), Duration::from_micros(20_833));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.distance(late), late.distance(early));
        assert_eq!(early.saturating_add(late.since(early)), late);
    }
}
