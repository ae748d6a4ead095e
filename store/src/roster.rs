//! The roster: which nodes are points, what they are called and what they may do. A node talks to nobody else.
//!
//! A TOML file that a person can read and correct. It is believed because of where it lies; a copy that came over the
//! network would have to be signed first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    id::{NodeId, PointNumber},
    keys::WrapPublic,
    session::check_text,
};

/// Most points in a roster: as many as a session can number.
pub const POINTS_MAX: usize = PointNumber::MAX as usize + 1;

/// Most addresses of one point.
pub const ADDRESSES_MAX: usize = 16;

/// Why a roster was refused. Correct the file and try again; nothing of it is used meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not TOML, or has not the fields of a roster.
    #[error("the roster cannot be read: {0}")]
    Form(String),
    /// It contradicts itself or a limit.
    #[error("the roster has {0}")]
    Content(String),
}

/// What a point may do beside taking part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Start sessions and be their central.
    Chair,
    /// Forward other points' groups.
    Relay,
    /// Keep copies of sessions it did not take part in.
    Hold,
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
    /// Its level of administration, in the agency's own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub level: String,
    /// Points that would be lost together (a building, a flood plain) share a zone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// What it may do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rights: BTreeSet<Right>,
    /// Where its mesh port may be reached, as `HOST:PORT`; on one LAN none are needed. Not read here any closer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl Point {
    /// Whether it may do this.
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}

/// The roster's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agency: String,
    #[serde(default, rename = "point", skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

/// A checked roster: no node, wrap key or name twice, all texts fit to be shown, within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    agency: String,
    points: Vec<Point>,
    by_node: BTreeMap<NodeId, usize>,
}

impl Roster {
    /// Checks the points and makes a roster of them, in this order.
    pub fn new(agency: String, points: Vec<Point>) -> Result<Self, Error> {
        let wrong = |what: String| Err(Error::Content(what));
        if let Err(why) = check_text(&agency) {
            return wrong(format!("an agency whose name {why}"));
        }
        if points.len() > POINTS_MAX {
            return wrong(format!("{} points; {POINTS_MAX} are possible", points.len()));
        }
        let mut by_node = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut wraps = BTreeSet::new();
        for (place, point) in points.iter().enumerate() {
            let who = format!("point {} ({:?})", place + 1, point.name.chars().take(40).collect::<String>());
            if let Err(why) = check_text(&point.name) {
                return wrong(format!("{who}: its name {why}"));
            }
            for (what, text) in [("level", &point.level), ("zone", &point.zone)] {
                if let Err(why) = check_text(text)
                    && !text.is_empty()
                {
                    return wrong(format!("{who}: its {what} {why}"));
                }
            }
            if point.addresses.len() > ADDRESSES_MAX {
                return wrong(format!("{who}: more than {ADDRESSES_MAX} addresses"));
            }
            if !names.insert(point.name.to_lowercase()) {
                return wrong(format!("{who}: another point has the same name"));
            }
            if by_node.insert(point.node, place).is_some() {
                return wrong(format!("{who}: another point has the same node"));
            }
            if !wraps.insert(point.wrap) {
                return wrong(format!("{who}: another point has the same wrap key"));
            }
        }
        Ok(Roster { agency, points, by_node })
    }

    /// Reads and checks a roster file.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|error| Error::Form(error.to_string()))?;
        Roster::new(file.agency, file.points)
    }

    /// The roster as a file.
    pub fn to_toml(&self) -> String {
        let file = File { agency: self.agency.clone(), points: self.points.clone() };
        toml::to_string(&file).expect("a roster's texts, lists and names are TOML")
    }

    /// The agency that runs this mesh.
    pub fn agency(&self) -> &str {
        &self.agency
    }

    /// The points, in the file's order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The point of this node.
    pub fn point(&self, node: &NodeId) -> Option<&Point> {
        self.by_node.get(node).map(|place| &self.points[*place])
    }

    /// The point of this name, in whatever case it is written.
    pub fn named(&self, name: &str) -> Option<&Point> {
        let name = name.to_lowercase();
        self.points.iter().find(|point| point.name.to_lowercase() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(byte: u8, name: &str) -> Point {
        Point {
            node: NodeId::from_bytes([byte; 32]),
            wrap: WrapPublic::from_bytes([byte; 32]),
            name: name.into(),
            level: "xã".into(),
            zone: String::new(),
            rights: BTreeSet::from([Right::Chair, Right::Hold]),
            addresses: vec!["10.0.0.7:7000".into()],
        }
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/roster-v1.toml");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let roster = Roster::from_toml(VERSION_1).unwrap();
        assert_eq!(
            roster,
            Roster::new("UBND tỉnh".into(), vec![point(1, "Trung tâm"), point(2, "Xã Tân Phú")]).unwrap()
        );
        assert_eq!(roster.to_toml(), VERSION_1);
    }

    #[test]
    fn points_are_found_by_node_and_by_name() {
        let roster = Roster::from_toml(VERSION_1).unwrap();
        assert_eq!(roster.named("XÃ TÂN PHÚ"), roster.point(&NodeId::from_bytes([2; 32])));
        assert!(roster.named("xã tân phú").unwrap().may(Right::Chair));
        assert!(!roster.named("xã tân phú").unwrap().may(Right::Relay));
        assert_eq!(roster.named("nowhere"), None);
    }

    #[test]
    fn a_roster_that_cannot_be_right_is_refused_with_the_place() {
        let check = |points: Vec<Point>, expected: &str| {
            assert_eq!(Roster::new("A".into(), points).unwrap_err().to_string(), format!("the roster has {expected}"));
        };
        check(vec![point(1, "A"), point(2, "a")], "point 2 (\"a\"): another point has the same name");
        check(vec![point(1, "A"), point(1, "B")], "point 2 (\"B\"): another point has the same node");
        let twin = Point { wrap: WrapPublic::from_bytes([1; 32]), ..point(2, "B") };
        check(vec![point(1, "A"), twin], "point 2 (\"B\"): another point has the same wrap key");
        check(vec![point(1, "")], "point 1 (\"\"): its name is empty");
        let many = (0..=POINTS_MAX).map(|n| point(n as u8, &n.to_string())).collect();
        check(many, "8193 points; 8192 are possible");
        let far = Point { addresses: vec![String::new(); ADDRESSES_MAX + 1], ..point(1, "A") };
        check(vec![far], "point 1 (\"A\"): more than 16 addresses");
        assert!(Roster::from_toml("agency = 3").unwrap_err().to_string().starts_with("the roster cannot be read"));
        assert!(Roster::from_toml("agency = \"A\"\nking = 1").is_err());
    }
}
