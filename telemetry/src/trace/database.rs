//! Statements of a database within traces.
//!
//! sqlx tells the log of every statement when it has ended. Within a scope that holds a sampled
//! trace that becomes a span; everywhere else nobody listens, and sqlx says nothing.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanKind;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::DynFilterFn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Span;
use super::scope::{Held, SCOPE, TARGET};

/// Under which sqlx tells of statements.
const STATEMENTS: &str = "sqlx::query";

/// Makes spans of what sqlx says.
#[derive(Clone, Copy, Debug, Default)]
pub struct DatabaseSpans;

impl DatabaseSpans {
    /// To be put beside the log.
    pub fn layer<S>() -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let wanted = |metadata: &Metadata<'_>, context: &Context<'_, S>| {
            is_scope(metadata) || (metadata.target() == STATEMENTS && is_held(context))
        };
        // Everything else is known never to be wanted, so that its call sites cost nothing.
        let of_callsite = |metadata: &'static Metadata<'static>| match metadata {
            metadata if is_scope(metadata) => Interest::always(),
            metadata if metadata.target() == STATEMENTS => Interest::sometimes(),
            _ => Interest::never(),
        };
        let filter = DynFilterFn::new(wanted)
            .with_callsite_filter(of_callsite)
            .with_max_level_hint(LevelFilter::DEBUG);
        DatabaseSpans.with_filter(filter)
    }
}

fn is_scope(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == SCOPE && metadata.target() == TARGET
}

fn is_held<S: Subscriber + for<'a> LookupSpan<'a>>(context: &Context<'_, S>) -> bool {
    let current = context.lookup_current();
    current.is_some_and(|span| span.scope().any(|span| span.extensions().get::<Held>().is_some()))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for DatabaseSpans {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut scope) = context.event_scope(event) else { return };
        let held = scope.find_map(|span| span.extensions().get::<Held>().map(|held| held.0.clone()));
        let Some(held) = held else { return };
        let mut said = Statement::default();
        event.record(&mut said);
        let now = SystemTime::now();
        let text = if said.text.is_empty() { said.summary } else { said.text };
        let text = text.trim();
        let operation = text.split_whitespace().next().unwrap_or("statement").to_uppercase();
        Span::within(&operation, SpanKind::Client, Some(&held))
            .since(now.checked_sub(said.elapsed).unwrap_or(now))
            .with("db.system.name", "postgresql")
            .with("db.operation.name", operation.clone())
            .with("db.query.text", text.to_owned())
            .with("db.response.returned_rows", said.returned)
            .end_at(now);
    }
}

/// What sqlx says of a statement. Values are not among it.
#[derive(Default)]
struct Statement {
    summary: String,
    text: String,
    elapsed: Duration,
    returned: i64,
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.to_owned(),
            "db.statement" => self.text = value.to_owned(),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.elapsed = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.returned = i64::try_from(value).unwrap_or(i64::MAX);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
