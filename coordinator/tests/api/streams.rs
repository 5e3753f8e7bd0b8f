//! Streams: what they send, and that they end.

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::harness::{PATIENCE, Service, Worker, job_id, small_search};

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_watched_job_is_sent_at_every_change_until_it_ends(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    let request = v1::WatchJobRequest { id: job_id(&grant), ..v1::WatchJobRequest::default() };
    let mut watched = service.jobs().watch_job(request.clone()).await.unwrap().into_inner();
    let first = watched.next().await.unwrap().unwrap();
    assert_eq!(first.state(), v1::JobState::Leased);
    assert!(first.progress.is_none());

    worker.start(&grant).await;
    worker.report(&grant, 1, 3, "step").await.unwrap();
    let running = loop {
        let job = watched.next().await.unwrap().unwrap();
        if job.progress.is_some() {
            break job;
        }
    };
    assert_eq!((running.state(), running.progress.unwrap().step), (v1::JobState::Running, 3));

    worker.complete(&grant, 2, 0.7).await;
    let rest: Vec<_> = tokio::time::timeout(PATIENCE, watched.collect()).await.unwrap();
    assert_eq!(rest.last().unwrap().as_ref().unwrap().state(), v1::JobState::Succeeded);
    // A job that has ended is sent once.
    let again: Vec<_> = service.jobs().watch_job(request).await.unwrap().into_inner().collect().await;
    assert_eq!(again.len(), 1);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_watched_search_moves_with_its_jobs(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let request =
        v1::WatchSearchRequest { id: search.id[..8].to_owned(), ..v1::WatchSearchRequest::default() };
    let mut watched = service.searches().watch_search(request).await.unwrap().into_inner();
    let mut revision = watched.next().await.unwrap().unwrap().revision;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    worker.report(&grant, 1, 2, "step").await.unwrap();
    loop {
        let next = watched.next().await.unwrap().unwrap();
        assert!(next.revision > revision);
        revision = next.revision;
        if next.jobs[0].progress.as_ref().is_some_and(|progress| progress.step == 2) {
            break;
        }
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_followed_log_holds_every_line_in_order_and_ends_with_the_job(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    let request =
        v1::StreamJobLogsRequest { id: job_id(&grant), follow: true, ..v1::StreamJobLogsRequest::default() };
    let mut followed = service.jobs().stream_job_logs(request).await.unwrap().into_inner();
    worker.report(&grant, 1, 1, "one\0two").await.unwrap();
    let first = followed.next().await.unwrap().unwrap();
    assert_eq!((first.text.as_str(), first.attempt), ("one\u{fffd}two", 1));

    let lines = 600_u64;
    for line in 1..=lines {
        let seq = 1 + 2 * line;
        worker.report(&grant, seq, 1 + line % 9, &format!("line {line}")).await.unwrap();
    }
    worker.complete(&grant, 2 + 2 * lines, 0.5).await;
    let rest: Vec<v1::LogLine> =
        tokio::time::timeout(PATIENCE, followed.map(Result::unwrap).collect()).await.unwrap();
    let expected: Vec<String> = (1..=lines).map(|line| format!("line {line}")).collect();
    assert!(rest.iter().map(|line| &line.text).eq(&expected), "{} lines", rest.len());

    let request =
        v1::StreamJobLogsRequest { id: job_id(&grant), follow: false, ..v1::StreamJobLogsRequest::default() };
    let stored = service.jobs().stream_job_logs(request).await.unwrap().into_inner();
    assert_eq!(stored.collect::<Vec<_>>().await.len(), 601);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn streams_end_with_unavailable_when_the_coordinator_stops(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let request = v1::WatchSearchRequest { id: search.id, ..v1::WatchSearchRequest::default() };
    let mut watched = service.searches().watch_search(request).await.unwrap().into_inner();
    assert!(watched.next().await.unwrap().is_ok());
    service.shutdown.stop.cancel();
    let all: Vec<_> = tokio::time::timeout(PATIENCE, watched.collect()).await.unwrap();
    let status = all.into_iter().next_back().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(service.shutdown.wait().await, "a task goes on");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn curves_follow_the_last_attempt_and_are_thinned_evenly(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    for step in 1..=8 {
        worker.report(&grant, 2 * step - 1, step, "step").await.unwrap();
    }
    worker.commit(&grant, 5).await;
    let lost = v1::FailRequest {
        token: grant.token.clone(),
        failure_class: v1::FailureClass::Lost.into(),
        message: "the machine is needed".to_owned(),
    };
    worker.client.fail(lost).await.unwrap();
    let grant = worker.acquire().await;
    assert_eq!(grant.resume_from.as_ref().unwrap().step, 5);
    worker.start(&grant).await;
    worker.report(&grant, 1, 6, "again").await.unwrap();

    let mut request = v1::ListMetricsRequest {
        id: job_id(&grant),
        keys: vec!["train/loss".to_owned(), "no such curve".to_owned()],
        point_count_max: 0,
    };
    let curves = service.jobs().list_metrics(request.clone()).await.unwrap().into_inner().curves;
    assert_eq!(curves.len(), 1);
    // Steps 7 and 8 were done by an attempt that is superseded from step 5 on.
    assert_eq!(curves[0].steps, [1, 2, 3, 4, 5, 6]);
    request.point_count_max = 3;
    let curves = service.jobs().list_metrics(request).await.unwrap().into_inner().curves;
    assert_eq!((curves[0].steps.len(), curves[0].steps[0], curves[0].steps[2]), (3, 1, 6));

    let explained = v1::ExplainJobRequest { id: job_id(&grant) };
    let explained = service.jobs().explain_job(explained).await.unwrap().into_inner();
    assert!(explained.explanation.contains("w1"), "{}", explained.explanation);
    let attempts: Vec<(u64, u64)> =
        explained.attempts.iter().map(|attempt| (attempt.epoch, attempt.resume_step)).collect();
    assert_eq!(attempts, [(1, 0), (2, 5)]);
    assert!(explained.attempts[0].outcome.contains("the machine is needed"));
}
