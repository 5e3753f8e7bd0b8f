//! Workers, people and the sweep at one job, at random and at once. Whatever
//! happens, the rows keep to the rules, and a refusal is one that callers know.

use cakes_coordinator::core::lease::Policy;
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::store::attempts::{Grant, commit_checkpoint, complete, expire_leases, fail, start};
use cakes_coordinator::store::searches::Terms;
use cakes_coordinator::store::{Error, PgPool, jobs, searches};
use cakes_proto::ids::JobId;

use crate::support::{
    Worker, checkpoint_of, completion, count, let_leases_run_out, report_of, scores, search_of, tell, worker,
};

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Deed {
    Acquire(usize),
    Start(Grant),
    Report(Grant, i64),
    Save(Grant, i64),
    Complete(Grant),
    Fail(Grant, FailureClass),
    Cancel,
    Pause,
    Resume,
    Retry,
    Expire,
    Advance,
}

fn pick(dice: &mut Dice, grants: &[Grant]) -> Deed {
    // Mostly the newest grant, sometimes a zombie's.
    let old = dice.roll(3) == 0 && !grants.is_empty();
    let grant = if old { grants.get(dice.roll(grants.len())) } else { grants.last() }.cloned();
    let step = 1 + dice.roll(10) as i64;
    match (dice.roll(16), grant) {
        (0 | 1, _) | (_, None) => Deed::Acquire(dice.roll(2)),
        (2 | 3, Some(grant)) => Deed::Start(grant),
        (4 | 5, Some(grant)) => Deed::Report(grant, step),
        (6 | 7, Some(grant)) => Deed::Save(grant, step),
        (8, Some(grant)) => Deed::Complete(grant),
        (9, Some(grant)) => Deed::Fail(grant, FailureClass::ALL[dice.roll(FailureClass::ALL.len())]),
        (10, _) => Deed::Cancel,
        (11, _) => Deed::Pause,
        (12, _) => Deed::Resume,
        (13, _) => Deed::Retry,
        (14, _) => Deed::Expire,
        (_, _) => Deed::Advance,
    }
}

struct Scene {
    pool: PgPool,
    workers: Vec<Worker>,
    job: JobId,
    search: cakes::spec::CheckedSearch,
    search_id: cakes_proto::ids::SearchId,
}

impl Scene {
    async fn perform(&self, deed: Deed) -> Result<Option<Grant>, Error> {
        let (pool, policy) = (&self.pool, Policy::default());
        match deed {
            Deed::Acquire(worker) => return Ok(self.workers[worker].acquire(pool).await),
            Deed::Start(grant) => start(pool, &policy, grant.token).await?,
            Deed::Report(grant, step) => drop(tell(pool, &report_of(grant.token, 1, step, step)).await?),
            Deed::Save(grant, step) => {
                commit_checkpoint(pool, grant.token, &checkpoint_of(&grant, step), 1).await?;
            }
            Deed::Complete(grant) => {
                let mut done = completion(checkpoint_of(&grant, 10), Some(scores(&self.search)));
                let last_seq = "select last_seq from attempt where job_id = $1 and epoch = $2";
                done.last_seq = sqlx::query_scalar(last_seq)
                    .bind(grant.token.job.0)
                    .bind(grant.token.epoch)
                    .fetch_one(pool)
                    .await
                    .unwrap();
                complete(pool, grant.token, &done).await?;
            }
            Deed::Fail(grant, class) => fail(pool, &policy, grant.token, class, "it broke").await?,
            Deed::Cancel => jobs::cancel(pool, self.job.into(), "").await?,
            Deed::Pause => jobs::pause(pool, self.job.into()).await?,
            Deed::Resume => jobs::resume(pool, self.job.into(), None).await?,
            Deed::Retry => jobs::retry(pool, self.job.into()).await?,
            Deed::Expire => {
                let_leases_run_out(pool).await;
                expire_leases(pool, &policy).await?;
            }
            Deed::Advance => drop(searches::advance(pool, self.search_id).await?),
        }
        Ok(None)
    }

    async fn check(&self, history: &[Deed]) {
        let rules = [
            ("a live attempt exactly in the states that have one",
             "select count(*) from job where (state in ('leased', 'running', 'cancelling', 'pausing'))
                  <> exists (select from attempt where job_id = job.id and state <> 'ended')"),
            ("a live attempt is that of the job's epoch",
             "select count(*) from attempt join job on job.id = job_id
                  where attempt.state <> 'ended' and attempt.epoch <> job.epoch"),
            ("a lease exactly for each live attempt",
             "select count(*) from attempt full join attempt_lease using (job_id, epoch)
                  where (coalesce(attempt.state, 'ended') <> 'ended') <> (attempt_lease.deadline is not null)"),
            ("a result exactly for each success",
             "select count(*) from job full join result on job_id = id
                  where coalesce(state = 'succeeded', false) <> (job_id is not null)"),
            ("epochs without a gap",
             "select count(*) from job
                  where epoch <> (select count(*) from attempt where job_id = job.id)"),
            ("entries of an attempt are 1 to last_seq, each once",
             "select count(*) from attempt where last_seq <> (
                  select count(*) from metric where metric.job_id = attempt.job_id
                      and metric.epoch = attempt.epoch and key = 'train/loss' and seq <= last_seq)"),
            ("resumption from the farthest committed checkpoint",
             "select count(*) from job where coalesce(checkpoint_step, 0)
                  <> coalesce((select max(step) from checkpoint where job_id = job.id), 0)"),
        ];
        for (rule, breaches) in rules {
            assert_eq!(count(&self.pool, breaches).await, 0, "{rule}; after {history:#?}");
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn the_rows_keep_to_the_rules_whatever_happens(pool: PgPool) {
    let mut succeeded = 0;
    for seed in 0..6 {
        let search = search_of(&[1.0], &[1]);
        let search_id = searches::submit(&pool, &search, &Terms::default(), None).await.unwrap();
        // The baseline stays out of the way.
        sqlx::query("update job set run_after = 'infinity' where kind = 'retrain'")
            .execute(&pool)
            .await
            .unwrap();
        let find = "select id from job where kind = 'supernet' and search_id = $1";
        let job = JobId(sqlx::query_scalar(find).bind(search_id.0).fetch_one(&pool).await.unwrap());
        let workers = vec![worker(&pool, "a").await, worker(&pool, "b").await];
        let scene = Scene { pool: pool.clone(), workers, job, search, search_id };
        let (mut dice, mut grants, mut history) = (Dice(seed), Vec::new(), Vec::new());
        for _ in 0..40 {
            let deeds: Vec<Deed> = (0..3).map(|_| pick(&mut dice, &grants)).collect();
            history.extend(deeds.clone());
            let results = futures::future::join_all(deeds.into_iter().map(|deed| scene.perform(deed))).await;
            for result in results {
                match result {
                    Ok(grant) => grants.extend(grant),
                    Err(Error::Database { .. } | Error::Corrupt { .. } | Error::NotFound { .. }) => {
                        panic!("{result:?} after {history:#?}")
                    }
                    Err(_) => {}
                }
            }
            // Back-off and faults of workers would only make the walk slower.
            let hurry = "update job set run_after = null, avoid_worker_id = null, avoid_until = null
                where kind = 'supernet'";
            sqlx::query(hurry).execute(&pool).await.unwrap();
            scene.check(&history).await;
        }
        let ended = "select count(*) from result";
        succeeded = count(&pool, ended).await;
        // Whatever is left of this search is out of the way of the next.
        sqlx::query("update job set run_after = 'infinity'").execute(&pool).await.unwrap();
    }
    assert!(succeeded > 0, "some walks reach a result");
}
