//! Grants waiting jobs to workers that ask.
//!
//! ```text
//! lock workers ─► earlier grants of the same requests ─► take the front of the queue
//!              ─► assign ─► within quotas? ─► write grants ─► commit
//! ```
//!
//! Where somebody has data at hand, more of the front is looked at, and what was assigned is
//! taken then: whoever else grants meanwhile finds all others. A slot that is kept for a job
//! that trains on more devices leaves its wish instead, and the last one makes the gang
//! ([`super::gang`]).

use std::collections::{BTreeMap, BTreeSet};

use cakes::job::TrainerJob;
use cakes::labels::Labels;
use cakes_proto::ids::{JobId, LeaseToken, Nonce, WorkerId};
use cakes_telemetry::trace::TraceContext;
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use tracing::instrument;
use uuid::Uuid;

use super::gang::{self, Collected, Formed, Slot};
use super::grant_rows::{self, GrantRow, Grants, Reach, Wanted};
use super::quotas::Rooms;
use super::together::{Answers, Locks, only};
use super::{CheckpointRef, artifact_prefix};
use crate::core::assign::{Candidate, OVERTAKE_MAX, Wish, assign};
use crate::core::gang::Seat;
use crate::core::lease::Policy;
use crate::core::worker::{Device, Schedule};
use crate::store::error::{Error, corrupt, failed};
use crate::store::traces::trace_from_columns;
use crate::store::workers::{self, Current};

/// A worker's wish for a job.
#[derive(Clone, Debug)]
pub struct Acquisition {
    pub worker: WorkerId,
    pub incarnation: i64,
    /// A repetition gets the first grant.
    pub request_id: Uuid,
    /// The free device.
    pub device: Device,
    /// Paths of data sets that lie ready on its machine, as they stand in jobs.
    pub data_at_hand: Vec<String>,
}

/// A job, offered to one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub token: LeaseToken,
    /// For the trainer, in the domain's JSON form.
    pub trainer_job_json: String,
    /// `None` for a fresh start.
    pub resume_from: Option<CheckpointRef>,
    /// The final checkpoint of the supernet that a fresh start takes its weights from.
    pub start_from: Option<CheckpointRef>,
    /// Where this attempt alone may write in the artifact store.
    pub artifact_prefix: String,
    /// Whether the worker said that it has the job's data at hand.
    pub has_data_at_hand: bool,
    /// None outside of any trace.
    pub wait: Option<Wait>,
    /// Which part of the job's devices the slot has; `None` where it has all of them.
    pub seat: Option<Seat>,
}

/// The time of a job in the queue, for its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// What queued the job.
    pub trace: TraceContext,
    /// When it was queued, or its last attempt ended.
    pub since: DateTime<Utc>,
}

/// Grants the first waiting job that fits the device, or one like it whose data are at hand
/// ([`crate::core::assign`]); `None` if there is none,
/// if the worker is to take no more, or if the request's grant has ended.
///
/// # Errors
/// The caller is not the current start of its daemon.
#[instrument(skip_all, fields(worker = %wish.worker, device = wish.device.name), err(level = "debug"))]
pub async fn acquire(pool: &PgPool, policy: &Policy, wish: &Acquisition) -> Result<Option<Grant>, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin grants"))?;
    let answers = perform(&mut transaction, policy, &[wish], Locks::Wait).await?;
    transaction.commit().await.map_err(failed("commit grants"))?;
    only(answers).unwrap_or(Err(Error::StaleIncarnation { current: 0 }))
}

/// The same for many workers.
pub(super) async fn perform(
    connection: &mut PgConnection,
    policy: &Policy,
    wishes: &[&Acquisition],
    locks: Locks,
) -> Result<Answers<Option<Grant>>, Error> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let mut batch = Batch {
        wishes,
        answers: wishes.iter().map(|_| None).collect(),
        free: Vec::new(),
        silent: BTreeSet::new(),
        kept: BTreeMap::new(),
        labels: vec![Labels::default(); wishes.len()],
    };
    batch.check_workers(connection, policy, locks).await?;
    batch.find_earlier(connection, locks).await?;
    batch.grant(connection, policy).await?;
    Ok(batch.answers)
}

/// Wishes, and what each is told.
struct Batch<'a> {
    wishes: &'a [&'a Acquisition],
    answers: Answers<Option<Grant>>,
    /// Places of wishes that may be granted.
    free: Vec<usize>,
    /// Workers of which it is to be noted that they live.
    silent: BTreeSet<&'a str>,
    /// Jobs that slots are kept for, by places of wishes.
    kept: BTreeMap<usize, Uuid>,
    /// Of the workers, by places of wishes.
    labels: Vec<Labels>,
}

impl Batch<'_> {
    /// Refuses older starts. Of equal requests only the first is looked at.
    async fn check_workers(
        &mut self,
        connection: &mut PgConnection,
        policy: &Policy,
        locks: Locks,
    ) -> Result<(), Error> {
        let ids: BTreeSet<&str> = self.wishes.iter().map(|wish| wish.worker.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let known = workers::lock_all(connection, &ids, locks).await?;
        // Exact to a twelfth of what makes a worker count as lost, as for reports.
        let silence_s = policy.lease_ttl.as_secs_f64() / 12.0;
        let mut seen = BTreeSet::new();
        for (place, wish) in self.wishes.iter().enumerate() {
            let found = known.get(&wish.worker);
            self.answers[place] = match found {
                None if locks == Locks::PassOver => continue,
                None => Some(Err(Error::StaleIncarnation { current: 0 })),
                Some(Current { incarnation, .. }) if *incarnation != wish.incarnation => {
                    Some(Err(Error::StaleIncarnation { current: *incarnation }))
                }
                Some(current) => {
                    if current.silent_s >= silence_s {
                        self.silent.insert(wish.worker.as_str());
                    }
                    if seen.insert((&wish.worker, wish.request_id)) {
                        self.free.push(place);
                        self.labels[place].clone_from(&current.labels);
                        self.kept.extend(current.kept.get(&wish.device.name).map(|job| (place, *job)));
                        // Who is to take nothing gets it, unless it was granted before.
                        let takes_none = current.schedule != Schedule::Ready || current.is_suspect;
                        takes_none.then_some(Ok(None))
                    } else {
                        None
                    }
                }
            };
        }
        Ok(())
    }

    /// Answers repeated requests like the first time; those whose grant has ended
    /// get nothing.
    async fn find_earlier(&mut self, connection: &mut PgConnection, locks: Locks) -> Result<(), Error> {
        let asked = self.free.iter().map(|place| self.wishes[*place]);
        let earlier = grant_rows::earlier(connection, asked).await?;
        for row in earlier {
            let of_row = |place: &usize| {
                let wish = self.wishes[*place];
                wish.worker.as_str() == row.worker_id && wish.request_id == row.request
            };
            let Some(index) = self.free.iter().position(of_row) else { continue };
            let place = self.free.swap_remove(index);
            let grant = if row.state == "ended" {
                None
            } else {
                let token = LeaseToken {
                    job: JobId(row.job_id),
                    epoch: row.epoch,
                    nonce: nonce_from(&row.nonce)?,
                    member: row.member.unwrap_or(0),
                };
                let seat = match row.member {
                    None => None,
                    Some(_) => match gang::collect(connection, token, row.request, locks).await? {
                        Collected::Handed => Some(gang::seat(connection, token).await?),
                        Collected::Busy => {
                            self.answers[place] = None;
                            continue;
                        }
                        // The slot has its part, and nothing else beside it.
                        Collected::Gone => {
                            self.answers[place] = Some(Ok(None));
                            continue;
                        }
                    },
                };
                let row = grant_rows::read(connection, token).await?;
                Some(grant(token, row, self.wishes[place], seat))
            };
            self.answers[place] = Some(Ok(grant));
        }
        self.free.sort_unstable();
        self.free.retain(|place| self.answers[*place].is_none());
        Ok(())
    }

    async fn grant(&mut self, connection: &mut PgConnection, policy: &Policy) -> Result<(), Error> {
        let mut grants = Grants::default();
        let mut granted = Vec::new();
        let mut taken = Taken::default();
        for (place, job) in self.take(connection, &mut taken).await? {
            let wish = self.wishes[place];
            let token = fresh_token(&job)?;
            grants.add(token, wish, &job);
            granted.push((place, token, None));
        }
        let mut gangs = Vec::new();
        for formed in taken.gangs {
            let token = fresh_token(&formed.job)?;
            grants.add_gang(token, &formed);
            granted.extend(self.parts(token, &formed));
            gangs.push((token, formed));
        }
        let rows = grants.write(connection, policy).await?;
        gang::write(connection, policy, &gangs).await?;
        for (place, token, seat) in granted {
            let row = rows.get(&token.job.0).cloned();
            let row =
                row.ok_or_else(|| corrupt(format!("the locked row of job {}", token.job), &"it is gone"))?;
            if seat.is_some() {
                // Nobody else sees it yet.
                gang::collect(connection, token, self.wishes[place].request_id, Locks::Wait).await?;
            }
            self.answers[place] = Some(Ok(Some(grant(token, row, self.wishes[place], seat))));
        }
        let left: Vec<usize> =
            self.free.iter().copied().filter(|place| self.answers[*place].is_none()).collect();
        for place in left {
            self.answers[place] = Some(Ok(None));
        }
        let alive = self.wishes.iter().zip(&self.answers);
        let alive: BTreeSet<&str> = alive
            .filter(|(_, answer)| matches!(answer, Some(Ok(_))))
            .map(|(wish, _)| wish.worker.as_str())
            .filter(|worker| self.silent.contains(worker))
            .collect();
        workers::see(connection, &alive.into_iter().collect::<Vec<_>>()).await
    }

    /// Those of the wishes whose slots are in a gang; the others collect their parts when they
    /// ask again.
    fn parts(&self, token: LeaseToken, formed: &Formed) -> Vec<(usize, LeaseToken, Option<Seat>)> {
        let place = |(seat, slot): &(Seat, Slot)| {
            let place = self.free.iter().copied().find(|place| slot.is_of(self.wishes[*place]))?;
            Some((place, LeaseToken { member: seat.member, ..token }, Some(*seat)))
        };
        formed.seats.iter().filter_map(place).collect()
    }

    /// Takes jobs from the front of the queue: one per wish, as far as they and the quotas of
    /// their projects go.
    async fn take(
        &self,
        connection: &mut PgConnection,
        taken: &mut Taken,
    ) -> Result<Vec<(usize, Candidate)>, Error> {
        let mut places = self.free.clone();
        let mut found = self.take_kept(connection, &mut places, taken).await?;
        while !places.is_empty() {
            let picked = self.pick(connection, &places, taken).await?;
            places.clear();
            for (place, job) in picked {
                if taken.rooms.admit(connection, &job).await? {
                    found.push((place, job));
                } else {
                    // The wish is served by another project.
                    taken.closed.push(job.project);
                    places.push(place);
                }
            }
        }
        Ok(found)
    }

    /// Gives slots that are kept for a job to that job. A slot whose job is not there any
    /// more is like any other; one that is kept for a part of a job gets nothing else.
    async fn take_kept(
        &self,
        connection: &mut PgConnection,
        places: &mut Vec<usize>,
        taken: &mut Taken,
    ) -> Result<Vec<(usize, Candidate)>, Error> {
        let mut found = Vec::new();
        let mut parts = Vec::new();
        let mut gangs: BTreeMap<Uuid, Candidate> = BTreeMap::new();
        for place in places.iter().filter(|place| self.kept.contains_key(place)) {
            let Some(job) = self.kept.get(place).filter(|job| !taken.jobs.contains(job)) else { continue };
            let wish = self.wish(*place);
            let Some(job) = grant_rows::claim_kept(connection, *job, &wish).await? else {
                if gang::is_kept_together(connection, *job, wish.device_count).await? {
                    parts.push(*place);
                }
                continue;
            };
            if job.device_count > wish.device_count {
                gang::note(connection, job.id, self.wishes[*place]).await?;
                parts.push(*place);
                gangs.insert(job.id, job);
            } else if taken.rooms.admit(connection, &job).await? {
                taken.jobs.push(job.id);
                found.push((*place, job));
            }
        }
        // Behind all wishes of this transaction.
        for job in gangs.into_values().filter(|job| !taken.jobs.contains(&job.id)).collect::<Vec<_>>() {
            let Some(formed) = gang::form(connection, &job).await? else { continue };
            if taken.rooms.admit(connection, &job).await? {
                taken.jobs.push(job.id);
                taken.gangs.push(formed);
            }
        }
        places.retain(|place| !parts.contains(place) && found.iter().all(|(of, _)| of != place));
        Ok(found)
    }

    /// For each place the job that [`assign`] gives it and that nobody has.
    async fn pick(
        &self,
        connection: &mut PgConnection,
        places: &[usize],
        taken: &mut Taken,
    ) -> Result<Vec<(usize, Candidate)>, Error> {
        let wishes: Vec<Wish> = places.iter().map(|place| self.wish(*place)).collect();
        let Some(memory_mib) = wishes.iter().map(|wish| wish.memory_mib).max() else {
            return Ok(Vec::new());
        };
        let device_count = wishes.iter().map(|wish| wish.device_count).max().unwrap_or(1);
        let labels: Vec<&Labels> = wishes.iter().map(|wish| wish.labels).collect();
        let looks_ahead = wishes.iter().any(|wish| !wish.data_at_hand.is_empty());
        let (reach, ahead) = if looks_ahead { (Reach::Look, OVERTAKE_MAX) } else { (Reach::Take, 0) };
        let limit = i64::try_from(wishes.len()).unwrap_or(i64::MAX).saturating_add(ahead);
        let (labels, except, closed) = (&labels, &taken.jobs, &taken.closed);
        let wanted = Wanted { memory_mib, device_count, labels, worker: None, limit, except, closed };
        let front = grant_rows::front(connection, &wanted, reach).await?;
        let mut is_all = i64::try_from(front.len()).is_ok_and(|found| found < limit);
        let mut chosen = assign(&wishes, &front);
        if looks_ahead {
            let jobs: Vec<&Candidate> = chosen.iter().flatten().map(|index| &front[*index]).collect();
            let got = grant_rows::take(connection, &jobs).await?;
            for choice in &mut chosen {
                // Somebody else was quicker.
                if choice.is_some_and(|index| !got.contains(&front[index].id)) {
                    *choice = None;
                    is_all = false;
                }
            }
        }
        taken.jobs.extend(chosen.iter().flatten().map(|index| front[*index].id));
        let mut found = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let job = match chosen[index] {
                Some(chosen) => Some(front[chosen].clone()),
                None if is_all => None,
                // What fits it stands farther behind, or is behind what somebody else has taken.
                None => {
                    let next = Wanted {
                        memory_mib: wish.memory_mib,
                        device_count: wish.device_count,
                        labels: &[wish.labels],
                        worker: Some(wish.worker),
                        limit: 1,
                        except: &taken.jobs,
                        closed: &taken.closed,
                    };
                    grant_rows::front(connection, &next, Reach::Take).await?.into_iter().next()
                }
            };
            if let Some(job) = job {
                taken.jobs.push(job.id);
                found.push((places[index], job));
            }
        }
        Ok(found)
    }

    fn wish(&self, place: usize) -> Wish<'_> {
        let Acquisition { worker, device, data_at_hand, .. } = self.wishes[place];
        Wish {
            worker: worker.as_str(),
            memory_mib: i64::try_from(device.memory_mib).unwrap_or(i64::MAX),
            device_count: i32::try_from(device.count).unwrap_or(i32::MAX),
            labels: &self.labels[place],
            data_at_hand,
        }
    }
}

/// What the grants of a transaction have used up.
#[derive(Default)]
struct Taken {
    jobs: Vec<Uuid>,
    /// Projects that have no room for the next of their jobs.
    closed: Vec<String>,
    rooms: Rooms,
    /// Jobs on several slots.
    gangs: Vec<Formed>,
}

fn grant(token: LeaseToken, row: GrantRow, wish: &Acquisition, seat: Option<Seat>) -> Grant {
    let reference =
        |key, step, manifest| Some(CheckpointRef { key: key?, step: step?, manifest_sha256: manifest? });
    let supernet = reference(row.supernet_key, row.supernet_step, row.supernet_manifest);
    let is_at_hand = |path: String| wish.data_at_hand.contains(&path);
    let has_data_at_hand =
        !wish.data_at_hand.is_empty() && TrainerJob::data_path(&row.trainer_job).is_some_and(is_at_hand);
    Grant {
        token,
        trainer_job_json: row.trainer_job,
        // Its own checkpoint holds what it has made of them.
        start_from: supernet.filter(|_| row.key.is_none()),
        resume_from: reference(row.key, row.step, row.manifest),
        artifact_prefix: artifact_prefix(token),
        has_data_at_hand,
        wait: trace_from_columns(row.traceparent.as_deref(), row.tracestate.as_deref())
            .zip(row.queued_at)
            .map(|(trace, since)| Wait { trace, since }),
        seat,
    }
}

/// Of the next attempt at a job, as its leader holds it.
fn fresh_token(job: &Candidate) -> Result<LeaseToken, Error> {
    Ok(LeaseToken { job: JobId(job.id), epoch: job.epoch + 1, nonce: fresh_nonce()?, member: 0 })
}

fn fresh_nonce() -> Result<Nonce, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(Nonce(bytes))
}

pub(in crate::store) fn nonce_from(bytes: &[u8]) -> Result<Nonce, Error> {
    let bytes = bytes.try_into().map_err(|_| corrupt("the nonce of an attempt", &"it has not 16 bytes"))?;
    Ok(Nonce(bytes))
}
