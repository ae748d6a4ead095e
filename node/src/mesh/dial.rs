//! Whom to call and when. Pure: time and chance are arguments.
//!
//! Points call one another for ever: a line that was down for a week must come back by itself. Each target waits twice
//! as long after each failure, up to half a minute, and a little longer by chance, so that forty points which lost power
//! together do not all call central in the same second. A configured address says nothing of who answers there; once
//! somebody has, the address counts as connected while that point is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use store::id::NodeId;

use crate::config::Address;

/// The first wait. Doubles with each failure.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait before chance is added: people who restored a line look at the screen about this long.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Addresses remembered for a point; the oldest makes room. The roster may have
/// as many, and a machine has a few per network card.
const ADDRESSES_MAX: usize = 24;

/// Someone to call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A point of the roster, wherever it is.
    Point(NodeId),
    /// Whoever is at a configured address.
    Address(Address),
}

#[derive(Debug)]
struct Line {
    phase: Phase,
    failures: u32,
    /// For an address: who answered there last.
    leads_to: Option<NodeId>,
    /// For a point: where it has been seen or is said to be, newest last.
    addresses: Vec<Address>,
}

impl Line {
    fn new(due: Instant, addresses: Vec<Address>) -> Self {
        Self { phase: Phase::Waiting(due), failures: 0, leads_to: None, addresses }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting(Instant),
    Calling,
    Connected,
    /// The address is our own.
    Own,
}

/// Everyone to call, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Dialler(BTreeMap<Target, Line>);

impl Dialler {
    /// All are due at `now`.
    pub(super) fn new(
        now: Instant,
        points: impl IntoIterator<Item = (NodeId, Vec<Address>)>,
        addresses: impl IntoIterator<Item = Address>,
    ) -> Self {
        let points = points.into_iter().map(|(node, known)| (Target::Point(node), Line::new(now, known)));
        let addresses = addresses.into_iter().map(|address| (Target::Address(address), Line::new(now, Vec::new())));
        Self(points.chain(addresses).collect())
    }

    /// A new point, due at `now`. Addresses at which nobody was found are tried again too: it may be there.
    pub(super) fn add(&mut self, now: Instant, node: NodeId, addresses: Vec<Address>) {
        self.0.insert(Target::Point(node), Line::new(now, addresses));
        self.hurry(now);
    }

    /// No point any more: it is not called, nor does any address lead to it.
    pub(super) fn forget(&mut self, now: Instant, node: NodeId) {
        self.0.remove(&Target::Point(node));
        for line in self.0.values_mut().filter(|line| line.leads_to == Some(node)) {
            *line = Line::new(now + WAIT_MAX, Vec::new());
        }
    }

    /// The targets whose turn it is. Each counts as being called until the outcome is reported.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Target> {
        let due = |line: &Line| matches!(line.phase, Phase::Waiting(until) if until <= now);
        let mut targets = Vec::new();
        for (target, line) in self.0.iter_mut().filter(|(_, line)| due(line)) {
            line.phase = Phase::Calling;
            targets.push(target.clone());
        }
        targets
    }

    /// When [`Dialler::due`] has something next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.0.values().filter_map(|line| match line.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Calling | Phase::Connected | Phase::Own => None,
        });
        waits.min()
    }

    /// Where a target may be, newest first.
    pub(super) fn addresses(&self, target: &Target) -> Vec<Address> {
        match target {
            Target::Address(address) => vec![address.clone()],
            Target::Point(_) => {
                self.0.get(target).map_or_else(Vec::new, |line| line.addresses.iter().rev().cloned().collect())
            }
        }
    }

    /// A point is said to be at `address`. If that is news and it waits, it is called now.
    pub(super) fn learn(&mut self, now: Instant, node: NodeId, address: Address) {
        let Some(line) = self.0.get_mut(&Target::Point(node)) else { return };
        if line.addresses.contains(&address) {
            return;
        }
        if line.addresses.len() == ADDRESSES_MAX {
            line.addresses.remove(0);
        }
        line.addresses.push(address);
        if let Phase::Waiting(until) = line.phase {
            line.phase = Phase::Waiting(until.min(now));
        }
    }

    /// The call of `target` came to nothing. `chance` in 0..1.
    pub(super) fn failed(&mut self, now: Instant, target: &Target, chance: f64) {
        let Some(line) = self.0.get_mut(target) else { return };
        if line.phase == Phase::Calling {
            line.failures = line.failures.saturating_add(1);
            line.phase = Phase::Waiting(now + wait(line.failures, chance));
        }
    }

    /// `address` answered with our own key.
    pub(super) fn is_own(&mut self, target: &Target) {
        if let Some(line) = self.0.get_mut(target) {
            line.phase = Phase::Own;
        }
    }

    /// There is a connection to `node`, made by calling `target` or by the other side. It does not count as success
    /// until [`Dialler::settled`].
    pub(super) fn connected(&mut self, node: NodeId, target: Option<&Target>) {
        if let Some(line) = target.and_then(|target| self.0.get_mut(target)) {
            line.leads_to = Some(node);
        }
        for line in self.lines(node) {
            line.phase = Phase::Connected;
        }
    }

    /// `node` greeted us as it should: the next loss is a new one.
    pub(super) fn settled(&mut self, node: NodeId) {
        for line in self.lines(node) {
            line.failures = 0;
        }
    }

    /// The last connection to `node` is gone.
    pub(super) fn lost(&mut self, now: Instant, node: NodeId, chance: f64) {
        for line in self.lines(node) {
            line.failures = line.failures.saturating_add(1);
            line.phase = Phase::Waiting(now + wait(line.failures, chance));
        }
    }

    /// Somebody new can tell where others are: whoever waits long is tried again within the first wait.
    pub(super) fn hurry(&mut self, now: Instant) {
        for line in self.0.values_mut() {
            if let Phase::Waiting(until) = line.phase {
                line.phase = Phase::Waiting(until.min(now + WAIT_MIN));
            }
        }
    }

    fn lines(&mut self, node: NodeId) -> impl Iterator<Item = &mut Line> {
        self.0
            .iter_mut()
            .filter(move |(target, line)| **target == Target::Point(node) || line.leads_to == Some(node))
            .map(|(_, line)| line)
    }
}

fn wait(failures: u32, chance: f64) -> Duration {
    let doubled = WAIT_MIN.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(WAIT_MAX).mul_f64(1.0 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn at(port: u16) -> Address {
        Address { host: "10.0.0.1".into(), port }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_failure_doubles_the_wait_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], []);
        for want in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert_eq!(dialler.due(now), [Target::Point(node(1))]);
            assert_eq!(dialler.deadline(), None, "who is being called is not due");
            dialler.failed(now, &Target::Point(node(1)), 0.0);
            assert_eq!(dialler.deadline(), Some(now + want * SECOND));
            now += want * SECOND;
        }
    }

    #[test]
    fn chance_lengthens_a_wait_by_half_at_most() {
        assert_eq!(wait(1, 0.0), SECOND);
        assert_eq!(wait(1, 1.0), 3 * SECOND / 2);
        assert_eq!(wait(u32::MAX, 1.0), 45 * SECOND);
    }

    #[test]
    fn a_point_found_on_the_network_is_called_at_once() {
        let now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], []);
        dialler.due(now);
        dialler.failed(now, &Target::Point(node(1)), 0.0);
        dialler.learn(now, node(1), at(1));
        assert_eq!(dialler.due(now), [Target::Point(node(1))]);
        dialler.failed(now, &Target::Point(node(1)), 0.0);
        dialler.learn(now, node(1), at(1));
        assert_eq!(dialler.due(now), [], "what is known is no news");
        dialler.learn(now, node(9), at(1));
        assert_eq!(dialler.due(now), [], "a stranger is never called");
    }

    #[test]
    fn only_the_newest_addresses_are_kept() {
        let now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], []);
        for port in 1..=30 {
            dialler.learn(now, node(1), at(port));
        }
        let kept: Vec<_> = dialler.addresses(&Target::Point(node(1))).iter().map(|a| a.port).collect();
        assert_eq!(kept, (7..=30).rev().collect::<Vec<u16>>());
    }

    #[test]
    fn an_address_rests_while_the_point_that_answers_there_is_connected() {
        let now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], [at(1)]);
        assert_eq!(dialler.due(now).len(), 2);
        dialler.failed(now, &Target::Point(node(1)), 0.0);
        dialler.connected(node(1), Some(&Target::Address(at(1))));
        assert_eq!(dialler.deadline(), None);
        dialler.settled(node(1));
        dialler.lost(now, node(1), 0.0);
        assert_eq!(dialler.deadline(), Some(now + SECOND));
        assert_eq!(dialler.due(now + SECOND).len(), 2);
    }

    #[test]
    fn a_point_that_hangs_up_before_greeting_is_called_less_and_less() {
        let mut now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], []);
        for want in [1, 2, 4] {
            dialler.due(now);
            dialler.connected(node(1), Some(&Target::Point(node(1))));
            dialler.lost(now, node(1), 0.0);
            assert_eq!(dialler.deadline(), Some(now + want * SECOND));
            now += want * SECOND;
        }
    }

    #[test]
    fn a_new_point_is_called_at_once_and_one_that_is_none_any_more_not_at_all() {
        let now = Instant::now();
        let mut dialler = Dialler::new(now, [(node(1), vec![])], [at(1)]);
        dialler.due(now);
        dialler.connected(node(1), Some(&Target::Address(at(1))));
        dialler.add(now, node(2), vec![at(2)]);
        assert_eq!(dialler.due(now), [Target::Point(node(2))]);
        dialler.failed(now, &Target::Point(node(2)), 0.0);
        dialler.forget(now, node(2));
        dialler.forget(now, node(1));
        assert_eq!(dialler.deadline(), Some(now + WAIT_MAX), "somebody else may come to the configured address");
        assert_eq!(dialler.due(now + WAIT_MAX), [Target::Address(at(1))]);
        dialler.lost(now, node(1), 0.0);
        assert_eq!(dialler.deadline(), None);
    }

    #[test]
    fn our_own_address_in_the_configuration_is_called_once() {
        let now = Instant::now();
        let mut dialler = Dialler::new(now, [], [at(1)]);
        for target in dialler.due(now) {
            dialler.is_own(&target);
        }
        dialler.hurry(now);
        assert_eq!(dialler.deadline(), None);
    }
}
