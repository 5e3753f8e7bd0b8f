//! Spans for the daemon, among the frames.
//!
//! The trainer numbers its spans and knows nothing of traces: ids, endpoint and credentials are
//! the daemon's, which also ends what a trainer that dies leaves open.

use std::time::{Duration, SystemTime};

use cakes::frame::TrainerEvent;

use crate::TrainerError;
use crate::report::Reporter;

/// Tells the daemon also of spans.
#[derive(Debug)]
pub struct Spans<R> {
    inner: R,
    /// Those that have not ended, outermost first.
    open: Vec<u32>,
    last: u32,
}

impl<R: Reporter> Spans<R> {
    pub fn new(inner: R) -> Self {
        Spans { inner, open: Vec::new(), last: 0 }
    }

    fn begin_at(
        &mut self,
        name: &str,
        time: SystemTime,
        numbers: &[(&str, u64)],
    ) -> Result<(), TrainerError> {
        self.last += 1;
        let parent = self.open.last().copied();
        self.open.push(self.last);
        let number =
            |(key, value): &(&str, u64)| ((*key).to_owned(), i64::try_from(*value).unwrap_or(i64::MAX));
        self.inner.report(&TrainerEvent::SpanBegan {
            id: self.last,
            parent,
            name: name.to_owned(),
            time_ns: nanoseconds(time),
            attributes: numbers.iter().map(number).collect(),
        })
    }
}

impl<R: Reporter> Reporter for Spans<R> {
    fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
        self.inner.report(event)
    }

    fn note(&mut self, text: &str) {
        self.inner.note(text);
    }

    fn begin(&mut self, name: &str, numbers: &[(&str, u64)]) -> Result<(), TrainerError> {
        self.begin_at(name, SystemTime::now(), numbers)
    }

    fn end(&mut self) -> Result<(), TrainerError> {
        let Some(id) = self.open.pop() else { return Ok(()) };
        self.inner.report(&TrainerEvent::SpanEnded { id, time_ns: nanoseconds(SystemTime::now()) })
    }

    fn took(&mut self, name: &str, length: Duration, numbers: &[(&str, u64)]) -> Result<(), TrainerError> {
        let now = SystemTime::now();
        self.begin_at(name, now.checked_sub(length).unwrap_or(now), numbers)?;
        self.end()
    }
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(Vec<TrainerEvent>);

    impl Reporter for Told {
        fn report(&mut self, event: &TrainerEvent) -> Result<(), TrainerError> {
            self.0.push(event.clone());
            Ok(())
        }
    }

    #[test]
    fn each_span_stands_in_the_one_that_is_open() {
        let mut spans = Spans::new(Told::default());
        spans.begin("epoch", &[("cakes.epoch", 2)]).unwrap();
        spans.begin("training step", &[]).unwrap();
        spans.took("measure methods", Duration::from_secs(1), &[]).unwrap();
        spans.end().unwrap();
        spans.end().unwrap();
        spans.begin("validate", &[]).unwrap();
        let mut told = Vec::new();
        let mut began = Vec::new();
        for event in &spans.inner.0 {
            match event {
                TrainerEvent::SpanBegan { id, parent, name, time_ns, .. } => {
                    began.push(*time_ns);
                    told.push(format!("{name} {id} in {parent:?}"));
                }
                TrainerEvent::SpanEnded { id, .. } => told.push(format!("end of {id}")),
                other => panic!("{other:?}"),
            }
        }
        let expected = [
            "epoch 1 in None",
            "training step 2 in Some(1)",
            "measure methods 3 in Some(2)",
            "end of 3",
            "end of 2",
            "end of 1",
            "validate 4 in None",
        ];
        assert_eq!(told, expected);
        assert!(began[2] < began[0], "it began before what it is told in: {began:?}");
    }
}
