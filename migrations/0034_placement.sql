-- Where jobs may run, when they are wanted to be done, and what they may cost.

alter table worker add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object');
comment on column worker.labels is 'What its operator labelled it with: {key: value}.';

alter table search
    add column worker_labels jsonb not null default '{}' check (jsonb_typeof(worker_labels) = 'object'),
    add column deadline timestamptz,
    add column cost_limit_device_s bigint check (cost_limit_device_s > 0);
comment on column search.cost_limit_device_s is 'Most device-seconds that each of its jobs may take; null for no limit.';
comment on column search.worker_labels is 'What workers must be labelled with to get its jobs; its jobs have the same.';
comment on column search.deadline is 'When its jobs are wanted to be done; null for no such time.';

alter table job
    add column worker_labels jsonb not null default '{}' check (jsonb_typeof(worker_labels) = 'object'),
    add column deadline timestamptz,
    add column cost_limit_device_s bigint check (cost_limit_device_s > 0);
comment on column job.cost_limit_device_s is 'Most device-seconds that its attempts may take together before it is paused; null for no limit.';
comment on column job.worker_labels is 'What workers must be labelled with to get it; those of its search.';
comment on column job.deadline is 'When it is wanted to be done, as its search; null for no such time.';

-- Device-seconds that the ended attempts of a job took.
create function taken_device_s(job) returns bigint stable language sql begin atomic
    select (coalesce(sum(extract(epoch from attempt.end_time - attempt.grant_time)), 0)
        * $1.device_count)::bigint
    from attempt where attempt.job_id = $1.id and attempt.end_time is not null;
end;

create or replace view dashboard.queue as
with fleet as (
    select count(*) filter (where last_seen_time > now() - interval '60 s') as present_count,
           count(*) filter (where last_seen_time > now() - interval '60 s' and schedule = 'ready') as ready_count
    from worker
), ready_device as (
    select worker.id as worker_id, worker.labels, device.name, device.memory_mib, coalesce(device.count, 1) as width
    from worker
    cross join lateral jsonb_to_recordset(worker.devices) as device (name text, memory_mib bigint, count integer)
    where worker.schedule = 'ready' and worker.last_seen_time > now() - interval '60 s'
), ready_shape as (
    -- What is asked for, and what has it: few rows, however many devices and jobs there are.
    -- Each waiting job looks at all of them.
    select asked.worker_labels, ready_device.width, max(ready_device.memory_mib) as memory_mib
    from (select distinct worker_labels from job where waits) asked
    join ready_device on ready_device.labels @> asked.worker_labels
    group by asked.worker_labels, ready_device.width
), free_device as (
    select ready_device.worker_id, ready_device.labels, ready_device.memory_mib, ready_device.width
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
           job.create_time, job.device_count, job.project, job.plan_reason, job.worker_labels
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
               (select max(width) from ready_shape
                where ready_shape.worker_labels = waiting.worker_labels), 0)
               then 'too_narrow'
           when waiting.memory_mib > coalesce(
               (select max(memory_mib) from ready_shape
                where ready_shape.worker_labels = waiting.worker_labels and width >= waiting.device_count), 0)
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

comment on column dashboard.queue.reason is 'The nearest obstacle: held_back (until run_after_time), no_worker (none was heard of for 60 s), no_ready_worker (all are cordoned or draining), no_labels (no ready worker has its worker_labels), too_narrow (no slot of such a worker has device_count devices), too_little_memory (no such slot has memory_mib), device_quota (its project has as many devices as it may), quota_in_turn (so it does for a job before it), device_time_quota (its project has used its device-hours), being_cleared (others make way for it), reserved (a slot is kept for it), would_delay (what is free is kept for others), worker_free (it is offered at that worker''s next call), keeps_away (only avoided_worker_id is free), devices_busy.';
comment on column dashboard.queue.worker_labels is 'What workers must be labelled with to get it.';
