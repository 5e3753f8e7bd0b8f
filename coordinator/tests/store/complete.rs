use cakes_coordinator::store::attempts::{CheckpointRef, Completion, Outcome, complete};
use cakes_coordinator::store::read::latency::latency;
use cakes_coordinator::store::{Error, PgPool, jobs};

use crate::support::{
    checkpoint_of, classification, completion, count, picture, reason, report_of, save, scores, segmentation,
    small_search, state, submit, tell, worker,
};

#[sqlx::test(migrations = "../migrations")]
async fn a_result_is_recorded_once_and_repeated_calls_are_answered_alike(pool: PgPool) {
    let search = small_search();
    let id = submit(&pool, &search).await;
    assert_eq!(latency(&pool, id).await.unwrap(), None);
    let grant = worker(&pool, "a").await.begin(&pool).await;
    tell(&pool, &report_of(grant.token, 1, 2, 10)).await.unwrap();
    let checkpoint = save(&pool, &grant, 10).await;
    let done = Completion { last_seq: 2, ..completion(checkpoint, Some(scores(&search))) };
    for _ in 0..2 {
        complete(&pool, grant.token, &done).await.unwrap();
    }
    assert_eq!(state(&pool, grant.token.job).await, "succeeded");
    assert_eq!(count(&pool, "select count(*) from result").await, 1);
    assert_eq!(count(&pool, "select count(*) from attempt_lease").await, 0);
    let found = latency(&pool, id).await.unwrap().unwrap();
    assert_eq!((Some(&found.table), found.device.as_str()), (done.latency.as_ref(), "cpu"));
    let priced = "select count(*) from supernet_scores, jsonb_array_elements(latency -> 'layers') layer
        where (layer -> 'channel_ns' ->> '1x1x3')::bigint > 0";
    assert_eq!(count(&pool, priced).await, scores(&search).layers().len() as i64, "it can be queried");
    let mut slower = done.clone();
    slower.latency.as_mut().unwrap().fixed_ns += 1;
    assert!(matches!(complete(&pool, grant.token, &slower).await, Err(Error::Refused(_))));

    let other =
        Completion { outcome: Outcome { quality: segmentation(0.9), ..done.outcome.clone() }, ..done };
    assert!(matches!(complete(&pool, grant.token, &other).await, Err(Error::Refused(_))));
    let late = tell(&pool, &report_of(grant.token, 3, 1, 11)).await.unwrap_err();
    assert!(matches!(late, Error::LeaseLost { .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn nothing_is_complete_that_lacks_a_part(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let good = completion(checkpoint_of(&grant, 10), Some(scores(&search)));
    let refuses = async |what: &Completion| {
        let before = picture(&pool).await;
        let error = complete(&pool, grant.token, what).await.unwrap_err();
        assert_eq!(picture(&pool).await, before, "{error}");
        error
    };
    assert!(matches!(refuses(&good).await, Error::Refused(_)), "the checkpoint is not committed");
    let checkpoint = save(&pool, &grant, 10).await;
    let changed = CheckpointRef { manifest_sha256: "0".repeat(64), ..checkpoint };
    let changed = Completion { checkpoint: changed, ..good.clone() };
    assert!(matches!(refuses(&changed).await, Error::Refused(_)), "another manifest");
    let ahead = Completion { last_seq: 3, ..good.clone() };
    assert!(matches!(refuses(&ahead).await, Error::OutOfRange { ack_seq: 0 }), "entries are missing");
    let bare = Completion { scores: None, ..good.clone() };
    assert!(matches!(refuses(&bare).await, Error::InvalidArgument { field: "scores_json", .. }));
    let timeless = Completion { latency: None, ..good.clone() };
    assert!(matches!(refuses(&timeless).await, Error::InvalidArgument { field: "latency_json", .. }));
    let mut half = good.clone();
    half.latency.as_mut().unwrap().layers.pop();
    let Error::InvalidArgument { field: "latency_json", problem } = refuses(&half).await else { panic!() };
    assert!(problem.contains("has no row"), "{problem}");
    let of_the_other_task = Outcome { quality: classification(0.9), ..good.outcome.clone() };
    let of_the_other_task = Completion { outcome: of_the_other_task, ..good.clone() };
    assert!(matches!(
        refuses(&of_the_other_task).await,
        Error::InvalidArgument { field: "result.quality_metric", .. }
    ));
    let not_a_number = Outcome { quality: segmentation(f64::NAN), ..good.outcome.clone() };
    let not_a_number = Completion { outcome: not_a_number, ..good.clone() };
    assert!(matches!(refuses(&not_a_number).await, Error::InvalidArgument { field: "result", .. }));
    complete(&pool, grant.token, &good).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_completion_commits_its_checkpoint_or_nothing(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let worker = worker(&pool, "a").await;
    let grant = worker.begin(&pool).await;
    save(&pool, &grant, 5).await;
    let saves = Completion {
        checkpoint_bytes: Some(77),
        ..completion(checkpoint_of(&grant, 10), Some(scores(&search)))
    };
    let refuses = async |what: &Completion| {
        let before = picture(&pool).await;
        let error = complete(&pool, grant.token, what).await.unwrap_err();
        assert_eq!(picture(&pool).await, before, "{error}");
        error
    };
    let ahead = Completion { last_seq: 3, ..saves.clone() };
    assert!(matches!(refuses(&ahead).await, Error::OutOfRange { ack_seq: 0 }));
    let outside = CheckpointRef { key: "elsewhere/step-10".into(), ..saves.checkpoint.clone() };
    let outside = Completion { checkpoint: outside, ..saves.clone() };
    assert!(matches!(refuses(&outside).await, Error::InvalidArgument { field: "checkpoint.key", .. }));
    let other = CheckpointRef { manifest_sha256: "f".repeat(64), ..checkpoint_of(&grant, 5) };
    let other = Completion { checkpoint: other, ..saves.clone() };
    assert!(matches!(refuses(&other).await, Error::Refused(_)), "another one of that step is committed");

    for again in [saves.clone(), saves.clone(), Completion { checkpoint_bytes: None, ..saves.clone() }] {
        complete(&pool, grant.token, &again).await.unwrap();
    }
    assert_eq!(state(&pool, grant.token.job).await, "succeeded");
    let named = "select count(*) from result join checkpoint using (job_id)
        join job on job.id = result.job_id
        where result.checkpoint_step = 10 and checkpoint.step = 10 and bytes = 77
            and (job.checkpoint_epoch, job.checkpoint_step) = (checkpoint.epoch, checkpoint.step)";
    assert_eq!(count(&pool, named).await, 1);
    assert_eq!(count(&pool, "select count(*) from checkpoint").await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_completion_that_a_cancel_beat_commits_no_checkpoint(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    jobs::cancel(&pool, grant.token.job.into(), "enough").await.unwrap();
    let saves = completion(checkpoint_of(&grant, 10), Some(scores(&search)));
    let saves = Completion { checkpoint_bytes: Some(77), ..saves };
    assert!(matches!(complete(&pool, grant.token, &saves).await, Err(Error::JobCancelled { .. })));
    assert_eq!(state(&pool, grant.token.job).await, "cancelled");
    assert_eq!(count(&pool, "select count(*) from checkpoint").await, 0);
}

/// Whichever commits first wins, and both callers learn which.
#[sqlx::test(migrations = "../migrations")]
async fn of_a_cancel_and_a_completion_one_wins_and_the_other_is_told(pool: PgPool) {
    let search = small_search();
    let (mut completed, mut cancelled) = (0, 0);
    for round in 0..12 {
        submit(&pool, &search).await;
        let grant = worker(&pool, "a").await.begin(&pool).await;
        let done = completion(save(&pool, &grant, 10).await, Some(scores(&search)));
        let job = grant.token.job;
        let first = async {
            // Now one, now the other gets a head start.
            tokio::time::sleep(std::time::Duration::from_millis(round % 3)).await;
            complete(&pool, grant.token, &done).await
        };
        match tokio::join!(first, jobs::cancel(&pool, job.into(), "enough")) {
            (Ok(()), Err(Error::IllegalTransition(_))) => {
                completed += 1;
                assert_eq!(state(&pool, job).await, "succeeded");
            }
            (Err(Error::JobCancelled { .. }), Ok(())) => {
                cancelled += 1;
                assert_eq!(state(&pool, job).await, "cancelled");
                assert_eq!(reason(&pool, job).await, "enough");
                let again = complete(&pool, grant.token, &done).await;
                assert!(matches!(again, Err(Error::JobCancelled { .. })), "the same answer again");
            }
            other => panic!("both won or both lost: {other:?}"),
        }
    }
    let results = count(&pool, "select count(*) from result").await;
    assert_eq!((results, completed + cancelled), (completed, 12));
}
