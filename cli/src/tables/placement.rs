//! Which workers jobs go to, until when they are wanted, and for how much.

use std::collections::BTreeMap;

use cakes_proto::v1;
use pbjson_types::Timestamp;

use super::labels;
use crate::format;

/// Names and values of what a search asks for; nothing for what it does not.
pub(super) fn of_search(search: &v1::Search) -> Vec<(&'static str, String)> {
    let mut lines = wishes(&search.worker_labels, search.deadline.as_ref());
    if let Some(limit) = search.cost_limit_device_hours {
        let each = format!("{} for each job", format::device_hours(limit));
        // A list has searches without their jobs.
        let spent: Vec<f64> = search.jobs.iter().filter_map(|job| job.spent_device_hours).collect();
        let value = match spent.as_slice() {
            [] => each,
            spent => format!("{each}, {} taken in all", format::device_hours_used(spent.iter().sum())),
        };
        lines.push(("limit", value));
    }
    lines
}

/// The same of a job.
pub(super) fn of_job(job: &v1::Job) -> Vec<(&'static str, String)> {
    let mut lines = wishes(&job.worker_labels, job.deadline.as_ref());
    if let Some(limit) = job.cost_limit_device_hours {
        let value = match job.spent_device_hours {
            Some(spent) => format!("{} taken", format::device_hours_of(spent, limit)),
            // A coordinator of an earlier version does not say.
            None => format::device_hours(limit),
        };
        lines.push(("limit", value));
    }
    lines
}

/// What the owner of a search should know whose jobs may train on several machines: a paragraph
/// behind its plan; empty for others.
pub fn spread(search: &v1::SearchSpec) -> String {
    let supernet = search.supernet.as_ref().and_then(|supernet| supernet.training.as_ref());
    let retrain = search.retrain.as_ref().and_then(|retrain| retrain.training.as_ref());
    let named = [("the supernet", supernet), ("each retraining", retrain)];
    let lines = named.into_iter().filter_map(|(name, training)| {
        let training = training.filter(|training| training.spread)?;
        let devices = training.devices.unwrap_or(1);
        Some(format!(
            "\n{name} may train on {devices} devices of several machines; steps wait for the network"
        ))
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn wishes(
    worker_labels: &BTreeMap<String, String>,
    deadline: Option<&Timestamp>,
) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if !worker_labels.is_empty() {
        lines.push(("workers", format!("labelled {}", labels(worker_labels))));
    }
    if let Some(deadline) = format::time(deadline) {
        lines.push(("deadline", deadline.format("%Y-%m-%d %H:%M UTC").to_string()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::tables::{job_details, search_details};

    fn job() -> v1::Job {
        v1::Job {
            worker_labels: [("gpu".to_owned(), "h200".to_owned())].into(),
            deadline: Some(Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            cost_limit_device_hours: Some(24.0),
            spent_device_hours: Some(2.51),
            ..v1::Job::default()
        }
    }

    #[test]
    fn a_plan_says_which_jobs_may_train_on_several_machines() {
        let training = v1::Training { devices: Some(4), spread: true, ..Default::default() };
        let retrain = v1::Retrain { training: Some(training), ..Default::default() };
        let search = v1::SearchSpec { retrain: Some(retrain), ..Default::default() };
        let said = spread(&search);
        assert!(said.contains("each retraining may train on 4 devices of several machines"), "{said}");
        assert!(!said.contains("supernet"), "{said}");
        assert_eq!(spread(&v1::SearchSpec::default()), "");
    }

    #[test]
    fn a_job_shows_what_it_asks_for_and_what_it_took() {
        let shown = |job: &v1::Job| job_details(job, DateTime::UNIX_EPOCH);
        let text = shown(&job());
        for line in [
            "workers      labelled gpu=h200",
            "deadline     2027-01-15 08:00 UTC",
            "limit        2.51 of 24 device-hours taken",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let of_an_earlier_version = shown(&v1::Job { spent_device_hours: None, ..job() });
        assert!(of_an_earlier_version.contains("limit        24 device-hours"), "{of_an_earlier_version}");
        let text = shown(&v1::Job::default());
        assert!(!text.contains("workers") && !text.contains("deadline") && !text.contains("limit"), "{text}");
    }

    #[test]
    fn a_search_shows_what_all_its_jobs_took() {
        let v1::Job { worker_labels, deadline, cost_limit_device_hours, .. } = job();
        let without_limit = v1::Job::default();
        let search = v1::Search {
            worker_labels,
            deadline,
            cost_limit_device_hours,
            jobs: vec![job(), without_limit, job()],
            ..v1::Search::default()
        };
        let text = search_details(&search, DateTime::UNIX_EPOCH);
        for line in [
            "workers  labelled gpu=h200",
            "deadline 2027-01-15 08:00 UTC",
            "limit    24 device-hours for each job, 5.02 device-hours taken in all",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let listed = search_details(&v1::Search { jobs: Vec::new(), ..search }, DateTime::UNIX_EPOCH);
        assert!(listed.ends_with("limit    24 device-hours for each job"), "{listed}");
    }
}
