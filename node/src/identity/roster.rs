//! `DATA/roster.toml`: who is a point. Read at start, replaced whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use store::id::NodeId;
use store::roster::{self, Roster};

use crate::config::{Address, NotAnAddress};

/// The file's name inside the data folder.
pub const FILE: &str = "roster.toml";
/// Largest file read: every point a roster can have, with long names.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why there is no roster to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody put one here.
    #[error("there is no roster at {0}: `diemcau init` makes one")]
    Missing(PathBuf),
    /// It is there, and cannot be used.
    #[error("{path}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: roster::Error,
    },
    /// An address in it says nothing.
    #[error("{path}: an address of {point:?}")]
    Address {
        /// The file.
        path: PathBuf,
        /// Whose.
        point: String,
        /// Which.
        #[source]
        source: NotAnAddress,
    },
    /// It does not name this node.
    #[error("{path} has no point with this node's id {node}: add its [[point]], as `diemcau init` prints it")]
    WithoutUs {
        /// The file.
        path: PathBuf,
        /// This node.
        node: NodeId,
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

/// The checked roster of the data folder `data`, in which `node` is a point.
pub fn load(data: &Path, node: &NodeId) -> Result<Roster, Error> {
    read(&data.join(FILE), node)
}

/// Reads and checks a roster file in which `node` is a point.
pub fn read(path: &Path, node: &NodeId) -> Result<Roster, Error> {
    let disk = |source| Error::Disk { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(file) if file.len() > BYTES_MAX => return Err(disk(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(path.to_owned())),
        Err(source) => return Err(disk(source)),
    }
    let text = fs::read_to_string(path).map_err(disk)?;
    let roster = Roster::from_toml(&text).map_err(|source| Error::Wrong { path: path.to_owned(), source })?;
    for point in roster.points() {
        if let Err(source) = addresses(point) {
            return Err(Error::Address { path: path.to_owned(), point: point.name.clone(), source });
        }
    }
    match roster.point(node) {
        Some(_) => Ok(roster),
        None => Err(Error::WithoutUs { path: path.to_owned(), node: *node }),
    }
}

/// Where the roster says a point can be called.
pub fn addresses(point: &roster::Point) -> Result<Vec<Address>, NotAnAddress> {
    point.addresses.iter().map(|text| text.parse()).collect()
}

/// Puts a roster into the data folder; after a power cut the old or the new one is there.
pub fn save(data: &Path, roster: &Roster) -> Result<(), Error> {
    let path = data.join(FILE);
    let disk = |source| Error::Disk { path: path.clone(), source };
    let beside = data.join(format!(".{FILE}-{}", std::process::id()));
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(roster.to_toml().as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(data)?.sync_all()
    };
    write().map_err(disk)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use store::keys::{NodeKey, WrapKey};
    use store::roster::Point;

    use super::*;

    fn point(name: &str, addresses: &[&str]) -> Point {
        Point {
            node: NodeKey::generate().id(),
            wrap: WrapKey::generate().public(),
            name: name.to_owned(),
            level: String::new(),
            zone: String::new(),
            rights: BTreeSet::new(),
            addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn a_roster_is_kept_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let us = point("UBND xã Kim Thành", &["10.0.0.1:7400"]);
        let node = us.node;
        assert!(matches!(load(dir.path(), &node), Err(Error::Missing(_))));
        let roster = Roster::new("Hải Phòng".to_owned(), vec![us, point("Ban Tiếp công dân", &[])]).unwrap();
        save(dir.path(), &roster).unwrap();
        save(dir.path(), &roster).unwrap();
        assert_eq!(load(dir.path(), &node).unwrap(), roster);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_roster_that_cannot_serve_here_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let check = |roster: &str, node: &NodeId, want: &str| {
            fs::write(dir.path().join(FILE), roster).unwrap();
            let error = anyhow::Error::new(load(dir.path(), node).unwrap_err());
            let text = format!("{error:#}");
            assert!(text.contains(want), "{text}");
        };
        let us = point("A", &[]);
        let toml = |points| Roster::new("A".to_owned(), points).unwrap().to_toml();
        check(&toml(vec![us.clone()]), &NodeKey::generate().id(), "has no point with this node's id");
        check("agency = 3", &us.node, "the roster cannot be read");
        let wrong = Point { addresses: vec!["hue".to_owned()], ..us.clone() };
        check(&toml(vec![wrong]), &us.node, "an address of \"A\": \"hue\" is not HOST:PORT");
    }
}
