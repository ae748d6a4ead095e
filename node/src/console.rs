//! The room's page, for a browser on this same machine: what this point is, who is there, what runs, live sound and
//! picture; and, for those who log in, starting and ending sessions and reading the access log.
//!
//! What it shows without an account it shows to whoever stands in the room anyway. It listens on loopback only, for
//! without TLS a password would cross the network in the clear, and it answers only requests that the page itself can have
//! made (`console/guard.rs`). The page (`node/web`, served by `console/page.rs`) loads nothing from outside and shows texts as
//! texts; names come from other points.
//!
//! Its JSON is that of the local socket, answered by the same driver through the same queue.

mod desk;
mod guard;
mod openapi;
mod page;
mod people;
mod room;
mod serve;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::routing::{delete, get, post, put};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::access;
use crate::accounts::Accounts;
use crate::browser::Browser;
use crate::config::{self, Port};
use crate::control::{self, Call, Request};
use crate::engine::lockout::Lockout;
use crate::engine::rights::Who;
use crate::engine::visits::Visits;

/// Passwords that may wait to be checked; further ones are refused.
const WAITING_MAX: usize = 8;
/// Passwords checked at once.
const CHECKED_MAX: usize = 1;

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
    tasks: [JoinHandle<()>; 2],
}

/// What the page works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where requests go.
    pub handler: mpsc::Sender<Call>,
    /// Who may log in.
    pub accounts: Arc<Accounts>,
    /// Where it is written down.
    pub log: access::Log,
    /// Who shows live sound and picture.
    pub browser: Browser,
}

/// What every request may need.
#[derive(Debug)]
struct Desk {
    handler: mpsc::Sender<Call>,
    accounts: Arc<Accounts>,
    log: access::Log,
    /// The cookie's name. It holds our port, as browsers send the cookies of a host to all of its ports.
    cookie: String,
    visits: Mutex<Visits>,
    lockout: Mutex<Lockout>,
    waiting: Arc<Semaphore>,
    turn: Semaphore,
    browser: Browser,
    /// Places for pages that are told of changes.
    sockets: Arc<Semaphore>,
    /// A page came that wants to be told.
    attended: Notify,
    /// The room as pages were told last.
    changes: watch::Sender<Option<Arc<control::room::State>>>,
}

impl Desk {
    fn visits(&self) -> MutexGuard<'_, Visits> {
        // Each change is an insertion or a removal, so what a panicking thread left behind is whole.
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lockout(&self) -> MutexGuard<'_, Lockout> {
        // Likewise.
        self.lockout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Serves the page. Must be called inside a tokio runtime.
    pub async fn start(settings: &config::Console, parts: Parts) -> Result<Self, Error> {
        let refused = |source| Error::Listen { address: settings.address, source };
        let listener = bind(settings.address, settings.port).await?;
        let at = listener.local_addr().map_err(refused)?;
        let desk = Desk {
            handler: parts.handler,
            accounts: parts.accounts,
            log: parts.log.clone(),
            cookie: format!("diemcau-{}", at.port()),
            visits: Mutex::default(),
            lockout: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Semaphore::new(CHECKED_MAX),
            browser: parts.browser,
            sockets: Arc::new(Semaphore::new(room::SOCKETS_MAX)),
            attended: Notify::new(),
            changes: watch::Sender::new(None),
        };
        let desk = Arc::new(desk);
        let look = tokio::spawn(room::look(Arc::clone(&desk)));
        let serve = tokio::spawn(serve::serve(listener, router(desk), parts.log));
        Ok(Self { at, tasks: [serve, look] })
    }

    /// What to type into the browser.
    pub fn url(&self) -> String {
        format!("http://{}/", self.at)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
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

fn router(desk: Arc<Desk>) -> Router {
    let kiosk = |request: Request| {
        async move |State(desk): State<Arc<Desk>>| desk::said(control::ask(&desk.handler, Who::Browser, request).await)
    };
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/api/openapi.json", get(openapi::document))
        .route("/api/state", get(room::state))
        .route("/api/live", get(room::live))
        .route("/api/whip", post(room::publish))
        .route("/api/whip/{place}", delete(room::withdraw))
        .route("/api/whep/{place}", post(room::watch))
        .route("/api/whep/{place}", delete(room::leave))
        .route("/api/whep/{place}/layer", put(room::layer))
        .route("/api/status", get(kiosk(Request::Status)))
        .route("/api/stats", get(kiosk(Request::Stats)))
        .route("/api/login", post(people::login))
        .route("/api/logout", post(people::logout))
        .route("/api/password", post(people::password))
        .route("/api/me", get(people::me))
        .route("/api/session", get(desk::show))
        .route("/api/session/start", post(desk::start))
        .route("/api/session/end", post(desk::end))
        .route("/api/session/remove", post(desk::remove))
        .route("/api/session/note", post(desk::note))
        .route("/api/log/access", get(desk::log))
        .fallback(page::other)
        .layer(middleware::from_fn_with_state(Arc::clone(&desk), guard::guard))
        .with_state(desk)
}
