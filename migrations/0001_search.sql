-- Searches: what a user asked for, and where that stands.
create table search (
    id uuid primary key,
    name text not null check (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    -- The checked description with all defaults. It is complete, so a search
    -- means the same after the defaults of a later version have changed.
    spec jsonb not null,
    state text not null default 'searching'
        check (state in ('searching', 'retraining', 'succeeded', 'failed', 'cancelled')),
    state_reason text not null default '',
    -- Counts changes of this row. What watchers compare is the view
    -- search_revision, which adds the changes of the jobs.
    revision bigint not null default 1 check (revision > 0),
    -- Two submissions with one request id are one search. The hash tells a
    -- repetition from another search under the same id.
    request_id text unique check (length(request_id) between 1 and 128),
    request_hash bytea check (length(request_hash) = 32),
    create_time timestamptz not null default clock_timestamp(),
    -- Set when the last job has ended. A cancelled search whose workers have
    -- not stopped yet has none.
    end_time timestamptz,
    check ((request_id is null) = (request_hash is null)),
    check (state not in ('searching', 'retraining') or end_time is null),
    check (state not in ('succeeded', 'failed') or end_time is not null)
);

comment on table search is 'One search: description, state, and the client''s request id.';
comment on column search.spec is 'Checked description in the domain''s JSON form, every default written out.';
comment on column search.revision is 'Changes of this row; see the view search_revision for those of its jobs too.';
comment on column search.request_id is 'Chosen by the client; a repetition returns the first search.';
comment on column search.request_hash is 'SHA-256 of the description that came with request_id.';
comment on column search.end_time is 'When the last job ended; unset while one may still run.';

-- The planner looks at open searches once a second.
create index search_open on search (id) where end_time is null;
