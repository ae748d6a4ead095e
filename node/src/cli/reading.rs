//! The archive of a data folder, to be read by a command. A stopped node's is read as it lies; beside a running node it
//! is a copy that the node makes in the data folder, which costs next to nothing (the files are shared) and goes away
//! afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use node::config;
use node::control::session::Error;
use node::control::{self, Request, Response};
use node::identity::Identity;
use store::archive::{self, Archive};

use super::args::Data;

/// An archive to read, and the copy it lies in when the node runs. The archive is closed before the copy goes.
pub(crate) struct Reading {
    pub(crate) archive: Archive,
    copy: Option<Copied>,
}

impl Reading {
    /// The archive of this data folder, whether its node runs or not.
    pub(crate) fn open(data: &Data) -> Result<Self> {
        let folder = data.folder()?;
        sweep(&folder);
        let copy = Copied(folder.join(format!("{COPY}{}", std::process::id())));
        match data.ask(&Request::Checkpoint { to: copy.0.clone() }) {
            Ok(Response::Done) => {
                let archive = Archive::open_read_only(&copy.0).map_err(Error::from)?;
                Ok(Self { archive, copy: Some(copy) })
            }
            Ok(other) => bail!("the node answered something else: {other:?}"),
            Err(error) if matches!(error.downcast_ref(), Some(control::Error::NotRunning(_))) => {
                Ok(Self { archive: stopped(&folder)?, copy: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the node runs and made a copy for us.
    pub(crate) fn is_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// The same as [`open`](Self::open); `None` for a point that never ran and so has recorded nothing.
    pub(crate) fn open_any(data: &Data) -> Result<Option<Self>> {
        if_any(Self::open(data), &data.folder()?)
    }
}

/// The archive of a stopped node; `None` for a point that never ran and so has recorded nothing.
pub(crate) fn stopped_any(folder: &Path) -> Result<Option<Archive>> {
    if_any(stopped(folder), folder)
}

fn stopped(folder: &Path) -> Result<Archive> {
    Ok(Archive::open_read_only(&config::archive(folder)).map_err(Error::from)?)
}

/// A folder without a point is a mistake; a point without an archive is new.
fn if_any<T>(opened: Result<T>, folder: &Path) -> Result<Option<T>> {
    let error = match opened {
        Ok(opened) => return Ok(Some(opened)),
        Err(error) => error,
    };
    match error.downcast_ref() {
        Some(Error::Archive(archive::Error::Absent(_))) => {
            Identity::public_of(folder)?;
            Ok(None)
        }
        _ => Err(error),
    }
}

/// How names of copies begin; the number of the process that reads one follows.
const COPY: &str = ".reading-";

/// A copy of the archive in the data folder. Dropping it removes it.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        // There is none when the node does not run. One that stays is removed by the next command.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes copies whose commands were killed: they keep files on the disk that the node has long replaced.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(COPY)).and_then(|id| id.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            // What cannot be removed now is tried again by the next command.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit;
    use super::*;

    #[test]
    fn copies_of_killed_commands_are_removed_and_those_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        // No process has a number this high: the kernel's limit is 2^22.
        let names = [format!("{COPY}4194305"), format!("{COPY}{}", std::process::id()), format!("{COPY}x")];
        for name in &names {
            fs::create_dir_all(folder.path().join(name).join("meta")).unwrap();
        }
        sweep(folder.path());
        let left = names.map(|name| folder.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn a_point_that_never_ran_has_an_empty_list_and_an_empty_folder_is_a_mistake() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        let given = Data { data: Some(data.clone()) };
        let missing = Reading::open_any(&given).err().map(|error| exit::judge(&error).0);
        assert_eq!(missing, Some(3));
        Identity::load_or_create(&data).unwrap();
        assert!(Reading::open_any(&given).unwrap().is_none());
    }
}
