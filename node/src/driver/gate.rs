//! The gate: what comes in from other nodes and from people is asked of `engine::rights` here, before anything is done.
//!
//! Who is refused is told why in a sentence, and it is counted and stands in the access log. Speaking in another's name
//! is worse than asking for too much, and counted apart.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use store::access;
use store::id::NodeId;
use tokio::sync::oneshot;

use super::{Driver, REPLIES_MAX, unix_ms};
use crate::control::Request;
use crate::engine::copies::Taken;
use crate::engine::rights::{Deed, Denied, Who, may};
use crate::engine::session::{Input, question};
use crate::wire::control::Message;
use crate::wire::evidence::KIND as EVIDENCE;
use crate::wire::recover::KIND as RECOVERY;
use crate::wire::replica::KIND as COPIES;
use crate::wire::roster::KIND as ROSTER;

/// Why knocks are not answered. Their addresses may be anybody's, so they are not written down.
const PASSED_OVER: &str = "too many knocks at once";

impl Driver {
    /// Somebody was refused something.
    pub(super) fn denied(&mut self, who: &Who, deed: access::Deed, what: access::What, denied: Denied) {
        let name = match who {
            Who::Node(node) => self.name(*node),
            Who::Owner { .. } => "a command on this machine".to_owned(),
            Who::User { uid } => format!("user {uid} of this machine"),
            Who::Account { name, .. } => name.clone(),
            Who::Browser => "a browser on this machine".to_owned(),
        };
        // What became of an account's wish the page writes down itself, done or refused.
        if !matches!(who, Who::Account { .. }) {
            self.access.refused(logged(who), deed, what, &denied.to_string());
        }
        if denied.is_forgery() {
            self.count("forgeries_refused");
            tracing::warn!(who = name, %denied, "somebody spoke in another's name");
        } else {
            self.count("deeds_refused");
            tracing::warn!(who = name, %denied, "refused");
        }
    }

    /// Somebody at a door was sent away. Who was a point once is named; a stranger's key says nothing, as anybody can make
    /// himself a new one, but his address may.
    pub(super) fn turned_away(&mut self, node: Option<NodeId>, from: IpAddr, door: access::Door) {
        let allowed = node.map(|node| may(&self.members, &Who::Node(node), Deed::Connect));
        let (who, reason) = match (node, allowed) {
            (Some(node), Some(Err(denied @ Denied::Revoked))) => (access::Who::Point { node }, denied.to_string()),
            (_, Some(Err(denied))) => (access::Who::Address { ip: from }, denied.to_string()),
            // It became a point just now, and will be back.
            (_, Some(Ok(()))) => return,
            (_, None) => (access::Who::Address { ip: from }, "its certificate is no node's".to_owned()),
        };
        self.access.refused(who, access::Deed::Connect, access::What::Door { door }, &reason);
    }

    /// What happens too often to be told one by one: who fetched how much, and how many knocks were passed over.
    pub(super) fn log_numbers(&mut self) {
        let now = Instant::now();
        for ((node, session), groups) in self.media.taken() {
            self.copies.handle(now, Taken { node, session, groups, since_ms: unix_ms() });
        }
        if self.stopping {
            self.copies.stop(now);
        }
        while let Some(Taken { node, session, groups, since_ms }) = self.copies.poll(now) {
            let (who, what) = (access::Who::Point { node }, access::What::Session { session });
            self.access.done_often(who, access::Deed::Copy, what, groups, since_ms);
        }
        let doors = [(self.mesh.knocks(), access::Door::Mesh), (self.media.knocks(), access::Door::Media)];
        for ((knocks, door), told) in doors.into_iter().zip(&mut self.knocks_told) {
            let more = knocks.ignored.saturating_sub(std::mem::replace(told, knocks.ignored));
            if more > 0 {
                let what = access::What::Door { door };
                self.access.refused_often(access::Who::Many {}, access::Deed::Connect, what, PASSED_OVER, more);
            }
        }
    }

    /// A node gave us something that is not what it says.
    pub(super) fn forged(&mut self, node: NodeId, what: &str) {
        let door = access::What::Door { door: access::Door::Media };
        self.access.refused(access::Who::Point { node }, access::Deed::Send, door, what);
        self.count("forgeries_refused");
        tracing::warn!(point = self.name(node), what, "a point passed off something as what it is not");
    }

    /// A point asks something over the mesh.
    pub(super) fn asked(&mut self, from: NodeId, message: &[u8], reply: oneshot::Sender<Bytes>) {
        // Questions whose asker has gone are no burden any more.
        self.replies.retain(|_, reply| !reply.is_closed());
        if self.replies.len() >= REPLIES_MAX {
            tracing::warn!(point = self.name(from), "too many questions at once; this one is refused");
            return;
        }
        if message.first() == Some(&ROSTER) {
            let who = Who::Node(from);
            return match may(&self.members, &who, Deed::Learn) {
                Ok(()) => self.asked_of_roster(from, message, reply),
                // Dropping the reply refuses.
                Err(denied) => {
                    let door = access::What::Door { door: access::Door::Mesh };
                    self.denied(&who, access::Deed::Ask, door, denied);
                }
            };
        }
        if message.first() == Some(&EVIDENCE) {
            return self.asked_of_evidence(from, message, reply);
        }
        if message.first() == Some(&COPIES) {
            return self.asked_of_copies(from, message, reply);
        }
        if message.first() == Some(&RECOVERY) {
            return self.asked_of_recovery(from, message, reply);
        }
        let message = match Message::decode(message) {
            Ok(message) => message,
            Err(error) => return self.unreadable(from, &error),
        };
        let session = message.session();
        let part = self.engine.part(&session, &from);
        let who = Who::Node(from);
        let allowed = may(&self.members, &who, question(&message, part));
        let ticket = self.ticket();
        self.replies.insert(ticket, reply);
        match allowed {
            Ok(()) => self.tell(Input::Asked { from, ticket, message }),
            Err(denied) => {
                self.denied(&who, access::Deed::Ask, access::What::Session { session }, denied);
                self.reply(ticket, &Message::refused(session, denied.to_string()));
            }
        }
    }

    /// A question that is none is written down, and not answered.
    pub(super) fn unreadable(&self, from: NodeId, error: &dyn std::error::Error) {
        let door = access::What::Door { door: access::Door::Mesh };
        self.access.refused(access::Who::Point { node: from }, access::Deed::Ask, door, &error.to_string());
        tracing::warn!(point = self.name(from), %error, "a question cannot be read");
    }

    /// Whether a person may have this; a refusal is reported.
    pub(super) fn wanted(&mut self, who: &Who, request: &Request) -> Result<(), Denied> {
        let (deed, logged) = deed(request);
        let door = match who {
            Who::Account { .. } | Who::Browser => access::Door::Page,
            Who::Owner { .. } | Who::User { .. } | Who::Node(_) => access::Door::Socket,
        };
        may(&self.members, who, deed)
            .inspect_err(|denied| self.denied(who, logged, access::What::Door { door }, *denied))
    }
}

/// Somebody as the access log names him.
pub(super) fn logged(who: &Who) -> access::Who {
    match who {
        Who::Node(node) => access::Who::Point { node: *node },
        Who::Owner { uid } | Who::User { uid } => access::Who::User { uid: *uid },
        Who::Account { name, .. } => access::Who::Account { name: name.clone() },
        Who::Browser => access::Who::Local {},
    }
}

/// What a person's request comes to, as the rights and as the access log name it.
pub(crate) fn deed(request: &Request) -> (Deed<'static>, access::Deed) {
    match request {
        Request::Status
        | Request::Room
        | Request::Stats
        | Request::SessionList
        | Request::SessionShow { .. }
        | Request::Scrubs
        | Request::Recovery => (Deed::See, access::Deed::Ask),
        Request::SessionStart { .. } => (Deed::Start, access::Deed::Session),
        Request::SessionEnd { .. } => (Deed::End, access::Deed::Session),
        Request::SessionRemove { .. } => (Deed::Remove, access::Deed::Remove),
        Request::SessionNote { .. } => (Deed::Note, access::Deed::Session),
        Request::ScrubNow { .. } => (Deed::Scrub, access::Deed::Ask),
        Request::Checkpoint { .. } | Request::Recover { .. } => (Deed::Copy, access::Deed::Copy),
        Request::Keys { .. } => (Deed::Read, access::Deed::Open),
        Request::Exporting { .. } => (Deed::Read, access::Deed::Export),
        Request::AccountList | Request::Account { .. } => (Deed::People, access::Deed::Account),
        Request::AccessLog { .. } => (Deed::ReadLog, access::Deed::Ask),
        Request::InviteTake { .. } | Request::InviteCancel { .. } => (Deed::Administer, access::Deed::Invite),
        Request::RosterSet { .. } => (Deed::HandIn, access::Deed::Roster),
        Request::Stop => (Deed::Stop, access::Deed::Ask),
    }
}
