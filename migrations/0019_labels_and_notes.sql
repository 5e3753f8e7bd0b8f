-- What people attach to things: labels to find them by, notes to remember them by.

-- No index: a list is read newest first, and a filter on it looks at some thousand
-- rows at the most before it has its page.
alter table search add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object');
alter table job add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object');

comment on column search.labels is 'Labels by key, as people set them; both are text.';
comment on column job.labels is 'Labels by key, as people set them; both are text. Those of its search are not among them.';

create table note (
    id bigint generated always as identity primary key,
    search_id uuid references search,
    job_id uuid references job,
    architecture_digest text references architecture,
    author text not null check (length(author) between 1 and 100),
    text text not null check (length(text) between 1 and 2000),
    request_id text unique check (length(request_id) between 1 and 128),
    request_hash bytea check (length(request_hash) = 32),
    create_time timestamptz not null default clock_timestamp(),
    check (num_nonnulls(search_id, job_id, architecture_digest) = 1),
    check ((request_id is null) = (request_hash is null))
);

comment on table note is 'Append-only remarks of people on one search, job or architecture each.';
comment on column note.author is 'Who wrote it, as the writer said.';
comment on column note.text is 'The remark, free text.';
comment on column note.request_id is 'Chosen by the client; a repetition adds no second note.';
comment on column note.request_hash is 'SHA-256 of what came with request_id.';

create index note_by_search on note (search_id, id) where search_id is not null;
create index note_by_job on note (job_id, id) where job_id is not null;
create index note_by_architecture on note (architecture_digest, id) where architecture_digest is not null;

create trigger append_only before update or delete on note
    for each statement execute function refuse_change();

-- The views as before, with the labels behind their last column.

create or replace view dashboard.searches as
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
       extract(epoch from coalesce(search.end_time, now()) - search.create_time)::double precision as duration_s,
       search.labels
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

comment on column dashboard.searches.labels is 'Labels by key: `labels ->> ''owner''` is one, `labels @> ''{"owner": "ada"}''` a filter. ''{}'' for none.';

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
       job.labels
from job
left join search on search.id = job.search_id
left join job_progress progress on progress.job_id = job.id
left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
left join result on result.job_id = job.id and job.state = 'succeeded';

comment on column dashboard.jobs.labels is 'Labels of the job by key, without those of its search: `labels ->> ''owner''` is one. ''{}'' for none.';
