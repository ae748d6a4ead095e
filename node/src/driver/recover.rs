//! Taking back what this node lost, and giving others back what they lost.
//!
//! `engine::recover` decides; here its wishes are carried out, each in a task of its own whose outcome comes back to the loop.
//! A recovery is noted in the archive until it is done, so that a node which was killed goes on by itself at its next start.
//!
//! A node that starts with an empty archive cannot know whether it is new or was robbed. It asks those it meets, and if they
//! know sessions of its, it says so; nothing is fetched before somebody wants it, as the line may be thin.

mod give;
mod put;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::access;
use store::archive::{self, Archive, Recovery};
use store::id::{GroupId, NodeId, SessionId};
use store::inventory::Have;
use store::keys::{Epoch, NodeKey, Wrap};
use store::receipt::Receipt;
use store::recover::{Listed, Scope, has_all};
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{block_in_place, spawn_blocking};

use super::replica::keep::{receipt, sort};
use super::{Driver, INPUTS_MAX, unix_ms};
use crate::control::{self, Fault, Response};
use crate::engine::recover::{Input, Output, Recover};
use crate::engine::replica::Dice;
use crate::engine::replica::pull::End;
use crate::engine::rights::{self, Who};
use crate::media::FetchError;
use crate::studio;
use crate::wire::media::FETCH_LEN_MAX;
use crate::wire::recover::Message;
use crate::wire::replica::{Message as Copied, Part};
use take::{Asking, Us};

/// How long fetching pauses after a live group was left out for a slow line.
const STRAIN: Duration = Duration::from_secs(10);

/// What tasks tell the loop.
#[derive(Debug)]
pub(super) enum Told {
    Course(Input),
    /// An earlier run did not finish.
    Unfinished(Recovery),
    /// This node's archive is empty, and somebody knows so many sessions of it.
    Elsewhere {
        node: NodeId,
        sessions: usize,
    },
    /// What the points signed in a session whose groups are to be fetched.
    Planned {
        session: SessionId,
        listed: Listed,
        input: Input,
    },
    /// A session was compared with its manifest.
    Finished {
        session: SessionId,
        whole: bool,
        /// This node is its central, and looks after it again.
        tend: bool,
    },
}

/// What the loop knows of it.
pub(super) struct Recovering {
    course: Recover,
    told: mpsc::Sender<Told>,
    listed: BTreeMap<SessionId, Arc<Listed>>,
    gives: Arc<give::Places>,
    /// Until when live media needs the line for itself.
    strained: Option<Instant>,
    /// Whom somebody named to be asked, and nobody else; all if it is empty.
    from: BTreeSet<NodeId>,
    /// Nothing was in the archive when the node started.
    is_empty: bool,
    /// Most sessions of this node that somebody else named then.
    elsewhere: usize,
}

impl Recovering {
    /// For the node with this key; where outcomes come out.
    pub(super) fn new(key: &NodeKey) -> (Recovering, mpsc::Receiver<Told>) {
        let (told, from_tasks) = mpsc::channel(INPUTS_MAX);
        let me = key.id();
        let dice = Dice::new(u64::from_be_bytes(*me.as_bytes().first_chunk().expect("a node's name has 32 bytes")));
        let recovering = Recovering {
            course: Recover::new(me, dice),
            told,
            listed: BTreeMap::new(),
            gives: Arc::default(),
            strained: None,
            from: BTreeSet::new(),
            is_empty: false,
            elsewhere: 0,
        };
        (recovering, from_tasks)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.course.deadline(), self.strained].into_iter().flatten().min()
    }
}

impl Driver {
    /// Takes up what an earlier run did not finish.
    pub(super) fn recall_recovery(&mut self) {
        let noted = self.vault.then(|archive| {
            if let Err(error) = archive.set_born(unix_ms()) {
                tracing::error!(%error, "since when this archive is in use cannot be written down");
            }
        });
        if noted.is_err() {
            tracing::debug!("the node is stopping already");
        }
        let archive = self.vault.archive();
        let found = archive.recovery().and_then(|recovery| Ok((recovery, archive.sessions()?.heads.is_empty())));
        match found {
            Ok((Some(recovery), _)) => self.told_of_recovery(Told::Unfinished(recovery)),
            Ok((None, is_empty)) => self.recovering.is_empty = is_empty,
            Err(error) => tracing::error!(%error, "whether something is being recovered cannot be read"),
        }
    }

    /// A point came or went.
    pub(super) fn recovery_reach(&mut self, node: NodeId, up: bool) {
        match up {
            true => self.recovered(Input::Up { node }),
            false => self.recovered(Input::Down { node }),
        }
        if up && self.recovering.is_empty && !self.recovering.course.view().wanted {
            let (asking, told) = (self.asking(), self.recovering.told.clone());
            tokio::spawn(async move {
                let sessions = asking.glance(node).await;
                // The driver ends only with everything else.
                let _ = told.send(Told::Elsewhere { node, sessions }).await;
            });
        }
    }

    pub(super) fn recovery_tick(&mut self) {
        if self.recovering.strained.is_some_and(|until| until <= Instant::now()) {
            self.recovering.strained = None;
            self.recovered(Input::Strained { strained: false });
        }
        self.recovered(Input::Tick);
    }

    /// A live group was left out for a slow line: what was lost waits.
    pub(super) fn recovery_yield(&mut self) {
        self.recovering.strained = Some(Instant::now() + STRAIN);
        self.recovered(Input::Strained { strained: true });
    }

    /// A task has an outcome.
    pub(super) fn told_of_recovery(&mut self, told: Told) {
        match told {
            Told::Course(input) => self.recovered(input),
            Told::Unfinished(Recovery { only, from }) => {
                tracing::info!("this point goes on taking back what it lost");
                self.recovering.from = from.into_iter().collect();
                self.recovered(Input::Begin { only, from: self.recovering.from.clone() });
            }
            Told::Elsewhere { node, sessions } => {
                if sessions > self.recovering.elsewhere {
                    self.recovering.elsewhere = sessions;
                    tracing::warn!(
                        point = self.name(node),
                        sessions,
                        "this point's archive is empty, and another point knows sessions of it: \
                         `diemcau archive recover` brings them back"
                    );
                }
            }
            Told::Planned { session, listed, input } => {
                self.recovering.listed.insert(session, Arc::new(listed));
                self.recovered(input);
            }
            Told::Finished { session, whole, tend } => {
                if tend {
                    self.tend(session);
                }
                self.recovered(Input::Finished { session, whole });
            }
        }
    }

    pub(super) fn asking(&self) -> Asking {
        Asking {
            mesh: self.mesh.clone(),
            vault: self.vault.clone(),
            members: self.members.clone(),
            me: self.me,
            wrap: self.identity.wrap.clone(),
            anew: !self.recovering.from.is_empty(),
        }
    }

    fn recovered(&mut self, input: Input) {
        self.recovering.course.handle(Instant::now(), input);
        while let Some(output) = self.recovering.course.poll() {
            match output {
                Output::List { node } => {
                    let (asking, told) = (self.asking(), self.recovering.told.clone());
                    tokio::spawn(async move {
                        let sessions = asking.list(node).await;
                        // The driver ends only with everything else.
                        let _ = told.send(Told::Course(Input::Listed { node, sessions })).await;
                    });
                }
                Output::Record { session, node, manifest, proof } => {
                    let (asking, told) = (self.asking(), self.recovering.told.clone());
                    tokio::spawn(async move {
                        let end = asking.record(session, node, manifest, proof).await;
                        // The driver ends only with everything else.
                        let _ = told.send(Told::Course(Input::Recorded { session, node, end })).await;
                    });
                }
                Output::Plan { session } => self.plan_recovery(session),
                Output::Survey { session, node } => {
                    let (asking, told) = (self.asking(), self.recovering.told.clone());
                    let listed = self.recovering.listed.get(&session).cloned().unwrap_or_default();
                    let tracks: BTreeSet<_> = listed.keys().map(|(track, _)| *track).collect();
                    tokio::spawn(async move {
                        let has = asking.survey(session, node, tracks).await;
                        // The driver ends only with everything else.
                        let _ = told.send(Told::Course(Input::Surveyed { session, node, has })).await;
                    });
                }
                Output::Fetch { session, node, track, groups } => {
                    let (from, to) = groups.into_inner();
                    self.fetch_back(node, GroupId { session, track, seq: from }, to);
                }
                Output::Finish { session } => self.finish_recovery(session),
                Output::Done { whole, heard } => self.recovery_done(whole, &heard),
            }
        }
    }

    fn plan_recovery(&self, session: SessionId) {
        let (vault, told, us) = (self.vault.clone(), self.recovering.told.clone(), Us::of(&self.members, self.me));
        spawn_blocking(move || {
            let planned = take::plan(vault.archive(), &us, session);
            let told_of = match planned {
                Ok((wanted, listed)) => {
                    Told::Planned { session, listed, input: Input::Planned { session, wanted: Some(wanted) } }
                }
                Err(error) => {
                    tracing::error!(%session, error = sentence(&error), "what is missing cannot be read");
                    Told::Course(Input::Planned { session, wanted: None })
                }
            };
            // The driver is gone when this fails; the next run goes on.
            let _ = told.blocking_send(told_of);
        });
    }

    fn fetch_back(&self, node: NodeId, id: GroupId, to: u64) {
        let (media, vault, events) = (self.media.clone(), self.vault.clone(), self.studio_events.clone());
        let (told, listed) = (self.recovering.told.clone(), self.recovering.listed.get(&id.session).cloned());
        tokio::spawn(async move {
            let (mut got, mut absent, mut bytes) = (Have::new(), Have::new(), 0);
            let fetched = media.fetch(node, id, to, FETCH_LEN_MAX).await;
            let end = match fetched.and_then(|fetched| sort(fetched, &listed.unwrap_or_default(), &mut absent)) {
                Ok(records) => {
                    let came: Vec<_> =
                        records.iter().map(|record| (record.header().seq, record.bytes().len() as u64)).collect();
                    let session = id.session;
                    // What its point signed counts more than what others gave of it before.
                    let write = move |archive: &Archive| match archive.is_restored(&session)? {
                        true => archive.put_groups_over(&records),
                        false => archive.put_groups(&records),
                    };
                    let written = spawn_blocking(move || vault.run(write)).await;
                    match written {
                        Ok(Ok(Ok(_))) => {
                            for (seq, len) in came {
                                got.insert(seq);
                                bytes += len;
                            }
                            End::Good
                        }
                        Ok(Ok(Err(error))) => {
                            tracing::error!(group = %id, error = sentence(&error), "what came back cannot be stored");
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
                    tracing::info!(group = %id, to, %error, "taking back brought nothing");
                    End::Broken
                }
            };
            let GroupId { session, track, seq: from } = id;
            let input = Input::Fetched { session, node, track, from, got, bytes, absent, end };
            // The driver ends only with everything else.
            let _ = told.send(Told::Course(input)).await;
        });
    }

    /// Compares a session with its manifest; if all is here, this node is a holder of it again, and says so.
    fn finish_recovery(&mut self, session: SessionId) {
        self.recovering.listed.remove(&session);
        let (vault, mesh, told, key) =
            (self.vault.clone(), self.mesh.clone(), self.recovering.told.clone(), self.identity.node.clone());
        let (us, me, offers) = (Us::of(&self.members, self.me), self.me, self.config.archive.offer_gb);
        let asking = self.asking();
        tokio::spawn(async move {
            asking.countersigned(session).await;
            let looked = spawn_blocking(move || {
                let finished = finish(vault.archive(), &us, &key, session)?;
                if let Some(receipt) = finished.receipt.clone() {
                    match vault.run(move |archive| archive.put_receipt(&receipt, unix_ms())) {
                        Ok(written) => written?,
                        Err(_) => return Ok(Finished { receipt: None, ..finished }),
                    }
                }
                Ok::<_, archive::Error>(finished)
            });
            let finished = match looked.await {
                Ok(Ok(finished)) => finished,
                Ok(Err(error)) => {
                    tracing::error!(%session, error = sentence(&error), "what came back cannot be compared");
                    Finished::default()
                }
                Err(_) => Finished::default(),
            };
            if finished.whole {
                tracing::info!(%session, "this session is here again");
            }
            let tend = finished.whole && finished.central == Some(me);
            // The driver ends only with everything else.
            let _ = told.send(Told::Finished { session, whole: finished.whole, tend }).await;
            if let Some(receipt) = finished.receipt {
                let message = Copied::Holds { session, record: receipt.bytes().clone(), offers }.encode();
                for node in finished.tell.into_iter().filter(|node| *node != me) {
                    // Who does not hear it asks, or is told by who looks after the session.
                    let _ = mesh.ask(node, message.clone()).await;
                }
            }
        });
    }

    fn recovery_done(&self, whole: bool, heard: &BTreeSet<NodeId>) {
        if !whole {
            return tracing::warn!("some of what this point lost is with nobody in reach; it is asked for again");
        }
        // Whoever sleeps may know more.
        let silent = match self.recovering.from.is_empty() {
            true => self.members.nodes().filter(|node| *node != self.me && !heard.contains(node)).count(),
            false => self.recovering.from.difference(heard).count(),
        };
        if silent > 0 {
            return tracing::info!(
                silent,
                "everything is here that those in reach know; the others are asked when they come"
            );
        }
        tracing::info!("everything that others know of this point's sessions is here");
        let vault = self.vault.clone();
        spawn_blocking(move || match vault.run(|archive| archive.put_recovery(None)) {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(%error, "that the recovery is done cannot be written down"),
        });
    }

    /// Somebody at this point wants the archive back.
    pub(super) fn recover(
        &mut self,
        who: &Who,
        session: Option<String>,
        from: &[String],
        reply: oneshot::Sender<Response>,
    ) {
        let not = |fault, reason| Response::Not { fault, reason };
        let only = match session.map(|text| text.parse::<SessionId>()).transpose() {
            Ok(only) => only,
            Err(_) => {
                let reason = "write the whole id of the session, as `diemcau session list` at another point shows it";
                return drop(reply.send(not(Fault::Missing, reason.into())));
            }
        };
        let from = match from.is_empty() {
            true => Vec::new(),
            false => match self.named(from) {
                Ok(nodes) => nodes,
                Err(response) => return drop(reply.send(response)),
            },
        };
        let recovery = Recovery { only, from: from.clone() };
        let log = self.access.clone();
        let (vault, who) = (self.vault.clone(), super::gate::logged(who));
        // The operator's wish is in the log before anything is asked for it.
        let noted = block_in_place(|| {
            log.sure(who, access::Deed::Copy, access::What::Archive {}).map_err(|error| sentence(&error))?;
            match vault.run(move |archive| archive.put_recovery(Some(&recovery))) {
                Ok(written) => written.map_err(|error| sentence(&error)),
                Err(closed) => Err(closed.to_string()),
            }
        });
        if let Err(reason) = noted {
            return drop(reply.send(not(Fault::Failed, reason)));
        }
        self.recovering.from = from.into_iter().collect();
        self.recovered(Input::Begin { only, from: self.recovering.from.clone() });
        // The caller may have hung up.
        let _ = reply.send(Response::Recovery(Box::new(self.recovery_status())));
    }

    /// How far it has come.
    pub(super) fn recovery_status(&self) -> control::Recovery {
        let view = self.recovering.course.view();
        control::Recovery {
            wanted: view.wanted,
            idle: view.idle,
            waits: view.strained,
            answered: view.answered,
            sessions: view.sessions,
            records: view.records,
            whole: view.whole,
            left: view.left.iter().map(ToString::to_string).collect(),
            disputed: view.disputed.iter().map(ToString::to_string).collect(),
            foreign: view.foreign,
            groups: view.groups,
            bytes: view.bytes,
            missing_groups: view.missing_groups,
            missing_bytes: view.missing_bytes,
            fetched_bytes: view.fetched_bytes,
            wrong: view.wrong.iter().map(|node| self.name(*node)).collect(),
            elsewhere: self.recovering.elsewhere,
        }
    }

    /// Takes keys of a session that were opened with the recovery key and wrapped for this point.
    pub(super) fn take_keys(
        &self,
        who: &Who,
        session: &str,
        wraps: Vec<(Epoch, Wrap)>,
        reply: oneshot::Sender<Response>,
    ) {
        let not = |fault, reason| Response::Not { fault, reason };
        let Ok(session) = session.parse::<SessionId>() else {
            return drop(reply.send(not(Fault::Missing, format!("{session:?} is no session's whole id"))));
        };
        let wraps: BTreeMap<Epoch, Wrap> = wraps.into_iter().collect();
        let (vault, key, me) = (self.vault.clone(), self.identity.wrap.clone(), self.me);
        let (log, who) = (self.access.clone(), super::gate::logged(who));
        spawn_blocking(move || {
            let take = || {
                let head = vault.archive().head(&session).map_err(|error| (Fault::Failed, sentence(&error)))?;
                let head = head.ok_or((Fault::Missing, format!("session {session} is not here")))?;
                let opened = head.open(&wraps, &key, me).map_err(|error| (Fault::Refused, sentence(&error)))?;
                log.sure(who, access::Deed::Open, access::What::Session { session })
                    .map_err(|error| (Fault::Refused, sentence(&error)))?;
                for (epoch, wrap) in wraps.into_iter().filter(|(epoch, _)| opened.contains_key(epoch)) {
                    let written = vault.run(move |archive| archive.put_wraps(&session, epoch, &[(me, wrap)]));
                    written
                        .map_err(|closed| (Fault::Failed, closed.to_string()))?
                        .map_err(|error| (Fault::Failed, sentence(&error)))?;
                }
                Ok(Response::Done)
            };
            // The caller may have hung up.
            let _ = reply.send(take().unwrap_or_else(|(fault, reason)| not(fault, reason)));
        });
    }

    /// A point asks for what it lost.
    pub(super) fn asked_of_recovery(&mut self, from: NodeId, message: &[u8], reply: oneshot::Sender<Bytes>) {
        // Dropping the reply refuses.
        let Some(place) = self.recovering.gives.take(from) else {
            return tracing::warn!(point = self.name(from), "too many questions about what was lost at once");
        };
        let message = match Message::decode(message) {
            Ok(message) => message,
            Err(error) => return self.unreadable(from, &error),
        };
        let (vault, members, me) = (self.vault.clone(), self.members.clone(), self.me);
        match message {
            Message::List { after } => {
                if let Err(denied) = rights::may(&self.members, &Who::Node(from), rights::Deed::Connect) {
                    self.denied(&Who::Node(from), access::Deed::Copy, access::What::Archive {}, denied);
                    return drop(reply.send(Message::refused(&denied.to_string()).encode()));
                }
                spawn_blocking(move || {
                    let _place = place;
                    let list = give::list(vault.archive(), &members, &me, &from, after);
                    // The asker may have given up.
                    let _ = reply.send(list.unwrap_or_else(|error| give::unreadable(&error)).encode());
                });
            }
            Message::Ask { session, part, from: at } => {
                let read = block_in_place(|| {
                    let archive = vault.archive();
                    let Some(head) = archive.head(&session)? else { return Ok(None) };
                    let entitled = give::entitled(archive, &members, &from, &head)?;
                    Ok(Some((head, entitled)))
                });
                let (head, entitled) = match read {
                    Ok(Some((head, Ok(entitled)))) => (head, entitled),
                    Ok(Some((_, Err(denied)))) => {
                        let (who, what) = (Who::Node(from), access::What::Session { session });
                        self.denied(&who, access::Deed::Copy, what, denied);
                        return drop(reply.send(Message::refused(&denied.to_string()).encode()));
                    }
                    // What is not here and what is not for him sound the same.
                    Ok(None) => {
                        let denied = rights::Denied::Outside;
                        return drop(reply.send(Message::refused(&denied.to_string()).encode()));
                    }
                    Err(error) => return drop(reply.send(give::unreadable(&error).encode())),
                };
                if entitled.all {
                    self.media.assign(session, from, entitled.part);
                }
                if at == 0 && part == Part::Head {
                    let who = access::Who::Point { node: from };
                    self.access.done(who, access::Deed::Copy, access::What::Session { session });
                }
                let runs = Arc::clone(&self.copying.runs);
                spawn_blocking(move || {
                    let _place = place;
                    let piece = give::piece((vault.archive(), &runs), &members, &from, &head, (part, at), entitled);
                    // The asker may have given up.
                    let _ = reply.send(piece.unwrap_or_else(|error| give::unreadable(&error)).encode());
                });
            }
            Message::Sessions { .. } | Message::Piece { .. } | Message::Refused { .. } => {
                // The asker may have given up.
                let _ = reply.send(Message::refused("an answer to nothing that was asked").encode());
            }
        }
    }
}

/// What became of a session that was taken back.
#[derive(Debug, Default)]
struct Finished {
    whole: bool,
    central: Option<NodeId>,
    /// That this node holds it again, if it is no central and has not said so.
    receipt: Option<Signed<Receipt>>,
    /// Whom to tell.
    tell: BTreeSet<NodeId>,
}

fn finish(archive: &Archive, us: &Us, key: &NodeKey, session: SessionId) -> Result<Finished, archive::Error> {
    let Some(head) = archive.head(&session)?.filter(|head| head.state == State::Ended) else {
        return Ok(Finished::default());
    };
    let last = archive.last_manifest(&session)?;
    let scope = take::scope(archive, us, &head)?;
    let kept = |last: &Signed<_>| Ok::<_, archive::Error>(has_all(&archive.draw_manifest(&head, 0)?, last.content()));
    let whole = match (&last, scope) {
        // What central itself never had is missing for good.
        (Some(last), Scope::All) => kept(last)?,
        (None, _) | (Some(_), Scope::Own(_)) => take::plan(archive, us, session)?.0.missing.is_empty(),
    };
    let central = Some(head.central);
    let Some(last) = last.filter(|_| whole && scope == Scope::All && head.central != key.id()) else {
        return Ok(Finished { whole, central, ..Finished::default() });
    };
    let receipt = receipt(archive, key, session, last.hash())?;
    Ok(Finished { whole, central, receipt, tell: told(archive, &head)? })
}

/// Central, the points, and who else holds it.
fn told(archive: &Archive, head: &Head) -> Result<BTreeSet<NodeId>, archive::Error> {
    let points = head.present().map(|member| member.node);
    Ok(points.chain(archive.holders(&head.id)?).collect())
}
