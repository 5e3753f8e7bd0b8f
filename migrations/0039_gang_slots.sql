-- When each slot of an attempt was let go: a member that is lost behind the last step leaves before
-- its attempt ends, and its device is others' from then on.

-- By attempt: read like this it costs an attempt of one slot a look at its own row. Who asks for the
-- slots of a worker, or for all that are taken now, reads live_slot.
create view attempt_slot as
select attempt.job_id, attempt.epoch, slot.member, slot.worker_id, slot.device,
       attempt.grant_time, attempt.start_time, slot.end_time,
       attempt.end_time as attempt_end_time, attempt.state, attempt.end_reason, attempt.failure_class,
       attempt.resume_step, attempt.last_step
from attempt
cross join lateral (
    select 0::smallint as member, attempt.worker_id, attempt.device, attempt.end_time
    union all
    select member.member, member.worker_id, member.device, member.end_time
    from attempt_member member
    where attempt.member_count > 1 and member.job_id = attempt.job_id and member.epoch = attempt.epoch
        and member.member > 0
) slot
where not attempt.imported;
comment on view attempt_slot is 'One row per slot of an attempt that was made here, with the end of its own.';

create or replace view dashboard.gpu_time as
select slot.job_id,
       slot.epoch as attempt_number,
       job.search_id,
       search.name as search_name,
       job.kind,
       slot.worker_id,
       slot.device,
       slot.device like 'cuda%' as is_gpu,
       slot.end_time is null as is_running,
       slot.end_reason,
       slot.failure_class,
       greatest(slot.last_step - slot.resume_step, 0) as done_step_count,
       slot.grant_time,
       slot.start_time,
       slot.end_time,
       coalesce(extract(epoch from coalesce(slot.end_time, now()) - slot.start_time), 0)::double precision
           as duration_s
from attempt_slot slot
-- Every attempt has a job; joined like this, it is only read where it is asked for.
left join job on job.id = slot.job_id
left join search on search.id = job.search_id;

comment on column dashboard.gpu_time.is_running is 'Whether the attempt has the device now.';
comment on column dashboard.gpu_time.end_reason is 'succeeded, failed, cancelled, handed back, lease expired, offer expired or superseded; null while the attempt lives.';
comment on column dashboard.gpu_time.end_time is 'When the device was let go: with the attempt, or, of one on several slots, before it if its worker was lost behind the last step; null while the attempt has it.';
