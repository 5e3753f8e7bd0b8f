//! Which workers get the jobs of a search, and until when they are wanted.

use std::collections::BTreeMap;

use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::{WORKER_PROTOCOL, v1};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Service, Worker, cpu, small_search};

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_search_says_which_workers_and_until_when(pool: PgPool) {
    let service = Service::start(pool).await;
    let labels = |list: &str| -> BTreeMap<String, String> { list.parse::<Labels>().unwrap().into() };
    let register = |labels| v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: "h200".to_owned(),
        request_id: Uuid::new_v4().to_string(),
        devices: vec![cpu()],
        labels,
        ..v1::RegisterRequest::default()
    };
    service.workers().register(register(labels("gpu=h200"))).await.unwrap();
    let wrong = BTreeMap::from([("g p u".to_owned(), String::new())]);
    let refused = service.workers().register(register(wrong.clone())).await.unwrap_err();
    assert!(refused.message().starts_with("labels: the key 'g p u'"), "{refused}");
    let workers = service.fleet().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!(workers[0].labels, labels("gpu=h200"));

    let deadline = pbjson_types::Timestamp { seconds: 1_800_000_000, nanos: 0 };
    let request = v1::SubmitSearchRequest {
        request_id: "r1".to_owned(),
        worker_labels: labels("gpu=b200"),
        deadline: Some(deadline),
        cost_limit_device_hours: Some(0.5),
        ..small_search()
    };
    let validated = v1::SubmitSearchRequest { validate_only: true, ..request.clone() };
    for asked in [validated, request.clone()] {
        let answer = service.searches().submit_search(asked).await.unwrap().into_inner();
        let search = answer.search.unwrap();
        assert_eq!((search.worker_labels, search.deadline), (labels("gpu=b200"), Some(deadline)));
        assert_eq!(search.cost_limit_device_hours, Some(0.5));
        for job in search.jobs {
            assert_eq!((job.worker_labels, job.deadline), (labels("gpu=b200"), Some(deadline)));
            assert_eq!(job.cost_limit_device_hours, Some(0.5));
            let id = job.id;
            let asked = v1::ExplainJobRequest { id };
            let said = service.jobs().explain_job(asked).await.unwrap().into_inner().explanation;
            assert!(said.contains("No ready worker is labelled gpu=b200"), "{said}");
        }
    }
    let elsewhere = v1::SubmitSearchRequest { worker_labels: labels("gpu=h200"), ..request.clone() };
    let refused = service.searches().submit_search(elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "the same request id for other workers");
    let wrong =
        v1::SubmitSearchRequest { worker_labels: wrong, request_id: String::new(), ..request.clone() };
    let refused = service.searches().submit_search(wrong).await.unwrap_err();
    assert!(refused.message().starts_with("worker_labels: the key 'g p u'"), "{refused}");
    for hours in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let wrong = v1::SubmitSearchRequest { cost_limit_device_hours: Some(hours), ..request.clone() };
        let refused = service.searches().submit_search(wrong).await.unwrap_err();
        assert!(refused.message().starts_with("cost_limit_device_hours: must be more than 0"), "{refused}");
    }
    let never = Some(pbjson_types::Timestamp { seconds: -5, nanos: 0 });
    let refused =
        service.searches().submit_search(v1::SubmitSearchRequest { deadline: never, ..request }).await;
    assert!(refused.unwrap_err().message().starts_with("deadline"));
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_worker_that_says_which_data_it_has_at_hand_gets_a_job_on_them(pool: PgPool) {
    let service = Service::start(pool).await;
    for path in ["hearts", "brains"] {
        let folder = v1::FolderDataset { path: path.to_owned(), ..v1::FolderDataset::default() };
        let mut request = small_search();
        request.search.as_mut().unwrap().dataset =
            Some(v1::Dataset { source: Some(v1::dataset::Source::Folder(folder)) });
        service.submit(request).await;
    }
    let mut worker = Worker::register(&service, "a").await;
    let request = v1::AcquireRequest {
        worker_id: worker.id.clone(),
        incarnation: worker.incarnation,
        request_id: Uuid::new_v4().to_string(),
        device: Some(cpu()),
        data_at_hand: vec!["brains".to_owned()],
    };
    let grant = worker.client.acquire(request).await.unwrap().into_inner().grant.expect("a job");
    assert_eq!(TrainerJob::data_path(&grant.trainer_job_json).as_deref(), Some("brains"));
    let grant = worker.ask().await.expect("the other search's supernet");
    assert_eq!(TrainerJob::data_path(&grant.trainer_job_json).as_deref(), Some("hearts"));
}
