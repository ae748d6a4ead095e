//! How a failed command ends: 1 failed, 2 wrong usage, 3 not there, 4 damaged, 5 refused, and a hint where there is one. Errors
//! of the parts say what was found; what that means for a script is decided here, in one place.

use std::io;

use node::control::{self, Fault};
use node::identity::{self, authority, roster};
use node::join::invite;
use node::{accounts, config, console, driver, export, mesh, sealed, vault};
use store::archive;
use store::schema::Store;

/// A command was not done, for a reason that is one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    fault: Fault,
    reason: String,
}

impl Failure {
    pub(crate) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into() }
    }
}

/// The command line was understood by clap and still makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An exit code, and what might help.
pub(crate) type Verdict = (u8, Option<&'static str>);

const FAILED: Verdict = (1, None);
const USAGE: Verdict = (2, None);
const MISSING: Verdict = (3, None);
const DAMAGED: Verdict = (4, None);
const REFUSED: Verdict = (5, None);

/// What an error comes to: the first one known among it and its causes decides.
pub(crate) fn judge(error: &anyhow::Error) -> Verdict {
    error.chain().find_map(known).unwrap_or(FAILED)
}

fn known(error: &(dyn std::error::Error + 'static)) -> Option<Verdict> {
    if let Some(error) = error.downcast_ref::<driver::Error>() {
        return starting(error);
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(fault(failure.fault));
    }
    if error.is::<Usage>() {
        return Some(USAGE);
    }
    error
        .downcast_ref()
        .map(running)
        .or_else(|| error.downcast_ref().map(keys))
        .or_else(|| error.downcast_ref().map(points))
        .or_else(|| error.downcast_ref().map(signing))
        .or_else(|| error.downcast_ref().map(sharing))
        .or_else(|| error.downcast_ref().map(invites))
        .or_else(|| error.downcast_ref().map(settings))
        .or_else(|| error.downcast_ref().map(listening))
        .or_else(|| error.downcast_ref().map(page))
        .or_else(|| error.downcast_ref().map(source))
        .or_else(|| error.downcast_ref().and_then(reading))
        .or_else(|| error.downcast_ref::<accounts::Error>().map(|error| fault(error.fault())))
        .or_else(|| error.downcast_ref::<control::session::Error>().map(|error| fault(error.fault())))
        .or_else(|| error.downcast_ref::<export::Error>().map(|error| fault(error.fault())))
        .or_else(|| error.downcast_ref::<sealed::Error>().map(|error| fault(error.fault())))
}

/// The driver passes on what its parts found.
fn starting(error: &driver::Error) -> Option<Verdict> {
    match error {
        driver::Error::Identity(error) => known(error),
        driver::Error::Roster(error) => known(error),
        driver::Error::Accounts(error) => known(error),
        driver::Error::Control(error) => known(error),
        driver::Error::Invites(error) => known(error),
        driver::Error::Mesh(error) => known(error),
        driver::Error::Console(error) => known(error),
        driver::Error::Source(error) => known(error),
        driver::Error::Vault(vault::Error::Archive(_, error)) | driver::Error::Archive(error) => running_on(error),
        driver::Error::Name { .. } => Some(USAGE),
        _ => None,
    }
}

/// What became of an archive that a node was to run on.
fn running_on(error: &archive::Error) -> Option<Verdict> {
    match error {
        archive::Error::Broken { store: Store::Meta, .. } => Some((4, Some(RESTORE))),
        archive::Error::Broken { store: Store::Media, .. } => Some((
            4,
            Some(
                "move the folder `media` out of the archive: the node begins an empty one, names what is missing, and asks \
                 other points for it",
            ),
        )),
        _ => None,
    }
}

/// What became of an archive that a command was to read.
fn reading(error: &archive::Error) -> Option<Verdict> {
    match error {
        archive::Error::Broken { store: Store::Meta, .. } => Some((4, Some(RESTORE))),
        archive::Error::Broken { store: Store::Media, .. } => {
            Some((4, Some("`diemcau run` takes up what can be read and names what is lost; then ask again")))
        }
        _ => None,
    }
}

/// `meta` says what was recorded and holds the keys to it: nobody may guess at what it lacks.
const RESTORE: &str = "keep the archive as it is, and put a backup of its folder `meta` in place; without one, move the whole \
                       archive aside: the node begins an empty one, and the other points still hold what they kept";

fn fault(fault: Fault) -> Verdict {
    match fault {
        Fault::Failed => FAILED,
        Fault::Missing => MISSING,
        Fault::Damaged => DAMAGED,
        Fault::Refused => REFUSED,
    }
}

fn running(error: &control::Error) -> Verdict {
    match error {
        control::Error::NotRunning(_) => (3, Some("start it with `diemcau run`, with the same --data")),
        control::Error::AlreadyRunning { .. } => REFUSED,
        control::Error::Garbled { .. } | control::Error::Socket { .. } => FAILED,
    }
}

fn keys(error: &identity::Error) -> Verdict {
    match error {
        identity::Error::Missing(_) => {
            (3, Some("`diemcau join CODE` makes this machine a point, `diemcau init` founds a mesh"))
        }
        identity::Error::Damaged { .. } => DAMAGED,
        identity::Error::Key { source, .. } => locked(source),
        identity::Error::Locked(_) => REFUSED,
        identity::Error::Open { .. } | identity::Error::Foreign { .. } => REFUSED,
        identity::Error::Disk { .. } => FAILED,
    }
}

fn points(error: &roster::Error) -> Verdict {
    match error {
        roster::Error::Missing(_) => (3, Some("`diemcau join CODE` with a code from a point of the mesh brings one")),
        roster::Error::Wrong { source, .. } => mesh_record(source),
        roster::Error::WithoutUs { .. } | roster::Error::Revoked { .. } => REFUSED,
        roster::Error::Archive(_) | roster::Error::Disk { .. } => FAILED,
    }
}

/// Bytes that are no good record are damage; a good record that must not count is refused.
fn mesh_record(error: &store::roster::Error) -> Verdict {
    use store::roster::Error as E;
    match error {
        E::Record(_) | E::Form(_) => (
            4,
            Some("`diemcau authority export-roster FILE` on another point gives a good one, import-roster takes it"),
        ),
        E::Authority { .. } | E::Older { .. } | E::Fork { .. } | E::Forgets { .. } | E::Admission { .. } | E::Full => {
            REFUSED
        }
    }
}

fn signing(error: &authority::Error) -> Verdict {
    match error {
        authority::Error::Missing(_) => MISSING,
        authority::Error::Key { source, .. } => locked(source),
        authority::Error::Open(error) => keys(error),
        authority::Error::Roster(error) => points(error),
        authority::Error::Exists(_) => (
            5,
            Some("if only its roster got lost: `diemcau authority import-roster` takes the roster.cose beside the key"),
        ),
        authority::Error::Busy(_) | authority::Error::Foreign { .. } | authority::Error::Unsound(_) => REFUSED,
        authority::Error::Disk { .. } => FAILED,
    }
}

fn locked(error: &store::locked::Error) -> Verdict {
    use store::locked::Error as E;
    match error {
        E::Kind(_) | E::Damaged(_) => DAMAGED,
        E::Cost { .. } | E::Passphrase => REFUSED,
        E::Memory(_) => FAILED,
    }
}

fn sharing(error: &store::shares::Error) -> Verdict {
    use store::shares::Error as E;
    match error {
        E::Counts { .. } => USAGE,
        E::Form(_) | E::Word(_) | E::Words(_) | E::Check => DAMAGED,
        E::Set { .. } | E::Twice(_) | E::Few { .. } | E::Key => REFUSED,
    }
}

fn invites(error: &invite::Error) -> Verdict {
    match error {
        invite::Error::Damaged { .. } => DAMAGED,
        invite::Error::Full => REFUSED,
        invite::Error::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => MISSING,
        invite::Error::Disk { .. } => FAILED,
    }
}

fn settings(error: &config::Error) -> Verdict {
    match error {
        config::Error::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => MISSING,
        config::Error::Unreadable { .. } => FAILED,
        config::Error::Syntax { .. } | config::Error::Unknown { .. } | config::Error::Bad { .. } => {
            (2, Some("every setting is explained in the config.toml that `diemcau init` writes"))
        }
    }
}

fn listening(error: &mesh::StartError) -> Verdict {
    match error {
        mesh::StartError::PortTaken { .. } => REFUSED,
        mesh::StartError::Listen { .. } => FAILED,
    }
}

fn page(error: &console::Error) -> Verdict {
    match error {
        console::Error::PortTaken { .. } => REFUSED,
        console::Error::Listen { .. } => FAILED,
    }
}

fn source(error: &codec::capture::Error) -> Verdict {
    use codec::capture::Error as E;
    match error {
        E::Spec(_) | E::Kind { .. } => USAGE,
        E::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => MISSING,
        E::Disk { .. } => FAILED,
        E::Damaged { .. } => DAMAGED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let code = |error: anyhow::Error| judge(&error.context("while doing something")).0;
        assert_eq!(code(anyhow::anyhow!("anything")), 1);
        assert_eq!(code(Usage("no".into()).into()), 2);
        for (fault, want) in [(Fault::Failed, 1), (Fault::Missing, 3), (Fault::Damaged, 4), (Fault::Refused, 5)] {
            assert_eq!(code(Failure::new(fault, "x").into()), want);
        }
        assert_eq!(code(control::Error::NotRunning("/x".into()).into()), 3);
        assert_eq!(code(identity::Error::Missing("/x".into()).into()), 3);
        assert_eq!(code(driver::Error::from(identity::Error::Missing("/x".into())).into()), 3);
        assert_eq!(code(control::session::Error::Missing("x".into()).into()), 3);
        for store in [Store::Meta, Store::Media] {
            let broken = || archive::Error::Broken { store, what: "x".into() };
            assert_eq!(code(driver::Error::Archive(broken()).into()), 4);
            assert_eq!(code(driver::Error::Vault(vault::Error::Archive("/x".into(), broken())).into()), 4);
            assert_eq!(code(control::session::Error::Archive(broken()).into()), 4);
        }
        assert_eq!(code(codec::capture::Error::Spec("x".into()).into()), 2);
    }
}
