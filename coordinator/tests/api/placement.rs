//! Which workers get the jobs of a search, until when they are wanted, and for how much.

use std::collections::BTreeMap;

use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes_coordinator::core::access::Role;
use cakes_coordinator::store::access::{issue, page as audit};
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::{WORKER_PROTOCOL, v1};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

use crate::access::with_token;
use crate::harness::{Service, Worker, cpu, job_id, small_search};
use crate::page::ask;

fn labels(list: &str) -> BTreeMap<String, String> {
    list.parse::<Labels>().unwrap().into()
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_search_says_which_workers_and_until_when(pool: PgPool) {
    let service = Service::start(pool).await;
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
async fn the_page_shows_what_a_search_and_its_jobs_ask_for(pool: PgPool) {
    let service = Service::start(pool).await;
    let request = v1::SubmitSearchRequest {
        worker_labels: labels("gpu=b200"),
        deadline: Some(pbjson_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
        cost_limit_device_hours: Some(0.5),
        ..small_search()
    };
    let picky = service.submit(request).await;
    let open = service.submit(small_search()).await;
    let asked = json!({
        "worker_labels": { "gpu": "b200" }, "deadline": "2027-01-15T08:00:00Z",
        "cost_limit_device_s": 1800, "spent_device_s": 0,
    });
    let nothing = json!({
        "worker_labels": {}, "deadline": null, "cost_limit_device_s": null, "spent_device_s": null,
    });
    for (search, placement) in [(picky, asked), (open, nothing)] {
        let shown = ask(&service, &format!("/searches/{}", search.id)).await;
        assert_eq!(shown["placement"], placement, "the search");
        let job = service.search(&search.id).await.jobs[0].id.clone();
        let shown = ask(&service, &format!("/jobs/{job}")).await;
        assert_eq!(shown["placement"], placement, "its job");
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_job_says_what_it_took_of_its_limit_and_goes_on_with_a_higher_one(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let limited = v1::SubmitSearchRequest { cost_limit_device_hours: Some(0.5), ..small_search() };
    let search = service.submit(limited).await;
    let mut worker = Worker::register(&service, "a").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    let id = job_id(&grant);
    let longer = "update attempt set grant_time = grant_time - interval '1 hour' where end_time is null";
    sqlx::query(longer).execute(&pool).await.unwrap();
    let about_an_hour = |hours: Option<f64>| hours.is_some_and(|hours| (1.0..1.2).contains(&hours));

    let job = service.job(&id).await;
    assert!(about_an_hour(job.spent_device_hours), "what it takes now counts: {:?}", job.spent_device_hours);
    let found = service.search(&search.id).await;
    let others = found.jobs.iter().filter(|job| job.id != id);
    let others: Vec<_> = others.map(|job| job.spent_device_hours).collect();
    assert!(!others.is_empty() && others.iter().all(|spent| *spent == Some(0.0)), "{others:?}");
    let open = service.submit(small_search()).await;
    let open = service.search(&open.id).await;
    assert!(open.jobs.iter().all(|job| job.spent_device_hours.is_none()), "{open:#?}");

    // Whoever plans may have done so first, which is as well.
    let pause = v1::PauseJobRequest { id: id.clone(), ..v1::PauseJobRequest::default() };
    service.jobs().pause_job(pause).await.unwrap();
    let saved = v1::FailRequest {
        token: grant.token.clone(),
        failure_class: v1::FailureClass::Cancelled.into(),
        message: "saved".to_owned(),
    };
    worker.client.fail(saved).await.unwrap();
    let job = service.job(&id).await;
    assert_eq!(job.state(), v1::JobState::Paused);
    assert!(about_an_hour(job.spent_device_hours), "what it took counts: {:?}", job.spent_device_hours);
    let shown = ask(&service, &format!("/searches/{}", search.id)).await;
    let spent_s = shown["placement"]["spent_device_s"].as_i64().unwrap();
    assert!((3600..4320).contains(&spent_s), "all its jobs together: {spent_s}");

    let token = issue(&pool, "olga", Role::Operator, None).await.unwrap();
    let resume = async |body: Value| {
        let answer = with_token(&service, &token, &format!("/jobs/{id}/resume"), &body).await;
        (answer.status, answer.body)
    };
    for missing_or_too_low in [json!({}), json!({ "cost_limit_device_hours": 0.75 })] {
        let (status, said) = resume(missing_or_too_low).await;
        assert!(
            status == 409 && said.contains("device-hours that it may; resume it with a higher"),
            "{said}"
        );
    }
    for (wrong, problem) in [
        (json!({ "cost_limit_device_hours": 0 }), "cost_limit_device_hours: must be more than 0"),
        (json!({ "cost_limit_device_hours": "2" }), "body: "),
        (json!({ "limit": 2 }), "unknown field"),
    ] {
        let (status, said) = resume(wrong).await;
        assert!(status == 400 && said.contains(problem), "{said}");
    }
    let job = service.job(&id).await;
    assert_eq!((job.state(), job.cost_limit_device_hours), (v1::JobState::Paused, Some(0.5)));
    let (status, said) = resume(json!({ "cost_limit_device_hours": 2 })).await;
    assert_eq!(status, 200, "{said}");
    let job = service.job(&id).await;
    assert_eq!((job.state(), job.cost_limit_device_hours), (v1::JobState::Queued, Some(2.0)));
    let shown = ask(&service, &format!("/jobs/{id}")).await;
    assert_eq!(shown["placement"]["cost_limit_device_s"], 7200);
}

/// Over the API and on the page, before it is done and after.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn whoever_sets_a_limit_leaves_in_the_record_which(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let search = service.submit(small_search()).await;
    let id = service.search(&search.id).await.jobs[0].id.clone();
    let pause = async || {
        let request = v1::PauseJobRequest { id: id.clone(), ..v1::PauseJobRequest::default() };
        service.jobs().pause_job(request).await.unwrap();
    };
    for cost_limit_device_hours in [Some(2.5), None] {
        pause().await;
        let request = v1::ResumeJobRequest {
            id: id.clone(),
            cost_limit_device_hours,
            ..v1::ResumeJobRequest::default()
        };
        service.jobs().resume_job(request).await.unwrap();
    }
    pause().await;
    let token = issue(&pool, "olga", Role::Operator, None).await.unwrap();
    let body = json!({ "cost_limit_device_hours": 30 });
    let resumed = with_token(&service, &token, &format!("/jobs/{id}/resume"), &body).await;
    assert_eq!(resumed.status, 200, "{}", resumed.body);
    let lung = v1::SetProjectRequest {
        name: "lung".to_owned(),
        device_quota: Some(8),
        ..v1::SetProjectRequest::default()
    };
    service.fleet().set_project(lung.clone()).await.unwrap();
    let refused = v1::SetProjectRequest { share: u32::MAX, ..lung };
    assert_eq!(service.fleet().set_project(refused).await.unwrap_err().code(), Code::InvalidArgument);

    let of_lung = "share=1 device_quota=8 device_hours_quota=none period_days=30";
    let expected = [
        ("resume_job", "ok", "cost_limit_device_hours=2.5"),
        ("resume_job", "ok", ""),
        ("resume_job", "ok", "cost_limit_device_hours=30"),
        ("set_project", "ok", of_lung),
    ];
    let mut rows = audit(&pool, None, 100).await.unwrap();
    rows.reverse();
    let set = rows.iter().filter(|row| row.action != "pause_job" && row.action != "submit_search");
    let set: Vec<_> =
        set.map(|row| (row.action.as_str(), row.answer.as_str(), row.detail.as_str())).collect();
    assert_eq!(set[..4], expected);
    assert_eq!((set.len(), set[4].1), (5, "INVALID_ARGUMENT"), "{set:?}");
    let begun: Vec<String> = sqlx::query_scalar(
        "select detail from audit where answer = 'BEGUN' and action in ('resume_job', 'set_project') order by id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let limits = expected.map(|(_, _, limits)| limits);
    assert_eq!(begun[..4], limits);
    assert_eq!(begun[4..], [""], "nothing of what is refused");
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
