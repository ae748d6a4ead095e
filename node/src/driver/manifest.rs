//! Closing a record: central signs what a session consists of, and every point countersigns its own part or says why not.

use std::collections::BTreeSet;
use std::time::Instant;

use store::archive;
use store::id::{NodeId, SessionId};
use store::keys::NodeKey;
use store::manifest::Manifest;
use store::signed::Signed;
use store::verify::sentence;
use tokio::task::spawn_blocking;

use super::{Driver, unix_ms};
use crate::attest::closing::{self, Heard};
use crate::engine::manifest::{Input, Output};
use crate::vault::{Closed, Vault};
use crate::wire::evidence::Message;

impl Driver {
    /// Tells the part that knows when, and carries out what it wants.
    pub(super) fn close_record(&mut self, input: Input) {
        if let Input::Signed { session, open: Some(_) } = &input {
            self.tend(*session);
        }
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
    let drawn = match closing::draw(vault.archive(), session, all, unix_ms()) {
        Ok(Some(drawn)) => drawn,
        Ok(None) => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error)),
    };
    let hash = match &drawn.same {
        Some(last) => last.hash(),
        None => match Signed::sound(drawn.manifest.clone(), key) {
            Ok(signed) => {
                let (hash, n) = (signed.hash(), signed.content().n);
                if let Err(error) = vault.run(move |archive| archive.put_manifest(&signed))? {
                    return Ok(Err(error));
                }
                tracing::info!(%session, n, "the session's manifest is signed");
                hash
            }
            Err(error) => {
                tracing::error!(%session, error = sentence(&error), "what is new in the session is in no manifest");
                return Ok(Ok(Some(BTreeSet::new())));
            }
        },
    };
    Ok(drawn.open(vault.archive(), hash).map(Some))
}

/// What a point answered; whether it was an answer. Its countersignature is stored by then.
async fn heard(vault: Vault, node: NodeId, manifest: Signed<Manifest>, answer: &[u8]) -> bool {
    let by = match closing::heard(node, &manifest, answer) {
        Heard::Countersigned(by) => by,
        Heard::Refused(_) => return true,
        Heard::Nothing => return false,
    };
    let stored = spawn_blocking(move || vault.run(move |archive| closing::keep(archive, &by)));
    matches!(stored.await, Ok(Ok(Ok(()))))
}
