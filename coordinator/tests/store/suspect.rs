use std::time::Duration;

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::schedule::Rules;
use cakes_coordinator::core::worker::Schedule;
use cakes_coordinator::reconcile::{Bell, Webhooks, spawn};
use cakes_coordinator::store::attempts::fail;
use cakes_coordinator::store::read::workers::{WorkerRecord, list};
use cakes_coordinator::store::workers::{judge_all, schedule};
use cakes_coordinator::store::{PgPool, Pools};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{Worker, count, report_of, save, small_search, submit, tell, worker};

/// A worker that takes a job and fails by its machine's fault.
async fn spoil(pool: &PgPool, worker: &Worker) {
    let grant = worker.begin(pool).await;
    fail(pool, &Policy::default(), grant.token, FailureClass::Infrastructure, "the disk is full")
        .await
        .unwrap();
}

/// One that trains.
async fn get_on(pool: &PgPool, worker: &Worker) {
    let grant = worker.begin(pool).await;
    tell(pool, &report_of(grant.token, 1, 1, 3)).await.unwrap();
}

async fn record(pool: &PgPool, worker: &Worker) -> WorkerRecord {
    let all = list(pool, Duration::from_secs(60)).await.unwrap();
    all.into_iter().find(|record| record.id == worker.id).unwrap()
}

async fn let_it_rest(pool: &PgPool) {
    let statement = "update worker set suspect_until = clock_timestamp() - interval '1 second'
                     where suspect_until is not null";
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// Two workers and jobs enough.
async fn fleet(pool: &PgPool) -> (Worker, Worker) {
    for _ in 0..8 {
        submit(pool, &small_search()).await;
    }
    (worker(pool, "bad").await, worker(pool, "good").await)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_worker_that_spoils_jobs_gets_none_until_it_has_rested_or_is_uncordoned(pool: PgPool) {
    let (bad, good) = fleet(&pool).await;
    for _ in 0..3 {
        spoil(&pool, &bad).await;
    }
    assert_eq!(judge_all(&pool).await.unwrap(), 0, "nobody gets on, so it may be the jobs");
    get_on(&pool, &good).await;
    let both = tokio::join!(judge_all(&pool), judge_all(&pool));
    assert_eq!(both.0.unwrap() + both.1.unwrap(), 1);
    let (reason, _) = record(&pool, &bad).await.suspect.unwrap();
    assert!(reason.contains("last 3 attempts") && reason.contains("the disk is full"), "{reason}");
    assert_eq!(record(&pool, &good).await.suspect, None);
    assert_eq!(bad.acquire(&pool).await, None);
    assert_eq!(judge_all(&pool).await.unwrap(), 0);

    schedule(&pool, &bad.id, Schedule::Ready).await.unwrap();
    assert_eq!(record(&pool, &bad).await.suspect, None);
    spoil(&pool, &bad).await;
    assert_eq!(judge_all(&pool).await.unwrap(), 0, "what it did before counts no more");
    assert_eq!(count(&pool, "select count(*) from event where kind = 'worker_suspected'").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_rest_is_longer_each_time_until_something_is_delivered(pool: PgPool) {
    let (bad, good) = fleet(&pool).await;
    get_on(&pool, &good).await;
    for _ in 0..3 {
        spoil(&pool, &bad).await;
    }
    assert_eq!(judge_all(&pool).await.unwrap(), 1);
    let_it_rest(&pool).await;
    assert_eq!(judge_all(&pool).await.unwrap(), 0, "it is tried again");
    spoil(&pool, &bad).await;
    assert_eq!(judge_all(&pool).await.unwrap(), 1);
    let times = "select count(*) from worker where suspect_count = 2
                 and suspect_until - judged_time > interval '9 minutes'";
    assert_eq!(count(&pool, times).await, 1);

    let_it_rest(&pool).await;
    let grant = bad.begin(&pool).await;
    save(&pool, &grant, 2).await;
    fail(&pool, &Policy::default(), grant.token, FailureClass::Lost, "gone").await.unwrap();
    assert_eq!(judge_all(&pool).await.unwrap(), 0);
    assert_eq!(count(&pool, "select count(*) from worker where suspect_count > 0").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn one_bad_job_and_jobs_that_are_handed_back_say_nothing_of_a_worker(pool: PgPool) {
    let (bad, good) = fleet(&pool).await;
    get_on(&pool, &good).await;
    schedule(&pool, &bad.id, Schedule::Draining).await.unwrap();
    for _ in 0..3 {
        // Leased before it was to take no more.
        sqlx::query("update worker set schedule = 'ready'").execute(&pool).await.unwrap();
        let grant = bad.begin(&pool).await;
        sqlx::query("update worker set schedule = 'draining' where id = 'bad'").execute(&pool).await.unwrap();
        fail(&pool, &Policy::default(), grant.token, FailureClass::Lost, "drained").await.unwrap();
    }
    sqlx::query("update worker set schedule = 'ready'").execute(&pool).await.unwrap();
    assert_eq!(judge_all(&pool).await.unwrap(), 0, "as asked");
    for _ in 0..3 {
        sqlx::query("update job set avoid_worker_id = null, avoid_until = null, run_after = null")
            .execute(&pool)
            .await
            .unwrap();
        spoil(&pool, &bad).await;
    }
    assert_eq!(judge_all(&pool).await.unwrap(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_task_judges_by_itself(pool: PgPool) {
    let (bad, good) = fleet(&pool).await;
    get_on(&pool, &good).await;
    for _ in 0..3 {
        spoil(&pool, &bad).await;
    }
    let pools =
        Pools { control: pool.clone(), renewals: pool.clone(), turnover: pool.clone(), upkeep: pool.clone() };
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    spawn(&pools, Policy::default(), Rules::default(), Webhooks::default(), &Bell::new(), &stop, &tracker);
    let judged = async {
        while record(&pool, &bad).await.suspect.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), judged).await.expect("nobody judges");
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}
