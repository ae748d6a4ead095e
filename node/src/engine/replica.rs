//! How a session that is over comes to have enough copies, and keeps them.
//!
//! Two parts that meet over the network only. [`care::Care`] is the one who looks after a session: it offers it to those
//! whom placement names, asks them now and then whether they still hold it, and offers it to others when they fall silent.
//! [`pull::Pulls`] is the one who was offered something: it takes it if there is room, and fetches what it lacks from several
//! who have it. Nothing is ever pushed: who copies decides when, as only it knows what its own line and disk bear.
//!
//! Time is this node's own and runs while it runs; no peer's clock decides anything. Chance is drawn from a seed, so that two
//! runs on the same inputs are the same run. What is done on an input costs as much as what it concerns, not as much as
//! everything that is known: a simulator runs thousands of these.

pub mod care;
pub mod pull;

use std::time::Duration;

use store::id::{Hash, NodeId, SessionId};

/// First and longest pause after something that brought nothing, in minutes.
const AGAIN_MIN: u64 = 1;
/// See [`AGAIN_MIN`].
const AGAIN_MAX: u64 = 64;

/// Where the chance in the pauses comes from. Pauses differ between nodes, so that those who waited for the same holder do
/// not all come back in one moment.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice { seed }
    }

    /// A part of `span`, the same for the same seed, session, node and throw.
    pub(super) fn part(self, span: Duration, session: &SessionId, node: &NodeId, throw: u32) -> Duration {
        let mut bytes = self.seed.to_be_bytes().to_vec();
        bytes.extend_from_slice(session.as_bytes());
        bytes.extend_from_slice(node.as_bytes());
        bytes.extend_from_slice(&throw.to_be_bytes());
        let drawn = *Hash::of(&bytes).as_bytes().first_chunk().expect("a hash has 32 bytes");
        span.mul_f64(f64::from(u32::from_be_bytes(drawn)) / f64::from(u32::MAX))
    }

    /// The pause after the `tries`th failure: one minute, then twice as long each time up to 64, and up to a quarter more.
    pub(super) fn pause(self, session: &SessionId, node: &NodeId, tries: u32) -> Duration {
        let minutes = AGAIN_MIN.checked_shl(tries.saturating_sub(1)).unwrap_or(AGAIN_MAX).clamp(AGAIN_MIN, AGAIN_MAX);
        let pause = Duration::from_secs(60 * minutes);
        pause + self.part(pause / 4, session, node, tries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_differ_between_nodes() {
        let session = SessionId::from_parts(1, [0; 10]);
        let nodes = [NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32])];
        for (tries, minutes) in [(0, 1), (1, 1), (2, 2), (3, 4), (7, 64), (8, 64), (200, 64)] {
            let [one, other] = nodes.map(|node| Dice::new(7).pause(&session, &node, tries));
            let least = Duration::from_secs(60 * minutes);
            assert!(one >= least && one <= least + least / 4, "{tries}: {one:?}");
            assert_ne!(one, other);
            assert_eq!(one, Dice::new(7).pause(&session, &nodes[0], tries), "the same seed is the same run");
            assert_ne!(one, Dice::new(8).pause(&session, &nodes[0], tries));
        }
    }
}
