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
use indicatif::{MultiProgress, ProgressBar};

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
        let all = MultiProgress::new();
        let line = |template| ProgressBar::new(0).with_style(bar_style(template));
        let head = all.add(line("{wide_msg}"));
        let waiting = all.add(line("{wide_msg}"));
        Board { all, head, waiting, bars: BTreeMap::new(), ended: BTreeSet::new() }
    }
}

impl Board {
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
                let style = bar_style("  {prefix:<22} {bar:20.cyan} {pos:>5}/{len:<5} {wide_msg}");
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
