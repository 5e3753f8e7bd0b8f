//! Metrics by their names, and what each of them means.

use std::array;
use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter as Counted;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge as Measured;
use prometheus_client::metrics::histogram::Histogram as Spread;
use prometheus_client::registry::{Metric, Registry as Registered};

use crate::trace;

/// How the values of a metric behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Counts of values below bounds, their sum and their number.
    Histogram,
}

/// What a reader of a metric has to know.
#[derive(Clone, Debug)]
pub struct Description {
    /// As in queries; of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: String,
    pub kind: Kind,
    pub labels: Vec<&'static str>,
    pub meaning: &'static str,
}

impl Description {
    /// The reference page of these metrics, under a title and what stands before its table.
    pub fn page(head: &str, described: &[Description]) -> String {
        let mut text = format!("{head}\n| metric | kind | labels | |\n|---|---|---|---|\n");
        for Description { name, kind, labels, meaning } in described {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            text += &format!("| `{name}` | {kind} | {} | {meaning} |\n", labels.join(", "));
        }
        text
    }
}

/// All metrics of a process.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Registered,
    described: Vec<Description>,
}

type Label = (&'static str, Cow<'static, str>);

fn labels<const N: usize, V: Into<Cow<'static, str>>>(
    names: [&'static str; N],
    values: [V; N],
) -> [Label; N] {
    let mut values = values.map(Into::into);
    array::from_fn(|at| (names[at], std::mem::take(&mut values[at])))
}

/// Something that is counted.
#[derive(Clone, Debug, Default)]
pub struct Counter(Counted);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }
}

/// Something that is counted, apart by its labels.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize> {
    names: [&'static str; N],
    family: Family<[Label; N], Counted>,
}

impl<const N: usize> Counters<N> {
    /// Of no registry yet.
    pub(crate) fn new(names: [&'static str; N]) -> Self {
        Counters { names, family: Family::default() }
    }

    /// `values` in the order of the labels; each has few that it can be.
    pub fn add(&self, values: [impl Into<Cow<'static, str>>; N], count: u64) {
        self.family.get_or_create(&labels(self.names, values)).inc_by(count);
    }
}

type Number = Measured<f64, AtomicU64>;

/// A value of now.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Number);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    pub fn add(&self, value: f64) {
        self.0.inc_by(value);
    }
}

/// Values of now, apart by their labels.
#[derive(Clone, Debug)]
pub struct Gauges<const N: usize> {
    names: [&'static str; N],
    family: Family<[Label; N], Number>,
}

impl<const N: usize> Gauges<N> {
    pub fn set(&self, values: [impl Into<Cow<'static, str>>; N], value: f64) {
        self.family.get_or_create(&labels(self.names, values)).set(value);
    }

    pub fn add(&self, values: [impl Into<Cow<'static, str>>; N], value: f64) {
        self.family.get_or_create(&labels(self.names, values)).inc_by(value);
    }

    /// No value is known now.
    pub fn clear(&self) {
        self.family.clear();
    }
}

/// How values spread.
#[derive(Clone, Debug)]
pub struct Histogram(Spread);

impl Histogram {
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }
}

/// How values spread, apart by their labels.
#[derive(Clone, Debug)]
pub struct Histograms<const N: usize> {
    names: [&'static str; N],
    family: Family<[Label; N], Spread, Bounds>,
}

impl<const N: usize> Histograms<N> {
    pub fn observe(&self, values: [impl Into<Cow<'static, str>>; N], value: f64) {
        self.family.get_or_create(&labels(self.names, values)).observe(value);
    }
}

#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Spread> for Bounds {
    fn new_metric(&self) -> Spread {
        Spread::new(self.0.iter().copied())
    }
}

impl Registry {
    /// `name` ends with `_total`.
    pub fn counter(&mut self, name: &'static str, meaning: &'static str) -> Counter {
        let counter = Counter::default();
        self.add(name, Kind::Counter, &[], meaning, counter.0.clone());
        counter
    }

    /// `name` ends with `_total`.
    pub fn counters<const N: usize>(
        &mut self,
        name: &'static str,
        names: [&'static str; N],
        meaning: &'static str,
    ) -> Counters<N> {
        let counters = Counters::new(names);
        self.add(name, Kind::Counter, &names, meaning, counters.family.clone());
        counters
    }

    pub fn gauge(&mut self, name: &'static str, meaning: &'static str) -> Gauge {
        let gauge = Gauge::default();
        self.add(name, Kind::Gauge, &[], meaning, gauge.0.clone());
        gauge
    }

    pub fn gauges<const N: usize>(
        &mut self,
        name: &'static str,
        names: [&'static str; N],
        meaning: &'static str,
    ) -> Gauges<N> {
        let gauges = Gauges { names, family: Family::default() };
        self.add(name, Kind::Gauge, &names, meaning, gauges.family.clone());
        gauges
    }

    /// `bounds` grow.
    pub fn histogram(
        &mut self,
        name: &'static str,
        bounds: &'static [f64],
        meaning: &'static str,
    ) -> Histogram {
        let histogram = Histogram(Bounds(bounds).new_metric());
        self.add(name, Kind::Histogram, &[], meaning, histogram.0.clone());
        histogram
    }

    /// `bounds` grow.
    pub fn histograms<const N: usize>(
        &mut self,
        name: &'static str,
        names: [&'static str; N],
        bounds: &'static [f64],
        meaning: &'static str,
    ) -> Histograms<N> {
        let family = Family::new_with_constructor(Bounds(bounds));
        let histograms = Histograms { names, family };
        self.add(name, Kind::Histogram, &names, meaning, histograms.family.clone());
        histograms
    }

    /// What the system knows of this process, read when it is asked for.
    pub fn process(&mut self) {
        self.inner.register_collector(Box::new(crate::process::Process));
        self.described.extend(crate::process::descriptions());
    }

    /// What became of the spans of this process.
    pub fn traces(&mut self) {
        let counted = trace::counted();
        self.add(trace::NAME, Kind::Counter, &counted.names, trace::MEANING, counted.family.clone());
    }

    /// What there is, in the order in which it was made.
    pub fn descriptions(&self) -> &[Description] {
        &self.described
    }

    /// All values, in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.inner);
        text
    }

    fn add(
        &mut self,
        name: &'static str,
        kind: Kind,
        labels: &[&'static str],
        meaning: &'static str,
        metric: impl Metric,
    ) {
        let named = Description { name: name.to_owned(), kind, labels: labels.to_vec(), meaning };
        self.described.push(named);
        // The format adds both again.
        let meaning = meaning.strip_suffix('.').unwrap_or(meaning);
        self.inner.register(name.strip_suffix("_total").unwrap_or(name), meaning, metric);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_named_as_it_is_described() {
        let mut registry = Registry::default();
        let calls = registry.counters("calls_total", ["method"], "Calls.");
        let seconds = registry.histogram("call_seconds", &[0.1, 1.0], "How long they took.");
        let jobs = registry.gauges("jobs", ["state"], "Jobs.");
        calls.add(["a"], 2);
        seconds.observe(0.5);
        jobs.set([String::from("run\"ning")], 3.0);
        let text = registry.text();
        for line in [
            "# HELP calls_total Calls.",
            "# TYPE calls_total counter",
            "calls_total{method=\"a\"} 2",
            "# TYPE call_seconds histogram",
            "call_seconds_bucket{le=\"0.1\"} 0",
            "call_seconds_bucket{le=\"+Inf\"} 1",
            "jobs{state=\"run\\\"ning\"} 3.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        jobs.clear();
        assert!(!registry.text().contains("jobs{"), "{}", registry.text());
    }
}
