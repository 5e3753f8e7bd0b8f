//! The reference pages of the programs are what they say with `--help`. After a change:
//!
//! ```sh
//! RENEW_REFERENCE=1 cargo test -p cakes-tests --test reference_pages
//! ```

use std::path::Path;

use anyhow::{Result, ensure};
use cakes_tests::binaries;

const HEAD: &str = "Made from what the program says with `--help`.\n\n";

/// Page, its title, the program, and whether flags are variables and keys of a file too.
const PAGES: [(&str, &str, &str, &str); 4] = [
    ("cakes.md", "The command cakes", "cakes", ""),
    (
        "cakes-coordinator.md",
        "The daemon cakes-coordinator",
        "cakes-coordinator",
        "Every flag is also an environment variable and a key of the TOML file that `--config` names.\n\n",
    ),
    (
        "cakes-worker.md",
        "The daemon cakes-worker",
        "cakes-worker",
        "Every flag is also an environment variable and a key of the TOML file that `--config` names.\n\n",
    ),
    ("cakes-trainer.md", "The program cakes-trainer", "cakes-trainer", ""),
];

#[test]
fn the_reference_pages_are_what_the_programs_say() {
    let mut stale = Vec::new();
    for (page, title, program, more) in PAGES {
        let mut text = format!("# {title}\n\n{HEAD}{more}");
        add(&mut text, program, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(page);
        if std::env::var_os("RENEW_REFERENCE").is_some() {
            std::fs::write(&path, text).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(page);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} are not what --help says; RENEW_REFERENCE=1 with this test writes them"
    );
}

/// The help of a command, then that of its verbs.
fn add(text: &mut String, program: &str, path: &[&str]) -> Result<()> {
    let mut command = binaries::command(program, "reference")?;
    // Of no terminal, no home and no cores of this machine.
    command.args(path).arg("--help").env_remove("HOME").env("COLUMNS", "100");
    let output = command.output()?;
    ensure!(output.status.success(), "{program} {path:?}: {}", String::from_utf8_lossy(&output.stderr));
    let help = String::from_utf8(output.stdout)?;
    let name = [&[program], path].concat().join(" ");
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    *text += &format!("{} {name}\n\n```text\n{}\n```\n", "#".repeat(path.len().min(2) + 2), help.join("\n"));
    let mut lines = help.iter();
    if lines.by_ref().any(|line| *line == "Commands:") {
        let verbs = lines.map_while(|line| line.strip_prefix("  ")?.split_whitespace().next());
        for verb in verbs.filter(|verb| *verb != "help") {
            text.push('\n');
            add(text, program, &[path, &[verb]].concat())?;
        }
    }
    Ok(())
}
