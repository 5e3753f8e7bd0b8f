//! Parts of one attempt: several of one worker, and one that is asked for twice.

use cakes_coordinator::core::lease::{Policy, Verdict};
use cakes_coordinator::core::worker::Device;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::attempts::{Acquisition, gang, reconcile, start};

use crate::gangs::{ask, joining_with, spread_search, supernet};
use crate::support::{count, cpu, state, submit};

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
