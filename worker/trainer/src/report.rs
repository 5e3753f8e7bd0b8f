//! Who is told what a job does: the daemon in frames, or a person in lines.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use cakes::frame::{Phase, Quality, Summary, TrainerEvent, encode};

use crate::TrainerError;

/// Receives the events of a job.
pub trait Reporter {
    /// # Errors
    /// The receiver is gone, or the disk is full.
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError>;

    /// Takes a line for the log, which the daemon reads from standard error.
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    /// Something begins that a trace shows, within what began before and has not ended.
    ///
    /// # Errors
    /// The receiver is gone.
    fn begin(&mut self, _name: &str, _numbers: &[(&str, u64)]) -> Result<(), TrainerError> {
        Ok(())
    }

    /// What began last ends.
    ///
    /// # Errors
    /// The receiver is gone.
    fn end(&mut self) -> Result<(), TrainerError> {
        Ok(())
    }

    /// Something that a trace shows has just ended, and took so long.
    ///
    /// # Errors
    /// The receiver is gone.
    fn took(&mut self, _name: &str, _length: Duration, _numbers: &[(&str, u64)]) -> Result<(), TrainerError> {
        Ok(())
    }
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

/// For a process of which only failures are wanted.
#[derive(Debug)]
pub struct FailuresAlone<R>(pub R);

impl<R: Reporter> Reporter for FailuresAlone<R> {
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        match event {
            TrainerEvent::Failed { .. } => self.0.report(event),
            _ => Ok(()),
        }
    }

    fn note(&mut self, _: &str) {}
}

/// How often a line about steps is printed where lines are kept (a file, a pipe).
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Lines for a person, and the job's results as files. On a terminal the steps
/// are one line that changes; elsewhere there is a line every ten seconds.
#[derive(Debug)]
pub struct Lines<'a> {
    folder: &'a Path,
    terminal: bool,
    steps_total: u64,
    /// When and behind which step the steps began.
    began: Option<(Instant, u64)>,
    printed: Option<Instant>,
    /// Whether the cursor stands behind a line that changes.
    open_line: bool,
}

impl<'a> Lines<'a> {
    /// Results go below `folder`.
    pub fn new(folder: &'a Path) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Lines { folder, terminal, steps_total: 0, began: None, printed: None, open_line: false }
    }

    fn line(&mut self, text: &str) {
        if std::mem::take(&mut self.open_line) {
            print!("\r\x1b[2K");
        }
        println!("{text}");
    }

    fn step(&mut self, step: u64, loss: f64, learning_rate: f64, speed: &str) {
        let now = Instant::now();
        let (start, first) = *self.began.get_or_insert((now, step));
        let left = match step - first.min(step) {
            0 => String::new(),
            done => {
                let per_step = now.duration_since(start).as_secs_f64() / done as f64;
                let left_s = per_step * self.steps_total.saturating_sub(step) as f64;
                format!("  {} left", readable(Duration::from_secs_f64(left_s)))
            }
        };
        let text = format!(
            "step {step:>6}/{}  loss {loss:.4}  rate {learning_rate:.2e}  {speed}{left}",
            self.steps_total
        );
        if self.terminal {
            print!("\r\x1b[2K{text}");
            // A terminal that does not take it is not worth failing for.
            let _ = std::io::stdout().flush();
            self.open_line = true;
        } else if self.printed.is_none_or(|before| now.duration_since(before) >= LINE_INTERVAL) {
            self.printed = Some(now);
            println!("{text}");
        }
    }

    fn summary(&mut self, summary: &Summary) {
        let latency = summary.latency_ms.map_or_else(String::new, |ms| format!(", {ms:.2} ms per patch"));
        self.line(&format!(
            "done: {} {:.4}, {} parameters, {:.1} million MACs{latency}, {}, peak memory {:.0} MiB",
            summary.quality.metric(),
            summary.quality.value(),
            summary.param_count,
            summary.mac_count as f64 / 1e6,
            readable(Duration::from_secs_f64(summary.train_duration_s)),
            summary.peak_memory_mib
        ));
    }

    fn write<T: serde::Serialize>(&mut self, name: &str, value: &T) -> Result<(), TrainerError> {
        let path = self.folder.join(name);
        let text =
            serde_json::to_vec_pretty(value).map_err(|error| TrainerError::Report(error.to_string()))?;
        std::fs::write(&path, text)
            .map_err(|error| TrainerError::io(format!("cannot write {}", path.display()), error))?;
        self.line(&format!("wrote {}", path.display()));
        Ok(())
    }
}

impl Reporter for Lines<'_> {
    fn note(&mut self, text: &str) {
        self.line(text);
    }

    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        match event {
            TrainerEvent::Ready { device, libtorch, param_count, steps_total, resumed_step, .. } => {
                self.steps_total = *steps_total;
                self.line(&format!(
                    "libtorch {libtorch} on {device}, {param_count} parameters, {steps_total} steps"
                ));
                if *resumed_step > 0 {
                    self.line(&format!("resumed behind step {resumed_step}"));
                }
            }
            TrainerEvent::Data(content) => self.write("data.json", content)?,
            TrainerEvent::Phase(Phase::LoadingData) => self.line("loading the data set"),
            TrainerEvent::Phase(_) => {}
            TrainerEvent::Step { step, loss, learning_rate, samples_per_s, data_wait_share } => {
                let speed = speed(*samples_per_s, *data_wait_share);
                self.step(*step, *loss, *learning_rate, &speed);
            }
            TrainerEvent::Validation { epoch, quality, .. } => {
                self.line(&format!("epoch {epoch}: {}", readable_quality(quality)));
            }
            TrainerEvent::Checkpoint { directory, bytes, stall_s, save_s, .. } => {
                self.line(&format!(
                    "saved {directory} ({:.1} MB in {save_s:.2} s, training held for {:.0} ms)",
                    *bytes as f64 / 1e6,
                    stall_s * 1e3
                ));
            }
            TrainerEvent::Scores(scores) => self.write("scores.json", scores)?,
            TrainerEvent::Latency(table) => self.write("latency.json", table)?,
            TrainerEvent::Completed(summary) => {
                self.summary(summary);
                self.write("summary.json", summary)?;
            }
            TrainerEvent::Failed { message, .. } => {
                if std::mem::take(&mut self.open_line) {
                    println!();
                }
                eprintln!("error: {message}");
            }
            TrainerEvent::Meets { .. } | TrainerEvent::SpanBegan { .. } | TrainerEvent::SpanEnded { .. } => {}
        }
        Ok(())
    }
}

/// Waiting is worth a word only where it costs something.
fn speed(samples_per_s: f64, data_wait_share: f64) -> String {
    match data_wait_share {
        share if share < 0.005 => format!("{samples_per_s:.2} samples/s"),
        share => format!("{samples_per_s:.2} samples/s ({:.1} % waiting for data)", share * 100.0),
    }
}

/// `42 s`, `3 min 05 s` or `2 h 10 min`.
fn readable(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn readable_quality(quality: &Quality) -> String {
    match quality {
        Quality::Segmentation(quality) => {
            let classes: Vec<String> =
                quality.dice_per_class.iter().map(|dice| format!("{dice:.4}")).collect();
            let (mean, cases) = (quality.mean_dice, quality.case_count);
            format!("mean Dice {mean:.4} ({}) over {cases} cases", classes.join(" "))
        }
        Quality::Classification(quality) => {
            let auc = quality.auc.map_or_else(String::new, |auc| format!(", AUC {auc:.4}"));
            format!(
                "top-1 {:.4}, top-5 {:.4}, balanced accuracy {:.4}{auc}, loss {:.4} over {} samples",
                quality.top1, quality.top5, quality.balanced_accuracy, quality.loss, quality.sample_count
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        let of = |seconds| readable(Duration::from_secs(seconds));
        assert_eq!([of(5), of(185), of(7800)], ["5 s", "3 min 05 s", "2 h 10 min"]);
    }
}
