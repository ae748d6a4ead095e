//! What is secret is its owner's alone: looked at whenever it is read, and all of it before a node starts.
//!
//! A file that others may read is refused and not closed in passing: whoever could read it has perhaps done so, and somebody
//! has to think about that. One that belongs to another user is refused too, as that user can open it again at any time; so a
//! node is not run as root on the folder of somebody else, where it would leave files that its owner cannot read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use super::{Error, authority, disk};
use crate::config;
use crate::join::invite;

/// Refuses a file or folder whose permission bits go beyond `want`, or that is another user's.
pub(crate) fn must_be(path: &Path, want: u32) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(disk(path))?;
    judge(path, want, found.mode(), found.uid(), geteuid().as_raw())
}

/// Looks at all that is private in a data folder and that a node does not look at anyway when it reads it.
///
/// The archive's own files are not gone through: nobody else can get into its folder, and there may be very many.
pub fn check(data: &Path) -> Result<(), Error> {
    must_be(data, 0o700)?;
    for folder in [config::archive(data), data.join(invite::FOLDER)] {
        if folder.try_exists().map_err(disk(&folder))? {
            must_be(&folder, 0o700)?;
        }
    }
    authority::must_be_private(&data.join(authority::FOLDER))
}

fn judge(path: &Path, want: u32, mode: u32, owner: u32, me: u32) -> Result<(), Error> {
    let mode = mode & 0o777;
    if owner != me {
        return Err(Error::Foreign { path: path.to_owned(), owner, me });
    }
    if mode & !want != 0 {
        return Err(Error::Open { path: path.to_owned(), mode, want });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_open_or_somebody_elses_is_refused_with_the_command_that_helps() {
        let check = |mode, owner| judge(Path::new("/d/keys"), 0o700, mode, owner, 7).map_err(|error| error.to_string());
        assert_eq!(check(0o40_700, 7), Ok(()));
        assert_eq!(check(0o40_500, 7), Ok(()));
        for mode in [0o710, 0o701, 0o720, 0o702, 0o740, 0o704, 0o777] {
            let error = check(0o40_000 | mode, 7).unwrap_err();
            assert!(error.contains(&format!("(mode {mode:o}): run `chmod 700 '/d/keys'`")), "{error}");
        }
        for owner in [0, 8] {
            let error = check(0o40_700, owner).unwrap_err();
            assert!(error.contains(&format!("user {owner}")) && error.contains("`chown -R 7 '/d/keys'`"), "{error}");
        }
    }

    #[test]
    fn every_private_folder_is_looked_at() {
        let base = tempfile::tempdir().unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(base.path(), 0o700);
        check(base.path()).unwrap();
        for name in ["archive", "authority", "invites", "."] {
            let folder = base.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            if name == "authority" {
                fs::write(folder.join("authority.key"), "").unwrap();
                chmod(&folder.join("authority.key"), 0o600);
            }
            chmod(&folder, 0o750);
            assert!(matches!(check(base.path()), Err(Error::Open { mode: 0o750, .. })), "{name}");
            chmod(&folder, 0o700);
            check(base.path()).unwrap();
        }
    }
}
