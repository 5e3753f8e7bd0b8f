//! This program as `RUSTC_WRAPPER`: rustc with paths that say nothing of the machine.
//!
//! In `RUSTFLAGS` the same words would be part of every crate's identity and so of its
//! symbols: two folders would give two programs.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Set for a build: `FROM=TO` lines.
const PATHS: &str = "CAKES_RELEASE_PATHS";

/// Makes `cargo` start this program instead of rustc.
pub fn put_before(cargo: &mut Command, root: &Path, target: &Path) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::home_dir().unwrap_or_default().join(".cargo"), std::path::PathBuf::from);
    // The last that fits is taken: what build scripts write lies below the target folder,
    // which may lie below the checkout.
    let paths = format!("{}=/cakes\n{}=/cargo\n{}=/target", root.display(), home.display(), target.display());
    let own = std::env::current_exe().context("where am I?")?;
    cargo.env("RUSTC_WRAPPER", own).env(PATHS, paths);
    Ok(())
}

/// If this process was started in place of rustc: becomes rustc.
pub fn run_if_asked() {
    let Ok(paths) = std::env::var(PATHS) else { return };
    let mut words = std::env::args_os().skip(1);
    // Cargo names rustc first; a person who types a command does not.
    let Some(rustc) = words.next().filter(|word| word.to_string_lossy().ends_with("rustc")) else { return };
    let mut command = Command::new(rustc);
    command.args(words);
    for path in paths.lines() {
        command.arg("--remap-path-prefix").arg(path);
    }
    let error = command.exec();
    eprintln!("error: rustc cannot be started: {error}");
    std::process::exit(1);
}
