//! A session with everything that proves it, as a folder: written without opening a group, and looked at without a node.
//!
//! Whoever is to check a recording years from now has neither our database nor perhaps our program. So the folder holds
//! plain files: the signed records one after the other as they were signed, each group as the bytes its point sealed. Its
//! layout is in `node/TRUST.md`. Nothing in it is made for the export: what was signed in the session is what is
//! checked. It is ciphertext; who may hear it still needs a key.
//!
//! The folder appears under its name at once, whole and on the disk. Until then it lies beside it under a hidden name.

mod read;
mod stored;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use store::archive;
use store::id::{SessionId, TrackId};

use crate::control::Fault;

pub use self::read::Folder;
pub use self::stored::Stored;
pub use self::write::{Written, write};

/// The file that says what the folder is, and its content.
const MARK: (&str, &str) = ("diemcau.txt", "diemcau sealed recording 1\n");
/// The session's head, as nodes store it.
const HEAD: &str = "head.cbor";
/// What the exporting node knew of the mesh.
const ROSTER: &str = "roster.cose";
/// The journal's entries, each behind its length in four bytes.
const JOURNAL: &str = "journal.cose";
/// The manifests, each behind its length.
const MANIFESTS: &str = "manifest.cose";
/// The points' countersignatures of them, likewise.
const COUNTERSIGNED: &str = "countersigned.cose";
/// The wrapped keys: a version byte, then a list of (epoch, recipient, wrap).
const WRAPS: &str = "wraps.cbor";
/// A file a point: its segments, each behind its length.
const SEGMENTS: &str = "segments";
/// How their names end.
const SEGMENTS_END: &str = ".cose";
/// A folder a track, a file a group.
const GROUPS: &str = "groups";
/// How their names end.
const GROUP_END: &str = ".group";

/// Version of [`WRAPS`].
const WRAPS_VERSION: u8 = 1;

/// Why a folder was not written or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No head of it.
    #[error("there is no session {0} here: `diemcau archive list` shows those that are")]
    Missing(SessionId),
    /// Something else lies there.
    #[error("{0} exists and is not empty: name a folder that does not exist yet")]
    Exists(PathBuf),
    /// No folder of this kind.
    #[error("{0} is no sealed recording: it has no file {mark} that says so", mark = MARK.0)]
    NoRecording(PathBuf),
    /// Written by a later version.
    #[error("{0} is a sealed recording of another version; this program reads version 1: use a newer program")]
    Version(PathBuf),
    /// The archive cannot tell.
    #[error("the archive cannot be read")]
    Archive(#[from] archive::Error),
    /// A file could not be read or written.
    #[error("{path}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Of what kind this is to whoever asked.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Missing(_) | Error::NoRecording(_) | Error::Archive(archive::Error::Absent(_)) => Fault::Missing,
            Error::Exists(_) | Error::Version(_) => Fault::Refused,
            Error::Archive(
                archive::Error::Damaged(_) | archive::Error::Unreadable(_) | archive::Error::Broken { .. },
            ) => Fault::Damaged,
            Error::Archive(_) | Error::Disk { .. } => Fault::Failed,
        }
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

/// Name of a group's file in the folder of its track. Padded, so that a listing is in order.
fn group_name(seq: u64) -> String {
    format!("{seq:010}{GROUP_END}")
}

fn group_path(dir: &Path, track: TrackId, seq: u64) -> PathBuf {
    dir.join(GROUPS).join(track.to_string()).join(group_name(seq))
}

/// Name of the file of a point's segments.
fn segments_name(point: u16) -> String {
    format!("{point}{SEGMENTS_END}")
}

#[cfg(test)]
mod tests;
