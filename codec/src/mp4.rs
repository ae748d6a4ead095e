//! Groups to playable files and back.
//!
//! Writing re-encodes nothing: H.264 and Opus go into the file as they were captured, sealed and stored, with the times
//! they were captured at, so that an export is the record and not a copy of it. Both writers therefore have a time for
//! every frame and leave holes as holes: the last picture stands, sound is silent. Reading is for files from anywhere
//! and trusts nothing in them.
//!
//! Only the boxes themselves are made and parsed by the library.

mod read;
mod write;

use std::io;

pub use self::read::{Reader, Sample, Sound, Track, Video};
pub use self::write::{Fragmenter, Writer};

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("the disk refused")]
    Disk(#[source] io::Error),
    /// Nothing was given to write.
    #[error("there is neither picture nor sound to write")]
    Empty,
    /// The first picture of a track lacks what a player needs to begin.
    #[error("the first picture is no keyframe with parameter sets: begin at the start of a group")]
    Keyframe,
    /// Pictures of another size or profile than a fragmented file began with. Begin a new one.
    #[error("the pictures changed their size or profile: begin a new file")]
    Changed,
    /// The boxes cannot be made, or the file's cannot be understood.
    #[error("{0}")]
    Boxes(String),
    /// It is no MP4 at all.
    #[error("it is no MP4: {0}")]
    Foreign(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The disk is well; the file ends before it should.
            io::ErrorKind::UnexpectedEof => Self::Boxes("it is cut off".into()),
            _ => Self::Disk(error),
        }
    }
}

impl From<mp4_atom::Error> for Error {
    fn from(error: mp4_atom::Error) -> Self {
        match error {
            mp4_atom::Error::Io(error) => error.into(),
            mp4_atom::Error::UnexpectedEof => Self::Boxes("it is cut off".into()),
            error => Self::Boxes(format!("its boxes do not make sense ({error})")),
        }
    }
}
