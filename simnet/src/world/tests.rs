//! What a world promises to those who are simulated in it.

use super::*;
use crate::link::{Queue, Rate, Share};

const SECOND: Duration = Duration::from_secs(1);
const PLANE: Plane = Plane(0);

/// Sends each host it hears of a number every second, and remembers what it heard.
#[derive(Debug, Default)]
struct Caller {
    peers: Vec<HostId>,
    heard: Vec<(Duration, String)>,
    out: Vec<Output<u64>>,
    at: Duration,
    sent: u64,
    len: usize,
    patience: Option<Duration>,
}

impl Host for Caller {
    type Packet = u64;
    type Order = ();

    fn handle(&mut self, now: Duration, input: Input<u64, ()>) {
        let mut note = |what: String| self.heard.push((now, what));
        match input {
            Input::Boot => self.at = now + SECOND,
            Input::Crash => self.peers.clear(),
            Input::Up { peer, .. } => {
                note(format!("up {peer}"));
                if !self.peers.contains(&peer) {
                    self.peers.push(peer);
                }
            }
            Input::Down { peer, said, .. } => {
                note(format!("down {peer} {said}"));
                self.peers.retain(|known| *known != peer);
            }
            Input::Packet { packet, .. } => note(format!("got {packet}")),
            Input::GivenUp { packet, .. } => note(format!("without {packet}")),
            Input::Order(()) => {}
            Input::Tick => {
                self.at = now + SECOND;
                self.sent += 1;
                for &to in &self.peers {
                    let (len, patience, packet) = (self.len, self.patience, self.sent);
                    self.out.push(Output::Send { plane: PLANE, to, len, lane: 0, patience, packet });
                }
            }
        }
    }

    fn poll(&mut self) -> Option<Output<u64>> {
        self.out.pop()
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.at)
    }

    fn digest(packet: &u64) -> u64 {
        *packet
    }
}

fn world(hosts: usize, seed: u64, line: &link::Config, len: usize, patience: Option<Duration>) -> World<Caller> {
    let config = Config {
        seed,
        lines: vec![(line.clone(), line.clone()); hosts],
        lanes: vec![Share::ALL],
        planes: vec![PlaneConfig { idle: 10 * SECOND, retry: SECOND, always: true, again: false }],
    };
    let caller = || Caller { len, patience, ..Caller::default() };
    let mut world = World::new(config, (0..hosts).map(|_| caller()).collect());
    for host in world.net.hosts() {
        world.schedule(Duration::ZERO, Change::Power(host, true));
    }
    world
}

fn pass(world: &mut World<Caller>, until: Duration) {
    while world.step(until).expect("time passes").is_some() {}
}

fn heard(world: &World<Caller>, host: u16, what: &str) -> Vec<Duration> {
    world.host(HostId(host)).heard.iter().filter(|(_, heard)| heard.starts_with(what)).map(|(at, _)| *at).collect()
}

fn bad() -> link::Config {
    link::Config {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(100),
        loss: link::Loss::Random(Share::percent(10.0)),
        ..link::Config::default()
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let run = |seed| {
        let mut world = world(5, seed, &bad(), 100, None);
        world.schedule(20 * SECOND, Change::Power(HostId(1), false));
        world.schedule(50 * SECOND, Change::Power(HostId(1), true));
        pass(&mut world, 100 * SECOND);
        world.trace()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(run(1).events() > 1_000);
}

#[test]
fn what_is_lost_on_the_way_is_sent_again_and_comes_once() {
    let mut world = world(2, 3, &bad(), 100, None);
    pass(&mut world, 300 * SECOND);
    let got = heard(&world, 0, "got").len();
    assert!((290..=300).contains(&got), "{got}");
    assert!(heard(&world, 0, "down").is_empty());
}

#[test]
fn a_short_break_is_a_delay_and_a_long_one_is_noticed_at_both_ends() {
    let mut world = world(2, 4, &link::Config::default(), 100, None);
    let cut = |cut| Change::Cut { host: HostId(1), up: cut, down: cut };
    world.schedule(20 * SECOND, cut(true));
    world.schedule(25 * SECOND, Change::Mend(HostId(1)));
    pass(&mut world, 60 * SECOND);
    assert!(heard(&world, 0, "down").is_empty() && heard(&world, 0, "got").len() > 55);
    // What only one direction does, both ends notice.
    world.schedule(60 * SECOND, Change::Bar(HostId(1), HostId(0), true));
    world.schedule(100 * SECOND, Change::Bar(HostId(1), HostId(0), false));
    pass(&mut world, 120 * SECOND);
    for host in [0, 1] {
        let (down, up) = (heard(&world, host, "down"), heard(&world, host, "up"));
        assert!(down.len() == 1 && down[0] > 66 * SECOND && down[0] < 75 * SECOND, "{down:?}");
        assert!(up.len() == 2 && up[1] > 100 * SECOND && up[1] < 102 * SECOND, "{up:?}");
    }
}

#[test]
fn a_program_that_is_back_at_once_may_not_have_been_missed() {
    let missed = |seed| {
        let mut world = world(2, seed, &link::Config::default(), 100, None);
        world.schedule(20 * SECOND, Change::Power(HostId(1), false));
        world.schedule(20 * SECOND + SECOND / 10, Change::Power(HostId(1), true));
        pass(&mut world, 60 * SECOND);
        assert_eq!(heard(&world, 1, "up").len(), 2, "the new run is told");
        let (up, down) = (heard(&world, 0, "up").len(), heard(&world, 0, "down").len());
        assert_eq!(up, down + 1);
        down > 0
    };
    let missed: Vec<bool> = (0..20).map(missed).collect();
    assert!(missed.contains(&true) && missed.contains(&false), "{missed:?}");
}

#[test]
fn what_is_not_worth_waiting_for_is_given_up_and_the_other_end_knows() {
    // Half of what is sent fits the line.
    let line = link::Config { rate: Some(Rate::new(4_000, Queue::Time(SECOND))), ..link::Config::default() };
    let mut world = world(2, 5, &line, 1_000, Some(SECOND));
    pass(&mut world, 100 * SECOND);
    let (got, without) = (heard(&world, 0, "got").len(), heard(&world, 0, "without").len());
    assert!(got > 35 && without > 30 && got + without > 90, "{got} came, {without} did not");
}
