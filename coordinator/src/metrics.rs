//! The daemon's metrics. Like the log they are the process's: whoever does something counts
//! it, and nobody hands them around.

use std::sync::LazyLock;

use cakes_telemetry::{Counter, Counters, Description, Gauge, Gauges, Histograms, Registry};

/// Upper bounds of how long calls take, in seconds; a call ends after 15 s.
const CALL_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Everything that is counted, and what is read when somebody asks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub calls: Counters<2>,
    pub call_seconds: Histograms<1>,
    pub calls_refused: Counters<1>,
    pub page_requests: Counters<1>,
    pub connections: Gauges<1>,
    pub connections_accepted: Counters<1>,
    pub connections_refused: Counters<2>,
    pub grants: Counter,
    pub grants_data_at_hand: Counter,
    pub report_entries: Counter,
    pub attempts_ended: Counters<1>,
    pub lease_expiries: Counter,
    pub reconciler_rounds: Counters<1>,
    pub reconciler_errors: Counters<1>,
    pub webhook_attempts: Counters<1>,
    pub database_timeouts: Counter,
    pub database_up: Gauge,
    pub database_connections: Gauges<2>,
    pub database_connections_max: Gauges<1>,
    pub database_wait_seconds: Gauges<1>,
    pub searches: Gauges<1>,
    pub jobs: Gauges<1>,
    pub jobs_waiting: Gauges<1>,
    pub oldest_wait_seconds: Gauge,
    pub workers: Gauges<1>,
    pub devices: Gauges<2>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Those of this process.
pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// What there is, for the reference.
pub fn descriptions() -> Vec<Description> {
    METRICS.registry.descriptions().to_vec()
}

impl Metrics {
    /// Everything, as a scrape gets it.
    pub fn text(&self) -> String {
        self.registry.text()
    }

    fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        // Made in this order, which is that of the reference.
        Metrics {
            calls: r.counters(
                "cakes_calls_total",
                ["method", "code"],
                "Calls of the gRPC API that were answered, by method (`other` where there is none) and \
                 gRPC code; CANCELLED where the caller went away or time was up.",
            ),
            call_seconds: r.histograms(
                "cakes_call_seconds",
                ["method"],
                CALL_SECONDS,
                "Time from a call's arrival to its answer; of a stream, until it begins.",
            ),
            calls_refused: r.counters(
                "cakes_calls_refused_total",
                ["reason"],
                "Calls that were refused because of a limit: `rate` or `concurrency` of one caller, `busy` \
                 (of all), `size` of a message, `watches`, `queue` (jobs that wait), `searches`, `page` (a \
                 page's requests of one address).",
            ),
            page_requests: r.counters(
                "cakes_page_requests_total",
                ["status"],
                "Requests of the web page that were answered, by HTTP status.",
            ),
            connections: r.gauges(
                "cakes_connections",
                ["port"],
                "Open connections: `api`, `page`, `metrics`.",
            ),
            connections_accepted: r.counters(
                "cakes_connections_accepted_total",
                ["port"],
                "Connections that were accepted.",
            ),
            connections_refused: r.counters(
                "cakes_connections_refused_total",
                ["port", "reason"],
                "Connections that came to nothing or were closed: `handshake` (a certificate does not \
                 hold, or it was no TLS), `slow_handshake`, `handshakes` (too many at a time), `address` \
                 or `identity` (it has as many as it may), `address_rate` (it comes too often), `silent` \
                 (nothing was said), `no_request`, `idle`, `stalled` (answers were not taken), `accept` \
                 (the system gave none: no file descriptor is left).",
            ),
            grants: r.counter("cakes_grants_total", "Answers that gave a job to a worker."),
            grants_data_at_hand: r.counter(
                "cakes_grants_data_at_hand_total",
                "Answers that gave a job to a worker that had the job's data set at hand.",
            ),
            report_entries: r.counter(
                "cakes_report_entries_total",
                "Log lines and metrics of jobs that workers reported and that are stored.",
            ),
            attempts_ended: r.counters(
                "cakes_attempts_ended_total",
                ["outcome"],
                "Attempts that workers ended: `completed`, or the class of the failure.",
            ),
            lease_expiries: r.counter(
                "cakes_lease_expiries_total",
                "Attempts that this coordinator ended because their worker was silent.",
            ),
            reconciler_rounds: r.counters(
                "cakes_reconciler_rounds_total",
                ["task"],
                "Rounds of the tasks that plan and clean up.",
            ),
            reconciler_errors: r.counters(
                "cakes_reconciler_errors_total",
                ["task"],
                "Rounds of them in which something failed.",
            ),
            webhook_attempts: r.counters(
                "cakes_webhook_requests_total",
                ["outcome"],
                "Requests to receivers of webhooks: `delivered` or `failed`.",
            ),
            database_timeouts: r.counter(
                "cakes_database_acquire_timeouts_total",
                "Operations that got no connection to the database in time.",
            ),
            database_up: r.gauge("cakes_database_up", "1 if the database answered, 0 if not."),
            database_connections: r.gauges(
                "cakes_database_connections",
                ["pool", "state"],
                "Connections to the database, `used` or `idle`. Pools: `control`, `renewals` (reports), \
                 `turnover` (grants, starts, checkpoints, results), `upkeep` (retention, suspect workers).",
            ),
            database_connections_max: r.gauges(
                "cakes_database_connections_max",
                ["pool"],
                "Most connections to the database.",
            ),
            database_wait_seconds: r.gauges(
                "cakes_database_acquire_seconds",
                ["pool"],
                "Time that a connection of the pool took to get just now; 2 where none was to be had.",
            ),
            searches: r.gauges("cakes_searches", ["state"], "Searches by state."),
            jobs: r.gauges("cakes_jobs", ["state"], "Jobs by state."),
            jobs_waiting: r.gauges(
                "cakes_jobs_waiting",
                ["reason"],
                "Jobs in the queue, by what they wait for: the reasons of `dashboard.queue`.",
            ),
            oldest_wait_seconds: r.gauge(
                "cakes_jobs_waiting_oldest_seconds",
                "Age of the oldest job in the queue; 0 if it is empty.",
            ),
            workers: r.gauges(
                "cakes_workers",
                ["state"],
                "Workers that were heard of in the last day: `ready`, `cordoned`, `draining`, `suspect`, \
                 or `lost` (silent for longer than a lease lasts).",
            ),
            devices: r.gauges(
                "cakes_devices",
                ["kind", "state"],
                "Devices of these workers, `cpu` or `cuda`: `busy`, `idle`, or `absent` with a lost worker.",
            ),
            registry: {
                r.process();
                r.traces();
                registry
            },
        }
    }
}

/// A connection that is counted while it is open.
#[derive(Debug)]
pub(crate) struct OpenConnection(&'static str);

impl OpenConnection {
    pub fn of(port: &'static str) -> Self {
        METRICS.connections_accepted.add([port], 1);
        METRICS.connections.add([port], 1.0);
        OpenConnection(port)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        METRICS.connections.add([self.0], -1.0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = "\
# Metrics of cakes-coordinator

Made from `coordinator/src/metrics.rs`. What `--metrics-listen` serves at `/metrics`, in
Prometheus' text format; a histogram is NAME`_bucket`, NAME`_sum` and NAME`_count`. Counters
begin at 0 with the process. A metric without a value yet has no line. How to scrape, and
what to be woken for: [observability](../observability.md).
";

    #[test]
    fn the_reference_of_metrics_is_what_the_code_says() {
        let text = Description::page(HEAD, &descriptions());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics-coordinator.md");
        if std::env::var_os("RENEW_REFERENCE").is_some() {
            std::fs::write(&path, text).unwrap();
            return;
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(page == text, "{} is stale; RENEW_REFERENCE=1 with this test writes it", path.display());
    }
}
