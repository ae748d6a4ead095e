//! An invite as the inviting node keeps it: `DATA/invites/ID`, one file each, readable by its owner alone.
//!
//! The file is where the use of an invite is decided: the signed admission is written into it and flushed before
//! anybody is told. So after a crash the one node that was let in is let in again with the same words, and no other is.
//! The secret itself is not kept. What is here lets its reader prove himself to the newcomer, but not come in: for that
//! the code's signing key is needed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::id::NodeId;
use store::roster::{Admission, Grant, GrantId, Membership, Right};
use store::signed::Signed;
use zeroize::{Zeroize, Zeroizing};

use super::secret::{MacKey, Secret};
use crate::identity::file;

/// The folder of invites inside the data folder.
pub const FOLDER: &str = "invites";
/// Invites kept at once. Beyond, old ones must be cancelled before new ones are made.
pub const INVITES_MAX: usize = 1024;
/// A grant, an admission with one in it, and the rest.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// How long an invite is remembered after its end, to say "used" or "expired" and not "wrong".
const REMEMBERED_MS: u64 = 30 * 24 * 3_600_000;
const VERSION: u8 = 1;

/// An invite and what became of it.
#[derive(Clone, Debug)]
pub struct Invite {
    grant: Signed<Grant>,
    key: MacKey,
    admission: Option<Signed<Admission>>,
    withdrawn: bool,
}

/// Why invites cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not what we wrote.
    #[error("{path} is damaged: take it away, and make another invite if it is still wanted")]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// There are too many.
    #[error("{INVITES_MAX} invites are kept already: cancel some with `diemcau invite --cancel ID`")]
    Full,
    /// The system refused.
    #[error("{path}")]
    Disk {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The file, after its version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    grant: Bytes,
    key: [u8; 32],
    admission: Option<Bytes>,
    withdrawn: bool,
}

impl Invite {
    /// A fresh invite for whoever knows `secret`. The grant must name what is derived from it.
    pub fn new(grant: Signed<Grant>, secret: &Secret) -> Self {
        Self { grant, key: secret.mac_key(), admission: None, withdrawn: false }
    }

    /// Its name.
    pub fn id(&self) -> GrantId {
        self.grant.content().id
    }

    /// What the authority grants.
    pub fn grant(&self) -> &Grant {
        self.grant.content()
    }

    /// The grant as it was signed.
    pub fn signed_grant(&self) -> &Signed<Grant> {
        &self.grant
    }

    pub(super) fn key(&self) -> &MacKey {
        &self.key
    }

    /// How it was used, if it was.
    pub fn admission(&self) -> Option<&Signed<Admission>> {
        self.admission.as_ref()
    }

    /// Who came in by it, if anybody did.
    pub fn used_by(&self) -> Option<NodeId> {
        self.admission.as_ref().map(|admission| admission.content().node)
    }

    /// Whether it was taken back.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Says why it cannot be taken back, if so.
    pub fn may_be_withdrawn(&self) -> Result<(), &'static str> {
        match self.admission {
            Some(_) => Err("the invite was used: what it made a point, `diemcau authority revoke` takes out"),
            None => Ok(()),
        }
    }

    /// Takes it back. One that was used stays used.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Marks it as used by the admission's node. The first use stays.
    pub fn use_up(&mut self, admission: Signed<Admission>) {
        self.admission.get_or_insert(admission);
    }

    /// Says why `me` cannot redeem such an invite, if so.
    pub fn may_be_kept(&self, membership: &Membership, me: &NodeId) -> Result<(), &'static str> {
        if self.grant.signer() != membership.authority() {
            return Err("the invite is signed by another authority than this mesh's");
        }
        if self.grant().issuer != *me {
            return Err("the invite is for another point to redeem");
        }
        if !membership.may(me, Right::Admin) {
            return Err("this point has not the right admin, so it cannot invite: `diemcau authority` can give it");
        }
        Ok(())
    }

    /// Whether nobody needs to hear of it any more.
    pub fn is_forgotten(&self, unix_ms: u64) -> bool {
        self.grant().not_after_unix_ms.saturating_add(REMEMBERED_MS) < unix_ms
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut kept = Kept {
            grant: self.grant.bytes().clone(),
            key: *self.key.secret_bytes(),
            admission: self.admission.as_ref().map(|admission| admission.bytes().clone()),
            withdrawn: self.withdrawn,
        };
        // Grown beforehand: a vector that moves leaves its old bytes behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
        bytes.push(VERSION);
        ciborium::into_writer(&kept, &mut *bytes).expect("writing into memory does not fail");
        kept.key.zeroize();
        bytes
    }

    /// Reads such bytes; `None` when they are not an invite.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let mut kept: Kept = ciborium::de::from_reader_with_recursion_limit(&mut rest, 16).ok()?;
        let key = MacKey::from_bytes(&kept.key);
        kept.key.zeroize();
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            grant: Signed::parse(kept.grant).ok()?,
            key,
            admission: kept.admission.map(Signed::parse).transpose().ok()?,
            withdrawn: kept.withdrawn,
        })
    }
}

/// Every invite of the data folder `data`; those long over are removed. A damaged file is named and left.
pub fn load(data: &Path, unix_ms: u64) -> Result<Vec<Invite>, Error> {
    let folder = data.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(disk(&folder))?,
    };
    let mut invites = Vec::new();
    for entry in entries.take(2 * INVITES_MAX) {
        let path = entry.map_err(disk(&folder))?.path();
        // What a crash left half written begins with a dot.
        let is_invite = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with('.'));
        if !is_invite {
            continue;
        }
        match read_file(&path) {
            Ok(invite) if invite.is_forgotten(unix_ms) => fs::remove_file(&path).map_err(disk(&path))?,
            Ok(invite) => invites.push(invite),
            Err(Error::Damaged { path }) => {
                tracing::error!(path = %path.display(), "an invite is damaged and passed over")
            }
            Err(error) => return Err(error),
        }
    }
    invites.truncate(INVITES_MAX);
    Ok(invites)
}

/// Writes an invite; after a power cut the old or the new file is there.
pub fn save(data: &Path, invite: &Invite) -> Result<(), Error> {
    let folder = data.join(FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => File::open(data).and_then(|data| data.sync_all()).map_err(disk(data))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(disk(&folder)(source)),
    }
    let path = folder.join(invite.id().to_string());
    file::put(&path, &invite.encode()).map_err(disk(&path))
}

/// The invite of this id in the data folder `data`.
pub fn read(data: &Path, id: &GrantId) -> Result<Invite, Error> {
    read_file(&data.join(FOLDER).join(id.to_string()))
}

/// Takes an invite out of the data folder for good.
pub fn remove(data: &Path, id: &GrantId) -> Result<(), Error> {
    let path = data.join(FOLDER).join(id.to_string());
    fs::remove_file(&path).map_err(disk(&path))
}

fn read_file(path: &Path) -> Result<Invite, Error> {
    let bytes = Zeroizing::new(file::read(path, FILE_BYTES_MAX).map_err(disk(path))?);
    Invite::decode(&bytes).ok_or_else(|| Error::Damaged { path: path.to_owned() })
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::tests::{granted, invite};
    use super::*;

    #[test]
    fn an_invite_is_kept_with_its_use_and_its_owner_alone_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, mut invite) = invite();
        save(dir.path(), &invite).unwrap();
        let path = dir.path().join(FOLDER).join(secret.id().to_string());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join(FOLDER)).unwrap().mode() & 0o777, 0o700);
        let read = load(dir.path(), 0).unwrap().remove(0);
        assert_eq!((read.id(), read.used_by(), read.is_withdrawn()), (secret.id(), None, false));

        let (first, second) = (granted(&invite, 1), granted(&invite, 2));
        let node = first.content().node;
        invite.use_up(first);
        invite.use_up(second);
        invite.withdraw();
        save(dir.path(), &invite).unwrap();
        let read = load(dir.path(), 0).unwrap().remove(0);
        assert_eq!((read.used_by(), read.is_withdrawn()), (Some(node), true));
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn neither_the_secret_nor_the_signing_key_lies_on_the_disk() {
        let (secret, invite) = invite();
        let bytes = invite.encode();
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!has(secret.as_bytes()) && !has(&*secret.signing_key().secret_bytes()));
        assert!(!format!("{invite:?}").contains(&hex::encode(*secret.mac_key().secret_bytes())));
    }

    #[test]
    fn an_invite_long_over_is_forgotten_and_a_damaged_one_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (_, invite) = invite();
        let end = invite.grant().not_after_unix_ms;
        save(dir.path(), &invite).unwrap();
        fs::write(dir.path().join(FOLDER).join("x"), b"rubbish").unwrap();
        fs::write(dir.path().join(FOLDER).join(".y"), b"left by a crash").unwrap();
        assert_eq!(load(dir.path(), end + REMEMBERED_MS).unwrap().len(), 1);
        assert_eq!(load(dir.path(), end + REMEMBERED_MS + 1).unwrap().len(), 0);
        assert_eq!(load(dir.path(), 0).unwrap().len(), 0, "its file is gone");
    }

    #[test]
    fn whatever_a_file_holds_reading_it_returns() {
        let (_, mut invite) = invite();
        invite.use_up(granted(&invite, 1));
        let bytes = invite.encode();
        assert!(Invite::decode(&bytes).is_some());
        for end in 0..bytes.len() {
            assert!(Invite::decode(&bytes[..end]).is_none(), "cut at {end}");
        }
    }
}
