//! Session time for the threads of the room: the line in use, and the local clock it starts from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use codec::time::MediaTime;

use crate::engine::clock::Line;

/// Turns local into session time. Copies share the line.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    epoch: Instant,
    line: Arc<Mutex<Option<Line>>>,
}

impl Timeline {
    /// No session time is known yet; local times count from `epoch`.
    pub(crate) fn new(epoch: Instant) -> Timeline {
        Timeline { epoch, line: Arc::default() }
    }

    /// Uses this line from now on.
    pub(crate) fn set(&self, line: Line) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }

    /// Session time of a local moment; the local moment itself while none is known, which nobody asks then: a room
    /// publishes only after it knows.
    pub(crate) fn session(&self, local: MediaTime) -> MediaTime {
        let line = *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.map_or(local, |line| MediaTime::from_micros(line.session_at(local.micros())))
    }

    /// Session time now, once known.
    pub(crate) fn now(&self) -> Option<MediaTime> {
        let line = *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let local = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        line.map(|line| MediaTime::from_micros(line.session_at(local)))
    }
}
