//! Who is in which session, and what follows from it: the part that makes nodes meet without anybody at the keyboard.
//!
//! A node is *central* of a session its operator started, or *delegate* in one it was invited to. Both are the same
//! program, so one engine holds both parts: [`chair`] and [`delegate`]. A node takes part in one running session at a
//! time; sessions that are over stay here only as long as somebody still owes groups.
//!
//! Nothing is ever sent once and hoped for. Central repeats an invitation to a named point that is online and not
//! joined, and an end to one that has not confirmed it; each message means the same the second time. So a point that
//! starts late, dies, or loses its line for an hour needs no procedure of its own: it comes online, is asked again, and
//! answers. The same holds for central, which takes up an open session it finds in its archive and asks everybody.
//!
//! What must not be forgotten is written before it is promised: a session exists once [`Output::Found`] is confirmed,
//! a delegate says yes once [`Output::Admit`] is. Keys never enter here; the driver makes, wraps and opens them.
//!
//! A point that is removed is cut off at once. Then the session goes on with another key, which it is not given: `renew`.
//! Who may ask for what is not decided here either; the driver asks `engine::rights` first.

mod chair;
mod delegate;
mod input;
mod output;
mod renew;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::session::{Head, State};

use self::chair::Chair;
use self::delegate::Delegate;
pub use self::input::{Fresh, Input, Own, Recalled, Ticket, Wraps};
pub use self::output::{Output, Refusal, Running, Seat, View};
use crate::engine::clock;
use crate::engine::keeper;
use crate::engine::rights::{Deed, Members, Part};
use crate::wire::control::Message;

/// How often an invitation, an end or a final report is repeated until it is answered.
const ASK_AGAIN: Duration = Duration::from_millis(1_500);

/// Sessions that are over and still remembered because somebody may owe groups; beyond it the oldest goes. What it
/// lacks stays a gap in its journal.
pub const PAST_MAX: usize = 8;

/// Ended sessions remembered by their id, so that nobody joins one of them again: some years of weekly receptions.
const ENDED_MAX: usize = 256;

/// Live importance of tracks, from the media notes: sound of who speaks, then picture.
const PRIORITY_AUDIO: u8 = 6;
/// See [`PRIORITY_AUDIO`].
pub const PRIORITY_THUMB: u8 = 5;
/// See [`PRIORITY_AUDIO`].
pub const PRIORITY_MAIN: u8 = 4;

/// What changes seldom or never while the node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// Zero of the local clock that media exchanges and invitations speak of.
    pub epoch: Instant,
    /// Everyone who may take part.
    pub members: Members,
    /// Most points in one session, central included.
    pub points_max: usize,
    /// How long the end of a session waits for its record to become whole. What is missing then is a gap, and goes on
    /// being repaired.
    pub whole_within: Duration,
    /// How long the end waits for points that are out of reach at that moment.
    pub finish_within: Duration,
    /// A delegate that saw nothing of central for this long stops sending its room's picture and sound, and may be
    /// invited elsewhere.
    pub absence_max: Duration,
    /// Addresses of our media endpoint told in invitations; empty when only its port is known.
    pub media: Vec<SocketAddr>,
    /// Port of our media endpoint.
    pub media_port: u16,
    /// Whether the small picture layer of every point is taken live too.
    pub thumbs: bool,
}

/// The engine of one node.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    /// Online in the mesh.
    up: BTreeSet<NodeId>,
    /// Connected for media.
    linked: BTreeSet<NodeId>,
    /// The session this node takes part in now; a key of `chairs` or `delegates`.
    current: Option<SessionId>,
    chairs: BTreeMap<SessionId, Chair>,
    delegates: BTreeMap<SessionId, Delegate>,
    /// Sessions of others that are over here, the latest [`ENDED_MAX`]: an invitation to one of them is a mistake.
    ended: BTreeSet<SessionId>,
    outbox: VecDeque<Output>,
}

/// What both parts may look at while they work.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    config: &'a Config,
    up: &'a BTreeSet<NodeId>,
    linked: &'a BTreeSet<NodeId>,
    now: Instant,
}

impl Context<'_> {
    /// The local clock in microseconds.
    fn local(&self) -> u64 {
        local(self.config.epoch, self.now)
    }
}

fn local(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}

impl Engine {
    /// A node that takes part in nothing yet.
    pub fn new(config: Config) -> Engine {
        Engine {
            config,
            up: BTreeSet::new(),
            linked: BTreeSet::new(),
            current: None,
            chairs: BTreeMap::new(),
            delegates: BTreeMap::new(),
            ended: BTreeSet::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Up { node } => {
                self.up.insert(node);
                self.each_chair(now, |chair, context, out| chair.up(context, node, out));
                self.each_delegate(now, |delegate, context, out| delegate.up(context, node, out));
            }
            Input::Down { node } => {
                self.up.remove(&node);
            }
            Input::MediaUp { node } => {
                self.linked.insert(node);
                self.each_chair(now, |chair, context, out| chair.media_up(context, node, out));
            }
            Input::MediaDown { node, reason } => {
                self.linked.remove(&node);
                self.each_chair(now, |chair, context, out| chair.media_down(context, node, reason, out));
            }
            Input::Asked { from, ticket, message } => self.asked(now, from, ticket, message),
            Input::Answered { node, session, answer } => {
                self.chair(now, session, |chair, context, out| chair.answered(context, node, answer.as_ref(), out));
                self.delegate(now, session, |delegate, context, out| {
                    delegate.answered(context, node, answer.as_ref(), out)
                });
            }
            Input::Start { ticket, title, points, fresh } => self.start(now, ticket, title, points, fresh),
            Input::End { ticket, session, unix_ms } => match self.chaired(session) {
                Ok(id) => self.chair(now, id, |chair, context, out| chair.end(context, ticket, unix_ms, out)),
                Err(refusal) => self.outbox.push_back(Output::Tell { ticket, outcome: Err(refusal) }),
            },
            Input::Remove { ticket, session, node } => match self.chaired(session) {
                Ok(id) => self.chair(now, id, |chair, context, out| chair.remove(context, ticket, node, out)),
                Err(refusal) => self.outbox.push_back(Output::Tell { ticket, outcome: Err(refusal) }),
            },
            Input::Note { ticket, session, kind, node, by, text } => match self.chaired(session) {
                Ok(id) => self.chair(now, id, |chair, context, out| {
                    let outcome = chair.note(context, kind, node, by, text, out);
                    out.push_back(Output::Tell { ticket, outcome });
                }),
                Err(refusal) => self.outbox.push_back(Output::Tell { ticket, outcome: Err(refusal) }),
            },
            Input::Roster { members } => {
                self.config.members = members;
                self.each_chair(now, |chair, context, out| chair.review(context, out));
                self.each_delegate(now, |delegate, context, out| delegate.review(context, out));
            }
            Input::Keyed { session, epoch, result } => {
                self.chair(now, session, |chair, context, out| chair.keyed(context, epoch, result, out));
            }
            Input::Persisted { session, epoch, result } => {
                self.chair(now, session, |chair, context, out| chair.persisted(context, epoch, result.clone(), out));
                self.delegate(now, session, |delegate, context, out| delegate.persisted(context, epoch, result, out));
            }
            Input::Closed { session, own } => {
                self.chair(now, session, |chair, _, _| chair.closed());
                self.delegate(now, session, |delegate, context, out| delegate.closed(context, own, out));
            }
            Input::Recall { recalled, unix_ms } => self.recall(now, *recalled, unix_ms),
            Input::Clock { node, sent, remote, received } => {
                let sample = clock::Input::Sample { sent, remote, received };
                self.each_delegate(now, |delegate, context, out| delegate.clock(context, node, sample, out));
            }
            Input::Announced { node, session, tracks } => {
                self.chair(now, session, |chair, context, out| chair.announced(context, node, &tracks, out));
                self.delegate(now, session, |delegate, context, out| delegate.announced(context, node, &tracks, out));
            }
            Input::Began(group) => self.kept(now, group, |track, seq| keeper::Input::Began { track, seq }),
            Input::Broke { group, cut } => {
                self.chair(now, group.session, |chair, context, out| chair.broke(context, group, cut, out));
            }
            Input::Stored(group) => self.kept(now, group, |track, seq| keeper::Input::Stored { track, seq }),
            Input::Incident { session, point, event } => {
                self.chair(now, session, |chair, context, out| chair.incident(context, point, event, out));
            }
            Input::Fetched { session, origin, missing } => self.chair(now, session, |chair, context, out| {
                chair.keep(context, keeper::Input::Fetched { origin, missing }, out)
            }),
            Input::Tick => {}
        }
        self.work(now);
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let chairs = self.chairs.values().filter_map(|chair| chair.deadline(&self.config, &self.up));
        let delegates = self.delegates.values().filter_map(|delegate| delegate.deadline(&self.config, &self.up));
        chairs.chain(delegates).min()
    }

    /// What a node is in a session, as far as is known here.
    pub fn part(&self, session: &SessionId, node: &NodeId) -> Part {
        let head = self.chairs.get(session).map(Chair::head);
        match head.or_else(|| self.delegates.get(session).map(Delegate::head)) {
            // A point on its way out is none any more, though the head that says so is still being written.
            Some(_) if self.chairs.get(session).is_some_and(|chair| chair.is_out(node)) => Part::Removed,
            Some(head) => Part::of(head, node),
            None => Part::Unknown,
        }
    }

    /// What people may see.
    pub fn view(&self, now: Instant) -> View {
        let context = Context { config: &self.config, up: &self.up, linked: &self.linked, now };
        let session = self.current.and_then(|id| match (self.chairs.get(&id), self.delegates.get(&id)) {
            (Some(chair), _) => Some(chair.view(context)),
            (None, Some(delegate)) => Some(delegate.view(context)),
            (None, None) => None,
        });
        let past = self.chairs.keys().chain(self.delegates.keys()).filter(|&&id| Some(id) != self.current).copied();
        View { session, past: past.collect() }
    }

    fn asked(&mut self, now: Instant, from: NodeId, ticket: Ticket, message: Message) {
        let session = message.session();
        let refuse = |out: &mut VecDeque<Output>, reason: &str| {
            out.push_back(Output::Reply { ticket, message: Message::refused(session, reason) });
        };
        match message {
            Message::Invite(invite) => self.invited(now, from, ticket, *invite),
            Message::End(_) | Message::Removed { .. } if !self.delegates.contains_key(&session) => {
                let message = Message::Ending { session, took_part: false };
                self.outbox.push_back(Output::Reply { ticket, message });
            }
            Message::End(end) => {
                self.delegate(now, session, |delegate, context, out| delegate.ended(context, ticket, end, out));
            }
            Message::Removed { .. } => {
                self.delegate(now, session, |delegate, context, out| delegate.removed(context, ticket, out));
            }
            Message::Finished(finished) => match self.chairs.contains_key(&session) {
                true => self.chair(now, session, |chair, context, out| {
                    chair.finished(context, from, ticket, &finished, out);
                }),
                false => refuse(&mut self.outbox, "this point does not chair that session"),
            },
            Message::Back { .. } => match self.chairs.contains_key(&session) {
                true => self.chair(now, session, |chair, context, out| chair.back(context, from, ticket, out)),
                false => refuse(&mut self.outbox, "this point does not chair that session"),
            },
            Message::Accepted(_)
            | Message::Refused { .. }
            | Message::Ending { .. }
            | Message::Wait { .. }
            | Message::Done { .. } => refuse(&mut self.outbox, "an answer to nothing that was asked"),
        }
    }

    fn kept(&mut self, now: Instant, group: GroupId, input: impl FnOnce(TrackId, u64) -> keeper::Input) {
        let input = input(group.track, group.seq);
        self.chair(now, group.session, |chair, context, out| chair.keep(context, input, out));
    }

    /// Whether nothing speaks against an invitation `from` a point that may send it; the sentence says what does.
    fn objection(&self, from: NodeId, head: &Head) -> Option<String> {
        if head.state != State::Open {
            return Some("that session has ended".into());
        }
        if head.points.len() > self.config.points_max {
            let max = self.config.points_max;
            return Some(format!("{} points are more than the {max} this point allows", head.points.len()));
        }
        if self.ended.contains(&head.id) {
            return Some("that session has ended".into());
        }
        if let Some(objection) = self.delegates.get(&head.id).and_then(|known| known.objection(head)) {
            return Some(objection.into());
        }
        match self.current {
            Some(id) if id != head.id && !self.is_superseded(id, from, head) => {
                Some(format!("this point takes part in session {id}"))
            }
            _ => None,
        }
    }

    /// A central chairs one session at a time, so its invitation to a later one says that the earlier is over.
    fn is_superseded(&self, current: SessionId, from: NodeId, head: &Head) -> bool {
        self.delegates
            .get(&current)
            .is_some_and(|delegate| delegate.central() == from && delegate.started_unix_ms() <= head.started_unix_ms)
    }

    fn invited(&mut self, now: Instant, from: NodeId, ticket: Ticket, invite: crate::wire::control::Invite) {
        let id = invite.head.id;
        if let Some(reason) = self.objection(from, &invite.head) {
            self.outbox.push_back(Output::Reply { ticket, message: Message::refused(id, reason) });
            return;
        }
        if let Some(current) = self.current.filter(|&current| current != id) {
            self.delegate(now, current, |delegate, context, out| delegate.superseded(context, out));
        }
        self.delegates.entry(id).or_insert_with(|| Delegate::new(invite.head.clone(), now));
        self.current = Some(id);
        self.delegate(now, id, |delegate, context, out| delegate.invited(context, ticket, invite, out));
    }

    fn start(&mut self, now: Instant, ticket: Ticket, title: String, points: Vec<NodeId>, fresh: Fresh) {
        match Chair::plan(&self.config, self.current, title, &points, fresh) {
            Ok(planned) => {
                let (id, chair) = Chair::found(&self.config, now, ticket, planned, &mut self.outbox);
                self.chairs.insert(id, chair);
                self.current = Some(id);
            }
            Err(refusal) => self.outbox.push_back(Output::Tell { ticket, outcome: Err(refusal) }),
        }
    }

    /// The running session if we chair it, and if it is the one named, should one be.
    fn chaired(&self, named: Option<SessionId>) -> Result<SessionId, Refusal> {
        match self.current {
            None => Err(named.map_or(Refusal::NotRunning, Refusal::Other)),
            Some(id) if named.is_some_and(|named| named != id) => Err(Refusal::Other(named.unwrap_or(id))),
            Some(id) => match self.delegates.get(&id) {
                Some(delegate) => Err(Refusal::NotCentral(delegate.central_name().to_owned())),
                None => Ok(id),
            },
        }
    }

    fn recall(&mut self, now: Instant, recalled: Recalled, unix_ms: u64) {
        let id = recalled.head.id;
        if recalled.head.central == self.config.me {
            let resume = recalled.head.state == State::Open && self.current.is_none();
            let context = Context { config: &self.config, up: &self.up, linked: &self.linked, now };
            let chair = Chair::recall(context, recalled, unix_ms, resume, &mut self.outbox);
            self.chairs.insert(id, chair);
            if resume {
                self.current = Some(id);
            }
        } else {
            self.delegates.insert(id, Delegate::recall(recalled.head, recalled.own, now));
        }
    }

    fn chair(
        &mut self,
        now: Instant,
        session: SessionId,
        act: impl FnOnce(&mut Chair, Context<'_>, &mut VecDeque<Output>),
    ) {
        let context = Context { config: &self.config, up: &self.up, linked: &self.linked, now };
        if let Some(chair) = self.chairs.get_mut(&session) {
            act(chair, context, &mut self.outbox);
        }
    }

    fn delegate(
        &mut self,
        now: Instant,
        session: SessionId,
        act: impl FnOnce(&mut Delegate, Context<'_>, &mut VecDeque<Output>),
    ) {
        let context = Context { config: &self.config, up: &self.up, linked: &self.linked, now };
        if let Some(delegate) = self.delegates.get_mut(&session) {
            act(delegate, context, &mut self.outbox);
        }
    }

    fn each_chair(&mut self, now: Instant, mut act: impl FnMut(&mut Chair, Context<'_>, &mut VecDeque<Output>)) {
        let sessions: Vec<_> = self.chairs.keys().copied().collect();
        for session in sessions {
            self.chair(now, session, &mut act);
        }
    }

    fn each_delegate(&mut self, now: Instant, mut act: impl FnMut(&mut Delegate, Context<'_>, &mut VecDeque<Output>)) {
        let sessions: Vec<_> = self.delegates.keys().copied().collect();
        for session in sessions {
            self.delegate(now, session, &mut act);
        }
    }

    /// Lets every part do what time or the last input made due, then drops those that are done.
    fn work(&mut self, now: Instant) {
        self.each_chair(now, |chair, context, out| chair.work(context, out));
        self.each_delegate(now, |delegate, context, out| delegate.work(context, out));
        if let Some(id) = self.current {
            let chairs = self.chairs.get(&id).is_some_and(Chair::is_running);
            let sits = self.delegates.get(&id).is_some_and(Delegate::is_running);
            if !chairs && !sits {
                self.current = None;
            }
        }
        let over: Vec<_> = self.chairs.iter().filter(|(_, chair)| chair.is_settled()).map(|(&id, _)| id).collect();
        over.into_iter().for_each(|id| self.drop_chair(id));
        let over: Vec<_> = self.delegates.iter().filter(|(_, sits)| sits.is_settled()).map(|(&id, _)| id).collect();
        over.into_iter().for_each(|id| self.drop_delegate(id));
        self.forget_past();
    }

    fn drop_chair(&mut self, session: SessionId) {
        if self.chairs.remove(&session).is_some() {
            self.outbox.push_back(Output::Close { session });
        }
    }

    /// Forgets a session and hangs up on its central unless another session still speaks with it. Points of our own
    /// sessions dial us, and hang up themselves.
    fn drop_delegate(&mut self, session: SessionId) {
        let Some(delegate) = self.delegates.remove(&session) else { return };
        if delegate.has_ended() {
            self.ended.insert(session);
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_first();
            }
        }
        self.outbox.push_back(Output::Close { session });
        let node = delegate.central();
        if self.delegates.values().all(|other| other.central() != node) {
            self.outbox.push_back(Output::HangUp { node });
        }
    }

    fn forget_past(&mut self) {
        oldest_beyond(self.chairs.keys(), self.current).into_iter().for_each(|id| self.drop_chair(id));
        oldest_beyond(self.delegates.keys(), self.current).into_iter().for_each(|id| self.drop_delegate(id));
    }
}

/// Sessions beyond [`PAST_MAX`], oldest first; ids sort by start.
fn oldest_beyond<'a>(ids: impl Iterator<Item = &'a SessionId>, current: Option<SessionId>) -> Vec<SessionId> {
    let mut past: Vec<SessionId> = ids.copied().filter(|&id| Some(id) != current).collect();
    past.truncate(past.len().saturating_sub(PAST_MAX));
    past
}

/// Whether a track belongs to the record; thumbnails are live only.
pub fn is_recorded(kind: TrackKind) -> bool {
    match kind {
        TrackKind::Audio | TrackKind::Main | TrackKind::Screen => true,
        TrackKind::Thumb => false,
    }
}

/// What a point's question comes to, from one that has this part in its session.
pub fn question(message: &Message, part: Part) -> Deed<'_> {
    match message {
        Message::Invite(invite) => Deed::Invite(&invite.head),
        Message::End(_) | Message::Removed { .. } => Deed::Direct(part),
        Message::Finished(_) | Message::Back { .. } => Deed::Report(part),
        // No questions; the engine says so to whoever may connect.
        Message::Accepted(_)
        | Message::Refused { .. }
        | Message::Ending { .. }
        | Message::Wait { .. }
        | Message::Done { .. } => Deed::Connect,
    }
}

/// The kinds a room offers; the screen comes and goes by itself.
const OFFERED: [TrackKind; 3] = [TrackKind::Audio, TrackKind::Main, TrackKind::Thumb];

fn tracks_of(number: PointNumber) -> Vec<TrackId> {
    OFFERED.iter().map(|&kind| TrackId::new(number, kind)).collect()
}

/// The importance of a track live, or `None` when it is not wanted.
fn priority(config: &Config, kind: TrackKind) -> Option<u8> {
    match kind {
        TrackKind::Audio => Some(PRIORITY_AUDIO),
        TrackKind::Thumb => config.thumbs.then_some(PRIORITY_THUMB),
        TrackKind::Main | TrackKind::Screen => Some(PRIORITY_MAIN),
    }
}

#[cfg(test)]
mod tests;
