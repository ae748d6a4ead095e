//! The nodes of a demo: each a process of the same program, which ends with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use codec::capture::Spec;
use node::control::{self, Request, Response, Status};
use node::identity::{Identity, Public, roster};
use store::roster::{Point as Entry, Right};
use tokio::runtime::Runtime;

use crate::cli::parent;

/// Names of the points, as communes of Nghệ An and Hải Phòng might be called.
const NAMES: [&str; 10] = [
    "UBND tỉnh",
    "UBND xã Kim Thành",
    "UBND phường Sa Đéc",
    "UBND xã Mỹ Hào",
    "UBND xã Quỳnh Lưu",
    "UBND xã Diễn Châu",
    "UBND phường Cửa Lò",
    "UBND xã Con Cuông",
    "UBND xã Kỳ Sơn",
    "UBND xã Yên Thành",
];
/// Time a node has to start and answer.
const START_MAX: Duration = Duration::from_secs(30);
/// Time a node has to close its groups and end.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Between two looks at a node's state.
const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Point {
    pub(super) name: String,
    pub(super) role: &'static str,
    pub(super) data: PathBuf,
    pub(super) console: String,
    process: Child,
}

pub(super) struct Mesh {
    points: Vec<Point>,
    runtime: Runtime,
}

impl Mesh {
    /// Sets up and starts the points, central first, which the others call.
    pub(super) fn start(folder: &Path, number: u16, source: &Spec) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut mesh = Self { points: Vec::new(), runtime };
        let places: Vec<(String, &'static str, PathBuf)> = (0..number).map(|at| place(folder, at)).collect();
        let mut points = Vec::new();
        for (name, role, data) in &places {
            run(data, &["init", "--name", name, "--json"])?;
            points.push(point(data, name, if *role == "central" { "province" } else { "commune" })?);
        }
        let membership = roster::for_good("Điểm Cầu demo", points)?;
        let mut peer = None;
        for (name, role, data) in places {
            roster::save(&data, &membership)?;
            let process = spawn(&data, source, peer.as_deref())?;
            mesh.points.push(Point { name, role, data, console: String::new(), process });
            let status = mesh.wait_for_start()?;
            peer.get_or_insert_with(|| format!("127.0.0.1:{}", status.own.mesh_port));
            let last = mesh.points.last_mut().expect("just added");
            last.console = status.own.console.unwrap_or_default();
        }
        Ok(mesh)
    }

    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Data folder of the central point.
    pub(super) fn central(&self) -> &Path {
        &self.points[0].data
    }

    /// Asks the node on `data`.
    pub(super) fn ask(&self, data: &Path, request: &Request) -> Result<Response> {
        match self.runtime.block_on(control::call(data, request))? {
            Response::Not { reason, .. } => Err(anyhow!(reason)),
            answer => Ok(answer),
        }
    }

    fn status(&self, data: &Path) -> Result<Box<Status>> {
        match self.ask(data, &Request::Status)? {
            Response::Status(status) => Ok(status),
            other => bail!("asked for its state, the node answered {other:?}"),
        }
    }

    /// Looks again and again until `look` finds something; a node that ended is an error at once.
    fn wait<T>(&mut self, what: &str, limit: Duration, look: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            self.check_alive()?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if begun.elapsed() > limit {
                bail!("{what} did not happen within {} s; the nodes' logs are beside their data", limit.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn check_alive(&mut self) -> Result<()> {
        for point in &mut self.points {
            if let Some(status) = point.process.try_wait()? {
                bail!("the node of {} ended ({status}); see {}", point.name, log(&point.data).display());
            }
        }
        Ok(())
    }

    fn wait_for_start(&mut self) -> Result<Box<Status>> {
        let data = self.points.last().expect("one was started").data.clone();
        self.wait("the start of a node", START_MAX, |mesh| Ok(mesh.status(&data).ok()))
    }

    /// Until central sees every point.
    pub(super) fn wait_until_met(&mut self, limit: Duration) -> Result<()> {
        let data = self.central().to_owned();
        self.wait("the meeting of all points", limit, |mesh| {
            let status = mesh.status(&data)?;
            Ok(status.points.iter().all(|point| point.online).then_some(()))
        })
    }

    /// Until every point is in the session.
    pub(super) fn wait_until_joined(&mut self, session: &str, limit: Duration) -> Result<()> {
        let data = self.central().to_owned();
        let request = Request::SessionShow { session: session.to_owned() };
        self.wait("the joining of all points", limit, |mesh| {
            let Response::Session(session) = mesh.ask(&data, &request)? else { bail!("the session is not there") };
            Ok(session.points.iter().all(|point| point.present).then_some(()))
        })
    }

    /// Lets the session go on.
    pub(super) fn live(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.check_alive()?;
            std::thread::sleep(left.min(LOOK));
        }
        Ok(())
    }

    /// Until Ctrl-C or the end of a node.
    pub(super) fn until_interrupted(&mut self) -> Result<()> {
        loop {
            let interrupted = self.runtime.block_on(async {
                tokio::select! {
                    interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| true),
                    () = tokio::time::sleep(Duration::from_secs(1)) => Ok(false),
                }
            })?;
            if interrupted {
                return Ok(());
            }
            self.check_alive()?;
        }
    }

    /// Ends every node politely; one that does not end is an error.
    pub(super) fn stop(mut self) -> Result<()> {
        for at in 0..self.points.len() {
            // One that has ended already was told of by `check_alive`, or ended with Ctrl-C.
            let _ = self.ask(&self.points[at].data, &Request::Stop);
        }
        let begun = Instant::now();
        for point in &mut self.points {
            while point.process.try_wait()?.is_none() {
                if begun.elapsed() > STOP_MAX {
                    bail!("the node of {} did not end; see {}", point.name, log(&point.data).display());
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for point in &mut self.points {
            // Those that have ended need no end.
            let _ = point.process.kill();
            let _ = point.process.wait();
        }
    }
}

fn place(folder: &Path, at: u16) -> (String, &'static str, PathBuf) {
    let role = if at == 0 { "central" } else { "delegate" };
    let known = NAMES.get(usize::from(at)).map(|name| (*name).to_owned());
    (known.unwrap_or_else(|| format!("UBND xã số {at}")), role, folder.join(format!("{}-{role}", at + 1)))
}

/// A point of the demo's mesh, which may do everything.
fn point(data: &Path, name: &str, level: &str) -> Result<Entry> {
    let Public { node, wrap } = Identity::public_of(data)?;
    Ok(Entry {
        node,
        wrap,
        name: name.to_owned(),
        level: level.to_owned(),
        zone: String::new(),
        rights: Right::ALL.into(),
        addresses: Vec::new(),
        replaces: None,
    })
}

fn log(data: &Path) -> PathBuf {
    data.join("node.log")
}

/// Runs a command of this program to its end and reads the JSON it prints.
pub(super) fn run(data: &Path, args: &[&str]) -> Result<serde_json::Value> {
    let done = parent::child(args)?.arg("--data").arg(data).stderr(Stdio::inherit()).output()?;
    if !done.status.success() {
        bail!("`diemcau {}` failed ({})", args.join(" "), done.status);
    }
    serde_json::from_slice(&done.stdout).with_context(|| format!("`diemcau {}` did not print JSON", args.join(" ")))
}

/// Starts a node on loopback alone, with ports of the system's choice, so that demos and offices do not meet.
fn spawn(data: &Path, source: &Spec, peer: Option<&str>) -> Result<Child> {
    let log = File::create(log(data))?;
    let ports = ["--port", "0", "--media-port", "0", "--console-port", "0"];
    let mut command = parent::child(["run", "--listen", "127.0.0.1"].into_iter().chain(ports))?;
    command.args(["--mdns", "false", "--source", &source.to_string()]).arg("--data").arg(data);
    if let Some(peer) = peer {
        command.args(["--peer", peer]);
    }
    // A demo takes no room that it does not use.
    command.env("DIEMCAU_ARCHIVE_RESERVE_MB", "0");
    // A group of its own: Ctrl-C reaches the demo alone, which then ends the nodes politely.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    child.context("a node cannot be started")
}
