//! `cargo xtask chaos`: builds, and becomes the rig.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::process;

/// Arguments that the rig itself checks and explains.
#[derive(Args)]
pub struct ChaosArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    rest: Vec<OsString>,
}

/// Becomes the rig, which then gets every signal itself and stops what it started.
pub fn run(arguments: &ChaosArguments) -> Result<()> {
    let packages = ["cakes-coordinator", "cakes-worker", "cakes-trainer", "cakes-cli", "cakes-tests"];
    let mut build = process::cargo();
    build.args(["build", "--quiet", "--bins"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    process::run(&mut build)?;
    let mut rig = Command::new(process::programs().join("cakes-chaos"));
    rig.args(&arguments.rest).env(process::PROGRAMS_UNDER_TEST, process::programs());
    Err(rig.exec()).with_context(|| format!("cannot start `{}`", process::show(&rig)))
}
