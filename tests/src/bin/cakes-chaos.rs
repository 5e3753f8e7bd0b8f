//! `cargo xtask chaos`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use cakes_tests::chaos::reassign::{self, ReassignOptions, ReassignRow};
use cakes_tests::chaos::{self, ChaosOptions, Report};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Examples:
  cargo xtask chaos
  cargo xtask chaos --minutes 60 --seed 7
  cargo xtask chaos --minutes 3 --seed 1 --fakes 10 --trainers 1
  cargo xtask chaos reassign --samples 200

Real coordinators on one Postgres, real workers with small trainings, fake workers,
and clients, behind proxies. Every class of faults has its turn and must show an
effect; then all is healed and every job must end. What every client and worker was
told is compared with the database. Exit code 1 if something was lost, stored twice,
written by a worker that had lost its lease, or stuck, if a class did not fire, or if
in a whole run of three minutes no job on slots of several workers lost one of them and
went on from its checkpoint; logs and data are kept then. The last line is JSON.";

/// Breaks everything that can break, and looks whether something was lost.
#[derive(Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos", after_help = HELP)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Subcommand)]
enum What {
    /// Measures how long a job is without a worker after a loss.
    Reassign(ReassignArguments),
}

#[derive(Args)]
struct ReassignArguments {
    /// Losses of each kind.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=2000))]
    samples: u64,
    /// How long a job stays with a worker that is silent.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..=600))]
    lease_ttl_s: u64,
    /// Real workers, whose trainers are killed.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=26))]
    trainers: u64,
    /// Folder to put everything in [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Args)]
struct RunArguments {
    /// How long faults are injected.
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    minutes: f64,
    /// Which faults come when follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Coordinators on one database.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(2..=8))]
    coordinators: u64,
    /// Real workers, with one trainer each.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=26))]
    trainers: u64,
    /// Fake workers.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(6..=1000))]
    fakes: u64,
    /// How long a job stays with a worker that is silent.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=600))]
    lease_ttl_s: u64,
    /// Longest time from the last fault to the end of the last job.
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u64).range(10..=3600))]
    settle_s: u64,
    /// Only these classes of faults, for looking at one of them
    #[arg(long, value_name = "F1,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Folder to put everything in [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let task = async {
        match arguments.what {
            Some(What::Reassign(reassign)) => Box::pin(measure(reassign)).await,
            None => Box::pin(run(arguments.run)).await,
        }
    };
    match runtime.block_on(until_interrupted(task)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

/// Dropping the run stops all that it has started.
async fn until_interrupted(run: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        result = run => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(arguments: RunArguments) -> Result<ExitCode> {
    if !(0.1..=10_000.0).contains(&arguments.minutes) {
        bail!("--minutes: must be 0.1 to 10000");
    }
    let options = ChaosOptions {
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed: arguments.seed,
        coordinators: arguments.coordinators as usize,
        trainers: arguments.trainers as usize,
        fakes: arguments.fakes as usize,
        lease_ttl: Duration::from_secs(arguments.lease_ttl_s),
        settle: Duration::from_secs(arguments.settle_s),
        parent: arguments.folder.unwrap_or_else(std::env::temp_dir),
        only: arguments.only,
    };
    let report = chaos::run(&options, |line| println!("{line}")).await?;
    show(&report)?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(arguments: ReassignArguments) -> Result<ExitCode> {
    let options = ReassignOptions {
        samples: arguments.samples as usize,
        lease_ttl: Duration::from_secs(arguments.lease_ttl_s),
        report_interval: Duration::from_secs(2),
        trainers: arguments.trainers as usize,
        parent: arguments.folder.unwrap_or_else(std::env::temp_dir),
    };
    println!("{:<8} {:>7} {:>8} {:>8} {:>8} {:>8}", "loss of", "samples", "p50 s", "p90 s", "p99 s", "max s");
    let rows = reassign::run(&options, |row| println!("{}", show_row(row))).await?;
    println!(
        "{}",
        serde_json::json!({ "lease_ttl_s": arguments.lease_ttl_s, "rows": serde_json::to_value(rows)? })
    );
    Ok(ExitCode::SUCCESS)
}

fn show_row(row: &ReassignRow) -> String {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let times = [row.p50_s, row.p90_s, row.p99_s, row.longest_s].map(|time| format!("{:>8}", show(time)));
    format!("{:<8} {:>7} {}", row.loss, row.samples, times.join(" "))
}

fn show(report: &Report) -> Result<()> {
    println!("\nclass  fired/tried");
    for row in &report.classes {
        println!("{:<6} {:>5}/{:<5}  {}: {}", row.class, row.fired, row.tried, row.title, row.proof);
    }
    println!("\nseed {}, {} minutes, {} jobs", report.seed, report.minutes, report.jobs);
    for line in &report.counts {
        println!("{line}");
    }
    println!("every job ended {:.1} s after the last fault", report.settled_s);
    for line in report.errors.iter().map(|error| format!("error: {error}")).chain(report.findings.clone()) {
        println!("{line}");
    }
    if let Some(folder) = &report.kept {
        println!("logs and data are kept in {}", folder.display());
    }
    println!("{}", serde_json::to_string(&report.summary)?);
    Ok(())
}
