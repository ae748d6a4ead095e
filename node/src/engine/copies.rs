//! Who fetched how much of which session, gathered into few entries for the access log.
//!
//! A copy of a session is thousands of groups, asked for one after the other for hours. The first is told at once, so that
//! nobody waits to learn of it; what the same point takes of the same session after that is one entry in ten minutes,
//! with a number. Only points are given anything, and only of sessions that are known here, so both bound what is
//! remembered and written, and unlike what strangers do (`engine::tally`) every entry keeps its name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use store::id::{NodeId, SessionId};

/// Between two entries of one point and one session.
const EVERY: Duration = Duration::from_secs(600);

/// Some groups of one session that one point took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub node: NodeId,
    pub session: SessionId,
    pub groups: u64,
    /// Wall clock of the first of them, unix milliseconds.
    pub since_ms: u64,
}

/// Gathers, and says when to write an entry.
#[derive(Debug, Default)]
pub struct Copies {
    open: BTreeMap<(NodeId, SessionId), Open>,
}

#[derive(Debug)]
struct Open {
    groups: u64,
    since_ms: u64,
    /// When the next entry may be written.
    due: Instant,
}

impl Copies {
    /// A point took some more.
    pub fn handle(&mut self, now: Instant, taken: Taken) {
        let Taken { node, session, groups, since_ms } = taken;
        let open = self.open.entry((node, session)).or_insert(Open { groups: 0, since_ms, due: now });
        if open.groups == 0 {
            open.since_ms = since_ms;
        }
        open.groups = open.groups.saturating_add(groups);
    }

    /// An entry to write. Drain until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Taken> {
        self.open.retain(|_, open| open.groups > 0 || now < open.due);
        let ((node, session), open) = self.open.iter_mut().find(|(_, open)| open.groups > 0 && open.due <= now)?;
        let taken = Taken { node: *node, session: *session, groups: open.groups, since_ms: open.since_ms };
        (open.groups, open.due) = (0, now + EVERY);
        Some(taken)
    }

    /// The node stops: whatever was gathered is due.
    pub fn stop(&mut self, now: Instant) {
        self.open.values_mut().for_each(|open| open.due = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(node: u8, groups: u64, since_ms: u64) -> Taken {
        Taken { node: NodeId::from_bytes([node; 32]), session: SessionId::from_bytes([9; 16]), groups, since_ms }
    }

    fn told(copies: &mut Copies, now: Instant) -> Vec<Taken> {
        std::iter::from_fn(|| copies.poll(now)).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_every_ten_minutes_to_the_last_group() {
        let start = Instant::now();
        let mut copies = Copies::default();
        let (mut entries, mut groups) = (Vec::new(), 0);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            copies.handle(now, took(1, 3, second));
            groups += 3;
            entries.extend(told(&mut copies, now));
        }
        let stop = start + Duration::from_secs(3600);
        copies.handle(stop, took(2, 1, 3600));
        copies.stop(stop);
        entries.extend(told(&mut copies, stop));
        assert_eq!(entries[..2], [took(1, 3, 0), took(1, 1800, 1)]);
        assert_eq!(entries.len(), 8, "six of an hour, what was left, and another point's");
        assert_eq!(entries.iter().map(|taken| taken.groups).sum::<u64>(), groups + 1);
    }

    #[test]
    fn who_took_nothing_for_ten_minutes_is_forgotten() {
        let start = Instant::now();
        let mut copies = Copies::default();
        copies.handle(start, took(1, 1, 0));
        assert_eq!(told(&mut copies, start).len(), 1);
        assert_eq!(told(&mut copies, start + EVERY), []);
        assert!(copies.open.is_empty());
    }
}
