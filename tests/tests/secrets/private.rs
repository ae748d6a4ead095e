//! Files, folders and memory of a node, seen by the others on its machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tests::office::{Point, SOON, alone, found};
use tests::program::{self, Call, Folder, Running, Signal, until};

/// A user who is not root, whom every system has.
const NOBODY: u32 = 65534;

const QUIET: &str = "run --listen 127.0.0.1 --mdns false --port 0 --media-port 0 --console-port 0";

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

/// A program as somebody who is not root: root may look into everything, so nothing can be seen with it.
fn as_nobody(program: &Path, args: &[&str]) -> Call {
    if !geteuid().is_root() {
        return Call::of(program, args.iter().copied());
    }
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into(), "--".into()];
    Call::of("setpriv", user).arg(program).args(args.iter().copied())
}

/// Gives a folder with all that is in it to somebody who is not root.
fn give_away(folder: &Path) {
    if geteuid().is_root() {
        Call::of("chown", ["-R".to_owned(), NOBODY.to_string(), folder.display().to_string()]).run().succeeded();
    }
}

/// Who may look into a process, by the owner of a file about it.
fn looked_into_by(process: &Running) -> u32 {
    fs::metadata(format!("/proc/{}/environ", process.pid())).expect("it lives").uid()
}

#[test]
fn a_running_node_cannot_be_looked_into_and_leaves_no_core_however_it_dies() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    // Somebody else must reach the program, wherever it was built.
    chmod(folder.path(), 0o755);
    let copy = folder.join("diemcau");
    fs::copy(program::path(), &copy).expect("room for the program");
    give_away(&data);

    let other = as_nobody(Path::new("/bin/sleep"), &["1000"]).start();
    let user = if geteuid().is_root() { NOBODY } else { geteuid().as_raw() };
    until("another process is its user's", SOON, || (looked_into_by(&other) == user).then_some(()));

    let us = std::process::id().to_string();
    for (signal, number) in [(Signal::ABORT, 6), (Signal::SEGV, 11)] {
        let args: Vec<_> = ["--parent", &us].into_iter().chain(QUIET.split(' ')).collect();
        // As on a machine that keeps cores.
        let mut node = as_nobody(Path::new("/bin/sh"), &["-c", "ulimit -S -c $(ulimit -H -c) && exec \"$0\" \"$@\""])
            .arg(&copy)
            .args(args)
            .data(&data)
            .start();
        until("the node runs", SOON, || {
            assert!(node.is_running(), "{}", node.stderr());
            node.stderr().contains("this point runs").then_some(())
        });
        assert_eq!(looked_into_by(&node), 0, "the node is nobody's but root's");
        let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("it lives");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of cores");
        assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
        // Rust's own handler takes the first SEGV that no fault in memory caused, so it is sent until it is felt.
        until("it dies", SOON, || {
            node.signal(signal);
            (!node.is_running()).then_some(())
        });
        let status = node.wait(SOON).status;
        assert!(status.signal() == Some(number) && !status.core_dumped(), "{status}");
    }
}

#[test]
fn what_others_may_read_is_refused_with_the_command_that_helps() {
    let folder = Folder::new();
    let data = folder.join("point");
    let init = ["init", "--agency", "Thành phố Hải Phòng", "--name", "Trung tâm", "--shares-to"];
    Call::new(init)
        .arg(folder.join("shares"))
        .data(&data)
        .env("DIEMCAU_PASSPHRASE", "một con vịt xoè ra")
        .run()
        .succeeded();
    Call::new(["account", "add", "lan", "--role", "chair"]).data(&data).run().succeeded();
    fs::create_dir_all(data.join("invites")).expect("room for a folder");
    chmod(&data.join("invites"), 0o700);
    let refused = |line: &str, path: &Path, command: &str| {
        let done = Call::new(line.split(' ')).data(&data).run().ended_with(5);
        let said = done.stderr.lines().next().unwrap_or_default();
        assert!(said.starts_with("error: ") && said.contains(&format!("`{command} '{}'`", path.display())), "{done}");
    };
    for (name, open, want) in [
        ("", 0o750, 0o700),
        ("keys", 0o701, 0o700),
        ("keys/node.key", 0o604, 0o600),
        ("keys/wrap.key", 0o660, 0o600),
        ("archive", 0o755, 0o700),
        ("accounts.toml", 0o644, 0o600),
        ("authority", 0o755, 0o700),
        ("authority/authority.key", 0o640, 0o600),
        ("invites", 0o711, 0o700),
    ] {
        let path = data.join(name);
        // Without the slash at the end.
        let path: PathBuf = path.components().collect();
        chmod(&path, open);
        refused(QUIET, &path, &format!("chmod {want:o}"));
        if ["", "keys", "keys/node.key", "keys/wrap.key"].contains(&name) {
            refused("status", &path, &format!("chmod {want:o}"));
        }
        chmod(&path, want);
    }
    if geteuid().is_root() {
        for name in ["keys/node.key", "keys", "archive", "authority/authority.key", "accounts.toml"] {
            let path = data.join(name);
            chown(&path, Some(NOBODY), None).expect("root gives files away");
            refused(QUIET, &path, "chown -R 0");
            chown(&path, Some(0), None).expect("root gives files away");
        }
    }
    Call::new(["status"]).data(&data).run().succeeded();
}

#[test]
fn whatever_a_node_writes_is_its_owners_alone() {
    let _machine = alone();
    let folder = Folder::new();
    let mut point = Point::on(folder.join("point"), "Xã Kim Thành");
    found(&[(&point.data, &point.name)]);
    // What the tests themselves wrote.
    chmod(&point.data.join("roster.cose"), 0o600);
    // A socket that somebody left open to all is not used on.
    fs::write(point.data.join("control.sock"), "").expect("room for a file");
    chmod(&point.data.join("control.sock"), 0o666);
    point.run(&["--port", "0"]);
    Call::new(["account", "add", "lan", "--role", "chair"]).data(&point.data).run().succeeded();
    let mut folders = vec![point.data.clone()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours").map(|entry| entry.expect("readable").path()) {
            // The database may have tidied it away by now.
            let Ok(found) = fs::symlink_metadata(&entry) else { continue };
            assert_eq!(found.mode() & 0o077, 0, "{}: {:o}", entry.display(), found.mode());
            files += 1;
            if found.is_dir() {
                folders.push(entry);
            }
        }
    }
    assert!(files > 10 && point.data.join("control.sock").exists());
    point.stop();
}
