//! Real processes under faults: coordinators on one Postgres, real workers with
//! small trainings, and many fake workers. Some jobs take slots of two of them.
//!
//! ```text
//! set up ─► faults by schedule, each proven ─► all is healed, no new jobs
//!        ─► every job ends within a limit ─► what was told is compared with what is stored
//! ```

pub mod reassign;
pub mod rolling;

mod check;
mod faults;
mod fleet;
mod gang;
mod history;
mod machine;
mod plant;
mod proxy;
mod schedule;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use check::{Figures, Findings};
use faults::{Chaos, inject, seen};
use fleet::Fleet;
use history::History;
use plant::{Plant, Sizes};
use schedule::{Class, Planned, plan};
use work::Clients;

/// What to run.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// How long faults are injected. Each class has its turn, however long that takes.
    pub length: Duration,
    pub seed: u64,
    pub coordinators: usize,
    pub trainers: usize,
    pub fakes: usize,
    pub lease_ttl: Duration,
    /// Longest time from the last fault to the end of the last job.
    pub settle: Duration,
    /// Where files are put.
    pub parent: PathBuf,
    /// Names of the only classes to inject; all of them if it is empty.
    pub only: Vec<String>,
}

impl ChaosOptions {
    fn classes(&self) -> Result<Vec<Class>> {
        if self.only.is_empty() {
            // One worker is no gang.
            let possible = |class: &Class| *class != Class::F42 || self.trainers > 1;
            return Ok(Class::ALL.into_iter().filter(possible).collect());
        }
        let named =
            |name: &String| Class::named(name).with_context(|| format!("--only: '{name}' is no class"));
        self.only.iter().map(named).collect()
    }

    /// Whether a gang must have been lost and have gone on.
    fn needs_gangs(&self) -> bool {
        self.only.is_empty() && self.length >= WHOLE_RUN
    }
}

/// In a shorter time not everything comes to pass.
const WHOLE_RUN: Duration = Duration::from_secs(180);

/// What came of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassRow {
    pub class: String,
    pub title: &'static str,
    pub tried: u64,
    pub fired: u64,
    /// The last effect that was seen.
    pub proof: String,
}

/// The last line.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub faults: u64,
    pub classes_fired: usize,
    pub classes_total: usize,
    pub lost: usize,
    pub duplicated: usize,
    pub zombie_writes: usize,
    pub stuck: usize,
    pub reassign_p50_s: Option<f64>,
    pub reassign_p99_s: Option<f64>,
    pub wasted_step_share: f64,
    /// Attempts on slots of several workers that were started.
    pub gangs_begun: i64,
    /// Those that ended with a member.
    pub gangs_lost: i64,
    /// Those after which a gang went on from a checkpoint.
    pub gangs_resumed: i64,
}

/// All that is told at the end.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub minutes: f64,
    pub jobs: i64,
    /// Counts of states, ends and answers, for people.
    pub counts: Vec<String>,
    pub classes: Vec<ClassRow>,
    /// Each finding in words.
    pub findings: Vec<String>,
    /// What the rig or a fault could not do.
    pub errors: Vec<String>,
    pub settled_s: f64,
    pub summary: Summary,
    /// Logs and data, if something is wrong.
    pub kept: Option<PathBuf>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        let Summary { classes_fired, classes_total, lost, duplicated, zombie_writes, stuck, .. } =
            self.summary;
        lost + duplicated + zombie_writes + stuck == 0
            && classes_fired == classes_total
            && self.errors.is_empty()
    }
}

/// What happened to the classes so far.
#[derive(Debug, Default)]
struct Tally {
    rows: BTreeMap<Class, (u64, u64, String)>,
    errors: Vec<String>,
}

/// For the first round, where it takes longer than the time that was asked for.
const LANE_PATIENCE: Duration = Duration::from_secs(420);
/// For clients to come to the end of their last call.
const CLIENT_PATIENCE: Duration = Duration::from_secs(120);
/// Tries of a class whose fault found nothing to break.
const TRIES: u32 = 6;
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Runs it all; `tell` gets a line for each thing that happens.
///
/// # Errors
/// The rig itself fails.
pub async fn run(options: &ChaosOptions, tell: impl Fn(&str) + Send + Sync + 'static) -> Result<Report> {
    let classes = options.classes()?;
    let (began, tell) = (Instant::now(), Arc::new(tell));
    let say = {
        let tell = tell.clone();
        move |text: &str| tell(&format!("{:>7.1} s  {text}", began.elapsed().as_secs_f64()))
    };
    let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(say);
    let chaos = Arc::new(Box::pin(set_up(options, &say)).await?);
    let result = Box::pin(with_plant(options, &classes, &chaos, &say)).await;
    drop_fakes(&chaos);
    let (tally, settled, figures, findings) = match result {
        Ok(found) => found,
        Err(error) => {
            let kept = keep(&chaos);
            return Err(error.context(format!("logs and data are kept in {}", kept.display())));
        }
    };
    let mut report = report(options, &classes, &chaos, tally, settled, &figures, &findings);
    if let Err(error) = chaos.plant.stop().await {
        report.errors.push(format!("{error:#}"));
    }
    if !report.is_good() {
        report.kept = Some(keep(&chaos));
    }
    Ok(report)
}

async fn set_up(options: &ChaosOptions, say: &Arc<dyn Fn(&str) + Send + Sync>) -> Result<Chaos> {
    let sizes = Sizes {
        coordinators: options.coordinators,
        workers: options.trainers,
        lease_ttl: options.lease_ttl,
        report_interval: REPORT_INTERVAL,
        section_limit: Duration::from_secs(12),
        drain_time: Duration::ZERO,
    };
    let plant = Arc::new(Plant::start(&options.parent, sizes).await?);
    say(&format!("{} coordinators serve; files in {}", options.coordinators, plant.folder().display()));
    let history = Arc::new(History::default());
    let clients = Clients::start(plant.clone(), history.clone(), options.seed).await?;
    // A fake takes a quarter of a minute for a job.
    let backlog = options.fakes * (options.length.as_secs() as usize + 60) / 15;
    clients.fill(backlog).await?;
    say(&format!("{backlog} jobs wait for fakes"));
    let fleet = Fleet::new(plant.clone(), history.clone());
    for number in 0..options.fakes {
        fleet.start(number)?;
    }
    for number in 0..options.trainers {
        plant.start_worker(number).await?;
    }
    Ok(Chaos { plant, fleet, clients, history })
}

const REPORT_INTERVAL: Duration = Duration::from_millis(500);

type Found = (Tally, Duration, Figures, Findings);

async fn with_plant(
    options: &ChaosOptions,
    classes: &[Class],
    chaos: &Arc<Chaos>,
    say: &Arc<dyn Fn(&str) + Send + Sync>,
) -> Result<Found> {
    let mut people = JoinSet::new();
    people.spawn(chaos.clients.clone().submit_on());
    people.spawn(chaos.clients.clone().change_minds());
    let gangs = check::gangs::Seen::default();
    let watch = tokio::spawn(gangs.clone().watch(chaos.plant.pool.clone()));
    let revived = Arc::new(AtomicU64::new(0));
    let manager = tokio::spawn(manage(chaos.plant.clone(), say.clone(), revived.clone()));
    let tally = break_things(options, classes, chaos, say).await;
    manager.abort();
    let revived = revived.load(Ordering::Relaxed);
    if revived > 0 {
        say(&format!("workers ended by themselves {revived} times and were started again"));
    }
    say("all faults are over; every job is to end");
    let over = Instant::now();
    chaos.clients.stop();
    chaos.plant.heal().await?;
    chaos.plant.trust_workers().await?;
    chaos.fleet.heal()?;
    let last_calls = async {
        while let Some(person) = people.join_next().await {
            person.context("a client panicked")??;
        }
        anyhow::Ok(())
    };
    let last_calls = tokio::time::timeout(CLIENT_PATIENCE, last_calls).await;
    last_calls.context("a client waits for an answer although all faults are over")??;
    chaos.clients.wind_up().await?;
    let ended = seen(options.settle, async || {
        // Whoever was asked to pause may only just have done so; a last fault may only just have been told.
        chaos.clients.resume_all().await?;
        chaos.plant.trust_workers().await?;
        let open = "select (select count(*) from job where end_time is null)
            + (select count(*) from search where end_time is null)";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&chaos.plant.pool).await?;
        Ok((open == 0).then_some(()))
    })
    .await;
    let settled = over.elapsed();
    say(match ended {
        Some(()) => "every job has ended",
        None => "not every job has ended in time",
    });
    // Last answers may be under way.
    tokio::time::sleep(REPORT_INTERVAL * 2).await;
    drop_fakes(chaos);
    watch.abort();
    let pool = &chaos.plant.pool;
    let mut findings = check::check(pool, &chaos.history, chaos.plant.folder(), options.trainers).await?;
    gangs.add_to(&mut findings);
    Ok((tally, settled, check::figures(pool, &chaos.history).await?, findings))
}

/// What a service manager does: starts workers again that have ended by themselves.
async fn manage(plant: Arc<Plant>, say: Arc<dyn Fn(&str) + Send + Sync>, revived: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The database may be away just now.
        let _ = tokio::time::timeout(Duration::from_secs(2), plant.trust_workers()).await;
        match plant.revive_workers().await {
            Ok(count) => revived.fetch_add(count as u64, Ordering::Relaxed),
            Err(error) => {
                say(&format!("a worker cannot be started: {error:#}"));
                return;
            }
        };
    }
}

fn drop_fakes(chaos: &Chaos) {
    chaos.fleet.stop();
}

/// Runs the schedule, each lane by itself.
async fn break_things(
    options: &ChaosOptions,
    classes: &[Class],
    chaos: &Arc<Chaos>,
    say: &Arc<dyn Fn(&str) + Send + Sync>,
) -> Tally {
    let began = Instant::now();
    let tally = std::sync::Mutex::new(Tally::default());
    let planned = plan(options.seed, options.length, classes);
    let lanes = planned.into_iter().map(|(lane, planned)| {
        let first_round = classes.iter().filter(|class| class.lane() == lane).count();
        run_lane(chaos, &**say, &tally, first_round, planned, (began, options.length))
    });
    let limit = options.length.mul_f64(1.5) + LANE_PATIENCE;
    let ended = tokio::time::timeout(limit, futures::future::join_all(lanes)).await;
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if ended.is_err() {
        tally.errors.push(format!("a fault was still under way {limit:.0?} after the first"));
    }
    tally
}

async fn run_lane(
    chaos: &Chaos,
    say: &(dyn Fn(&str) + Send + Sync),
    tally: &std::sync::Mutex<Tally>,
    first_round: usize,
    planned: Vec<Planned>,
    (began, length): (Instant, Duration),
) {
    for (index, fault) in planned.into_iter().enumerate() {
        let guaranteed = index < first_round;
        if !guaranteed && began.elapsed() >= length {
            return;
        }
        tokio::time::sleep(fault.at.saturating_sub(began.elapsed())).await;
        for attempt in 0..if guaranteed { TRIES } else { 1 } {
            tokio::time::sleep(RETRY_PAUSE * attempt).await;
            let outcome = Box::pin(inject(chaos, fault.class, fault.seed.wrapping_add(attempt.into()))).await;
            let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let row = tally.rows.entry(fault.class).or_default();
            row.0 += 1;
            let text = match outcome {
                Ok(Some(proof)) => {
                    row.1 += 1;
                    row.2.clone_from(&proof);
                    say(&format!("{:?} {}: {proof}", fault.class, fault.class.title()));
                    break;
                }
                Ok(None) => "its effect was not seen".to_owned(),
                // Another fault may have taken the database from the rig itself.
                Err(error) if error.chain().any(|cause| cause.is::<sqlx::Error>()) => {
                    format!("not tried: {error:#}")
                }
                Err(error) => {
                    let text = format!("{:?}: {error:#}", fault.class);
                    tally.errors.push(text.clone());
                    text
                }
            };
            say(&format!("{:?} {}: {text}", fault.class, fault.class.title()));
        }
    }
}

fn report(
    options: &ChaosOptions,
    classes: &[Class],
    chaos: &Chaos,
    tally: Tally,
    settled: Duration,
    figures: &Figures,
    findings: &Findings,
) -> Report {
    let row = |class: Class| {
        let (tried, fired, proof) = tally.rows.get(&class).cloned().unwrap_or_default();
        ClassRow { class: format!("{class:?}"), title: class.title(), tried, fired, proof }
    };
    let classes: Vec<ClassRow> = classes.iter().copied().map(row).collect();
    let lists = [&findings.lost, &findings.duplicated, &findings.zombie_writes, &findings.stuck];
    let names = ["lost", "duplicated", "zombie write", "stuck"];
    let answers = chaos.history.answers();
    let summary = Summary {
        faults: classes.iter().map(|row| row.fired).sum(),
        classes_fired: classes.iter().filter(|row| row.fired > 0).count(),
        classes_total: classes.len(),
        lost: findings.lost.len(),
        duplicated: findings.duplicated.len(),
        zombie_writes: findings.zombie_writes.len(),
        stuck: findings.stuck.len(),
        reassign_p50_s: percentile(&figures.reassign_s, 50),
        reassign_p99_s: percentile(&figures.reassign_s, 99),
        wasted_step_share: figures.wasted_step_share,
        gangs_begun: figures.gangs.begun,
        gangs_lost: figures.gangs.lost,
        gangs_resumed: figures.gangs.resumed,
    };
    let mut errors = tally.errors;
    if options.needs_gangs() && figures.gangs.resumed == 0 {
        errors.push(format!("no gang was lost and went on from a checkpoint: {:?}", figures.gangs));
    }
    Report {
        seed: options.seed,
        minutes: options.length.as_secs_f64() / 60.0,
        jobs: figures.jobs,
        counts: vec![
            format!("jobs: {}", show(&figures.states)),
            format!("{} attempts: {}", figures.attempts, show(&figures.ends)),
            format!("{} entries stored", figures.entries),
            format!(
                "answers to fakes: {} OK, {} unknown, {} lease lost, {} gap, {} other",
                answers.ok, answers.unknown, answers.lease_lost, answers.gap, answers.other
            ),
            format!("{} kills with a next attempt", figures.reassign_s.len()),
        ],
        classes,
        findings: names
            .into_iter()
            .zip(lists)
            .flat_map(|(name, list)| list.iter().map(move |text| format!("{name}: {text}")))
            .collect(),
        errors,
        settled_s: settled.as_secs_f64(),
        summary,
        kept: None,
    }
}

fn show(counts: &[(String, i64)]) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// Nearest rank of values in rising order.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Keeps the files for somebody to look into.
fn keep(chaos: &Chaos) -> PathBuf {
    let folder = chaos.plant.folder().to_owned();
    chaos.plant.keep();
    folder
}
