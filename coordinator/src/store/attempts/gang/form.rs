//! Makes an attempt on several slots: all of them, or nothing.

use cakes_proto::ids::LeaseToken;
use sqlx::PgConnection;

use super::wishes::{Slot, any_is_busy, fresh};
use crate::core::assign::Candidate;
use crate::core::gang::{Seat, seats};
use crate::core::lease::Policy;
use crate::store::error::{Error, failed};

/// Slots that make up a job's devices, the leader first.
#[derive(Clone, Debug)]
pub(in crate::store::attempts) struct Formed {
    pub job: Candidate,
    pub seats: Vec<(Seat, Slot)>,
}

/// The members of a waiting job whose row is locked; `None` while some of its slots have not
/// asked, or one of them is not free.
pub(in crate::store::attempts) async fn form(
    connection: &mut PgConnection,
    job: &Candidate,
) -> Result<Option<Formed>, Error> {
    let wishing = fresh(connection, job.id).await?;
    if any_is_busy(connection, &wishing).await? {
        return Ok(None);
    }
    Ok(seats(wishing, job.device_count).map(|seats| Formed { job: job.clone(), seats }))
}

/// Writes the members of attempts that were written before, in this transaction, with their
/// leaders: S1, so nobody sees half of one. S13: each has a lease.
pub(in crate::store::attempts) async fn write(
    connection: &mut PgConnection,
    policy: &Policy,
    formed: &[(LeaseToken, Formed)],
) -> Result<(), Error> {
    if formed.is_empty() {
        return Ok(());
    }
    let parts: Vec<(LeaseToken, &Seat, &Slot)> = formed
        .iter()
        .flat_map(|(token, formed)| formed.seats.iter().map(move |(seat, slot)| (*token, seat, slot)))
        .collect();
    let jobs: Vec<_> = parts.iter().map(|(token, ..)| token.job.0).collect();
    let epochs: Vec<i64> = parts.iter().map(|(token, ..)| token.epoch).collect();
    let members: Vec<i16> = parts.iter().map(|(_, seat, _)| seat.member).collect();
    let counts: Vec<i16> = parts.iter().map(|(_, seat, _)| seat.member_count).collect();
    let workers: Vec<String> = parts.iter().map(|(.., slot)| slot.worker.clone()).collect();
    let incarnations: Vec<i64> = parts.iter().map(|(.., slot)| slot.incarnation).collect();
    let devices: Vec<String> = parts.iter().map(|(.., slot)| slot.device.clone()).collect();
    let device_counts: Vec<i32> = parts.iter().map(|(_, seat, _)| seat.device_count).collect();
    let first_ranks: Vec<i32> = parts.iter().map(|(_, seat, _)| seat.first_rank).collect();
    sqlx::query!(
        "with part as (
             select * from unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::smallint[], $5::text[],
                     $6::bigint[], $7::text[], $8::integer[], $9::integer[])
                 as part (job_id, epoch, member, member_count, worker_id, incarnation, device, device_count,
                     first_rank)
         ), counted as (
             update attempt set member_count = part.member_count
             from part
             where part.member = 0 and attempt.job_id = part.job_id and attempt.epoch = part.epoch
         ), offered as (
             insert into attempt_lease (job_id, epoch, member, deadline)
             select job_id, epoch, member, clock_timestamp() + make_interval(secs => $10)
             from part where member > 0
         ), answered as (
             delete from gang_wish using part
             where gang_wish.job_id = part.job_id and gang_wish.worker_id = part.worker_id
                 and gang_wish.device = part.device
         )
         insert into attempt_member
             (job_id, epoch, member, worker_id, incarnation, device, device_count, first_rank)
         select job_id, epoch, member, worker_id, incarnation, device, device_count, first_rank from part",
        &jobs,
        &epochs,
        &members,
        &counts,
        &workers,
        &incarnations,
        &devices,
        &device_counts,
        &first_ranks,
        policy.offer_ttl.as_secs_f64()
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("record the members of a gang"))
}
