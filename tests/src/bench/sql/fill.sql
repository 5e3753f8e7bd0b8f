-- Searches of a hundred architectures each, as if they had run. One in ten is still
-- retraining, the first ones have a supernet of very many steps. Names in braces are
-- replaced. As a replica the server checks no foreign keys and keeps no history.
set session_replication_role = replica;
do $$ begin perform setseed(0.5); end $$;

insert into search (id, name, spec, state, create_time, end_time)
select md5('search ' || s)::uuid, 'search-' || s,
       '{"backbone": {"encoder_decoder": {}}, "dataset": {"folder": {}}, "patch": [32, 32, 32]}',
       case when s % 10 = 0 then 'retraining' else 'succeeded' end,
       now() - ({searches} - s) * interval '500 minutes',
       case when s % 10 > 0 then now() - ({searches} - s) * interval '500 minutes' + interval '5 hours' end
from generate_series(0, {searches} - 1) s;

insert into worker (id, incarnation, devices, version, register_request_id, last_seen_time)
select 'node-' || w, 1,
       (select jsonb_agg(jsonb_build_object('name', 'cuda:' || d, 'model', 'GPU', 'memory_mib', 80000))
        from generate_series(0, 3) d),
       '0.1.0', gen_random_uuid(),
       -- Heard of an hour from now, so that a long bench loses none but the last.
       case w when {workers} - 1 then now() - interval '1 hour' else now() + interval '1 hour' end
from generate_series(0, {workers} - 1) w;

insert into architecture (digest, spec, create_time)
select md5('a ' || a) || md5('b ' || a),
       jsonb_build_object('backbone', '{"encoder_decoder": {"base_width": 32}}'::jsonb, 'layers', (
           select jsonb_agg(jsonb_build_object('layer', 'encoder.' || l / 4 || '.conv' || l % 4, 'channels',
               jsonb_build_object('3x3x3', 1 + (a + l) % 16, '1x3x3', 1 + (a * 3 + l) % 7, '3x1x1', 1 + a % 5,
                   '1x1x1', 34 - (a + l) % 16 - (a * 3 + l) % 7 - a % 5)))
           from generate_series(0, 19) l
       )),
       now() - ({architectures} - a) * interval '5 minutes'
from generate_series(0, {architectures} - 1) a;

insert into search_architecture
    (search_id, origin, digest, retrain, cost, param_count, mac_count, mac_fraction, create_time)
select md5('search ' || a / 100)::uuid, 'budget 0.' || lpad((1 + a % 100)::text, 3, '0'), digest, true, spec,
       100000 + 1000 * (a % 100) + a::bigint * 7919 % 900, 1000000 * (1 + a % 100) + a::bigint * 104729 % 900000,
       (1 + a % 100) / 101.0, create_time
from generate_series(0, {architectures} - 1) a
join architecture on digest = md5('a ' || a) || md5('b ' || a);

-- number, id, search, kind, steps, state of every job.
create table filled_job as
select 's' || s as number, md5('supernet ' || s)::uuid as id, s as search, null::bigint as a,
       case when s < {long_jobs} then {long_steps} else {steps} end as step_count, 'succeeded' as state,
       now() - ({searches} - s) * interval '500 minutes' as time
from generate_series(0, {searches} - 1) s
union all
select 'a' || a, md5('job ' || a)::uuid, a / 100, a, {steps},
       case when a / 100 % 10 > 0 or a % 100 < 60 then 'succeeded' when a % 100 < 64 then 'running'
           when a % 100 < 66 then 'failed' else 'queued' end,
       now() - ({architectures} - a) * interval '5 minutes'
from generate_series(0::bigint, {architectures} - 1) a;

insert into job (id, search_id, kind, label, priority, architecture_digest, seed, trainer_job, step_count,
    memory_mib, state, state_reason, epoch, furthest_step, create_time, start_time, end_time, task)
select id, md5('search ' || search)::uuid, case when a is null then 'supernet' else 'retrain' end,
       coalesce('budget 0.' || lpad((1 + a % 100)::text, 3, '0') || ' seed 1', 'supernet'),
       case when a is null then 10 else 0 end, md5('a ' || a) || md5('b ' || a), 1,
       jsonb_build_object('training', (select string_agg(md5(id::text || n), '') from generate_series(1, 30) n)),
       step_count, 4000, state, case state when 'failed' then 'out of memory' else '' end,
       case when state = 'queued' then 0 when a % 20 = 7 then 2 else 1 end,
       case state when 'queued' then 0 else step_count end,
       time, case when state <> 'queued' then time + interval '1 minute' end,
       case when state in ('succeeded', 'failed') then time + interval '2 hours' end, 'segmentation'
from filled_job order by time;

insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state, resume_epoch,
    resume_step, last_step, last_seq, end_reason, failure_class, message, grant_time, start_time, end_time)
select id, epoch, decode(md5(id::text || epoch), 'hex'), 'node-' || (hashtext(number) & 1023) % {workers}, 1,
       'cuda:' || (hashtext(number) & 3), gen_random_uuid(),
       case when lives then 'running' else 'ended' end,
       case when epoch > 1 then 1 end, case when epoch > 1 then {steps} / 2 else 0 end,
       case when epochs > epoch then {steps} * 6 / 10 else step_count end, step_count,
       case when lives then null when epochs > epoch or state = 'failed' then 'failed' else 'succeeded' end,
       case when epochs > epoch then 'infrastructure' when state = 'failed' then 'resource' end, '',
       time + (epoch - 1) * interval '1 hour', time + (epoch - 1) * interval '1 hour' + interval '1 minute',
       case when not lives then time + epoch * interval '1 hour' end
from (select *, case when a % 20 = 7 then 2 else 1 end as epochs from filled_job where state <> 'queued') job
cross join lateral generate_series(1, epochs) epoch
cross join lateral (select state = 'running' and epochs = epoch as lives) lives
order by time;

insert into attempt_lease (job_id, epoch, deadline)
select job_id, epoch, now() + interval '1 day' from attempt where end_time is null;

insert into job_progress (job_id, step, step_count, loss, learning_rate, samples_per_s, quality, quality_metric,
    remaining_s, phase)
select id, case state when 'running' then step_count / 2 else step_count end, step_count, 0.3, 0.001, 40,
       0.8, 'mean_dice', 600, 'training'
from filled_job where state <> 'queued';

insert into result (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, mean_dice,
    dice_per_class, quality, quality_metric, param_count, mac_count, latency_ms, peak_memory_mib,
    train_duration_s, device, end_time, case_count)
select id, case when a % 20 = 7 then 2 else 1 end, step_count, sha256(id::text::bytea), 1, step_count, quality,
       array[quality], quality, 'mean_dice', 100000, 1000000, case when a is not null then 2 + a % 100 / 10.0 end,
       4000, 7000, 'GPU', time + interval '2 hours', 20
from filled_job cross join lateral (select 0.6 + 0.003 * coalesce(a % 100, 50) + 0.02 * random() + 0 * step_count) q (quality)
where state = 'succeeded';

insert into event (kind, search_id, job_id, epoch, worker_id, time, body)
select kind, md5('search ' || search)::uuid, id, 1, 'node-0', time + n * interval '1 minute',
       '{"from": "queued", "to": "leased", "reason": ""}'
from filled_job cross join unnest(array['job_queued', 'job_leased', 'job_started', 'job_succeeded'])
    with ordinality kinds (kind, n)
where state = 'succeeded' or n = 1
order by time;

analyze filled_job;

-- The index is built when the points are there, which is faster than one by one;
-- nobody asks what would be left after a crash.
alter table metric drop constraint metric_pkey;
alter table metric_0 set unlogged;
alter table metric_1 set unlogged;
alter table metric_2 set unlogged;
alter table metric_3 set unlogged;
alter table metric_4 set unlogged;
alter table metric_5 set unlogged;
alter table metric_6 set unlogged;
alter table metric_7 set unlogged;
