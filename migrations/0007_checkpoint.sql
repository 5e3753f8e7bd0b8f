-- Checkpoints that were uploaded whole and may be resumed from. An object in the
-- store that has no row here does not count.
create table checkpoint (
    job_id uuid not null,
    epoch bigint not null,
    step bigint not null check (step > 0),
    key text not null unique check (length(key) between 1 and 512),
    manifest_sha256 text not null check (manifest_sha256 ~ '^[0-9a-f]{64}$'),
    bytes bigint not null check (bytes >= 0),
    commit_time timestamptz not null default clock_timestamp(),
    primary key (job_id, epoch, step),
    foreign key (job_id, epoch) references attempt (job_id, epoch)
);

comment on table checkpoint is 'Committed checkpoints.';
comment on column checkpoint.step is 'Optimizer steps done in it.';
comment on column checkpoint.key is 'Key of its folder in the artifact store, under the prefix of its attempt.';
comment on column checkpoint.bytes is 'Size of all its files.';
