//! Jobs and their attempts.

use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::{ID_LENGTH, ago, dash, dice_list, took};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

/// State of a job in lower case: `running`.
pub fn job_state(state: v1::JobState) -> String {
    state.as_str_name().trim_start_matches("JOB_STATE_").to_lowercase()
}

/// Jobs, one a row.
pub fn jobs(jobs: &[v1::Job], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(jobs.iter().map(|job| job.id.as_str()), ID_LENGTH);
    let mut rows = Rows::new([
        ("ID", Left),
        ("JOB", Left),
        ("STATE", Left),
        ("WORKER", Left),
        ("STEP", Right),
        ("LOSS", Right),
        ("DICE", Right),
        ("TOOK", Left),
        ("WHY", Left),
    ]);
    for job in jobs {
        let progress = job.progress.as_ref();
        rows.push(vec![
            format::short_id(&job.id, length).to_owned(),
            job.label.clone(),
            job_state(job.state()),
            dash(&job.worker_id),
            progress.map_or("-".into(), |progress| format!("{}/{}", progress.step, progress.step_count)),
            progress
                .filter(|progress| progress.step > 0)
                .map_or("-".into(), |progress| format!("{:.3}", progress.loss)),
            job_dice(job).map_or("-".into(), format::dice),
            took(job.start_time.as_ref(), job.end_time.as_ref(), now),
            job.state_reason.clone(),
        ]);
    }
    rows
}

/// Dice of a job: of its result, else of its last validation.
pub fn job_dice(job: &v1::Job) -> Option<f64> {
    let result = job.result.as_ref().map(|result| result.mean_dice);
    result.or_else(|| job.progress.as_ref().and_then(|progress| progress.mean_dice))
}

/// One job.
pub fn job_details(job: &v1::Job, now: DateTime<Utc>) -> String {
    let mut lines = vec![
        format!("job          {}", job.id),
        format!("label        {}", job.label),
        format!("state        {}", job_state(job.state())),
        format!("search       {}", dash(&job.search_id)),
        format!("worker       {}", dash(&job.worker_id)),
        format!("attempts     {}", job.attempt_count),
        format!("created      {}", ago(job.create_time.as_ref(), now)),
        format!("took         {}", took(job.start_time.as_ref(), job.end_time.as_ref(), now)),
    ];
    let mut add = |name: &str, value: String| lines.push(format!("{name:<12} {value}"));
    if !job.architecture_digest.is_empty() {
        add("architecture", job.architecture_digest.clone());
    }
    if !job.state_reason.is_empty() {
        add("reason", job.state_reason.clone());
    }
    if let Some(progress) = &job.progress {
        add("step", format!("{} of {}, {}", progress.step, progress.step_count, progress.phase));
        add("loss", format!("{:.4} at learning rate {:.2e}", progress.loss, progress.learning_rate));
        add("throughput", format!("{:.1} samples/s", progress.samples_per_s));
        add("checkpoint", format!("step {}", progress.checkpoint_step));
    }
    if let Some(result) = &job.result {
        add("Dice", format!("{} ({})", format::dice(result.mean_dice), dice_list(&result.dice_per_class)));
        add(
            "size",
            format!("{} params, {}", format::si(result.param_count, ""), format::macs(result.mac_count)),
        );
        if let Some(latency_ms) = result.latency_ms {
            add("latency", format!("{} on {}", format::latency(latency_ms), result.device));
        }
        add("memory", format!("{:.0} MiB", result.peak_memory_mib));
        add("trained", format::seconds(result.train_duration_s));
        add("kept as", result.checkpoint_key.clone());
    }
    lines.join("\n")
}

/// Why a job is where it is.
pub fn explanation(response: &v1::ExplainJobResponse, now: DateTime<Utc>) -> String {
    let mut lines = Vec::new();
    if let Some(job) = &response.job {
        lines.push(format!("{} ({})", job.label, job_state(job.state())));
    }
    lines.push(response.explanation.clone());
    if response.queue_position > 0 {
        lines.push(format!("position {} in the queue", response.queue_position));
    }
    if !response.attempts.is_empty() {
        let mut rows = Rows::new([
            ("ATTEMPT", Right),
            ("WORKER", Left),
            ("FROM STEP", Right),
            ("TO STEP", Right),
            ("STARTED", Left),
            ("TOOK", Left),
            ("OUTCOME", Left),
        ]);
        for attempt in &response.attempts {
            rows.push(vec![
                attempt.epoch.to_string(),
                attempt.worker_id.clone(),
                attempt.resume_step.to_string(),
                attempt.last_step.to_string(),
                ago(attempt.start_time.as_ref(), now),
                took(attempt.start_time.as_ref(), attempt.end_time.as_ref(), now),
                attempt.outcome.clone(),
            ]);
        }
        lines.push(String::new());
        lines.push(rows.render(crate::output::terminal_width()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_shows_dashes_and_its_reason() {
        let job = v1::Job {
            id: "0198f3a2-7c1e-7abc-8000-000000000000".into(),
            label: "supernet".into(),
            state: v1::JobState::Queued.into(),
            state_reason: "no worker".into(),
            ..Default::default()
        };
        let rows = jobs(&[job], DateTime::from_timestamp(0, 0).unwrap());
        assert_eq!(rows.rows()[0], ["0198f3a2", "supernet", "queued", "-", "-", "-", "-", "-", "no worker"]);
    }
}
