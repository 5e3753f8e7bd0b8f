use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::{
    commit_checkpoint, complete, expire_leases, extend_leases, fail, start,
};
use cakes_coordinator::store::{Error, PgPool, jobs};

use crate::support::{
    checkpoint_of, completion, count, let_leases_run_out, open_connections, picture, report_of, save,
    small_search, state, submit, tell, worker,
};

#[sqlx::test(migrations = "../migrations")]
async fn a_silent_worker_loses_its_job_which_goes_on_from_the_last_checkpoint(pool: PgPool) {
    let policy = Policy::default();
    submit(&pool, &small_search()).await;
    let (lost, other) = (worker(&pool, "lost").await, worker(&pool, "other").await);
    let zombie = lost.begin(&pool).await;
    tell(&pool, &report_of(zombie.token, 1, 4, 7)).await.unwrap();
    let saved = save(&pool, &zombie, 5).await;
    assert_eq!(expire_leases(&pool, &policy).await.unwrap(), 0, "its lease has not run out");
    let_leases_run_out(&pool).await;
    assert_eq!(expire_leases(&pool, &policy).await.unwrap(), 1);
    assert_eq!(state(&pool, zombie.token.job).await, "queued");

    let heir = other.begin(&pool).await;
    assert_eq!((heir.token.job, heir.token.epoch), (zombie.token.job, 2));
    assert_eq!(heir.resume_from, Some(saved.clone()));
    assert_ne!(heir.artifact_prefix, zombie.artifact_prefix);

    let before = picture(&pool).await;
    let late = [
        tell(&pool, &report_of(zombie.token, 5, 1, 8)).await.map(drop),
        start(&pool, &policy, zombie.token).await,
        commit_checkpoint(&pool, zombie.token, &checkpoint_of(&zombie, 8), 1).await,
        complete(&pool, zombie.token, &completion(saved, None)).await,
        fail(&pool, &policy, zombie.token, FailureClass::Lost, "late").await,
    ];
    for result in late {
        assert!(matches!(result, Err(Error::LeaseLost { current_epoch: 2 })), "{result:?}");
    }
    assert_eq!(picture(&pool).await, before, "a zombie changes nothing");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_late_report_revives_a_lease_that_nobody_took(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let_leases_run_out(&pool).await;
    tell(&pool, &report_of(token, 1, 1, 1)).await.unwrap();
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 0);
    assert_eq!(state(&pool, token.job).await, "running");
}

/// The sweep has read the deadline and waits for a lock while the report comes.
#[sqlx::test(migrations = "../migrations")]
async fn a_report_that_comes_in_during_a_sweep_keeps_the_lease(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let_leases_run_out(&pool).await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select id from job for no key update").execute(&mut *holder).await.unwrap();
    let policy = Policy::default();
    let meanwhile = async {
        let waits = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        while count(&pool, waits).await == 0 {}
        tell(&pool, &report_of(token, 1, 1, 1)).await.unwrap();
        holder.commit().await.unwrap();
    };
    let (ended, ()) = tokio::join!(expire_leases(&pool, &policy), meanwhile);
    assert_eq!(ended.unwrap(), 0);
    assert_eq!(state(&pool, token.job).await, "running");
}

#[sqlx::test(migrations = "../migrations")]
async fn two_sweeps_at_once_take_each_job_once(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    worker.begin(&pool).await;
    worker.begin(&pool).await;
    let_leases_run_out(&pool).await;
    open_connections(&pool).await;
    let policy = Policy::default();
    let (one, two) = tokio::join!(expire_leases(&pool, &policy), expire_leases(&pool, &policy));
    assert_eq!(one.unwrap() + two.unwrap(), 2);
    assert_eq!(count(&pool, "select count(*) from event where kind = 'job_requeued'").await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_offer_that_is_not_taken_goes_back_without_blame(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let grant = worker(&pool, "a").await.acquire(&pool).await.unwrap();
    let_leases_run_out(&pool).await;
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 1);
    let late = start(&pool, &Policy::default(), grant.token).await.unwrap_err();
    assert!(matches!(late, Error::LeaseLost { current_epoch: 1 }));
    assert_eq!(count(&pool, "select count(*) from job where no_progress_count > 0").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cancelled_job_of_a_silent_worker_ends_with_its_lease(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    jobs::cancel(&pool, token.job.into(), "").await.unwrap();
    let_leases_run_out(&pool).await;
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 1);
    assert_eq!(state(&pool, token.job).await, "cancelled");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_amnesty_gives_every_lease_a_fresh_term(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    worker.begin(&pool).await;
    worker.begin(&pool).await;
    let_leases_run_out(&pool).await;
    assert_eq!(extend_leases(&pool, &Policy::default()).await.unwrap(), 2);
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 0);
}
