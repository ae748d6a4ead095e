//! `diemcau archive verify` and `archive export --sealed`: what anyone can check of a recording, here or far from here.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use node::control::{self, Fault};
use node::identity::{Identity, file, roster};
use node::sealed::{Folder, Stored, Written};
use serde::Serialize;
use store::id::{NodeId, PointNumber};
use store::roster::Membership;
use store::seal::Opener;
use store::session::Head;
use store::verify::{self, Exhibit, Options, Report};

use super::args::{Data, Format};
use super::exit::Failure;
use super::key;
use super::output::{self, size};
use super::reading::Reading;

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A session's id, the beginning of it, or `last`; or the folder of a sealed recording
    #[arg(value_name = "SESSION or DIR", default_value = "last")]
    what: String,
    /// Look only at what this point signed, by name or number [default: itself, at a point that is not central]
    #[arg(long = "point", value_name = "NAME")]
    point: Option<String>,
    /// The authority (64 digits) that must have signed the roster
    #[arg(long, value_name = "KEY")]
    authority: Option<NodeId>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// What `archive verify --json` prints.
#[derive(Debug, Serialize)]
struct Verified {
    session: Option<String>,
    title: String,
    authority: Option<String>,
    entries: u64,
    segments: u64,
    manifest: Option<u32>,
    groups: u64,
    opened: u64,
    findings: Vec<Found>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Found {
    place: String,
    what: String,
}

impl From<Report> for Verified {
    fn from(report: Report) -> Self {
        let found = |finding: verify::Finding| Found { place: finding.place, what: finding.what };
        Self {
            session: report.session.map(|session| session.to_string()),
            title: report.title,
            authority: report.authority.map(|authority| authority.to_string()),
            entries: report.entries,
            segments: report.segments,
            manifest: report.manifest,
            groups: report.groups,
            opened: report.opened,
            findings: report.findings.into_iter().map(found).collect(),
            notes: report.notes,
        }
    }
}

pub(crate) fn main(args: &Verify) -> Result<()> {
    let dir = Path::new(&args.what);
    let report = if dir.is_dir() { folder(args, dir)? } else { stored(args)? };
    let verified = Verified::from(report);
    match args.format.json {
        true => output::json(&verified)?,
        false => output::print(&told(&verified))?,
    }
    match verified.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::new(Fault::Damaged, "1 thing is wrong with this recording").into()),
        count => Err(Failure::new(Fault::Damaged, format!("{count} things are wrong with this recording")).into()),
    }
}

/// A folder, with the keys of a point only if its data folder is named: whoever checks a recording need not be one.
fn folder(args: &Verify, dir: &Path) -> Result<Report> {
    let folder = Folder::open(dir)?;
    let head = folder.head().ok().and_then(|bytes| Head::decode(&bytes).ok());
    let opener = match (&args.data.data, &head) {
        (Some(_), Some(head)) => {
            let identity = key::load(&args.data.folder()?)?;
            let wraps = folder.wraps(&identity.id()).map_err(|what| Failure::new(Fault::Damaged, what))?;
            opener(head, &wraps, &identity)?
        }
        _ => None,
    };
    let only = match (&args.point, &head) {
        (Some(name), Some(head)) => Some(named(head, name)?),
        _ => None,
    };
    Ok(look(&folder, args, opener.as_ref(), only))
}

fn stored(args: &Verify) -> Result<Report> {
    let data = args.data.folder()?;
    let reading = Reading::open(&args.data)?;
    let session = control::session::find(&reading.archive, &args.what)?;
    let identity = key::load(&data)?;
    let membership = file::read(&data.join(roster::FILE), Membership::LEN_MAX).ok().map(Bytes::from);
    let stored = Stored { archive: &reading.archive, session, roster: membership };
    let head = reading.archive.head(&session).map_err(node::sealed::Error::from)?;
    let (mut own, mut keys) = (None, None);
    if let Some(head) = &head {
        let holders = reading.archive.holders(&session).map_err(node::sealed::Error::from)?;
        let whole = head.central == identity.id() || holders.contains(&identity.id());
        let wraps = reading.archive.wraps(&session, &identity.id()).map_err(node::sealed::Error::from)?;
        keys = opener(head, &wraps, &identity)?;
        own = match &args.point {
            Some(name) => Some(named(head, name)?),
            None if !whole => head.number(&identity.id()),
            None => None,
        };
    }
    let mut report = look(&stored, args, keys.as_ref(), own);
    if own.is_some() && args.point.is_none() {
        report.notes.push("this point keeps its own record only; central keeps the journal and everybody's".into());
    }
    Ok(report)
}

fn opener(
    head: &Head,
    wraps: &std::collections::BTreeMap<store::keys::Epoch, store::keys::Wrap>,
    identity: &Identity,
) -> Result<Option<Opener>> {
    verify::opener(head, wraps, &identity.wrap, identity.id())
        .map_err(|error| Failure::new(Fault::Damaged, format!("the key kept for this point: {error}")).into())
}

fn named(head: &Head, name: &str) -> Result<PointNumber> {
    let fits = |member: &&store::session::Member| member.name == name || member.number.to_string() == name;
    let found = head.points.iter().find(fits).map(|member| member.number);
    found.ok_or_else(|| Failure::new(Fault::Missing, format!("{name:?} is not a point of this session")).into())
}

fn look(exhibit: &dyn Exhibit, args: &Verify, opener: Option<&Opener>, only: Option<PointNumber>) -> Report {
    let mut meter = Meter::new("groups looked at");
    let options = Options { opener, authority: args.authority, only };
    let report = verify::verify(exhibit, &options, &mut |done, total| meter.show(done, total));
    meter.clear();
    report
}

fn told(verified: &Verified) -> String {
    let mut text = String::new();
    if let Some(session) = &verified.session {
        text.push_str(&format!("session {session} {:?}\n", verified.title));
    }
    if let Some(authority) = &verified.authority {
        text.push_str(&format!("its points are vouched for by the authority {authority}\n"));
    }
    text.push_str(&format!(
        "{} groups are what their points signed, {} of them opened; {} segments, {} journal entries\n",
        verified.groups, verified.opened, verified.segments, verified.entries
    ));
    verified.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    for Found { place, what } in &verified.findings {
        text.push_str(&format!("{place}: {what}\n"));
    }
    if verified.findings.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    text
}

/// What `archive export --sealed` says at its end.
pub(crate) fn sealed(written: &Written) -> String {
    let mut text = format!(
        "{} groups ({}), {} segments, {} journal entries: {}\n",
        written.groups,
        size(written.bytes),
        written.segments,
        written.entries,
        written.path.display()
    );
    written.damaged.iter().for_each(|group| text.push_str(&format!("damaged here and left out: group {group}\n")));
    text
}

/// The roster of a data folder, as it goes into a sealed recording.
pub(crate) fn roster_of(data: &Path) -> Result<Vec<u8>> {
    let path: PathBuf = data.join(roster::FILE);
    file::read(&path, Membership::LEN_MAX).map_err(|source| node::sealed::Error::Disk { path, source }.into())
}

/// Shows how far something that goes group by group has come: a bar on a terminal, now and then a line elsewhere.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    what: &'static str,
    told: Instant,
}

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Meter {
    pub(crate) fn new(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}");
        let style = style.expect("the template is a constant").progress_chars("=> ");
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style);
            bar.with_message(what)
        });
        Self { bar, what, told: Instant::now() }
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            eprintln!("{done} of {total} {}", self.what);
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_json_has_the_names_that_scripts_rely_on() {
        let finding = verify::Finding { place: "journal".into(), what: "is not there".into() };
        let report = Report { groups: 3, findings: vec![finding], notes: vec!["so".into()], ..Report::default() };
        let verified = Verified::from(report);
        let expected = "\
            3 groups are what their points signed, 0 of them opened; 0 segments, 0 journal entries\n\
            note: so\n\
            journal: is not there\n";
        assert_eq!(told(&verified), expected);
        let expected = concat!(
            r#"{"session":null,"title":"","authority":null,"entries":0,"segments":0,"manifest":null,"groups":3,"opened":0,"#,
            r#""findings":[{"place":"journal","what":"is not there"}],"notes":["so"]}"#,
        );
        assert_eq!(serde_json::to_string(&verified).unwrap(), expected);
    }
}
