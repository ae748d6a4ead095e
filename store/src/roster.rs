//! The roster: which nodes are points, what they are called and what they may do. A node talks to nobody else.
//!
//! It is believed because the agency's authority signed it, wherever it came from: its key is the only one that can
//! make a point, and it may lie in a drawer. Rosters are numbered and each names the one before, so a node that has seen
//! a newer one cannot be talked back to an older, and an authority that signs two different rosters with one number is
//! caught by whoever sees both.
//!
//! A point can also come in between two rosters: the authority signs a [`Grant`] beforehand, a point that the grant names lets
//! one node use it and signs an [`Admission`], and a [`Membership`] is the roster together with the admissions it does
//! not contain yet. That is what a node works with.

mod admission;
mod grant;
mod membership;
mod request;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::admission::{Admission, Proof};
pub use self::grant::{Grant, GrantId};
pub use self::membership::{Error, Membership, Unfit};
pub use self::request::Request;
use crate::{
    id::{Hash, NodeId, PointNumber},
    keys::WrapPublic,
    session::check_text,
    signed::Content,
};

/// Most points in a roster: as many as a session can number.
pub const POINTS_MAX: usize = PointNumber::MAX as usize + 1;

/// Most addresses of one point.
pub const ADDRESSES_MAX: usize = 16;

/// Most revocations in a roster. They are never taken out; with a hundred a year they last for a century and a half.
pub const REVOKED_MAX: usize = 16_384;

/// Most grants a roster can name as void. Every admission that is absorbed adds one for ever, at 17 bytes each.
pub const VOID_MAX: usize = 65_536;

/// What a point may do beside taking part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Start sessions and be their central.
    Chair,
    /// Forward other points' groups.
    Relay,
    /// Keep copies of sessions it did not take part in.
    Hold,
    /// Open the archive of sessions it took part in.
    Read,
    /// Invite points and see to the mesh.
    Admin,
}

impl Right {
    /// All rights, in the order in which a record lists them.
    pub const ALL: [Right; 5] = [Right::Chair, Right::Relay, Right::Hold, Right::Read, Right::Admin];

    /// The word for it in records, commands and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Right::Chair => "chair",
            Right::Relay => "relay",
            Right::Hold => "hold",
            Right::Read => "read",
            Right::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Its node.
    pub node: NodeId,
    /// The key for which session keys are wrapped.
    pub wrap: WrapPublic,
    /// What people call it; no two points have the same name.
    pub name: String,
    /// Its level of administration, in the agency's own words; may be empty.
    pub level: String,
    /// Points that would be lost together (a building, a flood plain) share a zone; may be empty.
    pub zone: String,
    /// What it may do.
    pub rights: BTreeSet<Right>,
    /// Where its mesh port may be reached, as `HOST:PORT`; on one LAN none are needed. Not read here any closer.
    pub addresses: Vec<String>,
    /// The node whose place it took, which is revoked.
    pub replaces: Option<NodeId>,
}

impl Point {
    /// Whether it may do this.
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    fn check(&self) -> Result<(), String> {
        check_place(&self.name, &self.level, &self.zone)?;
        check_addresses(&self.addresses)
    }
}

/// A node that was a point and is none any more. It never becomes one again; a machine that comes back gets new keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// The node.
    pub node: NodeId,
    /// What it was called.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// When, by the clock of whoever revoked it, unix milliseconds. For people; nothing is ordered by it.
    pub unix_ms: u64,
    /// The node that has its place now.
    pub replaced_by: Option<NodeId>,
}

/// A roster. Any value is possible here; [`Content::check`] says whether it makes sense, and only such are signed by
/// [`crate::signed::Signed::sound`] and accepted by [`crate::signed::Signed::parse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Its number, from 1.
    pub number: u64,
    /// Hash of the signed roster before; [`Hash::NONE`] in the first.
    pub prev: Hash,
    /// The agency that runs this mesh.
    pub agency: String,
    /// The key for which all session keys are wrapped as well, so that the agency can open its archive when the points
    /// are gone. Its secret half is kept in shares on paper.
    pub recovery: WrapPublic,
    /// When it was signed by the authority's clock, unix milliseconds. For people; the number decides.
    pub issued_unix_ms: u64,
    /// The points.
    pub points: Vec<Point>,
    /// The nodes that are no points any more. Later rosters keep them all.
    pub revoked: Vec<Revoked>,
    /// Grants that admit nobody (any more): taken back, or used and absorbed into the points. Later rosters keep them all.
    pub void: Vec<GrantId>,
}

impl Roster {
    /// The point of this name, in whatever case it is written.
    pub fn named(&self, name: &str) -> Option<&Point> {
        let name = name.to_lowercase();
        self.points.iter().find(|point| point.name.to_lowercase() == name)
    }
}

impl Content for Roster {
    const KIND: &'static str = "application/vnd.diemcau.roster.v1+cbor";

    /// 8192 points with a KiB each; with names of ordinary length they take a quarter of it.
    const LEN_MAX: usize = 8 << 20;

    /// Refuses a roster that contradicts itself or a limit: a node, wrap key or name twice, a point that is revoked,
    /// texts that cannot be shown.
    fn check(&self) -> Result<(), String> {
        if (self.number == 1) != (self.prev == Hash::NONE) || self.number == 0 {
            return Err(format!("roster number {} and a roster before it that do not fit together", self.number));
        }
        check_text(&self.agency).map_err(|why| format!("an agency whose name {why}"))?;
        for (count, max, what) in [
            (self.points.len(), POINTS_MAX, "points"),
            (self.revoked.len(), REVOKED_MAX, "revocations"),
            (self.void.len(), VOID_MAX, "void grants"),
        ] {
            if count > max {
                return Err(format!("{count} {what}; {max} are possible"));
            }
        }
        let mut revoked = BTreeMap::new();
        for entry in &self.revoked {
            let who = |why| format!("revoked node {}: {why}", entry.node.short());
            check_text(&entry.name).map_err(|why| who(format!("its name {why}")))?;
            check_text(&entry.reason).map_err(|why| who(format!("its reason {why}")))?;
            if revoked.insert(entry.node, entry.replaced_by).is_some() {
                return Err(who("it is there twice".into()));
            }
        }
        let (mut nodes, mut names, mut wraps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (place, point) in self.points.iter().enumerate() {
            let who = |why: String| {
                let name: String = point.name.chars().take(40).collect();
                format!("point {} ({name:?}): {why}", place + 1)
            };
            point.check().map_err(who)?;
            if !names.insert(point.name.to_lowercase()) {
                return Err(who("another point has the same name".into()));
            }
            if !nodes.insert(point.node) {
                return Err(who("another point has the same node".into()));
            }
            if !wraps.insert(point.wrap) {
                return Err(who("another point has the same wrap key".into()));
            }
            if revoked.contains_key(&point.node) {
                return Err(who("its node is revoked".into()));
            }
            if point.replaces.is_some_and(|old| !revoked.contains_key(&old)) {
                return Err(who("the node it replaces is not revoked".into()));
            }
        }
        Ok(())
    }
}

/// Says in words what is wrong with a point's texts.
fn check_place(name: &str, level: &str, zone: &str) -> Result<(), String> {
    check_text(name).map_err(|why| format!("its name {why}"))?;
    for (what, text) in [("level", level), ("zone", zone)] {
        if let Err(why) = check_text(text)
            && !text.is_empty()
        {
            return Err(format!("its {what} {why}"));
        }
    }
    Ok(())
}

/// Says in words what is wrong with a point's addresses.
fn check_addresses(addresses: &[String]) -> Result<(), String> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("more than {ADDRESSES_MAX} addresses"));
    }
    addresses.iter().try_for_each(|address| check_text(address)).map_err(|why| format!("an address of it {why}"))
}

#[cfg(test)]
mod tests;
