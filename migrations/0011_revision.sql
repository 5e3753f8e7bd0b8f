-- One growing number per job and per search for whoever watches. It is a sum of
-- counters on rows that are written anyway: a counter on the search's row would
-- make the reports of all its jobs wait for each other.
create view job_revision as
select job.id as job_id, job.search_id, job.revision + coalesce(job_progress.revision, 0) as revision
from job left join job_progress on job_progress.job_id = job.id;

comment on view job_revision is 'Grows with every change of a job or its progress.';

create view search_revision as
select search.id as search_id,
       search.revision + coalesce(
           (select sum(job_revision.revision) from job_revision where job_revision.search_id = search.id), 0
       )::bigint as revision
from search;

comment on view search_revision is 'Grows with every change of a search, its jobs or their progress.';
