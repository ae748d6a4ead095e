//! What of copies is read from the archive and written to it: who holds what, what was assigned, what is signed for.

use std::time::Duration;

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{Hash, NodeId, SessionId};
use store::inventory::Have;
use store::keys::NodeKey;
use store::manifest::Manifest;
use store::receipt::{Assignment, Receipt, SENDERS_MAX};
use store::record::Record;
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Told;
use super::learn::{self, Listed};
use crate::driver::unix_ms;
use crate::engine::replica::{care, pull};
use crate::media::{FetchError, Fetched};
use crate::vault::Vault;

/// Whether this is an assignment of a session by `by` to `holder`.
pub(super) fn is_order(order: &Signed<Assignment>, session: SessionId, by: NodeId, holder: NodeId) -> bool {
    let Assignment { session: of, holder: to, .. } = *order.content();
    (of, to, order.signer()) == (session, holder, by)
}

/// The records among what was fetched that are what was signed; who gave anything else is wrong in all of it.
pub(in crate::driver) fn sort(
    fetched: Vec<Fetched>,
    listed: &Listed,
    absent: &mut Have,
) -> Result<Vec<Record>, FetchError> {
    let mut records = Vec::new();
    for fetched in fetched {
        match fetched {
            Fetched::Missing(seq) => drop(absent.insert(seq)),
            Fetched::Record(record) => {
                let id = record.id();
                let wrong = match listed.get(&(id.track, id.seq)) {
                    Some(group) => group.contradicts(&record),
                    None => Some("no group that was signed"),
                };
                if let Some(what) = wrong {
                    return Err(FetchError::Wrong(format!("group {id} with {what}")));
                }
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// What is known of a session that is over and of who holds it. Every node that has its manifest is told, as each may come
/// to look after it.
pub(super) fn tended(archive: &Archive, session: &SessionId) -> Result<Vec<Told>, archive::Error> {
    let Some(head) = archive.head(session)?.filter(|head| head.state == State::Ended) else {
        return Ok(Vec::new());
    };
    let Some(signed) = archive.last_manifest(session)? else { return Ok(Vec::new()) };
    let owners = owners(&head, signed.content());
    let mut told = vec![Told::Care(care::Input::Closed { session: *session, manifest: signed.hash(), owners })];
    for received in archive.receipts(session)? {
        let (node, manifest) = (received.receipt.signer(), received.receipt.content().manifest);
        let age = Duration::from_millis(unix_ms().saturating_sub(received.wall_ms));
        told.push(Told::Care(care::Input::Receipt { session: *session, manifest, node, age }));
    }
    Ok(told)
}

/// What there is to go on with in a session of another central: room that is taken, and a copy that was not finished.
pub(super) fn held(archive: &Archive, me: &NodeId, head: &Head) -> Result<Vec<Told>, archive::Error> {
    let session = head.id;
    let mut told = Vec::new();
    if head.number(me).is_none() {
        let bytes: u64 = archive.totals(&session)?.values().map(|track| track.bytes).sum();
        let bytes = bytes.saturating_add(learn::record_max(bytes));
        told.push(Told::Pulls(pull::Input::Holding { session, bytes }));
    }
    // Who only takes part has no journal.
    let copies = head.state == State::Ended && !archive.journal(&session, 0)?.is_empty();
    if copies && !archive.holders(&session)?.contains(me) {
        told.push(Told::Unfinished { session, central: head.central });
    }
    Ok(told)
}

/// Central, then who took part, in the order of the head. By the manifest alone, so that all who have it say the same.
pub(super) fn owners(head: &Head, manifest: &Manifest) -> Vec<NodeId> {
    let signed = |point| manifest.chain(point).is_some_and(|end| end.segments > 0);
    let points = head.present().filter(|member| signed(member.number)).map(|member| member.node);
    std::iter::once(head.central).chain(points.filter(|node| *node != head.central)).collect()
}

/// What a point does that has come to look after a session of another central: it makes a copy of its own, if it has not all of
/// it, or not any more.
pub(super) fn succeed(archive: &Archive, key: &NodeKey, session: SessionId) -> Result<Vec<Told>, archive::Error> {
    let me = key.id();
    let Some(head) = archive.head(&session)?.filter(|head| head.central != me) else { return Ok(Vec::new()) };
    let Some(manifest) = archive.last_manifest(&session)?.map(|manifest| manifest.hash()) else {
        return Ok(Vec::new());
    };
    if receipt(archive, key, session, manifest)?.is_some() {
        let input = care::Input::Receipt { session, manifest, node: me, age: Duration::ZERO };
        return Ok(vec![Told::Care(input)]);
    }
    let taken = Told::Care(care::Input::Answered { session, node: me, answer: care::Answer::Taken });
    let took_part = head.number(&me).is_some();
    let order = assign(archive, key, session, me)?;
    // Nobody waits for the answer.
    let own = order.map(|order| Told::Offered { order, took_part, reply: oneshot::channel().0 });
    Ok(std::iter::once(taken).chain(own).collect())
}

fn sum(manifest: &Manifest) -> (u64, u64) {
    let tracks = || manifest.chains.iter().flat_map(|end| &end.tracks);
    (tracks().map(|track| track.groups).sum(), tracks().map(|track| track.bytes).sum())
}

/// The assignment of a session to a node, signed anew; `None` if there is nothing to hold.
pub(super) fn assign(
    archive: &Archive,
    key: &NodeKey,
    session: SessionId,
    holder: NodeId,
) -> Result<Option<Signed<Assignment>>, archive::Error> {
    let (Some(head), Some(manifest)) = (archive.head(&session)?, archive.last_manifest(&session)?) else {
        return Ok(None);
    };
    let (_, bytes) = sum(manifest.content());
    let holders = archive.holders(&session)?;
    let mut senders: Vec<NodeId> = owners(&head, manifest.content());
    senders.extend(holders.into_iter().filter(|node| head.number(node).is_none()));
    senders.retain(|node| *node != holder);
    senders.truncate(SENDERS_MAX);
    let manifest = manifest.hash();
    Ok(Some(Signed::new(Assignment { session, manifest, holder, bytes, senders, wall_ms: unix_ms() }, key)))
}

/// This node's receipt for a session, if it holds everything that this manifest names and it is the last.
pub(in crate::driver) fn receipt(
    archive: &Archive,
    key: &NodeKey,
    session: SessionId,
    manifest: Hash,
) -> Result<Option<Signed<Receipt>>, archive::Error> {
    let last = archive.last_manifest(&session)?.filter(|last| last.hash() == manifest);
    let (Some(head), Some(last)) = (archive.head(&session)?, last) else { return Ok(None) };
    if !archive.draw_manifest(&head, 0)?.covers(last.content()) {
        return Ok(None);
    }
    let (groups, bytes) = sum(last.content());
    Ok(Some(Signed::new(Receipt { session, manifest, groups, bytes, wall_ms: unix_ms() }, key)))
}

/// Keeps a receipt, if it is the node's own and for the last manifest.
pub(super) async fn keep_receipt(
    vault: Vault,
    node: NodeId,
    session: SessionId,
    record: Bytes,
) -> Option<Signed<Receipt>> {
    let receipt = Signed::<Receipt>::parse(record).ok()?;
    if receipt.signer() != node || receipt.content().session != session {
        return None;
    }
    let kept = receipt.clone();
    let stored = spawn_blocking(move || {
        vault.run(move |archive| {
            let last = archive.last_manifest(&session)?;
            let good = last.is_some_and(|last| last.hash() == kept.content().manifest);
            if good { archive.put_receipt(&kept, unix_ms()).map(|()| true) } else { Ok(false) }
        })
    });
    match stored.await {
        Ok(Ok(Ok(true))) => Some(receipt),
        Ok(Ok(Err(error))) => {
            tracing::error!(%session, error = sentence(&error), "a receipt cannot be kept");
            None
        }
        Ok(Ok(Ok(false)) | Err(_)) | Err(_) => None,
    }
}
