-- Attempts that train on slots of several workers: gangs. An attempt of one slot is as before, and
-- has no rows in the new tables.

-- Not generated from trainer_job: that would write the whole table anew, while nobody reads it. No job
-- of before may be spread.
alter table job add column spreads boolean not null default false;
comment on column job.spreads is 'Whether its devices may be of several slots, where none that is free has so many.';

alter table worker
    add column joins_gangs boolean not null default false,
    add column kept_since jsonb not null default '{}' check (jsonb_typeof(kept_since) = 'object');
comment on column worker.joins_gangs is 'Whether its slots may train with those of other workers.';
comment on column worker.kept_since is 'Since when each slot is kept for its job: {device: time}.';

alter table attempt
    add column member_count smallint not null default 1 check (member_count > 0),
    add column ended_by smallint check (ended_by >= 0);
comment on column attempt.member_count is 'Slots that train together; those of more than one are in attempt_member.';
comment on column attempt.worker_id is 'Who has it; of a gang the leader, member 0.';
comment on column attempt.ended_by is 'Member whose failure or silence ended it; null for none.';

-- Each member holds a lease of its own; the end of any of them ends the attempt.
alter table attempt_lease add column member smallint not null default 0 check (member >= 0);
alter table attempt_lease drop constraint attempt_lease_pkey, add primary key (job_id, member);
comment on table attempt_lease is 'One row per member of a live attempt; removed when the attempt ends.';

create table attempt_member (
    job_id uuid not null,
    epoch bigint not null check (epoch > 0),
    -- 0 leads.
    member smallint not null check (member >= 0),
    worker_id text not null,
    incarnation bigint not null check (incarnation > 0),
    device text not null,
    device_count integer not null check (device_count > 0),
    first_rank integer not null check (first_rank >= 0),
    -- Of the Acquire that was answered with it; null until one was.
    acquire_request_id uuid,
    state text not null default 'offered' check (state in ('offered', 'running', 'ended')),
    address text check (length(address) between 1 and 255),
    end_time timestamptz,
    primary key (job_id, epoch, member)
);
comment on table attempt_member is 'Slots of attempts that have several. All rows of an attempt are written with it, in one transaction.';
comment on column attempt_member.first_rank is 'The first of its ranks, one for each of device_count devices.';
comment on column attempt_member.address is 'Of member 0: where the ranks meet, host:port; null until it has told.';

-- A repeated Acquire finds its part.
create unique index attempt_member_acquire on attempt_member (worker_id, incarnation, acquire_request_id);
-- No slot has two parts at once, whatever the code does. Whoever asks for a job is looked for
-- here, too: it may come for its part.
create unique index attempt_member_slot on attempt_member (worker_id, device) where state <> 'ended';
-- Whether a machine is at fault is told by its newest ends.
create index attempt_member_end on attempt_member (worker_id, end_time) where member > 0;
create trigger never_deleted before delete on attempt_member
    for each statement execute function refuse_change();

-- The members end with their attempt, by whatever statement it ends, and the leader starts with
-- it. Attempts of one slot pay for a look at their own row.
create function members_follow() returns trigger language plpgsql as $$
begin
    update attempt_member set state = new.state, end_time = new.end_time
    where job_id = new.job_id and epoch = new.epoch and state <> 'ended'
        and (new.state = 'ended' or member = 0);
    return null;
end;
$$;
create trigger members_follow after update of state on attempt
    for each row when (new.member_count > 1 and new.state <> old.state)
    execute function members_follow();

-- What a slot that is kept for a gang asked for last. When all slots of the gang have asked a
-- moment ago, the attempt is made.
create table gang_wish (
    worker_id text not null,
    device text not null,
    job_id uuid not null,
    incarnation bigint not null check (incarnation > 0),
    request_id uuid not null,
    device_count integer not null check (device_count > 0),
    wish_time timestamptz not null default clock_timestamp(),
    primary key (worker_id, device)
) with (fillfactor = 50);
comment on table gang_wish is 'The last wish of each slot that was kept for a gang.';
create index gang_wish_job on gang_wish (job_id);

create view live_slot as
select job_id, epoch, 0::smallint as member, worker_id, device from attempt where end_time is null
union all
select job_id, epoch, member, worker_id, device from attempt_member where state <> 'ended' and member > 0;
comment on view live_slot is 'Slots that have a job.';

create or replace view dashboard.queue as
with fleet as (
    select count(*) filter (where last_seen_time > now() - interval '60 s') as present_count,
           count(*) filter (where last_seen_time > now() - interval '60 s' and schedule = 'ready') as ready_count
    from worker
), ready_device as (
    select worker.id as worker_id, worker.labels, worker.joins_gangs, device.name, device.memory_mib,
           coalesce(device.count, 1) as width
    from worker
    cross join lateral jsonb_to_recordset(worker.devices) as device (name text, memory_mib bigint, count integer)
    where worker.schedule = 'ready' and worker.last_seen_time > now() - interval '60 s'
), ready_shape as (
    -- What is asked for, and what has it: few rows, however many devices and jobs there are.
    -- Each waiting job looks at all of them.
    select asked.worker_labels, ready_device.width, max(ready_device.memory_mib) as memory_mib,
           coalesce(sum(ready_device.width) filter (where ready_device.joins_gangs), 0) as joined_width
    from (select distinct worker_labels from job where waits) asked
    join ready_device on ready_device.labels @> asked.worker_labels
    group by asked.worker_labels, ready_device.width
), free_device as (
    select ready_device.worker_id, ready_device.labels, ready_device.memory_mib, ready_device.width
    from ready_device
    where not exists (
        select from live_slot
        where live_slot.worker_id = ready_device.worker_id and live_slot.device = ready_device.name
    )
), waiting as (
    select row_number() over (order by job.is_held, job.rank) as queue_position,
           job.id, job.search_id, job.kind, job.label, job.priority, job.memory_mib, job.epoch, job.state_reason,
           case when job.run_after > now() then job.run_after end as run_after,
           case when job.avoid_until > now() then job.avoid_worker_id end as avoided_worker_id,
           case when job.avoid_until > now() then job.avoid_until end as avoid_until,
           job.create_time, job.device_count, job.project, job.plan_reason, job.worker_labels,
           job.spreads
    from job where job.waits
)
select waiting.queue_position,
       waiting.id as job_id,
       waiting.search_id,
       search.name as search_name,
       waiting.kind,
       waiting.label,
       waiting.priority,
       -- The obstacles of `cakes job explain`, in its order.
       case
           when waiting.run_after is not null then 'held_back'
           when fleet.present_count = 0 then 'no_worker'
           when fleet.ready_count = 0 then 'no_ready_worker'
           when not exists (
               select from ready_shape where ready_shape.worker_labels = waiting.worker_labels
           ) then 'no_labels'
           when waiting.device_count > coalesce(
               (select greatest(max(width), case when waiting.spreads then sum(joined_width) end)
                from ready_shape where ready_shape.worker_labels = waiting.worker_labels), 0)
               then 'too_narrow'
           when waiting.memory_mib > coalesce(
               (select max(memory_mib) from ready_shape
                where ready_shape.worker_labels = waiting.worker_labels
                    and (waiting.spreads or width >= waiting.device_count)), 0)
               then 'too_little_memory'
           when waiting.plan_reason is not null then waiting.plan_reason
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib and free_device.width >= waiting.device_count
                   and free_device.labels @> waiting.worker_labels
                   and free_device.worker_id is distinct from waiting.avoided_worker_id
           ) then 'worker_free'
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib and free_device.width >= waiting.device_count
                   and free_device.labels @> waiting.worker_labels
                   and free_device.worker_id = waiting.avoided_worker_id
           ) then 'keeps_away'
           else 'devices_busy'
       end as reason,
       waiting.state_reason,
       waiting.epoch as attempt_count,
       waiting.memory_mib,
       waiting.run_after as run_after_time,
       waiting.avoided_worker_id,
       waiting.avoid_until as avoid_until_time,
       waiting.create_time,
       extract(epoch from now() - waiting.create_time)::double precision as age_s,
       waiting.project,
       waiting.device_count,
       waiting.worker_labels
from waiting cross join fleet
left join search on search.id = waiting.search_id;

create or replace view dashboard.jobs as
select job.id as job_id,
       job.search_id,
       search.name as search_name,
       job.kind,
       job.label,
       job.task,
       job.architecture_digest,
       job.seed,
       job.priority,
       job.state,
       job.state_reason,
       job.epoch as attempt_count,
       coalesce(progress.step, job.furthest_step) as step,
       job.step_count,
       case when job.state = 'running' then progress.phase end as phase,
       case when job.state = 'running' then progress.samples_per_s end as samples_per_s,
       case when job.state = 'running' then progress.remaining_s end as remaining_s,
       attempt.worker_id,
       attempt.device,
       coalesce(result.quality, progress.quality) as quality,
       coalesce(result.quality_metric, progress.quality_metric) as quality_metric,
       result.param_count,
       result.mac_count,
       result.latency_ms,
       result.peak_memory_mib,
       result.train_duration_s,
       job.create_time,
       job.start_time,
       job.end_time,
       extract(epoch from coalesce(job.end_time, now()) - job.start_time)::double precision as duration_s,
       job.labels,
       case when attempt.member_count > 1 then array(
           select member.worker_id || ' ' || member.device from attempt_member member
           where member.job_id = attempt.job_id and member.epoch = attempt.epoch
           order by member.member
       ) end as slots
from job
left join search on search.id = job.search_id
left join job_progress progress on progress.job_id = job.id
left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
left join result on result.job_id = job.id and job.state = 'succeeded';

create or replace view dashboard.workers as
select worker.id as worker_id,
       worker.schedule,
       worker.last_seen_time <= now() - interval '60 s' as is_lost,
       worker.version,
       devices.device_count,
       live.busy_device_count,
       devices.gpu_count,
       devices.device_models,
       devices.memory_mib::bigint as memory_mib,
       worker.incarnation as start_count,
       worker.register_time,
       worker.last_seen_time,
       extract(epoch from now() - worker.last_seen_time)::double precision as silent_s
from worker
left join lateral (
    select count(*) as device_count,
           count(*) filter (where device.name like 'cuda%') as gpu_count,
           string_agg(distinct device.model, ', ' order by device.model) as device_models,
           sum(device.memory_mib) as memory_mib
    from jsonb_to_recordset(worker.devices) as device (name text, model text, memory_mib bigint)
) devices on true
left join lateral (
    select count(distinct live_slot.device) as busy_device_count
    from live_slot where live_slot.worker_id = worker.id
) live on true;

create or replace view dashboard.gpu_time as
select attempt.job_id,
       attempt.epoch as attempt_number,
       job.search_id,
       search.name as search_name,
       job.kind,
       slot.worker_id,
       slot.device,
       slot.device like 'cuda%' as is_gpu,
       attempt.end_time is null as is_running,
       attempt.end_reason,
       attempt.failure_class,
       greatest(attempt.last_step - attempt.resume_step, 0) as done_step_count,
       attempt.grant_time,
       attempt.start_time,
       attempt.end_time,
       coalesce(extract(epoch from coalesce(attempt.end_time, now()) - attempt.start_time), 0)::double precision
           as duration_s
from attempt
cross join lateral (
    select attempt.worker_id, attempt.device
    union all
    select member.worker_id, member.device
    from attempt_member member
    where attempt.member_count > 1 and member.job_id = attempt.job_id and member.epoch = attempt.epoch
        and member.member > 0
) slot
-- Every attempt has a job; joined like this, it is only read where it is asked for.
left join job on job.id = attempt.job_id
left join search on search.id = job.search_id
where not attempt.imported;

comment on column dashboard.queue.reason is 'The nearest obstacle: held_back (until run_after_time), no_worker (none was heard of for 60 s), no_ready_worker (all are cordoned or draining), no_labels (no ready worker has its worker_labels), too_narrow (no slot of such a worker has device_count devices, nor have all of them that may be spread over), too_little_memory (no such slot has memory_mib), device_quota (its project has as many devices as it may), quota_in_turn (so it does for a job before it), device_time_quota (its project has used its device-hours), being_cleared (others make way for it), reserved (a slot is kept for it), would_delay (what is free is kept for others), worker_free (it is offered at that worker''s next call), keeps_away (only avoided_worker_id is free), devices_busy.';
comment on column dashboard.jobs.worker_id is 'Worker of the last attempt, the leader of one on several slots; null before the first.';
comment on column dashboard.jobs.slots is 'Workers and devices of the last attempt, the leader''s first; null unless it is on several slots.';
comment on view dashboard.gpu_time is 'One row per attempt of a job and slot that it trains on, mostly one: which device it held, and for how long. Sums are device time; CPUs are devices too.';

select grant_dashboard();
