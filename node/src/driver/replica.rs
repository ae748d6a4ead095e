//! Copies: offering sessions that are over to those who should hold them, and holding what was offered to us.
//!
//! The parts that decide are in `engine::replica`. Here their wishes are carried out, each in a task of its own whose outcome
//! comes back to the loop. What a holder is sent is looked at as if by a stranger: the manifest must be the one that was
//! assigned, everything else must be what the manifest or a signed segment names, and no group is written before its hash
//! was compared.
//!
//! Central looks after a session. Every other point that has its manifest is told what central is told, so that the next of
//! those who took part can go on when central is gone; it first makes sure that it holds all of it itself.

pub(super) mod give;
pub(super) mod keep;
pub(super) mod learn;
mod mend;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::access;
use store::id::{GroupId, Hash, NodeId, SessionId};
use store::inventory::Have;
use store::keys::NodeKey;
use store::placement::COPIES;
use store::receipt::Assignment;
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{block_in_place, spawn_blocking};

use super::{Driver, INPUTS_MAX, unix_ms};
use crate::engine::disk::Space;
use crate::engine::replica::Dice;
use crate::engine::replica::care::{self, Answer, Care};
use crate::engine::replica::pull::{self, End, Pulls};
use crate::engine::rights::{Deed, Members, Part, Who, may};
use crate::media::FetchError;
use crate::studio;
use crate::wire::media::FETCH_LEN_MAX;
use crate::wire::replica::Message;
use keep::{assign, held, is_order, keep_receipt, receipt, sort, succeed, tended};
use learn::{Learnt, Listed};

/// Questions about copies answered at once. Beyond, they are refused, and come again.
const GIVES_MAX: usize = 16;
/// How long copying pauses after a live group was left out for a slow line.
const STRAIN: Duration = Duration::from_secs(10);
/// How often sessions are looked for that ended since, in seconds.
const LIST_SECONDS: u64 = 600;
/// How often a point looks whether it has all of the sessions that were left to it; a multiple of [`LIST_SECONDS`].
const SUCCEED_SECONDS: u64 = 3600;
/// How often parts of records are forgotten that nobody asked for any more, in seconds.
const RUNS_SECONDS: u64 = 30;
const GIGABYTE: u64 = 1_000_000_000;

/// What tasks tell the loop.
#[derive(Debug)]
pub(super) enum Told {
    Care(care::Input),
    Pulls(pull::Input),
    /// Somebody offers what we do not hold wholly.
    Offered {
        order: Signed<Assignment>,
        took_part: bool,
        reply: oneshot::Sender<Bytes>,
    },
    /// An earlier run began to copy a session of this central and did not finish.
    Unfinished {
        session: SessionId,
        central: NodeId,
    },
    /// The record of a session came, or did not.
    Learnt {
        session: SessionId,
        learnt: Option<Learnt>,
    },
}

/// What the loop knows of copies.
pub(super) struct Copying {
    pub(super) care: Care,
    pub(super) pulls: Pulls,
    told: mpsc::Sender<Told>,
    /// Offers that wait for an answer.
    offers: BTreeMap<(SessionId, NodeId), oneshot::Sender<Bytes>>,
    /// The last assignment of what is being copied, and what its segments list.
    orders: BTreeMap<SessionId, Signed<Assignment>>,
    listed: BTreeMap<SessionId, Arc<Listed>>,
    /// The last manifests that the part which looks after copies was told of.
    known: BTreeMap<SessionId, Hash>,
    /// Parts of records that were given lately.
    pub(super) runs: Arc<give::Runs>,
    /// What earlier runs did not finish, and whom to remind of it.
    unfinished: BTreeMap<SessionId, NodeId>,
    gives: Arc<Semaphore>,
    /// Until when live media needs the line for itself.
    strained: Option<Instant>,
}

impl Copying {
    /// For the node with this key; where outcomes come out.
    pub(super) fn new(key: &NodeKey) -> (Copying, mpsc::Receiver<Told>) {
        let (told, from_tasks) = mpsc::channel(INPUTS_MAX);
        let me = key.id();
        let dice = Dice::new(u64::from_be_bytes(*me.as_bytes().first_chunk().expect("a node's name has 32 bytes")));
        let copying = Copying {
            care: Care::new(me, COPIES, dice),
            pulls: Pulls::new(me, dice),
            told,
            offers: BTreeMap::new(),
            orders: BTreeMap::new(),
            listed: BTreeMap::new(),
            known: BTreeMap::new(),
            runs: Arc::default(),
            unfinished: BTreeMap::new(),
            gives: Arc::new(Semaphore::new(GIVES_MAX)),
            strained: None,
        };
        (copying, from_tasks)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.care.deadline(), self.pulls.deadline(), self.strained].into_iter().flatten().min()
    }
}

/// Tells the loop what was read of a session's copies.
fn tell(told: &mpsc::Sender<Told>, session: SessionId, read: Result<Vec<Told>, store::archive::Error>) {
    match read {
        // The driver is gone when this fails.
        Ok(inputs) => inputs.into_iter().for_each(|input| drop(told.blocking_send(input))),
        Err(error) => tracing::error!(%session, %error, "who holds this session cannot be read"),
    }
}

impl Driver {
    /// Takes up what earlier runs left: the sessions to look after, and those that are held for others.
    pub(super) fn recall_copies(&mut self) {
        self.mesh_of_copies();
        let bytes = u64::from(self.config.archive.offer_gb) * GIGABYTE;
        self.pulled(pull::Input::Offer { bytes });
        let (vault, told, me) = (self.vault.clone(), self.copying.told.clone(), self.me);
        spawn_blocking(move || {
            let archive = vault.archive();
            let heads = match archive.sessions() {
                Ok(sessions) => sessions.heads,
                Err(error) => return tracing::error!(%error, "which sessions have copies cannot be read"),
            };
            for head in heads {
                let theirs = if head.central == me { Ok(Vec::new()) } else { held(archive, &me, &head) };
                tell(&told, head.id, tended(archive, &head.id));
                tell(&told, head.id, theirs);
            }
        });
    }

    /// Once in a while: takes up sessions that ended since, and those that were left to this point.
    pub(super) fn copies_look(&mut self) {
        if self.looks.is_multiple_of(RUNS_SECONDS) {
            self.copying.runs.forget(Instant::now());
        }
        let (lists, succeeds) = (self.looks.is_multiple_of(LIST_SECONDS), self.looks.is_multiple_of(SUCCEED_SECONDS));
        if !lists {
            return;
        }
        let (now, known) = (Instant::now(), self.copying.known.clone());
        let mine = known.keys().filter(|session| succeeds && self.copying.care.is_turn_of(now, session, &self.me));
        let mine: Vec<SessionId> = mine.copied().collect();
        let (vault, told, key) = (self.vault.clone(), self.copying.told.clone(), self.identity.node.clone());
        spawn_blocking(move || {
            let archive = vault.archive();
            let sessions = archive.sessions().map(|sessions| sessions.heads).unwrap_or_default();
            for session in sessions.into_iter().map(|head| head.id) {
                match archive.last_manifest(&session) {
                    Ok(last) if last.as_ref().map(Signed::hash).as_ref() == known.get(&session) => {}
                    Ok(_) => tell(&told, session, tended(archive, &session)),
                    Err(error) => tell(&told, session, Err(error)),
                }
            }
            mine.into_iter().for_each(|session| tell(&told, session, succeed(archive, &key, session)));
        });
    }

    /// A manifest was signed: the session is over, and somebody should hold copies.
    pub(super) fn tend(&self, session: SessionId) {
        let (vault, told) = (self.vault.clone(), self.copying.told.clone());
        spawn_blocking(move || tell(&told, session, tended(vault.archive(), &session)));
    }

    /// The points of the mesh, as placement sees them.
    pub(super) fn mesh_of_copies(&mut self) {
        let holds = |members: &Members, node, part| {
            may(members, &Who::Node(node), Deed::Fetch { part, assigned: true }).is_ok()
        };
        let node = |point: &store::roster::Point| {
            let (holds, holds_own) =
                (holds(&self.members, point.node, Part::Outside), holds(&self.members, point.node, Part::Point));
            (point.node, care::Node { zone: point.zone.clone(), holds, holds_own })
        };
        let nodes = self.roster.points().iter().map(node).collect();
        self.cared(care::Input::Mesh { nodes });
    }

    /// A point came or went.
    pub(super) fn copies_reach(&mut self, node: NodeId, up: bool) {
        let (care, pull) = match up {
            true => (care::Input::Up { node }, pull::Input::Up { node }),
            false => (care::Input::Down { node }, pull::Input::Down { node }),
        };
        self.cared(care);
        self.pulled(pull);
        if up {
            let theirs = self.copying.unfinished.iter().filter(|(_, central)| **central == node);
            theirs.for_each(|(session, _)| self.remind(*session, node));
        }
    }

    /// Asks central to offer again what an earlier run did not finish. It may not have noticed that we were gone.
    fn remind(&self, session: SessionId, central: NodeId) {
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            if let Err(error) = mesh.ask(central, Message::Resumes { session }.encode()).await {
                // It reminds us, within the hour.
                tracing::info!(%session, %error, "central does not hear that this point goes on copying");
            }
        });
    }

    pub(super) fn copies_tick(&mut self) {
        if self.copying.strained.is_some_and(|until| until <= Instant::now()) {
            self.copying.strained = None;
            let strained = self.is_strained();
            self.pulled(pull::Input::Strained { strained });
        }
        self.cared(care::Input::Tick);
        self.pulled(pull::Input::Tick);
    }

    /// Whether copies wait: for the line, or for the disk.
    pub(super) fn is_strained(&self) -> bool {
        self.copying.strained.is_some() || self.disk.space() >= Space::Short
    }

    /// A live group was left out for a slow line: copies wait.
    pub(super) fn copies_yield(&mut self) {
        self.copying.strained = Some(Instant::now() + STRAIN);
        self.pulled(pull::Input::Strained { strained: true });
    }

    /// A task has an outcome.
    pub(super) fn told_of_copies(&mut self, told: Told) {
        match told {
            Told::Care(input) => {
                if let care::Input::Closed { session, manifest, .. } = &input {
                    self.copying.known.insert(*session, *manifest);
                }
                self.cared(input);
            }
            Told::Pulls(input) => self.pulled(input),
            Told::Offered { order, took_part, reply } => {
                let Assignment { session, manifest, bytes, ref senders, .. } = *order.content();
                let (from, senders) = (order.signer(), senders.clone());
                if !self.disk.space().takes_copy(took_part) && !self.copying.pulls.wants(&session) {
                    // The asker may have given up.
                    let _ = reply.send(Message::refused(session, "the disk of this point is nearly full").encode());
                    return;
                }
                let bytes = bytes.saturating_add(learn::record_max(bytes));
                self.copying.unfinished.remove(&session);
                self.copying.offers.insert((session, from), reply);
                self.copying.orders.insert(session, order);
                self.pulled(pull::Input::Offered { session, from, manifest, bytes, senders, took_part });
            }
            Told::Unfinished { session, central } => {
                self.copying.unfinished.insert(session, central);
                self.remind(session, central);
            }
            Told::Learnt { session, learnt } => {
                let missing = learnt.map(|learnt| {
                    self.copying.listed.insert(session, Arc::new(learnt.listed));
                    learnt.missing
                });
                self.pulled(pull::Input::Learnt { session, missing });
            }
        }
    }

    fn cared(&mut self, input: care::Input) {
        self.copying.care.handle(Instant::now(), input);
        while let Some(care::Output::Offer { session, node }) = self.copying.care.poll() {
            self.offer(session, node);
        }
    }

    pub(super) fn pulled(&mut self, input: pull::Input) {
        self.copying.pulls.handle(Instant::now(), input);
        while let Some(output) = self.copying.pulls.poll() {
            match output {
                pull::Output::Answer { session, to, taken } => self.answer_offer(session, to, taken),
                pull::Output::Learn { session, from } => self.learn(session, from),
                pull::Output::Survey { session, node } => self.survey(session, node),
                pull::Output::Fetch { session, node, track, groups } => {
                    let (from, to) = groups.into_inner();
                    self.fetch_copies(node, GroupId { session, track, seq: from }, to);
                }
                pull::Output::Sign { session, to } => self.sign_for(session, to),
            }
        }
        // What was signed in a long session takes tens of megabytes, so it is known only while it is copied.
        let Copying { pulls, orders, listed, .. } = &mut self.copying;
        orders.retain(|session, _| pulls.wants(session));
        listed.retain(|session, _| pulls.is_active(session));
    }

    fn offer(&self, session: SessionId, node: NodeId) {
        let (vault, mesh, told, key) =
            (self.vault.clone(), self.mesh.clone(), self.copying.told.clone(), self.identity.node.clone());
        tokio::spawn(async move {
            let reading = vault.clone();
            let order = spawn_blocking(move || assign(reading.archive(), &key, session, node)).await;
            let mut inputs = Vec::new();
            let mut answer = Answer::Silent;
            if let Ok(Ok(Some(order))) = order {
                let message = Message::Offer { session, record: order.bytes().clone() }.encode();
                let heard = mesh.ask(node, message).await.ok().and_then(|bytes| Message::decode(&bytes).ok());
                match heard.filter(|message| message.session() == session) {
                    Some(Message::Holds { record, offers, .. }) => {
                        inputs.push(care::Input::Offers { node, gigabytes: offers });
                        if let Some(receipt) = keep_receipt(vault, node, session, record).await {
                            let manifest = receipt.content().manifest;
                            inputs.push(care::Input::Receipt { session, manifest, node, age: Duration::ZERO });
                            answer = Answer::Holds;
                        }
                    }
                    Some(Message::Takes { offers, .. }) => {
                        inputs.push(care::Input::Offers { node, gigabytes: offers });
                        answer = Answer::Taken;
                    }
                    Some(Message::Refused { reason, .. }) => {
                        tracing::info!(%session, point = %node.short(), reason, "a point does not hold this session");
                        answer = Answer::Refused;
                    }
                    _ => {}
                }
            }
            inputs.push(care::Input::Answered { session, node, answer });
            for input in inputs {
                // The driver ends only with everything else.
                let _ = told.send(Told::Care(input)).await;
            }
        });
    }

    fn answer_offer(&mut self, session: SessionId, to: NodeId, taken: bool) {
        let Some(reply) = self.copying.offers.remove(&(session, to)) else { return };
        let answer = match taken {
            true => Message::Takes { session, offers: self.config.archive.offer_gb },
            false => {
                self.copying.orders.remove(&session);
                Message::refused(session, "this point has no room left for other points' sessions")
            }
        };
        // The asker may have given up.
        let _ = reply.send(answer.encode());
    }

    fn learn(&self, session: SessionId, from: NodeId) {
        let told = self.copying.told.clone();
        let order = self.copying.orders.get(&session).cloned();
        let (mesh, vault, me) = (self.mesh.clone(), self.vault.clone(), self.me);
        tokio::spawn(async move {
            let learnt = match order {
                Some(order) => learn::learn(mesh, vault, me, order, from).await,
                None => Err("no assignment is here".to_owned()),
            };
            let learnt = learnt.inspect_err(|error| {
                tracing::warn!(%session, point = %from.short(), error, "a session's record cannot be copied");
            });
            // The driver ends only with everything else.
            let _ = told.send(Told::Learnt { session, learnt: learnt.ok() }).await;
        });
    }

    fn survey(&self, session: SessionId, node: NodeId) {
        let told = self.copying.told.clone();
        let order = self.copying.orders.get(&session).cloned();
        let listed = self.copying.listed.get(&session).cloned();
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            let has = match order.zip(listed) {
                Some((order, listed)) => learn::survey(&mesh, &order, node, &learn::tracks(&listed)).await.ok(),
                None => None,
            };
            // The driver ends only with everything else.
            let _ = told.send(Told::Pulls(pull::Input::Surveyed { session, node, has })).await;
        });
    }

    fn fetch_copies(&self, node: NodeId, id: GroupId, to: u64) {
        let (media, vault, events) = (self.media.clone(), self.vault.clone(), self.studio_events.clone());
        let (told, listed) = (self.copying.told.clone(), self.copying.listed.get(&id.session).cloned());
        tokio::spawn(async move {
            let (mut got, mut absent) = (Have::new(), Have::new());
            let fetched = media.fetch(node, id, to, FETCH_LEN_MAX).await;
            let sorted = fetched.and_then(|fetched| sort(fetched, &listed.unwrap_or_default(), &mut absent));
            let end = match sorted {
                Ok(records) => {
                    let numbers: Vec<u64> = records.iter().map(|record| record.header().seq).collect();
                    let written = spawn_blocking(move || vault.run(move |archive| archive.put_groups(&records))).await;
                    match written {
                        Ok(Ok(Ok(_))) => {
                            for seq in numbers {
                                got.insert(seq);
                            }
                            End::Good
                        }
                        Ok(Ok(Err(error))) => {
                            tracing::error!(group = %id, error = sentence(&error), "copied groups cannot be stored");
                            End::Broken
                        }
                        Ok(Err(_)) | Err(_) => End::Broken,
                    }
                }
                Err(FetchError::Wrong(what)) => {
                    // The driver ends only with everything else.
                    let _ = events.send(studio::Event::Forged { node, what }).await;
                    End::Wrong
                }
                Err(error) => {
                    tracing::info!(group = %id, to, %error, "copying brought nothing");
                    End::Broken
                }
            };
            let GroupId { session, track, seq: from } = id;
            let input = pull::Input::Fetched { session, node, track, from, got, absent, end };
            // The driver ends only with everything else.
            let _ = told.send(Told::Pulls(input)).await;
        });
    }

    fn sign_for(&mut self, session: SessionId, to: NodeId) {
        let Some(order) = self.copying.orders.get(&session).cloned() else {
            return self.pulled(pull::Input::Signed { session, whole: false });
        };
        let (vault, mesh, told, key) =
            (self.vault.clone(), self.mesh.clone(), self.copying.told.clone(), self.identity.node.clone());
        let (offers, me) = (self.config.archive.offer_gb, self.me);
        tokio::spawn(async move {
            let manifest = order.content().manifest;
            let signed = spawn_blocking(move || {
                let receipt = receipt(vault.archive(), &key, session, manifest)?;
                let Some(kept) = receipt.clone() else { return Ok(None) };
                match vault.run(move |archive| archive.put_receipt(&kept, unix_ms())) {
                    Ok(written) => written.map(|()| receipt),
                    Err(_) => Ok(None),
                }
            });
            let receipt = match signed.await {
                Ok(Ok(receipt)) => receipt,
                Ok(Err(error)) => {
                    tracing::error!(%session, error = sentence(&error), "a copy cannot be compared with its manifest");
                    None
                }
                Err(_) => None,
            };
            let whole = receipt.is_some();
            // The driver ends only with everything else.
            let _ = told.send(Told::Pulls(pull::Input::Signed { session, whole })).await;
            let Some(receipt) = receipt else {
                return tracing::warn!(%session, "a copy is not what its manifest says; it is begun again");
            };
            tracing::info!(%session, groups = receipt.content().groups, "this point holds all of this session");
            let message = Message::Holds { session, record: receipt.bytes().clone(), offers }.encode();
            let told: BTreeSet<NodeId> = order.content().senders.iter().copied().chain([to]).collect();
            for node in told.into_iter().filter(|node| *node != me) {
                // Who does not hear it asks, or is told by who looks after the session.
                let _ = mesh.ask(node, message.clone()).await;
            }
        });
    }

    /// A point asks something about copies.
    pub(super) fn asked_of_copies(&mut self, from: NodeId, message: &[u8], reply: oneshot::Sender<Bytes>) {
        // Dropping the reply refuses.
        let Ok(place) = Arc::clone(&self.copying.gives).try_acquire_owned() else {
            return tracing::warn!(point = self.name(from), "too many questions about copies at once");
        };
        let message = match Message::decode(message) {
            Ok(message) => message,
            Err(error) => {
                return self.unreadable(from, &error);
            }
        };
        let session = message.session();
        let head = match block_in_place(|| self.vault.archive().head(&session)) {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(%session, error = sentence(&error), "a session's head cannot be read");
                let _ = reply.send(Message::refused(session, "that session cannot be read here").encode());
                return;
            }
        };
        let who = Who::Node(from);
        let part = head.as_ref().map_or(Part::Unknown, |head| Part::of(head, &from));
        let deed = match &message {
            Message::Offer { .. } => {
                let succeeds = self.copying.care.is_turn_of(Instant::now(), &session, &from);
                Deed::Assign { part, succeeds }
            }
            Message::Holds { .. } | Message::Resumes { .. } | Message::Ask { .. } | Message::Lacks { .. } => {
                Deed::Fetch { part, assigned: true }
            }
            Message::Takes { .. }
            | Message::Noted { .. }
            | Message::Piece { .. }
            | Message::Order { .. }
            | Message::Refused { .. } => {
                // The asker may have given up.
                let _ = reply.send(Message::refused(session, "an answer to nothing that was asked").encode());
                return;
            }
        };
        if let Err(denied) = may(&self.members, &who, deed) {
            self.denied(&who, access::Deed::Copy, access::What::Session { session }, denied);
            let _ = reply.send(Message::refused(session, &denied.to_string()).encode());
            return;
        }
        let (vault, told, key) = (self.vault.clone(), self.copying.told.clone(), self.identity.node.clone());
        match message {
            Message::Offer { record, .. } => {
                let (me, offers) = (self.me, self.config.archive.offer_gb);
                spawn_blocking(move || {
                    let _place = place;
                    let order = match Signed::<Assignment>::parse(record) {
                        Ok(order) if is_order(&order, session, from, me) => order,
                        Ok(_) | Err(_) => {
                            let _ =
                                reply.send(Message::refused(session, "no assignment of yours to this point").encode());
                            return;
                        }
                    };
                    match receipt(vault.archive(), &key, session, order.content().manifest) {
                        Ok(Some(receipt)) => {
                            let record = receipt.bytes().clone();
                            let _ = reply.send(Message::Holds { session, record, offers }.encode());
                        }
                        Ok(None) | Err(_) => {
                            let took_part = head.is_some_and(|head| head.number(&me).is_some());
                            // The driver is gone when this fails.
                            let _ = told.blocking_send(Told::Offered { order, took_part, reply });
                        }
                    }
                });
            }
            Message::Holds { record, .. } => {
                tokio::spawn(async move {
                    let _place = place;
                    let answer = match keep_receipt(vault, from, session, record).await {
                        Some(receipt) => {
                            let manifest = receipt.content().manifest;
                            let input = care::Input::Receipt { session, manifest, node: from, age: Duration::ZERO };
                            // The driver ends only with everything else.
                            let _ = told.send(Told::Care(input)).await;
                            Message::Noted { session }
                        }
                        None => Message::refused(session, "that receipt is not for the session's last manifest"),
                    };
                    let _ = reply.send(answer.encode());
                });
            }
            Message::Resumes { .. } => {
                self.cared(care::Input::Resumes { session, node: from });
                // The asker may have given up.
                let _ = reply.send(Message::Noted { session }.encode());
            }
            Message::Ask { record, part: wanted, from: at, .. } => {
                let order = Signed::<Assignment>::parse(record).ok();
                let ordered = head.zip(order).filter(|(head, order)| {
                    let by = order.signer();
                    let may = by == head.central || self.copying.care.is_turn_of(Instant::now(), &session, &by);
                    may && is_order(order, session, by, from)
                });
                let Some((head, _)) = ordered else {
                    let _ = reply.send(Message::refused(session, "no assignment by that session's central").encode());
                    return;
                };
                self.media.assign(session, from, part);
                let runs = Arc::clone(&self.copying.runs);
                spawn_blocking(move || {
                    let _place = place;
                    let given = runs.piece(vault.archive(), &head, wanted, at, Instant::now());
                    let answer = given.unwrap_or_else(|error| {
                        tracing::error!(%session, error = sentence(&error), "a part of a record cannot be given");
                        Message::refused(session, "that part cannot be read here")
                    });
                    let _ = reply.send(answer.encode());
                });
            }
            Message::Lacks { .. } => {
                let succeeds = self.copying.care.is_turn_of(Instant::now(), &session, &self.me);
                spawn_blocking(move || {
                    let _place = place;
                    let order = mend::allow(vault.archive(), &key, session, from, succeeds).unwrap_or_else(|error| {
                        tracing::error!(%session, error = sentence(&error), "who may fetch what it lost cannot be read");
                        Message::refused(session, "that session cannot be read here")
                    });
                    let _ = reply.send(order.encode());
                });
            }
            Message::Takes { .. }
            | Message::Noted { .. }
            | Message::Piece { .. }
            | Message::Order { .. }
            | Message::Refused { .. } => {}
        }
    }
}
