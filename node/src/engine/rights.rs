//! Who may do what. Every right there is stands in this file, and every entrance asks [`may`] before it does anything:
//! questions over the mesh and connections, streams and fetches of the media plane (`Who::Node`), the local socket
//! (`Who::Owner`, `Who::User`), the console (`Who::Account`, `Who::Browser`), and an export (whoever runs it).
//!
//! Two things decide, and both must agree. The *roster* says what a point may do in the mesh: it is signed by the
//! authority and holds for every program and person at that point. The *role* says what a person may do at this point.
//! In a session there is a third, the *part*: central speaks for the session, every other point for itself, and nobody
//! for another. So a stolen account cannot do what its point may not, and a point cannot do what its part forbids.
//!
//! What is not a question of rights is not here: whether a session runs, whether a track was asked for, whether too much
//! is asked at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::id::NodeId;
use store::roster::{Membership, Point, Right};
use store::session::Head;

/// Who belongs to the mesh, as this node's roster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    me: NodeId,
    points: BTreeMap<NodeId, Member>,
    revoked: BTreeSet<NodeId>,
    /// The nodes whose place a point has taken, one after the other.
    before: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

/// A point of the roster, as far as rights are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it may do beside taking part.
    pub rights: BTreeSet<Right>,
}

impl Members {
    /// The mesh of these points, seen from `me`; the `revoked` are told apart from strangers in words only.
    pub fn new(me: NodeId, points: BTreeMap<NodeId, Member>, revoked: BTreeSet<NodeId>) -> Self {
        Members { me, points, revoked, before: BTreeMap::new() }
    }

    /// As this node's roster has it.
    pub fn of(me: NodeId, roster: &Membership) -> Self {
        let member = |point: &Point| Member { name: point.name.clone(), rights: point.rights.clone() };
        let points = roster.points().iter().map(|point| (point.node, member(point))).collect();
        let mut members = Members::new(me, points, roster.all_revoked().map(|revoked| revoked.node).collect());
        for replaced in roster.all_revoked() {
            let mut heir = replaced.replaced_by;
            // As many steps as there are nodes to step on: a roster may say anything.
            for _ in 0..members.revoked.len() {
                let Some(node) = heir else { break };
                if members.points.contains_key(&node) {
                    members.before.entry(node).or_default().insert(replaced.node);
                    break;
                }
                heir = roster.revoked(&node).and_then(|next| next.replaced_by);
            }
        }
        members
    }

    /// A point and the nodes whose place it has: what they had a right to get back, it has.
    pub fn with_before(&self, node: &NodeId) -> BTreeSet<NodeId> {
        let mut nodes = self.before.get(node).cloned().unwrap_or_default();
        nodes.insert(*node);
        nodes
    }

    /// Whether a node is a point, or was one.
    pub fn knew(&self, node: &NodeId) -> bool {
        self.points.contains_key(node) || self.revoked.contains(node)
    }

    /// A point.
    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.points.get(node)
    }

    /// Whether a node is a point.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.points.contains_key(node)
    }

    /// The points.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.points.keys().copied()
    }

    fn known(&self, node: &NodeId) -> Result<&Member, Denied> {
        match self.points.get(node) {
            Some(member) => Ok(member),
            None if self.revoked.contains(node) => Err(Denied::Revoked),
            None => Err(Denied::Stranger),
        }
    }
}

/// Who wants to do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A node that has proved its key.
    Node(NodeId),
    /// Whoever can write in this point's data folder, and so has its keys: the local socket, a command on the folder.
    Owner {
        /// The machine's number for this user; for the access log, it decides nothing.
        uid: u32,
    },
    /// Another user of this machine who came upon the local socket.
    User {
        /// The machine's number for this user.
        uid: u32,
    },
    /// Somebody logged in at the console.
    Account {
        /// The account's name; for the access log, it decides nothing.
        name: String,
        /// What decides.
        role: Role,
    },
    /// A browser on this machine at which nobody has logged in.
    Browser,
}

/// What a person is at this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees to the room, the machine and the line (kỹ thuật).
    Operator,
    /// Writes the minutes (thư ký).
    Secretary,
    /// Leads the reception (chủ trì).
    Chair,
    /// Answers for the node: accounts, invitations, the access log (quản trị).
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Operator, Role::Secretary, Role::Chair, Role::Admin];

    /// The word for it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Secretary => "secretary",
            Role::Chair => "chair",
            Role::Admin => "admin",
        }
    }
}

/// What a node is in one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It chairs.
    Central,
    /// It takes part.
    Point,
    /// It took part until it was removed.
    Removed,
    /// It was never called to it.
    Outside,
    /// Nothing is known here of the session.
    Unknown,
}

impl Part {
    /// By the session's head.
    pub fn of(head: &Head, node: &NodeId) -> Part {
        match head.number(node) {
            Some(_) if head.central == *node => Part::Central,
            Some(number) if head.was_removed(number) => Part::Removed,
            Some(_) => Part::Point,
            None => Part::Outside,
        }
    }

    /// The best of what these nodes are: a point and those whose place it has.
    pub fn best(head: &Head, nodes: &BTreeSet<NodeId>) -> Part {
        let parts: Vec<_> = nodes.iter().map(|node| Part::of(head, node)).collect();
        let order = [Part::Central, Part::Point, Part::Removed];
        order.into_iter().find(|part| parts.contains(part)).unwrap_or(Part::Outside)
    }
}

/// Whose tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracks {
    /// Those of whoever sends them.
    Own,
    /// Those of another point.
    Anothers,
}

/// What somebody wants to do. The first half is what nodes ask of each other, the second what people want of this point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deed<'a> {
    /// Be connected, over the mesh or for media.
    Connect,
    /// Be told who belongs to the mesh, and say what it knows of that.
    Learn,
    /// Call us to a session.
    Invite(&'a Head),
    /// Speak for a session we are called to: it is over, or goes on without us.
    Direct(Part),
    /// Speak as a point to us, its central: I am back, these were my last groups.
    Report(Part),
    /// Offer and send live tracks.
    Send(Part, Tracks),
    /// Be sent live tracks.
    Receive(Part),
    /// Want this point to hold a copy of a session; `succeeds` if all are gone who look after the session before the node.
    Assign {
        /// What it is in the session.
        part: Part,
        /// Whether the session was left to it.
        succeeds: bool,
    },
    /// Fetch stored groups, or the session's record; `assigned` if whoever looks after the session wants the node to hold it.
    Fetch {
        /// What it is in the session.
        part: Part,
        /// Whether it is to hold a copy.
        assigned: bool,
    },
    /// Get the record of a session back after its archive was lost, by its part or that of the node whose place it has.
    Recover(Part, Tracks),

    /// See what this point is, who is there, which sessions there were and what happened in them.
    See,
    /// Start a session.
    Start,
    /// End a session.
    End,
    /// Remove a point from a session.
    Remove,
    /// Write something into the journal of a running session.
    Note,
    /// See, hear or export what was recorded.
    Read,
    /// Copy the archive, sealed as it is.
    Copy,
    /// Have the archive read again from the disk and compared with what was signed.
    Scrub,
    /// Hand in a newer roster. It is believed for the authority's signature, whoever brings it.
    HandIn,
    /// Make invitations.
    Administer,
    /// Make and change the accounts of this point's page. Every point has its own, whatever it may in the mesh.
    People,
    /// Read who did what.
    ReadLog,
    /// Stop the node.
    Stop,
}

/// Why not. Each is one sentence that says what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No point.
    #[error("the sender is not in this point's roster")]
    Stranger,
    /// A point once.
    #[error("the sender was revoked by the authority")]
    Revoked,
    /// The roster does not give it that right.
    #[error("the sender's roster entry lacks the right \"{0}\"")]
    Lacks(Right),
    /// The roster does not give this point that right.
    #[error("this point's roster entry lacks the right \"{0}\": ask whoever keeps the roster for it")]
    WeLack(Right),
    /// Another chairs.
    #[error("only the session's central point may do that")]
    NotCentral,
    /// Not of this session.
    #[error("the sender is not a point of that session")]
    Outside,
    /// Not any more.
    #[error("the sender was removed from that session")]
    Removed,
    /// We are not called.
    #[error("this point is not named in that session")]
    NotNamed,
    /// The head names somebody the roster does not.
    #[error("{0} is named in that session and is not in this point's roster")]
    Unknown(NodeId),
    /// For another.
    #[error("a point may send its own tracks only, unless it is central or has the right \"relay\"")]
    Another,
    /// Not this kind of account.
    #[error("the role \"{}\" does not allow that: log in as somebody else, or ask an administrator of this point", .0.name())]
    Role(Role),
    /// Another user.
    #[error("this point answers only the user of this machine that it runs as, and root")]
    User,
    /// No account.
    #[error("log in first")]
    Login,
    /// Nodes do not command each other, and people do not speak as nodes.
    #[error("that cannot be asked this way")]
    Entrance,
}

impl Denied {
    /// Whether somebody spoke in another's name. An honest program never does, so it is worth an alarm; the rest may be a
    /// roster that is not the same everywhere yet.
    pub fn is_forgery(self) -> bool {
        match self {
            Denied::NotCentral | Denied::Another => true,
            Denied::Stranger
            | Denied::Revoked
            | Denied::Lacks(_)
            | Denied::WeLack(_)
            | Denied::Outside
            | Denied::Removed
            | Denied::NotNamed
            | Denied::Unknown(_)
            | Denied::Role(_)
            | Denied::User
            | Denied::Login
            | Denied::Entrance => false,
        }
    }
}

/// Whether `who` may do this here.
pub fn may(members: &Members, who: &Who, deed: Deed<'_>) -> Result<(), Denied> {
    match who {
        Who::Node(node) => node_may(members, node, deed),
        Who::Owner { .. } => point_may(members, deed),
        Who::User { .. } => Err(Denied::User),
        Who::Account { role, .. } => {
            let roles = roles(deed).ok_or(Denied::Entrance)?;
            if !roles.contains(role) {
                return Err(Denied::Role(*role));
            }
            point_may(members, deed)
        }
        Who::Browser if deed == Deed::See => Ok(()),
        Who::Browser => Err(Denied::Login),
    }
}

/// What another node may ask of this one.
fn node_may(members: &Members, node: &NodeId, deed: Deed<'_>) -> Result<(), Denied> {
    let member = members.known(node)?;
    let has = |right| if member.rights.contains(&right) { Ok(()) } else { Err(Denied::Lacks(right)) };
    match deed {
        Deed::Connect | Deed::Learn => Ok(()),
        Deed::Invite(head) => {
            has(Right::Chair)?;
            called(members, node, head)
        }
        Deed::Direct(part) => match part {
            Part::Central => Ok(()),
            // Called to it while we were away, we never heard of it; whoever may chair may say that it is over.
            Part::Unknown => has(Right::Chair),
            Part::Point | Part::Removed | Part::Outside => Err(Denied::NotCentral),
        },
        // An answer to who asks about a session unknown here says no more than that.
        Deed::Report(Part::Unknown) => Ok(()),
        Deed::Report(part) | Deed::Receive(part) | Deed::Send(part, Tracks::Own) => takes_part(part),
        Deed::Send(part, Tracks::Anothers) => {
            takes_part(part)?;
            if part == Part::Central { Ok(()) } else { has(Right::Relay).map_err(|_| Denied::Another) }
        }
        Deed::Assign { part, succeeds } => match part {
            Part::Central => Ok(()),
            Part::Point if succeeds => Ok(()),
            // What nobody here knows can only be told by its central, which must have been allowed to chair.
            Part::Unknown => has(Right::Chair),
            Part::Point | Part::Removed | Part::Outside => Err(Denied::NotCentral),
        },
        Deed::Fetch { part, assigned } => match part {
            // It keeps the record of everybody.
            Part::Central => Ok(()),
            Part::Point if assigned => has(Right::Hold).or(has(Right::Read)),
            Part::Point => has(Right::Read),
            Part::Outside | Part::Unknown if assigned => has(Right::Hold),
            Part::Removed | Part::Outside | Part::Unknown => takes_part(part),
        },
        Deed::Recover(part, tracks) => match (part, tracks) {
            // What it signed itself it must have back before it signs again.
            (Part::Central, _) | (Part::Point | Part::Removed, Tracks::Own) => Ok(()),
            (Part::Point, Tracks::Anothers) => has(Right::Hold).or(has(Right::Read)),
            (Part::Removed | Part::Outside | Part::Unknown, _) => takes_part(part),
        },
        Deed::See
        | Deed::Start
        | Deed::End
        | Deed::Remove
        | Deed::Note
        | Deed::Read
        | Deed::Copy
        | Deed::Scrub
        | Deed::HandIn
        | Deed::Administer
        | Deed::People
        | Deed::ReadLog
        | Deed::Stop => Err(Denied::Entrance),
    }
}

/// Whether `head` may call us: it must come from its own central, name us, and name only points we know.
fn called(members: &Members, from: &NodeId, head: &Head) -> Result<(), Denied> {
    if head.central != *from {
        return Err(Denied::NotCentral);
    }
    if !head.takes_part(&members.me) {
        return Err(Denied::NotNamed);
    }
    match head.present().find(|point| !members.contains(&point.node)) {
        Some(stranger) => Err(Denied::Unknown(stranger.node)),
        None => Ok(()),
    }
}

fn takes_part(part: Part) -> Result<(), Denied> {
    match part {
        Part::Central | Part::Point => Ok(()),
        Part::Removed => Err(Denied::Removed),
        Part::Outside | Part::Unknown => Err(Denied::Outside),
    }
}

/// What this point may do, whoever at it wants to.
fn point_may(members: &Members, deed: Deed<'_>) -> Result<(), Denied> {
    let right = match deed {
        Deed::Start | Deed::Remove => Right::Chair,
        Deed::Read => Right::Read,
        Deed::Administer => Right::Admin,
        // Ending, and telling why, must not fail because a right was taken away meanwhile.
        Deed::End
        | Deed::Note
        | Deed::See
        | Deed::Copy
        | Deed::Scrub
        | Deed::HandIn
        | Deed::People
        | Deed::ReadLog
        | Deed::Stop => {
            return Ok(());
        }
        Deed::Connect
        | Deed::Learn
        | Deed::Invite(_)
        | Deed::Direct(_)
        | Deed::Report(_)
        | Deed::Send(..)
        | Deed::Receive(_)
        | Deed::Assign { .. }
        | Deed::Fetch { .. }
        | Deed::Recover(..) => return Err(Denied::Entrance),
    };
    let has = members.points.get(&members.me).is_some_and(|me| me.rights.contains(&right));
    if has { Ok(()) } else { Err(Denied::WeLack(right)) }
}

/// Which roles allow it; `None` for what no account can do.
fn roles(deed: Deed<'_>) -> Option<&'static [Role]> {
    match deed {
        Deed::See | Deed::Note => Some(&Role::ALL),
        Deed::Start | Deed::End => Some(&[Role::Operator, Role::Chair, Role::Admin]),
        Deed::Remove => Some(&[Role::Chair, Role::Admin]),
        // Not the admin: whoever gives rights does not read by them, and giving himself one is in the access log.
        Deed::Read => Some(&[Role::Secretary, Role::Chair]),
        Deed::HandIn | Deed::Administer | Deed::People | Deed::ReadLog => Some(&[Role::Admin]),
        Deed::Scrub | Deed::Stop => Some(&[Role::Operator, Role::Admin]),
        Deed::Copy
        | Deed::Connect
        | Deed::Learn
        | Deed::Invite(_)
        | Deed::Direct(_)
        | Deed::Report(_)
        | Deed::Send(..)
        | Deed::Receive(_)
        | Deed::Assign { .. }
        | Deed::Fetch { .. }
        | Deed::Recover(..) => None,
    }
}

#[cfg(test)]
mod tests;
