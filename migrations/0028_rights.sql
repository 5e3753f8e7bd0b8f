-- Who may do what on the gRPC API: tokens of worker daemons, and the record of what was
-- asked of it.

alter table access_token drop constraint access_token_role_check;
alter table access_token add constraint access_token_role_check
    check (role in ('viewer', 'submitter', 'operator', 'worker'));
alter table access_token add constraint access_token_worker_name
    check (role <> 'worker' or name ~ '^[a-z0-9][a-z0-9._-]{0,62}$');

comment on column access_token.role is 'What it lets its holder do; worker: be the worker of this name.';

alter table audit add column via text not null default 'page' check (via in ('page', 'api'));

comment on table audit is 'What was done on the web page and over the gRPC API, and what was refused there.';
comment on column audit.token_name is 'Name of the token or of the certificate; null for nobody who is known.';
comment on column audit.role is 'viewer, ..., worker; trusted for nobody known where nobody need be; null for nobody known.';
comment on column audit.via is 'page, or api for gRPC.';
comment on column audit.action is 'cancel_job, sign_in, ...; bearer for a wrong token, call for none.';
comment on column audit.answer is 'ok, or why not: FORBIDDEN, WRONG_STATE, ...; BEGUN before it is done.';
