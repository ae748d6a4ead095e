//! `diemcau session`: six requests to the running node and their answers in words. The two that only read are answered from
//! the archive when the node is stopped.

use std::path::Path;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use node::control::{self, Request, Response, Session};
use store::journal::NoteKind;

use super::args::{Data, Format, Listing, One};
use super::output::{self, moment, size, state, table};
use super::reading;

/// Start, end and look at sessions
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Start a session with this point as central; the others join by themselves
    Start {
        /// What people call it
        #[arg(long)]
        title: String,
        /// Point to take part, by name or node id; may be repeated [default: every point of the roster]
        #[arg(long = "point", value_name = "NAME")]
        points: Vec<String>,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// End a session that this point is central of
    End {
        /// Its id, or the beginning of it [default: the running one]
        session: Option<String>,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a point from a session that this point is central of; the others go on with a key it is not given
    Remove {
        /// Its name or node id
        point: String,
        /// The session's id, or the beginning of it [default: the running one]
        #[arg(long)]
        session: Option<String>,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Write something into the journal of a session that this point is central of
    Note {
        /// What: one line of up to 1000 characters
        text: String,
        /// What it is about: the course of the session, a fault, a breach of order, a decision of the chair
        #[arg(long, default_value = "course", value_parser = kinds())]
        kind: NoteKind,
        /// The point that it concerns, by name or node id
        #[arg(long, value_name = "NAME")]
        point: Option<String>,
        /// The session's id, or the beginning of it [default: the running one]
        #[arg(long)]
        session: Option<String>,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// List the sessions this point knows, oldest first
    List(Listing),
    /// Show one session with its journal
    Show(One),
}

pub(crate) fn main(args: Args) -> Result<()> {
    match args.what {
        What::Start { title, points, data, format } => one(&data, format, &Request::SessionStart { title, points }),
        What::End { session, data, format } => one(&data, format, &Request::SessionEnd { session }),
        What::Remove { point, session, data, format } => one(&data, format, &Request::SessionRemove { point, session }),
        What::Note { text, kind, point, session, data, format } => {
            one(&data, format, &Request::SessionNote { kind, point, text, session })
        }
        What::Show(One { session, data, format }) => one(&data, format, &Request::SessionShow { session }),
        What::List(Listing { data, format }) => match ask(&data, &Request::SessionList)? {
            Response::Sessions { sessions } if format.json => Ok(output::json(&sessions)?),
            Response::Sessions { sessions } => Ok(output::print(&list(&sessions))?),
            other => bail!("the node answered something else: {other:?}"),
        },
    }
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = NoteKind> {
    let names = PossibleValuesParser::new(NoteKind::ALL.map(NoteKind::name));
    names.map(|name| NoteKind::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(NoteKind::Course))
}

/// Asks the node, or its archive when it is stopped and that is enough.
fn ask(data: &Data, request: &Request) -> Result<Response> {
    let error = match data.ask(request) {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    match (error.downcast_ref(), request) {
        (Some(control::Error::NotRunning(folder)), Request::SessionList | Request::SessionShow { .. }) => {
            stopped(folder, request)
        }
        _ => Err(error),
    }
}

fn stopped(folder: &Path, request: &Request) -> Result<Response> {
    let archive = reading::stopped_any(folder)?;
    if let Request::SessionShow { session } = request {
        let archive = archive.ok_or_else(|| control::session::Error::Missing(session.clone()))?;
        let id = control::session::find(&archive, session)?;
        return Ok(Response::Session(Box::new(control::session::show(&archive, &id)?)));
    }
    let sessions = archive.map(|archive| control::session::list(&archive)).transpose()?.unwrap_or_default();
    Ok(Response::Sessions { sessions })
}

fn one(data: &Data, format: Format, request: &Request) -> Result<()> {
    match ask(data, request)? {
        Response::Session(session) if format.json => Ok(output::json(&session)?),
        Response::Session(session) => Ok(output::print(&describe(&session))?),
        other => bail!("the node answered something else: {other:?}"),
    }
}

fn list(sessions: &[Session]) -> String {
    let rows: Vec<_> = sessions
        .iter()
        .map(|session| {
            vec![
                session.id.clone(),
                state(session.state).to_owned(),
                moment(session.started),
                session.points.len().to_string(),
                session.groups.to_string(),
                size(session.bytes),
                session.gaps.to_string(),
                session.holders.to_string(),
                session.title.clone(),
            ]
        })
        .collect();
    table(&["SESSION", "STATE", "STARTED", "POINTS", "GROUPS", "SIZE", "GAPS", "HOLDERS", "TITLE"], &rows)
}

fn describe(session: &Session) -> String {
    let ended = session.ended.map_or_else(String::new, |ended| format!(", ended {}", moment(ended)));
    let mut text = format!(
        "session {} \"{}\" is {}: central {}, started {}{ended}\n{} groups here, {}, {} missing; held by {} others\n\n",
        session.id,
        session.title,
        state(session.state),
        session.central,
        moment(session.started),
        session.groups,
        size(session.bytes),
        session.gaps,
        session.holders,
    );
    let rows: Vec<_> = session
        .points
        .iter()
        .map(|point| {
            vec![point.number.to_string(), point.name.clone(), if point.present { "yes" } else { "no" }.to_owned()]
        })
        .collect();
    text.push_str(&table(&["NO", "POINT", "IN IT"], &rows));
    if !session.journal.is_empty() {
        let rows: Vec<_> = session
            .journal
            .iter()
            .map(|line| {
                let at = format!("{}.{:03}", line.at_ms / 1000, line.at_ms % 1000);
                vec![line.n.to_string(), moment(line.wall), format!("{at:>10}"), line.event.clone()]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["NO", "WHEN", "SECOND", "WHAT"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use node::control::{JournalLine, SessionPoint, State};

    use super::*;

    #[test]
    fn a_session_is_shown_with_its_journal() {
        let session = Session {
            id: "01jd".into(),
            title: "Tiếp công dân định kỳ".into(),
            state: State::Ended,
            central: "Trung tâm".into(),
            started: 1_795_327_511_000,
            ended: Some(1_795_327_531_000),
            points: vec![SessionPoint { number: 0, name: "Trung tâm".into(), node: "ab".into(), present: true }],
            groups: 22,
            bytes: 3_400_000,
            gaps: 0,
            holders: 2,
            journal: vec![JournalLine {
                n: 0,
                at_ms: 20,
                wall: 1_795_327_511_020,
                event: "started".into(),
                fact: Default::default(),
            }],
        };
        let expected = "session 01jd \"Tiếp công dân định kỳ\" is ended: central Trung tâm, started 2026-11-22 13:05:11, \
                        ended 2026-11-22 13:05:31\n\
                        22 groups here, 3.4 MB, 0 missing; held by 2 others\n\n\
                        NO  POINT      IN IT\n\
                        0   Trung tâm  yes\n\n\
                        NO  WHEN                 SECOND      WHAT\n\
                        0   2026-11-22 13:05:11       0.020  started\n";
        assert_eq!(describe(&session), expected);
        let expected = "SESSION  STATE  STARTED              POINTS  GROUPS  SIZE    GAPS  HOLDERS  TITLE\n\
                        01jd     ended  2026-11-22 13:05:11  1       22      3.4 MB  0     2        Tiếp công dân định kỳ\n";
        assert_eq!(list(&[session]), expected);
    }
}
