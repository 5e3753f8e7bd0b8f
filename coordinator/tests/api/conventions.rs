//! What clients of any API expect: to change only what is still as they saw it, to get only
//! the fields they want, lists in their order, and streams that go on where they broke.

use std::time::Duration;

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::field_mask::FieldMask;
use cakes_proto::v1;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{PATIENCE, Service, Worker, job_id, refused, small_search};

/// What a stream sends within half a second; longer than it takes to look.
async fn sent_at_once<T>(stream: &mut tonic::Streaming<T>) -> Option<T> {
    let next = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
    next.ok().flatten().map(Result::unwrap)
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_job_is_changed_only_as_it_was_seen(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    let id = job_id(&grant);
    let seen = service.job(&id).await.etag;
    worker.report(&grant, 1, 1, "step").await.unwrap();
    assert_eq!(service.job(&id).await.etag, seen, "progress is nothing that people decide from");

    let label = |etag: &str, value: &str| v1::LabelJobRequest {
        id: id.clone(),
        set: [("owner".to_owned(), value.to_owned())].into(),
        etag: etag.to_owned(),
        ..v1::LabelJobRequest::default()
    };
    let labelled = service.jobs().label_job(label(&seen, "ada")).await.unwrap().into_inner();
    assert_ne!(labelled.etag, seen);
    let late = service.jobs().label_job(label(&seen, "bob")).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    let info = late.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), &info.metadata["etag"]), ("CHANGED", &labelled.etag));
    assert_eq!(service.job(&id).await.labels["owner"], "ada");

    let (old, new) = (seen, labelled.etag);
    let of = |etag: &str| (id.clone(), etag.to_owned());
    let cancel = |(id, etag)| v1::CancelJobRequest { id, etag, ..v1::CancelJobRequest::default() };
    let pause = |(id, etag)| v1::PauseJobRequest { id, etag };
    refused(service.jobs().cancel_job(cancel(of(&old))).await, Code::Aborted);
    refused(service.jobs().pause_job(pause(of(&old))).await, Code::Aborted);
    refused(service.jobs().pause_job(pause(of("yesterday's"))).await, Code::InvalidArgument);
    assert_eq!(service.job(&id).await.state(), v1::JobState::Running);
    let pausing = service.jobs().pause_job(pause(of(&new))).await.unwrap().into_inner();
    assert_eq!(pausing.state(), v1::JobState::Pausing);
    // A second click on a page that still shows it running.
    let resume =
        v1::ResumeJobRequest { id: id.clone(), etag: new.clone(), ..v1::ResumeJobRequest::default() };
    refused(service.jobs().resume_job(resume).await, Code::Aborted);
    let retry = v1::RetryJobRequest { id: id.clone(), etag: new };
    refused(service.jobs().retry_job(retry).await, Code::Aborted);
    assert_eq!(service.job(&id).await.state(), v1::JobState::Pausing);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_search_is_changed_only_as_it_was_seen(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let label = |etag: String, value: &str| v1::LabelSearchRequest {
        id: search.id.clone(),
        set: [("paper".to_owned(), value.to_owned())].into(),
        etag,
        ..v1::LabelSearchRequest::default()
    };
    let labelled = service.searches().label_search(label(search.etag.clone(), "yes")).await.unwrap();
    refused(service.searches().label_search(label(search.etag.clone(), "no")).await, Code::Aborted);
    let cancel = |etag: &str| v1::CancelSearchRequest {
        id: search.id.clone(),
        etag: etag.to_owned(),
        ..v1::CancelSearchRequest::default()
    };
    refused(service.searches().cancel_search(cancel(&search.etag)).await, Code::Aborted);
    assert_eq!(service.search(&search.id).await.state(), v1::SearchState::Searching);
    let etag = labelled.into_inner().etag;
    assert!(service.searches().cancel_search(cancel(&etag)).await.is_ok());
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_mask_chooses_fields_of_one_and_of_each(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let get = |paths: &[&str]| v1::GetSearchRequest { id: search.id.clone(), read_mask: mask(paths) };
    let some = service.searches().get_search(get(&["id", "jobs.state"])).await.unwrap().into_inner();
    assert_eq!(some.id, search.id);
    assert!(some.spec.is_none() && some.etag.is_empty());
    assert!(!some.jobs.is_empty());
    assert!(some.jobs.iter().all(|job| job.state() == v1::JobState::Queued && job.id.is_empty()));
    let wrong = service.searches().get_search(get(&["ids"])).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let violations = wrong.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "read_mask");
    assert!(violations[0].description.contains("'ids' is no field of cakes.v1.Search"), "{violations:?}");

    let list = v1::ListJobsRequest { read_mask: mask(&["label"]), ..v1::ListJobsRequest::default() };
    let jobs = service.jobs().list_jobs(list).await.unwrap().into_inner().jobs;
    assert!(jobs.iter().all(|job| !job.label.is_empty() && job.id.is_empty() && job.create_time.is_none()));
    let request = v1::GetJobRequest { id: search.jobs[0].id.clone(), read_mask: mask(&["kind"]) };
    let job = service.jobs().get_job(request).await.unwrap().into_inner();
    let only_kind = v1::Job { kind: search.jobs[0].kind, ..v1::Job::default() };
    assert_eq!(job, only_kind);
    let list = v1::ListSearchesRequest { read_mask: mask(&["id"]), ..v1::ListSearchesRequest::default() };
    let searches = service.searches().list_searches(list).await.unwrap().into_inner().searches;
    assert_eq!(searches, [v1::Search { id: search.id.clone(), ..v1::Search::default() }]);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn lists_go_both_ways_from_page_to_page(pool: PgPool) {
    let service = Service::start(pool).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.submit(small_search()).await.id);
    }
    let page = async |order_by: &str, page_token: String| {
        let request = v1::ListSearchesRequest {
            page_size: 2,
            order_by: order_by.to_owned(),
            page_token,
            ..v1::ListSearchesRequest::default()
        };
        service.searches().list_searches(request).await.map(tonic::Response::into_inner)
    };
    let all = async |order_by: &str| {
        let first = page(order_by, String::new()).await.unwrap();
        let second = page(order_by, first.next_page_token).await.unwrap();
        assert_eq!(second.next_page_token, "");
        let searches = first.searches.into_iter().chain(second.searches);
        searches.map(|search| search.id).collect::<Vec<_>>()
    };
    assert_eq!(all("create_time").await, ids);
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(all("").await, newest_first);
    assert_eq!(all("create_time desc").await, newest_first);
    let token = page("", String::new()).await.unwrap().next_page_token;
    refused(page("create_time", token).await, Code::InvalidArgument);
    refused(page("name", String::new()).await, Code::InvalidArgument);

    let jobs = async |order_by: &str, page_token: String| {
        let order_by = order_by.to_owned();
        let request =
            v1::ListJobsRequest { page_size: 4, order_by, page_token, ..v1::ListJobsRequest::default() };
        service.jobs().list_jobs(request).await.unwrap().into_inner()
    };
    let mut oldest_first = Vec::new();
    let mut token = String::new();
    loop {
        let next = jobs("create_time", token).await;
        oldest_first.extend(next.jobs.into_iter().map(|job| job.id));
        token = next.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let mut newest_first: Vec<String> =
        jobs("", String::new()).await.jobs.into_iter().map(|job| job.id).collect();
    newest_first.reverse();
    assert!(oldest_first.len() > 4);
    assert!(oldest_first.ends_with(&newest_first));
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_broken_stream_goes_on_at_another_coordinator(pool: PgPool) {
    let first = Service::start(pool.clone()).await;
    let search = first.submit(small_search()).await;
    let mut worker = Worker::register(&first, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    worker.report(&grant, 1, 1, "one").await.unwrap();
    let (id, search_id) = (job_id(&grant), search.id.clone());
    let watch = |token: &str| v1::WatchJobRequest { id: id.clone(), resume_token: token.to_owned() };
    let watch_search =
        |token: &str| v1::WatchSearchRequest { id: search_id.clone(), resume_token: token.to_owned() };
    let log = |token: &str| v1::StreamJobLogsRequest {
        id: id.clone(),
        follow: true,
        resume_token: token.to_owned(),
    };
    let seen = first.jobs().watch_job(watch("")).await.unwrap().into_inner().next().await.unwrap().unwrap();
    let seen_search = first.searches().watch_search(watch_search("")).await.unwrap().into_inner();
    let seen_search = { seen_search }.next().await.unwrap().unwrap();
    let line =
        first.jobs().stream_job_logs(log("")).await.unwrap().into_inner().next().await.unwrap().unwrap();
    assert_eq!(line.text, "one");
    first.shutdown.stop.cancel();

    let second = Service::start(pool).await;
    let mut jobs = second.jobs().watch_job(watch(&seen.resume_token)).await.unwrap().into_inner();
    let mut searches =
        second.searches().watch_search(watch_search(&seen_search.resume_token)).await.unwrap().into_inner();
    let mut lines = second.jobs().stream_job_logs(log(&line.resume_token)).await.unwrap().into_inner();
    assert!(sent_at_once(&mut jobs).await.is_none(), "it was seen before");
    assert!(sent_at_once(&mut searches).await.is_none());
    assert!(sent_at_once(&mut lines).await.is_none());
    let mut worker = Worker { client: second.workers(), ..worker };
    worker.report(&grant, 3, 2, "two").await.unwrap();
    let next = tokio::time::timeout(PATIENCE, jobs.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.progress.unwrap().step, 2);
    let next_search = tokio::time::timeout(PATIENCE, searches.next()).await.unwrap().unwrap().unwrap();
    assert!(next_search.revision > seen_search.revision);
    let next_line = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next_line.text, "two");

    worker.complete(&grant, 4, 0.5).await;
    let rest: Vec<_> = tokio::time::timeout(PATIENCE, jobs.collect()).await.unwrap();
    let last: v1::Job = rest.into_iter().next_back().unwrap().unwrap();
    assert_eq!(last.state(), v1::JobState::Succeeded);
    // Who saw the end is told nothing, and not left waiting.
    let again = second.jobs().watch_job(watch(&last.resume_token)).await.unwrap().into_inner();
    let again: Vec<_> = tokio::time::timeout(PATIENCE, again.collect()).await.unwrap();
    assert!(again.is_empty());

    refused(second.jobs().watch_job(watch("nonsense")).await, Code::InvalidArgument);
    refused(second.jobs().watch_job(watch(&seen_search.resume_token)).await, Code::InvalidArgument);
    refused(second.jobs().stream_job_logs(log(&seen.resume_token)).await, Code::InvalidArgument);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn lists_hold_what_a_filter_says_and_wrong_filters_say_where(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    service.submit(small_search()).await;
    let jobs = async |filter: &str, page_token: &str| {
        let (filter, page_token) = (filter.to_owned(), page_token.to_owned());
        let request =
            v1::ListJobsRequest { page_size: 1, filter, page_token, ..v1::ListJobsRequest::default() };
        service.jobs().list_jobs(request).await.map(tonic::Response::into_inner)
    };
    let of_one = format!("search_id = {} AND state = JOB_STATE_QUEUED AND kind = SUPERNET", search.id);
    let found = jobs(&of_one, "").await.unwrap();
    assert_eq!(found.jobs[0].search_id, search.id);
    assert_eq!(found.next_page_token, "");
    assert_eq!(jobs("state = SUCCEEDED", "").await.unwrap().jobs, []);
    let both = jobs("state = QUEUED", "").await.unwrap();
    assert_eq!(jobs("state = QUEUED", &both.next_page_token).await.unwrap().jobs.len(), 1);
    refused(jobs("kind = SUPERNET", &both.next_page_token).await, Code::InvalidArgument);

    let searches = async |filter: &str| {
        let request =
            v1::ListSearchesRequest { filter: filter.to_owned(), ..v1::ListSearchesRequest::default() };
        service.searches().list_searches(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(searches("state = SEARCHING").await.unwrap().searches.len(), 2);
    assert_eq!(searches("NOT state = SEARCHING").await.unwrap().searches.len(), 0);
    let wrong = searches("state = QUEUED").await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let violations = wrong.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "filter");
    assert!(violations[0].description.starts_with("at character 9: "), "{violations:?}");
}
