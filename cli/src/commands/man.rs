//! `cakes man`: manual pages from the arguments.

use std::path::Path;

use clap::CommandFactory;

use crate::args::Arguments;
use crate::error::{CommandError, Outcome};
use crate::output;

/// Writes a page for each command into `folder`.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path) -> Result<Outcome, CommandError> {
    let failed = |error| CommandError::file(folder, error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)?;
    output::note(&format!("wrote the pages into {0}; read one with `man -l {0}/cakes.1`", folder.display()));
    Ok(Outcome::Done)
}
