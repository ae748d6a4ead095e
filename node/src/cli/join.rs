//! `diemcau join`: one code makes a new PC a point. Run again after whatever went wrong, it goes on where it was: keys are made
//! once, and the inviting point gives the same node the same answer.

use std::path::Path;

use anyhow::{Context, Result};
use node::config::{self, Address};
use node::control::Fault;
use node::identity::{Identity, roster};
use node::join::call::{self, CLOCK_TOLERANCE, Refusal};
use node::join::code::Code;
use node::join::knock::Joined;
use node::words::Text;
use serde::Serialize;

use super::args::{Data, Format};
use super::exit::Failure;
use super::{key, output};

/// Make this machine a point, with the code from an invite
///
/// Letters may be typed large or small, with any spaces. The code is good once; on the same machine it may be typed again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The code
    #[arg(required = true, value_name = "CODE")]
    code: Vec<String>,
    /// Where others can call this point's mesh; not needed if it can call them
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    agency: &'a str,
    node: String,
    points: usize,
    roster: u64,
    data: &'a Path,
}

pub(crate) fn main(args: Args) -> Result<()> {
    // Looked at before anything is made: most mistakes are of the fingers.
    let code = Code::parse(&args.code.join(" ")).map_err(|mistyped| refused(&Refusal::Mistyped(mistyped)))?;
    let data = args.data.folder()?;
    let identity = key::load_or_create(&data)?;
    must_be_free(&data, &identity)?;
    let addresses = args.addresses.iter().map(ToString::to_string).collect();
    let now = output::now_ms();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = runtime.block_on(call::call(&identity, &code, addresses, now)).map_err(|why| refused(&why))?;
    settle(&data, &code, &joined)?;

    let ahead_ms = call::ahead(now, joined.host_unix_ms);
    if u128::from(ahead_ms.unsigned_abs()) > CLOCK_TOLERANCE.as_millis() {
        output::note(&Text::ClockApart { ahead_ms, host_unix_ms: joined.host_unix_ms }.everywhere());
    }
    let (name, membership) = (&joined.grant.name, &joined.membership);
    let (agency, points) = (membership.agency(), membership.points().len());
    if args.format.json {
        let (node, roster) = (identity.id().to_string(), membership.number());
        return Ok(output::json(&Report { name, agency, node, points, roster, data: &data })?);
    }
    Ok(output::print(&format!("{}\n", Text::Joined { name, agency, points, data: &data }.everywhere()))?)
}

/// A folder that is a point already stays what it is: its keys are in another roster.
fn must_be_free(data: &Path, identity: &Identity) -> Result<()> {
    match roster::load(data, &identity.id()) {
        Ok(membership) => {
            let name = membership.point(&identity.id()).map(|point| point.name.as_str()).unwrap_or_default();
            let text = Text::AlreadyPoint { name, agency: membership.agency() }.everywhere();
            Err(Failure::new(Fault::Refused, text).into())
        }
        Err(roster::Error::Missing(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Settings, then the roster: with that the machine is a point.
fn settle(data: &Path, code: &Code, joined: &Joined) -> Result<()> {
    let path = data.join(config::FILE);
    if !path.exists() {
        let hosts = code.addresses().iter().map(|address| address.host.clone());
        let peers = hosts.map(|host| Address { host, port: code.mesh_port() }).collect::<Vec<_>>();
        std::fs::write(&path, config::template_calling(&peers)).with_context(|| format!("{}", path.display()))?;
    }
    Ok(roster::save(data, &joined.membership)?)
}

fn refused(refusal: &Refusal) -> Failure {
    Failure::new(Fault::Refused, Text::NotJoined(refusal).everywhere())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::exit;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_mistyped_code_is_refused_in_both_languages_before_anything_is_made() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        let args = ["join", "--data", data.to_str().unwrap(), "28E6Z", "G020X"];
        let error = main(Only::try_parse_from(args).unwrap().args).unwrap_err();
        assert_eq!(exit::judge(&error).0, 5);
        let text = error.to_string();
        assert!(text.starts_with("Mã mời gõ sai ở nhóm") && text.contains("\nThe code is mistyped in group"), "{text}");
        assert!(!data.exists());
    }
}
