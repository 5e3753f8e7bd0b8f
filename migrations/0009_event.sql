-- What happened, in order. Written in the transaction of what it tells of.
create table event (
    id bigint generated always as identity primary key,
    -- The order of ids is not the order of commits: a reader that follows the
    -- table takes rows with xid below pg_snapshot_xmin(pg_current_snapshot()).
    xid xid8 not null default pg_current_xact_id(),
    time timestamptz not null default clock_timestamp(),
    kind text not null check (kind ~ '^[a-z]+(_[a-z]+)*$'),
    search_id uuid,
    job_id uuid,
    epoch bigint,
    worker_id text,
    body jsonb not null default '{}',
    check (search_id is not null or job_id is not null or worker_id is not null)
);

comment on table event is 'Append-only history of searches, jobs and workers.';
comment on column event.kind is '''search_submitted'', ''job_leased'', ''job_requeued'', ''worker_registered'', ...';
comment on column event.body is 'Details by kind.';

create index event_by_job on event (job_id, id) where job_id is not null;
create index event_by_search on event (search_id, id) where search_id is not null;
