//! Rows for people, from messages.

mod checkpoints;
mod compare;
mod jobs;
mod networks;
mod placement;
mod remarks;
mod top;
mod webhooks;

use cakes_proto::v1;
use chrono::{DateTime, Utc};

pub use checkpoints::checkpoints;
pub use compare::{Compared, Difference, JointEntry, compare};
pub use jobs::{explanation, job_details, job_state, jobs};
pub use networks::{
    architectures, costs, derivations, differences, front, front_text, is_baseline, latency, layers, origins,
    plan,
};

pub use placement::spread;
pub use remarks::{labels, notes};
pub use top::{Picture, Waiting, top};
pub use webhooks::{deliveries, webhooks};

use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

/// Characters of an id that are shown at least: enough to stay the only one
/// among what a listing leaves out.
const ID_LENGTH: usize = 8;

/// State of a search in lower case: `retraining`.
pub fn search_state(state: v1::SearchState) -> String {
    state.as_str_name().trim_start_matches("SEARCH_STATE_").to_lowercase()
}

fn worker_state(state: v1::WorkerState) -> String {
    state.as_str_name().trim_start_matches("WORKER_STATE_").to_lowercase()
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn ago(time: Option<&pbjson_types::Timestamp>, now: DateTime<Utc>) -> String {
    format::time(time).map_or_else(|| "-".to_owned(), |time| format::ago(time, now))
}

/// How long something has taken; `-` before it started.
fn took(
    start: Option<&pbjson_types::Timestamp>,
    end: Option<&pbjson_types::Timestamp>,
    now: DateTime<Utc>,
) -> String {
    format::time(start).map_or_else(
        || "-".to_owned(),
        |start| format::duration(format::elapsed(start, format::time(end), now)),
    )
}

fn search_name(search: &v1::Search) -> &str {
    search.spec.as_ref().map_or("", |spec| spec.name.as_str())
}

/// Searches, one a row.
pub fn searches(searches: &[v1::Search], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(searches.iter().map(|search| search.id.as_str()), ID_LENGTH);
    let mut headings = vec![("ID", Left), ("NAME", Left), ("STATE", Left), ("CREATED", Left), ("TOOK", Left)];
    let with_labels = searches.iter().any(|search| !search.labels.is_empty());
    headings.extend(with_labels.then_some(("LABELS", Left)));
    let mut rows = Rows::new(headings);
    for search in searches {
        let mut row = vec![
            format::short_id(&search.id, length).to_owned(),
            search_name(search).to_owned(),
            search_state(search.state()) + if search.imported.is_some() { " (imported)" } else { "" },
            ago(search.create_time.as_ref(), now),
            took(search.create_time.as_ref(), search.end_time.as_ref(), now),
        ];
        row.extend(with_labels.then(|| labels(&search.labels)));
        rows.push(row);
    }
    rows
}

/// One search with its jobs.
pub fn search_details(search: &v1::Search, now: DateTime<Utc>) -> String {
    let mut lines = vec![
        format!("search   {}", search.id),
        format!("name     {}", search_name(search)),
        format!("state    {}", search_state(search.state())),
        format!("created  {}", ago(search.create_time.as_ref(), now)),
        format!("took     {}", took(search.create_time.as_ref(), search.end_time.as_ref(), now)),
    ];
    if !search.state_reason.is_empty() {
        lines.push(format!("reason   {}", search.state_reason));
    }
    if let Some(import) = &search.imported {
        let what = if import.is_snapshot { "imported snapshot" } else { "imported" };
        let when = ago(import.import_time.as_ref(), now);
        lines
            .push(format!("origin   {what} from {} (cakes {}), {when}", import.source, import.cakes_version));
    }
    if !matches!(search.project.as_str(), "" | "default") || search.priority != 0 {
        lines.push(format!("project  {}, priority {}", dash(&search.project), search.priority));
    }
    for (name, value) in placement::of_search(search) {
        lines.push(format!("{name:<8} {value}"));
    }
    if !search.owner.is_empty() {
        lines.push(format!("owner    {}", search.owner));
    }
    if !search.labels.is_empty() {
        lines.push(format!("labels   {}", labels(&search.labels)));
    }
    lines.extend(notes(&search.notes, now));
    if !search.jobs.is_empty() {
        lines.push(String::new());
        lines.push(jobs(&search.jobs, now).render(crate::output::terminal_width()));
    }
    lines.join("\n")
}

/// `0.900 0.842`; a dash for what is not known.
fn share_list(values: &[f64]) -> String {
    let share = |value: f64| if value.is_nan() { "-".to_owned() } else { format::share(value) };
    values.iter().copied().map(share).collect::<Vec<_>>().join(" ")
}

/// Workers, one a row.
pub fn workers(workers: &[v1::Worker], now: DateTime<Utc>) -> Rows {
    // Most fleets have none.
    let have_labels = workers.iter().any(|worker| !worker.labels.is_empty());
    let headings = [
        Some(("NAME", Left)),
        Some(("STATE", Left)),
        Some(("DEVICES", Left)),
        have_labels.then_some(("LABELS", Left)),
        Some(("JOBS", Right)),
        Some(("LAST SEEN", Left)),
        Some(("VERSION", Left)),
        Some(("WHY", Left)),
    ];
    let mut rows = Rows::new(headings.into_iter().flatten());
    for worker in workers {
        let device = |device: &v1::Device| {
            format!("{} ({}, {:.0} GiB)", device.name, device.model, device.memory_mib as f64 / 1024.0)
        };
        let cells = [
            Some(worker.id.clone()),
            Some(worker_state(worker.state())),
            Some(worker.devices.iter().map(device).collect::<Vec<_>>().join(", ")),
            have_labels.then(|| labels(&worker.labels)),
            Some(worker.job_ids.len().to_string()),
            Some(ago(worker.last_seen_time.as_ref(), now)),
            Some(worker.version.clone()),
            Some(suspicion(worker, now)),
        ];
        rows.push(cells.into_iter().flatten().collect());
    }
    rows
}

/// Projects, one a row.
pub fn projects(projects: &[v1::Project]) -> Rows {
    let mut rows = Rows::new([
        ("NAME", Left),
        ("SHARE", Right),
        ("DEVICES", Right),
        ("DEVICE QUOTA", Right),
        ("HOURS", Right),
        ("HOUR QUOTA", Right),
        ("PERIOD", Right),
        ("RECENT", Right),
        ("WAITING", Right),
        ("MEMBERS", Right),
    ]);
    for project in projects {
        let limit = |quota: Option<String>| quota.unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            project.name.clone(),
            project.share.to_string(),
            project.busy_device_count.to_string(),
            limit(project.device_quota.map(|quota| quota.to_string())),
            format!("{:.1}", project.used_device_hours),
            limit(project.device_hours_quota.map(|quota| format!("{quota:.1}"))),
            format!("{} d", project.period_days),
            format!("{:.1}", project.usage_device_hours),
            project.waiting_job_count.to_string(),
            match project.members.len() {
                0 => "-".to_owned(),
                count => count.to_string(),
            },
        ]);
    }
    rows
}

/// Members of a project, one a row.
pub fn members(members: &[v1::ProjectMember]) -> Rows {
    let mut rows = Rows::new([("NAME", Left), ("ROLE", Left)]);
    for member in members {
        let role = member.role().as_str_name().trim_start_matches("PROJECT_ROLE_").to_lowercase();
        rows.push(vec![member.name.clone(), role]);
    }
    rows
}

/// `for 4 min 10 s: its last 3 attempts ended by …`; empty for a worker that is not suspect.
fn suspicion(worker: &v1::Worker, now: DateTime<Utc>) -> String {
    match format::time(worker.suspect_until.as_ref()) {
        Some(until) => {
            let left = format::duration(format::elapsed(now, Some(until), now));
            format!("for {left}: {}", worker.suspect_reason)
        }
        None => String::new(),
    }
}
