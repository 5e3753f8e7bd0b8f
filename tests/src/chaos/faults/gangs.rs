//! Faults of jobs on slots of several workers: one member is lost, so all of them are, and all go on
//! together from the checkpoint.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use uuid::Uuid;

use super::workers::signal;
use super::{Chaos, PATIENCE, Proof, end_of, seen};
use crate::chaos::fleet::Fleet;
use crate::chaos::gang::{Crew, LABEL};
use crate::chaos::history::Grant;
use crate::chaos::plant::{Trainer, worker_name};
use crate::chaos::schedule::Random;

/// Slots of two workers must be free at one moment, while others are broken.
const MEETING_PATIENCE: Duration = Duration::from_secs(120);

/// A gang that trains behind a checkpoint, with something left to do.
#[derive(Clone, Debug)]
struct Gang {
    grant: Grant,
    saved_step: i64,
    /// The leader first.
    workers: Vec<String>,
}

/// Waits for one, and submits it where there is none.
async fn training(chaos: &Chaos, crew: Crew) -> Option<Gang> {
    let statement = "select job.id, job.epoch, job.checkpoint_step, array(
            select member.worker_id from attempt_member member
            where member.job_id = job.id and member.epoch = job.epoch order by member.member
        ) from job join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
        where job.state = 'running' and attempt.member_count > 1 and job.worker_labels ->> $1::text = $2
            and job.checkpoint_step > 0 and attempt.last_step > attempt.resume_step
            and attempt.last_step * 4 <= job.step_count * 3
        limit 1";
    seen(MEETING_PATIENCE, async || {
        chaos.clients.keep_gang(crew).await?;
        let query = sqlx::query_as(statement).bind(LABEL).bind(crew.label());
        let found: Option<(Uuid, i64, i64, Vec<String>)> = query.fetch_optional(&chaos.plant.pool).await?;
        Ok(found.map(|(job, epoch, saved_step, workers)| Gang { grant: (job, epoch), saved_step, workers }))
    })
    .await
}

/// How the attempt of a gang ended that was lost, as soon as no member has a lease any more.
async fn lost(chaos: &Chaos, gang: &Gang) -> Option<String> {
    let end = seen(PATIENCE, async || end_of(&chaos.plant.pool, gang.grant).await).await?;
    let leases = "select count(*) from attempt_lease where job_id = $1 and epoch = $2";
    let gone = seen(PATIENCE, async || {
        let query = sqlx::query_scalar(leases).bind(gang.grant.0).bind(gang.grant.1);
        let left: i64 = query.fetch_one(&chaos.plant.pool).await?;
        Ok((left == 0).then_some(()))
    });
    gone.await?;
    (end.end_reason != "succeeded").then_some(end.end_reason)
}

/// The step that the job's next gang goes on from, once it trains: not before the checkpoint. `None`
/// where the job ends without.
async fn resumed(chaos: &Chaos, gang: &Gang) -> Option<i64> {
    let statement = "select (
            select resume_step from attempt
            where job_id = $1 and epoch > $2 and member_count > 1 and start_time is not null
                and resume_step >= $3 and last_step > resume_step
            order by epoch limit 1
        ), end_time is not null from job where id = $1";
    let found: Option<Option<i64>> = seen(MEETING_PATIENCE, async || {
        let query = sqlx::query_as(statement).bind(gang.grant.0).bind(gang.grant.1).bind(gang.saved_step);
        let (step, has_ended): (Option<i64>, bool) = query.fetch_one(&chaos.plant.pool).await?;
        Ok((step.is_some() || has_ended).then_some(step))
    })
    .await;
    found.flatten()
}

fn proof(what: &str, end: &str, gang: &Gang, step: i64) -> String {
    let workers = gang.workers.join(" and ");
    format!("{what}: the attempt of {workers} ended by '{end}', the next gang goes on from step {step}")
}

fn trainer_of(chaos: &Chaos, worker: usize, gang: &Gang) -> Option<Trainer> {
    let mut trainers = chaos.plant.trainers(worker).into_iter();
    trainers.find(|trainer| (trainer.job, trainer.epoch) == gang.grant)
}

/// F42.
pub(super) async fn worker_killed(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let Some(gang) = training(chaos, Crew::Real).await else { return Ok(None) };
    let numbers = 0..chaos.plant.workers.len();
    let members: Vec<usize> = numbers.filter(|number| gang.workers.contains(&worker_name(*number))).collect();
    if members.is_empty() {
        return Ok(None);
    }
    let worker = members[random.below(members.len() as u64) as usize];
    // The daemon of the first worker is broken by others.
    let is_daemon = worker > 0 && random.once_in(2);
    let what = if is_daemon {
        let killed = chaos.plant.kill_worker(worker).await?;
        // Back before its lease runs out, or behind it.
        let ttl = chaos.plant.sizes.lease_ttl;
        tokio::time::sleep(if random.once_in(2) { ttl / 4 } else { ttl * 2 }).await;
        chaos.plant.start_worker(worker).await?;
        if !killed {
            return Ok(None);
        }
        format!("daemon {} killed", worker_name(worker))
    } else {
        let Some(trainer) = trainer_of(chaos, worker, &gang) else { return Ok(None) };
        signal(trainer.pid, Signal::SIGKILL);
        format!("trainer of {} killed", worker_name(worker))
    };
    let Some(end) = lost(chaos, &gang).await else { return Ok(None) };
    let none_left = seen(PATIENCE, async || {
        Ok(members.iter().all(|member| trainer_of(chaos, *member, &gang).is_none()).then_some(()))
    });
    if none_left.await.is_none() {
        return Ok(None);
    }
    Ok(resumed(chaos, &gang).await.map(|step| proof(&what, &end, &gang, step)))
}

/// F43.
pub(super) async fn fake_killed(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let Some(gang) = training(chaos, Crew::Fakes).await else { return Ok(None) };
    let member = random.below(gang.workers.len() as u64) as usize;
    let Some(number) = gang.workers.get(member).and_then(|name| Fleet::number(name)) else { return Ok(None) };
    let killed = chaos.fleet.kill(number);
    let ttl = chaos.plant.sizes.lease_ttl;
    tokio::time::sleep(if random.once_in(2) { ttl / 4 } else { ttl * 2 }).await;
    chaos.fleet.start(number)?;
    let Some(end) = lost(chaos, &gang).await.filter(|_| killed == Some(gang.grant)) else { return Ok(None) };
    let what = format!("member {member} killed");
    Ok(resumed(chaos, &gang).await.map(|step| proof(&what, &end, &gang, step)))
}

/// F44. The others still reach it: only its lease runs out.
pub(super) async fn follower_cut_off(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let Some(gang) = training(chaos, Crew::Fakes).await else { return Ok(None) };
    let member = 1 + random.below(gang.workers.len().saturating_sub(1) as u64) as usize;
    let Some(number) = gang.workers.get(member).and_then(|name| Fleet::number(name)) else { return Ok(None) };
    chaos.fleet.silence(number, true);
    let end = lost(chaos, &gang).await;
    chaos.fleet.silence(number, false);
    let Some(end) = end else { return Ok(None) };
    let refused = seen(PATIENCE, async || {
        let told = chaos.history.attempt(gang.grant);
        let refused = told.and_then(|told| Some(told.parts.get(&u32::try_from(member).ok()?)?.refused));
        Ok(refused.filter(|refused| *refused > 0))
    });
    let Some(refused) = refused.await else { return Ok(None) };
    let what = format!("member {member} cut off, {refused} of its late calls refused");
    Ok(resumed(chaos, &gang).await.map(|step| proof(&what, &end, &gang, step)))
}
