//! `diemcau key`: the passphrase of this point's keys; and the keys themselves for every other command, which asks for the
//! passphrase only when it has to.

use std::path::Path;

use anyhow::Result;
use node::control::{self, Fault};
use node::identity::{self, Identity};
use node::secret::Secret;
use node::words::Text;
use serde::Serialize;
use store::access::{Access, Deed, What as To, Who};

use super::args::{Data, Format, Listing};
use super::exit::Failure;
use super::{access, output, passphrase};

/// Put this point's keys behind a passphrase, or take it away
///
/// Without one, whoever takes this machine's disk has the point's keys, and with them what it recorded. With one, the node
/// starts only where somebody types it, or where systemd hands it over as the credential `diemcau-passphrase`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lock the keys behind a passphrase, or behind another one
    ///
    /// The passphrase is asked for, or taken from DIEMCAU_PASSPHRASE. If it is lost, so are the keys: the point must join
    /// anew in its own place (`diemcau invite --replaces`), and its recordings open only at points that keep them too. What
    /// lay on the disk before may still be found there by somebody with the means, so lock before the point takes part in
    /// anything.
    Lock(Listing),
    /// Put the keys back into plain files, so that the node starts by itself
    Unlock(Listing),
    /// Show whether the keys are locked
    Show(Listing),
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    locked: bool,
}

pub(crate) fn main(args: Args) -> Result<()> {
    match args.what {
        What::Lock(Listing { data, format }) => lock(&data, format),
        What::Unlock(Listing { data, format }) => unlock(&data, format),
        What::Show(Listing { data, format }) => {
            let folder = data.folder()?;
            let node = Identity::public_of(&folder)?.node;
            let locked = Identity::is_locked(&folder)?;
            say(format, node.to_string(), locked, &if locked { Text::KeysLocked } else { Text::KeysPlain })
        }
    }
}

fn lock(data: &Data, format: Format) -> Result<()> {
    let folder = data.folder()?;
    let _held = control::hold(&folder)?;
    let identity = load(&folder)?;
    let new = passphrase::new_for_keys(Identity::is_locked(&folder)?)?;
    write_down(&folder, &identity)?;
    identity.lock(&folder, new.expose())?;
    say(format, identity.id().to_string(), true, &Text::KeysNowLocked)
}

fn unlock(data: &Data, format: Format) -> Result<()> {
    let folder = data.folder()?;
    let _held = control::hold(&folder)?;
    let identity = load(&folder)?;
    if Identity::is_locked(&folder)? {
        write_down(&folder, &identity)?;
        identity.lay_open(&folder)?;
    }
    say(format, identity.id().to_string(), false, &Text::KeysPlain)
}

fn write_down(folder: &Path, identity: &Identity) -> Result<()> {
    let note = Access::done(Who::User { uid: control::own_uid() }, Deed::Key, To::Nothing {}, output::now_ms());
    Ok(access::write_down(folder, identity, note).map_err(|reason| {
        let rule = "this must stand in the access log before it is done, and cannot be written there";
        Failure::new(Fault::Refused, format!("{rule}: {reason}"))
    })?)
}

fn say(format: Format, node: String, locked: bool, text: &Text<'_>) -> Result<()> {
    if format.json {
        return Ok(output::json(&Report { node, locked })?);
    }
    Ok(output::print(&format!("{}\n", text.everywhere()))?)
}

/// The keys of this folder. Asks for their passphrase if they are locked.
pub(super) fn load(folder: &Path) -> Result<Identity> {
    or_unlocked(folder, Identity::load(folder))
}

/// The same, where keys are made if there are none.
pub(super) fn load_or_create(folder: &Path) -> Result<Identity> {
    or_unlocked(folder, Identity::load_or_create(folder).map(|(identity, _)| identity))
}

fn or_unlocked(folder: &Path, loaded: Result<Identity, identity::Error>) -> Result<Identity> {
    match loaded {
        Err(identity::Error::Locked(_)) => Ok(Identity::unlock(folder, passphrase(folder)?.expose())?),
        loaded => Ok(loaded?),
    }
}

/// What opens the keys of this folder, for a node that will open them itself; `None` if they are not locked.
pub(super) fn passphrase_if_locked(folder: &Path) -> Result<Option<Secret>> {
    Identity::is_locked(folder)?.then(|| passphrase(folder)).transpose()
}

fn passphrase(folder: &Path) -> Result<Secret> {
    let given = passphrase::of_keys()?;
    Ok(given.ok_or_else(|| Failure::new(Fault::Refused, Text::KeysNeedPassphrase { data: folder }.everywhere()))?)
}
