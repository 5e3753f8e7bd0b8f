use std::collections::BTreeSet;

use cakes::job::{Task, TrainerJob};
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::{Device, Schedule};
use cakes_coordinator::store::attempts::{Answers, Grant, acquire, fail};
use cakes_coordinator::store::searches::{self, Terms};
use cakes_coordinator::store::{Error, PgPool, workers};
use uuid::Uuid;

use crate::support::{
    Worker, acquire_together, count, cpu, open_connections, search_of, small_search, state, submit, worker,
    worker_with,
};

#[sqlx::test(migrations = "../migrations")]
async fn concurrent_workers_get_each_job_once(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1, 2, 3, 4, 5])).await;
    let mut fleet = Vec::new();
    for number in 0..8 {
        fleet.push(worker(&pool, &format!("w{number}")).await);
    }
    open_connections(&pool).await;
    let granted = futures::future::join_all(fleet.iter().map(|worker| worker.acquire(&pool))).await;
    let jobs: Vec<_> = granted.into_iter().flatten().map(|grant| grant.token.job).collect();
    let distinct: BTreeSet<_> = jobs.iter().collect();
    assert_eq!((jobs.len(), distinct.len()), (6, 6), "a supernet and five seeds of the baseline");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_supernet_goes_first_and_carries_its_job(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.acquire(&pool).await.unwrap();
    let job: TrainerJob = serde_json::from_str(&grant.trainer_job_json).unwrap();
    assert_eq!(job, search.supernet_job());
    assert!(matches!(job.task, Task::Supernet { .. }));
    assert_eq!(grant.token.epoch, 1);
    assert_eq!(grant.resume_from, None);
    assert!(grant.artifact_prefix.starts_with(&format!("{}/1-", grant.token.job)));
    assert_eq!(state(&pool, grant.token.job).await, "leased");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_repeated_request_gets_the_first_grant(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let wish = worker.wish();
    let policy = Policy::default();
    open_connections(&pool).await;
    let calls = (0..4).map(|_| acquire(&pool, &policy, &wish));
    let grants: Vec<_> =
        futures::future::join_all(calls).await.into_iter().map(|grant| grant.unwrap().unwrap()).collect();
    assert!(grants.iter().all(|grant| *grant == grants[0]));
    assert_eq!(count(&pool, "select count(*) from attempt").await, 1);

    fail(&pool, &policy, grants[0].token, FailureClass::User, "no").await.unwrap();
    assert_eq!(acquire(&pool, &policy, &wish).await.unwrap(), None, "what has ended is not granted again");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_take_a_job_gets_none(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    for schedule in [Schedule::Cordoned, Schedule::Draining] {
        workers::schedule(&pool, &worker.id, schedule).await.unwrap();
        assert_eq!(worker.acquire(&pool).await, None, "{schedule}");
    }
    workers::schedule(&pool, &worker.id, Schedule::Ready).await.unwrap();

    let mut wish = worker.wish();
    wish.device = Device { memory_mib: 10, ..cpu() };
    assert_eq!(acquire(&pool, &Policy::default(), &wish).await.unwrap(), None, "too small a device");
    assert!(worker.acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_of_two_devices_waits_for_a_slot_of_two(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let two = "update job set trainer_job = jsonb_set(trainer_job, '{training,devices}', '2')
        where kind = 'supernet'";
    sqlx::query(two).execute(&pool).await.unwrap();
    let worker = worker(&pool, "a").await;
    let of = |count| {
        let mut wish = worker.wish();
        wish.device = Device { count, ..cpu() };
        wish
    };
    let wishes = [of(1), of(1), of(1), of(3)];
    let answers = acquire_together(&pool, &wishes).await;
    let granted: Vec<Option<u32>> = answers
        .into_iter()
        .map(|answer| {
            let grant = answer.unwrap().unwrap()?;
            Some(serde_json::from_str::<TrainerJob>(&grant.trainer_job_json).unwrap().training.devices)
        })
        .collect();
    assert_eq!(granted.iter().filter(|devices| **devices == Some(2)).count(), 1, "{granted:?}");
    assert_eq!(granted[3], Some(2), "the supernet is first: {granted:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_goes_to_a_worker_that_is_labelled_as_it_asks(pool: PgPool) {
    let terms = Terms { worker_labels: "gpu=h200".parse().unwrap(), ..Terms::default() };
    searches::submit(&pool, &search_of(&[0.5], &[1, 2]), &terms, None).await.unwrap();
    let plain = worker(&pool, "plain").await;
    let other = worker_with(&pool, "other", "gpu=a100,site=basel").await;
    let right = worker_with(&pool, "right", "gpu=h200,site=basel").await;
    assert_eq!(plain.acquire(&pool).await, None);
    let wishes = [plain.wish(), other.wish(), right.wish(), right.wish()];
    let answers = acquire_together(&pool, &wishes).await;
    let granted: Vec<bool> = answers.into_iter().map(|answer| answer.unwrap().unwrap().is_some()).collect();
    assert_eq!(granted, [false, false, true, true]);

    // Labels are those of the last start.
    let reason = "select reason from dashboard.queue";
    let reason = async || sqlx::query_scalar::<_, String>(reason).fetch_one(&pool).await.unwrap();
    assert_eq!(reason().await, "devices_busy");
    let relabelled = worker(&pool, "right").await;
    assert_eq!(reason().await, "no_labels");
    assert_eq!(relabelled.acquire(&pool).await, None);
    // Whoever asks for nothing is served by whoever has labels.
    submit(&pool, &small_search()).await;
    assert!(other.acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn an_older_start_of_a_daemon_is_refused(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let first = worker(&pool, "a").await;
    let second = worker(&pool, "a").await;
    assert_eq!((first.incarnation, second.incarnation), (1, 2));
    let refused = acquire(&pool, &Policy::default(), &first.wish()).await.unwrap_err();
    assert!(matches!(refused, Error::StaleIncarnation { current: 2 }));
    assert!(second.acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn after_a_fault_of_a_machine_the_job_goes_elsewhere(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let (broken, sound) = (worker(&pool, "broken").await, worker(&pool, "sound").await);
    let grant = broken.begin(&pool).await;
    fail(&pool, &Policy::default(), grant.token, FailureClass::Infrastructure, "disk full").await.unwrap();
    sqlx::query("update job set run_after = null").execute(&pool).await.unwrap();
    assert_ne!(broken.acquire(&pool).await.unwrap().token.job, grant.token.job);
    let again = sound.acquire(&pool).await.unwrap().token;
    assert_eq!((again.job, again.epoch), (grant.token.job, 2));
}

#[sqlx::test(migrations = "../migrations")]
async fn workers_that_ask_together_get_what_they_would_get_one_after_the_other(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1, 2, 3])).await;
    let old = worker(&pool, "restarted").await;
    let mut fleet = Vec::new();
    for name in ["restarted", "cordoned", "small", "shy", "a", "b", "late"] {
        fleet.push(worker(&pool, name).await);
    }
    workers::schedule(&pool, &fleet[1].id, Schedule::Cordoned).await.unwrap();
    let order: Vec<Uuid> = sqlx::query_scalar("select id from job order by priority desc, position")
        .fetch_all(&pool)
        .await
        .unwrap();
    let memory = "update job set memory_mib = case when id = $1 then 5 else 50 end,
        avoid_worker_id = case when id = $2 then 'shy' end,
        avoid_until = case when id = $2 then clock_timestamp() + interval '1 hour' end";
    sqlx::query(memory).bind(order[3]).bind(order[0]).execute(&pool).await.unwrap();

    let mut wishes: Vec<_> = fleet.iter().map(Worker::wish).collect();
    wishes[2].device.memory_mib = 10;
    wishes.push(wishes[4].clone());
    wishes.push(old.wish());
    let together = async || acquire_together(&pool, &wishes).await;
    let got = |answers: &Answers<Option<Grant>>, place: usize| match &answers[place] {
        Some(Ok(grant)) => grant.as_ref().map(|grant| grant.token.job.0),
        other => panic!("wish {place}: {other:?}"),
    };
    let first = together().await;
    let expected = [Some(order[0]), None, Some(order[3]), Some(order[1]), Some(order[2]), None, None];
    for (place, expected) in expected.into_iter().enumerate() {
        assert_eq!(got(&first, place), expected, "{}", fleet[place].id);
    }
    assert!(first[7].is_none(), "an equal request is made alone");
    assert!(matches!(first[8], Some(Err(Error::StaleIncarnation { current: 2 }))));
    assert_eq!(count(&pool, "select count(*) from attempt_lease").await, 4);

    let again = together().await;
    let grants = |answers: Answers<Option<Grant>>| -> Vec<_> {
        answers.into_iter().take(7).map(|answer| answer.unwrap().unwrap()).collect()
    };
    assert_eq!(grants(again), grants(first), "a repetition gets the first grants");
}
