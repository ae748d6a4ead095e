//! What one line can carry: estimate, token bucket and delay gate of one connection.
//!
//! A commune's line is slow and its modem keeps a long queue. Bytes in that queue are past every priority, so the only
//! way to keep sound on time is to send less than the line carries. QUIC's congestion control does not do that: CUBIC
//! fills the queue until it overflows, and BBR, when the application is the limit, grows without bound. So the sender
//! paces itself below an estimate of the line (the bucket), and watches the round trip grow over its minimum (the
//! gate); CUBIC stays as the fuse. The constants come from measurements over a 1 and a 2 Mb/s line: with the gate at
//! 20 ms nothing was gained, at 40 and 80 ms sound was never later than 400 ms under a 50 % overload.
//!
//! Delay is the *least* round trip of the last moments minus the least of the last 20 s: a standing queue delays every
//! packet, a busy processor only some.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Share of the estimate that is used, in percent: the rest keeps the queue empty.
const USED_PERCENT: u64 = 85;
/// How much unused time the bucket gives back. More would be a burst that itself delays sound.
const CREDIT_MAX: Duration = Duration::from_millis(25);
/// Nothing smaller than a packet is worth a wake-up, unless it is the last of a frame.
pub const SLICE_MIN: usize = 1200;
/// The window of the least round trip. It ages, since routes change.
const RTT_MIN_WINDOW: Duration = Duration::from_secs(20);
/// The window in which a delay must show in every sample.
const RTT_NOW_WINDOW: Duration = Duration::from_millis(200);
/// Above this at a group's start, a lower layer is sent.
pub const DELAY_LOW: Duration = Duration::from_millis(40);
/// Above this inside a group, the picture's group is given up.
pub const DELAY_SHED: Duration = Duration::from_millis(80);
/// Above this for `SOUND_ONLY_AFTER`, only sound is sent.
const DELAY_SOUND_ONLY: Duration = Duration::from_millis(200);
const SOUND_ONLY_AFTER: Duration = Duration::from_secs(2);
/// A line that we use less than this of, in percent of its estimate, has no queue of our making: its round trips grow
/// because a processor is busy or others send, and giving up our picture would not help. Beyond `DELAY_SOUND_ONLY` the
/// estimate itself is in doubt, and the delay counts whatever we send.
const USED_MIN_PERCENT: u64 = 25;
/// Below this the line counts as idle, and the estimate may grow.
const DELAY_IDLE: Duration = Duration::from_millis(20);
/// A probe fills the queue itself, and the transport's smoothed round trip forgets it only as packets pass. Until the
/// delay was low once, or for so long, it says nothing of the line.
const SETTLING_MAX: Duration = Duration::from_secs(3);
/// The estimate never falls below this: sound alone needs as much.
const ESTIMATE_MIN: u64 = 100_000;
/// Nor rises above this: on faster lines the bucket has no work.
const ESTIMATE_MAX: u64 = 1_000_000_000;
/// The window over which what was delivered is counted.
const DELIVERED_WINDOW: Duration = Duration::from_secs(2);

/// What the transport says of a connection at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub rtt: Duration,
    /// Congestion window, bytes.
    pub window: u64,
    /// Bytes put on the wire since the connection began.
    pub sent: u64,
    /// Bytes of them found lost.
    pub lost: u64,
}

/// What may begin or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Everything.
    Open,
    /// New groups in the low layer.
    Low,
    /// The open group of a camera is given up.
    Shed,
    /// Sound alone.
    SoundOnly,
}

/// One connection's line.
#[derive(Debug)]
pub struct Line {
    /// Bits per second.
    estimate: u64,
    /// What a probe measured: up to here the estimate may grow back without proof.
    probed: u64,
    /// Bytes that may be sent now; below zero after sound, which is never held back.
    credit: f64,
    credited_at: Instant,
    /// Round trips of the last moments, newest last.
    rtts: VecDeque<(Instant, Duration)>,
    /// Least round trip of each of the last seconds.
    minima: VecDeque<(Instant, Duration)>,
    /// (when, sent, lost) over the window.
    counts: VecDeque<(Instant, u64, u64)>,
    slow_since: Option<Instant>,
    /// After a probe, until when the delay is not believed.
    settling: Option<Instant>,
    window: u64,
    /// Bytes spent since the last group passed.
    spent: u64,
    passed_at: Instant,
}

impl Line {
    /// A line that is thought to carry `estimate` bits per second.
    pub fn new(now: Instant, estimate: u64) -> Self {
        let estimate = estimate.clamp(ESTIMATE_MIN, ESTIMATE_MAX);
        Self {
            estimate,
            probed: estimate,
            credit: 0.0,
            credited_at: now,
            rtts: VecDeque::new(),
            minima: VecDeque::new(),
            counts: VecDeque::new(),
            slow_since: None,
            settling: None,
            window: u64::MAX,
            spent: 0,
            passed_at: now,
        }
    }

    /// Bits per second the line is thought to carry.
    pub fn estimate(&self) -> u64 {
        self.estimate
    }

    /// A probe found `bits` per second.
    pub fn probed(&mut self, now: Instant, bits: u64) {
        self.settling = Some(now + SETTLING_MAX);
        self.estimate = bits.clamp(ESTIMATE_MIN, ESTIMATE_MAX);
        self.probed = self.estimate;
    }

    /// The transport's figures, about every 50 ms.
    pub fn sample(&mut self, now: Instant, path: Path) {
        self.rtts.push_back((now, path.rtt));
        while self.rtts.front().is_some_and(|(at, _)| now - *at > RTT_NOW_WINDOW) && self.rtts.len() > 1 {
            self.rtts.pop_front();
        }
        match self.minima.back_mut() {
            Some((at, least)) if now - *at < Duration::from_secs(1) => *least = (*least).min(path.rtt),
            _ => self.minima.push_back((now, path.rtt)),
        }
        while self.minima.front().is_some_and(|(at, _)| now - *at > RTT_MIN_WINDOW) {
            self.minima.pop_front();
        }
        self.counts.push_back((now, path.sent, path.lost));
        while self.counts.front().is_some_and(|(at, ..)| now - *at > DELIVERED_WINDOW) {
            self.counts.pop_front();
        }
        self.window = path.window;
        if self.settling.is_some_and(|until| now >= until || self.queue() < DELAY_LOW) {
            self.settling = None;
        }
        if self.delay() > DELAY_SOUND_ONLY {
            self.slow_since.get_or_insert(now);
        } else {
            self.slow_since = None;
        }
    }

    /// How long the queue on the way is: the least recent round trip over the least known.
    pub fn delay(&self) -> Duration {
        let queue = self.queue();
        let ours = self.sending() * 100 >= self.estimate * USED_MIN_PERCENT;
        let believed = self.settling.is_none() && (ours || queue > DELAY_SOUND_ONLY);
        if believed { queue } else { Duration::ZERO }
    }

    /// Bits per second put on the wire in the last 2 s.
    fn sending(&self) -> u64 {
        let (Some((start, sent_0, _)), Some((end, sent_1, _))) = (self.counts.front(), self.counts.back()) else {
            return 0;
        };
        let span = (*end - *start).as_secs_f64();
        if span > 0.0 { (sent_1.saturating_sub(*sent_0) as f64 * 8.0 / span) as u64 } else { 0 }
    }

    fn queue(&self) -> Duration {
        let recent = self.rtts.iter().map(|(_, rtt)| *rtt).min().unwrap_or_default();
        let least = self.minima.iter().map(|(_, rtt)| *rtt).min().unwrap_or_default();
        recent.saturating_sub(least)
    }

    /// What the delay allows now.
    pub fn gate(&self, now: Instant) -> Gate {
        if self.slow_since.is_some_and(|since| now - since >= SOUND_ONLY_AFTER) {
            return Gate::SoundOnly;
        }
        match self.delay() {
            delay if delay > DELAY_SHED => Gate::Shed,
            delay if delay > DELAY_LOW => Gate::Low,
            _ => Gate::Open,
        }
    }

    /// Bits per second that paced bytes may use.
    pub fn pace(&self) -> u64 {
        let mut bits = self.estimate;
        // A window held down by loss is the true limit, whatever the line could carry.
        let rtt = self.rtts.back().map(|(_, rtt)| *rtt).unwrap_or_default();
        if self.loss_percent() >= 1 && !rtt.is_zero() {
            let by_window = (self.window as f64 * 8.0 / rtt.as_secs_f64()) as u64;
            bits = bits.min(by_window);
        }
        (bits * USED_PERCENT / 100).max(ESTIMATE_MIN * USED_PERCENT / 100)
    }

    /// How many paced bytes may go now.
    pub fn allowance(&mut self, now: Instant) -> usize {
        let rate = self.pace() as f64 / 8.0;
        let passed = now.saturating_duration_since(self.credited_at);
        self.credited_at = now;
        let most = (rate * CREDIT_MAX.as_secs_f64()).max(2.0 * SLICE_MIN as f64);
        self.credit = (self.credit + rate * passed.as_secs_f64()).min(most);
        if self.credit > 0.0 { self.credit as usize } else { 0 }
    }

    /// `bytes` were handed to the transport, paced or not.
    pub fn spend(&mut self, bytes: usize) {
        self.credit -= bytes as f64;
        self.spent += bytes as u64;
    }

    /// The gate fired, or a group could not be carried in its time: believe 70 % of what got through.
    pub fn fired(&mut self) {
        let delivered = self.delivered();
        let believed = delivered * 70 / 100;
        if believed < self.estimate {
            self.estimate = believed.max(ESTIMATE_MIN);
        }
    }

    /// A group's time is over and nothing was given up: grow by 5 %, towards what was probed freely, above it only
    /// when the line was really used.
    pub fn group_passed(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.passed_at);
        if passed < Duration::from_secs(1) {
            return;
        }
        let used = (self.spent as f64 * 8.0 / passed.as_secs_f64()) as u64;
        self.spent = 0;
        self.passed_at = now;
        let proven = used > self.estimate * 60 / 100;
        if self.delay() < DELAY_IDLE && (self.estimate < self.probed || proven) {
            self.estimate = (self.estimate * 105 / 100).min(ESTIMATE_MAX);
        }
    }

    /// Bits per second that reached the far side in the last 2 s.
    fn delivered(&self) -> u64 {
        let (Some((start, sent_0, lost_0)), Some((end, sent_1, lost_1))) = (self.counts.front(), self.counts.back())
        else {
            return self.estimate;
        };
        let span = *end - *start;
        if span < Duration::from_millis(300) {
            return self.estimate;
        }
        let bytes = sent_1.saturating_sub(*sent_0).saturating_sub(lost_1.saturating_sub(*lost_0));
        // What went into the queue and not yet out of it was sent but not delivered.
        let share = span.saturating_sub(self.delay()).as_secs_f64() / span.as_secs_f64();
        (bytes as f64 * 8.0 / span.as_secs_f64() * share) as u64
    }

    fn loss_percent(&self) -> u64 {
        let (Some((_, sent_0, lost_0)), Some((_, sent_1, lost_1))) = (self.counts.front(), self.counts.back()) else {
            return 0;
        };
        let sent = sent_1.saturating_sub(*sent_0);
        if sent < 20 * SLICE_MIN as u64 { 0 } else { lost_1.saturating_sub(*lost_0) * 100 / sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rtt_ms: u64) -> Path {
        Path { rtt: Duration::from_millis(rtt_ms), window: 1 << 20, sent: 0, lost: 0 }
    }

    /// Samples of a line that is used to its estimate of 1 Mb/s.
    fn feed(line: &mut Line, from: Instant, rtts_ms: &[u64]) -> Instant {
        feed_at(line, from, rtts_ms, 1_000_000)
    }

    fn feed_at(line: &mut Line, from: Instant, rtts_ms: &[u64], bits: u64) -> Instant {
        let mut now = from;
        let mut sent = line.counts.back().map_or(0, |(_, sent, _)| *sent);
        for rtt in rtts_ms {
            now += Duration::from_millis(50);
            sent += bits / 8 / 20;
            line.sample(now, Path { sent, ..path(*rtt) });
        }
        now
    }

    #[test]
    fn one_late_sample_does_not_close_the_gate_but_a_standing_queue_does() {
        let start = Instant::now();
        let mut line = Line::new(start, 1_000_000);
        let now = feed(&mut line, start, &[40, 40, 300, 40, 300, 40]);
        assert_eq!(line.gate(now), Gate::Open);
        let now = feed(&mut line, now, &[90; 6]);
        assert_eq!(line.gate(now), Gate::Low);
        let now = feed(&mut line, now, &[130; 6]);
        assert_eq!(line.gate(now), Gate::Shed);
        let now = feed(&mut line, now, &[300; 50]);
        assert_eq!(line.gate(now), Gate::SoundOnly);
        let now = feed(&mut line, now, &[45; 6]);
        assert_eq!(line.gate(now), Gate::Open);
    }

    #[test]
    fn a_busy_processor_is_not_a_slow_line() {
        let start = Instant::now();
        let mut line = Line::new(start, 50_000_000);
        let now = feed(&mut line, start, &[1; 10]);
        let now = feed(&mut line, now, &[120; 20]);
        assert_eq!(line.gate(now), Gate::Open, "1 Mb/s makes no queue on a line of 50");
        let now = feed(&mut line, now, &[900; 60]);
        assert_eq!(line.gate(now), Gate::SoundOnly, "unless it is no longer a line of 50");
    }

    #[test]
    fn a_probes_own_queue_does_not_close_the_gate() {
        let start = Instant::now();
        let mut line = Line::new(start, 1_000_000);
        let now = feed(&mut line, start, &[40; 4]);
        let now = feed(&mut line, now, &[300, 300, 300, 300, 300]);
        line.probed(now, 2_000_000);
        let now = feed(&mut line, now, &[280, 240, 200, 160]);
        assert_eq!(line.gate(now), Gate::Open, "the probe did that");
        let now = feed(&mut line, now, &[60; 6]);
        let now = feed(&mut line, now, &[200; 6]);
        assert_eq!(line.gate(now), Gate::Shed, "the media did that");
    }

    #[test]
    fn a_longer_route_is_the_new_minimum_after_a_while() {
        let start = Instant::now();
        let mut line = Line::new(start, 1_000_000);
        let now = feed(&mut line, start, &[40; 10]);
        let now = feed(&mut line, now, &[140; 10]);
        assert_eq!(line.gate(now), Gate::Shed);
        let now = feed(&mut line, now, &[140; 430]);
        assert_eq!(line.gate(now), Gate::Open);
    }

    #[test]
    fn the_bucket_gives_85_percent_whatever_the_ticks() {
        let start = Instant::now();
        for tick_ms in [1, 7, 10, 20] {
            let mut line = Line::new(start, 2_000_000);
            let mut sent = 0;
            let mut now = start;
            while now - start < Duration::from_secs(10) {
                now += Duration::from_millis(tick_ms);
                let allowed = line.allowance(now);
                line.spend(allowed);
                sent += allowed;
            }
            let bits = sent as f64 * 8.0 / 10.0;
            assert!((1_650_000.0..1_720_000.0).contains(&bits), "ticks of {tick_ms} ms gave {bits} b/s");
        }
    }

    #[test]
    fn an_idle_line_gathers_no_burst() {
        let start = Instant::now();
        let mut line = Line::new(start, 2_000_000);
        let allowed = line.allowance(start + Duration::from_secs(60));
        assert!(allowed <= 5400, "{allowed} bytes at once would delay sound by 25 ms");
    }

    #[test]
    fn sound_is_paid_for_by_the_picture() {
        let start = Instant::now();
        let mut line = Line::new(start, 1_000_000);
        let now = start + Duration::from_millis(20);
        let before = line.allowance(now);
        line.spend(before + 500);
        assert_eq!(line.allowance(now), 0);
        assert!(line.allowance(now + Duration::from_millis(20)) > 0);
    }

    #[test]
    fn after_the_gate_the_estimate_is_what_was_delivered_and_grows_back() {
        let start = Instant::now();
        let mut line = Line::new(start, 4_000_000);
        let mut now = start;
        for step in 0..40 {
            now += Duration::from_millis(50);
            // 1 Mb/s leaves, 125 kB a second.
            line.sample(now, Path { sent: step * 6250, ..path(40) });
        }
        line.fired();
        assert!((600_000..=760_000).contains(&line.estimate()), "{}", line.estimate());
        for _ in 0..60 {
            now += Duration::from_secs(2);
            line.sample(now, path(40));
            line.group_passed(now);
        }
        assert!(line.estimate() >= 4_000_000, "back to what was probed: {}", line.estimate());
        assert!(line.estimate() < 4_400_000, "and no further without use: {}", line.estimate());
    }
}
