//! Runs one attempt, or one slot's part of one: carries out what [`Attempt`] or [`Follower`] asks
//! for and tells it what came of it. Nothing is decided here.
//!
//! Calls and uploads run beside each other and beside the trainer's frames; each
//! is a future that ends in one [`Event`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cakes::frame::TrainerEvent;
use cakes_proto::v1;
use cakes_telemetry::trace::{self, Span, SpanKind, TraceContext};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use nix::unistd::Pid;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::app::{Context, Shutdown};
use crate::attempt::{Attempt, Effect, Event, Failure, Follower, Outcome, Part, Patience, Terms};
use crate::calls::Calls;
use crate::clock::Now;
use crate::devices;
use crate::gangs::{Ranks, is_reached};
use crate::metrics::OfDevice;
use crate::process::{kill_marked, until_gone};
use crate::session::Registration;
use crate::spans::TrainerSpans;
use crate::supervisor::{Launch, Trainer};
use crate::wire::Granted;

/// How precisely limits are kept.
const TICK: Duration = Duration::from_millis(100);
/// For the way to the ranks of the leader. A trainer would wait there for an hour, since those of all
/// machines may still load, and could not tell that from a firewall.
const REACH_LIMIT: Duration = Duration::from_secs(20);

type Preparation = BoxFuture<'static, Result<Prepared, Failure>>;

/// What there is when everything was fetched.
enum Prepared {
    Trainer(Box<Trainer>),
    /// What a trainer will be started with, once it is known where its ranks meet.
    Launch(Box<Launch>),
}

/// Who decides.
enum Machine {
    Leads(Box<Attempt>),
    Follows(Box<Follower>),
}

impl Machine {
    fn new(terms: Terms, ranks: Option<&Ranks>, member: i16, patience: Patience) -> Self {
        let now = Now::read();
        if member > 0 {
            let Terms { offered_at, offer_ttl, report_interval, store, .. } = terms;
            let part = Part { offered_at, offer_ttl, report_interval, store };
            return Machine::Follows(Box::new(Follower::new(part, patience, now)));
        }
        let attempt = Attempt::new(terms, patience, now);
        Machine::Leads(Box::new(match ranks {
            Some(ranks) => attempt.leading(ranks.own.clone()),
            None => attempt,
        }))
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        match self {
            Machine::Leads(attempt) => attempt.handle(event, Now::read()),
            Machine::Follows(follower) => follower.handle(event, Now::read()),
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Machine::Leads(attempt) => attempt.outcome(),
            Machine::Follows(follower) => follower.outcome(),
        }
    }

    fn log_should_wait(&self) -> bool {
        match self {
            Machine::Leads(attempt) => attempt.log_should_wait(),
            Machine::Follows(_) => false,
        }
    }
}

/// Runs a granted job to the end of this attempt. `sent_at` is when it was asked
/// for. Behind it no process of the attempt is left, and no file of it either: it waits for a
/// process that cannot be killed as long as the daemon lives.
pub async fn run(
    context: &Arc<Context>,
    granted: Granted,
    sent_at: Duration,
    registration: Registration,
    device: &v1::Device,
    shutdown: &Shutdown,
) -> Outcome {
    let token = granted.token;
    let _live = context.session.live(&token);
    let ranks = match (&granted.gang, &context.own_address) {
        (None, _) => None,
        (Some(seat), Some(own)) => Some(Ranks::of(seat, own.clone())),
        (Some(_), None) => {
            let problem = "its slots train with no others; see --advertise-address";
            return refuse(context, &granted, problem).await;
        }
    };
    let journal = match context.work.create(&token, registration.incarnation) {
        Ok(journal) => journal,
        Err(problem) => return refuse(context, &granted, &problem.to_string()).await,
    };
    let folder = journal.folder().to_owned();
    let launch = launch(context, &granted, &folder, device, ranks.clone());
    let terms = Terms {
        epoch: token.epoch.unsigned_abs(),
        offered_at: sent_at,
        offer_ttl: granted.offer_ttl,
        report_interval: registration.report_interval,
        checkpoints: launch.out.join("checkpoints"),
        store: registration.artifact_url.clone(),
        resume: granted.resume.clone(),
        training: granted.job.as_ref().map(|job| job.training.clone()),
    };
    let (trace, data) = (granted.trace.clone(), granted.data.clone());
    let calls = Calls::new(context, &granted, &registration, journal);
    let resumes = granted.resume.is_some();
    let preparation = Box::pin(prepare(granted, registration, launch));
    let mut runner = Runner {
        machine: Machine::new(terms, ranks.as_ref(), token.member, context.config.patience),
        trainer: None,
        launch: None,
        abandoned: None,
        preparation: Some(preparation),
        under_way: FuturesUnordered::new(),
        calls: Arc::clone(&calls),
        counted: OfDevice::begin(&device.name, resumes),
        spans: TrainerSpans::new(trace),
        context: Arc::clone(context),
        data,
    };
    let outcome = runner.run(shutdown).await;
    let abandoned = runner.abandoned;
    runner.into_counted().end(&outcome);
    let left = clear(folder.clone(), &calls).await;
    if left > 0 || abandoned.is_some() {
        tokio::select! {
            () = until_gone(&folder, abandoned) => {}
            () = shutdown.asked() => {}
        }
    }
    outcome
}

struct Runner {
    machine: Machine,
    trainer: Option<Trainer>,
    /// Of a trainer that waits to know where its ranks meet.
    launch: Option<Box<Launch>>,
    /// A trainer that could not be killed.
    abandoned: Option<Pid>,
    preparation: Option<Preparation>,
    under_way: FuturesUnordered<BoxFuture<'static, Event>>,
    calls: Arc<Calls>,
    counted: OfDevice,
    spans: TrainerSpans,
    context: Arc<Context>,
    /// Path of the job's data set.
    data: Option<String>,
}

impl Runner {
    /// Drops everything else: the trainer, and calls under way.
    fn into_counted(self) -> OfDevice {
        self.counted
    }

    async fn run(&mut self, shutdown: &Shutdown) -> Outcome {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            let read_log = !self.machine.log_should_wait();
            let event = tokio::select! {
                event = heard(self.trainer.as_mut(), read_log) => event,
                prepared = prepared(self.preparation.as_mut()) => self.take_prepared(prepared),
                Some(event) = self.under_way.next() => event,
                () = shutdown.asked(), if !draining => {
                    draining = true;
                    Event::Drain { deadline: shutdown.deadline() }
                }
                _ = ticks.tick() => match self.trainer.as_ref().and_then(Trainer::memory_mib) {
                    Some(mib) => Event::Memory { mib },
                    None => Event::Tick,
                },
            };
            let Some(event) = self.spans.hear(event) else { continue };
            self.counted.saw(&event);
            if let (Event::Trainer(TrainerEvent::Ready { .. }), Some(path)) = (&event, &self.data) {
                self.context.data.add(path);
            }
            if let (Event::Log(line), Machine::Follows(_)) = (&event, &self.machine) {
                // The job's log is the leader's.
                info!(line = line.as_str(), "a trainer of an attempt that another worker leads says");
            }
            for effect in self.machine.handle(event) {
                self.counted.does(&effect);
                self.carry_out(effect).await;
            }
            if let Some(outcome) = self.machine.outcome() {
                return outcome.clone();
            }
        }
    }

    fn take_prepared(&mut self, prepared: Result<Prepared, Failure>) -> Event {
        self.preparation = None;
        match prepared {
            Ok(Prepared::Trainer(trainer)) => {
                self.trainer = Some(*trainer);
                self.spans.begin();
                Event::Prepared
            }
            Ok(Prepared::Launch(launch)) => {
                self.launch = Some(launch);
                Event::Fetched
            }
            Err(failure) => Event::PreparationFailed(failure),
        }
    }

    /// Starts the trainer of a part, whose ranks go to `meeting`.
    fn launch(&mut self, meeting: String) {
        let Some(mut launch) = self.launch.take() else { return };
        self.preparation = Some(Box::pin(async move {
            if !is_reached(&meeting, REACH_LIMIT).await {
                return Err(Failure::infrastructure(format!(
                    "the leader is not reached at {meeting}; see --advertise-address there, and the firewall"
                )));
            }
            launch.ranks = launch.ranks.take().map(|ranks| Ranks { meeting: Some(meeting), ..ranks });
            start_trainer(&launch)
        }));
    }

    async fn carry_out(&mut self, effect: Effect) {
        let calls = Arc::clone(&self.calls);
        match effect {
            Effect::Start => self.under_way.push(Box::pin(calls.start())),
            Effect::Report { batch, progress } => {
                self.under_way.push(Box::pin(calls.report(batch, progress)));
            }
            Effect::Store(checkpoint) => self.under_way.push(Box::pin(calls.upload(checkpoint))),
            Effect::Commit { checkpoint, bytes } => {
                self.under_way.push(Box::pin(calls.commit(checkpoint, bytes)));
            }
            Effect::Conclude(conclusion) => self.under_way.push(Box::pin(calls.conclude(conclusion))),
            Effect::Join => self.under_way.push(Box::pin(calls.join())),
            Effect::Renew => self.under_way.push(Box::pin(calls.renew())),
            Effect::Tell(address) => self.under_way.push(Box::pin(calls.tell(address))),
            Effect::Launch(meeting) => self.launch(meeting),
            Effect::AbandonPreparation => {
                self.preparation = None;
                self.launch = None;
            }
            Effect::SendStop => {
                if let Some(trainer) = &mut self.trainer {
                    trainer.stop().await;
                }
            }
            Effect::Kill => {
                if let Some(trainer) = &mut self.trainer {
                    trainer.kill();
                }
            }
            Effect::AbandonTrainer => self.abandoned = self.trainer.take().map(|trainer| trainer.pid()),
            Effect::RemoveLocal(folder) => {
                if let Err(problem) = tokio::fs::remove_dir_all(&folder).await {
                    warn!("{}: cannot be removed: {problem}", folder.display());
                }
            }
        }
    }
}

async fn heard(trainer: Option<&mut Trainer>, read_log: bool) -> Event {
    match trainer {
        Some(trainer) => trainer.next(read_log).await,
        None => std::future::pending().await,
    }
}

async fn prepared(preparation: Option<&mut Preparation>) -> Result<Prepared, Failure> {
    match preparation {
        Some(preparation) => preparation.await,
        None => std::future::pending().await,
    }
}

fn launch(
    context: &Context,
    granted: &Granted,
    folder: &Path,
    device: &v1::Device,
    ranks: Option<Ranks>,
) -> Launch {
    let wanted = granted.job.as_ref().map_or(1, |job| job.training.devices);
    Launch {
        program: context.config.trainer.clone(),
        spec: folder.join("spec.json"),
        out: folder.join("out"),
        data_root: context.config.data_root.clone(),
        resume: granted.resume.is_some().then(|| folder.join("resume")),
        supernet: granted.supernet.is_some().then(|| folder.join("supernet")),
        device: devices::for_trainer(&device.name, ranks.as_ref().map_or(wanted, |ranks| ranks.rank_count)),
        threads: context.config.threads,
        loader_threads: context.config.loader_threads,
        cache_dir: context.config.cache_dir.clone(),
        cache_limit_gib: context.config.cache_limit_gib,
        mean_time_between_failures: context.config.mean_time_between_failures,
        folder: folder.to_owned(),
        tells_spans: granted.trace.as_ref().is_some_and(TraceContext::is_sampled) && trace::is_on(),
        ranks,
    }
}

/// Fetches the checkpoints, writes the job and starts the trainer, unless its ranks go to those
/// of another machine.
async fn prepare(granted: Granted, registration: Registration, launch: Launch) -> Result<Prepared, Failure> {
    let mut span = Span::within("prepare attempt", SpanKind::Internal, granted.trace.as_ref());
    let fetched = fetch(&granted, &registration, &launch, &span).await;
    let prepared = match fetched {
        Ok(()) if granted.token.leads() => {
            let _span = Span::within("start trainer", SpanKind::Internal, span.context());
            start_trainer(&launch)
        }
        Ok(()) => Ok(Prepared::Launch(Box::new(launch))),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &prepared {
        span.fail(&failure.message);
    }
    prepared
}

fn start_trainer(launch: &Launch) -> Result<Prepared, Failure> {
    let started = Trainer::start(launch).map_err(|error| {
        Failure::infrastructure(format!("{}: cannot be started: {error}", launch.program.display()))
    });
    started.map(|trainer| Prepared::Trainer(Box::new(trainer)))
}

async fn fetch(
    granted: &Granted,
    registration: &Registration,
    launch: &Launch,
    span: &Span,
) -> Result<(), Failure> {
    let within = |name| Span::within(name, SpanKind::Internal, span.context());
    let artifacts = &registration.artifacts;
    if let (Some(stored), Some(target)) = (&granted.resume, &launch.resume) {
        let _span = within("download checkpoint").with("cakes.step", stored.step as i64);
        let fetched = artifacts.download(stored, target).await;
        fetched.map_err(|error| {
            Failure::infrastructure(format!("checkpoint of step {} cannot be used: {error}", stored.step))
        })?;
    }
    if let (Some(stored), Some(target)) = (&granted.supernet, &launch.supernet) {
        let _span = within("download supernet").with("cakes.step", stored.step as i64);
        let fetched = artifacts.download(stored, target).await;
        fetched.map_err(|error| {
            Failure::infrastructure(format!(
                "the supernet's checkpoint of step {}, which the training starts from, cannot be used: {error}; \
                 put it back, or search again",
                stored.step
            ))
        })?;
    }
    let unwritable = |error| Failure::infrastructure(format!("{}: {error}", launch.spec.display()));
    tokio::fs::write(&launch.spec, &granted.job_json).await.map_err(unwritable)
}

/// Hands back a job that not even a folder could be made for.
async fn refuse(context: &Context, granted: &Granted, problem: &str) -> Outcome {
    warn!("an attempt cannot begin: {problem}");
    let failure = Failure::infrastructure(format!("the worker cannot begin the attempt: {problem}"));
    crate::calls::fail(context.session.coordinator(), granted.token, &failure, granted.trace.as_ref()).await;
    Outcome::Failed
}

/// Removes what the attempt leaves: processes first, then files. How many processes could
/// not be killed.
async fn clear(folder: PathBuf, calls: &Calls) -> usize {
    let Some(journal) = calls.take_journal() else { return 0 };
    let cleared = tokio::task::spawn_blocking(move || {
        let (found, left) = kill_marked(&folder);
        if found > 0 {
            warn!(found, left, "processes that the trainer had started were killed");
        }
        // A download that was given up may just have written its last file.
        (left, journal.remove().or_else(|_| journal.remove()))
    });
    let Ok((left, removed)) = cleared.await else { return 0 };
    if let Err(problem) = removed {
        warn!("an attempt's folder cannot be removed: {problem}");
    }
    left
}
