//! What every request must pass before anything is done about it, and what every answer carries.
//!
//! A page from elsewhere, open in the same browser, can send us requests; it must not be able to make us do anything.
//! Three things stop it. Its name may be made to resolve to 127.0.0.1 (DNS rebinding), but then it says its own name as
//! host. It may post to our address, but then the browser says its origin, and whatever changes something must come from
//! our own. And the cookie is not sent along with requests that other sites begin (`SameSite=Strict`). Each alone would do in
//! a browser without faults.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, RETRY_AFTER, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use store::access::{Deed, Door, What, Who};

use super::Desk;

/// The page's own files and nothing else, no script or style within a page; it asks nobody but us.
const POLICY: &str = "default-src 'self'; media-src 'self' blob: mediastream:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
/// Who began the request, in the browser's words (Fetch Metadata, W3C).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request was not carried out.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// A word for the page.
    pub(super) error: &'static str,
    /// A sentence for people.
    pub(super) reason: String,
    /// Whole seconds after which it may be tried again.
    pub(super) after: Option<u64>,
    /// Whether the access log has it already, or need not.
    pub(super) quiet: bool,
}

/// What a refusal leaves with its answer for the access log.
#[derive(Debug, Clone)]
struct Note {
    reason: String,
    quiet: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Refusal { status, error, reason: reason.into(), after: None, quiet: false }
    }

    /// The same, of which nothing is to be written into the access log: it knows already, or an honest page asks this.
    pub(super) fn quiet(self) -> Self {
        Refusal { quiet: true, ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "reason": self.reason, "after": self.after });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(Note { reason: self.reason, quiet: self.quiet });
        response
    }
}

pub(super) async fn guard(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(reason) = check(request.method(), request.uri().path(), request.headers()) {
        let who = Who::Address { ip: from.ip() };
        desk.log.refused(who, Deed::Ask, What::Door { door: Door::Page }, reason);
        return Refusal::new(StatusCode::FORBIDDEN, "origin", reason).into_response();
    }
    let token = desk.token(request.headers());
    let mut response = next.run(request).await;
    if let Some(Note { reason, quiet: false }) = response.extensions_mut().remove() {
        let account = token.and_then(|token| desk.account_of(&token));
        let who = account.map_or(Who::Address { ip: from.ip() }, |account| Who::Account { name: account.name });
        desk.log.refused(who, Deed::Ask, What::Door { door: Door::Page }, &reason);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(method: &Method, path: &str, headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(HOST).filter(|host| is_loopback(host)) else {
        return Err("this page is for a browser on the same machine");
    };
    // Browsers let any page open a WebSocket to anywhere and read what comes, but say which page it was (RFC 6455 10.2).
    let reads = [Method::GET, Method::HEAD].contains(method) && !headers.contains_key(UPGRADE);
    let site = text(SEC_FETCH_SITE);
    // A link to a page may stand anywhere; what a page asks for by itself, it asks of its own node.
    let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
    if reads && !(foreign && path.starts_with("/api")) {
        return Ok(());
    }
    let same_site = site.is_none_or(|site| site == "same-origin");
    let same_origin = match headers.get(ORIGIN) {
        Some(origin) => origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(&format!("http://{host}"))),
        // Every browser says one of the two; a program that is none can say either.
        None => site.is_some(),
    };
    if same_site && same_origin { Ok(()) } else { Err("this was not asked by the page itself") }
}

/// Whether a `Host` header (RFC 9110 7.2: a host, perhaps a port) names this machine by loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_spellings() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]", "[::1]:8080"] {
            assert!(is_loopback(host), "{host}");
        }
    }

    #[test]
    fn only_the_page_itself_may_change_anything() {
        let ours = ("origin", "http://127.0.0.1:8080");
        let passes = |method: Method, more: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8080"));
            for (name, value) in more {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
            check(&method, "/api/session", &headers).is_ok()
        };
        let foreign = [
            ("origin", "http://evil.example"),
            ("origin", "https://127.0.0.1:8080"),
            ("origin", "http://127.0.0.1:8081"),
            ("origin", "http://127.0.0.1"),
            ("origin", "http://localhost:8080"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "none"),
        ];
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            assert!(passes(method.clone(), &[ours]), "{method}");
            assert!(passes(method.clone(), &[("sec-fetch-site", "same-origin")]), "{method}");
            assert!(!passes(method.clone(), &[]), "{method}");
            for header in foreign {
                assert!(!passes(method.clone(), &[header]), "{method} {header:?}");
            }
            assert!(!passes(method.clone(), &[ours, ("sec-fetch-site", "cross-site")]), "{method}");
        }
        assert!(passes(Method::GET, &[]) && passes(Method::GET, &[("sec-fetch-site", "same-origin")]));
        // A WebSocket begins as a request to read.
        let socket = ("upgrade", "websocket");
        assert!(passes(Method::GET, &[ours, socket]));
        assert!(!passes(Method::GET, &[socket]));
        for header in foreign {
            assert!(!passes(Method::GET, &[socket, header]), "{header:?}");
        }
    }

    #[test]
    fn other_pages_may_link_to_ours_and_ask_the_node_nothing() {
        let passes = |path, site| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8080"));
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_static(site));
            check(&Method::GET, path, &headers).is_ok()
        };
        for (site, asks) in [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)] {
            assert_eq!(passes("/api/state", site), asks, "{site}");
            assert!(passes("/", site) && passes("/van-hanh", site), "{site}");
        }
    }
}
