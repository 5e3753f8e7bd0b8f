//! How far a job is and how long it will still take.

use std::time::Duration;

use cakes::frame::{Phase, Quality};
use cakes::spec::TrainingSpec;
use cakes_proto::v1;

/// Weight of the newest measurement in the running means.
const NEWEST_WEIGHT: f64 = 0.3;

/// What is known of a job's way, from its trainer's events.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// From the job; without it the time for validations is not foreseen.
    training: Option<TrainingSpec>,
    steps_total: u64,
    step: u64,
    loss: f64,
    learning_rate: f64,
    samples_per_s: f64,
    /// Of the last validation.
    quality: Option<Quality>,
    phase: Option<(Phase, Duration)>,
    /// Last step of the current stretch of training, and when it ended.
    step_done: Option<(u64, Duration)>,
    step_s: Option<f64>,
    validation_s: Option<f64>,
}

impl Progress {
    pub fn new(training: Option<TrainingSpec>) -> Self {
        let steps_total = training.as_ref().map_or(0, TrainingSpec::steps_total);
        Progress { training, steps_total, ..Progress::default() }
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    pub fn ready(&mut self, steps_total: u64, resumed_step: u64) {
        self.steps_total = steps_total;
        self.step = resumed_step;
    }

    pub fn enter(&mut self, phase: Phase, now: Duration) {
        if let Some((Phase::Validating, since)) = self.phase {
            blend(&mut self.validation_s, now.saturating_sub(since).as_secs_f64());
        }
        self.step_done = (phase == Phase::Training).then_some((self.step, now));
        self.phase = Some((phase, now));
    }

    pub fn stepped(&mut self, step: u64, loss: f64, learning_rate: f64, samples_per_s: f64, now: Duration) {
        if let Some((before, at)) = self.step_done {
            let steps = step.saturating_sub(before).max(1) as f64;
            blend(&mut self.step_s, now.saturating_sub(at).as_secs_f64() / steps);
        }
        self.step_done = Some((step, now));
        (self.step, self.loss, self.learning_rate) = (step, loss, learning_rate);
        self.samples_per_s = samples_per_s;
    }

    pub fn validated(&mut self, quality: Quality) {
        self.quality = Some(quality);
    }

    /// Estimated time to the end, validations included; none before the first step.
    fn remaining_s(&self, now: Duration) -> Option<f64> {
        let steps_left = self.steps_total.saturating_sub(self.step) as f64;
        let training_s = steps_left * self.step_s?;
        let validation_s = self.validation_s.unwrap_or(0.0);
        let mut validating_s = self.validations_left() as f64 * validation_s;
        if let Some((Phase::Validating, since)) = self.phase {
            validating_s += (validation_s - now.saturating_sub(since).as_secs_f64()).max(0.0);
        }
        Some(training_s + validating_s)
    }

    /// Validations behind epochs that have not ended yet.
    fn validations_left(&self) -> u64 {
        let Some(training) = &self.training else { return 0 };
        let epochs = u64::from(training.epochs);
        let every = u64::from(training.validate_every_epochs.max(1));
        let done = (self.step / u64::from(training.steps_per_epoch.max(1))).min(epochs);
        let last_is_extra = !epochs.is_multiple_of(every) && done < epochs;
        epochs / every - done / every + u64::from(last_is_extra)
    }

    pub fn to_wire(&self, checkpoint_step: u64, now: Duration) -> v1::JobProgress {
        let quality = self.quality.as_ref();
        v1::JobProgress {
            step: self.step,
            step_count: self.steps_total,
            loss: self.loss,
            learning_rate: self.learning_rate,
            samples_per_s: self.samples_per_s,
            mean_dice: match quality {
                Some(Quality::Segmentation(quality)) => Some(quality.mean_dice),
                Some(Quality::Classification(_)) | None => None,
            },
            quality: quality.map(Quality::value),
            quality_metric: quality.map(Quality::metric).unwrap_or_default().to_owned(),
            remaining_s: self.remaining_s(now),
            phase: self.phase.map_or("preparing", |(phase, _)| phase_name(phase)).to_owned(),
            checkpoint_step,
        }
    }
}

fn blend(mean: &mut Option<f64>, newest: f64) {
    *mean = Some(mean.map_or(newest, |old| old + NEWEST_WEIGHT * (newest - old)));
}

/// What a section is called in front of people.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::LoadingData => "loading data",
        Phase::Building => "building",
        Phase::Training => "training",
        Phase::Validating => "validating",
        Phase::SavingCheckpoint => "saving checkpoint",
        Phase::MeasuringLatency => "measuring latency",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_counts_steps_and_the_validations_still_to_come() {
        let training = TrainingSpec {
            epochs: 5,
            steps_per_epoch: 10,
            validate_every_epochs: 2,
            ..TrainingSpec::default()
        };
        let at = Duration::from_secs;
        let mut progress = Progress::new(Some(training));
        progress.ready(50, 0);
        assert_eq!(progress.to_wire(0, at(0)).remaining_s, None);
        progress.enter(Phase::Training, at(0));
        progress.stepped(20, 0.5, 0.1, 4.0, at(40));
        progress.enter(Phase::Validating, at(40));
        progress.enter(Phase::Training, at(47));
        // 30 steps of 2 s, validations of 7 s behind epochs 4 and 5.
        assert_eq!(progress.to_wire(0, at(47)).remaining_s, Some(60.0 + 14.0));
        progress.stepped(50, 0.5, 0.1, 4.0, at(107));
        progress.enter(Phase::Validating, at(107));
        assert_eq!(progress.to_wire(0, at(109)).remaining_s, Some(5.0));
    }
}
