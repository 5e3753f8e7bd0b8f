use cakes_coordinator::core::retention::{Policy, Reason};
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::{commit_checkpoint, complete, fail};
use cakes_coordinator::store::checkpoints::{condemned, mark_deleted, pin, prefixes, review, unpin};
use cakes_coordinator::store::read::checkpoint::{self, CheckpointEntry};
use cakes_coordinator::store::{Error, PgPool, jobs};
use cakes_proto::ids::JobId;

use crate::support::{
    checkpoint_of, completion, count, finish, save, scores, small_search, submit, tell, worker,
};

const TWO: Policy = Policy { newest: 2, is_pressed: false };
const PRESSED: Policy = Policy { newest: 2, is_pressed: true };

async fn entries(pool: &PgPool, job: JobId) -> Vec<CheckpointEntry> {
    checkpoint::list(pool, job, TWO).await.unwrap()
}

/// Steps of checkpoints that are not condemned, rising.
async fn kept(pool: &PgPool, job: JobId) -> Vec<i64> {
    let list = entries(pool, job).await;
    let mut kept: Vec<i64> =
        list.iter().filter(|entry| entry.condemn_time.is_none()).map(|entry| entry.step).collect();
    kept.reverse();
    kept
}

#[sqlx::test(migrations = "../migrations")]
async fn the_newest_the_best_and_the_pinned_are_kept_and_less_when_the_disk_is_full(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let job = grant.token.job;
    // Of the first report every entry is one of step 2; the best is stored with it.
    let mut message = crate::support::report_of(grant.token, 1, 0, 2);
    let validation = |step, value| cakes_coordinator::store::attempts::Entry::Metric {
        step,
        values: vec![("validation/mean_dice".into(), value)],
        time: chrono::Utc::now(),
    };
    message.entries =
        vec![validation(1, 0.5), validation(2, 0.9), validation(3, f64::NAN), validation(6, 0.7)];
    tell(&pool, &message).await.unwrap();
    for step in 1..=6 {
        save(&pool, &grant, step).await;
    }
    pin(&pool, job, 1).await.unwrap();
    let done = review(&pool, TWO, None).await.unwrap();
    assert_eq!((done.condemned, done.next), (2, None));
    assert_eq!(kept(&pool, job).await, [1, 2, 5, 6]);
    assert_eq!(review(&pool, TWO, None).await.unwrap().condemned, 0);

    let list = entries(&pool, job).await;
    assert_eq!(list[0].kept_because, [Reason::Current, Reason::Newest]);
    assert_eq!(list[2].condemn_reason.as_deref(), Some("not among the newest 2"));
    assert_eq!(list[4].kept_because, [Reason::Best]);
    assert_eq!((&list[5].kept_because[..], list[5].is_pinned), (&[Reason::Pinned][..], true));

    assert_eq!(review(&pool, PRESSED, None).await.unwrap().condemned, 1);
    assert_eq!(kept(&pool, job).await, [1, 2, 6]);
    unpin(&pool, job, 1).await.unwrap();
    review(&pool, TWO, None).await.unwrap();
    assert_eq!(kept(&pool, job).await, [2, 6], "the best and the current one, which are all");

    let refused = pin(&pool, job, 3).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("not among the newest 2")), "{refused}");
    assert!(matches!(pin(&pool, job, 77).await.unwrap_err(), Error::NotFound { .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_late_commit_does_not_bring_a_condemned_checkpoint_back(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let (first, last) = (save(&pool, &grant, 3).await, save(&pool, &grant, 5).await);
    review(&pool, PRESSED, None).await.unwrap();
    let list = condemned(&pool, None, 10).await.unwrap();
    assert_eq!(list.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), [first.key.as_str()]);
    assert!(condemned(&pool, Some(&first.key), 10).await.unwrap().is_empty(), "pages go on behind a key");
    for _ in 0..2 {
        mark_deleted(&pool, &first.key).await.unwrap();
        // That of a checkpoint that is kept cannot be noted.
        mark_deleted(&pool, &last.key).await.unwrap();
    }
    assert!(condemned(&pool, None, 10).await.unwrap().is_empty());

    commit_checkpoint(&pool, grant.token, &first, 1000).await.unwrap();
    assert_eq!(kept(&pool, grant.token.job).await, [5]);
    let refused = complete(&pool, grant.token, &completion(first, Some(scores(&search)))).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("not kept")), "{refused}");
    complete(&pool, grant.token, &completion(last, Some(scores(&search)))).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_live_attempt_loads_and_what_the_next_one_goes_on_from_are_kept(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let first = worker.begin(&pool).await;
    save(&pool, &first, 4).await;
    let policy = cakes_coordinator::core::lease::Policy::default();
    fail(&pool, &policy, first.token, FailureClass::Lost, "gone").await.unwrap();
    let second = worker.begin(&pool).await;
    assert_eq!(second.token.job, first.token.job);
    assert_eq!(second.resume_from, Some(checkpoint_of(&first, 4)));
    save(&pool, &second, 6).await;
    review(&pool, PRESSED, None).await.unwrap();
    assert_eq!(kept(&pool, first.token.job).await, [4, 6], "its worker may still be loading the first");
    fail(&pool, &policy, second.token, FailureClass::User, "no").await.unwrap();
    review(&pool, PRESSED, None).await.unwrap();
    assert_eq!(kept(&pool, first.token.job).await, [6]);
    jobs::retry(&pool, first.token.job.into()).await.unwrap();
    assert_eq!(worker.begin(&pool).await.resume_from, Some(checkpoint_of(&second, 6)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_has_succeeded_is_looked_at_once(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    save(&pool, &grant, 5).await;
    finish(&pool, &grant, &search).await;
    assert_eq!(review(&pool, TWO, None).await.unwrap().condemned, 1);
    assert_eq!(kept(&pool, grant.token.job).await, [10]);
    assert_eq!(count(&pool, "select count(*) from checkpoint where not settled").await, 0);
    unpin(&pool, grant.token.job, 10).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from checkpoint where not settled").await, 1);
    assert_eq!(review(&pool, PRESSED, None).await.unwrap().condemned, 0);
    assert_eq!(count(&pool, "select count(*) from checkpoint where not settled").await, 0);
    let found = checkpoint::of_job(&pool, grant.token.job).await.unwrap();
    assert_eq!((found.step, found.is_result), (10, true));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_somebody_is_at_is_left_alone(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    save(&pool, &grant, 1).await;
    save(&pool, &grant, 2).await;
    let mut somebody = pool.begin().await.unwrap();
    let lock = "select from job where id = $1 for no key update";
    sqlx::query(lock).bind(grant.token.job.0).execute(&mut *somebody).await.unwrap();
    assert_eq!(review(&pool, PRESSED, None).await.unwrap().condemned, 0);
    somebody.rollback().await.unwrap();
    assert_eq!(review(&pool, PRESSED, None).await.unwrap().condemned, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_database_itself_keeps_what_rows_refer_to(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let first = save(&pool, &grant, 5).await;
    save(&pool, &grant, 9).await;
    complete(&pool, grant.token, &completion(first, Some(scores(&search)))).await.unwrap();
    save_another(&pool).await;
    let condemn =
        "update checkpoint set condemn_time = clock_timestamp(), condemn_reason = '', settled = true
                   where step = $1";
    for (step, stays) in [(5_i64, true), (9, true), (4, false)] {
        let done = sqlx::query(condemn).bind(step).execute(&pool).await;
        assert_eq!(done.is_err(), stays, "step {step}: {done:?}");
    }
    for statement in [
        "update checkpoint set condemn_time = null, condemn_reason = null where step = 4",
        "update checkpoint set pinned = true where step = 4",
        "delete from checkpoint where step = 4",
    ] {
        assert!(sqlx::query(statement).execute(&pool).await.is_err(), "{statement}");
    }
}

/// A checkpoint of step 4 that is followed by one of step 6.
async fn save_another(pool: &PgPool) {
    let other = worker(pool, "b").await.begin(pool).await;
    save(pool, &other, 4).await;
    save(pool, &other, 6).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn folders_belong_to_attempts_that_are_known(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let (old, new) = (save(&pool, &grant, 1).await, save(&pool, &grant, 2).await);
    review(&pool, PRESSED, None).await.unwrap();
    let found = prefixes(&pool, grant.token.job).await.unwrap();
    assert_eq!(found.ended.get(&grant.artifact_prefix), Some(&false));
    assert!(found.kept.contains(&new.key) && !found.kept.contains(&old.key), "{found:?}");
    let policy = cakes_coordinator::core::lease::Policy::default();
    fail(&pool, &policy, grant.token, FailureClass::Lost, "gone").await.unwrap();
    let found = prefixes(&pool, grant.token.job).await.unwrap();
    assert_eq!(found.ended.get(&grant.artifact_prefix), Some(&true));
    assert_eq!(prefixes(&pool, JobId::generate()).await.unwrap(), Default::default());
}
