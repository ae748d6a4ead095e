//! `diemcau demo`: the main job on one machine, with the real program: a mesh of points, a session, its record, its
//! films.
//!
//! Every point is a process of its own with its own data folder, set up and asked as a person would: `init`, `run`,
//! `session`, `archive export`. What the table says was shown comes from each room's own decoder, and what should have
//! been shown from the record of who sent it, so that a frame that never left its room or never arrived is counted.

mod account;
mod mesh;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use codec::capture::Spec;
use node::control::{Fault, Request, Response};

use super::args::Format;
use super::exit::Failure;
use super::output;
use mesh::Mesh;
use report::Report;

/// Time the points have to find each other.
const MEET_MAX: Duration = Duration::from_secs(60);
/// Time all of them have to join the session.
const JOIN_MAX: Duration = Duration::from_secs(30);

/// Run a mesh of points on this machine, hold a session, and export its films
///
/// The points are real nodes in processes of their own, with their data folders under DIR: 1-central, 2-delegate and so
/// on. Prints who saw whom, how late, where the films are, and how to check the recording.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Points, one of them central
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=40))]
    points: u16,
    /// Seconds the session lasts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Where picture and sound of every point come from: pattern, or file:PATH
    #[arg(long, value_name = "SRC", default_value = "pattern")]
    source: Spec,
    /// Folder for the data of all points and the films [default: a new one among the system's temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the nodes running, until interrupted
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let folder = folder(args.data.as_deref())?;
    // A source that cannot be read is said before anything is started.
    let lack = codec::capture::check(&args.source)?.map(|lack| format!("The source {} gives {lack}", args.source));
    lack.iter().for_each(|lack| tell(lack));
    tell(&format!("Setting up {} points in {}", args.points, folder.display()));
    let mut mesh = Mesh::start(&folder, args.points, &args.source)?;
    tell_pages(&mesh);
    mesh.wait_until_met(MEET_MAX)?;
    let central = mesh.central().to_owned();
    let request =
        Request::SessionStart { title: "Buổi tiếp công dân thử nghiệm".to_owned(), points: Vec::new() };
    let Response::Session(session) = mesh.ask(&central, &request)? else { bail!("central did not start the session") };
    mesh.wait_until_joined(&session.id, JOIN_MAX)?;
    tell(&format!("Session {} runs for {} seconds", session.id, args.seconds));
    mesh.live(Duration::from_secs(args.seconds))?;
    tell("Ending the session and completing its record");
    let Response::Session(ended) = mesh.ask(&central, &Request::SessionEnd { session: Some(session.id.clone()) })?
    else {
        bail!("central did not end the session");
    };
    tell("Exporting the films");
    let report = Report::make(&mut mesh, &ended, &folder)?;
    if args.format.json {
        output::json(&report)?;
    } else {
        // By its path: what was just built is on no search path.
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("diemcau"));
        let (program, data) = (program.display(), central.display());
        let check = format!("{program} archive verify {} --data {data}", session.id);
        output::print(&report.describe(&folder, &check, lack.as_deref()))?;
    }
    if args.keep {
        tell("The nodes go on running, each with its page, until Ctrl-C is pressed:");
        tell_pages(&mesh);
        mesh.until_interrupted()?;
    }
    mesh.stop()
}

/// The folder to work in, which is new or empty: a demo must not mix with an office's data.
fn folder(given: Option<&Path>) -> Result<PathBuf> {
    let folder = match given {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            std::env::temp_dir().join(format!("diemcau-demo-{}", now.as_secs()))
        }
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let mut inside = std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    if inside.next().is_some() {
        let reason = format!("{} is not empty: give the demo a folder of its own with --data", folder.display());
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    Ok(folder)
}

/// Where a browser on this machine finds each room.
fn tell_pages(mesh: &Mesh) {
    for point in mesh.points() {
        tell(&format!("  {:<22} {}", point.name, point.console));
    }
}

/// Progress, for people: on stderr, so that stdout holds the result alone.
fn tell(what: &str) {
    eprintln!("{what}");
}
