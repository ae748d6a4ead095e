//! `DATA/roster.cose`: who belongs to the mesh, as far as this node knows (`store::roster::Membership`), replaced whole
//! or not at all.
//!
//! The file can be exchanged for an older one, or for another authority's, by whoever can write to the folder: an old
//! backup put back is enough. So every roster that was worked with is kept in the archive as well, and the two are
//! compared at each start ([`settle`]): of two rosters of one authority the newer counts, and of another authority, or one
//! that denies what the archive has seen, none does.

use std::io;
use std::path::{Path, PathBuf};

use store::archive::{self, Archive};
use store::id::{Hash, NodeId};
use store::keys::{NodeKey, WrapKey};
use store::roster::{self, Membership, Point, Revoked, Roster};
use store::signed::Signed;

use super::file;
use crate::config::Address;

/// The file's name inside the data folder.
pub const FILE: &str = "roster.cose";

/// Why there is no roster to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody put one here.
    #[error("there is no roster at {0}: this machine is set up, but belongs to no mesh yet")]
    Missing(PathBuf),
    /// It is there, and cannot be read or does not fit to what was known before.
    #[error("{path}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<roster::Error>,
    },
    /// It does not name this node.
    #[error("the roster {path} has no point with this node's id {node}")]
    WithoutUs {
        /// The file.
        path: PathBuf,
        /// This node.
        node: NodeId,
    },
    /// This node was a point.
    #[error("this point was revoked from the mesh of {agency} ({reason}): it takes part no more")]
    Revoked {
        /// Whose mesh.
        agency: String,
        /// What the roster says.
        reason: String,
    },
    /// The rosters kept in the archive.
    #[error("the rosters seen before, in the archive")]
    Archive(#[from] archive::Error),
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

/// The membership of the data folder `data`, in which `node` is a point.
pub fn load(data: &Path, node: &NodeId) -> Result<Membership, Error> {
    let path = data.join(FILE);
    let membership = read(&path)?;
    must_have(&membership, node, &path)?;
    Ok(membership)
}

/// Reads and checks a membership file.
pub fn read(path: &Path) -> Result<Membership, Error> {
    let bytes = match file::read(path, Membership::LEN_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(path.to_owned())),
        Err(source) => return Err(Error::Disk { path: path.to_owned(), source }),
    };
    Membership::decode(bytes.into()).map_err(|source| wrong(path, source))
}

/// Puts a membership into the data folder.
pub fn save(data: &Path, membership: &Membership) -> Result<(), Error> {
    let path = data.join(FILE);
    file::put(&path, &membership.encode()).map_err(|source| Error::Disk { path, source })
}

/// The membership in this file, or offered to it, is not good.
pub fn wrong(path: &Path, source: roster::Error) -> Error {
    Error::Wrong { path: path.to_owned(), source: Box::new(source) }
}

/// Refuses a membership in which `node` is no point.
pub fn must_have(membership: &Membership, node: &NodeId, path: &Path) -> Result<(), Error> {
    if membership.point(node).is_some() {
        return Ok(());
    }
    Err(match membership.revoked(node) {
        Some(Revoked { reason, .. }) => {
            Error::Revoked { agency: membership.agency().to_owned(), reason: reason.clone() }
        }
        None => Error::WithoutUs { path: path.to_owned(), node: *node },
    })
}

/// Compares the membership in the file with the rosters the archive has seen. What comes out is the newest of both, and
/// is then in the file and in the archive.
pub fn settle(data: &Path, node: &NodeId, mut membership: Membership, archive: &Archive) -> Result<Membership, Error> {
    let path = data.join(FILE);
    let wrong = |source| wrong(&path, source);
    if let Some(seen) = archive.newest_roster()? {
        let number = membership.number();
        match membership.merge_roster(seen.clone()) {
            Ok(true) => {
                tracing::warn!(
                    file = number,
                    seen = membership.number(),
                    "the roster file was older than a roster this node has worked with; the newer one is used"
                );
                save(data, &membership)?;
            }
            Ok(false) => {}
            // The file is newer, as it should follow from what was seen.
            Err(roster::Error::Older { .. }) => {
                let mut known = Membership::new(seen.clone(), &seen.signer()).map_err(wrong)?;
                known.merge_roster(membership.roster().clone()).map_err(wrong)?;
            }
            Err(error) => return Err(wrong(error)),
        }
    }
    archive.put_roster(membership.roster())?;
    must_have(&membership, node, &path)?;
    Ok(membership)
}

/// Puts a membership that changed into the data folder and its roster into the archive.
pub fn keep(data: &Path, membership: &Membership, archive: &Archive) -> Result<(), Error> {
    archive.put_roster(membership.roster())?;
    save(data, membership)
}

/// Where the roster says a point can be called. What is no address is passed over: one point's mistake must not stop
/// the others.
pub fn addresses(point: &Point) -> Vec<Address> {
    point.addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A mesh of these points for good: the keys of its authority and of its recovery are thrown away, so nobody can change it.
/// For demonstrations and tests.
pub fn for_good(agency: &str, points: Vec<Point>) -> Result<Membership, Error> {
    let roster = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: agency.to_owned(),
        recovery: WrapKey::generate().public(),
        issued_unix_ms: 0,
        points,
        revoked: Vec::new(),
        void: Vec::new(),
    };
    let authority = NodeKey::generate();
    Signed::sound(roster, &authority)
        .map_err(roster::Error::from)
        .and_then(|signed| Membership::new(signed, &authority.id()))
        .map_err(|source| wrong(Path::new(FILE), source))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            replaces: None,
        }
    }

    /// The membership after the authority changed something.
    fn followed(before: &Membership, authority: &NodeKey, change: impl FnOnce(&mut Roster)) -> Membership {
        let mut next = before.next_roster(0);
        change(&mut next);
        let mut after = before.clone();
        after.merge_roster(Signed::sound(next, authority).unwrap()).unwrap();
        after
    }

    /// A mesh whose authority can still sign.
    fn found(points: Vec<Point>) -> (Membership, NodeKey) {
        let authority = NodeKey::generate();
        let roster = for_good("Hải Phòng", points).unwrap().roster().content().clone();
        let signed = Signed::sound(roster, &authority).unwrap();
        (Membership::new(signed, &authority.id()).unwrap(), authority)
    }

    #[test]
    fn a_membership_is_kept_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let us = point("UBND xã Kim Thành", &["10.0.0.1:7400", "hue"]);
        let node = us.node;
        assert!(matches!(load(dir.path(), &node), Err(Error::Missing(_))));
        let membership = for_good("Hải Phòng", vec![us.clone(), point("Ban Tiếp công dân", &[])]).unwrap();
        save(dir.path(), &membership).unwrap();
        save(dir.path(), &membership).unwrap();
        assert_eq!(load(dir.path(), &node).unwrap(), membership);
        assert_eq!(addresses(&us).len(), 1, "what is no address is passed over");
    }

    #[test]
    fn a_roster_that_cannot_serve_here_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let check = |node: &NodeId, want: &str| {
            let error = anyhow::Error::new(load(dir.path(), node).unwrap_err());
            let text = format!("{error:#}");
            assert!(text.contains(want), "{text}");
        };
        let (us, them) = (point("A", &[]), point("B", &[]));
        let (membership, authority) = found(vec![us.clone(), them.clone()]);
        save(dir.path(), &membership).unwrap();
        check(&NodeKey::generate().id(), "has no point with this node's id");
        let after = followed(&membership, &authority, |next| {
            let gone = next.points.remove(0);
            let (node, name) = (gone.node, gone.name);
            next.revoked.push(Revoked { node, name, reason: "mất máy".into(), unix_ms: 0, replaced_by: None });
        });
        save(dir.path(), &after).unwrap();
        check(&us.node, "was revoked from the mesh of Hải Phòng (mất máy)");
        load(dir.path(), &them.node).unwrap();
        std::fs::write(dir.path().join(FILE), &after.encode()[..100]).unwrap();
        check(&them.node, "end too early");
    }

    fn settled(data: &Path, node: &NodeId, archive: &Archive) -> Result<Membership, Error> {
        settle(data, node, read(&data.join(FILE))?, archive)
    }

    #[test]
    fn an_older_roster_put_back_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(&dir.path().join("archive")).unwrap();
        let us = point("A", &[]);
        let (old, authority) = found(vec![us.clone(), point("B", &[])]);
        save(dir.path(), &old).unwrap();
        assert_eq!(settled(dir.path(), &us.node, &archive).unwrap(), old);
        let new = followed(&old, &authority, |next| drop(next.points.pop()));
        keep(dir.path(), &new, &archive).unwrap();
        save(dir.path(), &old).unwrap();
        assert_eq!(settled(dir.path(), &us.node, &archive).unwrap(), new);
        assert_eq!(load(dir.path(), &us.node).unwrap(), new, "the file was put right");
        let newest = followed(&new, &authority, |_| {});
        save(dir.path(), &newest).unwrap();
        assert_eq!(settled(dir.path(), &us.node, &archive).unwrap(), newest);
    }

    #[test]
    fn a_roster_of_another_authority_or_of_a_fork_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(&dir.path().join("archive")).unwrap();
        let us = point("A", &[]);
        let (ours, authority) = found(vec![us.clone()]);
        let ours = followed(&ours, &authority, |_| {});
        keep(dir.path(), &ours, &archive).unwrap();
        let check = |membership: &Membership, want: &str| {
            save(dir.path(), membership).unwrap();
            let error = anyhow::Error::new(settled(dir.path(), &us.node, &archive).unwrap_err());
            assert!(format!("{error:#}").contains(want), "{error:#}");
        };
        check(&for_good("Hải Phòng", vec![us.clone()]).unwrap(), "but the authority of this mesh is");
        let mut forked = ours.roster().content().clone();
        forked.agency = "Hải Dương".into();
        let forked = Membership::new(Signed::sound(forked, &authority).unwrap(), &authority.id()).unwrap();
        check(&forked, "there are two rosters 2");
        check(&followed(&forked, &authority, |_| {}), "there are two rosters 2");
    }
}
