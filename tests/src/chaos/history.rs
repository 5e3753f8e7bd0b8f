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
    /// Of a gang each member that was told anything, the leader too.
    pub parts: BTreeMap<u32, PartTold>,
}

/// What one member of an attempt was told.
#[derive(Clone, Debug, Default)]
pub struct PartTold {
    pub worker: String,
    pub nonces: BTreeSet<String>,
    pub failed: bool,
    /// When it first knew that its part is over.
    pub over: Option<Instant>,
    /// Calls that were refused since its lease is lost.
    pub refused: u64,
    /// As of the attempt.
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
            let member = request.token().map_or(0, |token| token.member);
            inner.attempts.entry(grant).or_default().wrote(member, sent);
        }
    }
}

impl AttemptTold {
    fn part(&mut self, member: u32) -> &mut PartTold {
        self.parts.entry(member).or_default()
    }

    /// A write was taken that only a live attempt may make.
    fn wrote(&mut self, member: u32, sent: Instant) {
        self.last_write = self.last_write.max(Some(sent));
        let part = self.part(member);
        part.last_write = part.last_write.max(Some(sent));
    }

    fn is_gang(&self) -> bool {
        self.parts.keys().any(|member| *member > 0)
    }

    /// Members of a gang of whom a write was taken that they had sent when they, or the leader, knew
    /// that it was over.
    pub fn zombies(&self) -> Vec<u32> {
        let led_until = self.parts.get(&0).and_then(|part| part.over);
        let is_zombie = |part: &PartTold| {
            let over = part.over.into_iter().chain(led_until).min();
            over.is_some_and(|over| part.last_write.is_some_and(|sent| sent > over))
        };
        let zombies = self.parts.iter().filter(|(_, part)| self.is_gang() && is_zombie(part));
        zombies.map(|(member, _)| *member).collect()
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
        let part = attempt.part(token.member);
        if !part.worker.is_empty() && part.worker != told.worker {
            let (first, second, member) = (part.worker.clone(), &told.worker, token.member);
            let twice = format!("member {member} of {grant:?} was granted to {first} and to {second}");
            self.contradictions.push(twice);
            return;
        }
        part.worker.clone_from(&told.worker);
        part.nonces.insert(token.nonce.clone());
        if token.member == 0 {
            attempt.worker.clone_from(&told.worker);
        }
        attempt.nonces.insert(token.nonce.clone());
        attempt.granted.get_or_insert_with(Instant::now);
    }

    fn fold(&mut self, told: &Told, fact: &Fact) {
        if let Fact::Granted { token: Some(token) } = fact {
            return self.granted(told, token);
        }
        let Some((token, grant)) = told.token.as_ref().and_then(|token| Some((token, grant_of(token)?)))
        else {
            return;
        };
        let is_of_leader = match (fact, &told.call) {
            (Fact::Stored { .. }, Call::Report { entry_count, .. }) => *entry_count > 0,
            (Fact::Committed | Fact::Completed, _) => true,
            _ => false,
        };
        if token.member > 0 && is_of_leader {
            let said = told.call.kind();
            self.contradictions.push(format!("{said:?} of member {} of {grant:?} was taken", token.member));
        }
        let attempt = self.attempts.entry(grant).or_default();
        match (fact, &told.call) {
            (Fact::Started { .. }, _) => attempt.started = true,
            (Fact::Stored { ack_seq, .. }, _) => attempt.acked_seq = attempt.acked_seq.max(*ack_seq),
            (Fact::Committed, Call::Commit { key, step }) => {
                attempt.commits.insert((key.clone(), *step));
            }
            (Fact::Completed, _) => attempt.completed = true,
            // Behind the last step a member may go alone.
            (Fact::Failed, _) => attempt.failed |= token.member == 0,
            _ => {}
        }
        if matches!(fact, Fact::Started { .. } | Fact::Stored { .. } | Fact::Committed) {
            attempt.wrote(token.member, told.sent_at);
        }
        let part = attempt.part(token.member);
        part.failed |= *fact == Fact::Failed;
        if matches!(fact, Fact::Completed | Fact::Failed) {
            part.over.get_or_insert_with(Instant::now);
        }
    }

    /// Whoever has lost its lease has lost it for ever.
    fn lost(&mut self, token: &LeaseToken) {
        let Some(grant) = grant_of(token) else { return };
        let part = self.attempts.entry(grant).or_default().part(token.member);
        part.over.get_or_insert_with(Instant::now);
        part.refused += 1;
    }
}

impl Recorder for History {
    fn told(&self, told: Told) {
        let mut inner = self.inner();
        inner.count(&told);
        match (&told.answer, &told.token) {
            (Ok(fact), _) => inner.fold(&told, fact),
            (Err(Refusal::LeaseLost { .. }), Some(token)) => inner.lost(token),
            (Err(_), _) => {}
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

    #[test]
    fn a_member_that_has_lost_its_lease_has_lost_it_for_ever() {
        let (before, now) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let after = now + Duration::from_millis(1);
        let part = |over: Option<Instant>, last_write: Instant| PartTold {
            over,
            last_write: Some(last_write),
            ..PartTold::default()
        };
        let gang = |parts: [PartTold; 3]| AttemptTold {
            parts: (0..).zip(parts).collect(),
            ..AttemptTold::default()
        };
        // One may go behind the last step; the others stay.
        let well = gang([part(None, after), part(Some(now), before), part(None, after)]);
        assert!(well.zombies().is_empty());
        let zombie = gang([part(None, after), part(Some(now), after), part(None, after)]);
        assert_eq!(zombie.zombies(), [1]);
        let led = gang([part(Some(now), before), part(None, before), part(None, after)]);
        assert_eq!(led.zombies(), [2], "the leader's end is that of all");
    }
}
