-- Architectures by digest: equal architectures are one row, whichever search
-- found them.
create table architecture (
    digest text primary key check (digest ~ '^[0-9a-f]{64}$'),
    spec jsonb not null,
    create_time timestamptz not null default clock_timestamp()
);

comment on table architecture is 'One row per distinct architecture.';
comment on column architecture.digest is 'SHA-256 of the canonical JSON form, in hexadecimal.';
comment on column architecture.spec is 'Backbone and channel allocations in the domain''s JSON form.';

-- Prefixes of digests are looked up with like.
create index architecture_digest_prefix on architecture (digest text_pattern_ops);

-- Which architectures a search holds, under which names, and what they cost for
-- one of its patches. Several origins may name one digest: a budget that ends
-- in the all-3x3x3 network is the baseline, and is trained once.
create table search_architecture (
    search_id uuid not null references search (id),
    origin text not null check (length(origin) between 1 and 64),
    digest text not null references architecture (digest),
    -- Order of creation, for lists.
    position bigint generated always as identity,
    -- Whether the plan of the search retrains it. Architectures that were
    -- derived on request are only recorded.
    retrain boolean not null,
    cost jsonb not null,
    param_count bigint not null check (param_count > 0),
    mac_count bigint not null check (mac_count > 0),
    mac_fraction double precision not null check (mac_fraction > 0),
    create_time timestamptz not null default clock_timestamp(),
    primary key (search_id, origin)
);

comment on table search_architecture is 'Architectures of a search: where each came from and what it costs.';
comment on column search_architecture.origin is '''budget 0.5'', ''paper rule'', ''baseline c3d''.';
comment on column search_architecture.retrain is 'Whether the search''s plan trains it.';
comment on column search_architecture.cost is 'Cost for one patch of the search, layer by layer, in the domain''s JSON form.';
comment on column search_architecture.mac_fraction is 'mac_count over that of the all-3x3x3 network.';

create index search_architecture_digest on search_architecture (digest);
