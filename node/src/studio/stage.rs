//! What is live now: the newest group of each track of the running session, for those who watch in a browser.
//!
//! The room's own decoder gets every group as it arrives (`watch`). Browsers come and go, and one that comes must see a
//! picture at once, so the newest group of each track stays readable here from its beginning until the next one takes its
//! place. It stays sealed; whoever shows it opens it. A group in the air is bounded in length, so this is bounded by the
//! tracks of a session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store::id::{PointNumber, SessionId, TrackId, TrackKind};
use store::record::Header;
use store::seal::Opener;
use tokio::sync::broadcast;

use crate::media::live;

/// News that a slow watcher may be behind: about two seconds of a full session. One that is further behind goes on with
/// the newest groups.
const NEWS_MAX: usize = 256;

/// A track is there while its last group began within this time: a group lasts two seconds, and one may be lost.
const RECENT: Duration = Duration::from_millis(4_500);

/// A group that began to arrive or to be made.
#[derive(Debug)]
pub struct Group {
    reader: live::Reader,
    opener: Arc<Opener>,
    began: Instant,
}

impl Group {
    /// Its header.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// When it began here.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// A place at its beginning.
    pub fn read(&self) -> live::Reader {
        self.reader.again()
    }

    /// What opens it, with the keys known when it began.
    pub fn opener(&self) -> &Opener {
        &self.opener
    }
}

/// What whoever watches hears.
#[derive(Clone, Debug)]
pub enum News {
    /// A group began, of any point.
    Group(Arc<Group>),
    /// The session is over here.
    Over,
}

/// The stage of one node. Copies share it.
#[derive(Clone, Debug)]
pub struct Stage {
    state: Arc<Mutex<State>>,
    news: broadcast::Sender<News>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<SessionId>,
    points: BTreeSet<PointNumber>,
    newest: BTreeMap<TrackId, Arc<Group>>,
}

impl Default for Stage {
    fn default() -> Self {
        Stage { state: Arc::default(), news: broadcast::Sender::new(NEWS_MAX) }
    }
}

impl Stage {
    /// A session runs, with these points; again when points went.
    pub(crate) fn open(&self, session: SessionId, points: BTreeSet<PointNumber>) {
        let other = self.lock().session.is_some_and(|known| known != session);
        if other {
            self.close();
        }
        let mut state = self.lock();
        state.newest.retain(|track, _| points.contains(&track.point()));
        state.session = Some(session);
        state.points = points;
    }

    /// A session is over, if it is the one that runs.
    pub(crate) fn close_if(&self, session: SessionId) {
        if self.session() == Some(session) {
            self.close();
        }
    }

    fn close(&self) {
        *self.lock() = State::default();
        // Nobody may be watching.
        let _ = self.news.send(News::Over);
    }

    /// A group begins.
    pub(crate) fn begin(&self, reader: live::Reader, opener: Arc<Opener>) {
        let group = Arc::new(Group { reader, opener, began: Instant::now() });
        let header = group.header();
        let track = header.track;
        {
            let mut state = self.lock();
            if state.session != Some(header.session) || !state.points.contains(&track.point()) {
                return;
            }
            // A group that was overtaken is not the newest, but whoever waits for it shall have it.
            let newest = state.newest.get(&track).is_none_or(|known| known.header().seq < header.seq);
            if newest {
                state.newest.insert(track, Arc::clone(&group));
            }
        }
        let _ = self.news.send(News::Group(group));
    }

    /// The running session.
    pub fn session(&self) -> Option<SessionId> {
        self.lock().session
    }

    /// What is live of a point now, and news from now on; `None` when no such point takes part in a running session.
    pub fn watch(&self, point: PointNumber) -> Option<(Vec<Arc<Group>>, broadcast::Receiver<News>)> {
        let state = self.lock();
        if !state.points.contains(&point) {
            return None;
        }
        // Under the lock, so that no group falls between the two.
        let news = self.news.subscribe();
        let newest = state.newest.values().filter(|group| group.header().track.point() == point);
        Some((newest.cloned().collect(), news))
    }

    /// Whether sound and picture of a point arrive now.
    pub fn recent(&self, point: PointNumber) -> (bool, bool) {
        let state = self.lock();
        let recent = |kind| {
            let newest = state.newest.get(&TrackId::new(point, kind));
            newest.is_some_and(|group| group.began.elapsed() < RECENT)
        };
        (recent(TrackKind::Audio), recent(TrackKind::Main) || recent(TrackKind::Thumb))
    }

    /// Each change under this lock is an insertion or a removal, so what a panicking thread left is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
