//! Who is asked to hold a session, when, and when somebody else is. Holders answer at once; time is counted, not waited for.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(number: u16) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(*Hash::of(&bytes).as_bytes())
}

fn session(number: u64) -> SessionId {
    SessionId::from_parts(number, [0; 10])
}

fn manifest(number: u8) -> Hash {
    Hash::from_bytes([number; 32])
}

/// Central and its world: holders that are up answer at once.
struct World {
    care: Care,
    now: Instant,
    up: BTreeSet<NodeId>,
    /// What each says when it is asked.
    says: BTreeMap<NodeId, Answer>,
    asked: Vec<NodeId>,
    last: Hash,
}

impl World {
    /// Central is point 0; points 1 to 3 took part with it; the rest only hold.
    fn new(points: u16) -> World {
        let care = Care::new(id(0), placement::COPIES, Dice::new(1));
        let (up, says) = (BTreeSet::new(), BTreeMap::new());
        let mut world = World { care, now: Instant::now() + 30 * DAY, up, says, asked: Vec::new(), last: manifest(1) };
        let node = |number| (id(number), Node { zone: number.to_string(), holds: true, holds_own: true });
        world.tell(Input::Mesh { nodes: (0..points).map(node).collect() });
        (1..points).for_each(|number| world.up(number));
        world
    }

    fn up(&mut self, number: u16) {
        self.up.insert(id(number));
        self.tell(Input::Up { node: id(number) });
    }

    fn down(&mut self, node: NodeId) {
        self.up.remove(&node);
        self.tell(Input::Down { node });
    }

    fn close(&mut self) {
        let owners = (0..4).map(id).collect();
        self.tell(Input::Closed { session: session(1), manifest: self.last, owners });
    }

    fn tell(&mut self, input: Input) {
        self.care.handle(self.now, input);
        while let Some(Output::Offer { session, node }) = self.care.poll() {
            self.asked.push(node);
            let answer = match self.up.contains(&node) {
                true => self.says.get(&node).copied().unwrap_or(Answer::Holds),
                false => Answer::Silent,
            };
            if answer == Answer::Holds {
                let manifest = self.last;
                self.care.handle(self.now, Input::Receipt { session, manifest, node, age: Duration::ZERO });
            }
            self.care.handle(self.now, Input::Answered { session, node, answer });
        }
    }

    /// Lets time pass, as the part wants it.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.care.deadline().filter(|at| *at <= until) {
            assert!(at > self.now, "it must not be called for nothing");
            self.now = at;
            self.tell(Input::Tick);
        }
        self.now = until;
    }

    fn holders(&self) -> BTreeSet<NodeId> {
        self.care.confirmed(self.now, &session(1))
    }

    /// Who was asked since the last time.
    fn asked(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.asked).into_iter().collect()
    }
}

#[test]
fn a_session_has_three_copies_those_who_took_part_before_others() {
    let mut world = World::new(20);
    world.close();
    assert_eq!(world.holders().len(), 2, "and central's own");
    assert!(world.holders().iter().all(|node| (1..4).map(id).any(|point| point == *node)));
    assert_eq!(world.asked(), world.holders(), "nobody else is told of it");
    world.pass(30 * DAY);
    assert_eq!(world.asked(), world.holders());
}

#[test]
fn a_holder_signs_again_twice_a_day() {
    let mut world = World::new(20);
    world.close();
    world.asked();
    world.pass(10 * DAY);
    let asked = world.asked.len();
    assert!((2 * 20..=2 * 28).contains(&asked), "{asked}");
}

#[test]
fn who_may_not_hold_or_offers_nothing_is_not_chosen() {
    let mut world = World::new(12);
    let node = |number| {
        let holds = number == 9 || number == 10;
        (id(number), Node { zone: String::new(), holds, holds_own: number == 2 })
    };
    world.tell(Input::Mesh { nodes: (0..12).map(node).collect() });
    world.tell(Input::Offers { node: id(10), gigabytes: 0 });
    world.close();
    assert_eq!(world.holders(), [2, 9].map(id).into(), "its own session, and what it is there for");
}

#[test]
fn one_silent_holder_is_replaced_after_seven_days_and_not_before() {
    let mut world = World::new(20);
    world.close();
    world.pass(3 * HOUR);
    let before = world.holders();
    let lost = *before.first().unwrap();
    world.down(lost);
    world.asked();
    world.pass(6 * DAY);
    assert!(world.asked().is_subset(&before), "its office is closed for a while");
    world.pass(DAY + 13 * HOUR);
    let after = world.holders();
    assert!(after.len() == 2 && !after.contains(&lost), "{after:?}");
    // It comes back, and is counted again.
    world.up.insert(lost);
    world.tell(Input::Up { node: lost });
    assert_eq!(world.holders().len(), 3);
    world.asked();
    world.pass(30 * DAY);
    assert_eq!(world.asked(), world.holders(), "what is there is used");
}

#[test]
fn with_fewer_than_two_fresh_copies_somebody_awake_takes_one_at_once() {
    let mut world = World::new(20);
    world.close();
    let before = world.holders();
    before.iter().for_each(|node| world.down(*node));
    world.asked();
    world.pass(DAY - 13 * HOUR);
    assert_eq!(world.asked(), [].into());
    world.pass(15 * HOUR);
    let new: BTreeSet<_> = world.holders().difference(&before).copied().collect();
    assert_eq!(new.len(), 1, "one, until the seven days are over");
    world.pass(5 * DAY);
    assert_eq!(world.holders().difference(&before).count(), 1);
}

#[test]
fn who_refuses_is_passed_over_and_who_is_silent_is_asked_ever_more_seldom() {
    let mut world = World::new(20);
    world.says.insert(id(1), Answer::Refused);
    world.says.insert(id(2), Answer::Refused);
    world.says.insert(id(3), Answer::Silent);
    world.close();
    assert!(world.holders().len() == 1 && world.asked().is_superset(&[1, 2, 3].map(id).into()));
    world.pass(Duration::from_secs(55 * 60));
    let tries = world.asked.iter().filter(|node| **node == id(3)).count();
    assert!((4..=5).contains(&tries), "after 1, 2, 4, 8, 16 minutes: {tries}");
    world.pass(3 * HOUR);
    assert_eq!(world.holders().len(), 2, "silence is a refusal in the end");
    world.asked();
    world.pass(12 * HOUR);
    assert!(!world.asked().contains(&id(1)), "a day is left to it");
}

#[test]
fn who_has_taken_an_offer_is_counted_on_and_reminded() {
    let mut world = World::new(20);
    world.says = (1..20).map(|number| (id(number), Answer::Taken)).collect();
    world.close();
    let taken = world.asked();
    assert!(taken.len() == 2 && world.holders().is_empty());
    world.pass(20 * HOUR);
    assert_eq!(world.asked(), taken, "and nobody else");
    let node = *taken.first().unwrap();
    world.asked();
    world.tell(Input::Resumes { session: session(1), node });
    world.tell(Input::Resumes { session: session(1), node: id(19) });
    assert_eq!(world.asked(), [node].into(), "whoever it is not for asks in vain");
    world.down(node);
    world.up.insert(node);
    world.asked();
    world.tell(Input::Up { node });
    assert_eq!(world.asked(), [node].into(), "it may have been started anew");
}

#[test]
fn who_comes_back_while_an_answer_of_its_last_run_is_awaited_is_asked_at_once() {
    let mut world = World::new(2);
    world.down(id(1));
    world.close();
    let (care, now) = (&mut world.care, world.now);
    for comes in [Input::Up { node: id(1) }, Input::Resumes { session: session(1), node: id(1) }] {
        care.handle(now, Input::Up { node: id(1) });
        assert!(care.poll().is_some(), "it is asked");
        // It is killed and starts again, which is heard before the question is given up.
        care.handle(now, Input::Down { node: id(1) });
        care.handle(now, Input::Up { node: id(1) });
        care.handle(now, comes);
        assert_eq!(care.poll(), None, "one question at a time");
        care.handle(now, Input::Answered { session: session(1), node: id(1), answer: Answer::Silent });
        assert!(care.poll().is_some(), "it is asked again");
        care.handle(now, Input::Answered { session: session(1), node: id(1), answer: Answer::Taken });
        care.handle(now, Input::Down { node: id(1) });
    }
}

#[test]
fn what_comes_later_is_offered_to_those_who_hold_the_rest() {
    let mut world = World::new(20);
    world.close();
    let before = world.holders();
    world.asked();
    world.last = manifest(2);
    world.close();
    assert_eq!((world.asked(), world.holders()), (before.clone(), before));
}

#[test]
fn a_receipt_of_an_earlier_run_counts_and_leaves_its_holder_a_day() {
    let mut world = World::new(20);
    (1..20).for_each(|number| world.down(id(number)));
    world.close();
    for number in [4, 5] {
        let age = 300 * DAY;
        world.tell(Input::Receipt { session: session(1), manifest: manifest(1), node: id(number), age });
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.holders(), [4, 5].map(id).into(), "however far the clock was off");
    (1..20).filter(|number| ![4, 5].contains(number)).for_each(|number| world.up(number));
    world.pass(2 * DAY);
    assert!(world.holders().is_disjoint(&[4, 5].map(id).into()));
}

#[test]
fn when_central_is_silent_for_seven_days_the_next_point_looks_after_its_sessions() {
    let mut world = World::new(20);
    world.care = Care::new(id(1), placement::COPIES, Dice::new(2));
    let node = |number: u16| (id(number), Node { zone: String::new(), holds: true, holds_own: true });
    world.tell(Input::Mesh { nodes: (0..20).map(node).collect() });
    (2..20).for_each(|number| world.up(number));
    world.close();
    world.pass(6 * DAY);
    assert_eq!(world.asked(), [].into());
    world.pass(2 * DAY);
    assert_eq!(world.holders().len(), 3, "it has its own part only, so it counts for nothing");
    world.up(0);
    world.asked();
    world.pass(3 * DAY);
    assert_eq!(world.asked(), [].into(), "central is back");
}

/// The second of those who took part, and all others but central online.
fn successor() -> World {
    let mut world = World::new(20);
    world.care = Care::new(id(1), placement::COPIES, Dice::new(2));
    let node = |number: u16| (id(number), Node { zone: number.to_string(), holds: true, holds_own: true });
    world.tell(Input::Mesh { nodes: (0..20).map(node).collect() });
    (2..20).for_each(|number| world.up(number));
    world.close();
    world
}

#[test]
fn whoever_comes_to_look_after_a_session_asks_those_who_held_it_before_it_makes_new_copies() {
    let mut world = successor();
    for number in [1, 2, 9] {
        let age = Duration::ZERO;
        world.tell(Input::Receipt { session: session(1), manifest: manifest(1), node: id(number), age });
    }
    world.pass(7 * DAY + 2 * HOUR);
    assert_eq!(world.asked(), [2, 9].map(id).into(), "nobody else, as they still have it");
    world.says.insert(id(9), Answer::Refused);
    world.pass(DAY);
    let asked = world.asked();
    assert_eq!((asked.len(), asked.contains(&id(9))), (3, true), "one more in its place");
}

#[test]
fn a_central_that_is_no_point_any_more_is_not_waited_for() {
    let mut world = successor();
    world.up(0);
    world.pass(HOUR);
    assert_eq!(world.asked(), [].into(), "central is there");
    let node = |number: u16| (id(number), Node { zone: number.to_string(), holds: true, holds_own: true });
    world.tell(Input::Mesh { nodes: (1..20).map(node).collect() });
    assert_eq!(world.holders().len(), 3, "its own copy is known to nobody yet");
    assert!(world.care.is_turn_of(world.now, &session(1), &id(1)));
    assert!(!world.care.is_turn_of(world.now, &session(1), &id(2)), "one before it is there");
    assert!(!world.care.is_turn_of(world.now, &session(1), &id(15)), "it had no part in it");
    assert!(!world.care.is_turn_of(world.now, &session(2), &id(1)), "nothing is known of that one");
}

#[test]
fn a_holder_of_many_sessions_is_asked_for_one_at_a_time() {
    let mut care = Care::new(id(0), placement::COPIES, Dice::new(1));
    let now = Instant::now();
    let node = |number: u16| (id(number), Node { zone: String::new(), holds: true, holds_own: true });
    care.handle(now, Input::Mesh { nodes: (0..3).map(node).collect() });
    care.handle(now, Input::Up { node: id(1) });
    for number in 0..1000 {
        care.handle(now, Input::Closed { session: session(number), manifest: manifest(1), owners: vec![id(0)] });
    }
    let mut asked = BTreeSet::new();
    while let Some(Output::Offer { session, node }) = care.poll() {
        assert!(care.poll().is_none() && asked.insert(session));
        care.handle(now, Input::Answered { session, node, answer: Answer::Taken });
    }
    assert_eq!(asked.len(), 1000);
}

#[test]
fn in_a_mesh_of_thousands_a_session_still_asks_for_its_own_holders_only() {
    let points = 3300;
    let mut world = World::new(points);
    for number in 0..100 {
        let part = (0..40).map(|point| id((number as u16 * 7 + point) % points));
        let owners = std::iter::once(id(0)).chain(part).collect();
        world.tell(Input::Closed { session: session(number), manifest: world.last, owners });
    }
    assert_eq!(world.asked.len(), 200, "two beside central for each");
    world.asked.clear();
    world.pass(DAY);
    assert!((200..=600).contains(&world.asked.len()), "{}", world.asked.len());
}
