//! Central's part of one session: inviting, knowing who is there, keeping the record whole, ending.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::journal::{EndReason, Event, GapReason, LeftReason, Note, NoteKind};
use store::keys::Epoch;
use store::seal::Suite;
use store::session::{Head, Member, Period, State};

use super::renew::{Out, Renewal};
use super::{
    ASK_AGAIN, Config, Context, Fresh, Output, Own, Recalled, Refusal, Running, Seat, Ticket, Wraps, is_recorded,
    priority, tracks_of,
};
use crate::engine::clock::Line;
use crate::engine::keeper::{self, Cut, Keeper, Reason};
use crate::wire::control::{self, Accepted, Finished, Invite, Message, Span};

/// One session we chair.
#[derive(Debug)]
pub(super) struct Chair {
    pub(super) head: Head,
    pub(super) wraps: BTreeMap<Epoch, Wraps>,
    /// Local clock of the session's start; negative when we restarted since.
    origin: i64,
    pub(super) phase: Phase,
    /// Everyone but us.
    pub(super) places: BTreeMap<NodeId, Place>,
    keeper: Keeper,
    /// The next epoch on its way.
    pub(super) renewal: Renewal,
    /// The operator waiting for the end.
    waiting: Option<Ticket>,
    /// When we last looked whether something is due.
    looked: Instant,
    /// Incidents in the journal since this run began, by point. One that makes them on purpose must neither fill it nor keep
    /// those of others out of it.
    incidents: BTreeMap<PointNumber, usize>,
    /// Notes that people wrote since this run began.
    notes: usize,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The head is being written; nobody was told.
    Founding { ticket: Ticket },
    /// In session.
    Running,
    /// Everybody is told, last groups come in.
    Ending { unix_ms: u64, since: Instant, closed: bool },
    /// Ended in the journal; some may still owe groups or not know.
    Over,
    /// Never came to be, or nothing is left to do.
    Settled,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) number: PointNumber,
    /// The latest epoch whose key it took in this run of its program, as far as we know.
    accepted: Option<Epoch>,
    pub(super) joined: bool,
    /// Confirmed the end, or that it is out.
    pub(super) knows_end: bool,
    /// Named its last groups.
    reported: bool,
    /// Owes us nothing.
    pub(super) settled: bool,
    /// A question is under way.
    asking: bool,
    ask_at: Instant,
    /// When a group of it came last.
    heard: Instant,
    /// It was removed.
    pub(super) out: Option<Out>,
}

impl Place {
    fn new(number: PointNumber, now: Instant) -> Place {
        Place {
            number,
            accepted: None,
            joined: false,
            knows_end: false,
            reported: false,
            settled: false,
            asking: false,
            ask_at: now,
            heard: now,
            out: None,
        }
    }
}

/// A session that may be founded.
#[derive(Debug)]
pub(super) struct Planned {
    head: Head,
    wraps: Wraps,
}

/// Removals one after the other for which an invitation always has room. More than so many in one session is a fault or
/// an attack; beyond it there is room as long as names are short.
const EPOCHS_EXPECTED: usize = 32;

/// Incidents of one point that one run writes into the journal.
const INCIDENTS_MAX: usize = 16;

/// Notes that people may write in one run: one every half minute for a day.
const NOTES_MAX: usize = 2880;

impl Chair {
    /// Checks an operator's wish for a session.
    pub(super) fn plan(
        config: &Config,
        current: Option<SessionId>,
        title: String,
        points: &[NodeId],
        fresh: Fresh,
    ) -> Result<Planned, Refusal> {
        if let Some(running) = current {
            return Err(Refusal::Busy(running));
        }
        let me = config.members.get(&config.me).ok_or(Refusal::Unknown(config.me))?;
        let mut others = Vec::new();
        for &node in points {
            if node != config.me && !others.contains(&node) {
                others.push(node);
            }
            // Checked here so that a list of any length costs no more than the limit.
            let max = config.points_max.min(control::POINTS_MAX);
            if others.len() >= max {
                let distinct: BTreeSet<_> = points.iter().chain([&config.me]).collect();
                return Err(Refusal::TooMany { named: distinct.len(), max });
            }
        }
        if others.is_empty() {
            return Err(Refusal::Alone);
        }
        let number = |place: usize| {
            u16::try_from(place).ok().and_then(PointNumber::new).expect("points are limited far below 8191")
        };
        let mut seats = vec![Member { number: number(1), node: config.me, name: me.name.clone() }];
        for (place, node) in others.into_iter().enumerate() {
            let member = config.members.get(&node).ok_or(Refusal::Unknown(node))?;
            seats.push(Member { number: number(place + 2), node, name: member.name.clone() });
        }
        let mut wraps = fresh.wraps;
        let recovery = fresh.recovery.filter(|node| wraps.contains_key(node)).ok_or(Refusal::NoRecovery)?;
        wraps.retain(|node, _| *node == recovery || seats.iter().any(|seat| seat.node == *node));
        if let Some(seat) = seats.iter().find(|seat| !wraps.contains_key(&seat.node)) {
            return Err(Refusal::NoKey(seat.node));
        }
        let head = Head {
            id: fresh.id,
            title,
            state: State::Open,
            central: config.me,
            points: seats,
            epochs: vec![Period::first(fresh.commitment)],
            suite: Suite::default(),
            started_unix_ms: fresh.unix_ms,
            ended_unix_ms: None,
        };
        head.check().map_err(|error| Refusal::Text(error.to_string()))?;
        if !Invite::fits(&head, EPOCHS_EXPECTED.min(head.points.len())) {
            let names = "so many points with such long names do not fit into one invitation: name fewer points";
            return Err(Refusal::Text(names.into()));
        }
        Ok(Planned { head, wraps })
    }

    /// Begins a session: it exists once its head is written.
    pub(super) fn found(
        config: &Config,
        now: Instant,
        ticket: Ticket,
        planned: Planned,
        out: &mut VecDeque<Output>,
    ) -> (SessionId, Chair) {
        let Planned { head, wraps } = planned;
        let local = super::local(config.epoch, now);
        out.push_back(Output::Found { head: head.clone(), wraps: wraps.clone() });
        let origin = i64::try_from(local).unwrap_or(i64::MAX);
        let wraps = BTreeMap::from([(head.epoch(), wraps)]);
        let chair = Chair::new(config, head, wraps, origin, Phase::Founding { ticket }, now);
        (chair.head.id, chair)
    }

    /// Takes up a session from the archive: an open one runs on if it may, else it is closed as interrupted; one that
    /// is over waits for those who still owe groups.
    pub(super) fn recall(
        context: Context<'_>,
        recalled: Recalled,
        unix_ms: u64,
        resume: bool,
        out: &mut VecDeque<Output>,
    ) -> Chair {
        let Recalled { head, own, wraps, told, last_us, kept, cut_short } = recalled;
        // The wall clock says how long we were away, unless it was set back; time already used is never used again.
        let by_wall = unix_ms.saturating_sub(head.started_unix_ms).saturating_mul(1_000);
        let time = by_wall.max(last_us.saturating_add(1));
        let local = i128::from(context.local());
        let origin = i64::try_from(local - i128::from(time)).unwrap_or(i64::MIN);
        let open = head.state == State::Open;
        let phase = if resume { Phase::Running } else { Phase::Over };
        let mut chair = Chair::new(context.config, head, wraps, origin, phase, context.now);
        // Nothing says how long each point was away before we were.
        if let Some(heard) = context.now.checked_sub(Duration::from_micros(time)) {
            chair.places.values_mut().for_each(|place| place.heard = heard);
        }
        for input in kept {
            chair.keep(context, input, out);
        }
        out.push_back(Output::Open { head: chair.head.clone() });
        if resume {
            chair.journal(context, Event::Resumed {}, out);
            chair.name_cut_short(context, &cut_short, out);
            chair.tell_epochs(context, told, out);
            chair.publish(context, own.first_seq, out);
            chair.review(context, out);
        } else if open {
            chair.name_cut_short(context, &cut_short, out);
            chair.tell_epochs(context, told, out);
            chair.conclude(context, unix_ms, EndReason::Interrupted, out);
        } else {
            chair.name_cut_short(context, &cut_short, out);
        }
        chair
    }

    /// Groups of our own room that nobody can give us any more.
    fn name_cut_short(&self, context: Context<'_>, groups: &[Span], out: &mut VecDeque<Output>) {
        for &Span { track, from, to } in groups {
            let reason = GapReason::LostAtSource;
            self.journal(context, Event::Gap { track, from_seq: from, to_seq: to, reason }, out);
        }
    }

    fn new(
        config: &Config,
        head: Head,
        wraps: BTreeMap<Epoch, Wraps>,
        origin: i64,
        phase: Phase,
        now: Instant,
    ) -> Chair {
        let mut keeper = Keeper::default();
        let mut places = BTreeMap::new();
        for point in head.points.iter().filter(|point| point.node != config.me) {
            let mut place = Place::new(point.number, now);
            if head.was_removed(point.number) {
                place.leave(config, &point.node);
            }
            places.insert(point.node, place);
            for kind in TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)) {
                let track = TrackId::new(point.number, kind);
                keeper.handle(now, keeper::Input::Track { track, origin: point.node });
            }
        }
        let renewal = Renewal::Idle;
        let incidents = BTreeMap::new();
        Chair { head, wraps, origin, phase, places, keeper, renewal, waiting: None, looked: now, incidents, notes: 0 }
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Something a point signed does not fit. Beyond the limit it stands in the log only; the records remain.
    pub(super) fn incident(
        &mut self,
        context: Context<'_>,
        point: PointNumber,
        event: Event,
        out: &mut VecDeque<Output>,
    ) {
        let told = self.incidents.entry(point).or_default();
        if *told < INCIDENTS_MAX {
            *told += 1;
            self.journal(context, event, out);
        }
    }

    /// Somebody who leads the session writes something down.
    pub(super) fn note(
        &mut self,
        context: Context<'_>,
        kind: NoteKind,
        about: Option<NodeId>,
        by: Option<String>,
        text: String,
        out: &mut VecDeque<Output>,
    ) -> Result<SessionId, Refusal> {
        match self.phase {
            Phase::Running | Phase::Ending { .. } => {}
            Phase::Founding { .. } | Phase::Over | Phase::Settled => return Err(Refusal::NotRunning),
        }
        let number = |node: NodeId| {
            let member = self.head.points.iter().find(|member| member.node == node);
            member.map(|member| member.number).ok_or(Refusal::NotThere(node))
        };
        let note = Note { kind, point: about.map(number).transpose()?, by, text };
        note.check().map_err(|why| Refusal::Text(format!("a note that {why} cannot be written down")))?;
        if self.notes >= NOTES_MAX {
            return Err(Refusal::Text("the journal takes no more notes: write it into the minutes".into()));
        }
        self.notes += 1;
        self.journal(context, Event::Noted(note), out);
        Ok(self.head.id)
    }

    /// Whether a node was removed, or is being.
    pub(super) fn is_out(&self, node: &NodeId) -> bool {
        self.places.get(node).is_some_and(|place| place.out.is_some())
    }

    /// Whether this is still the session the node is in.
    pub(super) fn is_running(&self) -> bool {
        match self.phase {
            Phase::Founding { .. } | Phase::Running | Phase::Ending { .. } => true,
            Phase::Over | Phase::Settled => false,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled)
    }

    /// The head and wraps are written, or could not be.
    pub(super) fn persisted(
        &mut self,
        context: Context<'_>,
        epoch: Epoch,
        result: Result<Own, String>,
        out: &mut VecDeque<Output>,
    ) {
        let Phase::Founding { ticket } = self.phase else {
            self.renewed(context, epoch, result.map(|_| ()), out);
            return;
        };
        match result {
            Ok(own) => {
                self.phase = Phase::Running;
                // Session time begins now that the session exists.
                self.origin = i64::try_from(context.local()).unwrap_or(i64::MAX);
                let (title, points) = (self.head.title.clone(), self.head.points.clone());
                self.journal(context, Event::Started { title, points }, out);
                out.push_back(Output::Open { head: self.head.clone() });
                self.publish(context, own.first_seq, out);
                out.push_back(Output::Tell { ticket, outcome: Ok(self.head.id) });
                self.review(context, out);
            }
            Err(reason) => {
                self.phase = Phase::Settled;
                out.push_back(Output::Tell { ticket, outcome: Err(Refusal::Storage(reason)) });
            }
        }
    }

    fn publish(&mut self, context: Context<'_>, first_seq: u64, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        out.push_back(Output::Clock { session, line: Line::central(self.origin) });
        if let Some(number) = self.head.number(&context.config.me) {
            out.push_back(Output::Publish { session, tracks: tracks_of(number), first_seq });
        }
    }

    /// A point came online, perhaps with a new run of its program that knows nothing.
    pub(super) fn up(&mut self, context: Context<'_>, node: NodeId, _: &mut VecDeque<Output>) {
        if let Some(place) = self.places.get_mut(&node) {
            place.accepted = None;
            // Who was revoked is not spoken to.
            place.knows_end = place.out.as_ref().is_some_and(Out::is_revoked);
            place.asking = false;
            place.ask_at = context.now;
        }
    }

    /// The place of a point that takes part.
    fn seat(&mut self, node: &NodeId) -> Option<&mut Place> {
        self.places.get_mut(node).filter(|place| place.out.is_none())
    }

    /// A point says that it started anew, or left for its long absence: it wants the invitation or the end again.
    pub(super) fn back(&mut self, context: Context<'_>, from: NodeId, ticket: Ticket, out: &mut VecDeque<Output>) {
        let message = Message::Wait { session: self.head.id };
        // Whatever connection still seems to stand belongs to the program that is gone.
        self.lost(context, from, LeftReason::Lost, out);
        self.up(context, from, out);
        out.push_back(Output::Reply { ticket, message });
    }

    pub(super) fn media_up(&mut self, context: Context<'_>, node: NodeId, out: &mut VecDeque<Output>) {
        self.reach(context, node, out);
        self.join(context, node, out);
    }

    /// A point can be asked for groups once it is connected and has said which numbers it never used.
    fn reach(&mut self, context: Context<'_>, node: NodeId, out: &mut VecDeque<Output>) {
        let spoke = self.seat(&node).is_some_and(|place| place.accepted.is_some() || place.reported);
        if spoke && context.linked.contains(&node) {
            self.keep(context, keeper::Input::Reachable { origin: node, reachable: true }, out);
        }
    }

    pub(super) fn media_down(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        reason: LeftReason,
        out: &mut VecDeque<Output>,
    ) {
        self.keep(context, keeper::Input::Reachable { origin: node, reachable: false }, out);
        self.lost(context, node, reason, out);
    }

    fn lost(&mut self, context: Context<'_>, node: NodeId, reason: LeftReason, out: &mut VecDeque<Output>) {
        let running = matches!(self.phase, Phase::Running);
        let Some(place) = self.seat(&node) else { return };
        if std::mem::take(&mut place.joined) && running {
            place.ask_at = context.now + ASK_AGAIN;
            let point = place.number;
            self.journal(context, Event::Left { point, reason }, out);
        }
    }

    /// Takes a point as joined once it has the key and its media connection stands.
    fn join(&mut self, context: Context<'_>, node: NodeId, out: &mut VecDeque<Output>) {
        let running = matches!(self.phase, Phase::Running);
        let Some(place) = self.seat(&node) else { return };
        let ready = place.accepted.is_some() && context.linked.contains(&node) && running;
        if ready && !place.joined {
            place.joined = true;
            let point = place.number;
            self.journal(context, Event::Joined { point }, out);
        }
    }

    /// What a point answered to an invitation or an end.
    pub(super) fn answered(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        answer: Option<&Message>,
        out: &mut VecDeque<Output>,
    ) {
        let Some(place) = self.places.get_mut(&node) else { return };
        place.asking = false;
        match answer {
            Some(Message::Accepted(accepted)) => {
                let Accepted { epoch, unused, .. } = accepted;
                place.accepted = Some(*epoch);
                self.unused(context, node, unused, out);
                self.reach(context, node, out);
                self.join(context, node, out);
            }
            Some(Message::Ending { took_part, .. }) => {
                place.knows_end = true;
                place.settled |= !took_part || place.out.is_some();
            }
            Some(Message::Refused { session, reason }) => {
                tracing::warn!(%session, point = %place.number, reason, "a point refused");
            }
            Some(
                Message::Invite(_)
                | Message::End(_)
                | Message::Removed { .. }
                | Message::Finished(_)
                | Message::Back { .. }
                | Message::Wait { .. }
                | Message::Done { .. },
            )
            | None => {}
        }
    }

    fn unused(&mut self, context: Context<'_>, node: NodeId, spans: &[Span], out: &mut VecDeque<Output>) {
        for &Span { track, from, to } in spans {
            if !self.owns(node, track) {
                continue;
            }
            self.keep(context, keeper::Input::Unused { track, from, to }, out);
        }
    }

    fn owns(&self, node: NodeId, track: TrackId) -> bool {
        self.places.get(&node).is_some_and(|place| place.number == track.point() && place.out.is_none())
    }

    /// A point offers tracks: take all of the record from it, and its small layer if wanted.
    pub(super) fn announced(
        &mut self,
        context: Context<'_>,
        node: NodeId,
        tracks: &[TrackId],
        out: &mut VecDeque<Output>,
    ) {
        let wanted: BTreeMap<TrackId, u8> = tracks
            .iter()
            .filter(|&&track| self.owns(node, track))
            .filter_map(|&track| Some((track, priority(context.config, track.kind())?)))
            .collect();
        if !wanted.is_empty() {
            let tracks = wanted.into_iter().collect();
            out.push_back(Output::Subscribe { from: node, session: self.head.id, tracks });
        }
    }

    /// Hands an input to the keeper and what it wants to the outside.
    pub(super) fn keep(&mut self, context: Context<'_>, input: keeper::Input, out: &mut VecDeque<Output>) {
        if let keeper::Input::Began { track, .. } | keeper::Input::Stored { track, .. } = &input
            && let Some(place) = self.places.values_mut().find(|place| place.number == track.point())
        {
            place.heard = context.now;
        }
        self.keeper.handle(context.now, input);
        self.drain_keeper(context, out);
    }

    /// A group broke off, or our disk did not take it. One of our own room nobody can give us, as those who saw it live kept
    /// no part of it.
    pub(super) fn broke(&mut self, context: Context<'_>, group: GroupId, cut: Cut, out: &mut VecDeque<Output>) {
        let GroupId { track, seq, .. } = group;
        if self.head.number(&context.config.me) == Some(track.point()) {
            let gap = Event::Gap { track, from_seq: seq, to_seq: seq, reason: GapReason::NotStored };
            return self.journal(context, gap, out);
        }
        self.keep(context, keeper::Input::Broke { track, seq, cut }, out);
    }

    fn drain_keeper(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let session = self.head.id;
        while let Some(output) = self.keeper.poll() {
            match output {
                keeper::Output::Gap { track, from, to, reason } => {
                    let reason = match reason {
                        Reason::LeftOut => GapReason::Shed,
                        Reason::OutOfReach => GapReason::Lost,
                        Reason::NotStored => GapReason::NotStored,
                        Reason::Gone => GapReason::Damaged,
                        Reason::LostAtSource => GapReason::LostAtSource,
                    };
                    self.journal(context, Event::Gap { track, from_seq: from, to_seq: to, reason }, out);
                }
                keeper::Output::Repaired { track, from, to } => {
                    self.journal(context, Event::Repaired { track, from_seq: from, to_seq: to }, out);
                }
                keeper::Output::Fetch { origin, track, from, to, max_bytes } => {
                    out.push_back(Output::Fetch { session, origin, track, from, to, max_bytes });
                }
            }
        }
    }

    /// The operator ends the session.
    pub(super) fn end(&mut self, context: Context<'_>, ticket: Ticket, unix_ms: u64, out: &mut VecDeque<Output>) {
        let id = self.head.id;
        match self.phase {
            Phase::Running => {
                self.waiting = Some(ticket);
                self.begin_end(context, unix_ms, out);
            }
            Phase::Founding { .. } | Phase::Ending { .. } | Phase::Over | Phase::Settled => {
                out.push_back(Output::Tell { ticket, outcome: Err(Refusal::Ending(id)) });
            }
        }
    }

    fn begin_end(&mut self, context: Context<'_>, unix_ms: u64, out: &mut VecDeque<Output>) {
        self.phase = Phase::Ending { unix_ms, since: context.now, closed: false };
        out.push_back(Output::Unpublish { session: self.head.id });
        for place in self.places.values_mut() {
            place.ask_at = context.now;
        }
    }

    /// We are no point of the mesh any more, so nobody listens: the session is closed as it is.
    pub(super) fn wind_up(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        if matches!(self.phase, Phase::Running) {
            let unix_ms = self.head.started_unix_ms.saturating_add(self.time(context) / 1_000);
            self.begin_end(context, unix_ms, out);
        }
    }

    /// Our own last groups are stored.
    pub(super) fn closed(&mut self) {
        if let Phase::Ending { closed, .. } = &mut self.phase {
            *closed = true;
        }
    }

    /// A point names its last groups, or asks whether we have them now.
    pub(super) fn finished(
        &mut self,
        context: Context<'_>,
        from: NodeId,
        ticket: Ticket,
        finished: &Finished,
        out: &mut VecDeque<Output>,
    ) {
        let session = self.head.id;
        match self.phase {
            Phase::Ending { .. } | Phase::Over => {}
            Phase::Founding { .. } | Phase::Running | Phase::Settled => {
                let message = Message::refused(session, "that session has not ended");
                out.push_back(Output::Reply { ticket, message });
                return;
            }
        }
        let Some(place) = self.seat(&from) else { return };
        place.knows_end = true;
        place.reported = true;
        let number = place.number;
        self.unused(context, from, &finished.unused, out);
        self.reach(context, from, out);
        for kind in TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)) {
            let track = TrackId::new(number, kind);
            let last = finished.tracks.iter().find(|last| last.track == track).map(|last| last.seq);
            self.keep(context, keeper::Input::Finished { track, last }, out);
        }
        let whole = self.keeper.is_whole_of(from);
        if let Some(place) = self.places.get_mut(&from) {
            place.settled = whole;
        }
        let message = if whole { Message::Done { session } } else { Message::Wait { session } };
        out.push_back(Output::Reply { ticket, message });
    }

    /// Asks whom it is time to ask; moves on when what was waited for is there.
    pub(super) fn work(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        self.looked = context.now;
        self.keep(context, keeper::Input::Tick, out);
        self.try_again(context, out);
        if let Phase::Ending { unix_ms, .. } = self.phase
            && self.may_conclude(context)
        {
            self.conclude(context, unix_ms, EndReason::Closed, out);
        }
        if matches!(self.phase, Phase::Over) && self.places.values().all(|place| place.settled) {
            self.phase = Phase::Settled;
        }
        let due: Vec<NodeId> = self
            .places
            .iter()
            .filter(|(node, place)| self.is_asked(context.up, node, place) && place.ask_at <= context.now)
            .map(|(&node, _)| node)
            .collect();
        for node in due {
            let Some(message) = self.question(context, node) else { continue };
            if let Some(place) = self.places.get_mut(&node) {
                place.asking = true;
                place.ask_at = context.now + ASK_AGAIN;
            }
            out.push_back(Output::Ask { node, message });
        }
    }

    pub(super) fn deadline(&self, config: &Config, up: &BTreeSet<NodeId>) -> Option<Instant> {
        let asks = self.places.iter().filter(|(node, place)| self.is_asked(up, node, place));
        let asks = asks.map(|(_, place)| place.ask_at);
        let bounds = match self.phase {
            Phase::Ending { since, .. } => [config.finish_within, config.whole_within].map(|bound| Some(since + bound)),
            Phase::Founding { .. } | Phase::Running | Phase::Over | Phase::Settled => [None, None],
        };
        let bounds = bounds.into_iter().flatten().filter(|&bound| bound > self.looked);
        asks.chain(self.keeper.deadline()).chain(self.renewal.deadline()).chain(bounds).min()
    }

    /// Whether there is something to ask a point.
    fn is_asked(&self, up: &BTreeSet<NodeId>, node: &NodeId, place: &Place) -> bool {
        let something = match self.phase {
            Phase::Running | Phase::Ending { .. } | Phase::Over if place.out.is_some() => !place.knows_end,
            Phase::Running => place.accepted != Some(self.head.epoch()) || !place.joined,
            Phase::Ending { .. } | Phase::Over => !place.knows_end && !place.settled,
            Phase::Founding { .. } | Phase::Settled => false,
        };
        something && !place.asking && up.contains(node)
    }

    /// Group numbers below this may have been used by a point: those that came, and those it may have made meanwhile, one a
    /// second at most. So a point whose archive was lost uses no number twice, and what was lost with it is a gap.
    fn used(&self, context: Context<'_>, node: NodeId) -> u64 {
        match (self.keeper.next_of(node), self.places.get(&node)) {
            (0, _) | (_, None) => 0,
            (next, Some(place)) => next + context.now.saturating_duration_since(place.heard).as_secs(),
        }
    }

    fn question(&self, context: Context<'_>, node: NodeId) -> Option<Message> {
        let config = context.config;
        match self.phase {
            _ if self.is_out(&node) => Some(Message::Removed { session: self.head.id }),
            Phase::Running => Some(Message::Invite(Box::new(Invite {
                head: self.head.clone(),
                wraps: self.wraps_for(&node)?,
                media: config.media.clone(),
                media_port: config.media_port,
                origin: self.origin,
                used: self.used(context, node),
            }))),
            Phase::Ending { unix_ms, .. } => Some(self.end_message(config, unix_ms)),
            Phase::Over => Some(self.end_message(config, self.head.ended_unix_ms.unwrap_or(0))),
            Phase::Founding { .. } | Phase::Settled => None,
        }
    }

    fn end_message(&self, config: &Config, unix_ms: u64) -> Message {
        Message::End(control::End {
            session: self.head.id,
            unix_ms,
            media: config.media.clone(),
            media_port: config.media_port,
        })
    }

    /// Whether the record is as whole as it can be made now.
    fn may_conclude(&self, context: Context<'_>) -> bool {
        let Phase::Ending { since, closed, .. } = &self.phase else { return false };
        let waited = context.now.saturating_duration_since(*since);
        if waited >= context.config.whole_within {
            return true;
        }
        *closed
            && self.places.iter().filter(|(_, place)| place.out.is_none()).all(|(node, place)| {
                let gone = !context.linked.contains(node) && waited >= context.config.finish_within;
                place.settled || gone || (place.reported && self.keeper.is_whole_of(*node))
            })
    }

    fn conclude(&mut self, context: Context<'_>, unix_ms: u64, reason: EndReason, out: &mut VecDeque<Output>) {
        self.keep(context, keeper::Input::Reckon, out);
        self.abandon_renewal(context, out);
        self.journal(context, Event::Ended { reason }, out);
        self.head.state = State::Ended;
        self.head.ended_unix_ms = Some(unix_ms);
        out.push_back(Output::Update { head: self.head.clone() });
        if let Some(ticket) = self.waiting.take() {
            out.push_back(Output::Tell { ticket, outcome: Ok(self.head.id) });
        }
        self.phase = Phase::Over;
    }

    /// Session time now, in microseconds.
    pub(super) fn time(&self, context: Context<'_>) -> u64 {
        Line::central(self.origin).session_at(context.local())
    }

    pub(super) fn journal(&self, context: Context<'_>, event: Event, out: &mut VecDeque<Output>) {
        out.push_back(Output::Journal { session: self.head.id, at: self.time(context), event });
    }

    pub(super) fn view(&self, context: Context<'_>) -> Running {
        let points = self.head.points.iter().map(|point| Seat {
            number: point.number,
            node: point.node,
            name: point.name.clone(),
            joined: self.places.get(&point.node).is_none_or(|place| place.joined),
            removed: self.head.was_removed(point.number) || self.is_out(&point.node),
        });
        Running {
            id: self.head.id,
            title: self.head.title.clone(),
            central: self.head.central,
            phase: match self.phase {
                Phase::Founding { .. } => "starting",
                Phase::Running => "running",
                Phase::Ending { .. } => "ending",
                Phase::Over | Phase::Settled => "over",
            },
            time_us: Some(self.time(context)),
            time_error_us: Some(0),
            points: points.collect(),
            record: self.keeper.standing(),
        }
    }
}
