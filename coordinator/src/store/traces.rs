//! Traces in columns, by which what is done later belongs to who asked for it.

use cakes_telemetry::trace::TraceContext;

/// `traceparent` and `tracestate`; nulls outside of any trace.
pub(super) fn trace_columns(trace: Option<&TraceContext>) -> (Option<String>, Option<String>) {
    let state = trace.map(TraceContext::tracestate).filter(|state| !state.is_empty());
    (trace.map(TraceContext::traceparent), state)
}

/// The same read back. Whatever else may stand there is no reason to refuse a job.
pub(super) fn trace_from_columns(
    traceparent: Option<&str>,
    tracestate: Option<&str>,
) -> Option<TraceContext> {
    TraceContext::parse(traceparent?, tracestate.unwrap_or_default())
}
