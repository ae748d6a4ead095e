//! What happened in a world, as one number: two runs with the same number went the same way, event by event.
//!
//! FNV-1a with 128 bits (draft-eastlake-fnv): it need not resist anybody, only differ when a run does, and it costs a
//! multiplication for each eight bytes.

use std::fmt;

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// The running hash of everything that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    hash: u128,
    events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: OFFSET, events: 0 }
    }
}

impl Trace {
    /// Takes in one event, as numbers that say all that matters of it.
    pub fn event(&mut self, parts: &[u64]) {
        self.events += 1;
        for part in parts {
            self.hash = (self.hash ^ u128::from(*part)).wrapping_mul(PRIME);
        }
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_is_another_run() {
        let run = |events: &[&[u64]]| {
            let mut trace = Trace::default();
            events.iter().for_each(|event| trace.event(event));
            trace.to_string()
        };
        assert_eq!(run(&[&[1, 2], &[3]]), run(&[&[1, 2], &[3]]));
        assert_ne!(run(&[&[1, 2], &[3]]), run(&[&[3], &[1, 2]]));
        assert_ne!(run(&[&[1]]), run(&[&[1], &[0]]));
    }
}
