//! Parts of one attempt: several of one worker, and those that end before it.

use cakes_coordinator::core::lease::{Policy, Verdict};
use cakes_coordinator::core::worker::Device;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::attempts::{Acquisition, Grant, expire_leases, gang, reconcile, start};
use cakes_coordinator::store::read::timeline::spans;
use chrono::{TimeDelta, Utc};

use crate::gangs::{
    ask, follower_falls_silent, joining, joining_with, keep, spread_search, started, supernet,
};
use crate::support::{acquire_together, count, cpu, finish, report_of, state, submit, tell};

/// It takes the whole attempt with it, so nothing of that is said to go on.
#[sqlx::test(migrations = "../migrations")]
async fn a_daemon_that_has_forgotten_one_of_its_two_parts_keeps_neither(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let second = Device { name: "cpu:1".into(), ..cpu() };
    let devices = vec![cpu(), second.clone()];
    let before = joining_with(&pool, "a", devices.clone()).await;
    sqlx::query("update worker set kept = jsonb_build_object('cpu', $1::uuid, 'cpu:1', $1::uuid)")
        .bind(job.0)
        .execute(&pool)
        .await
        .unwrap();
    assert!(ask(&pool, &before.wish()).await.is_none());
    let follower =
        ask(&pool, &Acquisition { device: second, ..before.wish() }).await.expect("both have asked");
    let leader = ask(&pool, &before.wish()).await.expect("the other part");
    assert_eq!((leader.token.member, follower.token.member), (0, 1));
    start(&pool, &Policy::default(), leader.token).await.unwrap();
    gang::start(&pool, &Policy::default(), follower.token).await.unwrap();

    let after = joining_with(&pool, "a", devices).await;
    let settled = reconcile(&pool, &Policy::default(), &after.id, after.incarnation, &[leader.token]).await;
    assert_eq!(settled.unwrap(), [Verdict::Kill]);
    assert_eq!(state(&pool, job).await, "queued");
    assert_eq!(count(&pool, "select count(*) from live_slot").await, 0);
}

/// What each slot ran, and whether it still does.
async fn shown(pool: &PgPool) -> Vec<(String, String, bool)> {
    let (from, to) = (Utc::now() - TimeDelta::hours(1), Utc::now() + TimeDelta::hours(1));
    let found = spans(pool, from, to, 10).await.unwrap();
    let mut shown: Vec<_> =
        found.into_iter().map(|span| (span.worker, span.outcome, span.end_time.is_none())).collect();
    shown.sort();
    shown
}

#[sqlx::test(migrations = "../migrations")]
async fn a_device_is_busy_until_its_own_part_has_ended(pool: PgPool) {
    let (_, _, leader, _) = started(&pool).await;
    tell(&pool, &report_of(leader.token, 1, 0, 10)).await.unwrap();
    follower_falls_silent(&pool).await;
    expire_leases(&pool, &Policy::default()).await.unwrap();
    let is = |worker: &str, outcome: &str, goes_on| (worker.to_owned(), outcome.to_owned(), goes_on);
    assert_eq!(shown(&pool).await, [is("a", "running", true), is("b", "left", false)]);
    let left = "select count(*) from dashboard.gpu_time
        where (worker_id, is_running, end_time is null) in (('a', true, true), ('b', false, false))
            and end_reason is null";
    assert_eq!(count(&pool, left).await, 2);

    finish(&pool, &leader, &spread_search()).await;
    assert_eq!(shown(&pool).await, [is("a", "succeeded", false), is("b", "succeeded", false)]);
    let earlier =
        "select count(*) from dashboard.gpu_time other join dashboard.gpu_time leader using (job_id)
        where leader.worker_id = 'a' and other.worker_id = 'b' and other.end_time < leader.end_time
            and other.duration_s < leader.duration_s";
    assert_eq!(count(&pool, earlier).await, 1);
}

/// As of a daemon that has given one up.
#[sqlx::test(migrations = "../migrations")]
async fn of_two_questions_of_a_slot_that_come_at_once_one_has_the_part(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    assert!(ask(&pool, &b.wish()).await.is_some());
    let wishes = [a.wish(), a.wish()];
    let answers = acquire_together(&pool, &wishes).await.into_iter();
    let answers: Vec<Option<Grant>> =
        answers.map(|answer| answer.expect("nobody is passed over").unwrap()).collect();
    let handed = answers.iter().position(Option::is_some).expect("one has it");
    assert_eq!(answers.iter().flatten().count(), 1, "{answers:?}");
    assert_eq!(ask(&pool, &wishes[handed]).await, answers[handed], "a repetition");
}
