//! What bad requests get: the right status, and the field by name.

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::{DATA_AT_HAND_BYTES_MAX, DATA_AT_HAND_MAX, WORKER_PROTOCOL, v1};
use tonic::Code;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::harness::{Service, Worker, cpu, fields, reason, refused, small_search};

#[test]
fn a_misspelt_key_is_refused_by_its_name() {
    let json = serde_json::to_string(&small_search()).unwrap().replace("\"budgets\"", "\"budgts\"");
    let error = serde_json::from_str::<v1::SubmitSearchRequest>(&json).unwrap_err().to_string();
    assert!(error.contains("budgts") && error.contains("budgets"), "{error}");
}

/// A change of a valid search, and the field that must be blamed.
type SearchCase = (fn(&mut v1::SearchSpec), &'static str);

#[sqlx::test(migrator = "MIGRATIONS")]
async fn searches_that_make_no_sense_are_refused_with_the_field(pool: PgPool) {
    let service = Service::start(pool).await;
    let cases: [SearchCase; 9] = [
        (|search| search.name = "../etc".into(), "search.name"),
        (|search| search.dataset = None, "search.dataset"),
        (|search| search.patch.as_mut().unwrap().height = 15, "search.patch"),
        (|search| search.budgets = vec![0.5, -1.0], "search.budgets[1]"),
        (|search| search.budgets = vec![f64::NAN], "search.budgets[0]"),
        (|search| search.baselines = vec!["c4d".into()], "search.baselines[0]"),
        (|search| search.retrain.as_mut().unwrap().seeds = vec![1, 1], "search.retrain.seeds"),
        (
            |search| search.supernet.as_mut().unwrap().kernels = vec!["5x5x5".into()],
            "search.supernet.kernels[0]",
        ),
        (
            |search| search.retrain.as_mut().unwrap().training.as_mut().unwrap().epochs = Some(0),
            "search.retrain.training.epochs",
        ),
    ];
    for (change, field) in cases {
        let mut request = small_search();
        change(request.search.as_mut().unwrap());
        let status = refused(service.searches().submit_search(request).await, Code::InvalidArgument);
        assert_eq!(fields(&status)[0], field, "{status:?}");
        assert!(status.message().contains(field), "{status:?}");
    }
    let empty = v1::SubmitSearchRequest::default();
    let status = refused(service.searches().submit_search(empty).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["search"]);
    let listed = service.searches().list_searches(v1::ListSearchesRequest::default()).await.unwrap();
    assert!(listed.into_inner().searches.is_empty(), "nothing is half-written");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn ids_that_name_nothing_or_too_much_are_refused(pool: PgPool) {
    let service = Service::start(pool).await;
    let unknown = Uuid::new_v4().to_string();
    let get = |id: &str| v1::GetSearchRequest { id: id.to_owned(), ..v1::GetSearchRequest::default() };
    let status = refused(service.searches().get_search(get(&unknown)).await, Code::NotFound);
    assert!(status.message().contains(&unknown), "{status:?}");
    assert_eq!(status.get_error_details().resource_info().unwrap().resource_name, unknown);
    refused(service.searches().get_search(get("abcdef")).await, Code::NotFound);
    for id in ["", "abc", "no hex!", "%%%%%%%"] {
        let status = refused(service.searches().get_search(get(id)).await, Code::InvalidArgument);
        assert_eq!(fields(&status), ["id"], "{id}");
    }
    let watch = v1::WatchSearchRequest { id: unknown.clone(), ..v1::WatchSearchRequest::default() };
    refused(service.searches().watch_search(watch).await.map(drop), Code::NotFound);
    let front = v1::GetParetoFrontRequest { id: unknown.clone() };
    refused(service.searches().get_pareto_front(front).await, Code::NotFound);
    let logs =
        v1::StreamJobLogsRequest { id: unknown.clone(), follow: true, ..v1::StreamJobLogsRequest::default() };
    refused(service.jobs().stream_job_logs(logs).await.map(drop), Code::NotFound);
    refused(
        service
            .jobs()
            .watch_job(v1::WatchJobRequest { id: unknown.clone(), ..v1::WatchJobRequest::default() })
            .await
            .map(drop),
        Code::NotFound,
    );
    refused(service.jobs().explain_job(v1::ExplainJobRequest { id: unknown.clone() }).await, Code::NotFound);
    let listed = v1::ListJobsRequest { search_id: unknown.clone(), ..v1::ListJobsRequest::default() };
    refused(service.jobs().list_jobs(listed).await, Code::NotFound);
    let metrics = v1::ListMetricsRequest { id: unknown.clone(), ..v1::ListMetricsRequest::default() };
    refused(service.jobs().list_metrics(metrics).await, Code::NotFound);
    refused(
        service
            .jobs()
            .cancel_job(v1::CancelJobRequest {
                id: unknown,
                reason: String::new(),
                ..v1::CancelJobRequest::default()
            })
            .await,
        Code::NotFound,
    );
    let digest = v1::GetArchitectureRequest { digest: "ab".repeat(32) };
    refused(service.architectures().get_architecture(digest).await, Code::NotFound);
    let worker = v1::DrainWorkerRequest { id: "nobody".to_owned() };
    refused(service.fleet().drain_worker(worker).await, Code::NotFound);
    let worker = v1::CordonWorkerRequest { id: "../w".to_owned() };
    assert_eq!(fields(&refused(service.fleet().cordon_worker(worker).await, Code::InvalidArgument)), ["id"]);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn pages_and_lists_refuse_what_they_cannot_mean(pool: PgPool) {
    let service = Service::start(pool).await;
    for _ in 0..3 {
        service.submit(small_search()).await;
    }
    let list = |page_size, page_token: &str| v1::ListSearchesRequest {
        page_size,
        page_token: page_token.to_owned(),
        ..v1::ListSearchesRequest::default()
    };
    let status = refused(service.searches().list_searches(list(-1, "")).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["page_size"]);
    let status = refused(service.searches().list_searches(list(1, "zz")).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["page_token"]);

    let first = service.searches().list_searches(list(2, "")).await.unwrap().into_inner();
    let second =
        service.searches().list_searches(list(2, &first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((first.searches.len(), second.searches.len(), second.next_page_token.as_str()), (2, 1, ""));
    let times: Vec<_> =
        first.searches.iter().chain(&second.searches).map(|search| search.create_time.unwrap()).collect();
    assert!(times.is_sorted_by_key(|time| std::cmp::Reverse((time.seconds, time.nanos))), "{times:?}");

    // A token belongs to the arguments that it was given for.
    let jobs = v1::ListJobsRequest { page_token: first.next_page_token, ..v1::ListJobsRequest::default() };
    let status = refused(service.jobs().list_jobs(jobs).await, Code::InvalidArgument);
    assert!(status.message().contains("other arguments"), "{status:?}");
    let jobs = v1::ListJobsRequest { states: vec![1, 77], ..v1::ListJobsRequest::default() };
    assert_eq!(fields(&refused(service.jobs().list_jobs(jobs).await, Code::InvalidArgument)), ["states[1]"]);
    let queued = v1::ListJobsRequest {
        states: vec![v1::JobState::Queued.into()],
        page_size: 2,
        ..v1::ListJobsRequest::default()
    };
    let page = service.jobs().list_jobs(queued.clone()).await.unwrap().into_inner();
    assert_eq!(page.jobs.len(), 2);
    let rest = v1::ListJobsRequest { page_token: page.next_page_token, ..queued };
    let next = service.jobs().list_jobs(rest).await.unwrap().into_inner();
    assert!(next.jobs.iter().all(|job| page.jobs.iter().all(|other| other.id != job.id)));
    let extent = v1::Extent { depth: u32::MAX, height: u32::MAX, width: u32::MAX };
    let cost = v1::EstimateCostRequest {
        backbone: small_search().search.unwrap().backbone,
        layers: vec![],
        extent: Some(extent),
    };
    assert_eq!(
        fields(&refused(service.architectures().estimate_cost(cost).await, Code::InvalidArgument)),
        ["extent"]
    );
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_the_state_forbids_is_refused_with_a_reason(pool: PgPool) {
    let service = Service::start(pool).await;
    let request = v1::SubmitSearchRequest { request_id: "r1".to_owned(), ..small_search() };
    let search = service.submit(request.clone()).await;
    let mut other = request;
    other.search.as_mut().unwrap().name = "other".to_owned();
    let status = refused(service.searches().submit_search(other).await, Code::AlreadyExists);
    assert_eq!(reason(&status), "REQUEST_ID_REUSED");
    assert!(status.message().contains("r1"), "{status:?}");

    let derive =
        v1::DeriveArchitecturesRequest { id: search.id.clone(), budgets: vec![0.5], ..Default::default() };
    let status = refused(service.searches().derive_architectures(derive).await, Code::FailedPrecondition);
    assert!(!status.message().is_empty());
    let derive =
        v1::DeriveArchitecturesRequest { id: search.id.clone(), ..v1::DeriveArchitecturesRequest::default() };
    let status = refused(service.searches().derive_architectures(derive).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["budgets"]);
    let job = search.jobs[0].id.clone();
    let cancel = v1::CancelJobRequest {
        id: job.clone(),
        reason: "not needed".to_owned(),
        ..v1::CancelJobRequest::default()
    };
    service.jobs().cancel_job(cancel).await.unwrap();
    let pause = v1::PauseJobRequest { id: job.clone(), ..v1::PauseJobRequest::default() };
    let status = refused(service.jobs().pause_job(pause).await, Code::FailedPrecondition);
    assert!(status.message().contains("cancelled"), "{status:?}");
    let reason_text =
        v1::CancelJobRequest { id: job, reason: "x".repeat(2000), ..v1::CancelJobRequest::default() };
    assert_eq!(
        fields(&refused(service.jobs().cancel_job(reason_text).await, Code::InvalidArgument)),
        ["reason"]
    );
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn workers_of_another_protocol_are_told_both_versions(pool: PgPool) {
    let service = Service::start(pool).await;
    for version in [0, WORKER_PROTOCOL + 1] {
        // Everything else is wrong too; the version is what counts.
        let request = v1::RegisterRequest { protocol_version: version, ..v1::RegisterRequest::default() };
        let status = refused(service.workers().register(request).await, Code::FailedPrecondition);
        let both = [version, WORKER_PROTOCOL].map(|version| version.to_string());
        assert!(both.iter().all(|version| status.message().contains(version)), "{status:?}");
        assert_eq!(reason(&status), "PROTOCOL_VERSION");
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn malformed_words_of_a_worker_name_their_field(pool: PgPool) {
    let service = Service::start(pool).await;
    let mut client = service.workers();
    let register = |worker_id: &str, request_id: &str, devices| v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: worker_id.to_owned(),
        request_id: request_id.to_owned(),
        devices,
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    let id = Uuid::new_v4().to_string();
    let nameless = v1::Device { name: String::new(), ..cpu() };
    let cases = [
        (register("A/B", &id, vec![cpu()]), "worker_id"),
        (register("w", "one", vec![cpu()]), "request_id"),
        (register("w", &id, vec![]), "devices"),
        (register("w", &id, vec![cpu(), cpu()]), "devices"),
        (register("w", &id, vec![nameless]), "devices[0].name"),
    ];
    for (request, field) in cases {
        assert_eq!(fields(&refused(client.register(request).await, Code::InvalidArgument)), [field]);
    }
    let acquire = |data_at_hand| v1::AcquireRequest {
        worker_id: "w".to_owned(),
        incarnation: 1,
        request_id: id.clone(),
        device: Some(cpu()),
        data_at_hand,
    };
    let long = "d".repeat(DATA_AT_HAND_BYTES_MAX + 1);
    let cases = [
        (vec![String::new(); DATA_AT_HAND_MAX + 1], "data_at_hand"),
        (vec!["brains".to_owned(), long], "data_at_hand[1]"),
    ];
    for (paths, field) in cases {
        let status = refused(client.acquire(acquire(paths)).await, Code::InvalidArgument);
        assert_eq!(fields(&status), [field]);
    }
    let longest = vec!["d".repeat(DATA_AT_HAND_BYTES_MAX); DATA_AT_HAND_MAX];
    // Only the worker is not known.
    refused(client.acquire(acquire(longest)).await, Code::FailedPrecondition);
    let token = v1::LeaseToken { job_id: id, epoch: 1, nonce: "short".to_owned(), member: 0 };
    for token in [None, Some(token)] {
        let status = refused(client.start(v1::StartRequest { token }).await, Code::InvalidArgument);
        assert_eq!(fields(&status), ["token"]);
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn writes_without_the_lease_or_with_gaps_are_refused(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    worker.report(&grant, 1, 1, "one").await.unwrap();
    let status = refused(worker.report(&grant, 9, 2, "gap").await, Code::OutOfRange);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["ack_seq"], "2");
    // The same entries again are no mistake.
    assert_eq!(worker.report(&grant, 1, 1, "one").await.unwrap().ack_seq, 2);

    let mut forged = grant.clone();
    forged.token.as_mut().unwrap().nonce = "00".repeat(16);
    let status = refused(worker.report(&forged, 3, 2, "zombie").await, Code::FailedPrecondition);
    assert_eq!(reason(&status), "LEASE_LOST");
    assert!(!format!("{status:?}").contains(&grant.token.as_ref().unwrap().nonce));

    let fail = v1::FailRequest { token: grant.token.clone(), failure_class: 0, message: String::new() };
    let status = refused(worker.client.fail(fail).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["failure_class"]);
    let complete =
        v1::CompleteRequest { token: grant.token.clone(), scores_json: "{".to_owned(), ..Default::default() };
    let status = refused(worker.client.complete(complete).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["checkpoint"]);
    worker.incarnation += 1;
    let acquire = v1::AcquireRequest {
        worker_id: "w1".to_owned(),
        incarnation: worker.incarnation,
        request_id: Uuid::new_v4().to_string(),
        device: Some(cpu()),
        data_at_hand: Vec::new(),
    };
    let status = refused(worker.client.acquire(acquire).await, Code::FailedPrecondition);
    assert_eq!(reason(&status), "STALE_INCARNATION");
}
