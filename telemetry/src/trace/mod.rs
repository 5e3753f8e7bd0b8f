//! Traces: what was done for one request, by which process, and how long it took.
//!
//! ```text
//!  metadata, rows, grants ─► TraceContext ─► Span ─► queue ─► exporter ─► collector (OTLP, gRPC)
//!                                             │        └ full: dropped and counted
//!                                             └ off, or not sampled: hands on what came, and no more
//! ```
//!
//! Nobody waits for a collector: a span is put into a bounded queue, which one task empties.
//! Like the log, traces are the process's.

mod context;
mod database;
mod export;
mod scope;
mod settings;
mod span;

pub use context::{TRACEPARENT, TRACESTATE, TraceContext};
pub use database::DatabaseSpans;
pub use export::{Exporting, is_on, start};
pub(crate) use export::{MEANING, NAME, counted};
pub use opentelemetry::trace::SpanKind;
pub use opentelemetry_otlp::ExporterBuildError as ExporterError;
pub use scope::scope;
pub use settings::{Service, Settings, SettingsError};
pub use span::Span;
