//! Who is told what a job does: the daemon in frames, or a person in lines.

use std::io::Write;
use std::path::Path;

use cakes::frame::{TrainerEvent, encode};

use crate::TrainerError;

/// Receives the events of a job.
pub trait Reporter {
    /// # Errors
    /// The receiver is gone, or the disk is full.
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError>;
}

/// Frames for the daemon.
#[derive(Debug)]
pub struct Frames<W>(pub W);

impl<W: Write> Reporter for Frames<W> {
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        let frame = encode(event).map_err(|error| TrainerError::Report(error.to_string()))?;
        let sent = self.0.write_all(&frame).and_then(|()| self.0.flush());
        sent.map_err(|error| TrainerError::io("cannot report to the daemon", error))
    }
}

/// Lines for a person, and the job's results as files.
#[derive(Debug)]
pub struct Lines<'a> {
    pub folder: &'a Path,
    pub steps_total: u64,
}

impl Reporter for Lines<'_> {
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        match event {
            TrainerEvent::Ready { device, libtorch, param_count, steps_total, resumed_step, .. } => {
                self.steps_total = *steps_total;
                println!("libtorch {libtorch} on {device}, {param_count} parameters, {steps_total} steps");
                if *resumed_step > 0 {
                    println!("resumed behind step {resumed_step}");
                }
            }
            TrainerEvent::Phase(_) => {}
            TrainerEvent::Step { step, loss, learning_rate, samples_per_s, data_wait_share } => println!(
                "step {step:>6}/{}  loss {loss:.4}  rate {learning_rate:.2e}  {samples_per_s:.2} samples/s  data wait {:.1} %",
                self.steps_total,
                data_wait_share * 100.0
            ),
            TrainerEvent::Validation { epoch, quality, .. } => {
                let classes: Vec<String> =
                    quality.dice_per_class.iter().map(|dice| format!("{dice:.4}")).collect();
                println!(
                    "epoch {epoch}: mean Dice {:.4} ({}) over {} cases",
                    quality.mean_dice,
                    classes.join(" "),
                    quality.case_count
                );
            }
            TrainerEvent::Checkpoint { directory, bytes, .. } => {
                println!("saved {directory} ({:.1} MB)", *bytes as f64 / 1e6)
            }
            TrainerEvent::Scores(scores) => self.write("scores.json", scores)?,
            TrainerEvent::Completed(summary) => {
                self.write("summary.json", summary)?;
                let latency =
                    summary.latency_ms.map_or_else(String::new, |ms| format!(", {ms:.2} ms per patch"));
                println!(
                    "done: mean Dice {:.4}, {} parameters, {} MACs{latency}, {:.0} s, peak memory {:.0} MiB",
                    summary.quality.mean_dice,
                    summary.param_count,
                    summary.mac_count,
                    summary.train_duration_s,
                    summary.peak_memory_mib
                );
            }
            TrainerEvent::Failed { message, .. } => eprintln!("error: {message}"),
        }
        Ok(())
    }
}

impl Lines<'_> {
    fn write<T: serde::Serialize>(&self, name: &str, value: &T) -> Result<(), TrainerError> {
        let path = self.folder.join(name);
        let text = serde_json::to_vec_pretty(value).unwrap_or_default();
        std::fs::write(&path, text)
            .map_err(|error| TrainerError::io(format!("cannot write {}", path.display()), error))
    }
}
