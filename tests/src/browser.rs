//! A real browser: scripts of `tests/browser`, run by Node.js with the system's Chromium against nodes that a test has started.
//!
//! The scripts run from a copy beside what is built, where npm puts their two libraries once, so that the source tree stays as it
//! was checked out. A script that finds something wrong ends with another code than 0, and what it said is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::program::{Call, Finished, path, root};

/// Fetching the libraries takes some seconds, once.
const INSTALL_MAX: Duration = Duration::from_secs(120);

/// Runs a script to its end.
///
/// # Panics
///
/// If it fails or takes longer than `limit`.
pub fn run(script: &str, args: &[&str], limit: Duration) -> Finished {
    let script = folder().join(script);
    let args = [script.to_str().expect("our paths are UTF-8")].into_iter().chain(args.iter().copied());
    Call::of("node", args).limit(limit).run().succeeded()
}

/// The copy, with its libraries.
fn folder() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    // It guards nothing that a failed test could have left broken: what is missing is made again.
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let source = root().join("tests/browser");
    let copy = path().ancestors().nth(2).expect("the program lies in TARGET/PROFILE").join("browser");
    fs::create_dir_all(&copy).expect("room for a folder");
    let files = fs::read_dir(&source).expect("the scripts").map(|entry| entry.expect("readable").path());
    for file in files.filter(|file| file.is_file()) {
        fs::copy(&file, copy.join(file.file_name().expect("a file"))).expect("room for a file");
    }
    let (lock, installed) = (copy.join("package-lock.json"), copy.join("installed.json"));
    if read(&lock) != read(&installed) {
        let args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
        Call::of("npm", args).arg(&copy).limit(INSTALL_MAX).run().succeeded();
        fs::copy(&lock, &installed).expect("room for a file");
    }
    copy
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}
