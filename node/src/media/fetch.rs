//! Stored groups, asked for and given, on a connection of their own behind their own gate.
//!
//! Copies must never be felt by the living: the giver looks at the *live* line to the same neighbour before each
//! slice, waits while that line shows any queue, and uses a tenth of it while it is in use.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use store::access;
use store::id::{GroupId, NodeId, SessionId};
use store::record::Record;

use super::tls::Purpose;
use super::{Event, Held, Shared, connect};
use crate::wire::media::{
    self as wire, Close, FETCH_GROUPS_MAX, FETCH_LEN_MAX, FetchItem, FetchRequest, MESSAGE_LEN_MAX, Reset,
};

/// Delay of the live line from which copies pause.
const DELAY_MAX: Duration = Duration::from_millis(20);
/// Share of the line for copies while it is used live, and otherwise.
const SHARE_LIVE_PERCENT: u64 = 10;
const SHARE_IDLE_PERCENT: u64 = 80;
/// A copy waits no longer than this for a slice, so that repair creeps on over a line that is never free.
const PAUSE_MAX: Duration = Duration::from_secs(2);
const SLICE: usize = 16 * 1024;
/// An asker that does not take a slice within this time has his stream reset: it keeps a record in memory.
const SLICE_MAX: Duration = Duration::from_secs(60);
/// Addresses of one node that are tried for a copy.
const PLACES_MAX: usize = 8;
/// Connections for copies with one neighbour.
pub(super) const COPIES_MAX: usize = 3;
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// A fetch from which nothing comes for so long has failed: longer than a live session's pause should be.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// And so has one that is slower than this, in bytes per second: half of a tenth of the slowest line we work on.
const PACE_MIN: u64 = 400;
/// Longest record that is accepted.
const RECORD_LEN_MAX: u64 = store::record::GROUP_LEN_MAX as u64;

/// One group of an answer.
#[derive(Debug)]
pub enum Fetched {
    /// It is whole and what it says it is.
    Record(Record),
    /// The holder does not have it.
    Missing(u64),
}

/// Why a fetch brought nothing, or not all; what came before is lost with it and can be asked for again.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Try again when it is.
    #[error("the holder is not connected")]
    Away,
    /// The connection failed under way. Try again.
    #[error("the line to the holder failed: {0}")]
    Line(String),
    /// Ask another holder, and report this one.
    #[error("the holder sent something else: {0}")]
    Wrong(String),
}

fn line(error: impl std::fmt::Display) -> FetchError {
    FetchError::Line(error.to_string())
}

fn wrong(error: impl std::fmt::Display) -> FetchError {
    FetchError::Wrong(error.to_string())
}

/// Asks `node` for groups `id.seq..=to`.
pub(super) async fn fetch(
    shared: &Arc<Shared>,
    node: NodeId,
    id: GroupId,
    to: u64,
    len_max: u64,
) -> Result<Vec<Fetched>, FetchError> {
    let origin = shared.state().sessions.get(&id.session).and_then(|session| session.node(id.track));
    let connection = copy_connection(shared, node).await?;
    let opened = tokio::time::timeout(SILENCE_MAX, connection.open_bi()).await;
    let (mut sender, mut receiver) = opened.map_err(|_| line("it answers too many others"))?.map_err(line)?;
    let to = to.min(id.seq.saturating_add(FETCH_GROUPS_MAX - 1));
    let len_max = len_max.min(FETCH_LEN_MAX);
    let request = FetchRequest { session: id.session, track: id.track, from: id.seq, to, len_max };
    sender.write_all(&wire::encode(&request).map_err(wrong)?).await.map_err(line)?;
    // Fails only when the holder stopped the stream, which reading shows as well.
    let _ = sender.finish();
    let mut fetched = Vec::new();
    let (mut next, mut total) = (id.seq, 0);
    while let Some(item) = read_message::<FetchItem>(&mut receiver, SILENCE_MAX).await? {
        if item.seq != next || next > to {
            return Err(wrong("groups out of order"));
        }
        next += 1;
        let Some(len) = item.len else {
            fetched.push(Fetched::Missing(item.seq));
            continue;
        };
        total += len;
        // The first group is taken whatever its length; the bound is on what follows.
        if len > RECORD_LEN_MAX || total > len_max.max(RECORD_LEN_MAX) {
            return Err(wrong("more bytes than were asked for"));
        }
        let record = Record::parse(read_exactly(&mut receiver, len).await?).map_err(wrong)?;
        let header = record.header();
        let named = (header.session, header.track, header.seq) == (id.session, id.track, item.seq);
        if !named || origin.is_some_and(|origin| origin != header.point) {
            return Err(wrong("another group than was asked for"));
        }
        fetched.push(Fetched::Record(record));
    }
    Ok(fetched)
}

/// The way to `node` for copies: the one it made or we made, or a new one to where it is connected from, or else to where
/// it says that it is.
async fn copy_connection(shared: &Arc<Shared>, node: NodeId) -> Result<Connection, FetchError> {
    let addresses = {
        let state = shared.state();
        let copies = state.copies.get(&node);
        if let Some(connection) = copies.and_then(|copies| copies.iter().rfind(|copy| copy.close_reason().is_none())) {
            return Ok(connection.clone());
        }
        match state.peers.get(&node) {
            Some(peer) => vec![peer.connection.remote_address()],
            None => state.places.get(&node).filter(|_| state.may_connect(node)).cloned().unwrap_or_default(),
        }
    };
    let mut failed = FetchError::Away;
    for address in addresses.into_iter().take(PLACES_MAX) {
        match connect(shared, &node, address, Purpose::Copy).await {
            Ok(connection) => {
                tokio::spawn(serve(Arc::clone(shared), node, connection.clone()));
                return Ok(connection);
            }
            Err(error) => failed = line(error),
        }
    }
    Err(failed)
}

/// Serves a copy connection to its end; either side may ask on it.
pub(super) async fn serve(shared: Arc<Shared>, node: NodeId, connection: Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    let oldest = {
        let mut state = shared.state();
        let copies = state.copies.entry(node).or_default();
        copies.push(connection.clone());
        if copies.len() > COPIES_MAX { Some(copies.remove(0)) } else { None }
    };
    if let Some(oldest) = oldest {
        oldest.close(VarInt::from_u32(Close::Replaced as u32), b"");
    }
    while let Ok((sender, receiver)) = connection.accept_bi().await {
        // As many at once as the transport admits streams.
        tokio::spawn(give(Arc::clone(&shared), node, connection.clone(), sender, receiver));
    }
    let mut state = shared.state();
    if let Some(copies) = state.copies.get_mut(&node) {
        copies.retain(|copy| copy.stable_id() != connection.stable_id());
        if copies.is_empty() {
            state.copies.remove(&node);
        }
    }
}

async fn give(
    shared: Arc<Shared>,
    node: NodeId,
    connection: Connection,
    mut sender: SendStream,
    mut receiver: RecvStream,
) {
    let request = match read_message::<FetchRequest>(&mut receiver, REQUEST_MAX).await {
        Ok(Some(request)) => request,
        Ok(None) | Err(FetchError::Line(_) | FetchError::Away) => {
            // Fails only on a stream that is over. Dropping it would look like an answer that is empty.
            let _ = sender.reset(VarInt::from_u32(Reset::Broken as u32));
            return;
        }
        Err(FetchError::Wrong(why)) => {
            tracing::warn!(peer = %node.short(), why, "media: a fetch that cannot be read");
            return connection.close(VarInt::from_u32(Close::Malformed as u32), b"a fetch that cannot be read");
        }
    };
    // The asker's place for a further fetch is free only when his stream was read to its end.
    let rest = tokio::time::timeout(REQUEST_MAX, receiver.read_chunk(1, true)).await;
    if !matches!(rest, Ok(Ok(None))) {
        return connection.close(VarInt::from_u32(Close::Malformed as u32), b"more than a fetch");
    }
    let admitted = {
        let state = shared.state();
        // The session may have been closed here while the question was on its way.
        state.admits_fetch(request.session, node)
    };
    if !matches!(admitted, Some(Ok(()))) {
        // Fails only on a stream that is over.
        let _ = sender.reset(VarInt::from_u32(Reset::Refused as u32));
    }
    match admitted {
        Some(Ok(())) => {}
        Some(Err(denied)) => {
            let (deed, session) = (access::Deed::Copy, request.session);
            return shared.tell_driver(Event::Denied { node, deed, session, denied }).await;
        }
        None => return,
    }
    // A line that fails under way is seen by the asker, who asks again.
    let _ = answer(&shared, node, &request, &mut sender).await;
}

async fn answer(
    shared: &Arc<Shared>,
    node: NodeId,
    request: &FetchRequest,
    sender: &mut SendStream,
) -> Result<(), quinn::WriteError> {
    let mut given = Given { shared, of: (node, request.session), groups: 0 };
    let last = request.to.min(request.from.saturating_add(FETCH_GROUPS_MAX - 1));
    let len_max = request.len_max.min(FETCH_LEN_MAX);
    let mut total = 0;
    for seq in request.from..=last {
        let id = GroupId { session: request.session, track: request.track, seq };
        let shelf = Arc::clone(&shared.shelf);
        let held = tokio::task::spawn_blocking(move || shelf.get(id)).await.unwrap_or(Held::NotYet);
        let bytes = match held {
            Held::Whole(bytes) => Some(bytes),
            Held::Missing => None,
            // "Not here" would be believed for good; an answer that ends early is asked for again.
            Held::NotYet => break,
        };
        let len = bytes.as_ref().map(|bytes| bytes.len() as u64);
        total += len.unwrap_or(0);
        if total > len_max && seq > request.from {
            break;
        }
        let item = wire::encode(&FetchItem { seq, len }).expect("an item is a few bytes");
        sender.write_all(&item).await?;
        let Some(mut bytes) = bytes else { continue };
        while !bytes.is_empty() {
            let slice = bytes.split_to(SLICE.min(bytes.len()));
            pause(shared, node, slice.len()).await;
            let Ok(written) = tokio::time::timeout(SLICE_MAX, sender.write_chunk(slice)).await else {
                // Fails only on a stream that is over.
                let _ = sender.reset(VarInt::from_u32(Reset::Late as u32));
                return Ok(());
            };
            written?;
        }
        given.groups += 1;
    }
    // Fails only when the asker stopped the stream.
    let _ = sender.finish();
    Ok(())
}

/// Counts what one fetch was given, however it ends.
struct Given<'a> {
    shared: &'a Shared,
    of: (NodeId, SessionId),
    groups: u64,
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        if self.groups > 0 {
            let mut state = self.shared.state();
            let taken = state.taken.entry(self.of).or_default();
            *taken = taken.saturating_add(self.groups);
        }
    }
}

/// Waits until the live line to `node` can spare `len` bytes.
async fn pause(shared: &Arc<Shared>, node: NodeId, len: usize) {
    let begun = tokio::time::Instant::now();
    loop {
        let lane = shared.state().peers.get(&node).map(|peer| peer.lane);
        let line = match lane {
            Some(lane) => shared.line(lane).await,
            None => None,
        };
        let (delay, bits, used) = line.unwrap_or((Duration::ZERO, shared.config.line_bits, false));
        if delay > DELAY_MAX && used && begun.elapsed() < PAUSE_MAX {
            tokio::time::sleep(DELAY_MAX).await;
            continue;
        }
        let share = if used { SHARE_LIVE_PERCENT } else { SHARE_IDLE_PERCENT };
        let rate = (bits * share / 100 / 8).max(1);
        let time = Duration::from_secs_f64(len as f64 / rate as f64);
        if time > Duration::from_millis(1) {
            tokio::time::sleep(time).await;
        }
        return;
    }
}

/// The next message of a stream, `None` at its end.
async fn read_message<T: for<'de> serde::Deserialize<'de>>(
    stream: &mut RecvStream,
    patience: Duration,
) -> Result<Option<T>, FetchError> {
    let read = async {
        let mut len = [0; 2];
        match stream.read_exact(&mut len).await {
            Ok(()) => {}
            Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(line(error)),
        }
        let len = usize::from(u16::from_be_bytes(len));
        if len > MESSAGE_LEN_MAX {
            return Err(wrong("a message that is too long"));
        }
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await.map_err(line)?;
        wire::decode(&bytes).map(Some).map_err(wrong)
    };
    tokio::time::timeout(patience, read).await.unwrap_or_else(|_| Err(line("nothing came")))
}

/// `len` bytes, taken as they come: memory grows with what arrived, not with what was promised.
async fn read_exactly(stream: &mut RecvStream, len: u64) -> Result<Bytes, FetchError> {
    let mut bytes = bytes::BytesMut::new();
    let until = tokio::time::Instant::now() + SILENCE_MAX + Duration::from_secs(len / PACE_MIN);
    while (bytes.len() as u64) < len {
        let left = usize::try_from(len - bytes.len() as u64).map_err(line)?;
        let patience = until.min(tokio::time::Instant::now() + SILENCE_MAX);
        let chunk = tokio::time::timeout_at(patience, stream.read_chunk(left, true)).await;
        let chunk = chunk.map_err(|_| line("nothing came"))?.map_err(line)?;
        bytes.extend_from_slice(&chunk.ok_or_else(|| line("the answer broke off"))?.bytes);
    }
    Ok(bytes.freeze())
}
