//! Arguments that several commands take.

use std::path::PathBuf;

use anyhow::Result;
use node::config;
use node::control::{self, Request, Response};

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

/// How to print.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
}
