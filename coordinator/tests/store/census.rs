use std::time::Duration;

use cakes::labels::Labels;
use cakes_coordinator::core::worker::Device;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::read::census::take;
use cakes_coordinator::store::workers::{Registration, register};
use uuid::Uuid;

use crate::support::{cpu, search_of, submit, worker};

/// What is told of a family, by its labels.
async fn of(pool: &PgPool, family: &str) -> Vec<(String, String, f64)> {
    let counts = take(pool, Duration::from_secs(60)).await.unwrap();
    let own = counts.into_iter().filter(|count| count.family == family);
    let mut own: Vec<_> = own.map(|count| (count.first, count.second, count.value)).collect();
    own.sort_by(|left, right| left.partial_cmp(right).unwrap());
    own
}

fn told(first: &str, second: &str, value: f64) -> (String, String, f64) {
    (first.to_owned(), second.to_owned(), value)
}

#[sqlx::test(migrations = "../migrations")]
async fn devices_are_counted_by_kind_and_a_slot_is_as_many_as_it_has(pool: PgPool) {
    assert_eq!(of(&pool, "devices").await, []);
    let slot = |name: &str, count| Device { name: name.to_owned(), count, ..cpu() };
    let registration = Registration {
        worker: "gpu".parse().unwrap(),
        request_id: Uuid::new_v4(),
        devices: vec![slot("cuda:0+cuda:1", 2), slot("cuda:2", 1)],
        labels: Labels::default(),
        joins_gangs: false,
        version: "1.0.0".into(),
    };
    register(&pool, &registration).await.unwrap();
    submit(&pool, &search_of(&[0.5], &[1, 2])).await;
    let small = worker(&pool, "small").await;
    assert!(small.acquire(&pool).await.is_some());
    assert_eq!(of(&pool, "devices").await, [told("cpu", "busy", 1.0), told("cuda", "idle", 3.0)]);
    assert_eq!(of(&pool, "jobs").await, [told("leased", "", 1.0), told("queued", "", 2.0)]);
    assert_eq!(of(&pool, "workers").await, [told("ready", "", 2.0)]);
    assert_eq!(of(&pool, "waiting").await.iter().map(|(_, _, value)| value).sum::<f64>(), 2.0);

    sqlx::query(
        "update worker set last_seen_time = clock_timestamp() - interval '2 minutes' where id = 'gpu'",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(of(&pool, "devices").await, [told("cpu", "busy", 1.0), told("cuda", "absent", 3.0)]);
}
