//! How much room the archive's disk has: asked each second, and what follows from it (`engine::disk`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, block_in_place, spawn_blocking};

use super::Driver;
use crate::config;
use crate::control;
use crate::engine::disk::{Care, Input, Limits, Output, RELEASE, Space};
use crate::engine::replica::pull;

/// The reserve's name in the archive's folder.
const RESERVE: &str = "reserve";

/// How long after a try to make it that failed the next may come.
const AGAIN: Duration = Duration::from_secs(60);

/// What is written at once where a file cannot be given its room otherwise.
const ZEROS: usize = 1 << 20;

/// What the loop knows of the disk.
pub(super) struct Housekeeping {
    care: Care,
    /// The size of the reserve.
    reserve: u64,
    /// It is being made.
    making: Option<JoinHandle<()>>,
    /// After a try that failed, no earlier than this: a disk may refuse it for another reason than room.
    not_before: Option<Instant>,
}

impl Housekeeping {
    /// Within the bounds of the configuration.
    pub(super) fn new(config: &config::Archive) -> Housekeeping {
        let limits = Limits {
            copies: u64::from(config.copies_free_gb) << 30,
            copies_percent: config.copies_free_percent.into(),
            record: u64::from(config.record_free_mb) << 20,
            reserve: u64::from(config.reserve_mb) << 20,
        };
        Housekeeping { care: Care::new(limits), reserve: limits.reserve, making: None, not_before: None }
    }

    pub(super) fn space(&self) -> Space {
        self.care.space()
    }

    /// Whether the reserve is there, or being made. What is left of one that was half made, or that is of another size than
    /// wanted, goes.
    fn has_reserve(&mut self, file: &Path) -> bool {
        if self.making.as_ref().is_some_and(|making| !making.is_finished()) {
            return true;
        }
        self.making = None;
        match fs::metadata(file) {
            Ok(metadata) if self.reserve > 0 && metadata.len() == self.reserve => {
                self.not_before = None;
                true
            }
            Ok(_) => {
                release(file);
                false
            }
            Err(_) => false,
        }
    }
}

impl Driver {
    /// Once a second.
    pub(super) fn disk_look(&mut self) {
        let folder = self.config.archive();
        let file = folder.join(RESERVE);
        let looked = block_in_place(|| {
            let reserve = self.disk.has_reserve(&file);
            control::Disk::of(&folder, 0, 0).map(|disk| (disk, reserve))
        });
        let Ok((disk, reserve)) = looked else { return };
        self.disk.care.handle(Input::Space { free: disk.free, total: disk.total, reserve });
        while let Some(output) = self.disk.care.poll() {
            match output {
                Output::Release => {
                    tracing::error!("the reserve on the archive's disk is given up for the recording");
                    block_in_place(|| release(&file));
                }
                Output::Reserve { bytes } => {
                    let now = Instant::now();
                    if self.disk.not_before.is_some_and(|at| at > now) {
                        continue;
                    }
                    self.disk.not_before = Some(now + AGAIN);
                    let file = file.clone();
                    self.disk.making = Some(spawn_blocking(move || keep_back(&file, bytes)));
                }
                Output::Say { space } => {
                    say(space, disk.free);
                    let strained = self.is_strained();
                    self.pulled(pull::Input::Strained { strained });
                }
            }
        }
        if self.disk.space() >= Space::Short {
            self.recovery_yield();
        }
    }
}

/// Before the archive is opened, which takes room by itself: gives the reserve up if there is no other.
pub(super) fn make_way(folder: &Path) {
    if control::Disk::of(folder, 0, 0).is_ok_and(|disk| disk.free < RELEASE) {
        release(&folder.join(RESERVE));
    }
}

fn say(space: Space, free: u64) {
    match space {
        Space::Enough => tracing::info!(free, "the archive's disk has room"),
        Space::Tight => {
            tracing::warn!(free, "the archive's disk fills up: no further copies of others' sessions are taken")
        }
        Space::Short => tracing::error!(free, "the archive's disk is nearly full: only sessions here are recorded"),
        Space::Last => tracing::error!(free, "the archive's disk is full: recording will end, make room now"),
    }
}

fn release(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(%error, "the reserve on the archive's disk cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Makes the reserve, or leaves none half made.
fn keep_back(file: &Path, bytes: u64) {
    if let Err(error) = File::create(file).and_then(|open| fill(open, bytes)) {
        tracing::warn!(%error, "no reserve can be made on the archive's disk; it is tried again");
        release(file);
    }
}

/// Gives a file its room on the disk. A hole in a file keeps nothing back.
fn fill(mut file: File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return file.sync_all(),
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; ZEROS];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(ZEROS).min(ZEROS);
        file.write_all(&zeros[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn housekeeping() -> Housekeeping {
        let limits = Limits { copies: 0, copies_percent: 0, record: 0, reserve: SIZE };
        Housekeeping { care: Care::new(limits), reserve: SIZE, making: None, not_before: None }
    }

    #[test]
    fn the_reserve_takes_its_room_and_gives_it_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(RESERVE);
        keep_back(&file, SIZE);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file).expect("a file"));
        assert!(blocks * 512 >= SIZE, "not a hole");
        assert!(housekeeping().has_reserve(&file));
        release(&file);
        release(&file);
        assert!(!file.exists() && !housekeeping().has_reserve(&file));
        keep_back(&folder.path().join("nowhere").join("else"), 1);
    }

    #[test]
    fn what_a_killed_node_left_half_made_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(RESERVE);
        fs::write(&file, [0; 100]).expect("room for a file");
        assert!(!housekeeping().has_reserve(&file));
        assert!(!file.exists());
    }
}
