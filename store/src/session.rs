//! A session's head: what a node must know of a reception to take part in it, list it, or open its recording.
//!
//! It is kept small and written whole, never grown: what happens in the session goes to the journal. Points are named
//! here by number, since every track and group carries the number; central gives it and never reuses it.
//!
//! **Epochs.** A session begins with one key, and goes on with another when a point is removed from it, so that what is
//! said afterwards is not for that point. The head lists every epoch with the commitment to its key, because a recording
//! is opened long after, epoch by epoch. An epoch begins at a session time that lies a little ahead when it is announced:
//! every point seals the groups that begin from then on with the new key, and by then the others have it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    cbor,
    id::{Hash, NodeId, PointNumber, SessionId},
    keys::{self, Epoch, SessionKey, Wrap, WrapKey},
    seal::Suite,
};

/// Longest title or point's name, in characters.
pub const TEXT_MAX: usize = 200;

/// Most epochs of one session; their number has eight bits in every group. A point that is removed beyond it is cut
/// off like any other, but the key stays as it is.
pub const EPOCHS_MAX: usize = 255;

/// Why a head was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not a head this version reads.
    #[error("the session's head")]
    Form(#[from] cbor::Error),
    /// The head contradicts itself.
    #[error("the session's head has {0}")]
    Content(String),
    /// No more epochs can begin. End the session and start another without the point.
    #[error("no further key fits into this session: end it and start another")]
    Epochs,
}

/// Whether a session is still going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Points may join and groups may come.
    Open,
    /// No new groups are made; missing ones may still arrive.
    Ended,
}

/// One point of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number in this session.
    pub number: PointNumber,
    /// Its node.
    pub node: NodeId,
    /// Its name when the session started.
    pub name: String,
}

/// One epoch of a session: a period with one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// Its number, from 0 without a gap.
    pub epoch: Epoch,
    /// What its session key must match.
    pub commitment: Hash,
    /// Session time in microseconds from which groups are sealed with its key.
    pub from_us: u64,
    /// Points that were removed when it began, and have no key from it on.
    pub removed: Vec<PointNumber>,
}

impl Period {
    /// The first epoch, with which a session begins.
    pub fn first(commitment: Hash) -> Self {
        Period { epoch: 0, commitment, from_us: 0, removed: Vec::new() }
    }
}

/// What is known of a session. Any value is possible here; [`Head::check`] says whether it makes sense, and
/// decoding refuses what does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The session.
    pub id: SessionId,
    /// What it is about, for people.
    pub title: String,
    /// Open or ended.
    pub state: State,
    /// The point that chairs and keeps everything.
    pub central: NodeId,
    /// The points, ordered by number; those that were removed too, since their tracks remain.
    pub points: Vec<Member>,
    /// The key epochs so far, in order.
    pub epochs: Vec<Period>,
    /// How frames are sealed.
    pub suite: Suite,
    /// Start by central's wall clock, unix milliseconds. For people; nothing is ordered by it.
    pub started_unix_ms: u64,
    /// End by the same clock, once ended.
    pub ended_unix_ms: Option<u64>,
}

/// The head as version 1 wrote it: with one epoch, which nobody was removed in.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Version1 {
    id: SessionId,
    title: String,
    state: State,
    central: NodeId,
    points: Vec<Member>,
    epoch: Epoch,
    commitment: Hash,
    suite: Suite,
    started_unix_ms: u64,
    ended_unix_ms: Option<u64>,
}

impl From<Version1> for Head {
    fn from(old: Version1) -> Head {
        let Version1 { id, title, state, central, points, epoch, commitment, suite, started_unix_ms, ended_unix_ms } =
            old;
        let epochs = vec![Period { epoch, ..Period::first(commitment) }];
        Head { id, title, state, central, points, epochs, suite, started_unix_ms, ended_unix_ms }
    }
}

impl Head {
    const VERSION: u8 = 2;

    /// Longest encoded head in bytes: 8192 points with names of ordinary length.
    pub const LEN_MAX: usize = 1 << 20;

    /// The number of a node in this session.
    pub fn number(&self, node: &NodeId) -> Option<PointNumber> {
        self.points.iter().find(|member| member.node == *node).map(|member| member.number)
    }

    /// The point with this number.
    pub fn member(&self, number: PointNumber) -> Option<&Member> {
        self.points.iter().find(|member| member.number == number)
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.epochs.last().map_or(0, |period| period.epoch)
    }

    /// What the session key of an epoch must match.
    pub fn commitment(&self, epoch: Epoch) -> Option<&Hash> {
        self.epochs.iter().find(|period| period.epoch == epoch).map(|period| &period.commitment)
    }

    /// The epoch whose key seals a group that begins at this session time.
    pub fn epoch_at(&self, us: u64) -> Epoch {
        self.epochs.iter().rev().find(|period| period.from_us <= us).map_or(0, |period| period.epoch)
    }

    /// Whether a node is a point of this session and was not removed from it.
    pub fn takes_part(&self, node: &NodeId) -> bool {
        self.number(node).is_some_and(|number| !self.was_removed(number))
    }

    /// Whether the point with this number was removed.
    pub fn was_removed(&self, number: PointNumber) -> bool {
        self.epochs.iter().any(|period| period.removed.contains(&number))
    }

    /// The points that take part.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.points.iter().filter(|member| !self.was_removed(member.number))
    }

    /// The same session with one more epoch, in which `removed` do not take part.
    pub fn next(&self, commitment: Hash, from_us: u64, removed: Vec<PointNumber>) -> Result<Head, Error> {
        if self.epochs.len() >= EPOCHS_MAX {
            return Err(Error::Epochs);
        }
        let mut head = self.clone();
        // Epochs follow each other in time also after a restart that took session time for earlier than it was.
        let from_us = self.epochs.last().map_or(from_us, |period| period.from_us.max(from_us));
        head.epochs.push(Period { epoch: self.epoch() + 1, commitment, from_us, removed });
        head.check()?;
        Ok(head)
    }

    /// Whether this is the same session as `earlier`, with the same epochs and perhaps more.
    pub fn continues(&self, earlier: &Head) -> bool {
        let fixed = |head: &Head| (head.id, head.central, head.suite, head.started_unix_ms);
        fixed(self) == fixed(earlier) && self.points == earlier.points && self.epochs.starts_with(&earlier.epochs)
    }

    /// Opens wraps made for `recipient`, by epoch, and checks each key against the head. Wraps of epochs this head does
    /// not know are left alone: they are of a head that was not written any more.
    pub fn open(
        &self,
        wraps: &BTreeMap<Epoch, Wrap>,
        key: &WrapKey,
        recipient: NodeId,
    ) -> Result<BTreeMap<Epoch, SessionKey>, keys::Error> {
        let mut opened = BTreeMap::new();
        for (&epoch, wrap) in wraps {
            let Some(commitment) = self.commitment(epoch) else { continue };
            let key = wrap.open(key, &keys::WrapContext { session: self.id, epoch, recipient })?;
            key.check(commitment)?;
            opened.insert(epoch, key);
        }
        Ok(opened)
    }

    /// Refuses a head that contradicts itself: numbers not rising, a node twice, central not a point, texts that
    /// cannot be shown, an end without being ended, epochs out of order.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Content(what));
        if let Err(why) = check_text(&self.title) {
            return wrong(format!("a title that {why}"));
        }
        if let Some(pair) = self.points.windows(2).find(|pair| pair[0].number >= pair[1].number) {
            return wrong(format!("point number {} out of order or twice", pair[1].number));
        }
        let mut nodes = BTreeSet::new();
        for member in &self.points {
            if let Err(why) = check_text(&member.name) {
                return wrong(format!("a name for point {} that {why}", member.number));
            }
            if !nodes.insert(member.node) {
                return wrong(format!("node {} twice", member.node.short()));
            }
        }
        if !nodes.contains(&self.central) {
            return wrong(format!("a central ({}) that is not one of its points", self.central.short()));
        }
        if self.ended_unix_ms.is_some() != (self.state == State::Ended) {
            return wrong("an end that does not fit its state".into());
        }
        self.check_epochs()
    }

    fn check_epochs(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Content(what));
        if self.epochs.is_empty() || self.epochs.len() > EPOCHS_MAX {
            return wrong(format!("{} epochs, not 1 to {EPOCHS_MAX}", self.epochs.len()));
        }
        let mut gone = BTreeSet::new();
        let mut from_us = 0;
        for (place, period) in self.epochs.iter().enumerate() {
            if usize::from(period.epoch) != place || period.from_us < from_us {
                return wrong(format!("epoch {} out of order", period.epoch));
            }
            from_us = period.from_us;
            for &number in &period.removed {
                let member = self.member(number).filter(|member| member.node != self.central);
                if member.is_none() || place == 0 || !gone.insert(number) {
                    return wrong(format!("point {number} removed that cannot be"));
                }
            }
        }
        Ok(())
    }

    /// The head as it is stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode_versioned(Self::VERSION, self)
    }

    /// Reads and checks a head, of this version or the one before.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let head: Head = match bytes.first() {
            Some(1) => cbor::decode_versioned::<Version1>(1, bytes, Self::LEN_MAX)?.into(),
            _ => cbor::decode_versioned(Self::VERSION, bytes, Self::LEN_MAX)?,
        };
        head.check()?;
        Ok(head)
    }
}

/// Says in words why a text is no name or title: those are shown in lines and used in file names.
pub(crate) fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.trim() != text {
        return Err("begins or ends with a space");
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character");
    }
    if text.chars().count() > TEXT_MAX {
        return Err("is longer than 200 characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let member = |number, node, name: &str| Member {
            number: PointNumber::new(number).unwrap(),
            node: NodeId::from_bytes([node; 32]),
            name: name.into(),
        };
        Head {
            id: SessionId::from_parts(1_700_000_000_000, [9; 10]),
            title: "Tiếp công dân định kỳ".into(),
            state: State::Ended,
            central: NodeId::from_bytes([1; 32]),
            points: vec![member(0, 1, "Điểm cầu trung tâm"), member(4, 2, "Xã Tân Phú")],
            epochs: vec![Period::first(Hash::of(b"key"))],
            suite: Suite::Aes128GcmSha256,
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: Some(1_700_000_600_000),
        }
    }

    /// The same after the second point was removed.
    fn second() -> Head {
        head().next(Hash::of(b"next"), 62_000_000, vec![PointNumber::new(4).unwrap()]).unwrap()
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/head-v1.hex");

    /// Written by the second version; must be readable for ever.
    const VERSION_2: &str = include_str!("../tests/vectors/head-v2.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let bytes = hex::decode(VERSION_1.trim()).unwrap();
        assert_eq!(Head::decode(&bytes), Ok(head()));
    }

    #[test]
    fn the_second_version_is_read_for_ever() {
        let bytes = hex::decode(VERSION_2.trim()).unwrap();
        assert_eq!(Head::decode(&bytes), Ok(second()));
        assert_eq!(hex::encode(second().encode()), VERSION_2.trim());
        let mut newer = bytes;
        newer[0] = 3;
        let refused = Head::decode(&newer).unwrap_err();
        assert_eq!(refused, Error::Form(cbor::Error::Version { found: 3, known: 2 }));
    }

    #[test]
    fn a_head_that_contradicts_itself_is_refused() {
        let check = |change: fn(&mut Head), expected: &str| {
            let mut head = head();
            change(&mut head);
            let error = Head::decode(&head.encode()).unwrap_err().to_string();
            assert_eq!(error, format!("the session's head has {expected}"));
        };
        check(|h| h.title = " x".into(), "a title that begins or ends with a space");
        check(|h| h.points[1].number = h.points[0].number, "point number 0 out of order or twice");
        check(|h| h.points[1].node = h.points[0].node, "node 01010101 twice");
        check(|h| h.points[1].name = "a\nb".into(), "a name for point 4 that has a control character");
        check(|h| h.central = NodeId::from_bytes([3; 32]), "a central (03030303) that is not one of its points");
        check(|h| h.ended_unix_ms = None, "an end that does not fit its state");
        check(|h| h.epochs.clear(), "0 epochs, not 1 to 255");
        check(|h| h.epochs[0].epoch = 1, "epoch 1 out of order");
        check(|h| h.epochs.push(Period { from_us: 9, epoch: 2, ..h.epochs[0].clone() }), "epoch 2 out of order");
        fn removed(head: &mut Head, numbers: &[u16]) {
            let removed = numbers.iter().map(|&number| PointNumber::new(number).unwrap()).collect();
            head.epochs.push(Period { epoch: 1, commitment: Hash::NONE, from_us: 0, removed });
        }
        check(|h| removed(h, &[0]), "point 0 removed that cannot be");
        check(|h| removed(h, &[9]), "point 9 removed that cannot be");
        check(|h| removed(h, &[4, 4]), "point 4 removed that cannot be");
    }

    #[test]
    fn a_removed_point_stays_named_and_takes_no_part_any_more() {
        let (first, second) = (head(), second());
        let node = second.points[1].node;
        assert!(first.takes_part(&node) && !second.takes_part(&node));
        assert_eq!(second.number(&node), first.number(&node));
        assert_eq!(second.present().count(), 1);
        assert!(second.continues(&first) && second.continues(&second) && !first.continues(&second));
        let other = head().next(Hash::of(b"another"), 62_000_000, vec![]).unwrap();
        assert!(!other.continues(&second) && !second.continues(&other));
    }

    #[test]
    fn groups_are_sealed_with_the_key_of_the_epoch_they_begin_in() {
        let third = second().next(Hash::of(b"third"), 60_000_000, vec![]).unwrap();
        assert_eq!(third.epochs[2].from_us, 62_000_000, "epochs follow each other");
        let second = second();
        for (us, epoch) in [(0, 0), (61_999_999, 0), (62_000_000, 1), (u64::MAX, 1)] {
            assert_eq!(second.epoch_at(us), epoch, "{us}");
        }
        assert_eq!(third.epoch_at(62_000_000), 2);
        assert_eq!(second.commitment(1), Some(&Hash::of(b"next")));
        assert_eq!((second.commitment(2), second.epoch()), (None, 1));
    }

    #[test]
    fn there_are_as_many_epochs_as_a_group_can_name() {
        let mut head = head();
        for n in 1..EPOCHS_MAX {
            head = head.next(Hash::of(&n.to_be_bytes()), 0, vec![]).unwrap();
        }
        assert_eq!(Head::decode(&head.encode()).as_ref(), Ok(&head));
        assert_eq!(head.next(Hash::NONE, 0, vec![]), Err(Error::Epochs));
    }

    #[test]
    fn only_keys_the_head_commits_to_are_opened() {
        let key = WrapKey::generate();
        let recipient = NodeId::from_bytes([2; 32]);
        let keys = [1, 2].map(|byte| SessionKey::from_bytes(&[byte; 32]));
        let first = Head { epochs: vec![Period::first(keys[0].commitment())], ..head() };
        let second = first.next(keys[1].commitment(), 5, vec![]).unwrap();
        let wrap = |epoch: Epoch, key_of: &SessionKey| {
            let context = keys::WrapContext { session: first.id, epoch, recipient };
            (epoch, key_of.wrap(&key.public(), &context).unwrap())
        };
        let wraps = BTreeMap::from([wrap(0, &keys[0]), wrap(1, &keys[1])]);
        let opened = second.open(&wraps, &key, recipient).unwrap();
        assert_eq!(opened.into_values().collect::<Vec<_>>(), keys);
        assert_eq!(first.open(&wraps, &key, recipient).unwrap().len(), 1);
        let swapped = BTreeMap::from([wrap(0, &keys[1])]);
        assert_eq!(second.open(&swapped, &key, recipient), Err(keys::Error::Commitment));
        let moved = BTreeMap::from([(1, wraps[&0])]);
        assert_eq!(second.open(&moved, &key, recipient), Err(keys::Error::Wrap));
    }

    #[test]
    fn points_are_found_by_node_and_number() {
        let head = head();
        let number = head.number(&NodeId::from_bytes([2; 32])).unwrap();
        assert_eq!(head.member(number).unwrap().name, "Xã Tân Phú");
        assert_eq!(head.number(&NodeId::from_bytes([7; 32])), None);
    }
}
