//! `diemcau bench`: what the program costs, beside the least it could cost.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use node::media::bench::{self, Received};
use serde::Serialize;

use super::args::Format;
use super::{output, parent};

/// Measure what the program costs on this machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measure the fan-out beside a bare QUIC program that writes the same frames
    Fanout(Fanout),
    /// Be the forwarding node of a measurement
    #[command(hide = true)]
    Forward(Peer),
    /// Be the bare program of a measurement
    #[command(hide = true)]
    Bare(Peer),
}

#[derive(Debug, clap::Args)]
struct Fanout {
    /// Numbers of subscribers
    #[arg(long, value_delimiter = ',', default_value = "10,40,130", value_parser = clap::value_parser!(u16).range(1..=500))]
    subscribers: Vec<u16>,
    /// Seconds each run is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Runs of each program for each number, in turn; medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    rounds: u64,
    #[command(flatten)]
    format: Format,
}

/// Names of the hidden commands.
const OURS: &str = "forward";
const BARE: &str = "bare";

#[derive(Debug, clap::Args)]
struct Peer {
    #[arg(long)]
    subscribers: u16,
}

/// One program's figures for one number of subscribers.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    /// Processor cores the forwarding process used.
    cores: f64,
    cores_per_gbps: f64,
    /// Payload that arrived at all subscribers, Mb/s.
    mbps: f64,
    latency_ms: Latency,
    /// Resident memory of the forwarding process, MiB.
    memory_mib: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    subscribers: u16,
    ours: Figures,
    bare: Figures,
    /// Ours by bare, of the medians.
    cores_ratio: f64,
    p99_ratio: f64,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.what {
        What::Fanout(args) => {
            let rows = args.subscribers.iter().map(|number| runtime.block_on(measure(*number, &args)));
            let rows = rows.collect::<Result<Vec<Row>>>()?;
            if args.format.json {
                return Ok(output::json(&serde_json::json!({ "fanout": rows }))?);
            }
            Ok(output::print(&output::table(&HEADER, &rows.iter().flat_map(lines).collect::<Vec<_>>()))?)
        }
        What::Forward(peer) => worked(runtime.block_on(bench::forward(peer.subscribers, say_port))),
        What::Bare(peer) => worked(runtime.block_on(bench::bare(peer.subscribers, say_port))),
    }
}

fn worked(done: Result<(), String>) -> Result<()> {
    done.map_err(|why| anyhow!(why))
}

fn say_port(port: u16) {
    println!("{port}");
}

async fn measure(subscribers: u16, args: &Fanout) -> Result<Row> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        eprintln!("{subscribers} subscribers, round {round} of {}", args.rounds);
        ours.push(run(OURS, subscribers, args.seconds).await?);
        bare.push(run(BARE, subscribers, args.seconds).await?);
    }
    let (ours, bare) = (median(&ours), median(&bare));
    let cores_ratio = ours.cores / bare.cores.max(1e-9);
    let p99_ratio = ours.latency_ms.p99 / bare.latency_ms.p99.max(1e-9);
    Ok(Row { subscribers, ours, bare, cores_ratio, p99_ratio })
}

/// Starts the forwarding process, loads it, and reads what it used within the measured time.
async fn run(program: &str, subscribers: u16, seconds: u64) -> Result<Figures> {
    let (mut child, port) = Process::start(program, subscribers)?;
    let pid = child.0.id();
    let used = Mutex::new(Vec::new());
    let mark = || used.lock().expect("nobody panics with it").push((Instant::now(), cpu_time(pid)));
    let time = Duration::from_secs(seconds);
    let received = match program {
        BARE => bench::measure_bare(port, subscribers, time, &mark).await,
        _ => bench::measure_ours(port, subscribers, time, &mark).await,
    };
    let received = received.map_err(|why| anyhow!("the measurement of `{program}` failed: {why}"))?;
    let memory_mib = memory(pid)?;
    child.stop();
    let marks = used.into_inner().expect("nobody panics with it");
    let [(begun, before), (ended, after)] = &marks[..] else { return Err(anyhow!("the measurement was cut short")) };
    let [before, after] = [before, after].map(|time| time.as_ref().map_err(|error| anyhow!("{error}")));
    let elapsed = (*ended - *begun).as_secs_f64();
    figures(&received, (after? - before?) / elapsed, memory_mib, elapsed)
}

fn figures(received: &Received, cores: f64, memory_mib: f64, elapsed: f64) -> Result<Figures> {
    if received.late_us.is_empty() {
        return Err(anyhow!("no frame arrived; is this machine overloaded?"));
    }
    let mbps = received.bytes as f64 * 8.0 / elapsed / 1e6;
    let at = |share: f64| {
        let last = received.late_us.len() - 1;
        f64::from(received.late_us[((last as f64) * share).round() as usize]) / 1000.0
    };
    let latency_ms = Latency { p50: at(0.5), p95: at(0.95), p99: at(0.99) };
    Ok(Figures { cores, cores_per_gbps: cores / mbps * 1000.0, mbps, latency_ms, memory_mib })
}

/// The median of each figure by itself.
fn median(runs: &[Figures]) -> Figures {
    let of = |figure: &dyn Fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        cores: of(&|run| run.cores),
        cores_per_gbps: of(&|run| run.cores_per_gbps),
        mbps: of(&|run| run.mbps),
        latency_ms: Latency {
            p50: of(&|run| run.latency_ms.p50),
            p95: of(&|run| run.latency_ms.p95),
            p99: of(&|run| run.latency_ms.p99),
        },
        memory_mib: of(&|run| run.memory_mib),
    }
}

/// The forwarding process, which does not outlive us.
struct Process(Child);

impl Process {
    /// Starts it and learns its port.
    fn start(program: &str, subscribers: u16) -> Result<(Self, u16)> {
        let mut child = parent::child(["bench", program, "--subscribers", &subscribers.to_string()])?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the forwarding process cannot be started")?;
        let output = child.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        let process = Self(child);
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().parse().context("the forwarding process did not say its port")?;
        Ok((process, port))
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Processor seconds a process used so far, from `/proc/PID/stat` (proc(5), fields 14 and 15).
fn cpu_time(pid: u32) -> Result<f64> {
    /// Clock ticks a second: fixed at 100 in what Linux shows to programs.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, spaces too.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|field| field.parse::<f64>().ok()));
    Ok((user.context("user time")? + system.context("system time")?) / TICKS)
}

/// Resident memory of a process, MiB.
fn memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
    let kib: f64 = line.split_whitespace().nth(1).context("VmRSS without a number")?.parse()?;
    Ok(kib / 1024.0)
}

fn lines(row: &Row) -> [Vec<String>; 3] {
    let line = |name: &str, figures: &Figures| {
        let number = |value: f64, digits: usize| format!("{value:.digits$}");
        vec![
            row.subscribers.to_string(),
            name.to_owned(),
            number(figures.cores, 3),
            number(figures.cores_per_gbps, 2),
            number(figures.mbps, 0),
            number(figures.latency_ms.p50, 2),
            number(figures.latency_ms.p95, 2),
            number(figures.latency_ms.p99, 2),
            number(figures.memory_mib, 0),
        ]
    };
    let mut ratio = vec![String::new(); HEADER.len()];
    ratio[1] = "ratio".to_owned();
    ratio[2] = format!("{:.2}", row.cores_ratio);
    ratio[7] = format!("{:.2}", row.p99_ratio);
    [line("ours", &row.ours), line("bare", &row.bare), ratio]
}

const HEADER: [&str; 9] =
    ["subscribers", "program", "cores", "cores per Gb/s", "Mb/s", "p50 ms", "p95 ms", "p99 ms", "MiB"];
