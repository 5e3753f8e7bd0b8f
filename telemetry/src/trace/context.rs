//! Where a span belongs, as W3C Trace Context writes it: in metadata, in rows, in grants.

use std::fmt;

use opentelemetry::trace::{SpanContext, TraceState};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

/// Metadata and column with trace, span and whether somebody records them.
pub const TRACEPARENT: &str = "traceparent";

/// The same with what tracing systems add.
pub const TRACESTATE: &str = "tracestate";

/// Longest `tracestate` that is handed on, in bytes, and its most entries.
const STATE_BYTES_MAX: usize = 512;
const STATE_ENTRIES_MAX: usize = 32;

/// Flags that mean something here: sampled, and that the trace's id is random.
const KNOWN_FLAGS: u8 = 0b11;

/// The span that others belong to. Its ids are never zero.
#[derive(Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// Reads both headers. None where `traceparent` is ill-formed: whoever sent it is served
    /// all the same. An ill-formed `tracestate` alone is left out.
    pub fn parse(traceparent: &str, tracestate: &str) -> Option<Self> {
        let (version, rest) = traceparent.split_at_checked(2)?;
        let version = hex::<1>(version)?[0];
        let (trace, rest) = rest.strip_prefix('-')?.split_at_checked(32)?;
        let (span, rest) = rest.strip_prefix('-')?.split_at_checked(16)?;
        let (flags, rest) = rest.strip_prefix('-')?.split_at_checked(2)?;
        // Versions to come may add fields, behind a dash.
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let trace = TraceId::from_bytes(hex(trace)?);
        let span = SpanId::from_bytes(hex(span)?);
        let flags = TraceFlags::new(hex::<1>(flags)?[0] & KNOWN_FLAGS);
        if !ends || trace == TraceId::INVALID || span == SpanId::INVALID {
            return None;
        }
        Some(TraceContext(SpanContext::new(trace, span, flags, true, state(tracestate))))
    }

    /// Of a request. None where there is none, or more than one.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (first, None) = (given.next()?, given.next()) else { return None };
        let states = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok());
        TraceContext::parse(first.to_str().ok()?, &states.collect::<Vec<_>>().join(","))
    }

    /// Of the variables `TRACEPARENT` and `TRACESTATE`, by which programs hand it to commands.
    pub fn from_environment() -> Option<Self> {
        let traceparent = std::env::var("TRACEPARENT").ok()?;
        TraceContext::parse(&traceparent, &std::env::var("TRACESTATE").unwrap_or_default())
    }

    /// Hands it on with a call.
    pub fn insert_into(&self, metadata: &mut MetadataMap) {
        // What was parsed can be written.
        if let Ok(value) = self.traceparent().parse() {
            metadata.insert(TRACEPARENT, value);
        }
        let state = self.tracestate();
        if let (false, Ok(value)) = (state.is_empty(), state.parse()) {
            metadata.insert(TRACESTATE, value);
        }
    }

    /// `00-TRACE-SPAN-FLAGS`, in hexadecimal.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), self.0.trace_flags())
    }

    /// Empty where nobody added anything.
    pub fn tracestate(&self) -> String {
        self.0.trace_state().header()
    }

    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    pub fn span_id(&self) -> SpanId {
        self.0.span_id()
    }

    /// Whether somebody records the trace.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    pub(super) fn inner(&self) -> &SpanContext {
        &self.0
    }

    /// One of this process. Its ids must not be zero.
    pub(super) fn own(inner: SpanContext) -> Self {
        TraceContext(inner)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// Digits in lower case, as the standard wants them.
fn hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let pairs = digits.as_bytes().chunks_exact(2);
    if digits.len() != 2 * N || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn state(text: &str) -> TraceState {
    let entries: Vec<&str> = text
        .split(',')
        .map(|entry| entry.trim_matches([' ', '\t']))
        .filter(|entry| !entry.is_empty())
        .collect();
    if text.len() > STATE_BYTES_MAX || entries.len() > STATE_ENTRIES_MAX {
        return TraceState::NONE;
    }
    let pairs: Option<Vec<_>> = entries.into_iter().map(|entry| entry.split_once('=')).collect();
    pairs.and_then(|pairs| TraceState::from_key_value(pairs).ok()).unwrap_or(TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_was_given_is_handed_on() {
        let context = TraceContext::parse(GIVEN, "vendor=a:b, other@sys=1").unwrap();
        assert_eq!(context.traceparent(), GIVEN);
        assert_eq!(context.tracestate(), "vendor=a:b,other@sys=1");
        assert!(context.is_sampled());
        let mut metadata = MetadataMap::new();
        context.insert_into(&mut metadata);
        assert_eq!(TraceContext::from_headers(&metadata.into_headers()), Some(context));
        let unsampled = GIVEN.replace("-01", "-00");
        assert!(!TraceContext::parse(&unsampled, "").unwrap().is_sampled());
    }

    #[test]
    fn flags_that_nobody_knows_are_not_handed_on_and_later_versions_are_read() {
        let of = |text: &str| TraceContext::parse(text, "").map(|context| context.traceparent());
        assert_eq!(of(&GIVEN.replace("-01", "-ff")), Some(GIVEN.replace("-01", "-03")));
        assert_eq!(of(&GIVEN.replacen("00", "cc", 1)).as_deref(), Some(GIVEN));
        assert_eq!(of(&format!("{}-what", GIVEN.replacen("00", "cc", 1))).as_deref(), Some(GIVEN));
    }

    #[test]
    fn what_is_ill_formed_is_ignored() {
        let ill_formed = [
            String::new(),
            GIVEN[..54].to_owned(),
            format!("{GIVEN}-"),
            format!("{GIVEN} "),
            GIVEN.to_uppercase(),
            GIVEN.replacen("00", "ff", 1),
            GIVEN.replacen("00", "0x", 1),
            GIVEN.replace('-', "_"),
            GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GIVEN.replace("4bf9", "+bf9"),
            GIVEN.replace("4bf9", "ä92"),
            format!("{}what", GIVEN.replacen("00", "cc", 1)),
        ];
        for text in ill_formed {
            assert_eq!(TraceContext::parse(&text, ""), None, "{text:?}");
        }
    }

    #[test]
    fn an_ill_formed_state_takes_only_itself_away() {
        let many: Vec<String> = (0..33).map(|number| format!("a{number}=1")).collect();
        for state in ["no pair", "Upper=1", "a=1,b", &format!("a={}", "x".repeat(600)), &many.join(",")] {
            let context = TraceContext::parse(GIVEN, state).unwrap();
            assert_eq!(
                (context.traceparent().as_str(), context.tracestate().as_str()),
                (GIVEN, ""),
                "{state}"
            );
        }
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::from_headers(&headers), None);
        for _ in 0..2 {
            headers.append(TRACEPARENT, GIVEN.parse().unwrap());
        }
        assert_eq!(TraceContext::from_headers(&headers), None);
    }
}
