//! One line typed by a clerk: a new machine joins by a code, everybody learns of it, and whoever is shut out stays out.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node::control::{State, Status};
use serde_json::Value;
use tests::office::{Point, SOON, alone};
use tests::program::{Call, Folder, until};

const PASSPHRASE: &str = "một con vịt xoè ra";

/// A mesh that has its first point, which runs.
struct Mesh {
    folder: Folder,
    central: Point,
}

impl Mesh {
    fn found() -> Self {
        let folder = Folder::new();
        let data = folder.join("central");
        let init = Call::new(["init", "--agency", "Thành phố Hải Phòng", "--name", "Trung tâm", "--json"]);
        init.arg("--shares-to")
            .arg(folder.join("shares"))
            .data(&data)
            .env("DIEMCAU_PASSPHRASE", PASSPHRASE)
            .run()
            .succeeded();
        let mut central = Point::on(data, "Trung tâm");
        central.run(&["--port", "0"]);
        Self { folder, central }
    }

    fn invite(&self, name: &str, more: &[&str]) -> Call {
        let call = Call::new(["invite", name, "--level", "commune"]).args(more.iter().copied());
        call.data(&self.central.data).env("DIEMCAU_PASSPHRASE", PASSPHRASE)
    }

    /// The code for a machine that will be called `name`.
    fn code(&self, name: &str, more: &[&str]) -> String {
        let invite: Value = self.invite(name, more).arg("--json").json();
        assert!(invite["expires"].as_u64().is_some_and(|expires| expires > 1_700_000_000_000), "{invite}");
        invite["code"].as_str().expect("a code").to_owned()
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A machine that has joined as `name`, and runs.
    fn join(&self, name: &str) -> Point {
        let code = self.code(name, &[]);
        let joined: Value = join(&code, &self.data(name)).arg("--json").json();
        assert_eq!((joined["name"].as_str(), joined["agency"].as_str()), (Some(name), Some("Thành phố Hải Phòng")));
        let mut point = Point::on(self.data(name), name);
        // Whom to call it knows from the code.
        point.run(&["--port", "0"]);
        point
    }

    fn authority(&self, args: &[&str]) -> Value {
        let call = Call::new(["authority"]).args(args.iter().copied()).arg("--json");
        call.data(&self.central.data).env("DIEMCAU_PASSPHRASE", PASSPHRASE).json()
    }
}

fn join(code: &str, data: &Path) -> Call {
    Call::new(["join", code]).data(data)
}

/// It must end with 5 and say this, in Vietnamese first.
fn refused(call: Call, vietnamese: &str, english: &str) {
    let done = call.run().ended_with(5);
    let [first, second] = [vietnamese, english].map(|words| done.stderr.find(words).unwrap_or(usize::MAX));
    assert!(first < second && second < usize::MAX, "{vietnamese:?} and {english:?} are said\n{done}");
    assert!(done.stdout.is_empty(), "{done}");
}

/// How many points a point counts, and whether it sees all of them.
fn sees_all(point: &Point, count: usize) -> bool {
    let status = point.status();
    status.points.len() == count && status.points.iter().all(|other| other.online)
}

#[test]
fn a_code_makes_a_machine_a_point_and_everybody_learns_of_it_in_mid_session() {
    let _machine = alone();
    let mut mesh = Mesh::found();
    let mut second = mesh.join("UBND xã Một");
    until("the two meet", SOON, || sees_all(&mesh.central, 2).then_some(()));
    let session = mesh.central.start_session("Tiếp công dân");
    mesh.central.wait_for_all(&session.id);
    mesh.central.wait_for_groups(4);

    // A third comes in while the session runs. Nobody is started anew.
    let mut third = mesh.join("UBND xã Hai");
    for point in [&mesh.central, &second, &third] {
        until("everybody sees everybody", SOON, || sees_all(point, 3).then_some(()));
    }
    let own = |status: Status| (status.own.level, status.points.iter().all(|point| point.same_roster == Some(true)));
    until("all know the same", SOON, || (own(third.status()) == ("commune".to_owned(), true)).then_some(()));

    // One is shut out, by its name, in mid-session.
    let strangers = |point: &Point| point.status().counters.0["strangers_refused"];
    let begun = Instant::now();
    let changed = mesh.authority(&["revoke", "UBND xã Một", "--reason", "máy bị mất"]);
    assert_eq!(changed["in_force"], true);
    for point in [&mesh.central, &third] {
        until("it is shut out", SOON, || sees_all(point, 2).then_some(()));
    }
    until("it sees nobody any more", SOON, || {
        let others = second.status().points;
        (others.iter().filter(|point| point.online).count() == 1).then_some(())
    });
    let cut = begun.elapsed();
    println!("from the command to the last connection's end: {cut:?}");
    assert!(cut < Duration::from_secs(5), "{cut:?}");
    let before = strangers(&mesh.central);
    until("it knocks and is turned away", SOON, || (strangers(&mesh.central) > before).then_some(()));
    assert!(sees_all(&mesh.central, 2));

    // The others go on: the next session has the third.
    let ended = mesh.central.end_session();
    assert_eq!(ended.state, State::Ended);
    let session = mesh.central.start_session("Buổi sau");
    assert_eq!(
        session.points.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(),
        ["Trung tâm", "UBND xã Hai"]
    );
    mesh.central.wait_for_all(&session.id);
    mesh.central.wait_for_groups(4);
    mesh.central.end_session();
    second.stop();
    third.stop();
    mesh.central.stop();
}

#[test]
fn a_code_that_does_not_open_is_explained_in_both_languages() {
    let _machine = alone();
    let mesh = Mesh::found();
    let (data, other) = (mesh.data("new"), mesh.data("other"));
    let code = mesh.code("UBND xã Kim Thành", &[]);

    let mut mistyped = code.clone();
    let wrong = if mistyped.remove(7) == 'Z' { 'Y' } else { 'Z' };
    mistyped.insert(7, wrong);
    refused(join(&mistyped, &data), "Mã mời gõ sai ở nhóm 2", "mistyped in group 2");
    refused(join(&code[..code.len() - 6], &data), "thiếu nhóm", "group of the code is missing");
    assert!(!data.exists(), "nothing was made");

    // As people type: small letters, spaces for dashes, O for 0.
    let typed = code.to_lowercase().replace('-', "  ").replace('0', "O");
    join(&typed, &data).run().succeeded();
    refused(join(&code, &other), "đã được một máy khác dùng", "Another machine has used this code");
    refused(join(&code, &data), "đã là điểm cầu", "already");
    // What was lost on the way home is given again.
    fs::remove_file(data.join("roster.cose")).expect("our own file");
    join(&code, &data).run().succeeded();

    let cancelled = mesh.code("UBND xã Hai", &[]);
    let listed: Value = Call::new(["invite", "--list", "--json"]).data(&mesh.central.data).json();
    let states: Vec<_> = listed.as_array().expect("a list").iter().map(|invite| invite["state"].as_str()).collect();
    assert_eq!(states, [Some("used"), Some("open")]);
    let id = listed[1]["id"].as_str().expect("an id");
    Call::new(["invite", "--cancel", id]).data(&mesh.central.data).run().succeeded();
    refused(join(&cancelled, &other), "thu hồi", "took this code back");
    Call::new(["invite", "--cancel", listed[0]["id"].as_str().expect("an id")])
        .data(&mesh.central.data)
        .run()
        .ended_with(5);

    // Another mesh knows nothing of it, and says as little.
    let elsewhere = Mesh::found();
    let port = mesh.central.status().own.media_port;
    let there = elsewhere.central.status().own.media_port;
    let stray = elsewhere.code("UBND xã Ba", &["--address", &format!("127.0.0.1:{port}")]);
    refused(join(&stray, &other), "không biết mã này", "does not know this code");
    drop(elsewhere);
    let unbound = format!("127.0.0.1:{there}");
    let nowhere = mesh.code("UBND xã Bốn", &["--address", &unbound]);
    // Its mesh answers on TCP at the same host; on UDP there is nobody.
    let silent = UdpSocket::bind(&unbound).expect("the port is free again");
    refused(join(&nowhere, &other), &format!("UDP bị chặn; đã thử UDP đến {unbound}"), "UDP is blocked");
    drop(silent);
    assert!(!other.join("roster.cose").exists());
    let log = Call::new(["log", "access"]).data(&mesh.central.data).run().succeeded();
    for said in ["join", "wrong code", "used by another node", "taken back", "invite"] {
        assert!(log.stdout.contains(said), "{said:?} is in the access log\n{log}");
    }
}

#[test]
fn an_invite_prints_a_code_to_read_to_scan_and_to_send() {
    let _machine = alone();
    let mesh = Mesh::found();
    let picture = mesh.folder.join("code.png");
    let path = picture.to_str().expect("UTF-8");
    let more = ["--zone", "Hải Phòng", "--rights", "hold,chair", "--valid", "30m", "--qr", path];
    let done = mesh.invite("UBND xã Kim Thành", &more).run().succeeded();
    assert!(
        done.stdout.contains("Mã mời cho \"UBND xã Kim Thành\"") && done.stdout.contains("Invite code for"),
        "{done}"
    );
    assert!(done.stdout.contains('█'), "{done}");
    let code =
        done.stdout.lines().find_map(|line| line.trim().strip_prefix("diemcau join ")).expect("a code").to_owned();
    assert!(code.split('-').all(|group| group.len() == 5) && code.split('-').count() <= 11, "{code}");
    assert!(fs::read(&picture).expect("a picture").starts_with(b"\x89PNG"));
    assert_eq!(fs::metadata(&picture).expect("it is there").permissions().mode() & 0o777, 0o600);
    join(&code, &mesh.data("new")).run().succeeded();
    let status = mesh.central.status();
    assert_eq!((status.points.len(), status.points[1].level.as_str()), (2, "commune"));

    // What cannot be is said before anything is signed.
    let taken = mesh.invite("ubnd xã kim thành", &[]).run().ended_with(5);
    assert!(taken.stderr.contains("--replaces"), "{taken}");
    mesh.invite("UBND xã Hai", &["--valid", "31d"]).run().ended_with(2);
    mesh.invite("UBND xã Hai", &["--replaces", "UBND xã Ba"]).run().ended_with(3);
    mesh.invite("UBND xã Hai", &["--replaces", "Trung tâm"]).run().ended_with(2);
    let wrong = Call::new(["invite", "UBND xã Hai", "--level", "commune"]).data(&mesh.central.data);
    wrong.env("DIEMCAU_PASSPHRASE", "một con vịt khác").run().ended_with(5);
    // A point without the right to invite cannot, whoever holds the key.
    let stick = mesh.central.data.join("authority");
    let foreign =
        Call::new(["invite", "UBND xã Hai", "--level", "commune", "--address", "127.0.0.1:7500", "--authority"]);
    let foreign = foreign.arg(stick).data(mesh.data("new")).env("DIEMCAU_PASSPHRASE", PASSPHRASE).run().ended_with(5);
    assert!(foreign.stderr.contains("has not the right admin"), "{foreign}");
}

#[test]
fn a_new_machine_takes_a_broken_ones_place_by_a_code() {
    let _machine = alone();
    let mut mesh = Mesh::found();
    let mut broken = mesh.join("UBND xã Một");
    until("the two meet", SOON, || sees_all(&mesh.central, 2).then_some(()));
    broken.kill();
    let code = mesh.code("UBND xã Một", &["--replaces", "UBND xã Một"]);
    join(&code, &mesh.data("heir")).run().succeeded();
    let mut heir = Point::on(mesh.data("heir"), "UBND xã Một");
    heir.run(&["--port", "0"]);
    until("the new one is in its place", SOON, || sees_all(&mesh.central, 2).then_some(()));
    // The old one turns up again and is nobody's neighbour.
    broken.run(&["--port", "0"]);
    let before = mesh.central.status().counters.0["strangers_refused"];
    until("it is turned away", SOON, || (mesh.central.status().counters.0["strangers_refused"] > before).then_some(()));
    assert!(sees_all(&mesh.central, 2) && sees_all(&heir, 2));
    broken.stop();
    heir.stop();
    mesh.central.stop();
}
