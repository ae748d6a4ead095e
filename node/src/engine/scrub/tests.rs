//! When sessions are read again and mended. Time is counted, not waited for.

use store::id::{PointNumber, TrackId, TrackKind};

use super::*;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn session(number: u64) -> SessionId {
    SessionId::from_parts(number, [0; 10])
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY)
}

fn at(seq: u64) -> Option<Cursor> {
    Some(Cursor { track: TrackId::new(PointNumber::new(1).expect("a number"), TrackKind::Main), seq })
}

/// A point whose sessions have two stretches each.
struct Bench {
    scrub: Scrub,
    begun: Instant,
    now: Instant,
    lost: BTreeSet<SessionId>,
    /// Whether others have what is lost here.
    mends: bool,
    /// Sessions the disk does not give.
    stuck: BTreeSet<SessionId>,
    read: Vec<(SessionId, Option<Cursor>, Duration)>,
    mended: Vec<(SessionId, Duration)>,
}

impl Bench {
    fn new(node: u8) -> Bench {
        let now = Instant::now() + days(400);
        let (read, mended) = (Vec::new(), Vec::new());
        let scrub = Scrub::new(id(node), Dice::new(node.into()));
        let (lost, stuck) = (BTreeSet::new(), BTreeSet::new());
        Bench { scrub, begun: now, now, lost, mends: true, stuck, read, mended }
    }

    fn stored(&mut self, number: u64, age: Duration) {
        let lost = self.lost.contains(&session(number));
        self.tell(Input::Stored { session: session(number), age, next: None, lost });
    }

    fn tell(&mut self, input: Input) {
        self.scrub.handle(self.now, input);
        while let Some(output) = self.scrub.poll() {
            let passed = self.now - self.begun;
            let answer = match output {
                Output::Read { session, from, bytes } => {
                    self.read.push((session, from, passed));
                    let next = if from.is_none() { at(9) } else { None };
                    let lost = self.lost.contains(&session);
                    let stretch = super::Stretch { bytes, next, lost };
                    Input::Read { session, stretch: Some(stretch).filter(|_| !self.stuck.contains(&session)) }
                }
                Output::Mend { session } => {
                    self.mended.push((session, passed));
                    if self.mends {
                        self.lost.remove(&session);
                    }
                    Input::Mended { session, lost: self.lost.contains(&session) }
                }
            };
            self.scrub.handle(self.now, answer);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.scrub.deadline().filter(|at| *at <= until) {
            assert!(at >= self.now, "it must not be called for nothing");
            self.now = at;
            self.tell(Input::Tick);
        }
        self.now = until;
    }

    fn view(&self) -> View {
        self.scrub.view(self.now)
    }
}

#[test]
fn every_session_is_read_every_twenty_to_forty_days_at_two_megabytes_a_second() {
    let mut bench = Bench::new(1);
    (1..=20).for_each(|number| bench.stored(number, Duration::ZERO));
    bench.pass(days(365));
    for number in 1..=20 {
        let read: Vec<_> = bench.read.iter().filter(|(of, ..)| *of == session(number)).collect();
        let first: Vec<_> = read.iter().filter(|(_, from, _)| from.is_none()).map(|(_, _, at)| *at).collect();
        assert!((9..=18).contains(&first.len()), "{number}: {} times", first.len());
        let between = first.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(between.into_iter().all(|span| span >= days(20) && span <= days(41)));
        assert_eq!(read.len(), 2 * first.len(), "each goes on where it was");
        assert_eq!(read[1].2 - read[0].2, Duration::from_secs(2), "four megabytes in two seconds");
    }
}

#[test]
fn points_that_recorded_the_same_session_do_not_read_it_in_one_night() {
    let mut nights = BTreeSet::new();
    for node in 0..20 {
        let mut bench = Bench::new(node);
        bench.stored(1, Duration::ZERO);
        bench.pass(days(40));
        nights.insert(bench.read.first().expect("it was read once").2.as_secs() / DAY);
    }
    assert!(nights.len() >= 8, "{nights:?}");
}

#[test]
fn who_was_not_read_for_the_longest_is_read_first_and_goes_on_where_an_earlier_run_stopped() {
    let mut bench = Bench::new(1);
    bench.tell(Input::Live { live: true });
    bench.stored(1, days(50));
    bench.tell(Input::Stored { session: session(2), age: days(300), next: at(4), lost: false });
    bench.stored(3, days(100));
    assert_eq!(bench.read, [], "a session runs here");
    assert!(bench.view().paused);
    bench.pass(days(1));
    bench.tell(Input::Live { live: false });
    bench.pass(Duration::from_secs(60));
    let order: Vec<_> = bench.read.iter().map(|(session, from, _)| (*session, *from)).collect();
    let expected =
        [(session(2), at(4)), (session(3), None), (session(3), at(9)), (session(1), None), (session(1), at(9))];
    assert_eq!(order, expected);
}

#[test]
fn who_asks_gets_all_of_it_read_at_once_and_is_told_when_it_was_asked_of_others() {
    let mut bench = Bench::new(1);
    (1..=3).for_each(|number| bench.stored(number, Duration::ZERO));
    bench.tell(Input::Now { session: Some(session(2)) });
    assert_eq!(bench.read.len(), 2, "without a pause");
    assert_eq!(bench.view().asked, 0);
    bench.tell(Input::Live { live: true });
    bench.tell(Input::Now { session: None });
    assert_eq!((bench.read.len(), bench.view().asked, bench.view().paused), (2, 3, true));
    bench.tell(Input::Live { live: false });
    assert_eq!((bench.read.len(), bench.view()), (8, View::default()));
    bench.tell(Input::Now { session: Some(session(9)) });
    assert_eq!(bench.view().asked, 0, "what is not here is not waited for");
}

#[test]
fn a_session_that_cannot_be_read_holds_up_no_other_and_is_tried_again() {
    let of = |bench: &Bench, number| bench.read.iter().filter(|(of, ..)| *of == session(number)).count();
    let mut bench = Bench::new(1);
    bench.stuck.insert(session(2));
    bench.tell(Input::Live { live: true });
    for (number, age) in [(1, 50), (2, 300), (3, 100)] {
        bench.stored(number, days(age));
    }
    bench.tell(Input::Live { live: false });
    bench.pass(Duration::from_secs(120));
    let order: Vec<_> = bench.read.iter().map(|(session, ..)| *session).collect();
    assert_eq!(order, [2, 3, 3, 1, 1].map(session), "the oldest did not let itself be read");
    bench.pass(days(1));
    assert!((140..=146).contains(&of(&bench, 2)), "{} times a day", of(&bench, 2));
    bench.tell(Input::Now { session: None });
    bench.pass(Duration::from_secs(120));
    assert_eq!((of(&bench, 1), of(&bench, 3), bench.view().asked), (4, 4, 1), "whoever asked gets the others");
    bench.stuck.clear();
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.view(), View::default());
}

#[test]
fn what_is_lost_is_asked_of_others_at_once_then_seldom_and_when_somebody_comes() {
    let mut bench = Bench::new(1);
    (bench.mends, bench.lost) = (false, BTreeSet::from([session(1)]));
    bench.stored(1, Duration::ZERO);
    bench.pass(days(1));
    let tries = bench.mended.len();
    assert!((20..40).contains(&tries), "{tries} times a day");
    bench.mends = true;
    bench.tell(Input::Up { node: id(7) });
    assert_eq!((bench.mended.len(), bench.lost.len()), (tries + 1, 0));
    bench.pass(days(1));
    assert_eq!(bench.mended.len(), tries + 1);
}

#[test]
fn three_bad_groups_in_a_day_or_one_graver_thing_are_an_alarm_that_ends_when_all_was_read_again() {
    let found = |age, kind| Input::Found { kind, age: days(age) };
    let mut bench = Bench::new(1);
    [0, 2, 4, 6].into_iter().for_each(|age| bench.tell(found(age, Kind::Group)));
    assert!(!bench.view().alarm, "one now and then");
    bench.tell(found(0, Kind::Group));
    assert!(!bench.view().alarm);
    bench.tell(found(0, Kind::Group));
    assert!(bench.view().alarm);
    bench.pass(days(41));
    assert!(!bench.view().alarm);
    bench.tell(found(0, Kind::Grave));
    assert!(bench.view().alarm);
    let mut after = Bench::new(1);
    after.tell(found(30, Kind::Grave));
    assert!(after.view().alarm, "a restart does not end it");
}
