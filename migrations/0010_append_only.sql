-- History is written once: an UPDATE or DELETE that slips into the code fails in
-- its first test instead of rewriting results.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are never changed or deleted', tg_table_name
        using errcode = 'restrict_violation';
end
$$;

comment on function refuse_change() is 'Makes a table append only.';

create trigger append_only before update or delete on event
    for each statement execute function refuse_change();
create trigger append_only before update or delete on metric
    for each statement execute function refuse_change();
create trigger append_only before update or delete on log_line
    for each statement execute function refuse_change();
create trigger append_only before update or delete on result
    for each statement execute function refuse_change();
create trigger append_only before update or delete on supernet_scores
    for each statement execute function refuse_change();
