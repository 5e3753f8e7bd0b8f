//! What the tables themselves refuse, and how a connection begins.

use cakes_coordinator::store::{Error, PgPool, PoolSizes, connect};
use sqlx::ConnectOptions;

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
    refused(&pool, "update search set state = 'succeeded'", "search_check").await;
    refused(&pool, "update attempt set state = 'ended'", "attempt_check").await;
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

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_with_the_remedy() {
    let error = connect("postgres://nobody@127.0.0.1:1/none", PoolSizes::default()).await.unwrap_err();
    assert!(error.is_unavailable());
    assert!(error.to_string().contains("--database-url"), "{error}");
}
