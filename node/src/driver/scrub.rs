//! Reading the archive again in the background: carries out what `engine::scrub` wants.
//!
//! Reading runs beside the vault's writer and never on a thread of the loop; what it comes to is written in the vault's
//! turn, so that a group which is being stored is not set aside meanwhile. A node that stops in between has lost one stretch
//! of reading, some seconds of work.

use std::path::Path;
use std::time::{Duration, Instant};

use store::archive::{self, Archive, rebuild};
use store::id::{NodeId, SessionId};
use store::scrub::{Cursor, Fault, Progress};
use store::session::State;
use store::verify::sentence;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::answer::{Reply, not};
use super::{Driver, INPUTS_MAX, unix_ms};
use crate::control::Response;
use crate::control::scrub::{self as shown, Scrubs};
use crate::engine::replica::Dice;
use crate::engine::scrub::{Input, Kind, Output, Scrub, Stretch, View};
use crate::vault::Vault;

/// How often the archive is asked which sessions it has, in seconds: a scrub is a matter of weeks.
const LIST_SECONDS: u64 = 3600;

/// What tasks tell the loop.
#[derive(Debug)]
pub(super) enum Told {
    Scrub(Input),
    /// The sessions were listed for somebody who wants one read now, or all.
    Listed {
        session: Option<SessionId>,
        reply: Reply,
    },
}

/// What the loop knows of reading again.
pub(super) struct Scrubbing {
    scrub: Scrub,
    told: mpsc::Sender<Told>,
}

impl Scrubbing {
    /// For this node; where outcomes come out.
    pub(super) fn new(me: NodeId) -> (Scrubbing, mpsc::Receiver<Told>) {
        let (told, from_tasks) = mpsc::channel(INPUTS_MAX);
        let dice = Dice::new(u64::from_be_bytes(*me.as_bytes().first_chunk().expect("a node's name has 32 bytes")));
        (Scrubbing { scrub: Scrub::new(me, dice), told }, from_tasks)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.scrub.deadline()
    }

    pub(super) fn alarm(&self) -> bool {
        self.scrub.view(Instant::now()).alarm
    }
}

impl Driver {
    /// Takes up what earlier runs read and found.
    pub(super) fn recall_scrub(&self) {
        let (vault, told) = (self.vault.clone(), self.scrubbing.told.clone());
        spawn_blocking(move || list(&vault, &told, true));
    }

    /// Once a second.
    pub(super) fn scrub_look(&mut self) {
        let live = self.engine.view(Instant::now()).session.is_some();
        self.scrub(Told::Scrub(Input::Live { live }));
        if self.looks.is_multiple_of(LIST_SECONDS) {
            let (vault, told) = (self.vault.clone(), self.scrubbing.told.clone());
            spawn_blocking(move || list(&vault, &told, false));
        }
    }

    /// Tells the part that knows when, and carries out what it wants.
    pub(super) fn scrub(&mut self, told: Told) {
        let input = match told {
            Told::Scrub(input) => input,
            Told::Listed { session, reply } => {
                // A caller that hung up wants no answer.
                let _ = reply.send(Response::Done);
                Input::Now { session }
            }
        };
        self.scrubbing.scrub.handle(Instant::now(), input);
        while let Some(output) = self.scrubbing.scrub.poll() {
            match output {
                Output::Read { session, from, bytes } => self.read_again(session, from, bytes),
                Output::Mend { session } => {
                    let (mender, told) = (self.mender(), self.scrubbing.told.clone());
                    tokio::spawn(async move {
                        let lost = mender.mend(session).await;
                        // The driver ends only with everything else.
                        let _ = told.send(Told::Scrub(Input::Mended { session, lost })).await;
                    });
                }
            }
        }
    }

    fn read_again(&self, session: SessionId, from: Option<Cursor>, bytes: u64) {
        let (vault, told, dir) = (self.vault.clone(), self.scrubbing.told.clone(), self.config.archive());
        spawn_blocking(move || {
            let stretch = match read(&vault, &dir, session, from, bytes) {
                Ok((faults, stretch)) => {
                    for fault in faults {
                        tracing::error!(%session, %fault, "damage was found on this disk");
                        // The driver is gone when this fails.
                        let kind = kind(&fault);
                        let _ = told.blocking_send(Told::Scrub(Input::Found { kind, age: Duration::ZERO }));
                    }
                    Some(stretch)
                }
                Err(why) => {
                    tracing::error!(%session, why, "the archive cannot be read again now; it is tried later");
                    None
                }
            };
            // The driver is gone when this fails.
            let _ = told.blocking_send(Told::Scrub(Input::Read { session, stretch }));
        });
    }

    /// Somebody wants a session read now, or all of them. They are listed anew: one may have just ended.
    pub(super) fn scrub_now(&self, session: Option<SessionId>, reply: Reply) {
        let (vault, told) = (self.vault.clone(), self.scrubbing.told.clone());
        spawn_blocking(move || {
            list(&vault, &told, false);
            // The driver is gone when this fails.
            let _ = told.blocking_send(Told::Listed { session, reply });
        });
    }

    /// How far it is.
    pub(super) fn answer_scrubs(&self, reply: Reply) {
        let now = Instant::now();
        let View { reading, paused, asked, alarm } = self.scrubbing.scrub.view(now);
        let reading = reading.map(|session| session.to_string());
        let mut scrubs = Scrubs { sessions: Vec::new(), reading, paused, asked: asked as u64, alarm };
        let due = self.scrubbing.scrub.all_due(now);
        let wall_ms = unix_ms();
        self.read_archive(reply, move |archive| match shown::list(archive) {
            Ok(sessions) => {
                scrubs.sessions = sessions;
                for session in &mut scrubs.sessions {
                    let left = session.id.parse().ok().and_then(|id: SessionId| due.get(&id).copied());
                    session.due = left.and_then(|left| wall_ms.checked_add(u64::try_from(left.as_millis()).ok()?));
                }
                Response::Scrubs(Box::new(scrubs))
            }
            Err(error) => not(error.fault(), sentence(&error)),
        });
    }
}

/// Reads one stretch, and writes what came of it.
fn read(
    vault: &Vault,
    dir: &Path,
    session: SessionId,
    from: Option<Cursor>,
    bytes: u64,
) -> Result<(Vec<Fault>, Stretch), String> {
    let archive = vault.archive();
    let head = archive.head(&session).map_err(|error| sentence(&error))?;
    let Some(head) = head.filter(|head| head.state == State::Ended) else {
        return Ok((Vec::new(), Stretch { bytes: 0, next: None, lost: false }));
    };
    let read = archive.scrub(&head, from, bytes).map_err(|error| sentence(&error))?;
    let (faults, read_bytes, next) = (read.faults.clone(), read.bytes, read.next);
    if faults.iter().any(|fault| matches!(fault, Fault::Table { .. })) {
        rebuild::want(dir).map_err(|error| sentence(&error))?;
    }
    let written = vault.run(move |archive| archive.scrubbed(&session, &read, unix_ms()).map(drop));
    written.map_err(|closed| closed.to_string())?.map_err(|error| sentence(&error))?;
    let lost = is_lost(archive, &session);
    Ok((faults, Stretch { bytes: read_bytes, next, lost }))
}

/// Whether groups of a session are lost. If that cannot be told, others are asked what they have.
fn is_lost(archive: &Archive, session: &SessionId) -> bool {
    archive.lost(session).map_or(true, |lost| !lost.is_empty())
}

fn kind(fault: &Fault) -> Kind {
    match fault {
        Fault::Group { .. } => Kind::Group,
        Fault::Table { .. } | Fault::Truth { .. } => Kind::Grave,
    }
}

/// Tells of every session that is over; of what was found in earlier runs too, if this is the first time.
fn list(vault: &Vault, told: &mpsc::Sender<Told>, first: bool) {
    let archive = vault.archive();
    let heads = match archive.sessions() {
        Ok(sessions) => sessions.heads,
        Err(error) => return tracing::error!(%error, "which sessions are to be read again cannot be listed"),
    };
    for head in heads.into_iter().filter(|head| head.state == State::Ended) {
        let session = head.id;
        let (progress, now) = match progress(vault, session) {
            Ok(progress) => (progress, unix_ms()),
            Err(error) => {
                tracing::error!(%session, %error, "how far this session was read again is not known");
                continue;
            }
        };
        // A clock that was set back makes ages of nothing, and reading late by as much as this node runs at the most.
        let age = |at_ms: u64| Duration::from_millis(now.saturating_sub(at_ms));
        let found = progress.found.iter().filter(|_| first);
        let found = found.map(|found| Input::Found { kind: kind(&found.fault), age: age(found.wall_ms) });
        let (next, lost) = (progress.next, is_lost(archive, &session));
        let stored = Input::Stored { session, age: age(progress.checked_ms), next, lost };
        for input in found.chain([stored]) {
            // The driver is gone when this fails.
            let _ = told.blocking_send(Told::Scrub(input));
        }
    }
}

/// What is known of a session; of a new one it is written down since when.
fn progress(vault: &Vault, session: SessionId) -> Result<Progress, archive::Error> {
    if let Some(progress) = vault.archive().scrub_progress(&session)? {
        return Ok(progress);
    }
    let progress = Progress::new(unix_ms());
    let kept = progress.clone();
    match vault.run(move |archive| archive.put_scrub_progress(&session, &kept)) {
        Ok(written) => written.map(|()| progress),
        // The node stops.
        Err(_) => Ok(progress),
    }
}
