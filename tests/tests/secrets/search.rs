//! A mesh with real secrets and real names in it is used, and everything that it says is searched for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use node::identity::Identity;
use node::join::code::Code;
use node::join::secret as invite;
use node::secret::Secret;
use serde_json::Value;
use store::archive::Archive;
use store::id::SessionId;
use store::keys::{SessionKey, WrapContext};
use store::locked;
use store::seal::Opener;
use tests::office::{Point, alone};
use tests::program::{Call, Finished, Folder};
use tests::search::Search;

const PASSPHRASE: &str = "một con vịt xoè ra hai cái cánh";
const KEY_PASSPHRASE: &str = "con trâu đi trước cái cày theo sau";
const TITLE: &str = "Vụ việc của bà Nguyễn Thị Xuyến";
const CITIZEN: &str = "Nguyễn Thị Xuyến";
const AGENCY: &str = "Thành phố Hải Phòng";
const CENTRAL: &str = "Trụ sở Hải Phòng";
const COMMUNE: &str = "UBND xã Kim Thành";
const INVITED: &str = "UBND phường Sa Đéc";
const ACCOUNT: &str = "tranvanhoa";
const ADDRESS: &str = "203.0.113.77";

/// A mesh of two points with accounts and an open invite, which has held a session.
struct Used {
    folder: Folder,
    central: Point,
    delegate: Point,
    /// Keys, passwords, codes.
    secrets: Search,
    /// Names, titles, addresses.
    personal: Search,
    /// What commands printed for people or programs, and what they were.
    said: Vec<(String, Finished)>,
}

impl Used {
    fn new() -> Self {
        let folder = Folder::new();
        let (mut secrets, mut personal) = (Search::default(), Search::default());
        let data = folder.join("central");
        let shares = folder.join("shares");
        let init = Call::new(["init", "--agency", AGENCY, "--name", CENTRAL, "--json"]);
        let init = init.args(["--address", &format!("{ADDRESS}:7400")]).arg("--shares-to").arg(&shares).data(&data);
        let mut said = vec![("init".to_owned(), init.env("DIEMCAU_PASSPHRASE", PASSPHRASE).run().succeeded())];
        let mut central = Point::on(data, CENTRAL);
        central.start(run(&[]));
        let port = central.status().own.mesh_port;

        let invite = |name: &str| {
            let call = Call::new(["invite", name, "--level", "commune", "--json"]);
            let invite: Value = call.data(&central.data).env("DIEMCAU_PASSPHRASE", PASSPHRASE).json();
            invite["code"].as_str().expect("a code").to_owned()
        };
        let codes = [invite(COMMUNE), invite(INVITED)];
        let delegate = folder.join("delegate");
        let joined = Call::new(["join", &codes[0], "--json"]).data(&delegate).run().succeeded();
        said.push(("join".to_owned(), joined));
        let account = Call::new(["account", "add", ACCOUNT, "--role", "chair", "--json"]);
        let account: Value = account.data(&central.data).json();

        for (whose, data) in [("central's", &central.data), ("the delegate's", &delegate)] {
            let identity = Identity::load(data).expect("keys");
            secrets.secret(&format!("{whose} node key"), &*identity.node.secret_bytes());
            secrets.secret(&format!("{whose} wrap key"), &*identity.wrap.secret_bytes());
            personal.text(&format!("{whose} node id"), &identity.id().to_string());
        }
        let key = fs::read_to_string(central.data.join("authority/authority.key")).expect("a key");
        let key = locked::unlock("authority", &key, PASSPHRASE).expect("our passphrase");
        secrets.secret("the authority's key", &*key);
        for code in &codes {
            secrets.code("an invite's code", code);
            let parsed = Code::parse(code).expect("a good code");
            secrets.secret("an invite's proof key", &*parsed.secret().mac_key().secret_bytes());
            secrets.secret("an invite's signing key", &*parsed.secret().signing_key().secret_bytes());
        }
        for share in fs::read_dir(&shares).expect("shares").map(|entry| entry.expect("readable").path()) {
            let Ok(text) = fs::read_to_string(share) else { continue };
            let is_numbered = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
            for line in text.lines().filter(is_numbered) {
                let words: Vec<_> = line.split_whitespace().filter(|word| word.parse::<u8>().is_err()).collect();
                secrets.text("a line of a share", line.trim());
                secrets.text("words of a share", &words.join(" "));
            }
        }
        secrets.text("a password", account["password"].as_str().expect("a password"));
        secrets.text("the authority's passphrase", PASSPHRASE);
        secrets.text("the keys' passphrase", KEY_PASSPHRASE);
        for text in [TITLE, CITIZEN, AGENCY, CENTRAL, COMMUNE, INVITED, ACCOUNT, ADDRESS, "127.0.0.1"] {
            personal.text(text, text);
        }
        personal.text("the folder", &folder.path().display().to_string());

        let mut delegate = Point::on(delegate, COMMUNE);
        delegate.start(run(&["--peer", &format!("127.0.0.1:{port}")]));
        let mut used = Self { folder, central, delegate, secrets, personal, said };
        used.hold_session();
        used
    }

    fn hold_session(&mut self) {
        tests::program::until("the points see each other", tests::office::SOON, || {
            self.central.sees(COMMUNE).then_some(())
        });
        let session = self.central.start_session(TITLE);
        self.central.wait_for_all(&session.id);
        self.delegate.wait_for_groups(4);
        self.central.end_session();
        // The session's own key, which only the program's memory should ever hold.
        let id: SessionId = session.id.parse().expect("an id as the program prints it");
        let identity = Identity::load(&self.central.data).expect("keys");
        let copy = self.folder.join("copy");
        Call::new(["archive", "export", "last", "--to"])
            .arg(self.folder.join("films"))
            .data(&self.central.data)
            .run()
            .succeeded();
        self.central.stop();
        let archive = Archive::open_read_only(&self.central.data.join("archive")).expect("an archive");
        let wraps = archive.wraps(&id, &identity.id()).expect("wraps");
        assert!(!wraps.is_empty() && !copy.exists());
        for (epoch, wrap) in wraps {
            let context = WrapContext { session: id, epoch, recipient: identity.id() };
            let key = wrap.open(&identity.wrap, &context).expect("our own key");
            self.secrets.secret("a session's key", &*key.secret_bytes());
        }
        drop(archive);
        self.central.start(run(&[]));
    }

    /// Runs a command on central's folder, whatever comes of it, and keeps what it said.
    fn say(&mut self, line: &str, env: &[(&str, &str)]) {
        let call = Call::new(line.split(' ')).data(&self.central.data);
        let call = env.iter().fold(call, |call, (name, value)| call.env(*name, *value));
        self.said.push((line.to_owned(), call.run()));
    }

    /// Makes a bundle and gives the texts of the files in it.
    fn bundle(&self, name: &str) -> Vec<(PathBuf, String)> {
        let to = self.folder.join(name);
        let tar = to.with_extension("tar");
        let done = Call::new(["support-bundle", "--to"]).arg(&tar).data(&self.central.data).run().succeeded();
        assert!(done.stdout.contains("counters.txt") && done.stdout.contains(&tar.display().to_string()), "{done}");
        self.secrets.must_find_nothing(name, fs::read(&tar).expect("a bundle"));
        fs::create_dir(&to).expect("room for a folder");
        let unpacked = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&to).status().expect("tar");
        assert!(unpacked.success());
        let files =
            fs::read_dir(to.join("diemcau-support")).expect("files").map(|entry| entry.expect("readable").path());
        files.map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
    }
}

/// A node that logs all it ever would.
fn run(more: &[&str]) -> Call {
    let usual = "run --listen 127.0.0.1 --mdns false --port 0 --media-port 0 --console-port 0";
    Call::new(usual.split(' ').chain(more.iter().copied())).env("DIEMCAU_LOG", "debug")
}

fn text<'a>(files: &'a [(PathBuf, String)], name: &str) -> &'a str {
    &files.iter().find(|(path, _)| path.ends_with(name)).unwrap_or_else(|| panic!("{name} in {files:?}")).1
}

#[test]
fn nothing_secret_is_said_and_a_bundle_for_a_helper_has_nothing_personal() {
    let _machine = alone();
    let mut used = Used::new();

    // Every listing, beside the running node and on the stopped one; then what fails, with the secrets at hand.
    let listings = "status|session list|session show last|archive list|archive show last|account list|log access|\
                    invite --list|authority show|key show";
    let bundles = |used: &Used, name: &str, running: bool| {
        let files = used.bundle(name);
        for (path, text) in &files {
            let place = path.display().to_string();
            used.secrets.must_find_nothing(&place, text);
            used.personal.must_find_nothing(&place, text);
        }
        assert!(text(&files, "state.txt").contains(&format!("running {running}")));
        assert!(text(&files, "settings.txt").contains("mesh.port = "));
        assert!(
            text(&files, "machine.txt").contains("kernel: ") && text(&files, "files.txt").contains("keys: mode 700")
        );
        assert!(text(&files, "accesses.txt").contains("done: "));
        assert!(text(&files, "database-meta.txt").lines().count() > 50);
        files
    };
    let read = |used: &mut Used| {
        for line in listings.split('|') {
            used.say(line, &[]);
            used.say(&format!("{line} --json"), &[]);
        }
    };
    read(&mut used);
    let files = bundles(&used, "running", true);
    assert!(text(&files, "counters.txt").lines().count() > 3 && text(&files, "process.txt").contains("VmRSS"));
    let logs = [used.central.log(), used.delegate.log()];
    used.central.stop();
    used.delegate.stop();
    read(&mut used);
    bundles(&used, "stopped", false);

    used.say("key lock --json", &[("DIEMCAU_PASSPHRASE", KEY_PASSPHRASE)]);
    let files = bundles(&used, "locked", false);
    assert!(text(&files, "files.txt").contains("keys behind a passphrase: yes"));
    assert!(!text(&files, "state.txt").contains(", 0 groups of 0 bytes"));
    for (line, passphrase) in [
        ("key unlock", PASSPHRASE),
        ("run --port 0 --media-port 0 --console-port 0", PASSPHRASE),
        ("account add lan --role chair", PASSPHRASE),
        ("archive export last --to films", PASSPHRASE),
        ("authority revoke Nobody --reason x", KEY_PASSPHRASE),
        ("invite X --level commune --address 192.0.2.1:7500", KEY_PASSPHRASE),
        ("key lock", KEY_PASSPHRASE),
    ] {
        used.say(line, &[("DIEMCAU_PASSPHRASE", passphrase)]);
        let (_, done) = used.said.last().expect("just said");
        assert_ne!(done.code(), 0, "{done}");
    }
    damage(&used.delegate.data, "keys/node.key");
    damage(&used.delegate.data, "accounts.toml");
    for line in ["status", "account list", "run --port 0 --media-port 0 --console-port 0"] {
        let done = Call::new(line.split(' ')).data(&used.delegate.data).run();
        assert_eq!(done.code(), 4, "{done}");
        used.said.push((line.to_owned(), done));
    }

    for log in logs {
        assert!(log.contains("DEBUG"), "all of it is there: {log}");
        used.secrets.must_find_nothing("a node's log", log);
    }
    for (line, done) in &used.said {
        used.secrets.must_find_nothing(line, &done.stdout);
        used.secrets.must_find_nothing(line, &done.stderr);
    }
}

/// Changes something in the middle of a file that holds secrets, which is then what a parser complains of.
fn damage(data: &Path, name: &str) {
    let path = data.join(name);
    let mut bytes = fs::read(&path).unwrap_or_else(|_| b"[[accounts]]\nname = \"x\"\npassword = \"$argon2id$".to_vec());
    let middle = bytes.len() / 2;
    bytes[middle] = b'!';
    fs::write(&path, bytes).expect("room for a file");
    Call::of("chmod", ["600".to_owned(), path.display().to_string()]).run().succeeded();
}

#[test]
fn printing_whatever_holds_a_secret_shows_nothing_of_it() {
    let folder = Folder::new();
    let data = folder.join("point");
    let (identity, _) = Identity::load_or_create(&data).expect("a new folder");
    let session = SessionKey::generate();
    let invite = invite::Secret::generate();
    let address = format!("{ADDRESS}:7500").parse().expect("an address");
    let code = Code::new(invite.clone(), 7400, vec![address]).expect("a code");
    let text: Secret = serde_json::from_value(KEY_PASSPHRASE.into()).expect("a text");
    let mut search = Search::default();
    search.secret("the node key", &*identity.node.secret_bytes());
    search.secret("the wrap key", &*identity.wrap.secret_bytes());
    search.secret("the session key", &*session.secret_bytes());
    search.secret("the proof key", &*invite.mac_key().secret_bytes());
    search.secret("the signing key", &*invite.signing_key().secret_bytes());
    search.code("the code", &code.text());
    search.text("the passphrase", KEY_PASSPHRASE);
    let id = SessionId::from_bytes([7; 16]);
    let mut opener = Opener::new(id);
    opener.insert(0, session.clone());
    let printed = [
        format!("{identity:?} {identity:#?} {:?} {:?}", identity.node, identity.wrap),
        format!("{session:?} {opener:?} {:?}", Some(&session)),
        format!("{invite:?} {:?} {:?} {code:?}", invite.mac_key(), invite.signing_key()),
        format!("{text:?} {:#?}", vec![&text]),
    ];
    for text in printed {
        search.must_find_nothing("what is printed", text);
    }
}
