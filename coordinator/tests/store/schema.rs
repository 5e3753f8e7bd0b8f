//! What the tables themselves refuse, and how a connection begins.

use std::borrow::Cow;
use std::time::Duration;

use cakes_coordinator::store::{Error, MIGRATIONS, PgPool, PoolSizes, connect};
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;

use crate::support::{report_of, small_search, submit, tell, worker};

async fn refused(pool: &PgPool, statement: &'static str, constraint: &str) {
    let error = sqlx::query(statement).execute(pool).await.unwrap_err().to_string();
    assert!(error.contains(constraint), "{statement}: {error}");
}

#[sqlx::test(migrations = "../migrations")]
async fn impossible_rows_cannot_be_written(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    tell(&pool, &report_of(token, 1, 1, 1)).await.unwrap();
    let second_attempt = "insert into attempt
            (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id)
        select job_id, epoch + 1, nonce, worker_id, incarnation, device, gen_random_uuid() from attempt";
    refused(&pool, second_attempt, "attempt_one_live").await;
    refused(&pool, "update job set state = 'succeeded'", "job_check").await;
    refused(&pool, "update job set state = 'done'", "job_state_check").await;
    let own = "update job set supernet_job_id = id where kind = 'supernet'";
    refused(&pool, own, "job_supernet_check").await;
    refused(&pool, "update search set state = 'succeeded'", "search_check").await;
    refused(&pool, "update attempt set state = 'ended'", "attempt_check").await;
    let no_table =
        "insert into supernet_scores (job_id, scores, latency) select id, '{}', '{\"layers\": []}' from job";
    refused(&pool, no_table, "supernet_scores_latency").await;
    refused(&pool, "update metric set value = 0", "never changed").await;
    refused(&pool, "delete from metric", "never changed").await;
    refused(&pool, "delete from event", "never changed").await;
}

#[sqlx::test(migrations = false)]
async fn a_connection_brings_the_tables_up_to_date_once(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    for _ in 0..2 {
        let pools = connect(&url, PoolSizes::default()).await.unwrap();
        submit(&pools.control, &small_search()).await;
        pools.close().await;
    }
}

/// Rows of before there was classification say what their figure is, and stay
/// protected.
#[sqlx::test(migrations = false)]
async fn results_of_segmentation_keep_their_dice_under_its_name(pool: PgPool) {
    let before = MIGRATIONS.iter().filter(|migration| migration.version < 12).cloned().collect();
    Migrator { migrations: Cow::Owned(before), ..Migrator::DEFAULT }.run(&pool).await.unwrap();
    let old = "with search as (
            insert into search (id, name, spec) values (gen_random_uuid(), 'old', '{}') returning id
        ), worker as (
            insert into worker (id, incarnation, devices, version, register_request_id)
            values ('w', 1, '[]', '1', gen_random_uuid()) returning id
        ), job as (
            insert into job (id, search_id, kind, label, seed, trainer_job, step_count, state, epoch, end_time)
            select gen_random_uuid(), id, 'supernet', 'supernet', 0, '{}', 9, 'succeeded', 1, clock_timestamp()
            from search returning id
        ), attempt as (
            insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id)
            select job.id, 1, decode(repeat('ab', 16), 'hex'), worker.id, 1, 'cpu', gen_random_uuid()
            from job, worker returning job_id
        ), checkpoint as (
            insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes)
            select job_id, 1, 9, 'k', repeat('a', 64), 1 from attempt returning job_id
        ), progress as (
            insert into job_progress
                (job_id, step, step_count, loss, learning_rate, samples_per_s, mean_dice, phase)
            select id, 9, 9, 0.5, 0.1, 1, 0.625, 'training' from job
        )
        insert into result (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step,
            mean_dice, dice_per_class, param_count, mac_count, peak_memory_mib, train_duration_s, device)
        select job_id, 1, 0, decode(repeat('ab', 32), 'hex'), 1, 9, 0.75, '{0.5, 1}', 1, 1, 1, 1, 'cpu'
        from checkpoint";
    sqlx::query(old).execute(&pool).await.unwrap();
    MIGRATIONS.run(&pool).await.unwrap();
    let found: (f64, String, f64, String) = sqlx::query_as(
        "select result.quality, result.quality_metric, progress.quality, progress.quality_metric
         from result join job_progress progress using (job_id)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(found, (0.75, "mean_dice".into(), 0.625, "mean_dice".into()));
    refused(&pool, "update result set quality = 0", "never changed").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_database_of_a_newer_version_is_refused_with_the_remedy(pool: PgPool) {
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9000, 'from the future', true, '', 0)";
    sqlx::query(newer).execute(&pool).await.unwrap();
    let url = pool.connect_options().to_url_lossy().to_string();
    let error = connect(&url, PoolSizes::default()).await.unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 9000, .. }), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}

/// A migration that waits for a table lets those pass who come behind it.
#[sqlx::test(migrations = "../migrations")]
async fn a_migration_keeps_nobody_waiting_while_it_waits_itself(pool: PgPool) {
    let set_back = "drop table project_member; delete from _sqlx_migrations where version = 33;
        insert into project (name) values ('lung')";
    sqlx::raw_sql(set_back).execute(&pool).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("update project set share = 2 where name = 'default'").execute(&mut *holder).await.unwrap();
    let url = pool.connect_options().to_url_lossy().to_string();
    let migrating = connect(&url, PoolSizes::default());
    let others = async {
        // Until it waits for the table, behind which others would wait.
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'project'::regclass)";
        for _ in 0..2 {
            while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let pass = "update project set share = share + 1 where name = 'lung'";
            sqlx::query(pass).execute(&pool).await.unwrap();
        }
        holder.commit().await.unwrap();
    };
    let others = tokio::time::timeout(Duration::from_secs(20), others);
    let (migrated, passed) = tokio::join!(migrating, others);
    passed.expect("it has not waited, or nobody has passed meanwhile");
    migrated.unwrap().close().await;
    let members: i64 =
        sqlx::query_scalar("select count(*) from project_member").fetch_one(&pool).await.unwrap();
    assert_eq!(members, 0, "the table is there");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_with_the_remedy() {
    let error = connect("postgres://nobody@127.0.0.1:1/none", PoolSizes::default()).await.unwrap_err();
    assert!(error.is_unavailable());
    assert!(error.to_string().contains("--database-url"), "{error}");
}
