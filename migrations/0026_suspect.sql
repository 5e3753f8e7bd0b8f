-- Workers whose machine seems to be at fault get no jobs for a while.
alter table worker
    add column suspect_until timestamptz,
    add column suspect_reason text,
    add column suspect_count integer not null default 0 check (suspect_count >= 0),
    add column judged_time timestamptz not null default clock_timestamp(),
    add constraint worker_suspect check ((suspect_until is null) = (suspect_reason is null)),
    add constraint worker_suspect_count check (suspect_count > 0 or suspect_until is null);

comment on column worker.suspect_until is 'It gets no jobs before; null for one that was never suspect, or is trusted again.';
comment on column worker.suspect_reason is 'Why it is suspect.';
comment on column worker.suspect_count is 'Times in a row that it was suspect without a good attempt between; each rest is longer.';
comment on column worker.judged_time is 'Only attempts that were granted later speak for or against it.';

-- How the last attempts of a worker ended.
create index attempt_ended_by_worker on attempt (worker_id, end_time desc) where end_time is not null;
