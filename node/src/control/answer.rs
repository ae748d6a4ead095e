//! The shapes of answers, one for the socket, `--json` and the console's page. Scripts may rely on the names; times are
//! unix milliseconds of the machine that says them, durations milliseconds, sizes bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::disk::Space;

/// Why something was not done. A command turns it into its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It should have worked. Exit code 1.
    Failed,
    /// What was named is not there. Exit code 3.
    Missing,
    /// It is there but cannot be trusted. Exit code 4.
    Damaged,
    /// Not allowed, or not now. Exit code 5.
    Refused,
}

/// Everything about this point at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This point.
    #[serde(rename = "self")]
    pub own: Own,
    /// Every point of the roster, this one too, in roster order.
    pub points: Vec<PointStatus>,
    /// The session this point is in.
    pub session: Option<Running>,
    /// Where the archive lies.
    pub disk: Disk,
    /// This machine's clock against central's.
    pub clock: Clock,
    /// What went through since the node started.
    pub counters: Counters,
}

/// This point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// As in the roster.
    pub name: String,
    /// As in the roster.
    pub level: String,
    /// Node id.
    pub node: String,
    /// Whether the node's process answered; `false` when a command read the folder of a stopped node.
    pub running: bool,
    /// Version of the program that answers.
    pub version: String,
    /// Where the mesh listens, as `HOST:PORT` to give to other points.
    pub addresses: Vec<String>,
    /// The mesh's port, TCP and UDP. 0 on a stopped node.
    pub mesh_port: u16,
    /// The media plane's UDP port. 0 on a stopped node.
    pub media_port: u16,
    /// The room's page, `http://127.0.0.1:PORT/`.
    pub console: Option<String>,
    /// When the node started.
    pub started: Option<u64>,
    /// Where pictures and sound come from, as in the configuration.
    pub source: String,
    /// Which of the two does not come from there, and why.
    pub source_lacks: Option<String>,
    /// Number of the roster this point works with.
    pub roster: u64,
}

/// One point of the roster as seen from here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointStatus {
    /// As in the roster.
    pub name: String,
    /// As in the roster.
    pub level: String,
    /// Node id.
    pub node: String,
    /// Whether it can be reached now. The point itself is online when its node runs.
    pub online: bool,
    /// When something was last heard from it, null for never since this node started.
    pub last_seen: Option<u64>,
    /// Where it is connected from.
    pub addresses: Vec<String>,
    /// Round trip over the mesh.
    pub rtt_ms: Option<f64>,
    /// Number of the roster it works with, as it said last; null when it has not said.
    pub roster: Option<u64>,
    /// Whether it knows the same of the mesh as this point, admissions beside the roster included.
    pub same_roster: Option<bool>,
}

/// The session a point is in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Session id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// Name of the central point.
    pub central: String,
    /// `central` or `delegate`: what this point is in it.
    pub role: String,
    /// When it started.
    pub started: u64,
    /// Names of those in it now.
    pub present: Vec<String>,
}

/// Where the archive lies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes free on its file system.
    pub free: u64,
    /// Size of its file system in bytes.
    pub total: u64,
    /// Groups kept.
    pub groups: u64,
    /// Bytes of these groups.
    pub bytes: u64,
    /// Groups that were kept and that the disk has no more.
    pub lost: u64,
    /// Whether the archive's log was damaged when the node started: what was written last before may be gone.
    pub damaged: bool,
    /// Whether so much damage was found on it that the disk itself is suspected.
    #[serde(default)]
    pub alarm: bool,
    /// What is still written on it.
    #[serde(default)]
    pub space: Space,
}

/// This machine's clock against the central point's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Whom it was compared with.
    pub against: Option<String>,
    /// Central's clock minus ours.
    pub offset_ms: Option<f64>,
    /// How wrong the offset may be: half the round trip.
    pub error_ms: Option<f64>,
}

/// Named counts since the node started, such as `pictures_captured`; names are those of the part that counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters(pub BTreeMap<String, u64>);

/// Whether a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs, or ran when this point last heard of it.
    Open,
    /// It was ended by central.
    Ended,
}

/// A session as a list shows it, and with its journal when shown alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Session id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// Whether it goes on.
    pub state: State,
    /// Name of the central point.
    pub central: String,
    /// When it started.
    pub started: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// Who was asked to it.
    pub points: Vec<SessionPoint>,
    /// Groups of it kept here.
    pub groups: u64,
    /// Bytes of these groups.
    pub bytes: u64,
    /// Groups that should be here and are not.
    pub gaps: u64,
    /// Other nodes that signed that they hold everything of it, as far as this one knows.
    #[serde(default)]
    pub holders: u64,
    /// What happened, in order. Empty in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalLine>,
}

/// A point of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPoint {
    /// Its number in the session; tracks carry it.
    pub number: u16,
    /// As in the session's head.
    pub name: String,
    /// Node id.
    pub node: String,
    /// Whether it is in the session now, as far as this node knows.
    pub present: bool,
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// Its number, from 0.
    pub n: u64,
    /// Session time of what it tells.
    pub at_ms: u64,
    /// Central's wall clock then.
    pub wall: u64,
    /// What happened, in words.
    pub event: String,
    /// The same for programs, and for sentences in other languages.
    #[serde(default)]
    pub fact: Fact,
}

/// What a line of the journal tells. Kinds and reasons are those of `store::journal`, beside `broken`: the journal is damaged
/// from here on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Of what kind, such as `joined` or `gap`.
    pub kind: String,
    /// What the session is called, where that is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Names of the points it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<String>,
    /// The reason, such as `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The track, such as `audio`, of which it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<String>,
    /// First group of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Last group of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// What somebody wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Who wrote it, if it was an account of the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What this room has been shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Of which session.
    pub session: Option<String>,
    /// One row for each other point that was seen or heard.
    pub shown: Vec<Shown>,
}

/// What this room has been shown of one other point. Frames are those really decoded here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Name of that point.
    pub from: String,
    /// Pictures decoded.
    pub video_frames: u64,
    /// Pictures that point published while this room was watching.
    pub video_expected: u64,
    /// Sound frames decoded.
    pub audio_frames: u64,
    /// Sound frames that point published while this room was listening.
    pub audio_expected: u64,
    /// Capture to ready-to-show.
    pub latency_ms: Latency,
}

/// How late, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half were sooner.
    pub p50: f64,
    /// 19 of 20 were sooner.
    pub p95: f64,
    /// The latest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_names_that_scripts_rely_on() {
        let status = Status {
            own: Own {
                name: "UBND xã Kim Thành".into(),
                level: "commune".into(),
                node: "ab".into(),
                running: true,
                version: "0.1.0".into(),
                addresses: vec!["192.168.1.5:7400".into()],
                mesh_port: 7400,
                media_port: 7500,
                console: Some("http://127.0.0.1:8080/".into()),
                started: Some(1),
                source: "pattern".into(),
                source_lacks: None,
                roster: 7,
            },
            points: vec![PointStatus {
                name: "UBND xã Kim Thành".into(),
                level: "commune".into(),
                node: "ab".into(),
                online: true,
                last_seen: Some(2),
                addresses: vec![],
                rtt_ms: None,
                roster: Some(7),
                same_roster: Some(true),
            }],
            session: None,
            disk: Disk::default(),
            clock: Clock::default(),
            counters: Counters([("pictures_captured".to_owned(), 3)].into()),
        };
        let json = serde_json::to_string(&status).unwrap();
        let expected = concat!(
            r#"{"self":{"name":"UBND xã Kim Thành","level":"commune","node":"ab","running":true,"version":"0.1.0","#,
            r#""addresses":["192.168.1.5:7400"],"mesh_port":7400,"media_port":7500,"console":"http://127.0.0.1:8080/","#,
            r#""started":1,"source":"pattern","source_lacks":null,"roster":7},"points":[{"name":"UBND xã Kim Thành","#,
            r#""level":"commune","node":"ab","online":true,"last_seen":2,"addresses":[],"rtt_ms":null,"roster":7,"#,
            r#""same_roster":true}],"session":null,"#,
            r#""disk":{"free":0,"total":0,"groups":0,"bytes":0,"lost":0,"damaged":false,"alarm":false,"space":"enough"},"#,
            r#""clock":{"against":null,"offset_ms":null,"error_ms":null},"counters":{"pictures_captured":3}}"#,
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}

/// How far the taking back of a lost archive has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Somebody wants something back.
    pub wanted: bool,
    /// Nothing is left to do with the points in reach.
    pub idle: bool,
    /// It waits for a running session.
    pub waits: bool,
    /// Points that said which sessions of this one they know.
    pub answered: usize,
    /// Sessions they named.
    pub sessions: usize,
    /// Those whose record is here: they are listed, and play as far as their groups are here.
    pub records: usize,
    /// Those of which everything is here.
    pub whole: usize,
    /// Those of which nobody in reach has the rest, by id.
    pub left: Vec<String>,
    /// Those of them of which points say different things, by id.
    pub disputed: Vec<String>,
    /// Further sessions that others named, in which nothing that this point signed is left.
    pub foreign: usize,
    /// Groups of those whose record is here.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Groups that are still missing.
    pub missing_groups: u64,
    /// Bytes of them.
    pub missing_bytes: u64,
    /// Bytes that came since it began.
    pub fetched_bytes: u64,
    /// Points that gave something false, by name.
    pub wrong: Vec<String>,
    /// Sessions of this point that another named when this one started with an empty archive.
    pub elsewhere: usize,
}
