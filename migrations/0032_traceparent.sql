-- The trace that a submission belongs to, so that what is done for it hours later, and by
-- another coordinator, is part of it.
alter table search add column traceparent text;
alter table search add column tracestate text;
alter table job add column traceparent text;
alter table job add column tracestate text;

comment on column search.traceparent is 'W3C Trace Context of the call that submitted it; null outside of any trace.';
comment on column search.tracestate is 'What tracing systems add to it; null where there is nothing.';
comment on column job.traceparent is 'W3C Trace Context of what queued it; null outside of any trace.';
comment on column job.tracestate is 'What tracing systems add to it; null where there is nothing.';
