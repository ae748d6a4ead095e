//! How much room is left where the archive lies.

use std::io;
use std::path::Path;

use super::Disk;

impl Disk {
    /// The file system that `folder` lies on, and what the archive there holds.
    pub fn of(folder: &Path, groups: u64, bytes: u64) -> io::Result<Self> {
        let system = rustix::fs::statvfs(folder)?;
        // What is kept back for the super-user is not free to us.
        let size = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        Ok(Self { free: size(system.f_bavail), total: size(system.f_blocks), groups, bytes, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_size() {
        let disk = Disk::of(Path::new("/"), 1, 2).unwrap();
        assert!(disk.total > 0 && disk.free <= disk.total);
        assert!(Disk::of(Path::new("/nowhere at all"), 0, 0).is_err());
    }
}
