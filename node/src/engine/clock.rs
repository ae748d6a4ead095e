//! Session time at a delegate: central's clock, learnt from exchanges and followed without jumps.
//!
//! Session time is microseconds since the session's start on central's local clock. Each exchange over the media
//! connection yields one estimate of the offset between the two local clocks, wrong by at most half its round trip:
//! the way there and the way back need not take equally long, and nothing in the numbers says which was slower. So
//! estimates are not averaged. A queue can only lengthen a round trip, never shorten it; the exchange with the shortest
//! one in the window is the most trustworthy alone, and its half round trip is a bound that really holds.
//!
//! Estimates get old because quartz drifts (up to about 100 ppm between two PCs), so an old exchange's bound grows by
//! that much each second and a newer one takes over in time.
//!
//! The offset in use is *slewed* towards the best estimate: session time runs a little faster or slower until it fits.
//! Frames are stamped with it, so it must never run backward, and a jump would be a hole or an overlap in a recording.
//! Only until [`Clock::is_steady`] first says so, before anything was stamped, a better estimate is taken at once. When central restarts, its local clock
//! begins anew and so does the origin it tells us: [`Input::Rebase`] forgets all estimates but keeps session time where
//! it is, and the slew takes care of the rest.
//!
//! What comes out is a [`Line`], a small value with everything needed to turn local into session time, so that capture
//! threads can use it without asking anybody.

use std::collections::VecDeque;

/// How long an exchange is remembered, in microseconds. Exchanges come about each second; twenty of them nearly always
/// contain one that met no queue.
const WINDOW: u64 = 20_000_000;

/// Exchanges remembered; with more than this in a window the oldest go first.
const SAMPLES_MAX: usize = 64;

/// So many exchanges, or one whose bound is this in microseconds, make a first line that frames may be stamped with.
const STEADY_SAMPLES: usize = 3;
const STEADY_ERROR: u64 = 5_000;

/// A longer round trip says nothing useful about the offset, in microseconds.
const ROUND_TRIP_MAX: u64 = 5_000_000;

/// How much two PC clocks may drift apart, in microseconds per second.
const DRIFT_PPM: u64 = 100;

/// Slew for ordinary corrections: one millisecond a second is far below what anyone hears or sees, ten times what two
/// clocks drift.
const SLEW_PPM: u64 = 1_000;

/// From this error on, in microseconds, the correction may be noticed: 100 ms of wrong time is worse than hurrying.
const HURRY_FROM: u64 = 100_000;

/// Slew for such errors: a second is made good in ten. Below a million, so time still never runs backward.
const HURRY_PPM: u64 = 100_000;

/// What the clock is told. All times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// One exchange: sent and received on our local clock, `remote` on central's somewhere in between.
    Sample {
        /// Our local time when the question left.
        sent: u64,
        /// Central's local time when it answered.
        remote: u64,
        /// Our local time when the answer arrived.
        received: u64,
    },
    /// Session time zero on central's local clock, as its invitation says; forgets estimates made with another origin.
    Rebase {
        /// Central's local time of the session's start; negative when central restarted since.
        origin: i64,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Use this from now on.
    Line(Line),
}

/// Turns local into session time: an offset that moves from one value to another at a fixed rate, then stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Local time at which this line begins; before it the first offset holds.
    since: u64,
    /// Session time minus local time at `since`.
    offset: i64,
    /// Where the offset goes.
    target: i64,
    /// How fast, in microseconds per second.
    ppm: u64,
}

impl Line {
    /// The line of central itself, whose session time begins at its local time `origin`.
    pub fn central(origin: i64) -> Line {
        let offset = origin.saturating_neg();
        Line { since: 0, offset, target: offset, ppm: 0 }
    }

    /// Session time at `local`, both in microseconds. Zero for moments before the session began.
    pub fn session_at(&self, local: u64) -> u64 {
        let time = i128::from(local) + i128::from(self.offset_at(local));
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }

    /// What is still to be corrected at `local`, in microseconds.
    pub fn remaining(&self, local: u64) -> u64 {
        self.target.abs_diff(self.offset_at(local))
    }

    fn offset_at(&self, local: u64) -> i64 {
        let elapsed = u128::from(local.saturating_sub(self.since));
        let moved = elapsed * u128::from(self.ppm) / 1_000_000;
        let distance = u128::from(self.target.abs_diff(self.offset));
        let moved = u64::try_from(moved.min(distance)).unwrap_or(u64::MAX);
        match self.target >= self.offset {
            true => self.offset.saturating_add_unsigned(moved),
            false => self.offset.saturating_sub_unsigned(moved),
        }
    }
}

/// The clock of one delegate in one session.
#[derive(Debug, Default)]
pub struct Clock {
    origin: Option<i64>,
    samples: VecDeque<Sample>,
    line: Option<Line>,
    /// Frames may have been stamped: from now on the line is slewed.
    steady: bool,
    outbox: Option<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    received: u64,
    round_trip: u64,
    /// Central's local time minus ours.
    offset: i64,
}

impl Sample {
    /// How wrong this estimate may be at `local`.
    fn bound(&self, local: u64) -> u64 {
        self.round_trip / 2 + local.saturating_sub(self.received) * DRIFT_PPM / 1_000_000
    }
}

impl Clock {
    /// Tells the clock something at local time `now`, in microseconds.
    pub fn handle(&mut self, now: u64, input: Input) {
        match input {
            Input::Sample { sent, remote, received } => {
                let Some(round_trip) = received.checked_sub(sent) else { return };
                if round_trip > ROUND_TRIP_MAX || received > now {
                    return;
                }
                let middle = sent + round_trip / 2;
                let Ok(offset) = i64::try_from(i128::from(remote) - i128::from(middle)) else { return };
                self.samples.push_back(Sample { received, round_trip, offset });
            }
            Input::Rebase { origin } => {
                if self.origin.replace(origin).is_some_and(|before| before != origin) {
                    self.samples.clear();
                }
            }
        }
        self.forget(now);
        self.aim(now);
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.take()
    }

    /// Nothing happens here by itself; time enters with exchanges alone.
    pub fn deadline(&self) -> Option<u64> {
        None
    }

    /// The line in use, once a first exchange was heard.
    pub fn line(&self) -> Option<Line> {
        self.line
    }

    /// How wrong session time may be at local time `now`, in microseconds: the bound of the estimate in use and what
    /// is not yet slewed. `None` before the first exchange.
    pub fn error(&self, now: u64) -> Option<u64> {
        let best = self.best(now)?;
        Some(best.bound(now) + self.line?.remaining(now))
    }

    /// Whether frames may be stamped with it: a first exchange alone may have met a queue, or a program that was just
    /// starting, and what it got wrong would be slewed away only slowly.
    pub fn is_steady(&self) -> bool {
        self.steady
    }

    fn forget(&mut self, now: u64) {
        // The newest always stays, so that a silent line leaves an old estimate rather than none.
        while self.samples.len() > 1
            && (self.samples.len() > SAMPLES_MAX || self.samples[0].received.saturating_add(WINDOW) < now)
        {
            self.samples.pop_front();
        }
    }

    fn best(&self, now: u64) -> Option<Sample> {
        self.samples.iter().min_by_key(|sample| sample.bound(now)).copied()
    }

    fn aim(&mut self, now: u64) {
        let (Some(origin), Some(best)) = (self.origin, self.best(now)) else { return };
        let target = best.offset.saturating_sub(origin);
        let line = match self.line {
            None => Line { since: now, offset: target, target, ppm: 0 },
            Some(line) if line.target == target => {
                self.steady |= self.is_enough(now);
                return;
            }
            Some(_) if !self.steady => Line { since: now, offset: target, target, ppm: 0 },
            Some(line) => {
                let offset = line.offset_at(now);
                let ppm = if target.abs_diff(offset) > HURRY_FROM { HURRY_PPM } else { SLEW_PPM };
                Line { since: now, offset, target, ppm }
            }
        };
        self.line = Some(line);
        self.outbox = Some(Output::Line(line));
        self.steady |= self.is_enough(now);
    }

    fn is_enough(&self, now: u64) -> bool {
        self.samples.len() >= STEADY_SAMPLES || self.error(now).is_some_and(|error| error <= STEADY_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// A clock that learnt of a session begun at central's 5 s, where central's clock is 100 s ahead of ours.
    fn started() -> Clock {
        let mut clock = Clock::default();
        clock.handle(10 * SECOND, Input::Rebase { origin: 5 * SECOND as i64 });
        exchange(&mut clock, 10 * SECOND, 1_000, 1_000, 100 * SECOND as i64);
        clock
    }

    /// An exchange begun at `sent` whose ways took `there` and `back`, with central's clock `ahead` of ours.
    fn exchange(clock: &mut Clock, sent: u64, there: u64, back: u64, ahead: i64) {
        let remote = (sent + there).checked_add_signed(ahead).expect("a time after central's epoch");
        let received = sent + there + back;
        clock.handle(received, Input::Sample { sent, remote, received });
    }

    fn at(clock: &Clock, local: u64) -> u64 {
        clock.line().expect("a line after the first exchange").session_at(local)
    }

    #[test]
    fn there_is_no_session_time_before_both_origin_and_exchange_are_known() {
        let mut clock = Clock::default();
        exchange(&mut clock, SECOND, 1_000, 1_000, 0);
        assert_eq!(clock.poll(), None);
        assert_eq!(clock.error(SECOND), None);
        clock.handle(2 * SECOND, Input::Rebase { origin: 0 });
        assert!(matches!(clock.poll(), Some(Output::Line(_))));
    }

    #[test]
    fn an_exchange_that_met_a_queue_is_replaced_at_once_before_anything_was_stamped() {
        let mut clock = Clock::default();
        clock.handle(10 * SECOND, Input::Rebase { origin: 0 });
        exchange(&mut clock, 10 * SECOND, 300_000, 10_000, 0);
        assert!(!clock.is_steady() && at(&clock, 11 * SECOND).abs_diff(11 * SECOND) > 100_000);
        exchange(&mut clock, 11 * SECOND, 2_000, 2_000, 0);
        assert!(clock.is_steady());
        assert_eq!(at(&clock, 12 * SECOND), 12 * SECOND);
    }

    #[test]
    fn three_exchanges_make_a_steady_clock_on_any_line() {
        let mut clock = Clock::default();
        clock.handle(10 * SECOND, Input::Rebase { origin: 0 });
        for second in 10..13 {
            assert!(!clock.is_steady());
            exchange(&mut clock, second * SECOND, 100_000, 90_000, 0);
        }
        assert!(clock.is_steady());
    }

    #[test]
    fn the_first_exchange_is_taken_at_once() {
        let clock = started();
        assert_eq!(at(&clock, 20 * SECOND), (20 + 100 - 5) * SECOND);
    }

    #[test]
    fn the_exchange_with_the_shortest_round_trip_wins_over_later_ones_in_a_queue() {
        let mut clock = started();
        for second in 11..15 {
            exchange(&mut clock, second * SECOND, 400_000, 10_000, 100 * SECOND as i64);
        }
        assert_eq!(at(&clock, 20 * SECOND), 115 * SECOND);
    }

    #[test]
    fn the_error_bound_holds_for_every_split_of_the_round_trip() {
        for there in [0, 1_000, 20_000, 39_000, 40_000] {
            let mut clock = Clock::default();
            clock.handle(SECOND, Input::Rebase { origin: 0 });
            exchange(&mut clock, SECOND, there, 40_000 - there, 7 * SECOND as i64);
            let now = SECOND + 40_000;
            let error = at(&clock, now).abs_diff(now + 7 * SECOND);
            assert!(error <= clock.error(now).expect("a bound after an exchange"), "there {there}: {error}");
        }
    }

    #[test]
    fn session_time_never_runs_backward_and_never_jumps() {
        let mut clock = started();
        let mut before = at(&clock, 11 * SECOND);
        let mut local = 11 * SECOND;
        // Central's clock is set back by three seconds, then forward by five: worse than any drift.
        for ahead in [97, 102] {
            clock.handle(local, Input::Rebase { origin: 5 * SECOND as i64 + ahead });
            exchange(&mut clock, local, 100, 100, ahead * SECOND as i64);
            local += 200;
            for _ in 0..2_000 {
                local += 30_000;
                let time = at(&clock, local);
                let step = time - before;
                assert!(time > before && step <= 35_000, "a step of {step} µs in 30 ms");
                before = time;
            }
        }
        assert!(clock.error(local).expect("a bound") < 20_000);
    }

    #[test]
    fn a_restarted_central_with_a_new_local_clock_leaves_session_time_where_it_was() {
        let mut clock = started();
        let before = at(&clock, 12 * SECOND);
        // Its clock began anew: it is now 11 s behind ours, and the session began 107 s before its start.
        clock.handle(12 * SECOND, Input::Rebase { origin: -106 * SECOND as i64 });
        exchange(&mut clock, 12 * SECOND, 5_000, 5_000, -11 * SECOND as i64);
        let after = at(&clock, 12 * SECOND + 10_000);
        assert_eq!(before, 107 * SECOND);
        assert!(after.abs_diff(before + 10_000) < 1_000, "{before} then {after}");
        assert_eq!(at(&clock, 12 * SECOND + 10_000), after);
    }

    #[test]
    fn an_old_exchange_gives_way_as_clocks_drift() {
        let mut clock = started();
        // 50 ppm of drift over 100 s are 5 ms; later exchanges are a little slower than the very first.
        for second in 11..111 {
            let ahead = 100 * SECOND as i64 + (second as i64 - 10) * 50;
            exchange(&mut clock, second * SECOND, 10_500, 10_500, ahead);
        }
        let error = at(&clock, 110 * SECOND).abs_diff((110 + 95) * SECOND + 5_000);
        assert!(error < 1_500, "{error} µs off after drifting 5 ms");
    }

    #[test]
    fn impossible_exchanges_are_ignored() {
        let mut clock = started();
        let line = clock.line();
        let now = 30 * SECOND;
        for (sent, remote, received) in
            [(now, 0, now - 1), (0, u64::MAX, 6 * SECOND), (now - 1, u64::MAX, now), (now, now, now + SECOND)]
        {
            clock.handle(now, Input::Sample { sent, remote, received });
        }
        assert_eq!(clock.line(), line);
    }

    #[test]
    fn memory_is_bounded_however_often_clocks_are_exchanged() {
        let mut clock = started();
        for n in 0..10_000 {
            exchange(&mut clock, 11 * SECOND + n, 10_000, 10_000, 100 * SECOND as i64);
        }
        assert!(clock.samples.len() <= SAMPLES_MAX);
    }
}
