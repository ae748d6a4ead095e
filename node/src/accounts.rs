//! The accounts of the room's page: who may do what with a browser. Names, roles and hashes of passwords.
//!
//! They are a file of their own, `DATA/accounts.toml`, and not rows of the archive's `meta`: copies of `meta` are
//! made for commands and for safety and travel, and nobody's password hash should travel with them. The file is replaced
//! whole. Who may write the data folder may make accounts; there is no other way in, so a forgotten password is
//! never worse than a walk to the machine.

pub mod order;
pub mod password;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::password::Weak;
use crate::control::Fault;
pub use crate::engine::rights::Role;
use crate::identity;

/// The file's name inside the data folder.
pub const FILE: &str = "accounts.toml";
/// Most accounts of one node: a room has a handful.
pub const ACCOUNTS_MAX: usize = 200;
/// Longest name, in letters.
pub const NAME_MAX: usize = 40;
/// Largest file read: every account there can be, twice over.
const BYTES_MAX: u64 = 128 * 1024;

/// An account as others may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is called; letters and digits, without regard to capitals.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whether its password was set by somebody else and must be changed before anything is done with it.
    pub must_change: bool,
    /// Another number for every state of the account while the program runs: who logged in to an earlier one must log in
    /// again.
    #[serde(skip)]
    pub stamp: u64,
}

/// Why nothing was done about an account.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is called so.
    #[error("there is no account {0:?}: `diemcau account list` shows those that are")]
    Missing(String),
    /// Somebody is.
    #[error("there is an account {0:?} already")]
    Taken(String),
    /// Choose another.
    #[error("{0:?} cannot be an account's name: use up to {NAME_MAX} letters, digits, dots and dashes")]
    Name(String),
    /// Remove one first.
    #[error("there are {ACCOUNTS_MAX} accounts, which is the most there can be")]
    Full,
    /// The password in use was not given.
    #[error("the password in use is another one")]
    Wrong,
    /// The new one will not do.
    #[error(transparent)]
    Weak(#[from] Weak),
    /// It must stand there first.
    #[error("this must stand in the access log before it is done, and cannot be written there: {0}")]
    Unlogged(String),
    /// The file is not what we wrote.
    #[error("{path} is damaged ({found}): correct it, or remove it and add the accounts again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Others on this machine may read it.
    #[error(transparent)]
    Open(#[from] identity::Error),
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

impl Error {
    /// Of what kind this is to whoever asked.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Missing(_) => Fault::Missing,
            Error::Taken(_)
            | Error::Name(_)
            | Error::Full
            | Error::Wrong
            | Error::Weak(_)
            | Error::Unlogged(_)
            | Error::Open(_) => Fault::Refused,
            Error::Damaged { .. } => Fault::Damaged,
            Error::Disk { .. } => Fault::Failed,
        }
    }
}

/// One account as it is kept. Never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    role: Role,
    must_change: bool,
    password: String,
    #[serde(skip)]
    stamp: u64,
}

impl Kept {
    fn shown(&self) -> Account {
        Account { name: self.name.clone(), role: self.role, must_change: self.must_change, stamp: self.stamp }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    #[serde(default, rename = "account", skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<Kept>,
}

impl Book {
    fn named(&mut self, name: &str) -> Result<&mut Kept, Error> {
        let wanted = key(name);
        let found = self.accounts.iter_mut().find(|kept| key(&kept.name) == wanted);
        found.ok_or_else(|| Error::Missing(name.chars().take(NAME_MAX).collect()))
    }

    fn check_new(&mut self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if self.named(name).is_ok() {
            return Err(Error::Taken(name.to_owned()));
        }
        if self.accounts.len() >= ACCOUNTS_MAX { Err(Error::Full) } else { Ok(()) }
    }
}

/// How a name is compared: by its letters, however they are written.
pub fn key(name: &str) -> String {
    name.trim().to_lowercase()
}

/// The accounts of a data folder.
pub struct Accounts {
    path: PathBuf,
    book: Mutex<Book>,
    stamps: AtomicU64,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Those of the data folder `data`; none if there is no file.
    pub fn load(data: &Path) -> Result<Self, Error> {
        let path = data.join(FILE);
        let book = read(&path)?;
        Ok(Accounts { path, book: Mutex::new(book), stamps: AtomicU64::new(1) })
    }

    /// All of them, in the order they were made.
    pub fn list(&self) -> Vec<Account> {
        self.book().accounts.iter().map(Kept::shown).collect()
    }

    /// The account of this name.
    pub fn get(&self, name: &str) -> Option<Account> {
        self.book().named(name).ok().map(|kept| kept.shown())
    }

    /// Whether an account could be made of this name.
    pub fn check_new(&self, name: &str) -> Result<(), Error> {
        self.book().check_new(name)
    }

    /// Makes an account and gives its one-time password.
    pub fn add(&self, name: &str, role: Role) -> Result<Zeroizing<String>, Error> {
        let password = password::one_time();
        let hash = password::hash(&password);
        self.change_book(|book, stamp| {
            book.check_new(name)?;
            let name = name.trim().to_owned();
            book.accounts.push(Kept { name, role, must_change: true, password: hash, stamp });
            Ok(())
        })?;
        Ok(password)
    }

    /// Gives an account a new one-time password.
    pub fn reset(&self, name: &str) -> Result<Zeroizing<String>, Error> {
        let password = password::one_time();
        let hash = password::hash(&password);
        self.change_book(|book, stamp| {
            let kept = book.named(name)?;
            (kept.password, kept.must_change, kept.stamp) = (hash, true, stamp);
            Ok(())
        })?;
        Ok(password)
    }

    /// Gives an account another role.
    pub fn set_role(&self, name: &str, role: Role) -> Result<(), Error> {
        self.change_book(|book, stamp| {
            let kept = book.named(name)?;
            (kept.role, kept.stamp) = (role, stamp);
            Ok(())
        })
    }

    /// Removes an account.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.change_book(|book, _| {
            let gone = key(&book.named(name)?.name);
            book.accounts.retain(|kept| key(&kept.name) != gone);
            Ok(())
        })
    }

    /// The account of this name, if this is its password. Takes as long for a name that nobody has. Slow on purpose:
    /// call it from a thread that may wait, and not from many at once.
    pub fn check(&self, name: &str, password: &str) -> Option<Account> {
        let kept = self.book().named(name).ok().map(|kept| kept.clone());
        let hash = kept.as_ref().map_or(password::DECOY, |kept| &kept.password);
        let right = password::matches(password, hash);
        kept.filter(|_| right).map(|kept| kept.shown())
    }

    /// Sets the password its owner chose, and gives the account as it then is. Slow like [`Accounts::check`].
    pub fn change(&self, name: &str, old: &str, new: &str) -> Result<Account, Error> {
        let account = self.check(name, old).ok_or(Error::Wrong)?;
        password::judge(new, &account.name)?;
        if old == new {
            return Err(Weak::Same.into());
        }
        let hash = password::hash(new);
        self.change_book(|book, stamp| {
            let kept = book.named(name)?;
            (kept.password, kept.must_change, kept.stamp) = (hash, false, stamp);
            Ok(())
        })?;
        self.get(name).ok_or(Error::Missing(account.name))
    }

    fn change_book(&self, change: impl FnOnce(&mut Book, u64) -> Result<(), Error>) -> Result<(), Error> {
        let mut book = self.book();
        let mut changed = Book { accounts: book.accounts.clone() };
        change(&mut changed, self.stamps.fetch_add(1, Ordering::Relaxed))?;
        write(&self.path, &changed)?;
        *book = changed;
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change is one assignment of a whole book.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let name = name.trim();
    let fits = (1..=NAME_MAX).contains(&name.chars().count());
    let plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    // `local` and the like are what the access log calls others.
    let other = ["local", "node", "many"].contains(&key(name).as_str());
    if fits && plain && !other { Ok(()) } else { Err(Error::Name(name.chars().take(NAME_MAX).collect())) }
}

fn read(path: &Path) -> Result<Book, Error> {
    let damaged = |found: String| Error::Damaged { path: path.to_owned(), found };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
        Err(source) => return Err(disk(path)(source)),
    };
    identity::private::must_be(path, 0o600)?;
    let mut text = String::new();
    match file.take(BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(len) if len as u64 > BYTES_MAX => return Err(damaged("it is too long".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged("it is not text".to_owned())),
        Err(source) => return Err(disk(path)(source)),
    }
    // The parser's own words show the line, which may hold a hash.
    let book: Book = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    let mut names = std::collections::BTreeSet::new();
    for kept in &book.accounts {
        let name = &kept.name;
        check_name(name).map_err(|error| damaged(error.to_string()))?;
        if !names.insert(key(name)) {
            return Err(damaged(format!("two accounts are called {name:?}")));
        }
        if !password::is_hash(&kept.password) {
            return Err(damaged(format!("the password of {name:?} is not a hash of ours")));
        }
    }
    if book.accounts.len() > ACCOUNTS_MAX {
        return Err(damaged(format!("it has more than {ACCOUNTS_MAX} accounts")));
    }
    Ok(book)
}

fn write(path: &Path, book: &Book) -> Result<(), Error> {
    let text = toml::to_string(book).expect("names, roles and hashes are TOML");
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|source| {
        // It may not be there at all.
        let _ = fs::remove_file(&beside);
        disk(path)(source)
    })
}

fn disk(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_account_begins_with_a_password_that_must_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::load(dir.path()).unwrap();
        assert_eq!((accounts.list(), accounts.check("lan", "x")), (vec![], None));
        let first = accounts.add("Lan", Role::Chair).unwrap();
        let lan = accounts.check(" LAN ", &first).unwrap();
        assert_eq!((lan.name.as_str(), lan.role, lan.must_change), ("Lan", Role::Chair, true));
        assert_eq!(accounts.check("lan", "another password"), None);

        let own = "con trâu đi trước";
        assert!(matches!(accounts.change("lan", "not the first", own), Err(Error::Wrong)));
        assert!(matches!(accounts.change("lan", &first, "short"), Err(Error::Weak(Weak::Short))));
        assert!(matches!(accounts.change("lan", &first, &first), Err(Error::Weak(Weak::Same))));
        let settled = accounts.change("lan", &first, own).unwrap();
        assert!(!settled.must_change && settled.stamp != lan.stamp);
        assert_eq!(accounts.list(), [settled]);

        // And the next run of the node knows it.
        for accounts in [accounts, Accounts::load(dir.path()).unwrap()] {
            assert!(accounts.check("lan", own).is_some_and(|lan| !lan.must_change && lan.role == Role::Chair));
            assert_eq!(accounts.check("lan", &first), None);
        }
    }

    #[test]
    fn no_two_states_of_an_account_have_the_same_stamp() {
        let dir = tempfile::tempdir().unwrap();
        Accounts::load(dir.path()).unwrap().add("lan", Role::Chair).unwrap();
        let accounts = Accounts::load(dir.path()).unwrap();
        let stamp = || accounts.get("lan").unwrap().stamp;
        let mut stamps = vec![stamp()];
        accounts.set_role("lan", Role::Admin).unwrap();
        stamps.push(stamp());
        accounts.reset("lan").unwrap();
        stamps.push(stamp());
        accounts.remove("lan").unwrap();
        accounts.add("lan", Role::Admin).unwrap();
        stamps.push(stamp());
        let different: std::collections::BTreeSet<_> = stamps.iter().collect();
        assert_eq!(different.len(), stamps.len());
    }

    #[test]
    fn what_the_admin_does_to_an_account() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::load(dir.path()).unwrap();
        let first = accounts.add("hoa", Role::Operator).unwrap();
        assert!(matches!(accounts.add("HOA", Role::Admin), Err(Error::Taken(_))));
        for name in ["", "a b", "local", "x/y", "'; drop", &"x".repeat(NAME_MAX + 1)] {
            assert!(matches!(accounts.add(name, Role::Admin), Err(Error::Name(_))), "{name}");
        }
        accounts.set_role("hoa", Role::Secretary).unwrap();
        let second = accounts.reset("hoa").unwrap();
        assert_eq!(accounts.check("hoa", &first), None);
        assert_eq!(accounts.check("hoa", &second).map(|account| account.role), Some(Role::Secretary));
        accounts.remove("Hoa").unwrap();
        assert_eq!(accounts.check("hoa", &second), None);
        assert!(matches!(accounts.reset("hoa"), Err(Error::Missing(_))));
        assert!(matches!(accounts.set_role("hoa", Role::Chair), Err(Error::Missing(_))));
        assert!(matches!(accounts.remove("hoa"), Err(Error::Missing(_))));
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_holds_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::load(dir.path()).unwrap();
        let password = accounts.add("lan", Role::Admin).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("$argon2id$") && !text.contains(password.as_str()));
        assert!(!format!("{accounts:?}").contains("argon2id"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Accounts::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_shows_no_hash() {
        let dir = tempfile::tempdir().unwrap();
        Accounts::load(dir.path()).unwrap().add("lan", Role::Admin).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = Accounts::load(dir.path()).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(!error.to_string().contains("$argon2id"), "{error}");
        };
        check(&good.replace("argon2id", "argon2d"));
        check(&good.replace("m=65536", "m=99999999"));
        check(&good.replace("name = \"lan\"", "name = \"l n\""));
        check(&good.replace("role", "rule"));
        check(&good[..good.len() - 3]);
        check(&format!("{good}{good}"));
        check(&"#".repeat(BYTES_MAX as usize + 1));
    }

    #[test]
    fn a_change_that_cannot_be_written_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let accounts = Accounts::load(&data).unwrap();
        let password = accounts.add("lan", Role::Admin).unwrap();
        fs::remove_dir_all(&data).unwrap();
        assert!(matches!(accounts.set_role("lan", Role::Chair), Err(Error::Disk { .. })));
        assert_eq!(accounts.check("lan", &password).map(|account| account.role), Some(Role::Admin));
    }
}
