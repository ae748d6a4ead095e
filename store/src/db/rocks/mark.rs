//! The number of the last change that was acknowledged, in a file of its own beside the database.
//!
//! A log tells nothing of a last write that was damaged, of an end that was cut off, or of itself when it is gone: each
//! looks like a write that never was. This number does, for a database that opens with a lower one has lost something. It is
//! written over in place after each write and not synced: that costs two microseconds, outlives the death of the
//! process, and after a power cut is at most some seconds old. Older is harmless, since it only says less; newer than the
//! database it cannot be, as the write it speaks of was synced before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, Write as _},
    path::Path,
};

use super::crc32c::crc32c;

/// Name of the file. RocksDB leaves alone what it does not know.
const NAME: &str = "ACKNOWLEDGED";

/// Number (8) and its checksum (4), big-endian: within a sector, so that a power cut leaves the old or the new.
const LEN: usize = 12;

/// The number last written for the database in `dir`; `None` if there is none that can be believed.
pub(super) fn read(dir: &Path) -> Option<u64> {
    let bytes: [u8; LEN] = fs::read(dir.join(NAME)).ok()?.try_into().ok()?;
    let (number, sum) = bytes.split_first_chunk::<8>()?;
    (crc32c(number).to_be_bytes() == sum).then(|| u64::from_be_bytes(*number))
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// Opens the file in `dir` and sets it to `number`.
    pub(super) fn set(dir: &Path, number: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(NAME))?;
        let mut mark = Mark { file };
        mark.write(number)?;
        Ok(mark)
    }

    /// Writes the number down.
    pub(super) fn write(&mut self, number: u64) -> io::Result<()> {
        let number = number.to_be_bytes();
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&number);
        bytes[8..].copy_from_slice(&crc32c(&number).to_be_bytes());
        self.file.rewind()?;
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_written_is_read_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        let mut mark = Mark::set(dir.path(), 7).unwrap();
        assert_eq!(read(dir.path()), Some(7));
        mark.write(1 << 40).unwrap();
        assert_eq!(read(dir.path()), Some(1 << 40));
        let clean = fs::read(dir.path().join(NAME)).unwrap();
        for at in 0..LEN {
            let mut bytes = clean.clone();
            bytes[at] ^= 0x10;
            fs::write(dir.path().join(NAME), &bytes).unwrap();
            assert_eq!(read(dir.path()), None, "byte {at}");
            fs::write(dir.path().join(NAME), &clean[..at]).unwrap();
            assert_eq!(read(dir.path()), None, "{at} bytes");
        }
    }
}
