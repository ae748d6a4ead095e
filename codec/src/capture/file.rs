//! A film or sound file as a source: played in real time, over and over.
//!
//! It stands in for a camera, so it behaves like one: it is never faster than real time, it never makes a picture
//! larger than it is, and when the machine was suspended it goes on where it was instead of catching up. Each loop
//! begins where the longer of picture and sound ended, so the two never drift apart.
//!
//! The kind is told by the first bytes and not by the name. A file is opened only if its first picture or sound could
//! be decoded, so that what is wrong is said at once; a film whose sound alone is foreign is played without it, and says
//! so.

mod film;
mod wav;
mod y4m;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Error, Event, Kind, Source, wait};
use crate::picture::Picture;
use crate::samples::Samples;
use crate::time::MediaTime;

/// How late something is still given; after that the film was held up, and goes on from there.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Opens a file and decodes the beginning of it.
pub(super) fn open(path: &Path, epoch: Instant) -> Result<Box<dyn Source>, Error> {
    let parts = parts(path).map_err(|fault| fault.at(path))?;
    let mut notices = VecDeque::new();
    let kinds = [(Kind::Picture, parts.pictures.is_some()), (Kind::Sound, parts.sounds.is_some())];
    notices.extend(kinds.into_iter().filter(|(_, there)| *there).map(|(kind, _)| Event::Appeared(kind)));
    notices.extend(parts.without.into_iter().map(|(kind, why)| Event::Vanished(kind, why)));
    let mut file = File {
        path: path.to_owned(),
        epoch,
        notices,
        pictures: parts.pictures,
        sounds: parts.sounds,
        picture: None,
        samples: None,
        base: MediaTime(epoch.elapsed().as_micros() as u64),
        length: Duration::ZERO,
    };
    file.fill().map_err(|fault| fault.at(path))?;
    if file.picture.is_none() && file.samples.is_none() {
        return Err(Fault::Damaged("it holds neither a picture nor sound".into()).at(path));
    }
    Ok(Box::new(file))
}

/// What a file holds.
#[derive(Default)]
struct Parts {
    pictures: Option<Box<dyn Media<Picture>>>,
    sounds: Option<Box<dyn Media<Samples>>>,
    /// What it holds that we cannot decode, and why.
    without: Option<(Kind, String)>,
}

/// One kind of media in a file, on the file's own clock from zero.
trait Media<T>: Send {
    /// The next piece and when it is over; `None` at the end.
    fn next(&mut self) -> Result<Option<(T, MediaTime)>, Fault>;

    /// Back to the beginning.
    fn rewind(&mut self) -> Result<(), Fault>;
}

/// What is wrong with a file, before its name is put to it.
#[derive(Debug)]
enum Fault {
    Disk(io::Error),
    /// Sound, but not for us.
    Foreign(String),
    Damaged(String),
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            // A file that ends too early is a damaged file, not a damaged disk.
            Self::Disk(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Damaged { path, found: "it is cut off".into() }
            }
            Self::Disk(source) => Error::Disk { path, source },
            Self::Foreign(found) => Error::Kind { path, found },
            Self::Damaged(found) => Error::Damaged { path, found },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

fn parts(path: &Path) -> Result<Parts, Fault> {
    let mut file = fs::File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(512).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let mp4 = [&b"ftyp"[..], b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"];
    if head.starts_with(b"YUV4MPEG2") {
        Ok(Parts { pictures: Some(Box::new(y4m::Pictures::open(file)?)), ..Parts::default() })
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE") {
        Ok(Parts { sounds: Some(Box::new(wav::Sounds::open(file)?)), ..Parts::default() })
    } else if head.get(4..8).is_some_and(|kind| mp4.contains(&kind)) {
        film::parts(path)
    } else {
        let advice =
            "convert it to MP4, for example with `ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p -c:a aac OUT.mp4`";
        Err(Fault::Foreign(format!("found {} where MP4, Y4M or WAV is needed: {advice}", kind_of(&head))))
    }
}

/// What people call a file that begins like this.
fn kind_of(head: &[u8]) -> &'static str {
    let known: [(&[u8], &str); 14] = [
        (&[0x1a, 0x45, 0xdf, 0xa3], "Matroska or WebM"),
        (b"OggS", "Ogg"),
        (b"ID3", "MP3"),
        (b"fLaC", "FLAC"),
        (b"FLV", "Flash video"),
        (b"RIFF", "AVI or another RIFF file"),
        (b"RF64", "RF64 (long WAV)"),
        (&[0x89, b'P', b'N', b'G'], "a PNG image"),
        (&[0xff, 0xd8, 0xff], "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"%PDF", "a PDF document"),
        (b"PK", "a ZIP archive or office document"),
        (&[0, 0, 1, 0xba], "an MPEG program stream"),
        (&[0, 0, 0, 1], "raw H.264 without a container"),
    ];
    if head.is_empty() {
        return "an empty file";
    }
    if let Some((_, name)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return name;
    }
    if head.first() == Some(&0x47) && head.get(188).is_none_or(|&sync| sync == 0x47) && head.len() > 188 {
        return "an MPEG transport stream";
    }
    let text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    if head.iter().all(text) { "text" } else { "data of an unknown kind" }
}

/// A file being played.
struct File {
    path: PathBuf,
    epoch: Instant,
    notices: VecDeque<Event>,
    pictures: Option<Box<dyn Media<Picture>>>,
    sounds: Option<Box<dyn Media<Samples>>>,
    /// The next of each, on the file's clock.
    picture: Option<Picture>,
    samples: Option<Samples>,
    /// Capture time of the file's zero in this loop.
    base: MediaTime,
    /// Where the later of picture and sound has come to in this loop.
    length: Duration,
}

impl File {
    /// Gets the next of each kind that is not there yet.
    fn fill(&mut self) -> Result<(), Fault> {
        if let (None, Some(pictures)) = (&self.picture, &mut self.pictures)
            && let Some((picture, end)) = pictures.next()?
        {
            self.length = self.length.max(end.since_zero());
            self.picture = Some(picture);
        }
        if let (None, Some(sounds)) = (&self.samples, &mut self.sounds)
            && let Some((samples, end)) = sounds.next()?
        {
            self.length = self.length.max(end.since_zero());
            self.samples = Some(samples);
        }
        Ok(())
    }

    /// Both are over: from the beginning.
    fn again(&mut self) -> Result<(), Fault> {
        // Less than a millisecond is no film, and would spin.
        self.base = self.base.saturating_add(self.length.max(Duration::from_millis(1)));
        self.length = Duration::ZERO;
        if let Some(pictures) = &mut self.pictures {
            pictures.rewind()?;
        }
        if let Some(sounds) = &mut self.sounds {
            sounds.rewind()?;
        }
        self.fill()?;
        if self.picture.is_none() && self.samples.is_none() {
            return Err(Fault::Damaged("it holds neither a picture nor sound any more".into()));
        }
        Ok(())
    }

    fn step(&mut self, patience: Duration) -> Result<Option<Event>, Fault> {
        self.fill()?;
        if self.picture.is_none() && self.samples.is_none() {
            self.again()?;
        }
        let due = |at: MediaTime| self.base.since_zero() + at.since_zero();
        let picture_due = self.picture.as_ref().map(|picture| due(picture.at));
        let samples_due = self.samples.as_ref().map(|samples| due(samples.end()));
        let picture_first = match (picture_due, samples_due) {
            (Some(picture), Some(samples)) => picture <= samples,
            (picture, _) => picture.is_some(),
        };
        let Some(next) = (if picture_first { picture_due } else { samples_due }) else { return Ok(None) };
        let late = self.epoch.elapsed().saturating_sub(next);
        if late > LATE_MAX {
            self.base = self.base.saturating_add(late);
            return Ok(None);
        }
        if !wait(self.epoch, next, patience) {
            return Ok(None);
        }
        let base = self.base.since_zero();
        Ok(if picture_first {
            self.picture.take().map(|mut picture| {
                picture.at = picture.at.saturating_add(base);
                Event::Picture(Arc::new(picture))
            })
        } else {
            self.samples.take().map(|mut samples| {
                samples.at = samples.at.saturating_add(base);
                Event::Samples(samples)
            })
        })
    }
}

impl Source for File {
    fn next(&mut self, patience: Duration) -> Result<Option<Event>, Error> {
        if let Some(notice) = self.notices.pop_front() {
            return Ok(Some(notice));
        }
        self.step(patience).map_err(|fault| fault.at(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_file_is_named() {
        let mut stream = vec![0; 400];
        stream[0] = 0x47;
        stream[188] = 0x47;
        let cases: [(&[u8], &str); 7] = [
            (b"", "an empty file"),
            (b"<html>\n<body>Xin ch\xc3\xa0o", "text"),
            (&[0x1a, 0x45, 0xdf, 0xa3, 1], "Matroska or WebM"),
            (b"RIFF\0\0\0\0AVI ", "AVI or another RIFF file"),
            (&[0xff, 0xd8, 0xff, 0xe0], "a JPEG image"),
            (&stream, "an MPEG transport stream"),
            (&[1, 2, 3, 4, 5], "data of an unknown kind"),
        ];
        for (head, expected) in cases {
            assert_eq!(kind_of(head), expected);
        }
    }
}
