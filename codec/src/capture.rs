//! Where pictures and sound come from.
//!
//! One trait for all, shaped for the hardest: a live device has its own clock, delivers late, vanishes when a cable is
//! pulled and comes back. So a source is asked on its own thread, stamps what it gives with the time it was seen or
//! heard on a clock shared by all sources (microseconds since an epoch given at its opening), and says when one of its
//! kinds appears or vanishes. A file or a pattern is a source that happens never to do so.

mod file;
pub mod pattern;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::picture::Picture;
use crate::samples::Samples;

/// The two kinds of media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pictures.
    Picture,
    /// Sound.
    Sound,
}

/// What a source has to say.
#[derive(Debug, Clone)]
pub enum Event {
    /// A picture; later than any before it.
    Picture(Arc<Picture>),
    /// A run of samples.
    Samples(Samples),
    /// This kind will come from now on. Said before the first of it.
    Appeared(Kind),
    /// This kind stopped, and why; it may appear again.
    Vanished(Kind, String),
    /// Nothing more will come.
    Ended,
}

/// A camera, a microphone, both, or what stands in for them.
pub trait Source: Send {
    /// Waits for what comes next, `patience` at most; `None` when nothing came. Called again and again from one
    /// thread. Each `at` is in microseconds since the epoch the source was opened with.
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, Error>;
}

/// Why there is no source, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text names no kind of source.
    #[error("there is no source \"{0}\": use \"pattern\", or \"file:PATH\" with an MP4, Y4M or WAV file")]
    Spec(String),
    /// The file cannot be read from the disk.
    #[error("{} cannot be read", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// The file is of a kind we do not read, or holds nothing we can play.
    #[error("{} cannot be played: {found}", path.display())]
    Kind {
        /// Which file.
        path: PathBuf,
        /// What was found instead of pictures or sound, and what to do.
        found: String,
    },
    /// The file breaks its own rules.
    #[error("{} is damaged: {found}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
}

/// Which source to open; from text such as `pattern` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// The moving test picture with its clicks.
    Pattern,
    /// A film or sound file, played in a loop.
    File(PathBuf),
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "pattern" => Ok(Self::Pattern),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err(Error::Spec(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern => f.write_str("pattern"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Opens a source. `name` is the point's, shown by the pattern; times count from `epoch`.
pub fn open(spec: &Spec, name: &str, epoch: Instant) -> Result<Box<dyn Source>, Error> {
    match spec {
        Spec::Pattern => Ok(Box::new(pattern::Pattern::new(name, epoch))),
        Spec::File(path) => file::open(path, epoch),
    }
}

/// Opens a source to see whether it can be used; what it will not give, and why, is said here and not only to whoever
/// misses it in a meeting.
pub fn check(spec: &Spec) -> Result<Option<String>, Error> {
    let mut source = open(spec, "", Instant::now())?;
    // What a file lacks it says before anything else. A device that is not there yet may still come.
    loop {
        match source.next(Duration::ZERO)? {
            Some(Event::Appeared(_)) => {}
            Some(Event::Vanished(kind, why)) => return Ok(Some(lack(kind, &why))),
            Some(Event::Picture(_) | Event::Samples(_) | Event::Ended) | None => return Ok(None),
        }
    }
}

/// What a source without this kind does not give, in words.
pub fn lack(kind: Kind, why: &str) -> String {
    match kind {
        Kind::Picture => format!("no picture: {why}"),
        Kind::Sound => format!("no sound: {why}"),
    }
}

/// Sleeps until `due` after `epoch`, or until `patience` is used up. Whether it is time.
fn wait(epoch: Instant, due: Duration, patience: Duration) -> bool {
    let left = due.saturating_sub(epoch.elapsed());
    if left > patience {
        std::thread::sleep(patience);
        return false;
    }
    if !left.is_zero() {
        std::thread::sleep(left);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_text() {
        for text in ["pattern", "file:/a/b.mp4", "file:phim: hội nghị.mp4"] {
            assert_eq!(text.parse::<Spec>().expect("a good name").to_string(), text);
        }
        for text in ["", "Pattern", "file:", "file", "camera:0", "pattern:"] {
            let error = text.parse::<Spec>().expect_err("no such source").to_string();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
    }
}
