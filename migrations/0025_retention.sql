-- Checkpoints that are no longer needed. First the row is condemned, under the lock of
-- its job: from then on nothing resumes from it or makes it a result. Then its objects
-- are deleted. The row stays: a late repetition of its commit must find it, or a
-- checkpoint would come back whose objects are gone.
alter table checkpoint
    add column pinned boolean not null default false,
    add column settled boolean not null default false,
    add column condemn_time timestamptz,
    add column condemn_reason text,
    add column delete_time timestamptz,
    add constraint checkpoint_condemned check ((condemn_time is null) = (condemn_reason is null)),
    add constraint checkpoint_deleted check (delete_time is null or condemn_time is not null),
    add constraint checkpoint_pinned check (not pinned or condemn_time is null),
    add constraint checkpoint_settled check (settled or condemn_time is null);

comment on table checkpoint is 'Committed checkpoints. A condemned one stays as a row without objects.';
comment on column checkpoint.pinned is 'A person wants it kept.';
comment on column checkpoint.settled is 'Nothing can condemn it any more, or it is condemned: retention does not look at it again.';
comment on column checkpoint.condemn_time is 'When it was given up; null while it is kept. Its objects are deleted after that.';
comment on column checkpoint.condemn_reason is 'Why it was given up.';
comment on column checkpoint.delete_time is 'When its objects were deleted; null before.';

-- What retention looks at, and what is to be deleted: both stay small.
create index checkpoint_unsettled on checkpoint (job_id) where not settled;
create index checkpoint_undeleted on checkpoint (key) where condemn_time is not null and delete_time is null;

-- Whatever the code does: what the next attempt goes on from and what a result was
-- measured with cannot be condemned, and what is condemned stays so.
create function refuse_condemning() returns trigger language plpgsql as $$
begin
    if old.condemn_time is not null then
        raise exception 'a condemned checkpoint of job % stays condemned', old.job_id
            using errcode = 'restrict_violation';
    end if;
    if exists (select from job where id = old.job_id
            and checkpoint_epoch = old.epoch and checkpoint_step = old.step)
        or exists (select from result where job_id = old.job_id
            and checkpoint_epoch = old.epoch and checkpoint_step = old.step) then
        raise exception 'job % still needs its checkpoint of step %', old.job_id, old.step
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

comment on function refuse_condemning() is 'Keeps what a job or a result refers to.';

create trigger refuse_condemning before update of condemn_time on checkpoint
    for each row when (new.condemn_time is distinct from old.condemn_time)
    execute function refuse_condemning();

create trigger never_deleted before delete on checkpoint
    for each statement execute function refuse_change();
