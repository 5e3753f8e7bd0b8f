use cakes_coordinator::core::lease::{Policy, Verdict};
use cakes_coordinator::store::attempts::reconcile;
use cakes_coordinator::store::{Error, PgPool};
use cakes_proto::ids::{LeaseToken, Nonce};

use crate::support::{report_of, small_search, state, submit, tell, worker};

#[sqlx::test(migrations = "../migrations")]
async fn a_restarted_daemon_keeps_what_it_names_and_loses_the_rest(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let before = worker(&pool, "a").await;
    let (kept, forgotten) = (before.begin(&pool).await.token, before.begin(&pool).await.token);
    let after = worker(&pool, "a").await;
    let forged = LeaseToken { nonce: Nonce([1; 16]), ..forgotten };
    let policy = Policy::default();
    for _ in 0..2 {
        let verdicts =
            reconcile(&pool, &policy, &after.id, after.incarnation, &[forged, kept]).await.unwrap();
        assert_eq!(verdicts, [Verdict::Kill, Verdict::Keep]);
    }
    assert_eq!(state(&pool, kept.job).await, "running");
    assert_eq!(state(&pool, forgotten.job).await, "queued", "without waiting for the lease");
    tell(&pool, &report_of(kept, 1, 1, 1)).await.unwrap();
    let late = tell(&pool, &report_of(forgotten, 1, 1, 1)).await.unwrap_err();
    assert!(matches!(late, Error::LeaseLost { .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_late_reconciliation_leaves_attempts_of_the_present_start_alone(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let token = worker.begin(&pool).await.token;
    reconcile(&pool, &Policy::default(), &worker.id, worker.incarnation, &[]).await.unwrap();
    assert_eq!(state(&pool, token.job).await, "running");
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_reconciles_for_another_worker_or_start(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let (mine, other) = (worker(&pool, "a").await, worker(&pool, "b").await);
    let token = mine.begin(&pool).await.token;
    let verdicts =
        reconcile(&pool, &Policy::default(), &other.id, other.incarnation, &[token]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Kill]);
    let stale = reconcile(&pool, &Policy::default(), &mine.id, 0, &[]).await.unwrap_err();
    assert!(matches!(stale, Error::StaleIncarnation { current: 1 }));
    assert_eq!(state(&pool, token.job).await, "running");
}
