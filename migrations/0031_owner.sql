-- Who submitted what: whoever may submit may also stop what is their own.
alter table search add column owner text;
alter table job add column owner text;

comment on column search.owner is 'Name in the token or the certificate that it was submitted with; null for nobody known.';
comment on column job.owner is 'The same of a job that was submitted alone; that of its search for the others.';
