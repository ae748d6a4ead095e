//! What is signed about a recording, and what is taken of what others signed: the deeds on the archive, without a clock,
//! a thread or a line.
//!
//! All of it is done from what lies in the archive: the head says which point we are, the wraps give the keys, the last
//! segment where to go on. So it is the same for a running session and for one that an earlier run left behind.

use std::time::Duration;

use bytes::Bytes;
use store::archive::{self, Archive, Signing};
use store::id::{GroupId, NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::journal::Event;
use store::keys::{NodeKey, WrapKey};
use store::segment::Segment;
use store::session::Head;
use store::signed::Signed;
use store::verify::sentence;

use crate::engine::evidence::{Input, Standing};
use crate::engine::session::is_recorded;
use crate::wire::evidence::Message;

pub mod closing;

/// Runs of groups one segment can bring into the journal as disputed. The first says enough.
const DISPUTES_MAX: usize = 4;

/// Segments that central takes of a point however short the session is: as many as it signs in a day.
const SEGMENTS_MIN: u32 = 2880;

/// For each so much time of a session, one more. A point signs one in 30 s, and more only after a crash: this is as many as if it
/// crashed after every group. So no point can make central store more by signing than by recording.
const SEGMENT_EACH: Duration = Duration::from_secs(3);

/// What a point signs with.
#[derive(Clone, Debug)]
pub struct Signer {
    /// What others know it by.
    pub node: NodeKey,
    /// What opens the keys of its sessions.
    pub wrap: WrapKey,
}

/// What is to be signed next, and how the chain stands without it. Nothing will come after it if the session is `over`.
pub fn gather(
    archive: &Archive,
    signer: &Signer,
    session: SessionId,
    over: bool,
    now_ms: u64,
) -> Result<(Option<Segment>, Standing), archive::Error> {
    let unreadable = |what: String| archive::Error::Unreadable(format!("{what} of session {session}"));
    let head = archive.head(&session)?.ok_or_else(|| unreadable("head".into()))?;
    let node = signer.node.id();
    let point = head.number(&node).ok_or_else(|| unreadable("place of this point in the head".into()))?;
    let chain = archive.segment_chain(&session, point, node)?;
    let standing = Standing { len: chain.len(), more: false, closed: chain.is_closed() };
    // What was lost once is closed: how far it was signed is for others to say.
    if standing.closed || archive.is_restored(&session)? {
        return Ok((None, Standing { closed: true, ..standing }));
    }
    let wraps = archive.wraps(&session, &node)?;
    let keys = head.open(&wraps, &signer.wrap, node).map_err(|error| unreadable(format!("key ({error})")))?;
    let tracks: Vec<_> = kept_tracks(point).collect();
    let by = Signing { session, point, node, tracks: &tracks, keys: &keys };
    Ok((archive.gather_segment(&by, now_ms, over)?, standing))
}

/// The tracks of a point that are recorded.
fn kept_tracks(point: PointNumber) -> impl Iterator<Item = TrackId> {
    TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)).map(move |kind| TrackId::new(point, kind))
}

/// A segment of this point's own chain.
pub fn own_segment(
    archive: &Archive,
    session: &SessionId,
    me: &NodeId,
    n: u32,
) -> Result<Option<Bytes>, archive::Error> {
    let Some(point) = archive.head(session)?.and_then(|head| head.number(me)) else { return Ok(None) };
    Ok(archive.segments(session, point, n, 1)?.pop())
}

/// What central's answer comes to.
pub fn heard(central: NodeId, session: SessionId, answer: &[u8]) -> Input {
    match Message::decode(answer) {
        Ok(Message::Wants { session: of, next }) if of == session => Input::Answered { session, next: Some(next) },
        Ok(Message::Refused { reason, .. }) => {
            tracing::warn!(%session, point = %central.short(), reason, "central does not take what was signed");
            Input::Refused { session }
        }
        Ok(
            Message::Wants { .. } | Message::Segment { .. } | Message::Manifest { .. } | Message::Countersigned { .. },
        ) => Input::Answered { session, next: None },
        Err(error) => {
            tracing::warn!(point = %central.short(), %error, "its answer");
            Input::Answered { session, next: None }
        }
    }
}

/// Stores a segment that its point gave, and gives the answer, and what is wrong beyond it.
pub fn take(
    archive: &Archive,
    head: &Head,
    (point, from): (PointNumber, NodeId),
    record: Bytes,
    now_ms: u64,
) -> (Message, Vec<Event>) {
    let session = head.id;
    let refused = |reason: &str| Message::refused(session, reason);
    let segment = match Signed::<Segment>::parse(record) {
        Ok(segment) if (segment.content().session, segment.content().point) == (session, point) => segment,
        Ok(_) => return (refused("the segment is of another session or point"), Vec::new()),
        Err(error) => return (refused(&sentence(&error)), Vec::new()),
    };
    let max = segments_max(head, now_ms);
    if segment.content().n >= max {
        return (refused(&format!("so long a session has at most {max} segments of a point")), Vec::new());
    }
    let stored = archive.append_segment(from, &segment);
    if let Err(archive::Error::Forked { n, .. }) = &stored {
        return (refused("another segment of this number is here"), vec![Event::Forked { point, n: *n }]);
    }
    let wants = archive.segment_chain(&session, point, from).map(|chain| Message::Wants { session, next: chain.len() });
    match (stored, wants) {
        (Ok(()), Ok(wants)) => {
            match archive.disputed(segment.content()) {
                Ok(disputed) => (wants, runs(&disputed).into_iter().take(DISPUTES_MAX).collect()),
                // It comes again after a refusal, and is compared then.
                Err(error) => {
                    let error = sentence(&error);
                    tracing::error!(%session, %point, error, "what a point signed cannot be compared with what is here");
                    (refused(&error), Vec::new())
                }
            }
        }
        // One that is ahead of what is here is answered by what is wanted; so is one that forked long ago.
        (Err(archive::Error::Segment(error)), Ok(wants)) if is_ahead(&error) => (wants, Vec::new()),
        (Err(error), _) | (Ok(()), Err(error)) => (refused(&sentence(&error)), Vec::new()),
    }
}

/// How many segments of a point central takes by now.
fn segments_max(head: &Head, now_ms: u64) -> u32 {
    let lasted_ms = head.ended_unix_ms.unwrap_or(now_ms).saturating_sub(head.started_unix_ms);
    let each = u128::from(lasted_ms) / SEGMENT_EACH.as_millis();
    u32::try_from(each).unwrap_or(u32::MAX).saturating_add(SEGMENTS_MIN)
}

fn is_ahead(error: &store::segment::Error) -> bool {
    matches!(error, store::segment::Error::Number { n, found, .. } if found > n)
}

/// Disputed groups as entries of the journal.
fn runs(groups: &[GroupId]) -> Vec<Event> {
    let mut runs: Vec<(TrackId, u64, u64)> = Vec::new();
    for group in groups {
        match runs.last_mut() {
            Some((track, _, to)) if *track == group.track && *to + 1 == group.seq => *to = group.seq,
            _ => runs.push((group.track, group.seq, group.seq)),
        }
    }
    runs.into_iter().map(|(track, from_seq, to_seq)| Event::Disputed { track, from_seq, to_seq }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::db::memory::Memory;
    use store::id::Hash;
    use store::seal::Suite;
    use store::segment::Chain;
    use store::session::{Member, Period, State};

    use super::*;

    const NOW_MS: u64 = 1_700_000_100_000;

    /// A session of one minute that point 1 chaired.
    fn minute() -> Head {
        let member = |n: u16| {
            let (number, node) = (PointNumber::new(n).unwrap(), NodeKey::from_bytes(&[n as u8; 32]).id());
            Member { number, node, name: format!("Xã {n}") }
        };
        Head {
            id: SessionId::from_parts(1_700_000_000_000, [1; 10]),
            title: "Định kỳ".into(),
            state: State::Ended,
            central: member(1).node,
            points: vec![member(1), member(2)],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: Some(1_700_000_060_000),
        }
    }

    #[test]
    fn a_point_that_signs_without_end_fills_no_disk() {
        let (head, key, point) = (minute(), NodeKey::from_bytes(&[2; 32]), PointNumber::new(2).unwrap());
        let archive = Archive::over(Arc::<Memory>::default(), Arc::<Memory>::default()).unwrap();
        let mut chain = Chain::new(head.id, point, key.id());
        let max = SEGMENTS_MIN + 20;
        for n in 0..max + 100 {
            let segment = chain.append(&key, chain.begin(0)).unwrap();
            match take(&archive, &head, (point, key.id()), segment.bytes().clone(), NOW_MS).0 {
                Message::Wants { next, .. } => assert!(next == n + 1 && n < max, "{n}"),
                Message::Refused { reason, .. } => {
                    assert_eq!(reason, "so long a session has at most 2900 segments of a point");
                    assert!(n >= max, "{n}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(archive.segment_chain(&head.id, point, key.id()).unwrap().len(), max);
    }

    #[test]
    fn a_long_session_has_more_segments_and_a_clock_that_went_back_refuses_no_day() {
        let day = 24 * 3600 * 1000;
        let head = Head { ended_unix_ms: None, ..minute() };
        assert_eq!(segments_max(&head, head.started_unix_ms + 10 * day), SEGMENTS_MIN + 10 * 28_800);
        assert_eq!(segments_max(&head, 0), SEGMENTS_MIN);
        assert_eq!(segments_max(&head, u64::MAX), u32::MAX);
    }

    #[test]
    fn neighbouring_groups_are_one_entry() {
        let group = |seq| GroupId {
            session: SessionId::from_bytes([1; 16]),
            track: TrackId::new(PointNumber::new(1).unwrap(), TrackKind::Main),
            seq,
        };
        let spans = |seqs: &[u64]| -> Vec<_> {
            let groups: Vec<_> = seqs.iter().map(|&seq| group(seq)).collect();
            let of = |event| match event {
                Event::Disputed { from_seq, to_seq, .. } => (from_seq, to_seq),
                other => panic!("{other:?}"),
            };
            runs(&groups).into_iter().map(of).collect()
        };
        assert_eq!(spans(&[1, 2, 3, 7, 9, 10]), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!(spans(&[]), []);
    }
}
