//! What people do in a simulated office day, and what goes wrong in it, all drawn from the seed.

use std::time::Duration;

use simnet::host::HostId;
use simnet::link::{Config, Loss, Queue, Rate, Share};
use simnet::rng::{Rng, seed_of};
use simnet::world::Change;

use super::mesh::Order;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// When receptions begin, counted from seven in the morning.
const BEGINNINGS: [Duration; 3] =
    [Duration::from_secs(3_600), Duration::from_secs(3 * 3_600 + 900), Duration::from_secs(6 * 3_600 + 1_800)];

/// A session as it is planned.
#[derive(Debug, Clone)]
pub(super) struct Reception {
    /// When it begins and ends.
    pub(super) at: (Duration, Duration),
    /// Where.
    pub(super) central: HostId,
    /// Who is called.
    pub(super) points: Vec<HostId>,
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// When.
    pub(super) at: Duration,
    /// What, in words.
    pub(super) what: String,
    /// What is done in the world, and after how long.
    pub(super) changes: Vec<(Duration, Change<Order>)>,
}

/// A plan.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// When each point's power comes and goes in good order.
    pub(super) office: Vec<(Duration, Change<Order>)>,
    /// The sessions.
    pub(super) receptions: Vec<Reception>,
    /// The faults.
    pub(super) faults: Vec<Fault>,
}

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Faults {
    /// None: people only.
    None,
    /// What a line does, and power cuts.
    Common,
    /// Those, clocks, disks.
    All,
}

/// The line of an office, and of a place with more.
pub(super) fn line(rich: bool) -> (Config, Config) {
    let line = |bits| Config {
        delay: Duration::from_millis(15),
        jitter: Duration::from_millis(10),
        rate: Some(Rate::new(bits, Queue::Time(SECOND))),
        ..Config::default()
    };
    if rich { (line(200_000_000), line(200_000_000)) } else { (line(5_000_000), line(20_000_000)) }
}

struct Dice(Rng);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        // The last number of the range is never passed, as the unit is never one.
        (self.0.unit() * end as f64) as u64
    }

    fn host(&mut self, end: u16) -> HostId {
        HostId(u16::try_from(self.below(u64::from(end))).unwrap_or(0))
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        // Short ones are more frequent than long ones, as in life.
        let unit = self.0.unit();
        from + to.saturating_sub(from).mul_f64(unit * unit)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn new(seed: u64, points: u16, chairs: u16, hours: u64, faults: Faults) -> Plan {
        let end = HOUR * u32::try_from(hours).unwrap_or(u32::MAX);
        let mut plan = Plan::default();
        let mut dice = Dice(Rng::new(seed_of(seed, 2)));
        plan.people(&mut dice, points, chairs, end);
        let mut dice = Dice(Rng::new(seed_of(seed, 3)));
        if faults != Faults::None {
            plan.misfortune(&mut dice, points, end, faults);
        }
        plan
    }

    fn people(&mut self, dice: &mut Dice, points: u16, chairs: u16, end: Duration) {
        let days = u32::try_from(end.as_secs().div_ceil(86_400)).unwrap_or(1);
        for day in 0..days {
            let morning = 24 * HOUR * day;
            for host in (0..points).map(HostId) {
                let on = morning + dice.between(Duration::ZERO, 20 * MINUTE);
                self.office.push((on, Change::Power(host, true)));
                // One in four stays on at night.
                if !dice.one_in(4) {
                    self.office
                        .push((morning + 10 * HOUR + dice.between(10 * MINUTE, HOUR), Change::Power(host, false)));
                }
            }
            for beginning in BEGINNINGS {
                let begins = morning + beginning + dice.between(Duration::ZERO, 5 * MINUTE);
                let ends = begins + dice.between(40 * MINUTE, 110 * MINUTE);
                if ends + HOUR > end {
                    continue;
                }
                let central = dice.host(chairs.min(points));
                let most = u64::from(points.min(40)) - 1;
                let count = if dice.one_in(4) { most } else { 1 + dice.below(most.min(12)) };
                let mut called = Vec::new();
                while (called.len() as u64) < count {
                    let host = dice.host(points);
                    if host != central && !called.contains(&host) {
                        called.push(host);
                    }
                }
                // Now and then the chair sends somebody out.
                if dice.one_in(3) {
                    let out = called[dice.below(called.len() as u64) as usize];
                    let at = begins + (ends - begins).mul_f64(dice.0.unit());
                    self.office.push((at, Change::Order(central, Order::Remove(out))));
                }
                self.receptions.push(Reception { at: (begins, ends), central, points: called });
            }
        }
    }

    fn misfortune(&mut self, dice: &mut Dice, points: u16, end: Duration, faults: Faults) {
        let receptions = self.receptions.clone();
        let count = 20 * receptions.len() + usize::from(points) / 2;
        for _ in 0..count {
            let reception = match receptions.len() {
                0 => None,
                // Most where it hurts.
                len => Some(&receptions[dice.below(len as u64) as usize]).filter(|_| !dice.one_in(6)),
            };
            let (at, host, other) = match reception {
                Some(reception) => {
                    let (from, to) = reception.at;
                    let at = from.saturating_sub(MINUTE) + (to + 2 * MINUTE - from).mul_f64(dice.0.unit());
                    let point = reception.points[dice.below(reception.points.len() as u64) as usize];
                    match dice.one_in(4) {
                        true => (at, reception.central, point),
                        false => (at, point, reception.central),
                    }
                }
                None => (end.mul_f64(dice.0.unit()), dice.host(points), dice.host(points)),
            };
            if host != other {
                self.faults.push(fault(dice, at, host, other, faults));
            }
        }
        self.faults.sort_by_key(|fault| fault.at);
    }
}

fn fault(dice: &mut Dice, at: Duration, host: HostId, other: HostId, faults: Faults) -> Fault {
    let kinds = if faults == Faults::All { 15 } else { 8 };
    let mut what = String::new();
    let mut say = |text: &str, lasts: Duration| what = format!("{host} {text} ({:.1} s)", lasts.as_secs_f64());
    let for_long = |dice: &mut Dice| dice.between(2 * SECOND, 20 * MINUTE);
    let on_off = |lasts, on, off| vec![(Duration::ZERO, on), (lasts, off)];
    let order = |order| Change::Order(host, order);
    let changes = match dice.below(kinds) {
        0 | 1 => {
            let lasts = dice.between(5 * SECOND, 20 * MINUTE);
            say("loses its power", lasts);
            on_off(lasts, Change::Power(host, false), Change::Power(host, true))
        }
        2 => {
            let lasts = dice.between(SECOND / 4, 3 * SECOND);
            say("is killed and begins anew at once", lasts);
            on_off(lasts, Change::Power(host, false), Change::Power(host, true))
        }
        3 | 4 => {
            let lasts = for_long(dice);
            say("loses its line", lasts);
            on_off(lasts, Change::Cut { host, up: true, down: true }, Change::Mend(host))
        }
        5 => {
            let lasts = for_long(dice);
            let up = dice.one_in(2);
            say(if up { "is not heard any more" } else { "hears nothing any more" }, lasts);
            on_off(lasts, Change::Cut { host, up, down: !up }, Change::Mend(host))
        }
        6 => {
            let lasts = for_long(dice);
            let bits = 300_000 + dice.below(1_700_000);
            let (mut up, down) = line(false);
            up.rate = Some(Rate::new(bits, Queue::Time(2 * SECOND)));
            say(&format!("has a slow line of {bits} b/s"), lasts);
            on_off(lasts, Change::Line(host, Box::new((up, down))), Change::Mend(host))
        }
        7 => {
            let lasts = for_long(dice);
            let (mut up, mut down) = line(false);
            let loss = match dice.one_in(2) {
                true => Loss::Random(Share::percent(1.0 + dice.0.unit() * 9.0)),
                false => Loss::Bursts { share: Share::percent(5.0), mean: 3 * SECOND },
            };
            (up.loss, down.loss) = (loss.clone(), loss);
            up.jitter = Duration::from_millis(400);
            (up.reorder, up.reorder_by) = (Share::percent(10.0), SECOND);
            say("has a bad line", lasts);
            on_off(lasts, Change::Line(host, Box::new((up, down))), Change::Mend(host))
        }
        8 => {
            let lasts = for_long(dice);
            say(&format!("does not reach {other}"), lasts);
            on_off(lasts, Change::Bar(host, other, true), Change::Bar(host, other, false))
        }
        9 => {
            let years = (dice.0.unit() - 0.5) * 20.0;
            say(&format!("has a clock that is wrong by {years:.1} years"), Duration::ZERO);
            vec![(Duration::ZERO, order(Order::Wall((years * 365.0 * 86_400_000.0) as i64)))]
        }
        10 => {
            let lasts = dice.between(5 * SECOND, 10 * MINUTE);
            say("has no space on its disk", lasts);
            on_off(lasts, order(Order::Full(true)), order(Order::Full(false)))
        }
        11 => {
            let lasts = for_long(dice);
            let slow = dice.between(SECOND / 5, 5 * SECOND);
            say(&format!("has a disk that takes {:.1} s", slow.as_secs_f64()), lasts);
            on_off(lasts, order(Order::Slow(slow)), order(Order::Slow(Duration::ZERO)))
        }
        12 => {
            let share = 1 + dice.below(20);
            say(&format!("has {share} of a thousand groups changed"), Duration::ZERO);
            vec![(Duration::ZERO, order(Order::Rot(share as u16)))]
        }
        13 => {
            let lasts = dice.between(5 * SECOND, 5 * MINUTE);
            say("loses its power and every group", lasts);
            vec![
                (Duration::ZERO, Change::Power(host, false)),
                (Duration::ZERO, order(Order::LoseMedia)),
                (lasts, Change::Power(host, true)),
            ]
        }
        _ => {
            let lasts = dice.between(MINUTE, HOUR);
            say("gets a new disk", lasts);
            vec![
                (Duration::ZERO, Change::Power(host, false)),
                (Duration::ZERO, order(Order::LoseDisk)),
                (lasts, Change::Power(host, true)),
            ]
        }
    };
    Fault { at, what, changes }
}
