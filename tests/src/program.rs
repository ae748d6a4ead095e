//! The program as a user has it: a command line, an exit code, what it prints, and processes that run until stopped.
//!
//! `cargo test --workspace` does not build `diemcau` when only these tests need it, so the first test that asks builds
//! it, once for all, with the profile and into the folder of the tests themselves. Processes end with the test that
//! started them, however the test ends: by dropping, with all of their group, and by the kernel if the test itself is
//! killed (then a process that has children must see to them itself). Output goes to files and not to pipes, so a
//! process that prints much never waits for a test that reads late.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process, kill_process_group};
use serde::de::DeserializeOwned;
use simnet::lab::Host;
use tempfile::TempDir;

pub use rustix::process::Signal;

/// A command that runs longer has hung, unless the test said how long it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How often a condition is looked at. Short beside anything a process does, and cheap.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Lines of each output shown when something fails.
const LINES_SHOWN: usize = 60;

/// Where the program is. Builds it first if this is the first call in this process.
///
/// # Panics
///
/// If it cannot be built; the compiler has said why on stderr.
pub fn path() -> &'static Path {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build).as_deref().expect("the program builds")
}

fn build() -> Option<PathBuf> {
    // TARGET/PROFILE/deps/TEST-HASH
    let test = env::current_exe().ok()?;
    let folder = test.parent()?.parent()?;
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        other => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        // The features of the whole workspace: those the tests were built with, so little is left to compile.
        .args(["build", "--quiet", "--locked", "--offline", "--workspace", "--bin", "diemcau", "--profile", profile])
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder.parent()?)
        .stdin(Stdio::null())
        .status();
    built.is_ok_and(|status| status.success()).then(|| folder.join("diemcau"))
}

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// Asks until there is an answer.
///
/// # Panics
///
/// If there is none within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// An empty folder that is removed with the value, or kept and named if the test fails.
#[derive(Debug)]
pub struct Folder(Option<TempDir>);

impl Folder {
    #[expect(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        // Short, because the path of a local socket below it must fit into 108 bytes.
        Self(Some(tempfile::Builder::new().prefix("dc-").tempdir().expect("room for a folder")))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken only by drop").path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("the files of this test: {}", folder.keep().display());
        }
    }
}

/// One use of the program, not yet begun.
#[derive(Debug, Clone)]
#[must_use]
pub struct Call {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    limit: Duration,
}

impl Call {
    /// `diemcau` with these arguments, no input, and none of our settings that the environment may hold.
    pub fn new<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::of(path(), args)
    }

    /// `diemcau` with these arguments on a host of a lab.
    pub fn on<A: Into<OsString>>(host: &Host, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = host.command().into_iter();
        let first = command.next().expect("a program that brings another there");
        Self::of(first, command).arg(path()).args(args)
    }

    /// Another program, which has to end with the test as well.
    pub fn of<A: Into<OsString>>(program: impl Into<PathBuf>, args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { program: program.into(), args, env: Vec::new(), limit: LIMIT }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// `--data DIR`.
    pub fn data(self, dir: impl Into<PathBuf>) -> Self {
        self.arg("--data").arg(dir.into())
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long the program may run before the test fails; two minutes if not said. Only for what ends by itself.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts the program and leaves it running.
    pub fn start(self) -> Running {
        let line = self.line();
        let output = TempDir::with_prefix("dc-").expect("room for its output");
        let file = |name| File::create(output.path().join(name)).expect("room for its output");
        // The kernel kills it if we die first. setpriv asks for that and then becomes the program.
        let mut command = match cfg!(target_os = "linux") {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            false => Command::new(&self.program),
        };
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DIEMCAU_")) {
            command.env_remove(name);
        }
        // What a test sees does not depend on how full this machine's disk is.
        for name in ["COPIES_FREE_GB", "COPIES_FREE_PERCENT", "RECORD_FREE_MB", "RESERVE_MB"] {
            command.env(format!("DIEMCAU_ARCHIVE_{name}"), "0");
        }
        command.args(&self.args).envs(self.env).stdin(Stdio::null()).process_group(0);
        command.stdout(file(STDOUT)).stderr(file(STDERR));
        let child = spawn(command).unwrap_or_else(|error| panic!("{line} did not start: {error}"));
        Running { line, child, output }
    }

    /// Runs the program to its end, whatever its exit code.
    pub fn run(self) -> Finished {
        let limit = self.limit;
        self.start().wait(limit)
    }

    /// Runs the program, which must succeed and print one JSON value and nothing else on stdout.
    pub fn json<T: DeserializeOwned>(self) -> T {
        let done = self.run().succeeded();
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("not the expected JSON: {error}\n{done}"))
    }

    fn line(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
    }
}

const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// A program at work. It is killed, with all it started in its group, when this is dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    output: TempDir,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed up to now.
    pub fn stdout(&self) -> String {
        self.printed(STDOUT)
    }

    /// What it has logged up to now.
    pub fn stderr(&self) -> String {
        self.printed(STDERR)
    }

    /// The processes it has started that live.
    pub fn children(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("Linux tells of its processes");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| parent(*pid) == Some(self.pid())).collect()
    }

    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Asks it to end, to stand still, to go on: to the process alone, not its group.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            kill_process(self.id(), signal).expect("a process of ours takes signals");
        }
    }

    /// Kills the process without warning, as a power cut would, and returns when it is gone.
    pub fn kill(mut self) -> Finished {
        self.signal(Signal::KILL);
        self.wait(LIMIT)
    }

    /// Asks it to end, as Ctrl-C does, and waits until it has.
    pub fn interrupt(mut self) -> Finished {
        self.signal(Signal::INT);
        self.wait(LIMIT)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it does not within `limit`.
    pub fn wait(mut self, limit: Duration) -> Finished {
        let line = self.line.clone();
        let status = until(&format!("`{line}` ends"), limit, || self.status());
        Finished { line, status, stdout: self.stdout(), stderr: self.stderr() }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be asked")
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn printed(&self, name: &str) -> String {
        let bytes = fs::read(self.output.path().join(name)).expect("its output is there as long as this");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that nothing of the group is left.
        let _ = kill_process_group(self.id(), Signal::KILL);
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", shown(&self.line, &self.stdout(), &self.stderr()));
        }
    }
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit code, or as a shell gives it 128 and the number of the signal that ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// # Panics
    ///
    /// If the exit code is not 0.
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// # Panics
    ///
    /// If the exit code is another one.
    pub fn ended_with(self, code: i32) -> Self {
        assert!(self.code() == code, "ended with {} and not with {code}\n{self}", self.code());
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nended: {}", shown(&self.line, &self.stdout, &self.stderr), self.status)
    }
}

/// Whether a process is there and not merely waiting to be asked how it ended.
pub fn lives(pid: u32) -> bool {
    parent(pid).is_some()
}

/// Who started a process that lives, from `/proc/PID/stat` (proc(5), fields 3 and 4).
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let lives = fields.next()? != "Z";
    fields.next()?.parse().ok().filter(|_| lives)
}

/// The end of what a program printed, for the eyes of whoever looks into a failure.
fn shown(line: &str, stdout: &str, stderr: &str) -> String {
    let end = |text: &str| {
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n  ")
    };
    format!("$ {line}\nstdout:\n  {}\nstderr:\n  {}", end(stdout), end(stderr))
}

/// Starts a process from a thread that lives as long as we do. The kernel's promise to kill a child with its parent
/// means the thread that made the child, and threads of tests and runtimes come and go.
fn spawn(command: Command) -> io::Result<Child> {
    type Birth = (Command, Sender<io::Result<Child>>);
    static MOTHER: OnceLock<Sender<Birth>> = OnceLock::new();
    let mother = MOTHER.get_or_init(|| {
        let (sender, births) = mpsc::channel::<Birth>();
        thread::spawn(move || {
            for (mut command, answer) in births {
                // Whoever asked may have panicked meanwhile. Then the child goes with its group.
                if let Err(unheard) = answer.send(command.spawn())
                    && let Ok(child) = unheard.0
                {
                    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                }
            }
        });
        sender
    });
    let (sender, answer) = mpsc::channel();
    mother.send((command, sender)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
