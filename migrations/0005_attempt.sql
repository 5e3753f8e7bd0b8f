-- Attempts: one row per grant of a job to a worker.
create table attempt (
    job_id uuid not null references job (id),
    epoch bigint not null check (epoch > 0),
    -- 128 random bits of this grant. The epoch orders grants; the nonce proves
    -- that a caller holds one, and tells two grants with one epoch apart, which
    -- a lossy failover of the database can issue.
    nonce bytea not null check (length(nonce) = 16),
    worker_id text not null references worker (id),
    incarnation bigint not null check (incarnation > 0),
    device text not null,
    acquire_request_id uuid not null,
    state text not null default 'offered' check (state in ('offered', 'running', 'ended')),
    -- Checkpoint that it goes on from; null for a fresh start.
    resume_epoch bigint,
    resume_step bigint not null default 0 check (resume_step >= 0),
    last_step bigint not null default 0 check (last_step >= 0),
    -- Entries of an attempt count from 1 without gaps; the last stored one.
    last_seq bigint not null default 0 check (last_seq >= 0),
    end_reason text check (end_reason in
        ('succeeded', 'failed', 'cancelled', 'handed back', 'lease expired', 'offer expired', 'superseded')),
    failure_class text check (failure_class in
        ('lost', 'infrastructure', 'resource', 'numeric', 'user', 'cancelled')),
    message text not null default '',
    grant_time timestamptz not null default clock_timestamp(),
    start_time timestamptz,
    end_time timestamptz,
    primary key (job_id, epoch),
    check ((state = 'ended') = (end_time is not null)),
    check ((state = 'ended') = (end_reason is not null)),
    check (state <> 'running' or start_time is not null),
    check (resume_epoch is not null or resume_step = 0)
);

comment on table attempt is 'One row per grant of a job; the pair of job and epoch is what a lease token names.';
comment on column attempt.resume_step is 'Optimizer steps of the checkpoint that it went on from; 0 for a fresh start.';
comment on column attempt.last_step is 'Optimizer steps done when it was last heard of.';
comment on column attempt.last_seq is 'Number of the last stored report entry.';
comment on column attempt.failure_class is 'As reported with the failure; null for other ends.';

-- At most one attempt of a job lives: whatever the code does, a second one
-- cannot be written.
create unique index attempt_one_live on attempt (job_id) where state <> 'ended';
-- A repeated Acquire finds its first grant.
create unique index attempt_acquire on attempt (worker_id, incarnation, acquire_request_id);
create index attempt_live_by_worker on attempt (worker_id) where state <> 'ended';

-- Deadlines of live attempts. Renewed every few seconds: narrow, half-filled
-- pages, and no index on the deadline, so that a renewal stays on its page.
-- The live set is small; whoever reaps reads all of it.
create table attempt_lease (
    job_id uuid primary key,
    epoch bigint not null,
    deadline timestamptz not null,
    foreign key (job_id, epoch) references attempt (job_id, epoch)
) with (fillfactor = 50);

comment on table attempt_lease is 'One row per live attempt; removed when the attempt ends.';
comment on column attempt_lease.deadline is 'By the database''s clock; then the attempt may be taken from its worker.';
