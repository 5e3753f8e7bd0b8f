//! The whole service on one screen.

use std::collections::BTreeMap;

use cakes_proto::v1;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{ID_LENGTH, job_state, search_name, search_state, took, worker_state};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;
use crate::quality::Quality;

/// All that is shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Picture {
    pub workers: Vec<v1::Worker>,
    /// Jobs that a worker has.
    pub active: Vec<v1::Job>,
    /// Jobs in the queue, the next one first.
    pub waiting: Vec<Waiting>,
    /// Whether more jobs wait than are listed.
    pub more_wait: bool,
    /// Searches that have not ended.
    pub searches: Vec<v1::Search>,
}

/// A job in the queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Waiting {
    pub job: v1::Job,
    /// Why it waits; empty where it was not asked for.
    pub reason: String,
}

/// Waiting jobs that are listed.
const WAITING_MAX: usize = 10;

/// Workers with what they do, searches that go on, and the queue.
pub fn top(picture: &Picture, now: DateTime<Utc>, width: Option<u16>) -> String {
    let mut parts = vec![headline(picture), workers(picture, now).render(width)];
    if picture.workers.is_empty() {
        parts[1] = "no workers; start one with `cakes-worker`".to_owned();
    }
    if !picture.searches.is_empty() {
        parts.push(searches(&picture.searches, now).render(width));
    }
    if !picture.waiting.is_empty() {
        parts.push(waiting(&picture.waiting, now).render(width));
    }
    let left_out = picture.waiting.len().saturating_sub(WAITING_MAX);
    if left_out > 0 {
        let more = if picture.more_wait { " or more" } else { "" };
        parts.push(format!("and {left_out}{more}; see `cakes job list --state queued`"));
    }
    parts.join("\n\n")
}

/// `2 workers, 3 of 4 devices busy, 12 jobs wait, 1 search goes on`
fn headline(picture: &Picture) -> String {
    let count = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let devices: usize = picture.workers.iter().map(|worker| worker.devices.len()).sum();
    let plus = if picture.more_wait { "more than " } else { "" };
    [
        count(picture.workers.len(), "worker", "workers"),
        format!("{} of {} busy", picture.active.len(), count(devices, "device", "devices")),
        format!("{plus}{}", count(picture.waiting.len(), "job waits", "jobs wait")),
        count(picture.searches.len(), "search goes on", "searches go on"),
    ]
    .join(", ")
}

/// A row for every job that a worker has, and one for a worker without any.
fn workers(picture: &Picture, now: DateTime<Utc>) -> Rows {
    let mut jobs: BTreeMap<&str, Vec<&v1::Job>> = BTreeMap::new();
    for job in &picture.active {
        jobs.entry(&job.worker_id).or_default().push(job);
    }
    let mut rows = Rows::new([
        ("WORKER", Left),
        ("STATE", Left),
        ("JOB", Left),
        ("DOES", Left),
        ("STEP", Right),
        ("DONE", Right),
        ("LOSS", Right),
        ("QUALITY", Right),
        ("RATE", Right),
        ("LEFT", Left),
    ]);
    for worker in &picture.workers {
        let own = jobs.remove(worker.id.as_str()).unwrap_or_default();
        if own.is_empty() {
            let seen = super::ago(worker.last_seen_time.as_ref(), now);
            let idle = match worker.state() {
                v1::WorkerState::Lost => format!("last seen {seen}"),
                _ => format!("{} free", worker.devices.len()),
            };
            rows.push(row(&worker.id, &worker_state(worker.state()), [("-", idle)]));
        }
        for job in own {
            rows.push(active(&worker.id, &worker_state(worker.state()), job));
        }
    }
    // A worker that is not listed any more may still hold a lease.
    for job in jobs.into_values().flatten() {
        rows.push(active(&job.worker_id, "-", job));
    }
    rows
}

fn row(worker: &str, state: &str, [(job, does)]: [(&str, String); 1]) -> Vec<String> {
    let mut row = vec![worker.to_owned(), state.to_owned(), job.to_owned(), does];
    row.resize(10, String::new());
    row
}

fn active(worker: &str, state: &str, job: &v1::Job) -> Vec<String> {
    let progress = job.progress.clone().unwrap_or_default();
    let does = match job.state() {
        v1::JobState::Running if !progress.phase.is_empty() => progress.phase.replace('_', " "),
        state => job_state(state),
    };
    let known = |is_known: bool, text: String| if is_known { text } else { "-".to_owned() };
    let share = progress.step as f64 / progress.step_count.max(1) as f64;
    vec![
        worker.to_owned(),
        state.to_owned(),
        job.label.clone(),
        does,
        known(progress.step_count > 0, format!("{}/{}", progress.step, progress.step_count)),
        known(progress.step_count > 0, format!("{:.0} %", 100.0 * share)),
        known(progress.step > 0, format!("{:.3}", progress.loss)),
        Quality::of_job(job).map_or_else(|| "-".to_owned(), |quality| quality.text()),
        known(progress.samples_per_s > 0.0, format!("{:.1}/s", progress.samples_per_s)),
        progress.remaining_s.map_or_else(|| "-".to_owned(), format::seconds),
    ]
}

fn searches(searches: &[v1::Search], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(searches.iter().map(|search| search.id.as_str()), ID_LENGTH);
    let mut rows = Rows::new([("SEARCH", Left), ("NAME", Left), ("STATE", Left), ("SINCE", Left)]);
    for search in searches {
        rows.push(vec![
            format::short_id(&search.id, length).to_owned(),
            search_name(search).to_owned(),
            search_state(search.state()),
            took(search.create_time.as_ref(), None, now),
        ]);
    }
    rows
}

fn waiting(waiting: &[Waiting], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(waiting.iter().map(|waiting| waiting.job.id.as_str()), ID_LENGTH);
    let mut rows = Rows::new([("WAITS", Left), ("JOB", Left), ("SINCE", Left), ("WHY", Left)]);
    for Waiting { job, reason } in waiting.iter().take(WAITING_MAX) {
        rows.push(vec![
            format::short_id(&job.id, length).to_owned(),
            job.label.clone(),
            took(job.create_time.as_ref(), None, now),
            super::dash(reason),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_idle_workers_and_what_waits_have_their_rows() {
        let worker = |id: &str| v1::Worker {
            id: id.into(),
            state: v1::WorkerState::Ready.into(),
            devices: vec![v1::Device { name: "cpu".into(), ..Default::default() }],
            ..Default::default()
        };
        let job = |label: &str, state: v1::JobState| v1::Job {
            id: label.into(),
            label: label.into(),
            state: state.into(),
            worker_id: "w1".into(),
            progress: (state == v1::JobState::Running).then(|| v1::JobProgress {
                step: 30,
                step_count: 120,
                loss: 0.5,
                phase: "training".into(),
                samples_per_s: 21.0,
                remaining_s: Some(65.0),
                ..Default::default()
            }),
            ..Default::default()
        };
        let picture = Picture {
            workers: vec![worker("w1"), worker("w2")],
            active: vec![job("c3d seed 0", v1::JobState::Running)],
            waiting: vec![Waiting {
                job: job("c2d seed 0", v1::JobState::Queued),
                reason: "no device is free".into(),
            }],
            ..Default::default()
        };
        let text = top(&picture, DateTime::from_timestamp(0, 0).unwrap(), None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "2 workers, 1 of 2 devices busy, 1 job waits, 0 searches go on");
        let of_w1 = lines.iter().find(|line| line.starts_with("w1")).unwrap();
        for cell in ["c3d seed 0", "training", "30/120", "25 %", "0.500", "21.0/s", "1 min 05 s"] {
            assert!(of_w1.contains(cell), "{cell} in {of_w1}");
        }
        assert!(lines.iter().any(|line| line.starts_with("w2") && line.contains("1 free")), "{text}");
        assert!(text.contains("no device is free"), "{text}");
        let none = top(&Picture::default(), DateTime::from_timestamp(0, 0).unwrap(), None);
        assert!(none.contains("cakes-worker"), "{none}");
    }
}
