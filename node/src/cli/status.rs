//! `diemcau status`: asks the running node; of a stopped one it says what the data folder says.

use std::path::Path;

use anyhow::Result;
use node::control::{self, Clock, Counters, Disk, Own, PointStatus, Request, Response, Status};
use node::engine::disk::Space;
use node::identity::{Identity, roster};

use super::args::{Data, Format};
use super::output::{self, moment, size, table};

/// Show this point, the others and the running session
///
/// On a stopped node, what its data folder says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let status = match args.data.ask(&Request::Status) {
        Ok(Response::Status(status)) => *status,
        Ok(other) => anyhow::bail!("the node answered something else: {other:?}"),
        Err(error) => match error.downcast_ref() {
            Some(control::Error::NotRunning(folder)) => stopped(folder)?,
            _ => return Err(error),
        },
    };
    if args.format.json {
        return Ok(output::json(&status)?);
    }
    Ok(output::print(&describe(&status))?)
}

/// What can be said of a node that does not run.
pub(super) fn stopped(data: &Path) -> Result<Status> {
    let me = Identity::public_of(data)?.node;
    let roster = roster::load(data, &me)?;
    let points = roster.points().iter().map(|point| PointStatus {
        name: point.name.clone(),
        level: point.level.clone(),
        node: point.node.to_string(),
        online: false,
        last_seen: None,
        addresses: point.addresses.clone(),
        rtt_ms: None,
        roster: (point.node == me).then_some(roster.number()),
        same_roster: (point.node == me).then_some(true),
    });
    let points: Vec<_> = points.collect();
    let id = me.to_string();
    let own = points.iter().find(|point| point.node == id);
    Ok(Status {
        own: Own {
            name: own.map(|own| own.name.clone()).unwrap_or_default(),
            level: own.map(|own| own.level.clone()).unwrap_or_default(),
            node: id,
            running: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: Vec::new(),
            mesh_port: 0,
            media_port: 0,
            console: None,
            started: None,
            source: String::new(),
            source_lacks: None,
            roster: roster.number(),
        },
        points,
        session: None,
        disk: Disk::default(),
        clock: Clock::default(),
        counters: Counters::default(),
    })
}

fn describe(status: &Status) -> String {
    let own = &status.own;
    let mut text = if own.running {
        format!(
            "{} runs: mesh {}, sound and picture on UDP port {}, page {}\n",
            own.name,
            if own.addresses.is_empty() { format!("port {}", own.mesh_port) } else { own.addresses.join(" ") },
            own.media_port,
            own.console.as_deref().unwrap_or("none"),
        )
    } else {
        format!("{} is stopped\n", own.name)
    };
    if let Some(lack) = &own.source_lacks {
        text.push_str(&format!("source {} gives {lack}\n", own.source));
    }
    text.push_str(&roster_line(status));
    match &status.session {
        Some(session) => text.push_str(&format!(
            "session {} \"{}\" since {}, central {}, here: {}\n",
            session.id,
            session.title,
            moment(session.started),
            session.central,
            session.present.join(", "),
        )),
        None => text.push_str("no session\n"),
    }
    if own.running {
        let disk = &status.disk;
        text.push_str(&format!(
            "archive {} groups, {}; {} of {} free\n",
            disk.groups,
            size(disk.bytes),
            size(disk.free),
            size(disk.total),
        ));
        if disk.lost > 0 {
            text.push_str(&format!("{} groups that were kept are lost from this disk: look at it\n", disk.lost));
        }
        text.push_str(match disk.space {
            Space::Enough => "",
            Space::Tight => "the disk fills up: no further copies of others' sessions are taken, make room\n",
            Space::Short => "the disk is nearly full: only sessions here are recorded, make room now\n",
            Space::Last => "the disk is full: recording uses the last of it and will end, make room now\n",
        });
        if disk.alarm {
            text.push_str(super::scrub::ALARM);
        }
        if disk.damaged {
            text.push_str("the archive's log was damaged when the node started, what could be read of it was kept: look at the disk\n");
        }
    }
    let rows: Vec<Vec<String>> = status.points.iter().map(row).collect();
    text.push('\n');
    text.push_str(&table(&["POINT", "LEVEL", "ONLINE", "LAST SEEN", "RTT", "ADDRESS"], &rows));
    text
}

/// Which roster, and who knows the mesh otherwise than this point: for a moment after a change, or for long when a point has
/// not heard of it.
fn roster_line(status: &Status) -> String {
    let differing = status.points.iter().filter(|point| point.same_roster == Some(false));
    let differing: Vec<String> =
        differing.map(|point| format!("{} (roster {})", point.name, point.roster.unwrap_or_default())).collect();
    match differing.as_slice() {
        [] => format!("roster {}\n", status.own.roster),
        differing => format!("roster {}, not the same at {}\n", status.own.roster, differing.join(", ")),
    }
}

fn row(point: &PointStatus) -> Vec<String> {
    vec![
        point.name.clone(),
        point.level.clone(),
        if point.online { "yes" } else { "no" }.to_owned(),
        point.last_seen.map_or_else(|| "-".to_owned(), moment),
        point.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        point.addresses.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_node_shows_its_roster() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        let (identity, _) = Identity::load_or_create(&data).unwrap();
        let point = store::roster::Point {
            node: identity.id(),
            wrap: identity.wrap.public(),
            name: "UBND xã Kim Thành".into(),
            level: "xã".into(),
            zone: String::new(),
            rights: Default::default(),
            addresses: vec!["10.0.0.1:7400".into()],
            replaces: None,
        };
        roster::save(&data, &roster::for_good("A", vec![point]).unwrap()).unwrap();
        let expected = "UBND xã Kim Thành is stopped\n\
                        roster 1\n\
                        no session\n\n\
                        POINT              LEVEL  ONLINE  LAST SEEN  RTT  ADDRESS\n\
                        UBND xã Kim Thành  xã     no      -          -    10.0.0.1:7400\n";
        let mut status = stopped(&data).unwrap();
        assert_eq!(describe(&status), expected);
        status.points[0].same_roster = Some(false);
        assert!(describe(&status).contains("roster 1, not the same at UBND xã Kim Thành (roster 1)\n"));
    }
}
