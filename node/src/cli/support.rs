//! `diemcau support-bundle`: gathers what `node::support` describes, from the running node if there is one and from its folder
//! otherwise. What cannot be had is said in its place and does not stop the rest, as a node in trouble is what this is for.

mod machine;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use node::accounts::Accounts;
use node::config::{self, Config};
use node::control::access::AccessFilter;
use node::control::{self, Disk, Fault, Request, Response, Session, Status};
use node::identity::roster;
use node::join::invite;
use node::support::mask::Mask;
use node::support::{self, Piece, tar};
use serde::Serialize;

use super::args::{Data, Format};
use super::exit::Failure;
use super::{log, output, reading, status};

/// Gather what a helper needs to see of this node, without names, addresses and keys
///
/// Writes a tar archive of plain texts: version, settings, state, counters, disk, and the database's own log. Points are
/// numbers in it, and whatever may concern somebody is taken out. Read it before you send it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File to write, which must not exist [default: diemcau-support-DATE.tar here]
    #[arg(long, value_name = "FILE.tar")]
    to: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// The folder inside the archive.
const TOP: &str = "diemcau-support";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    to: PathBuf,
    files: Vec<String>,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let folder = args.data.folder()?;
    if !folder.is_dir() {
        return Err(node::identity::Error::Missing(folder).into());
    }
    let now = output::now_ms();
    let to = args.to.clone().unwrap_or_else(|| format!("diemcau-support-{}.tar", stamp(now)).into());
    let pieces = gather(&folder, &args.data, now);
    let files: Vec<_> = pieces.iter().map(|piece| (format!("{TOP}/{}", piece.name), &piece.text)).collect();
    let bytes = tar::archive(files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())), now / 1000);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).map_err(|error| {
        let reason = format!("{} cannot be written: {error}", to.display());
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(Fault::Refused, reason),
            _ => Failure::new(Fault::Failed, reason),
        }
    })?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(|| to.display().to_string())?;
    let report = Report { to, files: pieces.into_iter().map(|piece| piece.name).collect() };
    if args.format.json {
        return Ok(output::json(&report)?);
    }
    let (to, files) = (report.to.display(), report.files.join(", "));
    Ok(output::print(&format!("{to} holds {files}\nRead it before you send it: tar -xf {to}\n"))?)
}

/// `20261122-1305`, for a file's name.
fn stamp(now_ms: u64) -> String {
    let digits: String = output::moment(now_ms).chars().filter(char::is_ascii_digit).collect();
    format!("{}-{}", &digits[..8], &digits[8..12])
}

/// Everything, masked.
fn gather(folder: &Path, data: &Data, now: u64) -> Vec<Piece> {
    let version = env!("CARGO_PKG_VERSION");
    let state = match data.ask(&Request::Status) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(_) => Err(anyhow!("the node answered something else")),
        Err(_) => status::stopped(folder).map(|status| Status { disk: disk(folder), ..status }),
    };
    let mask = Mask::new(names(folder, data, state.as_ref().ok()));
    let or_why = |name: &str, piece: Result<Piece>| match piece {
        Ok(piece) => piece,
        Err(error) => Piece::new(name, format!("not to be had: {error:#}\n")),
    };
    let sorry = |error: &anyhow::Error| Err(anyhow!("{error:#}"));
    let ours = [
        or_why("settings.txt", settings(folder)),
        or_why("state.txt", state.as_ref().map(support::state).or_else(sorry)),
        or_why("counters.txt", state.as_ref().map(support::counters).or_else(sorry)),
        or_why("rights.txt", rights(folder)),
        or_why("accesses.txt", accesses(data)),
        machine::machine(now),
        machine::process(folder),
        machine::files(folder),
    ];
    let mut pieces = vec![support::read_me(version)];
    pieces.extend(ours.into_iter().map(|piece| Piece { text: mask.numbers(&piece.text), ..piece }));
    for database in ["meta", "media"] {
        let path = config::archive(folder).join(database).join("LOG");
        let text =
            machine::tail(&path).map_or_else(|error| format!("not to be had: {error}\n"), |text| mask.text(&text));
        pieces.push(Piece::new(format!("database-{database}.txt"), text));
    }
    pieces
}

/// All names of people, points, places and sessions that this node knows.
fn names(folder: &Path, data: &Data, status: Option<&Status>) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(roster) = roster::read(&folder.join(roster::FILE)) {
        names.push(roster.agency().to_owned());
        for point in roster.points() {
            names.extend([point.name.clone(), point.level.clone(), point.zone.clone()]);
            // The host without its port.
            names.extend(point.addresses.iter().filter_map(|at| Some(at.rsplit_once(':')?.0.to_owned())));
        }
    }
    if let Some(status) = status {
        names.extend(status.session.iter().map(|session| session.title.clone()));
        names.extend(status.points.iter().map(|point| point.name.clone()));
    }
    let sessions = match data.ask(&Request::SessionList) {
        Ok(Response::Sessions { sessions }) => sessions,
        _ => stopped_sessions(folder).unwrap_or_default(),
    };
    for session in sessions {
        names.push(session.title);
        names.extend(session.points.into_iter().map(|point| point.name));
    }
    names.extend(
        invite::load(folder, output::now_ms()).unwrap_or_default().iter().map(|invite| invite.grant().name.clone()),
    );
    if let Ok(accounts) = Accounts::load(folder) {
        names.extend(accounts.list().into_iter().map(|account| account.name));
    }
    names.extend(["USER", "LOGNAME", "SUDO_USER", "HOSTNAME"].iter().filter_map(|name| std::env::var(name).ok()));
    names.extend(machine::read("/proc/sys/kernel/hostname"));
    names.push(folder.display().to_string());
    // Words that stand in every text, and name nobody.
    names.retain(|name| {
        !["root", "data", "diemcau", "home", "tmp", "srv", "var", "lib", "localhost"].contains(&name.trim())
    });
    names
}

/// What a stopped node's archive holds, and the room it has.
fn disk(folder: &Path) -> Disk {
    let sessions = stopped_sessions(folder).unwrap_or_default();
    let groups = sessions.iter().map(|session| session.groups).sum();
    let bytes = sessions.iter().map(|session| session.bytes).sum();
    Disk::of(folder, groups, bytes).unwrap_or_default()
}

fn stopped_sessions(folder: &Path) -> Result<Vec<Session>> {
    let Some(archive) = reading::stopped_any(folder)? else { return Ok(Vec::new()) };
    Ok(control::session::list(&archive)?)
}

fn settings(folder: &Path) -> Result<Piece> {
    let config: Config = config::load(None, Some(folder), Vec::new())?;
    Ok(support::settings(&config))
}

fn rights(folder: &Path) -> Result<Piece> {
    let roster = roster::read(&folder.join(roster::FILE))?;
    let accounts: Vec<_> = Accounts::load(folder)?.list().into_iter().map(|account| account.role).collect();
    Ok(support::rights(roster.points().iter(), &accounts))
}

fn accesses(data: &Data) -> Result<Piece> {
    let (lines, broken) = log::read(data, &AccessFilter::default())?;
    Ok(support::accesses(&lines, &broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_by_its_time() {
        assert_eq!(stamp(1_795_327_511_000), "20261122-1305");
    }
}
