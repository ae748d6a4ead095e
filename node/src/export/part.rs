//! A file being written. It lies under a hidden name beside its own, and takes that when it is whole and on the disk, so
//! that nobody mistakes half a film for one. Dropping it unfinished removes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Part {
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Begins what will be `path`. The name is this process's own, so two exports into one folder do not meet.
    pub(super) fn create(path: &Path) -> io::Result<(Self, File)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        Ok((Self { part, path: path.to_owned() }, file))
    }

    /// Flushes the file and gives it its name, in place of what had it.
    pub(super) fn finish(self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        fs::rename(&self.part, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when it was finished; a folder that refuses keeps a hidden file, which the next export replaces
        // or nobody misses.
        let _ = fs::remove_file(&self.part);
    }
}
