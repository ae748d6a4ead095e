//! One direction of a line: what happens to each packet, and when it arrives.
//!
//! A packet meets the parts of a line in the order of the real thing: first the modem, whose queue is bounded and whose
//! rate spaces the packets; then the way, where some are lost; then distance, which takes time, more for some than for
//! others. A packet lost on the way has used its share of the rate, as it does on a real line, so loss does not make
//! a narrow line wider. Everything is decided when the packet is offered: there is no state to advance, hence no clock
//! and no tick, and both the simulator and the relay only keep what is due in order of time.
//!
//! Each packet throws the same dice whatever the configuration. So taking the jitter away leaves the very same packets
//! lost, and a test may change one thing at a time.

use std::time::Duration;

use crate::rng::Rng;

/// A line without faults is the default; set what should be bad.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Time from the modem to the other side.
    pub delay: Duration,
    /// Up to so much is added to the delay, evenly spread. It keeps the order, as real queues do: a packet behind a
    /// slow one waits for it.
    pub jitter: Duration,
    pub loss: Loss,
    /// This share of the packets is held back, and later ones overtake them.
    pub reorder: Share,
    /// How long a packet chosen by `reorder` is held back.
    pub reorder_by: Duration,
    /// This share of the packets arrives twice. The copy takes its own jitter.
    pub duplicate: Share,
    pub rate: Option<Rate>,
    /// Nothing passes. What was accepted before still arrives.
    pub cut: bool,
}

impl Config {
    /// The same line with a part of its rate.
    pub(crate) fn share(&self, share: Share) -> Self {
        let rate = self.rate.map(|rate| {
            // A line of a bit a second still moves.
            let bits_per_s = (rate.bits_per_s as f64 * share.0).max(1.0) as u64;
            Rate { bits_per_s, ..rate }
        });
        Self { rate, ..self.clone() }
    }
}

/// How packets get lost on the way.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Loss {
    #[default]
    None,
    /// Each packet on its own.
    Random(Share),
    /// Outages, after fair weather at first: all that is sent during one is lost. The line is out for `share` of the time, each time for `mean`
    /// on average (exponentially spread), so how many packets it takes depends on how many were sent.
    Bursts { share: Share, mean: Duration },
}

/// A part of the whole, 0 to 100 percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    pub const NONE: Self = Self(0.0);
    pub const ALL: Self = Self(1.0);

    /// # Panics
    ///
    /// If `percent` is not between 0 and 100: a test that asks for this has a mistake in it.
    pub fn percent(percent: f64) -> Self {
        assert!((0.0..=100.0).contains(&percent), "a share of {percent} percent does not exist");
        Self(percent / 100.0)
    }
}

/// What a line can carry, and how much may wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bits_per_s: u64,
    queue: Queue,
}

/// The bound of the queue before a [`Rate`]. A packet that finds it full is dropped; a queue of nothing still takes a
/// packet when the line is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// As long as the line needs so much time for what waits.
    Time(Duration),
    /// As long as no more bytes wait, those on their way out of the modem included.
    Bytes(u64),
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Deliver {
        /// When it arrives, on the clock that [`Link::offer`] was given.
        at: Duration,
        /// When it arrives again, if it does.
        again: Option<Duration>,
    },
    Drop(Reason),
}

/// Why a packet never arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The line was cut.
    Cut,
    /// The queue was full.
    Queue,
    /// It got lost on the way.
    Loss,
}

/// So many packets, and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// What became of all that was offered: `offered` is the sum of `accepted`, `cut`, `overflowed` and `lost`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub offered: Tally,
    pub accepted: Tally,
    /// Dropped for [`Reason::Cut`].
    pub cut: Tally,
    /// Dropped for [`Reason::Queue`].
    pub overflowed: Tally,
    /// Dropped for [`Reason::Loss`].
    pub lost: Tally,
    /// Those of the accepted that were held back.
    pub reordered: u64,
    /// Those of the accepted that arrive twice.
    pub duplicated: u64,
}

/// One direction of a line.
#[derive(Debug, Clone)]
pub struct Link {
    config: Config,
    rng: Rng,
    /// The time of the last packet; time does not run backwards.
    now: Duration,
    /// When the modem will have sent all it accepted.
    idle_at: Duration,
    /// The latest arrival of a packet that was not held back. No such packet arrives before it.
    arrived: Duration,
    /// Whether the last packet met an outage, for [`Loss::Bursts`].
    out: bool,
    counters: Counters,
}

impl Link {
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            idle_at: Duration::ZERO,
            arrived: Duration::ZERO,
            out: false,
            counters: Counters::default(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The line is different from the next packet on. Packets already accepted keep the time they were given, and
    /// later ones still queue behind them.
    pub fn set(&mut self, config: Config) {
        self.config = config;
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A packet of `len` bytes enters the line at `now`. A `now` before the last one counts as the last one.
    pub fn offer(&mut self, now: Duration, len: usize) -> Verdict {
        let dice = Dice::throw(&mut self.rng);
        let since = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        let out = self.outage(since, dice.loss);

        self.counters.offered.add(len);
        if self.config.cut {
            self.counters.cut.add(len);
            return Verdict::Drop(Reason::Cut);
        }
        let Some(sent) = self.send(len) else {
            self.counters.overflowed.add(len);
            return Verdict::Drop(Reason::Queue);
        };
        if out {
            self.counters.lost.add(len);
            return Verdict::Drop(Reason::Loss);
        }
        self.counters.accepted.add(len);

        let reached = sent.saturating_add(self.config.delay);
        let at = reached.saturating_add(self.config.jitter.mul_f64(dice.jitter)).max(self.arrived);
        let again = (dice.duplicate < self.config.duplicate.0).then(|| {
            self.counters.duplicated += 1;
            reached.saturating_add(self.config.jitter.mul_f64(dice.copy_jitter)).max(at)
        });
        let at = if dice.reorder < self.config.reorder.0 {
            self.counters.reordered += 1;
            at.saturating_add(self.config.reorder_by)
        } else {
            self.arrived = at;
            at
        };
        Verdict::Deliver { at, again }
    }

    /// The modem takes the packet: when its last bit is on the way, or `None` if the queue is full.
    fn send(&mut self, len: usize) -> Option<Duration> {
        let Some(rate) = self.config.rate else {
            // Without a rate nothing queues, except behind what a rate that was taken away left behind.
            self.idle_at = self.idle_at.max(self.now);
            return Some(self.idle_at);
        };
        let backlog = self.idle_at.saturating_sub(self.now);
        let full = match rate.queue {
            Queue::Time(longest) => backlog > longest,
            Queue::Bytes(most) => {
                let waiting = backlog.as_nanos().saturating_mul(u128::from(rate.bits_per_s)) / (8 * NANOS_PER_S);
                waiting > 0 && waiting + len as u128 > u128::from(most)
            }
        };
        if full {
            return None;
        }
        self.idle_at = self.idle_at.max(self.now).saturating_add(rate.time_of(len));
        Some(self.idle_at)
    }

    /// Whether the packet is lost, given a number thrown for it and the time since the last one.
    fn outage(&mut self, since: Duration, dice: f64) -> bool {
        match self.config.loss {
            Loss::None => self.out = false,
            Loss::Random(share) => self.out = dice < share.0,
            Loss::Bursts { share, mean } => {
                // Outage and fair weather take turns, each of exponential length: a Markov chain in continuous time,
                // of which only its state at each packet matters. What is known of the last state fades with
                // 1/mean outage + 1/mean fair weather, and what it fades to is the share. One number decides.
                let mean = mean.as_secs_f64().max(f64::MIN_POSITIVE);
                let fading = (-since.as_secs_f64() / (mean * (1.0 - share.0)).max(f64::MIN_POSITIVE)).exp();
                let known = if self.out { 1.0 } else { 0.0 };
                self.out = dice < share.0 + (known - share.0) * fading;
            }
        }
        self.out
    }
}

const NANOS_PER_S: u128 = 1_000_000_000;

impl Rate {
    /// `bits_per_s` counts the bits of what is offered to the link, whatever the packets carry around it.
    ///
    /// # Panics
    ///
    /// If the rate is zero. A line that carries nothing is [`Config::cut`].
    pub fn new(bits_per_s: u64, queue: Queue) -> Self {
        assert!(bits_per_s > 0, "a line that carries nothing is cut, it has no rate");
        Self { bits_per_s, queue }
    }

    /// How long the line is busy with so many bytes.
    fn time_of(self, len: usize) -> Duration {
        let nanos = len as u128 * 8 * NANOS_PER_S / u128::from(self.bits_per_s);
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }
}

/// The numbers of one packet, always all of them.
struct Dice {
    loss: f64,
    jitter: f64,
    reorder: f64,
    duplicate: f64,
    copy_jitter: f64,
}

impl Dice {
    fn throw(rng: &mut Rng) -> Self {
        Self {
            loss: rng.unit(),
            jitter: rng.unit(),
            reorder: rng.unit(),
            duplicate: rng.unit(),
            copy_jitter: rng.unit(),
        }
    }
}

#[cfg(test)]
mod tests;
