//! Who should hold a session: weighted rendezvous hashing, spread over zones.
//!
//! Every node draws a lot for every session, and the best lots hold it. The lot depends on the session and the node alone, so
//! all who know the same nodes agree without a word, and a node that comes or goes changes only what it wins or held; a
//! ring or a table of partitions would have to be kept and agreed on. A node that offers twice as much wins twice as often:
//! its lot is `-w / ln(u)`, where `u` is a fraction drawn from BLAKE3 of session and node.
//!
//! Before any lot is compared come two wishes. First *zones*: points of one zone are lost in one flood, so a zone that holds
//! no copy is taken before one that does; points whose roster names no zone count as one zone, since nothing says they are
//! apart. Then *part*: points that took part have something of the session already and a reason to keep it, so they come
//! before the rest of the mesh.
//!
//! Machines must not disagree about a last digit. Logarithms of floating point differ between processors and libraries, so
//! there are none here: `-log2(u)` is found digit by digit with integers, and two lots are compared by multiplying
//! across (the base of the logarithm falls out). Whatever divides or rounds does so the same everywhere.

use std::collections::BTreeSet;

use crate::id::{NodeId, SessionId};

/// Copies of each session, central's among them, unless somebody asks for another number.
pub const COPIES: usize = 3;

/// What the hash is taken over begins with this, so that no other use of BLAKE3 draws the same lots.
const CONTEXT: &[u8] = b"diemcau placement v1\0";

/// Binary digits of a logarithm behind the point. Two lots that agree to so many are told apart by the node's key.
const DIGITS: u32 = 48;

/// A node that may be given a session to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The node.
    pub node: NodeId,
    /// Its zone; may be empty.
    pub zone: &'a str,
    /// Whether it took part in the session.
    pub took_part: bool,
    /// What it offers, in any unit that is the same for all. Who offers nothing is never chosen.
    pub weight: u32,
}

/// The `count` candidates that should hold a session beside those in `zones`, best first; fewer if there are not as many.
/// Candidates that hold it already must not be among them. Their order means nothing.
pub fn choose<'a>(
    session: &SessionId,
    zones: impl IntoIterator<Item = &'a str>,
    candidates: &[Candidate<'a>],
    count: usize,
) -> Vec<NodeId> {
    let mut used: BTreeSet<&str> = zones.into_iter().collect();
    let offering = candidates.iter().filter(|candidate| candidate.weight > 0);
    let mut left: Vec<(Lot, &Candidate<'a>)> =
        offering.map(|candidate| (Lot::draw(session, candidate), candidate)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let rank = |(lot, candidate): &(Lot, &Candidate<'a>)| {
            (!used.contains(candidate.zone), candidate.took_part, *lot, candidate.node)
        };
        let Some(best) = (0..left.len()).max_by_key(|&place| rank(&left[place])) else { break };
        let (_, candidate) = left.swap_remove(best);
        used.insert(candidate.zone);
        chosen.push(candidate.node);
    }
    chosen
}

/// A node's lot for a session; the greater holds.
#[derive(Debug, Clone, Copy)]
struct Lot {
    weight: u32,
    /// `-log2(u)` with [`DIGITS`] binary digits behind the point, at least one of the last.
    log: u64,
}

impl Lot {
    fn draw(session: &SessionId, candidate: &Candidate<'_>) -> Lot {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT).update(session.as_bytes()).update(candidate.node.as_bytes());
        let bytes = hasher.finalize();
        let drawn = u64::from_be_bytes(*bytes.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        Lot { weight: candidate.weight, log: (64 << DIGITS) - log2(drawn.max(1)) }
    }
}

impl Ord for Lot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // w / l against w' / l', without dividing. Both products have at most 32 + 55 bits.
        let cross = |a: &Lot, b: &Lot| u128::from(a.weight) * u128::from(b.log);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl PartialOrd for Lot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Lot {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Lot {}

/// Logarithm to the base of two, rounded down to [`DIGITS`] binary digits. A number between one and two is squared: if it
/// comes to two or more the next digit is one, and it is halved.
fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    let mut log = u64::from(whole);
    // One digit before the point, 63 behind it.
    let mut rest = u128::from(number) << (63 - whole);
    for _ in 0..DIGITS {
        rest = (rest * rest) >> 63;
        let digit = rest >> 64;
        log = log << 1 | u64::from(digit == 1);
        rest >>= digit;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionId {
        SessionId::from_parts(1_700_000_000_000 + number, [7; 10])
    }

    fn node(number: u64) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&number.to_be_bytes()).as_bytes())
    }

    fn mesh(count: u64) -> Vec<Candidate<'static>> {
        const ZONES: [&str; 5] = ["ven sông", "nội thành", "ven biển", "vùng cao", ""];
        let candidate =
            |n| Candidate { node: node(n), zone: ZONES[n as usize % 5], took_part: n % 7 == 0, weight: 100 };
        (0..count).map(candidate).collect()
    }

    fn alike(count: u64) -> Vec<Candidate<'static>> {
        mesh(count).into_iter().map(|candidate| Candidate { zone: "", took_part: false, ..candidate }).collect()
    }

    #[test]
    fn the_logarithm_is_the_same_everywhere_and_right() {
        let check = |number, expected: f64| {
            let log = log2(number) as f64 / (1u64 << DIGITS) as f64;
            assert!((log - expected).abs() < 1e-13, "{number}: {log} is not {expected}");
        };
        (0..64).for_each(|power| assert_eq!(log2(1 << power), power << DIGITS));
        check(3, 1.584_962_500_721_16);
        check(10, std::f64::consts::LOG2_10);
        assert!(log2(u64::MAX) < 64 << DIGITS, "so that no lot divides by nothing");
        let drawn: Vec<u64> = (0..1000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).collect();
        drawn.iter().for_each(|&number| check(number, (number as f64).log2()));
        let mut rising = drawn;
        rising.sort_unstable();
        assert!(rising.windows(2).all(|pair| log2(pair[0]) <= log2(pair[1])));
    }

    #[test]
    fn what_was_chosen_once_is_chosen_for_ever() {
        let named = |number: u64| {
            let chosen = choose(&session(number), ["nội thành"], &mesh(50), 3);
            chosen.iter().map(NodeId::short).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([0, 1, 2].map(named), KNOWN);
    }

    const KNOWN: [&str; 3] = ["4b0f60af 086b3727 a5d2f69e", "bd39386f 9fc68885 71e0a991", "039afa45 bd39386f 086b3727"];

    #[test]
    fn all_nodes_agree_in_whatever_order_they_know_each_other() {
        let mut nodes = mesh(60);
        for number in 0..200 {
            let chosen = choose(&session(number), ["ven biển"], &nodes, 4);
            let turn = number as usize % nodes.len();
            nodes.rotate_left(turn);
            nodes.reverse();
            assert_eq!(choose(&session(number), ["ven biển"], &nodes, 4), chosen);
        }
    }

    #[test]
    fn a_node_that_comes_takes_only_what_it_wins() {
        let (before, after) = (alike(40), alike(41));
        let new = node(40);
        let mut won = 0;
        for number in 0..2000 {
            let (old, now) = (choose(&session(number), [], &before, 2), choose(&session(number), [], &after, 2));
            if old != now {
                assert!(now.contains(&new));
                assert!(now.iter().filter(|node| **node != new).all(|node| old.contains(node)), "others stay put");
                won += 1;
            }
        }
        // Two of 41 places, 97 of 2000.
        assert!((60..140).contains(&won), "{won}");
    }

    #[test]
    fn with_zones_a_node_that_goes_leaves_the_best_of_the_others_where_they_are() {
        let nodes = mesh(40);
        for number in 0..500 {
            let session = session(number);
            let chosen = choose(&session, ["nội thành"], &nodes, 2);
            for gone in nodes.iter().map(|candidate| candidate.node) {
                let rest: Vec<_> = nodes.iter().copied().filter(|candidate| candidate.node != gone).collect();
                let now = choose(&session, ["nội thành"], &rest, 2);
                if !chosen.contains(&gone) {
                    assert_eq!(now, chosen, "a node that held nothing is missed by nobody");
                }
                if gone == chosen[1] {
                    assert_eq!(now[0], chosen[0]);
                }
            }
        }
    }

    #[test]
    fn who_offers_twice_as_much_holds_twice_as_much() {
        let mut nodes = alike(10);
        nodes[3].weight = 200;
        nodes[4].weight = 0;
        nodes[5].weight = 400;
        let mut held = [0; 10];
        for number in 0..14_000 {
            let chosen = choose(&session(number), [], &nodes, 1);
            held[nodes.iter().position(|candidate| candidate.node == chosen[0]).unwrap()] += 1;
        }
        // 1300 parts in all: 1077 sessions for each hundred.
        let fair = |weight: u32| f64::from(weight) / 1300.0 * 14_000.0;
        for (candidate, held) in nodes.iter().zip(held) {
            let fair = fair(candidate.weight);
            assert!((f64::from(held) - fair).abs() <= 4.0 * fair.sqrt(), "{held}, not about {fair}");
        }
    }

    #[test]
    fn copies_are_spread_over_zones_and_then_given_to_those_who_took_part() {
        let nodes = mesh(50);
        let of = |node: &NodeId| *nodes.iter().find(|candidate| candidate.node == *node).unwrap();
        for number in 0..300 {
            let chosen = choose(&session(number), ["nội thành"], &nodes, 6);
            let zones: Vec<_> = chosen.iter().map(|node| of(node).zone).collect();
            let first: BTreeSet<_> = zones[..4].iter().collect();
            assert!(first.len() == 4 && !first.contains(&"nội thành"), "{zones:?}");
            assert!(chosen.iter().all(|node| of(node).took_part), "there is one in every zone, and more in two");
        }
        let two = [("một", true), ("hai", false)].map(|(zone, took_part)| Candidate {
            zone,
            took_part,
            ..nodes[usize::from(took_part)]
        });
        assert_eq!(choose(&session(0), ["một"], &two, 1), [two[1].node], "a flood asks nobody who took part");
    }

    #[test]
    fn fewer_are_chosen_where_there_are_fewer() {
        assert_eq!(choose(&session(0), [], &[], 3), []);
        assert_eq!(choose(&session(0), [], &mesh(2), 3).len(), 2);
        assert_eq!(choose(&session(0), [], &mesh(9), 0), []);
    }
}
