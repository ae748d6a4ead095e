//! What is known of reading the archive again: for the running node's answers, and of a stopped node's folder.

use serde::{Deserialize, Serialize};
use store::archive::{self, Archive};
use store::inventory::Have;

use super::session::Error;

/// How far the archive was read again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubs {
    /// Every session that is over, oldest first.
    pub sessions: Vec<Scrubbed>,
    /// Id of the session that is being read.
    pub reading: Option<String>,
    /// Whether reading waits for a session that runs at this point.
    pub paused: bool,
    /// How many of the sessions that somebody asked for are still to be read, or to be asked of other points.
    pub asked: u64,
    /// Whether so much damage was found that the disk itself is suspected.
    pub alarm: bool,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Session id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// When it was last read to its end.
    pub checked: Option<u64>,
    /// When it will be read at the latest, if the node runs.
    pub due: Option<u64>,
    /// Groups read in the round under way, else in the last one.
    pub read: u64,
    /// Groups kept.
    pub groups: u64,
    /// Faults found in that round.
    pub faults: u64,
    /// Groups that were kept and are lost from this disk now.
    pub lost: u64,
    /// What was found lately, oldest first.
    pub found: Vec<Finding>,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// When.
    pub at: u64,
    /// What, in a sentence.
    pub what: String,
}

/// Every session of an archive that is over.
pub fn list(archive: &Archive) -> Result<Vec<Scrubbed>, Error> {
    let over = archive.sessions()?.heads.into_iter().filter(|head| head.state == store::session::State::Ended);
    let mut list = Vec::new();
    for head in over {
        let progress = archive.scrub_progress(&head.id)?;
        let (groups, lost) = count(archive, &head.id);
        let found = progress.iter().flat_map(|progress| &progress.found);
        list.push(Scrubbed {
            id: head.id.to_string(),
            title: head.title,
            checked: progress.as_ref().filter(|progress| progress.whole).map(|progress| progress.checked_ms),
            due: None,
            read: progress.as_ref().map_or(0, |progress| progress.read),
            groups,
            faults: progress.as_ref().map_or(0, |progress| progress.faults),
            lost,
            found: found.map(|found| Finding { at: found.wall_ms, what: found.fault.to_string() }).collect(),
        });
    }
    Ok(list)
}

/// Groups here and groups lost. A damaged list counts as none: the damage itself is among what was found.
fn count(archive: &Archive, session: &store::id::SessionId) -> (u64, u64) {
    let here = || -> Result<u64, archive::Error> {
        archive.tracks(session)?.into_iter().try_fold(0, |sum, track| Ok(sum + archive.have(session, track)?.len()))
    };
    let lost = archive.lost(session).unwrap_or_default().values().map(Have::len).sum();
    (here().unwrap_or_default(), lost)
}
