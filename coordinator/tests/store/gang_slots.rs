//! Which slots rounds keep for a job that trains on several.

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::Device;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::attempts::fail;

use crate::gangs::{ask, joining, joining_with, keep, spread_search, supernet};
use crate::projects::round;
use crate::support::{count, cpu, submit, worker};

/// Workers whose slots are kept.
async fn kept(pool: &PgPool) -> Option<String> {
    let statement = "select string_agg(id, ' ' order by id) from worker where kept <> '{}'";
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn rounds_keep_the_slots_of_a_spread_job_until_it_has_them(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    joining(&pool, "c").await;
    round(&pool).await;
    assert_eq!(kept(&pool).await.as_deref(), Some("a b"));
    assert!(ask(&pool, &a.wish()).await.is_none());
    assert!(ask(&pool, &b.wish()).await.is_some());
    // Nothing is kept any more, and the part that was not handed out waits all the same.
    round(&pool).await;
    assert_eq!(kept(&pool).await, None);
    assert_eq!(ask(&pool, &a.wish()).await.unwrap().token.job, job);
    let busy = "select count(*) from dashboard.workers where busy_device_count = 1";
    assert_eq!(count(&pool, busy).await, 2);
    let shown = "select count(*) from dashboard.gpu_time";
    assert_eq!(count(&pool, shown).await, 2, "one row for each slot");
    let named = "select count(*) from dashboard.jobs where slots[1] like 'a %' and slots[2] like 'b %'";
    assert_eq!(count(&pool, named).await, 1);
}

/// All slots that are kept have been for a minute.
async fn kept_for_long(pool: &PgPool) {
    let statement = "update worker set kept_since = (
            select coalesce(jsonb_object_agg(device, clock_timestamp() - interval '1 minute'), '{}')
            from jsonb_object_keys(kept) as device)";
    sqlx::query(statement).execute(pool).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_slot_that_does_not_ask_for_its_part_is_left_out(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let a = joining(&pool, "a").await;
    for name in ["b", "c"] {
        joining(&pool, name).await;
    }
    round(&pool).await;
    kept_for_long(&pool).await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    round(&pool).await;
    assert_eq!(kept(&pool).await.as_deref(), Some("a c"));
    for _ in 0..2 {
        round(&pool).await;
        assert_eq!(kept(&pool).await.as_deref(), Some("a c"), "it does not go back and forth");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_slot_whose_job_has_only_just_ended_is_not_left_out(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    let other = ask(&pool, &b.wish()).await.expect("the baseline trains on one device");
    keep(&pool, job, &[&a, &b]).await;
    kept_for_long(&pool).await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    fail(&pool, &Policy::default(), other.token, FailureClass::Lost, "gone").await.unwrap();
    joining(&pool, "c").await;
    round(&pool).await;
    assert_eq!(kept(&pool).await.as_deref(), Some("a b"));
    let earlier = "update attempt set grant_time = grant_time - interval '1 minute',
            end_time = end_time - interval '1 minute'";
    sqlx::query(earlier).execute(&pool).await.unwrap();
    round(&pool).await;
    assert_eq!(kept(&pool).await.as_deref(), Some("a c"), "it had its time");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_slot_is_kept_since_it_was_first_whatever_becomes_of_the_others_of_its_worker(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let two = vec![cpu(), Device { name: "cpu:1".into(), ..cpu() }];
    let a = joining_with(&pool, "a", two).await;
    keep(&pool, job, &[&a]).await;
    let since =
        "update worker set kept_since = jsonb_build_object('cpu', clock_timestamp() - interval '20 s')";
    sqlx::query(since).execute(&pool).await.unwrap();
    round(&pool).await;
    let both = "select count(*) from worker where kept ->> 'cpu' = kept ->> 'cpu:1'
            and (kept_since ->> 'cpu')::timestamptz < clock_timestamp() - interval '15 s'
            and (kept_since ->> 'cpu:1')::timestamptz > clock_timestamp() - interval '15 s'";
    assert_eq!(count(&pool, both).await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_spread_job_is_too_wide_only_for_all_slots_that_take_part(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let reason = async || {
        let statement = "select reason from dashboard.queue where kind = 'supernet'";
        sqlx::query_scalar::<_, String>(statement).fetch_one(&pool).await.unwrap()
    };
    joining(&pool, "a").await;
    assert_eq!(reason().await, "too_narrow");
    worker(&pool, "b").await;
    assert_eq!(reason().await, "too_narrow", "it takes no part");
    joining(&pool, "c").await;
    assert_ne!(reason().await, "too_narrow");
}
