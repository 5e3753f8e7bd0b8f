//! The connection that calls of workers keep from transaction to transaction.

use std::time::Duration;

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::store::attempts::move_together;
use cakes_coordinator::store::{Error, Kept, PgPool};

use crate::support::{Worker, worker};

/// One wish, of which the answer says only whether the database was reached.
async fn ask(kept: &Kept, worker: &Worker) -> Result<(), Error> {
    move_together(kept, &Policy::default(), &[], &[&worker.wish()]).await.map(drop)
}

/// Its process in the database.
async fn last_backend(pool: &PgPool) -> i32 {
    let last = "select pid from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and query = 'COMMIT'
        order by state_change desc limit 1";
    sqlx::query_scalar(last).fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_connection_is_kept_until_it_breaks_and_then_replaced(pool: PgPool) {
    let worker = worker(&pool, "a").await;
    let kept = Kept::new(pool.clone());
    ask(&kept, &worker).await.unwrap();
    let first = last_backend(&pool).await;
    ask(&kept, &worker).await.unwrap();
    assert_eq!(last_backend(&pool).await, first, "it is used again");

    let ended: bool = sqlx::query_scalar("select pg_terminate_backend($1, 5000)")
        .bind(first)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(ended);
    assert!(ask(&kept, &worker).await.is_err(), "nobody has looked at it since");
    ask(&kept, &worker).await.unwrap();
    assert_ne!(last_backend(&pool).await, first);

    // Who has not used it for a while does not trust it.
    let second = last_backend(&pool).await;
    sqlx::query("select pg_terminate_backend($1, 5000)").bind(second).execute(&pool).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    ask(&kept, &worker).await.unwrap();
}
