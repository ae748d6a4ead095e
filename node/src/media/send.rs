//! The hub: carries out what the fan-out decides, on QUIC streams.
//!
//! One task for all neighbours. It never waits for one of them: a stream is opened and bytes are written if the
//! transport takes them at once, and what it does not take stays in the log for the next tick. A task for each
//! neighbour would wake as often as there are neighbours for each frame; this one wakes once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use quinn::{Connection, SendStream, VarInt};
use store::id::{NodeId, SessionId};
use tokio::sync::{mpsc, oneshot};

use super::live::{Dirty, Lists, Log};
use super::{Event, Shared};
use crate::engine::fanout::{Fanout, Input, LaneId, LiveId, Output, Slot, Track};
use crate::engine::rate::Path;
use crate::wire::media::{Reset, STREAM_GROUP};

/// How often the transport's figures are read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// Events the driver has not taken yet. What is beyond is statistics only, and is dropped.
const BACKLOG_MAX: usize = 1024;

/// What the other tasks ask of the hub.
pub(super) enum Command {
    Up {
        lane: LaneId,
        node: NodeId,
        connection: Connection,
        estimate: u64,
    },
    Down {
        lane: LaneId,
    },
    Subscribe {
        lane: LaneId,
        track: Track,
        priority: u8,
    },
    Unsubscribe {
        lane: LaneId,
        track: Track,
    },
    Probed {
        lane: LaneId,
        bits: u64,
    },
    Closed {
        session: SessionId,
    },
    /// The delay of a line, what it carries, and whether it is used.
    Line {
        lane: LaneId,
        reply: oneshot::Sender<Option<(Duration, u64, bool)>>,
    },
}

struct Lane {
    node: NodeId,
    connection: Connection,
}

struct Outgoing {
    stream: SendStream,
    /// The byte that names the stream's kind has not been written yet.
    begins: bool,
    /// The transport took less than was asked since the last drain: what follows for this stream is void.
    short: bool,
}

pub(super) struct Hub {
    shared: Arc<Shared>,
    fanout: Fanout,
    lanes: BTreeMap<LaneId, Lane>,
    logs: BTreeMap<LiveId, Arc<Log>>,
    slots: Vec<Option<Outgoing>>,
    held: Vec<(LaneId, LiveId, usize)>,
    refused: Vec<(LaneId, LiveId)>,
    events: VecDeque<Event>,
    pieces: Vec<Bytes>,
}

impl Hub {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            fanout: Fanout::default(),
            lanes: BTreeMap::new(),
            logs: BTreeMap::new(),
            slots: Vec::new(),
            held: Vec::new(),
            refused: Vec::new(),
            events: VecDeque::new(),
            pieces: Vec::new(),
        }
    }

    /// Works until the last handle is gone.
    pub(super) async fn run(mut self, dirty: Arc<Dirty>, mut commands: mpsc::Receiver<Command>) {
        let mut sample_at = Instant::now() + SAMPLE_INTERVAL;
        loop {
            let wake = self.fanout.deadline().map_or(sample_at, |at| at.min(sample_at));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = dirty.changed.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.read_logs(&dirty);
            let now = Instant::now();
            if now >= sample_at {
                sample_at = now + SAMPLE_INTERVAL;
                self.sample(now);
            }
            if self.fanout.deadline().is_some_and(|at| now >= at) {
                self.feed(now, Input::Tick);
            }
            self.flush_events();
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Up { lane, node, connection, estimate } => {
                self.lanes.insert(lane, Lane { node, connection });
                self.feed(now, Input::Up { lane, estimate });
            }
            Command::Down { lane } => {
                self.feed(now, Input::Down { lane });
                self.lanes.remove(&lane);
            }
            Command::Subscribe { lane, track, priority } => self.feed(now, Input::Subscribe { lane, track, priority }),
            Command::Unsubscribe { lane, track } => self.feed(now, Input::Unsubscribe { lane, track }),
            Command::Probed { lane, bits } => self.feed(now, Input::Probed { lane, bits }),
            Command::Closed { session } => self.feed(now, Input::Closed { session }),
            Command::Line { lane, reply } => {
                // The asker may have gone meanwhile, which is no fault.
                let _ = reply.send(self.fanout.line(lane));
            }
        }
    }

    fn read_logs(&mut self, dirty: &Dirty) {
        let now = Instant::now();
        let Lists { fresh, grown } = dirty.take();
        for log in fresh {
            self.logs.insert(log.id, Arc::clone(&log));
            self.feed(now, Input::Opened { live: log.id, track: log.track(), seq: log.header.seq });
            let (len, fate) = log.look();
            self.feed(now, Input::Grew { live: log.id, len, fate });
        }
        for log in grown {
            let (len, fate) = log.look();
            self.feed(now, Input::Grew { live: log.id, len, fate });
        }
    }

    fn sample(&mut self, now: Instant) {
        let paths: Vec<(LaneId, Path)> = self.lanes.iter().map(|(id, lane)| (*id, path(&lane.connection))).collect();
        for (lane, path) in paths {
            self.feed(now, Input::Path { lane, path });
        }
    }

    fn feed(&mut self, now: Instant, input: Input) {
        self.fanout.handle(now, input);
        self.drain();
        while !self.held.is_empty() || !self.refused.is_empty() {
            for (lane, live, sent) in std::mem::take(&mut self.held) {
                self.fanout.handle(now, Input::Held { lane, live, sent });
            }
            for (lane, live) in std::mem::take(&mut self.refused) {
                self.fanout.handle(now, Input::Refused { lane, live });
            }
            self.slots.iter_mut().flatten().for_each(|outgoing| outgoing.short = false);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.fanout.poll() {
            match output {
                Output::Start { lane, live, slot, priority } => self.start(lane, live, slot, priority),
                Output::Send { lane, live, slot, from, to } => self.send(lane, live, slot, from, to),
                Output::Finish { slot } => self.finish(slot),
                Output::Reset { slot, code } => self.reset(slot, code),
                Output::Priority { slot, priority } => {
                    if let Some(Some(outgoing)) = self.slots.get(slot) {
                        // Fails only on a stream that is over, whose priority is of no interest.
                        let _ = outgoing.stream.set_priority(priority);
                    }
                }
                Output::Drop { live } => {
                    self.logs.remove(&live);
                }
                Output::Want { track, wanted } => {
                    if let Some(event) = self.shared.want(track, wanted) {
                        self.events.push_back(event);
                    }
                }
                Output::Shed { lane, track, seq } => {
                    if let Some(lane) = self.lanes.get(&lane).filter(|_| self.events.len() < BACKLOG_MAX) {
                        self.events.push_back(Event::Shed { node: lane.node, session: track.0, track: track.1, seq });
                    }
                }
                Output::Budget { lane, bits } => {
                    if let Some(lane) = self.lanes.get(&lane).filter(|_| self.events.len() < BACKLOG_MAX) {
                        self.events.push_back(Event::Budget { node: lane.node, bits });
                    }
                }
            }
        }
    }

    fn start(&mut self, lane: LaneId, live: LiveId, slot: Slot, priority: i32) {
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let opened = self.lanes.get(&lane).and_then(|lane| lane.connection.open_uni().now_or_never());
        // At the neighbour's limit of streams, or gone: both are congestion to the fan-out.
        let Some(Ok(stream)) = opened else {
            self.slots[slot] = None;
            return self.refused.push((lane, live));
        };
        // Fails only on a stream that is over, and this one begins.
        let _ = stream.set_priority(priority);
        self.slots[slot] = Some(Outgoing { stream, begins: true, short: false });
    }

    fn send(&mut self, lane: LaneId, live: LiveId, slot: Slot, from: usize, to: usize) {
        let (Some(Some(outgoing)), Some(log)) = (self.slots.get_mut(slot), self.logs.get(&live)) else { return };
        if outgoing.short {
            return;
        }
        self.pieces.clear();
        let kind = usize::from(outgoing.begins);
        if outgoing.begins {
            self.pieces.push(Bytes::from_static(&[STREAM_GROUP]));
        }
        log.slice(from, to, &mut self.pieces);
        let mut written = 0;
        let mut rest = &mut self.pieces[..];
        let refused = loop {
            if rest.is_empty() {
                break false;
            }
            match outgoing.stream.write_chunks(rest).now_or_never() {
                None => break false,
                Some(Err(_)) => break true,
                Some(Ok(some)) => {
                    written += some.bytes;
                    rest = &mut rest[some.chunks..];
                }
            }
        };
        if refused {
            self.slots[slot] = None;
            return self.refused.push((lane, live));
        }
        if written > 0 {
            outgoing.begins = false;
        }
        let sent = from + written.saturating_sub(kind);
        if sent < to {
            outgoing.short = true;
            self.held.push((lane, live, sent));
        }
    }

    fn finish(&mut self, slot: Slot) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        if place.as_ref().is_some_and(|outgoing| outgoing.short) {
            return;
        }
        if let Some(mut outgoing) = place.take() {
            // Fails only when the neighbour stopped the stream, who then has no use for its end.
            let _ = outgoing.stream.finish();
        }
    }

    fn reset(&mut self, slot: Slot, code: Reset) {
        if let Some(mut outgoing) = self.slots.get_mut(slot).and_then(Option::take) {
            // Fails only on a stream that is over.
            let _ = outgoing.stream.reset(VarInt::from_u32(code as u32));
        }
    }

    fn flush_events(&mut self) {
        while let Some(event) = self.events.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.shared.events.try_send(event) {
                self.events.push_front(event);
                return;
            }
        }
    }
}

fn path(connection: &Connection) -> Path {
    let stats = connection.stats();
    Path { rtt: stats.path.rtt, window: stats.path.cwnd, sent: stats.udp_tx.bytes, lost: stats.path.lost_bytes }
}
