-- Jobs: one training each. A row changes a handful of times in hours; what
-- changes every second is in job_progress and attempt_lease.
create table job (
    id uuid primary key,
    -- Null for a job that was submitted alone.
    search_id uuid references search (id),
    kind text not null check (kind in ('supernet', 'retrain')),
    label text not null,
    -- Order of creation, in which the queue is served within a priority. A job
    -- that is tried again keeps its place.
    position bigint generated always as identity,
    priority integer not null default 0,
    architecture_digest text references architecture (digest),
    -- An unsigned 64-bit number, which bigint cannot hold.
    seed numeric(20, 0) not null check (seed between 0 and 18446744073709551615),
    trainer_job jsonb not null,
    step_count bigint not null check (step_count > 0),
    -- Estimated need; devices with less are not offered the job.
    memory_mib bigint not null default 0 check (memory_mib >= 0),

    state text not null default 'queued' check (state in
        ('queued', 'leased', 'running', 'succeeded', 'failed', 'cancelling', 'cancelled', 'pausing', 'paused')),
    state_reason text not null default '',
    -- Number of the last grant. Raised by every grant, reset by nothing: a token
    -- of an older grant can never become current again.
    epoch bigint not null default 0 check (epoch >= 0),
    run_after timestamptz,
    -- After a fault of a machine the job goes elsewhere, if there is an
    -- elsewhere within that time.
    avoid_worker_id text,
    avoid_until timestamptz,

    lost_count integer not null default 0 check (lost_count >= 0),
    infrastructure_count integer not null default 0 check (infrastructure_count >= 0),
    resource_count integer not null default 0 check (resource_count >= 0),
    numeric_count integer not null default 0 check (numeric_count >= 0),
    -- Attempts in a row that ended badly without a step beyond furthest_step.
    no_progress_count integer not null default 0 check (no_progress_count >= 0),
    furthest_step bigint not null default 0 check (furthest_step >= 0),

    -- Last committed checkpoint, which the next attempt goes on from. A key of
    -- table checkpoint, without a foreign key since each refers to the other.
    checkpoint_epoch bigint,
    checkpoint_step bigint,

    revision bigint not null default 1 check (revision > 0),
    request_id text unique check (length(request_id) between 1 and 128),
    request_hash bytea check (length(request_hash) = 32),
    create_time timestamptz not null default clock_timestamp(),
    start_time timestamptz,
    end_time timestamptz,

    check ((kind = 'retrain') = (architecture_digest is not null)),
    check (kind = 'retrain' or search_id is not null),
    check ((request_id is null) = (request_hash is null)),
    check ((checkpoint_epoch is null) = (checkpoint_step is null)),
    check ((avoid_worker_id is null) = (avoid_until is null)),
    check ((state in ('succeeded', 'failed', 'cancelled')) = (end_time is not null)),
    check (state not in ('leased', 'running', 'succeeded', 'pausing', 'cancelling') or epoch > 0)
);

comment on table job is 'One training: what, where in its life, and how it may be tried again.';
comment on column job.label is 'What it is for: ''supernet'', ''budget 0.5 seed 1''.';
comment on column job.position is 'Order of creation; the queue is served in it within a priority.';
comment on column job.priority is 'Higher goes first; a search''s supernet goes before retrainings, which wait for it.';
comment on column job.trainer_job is 'What the trainer gets, in the domain''s JSON form.';
comment on column job.step_count is 'Optimizer steps of the whole training.';
comment on column job.memory_mib is 'Estimated peak memory of the training; 0 fits everywhere.';
comment on column job.epoch is 'Number of the last grant; also the count of attempts. Never reset.';
comment on column job.run_after is 'Back-off: not offered before.';
comment on column job.furthest_step is 'Most optimizer steps that any attempt has reported.';

-- One supernet per search, one retraining per architecture and seed: planning
-- twice cannot queue a job twice.
create unique index job_one_supernet on job (search_id) where kind = 'supernet';
create unique index job_one_retrain on job (search_id, architecture_digest, seed)
    where kind = 'retrain' and search_id is not null;
-- The claim reads this from its front.
create index job_queue on job (priority desc, position) where state = 'queued';
create index job_by_search on job (search_id, position);

-- How far each job is, rewritten every few seconds: narrow, so that an update
-- finds room on its page and touches no index.
create table job_progress (
    job_id uuid primary key references job (id),
    step bigint not null check (step >= 0),
    step_count bigint not null check (step_count >= 0),
    loss double precision not null,
    learning_rate double precision not null,
    samples_per_s double precision not null,
    mean_dice double precision,
    remaining_s double precision,
    phase text not null,
    update_time timestamptz not null default clock_timestamp(),
    revision bigint not null default 1 check (revision > 0)
) with (fillfactor = 50);

comment on table job_progress is 'Last reported progress of a job; no row before the first report.';
comment on column job_progress.step is 'Optimizer steps done.';
comment on column job_progress.mean_dice is 'Of the last validation; null before the first.';
comment on column job_progress.remaining_s is 'Estimated time to the end; null while unknown.';
comment on column job_progress.phase is 'What the trainer is doing: ''training'', ''validating''.';
