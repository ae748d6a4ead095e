//! `diemcau archive recover`: what this point lost comes back from the others.
//!
//! The node does it, and goes on when this command is gone; here it is asked to, watched, and helped with one thing: the
//! recovery key. That key opens every session of the mesh, so it stays in this process, which talks to nobody but the
//! local node: the command reads the wrapped keys that came back, opens them, and wraps each for this point alone.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use node::control::{self, Fault, Recovery, Request, Response};
use node::engine::rights::Members;
use node::identity::{Identity, roster};
use node::sealed::{self, Written};
use serde::Serialize;
use store::archive::Archive;
use store::keys::{WrapContext, WrapKey, recovery_recipient};
use store::roster::Membership;
use store::session::Head;
use store::shares::combine;

use super::args::{Data, Format};
use super::exit::Failure;
use super::output::{self, size};
use super::reading::Reading;
use super::{shares, verify};

/// How often the node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long the command waits for anybody to answer.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// This session alone, by its whole id as another point shows it
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// From this point alone, by name or node id; may be repeated
    #[arg(long, value_name = "POINT")]
    from: Vec<String>,
    /// Also write each session that is here again into DIR/SESSION, sealed, as `archive export --sealed` does
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Open the sessions with the recovery key: shares from these files, or typed in, or from stdin, if none is named
    #[arg(long, value_name = "FILE", num_args = 0..)]
    shares: Option<Vec<PathBuf>>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// What `archive recover --json` prints.
#[derive(Debug, Serialize)]
struct Recovered {
    #[serde(flatten)]
    course: Recovery,
    /// Sessions opened with the recovery key for this point.
    opened: Vec<String>,
    /// Sessions of this point that are here and that it cannot open.
    locked: Vec<String>,
    /// Sealed folders that were written.
    sealed: Vec<Written>,
}

pub(crate) fn main(args: &Recover) -> Result<()> {
    let folder = args.data.folder()?;
    let membership = roster::read(&folder.join(roster::FILE))?;
    // Typed before anything is asked for, so that nobody waits beside a paper.
    let key = match &args.shares {
        Some(files) => Some(combine(&shares::read(files)?, &membership.recovery())?),
        None => None,
    };
    let office = Office { me: Identity::public_of(&folder)?.node, membership };
    let mut meter = Meter::new();
    let asked = args.data.ask(&Request::Recover { session: args.session.clone(), from: args.from.clone() })?;
    let course = watch(&args.data, course(asked)?, &mut meter);
    meter.clear();
    let course = course?;
    let reading = Reading::open(&args.data)?;
    let (opened, locked) = open(&args.data, &reading.archive, &office, key.as_ref())?;
    let sealed = seal(args, &reading.archive, &course)?;
    drop(reading);
    let recovered = Recovered { course, opened, locked, sealed };
    match args.format.json {
        true => output::json(&recovered)?,
        false => output::print(&told(&recovered))?,
    }
    match recovered.course.left.len() {
        0 if recovered.course.sessions == 0 && args.session.is_some() => {
            Err(Failure::new(Fault::Missing, "nobody in reach knows that session as one of this point's").into())
        }
        0 => Ok(()),
        left => {
            let reason = format!(
                "of {left} sessions nobody in reach has the rest: the node asks again when other points are online"
            );
            Err(Failure::new(Fault::Missing, reason).into())
        }
    }
}

fn course(response: Response) -> Result<Recovery> {
    match response {
        Response::Recovery(course) => Ok(*course),
        other => bail!("the node answered something else: {other:?}"),
    }
}

/// Shows how far the node is until nothing is left to do with those in reach.
fn watch(data: &Data, mut now: Recovery, meter: &mut Meter) -> Result<Recovery> {
    let began = Instant::now();
    while !now.idle {
        if now.answered == 0 && began.elapsed() > ALONE_MAX {
            let reason = "no other point answered: is one of them online, and does `diemcau status` show it? The node goes \
                          on asking";
            return Err(Failure::new(Fault::Missing, reason).into());
        }
        meter.show(&now);
        std::thread::sleep(LOOK_EVERY);
        now = course(data.ask(&Request::Recovery)?)?;
    }
    Ok(now)
}

/// This point, and what its roster says.
struct Office {
    me: store::id::NodeId,
    membership: Membership,
}

/// Opens what this point cannot open with the recovery key, if it is there. Gives the sessions that were opened, and those
/// that stay locked.
fn open(data: &Data, archive: &Archive, office: &Office, key: Option<&WrapKey>) -> Result<(Vec<String>, Vec<String>)> {
    let us = Members::of(office.me, &office.membership).with_before(&office.me);
    let (mut opened, mut locked) = (Vec::new(), Vec::new());
    let heads = archive.sessions().map_err(control::session::Error::from)?.heads;
    for head in heads.into_iter().filter(|head| us.iter().any(|node| head.number(node).is_some())) {
        let own = archive.wraps(&head.id, &office.me).map_err(control::session::Error::from)?;
        let lacks = head.epochs.iter().any(|period| !own.contains_key(&period.epoch));
        if !lacks {
            continue;
        }
        match key.map(|key| rewrap(data, archive, office, &head, key)).transpose()? {
            Some(true) => opened.push(head.id.to_string()),
            Some(false) | None if own.is_empty() => locked.push(head.id.to_string()),
            // It was removed from the session before the later keys.
            Some(false) | None => {}
        }
    }
    Ok((opened, locked))
}

/// Opens a session's keys and wraps them for this point; whether there were any.
fn rewrap(data: &Data, archive: &Archive, office: &Office, head: &Head, key: &WrapKey) -> Result<bool> {
    let recovery = recovery_recipient(&office.membership.recovery());
    let wraps = archive.wraps(&head.id, &recovery).map_err(control::session::Error::from)?;
    let keys = match head.open(&wraps, key, recovery) {
        Ok(keys) => keys,
        Err(error) => {
            output::note(&format!(
                "session {}: its key does not open with the recovery key ({error}); take it back again with --from and \
                 another point",
                head.id
            ));
            return Ok(false);
        }
    };
    let Some(point) = office.membership.point(&office.me) else { return Ok(false) };
    let mut wraps = Vec::new();
    for (epoch, session_key) in &keys {
        let context = WrapContext { session: head.id, epoch: *epoch, recipient: office.me };
        wraps.push((*epoch, session_key.wrap(&point.wrap, &context)?));
    }
    if wraps.is_empty() {
        return Ok(false);
    }
    data.ask(&Request::Keys { session: head.id.to_string(), wraps })?;
    Ok(true)
}

/// Writes what is here again into sealed folders, if somebody wants them.
fn seal(args: &Recover, archive: &Archive, course: &Recovery) -> Result<Vec<Written>> {
    let Some(to) = &args.to else { return Ok(Vec::new()) };
    let membership = verify::roster_of(&args.data.folder()?)?;
    let mut written = Vec::new();
    for head in archive.sessions().map_err(control::session::Error::from)?.heads {
        let id = head.id.to_string();
        let is_meant = args.session.as_ref().is_none_or(|session| *session == id);
        let is_back = archive.is_restored(&head.id).map_err(control::session::Error::from)?;
        let place = to.join(&id);
        if !is_meant || !is_back || course.left.contains(&id) || place.exists() {
            continue;
        }
        args.data.ask(&Request::Exporting { session: id.clone() })?;
        let mut meter = verify::Meter::new("groups written");
        let done = sealed::write(archive, &head.id, &membership, &place, &mut |done, all| meter.show(done, all));
        meter.clear();
        written.push(done?);
    }
    Ok(written)
}

fn told(recovered: &Recovered) -> String {
    let course = &recovered.course;
    let mut text = format!(
        "{} of {} sessions are here again, {} groups, {}; {} came now.\n",
        course.whole,
        course.sessions,
        course.groups.saturating_sub(course.missing_groups),
        size(course.bytes.saturating_sub(course.missing_bytes)),
        size(course.fetched_bytes)
    );
    if course.sessions == 0 {
        text = "Nobody in reach knows a session of this point.\n".to_owned();
    }
    let mut line = |what: String| text.push_str(&(what + "\n"));
    for name in &course.wrong {
        line(format!("{name} gave something false and was not asked again: have its disk and its people looked at"));
    }
    for session in &course.left {
        line(match course.disputed.contains(session) {
            true => format!(
                "session {session}: points say different things of who chaired it; `diemcau archive recover --session {session} \
                 --from POINT` takes it from one that was there"
            ),
            false => format!("session {session}: nobody in reach has the rest"),
        });
    }
    if course.foreign > 0 {
        line(format!(
            "{} more were named in which nothing signed by this point is left; `--session ID` takes one of them nevertheless",
            course.foreign
        ));
    }
    if !recovered.opened.is_empty() {
        line(format!("{} were opened with the recovery key for this point", recovered.opened.len()));
    }
    if !recovered.locked.is_empty() {
        let count = recovered.locked.len();
        line(format!(
            "{count} of them this point cannot open: `diemcau archive recover --shares` with the recovery key's shares"
        ));
    }
    for written in &recovered.sealed {
        line(format!("{}: {} groups", written.path.display(), written.groups));
    }
    text
}

/// Shows how far it is: a bar on a terminal, a line now and then elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    told: Option<(Instant, String)>,
    /// When the first groups came, and how many bytes were there then.
    began: Option<(Instant, u64)>,
}

impl Meter {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent:>3}%");
        let style = style.expect("the template is a constant").progress_chars("=> ");
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style));
        Self { bar, told: None, began: None }
    }

    fn show(&mut self, now: &Recovery) {
        let stage = stage(now);
        let left = self.left(now, Instant::now()).map_or_else(String::new, |left| format!(", {left}"));
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{stage}{left}"));
            bar.set_length(now.bytes.max(1));
            bar.set_position(now.bytes.saturating_sub(now.missing_bytes));
            return;
        }
        let is_due = self.told.as_ref().is_none_or(|(at, before)| {
            let word = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
            word(before) != word(&stage) || at.elapsed() >= LINE_EVERY
        });
        if is_due {
            eprintln!("{stage}{left}");
            self.told = Some((Instant::now(), stage));
        }
    }

    /// The time that is left, by what came so far.
    fn left(&mut self, now: &Recovery, at: Instant) -> Option<String> {
        if now.fetched_bytes == 0 || now.missing_bytes == 0 {
            return None;
        }
        let (since, before) = *self.began.get_or_insert((at, now.fetched_bytes));
        let (seconds, came) =
            (at.saturating_duration_since(since).as_secs_f64(), now.fetched_bytes - before.min(now.fetched_bytes));
        if seconds < 1.0 || came == 0 {
            return None;
        }
        let left = now.missing_bytes as f64 * seconds / came as f64;
        Some(match left as u64 {
            seconds @ 0..120 => format!("about {} s left", seconds.max(1)),
            seconds @ 120..7200 => format!("about {} min left", seconds / 60),
            seconds => format!("about {} h left", seconds / 3600),
        })
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn stage(now: &Recovery) -> String {
    match now {
        Recovery { sessions: 0, .. } => format!("asking the others: {} have answered", now.answered),
        Recovery { records, sessions, .. } if records < sessions => {
            format!("records: {records} of {sessions} sessions")
        }
        Recovery { waits: true, .. } => "groups: waiting for the running session".to_owned(),
        _ => format!("groups: {} of {}", size(now.bytes.saturating_sub(now.missing_bytes)), size(now.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_follows_from_what_came() {
        let mut meter = Meter { bar: None, told: None, began: None };
        let at = |fetched_bytes, missing_bytes| Recovery { fetched_bytes, missing_bytes, ..Recovery::default() };
        let start = Instant::now();
        let mut left = |seconds, now: Recovery| meter.left(&now, start + Duration::from_secs(seconds));
        assert_eq!(left(0, at(0, 1000)), None);
        assert_eq!(left(0, at(100, 900)), None, "nothing to go by yet");
        assert_eq!(left(10, at(200, 800)).as_deref(), Some("about 80 s left"));
        assert_eq!(left(20, at(200, 80_000)).as_deref(), Some("about 4 h left"));
        assert_eq!(left(30, at(1000, 0)), None);
    }

    #[test]
    fn what_is_left_out_is_said_with_what_to_do() {
        let course = Recovery {
            sessions: 3,
            whole: 2,
            left: vec!["01ab".into()],
            wrong: vec!["Xã Tân Phú".into()],
            foreign: 4,
            ..Recovery::default()
        };
        let recovered = Recovered { course, opened: vec![], locked: vec!["01ac".into()], sealed: vec![] };
        let text = told(&recovered);
        let parts =
            ["2 of 3 sessions", "Xã Tân Phú gave something false", "01ab: nobody", "recover --shares", "4 more were"];
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        let course = Recovery { disputed: vec!["01ab".into()], ..recovered.course };
        let text = told(&Recovered { course, ..recovered });
        assert!(text.contains("01ab: points say different things"), "{text}");
        assert!(text.contains("recover --session 01ab --from POINT"), "{text}");
    }
}
