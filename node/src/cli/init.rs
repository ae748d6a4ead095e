//! `diemcau init`: the keys and settings of a machine; with `--agency`, a new mesh: its authority, its recovery key in shares,
//! and this machine as its first point.
//!
//! A mesh is founded whole or not at all. The shares leave this process before anything of it can be seen in the folder:
//! if they cannot be printed or written, there is no mesh whose archive nobody could recover.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use node::config::{self, Address};
use node::control::Fault;
use node::identity::authority::Authority;
use node::identity::{self, Identity, Public, roster};
use serde::Serialize;
use store::id::Hash;
use store::keys::WrapKey;
use store::roster::{Membership, Point, Request, Right, Roster};
use store::shares;
use store::signed::Signed;

use super::args::{Data, Format, Stick};
use super::authority::request_line;
use super::exit::{Failure, Usage};
use super::passphrase;
use super::shares::Paper;
use super::{key, output, shares as paper};

/// Set this machine up: keys and settings; with --agency, found a mesh
///
/// With --agency NAME this machine becomes the first point of a new mesh. The key that signs who belongs to it is made
/// here, behind a passphrase (asked, or from DIEMCAU_PASSPHRASE); so is the recovery key, which is printed in shares, once,
/// and kept nowhere. Other machines come in by `diemcau invite` here and `diemcau join CODE` there.
///
/// Without --agency only keys and settings are made, and the request is printed with which `diemcau authority add` makes
/// this machine a point by hand: for machines that cannot be reached over the network. Keys are never made twice.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Found a mesh that this agency runs, such as "Thành phố Hải Phòng"
    #[arg(long, value_name = "NAME")]
    agency: Option<String>,
    /// What people call this point, such as "UBND xã Kim Thành" [default with --agency: the agency's name]
    #[arg(long)]
    name: Option<String>,
    /// Level of administration, in the agency's words [default: commune, with --agency province]
    #[arg(long)]
    level: Option<String>,
    /// Points that would be lost together, by flood or fire, share a zone
    #[arg(long, default_value = "")]
    zone: String,
    /// Where others can call it; not needed on one network
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    /// How many shares of the recovery key to make
    #[arg(long, default_value_t = 5, requires = "agency")]
    shares: u8,
    /// How many of them are enough to recover
    #[arg(long, default_value_t = 3, requires = "agency")]
    threshold: u8,
    /// Write each share into a file of its own, and as a picture, instead of printing them
    #[arg(long, value_name = "DIR", requires = "agency")]
    shares_to: Option<PathBuf>,
    #[command(flatten)]
    stick: Stick,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    data: PathBuf,
    config: PathBuf,
    node: String,
    name: String,
    /// The mesh this machine is a point of.
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<Mesh>,
    /// What `diemcau authority add` takes, as long as it is a point of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

#[derive(Debug, Serialize)]
struct Mesh {
    agency: String,
    authority: String,
    recovery: String,
    roster: PathBuf,
    number: u64,
    points: usize,
    /// Only when it was founded just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<Paper>,
}

impl Mesh {
    fn of(data: &Path, membership: &Membership) -> Self {
        Self {
            agency: membership.agency().to_owned(),
            authority: membership.authority().to_string(),
            recovery: membership.recovery().to_string(),
            roster: data.join(roster::FILE),
            number: membership.number(),
            points: membership.points().len(),
            shares: None,
        }
    }
}

pub(crate) fn main(args: Args) -> Result<()> {
    let data = args.data.folder()?;
    let report = match &args.agency {
        Some(agency) => found(&data, agency.trim(), &args)?,
        None => set_up(&data, &args)?,
    };
    if args.format.json {
        return Ok(output::json(&report)?);
    }
    Ok(output::print(&describe(&report))?)
}

/// Keys, settings, and this machine's request unless it is a point already.
fn set_up(data: &Path, args: &Args) -> Result<Report> {
    let fresh = Identity::load(data).is_err_and(|error| matches!(error, identity::Error::Missing(_)));
    if fresh && args.name.is_none() {
        return Err(Usage(
            "a machine needs a name: add --name \"UBND ...\" (or --agency \"...\" to found a mesh)".to_owned(),
        )
        .into());
    }
    let (me, config) = prepare(data)?;
    let report = |name: String, mesh, request| Report {
        data: data.to_owned(),
        config: config.clone(),
        node: me.node.to_string(),
        name,
        mesh,
        request,
    };
    match roster::load(data, &me.node) {
        Ok(membership) => {
            let own = membership.point(&me.node).expect("a loaded roster has this node");
            Ok(report(own.name.clone(), Some(Mesh::of(data, &membership)), None))
        }
        Err(roster::Error::Missing(_)) => {
            let name = args.name.as_deref().map(str::trim);
            let name = name.ok_or_else(|| Usage("the request needs a name: add --name \"UBND ...\"".to_owned()))?;
            let request = Request {
                wrap: me.wrap,
                name: name.to_owned(),
                level: args.level.as_deref().unwrap_or("commune").trim().to_owned(),
                zone: args.zone.trim().to_owned(),
                addresses: args.addresses.iter().map(ToString::to_string).collect(),
            };
            let signed = Signed::sound(request, &key::load(data)?.node).map_err(|error| Usage(error.to_string()))?;
            Ok(report(name.to_owned(), None, Some(request_line(&signed))))
        }
        Err(error) => Err(error.into()),
    }
}

/// A new mesh with this machine as its first point.
fn found(data: &Path, agency: &str, args: &Args) -> Result<Report> {
    let folder = args.stick.folder(data)?;
    match roster::read(&data.join(roster::FILE)) {
        Ok(membership) => {
            let reason = format!("this machine is a point of {} already; use another --data", membership.agency());
            return Err(Failure::new(Fault::Refused, reason).into());
        }
        Err(roster::Error::Missing(_)) => {}
        // What cannot be read is not written over.
        Err(error) => return Err(error.into()),
    }
    if Authority::is_in(&folder) {
        return Err(node::identity::authority::Error::Exists(folder).into());
    }
    let recovery = WrapKey::generate();
    // Refused before a passphrase is asked for, and checked again when signed.
    let dealt = shares::split(&recovery, args.shares, args.threshold)?;
    let name = args.name.as_deref().unwrap_or(agency).trim();
    let passphrase = passphrase::new("the authority's key")?;
    let (me, config) = prepare(data)?;
    let point = Point {
        node: me.node,
        wrap: me.wrap,
        name: name.to_owned(),
        level: args.level.as_deref().unwrap_or("province").trim().to_owned(),
        zone: args.zone.trim().to_owned(),
        rights: Right::ALL.into(),
        addresses: args.addresses.iter().map(ToString::to_string).collect(),
        replaces: None,
    };
    let first = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: agency.to_owned(),
        recovery: recovery.public(),
        issued_unix_ms: unix_ms(),
        points: vec![point],
        revoked: Vec::new(),
        void: Vec::new(),
    };
    let mut given = None;
    let membership = Authority::create(&folder, &passphrase, first, |_| {
        given = Some(paper::give(&dealt, agency, args.shares_to.as_deref(), args.format.json)?);
        anyhow::Ok(())
    })
    .map_err(unsound_is_usage)?;
    roster::save(data, &membership)?;
    let mesh = Mesh { shares: given, ..Mesh::of(data, &membership) };
    let (data, node) = (data.to_owned(), me.node.to_string());
    Ok(Report { data, config, node, name: name.to_owned(), mesh: Some(mesh), request: None })
}

/// What cannot be signed here came from the command line.
fn unsound_is_usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(node::identity::authority::Error::Unsound(why)) => Usage(why.to_string()).into(),
        _ => error,
    }
}

/// Keys and settings, made if there are none. Keys that are locked stay so: nobody is asked for what only their public
/// halves are needed for.
fn prepare(data: &Path) -> Result<(Public, PathBuf)> {
    match Identity::load_or_create(data) {
        Ok(_) | Err(identity::Error::Locked(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let me = Identity::public_of(data)?;
    let config = data.join(config::FILE);
    if !config.exists() {
        std::fs::write(&config, config::template()).with_context(|| format!("{}", config.display()))?;
    }
    Ok((me, config))
}

/// Now, for people to read in a roster.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

fn describe(report: &Report) -> String {
    let data = report.data.display();
    match (&report.mesh, &report.request) {
        (Some(mesh), _) => format!(
            "{} is set up in {data}: a point of {}, whose roster no. {} has {} point{}.\n\
             {}\
             Run it:        diemcau run --data {data}\n\
             Invite others: diemcau invite \"UBND ...\" --data {data}\n",
            report.name,
            mesh.agency,
            mesh.number,
            mesh.points,
            if mesh.points == 1 { "" } else { "s" },
            mesh.shares.as_ref().map(Paper::describe).unwrap_or_default(),
        ),
        (None, Some(request)) => format!(
            "{} is set up in {data} and is a point of no mesh yet.\n\
             With a code from `diemcau invite`:  diemcau join CODE --data {data}\n\
             By hand, this line to the authority, for `diemcau authority add`:\n\n{request}\n",
            report.name,
        ),
        (None, None) => unreachable!("a machine is a point or asks to be one"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn init(data: &Path, more: &[&str]) -> Result<()> {
        let data = data.to_str().unwrap();
        main(Only::try_parse_from([&["init", "--data", data, "--json"], more].concat())?.args)
    }

    #[test]
    fn what_is_made_is_private_and_explained() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        init(&data, &["--name", "UBND xã Kim Thành"]).unwrap();
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        assert!(std::fs::read_to_string(data.join(config::FILE)).unwrap().contains("# port = 7400"));
        std::fs::write(data.join(config::FILE), "[mesh]\nport = 1\n").unwrap();
        let before = Identity::load(&data).unwrap().id();
        init(&data, &["--name", "UBND xã Kim Thành", "--level", "xã"]).unwrap();
        assert_eq!(std::fs::read_to_string(data.join(config::FILE)).unwrap(), "[mesh]\nport = 1\n");
        assert_eq!(Identity::load(&data).unwrap().id(), before);
        assert!(!data.join(roster::FILE).exists());
    }

    #[test]
    fn what_cannot_be_meant_is_wrong_usage_and_makes_nothing() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        assert!(init(&data, &[]).unwrap_err().is::<Usage>());
        assert!(init(&data, &["--name", "A", "--shares", "3"]).is_err());
        let error = init(&data, &["--agency", "A", "--shares", "3", "--threshold", "4"]).unwrap_err();
        assert!(error.is::<shares::Error>(), "{error}");
        assert!(!data.exists(), "nothing was made");
    }
}
