use cakes_coordinator::store::attempts::{CheckpointRef, commit_checkpoint, complete};
use cakes_coordinator::store::read::checkpoint;
use cakes_coordinator::store::{Error, PgPool};

use crate::support::{checkpoint_of, completion, count, save, scores, small_search, submit, worker};

#[sqlx::test(migrations = "../migrations")]
async fn a_checkpoint_is_committed_once_and_never_replaced(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let checkpoint = save(&pool, &grant, 5).await;
    commit_checkpoint(&pool, grant.token, &checkpoint, 1000).await.unwrap();
    assert_eq!(count(&pool, "select count(*) from checkpoint").await, 1);

    let other = CheckpointRef { manifest_sha256: "f".repeat(64), ..checkpoint };
    let refused = commit_checkpoint(&pool, grant.token, &other, 1000).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_key_outside_the_attempts_prefix_is_refused(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let (mine, other) = (worker.begin(&pool).await, worker.begin(&pool).await);
    let keys = [
        checkpoint_of(&other, 5).key,
        format!("{}/../x", mine.artifact_prefix),
        format!("{}/..", mine.artifact_prefix),
        format!("{}x/step", mine.artifact_prefix),
        format!("{}/a/b", mine.artifact_prefix),
        mine.artifact_prefix.clone(),
        String::new(),
    ];
    for key in keys {
        let checkpoint = CheckpointRef { key, ..checkpoint_of(&mine, 5) };
        let refused = commit_checkpoint(&pool, mine.token, &checkpoint, 1).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { field: "checkpoint.key", .. }), "{checkpoint:?}");
    }
    assert_eq!(count(&pool, "select count(*) from checkpoint").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_weights_of_a_job_are_its_last_checkpoint_until_it_has_a_result(pool: PgPool) {
    let search = small_search();
    submit(&pool, &search).await;
    let grant = worker(&pool, "a").await.begin(&pool).await;
    let job = grant.token.job;
    let missing = checkpoint::of_job(&pool, job).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let first = save(&pool, &grant, 5).await;
    let last = save(&pool, &grant, 9).await;
    let found = checkpoint::of_job(&pool, job).await.unwrap();
    assert_eq!((found.key, found.step, found.is_result), (last.key, 9, false));
    complete(&pool, grant.token, &completion(first.clone(), Some(scores(&search)))).await.unwrap();
    let found = checkpoint::of_job(&pool, job).await.unwrap();
    assert_eq!((found.key, found.step, found.is_result), (first.key, 5, true));
    assert_eq!(found.manifest_sha256, first.manifest_sha256);
}
