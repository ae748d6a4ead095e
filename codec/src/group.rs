//! Cuts a point's pictures and sound into groups that share number and start.
//!
//! The obvious way, "a new group whenever the encoder makes a keyframe", cannot serve: sound and picture are encoded
//! on different threads and one is always ahead, so a cut decided when a keyframe comes out would fall behind sound
//! already handed out. Here a cut is a moment on the capture clock, known before any frame reaches it: the next
//! regular one stands from the start, and an early one is placed after everything that has been given a place. Both
//! kinds, however late, then ask where they belong and get the same answer.
//!
//! Numbers have no holes: when nothing was captured for minutes, the next group is the next number.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::MediaTime;

/// Cuts that are remembered for frames that come late. Early cuts are a second apart at least, so this is more than
/// fifteen seconds, far beyond what any encoder queue holds.
const CUTS_MAX: usize = 16;

/// Least time between a cut and an early one: newcomers' requests are merged, since each keyframe costs as much as
/// several other frames.
const EARLY_MIN: Duration = Duration::from_secs(1);

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the group.
    pub seq: u64,
    /// Start of the group: no frame of it is earlier.
    pub t0: MediaTime,
}

/// Decides the groups of one point. Pure; times are of one clock, which may jump but mostly grows.
#[derive(Debug)]
pub struct Cutter {
    length: Duration,
    /// Groups begun, the newest last; never empty.
    cuts: VecDeque<Place>,
    /// When the next group begins.
    next: MediaTime,
    /// The latest moment given a place, if any.
    latest: Option<MediaTime>,
}

impl Cutter {
    /// The first group has number `first_seq` and begins at `first_t0`; each lasts `length`, unless cut early. A
    /// length below one second is taken as one second.
    pub fn new(first_seq: u64, first_t0: MediaTime, length: Duration) -> Self {
        let length = length.max(EARLY_MIN);
        Self {
            length,
            cuts: VecDeque::from([Place { seq: first_seq, t0: first_t0 }]),
            next: first_t0.saturating_add(length),
            latest: None,
        }
    }

    /// The group of what was captured at `at`. A moment before everything remembered belongs to the oldest group
    /// still known; the caller takes the later of `at` and `t0`.
    pub fn place(&mut self, at: MediaTime) -> Place {
        self.latest = self.latest.max(Some(at));
        if at >= self.next {
            self.begin(at);
        }
        let found = self.cuts.iter().rev().find(|cut| cut.t0 <= at);
        *found.or(self.cuts.front()).expect("a cutter always has a group")
    }

    /// Asks for a new group as soon as it can be: after all that has a place, not before `now`, and at least a second
    /// after the last cut. Gives the start of the group that will answer, which many requests may share.
    pub fn request(&mut self, now: MediaTime) -> MediaTime {
        let after_all = self.latest.map_or(now, |latest| now.max(latest.saturating_add(Duration::from_micros(1))));
        let early = after_all.max(self.newest().t0.saturating_add(EARLY_MIN));
        self.next = self.next.min(early);
        self.next
    }

    fn begin(&mut self, at: MediaTime) {
        // After silence the start stays on the grid of the last cut, so that lengths remain regular.
        let length = u64::try_from(self.length.as_micros()).unwrap_or(u64::MAX).max(1);
        let past = at.since(self.next).as_micros() as u64;
        let t0 = self.next.saturating_add(Duration::from_micros(past / length * length));
        let seq = self.newest().seq.saturating_add(1);
        self.cuts.push_back(Place { seq, t0 });
        if self.cuts.len() > CUTS_MAX {
            self.cuts.pop_front();
        }
        self.next = t0.saturating_add(self.length);
    }

    fn newest(&self) -> Place {
        *self.cuts.back().expect("a cutter always has a group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Duration = Duration::from_secs(2);

    fn ms(ms: u64) -> MediaTime {
        MediaTime(ms * 1_000)
    }

    #[test]
    fn groups_are_cut_every_two_seconds() {
        let mut cutter = Cutter::new(40, ms(100), TWO);
        let cases = [(100, 40, 100), (2_099, 40, 100), (2_100, 41, 2_100), (4_099, 41, 2_100), (4_120, 42, 4_100)];
        for (at, seq, t0) in cases {
            assert_eq!(cutter.place(ms(at)), Place { seq, t0: ms(t0) }, "at {at}");
        }
    }

    #[test]
    fn late_sound_joins_the_group_of_its_time() {
        let mut cutter = Cutter::new(0, ms(0), TWO);
        assert_eq!(cutter.place(ms(2_033)).seq, 1);
        assert_eq!(cutter.place(ms(1_980)), Place { seq: 0, t0: ms(0) });
        assert_eq!(cutter.place(ms(2_000)), Place { seq: 1, t0: ms(2_000) });
    }

    #[test]
    fn a_request_cuts_after_everything_already_placed() {
        let mut cutter = Cutter::new(0, ms(0), TWO);
        cutter.place(ms(1_500));
        let cut = cutter.request(ms(1_400));
        assert!(cut > ms(1_500));
        assert_eq!(cutter.place(ms(1_500)).seq, 0, "what had a place keeps it");
        assert_eq!(cutter.place(ms(1_533)), Place { seq: 1, t0: cut });
        assert_eq!(cutter.place(ms(1_480)).seq, 0, "and later sound of that time joins it");
        assert_eq!(cutter.place(cut.saturating_add(TWO)).seq, 2, "the regular length counts from the early cut");
    }

    #[test]
    fn requests_within_a_second_are_one_cut() {
        let mut cutter = Cutter::new(0, ms(0), TWO);
        cutter.place(ms(100));
        let first = cutter.request(ms(120));
        assert_eq!(first, ms(1_000), "a second after the start");
        for at in (120..1_000).step_by(20) {
            assert_eq!(cutter.request(ms(at)), first);
            assert_eq!(cutter.place(ms(at)).seq, 0);
        }
        assert_eq!(cutter.place(first).seq, 1);
        assert_eq!(cutter.request(ms(1_950)), ms(2_000));
    }

    #[test]
    fn a_request_never_delays_the_regular_cut() {
        let mut cutter = Cutter::new(0, ms(0), TWO);
        cutter.place(ms(1_999));
        assert_eq!(cutter.request(ms(5_000)), ms(2_000));
    }

    #[test]
    fn numbers_have_no_holes_after_silence() {
        let mut cutter = Cutter::new(7, ms(0), TWO);
        assert_eq!(cutter.place(ms(61_000)), Place { seq: 8, t0: ms(60_000) });
        assert_eq!(cutter.place(ms(62_000)), Place { seq: 9, t0: ms(62_000) });
    }

    #[test]
    fn a_clock_that_jumps_back_stays_in_a_known_group() {
        let mut cutter = Cutter::new(0, ms(10_000), TWO);
        assert_eq!(cutter.place(ms(3_000)), Place { seq: 0, t0: ms(10_000) });
        for at in (10_000..80_000).step_by(500) {
            cutter.place(ms(at));
        }
        let place = cutter.place(ms(0));
        assert!(place.seq > 0, "old cuts are forgotten, so memory is bounded");
        assert_eq!(cutter.place(ms(0)), place);
    }

    proptest::proptest! {
        #[test]
        fn one_moment_always_has_one_place(
            steps in proptest::collection::vec((0_u64..300, 0_u64..400, proptest::bool::ANY), 1..400)
        ) {
            let mut cutter = Cutter::new(0, ms(0), TWO);
            let mut now = 1_000;
            let mut given = std::collections::BTreeMap::new();
            for (step, late, request) in steps {
                now += step;
                if request {
                    cutter.request(ms(now));
                }
                for at in [now, now - late] {
                    let place = cutter.place(ms(at));
                    proptest::prop_assert!(place.t0 <= ms(at) && ms(at).since(place.t0) < TWO);
                    let before = given.insert(at, place);
                    proptest::prop_assert!(before.is_none_or(|before| before == place), "{} moved", at);
                }
            }
            let places: Vec<_> = given.into_values().collect();
            proptest::prop_assert!(places.is_sorted(), "a later moment is never in an earlier group");
        }
    }
}
