-- What a job costs the database: each foreign key looks its row up once more, and locks
-- it. Whoever writes these rows holds the lock of the row that they refer to, or has read
-- it in the same statement; an import checks its file before; and rows of these tables
-- are never deleted, which a trigger sees to from here on. So the keys say nothing that
-- is not so anyway. That of a result's checkpoint stays.
alter table attempt
    drop constraint attempt_job_id_fkey,
    drop column local_worker_id;
alter table attempt_lease drop constraint attempt_lease_job_id_epoch_fkey;
alter table job_progress drop constraint job_progress_job_id_fkey;
alter table checkpoint drop constraint checkpoint_job_id_epoch_fkey;
alter table result drop constraint result_job_id_epoch_fkey;

create trigger never_deleted before delete on job
    for each statement execute function refuse_change();
create trigger never_deleted before delete on attempt
    for each statement execute function refuse_change();
create trigger never_deleted before delete on worker
    for each statement execute function refuse_change();
