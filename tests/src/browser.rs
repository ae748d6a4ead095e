//! A real browser: scripts of `tests/browser`, run by Node.js with the system's Chromium against nodes that a test has started;
//! and the checks that the page's own sources bring along.
//!
//! Both run from a copy beside what is built, where npm puts the libraries once, so that the source tree stays as it was checked
//! out. A script that finds something wrong ends with another code than 0, and what it said is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::program::{Call, Finished, Running, path, root};

/// Fetching the libraries takes some seconds, once.
const INSTALL_MAX: Duration = Duration::from_secs(180);

/// Runs a script of `tests/browser` to its end.
///
/// # Panics
///
/// If it fails or takes longer than `limit`.
pub fn run(script: &str, args: &[&str], limit: Duration) -> Finished {
    call(script, args).limit(limit).run().succeeded()
}

/// Starts a script and leaves it running.
pub fn start(script: &str, args: &[&str]) -> Running {
    call(script, args).start()
}

fn call(script: &str, args: &[&str]) -> Call {
    let script = prepared("tests/browser", "browser").join(script);
    Call::of("node", [script]).args(args.iter().copied())
}

/// Runs what `node/web/package.json` calls `script`.
///
/// # Panics
///
/// If it fails or takes longer than `limit`.
pub fn page(script: &str, limit: Duration) -> Finished {
    let folder = prepared("node/web", "page");
    Call::of("npm", ["--prefix"]).arg(folder).args(["run", "--silent", script]).limit(limit).run().succeeded()
}

/// A copy of a folder of ours, with its libraries.
fn prepared(source: &str, name: &str) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    // It guards nothing that a failed test could have left broken: what is missing is made again.
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = path().ancestors().nth(2).expect("the program lies in TARGET/PROFILE").join(name);
    transfer(&root().join(source), &copy);
    let (lock, installed) = (copy.join("package-lock.json"), copy.join("installed.json"));
    if fs::read(&lock).ok() != fs::read(&installed).ok() {
        let args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
        Call::of("npm", args).arg(&copy).limit(INSTALL_MAX).run().succeeded();
        fs::copy(&lock, &installed).expect("room for a file");
    }
    copy
}

/// Copies a folder, without what somebody's own npm left in it.
fn transfer(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("room for a folder");
    for entry in fs::read_dir(from).expect("a folder of ours") {
        let from = entry.expect("readable").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.ends_with("node_modules") || from.ends_with("dist") {
            continue;
        }
        if from.is_dir() {
            // A file that is no more must not be checked.
            let _ = fs::remove_dir_all(&to);
            transfer(&from, &to);
        } else {
            fs::copy(&from, &to).expect("room for a file");
        }
    }
}
