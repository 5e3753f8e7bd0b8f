-- What changes something is recorded before it is done, so that no coordinator can die between
-- an act and its row. Rows are only added: the outcome is a row of its own, which names the first.

alter table audit add column begun_id bigint unique references audit (id);

comment on column audit.answer is 'ok, or why not: FORBIDDEN, WRONG_STATE, ...; BEGUN before it is done.';
comment on column audit.begun_id is 'The row that said it was begun; null where nothing was begun.';
