-- Points of learning curves are by far the most rows. They come in eight parts, each
-- with an eighth of the index to keep in memory, to vacuum and to build anew; every
-- reader and writer names a job, and so finds its part. The parts are of jobs and not
-- of times: a point is told apart by job and number, and an index over months would
-- have to hold the time too, under which one entry could be stored twice.

alter table metric rename to metric_before;

create table metric (
    job_id uuid not null,
    epoch bigint not null,
    seq bigint not null check (seq > 0),
    key text not null check (length(key) between 1 and 128),
    step bigint not null check (step >= 0),
    value double precision not null,
    time timestamptz not null
) partition by hash (job_id);

create table metric_0 partition of metric for values with (modulus 8, remainder 0);
create table metric_1 partition of metric for values with (modulus 8, remainder 1);
create table metric_2 partition of metric for values with (modulus 8, remainder 2);
create table metric_3 partition of metric for values with (modulus 8, remainder 3);
create table metric_4 partition of metric for values with (modulus 8, remainder 4);
create table metric_5 partition of metric for values with (modulus 8, remainder 5);
create table metric_6 partition of metric for values with (modulus 8, remainder 6);
create table metric_7 partition of metric for values with (modulus 8, remainder 7);

insert into metric (job_id, epoch, seq, key, step, value, time)
select job_id, epoch, seq, key, step, value, time from metric_before;

drop table metric_before;

-- The same columns as before in another order: one index that also reads a curve,
-- where there were two.
alter table metric add primary key (job_id, key, epoch, seq);

comment on table metric is 'Values over steps. After a resume, points of an older attempt beyond the newer one''s resume_step are superseded, not deleted.';
comment on column metric.seq is 'Number of the report entry within its attempt.';
comment on column metric.key is '''train/loss'', ''validation/mean_dice''.';
comment on column metric.time is 'When the worker received it, by the worker''s clock.';

create trigger append_only before update or delete on metric
    for each statement execute function refuse_change();

-- A curve of more than 256 steps is summed up as it is reported, in the transaction
-- that stores its points, so that nobody reads a million points to draw 256. Shorter
-- ones are read as they are: for them these rows would be as many as the points.
create table metric_range (
    job_id uuid not null,
    key text not null,
    number integer not null check (number between 0 and 255),
    first_step bigint not null,
    last_step bigint not null check (last_step >= first_step),
    value_count bigint not null check (value_count > 0),
    finite_count bigint not null check (finite_count between 0 and value_count),
    value_sum double precision not null,
    value_min double precision,
    value_max double precision,
    -- The range's first point, from which it can be summed up again.
    first_epoch bigint not null,
    first_seq bigint not null,
    time timestamptz not null,
    primary key (job_id, key, number)
) with (fillfactor = 70);

comment on table metric_range is 'Curves of jobs of more than 256 steps, in at most 256 ranges of equally many steps. Superseded points are not in it.';
comment on column metric_range.number is 'Place of the range, from 0; see range_number.';
comment on column metric_range.value_count is 'Points in it.';
comment on column metric_range.finite_count is 'Points in it that are neither infinite nor not a number; sum, smallest and largest are theirs.';
comment on column metric_range.time is 'Of its last point.';

create function range_number(step bigint, step_count bigint) returns integer language sql immutable parallel safe as $$
    select least(greatest(step - 1, 0) / ((step_count + 255) / 256), 255)::integer
$$;

comment on function range_number(bigint, bigint) is 'Range of a curve that a step lies in; a job of more than 256 steps has at most 256.';

insert into metric_range
select point.job_id, point.key, range_number(point.step, point.step_count),
       min(point.step), max(point.step), count(*), count(point.value), coalesce(sum(point.value), 0),
       min(point.value), max(point.value),
       (array_agg(point.epoch order by point.epoch, point.seq))[1],
       (array_agg(point.seq order by point.epoch, point.seq))[1],
       max(point.time)
from (
    select distinct on (metric.job_id, metric.key, metric.step)
           metric.job_id, metric.key, metric.step, metric.epoch, metric.seq, metric.time, job.step_count,
           nullif(nullif(nullif(metric.value, 'NaN'), 'Infinity'), '-Infinity') as value
    from metric join job on job.id = metric.job_id and job.step_count > 256
    where metric.step <= coalesce(
        (select min(later.resume_step) from attempt later
         where later.job_id = metric.job_id and later.epoch > metric.epoch),
        metric.step
    )
    order by metric.job_id, metric.key, metric.step, metric.epoch desc, metric.seq desc
) point
group by point.job_id, point.key, range_number(point.step, point.step_count);

create view dashboard.learning_curves as
select job.id as job_id,
       job.search_id,
       job.label,
       job.architecture_digest,
       point.metric,
       point.step,
       point.first_step,
       point.value,
       point.value_min,
       point.value_max,
       point.point_count,
       point.time
from job cross join lateral (
    (
        select distinct on (metric.key, metric.step)
               metric.key as metric, metric.step, metric.step as first_step,
               finite.value, finite.value as value_min, finite.value as value_max,
               1::bigint as point_count, metric.time
        from attempt
        cross join lateral (
            select min(later.resume_step) as step from attempt later
            where later.job_id = attempt.job_id and later.epoch > attempt.epoch
        ) superseded_after
        join metric on metric.job_id = attempt.job_id and metric.epoch = attempt.epoch
            and (superseded_after.step is null or metric.step <= superseded_after.step)
        cross join lateral (
            select nullif(nullif(nullif(metric.value, 'NaN'), 'Infinity'), '-Infinity') as value
        ) finite
        where attempt.job_id = job.id and metric.job_id = job.id and job.step_count <= 256
        order by metric.key, metric.step, metric.epoch desc, metric.seq desc
    )
    union all
    select summed.key, summed.last_step, summed.first_step, summed.value_sum / nullif(summed.finite_count, 0),
           summed.value_min, summed.value_max, summed.value_count, summed.time
    from metric_range summed
    where summed.job_id = job.id and job.step_count > 256
) point;

comment on view dashboard.learning_curves is 'Points of the learning curves of jobs, at most 256 per curve: a longer one is summed up in equal ranges of steps. Steps that were repeated after a fault are in it once. Filter by job_id or search_id, and by metric.';
comment on column dashboard.learning_curves.job_id is 'Job.';
comment on column dashboard.learning_curves.search_id is 'Search of the job; null for a job that was submitted alone.';
comment on column dashboard.learning_curves.label is 'What the job is for: ''supernet'', ''budget 0.5 seed 1''.';
comment on column dashboard.learning_curves.architecture_digest is 'Architecture that a retraining trains; null for a supernet.';
comment on column dashboard.learning_curves.metric is 'What was measured: train/loss, train/learning_rate, validation/mean_dice, ...';
comment on column dashboard.learning_curves.step is 'Last optimizer step that the point stands for.';
comment on column dashboard.learning_curves.first_step is 'First optimizer step that the point stands for; step itself in a curve that is not summed up.';
comment on column dashboard.learning_curves.value is 'Mean over those steps; null where nothing finite was reported.';
comment on column dashboard.learning_curves.value_min is 'Smallest value of those steps.';
comment on column dashboard.learning_curves.value_max is 'Largest value of those steps.';
comment on column dashboard.learning_curves.point_count is 'Values that the point stands for.';
comment on column dashboard.learning_curves.time is 'When the worker received the last of them, by the worker''s clock.';

-- Compiling these plans takes longer than running them.
do $$
begin
    execute format('alter database %I set jit = off', current_database());
exception
    when insufficient_privilege then
        raise notice 'user % does not own database %; its owner can make dashboards faster: alter database % set jit = off;',
            current_user, current_database(), quote_ident(current_database());
end
$$;

select grant_dashboard();
