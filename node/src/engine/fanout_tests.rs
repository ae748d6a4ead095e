//! What the fan-out promises, shown without a socket.

use super::*;
use crate::engine::rate::Path;
use proptest::prelude::*;

const FAST: u64 = 100_000_000;

fn session() -> SessionId {
    SessionId::from_bytes([9; 16])
}

fn track(point: u16, kind: TrackKind) -> Track {
    (session(), TrackId::new(PointNumber::new(point).expect("in range"), kind))
}

/// A shell that takes every byte, and writes down what it was told.
struct Shell {
    fanout: Fanout,
    now: Instant,
    outputs: Vec<Output>,
    /// Bytes per (lane, group).
    sent: BTreeMap<(LaneId, LiveId), usize>,
    slots: BTreeMap<Slot, (LaneId, LiveId)>,
    ended: BTreeMap<(LaneId, LiveId), &'static str>,
    /// What the transport counts as sent: every lane is used to what it carries.
    wire: u64,
}

impl Shell {
    fn new() -> Self {
        Self {
            fanout: Fanout::default(),
            now: Instant::now(),
            outputs: Vec::new(),
            sent: BTreeMap::new(),
            slots: BTreeMap::new(),
            ended: BTreeMap::new(),
            wire: 0,
        }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        self.fanout.handle(self.now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| self.fanout.poll()).collect();
        for output in &outputs {
            match output {
                Output::Start { lane, live, slot, .. } => {
                    assert!(self.slots.insert(*slot, (*lane, *live)).is_none(), "slot {slot} is in use");
                    self.sent.insert((*lane, *live), 0);
                }
                Output::Send { lane, live, slot, from, to } => {
                    assert_eq!(self.slots.get(slot), Some(&(*lane, *live)));
                    assert_eq!(self.sent.insert((*lane, *live), *to), Some(*from), "bytes in order, none twice");
                }
                Output::Finish { slot } => {
                    let flow = self.slots.remove(slot).expect("a slot in use");
                    self.ended.insert(flow, "whole");
                }
                Output::Reset { slot, .. } => {
                    let flow = self.slots.remove(slot).expect("a slot in use");
                    self.ended.insert(flow, "reset");
                }
                _ => {}
            }
        }
        self.outputs.extend(outputs.iter().map(|output| match output {
            Output::Start { lane, live, slot, priority } => {
                Output::Start { lane: *lane, live: *live, slot: *slot, priority: *priority }
            }
            Output::Want { track, wanted } => Output::Want { track: *track, wanted: *wanted },
            Output::Shed { lane, track, seq } => Output::Shed { lane: *lane, track: *track, seq: *seq },
            other => Output::Drop { live: if let Output::Drop { live } = other { *live } else { 0 } },
        }));
        outputs
    }

    fn up(&mut self, lane: LaneId, estimate: u64) {
        self.give(Input::Up { lane, estimate });
    }

    fn subscribe(&mut self, lane: LaneId, track: Track, priority: u8) -> Vec<Output> {
        self.give(Input::Subscribe { lane, track, priority })
    }

    fn open(&mut self, live: LiveId, track: Track, seq: u64) {
        self.give(Input::Opened { live, track, seq });
    }

    fn grow(&mut self, live: LiveId, len: usize, fate: Fate) {
        self.give(Input::Grew { live, len, fate });
    }

    /// Lets time pass in ticks of 10 ms, as the shell does.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            if self.fanout.deadline().is_some_and(|at| self.now >= at) {
                self.give(Input::Tick);
            }
        }
    }

    fn sample(&mut self, lane: LaneId, rtt_ms: u64) {
        self.now += Duration::from_millis(50);
        self.wire += FAST / 8 / 20;
        let path = Path { rtt: Duration::from_millis(rtt_ms), window: 1 << 20, sent: self.wire, lost: 0 };
        self.give(Input::Path { lane, path });
    }

    fn delay(&mut self, lane: LaneId, rtt_ms: u64) {
        for _ in 0..8 {
            self.sample(lane, rtt_ms);
        }
    }
}

#[test]
fn a_late_watcher_starts_at_the_keyframe_of_the_open_group() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.open(10, track(1, TrackKind::Main), 5);
    shell.grow(10, 3000, Fate::Open);
    let outputs = shell.subscribe(1, track(1, TrackKind::Main), 4);
    assert!(outputs.iter().any(|output| matches!(output, Output::Start { lane: 1, live: 10, .. })));
    shell.pass(Duration::from_millis(50));
    assert_eq!(shell.sent[&(1, 10)], 3000);
}

#[test]
fn sound_goes_at_once_however_slow_the_line() {
    let mut shell = Shell::new();
    shell.up(1, 100_000);
    shell.subscribe(1, track(1, TrackKind::Audio), 6);
    shell.subscribe(1, track(1, TrackKind::Main), 4);
    shell.open(10, track(1, TrackKind::Main), 5);
    shell.open(11, track(1, TrackKind::Audio), 5);
    shell.grow(10, 50_000, Fate::Open);
    shell.grow(11, 140, Fate::Open);
    assert_eq!(shell.sent[&(1, 11)], 140);
    assert!(shell.sent[&(1, 10)] < 5_000, "the picture waits for the bucket");
}

#[test]
fn a_keyframe_is_spread_over_the_line_and_nothing_of_it_is_lost() {
    let mut shell = Shell::new();
    shell.up(1, 2_000_000);
    shell.subscribe(1, track(1, TrackKind::Main), 4);
    shell.open(10, track(1, TrackKind::Main), 5);
    shell.grow(10, 51_000, Fate::Open);
    shell.pass(Duration::from_millis(120));
    let sent = shell.sent[&(1, 10)];
    assert!((20_000..32_000).contains(&sent), "120 ms at 1.7 Mb/s are 25 kB, not {sent}");
    shell.pass(Duration::from_millis(150));
    assert_eq!(shell.sent[&(1, 10)], 51_000);
}

#[test]
fn a_whole_group_is_finished_and_forgotten() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.subscribe(1, track(1, TrackKind::Audio), 6);
    shell.open(10, track(1, TrackKind::Audio), 5);
    shell.grow(10, 500, Fate::Whole);
    assert_eq!(shell.ended[&(1, 10)], "whole");
    assert!(shell.give(Input::Tick).contains(&Output::Drop { live: 10 }));
}

#[test]
fn a_line_is_in_use_while_something_flows_and_not_for_having_subscribers() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.up(2, FAST);
    shell.subscribe(1, track(1, TrackKind::Audio), 6);
    let used = |shell: &Shell| [1, 2].map(|lane| shell.fanout.line(lane).is_some_and(|(.., used)| used));
    assert_eq!(used(&shell), [false, false]);
    shell.open(10, track(1, TrackKind::Audio), 5);
    shell.grow(10, 140, Fate::Open);
    assert_eq!(used(&shell), [true, false]);
    shell.grow(10, 500, Fate::Whole);
    shell.give(Input::Tick);
    assert_eq!(used(&shell), [false, false]);
}

#[test]
fn a_broken_group_never_looks_whole() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.subscribe(1, track(1, TrackKind::Audio), 6);
    shell.open(10, track(1, TrackKind::Audio), 5);
    shell.grow(10, 500, Fate::Open);
    shell.grow(10, 500, Fate::Broken);
    assert_eq!(shell.ended[&(1, 10)], "reset");
}

#[test]
fn what_the_transport_did_not_take_is_sent_again_and_then_finished() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.subscribe(1, track(1, TrackKind::Audio), 6);
    shell.open(10, track(1, TrackKind::Audio), 5);
    shell.fanout.handle(shell.now, Input::Grew { live: 10, len: 500, fate: Fate::Whole });
    let asked: Vec<Output> = std::iter::from_fn(|| shell.fanout.poll()).collect();
    assert!(matches!(asked[..], [Output::Send { from: 0, to: 500, .. }, Output::Finish { .. }]), "{asked:?}");
    shell.sent.insert((1, 10), 200);
    shell.give(Input::Held { lane: 1, live: 10, sent: 200 });
    assert!(!shell.ended.contains_key(&(1, 10)));
    shell.pass(Duration::from_millis(20));
    assert_eq!(shell.sent[&(1, 10)], 500);
    assert_eq!(shell.ended[&(1, 10)], "whole");
}

#[test]
fn a_slow_line_gets_the_low_layer_for_four_groups_and_then_the_picture_again() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    let (main, thumb) = (track(1, TrackKind::Main), track(1, TrackKind::Thumb));
    shell.subscribe(1, main, 4);
    shell.delay(1, 40);
    shell.delay(1, 95);
    let mut got = Vec::new();
    for seq in 0..7 {
        let (full, low) = (100 + seq * 2, 101 + seq * 2);
        shell.open(full, main, seq);
        shell.open(low, thumb, seq);
        shell.grow(full, 2000, Fate::Whole);
        shell.grow(low, 200, Fate::Whole);
        got.push((shell.sent.contains_key(&(1, full)), shell.sent.contains_key(&(1, low))));
        shell.delay(1, 40);
        shell.pass(Duration::from_secs(2));
    }
    let (low, high) = ((false, true), (true, false));
    assert_eq!(got, [low, low, low, low, high, high, high]);
    let wants: Vec<&Output> =
        shell.outputs.iter().filter(|output| matches!(output, Output::Want { track, .. } if *track == thumb)).collect();
    assert_eq!(wants, [&Output::Want { track: thumb, wanted: true }, &Output::Want { track: thumb, wanted: false }]);
}

#[test]
fn a_longer_route_gets_its_pictures_again_once_the_old_round_trip_is_forgotten() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    let (main, audio) = (track(1, TrackKind::Main), track(1, TrackKind::Audio));
    shell.subscribe(1, main, 4);
    shell.subscribe(1, audio, 6);
    let mut got = Vec::new();
    for seq in 0..24 {
        let (picture, sound) = (100 + seq * 2, 101 + seq * 2);
        shell.open(picture, main, seq);
        shell.open(sound, audio, seq);
        // From 40 to 160 ms after the third group: nothing queues, the way is longer.
        for half in [Fate::Open, Fate::Whole] {
            shell.grow(picture, if half == Fate::Whole { 2000 } else { 1000 }, half);
            shell.grow(sound, if half == Fate::Whole { 200 } else { 100 }, half);
            for _ in 0..20 {
                shell.sample(1, if seq < 3 { 40 } else { 160 });
                shell.pass(TICK);
            }
        }
        assert_eq!(shell.ended.get(&(1, sound)), Some(&"whole"), "sound goes on whatever is believed of the line");
        got.push(shell.ended.get(&(1, picture)) == Some(&"whole"));
    }
    assert!(got[..3].iter().all(|whole| *whole) && !got[4], "the longer way is taken for a queue at first: {got:?}");
    // The least round trip of 20 s, then four groups in the low layer.
    assert!(got[18..].iter().all(|whole| *whole), "20 s later it is known: {got:?}");
}

#[test]
fn a_queue_inside_a_group_takes_the_picture_back_but_never_the_sound() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    let (main, audio) = (track(1, TrackKind::Main), track(1, TrackKind::Audio));
    shell.subscribe(1, main, 4);
    shell.subscribe(1, audio, 6);
    shell.delay(1, 40);
    shell.open(10, main, 5);
    shell.open(11, audio, 5);
    shell.grow(10, 2000, Fate::Open);
    shell.grow(11, 200, Fate::Open);
    shell.delay(1, 140);
    assert_eq!(shell.ended.get(&(1, 10)), Some(&"reset"));
    assert_eq!(shell.ended.get(&(1, 11)), None);
    assert!(shell.outputs.contains(&Output::Shed { lane: 1, track: main, seq: 5 }), "the hole is told");
}

#[test]
fn the_less_important_picture_gives_way_first() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    let (floor, tile) = (track(1, TrackKind::Main), track(2, TrackKind::Main));
    shell.subscribe(1, floor, 4);
    shell.subscribe(1, tile, 2);
    shell.delay(1, 40);
    shell.open(10, floor, 5);
    shell.open(11, tile, 5);
    // The queue shows in every sample of the last 200 ms only after the fourth.
    for _ in 0..5 {
        shell.sample(1, 140);
        if shell.ended.contains_key(&(1, 11)) {
            break;
        }
    }
    assert_eq!(shell.ended.get(&(1, 11)), Some(&"reset"));
    assert_eq!(shell.ended.get(&(1, 10)), None);
}

#[test]
fn a_picture_far_behind_gives_way_to_the_next_group() {
    let mut shell = Shell::new();
    shell.up(1, 200_000);
    let main = track(1, TrackKind::Main);
    shell.subscribe(1, main, 4);
    shell.open(10, main, 5);
    shell.grow(10, 300_000, Fate::Whole);
    shell.pass(Duration::from_secs(2));
    shell.open(11, main, 6);
    assert_eq!(shell.ended.get(&(1, 10)), Some(&"reset"));
    assert!(shell.outputs.contains(&Output::Want { track: track(1, TrackKind::Thumb), wanted: true }));
}

#[test]
fn a_neighbour_that_leaves_costs_nothing_more() {
    let mut shell = Shell::new();
    for lane in [1, 2] {
        shell.up(lane, FAST);
        shell.subscribe(lane, track(1, TrackKind::Audio), 6);
    }
    shell.open(10, track(1, TrackKind::Audio), 5);
    shell.give(Input::Down { lane: 1 });
    shell.grow(10, 100, Fate::Open);
    assert_eq!(shell.sent[&(2, 10)], 100);
    assert_eq!(shell.sent[&(1, 10)], 0);
    let outputs = shell.give(Input::Down { lane: 2 });
    assert!(outputs.contains(&Output::Want { track: track(1, TrackKind::Audio), wanted: false }));
}

#[test]
fn the_end_of_a_session_frees_all_of_it() {
    let mut shell = Shell::new();
    shell.up(1, FAST);
    shell.subscribe(1, track(1, TrackKind::Main), 4);
    shell.open(10, track(1, TrackKind::Main), 5);
    shell.grow(10, 100, Fate::Open);
    let outputs = shell.give(Input::Closed { session: session() });
    assert!(outputs.contains(&Output::Drop { live: 10 }));
    assert!(shell.slots.is_empty());
    assert!(shell.fanout.groups.is_empty() && shell.fanout.tracks.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Up(LaneId),
    Down(LaneId),
    Subscribe(LaneId, u16, u8),
    Unsubscribe(LaneId, u16, u8),
    Open(u16, u8),
    Grow(usize, usize, u8),
    Delay(LaneId, u64),
    Pass(u64),
}

fn kind(number: u8) -> TrackKind {
    TrackKind::ALL[usize::from(number) % TrackKind::ALL.len()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize).prop_map(Step::Up),
        (0..4usize).prop_map(Step::Down),
        (0..4usize, 0..3u16, 0..4u8).prop_map(|(lane, point, kind)| Step::Subscribe(lane, point, kind)),
        (0..4usize, 0..3u16, 0..4u8).prop_map(|(lane, point, kind)| Step::Unsubscribe(lane, point, kind)),
        (0..3u16, 0..4u8).prop_map(|(point, kind)| Step::Open(point, kind)),
        (0..40usize, 0..60_000usize, 0..12u8).prop_map(|(live, more, fate)| Step::Grow(live, more, fate)),
        (0..4usize, 1..400u64).prop_map(|(lane, rtt)| Step::Delay(lane, rtt)),
        (1..3000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: bytes go in order and once, slots are used by one stream at a time, what
    /// was finished was whole, and after all neighbours left and all groups ended nothing is kept.
    #[test]
    fn flows_stay_in_order_and_nothing_is_kept(steps in proptest::collection::vec(step(), 1..120)) {
        let mut shell = Shell::new();
        let mut groups: Vec<(Track, usize, Fate)> = Vec::new();
        for step in steps {
            match step {
                Step::Up(lane) if !shell.fanout.lanes.contains_key(&lane) => shell.up(lane, 1_000_000),
                Step::Up(_) => {}
                Step::Down(lane) => { shell.give(Input::Down { lane }); }
                Step::Subscribe(lane, point, number) => { shell.subscribe(lane, track(point, kind(number)), number + 2); }
                Step::Unsubscribe(lane, point, number) => {
                    shell.give(Input::Unsubscribe { lane, track: track(point, kind(number)) });
                }
                Step::Open(point, number) => {
                    let track = track(point, kind(number));
                    groups.push((track, 0, Fate::Open));
                    shell.open(groups.len() as LiveId, track, groups.len() as u64);
                }
                Step::Grow(at, more, fate) => {
                    let Some((_, len, was)) = groups.get_mut(at) else { continue };
                    if *was != Fate::Open { continue }
                    *len += more;
                    *was = match fate { 0 => Fate::Broken, 1..4 => Fate::Whole, _ => Fate::Open };
                    let (len, fate) = (*len, *was);
                    shell.grow(at as LiveId + 1, len, fate);
                }
                Step::Delay(lane, rtt) => shell.delay(lane, rtt),
                Step::Pass(ms) => shell.pass(Duration::from_millis(ms)),
            }
        }
        for (flow, how) in &shell.ended {
            let (_, len, fate) = groups[flow.1 as usize - 1];
            if *how == "whole" {
                prop_assert_eq!(fate, Fate::Whole);
                prop_assert_eq!(shell.sent[flow], len);
            }
        }
        for lane in 0..4 {
            shell.give(Input::Down { lane });
        }
        for (at, (_, len, fate)) in groups.iter().enumerate().filter(|(_, group)| group.2 == Fate::Open) {
            let _ = fate;
            shell.grow(at as LiveId + 1, *len, Fate::Whole);
        }
        shell.give(Input::Tick);
        prop_assert!(shell.fanout.groups.is_empty(), "groups kept: {:?}", shell.fanout.groups);
        prop_assert!(shell.slots.is_empty());
        prop_assert!(shell.fanout.wanted.is_empty());
    }
}
