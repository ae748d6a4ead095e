//! Who this node is: two secret keys in `DATA/keys`, made once and kept for ever. Who the others are: [`roster`]; who
//! says so: [`authority`].
//!
//! The Ed25519 key is the node's name in the mesh, its TLS identity and its signature; the X25519 key receives session
//! keys. A node that silently made itself new keys would be a stranger to its own mesh and could not open its own
//! archive, so anything odd about an existing key is an error for a person to look at, never a reason to make another.
//!
//! Both files appear at once: they are written and flushed in a folder beside, which then takes its final name. A power
//! cut leaves either no keys or both. They may be put behind a passphrase later (`identity/lock.rs`).

pub mod authority;
pub mod file;
mod lock;
pub mod private;
pub mod roster;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use store::id::NodeId;
use store::keys::{NodeKey, WrapKey, WrapPublic};
use store::locked;
use zeroize::Zeroizing;

use self::private::must_be;

/// The folder of keys inside the data folder.
const FOLDER: &str = "keys";
const NODE: &str = "node.key";
const WRAP: &str = "wrap.key";
/// Ours are 120 bytes; anything much longer is not a key of ours.
const FILE_BYTES_MAX: u64 = 1024;
/// Hex digits of the check sum: enough that a damaged key is not taken for another one.
const CHECK_DIGITS: usize = 16;

/// The node's secret keys. Its `Debug` form shows the public id only.
#[derive(Clone)]
pub struct Identity {
    /// Signs, and names the node.
    pub node: NodeKey,
    /// Receives session keys.
    pub wrap: WrapKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// The public halves of a node's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Public {
    /// Names the node.
    pub node: NodeId,
    /// To this session keys are wrapped.
    pub wrap: WrapPublic,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was set up here.
    #[error("there are no keys in {0}: run `diemcau init` with this data folder first")]
    Missing(PathBuf),
    /// They are behind a passphrase, which was not given.
    #[error("the keys in {0} are locked by a passphrase, which is needed for this")]
    Locked(PathBuf),
    /// Locked keys were not opened.
    #[error("{path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: locked::Error,
    },
    /// Others on this machine may read what is secret.
    #[error(
        "{path} may be read by others (mode {mode:o}): run `chmod {want:o} '{path}'`, and if others use this machine, \
             treat what was in it as known to them"
    )]
    Open {
        /// What is open.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        want: u32,
    },
    /// Another user of this machine can read and change what is secret.
    #[error(
        "{path} belongs to user {owner}, and this runs as user {me}: run it as user {owner}, or give the files to user {me} \
             with `chown -R {me} '{path}'`"
    )]
    Foreign {
        /// What is another's.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// A key file is not what we wrote.
    #[error(
        "{path} is damaged ({found}): put it back from a backup; do not delete it, for without it this point is a \
             stranger to the others and cannot open its recordings"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
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

impl Identity {
    /// Loads the keys of the data folder `data`, if they are not behind a passphrase.
    pub fn load(data: &Path) -> Result<Self, Error> {
        let folder = data.join(FOLDER);
        if !folder.try_exists().map_err(disk(&folder))? {
            return Err(Error::Missing(data.to_owned()));
        }
        must_be(data, 0o700)?;
        must_be(&folder, 0o700)?;
        if Self::is_locked(data)? {
            return Err(Error::Locked(data.to_owned()));
        }
        let node = read(&folder.join(NODE), "node")?;
        let wrap = read(&folder.join(WRAP), "wrap")?;
        Ok(Self { node: NodeKey::from_bytes(&node), wrap: WrapKey::from_bytes(&wrap) })
    }

    /// Loads the keys of the data folder `data`, making the folder and the keys when this is the first time.
    /// Returns whether it was.
    pub fn load_or_create(data: &Path) -> Result<(Self, bool), Error> {
        make_private(data)?;
        match Self::load(data) {
            Err(Error::Missing(_)) => {}
            found => return found.map(|identity| (identity, false)),
        }
        let fresh = Self { node: NodeKey::generate(), wrap: WrapKey::generate() };
        let made = fresh.save(data)?;
        // Loaded back rather than trusted: what the next start will read is what this one runs with, and when two
        // processes came here together both take the keys that won.
        Ok((Self::load(data)?, made))
    }

    /// The public name of this node.
    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// The public halves of these keys.
    pub fn public(&self) -> Public {
        Public { node: self.id(), wrap: self.wrap.public() }
    }

    /// The public halves of the keys of the data folder `data`, for which nobody is asked for a passphrase.
    pub fn public_of(data: &Path) -> Result<Public, Error> {
        match Self::load(data) {
            Err(Error::Locked(_)) => lock::public(data),
            loaded => loaded.map(|identity| identity.public()),
        }
    }

    /// Returns `false` when another process had put its keys there first.
    fn save(&self, data: &Path) -> Result<bool, Error> {
        let folder = data.join(FOLDER);
        let beside = data.join(format!(".{FOLDER}-{}", std::process::id()));
        // Left by a process of the same number that died in the middle: never complete, never used.
        match fs::remove_dir_all(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(disk(&beside)(source)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&beside).map_err(disk(&beside))?;
        write(&beside.join(NODE), "node", &self.node.secret_bytes())?;
        write(&beside.join(WRAP), "wrap", &self.wrap.secret_bytes())?;
        flush_folder(&beside)?;
        match fs::rename(&beside, &folder) {
            Ok(()) => flush_folder(data).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fs::remove_dir_all(&beside).map_err(disk(&beside)).map(|()| false)
            }
            Err(source) => Err(disk(&folder)(source)),
        }
    }
}

/// Makes the data folder for its owner alone. One that exists must be so already, except an empty one, which is taken
/// over: nothing in it can have been read.
pub fn make_private(data: &Path) -> Result<(), Error> {
    if !data.try_exists().map_err(disk(data))? {
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(disk(data))?;
    } else if fs::read_dir(data).map_err(disk(data))?.next().is_none() {
        fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(disk(data))?;
    }
    must_be(data, 0o700)
}

/// `diemcau KIND key 1`, the secret in hex, a check sum: text, so that it can be printed and typed in again. Its room is made
/// at once, as a text that grows leaves copies of itself behind.
fn encode(kind: &str, secret: &[u8; 32]) -> Zeroizing<String> {
    let mut digits = Zeroizing::new([0; 64]);
    hex::encode_to_slice(secret, &mut *digits).expect("two digits for each byte");
    let digits = std::str::from_utf8(&*digits).expect("hex digits are ASCII");
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
    let check = check(kind, digits);
    for piece in ["diemcau ", kind, " key 1\n", digits, "\n", &check, "\n"] {
        text.push_str(piece);
    }
    text
}

fn check(kind: &str, digits: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for piece in ["diemcau ", kind, " key 1\n", digits] {
        hasher.update(piece.as_bytes());
    }
    let mut sum = hasher.finalize().to_hex().to_string();
    sum.truncate(CHECK_DIGITS);
    sum
}

fn decode(kind: &str, text: &str) -> Result<Zeroizing<[u8; 32]>, String> {
    let mut lines = text.lines();
    let [title, secret, sum] = [(); 3].map(|()| lines.next().unwrap_or_default());
    if title != format!("diemcau {kind} key 1") {
        return Err(format!("it is not a {kind} key of version 1"));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(secret, &mut *bytes).map_err(|_| "its second line is not 64 hex digits".to_owned())?;
    if sum != check(kind, secret) {
        return Err("its check sum does not fit".to_owned());
    }
    Ok(bytes)
}

fn read(path: &Path, kind: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    let damaged = |found: String| Error::Damaged { path: path.to_owned(), found };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing".to_owned())),
        Err(source) => return Err(disk(path)(source)),
    };
    must_be(path, 0o600)?;
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => decode(kind, &text).map_err(damaged),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged("it is not text".to_owned())),
        Err(source) => Err(disk(path)(source)),
    }
}

fn write(path: &Path, kind: &str, secret: &[u8; 32]) -> Result<(), Error> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(disk(path))?;
    file.write_all(encode(kind, secret).as_bytes()).and_then(|()| file.sync_all()).map_err(disk(path))
}

fn flush_folder(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(disk(path))
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_made_once_and_only_their_owner_reads_them() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("a/data");
        assert!(matches!(Identity::load(&data), Err(Error::Missing(_))));
        let (first, made) = Identity::load_or_create(&data).unwrap();
        assert!(made);
        assert_eq!(mode(&data), 0o700);
        assert_eq!(mode(&data.join("keys")), 0o700);
        assert_eq!(mode(&data.join("keys/node.key")), 0o600);
        assert_eq!(mode(&data.join("keys/wrap.key")), 0o600);
        let (again, made) = Identity::load_or_create(&data).unwrap();
        assert!(!made);
        assert_eq!(again.id(), first.id());
        assert_eq!(*again.wrap.secret_bytes(), *first.wrap.secret_bytes());
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing is left beside the keys");
    }

    #[test]
    fn keys_that_others_may_read_are_refused_with_the_command_that_helps() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        Identity::load_or_create(&data).unwrap();
        for (path, open, want) in
            [("keys/node.key", 0o640, 0o600), ("keys/wrap.key", 0o604, 0o600), ("keys", 0o750, 0o700)]
        {
            let path = data.join(path);
            chmod(&path, open);
            let error = Identity::load(&data).unwrap_err().to_string();
            assert!(error.contains(&format!("(mode {open:o}): run `chmod {want:o} '{}'`", path.display())), "{error}");
            chmod(&path, want);
        }
        Identity::load(&data).unwrap();
    }

    #[test]
    fn a_folder_others_may_read_is_taken_over_only_when_empty() {
        let base = tempfile::tempdir().unwrap();
        let [empty, full] = ["empty", "full"].map(|name| base.path().join(name));
        for dir in [&empty, &full] {
            fs::create_dir(dir).unwrap();
            chmod(dir, 0o755);
        }
        fs::write(full.join("letter"), "from before").unwrap();
        Identity::load_or_create(&empty).unwrap();
        assert_eq!(mode(&empty), 0o700);
        assert!(matches!(Identity::load_or_create(&full), Err(Error::Open { mode: 0o755, want: 0o700, .. })));
        assert_eq!(mode(&full), 0o755);
    }

    #[test]
    fn a_damaged_key_is_refused_and_never_replaced() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        Identity::load_or_create(&data).unwrap();
        let path = data.join("keys/node.key");
        let good = fs::read(&path).unwrap();
        let check = |bytes: &[u8], found: &str| {
            fs::write(&path, bytes).unwrap();
            let error = Identity::load_or_create(&data).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
            let secret = String::from_utf8_lossy(&good[19..83]).into_owned();
            assert!(!error.contains(&secret), "a message must not show the key");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        };
        let mut flipped = good.clone();
        flipped[30] = if flipped[30] == b'0' { b'1' } else { b'0' };
        check(&flipped, "check sum");
        check(&good[..50], "64 hex digits");
        check(b"", "not a node key of version 1");
        check(b"\xff\xfe\xfd", "not text");
        let wrap = fs::read(data.join("keys/wrap.key")).unwrap();
        check(&wrap, "not a node key");
        fs::remove_file(&path).unwrap();
        let error = Identity::load_or_create(&data).unwrap_err().to_string();
        assert!(error.contains("it is missing"), "{error}");
    }

    #[test]
    fn printing_an_identity_shows_no_secret() {
        let base = tempfile::tempdir().unwrap();
        let (identity, _) = Identity::load_or_create(&base.path().join("data")).unwrap();
        let printed = format!("{identity:?}");
        assert!(printed.starts_with("Identity { id: "), "{printed}");
        assert!(!printed.contains(&hex::encode(*identity.node.secret_bytes())));
        assert!(!printed.contains(&hex::encode(*identity.wrap.secret_bytes())));
    }
}
