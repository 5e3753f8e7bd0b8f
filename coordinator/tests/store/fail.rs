use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::fail;
use cakes_coordinator::store::{Error, PgPool, jobs};

use crate::support::{count, picture, reason, report_of, save, small_search, state, submit, tell, worker};

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_is_wrong_fails_at_once_with_its_reason(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    for _ in 0..2 {
        fail(&pool, &Policy::default(), token, FailureClass::User, "no such folder").await.unwrap();
    }
    assert_eq!(state(&pool, token.job).await, "failed");
    assert_eq!(reason(&pool, token.job).await, "no such folder");
    assert_eq!(count(&pool, "select count(*) from event where kind = 'job_failed'").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_numeric_failure_is_tried_once_more_from_the_last_checkpoint(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    for (attempt, expected) in [(1, "queued"), (2, "failed")] {
        let grant = worker.begin(&pool).await;
        assert_eq!(grant.token.epoch, attempt);
        assert_eq!(grant.resume_from.as_ref().map(|checkpoint| checkpoint.step), (attempt == 2).then_some(4));
        tell(&pool, &report_of(grant.token, 1, 1, 4 + attempt)).await.unwrap();
        if attempt == 1 {
            save(&pool, &grant, 4).await;
        }
        fail(&pool, &Policy::default(), grant.token, FailureClass::Numeric, "loss is NaN").await.unwrap();
        assert_eq!(state(&pool, grant.token.job).await, expected);
        sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_failed_job_waits_before_it_is_offered_again(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let (first, second) = (worker(&pool, "a").await, worker(&pool, "b").await);
    let token = first.begin(&pool).await.token;
    fail(&pool, &Policy::default(), token, FailureClass::Resource, "out of memory").await.unwrap();
    assert_ne!(second.acquire(&pool).await.unwrap().token.job, token.job, "the baseline");
    assert_eq!(second.acquire(&pool).await, None, "the supernet is held back");
}

#[sqlx::test(migrations = "../migrations")]
async fn handing_a_job_back_as_asked_pauses_it_and_costs_no_try(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let grant = worker.begin(&pool).await;
    jobs::pause(&pool, grant.token.job.into()).await.unwrap();
    save(&pool, &grant, 3).await;
    fail(&pool, &Policy::default(), grant.token, FailureClass::Lost, "handed back").await.unwrap();
    assert_eq!(state(&pool, grant.token.job).await, "paused");
    assert_eq!(count(&pool, "select count(*) from attempt where end_reason = 'handed back'").await, 1);
    assert_eq!(count(&pool, "select count(*) from job where lost_count > 0").await, 0);

    jobs::resume(&pool, grant.token.job.into(), None).await.unwrap();
    let again = worker.begin(&pool).await;
    assert_eq!(again.token.job, grant.token.job);
    assert_eq!(again.resume_from.map(|checkpoint| checkpoint.step), Some(3));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_offer_that_is_handed_back_goes_back_without_blame(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    for _ in 0..3 {
        let grant = worker.acquire(&pool).await.unwrap();
        for _ in 0..2 {
            fail(&pool, &Policy::default(), grant.token, FailureClass::Lost, "not begun").await.unwrap();
        }
        assert_eq!(state(&pool, grant.token.job).await, "queued");
    }
    assert_eq!(count(&pool, "select count(*) from job where no_progress_count > 0").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_is_handed_on_farther_than_before_loses_no_try(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    for (step, lost) in [(4, 0), (8, 0), (8, 1)] {
        let grant = worker.begin(&pool).await;
        tell(&pool, &report_of(grant.token, 1, 1, step)).await.unwrap();
        fail(&pool, &Policy::default(), grant.token, FailureClass::Lost, "the allocation ends")
            .await
            .unwrap();
        assert_eq!(state(&pool, grant.token.job).await, "queued");
        assert_eq!(count(&pool, "select sum(lost_count) from job").await, lost, "step {step}");
        // The next one goes on with the same job.
        sqlx::query("update job set run_after = clock_timestamp() + interval '1 hour' where id <> $1")
            .bind(grant.token.job.0)
            .execute(&pool)
            .await
            .unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cancelled_attempt_ends_its_job_as_cancelled(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    jobs::cancel(&pool, token.job.into(), "changed my mind").await.unwrap();
    assert_eq!(state(&pool, token.job).await, "cancelling");
    fail(&pool, &Policy::default(), token, FailureClass::Cancelled, "stopped").await.unwrap();
    assert_eq!(state(&pool, token.job).await, "cancelled");
    assert_eq!(reason(&pool, token.job).await, "changed my mind");
    let before = picture(&pool).await;
    fail(&pool, &Policy::default(), token, FailureClass::Cancelled, "stopped").await.unwrap();
    let late = tell(&pool, &report_of(token, 1, 1, 1)).await.unwrap_err();
    assert!(matches!(late, Error::LeaseLost { .. }));
    assert_eq!(picture(&pool).await, before);
}
