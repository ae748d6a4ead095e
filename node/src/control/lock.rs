//! One process per data folder. The lock is the kernel's (`flock`) on a file that stays, so a killed node leaves nothing
//! to clean up; what the file says is only for the sentence people read.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Error;

const LOCK: &str = "node.lock";

/// Takes the folder until the returned file is dropped.
pub(super) fn take(dir: &Path) -> Result<File, Error> {
    let refused = |source| Error::Socket { folder: dir.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK))
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The other process may be writing it just now; the number is a courtesy.
            let _ = file.take(32).read_to_string(&mut text);
            let process = text.trim().parse::<u32>().map_or_else(|_| "unknown".to_owned(), |id| id.to_string());
            return Err(Error::AlreadyRunning { folder: dir.to_owned(), process });
        }
        Err(TryLockError::Error(error)) => return Err(refused(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(refused)?;
    Ok(file)
}
