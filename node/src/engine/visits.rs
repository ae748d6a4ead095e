//! Who is logged in at the room's page: a cookie's hash, an account, and how long that holds.
//!
//! Nothing of it is written down, so a node that starts again knows no cookie of an earlier run. Only the hash of a
//! cookie is kept: whoever reads our memory, or a dump of it, does not thereby hold somebody's way in. A visit holds for one
//! state of an account: once its password or role is another, the visits of before count for nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A visit without a request for so long is over: a reception's day.
const IDLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// A visit is over after so long, whatever happens in it.
const LENGTH_MAX: Duration = Duration::from_secs(24 * 3600);
/// Visits at once. One more ends the one that was quiet longest.
const VISITS_MAX: usize = 256;
/// Visits of one account at once. One more ends its quietest.
const VISITS_OF_ONE_MAX: usize = 8;

/// BLAKE3 of a cookie's 256 random bits.
pub type Token = [u8; 32];

#[derive(Debug)]
struct Visit {
    account: String,
    stamp: u64,
    began: Instant,
    seen: Instant,
}

impl Visit {
    fn ends(&self) -> Instant {
        (self.seen + IDLE_MAX).min(self.began + LENGTH_MAX)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody logged in to this account and was given this cookie.
    In {
        /// Hash of the cookie.
        token: Token,
        /// Name of the account, as it is compared.
        account: String,
        /// Which state of the account this holds for.
        stamp: u64,
    },
    /// A request came with this cookie.
    Seen {
        /// Hash of the cookie.
        token: Token,
    },
    /// Somebody logged out.
    Out {
        /// Hash of the cookie.
        token: Token,
    },
    /// Time has passed.
    Tick,
}

/// All visits.
#[derive(Debug, Default)]
pub struct Visits {
    by_token: BTreeMap<Token, Visit>,
}

impl Visits {
    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.by_token.retain(|_, visit| now < visit.ends());
        match input {
            Input::In { token, account, stamp } => {
                self.make_room(|visit| visit.account == account, VISITS_OF_ONE_MAX);
                self.make_room(|_| true, VISITS_MAX);
                self.by_token.insert(token, Visit { account, stamp, began: now, seen: now });
            }
            Input::Seen { token } => {
                if let Some(visit) = self.by_token.get_mut(&token) {
                    visit.seen = now;
                }
            }
            Input::Out { token } => drop(self.by_token.remove(&token)),
            Input::Tick => {}
        }
    }

    /// The account of whoever has this cookie, and the state of it that he logged in to.
    pub fn account(&self, now: Instant, token: &Token) -> Option<(&str, u64)> {
        let visit = self.by_token.get(token).filter(|visit| now < visit.ends())?;
        Some((&visit.account, visit.stamp))
    }

    /// When to come back with a tick: when the next visit ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.by_token.values().map(Visit::ends).min()
    }

    /// Ends the quietest of those that `count`, so that there is room for one more below `max`.
    fn make_room(&mut self, counts: impl Fn(&Visit) -> bool, max: usize) {
        let of = || self.by_token.iter().filter(|(_, visit)| counts(visit));
        if of().count() >= max
            && let Some(quietest) = of().min_by_key(|(_, visit)| visit.seen).map(|(token, _)| *token)
        {
            self.by_token.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u16) -> Token {
        let mut token = [0; 32];
        token[..2].copy_from_slice(&n.to_be_bytes());
        token
    }

    fn enter(visits: &mut Visits, now: Instant, n: u16, account: &str) {
        visits.handle(now, Input::In { token: token(n), account: account.into(), stamp: n.into() });
    }

    fn who(visits: &Visits, now: Instant, n: u16) -> Option<&str> {
        visits.account(now, &token(n)).map(|(account, stamp)| {
            assert_eq!(stamp, u64::from(n));
            account
        })
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    #[test]
    fn a_visit_lasts_a_quiet_half_day_or_a_busy_whole_one() {
        let start = Instant::now();
        let mut visits = Visits::default();
        enter(&mut visits, start, 1, "lan");
        assert_eq!(who(&visits, start + hours(12) - Duration::from_secs(1), 1), Some("lan"));
        assert_eq!(who(&visits, start + hours(12), 1), None);
        for hour in 1..24 {
            visits.handle(start + hours(hour), Input::Seen { token: token(1) });
            assert_eq!(who(&visits, start + hours(hour), 1), Some("lan"));
        }
        assert_eq!(visits.deadline(), Some(start + hours(24)));
        visits.handle(start + hours(24), Input::Seen { token: token(1) });
        assert_eq!((who(&visits, start + hours(24), 1), visits.deadline()), (None, None));
    }

    #[test]
    fn a_cookie_that_is_over_does_not_come_back_by_being_shown() {
        let start = Instant::now();
        let mut visits = Visits::default();
        enter(&mut visits, start, 1, "lan");
        visits.handle(start + hours(13), Input::Seen { token: token(1) });
        assert_eq!(who(&visits, start + hours(13), 1), None);
        assert_eq!(who(&visits, start, 2), None);
    }

    #[test]
    fn logging_out_ends_one_visit() {
        let now = Instant::now();
        let mut visits = Visits::default();
        for (n, account) in [(1, "lan"), (2, "lan"), (3, "hoa")] {
            enter(&mut visits, now, n, account);
        }
        visits.handle(now, Input::Out { token: token(1) });
        visits.handle(now, Input::Out { token: token(9) });
        assert_eq!([1, 2, 3].map(|n| who(&visits, now, n)), [None, Some("lan"), Some("hoa")]);
    }

    #[test]
    fn there_is_room_for_so_many_and_the_quietest_goes() {
        let start = Instant::now();
        let mut visits = Visits::default();
        for n in 0..VISITS_OF_ONE_MAX as u16 {
            enter(&mut visits, start + Duration::from_secs(n.into()), n, "lan");
        }
        visits.handle(start + hours(1), Input::Seen { token: token(0) });
        enter(&mut visits, start + hours(1), 100, "lan");
        assert_eq!(who(&visits, start + hours(1), 0), Some("lan"));
        assert_eq!(who(&visits, start + hours(1), 1), None);
        for n in 0..1000 {
            enter(&mut visits, start + hours(2), 1000 + n, &format!("account{n}"));
            assert!(visits.by_token.len() <= VISITS_MAX);
        }
    }
}
