//! Who belongs to the mesh, as far as a node knows: the newest roster and the admissions it does not contain yet.
//!
//! Two nodes that have been told the same things have the same membership, in whatever order they were told and however
//! often. So what is kept is only the newest roster and, for each grant not yet void, the earliest admission; who is
//! a point follows from these by one rule ([`Membership::derive`]) each time they change. An admission is not dropped
//! when it cannot have effect (its name is taken, say): a node that heard things in another order would have kept it.
//!
//! Nothing here asks a clock. Whether a grant had expired is judged by the time its issuer wrote into the admission: an issuer
//! that lies about it can use its own invitation late, and the authority can make that invitation void.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Admission, Grant, GrantId, POINTS_MAX, Point, Revoked, Right, Roster};
use crate::{
    id::{Hash, NodeId},
    keys::WrapPublic,
    signed::{self, Content as _, Signed},
};

/// Why a roster or an admission was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not what they should be: damaged, or of another version.
    #[error("the roster or an admission beside it cannot be read")]
    Record(#[from] signed::Error),
    /// The bytes around the records are not as this program writes them.
    #[error("the membership's bytes {0}")]
    Form(&'static str),
    /// Another authority's roster: of another mesh, or forged.
    #[error("the roster is signed by {signer}, but the authority of this mesh is {authority}")]
    Authority {
        /// Who signed.
        signer: NodeId,
        /// Whose signature counts here.
        authority: NodeId,
    },
    /// An older roster than the one here. Whoever sent it should be given the newer.
    #[error("roster {theirs} is older than roster {ours}, which is known here; there is no way back")]
    Older {
        /// Number of the roster here.
        ours: u64,
        /// Number of the one offered.
        theirs: u64,
    },
    /// The authority signed two rosters that cannot both be: somebody misuses its key, or two people used it at once.
    #[error(
        "there are two rosters {number} of this authority ({ours} and {theirs}): its key is misused or was used in two \
             places at once; no change is taken until its keeper signs a roster that follows the one known here"
    )]
    Fork {
        /// The number at which they part.
        number: u64,
        /// Hash of the roster that is or was known here under it.
        ours: Hash,
        /// Hash of the other.
        theirs: Hash,
    },
    /// A newer roster that does not contain a revocation or void grant the one here has.
    #[error("roster {number} forgets that {what}; the authority's tools never make such a roster")]
    Forgets {
        /// Number of the roster offered.
        number: u64,
        /// What is no longer in it.
        what: String,
    },
    /// The admission does not admit its node.
    #[error("the admission of node {node} is not good")]
    Admission {
        /// Whom it would admit.
        node: NodeId,
        /// What is wrong with it.
        #[source]
        why: Unfit,
    },
    /// Too many admissions wait for the authority.
    #[error(
        "{} KiB of admissions wait for a roster that contains them: sign one with `diemcau authority`",
        ADMISSIONS_LEN_MAX >> 10
    )]
    Full,
}

/// What is wrong with an admission. [`Unfit::Void`] and [`Unfit::Revoked`] also come from honest peers who have not
/// seen the newest roster yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// What should be a signed grant in it is none.
    #[error("its grant cannot be read: {0}")]
    Grant(signed::Error),
    /// The grant is not the authority's.
    #[error("its grant is signed by {0}, who is not the authority of this mesh")]
    Granter(NodeId),
    /// Signed by another than the grant names.
    #[error("it is signed by {signer}, but only {issuer} may redeem the grant")]
    Issuer {
        /// Who signed.
        signer: NodeId,
        /// Who may.
        issuer: NodeId,
    },
    /// The code's holder did not choose this node, or not with this wrap key.
    #[error("it does not prove that who held the invitation's code chose this node")]
    Proof,
    /// Redeemed too late.
    #[error("the grant had expired when it was used")]
    Expired,
    /// The roster lists the grant as void.
    #[error("the grant is void: it was taken back, or used before")]
    Void,
    /// The roster revoked the issuer.
    #[error("its issuer is revoked")]
    Revoked,
    /// Another node came in on the same grant before.
    #[error("the grant was used before, by node {0}")]
    Used(NodeId),
}

/// An admission and the grant in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Admitted {
    admission: Signed<Admission>,
    grant: Grant,
}

impl Admitted {
    /// The order in which admissions count.
    fn order(&self) -> (u64, Hash) {
        (self.admission.content().unix_ms, self.admission.hash())
    }
}

/// Bytes of admissions that may wait for the next roster. One has about 700.
const ADMISSIONS_LEN_MAX: usize = 4 << 20;

/// What a node knows of who belongs to its mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    roster: Signed<Roster>,
    admissions: BTreeMap<GrantId, Admitted>,
    view: View,
}

/// What follows from the roster and the admissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    points: Vec<Point>,
    by_node: BTreeMap<NodeId, usize>,
    by_name: BTreeMap<String, NodeId>,
    by_wrap: BTreeMap<WrapPublic, NodeId>,
    revoked: BTreeMap<NodeId, Revoked>,
    /// The roster's void grants, to be found quickly.
    void: BTreeSet<GrantId>,
    /// The grants of the admissions that have effect.
    used: BTreeSet<GrantId>,
}

impl View {
    /// What follows from a roster alone.
    fn of(roster: &Roster) -> Self {
        let mut view = View {
            revoked: roster.revoked.iter().map(|entry| (entry.node, entry.clone())).collect(),
            void: roster.void.iter().copied().collect(),
            ..View::default()
        };
        roster.points.iter().for_each(|point| view.add(point.clone()));
        view
    }

    fn add(&mut self, point: Point) {
        self.by_node.insert(point.node, self.points.len());
        self.by_name.insert(point.name.to_lowercase(), point.node);
        self.by_wrap.insert(point.wrap, point.node);
        self.points.push(point);
    }

    fn remove(&mut self, node: &NodeId) -> Option<Point> {
        let place = self.by_node.remove(node)?;
        let point = self.points.remove(place);
        self.by_name.remove(&point.name.to_lowercase());
        self.by_wrap.remove(&point.wrap);
        self.by_node.values_mut().filter(|other| **other > place).for_each(|other| *other -= 1);
        Some(point)
    }

    /// Whether this admission can have effect now: its node, name and wrap key are free, its issuer is not revoked, and
    /// nobody else took the place it takes.
    fn has_room(&self, Admitted { admission, grant }: &Admitted) -> bool {
        let admission = admission.content();
        let replaced = grant.replaces;
        let free = |holder: Option<&NodeId>| holder.is_none_or(|holder| Some(*holder) == replaced);
        let taken_before = |old| self.revoked.get(old).is_some_and(|entry| entry.replaced_by.is_some());
        !self.by_node.contains_key(&admission.node)
            && !self.revoked.contains_key(&admission.node)
            && !self.revoked.contains_key(&grant.issuer)
            && free(self.by_name.get(&grant.name.to_lowercase()))
            && free(self.by_wrap.get(&admission.wrap))
            && replaced != Some(admission.node)
            && !replaced.as_ref().is_some_and(taken_before)
            && (self.points.len() < POINTS_MAX || replaced.is_some_and(|old| self.by_node.contains_key(&old)))
    }

    /// Lets an admission have its effect, if it can; whether it had.
    fn admit(&mut self, admitted: &Admitted) -> bool {
        if !self.has_room(admitted) {
            return false;
        }
        let Admitted { admission, grant } = admitted;
        let admission = admission.content();
        if let Some(old) = grant.replaces {
            if let Some(point) = self.remove(&old) {
                let entry = Revoked {
                    node: old,
                    name: point.name,
                    reason: "replaced".into(),
                    unix_ms: admission.unix_ms,
                    replaced_by: Some(admission.node),
                };
                self.revoked.insert(old, entry);
            } else if let Some(entry) = self.revoked.get_mut(&old) {
                entry.replaced_by = Some(admission.node);
            }
        }
        self.used.insert(grant.id);
        self.add(Point {
            node: admission.node,
            wrap: admission.wrap,
            name: grant.name.clone(),
            level: grant.level.clone(),
            zone: grant.zone.clone(),
            rights: grant.rights.clone(),
            addresses: admission.addresses.clone(),
            // Of a node nobody knows it is not said that it was replaced: a roster could not say it either.
            replaces: grant.replaces.filter(|old| self.revoked.contains_key(old)),
        });
        true
    }
}

impl Membership {
    const VERSION: u8 = 1;

    /// Longest encoded membership in bytes.
    pub const LEN_MAX: usize = 1 + 4 + Roster::LEN_MAX + 2 * ADMISSIONS_LEN_MAX;

    /// The membership of a roster alone. `authority` is whose roster it must be.
    pub fn new(roster: Signed<Roster>, authority: &NodeId) -> Result<Self, Error> {
        if roster.signer() != *authority {
            return Err(Error::Authority { signer: roster.signer(), authority: *authority });
        }
        let mut membership = Membership { roster, admissions: BTreeMap::new(), view: View::default() };
        membership.view = membership.derive();
        Ok(membership)
    }

    /// Takes a newer roster. `true` if it is news, `false` if it is the one here.
    pub fn merge_roster(&mut self, roster: Signed<Roster>) -> Result<bool, Error> {
        let (ours, theirs) = (self.roster.content(), roster.content());
        if roster.signer() != self.roster.signer() {
            return Err(Error::Authority { signer: roster.signer(), authority: self.roster.signer() });
        }
        if theirs.number < ours.number {
            return Err(Error::Older { ours: ours.number, theirs: theirs.number });
        }
        if theirs.number == ours.number {
            if roster.hash() == self.roster.hash() {
                return Ok(false);
            }
            return Err(Error::Fork { number: ours.number, ours: self.roster.hash(), theirs: roster.hash() });
        }
        // Between rosters further apart lie some we have not seen, so only neighbours can be compared.
        if theirs.number == ours.number + 1 && theirs.prev != self.roster.hash() {
            return Err(Error::Fork { number: ours.number, ours: self.roster.hash(), theirs: theirs.prev });
        }
        forgets_nothing(ours, theirs)?;
        self.roster = roster;
        self.prune();
        self.view = self.derive();
        Ok(true)
    }

    /// Takes an admission. `true` if it is news; whether its node is a point now says [`Membership::point`].
    pub fn merge_admission(&mut self, admission: Signed<Admission>) -> Result<bool, Error> {
        let news = self.admit(admission)?;
        if news {
            self.view = self.derive();
        }
        Ok(news)
    }

    /// Takes all that another membership knows. On an error it may have taken a part, each of which was good.
    pub fn merge(&mut self, other: &Membership) -> Result<bool, Error> {
        let mut news = match self.merge_roster(other.roster.clone()) {
            Err(Error::Older { .. }) => false,
            outcome => outcome?,
        };
        let mut wrong = None;
        for admitted in other.admissions.values() {
            match self.admit(admitted.admission.clone()) {
                Ok(new) => news |= new,
                // They do not know our roster yet.
                Err(Error::Admission { why: Unfit::Void | Unfit::Revoked, .. }) => {}
                Err(error) => wrong = Some(error),
            }
        }
        self.view = self.derive();
        wrong.map_or(Ok(news), Err)
    }

    fn admit(&mut self, admission: Signed<Admission>) -> Result<bool, Error> {
        let node = admission.content().node;
        let unfit = |why| Error::Admission { node, why };
        let grant = admission.grant(&self.authority()).map_err(unfit)?;
        let roster = self.roster.content();
        // An absorbed admission's grant is void too, but saying it again is no fault.
        if self.view.void.contains(&grant.id) {
            return if self.point(&node).is_some() { Ok(false) } else { Err(unfit(Unfit::Void)) };
        }
        if roster.revoked.iter().any(|revoked| revoked.node == grant.issuer) {
            return Err(unfit(Unfit::Revoked));
        }
        let admitted = Admitted { admission, grant };
        let mut waiting = self.admissions.values().map(|other| other.admission.bytes().len()).sum::<usize>();
        if let Some(kept) = self.admissions.get(&admitted.grant.id) {
            if kept.admission == admitted.admission {
                return Ok(false);
            }
            if kept.order() < admitted.order() {
                return Err(unfit(Unfit::Used(kept.admission.content().node)));
            }
            waiting -= kept.admission.bytes().len();
        }
        if waiting + admitted.admission.bytes().len() > ADMISSIONS_LEN_MAX {
            return Err(Error::Full);
        }
        self.admissions.insert(admitted.grant.id, admitted);
        Ok(true)
    }

    /// Drops the admissions that the roster has made void.
    fn prune(&mut self) {
        let roster = self.roster.content();
        let void: BTreeSet<_> = roster.void.iter().collect();
        let revoked: BTreeSet<_> = roster.revoked.iter().map(|revoked| revoked.node).collect();
        self.admissions.retain(|id, admitted| !void.contains(id) && !revoked.contains(&admitted.grant.issuer));
    }

    /// Who is a point: the roster's points, and then, in the order of their times, the nodes whose admissions can have
    /// effect. One that has may free a name for one passed over before, so it is done until nothing changes; what is
    /// passed over then would also be passed over if a roster said the same.
    fn derive(&self) -> View {
        let mut view = View::of(self.roster.content());
        let mut waiting: Vec<_> = self.admissions.values().collect();
        waiting.sort_by_key(|admitted| admitted.order());
        loop {
            let before = waiting.len();
            waiting.retain(|admitted| !view.admit(admitted));
            if waiting.len() == before {
                return view;
            }
        }
    }

    /// The roster that follows: all that is known now, with the admissions that have effect made part of it. The authority
    /// changes what it wants to change and signs it.
    pub fn next_roster(&self, issued_unix_ms: u64) -> Roster {
        let roster = self.roster.content();
        let mut void = roster.void.clone();
        void.extend(&self.view.used);
        Roster {
            number: roster.number + 1,
            prev: self.roster.hash(),
            agency: roster.agency.clone(),
            recovery: roster.recovery,
            issued_unix_ms,
            points: self.view.points.clone(),
            revoked: self.view.revoked.values().cloned().collect(),
            void,
        }
    }

    /// The roster.
    pub fn roster(&self) -> &Signed<Roster> {
        &self.roster
    }

    /// The admissions that no roster has made void, in the order of their grants; some may have no effect.
    pub fn admissions(&self) -> impl Iterator<Item = &Signed<Admission>> {
        self.admissions.values().map(|admitted| &admitted.admission)
    }

    /// The same with the grant of each, and whether it has effect.
    pub fn admitted(&self) -> impl Iterator<Item = (&Grant, &Admission, bool)> {
        self.admissions.values().map(|admitted| {
            (&admitted.grant, admitted.admission.content(), self.view.used.contains(&admitted.grant.id))
        })
    }

    /// Number of the roster.
    pub fn number(&self) -> u64 {
        self.roster.content().number
    }

    /// Stands for all that is known: equal exactly when two nodes know the same.
    pub fn hash(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("diemcau 2026 membership v1");
        hasher.update(self.roster.hash().as_bytes());
        for admission in self.admissions() {
            hasher.update(admission.hash().as_bytes());
        }
        hasher.finalize().into()
    }

    /// Who signs the rosters of this mesh.
    pub fn authority(&self) -> NodeId {
        self.roster.signer()
    }

    /// The agency that runs this mesh.
    pub fn agency(&self) -> &str {
        &self.roster.content().agency
    }

    /// The key for which session keys are wrapped beside those of the points.
    pub fn recovery(&self) -> WrapPublic {
        self.roster.content().recovery
    }

    /// The points: the roster's in its order, then those admitted since.
    pub fn points(&self) -> &[Point] {
        &self.view.points
    }

    /// The point of this node.
    pub fn point(&self, node: &NodeId) -> Option<&Point> {
        self.view.by_node.get(node).map(|place| &self.view.points[*place])
    }

    /// The point of this name, in whatever case it is written.
    pub fn named(&self, name: &str) -> Option<&Point> {
        self.view.by_name.get(&name.to_lowercase()).and_then(|node| self.point(node))
    }

    /// Whether this node is a point with this right.
    pub fn may(&self, node: &NodeId, right: Right) -> bool {
        self.point(node).is_some_and(|point| point.may(right))
    }

    /// How this node lost its place, if it had one.
    pub fn revoked(&self, node: &NodeId) -> Option<&Revoked> {
        self.view.revoked.get(node)
    }

    /// All nodes that lost their place.
    pub fn all_revoked(&self) -> impl Iterator<Item = &Revoked> {
        self.view.revoked.values()
    }

    /// The membership as it is stored and sent: a version byte, then each record behind its length (4 bytes, big
    /// endian), the roster first and then the admissions in the order of their grants. Not CBOR, so that reading it
    /// takes no more memory than it has bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        for record in std::iter::once(self.roster.bytes()).chain(self.admissions().map(Signed::bytes)) {
            bytes.extend(u32::try_from(record.len()).expect("records are shorter than 4 GiB").to_be_bytes());
            bytes.extend(record);
        }
        bytes
    }

    /// Reads and checks a membership. Whether its authority is the right one is for the caller.
    pub fn decode(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > Self::LEN_MAX {
            return Err(Error::Form("are too many"));
        }
        match bytes.first() {
            Some(&Self::VERSION) => {}
            Some(_) => return Err(Error::Form("are of a version this program does not know")),
            None => return Err(Error::Form("are not there: it is empty")),
        }
        let mut rest = bytes.slice(1..);
        let mut membership: Option<Membership> = None;
        while !rest.is_empty() {
            let record = take_record(&mut rest).ok_or(Error::Form("end too early"))?;
            match &mut membership {
                None => {
                    let roster: Signed<Roster> = Signed::parse(record)?;
                    let authority = roster.signer();
                    membership = Some(Membership::new(roster, &authority)?);
                }
                Some(membership) => {
                    membership.admit(Signed::parse(record)?)?;
                }
            }
        }
        let mut membership = membership.ok_or(Error::Form("end before the roster"))?;
        membership.view = membership.derive();
        if membership.encode() != bytes {
            return Err(Error::Form("have records twice or out of order"));
        }
        Ok(membership)
    }
}

/// Takes the next record off `rest`.
fn take_record(rest: &mut Bytes) -> Option<Bytes> {
    let len = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let end = 4usize.checked_add(usize::try_from(len).ok()?)?;
    if end > rest.len() {
        return None;
    }
    let record = rest.split_to(end);
    Some(record.slice(4..))
}

/// Refuses a newer roster in which a revocation or void grant is missing: otherwise a node could come in again, and what
/// two nodes know would depend on what they heard first.
fn forgets_nothing(old: &Roster, new: &Roster) -> Result<(), Error> {
    let revoked: BTreeSet<_> = new.revoked.iter().map(|entry| entry.node).collect();
    if let Some(gone) = old.revoked.iter().find(|entry| !revoked.contains(&entry.node)) {
        return Err(Error::Forgets { number: new.number, what: format!("node {} was revoked", gone.node) });
    }
    let void: BTreeSet<_> = new.void.iter().collect();
    if let Some(gone) = old.void.iter().find(|id| !void.contains(id)) {
        return Err(Error::Forgets { number: new.number, what: format!("grant {gone} is void") });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
