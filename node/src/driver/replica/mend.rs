//! Fetching again what this point's disk has lost of a session, and nothing else.
//!
//! Who may have it is whoever has a part in the session or signed for all of it. The right to fetch is the assignment that
//! whoever looks after the session signs, for itself too; so a giver asks nothing else of who mends than of who copies. What comes is
//! compared with what the points signed, as it lies here, before it is written.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use store::archive::{self, Archive};
use store::id::{GroupId, NodeId, SessionId, TrackId};
use store::inventory::Have;
use store::keys::NodeKey;
use store::receipt::Assignment;
use store::session::Head;
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::keep::{assign, is_order, owners, sort};
use super::learn::{self, Listed};
use crate::driver::Driver;
use crate::engine::replica::pull::{FETCH_GROUPS, Groups};
use crate::engine::rights::Part;
use crate::media::{FetchError, Media};
use crate::mesh::Mesh;
use crate::studio;
use crate::vault::Vault;
use crate::wire::media::FETCH_LEN_MAX;
use crate::wire::replica::Message;

/// What mending works with.
pub(in crate::driver) struct Mender {
    mesh: Mesh,
    media: Media,
    vault: Vault,
    key: NodeKey,
    events: mpsc::Sender<studio::Event>,
}

/// What is lost and was signed for.
struct Wanted {
    head: Head,
    listed: Arc<Listed>,
    groups: Groups,
}

impl Driver {
    pub(in crate::driver) fn mender(&self) -> Mender {
        Mender {
            mesh: self.mesh.clone(),
            media: self.media.clone(),
            vault: self.vault.clone(),
            key: self.identity.node.clone(),
            events: self.studio_events.clone(),
        }
    }
}

impl Mender {
    /// Asks one after the other of those who may have what is lost, and says whether some of it still is.
    pub(in crate::driver) async fn mend(self, session: SessionId) -> bool {
        match self.try_mend(session).await {
            Ok(()) => {}
            Err(why) => tracing::warn!(%session, why, "what this disk lost cannot be fetched yet; it is tried again"),
        }
        let vault = self.vault.clone();
        // What cannot be counted now is asked for again.
        let lost = spawn_blocking(move || vault.archive().lost(&session).map_or(true, |lost| !lost.is_empty())).await;
        lost.unwrap_or(true)
    }

    async fn try_mend(&self, session: SessionId) -> Result<(), String> {
        let vault = self.vault.clone();
        let wanted = spawn_blocking(move || wanted(vault.archive(), session));
        let wanted = wanted.await.map_err(|error| error.to_string())?.map_err(|error| sentence(&error))?;
        let Some(Wanted { head, listed, mut groups }) = wanted else {
            return Err("what is lost was signed by nobody, so nobody can say what it was".to_owned());
        };
        let order = self.order(&head).await?;
        let me = self.key.id();
        let senders = std::iter::once(&head.central).chain(&order.content().senders).filter(|node| **node != me);
        for &node in senders {
            match learn::survey(&self.mesh, &order, node, &groups.keys().copied().collect()).await {
                Ok(has) => self.take(session, node, &listed, &has, &mut groups).await,
                Err(why) => tracing::info!(%session, point = %node.short(), why, "a point does not say what it has"),
            }
            groups.retain(|_, lost| !lost.is_empty());
            if groups.is_empty() {
                tracing::info!(%session, "what this disk had lost of a session is here again");
                return Ok(());
            }
        }
        let left: u64 = groups.values().map(Have::len).sum();
        Err(format!("nobody who can be reached has {left} of the groups"))
    }

    /// The assignment of the session to this point.
    async fn order(&self, head: &Head) -> Result<Signed<Assignment>, String> {
        let (session, me) = (head.id, self.key.id());
        let vault = self.vault.clone();
        let manifest = spawn_blocking(move || vault.archive().last_manifest(&session)).await;
        let manifest = manifest.map_err(|error| error.to_string())?.map_err(|error| sentence(&error))?;
        let manifest = manifest.ok_or_else(|| "the session has no manifest yet".to_owned())?;
        let mut failed = String::new();
        for by in owners(head, manifest.content()) {
            if by == me {
                // It is central, or all before it are gone, or they would have answered; whether others think so too they say.
                let (vault, key) = (self.vault.clone(), self.key.clone());
                let order = spawn_blocking(move || assign(vault.archive(), &key, session, me)).await;
                let order = order.map_err(|error| error.to_string())?.map_err(|error| sentence(&error))?;
                return order.ok_or(failed);
            }
            match self.ask_order(session, by).await {
                Ok(order) => return Ok(order),
                Err(why) => failed = why,
            }
        }
        Err(failed)
    }

    async fn ask_order(&self, session: SessionId, by: NodeId) -> Result<Signed<Assignment>, String> {
        let answer = self.mesh.ask(by, Message::Lacks { session }.encode()).await;
        let answer = answer.map_err(|error| format!("{} is not reached: {}", by.short(), sentence(&error)))?;
        match Message::decode(&answer).map_err(|error| sentence(&error))? {
            Message::Order { record, .. } => {
                let order = Signed::<Assignment>::parse(record).map_err(|error| sentence(&error))?;
                match is_order(&order, session, by, self.key.id()) {
                    true => Ok(order),
                    false => Err(format!("{} answered with another's assignment", by.short())),
                }
            }
            Message::Refused { reason, .. } => Err(reason),
            _ => Err(format!("{} answered something else", by.short())),
        }
    }

    /// Fetches what is wanted of what a point has.
    async fn take(&self, session: SessionId, node: NodeId, listed: &Arc<Listed>, has: &Groups, wanted: &mut Groups) {
        for (track, lost) in wanted.iter_mut() {
            let Some(has) = has.get(track) else { continue };
            let mut there = lost.without(&lost.without(has));
            loop {
                let Some((first, last)) = there.runs().next().map(RangeInclusive::into_inner) else { break };
                let to = last.min(first + FETCH_GROUPS - 1);
                let got = match self.fetch(GroupId { session, track: *track, seq: first }, to, node, listed).await {
                    Ok(got) => got,
                    Err(why) => {
                        tracing::info!(%session, %track, first, to, why, "mending brought nothing");
                        return;
                    }
                };
                let mut asked = Have::new();
                // An answer may end early; what it left out is asked for next, and one of nothing would be for ever.
                let last = got.last().filter(|last| *last < to).unwrap_or(to);
                for seq in first..=last {
                    asked.insert(seq);
                }
                there = there.without(&asked);
                *lost = lost.without(&got);
            }
        }
    }

    /// Fetches some groups, and gives those that are on the disk now.
    async fn fetch(&self, id: GroupId, to: u64, node: NodeId, listed: &Arc<Listed>) -> Result<Have, String> {
        let fetched = self.media.fetch(node, id, to, FETCH_LEN_MAX).await;
        let records = match fetched.and_then(|fetched| sort(fetched, listed, &mut Have::new())) {
            Ok(records) => records,
            Err(FetchError::Wrong(what)) => {
                // The driver ends only with everything else.
                let _ = self.events.send(studio::Event::Forged { node, what: what.clone() }).await;
                return Err(what);
            }
            Err(error) => return Err(sentence(&error)),
        };
        let mut got = Have::new();
        for record in &records {
            got.insert(record.header().seq);
        }
        let vault = self.vault.clone();
        let written = spawn_blocking(move || vault.run(move |archive| archive.put_groups(&records))).await;
        match written {
            Ok(Ok(Ok(_))) => Ok(got),
            Ok(Ok(Err(error))) => Err(sentence(&error)),
            Ok(Err(closed)) => Err(closed.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What is lost of a session and was signed, with what is known of it; `None` if there is no such thing.
fn wanted(archive: &Archive, session: SessionId) -> Result<Option<Wanted>, archive::Error> {
    let Some(head) = archive.head(&session)? else { return Ok(None) };
    let lost = archive.lost(&session)?;
    let mut listed = Listed::new();
    let mut groups = BTreeMap::new();
    for (track, lost) in lost {
        let signed = archive.signed(&head, track.point());
        let mut wanted = Have::new();
        for seq in lost.runs().flatten() {
            if let Some(group) = signed.get(&(track, seq)) {
                listed.insert((track, seq), group.clone());
                wanted.insert(seq);
            }
        }
        groups.insert(track, wanted);
    }
    groups.retain(|_: &TrackId, wanted| !wanted.is_empty());
    Ok((!groups.is_empty()).then_some(Wanted { head, listed: Arc::new(listed), groups }))
}

/// The answer to a point that lost something of a session: an assignment, if it had a part in it or signed for all of it,
/// and if this one is its central or the session was left to it.
pub(super) fn allow(
    archive: &Archive,
    key: &NodeKey,
    session: SessionId,
    from: NodeId,
    succeeds: bool,
) -> Result<Message, archive::Error> {
    let Some(head) = archive.head(&session)? else {
        return Ok(Message::refused(session, "that session is not here"));
    };
    if head.central != key.id() && !succeeds {
        return Ok(Message::refused(session, "this point does not look after that session"));
    }
    let had_part = matches!(Part::of(&head, &from), Part::Point | Part::Central);
    let signed_for = || -> Result<bool, archive::Error> {
        Ok(archive.receipts(&session)?.iter().any(|received| received.receipt.signer() == from))
    };
    if !had_part && !signed_for()? {
        return Ok(Message::refused(session, "this point knows of nothing of that session at yours"));
    }
    Ok(match assign(archive, key, session, from)? {
        Some(order) => Message::Order { session, record: order.bytes().clone() },
        None => Message::refused(session, "that session has no manifest yet"),
    })
}
