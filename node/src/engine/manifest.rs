//! When central signs what a session consists of, and how the points come to countersign it.
//!
//! A session is over in a moment; its record is complete when the last point has handed over its last segment. So central looks
//! every few seconds whether all have, and signs then, or after a minute without those who have not: a point that is out of
//! reach must not keep everybody's recording from being closed. What comes later (a segment, a group that was fetched after
//! all) is in a further manifest, signed when it has been quiet for a while.
//!
//! Points are asked to countersign when they are online, until they answer. An objection is an answer: the point says what it
//! has signed instead, and is asked again with the next manifest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{NodeId, SessionId};

/// How often central looks whether all points have signed off.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long it waits for those who have not.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long what came later waits for more to come before a further manifest is signed. With each it is twice as long, so
/// that a point that hands over for hours is not the cause of hundreds: a session may have so many and no more.
const QUIET: Duration = Duration::from_secs(20);
/// The longest such wait.
const QUIET_MAX: Duration = Duration::from_secs(3600);
/// Pause after a question without an answer.
const AGAIN: Duration = Duration::from_secs(10);
/// Sessions looked after at once. Beyond it the oldest goes, until the node starts again.
const SESSIONS_MAX: usize = 32;

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A session that this node chaired is over.
    Over {
        /// The session.
        session: SessionId,
    },
    /// Something came to the record of a session that may be over.
    Changed {
        /// The session.
        session: SessionId,
    },
    /// Answer to [`Output::Sign`]: there is a manifest, and these points have not countersigned it. `None` if it is too early, or
    /// could not be signed.
    Signed {
        /// The session.
        session: SessionId,
        /// Whom to ask.
        open: Option<BTreeSet<NodeId>>,
    },
    /// Answer to [`Output::Ask`]: whether the point has answered at all.
    Asked {
        /// The session.
        session: SessionId,
        /// The point.
        node: NodeId,
        /// Whether it answered.
        answered: bool,
    },
    /// A point is online.
    Up {
        /// The point.
        node: NodeId,
    },
    /// A point is no longer online.
    Down {
        /// The point.
        node: NodeId,
    },
    /// Time passed.
    Tick,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Sign a manifest if all points have signed off, or if not `all` anyway; answer with [`Input::Signed`].
    Sign {
        /// The session.
        session: SessionId,
        /// Whether to wait for all points.
        all: bool,
    },
    /// Ask a point to countersign the last manifest; answer with [`Input::Asked`].
    Ask {
        /// The session.
        session: SessionId,
        /// The point.
        node: NodeId,
    },
}

/// The engine of one node.
#[derive(Debug, Default)]
pub struct Engine {
    up: BTreeSet<NodeId>,
    sessions: BTreeMap<SessionId, Closing>,
    outbox: VecDeque<Output>,
}

#[derive(Debug)]
struct Closing {
    /// From when on nobody is waited for.
    deadline: Instant,
    /// When to look again; `None` while nothing is to be signed.
    sign_at: Option<Instant>,
    signing: bool,
    /// Manifests signed in this run.
    signed: u32,
    /// Who has not countersigned, and when to ask.
    open: BTreeMap<NodeId, Question>,
}

#[derive(Debug)]
struct Question {
    asking: bool,
    at: Instant,
}

impl Closing {
    /// How long what comes now waits for more to come.
    fn quiet(&self) -> Duration {
        QUIET.saturating_mul(1 << self.signed.saturating_sub(1).min(8)).min(QUIET_MAX)
    }
}

impl Engine {
    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Over { session } => {
                self.sessions.entry(session).or_insert_with(|| Closing {
                    deadline: now + WAIT_MAX,
                    sign_at: Some(now),
                    signing: false,
                    signed: 0,
                    open: BTreeMap::new(),
                });
                while self.sessions.len() > SESSIONS_MAX {
                    self.sessions.pop_first();
                }
            }
            Input::Changed { session } => self.with(session, |closing| {
                // Before the first manifest it is looked at soon anyway.
                closing.sign_at.get_or_insert(now + closing.quiet());
            }),
            Input::Signed { session, open } => self.with(session, |closing| {
                closing.signing = false;
                match open {
                    Some(open) => {
                        closing.signed = closing.signed.saturating_add(1);
                        let question = |node| (node, Question { asking: false, at: now });
                        closing.open = open.into_iter().map(question).collect();
                    }
                    None => {
                        let look = now + if now < closing.deadline { LOOK_EVERY } else { WAIT_MAX };
                        closing.sign_at = Some(closing.sign_at.map_or(look, |at| at.min(look)));
                    }
                }
            }),
            Input::Asked { session, node, answered } => self.with(session, |closing| match answered {
                true => drop(closing.open.remove(&node)),
                false => {
                    if let Some(question) = closing.open.get_mut(&node) {
                        *question = Question { asking: false, at: now + AGAIN };
                    }
                }
            }),
            Input::Up { node } => {
                self.up.insert(node);
                for question in self.sessions.values_mut().filter_map(|closing| closing.open.get_mut(&node)) {
                    question.at = now;
                }
            }
            Input::Down { node } => {
                self.up.remove(&node);
            }
            Input::Tick => {}
        }
        self.work(now);
    }

    fn with(&mut self, session: SessionId, change: impl FnOnce(&mut Closing)) {
        if let Some(closing) = self.sessions.get_mut(&session) {
            change(closing);
        }
    }

    fn work(&mut self, now: Instant) {
        for (&session, closing) in &mut self.sessions {
            if !closing.signing && closing.sign_at.is_some_and(|at| at <= now) {
                (closing.signing, closing.sign_at) = (true, None);
                self.outbox.push_back(Output::Sign { session, all: now < closing.deadline });
            }
            for (&node, question) in &mut closing.open {
                if !question.asking && question.at <= now && self.up.contains(&node) {
                    question.asking = true;
                    self.outbox.push_back(Output::Ask { session, node });
                }
            }
        }
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let signs = self.sessions.values().filter(|closing| !closing.signing).filter_map(|closing| closing.sign_at);
        let open = self.sessions.values().flat_map(|closing| &closing.open);
        let asks = open.filter(|(node, question)| !question.asking && self.up.contains(node)).map(|(_, ask)| ask.at);
        signs.chain(asks).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: NodeId = NodeId::from_bytes([2; 32]);

    fn session() -> SessionId {
        SessionId::from_parts(1, [0; 10])
    }

    struct Bench {
        engine: Engine,
        now: Instant,
    }

    impl Bench {
        /// A session that is over, and that central looks at.
        fn new() -> Self {
            let mut bench = Bench { engine: Engine::default(), now: Instant::now() };
            assert_eq!(bench.tell(Input::Up { node: POINT }), []);
            assert_eq!(bench.tell(Input::Over { session: session() }), [sign(true)]);
            bench
        }

        fn tell(&mut self, input: Input) -> Vec<Output> {
            self.engine.handle(self.now, input);
            std::iter::from_fn(|| self.engine.poll()).collect()
        }

        fn wait(&mut self) -> (Duration, Vec<Output>) {
            let at = self.engine.deadline().expect("something is due");
            let waited = at.saturating_duration_since(self.now);
            self.now += waited;
            (waited, self.tell(Input::Tick))
        }

        fn signed(&mut self, open: Option<&[NodeId]>) -> Vec<Output> {
            let open = open.map(|nodes| nodes.iter().copied().collect());
            self.tell(Input::Signed { session: session(), open })
        }

        fn asked(&mut self, answered: bool) -> Vec<Output> {
            self.tell(Input::Asked { session: session(), node: POINT, answered })
        }
    }

    fn sign(all: bool) -> Output {
        Output::Sign { session: session(), all }
    }

    fn ask() -> Output {
        Output::Ask { session: session(), node: POINT }
    }

    #[test]
    fn central_waits_for_all_points_and_for_nobody_for_ever() {
        let mut bench = Bench::new();
        let mut waited = Duration::ZERO;
        loop {
            assert_eq!(bench.signed(None), []);
            let (pause, outputs) = bench.wait();
            waited += pause;
            if outputs == [sign(false)] {
                break;
            }
            assert_eq!(outputs, [sign(true)]);
        }
        assert_eq!(waited, WAIT_MAX);
    }

    #[test]
    fn a_point_is_asked_until_it_answers_and_when_it_comes_back() {
        let mut bench = Bench::new();
        assert_eq!(bench.signed(Some(&[POINT])), [ask()]);
        assert_eq!(bench.asked(false), []);
        assert_eq!(bench.wait(), (AGAIN, vec![ask()]));
        assert_eq!(bench.tell(Input::Down { node: POINT }), []);
        assert_eq!(bench.asked(false), []);
        assert_eq!(bench.engine.deadline(), None);
        assert_eq!(bench.tell(Input::Up { node: POINT }), [ask()]);
        assert_eq!(bench.asked(true), []);
        assert_eq!(bench.engine.deadline(), None);
    }

    #[test]
    fn what_comes_later_is_in_a_further_manifest_when_it_is_quiet() {
        let mut bench = Bench::new();
        bench.signed(Some(&[]));
        assert_eq!(bench.tell(Input::Changed { session: session() }), []);
        assert_eq!(bench.tell(Input::Changed { session: session() }), []);
        assert_eq!(bench.wait(), (QUIET, vec![sign(true)]));
        assert_eq!(bench.tell(Input::Changed { session: session() }), []);
        assert_eq!(bench.signed(Some(&[POINT])), [ask()]);
        assert_eq!(bench.wait().1, [sign(true)], "what came while it was signed counts too");
    }

    #[test]
    fn a_point_that_hands_over_for_days_is_not_the_cause_of_hundreds_of_manifests() {
        let mut bench = Bench::new();
        bench.signed(Some(&[]));
        let (mut waited, mut waits) = (Duration::ZERO, Vec::new());
        while waited < Duration::from_secs(10 * 24 * 3600) {
            bench.tell(Input::Changed { session: session() });
            let (pause, outputs) = bench.wait();
            assert_eq!(outputs.len(), 1);
            bench.signed(Some(&[]));
            waits.push(pause.as_secs());
            waited += pause;
        }
        assert_eq!(waits[..9], [20, 40, 80, 160, 320, 640, 1280, 2560, 3600]);
        assert!(waits.len() < store::manifest::MANIFESTS_MAX as usize, "{}", waits.len());
    }

    #[test]
    fn what_is_not_over_needs_no_manifest() {
        let mut engine = Engine::default();
        engine.handle(Instant::now(), Input::Changed { session: session() });
        assert_eq!((engine.poll(), engine.deadline()), (None, None));
    }
}
