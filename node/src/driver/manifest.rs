//! Closing a record: central signs what a session consists of, and every point countersigns its own part or says why not.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{NodeId, SessionId};
use store::journal::{Entry, Event};
use store::keys::NodeKey;
use store::manifest::{Countersignature, Manifest};
use store::session::{Head, State};
use store::signed::Signed;
use tokio::task::spawn_blocking;

use super::deeds::sentence;
use super::{Driver, unix_ms};
use crate::engine::manifest::{Input, Output};
use crate::vault::{Closed, Vault};
use crate::wire::evidence::Message;

impl Driver {
    /// Tells the part that knows when, and carries out what it wants.
    pub(super) fn close_record(&mut self, input: Input) {
        self.manifests.handle(Instant::now(), input);
        while let Some(output) = self.manifests.poll() {
            match output {
                Output::Sign { session, all } => self.sign_manifest(session, all),
                Output::Ask { session, node } => self.ask_to_countersign(session, node),
            }
        }
    }

    fn sign_manifest(&self, session: SessionId, all: bool) {
        let (vault, key, told) = (self.vault.clone(), self.identity.node.clone(), self.told_of_manifests.clone());
        spawn_blocking(move || {
            let open = match close(&vault, &key, session, all) {
                Ok(Ok(open)) => open,
                Ok(Err(error)) => {
                    tracing::error!(%session, error = sentence(&error), "the session's manifest cannot be signed");
                    None
                }
                Err(Closed) => return,
            };
            // The driver is gone when this fails; the next run signs.
            let _ = told.blocking_send(Input::Signed { session, open });
        });
    }

    fn ask_to_countersign(&self, session: SessionId, node: NodeId) {
        let (vault, mesh, told) = (self.vault.clone(), self.mesh.clone(), self.told_of_manifests.clone());
        tokio::spawn(async move {
            let reading = vault.clone();
            let read = spawn_blocking(move || reading.archive().last_manifest(&session)).await;
            let answered = match read {
                Ok(Ok(Some(manifest))) => {
                    let record = manifest.bytes().clone();
                    match mesh.ask(node, Message::Manifest { session, record }.encode()).await {
                        Ok(answer) => heard(vault, node, manifest, &answer).await,
                        Err(_) => false,
                    }
                }
                Ok(Ok(None)) | Err(_) => false,
                Ok(Err(error)) => {
                    tracing::error!(%session, %error, "the session's manifest cannot be read");
                    false
                }
            };
            // The driver ends only with everything else.
            let _ = told.send(Input::Asked { session, node, answered }).await;
        });
    }
}

/// Signs a manifest if there is something new to say, and gives who has not countersigned the last. `None` if it is too early.
fn close(
    vault: &Vault,
    key: &NodeKey,
    session: SessionId,
    all: bool,
) -> Result<Result<Option<BTreeSet<NodeId>>, archive::Error>, Closed> {
    vault.run(|_| ())?;
    let drawn = match draw(vault.archive(), session, all) {
        Ok(Some(drawn)) => drawn,
        Ok(None) => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error)),
    };
    let Drawn { manifest, last, points } = drawn;
    let signed = match last.filter(|last| last.content().says_what(&manifest)) {
        Some(last) => last,
        None => match Signed::sound(manifest, key) {
            Ok(signed) => {
                let stored = signed.clone();
                if let Err(error) = vault.run(move |archive| archive.put_manifest(&stored))? {
                    return Ok(Err(error));
                }
                tracing::info!(%session, n = signed.content().n, "the session's manifest is signed");
                signed
            }
            Err(error) => {
                tracing::error!(%session, error = sentence(&error), "so large a session has no manifest");
                return Ok(Ok(Some(BTreeSet::new())));
            }
        },
    };
    let done = match vault.archive().countersigners(&session, signed.hash()) {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    let open = points.into_iter().filter(|(number, _)| !done.contains(number)).map(|(_, node)| node);
    Ok(Ok(Some(open.collect())))
}

/// What is to be signed.
struct Drawn {
    manifest: Manifest,
    last: Option<Signed<Manifest>>,
    /// Who has to countersign it.
    points: Vec<(store::id::PointNumber, NodeId)>,
}

fn draw(archive: &Archive, session: SessionId, all: bool) -> Result<Option<Drawn>, archive::Error> {
    let Some(head) = archive.head(&session)?.filter(|head| head.state == State::Ended) else { return Ok(None) };
    let joined = joined(archive, &head)?;
    let mut points = Vec::new();
    // Before all of every chain is read: this is asked every few seconds.
    for member in head.points.iter().filter(|member| !head.was_removed(member.number)) {
        let chain = archive.segment_chain(&session, member.number, member.node)?;
        if chain.is_empty() && !joined.contains(&member.number) {
            continue;
        }
        if all && !chain.is_closed() {
            return Ok(None);
        }
        if member.node != head.central {
            points.push((member.number, member.node));
        }
    }
    let manifest = archive.draw_manifest(&head, unix_ms())?;
    let last = archive.last_manifest(&session)?;
    Ok(Some(Drawn { manifest, last, points }))
}

/// The points that took part: central, and whom the journal says joined.
fn joined(archive: &Archive, head: &Head) -> Result<BTreeSet<store::id::PointNumber>, archive::Error> {
    let mut joined: BTreeSet<_> = head.number(&head.central).into_iter().collect();
    for bytes in archive.journal(&head.id, 0)? {
        if let Ok(entry) = Signed::<Entry>::parse(bytes)
            && let Event::Joined { point } = entry.content().event
        {
            joined.insert(point);
        }
    }
    Ok(joined)
}

/// What a point answered; whether it was an answer. Its countersignature is stored by then.
async fn heard(vault: Vault, node: NodeId, manifest: Signed<Manifest>, answer: &[u8]) -> bool {
    let (session, point) = (manifest.content().session, node.short());
    let record = match Message::decode(answer) {
        Ok(Message::Countersigned { session: of, record }) if of == session => record,
        Ok(Message::Refused { reason, .. }) => {
            tracing::error!(%session, point, reason, "a point does not countersign the manifest");
            return true;
        }
        Ok(
            Message::Countersigned { .. } | Message::Manifest { .. } | Message::Segment { .. } | Message::Wants { .. },
        ) => {
            return false;
        }
        Err(error) => {
            tracing::warn!(point, %error, "its answer");
            return false;
        }
    };
    let by = match Signed::<Countersignature>::parse(record) {
        Ok(by) if by.signer() == node && by.content().manifest == manifest.hash() => by,
        Ok(_) | Err(_) => {
            tracing::error!(%session, point, "a point answered with something else than its countersignature");
            return true;
        }
    };
    let stored = spawn_blocking(move || {
        vault.run(move |archive| {
            let number = archive.head(&session)?.and_then(|head| head.number(&node));
            match number == Some(by.content().point) {
                true => archive.put_countersignature(&by),
                false => Ok(()),
            }
        })
    });
    matches!(stored.await, Ok(Ok(Ok(()))))
}

/// What this point answers when central asks it to countersign.
pub(super) fn countersign(
    archive: &Archive,
    key: &NodeKey,
    session: SessionId,
    from: NodeId,
    record: Bytes,
) -> Message {
    match try_countersign(archive, key, session, from, record) {
        Ok(record) => Message::Countersigned { session, record },
        Err(reason) => {
            tracing::error!(%session, reason, "the manifest is not countersigned");
            Message::refused(session, &reason)
        }
    }
}

fn try_countersign(
    archive: &Archive,
    key: &NodeKey,
    session: SessionId,
    from: NodeId,
    record: Bytes,
) -> Result<Bytes, String> {
    let said = |error: archive::Error| sentence(&error);
    let manifest = Signed::<Manifest>::parse(record).map_err(|error| sentence(&error))?;
    let head = archive.head(&session).map_err(said)?.ok_or("this point knows nothing of that session")?;
    if manifest.signer() != from || head.central != from || manifest.content().session != session {
        return Err("the manifest is not of that session, or not by its central".into());
    }
    let point = head.number(&key.id()).ok_or("this point is none of that session")?;
    let chain = archive.segment_chain(&session, point, key.id()).map_err(said)?;
    if let Some(objection) = Countersignature::objection(manifest.content(), point, chain.len(), chain.last()) {
        return Err(objection);
    }
    archive.put_manifest(&manifest).map_err(said)?;
    let by = Countersignature {
        session,
        point,
        n: manifest.content().n,
        manifest: manifest.hash(),
        segments: chain.len(),
        last: chain.last(),
        wall_ms: unix_ms(),
    };
    let by = Signed::new(by, key);
    archive.put_countersignature(&by).map_err(said)?;
    Ok(by.bytes().clone())
}
