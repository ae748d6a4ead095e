//! A recorded session as files that any player plays: one film per point, and one of all points side by side.
//!
//! The films of the points are the record itself: groups are read one after the other, their frames opened with the
//! session's key and put into the file as they were captured, with their session times. So all files of a session have
//! one time line, that of its journal; whoever came late starts late in his file, and what is missing is a hole in time.
//! Nothing that follows a hole moves. Only the film of all points is decoded and encoded again.
//!
//! What is missing is found, said and left out; it never ends an export. A group whose bytes are not those that were
//! sealed is missing like one that never came, because wrong bytes must not be shown as right.
//!
//! Two groups at a time are in memory, whatever the session's length. A file has its name only when it is whole and on
//! the disk.

mod holding;
mod part;
mod tape;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::{self, BufWriter};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::frame::Frame;
use codec::time::MediaTime;
use codec::{audio, gallery, mp4};
use serde::Serialize;
use store::archive::{self, Archive};
use store::db;
use store::id::{SessionId, TrackId, TrackKind};
use store::keys;
use store::seal::Opener;
use store::session::{Head, Member};

use self::part::Part;
use self::tape::{Group, Tape};
use crate::control::Fault;
use crate::identity::Identity;

pub use self::holding::{Holding, Missing, Reason, holdings};

/// The film of all points.
const GALLERY: &str = "gallery.mp4";

/// Longest session time that is exported. A session lasts a day at most; without a bound one group with an absurd time
/// would make a film of years.
const LENGTH_MAX: Duration = Duration::from_secs(48 * 3600);

/// Longest point's name in a file name, in bytes. File systems take 255 for the whole.
const NAME_BYTES_MAX: usize = 180;

/// How long a last picture stands that has none before it.
const LAST_PICTURE: Duration = Duration::from_millis(33);

/// What to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names, numbers in the session or node ids of points; every point of the session when there are none.
    pub points: Vec<String>,
    /// Whether to make the film of these points side by side.
    pub gallery: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { points: Vec::new(), gallery: true }
    }
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Name of the file being written.
    pub file: &'a str,
    /// Which one it is, from 1.
    pub number: usize,
    /// How many there will be at most.
    pub count: usize,
    /// Session time written.
    pub done: Duration,
    /// Session time there is to write.
    pub length: Duration,
}

/// What was exported. This is what `archive export --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// Session id.
    pub session: String,
    /// A film for each point of which something is here, by number.
    pub exports: Vec<Export>,
    /// Points of which nothing can be shown although something is said to be missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// The film of all points.
    pub gallery: Option<PathBuf>,
}

impl Exported {
    /// Whether something that is here could not be shown because it is damaged.
    pub fn is_damaged(&self) -> bool {
        let here = self.exports.iter().map(|export| &export.missing);
        let missing = here.chain(self.absent.iter().map(|absent| &absent.missing)).flatten();
        missing.into_iter().any(|missing| matches!(missing.reason, Reason::Damaged(_)))
    }
}

/// The film of one point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Export {
    /// The point's name.
    pub point: String,
    /// The file.
    pub path: PathBuf,
    /// Pictures in it.
    pub video_frames: u64,
    /// Opus packets in it.
    pub audio_frames: u64,
    /// From the session's start to the end of what was recorded.
    pub seconds: f64,
    /// What is not in it, by track and number.
    pub missing: Vec<Missing>,
}

/// A point without a film.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Absent {
    /// The point's name.
    pub point: String,
    /// What should have been in it.
    pub missing: Vec<Missing>,
}

/// Why a session was not exported. What was written before is whole and stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No head of it.
    #[error("there is no session {0} here: `diemcau archive list` shows those that are")]
    Missing(SessionId),
    /// Nobody of this name took part.
    #[error("{asked:?} is not a point of session {session}; its points are {known}")]
    Point {
        /// The session.
        session: SessionId,
        /// What was asked for.
        asked: String,
        /// Who took part.
        known: String,
    },
    /// The session is known and no group of it can be shown.
    #[error("no picture or sound of session {0} is here: central keeps all of it, every other point its own")]
    Empty(SessionId),
    /// The session's key was never given to this point.
    #[error("this point has no key to session {0}: export it at a point that took part in it")]
    NoKey(SessionId),
    /// The session's key was given to this point and does not open.
    #[error("the key of session {session} that is kept here cannot be used: export the session at another point")]
    Key {
        /// The session.
        session: SessionId,
        /// What is wrong with it.
        #[source]
        source: keys::Error,
    },
    /// The archive cannot tell.
    #[error("the archive cannot be read")]
    Archive(#[from] archive::Error),
    /// A folder or file could not be written.
    #[error("{path} cannot be written")]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The film of a point could not be written.
    #[error("{path} cannot be written")]
    Film {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: mp4::Error,
    },
    /// The film of all points could not be made.
    #[error("{path} cannot be made")]
    Gallery {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: gallery::Error,
    },
}

impl Error {
    /// Of what kind this is to whoever asked.
    pub fn fault(&self) -> Fault {
        use archive::Error as A;
        match self {
            Self::Missing(_) | Self::Point { .. } | Self::Empty(_) | Self::Archive(A::Absent(_)) => Fault::Missing,
            Self::NoKey(_) => Fault::Refused,
            Self::Key { .. } => Fault::Damaged,
            Self::Archive(A::Damaged(_) | A::Unreadable(_) | A::Broken { .. } | A::Storage(db::Error::Damaged(_))) => {
                Fault::Damaged
            }
            Self::Archive(_) | Self::Disk { .. } | Self::Film { .. } | Self::Gallery { .. } => Fault::Failed,
        }
    }
}

/// Writes the films of `session` into the folder `to`, which is made if it is not there; files of the same names are
/// replaced. Reads the archive only. What is written can be watched by whoever can read it, so new files and folders are
/// their owner's alone.
pub fn session(
    archive: &Archive,
    keys: &Identity,
    session: &SessionId,
    to: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Exported, Error> {
    let head = archive.head(session)?.ok_or(Error::Missing(*session))?;
    let wanted = wanted(&head, &options.points)?;
    let mut reels = Vec::new();
    let mut holdings = holdings(archive, &head)?;
    holdings.retain(|holding| matches!(holding.track.kind(), TrackKind::Main | TrackKind::Audio));
    for member in wanted {
        let mut of = |kind| {
            let track = TrackId::new(member.number, kind);
            let at = holdings.iter().position(|holding| holding.track == track)?;
            Some(holdings.swap_remove(at))
        };
        let (video, audio) = (of(TrackKind::Main), of(TrackKind::Audio));
        if video.is_some() || audio.is_some() {
            reels.push(Reel { member, video, audio });
        }
    }
    if !reels.iter().any(Reel::has_groups) {
        return Err(Error::Empty(*session));
    }
    let opener = opener(archive, keys, &head)?;
    DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(disk(to))?;

    let reader = Reader { archive, opener: &opener };
    let mut exported =
        Exported { session: session.to_string(), exports: Vec::new(), absent: Vec::new(), gallery: None };
    let count = reels.iter().filter(|reel| reel.has_groups()).count() + usize::from(options.gallery);
    let (mut number, mut end, mut shown) = (0, MediaTime::ZERO, Vec::new());
    for reel in &reels {
        let point = reel.member.name.clone();
        let mut missing = reel.missing();
        if !reel.has_groups() {
            exported.absent.push(Absent { point, missing });
            continue;
        }
        number += 1;
        let name = file_name(reel.member);
        let length = reader.end_of(reel)?.since_zero();
        let mut tell = |done: MediaTime| {
            progress(Progress { file: &name, number, count, done: done.since_zero().min(length), length });
        };
        let film = reader.film(reel, &to.join(&name), &mut tell)?;
        missing.extend(film.missing);
        holding::tidy(&mut missing);
        if film.video_frames + film.audio_frames == 0 {
            exported.absent.push(Absent { point, missing });
            continue;
        }
        end = end.max(film.end);
        shown.push(reel);
        exported.exports.push(Export {
            point,
            path: to.join(&name),
            video_frames: film.video_frames,
            audio_frames: film.audio_frames,
            seconds: film.end.since_zero().as_secs_f64(),
            missing,
        });
    }
    if options.gallery && !shown.is_empty() {
        number += 1;
        let length = end.since_zero();
        let mut tell = |done: MediaTime| {
            progress(Progress { file: GALLERY, number, count, done: done.since_zero().min(length), length });
        };
        let path = to.join(GALLERY);
        reader.gallery(&shown, end, &path, &mut tell)?;
        exported.gallery = Some(path);
    }
    Ok(exported)
}

/// The points asked for, by number and each once.
fn wanted<'a>(head: &'a Head, asked: &[String]) -> Result<Vec<&'a Member>, Error> {
    if asked.is_empty() {
        return Ok(head.points.iter().collect());
    }
    let mut numbers = BTreeSet::new();
    for text in asked {
        let by_name = || head.points.iter().find(|member| member.name == *text);
        let by_number = || head.points.iter().find(|member| member.number.to_string() == *text);
        let by_node = || head.points.iter().find(|member| member.node.to_string() == *text);
        let Some(member) = by_name().or_else(by_number).or_else(by_node) else {
            let known: Vec<_> = head.points.iter().map(|member| member.name.as_str()).collect();
            return Err(Error::Point { session: head.id, asked: text.clone(), known: known.join(", ") });
        };
        numbers.insert(member.number);
    }
    Ok(head.points.iter().filter(|member| numbers.contains(&member.number)).collect())
}

/// What opens the session's frames: every epoch's key that was wrapped for this node.
fn opener(archive: &Archive, keys: &Identity, head: &Head) -> Result<Opener, Error> {
    let session = head.id;
    let wraps = archive.wraps(&session, &keys.id())?;
    let opened = head.open(&wraps, &keys.wrap, keys.id()).map_err(|source| Error::Key { session, source })?;
    if opened.is_empty() {
        return Err(Error::NoKey(session));
    }
    let mut opener = Opener::new(session);
    opened.into_iter().for_each(|(epoch, key)| opener.insert(epoch, key));
    Ok(opener)
}

/// `NN-<name>.mp4`, NN being the point's number in the session, as in the names of its tracks. Letters of any
/// language stay; what a shell, a file system or another platform takes as a sign becomes a hyphen.
fn file_name(member: &Member) -> String {
    let mut safe = String::new();
    for letter in member.name.chars() {
        // Vietnamese may be written with combining marks, which are no letters by themselves.
        let keep = letter.is_alphanumeric() || matches!(letter, '_' | '\u{300}'..='\u{36f}');
        let letter = if keep { letter } else { '-' };
        if letter == '-' && (safe.is_empty() || safe.ends_with('-')) {
            continue;
        }
        if safe.len() + letter.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        safe.push(letter);
    }
    let safe = safe.trim_end_matches('-');
    format!("{:02}-{}.mp4", member.number.get(), if safe.is_empty() { "point" } else { safe })
}

/// The two tracks that make one film.
struct Reel<'a> {
    member: &'a Member,
    video: Option<Holding>,
    audio: Option<Holding>,
}

impl Reel<'_> {
    fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.video.iter().chain(&self.audio)
    }

    fn has_groups(&self) -> bool {
        self.holdings().any(|holding| !holding.runs.is_empty())
    }

    fn missing(&self) -> Vec<Missing> {
        self.holdings().flat_map(|holding| holding.missing.iter().cloned()).collect()
    }
}

/// What became of a film.
struct Film {
    video_frames: u64,
    audio_frames: u64,
    end: MediaTime,
    /// Groups that are here and could not be shown.
    missing: Vec<Missing>,
}

struct Reader<'a> {
    archive: &'a Archive,
    opener: &'a Opener,
}

impl<'a> Reader<'a> {
    fn tape(&self, member: &Member, holding: Option<&Holding>) -> Option<Tape<'a>> {
        holding.map(|holding| Tape::new(self.archive, self.opener, member.node, holding))
    }

    /// About where a film ends, to tell how far it has come.
    fn end_of(&self, reel: &Reel<'_>) -> Result<MediaTime, Error> {
        let mut end = MediaTime::ZERO;
        for holding in reel.holdings() {
            end = end.max(Tape::new(self.archive, self.opener, reel.member.node, holding).end()?);
        }
        Ok(end)
    }

    /// Writes one point's film, in the order of the groups' times.
    fn film(&self, reel: &Reel<'_>, path: &Path, tell: &mut dyn FnMut(MediaTime)) -> Result<Film, Error> {
        let refused = |source| Error::Film { path: path.to_owned(), source };
        let (part, file) = Part::create(path).map_err(disk(path))?;
        let mut writer = mp4::Writer::new(BufWriter::new(file), MediaTime::ZERO).map_err(refused)?;
        let mut video = self.tape(reel.member, reel.video.as_ref());
        let mut audio = self.tape(reel.member, reel.audio.as_ref());
        let (mut picture, mut sound) = (next(&mut video)?, next(&mut audio)?);
        let mut film = Film { video_frames: 0, audio_frames: 0, end: MediaTime::ZERO, missing: Vec::new() };
        loop {
            let pictures_first = match (&picture, &sound) {
                (Some(picture), Some(sound)) => picture.t0 <= sound.t0,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            if pictures_first && let (Some(group), Some(tape)) = (picture.take(), &mut video) {
                tell(group.t0);
                for frame in &group.frames {
                    match writer.video(frame) {
                        Ok(()) => film.video_frames += 1,
                        // The point sealed something else than a picture that can be begun with.
                        Err(mp4::Error::Keyframe | mp4::Error::Changed) => {
                            tape.leave_out(group.seq, "its pictures cannot be put into a film");
                            break;
                        }
                        Err(error) => return Err(refused(error)),
                    }
                }
                film.end = film.end.max(end_of_pictures(&group));
                picture = next(&mut video)?;
            } else if let Some(group) = sound.take() {
                tell(group.t0);
                for frame in &group.frames {
                    writer.audio(frame).map_err(refused)?;
                    film.audio_frames += 1;
                    film.end = film.end.max(frame.at.saturating_add(audio::PACKET));
                }
                sound = next(&mut audio)?;
            }
        }
        film.missing = video.into_iter().chain(audio).flat_map(Tape::into_left_out).collect();
        if film.video_frames + film.audio_frames > 0 {
            let out = writer.finish().map_err(refused)?;
            let file = out.into_inner().map_err(|error| disk(path)(error.into_error()))?;
            part.finish(&file).map_err(disk(path))?;
        }
        Ok(film)
    }

    /// Makes the film of all points up to `end`. What could not be shown was found out by the films of the points.
    fn gallery(
        &self,
        reels: &[&Reel<'_>],
        end: MediaTime,
        path: &Path,
        tell: &mut dyn FnMut(MediaTime),
    ) -> Result<(), Error> {
        let (part, file) = Part::create(path).map_err(disk(path))?;
        let failure = RefCell::new(None);
        let frames = |reel: &Reel<'_>, holding: Option<&Holding>| -> Box<dyn Iterator<Item = Frame> + '_> {
            let tape = self.tape(reel.member, holding);
            Box::new(Frames { tape, group: Vec::new().into_iter(), failure: &failure })
        };
        let point = |reel: &&Reel<'_>| gallery::Point {
            name: reel.member.name.clone(),
            video: frames(reel, reel.video.as_ref()),
            audio: frames(reel, reel.audio.as_ref()),
        };
        let points = reels.iter().map(point).collect();
        let made = gallery::write(points, MediaTime::ZERO, end, BufWriter::new(file), tell);
        // A film that lacks what the disk did not give is no film of the session.
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        let out = made.map_err(|source| Error::Gallery { path: path.to_owned(), source })?;
        let file = out.into_inner().map_err(|error| disk(path)(error.into_error()))?;
        part.finish(&file).map_err(disk(path))
    }
}

/// One track's frames as the gallery pulls them. A failure of the archive ends them and is kept for whoever asks.
struct Frames<'a> {
    tape: Option<Tape<'a>>,
    group: std::vec::IntoIter<Frame>,
    failure: &'a RefCell<Option<Error>>,
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.group.next() {
                return Some(frame);
            }
            match next(&mut self.tape) {
                Ok(group) => self.group = group?.frames.into_iter(),
                Err(error) => {
                    self.failure.borrow_mut().get_or_insert(error);
                    self.tape = None;
                }
            }
        }
    }
}

fn next(tape: &mut Option<Tape<'_>>) -> Result<Option<Group>, Error> {
    tape.as_mut().map_or(Ok(None), |tape| Ok(tape.next()?))
}

/// When the last picture of a group has been shown as long as the one before it.
fn end_of_pictures(group: &Group) -> MediaTime {
    match &group.frames[..] {
        [] => group.t0,
        [.., before, last] => last.at.saturating_add(last.at.since(before.at).min(LAST_PICTURE)),
        [last] => last.at.saturating_add(LAST_PICTURE),
    }
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
