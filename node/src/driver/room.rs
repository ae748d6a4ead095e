//! What the room's page is shown all the time, and what its watching means for the lines: a layer is taken live while
//! somebody watches it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use codec::capture::Spec;
use store::id::{PointNumber, SessionId, TrackId, TrackKind};

use super::{Driver, unix_ms};
use crate::browser::Wish;
use crate::config;
use crate::control::Disk;
use crate::control::room::{Live, LivePoint, Node, Point, Source, Space, State};
use crate::engine::session::{PRIORITY_MAIN, PRIORITY_THUMB, Running, Seat};

/// Since when each point of the running session is there, or is not.
#[derive(Debug, Default)]
pub(super) struct Presence {
    session: Option<SessionId>,
    since: BTreeMap<PointNumber, (bool, u64)>,
}

impl Presence {
    /// Since when a point is in the state it is in now, Unix milliseconds.
    fn note(&mut self, session: SessionId, point: PointNumber, connected: bool, now_ms: u64) -> u64 {
        if self.session != Some(session) {
            *self = Presence { session: Some(session), since: BTreeMap::new() };
        }
        let known = self.since.entry(point).or_insert((connected, now_ms));
        if known.0 != connected {
            *known = (connected, now_ms);
        }
        known.1
    }
}

impl Driver {
    /// The room as it is now.
    pub(super) fn room(&mut self) -> State {
        let now_ms = unix_ms();
        let running = self.engine.view(Instant::now()).session;
        let offset = running.as_ref().and_then(|running| {
            let (node, offset) = self.offset?;
            (running.central == node).then_some(offset as f64 / 1_000.0)
        });
        let session = running.map(|running| self.live(running, now_ms));
        let own = session.as_ref().and_then(|live| live.points.iter().find(|point| point.me));
        let publishing = own.is_some_and(|own| own.audio || own.video);
        let peers = self.mesh.peers();
        let points = self.roster.points().iter().map(|point| {
            let me = point.node == self.me;
            let peer = peers.get(&point.node);
            let last_seen = peer.and_then(|peer| peer.last_seen).map(super::answer::ms_of);
            Point {
                name: point.name.clone(),
                level: point.level.clone(),
                online: me || peer.is_some_and(|peer| peer.up),
                last_seen_ms: if me { Some(now_ms) } else { last_seen },
            }
        });
        let disk = Disk::of(&self.config.archive(), 0, 0).ok();
        State {
            node: Node { name: self.name(self.me), version: env!("CARGO_PKG_VERSION").to_owned() },
            now_ms,
            points: points.collect(),
            session,
            disk: disk.map(|disk| Space { free: disk.free, total: disk.total }),
            clock_offset_ms: offset,
            source: match &self.config.room.source {
                config::Source::Browser => Source::Browser,
                config::Source::Own(Spec::Pattern) => Source::Pattern,
                config::Source::Own(Spec::File(_)) => Source::File,
            },
            publishing,
            lacks: self.source_lacks(),
        }
    }

    fn live(&mut self, running: Running, now_ms: u64) -> Live {
        let me = running.points.iter().find(|seat| seat.node == self.me).map(|seat| seat.number.get());
        let mut missing: BTreeMap<PointNumber, u64> = BTreeMap::new();
        for (track, standing) in &running.record {
            *missing.entry(track.point()).or_default() += standing.missing;
        }
        // Who was removed has no place on the screen any more; the journal tells of it.
        let seats = running.points.iter().filter(|seat| !seat.removed);
        let points = seats.map(|Seat { number, node, name, joined, .. }| {
            let (audio, video) = self.stage.recent(*number);
            // A delegate is told of itself and central only; of the others it sees what comes.
            let told = running.central == self.me || [self.me, running.central].contains(node);
            let connected = *node == self.me || if told { *joined } else { audio || video };
            LivePoint {
                number: number.get(),
                name: name.clone(),
                level: self.roster.point(node).map(|point| point.level.clone()).unwrap_or_default(),
                central: *node == running.central,
                me: *node == self.me,
                connected,
                since_ms: self.presence.note(running.id, *number, connected, now_ms),
                audio,
                video,
                missing: missing.get(number).copied().unwrap_or_default(),
            }
        });
        let points = points.collect();
        Live {
            id: running.id.to_string(),
            started_ms: running.id.unix_ms(),
            session_ms: running.time_us.map(|us| us / 1_000),
            central: running.central == self.me,
            me,
            // A node that takes part records what it makes, and central what all make, from its beginning to its end.
            recording: me.is_some(),
            title: running.title,
            points,
        }
    }

    /// What is watched here has changed.
    pub(super) fn rewatch(&mut self) {
        let wanted = self.watched.borrow_and_update().clone();
        let Some(session) = self.stage.session() else {
            self.studio.page_wants_thumb(false);
            self.watching.clear();
            return;
        };
        let before = std::mem::replace(&mut self.watching, wanted.clone());
        let own = self.own_number(session);
        for &track in before.symmetric_difference(&wanted) {
            let now = wanted.contains(&track);
            match track.kind() {
                TrackKind::Thumb if Some(track.point()) == own => self.studio.page_wants_thumb(now),
                TrackKind::Thumb => self.want(session, track, now.then_some(PRIORITY_THUMB)),
                TrackKind::Main if !self.takes_all() => self.want(session, track, now.then_some(PRIORITY_MAIN)),
                TrackKind::Main | TrackKind::Audio | TrackKind::Screen => {}
            }
        }
    }

    /// The tracks of a neighbour to take live, of those the engine would: a delegate whose room sees nothing of a picture
    /// spares its line.
    pub(super) fn worth_taking(&self, tracks: Vec<(TrackId, u8)>) -> Vec<(TrackId, u8)> {
        let all = self.takes_all();
        let wanted = |track: &TrackId| all || track.kind() != TrackKind::Main || self.watching.contains(track);
        let mut taken: Vec<_> = tracks.into_iter().filter(|(track, _)| wanted(track)).collect();
        let points: BTreeSet<_> = taken.iter().map(|(track, _)| track.point()).collect();
        let thumbs = self.watching.iter().filter(|track| track.kind() == TrackKind::Thumb);
        taken.extend(thumbs.filter(|track| points.contains(&track.point())).map(|&track| (track, PRIORITY_THUMB)));
        taken
    }

    /// Central keeps everything, and a node that decodes by itself looks at everything.
    fn takes_all(&self) -> bool {
        let session = self.engine.view(Instant::now()).session;
        self.config.room.watch || session.is_none_or(|session| session.central == self.me)
    }

    fn want(&self, session: SessionId, track: TrackId, priority: Option<u8>) {
        match priority {
            Some(priority) => self.media.subscribe(session, track, priority),
            None => self.media.unsubscribe(session, track),
        }
    }

    /// A browser that watches needs a keyframe.
    pub(super) fn wished(&mut self, Wish { session, track }: Wish) {
        if self.own_number(session) == Some(track.point()) {
            self.studio.keyframe(session, track);
        } else {
            self.media.request_keyframe(session, track);
        }
    }

    fn own_number(&self, session: SessionId) -> Option<PointNumber> {
        let running = self.engine.view(Instant::now()).session.filter(|running| running.id == session)?;
        running.points.iter().find(|seat| seat.node == self.me).map(|seat| seat.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_there_or_lost_since_it_changed() {
        let mut presence = Presence::default();
        let (one, two) = (SessionId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        let point = PointNumber::new(3).expect("a small number");
        for (session, connected, now, since) in [
            (one, true, 10, 10),
            (one, true, 20, 10),
            (one, false, 30, 30),
            (one, false, 40, 30),
            (one, true, 50, 50),
            (two, true, 60, 60),
        ] {
            assert_eq!(presence.note(session, point, connected, now), since, "at {now}");
        }
    }
}
