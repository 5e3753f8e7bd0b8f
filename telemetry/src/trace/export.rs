//! The way of spans to a collector. It may be slow, or away: then spans are dropped and
//! counted, and nobody waits.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use cakes_tls::client::Connector;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::settings::{Batch, Service, Settings};
use crate::Counters;

/// For what still waits when the process ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Between two lines of the log about exports that fail.
const COMPLAINTS: Duration = Duration::from_secs(300);

/// The metric of what became of spans.
pub(crate) const NAME: &str = "cakes_trace_spans_total";
pub(crate) const MEANING: &str = "Spans of traces by what became of them: `exported`, `queue_full` (dropped, the \
     collector is slower than they come), `failed` (dropped, the collector did not take them).";

static COUNTED: LazyLock<Counters<1>> = LazyLock::new(|| {
    let counted = Counters::new(["outcome"]);
    for outcome in [EXPORTED, QUEUE_FULL, FAILED] {
        counted.add([outcome], 0);
    }
    counted
});

const EXPORTED: &str = "exported";
const QUEUE_FULL: &str = "queue_full";
const FAILED: &str = "failed";

/// What became of this process's spans.
pub(crate) fn counted() -> &'static Counters<1> {
    &COUNTED
}

/// Takes spans of this process.
#[derive(Debug)]
pub(super) struct Tracer {
    pub(super) sampler: Sampler,
    queue: mpsc::Sender<SpanData>,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// None where nothing is exported.
pub(super) fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

/// Whether spans of this process go anywhere.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

impl Tracer {
    /// Never waits.
    pub(super) fn take(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            counted().add([QUEUE_FULL], 1);
        }
    }

    #[cfg(test)]
    pub(super) fn for_test(sampler: Sampler) -> (Self, mpsc::Receiver<SpanData>) {
        let (queue, waiting) = mpsc::channel(8);
        (Tracer { sampler, queue }, waiting)
    }
}

/// The task that exports.
#[derive(Debug)]
pub struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Spans of this process are exported from now on, once. To be called within a runtime.
///
/// # Errors
/// The exporter's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …) make no sense.
pub fn start(settings: Settings, service: &Service) -> Result<Exporting, ExporterBuildError> {
    let Settings { endpoint, files, sampler, batch } = settings;
    let channel = Connector::new(files).connect_lazy(&endpoint);
    let mut exporter = SpanExporter::builder().with_tonic().with_channel(channel).build()?;
    exporter.set_resource(&resource(service));
    let (queue, waiting) = mpsc::channel(batch.queue_max);
    // Only a test that starts several daemons in one process gets here twice.
    drop(TRACER.set(Tracer { sampler, queue }));
    let stop = CancellationToken::new();
    let exports = Exports { exporter, waiting, batch, stop: stop.clone(), complained: None };
    Ok(Exporting { stop, task: tokio::spawn(exports.run()) })
}

impl Exporting {
    /// Sends what waits, for two seconds at the most.
    pub async fn finish(mut self) {
        self.stop.cancel();
        if timeout(FLUSH_LIMIT, &mut self.task).await.is_err() {
            tracing::warn!("the last spans could not be exported in time");
            self.task.abort();
        }
    }
}

/// What is true of all spans of this process. The environment outweighs what it says itself.
fn resource(service: &Service) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(service.name)
        .with_attributes([
            KeyValue::new("service.namespace", "cakes"),
            KeyValue::new("service.version", service.version),
            KeyValue::new("service.instance.id", service.instance.clone()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

#[derive(Debug)]
struct Exports {
    exporter: SpanExporter,
    waiting: mpsc::Receiver<SpanData>,
    batch: Batch,
    stop: CancellationToken,
    complained: Option<Instant>,
}

impl Exports {
    async fn run(mut self) {
        while !self.stop.is_cancelled() && !self.waiting.is_closed() {
            let spans = self.gather().await;
            // What is under way when the process ends is given its time by whoever ends it.
            self.export(spans).await;
        }
        self.waiting.close();
        loop {
            let mut spans = Vec::new();
            if self.waiting.recv_many(&mut spans, self.batch.spans_max).await == 0 {
                return;
            }
            self.export(spans).await;
        }
    }

    /// A batch, or what there is when time is up.
    async fn gather(&mut self) -> Vec<SpanData> {
        let mut spans = Vec::new();
        let until = Instant::now() + self.batch.delay;
        while spans.len() < self.batch.spans_max {
            let room = self.batch.spans_max - spans.len();
            let more = tokio::select! {
                () = self.stop.cancelled() => return spans,
                more = timeout_at(until, self.waiting.recv_many(&mut spans, room)) => more,
            };
            if !matches!(more, Ok(1..)) {
                break;
            }
        }
        spans
    }

    async fn export(&mut self, spans: Vec<SpanData>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let exported = match timeout(self.batch.timeout, self.exporter.export(spans)).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err("time is up".to_owned()),
        };
        match exported {
            Ok(()) => {
                counted().add([EXPORTED], count);
                if self.complained.take().is_some() {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                counted().add([FAILED], count);
                if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
                    self.complained = Some(Instant::now());
                    tracing::warn!(
                        count,
                        "spans are dropped, the collector does not take them: {error}; {NAME} counts them"
                    );
                }
            }
        }
    }
}
