//! A mesh is founded, its key put away, its points added and shut out by hand, its shares tried.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use node::control::Status;
use node::identity::roster;
use serde_json::Value;
use tests::office::{Point, alone, entry, init};
use tests::program::{Call, Folder};

const PASSPHRASE: &str = "một con vịt xoè ra";

/// A command line (its arguments have no spaces) on a data folder, with the authority's passphrase.
fn call(data: &Path, line: &str) -> Call {
    Call::new(line.split_whitespace()).data(data).env("DIEMCAU_PASSPHRASE", PASSPHRASE)
}

/// It must end with this code and say these words.
fn refused(call: Call, code: i32, words: &[&str]) {
    let done = call.run().ended_with(code);
    assert!(done.stdout.is_empty(), "{done}");
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} is said\n{done}");
    }
}

/// Founds a mesh on `data`, with its shares in `shares`.
fn found(data: &Path, shares: &Path) -> Value {
    call(data, "init --json --name TrungTam --address 10.0.0.1:7400")
        .arg("--shares-to")
        .arg(shares)
        .args(["--agency", "Thành phố Hải Phòng"])
        .json()
}

/// Sets up the machine on `data` and puts its request into a file.
fn request(data: &Path, name: &str) -> PathBuf {
    let file = data.with_extension("request");
    fs::write(&file, init(data, name) + "\n").expect("room for a request");
    file
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The words of the share in this file.
fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a share");
    let words = text.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    words.flat_map(str::split_whitespace).filter(|word| word.parse::<u8>().is_err()).map(str::to_owned).collect()
}

/// No two words of any of these shares stand in what was printed, side by side. One alone may: "number" is in the list as well.
fn tell_nothing_of(printed: &str, shares: &[PathBuf]) {
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    for pair in shares.iter().flat_map(|share| words(share).windows(2).map(|pair| pair.join(" ")).collect::<Vec<_>>()) {
        assert!(!printed.contains(&pair), "a secret is printed:\n{printed}");
    }
}

#[test]
fn a_mesh_is_founded_with_what_it_says_and_its_secrets_are_its_owners() {
    let folder = Folder::new();
    let (data, shares) = (folder.join("data"), folder.join("shares"));
    for (more, words) in [
        (call(&data, "init --agency A --shares 3 --threshold 4"), "2 to 16 shares"),
        (call(&data, "init --agency A").env("DIEMCAU_PASSPHRASE", "ngắn"), "shorter than 8"),
        (Call::new(["init", "--agency", "A"]).data(&data), "DIEMCAU_PASSPHRASE"),
    ] {
        refused(more, 2, &[words]);
        assert!(!data.exists(), "nothing was made");
    }

    let report = found(&data, &shares);
    assert_eq!(names(&data), ["authority", "config.toml", "keys", "roster.cose"]);
    assert_eq!(names(&data.join("authority")), ["authority.key", "grants", "roster.cose"]);
    for path in [data.clone(), data.join("authority"), data.join("authority/grants"), shares.clone()] {
        assert_eq!(mode(&path), 0o700, "{}", path.display());
    }
    for path in [data.join("authority/authority.key"), data.join("authority/roster.cose"), data.join("roster.cose")] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(names(&shares).len(), 10);
    assert!(names(&shares).iter().all(|name| mode(&shares.join(name)) == 0o600));
    let key = fs::read_to_string(data.join("authority/authority.key")).expect("text");
    assert!(key.starts_with("diemcau locked authority key 1\nargon2id 65536 3 4 "), "{key}");

    let mesh = &report["mesh"];
    assert_eq!((mesh["agency"].as_str(), mesh["number"].as_u64()), (Some("Thành phố Hải Phòng"), Some(1)));
    let ours = roster::read(&data.join("roster.cose")).expect("a roster");
    assert_eq!(mesh["authority"].as_str(), Some(&*ours.authority().to_string()));
    assert_eq!(mesh["recovery"].as_str(), Some(&*ours.recovery().to_string()));
    let [point] = ours.points() else { panic!("{:?}", ours.points()) };
    assert_eq!((point.name.as_str(), point.level.as_str(), point.rights.len()), ("TrungTam", "province", 5));
    assert_eq!(point.addresses, ["10.0.0.1:7400"]);

    // What scripts keep has nothing of a share, and a second mesh does not take the place of the first.
    tell_nothing_of(&report.to_string(), &[shares.join("share-1-of-5.txt")]);
    refused(call(&data, "init --agency Other"), 5, &["Thành phố Hải Phòng"]);
    fs::remove_file(data.join("roster.cose")).expect("our own file");
    refused(call(&data, "init --agency Other"), 5, &["never replaced", "import-roster"]);
    call(&data, "authority import-roster").arg(data.join("authority/roster.cose")).run().succeeded();
    assert_eq!(roster::read(&data.join("roster.cose")).expect("a roster"), ours);
}

#[test]
fn shares_are_printed_once_for_people_and_beside_the_json_for_scripts() {
    let folder = Folder::new();
    let shown = call(&folder.join("1"), "init --agency HaiPhong --shares 4 --threshold 2").run().succeeded();
    assert_eq!(shown.stdout.matches("diemcau recovery share 1").count(), 4, "{shown}");
    assert!(!shown.stderr.contains("recovery share"), "{shown}");
    let aside = call(&folder.join("2"), "init --agency HaiPhong --json").run().succeeded();
    assert_eq!(aside.stderr.matches("diemcau recovery share 1").count(), 5, "{aside}");
    let report: Value = serde_json::from_str(&aside.stdout).expect("JSON alone on stdout");
    assert_eq!(report["mesh"]["shares"]["needed"], 3);

    // As printed, they open the key again.
    let page = folder.join("page.txt");
    fs::write(&page, &aside.stderr).expect("room for a page");
    call(&folder.join("2"), "authority check-shares").arg(&page).run().succeeded();
    refused(call(&folder.join("1"), "authority check-shares").arg(&page), 5, &["another key"]);
}

#[test]
fn any_three_of_five_shares_open_the_recovery_key_and_two_do_not() {
    let folder = Folder::new();
    let (data, shares) = (folder.join("data"), folder.join("shares"));
    found(&data, &shares);
    let files: Vec<_> = (1..=5).map(|n| shares.join(format!("share-{n}-of-5.txt"))).collect();
    let check = |chosen: &[&PathBuf]| call(&data, "authority check-shares").args(chosen.iter().copied());
    for a in 0..5 {
        for b in a + 1..5 {
            refused(check(&[&files[b], &files[a]]), 5, &["2 of the 3 shares needed"]);
            for c in b + 1..5 {
                let done = check(&[&files[c], &files[a], &files[b]]).run().succeeded();
                assert!(done.stdout.contains("open the recovery key of Thành phố Hải Phòng"), "{done}");
                tell_nothing_of(&done.to_string(), &files);
            }
        }
    }
    refused(check(&[&files[0], &files[0], &files[1]]), 5, &["share 1 was given twice"]);
    let misread = folder.join("misread.txt");
    let text = fs::read_to_string(&files[2]).expect("a share");
    fs::write(&misread, text.replace(&words(&files[2])[6], "xxxx")).expect("room for a share");
    refused(check(&[&files[0], &files[1], &misread]), 4, &["misread.txt", "word 7"]);
    let other = folder.join("other");
    found(&other, &folder.join("others"));
    let strange = folder.join("others/share-3-of-5.txt");
    refused(check(&[&files[0], &files[1], &strange]), 5, &["of another set"]);
}

#[test]
fn the_authoritys_key_may_be_carried_away_and_is_asked_for_when_it_is_needed() {
    let folder = Folder::new();
    let (data, stick) = (folder.join("data"), folder.join("stick"));
    found(&data, &folder.join("shares"));
    let request = request(&folder.join("commune"), "Xã Kim Thành");
    let add = |more: &str| call(&data, &format!("authority add {} {more}", request.display()));

    fs::rename(data.join("authority"), &stick).expect("one file system");
    refused(add(""), 3, &["no authority key", "USB stick", "--authority DIR"]);
    let shown: Value = call(&data, "authority show --json").json();
    assert_eq!((shown["number"].as_u64(), &shown["key"]), (Some(1), &Value::Null));

    let there = format!("--authority {}", stick.display());
    refused(add(&there).env("DIEMCAU_PASSPHRASE", "một con vẹt"), 5, &["authority.key", "passphrase is wrong"]);
    let key = fs::read(stick.join("authority.key")).expect("a key");
    fs::write(stick.join("authority.key"), &key[..key.len() - 30]).expect("room for a key");
    refused(add(&there), 4, &["authority.key", "damaged"]);
    fs::write(stick.join("authority.key"), &key).expect("room for a key");
    fs::set_permissions(stick.join("authority.key"), fs::Permissions::from_mode(0o644)).expect("our own file");
    refused(add(&there), 5, &["chmod 600"]);
    fs::set_permissions(stick.join("authority.key"), fs::Permissions::from_mode(0o600)).expect("our own file");
    refused(add(&there).env("DIEMCAU_PASSPHRASE", ""), 5, &["passphrase is wrong"]);
    add(&there).run().succeeded();

    // Another mesh's key signs nothing here.
    let other = folder.join("other");
    found(&other, &folder.join("others"));
    let foreign = format!("authority revoke TrungTam --reason x --authority {}", other.join("authority").display());
    refused(call(&data, &foreign), 5, &["this mesh belongs to"]);
    // What the stick signed last is followed, even from a copy of the folder that has not seen it.
    let membership = roster::read(&data.join("roster.cose")).expect("a roster");
    fs::remove_file(data.join("roster.cose")).expect("our own file");
    fs::rename(&stick, data.join("authority")).expect("one file system");
    call(&data, "authority import-roster").arg(data.join("authority/roster.cose")).run().succeeded();
    let changed: Value = call(&data, "authority rights TrungTam chair,admin --json").json();
    assert_eq!(changed["number"].as_u64(), Some(membership.number() + 1));
}

#[test]
fn points_are_added_changed_replaced_and_shut_out_by_hand() {
    let folder = Folder::new();
    let data = folder.join("data");
    found(&data, &folder.join("shares"));
    let [one, two, heir] = ["one", "two", "heir"].map(|name| folder.join(name));
    let requests = [request(&one, "Xã Một"), request(&two, "Xã Hai"), request(&heir, "Máy mới")];
    let exported = folder.join("exported.cose");
    let carry = |to: &Path| {
        call(&data, "authority export-roster").arg(&exported).run().succeeded();
        call(to, "authority import-roster").arg(&exported).run()
    };

    assert_eq!(carry(&one).code(), 5, "it is not a point yet");
    let changed: Value = call(&data, "authority add --json").args(&requests[..2]).json();
    assert_eq!((changed["number"].as_u64(), changed["points"].as_u64()), (Some(2), Some(3)));
    refused(call(&data, "authority add").arg(&requests[0]), 5, &["a point already: Xã Một"]);
    for point in [&one, &two] {
        carry(point).succeeded();
        let status: Status = call(point, "status --json").json();
        assert_eq!(status.points.len(), 3);
    }
    call(&data, "authority rights").args(["xã một", "relay,hold"]).run().succeeded();
    call(&data, "authority rights").args(["Xã Hai", "none"]).run().succeeded();
    refused(call(&data, "authority rights").args(["Xã Ba", "none"]), 3, &["\"Xã Ba\" is not a point"]);
    refused(call(&data, "authority rights").args(["Xã Hai", "king"]), 2, &["king"]);

    call(&data, "authority replace").args(["Xã Hai", "--reason", "máy cháy"]).arg(&requests[2]).run().succeeded();
    call(&data, "authority revoke").args(["Xã Một", "--reason", "nghỉ việc"]).run().succeeded();
    let shown: Value = call(&data, "authority show --json").json();
    let points: Vec<_> = shown["points"].as_array().expect("points").iter().map(|point| &point["name"]).collect();
    assert_eq!(points, ["TrungTam", "Xã Hai"]);
    let mut reasons: Vec<_> =
        shown["revoked"].as_array().expect("revoked").iter().map(|entry| &entry["reason"]).collect();
    reasons.sort_by_key(|reason| reason.to_string());
    assert_eq!(reasons, ["máy cháy", "nghỉ việc"]);
    let text = call(&data, "authority show").run().succeeded();
    for word in ["roster no. 6", "REVOKED", "nghỉ việc", "chair,relay,hold,read,admin"] {
        assert!(text.stdout.contains(word), "{word}\n{text}");
    }

    carry(&heir).succeeded();
    let status: Status = call(&heir, "status --json").json();
    assert_eq!(status.own.name, "Xã Hai", "the place keeps its name");
    carry(&one).succeeded();
    refused(call(&one, "status"), 5, &["was revoked from the mesh of Thành phố Hải Phòng (nghỉ việc)"]);
    refused(call(&one, "run --port 0"), 5, &["was revoked"]);
    refused(call(&data, "authority add").arg(&requests[0]), 5, &["was revoked", "cannot come back"]);
    refused(call(&data, "authority void 00"), 3, &["no invitation"]);
}

#[test]
fn an_older_a_forged_and_a_damaged_roster_are_not_taken() {
    let _machine = alone();
    let folder = Folder::new();
    let data = folder.join("data");
    found(&data, &folder.join("shares"));
    let (file, old) = (data.join("roster.cose"), folder.join("old.cose"));
    fs::copy(&file, &old).expect("room for a copy");
    call(&data, "authority add").arg(request(&folder.join("one"), "Xã Một")).run().succeeded();
    let newest = fs::read(&file).expect("a roster");
    let forged =
        roster::for_good("Thành phố Hải Phòng", vec![entry(&data, "TrungTam")]).expect("a good roster").encode();

    let import = |bytes: &[u8]| {
        fs::write(folder.join("import.cose"), bytes).expect("room for a roster");
        call(&data, "authority import-roster").arg(folder.join("import.cose"))
    };
    refused(import(&fs::read(&old).expect("a roster")), 5, &["roster 1 is older than roster 2", "no way back"]);
    refused(import(&forged), 5, &["the authority of this mesh is"]);
    refused(import(&newest[..newest.len() - 1]), 4, &["import.cose"]);
    assert_eq!(fs::read(&file).expect("a roster"), newest);

    // The node has worked with the newest; then the file is exchanged behind its back.
    let mut point = Point::on(data.clone(), "TrungTam");
    point.run(&["--port", "0"]);
    point.stop();
    fs::copy(&old, &file).expect("room for a copy");
    let status = point.run(&["--port", "0"]);
    assert_eq!(status.points.len(), 2, "the older roster is not used");
    assert!(point.log().contains("older than a roster this node has worked with"), "{}", point.log());
    point.stop();
    assert_eq!(fs::read(&file).expect("a roster"), newest, "the file is put right");
    for (bytes, code, word) in [(&forged[..], 5, "the authority of this mesh is"), (&newest[..40], 4, "end too early")]
    {
        fs::write(&file, bytes).expect("room for a roster");
        refused(call(&data, "run --port 0 --media-port 0 --console-port 0"), code, &["roster.cose", word]);
    }
}

#[test]
fn a_running_node_takes_what_is_signed_at_once() {
    let _machine = alone();
    let folder = Folder::new();
    let data = folder.join("data");
    found(&data, &folder.join("shares"));
    let mut point = Point::on(data.clone(), "TrungTam");
    point.run(&["--port", "0"]);
    let changed: Value = call(&data, "authority add --json").arg(request(&folder.join("one"), "Xã Một")).json();
    assert_eq!(changed["in_force"], true);
    let names: Vec<_> = point.status().points.into_iter().map(|point| point.name).collect();
    assert_eq!(names, ["TrungTam", "Xã Một"]);
    point.stop();
    assert_eq!(roster::read(&data.join("roster.cose")).expect("a roster").number(), 2);
}
