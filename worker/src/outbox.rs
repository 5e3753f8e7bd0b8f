//! Metrics and log lines on their way to the coordinator.
//!
//! Entries are numbered from 1 without gaps. A batch that was handed out stays
//! as it is until it is acknowledged: a repeated report carries the same
//! entries under the same numbers, so the coordinator can tell a duplicate from
//! a lie. Nothing is ever dropped. What bounds the memory is that the daemon
//! stops reading the trainer's log while [`Outbox::is_full`], and that an
//! attempt whose reports are not acknowledged is stopped (self-fencing).

use std::collections::VecDeque;

use cakes_proto::v1::report_entry::Entry;
use cakes_proto::v1::{Environment, LogLine, MetricPoint, ReportEntry};

/// Entries of one report at most.
const BATCH_ENTRIES_MAX: usize = 500;
/// Size of one report, about.
const BATCH_BYTES_MAX: usize = 128 << 10;
/// From here on the trainer's log is not read until the coordinator caught up.
const ENTRIES_MAX: usize = 20_000;
const BYTES_MAX: usize = 8 << 20;

/// What one report carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of the first entry, or of the next one if there are none.
    pub first_seq: u64,
    pub entries: Vec<ReportEntry>,
}

/// The coordinator's acknowledgement does not fit what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeqError {
    #[error("the coordinator acknowledged entry {ack_seq}, but only {last_seq} were written")]
    Future { ack_seq: u64, last_seq: u64 },
    #[error("the coordinator holds {ack_seq} entries but had acknowledged {acked}, which are gone here")]
    Lost { ack_seq: u64, acked: u64 },
}

/// Entries that are not acknowledged yet.
#[derive(Debug, Default)]
pub struct Outbox {
    acked: u64,
    entries: VecDeque<ReportEntry>,
    /// So many of the first entries were handed out and must not change.
    in_flight: usize,
    bytes: usize,
}

impl Outbox {
    /// Number of the last entry that was acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Number of the last entry that was written.
    pub fn last_seq(&self) -> u64 {
        self.acked + self.entries.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Enough for a report of full size.
    pub fn has_full_batch(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// So much that the trainer's log should wait.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MAX || self.bytes >= BYTES_MAX
    }

    pub fn push_log(&mut self, line: LogLine) {
        self.push(Entry::Log(line));
    }

    pub fn push_metric(&mut self, point: MetricPoint) {
        self.push(Entry::Metric(point));
    }

    pub fn push_environment(&mut self, environment: Environment) {
        self.push(Entry::Environment(environment));
    }

    fn push(&mut self, entry: Entry) {
        let entry = ReportEntry { entry: Some(entry) };
        self.bytes += size(&entry);
        self.entries.push_back(entry);
    }

    /// The next entries to report. The same ones until they are acknowledged.
    pub fn batch(&mut self) -> Batch {
        if self.in_flight == 0 {
            self.in_flight = self.batch_length();
        }
        Batch {
            first_seq: self.acked + 1,
            entries: self.entries.iter().take(self.in_flight).cloned().collect(),
        }
    }

    fn batch_length(&self) -> usize {
        let mut bytes = 0;
        let fits = |entry: &&ReportEntry| {
            bytes += size(entry);
            bytes <= BATCH_BYTES_MAX
        };
        let length = self.entries.iter().take(BATCH_ENTRIES_MAX).take_while(fits).count();
        // An entry alone may be larger than a batch should be.
        length.max(1).min(self.entries.len())
    }

    /// Everything up to `ack_seq` is stored for good.
    ///
    /// # Errors
    /// The number was never written, or is behind an earlier acknowledgement:
    /// the coordinator lost entries, and they cannot be sent again.
    pub fn acknowledge(&mut self, ack_seq: u64) -> Result<(), SeqError> {
        if ack_seq > self.last_seq() {
            return Err(SeqError::Future { ack_seq, last_seq: self.last_seq() });
        }
        let Some(count) = ack_seq.checked_sub(self.acked) else {
            return Err(SeqError::Lost { ack_seq, acked: self.acked });
        };
        for entry in self.entries.drain(..count as usize) {
            self.bytes -= size(&entry);
        }
        self.acked = ack_seq;
        self.in_flight = 0;
        Ok(())
    }
}

fn size(entry: &ReportEntry) -> usize {
    prost::Message::encoded_len(entry) + size_of::<ReportEntry>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { time: None, attempt: 1, text: text.to_owned(), ..LogLine::default() }
    }

    #[test]
    fn a_repeated_batch_is_the_same_although_entries_were_added() {
        let mut outbox = Outbox::default();
        outbox.push_log(line("a"));
        let first = outbox.batch();
        outbox.push_log(line("b"));
        assert_eq!(outbox.batch(), first);
        outbox.acknowledge(1).unwrap();
        let second = outbox.batch();
        assert_eq!((second.first_seq, second.entries.len()), (2, 1));
    }

    #[test]
    fn a_coordinator_that_lost_entries_is_noticed() {
        let mut outbox = Outbox::default();
        outbox.push_log(line("a"));
        outbox.batch();
        outbox.acknowledge(1).unwrap();
        assert_eq!(outbox.acknowledge(0), Err(SeqError::Lost { ack_seq: 0, acked: 1 }));
        assert_eq!(outbox.acknowledge(2), Err(SeqError::Future { ack_seq: 2, last_seq: 1 }));
    }

    #[test]
    fn batches_stay_small_and_an_entry_larger_than_a_batch_still_goes_out() {
        let mut outbox = Outbox::default();
        outbox.push_log(line(&"x".repeat(2 * BATCH_BYTES_MAX)));
        outbox.push_log(line("next"));
        assert_eq!(outbox.batch().entries.len(), 1);
        outbox.acknowledge(1).unwrap();
        assert_eq!(outbox.batch().entries.len(), 1);
    }

    proptest! {
        /// A coordinator that stores what is next, loses replies and asks again
        /// for what it misses ends up with every entry once, in order.
        #[test]
        fn every_entry_is_stored_once_and_in_order(moves in proptest::collection::vec(0_u8..4, 1..200)) {
            let mut outbox = Outbox::default();
            let mut stored: Vec<ReportEntry> = Vec::new();
            let mut written = 0_u64;
            for step in moves {
                match step {
                    0 | 1 => {
                        written += 1;
                        outbox.push_log(line(&written.to_string()));
                    }
                    reply => {
                        let batch = outbox.batch();
                        let known = stored.len() as u64 + 1 - batch.first_seq;
                        stored.extend(batch.entries.into_iter().skip(known as usize));
                        // With 2 the answer is lost on its way.
                        if reply == 3 {
                            outbox.acknowledge(stored.len() as u64).unwrap();
                        }
                    }
                }
            }
            while !outbox.is_empty() {
                let batch = outbox.batch();
                let known = stored.len() as u64 + 1 - batch.first_seq;
                stored.extend(batch.entries.into_iter().skip(known as usize));
                outbox.acknowledge(stored.len() as u64).unwrap();
            }
            let texts: Vec<String> = stored.iter().map(|entry| match &entry.entry {
                Some(Entry::Log(line)) => line.text.clone(),
                _ => String::new(),
            }).collect();
            prop_assert_eq!(texts, (1..=written).map(|seq| seq.to_string()).collect::<Vec<_>>());
            prop_assert_eq!(outbox.bytes, 0);
        }
    }
}
