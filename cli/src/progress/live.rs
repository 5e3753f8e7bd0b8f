//! Bars on a terminal.
//!
//! ```text
//! ✓ supernet             Dice 0.853   3 min 05 s
//! phantoms  retraining  3 of 8 jobs done  5 min 12 s
//!   budget 0.5 seed 0    ━━━━━━━━╸───────── 120/400  w1  loss 0.312  Dice 0.84  21/s  1 min left
//!   4 waiting: budget 0.7 seed 0, c3d seed 0, …
//! ```

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use super::{Snapshot, bar_style, text};

/// The part of the terminal that is drawn again and again; what has ended
/// scrolls away above it.
pub struct Board {
    all: MultiProgress,
    head: ProgressBar,
    waiting: ProgressBar,
    bars: BTreeMap<String, ProgressBar>,
    ended: BTreeSet<String>,
}

impl Default for Board {
    fn default() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }
}

impl Board {
    pub fn on(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let line = |template| ProgressBar::new(0).with_style(bar_style(template));
        let head = all.add(line("{wide_msg}"));
        let waiting = all.add(line("{wide_msg}"));
        Board { all, head, waiting, bars: BTreeMap::new(), ended: BTreeSet::new() }
    }

    pub fn show(&mut self, snapshot: &Snapshot<'_>, now: DateTime<Utc>) {
        for job in snapshot.jobs {
            if !text::has_ended(job) {
                self.ended.remove(&job.id);
            } else if self.ended.insert(job.id.clone()) {
                self.say(&text::ended(job, now));
            }
        }
        self.head.set_message(text::headline(snapshot, now));
        self.waiting.set_message(text::waiting(snapshot.jobs).unwrap_or_default());
        let active: Vec<&cakes_proto::v1::Job> =
            snapshot.jobs.iter().filter(|job| text::is_active(job)).collect();
        self.bars.retain(|id, bar| {
            let stays = active.iter().any(|job| job.id == *id);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        for job in active {
            let bar = self.bars.entry(job.id.clone()).or_insert_with(|| {
                let style = bar_style("  {prefix:<26} {bar:18.cyan} {pos:>5}/{len:<5} {wide_msg}");
                self.all.insert_before(&self.waiting, ProgressBar::new(1).with_style(style))
            });
            let progress = job.progress.clone().unwrap_or_default();
            bar.set_length(progress.step_count.max(1));
            bar.set_position(progress.step);
            bar.set_prefix(job.label.clone());
            bar.set_message(text::active(job));
        }
        if snapshot.has_ended {
            self.waiting.finish_and_clear();
            self.head.finish();
        }
    }

    /// A line above the bars.
    pub fn say(&self, text: &str) {
        // A terminal that went away is no reason to stop.
        let _ = self.all.println(text);
    }
}

#[cfg(test)]
mod tests {
    use cakes_proto::v1::{Job, JobProgress, JobResult, JobState};
    use indicatif::InMemoryTerm;

    use super::*;

    fn job(id: &str, label: &str, state: JobState, step: u64) -> Job {
        let progress = JobProgress {
            step,
            step_count: 40,
            loss: 0.3121,
            phase: "training".into(),
            ..Default::default()
        };
        Job {
            id: id.into(),
            label: label.into(),
            state: state.into(),
            worker_id: "w1".into(),
            progress: (step > 0).then_some(progress),
            result: (state == JobState::Succeeded).then(|| JobResult {
                quality: 0.871,
                quality_metric: "mean_dice".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn screen(term: &InMemoryTerm, board: &mut Board, jobs: &[Job]) -> Vec<String> {
        let has_ended = jobs.iter().all(text::has_ended);
        let snapshot = Snapshot {
            name: "phantoms",
            state: "retraining".into(),
            reason: "",
            start_time: DateTime::from_timestamp(0, 0),
            end_time: None,
            has_ended,
            jobs,
        };
        board.show(&snapshot, DateTime::from_timestamp(65, 0).unwrap());
        term.contents().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_ended_stands_above_the_headline_and_bars_come_and_go() {
        let term = InMemoryTerm::new(20, 100);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
        let mut board = Board::on(target);
        let pause = || std::thread::sleep(std::time::Duration::from_millis(20));

        let lines = screen(
            &term,
            &mut board,
            &[job("a", "supernet", JobState::Running, 20), job("b", "c3d seed 0", JobState::Queued, 0)],
        );
        assert_eq!(lines[0], "phantoms  retraining  0 of 2 jobs done  1 min 05 s");
        assert!(lines[1].starts_with("  supernet ") && lines[1].contains("20/40"), "{lines:#?}");
        assert!(lines[1].ends_with("w1  loss 0.312"), "{lines:#?}");
        assert_eq!(lines[2], "  1 waiting: c3d seed 0");

        pause();
        let lines = screen(
            &term,
            &mut board,
            &[job("a", "supernet", JobState::Succeeded, 40), job("b", "c3d seed 0", JobState::Running, 1)],
        );
        assert!(lines[0].starts_with("✓ supernet") && lines[0].ends_with("Dice 0.871"), "{lines:#?}");
        assert!(lines[1].contains("1 of 2 jobs done"), "{lines:#?}");
        assert!(lines[2].starts_with("  c3d seed 0") && lines[2].contains("1/40"), "{lines:#?}");

        pause();
        let lines = screen(
            &term,
            &mut board,
            &[job("a", "supernet", JobState::Succeeded, 40), job("b", "c3d seed 0", JobState::Failed, 3)],
        );
        assert!(lines[1].starts_with("✗ c3d seed 0") && lines[1].ends_with("failed"), "{lines:#?}");
        assert!(lines[2].contains("2 of 2 jobs done"), "{lines:#?}");
        assert_eq!(lines.len(), 3, "{lines:#?}");
    }
}
