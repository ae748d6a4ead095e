//! How a command reaches the running node: one Unix socket in the data folder, a JSON object a line each way.
//!
//! A socket file and not a TCP port, because the folder's permissions then say who may ask: whoever can read the keys can
//! command the node, and nobody else on the machine can. Should the permissions be wrong, the kernel still says which user
//! asks: only the node's own and root are answered, and what they do stands under their number in the access log. JSON and not CBOR, because these answers are what `--json` prints
//! and what the console's page reads; there is one shape for all three (`control/answer.rs`).
//!
//! The server decides nothing. It hands each request with a place for its answer to one bounded queue, which the driver
//! drains between its other inputs; a full queue makes callers wait, never the node.

pub mod access;
mod answer;
mod disk;
mod lock;
pub mod room;
pub mod scrub;
pub mod session;

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::journal::NoteKind;
use store::keys::{Epoch, Wrap};
use store::roster::GrantId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::access::{AccessFilter, AccessPage};
use crate::accounts::Account;
use crate::accounts::order::{Done, Order};
use crate::engine::rights::Who;

pub use answer::{
    Clock, Counters, Disk, Fact, Fault, JournalLine, Latency, Own, PointStatus, Recovery, Running, Session,
    SessionPoint, Shown, State, Stats, Status,
};

/// The socket's name inside the data folder.
const SOCKET: &str = "control.sock";
/// Longest request line in bytes. The largest carries the names of a session's points.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Longest answer line in bytes: some tens of thousands of sessions or journal entries.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Callers served at once. One more waits until another is done.
const CALLERS_MAX: usize = 16;
/// A caller whose request is not there, or whose answer is not taken, within this time is let go.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The longest a command waits for its answer: ending a session flushes it, a checkpoint links every file of the archive.
const PATIENCE: Duration = Duration::from_secs(120);
/// May do anything on a machine, and so with the keys in the folder.
const ROOT: u32 = 0;

/// What a command or the console asks of the running node.
///
/// A session is named by its id or any beginning of it that is unambiguous; a point by its name or node id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who am I, who is there, what runs. Answered by [`Response::Status`].
    Status,
    /// What the room's page shows all the time. Answered by [`Response::Room`].
    Room,
    /// Start a session with this point as central. No points named means every point of the roster.
    /// Answered by [`Response::Session`].
    SessionStart {
        /// What people call it.
        title: String,
        /// Names or node ids of the other points.
        points: Vec<String>,
    },
    /// End a session, the running one when none is named. Answered by [`Response::Session`] once its record is on disk here.
    SessionEnd {
        /// Which.
        session: Option<String>,
    },
    /// Remove a point from a session, the running one when none is named. Answered by [`Response::Session`] once the others
    /// go on with another key.
    SessionRemove {
        /// Its name or node id.
        point: String,
        /// From which.
        session: Option<String>,
    },
    /// Write something into a session's journal, the running one's when none is named. Answered by [`Response::Session`] once it
    /// is written.
    SessionNote {
        /// What it is about.
        kind: NoteKind,
        /// The point that it concerns, by name or node id.
        point: Option<String>,
        /// What: one line.
        text: String,
        /// Of which.
        session: Option<String>,
    },
    /// Every session this node knows, oldest first. Answered by [`Response::Sessions`].
    SessionList,
    /// One session with its journal. Answered by [`Response::Session`].
    SessionShow {
        /// Which.
        session: String,
    },
    /// Put a consistent copy of the archive into a folder that does not exist yet, so that a command can read beside
    /// the running node. A copy outside the data folder is written into the access log first. Answered by
    /// [`Response::Done`].
    Checkpoint {
        /// Absolute path of the folder to make.
        to: PathBuf,
    },
    /// How far the archive was read again, and what was found. Answered by [`Response::Scrubs`].
    Scrubs,
    /// Read a session again now, all of them when none is named, and ask others for what is lost. Answered by
    /// [`Response::Done`] once it has begun; [`Request::Scrubs`] says how far it is.
    ScrubNow {
        /// Which.
        session: Option<String>,
    },
    /// Write into the access log that a command exports this session, before it does. Answered by [`Response::Done`] once
    /// that is on the disk.
    Exporting {
        /// Its whole id.
        session: String,
    },
    /// Take back from other points what this one lost. It goes on by itself, after a restart too, until it is done. Answered
    /// by [`Response::Recovery`] at once.
    Recover {
        /// This session alone, by its whole id.
        session: Option<String>,
        /// From these points alone, by name or node id; from all if there are none.
        from: Vec<String>,
    },
    /// How far that has come. Answered by [`Response::Recovery`].
    Recovery,
    /// Keep keys of a session that were opened with the recovery key and wrapped for this point. Answered by
    /// [`Response::Done`] once they are on the disk.
    Keys {
        /// Its whole id.
        session: String,
        /// By epoch.
        wraps: Vec<(Epoch, Wrap)>,
    },
    /// A page of the access log. Answered by [`Response::AccessLog`].
    AccessLog {
        /// Number of the first entry.
        from: u64,
        /// Which lines.
        filter: AccessFilter,
    },
    /// The accounts of the page. Answered by [`Response::Accounts`].
    AccountList,
    /// Do something about an account. Answered by [`Response::Account`].
    Account {
        /// What.
        order: Order,
    },
    /// What this room has been shown of the running or last session. Answered by [`Response::Stats`].
    Stats,
    /// Take a newer roster. Answered by [`Response::Done`] once it is on the disk and in force.
    RosterSet {
        /// Absolute path of a file that holds it, as `DATA/roster.cose` does: a roster may be longer than a request.
        from: PathBuf,
    },
    /// Take up an invite that lies in the data folder. Answered by [`Response::Done`].
    InviteTake {
        /// Which.
        id: GrantId,
    },
    /// Take an invite back that nobody has used. Answered by [`Response::Done`] once that is on the disk.
    InviteCancel {
        /// Which.
        id: GrantId,
    },
    /// Leave the session, flush, and end the process. Answered by [`Response::Done`] before it does.
    Stop,
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Room`].
    Room(Box<room::State>),
    /// To a request about one session.
    Session(Box<Session>),
    /// To [`Request::SessionList`].
    Sessions {
        /// Oldest first, without journals.
        sessions: Vec<Session>,
    },
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::AccountList`].
    Accounts {
        /// In the order they were made.
        accounts: Vec<Account>,
    },
    /// To [`Request::Account`].
    Account(Box<Done>),
    /// To [`Request::AccessLog`].
    AccessLog(Box<AccessPage>),
    /// To [`Request::Scrubs`].
    Scrubs(Box<scrub::Scrubs>),
    /// To [`Request::Recover`] and [`Request::Recovery`].
    Recovery(Box<Recovery>),
    /// Done, and there is nothing to tell.
    Done,
    /// Not done.
    Not {
        /// Of what kind, which decides the command's exit code.
        fault: Fault,
        /// One sentence: what was found and what to do.
        reason: String,
    },
}

/// A request on its way to the driver: of whom, what, and where its answer goes.
pub type Call = (Who, Request, oneshot::Sender<Response>);

/// Why the running node could not be asked, or could not listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens. A command that only reads can open the archive itself.
    #[error("no node is running on {0}")]
    NotRunning(PathBuf),
    /// Another process has this data folder.
    #[error("another node (process {process}) is already running on {folder}: stop it first")]
    AlreadyRunning {
        /// The data folder.
        folder: PathBuf,
        /// Its process id as it wrote it down, or `unknown`.
        process: String,
    },
    /// The two programs do not understand one another.
    #[error("the node on {folder} answered {found}: is it another version of diemcau?")]
    Garbled {
        /// The data folder.
        folder: PathBuf,
        /// What came instead.
        found: String,
    },
    /// The system refused.
    #[error("local socket in {folder}")]
    Socket {
        /// The data folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket. Dropping it closes the socket, removes its file and gives the folder free.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    folder: PathBuf,
    _lock: File,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Losing this race or lacking the right leaves a socket file that nobody answers; the next node replaces it.
        let _ = std::fs::remove_file(self.folder.join(SOCKET));
    }
}

/// Takes the data folder `dir` for this process and answers on its socket, handing requests to `handler`.
///
/// Must be called inside a tokio runtime. One process can hold a folder: the lock is the kernel's, so it ends with
/// the process however that dies, and a socket file left behind is known to be nobody's.
pub fn serve(dir: &Path, handler: mpsc::Sender<Call>) -> Result<Server, Error> {
    let refused = |source| Error::Socket { folder: dir.to_owned(), source };
    let lock = lock::take(dir)?;
    let socket = dir.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let listener = UnixListener::bind(ShortPath::new(dir).map_err(refused)?.socket()).map_err(refused)?;
    std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(refused)?;
    let task = tokio::spawn(accept(listener, handler));
    Ok(Server { task, folder: dir.to_owned(), _lock: lock })
}

/// Takes the data folder `dir` for a command, so that no node starts on it meanwhile, until what is returned is dropped.
pub fn hold(dir: &Path) -> Result<Hold, Error> {
    lock::take(dir).map(Hold)
}

/// A data folder held by this process, which does not answer on its socket.
#[derive(Debug)]
#[must_use]
pub struct Hold(#[expect(dead_code, reason = "the lock ends when it is dropped")] File);

/// Asks the node that runs on the data folder `dir`.
pub async fn call(dir: &Path, request: &Request) -> Result<Response, Error> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning(dir.to_owned()),
        _ => Error::Socket { folder: dir.to_owned(), source },
    };
    let garbled = |found: String| Error::Garbled { folder: dir.to_owned(), found };
    let path = ShortPath::new(dir).map_err(refused)?;
    let mut stream = UnixStream::connect(path.socket()).await.map_err(refused)?;
    let conversation = async {
        stream.write_all(&line(request)).await?;
        let mut answer = Vec::new();
        BufReader::new(&mut stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", PATIENCE.as_secs()));
    let answer = timeout(PATIENCE, conversation).await.map_err(late).and_then(|done| done).map_err(refused)?;
    if answer.last() != Some(&b'\n') {
        return Err(garbled(format!("{} bytes and then hung up", answer.len())));
    }
    serde_json::from_slice(&answer).map_err(|error| garbled(format!("something else ({error})")))
}

async fn accept(listener: UnixListener, handler: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, handler).await {
                        tracing::debug!(%error, "local caller");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file handles, most likely: a moment later some are free again.
                tracing::warn!(%error, "local socket cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// The machine's number for the user that this process runs as.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who is at the other end of a socket, in the kernel's words (`SO_PEERCRED`, unix(7)).
fn caller(uid: u32) -> Who {
    if uid == own_uid() || uid == ROOT { Who::Owner { uid } } else { Who::User { uid } }
}

async fn attend(mut stream: UnixStream, handler: mpsc::Sender<Call>) -> io::Result<()> {
    let who = caller(stream.peer_cred()?.uid());
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading);
    loop {
        let mut request = Vec::new();
        let mut bounded = (&mut reading).take(REQUEST_BYTES_MAX);
        if timeout(SILENCE_MAX, bounded.read_until(b'\n', &mut request)).await?? == 0 {
            return Ok(());
        }
        let whole = request.last() == Some(&b'\n');
        let answer =
            if whole { answer(&request, who.clone(), &handler).await } else { unreadable("its line has no end") };
        timeout(SILENCE_MAX, writing.write_all(&line(&answer))).await??;
        if !whole {
            return Ok(());
        }
    }
}

async fn answer(request: &[u8], who: Who, handler: &mpsc::Sender<Call>) -> Response {
    let request = match serde_json::from_slice(request) {
        Ok(request) => request,
        Err(error) => return unreadable(&error.to_string()),
    };
    ask(handler, who, request).await
}

/// Hands a request to the driver and waits for its answer; a driver that is gone is an answer too.
pub async fn ask(handler: &mpsc::Sender<Call>, who: Who, request: Request) -> Response {
    let (reply, answer) = oneshot::channel();
    if handler.send((who, request, reply)).await.is_ok()
        && let Ok(answer) = answer.await
    {
        return answer;
    }
    Response::Not { fault: Fault::Failed, reason: "the node is stopping: ask again when it runs".to_owned() }
}

fn unreadable(why: &str) -> Response {
    let reason = format!("the request cannot be read ({why}): is the command another version of diemcau?");
    Response::Not { fault: Fault::Failed, reason }
}

fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("our own messages have text keys only");
    line.push(b'\n');
    line
}

/// The data folder under a short name. A socket's path has 108 bytes (`unix(7)`), folders people choose have more; the
/// kernel resolves `/proc/self/fd/N` to the folder we hold open, however long its name is.
struct ShortPath(File);

impl ShortPath {
    fn new(dir: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir).map(Self)
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that answers each request with the request itself, in a reason.
    fn echo() -> mpsc::Sender<Call> {
        let (handler, mut calls) = mpsc::channel::<Call>(1);
        tokio::spawn(async move {
            while let Some((who, request, reply)) = calls.recv().await {
                assert_eq!(who, Who::Owner { uid: own_uid() }, "whoever has the folder has the socket");
                let reason = format!("{request:?}");
                let _ = reply.send(Response::Not { fault: Fault::Refused, reason });
            }
        });
        handler
    }

    #[test]
    fn the_socket_is_the_nodes_own_users_and_roots() {
        let own = own_uid();
        assert_eq!(caller(own), Who::Owner { uid: own });
        assert_eq!(caller(ROOT), Who::Owner { uid: ROOT });
        assert_eq!(caller(own + 1), Who::User { uid: own + 1 });
    }

    #[tokio::test]
    async fn a_running_node_is_reached_through_a_folder_with_a_very_long_name() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("x".repeat(120)).join("Trụ sở tiếp công dân".repeat(3));
        std::fs::create_dir_all(&dir).unwrap();
        let server = serve(&dir, echo()).unwrap();
        assert_eq!(std::fs::metadata(dir.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        let request = Request::SessionStart { title: "Phiên\nthử".into(), points: vec!["xã Kim Thành".into()] };
        let Response::Not { fault: Fault::Refused, reason } = call(&dir, &request).await.unwrap() else { panic!() };
        assert_eq!(reason, format!("{request:?}"));
        drop(server);
        assert!(matches!(call(&dir, &Request::Status).await, Err(Error::NotRunning(_))));
    }

    #[tokio::test]
    async fn a_folder_has_one_node_at_a_time_and_a_dead_ones_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SOCKET), b"left behind").unwrap();
        let first = serve(dir.path(), echo()).unwrap();
        let Err(Error::AlreadyRunning { process, .. }) = serve(dir.path(), echo()) else { panic!() };
        assert_eq!(process, std::process::id().to_string());
        drop(first);
        serve(dir.path(), echo()).unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_sends_rubbish_is_told_so_and_others_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let _server = serve(dir.path(), echo()).unwrap();
        for rubbish in [&b"{\"ask\":\"dance\"}\n"[..], b"\xff\xfe\n", b"{\"ask\":\"session-end\",\"sesion\":\"a\"}\n"] {
            let mut stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
            stream.write_all(rubbish).await.unwrap();
            let mut answer = String::new();
            BufReader::new(&mut stream).read_line(&mut answer).await.unwrap();
            assert!(answer.contains("cannot be read"), "{answer}");
        }
        assert!(matches!(call(dir.path(), &Request::Status).await, Ok(Response::Not { .. })));
    }

    #[tokio::test]
    async fn a_request_line_without_end_is_cut_off_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let _server = serve(dir.path(), echo()).unwrap();
        let mut stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        // The server stops reading at the limit, so the tail may or may not be accepted.
        let _ = stream.write_all(&vec![b' '; 2 * REQUEST_BYTES_MAX as usize]).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(matches!(call(dir.path(), &Request::Status).await, Ok(Response::Not { .. })));
    }

    #[tokio::test]
    async fn callers_that_hold_every_place_and_trickle_are_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let _server = serve(dir.path(), echo()).unwrap();
        let mut held = Vec::new();
        for _ in 0..2 * CALLERS_MAX {
            held.push(UnixStream::connect(dir.path().join(SOCKET)).await.unwrap());
        }
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                for stream in &mut held {
                    // Those that were let go take no more.
                    let _ = stream.write_all(b" ").await;
                }
            }
        };
        let answer = tokio::select! {
            answer = call(dir.path(), &Request::Status) => answer,
            () = trickle => unreachable!("it goes on"),
        };
        assert!(matches!(answer, Ok(Response::Not { .. })));
    }

    #[tokio::test]
    async fn a_node_that_stops_in_the_middle_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (handler, calls) = mpsc::channel(1);
        drop(calls);
        let _server = serve(dir.path(), handler).unwrap();
        let Response::Not { fault: Fault::Failed, reason } = call(dir.path(), &Request::Status).await.unwrap() else {
            panic!()
        };
        assert!(reason.contains("stopping"), "{reason}");
    }
}
