//! One thing that was done, from its beginning to its end.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceContextExt, TraceState};
use opentelemetry::{Context, InstrumentationScope, KeyValue, SpanId, TraceFlags, Value};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
};

use super::TraceContext;
use super::export::{Tracer, tracer};

/// Longest description of a failure, in characters.
const FAILURE_CHARS_MAX: usize = 500;

/// Something under way; it ends when it is dropped. Where nobody records it, it is the context
/// that came, and costs nothing more.
#[derive(Debug, Default)]
pub struct Span {
    context: Option<TraceContext>,
    recorded: Option<Box<SpanData>>,
}

impl Span {
    /// Part of what `parent` says, or, where it says nothing, the first of a new trace if the
    /// sampler takes it.
    pub fn begin(name: &str, kind: SpanKind, parent: Option<&TraceContext>) -> Self {
        match tracer() {
            Some(tracer) => Span::of(tracer, name, kind, parent),
            None => Span { context: parent.cloned(), recorded: None },
        }
    }

    /// Part of what `parent` says, or nothing.
    pub fn within(name: &str, kind: SpanKind, parent: Option<&TraceContext>) -> Self {
        if parent.is_some() { Span::begin(name, kind, parent) } else { Span::default() }
    }

    fn of(tracer: &Tracer, name: &str, kind: SpanKind, parent: Option<&TraceContext>) -> Self {
        let ids = RandomIdGenerator::default();
        let trace_id = parent.map_or_else(|| ids.new_trace_id(), TraceContext::trace_id);
        let above = parent.map(|parent| Context::new().with_remote_span_context(parent.inner().clone()));
        let sampled = tracer.sampler.should_sample(above.as_ref(), trace_id, name, &kind, &[], &[]);
        let is_sampled = sampled.decision == SamplingDecision::RecordAndSample;
        if let (false, Some(parent)) = (is_sampled, parent) {
            return Span { context: Some(parent.clone()), recorded: None };
        }
        let flags = parent.map_or(TraceFlags::default(), |parent| parent.inner().trace_flags());
        let state = parent.map_or(TraceState::NONE, |parent| parent.inner().trace_state().clone());
        let inner =
            SpanContext::new(trace_id, ids.new_span_id(), flags.with_sampled(is_sampled), false, state);
        let recorded = is_sampled.then(|| {
            Box::new(SpanData {
                span_context: inner.clone(),
                parent_span_id: parent.map_or(SpanId::INVALID, TraceContext::span_id),
                parent_span_is_remote: parent.is_some_and(|parent| parent.inner().is_remote()),
                span_kind: kind,
                name: Cow::Owned(name.to_owned()),
                start_time: SystemTime::now(),
                end_time: SystemTime::UNIX_EPOCH,
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: InstrumentationScope::default(),
            })
        });
        Span { context: Some(TraceContext::own(inner)), recorded }
    }

    /// What belongs to this, here and in other processes. None outside of any trace.
    pub fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// Whether anybody will see it.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// It began earlier, or elsewhere.
    pub fn since(mut self, start: SystemTime) -> Self {
        if let Some(recorded) = &mut self.recorded {
            recorded.start_time = start;
        }
        self
    }

    /// Gives it an id that whoever does the same again gives it too; 0 leaves it as it is.
    pub fn numbered(mut self, id: u64) -> Self {
        if let (Some(recorded), true) = (&mut self.recorded, id != 0) {
            let old = &recorded.span_context;
            let inner = SpanContext::new(
                old.trace_id(),
                SpanId::from(id),
                old.trace_flags(),
                false,
                old.trace_state().clone(),
            );
            recorded.span_context = inner.clone();
            self.context = Some(TraceContext::own(inner));
        }
        self
    }

    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.attributes.push(KeyValue::new(key.into(), value.into()));
        }
    }

    /// It did not come to what was wanted.
    pub fn fail(&mut self, why: &str) {
        if let Some(recorded) = &mut self.recorded {
            let why: String = why.chars().take(FAILURE_CHARS_MAX).collect();
            recorded.status = Status::error(why);
        }
    }

    /// Ends it at that time, which may be past.
    pub fn end_at(mut self, end: SystemTime) {
        if let Some(recorded) = &mut self.recorded {
            recorded.end_time = end;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(mut recorded), Some(tracer)) = (self.recorded.take(), tracer()) else { return };
        if recorded.end_time == SystemTime::UNIX_EPOCH {
            recorded.end_time = SystemTime::now();
        }
        // Clocks are set back now and then.
        recorded.end_time = recorded.end_time.max(recorded.start_time);
        tracer.take(*recorded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn where_nothing_is_exported_the_caller_s_context_is_handed_on() {
        let parent = TraceContext::parse(GIVEN, "a=1").unwrap();
        let span = Span::begin("nothing", SpanKind::Server, Some(&parent));
        assert!(!span.is_recorded());
        assert_eq!(span.context(), Some(&parent));
        assert_eq!(Span::begin("nothing", SpanKind::Server, None).context(), None);
    }

    #[test]
    fn the_sampler_is_asked_about_what_nobody_decided() {
        use opentelemetry_sdk::trace::Sampler;
        let (tracer, mut queue) = Tracer::for_test(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
        let first = Span::of(&tracer, "first", SpanKind::Server, None);
        // Who comes after does not decide anew.
        assert!(!first.is_recorded() && !first.context().unwrap().is_sampled());
        let parent = TraceContext::parse(GIVEN, "a=1").unwrap();
        let mut child = Span::of(&tracer, "child", SpanKind::Server, Some(&parent)).with("key", 7);
        child.fail(&"x".repeat(600));
        let context = child.context().unwrap().clone();
        assert_eq!((context.trace_id(), context.tracestate().as_str()), (parent.trace_id(), "a=1"));
        assert_ne!(context.span_id(), parent.span_id());
        tracer.take(*child.recorded.take().unwrap());
        let taken = queue.try_recv().unwrap();
        assert_eq!(taken.parent_span_id, parent.span_id());
        assert!(taken.parent_span_is_remote);
        assert_eq!(taken.status, Status::error("x".repeat(FAILURE_CHARS_MAX)));
        let unsampled = TraceContext::parse(&GIVEN.replace("-01", "-00"), "").unwrap();
        let span = Span::of(&tracer, "unsampled", SpanKind::Server, Some(&unsampled));
        assert_eq!((span.is_recorded(), span.context()), (false, Some(&unsampled)));
    }
}
