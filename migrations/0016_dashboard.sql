-- What dashboards read. The tables behind may change with any version; the names,
-- orders, types and meanings of these columns do not. docs/sql.md is made from the
-- comments.
create schema dashboard;

comment on schema dashboard is 'Stable views for people and dashboards; everything else in this database may change.';

-- Newest searches come first wherever they are listed.
create index search_create_time on search (create_time);

create view dashboard.searches as
select search.id as search_id,
       search.name,
       search.state,
       search.state_reason,
       case when search.spec -> 'backbone' ?| array['video_resnet', 'volume_resnet'] then 'classification'
           else 'segmentation' end as task,
       (select jsonb_object_keys(search.spec -> 'backbone') limit 1) as backbone,
       (select jsonb_object_keys(search.spec -> 'dataset') limit 1) as dataset,
       held.architecture_count,
       jobs.job_count,
       jobs.queued_job_count,
       jobs.running_job_count,
       jobs.succeeded_job_count,
       jobs.failed_job_count,
       (jobs.done_step_count + under_way.step_count)::bigint as done_step_count,
       jobs.step_count::bigint as step_count,
       coalesce((jobs.done_step_count + under_way.step_count) / nullif(jobs.step_count, 0), 0)::double precision
           as progress_share,
       jobs.best_quality,
       jobs.quality_metric,
       search.create_time,
       search.end_time,
       extract(epoch from coalesce(search.end_time, now()) - search.create_time)::double precision as duration_s
from search
left join lateral (
    select count(*) as job_count,
           count(*) filter (where job.state = 'queued') as queued_job_count,
           count(*) filter (where job.state in ('leased', 'running', 'cancelling', 'pausing')) as running_job_count,
           count(*) filter (where job.state = 'succeeded') as succeeded_job_count,
           count(*) filter (where job.state = 'failed') as failed_job_count,
           coalesce(sum(job.step_count) filter (where job.state = 'succeeded'), 0) as done_step_count,
           coalesce(sum(job.step_count), 0) as step_count,
           max(nullif(result.quality, 'NaN')) filter (where job.kind = 'retrain') as best_quality,
           max(result.quality_metric) as quality_metric
    from job
    left join result on result.job_id = job.id and job.state = 'succeeded'
    where job.search_id = search.id
) jobs on true
left join lateral (
    select coalesce(sum(least(progress.step, job.step_count)), 0) as step_count
    from job join job_progress progress on progress.job_id = job.id
    where job.search_id = search.id and job.state <> 'succeeded'
) under_way on true
left join lateral (
    select count(distinct digest) as architecture_count
    from search_architecture where search_architecture.search_id = search.id
) held on true;

comment on view dashboard.searches is 'One row per search: where it stands and how far its jobs are.';
comment on column dashboard.searches.search_id is 'Id of the search.';
comment on column dashboard.searches.name is 'Name that its owner chose; several searches may have one name.';
comment on column dashboard.searches.state is 'searching, retraining, succeeded, failed or cancelled.';
comment on column dashboard.searches.state_reason is 'Why it is in that state; empty where nothing has to be said.';
comment on column dashboard.searches.task is 'segmentation or classification.';
comment on column dashboard.searches.backbone is 'Family of its networks: encoder_decoder, video_resnet, volume_resnet, ...';
comment on column dashboard.searches.dataset is 'Kind of its data: folder, phantoms, arrays, videos, ...';
comment on column dashboard.searches.architecture_count is 'Distinct architectures that it holds, derived and for comparison.';
comment on column dashboard.searches.job_count is 'Jobs, ended ones included.';
comment on column dashboard.searches.queued_job_count is 'Jobs that wait for a device.';
comment on column dashboard.searches.running_job_count is 'Jobs that have a device, or are about to give it back.';
comment on column dashboard.searches.succeeded_job_count is 'Jobs that ended with a result.';
comment on column dashboard.searches.failed_job_count is 'Jobs that ended without a result after all their tries.';
comment on column dashboard.searches.done_step_count is 'Optimizer steps that its jobs have done; a succeeded job counts whole.';
comment on column dashboard.searches.step_count is 'Optimizer steps of all its jobs so far planned.';
comment on column dashboard.searches.progress_share is 'done_step_count over step_count, 0 to 1. Falls when the retrainings are planned.';
comment on column dashboard.searches.best_quality is 'Best quality of a single retraining, 0 to 1; null before the first result.';
comment on column dashboard.searches.quality_metric is 'Name of the quality: mean_dice or top1; null before the first result.';
comment on column dashboard.searches.create_time is 'When it was submitted.';
comment on column dashboard.searches.end_time is 'When its last job ended; null while one may still run.';
comment on column dashboard.searches.duration_s is 'Time from create_time to end_time, or to now.';

create view dashboard.jobs as
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
       extract(epoch from coalesce(job.end_time, now()) - job.start_time)::double precision as duration_s
from job
left join search on search.id = job.search_id
left join job_progress progress on progress.job_id = job.id
left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
left join result on result.job_id = job.id and job.state = 'succeeded';

comment on view dashboard.jobs is 'One row per job: one training, with its progress and its result.';
comment on column dashboard.jobs.job_id is 'Id of the job.';
comment on column dashboard.jobs.search_id is 'Search that it belongs to; null for a job that was submitted alone.';
comment on column dashboard.jobs.search_name is 'Name of that search.';
comment on column dashboard.jobs.kind is 'supernet or retrain.';
comment on column dashboard.jobs.label is 'What it is for: ''supernet'', ''budget 0.5 seed 1''.';
comment on column dashboard.jobs.task is 'segmentation or classification.';
comment on column dashboard.jobs.architecture_digest is 'Architecture that a retraining trains; null for a supernet.';
comment on column dashboard.jobs.seed is 'Seed of everything random in it, an unsigned 64-bit number.';
comment on column dashboard.jobs.priority is 'Higher goes first.';
comment on column dashboard.jobs.state is 'queued, leased, running, succeeded, failed, cancelling, cancelled, pausing or paused.';
comment on column dashboard.jobs.state_reason is 'Why it is in that state; for a job that waits again, how its last attempt ended.';
comment on column dashboard.jobs.attempt_count is 'Times that it was given to a worker.';
comment on column dashboard.jobs.step is 'Optimizer steps done; falls when an attempt goes on from a checkpoint.';
comment on column dashboard.jobs.step_count is 'Optimizer steps of the whole training.';
comment on column dashboard.jobs.phase is 'What the trainer is doing: training, validating, ...; null unless the job is running.';
comment on column dashboard.jobs.samples_per_s is 'Speed of the training as last reported; null unless the job is running.';
comment on column dashboard.jobs.remaining_s is 'Estimated time to the end; null while unknown and unless the job is running.';
comment on column dashboard.jobs.worker_id is 'Worker of the last attempt; null before the first.';
comment on column dashboard.jobs.device is 'Device of the last attempt: cpu, cuda:0.';
comment on column dashboard.jobs.quality is 'Quality of the result, or else of the last validation, 0 to 1; null before the first.';
comment on column dashboard.jobs.quality_metric is 'Name of the quality: mean_dice or top1.';
comment on column dashboard.jobs.param_count is 'Parameters of the trained network; null without a result.';
comment on column dashboard.jobs.mac_count is 'Multiply-accumulates of one patch; null without a result.';
comment on column dashboard.jobs.latency_ms is 'Median time of a forward pass over one patch at batch 1 on the device; null for supernets and without a result.';
comment on column dashboard.jobs.peak_memory_mib is 'Most memory that the training took; null without a result.';
comment on column dashboard.jobs.train_duration_s is 'Time that the successful attempt trained; null without a result.';
comment on column dashboard.jobs.create_time is 'When it was queued for the first time.';
comment on column dashboard.jobs.start_time is 'When its first attempt started; null before.';
comment on column dashboard.jobs.end_time is 'When it succeeded, failed or was cancelled; null before.';
comment on column dashboard.jobs.duration_s is 'Time from start_time to end_time, or to now, waiting between attempts included; null before the start.';

create view dashboard.queue as
with fleet as (
    select count(*) filter (where last_seen_time > now() - interval '60 s') as present_count,
           count(*) filter (where last_seen_time > now() - interval '60 s' and schedule = 'ready') as ready_count
    from worker
), ready_device as (
    select worker.id as worker_id, device.name, device.memory_mib
    from worker cross join lateral jsonb_to_recordset(worker.devices) as device (name text, memory_mib bigint)
    where worker.schedule = 'ready' and worker.last_seen_time > now() - interval '60 s'
), free_device as (
    select ready_device.worker_id, ready_device.memory_mib
    from ready_device
    where not exists (
        select from attempt
        where attempt.worker_id = ready_device.worker_id and attempt.device = ready_device.name
            and attempt.end_time is null
    )
), waiting as (
    select row_number() over (order by job.priority desc, job.position) as queue_position,
           job.id, job.search_id, job.kind, job.label, job.priority, job.memory_mib, job.epoch, job.state_reason,
           case when job.run_after > now() then job.run_after end as run_after,
           case when job.avoid_until > now() then job.avoid_worker_id end as avoided_worker_id,
           case when job.avoid_until > now() then job.avoid_until end as avoid_until,
           job.create_time
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
           when waiting.memory_mib > coalesce((select max(memory_mib) from ready_device), 0) then 'too_little_memory'
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib
                   and free_device.worker_id is distinct from waiting.avoided_worker_id
           ) then 'worker_free'
           when exists (
               select from free_device
               where free_device.memory_mib >= waiting.memory_mib
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
       extract(epoch from now() - waiting.create_time)::double precision as age_s
from waiting cross join fleet
left join search on search.id = waiting.search_id;

comment on view dashboard.queue is 'Jobs that wait, in the order in which they are served, and what each waits for.';
comment on column dashboard.queue.queue_position is 'Place in the queue, from 1. A filter on it is fast: `queue_position <= 50`.';
comment on column dashboard.queue.job_id is 'Id of the job.';
comment on column dashboard.queue.search_id is 'Search that it belongs to; null for a job that was submitted alone.';
comment on column dashboard.queue.search_name is 'Name of that search.';
comment on column dashboard.queue.kind is 'supernet or retrain.';
comment on column dashboard.queue.label is 'What it is for: ''supernet'', ''budget 0.5 seed 1''.';
comment on column dashboard.queue.priority is 'Higher goes first.';
comment on column dashboard.queue.reason is 'The nearest obstacle: held_back (until run_after_time), no_worker (none was heard of for 60 s), no_ready_worker (all are cordoned or draining), too_little_memory (no device of a ready worker has memory_mib), worker_free (it is offered at that worker''s next call), keeps_away (only avoided_worker_id is free), devices_busy.';
comment on column dashboard.queue.state_reason is 'How its last attempt ended, as stored; empty before the first.';
comment on column dashboard.queue.attempt_count is 'Times that it was given to a worker.';
comment on column dashboard.queue.memory_mib is 'Estimated need; devices with less are not offered the job. 0 fits everywhere.';
comment on column dashboard.queue.run_after_time is 'Not offered before, after a failure; null when it may go.';
comment on column dashboard.queue.avoided_worker_id is 'Worker that it keeps away from for a while after a fault there; null for none.';
comment on column dashboard.queue.avoid_until_time is 'Until when it keeps away from that worker.';
comment on column dashboard.queue.create_time is 'When it was queued for the first time.';
comment on column dashboard.queue.age_s is 'Time since create_time, attempts included.';

create view dashboard.workers as
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
    select count(distinct attempt.device) as busy_device_count
    from attempt where attempt.worker_id = worker.id and attempt.end_time is null
) live on true;

comment on view dashboard.workers is 'One row per worker that ever registered.';
comment on column dashboard.workers.worker_id is 'Name of the worker.';
comment on column dashboard.workers.schedule is 'ready: takes jobs; cordoned: finishes what it has; draining: hands back what it has.';
comment on column dashboard.workers.is_lost is 'Whether nothing was heard of it for 60 s, the lease of a job unless the coordinator is told otherwise.';
comment on column dashboard.workers.version is 'Version of its daemon.';
comment on column dashboard.workers.device_count is 'Devices that train one job at a time each.';
comment on column dashboard.workers.busy_device_count is 'Devices that have a job.';
comment on column dashboard.workers.gpu_count is 'Devices that are GPUs.';
comment on column dashboard.workers.device_models is 'Names of its distinct processors, comma-separated.';
comment on column dashboard.workers.memory_mib is 'Memory of all devices that jobs may use.';
comment on column dashboard.workers.start_count is 'Starts of its daemon so far.';
comment on column dashboard.workers.register_time is 'When its daemon last started.';
comment on column dashboard.workers.last_seen_time is 'When it was last heard of.';
comment on column dashboard.workers.silent_s is 'Time since last_seen_time.';

-- Attempts are written in the order of their grants, so a summary of each range of
-- pages finds those of a week, and costs a grant next to nothing.
create index attempt_grant_time on attempt using brin (grant_time);

create view dashboard.gpu_time as
select attempt.job_id,
       attempt.epoch as attempt_number,
       job.search_id,
       search.name as search_name,
       job.kind,
       attempt.worker_id,
       attempt.device,
       attempt.device like 'cuda%' as is_gpu,
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
-- Every attempt has a job; joined like this, it is only read where it is asked for.
left join job on job.id = attempt.job_id
left join search on search.id = job.search_id;

comment on view dashboard.gpu_time is 'One row per attempt of a job: which device it held, and for how long. Sums are device time; CPUs are devices too.';
comment on column dashboard.gpu_time.job_id is 'Id of the job.';
comment on column dashboard.gpu_time.attempt_number is 'Number of the attempt within its job, from 1.';
comment on column dashboard.gpu_time.search_id is 'Search of the job; null for a job that was submitted alone.';
comment on column dashboard.gpu_time.search_name is 'Name of that search.';
comment on column dashboard.gpu_time.kind is 'supernet or retrain.';
comment on column dashboard.gpu_time.worker_id is 'Worker that had the job.';
comment on column dashboard.gpu_time.device is 'Its device: cpu, cuda:0.';
comment on column dashboard.gpu_time.is_gpu is 'Whether the device is a GPU.';
comment on column dashboard.gpu_time.is_running is 'Whether the attempt has not ended.';
comment on column dashboard.gpu_time.end_reason is 'succeeded, failed, cancelled, handed back, lease expired, offer expired or superseded; null while it lives.';
comment on column dashboard.gpu_time.failure_class is 'lost, infrastructure, resource, numeric, user or cancelled, as the worker reported it; null for other ends.';
comment on column dashboard.gpu_time.done_step_count is 'Optimizer steps that this attempt has done, without those of the checkpoint that it went on from.';
comment on column dashboard.gpu_time.grant_time is 'When the job was offered to the worker. A filter on it is fast.';
comment on column dashboard.gpu_time.start_time is 'When the trainer was started; null for an offer that was not taken up.';
comment on column dashboard.gpu_time.end_time is 'When the attempt ended; null while it lives.';
comment on column dashboard.gpu_time.duration_s is 'Time from start_time to end_time, or to now; 0 for an offer that was not taken up.';

create view dashboard.events as
select event.id as event_id,
       event.time,
       event.kind,
       event.search_id,
       event.job_id,
       event.epoch as attempt_number,
       event.worker_id,
       event.body ->> 'from' as from_state,
       event.body ->> 'to' as to_state,
       coalesce(event.body ->> 'reason', '') as reason
from event;

comment on view dashboard.events is 'What happened to searches, jobs and workers.';
comment on column dashboard.events.event_id is 'Number of the event. Newest first is `order by event_id desc`, which is fast.';
comment on column dashboard.events.time is 'When it happened.';
comment on column dashboard.events.kind is 'search_submitted, job_queued, job_leased, job_requeued, job_succeeded, worker_registered, ...; new kinds may be added.';
comment on column dashboard.events.search_id is 'Search that it is about, or that its job belongs to; null for none.';
comment on column dashboard.events.job_id is 'Job that it is about; null for none.';
comment on column dashboard.events.attempt_number is 'Attempt of the job that it is about; null for none.';
comment on column dashboard.events.worker_id is 'Worker that it is about; null for none.';
comment on column dashboard.events.from_state is 'State of the job before; null where no state changed.';
comment on column dashboard.events.to_state is 'State of the job after; null where no state changed.';
comment on column dashboard.events.reason is 'Why, in words; empty where nothing has to be said.';
