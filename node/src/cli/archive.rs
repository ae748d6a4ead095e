//! `diemcau archive`: what was recorded, getting it out again, and checking it, whether the node runs or not.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use node::control::{self, Fault, Request, Session};
use node::engine::rights::{self, Members, may};
use node::export::{self, Exported, Holding, Missing, Options, Progress};
use node::identity::{Identity, roster};
use node::sealed;
use serde::Serialize;
use store::access::{Access, Deed, What as To, Who};
use store::id::SessionId;

use super::args::{Data, Format, Listing, One};
use super::exit::Failure;
use super::output::{self, moment, size, state, table};
use super::reading::Reading;
use super::recover::{self, Recover};
use super::scrub::{self, Scrub};
use super::verify::{self, Verify};
use super::{access, key};

/// List, show, export and verify what was recorded
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the recorded sessions, oldest first
    List(Listing),
    /// Show what of a session is here, track by track, and what is missing
    Show(One),
    /// Write a session as MP4 files: one for each point, and one of all points side by side
    ///
    /// The points' files hold pictures and sound as they were recorded, at their times in the session: what is missing is a
    /// hole. Files of the same names in the folder are replaced. Ends with 4 when something of the recording is damaged;
    /// all that is good is written nevertheless.
    ///
    /// With --sealed it writes no film, but everything that proves the recording, as it was sealed and signed: groups,
    /// segments, journal, roster and wrapped keys. Who has no key can check such a folder with `archive verify`, and
    /// cannot hear or see anything.
    Export(Export),
    /// Check that a recording is what was recorded, and say what is wrong, one finding a line
    ///
    /// Looks at a session of this point's archive, or at the folder of a sealed recording, for which it needs no node, no
    /// network and no key. With the data folder of a point that has the key (--data) it also checks what the groups say.
    /// Ends with 4 when something is wrong.
    Verify(Verify),
    /// Show how far the archive was read again from the disk, and what was found
    ///
    /// A running node reads everything it keeps once a month, in the background, and compares it with what was signed. What is
    /// damaged is given to nobody and fetched again from points that hold it. Ends with 4 while something is lost.
    Scrub(Scrub),
    /// Bring back from other points what this point lost with its disk or its PC
    ///
    /// The node must run (`diemcau run`). It asks the points in reach for the sessions that this point had, or the one whose
    /// place it took (`invite --replaces`), and fetches first their records, then their groups, from several at once. Each
    /// signature and each hash is compared before anything is written. What is here is not fetched again, and the node goes on
    /// by itself when this command ends or the node is started again; what is here already plays and exports meanwhile.
    ///
    /// A point that kept its keys opens what comes back. A new machine has new keys: with --shares the recovery key opens the
    /// sessions for it. Ends with 3 when nobody in reach has the rest.
    Recover(Recover),
}

#[derive(Debug, clap::Args)]
struct Export {
    /// Its id, the beginning of it, or `last`
    session: String,
    /// Folder for the files; made if it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Export this point only, by name, number or node id; may be repeated
    #[arg(long = "point", value_name = "NAME")]
    points: Vec<String>,
    /// Make gallery.mp4, the points side by side [default: unless --point is given]
    #[arg(long, overrides_with = "no_gallery")]
    gallery: bool,
    /// Leave gallery.mp4 out
    #[arg(long, overrides_with = "gallery")]
    no_gallery: bool,
    /// Write the sealed recording with its proofs instead of films; DIR must not exist yet, or be empty
    #[arg(long, conflicts_with_all = ["points", "gallery", "no_gallery"])]
    sealed: bool,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

impl Export {
    fn options(&self) -> Options {
        let gallery = self.gallery || (!self.no_gallery && self.points.is_empty());
        Options { points: self.points.clone(), gallery }
    }
}

pub(crate) fn main(args: Args) -> Result<()> {
    match args.what {
        What::List(Listing { data, format }) => list(&data, format),
        What::Show(One { session, data, format }) => show(&session, &data, format),
        What::Export(args) if args.sealed => export_sealed(&args),
        What::Export(args) => export(&args),
        What::Verify(args) => verify::main(&args),
        What::Scrub(args) => scrub::main(&args),
        What::Recover(args) => recover::main(&args),
    }
}

fn list(data: &Data, format: Format) -> Result<()> {
    let Some(reading) = Reading::open_any(data)? else {
        return if format.json { Ok(output::json(&[(); 0])?) } else { Ok(output::print(&listed(&[]))?) };
    };
    let sessions = control::session::list(&reading.archive)?;
    if format.json {
        output::json(&sessions)?;
    } else {
        output::print(&listed(&sessions))?;
    }
    let damaged = reading.archive.sessions()?.damaged;
    if let Some(first) = damaged.first() {
        let reason = format!(
            "{} sessions cannot be listed, as their heads are damaged (the first is {first}): restore the archive's `meta` folder \
             from a backup, or list them at another point",
            damaged.len()
        );
        return Err(Failure::new(Fault::Damaged, reason).into());
    }
    Ok(())
}

fn show(session: &str, data: &Data, format: Format) -> Result<()> {
    let reading = Reading::open(data)?;
    let id = control::session::find(&reading.archive, session)?;
    let head = reading.archive.head(&id).map_err(export::Error::from)?.ok_or(export::Error::Missing(id))?;
    let session = Session { journal: Vec::new(), ..control::session::show(&reading.archive, &id)? };
    let tracks = export::holdings(&reading.archive, &head).map_err(export::Error::from)?;
    let shown = Recorded { session, tracks };
    if format.json { Ok(output::json(&shown)?) } else { Ok(output::print(&describe(&shown))?) }
}

/// What `archive show --json` prints.
#[derive(Debug, Serialize)]
struct Recorded {
    #[serde(flatten)]
    session: Session,
    tracks: Vec<Holding>,
}

fn export(args: &Export) -> Result<()> {
    let folder = args.data.folder()?;
    let identity = key::load(&folder)?;
    let reading = Reading::open(&args.data)?;
    let id = control::session::find(&reading.archive, &args.session)?;
    let reading = write_down(reading, id, &identity, &folder, &args.data)?;
    let mut meter = Meter::new();
    let exported =
        export::session(&reading.archive, &identity, &id, &args.to, &args.options(), &mut |now| meter.show(now));
    meter.clear();
    let exported = exported?;
    if args.format.json {
        output::json(&exported)?;
    } else {
        output::print(&written(&exported))?;
    }
    if exported.is_damaged() {
        let reason = format!(
            "part of session {id} is damaged here and left out of the films; what is named above can be had from another \
             point that holds it"
        );
        return Err(Failure::new(Fault::Damaged, reason).into());
    }
    Ok(())
}

fn export_sealed(args: &Export) -> Result<()> {
    let folder = args.data.folder()?;
    let identity = key::load(&folder)?;
    let reading = Reading::open(&args.data)?;
    let id = control::session::find(&reading.archive, &args.session)?;
    let reading = write_down(reading, id, &identity, &folder, &args.data)?;
    let roster = verify::roster_of(&folder)?;
    let mut meter = verify::Meter::new("groups written");
    let written = sealed::write(&reading.archive, &id, &roster, &args.to, &mut |done, total| meter.show(done, total));
    meter.clear();
    let written = written?;
    match args.format.json {
        true => output::json(&written)?,
        false => output::print(&verify::sealed(&written))?,
    }
    match written.damaged.is_empty() {
        true => Ok(()),
        false => {
            let reason =
                format!("part of session {id} is damaged here and left out; another point that holds it has it");
            Err(Failure::new(Fault::Damaged, reason).into())
        }
    }
}

/// Asks whether this session may be exported here, writes it into the access log, and gives the archive back to read. An
/// export that cannot be written down is not made.
fn write_down(reading: Reading, id: SessionId, identity: &Identity, folder: &Path, data: &Data) -> Result<Reading> {
    if reading.is_copy() {
        data.ask(&Request::Exporting { session: id.to_string() })?;
        return Ok(reading);
    }
    // What is open for reading does not see what happens to the files meanwhile, so it is opened again afterwards.
    drop(reading);
    let members = Members::of(identity.id(), &roster::load(folder, &identity.id())?);
    let uid = control::own_uid();
    let denied = may(&members, &rights::Who::Owner { uid }, rights::Deed::Read).err();
    let (what, now) = (To::Session { session: id }, output::now_ms());
    let entry = match denied {
        None => Access::done(Who::User { uid }, Deed::Export, what, now),
        Some(denied) => Access::refused(Who::User { uid }, Deed::Export, what, &denied.to_string(), now),
    };
    access::write_down(folder, identity, entry).map_err(|reason| {
        let rule = "the export must stand in the access log before it is made, and cannot be written there";
        Failure::new(Fault::Refused, format!("{rule}: {reason}"))
    })?;
    if let Some(denied) = denied {
        return Err(Failure::new(Fault::Refused, denied.to_string()).into());
    }
    Reading::open(data)
}

/// Shows how far an export has come: a bar on a terminal, a line for each file and each ten minutes elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    number: usize,
    told_s: u64,
}

/// Session time between two lines about one file.
const LINE_EVERY_S: u64 = 600;

impl Meter {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent:>3}% {eta}");
        let style = style.expect("the template is a constant").progress_chars("=> ");
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style));
        Self { bar, number: 0, told_s: 0 }
    }

    fn show(&mut self, now: Progress<'_>) {
        let fresh = self.number != now.number;
        self.number = now.number;
        if let Some(bar) = &self.bar {
            if fresh {
                bar.reset();
                bar.set_message(format!("{}/{} {}", now.number, now.count, now.file));
            }
            bar.set_length(now.length.as_millis() as u64);
            bar.set_position(now.done.as_millis() as u64);
        } else if fresh || now.done.as_secs() >= self.told_s + LINE_EVERY_S {
            self.told_s = if fresh { 0 } else { now.done.as_secs() };
            eprintln!(
                "{}/{} {}: {} of {} s",
                now.number,
                now.count,
                now.file,
                now.done.as_secs(),
                now.length.as_secs()
            );
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn listed(sessions: &[Session]) -> String {
    let row = |session: &Session| {
        let length = session.ended.map(|ended| ended.saturating_sub(session.started) / 1000);
        vec![
            session.id.clone(),
            moment(session.started),
            length.map_or_else(|| "open".to_owned(), minutes),
            session.points.len().to_string(),
            session.groups.to_string(),
            size(session.bytes),
            session.gaps.to_string(),
            session.title.clone(),
        ]
    };
    let rows: Vec<_> = sessions.iter().map(row).collect();
    table(&["SESSION", "STARTED", "LENGTH", "POINTS", "GROUPS", "SIZE", "GAPS", "TITLE"], &rows)
}

fn minutes(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn describe(recorded: &Recorded) -> String {
    let session = &recorded.session;
    let mut text = format!(
        "session {} \"{}\" is {}: started {}\n{} groups here, {}\n\n",
        session.id,
        session.title,
        state(session.state),
        moment(session.started),
        session.groups,
        size(session.bytes)
    );
    let row = |track: &Holding| {
        let missing: u64 = track.missing.iter().map(|gap| gap.to.saturating_sub(gap.from).saturating_add(1)).sum();
        vec![
            track.track.to_string(),
            track.point.clone(),
            track.groups.to_string(),
            track.frames.to_string(),
            size(track.bytes),
            missing.to_string(),
        ]
    };
    let rows: Vec<_> = recorded.tracks.iter().map(row).collect();
    text.push_str(&table(&["TRACK", "POINT", "GROUPS", "FRAMES", "SIZE", "MISSING"], &rows));
    let missing: Vec<_> = recorded.tracks.iter().flat_map(|track| &track.missing).collect();
    if !missing.is_empty() {
        text.push('\n');
        missing.into_iter().for_each(|missing| text.push_str(&gap(missing)));
    }
    text
}

fn written(exported: &Exported) -> String {
    let row = |export: &export::Export| {
        vec![
            export.point.clone(),
            export.video_frames.to_string(),
            export.audio_frames.to_string(),
            format!("{:.1} s", export.seconds),
            export.path.display().to_string(),
        ]
    };
    let rows: Vec<_> = exported.exports.iter().map(row).collect();
    let mut text = table(&["POINT", "PICTURES", "SOUND PACKETS", "UNTIL", "FILE"], &rows);
    for absent in &exported.absent {
        text.push_str(&format!("nothing of {} can be shown\n", absent.point));
    }
    let exports = exported.exports.iter().map(|export| &export.missing);
    for missing in exports.chain(exported.absent.iter().map(|absent| &absent.missing)).flatten() {
        text.push_str(&gap(missing));
    }
    if let Some(gallery) = &exported.gallery {
        text.push_str(&format!("all of them side by side: {}\n", gallery.display()));
    }
    text
}

fn gap(missing: &Missing) -> String {
    match missing.from == missing.to {
        true => format!("missing in {}: group {} ({})\n", missing.track, missing.from, missing.reason),
        false => {
            format!("missing in {}: groups {} to {} ({})\n", missing.track, missing.from, missing.to, missing.reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use node::export::{Absent, Reason};
    use store::archive;
    use store::id::{PointNumber, TrackId, TrackKind};
    use store::journal::GapReason;

    use super::super::exit;
    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Export,
    }

    #[test]
    fn the_gallery_is_made_unless_points_are_named_or_it_is_refused() {
        let cases = [
            ("", true),
            ("--no-gallery", false),
            ("--point A", false),
            ("--point A --point B --gallery", true),
            ("--gallery --no-gallery", false),
            ("--no-gallery --gallery", true),
        ];
        for (flags, gallery) in cases {
            let line = format!("export last --to D {flags}");
            let args = Only::try_parse_from(line.split_whitespace()).unwrap().args;
            assert_eq!(args.options().gallery, gallery, "{flags}");
            assert_eq!(args.points.len(), flags.matches("--point").count());
        }
    }

    fn exported() -> Exported {
        let track = |number, kind| TrackId::new(PointNumber::new(number).unwrap(), kind);
        let missing = |track, from, to, reason| Missing { track, from, to, reason };
        Exported {
            session: "01jd".into(),
            exports: vec![export::Export {
                point: "Trung tâm".into(),
                path: "out/00-Trung-tâm.mp4".into(),
                video_frames: 600,
                audio_frames: 999,
                seconds: 20.04,
                missing: vec![missing(track(0, TrackKind::Main), 3, 5, Reason::Journal(GapReason::Shed))],
            }],
            absent: vec![Absent {
                point: "Kim Thành".into(),
                missing: vec![missing(track(1, TrackKind::Audio), 0, 0, Reason::Damaged("its bytes changed"))],
            }],
            gallery: Some("out/gallery.mp4".into()),
        }
    }

    #[test]
    fn an_export_says_what_was_written_and_what_is_missing() {
        let expected = "\
            POINT      PICTURES  SOUND PACKETS  UNTIL   FILE\n\
            Trung tâm  600       999            20.0 s  out/00-Trung-tâm.mp4\n\
            nothing of Kim Thành can be shown\n\
            missing in 0-main: groups 3 to 5 (the line was too slow)\n\
            missing in 1-audio: group 0 (damaged: its bytes changed)\n\
            all of them side by side: out/gallery.mp4\n";
        assert_eq!(written(&exported()), expected);
    }

    #[test]
    fn json_has_the_names_that_scripts_rely_on() {
        let mut exported = exported();
        exported.absent.clear();
        let expected = concat!(
            r#"{"session":"01jd","exports":[{"point":"Trung tâm","path":"out/00-Trung-tâm.mp4","video_frames":600,"#,
            r#""audio_frames":999,"seconds":20.04,"missing":[{"track":"0-main","from":3,"to":5,"#,
            r#""reason":"the line was too slow"}]}],"gallery":"out/gallery.mp4"}"#,
        );
        assert_eq!(serde_json::to_string(&exported).unwrap(), expected);
    }

    #[test]
    fn exit_codes_of_an_export_are_those_of_the_contract() {
        let code = |error: export::Error| exit::judge(&error.into()).0;
        let id = SessionId::from_parts(1, [0; 10]);
        let group = store::id::GroupId {
            session: id,
            track: TrackId::new(PointNumber::new(0).unwrap(), TrackKind::Main),
            seq: 1,
        };
        assert_eq!(code(export::Error::Missing(id)), 3);
        assert_eq!(code(export::Error::Empty(id)), 3);
        assert_eq!(code(archive::Error::Damaged(group).into()), 4);
        assert_eq!(code(archive::Error::Unreadable("head".into()).into()), 4);
        assert_eq!(code(export::Error::Key { session: id, source: store::keys::Error::Wrap }), 4);
        assert_eq!(code(export::Error::NoKey(id)), 5);
    }
}
