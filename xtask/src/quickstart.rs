//! `cargo xtask quickstart`: from a fresh checkout to a Pareto front.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

#[derive(Args)]
pub struct QuickstartArguments {
    /// A data set's folder (Medical Segmentation Decathlon); generated volumes without it.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leaves database, checkpoints and plots behind and says where.
    #[arg(long)]
    keep: bool,
}

pub fn run(_arguments: &QuickstartArguments) -> Result<()> {
    bail!("not yet")
}
