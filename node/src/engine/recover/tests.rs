//! How a node comes to have again what it lost, from points that know different things, lie, fall silent or come late.

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

const GROUPS: u64 = 40;

/// What somebody knows of a session.
#[derive(Clone)]
struct Holds {
    manifest: Option<u32>,
    groups: Have,
}

/// What a point is like.
#[derive(Clone, Default)]
struct Other {
    sessions: BTreeMap<SessionId, Holds>,
    /// It names sessions and gives nothing.
    boasts: bool,
    /// Its records are false.
    lies: bool,
    /// Its groups are.
    forges: bool,
    silent: bool,
    /// What comes of asking it for any record.
    says: Option<Came>,
}

/// A node that lost everything, with its disk, and the others.
struct Bench {
    course: Recover,
    now: Instant,
    others: BTreeMap<NodeId, Other>,
    records: BTreeMap<SessionId, u32>,
    here: BTreeMap<SessionId, Have>,
    /// What central itself kept, where that is not all.
    kept: BTreeMap<SessionId, Have>,
    /// Everything that was wanted, in order.
    log: Vec<Output>,
    done: Vec<bool>,
    heard: BTreeSet<NodeId>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            course: Recover::new(id(9), Dice::new(3)),
            now: Instant::now(),
            others: BTreeMap::new(),
            records: BTreeMap::new(),
            here: BTreeMap::new(),
            kept: BTreeMap::new(),
            log: Vec::new(),
            done: Vec::new(),
            heard: BTreeSet::new(),
        }
    }

    /// A point that has these groups of these sessions, and their records up to that manifest.
    fn other(&mut self, number: u8, holds: &[(u64, Option<u32>, RangeInclusive<u64>)]) -> &mut Other {
        let holds = holds.iter().map(|(number, manifest, groups)| {
            (session(*number), Holds { manifest: *manifest, groups: have(groups.clone()) })
        });
        let other = Other { sessions: holds.collect(), ..Other::default() };
        self.others.insert(id(number), other);
        self.others.get_mut(&id(number)).expect("just put there")
    }

    fn tell(&mut self, input: Input) {
        self.course.handle(self.now, input);
        let mut outputs: VecDeque<_> = std::iter::from_fn(|| self.course.poll()).collect();
        while let Some(output) = outputs.pop_front() {
            self.log.push(output.clone());
            if let Some(answer) = self.answer(output) {
                self.course.handle(self.now, answer);
                outputs.extend(std::iter::from_fn(|| self.course.poll()));
            }
        }
    }

    fn begin(&mut self) {
        for node in self.others.keys().copied().collect::<Vec<_>>() {
            self.tell(Input::Up { node });
        }
        self.tell(Input::Begin { only: None, from: BTreeSet::new() });
        self.wait(GRACE);
    }

    /// Lets time pass, and everything that is due happen.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.course.deadline().filter(|at| *at <= end) {
            assert!(at > self.now, "it must not be called for nothing");
            self.now = at;
            self.tell(Input::Tick);
        }
        self.now = end;
        self.tell(Input::Tick);
    }

    fn wanted(&self, session: SessionId) -> Wanted {
        let missing = have(0..=GROUPS - 1).without(self.here.get(&session).unwrap_or(&Have::new()));
        let missing_bytes = missing.len() * 10;
        let missing = [(track(), missing)].into_iter().filter(|(_, have)| !have.is_empty()).collect();
        Wanted { missing, missing_bytes, groups: GROUPS, bytes: GROUPS * 10 }
    }

    fn answer(&mut self, output: Output) -> Option<Input> {
        let empty = Have::new();
        Some(match output {
            Output::List { node } => {
                let other = &self.others[&node];
                let known = other.sessions.iter().map(|(session, holds)| Known {
                    session: *session,
                    record: holds.manifest,
                    whole: holds.groups.len() == GROUPS,
                });
                Input::Listed { node, sessions: (!other.silent).then(|| known.collect()) }
            }
            Output::Record { session, node, .. } => {
                let other = &self.others[&node];
                let end = match other.sessions.get(&session).filter(|_| !other.boasts) {
                    _ if other.says.is_some() => other.says.clone().expect("just seen"),
                    _ if other.lies => Came::Wrong,
                    None => Came::Nothing,
                    Some(holds) => match holds.manifest {
                        Some(manifest) => {
                            let known = self.records.entry(session).or_default();
                            *known = manifest.max(*known);
                            Came::Whole(self.wanted(session))
                        }
                        None => Came::Part(self.wanted(session)),
                    },
                };
                Input::Recorded { session, node, end }
            }
            Output::Plan { session } => Input::Planned { session, wanted: Some(self.wanted(session)) },
            Output::Survey { session, node } => {
                let holds = self.others[&node].sessions.get(&session);
                let has = holds.map(|holds| [(track(), holds.groups.clone())].into());
                Input::Surveyed { session, node, has }
            }
            Output::Fetch { session, node, track, groups } => {
                let (from, asked) = (*groups.start(), have(groups));
                let other = &self.others[&node];
                let has = other.sessions.get(&session).map_or(&empty, |holds| &holds.groups);
                let absent = asked.without(has);
                let got = if other.forges { Have::new() } else { asked.without(&absent) };
                let end = if other.forges { End::Wrong } else { End::Good };
                let here = self.here.entry(session).or_default();
                assert!(got.without(here).len() == got.len(), "what is here is fetched again");
                here.merge(&got);
                Input::Fetched { session, node, track, from, bytes: got.len() * 10, got, absent, end }
            }
            Output::Finish { session } => {
                let kept = self.kept.get(&session).cloned().unwrap_or(have(0..=GROUPS - 1));
                let whole = kept.without(self.here.get(&session).unwrap_or(&empty)).is_empty();
                Input::Finished { session, whole }
            }
            Output::Done { whole, heard } => {
                self.done.push(whole);
                self.heard = heard;
                return None;
            }
        })
    }

    fn records_asked(&self) -> Vec<(SessionId, NodeId)> {
        let asked = self.log.iter().filter_map(|output| match output {
            Output::Record { session, node, .. } => Some((*session, *node)),
            _ => None,
        });
        asked.collect()
    }

    /// The sessions in the order in which their groups were begun.
    fn begun(&self) -> Vec<SessionId> {
        let planned = self.log.iter().filter_map(|output| match output {
            Output::Plan { session } => Some(*session),
            _ => None,
        });
        planned.collect()
    }
}

#[test]
fn everything_comes_back_records_first_and_from_several_at_once() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39), (2, Some(0), 0..=39)]);
    bench.other(2, &[(1, Some(0), 0..=39), (2, Some(0), 0..=39)]);
    bench.other(3, &[(2, None, 0..=9)]);
    bench.begin();
    assert_eq!(bench.done, [true]);
    let view = bench.course.view();
    assert_eq!((view.sessions, view.records, view.whole, view.missing_bytes), (2, 2, 2, 0));
    assert_eq!((view.groups, view.fetched_bytes), (80, 800));
    assert!(bench.here.values().all(|here| here.len() == GROUPS));
    let first_group = bench.log.iter().position(|output| matches!(output, Output::Plan { .. })).unwrap();
    let last_record = bench.log.iter().rposition(|output| matches!(output, Output::Record { .. })).unwrap();
    assert!(last_record < first_group, "records come before groups");
    let senders: BTreeSet<_> = bench
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Fetch { node, .. } => Some(*node),
            _ => None,
        })
        .collect();
    assert!(senders.len() >= 2, "{senders:?}");
}

#[test]
fn what_the_fewest_hold_comes_first_and_then_the_newest() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39), (2, Some(0), 0..=39), (3, Some(0), 0..=39)]);
    bench.other(2, &[(2, Some(0), 0..=39), (3, Some(0), 0..=39)]);
    bench.begin();
    assert_eq!(bench.begun(), [session(1), session(3), session(2)]);
    let asked: Vec<_> = bench.records_asked().into_iter().map(|(session, _)| session).collect();
    assert_eq!(asked, [session(3), session(2), session(1)], "records by age alone");
}

#[test]
fn the_latest_manifest_is_asked_for_first_and_a_later_one_that_turns_up_is_taken_too() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39)]);
    bench.other(2, &[(1, Some(3), 0..=39)]);
    bench.begin();
    assert_eq!(bench.records_asked(), [(session(1), id(2))]);
    assert_eq!(bench.records[&session(1)], 3);
    bench.other(3, &[(1, Some(4), 0..=39)]);
    bench.tell(Input::Up { node: id(3) });
    assert_eq!(bench.records_asked(), [(session(1), id(2)), (session(1), id(3))]);
    assert_eq!((bench.records[&session(1)], bench.done.as_slice()), (4, &[true, true][..]));
}

#[test]
fn a_session_that_nobody_closed_is_put_together_from_all_who_were_in_it() {
    let mut bench = Bench::new();
    for number in 1..=4 {
        let first = u64::from(number - 1) * 10;
        bench.other(number, &[(1, None, first..=first + 9)]);
    }
    bench.begin();
    assert_eq!(bench.records_asked().len(), 4, "each is asked");
    assert_eq!((bench.done.as_slice(), bench.here[&session(1)].len()), (&[true][..], GROUPS));
}

#[test]
fn who_lies_is_named_and_passed_over() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(9), 0..=39)]).lies = true;
    bench.other(2, &[(1, Some(0), 0..=39)]).forges = true;
    bench.other(3, &[(1, Some(0), 0..=39)]);
    bench.begin();
    assert_eq!(bench.done, [true]);
    assert_eq!(bench.course.view().wrong, [id(1), id(2)]);
    assert_eq!(bench.records_asked().first(), Some(&(session(1), id(1))), "it promised the most");
    let before = bench.log.len();
    bench.other(4, &[(2, Some(0), 0..=39)]);
    bench.others.get_mut(&id(1)).unwrap().sessions.insert(session(2), Holds { manifest: Some(7), groups: Have::new() });
    bench.tell(Input::Down { node: id(1) });
    bench.tell(Input::Up { node: id(1) });
    bench.tell(Input::Up { node: id(4) });
    let asked =
        |output: &Output| matches!(output, Output::Record { node, .. } | Output::Fetch { node, .. } if *node == id(1));
    assert!(!bench.log[before..].iter().any(asked), "it is asked for nothing more");
    assert_eq!(bench.here[&session(2)].len(), GROUPS);
}

#[test]
fn who_names_sessions_without_end_and_gives_none_costs_a_few_questions() {
    let mut bench = Bench::new();
    let many: Vec<_> = (100..1_000).map(|number| (number, Some(5), 0..=39)).collect();
    bench.other(1, &many).boasts = true;
    bench.other(2, &[(1, Some(0), 0..=39)]);
    bench.begin();
    let boaster = bench.records_asked().into_iter().filter(|(_, node)| *node == id(1)).count();
    assert_eq!(boaster, EMPTY_MAX as usize);
    assert_eq!((bench.course.view().whole, bench.here[&session(1)].len()), (1, GROUPS));
    let more =
        (0..SESSIONS_MAX as u64 + 10).map(|number| Known { session: session(number), record: None, whole: false });
    bench.tell(Input::Down { node: id(1) });
    bench.others.get_mut(&id(1)).unwrap().silent = true;
    bench.tell(Input::Up { node: id(1) });
    bench.wait(AGAIN);
    bench.course.lists.insert(id(1), List::Asked);
    bench.course.handle(bench.now, Input::Listed { node: id(1), sessions: Some(more.collect()) });
    assert!(bench.course.sessions.len() <= SESSIONS_MAX);
}

#[test]
fn what_nobody_has_is_left_and_comes_when_somebody_brings_it() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=19)]);
    bench.begin();
    assert_eq!((bench.done.as_slice(), bench.course.view().left), (&[false][..], vec![session(1)]));
    assert_eq!(bench.here[&session(1)].len(), 20);
    bench.wait(3 * AGAIN);
    assert_eq!(bench.here[&session(1)].len(), 20, "nothing is fetched twice");
    bench.other(2, &[(1, None, 20..=39)]);
    bench.tell(Input::Up { node: id(2) });
    bench.wait(Duration::from_secs(1));
    assert_eq!((bench.done.last(), bench.here[&session(1)].len()), (Some(&true), GROUPS));
}

#[test]
fn what_central_itself_never_had_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=29)]);
    bench.kept.insert(session(1), have(0..=29));
    bench.begin();
    assert_eq!(bench.done, [true]);
}

#[test]
fn nobody_in_reach_is_no_end_and_the_first_who_comes_is_asked() {
    let mut bench = Bench::new();
    bench.begin();
    bench.wait(Duration::from_secs(600));
    assert_eq!((bench.done.as_slice(), bench.course.view().idle), (&[][..], false));
    bench.other(1, &[(1, Some(0), 0..=39)]).silent = true;
    bench.tell(Input::Up { node: id(1) });
    assert!(!bench.course.view().idle, "it has not said anything");
    bench.others.get_mut(&id(1)).unwrap().silent = false;
    bench.wait(AGAIN);
    assert_eq!(bench.done, [true]);
}

#[test]
fn a_running_session_goes_first() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39)]);
    bench.tell(Input::Strained { strained: true });
    bench.begin();
    assert_eq!((bench.course.view().records, bench.here.len()), (1, 0), "records are small");
    bench.tell(Input::Strained { strained: false });
    assert_eq!((bench.done.as_slice(), bench.here[&session(1)].len()), (&[true][..], GROUPS));
}

#[test]
fn one_session_from_one_point_is_all_that_is_asked_for() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39), (2, Some(0), 0..=39)]);
    bench.other(2, &[(1, Some(0), 0..=39)]);
    for number in 1..=2 {
        bench.tell(Input::Up { node: id(number) });
    }
    bench.tell(Input::Begin { only: Some(session(2)), from: [id(1)].into() });
    bench.wait(GRACE);
    assert_eq!((bench.done.as_slice(), bench.here.keys().collect::<Vec<_>>()), (&[true][..], vec![&session(2)]));
    assert!(!bench.log.iter().any(|output| matches!(output, Output::List { node } if *node == id(2))));
}

#[test]
fn a_new_wish_drops_the_one_before_and_keeps_what_is_here() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=19)]);
    bench.begin();
    assert_eq!(bench.done, [false]);
    bench.other(1, &[(1, Some(0), 0..=39)]);
    bench.tell(Input::Begin { only: None, from: BTreeSet::new() });
    bench.wait(GRACE);
    assert_eq!((bench.done.as_slice(), bench.here[&session(1)].len()), (&[false, true][..], GROUPS));
    assert_eq!(bench.course.view().fetched_bytes, 200, "only what was missing");
}

#[test]
fn whoever_says_that_a_session_runs_is_not_the_last_to_be_asked() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(9), 0..=39)]).says = Some(Came::Open);
    bench.other(2, &[(1, Some(0), 0..=39)]);
    bench.begin();
    assert_eq!(bench.records_asked(), [(session(1), id(1)), (session(1), id(2))]);
    assert_eq!((bench.done.as_slice(), bench.here[&session(1)].len()), (&[true][..], GROUPS));

    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(9), 0..=39)]).says = Some(Came::Open);
    bench.begin();
    assert_eq!((bench.done.as_slice(), bench.course.view().sessions), (&[true][..], 0), "the room joins it");
    bench.other(2, &[(1, Some(0), 0..=39)]);
    bench.tell(Input::Up { node: id(2) });
    assert_eq!(bench.here[&session(1)].len(), GROUPS, "it is over after all");
}

#[test]
fn it_is_done_when_all_who_know_something_have_been_heard_and_that_is_said() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(0), 0..=39)]);
    bench.other(2, &[]).silent = true;
    bench.begin();
    bench.tell(Input::Down { node: id(2) });
    assert_eq!((bench.done.as_slice(), bench.heard.clone()), (&[true][..], [id(1)].into()));
    bench.tell(Input::Down { node: id(1) });
    bench.others.get_mut(&id(2)).unwrap().silent = false;
    bench.tell(Input::Up { node: id(2) });
    assert_eq!((bench.done.len(), bench.heard.clone()), (2, [id(1), id(2)].into()), "one after the other is enough");
}

#[test]
fn a_session_in_which_nothing_of_ours_is_signed_is_none_of_ours_until_somebody_shows_it() {
    let mut bench = Bench::new();
    bench.other(1, &[(1, Some(9), 0..=39)]).says = Some(Came::Foreign);
    bench.begin();
    let view = bench.course.view();
    assert_eq!((bench.done.as_slice(), view.sessions, view.foreign, view.left), (&[true][..], 0, 1, vec![]));
    bench.wait(3 * AGAIN);
    assert_eq!(bench.records_asked().len(), 1, "it is not asked again and again");
    bench.other(2, &[(1, Some(0), 0..=39)]);
    bench.tell(Input::Up { node: id(2) });
    assert_eq!((bench.course.view().foreign, bench.here[&session(1)].len()), (0, GROUPS));
}

#[test]
fn few_sessions_of_one_point_are_believed_without_a_signature_of_ours() {
    let mut bench = Bench::new();
    let many: Vec<_> = (1..=20).map(|number| (number, None, 0..=39)).collect();
    bench.other(1, &many).says = Some(Came::Bare(Wanted::default()));
    bench.begin();
    let proofs: Vec<_> = bench
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Record { proof, .. } => Some(*proof),
            _ => None,
        })
        .collect();
    assert_eq!(proofs.iter().filter(|proof| **proof == Proof::Chaired).count(), BARE_MAX);
    assert_eq!(proofs.iter().filter(|proof| **proof == Proof::Signed).count(), 20 - BARE_MAX);
    bench.tell(Input::Begin { only: Some(session(3)), from: BTreeSet::new() });
    bench.wait(GRACE);
    let last = bench.log.iter().rfind(|output| matches!(output, Output::Record { .. }));
    assert!(matches!(last, Some(Output::Record { proof: Proof::Named, .. })), "somebody here knows it: {last:?}");
}

#[test]
fn what_points_say_differently_is_left_until_something_decides() {
    let mut bench = Bench::new();
    let wanted = bench.wanted(session(1));
    bench.other(1, &[(1, Some(9), 0..=39)]).says = Some(Came::Part(wanted));
    bench.other(2, &[(1, Some(0), 0..=39)]).says = Some(Came::Disputed);
    bench.begin();
    let view = bench.course.view();
    assert_eq!((view.left, view.disputed, bench.done.as_slice()), (vec![session(1)], vec![session(1)], &[false][..]));
    assert!(bench.begun().is_empty(), "no groups before it is known whose they are");
    bench.tell(Input::Down { node: id(1) });
    bench.tell(Input::Up { node: id(1) });
    assert_eq!(bench.course.view().disputed, [session(1)], "to say it again decides nothing");
    bench.other(3, &[(1, Some(0), 0..=39)]);
    bench.tell(Input::Up { node: id(3) });
    assert_eq!((bench.course.view().disputed, bench.here[&session(1)].len()), (vec![], GROUPS));
}

#[test]
fn who_comes_later_is_asked_too_if_nothing_that_we_signed_says_whose_a_session_was() {
    let mut bench = Bench::new();
    let wanted = bench.wanted(session(1));
    bench.other(1, &[(1, Some(9), 0..=39)]).says = Some(Came::Part(wanted));
    bench.begin();
    assert_eq!(bench.done, [true]);
    bench.other(2, &[(1, Some(0), 0..=39)]).says = Some(Came::Disputed);
    bench.tell(Input::Up { node: id(2) });
    assert_eq!((bench.course.view().disputed, bench.done.as_slice()), (vec![session(1)], &[true, false][..]));
}

#[test]
fn who_brings_nothing_is_asked_last_and_keeps_no_groups_waiting() {
    let mut bench = Bench::new();
    let many: Vec<_> = (100..200).map(|number| (number, Some(5), 0..=39)).collect();
    bench.other(1, &many).says = Some(Came::Silent);
    bench.other(2, &[(1, Some(0), 0..=39), (2, Some(0), 0..=39)]);
    bench.begin();
    let asked = bench.records_asked();
    assert_eq!(asked.iter().filter(|(_, node)| *node == id(1)).count(), 100, "a line that failed is no lie");
    assert!(asked[1..3].iter().all(|(_, node)| *node == id(2)), "{:?}", &asked[..4]);
    let at = |wanted: &dyn Fn(&Output) -> bool| bench.log.iter().rposition(wanted).unwrap();
    let copied = at(&|output| matches!(output, Output::Finish { .. }));
    let junk = at(&|output| matches!(output, Output::Record { node, .. } if *node == id(1)));
    assert!(copied < junk, "what others brought is whole before");
}

#[test]
fn one_point_cannot_leave_the_others_no_room_and_is_asked_again_when_it_comes_back() {
    let mut bench = Bench::new();
    let junk: Vec<_> = (1_000..2 * SESSIONS_MAX as u64).map(|number| (number, Some(5), 0..=0)).collect();
    bench.other(1, &junk).boasts = true;
    bench.other(2, &[(1, Some(0), 0..=39)]);
    bench.begin();
    assert_eq!(bench.course.sessions.len(), SHARE_MAX + 1);
    assert_eq!(bench.here[&session(1)].len(), GROUPS);
    for _ in 0..3 {
        bench.tell(Input::Down { node: id(1) });
        bench.tell(Input::Up { node: id(1) });
    }
    assert_eq!(bench.course.sessions.len(), SHARE_MAX + 1, "its share is the same however often it comes");
    bench.other(1, &[(2, Some(0), 0..=39)]);
    bench.course.brought.clear();
    bench.tell(Input::Down { node: id(1) });
    bench.tell(Input::Up { node: id(1) });
    assert_eq!(bench.here[&session(2)].len(), GROUPS, "it was mended meanwhile");
}
