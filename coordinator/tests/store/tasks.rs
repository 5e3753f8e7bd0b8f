//! The tasks that run all this, as the daemon starts them.

use std::time::Duration;

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::schedule::Rules;
use cakes_coordinator::reconcile::{Bell, Webhooks, spawn};
use cakes_coordinator::store::{PgPool, Pools};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{finish, let_leases_run_out, search_of, search_state, state, submit, worker};

/// Asks until `condition` holds.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never came about");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_tasks_advance_searches_take_back_jobs_and_stop_when_told(pool: PgPool) {
    let pools =
        Pools { control: pool.clone(), renewals: pool.clone(), turnover: pool.clone(), upkeep: pool.clone() };
    let (bell, stop, tracker) = (Bell::new(), CancellationToken::new(), TaskTracker::new());
    spawn(&pools, Policy::default(), Rules::default(), Webhooks::default(), &bell, &stop, &tracker);
    let search = search_of(&[1.0], &[1]);
    let id = submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;

    finish(&pool, &worker.begin(&pool).await, &search).await;
    bell.ring();
    until(async || search_state(&pool, id).await == "retraining").await;

    let lost = worker.begin(&pool).await.token.job;
    until(async || {
        // Again and again, since the first sweep gives a fresh term to all.
        let_leases_run_out(&pool).await;
        state(&pool, lost).await == "queued"
    })
    .await;

    finish(&pool, &worker.begin(&pool).await, &search).await;
    until(async || search_state(&pool, id).await == "succeeded").await;

    stop.cancel();
    tracker.close();
    tokio::time::timeout(Duration::from_secs(60), tracker.wait()).await.expect("the tasks stop");
}
