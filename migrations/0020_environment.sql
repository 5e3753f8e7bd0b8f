-- What an attempt ran with: a result is only comparable with another where these agree.
-- As for metrics there is no foreign key: whoever writes holds the attempt's row anyway.
create table attempt_environment (
    job_id uuid not null,
    epoch bigint not null,
    libtorch text check (length(libtorch) between 1 and 200),
    device text check (length(device) between 1 and 200),
    worker_version text check (length(worker_version) between 1 and 64),
    data_sha256 text check (data_sha256 ~ '^[0-9a-f]{64}$'),
    data_file_count bigint check (data_file_count >= 0),
    data_bytes bigint check (data_bytes >= 0),
    entry_seqs bigint[] not null default '{}',
    primary key (job_id, epoch),
    check ((data_sha256 is null) = (data_file_count is null) and (data_sha256 is null) = (data_bytes is null))
);

comment on table attempt_environment is 'Versions, device and data of an attempt, as its trainer told them.';
comment on column attempt_environment.device is '''cpu'', or the GPU''s name.';
comment on column attempt_environment.data_sha256 is 'Over a line ''SHA256 SIZE PATH'' of each file of the data set, sorted by path.';
comment on column attempt_environment.entry_seqs is 'Numbers of the entries of reports that told it.';
comment on column attempt_environment.data_file_count is 'Files of the data set; 0 of generated data.';
