//! A collector that takes connections and never answers holds nobody up.

use std::time::{Duration, Instant};

use cakes_telemetry::Registry;
use cakes_telemetry::trace::{self, Service, Settings, Span, SpanKind};
use tokio::net::TcpListener;

/// Far more than a flush may take, far less than an export does that nobody answers.
const LONG: Duration = Duration::from_secs(8);

#[tokio::test]
async fn spans_are_dropped_and_counted() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let room = |name: &str| (name == "OTEL_BSP_MAX_QUEUE_SIZE").then(|| "4".to_owned());
    let settings = Settings::read(Some(&url), room).unwrap().unwrap();
    let service = Service { name: "test", version: "0", instance: "1".to_owned() };
    let exporting = trace::start(settings, &service).unwrap();
    let began = Instant::now();
    // Nobody empties the queue meanwhile: this test never waits.
    for _ in 0..1000 {
        assert!(Span::begin("one", SpanKind::Internal, None).is_recorded());
    }
    let mut registry = Registry::default();
    registry.traces();
    let is_counted = |line: &str| registry.text().lines().any(|found| found == line);
    assert!(is_counted("cakes_trace_spans_total{outcome=\"queue_full\"} 996"), "{}", registry.text());
    exporting.finish().await;
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    assert!(is_counted("cakes_trace_spans_total{outcome=\"exported\"} 0"), "{}", registry.text());
}
