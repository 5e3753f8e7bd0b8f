//! `cargo xtask bench queue`, `bench fleet`, `bench sql` and `bench abuse`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use cakes_tests::abuse::attacks::{self, Abuse};
use cakes_tests::abuse::{Plan, Row as AbuseRow};
use cakes_tests::bench::abuse::{self, AbuseOptions};
use cakes_tests::bench::fleet::{self, FleetOptions, FleetRow};
use cakes_tests::bench::queue::{self, QueueOptions, QueueRow};
use cakes_tests::bench::sql::{self, Size, Source, SqlOptions};
use cakes_tests::bench::{Place, allow_open_files};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Measures the coordinator with fake workers on a durable Postgres of its own.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Jobs that do nothing, as fast as they go, beside what pgbench reaches.
    #[command(after_help = QUEUE_HELP)]
    Queue(QueueArguments),
    /// Many workers that renew and report while a queue waits.
    #[command(after_help = FLEET_HELP)]
    Fleet(FleetArguments),
    /// The queries of docs/sql.md and of the Grafana dashboards on a filled database.
    #[command(after_help = SQL_HELP)]
    Sql(SqlArguments),
    /// The calls of a calm client beside broken and hostile ones.
    #[command(after_help = ABUSE_HELP)]
    Abuse(AbuseArguments),
    /// The abuser of `abuse`, a process of its own; prints what became of its connections.
    #[command(hide = true)]
    Abuser(AbuserArguments),
}

const QUEUE_HELP: &str = "\
Examples:
  cargo xtask bench queue
  cargo xtask bench queue --jobs 5000 --workers 16
  cargo xtask bench queue --workers 4,16 --finished 1000,1000000

Each job: acquire, start, one report, complete with its checkpoint; each call is durable
and awaited. Beside each row pgbench runs with as many clients, 64 at the most: claim,
metric row, complete, in three transactions on tables of like shape. Workers,
coordinator and Postgres share the machine: compare within one run. The last line
is JSON.";

const FLEET_HELP: &str = "\
Examples:
  cargo xtask bench fleet
  cargo xtask bench fleet --workers 1000 --seconds 60
  cargo xtask bench fleet --workers 100 --queued 1000 --report-interval-ms 500

Workers share connections, 50 each. One report in 30 ends its job and takes the
next one. Workers, coordinator and Postgres share the machine. The last line is JSON.";

const SQL_HELP: &str = "\
Examples:
  cargo xtask bench sql
  cargo xtask bench sql --architectures 100000 --points 100000000

Each query runs as role cakes_dashboard, planning and fetching included. The fill of
the second example takes a quarter of an hour and 25 GB, which are given back. The
last line is JSON.";

const ABUSE_HELP: &str = "\
Examples:
  cargo xtask bench abuse
  cargo xtask bench abuse --connections 1000 --seconds 30
  cargo xtask bench abuse --abuse slow_reader --abuse slow_reader

The abuser comes from 127.0.0.2, the calm client from 127.0.0.1; the coordinator has its
own limits, so that some rows wait minutes until it closes what is abused. The abuser is a
process of its own that gives way to all others (nice 19): coordinator, Postgres and both
clients share the machine. Compare with the first and the last row, when nobody abuses. The
last line is JSON.";

#[derive(Args)]
struct AbuseArguments {
    /// Of the abuser at a time.
    #[arg(long, value_name = "N", default_value_t = 500)]
    connections: u32,
    /// Only this abuse; may be given several times, also the same one.
    #[arg(long, value_name = "NAME", value_parser = abuse_named)]
    abuse: Vec<Abuse>,
    /// How long each abuse lasts.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    place: PlaceArgument,
}

#[derive(Args)]
struct AbuserArguments {
    #[arg(long, value_parser = abuse_named)]
    abuse: Abuse,
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
    /// Seconds that the server may leave a connection open.
    #[arg(long)]
    patience: u64,
}

#[derive(Args)]
struct QueueArguments {
    /// Jobs of each measurement.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    jobs: u32,
    /// Workers of each measurement.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4, 16])]
    workers: Vec<u32>,
    /// Finished jobs in the tables before each round; rising numbers.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [0])]
    finished: Vec<u64>,
    #[command(flatten)]
    place: PlaceArgument,
}

#[derive(Args)]
struct FleetArguments {
    /// Workers of each measurement.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100, 1000, 5000])]
    workers: Vec<u32>,
    /// How long calls are measured.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Jobs that wait.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    queued: u64,
    /// Time between two reports of a worker; the coordinator's default is 2000.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    report_interval_ms: u64,
    #[command(flatten)]
    place: PlaceArgument,
}

#[derive(Args)]
struct SqlArguments {
    /// Architectures, each retrained once; a multiple of 100.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    architectures: u64,
    /// Points of learning curves.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    points: u64,
    /// Times that each query runs.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Measures on a database that exists, instead of filling one; it is only read.
    #[arg(long, value_name = "URL", conflicts_with_all = ["architectures", "points", "folder"])]
    database_url: Option<String>,
    #[command(flatten)]
    place: PlaceArgument,
}

#[derive(Args)]
struct PlaceArgument {
    /// Folder to put the database in; it must lie on a disk [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl PlaceArgument {
    fn place(self) -> Place {
        self.folder.map_or_else(Place::default, |parent| Place { parent })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(until_interrupted(run(arguments.bench))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

/// Dropping the bench stops all that it has started.
async fn until_interrupted(bench: impl Future<Output = Result<()>>) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        result = bench => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Queue(arguments) => {
            let options = QueueOptions {
                jobs: arguments.jobs,
                workers: arguments.workers,
                finished: arguments.finished,
                place: arguments.place.place(),
            };
            println!("database and coordinator in {}", options.place.parent.display());
            println!("{QUEUE_HEAD}");
            let rows = queue::run(&options, |row| println!("{}", show_queue(row))).await?;
            last_line("queue", &rows)
        }
        Bench::Fleet(arguments) => {
            let options = FleetOptions {
                workers: arguments.workers,
                duration: Duration::from_secs(arguments.seconds),
                queued: arguments.queued,
                report_interval: Duration::from_millis(arguments.report_interval_ms),
                place: arguments.place.place(),
            };
            println!("database and coordinator in {}", options.place.parent.display());
            println!("{FLEET_HEAD}");
            let rows = fleet::run(&options, |row| println!("{}", show_fleet(row))).await?;
            last_line("fleet", &rows)
        }
        Bench::Sql(arguments) => {
            let size = Size { architectures: arguments.architectures, points: arguments.points };
            let source = match arguments.database_url {
                Some(url) => Source::Existing(url),
                None => Source::Fill { size, place: arguments.place.place() },
            };
            let options = SqlOptions { source, rounds: arguments.rounds };
            let rows = sql::run(&options, |line| println!("{line}")).await?;
            last_line("sql", &rows)
        }
        Bench::Abuse(arguments) => {
            let options = AbuseOptions {
                connections: arguments.connections,
                duration: Duration::from_secs(arguments.seconds),
                abuses: if arguments.abuse.is_empty() { Abuse::ALL.to_vec() } else { arguments.abuse },
                place: arguments.place.place(),
            };
            println!("{ABUSE_HEAD}");
            let rows = abuse::run(&options, |row| println!("{}", show_abuse(row))).await?;
            last_line("abuse", &rows)
        }
        Bench::Abuser(arguments) => {
            let AbuserArguments { abuse, server, connections, seconds, patience } = arguments;
            allow_open_files(connections as u64 + 64)?;
            let (duration, patience) = (Duration::from_secs(seconds), Duration::from_secs(patience));
            let plan = Plan { connections, duration, patience };
            println!("{}", serde_json::to_string(&attacks::abuse(abuse, server, &plan).await?)?);
            Ok(())
        }
    }
}

fn abuse_named(name: &str) -> Result<Abuse, String> {
    Abuse::named(name).ok_or_else(|| {
        let names: Vec<&str> = Abuse::ALL.iter().map(|abuse| abuse.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

const ABUSE_HEAD: &str = "
abuse          opened   closed  slowest s   refused  calm calls  failed  calm ms        rss MiB              open files
                                                                         p50/p99        before most after    before most after";

fn show_abuse(row: &AbuseRow) -> String {
    format!(
        "{:<13} {:>7} {:>8} {:>10.1} {:>9.0} {:>11} {:>7}  {:<14} {:>6.0} {:>4.0} {:>5.0} {:>9} {:>4} {:>5}",
        row.abuse,
        row.opened,
        row.closed,
        row.slowest_close_s,
        row.refused,
        row.calm_calls,
        row.calm_failures,
        pair(row.calm_p50_ms, row.calm_p99_ms),
        row.rss_mib[0],
        row.rss_mib[1],
        row.rss_mib[2],
        row.open_files[0],
        row.open_files[1],
        row.open_files[2],
    )
}

fn last_line<R: Serialize>(bench: &str, rows: &[R]) -> Result<()> {
    println!("{}", serde_json::json!({ "bench": bench, "rows": serde_json::to_value(rows)? }));
    Ok(())
}

/// Milliseconds "p50/p99".
fn pair(p50: Option<f64>, p99: Option<f64>) -> String {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    format!("{}/{}", show(p50), show(p99))
}

const QUEUE_HEAD: &str = "
workers  finished  jobs/s  pgbench  share  acquire ms   start ms     report ms    complete ms  \
cpu ms/job: coordinator postgres workers  rss MiB
                                           p50/p99      p50/p99      p50/p99      p50/p99";

fn show_queue(row: &QueueRow) -> String {
    format!(
        "{:>7} {:>9} {:>7.0} {:>8.0} {:>5.0}%  {:<12} {:<12} {:<12} {:<12} {:>23.2} {:>8.2} {:>7.2} {:>8.0}",
        row.workers,
        row.finished,
        row.jobs_per_s,
        row.pg_limit_jobs_per_s,
        row.share_of_limit * 100.0,
        pair(row.acquire_p50_ms, row.acquire_p99_ms),
        pair(row.start_p50_ms, row.start_p99_ms),
        pair(row.report_p50_ms, row.report_p99_ms),
        pair(row.complete_p50_ms, row.complete_p99_ms),
        row.coordinator_cpu_ms,
        row.postgres_cpu_ms,
        row.workers_cpu_ms,
        row.rss_mib,
    )
}

const FLEET_HEAD: &str = "
workers   queued  reports/s  wanted  report ms    acquire ms   complete p99  connections  ramp s  \
cpus: coordinator postgres workers  rss MiB  repeated
                                     p50/p99      p50/p99";

fn show_fleet(row: &FleetRow) -> String {
    format!(
        "{:>7} {:>8} {:>10.0} {:>7.0}  {:<12} {:<12} {:>12}  {:>11} {:>7.1} {:>18.2} {:>8.2} {:>7.2} {:>8.0} {:>9}",
        row.workers,
        row.queued,
        row.reports_per_s,
        row.wanted_reports_per_s,
        pair(row.report_p50_ms, row.report_p99_ms),
        pair(row.acquire_p50_ms, row.acquire_p99_ms),
        row.complete_p99_ms.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}")),
        row.connections,
        row.ramp_s,
        row.coordinator_cpus,
        row.postgres_cpus,
        row.workers_cpus,
        row.rss_mib,
        row.repeated,
    )
}
