-- How many devices of one worker a training needs at once.

alter table job add column device_count integer not null
    generated always as (coalesce((trainer_job -> 'training' ->> 'devices')::integer, 1)) stored;

comment on column job.device_count is 'Devices that train together; slots of fewer are not offered the job.';
comment on column worker.devices is 'Array of {name, model, memory_mib, count}: slots, each for one job at a time. count: devices that train together there, 1 without it; memory_mib is that of each.';
