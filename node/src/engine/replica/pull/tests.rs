//! How a holder comes to have everything, from senders that lack something, are slow, are wrong or are gone.

use store::id::{PointNumber, TrackKind};

use super::*;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn session(number: u64) -> SessionId {
    SessionId::from_parts(number, [0; 10])
}

fn track() -> TrackId {
    TrackId::new(PointNumber::new(1).unwrap(), TrackKind::Main)
}

fn have(groups: RangeInclusive<u64>) -> Have {
    let mut have = Have::new();
    for seq in groups {
        have.insert(seq);
    }
    have
}

fn groups(range: RangeInclusive<u64>) -> Groups {
    [(track(), have(range))].into()
}

/// A node that is to hold things, with its disk.
struct Bench {
    pulls: Pulls,
    now: Instant,
    /// What there is to have, and what is here.
    all: Have,
    here: Have,
    /// Senders and what each has; who is not here is silent.
    has: BTreeMap<NodeId, Have>,
    /// Senders that give wrong bytes.
    wrong: BTreeSet<NodeId>,
    /// Groups each sender gave.
    gave: BTreeMap<NodeId, Vec<u64>>,
    signed: u32,
}

const CENTRAL: u8 = 1;

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench {
            pulls: Pulls::new(id(9), Dice::new(3)),
            now: Instant::now(),
            all: have(0..=99),
            here: Have::new(),
            has: BTreeMap::new(),
            wrong: BTreeSet::new(),
            gave: BTreeMap::new(),
            signed: 0,
        };
        assert_eq!(bench.tell(Input::Offer { bytes: 1000 }), []);
        for number in CENTRAL..=5 {
            bench.has.insert(id(number), bench.all.clone());
            assert_eq!(bench.tell(Input::Up { node: id(number) }), []);
        }
        bench
    }

    fn offered(&mut self, number: u64, bytes: u64) -> Vec<Output> {
        self.tell(Input::Offered {
            session: session(number),
            from: id(CENTRAL),
            manifest: Hash::NONE,
            bytes,
            senders: (2..=5).map(id).collect(),
            took_part: false,
        })
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.pulls.handle(self.now, input);
        std::iter::from_fn(|| self.pulls.poll()).collect()
    }

    fn tick(&mut self) -> (Duration, Vec<Output>) {
        let at = self.pulls.deadline().expect("something is due");
        assert!(at > self.now, "it must not be called for nothing");
        let waited = at - self.now;
        self.now = at;
        (waited, self.tell(Input::Tick))
    }

    /// Carries out one output; what follows from it.
    fn act(&mut self, output: Output) -> Vec<Output> {
        match output {
            Output::Answer { .. } => Vec::new(),
            Output::Learn { session, from } => {
                let missing = self.has.contains_key(&from).then(|| [(track(), self.all.without(&self.here))].into());
                self.tell(Input::Learnt { session, missing })
            }
            Output::Survey { session, node } => {
                let has = self.has.get(&node).map(|has| [(track(), has.clone())].into());
                self.tell(Input::Surveyed { session, node, has })
            }
            Output::Fetch { session, node, track, groups } => {
                assert!(groups.clone().count() as u64 <= FETCH_GROUPS);
                let (from, asked) = (*groups.start(), have(groups));
                let empty = Have::new();
                let has = self.has.get(&node).unwrap_or(&empty);
                let absent = asked.without(has);
                let (got, end) = match () {
                    () if self.wrong.contains(&node) => (Have::new(), End::Wrong),
                    () if !self.has.contains_key(&node) => (Have::new(), End::Broken),
                    () => (asked.without(&absent), End::Good),
                };
                self.here.merge(&got);
                self.gave.entry(node).or_default().extend(got.runs().flatten());
                self.tell(Input::Fetched { session, node, track, from, got, absent, end })
            }
            Output::Sign { session, .. } => {
                self.signed += 1;
                let whole = self.all.without(&self.here).is_empty();
                self.tell(Input::Signed { session, whole })
            }
        }
    }

    /// Carries out everything, the oldest first, until nothing is left to do at this moment.
    fn run(&mut self, outputs: Vec<Output>) {
        let mut queue: VecDeque<Output> = outputs.into();
        while let Some(output) = queue.pop_front() {
            queue.extend(self.act(output));
        }
    }

    fn is_whole(&self) -> bool {
        self.here == self.all && self.signed > 0
    }
}

#[test]
fn a_session_is_copied_from_three_senders_each_group_once_and_signed_for() {
    let mut bench = Bench::new();
    let outputs = bench.offered(1, 10);
    bench.run(outputs);
    assert!(bench.is_whole() && bench.signed == 1);
    assert_eq!(bench.gave.len(), SENDERS_MAX);
    let mut all: Vec<_> = bench.gave.values().flatten().copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..=99).collect::<Vec<_>>());
    assert_eq!(bench.pulls.deadline(), None);
}

#[test]
fn a_copy_that_was_broken_off_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.here = have(0..=60);
    let outputs = bench.offered(1, 10);
    bench.run(outputs);
    assert!(bench.is_whole());
    assert!(bench.gave.values().flatten().all(|seq| *seq > 60));
}

#[test]
fn a_sender_of_wrong_bytes_is_left_and_another_taken() {
    let mut bench = Bench::new();
    bench.wrong = [2, 3].map(id).into();
    let outputs = bench.offered(1, 10);
    bench.run(outputs);
    assert!(bench.is_whole());
    assert!([1, 4, 5].map(id).iter().all(|node| bench.gave.contains_key(node)), "others were asked in their place");
}

#[test]
fn what_one_sender_lacks_another_has() {
    let mut bench = Bench::new();
    bench.has =
        (1..=5).map(|number| (id(number), have(u64::from(number - 1) * 20..=u64::from(number) * 20 - 1))).collect();
    let outputs = bench.offered(1, 10);
    bench.run(outputs);
    assert!(bench.is_whole(), "{:?}", bench.here);
}

#[test]
fn pauses_grow_while_nobody_has_anything_and_a_sender_that_comes_ends_them() {
    let mut bench = Bench::new();
    bench.has = [(id(CENTRAL), have(0..=49))].into();
    let outputs = bench.offered(1, 10);
    bench.run(outputs);
    assert_eq!(bench.here, have(0..=49));
    let mut minutes = Vec::new();
    for _ in 0..9 {
        let (waited, outputs) = bench.tick();
        minutes.push(waited.as_secs() / 60);
        bench.run(outputs);
    }
    let at_least = [1, 2, 4, 8, 16, 32, 64, 64, 64];
    assert!(minutes.iter().zip(at_least).all(|(is, least)| (least..=least + least / 4).contains(is)), "{minutes:?}");
    bench.has.insert(id(4), bench.all.clone());
    assert_eq!(bench.tell(Input::Down { node: id(4) }), []);
    let outputs = bench.tell(Input::Up { node: id(4) });
    bench.run(outputs);
    assert!(bench.is_whole() || bench.pulls.deadline().is_some_and(|at| at <= bench.now + Duration::from_secs(150)));
}

#[test]
fn what_is_offered_is_honoured_and_no_more() {
    let mut bench = Bench::new();
    let answer = |number, taken| Output::Answer { session: session(number), to: id(CENTRAL), taken };
    assert_eq!(bench.tell(Input::Holding { session: session(7), bytes: 500 }), []);
    assert!(bench.offered(1, 400).contains(&answer(1, true)));
    assert_eq!(bench.offered(2, 101), [answer(2, false)]);
    assert!(bench.offered(3, 100).contains(&answer(3, true)));
    assert!(bench.offered(1, 400).contains(&answer(1, true)), "it is counted once");
    assert_eq!(bench.pulls.held(), 1000);
    let own = Input::Offered {
        session: session(4),
        from: id(CENTRAL),
        manifest: Hash::NONE,
        bytes: 9000,
        senders: Vec::new(),
        took_part: true,
    };
    assert!(bench.tell(own).contains(&answer(4, true)), "its own it keeps anyway");
}

#[test]
fn nothing_new_is_begun_while_a_session_here_shows_loss() {
    let mut bench = Bench::new();
    let outputs = bench.offered(1, 10);
    let [_, learn] = &outputs[..] else { panic!("{outputs:?}") };
    let surveys = bench.act(learn.clone());
    bench.tell(Input::Strained { strained: true });
    for survey in surveys {
        assert_eq!(bench.act(survey), []);
    }
    assert_eq!(bench.offered(2, 10).len(), 1, "an answer only");
    assert_eq!(bench.pulls.deadline(), None);
    let outputs = bench.tell(Input::Strained { strained: false });
    bench.run(outputs);
    assert!(bench.is_whole());
}

#[test]
fn a_slow_sender_is_helped() {
    let mut bench = Bench::new();
    bench.all = have(0..=39);
    let outputs = bench.offered(1, 10);
    // Whatever the third sender is asked for never comes.
    let mut queue: VecDeque<Output> = outputs.into();
    let mut lost = Vec::new();
    while let Some(output) = queue.pop_front() {
        match output {
            Output::Fetch { node, ref groups, .. } if node == id(3) => lost.push(groups.clone()),
            output => queue.extend(bench.act(output)),
        }
    }
    assert!(lost.len() == 1 && bench.signed == 0);
    let (waited, outputs) = bench.tick();
    assert_eq!(waited, SLOW);
    bench.run(outputs);
    assert!(bench.is_whole());
}

#[test]
fn two_sessions_are_copied_at_once_and_the_others_wait_their_turn() {
    let mut bench = Bench::new();
    let mut outputs = Vec::new();
    (1..=5).for_each(|number| outputs.extend(bench.offered(number, 10)));
    let learns = outputs.iter().filter(|output| matches!(output, Output::Learn { .. })).count();
    assert_eq!(learns, ACTIVE_MAX);
    bench.run(outputs);
    assert_eq!(bench.signed, 5);
}

#[test]
fn a_copy_that_is_not_what_the_manifest_says_is_begun_again() {
    let mut bench = Bench::new();
    bench.here = bench.all.clone();
    let outputs = bench.offered(1, 10);
    let sign = bench.act(outputs[1].clone());
    assert_eq!(sign, [Output::Sign { session: session(1), to: id(CENTRAL) }]);
    assert_eq!(bench.tell(Input::Signed { session: session(1), whole: false }), []);
    assert_eq!(bench.tell(Input::Learnt { session: session(1), missing: Some(groups(0..=0)) }), [], "out of turn");
    let (waited, outputs) = bench.tick();
    assert!(waited >= Duration::from_secs(60) && matches!(outputs[..], [Output::Learn { .. }]));
    bench.run(outputs);
    assert!(bench.is_whole());
}
