//! The door of an inviting node: who may talk, what is said, who comes in. Pure; one for all that knock.
//!
//! What a stranger can learn here is that this is a node of ours: an invite that does not exist and a proof that is wrong take
//! the same steps (a proof is worked out in any case, with a key that nobody has) and end in the same silence. Only
//! who has proved the secret hears "used" or "expired".
//!
//! No invite is ever locked by wrong proofs. 80 bits need no such lock, and a lock would be a way for a
//! stranger to keep a clerk out. What is limited is the work: conversations at once, their time, attempts a minute, and
//! for each address a wait that doubles with each failure. The wait is not spent in a conversation, where it would hold a
//! place, but by turning the address away.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::id::NodeId;
use store::roster::{Admission, GrantId};
use store::signed::Signed;

use super::invite::Invite;
use super::secret::{Line, MacKey, Role};
use super::wire::{self, Answer, Ask, FRAME_MAX, HEARD_MAX, Knock, Welcome};
use crate::config::Address;

/// Conversations at once in which nothing is proved yet.
pub const TALKS_MAX: usize = 4;
/// Conversations at once in all.
pub const ALL_MAX: usize = 8;
/// A conversation that has not come to its answer by then ends. It takes three round trips.
pub const TALK_MAX: Duration = Duration::from_secs(10);
/// Conversations begun in a minute, by all addresses together.
pub const PER_MINUTE_MAX: usize = 60;
/// Failures of one address before it must wait.
pub const FREE_FAILURES: u32 = 3;
/// The first wait of an address, and the longest; each failure doubles it.
pub const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// An address that was quiet for so long begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Addresses remembered for their failures. Beyond, the one that was quiet for longest is forgotten.
const CALLERS_MAX: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);

/// Names a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TalkId(pub u64);

/// How a conversation is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// It came to its answer.
    Done,
    /// Nothing was proved. Said for a wrong proof and for an invite that does not exist alike.
    Stranger,
    /// Now is not the time: later.
    Busy,
    /// It took too long.
    Silent,
}

/// What became of an attempt, for the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is a point now.
    Admitted,
    /// It was one already, by this invite.
    Again,
    /// Nothing was proved.
    Wrong,
    /// Another node had used the invite.
    Used,
    /// It was too late.
    Expired,
    /// The invite was taken back.
    Withdrawn,
    /// It was not spoken to: its address failed too often, or too many knock.
    TooMany,
    /// It said what is no frame of this conversation, or nothing in time, or left.
    Broken,
    /// It could not be admitted; why.
    Unable(String),
}

/// One attempt to come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where it came from.
    pub from: IpAddr,
    /// The node its certificate proved.
    pub node: NodeId,
    /// Which invite it proved to know, or spoke of.
    pub invite: Option<GrantId>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the door is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody knocks.
    Came {
        /// Names the conversation; never used before.
        talk: TalkId,
        /// Where from.
        from: IpAddr,
        /// The connection.
        line: Line,
    },
    /// A frame came.
    Heard {
        /// The conversation.
        talk: TalkId,
        /// The frame.
        frame: Bytes,
        /// Wall clock, Unix milliseconds.
        unix_ms: u64,
    },
    /// The connection is gone.
    Gone {
        /// The conversation.
        talk: TalkId,
    },
    /// To [`Output::Admit`]: it is written, or cannot be.
    Admitted {
        /// The conversation.
        talk: TalkId,
        /// The invite.
        invite: GrantId,
        /// What to send, or why not.
        outcome: Result<Letter, Unable>,
    },
    /// Time passed.
    Tick,
}

/// What an admitted node is given.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its admission.
    pub admission: Signed<Admission>,
    /// All that the mesh knows of itself, encoded.
    pub membership: Bytes,
    /// Wall clock, Unix milliseconds.
    pub unix_ms: u64,
}

/// Why a node with a good invite is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unable {
    /// The authority made the grant void.
    Withdrawn,
    /// Anything else, in one sentence.
    Reason(String),
}

/// What the door wants done, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this, then listen for a frame.
    Say {
        /// The conversation.
        talk: TalkId,
        /// The frame.
        frame: Bytes,
    },
    /// Send these, then close.
    End {
        /// The conversation.
        talk: TalkId,
        /// The frames.
        frames: Vec<Bytes>,
        /// How to close.
        close: Close,
    },
    /// Let the node in: sign, write, flush, then [`Input::Admitted`].
    Admit {
        /// The conversation.
        talk: TalkId,
        /// The invite. If it was used, then by this node: give the same answer again.
        invite: Box<Invite>,
        /// The node.
        node: NodeId,
        /// What it said.
        ask: Ask,
    },
    /// Somebody tried, and this is what became of it.
    Attempt(Attempt),
}

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is proved.
    Unproved,
    /// Both know the secret of this invite.
    Proved(GrantId),
    /// The answer is being written.
    Admitting(GrantId),
}

#[derive(Clone, Debug)]
struct Talk {
    from: IpAddr,
    line: Line,
    stage: Stage,
    until: Instant,
    /// Bytes heard.
    heard: usize,
}

/// An address that failed.
#[derive(Clone, Copy, Debug)]
struct Caller {
    failures: u32,
    /// Not spoken to before.
    wait_until: Instant,
    last: Instant,
    /// Whether the log knows that it is being turned away.
    told: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Door {
    invites: BTreeMap<GrantId, Invite>,
    /// Tried when an invite does not exist.
    nobodys: MacKey,
    talks: BTreeMap<TalkId, Talk>,
    callers: BTreeMap<IpAddr, Caller>,
    /// When the conversations of the last minute began.
    begun: VecDeque<Instant>,
    outbox: VecDeque<Output>,
}

impl Door {
    /// A door for these invites. `nobodys` must be fresh and random.
    pub fn new(invites: impl IntoIterator<Item = Invite>, nobodys: MacKey) -> Self {
        Self {
            invites: invites.into_iter().map(|invite| (invite.id(), invite)).collect(),
            nobodys,
            talks: BTreeMap::new(),
            callers: BTreeMap::new(),
            begun: VecDeque::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Came { talk, from, line } => self.came(now, talk, from, line),
            Input::Heard { talk, frame, unix_ms } => self.heard(now, talk, &frame, unix_ms),
            Input::Gone { talk } => self.end(now, talk, Outcome::Broken, None),
            Input::Admitted { talk, invite, outcome } => self.admitted(now, talk, invite, outcome),
            Input::Tick => {
                let late = self.talks.iter().filter(|(_, talk)| talk.until <= now).map(|(id, _)| *id);
                for talk in late.collect::<Vec<_>>() {
                    self.end(now, talk, Outcome::Broken, Some((Vec::new(), Close::Silent)));
                }
            }
        }
    }

    /// What to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        self.talks.values().map(|talk| talk.until).min()
    }

    /// The invites there are, by their ids.
    pub fn invites(&self) -> impl Iterator<Item = &Invite> {
        self.invites.values()
    }

    /// The invite of this id.
    pub fn invite(&self, id: &GrantId) -> Option<&Invite> {
        self.invites.get(id)
    }

    /// A new or changed invite.
    pub fn put(&mut self, invite: Invite) {
        self.invites.insert(invite.id(), invite);
    }

    fn came(&mut self, now: Instant, talk: TalkId, from: IpAddr, line: Line) {
        let from = neighbourhood(from);
        let turned_away = |door: &mut Self| {
            door.outbox.push_back(Output::End { talk, frames: Vec::new(), close: Close::Busy });
        };
        if let Some(caller) = self.callers.get_mut(&from) {
            if now.duration_since(caller.last) > FORGIVEN_AFTER {
                self.callers.remove(&from);
            } else if now < caller.wait_until {
                if !std::mem::replace(&mut caller.told, true) {
                    let attempt = Attempt { from, node: line.knocker, invite: None, outcome: Outcome::TooMany };
                    self.outbox.push_back(Output::Attempt(attempt));
                }
                return turned_away(self);
            }
        }
        while self.begun.front().is_some_and(|begun| now.duration_since(*begun) >= MINUTE) {
            self.begun.pop_front();
        }
        let unproved = |door: &Self| door.talks.values().filter(|talk| talk.stage == Stage::Unproved).count();
        // One address, one conversation: it cannot take the places of others.
        let talks_already = self.talks.values().any(|talk| talk.from == from && talk.stage == Stage::Unproved);
        if talks_already
            || self.begun.len() >= PER_MINUTE_MAX
            || self.talks.len() >= ALL_MAX
            || unproved(self) >= TALKS_MAX
        {
            return turned_away(self);
        }
        self.begun.push_back(now);
        self.talks.insert(talk, Talk { from, line, stage: Stage::Unproved, until: now + TALK_MAX, heard: 0 });
    }

    fn heard(&mut self, now: Instant, id: TalkId, frame: &[u8], unix_ms: u64) {
        let Some(talk) = self.talks.get_mut(&id) else { return };
        talk.heard += frame.len();
        if talk.heard > HEARD_MAX {
            return self.end(now, id, Outcome::Broken, Some((Vec::new(), Close::Stranger)));
        }
        match talk.stage {
            Stage::Unproved => self.knocked(now, id, frame),
            Stage::Proved(invite) => self.asked(now, id, invite, frame, unix_ms),
            // Nothing more is to be said until the answer.
            Stage::Admitting(_) => self.end(now, id, Outcome::Broken, Some((Vec::new(), Close::Stranger))),
        }
    }

    fn knocked(&mut self, now: Instant, id: TalkId, frame: &[u8]) {
        let Some(talk) = self.talks.get_mut(&id) else { return };
        let Ok(knock) = wire::decode::<Knock>(frame) else {
            return self.end(now, id, Outcome::Broken, Some((Vec::new(), Close::Stranger)));
        };
        let known = self.invites.get(&knock.invite);
        let key = known.map_or(&self.nobodys, Invite::key);
        let right = key.proof(Role::Knocker, &talk.line, &knock.invite) == blake3::Hash::from_bytes(knock.proof);
        if !(right && known.is_some()) {
            return self.end(now, id, Outcome::Wrong, Some((Vec::new(), Close::Stranger)));
        }
        talk.stage = Stage::Proved(knock.invite);
        let proof = *key.proof(Role::Host, &talk.line, &knock.invite).as_bytes();
        self.outbox.push_back(Output::Say { talk: id, frame: wire::encode(&Welcome { proof }) });
    }

    fn asked(&mut self, now: Instant, id: TalkId, invite: GrantId, frame: &[u8], unix_ms: u64) {
        let (Some(talk), Some(invite)) = (self.talks.get_mut(&id), self.invites.get(&invite)) else { return };
        let node = talk.line.knocker;
        let ask = wire::decode::<Ask>(frame).ok();
        // Looked at here, so that nobody has to look at a membership's addresses again.
        let good = |ask: &Ask| {
            ask.addresses.iter().all(|address| address.parse::<Address>().is_ok())
                && ask.proof.check(invite.grant(), &node, &ask.wrap)
        };
        let Some(ask) = ask.filter(good) else {
            return self.end(now, id, Outcome::Broken, Some((Vec::new(), Close::Stranger)));
        };
        let not_after_unix_ms = invite.grant().not_after_unix_ms;
        match invite.used_by() {
            Some(user) if user != node => self.refuse(now, id, Outcome::Used, &Answer::Used),
            None if invite.is_withdrawn() => self.refuse(now, id, Outcome::Withdrawn, &Answer::Withdrawn),
            None if unix_ms > not_after_unix_ms => {
                self.refuse(now, id, Outcome::Expired, &Answer::Expired { not_after_unix_ms, unix_ms });
            }
            _ => {
                talk.stage = Stage::Admitting(invite.id());
                let invite = Box::new(invite.clone());
                self.outbox.push_back(Output::Admit { talk: id, invite, node, ask });
            }
        }
    }

    fn admitted(&mut self, now: Instant, id: TalkId, invite: GrantId, outcome: Result<Letter, Unable>) {
        let letter = match outcome {
            Ok(letter) => letter,
            Err(Unable::Withdrawn) => return self.refuse(now, id, Outcome::Withdrawn, &Answer::Withdrawn),
            Err(Unable::Reason(reason)) => {
                return self.refuse(now, id, Outcome::Unable(reason.clone()), &Answer::unable(reason));
            }
        };
        let again = self.invites.get(&invite).is_some_and(|invite| invite.used_by().is_some());
        if let Some(invite) = self.invites.get_mut(&invite) {
            // Whether or not the node is still there to hear it.
            invite.use_up(letter.admission.clone());
        }
        let answer = Answer::Admitted {
            admission: letter.admission.bytes().clone(),
            membership_len: letter.membership.len() as u64,
            unix_ms: letter.unix_ms,
        };
        let mut frames = vec![wire::encode(&answer)];
        let parts = (0..letter.membership.len()).step_by(FRAME_MAX);
        frames.extend(parts.map(|from| letter.membership.slice(from..letter.membership.len().min(from + FRAME_MAX))));
        let outcome = if again { Outcome::Again } else { Outcome::Admitted };
        self.end(now, id, outcome, Some((frames, Close::Done)));
    }

    fn refuse(&mut self, now: Instant, id: TalkId, outcome: Outcome, answer: &Answer) {
        self.end(now, id, outcome, Some((vec![wire::encode(answer)], Close::Done)));
    }

    /// The conversation is over. `last` is what remains to be said, if anybody is there to hear it.
    fn end(&mut self, now: Instant, id: TalkId, outcome: Outcome, last: Option<(Vec<Bytes>, Close)>) {
        let Some(talk) = self.talks.remove(&id) else { return };
        let invite = match talk.stage {
            Stage::Unproved => None,
            Stage::Proved(invite) | Stage::Admitting(invite) => Some(invite),
        };
        if invite.is_none() {
            self.failed(now, talk.from);
        }
        if let Some((frames, close)) = last {
            self.outbox.push_back(Output::End { talk: id, frames, close });
        }
        let attempt = Attempt { from: talk.from, node: talk.line.knocker, invite, outcome };
        self.outbox.push_back(Output::Attempt(attempt));
    }

    /// An address proved nothing.
    fn failed(&mut self, now: Instant, from: IpAddr) {
        if self.callers.len() >= CALLERS_MAX
            && !self.callers.contains_key(&from)
            && let Some(quietest) = self.callers.iter().min_by_key(|(_, caller)| caller.last).map(|(from, _)| *from)
        {
            self.callers.remove(&quietest);
        }
        let fresh = Caller { failures: 0, wait_until: now, last: now, told: false };
        let caller = self.callers.entry(from).or_insert(fresh);
        caller.failures = caller.failures.saturating_add(1);
        caller.last = now;
        caller.told = false;
        if let Some(doublings) = caller.failures.checked_sub(FREE_FAILURES) {
            let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            caller.wait_until = now + WAIT.0.saturating_mul(factor).min(WAIT.1);
        }
    }
}

/// What counts as one address: of IPv6 a customer has at least a /64.
fn neighbourhood(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

#[cfg(test)]
mod tests;
