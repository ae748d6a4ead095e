//! Signing what this point recorded, handing it to central, and as central taking it from the others.
//!
//! All of it is done from what lies in the archive: the head says which point we are, the wraps give the keys, the last
//! segment where to go on. So it is the same for a running session and for one that an earlier run left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::access;
use store::archive::{self, Archive, Signing};
use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::journal::Event;
use store::keys::{NodeKey, WrapKey};
use store::segment::Segment;
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::spawn_blocking;

use super::manifest::countersign;
use super::{Driver, unix_ms};
use crate::engine::evidence::{Input, Output, Standing};
use crate::engine::manifest as closing;
use crate::engine::rights::{Deed, Part, Who, may};
use crate::engine::session::{self, is_recorded};
use crate::vault::{Closed, Vault};
use crate::wire::evidence::Message;

/// Runs of groups one segment can bring into the journal as disputed. The first says enough.
const DISPUTES_MAX: usize = 4;

/// Segments that central takes of a point however short the session is: as many as it signs in a day.
const SEGMENTS_MIN: u32 = 2880;

/// For each so much time of a session, one more. A point signs one in 30 s, and more only after a crash: this is as many as if it
/// crashed after every group. So no point can make central store more by signing than by recording.
const SEGMENT_EACH: Duration = Duration::from_secs(3);

/// What this point signs with.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) node: NodeKey,
    pub(super) wrap: WrapKey,
}

/// A signed record that another point gave, and what lies on our disk of its session.
pub(super) struct Given {
    from: NodeId,
    message: Message,
    head: Result<Option<Head>, archive::Error>,
    reply: oneshot::Sender<Bytes>,
    place: OwnedSemaphorePermit,
}

impl Driver {
    /// What this node has a part in is signed from now on; if it is over, for the last time.
    pub(super) fn attest(&mut self, head: &Head) {
        if head.number(&self.me).is_none() {
            return;
        }
        let (session, central) = (head.id, head.central);
        self.witness(Input::Takes { session, central });
        if head.state == State::Ended {
            self.witness(Input::Over { session });
            if central == self.me {
                self.close_record(closing::Input::Over { session });
            }
        }
    }

    /// Tells the part that knows when, and carries out what it wants.
    pub(super) fn witness(&mut self, input: Input) {
        self.evidence.handle(Instant::now(), input);
        while let Some(output) = self.evidence.poll() {
            match output {
                Output::Sign { session, over } => self.sign(session, over),
                Output::Send { session, to, n } => self.send_segment(session, to, n),
            }
        }
    }

    fn signer(&self) -> Signer {
        Signer { node: self.identity.node.clone(), wrap: self.identity.wrap.clone() }
    }

    fn sign(&self, session: SessionId, over: bool) {
        let (vault, signer, told) = (self.vault.clone(), self.signer(), self.told_of_evidence.clone());
        spawn_blocking(move || {
            let standing = match sign(&vault, &signer, session, over) {
                Ok(Ok(standing)) => Some(standing),
                Ok(Err(error)) => {
                    tracing::error!(%session, error = sentence(&error), "what this point recorded cannot be signed");
                    None
                }
                Err(Closed) => return,
            };
            // The driver is gone when this fails; what is unsigned is signed by the next run.
            let _ = told.blocking_send(Input::Signed { session, standing });
        });
    }

    fn send_segment(&self, session: SessionId, to: NodeId, n: u32) {
        let (vault, mesh, told, me) = (self.vault.clone(), self.mesh.clone(), self.told_of_evidence.clone(), self.me);
        tokio::spawn(async move {
            let read = spawn_blocking(move || own_segment(vault.archive(), &session, &me, n)).await;
            let silence = Input::Answered { session, next: None };
            let input = match read {
                Ok(Ok(Some(record))) => {
                    let message = Message::Segment { session, record }.encode();
                    mesh.ask(to, message).await.map_or(silence, |answer| heard(to, session, &answer))
                }
                Ok(Ok(None)) | Err(_) => silence,
                Ok(Err(error)) => {
                    tracing::error!(%session, n, %error, "a signed segment cannot be read");
                    silence
                }
            };
            // The driver ends only with everything else.
            let _ = told.send(input).await;
        });
    }

    /// A point gives us what it signed, or central what we are to countersign.
    pub(super) fn asked_of_evidence(&mut self, from: NodeId, message: &[u8], reply: oneshot::Sender<Bytes>) {
        // Dropping the reply refuses. The vault's queue is the room's too, and must not fill with these.
        let Ok(place) = Arc::clone(&self.takes).try_acquire_owned() else {
            return tracing::warn!(point = self.name(from), "too many signed records at once; this one is refused");
        };
        let message = match Message::decode(message) {
            Ok(message) => message,
            Err(error) => return self.unreadable(from, &error),
        };
        let (vault, told) = (self.vault.clone(), self.told_of_records.clone());
        spawn_blocking(move || {
            let head = vault.archive().head(&message.session());
            // The driver is gone when this fails.
            let _ = told.blocking_send(Given { from, message, head, reply, place });
        });
    }

    /// Takes what was given, if whoever gave it may.
    pub(super) fn given(&mut self, given: Given) {
        let Given { from, message, head, reply, place } = given;
        let session = message.session();
        // The asker may have given up.
        let refuse =
            |reply: oneshot::Sender<Bytes>, why: &str| drop(reply.send(Message::refused(session, why).encode()));
        let head = match head {
            Ok(head) => head,
            Err(error) => {
                let error = sentence(&error);
                tracing::error!(%session, error, "whether a signed record may be taken cannot be read");
                return refuse(reply, &error);
            }
        };
        let who = Who::Node(from);
        let part = head.as_ref().map_or(Part::Unknown, |head| Part::of(head, &from));
        let (record, deed) = match message {
            Message::Segment { record, .. } => (record, Deed::Report(part)),
            Message::Manifest { record, .. } => (record, Deed::Direct(part)),
            Message::Wants { .. } | Message::Countersigned { .. } | Message::Refused { .. } => {
                return refuse(reply, "an answer to nothing that was asked");
            }
        };
        let directs = matches!(deed, Deed::Direct(_));
        if let Err(denied) = may(&self.members, &who, deed) {
            self.denied(&who, access::Deed::Send, access::What::Session { session }, denied);
            return refuse(reply, &denied.to_string());
        }
        let (vault, inputs, name) = (self.vault.clone(), self.inputs.clone(), self.name(from));
        if directs {
            let key = self.identity.node.clone();
            spawn_blocking(move || {
                let done = vault.run(move |archive| countersign(archive, &key, session, from, record));
                answer(done.map(|answer| (answer, Vec::new())), reply, place);
            });
            return;
        }
        let head = head.filter(|head| head.central == self.me);
        let Some((point, head)) = head.and_then(|head| Some((head.number(&from)?, head))) else {
            return refuse(reply, "this point does not chair that session");
        };
        self.close_record(closing::Input::Changed { session });
        spawn_blocking(move || {
            let taken = vault.run(move |archive| take(archive, &head, point, from, record));
            for event in answer(taken, reply, place) {
                tracing::error!(%session, point = name, ?event, "what a point signed does not fit what is here");
                // The driver is gone when this fails; the records themselves remain.
                let _ = inputs.blocking_send(session::Input::Incident { session, point, event });
            }
        });
    }
}

/// Sends what the vault said, and gives what is wrong beyond it.
fn answer(
    done: Result<(Message, Vec<Event>), Closed>,
    reply: oneshot::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) -> Vec<Event> {
    let Ok((answer, incidents)) = done else {
        tracing::debug!("a signed record is not taken, as the node is stopping");
        return Vec::new();
    };
    // The asker may have given up.
    let _ = reply.send(answer.encode());
    drop(place);
    incidents
}

/// Signs what lies unsigned. Everything queued for the vault before is on the disk by then.
pub(super) fn sign(
    vault: &Vault,
    signer: &Signer,
    session: SessionId,
    over: bool,
) -> Result<Result<Standing, archive::Error>, Closed> {
    vault.run(|_| ())?;
    let gathered = gather(vault.archive(), signer, session, over);
    let (segment, standing) = match gathered {
        Ok((Some(segment), standing)) => (segment, standing),
        Ok((None, standing)) => return Ok(Ok(standing)),
        Err(error) => return Ok(Err(error)),
    };
    let (more, closed, key) = (segment.is_full(), segment.last, signer.node.clone());
    let signed = vault.run(move |archive| archive.sign_segment(&key, segment))?;
    Ok(signed.map(|signed| {
        let Segment { n, point, .. } = *signed.content();
        tracing::debug!(%session, %point, n, entries = signed.content().entries(), "signed what was recorded");
        Standing { len: standing.len + 1, more, closed }
    }))
}

/// What is to be signed next, and how the chain stands without it.
fn gather(
    archive: &Archive,
    signer: &Signer,
    session: SessionId,
    over: bool,
) -> Result<(Option<Segment>, Standing), archive::Error> {
    let unreadable = |what: String| archive::Error::Unreadable(format!("{what} of session {session}"));
    let head = archive.head(&session)?.ok_or_else(|| unreadable("head".into()))?;
    let node = signer.node.id();
    let point = head.number(&node).ok_or_else(|| unreadable("place of this point in the head".into()))?;
    let chain = archive.segment_chain(&session, point, node)?;
    let standing = Standing { len: chain.len(), more: false, closed: chain.is_closed() };
    if standing.closed {
        return Ok((None, standing));
    }
    let wraps = archive.wraps(&session, &node)?;
    let keys = head.open(&wraps, &signer.wrap, node).map_err(|error| unreadable(format!("key ({error})")))?;
    let tracks: Vec<_> = kept_tracks(point).collect();
    let by = Signing { session, point, node, tracks: &tracks, keys: &keys };
    Ok((archive.gather_segment(&by, unix_ms(), over)?, standing))
}

/// The tracks of a point that are recorded.
fn kept_tracks(point: PointNumber) -> impl Iterator<Item = TrackId> {
    TrackKind::ALL.into_iter().filter(|&kind| is_recorded(kind)).map(move |kind| TrackId::new(point, kind))
}

/// A segment of this point's own chain.
fn own_segment(archive: &Archive, session: &SessionId, me: &NodeId, n: u32) -> Result<Option<Bytes>, archive::Error> {
    let Some(point) = archive.head(session)?.and_then(|head| head.number(me)) else { return Ok(None) };
    Ok(archive.segments(session, point, n, 1)?.pop())
}

/// What central's answer comes to.
fn heard(central: NodeId, session: SessionId, answer: &[u8]) -> Input {
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
fn take(archive: &Archive, head: &Head, point: PointNumber, from: NodeId, record: Bytes) -> (Message, Vec<Event>) {
    let session = head.id;
    let refused = |reason: &str| Message::refused(session, reason);
    let segment = match Signed::<Segment>::parse(record) {
        Ok(segment) if (segment.content().session, segment.content().point) == (session, point) => segment,
        Ok(_) => return (refused("the segment is of another session or point"), Vec::new()),
        Err(error) => return (refused(&sentence(&error)), Vec::new()),
    };
    let max = segments_max(head, unix_ms());
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
fn runs(groups: &[store::id::GroupId]) -> Vec<Event> {
    let mut runs: Vec<(TrackId, u64, u64)> = Vec::new();
    for group in groups {
        match runs.last_mut() {
            Some((track, _, to)) if *track == group.track && *to + 1 == group.seq => *to = group.seq,
            _ => runs.push((group.track, group.seq, group.seq)),
        }
    }
    runs.into_iter().map(|(track, from_seq, to_seq)| Event::Disputed { track, from_seq, to_seq }).collect()
}

/// Signs what a stopping node recorded last, when its groups are with the vault.
pub(super) fn sign_before_stop(vault: &Vault, signer: &Signer, sessions: Vec<SessionId>) {
    for session in sessions {
        match sign(vault, signer, session, false) {
            Ok(Ok(_)) | Err(Closed) => {}
            Ok(Err(error)) => tracing::error!(%session, error = sentence(&error), "not signed; the next run does it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use store::db::memory::Memory;
    use store::id::Hash;
    use store::seal::Suite;
    use store::segment::Chain;
    use store::session::{Member, Period};

    use super::*;

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
            match take(&archive, &head, point, key.id(), segment.bytes().clone()).0 {
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
        let group = |seq| store::id::GroupId {
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
