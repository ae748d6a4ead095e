//! What a command or the console asks of the running node, answered from what the parts say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use codec::capture::{self, Kind};
use store::access::{Deed, What};
use store::archive::Archive;
use store::id::{NodeId, SessionId};
use store::inventory::Have;
use store::keys::recovery_recipient;
use store::verify::sentence;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, spawn_blocking};

use super::gate::logged;
use super::{Driver, Operator, unix_ms};
use crate::control::{self, Clock, Counters, Disk, Fault, Latency, PointStatus, Request, Response, Stats, Status};
use crate::engine::rights;
use crate::engine::session::{Fresh, Input, Seat};
use crate::identity::roster;
use crate::studio::Shown;

pub(super) type Reply = oneshot::Sender<Response>;

impl Driver {
    /// Answers at once if it can, giving the reply back; else it is kept until there is an answer.
    pub(super) fn answer(&mut self, who: rights::Who, request: Request, reply: Reply) -> Option<(Response, Reply)> {
        if let Err(denied) = self.wanted(&who, &request) {
            return Some((not(Fault::Refused, denied.to_string()), reply));
        }
        match request {
            Request::Status => return Some((Response::Status(Box::new(self.status())), reply)),
            Request::Room => return Some((Response::Room(Box::new(self.room())), reply)),
            Request::Stats => return Some((Response::Stats(Box::new(self.stats())), reply)),
            Request::SessionStart { title, points } => match self.named(&points) {
                Ok(points) => self.start_session(title, points, Operator { who, deed: Deed::Session, reply }),
                Err(response) => return Some((response, reply)),
            },
            Request::SessionEnd { session } => {
                let session = match session.map(|text| self.session_named(&text)).transpose() {
                    Ok(session) => session,
                    Err(response) => return Some((response, reply)),
                };
                let ticket = self.ticket();
                self.operators.insert(ticket, Operator { who, deed: Deed::Session, reply });
                self.tell(Input::End { ticket, session, unix_ms: unix_ms() });
            }
            Request::SessionRemove { point, session } => {
                let session = session.map(|text| self.session_named(&text)).transpose();
                let named = session.and_then(|session| Ok((session, self.named(&[point])?)));
                let (session, nodes) = match named {
                    Ok(named) => named,
                    Err(response) => return Some((response, reply)),
                };
                let ticket = self.ticket();
                self.operators.insert(ticket, Operator { who, deed: Deed::Remove, reply });
                // One name is one point.
                nodes.into_iter().for_each(|node| self.tell(Input::Remove { ticket, session, node }));
            }
            Request::SessionNote { kind, point, text, session } => {
                let session = session.map(|text| self.session_named(&text)).transpose();
                let named = session.and_then(|session| {
                    Ok((
                        session,
                        point.map(|point| self.named(&[point])).transpose()?.and_then(|nodes| nodes.first().copied()),
                    ))
                });
                let (session, node) = match named {
                    Ok(named) => named,
                    Err(response) => return Some((response, reply)),
                };
                let by = match &who {
                    rights::Who::Account { name, .. } => Some(name.clone()),
                    _ => None,
                };
                let (ticket, text) = (self.ticket(), text.trim().to_owned());
                self.operators.insert(ticket, Operator { who, deed: Deed::Session, reply });
                self.tell(Input::Note { ticket, session, kind, node, by, text });
            }
            Request::SessionShow { session } => match self.session_named(&session) {
                Ok(session) => self.answer_session(session, reply),
                Err(response) => return Some((response, reply)),
            },
            Request::SessionList => {
                let running = self.running();
                self.read_archive(reply, move |archive| match control::session::list(archive) {
                    Ok(mut sessions) => {
                        sessions.iter_mut().for_each(|session| running.mark(session));
                        Response::Sessions { sessions }
                    }
                    Err(error) => not(error.fault(), sentence(&error)),
                });
            }
            Request::Checkpoint { to } => {
                // One that stays inside is a command's view of what the running node has open, and goes with it.
                let log = (!to.starts_with(&self.config.data)).then(|| self.access.clone());
                self.read_archive(reply, move |archive| {
                    if let Some(log) = log
                        && let Err(error) = log.sure(logged(&who), Deed::Copy, What::Archive {})
                    {
                        return not(Fault::Refused, sentence(&error));
                    }
                    match archive.checkpoint(&to) {
                        Ok(()) => Response::Done,
                        Err(error) => not(Fault::Failed, sentence(&error)),
                    }
                });
            }
            Request::Scrubs => self.answer_scrubs(reply),
            Request::ScrubNow { session } => {
                let session = match session.map(|text| self.session_named(&text)).transpose() {
                    Ok(session) => session,
                    Err(response) => return Some((response, reply)),
                };
                self.scrub_now(session, reply);
            }
            Request::Exporting { session } => match session.parse::<SessionId>() {
                Ok(session) => {
                    let log = self.access.clone();
                    self.read_archive(reply, move |_| {
                        match log.sure(logged(&who), Deed::Export, What::Session { session }) {
                            Ok(()) => Response::Done,
                            Err(error) => not(Fault::Refused, sentence(&error)),
                        }
                    });
                }
                Err(error) => return Some((not(Fault::Missing, error.to_string()), reply)),
            },
            Request::Recover { session, from } => self.recover(&who, session, &from, reply),
            Request::Recovery => return Some((Response::Recovery(Box::new(self.recovery_status())), reply)),
            Request::Keys { session, wraps } => self.take_keys(&who, &session, wraps, reply),
            Request::AccountList => {
                return Some((Response::Accounts { accounts: self.accounts.list() }, reply));
            }
            Request::Account { order } => {
                let (accounts, log) = (self.accounts.clone(), self.access.clone());
                self.read_archive(reply, move |_| {
                    let done = accounts.carry_out(&order, |name| {
                        let what = What::Account { name: name.to_owned() };
                        log.sure(logged(&who), Deed::Account, what).map_err(|error| sentence(&error))
                    });
                    match done {
                        Ok(done) => Response::Account(Box::new(done)),
                        Err(error) => not(error.fault(), sentence(&error)),
                    }
                });
            }
            Request::AccessLog { from, filter } => {
                let (me, roster) = (self.me, self.roster.clone());
                self.read_archive(reply, move |archive| {
                    let name = |node: &NodeId| roster.point(node).map(|point| point.name.clone());
                    match control::access::read(&archive.logbook(), me, name, &filter, from) {
                        Ok(page) => Response::AccessLog(Box::new(page)),
                        Err(error) => not(Fault::Damaged, sentence(&error)),
                    }
                });
            }
            Request::RosterSet { from } => return Some((self.set_roster(&who, &from), reply)),
            Request::InviteTake { id } => return Some((self.take_invite(&who, &id), reply)),
            Request::InviteCancel { id } => return Some((self.cancel_invite(&who, &id), reply)),
            Request::Stop => {
                self.stopping = true;
                return Some((Response::Done, reply));
            }
        }
        None
    }

    /// Takes what a file says of the mesh, if it is news.
    fn set_roster(&mut self, who: &rights::Who, from: &Path) -> Response {
        let mut after = self.roster.clone();
        let merged =
            roster::read(from).and_then(|theirs| after.merge(&theirs).map_err(|source| roster::wrong(from, source)));
        match merged {
            Ok(false) => return Response::Done,
            Ok(true) => {}
            Err(error) => {
                let reason = sentence(&error);
                let what = What::Roster { number: self.roster.number() };
                self.access.refused(logged(who), Deed::Roster, what, &reason);
                return not(Fault::Refused, reason);
            }
        }
        match self.belong(after, logged(who)) {
            Ok(()) => Response::Done,
            Err(error) => not(Fault::Failed, sentence(&error)),
        }
    }

    /// Reads beside the vault's writer, on a thread that may block.
    pub(super) fn read_archive(&self, reply: Reply, read: impl FnOnce(&Archive) -> Response + Send + 'static) {
        let vault = self.vault.clone();
        spawn_blocking(move || {
            // A caller that hung up wants no answer.
            let _ = reply.send(read(vault.archive()));
        });
    }

    /// The points of these names or node ids; every other point of the roster when there are none.
    pub(super) fn named(&self, names: &[String]) -> Result<Vec<NodeId>, Response> {
        if names.is_empty() {
            return Ok(self.roster.points().iter().map(|point| point.node).filter(|node| *node != self.me).collect());
        }
        let find = |name: &String| {
            let by_id = || name.parse().ok().and_then(|node| self.roster.point(&node));
            self.roster
                .named(name)
                .or_else(by_id)
                .map(|point| point.node)
                .ok_or_else(|| not(Fault::Missing, format!("{name:?} is not a point of this node's roster")))
        };
        names.iter().map(find).collect()
    }

    fn start_session(&mut self, title: String, points: Vec<NodeId>, operator: Operator) {
        let now = unix_ms();
        let (id, me) = (SessionId::generate(now), self.me);
        let (commitment, wraps) = self.new_key(id, 0, points.iter().chain([&me]));
        let recovery = Some(recovery_recipient(&self.roster.recovery()));
        let fresh = Fresh { id, commitment, wraps, recovery, unix_ms: now };
        let ticket = self.ticket();
        self.operators.insert(ticket, operator);
        self.tell(Input::Start { ticket, title, points, fresh });
        // A session that is refused needs no key.
        if self.engine.view(Instant::now()).session.is_none_or(|session| session.id != id) {
            self.keys.remove(&id);
        }
    }

    /// The session this text names: an id, or any beginning of one that is unambiguous.
    fn session_named(&self, text: &str) -> Result<SessionId, Response> {
        let found = block_in_place(|| control::session::find(self.vault.archive(), text));
        found.map_err(|error| not(error.fault(), sentence(&error)))
    }

    /// Who is in the running session now, as far as this node knows.
    pub(super) fn running(&self) -> Present {
        let running = self.engine.view(Instant::now()).session;
        let joined = |seat: &Seat| seat.joined.then_some(seat.number.get());
        Present(running.map(|running| (running.id.to_string(), running.points.iter().filter_map(joined).collect())))
    }

    fn status(&self) -> Status {
        let view = self.engine.view(Instant::now());
        let own = self.roster.point(&self.me);
        let peers = self.mesh.peers();
        let now = unix_ms();
        let points = self.roster.points().iter().map(|point| {
            let me = point.node == self.me;
            let peer = peers.get(&point.node);
            let compared = self.spreading.compare(&point.node);
            PointStatus {
                name: point.name.clone(),
                level: point.level.clone(),
                node: point.node.to_string(),
                online: me || peer.is_some_and(|peer| peer.up),
                last_seen: if me { Some(now) } else { peer.and_then(|peer| peer.last_seen).map(ms_of) },
                addresses: peer.into_iter().flat_map(|peer| &peer.addresses).map(ToString::to_string).collect(),
                rtt_ms: peer.and_then(|peer| peer.rtt).map(|rtt| rtt.as_secs_f64() * 1_000.0),
                roster: if me { Some(self.roster.number()) } else { compared.map(|(number, _)| number) },
                same_roster: if me { Some(true) } else { compared.map(|(_, same)| same) },
            }
        });
        let clock = match (&view.session, self.offset) {
            (Some(session), Some((node, offset))) if session.central == node => Clock {
                against: Some(self.name(node)),
                offset_ms: Some(offset as f64 / 1_000.0),
                error_ms: session.time_error_us.map(|error| error as f64 / 1_000.0),
            },
            _ => Clock::default(),
        };
        Status {
            own: control::Own {
                name: own.map(|own| own.name.clone()).unwrap_or_default(),
                level: own.map(|own| own.level.clone()).unwrap_or_default(),
                node: self.me.to_string(),
                running: true,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                addresses: self.mesh.listening().iter().map(ToString::to_string).collect(),
                mesh_port: self.mesh.port(),
                media_port: self.media.local_addr().map_or(0, |at| at.port()),
                console: Some(self.console.url()),
                started: Some(self.started_ms),
                source: self.config.room.source.to_string(),
                source_lacks: self.source_lacks(),
                roster: self.roster.number(),
            },
            points: points.collect(),
            session: view.session.map(|session| control::Running {
                id: session.id.to_string(),
                title: session.title,
                central: self.name(session.central),
                role: if session.central == self.me { "central" } else { "delegate" }.to_owned(),
                started: session.id.unix_ms(),
                present: session.points.into_iter().filter(|seat| seat.joined).map(|seat| seat.name).collect(),
            }),
            disk: self.disk(),
            clock,
            counters: self.counted(),
        }
    }

    /// What the source does not give: now while the room publishes, else when the node started.
    pub(super) fn source_lacks(&self) -> Option<String> {
        let Some(made) = self.studio.produced() else { return self.source_lacks.clone() };
        let kinds = [(Kind::Picture, made.no_picture), (Kind::Sound, made.no_sound)];
        kinds.into_iter().find_map(|(kind, why)| why.map(|why| capture::lack(kind, &why)))
    }

    fn disk(&self) -> Disk {
        let archive = self.vault.archive();
        let (mut groups, mut bytes, mut lost) = (0, 0, 0);
        block_in_place(|| {
            for head in archive.sessions().map(|sessions| sessions.heads).unwrap_or_default() {
                for totals in archive.totals(&head.id).unwrap_or_default().into_values() {
                    groups += totals.groups;
                    bytes += totals.bytes;
                }
                lost += archive.lost(&head.id).unwrap_or_default().values().map(Have::len).sum::<u64>();
            }
        });
        let disk = Disk::of(&self.config.archive(), groups, bytes);
        let disk = disk.unwrap_or_else(|_| Disk { groups, bytes, ..Disk::default() });
        let (damaged, alarm, space) = (archive.loss().is_some(), self.scrubbing.alarm(), self.disk.space());
        Disk { lost, damaged, alarm, space, ..disk }
    }

    fn counted(&self) -> Counters {
        let mut counters: BTreeMap<String, u64> =
            self.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        counters.insert("strangers_refused".into(), self.mesh.strangers());
        for (plane, knocks) in [("mesh", self.mesh.knocks()), ("media", self.media.knocks())] {
            counters.insert(format!("{plane}_knocks_entered"), knocks.entered);
            counters.insert(format!("{plane}_knocks_asked"), knocks.asked);
            counters.insert(format!("{plane}_knocks_ignored"), knocks.ignored);
        }
        if let Some(made) = self.studio.produced() {
            counters.insert("pictures_captured".into(), made.captured);
            for (layer, stats) in [("audio", made.audio), ("main", made.main), ("thumb", made.thumb)] {
                counters.insert(format!("{layer}_frames"), stats.frames);
                counters.insert(format!("{layer}_bytes"), stats.bytes);
                counters.insert(format!("{layer}_dropped"), stats.dropped);
            }
        }
        Counters(counters)
    }

    fn stats(&self) -> Stats {
        // The latest there is: a session that is over stays in the studio until nobody owes anything.
        let of = self.studio.latest_shown().into_iter().chain(self.shown.clone()).max_by_key(|(session, _)| *session);
        let rows = |shown: BTreeMap<NodeId, Shown>| shown.iter().map(|(&node, shown)| self.row(node, shown)).collect();
        match of {
            Some((session, shown)) => Stats { session: Some(session.to_string()), shown: rows(shown) },
            None => Stats { session: None, shown: Vec::new() },
        }
    }

    fn row(&self, node: NodeId, shown: &Shown) -> control::Shown {
        // Pictures say more of lateness; a point without a camera is judged by its sound.
        let latency = if shown.video.decoded > 0 { shown.video.latency } else { shown.audio.latency };
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1_000.0;
        control::Shown {
            from: self.name(node),
            video_frames: shown.video.decoded,
            video_expected: shown.video.expected,
            audio_frames: shown.audio.decoded,
            audio_expected: shown.audio.expected,
            latency_ms: Latency { p50: ms(latency.p50), p95: ms(latency.p95), max: ms(latency.max) },
        }
    }
}

pub(super) fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn not(fault: Fault, reason: String) -> Response {
    Response::Not { fault, reason }
}

/// The points of the running session that are in it, by its id.
pub(super) struct Present(Option<(String, BTreeSet<u16>)>);

impl Present {
    fn mark(&self, session: &mut control::Session) {
        if let Some((_, numbers)) = self.0.as_ref().filter(|(id, _)| *id == session.id) {
            for point in &mut session.points {
                point.present = numbers.contains(&point.number);
            }
        }
    }
}

/// One session with its journal, as an answer.
pub(super) fn session(archive: &Archive, id: &SessionId, present: &Present) -> Response {
    match control::session::show(archive, id) {
        Ok(mut session) => {
            present.mark(&mut session);
            Response::Session(Box::new(session))
        }
        Err(error) => not(error.fault(), sentence(&error)),
    }
}
