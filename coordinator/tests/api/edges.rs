//! What tools ask: reflection and health; and the fleet as its operators see it.

use std::collections::BTreeSet;

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use cakes_proto::v1::job_service_client::JobServiceClient;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::{PATIENCE, Service, Worker, job_id, small_search};

const SERVICES: [&str; 5] = ["Search", "Job", "Architecture", "Fleet", "Worker"];

async fn ask_reflection(service: &Service, question: MessageRequest) -> ServerReflectionResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(service.channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    answers.into_inner().next().await.unwrap().unwrap()
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn reflection_lists_every_service_and_explains_error_details(pool: PgPool) {
    let service = Service::start(pool).await;
    let answer = ask_reflection(&service, MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in SERVICES {
        assert!(listed.contains(&format!("cakes.v1.{name}Service")), "{listed:?}");
    }
    assert!(listed.contains("grpc.health.v1.Health"), "{listed:?}");
    for symbol in ["cakes.v1.SearchSpec", "google.rpc.BadRequest"] {
        let answer = ask_reflection(&service, MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        let found = matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(found, "{symbol}: {answer:?}");
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn health_is_known_per_service_and_ends_with_the_daemon(pool: PgPool) {
    let service = Service::start(pool).await;
    let mut client = HealthClient::new(service.channel.clone());
    let names = SERVICES.map(|name| format!("cakes.v1.{name}Service"));
    for name in names.into_iter().chain([String::new()]) {
        let mut watched = client.watch(HealthCheckRequest { service: name }).await.unwrap().into_inner();
        let serving =
            async { while watched.next().await.unwrap().unwrap().status() != ServingStatus::Serving {} };
        tokio::time::timeout(PATIENCE, serving).await.unwrap();
    }
    let whole = HealthCheckRequest { service: String::new() };
    let mut watched = client.watch(whole).await.unwrap().into_inner();
    service.shutdown.stop.cancel();
    let stopped = async {
        while let Some(Ok(answer)) = watched.next().await {
            if answer.status() == ServingStatus::NotServing {
                return;
            }
        }
        panic!("it never said so")
    };
    tokio::time::timeout(PATIENCE, stopped).await.unwrap();
}

/// Whoever goes by it leads nobody here any more, before anybody is refused.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn health_says_that_a_daemon_is_about_to_stop_while_everything_is_served(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let watch = v1::WatchSearchRequest { id: search.id, ..v1::WatchSearchRequest::default() };
    let mut followed = service.searches().watch_search(watch).await.unwrap().into_inner();
    service.shutdown.draining.cancel();
    let mut client = HealthClient::new(service.channel.clone());
    let told = async {
        let ask = HealthCheckRequest::default();
        while client.check(ask.clone()).await.unwrap().into_inner().status() != ServingStatus::NotServing {}
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    // Over connections that are there and over new ones; streams go on.
    let again = service.connect().await;
    let listed = JobServiceClient::new(again).list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    let job = listed.into_inner().jobs[0].id.clone();
    let cancel = v1::CancelJobRequest { id: job, ..v1::CancelJobRequest::default() };
    service.jobs().cancel_job(cancel).await.unwrap();
    let is_told = async {
        while followed.next().await.unwrap().unwrap().jobs.iter().all(|job| job.end_time.is_none()) {}
    };
    tokio::time::timeout(PATIENCE, is_told).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_drained_worker_hands_back_and_takes_no_more(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;

    let request = v1::DrainWorkerRequest { id: "w1".to_owned() };
    let drained = service.fleet().drain_worker(request).await.unwrap().into_inner();
    assert_eq!(drained.state(), v1::WorkerState::Draining);
    assert_eq!(drained.job_ids, [job_id(&grant)]);
    assert_eq!(drained.devices[0].model, "Abacus");
    let answer = worker.report(&grant, 1, 1, "step").await.unwrap();
    assert_eq!(answer.desired(), v1::DesiredState::Yield);
    assert!(worker.ask().await.is_none());

    let request = v1::UncordonWorkerRequest { id: "w1".to_owned() };
    let ready = service.fleet().uncordon_worker(request).await.unwrap().into_inner();
    assert_eq!(ready.state(), v1::WorkerState::Ready);
    let listed = service.fleet().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.workers.len(), 1);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_project_is_made_and_a_search_of_it_has_its_name_and_priority(pool: PgPool) {
    let service = Service::start(pool).await;
    let wish = v1::SetProjectRequest {
        name: "lung".to_owned(),
        share: 3,
        device_quota: Some(2),
        device_hours_quota: Some(1.5),
        period_days: 0,
    };
    let made = service.fleet().set_project(wish.clone()).await.unwrap().into_inner();
    assert_eq!(
        (made.share, made.device_quota, made.device_hours_quota, made.period_days),
        (3, Some(2), Some(1.5), 30)
    );
    for (field, wrong) in [
        ("name", v1::SetProjectRequest { name: "Lung".to_owned(), ..wish.clone() }),
        ("share", v1::SetProjectRequest { share: 1_000_001, ..wish.clone() }),
        ("device_hours_quota", v1::SetProjectRequest { device_hours_quota: Some(-1.0), ..wish.clone() }),
        ("period_days", v1::SetProjectRequest { period_days: 999, ..wish }),
    ] {
        let refused = service.fleet().set_project(wrong).await.unwrap_err();
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let listed = service.fleet().list_projects(v1::ListProjectsRequest {}).await.unwrap().into_inner();
    let names: Vec<&str> = listed.projects.iter().map(|project| project.name.as_str()).collect();
    assert_eq!(names, ["default", "lung"]);

    let submit = v1::SubmitSearchRequest { project: "lung".to_owned(), priority: -7, ..small_search() };
    let search = service.searches().submit_search(submit.clone()).await.unwrap().into_inner().search.unwrap();
    assert_eq!((search.project.as_str(), search.priority), ("lung", -7));
    assert!(search.jobs.iter().all(|job| job.project == "lung" && job.priority == -7), "{search:#?}");
    let unknown = v1::SubmitSearchRequest { project: "brain".to_owned(), ..submit };
    let refused = service.searches().submit_search(unknown).await.unwrap_err();
    assert!(refused.message().contains("cakes project set brain"), "{refused}");
}
