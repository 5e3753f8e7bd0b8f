-- What a job costs the database: fewer index entries, smaller rows, updates that
-- stay on their page.

-- Whether a job waits, apart from its state: a move from one state to another that
-- does not change it touches no index.
alter table job
    add column waits boolean not null generated always as (state = 'queued') stored,
    add column task text check (task in ('segmentation', 'classification'));

-- What a job trains is known without reading the whole of it.
update job set task = case
    when coalesce(trainer_job #> '{task,supernet,backbone}', trainer_job #> '{task,retrain,architecture,backbone}')
        ?| array['video_resnet', 'volume_resnet'] then 'classification'
    else 'segmentation' end;

alter table job alter column task set not null;

comment on column job.waits is 'Whether the job is queued; what the index of waiting jobs goes by.';
comment on column job.task is 'What the network tells of a sample, as in trainer_job; decides the figure of its result.';

-- The claim reads this from its front.
create index job_waiting on job (priority desc, position) where waits;
drop index job_queue;

-- trainer_job never changes and is most of the row: it lies beside the table, so
-- that a move does not write it again.
alter table job set (fillfactor = 60, toast_tuple_target = 512);

-- The same set of rows as before (a check holds state and end_time together), told
-- by a column that a start does not change.
drop index attempt_one_live;
drop index attempt_live_by_worker;
create unique index attempt_one_live on attempt (job_id) where end_time is null;
create index attempt_live_by_worker on attempt (worker_id) where end_time is null;

alter table attempt set (fillfactor = 60);
alter table worker set (fillfactor = 50);
