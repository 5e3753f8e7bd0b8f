//! The daemon's metrics. Like the log they are the process's: whoever does something counts
//! it, and nobody hands them around.

use std::path::PathBuf;
use std::sync::LazyLock;

use cakes::frame::{Phase, TrainerEvent};
use cakes_proto::v1::FailureClass;
use cakes_telemetry::{Counter, Counters, Description, Gauge, Gauges, Histogram, Registry};

use crate::attempt::{Conclusion, Effect, Event, Outcome};
use crate::config::Config;

/// Upper bounds of how long saving and storing take, in seconds.
const SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];

/// Everything that is counted, and what is read when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub devices: Gauge,
    pub jobs_running: Gauges<1>,
    pub trainers_started: Counters<1>,
    pub attempts_ended: Counters<2>,
    pub steps: Counter,
    pub samples_per_second: Gauges<1>,
    pub data_wait_share: Gauges<1>,
    pub checkpoint_save: Histogram,
    pub checkpoint_stall: Histogram,
    pub checkpoint_upload: Histogram,
    pub checkpoint_upload_failures: Counter,
    pub lease_renewals: Counter,
    pub leases_lost: Counter,
    pub call_failures: Counters<1>,
    pub disk_free: Gauges<1>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Those of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// What there is, for the reference.
pub fn descriptions() -> Vec<Description> {
    METRICS.registry.descriptions().to_vec()
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        // Made in this order, which is that of the reference.
        Metrics {
            devices: r
                .gauge("cakes_worker_devices", "Devices on which this daemon runs jobs, one at a time each."),
            jobs_running: r.gauges(
                "cakes_worker_jobs_running",
                ["device"],
                "Attempts that it has now, 0 or 1.",
            ),
            trainers_started: r.counters(
                "cakes_worker_trainers_started_total",
                ["from"],
                "Trainers that were started: from the `beginning` of their job, or from a `checkpoint`.",
            ),
            attempts_ended: r.counters(
                "cakes_worker_attempts_ended_total",
                ["outcome", "reason"],
                "Attempts that ended: `completed`; `failed` with the class of the failure as reason \
                 (`lost`: handed back); `dropped` without telling the coordinator, because the job is \
                 another's or nobody was to be told; `left`: a part of one that another worker leads.",
            ),
            steps: r.counter("cakes_worker_steps_total", "Training steps of all trainers."),
            samples_per_second: r.gauges(
                "cakes_worker_samples_per_second",
                ["device"],
                "Training samples per second, over the last second or so; 0 without a trainer.",
            ),
            data_wait_share: r.gauges(
                "cakes_worker_data_wait_ratio",
                ["device"],
                "Share of that time in which steps waited for data, 0 to 1.",
            ),
            checkpoint_save: r.histogram(
                "cakes_worker_checkpoint_save_seconds",
                SECONDS,
                "Time from a checkpoint's first copied tensor until it stood on this machine's disk.",
            ),
            checkpoint_stall: r.histogram(
                "cakes_worker_checkpoint_stall_seconds",
                SECONDS,
                "Time for which saving held the training.",
            ),
            checkpoint_upload: r.histogram(
                "cakes_worker_checkpoint_upload_seconds",
                SECONDS,
                "Time that bringing a checkpoint to the artifact store took, where it worked.",
            ),
            checkpoint_upload_failures: r.counter(
                "cakes_worker_checkpoint_upload_failures_total",
                "Checkpoints that could not be brought to the artifact store; most are tried again.",
            ),
            lease_renewals: r.counter("cakes_worker_lease_renewals_total", "Reports that renewed a lease."),
            leases_lost: r.counter(
                "cakes_worker_leases_lost_total",
                "Leases that the coordinator did not know any more: the job was given to another worker, \
                 or had ended.",
            ),
            call_failures: r.counters(
                "cakes_worker_call_failures_total",
                ["call"],
                "Calls that the coordinator did not answer; each is repeated.",
            ),
            disk_free: r.gauges(
                "cakes_worker_disk_free_bytes",
                ["folder"],
                "Free space on the disk of the `work` folder and of the `cache` folder.",
            ),
            registry: {
                r.process();
                r.traces();
                registry
            },
        }
    }
}

/// Everything, as a scrape gets it.
pub fn scrape(work: PathBuf, cache: PathBuf) -> String {
    for (name, folder) in [("work", work), ("cache", cache)] {
        if let Ok(disk) = nix::sys::statvfs::statvfs(&folder) {
            let free = disk.blocks_available() * disk.fragment_size();
            METRICS.disk_free.set([name], free as f64);
        }
    }
    METRICS.registry.text()
}

/// Folders whose disks are looked at; the cache may not be there yet.
pub fn folders(config: &Config) -> (PathBuf, PathBuf) {
    let cache = if config.cache_dir.is_dir() { &config.cache_dir } else { &config.work_dir };
    (config.work_dir.clone(), cache.clone())
}

/// What one device does.
#[derive(Debug)]
pub struct OfDevice {
    name: String,
    resumes: bool,
    class: &'static str,
}

impl OfDevice {
    /// An attempt begins.
    pub fn begin(name: &str, resumes: bool) -> Self {
        METRICS.jobs_running.set([name.to_owned()], 1.0);
        OfDevice { name: name.to_owned(), resumes, class: "" }
    }

    /// Counts what happened to the attempt.
    pub fn saw(&self, event: &Event) {
        match event {
            Event::Prepared => {
                METRICS.trainers_started.add([if self.resumes { "checkpoint" } else { "beginning" }], 1);
            }
            Event::Acknowledged { .. } | Event::Renewed { .. } => METRICS.lease_renewals.add(1),
            Event::LeaseLost(_) => METRICS.leases_lost.add(1),
            Event::StoreFailed { .. } => METRICS.checkpoint_upload_failures.add(1),
            Event::Trainer(TrainerEvent::Step { samples_per_s, data_wait_share, .. }) => {
                METRICS.steps.add(1);
                METRICS.samples_per_second.set([self.name.clone()], *samples_per_s);
                METRICS.data_wait_share.set([self.name.clone()], *data_wait_share);
            }
            Event::Trainer(TrainerEvent::Checkpoint { stall_s, save_s, .. }) => {
                METRICS.checkpoint_stall.observe(*stall_s);
                METRICS.checkpoint_save.observe(*save_s);
            }
            Event::Trainer(TrainerEvent::Phase(phase)) if *phase != Phase::Training => self.rests(),
            _ => {}
        }
    }

    /// Keeps what is about to be told of its end.
    pub fn does(&mut self, effect: &Effect) {
        if let Effect::Conclude(Conclusion::Fail(failure)) = effect {
            self.class = class(failure.class);
        }
    }

    /// The attempt is over.
    pub fn end(self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Completed => ["completed", ""],
            Outcome::Failed => ["failed", self.class],
            Outcome::Dropped { .. } => ["dropped", ""],
            Outcome::Left => ["left", ""],
        };
        METRICS.attempts_ended.add(outcome, 1);
    }

    fn rests(&self) {
        METRICS.samples_per_second.set([self.name.clone()], 0.0);
        METRICS.data_wait_share.set([self.name.clone()], 0.0);
    }
}

impl Drop for OfDevice {
    fn drop(&mut self) {
        self.rests();
        METRICS.jobs_running.set([self.name.clone()], 0.0);
    }
}

fn class(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Unspecified => "",
        FailureClass::Lost => "lost",
        FailureClass::Infrastructure => "infrastructure",
        FailureClass::Resource => "resource",
        FailureClass::Numeric => "numeric",
        FailureClass::User => "user",
        FailureClass::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = "\
# Metrics of cakes-worker

Made from `worker/src/metrics.rs`. What `--metrics-listen` serves at `/metrics`, in
Prometheus' text format; a histogram is NAME`_bucket`, NAME`_sum` and NAME`_count`. Counters
begin at 0 with the process. A metric without a value yet has no line. How to scrape, and
what to be woken for: [observability](../observability.md).
";

    #[test]
    fn the_reference_of_metrics_is_what_the_code_says() {
        let text = Description::page(HEAD, &descriptions());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics-worker.md");
        if std::env::var_os("RENEW_REFERENCE").is_some() {
            std::fs::write(&path, text).unwrap();
            return;
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(page == text, "{} is stale; RENEW_REFERENCE=1 with this test writes it", path.display());
    }
}
