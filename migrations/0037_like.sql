-- How long a waiting job is going to take is estimated by jobs like it. Of a search those are its
-- own; which they are of a job that was submitted alone had not been written down.
alter table job add column like_search_id uuid;
comment on column job.like_search_id is 'Of a job that was submitted alone: the search that it is trained for, if its steps are like those of that search''s retrainings, by whose time it is estimated.';
