-- What a job left behind: at most one result per job, which names a committed
-- checkpoint.
create table result (
    job_id uuid primary key,
    epoch bigint not null,
    last_seq bigint not null check (last_seq >= 0),
    -- A repeated Complete with the same content is answered like the first.
    content_hash bytea not null check (length(content_hash) = 32),
    -- The final checkpoint may stem from an earlier attempt that was lost
    -- between its last save and its end.
    checkpoint_epoch bigint not null,
    checkpoint_step bigint not null,
    mean_dice double precision not null,
    dice_per_class double precision[] not null,
    param_count bigint not null check (param_count > 0),
    mac_count bigint not null check (mac_count > 0),
    latency_ms double precision check (latency_ms >= 0),
    peak_memory_mib double precision not null,
    train_duration_s double precision not null,
    device text not null,
    end_time timestamptz not null default clock_timestamp(),
    foreign key (job_id, epoch) references attempt (job_id, epoch),
    foreign key (job_id, checkpoint_epoch, checkpoint_step) references checkpoint (job_id, epoch, step)
);

comment on table result is 'Results of succeeded jobs.';
comment on column result.mean_dice is 'Mean over the classes but the background, 0 to 1.';
comment on column result.dice_per_class is 'From class 1.';
comment on column result.mac_count is 'Multiply-accumulates of one patch.';
comment on column result.latency_ms is 'Median time of a forward pass over one patch at batch 1; null for a supernet.';
comment on column result.device is 'Device on which the job ran and the latency was measured.';

create table supernet_scores (
    job_id uuid primary key references result (job_id),
    scores jsonb not null
);

comment on table supernet_scores is '|gamma| of every candidate channel of a trained supernet, in the domain''s JSON form.';
