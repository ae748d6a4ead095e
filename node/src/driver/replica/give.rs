//! Giving parts of a session's record to who is to hold it. What is given is read from the disk anew for each piece: a
//! record is small beside its groups, and nothing has to be remembered of who asks.

use bytes::Bytes;
use store::archive::{self, Archive};
use store::session::Head;

use crate::wire::replica::{Message, PIECE_MAX, Part, RUN_MAX};

/// The piece of a part that begins at byte `from`.
pub(super) fn piece(archive: &Archive, head: &Head, part: Part, from: u64) -> Result<Message, archive::Error> {
    let session = head.id;
    let run = run(archive, head, part)?;
    let len = run.len() as u64;
    if len > RUN_MAX {
        return Ok(Message::refused(session, "that part is too long to be copied"));
    }
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(run.len());
    let bytes = Bytes::copy_from_slice(&run[from..run.len().min(from + PIECE_MAX)]);
    Ok(Message::Piece { session, len, bytes })
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
