//! What every client and every fake worker was told.
//!
//! Answers are folded as they come: what is kept is what the checker compares
//! with the database, and what a repeated call needs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use cakes_proto::v1::LeaseToken;
use uuid::Uuid;

use crate::fake::{Call, Fact, Recorder, Refusal, Request, Told};

/// Requests that are kept to be sent again.
const KEPT_REQUESTS: usize = 4000;

/// A job and the number of a grant.
pub type Grant = (Uuid, i64);

/// What the holder of one grant was told.
#[derive(Clone, Debug, Default)]
pub struct AttemptTold {
    pub worker: String,
    pub nonces: BTreeSet<String>,
    /// When it first knew of its grant.
    pub granted: Option<Instant>,
    pub started: bool,
    pub acked_seq: u64,
    /// Keys and steps of checkpoints.
    pub commits: BTreeSet<(String, u64)>,
    pub completed: bool,
    pub failed: bool,
    /// When it sent the last write that was taken, of those that only a live
    /// attempt may make.
    pub last_write: Option<Instant>,
}

/// What a client was told about one request id.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// Searches, or jobs.
    pub is_search: bool,
    /// More than one is a fault.
    pub ids: BTreeSet<String>,
}

/// A wish that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Cancel,
    Pause,
    Resume,
    Retry,
}

/// How many answers of each kind there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub ok: u64,
    pub unknown: u64,
    pub lease_lost: u64,
    pub gap: u64,
    pub other: u64,
    /// Grants and answered reports by coordinator.
    pub grants: BTreeMap<usize, u64>,
    pub reports: BTreeMap<usize, u64>,
    pub registrations: u64,
}

/// A daemon or a trainer that was killed while it held a grant.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    pub grant: Grant,
    pub at: SystemTime,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: BTreeMap<Grant, AttemptTold>,
    submissions: BTreeMap<String, Submission>,
    wishes: BTreeMap<Uuid, Vec<Wish>>,
    answers: Answers,
    requests: VecDeque<Request>,
    kills: Vec<Kill>,
    /// What contradicts itself without a look at the database.
    contradictions: Vec<String>,
}

/// Takes note of everything.
#[derive(Debug, Default)]
pub struct History(Mutex<Inner>);

/// The job and epoch that a token names.
pub fn grant_of(token: &LeaseToken) -> Option<Grant> {
    Some((token.job_id.parse().ok()?, token.epoch.cast_signed()))
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answers(&self) -> Answers {
        self.inner().answers.clone()
    }

    pub fn attempts(&self) -> BTreeMap<Grant, AttemptTold> {
        self.inner().attempts.clone()
    }

    pub fn attempt(&self, grant: Grant) -> Option<AttemptTold> {
        self.inner().attempts.get(&grant).cloned()
    }

    pub fn submissions(&self) -> BTreeMap<String, Submission> {
        self.inner().submissions.clone()
    }

    pub fn wishes(&self) -> BTreeMap<Uuid, Vec<Wish>> {
        self.inner().wishes.clone()
    }

    pub fn kills(&self) -> Vec<Kill> {
        self.inner().kills.clone()
    }

    pub fn contradictions(&self) -> Vec<String> {
        self.inner().contradictions.clone()
    }

    /// A submission was acknowledged.
    pub fn submitted(&self, request_id: &str, is_search: bool, id: &str) {
        let mut inner = self.inner();
        let submission = inner.submissions.entry(request_id.to_owned()).or_default();
        submission.is_search = is_search;
        submission.ids.insert(id.to_owned());
    }

    /// A wish was acknowledged.
    pub fn wished(&self, job: Uuid, wish: Wish) {
        self.inner().wishes.entry(job).or_default().push(wish);
    }

    pub fn killed(&self, grant: Grant) {
        self.inner().kills.push(Kill { grant, at: SystemTime::now() });
    }

    /// Some of the requests that were sent, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.inner().requests.iter().cloned().collect()
    }

    /// A request that was sent again was taken.
    pub fn took_again(&self, request: &Request, sent: Instant) {
        let writes = matches!(request, Request::Start(_) | Request::Report(_) | Request::Commit(_));
        let grant = request.token().and_then(grant_of);
        if let (true, Some(grant)) = (writes, grant) {
            let mut inner = self.inner();
            let attempt = inner.attempts.entry(grant).or_default();
            attempt.last_write = attempt.last_write.max(Some(sent));
        }
    }
}

impl Inner {
    fn count(&mut self, told: &Told) {
        let answers = &mut self.answers;
        match &told.answer {
            Ok(fact) => {
                answers.ok += 1;
                match fact {
                    Fact::Granted { token: Some(_) } => {
                        *answers.grants.entry(told.server).or_default() += 1;
                    }
                    Fact::Stored { .. } => *answers.reports.entry(told.server).or_default() += 1,
                    Fact::Registered { .. } => answers.registrations += 1,
                    _ => {}
                }
            }
            Err(Refusal::Unknown { .. }) => answers.unknown += 1,
            Err(Refusal::LeaseLost { .. }) => answers.lease_lost += 1,
            Err(Refusal::Gap { .. }) => answers.gap += 1,
            Err(_) => answers.other += 1,
        }
    }

    fn granted(&mut self, told: &Told, token: &LeaseToken) {
        let Some(grant) = grant_of(token) else {
            self.contradictions.push(format!("a grant names no job: {token:?}"));
            return;
        };
        let attempt = self.attempts.entry(grant).or_default();
        if !attempt.worker.is_empty() && attempt.worker != told.worker {
            let (first, second) = (attempt.worker.clone(), &told.worker);
            self.contradictions.push(format!("{grant:?} was granted to {first} and to {second}"));
            return;
        }
        attempt.worker.clone_from(&told.worker);
        attempt.nonces.insert(token.nonce.clone());
        attempt.granted.get_or_insert_with(Instant::now);
    }

    fn fold(&mut self, told: &Told, fact: &Fact) {
        if let Fact::Granted { token: Some(token) } = fact {
            return self.granted(told, token);
        }
        let Some(grant) = told.token.as_ref().and_then(grant_of) else { return };
        let attempt = self.attempts.entry(grant).or_default();
        match (fact, &told.call) {
            (Fact::Started { .. }, _) => attempt.started = true,
            (Fact::Stored { ack_seq, .. }, _) => attempt.acked_seq = attempt.acked_seq.max(*ack_seq),
            (Fact::Committed, Call::Commit { key, step }) => {
                attempt.commits.insert((key.clone(), *step));
            }
            (Fact::Completed, _) => attempt.completed = true,
            (Fact::Failed, _) => attempt.failed = true,
            _ => {}
        }
        if matches!(fact, Fact::Started { .. } | Fact::Stored { .. } | Fact::Committed) {
            attempt.last_write = attempt.last_write.max(Some(told.sent_at));
        }
    }
}

impl Recorder for History {
    fn told(&self, told: Told) {
        let mut inner = self.inner();
        inner.count(&told);
        if let Ok(fact) = &told.answer {
            inner.fold(&told, fact);
        }
    }

    fn sent(&self, request: &dyn Fn() -> Request) {
        let mut inner = self.inner();
        if inner.requests.len() == KEPT_REQUESTS {
            inner.requests.pop_front();
        }
        let request = request();
        inner.requests.push_back(request);
    }
}

/// Writes of an attempt that were taken although they were sent when a later
/// grant of the job was known already.
pub fn late_writes(attempts: &BTreeMap<Grant, AttemptTold>) -> Vec<Grant> {
    let is_late = |(grant, told): &(&Grant, &AttemptTold)| {
        let (job, epoch) = **grant;
        let later = attempts.range((job, epoch + 1)..(job, i64::MAX)).filter_map(|(_, later)| later.granted);
        later.min().is_some_and(|granted| told.last_write.is_some_and(|sent| sent > granted))
    };
    attempts.iter().filter(is_late).map(|(grant, _)| *grant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_write_behind_a_later_grant_is_late() {
        let (job, now) = (Uuid::from_u128(7), Instant::now());
        let told = |granted: Option<Instant>, last_write: Option<Instant>| AttemptTold {
            granted,
            last_write,
            ..AttemptTold::default()
        };
        let after = now + Duration::from_secs(1);
        let mut attempts = BTreeMap::from([
            ((job, 1), told(Some(now), Some(now))),
            ((job, 2), told(Some(after), Some(after))),
            ((Uuid::from_u128(8), 1), told(Some(now), Some(after + Duration::from_secs(9)))),
        ]);
        assert!(late_writes(&attempts).is_empty());
        attempts.insert((job, 1), told(Some(now), Some(after + Duration::from_millis(1))));
        assert_eq!(late_writes(&attempts), [(job, 1)]);
    }
}
