//! Long curves are summed up as they come in; the sums are those of the points.

use std::borrow::Cow;

use cakes::spec::CheckedSearch;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::{Entry, Grant, Report, fail};
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use chrono::Utc;
use sqlx::migrate::Migrator;
use sqlx::types::Uuid;

use super::filled::{self, metric, train};
use crate::support::{Worker, count, save, search_of, small_search, submit, tell, worker};

/// Ranges that do not say what the points say: of all attempts up to the step from
/// which a later one went on, each step once.
const WRONG: &str = "with point as (
        select distinct on (job_id, key, step) job_id, key, step, range_number(step, step_count) as number,
            case when value not in ('NaN', 'Infinity', '-Infinity') then value end as value
        from metric join job on job.id = metric.job_id and job.step_count > 256
        where not exists (select from attempt where attempt.job_id = metric.job_id
            and attempt.epoch > metric.epoch and attempt.resume_step < metric.step)
        order by job_id, key, step, metric.epoch desc
    ), expected as (
        select job_id, key, number, min(step) as first_step, max(step) as last_step, count(*) as value_count,
            count(value) as finite_count, coalesce(sum(value), 0) as value_sum, min(value) as value_min,
            max(value) as value_max
        from point group by job_id, key, number
    )
    select count(*) from expected full join metric_range found using (job_id, key, number)
    where (expected.first_step, expected.last_step, expected.value_count, expected.finite_count)
            is distinct from (found.first_step, found.last_step, found.value_count, found.finite_count)
        or (expected.value_min, expected.value_max) is distinct from (found.value_min, found.value_max)
        or abs(expected.value_sum - found.value_sum) > 1e-9 * found.value_count";

async fn begin_again(pool: &PgPool, worker: &Worker, grant: &Grant) -> Grant {
    fail(pool, &Policy::default(), grant.token, FailureClass::Lost, "gone").await.unwrap();
    sqlx::query("update job set run_after = null, avoid_worker_id = null, avoid_until = null")
        .execute(pool)
        .await
        .unwrap();
    let next = worker.begin(pool).await;
    assert_eq!(next.token.job, grant.token.job);
    next
}

fn long_search() -> CheckedSearch {
    let mut spec = small_search().spec().clone();
    spec.supernet.training.steps_per_epoch = filled::LONG_STEPS as u32 / 2;
    CheckedSearch::new(spec).unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_long_curve_is_summed_up_through_two_resumes(pool: PgPool) {
    submit(&pool, &long_search()).await;
    let worker = worker(&pool, "a").await;
    let first = worker.begin(&pool).await;
    let seq = train(&pool, &first, 1, 1..=605).await;
    save(&pool, &first, 605).await;
    train(&pool, &first, seq, 606..=700).await;
    assert_eq!(count(&pool, WRONG).await, 0);
    assert!(count(&pool, "select count(*) from metric_range").await > 0);

    // A log line comes first, and a report that is sent twice counts once.
    let second = begin_again(&pool, &worker, &first).await;
    let log = Entry::Log { time: Utc::now(), text: "resumed from step 605".into() };
    let hello = Report { token: second.token, first_seq: 1, entries: vec![log], progress: None };
    tell(&pool, &hello).await.unwrap();
    assert_eq!(count(&pool, "select max(last_step) from metric_range").await, 605);
    assert_eq!(count(&pool, WRONG).await, 0);
    tell(&pool, &hello).await.unwrap();
    let seq = train(&pool, &second, 2, 606..=606).await;
    save(&pool, &second, 606).await;
    train(&pool, &second, seq, 607..=640).await;
    assert_eq!(count(&pool, WRONG).await, 0);

    // Once more, within the same range of steps.
    let third = begin_again(&pool, &worker, &second).await;
    let odd = vec![metric(607, "train/loss", f64::NAN), metric(608, "train/loss", f64::INFINITY)];
    tell(&pool, &Report { token: third.token, first_seq: 1, entries: odd, progress: None }).await.unwrap();
    train(&pool, &third, 3, 609..=filled::LONG_STEPS).await;
    assert_eq!(count(&pool, WRONG).await, 0);

    let overlapping = "select count(*) from dashboard.learning_curves a join dashboard.learning_curves b
            using (job_id, metric) where a.step < b.step and a.step >= b.first_step";
    assert_eq!(count(&pool, overlapping).await, 0);
    let points = "select count(*) from dashboard.learning_curves where metric = 'train/loss'";
    assert_eq!(count(&pool, points).await, 250, "of four steps each");
    let sum = "select sum(point_count)::bigint from dashboard.learning_curves where metric = 'train/loss'";
    assert_eq!(count(&pool, sum).await, filled::LONG_STEPS);
}

/// A training that starts from nothing again leaves nothing of the first try.
#[sqlx::test(migrations = "../migrations")]
async fn a_fresh_start_forgets_the_curve(pool: PgPool) {
    submit(&pool, &long_search()).await;
    let worker = worker(&pool, "a").await;
    let first = worker.begin(&pool).await;
    train(&pool, &first, 1, 1..=300).await;
    let second = begin_again(&pool, &worker, &first).await;
    train(&pool, &second, 1, 1..=20).await;
    assert_eq!(count(&pool, WRONG).await, 0);
    assert_eq!(count(&pool, "select max(last_step) from metric_range").await, 20);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_short_curve_is_stored_once_only(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1])).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    train(&pool, &grant, 1, 1..=10).await;
    assert_eq!(count(&pool, "select count(*) from metric_range").await, 0);
    let points =
        "select count(*) from dashboard.learning_curves where metric = 'train/loss' and point_count = 1";
    assert_eq!(count(&pool, points).await, 10);
}

/// Points of before there were parts and ranges.
#[sqlx::test(migrations = false)]
async fn points_of_before_are_kept_and_summed_up(pool: PgPool) {
    let before = MIGRATIONS.iter().filter(|migration| migration.version < 18).cloned().collect();
    Migrator { migrations: Cow::Owned(before), ..Migrator::DEFAULT }.run(&pool).await.unwrap();
    let old = "with search as (
            insert into search (id, name, spec) values (gen_random_uuid(), 'old', '{}') returning id
        ), worker as (
            insert into worker (id, incarnation, devices, version, register_request_id)
            values ('w', 1, '[]', '1', gen_random_uuid()) returning id
        ), job as (
            insert into job (id, search_id, kind, label, seed, trainer_job, step_count, state, epoch, task)
            select gen_random_uuid(), id, 'supernet', 'supernet', 0, '{}', 1000, 'paused', 2, 'segmentation'
            from search returning id
        ), attempt as (
            insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id,
                state, resume_epoch, resume_step, end_reason, end_time)
            select job.id, n, decode(repeat('ab', 16), 'hex'), worker.id, 1, 'cpu', gen_random_uuid(),
                'ended', nullif(n, 1), 501 * (n - 1), 'failed', now()
            from job, worker, generate_series(1, 2) n
        )
        insert into metric (job_id, epoch, seq, key, step, value, time)
        select job.id, n, step, key, step + 501 * (n - 1), case step when 7 then float8 'NaN' else n * 10 + step % 3 end, now()
        from job, generate_series(1, 2) n, generate_series(1, 600 - 300 * (n - 1)) step,
            unnest(array['train/loss', 'train/learning_rate']) key";
    sqlx::query(old).execute(&pool).await.unwrap();
    let checksum = "select sum(hashtext(format('%s', metric)))::bigint from metric";
    let (points, sum) = (count(&pool, "select count(*) from metric").await, count(&pool, checksum).await);
    MIGRATIONS.run(&pool).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from metric").await, points);
    assert_eq!(count(&pool, checksum).await, sum);
    assert_eq!(count(&pool, WRONG).await, 0);
    let steps = "select sum(point_count)::bigint from dashboard.learning_curves where metric = 'train/loss'";
    assert_eq!(count(&pool, steps).await, 501 + 300);
    let job: Uuid = sqlx::query_scalar("select id from job").fetch_one(&pool).await.unwrap();
    let again = sqlx::query(
        "insert into metric (job_id, epoch, seq, key, step, value, time) values ($1, 1, 1, 'train/loss', 1, 0, now())",
    );
    let error = again.bind(job).execute(&pool).await.unwrap_err().to_string();
    assert!(error.contains("duplicate key"), "an entry is stored once: {error}");
}
