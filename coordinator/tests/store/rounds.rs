//! Rounds of long queues, and of jobs with deadlines and limits.

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::schedule::{Decisions, Rules, decide};
use cakes_coordinator::store::attempts::fail;
use cakes_coordinator::store::schedule::{Extent, load};
use cakes_coordinator::store::searches::{Terms, submit};
use cakes_coordinator::store::{PgPool, jobs};
use chrono::{TimeDelta, Utc};
use uuid::Uuid;

use crate::projects::{fleet, has_run_for_an_hour, line, project as make, round, search};
use crate::support::{count, small_search, state, worker};

/// The last hours before it, and within its project alone.
#[sqlx::test(migrations = "../migrations")]
async fn a_search_whose_deadline_is_near_goes_first(pool: PgPool) {
    search(&pool, "default", 0, 3).await;
    let terms = |hours| Terms { deadline: Some(Utc::now() + TimeDelta::hours(hours)), ..Terms::default() };
    let far = submit(&pool, &small_search(), &terms(1000), None).await.unwrap();
    let near = submit(&pool, &small_search(), &terms(1), None).await.unwrap();
    worker(&pool, "a").await;
    round(&pool).await;
    let order: Vec<Uuid> = sqlx::query_scalar("select search_id from job where waits order by is_held, rank")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(order[..2], [near.0, near.0]);
    assert!(order[2..].contains(&far.0) && order[2] != far.0, "{order:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_has_taken_its_device_hours_is_paused_until_it_may_take_more(pool: PgPool) {
    let terms = Terms { cost_limit_device_s: Some(1800), ..Terms::default() };
    submit(&pool, &small_search(), &terms, None).await.unwrap();
    let a = worker(&pool, "a").await;
    let grant = a.begin(&pool).await;
    let job = grant.token.job;
    round(&pool).await;
    assert_eq!(state(&pool, job).await, "running");
    has_run_for_an_hour(&pool).await;
    round(&pool).await;
    assert_eq!(state(&pool, job).await, "pausing");
    assert!(jobs::resume(&pool, job.into(), None).await.is_err(), "what it takes now counts, too");
    // The other one has taken nothing.
    assert_eq!(count(&pool, "select count(*) from job where state = 'queued'").await, 1);
    fail(&pool, &Policy::default(), grant.token, FailureClass::Cancelled, "saved").await.unwrap();
    assert_eq!(state(&pool, job).await, "paused");
    let why = "select count(*) from job where state_reason = 'it has taken the device-hours that it may'";
    assert_eq!(count(&pool, why).await, 1);

    let refused = jobs::resume(&pool, job.into(), None).await.unwrap_err();
    assert!(refused.to_string().contains("has taken 1.00 of the 0.50 device-hours"), "{refused}");
    assert!(jobs::resume(&pool, job.into(), Some(3600)).await.is_err(), "no more than it has taken");
    jobs::resume(&pool, job.into(), Some(7200)).await.unwrap();
    round(&pool).await;
    assert_eq!(state(&pool, job).await, "queued");
    // Lowered while it waits: it does not start again.
    sqlx::query("update job set cost_limit_device_s = 3600 where id = $1")
        .bind(job.0)
        .execute(&pool)
        .await
        .unwrap();
    round(&pool).await;
    assert_eq!(state(&pool, job).await, "paused");
}

/// A round reads as much of a long queue as of a longer one, and decides the same.
#[sqlx::test(migrations = "../migrations")]
async fn a_round_reads_the_front_of_a_long_queue(pool: PgPool) {
    for (project, share) in [("early", 1), ("late", 2)] {
        make(&pool, project, share, None).await;
        search(&pool, project, 0, 1).await;
        let more =
            "insert into job (id, search_id, kind, label, project, architecture_digest, seed, trainer_job,
                step_count, memory_mib, task)
            select gen_random_uuid(), search_id, kind, label || number, project, architecture_digest,
                1000 + number, trainer_job, step_count, memory_mib, task
            from job, generate_series(1, 700) number where kind = 'retrain' and project = $1";
        sqlx::query(more).bind(project).execute(&pool).await.unwrap();
    }
    // Of an earlier round that saw something else.
    let last = "update job set planned_rank = -5000000 where position = (select max(position) from job)";
    sqlx::query(last).execute(&pool).await.unwrap();
    fleet(&pool, 20).await;
    let read = async |extent| {
        let mut connection = pool.acquire().await.unwrap();
        load(&mut connection, Rules::default().lease_ttl, extent).await.unwrap()
    };
    let (all, front) = (read(Extent::All).await, read(Extent::Front).await);
    assert_eq!((all.waiting.len(), front.waiting.len()), (2 * 702, 2 * 513 + 1));
    let decided = |snapshot| decide(snapshot, &Rules::default().policy).unwrap().ranks;
    let ranks = decided(&all);
    assert!(!ranks.is_empty() && ranks == decided(&front));
    assert_eq!(round(&pool).await.ranks, ranks);
    // Whoever got a rank is read for as long as it has it.
    assert_eq!(round(&pool).await, Decisions::default());
    let late: Vec<String> = line(&pool).await;
    let late = late[..30].iter().filter(|project| *project == "late").count();
    assert!((18..=22).contains(&late), "by shares: {late}");
}
