-- Points of the long jobs, and what second attempts repeated.
set session_replication_role = replica;
set synchronous_commit = off;

insert into metric (job_id, epoch, seq, key, step, value, time)
select md5('supernet ' || s)::uuid, 1, step, key, step, 1::float8 / step + number, now() + step * interval '1 second'
from generate_series(1, {long_steps}) step cross join generate_series(0, {long_jobs} - 1) s
cross join unnest(array['train/loss', 'train/learning_rate', 'train/samples_per_s', 'train/data_wait_share'])
    with ordinality keys (key, number);

insert into metric (job_id, epoch, seq, key, step, value, time)
select md5('job ' || a)::uuid, 2, step, key, step, 1::float8 / step + number, now() + step * interval '1 second'
from generate_series(7, {architectures} - 1, 20) a
cross join generate_series({steps} / 2 + 1, {steps} * 6 / 10) step
cross join unnest(array['train/loss', 'train/learning_rate', 'train/samples_per_s', 'validation/mean_dice'])
    with ordinality keys (key, number);

insert into metric_range
select job_id, key, range_number(step, step_count), min(step), max(step), count(*), count(*), sum(value),
       min(value), max(value), 1, min(seq), max(metric.time)
from metric join job on job.id = job_id and step_count > 256
group by job_id, key, range_number(step, step_count);

drop table filled_job;
