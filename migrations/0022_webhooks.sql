-- Who is told of what happens, and what is still to be told.

create table webhook (
    id uuid primary key,
    url text not null check (length(url) between 1 and 2000),
    events text[] not null check (
        cardinality(events) > 0
        and events <@ array['search-finished', 'search-failed', 'job-failed', 'front-point']
    ),
    labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
    -- Signatures are made with it, so a hash would not do. No view shows this table.
    secret bytea not null check (length(secret) between 24 and 64),
    request_id text unique check (length(request_id) between 1 and 128),
    request_hash bytea check (length(request_hash) = 32),
    create_time timestamptz not null default clock_timestamp(),
    check ((request_id is null) = (request_hash is null))
);

comment on table webhook is 'Addresses that are told of events.';
comment on column webhook.url is 'Where deliveries are posted.';
comment on column webhook.events is 'Events that are delivered.';
comment on column webhook.labels is 'Only what is about searches or jobs with these labels; ''{}'' for all.';
comment on column webhook.secret is 'Key of the signatures; no call shows it.';
comment on column webhook.request_id is 'Chosen by the client; a repetition returns the first webhook.';
comment on column webhook.request_hash is 'SHA-256 of what came with request_id.';

-- Written in the transaction of what it tells of: what is rolled back is not told, and
-- what is committed is, whoever dies meanwhile.
create table webhook_delivery (
    id uuid primary key,
    webhook_id uuid not null references webhook on delete cascade,
    position bigint generated always as identity,
    event text not null
        check (event in ('search-finished', 'search-failed', 'job-failed', 'front-point', 'ping')),
    -- Text, because it is signed byte by byte.
    payload text not null check (octet_length(payload) <= 16384),
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempt_count integer not null default 0 check (attempt_count >= 0),
    -- Who takes it moves this beyond the longest request: if that coordinator dies,
    -- another one takes it then.
    next_attempt_time timestamptz not null default clock_timestamp(),
    last_status integer,
    last_error text not null default '',
    create_time timestamptz not null default clock_timestamp(),
    end_time timestamptz,
    check ((state = 'pending') = (end_time is null))
);

comment on table webhook_delivery is 'One row per event and webhook; deleted some days after its end.';
comment on column webhook_delivery.payload is 'JSON text as it is sent.';
comment on column webhook_delivery.attempt_count is 'Requests so far; also what a writer proves that it is the current one by.';
comment on column webhook_delivery.next_attempt_time is 'Not tried before.';
comment on column webhook_delivery.last_status is 'HTTP status of the last answer; null for none.';
comment on column webhook_delivery.last_error is 'Why the last request did not succeed; empty if it did.';

create index webhook_delivery_due on webhook_delivery (webhook_id, next_attempt_time) where state = 'pending';
create index webhook_delivery_by_webhook on webhook_delivery (webhook_id, position);
create index webhook_delivery_ended on webhook_delivery (end_time) where end_time is not null;

-- Which architectures have been on the front of their search, so that each is told once.
create table search_front_point (
    search_id uuid not null references search,
    architecture_digest text not null references architecture,
    enter_time timestamptz not null default clock_timestamp(),
    primary key (search_id, architecture_digest)
);

comment on table search_front_point is 'Architectures that were on the front of quality against multiply-accumulates, now or before.';
comment on column search_front_point.enter_time is 'When it was noticed there first.';
