//! Webhooks: what a transaction leaves to be told, and who takes it.

use std::time::Duration;

use cakes::labels::Labels;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::webhook::{DeliveryState, Secret, Target, Verdict, WebhookEvent};
use cakes_coordinator::store::attempts::fail;
use cakes_coordinator::store::read::webhooks::{deliveries, list};
use cakes_coordinator::store::searches::{advance, submit};
use cakes_coordinator::store::webhooks::{Claim, NewWebhook, add, claim, ping, prune, remove, settle};
use cakes_coordinator::store::{Error, PgPool};
use cakes_proto::ids::{SearchId, WebhookId};

use crate::support::{count, finish, search_state, small_search, worker};

const ALL: [WebhookEvent; 4] = [
    WebhookEvent::SearchFinished,
    WebhookEvent::SearchFailed,
    WebhookEvent::JobFailed,
    WebhookEvent::FrontPoint,
];

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()).unwrap()
}

fn webhook(path: &str, events: &[WebhookEvent], owner: Option<&str>) -> NewWebhook {
    NewWebhook {
        target: Target::parse(&format!("https://hooks.example/{path}"), false).unwrap(),
        events: events.to_vec(),
        labels: owner.map_or_else(Labels::default, |owner| labels(&[("owner", owner)])),
        secret: Secret::from_bytes(vec![7; 32]).unwrap(),
        request_id: None,
    }
}

/// Kinds of what a webhook is to be told, oldest first.
async fn told(pool: &PgPool, id: WebhookId) -> Vec<&'static str> {
    let all = deliveries(pool, id, 100).await.unwrap();
    all.iter().rev().map(|delivery| delivery.event.as_str()).collect()
}

async fn ada_submits(pool: &PgPool) -> SearchId {
    submit(pool, &small_search(), &labels(&[("owner", "ada"), ("team", "lung")]).into(), None).await.unwrap()
}

fn wish(limit: i64, limit_per_webhook: i64) -> Claim {
    Claim { limit, limit_per_webhook, busy: Vec::new(), hold: Duration::from_secs(60) }
}

fn verdict(state: DeliveryState) -> Verdict {
    Verdict { state, status: Some(204), error: String::new(), delay: Duration::from_secs(5) }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_webhook_is_added_once_and_there_are_not_too_many(pool: PgPool) {
    let wanted = NewWebhook { request_id: Some("one".into()), ..webhook("a", &ALL, None) };
    let id = add(&pool, &wanted).await.unwrap();
    assert_eq!(add(&pool, &wanted).await.unwrap(), id);
    let other = NewWebhook { secret: Secret::from_bytes(vec![8; 32]).unwrap(), ..wanted };
    assert!(matches!(add(&pool, &other).await, Err(Error::Conflict { .. })));
    let all = list(&pool).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].url.as_str(), all[0].events.len()), ("https://hooks.example/a", 4));

    for number in 1..100 {
        add(&pool, &webhook(&number.to_string(), &ALL, None)).await.unwrap();
    }
    let error = add(&pool, &webhook("more", &ALL, None)).await.unwrap_err();
    assert!(error.to_string().contains("100 webhooks"), "{error}");
    assert_eq!(count(&pool, "select count(*) from webhook").await, 100);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_end_and_each_new_point_of_the_front_are_told_once_to_those_who_asked(pool: PgPool) {
    let (ada, anybody) = (webhook("ada", &ALL, Some("ada")), webhook("any", &ALL[..1], None));
    let (ada, anybody) = (add(&pool, &ada).await.unwrap(), add(&pool, &anybody).await.unwrap());
    let eve = add(&pool, &webhook("eve", &ALL, Some("eve"))).await.unwrap();
    let search = small_search();
    let id = ada_submits(&pool).await;
    let worker = worker(&pool, "a").await;
    let mut jobs = 0;
    while search_state(&pool, id).await != "succeeded" {
        finish(&pool, &worker.begin(&pool).await, &search).await;
        jobs += 1;
        // Whoever else looks at the same time finds nothing new to tell.
        let (one, other) = tokio::join!(advance(&pool, id), advance(&pool, id));
        one.and(other).unwrap();
    }
    assert!(jobs > 1, "a supernet and retrainings");
    let told_ada = told(&pool, ada).await;
    assert_eq!(told_ada.last(), Some(&"search-finished"), "{told_ada:?}");
    assert_eq!(told_ada.iter().filter(|event| **event == "search-finished").count(), 1, "{told_ada:?}");
    let points = count(&pool, "select count(*) from search_front_point").await;
    assert!(points > 0 && told_ada.len() as i64 == points + 1, "{points}: {told_ada:?}");
    assert_eq!(told(&pool, anybody).await, ["search-finished"]);
    assert_eq!(told(&pool, eve).await, [""; 0]);

    let payload: serde_json::Value =
        serde_json::from_str(&deliveries(&pool, anybody, 1).await.unwrap()[0].payload).unwrap();
    assert_eq!(payload["type"], "search.finished");
    assert_eq!(payload["data"]["search"]["id"], id.to_string());
    assert_eq!(payload["data"]["search"]["labels"]["team"], "lung");
    assert_eq!(payload["data"]["search"]["succeeded_job_count"], jobs);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_failure_is_told_when_it_is_final_and_a_refused_one_never(pool: PgPool) {
    let hook = add(&pool, &webhook("ada", &ALL, Some("ada"))).await.unwrap();
    let id = ada_submits(&pool).await;
    let (bad, good) = (worker(&pool, "bad").await, worker(&pool, "good").await);
    let lost = bad.begin(&pool).await;
    let policy = Policy::default();
    fail(&pool, &policy, lost.token, FailureClass::Infrastructure, "the disk is full").await.unwrap();
    assert_eq!(told(&pool, hook).await, [""; 0], "it is tried again");
    sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();

    let grant = good.begin(&pool).await;
    fail(&pool, &policy, lost.token, FailureClass::User, "no such file").await.unwrap();
    assert_eq!(told(&pool, hook).await, [""; 0], "whose attempt is over gets the first answer again");
    let mut forged = grant.token;
    forged.epoch += 1;
    fail(&pool, &policy, forged, FailureClass::User, "no such file").await.unwrap_err();
    assert_eq!(told(&pool, hook).await, [""; 0], "who has no lease changes nothing");
    for _ in 0..2 {
        fail(&pool, &policy, grant.token, FailureClass::User, "no such file").await.unwrap();
    }
    assert_eq!(told(&pool, hook).await, ["job-failed"]);
    while search_state(&pool, id).await != "failed" {
        if advance(&pool, id).await.unwrap() == 0 {
            let next = good.begin(&pool).await;
            fail(&pool, &policy, next.token, FailureClass::User, "no such file").await.unwrap();
        }
    }
    let all = told(&pool, hook).await;
    assert_eq!(all.last(), Some(&"search-failed"), "{all:?}");
    assert_eq!(all.iter().filter(|event| **event == "search-failed").count(), 1, "{all:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_delivery_is_one_coordinators_until_its_time_is_over(pool: PgPool) {
    let (a, b) = (webhook("a", &ALL, None), webhook("b", &ALL, None));
    let (a, b) = (add(&pool, &a).await.unwrap(), add(&pool, &b).await.unwrap());
    for _ in 0..5 {
        ping(&pool, a).await.unwrap();
    }
    ping(&pool, b).await.unwrap();

    let busy = Claim { busy: vec![a.0], ..wish(10, 10) };
    let taken = claim(&pool, &busy).await.unwrap();
    assert_eq!((taken.len(), taken[0].webhook, taken[0].attempt), (1, b.0, 1));
    assert_eq!(taken[0].secret, Secret::from_bytes(vec![7; 32]).unwrap());
    let few = wish(10, 2);
    let (one, other) = tokio::join!(claim(&pool, &few), claim(&pool, &few));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.len() <= 2 && other.len() <= 2);
    let mut ids: Vec<_> = one.iter().chain(&other).map(|delivery| delivery.id).collect();
    let taken_count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), taken_count, "nobody has what another one has");
    let rest = claim(&pool, &wish(10, 10)).await.unwrap();
    assert_eq!(taken_count + rest.len(), 5);
    assert!(claim(&pool, &wish(10, 10)).await.unwrap().is_empty(), "all are taken");

    sqlx::query("update webhook_delivery set next_attempt_time = now()").execute(&pool).await.unwrap();
    let again = claim(&pool, &wish(1, 10)).await.unwrap();
    assert_eq!((again.len(), again[0].attempt), (1, 2));
    let id = again[0].id;
    assert!(!settle(&pool, id, 1, &verdict(DeliveryState::Delivered)).await.unwrap(), "it was taken away");
    assert!(settle(&pool, id, 2, &verdict(DeliveryState::Pending)).await.unwrap());
    sqlx::query("update webhook_delivery set next_attempt_time = now() where id = $1")
        .bind(id)
        .execute(&pool)
        .await
        .unwrap();
    let third = claim(&pool, &wish(10, 10)).await.unwrap();
    assert!(third.iter().any(|delivery| (delivery.id, delivery.attempt) == (id, 3)), "{third:?}");
    assert!(settle(&pool, id, 3, &verdict(DeliveryState::Failed)).await.unwrap());
    assert!(!settle(&pool, id, 3, &verdict(DeliveryState::Delivered)).await.unwrap(), "the end is the end");
    let ended = "select count(*) from webhook_delivery where state = 'failed' and end_time is not null";
    assert_eq!(count(&pool, ended).await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn old_deliveries_and_removed_webhooks_leave_nothing(pool: PgPool) {
    let id = add(&pool, &webhook("a", &ALL, None)).await.unwrap();
    for _ in 0..3 {
        ping(&pool, id).await.unwrap();
    }
    let taken = claim(&pool, &wish(2, 2)).await.unwrap();
    for delivery in &taken {
        assert!(settle(&pool, delivery.id, 1, &verdict(DeliveryState::Delivered)).await.unwrap());
    }
    let old = "update webhook_delivery set end_time = now() - interval '8 days' where id = $1";
    sqlx::query(old).bind(taken[0].id).execute(&pool).await.unwrap();
    assert_eq!(prune(&pool, Duration::from_secs(7 * 24 * 3600)).await.unwrap(), 1);
    assert_eq!(count(&pool, "select count(*) from webhook_delivery").await, 2);

    remove(&pool, id).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from webhook_delivery").await, 0);
    assert!(matches!(remove(&pool, id).await, Err(Error::NotFound { .. })));
    assert!(matches!(ping(&pool, id).await, Err(Error::NotFound { .. })));
    assert!(matches!(deliveries(&pool, id, 1).await, Err(Error::NotFound { .. })));
}
