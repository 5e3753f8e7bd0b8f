//! Jobs and their attempts.

use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::{ID_LENGTH, ago, dash, labels, notes, placement, share_list, took};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;
use crate::quality::{self, Quality};

/// With so many classes or fewer top-5 says nothing.
pub(super) const TOP_OF_CLASSES: usize = 5;

/// State of a job in lower case: `running`.
pub fn job_state(state: v1::JobState) -> String {
    state.as_str_name().trim_start_matches("JOB_STATE_").to_lowercase()
}

/// Jobs, one a row.
pub fn jobs(jobs: &[v1::Job], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(jobs.iter().map(|job| job.id.as_str()), ID_LENGTH);
    let qualities: Vec<Option<Quality>> = jobs.iter().map(Quality::of_job).collect();
    // Jobs of several tasks in one list say each what their figure is.
    let metric = quality::common_metric(qualities.iter().flatten().map(|quality| quality.metric.as_str()));
    let with_labels = jobs.iter().any(|job| !job.labels.is_empty());
    let mut headings = vec![
        ("ID".to_owned(), Left),
        ("JOB".to_owned(), Left),
        ("STATE".to_owned(), Left),
        ("WORKER".to_owned(), Left),
        ("STEP".to_owned(), Right),
        ("LOSS".to_owned(), Right),
        (metric.map_or("QUALITY".to_owned(), |metric| quality::short_name(metric).to_uppercase()), Right),
        ("TOOK".to_owned(), Left),
        ("WHY".to_owned(), Left),
    ];
    headings.extend(with_labels.then(|| ("LABELS".to_owned(), Left)));
    let mut rows = Rows::new(headings);
    let shown = |quality: &Quality| match metric {
        Some(_) => format::share(quality.value),
        None => quality.text(),
    };
    for (job, quality) in jobs.iter().zip(&qualities) {
        let progress = job.progress.as_ref();
        let mut row = vec![
            format::short_id(&job.id, length).to_owned(),
            job.label.clone(),
            job_state(job.state()),
            workers(job),
            progress.map_or("-".into(), |progress| format!("{}/{}", progress.step, progress.step_count)),
            progress
                .filter(|progress| progress.step > 0)
                .map_or("-".into(), |progress| format!("{:.3}", progress.loss)),
            quality.as_ref().map_or("-".into(), shown),
            took(job.start_time.as_ref(), job.end_time.as_ref(), now),
            job.state_reason.clone(),
        ];
        row.extend(with_labels.then(|| labels(&job.labels)));
        rows.push(row);
    }
    rows
}

/// Its worker; of a job on several slots the leader's, and how many more slots it has.
fn workers(job: &v1::Job) -> String {
    match job.slots.len() {
        0 | 1 => dash(&job.worker_id),
        slots => format!("{} +{}", job.worker_id, slots - 1),
    }
}

/// One job.
pub fn job_details(job: &v1::Job, now: DateTime<Utc>) -> String {
    let mut lines = vec![
        format!("job          {}", job.id),
        format!("label        {}", job.label),
        format!("state        {}", job_state(job.state())),
        format!("search       {}", dash(&job.search_id)),
        match job.slots.as_slice() {
            [] => format!("worker       {}", dash(&job.worker_id)),
            slots => format!("slots        {}", slots.join(", ")),
        },
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
    for (name, value) in placement::of_job(job) {
        add(name, value);
    }
    if !job.owner.is_empty() {
        add("owner", job.owner.clone());
    }
    if !job.labels.is_empty() {
        add("labels", labels(&job.labels));
    }
    if let Some(progress) = &job.progress {
        let steps = format!("{} of {}", progress.step, progress.step_count);
        // Otherwise it is what its last attempt did.
        let has_worker =
            matches!(job.state(), v1::JobState::Running | v1::JobState::Pausing | v1::JobState::Cancelling);
        add("step", if has_worker { format!("{steps}, {}", progress.phase) } else { steps });
        add("loss", format!("{:.4} at learning rate {:.2e}", progress.loss, progress.learning_rate));
        add("throughput", format!("{:.1} samples/s", progress.samples_per_s));
        add("checkpoint", format!("step {}", progress.checkpoint_step));
    }
    if let Some(environment) = &job.environment {
        add("ran with", ran_with(environment));
        if !environment.data_sha256.is_empty() {
            add("data", data_set(environment));
        }
    }
    if let Some(result) = &job.result {
        for (name, value) in result_figures(result) {
            add(name, value);
        }
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
    lines.extend(notes(&job.notes, now));
    lines.join("\n")
}

fn ran_with(environment: &v1::Environment) -> String {
    let named = |name: &str, value: &str| format!("{name} {}", dash(value));
    let (libtorch, worker) = (&environment.libtorch, &environment.worker_version);
    format!("{}, {} on {}", named("libtorch", libtorch), named("worker", worker), dash(&environment.device))
}

/// The digest in full: it is what people compare.
fn data_set(environment: &v1::Environment) -> String {
    match environment.data_file_count {
        0 => format!("{} (generated)", environment.data_sha256),
        count => format!(
            "{} ({count} files, {}B)",
            environment.data_sha256,
            format::si(environment.data_bytes, "")
        ),
    }
}

/// How good a result is, figure by figure.
fn result_figures(result: &v1::JobResult) -> Vec<(&str, String)> {
    let metric = quality::short_name(&result.quality_metric);
    let Some(figures) = &result.classification else {
        let per_class = share_list(&result.dice_per_class);
        return vec![(metric, format!("{} ({per_class})", format::share(result.quality)))];
    };
    let mut list =
        vec![(metric, format!("{} of {} samples", format::share(result.quality), figures.sample_count))];
    if figures.recall_per_class.len() > TOP_OF_CLASSES {
        list.push(("top-5", format::share(figures.top5)));
    }
    list.push(("balanced", format::share(figures.balanced_accuracy)));
    list.push(("AUC", figures.auc.map_or("- (one class alone)".to_owned(), format::share)));
    list.push(("recall", share_list(&figures.recall_per_class)));
    list.push(("cross-entr.", format!("{:.4}", figures.loss)));
    list
}

/// Why a job is where it is.
pub fn explanation(response: &v1::ExplainJobResponse, now: DateTime<Utc>) -> String {
    let mut lines = Vec::new();
    if let Some(job) = &response.job {
        lines.push(format!("{} ({})", job.label, job_state(job.state())));
    }
    lines.push(response.explanation.clone());
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
                if attempt.slots.is_empty() { attempt.worker_id.clone() } else { attempt.slots.join(", ") },
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
    fn a_job_on_several_slots_is_told_from_one_on_its_leader_s_alone() {
        let on = |slots: &[&str]| {
            let slots = slots.iter().map(|slot| (*slot).to_owned()).collect();
            workers(&v1::Job { worker_id: "gpu-1".into(), slots, ..Default::default() })
        };
        assert_eq!(on(&["gpu-1 cuda:0", "gpu-2 cuda:0"]), "gpu-1 +1");
        assert_eq!((on(&[]), on(&["gpu-1 cuda:0"])), ("gpu-1".to_owned(), "gpu-1".to_owned()));
        assert_eq!(workers(&v1::Job::default()), "-");
    }

    #[test]
    fn a_job_that_waits_shows_dashes_and_its_reason() {
        let job = v1::Job {
            id: "0198f3a2-7c1e-7abc-8000-000000000000".into(),
            label: "supernet".into(),
            state: v1::JobState::Queued.into(),
            state_reason: "no worker".into(),
            ..Default::default()
        };
        let rows = jobs(&[job], at());
        assert_eq!(rows.rows()[0], ["0198f3a2", "supernet", "queued", "-", "-", "-", "-", "-", "no worker"]);
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(0, 0).unwrap()
    }

    fn with_quality(metric: &str) -> v1::Job {
        let result =
            v1::JobResult { quality: 0.8163, quality_metric: metric.into(), ..v1::JobResult::default() };
        v1::Job { result: Some(result), ..v1::Job::default() }
    }

    #[test]
    fn a_list_names_its_metric_once_or_for_every_job() {
        let text = |list: &[v1::Job]| jobs(list, at()).render(None);
        assert!(text(&[with_quality("top1")]).contains("TOP-1"));
        assert!(text(&[with_quality("mean_dice"), v1::Job::default()]).contains("DICE"));
        let mixed = text(&[with_quality("mean_dice"), with_quality("top1")]);
        assert!(
            mixed.contains("QUALITY") && mixed.contains("Dice 0.816") && mixed.contains("top-1 0.816"),
            "{mixed}"
        );
    }

    #[test]
    fn a_classification_shows_its_figures_and_dashes_for_what_there_is_not() {
        let figures = v1::Classification {
            top1: 0.8163,
            balanced_accuracy: 0.7,
            recall_per_class: vec![0.9, f64::NAN],
            sample_count: 98,
            ..v1::Classification::default()
        };
        let mut job = with_quality("top1");
        job.result.as_mut().unwrap().classification = Some(figures);
        let text = job_details(&job, at());
        for line in [
            "top-1        0.816 of 98 samples",
            "balanced     0.700",
            "AUC          -",
            "recall       0.900 -",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("Dice") && !text.contains("top-5"), "{text}");
    }
}
