-- Points of jobs that train side by side, 128 at a time, ten steps a report: what is
-- stored together is of many jobs. Four keys at each of {steps} steps.
set session_replication_role = replica;
set synchronous_commit = off;

insert into metric (job_id, epoch, seq, key, step, value, time)
select id, case when a % 20 = 7 and step > {steps} * 6 / 10 then 2 else 1 end, step,
       (array['train/loss', 'train/learning_rate', 'train/samples_per_s', 'validation/mean_dice'])[1 + n % 4],
       step, 1::float8 / step + n % 4 + n * 7919 % 1000 * 1e-4::float8, time + step * interval '10 seconds'
from generate_series({first}::bigint, {last}::bigint) n
cross join lateral (
    select n / (512 * {steps}) * 128 + n / 40 % 128 as a, n % (512 * {steps}) / 5120 * 10 + n / 4 % 10 + 1 as step
) place
join filled_job using (a);
