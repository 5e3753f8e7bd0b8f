use std::collections::BTreeMap;

use cakes::labels::Labels;
use cakes::spec::{InitialWeights, TrainingSpec};
use cakes_coordinator::store::jobs::{self, Retrain};
use cakes_coordinator::store::{Error, PgPool};
use cakes_proto::ids::JobId;

use crate::support::{checkpoint_of, count, finish, small_search, state, submit, worker};

#[sqlx::test(migrations = "../migrations")]
async fn a_paused_job_leaves_the_queue_until_it_is_resumed(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let ids: Vec<JobId> = sqlx::query_scalar("select id from job order by position")
        .fetch_all(&pool)
        .await
        .unwrap()
        .into_iter()
        .map(JobId)
        .collect();
    let worker = worker(&pool, "a").await;
    for id in &ids {
        jobs::pause(&pool, (*id).into()).await.unwrap();
        jobs::pause(&pool, (*id).into()).await.unwrap();
    }
    assert_eq!(worker.acquire(&pool).await, None);
    jobs::resume(&pool, ids[1].into(), None).await.unwrap();
    assert_eq!(worker.acquire(&pool).await.unwrap().token.job, ids[1]);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_has_succeeded_is_left_alone(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    finish(&pool, &grant, &search).await;
    let job = grant.token.job;
    for result in [
        jobs::cancel(&pool, job.into(), "").await,
        jobs::pause(&pool, job.into()).await,
        jobs::resume(&pool, job.into(), None).await,
        jobs::retry(&pool, job.into()).await,
    ] {
        assert!(matches!(result, Err(Error::IllegalTransition(_))), "{result:?}");
    }
    assert_eq!(state(&pool, job).await, "succeeded");
    let unknown = jobs::cancel(&pool, JobId::generate().into(), "").await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { kind: "job", .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_retraining_can_be_submitted_alone_and_once(pool: PgPool) {
    let search = submit(&pool, &small_search()).await;
    let digest: String =
        sqlx::query_scalar("select digest from architecture").fetch_one(&pool).await.unwrap();
    let wish = Retrain {
        request_id: Some("once".into()),
        digest: digest.parse().unwrap(),
        search,
        training: None,
        initial_weights: None,
        seed: 9,
        labels: Labels::default(),
        owner: None,
        trace: None,
    };
    let (one, two) = tokio::join!(jobs::submit_retrain(&pool, &wish), jobs::submit_retrain(&pool, &wish));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(count(&pool, "select count(*) from job where search_id is null").await, 1);

    let other = Retrain { seed: 10, ..wish.clone() };
    assert!(matches!(jobs::submit_retrain(&pool, &other).await, Err(Error::Conflict { .. })));
    let training = TrainingSpec { epochs: 0, ..TrainingSpec::default() };
    let bad = Retrain { request_id: None, training: Some(training), ..wish.clone() };
    let Err(Error::InvalidSpec(spec)) = jobs::submit_retrain(&pool, &bad).await else {
        panic!("no epochs are no training");
    };
    assert_eq!(spec.0[0].field, "training.epochs");
    let unknown = Retrain { request_id: None, digest: "0".repeat(64).parse().unwrap(), ..wish };
    let refused = jobs::submit_retrain(&pool, &unknown).await.unwrap_err();
    assert!(matches!(refused, Error::NotFound { kind: "architecture", .. }));
}

/// What the search says stays, unless another wish is given.
#[sqlx::test(migrations = "../migrations")]
async fn a_single_retraining_starts_from_the_supernet_once_that_has_succeeded(pool: PgPool) {
    let search = small_search();
    let id = submit(&pool, &search).await;
    let digest: String =
        sqlx::query_scalar("select digest from architecture").fetch_one(&pool).await.unwrap();
    let wish = Retrain {
        request_id: None,
        digest: digest.parse().unwrap(),
        search: id,
        training: None,
        initial_weights: Some(InitialWeights::Supernet),
        seed: 9,
        labels: Labels::default(),
        owner: None,
        trace: None,
    };
    let refused = jobs::submit_retrain(&pool, &wish).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("is queued; wait")), "{refused:?}");

    let worker = worker(&pool, "a").await;
    let supernet = worker.begin(&pool).await;
    finish(&pool, &supernet, &search).await;
    let heir = jobs::submit_retrain(&pool, &wish).await.unwrap();
    let random = jobs::submit_retrain(&pool, &Retrain { initial_weights: None, ..wish }).await.unwrap();
    let mut starts = BTreeMap::new();
    while let Some(grant) = worker.acquire(&pool).await {
        starts.insert(grant.token.job, grant.start_from);
    }
    assert_eq!(starts[&heir], Some(checkpoint_of(&supernet, 10)));
    assert_eq!(starts[&random], None);
}
