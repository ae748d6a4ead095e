//! What the room's page shows all the time: this point, who is there, what runs, and whether this room is seen and heard.
//!
//! Unlike `Status` it is asked several times a second, so nothing in it needs a walk through the archive.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The room at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct State {
    /// This node.
    pub node: Node,
    /// Wall clock of this machine, Unix milliseconds.
    pub now_ms: u64,
    /// The running session, if this point takes part in one.
    pub session: Option<Live>,
    /// Every point of the roster, this one among them.
    pub points: Vec<Point>,
    /// Where the archive lies; null when the system does not say.
    pub disk: Option<Space>,
    /// The chair's clock minus ours in milliseconds, once measured in the running session.
    pub clock_offset_ms: Option<f64>,
    /// Where this room's picture and sound come from.
    pub source: Source,
    /// Whether this room's picture or sound is going out now.
    pub publishing: bool,
    /// What the source does not give, in a sentence; null when nothing is amiss.
    pub lacks: Option<String>,
}

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// This point's name.
    pub name: String,
    /// The program's version.
    pub version: String,
}

/// Where a room's picture and sound come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The camera and microphone of the browser that shows the page.
    Browser,
    /// A moving test picture.
    #[default]
    Pattern,
    /// A film or sound file.
    File,
}

/// A point of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Its level, in the authority's words.
    pub level: String,
    /// Whether it is connected now.
    pub online: bool,
    /// When it was last connected, Unix milliseconds; null when never.
    pub last_seen_ms: Option<u64>,
}

/// The file system of the archive, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Space {
    /// Free to this program.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The running session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// When it began, Unix milliseconds.
    pub started_ms: u64,
    /// Session time now, in milliseconds; null until it is known here.
    pub session_ms: Option<u64>,
    /// Whether this node chairs it.
    pub central: bool,
    /// Number of this point in it; null when it was removed.
    pub me: Option<u16>,
    /// Whether this node records it.
    pub recording: bool,
    /// Its points.
    pub points: Vec<LivePoint>,
}

/// A point of the running session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LivePoint {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Its level, in the authority's words.
    pub level: String,
    /// Whether it chairs the session.
    pub central: bool,
    /// Whether it is this one.
    pub me: bool,
    /// Whether it takes part now, as far as is known here.
    pub connected: bool,
    /// Since when it does or does not, Unix milliseconds.
    pub since_ms: u64,
    /// Whether its sound arrives here now.
    pub audio: bool,
    /// Whether its picture arrives here now.
    pub video: bool,
    /// Groups of it that are known to be missing from the record; only the chair's node knows.
    pub missing: u64,
}
