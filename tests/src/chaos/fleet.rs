//! Fake workers that live, die and come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use cakes::job::TrainerJob;
use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::{DesiredState, FailureClass, LeaseToken, Verdict};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::gang::{FAKE, LABEL, Meetings, Presence, address_of};
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
/// Steps that a fake does in a second, which it tells as the time that is left.
const STEPS_PER_S: f64 = 4.0;
/// Reports of a leader without a step, while others are not there.
const STALLS_MAX: u32 = 60;

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
    meetings: Arc<Meetings>,
    lives: Mutex<BTreeMap<usize, Life>>,
}

struct Life {
    journal: Arc<Mutex<Journal>>,
    task: Option<JoinHandle<()>>,
    servers: Servers,
    /// Whether its calls are held back.
    is_silenced: watch::Sender<bool>,
}

impl Fleet {
    pub fn new(plant: Arc<Plant>, history: Arc<History>) -> Arc<Self> {
        Arc::new(Fleet { plant, history, meetings: Arc::default(), lives: Mutex::default() })
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(number: usize) -> String {
        format!("fake-{number}")
    }

    /// The number of a fake's name.
    pub fn number(name: &str) -> Option<usize> {
        name.strip_prefix("fake-")?.parse().ok()
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
                let is_silenced = watch::Sender::new(false);
                new.insert(Life { journal: Arc::default(), task: None, servers, is_silenced })
            }
        };
        if life.task.as_ref().is_none_or(JoinHandle::is_finished) {
            let fake = Fake {
                name: Self::name(number),
                servers: life.servers.clone(),
                history: self.history.clone(),
                journal: life.journal.clone(),
                meetings: self.meetings.clone(),
                is_silenced: life.is_silenced.subscribe(),
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
        self.held(|_| true)
    }

    /// The same of those that lead, as all do that work alone.
    pub fn leading(&self) -> Vec<(usize, Grant)> {
        self.held(|token| token.member == 0)
    }

    fn held(&self, wanted: impl Fn(&LeaseToken) -> bool) -> Vec<(usize, Grant)> {
        let held = |(number, life): (&usize, &Life)| {
            life.task.as_ref()?;
            let journal = life.journal.lock().unwrap_or_else(PoisonError::into_inner);
            let token = &journal.attempt.as_ref().filter(|attempt| wanted(&attempt.token))?.token;
            Some((*number, grant_of(token)?))
        };
        self.lives().iter().filter_map(held).collect()
    }

    /// Holds back what a fake would say about its attempt, as if it were cut off alone, or lets it
    /// speak again. It does not know.
    pub fn silence(&self, number: usize, is_silenced: bool) {
        if let Some(life) = self.lives().get(&number) {
            life.is_silenced.send_replace(is_silenced);
        }
    }

    /// Starts all that do not live, and lets all speak.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn heal(&self) -> Result<()> {
        for life in self.lives().values() {
            life.is_silenced.send_replace(false);
        }
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
    meetings: Arc<Meetings>,
    is_silenced: watch::Receiver<bool>,
    interval: Duration,
}

impl Fake {
    async fn live(self) {
        loop {
            let (servers, history) = (self.servers.clone(), self.history.clone());
            let labels = [(LABEL, FAKE)];
            let register = FakeWorker::register_labelled(servers, &self.name, &labels, PATIENCE, history);
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
        if attempt.token.member > 0 {
            return self.follow(worker, &attempt).await;
        }
        let meeting = self.lead(worker, &attempt).await?;
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
        let mut stalls = 0;
        while steps.done < noop.step_count {
            tokio::time::sleep(self.interval).await;
            self.until_heard().await;
            let is_whole = meeting.as_ref().is_none_or(Presence::is_whole);
            stalls = if is_whole { 0 } else { stalls + 1 };
            if stalls > STALLS_MAX {
                return worker.fail(&attempt, FailureClass::Lost, "the other ranks are gone").await;
            }
            let count = if is_whole { STEPS_AT_ONCE } else { 0 };
            let (entries, progress) = steps.report(count, noop.step_count);
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
            if is_whole
                && is_big
                && steps.done.is_multiple_of(CHECKPOINT_STEPS)
                && steps.done < noop.step_count
            {
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

    /// Waits while it is silenced.
    async fn until_heard(&self) {
        let mut is_silenced = self.is_silenced.clone();
        // It is gone with the fleet.
        let _ = is_silenced.wait_for(|is_silenced| !*is_silenced).await.is_ok();
    }

    /// Of an attempt on several slots: goes where the ranks meet, and tells it; `None` of one on its
    /// slot alone.
    async fn lead(&self, worker: &FakeWorker, attempt: &Attempt) -> Result<Option<Presence>, Refusal> {
        let Some(seat) = &attempt.gang else { return Ok(None) };
        let address = address_of(&attempt.token);
        let meeting = self.meetings.join(&address, 0, seat.member_count);
        worker.tell(attempt, &address).await?;
        Ok(Some(meeting))
    }

    /// What a member does that does not lead, until the leader has ended the attempt or anybody was lost.
    async fn follow(&self, worker: &FakeWorker, attempt: &Attempt) -> Result<(), Refusal> {
        let member = attempt.token.member;
        let member_count = attempt.gang.as_ref().map_or(0, |seat| seat.member_count);
        let mut meeting = None;
        let refusal = loop {
            let address = match worker.renew(attempt).await {
                // Whoever is to stop, stops with the leader.
                Ok((_, address)) => address,
                Err(refusal) => break refusal,
            };
            if meeting.is_none()
                && let Some(address) = address
            {
                meeting = Some(self.meetings.join(&address, member, member_count));
                // Must be refused; the checker looks.
                let _ = worker.overstep(attempt, CHECKPOINT_STEPS).await;
            }
            tokio::time::sleep(self.interval).await;
            self.until_heard().await;
        };
        drop(meeting);
        if matches!(refusal, Refusal::LeaseLost { .. }) {
            // A zombie does not believe it.
            let _ = worker.start(attempt).await;
            let _ = worker.renew(attempt).await;
        }
        Err(refusal)
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
        let mut progress = step_report(last, step_count).1;
        // Else nobody would keep a slot for a gang until this one is free, too.
        progress.remaining_s = Some((step_count - last) as f64 / STEPS_PER_S);
        (entries, progress)
    }
}
