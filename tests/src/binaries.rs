//! The programs under test, built once per test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::leftovers::MARK;

const PACKAGES: [&str; 4] = ["cakes-coordinator", "cakes-worker", "cakes-trainer", "cakes-cli"];

/// Folder with programs to test as they are, instead of building them.
const GIVEN: &str = "TEST_PROGRAMS";

/// Folder of the programs: that of this test's own build, unless another is given.
///
/// # Errors
/// They cannot be built.
pub fn folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// A program under test, without settings from outside and with the mark of a cluster.
///
/// # Errors
/// It cannot be built.
pub fn command(program: &str, mark: &str) -> Result<Command> {
    let mut command = Command::new(folder()?.join(program));
    let is_setting = |name: &str| ["CAKES_", "OTEL_", "TRACE"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.env(MARK, mark).env("NO_COLOR", "1");
    Ok(command)
}

fn build() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(GIVEN) {
        return Ok(folder.into());
    }
    let test = std::env::current_exe().context("where am I?")?;
    // target/debug/deps/test-hash
    let folder = test.ancestors().nth(2).context("this test does not run below a target folder")?;
    let target = folder.parent().context("no target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--profile", profile, "--target-dir"]).arg(target);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the programs under test do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(folder.to_owned())
}
