//! Who belongs to the mesh, while the node runs: news from other points, from the authority's commands and from this
//! node's own door all end in [`Driver::belong`], which writes first and then lets everything else know.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use store::access::{Deed, What, Who};
use store::id::{Hash, NodeId};
use store::roster::{self as rosters, Membership};
use store::signed::Signed;
use store::verify::sentence;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::Driver;
use crate::engine::rights;
use crate::engine::roster::{Input, Item, Known, Output};
use crate::engine::session;
use crate::identity::roster;
use crate::mesh::Members;
use crate::wire::roster::Message;

impl Driver {
    /// Takes a changed membership that `who` brought: on the disk before anybody acts on it, then at every entrance at once.
    pub(super) fn belong(&mut self, after: Membership, who: Who) -> Result<(), roster::Error> {
        block_in_place(|| roster::keep(&self.config.data, &after, self.vault.archive()))?;
        let points: BTreeSet<NodeId> = after.points().iter().map(|point| point.node).collect();
        tracing::info!(
            roster = after.number(),
            points = points.len(),
            admitted_beside = after.admissions().count(),
            "the mesh has changed"
        );
        self.mesh.set_members(members(&after));
        // In this order: who is dialled no more is not dialled again when its connection is closed.
        let gone = self.dialled.keys().filter(|node| !points.contains(*node)).copied().collect::<Vec<_>>();
        for node in gone {
            self.dialled.remove(&node);
            self.media.hang_up(node);
        }
        self.media_at.retain(|node, _| points.contains(node));
        self.members = rights::Members::of(self.me, &after);
        self.media.set_members(self.members.clone());
        if after.number() != self.roster.number() {
            self.access.done(who, Deed::Roster, What::Roster { number: after.number() });
        }
        let known = known(&after);
        let ours = after.revoked(&self.me).map(|revoked| revoked.reason.clone());
        self.roster = after;
        self.tell(session::Input::Roster { members: self.members.clone() });
        self.mesh_of_copies();
        self.spread(Input::Changed(known));
        if let Some(reason) = ours {
            tracing::error!(reason, "this point was revoked from the mesh: it takes part no more, and stops");
            self.stopping = true;
        }
        Ok(())
    }

    /// Tells the part that compares with others, and carries out what it wants.
    pub(super) fn spread(&mut self, input: Input) {
        self.spreading.handle(Instant::now(), input);
        while let Some(output) = self.spreading.poll() {
            match output {
                Output::Ask { node, message } => self.ask_of_roster(node, message),
                Output::Reply { ticket, message } => {
                    if let Some(reply) = self.replies.remove(&ticket) {
                        // The asker may have given up.
                        let _ = reply.send(message.encode());
                    }
                }
                Output::Take { from, item, bytes } => self.offered(from, item, bytes),
            }
        }
    }

    fn ask_of_roster(&self, node: NodeId, message: Message) {
        let (mesh, told) = (self.mesh.clone(), self.told_of_roster.clone());
        tokio::spawn(async move {
            let answer = match mesh.ask(node, message.encode()).await {
                Ok(answer) => Message::decode(&answer)
                    .inspect_err(|error| tracing::warn!(point = %node.short(), %error, "its answer"))
                    .ok(),
                Err(error) => {
                    tracing::debug!(point = %node.short(), %error, "asking a point about the roster");
                    None
                }
            };
            // The driver ends only with everything else.
            let _ = told.send(Input::Answered { node, asked: message, answer }).await;
        });
    }

    /// A question about the roster.
    pub(super) fn asked_of_roster(&mut self, from: NodeId, message: &[u8], reply: oneshot::Sender<Bytes>) {
        match Message::decode(message) {
            Ok(message) => {
                let ticket = self.ticket();
                self.replies.insert(ticket, reply);
                self.spread(Input::Asked { from, ticket, message });
            }
            Err(error) => tracing::warn!(point = self.name(from), %error, "a question cannot be read"),
        }
    }

    /// A record that another point gave: looked at like one from a stranger.
    fn offered(&mut self, from: NodeId, item: Item, bytes: Bytes) {
        let hash = Hash::of(&bytes);
        let mut after = self.roster.clone();
        let merged = block_in_place(|| match item {
            Item::Roster => after.merge_roster(Signed::parse(bytes)?),
            Item::Admission => after.merge_admission(Signed::parse(bytes)?),
        });
        let taken: Result<bool, String> = match merged {
            Ok(true) => self.belong(after, Who::Point { node: from }).map(|()| true).map_err(|error| sentence(&error)),
            Ok(false) => Ok(false),
            Err(error) => {
                self.refuse_roster(from, &error);
                Ok(false)
            }
        };
        match taken {
            Ok(true) => return,
            Ok(false) => {}
            // It is fetched again when the points compare the next time after a restart.
            Err(error) => tracing::error!(error, "news of the roster could not be written and are not in force"),
        }
        self.spread(Input::Refused { item: hash });
    }

    fn refuse_roster(&mut self, from: NodeId, error: &rosters::Error) {
        let point = self.name(from);
        match error {
            // Honest points that have not heard the newest yet offer these.
            rosters::Error::Older { .. }
            | rosters::Error::Admission { why: rosters::Unfit::Void | rosters::Unfit::Revoked, .. } => {
                tracing::debug!(point, %error, "old news of the roster");
            }
            error => {
                self.count("rosters_refused");
                let reason = sentence(error);
                tracing::error!(point, error = reason, "news of the roster are refused");
                let what = What::Roster { number: self.roster.number() };
                self.access.refused(Who::Point { node: from }, Deed::Roster, what, &reason);
            }
        }
    }
}

/// Everybody the mesh may talk to, and where they are said to be.
pub(super) fn members(membership: &Membership) -> Members {
    membership.points().iter().map(|point| (point.node, roster::addresses(point))).collect()
}

/// The records of a membership, for those who lack some.
pub(super) fn known(membership: &Membership) -> Known {
    Known {
        number: membership.number(),
        roster: membership.roster().bytes().clone(),
        admissions: membership.admissions().map(|admission| admission.bytes().clone()).collect(),
    }
}
