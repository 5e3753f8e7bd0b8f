//! What a job costs does not depend on how many came before it, though the statements
//! were planned when the tables were empty.

use cakes_coordinator::core::retention::Policy;
use cakes_coordinator::store::{PgPool, PoolSizes, checkpoints, connect, searches, workers};
use sqlx::ConnectOptions;

use crate::support::{count, finish, search_of, submit, worker};

/// Rows that a job may read, with all that belongs to it.
pub const ROWS_MAX: i64 = 300;

/// Thousands of jobs that have ended, as far as others read of them.
const FILL: &str = "with many as (select gen_random_uuid() as job_id, n from generate_series(1, 3000) n),
    attempts as (
        insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state,
            start_time, end_time, end_reason)
        select job_id, 1, decode(repeat('ab', 16), 'hex'), 'b', 1, 'cpu', gen_random_uuid(), 'ended',
            clock_timestamp(), clock_timestamp(), 'succeeded' from many
    )
    insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes, settled)
    select job_id, 1, 10, job_id::text, repeat('a', 64), 1, true from many";

#[sqlx::test(migrations = false)]
async fn a_job_reads_a_handful_of_rows_however_many_there_are(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let pools = connect(&url, PoolSizes { control: 2, renewals: 1 }).await.unwrap();
    // One connection, with the settings of those that serve workers.
    let turnover = &pools.turnover;
    assert_eq!(turnover.options().get_max_connections(), 1);
    let search = search_of(&[0.5], &[1, 2, 3, 4]);
    let id = submit(&pools.control, &search).await;
    let worker = worker(turnover, "a").await;
    finish(turnover, &worker.begin(turnover).await, &search).await;
    while searches::advance(&pools.control, id).await.unwrap() > 0 {}
    let first = reads_of_a_job(turnover, &worker, &search).await;
    assert!(first < ROWS_MAX, "with empty tables: {first}");

    sqlx::query(FILL).execute(&pools.control).await.unwrap();
    let later = reads_of_a_job(turnover, &worker, &search).await;
    assert!(later < ROWS_MAX, "with thousands of attempts and checkpoints: {later}, before {first}");
    pools.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_look_at_new_checkpoints_and_workers_does_not_read_the_old_ones(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let pools = connect(&url, PoolSizes { control: 2, renewals: 1 }).await.unwrap();
    let upkeep = &pools.upkeep;
    assert_eq!(upkeep.options().get_max_connections(), 1);
    let search = search_of(&[0.5], &[1, 2, 3, 4]);
    let id = submit(&pools.control, &search).await;
    let worker = worker(&pools.turnover, "a").await;
    finish(&pools.turnover, &worker.begin(&pools.turnover).await, &search).await;
    // Plans the statements.
    reads_of_a_look(upkeep).await;

    sqlx::query(FILL).execute(&pools.control).await.unwrap();
    while searches::advance(&pools.control, id).await.unwrap() > 0 {}
    finish(&pools.turnover, &worker.begin(&pools.turnover).await, &search).await;
    let reads = reads_of_a_look(upkeep).await;
    assert!(reads < ROWS_MAX, "with thousands of attempts and checkpoints: {reads}");
    let settled = count(upkeep, "select count(*) from checkpoint where not settled").await;
    assert_eq!(settled, 0, "the checkpoint of the new result was looked at");
    pools.close().await;
}

/// Rows and entries of indexes that one look at checkpoints and workers reads.
async fn reads_of_a_look(pool: &PgPool) -> i64 {
    let before = reads(pool).await;
    checkpoints::review(pool, Policy { newest: 1, is_pressed: false }, None).await.unwrap();
    workers::judge_all(pool).await.unwrap();
    reads(pool).await - before
}

/// Rows and entries of indexes that one job reads, from its grant to its result.
async fn reads_of_a_job(
    pool: &PgPool,
    worker: &crate::support::Worker,
    search: &cakes::spec::CheckedSearch,
) -> i64 {
    let before = reads(pool).await;
    finish(pool, &worker.begin(pool).await, search).await;
    reads(pool).await - before
}

/// Of this session, which counts them by itself until it is told to tell.
pub async fn reads(pool: &PgPool) -> i64 {
    sqlx::query("select pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let read = "select (coalesce((select sum(idx_tup_read) from pg_stat_user_indexes), 0)
        + coalesce((select sum(seq_tup_read) from pg_stat_user_tables), 0))::bigint";
    count(pool, read).await
}
