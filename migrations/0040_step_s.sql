-- How fast a job is stands in one place: what it says itself, and by which those like it are estimated.

-- Seconds for each step that a job has before it, as it last reported; null while unknown.
create function step_s(progress job_progress) returns double precision immutable parallel safe language sql
begin atomic
    select progress.remaining_s / nullif(progress.step_count - progress.step, 0);
end;
