-- Who may do what on the web page. Secrets are 256 random bits, so that a plain SHA-256
-- is enough: nobody finds one by trying. No view shows these tables.

create table access_token (
    id bigint generated always as identity primary key,
    name text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$'),
    hash bytea not null unique check (length(hash) = 32),
    role text not null check (role in ('viewer', 'submitter', 'operator')),
    create_time timestamptz not null default clock_timestamp(),
    expire_time timestamptz,
    revoke_time timestamptz,
    use_time timestamptz
);

-- A name can be given again once its token is revoked.
create unique index access_token_one_valid on access_token (name) where revoke_time is null;

comment on table access_token is 'Bearer tokens, by the hash of their secret.';
comment on column access_token.hash is 'SHA-256 of the whole token, as it was shown once.';
comment on column access_token.expire_time is 'Null for a token that holds until it is revoked.';
comment on column access_token.use_time is 'Last use, to the minute.';

create table web_session (
    hash bytea primary key check (length(hash) = 32),
    token_id bigint not null references access_token,
    create_time timestamptz not null default clock_timestamp(),
    expire_time timestamptz not null
);

create index web_session_expire on web_session (expire_time);

comment on table web_session is 'Browsers that are signed in. A session holds no longer than its token.';
comment on column web_session.hash is 'SHA-256 of what the cookie holds.';

create table audit (
    id bigint generated always as identity primary key,
    time timestamptz not null default clock_timestamp(),
    token_name text,
    role text,
    peer text not null,
    action text not null,
    object text not null,
    answer text not null,
    detail text not null
);

create index audit_refused on audit (time) where token_name is null;

create trigger append_only before update or delete on audit
    for each statement execute function refuse_change();

comment on table audit is 'What was done on the web page, and what was refused there.';
comment on column audit.token_name is 'Name of the token; null for nobody who is known.';
comment on column audit.peer is 'Address that the request came from: that of a proxy, where there is one.';
comment on column audit.action is 'cancel_job, sign_in, ...';
comment on column audit.object is 'What it was about: an id, as it was given.';
comment on column audit.answer is 'ok, or why not: FORBIDDEN, WRONG_STATE, ...';
