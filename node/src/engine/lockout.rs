//! Wrong passwords cost time, and the more of them the more.
//!
//! Three counts, because there are three ways to guess. One address that tries one account waits ever longer, up to a
//! quarter of an hour. One address that tries one password on many accounts waits too, after more of them. Many addresses
//! that try one account make it wait for all of them, after still more; that is the one an attacker could use to keep
//! somebody out, so its wait is short and it does not count for the machine itself: whoever sits at it must always get in
//! within the longest wait of his own making.
//!
//! An attempt counts as wrong from the moment it begins, or a hundred at once would all be the first.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How a count turns into a wait: some are free, then a second, doubled each time, up to the longest.
struct Ladder {
    free: u32,
    wait_max: Duration,
}

/// One address, one account.
const PAIR: Ladder = Ladder { free: 3, wait_max: Duration::from_secs(15 * 60) };
/// One address, all accounts. A room's people share one behind an address translator.
const ADDRESS: Ladder = Ladder { free: 15, wait_max: Duration::from_secs(5 * 60) };
/// All addresses but this machine's, one account.
const ACCOUNT: Ladder = Ladder { free: 50, wait_max: Duration::from_secs(30) };

/// A count is forgotten when nothing was wrong for so long.
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// Counts kept. Beyond, the one that was wrong longest ago is forgotten.
const COUNTS_MAX: usize = 4096;
/// Longest name that is told from others, in letters.
const NAME_MAX: usize = 64;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pair(String, IpAddr),
    Address(IpAddr),
    Account(String),
}

impl Key {
    fn ladder(&self) -> &'static Ladder {
        match self {
            Key::Pair(..) => &PAIR,
            Key::Address(_) => &ADDRESS,
            Key::Account(_) => &ACCOUNT,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Count {
    wrong: u32,
    last: Instant,
    /// Which of all changes was its last.
    turn: u64,
}

/// What happened at the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// A password is tried. Only when [`Lockout::wait`] allows it.
    Tried {
        /// For this account, which need not exist.
        account: &'a str,
        /// From here.
        address: IpAddr,
    },
    /// It was the right one.
    Right {
        /// For this account.
        account: &'a str,
        /// From here.
        address: IpAddr,
    },
}

/// Who has to wait.
#[derive(Debug, Default)]
pub struct Lockout {
    counts: BTreeMap<Key, Count>,
    /// Each change of a count, oldest first; those that another change of the same count followed are passed over.
    order: VecDeque<(u64, Instant, Key)>,
    turns: u64,
}

impl Lockout {
    /// Counts.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.forget(now);
        match input {
            Input::Tried { account, address } => keys(account, address).for_each(|key| self.wrong(now, key)),
            Input::Right { account, address } => keys(account, address).for_each(|key| self.right(key)),
        }
    }

    /// How long to wait before this account may be tried from this address; zero if not at all.
    pub fn wait(&self, now: Instant, account: &str, address: IpAddr) -> Duration {
        let of = |key: Key| {
            let count = self.counts.get(&key).filter(|count| now.saturating_duration_since(count.last) < FORGET)?;
            let until = count.last + rung(key.ladder(), count.wrong);
            Some(until.saturating_duration_since(now))
        };
        keys(account, address).filter_map(of).max().unwrap_or_default()
    }

    fn wrong(&mut self, now: Instant, key: Key) {
        self.turns += 1;
        let turn = self.turns;
        let count = self.counts.entry(key.clone()).or_insert(Count { wrong: 0, last: now, turn });
        *count = Count { wrong: count.wrong.saturating_add(1), last: now, turn };
        self.order.push_back((turn, now, key));
    }

    /// Whoever knows the password has not guessed. What others did to the account or from the address stays, but for the
    /// attempt that was right.
    fn right(&mut self, key: Key) {
        if let Key::Pair(..) = key {
            self.counts.remove(&key);
        } else if let Some(count) = self.counts.get_mut(&key) {
            count.wrong = count.wrong.saturating_sub(1);
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, at, _)) = self.order.front() {
            let old = now.saturating_duration_since(*at) >= FORGET;
            if !old && self.counts.len() < COUNTS_MAX && self.order.len() < 2 * COUNTS_MAX {
                return;
            }
            let Some((turn, _, key)) = self.order.pop_front() else { return };
            if self.counts.get(&key).is_some_and(|count| count.turn == turn) {
                self.counts.remove(&key);
            }
        }
    }
}

fn keys(account: &str, address: IpAddr) -> impl Iterator<Item = Key> {
    let account: String = account.trim().to_lowercase().chars().take(NAME_MAX).collect();
    let address = network(address);
    let everywhere = (!address.is_loopback()).then(|| Key::Account(account.clone()));
    [Key::Pair(account, address), Key::Address(address)].into_iter().chain(everywhere)
}

/// Whoever has one address of an IPv6 network has all of its 2^64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        other => other,
    }
}

fn rung(ladder: &Ladder, wrong: u32) -> Duration {
    match wrong.checked_sub(ladder.free) {
        None => Duration::ZERO,
        Some(steps) => Duration::from_secs(1 << steps.min(16)).min(ladder.wait_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Tries as often as it is let for so long, and gives how often that was.
    fn guess(lockout: &mut Lockout, start: Instant, length: Duration, account: &str, address: IpAddr) -> u32 {
        let (mut now, mut tries) = (start, 0);
        while now < start + length {
            let wait = lockout.wait(now, account, address);
            if wait.is_zero() {
                lockout.handle(now, Input::Tried { account, address });
                tries += 1;
            }
            now += wait.max(Duration::from_millis(1));
        }
        tries
    }

    #[test]
    fn each_wrong_password_after_the_third_doubles_the_wait_up_to_a_quarter_of_an_hour() {
        let mut now = Instant::now();
        let mut lockout = Lockout::default();
        let mut waits = Vec::new();
        for _ in 0..16 {
            lockout.handle(now, Input::Tried { account: "lan", address: HERE });
            let wait = lockout.wait(now, "LAN ", HERE);
            waits.push(wait.as_secs());
            now += wait;
            assert!(lockout.wait(now, "lan", HERE).is_zero());
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]);
    }

    #[test]
    fn a_right_password_clears_the_way() {
        let now = Instant::now();
        let mut lockout = Lockout::default();
        for _ in 0..6 {
            lockout.handle(now, Input::Tried { account: "lan", address: HERE });
        }
        let later = now + Duration::from_secs(8);
        assert!(lockout.wait(later, "lan", HERE).is_zero());
        lockout.handle(later, Input::Tried { account: "lan", address: HERE });
        lockout.handle(later, Input::Right { account: "lan", address: HERE });
        assert!(lockout.wait(later, "lan", HERE).is_zero());
        lockout.handle(later, Input::Tried { account: "lan", address: HERE });
        assert!(lockout.wait(later, "lan", HERE).is_zero());
    }

    #[test]
    fn a_day_of_guessing_is_some_hundred_guesses() {
        let start = Instant::now();
        let day = Duration::from_secs(24 * 3600);
        let tries = guess(&mut Lockout::default(), start, day, "lan", ip("192.0.2.7"));
        assert!((100..120).contains(&tries), "{tries}");

        // One password on many accounts.
        let mut lockout = Lockout::default();
        let mut now = start;
        let mut tries = 0;
        for n in 0.. {
            let account = format!("account{n}");
            let wait = lockout.wait(now, &account, ip("192.0.2.7"));
            now += wait;
            if now > start + day {
                break;
            }
            lockout.handle(now, Input::Tried { account: &account, address: ip("192.0.2.7") });
            tries += 1;
        }
        assert!(tries < 330, "{tries}");
    }

    #[test]
    fn guessing_from_everywhere_slows_everybody_but_the_machine_itself() {
        let now = Instant::now();
        let mut lockout = Lockout::default();
        for n in 0..200u32 {
            let address = IpAddr::V4((0x0a00_0000 + n).into());
            lockout.handle(now, Input::Tried { account: "lan", address });
        }
        assert_eq!(lockout.wait(now, "lan", ip("198.51.100.1")), ACCOUNT.wait_max);
        assert!(lockout.wait(now, "hoa", ip("198.51.100.1")).is_zero());
        assert!(lockout.wait(now, "lan", HERE).is_zero());
        assert!(lockout.wait(now + ACCOUNT.wait_max, "lan", ip("198.51.100.1")).is_zero());
    }

    #[test]
    fn an_attacker_on_the_machine_keeps_nobody_out_for_longer_than_the_longest_wait() {
        let start = Instant::now();
        let mut lockout = Lockout::default();
        let hour = Duration::from_secs(3600);
        guess(&mut lockout, start, hour, "lan", HERE);
        let wait = lockout.wait(start + hour, "lan", HERE);
        assert!(wait <= PAIR.wait_max, "{wait:?}");
        assert!(lockout.wait(start + hour, "hoa", HERE) <= ADDRESS.wait_max);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let now = Instant::now();
        let mut lockout = Lockout::default();
        for n in 0..10 {
            lockout.handle(now, Input::Tried { account: "lan", address: ip(&format!("2001:db8::{n}")) });
        }
        assert!(!lockout.wait(now, "lan", ip("2001:db8::ffff")).is_zero());
        assert!(lockout.wait(now, "lan", ip("2001:db8:0:1::1")).is_zero());
        lockout.handle(now, Input::Tried { account: "hoa", address: ip("::ffff:192.0.2.7") });
        assert_eq!(lockout.counts.keys().filter(|key| **key == Key::Address(ip("192.0.2.7"))).count(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_after_a_day() {
        let start = Instant::now();
        let mut lockout = Lockout::default();
        for n in 0..50_000u32 {
            let account = n.to_string().repeat(100);
            lockout.handle(start, Input::Tried { account: &account, address: IpAddr::V4(n.into()) });
            assert!(lockout.counts.len() < COUNTS_MAX + 3 && lockout.order.len() < 2 * COUNTS_MAX + 3);
        }
        lockout.handle(start + FORGET, Input::Tried { account: "lan", address: HERE });
        assert_eq!(lockout.counts.len(), 2);
    }

    #[test]
    fn trying_one_account_again_and_again_forgets_nothing_of_it() {
        let start = Instant::now();
        let mut lockout = Lockout::default();
        for _ in 0..20_000 {
            lockout.handle(start, Input::Tried { account: "lan", address: HERE });
        }
        assert_eq!(lockout.wait(start, "lan", HERE), PAIR.wait_max);
    }
}
