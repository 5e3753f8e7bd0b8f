-- A retraining may start from the weights that a supernet ended with.
alter table job
    add column supernet_job_id uuid references job (id),
    add constraint job_supernet_check check (kind = 'retrain' or supernet_job_id is null);

comment on column job.supernet_job_id is 'The supernet from whose final weights the training starts; null where it starts otherwise.';
