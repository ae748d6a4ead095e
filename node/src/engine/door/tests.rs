//! The door under every kind of crowd.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    address: Rate { burst: 4, per_second: 2 },
    address_work_max: 3,
    address_open_max: 6,
    total: Rate { burst: 20, per_second: 10 },
    total_work_max: 12,
    unproven_max: 2,
    proofs: Rate { burst: 50, per_second: 50 },
    stranger_time: Duration::from_secs(2),
    known_time: Duration::from_secs(5),
};

struct Scene {
    now: Instant,
    door: Door,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, door: Door::new(now, LIMITS) }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn knock(&mut self, from: IpAddr, proof: Proof) -> Answer {
        self.door.knock(self.now, from, proof)
    }

    fn enter(&mut self, from: IpAddr, proof: Proof) -> Option<Visit> {
        match self.knock(from, proof) {
            Answer::Enter(visit) => Some(visit),
            Answer::Prove | Answer::Ignore => None,
        }
    }

    /// How many of `count` knocks of one address after the other get in and fail.
    fn passing(&mut self, count: u32, from: impl Fn(u32) -> IpAddr, proof: Proof) -> usize {
        let mut entered = 0;
        for n in 0..count {
            if let Some(visit) = self.enter(from(n), proof) {
                entered += 1;
                self.door.end(visit);
            }
        }
        entered
    }
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

fn v6(prefix: u64, host: u64) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(prefix) << 64 | u128::from(host)).into()
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

#[test]
fn one_address_has_its_share_and_no_more() {
    let mut scene = Scene::new();
    assert_eq!(scene.passing(100, |_| v4(1), Proof::Given), 4);
    assert_eq!(scene.passing(100, |_| v4(2), Proof::Given), 4);
    scene.pass(1_000);
    assert_eq!(scene.passing(100, |_| v4(1), Proof::Given), 2);
    // However slowly it goes about each.
    scene.pass(60_000);
    let held: Vec<_> = (0..10).filter_map(|_| scene.enter(v4(3), Proof::Given)).collect();
    assert_eq!(held.len(), 3);
    held.into_iter().for_each(|visit| scene.door.end(visit));
    assert!(scene.enter(v4(3), Proof::Given).is_some(), "a place that was given back is free");
}

#[test]
fn a_thousand_addresses_of_one_household_are_one() {
    let mut scene = Scene::new();
    assert_eq!(scene.passing(1_000, |n| v6(7, n.into()), Proof::Given), 4);
    assert_eq!(scene.passing(1_000, |_| v6(8, 1), Proof::Given), 4);
    let mapped = |_| Ipv4Addr::from_bits(0x0a00_0001).to_ipv6_mapped().into();
    assert_eq!(scene.passing(1_000, |_| v4(1), Proof::Given) + scene.passing(1_000, mapped, Proof::Given), 4);
}

#[test]
fn forged_addresses_are_asked_for_proof_and_then_ignored() {
    let mut scene = Scene::new();
    let calm: Vec<_> = (0..2).filter_map(|n| scene.enter(v4(n), Proof::Askable)).collect();
    assert_eq!(calm.len(), 2, "with little to do, nobody is kept waiting");
    let mut answers = [0, 0];
    for n in 0..1_000 {
        match scene.knock(v4(1_000 + n), Proof::Askable) {
            Answer::Enter(_) => panic!("let in without proof"),
            Answer::Prove => answers[0] += 1,
            Answer::Ignore => answers[1] += 1,
        }
    }
    assert_eq!(answers, [50, 950]);
    assert!(scene.enter(v4(5), Proof::Given).is_some(), "who answered is let in");
    assert_eq!(scene.door.callers.len(), 1, "nothing is remembered of forged addresses");
}

#[test]
fn nobody_can_use_up_the_share_of_another() {
    let mut scene = Scene::new();
    for _ in 0..1_000 {
        // Forged: it never answers.
        let _ = scene.knock(v4(1), Proof::Askable);
    }
    scene.pass(500);
    assert_eq!(scene.passing(100, |_| v4(1), Proof::Given), 4);
}

#[test]
fn a_member_gets_in_however_many_strangers_knock() {
    let mut scene = Scene::new();
    let mut visit = scene.enter(v4(1), Proof::Given).expect("nobody is there");
    scene.door.welcome(scene.now, &mut visit, node(1));
    scene.door.end(visit);
    let mut held = Vec::new();
    for second in 0..100 {
        scene.pass(1_000);
        for n in 0..200 {
            held.extend(scene.enter(v4(1_000 + 200 * second + n), Proof::Given));
            held.extend(scene.enter(v4(1_000 + 200 * second + n), Proof::Askable));
        }
        assert!(held.len() <= 12, "{} strangers at once", held.len());
        match scene.knock(v4(1), Proof::Askable) {
            Answer::Enter(visit) => scene.door.end(visit),
            Answer::Prove => {}
            Answer::Ignore => panic!("a member is not heard"),
        }
        let visit = scene.enter(v4(1), Proof::Given).expect("a member came from there before");
        assert_eq!(scene.door.patience(&visit), LIMITS.known_time);
        scene.door.end(visit);
    }
    assert_eq!(scene.door.patience(&held[0]), LIMITS.stranger_time);
}

#[test]
fn strangers_together_have_their_share_and_no_more() {
    let mut scene = Scene::new();
    assert_eq!(scene.passing(1_000, v4, Proof::Given), 20);
    scene.pass(1_000);
    assert_eq!(scene.passing(1_000, v4, Proof::Given), 10);
    scene.pass(60_000);
    let held: Vec<_> = (0..100).filter_map(|n| scene.enter(v4(n), Proof::Given)).collect();
    assert_eq!(held.len(), 12);
}

#[test]
fn memory_does_not_grow_with_the_number_of_addresses() {
    let mut scene = Scene::new();
    for n in 0..200_000 {
        scene.pass(10);
        if let Some(visit) = scene.enter(v6(n, n), Proof::Given) {
            scene.door.end(visit);
        }
        assert!(scene.door.callers.len() <= 128, "{} entries", scene.door.callers.len());
    }
}

#[test]
fn a_member_is_remembered_at_few_addresses_and_forgotten_with_its_membership() {
    let mut scene = Scene::new();
    for n in 0..100 {
        scene.door.know(node(1), v4(n));
        scene.door.know(node(2), v4(99));
    }
    assert_eq!(scene.door.known_sources.len(), KNOWN_MAX);
    scene.door.retain(|member| *member == node(2));
    assert_eq!(scene.door.known_sources.keys().collect::<Vec<_>>(), [&Source::from(v4(99))]);
    scene.door.retain(|_| false);
    assert!(scene.door.known.is_empty() && scene.door.known_sources.is_empty());
}

#[test]
fn connections_of_one_address_are_bounded_too() {
    let mut scene = Scene::new();
    let mut open = Vec::new();
    for n in 0..100 {
        scene.pass(1_000);
        if let Some(mut visit) = scene.enter(v4(1), Proof::Given) {
            scene.door.welcome(scene.now, &mut visit, node(n));
            open.push(visit);
        }
    }
    assert_eq!(open.len(), 6);
    open.into_iter().for_each(|visit| scene.door.end(visit));
    assert!(scene.enter(v4(1), Proof::Given).is_some());
}

proptest! {
    /// Whatever happens in whatever order, every place is given back in the end.
    #[test]
    fn no_place_is_lost(steps in prop::collection::vec((0_u8..6, 0_u32..6, 0_u64..400), 0..300)) {
        let mut scene = Scene::new();
        let mut visits: Vec<Visit> = Vec::new();
        for (what, which, millis) in steps {
            scene.pass(millis);
            let proof = [Proof::Given, Proof::Askable][which as usize % 2];
            match what {
                0..=2 => visits.extend(scene.enter(v4(which), proof)),
                3 => if let Some(visit) = visits.get_mut(which as usize) {
                    scene.door.welcome(scene.now, visit, node(which as u8));
                },
                4 => if !visits.is_empty() {
                    let visit = visits.swap_remove(which as usize % visits.len());
                    scene.door.end(visit);
                },
                _ => scene.door.retain(|member| *member == node(which as u8)),
            }
            prop_assert!(scene.door.unproven <= LIMITS.unproven_max && scene.door.strangers <= LIMITS.total_work_max);
        }
        visits.into_iter().for_each(|visit| scene.door.end(visit));
        prop_assert_eq!((scene.door.unproven, scene.door.strangers), (0, 0));
        prop_assert!(scene.door.callers.values().all(|caller| caller.work + caller.open == 0));
        scene.pass(60_000);
        let now = scene.now;
        prop_assert!(scene.door.callers.values().all(|caller| caller.is_blank(now)));
    }
}
