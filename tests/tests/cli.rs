//! What scripts may rely on: exit codes, JSON alone on stdout, one sentence for what went wrong.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use node::control::{Session, State, Status};
use serde_json::{Value, json};
use tests::film;
use tests::office::{Office, Point, SOON, alone, found, init};
use tests::program::{Call, Finished, Folder, Running, Signal, lives, until};

/// Runs a command line (its arguments have no spaces) on a data folder; it must end with this code, and unless that is 0
/// say on stderr why, in one sentence, and nothing on stdout.
fn check(data: &Path, line: &str, code: i32) -> Finished {
    let done = Call::new(line.split_whitespace()).data(data).run().ended_with(code);
    if code != 0 {
        assert!(done.stdout.is_empty(), "{done}");
        let first = done.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.len() > 20, "{done}");
    }
    done
}

/// The same, where the sentence must hold these words.
fn refused(data: &Path, line: &str, code: i32, words: &[&str]) {
    let done = check(data, line, code);
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} is said\n{done}");
    }
}

#[test]
fn what_is_not_there_ends_with_3() {
    let folder = Folder::new();
    let nowhere = folder.join("nowhere");
    for line in [
        "status --json",
        "run --port 0 --media-port 0 --console-port 0",
        "session start --title A",
        "session end",
        "session list --json",
        "session show 01",
        "archive list --json",
        "archive show last --json",
        "archive export last --to films",
        "authority import-roster missing.cose",
        "authority show --json",
        "authority revoke A --reason B",
        "authority check-shares missing.txt",
        "run --config missing.toml",
    ] {
        check(&nowhere, line, 3);
    }
    let point = folder.join("point");
    found(&[(&point, "Xã Kim Thành")]);
    for line in ["session show 01", "archive show last", "archive export last --to films", "session end"] {
        check(&point, line, 3);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = Folder::new();
    let data = folder.join("point");
    for (line, word) in [
        ("status --loud", "--loud"),
        ("session start", "--title"),
        ("archive export last", "--to"),
        ("demo --points 1", "2..=40"),
        ("demo --seconds 0", "4..=3600"),
        ("demo --source camera:0", "camera:0"),
        ("init", "--name"),
    ] {
        refused(&data, line, 2, &[word]);
    }
    init(&data, "Xã Kim Thành");
    fs::write(data.join("config.toml"), "[mesh]\nprot = 7400\n").expect("room for settings");
    refused(&data, "run", 2, &["mesh.prot", "mesh.port"]);
}

#[test]
fn a_demo_does_not_mix_with_what_is_in_a_folder_and_ends_with_5() {
    let folder = Folder::new();
    fs::write(folder.join("letter.txt"), "Kính gửi").expect("room for a letter");
    refused(folder.path(), "demo --points 2", 5, &["is not empty", "--data"]);
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["letter.txt"]);
}

#[test]
fn what_a_command_started_dies_with_it_however_it_dies() {
    let _machine = alone();
    let folder = Folder::new();
    let check = |call: Call, begun: &dyn Fn(&Running) -> bool| {
        let mut running = call.start();
        let children = until("it has started others", SOON, || {
            assert!(running.is_running(), "{}", running.stderr());
            begun(&running).then(|| running.children())
        });
        assert!(!children.is_empty());
        running.signal(Signal::KILL);
        until("they are gone", SOON, || (!children.iter().any(|child| lives(*child))).then_some(()));
    };
    let nodes = ["1-central", "2-delegate"].map(|name| folder.join(name).join("control.sock"));
    check(Call::new(["demo", "--points", "2", "--seconds", "60"]).data(folder.path()), &|demo| {
        nodes.iter().all(|node| node.exists()) && demo.children().len() == 2
    });
    let bench = Call::new(["bench", "fanout", "--subscribers", "1", "--seconds", "60", "--rounds", "1"]);
    check(bench, &|bench| !bench.children().is_empty());
}

#[test]
fn what_is_damaged_ends_with_4_and_keys_open_to_others_with_5() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let (key, roster) = (data.join("keys/node.key"), data.join("roster.cose"));
    let (good_key, good_roster) = (fs::read(&key), fs::read(&roster));
    let (good_key, good_roster) = (good_key.expect("a key"), good_roster.expect("a roster"));

    fs::write(&key, &good_key[..good_key.len() / 2]).expect("room for a key");
    refused(&data, "status", 4, &["node.key", "backup"]);
    refused(&data, "run --port 0", 4, &["node.key", "backup"]);
    fs::write(&key, &good_key).expect("room for a key");

    fs::write(&roster, &good_roster[..good_roster.len() / 2]).expect("room for a roster");
    refused(&data, "status", 4, &["roster.cose"]);
    refused(&data, "run --port 0", 4, &["roster.cose"]);
    fs::write(&roster, &good_roster).expect("room for a roster");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("our own file");
    refused(&data, "status", 5, &["chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("our own file");

    let other = folder.join("other");
    init(&other, "Xã khác");
    refused(&other, "run --port 0", 3, &["belongs to no mesh yet", "join"]);
    let import = format!("authority import-roster {}", roster.display());
    refused(&other, &import, 5, &["has no point with this node's id"]);
    check(&data, "status", 0);
}

#[test]
fn a_source_that_cannot_be_played_is_one_sentence_that_says_what_was_found() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("room for a file");
        path.display().to_string()
    };
    let whole = folder.join("whole.mp4");
    let input = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=10", "-t", "1", "-pix_fmt", "yuv420p"];
    film::make(&[&input[..], &["-c:v", "libx264", whole.to_str().expect("a plain name")]].concat());
    let whole = fs::read(whole).expect("a clip");
    for (path, code, word) in [
        (folder.join("missing.mp4").display().to_string(), 3, "No such file"),
        (folder.path().display().to_string(), 1, "directory"),
        (file("text.mp4", b"Xin chao!\n"), 2, "found text"),
        (file("empty.mp4", b""), 2, "an empty file"),
        (file("half.mp4", &whole[..whole.len() / 2]), 4, "half.mp4"),
    ] {
        for command in ["demo --points 2", "run --port 0 --media-port 0 --console-port 0"] {
            let data = if command.starts_with("demo") { folder.join("demo") } else { data.clone() };
            let done = check(&data, &format!("{command} --source file:{path}"), code);
            assert!(done.stderr.contains(word), "{word:?} is said\n{done}");
            assert!(done.stderr.contains(&path) && done.stderr.lines().count() <= 3, "{done}");
        }
    }
}

#[test]
fn a_point_alone_is_told_of_running_and_stopped_and_its_folder_has_one_node() {
    let _machine = alone();
    let folder = Folder::new();
    let mut point = Point::on(folder.join("point"), "Xã Kim Thành");
    found(&[(&point.data, &point.name)]);
    let stopped = point.status();
    assert_eq!((stopped.own.running, stopped.own.mesh_port, stopped.session), (false, 0, None));
    assert_eq!(stopped.points.iter().map(|p| (p.name.as_str(), p.online)).collect::<Vec<_>>(), [(&*point.name, false)]);

    // All ports that are left at their defaults give way; somebody else may have taken them already.
    let taken = [7400, 8080].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let media_taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 7500));
    let running = point.start(Call::new(["run", "--listen", "127.0.0.1", "--mdns", "false"]));
    assert!((7401..=7500).contains(&running.own.mesh_port), "{}", running.own.mesh_port);
    assert!((7501..=7600).contains(&running.own.media_port), "{}", running.own.media_port);
    let console = running.own.console.expect("the page's address");
    let port = console.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    assert!(port.is_some_and(|port| (8081..=8180).contains(&port)), "{console}");
    drop((taken, media_taken));
    let shown = format!("mesh={} media={} page={console}", running.own.mesh_port, running.own.media_port);
    assert!(point.log().contains(&shown), "{shown} is shown at start: {}", point.log());
    assert!(running.points.iter().all(|point| point.online), "the node itself counts as online");

    refused(&point.data, "run --port 0 --media-port 0 --console-port 0", 5, &["already running", "stop it first"]);
    let port = running.own.mesh_port.to_string();
    let other = folder.join("other");
    found(&[(&other, "Xã khác")]);
    refused(&other, &format!("run --listen 127.0.0.1 --mdns false --port {port}"), 5, &[&port]);
    refused(&point.data, "session start --title A", 5, &["at least one other point"]);
    refused(&point.data, "session start --title A --point Nobody", 3, &["Nobody"]);
    refused(&point.data, "session end", 3, &["no session"]);
    point.stop();
    assert!(!point.status().own.running);
}

#[test]
fn a_film_whose_sound_cannot_be_played_is_used_and_everybody_is_told() {
    let folder = Folder::new();
    let film = folder.join("film.mp4");
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=10", "-f", "lavfi", "-i", "sine", "-t", "1"];
    let six = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-c:a", "aac", "-ac", "6"];
    film::make(&[&picture[..], &six, &[film.to_str().expect("a plain name")]].concat());
    let mut point = Point::on(folder.join("point"), "Xã Kim Thành");
    found(&[(&point.data, &point.name)]);
    let source = format!("file:{}", film.display());
    let running = point.run(&["--port", "0", "--source", &source]).own;
    let lack = running.source_lacks.expect("sound is missing");
    assert!(lack.starts_with("no sound: its sound is AAC with 6 channels"), "{lack}");
    let sentence = format!("source {source} gives {lack}");
    let warnings: Vec<_> = point.log().lines().filter(|line| line.contains(&sentence)).map(str::to_owned).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("WARN"), "{}", point.log());
    let told = Call::new(["status"]).data(&point.data).run().succeeded().stdout;
    assert!(told.lines().any(|line| line == sentence), "{told}");
    point.stop();
}

#[test]
fn names_in_json_are_those_that_scripts_know() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành", "Phường Sa Đéc"]);
    let file = office.points[0].data.join("config.toml");
    fs::write(&file, "[session]\npoints_max = 2\n").expect("room for settings");
    office.run();
    let data = office.points[0].data.clone();
    refused(&data, "session start --title A", 5, &["3 points", "points_max"]);

    let start = Call::new(["session", "start", "--title", "Tiếp công dân", "--point", "Xã Kim Thành", "--json"]);
    let started: Session = start.data(&data).json();
    assert_eq!((started.state, started.points.len()), (State::Open, 2));
    refused(&data, "session start --title B --point 0", 3, &["\"0\""]);
    let second = Call::new(["session", "start", "--title", "B", "--point", "Xã Kim Thành"]).data(&data).run();
    assert!(second.ended_with(5).stdout.is_empty());
    let (delegate, outside) = (&office.points[1], &office.points[2]);
    delegate.wait_for_groups(2);
    refused(&delegate.data, "session end", 5, &[]);
    assert!(outside.status().session.is_none(), "who is not asked to a session is not in it");

    let status: Value = Call::new(["status", "--json"]).data(&data).json();
    for name in ["self", "points", "session", "disk", "clock"] {
        assert!(!status[name].is_null(), "{name}: {status}");
    }
    assert_eq!(status["points"].as_array().map(Vec::len), Some(3));
    for name in ["name", "level", "online", "last_seen"] {
        assert!(status["points"].as_array().is_some_and(|all| all.iter().all(|p| p.get(name).is_some())), "{status}");
    }
    assert_eq!(status["session"]["id"], json!(started.id));

    let ended = office.points[0].end_session();
    assert_eq!((ended.state, &ended.id), (State::Ended, &started.id));
    let journal: Vec<_> = ended.journal.iter().map(|line| line.event.as_str()).collect();
    assert!(journal[0].starts_with("started") && journal.last() == Some(&"ended"), "{journal:?}");
    for args in [["session", "list", "--json"], ["archive", "list", "--json"]] {
        // Beside the running node, and below on the stopped one.
        let listed: Vec<Session> = Call::new(args).data(&data).json();
        assert_eq!(listed.iter().map(|session| &session.id).collect::<Vec<_>>(), [&started.id]);
    }
    let running: Value = Call::new(["archive", "show", "last", "--json"]).data(&data).json();
    office.stop();
    for args in [["session", "list", "--json"], ["archive", "list", "--json"]] {
        let listed: Vec<Session> = Call::new(args).data(&data).json();
        assert_eq!((listed[0].state, listed[0].groups), (State::Ended, ended.groups));
    }
    let mut stopped: Value = Call::new(["archive", "show", &started.id[..20], "--json"]).data(&data).json();
    // Who is in a session now is known to a running node alone.
    stopped["points"] = running["points"].clone();
    assert_eq!(stopped, running);
    let tracks = stopped["tracks"].as_array().expect("tracks");
    assert_eq!(tracks.len(), 4, "{stopped}");
    refused(&data, "archive show zz", 3, &["\"zz\""]);
    refused(&data, "archive export last --to films --point Nobody", 3, &["Nobody"]);
    let stopped: Status = Call::new(["status", "--json"]).data(&data).json();
    assert!(!stopped.own.running && stopped.points.iter().all(|point| !point.online));
    until("the socket is gone", SOON, || (!data.join("control.sock").exists()).then_some(()));
}
