//! Fake workers that live, die and come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use cakes::job::TrainerJob;
use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::{DesiredState, FailureClass, LeaseToken, Verdict};
use tokio::task::{JoinHandle, JoinSet};

use super::history::{Grant, History, grant_of};
use super::plant::{FAKE_GROUPS, Plant};
use super::schedule::Random;
use super::work::{BIG_BATCH, POISON_SEED, RUNAWAY_RATE};
use crate::fake::{Attempt, FakeWorker, NoOp, Refusal, Servers, step_report};

/// As a real worker's: calls are repeated until they are answered.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two questions when there is nothing to do.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Steps that a fake reports at once.
const STEPS_AT_ONCE: u64 = 2;
/// Steps between checkpoints of jobs that only fakes run.
const CHECKPOINT_STEPS: u64 = 8;

/// What survives the death of a fake, as a journal on disk would.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub attempt: Option<Attempt>,
    /// A completion that was decided, with what it hands in.
    completion: Option<NoOp>,
}

/// Fake workers by their number.
pub struct Fleet {
    plant: Arc<Plant>,
    history: Arc<History>,
    lives: Mutex<BTreeMap<usize, Life>>,
}

struct Life {
    journal: Arc<Mutex<Journal>>,
    task: Option<JoinHandle<()>>,
    servers: Servers,
}

impl Fleet {
    pub fn new(plant: Arc<Plant>, history: Arc<History>) -> Arc<Self> {
        Arc::new(Fleet { plant, history, lives: Mutex::default() })
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(number: usize) -> String {
        format!("fake-{number}")
    }

    /// The group whose proxies a fake's calls go through.
    pub fn group(number: usize) -> usize {
        number % FAKE_GROUPS
    }

    /// Starts a fake that does not live.
    ///
    /// # Errors
    /// Never for addresses of proxies.
    pub fn start(&self, number: usize) -> Result<()> {
        let mut lives = self.lives();
        let life = match lives.entry(number) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let proxies = &self.plant.fake_proxies[Self::group(number)];
                let servers = Plant::servers(proxies, number / FAKE_GROUPS)?;
                new.insert(Life { journal: Arc::default(), task: None, servers })
            }
        };
        if life.task.as_ref().is_none_or(JoinHandle::is_finished) {
            let fake = Fake {
                name: Self::name(number),
                servers: life.servers.clone(),
                history: self.history.clone(),
                journal: life.journal.clone(),
                interval: self.plant.sizes.report_interval,
            };
            life.task = Some(tokio::spawn(fake.live()));
        }
        Ok(())
    }

    /// Ends a fake as `kill -9` would; the grant that it held.
    pub fn kill(&self, number: usize) -> Option<Grant> {
        let mut lives = self.lives();
        let life = lives.get_mut(&number)?;
        life.task.take()?.abort();
        let journal = life.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = grant_of(&journal.attempt.as_ref()?.token)?;
        self.history.killed(grant);
        Some(grant)
    }

    /// Grants that are being worked on, with the numbers of their fakes.
    pub fn at_work(&self) -> Vec<(usize, Grant)> {
        let held = |(number, life): (&usize, &Life)| {
            life.task.as_ref()?;
            let journal = life.journal.lock().unwrap_or_else(PoisonError::into_inner);
            Some((*number, grant_of(&journal.attempt.as_ref()?.token)?))
        };
        self.lives().iter().filter_map(held).collect()
    }

    /// Starts all that do not live.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn heal(&self) -> Result<()> {
        let numbers: Vec<usize> = self.lives().keys().copied().collect();
        numbers.into_iter().try_for_each(|number| self.start(number))
    }
}

impl Fleet {
    /// Ends all fakes.
    pub fn stop(&self) {
        for life in self.lives().values_mut() {
            if let Some(task) = life.task.take() {
                task.abort();
            }
        }
    }
}

/// One start of a fake's daemon.
struct Fake {
    name: String,
    servers: Servers,
    history: Arc<History>,
    journal: Arc<Mutex<Journal>>,
    interval: Duration,
}

impl Fake {
    async fn live(self) {
        loop {
            let register =
                FakeWorker::register(self.servers.clone(), &self.name, PATIENCE, self.history.clone());
            if let Ok(worker) = register.await {
                // Ends when a later start of the same name has registered.
                let _ = self.work(&worker).await;
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self, worker: &FakeWorker) -> Result<(), Refusal> {
        self.settle(worker).await?;
        let mut random = Random::new(worker.incarnation() ^ self.name.len() as u64);
        loop {
            // So that a coordinator which was away gets its share again.
            if random.once_in(4) {
                self.servers.leave(self.servers.current().0);
            }
            let Some(attempt) = worker.acquire().await? else {
                let pause = ASK_INTERVAL.mul_f64(0.5 + random.below(1000) as f64 / 1000.0);
                tokio::time::sleep(pause).await;
                continue;
            };
            *self.journal() = Journal { attempt: Some(attempt.clone()), completion: None };
            match self.attempt(worker, attempt).await {
                Ok(()) | Err(Refusal::LeaseLost { .. } | Refusal::JobCancelled) => {}
                Err(refusal) => {
                    eprintln!("{}: an attempt ended by: {refusal}", self.name);
                    tokio::time::sleep(ASK_INTERVAL).await;
                }
            }
            *self.journal() = Journal::default();
        }
    }

    /// As a restarted daemon does: what was decided is told, the rest is handed back.
    async fn settle(&self, worker: &FakeWorker) -> Result<(), Refusal> {
        let Journal { attempt, completion } = self.journal().clone();
        let tokens: Vec<LeaseToken> = attempt.iter().map(|attempt| attempt.token.clone()).collect();
        let verdicts = worker.reconcile(tokens).await?;
        if let (Some(attempt), Some(Verdict::Keep)) = (attempt, verdicts.first().copied()) {
            let told = match completion {
                Some(noop) => worker.complete(&attempt, &noop).await,
                None => worker.fail(&attempt, FailureClass::Lost, "the fake was restarted").await,
            };
            if let Err(refusal @ Refusal::StaleIncarnation { .. }) = told {
                return Err(refusal);
            }
        }
        *self.journal() = Journal::default();
        Ok(())
    }

    async fn attempt(&self, worker: &FakeWorker, mut attempt: Attempt) -> Result<(), Refusal> {
        worker.start(&attempt).await?;
        let Ok(job) = serde_json::from_str::<TrainerJob>(&attempt.trainer_job_json) else {
            return worker.fail(&attempt, FailureClass::User, "the job cannot be read").await;
        };
        let Ok(noop) = NoOp::of(&job) else {
            return worker.fail(&attempt, FailureClass::User, "the job makes no sense").await;
        };
        if job.seed == POISON_SEED {
            return worker.fail(&attempt, FailureClass::Infrastructure, "the trainer crashed").await;
        }
        let mut steps = Steps { done: attempt.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step) };
        let is_big = job.training.batch_size >= BIG_BATCH;
        let runs_away = job.training.optimizer.learning_rate() >= RUNAWAY_RATE;
        while steps.done < noop.step_count {
            tokio::time::sleep(self.interval).await;
            let (entries, progress) = steps.report(STEPS_AT_ONCE, noop.step_count);
            let desired = worker.report(&mut attempt, entries, progress).await?;
            self.journal().attempt = Some(attempt.clone());
            match desired {
                DesiredState::Cancel => {
                    return worker.fail(&attempt, FailureClass::Cancelled, "cancelled as asked").await;
                }
                DesiredState::Yield => {
                    if is_big && steps.is_beyond(&attempt) {
                        worker.commit(&mut attempt, steps.done).await?;
                    }
                    return worker.fail(&attempt, FailureClass::Lost, "handed back as asked").await;
                }
                DesiredState::Run | DesiredState::Unspecified => {}
            }
            if runs_away && steps.done >= 4 {
                return worker.fail(&attempt, FailureClass::Numeric, "the loss is not finite").await;
            }
            // Of other jobs a real worker would need the weights, which there are not.
            if is_big && steps.done.is_multiple_of(CHECKPOINT_STEPS) && steps.done < noop.step_count {
                worker.commit(&mut attempt, steps.done).await?;
            }
        }
        if steps.is_beyond(&attempt) {
            // Both ways to commit the last one.
            match job.seed % 2 {
                0 => worker.commit(&mut attempt, noop.step_count).await?,
                _ => attempt.save_last(noop.step_count),
            }
        }
        *self.journal() = Journal { attempt: Some(attempt.clone()), completion: Some(noop.clone()) };
        worker.complete(&attempt, &noop).await
    }
}

/// Registers many workers at once, each over a connection of its own; how many
/// were answered. Their way is not that of the fakes, who may be cut off at the time.
pub async fn storm(plant: &Plant, history: &Arc<History>, count: usize, seed: u64) -> usize {
    let mut storm = JoinSet::new();
    for number in 0..count {
        let Ok(servers) = Plant::servers(&plant.client_proxies, number) else { continue };
        let (name, history) = (format!("storm-{}-{number}", seed % 1000), history.clone());
        storm.spawn(async move {
            FakeWorker::register(servers, &name, Duration::from_secs(60), history).await.is_ok()
        });
    }
    storm.join_all().await.into_iter().filter(|answered| *answered).count()
}

/// Steps of an attempt.
#[derive(Clone, Copy, Debug)]
struct Steps {
    done: u64,
}

impl Steps {
    /// Whether more was done than the last checkpoint holds.
    fn is_beyond(&self, attempt: &Attempt) -> bool {
        attempt.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.step < self.done)
    }

    /// One entry for each of the next steps.
    fn report(&mut self, count: u64, step_count: u64) -> (Vec<Entry>, cakes_proto::v1::JobProgress) {
        let last = (self.done + count).min(step_count);
        let entries = (self.done + 1..=last).flat_map(|step| step_report(step, step_count).0).collect();
        self.done = last;
        (entries, step_report(last, step_count).1)
    }
}
