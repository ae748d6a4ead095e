//! What should have been shown, counted from the record.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use store::archive::Archive;
use store::id::{PointNumber, SessionId, TrackId, TrackKind};
use store::journal::{Entry, Event};
use store::signed::Signed;

/// Frames of a point that another should have seen and heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pictures: u64,
    pub(super) sounds: u64,
}

/// The records of one session at all its points, as far as counting needs them: a group that only its origin has was
/// made all the same.
#[derive(Default)]
pub(super) struct Account {
    /// Start (µs of session time) and frames of every group.
    groups: BTreeMap<TrackId, BTreeMap<u64, u64>>,
    /// When each point joined first. Central is there from the start.
    joined: BTreeMap<PointNumber, u64>,
}

impl Account {
    /// Adds what one point's archive holds.
    pub(super) fn add(&mut self, archive: &Path, session: &str) -> Result<()> {
        let archive = Archive::open_read_only(archive)?;
        let session: SessionId = session.parse().context("a session's id as the node prints it")?;
        for track in archive.tracks(&session)? {
            let outlines = archive.outlines(&session, track, 0..u64::MAX, usize::MAX)?;
            let groups = self.groups.entry(track).or_default();
            groups.extend(outlines.iter().map(|group| (group.t0, u64::from(group.frames))));
        }
        for entry in archive.journal(&session, 0)? {
            let entry: Signed<Entry> = Signed::parse(entry)?;
            if let Event::Joined { point } = entry.content().event {
                self.joined.entry(point).or_insert(entry.content().at_us);
            }
        }
        Ok(())
    }

    /// What `viewer` should have been shown of `shown`: every frame of the groups that were open when it joined, or
    /// began later.
    pub(super) fn expected(&self, viewer: PointNumber, shown: PointNumber) -> Expected {
        let since = self.joined.get(&viewer).copied().unwrap_or(0);
        let count = |kind| {
            let Some(groups) = self.groups.get(&TrackId::new(shown, kind)) else { return 0 };
            // A group is open until the next one begins.
            let open = groups.range(..=since).next_back().map_or(since, |(t0, _)| *t0);
            groups.range(open..).map(|(_, frames)| frames).sum()
        };
        Expected { pictures: count(TrackKind::Main), sounds: count(TrackKind::Audio) }
    }
}
