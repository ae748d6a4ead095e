//! Writing the folder from an archive.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use store::archive::{self, Archive};
use store::cbor;
use store::id::{GroupId, SessionId};

use super::{
    COUNTERSIGNED, Error, GROUP_END, GROUPS, HEAD, JOURNAL, MANIFESTS, MARK, ROSTER, SEGMENTS, SEGMENTS_END, WRAPS,
    WRAPS_VERSION, disk, group_path, segments_name,
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
    let dir = &half.dir;
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

/// Half folders of one name that are looked at, until one can be written.
const HALVES_MAX: usize = 16;

/// Opens a folder, and neither a file nor what a link leads to.
const ITSELF: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW);

/// A folder being written. Dropping it unfinished removes it.
struct Half {
    dir: PathBuf,
    /// It has its name; the hidden one may be another's by now.
    is_finished: bool,
    /// Locked, so that nobody takes the folder for one that a crash left.
    _lock: File,
}

impl Half {
    /// Makes one. What a crash left of an earlier one is removed; what is written by another program at this moment, or holds
    /// anything that we do not write, stays, and another name is taken.
    fn create(to: &Path) -> io::Result<Self> {
        let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let parent = parent(to);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
        for n in 1..=HALVES_MAX {
            if let Some(half) = Half::take(parent.join(format!(".{name}.half{n}")))? {
                return Ok(half);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The folder with this name, empty; `None` if it is not for us.
    fn take(dir: PathBuf) -> io::Result<Option<Self>> {
        let is_new = match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        // Without following a link, and it may be gone by now.
        let Ok(lock) = OpenOptions::new().read(true).custom_flags(ITSELF.bits() as i32).open(&dir) else {
            return Ok(None);
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // A disk that knows no locks, as some in the network: nobody can tell there what a crash left.
            Err(error) if is_new && error != Errno::WOULDBLOCK => {}
            Err(_) => return Ok(None),
        }
        // Whoever held the lock before may have given the folder its name, or removed it, and another may be there now.
        let (here, locked) = (fs::symlink_metadata(&dir), lock.metadata()?);
        let is_same = here.is_ok_and(|here| (here.dev(), here.ino()) == (locked.dev(), locked.ino()));
        // What cannot be looked at is not ours either.
        if !is_same || !(is_new || holds_only_ours(&dir).unwrap_or(false)) {
            return Ok(None);
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        Ok(Some(Half { dir, is_finished: false, _lock: lock }))
    }

    /// Brings everything onto the disk and gives the folder its name.
    fn finish(mut self, to: &Path) -> io::Result<()> {
        // One call for thousands of files: a flush of each would take minutes on an office PC's disk.
        rustix::fs::syncfs(File::open(&self.dir)?)?;
        fs::rename(&self.dir, to)?;
        self.is_finished = true;
        File::open(parent(to))?.sync_all()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed now is by the next export.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Whether a folder holds nothing but what [`write`] puts into one.
fn holds_only_ours(dir: &Path) -> io::Result<bool> {
    const FILES: [&str; 7] = [MARK.0, HEAD, ROSTER, WRAPS, JOURNAL, MANIFESTS, COUNTERSIGNED];
    let all = |dir: &Path, is_ours: &dyn Fn(&str, &Path, bool) -> io::Result<bool>| {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let known = kind.is_file() || kind.is_dir();
            let ours = known && name.to_str().map_or(Ok(false), |name| is_ours(name, &entry.path(), kind.is_dir()))?;
            if !ours {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let files = |dir: &Path, end: &str| all(dir, &|name, _, is_dir| Ok(!is_dir && name.ends_with(end)));
    let tracks = |dir: &Path| all(dir, &|_, path, is_dir| Ok(is_dir && files(path, GROUP_END)?));
    all(dir, &|name, path, is_dir| match is_dir {
        true if name == SEGMENTS => files(path, SEGMENTS_END),
        true if name == GROUPS => tracks(path),
        true => Ok(false),
        false => Ok(FILES.contains(&name)),
    })
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
