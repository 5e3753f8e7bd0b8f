//! `.sqlx`: what a live Postgres says about every statement in the code.
//!
//! Without it a fresh clone would need a database to compile. It is written by
//! `cargo xtask sql` and compared by `cargo xtask test`, both with a server of
//! their own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::database::ThrowAway;
use crate::{process, root};

#[derive(Args)]
pub struct SqlArguments {
    /// Changes nothing; fails if the saved data are not those of the statements.
    #[arg(long)]
    pub check: bool,
}

/// Saved data by file name.
type QueryData = BTreeMap<String, Vec<u8>>;

pub fn run(arguments: &SqlArguments) -> Result<()> {
    let saved_dir = root().join(".sqlx");
    let asked = ask_a_server(if arguments.check { after_clippy() } else { &ALONE })?;
    let saved = read(&saved_dir)?;
    if arguments.check {
        return compare(&saved, &asked);
    }
    fs::create_dir_all(&saved_dir)?;
    for (name, content) in &asked {
        if saved.get(name) != Some(content) {
            fs::write(saved_dir.join(name), content)?;
        }
    }
    let stale: Vec<&String> = saved.keys().filter(|name| !asked.contains_key(*name)).collect();
    for name in &stale {
        fs::remove_file(saved_dir.join(name))?;
    }
    println!("sql: {} statements saved in .sqlx, {} stale ones removed", asked.len(), stale.len());
    Ok(())
}

fn compare(saved: &QueryData, asked: &QueryData) -> Result<()> {
    let differing = |from: &QueryData, than: &QueryData| -> Vec<String> {
        from.iter()
            .filter(|(name, content)| than.get(*name) != Some(content))
            .map(|(name, _)| name.clone())
            .collect()
    };
    let (missing, stale) = (differing(asked, saved), differing(saved, asked));
    if missing.is_empty() && stale.is_empty() {
        println!("sql: all {} statements are as saved in .sqlx", asked.len());
        return Ok(());
    }
    let mut names = [missing, stale].concat();
    names.sort_unstable();
    names.dedup();
    bail!(
        ".sqlx is not what the statements in the code need; run `cargo xtask sql` and commit .sqlx:\n{}",
        names.join("\n")
    )
}

/// Compiles the code against a new database with all migrations.
/// How to compile the statements, and nothing that they do not need.
const ALONE: [&str; 4] = ["check", "--quiet", "--package", "cakes-coordinator"];

/// The same after another stage has looked at the whole workspace: the dependencies are there
/// as that stage left them.
fn after_clippy() -> &'static [&'static str] {
    if process::has_component("clippy") { &["clippy", "--quiet", "--workspace"] } else { &ALONE }
}

fn ask_a_server(words: &[&str]) -> Result<QueryData> {
    let database = ThrowAway::start()?;
    database.migrate(&root().join("migrations"))?;
    let answers = tempfile::tempdir().context("cannot create a temporary folder")?;
    compile_again(&root().join("coordinator"))?;
    let mut cargo = process::cargo();
    cargo
        .args(words)
        .arg("--all-targets")
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", answers.path())
        .env("DATABASE_URL", database.url());
    process::run(&mut cargo)?;
    read(answers.path())
}

/// Cargo does not know that the macros' answers depend on a database: only a
/// newer file makes it compile a crate again.
fn compile_again(package: &Path) -> Result<()> {
    let mut roots = vec![package.join("src/lib.rs"), package.join("src/main.rs")];
    roots.extend(files(&package.join("tests"), "rs")?);
    for file in roots.iter().filter(|file| file.is_file()) {
        let opened = File::options().append(true).open(file);
        opened
            .and_then(|opened| opened.set_modified(SystemTime::now()))
            .with_context(|| format!("cannot touch {}", file.display()))?;
    }
    Ok(())
}

fn read(dir: &Path) -> Result<QueryData> {
    files(dir, "json")?
        .into_iter()
        .map(|path| {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, content))
        })
        .collect()
}

/// Files of a folder with this ending, sorted; none if there is no such folder.
pub fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut found: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_changed_and_stale_statements_are_all_named() {
        let of = |pairs: &[(&str, &str)]| -> QueryData {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let saved = of(&[("same", "1"), ("changed", "1"), ("stale", "1")]);
        let asked = of(&[("same", "1"), ("changed", "2"), ("missing", "1")]);
        let error = compare(&saved, &asked).unwrap_err().to_string();
        assert!(error.ends_with("changed\nmissing\nstale"), "{error}");
        compare(&asked, &asked).unwrap();
    }
}
