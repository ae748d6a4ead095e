//! What is on its way: things that are due at a time, and the room they take until then.
//!
//! Things due at the same time come out in the order they went in, so that a run depends on nothing but its inputs.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Waiting<T> {
    /// By time and number, with the bytes each takes.
    due: BTreeMap<(Duration, u64), (usize, T)>,
    bytes: usize,
    bytes_max: usize,
    count: u64,
}

impl<T> Waiting<T> {
    /// Room for so many bytes together.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { due: BTreeMap::new(), bytes: 0, bytes_max, count: 0 }
    }

    /// Keeps a thing of `bytes` until `at`; false, and it is gone, if there is no room.
    #[must_use]
    pub(crate) fn keep(&mut self, at: Duration, bytes: usize, thing: T) -> bool {
        if self.bytes + bytes > self.bytes_max {
            return false;
        }
        self.bytes += bytes;
        self.count += 1;
        self.due.insert((at, self.count), (bytes, thing));
        true
    }

    /// When the next thing is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next thing that is due at `now`, and when it was.
    pub(crate) fn take(&mut self, now: Duration) -> Option<(Duration, T)> {
        if self.next()? > now {
            return None;
        }
        let ((at, _), (bytes, thing)) = self.due.pop_first()?;
        self.bytes -= bytes;
        Some((at, thing))
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn things_come_out_when_due_and_equals_in_their_order() {
        let mut waiting = Waiting::new(100);
        for (at, thing) in [(5, "d"), (3, "a"), (4, "c"), (3, "b")] {
            assert!(waiting.keep(MS * at, 1, thing));
        }
        assert_eq!(waiting.take(MS * 2), None);
        assert_eq!(waiting.next(), Some(MS * 3));
        let out: Vec<_> = std::iter::from_fn(|| waiting.take(MS * 4)).collect();
        assert_eq!(out, [(MS * 3, "a"), (MS * 3, "b"), (MS * 4, "c")]);
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn there_is_no_more_room_than_was_said() {
        let mut waiting = Waiting::new(100);
        assert!(waiting.keep(MS, 60, 1));
        assert!(!waiting.keep(MS, 41, 2));
        assert!(waiting.keep(MS, 40, 3));
        assert_eq!(waiting.take(MS), Some((MS, 1)));
        assert!(waiting.keep(MS, 60, 4));
    }
}
