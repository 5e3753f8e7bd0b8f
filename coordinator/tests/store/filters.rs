//! Filters of lists mean in the database what they say.

use cakes::labels::Labels;
use cakes_coordinator::core::filter::{Filter, JOB_FIELDS, SEARCH_FIELDS};
use cakes_coordinator::store::read::{Order, jobs, searches as read_searches};
use cakes_coordinator::store::{PgPool, jobs as writes, searches};
use serde_json::{Value, json};

use crate::support::{count, finish, small_search, worker};

/// Rows with fields of each kind, some without.
fn rows() -> Vec<Value> {
    let mut rows = vec![json!({}), json!({ "labels": {} })];
    for (owner, priority, time) in
        [("ada", -1, 0), ("adam", 0, 1_795_996_800), ("eve \"x\"", 7, 1_795_996_801)]
    {
        for labels in [json!({}), json!({ "team": "vision" }), json!({ "team": "", "keep": "a.b" })] {
            rows.push(json!({
                "owner": owner, "priority": priority, "create_time": time, "labels": labels,
                "state": if priority > 0 { "failed" } else { "queued" },
            }));
        }
    }
    rows
}

/// A condition and what it says, as this test understands it.
type Condition = (&'static str, fn(&Value) -> bool);

const CONDITIONS: [Condition; 13] = [
    ("owner = ada", |row| row["owner"] == "ada"),
    ("owner != ada", |row| row["owner"] != "ada"),
    ("owner = ada*", |row| row["owner"].as_str().is_some_and(|owner| owner.starts_with("ada"))),
    (r#"owner = "eve \"x\"""#, |row| row["owner"] == "eve \"x\""),
    ("owner:*", |row| row["owner"].is_string()),
    ("state = FAILED", |row| row["state"] == "failed"),
    ("priority > -1", |row| row["priority"].as_i64().is_some_and(|priority| priority > -1)),
    ("priority <= 0.5", |row| row["priority"].as_f64().is_some_and(|priority| priority <= 0.5)),
    ("create_time >= 2026-11-30", |row| {
        row["create_time"].as_i64().is_some_and(|time| time >= 1_795_996_800)
    }),
    ("create_time < 2026-11-30T00:00:00.5Z", |row| {
        row["create_time"].as_i64().is_some_and(|time| time <= 1_795_996_800)
    }),
    ("labels.team = vision", |row| row["labels"]["team"] == "vision"),
    ("labels:team", |row| row["labels"]["team"].is_string()),
    ("labels.keep != a.b", |row| row["labels"]["keep"] != "a.b"),
];

/// Numbers that look drawn; the same each time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A filter, and which of the rows fulfil it.
fn drawn(draws: &mut Draws, rows: &[Value], depth: u64) -> (String, Vec<bool>) {
    let kind = if depth == 0 { 0 } else { draws.below(4) };
    if kind == 0 {
        let (text, holds) = CONDITIONS[usize::try_from(draws.below(CONDITIONS.len() as u64)).unwrap()];
        return (text.to_owned(), rows.iter().map(holds).collect());
    }
    let (one, holds_one) = drawn(draws, rows, depth - 1);
    let (other, holds_other) = drawn(draws, rows, depth - 1);
    let both = |join: fn(bool, bool) -> bool| {
        holds_one.iter().zip(&holds_other).map(|(one, other)| join(*one, *other)).collect()
    };
    match kind {
        1 => (format!("NOT ({one})"), holds_one.iter().map(|holds| !holds).collect()),
        2 => (format!("({one}) AND ({other})"), both(|one, other| one && other)),
        _ => (format!("({one}) OR ({other})"), both(|one, other| one || other)),
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn the_database_understands_filters_as_they_are_meant(pool: PgPool) {
    let rows = rows();
    let mut draws = Draws(1);
    let mut all: Vec<_> = CONDITIONS
        .iter()
        .map(|(text, holds)| ((*text).to_owned(), rows.iter().map(holds).collect::<Vec<_>>()))
        .collect();
    all.extend((0..400).map(|_| drawn(&mut draws, &rows, 4)));
    for (text, wanted) in all {
        let filter = Filter::parse(&text, JOB_FIELDS).unwrap().unwrap();
        let found: Vec<bool> = sqlx::query_scalar(
            "select coalesce(row @@ $2::text::jsonpath, false)
             from unnest($1::jsonb[]) with ordinality as rows (row, place) order by place",
        )
        .bind(&rows)
        .bind(filter.as_json_path())
        .fetch_all(&pool)
        .await
        .unwrap_or_else(|error| panic!("{text}: {}: {error}", filter.as_json_path()));
        assert_eq!(found, wanted, "{text}: {}", filter.as_json_path());
    }
}

/// How many jobs a filter lets through.
async fn found(pool: &PgPool, text: &str) -> i64 {
    let expression = Filter::parse(text, JOB_FIELDS).unwrap();
    let filter = jobs::Filter { expression, ..jobs::Filter::default() };
    let newest = jobs::page(pool, &filter, Order::NewestFirst, None, 100).await.unwrap();
    let mut oldest = jobs::page(pool, &filter, Order::OldestFirst, None, 100).await.unwrap();
    oldest.reverse();
    let ids = |page: &[jobs::JobRecord]| page.iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(&newest), ids(&oldest));
    i64::try_from(newest.len()).unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn jobs_are_found_by_what_they_are_and_left_behind(pool: PgPool) {
    let spec = small_search();
    let labels = Labels::new([("team".to_owned(), "vision".to_owned())].into()).unwrap();
    let search = searches::submit(&pool, &spec, &labels.into(), None).await.unwrap();
    let worker = worker(&pool, "gpu-01").await;
    finish(&pool, &worker.begin(&pool).await, &spec).await;
    while searches::advance(&pool, search).await.unwrap() > 0 {}
    let waiting = count(&pool, "select count(*) from job where state = 'queued'").await;
    assert!(waiting > 0);

    for (text, wanted) in [
        ("kind = SUPERNET AND state = SUCCEEDED", 1),
        ("state = QUEUED", waiting),
        ("result.quality > 0", 1),
        ("result.quality > 1", 0),
        ("worker_id = gpu* AND end_time:*", 1),
        ("NOT worker_id:*", waiting),
        ("attempt_count = 0", waiting),
        ("create_time > 2020-01-01 AND create_time < 2020-01-02", 0),
        ("result.param_count > 0 AND result.mac_count > 0 AND result.peak_memory_mib >= 0", 1),
        ("result.device:* AND result.train_duration_s >= 0 AND start_time >= 2020-01-01", 1),
        ("architecture_digest:* AND label:*", waiting),
        ("project = default AND priority = 0", waiting + 1),
        ("deadline:* OR cost_limit_device_hours:* OR owner:* OR state_reason:* OR labels:team", 0),
        (&format!("search_id = {search}"), waiting + 1),
    ] {
        assert_eq!(found(&pool, text).await, wanted, "{text}");
    }
}

/// How many jobs there are for which this holds.
macro_rules! where_ {
    ($condition:literal) => {
        concat!("select count(*) from job left join result on result.job_id = job.id where ", $condition)
    };
}

/// Of each field, what asks whether there is a value, and how many rows have one.
const WITH_A_VALUE: [(&str, &str); 25] = [
    ("architecture_digest:*", where_!("job.architecture_digest is not null")),
    ("attempt_count:*", where_!("true")),
    ("cost_limit_device_hours:*", where_!("job.cost_limit_device_s is not null")),
    ("create_time:*", where_!("true")),
    ("deadline:*", where_!("job.deadline is not null")),
    ("end_time:*", where_!("job.end_time is not null")),
    ("kind:*", where_!("true")),
    ("label:*", where_!("true")),
    ("labels:team", where_!("job.labels ->> 'team' = 'vision'")),
    ("owner:*", where_!("job.owner is not null")),
    ("priority:*", where_!("true")),
    ("project:*", where_!("true")),
    ("result.device:*", where_!("result.device is not null")),
    ("result.latency_ms:*", where_!("result.latency_ms is not null")),
    ("result.mac_count:*", where_!("result.mac_count is not null")),
    ("result.param_count:*", where_!("result.param_count is not null")),
    ("result.peak_memory_mib:*", where_!("result.peak_memory_mib is not null")),
    ("result.quality:*", where_!("result.quality is not null")),
    ("result.train_duration_s:*", where_!("result.train_duration_s is not null")),
    ("search_id:*", where_!("job.search_id is not null")),
    ("start_time:*", where_!("job.start_time is not null")),
    ("state:*", where_!("true")),
    ("state_reason:*", where_!("job.state_reason <> ''")),
    ("worker_id:*", where_!("job.epoch > 0")),
    ("worker_labels:gpu", where_!("job.worker_labels ->> 'gpu' = 'h200'")),
];

/// Those that no job is without.
const ALWAYS: [&str; 7] = ["attempt_count", "create_time", "kind", "label", "priority", "project", "state"];

/// A search that says nothing of its jobs, of which one has succeeded; one that says everything;
/// and a job of no search, which is cancelled.
async fn many_kinds_of_jobs(pool: &PgPool) {
    let spec = small_search();
    let plain = searches::submit(pool, &spec, &searches::Terms::default(), None).await.unwrap();
    let worker = worker(pool, "gpu-01").await;
    finish(pool, &worker.begin(pool).await, &spec).await;
    let terms = searches::Terms {
        owner: Some("ada".to_owned()),
        worker_labels: "gpu=h200".parse().unwrap(),
        deadline: Some("2027-01-01T12:00:00Z".parse().unwrap()),
        cost_limit_device_s: Some(5400),
        ..searches::Terms::default()
    };
    searches::submit(pool, &spec, &terms, None).await.unwrap();
    let digest: String =
        sqlx::query_scalar("select digest from architecture limit 1").fetch_one(pool).await.unwrap();
    let alone = writes::Retrain {
        request_id: None,
        digest: digest.parse().unwrap(),
        search: plain,
        training: None,
        initial_weights: None,
        seed: 9,
        labels: "team=vision".parse().unwrap(),
        owner: Some("eve".to_owned()),
        trace: None,
    };
    let alone = writes::submit_retrain(pool, &alone).await.unwrap();
    writes::cancel(pool, alone.into(), "a mistake").await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn each_field_of_jobs_tells_those_with_a_value_from_those_without(pool: PgPool) {
    many_kinds_of_jobs(&pool).await;
    let all = count(&pool, "select count(*) from job").await;
    let name = |filter: &'static str| filter.split(':').next().unwrap();
    let names = WITH_A_VALUE.map(|(filter, _)| name(filter));
    assert_eq!(names.to_vec(), JOB_FIELDS.iter().map(|field| field.name).collect::<Vec<_>>());
    for (filter, statement) in WITH_A_VALUE {
        let with = count(&pool, statement).await;
        assert_eq!(found(&pool, filter).await, with, "{filter}");
        assert_eq!(found(&pool, &format!("NOT {filter}")).await, all - with, "NOT {filter}");
        assert!(with > 0 && (with < all) != ALWAYS.contains(&name(filter)), "{filter}: {with} of {all}");
    }
    let of_ada = count(&pool, "select count(*) from job where owner = 'ada'").await;
    for (text, wanted) in [
        ("owner = ada", of_ada),
        ("owner = eve AND NOT search_id:*", 1),
        ("cost_limit_device_hours = 1.5 AND cost_limit_device_hours < 1.51", of_ada),
        ("cost_limit_device_hours > 1.5 OR cost_limit_device_hours < 1.5", 0),
        ("deadline > 2027-01-01 AND deadline <= 2027-01-01T12:00:00Z", of_ada),
        ("worker_labels.gpu = h200", of_ada),
        (r#"state = CANCELLED AND state_reason = "a mis*" AND labels.team = vision"#, 1),
        ("NOT state_reason = nothing", all),
    ] {
        assert_eq!(found(&pool, text).await, wanted, "{text}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn searches_are_found_by_what_they_are(pool: PgPool) {
    let labels = Labels::new([("team".to_owned(), "vision".to_owned())].into()).unwrap();
    searches::submit(&pool, &small_search(), &labels.into(), None).await.unwrap();
    searches::submit(&pool, &small_search(), &Labels::default().into(), None).await.unwrap();
    let found = async |text: &str| {
        let expression = Filter::parse(text, SEARCH_FIELDS).unwrap();
        let filter = read_searches::Filter { expression, ..read_searches::Filter::default() };
        let newest = read_searches::page(&pool, &filter, Order::NewestFirst, None, 100).await.unwrap();
        let oldest = read_searches::page(&pool, &filter, Order::OldestFirst, None, 100).await.unwrap();
        assert_eq!(newest.len(), oldest.len());
        newest.len()
    };
    for (text, wanted) in [
        ("labels.team = vision", 1),
        ("labels.team != vision", 1),
        ("spec.name = sma* AND state = SEARCHING AND create_time > 2020-01-01", 2),
        ("project = default AND priority = 0 AND NOT end_time:*", 2),
        ("deadline:* OR cost_limit_device_hours:* OR owner:* OR state_reason:* OR worker_labels:gpu", 0),
    ] {
        assert_eq!(found(text).await, wanted, "{text}");
    }
}
