//! When what a browser sends was seen or heard, on this node's clock.
//!
//! RTP times of sound and picture begin anywhere and run at different rates. What brings them together are the sender
//! reports (RFC 3550 6.4.1): each says what moment of the browser's clock belongs to an RTP time of that stream. So both
//! streams come to the browser's clock, and one offset takes both to ours: their distance stays what it was at the camera.
//! The offset is the smallest difference seen between capture there and arrival here, as nothing arrives before it was
//! captured.
//!
//! Until the first reports come, some hundred milliseconds to some seconds, arrival has to do. Going over to the better
//! time is spread over some frames, so that nobody hears it.

use codec::time::MediaTime;

/// A time this far from the truth is corrected at once, as after a machine slept.
const JUMP_US: i64 = 250_000;
/// Of a smaller difference a frame corrects this part.
const PART: i64 = 16;
/// Captured so long before it arrived, or after: that is no time.
const STRAY_US: i64 = 3_000_000;
/// Clocks of two programs on one machine drift apart when the machine's clock is being corrected: parts per million.
const DRIFT_PPM: i64 = 500;

/// What a sender report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// A moment on the browser's clock in microseconds.
    pub(super) moment_us: i64,
    /// The RTP time that belongs to it.
    pub(super) rtp: u32,
}

/// The browser's clock against ours. One for all streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Offset {
    /// Ours minus the browser's, and when that was last looked at.
    known: Option<(i64, i64)>,
}

impl Offset {
    /// What was captured at `moment` arrived at `now`.
    fn learn(&mut self, moment: i64, now: i64) -> i64 {
        let seen = now.saturating_sub(moment);
        let offset = match self.known {
            Some((offset, at)) => {
                let drift = now.saturating_sub(at).max(0) / 1_000_000 * DRIFT_PPM;
                // A clock that was set anew is another clock.
                if seen.abs_diff(offset) > STRAY_US.unsigned_abs() {
                    seen
                } else {
                    seen.min(offset.saturating_add(drift))
                }
            }
            None => seen,
        };
        let begun = self.known.map_or(now, |(_, at)| if now.saturating_sub(at) >= 1_000_000 { now } else { at });
        self.known = Some((offset, begun));
        offset
    }
}

/// The times of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    rate: i64,
    /// An RTP time, and our time that belongs to it.
    anchor: Option<(u32, i64)>,
    last: Option<i64>,
}

impl Stream {
    /// A stream whose RTP times count so many a second.
    pub(super) fn new(rate: u32) -> Stream {
        Stream { rate: i64::from(rate.max(1)), anchor: None, last: None }
    }

    /// When a frame that arrived at `now` was captured; later than the one before.
    pub(super) fn captured(
        &mut self,
        now: MediaTime,
        rtp: u32,
        report: Option<Report>,
        offset: &mut Offset,
    ) -> MediaTime {
        let now = i64::try_from(now.micros()).unwrap_or(i64::MAX);
        let (from, base) = *self.anchor.get_or_insert((rtp, now));
        let mut at = base.saturating_add(self.micros(rtp, from));
        let mut truth = None;
        if let Some(report) = report {
            let moment = report.moment_us.saturating_add(self.micros(rtp, report.rtp));
            truth = Some(offset.learn(moment, now).saturating_add(moment));
        }
        match truth {
            Some(truth) if truth.abs_diff(at) > JUMP_US.unsigned_abs() => at = truth,
            Some(truth) => at = at.saturating_add(truth.saturating_sub(at) / PART),
            // Nothing arrives before it is captured.
            None => at = at.min(now),
        }
        if at.abs_diff(now) > STRAY_US.unsigned_abs() {
            at = now;
        }
        self.anchor = Some((rtp, at));
        let at = self.last.map_or(at, |last| at.max(last.saturating_add(1)));
        self.last = Some(at);
        MediaTime::from_micros(u64::try_from(at).unwrap_or_default())
    }

    /// From one RTP time to another; they wrap (RFC 3550 5.1).
    fn micros(&self, to: u32, from: u32) -> i64 {
        i64::from(to.wrapping_sub(from).cast_signed()) * 1_000_000 / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(us: u64) -> MediaTime {
        MediaTime::from_micros(us)
    }

    /// A browser whose clock began long ago, whose sound arrives after 15 ms and whose picture after 60.
    #[test]
    fn sound_and_picture_keep_the_distance_they_had_at_the_camera() {
        let (mut offset, mut sound, mut picture) = (Offset::default(), Stream::new(48_000), Stream::new(90_000));
        let browser = 1_700_000_000_000_000_i64;
        let (sound_rtp, picture_rtp) = (u32::MAX - 20_000, 77_u32);
        let mut worst = 0;
        for n in 0..500_u64 {
            let captured = 5 * SECOND + n * 20_000;
            let moment = browser + i64::try_from(captured).unwrap();
            let reported = n >= 20;
            let report = |rate: u64, base: u32| {
                let ticks = u32::try_from(captured * rate / SECOND % (1 << 32)).unwrap();
                (
                    base.wrapping_add(ticks),
                    reported.then_some(Report { moment_us: moment, rtp: base.wrapping_add(ticks) }),
                )
            };
            let (rtp, said) = report(48_000, sound_rtp);
            let heard = sound.captured(at(captured + 15_000), rtp, said, &mut offset);
            let (rtp, said) = report(90_000, picture_rtp);
            let seen = picture.captured(at(captured + 60_000), rtp, said, &mut offset);
            if n > 150 {
                worst = worst.max(heard.distance(seen).as_micros());
                // Nobody knows the 15 ms.
                assert!(heard.distance(at(captured + 15_000)).as_micros() < 2_000, "{n}: {heard:?}");
            }
        }
        assert!(worst < 2_000, "{worst} us apart");
    }

    #[test]
    fn times_grow_whatever_comes() {
        let (mut offset, mut stream) = (Offset::default(), Stream::new(90_000));
        let mut last = MediaTime::ZERO;
        for (n, rtp) in [0, 3_000, 1 << 31, 5, u32::MAX, 6_000, 6_000, 9_000].into_iter().enumerate() {
            let now = at(SECOND + n as u64 * 33_000);
            let report = (n % 2 == 1).then_some(Report { moment_us: i64::MAX - 7, rtp: 9 });
            let captured = stream.captured(now, rtp, report, &mut offset);
            assert!(captured > last, "{n}");
            last = captured;
        }
    }

    #[test]
    fn what_stood_still_goes_on_with_the_present() {
        let (mut offset, mut stream) = (Offset::default(), Stream::new(48_000));
        stream.captured(at(SECOND), 1_000, None, &mut offset);
        // An hour later the same RTP clock goes on where it stopped.
        let now = at(3_600 * SECOND);
        assert_eq!(stream.captured(now, 1_960, None, &mut offset), now);
    }
}
