//! Lines of the log say to which trace they belong.

use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;

use super::TraceContext;

/// The name of the log's spans that hold a trace, and where they are made.
pub(super) const SCOPE: &str = "trace";
pub(super) const TARGET: &str = module_path!();

/// What a span of the log holds for [`DatabaseSpans`](super::DatabaseSpans).
pub(super) struct Held(pub TraceContext);

/// A span of the log with `trace_id` and `span_id`, for what is done within `context`. Without
/// one it is nothing.
pub fn scope(context: Option<&TraceContext>) -> tracing::Span {
    let Some(context) = context else { return tracing::Span::none() };
    let span = tracing::info_span!(SCOPE, trace_id = %context.trace_id(), span_id = %context.span_id());
    if context.is_sampled() {
        span.with_subscriber(|(id, dispatch)| {
            let registry = dispatch.downcast_ref::<Registry>();
            if let Some(held) = registry.and_then(|registry| registry.span(id)) {
                held.extensions_mut().insert(Held(context.clone()));
            }
        });
    }
    span
}
