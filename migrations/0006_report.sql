-- What attempts report. Append only, and without foreign keys: an insert would
-- lock the parent row, which is what all other writes of the attempt need.
create table metric (
    job_id uuid not null,
    epoch bigint not null,
    seq bigint not null check (seq > 0),
    key text not null check (length(key) between 1 and 128),
    step bigint not null check (step >= 0),
    value double precision not null,
    time timestamptz not null,
    primary key (job_id, epoch, seq, key)
);

comment on table metric is 'Values over steps. After a resume, points of an older attempt beyond the newer one''s resume_step are superseded, not deleted.';
comment on column metric.seq is 'Number of the report entry within its attempt.';
comment on column metric.key is '''train/loss'', ''validation/mean_dice''.';
comment on column metric.time is 'When the worker received it, by the worker''s clock.';

-- Learning curves read one key over all steps.
create index metric_curve on metric (job_id, key, step);

create table log_line (
    job_id uuid not null,
    epoch bigint not null,
    seq bigint not null check (seq > 0),
    time timestamptz not null,
    text text not null,
    primary key (job_id, epoch, seq)
);

comment on table log_line is 'Lines that trainers and workers wrote; read in the order of epoch and seq.';
comment on column log_line.time is 'When the worker read it, by the worker''s clock.';
