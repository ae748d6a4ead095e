//! What the keeper promises, fact by fact.

use store::id::{PointNumber, TrackKind};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A keeper of one origin's sound and picture, and the passing of time.
struct Bench {
    keeper: Keeper,
    now: Instant,
    sound: TrackId,
    picture: TrackId,
    origin: NodeId,
}

impl Bench {
    fn new() -> Bench {
        let origin = NodeId::from_bytes([7; 32]);
        let (sound, picture) = (track(1, TrackKind::Audio), track(1, TrackKind::Main));
        let mut bench = Bench { keeper: Keeper::default(), now: Instant::now() + 60 * SECOND, sound, picture, origin };
        for track in [sound, picture] {
            bench.tell(Input::Track { track, origin });
        }
        bench.tell(Input::Reachable { origin, reachable: true });
        bench
    }

    fn tell(&mut self, input: Input) {
        self.keeper.handle(self.now, input);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.keeper.poll()).collect()
    }

    /// Lets time pass from deadline to deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.keeper.deadline().filter(|&at| at <= end) {
            assert!(at > self.now, "a deadline lies ahead once its work is done");
            self.now = at;
            self.tell(Input::Tick);
        }
        self.now = end;
        self.tell(Input::Tick);
    }

    /// Groups that arrive and are stored.
    fn live(&mut self, track: TrackId, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            self.tell(Input::Began { track, seq });
            self.tell(Input::Stored { track, seq });
        }
    }

    fn fetched(&mut self, missing: Option<Vec<u64>>) {
        let origin = self.origin;
        self.tell(Input::Fetched { origin, missing });
    }
}

fn track(point: u16, kind: TrackKind) -> TrackId {
    TrackId::new(PointNumber::new(point).expect("a small point number"), kind)
}

fn fetches(outputs: &[Output]) -> Vec<(TrackId, u64, u64)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Fetch { track, from, to, .. } => Some((*track, *from, *to)),
            Output::Gap { .. } | Output::Repaired { .. } => None,
        })
        .collect()
}

#[test]
fn a_record_that_arrives_whole_asks_for_nothing() {
    let mut bench = Bench::new();
    for seq in 0..50 {
        bench.live(bench.sound, [seq]);
        bench.live(bench.picture, [seq]);
        bench.pass(2 * SECOND);
    }
    assert_eq!(bench.outputs(), []);
    assert!(!bench.keeper.is_whole(), "nobody has named the last group yet");
    bench.tell(Input::Finished { track: bench.sound, last: Some(49) });
    bench.tell(Input::Finished { track: bench.picture, last: Some(49) });
    assert!(bench.keeper.is_whole());
    assert_eq!(bench.keeper.deadline(), None);
}

#[test]
fn a_skipped_group_is_told_once_fetched_and_told_repaired() {
    let mut bench = Bench::new();
    let track = bench.sound;
    bench.live(track, [0, 1, 3]);
    bench.pass(GRACE - SECOND);
    assert_eq!(bench.outputs(), [], "it may still be on its way");
    bench.pass(SECOND);
    let gap = Output::Gap { track, from: 2, to: 2, reason: Reason::LeftOut };
    let fetch = Output::Fetch { origin: bench.origin, track, from: 2, to: 2, max_bytes: FETCH_BYTES_MAX };
    assert_eq!(bench.outputs(), [gap, fetch]);
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), [], "one question at a time, and no second entry");
    bench.tell(Input::Stored { track, seq: 2 });
    bench.fetched(Some(vec![]));
    assert_eq!(bench.outputs(), [Output::Repaired { track, from: 2, to: 2 }]);
    assert_eq!(bench.keeper.standing()[&track], Standing { held: 4, ..Standing::default() });
}

#[test]
fn a_group_that_comes_late_but_within_the_grace_is_no_gap() {
    let mut bench = Bench::new();
    bench.live(bench.sound, [0, 2]);
    bench.pass(GRACE - SECOND / 10);
    bench.live(bench.sound, [1]);
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), []);
}

#[test]
fn the_open_group_is_never_asked_for() {
    let mut bench = Bench::new();
    let track = bench.picture;
    bench.live(track, 0..5);
    bench.tell(Input::Began { track, seq: 5 });
    bench.tell(Input::Broke { track, seq: 5, cut: Cut::LeftOut });
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), [], "its origin may not have closed it");
    bench.tell(Input::Began { track, seq: 6 });
    bench.pass(GRACE);
    let outputs = bench.outputs();
    assert_eq!(outputs[0], Output::Gap { track, from: 5, to: 5, reason: Reason::LeftOut });
    assert_eq!(fetches(&outputs), [(track, 5, 5)]);
}

#[test]
fn a_gap_its_origin_cannot_fill_becomes_final_and_the_record_whole() {
    let mut bench = Bench::new();
    let track = bench.sound;
    bench.live(track, [0, 3]);
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(track, 1, 2)]);
    bench.tell(Input::Stored { track, seq: 1 });
    bench.fetched(Some(vec![2]));
    assert_eq!(bench.outputs(), [Output::Repaired { track, from: 1, to: 1 }, fetch(&bench, 2, 2)]);
    bench.fetched(Some(vec![2]));
    assert_eq!(bench.outputs(), [], "too early to believe it");
    bench.pass(SETTLED);
    assert_eq!(fetches(&bench.outputs()), [(track, 2, 2)]);
    bench.fetched(Some(vec![2]));
    assert_eq!(bench.outputs(), [Output::Gap { track, from: 2, to: 2, reason: Reason::LostAtSource }]);
    bench.pass(600 * SECOND);
    assert_eq!(bench.outputs(), []);
    bench.tell(Input::Finished { track, last: Some(3) });
    assert!(bench.keeper.is_whole());
    assert_eq!(bench.keeper.standing()[&track].lost, 1);
}

fn fetch(bench: &Bench, from: u64, to: u64) -> Output {
    Output::Fetch { origin: bench.origin, track: bench.sound, from, to, max_bytes: FETCH_BYTES_MAX }
}

#[test]
fn an_origin_out_of_reach_is_asked_when_it_is_back() {
    let mut bench = Bench::new();
    let origin = bench.origin;
    bench.live(bench.sound, 0..10);
    bench.tell(Input::Reachable { origin, reachable: false });
    bench.pass(40 * SECOND);
    bench.live(bench.sound, [30]);
    bench.pass(GRACE);
    let gap = Output::Gap { track: bench.sound, from: 10, to: 29, reason: Reason::OutOfReach };
    assert_eq!(bench.outputs(), [gap], "the journal does not wait for the point");
    assert_eq!(bench.keeper.deadline(), None);
    bench.tell(Input::Reachable { origin, reachable: true });
    assert_eq!(fetches(&bench.outputs()), [(bench.sound, 10, 29)]);
}

#[test]
fn a_fetch_that_brings_nothing_is_tried_again_ever_more_slowly() {
    let mut bench = Bench::new();
    bench.live(bench.sound, [0, 2]);
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()).len(), 1);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        bench.fetched(None);
        let next = bench.keeper.deadline().expect("another attempt");
        pauses.push(next.duration_since(bench.now).as_secs());
        bench.pass(next.duration_since(bench.now));
        assert_eq!(fetches(&bench.outputs()).len(), 1);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn an_answer_cut_by_its_limit_is_continued_and_sound_comes_before_picture() {
    let mut bench = Bench::new();
    bench.live(bench.picture, [0, 100]);
    bench.live(bench.sound, [0, 100]);
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(bench.sound, 1, FETCH_GROUPS_MAX)]);
    for seq in 1..10 {
        bench.tell(Input::Stored { track: bench.sound, seq });
    }
    bench.fetched(Some(vec![]));
    let outputs = bench.outputs();
    assert_eq!(outputs[0], Output::Repaired { track: bench.sound, from: 1, to: 9 });
    assert_eq!(fetches(&outputs), [(bench.sound, 10, 9 + FETCH_GROUPS_MAX)]);
}

#[test]
fn a_group_that_never_comes_does_not_hold_up_the_others() {
    let mut bench = Bench::new();
    bench.live(bench.sound, [0, 2]);
    bench.live(bench.picture, [0, 2]);
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(bench.sound, 1, 1)]);
    bench.fetched(None);
    bench.pass(BACKOFF_MIN);
    assert_eq!(fetches(&bench.outputs()), [(bench.picture, 1, 1)]);
}

#[test]
fn numbers_a_restart_skipped_are_no_gap_unless_we_saw_them_begin() {
    let mut bench = Bench::new();
    let track = bench.sound;
    bench.live(track, 0..5);
    bench.tell(Input::Began { track, seq: 5 });
    bench.tell(Input::Unused { track, from: 5, to: 11 });
    bench.live(track, [12]);
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(track, 5, 5)]);
    assert_eq!(bench.keeper.standing()[&track].held, 6);
}

#[test]
fn numbers_skipped_before_a_restart_of_central_are_no_gap_once_their_origin_says_so() {
    let mut bench = Bench::new();
    let (track, origin) = (bench.sound, bench.origin);
    bench.tell(Input::Reachable { origin, reachable: false });
    bench.tell(Input::Held { track, from: 0, to: 4 });
    bench.tell(Input::Held { track, from: 16, to: 20 });
    bench.tell(Input::Told { track, from: 5, to: 5, lost: false });
    // Its live groups may come before its word.
    bench.live(track, [21, 22]);
    bench.pass(60 * SECOND);
    bench.tell(Input::Unused { track, from: 5, to: 15 });
    bench.tell(Input::Reachable { origin, reachable: true });
    bench.live(track, [23]);
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), [fetch(&bench, 5, 5)], "what was told missing is asked for");
    assert_eq!(bench.keeper.standing()[&track].held, 13);
}

#[test]
fn a_group_that_broke_with_its_whole_connection_was_not_left_out_by_a_slow_line() {
    let mut bench = Bench::new();
    let (track, origin) = (bench.sound, bench.origin);
    bench.live(track, [0]);
    bench.tell(Input::Began { track, seq: 1 });
    bench.tell(Input::Broke { track, seq: 1, cut: Cut::Line });
    bench.tell(Input::Reachable { origin, reachable: false });
    bench.live(track, [2]);
    bench.pass(GRACE);
    assert_eq!(bench.outputs(), [Output::Gap { track, from: 1, to: 1, reason: Reason::OutOfReach }]);
}

#[test]
fn each_gap_has_the_reason_that_was_seen() {
    let mut bench = Bench::new();
    let (track, origin) = (bench.picture, bench.origin);
    bench.live(track, [0]);
    for (seq, cut) in [(2, Cut::LeftOut), (3, Cut::NotStored), (4, Cut::Line)] {
        bench.tell(Input::Began { track, seq });
        bench.tell(Input::Broke { track, seq, cut });
    }
    bench.tell(Input::Reachable { origin, reachable: false });
    bench.tell(Input::Reachable { origin, reachable: true });
    bench.live(track, [8, 10]);
    bench.pass(GRACE);
    let gaps: Vec<_> = bench.outputs().into_iter().filter(|output| matches!(output, Output::Gap { .. })).collect();
    let gap = |from, to, reason| Output::Gap { track, from, to, reason };
    assert_eq!(
        gaps,
        [
            gap(1, 2, Reason::LeftOut),
            gap(3, 3, Reason::NotStored),
            gap(4, 7, Reason::OutOfReach),
            gap(9, 9, Reason::LeftOut),
        ]
    );
}

#[test]
fn a_group_seen_to_begin_after_the_last_its_origin_has_was_cut_short_there() {
    let mut bench = Bench::new();
    let (track, origin) = (bench.sound, bench.origin);
    bench.tell(Input::Reachable { origin, reachable: true });
    bench.live(track, 0..5);
    bench.tell(Input::Began { track, seq: 5 });
    bench.tell(Input::Finished { track, last: Some(4) });
    assert!(!bench.keeper.is_whole_of(origin));
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(track, 5, 5)]);
    bench.pass(SETTLED);
    bench.fetched(Some(vec![5]));
    assert_eq!(bench.outputs(), [Output::Gap { track, from: 5, to: 5, reason: Reason::LostAtSource }]);
}

#[test]
fn what_came_before_a_restart_that_kept_it_from_being_said_is_said_after_it() {
    let mut bench = Bench::new();
    let track = bench.sound;
    bench.tell(Input::Told { track, from: 3, to: 9, lost: false });
    bench.tell(Input::Held { track, from: 0, to: 2 });
    assert_eq!(bench.outputs(), []);
    bench.tell(Input::Held { track, from: 5, to: 6 });
    bench.tell(Input::Held { track, from: 9, to: 12 });
    assert_eq!(
        bench.outputs(),
        [Output::Repaired { track, from: 5, to: 6 }, Output::Repaired { track, from: 9, to: 9 }]
    );
}

#[test]
fn what_was_held_and_told_before_a_restart_is_neither_told_nor_asked_again() {
    let mut bench = Bench::new();
    let track = bench.sound;
    bench.tell(Input::Held { track, from: 0, to: 9 });
    bench.tell(Input::Held { track, from: 20, to: 29 });
    bench.tell(Input::Told { track, from: 10, to: 14, lost: false });
    bench.tell(Input::Told { track, from: 15, to: 16, lost: true });
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), [], "its origin may yet say what it never used");
    bench.tell(Input::Reachable { origin: bench.origin, reachable: true });
    bench.pass(GRACE);
    let outputs = bench.outputs();
    assert_eq!(outputs[0], Output::Gap { track, from: 17, to: 19, reason: Reason::OutOfReach });
    assert_eq!(fetches(&outputs), [(track, 10, 14)]);
    bench.tell(Input::Stored { track, seq: 10 });
    bench.fetched(Some(vec![]));
    assert_eq!(bench.outputs()[0], Output::Repaired { track, from: 10, to: 10 });
}

#[test]
fn what_the_disk_lost_is_told_and_fetched_again() {
    let mut bench = Bench::new();
    let (track, origin) = (bench.sound, bench.origin);
    bench.tell(Input::Held { track, from: 0, to: 9 });
    bench.tell(Input::Held { track, from: 13, to: 15 });
    bench.tell(Input::Gone { track, from: 10, to: 11 });
    bench.tell(Input::Gone { track, from: 16, to: 17 });
    bench.tell(Input::Reachable { origin, reachable: true });
    bench.live(track, [18]);
    bench.pass(GRACE);
    let gap = |from, to, reason| Output::Gap { track, from, to, reason };
    let fetch = Output::Fetch { origin, track, from: 10, to: 12, max_bytes: FETCH_BYTES_MAX };
    assert_eq!(
        bench.outputs(),
        [gap(10, 11, Reason::Gone), gap(12, 12, Reason::OutOfReach), gap(16, 17, Reason::Gone), fetch]
    );
    (10..13).for_each(|seq| bench.tell(Input::Stored { track, seq }));
    bench.fetched(Some(vec![]));
    assert_eq!(bench.outputs()[0], Output::Repaired { track, from: 10, to: 12 });
}

#[test]
fn the_last_groups_are_missed_too_once_the_origin_has_named_them() {
    let mut bench = Bench::new();
    bench.live(bench.sound, 0..5);
    bench.tell(Input::Finished { track: bench.sound, last: Some(7) });
    assert!(!bench.keeper.is_whole_of(bench.origin));
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()), [(bench.sound, 5, 7)]);
    for seq in 5..8 {
        bench.tell(Input::Stored { track: bench.sound, seq });
    }
    bench.fetched(Some(vec![]));
    assert!(bench.keeper.is_whole_of(bench.origin));
}

#[test]
fn at_the_reckoning_every_hole_is_a_gap_without_further_waiting() {
    let mut bench = Bench::new();
    bench.live(bench.sound, [0, 2]);
    bench.tell(Input::Reckon);
    let gap = Output::Gap { track: bench.sound, from: 1, to: 1, reason: Reason::LeftOut };
    assert_eq!(bench.outputs()[0], gap);
}

#[test]
fn many_origins_are_not_all_asked_at_once() {
    let mut bench = Bench::new();
    for point in 2..40u8 {
        let track = track(u16::from(point), TrackKind::Audio);
        let origin = NodeId::from_bytes([point + 100; 32]);
        bench.tell(Input::Track { track, origin });
        bench.tell(Input::Reachable { origin, reachable: true });
        bench.live(track, [0, 2]);
    }
    bench.pass(GRACE);
    assert_eq!(fetches(&bench.outputs()).len(), FETCHES_MAX);
}

#[test]
fn a_liar_costs_neither_memory_nor_journal() {
    let mut bench = Bench::new();
    let sound = bench.sound;
    bench.tell(Input::Began { track: sound, seq: u64::MAX });
    bench.tell(Input::Finished { track: sound, last: Some(u64::MAX - 1) });
    bench.tell(Input::Unused { track: sound, from: 0, to: u64::MAX });
    let stranger = track(77, TrackKind::Main);
    bench.live(stranger, [5]);
    bench.pass(60 * SECOND);
    assert_eq!(bench.outputs(), []);
    for n in 0..100_000 {
        bench.tell(Input::Began { track: sound, seq: n });
        bench.now += SECOND / 100;
    }
    let marks = bench.keeper.tracks[&sound].marks.len();
    assert!(marks <= 32, "{marks} marks");
}
