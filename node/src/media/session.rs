//! What the media plane knows of a session, and the one place that says who may do what in it.

use std::collections::{BTreeMap, VecDeque};

use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::record::Header;

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
        Self { id, points, central, offers, desires, arriving }
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

    /// Replaces what `node` offers; what it may not offer is left out.
    pub(super) fn offer(&mut self, node: NodeId, tracks: Vec<TrackId>) {
        self.offers.retain(|_, by| *by != node);
        for track in tracks.into_iter().take(TRACKS_MAX) {
            if self.admits_offer(node, track) {
                self.offers.insert(track, node);
            }
        }
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
        self.number(node)?;
        if me != self.central && node != self.central {
            return None;
        }
        let given = self.offers.iter().filter(|(track, by)| {
            **by != node && self.node(**track) != Some(node) && (me == self.central || **by == me)
        });
        Some(given.map(|(track, _)| *track).collect())
    }

    fn number(&self, node: NodeId) -> Option<PointNumber> {
        self.points.iter().find(|(_, point)| **point == node).map(|(number, _)| *number)
    }

    /// May `node` offer this track? Its own, or anyone's if it is central.
    pub(super) fn admits_offer(&self, node: NodeId, track: TrackId) -> bool {
        self.node(track).is_some_and(|origin| origin == node || node == self.central)
    }

    /// May `node` have this track? Every point of the session may have every other's.
    pub(super) fn admits_subscriber(&self, node: NodeId, track: TrackId) -> bool {
        self.number(node).is_some() && self.node(track).is_some_and(|origin| origin != node)
    }

    /// May `node` fetch stored groups of this session? Every point of it may.
    pub(super) fn admits_fetch(&self, node: NodeId) -> bool {
        self.number(node).is_some()
    }

    /// May this group come from `node`? The sentence says why not. Nobody speaks for another, save central, which
    /// passes on what it was given.
    pub(super) fn admits_group(&mut self, me: NodeId, node: NodeId, header: &Header) -> Result<(), Inadmissible> {
        let origin = self.node(header.track);
        if origin != Some(header.point) {
            return Err(Inadmissible::Forged("a group of a point that is not this track's"));
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
