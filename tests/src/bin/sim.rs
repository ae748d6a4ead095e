//! Runs simulated office days from a seed, and says how to see a failure again.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tests::sim::{self, Config, Faults};

/// Simulate a mesh on virtual time and look at its rules after every event
///
/// The last line of a run is its trace hash: the same options give the same one. A run that breaks a rule says which, and the
/// options that show it again.
#[derive(Debug, Parser)]
struct Options {
    /// The source of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from that one on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Points of the mesh
    #[arg(long, default_value_t = 130, value_parser = clap::value_parser!(u16).range(3..=3_300))]
    points: u16,
    /// Simulated hours, from seven in the morning
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    hours: u64,
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Faults::All)]
    faults: Faults,
    /// Only these of the faults, by number
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<usize>>,
    /// Say everything that happened, on stderr
    #[arg(long)]
    trace: bool,
    /// Measure how cost grows with points and hours, as a table, and do nothing else
    #[arg(long)]
    table: bool,
    /// After a failure look for fewer faults that break the same rule
    #[arg(long)]
    shrink: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.table {
        return table(options.seed, options.faults);
    }
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let only = options.only.as_ref().map(|only| only.iter().copied().collect::<BTreeSet<usize>>());
        let config = Config { seed, points: options.points, hours: options.hours, faults: options.faults, only };
        if !one(&config, &options) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What days of more points and more hours cost.
fn table(seed: u64, faults: Faults) -> ExitCode {
    println!("| points | hours | sessions | faults | events | seconds | times real time |");
    println!("|---|---|---|---|---|---|---|");
    for (points, hours) in [(10, 12), (10, 24), (10, 48), (40, 12), (40, 24), (130, 12), (130, 24)] {
        let config = Config { seed, points, hours, faults, only: None };
        let began = Instant::now();
        match sim::run(&config, &mut |_, _, _| {}) {
            Ok(report) => {
                let took = began.elapsed().as_secs_f64();
                let (sim::Report { sessions, faults, events, .. }, times) =
                    (&report, report.simulated.as_secs_f64() / took);
                println!("| {points} | {hours} | {sessions} | {faults} | {events} | {took:.1} | {times:.0} |");
            }
            Err(failure) => {
                println!("seed {seed} failed {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs one seed; whether all rules held.
fn one(config: &Config, options: &Options) -> bool {
    let began = Instant::now();
    let outcome = sim::run(config, &mut |at, host, fact| {
        if options.trace {
            eprintln!("{:>12.6} {host} {fact}", at.as_secs_f64());
        }
    });
    let took = began.elapsed().as_secs_f64();
    match outcome {
        Ok(report) => {
            let (seed, times) = (config.seed, report.simulated.as_secs_f64() / took);
            let sim::Report { sessions, faults, events, .. } = report;
            println!(
                "seed {seed}: {sessions} sessions, {faults} faults, {events} events in {took:.1} s, {times:.0} times as \
                 fast as they happened"
            );
            for (what, count) in &report.counts {
                println!("  {what}: {count}");
            }
            println!("{}", report.trace);
            true
        }
        Err(failure) => {
            println!("seed {} failed {failure}", config.seed);
            let least = if options.shrink { sim::shrink(&failure) } else { *failure };
            if options.shrink {
                println!("and with fewer faults {least}");
                sim::faults(&least.config).iter().for_each(|fault| println!("  {fault}"));
            }
            println!("again: cargo run -p tests --bin sim -- {}", least.config);
            false
        }
    }
}
