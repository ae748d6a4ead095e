//! Giving parts of a session's record to who is to hold it.
//!
//! A part travels in pieces, and each is asked for by itself. A part is read from the disk when its first piece is asked
//! for, and kept for a moment for the others: to read it anew for each piece would be reading the square of it, and the
//! pieces of a part that grew in between would not fit together. One is read at a time, so memory is bounded by what
//! is kept and one part more. Who asks too slowly has it read again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::SessionId;
use store::session::Head;

use crate::wire::replica::{Message, PIECE_MAX, Part, RUN_MAX};

/// Bytes of parts that are kept. Beyond, the one longest not asked for goes.
const KEPT_MAX: u64 = RUN_MAX + (32 << 20);
/// A part that nobody asks for is kept no longer than this.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Parts that were asked for lately.
#[derive(Debug, Default)]
pub(in crate::driver) struct Runs(Mutex<BTreeMap<(SessionId, Part), Run>>);

#[derive(Debug)]
struct Run {
    asked: Instant,
    bytes: Bytes,
}

impl Runs {
    /// The piece of a part that begins at byte `from`.
    pub(in crate::driver) fn piece(
        &self,
        archive: &Archive,
        head: &Head,
        part: Part,
        from: u64,
        now: Instant,
    ) -> Result<Message, archive::Error> {
        let session = head.id;
        let bytes = {
            let mut runs = self.runs();
            let key = (session, part);
            // From the beginning means: as it is now.
            let kept = runs.get(&key).filter(|_| from > 0).map(|run| run.bytes.clone());
            let bytes = match kept {
                Some(bytes) => bytes,
                None => Bytes::from(run(archive, head, part)?),
            };
            if bytes.len() as u64 > RUN_MAX {
                return Ok(Message::refused(session, "that part is too long to be copied"));
            }
            runs.remove(&key);
            make_room(&mut runs, bytes.len() as u64);
            if bytes.len() > PIECE_MAX {
                runs.insert(key, Run { asked: now, bytes: bytes.clone() });
            }
            bytes
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        let piece = Bytes::copy_from_slice(&bytes[from..bytes.len().min(from + PIECE_MAX)]);
        Ok(Message::Piece { session, len: bytes.len() as u64, bytes: piece })
    }

    /// Forgets what nobody asked for.
    pub(super) fn forget(&self, now: Instant) {
        self.runs().retain(|_, run| now.saturating_duration_since(run.asked) < KEPT_FOR);
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<(SessionId, Part), Run>> {
        // What is in it is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(runs: &mut BTreeMap<(SessionId, Part), Run>, len: u64) {
    while runs.values().map(|run| run.bytes.len() as u64).sum::<u64>() + len > KEPT_MAX {
        let oldest = runs.iter().min_by_key(|(_, run)| run.asked).map(|(key, _)| *key);
        let Some(oldest) = oldest else { return };
        runs.remove(&oldest);
    }
}

fn run(archive: &Archive, head: &Head, part: Part) -> Result<Vec<u8>, archive::Error> {
    let session = &head.id;
    Ok(match part {
        Part::Head => head.encode(),
        Part::Journal => framed(archive.journal(session, 0)?),
        Part::Segments(point) => framed(archive.segments(session, point, 0, usize::MAX)?),
        Part::Manifests => framed(archive.manifests(session)?.manifests),
        Part::Countersigned => framed(archive.manifests(session)?.countersigned),
        Part::Wraps => {
            let mut run = Vec::new();
            for (epoch, wraps) in archive.all_wraps(session)? {
                for (recipient, wrap) in wraps {
                    run.push(epoch);
                    run.extend_from_slice(recipient.as_bytes());
                    run.extend_from_slice(wrap.as_bytes());
                }
            }
            run
        }
        Part::Have(track) => archive.have(session, track)?.encode(),
        Part::Receipts => {
            let receipts = archive.receipts(session)?.into_iter();
            framed(receipts.map(|received| received.receipt.bytes().clone()).collect())
        }
    })
}

/// Records, each behind its length.
fn framed(records: Vec<Bytes>) -> Vec<u8> {
    let mut run = Vec::new();
    for record in records {
        run.extend_from_slice(&u32::try_from(record.len()).expect("a record is at most a mebibyte").to_be_bytes());
        run.extend_from_slice(&record);
    }
    run
}
