//! What the media plane knows of a session: who is in it, and what follows from that. Every `admits_*` asks
//! `engine::rights` first; what is decided here is only what goes where.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::record::Header;

use crate::engine::rights::{Deed, Denied, Members, Part, Tracks, Who, may};
use crate::wire::media::TRACKS_MAX;

/// Groups of one track that may arrive at once: the open one, and old ones that are late.
const ARRIVING_MAX: usize = 4;
/// Group numbers remembered of a track, to know a repetition from a late group.
const SEEN_MAX: usize = 16;

/// A session as the media plane sees it.
#[derive(Debug)]
pub struct Session {
    pub(super) id: SessionId,
    points: BTreeMap<PointNumber, NodeId>,
    /// Points that take no part any more. Their tracks are still theirs.
    removed: BTreeSet<PointNumber>,
    central: NodeId,
    /// Tracks that can be had, and from whom.
    offers: BTreeMap<TrackId, NodeId>,
    /// Tracks of others that are wanted here.
    pub(super) desires: BTreeMap<TrackId, Desire>,
    arriving: BTreeMap<TrackId, Arriving>,
}

/// Who wants a track here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Desire {
    pub(super) by_driver: Option<u8>,
    pub(super) by_neighbours: bool,
}

#[derive(Debug, Default)]
struct Arriving {
    open: usize,
    seen: VecDeque<u64>,
}

impl Desire {
    /// The priority to ask for, if any.
    pub(super) fn priority(&self) -> Option<u8> {
        /// A layer that neighbours want in place of the whole picture.
        const RELAYED: u8 = 5;
        self.by_driver.or(self.by_neighbours.then_some(RELAYED))
    }
}

impl Session {
    /// A session of these points by number, one of which is central.
    pub fn new(id: SessionId, points: BTreeMap<PointNumber, NodeId>, central: NodeId) -> Self {
        let (offers, desires, arriving) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { id, points, removed: BTreeSet::new(), central, offers, desires, arriving }
    }

    /// The same session in which these points take no part any more.
    pub fn without(self, removed: BTreeSet<PointNumber>) -> Self {
        Self { removed, ..self }
    }

    /// These points take no part any more, and what they offer is gone.
    pub(super) fn remove(&mut self, removed: impl IntoIterator<Item = PointNumber>) {
        self.removed.extend(removed);
        self.offers.retain(|track, _| !self.removed.contains(&track.point()));
    }

    /// The points that were removed.
    pub(super) fn removed(&self) -> BTreeSet<PointNumber> {
        self.removed.clone()
    }

    /// What a node is in this session.
    fn part(&self, node: NodeId) -> Part {
        match self.number(node) {
            Some(_) if node == self.central => Part::Central,
            Some(number) if self.removed.contains(&number) => Part::Removed,
            Some(_) => Part::Point,
            None => Part::Outside,
        }
    }

    /// Whether this is a track of a point that takes part.
    fn is_live(&self, track: TrackId) -> bool {
        self.points.contains_key(&track.point()) && !self.removed.contains(&track.point())
    }

    /// The point a track is of.
    pub(super) fn node(&self, track: TrackId) -> Option<NodeId> {
        self.points.get(&track.point()).copied()
    }

    /// The neighbour a track of another point comes from: its origin at central, central elsewhere.
    pub(super) fn source(&self, me: NodeId, track: TrackId) -> Option<NodeId> {
        let origin = self.node(track).filter(|origin| *origin != me)?;
        Some(if me == self.central { origin } else { self.central })
    }

    /// Replaces what we offer.
    pub(super) fn offer_own(&mut self, me: NodeId, tracks: Vec<TrackId>) {
        self.offers.retain(|_, by| *by != me);
        let own = tracks.into_iter().filter(|track| self.points.get(&track.point()) == Some(&me));
        self.offers.extend(own.map(|track| (track, me)));
    }

    /// Replaces what `node` offers. What does not come from it by the session's order is left out; what it may not offer
    /// at all is an error.
    pub(super) fn offer(
        &mut self,
        members: &Members,
        me: NodeId,
        node: NodeId,
        tracks: Vec<TrackId>,
    ) -> Result<(), Denied> {
        self.offers.retain(|_, by| *by != node);
        for track in tracks.into_iter().take(TRACKS_MAX) {
            self.admits_sender(members, node, track)?;
            if self.is_live(track) && self.source(me, track) == Some(node) {
                self.offers.insert(track, node);
            }
        }
        Ok(())
    }

    /// `node` is gone, and with it what it offered; true when that changes anything.
    pub(super) fn withdraw(&mut self, node: NodeId) -> bool {
        let before = self.offers.len();
        self.offers.retain(|_, by| *by != node);
        self.offers.len() != before
    }

    /// What `node` offers.
    pub(super) fn offered(&self, node: NodeId) -> Vec<TrackId> {
        self.offers.iter().filter(|(_, by)| **by == node).map(|(track, _)| *track).collect()
    }

    /// What is wanted here of what `node` offers.
    pub(super) fn to_subscribe(&self, me: NodeId, node: NodeId) -> Vec<(TrackId, u8)> {
        let from_here = self.desires.iter().filter(|(track, _)| self.offered_by(node, **track));
        let sourced = from_here.filter(|(track, _)| self.source(me, **track) == Some(node));
        sourced.filter_map(|(track, desire)| Some((*track, desire.priority()?))).collect()
    }

    pub(super) fn is_central(&self, node: NodeId) -> bool {
        self.central == node
    }

    pub(super) fn offered_by(&self, node: NodeId, track: TrackId) -> bool {
        self.offers.get(&track) == Some(&node)
    }

    /// What `me` can give `node`: all at central, its own elsewhere. `None` for those who are not in the session, or
    /// not in touch with `me` in it.
    pub(super) fn offers_to(&self, me: NodeId, node: NodeId) -> Option<Vec<TrackId>> {
        match self.part(node) {
            Part::Central | Part::Point => {}
            Part::Removed | Part::Outside | Part::Unknown => return None,
        }
        if me != self.central && node != self.central {
            return None;
        }
        let given = self.offers.iter().filter(|(track, by)| {
            **by != node && self.node(**track) != Some(node) && (me == self.central || **by == me)
        });
        Some(given.map(|(track, _)| *track).collect())
    }

    /// The number of a node, whether it still takes part or not.
    pub(super) fn number(&self, node: NodeId) -> Option<PointNumber> {
        self.points.iter().find(|(_, point)| **point == node).map(|(number, _)| *number)
    }

    /// May `node` offer and send this track?
    fn admits_sender(&self, members: &Members, node: NodeId, track: TrackId) -> Result<(), Denied> {
        let whose = if self.node(track) == Some(node) { Tracks::Own } else { Tracks::Anothers };
        may(members, &Who::Node(node), Deed::Send(self.part(node), whose))
    }

    /// May `node` have tracks live?
    pub(super) fn admits_subscriber(&self, members: &Members, node: NodeId) -> Result<(), Denied> {
        may(members, &Who::Node(node), Deed::Receive(self.part(node)))
    }

    /// May `node` fetch stored groups of this session?
    pub(super) fn admits_fetch(&self, members: &Members, node: NodeId) -> Result<(), Denied> {
        may(members, &Who::Node(node), Deed::Fetch { part: self.part(node), assigned: false })
    }

    /// Whether there is such a track and `node` has no better one: its own.
    pub(super) fn is_anothers(&self, node: NodeId, track: TrackId) -> bool {
        self.is_live(track) && self.node(track) != Some(node)
    }

    /// May this group come from `node`? The sentence says why not. Nobody speaks for another, save those who pass on what
    /// they were given, and they come from where the session's order says.
    pub(super) fn admits_group(
        &mut self,
        members: &Members,
        me: NodeId,
        node: NodeId,
        header: &Header,
    ) -> Result<(), Inadmissible> {
        self.admits_sender(members, node, header.track).map_err(|denied| match denied.is_forgery() {
            true => Inadmissible::Forged("a group from a neighbour that may not send this track"),
            // It was removed, or the roster changed, while the group was on its way.
            false => Inadmissible::Unwanted,
        })?;
        let origin = self.node(header.track);
        if origin != Some(header.point) {
            return Err(Inadmissible::Forged("a group of a point that is not this track's"));
        }
        if !self.is_live(header.track) {
            return Err(Inadmissible::Unwanted);
        }
        if self.source(me, header.track) != Some(node) {
            return Err(Inadmissible::Forged("a group from a neighbour that may not send this track"));
        }
        // Who wants a camera may be sent its low layer in its place.
        let camera = TrackId::new(header.track.point(), TrackKind::Main);
        let wanted = |track| self.desires.get(&track).and_then(Desire::priority).is_some();
        let instead = header.track.kind() == TrackKind::Thumb && wanted(camera);
        if !wanted(header.track) && !instead {
            return Err(Inadmissible::Unwanted);
        }
        let arriving = self.arriving.entry(header.track).or_default();
        let newest = arriving.seen.iter().max().copied();
        let too_old = newest.is_some_and(|newest| header.seq + (SEEN_MAX as u64) < newest);
        if too_old || arriving.seen.contains(&header.seq) || arriving.open >= ARRIVING_MAX {
            return Err(Inadmissible::Unwanted);
        }
        arriving.open += 1;
        arriving.seen.push_back(header.seq);
        if arriving.seen.len() > SEEN_MAX {
            arriving.seen.pop_front();
        }
        Ok(())
    }

    /// A group that was admitted is over; one that broke off may come again.
    pub(super) fn group_over(&mut self, header: &Header, whole: bool) {
        if let Some(arriving) = self.arriving.get_mut(&header.track) {
            arriving.open = arriving.open.saturating_sub(1);
            if !whole {
                arriving.seen.retain(|seq| *seq != header.seq);
            }
        }
    }
}

/// Why a group is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inadmissible {
    /// Not asked for, had already, or too many at once: no fault that must be punished.
    Unwanted,
    /// The sender pretends; the connection ends.
    Forged(&'static str),
}
