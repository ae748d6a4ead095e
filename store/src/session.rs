//! A session's head: what a node must know of a reception to take part in it, list it, or open its recording.
//!
//! It is kept small and written whole, never grown: what happens in the session goes to the journal. Points are named
//! here by number, since every track and group carries the number; central gives it and never reuses it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    cbor,
    id::{Hash, NodeId, PointNumber, SessionId},
    keys::Epoch,
    seal::Suite,
};

/// Longest title or point's name, in characters.
pub const TEXT_MAX: usize = 200;

/// Why a head was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not a head this version reads.
    #[error("the session's head")]
    Form(#[from] cbor::Error),
    /// The head contradicts itself.
    #[error("the session's head has {0}")]
    Content(String),
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
    /// The points, ordered by number.
    pub points: Vec<Member>,
    /// The present key epoch.
    pub epoch: Epoch,
    /// What the present epoch's session key must match.
    pub commitment: Hash,
    /// How frames are sealed.
    pub suite: Suite,
    /// Start by central's wall clock, unix milliseconds. For people; nothing is ordered by it.
    pub started_unix_ms: u64,
    /// End by the same clock, once ended.
    pub ended_unix_ms: Option<u64>,
}

impl Head {
    const VERSION: u8 = 1;

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

    /// Refuses a head that contradicts itself: numbers not rising, a node twice, central not a point, texts that
    /// cannot be shown, an end without being ended.
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
        Ok(())
    }

    /// The head as it is stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode_versioned(Self::VERSION, self)
    }

    /// Reads and checks a head.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let head: Head = cbor::decode_versioned(Self::VERSION, bytes, Self::LEN_MAX)?;
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
            epoch: 0,
            commitment: Hash::of(b"key"),
            suite: Suite::Aes128GcmSha256,
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: Some(1_700_000_600_000),
        }
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/head-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let bytes = hex::decode(VERSION_1.trim()).unwrap();
        assert_eq!(Head::decode(&bytes), Ok(head()));
        assert_eq!(hex::encode(head().encode()), VERSION_1.trim());
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
    }

    #[test]
    fn points_are_found_by_node_and_number() {
        let head = head();
        let number = head.number(&NodeId::from_bytes([2; 32])).unwrap();
        assert_eq!(head.member(number).unwrap().name, "Xã Tân Phú");
        assert_eq!(head.number(&NodeId::from_bytes([7; 32])), None);
    }
}
