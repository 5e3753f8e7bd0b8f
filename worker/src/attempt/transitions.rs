//! The transitions of an attempt: who may go where, and what that asks for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cakes::frame::{Summary, TRAINER_PROTOCOL, TrainerEvent};
use cakes::metric::Metric;
use cakes_proto::v1::{Environment, FailureClass, MetricPoint};

use super::curves::{composition_metrics, quality_metrics};
use super::event::class_to_wire;
use super::exit::{CANNOT_BE_KILLED, KILL_LIMIT, classify};
use super::follower::wait_for_others;
use super::{
    Attempt, Completion, Conclusion, Effect, Ending, Exit, Failure, LocalCheckpoint, Outcome, State,
    StopReason, StoredCheckpoint, stamp,
};
use crate::clock::Now;

impl Attempt {
    pub(super) fn prepared(&mut self, now: Now) {
        if matches!(self.state, State::Preparing { .. }) {
            self.state = State::Running;
            self.section = super::Section::new(now.since_boot);
        }
    }

    pub(super) fn trainer_said(&mut self, event: TrainerEvent, now: Now, effects: &mut Vec<Effect>) {
        // Behind its last word, or when nobody listens any more, it says nothing.
        if !matches!(self.state, State::Running | State::Stopping { .. }) {
            return;
        }
        let at = now.since_boot;
        match event {
            TrainerEvent::Ready {
                protocol,
                device,
                libtorch,
                param_count,
                steps_total,
                resumed_step,
                ..
            } => {
                if let Err(problem) = self.check_ready(protocol, resumed_step) {
                    return self.leave(Ending::Fail(Failure::infrastructure(problem)), now);
                }
                self.note(
                    format!("training on {device}, libtorch {libtorch}, {param_count} parameters"),
                    now,
                );
                if resumed_step > 0 {
                    self.note(format!("resumed from step {resumed_step}"), now);
                }
                self.outbox.push_environment(Environment {
                    libtorch,
                    device: device.clone(),
                    worker_version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..Environment::default()
                });
                self.progress.ready(steps_total, resumed_step);
                self.section.progressed(at);
                self.device = Some(device);
            }
            TrainerEvent::Meets { port } => {
                if let Some(gang) = &mut self.gang {
                    gang.address = Some(format!("{}:{port}", gang.host));
                }
                self.section.progressed(at);
            }
            TrainerEvent::Data(content) => {
                let size = match content.file_count {
                    0 => "generated".to_owned(),
                    files => format!("of {files} files"),
                };
                self.note(format!("data set {} {size}", content.sha256), now);
                self.outbox.push_environment(Environment {
                    data_sha256: content.sha256,
                    data_file_count: content.file_count,
                    data_bytes: content.bytes,
                    ..Environment::default()
                });
                self.section.progressed(at);
            }
            TrainerEvent::Phase(phase) => {
                self.progress.enter(phase, at);
                self.section.enter(phase, at);
            }
            TrainerEvent::Step { step, loss, learning_rate, samples_per_s, data_wait_share } => {
                if self.device.is_none() || step <= self.progress.step() {
                    let problem = format!("step {step} was reported out of order");
                    return self.bad_frame(&problem, now, effects);
                }
                self.progress.stepped(step, loss, learning_rate, samples_per_s, at);
                self.section.progressed(at);
                let values = [
                    (Metric::Loss, loss),
                    (Metric::LearningRate, learning_rate),
                    (Metric::SamplesPerSecond, samples_per_s),
                    (Metric::DataWaitShare, data_wait_share),
                ];
                self.metric(step, values.map(|(metric, value)| (metric.key().to_owned(), value)).into(), now);
            }
            TrainerEvent::Validation { step, quality, layers, .. } => {
                self.metric(step, quality_metrics(&quality), now);
                for layer in &layers {
                    self.metric(step, composition_metrics(layer), now);
                }
                self.progress.validated(quality);
                self.section.progressed(at);
            }
            TrainerEvent::Checkpoint { step, directory, manifest_sha256, bytes, stall_s, save_s } => {
                let directory = PathBuf::from(directory);
                if let Err(problem) = self.check_checkpoint(step, &directory) {
                    return self.bad_frame(&problem, now, effects);
                }
                self.section.progressed(at);
                let values = [(Metric::CheckpointStall, stall_s), (Metric::CheckpointSave, save_s)];
                self.metric(step, values.map(|(metric, value)| (metric.key().to_owned(), value)).into(), now);
                let checkpoint = LocalCheckpoint { step, directory, manifest_sha256, bytes };
                effects.extend(self.uploads.add(checkpoint, at).map(Effect::RemoveLocal));
            }
            TrainerEvent::Scores(scores) => self.scores = Some(*scores),
            TrainerEvent::Latency(latency) => self.latency = Some(*latency),
            TrainerEvent::Completed(summary) => self.completed(summary, now),
            TrainerEvent::Failed { class, message } => {
                let failure = Failure::new(class_to_wire(class), message);
                self.leave(Ending::Fail(failure), now);
            }
            // Whoever traces has heard them.
            TrainerEvent::SpanBegan { .. } | TrainerEvent::SpanEnded { .. } => {}
        }
    }

    fn check_ready(&self, protocol: u32, resumed_step: u64) -> Result<(), String> {
        if protocol != TRAINER_PROTOCOL {
            return Err(format!(
                "the trainer speaks protocol {protocol}, this daemon {TRAINER_PROTOCOL}; install the two of one version"
            ));
        }
        if resumed_step != self.resume_step {
            return Err(format!(
                "the trainer went on from step {resumed_step}, but the checkpoint given to it is of step {}",
                self.resume_step
            ));
        }
        Ok(())
    }

    /// A folder may be in use until its checkpoint is stored, and is deleted then,
    /// so it must be a new one and no other.
    fn check_checkpoint(&self, step: u64, directory: &Path) -> Result<(), String> {
        if directory != self.checkpoints.join(format!("step-{step:09}")) {
            return Err(format!("the checkpoint of step {step} stands in {}", directory.display()));
        }
        if step <= self.uploads.saved_step() {
            return Err(format!("the checkpoint of step {step} was reported out of order"));
        }
        Ok(())
    }

    fn metric(&mut self, step: u64, values: HashMap<String, f64>, now: Now) {
        self.outbox.push_metric(MetricPoint { step, values, time: Some(stamp(now)) });
    }

    fn completed(&mut self, summary: Summary, now: Now) {
        let (saved, done) = (self.uploads.saved_step(), summary.step);
        let ending = if saved == done {
            Ending::Complete(Box::new(summary))
        } else {
            Ending::Fail(Failure::infrastructure(format!(
                "the trainer completed step {done}, but its last checkpoint is of step {saved}"
            )))
        };
        self.leave(ending, now);
    }

    /// The trainer said its last word; it has a moment to exit by itself.
    fn leave(&mut self, ending: Ending, now: Now) {
        // Whatever a cancelled trainer ends with, its job ends as cancelled.
        let cancelled = matches!(self.state, State::Stopping { why: StopReason::Cancelled, .. });
        let ending = if cancelled { Ending::Fail(StopReason::Cancelled.failure()) } else { ending };
        let kill_at = now.since_boot + self.patience.exit_grace;
        self.state = State::Leaving { ending, kill_at };
    }

    pub(super) fn bad_frame(&mut self, problem: &str, now: Now, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::Running | State::Stopping { .. }) {
            return;
        }
        let failure =
            Failure::infrastructure(format!("the trainer does not keep to the protocol: {problem}"));
        self.leave(Ending::Fail(failure), now);
        self.kill(now, effects);
    }

    /// Ends a trainer that leaks before the kernel looks for somebody to kill.
    pub(super) fn takes_memory(&mut self, mib: u64, now: Now, effects: &mut Vec<Effect>) {
        let limit = self.patience.memory_mib_max;
        if mib <= limit || !matches!(self.state, State::Running | State::Stopping { .. }) {
            return;
        }
        let message = format!(
            "the trainer took {mib} MiB of memory, more than {limit}, and was killed; use a smaller patch or batch, \
             a larger machine, or raise --memory-limit-mib"
        );
        self.leave(Ending::Fail(Failure::new(FailureClass::Resource, message)), now);
        self.kill(now, effects);
    }

    /// Asks for an end before the job is done. A cancellation outweighs the rest.
    pub(super) fn stop(&mut self, why: StopReason, now: Now, effects: &mut Vec<Effect>) {
        let at = now.since_boot;
        match &mut self.state {
            State::Preparing { .. } => {
                effects.push(Effect::AbandonPreparation);
                self.deliver(Ending::Fail(why.failure()), now);
            }
            State::Running => {
                self.note(why.failure().message, now);
                let kill_at = at + self.grace(why);
                self.state = State::Stopping { why, kill_at };
                // Since the last checkpoint nothing was done that is worth saving.
                if why == StopReason::Cancelled || self.progress.step() > self.uploads.saved_step() {
                    effects.push(Effect::SendStop);
                } else {
                    self.kill(now, effects);
                }
            }
            State::Stopping { why: current, kill_at } => {
                if why == StopReason::Cancelled && *current != StopReason::Cancelled {
                    *current = why;
                    *kill_at = (*kill_at).min(at + self.patience.cancel_grace);
                }
            }
            State::Leaving { ending, .. } | State::Delivering { ending, .. } => {
                if why == StopReason::Cancelled {
                    *ending = Ending::Fail(why.failure());
                    // Nobody is looked for who was the cause.
                    self.gang.iter_mut().for_each(|gang| gang.blame_at = None);
                }
            }
            State::Concluding { .. } | State::Dropping { .. } | State::Ended(_) => {}
        }
    }

    /// The daemon ends at `deadline`. What is left of the time goes to saving
    /// first, then to delivering; the rest is for the last call.
    pub(super) fn drain(&mut self, deadline: Duration, now: Now, effects: &mut Vec<Effect>) {
        let left = deadline.saturating_sub(now.since_boot);
        self.deliver_by = Some(now.since_boot + left.mul_f64(0.9));
        self.stop(StopReason::Drained, now, effects);
        let save_by = now.since_boot + left.mul_f64(0.7);
        if let State::Stopping { kill_at, .. } | State::Leaving { kill_at, .. } = &mut self.state {
            *kill_at = save_by.min(*kill_at);
        }
    }

    fn grace(&self, why: StopReason) -> Duration {
        match why {
            StopReason::Cancelled => self.patience.cancel_grace,
            StopReason::Yielded | StopReason::Drained | StopReason::Fenced => self.patience.stop_grace,
        }
    }

    fn kill(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.killed_at.is_none() {
            self.killed_at = Some(now.since_boot);
            effects.push(Effect::Kill);
        }
    }

    /// The kernel does not end the trainer, as when it waits for a broken device or mount.
    /// It will execute nothing more, so the end is told without it.
    fn abandon_trainer(&mut self, now: Now, effects: &mut Vec<Effect>) {
        effects.push(Effect::AbandonTrainer);
        let ending = match &mut self.state {
            State::Leaving { ending: Ending::Fail(failure), .. } => {
                let message = format!("{}; {CANNOT_BE_KILLED}", failure.message);
                Ending::Fail(Failure::new(failure.class, message))
            }
            State::Leaving { ending, .. } => ending.clone(),
            State::Stopping { why: StopReason::Cancelled, .. } => {
                Ending::Fail(StopReason::Cancelled.failure())
            }
            State::Dropping { why } => {
                let why = std::mem::take(why);
                self.state = State::Ended(Outcome::Dropped { why });
                return;
            }
            _ => Ending::Fail(Failure::infrastructure(CANNOT_BE_KILLED)),
        };
        self.note(CANNOT_BE_KILLED, now);
        self.deliver(ending, now);
    }

    pub(super) fn exited(&mut self, exit: &Exit, now: Now) {
        let ending = match &mut self.state {
            // Another member was asked to stop, and all ranks stop behind the same step.
            State::Running if self.gang.is_some() && exit.code == Some(0) => Ending::Fail(Failure::new(
                FailureClass::Lost,
                "another member stopped, and all with it; handed back behind its last checkpoint",
            )),
            State::Running => Ending::Fail(classify(exit)),
            State::Stopping { why, .. } => Ending::Fail(why.failure()),
            State::Leaving { ending, .. } => ending.clone(),
            State::Dropping { why } => {
                let why = std::mem::take(why);
                self.state = State::Ended(Outcome::Dropped { why });
                return;
            }
            State::Preparing { .. }
            | State::Delivering { .. }
            | State::Concluding { .. }
            | State::Ended(_) => return,
        };
        self.deliver(ending, now);
    }

    /// No trainer any more: what is under way is delivered, then the end is told.
    pub(super) fn deliver(&mut self, mut ending: Ending, now: Now) {
        match &ending {
            Ending::Fail(failure) => {
                let first_line = failure.message.lines().next().unwrap_or_default();
                self.note(format!("attempt ended: {first_line}"), now);
            }
            Ending::Complete(summary) => {
                let text = format!(
                    "completed {} steps in {:.0} s, {} {:.4}",
                    summary.step,
                    summary.train_duration_s,
                    summary.quality.metric(),
                    summary.quality.value()
                );
                self.note(text, now);
            }
        }
        let give_up_at = now.since_boot + self.patience.hold;
        if let (Some(gang), Ending::Fail(failure)) = (&mut self.gang, &mut ending) {
            // The others have nothing to deliver.
            gang.blame_at = wait_for_others(failure, &self.lease, Duration::ZERO, now.since_boot);
        }
        self.state = State::Delivering { ending, give_up_at };
    }

    /// Contact again after the lease was in doubt: what waited for it has its
    /// full time from now on.
    pub(super) fn contact_is_back(&mut self, now: Now) {
        if let State::Delivering { give_up_at, .. } = &mut self.state {
            *give_up_at = now.since_boot + self.patience.hold;
        }
    }

    pub(super) fn conclude_if_delivered(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let State::Delivering { ending, give_up_at } = &self.state else { return };
        // A checkpoint that cannot be stored must not keep the job for ever.
        let at = now.since_boot;
        let no_time = at >= *give_up_at || self.deliver_by.is_some_and(|deliver_by| at >= deliver_by);
        let stored = self.uploads.is_idle() || no_time;
        let reported = self.outbox.is_empty() && self.lease.is_held() && !self.report_in_flight;
        // Whoever was the cause says why; then the attempt has ended, and this is not told.
        let blame_at = self.gang.as_ref().and_then(|gang| gang.blame_at);
        let waits = !no_time && blame_at.is_some_and(|blame_at| at < blame_at);
        if waits || !stored || !(reported || self.muted) {
            return;
        }
        let conclusion = match ending.clone() {
            Ending::Fail(failure) => Conclusion::Fail(failure),
            Ending::Complete(summary) => self.completion(*summary),
        };
        let completes = matches!(conclusion, Conclusion::Complete(_));
        self.state = State::Concluding { completes };
        effects.push(Effect::Conclude(conclusion));
    }

    /// A checkpoint is committed at once, unless the completion that names it comes next:
    /// then one call does both.
    pub(super) fn uploaded(&mut self, checkpoint: StoredCheckpoint, bytes: u64, effects: &mut Vec<Effect>) {
        match &self.state {
            State::Leaving { ending: Ending::Complete(summary), .. }
            | State::Delivering { ending: Ending::Complete(summary), .. }
                if summary.step == checkpoint.step =>
            {
                self.uploads.keep_last(checkpoint, bytes);
            }
            _ => effects.push(Effect::Commit { checkpoint, bytes }),
        }
    }

    fn completion(&mut self, summary: Summary) -> Conclusion {
        let with_it = self.uploads.last().map(|(checkpoint, bytes)| (checkpoint, Some(*bytes)));
        let before = self.uploads.stored().map(|checkpoint| (checkpoint, None));
        match with_it.or(before) {
            Some((checkpoint, checkpoint_bytes)) if checkpoint.step == summary.step => {
                Conclusion::Complete(Box::new(Completion {
                    summary,
                    scores: self.scores.take(),
                    latency: self.latency.take(),
                    checkpoint: checkpoint.clone(),
                    checkpoint_bytes,
                    last_seq: self.outbox.last_seq(),
                    device: self.device.clone().unwrap_or_default(),
                }))
            }
            _ => Conclusion::Fail(Failure::infrastructure(format!(
                "the final checkpoint could not be stored: {}",
                self.uploads.last_error().unwrap_or("it took longer than --hold allows")
            ))),
        }
    }

    pub(super) fn concluded(&mut self) {
        if let State::Concluding { completes } = self.state {
            let outcome = if completes { Outcome::Completed } else { Outcome::Failed };
            self.state = State::Ended(outcome);
        }
    }

    /// A call that the coordinator never takes: a fault of one of the two
    /// programs. The attempt ends, and its job learns why.
    pub(super) fn refused(&mut self, call: &'static str, message: &str, now: Now, effects: &mut Vec<Effect>) {
        let failure = Failure::infrastructure(format!("the coordinator refused {call}: {message}"));
        match self.state {
            State::Concluding { completes: true } => {
                self.state = State::Concluding { completes: false };
                effects.push(Effect::Conclude(Conclusion::Fail(failure)));
            }
            State::Concluding { completes: false } => self.drop_attempt(failure.message, now, effects),
            State::Preparing { .. } => {
                self.muted = true;
                effects.push(Effect::AbandonPreparation);
                self.deliver(Ending::Fail(failure), now);
            }
            State::Running | State::Stopping { .. } | State::Leaving { .. } => {
                self.muted = true;
                self.leave(Ending::Fail(failure), now);
                self.kill(now, effects);
            }
            State::Delivering { .. } => {
                self.muted = true;
                self.deliver(Ending::Fail(failure), now);
            }
            State::Dropping { .. } | State::Ended(_) => {}
        }
    }

    /// Nobody wants this attempt: its trainer goes at once, nothing more is told.
    pub(super) fn drop_attempt(&mut self, why: String, now: Now, effects: &mut Vec<Effect>) {
        if matches!(self.state, State::Preparing { .. }) {
            effects.push(Effect::AbandonPreparation);
        }
        if !self.has_child() {
            self.state = State::Ended(Outcome::Dropped { why });
            return;
        }
        if !matches!(self.state, State::Dropping { .. }) {
            self.state = State::Dropping { why };
            self.kill(now, effects);
        }
    }

    /// What is decided by time alone.
    pub(super) fn watch_time(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let at = now.since_boot;
        if self.has_child() && self.killed_at.is_some_and(|killed_at| at >= killed_at + KILL_LIMIT) {
            self.abandon_trainer(now, effects);
        }
        if self.outcome().is_some() {
            return;
        }
        let fence_at = self.lease.fence_at();
        if at >= fence_at {
            self.stop_if_working(now, effects);
        }
        let kept = matches!(&self.state, State::Delivering { ending: Ending::Complete(_), .. })
            || matches!(&self.state, State::Concluding { .. });
        if at >= fence_at + self.patience.hold && !kept {
            return self.drop_attempt("no contact with the coordinator".to_owned(), now, effects);
        }
        match &self.state {
            State::Preparing { give_up_at } if at >= *give_up_at => {
                effects.push(Effect::AbandonPreparation);
                self.deliver(Ending::Fail(self.not_prepared()), now);
            }
            State::Running => {
                if let Some(problem) = self.section.overdue(&self.patience.limits, at) {
                    self.leave(Ending::Fail(Failure::infrastructure(problem)), now);
                    self.kill(now, effects);
                }
            }
            State::Stopping { kill_at, .. } | State::Leaving { kill_at, .. } if at >= *kill_at => {
                self.kill(now, effects);
            }
            _ => {}
        }
    }

    fn stop_if_working(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if matches!(self.state, State::Preparing { .. } | State::Running) {
            self.stop(StopReason::Fenced, now, effects);
        }
    }
}
