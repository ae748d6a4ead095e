//! The authority: the one key that can make a point or unmake it, in a folder that need not be on this machine.
//!
//! `DATA/authority`, or a folder on a USB stick in a drawer: `authority.key`, locked by a passphrase; `roster.cose`, what
//! was signed last; `grants/`, the invitations given out. Nothing else needs the key, so a mesh runs on while it
//! is away.
//!
//! What was signed last lies beside the key and not only in the data folder, because two data folders may take
//! turns with one stick: whoever signs next follows what was signed last, wherever that was, and never makes a second
//! roster of one number. It is written before anybody else sees the roster.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use store::id::NodeId;
use store::keys::NodeKey;
use store::locked;
use store::roster::{Grant, GrantId, Membership, Roster};
use store::signed::{self, Signed};

use super::private::must_be;
use super::{file, roster};

/// The folder's usual place inside the data folder.
pub const FOLDER: &str = "authority";
const KEY: &str = "authority.key";
const GRANTS: &str = "grants";
/// The word in the key file's title.
const KIND: &str = "authority";
/// Grants read at most: as many as a roster can call void.
const GRANTS_MAX: usize = store::roster::VOID_MAX;

/// Why the authority did not sign.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is somewhere else.
    #[error(
        "there is no authority key in {0}: if it is on a USB stick, plug it in and add `--authority DIR`; if it is on \
             another machine, do this there. The mesh runs on without it"
    )]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is an authority in {0} already: it is never replaced, for its mesh would be lost")]
    Exists(PathBuf),
    /// Others may read what is there.
    #[error(transparent)]
    Open(#[from] super::Error),
    /// The key file was not opened.
    #[error("{path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: locked::Error,
    },
    /// Two at once would sign two rosters of one number.
    #[error("another command is using the authority in {0}: try again when it is done")]
    Busy(PathBuf),
    /// It is another mesh's authority.
    #[error("the key in {folder} is of authority {found}, but this mesh belongs to {mesh}: it cannot sign here")]
    Foreign {
        /// The authority's folder.
        folder: PathBuf,
        /// Whose key it is.
        found: NodeId,
        /// Whose mesh this is.
        mesh: NodeId,
    },
    /// What was signed last cannot be read or contradicts what is here.
    #[error(transparent)]
    Roster(#[from] roster::Error),
    /// What was to be signed makes no sense.
    #[error("this cannot be signed")]
    Unsound(#[source] signed::Error),
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

/// The authority with its key open. One at a time can have it.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    key: NodeKey,
    /// The key's file, locked as long as this is there.
    _lock: File,
}

impl Authority {
    /// Makes an authority and its first roster in `folder`, which must not be there yet. Either all of it appears or
    /// nothing. `first` is the roster; `commit` is called when all is ready and nothing can be seen yet.
    pub fn create<E: From<Error>>(
        folder: &Path,
        passphrase: &str,
        first: Roster,
        commit: impl FnOnce(&Membership) -> Result<(), E>,
    ) -> Result<Membership, E> {
        if folder.try_exists().map_err(disk(folder))? {
            return Err(Error::Exists(folder.to_owned()).into());
        }
        let key = NodeKey::generate();
        let signed = Signed::sound(first, &key).map_err(Error::Unsound)?;
        let membership = Membership::new(signed, &key.id()).expect("signed by this key");
        let parent = folder.parent().unwrap_or(Path::new("."));
        let beside = parent.join(format!(".{FOLDER}-{}", std::process::id()));
        // Left by a process of the same number that died in the middle: never complete, never used.
        match fs::remove_dir_all(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(disk(&beside)(source).into()),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&beside).map_err(disk(&beside))?;
        let made = Self::fill(&beside, &key, passphrase, &membership)
            .map_err(E::from)
            .and_then(|()| commit(&membership))
            .and_then(|()| Ok(fs::rename(&beside, folder).map_err(disk(folder))?));
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&beside);
        }
        made?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk(parent))?;
        Ok(membership)
    }

    fn fill(folder: &Path, key: &NodeKey, passphrase: &str, membership: &Membership) -> Result<(), Error> {
        let path = folder.join(KEY);
        file::write_new(&path, locked::lock(KIND, &key.secret_bytes(), passphrase).as_bytes()).map_err(disk(&path))?;
        let grants = folder.join(GRANTS);
        DirBuilder::new().mode(0o700).create(&grants).map_err(disk(&grants))?;
        roster::save(folder, membership)?;
        Ok(())
    }

    /// Whether there is an authority's key in this folder.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(KEY).is_file()
    }

    /// Opens the authority in `folder`.
    pub fn open(folder: &Path, passphrase: &str) -> Result<Self, Error> {
        let path = folder.join(KEY);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(folder.to_owned())),
            Err(source) => return Err(disk(&path)(source)),
        };
        must_be_private(folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(disk(&path)(source)),
        }
        let bytes = file::read(&path, locked::LEN_MAX).map_err(disk(&path))?;
        let text = String::from_utf8_lossy(&bytes);
        let secret = locked::unlock(KIND, &text, passphrase).map_err(|source| Error::Key { path, source })?;
        Ok(Self { folder: folder.to_owned(), key: NodeKey::from_bytes(&secret), _lock: lock })
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// What is known to this node and to the authority together: what the next roster follows.
    pub fn known(&self, mut ours: Membership) -> Result<Membership, Error> {
        if ours.authority() != self.id() {
            return Err(Error::Foreign { folder: self.folder.clone(), found: self.id(), mesh: ours.authority() });
        }
        let path = self.folder.join(roster::FILE);
        match roster::read(&path) {
            Ok(last) => {
                ours.merge(&last).map_err(|source| roster::wrong(&path, source))?;
                Ok(ours)
            }
            Err(roster::Error::Missing(_)) => Ok(ours),
            Err(error) => Err(error.into()),
        }
    }

    /// Signs the roster that follows `known` and writes it down beside the key.
    pub fn sign(&self, known: &Membership, next: Roster) -> Result<Membership, Error> {
        let signed = Signed::sound(next, &self.key).map_err(Error::Unsound)?;
        let path = self.folder.join(roster::FILE);
        let mut after = known.clone();
        after.merge_roster(signed).map_err(|source| roster::wrong(&path, source))?;
        roster::save(&self.folder, &after)?;
        Ok(after)
    }

    /// Signs a grant and writes it down beside the key.
    pub fn grant(&self, grant: Grant) -> Result<Signed<Grant>, Error> {
        let signed = Signed::sound(grant, &self.key).map_err(Error::Unsound)?;
        let grants = self.folder.join(GRANTS);
        match DirBuilder::new().mode(0o700).create(&grants) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(disk(&grants)(source)),
            _ => {}
        }
        let path = grants.join(signed.content().id.to_string());
        file::put(&path, signed.bytes()).map_err(disk(&path))?;
        Ok(signed)
    }
}

/// The grants written down in an authority's folder, without its key. What is no good grant is passed over.
pub fn grants(folder: &Path) -> Result<Vec<Signed<Grant>>, Error> {
    let grants = folder.join(GRANTS);
    let entries = match fs::read_dir(&grants) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(disk(&grants)(source)),
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let names = names.filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<GrantId>().is_ok())
    });
    let read = |path: PathBuf| {
        let bytes = file::read(&path, <Grant as signed::Content>::LEN_MAX).ok()?;
        Signed::parse(bytes.into()).ok()
    };
    Ok(names.take(GRANTS_MAX).filter_map(read).collect())
}

/// Refuses an authority in `folder` that is not its owner's alone, where the file system knows owners: on a USB stick with FAT
/// modes say nothing, and the passphrase alone protects. If there is no authority, there is nothing to refuse.
pub(super) fn must_be_private(folder: &Path) -> Result<(), super::Error> {
    /// FAT, exFAT, NTFS (two drivers) and what FUSE brings, as `statfs(2)` names them.
    const WITHOUT_MODES: [rustix::fs::FsWord; 5] = [0x4d44, 0x2011_bab0, 0x5346_544e, 0x7366_746e, 0x6573_5546];
    let key = folder.join(KEY);
    if !key.try_exists().map_err(super::disk(&key))? {
        return Ok(());
    }
    let system = rustix::fs::statfs(folder).map_err(|errno| super::disk(folder)(errno.into()))?;
    if WITHOUT_MODES.contains(&system.f_type) {
        return Ok(());
    }
    must_be(folder, 0o700)?;
    must_be(&key, 0o600)
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use store::id::Hash;
    use store::keys::WrapKey;
    use store::roster::{Point, Right};

    use super::*;

    const PASSPHRASE: &str = "một con vịt";

    fn first() -> Roster {
        let point = Point {
            node: NodeKey::generate().id(),
            wrap: WrapKey::generate().public(),
            name: "Trung tâm".into(),
            level: String::new(),
            zone: String::new(),
            rights: Right::ALL.into(),
            addresses: Vec::new(),
            replaces: None,
        };
        Roster {
            number: 1,
            prev: Hash::NONE,
            agency: "Hải Phòng".into(),
            recovery: WrapKey::generate().public(),
            issued_unix_ms: 0,
            points: vec![point],
            revoked: Vec::new(),
            void: Vec::new(),
        }
    }

    fn create(folder: &Path) -> Membership {
        Authority::create::<Error>(folder, PASSPHRASE, first(), |_| Ok(())).unwrap()
    }

    #[test]
    fn an_authority_appears_whole_or_not_at_all_and_is_its_owners() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("authority");
        let stop = |_: &Membership| Err(Error::Missing("stopped".into()));
        assert!(Authority::create(&folder, PASSPHRASE, first(), stop).is_err());
        let unsound = Roster { agency: String::new(), ..first() };
        assert!(matches!(Authority::create::<Error>(&folder, PASSPHRASE, unsound, |_| Ok(())), Err(Error::Unsound(_))));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "nothing is left");

        let membership = create(&folder);
        let mode = |path: &str| fs::metadata(folder.join(path)).unwrap().mode() & 0o777;
        assert_eq!([mode(""), mode(KEY), mode(GRANTS), mode(roster::FILE)], [0o700, 0o600, 0o700, 0o600]);
        assert!(matches!(Authority::create::<Error>(&folder, PASSPHRASE, first(), |_| Ok(())), Err(Error::Exists(_))));
        let authority = Authority::open(&folder, PASSPHRASE).unwrap();
        assert_eq!(authority.id(), membership.authority());
        assert!(!format!("{authority:?}").contains(&hex::encode(*authority.key.secret_bytes())));
    }

    #[test]
    fn a_key_that_is_away_open_or_locked_otherwise_is_said_to_be_so() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("authority");
        assert!(matches!(Authority::open(&folder, PASSPHRASE), Err(Error::Missing(_))));
        create(&folder);
        let wrong = Authority::open(&folder, "một con vẹt");
        assert!(matches!(wrong, Err(Error::Key { source: locked::Error::Passphrase, .. })));
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&folder.join(KEY), 0o644);
        let error = Authority::open(&folder, PASSPHRASE).unwrap_err().to_string();
        assert!(error.contains("(mode 644): run `chmod 600"), "{error}");
        chmod(&folder.join(KEY), 0o600);
        let moved = base.path().join("usb");
        fs::rename(&folder, &moved).unwrap();
        let open = Authority::open(&moved, PASSPHRASE).unwrap();
        assert!(matches!(Authority::open(&moved, PASSPHRASE), Err(Error::Busy(_))));
        drop(open);
        Authority::open(&moved, PASSPHRASE).unwrap();
    }

    #[test]
    fn what_is_signed_next_follows_what_was_signed_last_wherever_that_was() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("authority");
        let one = create(&folder);
        let authority = Authority::open(&folder, PASSPHRASE).unwrap();
        let two = authority.sign(&one, one.next_roster(1)).unwrap();
        // Another data folder has not heard of it.
        let known = authority.known(one.clone()).unwrap();
        assert_eq!(known, two);
        assert_eq!(authority.sign(&known, known.next_roster(2)).unwrap().number(), 3);
        // Nobody talks it into a second roster 2 with what it has.
        let forked = roster::for_good("Hải Phòng", one.points().to_vec()).unwrap();
        assert!(matches!(authority.known(forked), Err(Error::Foreign { .. })));
        assert!(authority.sign(&two, one.next_roster(3)).is_err());
    }

    #[test]
    fn grants_are_written_down() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("authority");
        create(&folder);
        let authority = Authority::open(&folder, PASSPHRASE).unwrap();
        let grant = Grant {
            id: GrantId::generate(),
            issuer: authority.id(),
            name: "Xã Kim Thành".into(),
            level: String::new(),
            zone: String::new(),
            rights: BTreeSet::new(),
            replaces: None,
            key: authority.id(),
            not_after_unix_ms: 5,
        };
        let signed = authority.grant(grant.clone()).unwrap();
        fs::write(folder.join(GRANTS).join("letter"), "x").unwrap();
        fs::write(folder.join(GRANTS).join(GrantId::generate().to_string()), "x").unwrap();
        assert_eq!(grants(&folder).unwrap(), [signed]);
        assert!(authority.grant(Grant { name: String::new(), ..grant }).is_err());
    }
}
