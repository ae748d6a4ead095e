//! `diemcau archive scrub`: how far the archive was read again, what was found, and reading it now.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use node::control::scrub::{self, Scrubbed, Scrubs};
use node::control::{self, Fault, Request, Response};

use super::args::{Data, Format};
use super::exit::Failure;
use super::output::{self, moment, table};
use super::reading::Reading;
use super::verify::Meter;

#[derive(Debug, clap::Args)]
pub(crate) struct Scrub {
    /// Only this session: its id, the beginning of it, or `last`
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Read it now, as fast as the disk goes, and ask other points for what is lost; needs a running node
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// Between two questions of how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn main(args: &Scrub) -> Result<()> {
    if args.now {
        args.data.ask(&Request::ScrubNow { session: args.session.clone() })?;
        wait(&args.data)?;
    }
    let mut scrubs = match ask(&args.data) {
        Ok(scrubs) => scrubs,
        Err(error) if matches!(error.downcast_ref(), Some(control::Error::NotRunning(_))) => stopped(&args.data)?,
        Err(error) => return Err(error),
    };
    if let Some(wanted) = &args.session {
        let chosen = pick(&scrubs.sessions, wanted)?;
        scrubs.sessions.retain(|session| session.id == chosen);
    }
    match args.format.json {
        true => output::json(&scrubs)?,
        false => output::print(&told(&scrubs))?,
    }
    let lost: u64 = scrubs.sessions.iter().map(|session| session.lost).sum();
    match lost {
        0 => Ok(()),
        _ => {
            let reason = format!(
                "{lost} groups that were kept are lost from this disk; the node goes on asking the points that may hold them"
            );
            Err(Failure::new(Fault::Damaged, reason).into())
        }
    }
}

fn ask(data: &Data) -> Result<Scrubs> {
    match data.ask(&Request::Scrubs)? {
        Response::Scrubs(scrubs) => Ok(*scrubs),
        other => bail!("the node answered something else: {other:?}"),
    }
}

/// Shows how far it is until everything was read and what is lost was asked of others.
fn wait(data: &Data) -> Result<()> {
    let mut meter = Meter::new("groups read again");
    let mut is_told = false;
    loop {
        let scrubs = ask(data)?;
        if scrubs.asked == 0 {
            meter.clear();
            return Ok(());
        }
        if scrubs.paused && !is_told {
            is_told = true;
            output::note("a session runs at this point; reading goes on when it is over");
        }
        let reading = scrubs.sessions.iter().find(|session| Some(&session.id) == scrubs.reading.as_ref());
        if let Some(session) = reading {
            meter.show(session.read, session.groups.max(session.read));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What the folder of a node that does not run says.
fn stopped(data: &Data) -> Result<Scrubs> {
    let Some(reading) = Reading::open_any(data)? else { return Ok(Scrubs::default()) };
    Ok(Scrubs { sessions: scrub::list(&reading.archive)?, ..Scrubs::default() })
}

fn pick(sessions: &[Scrubbed], wanted: &str) -> Result<String> {
    let wanted = wanted.trim().to_lowercase();
    let fits = |session: &&Scrubbed| session.id.starts_with(&wanted);
    let found = if wanted == "last" { sessions.last() } else { sessions.iter().find(fits) };
    found
        .map(|session| session.id.clone())
        .ok_or_else(|| Failure::new(Fault::Missing, format!("there is no session {wanted:?} here that is over")).into())
}

fn told(scrubs: &Scrubs) -> String {
    let row = |session: &Scrubbed| {
        let when = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), moment);
        vec![
            session.id.clone(),
            when(session.checked),
            when(session.due),
            format!("{}/{}", session.read, session.groups),
            session.faults.to_string(),
            session.lost.to_string(),
            session.title.clone(),
        ]
    };
    let rows: Vec<_> = scrubs.sessions.iter().map(row).collect();
    let mut text = table(&["SESSION", "LAST READ", "NEXT", "READ", "FOUND", "LOST", "TITLE"], &rows);
    let found = scrubs.sessions.iter().flat_map(|session| session.found.iter().map(move |found| (session, found)));
    for (session, found) in found {
        text.push_str(&format!("{} session {}: {}\n", moment(found.at), session.id, found.what));
    }
    match (&scrubs.reading, scrubs.paused) {
        (_, true) => text.push_str("reading waits until the session at this point is over\n"),
        (Some(session), false) => text.push_str(&format!("session {session} is being read\n")),
        (None, false) => {}
    }
    if scrubs.alarm {
        text.push_str(ALARM);
    }
    text
}

/// What is to be done about a disk that is suspected.
pub(crate) const ALARM: &str = "damage was found on this disk: see that other points hold its sessions (`diemcau session list`), and \
                                replace it\n";

#[cfg(test)]
mod tests {
    use node::control::scrub::Finding;

    use super::*;

    #[test]
    fn what_was_found_is_one_line_each_and_json_has_the_names_that_scripts_rely_on() {
        let found = vec![Finding { at: 0, what: "group 7 of 1/main is not what was stored".into() }];
        let session = Scrubbed {
            id: "01".into(),
            title: "Định kỳ".into(),
            checked: None,
            due: None,
            read: 3,
            groups: 9,
            faults: 1,
            lost: 1,
            found,
        };
        let scrubs = Scrubs { sessions: vec![session], reading: Some("01".into()), alarm: true, ..Scrubs::default() };
        let text = told(&scrubs);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "01       -          -     3/9   1      1     Định kỳ");
        assert!(lines[2].ends_with("session 01: group 7 of 1/main is not what was stored"), "{text}");
        assert_eq!(lines[3], "session 01 is being read");
        assert!(lines[4].starts_with("damage was found on this disk"));
        let expected = concat!(
            r#"{"sessions":[{"id":"01","title":"Định kỳ","checked":null,"due":null,"read":3,"groups":9,"faults":1,"#,
            r#""lost":1,"found":[{"at":0,"what":"group 7 of 1/main is not what was stored"}]}],"reading":"01","#,
            r#""paused":false,"asked":0,"alarm":true}"#,
        );
        assert_eq!(serde_json::to_string(&scrubs).unwrap(), expected);
    }
}
