//! Removing points from a session we chair, and giving those that stay another key.
//!
//! A point is out the moment it is removed: nobody exchanges a byte with it any more, whatever the disk or the line to
//! others does. Then the next epoch is prepared, one step after the other: a key is made and wrapped for those that
//! stay, wraps and head are written, the journal says so, and everybody is invited again with the new head until he has
//! it. Whoever dies between two steps finds the last written head; a point that should be out and is not in it is removed
//! anew, and what the head has and the journal lacks is told.
//!
//! The new key is used for groups that begin [`LEAD`] after, so that every point has it by then and nobody misses a
//! word. Until then the point that is out could open what it is no longer sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use store::id::{Hash, NodeId, PointNumber};
use store::journal::{Event, RemovedReason};
use store::keys::Epoch;
use store::session::Head;

use super::chair::{Chair, Phase, Place};
use super::{ASK_AGAIN, Config, Context, Output, Refusal, Ticket, Wraps};
use crate::engine::keeper;
use crate::wire::control::Invite;

/// How long before it begins an epoch is announced: enough for the slowest line's round trip and one repetition.
pub(super) const LEAD: Duration = Duration::from_secs(2);

/// A point that is out.
#[derive(Debug)]
pub(super) struct Out {
    reason: RemovedReason,
    /// The operator waiting for it.
    ticket: Option<Ticket>,
}

impl Out {
    pub(super) fn is_revoked(&self) -> bool {
        self.reason == RemovedReason::Revoked
    }
}

/// The next epoch on its way.
#[derive(Debug)]
pub(super) enum Renewal {
    /// Nothing is due.
    Idle,
    /// A key is being made for an epoch without these points.
    Keying { removed: Vec<PointNumber> },
    /// Wraps and head are being written.
    Writing { head: Box<Head>, wraps: Wraps },
    /// It could not be done; another attempt follows.
    Failed { again: Instant },
}

impl Renewal {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Renewal::Failed { again } => Some(*again),
            Renewal::Idle | Renewal::Keying { .. } | Renewal::Writing { .. } => None,
        }
    }
}

impl Place {
    /// Takes the place from its point. A point that is still in the roster is told; one that was revoked is not spoken to.
    pub(super) fn leave(&mut self, config: &Config, node: &NodeId) {
        let revoked = !config.members.contains(node);
        let reason = if revoked { RemovedReason::Revoked } else { RemovedReason::Chair };
        self.out = Some(Out { reason, ticket: None });
        self.joined = false;
        self.knows_end = revoked;
        self.settled = revoked;
    }
}

impl Chair {
    /// Sends out whoever is no longer in the roster. A central that is not in it itself winds the session up.
    pub(super) fn review(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        if !context.config.members.contains(&context.config.me) {
            self.wind_up(context, out);
            return;
        }
        let revoked = |(node, place): (&NodeId, &Place)| {
            let gone = place.out.is_none() && !context.config.members.contains(node);
            gone.then_some(*node)
        };
        let revoked: Vec<NodeId> = self.places.iter().filter_map(revoked).collect();
        for node in revoked {
            self.expel(context, node, None, out);
        }
        self.renew(context, out);
    }

    /// The operator sends a point out.
    pub(super) fn remove(&mut self, context: Context<'_>, ticket: Ticket, node: NodeId, out: &mut VecDeque<Output>) {
        let refusal = match (&self.phase, self.places.get(&node)) {
            _ if node == context.config.me => Some(Refusal::Central),
            (_, None) => Some(Refusal::NotThere(node)),
            (_, Some(place)) if place.out.is_some() => Some(Refusal::NotThere(node)),
            (Phase::Running, Some(_)) => None,
            (Phase::Founding { .. } | Phase::Ending { .. } | Phase::Over | Phase::Settled, _) => {
                Some(Refusal::Ending(self.head.id))
            }
        };
        if let Some(refusal) = refusal {
            out.push_back(Output::Tell { ticket, outcome: Err(refusal) });
            return;
        }
        self.expel(context, node, Some(ticket), out);
        self.renew(context, out);
    }

    fn expel(&mut self, context: Context<'_>, node: NodeId, ticket: Option<Ticket>, out: &mut VecDeque<Output>) {
        let Some(place) = self.places.get_mut(&node) else { return };
        place.leave(context.config, &node);
        if let Some(gone) = &mut place.out {
            gone.ticket = ticket;
        }
        self.keep(context, keeper::Input::Reachable { origin: node, reachable: false }, out);
        out.push_back(Output::Expel { session: self.head.id, node });
    }

    /// Begins the next epoch if somebody is out who has the key of this one.
    fn renew(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        let due =
            matches!(self.phase, Phase::Running) && matches!(self.renewal, Renewal::Idle | Renewal::Failed { .. });
        let removed: Vec<PointNumber> = self.leaving().map(|(place, _)| place.number).collect();
        if !due || removed.is_empty() {
            return;
        }
        let next = self.head.next(Hash::NONE, self.time(context), removed.clone());
        let next = match next {
            Ok(next) if Invite::fits(&next, 0) => next,
            Ok(_) => return self.give_up(&Refusal::Epochs(store::session::Error::Epochs), out),
            Err(error) => return self.give_up(&Refusal::Epochs(error), out),
        };
        let points = next.present().map(|point| point.node).collect();
        self.renewal = Renewal::Keying { removed };
        out.push_back(Output::Rekey { session: self.head.id, epoch: next.epoch(), points });
    }

    /// The places whose points are out while the head still names them.
    fn leaving(&self) -> impl Iterator<Item = (&Place, &Out)> {
        let leaving = self.places.values().filter(|place| !self.head.was_removed(place.number));
        leaving.filter_map(|place| Some((place, place.out.as_ref()?)))
    }

    /// The key of the next epoch is made, or could not be.
    pub(super) fn keyed(
        &mut self,
        context: Context<'_>,
        epoch: Epoch,
        result: Result<(Hash, Wraps), String>,
        out: &mut VecDeque<Output>,
    ) {
        let Renewal::Keying { removed } = &self.renewal else { return };
        let lead = u64::try_from(LEAD.as_micros()).unwrap_or(u64::MAX);
        let from_us = self.time(context).saturating_add(lead);
        match result {
            Ok((commitment, wraps)) => match self.head.next(commitment, from_us, removed.clone()) {
                Ok(head) if head.epoch() == epoch => {
                    out.push_back(Output::Renew { head: head.clone(), wraps: wraps.clone() });
                    self.renewal = Renewal::Writing { head: Box::new(head), wraps };
                }
                // A key for another epoch than the one that was asked for is of no use.
                Ok(_) => {}
                Err(error) => self.give_up(&Refusal::Epochs(error), out),
            },
            Err(reason) => self.failed(context, reason, out),
        }
    }

    /// The head with its new epoch is written, or could not be.
    pub(super) fn renewed(
        &mut self,
        context: Context<'_>,
        epoch: Epoch,
        result: Result<(), String>,
        out: &mut VecDeque<Output>,
    ) {
        if !matches!(&self.renewal, Renewal::Writing { head, .. } if head.epoch() == epoch) {
            return;
        }
        if let Err(reason) = result {
            return self.failed(context, reason, out);
        }
        let Renewal::Writing { head, wraps } = std::mem::replace(&mut self.renewal, Renewal::Idle) else { return };
        let before = self.head.epoch();
        self.head = *head;
        self.wraps.insert(epoch, wraps);
        self.tell_epochs(context, before, out);
        out.push_back(Output::Open { head: self.head.clone() });
        self.answer(|place, head| head.was_removed(place.number), &Ok(self.head.id), out);
        self.renew(context, out);
    }

    /// Writes into the journal which points left with the epochs after `told`, and that these began.
    pub(super) fn tell_epochs(&mut self, context: Context<'_>, told: Epoch, out: &mut VecDeque<Output>) {
        for period in self.head.epochs.iter().filter(|period| period.epoch > told) {
            for &point in &period.removed {
                let place = self.places.values().find(|place| place.number == point);
                let reason = place.and_then(|place| Some(place.out.as_ref()?.reason)).unwrap_or(RemovedReason::Chair);
                self.journal(context, Event::Removed { point, reason }, out);
            }
            let (epoch, commitment, from_us) = (period.epoch, period.commitment, period.from_us);
            self.journal(context, Event::Epoch { epoch, commitment, from_us }, out);
        }
    }

    /// The wraps a point is given: its own of every epoch, and the recovery key's. `None` for a point that none was made
    /// for.
    pub(super) fn wraps_for(&self, node: &NodeId) -> Option<BTreeMap<Epoch, Wraps>> {
        let its = |to: &NodeId| to == node || self.head.number(to).is_none();
        let of = |wraps: &Wraps| wraps.iter().filter(|(to, _)| its(to)).map(|(to, wrap)| (*to, *wrap)).collect();
        let complete = self.wraps.values().all(|wraps| wraps.contains_key(node));
        complete.then(|| self.wraps.iter().map(|(&epoch, wraps)| (epoch, of(wraps))).collect())
    }

    /// Tries again what failed, when it is time.
    pub(super) fn try_again(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        if self.renewal.deadline().is_some_and(|at| at <= context.now) {
            self.renewal = Renewal::Idle;
            self.renew(context, out);
        }
    }

    fn failed(&mut self, context: Context<'_>, reason: String, out: &mut VecDeque<Output>) {
        tracing::error!(session = %self.head.id, reason, "the session's next key is not there yet; it is tried again");
        self.renewal = Renewal::Failed { again: context.now + ASK_AGAIN };
        self.answer(|place, head| !head.was_removed(place.number), &Err(Refusal::Storage(reason)), out);
    }

    /// There is no next epoch. The points that are out stay cut off.
    fn give_up(&mut self, refusal: &Refusal, out: &mut VecDeque<Output>) {
        tracing::error!(session = %self.head.id, %refusal, "a point is out and the key stays as it is");
        self.renewal = Renewal::Idle;
        self.answer(|place, head| !head.was_removed(place.number), &Err(refusal.clone()), out);
    }

    /// The session ends before its next epoch began: nobody used its key, so only who is out is told.
    pub(super) fn abandon_renewal(&mut self, context: Context<'_>, out: &mut VecDeque<Output>) {
        self.renewal = Renewal::Idle;
        let leaving: Vec<_> = self.leaving().map(|(place, gone)| (place.number, gone.reason)).collect();
        for (point, reason) in leaving {
            self.journal(context, Event::Removed { point, reason }, out);
        }
        self.answer(|_, _| true, &Ok(self.head.id), out);
    }

    /// Answers the operators who wait for the removal of such points.
    fn answer(
        &mut self,
        whose: impl Fn(&Place, &Head) -> bool,
        outcome: &Result<store::id::SessionId, Refusal>,
        out: &mut VecDeque<Output>,
    ) {
        for place in self.places.values_mut() {
            if place.out.is_some()
                && whose(place, &self.head)
                && let Some(ticket) = place.out.as_mut().and_then(|gone| gone.ticket.take())
            {
                out.push_back(Output::Tell { ticket, outcome: outcome.clone() });
            }
        }
    }
}
