//! What stands before the handlers: identities, the record, streams that end with them,
//! workers that speak for themselves alone.

use std::time::{Duration, Instant};

use cakes_coordinator::core::access::{Role, TokenRole};
use cakes_coordinator::core::rights::{Needs, needs};
use cakes_coordinator::grpc::Limits;
use cakes_coordinator::store::access::{AuditRecord, issue, page as audit, revoke};
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::bearer::Bearer;
use cakes_proto::method::Method;
use cakes_proto::v1::JobState;
use cakes_proto::v1::architecture_service_client::ArchitectureServiceClient;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use cakes_proto::v1::job_service_client::JobServiceClient;
use cakes_proto::v1::search_service_client::SearchServiceClient;
use cakes_proto::v1::worker_service_client::WorkerServiceClient;
use cakes_proto::{WORKER_PROTOCOL, v1};
use sqlx::{ConnectOptions, Connection};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use uuid::Uuid;

use crate::harness::{PATIENCE, Service, cpu, reason, refused, small_search};
use crate::rights::call;

type Wire = InterceptedService<Channel, Bearer>;

fn with(service: &Service, token: &str) -> Wire {
    InterceptedService::new(service.channel.clone(), Bearer::new(token, "a test").unwrap())
}

async fn token(pool: &PgPool, name: &str, role: impl Into<TokenRole>) -> String {
    issue(pool, name, role, None).await.unwrap()
}

async fn submit(wire: Wire) -> String {
    let answer = SearchServiceClient::new(wire).submit_search(small_search()).await.unwrap();
    answer.into_inner().search.unwrap().jobs[0].id.clone()
}

/// Rows of the record without their times, oldest first.
async fn rows(pool: &PgPool) -> Vec<AuditRecord> {
    let mut rows = audit(pool, None, 1000).await.unwrap();
    rows.reverse();
    rows
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_is_done_and_what_is_refused_is_recorded_as_by_the_page(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    let (vera, olga) = (token(&pool, "vera", Role::Viewer).await, token(&pool, "olga", Role::Operator).await);
    let job = submit(with(&service, &olga)).await;
    let cancel = v1::CancelJobRequest {
        id: job.clone(),
        reason: "enough".to_owned(),
        ..v1::CancelJobRequest::default()
    };
    let mut of_vera = JobServiceClient::new(with(&service, &vera));
    let mut of_olga = JobServiceClient::new(with(&service, &olga));
    let status = refused(of_vera.cancel_job(cancel.clone()).await, Code::PermissionDenied);
    for part in ["'vera'", "viewer", "cancel_job", "submitter", "token issue", "pki issue user"] {
        assert!(status.message().contains(part), "{status:?}");
    }
    assert_eq!(
        of_vera
            .get_job(v1::GetJobRequest { id: job.clone(), ..v1::GetJobRequest::default() })
            .await
            .unwrap()
            .into_inner()
            .id,
        job
    );
    of_olga.cancel_job(cancel.clone()).await.unwrap();
    refused(
        of_olga.pause_job(v1::PauseJobRequest { id: job.clone(), ..v1::PauseJobRequest::default() }).await,
        Code::FailedPrecondition,
    );
    refused(call(&service.channel, Method::CancelJob.path(), None).await, Code::Unauthenticated);
    refused(call(&service.channel, Method::CancelJob.path(), Some("cakes_no")).await, Code::Unauthenticated);

    let found = rows(&pool).await;
    let shown: Vec<_> = found
        .iter()
        .map(|row| (row.token_name.as_deref(), row.role.as_deref(), row.action.as_str(), row.answer.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            (Some("olga"), Some("operator"), "submit_search", "ok"),
            (Some("vera"), Some("viewer"), "cancel_job", "FORBIDDEN"),
            (Some("olga"), Some("operator"), "cancel_job", "ok"),
            (Some("olga"), Some("operator"), "pause_job", "WRONG_STATE"),
            (None, None, "call", "UNAUTHORIZED"),
            (None, None, "bearer", "UNAUTHORIZED"),
        ]
    );
    assert!(found.iter().all(|row| row.via == "api" && row.peer == "127.0.0.1"), "{found:?}");
    assert_eq!((found[2].object.as_str(), found[4].object.as_str()), (job.as_str(), "cancel_job"));

    // Nobody fills the record with what nobody known has asked for.
    for _ in 0..15 {
        refused(call(&service.channel, Method::ListJobs.path(), None).await, Code::Unauthenticated);
    }
    let of_nobody = rows(&pool).await.iter().filter(|row| row.action == "call").count();
    assert_eq!(of_nobody, 10);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_submitter_stops_what_is_their_own_and_an_operator_everything(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    let [ada, ben] = [token(&pool, "ada", Role::Submitter).await, token(&pool, "ben", Role::Submitter).await];
    let olga = token(&pool, "olga", Role::Operator).await;
    let job = submit(with(&service, &ada)).await;
    let of = |token: &str| JobServiceClient::new(with(&service, token));
    let get = v1::GetJobRequest { id: job.clone(), ..v1::GetJobRequest::default() };
    let found = of(&ben).get_job(get).await.unwrap().into_inner();
    assert_eq!(found.owner, "ada", "a search's jobs are its owner's");
    let search = found.search_id;

    let pause = || v1::PauseJobRequest { id: job.clone(), ..v1::PauseJobRequest::default() };
    let resume = || v1::ResumeJobRequest { id: job.clone(), ..v1::ResumeJobRequest::default() };
    let cancel = || v1::CancelJobRequest { id: job.clone(), ..v1::CancelJobRequest::default() };
    let pin = || v1::PinCheckpointRequest { id: job.clone(), step: 1 };
    let unpin = || v1::UnpinCheckpointRequest { id: job.clone(), step: 1 };
    let retry = || v1::RetryJobRequest { id: job.clone(), ..v1::RetryJobRequest::default() };
    let set = [("paper".to_owned(), "yes".to_owned())];
    let label =
        || v1::LabelJobRequest { id: job.clone(), set: set.clone().into(), ..v1::LabelJobRequest::default() };
    let refusals = [
        refused(of(&ben).retry_job(retry()).await, Code::PermissionDenied),
        refused(of(&ben).label_job(label()).await, Code::PermissionDenied),
        refused(of(&ben).pause_job(pause()).await, Code::PermissionDenied),
        refused(of(&ben).resume_job(resume()).await, Code::PermissionDenied),
        refused(of(&ben).cancel_job(cancel()).await, Code::PermissionDenied),
        refused(of(&ben).pin_checkpoint(pin()).await, Code::PermissionDenied),
        refused(of(&ben).unpin_checkpoint(unpin()).await, Code::PermissionDenied),
    ];
    for status in &refusals {
        assert_eq!(reason(status), "NOT_OWNER");
        assert!(status.message().contains("'ada' submitted it"), "{status:?}");
    }
    let of_searches = |token: &str| SearchServiceClient::new(with(&service, token));
    let cancel_search =
        || v1::CancelSearchRequest { id: search.clone(), ..v1::CancelSearchRequest::default() };
    let status = refused(of_searches(&ben).cancel_search(cancel_search()).await, Code::PermissionDenied);
    assert_eq!(reason(&status), "NOT_OWNER");
    let label_search = || v1::LabelSearchRequest {
        id: search.clone(),
        set: set.clone().into(),
        ..v1::LabelSearchRequest::default()
    };
    let status = refused(of_searches(&ben).label_search(label_search()).await, Code::PermissionDenied);
    assert_eq!(reason(&status), "NOT_OWNER");
    let forbidden = rows(&pool).await.iter().filter(|row| row.answer == "FORBIDDEN").count();
    assert_eq!(forbidden, 9, "a refusal is not in the record");
    let unknown = v1::CancelJobRequest { id: Uuid::new_v4().to_string(), ..v1::CancelJobRequest::default() };
    refused(of(&ben).cancel_job(unknown).await, Code::NotFound);

    of(&ada).label_job(label()).await.unwrap();
    of_searches(&ada).label_search(label_search()).await.unwrap();
    of(&ada).pause_job(pause()).await.unwrap();
    of(&olga).resume_job(resume()).await.unwrap();
    of_searches(&ada).cancel_search(cancel_search()).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_cannot_be_recorded_is_not_done(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let search = service.submit(small_search()).await;
    let job = service.search(&search.id).await.jobs[0].id.clone();
    let run = async |statement: &'static str| sqlx::query(statement).execute(&pool).await.unwrap();
    run("create function nobody_writes() returns trigger language plpgsql as $$ begin raise 'full'; end $$")
        .await;
    run("create trigger full_disk before insert on audit for each row execute function nobody_writes()")
        .await;
    let pause = v1::PauseJobRequest { id: job.clone(), ..v1::PauseJobRequest::default() };
    let status = refused(service.jobs().pause_job(pause.clone()).await, Code::Unavailable);
    assert_eq!(reason(&status), "NOT_RECORDED");
    assert_eq!(service.job(&job).await.state(), JobState::Queued, "done without a record");
    run("drop trigger full_disk on audit").await;
    service.jobs().pause_job(pause).await.unwrap();
    let last = rows(&pool).await.pop().unwrap();
    assert_eq!(
        (last.role.as_deref(), last.action.as_str(), last.answer.as_str()),
        (Some("trusted"), "pause_job", "ok")
    );
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_revoked_token_ends_its_streams_and_is_refused(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    let olga = token(&pool, "olga", Role::Operator).await;
    let job = submit(with(&service, &olga)).await;
    let vera = token(&pool, "vera", Role::Viewer).await;
    let mut jobs = JobServiceClient::new(with(&service, &vera));
    let mut watched = jobs
        .watch_job(v1::WatchJobRequest { id: job.clone(), ..v1::WatchJobRequest::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().id, job);
    let mut of_olga = JobServiceClient::new(with(&service, &olga));
    let mut lasting = of_olga
        .watch_job(v1::WatchJobRequest { id: job.clone(), ..v1::WatchJobRequest::default() })
        .await
        .unwrap()
        .into_inner();
    assert!(lasting.message().await.unwrap().is_some());

    revoke(&pool, "vera").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), watched.message()).await.expect("an end");
    assert_eq!(reason(&refused(ended, Code::Unauthenticated)), "TOKEN_REVOKED");
    let start = Instant::now();
    while jobs.list_jobs(v1::ListJobsRequest::default()).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(60), "a revoked token is still taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nobody else's stream ended.
    of_olga
        .cancel_job(v1::CancelJobRequest {
            id: job,
            reason: String::new(),
            ..v1::CancelJobRequest::default()
        })
        .await
        .unwrap();
    let next = tokio::time::timeout(PATIENCE, lasting.message()).await.expect("news");
    assert_eq!(next.unwrap().unwrap().state(), JobState::Cancelled);
}

fn registration(worker: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: worker.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        devices: vec![cpu()],
        version: "0.1.0".to_owned(),
        ..Default::default()
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_worker_speaks_for_itself_and_for_its_own_leases(pool: PgPool) {
    let of_workers = Method::ALL.iter().filter(|method| matches!(needs(**method), Needs::Worker(_)));
    assert_eq!(of_workers.count(), 8, "a method of workers that this test does not call");
    let service = Service::start_for_known(pool.clone()).await;
    let olga = token(&pool, "olga", Role::Operator).await;
    submit(with(&service, &olga)).await;
    let (a, b) = (token(&pool, "a", TokenRole::Worker).await, token(&pool, "b", TokenRole::Worker).await);
    let mut of_a = WorkerServiceClient::new(with(&service, &a));
    let mut of_b = WorkerServiceClient::new(with(&service, &b));
    let status = refused(of_b.register(registration("a")).await, Code::PermissionDenied);
    assert_eq!(reason(&status), "NOT_OWN");
    assert!(status.message().contains("--id b"), "{status:?}");
    let incarnation = of_a.register(registration("a")).await.unwrap().into_inner().incarnation;
    of_b.register(registration("b")).await.unwrap();
    let acquire = v1::AcquireRequest {
        worker_id: "a".to_owned(),
        incarnation,
        request_id: Uuid::new_v4().to_string(),
        device: Some(cpu()),
        data_at_hand: Vec::new(),
    };
    refused(of_b.acquire(acquire.clone()).await, Code::PermissionDenied);
    let reconcile = v1::ReconcileRequest { worker_id: "a".to_owned(), incarnation, tokens: Vec::new() };
    refused(of_b.reconcile(reconcile.clone()).await, Code::PermissionDenied);
    of_a.reconcile(reconcile).await.unwrap();
    let grant = of_a.acquire(acquire).await.unwrap().into_inner().grant.expect("a job");

    // Whoever has read the lease of another one, with its nonce, can do nothing with it.
    let lease = grant.token.clone();
    let checkpoint = v1::CheckpointReference {
        key: format!("{}/step-000000001", grant.artifact_prefix),
        step: 1,
        manifest_sha256: "ab".repeat(32),
    };
    let denied = [
        of_b.start(v1::StartRequest { token: lease.clone() }).await.map(drop),
        of_b.report(v1::ReportRequest { token: lease.clone(), first_seq: 1, ..Default::default() })
            .await
            .map(drop),
        of_b.commit_checkpoint(v1::CommitCheckpointRequest {
            token: lease.clone(),
            checkpoint: Some(checkpoint.clone()),
            bytes: 1,
        })
        .await
        .map(drop),
        of_b.complete(v1::CompleteRequest {
            token: lease.clone(),
            checkpoint: Some(checkpoint),
            ..Default::default()
        })
        .await
        .map(drop),
        of_b.fail(v1::FailRequest {
            token: lease.clone(),
            failure_class: v1::FailureClass::Lost.into(),
            message: String::new(),
        })
        .await
        .map(drop),
    ];
    for (index, answer) in denied.into_iter().enumerate() {
        assert_eq!(reason(&refused(answer, Code::PermissionDenied)), "NOT_OWN", "call {index}");
    }
    of_a.start(v1::StartRequest { token: lease.clone() }).await.unwrap();
    of_a.report(v1::ReportRequest { token: lease, first_seq: 1, ..Default::default() }).await.unwrap();
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_path_that_is_none_is_answered_before_anything_is_read(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    for path in
        ["/cakes.v1.JobService/Nothing", "/cakes.v2.JobService/GetJob", "/", "/cakes.v1.JobService/getjob"]
    {
        let mut grpc = tonic::client::Grpc::new(service.channel.clone());
        grpc.ready().await.unwrap();
        let endless = Request::new(futures::stream::pending::<()>());
        let codec = ProstCodec::<(), ()>::default();
        let answer = grpc.streaming(endless, PathAndQuery::from_static(path), codec);
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer");
        refused(answer.map(drop), Code::Unimplemented);
    }
    // As is who may not call.
    let mut grpc = tonic::client::Grpc::new(service.channel.clone());
    grpc.ready().await.unwrap();
    let endless = Request::new(futures::stream::pending::<()>());
    let path = PathAndQuery::from_static(Method::ImportSearch.path());
    let answer = grpc.streaming(endless, path, ProstCodec::<(), ()>::default());
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer");
    refused(answer.map(drop), Code::Unauthenticated);
}

/// A number, where there should be an id. Nothing is begun, so nothing is recorded.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn bytes_that_are_no_request_are_refused_before_anything_is_recorded(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    for method in [Method::GetJob, Method::CancelJob, Method::TestWebhook] {
        let mut grpc = tonic::client::Grpc::new(service.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(method.path());
        let answer = grpc.unary(Request::new(7), path, ProstCodec::<u64, ()>::default()).await;
        let status = refused(answer, Code::InvalidArgument);
        assert_eq!(reason(&status), "UNREADABLE");
        assert!(status.message().contains(method.name()), "{status:?}");
    }
    assert!(rows(&pool).await.is_empty());
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn one_caller_takes_no_places_of_others(pool: PgPool) {
    let service = Service::start_for_known(pool.clone()).await;
    let olga = token(&pool, "olga", Role::Operator).await;
    let vera = token(&pool, "vera", Role::Viewer).await;
    let mut open = Vec::new();
    // A connection has fewer streams than a caller may have over all of its own.
    let channels = [service.connect().await, service.connect().await, service.connect().await];
    let refused_at = loop {
        let channel = channels[open.len() / 60 % channels.len()].clone();
        let wire = InterceptedService::new(channel, Bearer::new(&olga, "a test").unwrap());
        match HealthClient::new(wire).watch(HealthCheckRequest::default()).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
        assert!(open.len() < 1000, "nothing is refused");
    };
    assert_eq!(
        (refused_at.code(), reason(&refused_at).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_CALLS")
    );
    assert_eq!(open.len(), 128);
    let mut of_olga = JobServiceClient::new(with(&service, &olga));
    let mut of_vera = JobServiceClient::new(with(&service, &vera));
    refused(of_olga.list_jobs(v1::ListJobsRequest::default()).await, Code::ResourceExhausted);
    of_vera.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    drop(open);
    let start = Instant::now();
    while of_olga.list_jobs(v1::ListJobsRequest::default()).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "places of ended streams stay taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// With more of them served, it would have all connections to the database.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn calls_of_one_caller_that_wait_keep_nobody_else_waiting(pool: PgPool) {
    let limits = Limits { call_timeout: Duration::from_secs(600), ..Limits::default() };
    let service = Service::start_limited(pool.clone(), limits).await;
    let [ada, vera] = [token(&pool, "ada", Role::Viewer).await, token(&pool, "vera", Role::Viewer).await];
    let mut beside = pool.connect_options().connect().await.unwrap();
    let mut holder = beside.begin().await.unwrap();
    let lock = "lock table architecture in access exclusive mode";
    sqlx::query(lock).execute(&mut *holder).await.unwrap();
    let call = |_| {
        let mut of_ada = ArchitectureServiceClient::new(with(&service, &ada));
        tokio::spawn(async move { of_ada.list_architectures(v1::ListArchitecturesRequest::default()).await })
    };
    let flood: Vec<_> = (0..20).map(call).collect();
    let waiting = "select count(*) from pg_locks
        where relation = 'architecture'::regclass and not granted
            and database = (select oid from pg_database where datname = current_database())";
    let start = Instant::now();
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *holder).await.unwrap() < 2 {
        assert!(start.elapsed() < PATIENCE, "nothing waits for the table");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // By now whatever is let through has got so far.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut of_vera = FleetServiceClient::new(with(&service, &vera));
    let answer = tokio::time::timeout(PATIENCE, of_vera.list_workers(v1::ListWorkersRequest {})).await;
    answer.expect("an answer").unwrap();
    holder.rollback().await.unwrap();
    for answer in flood {
        answer.await.unwrap().unwrap();
    }
    beside.close().await.unwrap();
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn metadata_is_no_way_to_fill_memory(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let list = async |bytes: usize| {
        let mut request = Request::new(v1::ListJobsRequest::default());
        request.metadata_mut().insert("x-padding", "x".repeat(bytes).parse().unwrap());
        let call = async { service.jobs().list_jobs(request).await };
        tokio::time::timeout(PATIENCE, call).await.expect("an answer")
    };
    list(4000).await.unwrap();
    assert!(list(12_000).await.is_err());
    // The connection, and whoever else calls over it, go on.
    list(4000).await.unwrap();
}
