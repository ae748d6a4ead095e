//! Reading the folder, as one that a stranger gave: every file has a limit, and what cannot be read is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use store::cbor;
use store::id::{GroupId, NodeId, PointNumber, TrackId};
use store::keys::{Epoch, Wrap};
use store::record::GROUP_LEN_MAX;
use store::roster::Membership;
use store::session::{EPOCHS_MAX, Head};
use store::signed;
use store::verify::Exhibit;

use super::{
    COUNTERSIGNED, Error, GROUPS, HEAD, JOURNAL, MANIFESTS, MARK, ROSTER, SEGMENTS, WRAPS, WRAPS_VERSION, disk,
    group_name, group_path, segments_name,
};
use crate::identity::file;

/// Names of files that do not belong there which are told one by one.
const STRANGERS_MAX: usize = 100;

/// Longest file of wrapped keys: every epoch for every point of a large session.
const WRAPS_LEN_MAX: usize = 64 << 20;

/// A sealed recording in a folder.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// The recording in `dir`, if it says that it is one.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mark = dir.join(MARK.0);
        match file::read(&mark, 1024) {
            Ok(text) if text == MARK.1.as_bytes() => Ok(Folder { dir: dir.to_owned() }),
            Ok(_) => Err(Error::Version(dir.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NoRecording(dir.to_owned())),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => Err(Error::Version(dir.to_owned())),
            Err(error) => Err(disk(&mark)(error)),
        }
    }

    /// The wrapped keys made for a node, by epoch.
    pub fn wraps(&self, recipient: &NodeId) -> Result<BTreeMap<Epoch, Wrap>, String> {
        let bytes = self.read(WRAPS, WRAPS_LEN_MAX)?;
        let wraps: Vec<(Epoch, NodeId, Wrap)> =
            cbor::decode_versioned(WRAPS_VERSION, &bytes, WRAPS_LEN_MAX).map_err(|error| error.to_string())?;
        let ours = wraps.into_iter().filter(|(_, node, _)| node == recipient);
        Ok(ours.map(|(epoch, _, wrap)| (epoch, wrap)).take(EPOCHS_MAX).collect())
    }

    fn read(&self, name: impl AsRef<Path>, max: usize) -> Result<Bytes, String> {
        let read = file::read(&self.dir.join(&name), max);
        read.map(Bytes::from).map_err(|error| said(name.as_ref(), &error))
    }

    fn records(&self, name: &Path) -> Box<dyn Iterator<Item = Result<Bytes, String>>> {
        match File::open(self.dir.join(name)) {
            Ok(file) => Box::new(Records { file: Some(BufReader::new(file)), name: name.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => Box::new(std::iter::empty()),
            Err(error) => Box::new(std::iter::once(Err(said(name, &error)))),
        }
    }

    /// Names in a folder of the recording.
    fn names(&self, name: &Path) -> Result<Vec<String>, String> {
        let entries = match fs::read_dir(self.dir.join(name)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(said(name, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| said(name, &error))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn tracks(&self) -> Result<Vec<TrackId>, String> {
        let names = self.names(Path::new(GROUPS))?;
        let track = |name: &String| name.parse::<TrackId>().ok().filter(|track| track.to_string() == *name);
        Ok(names.iter().filter_map(track).collect())
    }
}

/// The number a file of a group is named by, if it is named as we name them.
fn seq_of(name: &str) -> Option<u64> {
    let seq = name.strip_suffix(".group")?.parse().ok()?;
    (group_name(seq) == name).then_some(seq)
}

fn is_segments(name: &str) -> bool {
    let point = name.strip_suffix(".cose").and_then(|number| number.parse::<u16>().ok());
    point.and_then(PointNumber::new).is_some_and(|point| segments_name(point.get()) == name)
}

impl Exhibit for Folder {
    fn head(&self) -> Result<Bytes, String> {
        self.read(HEAD, Head::LEN_MAX)
    }

    fn roster(&self) -> Result<Option<Bytes>, String> {
        match self.dir.join(ROSTER).exists() {
            true => self.read(ROSTER, Membership::LEN_MAX).map(Some),
            false => Ok(None),
        }
    }

    fn journal(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        self.records(Path::new(JOURNAL))
    }

    fn segments(&self, point: PointNumber) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        self.records(&Path::new(SEGMENTS).join(segments_name(point.get())))
    }

    fn manifests(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        self.records(Path::new(MANIFESTS))
    }

    fn countersigned(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        self.records(Path::new(COUNTERSIGNED))
    }

    fn groups(&self) -> Result<BTreeSet<(TrackId, u64)>, String> {
        let mut groups = BTreeSet::new();
        for track in self.tracks()? {
            let names = self.names(&Path::new(GROUPS).join(track.to_string()))?;
            groups.extend(names.iter().filter_map(|name| seq_of(name)).map(|seq| (track, seq)));
        }
        Ok(groups)
    }

    fn group(&self, id: &GroupId) -> Result<Bytes, String> {
        let name = group_path(Path::new(""), id.track, id.seq);
        self.read(name, GROUP_LEN_MAX)
    }

    fn strangers(&self) -> Vec<String> {
        let known = [MARK.0, HEAD, ROSTER, JOURNAL, MANIFESTS, COUNTERSIGNED, WRAPS, SEGMENTS, GROUPS];
        let mut strangers = Vec::new();
        let mut look = |folder: &Path, fits: &dyn Fn(&str) -> bool| match self.names(folder) {
            Ok(names) => {
                let names = names.into_iter().filter(|name| !fits(name));
                strangers.extend(names.map(|name| format!("file {}", folder.join(name).display())));
            }
            Err(what) => strangers.push(what),
        };
        look(Path::new(""), &|name| known.contains(&name));
        look(Path::new(SEGMENTS), &is_segments);
        look(Path::new(GROUPS), &|name| name.parse::<TrackId>().is_ok_and(|track| track.to_string() == name));
        for track in self.tracks().unwrap_or_default() {
            look(&Path::new(GROUPS).join(track.to_string()), &|name| seq_of(name).is_some());
        }
        strangers.truncate(STRANGERS_MAX);
        strangers
    }
}

/// Records one after the other, each behind its length. After the first that cannot be read there are no more.
struct Records {
    file: Option<BufReader<File>>,
    name: PathBuf,
}

impl Records {
    fn read(&mut self) -> Option<Result<Bytes, String>> {
        let file = self.file.as_mut()?;
        let mut len = Vec::new();
        if let Err(error) = file.take(4).read_to_end(&mut len) {
            return Some(Err(said(&self.name, &error)));
        }
        let len = match <[u8; 4]>::try_from(&len[..]) {
            Ok(len) => u32::from_be_bytes(len) as usize,
            Err(_) if len.is_empty() => return None,
            Err(_) => return Some(Err(format!("{} ends in the middle of a length", self.name.display()))),
        };
        if len > signed::LEN_MAX {
            return Some(Err(format!("{} has a record of {len} bytes, which is too long", self.name.display())));
        }
        let mut bytes = Vec::new();
        match file.take(len as u64).read_to_end(&mut bytes) {
            Ok(read) if read == len => Some(Ok(bytes.into())),
            Ok(_) => Some(Err(format!("{} ends in the middle of a record", self.name.display()))),
            Err(error) => Some(Err(said(&self.name, &error))),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Bytes, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read();
        if !matches!(next, Some(Ok(_))) {
            self.file = None;
        }
        next
    }
}

fn said(name: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("{} is not there", name.display()),
        ErrorKind::FileTooLarge => format!("{} is longer than such a file may be", name.display()),
        _ => format!("{} cannot be read: {error}", name.display()),
    }
}
