//! `cakes-coordinator simulate FILE`: a cluster that exists as data, and a report of what
//! a rule of scheduling makes of it. Needs no database.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cakes_planner::sim::{Progress, Report, Rule, Scenario, SimulateError, simulate};
use cakes_planner::{CheckedFacts, Plan};
use clap::{Args, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  cakes-coordinator simulate deploy/examples/cluster-month.toml
  cakes-coordinator simulate deploy/examples/cluster-month.toml --days 7 --policy fifo
      its first week, first come, first served
  cakes-coordinator simulate deploy/examples/cluster-month.toml --days 3 --seed 7 -o json

The report goes to standard output and depends on the file and these flags alone. How
long it took goes to standard error. docs/scheduling.md has the rules.";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// TOML, or JSON if its name ends in .json: nodes, projects, jobs, failures, seed
    file: PathBuf,
    /// fair: shares, priorities, quotas, reservations; queue: priority, then submission,
    /// the first that fits, as the coordinator picks; fifo: strictly by submission
    #[arg(long, value_name = "fair|queue|fifo", hide_possible_values = true, default_value = "fair")]
    policy: PolicyName,
    /// Instead of the file's
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Instead of the file's; its jobs that come later are left out
    #[arg(long, value_name = "COUNT")]
    days: Option<u32>,
    /// Form of the report
    #[arg(short, long, value_name = "table|json", hide_possible_values = true, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyName {
    Fair,
    Queue,
    Fifo,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A file that cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: {message}", file.display())]
    Parse { file: PathBuf, message: String },
    #[error("{}: {source}", file.display())]
    Simulate { file: PathBuf, source: SimulateError },
    #[error("write the report: {0}")]
    Write(io::Error),
}

/// Simulates, and prints the report.
///
/// # Errors
/// The file cannot be read, or is no scenario.
pub fn run(arguments: SimulateArgs) -> Result<(), Error> {
    let SimulateArgs { file, policy, seed, days, output } = arguments;
    let text = fs::read_to_string(&file).map_err(|source| Error::Read { file: file.clone(), source })?;
    let mut scenario = parse(&file, &text).map_err(|message| Error::Parse { file: file.clone(), message })?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    if let Some(days) = days {
        scenario = scenario.for_days(days);
    }
    let rule = match policy {
        PolicyName::Fair => Rule::Fair,
        PolicyName::Queue => Rule::Queue,
        PolicyName::Fifo => Rule::Fifo,
    };
    let report = timed(&scenario, rule).map_err(|source| Error::Simulate { file, source })?;
    let text = match output {
        Output::Table => report.table(),
        Output::Json => format!("{:#}\n", serde_json::json!(report)),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Write),
    }
}

/// The message names the field.
fn parse(file: &Path, text: &str) -> Result<Scenario, String> {
    let named = |path: String, message: String| match path.as_str() {
        "." => message,
        path => format!("{path}: {message}"),
    };
    if file.extension() == Some(OsStr::new("json")) {
        let mut reader = serde_json::Deserializer::from_str(text);
        return serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| named(error.path().to_string(), error.inner().to_string()));
    }
    let reader = toml::Deserializer::parse(text).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(reader)
        .map_err(|error| named(error.path().to_string(), error.inner().to_string().trim_end().to_owned()))
}

/// With the progress and the time of it on standard error.
fn timed(scenario: &Scenario, rule: Rule) -> Result<Report, SimulateError> {
    let begin = Instant::now();
    let (mut longest, mut longest_waiting, mut sum) = (Duration::ZERO, 0, Duration::ZERO);
    let mut round = |facts: &CheckedFacts<'_>| -> Plan {
        let begin = Instant::now();
        let plan = rule.plan(facts);
        let took = begin.elapsed();
        sum += took;
        if took > longest {
            (longest, longest_waiting) = (took, facts.get().waiting.len());
        }
        plan
    };
    let is_terminal = io::stderr().is_terminal();
    let mut progress = |Progress { day, days, waiting, running }: Progress| {
        let end = if is_terminal { "\r" } else { "\n" };
        note(&format!("day {day} of {days}: {running} jobs run, {waiting} wait    {end}"));
    };
    let report = simulate(scenario, rule, &mut round, &mut progress)?;
    note(&format!(
        "{} rounds in {:.1} s; a plan took {:.3} ms on average, {:.3} ms at most (with {longest_waiting} jobs \
         waiting)\n",
        report.rounds,
        begin.elapsed().as_secs_f64(),
        sum.as_secs_f64() * 1e3 / report.rounds.max(1) as f64,
        longest.as_secs_f64() * 1e3,
    ));
    Ok(report)
}

fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
