//! Whoever asks for too much is told when to ask again, and a queue that is full takes nothing.

use std::time::{Duration, Instant};

use cakes_coordinator::core::throttle::{self, Rate};
use cakes_coordinator::grpc::Limits;
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{PATIENCE, Service, reason, small_search};
use crate::page::send;

async fn list(service: &Service) -> Result<(), Status> {
    service.jobs().list_jobs(v1::ListJobsRequest::default()).await.map(drop)
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn whoever_calls_too_often_is_told_when_to_call_again(pool: PgPool) {
    let few = Rate { per_s: 2.0, burst: 5.0 };
    let callers =
        throttle::Limits { rate_of_address: few, rate_of_identity: few, ..throttle::Limits::default() };
    let service = Service::start_limited(pool, Limits { callers, ..Limits::default() }).await;
    let began = Instant::now();
    let mut refusal = None;
    for _ in 0..100 {
        if let Err(status) = list(&service).await {
            refusal = Some(status);
            break;
        }
    }
    let refused = refusal.expect("a refusal");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_FAST"));
    let pause = refused.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(pause <= Duration::from_millis(500) && began.elapsed() < PATIENCE, "{pause:?}");
    tokio::time::sleep(pause).await;
    list(&service).await.unwrap();
    // The page counts by itself.
    let get = format!("GET /api/v1/jobs HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", service.page);
    for _ in 0..100 {
        let answer = send(&service, &get).await;
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"));
            return;
        }
    }
    panic!("the page refuses nobody");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_full_queue_takes_nothing_more(pool: PgPool) {
    let service = Service::start_limited(pool, Limits { open_searches: 2, ..Limits::default() }).await;
    service.submit(small_search()).await;
    service.submit(small_search()).await;
    let submit = async || service.searches().submit_search(small_search()).await;
    let refused = submit().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    let validated = v1::SubmitSearchRequest { validate_only: true, ..small_search() };
    service.searches().submit_search(validated).await.unwrap();
    let listed = service.searches().list_searches(v1::ListSearchesRequest::default()).await.unwrap();
    let id = listed.into_inner().searches.remove(0).id;
    let cancel = v1::CancelSearchRequest { id, ..v1::CancelSearchRequest::default() };
    service.searches().cancel_search(cancel).await.unwrap();
    let began = Instant::now();
    while submit().await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the queue stays full");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_queue_of_jobs_that_is_full_takes_no_search(pool: PgPool) {
    let service = Service::start_limited(pool, Limits { waiting_jobs: 1, ..Limits::default() }).await;
    service.submit(small_search()).await;
    let refused = service.searches().submit_search(small_search()).await.unwrap_err();
    assert_eq!(reason(&refused), "QUEUE_FULL");
    assert!(refused.message().starts_with("1 jobs wait"), "{refused:?}");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_message_is_as_long_as_its_method_has_to_say(pool: PgPool) {
    let service = Service::start(pool).await;
    let mut workers = service.workers();
    // Both kinds: what is recorded is read by the gate, all else by the handler.
    let note = v1::AddJobNoteRequest { text: "x".repeat(300 << 10), ..v1::AddJobNoteRequest::default() };
    let refused = service.jobs().add_job_note(note).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "TOO_LONG"));
    let fail = v1::FailRequest { message: "x".repeat(300 << 10), ..v1::FailRequest::default() };
    let refused = workers.fail(Request::new(fail)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "TOO_LONG"));
    let complete = v1::CompleteRequest { scores_json: "x".repeat(3 << 20), ..v1::CompleteRequest::default() };
    let refused = workers.complete(Request::new(complete)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_call_whose_time_is_up_says_so(pool: PgPool) {
    let call_timeout = Duration::from_millis(300);
    let service = Service::start_limited(pool.clone(), Limits { call_timeout, ..Limits::default() }).await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("lock table job in access exclusive mode").execute(&mut *holder).await.unwrap();
    let ended = list(&service).await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Cancelled, "CALL_TIMEOUT"));
    assert!(ended.message().contains("300ms") && ended.metadata().contains_key("x-request-id"), "{ended:?}");
    holder.rollback().await.unwrap();
    let began = Instant::now();
    while list(&service).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the table is free again");
    }
}
