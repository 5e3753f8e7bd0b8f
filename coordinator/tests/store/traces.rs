//! What is done for a submission belongs to its trace, however much later.

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::attempts::{acquire, fail};
use cakes_coordinator::store::searches::{self, Terms};
use cakes_telemetry::trace::TraceContext;

use crate::support::{small_search, submit, worker};

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[sqlx::test(migrations = "../migrations")]
async fn a_grant_says_what_its_job_belongs_to_and_since_when_it_waited(pool: PgPool) {
    let trace = TraceContext::parse(GIVEN, "lab=7");
    let terms = Terms { trace: trace.clone(), ..Terms::default() };
    searches::submit(&pool, &small_search(), &terms, None).await.unwrap();
    let (worker, policy) = (worker(&pool, "a").await, Policy::default());
    let wish = worker.wish();
    let first = acquire(&pool, &policy, &wish).await.unwrap().unwrap();
    let wait = first.wait.clone().unwrap();
    assert_eq!(Some(wait.trace), trace);
    let again = acquire(&pool, &policy, &wish).await.unwrap();
    assert_eq!(again.as_ref(), Some(&first), "also since when");

    fail(&pool, &policy, first.token, FailureClass::Numeric, "loss is NaN").await.unwrap();
    sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();
    let second = worker.acquire(&pool).await.unwrap();
    assert_eq!(second.token.job, first.token.job);
    let end: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select end_time from attempt where epoch = 1").fetch_one(&pool).await.unwrap();
    assert_eq!(second.wait.map(|wait| wait.since), Some(end), "its last attempt's end");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_no_trace_keeps_no_job_from_its_worker(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let grant = worker.acquire(&pool).await.unwrap();
    assert_eq!(grant.wait, None, "nobody said anything");
    sqlx::query("update job set traceparent = 'no trace'").execute(&pool).await.unwrap();
    assert_eq!(worker.acquire(&pool).await.unwrap().wait, None);
}
