-- Searches that were made elsewhere and came in a file. They are read like all others and
-- never scheduled: whatever the code does, a row that came in cannot become open.
alter table search add column imported boolean not null default false,
    add constraint search_imported check (not imported or end_time is not null);
comment on column search.imported is 'Whether it came in a file; see search_import.';

alter table job add column imported boolean not null default false,
    add constraint job_imported check (
        not imported or (state in ('succeeded', 'failed', 'cancelled') and search_id is not null)
    );
comment on column job.imported is 'Whether it came with its search in a file, without its weights.';

-- Attempts of elsewhere name workers of elsewhere, which are none of this fleet.
alter table attempt add column imported boolean not null default false,
    add constraint attempt_imported check (not imported or state = 'ended'),
    drop constraint attempt_worker_id_fkey,
    add column local_worker_id text generated always as (case when not imported then worker_id end) stored
        references worker (id);
comment on column attempt.imported is 'Whether it came with its job in a file.';
comment on column attempt.local_worker_id is 'worker_id, where it is one of this fleet.';

alter table event add column imported boolean not null default false;
comment on column event.imported is 'Whether it happened elsewhere, and came in a file.';

create table search_import (
    search_id uuid primary key references search (id),
    content_sha256 text not null check (content_sha256 ~ '^[0-9a-f]{64}$'),
    source text not null check (length(source) between 1 and 255),
    cakes_version text not null check (length(cakes_version) between 1 and 64),
    export_time timestamptz not null,
    is_snapshot boolean not null,
    import_time timestamptz not null default clock_timestamp()
);

comment on table search_import is 'Where each imported search came from.';
comment on column search_import.content_sha256 is 'Of what the file holds; the same content again is the same search.';
comment on column search_import.source is 'The machine whose coordinator exported it.';
comment on column search_import.is_snapshot is 'Whether it had not ended when it was exported.';

create view dashboard.imports as
select search_import.search_id,
       search.name as search_name,
       search_import.source,
       search_import.cakes_version,
       search_import.is_snapshot,
       search_import.content_sha256,
       search_import.export_time,
       search_import.import_time
from search_import join search on search.id = search_import.search_id;

comment on view dashboard.imports is 'One row per search that was made elsewhere and came in a file. All other views hold these searches too, except gpu_time.';
comment on column dashboard.imports.search_id is 'Id of the search.';
comment on column dashboard.imports.search_name is 'Name of the search.';
comment on column dashboard.imports.source is 'The machine whose coordinator exported it.';
comment on column dashboard.imports.cakes_version is 'Version of that coordinator.';
comment on column dashboard.imports.is_snapshot is 'Whether it had not ended when it was exported; what had not ended is cancelled here.';
comment on column dashboard.imports.content_sha256 is 'Digest of what the file holds.';
comment on column dashboard.imports.export_time is 'When it was exported.';
comment on column dashboard.imports.import_time is 'When it came in.';

-- The time of devices of elsewhere is not this fleet's.
create or replace view dashboard.gpu_time as
select attempt.job_id,
       attempt.epoch as attempt_number,
       job.search_id,
       search.name as search_name,
       job.kind,
       attempt.worker_id,
       attempt.device,
       attempt.device like 'cuda%' as is_gpu,
       attempt.end_time is null as is_running,
       attempt.end_reason,
       attempt.failure_class,
       greatest(attempt.last_step - attempt.resume_step, 0) as done_step_count,
       attempt.grant_time,
       attempt.start_time,
       attempt.end_time,
       coalesce(extract(epoch from coalesce(attempt.end_time, now()) - attempt.start_time), 0)::double precision
           as duration_s
from attempt
-- Every attempt has a job; joined like this, it is only read where it is asked for.
left join job on job.id = attempt.job_id
left join search on search.id = job.search_id
where not attempt.imported;

select grant_dashboard();
