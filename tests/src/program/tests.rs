//! The harness itself, tried on the shell.

use super::*;

fn shell(script: &str) -> Call {
    Call::of("/bin/sh", ["-c", script])
}

/// What a process says first.
fn first_line(running: &Running) -> String {
    until("it has spoken", LIMIT, || running.stdout().split_once('\n').map(|(line, _)| line.to_owned()))
}

#[test]
fn a_command_is_seen_whole() {
    let done = shell("echo out; echo err >&2; exit 3").run().ended_with(3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn json_is_read_and_anything_beside_it_refused() {
    let value: Vec<u32> = shell("echo '[1, 2]'; echo chatter >&2").json();
    assert_eq!(value, [1, 2]);
    std::panic::catch_unwind(|| shell("echo chatter; echo '[1, 2]'").json::<Vec<u32>>()).expect_err("two things");
    std::panic::catch_unwind(|| shell("echo '[1, 2]'; exit 1").json::<Vec<u32>>()).expect_err("a failure");
}

#[test]
fn a_command_that_hangs_fails_the_test_that_ran_it() {
    let hung = shell("sleep 1000").limit(Duration::from_millis(100));
    std::panic::catch_unwind(|| hung.run()).expect_err("it hangs");
}

#[test]
fn our_settings_in_the_environment_stay_outside() {
    let done = shell("env").env("DIEMCAU_GIVEN", "yes").run().succeeded();
    let ours = done.stdout.lines().filter(|line| line.starts_with("DIEMCAU_"));
    // How full this machine's disk is stays outside too.
    let (limits, given): (Vec<_>, Vec<_>) = ours.partition(|line| line.starts_with("DIEMCAU_ARCHIVE_"));
    assert_eq!(given, ["DIEMCAU_GIVEN=yes"]);
    assert!(limits.len() == 4 && limits.iter().all(|line| line.ends_with("=0")), "{limits:?}");
}

#[test]
fn what_a_process_started_goes_with_it() {
    let running = shell("sleep 1000 & echo $!; wait").start();
    let child = first_line(&running).parse().expect("a process id");
    assert!(lives(child));
    assert_eq!(running.children(), [child]);
    drop(running);
    until("the child is gone", LIMIT, || (!lives(child)).then_some(()));
}

#[test]
fn a_process_outlives_the_thread_that_started_it() {
    let mut running = thread::spawn(|| shell("sleep 1000").start()).join().expect("it only starts it");
    assert!(running.is_running());
    assert_eq!(running.kill().code(), 128 + 9);
}

#[test]
fn an_interrupted_process_may_clean_up() {
    let running = shell("trap 'echo bye; exit 0' INT; echo hi; while :; do sleep 0.01; done").start();
    assert_eq!(first_line(&running), "hi");
    assert_eq!(running.interrupt().succeeded().stdout, "hi\nbye\n");
}

/// A test process that is killed has no time to drop anything.
#[test]
fn processes_die_with_a_test_that_is_killed() {
    const ROLE: &str = "HARNESS_TEST_ROLE";
    if env::var_os(ROLE).is_some() {
        // The kernel ends the child, not what the child started: so the shell becomes the sleep.
        let running = shell("exec sleep 1000").start();
        println!("pid {}", running.pid());
        let _ = running.wait(LIMIT);
        return;
    }
    let this = env::current_exe().expect("a test knows itself");
    let name = "program::tests::processes_die_with_a_test_that_is_killed";
    // It leaves its files behind, in here.
    let folder = Folder::new();
    let victim = Call::of(this, ["--exact", name, "--nocapture"]).env(ROLE, "victim").env("TMPDIR", folder.path());
    let victim = victim.start();
    let pid = until("the victim has a child", LIMIT, || {
        let printed = victim.stdout();
        let (_, rest) = printed.split_once("pid ")?;
        rest.split_once('\n').and_then(|(pid, _)| pid.parse().ok())
    });
    assert!(lives(pid));
    victim.kill();
    until("the child is gone", LIMIT, || (!lives(pid)).then_some(()));
}

#[test]
fn a_folder_goes_with_the_test() {
    let folder = Folder::new();
    let path = folder.path().to_owned();
    fs::write(folder.join("file"), "x").expect("written");
    drop(folder);
    assert!(!path.exists());
}
