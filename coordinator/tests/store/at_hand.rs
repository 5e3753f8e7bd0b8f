//! Workers get jobs whose data they have at hand, where nobody loses by it.

use cakes::spec::{
    ArrayDataset, ArrayKind, ArraySplit, DatasetSpec, FolderDataset, MedmnistPart, PhantomDataset,
    ValidationSplit, VideoDataset, VideoLayout,
};
use cakes_coordinator::core::assign::OVERTAKE_MAX;
use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::store::PgPool;
use cakes_coordinator::store::attempts::{Acquisition, acquire};
use uuid::Uuid;

use crate::projects::{project, search};
use crate::support::{Worker, acquire_together, worker};

fn folder(path: &str) -> DatasetSpec {
    DatasetSpec::Folder(FolderDataset {
        path: path.to_owned(),
        validation: ValidationSplit::SplitsFile,
        pad_small_volumes: false,
    })
}

/// Queues a retraining on each of these data sets, in this order.
async fn retrainings(pool: &PgPool, project: &str, data: &[DatasetSpec]) -> Vec<Uuid> {
    let search = search(pool, project, 0, data.len() as u64).await;
    let supernet = "update job set run_after = clock_timestamp() + interval '1 day' where kind = 'supernet'";
    sqlx::query(supernet).execute(pool).await.unwrap();
    let jobs = "select id from job where search_id = $1 and kind = 'retrain' order by position";
    let jobs: Vec<Uuid> = sqlx::query_scalar(jobs).bind(search.0).fetch_all(pool).await.unwrap();
    assert_eq!(jobs.len(), data.len());
    for (job, data) in jobs.iter().zip(data) {
        let reads = "update job set trainer_job = jsonb_set(trainer_job, '{dataset}', $2) where id = $1";
        let data = serde_json::to_value(data).unwrap();
        sqlx::query(reads).bind(job).bind(data).execute(pool).await.unwrap();
    }
    jobs
}

fn wish(worker: &Worker, data_at_hand: &[&str]) -> Acquisition {
    let data_at_hand = data_at_hand.iter().map(|path| (*path).to_owned()).collect();
    Acquisition { data_at_hand, ..worker.wish() }
}

/// The next job of a worker with these data at hand, and whether it is on them.
async fn next(pool: &PgPool, worker: &Worker, data_at_hand: &[&str]) -> Option<(Uuid, bool)> {
    let grant = acquire(pool, &Policy::default(), &wish(worker, data_at_hand)).await.unwrap()?;
    Some((grant.token.job.0, grant.has_data_at_hand))
}

#[sqlx::test(migrations = "../migrations")]
async fn a_worker_gets_the_job_whose_data_it_has_at_hand(pool: PgPool) {
    let arrays = DatasetSpec::Arrays(ArrayDataset {
        path: "/data/organs.npz".to_owned(),
        split: ArraySplit::Medmnist { validation: MedmnistPart::Val },
        kind: ArrayKind::Volume,
        tolerate: 0,
    });
    let clips = DatasetSpec::Video(VideoDataset {
        path: "clips".to_owned(),
        layout: VideoLayout::ClassFolders { fold: 0, folds: 5, seed: 1 },
        tolerate: 0,
    });
    let generated = DatasetSpec::Phantoms(PhantomDataset::default());
    let jobs = retrainings(&pool, "default", &[generated, folder("brains"), arrays, clips]).await;
    let worker = worker(&pool, "a").await;
    for (path, place) in [("clips", 3), ("/data/organs.npz", 2), ("brains", 1)] {
        assert_eq!(next(&pool, &worker, &["elsewhere", path]).await, Some((jobs[place], true)), "{path}");
    }
    assert_eq!(next(&pool, &worker, &["brains"]).await, Some((jobs[0], false)));
    assert_eq!(next(&pool, &worker, &["brains"]).await, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_of_another_project_is_never_passed_over(pool: PgPool) {
    project(&pool, "lung", 1, None).await;
    let mut jobs = retrainings(&pool, "default", &[folder("hearts")]).await;
    jobs.extend(retrainings(&pool, "lung", &[folder("hearts")]).await);
    jobs.extend(retrainings(&pool, "default", &[folder("brains")]).await);
    let worker = worker(&pool, "a").await;
    for (place, job) in jobs.into_iter().enumerate() {
        assert_eq!(next(&pool, &worker, &["brains"]).await, Some((job, place == 2)));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_is_passed_over_so_often_and_not_more(pool: PgPool) {
    let mut data = vec![folder("hearts")];
    data.resize(41, folder("brains"));
    let jobs = retrainings(&pool, "default", &data).await;
    let worker = worker(&pool, "a").await;
    let (before, behind) = jobs[1..].split_at(usize::try_from(OVERTAKE_MAX).unwrap());
    for job in before.iter().chain(&jobs[..1]).chain(behind) {
        let granted = next(&pool, &worker, &["brains"]).await;
        assert_eq!(granted, Some((*job, *job != jobs[0])));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn workers_that_ask_together_each_get_what_is_theirs(pool: PgPool) {
    let data = ["hearts", "hearts", "brains", "lungs"].map(folder);
    let jobs = retrainings(&pool, "default", &data).await;
    let worker = worker(&pool, "a").await;
    let wishes = [
        wish(&worker, &["brains"]),
        wish(&worker, &[]),
        wish(&worker, &["lungs"]),
        wish(&worker, &["lungs"]),
    ];
    let answers = acquire_together(&pool, &wishes).await;
    let granted: Vec<Uuid> =
        answers.into_iter().map(|answer| answer.unwrap().unwrap().expect("a job").token.job.0).collect();
    assert_eq!(granted, [jobs[2], jobs[0], jobs[3], jobs[1]]);
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_finds_the_job_in_other_hands_gets_another_one(pool: PgPool) {
    let jobs = retrainings(&pool, "default", &["hearts", "brains"].map(folder)).await;
    let worker = worker(&pool, "a").await;
    let mut somebody = pool.begin().await.unwrap();
    let hold = "select from job where id = $1 for update";
    sqlx::query(hold).bind(jobs[1]).execute(&mut *somebody).await.unwrap();
    assert_eq!(next(&pool, &worker, &["brains"]).await, Some((jobs[0], false)));
    assert_eq!(next(&pool, &worker, &["brains"]).await, None);
    somebody.rollback().await.unwrap();
    assert_eq!(next(&pool, &worker, &["brains"]).await, Some((jobs[1], true)));
}
