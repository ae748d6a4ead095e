//! Who knocks at this node, and what it takes to let somebody in. The door (`join::door`) decides; here are the lines to
//! those who stand before it, and the one deed that must not be half done: an admission is in the invite's file, then
//! in the membership, then in force, and only then said.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use store::access::{self, Deed, What, Who};
use store::id::NodeId;
use store::roster::{Admission, GrantId, Membership, Unfit};
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use super::gate::logged;
use super::{Driver, unix_ms};
use crate::control::{Fault, Response};
use crate::engine::rights;
use crate::identity::Identity;
use crate::join::door::{Attempt, Close, Door, Input, Letter, Outcome, Output, TalkId, Unable};
use crate::join::invite::{self, Invite};
use crate::join::secret::{Line, MacKey};
use crate::join::wire::{Ask, HEARD_MAX};
use crate::media::visit::Visit;
use crate::wire::media;

/// Words for a knocker that it has not taken. The two sides take turns, so there is one, and the end.
const WORDS_MAX: usize = 2;
/// Frames of knockers waiting for the loop.
const HEARD_QUEUE: usize = 64;

/// What a line is told.
enum Word {
    Say(Bytes),
    End(Vec<Bytes>, Close),
}

/// The door and the lines to it.
pub(super) struct Porch {
    door: Door,
    lines: BTreeMap<TalkId, mpsc::Sender<Word>>,
    inputs: mpsc::Sender<Input>,
    talks: u64,
}

impl Porch {
    /// With the invites that lie in the data folder, and where what knockers say comes out. `after` is the membership,
    /// into which admissions go that a crash kept out of it.
    pub(super) fn new(invites: Vec<Invite>, me: &NodeId, after: &mut Membership) -> (Self, mpsc::Receiver<Input>) {
        let ours =
            |invite: &Invite| invite.grant().issuer == *me && invite.signed_grant().signer() == after.authority();
        let invites: Vec<Invite> = invites.into_iter().filter(ours).collect();
        for admission in invites.iter().filter_map(Invite::admission) {
            match after.merge_admission(admission.clone()) {
                Ok(true) => tracing::warn!(node = %admission.content().node.short(), "an admission is made up for"),
                Ok(false) => {}
                // A roster has its last word on that grant.
                Err(error) => tracing::debug!(%error, "a used invite"),
            }
        }
        let (inputs, heard) = mpsc::channel(HEARD_QUEUE);
        (Self { door: Door::new(invites, MacKey::generate()), lines: BTreeMap::new(), inputs, talks: 0 }, heard)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.door.deadline()
    }
}

impl Driver {
    /// Somebody stands before the door.
    pub(super) fn visited(&mut self, visit: Visit) {
        self.porch.talks += 1;
        let talk = TalkId(self.porch.talks);
        let line = Line { binding: visit.binding, knocker: visit.node, host: self.me };
        let from = visit.from.ip();
        let (words, to_line) = mpsc::channel(WORDS_MAX);
        self.porch.lines.insert(talk, words);
        tokio::spawn(attend(visit, talk, to_line, self.porch.inputs.clone()));
        self.knocked(Input::Came { talk, from, line });
    }

    /// Tells the door, and carries out what it wants.
    pub(super) fn knocked(&mut self, input: Input) {
        if let Input::Gone { talk } = &input {
            self.porch.lines.remove(talk);
        }
        self.porch.door.handle(Instant::now(), input);
        while let Some(output) = self.porch.door.poll() {
            match output {
                Output::Say { talk, frame } => {
                    if let Some(line) = self.porch.lines.get(&talk) {
                        // A line that is gone says so itself.
                        let _ = line.try_send(Word::Say(frame));
                    }
                }
                Output::End { talk, frames, close } => {
                    if let Some(line) = self.porch.lines.remove(&talk) {
                        let _ = line.try_send(Word::End(frames, close));
                    }
                }
                Output::Admit { talk, invite, node, ask } => {
                    let outcome = self.admit_node(&invite, node, &ask);
                    self.porch.door.handle(Instant::now(), Input::Admitted { talk, invite: invite.id(), outcome });
                }
                Output::Attempt(attempt) => self.attempted(&attempt),
            }
        }
    }

    fn admit_node(&mut self, invite: &Invite, node: NodeId, ask: &Ask) -> Result<Letter, Unable> {
        let reason = |error: &dyn std::error::Error| Unable::Reason(sentence(error));
        let unix_ms = unix_ms();
        let admission = match invite.admission() {
            Some(admission) => admission.clone(),
            None => sign(&self.identity, invite, node, ask, unix_ms).map_err(|error| reason(&error))?,
        };
        let mut after = self.roster.clone();
        let news = match after.merge_admission(admission.clone()) {
            Ok(news) => news,
            Err(store::roster::Error::Admission { why: Unfit::Void, .. }) => return Err(Unable::Withdrawn),
            Err(error) => return Err(reason(&error)),
        };
        if after.point(&node).is_none() {
            return Err(Unable::Reason(match after.revoked(&node) {
                Some(_) => "this machine's keys were revoked: use a new data folder".to_owned(),
                None => format!("its name {:?} or its keys belong to another point", invite.grant().name),
            }));
        }
        if invite.admission().is_none() {
            let mut used = invite.clone();
            used.use_up(admission.clone());
            // From here on this node comes in by this invite and no other, whatever happens.
            block_in_place(|| invite::save(&self.config.data, &used)).map_err(|error| reason(&error))?;
            self.porch.door.put(used);
        }
        if news {
            self.belong(after, Who::Point { node }).map_err(|error| reason(&error))?;
        }
        Ok(Letter { admission, membership: self.roster.encode().into(), unix_ms })
    }

    /// Every attempt is in the access log: under its address until something is proved, then under its node.
    fn attempted(&mut self, attempt: &Attempt) {
        let Attempt { from, node, invite, outcome } = attempt;
        let (who, what) = match invite {
            Some(invite) => (Who::Point { node: *node }, What::Invite { id: invite.to_string() }),
            None => (Who::Address { ip: *from }, What::Door { door: access::Door::Join }),
        };
        let node = node.short();
        let Some(reason) = why(outcome) else {
            tracing::info!(%from, node, ?outcome, "a new point was let in");
            return self.access.done(who, Deed::Join, what);
        };
        self.count("knocks_refused");
        tracing::warn!(%from, node, reason, "somebody knocked and was not let in");
        self.access.refused(who, Deed::Join, what, reason);
    }

    /// Takes up an invite that a command put into the data folder.
    pub(super) fn take_invite(&mut self, who: &rights::Who, id: &GrantId) -> Response {
        let invite = match block_in_place(|| invite::read(&self.config.data, id)) {
            Ok(invite) => invite,
            Err(error) => return Response::Not { fault: Fault::Failed, reason: sentence(&error) },
        };
        if let Err(why) = invite.may_be_kept(&self.roster, &self.me) {
            return Response::Not { fault: Fault::Refused, reason: why.to_owned() };
        }
        if self.porch.door.invites().count() >= invite::INVITES_MAX {
            return Response::Not { fault: Fault::Refused, reason: invite::Error::Full.to_string() };
        }
        self.porch.door.put(invite);
        self.access.done(logged(who), Deed::Invite, What::Invite { id: id.to_string() });
        Response::Done
    }

    /// Takes an invite back.
    pub(super) fn cancel_invite(&mut self, who: &rights::Who, id: &GrantId) -> Response {
        let Some(mut invite) = self.porch.door.invite(id).cloned() else {
            return Response::Not { fault: Fault::Missing, reason: format!("there is no invite {id} here") };
        };
        if let Err(why) = invite.may_be_withdrawn() {
            return Response::Not { fault: Fault::Refused, reason: why.to_owned() };
        }
        invite.withdraw();
        if let Err(error) = block_in_place(|| invite::save(&self.config.data, &invite)) {
            return Response::Not { fault: Fault::Failed, reason: sentence(&error) };
        }
        self.porch.door.put(invite);
        self.access.done(logged(who), Deed::Invite, What::Invite { id: id.to_string() });
        Response::Done
    }
}

/// Why an attempt failed, if it did.
fn why(outcome: &Outcome) -> Option<&str> {
    Some(match outcome {
        Outcome::Admitted | Outcome::Again => return None,
        Outcome::Wrong => "wrong code",
        Outcome::Used => "the code was used by another node",
        Outcome::Expired => "the code has expired",
        Outcome::Withdrawn => "the code was taken back",
        Outcome::TooMany => "too many attempts",
        Outcome::Broken => "it broke off, or made no sense",
        Outcome::Unable(reason) => reason,
    })
}

fn sign(
    identity: &Identity,
    invite: &Invite,
    node: NodeId,
    ask: &Ask,
    unix_ms: u64,
) -> Result<Signed<Admission>, store::signed::Error> {
    let admission = Admission {
        grant: invite.signed_grant().bytes().clone(),
        node,
        wrap: ask.wrap,
        addresses: ask.addresses.clone(),
        proof: ask.proof,
        unix_ms,
    };
    Signed::sound(admission, &identity.node)
}

/// Carries frames between a knocker and the loop, in turns.
async fn attend(mut visit: Visit, talk: TalkId, mut words: mpsc::Receiver<Word>, inputs: mpsc::Sender<Input>) {
    loop {
        // Before anything was heard, all there can be is the end.
        let heard = tokio::select! {
            word = words.recv() => return part(visit, word).await,
            heard = visit.hear(HEARD_MAX) => heard,
        };
        let input = match heard {
            Ok(frame) => Input::Heard { talk, frame, unix_ms: unix_ms() },
            Err(_) => Input::Gone { talk },
        };
        let is_gone = matches!(input, Input::Gone { .. });
        if inputs.send(input).await.is_err() || is_gone {
            return visit.close(media::Close::Done);
        }
        match words.recv().await {
            Some(Word::Say(frame)) => {
                if visit.say(&frame).await.is_err() {
                    let _ = inputs.send(Input::Gone { talk }).await;
                    return;
                }
            }
            end => return part(visit, end).await,
        }
    }
}

async fn part(visit: Visit, word: Option<Word>) {
    match word {
        Some(Word::End(frames, close)) => visit.part(&frames, of(close)).await,
        // The driver has ended, or lost count of turns.
        Some(Word::Say(_)) | None => visit.close(media::Close::Done),
    }
}

fn of(close: Close) -> media::Close {
    match close {
        Close::Done => media::Close::Done,
        Close::Stranger => media::Close::Stranger,
        Close::Busy => media::Close::Busy,
        Close::Silent => media::Close::Silent,
    }
}
