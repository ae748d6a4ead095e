//! `diemcau init`: keys, settings and roster of a point. The same folder can be set up again at any time: keys are
//! never made twice, and what a person wrote is never overwritten.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::config::{self, Address};
use node::control::Fault;
use node::identity::{Identity, roster};
use serde::Serialize;
use store::roster::{Point, Right, Roster};

use super::args::{Data, Format};
use super::exit::{Failure, Usage};
use super::output;

/// Set this machine up as a point: keys, a settings file, a roster
///
/// Makes the keys once and keeps them for ever; run again, it only adds what is missing. Prints the point's [[point]] block:
/// put the blocks of all points into one file under one `agency = "..."` line, and give that file to each point with
/// `diemcau init --roster FILE`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What people call this point, such as "UBND xã Kim Thành"
    #[arg(long)]
    name: Option<String>,
    /// Agency that runs the mesh [default: the point's name]
    #[arg(long, value_name = "NAME")]
    agency: Option<String>,
    /// Level of administration, in the agency's words
    #[arg(long, default_value = "commune")]
    level: String,
    /// Points that would be lost together, by flood or fire, share a zone
    #[arg(long, default_value = "")]
    zone: String,
    /// What it may do beside taking part
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RIGHT,...", default_value = "chair,relay,hold")]
    rights: Vec<Allowed>,
    /// Where others can call it; not needed on one network
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    /// Check this roster and put it in place of the one in the data folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "agency"])]
    roster: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Allowed {
    /// Start sessions and be their central point
    Chair,
    /// Forward what other points send
    Relay,
    /// Keep copies of sessions it did not take part in
    Hold,
}

impl From<Allowed> for Right {
    fn from(allowed: Allowed) -> Self {
        match allowed {
            Allowed::Chair => Self::Chair,
            Allowed::Relay => Self::Relay,
            Allowed::Hold => Self::Hold,
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    data: PathBuf,
    node: String,
    name: String,
    agency: String,
    points: usize,
    config: PathBuf,
    roster: PathBuf,
    point: String,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let data = args.data.folder()?;
    let fresh = Identity::load(&data).is_err_and(|error| matches!(error, node::identity::Error::Missing(_)));
    if fresh && args.name.is_none() && args.roster.is_none() {
        return Err(Usage("a new point needs a name: add --name \"UBND ...\"".to_owned()).into());
    }
    let (identity, made) = Identity::load_or_create(&data)?;
    let config = data.join(config::FILE);
    if !config.exists() {
        std::fs::write(&config, config::template()).with_context(|| format!("{}", config.display()))?;
    }
    let roster = match &args.roster {
        Some(file) => install(&data, file, &identity)?,
        None => ours(&data, &args, &identity)?,
    };
    let point = roster.point(&identity.id()).expect("a loaded roster has this node");
    let report = Report {
        node: identity.id().to_string(),
        name: point.name.clone(),
        agency: roster.agency().to_owned(),
        points: roster.points().len(),
        roster: data.join(roster::FILE),
        point: block(point)?,
        config,
        data,
    };
    if args.format.json {
        return Ok(output::json(&report)?);
    }
    Ok(output::print(&describe(&report, made))?)
}

/// A roster somebody else put together.
fn install(data: &Path, file: &Path, identity: &Identity) -> Result<Roster> {
    let roster = roster::read(file, &identity.id())?;
    roster::save(data, &roster)?;
    Ok(roster)
}

/// The roster that is there, or a new one of this point alone. One that has others is theirs too and stays.
fn ours(data: &Path, args: &Args, identity: &Identity) -> Result<Roster> {
    let old = match roster::load(data, &identity.id()) {
        Ok(old) => Some(old),
        Err(roster::Error::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(name) = args.name.as_deref().map(str::trim) else {
        return old.ok_or_else(|| Usage("there is no roster yet: add --name \"UBND ...\"".to_owned()).into());
    };
    if let Some(old) = old.filter(|old| old.points().len() > 1) {
        if old.point(&identity.id()).is_some_and(|point| point.name == name) {
            return Ok(old);
        }
        let reason = format!(
            "the roster has {} points and calls this one otherwise: correct {} and give it to all of them",
            old.points().len(),
            data.join(roster::FILE).display(),
        );
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    let point = Point {
        node: identity.id(),
        wrap: identity.wrap.public(),
        name: name.to_owned(),
        level: args.level.trim().to_owned(),
        zone: args.zone.trim().to_owned(),
        rights: args.rights.iter().map(|&allowed| allowed.into()).collect::<BTreeSet<_>>(),
        addresses: args.addresses.iter().map(ToString::to_string).collect(),
    };
    let agency = args.agency.as_deref().unwrap_or(name).trim().to_owned();
    let roster = Roster::new(agency, vec![point]).map_err(|error| Usage(error.to_string()))?;
    roster::save(data, &roster)?;
    Ok(roster)
}

/// The point as it stands in a roster file.
fn block(point: &Point) -> Result<String> {
    let whole = Roster::new("-".to_owned(), vec![point.clone()])?.to_toml();
    let start = whole.find("[[point]]").context("a roster file has [[point]]")?;
    Ok(whole[start..].to_owned())
}

fn describe(report: &Report, made: bool) -> String {
    let keys = if made { "new keys" } else { "the keys it had" };
    format!(
        "{} is set up in {}, with {keys} and {} in its roster.\n\n\
         Its block for the common roster, after a line agency = \"{}\":\n\n{}\n\
         With the roster of all points: diemcau init --roster FILE --data {}\n\
         Then:                          diemcau run --data {}\n",
        report.name,
        report.data.display(),
        match report.points {
            1 => "only itself".to_owned(),
            points => format!("{points} points"),
        },
        report.agency,
        report.point,
        report.data.display(),
        report.data.display(),
    )
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

    fn read(data: &Path) -> Roster {
        let identity = Identity::load(data).unwrap();
        roster::load(data, &identity.id()).unwrap()
    }

    #[test]
    fn three_machines_are_put_together_by_hand() {
        let base = tempfile::tempdir().unwrap();
        let folders = ["trung tâm", "b", "c"].map(|name| base.path().join(name));
        let mut common = "agency = \"Thành phố Hải Phòng\"\n".to_owned();
        for (n, data) in folders.iter().enumerate() {
            init(data, &["--name", &format!("Điểm {n}"), "--rights", "chair", "--address", "10.0.0.1:7400"]).unwrap();
            common.push_str(&block(&read(data).points()[0]).unwrap());
        }
        let file = base.path().join("common.toml");
        std::fs::write(&file, common).unwrap();
        for data in &folders {
            let before = Identity::load(data).unwrap().id();
            init(data, &["--roster", file.to_str().unwrap()]).unwrap();
            assert_eq!(Identity::load(data).unwrap().id(), before);
            let roster = read(data);
            assert_eq!((roster.agency(), roster.points().len()), ("Thành phố Hải Phòng", 3));
            // Once more, by somebody who forgot: nothing changes.
            init(data, &[]).unwrap();
            init(data, &["--name", &roster.point(&before).unwrap().name]).unwrap();
            assert_eq!(read(data), roster);
            assert!(init(data, &["--name", "other"]).unwrap_err().to_string().contains("calls this one otherwise"));
        }
    }

    #[test]
    fn what_is_made_is_private_and_explained() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        init(&data, &["--name", "UBND xã Kim Thành"]).unwrap();
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        assert!(std::fs::read_to_string(data.join(config::FILE)).unwrap().contains("# port = 7400"));
        std::fs::write(data.join(config::FILE), "[mesh]\nport = 1\n").unwrap();
        init(&data, &["--name", "UBND xã Kim Thành", "--level", "xã"]).unwrap();
        assert_eq!(std::fs::read_to_string(data.join(config::FILE)).unwrap(), "[mesh]\nport = 1\n");
        assert_eq!(read(&data).points()[0].level, "xã");
    }

    #[test]
    fn a_roster_without_this_point_or_a_point_without_name_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let [one, two] = ["1", "2"].map(|name| base.path().join(name));
        assert!(init(&one, &[]).unwrap_err().is::<Usage>());
        assert!(!one.exists(), "nothing was made");
        init(&one, &["--name", "Một"]).unwrap();
        let strange = one.join(roster::FILE);
        let error = init(&two, &["--roster", strange.to_str().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("has no point with this node's id"), "{error}");
        assert!(!two.join(roster::FILE).exists());
    }
}
