-- What filters of lists ask of jobs and searches, under the names of the API: a field without a
-- value is left out, and times are seconds since 1970, which compare exactly.
create function job_fields(job job) returns jsonb language sql stable
begin atomic
    select jsonb_strip_nulls(jsonb_build_object(
        'architecture_digest', job.architecture_digest,
        'attempt_count', job.epoch,
        'cost_limit_device_hours', job.cost_limit_device_s / 3600.0,
        'create_time', extract(epoch from job.create_time),
        'deadline', extract(epoch from job.deadline),
        'end_time', extract(epoch from job.end_time),
        'kind', job.kind,
        'label', job.label,
        'labels', job.labels,
        'owner', job.owner,
        'priority', job.priority,
        'project', job.project,
        'result.device', result.device,
        'result.latency_ms', result.latency_ms,
        'result.mac_count', result.mac_count,
        'result.param_count', result.param_count,
        'result.peak_memory_mib', result.peak_memory_mib,
        'result.quality', result.quality,
        'result.train_duration_s', result.train_duration_s,
        'search_id', job.search_id,
        'start_time', extract(epoch from job.start_time),
        'state', job.state,
        'state_reason', nullif(job.state_reason, ''),
        'worker_id', attempt.worker_id,
        'worker_labels', job.worker_labels
    ))
    from (select 1) as one
    left join result on result.job_id = job.id
    left join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch;
end;

create function search_fields(search search) returns jsonb language sql stable
begin atomic
    select jsonb_strip_nulls(jsonb_build_object(
        'cost_limit_device_hours', search.cost_limit_device_s / 3600.0,
        'create_time', extract(epoch from search.create_time),
        'deadline', extract(epoch from search.deadline),
        'end_time', extract(epoch from search.end_time),
        'labels', search.labels,
        'owner', search.owner,
        'priority', search.priority,
        'project', search.project,
        'spec.name', search.name,
        'state', search.state,
        'state_reason', nullif(search.state_reason, ''),
        'worker_labels', search.worker_labels
    ));
end;

-- Lists of the jobs of all searches go by it, so that a page costs what it holds.
create index job_position on job (position);
