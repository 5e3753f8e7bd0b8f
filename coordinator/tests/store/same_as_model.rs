//! The same lists of calls through the statements on a real Postgres, three at
//! a time on connections of their own, and through the model's transactions in
//! pure code. Behind each three there must be an order of them in which the
//! model gives the same answers and ends with the same rows.
//!
//! The lists come from a fixed seed; `PROPTEST_RNG_SEED=7` tries others.

use std::time::Duration;

use cakes::labels::Labels;
use cakes::spec::CheckedSearch;
use cakes_coordinator::core::job::EndReason;
use cakes_coordinator::core::lease::{Desired, Policy};
use cakes_coordinator::core::retry::Budgets;
use cakes_coordinator::core::worker::Schedule;
use cakes_coordinator::store::attempts::{
    Acquisition, Completion, Entry, Grant, Report, acquire, commit_checkpoint, complete, expire_leases,
    extend_leases, fail, reconcile, report, start,
};
use cakes_coordinator::store::checkpoints::review;
use cakes_coordinator::store::searches::Terms;
use cakes_coordinator::store::workers::{Registration, register, schedule};
use cakes_coordinator::store::{Error, PgPool, jobs, searches};
use cakes_model::database::{Answer, Call, Checkpoint, Lease, Rows, STRICT, Token, World, execute};
use cakes_model::mutant::Rules;
use cakes_proto::ids::{JobId, WorkerId};
use chrono::Utc;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use uuid::Uuid;

use crate::support::{
    checkpoint_of, completion, count, cpu, let_leases_run_out, report_of, scores, search_of,
};

mod deeds;
mod rows;
mod together;

use deeds::{Deed, any_deed, tour};

/// A deed with all its details, and the grant that it speaks for.
#[derive(Clone, Debug)]
enum Step {
    Call(Call, Option<Box<Grant>>),
    RunOut,
    Sweep,
    Condemn,
    Schedule(u8, Schedule),
}

/// Two workers and one job, in both worlds.
struct Scene {
    pool: PgPool,
    policy: Policy,
    search: CheckedSearch,
    job: JobId,
    workers: Vec<WorkerId>,
    /// Request ids of registrations and of questions, by their number from 1.
    registrations: Vec<Uuid>,
    questions: Vec<Uuid>,
    /// By their number from 1, which is the model's nonce.
    grants: Vec<Grant>,
    model: Rows,
    asked: [u8; 2],
}

impl Scene {
    async fn new(pool: PgPool) -> Scene {
        let search = search_of(&[1.0], &[1]);
        let search_id = searches::submit(&pool, &search, &Terms::default(), None).await.unwrap();
        let find = "select id from job where kind = 'supernet' and search_id = $1";
        let job = JobId(sqlx::query_scalar(find).bind(search_id.0).fetch_one(&pool).await.unwrap());
        // No other job may be granted.
        let others = "update job set run_after = 'infinity' where id <> $1";
        sqlx::query(others).bind(job.0).execute(&pool).await.unwrap();
        let ids = [0, 1].map(|index| format!("{index}-{}", &search_id.0.simple().to_string()[..20]));
        let policy = Policy {
            // Leases run out when a deed says so, however slow the machine is.
            offer_ttl: Duration::from_secs(3600),
            lease_ttl: Duration::from_secs(3600),
            budgets: Budgets { lost: 2, ..Budgets::default() },
        };
        let mut scene = Scene {
            pool,
            policy,
            search,
            job,
            workers: ids.iter().map(|id| id.parse().unwrap()).collect(),
            registrations: Vec::new(),
            questions: Vec::new(),
            grants: Vec::new(),
            model: Rows::new(2),
            asked: [0; 2],
        };
        scene.model.jobs.push(scene.read().await.jobs.remove(0));
        for worker in 0..2 {
            let step = scene.resolve(&Deed::Register { worker, again: false }).unwrap();
            scene.perform(&step).await.unwrap();
            scene.model = scene.apply(&scene.model, &step, None).0;
        }
        scene
    }

    /// What a deed means now; nothing if there was no grant yet.
    fn resolve(&mut self, deed: &Deed) -> Option<Step> {
        let granted = |age: u8| {
            let newest = self.grants.len().checked_sub(1)?;
            let index = newest.saturating_sub(usize::from(age));
            let grant = self.grants[index].clone();
            let nonce = u8::try_from(index + 1).unwrap();
            let epoch = u8::try_from(grant.token.epoch).unwrap();
            Some((Token { job: 0, epoch, nonce }, grant))
        };
        let incarnation =
            |worker: u8| self.model.workers[usize::from(worker)].map_or(1, |row| row.incarnation);
        let of_grant = |age: u8, call: &dyn Fn(Token) -> Call| {
            granted(age).map(|(token, grant)| Step::Call(call(token), Some(Box::new(grant))))
        };
        let of_job = |call: Call| Some(Step::Call(call, None));
        match *deed {
            Deed::Acquire { worker, again } => {
                let incarnation = incarnation(worker);
                let asked = &mut self.asked[usize::from(worker)];
                if !again || *asked == 0 {
                    self.questions.push(Uuid::new_v4());
                    *asked = u8::try_from(self.questions.len()).unwrap();
                }
                of_job(Call::Acquire { worker, incarnation, request: *asked })
            }
            Deed::Start { grant } => of_grant(grant, &|token| Call::Start { token }),
            Deed::Report { grant, first_seq, count, step } => {
                of_grant(grant, &|token| Call::Report { token, first_seq, count, first_step: step, step })
            }
            Deed::Commit { grant, step } => of_grant(grant, &|token| Call::Commit { token, step }),
            Deed::Complete { grant, beyond, saved } => {
                let rows = &self.model.jobs[0];
                let committed = rows.checkpoint.filter(|_| saved);
                of_grant(grant, &|token| Call::Complete {
                    token,
                    last_seq: beyond + self.model.attempt(token).map_or(0, |attempt| attempt.last_seq),
                    checkpoint: committed.unwrap_or(Checkpoint { epoch: token.epoch, step: 10 }),
                    saves: false,
                })
            }
            Deed::Finish { grant, beyond, step } => of_grant(grant, &|token| Call::Complete {
                token,
                last_seq: beyond + self.model.attempt(token).map_or(0, |attempt| attempt.last_seq),
                checkpoint: Checkpoint { epoch: token.epoch, step },
                saves: true,
            }),
            Deed::Fail { grant, class } => of_grant(grant, &|token| Call::Fail { token, class }),
            Deed::Cancel => of_job(Call::Cancel { job: 0 }),
            Deed::Pause => of_job(Call::Pause { job: 0 }),
            Deed::Resume => of_job(Call::Resume { job: 0 }),
            Deed::Retry => of_job(Call::Retry { job: 0 }),
            Deed::RunOut => Some(Step::RunOut),
            Deed::Sweep => Some(Step::Sweep),
            Deed::Condemn => Some(Step::Condemn),
            Deed::Extend => of_job(Call::Extend),
            Deed::Register { worker, again } => {
                let known = self.model.workers[usize::from(worker)].filter(|_| again);
                let request = known.map_or_else(
                    || {
                        self.registrations.push(Uuid::new_v4());
                        u8::try_from(self.registrations.len()).unwrap()
                    },
                    |row| row.register_request,
                );
                of_job(Call::Register { worker, request })
            }
            Deed::Reconcile { worker, grant, named, late } => {
                let found = granted(grant).filter(|_| named);
                let incarnation = incarnation(worker).saturating_sub(u8::from(late)).max(1);
                let token = found.as_ref().map(|(token, _)| *token);
                let call = Call::Reconcile { worker, incarnation, token };
                Some(Step::Call(call, found.map(|(_, grant)| Box::new(grant))))
            }
            Deed::Schedule { worker, schedule } => Some(Step::Schedule(worker, schedule)),
        }
    }

    /// Runs a step on Postgres; the grant that came of it and the answer.
    async fn perform(&self, step: &Step) -> Result<(Option<Grant>, Option<Answer>), Error> {
        let pool = &self.pool;
        match step {
            Step::RunOut => let_leases_run_out(pool).await,
            Step::Sweep => drop(expire_leases(pool, &self.policy).await?),
            Step::Condemn => drop(review(pool, STRICT, None).await?),
            Step::Schedule(worker, wanted) => {
                schedule(pool, &self.workers[usize::from(*worker)], *wanted).await?;
            }
            Step::Call(Call::Acquire { worker, incarnation, request }, _) => {
                let wish = Acquisition {
                    worker: self.workers[usize::from(*worker)].clone(),
                    incarnation: i64::from(*incarnation),
                    request_id: self.questions[usize::from(*request) - 1],
                    device: cpu(),
                    data_at_hand: Vec::new(),
                };
                return match acquire(pool, &self.policy, &wish).await {
                    Ok(None) => Ok((None, Some(Answer::NothingToDo))),
                    Ok(Some(grant)) => Ok((Some(grant), None)),
                    Err(error) => Ok((None, Some(refusal(error)?))),
                };
            }
            Step::Call(call, grant) => {
                let answered = self.call(call, grant.as_deref()).await;
                return Ok((None, Some(answered.or_else(refusal)?)));
            }
        }
        Ok((None, None))
    }

    async fn call(&self, call: &Call, grant: Option<&Grant>) -> Result<Answer, Error> {
        let (pool, policy) = (&self.pool, &self.policy);
        let granted = || grant.expect("a call of an attempt has its grant");
        match *call {
            Call::Register { worker, request } => {
                let registration = Registration {
                    worker: self.workers[usize::from(worker)].clone(),
                    request_id: self.registrations[usize::from(request) - 1],
                    devices: vec![cpu()],
                    labels: Labels::default(),
                    joins_gangs: false,
                    version: "1.0.0".into(),
                };
                let incarnation = register(pool, &registration).await?;
                return Ok(Answer::Registered { incarnation: u8::try_from(incarnation).unwrap() });
            }
            Call::Reconcile { worker, incarnation, .. } => {
                let worker = &self.workers[usize::from(worker)];
                let tokens: Vec<_> = grant.map(|grant| grant.token).into_iter().collect();
                let verdicts = reconcile(pool, policy, worker, i64::from(incarnation), &tokens).await?;
                let keep = verdicts.contains(&cakes_coordinator::core::lease::Verdict::Keep);
                return Ok(Answer::Verdict { keep });
            }
            Call::Start { .. } => start(pool, policy, granted().token).await?,
            Call::Report { first_seq, count, first_step, step, .. } => {
                let message = batch(granted(), first_seq, count, first_step, step);
                let receipt = report(pool, policy, &message).await?;
                let desired: Desired = receipt.desired;
                let ack_seq = u8::try_from(receipt.ack_seq).unwrap();
                return Ok(Answer::Receipt { ack_seq, desired: desired.into() });
            }
            Call::Commit { step, .. } => {
                let checkpoint = checkpoint_of(granted(), i64::from(step));
                commit_checkpoint(pool, granted().token, &checkpoint, 1).await?;
            }
            Call::Complete { last_seq, checkpoint, saves, .. } => {
                let done = self.completion(granted(), last_seq, checkpoint, saves);
                complete(pool, granted().token, &done).await?;
            }
            Call::Fail { class, .. } => fail(pool, policy, granted().token, class, "it broke").await?,
            Call::Cancel { .. } => jobs::cancel(pool, self.job.into(), "").await?,
            Call::Pause { .. } => jobs::pause(pool, self.job.into()).await?,
            Call::Resume { .. } => jobs::resume(pool, self.job.into(), None).await?,
            Call::Retry { .. } => jobs::retry(pool, self.job.into()).await?,
            Call::Extend => drop(extend_leases(pool, policy).await?),
            Call::Acquire { .. } | Call::Submit { .. } | Call::Expire { .. } | Call::Condemn { .. } => {
                unreachable!()
            }
        }
        Ok(Answer::Done)
    }

    /// What an attempt hands in that names a checkpoint.
    fn completion(&self, grant: &Grant, last_seq: u8, checkpoint: Checkpoint, saves: bool) -> Completion {
        let of = self.grants.iter().find(|grant| grant.token.epoch == i64::from(checkpoint.epoch));
        let named = checkpoint_of(of.unwrap_or(grant), i64::from(checkpoint.step));
        let done = completion(named, Some(scores(&self.search)));
        Completion { last_seq: i64::from(last_seq), checkpoint_bytes: saves.then_some(1), ..done }
    }

    /// Runs a step on the model's rows. `seen`: what Postgres answered.
    fn apply(&self, rows: &Rows, step: &Step, seen: Option<Answer>) -> (Rows, Option<Answer>) {
        let world = World {
            budgets: &self.policy.budgets,
            rules: Rules::default(),
            fresh_nonce: u8::try_from(rows.jobs[0].attempts.len() + 1).unwrap(),
            newest_object: None,
        };
        let mut after = rows.clone();
        let answer = match step {
            Step::Call(call, _) => Some(execute(&mut after, call, &world)),
            Step::RunOut => {
                for attempt in &mut after.jobs[0].attempts {
                    attempt.lease = attempt.lease.map(|_| Lease::RanOut);
                }
                None
            }
            Step::Sweep => {
                let live = rows.jobs[0].live().filter(|attempt| attempt.lease == Some(Lease::RanOut));
                if let Some(live) = live {
                    let token = Token { job: 0, epoch: live.epoch, nonce: live.nonce };
                    execute(&mut after, &Call::Expire { token }, &world);
                }
                None
            }
            Step::Condemn => {
                execute(&mut after, &Call::Condemn { job: 0 }, &world);
                None
            }
            Step::Schedule(worker, schedule) => {
                let row = after.workers[usize::from(*worker)].as_mut().unwrap();
                row.schedule = *schedule;
                None
            }
        };
        // A claim passes over a row that another transaction holds.
        let passed_over = seen == Some(Answer::NothingToDo)
            && matches!(answer, Some(Answer::Granted { .. }))
            && after.jobs[0].attempts.len() > rows.jobs[0].attempts.len();
        if passed_over { (rows.clone(), seen) } else { (after, answer) }
    }

    /// Does these at once in both worlds and compares.
    async fn advance(&mut self, deeds: &[Deed]) -> Result<(), TestCaseError> {
        let steps: Vec<Step> = deeds.iter().filter_map(|deed| self.resolve(deed)).collect();
        let done = futures::future::join_all(steps.iter().map(|step| self.perform(step))).await;
        let mut answers = Vec::new();
        for result in done {
            let (grant, answer) =
                result.map_err(|error| TestCaseError::fail(format!("{error:?} in {steps:#?}")))?;
            answers.push(match grant {
                Some(grant) => Some(self.number(grant)),
                None => answer,
            });
        }
        let hurry =
            "update job set run_after = null, avoid_worker_id = null, avoid_until = null where id = $1";
        sqlx::query(hurry).bind(self.job.0).execute(&self.pool).await.unwrap();
        let found = self.read().await;
        // Retention leaves a job alone that somebody is at.
        let leaves = steps.iter().any(|step| matches!(step, Step::Condemn)) && steps.len() > 1;
        let ways = if leaves { &[false, true][..] } else { &[false] };
        let orders = orders(steps.len());
        for (order, left) in orders.iter().flat_map(|order| ways.iter().map(move |left| (order, *left))) {
            let mut rows = self.model.clone();
            let same = order.iter().all(|index| {
                if left && matches!(steps[*index], Step::Condemn) {
                    return true;
                }
                let (after, answer) = self.apply(&rows, &steps[*index], answers[*index]);
                rows = after;
                answer == answers[*index]
            });
            if same && rows == found {
                self.model = rows;
                return Ok(());
            }
        }
        Err(TestCaseError::fail(format!(
            "no order of {steps:#?} with the answers {answers:#?}\nleads from {:#?}\nto {found:#?}",
            self.model
        )))
    }

    /// The grant as the model calls it.
    fn number(&mut self, grant: Grant) -> Answer {
        let known = self.grants.iter().position(|known| known.token == grant.token);
        let index = known.unwrap_or_else(|| {
            self.grants.push(grant.clone());
            self.grants.len() - 1
        });
        let epoch = u8::try_from(grant.token.epoch).unwrap();
        let token = Token { job: 0, epoch, nonce: u8::try_from(index + 1).unwrap() };
        let resume = grant.resume_from.map(|checkpoint| {
            let of = self.grants.iter().find(|of| checkpoint.key.starts_with(&of.artifact_prefix)).unwrap();
            Checkpoint {
                epoch: u8::try_from(of.token.epoch).unwrap(),
                step: u8::try_from(checkpoint.step).unwrap(),
            }
        });
        Answer::Granted { token, resume }
    }

    /// Ends what is left, so that the next list meets nobody.
    async fn leave(&self) {
        let _ = jobs::cancel(&self.pool, self.job.into(), "").await;
        let_leases_run_out(&self.pool).await;
        expire_leases(&self.pool, &self.policy).await.unwrap();
    }
}

/// A refusal as the model calls it; anything else is a fault.
fn refusal(error: Error) -> Result<Answer, Error> {
    match error {
        Error::LeaseLost { .. } => Ok(Answer::LeaseLost),
        Error::JobCancelled { .. } => Ok(Answer::Cancelled),
        Error::OutOfRange { ack_seq } => Ok(Answer::OutOfRange { ack_seq: u8::try_from(ack_seq).unwrap() }),
        Error::StaleIncarnation { .. } => Ok(Answer::Stale),
        Error::Refused(_) | Error::IllegalTransition(_) | Error::InvalidArgument { .. } => {
            Ok(Answer::Refused)
        }
        other => Err(other),
    }
}

/// A report whose entries are of one step each.
fn batch(grant: &Grant, first_seq: u8, count: u8, first_step: u8, step: u8) -> Report {
    let entry = |offset: u8| Entry::Metric {
        step: i64::from(first_step + offset),
        values: vec![("train/loss".into(), 0.5)],
        time: Utc::now(),
    };
    let whole = report_of(grant.token, i64::from(first_seq), 0, i64::from(step));
    Report { entries: (0..count).map(entry).collect(), ..whole }
}

/// All orders of so many.
fn orders(count: usize) -> Vec<Vec<usize>> {
    (0..count).fold(vec![Vec::new()], |shorter, next| {
        let insert = |order: Vec<usize>| {
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, next);
                order
            })
        };
        shorter.into_iter().flat_map(insert).collect()
    })
}

#[sqlx::test(migrations = "../migrations")]
async fn statements_do_what_the_model_says(pool: PgPool) {
    let mut scene = Scene::new(pool.clone()).await;
    for deed in tour() {
        scene.advance(&[deed]).await.unwrap();
    }
    scene.leave().await;
    // It went everywhere, or the comparison would say little.
    let ends = "select array_agg(distinct coalesce(end_reason, '')) from attempt";
    let ends: Vec<String> = sqlx::query_scalar(ends).fetch_one(&pool).await.unwrap();
    let missing: Vec<_> =
        EndReason::ALL.iter().filter(|end| !ends.iter().any(|seen| seen == end.as_str())).collect();
    assert!(missing.is_empty(), "no attempt has ended as {missing:?}");
    let condemned = "select array_agg(step order by step) from checkpoint where condemn_time is not null";
    let condemned: Vec<i64> = sqlx::query_scalar(condemned).fetch_one(&pool).await.unwrap();
    assert_eq!(condemned, [5, 6, 8], "only the result's is left");
    let resumed = "select count(*) from attempt where resume_step > 0 and end_reason = 'succeeded'";
    assert_eq!(count(&pool, resumed).await, 1, "the last attempt resumed and succeeded");
    walk(pool).await;
}

/// Random lists, three deeds at a time.
async fn walk(pool: PgPool) {
    let defaults = Config::default();
    let seed = match defaults.rng_seed {
        RngSeed::Random => RngSeed::Fixed(6),
        fixed => fixed,
    };
    let config =
        Config { cases: 32, rng_seed: seed, failure_persistence: None, max_shrink_iters: 100, ..defaults };
    let runtime = tokio::runtime::Handle::current();
    // The runner is not asynchronous, and this runtime goes on meanwhile.
    let walk = move || {
        let list = proptest::collection::vec(proptest::collection::vec(any_deed(), 3), 16);
        TestRunner::new(config).run(&list, |list| {
            runtime.block_on(async {
                let mut scene = Scene::new(pool.clone()).await;
                for deeds in &list {
                    scene.advance(deeds).await?;
                }
                scene.leave().await;
                Ok(())
            })
        })
    };
    if let Err(failure) = tokio::task::spawn_blocking(walk).await.unwrap() {
        panic!("{failure}");
    }
}
