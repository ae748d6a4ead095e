//! The keys behind a passphrase: `keys/locked.keys` in place of the two plain files.
//!
//! One file for both keys, so that there is one moment at which they change from plain to locked, or from one passphrase to
//! another: the renaming of that file. As long as it is there it alone counts; plain keys beside it are what a power cut
//! left, and go with the next start ([`settle`]). They go only if they are the same keys: others may be somebody's last copy.
//!
//! The public halves stand in front, so that what needs no secret (who is this? which roster is ours?) needs no passphrase. They
//! are compared with the secret ones when those are opened.
//!
//! ```text
//! diemcau locked keys 1
//! node and the node's id
//! wrap and the public wrap key
//! the five lines of a locked node key (store::locked)
//! the five lines of a locked wrap key
//! ```
//!
//! This protects what lies on the disk from now on. The plain files are removed, not scrubbed: a disk keeps what was in
//! them until it needs the room.

use std::fs;
use std::io;
use std::path::Path;

use store::id::NodeId;
use store::keys::{NodeKey, WrapKey, WrapPublic};
use store::locked;

use super::private::must_be;
use super::{Error, FOLDER, Identity, NODE, Public, WRAP, disk, file, flush_folder, read};

/// The file's name in the folder of keys.
pub(super) const FILE: &str = "locked.keys";
const TITLE: &str = "diemcau locked keys 1";
/// Longest text that is looked at.
const LEN_MAX: usize = 2 * locked::LEN_MAX + 256;
/// Lines of a locked secret.
const LINES: usize = 5;

impl Identity {
    /// Whether the keys of the data folder `data` are behind a passphrase.
    pub fn is_locked(data: &Path) -> Result<bool, Error> {
        let path = data.join(FOLDER).join(FILE);
        path.try_exists().map_err(disk(&path))
    }

    /// Loads the keys of the data folder `data`, which may be behind this passphrase.
    pub fn unlock(data: &Path, passphrase: &str) -> Result<Self, Error> {
        match Self::load(data) {
            Err(Error::Locked(_)) => open(data, passphrase),
            loaded => loaded,
        }
    }

    /// Puts the keys of `data`, which are these, behind this passphrase. The folder must be held: see [`settle`].
    pub fn lock(&self, data: &Path, passphrase: &str) -> Result<(), Error> {
        let path = data.join(FOLDER).join(FILE);
        let text = format!(
            "{TITLE}\nnode {}\nwrap {}\n{}{}",
            self.id(),
            self.wrap.public(),
            locked::lock("node", &self.node.secret_bytes(), passphrase),
            locked::lock("wrap", &self.wrap.secret_bytes(), passphrase),
        );
        file::put(&path, text.as_bytes()).map_err(disk(&path))?;
        // Only what can be opened again takes the place of what could be.
        open(data, passphrase)?;
        self.settle(data)
    }

    /// Puts the keys of `data`, which are these, back into plain files. The folder must be held.
    pub fn lay_open(&self, data: &Path) -> Result<(), Error> {
        let folder = data.join(FOLDER);
        for (name, kind, secret) in [(NODE, "node", self.node.secret_bytes()), (WRAP, "wrap", self.wrap.secret_bytes())]
        {
            let path = folder.join(name);
            file::put(&path, super::encode(kind, &secret).as_bytes()).map_err(disk(&path))?;
            read(&path, kind)?;
        }
        let path = folder.join(FILE);
        fs::remove_file(&path).map_err(disk(&path))?;
        flush_folder(&folder)
    }

    /// Removes what a power cut left of a change between plain and locked. Whoever calls this holds the data folder
    /// ([`crate::control::hold`]), or it might take from under another process the plain files that one is about to rely on.
    pub fn settle(&self, data: &Path) -> Result<(), Error> {
        if !Self::is_locked(data)? {
            return Ok(());
        }
        let folder = data.join(FOLDER);
        for (name, kind, ours) in [(NODE, "node", self.node.secret_bytes()), (WRAP, "wrap", self.wrap.secret_bytes())] {
            let path = folder.join(name);
            if !path.try_exists().map_err(disk(&path))? {
                continue;
            }
            if *read(&path, kind)? != *ours {
                let found = format!("it is another key than the one in {FILE} beside it, which counts");
                return Err(Error::Damaged { path, found });
            }
            fs::remove_file(&path).map_err(disk(&path))?;
        }
        // Half-written files, which may hold a plain key.
        for entry in fs::read_dir(&folder).map_err(disk(&folder))? {
            let entry = entry.map_err(disk(&folder))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path()).map_err(disk(&entry.path()))?;
            }
        }
        flush_folder(&folder)
    }
}

/// The public halves of locked keys.
pub(super) fn public(data: &Path) -> Result<Public, Error> {
    Ok(Text::read(data)?.public)
}

fn open(data: &Path, passphrase: &str) -> Result<Identity, Error> {
    let text = Text::read(data)?;
    let path = data.join(FOLDER).join(FILE);
    let unlock = |kind, text: &str| {
        locked::unlock(kind, text, passphrase).map_err(|source| Error::Key { path: path.clone(), source })
    };
    let (node, wrap) = (unlock("node", &text.node)?, unlock("wrap", &text.wrap)?);
    let identity = Identity { node: NodeKey::from_bytes(&node), wrap: WrapKey::from_bytes(&wrap) };
    if identity.public() != text.public {
        return Err(Error::Damaged { path, found: "its secret keys are not those of its public ones".to_owned() });
    }
    Ok(identity)
}

/// What stands in the file.
struct Text {
    public: Public,
    node: String,
    wrap: String,
}

impl Text {
    fn read(data: &Path) -> Result<Self, Error> {
        let path = data.join(FOLDER).join(FILE);
        must_be(&path, 0o600)?;
        let damaged = |found: &str| Error::Damaged { path: path.clone(), found: found.to_owned() };
        let bytes = match file::read(&path, LEN_MAX) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(damaged("it is too long")),
            read => read.map_err(disk(&path))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        Self::parse(&text).map_err(damaged)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let lines: Vec<&str> = text.lines().collect();
        let [title, node, wrap, secrets @ ..] = &lines[..] else { return Err("it has not thirteen lines") };
        if *title != TITLE {
            return Err("it does not hold locked keys of version 1");
        }
        if secrets.len() != 2 * LINES {
            return Err("it has not thirteen lines");
        }
        let node = node.strip_prefix("node ").and_then(|id| id.parse::<NodeId>().ok());
        let wrap = wrap.strip_prefix("wrap ").and_then(|key| key.parse::<WrapPublic>().ok());
        let public = Public {
            node: node.ok_or("its second line names no node")?,
            wrap: wrap.ok_or("its third line is no wrap key")?,
        };
        let join = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect();
        Ok(Self { public, node: join(&secrets[..LINES]), wrap: join(&secrets[LINES..]) })
    }
}

#[cfg(test)]
mod tests;
