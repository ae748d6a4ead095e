//! What a helper far away needs to see of a node that does not do what it should, and nothing that concerns people: an
//! archive file of plain texts that whoever sends it can read first.
//!
//! Two nets, one behind the other. What is collected has no names, titles, addresses or keys to begin with: points are
//! numbers, settings that hold any are replaced by how many there are. Then every text goes through [`mask::Mask`], which
//! knows this node's names and takes out whatever looks like an address, an id, a path, a mail or a telephone number,
//! because the database's own log and a setting somebody invented say what they like.

pub mod mask;
pub mod tar;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use store::roster::Right;

use crate::accounts::Role;
use crate::config::Config;
use crate::control::access::AccessLine;
use crate::control::{PointStatus, Status};

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Piece {
    /// A file of this text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Piece { name: name.into(), text: text.into() }
    }
}

/// What the first file says.
pub fn read_me(version: &str) -> Piece {
    let text = format!(
        "A node of Điểm Cầu {version}, for somebody who helps. Read it before you send it.\n\n\
         It holds no names of people, points or sessions, no addresses, no keys and no passwords. Points are numbers, in the\n\
         order of the roster; 1 is whichever stands first. [...] stands where something was taken out.\n\n\
         The node's own log is not in it: it goes to stderr, which systemd keeps (journalctl -u diemcau). What went wrong is\n\
         counted in counters.txt.\n"
    );
    Piece::new("READ-ME.txt", text)
}

/// The settings, without what names anybody or any place.
pub fn settings(config: &Config) -> Piece {
    let port = |port: crate::config::Port| match port.fixed {
        true => format!("{} (chosen)", port.number),
        false => format!("{} (default)", port.number),
    };
    let source = config.room.source.to_string();
    let kind = source.split(':').next().unwrap_or_default();
    let lines = [
        ("name", if config.name.is_some() { "given" } else { "not given" }.to_owned()),
        ("mesh.listen", if config.mesh.listen.is_unspecified() { "every address" } else { "one address" }.to_owned()),
        ("mesh.port", port(config.mesh.port)),
        ("mesh.peers", format!("{} addresses", config.mesh.peers.len())),
        ("mesh.mdns", config.mesh.mdns.to_string()),
        ("media.port", port(config.media.port)),
        ("media.line_kbps", config.media.line_kbps.to_string()),
        ("room.source", kind.to_owned()),
        ("room.watch", config.room.watch.to_string()),
        ("console.port", port(config.console.port)),
        ("session.points_max", config.session.points_max.to_string()),
    ];
    let text = lines.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{key} = {value}");
        text
    });
    Piece::new("settings.txt", text)
}

/// The state of the node and its points, which are numbers here.
pub fn state(status: &Status) -> Piece {
    let own = &status.own;
    let number = |name: &str| status.points.iter().position(|point| point.name == name).map_or(0, |place| place + 1);
    let mut text = format!(
        "version {}\nrunning {}\nthis is point {}\nlistening on {} addresses\nmesh port {}\nmedia port {}\npage {}\nstarted {}\n\
         roster {}, source lacks something {}\n",
        own.version,
        own.running,
        number(&own.name),
        own.addresses.len(),
        own.mesh_port,
        own.media_port,
        own.console.is_some(),
        own.started.map_or_else(|| "-".to_owned(), |ms| ms.to_string()),
        own.roster,
        own.source_lacks.is_some(),
    );
    match &status.session {
        Some(session) => {
            let present: Vec<_> = session.present.iter().map(|name| number(name).to_string()).collect();
            let _ = writeln!(
                text,
                "in a session as {}, central is point {}, there since {}, present: points {}",
                session.role,
                number(&session.central),
                session.started,
                present.join(" "),
            );
        }
        None => text.push_str("in no session\n"),
    }
    let (disk, clock) = (&status.disk, &status.clock);
    let _ = writeln!(
        text,
        "disk {} of {} bytes free, {} groups of {} bytes, {} lost, log damaged {}\nclock against point {}: offset {:?} ms, error {:?} ms\n",
        disk.free,
        disk.total,
        disk.groups,
        disk.bytes,
        disk.lost,
        disk.damaged,
        clock.against.as_deref().map_or(0, number),
        clock.offset_ms,
        clock.error_ms,
    );
    for (place, point) in status.points.iter().enumerate() {
        let PointStatus { online, last_seen, addresses, rtt_ms, same_roster, .. } = point;
        let _ = writeln!(
            text,
            "point {}: online {online}, last seen {last_seen:?}, {} addresses, round trip {rtt_ms:?} ms, \
             same roster {same_roster:?}",
            place + 1,
            addresses.len(),
        );
    }
    Piece::new("state.txt", text)
}

/// The counters.
pub fn counters(status: &Status) -> Piece {
    let lines = status.counters.0.iter().map(|(name, count)| format!("{name} {count}\n"));
    Piece::new("counters.txt", lines.collect::<String>())
}

/// How many points have which rights, and how many accounts which role.
pub fn rights<'a>(points: impl Iterator<Item = &'a store::roster::Point>, accounts: &[Role]) -> Piece {
    let mut rights: BTreeMap<Right, u32> = BTreeMap::new();
    let mut all = 0;
    for point in points {
        all += 1;
        point.rights.iter().for_each(|right| *rights.entry(*right).or_default() += 1);
    }
    let mut text = format!("{all} points\n");
    for (right, count) in rights {
        let _ = writeln!(text, "{count} with the right {right:?}");
    }
    let mut roles: BTreeMap<Role, u32> = BTreeMap::new();
    accounts.iter().for_each(|role| *roles.entry(*role).or_default() += 1);
    for (role, count) in roles {
        let _ = writeln!(text, "{count} accounts with the role {}", role.name());
    }
    Piece::new("rights.txt", text)
}

/// The access log in numbers: what was done and refused how often, by which kind of whom, and whether it is whole.
pub fn accesses(lines: &[AccessLine], broken: &[String]) -> Piece {
    let mut sums: BTreeMap<(&str, &str, Option<&str>), u64> = BTreeMap::new();
    for line in lines {
        let kind = (line.deed.as_str(), line.by.as_str(), line.refused.as_deref());
        let sum = sums.entry(kind).or_default();
        *sum = sum.saturating_add(line.times);
    }
    let mut text = format!("{} entries, broken in {} places\n", lines.len(), broken.len());
    broken.iter().for_each(|place| {
        let _ = writeln!(text, "{place}");
    });
    for ((deed, by, refused), times) in sums {
        let outcome = refused.map_or_else(|| "done".to_owned(), |reason| format!("refused: {reason}"));
        let _ = writeln!(text, "{deed} by {by}, {outcome}: {times} times");
    }
    Piece::new("accesses.txt", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::control::{Clock, Counters, Disk, Own, Running};

    fn point(name: &str) -> PointStatus {
        PointStatus {
            name: name.into(),
            level: "xã".into(),
            node: "ab".repeat(32),
            online: true,
            last_seen: Some(7),
            addresses: vec!["192.0.2.7:7400".into()],
            rtt_ms: Some(1.5),
            roster: Some(7),
            same_roster: Some(true),
        }
    }

    #[test]
    fn points_are_numbers_and_what_names_anybody_is_how_many() {
        let status = Status {
            own: Own {
                name: "Xã Kim Thành".into(),
                level: "xã".into(),
                node: "ab".repeat(32),
                running: true,
                version: "0.1.0".into(),
                addresses: vec!["192.0.2.7:7400".into()],
                mesh_port: 7400,
                media_port: 7500,
                console: Some("http://127.0.0.1:8080/".into()),
                started: Some(5),
                source: "rtsp://user:secret@192.0.2.9/".into(),
                source_lacks: None,
                roster: 7,
            },
            points: vec![point("Trung tâm"), point("Xã Kim Thành")],
            session: Some(Running {
                id: "01jd9rdtkg0e1r70e1r70e1r70".into(),
                title: "Vụ bà Nguyễn Thị X".into(),
                central: "Trung tâm".into(),
                role: "delegate".into(),
                started: 6,
                present: vec!["Xã Kim Thành".into(), "Trung tâm".into()],
            }),
            disk: Disk { free: 1, total: 2, groups: 3, bytes: 4, ..Disk::default() },
            clock: Clock { against: Some("Trung tâm".into()), offset_ms: Some(0.5), error_ms: None },
            counters: Counters([("strangers_refused".to_owned(), 3)].into()),
        };
        let expected = "\
            version 0.1.0\nrunning true\nthis is point 2\nlistening on 1 addresses\nmesh port 7400\nmedia port 7500\npage true\n\
            started 5\nroster 7, source lacks something false\nin a session as delegate, central is point 1, there since 6, present: points 2 1\n\
            disk 1 of 2 bytes free, 3 groups of 4 bytes, 0 lost, log damaged false\nclock against point 1: offset Some(0.5) ms, error None ms\n\n\
            point 1: online true, last seen Some(7), 1 addresses, round trip Some(1.5) ms, same roster Some(true)\n\
            point 2: online true, last seen Some(7), 1 addresses, round trip Some(1.5) ms, same roster Some(true)\n";
        assert_eq!(state(&status).text, expected);
        assert_eq!(counters(&status).text, "strangers_refused 3\n");
    }

    #[test]
    fn settings_show_that_something_is_set_and_not_to_what() {
        let text = "name = \"Xã Kim Thành\"\n[mesh]\nlisten = \"192.0.2.7\"\npeers = [\"hue.example.vn:7400\"]\n\
                    [room]\nsource = \"file:/home/lan/clip.mp4\"\n";
        let given = config::Given {
            file: Some(("/etc/diemcau.toml".into(), text.into())),
            home: Some("/home/lan".into()),
            ..config::Given::default()
        };
        let text = settings(&config::resolve(&given).unwrap()).text;
        assert!(
            text.contains(
                "name = given\nmesh.listen = one address\nmesh.port = 7400 (default)\nmesh.peers = 1 addresses"
            )
        );
        assert!(text.contains("room.source = file\n"), "{text}");
        for secret in ["Kim", "192", "hue", "clip", "lan"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }

    #[test]
    fn the_access_log_is_numbers() {
        let line = |deed: &str, who: &str, refused: Option<&str>, times| AccessLine {
            n: 0,
            at: 0,
            by: "address".into(),
            who: Some(who.into()),
            name: None,
            deed: deed.into(),
            what: None,
            which: None,
            refused: refused.map(Into::into),
            times,
            since: 0,
        };
        let lines = [
            line("connect", "192.0.2.7", Some("not a point"), 40),
            line("connect", "192.0.2.8", Some("not a point"), 2),
            line("login", "192.0.2.8", None, 1),
        ];
        let expected = "3 entries, broken in 1 places\naccess log entry 1 cannot be read\n\
                        connect by address, refused: not a point: 42 times\nlogin by address, done: 1 times\n";
        assert_eq!(accesses(&lines, &["access log entry 1 cannot be read".into()]).text, expected);
    }
}
