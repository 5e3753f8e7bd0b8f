//! A database with something in every view.

use cakes::spec::CheckedSearch;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::Schedule;
use cakes_coordinator::store::attempts::{Entry, Grant, Report, complete, fail};
use cakes_coordinator::store::{PgPool, searches, workers};
use cakes_proto::ids::{JobId, SearchId};
use chrono::Utc;

use crate::support::{
    Worker, completion, report_of, save, scores, search_of, segmentation, submit, tell, worker,
};

/// Steps of a job of the long search.
pub const LONG_STEPS: i64 = 1000;

/// What was filled in.
pub struct Filled {
    /// Has ended: a supernet, two architectures with two seeds each.
    pub done: SearchId,
    /// A retraining of it that failed at step 8 and went on from step 5.
    pub resumed: JobId,
}

pub async fn fill(pool: &PgPool) -> Filled {
    let first = worker(pool, "first").await;
    let search = search_of(&[0.5], &[1, 2]);
    let done = submit(pool, &search).await;
    let supernet = first.begin(pool).await;
    train(pool, &supernet, 1, 1..=10).await;
    end(pool, &supernet, &search, 0.5).await;
    searches::advance(pool, done).await.unwrap();
    let resumed = fail_once(pool, &first).await;
    let mut quality = 0.6;
    while let Some(grant) = first.acquire(pool).await {
        cakes_coordinator::store::attempts::start(pool, &Policy::default(), grant.token).await.unwrap();
        let begin = if grant.token.job == resumed { 6 } else { 1 };
        train(pool, &grant, 1, begin..=10).await;
        end(pool, &grant, &search, quality).await;
        quality += 0.05;
        searches::advance(pool, done).await.unwrap();
    }

    // Its supernet runs; others wait.
    submit(pool, &long_search()).await;
    let grant = first.begin(pool).await;
    train(pool, &grant, 1, 1..=700).await;
    let cordoned = worker(pool, "second").await;
    workers::schedule(pool, &cordoned.id, Schedule::Cordoned).await.unwrap();
    Filled { done, resumed }
}

/// A search of a thousand steps per job.
fn long_search() -> CheckedSearch {
    let mut spec = search_of(&[0.5], &[1]).spec().clone();
    spec.name = "long".into();
    spec.supernet.training.steps_per_epoch = 500;
    spec.retrain.training.steps_per_epoch = 500;
    CheckedSearch::new(spec).unwrap()
}

/// The next job fails at step 8, after a checkpoint at step 5.
async fn fail_once(pool: &PgPool, worker: &Worker) -> JobId {
    let grant = worker.begin(pool).await;
    train(pool, &grant, 1, 1..=8).await;
    save(pool, &grant, 5).await;
    fail(pool, &Policy::default(), grant.token, FailureClass::Infrastructure, "disk full").await.unwrap();
    sqlx::query("update job set run_after = null, avoid_worker_id = null, avoid_until = null")
        .execute(pool)
        .await
        .unwrap();
    grant.token.job
}

/// Reports a loss for each step, that of later attempts higher by one, and a
/// validation behind every fifth, a hundred steps in a report.
pub async fn train(
    pool: &PgPool,
    grant: &Grant,
    first_seq: i64,
    steps: std::ops::RangeInclusive<i64>,
) -> i64 {
    let mut seq = first_seq;
    let steps: Vec<i64> = steps.collect();
    for steps in steps.chunks(100) {
        let mut entries = Vec::new();
        for step in steps {
            let loss = 1.0 / *step as f64 + (grant.token.epoch - 1) as f64;
            entries.push(metric(*step, "train/loss", loss));
            if step % 5 == 0 {
                entries.push(metric(*step, "validation/mean_dice", 1.0 - loss / 2.0));
            }
        }
        let count = entries.len() as i64;
        let progress = report_of(grant.token, 1, 0, steps[steps.len() - 1]).progress;
        let report = Report { token: grant.token, first_seq: seq, entries, progress };
        assert_eq!(tell(pool, &report).await.unwrap().ack_seq, seq + count - 1);
        seq += count;
    }
    seq
}

pub fn metric(step: i64, key: &str, value: f64) -> Entry {
    Entry::Metric { step, values: vec![(key.to_owned(), value)], time: Utc::now() }
}

async fn end(pool: &PgPool, grant: &Grant, search: &CheckedSearch, quality: f64) {
    let checkpoint = save(pool, grant, 10).await;
    let kind: String = sqlx::query_scalar("select kind from job where id = $1")
        .bind(grant.token.job.0)
        .fetch_one(pool)
        .await
        .unwrap();
    let mut completion = completion(checkpoint, (kind == "supernet").then(|| scores(search)));
    completion.outcome.quality = segmentation(quality);
    completion.last_seq = sqlx::query_scalar("select last_seq from attempt where job_id = $1 and epoch = $2")
        .bind(grant.token.job.0)
        .bind(grant.token.epoch)
        .fetch_one(pool)
        .await
        .unwrap();
    complete(pool, grant.token, &completion).await.unwrap();
}
