//! Arguments that several commands take.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::config;
use node::control::{self, Fault, Request, Response};
use node::identity::authority;
use store::roster::Right;

use super::exit::Failure;

/// Which data folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Data {
    /// Data folder of the node [default: from DIEMCAU_DATA, or ~/.local/share/diemcau]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

impl Data {
    /// The folder, absolute, so that a running node with another current folder understands it.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let folder = match &self.data {
            Some(data) => data.clone(),
            None => config::load(None, None, Vec::new())?.data,
        };
        Ok(std::path::absolute(folder)?)
    }

    /// Asks the running node. What it refuses is an error with the exit code it says.
    pub(crate) fn ask(&self, request: &Request) -> Result<Response> {
        let folder = self.folder()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(control::call(&folder, request))? {
            Response::Not { fault, reason } => Err(Failure::new(fault, reason).into()),
            answer => Ok(answer),
        }
    }
}

/// Opens a file that was named on the command line.
pub(crate) fn open(path: &Path) -> Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(Fault::Missing, format!("there is no file {}", path.display())).into())
        }
        opened => opened.with_context(|| path.display().to_string()),
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the authority's key is.
#[derive(Debug, clap::Args)]
pub(crate) struct Stick {
    /// Folder of the authority's key, such as one on a USB stick [default: authority in the data folder]
    #[arg(long = "authority", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

impl Stick {
    /// The folder, absolute.
    pub(crate) fn folder(&self, data: &Path) -> Result<PathBuf> {
        match &self.folder {
            Some(folder) => Ok(std::path::absolute(folder)?),
            None => Ok(data.join(authority::FOLDER)),
        }
    }
}

/// What a point may do that joins with nothing said: what every office needs and none can harm others with.
pub(crate) const RIGHTS_DEFAULT: &str = "hold,read";

/// A right on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Allowed {
    /// Start sessions and be their central point
    Chair,
    /// Forward what other points send
    Relay,
    /// Keep copies of sessions it did not take part in
    Hold,
    /// Open the archive of sessions it took part in
    Read,
    /// Invite points and see to the mesh
    Admin,
    /// Nothing but taking part
    None,
}

impl Allowed {
    fn right(self) -> Option<Right> {
        match self {
            Self::Chair => Some(Right::Chair),
            Self::Relay => Some(Right::Relay),
            Self::Hold => Some(Right::Hold),
            Self::Read => Some(Right::Read),
            Self::Admin => Some(Right::Admin),
            Self::None => None,
        }
    }
}

/// The rights of a list.
pub(crate) fn rights(list: &[Allowed]) -> BTreeSet<Right> {
    list.iter().filter_map(|allowed| allowed.right()).collect()
}

/// What every listing takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// One session, to be shown.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// Its id, the beginning of it, or `last`
    pub(crate) session: String,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) format: Format,
}
