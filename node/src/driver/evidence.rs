//! Signing what this point recorded, handing it to central, and as central taking it from the others: when, for whom, and
//! on which thread. What is done on the archive stands in [`attest`].

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use store::access;
use store::archive;
use store::id::{NodeId, SessionId};
use store::journal::Event;
use store::segment::Segment;
use store::session::{Head, State};
use store::verify::sentence;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::spawn_blocking;

use super::{Driver, unix_ms};
use crate::attest::closing::countersign;
use crate::attest::{self, Signer};
use crate::engine::evidence::{Input, Output, Standing};
use crate::engine::manifest as closing;
use crate::engine::rights::{Deed, Part, Who, may};
use crate::engine::session;
use crate::vault::{Closed, Vault};
use crate::wire::evidence::Message;

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
        match self.vault.archive().owed(&session) {
            Ok(None) => {}
            Ok(Some(_)) => return self.fetch_own_chain(session),
            Err(error) => tracing::error!(%session, %error, "whether our segments are lost cannot be read"),
        }
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

    /// This archive was lost while the session ran: what was signed before it comes back from central first, or this point would
    /// sign the same numbers again and look like a forger.
    fn fetch_own_chain(&self, session: SessionId) {
        let (asking, told) = (self.asking(), self.told_of_evidence.clone());
        tokio::spawn(async move {
            match asking.own_segments(session).await {
                Ok(count) => tracing::info!(%session, count, "what this point had signed is here again"),
                Err(error) => tracing::warn!(%session, error, "nothing is signed before what was lost is back"),
            }
            // In half a minute it is tried again, or goes on. The driver ends only with everything else.
            let _ = told.send(Input::Signed { session, standing: None }).await;
        });
    }

    fn send_segment(&self, session: SessionId, to: NodeId, n: u32) {
        let (vault, mesh, told, me) = (self.vault.clone(), self.mesh.clone(), self.told_of_evidence.clone(), self.me);
        tokio::spawn(async move {
            let read = spawn_blocking(move || attest::own_segment(vault.archive(), &session, &me, n)).await;
            let silence = Input::Answered { session, next: None };
            let input = match read {
                Ok(Ok(Some(record))) => {
                    let message = Message::Segment { session, record }.encode();
                    mesh.ask(to, message).await.map_or(silence, |answer| attest::heard(to, session, &answer))
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
                let done = vault.run(move |archive| countersign(archive, &key, (session, from), record, unix_ms()));
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
            let taken = vault.run(move |archive| attest::take(archive, &head, (point, from), record, unix_ms()));
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
    match vault.archive().owed(&session) {
        Ok(None) => {}
        Ok(Some(_)) => return Ok(Ok(Standing { len: 0, more: false, closed: false })),
        Err(error) => return Ok(Err(error)),
    }
    let gathered = attest::gather(vault.archive(), signer, session, over, unix_ms());
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

/// Signs what a stopping node recorded last, when its groups are with the vault.
pub(super) fn sign_before_stop(vault: &Vault, signer: &Signer, sessions: Vec<SessionId>) {
    for session in sessions {
        match sign(vault, signer, session, false) {
            Ok(Ok(_)) | Err(Closed) => {}
            Ok(Err(error)) => tracing::error!(%session, error = sentence(&error), "not signed; the next run does it"),
        }
    }
}
