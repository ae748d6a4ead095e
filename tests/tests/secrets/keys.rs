//! Keys behind a passphrase: what a point can still do, and where the passphrase may come from.

use std::fs;
use std::path::Path;

use node::control::Status;
use serde_json::{Value, json};
use tests::office::{Office, Point, alone, found};
use tests::program::{Call, Finished, Folder};

const PASSPHRASE: &str = "con trâu đi trước cái cày";
const VARIABLE: &str = "DIEMCAU_PASSPHRASE";

fn call(data: &Path, line: &str) -> Call {
    Call::new(line.split(' ')).data(data)
}

fn with_passphrase(data: &Path, line: &str) -> Call {
    call(data, line).env(VARIABLE, PASSPHRASE)
}

/// A folder of credentials, as systemd gives a service, with this passphrase.
fn credentials(folder: &Folder, passphrase: &str) -> std::path::PathBuf {
    let credentials = folder.join("credentials");
    fs::create_dir_all(&credentials).expect("room for a folder");
    fs::write(credentials.join("diemcau-passphrase"), format!("{passphrase}\n")).expect("room for a passphrase");
    credentials
}

fn must_say(done: &Finished, words: &[&str]) {
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} is said\n{done}");
    }
    assert!(!done.stderr.contains(PASSPHRASE), "{done}");
}

#[test]
fn locked_keys_are_asked_for_only_by_what_needs_them() {
    let folder = Folder::new();
    let mut point = Point::on(folder.join("point"), "Xã Kim Thành");
    found(&[(&point.data, &point.name)]);
    let data = point.data.clone();
    let before: Status = call(&data, "status --json").json();
    assert_eq!(call(&data, "key show --json").json::<Value>()["locked"], json!(false));
    call(&data, "key lock").run().ended_with(2);
    with_passphrase(&data, "key lock --json").env(VARIABLE, "ngắn").run().ended_with(2);
    let locked: Value = with_passphrase(&data, "key lock --json").json();
    assert_eq!(locked, json!({ "node": before.own.node, "locked": true }));
    let names = fs::read_dir(data.join("keys")).expect("a folder").map(|entry| entry.expect("readable").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["locked.keys"]);
    assert_eq!(call(&data, "key show --json").json::<Value>(), locked);

    // What needs no secret asks for none.
    assert_eq!(call(&data, "status --json").json::<Status>(), before);
    for line in ["log access", "account list", "archive list", "session list", "invite --list", "key show"] {
        call(&data, line).run().succeeded();
    }
    // What does says so, and takes it.
    let quiet = "run --listen 127.0.0.1 --mdns false --port 0 --media-port 0 --console-port 0";
    for line in ["account add lan --role chair", "key unlock", "key lock", quiet] {
        let refused = call(&data, line).run().ended_with(5);
        must_say(&refused, &["mật khẩu", "passphrase", VARIABLE, "diemcau-passphrase", "key"]);
        must_say(&call(&data, line).env(VARIABLE, "con trâu đi sau").run().ended_with(5), &["the passphrase is wrong"]);
    }
    with_passphrase(&data, "account add lan --role chair").run().succeeded();
    with_passphrase(&data, "key lock").run().ended_with(2);

    let wrong = call(&data, quiet).env("CREDENTIALS_DIRECTORY", credentials(&folder, "con trâu đi sau")).run();
    must_say(&wrong.ended_with(5), &["the passphrase is wrong"]);
    let none = call(&data, quiet).env("CREDENTIALS_DIRECTORY", credentials(&folder, "")).run();
    must_say(&none.ended_with(5), &["diemcau-passphrase does not hold a passphrase"]);
    let given = credentials(&folder, PASSPHRASE);
    let args = quiet.split(' ').collect::<Vec<_>>();
    let running = point.start(Call::new(args).env("CREDENTIALS_DIRECTORY", given));
    assert_eq!(running.own.node, before.own.node);
    must_say(&with_passphrase(&data, "key unlock").run().ended_with(5), &["already running"]);
    point.stop();

    let unlocked: Value = with_passphrase(&data, "key unlock --json").json();
    assert_eq!(unlocked, json!({ "node": before.own.node, "locked": false }));
    call(&data, "account add hoa --role admin").run().succeeded();
    let log: Value = call(&data, "log access --json").json();
    let deeds = log.as_array().expect("entries").iter().filter(|entry| entry["deed"] == "key").count();
    assert_eq!(deeds, 2, "locking and unlocking are written down: {log}");
}

#[test]
fn a_point_with_locked_keys_takes_part_and_its_recording_opens_with_the_passphrase() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    for point in &office.points {
        with_passphrase(&point.data, "key lock").run().succeeded();
    }
    let credentials = credentials(&office.folder, PASSPHRASE);
    let mut port = None;
    for point in &mut office.points {
        let mut line = "run --listen 127.0.0.1 --mdns false --port 0 --media-port 0 --console-port 0".to_owned();
        if let Some(port) = port {
            line += &format!(" --peer 127.0.0.1:{port}");
        }
        let args: Vec<_> = line.split(' ').collect();
        let status = point.start(Call::new(args).env("CREDENTIALS_DIRECTORY", &credentials));
        port.get_or_insert(status.own.mesh_port);
    }
    office.wait_until_met();
    let session = office.points[0].start_session("Tiếp công dân");
    office.points[0].wait_for_all(&session.id);
    office.points[0].wait_for_groups(4);
    office.points[0].end_session();
    let (data, folder) = (office.points[0].data.clone(), office.folder.path().to_owned());
    let export = |films: &str, passphrase: &str| {
        let films = folder.join(films);
        let call = Call::new(["archive", "export", "last", "--json", "--to"]).arg(&films);
        (call.data(&data).env(VARIABLE, passphrase).run(), films)
    };
    let (refused, films) = export("wrong", "con trâu đi sau");
    refused.ended_with(5);
    assert!(!films.exists());
    export("running", PASSPHRASE).0.succeeded();
    office.stop();
    export("stopped", PASSPHRASE).0.succeeded();
}
