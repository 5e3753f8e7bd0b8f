//! `cakes dataset`: data sets on this machine, without a server.

use std::path::PathBuf;

use cakes_data::check::{Report, check_folder};
use clap::Subcommand;
use indicatif::ProgressBar;

use crate::args::GlobalArguments;
use crate::error::{CommandError, Outcome};
use crate::output;
use crate::progress::bar_style;

#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Say what a data set holds and what is wrong with it.
    ///
    /// Reads every file of a folder in the layout of the Medical Segmentation
    /// Decathlon. Exit code 1 if training would refuse a file, 2 if the folder
    /// holds no data set at all.
    #[command(after_help = "Example:\n  cakes dataset check data/hippocampus")]
    Check {
        /// Folder with dataset.json, imagesTr and labelsTr.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// # Errors
/// The folder holds no readable dataset.json.
pub fn run(global: &GlobalArguments, command: &DatasetCommand) -> Result<Outcome, CommandError> {
    let DatasetCommand::Check { folder } = command;
    let bar = ProgressBar::new(0).with_style(bar_style("{bar:30} {pos}/{len} cases"));
    let checked = check_folder(folder, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = checked.map_err(|error| CommandError::invalid(error.to_string()))?;
    output::print(global.output, &report, Report::to_string)?;
    Ok(if report.has_errors() { Outcome::Failed } else { Outcome::Done })
}
