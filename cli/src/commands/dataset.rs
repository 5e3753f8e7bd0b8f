//! `cakes dataset`: data sets on this machine, without a server.

use std::path::PathBuf;

use cakes_data::DataError;
use cakes_data::check::{Report, SampleOptions, SampleReport, check_folder, check_samples, is_sample_set};
use cakes_data::samples::CacheOptions;
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
    /// Decathlon; every array of an .npz archive or a folder of .npy files; every
    /// clip of a folder with a folder of video files per class, or of a list with
    /// FILE CLASS or FOLDER FRAMES CLASS in a line. Video needs FFmpeg. Arrays are
    /// decoded into a temporary folder (below TMPDIR), which is removed at the end.
    /// Exit code 1 if training would refuse a file, 2 if there is no data set at all.
    #[command(after_help = EXAMPLES)]
    Check {
        /// A folder, an .npz archive or a list; a list's clips lie beside it.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Samples of a class each that may be unreadable.
        #[arg(long, value_name = "N", default_value_t = 0)]
        tolerate: usize,
        /// How a list's frames are named by their number, from 1.
        #[arg(long, value_name = "PATTERN", default_value = "{:05}.jpg")]
        pattern: String,
    },
}

const EXAMPLES: &str = "Examples:
  cakes dataset check data/hippocampus
  cakes dataset check data/adrenalmnist3d.npz
  cakes dataset check data/videos --tolerate 2
  cakes dataset check data/something/train.txt --pattern '{:05}.jpg'";

/// # Errors
/// There is no data set at the path.
pub fn run(global: &GlobalArguments, command: &DatasetCommand) -> Result<Outcome, CommandError> {
    let DatasetCommand::Check { path, tolerate, pattern } = command;
    let has_errors = if is_sample_set(path) {
        // A training keeps what it decoded, a look at the data leaves nothing behind.
        let scratch = tempfile::tempdir().map_err(|error| {
            let folder = std::env::temp_dir();
            CommandError::invalid(format!("{}: {error}; set TMPDIR to another folder", folder.display()))
        })?;
        let cache = CacheOptions { dir: Some(scratch.path().to_owned()), ..CacheOptions::default() };
        let options = SampleOptions { tolerate: *tolerate, pattern: pattern.clone(), cache };
        let report = with_bar("samples", |progress| check_samples(path, &options, progress))?;
        output::print(global.output, &report, SampleReport::to_string)?;
        report.has_errors()
    } else {
        let report = with_bar("cases", |progress| check_folder(path, progress))?;
        output::print(global.output, &report, Report::to_string)?;
        report.has_errors()
    };
    Ok(if has_errors { Outcome::Failed } else { Outcome::Done })
}

/// Shows how much of a check is done.
fn with_bar<T>(
    what: &str,
    check: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> Result<T, DataError>,
) -> Result<T, CommandError> {
    let bar = ProgressBar::new(0).with_style(bar_style(&format!("{{bar:30}} {{pos}}/{{len}} {what}")));
    let checked = check(&|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    checked.map_err(|error| CommandError::invalid(error.to_string()))
}
