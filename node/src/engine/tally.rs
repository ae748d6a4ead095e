//! What happens again and again becomes one entry of the access log a minute, with a number.
//!
//! Without this a stranger decides how much we write: ten thousand knocks in ten seconds would be four megabytes and ten
//! thousand signatures. The first knock is told at once, so that nobody waits to learn of it; those like it that follow
//! within a minute are counted and told at its end.
//!
//! Many strangers, or one with many addresses, would still be many entries. So each entry costs a credit, which
//! comes back slowly, and what cannot pay is counted together, without names. That bounds what all of them
//! together can make us write, for a day of any flood, to some 5,000 entries or two megabytes; and, since only what has
//! paid is remembered, what they can make us remember.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use store::access::{Access, Deed, Outcome, What, Who};

/// Between two entries that say the same.
const EVERY: Duration = Duration::from_secs(60);
/// Between two entries of what is counted without names.
const MANY_EVERY: Duration = Duration::from_secs(600);
/// Entries that may be written in one go: a mesh of forty points whose roster is out of date, with a lot to spare.
const CREDIT_MAX: u32 = 1000;
/// How long one credit takes to come back: one stubborn stranger is told every minute for ever.
const CREDIT_EVERY: Duration = Duration::from_secs(60);
/// Why those who could not pay were refused, as one sentence must do for all of them.
const MANY: &str = "too many different ones to name each";

/// What makes two accesses the same.
type Key = (Who, Deed, What, Outcome);

/// Something for the tally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It happened.
    Happened(Access),
    /// Time has passed.
    Tick,
    /// The node stops: whatever is counted is told now.
    Stop,
}

/// Counts by kind, and says when to write an entry.
#[derive(Debug)]
pub struct Tally {
    open: BTreeMap<Key, Count>,
    /// When each of `open` ends, soonest first: all last equally long.
    ends: VecDeque<(Instant, Key)>,
    /// Of those without a credit: by deed, and whether it was done.
    many: BTreeMap<(Deed, bool), (Instant, Count)>,
    credit: u32,
    /// Since when the next credit is coming back.
    credited: Option<Instant>,
    out: VecDeque<Access>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    times: u64,
    since_ms: u64,
}

impl Count {
    fn add(&mut self, times: u64, since_ms: u64) {
        if self.times == 0 {
            self.since_ms = since_ms;
        }
        self.times = self.times.saturating_add(times);
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            open: BTreeMap::new(),
            ends: VecDeque::new(),
            many: BTreeMap::new(),
            credit: CREDIT_MAX,
            credited: None,
            out: VecDeque::new(),
        }
    }
}

impl Tally {
    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.end(now);
        match input {
            Input::Happened(access) => self.happened(now, access),
            Input::Tick => {}
            Input::Stop => self.stop(),
        }
    }

    /// An entry to write. Drain until `None`.
    pub fn poll(&mut self) -> Option<Access> {
        self.out.pop_front()
    }

    /// When to come back with a tick.
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.ends.front().map(|(at, _)| *at);
        first.into_iter().chain(self.many.values().map(|(at, _)| *at)).min()
    }

    fn happened(&mut self, now: Instant, access: Access) {
        let key = (access.who.clone(), access.deed, access.what.clone(), access.outcome.clone());
        if let Some(count) = self.open.get_mut(&key) {
            count.add(access.times, access.since_ms);
        } else if self.pay(now) {
            self.open.insert(key.clone(), Count::default());
            self.ends.push_back((now + EVERY, key));
            self.out.push_back(access);
        } else {
            self.count_among_many(now, &key, Count { times: access.times, since_ms: access.since_ms });
        }
    }

    fn count_among_many(&mut self, now: Instant, (_, deed, _, outcome): &Key, count: Count) {
        let kind = (*deed, matches!(outcome, Outcome::Done {}));
        let (_, sum) = self.many.entry(kind).or_insert((now + MANY_EVERY, Count::default()));
        sum.add(count.times, count.since_ms);
    }

    /// Tells what was counted in the minutes that are over. What went on begins another minute.
    fn end(&mut self, now: Instant) {
        while let Some((_, key)) = self.ends.pop_front_if(|(at, _)| *at <= now) {
            let count = self.open.remove(&key).unwrap_or_default();
            if count.times == 0 {
                continue;
            }
            if self.pay(now) {
                self.out.push_back(told(key.clone(), count));
                self.open.insert(key.clone(), Count::default());
                self.ends.push_back((now + EVERY, key));
            } else {
                self.count_among_many(now, &key, count);
            }
        }
        let over: Vec<_> = self.many.extract_if(.., |_, (at, _)| *at <= now).collect();
        self.out.extend(over.into_iter().map(|(kind, (_, count))| told(nameless(kind), count)));
    }

    fn stop(&mut self) {
        self.ends.clear();
        let counted = std::mem::take(&mut self.open).into_iter().filter(|(_, count)| count.times > 0);
        self.out.extend(counted.map(|(key, count)| told(key, count)));
        let many = std::mem::take(&mut self.many).into_iter();
        self.out.extend(many.map(|(kind, (_, count))| told(nameless(kind), count)));
    }

    /// Takes a credit, if there is one.
    fn pay(&mut self, now: Instant) -> bool {
        if let Some(since) = self.credited {
            let back = now.saturating_duration_since(since).as_secs() / CREDIT_EVERY.as_secs();
            let back = u32::try_from(back).unwrap_or(u32::MAX);
            self.credit = self.credit.saturating_add(back).min(CREDIT_MAX);
            self.credited = (self.credit < CREDIT_MAX).then(|| since + CREDIT_EVERY.saturating_mul(back));
        }
        if self.credit == 0 {
            return false;
        }
        self.credit -= 1;
        self.credited.get_or_insert(now);
        true
    }
}

fn told((who, deed, what, outcome): Key, count: Count) -> Access {
    Access { who, deed, what, outcome, times: count.times, since_ms: count.since_ms }
}

fn nameless((deed, done): (Deed, bool)) -> Key {
    let outcome = if done { Outcome::Done {} } else { Outcome::Refused { reason: MANY.to_owned() } };
    (Who::Many {}, deed, What::Nothing {}, outcome)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use store::access::Door;

    use super::*;

    fn knock(from: u32, ms: u64) -> Access {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(from));
        Access::refused(Who::Address { ip }, Deed::Connect, What::Door { door: Door::Mesh }, "not a point", ms)
    }

    fn told(tally: &mut Tally) -> Vec<Access> {
        std::iter::from_fn(|| tally.poll()).collect()
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_the_minute_as_a_number() {
        let start = Instant::now();
        let mut tally = Tally::default();
        assert_eq!(tally.deadline(), None);
        for n in 0..500 {
            tally.handle(start + Duration::from_millis(n), Input::Happened(knock(1, n)));
        }
        tally.handle(start, Input::Happened(knock(2, 9)));
        assert_eq!(told(&mut tally), [knock(1, 0), knock(2, 9)]);
        assert_eq!(tally.deadline(), Some(start + EVERY));
        tally.handle(start + seconds(59), Input::Tick);
        assert_eq!(told(&mut tally), []);
        tally.handle(start + EVERY, Input::Tick);
        assert_eq!(told(&mut tally), [Access { times: 499, ..knock(1, 1) }]);

        // It goes on for a minute, then there is peace, then it begins anew.
        tally.handle(start + seconds(100), Input::Happened(knock(1, 7)));
        assert_eq!(told(&mut tally), []);
        tally.handle(start + seconds(120), Input::Tick);
        assert_eq!(told(&mut tally), [knock(1, 7)]);
        tally.handle(start + seconds(300), Input::Tick);
        assert_eq!((told(&mut tally), tally.deadline()), (vec![], None));
        tally.handle(start + seconds(301), Input::Happened(knock(1, 8)));
        assert_eq!(told(&mut tally), [knock(1, 8)]);
    }

    #[test]
    fn another_reason_or_deed_is_another_entry() {
        let now = Instant::now();
        let mut tally = Tally::default();
        let other = Access { deed: Deed::Join, ..knock(1, 0) };
        let reason = Access { outcome: Outcome::Refused { reason: "revoked".into() }, ..knock(1, 0) };
        let copied = Access { outcome: Outcome::Done {}, ..knock(1, 0) };
        for access in [&other, &reason, &copied, &other] {
            tally.handle(now, Input::Happened(access.clone()));
        }
        assert_eq!(told(&mut tally), [other, reason, copied]);
    }

    #[test]
    fn numbers_already_counted_elsewhere_are_added_up() {
        let now = Instant::now();
        let mut tally = Tally::default();
        for times in [5, 7, u64::MAX, 9] {
            tally.handle(now, Input::Happened(Access { times, ..knock(1, 0) }));
        }
        tally.handle(now, Input::Stop);
        assert_eq!(told(&mut tally).iter().map(|access| access.times).collect::<Vec<_>>(), [5, u64::MAX]);
    }

    #[test]
    fn a_day_of_strangers_from_everywhere_is_few_entries_and_little_memory() {
        let start = Instant::now();
        let mut tally = Tally::default();
        let (mut entries, mut sum) = (0, 0);
        // Ten strangers a second, each from an address never seen before.
        for n in 0..864_000u32 {
            let now = start + Duration::from_millis(u64::from(n) * 100);
            tally.handle(now, Input::Happened(knock(n, n.into())));
            let told = told(&mut tally);
            entries += told.len();
            sum += told.iter().map(|access| access.times).sum::<u64>();
            assert!(tally.open.len() <= CREDIT_MAX as usize && tally.ends.len() == tally.open.len());
        }
        tally.handle(start + seconds(86_400), Input::Stop);
        sum += told(&mut tally).iter().map(|access| access.times).sum::<u64>();
        assert_eq!(sum, 864_000, "everyone is counted");
        assert!(entries < CREDIT_MAX as usize + 1440 + 145, "{entries} entries");
    }

    #[test]
    fn a_thousand_stubborn_ones_are_few_entries_too() {
        let start = Instant::now();
        let mut tally = Tally::default();
        let mut entries = 0;
        for minute in 0..1440u64 {
            for n in 0..1000 {
                tally.handle(start + seconds(minute * 60), Input::Happened(knock(n, minute)));
            }
            entries += told(&mut tally).len();
        }
        assert!(entries < CREDIT_MAX as usize + 1440 + 145, "{entries} entries");
    }

    #[test]
    fn those_without_a_name_are_counted_by_what_they_did() {
        let now = Instant::now();
        let mut tally = Tally::default();
        for n in 0..=CREDIT_MAX {
            tally.handle(now, Input::Happened(knock(n, 1)));
        }
        let joining = |n| Access { deed: Deed::Join, ..knock(n, 2) };
        tally.handle(now, Input::Happened(joining(1)));
        tally.handle(now, Input::Happened(joining(2)));
        assert_eq!(told(&mut tally).len(), CREDIT_MAX as usize);
        tally.handle(now + MANY_EVERY, Input::Tick);
        let many = Access { who: Who::Many {}, what: What::Nothing {}, ..knock(0, 1) };
        let many = Access { outcome: Outcome::Refused { reason: MANY.into() }, ..many };
        let joined = Access { deed: Deed::Join, times: 2, since_ms: 2, ..many.clone() };
        assert_eq!(told(&mut tally), [many, joined]);
        assert_eq!(tally.deadline(), None);
    }

    #[test]
    fn whatever_is_counted_is_told_when_the_node_stops() {
        let now = Instant::now();
        let mut tally = Tally::default();
        (0..3).for_each(|n| tally.handle(now, Input::Happened(knock(1, n))));
        told(&mut tally);
        tally.handle(now, Input::Stop);
        assert_eq!(told(&mut tally), [Access { times: 2, ..knock(1, 1) }]);
        assert_eq!(tally.deadline(), None);
    }
}
