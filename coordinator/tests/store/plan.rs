use cakes::spec::{CheckedSearch, CostMeasure, SearchSpec};
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::{expire_leases, fail};
use cakes_coordinator::store::read::latency::latency;
use cakes_coordinator::store::{Error, PgPool, jobs, searches};

use crate::support::{
    checkpoint_of, count, finish, from_supernet, let_leases_run_out, open_connections, picture, save,
    search_of, search_state, small_search, submit, worker,
};

#[sqlx::test(migrations = "../migrations")]
async fn a_search_goes_from_supernet_to_retrained_networks_and_ends(pool: PgPool) {
    let search = search_of(&[0.3, 0.5], &[1, 2]);
    let id = submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;
    finish(&pool, &worker.begin(&pool).await, &search).await;
    assert!(searches::advance(&pool, id).await.unwrap() > 0);
    assert_eq!(search_state(&pool, id).await, "retraining");
    assert_eq!(count(&pool, "select count(*) from job").await, 1 + 3 * 2, "two budgets and a baseline");

    let before = picture(&pool).await;
    assert_eq!(searches::advance(&pool, id).await.unwrap(), 0);
    assert_eq!(picture(&pool).await, before, "advancing again changes nothing");

    while let Some(grant) = worker.acquire(&pool).await {
        cakes_coordinator::store::attempts::start(&pool, &Policy::default(), grant.token).await.unwrap();
        finish(&pool, &grant, &search).await;
        searches::advance(&pool, id).await.unwrap();
    }
    assert_eq!(search_state(&pool, id).await, "succeeded");
    assert_eq!(searches::open(&pool).await.unwrap(), []);
    let within =
        "select count(*) from search_architecture where origin = 'budget 0.5' and mac_fraction <= 0.5";
    assert_eq!(count(&pool, within).await, 1);
}

/// With the supernet's last checkpoint, as long as they have none of their own.
#[sqlx::test(migrations = "../migrations")]
async fn retrainings_are_handed_the_weights_of_their_supernet(pool: PgPool) {
    let search = from_supernet(&small_search());
    let id = submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;
    let supernet = worker.begin(&pool).await;
    assert_eq!(supernet.start_from, None);
    assert_eq!(worker.acquire(&pool).await, None, "the baseline waits too");
    save(&pool, &supernet, 5).await;
    finish(&pool, &supernet, &search).await;
    searches::advance(&pool, id).await.unwrap();

    let retrain = worker.begin(&pool).await;
    let last = checkpoint_of(&supernet, 10);
    assert_eq!((&retrain.start_from, &retrain.resume_from), (&Some(last.clone()), &None));
    save(&pool, &retrain, 3).await;
    fail(&pool, &Policy::default(), retrain.token, FailureClass::Lost, "gone").await.unwrap();
    sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();
    let grants = [worker.acquire(&pool).await.unwrap(), worker.acquire(&pool).await.unwrap()];
    let (resumed, fresh): (Vec<_>, Vec<_>) =
        grants.into_iter().partition(|grant| grant.token.job == retrain.token.job);
    assert_eq!((&resumed[0].start_from, resumed[0].resume_from.as_ref().unwrap().step), (&None, 3));
    assert_eq!((&fresh[0].start_from, &fresh[0].resume_from), (&Some(last), &None));
}

#[sqlx::test(migrations = "../migrations")]
async fn coordinators_that_advance_at_once_queue_each_job_once(pool: PgPool) {
    let search = search_of(&[0.3, 0.5], &[1]);
    let id = submit(&pool, &search).await;
    finish(&pool, &worker(&pool, "a").await.begin(&pool).await, &search).await;
    open_connections(&pool).await;
    let calls = (0..4).map(|_| searches::advance(&pool, id));
    let steps: Vec<usize> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(steps.iter().filter(|steps| **steps > 0).count(), 1, "{steps:?}");
    assert_eq!(count(&pool, "select count(*) from job").await, 4);
}

/// With these scores the budget 1 is the network of the baseline.
#[sqlx::test(migrations = "../migrations")]
async fn equal_architectures_are_one_row_and_one_set_of_jobs(pool: PgPool) {
    let search = search_of(&[1.0], &[1, 2]);
    let id = submit(&pool, &search).await;
    finish(&pool, &worker(&pool, "a").await.begin(&pool).await, &search).await;
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from search_architecture").await, 2);
    assert_eq!(count(&pool, "select count(*) from architecture").await, 1);
    assert_eq!(count(&pool, "select count(*) from job where kind = 'retrain'").await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_failed_retraining_fails_the_search_after_the_rest_and_a_retry_opens_it_again(pool: PgPool) {
    let search = small_search();
    let id = submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;
    finish(&pool, &worker.begin(&pool).await, &search).await;
    let baseline = worker.begin(&pool).await;
    fail(&pool, &Policy::default(), baseline.token, FailureClass::User, "bad labels").await.unwrap();
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(search_state(&pool, id).await, "retraining", "the other one goes on");
    finish(&pool, &worker.begin(&pool).await, &search).await;
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(search_state(&pool, id).await, "failed");
    let reason: String =
        sqlx::query_scalar("select state_reason from search").fetch_one(&pool).await.unwrap();
    assert_eq!(reason, "baseline c3d seed 1 failed: bad labels");

    jobs::retry(&pool, baseline.token.job.into()).await.unwrap();
    assert_eq!(search_state(&pool, id).await, "retraining");
    finish(&pool, &worker.begin(&pool).await, &search).await;
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(search_state(&pool, id).await, "succeeded");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cancelled_search_is_closed_when_its_last_job_has_stopped(pool: PgPool) {
    let id = submit(&pool, &small_search()).await;
    let running = worker(&pool, "a").await.begin(&pool).await;
    for _ in 0..2 {
        searches::cancel(&pool, id.into(), "wrong data").await.unwrap();
    }
    assert_eq!(search_state(&pool, id).await, "cancelled");
    assert_eq!(count(&pool, "select count(*) from search where end_time is null").await, 1);
    assert_eq!(count(&pool, "select count(*) from job where state = 'cancelled'").await, 1);
    assert_eq!(worker(&pool, "b").await.acquire(&pool).await, None);

    let_leases_run_out(&pool).await;
    expire_leases(&pool, &Policy::default()).await.unwrap();
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from search where end_time is null").await, 0);
    let refused = jobs::retry(&pool, running.token.job.into()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_that_has_ended_cannot_be_cancelled(pool: PgPool) {
    let search = search_of(&[1.0], &[1]);
    let id = submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;
    for _ in 0..2 {
        finish(&pool, &worker.begin(&pool).await, &search).await;
    }
    searches::advance(&pool, id).await.unwrap();
    assert_eq!(search_state(&pool, id).await, "succeeded");
    assert!(matches!(searches::cancel(&pool, id.into(), "").await, Err(Error::Refused(_))));
}

#[sqlx::test(migrations = "../migrations")]
async fn more_architectures_are_derived_on_request_without_jobs(pool: PgPool) {
    let search = small_search();
    let id = submit(&pool, &search).await;
    let wish = |budgets: &[f64], unconstrained| searches::Wish {
        budgets: budgets.to_vec(),
        unconstrained,
        ..searches::Wish::default()
    };
    let early = searches::derive(&pool, id, &wish(&[0.4], false)).await.unwrap_err();
    assert!(matches!(early, Error::Refused(_)));
    finish(&pool, &worker(&pool, "a").await.begin(&pool).await, &search).await;
    let found = searches::derive(&pool, id, &wish(&[0.4, 0.5], true)).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(count(&pool, "select count(*) from job").await, 2);
    for budgets in [&[0.0][..], &[1.5], &[0.001], &[]] {
        let refused = searches::derive(&pool, id, &wish(budgets, false)).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { field: "budgets", .. }), "{budgets:?}");
    }
    // The plan still retrains the budget that it asked for itself.
    searches::advance(&pool, id).await.unwrap();
    let planned = "select count(*) from search_architecture where retrain";
    assert_eq!(count(&pool, planned).await, 2);
    assert_eq!(count(&pool, "select count(*) from job").await, 3);
}

/// Budgets of time come from the table that the supernet's job left behind, the same
/// whenever one asks; a search without one says so.
#[sqlx::test(migrations = "../migrations")]
async fn budgets_of_latency_are_met_by_the_measured_times(pool: PgPool) {
    let spec = SearchSpec { budget_measure: CostMeasure::Latency, ..small_search().spec().clone() };
    let search = CheckedSearch::new(spec).unwrap();
    let id = submit(&pool, &search).await;
    finish(&pool, &worker(&pool, "a").await.begin(&pool).await, &search).await;
    searches::advance(&pool, id).await.unwrap();
    let planned = "select count(*) from search_architecture where origin = 'budget 0.5' and retrain";
    assert_eq!(count(&pool, planned).await, 1);

    let wish = searches::Wish { budgets: vec![0.5, 0.7, 0.95], ..searches::Wish::default() };
    let first = searches::derive(&pool, id, &wish).await.unwrap();
    assert_eq!(searches::derive(&pool, id, &wish).await.unwrap(), first);
    for ((_, derived), budget) in first.iter().zip(&wish.budgets) {
        let latency = derived.latency.unwrap();
        assert!(latency.fraction <= *budget && latency.fraction > budget - 0.02, "{budget}: {latency:?}");
    }
    let counted = searches::Wish { measure: Some(CostMeasure::Mac), ..wish.clone() };
    let by_macs = searches::derive(&pool, id, &counted).await.unwrap()[0].1.clone();
    assert_eq!(by_macs.origin, "budget 0.5 of MACs");
    // Half the MACs are not half the time.
    assert!(by_macs.mac_fraction <= 0.5 && by_macs.latency.unwrap().fraction > 0.51, "{by_macs:?}");
    let beyond = searches::Wish { budgets: vec![0.3], ..wish.clone() };
    let refused = searches::derive(&pool, id, &beyond).await.unwrap_err().to_string();
    assert!(refused.contains("below the lightest architecture"), "{refused}");

    // As a supernet of before times were measured.
    sqlx::query("alter table supernet_scores disable trigger append_only").execute(&pool).await.unwrap();
    sqlx::query("update supernet_scores set latency = null").execute(&pool).await.unwrap();
    assert_eq!(latency(&pool, id).await.unwrap(), None);
    let refused = searches::derive(&pool, id, &wish).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Refused(text) if text.contains("submit the search again")),
        "{refused}"
    );
    let found = searches::derive(&pool, id, &counted).await.unwrap();
    assert_eq!(found[0].1.latency, None);
}
