//! The watchdog of the training itself.
//!
//! That the daemon renews a lease proves only that the daemon lives. Each
//! section of a trainer's life has a time limit of its own; in training the
//! clock starts anew with every step.

use std::time::Duration;

use cakes::frame::Phase;

use super::progress::phase_name;

/// Longest time without progress, per section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionLimits {
    pub loading: Duration,
    pub building: Duration,
    /// Between two reported steps.
    pub step: Duration,
    pub validation: Duration,
    pub checkpoint: Duration,
    pub latency: Duration,
}

impl SectionLimits {
    /// The limit of a section and the setting that holds it.
    fn of(&self, phase: Phase) -> (Duration, &'static str) {
        match phase {
            Phase::LoadingData => (self.loading, "--loading-limit"),
            Phase::Building => (self.building, "--building-limit"),
            Phase::Training => (self.step, "--step-limit"),
            Phase::Validating => (self.validation, "--validation-limit"),
            Phase::SavingCheckpoint => (self.checkpoint, "--checkpoint-limit"),
            Phase::MeasuringLatency => (self.latency, "--latency-limit"),
        }
    }
}

/// The section that a trainer is in, since its last sign of progress.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    phase: Phase,
    since: Duration,
}

impl Section {
    /// A trainer that was just started counts as loading.
    pub fn new(now: Duration) -> Self {
        Section { phase: Phase::LoadingData, since: now }
    }

    pub fn enter(&mut self, phase: Phase, now: Duration) {
        *self = Section { phase, since: now };
    }

    pub fn progressed(&mut self, now: Duration) {
        self.since = now;
    }

    /// What is wrong, once the section takes longer than it may.
    pub fn overdue(&self, limits: &SectionLimits, now: Duration) -> Option<String> {
        let (limit, setting) = limits.of(self.phase);
        if now.saturating_sub(self.since) < limit {
            return None;
        }
        Some(format!(
            "the trainer made no progress for {} while {} and was killed; raise {setting} if this job may take longer",
            humantime::format_duration(limit),
            phase_name(self.phase)
        ))
    }
}
