//! `cargo xtask bench`: how fast things are. It builds and runs; what is
//! measured, and how, lives with what is measured.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::process;

#[derive(Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Training steps: the fast path against one `conv3d` per branch through libtorch.
    #[command(after_help = TRAIN_HELP)]
    Train(TrainArguments),
    /// Jobs that do nothing, as fast as they go, beside what pgbench reaches.
    #[command(disable_help_flag = true)]
    Queue(ServiceArguments),
    /// Many fake workers that renew and report while a queue waits.
    #[command(disable_help_flag = true)]
    Fleet(ServiceArguments),
    /// The queries of docs/sql.md and of the Grafana dashboards on a filled database.
    #[command(disable_help_flag = true)]
    Sql(ServiceArguments),
    /// The calls of a calm client beside broken and hostile ones.
    #[command(disable_help_flag = true)]
    Abuse(ServiceArguments),
}

/// Arguments that the bench itself checks and explains.
#[derive(Args)]
pub struct ServiceArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    rest: Vec<OsString>,
}

const TRAIN_HELP: &str = "\
Examples:
  cargo xtask bench train
  cargo xtask bench train --config unet_32 --mode derived --rounds 11
  cargo xtask bench train --config hippocampus --threads 1

Configurations: video_r50_w0.25_8x64, video_r50_w1_8x112, unet_32, hippocampus.
Modes: c3d, c2d, derived, supernet_cost, supernet_perf.

Both paths run in turn, so other load on the machine slows both; their ratio is
what to compare. The last line is JSON.";

#[derive(Args)]
pub struct TrainArguments {
    /// Only this configuration; may be given several times.
    #[arg(long, value_name = "NAME")]
    config: Vec<String>,
    /// Only this network; `c3d` always runs, the ratios refer to it. May be given several times.
    #[arg(long, value_name = "MODE")]
    mode: Vec<String>,
    /// Steps of each path, in turn; the median counts.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// CPU threads; all cores without it.
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Leaves out the reference path.
    #[arg(long)]
    fast_only: bool,
}

pub fn run(arguments: &BenchArguments) -> Result<()> {
    match &arguments.what {
        What::Train(arguments) => train(arguments),
        What::Queue(arguments) => service("queue", arguments),
        What::Fleet(arguments) => service("fleet", arguments),
        What::Sql(arguments) => service("sql", arguments),
        What::Abuse(arguments) => service("abuse", arguments),
    }
}

/// Becomes the bench, which then gets every signal itself and stops what it started.
///
/// As users have it, optimised: the dev profile leaves most of what a call passes through as it
/// is written. The first build takes many minutes, since it compiles every library anew.
fn service(what: &str, arguments: &ServiceArguments) -> Result<()> {
    let mut build = process::cargo();
    build.args(["build", "--release", "--workspace", "--bin", "cakes-coordinator", "--bin", "cakes-bench"]);
    process::run(&mut build)?;
    let programs = process::released_programs();
    let mut bench = std::process::Command::new(programs.join("cakes-bench"));
    bench.arg(what).args(&arguments.rest).env(process::PROGRAMS_UNDER_TEST, &programs);
    Err(bench.exec()).with_context(|| format!("cannot start `{}`", process::show(&bench)))
}

fn train(train: &TrainArguments) -> Result<()> {
    process::run(process::cargo().args(["build", "--quiet", "--package", "cakes-trainer"]))?;
    let mut bench = std::process::Command::new(process::programs().join("cakes-trainer"));
    bench.arg("bench");
    bench.args(train.config.iter().flat_map(|name| ["--config", name]));
    bench.args(train.mode.iter().flat_map(|name| ["--mode", name]));
    bench.args(train.rounds.map(|rounds| format!("--rounds={rounds}")));
    bench.args(train.threads.map(|threads| format!("--threads={threads}")));
    bench.args(train.fast_only.then_some("--fast-only"));
    process::run(&mut bench)
}
