//! What is said of a search's progress: pure functions of its messages.

use std::collections::BTreeMap;

use cakes_proto::v1::{self, JobState};
use chrono::{DateTime, Utc};
use console::style;

use super::Snapshot;
use crate::quality::Quality;
use crate::{format, tables};

/// Whether the job will not change any more by itself.
pub fn has_ended(job: &v1::Job) -> bool {
    matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Cancelled)
}

/// Whether a worker has the job.
pub fn is_active(job: &v1::Job) -> bool {
    matches!(job.state(), JobState::Leased | JobState::Running | JobState::Cancelling | JobState::Pausing)
}

/// `phantoms  retraining  3 of 8 jobs done  5 min 12 s`
pub fn headline(snapshot: &Snapshot<'_>, now: DateTime<Utc>) -> String {
    let mut parts = vec![style(snapshot.name).bold().for_stderr().to_string(), snapshot.state.clone()];
    if snapshot.jobs.len() > 1 {
        let done = snapshot.jobs.iter().filter(|job| has_ended(job)).count();
        parts.push(format!("{done} of {} jobs done", snapshot.jobs.len()));
    }
    if let Some(start) = snapshot.start_time {
        parts.push(format::duration(format::elapsed(start, snapshot.end_time, now)));
    }
    if !snapshot.reason.is_empty() {
        parts.push(snapshot.reason.to_owned());
    }
    parts.join("  ")
}

/// `w1  loss 0.312  Dice 0.840  21/s  1 min 05 s left`
pub fn active(job: &v1::Job) -> String {
    let mut parts = vec![job.worker_id.clone()];
    match (&job.progress, job.state()) {
        (Some(progress), JobState::Running) => {
            if progress.step > 0 {
                parts.push(format!("loss {:.3}", progress.loss));
            }
            parts.extend(Quality::of_job(job).map(|quality| quality.text()));
            if !matches!(progress.phase.as_str(), "" | "training") {
                parts.push(progress.phase.replace('_', " "));
            } else if progress.samples_per_s > 0.0 {
                parts.push(format!("{:.1}/s", progress.samples_per_s));
                parts.extend(progress.remaining_s.map(|time| format!("{} left", format::seconds(time))));
            }
        }
        (_, state) => parts.push(tables::job_state(state)),
    }
    if job.attempt_count > 1 {
        parts.push(format!("attempt {}", job.attempt_count));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

/// `✓ budget 0.5 seed 0         Dice 0.871  3 min 05 s`
pub fn ended(job: &v1::Job, now: DateTime<Utc>) -> String {
    let mark = match job.state() {
        JobState::Succeeded => style("✓").green(),
        JobState::Failed => style("✗").red(),
        _ => style("–").yellow(),
    };
    let mut parts = vec![format!("{} {:<26}", mark.for_stderr(), job.label)];
    match (&job.result, job.state()) {
        (Some(result), JobState::Succeeded) => {
            parts.extend(Quality::of_job(job).map(|quality| quality.text()));
            parts.extend(result.latency_ms.map(format::latency));
        }
        (_, state) => parts.push(tables::job_state(state)),
    }
    if let Some(start) = format::time(job.start_time.as_ref()) {
        parts.push(format::duration(format::elapsed(start, format::time(job.end_time.as_ref()), now)));
    }
    if !job.state_reason.is_empty() && job.state() != JobState::Succeeded {
        parts.push(job.state_reason.clone());
    }
    parts.join("  ")
}

/// Jobs that are named when several wait.
const WAITING_NAMED_MAX: usize = 3;

/// `4 waiting: budget 0.7 seed 0, c3d seed 0, … (no free device)`
pub fn waiting(jobs: &[v1::Job]) -> Option<String> {
    let waiting: Vec<&v1::Job> =
        jobs.iter().filter(|job| matches!(job.state(), JobState::Queued | JobState::Paused)).collect();
    let first = waiting.first()?;
    let mut names: Vec<String> = waiting
        .iter()
        .take(WAITING_NAMED_MAX)
        .map(|job| match job.state() {
            JobState::Paused => format!("{} (paused)", job.label),
            _ => job.label.clone(),
        })
        .collect();
    if waiting.len() > WAITING_NAMED_MAX {
        names.push("…".to_owned());
    }
    let reason =
        if first.state_reason.is_empty() { String::new() } else { format!(" ({})", first.state_reason) };
    let text = format!("  {} waiting: {}{reason}", waiting.len(), names.join(", "));
    Some(style(text).dim().for_stderr().to_string())
}

/// Says in lines what changed: states of search and jobs, validations, new
/// attempts; never single steps.
#[derive(Debug, Default)]
pub struct Reporter {
    state: String,
    jobs: BTreeMap<String, Seen>,
}

/// What was said of a job last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    state: i32,
    attempt_count: u64,
    quality: Option<f64>,
}

impl Reporter {
    /// Lines for what is new since the last call.
    pub fn changes(&mut self, snapshot: &Snapshot<'_>, now: DateTime<Utc>) -> Vec<String> {
        let mut lines = Vec::new();
        for job in snapshot.jobs {
            let seen = Seen {
                state: job.state,
                attempt_count: job.attempt_count,
                quality: job.progress.as_ref().and_then(|progress| progress.quality),
            };
            let before = self.jobs.insert(job.id.clone(), seen.clone());
            if before.as_ref() != Some(&seen) {
                lines.extend(job_change(job, before.as_ref(), &seen, now));
            }
        }
        if self.state != snapshot.state {
            self.state.clone_from(&snapshot.state);
            lines.push(console::strip_ansi_codes(&headline(snapshot, now)).into_owned());
        }
        lines
    }
}

fn job_change(job: &v1::Job, before: Option<&Seen>, seen: &Seen, now: DateTime<Utc>) -> Option<String> {
    if has_ended(job) {
        let is_news = before.is_none_or(|before| before.state != seen.state);
        return is_news.then(|| console::strip_ansi_codes(&ended(job, now)).into_owned());
    }
    let same_state =
        before.is_some_and(|before| before.state == seen.state && before.attempt_count == seen.attempt_count);
    if same_state && before.map(|before| before.quality) == Some(seen.quality) {
        return None;
    }
    match (job.state(), &job.progress) {
        (JobState::Queued, _) if before.is_none() => None,
        (JobState::Queued | JobState::Paused, _) => {
            let reason =
                if job.state_reason.is_empty() { String::new() } else { format!("  {}", job.state_reason) };
            Some(format!("{}  {}{reason}", job.label, tables::job_state(job.state())))
        }
        (JobState::Running, Some(progress)) if progress.step > 0 => {
            Some(format!("{}  step {}/{}  {}", job.label, progress.step, progress.step_count, active(job)))
        }
        (state, _) => Some(format!("{}  {}  {}", job.label, tables::job_state(state), job.worker_id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, label: &str, state: JobState) -> v1::Job {
        v1::Job {
            id: id.into(),
            label: label.into(),
            state: state.into(),
            worker_id: "w1".into(),
            attempt_count: 1,
            ..Default::default()
        }
    }

    fn running(step: u64, quality: Option<f64>) -> v1::Job {
        let progress = v1::JobProgress {
            step,
            step_count: 400,
            loss: 0.3121,
            samples_per_s: 21.04,
            quality,
            quality_metric: "mean_dice".into(),
            remaining_s: Some(65.0),
            phase: "training".into(),
            ..Default::default()
        };
        v1::Job { progress: Some(progress), ..job("a", "supernet", JobState::Running) }
    }

    fn succeeded() -> v1::Job {
        let result = v1::JobResult {
            quality: 0.8714,
            quality_metric: "top1".into(),
            latency_ms: Some(12.44),
            ..Default::default()
        };
        v1::Job { result: Some(result), ..job("a", "supernet", JobState::Succeeded) }
    }

    fn lines(reporter: &mut Reporter, state: &str, jobs: &[v1::Job]) -> Vec<String> {
        let snapshot = Snapshot {
            name: "p",
            state: state.into(),
            reason: "",
            start_time: None,
            end_time: None,
            has_ended: false,
            jobs,
        };
        reporter.changes(&snapshot, DateTime::from_timestamp(0, 0).unwrap())
    }

    #[test]
    fn lines_come_with_states_and_validations_but_not_with_steps() {
        let mut reporter = Reporter::default();
        assert_eq!(
            lines(&mut reporter, "searching", &[job("a", "supernet", JobState::Queued)]),
            ["p  searching"]
        );
        assert_eq!(
            lines(&mut reporter, "searching", &[job("a", "supernet", JobState::Leased)]),
            ["supernet  leased  w1"]
        );
        assert_eq!(lines(&mut reporter, "searching", &[running(0, None)]), ["supernet  running  w1"]);
        assert!(lines(&mut reporter, "searching", &[running(1, None)]).is_empty());
        assert!(lines(&mut reporter, "searching", &[running(2, None)]).is_empty());
        assert_eq!(
            lines(&mut reporter, "searching", &[running(100, Some(0.84))]),
            ["supernet  step 100/400  w1  loss 0.312  Dice 0.840  21.0/s  1 min 05 s left"]
        );
        let ended = lines(&mut reporter, "retraining", &[succeeded(), job("b", "c3d", JobState::Queued)]);
        assert_eq!(
            ended[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "✓ supernet top-1 0.871 12.4 ms"
        );
        assert_eq!(ended[1], "p  retraining  1 of 2 jobs done");
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn a_lost_attempt_is_said_with_its_reason_and_the_next_one_is_counted() {
        let mut reporter = Reporter::default();
        lines(&mut reporter, "searching", &[running(5, None)]);
        let back = v1::Job { state_reason: "lease expired".into(), ..job("a", "supernet", JobState::Queued) };
        assert_eq!(lines(&mut reporter, "searching", &[back]), ["supernet  queued  lease expired"]);
        let again = v1::Job { attempt_count: 2, ..running(5, None) };
        assert!(lines(&mut reporter, "searching", &[again])[0].ends_with("attempt 2"));
    }

    #[test]
    fn many_waiting_jobs_take_one_line() {
        let jobs: Vec<v1::Job> =
            (0..5).map(|n| job(&n.to_string(), &format!("j{n}"), JobState::Queued)).collect();
        let text = waiting(&jobs).unwrap();
        assert_eq!(console::strip_ansi_codes(&text), "  5 waiting: j0, j1, j2, …");
        assert_eq!(waiting(&[succeeded()]), None);
    }
}
