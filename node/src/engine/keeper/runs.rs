//! A set of group numbers kept as runs: memory grows with the number of holes, not with the length of a session, and
//! not with the size of a number a peer names.

use std::collections::BTreeMap;

/// Numbers as disjoint runs that never touch. Both ends of a run are included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// First number of each run to its last.
    runs: BTreeMap<u64, u64>,
}

impl Runs {
    /// Adds `from..=to`.
    pub(crate) fn insert(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        let (mut from, mut to) = (from, to);
        // A run that begins at or before us and reaches us, or ends just below us, is swallowed.
        if let Some((&first, &last)) = self.runs.range(..=from).next_back()
            && last.saturating_add(1) >= from
        {
            from = first;
            to = to.max(last);
        }
        while let Some((&first, &last)) = self.runs.range(from..=to.saturating_add(1)).next() {
            self.runs.remove(&first);
            to = to.max(last);
        }
        self.runs.insert(from, to);
    }

    /// Removes `from..=to`.
    pub(crate) fn remove(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        let touched: Vec<(u64, u64)> =
            self.runs.range(..=to).rev().take_while(|&(_, &last)| last >= from).map(|(&a, &b)| (a, b)).collect();
        for (first, last) in touched {
            self.runs.remove(&first);
            if first < from {
                self.runs.insert(first, from - 1);
            }
            if last > to {
                self.runs.insert(to + 1, last);
            }
        }
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.runs.range(..=seq).next_back().is_some_and(|(_, &last)| last >= seq)
    }

    /// The first run of numbers within `from..=to` that are *not* here.
    pub(super) fn first_gap(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let mut from = from;
        if let Some((_, &last)) = self.runs.range(..=from).next_back()
            && last >= from
        {
            from = last.checked_add(1)?;
        }
        if from > to {
            return None;
        }
        let end = match self.runs.range(from..=to).next() {
            Some((&first, _)) => first - 1,
            None => to,
        };
        Some((from, end))
    }

    /// The first run of numbers within `from..=to` that are here.
    pub(super) fn first_run(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        if let Some((_, &last)) = self.runs.range(..=from).next_back()
            && last >= from
            && from <= to
        {
            return Some((from, last.min(to)));
        }
        if from > to {
            return None;
        }
        let (&first, &last) = self.runs.range(from..=to).next()?;
        Some((first, last.min(to)))
    }

    /// How many runs there are: what bounds the memory.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// How many numbers there are.
    pub(super) fn count(&self) -> u64 {
        self.runs.iter().fold(0u64, |sum, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|(&first, &last)| (first, last))
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Small numbers in an order that mixes inserts and removals of every overlap.
    fn steps() -> impl Iterator<Item = (bool, u64, u64)> {
        let mut state = 1u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let from = state >> 33 & 31;
            (state >> 40 & 3 != 0, from, from + (state >> 45 & 7))
        })
        .take(5_000)
    }

    #[test]
    fn runs_behave_like_a_set_of_numbers() {
        let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
        for (insert, from, to) in steps() {
            if insert {
                runs.insert(from, to);
                set.extend(from..=to);
            } else {
                runs.remove(from, to);
                set.retain(|seq| !(from..=to).contains(seq));
            }
            assert_eq!(runs.count(), set.len() as u64);
            assert!((0..48).all(|seq| runs.contains(seq) == set.contains(&seq)));
            let missing = (from..=40).find(|seq| !set.contains(seq));
            assert_eq!(runs.first_gap(from, 40).map(|(first, _)| first), missing);
            let present = (from..=40).find(|seq| set.contains(seq));
            assert_eq!(runs.first_run(from, 40).map(|(first, _)| first), present);
            let ends: Vec<_> = runs.iter().collect();
            assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "runs never touch");
        }
    }

    #[test]
    fn the_largest_numbers_do_no_harm() {
        let mut runs = Runs::default();
        runs.insert(u64::MAX - 1, u64::MAX);
        runs.insert(0, u64::MAX - 2);
        assert_eq!((runs.len(), runs.first_gap(0, u64::MAX)), (1, None));
        runs.remove(5, u64::MAX - 1);
        assert_eq!(runs.first_gap(0, u64::MAX), Some((5, u64::MAX - 1)));
        assert!(runs.contains(u64::MAX));
    }
}
