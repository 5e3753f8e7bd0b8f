//! What an attempt shows in a trace: itself, its calls, and what its trainer tells of.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cakes::frame::TrainerEvent;
use cakes_telemetry::trace::{Span, SpanKind, TraceContext};
use tonic::Request;

use crate::attempt::{Event, Exit};
use crate::client::CallError;
use crate::wire::Granted;

/// Spans of a trainer that are open at a time; it has a handful.
const OPEN_MAX: usize = 64;

/// The whole attempt.
pub fn attempt(granted: &Granted, device: &str) -> Span {
    Span::within("job attempt", SpanKind::Internal, granted.trace.as_ref())
        .with("cakes.job.id", granted.token.job.to_string())
        .with("cakes.attempt", granted.token.epoch)
        .with("cakes.device", device.to_owned())
}

/// A call of the coordinator, with all its repetitions.
pub fn call(method: &'static str, parent: Option<&TraceContext>) -> Span {
    const SERVICE: &str = "cakes.v1.WorkerService";
    let Some(parent) = parent else { return Span::default() };
    Span::within(&format!("{SERVICE}/{method}"), SpanKind::Client, Some(parent))
        .with("rpc.system", "grpc")
        .with("rpc.service", SERVICE)
        .with("rpc.method", method)
}

/// A message that says what its call belongs to.
pub fn request<T>(message: T, context: Option<&TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(context) = context {
        context.insert_into(request.metadata_mut());
    }
    request
}

/// Ends a call's span with its answer.
///
/// # Errors
/// That of the call.
pub fn answered<T>(answer: Result<T, CallError>, mut span: Span) -> Result<T, CallError> {
    match &answer {
        Ok(_) => span.set("rpc.grpc.status_code", 0),
        Err(error) => span.fail(&error.to_string()),
    }
    answer
}

/// Spans of one trainer. Where it dies within something, that has failed.
#[derive(Debug)]
pub struct TrainerSpans {
    attempt: Option<TraceContext>,
    process: Span,
    open: BTreeMap<u32, Span>,
}

impl TrainerSpans {
    pub fn new(attempt: Option<TraceContext>) -> Self {
        TrainerSpans { attempt, process: Span::default(), open: BTreeMap::new() }
    }

    /// The process runs.
    pub fn begin(&mut self) {
        self.process = Span::within("trainer", SpanKind::Internal, self.attempt.as_ref());
    }

    /// What is left of an event for others.
    pub fn hear(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Trainer(TrainerEvent::SpanBegan { id, parent, name, time_ns, attributes }) => {
                let parent = parent.and_then(|parent| self.open.get(&parent)).unwrap_or(&self.process);
                let mut span = Span::within(&name, SpanKind::Internal, parent.context()).since(time(time_ns));
                for (key, value) in attributes {
                    span.set(key, value);
                }
                if self.open.len() < OPEN_MAX {
                    self.open.insert(id, span);
                }
                None
            }
            Event::Trainer(TrainerEvent::SpanEnded { id, time_ns }) => {
                if let Some(span) = self.open.remove(&id) {
                    span.end_at(time(time_ns));
                }
                None
            }
            Event::Exited(exit) => {
                self.end(&exit);
                Some(Event::Exited(exit))
            }
            other => Some(other),
        }
    }

    fn end(&mut self, exit: &Exit) {
        // The innermost began last.
        for (_, mut span) in std::mem::take(&mut self.open).into_iter().rev() {
            span.fail("the trainer ended within it");
        }
        let mut process = std::mem::take(&mut self.process);
        if let Some(code) = exit.code {
            process.set("process.exit.code", i64::from(code));
        }
        match (exit.code, exit.signal) {
            (Some(0), _) => {}
            (Some(code), _) => process.fail(&format!("exit code {code}")),
            (None, Some(signal)) => process.fail(&format!("signal {signal}")),
            (None, None) => process.fail("it ended in an unknown way"),
        }
    }
}

fn time(since_1970_ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(since_1970_ns)
}
