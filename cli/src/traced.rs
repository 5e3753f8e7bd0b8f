//! The trace of a command: it goes on from the variable `TRACEPARENT`, or begins with the
//! command where a collector is named.

use std::sync::OnceLock;

use cakes_telemetry::trace::{self, Exporting, Span, SpanKind, TraceContext};

use crate::error::{CommandError, Outcome};

/// A command under way.
pub struct Traced {
    exporting: Option<Exporting>,
    span: Span,
}

/// It looks again and again, for as long as there is a cluster: its trace would never end.
const ENDLESS: &str = "cakes worker autoscale";

static CURRENT: OnceLock<TraceContext> = OnceLock::new();

/// What the calls of this command belong to.
pub fn current() -> Option<TraceContext> {
    CURRENT.get().cloned()
}

impl Traced {
    /// Begins; `name` is that of the command, as in `cakes search submit`. What cannot be
    /// exported keeps nobody from working.
    pub fn begin(name: &str) -> Self {
        if name == ENDLESS {
            return Traced { exporting: None, span: Span::default() };
        }
        let exporting = exporting().unwrap_or_else(|problem| {
            eprintln!("warning: no trace is exported: {problem}");
            None
        });
        let span = Span::begin(name, SpanKind::Client, TraceContext::from_environment().as_ref());
        if let Some(context) = span.context() {
            // A process runs one command.
            let _ = CURRENT.set(context.clone());
        }
        Traced { exporting, span }
    }

    /// Ends, and waits two seconds at the most for the collector.
    pub async fn end(mut self, outcome: &Result<Outcome, CommandError>) {
        if let Err(error) = outcome {
            self.span.fail(&error.lines().join(" "));
        }
        drop(self.span);
        if let Some(exporting) = self.exporting {
            exporting.finish().await;
        }
    }
}

fn exporting() -> Result<Option<Exporting>, Box<dyn std::error::Error>> {
    let own = std::env::var("CAKES_OTLP_ENDPOINT").ok();
    let Some(settings) = trace::Settings::from_environment(own.as_deref())? else { return Ok(None) };
    let service = trace::Service {
        name: "cakes",
        version: env!("CARGO_PKG_VERSION"),
        instance: uuid::Uuid::new_v4().to_string(),
    };
    Ok(Some(trace::start(settings, &service)?))
}
