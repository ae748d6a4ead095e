//! Serving the page: a bounded number of connections, each of which has to get on with it.
//!
//! axum's own loop takes any number of connections and waits for each as long as it likes. Here there are so many places; a
//! request's head and body come within a time or not at all, and no connection lives for ever, so one that reads its
//! answer a byte a second gives its place back too. What is refused here never comes to the guard, so it is written into the
//! access log here.
//!
//! A WebSocket leaves its connection's place with the answer that begins it; how many there are and how long they may be
//! silent is for `console/room.rs` to say.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use store::access::{Deed, Door, What, Who};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::access::Log;

/// Connections served at once; one more waits. A browser opens six to one host.
const PLACES: usize = 64;
/// A request's first line and headers are there within this time, counted from the end of the one before.
const HEAD_TIME: Duration = Duration::from_secs(15);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A request's body is there within this time.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Longest request body in bytes: the names of a session's points.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// After this time a connection ends with the request in work; browsers make another without being asked.
const LIFE: Duration = Duration::from_secs(120);
/// And after that one whatever it does. The longest request waits for the end of a session.
const FAREWELL: Duration = Duration::from_secs(150);

const LATE: &str = "the request did not come in time";

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, pages: Router, log: Log) {
    let pages = pages.layer(middleware::from_fn_with_state(log.clone(), whole));
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (pages, log) = (pages.clone(), log.clone());
                tokio::spawn(async move {
                    attend(stream, from, pages, &log).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file handles, most likely: a moment later some are free again.
                tracing::warn!(%error, "the room's page cannot accept a connection");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn attend(stream: TcpStream, from: SocketAddr, pages: Router, log: &Log) {
    let begun = Begun::default();
    let pages = pages.layer(Extension(ConnectInfo(from))).layer(Extension(begun.clone()));
    let service = TowerToHyperService::new(pages);
    let stream = Heard { stream, begun: begun.clone() };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = match timeout(LIFE, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a connection to the room's page");
        if error.is_parse() {
            refused(log, from.ip(), "what came is no request, or one that is too long");
        } else if error.is_timeout() && begun.0.load(Ordering::Relaxed) {
            refused(log, from.ip(), LATE);
        }
    }
}

fn refused(log: &Log, from: IpAddr, reason: &str) {
    log.refused(Who::Address { ip: from }, Deed::Ask, What::Door { door: Door::Page }, reason);
}

/// Whether a request has begun on a connection and is not there yet. Browsers hold connections on which nothing has.
#[derive(Clone, Debug, Default)]
struct Begun(Arc<AtomicBool>);

/// A stream that notes when something comes.
struct Heard {
    stream: TcpStream,
    begun: Begun,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.begun.0.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Hands on a request that is there whole, or says why not.
async fn whole(
    State(log): State<Log>,
    Extension(begun): Extension<Begun>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let (status, reason) = match timeout(BODY_TIME, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => {
            begun.0.store(false, Ordering::Relaxed);
            return next.run(Request::from_parts(head, Body::from(body))).await;
        }
        Ok(Err(_)) => (StatusCode::PAYLOAD_TOO_LARGE, "the request is too long or broke off"),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, LATE),
    };
    refused(&log, from.ip(), reason);
    (status, format!("{reason}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let pages = Router::new()
            .route("/", get(async |ConnectInfo(from): ConnectInfo<SocketAddr>| from.ip().to_string()))
            .route("/said", post(async |body: String| body));
        tokio::spawn(serve(listener, pages, Log::nowhere()));
        at
    }

    async fn say(at: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // What is refused early may be cut off before all of it was written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn page(at: SocketAddr) -> String {
        say(at, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await
    }

    #[tokio::test]
    async fn a_request_is_answered_and_knows_where_it_came_from() {
        let at = start().await;
        assert!(page(at).await.ends_with("\r\n\r\n127.0.0.1"));
        let said =
            say(at, b"POST /said HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").await;
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("abc"), "{said}");
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_request_is_refused() {
        let at = start().await;
        let headers = |count: usize, length: usize| {
            let header = |n| format!("X-{n}: {}\r\n", "a".repeat(length));
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", (0..count).map(header).collect::<String>())
        };
        for (what, request) in [
            ("many headers", headers(1_000, 3)),
            ("a long header", headers(1, 100_000)),
            ("no request", "\u{1}\u{2}\u{3}\r\n\r\n".repeat(100)),
        ] {
            let answer = say(at, request.as_bytes()).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        }
        let begin = |length: &str| format!("POST /said HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n");
        let long = say(at, format!("{}{}", begin("Content-Length: 99999999"), "a".repeat(200_000)).as_bytes()).await;
        assert!(long.is_empty() || long.starts_with("HTTP/1.1 413"), "{long}");
        let chunk = format!("ffff\r\n{}\r\n", "a".repeat(0xffff)).repeat(4);
        let long = say(at, format!("{}{chunk}", begin("Transfer-Encoding: chunked")).as_bytes()).await;
        assert!(long.is_empty() || long.starts_with("HTTP/1.1 413"), "{long}");
        assert!(page(at).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn who_holds_all_places_and_says_nothing_gives_them_back() {
        let at = start().await;
        let begun = Instant::now();
        let mut held = Vec::new();
        for n in 0..2 * PLACES {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let begin: &[u8] = match n % 3 {
                0 => b"",
                1 => b"GET / HTTP/1.1\r\nHost",
                _ => b"POST /said HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na",
            };
            stream.write_all(begin).await.unwrap();
            held.push(stream);
        }
        let trickle = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                for stream in &mut held {
                    let _ = stream.write_all(b"a").await;
                }
            }
        };
        let served = tokio::select! {
            served = page(at) => served,
            () = trickle => unreachable!("it goes on"),
        };
        assert!(served.starts_with("HTTP/1.1 200"), "{served}");
        println!("served after {:.1} s", begun.elapsed().as_secs_f64());
        // Those before us and as many again, each for as long as a head may take.
        assert!(begun.elapsed() < 3 * HEAD_TIME);
    }
}
