//! How much a line carries now: a short train of padding, timed where it arrives.
//!
//! The far side times the second half only, because the first is QUIC's slow start. The train is bounded in bytes and
//! time, so that a slow line is not filled for long.

use std::time::{Duration, Instant};

use quinn::{Connection, RecvStream, VarInt};
use tokio::sync::oneshot;

use crate::wire::media::{Message, PROBE_LEN_MAX, Reset, STREAM_PROBE};

/// Length of our own train: 0.25 s of a 4 Mb/s line.
const TRAIN_LEN: usize = 128 * 1024;
/// A slower line gets less of it.
const TRAIN_TIME: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Below media, should there be any.
const PRIORITY: i32 = -1;
static PADDING: [u8; 4096] = [0; 4096];

/// Where the answer to the train under way is awaited.
pub(super) type Pending = std::sync::Mutex<Option<oneshot::Sender<u64>>>;

/// Sends the train; the answer comes on the control stream.
pub(super) async fn send(connection: &Connection) -> Option<()> {
    let mut stream = connection.open_uni().await.ok()?;
    // Fails only on a stream that is over, and this one begins.
    let _ = stream.set_priority(PRIORITY);
    stream.write_all(&[STREAM_PROBE]).await.ok()?;
    let (begun, mut sent) = (Instant::now(), 0);
    while sent < TRAIN_LEN && begun.elapsed() < TRAIN_TIME {
        let left = TRAIN_TIME.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, stream.write(&PADDING)).await {
            Ok(written) => sent += written.ok()?,
            Err(_) => break,
        }
    }
    stream.finish().ok()
}

/// Sends a train and waits for what it measured, bits per second.
pub(super) async fn measure(connection: &Connection, pending: &Pending) -> Option<u64> {
    let (answer, answered) = oneshot::channel();
    *pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
    send(connection).await?;
    tokio::time::timeout(ANSWER_MAX, answered).await.ok()?.ok()
}

/// Takes a train and says what it showed. One that is too long is stopped.
pub(super) async fn take(mut stream: RecvStream) -> Option<Message> {
    let (mut arrivals, mut bytes) = (Vec::new(), 0_u64);
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.ok()? {
        bytes += chunk.bytes.len() as u64;
        if bytes > PROBE_LEN_MAX {
            // Fails only on a stream that is over.
            let _ = stream.stop(VarInt::from_u32(Reset::Refused as u32));
            return None;
        }
        match arrivals.last_mut() {
            Some((at, sum)) if Instant::now() - *at < Duration::from_micros(100) => *sum = bytes,
            _ => arrivals.push((Instant::now(), bytes)),
        }
    }
    Some(judge(&arrivals))
}

/// What the arrivals of a train (when, and bytes so far) show of the line.
fn judge(arrivals: &[(Instant, u64)]) -> Message {
    /// Shorter times are those of our own reading.
    const MICROS_MIN: u64 = 100;
    let (Some((begun, _)), Some((ended, total))) = (arrivals.first(), arrivals.last()) else {
        return Message::Probed { bytes: 0, micros: MICROS_MIN };
    };
    let second_half = arrivals.iter().find(|(_, sum)| *sum >= total / 2).filter(|(_, sum)| sum < total);
    // All of the second half read at once: the line is faster than we read, and the whole train is the best measure.
    let (since, before) = second_half.map_or((begun, 0), |(at, sum)| (at, *sum));
    let micros = u64::try_from((*ended - *since).as_micros()).unwrap_or(u64::MAX);
    Message::Probed { bytes: total - before, micros: micros.max(MICROS_MIN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arrivals: &[(u64, u64)], bytes: u64, micros: u64) {
        let start = Instant::now();
        let arrivals: Vec<_> = arrivals.iter().map(|(at, sum)| (start + Duration::from_micros(*at), *sum)).collect();
        assert_eq!(judge(&arrivals), Message::Probed { bytes, micros });
    }

    #[test]
    fn the_second_half_of_a_train_is_timed() {
        check(&[(0, 10), (1000, 50), (2000, 75), (3000, 100)], 50, 2000);
    }

    #[test]
    fn a_train_read_at_once_is_a_fast_line_and_not_a_dead_one() {
        check(&[(0, 131_073)], 131_073, 100);
        check(&[(0, 40_000), (900, 131_073)], 131_073, 900);
    }

    #[test]
    fn an_empty_train_shows_nothing() {
        check(&[], 0, 100);
    }
}
