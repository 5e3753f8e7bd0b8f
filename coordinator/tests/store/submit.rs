use cakes_coordinator::store::searches::Terms;
use cakes_coordinator::store::{Error, PgPool, searches};

use crate::support::{count, open_connections, search_of, small_search};

#[sqlx::test(migrations = "../migrations")]
async fn concurrent_submissions_with_one_request_id_are_one_search(pool: PgPool) {
    let (search, none) = (small_search(), Terms::default());
    open_connections(&pool).await;
    let calls = (0..5).map(|_| searches::submit(&pool, &search, &none, Some("once")));
    let ids: Vec<_> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(count(&pool, "select count(*) from search").await, 1);
    assert_eq!(count(&pool, "select count(*) from job").await, 2, "a supernet and a baseline");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_request_id_stands_for_one_description(pool: PgPool) {
    searches::submit(&pool, &small_search(), &Terms::default(), Some("once")).await.unwrap();
    let error =
        searches::submit(&pool, &search_of(&[0.4], &[1]), &Terms::default(), Some("once")).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { request_id } if request_id == "once"));
    assert_eq!(count(&pool, "select count(*) from search").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn without_a_request_id_every_submission_is_a_search(pool: PgPool) {
    for _ in 0..2 {
        searches::submit(&pool, &small_search(), &Terms::default(), None).await.unwrap();
    }
    assert_eq!(count(&pool, "select count(*) from search").await, 2);
    let refused = searches::submit(&pool, &small_search(), &Terms::default(), Some("")).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { field: "request_id", .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_largest_seed_survives_the_database(pool: PgPool) {
    searches::submit(&pool, &small_search(), &Terms::default(), None).await.unwrap();
    let same = "select count(*) from job
        where kind = 'supernet' and seed = 18446744073709551615 and (trainer_job ->> 'seed')::numeric = seed";
    assert_eq!(count(&pool, same).await, 1);
}
