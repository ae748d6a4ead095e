//! Live sound and picture between this node and the browser on the same machine, by WebRTC.
//!
//! WebRTC and not a stream of our own, because the jitter buffer, the clock drift, lip-sync and the echo canceller are the
//! browser's then, and the hard half of a conference. What the mesh carries are H.264 and Opus, which every browser takes
//! and makes, so nothing is transcoded: a frame is opened (or sealed) here and handed on.
//!
//! One connection for each watched point, so that its sound and picture are one stream and stay together. The browser makes
//! the offer (WHIP, RFC 9725, and WHEP after it); we are one UDP socket on the console's address. What passes here is in
//! the clear but for DTLS between two programs of one machine: this is the room's own screen and loudspeaker.
//!
//! Offers and packets come from outside. Each connection is a task of its own, so what finds a fault of the library ends
//! one connection and nothing else; they are limited in number, and one whose browser is gone ends by its silence.

mod clock;
mod forward;
mod peer;
mod publish;
mod socket;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use store::id::{PointNumber, SessionId, TrackId, TrackKind};
use tokio::sync::{mpsc, oneshot, watch as changes};
use tokio::task::AbortHandle;
use utoipa::ToSchema;

use self::peer::Terms;
use self::socket::Socket;
use crate::studio::inlet::Inlet;
use crate::studio::stage::Stage;

/// Points watched at once, over all pages that are open: a full session and a second page.
pub const WATCHED_MAX: usize = 64;
/// Browsers that offer themselves as the camera at once: one, and those that take over.
const PUBLISHERS_MAX: usize = 4;
/// Longest offer in bytes. A browser's with two layers has some ten thousand.
pub const OFFER_BYTES_MAX: usize = 64 * 1024;
/// Wishes that wait for the driver; what is beyond is asked again by whoever still wants it.
const WISHES_MAX: usize = 64;
/// Changes of mind that wait for a connection.
const COMMANDS_MAX: usize = 4;
/// NAL units of a frame that is passed on. Encoders make a handful; each is a packet at least, so that one frame of a megabyte of
/// the smallest would be a quarter of a million.
const UNITS_MAX: usize = 512;

/// A layer of a point's picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The picture as it is recorded.
    #[default]
    Main,
    /// The small one.
    Thumb,
}

impl Layer {
    fn kind(self) -> TrackKind {
        match self {
            Layer::Main => TrackKind::Main,
            Layer::Thumb => TrackKind::Thumb,
        }
    }
}

/// What a browser that watches needs of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The session.
    pub session: SessionId,
    /// A keyframe of this track, soon.
    pub track: TrackId,
}

/// An offer that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names the connection from now on.
    pub id: String,
    /// For the browser.
    pub sdp: String,
}

/// Why nothing comes of what a browser asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The browser's offer.
    #[error("this offer is not taken: {0}")]
    Offer(String),
    /// Nothing to watch.
    #[error("no session with a point of this number runs here")]
    NoPoint,
    /// Enough is watched.
    #[error("{WATCHED_MAX} points are watched already: close another page of this room")]
    Full,
    /// This room's picture and sound come from elsewhere.
    #[error("this room does not take its picture and sound from a browser: set room.source to \"browser\"")]
    NotBrowser,
    /// The connection is over, or never was.
    #[error("there is no such connection any more")]
    Gone,
    /// It does not read what it is told.
    #[error("the connection does not answer: begin another")]
    Busy,
}

/// The browsers of this room. Copies share them; the last one dropped ends their connections.
#[derive(Clone, Debug)]
pub struct Browser {
    shared: Arc<Shared>,
    _socket: Arc<Task>,
}

#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared {
    terms: Terms,
    stage: Stage,
    /// Where the room's own picture and sound go, if they come from a browser.
    inlet: Option<Inlet>,
    connections: Mutex<BTreeMap<String, Connection>>,
    wanted: changes::Sender<BTreeSet<TrackId>>,
    wishes: mpsc::Sender<Wish>,
}

/// A connection as its owner sees it. Its end is the end of `commands`.
#[derive(Debug)]
struct Connection {
    commands: mpsc::Sender<Layer>,
    sort: Sort,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// It shows a point's sound and picture.
    Watches { point: PointNumber, layer: Layer },
    /// It brings this room's.
    Publishes,
}

impl Browser {
    /// Listens on any UDP port of `address`. Without an `inlet` no browser is this room's camera. Must be called inside a
    /// tokio runtime. Wishes must be drained.
    pub async fn start(
        address: IpAddr,
        stage: Stage,
        inlet: Option<Inlet>,
    ) -> io::Result<(Browser, mpsc::Receiver<Wish>)> {
        let socket = Socket::bind(address).await?;
        let terms = Terms::new(Arc::clone(&socket)).ok_or_else(|| io::Error::other("no certificate could be made"))?;
        let (wishes, from_browsers) = mpsc::channel(WISHES_MAX);
        let wanted = changes::Sender::new(BTreeSet::new());
        let shared = Arc::new(Shared { terms, stage, inlet, connections: Mutex::default(), wanted, wishes });
        let task = tokio::spawn(socket.run()).abort_handle();
        Ok((Browser { shared, _socket: Arc::new(Task(task)) }, from_browsers))
    }

    /// The tracks that somebody watches, and when that changes.
    pub fn wanted(&self) -> changes::Receiver<BTreeSet<TrackId>> {
        self.shared.wanted.subscribe()
    }

    /// Shows a point of the running session to a browser.
    pub async fn watch(&self, point: PointNumber, layer: Layer, offer: String) -> Result<Answer, Refusal> {
        if self.shared.stage.watch(point).is_none() {
            return Err(Refusal::NoPoint);
        }
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let seat = Shared::sit(&self.shared, Connection { commands, sort: Sort::Watches { point, layer } })?;
        let id = seat.id.clone();
        let (reply, answer) = oneshot::channel();
        tokio::spawn(watch::run(seat, point, layer, offer, reply, orders));
        // A task that panicked over the offer gives none.
        let sdp = answer.await.unwrap_or_else(|_| Err(Refusal::Offer("it cannot be understood".into())))?;
        Ok(Answer { id, sdp })
    }

    /// Takes a browser as this room's camera and microphone. Once it is connected, the one before is let go.
    pub async fn publish(&self, offer: String) -> Result<Answer, Refusal> {
        let inlet = self.shared.inlet.clone().ok_or(Refusal::NotBrowser)?;
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let seat = Shared::sit(&self.shared, Connection { commands, sort: Sort::Publishes })?;
        let id = seat.id.clone();
        let (reply, answer) = oneshot::channel();
        tokio::spawn(publish::run(seat, inlet, offer, reply, orders));
        // A task that panicked over the offer gives none.
        let sdp = answer.await.unwrap_or_else(|_| Err(Refusal::Offer("it cannot be understood".into())))?;
        Ok(Answer { id, sdp })
    }

    /// Goes over to another layer with the next group.
    pub fn set_layer(&self, id: &str, layer: Layer) -> Result<(), Refusal> {
        {
            let mut connections = self.shared.connections();
            let connection = connections.get_mut(id).ok_or(Refusal::Gone)?;
            let Sort::Watches { point, .. } = connection.sort else { return Err(Refusal::Gone) };
            connection.commands.try_send(layer).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Refusal::Busy,
                mpsc::error::TrySendError::Closed(_) => Refusal::Gone,
            })?;
            connection.sort = Sort::Watches { point, layer };
        }
        self.shared.reckon();
        Ok(())
    }

    /// Ends a connection.
    pub fn end(&self, id: &str) -> Result<(), Refusal> {
        let ended = self.shared.connections().remove(id).map(drop).ok_or(Refusal::Gone);
        self.shared.reckon();
        ended
    }
}

impl Shared {
    /// Gives a connection its name and its place.
    fn sit(shared: &Arc<Shared>, connection: Connection) -> Result<Seat, Refusal> {
        let id = {
            let mut connections = shared.connections();
            let same = |known: &&Connection| (known.sort == Sort::Publishes) == (connection.sort == Sort::Publishes);
            let most = if connection.sort == Sort::Publishes { PUBLISHERS_MAX } else { WATCHED_MAX };
            if connections.values().filter(same).count() >= most {
                return Err(Refusal::Full);
            }
            let id = name();
            connections.insert(id.clone(), connection);
            id
        };
        shared.reckon();
        Ok(Seat { shared: Arc::clone(shared), id })
    }

    /// Tells whoever cares if what is watched has changed.
    fn reckon(&self) {
        let connections = self.connections();
        let watched = connections.values().filter_map(|connection| match connection.sort {
            Sort::Watches { point, layer } => Some((point, layer)),
            Sort::Publishes => None,
        });
        let tracks =
            watched.flat_map(|(point, layer)| [TrackKind::Audio, layer.kind()].map(|kind| TrackId::new(point, kind)));
        let tracks = tracks.collect();
        self.wanted.send_if_modified(|known| {
            let changed = *known != tracks;
            *known = tracks;
            changed
        });
    }

    /// This browser brings the room's sound and picture from now on, in place of the one before.
    fn is_camera(&self, id: &str) {
        self.connections().retain(|known, other| known == id || other.sort != Sort::Publishes);
    }

    fn wish(&self, track: TrackId) {
        if let Some(session) = self.stage.session() {
            // The driver is behind, or stopping.
            let _ = self.wishes.try_send(Wish { session, track });
        }
    }

    /// Each change under this lock is one insertion or removal.
    fn connections(&self) -> MutexGuard<'_, BTreeMap<String, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place. Dropping it gives it up.
#[derive(Debug)]
struct Seat {
    shared: Arc<Shared>,
    id: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.connections().remove(&self.id);
        self.shared.reckon();
    }
}

/// A name nobody can guess: whoever knows it may end the connection.
fn name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    hex::encode(bytes)
}
