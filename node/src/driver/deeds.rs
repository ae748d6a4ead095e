//! Carrying out what the engine wants done. One function an output, each as short as the part it calls allows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use store::access::{Deed, What, Who};
use store::archive::{self, Archive};
use store::id::{GroupId, NodeId, SessionId, TrackId};
use store::journal::Event;
use store::keys::{Epoch, Wrap};
use store::session::{Head, State};
use store::verify::sentence;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, spawn_blocking};

use super::gate::logged;
use super::{Driver, Operator, unix_ms};
use crate::control::{Fault, Response};
use crate::engine::manifest as closing;
use crate::engine::rights;
use crate::engine::session::{Input, Output, Own, Refusal, Ticket, Wraps};
use crate::media::{self, FetchError, Fetched};
use crate::recall;
use crate::studio;
use crate::unwritten::Unwritten;
use crate::wire::control::Message;

impl Driver {
    pub(super) fn carry_out(&mut self, output: Output) {
        match output {
            Output::Found { head, wraps } => self.found(head, wraps.into_iter().collect()),
            Output::Admit { head, wraps, used } => self.admit(head, wraps, used),
            Output::Rekey { session, epoch, points } => self.rekey(session, epoch, &points),
            Output::Renew { head, wraps } => self.renew(head, wraps),
            Output::Expel { session, node } => self.expel(session, node),
            Output::Update { head } => self.update(head),
            Output::Journal { session, at, event } => self.journal(session, at, event),
            Output::Open { head } => self.open(head),
            Output::Close { session } => self.close(session),
            Output::Dial { node, addresses, port } => {
                self.dialled.insert(node, (addresses.clone(), port));
                self.dial(node, addresses, port);
            }
            Output::HangUp { node } => {
                self.dialled.remove(&node);
                self.media.hang_up(node);
            }
            Output::Publish { session, tracks, first_seq } => self.publish(session, tracks, first_seq),
            Output::Unpublish { session } => self.unpublish(session),
            Output::Subscribe { session, tracks, .. } => {
                for (track, priority) in self.worth_taking(tracks) {
                    self.media.subscribe(session, track, priority);
                }
            }
            Output::Clock { session, line } => self.studio.clock(session, line),
            Output::Fetch { session, origin, track, from, to, max_bytes } => {
                self.fetch(origin, GroupId { session, track, seq: from }, to, max_bytes);
            }
            Output::Ask { node, message } => self.ask(node, &message),
            Output::Reply { ticket, message } => self.reply(ticket, &message),
            Output::Tell { ticket, outcome } => self.told(ticket, outcome),
        }
    }

    /// Queues work for the vault; its answer, if any, comes back as an input.
    pub(super) fn store(&self, work: impl FnOnce(&Archive) -> Option<Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        let queued = block_in_place(|| {
            self.vault.then(move |archive| {
                if let Some(input) = work(archive) {
                    // The driver is gone when this fails; then nobody waits.
                    let _ = inputs.blocking_send(input);
                }
            })
        });
        if queued.is_err() {
            tracing::warn!("nothing is written any more, as the node is stopping");
        }
    }

    fn found(&mut self, head: Head, wraps: Vec<(NodeId, Wrap)>) {
        let (session, epoch, number) = (head.id, head.epoch(), head.number(&self.me));
        self.store(move |archive| {
            let written = archive
                .put_wraps(&session, epoch, &wraps)
                // The head last: a session that is listed can be opened.
                .and_then(|()| archive.put_head(&head))
                .and_then(|()| {
                    number.map_or(Ok(Own::default()), |number| recall::reserve(archive, &session, number, 0))
                });
            Some(Input::Persisted { session, epoch, result: written.map_err(|error| sentence(&error)) })
        });
    }

    fn admit(&mut self, head: Head, wraps: BTreeMap<Epoch, Wraps>, used: u64) {
        let (session, epoch) = (head.id, head.epoch());
        let Some(number) = head.number(&self.me) else { return };
        let keys = match self.open_keys(&head, &wraps) {
            Ok(keys) => keys,
            Err(reason) => return self.tell(Input::Persisted { session, epoch, result: Err(reason) }),
        };
        self.keys.insert(session, keys);
        self.store(move |archive| {
            let result = match archive.head(&session) {
                Ok(Some(known)) if known.state == State::Ended => Err("that session has ended".to_owned()),
                Ok(_) => put_keys(archive, &session, wraps)
                    // The head last: a session that is listed can be opened.
                    .and_then(|()| archive.put_head(&head))
                    // Once more for a later epoch than needed; numbers there are enough.
                    .and_then(|()| recall::join(archive, &head, number, used, unix_ms()))
                    .map_err(|error| sentence(&error)),
                Err(error) => Err(sentence(&error)),
            };
            Some(Input::Persisted { session, epoch, result })
        });
    }

    fn update(&mut self, head: Head) {
        let (known, unwritten) = (head.clone(), Arc::clone(&self.unwritten));
        self.store(move |archive| {
            write(&unwritten, archive, |unwritten| unwritten.update(head));
            None
        });
        self.attest(&known);
    }

    /// Tries again what the disk did not take.
    pub(super) fn write_again(&self) {
        if !lock(&self.unwritten).is_empty() {
            let unwritten = Arc::clone(&self.unwritten);
            self.store(move |archive| {
                write(&unwritten, archive, |_| {});
                None
            });
        }
    }

    fn journal(&mut self, session: SessionId, at: u64, event: Event) {
        match &event {
            // What people write is for the record alone.
            Event::Noted(note) => tracing::info!(%session, at_ms = at / 1_000, note = note.kind.name(), "journal"),
            event => tracing::info!(%session, at_ms = at / 1_000, ?event, "journal"),
        }
        let chain = self.chains.entry(session).or_insert_with(|| store::journal::Chain::new(session, self.me));
        let entry = chain.append(&self.identity.node, at, unix_ms(), event);
        // What is told of a session that is over belongs into a further manifest.
        self.close_record(closing::Input::Changed { session });
        let unwritten = Arc::clone(&self.unwritten);
        self.store(move |archive| {
            write(&unwritten, archive, |unwritten| {
                if !unwritten.journal(entry) {
                    tracing::error!(%session, "more entries than are kept for a disk without space: the journal ends here");
                }
            });
            None
        });
    }

    fn open(&mut self, head: Head) {
        self.attest(&head);
        let points = head.points.iter().map(|point| (point.number, point.node)).collect();
        let removed = head.points.iter().map(|point| point.number).filter(|number| head.was_removed(*number)).collect();
        self.media.open_session(media::Session::new(head.id, points, head.central).without(removed));
        let Some(keys) = self.keys.get(&head.id).cloned() else {
            // Its groups can still be served and fetched; nothing of it can be shown or published.
            tracing::warn!(session = %head.id, "the key of this session is not here");
            return;
        };
        if head.state == State::Open {
            self.shown = None;
            self.access.done(Who::Node {}, Deed::Open, What::Session { session: head.id });
        }
        let chairs = head.central == self.me;
        self.studio.open(head, keys, chairs);
    }

    fn close(&mut self, session: SessionId) {
        self.keep_shown(session);
        block_in_place(|| self.studio.close(session));
        self.keys.remove(&session);
        self.chains.remove(&session);
        let media = self.media.clone();
        tokio::spawn(async move { media.close_session(session).await });
    }

    /// Keeps what was shown of a session beyond its end, for those who ask afterwards.
    fn keep_shown(&mut self, session: SessionId) {
        let shown = self.studio.shown(session);
        let newer = self.shown.as_ref().is_none_or(|(kept, _)| *kept <= session);
        if newer && !shown.is_empty() {
            self.shown = Some((session, shown));
        }
    }

    /// Connects for media to where the invitation says, else to where the mesh found the point.
    pub(super) fn dial(&self, node: NodeId, addresses: Vec<SocketAddr>, port: u16) {
        let mut all = addresses;
        for at in self.media_at.get(&node).into_iter().flatten() {
            all.extend([*at, SocketAddr::new(at.ip(), port)]);
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|at| seen.insert(*at));
        self.media.dial(node, all);
    }

    fn publish(&mut self, session: SessionId, tracks: Vec<TrackId>, first_seq: u64) {
        self.media.announce(session, tracks);
        let reserved = first_seq..first_seq.saturating_add(studio::RESERVE);
        if let Err(error) = block_in_place(|| self.studio.publish(session, reserved)) {
            tracing::error!(error = &error as &dyn std::error::Error, "the room sends nothing; it will be tried again");
        }
    }

    fn unpublish(&mut self, session: SessionId) {
        let number = self.engine_number(session);
        let stopped = self.studio.unpublish(session);
        let (vault, inputs) = (self.vault.clone(), self.inputs.clone());
        spawn_blocking(move || {
            if let Some(stopped) = stopped {
                stopped.finish();
            }
            // In turn, so after the last groups.
            let own = vault.run(move |archive| match number {
                Some(number) => recall::own(archive, &session, number),
                None => Ok(Own::default()),
            });
            let own = match own {
                Ok(Ok(own)) => own,
                Ok(Err(error)) => {
                    tracing::error!(%session, %error, "where our tracks end cannot be read");
                    Own::default()
                }
                Err(_) => return,
            };
            let _ = inputs.blocking_send(Input::Closed { session, own });
        });
    }

    fn engine_number(&self, session: SessionId) -> Option<store::id::PointNumber> {
        self.vault.archive().head(&session).ok().flatten()?.number(&self.me)
    }

    fn fetch(&self, origin: NodeId, from: GroupId, to: u64, max_bytes: u64) {
        let (media, vault, events) = (self.media.clone(), self.vault.clone(), self.studio_events.clone());
        tokio::spawn(async move {
            let session = from.session;
            let missing = match media.fetch(origin, from, to, max_bytes).await {
                Ok(answer) => keep(answer, origin, from, to, &vault, &events).await,
                Err(error) => {
                    tracing::info!(group = %from, to, %error, "fetching brought nothing");
                    if let FetchError::Wrong(what) = error {
                        let _ = events.send(studio::Event::Forged { node: origin, what }).await;
                    }
                    None
                }
            };
            let _ = events.send(studio::Event::Fetched { session, origin, missing }).await;
        });
    }

    fn ask(&self, node: NodeId, message: &Message) {
        let session = message.session();
        let (mesh, inputs, bytes) = (self.mesh.clone(), self.inputs.clone(), message.encode());
        tokio::spawn(async move {
            let answer = match bytes {
                Ok(bytes) => ask(&mesh, node, bytes.into()).await,
                Err(error) => {
                    tracing::error!(%session, %error, "a message cannot be sent");
                    None
                }
            };
            let answer = answer.filter(|answer| answer.session() == session);
            let _ = inputs.send(Input::Answered { node, session, answer }).await;
        });
    }

    pub(super) fn reply(&mut self, ticket: Ticket, message: &Message) {
        let Some(reply) = self.replies.remove(&ticket) else { return };
        match message.encode() {
            // The asker may have given up.
            Ok(bytes) => drop(reply.send(bytes.into())),
            Err(error) => tracing::error!(%error, "an answer cannot be sent"),
        }
    }

    fn told(&mut self, ticket: Ticket, outcome: Result<SessionId, Refusal>) {
        let Some(Operator { who, deed, reply }) = self.operators.remove(&ticket) else { return };
        // What became of an account's wish the page writes down itself.
        let who = (!matches!(who, rights::Who::Account { .. })).then(|| logged(&who));
        match outcome {
            Ok(session) => {
                if let Some(who) = who {
                    self.access.done(who, deed, What::Session { session });
                }
                self.answer_session(session, reply);
            }
            Err(refusal) => {
                if let Some(who) = who {
                    self.access.refused(who, deed, What::Nothing {}, &refusal.to_string());
                }
                let fault = match refusal {
                    Refusal::NotRunning | Refusal::Other(_) | Refusal::Unknown(_) | Refusal::NotThere(_) => {
                        Fault::Missing
                    }
                    Refusal::Storage(_) => Fault::Failed,
                    Refusal::Busy(_)
                    | Refusal::NoRecovery
                    | Refusal::Central
                    | Refusal::Epochs(_)
                    | Refusal::Alone
                    | Refusal::NoKey(_)
                    | Refusal::TooMany { .. }
                    | Refusal::Text(_)
                    | Refusal::NotCentral(_)
                    | Refusal::Ending(_) => Fault::Refused,
                };
                let _ = reply.send(Response::Not { fault, reason: refusal.to_string() });
            }
        }
    }

    /// Describes a session to a caller, after everything queued for the vault so far.
    pub(super) fn answer_session(&self, session: SessionId, reply: oneshot::Sender<Response>) {
        let running = self.running();
        let queued = block_in_place(|| {
            self.vault.then(move |archive| {
                let _ = reply.send(super::answer::session(archive, &session, &running));
            })
        });
        if queued.is_err() {
            tracing::debug!("a caller gets no answer, as the node is stopping");
        }
    }
}

async fn ask(mesh: &crate::mesh::Mesh, node: NodeId, message: Bytes) -> Option<Message> {
    let answer = match mesh.ask(node, message).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(point = %node.short(), %error, "asking a point");
            return None;
        }
    };
    Message::decode(&answer).inspect_err(|error| tracing::warn!(point = %node.short(), %error, "its answer")).ok()
}

/// Says more, and writes what the disk takes of all that was said. Only the vault's thread does this, so it is done in order.
fn write(unwritten: &Mutex<Unwritten>, archive: &Archive, say: impl FnOnce(&mut Unwritten)) {
    let mut unwritten = lock(unwritten);
    let had_trouble = !unwritten.is_empty();
    say(&mut unwritten);
    match unwritten.write(archive).1 {
        Ok(()) if had_trouble => tracing::info!("the disk has taken what it had not of journals and heads"),
        Ok(()) => {}
        Err(error) if had_trouble => tracing::debug!(%error, "journals and heads are still not written"),
        Err(error) => {
            tracing::error!(%error, "a journal entry or a session's head could not be written; it is tried again");
        }
    }
}

fn lock(unwritten: &Mutex<Unwritten>) -> MutexGuard<'_, Unwritten> {
    // What was written is taken out one by one, so a panic leaves what is left.
    unwritten.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the keys of a session as they were given to us.
fn put_keys(archive: &Archive, session: &SessionId, wraps: BTreeMap<Epoch, Wraps>) -> Result<(), archive::Error> {
    wraps.into_iter().try_for_each(|(epoch, wraps)| {
        let wraps: Vec<_> = wraps.into_iter().collect();
        archive.put_wraps(session, epoch, &wraps)
    })
}

/// Stores what a fetch brought and gives what its holder has not got; `None` if it sent anything else.
async fn keep(
    answer: Vec<Fetched>,
    origin: NodeId,
    from: GroupId,
    to: u64,
    vault: &crate::vault::Vault,
    events: &tokio::sync::mpsc::Sender<studio::Event>,
) -> Option<Vec<u64>> {
    let mut missing = Vec::new();
    for fetched in answer {
        match fetched {
            Fetched::Missing(seq) => missing.push(seq),
            Fetched::Record(record) => {
                let header = record.header();
                let asked = header.point == origin
                    && (header.session, header.track) == (from.session, from.track)
                    && (from.seq..=to).contains(&header.seq);
                if !asked {
                    let what = format!("a group nobody asked it for: {}", header.id());
                    let _ = events.send(studio::Event::Forged { node: origin, what }).await;
                    return None;
                }
                studio::keep(vault.clone(), record, events.clone()).await;
            }
        }
    }
    // In turn: when this is done, every group above was stored and told.
    let vault = vault.clone();
    let stored = spawn_blocking(move || vault.run(|_| ())).await;
    matches!(stored, Ok(Ok(()))).then_some(missing)
}
