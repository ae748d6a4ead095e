//! The room's page, for a browser on this same machine: what this point is, who is there, what runs.
//!
//! It has no accounts, so it listens on loopback only, and it answers only requests that name a loopback host: a page from
//! elsewhere whose name is made to resolve to 127.0.0.1 (DNS rebinding) sends its own name and gets nothing. The page
//! is one file without outside resources and shows texts as texts; names come from other points.
//!
//! Its JSON is that of the local socket, answered by the same driver through the same queue.

mod serve;

use std::io;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response as HttpResponse};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{self, Port};
use crate::control::{self, Call, Request, Response};
use crate::engine::rights::Who;

const PAGE: &str = include_str!("console/page.html");
/// The page's own style and script and nothing else; it asks nobody but us.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is somebody else's.
    #[error("port {port} is taken by another program: choose another console.port, or leave it out to have one found")]
    PortTaken {
        /// Which.
        port: u16,
    },
    /// The system refused.
    #[error("the room's page cannot be served on {address}")]
    Listen {
        /// Where.
        address: IpAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The page being served. Dropping it ends that.
#[derive(Debug)]
pub struct Console {
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Console {
    /// Serves the page; requests for state go to `handler`. Must be called inside a tokio runtime.
    pub async fn start(settings: &config::Console, handler: mpsc::Sender<Call>) -> Result<Self, Error> {
        let refused = |source| Error::Listen { address: settings.address, source };
        let listener = bind(settings.address, settings.port).await?;
        let at = listener.local_addr().map_err(refused)?;
        let pages = router(handler);
        let task = tokio::spawn(serve::serve(listener, pages));
        Ok(Self { at, task })
    }

    /// What to type into the browser.
    pub fn url(&self) -> String {
        format!("http://{}/", self.at)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind(address: IpAddr, port: Port) -> Result<TcpListener, Error> {
    for number in port.candidates() {
        match TcpListener::bind((address, number)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => return Err(Error::Listen { address, source }),
        }
    }
    Err(Error::PortTaken { port: port.number })
}

fn router(handler: mpsc::Sender<Call>) -> Router {
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/api/status", get(async |State(handler)| state(handler, Request::Status).await))
        .route("/api/stats", get(async |State(handler)| state(handler, Request::Stats).await))
        .layer(middleware::from_fn(guard))
        .with_state(handler)
}

async fn state(handler: mpsc::Sender<Call>, request: Request) -> HttpResponse {
    match control::ask(&handler, Who::Browser, request).await {
        Response::Status(status) => Json(status).into_response(),
        Response::Stats(stats) => Json(stats).into_response(),
        Response::Not { reason, .. } => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
        Response::Session(_) | Response::Sessions { .. } | Response::AccessLog(_) | Response::Done => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn guard(request: HttpRequest, next: Next) -> HttpResponse {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        return (StatusCode::FORBIDDEN, "this page is for a browser on the same machine\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::control::Stats;

    async fn get(at: SocketAddr, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn start() -> Console {
        let (handler, mut calls) = mpsc::channel::<Call>(1);
        tokio::spawn(async move {
            while let Some((who, _, reply)) = calls.recv().await {
                assert_eq!(who, Who::Browser, "nobody has logged in");
                let _ = reply.send(Response::Stats(Box::new(Stats { session: None, shown: vec![] })));
            }
        });
        let settings = config::Console { address: "127.0.0.1".parse().unwrap(), port: Port::ANY };
        Console::start(&settings, handler).await.unwrap()
    }

    #[tokio::test]
    async fn the_page_and_its_state_are_served_to_this_machine() {
        let console = start().await;
        let page = get(console.at, "/", "localhost:8080").await;
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Điểm cầu"), "{page}");
        assert!(page.contains("content-security-policy: default-src 'none'"));
        let stats = get(console.at, "/api/stats", &console.at.to_string()).await;
        assert!(stats.ends_with(r#"{"session":null,"shown":[]}"#), "{stats}");
    }

    #[tokio::test]
    async fn a_page_from_elsewhere_gets_nothing() {
        let console = start().await;
        for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]:80"] {
            let answer = get(console.at, "/api/status", host).await;
            assert!(answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
        }
    }

    #[test]
    fn loopback_has_many_spellings() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]", "[::1]:8080"] {
            assert!(is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        for outside in ["http://", "https://", "src=", "@import", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }

    #[tokio::test]
    async fn a_default_port_gives_way_and_a_chosen_one_does_not() {
        let first = start().await;
        let taken = first.at.port();
        let address = first.at.ip();
        let second = bind(address, Port { number: taken, fixed: false }).await.unwrap();
        assert!(second.local_addr().unwrap().port() > taken);
        let error = bind(address, Port { number: taken, fixed: true }).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("port {taken} is taken by another program")), "{error}");
    }
}
