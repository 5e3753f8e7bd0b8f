use std::collections::BTreeSet;

use cakes::job::{Task, TrainerJob};
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::{Device, Schedule};
use cakes_coordinator::store::attempts::{acquire, fail};
use cakes_coordinator::store::{Error, PgPool, workers};

use crate::support::{count, cpu, open_connections, search_of, small_search, state, submit, worker};

#[sqlx::test(migrations = "../migrations")]
async fn concurrent_workers_get_each_job_once(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1, 2, 3, 4, 5])).await;
    let mut fleet = Vec::new();
    for number in 0..8 {
        fleet.push(worker(&pool, &format!("w{number}")).await);
    }
    open_connections(&pool).await;
    let granted = futures::future::join_all(fleet.iter().map(|worker| worker.acquire(&pool))).await;
    let jobs: Vec<_> = granted.into_iter().flatten().map(|grant| grant.token.job).collect();
    let distinct: BTreeSet<_> = jobs.iter().collect();
    assert_eq!((jobs.len(), distinct.len()), (6, 6), "a supernet and five seeds of the baseline");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_supernet_goes_first_and_carries_its_job(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.acquire(&pool).await.unwrap();
    let job: TrainerJob = serde_json::from_str(&grant.trainer_job_json).unwrap();
    assert_eq!(job, search.supernet_job());
    assert!(matches!(job.task, Task::Supernet { .. }));
    assert_eq!(grant.token.epoch, 1);
    assert_eq!(grant.resume_from, None);
    assert!(grant.artifact_prefix.starts_with(&format!("{}/1-", grant.token.job)));
    assert_eq!(state(&pool, grant.token.job).await, "leased");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_repeated_request_gets_the_first_grant(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let wish = worker.wish();
    let policy = Policy::default();
    open_connections(&pool).await;
    let calls = (0..4).map(|_| acquire(&pool, &policy, &wish));
    let grants: Vec<_> =
        futures::future::join_all(calls).await.into_iter().map(|grant| grant.unwrap().unwrap()).collect();
    assert!(grants.iter().all(|grant| *grant == grants[0]));
    assert_eq!(count(&pool, "select count(*) from attempt").await, 1);

    fail(&pool, &policy, grants[0].token, FailureClass::User, "no").await.unwrap();
    assert_eq!(acquire(&pool, &policy, &wish).await.unwrap(), None, "what has ended is not granted again");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_take_a_job_gets_none(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    for schedule in [Schedule::Cordoned, Schedule::Draining] {
        workers::schedule(&pool, &worker.id, schedule).await.unwrap();
        assert_eq!(worker.acquire(&pool).await, None, "{schedule}");
    }
    workers::schedule(&pool, &worker.id, Schedule::Ready).await.unwrap();

    let mut wish = worker.wish();
    wish.device = Device { memory_mib: 10, ..cpu() };
    assert_eq!(acquire(&pool, &Policy::default(), &wish).await.unwrap(), None, "too small a device");
    assert!(worker.acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn an_older_start_of_a_daemon_is_refused(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let first = worker(&pool, "a").await;
    let second = worker(&pool, "a").await;
    assert_eq!((first.incarnation, second.incarnation), (1, 2));
    let refused = acquire(&pool, &Policy::default(), &first.wish()).await.unwrap_err();
    assert!(matches!(refused, Error::StaleIncarnation { current: 2 }));
    assert!(second.acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn after_a_fault_of_a_machine_the_job_goes_elsewhere(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let (broken, sound) = (worker(&pool, "broken").await, worker(&pool, "sound").await);
    let grant = broken.begin(&pool).await;
    fail(&pool, &Policy::default(), grant.token, FailureClass::Infrastructure, "disk full").await.unwrap();
    sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();
    assert_ne!(broken.acquire(&pool).await.unwrap().token.job, grant.token.job);
    let again = sound.acquire(&pool).await.unwrap().token;
    assert_eq!((again.job, again.epoch), (grant.token.job, 2));
}
