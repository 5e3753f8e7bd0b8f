//! How long waiting jobs are going to take, by what they and others took.

use std::collections::BTreeMap;

use cakes::labels::Labels;
use cakes::spec::TrainingSpec;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::schedule::Rules;
use cakes_coordinator::core::schedule::estimate::{By, Estimate};
use cakes_coordinator::store::attempts::{Grant, complete, fail};
use cakes_coordinator::store::jobs::{Retrain, submit_retrain};
use cakes_coordinator::store::schedule::{Extent, load};
use cakes_coordinator::store::searches::{Terms, advance, submit as submit_with};
use cakes_coordinator::store::{PgPool, PoolSizes, connect};
use cakes_proto::ids::SearchId;
use chrono::{TimeDelta, Utc};
use sqlx::ConnectOptions;
use uuid::Uuid;

use crate::flat::{ROWS_MAX, reads};
use crate::projects::round;
use crate::support::{
    Worker, completion, count, finish, report_of, save, search_of, small_search, submit, tell, worker,
};

fn by(train_s: u64, by: By) -> Estimate {
    Estimate { train_s, by }
}

fn alike(train_s: u64, count: usize) -> Estimate {
    by(train_s, By::Alike { count })
}

/// Of the waiting jobs of a search, by their labels, as a round reads them.
async fn estimates(pool: &PgPool, search: SearchId) -> BTreeMap<String, Estimate> {
    let mut connection = pool.acquire().await.unwrap();
    let snapshot = load(&mut connection, Rules::default().lease_ttl, Extent::Front).await.unwrap();
    let labels: Vec<(Uuid, String)> =
        sqlx::query_as("select id, label from job where coalesce(search_id, like_search_id) = $1")
            .bind(search.0)
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    let labels: BTreeMap<Uuid, String> = labels.into_iter().collect();
    let known = snapshot.waiting.iter().filter_map(|row| Some((row.job.id, snapshot.estimate(row)?)));
    known.filter_map(|(id, estimate)| Some((labels.get(&id)?.clone(), estimate))).collect()
}

/// A search of three baselines and three networks of half their MACs, whose supernet is done.
async fn planned(pool: &PgPool, worker: &Worker) -> SearchId {
    let search = search_of(&[0.5], &[1, 2, 3]);
    let id = submit(pool, &search).await;
    finish(pool, &worker.begin(pool).await, &search).await;
    advance(pool, id).await.unwrap();
    id
}

/// Completes an attempt that took so long.
async fn finish_in(pool: &PgPool, grant: &Grant, train_duration_s: f64) {
    let mut done = completion(save(pool, grant, 10).await, None);
    done.outcome.train_duration_s = train_duration_s;
    complete(pool, grant.token, &done).await.unwrap();
}

/// The worker of an attempt goes away, and the job may be taken again.
async fn lose(pool: &PgPool, grant: &Grant) {
    fail(pool, &Policy::default(), grant.token, FailureClass::Lost, "gone").await.unwrap();
    sqlx::query("update job set run_after = null, avoid_worker_id = null, avoid_until = null")
        .execute(pool)
        .await
        .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_ran_before_goes_by_its_own_steps_from_its_checkpoint(pool: PgPool) {
    let id = submit(&pool, &small_search()).await;
    let a = worker(&pool, "a").await;
    assert_eq!(estimates(&pool, id).await, BTreeMap::new(), "nothing is known of a search without results");
    let supernet = a.begin(&pool).await;
    tell(&pool, &report_of(supernet.token, 1, 1, 4)).await.unwrap();
    // Of ten steps six are left, of 100 s each.
    sqlx::query("update job_progress set remaining_s = 600").execute(&pool).await.unwrap();
    lose(&pool, &supernet).await;
    let itself = |train_s| BTreeMap::from([("supernet".to_owned(), by(train_s, By::Itself))]);
    assert_eq!(estimates(&pool, id).await, itself(1000), "nothing was saved");

    let again = a.begin(&pool).await;
    assert_eq!(again.token.job, supernet.token.job);
    save(&pool, &again, 7).await;
    lose(&pool, &again).await;
    assert_eq!(estimates(&pool, id).await, itself(300));
    // Before its first step an attempt knows nothing, and after its last one nothing is left.
    sqlx::query("update job_progress set remaining_s = null").execute(&pool).await.unwrap();
    assert_eq!(estimates(&pool, id).await, BTreeMap::new());
    sqlx::query("update job_progress set remaining_s = 0, step = step_count").execute(&pool).await.unwrap();
    assert_eq!(estimates(&pool, id).await, BTreeMap::new());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_goes_by_those_of_its_architecture_else_by_the_slowest_of_its_search(pool: PgPool) {
    let a = worker(&pool, "a").await;
    let id = planned(&pool, &a).await;
    let costs =
        "update search_architecture set mac_count = case when origin = 'budget 0.5' then 3000 else 2000 end";
    sqlx::query(costs).execute(&pool).await.unwrap();
    let of = async |label: &str| estimates(&pool, id).await.get(label).copied();
    assert_eq!(of("baseline c3d seed 1").await, None);

    let first = a.begin(&pool).await;
    tell(&pool, &report_of(first.token, 1, 0, 4)).await.unwrap();
    sqlx::query("update job_progress set remaining_s = 600 where job_id = $1")
        .bind(first.token.job.0)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(of("baseline c3d seed 2").await, Some(alike(1000, 1)), "by one that runs");
    finish_in(&pool, &first, 12.0).await;
    let b = worker(&pool, "b").await;
    let second = b.begin(&pool).await;
    assert_eq!(of("baseline c3d seed 3").await, Some(alike(12, 1)));
    assert_eq!(of("budget 0.5 seed 1").await, Some(alike(18, 1)), "half as many MACs again");
    finish_in(&pool, &second, 20.0).await;
    assert_eq!(of("baseline c3d seed 3").await, Some(alike(20, 2)), "the slowest");
    finish_in(&pool, &a.begin(&pool).await, 16.0).await;

    // What was trained before its checkpoint did not take the second attempt any time.
    let derived = a.begin(&pool).await;
    save(&pool, &derived, 6).await;
    lose(&pool, &derived).await;
    let resumed = a.begin(&pool).await;
    assert_eq!((resumed.token.job, resumed.token.epoch), (derived.token.job, 2));
    finish_in(&pool, &resumed, 4.0).await;
    assert_eq!(of("budget 0.5 seed 2").await, Some(alike(10, 1)), "its own architecture says more");

    let twice =
        "update job set trainer_job = jsonb_set(trainer_job, '{training,devices}', '2'), step_count = 30
        where label = 'budget 0.5 seed 3'";
    sqlx::query(twice).execute(&pool).await.unwrap();
    assert_eq!(of("budget 0.5 seed 3").await, None, "on two devices a step is another");
    sqlx::query("update job set step_count = 30 where label = 'budget 0.5 seed 2'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(of("budget 0.5 seed 2").await, Some(alike(30, 1)), "for three times the steps");
}

/// The same network, with the same seed, on other data perhaps.
#[sqlx::test(migrations = "../migrations")]
async fn jobs_of_another_search_tell_nothing(pool: PgPool) {
    let a = worker(&pool, "a").await;
    let known = planned(&pool, &a).await;
    finish_in(&pool, &a.begin(&pool).await, 12.0).await;
    let other = submit(&pool, &search_of(&[0.5], &[1, 2, 3])).await;
    let shared = "select count(*) from (select from job where kind = 'retrain' and label like 'baseline%'
        group by architecture_digest having count(distinct search_id) = 2) as shared";
    assert_eq!(count(&pool, shared).await, 1);
    assert_eq!(estimates(&pool, known).await.len(), 5);
    assert_eq!(estimates(&pool, other).await, BTreeMap::new());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_was_submitted_alone_goes_by_the_search_that_it_is_trained_for(pool: PgPool) {
    let a = worker(&pool, "a").await;
    let id = planned(&pool, &a).await;
    let grant = a.begin(&pool).await;
    finish_in(&pool, &grant, 12.0).await;
    let digest: String = sqlx::query_scalar("select architecture_digest from job where id = $1")
        .bind(grant.token.job.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    let wish = |seed, training| Retrain {
        request_id: None,
        digest: digest.parse().unwrap(),
        search: id,
        training,
        initial_weights: None,
        seed,
        labels: Labels::default(),
        owner: None,
        trace: None,
    };
    let own = search_of(&[0.5], &[1]).spec().retrain.training.clone();
    let label = |seed| format!("retrain {} seed {seed}", &digest[..12]);
    submit_retrain(&pool, &wish(7, None)).await.unwrap();
    let longer = TrainingSpec { epochs: 2 * own.epochs, ..own.clone() };
    submit_retrain(&pool, &wish(8, Some(longer))).await.unwrap();
    // Nobody knows how long a step of other batches takes.
    let wider = TrainingSpec { batch_size: 2 * own.batch_size, ..own };
    submit_retrain(&pool, &wish(9, Some(wider))).await.unwrap();
    let found = estimates(&pool, id).await;
    let of = |seed| found.get(&label(seed)).copied();
    assert_eq!([of(7), of(8), of(9)], [Some(alike(12, 1)), Some(alike(24, 1)), None]);
}

/// By six hours and what it takes.
#[sqlx::test(migrations = "../migrations")]
async fn a_search_is_moved_ahead_in_time_to_end_by_its_deadline(pool: PgPool) {
    let a = worker(&pool, "a").await;
    planned(&pool, &a).await;
    let search = search_of(&[0.5], &[1, 2, 3]);
    let terms = Terms { deadline: Some(Utc::now() + TimeDelta::hours(10)), ..Terms::default() };
    let due = submit_with(&pool, &search, &terms, None).await.unwrap();
    let next = async || {
        round(&pool).await;
        sqlx::query_scalar::<_, Option<Uuid>>(
            "select search_id from job where waits order by is_held, rank limit 1",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    // The supernet of a later search goes first as any does; then the order of submission holds.
    assert_eq!(next().await, Some(due.0));
    finish(&pool, &a.begin(&pool).await, &search).await;
    assert_ne!(next().await, Some(due.0));
    let first = "update job set planned_rank = -9000000000000 where waits and search_id = $1
        and label = 'baseline c3d seed 1'";
    sqlx::query(first).bind(due.0).execute(&pool).await.unwrap();
    // It took five hours.
    let grant = a.begin(&pool).await;
    finish_in(&pool, &grant, 5.0 * 3600.0).await;
    assert_eq!(next().await, Some(due.0), "the next one must start within five hours");
}

/// Thousands of jobs of the search of a job, all of which have ended.
const FILL: &str = "with many as (
        insert into job (id, search_id, kind, label, architecture_digest, seed, trainer_job, step_count, task,
            state, epoch, end_time)
        select gen_random_uuid(), search_id, kind, label, architecture_digest, 1000 + n, trainer_job,
            step_count, task, 'succeeded', 1, clock_timestamp()
        from job cross join generate_series(1, 3000) as n where label = 'baseline c3d seed 1'
        returning id
    ), attempts as (
        insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state,
            start_time, end_time, end_reason)
        select id, 1, decode(repeat('ab', 16), 'hex'), 'a', 1, 'cpu', gen_random_uuid(), 'ended',
            clock_timestamp(), clock_timestamp(), 'succeeded' from many
    ), saved as (
        insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes, settled)
        select id, 1, 10, id::text, repeat('a', 64), 1, true from many
    )
    insert into result (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, mean_dice,
        dice_per_class, quality, quality_metric, param_count, mac_count, peak_memory_mib, train_duration_s,
        device)
    select id, 1, 0, decode(repeat('ab', 32), 'hex'), 1, 10, 0.5, '{0.5}', 0.5, 'mean_dice', 1, 1, 1, 99, 'cpu'
    from many";

#[sqlx::test(migrations = false)]
async fn a_round_does_not_read_all_jobs_of_a_search(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let pools = connect(&url, PoolSizes { control: 3, renewals: 1 }).await.unwrap();
    // One connection, of those that rounds are planned over.
    let control = &pools.control;
    assert_eq!(control.options().get_max_connections(), 1);
    let a = worker(control, "a").await;
    let id = planned(control, &a).await;
    finish_in(control, &a.begin(control).await, 12.0).await;
    assert_eq!(estimates(control, id).await.len(), 5);
    sqlx::query(FILL).execute(control).await.unwrap();
    // As autovacuum does within a minute. Until then a plan made for empty tables may read all.
    sqlx::query("analyze").execute(control).await.unwrap();
    let before = reads(control).await;
    let mut connection = control.acquire().await.unwrap();
    let snapshot = load(&mut connection, Rules::default().lease_ttl, Extent::Front).await.unwrap();
    drop(connection);
    let read = reads(control).await - before;
    assert!(read < ROWS_MAX, "with thousands of results of its search: {read}");
    assert_eq!(snapshot.waiting.iter().filter(|row| snapshot.estimate(row).is_some()).count(), 5);
    pools.close().await;
}
