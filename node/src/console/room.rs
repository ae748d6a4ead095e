//! What the room shows without an account: the state of things as it changes, and live sound and picture.
//!
//! Whoever sits at this machine is in the room and sees and hears the session anyway. The page is told of changes over a
//! WebSocket and not asked for them, so that a point that was lost shows within the second. WebSockets stay open for hours, so
//! they have places of their own, and one that answers no ping gives its place back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::{JsonRejection, StringRejection};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use store::id::PointNumber;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use utoipa::ToSchema;

use super::Desk;
use super::desk::said;
use super::guard::Refusal;
use super::people::unreadable;
use crate::browser::{self, Layer, OFFER_BYTES_MAX};
use crate::control::{self, Request, Response as Answer, room};
use crate::engine::rights::Who;

/// Pages that are told of changes at once.
pub(super) const SOCKETS_MAX: usize = 16;
/// How often is looked whether anything changed.
const LOOK: Duration = Duration::from_millis(250);
/// How often a page is told though nothing changed, so that its clock stays right.
const REFRESH: Duration = Duration::from_secs(10);
/// How often a page is asked whether it is still there.
const PING: Duration = Duration::from_secs(15);
/// A page that was not heard of for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// A page takes what it is told within this time.
const SEND_MAX: Duration = Duration::from_secs(5);
/// A page says nothing but hello.
const MESSAGE_BYTES_MAX: usize = 1_024;
/// A change of free space that is worth telling.
const SPACE_STEP: u64 = 256 << 20;
/// What offers and answers are.
const SDP: &str = "application/sdp";

/// What the WebSocket carries, as JSON texts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum News {
    /// The room as it is now: at once, and whenever it has changed, at most four times a second.
    State {
        /// The room.
        state: room::State,
    },
}

/// The layer a browser wants to see.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Which.
    layer: Layer,
}

/// The room as it is now.
#[utoipa::path(get, path = "/api/state", tag = "room",
    responses((status = 200, body = room::State), (status = 503, body = super::openapi::Refused)))]
pub(super) async fn state(State(desk): State<Arc<Desk>>) -> Result<Response, Refusal> {
    Ok(Json(desk.room().await?).into_response())
}

/// A WebSocket that tells of changes: texts of the form `News`.
#[utoipa::path(get, path = "/api/live", tag = "room",
    responses((status = 101, description = "texts follow, each a News", body = News), (status = 503, body = super::openapi::Refused)))]
pub(super) async fn live(
    State(desk): State<Arc<Desk>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "form", error.to_string()))?;
    let Ok(place) = Arc::clone(&desk.sockets).try_acquire_owned() else {
        let reason = format!("{SOCKETS_MAX} pages of this room are open already: close one");
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", reason));
    };
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| attend(desk, socket, place)))
}

/// Watch a point of the running session (WHEP): its sound, and its picture in the layer named, as one stream.
#[utoipa::path(post, path = "/api/whep/{number}", tag = "room",
    params(("number" = u16, Path, description = "the point's number in the session"),
           ("layer" = Option<Layer>, Query, description = "the picture's layer, main when none is named")),
    request_body(content = String, content_type = "application/sdp", description = "an offer to receive"),
    responses((status = 201, body = String, content_type = "application/sdp", description = "our answer; Location names the connection"),
        (status = 400, body = super::openapi::Refused), (status = 404, body = super::openapi::Refused),
        (status = 503, body = super::openapi::Refused)))]
pub(super) async fn watch(
    State(desk): State<Arc<Desk>>,
    Path(number): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<Response, Refusal> {
    let offer = offer(&headers, body)?;
    let number = number.parse().ok().and_then(PointNumber::new);
    let number = number.ok_or_else(|| refused(browser::Refusal::NoPoint))?;
    let layer = match query.as_deref().unwrap_or_default() {
        "" | "layer=main" => Layer::Main,
        "layer=thumb" => Layer::Thumb,
        _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "form", "the layer is main or thumb")),
    };
    let answer = desk.browser.watch(number, layer, offer).await.map_err(refused)?;
    Ok(created("/api/whep", answer))
}

/// Go over to another layer of the picture, with the next group.
#[utoipa::path(put, path = "/api/whep/{id}/layer", tag = "room",
    params(("id" = String, Path, description = "as Location named it")), request_body = Wanted,
    responses((status = 204), (status = 404, body = super::openapi::Refused)))]
pub(super) async fn layer(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(Wanted { layer }) = body.map_err(unreadable)?;
    desk.browser.set_layer(&id, layer).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Watch no longer.
#[utoipa::path(delete, path = "/api/whep/{id}", tag = "room",
    params(("id" = String, Path, description = "as Location named it")),
    responses((status = 200), (status = 404, body = super::openapi::Refused)))]
pub(super) async fn leave(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    desk.browser.end(&id).map_err(refused)?;
    Ok(StatusCode::OK)
}

/// Bring this room's sound and picture (WHIP, RFC 9725): Opus, and H.264 in one layer or in the two named `main` and `thumb`.
/// The browser that did so before is let go.
#[utoipa::path(post, path = "/api/whip", tag = "room",
    request_body(content = String, content_type = "application/sdp", description = "an offer to send"),
    responses((status = 201, body = String, content_type = "application/sdp", description = "our answer; Location names the connection"),
        (status = 400, body = super::openapi::Refused), (status = 409, body = super::openapi::Refused),
        (status = 503, body = super::openapi::Refused)))]
pub(super) async fn publish(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<Response, Refusal> {
    let answer = desk.browser.publish(offer(&headers, body)?).await.map_err(refused)?;
    Ok(created("/api/whip", answer))
}

/// Bring this room's sound and picture no longer.
#[utoipa::path(delete, path = "/api/whip/{id}", tag = "room",
    params(("id" = String, Path, description = "as Location named it")),
    responses((status = 200), (status = 404, body = super::openapi::Refused)))]
pub(super) async fn withdraw(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    desk.browser.end(&id).map_err(refused)?;
    Ok(StatusCode::OK)
}

impl Desk {
    async fn room(&self) -> Result<room::State, Refusal> {
        match control::ask(&self.handler, Who::Browser, Request::Room).await {
            Answer::Room(state) => Ok(*state),
            other => match said(other) {
                Err(refusal) => Err(refusal),
                Ok(_) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the node said something else")),
            },
        }
    }
}

/// Looks for changes while any page wants to know of them.
pub(super) async fn look(desk: Arc<Desk>) {
    loop {
        desk.attended.notified().await;
        let mut told = Instant::now();
        while desk.changes.receiver_count() > 0 {
            if let Ok(state) = desk.room().await {
                desk.changes.send_if_modified(|known| {
                    let changed = known.as_ref().is_none_or(|known| !alike(known, &state));
                    let tell = changed || told.elapsed() >= REFRESH;
                    if tell {
                        told = Instant::now();
                        *known = Some(Arc::new(state));
                    }
                    tell
                });
            }
            sleep(LOOK).await;
        }
    }
}

/// Whether two states differ in nothing but the time.
fn alike(one: &room::State, other: &room::State) -> bool {
    let timeless = |state: &room::State| {
        let mut state = state.clone();
        state.now_ms = 0;
        state.clock_offset_ms = state.clock_offset_ms.map(f64::round);
        if let Some(session) = &mut state.session {
            session.session_ms = session.session_ms.map(|_| 0);
        }
        if let Some(disk) = &mut state.disk {
            disk.free /= SPACE_STEP;
        }
        for point in state.points.iter_mut().filter(|point| point.online) {
            point.last_seen_ms = None;
        }
        state
    };
    timeless(one) == timeless(other)
}

async fn attend(desk: Arc<Desk>, mut socket: WebSocket, _place: OwnedSemaphorePermit) {
    let mut changes = desk.changes.subscribe();
    desk.attended.notify_one();
    if let Ok(state) = desk.room().await
        && tell(&mut socket, state).await.is_none()
    {
        return;
    }
    let mut ping = interval(PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let state = changes.borrow_and_update().clone();
                if let Some(state) = state
                    && tell(&mut socket, (*state).clone()).await.is_none()
                {
                    return;
                }
            }
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => heard = Instant::now(),
            },
            _ = ping.tick() => {
                let gone = heard.elapsed() > SILENCE_MAX;
                if gone || send(&mut socket, Message::Ping(Vec::new().into())).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn tell(socket: &mut WebSocket, state: room::State) -> Option<()> {
    let text = serde_json::to_string(&News::State { state }).ok()?;
    send(socket, Message::Text(text.into())).await
}

/// `None` when the page does not take it.
async fn send(socket: &mut WebSocket, message: Message) -> Option<()> {
    timeout(SEND_MAX, socket.send(message)).await.ok()?.ok()
}

/// The offer of a request that should have one.
fn offer(headers: &HeaderMap, body: Result<String, StringRejection>) -> Result<String, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(SDP) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "form", format!("an offer is {SDP}")));
    }
    let offer = body.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "form", error.body_text()))?;
    if offer.len() > OFFER_BYTES_MAX {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "form", "the offer is too long"));
    }
    Ok(offer)
}

fn created(at: &str, answer: browser::Answer) -> Response {
    let headers = [(CONTENT_TYPE, SDP.to_owned()), (LOCATION, format!("{at}/{}", answer.id))];
    (StatusCode::CREATED, headers, answer.sdp).into_response()
}

fn refused(refusal: browser::Refusal) -> Refusal {
    let (status, error) = match refusal {
        browser::Refusal::Offer(_) => (StatusCode::BAD_REQUEST, "offer"),
        browser::Refusal::NoPoint | browser::Refusal::Gone => (StatusCode::NOT_FOUND, "missing"),
        browser::Refusal::NotBrowser => (StatusCode::CONFLICT, "source"),
        browser::Refusal::Full | browser::Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
    };
    // An honest page meets all of these.
    Refusal::new(status, error, refusal.to_string()).quiet()
}
