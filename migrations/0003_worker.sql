-- Worker daemons that have registered.
create table worker (
    id text primary key check (id ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    -- Number of the daemon's start. Only the newest start may acquire; a daemon
    -- that was paused and replaced learns so at its next call.
    incarnation bigint not null check (incarnation > 0),
    -- What people decided. That a worker is lost follows from last_seen_time
    -- and is stored nowhere.
    schedule text not null default 'ready' check (schedule in ('ready', 'cordoned', 'draining')),
    devices jsonb not null check (jsonb_typeof(devices) = 'array'),
    version text not null,
    last_seen_time timestamptz not null default clock_timestamp(),
    register_time timestamptz not null default clock_timestamp(),
    register_request_id uuid not null
);

comment on table worker is 'One row per worker name; survives restarts of its daemon.';
comment on column worker.incarnation is 'Starts of the daemon so far; never reset.';
comment on column worker.schedule is 'ready: takes jobs; cordoned: finishes what it has; draining: hands back what it has.';
comment on column worker.devices is 'Array of {name, model, memory_mib}.';
comment on column worker.register_request_id is 'Of the last registration; a repetition is the same start.';
