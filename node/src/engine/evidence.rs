//! When a point signs what it recorded, and how central comes to have it.
//!
//! A segment is signed every half minute, once more when a session is over, and first of all when the node starts, for
//! what an earlier run recorded and did not come to sign. What there is to sign is for the archive to say; this part only
//! knows the time. So nothing depends on how a run ended: whatever lies on the disk unsigned is signed by the next one.
//!
//! The origin pushes. Central could ask instead, but then it would have to know what every point has signed; so the point
//! sends one segment, and the answer is the number that central wants next. A central that was away, that lost its disk or
//! that has everything already needs no procedure of its own: the first answer says where to go on. An exchange
//! without an answer is repeated, ever more seldom, and at once when central comes online.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{NodeId, SessionId};

/// How often a point signs: so much recording at most is known to nobody by its signature.
pub const SIGN_EVERY: Duration = Duration::from_secs(30);

/// First and longest pause after an exchange that brought nothing.
const AGAIN_MIN: Duration = Duration::from_secs(2);
/// See [`AGAIN_MIN`].
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Pause after a refusal. It may have been a full disk; a central that removed us stays by it.
const REFUSED: Duration = Duration::from_secs(600);

/// Sessions looked after at once. Beyond it the oldest goes, until the node starts again.
const SESSIONS_MAX: usize = 32;

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This point has a part in a session, now or since an earlier run. Again changes nothing.
    Takes {
        /// The session.
        session: SessionId,
        /// Its central.
        central: NodeId,
    },
    /// The session is over for this point, and its last groups are with the vault.
    Over {
        /// The session.
        session: SessionId,
    },
    /// Answer to [`Output::Sign`].
    Signed {
        /// The session.
        session: SessionId,
        /// How the chain stands; `None` if it could not be signed or looked at.
        standing: Option<Standing>,
    },
    /// Answer to [`Output::Send`].
    Answered {
        /// The session.
        session: SessionId,
        /// The number central wants next; `None` when there was no such answer.
        next: Option<u32>,
    },
    /// The other answer to [`Output::Send`]: central does not want it, for instance because it removed this point.
    Refused {
        /// The session.
        session: SessionId,
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

/// How a point's own chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Segments in it.
    pub len: u32,
    /// Whether there is more to sign at once.
    pub more: bool,
    /// Whether its last segment is signed.
    pub closed: bool,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Sign what lies unsigned on the disk; answer with [`Input::Signed`].
    Sign {
        /// The session.
        session: SessionId,
        /// Whether nothing will come after it.
        over: bool,
    },
    /// Send a segment; answer with [`Input::Answered`].
    Send {
        /// The session.
        session: SessionId,
        /// To whom.
        to: NodeId,
        /// Its number.
        n: u32,
    },
}

/// The engine of one node.
#[derive(Debug)]
pub struct Engine {
    me: NodeId,
    up: BTreeSet<NodeId>,
    sessions: BTreeMap<SessionId, Own>,
    outbox: VecDeque<Output>,
}

/// This point's part in one session.
#[derive(Debug)]
struct Own {
    central: NodeId,
    over: bool,
    signing: bool,
    sign_at: Instant,
    standing: Standing,
    /// Segments central has, as far as it has said.
    given: u32,
    sending: bool,
    send_at: Instant,
    failures: u32,
}

impl Own {
    fn new(central: NodeId, now: Instant) -> Self {
        Own {
            central,
            over: false,
            signing: false,
            sign_at: now,
            standing: Standing { len: 0, more: false, closed: false },
            given: 0,
            sending: false,
            send_at: now,
            failures: 0,
        }
    }

    fn is_done(&self, me: &NodeId) -> bool {
        self.standing.closed && !self.signing && (self.central == *me || self.given >= self.standing.len)
    }

    fn has_to_send(&self, me: &NodeId, up: &BTreeSet<NodeId>) -> bool {
        self.central != *me && !self.sending && self.given < self.standing.len && up.contains(&self.central)
    }
}

impl Engine {
    /// An engine that knows of no session.
    pub fn new(me: NodeId) -> Self {
        Engine { me, up: Default::default(), sessions: BTreeMap::new(), outbox: VecDeque::new() }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Takes { session, central } => {
                self.sessions.entry(session).or_insert_with(|| Own::new(central, now));
                while self.sessions.len() > SESSIONS_MAX {
                    self.sessions.pop_first();
                }
            }
            Input::Over { session } => self.with(session, |own| {
                if !std::mem::replace(&mut own.over, true) {
                    own.sign_at = now;
                }
            }),
            Input::Signed { session, standing } => self.with(session, |own| {
                own.signing = false;
                match standing {
                    Some(standing) => {
                        // A session that was over before this signature began is signed off by the next.
                        let again = standing.more || (own.over && !standing.closed);
                        own.sign_at = if again { now } else { now + SIGN_EVERY };
                        own.standing = standing;
                    }
                    None => own.sign_at = now + SIGN_EVERY,
                }
            }),
            Input::Answered { session, next } => self.with(session, |own| {
                own.sending = false;
                match next {
                    // An answer that says the same again brought nothing.
                    Some(next) if next != own.given => {
                        own.given = next;
                        own.failures = 0;
                        own.send_at = now;
                    }
                    Some(_) | None => {
                        own.failures = own.failures.saturating_add(1);
                        let pause = AGAIN_MIN.saturating_mul(1 << own.failures.min(6).saturating_sub(1));
                        own.send_at = now + pause.min(AGAIN_MAX);
                    }
                }
            }),
            Input::Refused { session } => self.with(session, |own| {
                own.sending = false;
                own.send_at = now + REFUSED;
            }),
            Input::Up { node } => {
                self.up.insert(node);
                for own in self.sessions.values_mut().filter(|own| own.central == node) {
                    (own.failures, own.send_at) = (0, now);
                }
            }
            Input::Down { node } => {
                self.up.remove(&node);
            }
            Input::Tick => {}
        }
        self.work(now);
    }

    fn with(&mut self, session: SessionId, change: impl FnOnce(&mut Own)) {
        if let Some(own) = self.sessions.get_mut(&session) {
            change(own);
        }
    }

    fn work(&mut self, now: Instant) {
        self.sessions.retain(|_, own| !own.is_done(&self.me));
        for (&session, own) in &mut self.sessions {
            if !own.signing && !own.standing.closed && own.sign_at <= now {
                own.signing = true;
                self.outbox.push_back(Output::Sign { session, over: own.over });
            }
            if own.has_to_send(&self.me, &self.up) && own.send_at <= now {
                own.sending = true;
                self.outbox.push_back(Output::Send { session, to: own.central, n: own.given });
            }
        }
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let signs = self.sessions.values().filter(|own| !own.signing && !own.standing.closed).map(|own| own.sign_at);
        let sends = self.sessions.values().filter(|own| own.has_to_send(&self.me, &self.up)).map(|own| own.send_at);
        signs.chain(sends).min()
    }

    /// The sessions that have something left to sign or to send.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 32]);
    const CENTRAL: NodeId = NodeId::from_bytes([2; 32]);

    fn session(n: u64) -> SessionId {
        SessionId::from_parts(n, [0; 10])
    }

    struct Bench {
        engine: Engine,
        now: Instant,
    }

    impl Bench {
        fn new(central: NodeId) -> Self {
            let mut bench = Bench { engine: Engine::new(ME), now: Instant::now() };
            assert_eq!(bench.tell(Input::Takes { session: session(1), central }), [sign(false)]);
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

        fn signed(&mut self, len: u32, closed: bool) -> Vec<Output> {
            let standing = Some(Standing { len, more: false, closed });
            self.tell(Input::Signed { session: session(1), standing })
        }

        fn answered(&mut self, next: Option<u32>) -> Vec<Output> {
            self.tell(Input::Answered { session: session(1), next })
        }
    }

    fn sign(over: bool) -> Output {
        Output::Sign { session: session(1), over }
    }

    fn send(n: u32) -> Output {
        Output::Send { session: session(1), to: CENTRAL, n }
    }

    #[test]
    fn a_point_signs_at_once_every_half_minute_and_a_last_time() {
        let mut bench = Bench::new(ME);
        assert_eq!(bench.signed(0, false), []);
        assert_eq!(bench.wait(), (SIGN_EVERY, vec![sign(false)]));
        assert_eq!(bench.tell(Input::Over { session: session(1) }), [], "one signature at a time");
        assert_eq!(bench.signed(1, false), [sign(true)]);
        assert_eq!(bench.signed(2, true), []);
        assert_eq!(bench.engine.deadline(), None);
        assert_eq!(bench.engine.sessions().count(), 0, "central has its own already");
    }

    #[test]
    fn more_than_fits_into_one_is_signed_without_a_pause_and_a_failure_waits() {
        let mut bench = Bench::new(ME);
        let standing = Some(Standing { len: 1, more: true, closed: false });
        assert_eq!(bench.tell(Input::Signed { session: session(1), standing }), [sign(false)]);
        assert_eq!(bench.tell(Input::Signed { session: session(1), standing: None }), []);
        assert_eq!(bench.wait(), (SIGN_EVERY, vec![sign(false)]));
    }

    #[test]
    fn central_says_where_to_go_on() {
        let mut bench = Bench::new(CENTRAL);
        assert_eq!(bench.signed(5, false), [], "central is not there");
        assert_eq!(bench.tell(Input::Up { node: CENTRAL }), [send(0)]);
        assert_eq!(bench.answered(Some(3)), [send(3)]);
        assert_eq!(bench.answered(Some(4)), [send(4)]);
        assert_eq!(bench.answered(Some(5)), []);
        bench.tell(Input::Over { session: session(1) });
        assert_eq!(bench.signed(6, true), [send(5)]);
        assert_eq!(bench.engine.sessions().count(), 1, "until central has the last");
        assert_eq!(bench.answered(Some(6)), []);
        assert_eq!(bench.engine.sessions().count(), 0);
    }

    #[test]
    fn a_central_that_lost_its_disk_is_given_everything_again() {
        let mut bench = Bench::new(CENTRAL);
        bench.tell(Input::Up { node: CENTRAL });
        bench.signed(3, false);
        bench.answered(Some(3));
        assert_eq!(bench.wait().1, [sign(false)]);
        assert_eq!(bench.signed(4, false), [send(3)]);
        assert_eq!(bench.answered(Some(0)), [send(0)]);
    }

    #[test]
    fn silence_and_refusals_are_met_with_patience() {
        let mut bench = Bench::new(CENTRAL);
        bench.tell(Input::Up { node: CENTRAL });
        assert_eq!(bench.signed(2, true), [send(0)]);
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(bench.answered(None), []);
            let (waited, outputs) = bench.wait();
            assert_eq!(outputs, [send(0)]);
            waits.push(waited.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(bench.answered(Some(0)), [], "an answer that brings nothing is no reason to hurry");
        assert_eq!(bench.tell(Input::Down { node: CENTRAL }), []);
        assert_eq!(bench.engine.deadline(), None);
        assert_eq!(bench.tell(Input::Up { node: CENTRAL }), [send(0)]);
    }

    #[test]
    fn a_refusal_is_not_argued_with() {
        let mut bench = Bench::new(CENTRAL);
        bench.tell(Input::Up { node: CENTRAL });
        assert_eq!(bench.signed(2, true), [send(0)]);
        assert_eq!(bench.tell(Input::Refused { session: session(1) }), []);
        assert_eq!(bench.wait(), (REFUSED, vec![send(0)]));
    }

    #[test]
    fn there_are_never_more_sessions_than_the_limit() {
        let mut bench = Bench::new(CENTRAL);
        for n in 2..100 {
            bench.tell(Input::Takes { session: session(n), central: CENTRAL });
        }
        assert_eq!(bench.engine.sessions().count(), SESSIONS_MAX);
    }
}
