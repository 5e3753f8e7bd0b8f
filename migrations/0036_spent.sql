-- What people see of a limit of device-hours, and what a resumption is held against.

-- Device-seconds that a job took so far: those of its ended attempts, and those of the one that goes on.
create function spent_device_s(job) returns bigint volatile language sql begin atomic
    select taken_device_s($1) + coalesce((
        select extract(epoch from clock_timestamp() - attempt.grant_time)::bigint * $1.device_count
        from attempt where attempt.job_id = $1.id and attempt.end_time is null
    ), 0);
end;
