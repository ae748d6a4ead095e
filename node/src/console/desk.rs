//! What people who are logged in ask of the node: sessions, and the access log. Who may what is decided where everybody's
//! rights are; here it is asked, and what came of it is written down with the account's name.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::access::{Deed, What};
use store::journal::NoteKind;

use super::Desk;
use super::guard::Refusal;
use super::people::{Visitor, unreadable};
use crate::control::access::AccessFilter;
use crate::control::{self, Fault, Request, Response as Answer};
use crate::engine::rights::Who;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    title: String,
    #[serde(default)]
    points: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    session: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remove {
    point: String,
    session: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    kind: NoteKind,
    point: Option<String>,
    text: String,
    session: Option<String>,
}

pub(super) async fn start(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Result<Json<Start>, JsonRejection>,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let Json(Start { title, points }) = body.map_err(unreadable)?;
    desk.conduct(&visitor, Deed::Session, Request::SessionStart { title, points }).await
}

pub(super) async fn end(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Result<Json<End>, JsonRejection>,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let Json(End { session }) = body.map_err(unreadable)?;
    desk.conduct(&visitor, Deed::Session, Request::SessionEnd { session }).await
}

pub(super) async fn remove(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Result<Json<Remove>, JsonRejection>,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let Json(Remove { point, session }) = body.map_err(unreadable)?;
    desk.conduct(&visitor, Deed::Remove, Request::SessionRemove { point, session }).await
}

pub(super) async fn note(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Result<Json<Note>, JsonRejection>,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let Json(Note { kind, point, text, session }) = body.map_err(unreadable)?;
    desk.conduct(&visitor, Deed::Session, Request::SessionNote { kind, point, text, session }).await
}

/// The running session with its journal, or null.
pub(super) async fn show(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let running = match desk.ask(&visitor, Request::Status).await {
        Answer::Status(status) => status.session,
        other => return said(other),
    };
    match running {
        Some(running) => said(desk.ask(&visitor, Request::SessionShow { session: running.id }).await),
        None => Ok(Json(serde_json::Value::Null).into_response()),
    }
}

/// A page of the access log: `?from=N&since=MS&who=X&refused=true`.
pub(super) async fn log(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor(&headers)?;
    let strange = "the request names something this page does not know";
    let (from, filter) =
        wanted(&query.unwrap_or_default()).ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "form", strange))?;
    let answer = desk.ask(&visitor, Request::AccessLog { from, filter }).await;
    match &answer {
        Answer::Not { reason, .. } => desk.log.refused(visitor.who(), Deed::Open, What::Log {}, reason),
        _ => desk.log.counted(visitor.who(), Deed::Open, What::Log {}, 1),
    }
    said(answer).map_err(Refusal::quiet)
}

impl Desk {
    async fn ask(&self, visitor: &Visitor, request: Request) -> Answer {
        let who = Who::Account { name: visitor.account.name.clone(), role: visitor.account.role };
        control::ask(&self.handler, who, request).await
    }

    /// Changes something in a session, and writes down who did.
    async fn conduct(&self, visitor: &Visitor, deed: Deed, request: Request) -> Result<Response, Refusal> {
        let answer = self.ask(visitor, request).await;
        match &answer {
            Answer::Session(session) => {
                let what = session.id.parse().map_or(What::Nothing {}, |session| What::Session { session });
                self.log.done(visitor.who(), deed, what);
            }
            Answer::Not { reason, .. } => self.log.refused(visitor.who(), deed, What::Nothing {}, reason),
            _ => {}
        }
        said(answer).map_err(Refusal::quiet)
    }
}

/// The driver's answer as the page gets it.
pub(super) fn said(answer: Answer) -> Result<Response, Refusal> {
    Ok(match answer {
        Answer::Status(status) => Json(status).into_response(),
        Answer::Room(state) => Json(state).into_response(),
        Answer::Stats(stats) => Json(stats).into_response(),
        Answer::Session(session) => Json(session).into_response(),
        Answer::Sessions { sessions } => Json(sessions).into_response(),
        Answer::Scrubs(scrubs) => Json(scrubs).into_response(),
        Answer::AccessLog(page) => Json(page).into_response(),
        Answer::Recovery(recovery) => Json(recovery).into_response(),
        Answer::Accounts { accounts } => Json(accounts).into_response(),
        Answer::Done => StatusCode::NO_CONTENT.into_response(),
        // One-time passwords are printed by a command at the machine and go nowhere else.
        Answer::Account(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Answer::Not { fault, reason } => {
            let (status, error) = match fault {
                Fault::Refused => (StatusCode::FORBIDDEN, "refused"),
                Fault::Missing => (StatusCode::NOT_FOUND, "missing"),
                Fault::Damaged => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
                Fault::Failed => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
            };
            return Err(Refusal::new(status, error, reason));
        }
    })
}

/// The first entry and the filter that a query asks for; `None` if it asks for anything else.
fn wanted(query: &str) -> Option<(u64, AccessFilter)> {
    let (mut from, mut filter) = (0, AccessFilter::default());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        match name {
            "from" => from = value.parse().ok()?,
            "since" => filter.from_ms = Some(value.parse().ok()?),
            "refused" => filter.refused = value.parse().ok()?,
            "who" => filter.who = Some(decoded(value)?),
            _ => return None,
        }
    }
    Some((from, filter))
}

/// Percent-decoded text (RFC 3986 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).ok()?;
                decoded[0]
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_what_is_wanted_and_nothing_else() {
        assert_eq!(wanted(""), Some((0, AccessFilter::default())));
        let filter = AccessFilter { from_ms: Some(7), who: Some("xã Kim".into()), refused: true };
        assert_eq!(wanted("from=5&since=7&who=x%C3%A3%20Kim&refused=true"), Some((5, filter)));
        for wrong in ["from=x", "from", "whom=lan", "who=%C3", "who=%zz", "who=%4", "refused=1"] {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }
}
