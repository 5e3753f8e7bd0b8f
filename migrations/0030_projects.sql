-- Projects: who may use how much of the devices, and what the planner of jobs writes.

create table project (
    name text primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    share integer not null default 1 check (share between 1 and 1000000),
    device_quota integer check (device_quota >= 0),
    device_s_quota bigint check (device_s_quota >= 0),
    period_days integer not null default 30 check (period_days between 1 and 366),
    period_time timestamptz not null default clock_timestamp(),
    used_device_s double precision not null default 0 check (used_device_s >= 0),
    usage_device_s double precision not null default 0 check (usage_device_s >= 0),
    usage_time timestamptz not null default clock_timestamp(),
    create_time timestamptz not null default clock_timestamp()
);

insert into project (name) values ('default');

create trigger never_deleted before delete on project
    for each statement execute function refuse_change();

comment on table project is 'Whose searches and jobs they are, with its share and quotas.';
comment on column project.share is 'Weight against other projects that want devices.';
comment on column project.device_quota is 'Most devices at once; null for no limit.';
comment on column project.device_s_quota is 'Most device-seconds in a period; null for no limit.';
comment on column project.period_days is 'Length of the period that device_s_quota holds for.';
comment on column project.period_time is 'Begin of the present period, as of usage_time.';
comment on column project.used_device_s is 'Device-seconds of the period up to usage_time.';
comment on column project.usage_device_s is 'Device-seconds up to usage_time, older ones counting less; fair shares go by it.';

alter table search
    add column project text not null default 'default' references project (name),
    add column priority integer not null default 0 check (priority between -1000 and 1000);
comment on column search.priority is 'Higher goes first; its jobs have the same.';

-- Of a job that waits: what the planner thinks of it. The queue is served by rank, which
-- follows from priority and submission until the planner says otherwise: among jobs of a
-- priority supernets go first, since retrainings wait for them.
alter table job
    add column project text not null default 'default',
    add column planned_rank bigint,
    add column plan_reason text,
    add column preemption_count integer not null default 0 check (preemption_count >= 0),
    add column yield_epoch bigint,
    add column yield_for uuid,
    add column rank bigint not null generated always as (coalesce(
        planned_rank,
        (position << 10) - (priority::bigint << 44)
            - case when kind = 'supernet' then 1::bigint << 43 else 0 end)) stored,
    add column is_held boolean not null generated always as (coalesce(
        plan_reason in ('device_quota', 'quota_in_turn', 'device_time_quota'), false)) stored,
    add constraint job_yield_check check ((yield_epoch is null) = (yield_for is null));

-- Supernets had a priority of their own; they go first by rank now.
update job set priority = 0 where priority <> 0 and not imported;

comment on column job.project is 'That of its search, or of the search that a single retraining is of.';
comment on column job.priority is 'Higher goes first; that of its search.';
comment on column job.position is 'Order of creation; the queue is served in it where rank does not say otherwise.';
comment on column job.planned_rank is 'Where the planner puts a waiting job; null for where priority and position put it.';
comment on column job.plan_reason is 'Why the planner does not start a waiting job, where it is more than that devices are busy.';
comment on column job.preemption_count is 'Times that it was told to make way for another job.';
comment on column job.yield_epoch is 'Attempt that was told to save a checkpoint and make way for yield_for; means nothing for later ones.';
comment on column job.rank is 'The least is served first.';
comment on column job.is_held is 'Whether a quota keeps it from starting.';

-- The claim reads this from its front, and never those that are held.
drop index job_waiting;
create index job_waiting on job (is_held, rank) where waits;

alter table worker add column kept jsonb not null default '{}' check (jsonb_typeof(kept) = 'object');
comment on column worker.kept is 'Slots that the planner keeps for a waiting job: {device: job}.';

create or replace view dashboard.queue as
with fleet as (
    select count(*) filter (where last_seen_time > now() - interval '60 s') as present_count,
           count(*) filter (where last_seen_time > now() - interval '60 s' and schedule = 'ready') as ready_count
    from worker
), ready_device as (
    select worker.id as worker_id, device.name, device.memory_mib, coalesce(device.count, 1) as width
    from worker
    cross join lateral jsonb_to_recordset(worker.devices) as device (name text, memory_mib bigint, count integer)
    where worker.schedule = 'ready' and worker.last_seen_time > now() - interval '60 s'
), ready_shape as (
    -- Few rows, however many devices there are: each waiting job looks at all of them.
    select width, max(memory_mib) as memory_mib from ready_device group by width
), free_device as (
    select ready_device.worker_id, ready_device.memory_mib, ready_device.width
    from ready_device
    where not exists (
        select from attempt
        where attempt.worker_id = ready_device.worker_id and attempt.device = ready_device.name
            and attempt.end_time is null
    )
), waiting as (
    select row_number() over (order by job.is_held, job.rank) as queue_position,
           job.id, job.search_id, job.kind, job.label, job.priority, job.memory_mib, job.epoch, job.state_reason,
           case when job.run_after > now() then job.run_after end as run_after,
           case when job.avoid_until > now() then job.avoid_worker_id end as avoided_worker_id,
           case when job.avoid_until > now() then job.avoid_until end as avoid_until,
           job.create_time, job.device_count, job.project, job.plan_reason
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
           when waiting.device_count > coalesce((select max(width) from ready_shape), 0) then 'too_narrow'
           when waiting.memory_mib > coalesce(
               (select max(memory_mib) from ready_shape where width >= waiting.device_count), 0)
               then 'too_little_memory'
           when waiting.plan_reason is not null then waiting.plan_reason
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib and free_device.width >= waiting.device_count
                   and free_device.worker_id is distinct from waiting.avoided_worker_id
           ) then 'worker_free'
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib and free_device.width >= waiting.device_count
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
       waiting.device_count
from waiting cross join fleet
left join search on search.id = waiting.search_id;

comment on column dashboard.queue.reason is 'The nearest obstacle: held_back (until run_after_time), no_worker (none was heard of for 60 s), no_ready_worker (all are cordoned or draining), too_narrow (no slot of a ready worker has device_count devices), too_little_memory (no such slot has memory_mib), device_quota (its project has as many devices as it may), quota_in_turn (so it does for a job before it), device_time_quota (its project has used its device-hours), being_cleared (others make way for it), reserved (a slot is kept for it), would_delay (what is free is kept for others), worker_free (it is offered at that worker''s next call), keeps_away (only avoided_worker_id is free), devices_busy.';
comment on column dashboard.queue.project is 'Project that it belongs to.';
comment on column dashboard.queue.device_count is 'Devices that it trains on at once; slots of fewer are not offered the job.';

create view dashboard.projects as
select project.name as project,
       project.share,
       project.device_quota,
       project.device_s_quota / 3600.0::double precision as device_hours_quota,
       project.period_days,
       project.used_device_s / 3600.0 as used_device_hours,
       project.usage_device_s / 3600.0 as usage_device_hours,
       live.device_count as busy_device_count,
       waiting.job_count as queued_job_count
from project
left join lateral (
    select coalesce(sum(job.device_count), 0)::bigint as device_count
    from attempt join job on job.id = attempt.job_id
    where attempt.end_time is null and job.project = project.name
) live on true
left join lateral (
    select count(*) as job_count from job where job.waits and job.project = project.name
) waiting on true;

comment on view dashboard.projects is 'One row per project: what it may use and what it uses.';
comment on column dashboard.projects.project is 'Name of the project.';
comment on column dashboard.projects.share is 'Weight against other projects that want devices.';
comment on column dashboard.projects.device_quota is 'Most devices at once; null for no limit.';
comment on column dashboard.projects.device_hours_quota is 'Most device-hours in a period; null for no limit.';
comment on column dashboard.projects.period_days is 'Length of that period.';
comment on column dashboard.projects.used_device_hours is 'Device-hours of the present period, as of some seconds ago.';
comment on column dashboard.projects.usage_device_hours is 'Device-hours, older ones counting less, which fair shares go by; as of some seconds ago.';
comment on column dashboard.projects.busy_device_count is 'Devices that its jobs have.';
comment on column dashboard.projects.queued_job_count is 'Its jobs that wait.';

select grant_dashboard();
