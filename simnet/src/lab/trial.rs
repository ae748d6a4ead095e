//! Running a test where labs can be laid: here, or else in a user namespace, or else not at all, and then it says so.
//!
//! A user who is not root may be root in a user namespace of his own, on systems that allow it. A process with several
//! threads cannot enter one, and a test runner has several, so the test runs once more: in a process of its own, inside,
//! with the outcome of the one outside being its outcome.
//!
//! The test runner knows no third outcome beside passed and failed. A test that cannot run here says `skipped`, past the
//! runner, which would keep to itself what a test prints that passes. Where nothing may be skipped, it fails.

use std::env;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::{Lab, Missing, Office};

/// Set for the process inside.
const INSIDE: &str = "SIMNET_LAB_INSIDE";

/// Each makes that root has no excuse: the server's own runs, and those who want to be sure.
const STRICT: [&str; 2] = ["CI", "DIEMCAU_REQUIRE_LAB"];

/// Runs `body`, which is the whole of the test that the runner calls `test`, if labs can be laid.
///
/// # Panics
///
/// If `body` does, here or inside. If labs cannot be laid although this is root, and `CI` or `DIEMCAU_REQUIRE_LAB` is set.
pub fn trial(test: &str, body: impl FnOnce()) {
    let missing = match possible() {
        Ok(()) => return body(),
        Err(missing) => missing,
    };
    let root = rustix::process::geteuid().is_root() && env::var_os(INSIDE).is_none();
    let strict = STRICT.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    assert!(!(root && strict), "a lab cannot be laid here: {missing}");
    if !root && env::var_os(INSIDE).is_none() && inside("true").status().is_ok_and(|status| status.success()) {
        let this = env::current_exe().expect("a test knows itself");
        let this = this.to_str().expect("a plain name");
        let done = inside(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output();
        let done = done.expect("what ran a moment ago runs again");
        let printed = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        // One that could not run inside either has said so.
        let skipped: Vec<_> = printed[1].lines().filter(|line| line.starts_with(SKIPPED)).collect();
        assert!(done.status.success(), "inside a user namespace:\n{}\n{}", printed[0], printed[1]);
        assert!(printed[0].contains("1 passed"), "the runner knows no test {test}");
        skipped.into_iter().for_each(say);
        return;
    }
    say(&format!("{SKIPPED}: {missing}"));
}

const SKIPPED: &str = "skipped: lab";

fn possible() -> Result<(), Missing> {
    Lab::lay(0, &[Office::default()]).map(drop)
}

/// This program as root in a user namespace. It dies with us; asked for after the step inside, which would undo it.
fn inside(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--", "setpriv", "--pdeathsig", "KILL", "--", program]);
    command.stdin(Stdio::null());
    command
}

fn say(line: &str) {
    // Who closed it does not want to know.
    let _ = writeln!(io::stderr(), "{line}");
}
