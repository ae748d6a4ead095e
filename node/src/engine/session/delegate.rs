//! A delegate's part of one session: taking the key, publishing its room, staying until central has everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{NodeId, TrackId};
use store::keys::Epoch;
use store::session::{Head, State};

use super::{ASK_AGAIN, Config, Context, Output, Own, Running, Seat, Ticket, Wraps, priority, tracks_of};
use crate::engine::clock::{self, Clock};
use crate::wire::control::{Accepted, End, Finished, Invite, Message};

/// How long we offer our last groups to a central that is silent before we believe that it will not come for them: its PC may be
/// away for repair. They stay in our archive.
const OWING_MAX: Duration = Duration::from_secs(7 * 86_400);

/// One session we were invited to.
#[derive(Debug)]
pub(super) struct Delegate {
    head: Head,
    phase: Phase,
    own: Own,
    /// The head with further epochs that is being checked and written, and the question that waits for it.
    renewing: Option<(Ticket, Head)>,
    clock: Clock,
    /// Whether we publish now.
    publishing: bool,
    /// Tracks asked of central, with their importance.
    subscribed: BTreeMap<TrackId, u8>,
    /// When central was last online or connected.
    seen: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Known from the archive, or left for absence: central is told that we are back, and invites or tells the end.
    Waiting { ask_at: Option<Instant> },
    /// The key is being checked and written; central waits for the answer.
    Admitting { ticket: Ticket },
    /// In session.
    Running,
    /// Central was out of reach too long; our groups are being closed.
    Leaving,
    /// Central ended it; our groups are being closed.
    Closing,
    /// Everything is stored; central is told until it has everything.
    Owing { since: Instant, ask_at: Instant, asking: bool },
    /// Nothing is left to do.
    Settled,
}

impl Delegate {
    /// A session never heard of before.
    pub(super) fn new(head: Head, now: Instant) -> Delegate {
        Delegate {
            head,
            phase: Phase::Waiting { ask_at: None },
            own: Own::default(),
            renewing: None,
            clock: Clock::default(),
            publishing: false,
            subscribed: BTreeMap::new(),
            seen: now,
        }
    }

    /// A session from the archive.
    pub(super) fn recall(head: Head, own: Own, now: Instant) -> Delegate {
        Delegate { own, phase: Phase::Waiting { ask_at: Some(now) }, ..Delegate::new(head, now) }
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn central(&self) -> NodeId {
        self.head.central
    }

    pub(super) fn central_name(&self) -> &str {
        let central = self.head.points.iter().find(|point| point.node == self.head.central);
        central.map_or("", |point| &point.name)
    }

    pub(super) fn started_unix_ms(&self) -> u64 {
        self.head.started_unix_ms
    }

    /// Whether central has said that it is over.
    pub(super) fn has_ended(&self) -> bool {
        self.head.state == State::Ended
    }

    /// Whether this is the session the node is in.
    pub(super) fn is_running(&self) -> bool {
        match self.phase {
            Phase::Admitting { .. } | Phase::Running | Phase::Leaving | Phase::Closing => true,
            Phase::Waiting { .. } | Phase::Owing { .. } | Phase::Settled => false,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled)
    }

    /// Why this invitation cannot belong to the session we know by that id.
    pub(super) fn objection(&self, head: &Head) -> Option<&'static str> {
        // A late copy of an earlier invitation has fewer epochs, and changes nothing.
        let same = head.continues(&self.head) || self.head.continues(head);
        match self.phase {
            _ if !same => Some("another session with this id is known here"),
            _ if self.head.state == State::Ended => Some("that session has ended"),
            Phase::Closing | Phase::Owing { .. } | Phase::Settled => Some("that session has ended"),
            Phase::Leaving => Some("this point is closing its groups after a long absence; ask again"),
            Phase::Waiting { .. } | Phase::Admitting { .. } | Phase::Running => None,
        }
    }

    /// An invitation against which nothing speaks.
    pub(super) fn invited(&mut self, context: Context<'_>, ticket: Ticket, invite: Invite, out: &mut VecDeque<Output>) {
        self.seen = context.now;
        self.clock.handle(context.local(), clock::Input::Rebase { origin: invite.origin });
        let Invite { head, wraps, media, media_port, used, .. } = invite;
        let dial = Output::Dial { node: head.central, addresses: media, port: media_port };
        match self.phase {
            Phase::Running => {
                out.push_back(dial);
                self.renew(ticket, head, wraps, used, out);
            }
            Phase::Waiting { .. } => {
                self.phase = Phase::Admitting { ticket };
                if head.continues(&self.head) {
                    self.head = head;
                }
                out.push_back(Output::Admit { head: self.head.clone(), wraps, used });
                out.push_back(dial);
            }
            Phase::Admitting { ticket: earlier } => {
                out.push_back(self.asked_again(earlier));
                self.phase = Phase::Admitting { ticket };
                out.push_back(dial);
            }
            Phase::Leaving | Phase::Closing | Phase::Owing { .. } | Phase::Settled => {}
        }
    }

    /// An invitation into a session we are in: perhaps with keys we have not got.
    fn renew(
        &mut self,
        ticket: Ticket,
        head: Head,
        wraps: BTreeMap<Epoch, Wraps>,
        used: u64,
        out: &mut VecDeque<Output>,
    ) {
        if let Some((earlier, _)) = &mut self.renewing {
            // What is being written is confirmed to the latest question; what it brings beyond, to the one after.
            let earlier = std::mem::replace(earlier, ticket);
            out.push_back(self.asked_again(earlier));
        } else if head.epoch() > self.head.epoch() {
            self.renewing = Some((ticket, head.clone()));
            out.push_back(Output::Admit { head, wraps, used });
        } else {
            out.push_back(self.acceptance(ticket));
        }
    }

    /// The earlier question was given up by its asker, or the later is its copy; both get the same answer.
    fn asked_again(&self, earlier: Ticket) -> Output {
        let message = Message::refused(self.head.id, "asked again before the answer was ready");
        Output::Reply { ticket: earlier, message }
    }

    fn acceptance(&self, ticket: Ticket) -> Output {
        let accepted = Accepted {
            session: self.head.id,
            epoch: self.head.epoch(),
            first_seq: self.own.first_seq,
            unused: self.own.unused.clone(),
        };
        Output::Reply { ticket, message: Message::Accepted(accepted) }
    }

    /// Further keys fit and are written, or not. From now on our groups are sealed as the head says.
    fn renewed(&mut self, epoch: Epoch, result: Result<(), String>, out: &mut VecDeque<Output>) {
        let Some((ticket, head)) = self.renewing.take_if(|(_, head)| head.epoch() == epoch) else { return };
        match result {
            Ok(()) => {
                self.head = head;
                self.subscribed.retain(|track, _| !self.head.was_removed(track.point()));
                out.push_back(Output::Open { head: self.head.clone() });
                out.push_back(self.acceptance(ticket));
            }
            Err(reason) => {
                out.push_back(Output::Reply { ticket, message: Message::refused(self.head.id, reason) });
            }
        }
    }

    /// The key fits and is written, or not.
    pub(super) fn persisted(
        &mut self,
        context: Context<'_>,
        epoch: Epoch,
        result: Result<Own, String>,
        out: &mut VecDeque<Output>,
    ) {
        let Phase::Admitting { ticket } = self.phase else {
            self.renewed(epoch, result.map(|_| ()), out);
            return;
        };
        match result {
            Ok(own) => {
                self.own = own;
                self.phase = Phase::Running;
                out.push_back(Output::Open { head: self.head.clone() });
                out.push_back(self.acceptance(ticket));
                self.publish(context, out);
            }
            Err(reason) => {
                self.phase = Phase::Settled;
                out.push_back(Output::Reply { ticket, message: Message::refused(self.head.id, reason) });
            }
        }
    }

    /// Begins to publish once session time is known and central connected for the first time. From then on the room is
    /// recorded whatever the line does.
    fn publish(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        if !matches!(self.phase, Phase::Running) {
            // The line is kept for when the session is open: before that nobody outside can use it.
            return;
        }
        let session = self.head.id;
        while let Some(clock::Output::Line(line)) = self.clock.poll() {
            out.push_back(Output::Clock { session, line });
        }
        let ready = self.clock.is_steady() && context.linked.contains(&self.head.central);
        if !ready || self.publishing {
            return;
        }
        if let Some(number) = self.head.number(&context.config.me) {
            self.publishing = true;
            out.push_back(Output::Publish { session, tracks: tracks_of(number), first_seq: self.own.first_seq });
        }
    }

    /// An exchange with a neighbour; only central's clock counts.
    pub(super) fn clock(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        sample: clock::Input,
        out: &mut VecDeque<Output>,
    ) {
        if node == self.head.central {
            self.clock.handle(context.local(), sample);
            self.publish(context, out);
        }
    }

    /// Central offers tracks: take sound and picture of every other point.
    pub(super) fn announced(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        tracks: &[TrackId],
        out: &mut VecDeque<Output>,
    ) {
        if node != self.head.central || !matches!(self.phase, Phase::Running) {
            return;
        }
        let others: BTreeSet<_> = self.head.present().filter(|point| point.node != context.config.me).collect();
        for &track in tracks {
            if others.iter().any(|point| point.number == track.point())
                && let Some(priority) = priority(context.config, track.kind())
            {
                self.subscribed.insert(track, priority);
            }
        }
        let tracks = self.subscribed.iter().map(|(&track, &priority)| (track, priority)).collect();
        out.push_back(Output::Subscribe { from: node, session: self.head.id, tracks });
    }

    /// Central says that the session is over.
    pub(super) fn ended(&mut self, context: Context<'_>, ticket: Ticket, end: End, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        out.push_back(Output::Reply { ticket, message: Message::Ending { session, took_part: true } });
        match self.phase {
            Phase::Running | Phase::Admitting { .. } | Phase::Leaving => self.leave(end.unix_ms, out),
            // Back after the end, with groups central may not have.
            Phase::Waiting { .. } => {
                self.over(end.unix_ms);
                out.push_back(Output::Update { head: self.head.clone() });
                out.push_back(Output::Open { head: self.head.clone() });
                out.push_back(Output::Dial { node: self.head.central, addresses: end.media, port: end.media_port });
                self.owe(context);
            }
            Phase::Closing | Phase::Owing { .. } | Phase::Settled => {}
        }
    }

    /// Central says that the session goes on without us.
    pub(super) fn removed(&mut self, context: Context<'_>, ticket: Ticket, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        out.push_back(Output::Reply { ticket, message: Message::Ending { session, took_part: true } });
        self.abandon(context, out);
    }

    /// The roster changed. Without its central, or without us in the mesh, the session is over here.
    pub(super) fn review(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let members = &context.config.members;
        if !members.contains(&self.head.central) || !members.contains(&context.config.me) {
            self.abandon(context, out);
        }
    }

    /// The session is over for us; central wants nothing more of us.
    fn abandon(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let time_us = self.clock.line().map_or(0, |line| line.session_at(context.local()));
        let unix_ms = self.head.started_unix_ms.saturating_add(time_us / 1_000);
        match self.phase {
            Phase::Running | Phase::Admitting { .. } | Phase::Leaving => self.leave(unix_ms, out),
            Phase::Waiting { .. } => {
                self.over(unix_ms);
                out.push_back(Output::Update { head: self.head.clone() });
                self.phase = Phase::Settled;
            }
            Phase::Closing | Phase::Owing { .. } | Phase::Settled => {}
        }
    }

    /// Closes our groups for good.
    fn leave(&mut self, unix_ms: u64, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        let admitting = if let Phase::Admitting { ticket } = self.phase { Some(ticket) } else { None };
        let renewing = self.renewing.take().map(|(ticket, _)| ticket);
        for ticket in admitting.into_iter().chain(renewing) {
            let message = Message::refused(session, "that session has ended");
            out.push_back(Output::Reply { ticket, message });
        }
        self.over(unix_ms);
        // Groups are being closed already after a long absence.
        if !matches!(self.phase, Phase::Leaving) {
            out.push_back(Output::Unpublish { session });
        }
        self.phase = Phase::Closing;
    }

    /// Central invites to a later session, so this one is over, though we missed its end.
    pub(super) fn superseded(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        match self.phase {
            Phase::Running => self.leave(0, out),
            Phase::Admitting { ticket } => {
                let message = Message::refused(session, "central has begun another session");
                out.push_back(Output::Reply { ticket, message });
                self.over(0);
                self.owe(context);
            }
            Phase::Leaving => self.leave(0, out),
            Phase::Waiting { .. } | Phase::Closing | Phase::Owing { .. } | Phase::Settled => {}
        }
    }

    fn over(&mut self, unix_ms: u64) {
        self.head.state = State::Ended;
        self.head.ended_unix_ms = self.head.ended_unix_ms.or(Some(unix_ms));
    }

    fn owe(&mut self, context: Context<'_>) {
        self.phase = Phase::Owing { since: context.now, ask_at: context.now, asking: false };
    }

    /// Our groups are closed and stored.
    pub(super) fn closed(&mut self, context: Context<'_>, own: Own, out: &mut VecDeque<Output>) {
        self.own = own;
        self.publishing = false;
        match self.phase {
            Phase::Closing => {
                out.push_back(Output::Update { head: self.head.clone() });
                self.owe(context);
            }
            Phase::Leaving => self.phase = Phase::Waiting { ask_at: Some(context.now) },
            Phase::Waiting { .. } | Phase::Admitting { .. } | Phase::Running | Phase::Owing { .. } | Phase::Settled => {
            }
        }
    }

    /// What central said to our last report.
    pub(super) fn answered(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        answer: Option<&Message>,
        _: &mut VecDeque<Output>,
    ) {
        if node != self.head.central {
            return;
        }
        if let Phase::Waiting { ask_at } = &mut self.phase {
            if matches!(answer, Some(Message::Refused { .. })) {
                // Central knows nothing of this session, or nothing of us in it.
                self.phase = Phase::Settled;
                return;
            }
            // An answer means that central knows; what follows comes from it. Silence may be a line just gone.
            *ask_at = answer.is_none().then(|| context.now + ASK_AGAIN);
            return;
        }
        let Phase::Owing { since, asking, ask_at } = &mut self.phase else { return };
        *asking = false;
        *ask_at = context.now + ASK_AGAIN;
        match answer {
            // A central that refuses knows nothing of this session any more.
            Some(Message::Done { .. } | Message::Refused { .. }) => self.phase = Phase::Settled,
            // It is still fetching, however long that takes.
            Some(Message::Wait { .. }) => *since = context.now,
            Some(
                Message::Invite(_)
                | Message::Accepted(_)
                | Message::End(_)
                | Message::Removed { .. }
                | Message::Ending { .. }
                | Message::Finished(_)
                | Message::Back { .. },
            )
            | None => {}
        }
    }

    /// A point came online; if it is central, what we owe is offered at once.
    pub(super) fn up(&mut self, context: Context<'_>, node: NodeId, _: &mut VecDeque<Output>) {
        if node != self.head.central {
            return;
        }
        match &mut self.phase {
            Phase::Waiting { ask_at } => *ask_at = Some(context.now),
            Phase::Owing { ask_at, asking, .. } => {
                *ask_at = context.now;
                *asking = false;
            }
            Phase::Admitting { .. } | Phase::Running | Phase::Leaving | Phase::Closing | Phase::Settled => {}
        }
    }

    pub(super) fn work(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        let central = self.head.central;
        let online = context.up.contains(&central);
        if online || context.linked.contains(&central) {
            self.seen = context.now;
        }
        if matches!(self.phase, Phase::Running) {
            self.publish(context, out);
            if context.now.saturating_duration_since(self.seen) >= context.config.absence_max {
                self.phase = Phase::Leaving;
                out.push_back(Output::Unpublish { session });
            }
        }
        if let Phase::Waiting { ask_at } = &mut self.phase
            && online
            && ask_at.is_some_and(|at| at <= context.now)
        {
            *ask_at = None;
            out.push_back(Output::Ask { node: central, message: Message::Back { session } });
        }
        let Phase::Owing { since, ask_at, asking } = &mut self.phase else { return };
        if context.now.saturating_duration_since(*since) >= OWING_MAX {
            self.phase = Phase::Settled;
        } else if online && !*asking && *ask_at <= context.now {
            *asking = true;
            *ask_at = context.now + ASK_AGAIN;
            let (tracks, unused) = (self.own.tracks.clone(), self.own.unused.clone());
            let message = Message::Finished(Finished { session, tracks, unused });
            out.push_back(Output::Ask { node: central, message });
        }
    }

    pub(super) fn deadline(&self, config: &Config, up: &BTreeSet<NodeId>) -> Option<Instant> {
        match self.phase {
            Phase::Running => Some(self.seen + config.absence_max),
            Phase::Owing { since, ask_at, asking } => {
                let bound = since + OWING_MAX;
                let asks = !asking && up.contains(&self.head.central);
                Some(if asks { bound.min(ask_at) } else { bound })
            }
            Phase::Waiting { ask_at } => ask_at.filter(|_| up.contains(&self.head.central)),
            Phase::Admitting { .. } | Phase::Leaving | Phase::Closing | Phase::Settled => None,
        }
    }

    pub(super) fn view(&self, context: Context<'_>) -> Running {
        let linked = context.linked.contains(&self.head.central);
        let local = context.local();
        let points = self.head.points.iter().map(|point| Seat {
            number: point.number,
            node: point.node,
            name: point.name.clone(),
            joined: linked
                && (point.node == self.head.central
                    || point.node == context.config.me
                    || self.subscribed.keys().any(|track| track.point() == point.number)),
            removed: self.head.was_removed(point.number),
        });
        Running {
            id: self.head.id,
            title: self.head.title.clone(),
            central: self.head.central,
            phase: match self.phase {
                Phase::Waiting { .. } => "waiting",
                Phase::Admitting { .. } => "joining",
                Phase::Running if linked => "running",
                Phase::Running => "central lost",
                Phase::Leaving | Phase::Closing => "closing",
                Phase::Owing { .. } | Phase::Settled => "over",
            },
            time_us: self.clock.line().map(|line| line.session_at(local)),
            time_error_us: self.clock.error(local),
            points: points.collect(),
            record: BTreeMap::new(),
        }
    }
}
