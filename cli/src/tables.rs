//! Rows for people, from messages.

use cakes::architecture::Architecture;
use cakes::cost::Cost;
use cakes_proto::v1;
use chrono::{DateTime, Utc};

use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

/// Ids of searches begin with a time in milliseconds, which takes 13 characters.
const SEARCH_ID_LENGTH: usize = 13;
/// Jobs of one search are made in one millisecond, so they need more.
const JOB_ID_LENGTH: usize = 18;

/// State of a job in lower case: `running`.
pub fn job_state(state: v1::JobState) -> String {
    state.as_str_name().trim_start_matches("JOB_STATE_").to_lowercase()
}

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
    let length = format::id_length(searches.iter().map(|search| search.id.as_str()), SEARCH_ID_LENGTH);
    let mut rows =
        Rows::new([("ID", Left), ("NAME", Left), ("STATE", Left), ("CREATED", Left), ("TOOK", Left)]);
    for search in searches {
        rows.push(vec![
            format::short_id(&search.id, length).to_owned(),
            search_name(search).to_owned(),
            search_state(search.state()),
            ago(search.create_time.as_ref(), now),
            took(search.create_time.as_ref(), search.end_time.as_ref(), now),
        ]);
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
    if !search.jobs.is_empty() {
        lines.push(String::new());
        lines.push(jobs(&search.jobs, now).render(crate::output::terminal_width()));
    }
    lines.join("\n")
}

/// What a search will do, and what its networks cost.
pub fn plan(plan: &v1::SearchPlan) -> String {
    let mut rows = Rows::new([("NETWORK", Left), ("PARAMS", Right), ("MACS", Right), ("MEMORY", Right)]);
    let costs = [
        ("supernet", plan.supernet_cost.as_ref(), plan.supernet_memory_mib),
        ("all 3x3x3", plan.reference_cost.as_ref(), plan.reference_memory_mib),
    ];
    for (name, cost, memory_mib) in costs {
        if let Some(cost) = cost {
            rows.push(vec![
                name.to_owned(),
                format::si(cost.param_count, ""),
                format::macs(cost.mac_count),
                format!("about {memory_mib} MiB"),
            ]);
        }
    }
    format!(
        "up to {} jobs with {} steps in all\n\n{}",
        plan.job_count_max,
        plan.step_count_max,
        rows.render(None)
    )
}

/// Jobs, one a row.
pub fn jobs(jobs: &[v1::Job], now: DateTime<Utc>) -> Rows {
    let length = format::id_length(jobs.iter().map(|job| job.id.as_str()), JOB_ID_LENGTH);
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
            progress.map_or("-".into(), |progress| format!("{:.3}", progress.loss)),
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

fn dice_list(values: &[f64]) -> String {
    values.iter().copied().map(format::dice).collect::<Vec<_>>().join(" ")
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

/// Workers, one a row.
pub fn workers(workers: &[v1::Worker], now: DateTime<Utc>) -> Rows {
    let mut rows = Rows::new([
        ("NAME", Left),
        ("STATE", Left),
        ("DEVICES", Left),
        ("JOBS", Right),
        ("LAST SEEN", Left),
        ("VERSION", Left),
    ]);
    for worker in workers {
        let device = |device: &v1::Device| {
            format!("{} ({}, {:.0} GiB)", device.name, device.model, device.memory_mib as f64 / 1024.0)
        };
        rows.push(vec![
            worker.id.clone(),
            worker_state(worker.state()),
            worker.devices.iter().map(device).collect::<Vec<_>>().join(", "),
            worker.job_ids.len().to_string(),
            ago(worker.last_seen_time.as_ref(), now),
            worker.version.clone(),
        ]);
    }
    rows
}

/// Where an architecture came from, in few characters: `budget 0.5, c3d`.
pub fn origins(architecture: &v1::Architecture) -> String {
    let short = |origin: &String| origin.trim_start_matches("baseline ").to_owned();
    dash(&architecture.origins.iter().map(short).collect::<Vec<_>>().join(", "))
}

/// Architectures, one a row.
pub fn architectures(list: &[v1::Architecture], now: DateTime<Utc>) -> Rows {
    let mut rows = Rows::new([
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("CREATED", Left),
    ]);
    for architecture in list {
        let cost = architecture.cost.as_ref();
        rows.push(vec![
            format::short_digest(&architecture.digest).to_owned(),
            origins(architecture),
            cost.map_or("-".into(), |cost| format::si(cost.param_count, "")),
            cost.map_or("-".into(), |cost| format::macs(cost.mac_count)),
            cost.map_or("-".into(), |cost| format::percent(cost.mac_fraction)),
            ago(architecture.create_time.as_ref(), now),
        ]);
    }
    rows
}

/// Results of a search by rising MACs; `*` marks the front.
pub fn front(front: &v1::ParetoFront) -> Rows {
    let mut rows = Rows::new([
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("DICE", Right),
        ("PER CLASS", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("LATENCY", Right),
        ("SEEDS", Right),
        ("FRONT", Left),
    ]);
    let mut entries: Vec<&v1::FrontEntry> = front.entries.iter().collect();
    entries.sort_by_key(|entry| entry_macs(entry));
    for entry in entries {
        let architecture = entry.architecture.clone().unwrap_or_default();
        let cost = architecture.cost.clone().unwrap_or_default();
        rows.push(vec![
            format::short_digest(&architecture.digest).to_owned(),
            origins(&architecture),
            dice_with_deviation(entry),
            dice_list(&entry.dice_per_class),
            format::si(cost.param_count, ""),
            format::macs(cost.mac_count),
            format::percent(cost.mac_fraction),
            format::latency(entry.latency_ms),
            entry.seed_count.to_string(),
            if entry.on_front { "*".to_owned() } else { String::new() },
        ]);
    }
    rows
}

fn entry_macs(entry: &v1::FrontEntry) -> u64 {
    entry.architecture.as_ref().and_then(|it| it.cost.as_ref()).map_or(0, |cost| cost.mac_count)
}

/// `0.871 ± 0.004`; the mean alone for one seed.
fn dice_with_deviation(entry: &v1::FrontEntry) -> String {
    let mean = format::dice(entry.mean_dice);
    if entry.seed_count > 1 { format!("{mean} ± {:.3}", entry.mean_dice_deviation) } else { mean }
}

/// The front as people read it, with what is still missing.
pub fn front_text(results: &v1::ParetoFront, width: Option<u16>) -> String {
    let pending = match results.pending_count {
        0 => String::new(),
        1 => "1 retraining has not ended".to_owned(),
        count => format!("{count} retrainings have not ended"),
    };
    if results.entries.is_empty() {
        let none = "no retrained architecture yet";
        return if pending.is_empty() { none.to_owned() } else { format!("{none}; {pending}") };
    }
    let table = front(results).render(width);
    if pending.is_empty() { table } else { format!("{table}\n{pending}") }
}

/// Total costs of several networks.
pub fn costs(costs: &[(String, Cost)], reference_mac_count: u64) -> Rows {
    let mut rows = Rows::new([
        ("NETWORK", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("ACTIVATIONS", Right),
    ]);
    for (name, cost) in costs {
        rows.push(vec![
            name.clone(),
            cost.param_count.to_string(),
            cost.mac_count.to_string(),
            format::percent(cost.mac_count as f64 / reference_mac_count.max(1) as f64),
            cost.activation_count.to_string(),
        ]);
    }
    rows
}

/// Cost of every layer, with its channels where they were chosen.
pub fn layers(architecture: &Architecture, cost: &Cost) -> Rows {
    let mut rows = Rows::new([
        ("LAYER", Left),
        ("CHANNELS", Right),
        ("OUTPUT", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("KERNELS", Left),
    ]);
    let chosen: Vec<cakes::architecture::LayerAllocation> = architecture.layers().collect();
    for layer in &cost.layers {
        let allocation = chosen.iter().find(|candidate| candidate.layer == layer.layer);
        rows.push(vec![
            layer.layer.clone(),
            layer.output_channels.to_string(),
            format::extent(layer.output_extent),
            layer.param_count.to_string(),
            layer.mac_count.to_string(),
            allocation.map(|layer| layer.channels.to_string()).unwrap_or_default(),
        ]);
    }
    rows
}

/// Layers in which two architectures differ.
pub fn differences(left: &Architecture, right: &Architecture) -> Rows {
    let name =
        |architecture: &Architecture| format::short_digest(&architecture.digest().to_string()).to_owned();
    let mut rows = Rows::new([("LAYER".to_owned(), Left), (name(left), Left), (name(right), Left)]);
    for difference in left.diff(right) {
        let show = |channels: Option<cakes::allocation::ChannelAllocation>| {
            channels.map_or_else(|| "-".to_owned(), |channels| channels.to_string())
        };
        rows.push(vec![difference.layer, show(difference.left), show(difference.right)]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, macs: u64, dice: f64, seeds: u32) -> v1::FrontEntry {
        let cost =
            v1::Cost { param_count: 4_200_000, mac_count: macs, mac_fraction: 0.412, ..Default::default() };
        v1::FrontEntry {
            architecture: Some(v1::Architecture {
                digest: digest.into(),
                cost: Some(cost),
                origins: vec!["budget 0.5".into(), "baseline c3d".into()],
                ..Default::default()
            }),
            mean_dice: dice,
            mean_dice_deviation: 0.0042,
            dice_per_class: vec![0.9, 0.842],
            latency_ms: 12.44,
            seed_count: seeds,
            on_front: macs < 1_000_000_000,
            ..Default::default()
        }
    }

    #[test]
    fn the_front_is_sorted_by_macs_and_shows_units() {
        let results = v1::ParetoFront {
            entries: vec![
                entry("ffffffffffffffffff", 1_310_000_000, 0.8714, 1),
                entry("aaaaaaaaaaaaaaaaaa", 500_000_000, 0.8666, 3),
            ],
            pending_count: 2,
        };
        let rows = front(&results);
        assert_eq!(
            rows.rows()[0],
            [
                "aaaaaaaaaaaa",
                "budget 0.5, c3d",
                "0.867 ± 0.004",
                "0.900 0.842",
                "4.20 M",
                "500 MMAC",
                "41.2 %",
                "12.4 ms",
                "3",
                "*"
            ]
        );
        assert_eq!(rows.rows()[1][2], "0.871");
        assert_eq!(rows.rows()[1][9], "");
        assert!(front_text(&results, None).ends_with("2 retrainings have not ended"));
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
        let rows = jobs(&[job], DateTime::from_timestamp(0, 0).unwrap());
        assert_eq!(
            rows.rows()[0],
            ["0198f3a2-7c1e-7abc", "supernet", "queued", "-", "-", "-", "-", "-", "no worker"]
        );
    }
}
