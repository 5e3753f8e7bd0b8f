//! The life of a search, from its submission to its front.

use std::collections::BTreeSet;

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::harness::{PATIENCE, Service, Worker, fields, job_id, refused, small_search, trainer_job};

/// Dice of the scripted networks: better with more multiply-accumulates, but for
/// the seed.
fn dice(grant: &v1::Grant) -> f64 {
    let job = trainer_job(grant);
    let macs = cakes::cost::cost(&job.task.network(), job.patch).unwrap().mac_count as f64;
    0.5 + (macs / 1e9).min(0.3) + 0.01 * job.seed as f64
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_search_becomes_a_front_of_retrained_networks(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    assert_eq!(search.state(), v1::SearchState::Searching);
    let mut worker = Worker::register(&service, "w1").await;

    let mut kinds = Vec::new();
    while service.search(&search.id).await.end_time.is_none() {
        let Some(grant) = worker.ask().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        kinds.push(service.job(&job_id(&grant)).await.kind());
        worker.run(&grant, dice(&grant)).await;
    }
    assert_eq!(kinds[0], v1::JobKind::Supernet, "the supernet goes first: everything waits for it");

    let search = service.search(&search.id).await;
    assert_eq!(search.state(), v1::SearchState::Succeeded, "{}", search.state_reason);
    assert!(search.jobs.iter().all(|job| job.state() == v1::JobState::Succeeded && job.result.is_some()));
    assert_eq!(search.jobs[0].label, "supernet");
    assert_eq!(search.jobs[0].progress.as_ref().unwrap().step, 10);
    assert_eq!(search.jobs[0].attempt_count, 1);
    assert_eq!(search.jobs[0].worker_id, "w1");
    assert!(search.jobs[1].result.as_ref().unwrap().checkpoint_key.starts_with(&search.jobs[1].id));

    let request = v1::GetParetoFrontRequest { id: search.id.clone() };
    let front = service.searches().get_pareto_front(request).await.unwrap().into_inner();
    check_front(&search, &front);
    check_architectures(&service, &search, &front).await;
}

fn check_front(search: &v1::Search, front: &v1::ParetoFront) {
    assert_eq!(front.pending_count, 0);
    let retrained = search.jobs.iter().filter(|job| job.kind() == v1::JobKind::Retrain).count();
    let counted: u32 = front.entries.iter().map(|entry| entry.seed_count).sum();
    assert_eq!(counted as usize, retrained);
    assert!(front.entries.len() >= 3, "{front:#?}");
    let cost = |entry: &v1::FrontEntry| entry.architecture.clone().unwrap().cost.unwrap();
    assert!(front.entries.is_sorted_by_key(|entry| cost(entry).mac_count));
    for entry in &front.entries {
        assert_eq!(entry.seed_count, 2);
        assert!((entry.mean_dice_deviation.unwrap() - 0.01 / 2_f64.sqrt()).abs() < 1e-9);
        assert!((entry.dice_per_class[0] - (entry.mean_dice.unwrap() - 0.1)).abs() < 1e-9);
        assert_eq!((entry.dice_per_class.len(), entry.device.as_str()), (3, "cpu"));
        assert!((entry.latency_ms - cost(entry).mac_count as f64 / 1e6).abs() < 1e-9);
        // More work gave a better network here, so nobody is beaten.
        assert!(entry.on_front, "{entry:#?}");
    }
    assert_eq!(front.predicted_latency_device, "cpu");
    assert!(front.entries.iter().all(|entry| entry.predicted_latency_ms.is_some_and(|ms| ms <= 1.0)));
    let c3d = front.entries.last().unwrap();
    assert!((c3d.predicted_latency_ms.unwrap() - 1.0).abs() < 1e-3, "{c3d:?}");
    let dearest = c3d.architecture.as_ref().unwrap();
    assert_eq!(dearest.origins, ["baseline c3d"]);
    assert!((dearest.cost.as_ref().unwrap().mac_fraction - 1.0).abs() < 1e-9);
}

async fn check_architectures(service: &Service, search: &v1::Search, front: &v1::ParetoFront) {
    let mut client = service.architectures();
    let known: BTreeSet<String> =
        front.entries.iter().map(|entry| entry.architecture.clone().unwrap().digest).collect();
    // Page by page, one at a time.
    let (mut listed, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request = v1::ListArchitecturesRequest { search_id: search.id.clone(), page_size: 1, page_token };
        let page = client.list_architectures(request).await.unwrap().into_inner();
        assert_eq!(page.architectures.len(), 1);
        listed.extend(page.architectures.into_iter().map(|architecture| architecture.digest));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, known);

    let digest = known.first().unwrap();
    let request = v1::GetArchitectureRequest { digest: digest[..10].to_owned() };
    let architecture = client.get_architecture(request).await.unwrap().into_inner();
    assert_eq!(&architecture.digest, digest);
    let estimate = v1::EstimateCostRequest {
        backbone: architecture.backbone,
        layers: architecture.layers,
        extent: search.spec.as_ref().unwrap().patch,
    };
    assert_eq!(client.estimate_cost(estimate).await.unwrap().into_inner(), architecture.cost.unwrap());
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn more_architectures_are_derived_and_retrained_on_request(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let of_times = v1::GetLatencyTableRequest { id: search.id[..8].to_owned() };
    let early = service.searches().get_latency_table(of_times.clone()).await;
    assert!(refused(early, Code::FailedPrecondition).message().contains("wait"));
    let grant = worker.acquire().await;
    worker.run(&grant, 0.5).await;
    let table = service.searches().get_latency_table(of_times).await.unwrap().into_inner();
    assert_eq!((table.device.as_str(), table.reference_ns), ("cpu", 1_000_000));
    assert!(table.layers.iter().all(|layer| layer.channel_count >= 4 && layer.channel_ns["1x1x3"] > 0));

    let request = v1::DeriveArchitecturesRequest {
        id: search.id.clone(),
        budgets: vec![0.45],
        unconstrained: true,
        ..v1::DeriveArchitecturesRequest::default()
    };
    let answer = service.searches().derive_architectures(request.clone()).await.unwrap().into_inner();
    let derived = answer.architectures;
    assert_eq!(derived.len(), 2);
    let found = &answer.derivations[0];
    assert_eq!((found.digest.as_str(), found.origin.as_str()), (derived[0].digest.as_str(), "budget 0.45"));
    assert!(found.score.unwrap() <= found.score_bound.unwrap() && found.param_fraction < 1.0, "{found:?}");
    assert_eq!((answer.derivations[1].origin.as_str(), answer.derivations[1].score), ("paper rule", None));

    // The same budget in other terms is another architecture under a name of its own.
    let other = v1::DeriveArchitecturesRequest {
        measure: v1::CostMeasure::Param.into(),
        count_multiple: Some(2),
        unconstrained: false,
        ..request.clone()
    };
    let answer = service.searches().derive_architectures(other).await.unwrap().into_inner();
    assert_eq!(answer.derivations[0].origin, "budget 0.45 of params, multiple 2");
    assert!(answer.derivations[0].param_fraction <= 0.45, "{answer:?}");
    // Times are predicted for whatever is derived, and may be the budget.
    assert!(answer.derivations[0].predicted_latency_ms.is_some_and(|ms| ms > 0.0 && ms < 1.0), "{answer:?}");
    let in_time = v1::DeriveArchitecturesRequest {
        measure: v1::CostMeasure::Latency.into(),
        budgets: vec![0.9],
        ..request.clone()
    };
    let found = service.searches().derive_architectures(in_time).await.unwrap().into_inner().derivations;
    assert_eq!(found[0].origin, "budget 0.9 of latency");
    assert!((0.88..=0.9).contains(&found[0].latency_fraction.unwrap()), "{found:?}");
    let counts = answer.architectures[0].layers.iter().flat_map(|layer| layer.channels.values());
    assert!(counts.into_iter().all(|count| count % 2 == 0), "{answer:?}");
    assert_eq!(derived[0].origins, ["budget 0.45"]);
    assert!(derived[0].cost.as_ref().unwrap().mac_fraction <= 0.45);

    let search_id = search.id;
    let request = v1::SubmitRetrainRequest {
        request_id: "again".to_owned(),
        architecture_digest: derived[0].digest.clone(),
        search_id: search_id.clone(),
        seed: u64::MAX,
        ..v1::SubmitRetrainRequest::default()
    };
    let first = service.jobs().submit_retrain(request.clone()).await.unwrap().into_inner();
    let second = service.jobs().submit_retrain(request).await.unwrap().into_inner();
    assert_eq!(first.id, second.id);
    assert_eq!(first.architecture_digest, derived[0].digest);

    let sgd = v1::Sgd { learning_rate: Some(-1.0), ..v1::Sgd::default() };
    let training =
        v1::Training { optimizer: Some(v1::training::Optimizer::Sgd(sgd)), ..v1::Training::default() };
    let wrong = v1::SubmitRetrainRequest {
        architecture_digest: derived[0].digest[..8].to_owned(),
        search_id: search_id.clone(),
        training: Some(training),
        ..v1::SubmitRetrainRequest::default()
    };
    let status = refused(service.jobs().submit_retrain(wrong).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["training.sgd.learning_rate"]);

    let request = v1::SubmitRetrainRequest {
        architecture_digest: first.architecture_digest,
        search_id: search_id.clone(),
        initial_weights: v1::InitialWeights::Supernet.into(),
        ..v1::SubmitRetrainRequest::default()
    };
    service.jobs().submit_retrain(request.clone()).await.unwrap();
    let wrong = v1::SubmitRetrainRequest { initial_weights: 9, ..request };
    let status = refused(service.jobs().submit_retrain(wrong).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["initial_weights"]);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_dry_run_plans_and_records_nothing(pool: PgPool) {
    let service = Service::start(pool).await;
    let request = v1::SubmitSearchRequest { validate_only: true, ..small_search() };
    let answer = service.searches().submit_search(request).await.unwrap().into_inner();
    let plan = answer.plan.unwrap();
    assert_eq!(plan.job_count_max, 1 + 4 * 2);
    assert_eq!(plan.step_count_max, 10 + 8 * 5);
    assert!(plan.supernet_memory_mib > 0 && plan.supernet_cost.unwrap().param_count > 0);
    assert_eq!(answer.search.unwrap().id, "");
    let listed = service.searches().list_searches(v1::ListSearchesRequest::default()).await.unwrap();
    assert!(listed.into_inner().searches.is_empty());
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn two_submissions_with_one_request_id_at_once_are_one_search(pool: PgPool) {
    let service = Service::start(pool).await;
    let request = v1::SubmitSearchRequest { request_id: "twice".to_owned(), ..small_search() };
    let submissions = (0..8).map(|_| service.submit(request.clone()));
    let ids: BTreeSet<String> =
        futures::future::join_all(submissions).await.into_iter().map(|search| search.id).collect();
    assert_eq!(ids.len(), 1);
    let listed = service.searches().list_searches(v1::ListSearchesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().searches.len(), 1);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_cancelled_search_tells_its_worker_and_ends_with_it(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "w1").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    let request = v1::CancelSearchRequest {
        id: search.id.clone(),
        reason: "wrong data".to_owned(),
        ..v1::CancelSearchRequest::default()
    };
    let cancelled = service.searches().cancel_search(request.clone()).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), v1::SearchState::Cancelled);
    assert!(cancelled.end_time.is_none(), "its worker has not stopped yet");

    let answer = worker.report(&grant, 1, 1, "busy").await.unwrap();
    assert_eq!(answer.desired(), v1::DesiredState::Cancel);
    let request_fail = v1::FailRequest {
        token: grant.token.clone(),
        failure_class: v1::FailureClass::Cancelled.into(),
        message: "stopped as asked".to_owned(),
    };
    let watch = v1::WatchSearchRequest { id: search.id.clone(), ..v1::WatchSearchRequest::default() };
    let watched = service.searches().watch_search(watch).await.unwrap().into_inner();
    worker.client.fail(request_fail).await.unwrap();
    let all: Vec<_> = tokio::time::timeout(PATIENCE, watched.collect()).await.unwrap();
    let last: v1::Search = all.into_iter().next_back().unwrap().unwrap();
    assert!(last.end_time.is_some() && last.state_reason.contains("wrong data"), "{last:#?}");
    assert!(last.jobs.iter().all(|job| job.state() == v1::JobState::Cancelled));
    // Once more is no mistake.
    assert!(service.searches().cancel_search(request).await.is_ok());
}
