//! A mesh of one authority and one inviting point, for the tests of joining; and the two sides talking with each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bytes::Bytes;
use store::id::{Hash, NodeId};
use store::keys::{NodeKey, WrapKey};
use store::roster::{Admission, Grant, Membership, Point, Proof, Right, Roster};
use store::signed::Signed;

use super::door::{Attempt, Close, Door, Input, Letter, Outcome, Output, TalkId, Unable};
use super::invite::Invite;
use super::knock::{Error, Joined, Knock, Newcomer, Next};
use super::secret::{Line, MacKey, Secret};
use super::wire::Ask;

pub(super) const NOW: u64 = 1_800_000_000_000;
pub(super) const END: u64 = NOW + 86_400_000;

pub(super) fn authority() -> NodeKey {
    NodeKey::from_bytes(&[9; 32])
}

pub(super) fn host() -> NodeKey {
    NodeKey::from_bytes(&[1; 32])
}

pub(super) fn newcomer(byte: u8) -> NodeKey {
    NodeKey::from_bytes(&[byte; 32])
}

fn wrap(node: &NodeKey) -> WrapKey {
    WrapKey::from_bytes(&node.secret_bytes())
}

pub(super) fn membership() -> Membership {
    let point = Point {
        node: host().id(),
        wrap: wrap(&host()).public(),
        name: "Trung tâm".into(),
        level: "tỉnh".into(),
        zone: String::new(),
        rights: BTreeSet::from([Right::Admin]),
        addresses: vec![],
        replaces: None,
    };
    let roster = Roster {
        number: 1,
        prev: Hash::NONE,
        agency: "Hải Phòng".into(),
        recovery: WrapKey::from_bytes(&[8; 32]).public(),
        issued_unix_ms: NOW,
        points: vec![point],
        revoked: vec![],
        void: vec![],
    };
    Membership::new(Signed::sound(roster, &authority()).unwrap(), &authority().id()).unwrap()
}

pub(super) fn grant(secret: &Secret) -> Signed<Grant> {
    let grant = Grant {
        id: secret.id(),
        issuer: host().id(),
        name: "UBND xã Kim Thành".into(),
        level: "xã".into(),
        zone: String::new(),
        rights: BTreeSet::new(),
        replaces: None,
        key: secret.signing_key().id(),
        not_after_unix_ms: END,
    };
    Signed::sound(grant, &authority()).unwrap()
}

pub(super) fn invite() -> (Secret, Invite) {
    let secret = Secret::from_bytes(b"0123456789");
    let invite = Invite::new(grant(&secret), &secret);
    (secret, invite)
}

/// An admission of the node whose key is these bytes.
pub(super) fn granted(invite: &Invite, byte: u8) -> Signed<Admission> {
    let (secret, node) = (Secret::from_bytes(b"0123456789"), newcomer(byte));
    let wrap = wrap(&node).public();
    let proof = Proof::new(&secret.signing_key(), &invite.id(), &node.id(), &wrap);
    admit(invite, node.id(), &Ask { wrap, addresses: vec![], proof, unix_ms: NOW })
}

pub(super) fn admit(invite: &Invite, node: NodeId, ask: &Ask) -> Signed<Admission> {
    let admission = Admission {
        grant: invite.signed_grant().bytes().clone(),
        node,
        wrap: ask.wrap,
        addresses: ask.addresses.clone(),
        proof: ask.proof,
        unix_ms: NOW,
    };
    Signed::sound(admission, &host()).unwrap()
}

/// An inviting node: its door, and what the driver does for it.
pub(super) struct House {
    pub(super) door: Door,
    pub(super) membership: Membership,
    pub(super) now: Instant,
    pub(super) unix_ms: u64,
    pub(super) attempts: Vec<Outcome>,
    /// Whether admitting fails at the disk.
    pub(super) disk_full: bool,
    talks: u64,
}

/// What the door wants said, and whether it closed.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) frames: Vec<Bytes>,
    pub(super) close: Option<Close>,
}

impl House {
    pub(super) fn new(invites: impl IntoIterator<Item = Invite>) -> Self {
        Self {
            door: Door::new(invites, MacKey::from_bytes(&[7; 32])),
            membership: membership(),
            now: Instant::now(),
            unix_ms: NOW,
            attempts: Vec::new(),
            disk_full: false,
            talks: 0,
        }
    }

    pub(super) fn come(&mut self, from: [u8; 4], line: Line) -> (TalkId, Said) {
        self.talks += 1;
        let talk = TalkId(self.talks);
        self.door.handle(self.now, Input::Came { talk, from: IpAddr::V4(Ipv4Addr::from(from)), line });
        (talk, self.drain())
    }

    pub(super) fn hear(&mut self, talk: TalkId, frame: &[u8]) -> Said {
        let frame = Bytes::copy_from_slice(frame);
        self.door.handle(self.now, Input::Heard { talk, frame, unix_ms: self.unix_ms });
        self.drain()
    }

    pub(super) fn drain(&mut self) -> Said {
        let mut said = Said::default();
        while let Some(output) = self.door.poll() {
            match output {
                Output::Say { frame, .. } => said.frames.push(frame),
                Output::End { frames, close, .. } => {
                    said.frames.extend(frames);
                    said.close = Some(close);
                }
                Output::Admit { talk, invite, node, ask } => {
                    let outcome = self.admit(&invite, node, &ask);
                    self.door.handle(self.now, Input::Admitted { talk, invite: invite.id(), outcome });
                }
                Output::Attempt(Attempt { outcome, .. }) => self.attempts.push(outcome),
            }
        }
        said
    }

    fn admit(&mut self, invite: &Invite, node: NodeId, ask: &Ask) -> Result<Letter, Unable> {
        if self.disk_full {
            return Err(Unable::Reason("the disk is full".into()));
        }
        let admission = invite.admission().cloned().unwrap_or_else(|| admit(invite, node, ask));
        self.membership.merge_admission(admission.clone()).map_err(|error| Unable::Reason(error.to_string()))?;
        Ok(Letter { admission, membership: self.membership.encode().into(), unix_ms: self.unix_ms })
    }
}

/// A connection of this node to the house; `n` tells connections apart.
pub(super) fn line(node: &NodeKey, n: u8) -> Line {
    Line { binding: [n; 32], knocker: node.id(), host: host().id() }
}

pub(super) fn arrives(node: &NodeKey) -> Newcomer {
    Newcomer { wrap: wrap(node).public(), addresses: vec!["10.0.0.7:7400".into()], unix_ms: NOW }
}

/// The whole conversation, and what the new node said in it.
pub(super) fn converse(
    house: &mut House,
    secret: &Secret,
    node: &NodeKey,
    line: Line,
) -> (Result<Joined, Option<Error>>, Vec<Bytes>) {
    let (mut knock, first) = Knock::new(secret.clone(), line, arrives(node));
    let (talk, mut said) = house.come([10, 0, 0, 7], line);
    let mut spoken = vec![first.clone()];
    if said.close.is_none() {
        said = house.hear(talk, &first);
    }
    loop {
        let mut answer = None;
        for frame in std::mem::take(&mut said.frames) {
            match knock.hear(&frame) {
                Ok(Next::Say(frame)) => answer = Some(frame),
                Ok(Next::Listen) => {}
                Ok(Next::Done(joined)) => return (Ok(*joined), spoken),
                Err(error) => return (Err(Some(error)), spoken),
            }
        }
        let Some(frame) = answer else { return (Err(None), spoken) };
        spoken.push(frame.clone());
        said = house.hear(talk, &frame);
    }
}

#[test]
fn who_holds_the_code_becomes_a_point_with_what_was_granted() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let (joined, _) = converse(&mut house, &secret, &node, line(&node, 1));
    let joined = joined.unwrap();
    assert_eq!(joined.membership, house.membership);
    assert_eq!(joined.membership.authority(), authority().id());
    let point = joined.membership.point(&node.id()).unwrap();
    assert_eq!((point.name.as_str(), point.level.as_str()), ("UBND xã Kim Thành", "xã"));
    assert_eq!((point.addresses.as_slice(), point.wrap), (&["10.0.0.7:7400".to_owned()][..], wrap(&node).public()));
    assert_eq!((joined.grant.name.as_str(), joined.host_unix_ms), ("UBND xã Kim Thành", NOW));
    assert_eq!(house.attempts, [Outcome::Admitted]);
}

#[test]
fn the_same_node_is_answered_again_and_another_is_not() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let (node, other) = (newcomer(2), newcomer(3));
    let (first, _) = converse(&mut house, &secret, &node, line(&node, 1));
    // Whether its own answer got lost on the way or it was typed again on the morrow: after the end of the invite too.
    house.unix_ms = END + 1;
    let (again, _) = converse(&mut house, &secret, &node, line(&node, 2));
    assert_eq!(again.unwrap().membership, first.unwrap().membership);
    let (another, _) = converse(&mut house, &secret, &other, line(&other, 3));
    assert_eq!(another.unwrap_err(), Some(Error::Used));
    assert_eq!(house.attempts, [Outcome::Admitted, Outcome::Again, Outcome::Used]);
    assert_eq!(house.membership.points().len(), 2);
}

#[test]
fn a_crash_between_writing_and_answering_costs_nothing() {
    let (secret, invite) = invite();
    let node = newcomer(2);
    let admission = granted(&invite, 2);
    // What lies on the disk when the power fails: the invite with its use, the membership still without.
    let mut kept = invite;
    kept.use_up(admission.clone());
    let mut house = House::new([Invite::decode(&kept.encode()).unwrap()]);
    let (joined, _) = converse(&mut house, &secret, &node, line(&node, 1));
    let point = joined.unwrap().membership;
    assert!(point.point(&node.id()).is_some());
    assert_eq!(point.admissions().next(), Some(&admission), "word for word what was signed before");
    let other = newcomer(3);
    assert_eq!(converse(&mut house, &secret, &other, line(&other, 2)).0.unwrap_err(), Some(Error::Used));
}

#[test]
fn a_disk_that_refuses_leaves_the_invite_unused() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    house.disk_full = true;
    let node = newcomer(2);
    let (refused, _) = converse(&mut house, &secret, &node, line(&node, 1));
    assert_eq!(refused.unwrap_err(), Some(Error::Unable("the disk is full".into())));
    house.disk_full = false;
    let other = newcomer(3);
    assert!(converse(&mut house, &secret, &other, line(&other, 2)).0.is_ok());
}

#[test]
fn an_invite_that_is_over_or_taken_back_says_so_to_who_holds_its_code() {
    let (secret, mut invite) = invite();
    let node = newcomer(2);
    let mut house = House::new([invite.clone()]);
    house.unix_ms = END + 1;
    let (refused, _) = converse(&mut house, &secret, &node, line(&node, 1));
    let expired = Error::Expired { not_after_unix_ms: END, host_unix_ms: END + 1 };
    assert_eq!(refused.unwrap_err(), Some(expired));
    house.unix_ms = END;
    assert!(converse(&mut house, &secret, &node, line(&node, 2)).0.is_ok(), "the last moment counts");
    invite.withdraw();
    let mut house = House::new([invite]);
    let (refused, _) = converse(&mut house, &secret, &node, line(&node, 1));
    assert_eq!(refused.unwrap_err(), Some(Error::Withdrawn));
    assert_eq!(house.attempts, [Outcome::Withdrawn]);
}

#[test]
fn a_recorded_conversation_is_worth_nothing_on_another_connection() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let node = newcomer(2);
    let (joined, spoken) = converse(&mut house, &secret, &node, line(&node, 1));
    joined.unwrap();
    // The same node's words on a new connection, and by a thief on one of its own.
    for replay in [line(&node, 2), line(&newcomer(3), 3), line(&newcomer(3), 1)] {
        let (talk, _) = house.come([10, 0, 0, 8], replay);
        let said = house.hear(talk, &spoken[0]);
        assert_eq!((said.frames.len(), said.close), (0, Some(Close::Stranger)));
        assert_eq!(house.attempts.last(), Some(&Outcome::Wrong));
        let said = house.hear(talk, &spoken[1]);
        assert_eq!((said.frames.len(), said.close), (0, None), "it is over");
    }
}

#[test]
fn who_passes_words_on_between_the_two_gets_nothing() {
    let (secret, invite) = invite();
    let mut house = House::new([invite]);
    let (node, thief) = (newcomer(2), newcomer(3));
    // The clerk's PC was led to the thief, who has connections of his own to both.
    let to_thief = Line { binding: [1; 32], knocker: node.id(), host: thief.id() };
    let (mut knock, first) = Knock::new(secret, to_thief, arrives(&node));
    let (talk, _) = house.come([10, 0, 0, 8], line(&thief, 2));
    let said = house.hear(talk, &first);
    assert_eq!((said.frames.len(), said.close), (0, Some(Close::Stranger)));
    // And he cannot prove himself, so the clerk's PC says no more.
    assert_eq!(knock.hear(&first).unwrap_err(), Error::Imposter);
}
