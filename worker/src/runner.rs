//! Runs one attempt: carries out what [`Attempt`] asks for and tells it what
//! came of it. Nothing is decided here.
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
use tracing::warn;

use crate::app::{Context, Shutdown};
use crate::attempt::{Attempt, Effect, Event, Failure, Outcome, Terms};
use crate::calls::Calls;
use crate::clock::Now;
use crate::devices;
use crate::metrics::OfDevice;
use crate::process::{kill_marked, until_gone};
use crate::session::Registration;
use crate::spans::TrainerSpans;
use crate::supervisor::{Launch, Trainer};
use crate::wire::Granted;

/// How precisely limits are kept.
const TICK: Duration = Duration::from_millis(100);

type Preparation = BoxFuture<'static, Result<Trainer, Failure>>;

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
    let journal = match context.work.create(&token, registration.incarnation) {
        Ok(journal) => journal,
        Err(problem) => return refuse(context, &granted, &problem.to_string()).await,
    };
    let folder = journal.folder().to_owned();
    let launch = launch(context, &granted, &folder, device);
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
        attempt: Attempt::new(terms, context.config.patience, Now::read()),
        trainer: None,
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
    attempt: Attempt,
    trainer: Option<Trainer>,
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
            let read_log = !self.attempt.log_should_wait();
            let event = tokio::select! {
                event = heard(self.trainer.as_mut(), read_log) => event,
                prepared = prepared(self.preparation.as_mut()) => self.take_trainer(prepared),
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
            for effect in self.attempt.handle(event, Now::read()) {
                self.counted.does(&effect);
                self.carry_out(effect).await;
            }
            if let Some(outcome) = self.attempt.outcome() {
                return outcome.clone();
            }
        }
    }

    fn take_trainer(&mut self, prepared: Result<Trainer, Failure>) -> Event {
        self.preparation = None;
        match prepared {
            Ok(trainer) => {
                self.trainer = Some(trainer);
                self.spans.begin();
                Event::Prepared
            }
            Err(failure) => Event::PreparationFailed(failure),
        }
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
            Effect::AbandonPreparation => self.preparation = None,
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

async fn prepared(preparation: Option<&mut Preparation>) -> Result<Trainer, Failure> {
    match preparation {
        Some(preparation) => preparation.await,
        None => std::future::pending().await,
    }
}

fn launch(context: &Context, granted: &Granted, folder: &Path, device: &v1::Device) -> Launch {
    Launch {
        program: context.config.trainer.clone(),
        spec: folder.join("spec.json"),
        out: folder.join("out"),
        data_root: context.config.data_root.clone(),
        resume: granted.resume.is_some().then(|| folder.join("resume")),
        supernet: granted.supernet.is_some().then(|| folder.join("supernet")),
        device: devices::for_trainer(
            &device.name,
            granted.job.as_ref().map_or(1, |job| job.training.devices),
        ),
        threads: context.config.threads,
        loader_threads: context.config.loader_threads,
        cache_dir: context.config.cache_dir.clone(),
        cache_limit_gib: context.config.cache_limit_gib,
        mean_time_between_failures: context.config.mean_time_between_failures,
        folder: folder.to_owned(),
        tells_spans: granted.trace.as_ref().is_some_and(TraceContext::is_sampled) && trace::is_on(),
    }
}

/// Fetches the checkpoints, writes the job and starts the trainer.
async fn prepare(granted: Granted, registration: Registration, launch: Launch) -> Result<Trainer, Failure> {
    let mut span = Span::within("prepare attempt", SpanKind::Internal, granted.trace.as_ref());
    let prepared = prepare_within(&granted, &registration, &launch, &span).await;
    if let Err(failure) = &prepared {
        span.fail(&failure.message);
    }
    prepared
}

async fn prepare_within(
    granted: &Granted,
    registration: &Registration,
    launch: &Launch,
    span: &Span,
) -> Result<Trainer, Failure> {
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
    tokio::fs::write(&launch.spec, &granted.job_json).await.map_err(unwritable)?;
    let _span = within("start trainer");
    Trainer::start(launch).map_err(|error| {
        Failure::infrastructure(format!("{}: cannot be started: {error}", launch.program.display()))
    })
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
