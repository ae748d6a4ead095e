//! What waits for an encoder.
//!
//! A channel cannot serve: the rule for pictures is to put out the *oldest* waiting one when there is no room, which
//! only the giving side can do if it also can take. Sound is never put out; its giver waits.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Work for one layer's thread, in order.
#[derive(Debug)]
pub(super) enum Work<T> {
    /// Raw media.
    Media(T),
    /// Nothing will come for a while: end what is open.
    Break,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    room: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    work: VecDeque<Work<T>>,
    closed: bool,
}

impl<T> Queue<T> {
    /// Holds `room` pieces of media, and as many breaks as lie between them.
    pub(super) fn new(room: usize) -> Self {
        let state = State { work: VecDeque::new(), closed: false };
        Self { room, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds media, putting out the oldest when there is no room. Whether one was put out.
    pub(super) fn displace(&self, media: T) -> bool {
        let mut state = self.lock();
        let full = state.media() >= self.room;
        if full && let Some(oldest) = state.work.iter().position(|work| matches!(work, Work::Media(_))) {
            state.work.remove(oldest);
        }
        state.work.push_back(Work::Media(media));
        self.changed.notify_all();
        full
    }

    /// Adds media, waiting for room. On a closed queue nothing is added.
    pub(super) fn wait(&self, media: T) {
        let mut state = self.lock();
        while state.media() >= self.room && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state.work.push_back(Work::Media(media));
        }
        self.changed.notify_all();
    }

    /// Adds a break, unless one was the last thing added.
    pub(super) fn pause(&self) {
        let mut state = self.lock();
        if !matches!(state.work.back(), Some(Work::Break)) {
            state.work.push_back(Work::Break);
        }
        self.changed.notify_all();
    }

    /// The next work, waiting for it; `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Work<T>> {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.work.pop_front() {
                self.changed.notify_all();
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that nothing more will be added.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// A thread that panicked leaves a queue that is still whole: no step above can be seen half done.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn media(&self) -> usize {
        self.work.iter().filter(|work| matches!(work, Work::Media(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn drain(queue: &Queue<u32>) -> Vec<Option<u32>> {
        queue.close();
        std::iter::from_fn(|| queue.take())
            .map(|work| match work {
                Work::Media(media) => Some(media),
                Work::Break => None,
            })
            .collect()
    }

    #[test]
    fn the_newest_pictures_stay() {
        let queue = Queue::new(2);
        let displaced: Vec<_> = (0..5).map(|picture| queue.displace(picture)).collect();
        assert_eq!(displaced, [false, false, true, true, true]);
        assert_eq!(drain(&queue), [Some(3), Some(4)]);
    }

    #[test]
    fn a_break_is_never_put_out_and_never_said_twice() {
        let queue = Queue::new(2);
        queue.displace(0);
        queue.pause();
        queue.pause();
        for picture in 1..4 {
            queue.displace(picture);
        }
        assert_eq!(drain(&queue), [None, Some(2), Some(3)]);
    }

    #[test]
    fn sound_waits_for_room_and_all_of_it_arrives() {
        let queue = Arc::new(Queue::new(3));
        let giver = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                (0..1_000).for_each(|run| queue.wait(run));
                queue.close();
            }
        });
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        giver.join().expect("the giver ends");
        assert_eq!(taken.len(), 1_000);
        assert!(taken.iter().enumerate().all(|(at, work)| matches!(work, Work::Media(run) if *run == at)));
    }

    #[test]
    fn closing_frees_a_giver_that_waits() {
        let queue = Arc::new(Queue::new(1));
        queue.wait(0);
        let giver = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.wait(1)
        });
        queue.close();
        giver.join().expect("the giver is freed");
        assert!(matches!(queue.take(), Some(Work::Media(0))));
    }
}
