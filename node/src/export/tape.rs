//! One track read from the archive, group by group, opened. Groups that cannot be shown are passed over and
//! remembered; only an archive that fails altogether is an error.

use std::ops::RangeInclusive;

use codec::frame::Frame;
use codec::time::MediaTime;
use store::archive::{self, Archive};
use store::id::{GroupId, NodeId, SessionId, TrackId, TrackKind};
use store::record::Record;
use store::seal::{self, Opener};

use super::LENGTH_MAX;
use super::holding::{Holding, Missing, Reason};

/// Groups looked at from a track's end to find where it ends: a few damaged ones do not matter.
const LAST_MAX: usize = 8;

/// One opened group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) seq: u64,
    /// Its start in session time.
    pub(super) t0: MediaTime,
    pub(super) frames: Vec<Frame>,
}

/// The groups of a track that are here, rising.
pub(super) struct Tape<'a> {
    archive: &'a Archive,
    opener: &'a Opener,
    node: NodeId,
    session: SessionId,
    track: TrackId,
    runs: Vec<RangeInclusive<u64>>,
    /// The run being read, and the next number in it.
    run: usize,
    seq: u64,
    left_out: Vec<Missing>,
}

impl<'a> Tape<'a> {
    /// The track `holding`, made by `node`.
    pub(super) fn new(archive: &'a Archive, opener: &'a Opener, node: NodeId, holding: &Holding) -> Self {
        Self {
            archive,
            opener,
            node,
            session: holding.session,
            track: holding.track,
            runs: holding.runs.clone(),
            run: 0,
            seq: 0,
            left_out: Vec::new(),
        }
    }

    /// The next group that can be shown.
    pub(super) fn next(&mut self) -> Result<Option<Group>, archive::Error> {
        while let Some(run) = self.runs.get(self.run) {
            let seq = self.seq.max(*run.start());
            if seq >= *run.end() {
                self.run += 1;
            }
            self.seq = seq + 1;
            match self.open(seq)? {
                Ok(group) => return Ok(Some(group)),
                Err(reason) => self.remember(seq, reason),
            }
        }
        Ok(None)
    }

    /// Session time of the end of the track, or about that when its last groups are damaged.
    pub(super) fn end(&self) -> Result<MediaTime, archive::Error> {
        for seq in self.runs.iter().rev().flat_map(|run| run.clone().rev()).take(LAST_MAX) {
            if let Ok(group) = self.open(seq)? {
                return Ok(group.frames.last().map_or(group.t0, |frame| frame.at));
            }
        }
        Ok(MediaTime::ZERO)
    }

    /// Counts a group that was given among those that could not be shown.
    pub(super) fn leave_out(&mut self, seq: u64, why: &'static str) {
        self.remember(seq, Reason::Damaged(why));
    }

    /// What could not be shown.
    pub(super) fn into_left_out(self) -> Vec<Missing> {
        self.left_out
    }

    /// Neighbours with one reason are one entry, so a spoilt disk does not fill the memory.
    fn remember(&mut self, seq: u64, reason: Reason) {
        match self.left_out.last_mut() {
            Some(last) if last.to + 1 == seq && last.reason == reason => last.to = seq,
            _ => self.left_out.push(Missing { track: self.track, from: seq, to: seq, reason }),
        }
    }

    fn open(&self, seq: u64) -> Result<Result<Group, Reason>, archive::Error> {
        let id = GroupId { session: self.session, track: self.track, seq };
        match self.archive.get(&id) {
            Ok(record) => Ok(self.show(&record)),
            // The inventory has it, so it was here.
            Err(archive::Error::Damaged(_) | archive::Error::Missing(_)) => {
                Ok(Err(Reason::Damaged("its bytes are not those that were stored")))
            }
            Err(error) => Err(error),
        }
    }

    fn show(&self, record: &Record) -> Result<Group, Reason> {
        let header = record.header();
        if header.point != self.node {
            return Err(Reason::Damaged("another point made it"));
        }
        let t0 = MediaTime::from_micros(header.t0);
        if t0.since_zero() > LENGTH_MAX {
            return Err(Reason::Damaged("its time is days after the session's start"));
        }
        let opener = self.opener.group(header).map_err(|error| match error {
            seal::Error::Key { epoch, .. } => Reason::Sealed(epoch),
            seal::Error::Session(_) | seal::Error::Frame { .. } => Reason::Damaged("it is of another session"),
        })?;
        let mut frames = Vec::with_capacity(record.frame_count() as usize);
        for sealed in record.frames() {
            let data = opener.open(&sealed).map_err(|_| Reason::Damaged("a frame is not what its point sealed"))?;
            let at = MediaTime::from_micros(header.t0.saturating_add(sealed.dt));
            frames.push(Frame { at, keyframe: sealed.flags.key, discardable: sealed.flags.discardable, data });
        }
        if self.track.kind() != TrackKind::Audio && frames.first().is_some_and(|frame| !frame.keyframe) {
            return Err(Reason::Damaged("it does not begin with a keyframe"));
        }
        Ok(Group { seq: header.seq, t0, frames })
    }
}
