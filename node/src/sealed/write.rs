//! Writing the folder from an archive.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use store::archive::{self, Archive};
use store::cbor;
use store::id::{GroupId, SessionId};

use super::{
    COUNTERSIGNED, Error, GROUPS, HEAD, JOURNAL, MANIFESTS, MARK, ROSTER, SEGMENTS, WRAPS, WRAPS_VERSION, disk,
    group_path, segments_name,
};

/// What was written. This is what `archive export --sealed --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Session id.
    pub session: String,
    /// The folder.
    pub path: PathBuf,
    /// Groups in it.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Signed segments in it.
    pub segments: u64,
    /// Journal entries in it.
    pub entries: u64,
    /// Groups that are damaged here and left out.
    pub damaged: Vec<String>,
}

/// Writes the session into the folder `to`, which must be empty or not exist. `roster` is what this node knows of its
/// mesh. `progress` is told how many groups are written, and of how many.
pub fn write(
    archive: &Archive,
    session: &SessionId,
    roster: &[u8],
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Written, Error> {
    let head = archive.head(session)?.ok_or(Error::Missing(*session))?;
    let free = match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !free {
        return Err(Error::Exists(to.to_owned()));
    }
    let half = Half::create(to).map_err(disk(to))?;
    let dir = &half.0;
    let mut written = Written {
        session: session.to_string(),
        path: to.to_owned(),
        groups: 0,
        bytes: 0,
        segments: 0,
        entries: 0,
        damaged: Vec::new(),
    };
    put(&dir.join(HEAD), &head.encode())?;
    put(&dir.join(ROSTER), roster)?;
    let wraps: Vec<_> = archive
        .all_wraps(session)?
        .into_iter()
        .flat_map(|(epoch, wraps)| wraps.into_iter().map(move |(recipient, wrap)| (epoch, recipient, wrap)))
        .collect();
    put(&dir.join(WRAPS), &cbor::encode_versioned(WRAPS_VERSION, &wraps))?;
    let journal = archive.journal(session, 0)?;
    written.entries = journal.len() as u64;
    framed(&dir.join(JOURNAL), &journal)?;
    let manifests = archive.manifests(session)?;
    framed(&dir.join(MANIFESTS), &manifests.manifests)?;
    framed(&dir.join(COUNTERSIGNED), &manifests.countersigned)?;
    folder(&dir.join(SEGMENTS))?;
    for member in &head.points {
        let segments = archive.segments(session, member.number, 0, usize::MAX)?;
        if !segments.is_empty() {
            written.segments += segments.len() as u64;
            framed(&dir.join(SEGMENTS).join(segments_name(member.number.get())), &segments)?;
        }
    }
    groups(archive, session, dir, &mut written, progress)?;
    // Last, so that not even a folder left hidden by a crash passes for a recording.
    put(&dir.join(MARK.0), MARK.1.as_bytes())?;
    half.finish(to).map_err(disk(to))?;
    Ok(written)
}

fn groups(
    archive: &Archive,
    session: &SessionId,
    dir: &Path,
    written: &mut Written,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    folder(&dir.join(GROUPS))?;
    let total = archive.totals(session)?.values().map(|totals| totals.groups).sum();
    let mut done = 0;
    for track in archive.tracks(session)? {
        folder(&dir.join(GROUPS).join(track.to_string()))?;
        for seq in archive.have(session, track)?.runs().flatten() {
            progress(done, total);
            done += 1;
            let id = GroupId { session: *session, track, seq };
            match archive.get(&id) {
                Ok(record) => {
                    put(&group_path(dir, track, seq), record.bytes())?;
                    written.groups += 1;
                    written.bytes += record.bytes().len() as u64;
                }
                Err(archive::Error::Damaged(_) | archive::Error::Missing(_)) => written.damaged.push(id.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    progress(total, total);
    Ok(())
}

/// A folder being written. Dropping it unfinished removes it.
struct Half(PathBuf);

impl Half {
    fn create(to: &Path) -> io::Result<Self> {
        let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let parent = parent(to);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
        let half = parent.join(format!(".{name}.{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&half)?;
        Ok(Half(half))
    }

    /// Brings everything onto the disk and gives the folder its name.
    fn finish(self, to: &Path) -> io::Result<()> {
        // One call for thousands of files: a flush of each would take minutes on an office PC's disk.
        rustix::fs::syncfs(File::open(&self.0)?)?;
        fs::rename(&self.0, to)?;
        File::open(parent(to))?.sync_all()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(path).map_err(disk(path))
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(disk(path))
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    create(path)?.write_all(bytes).map_err(disk(path))
}

/// Records, each behind its length in four bytes.
fn framed(path: &Path, records: &[Bytes]) -> Result<(), Error> {
    let mut file = BufWriter::new(create(path)?);
    let write = |file: &mut BufWriter<File>| {
        for record in records {
            let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            file.write_all(&len.to_be_bytes())?;
            file.write_all(record)?;
        }
        file.flush()
    };
    write(&mut file).map_err(disk(path))
}
