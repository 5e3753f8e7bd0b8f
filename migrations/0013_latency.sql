-- Times of channels beside their scores: budgets may be fractions of measured time.
-- Supernets that were trained before have none.
alter table supernet_scores
    add column latency jsonb,
    add constraint supernet_scores_latency check (latency ?& array['fixed_ns', 'reference_ns', 'layers']);

comment on table supernet_scores is 'What a trained supernet found, in the domain''s JSON form.';
comment on column supernet_scores.scores is '|gamma| of every candidate channel.';
comment on column supernet_scores.latency is
    'Time of one channel of each kernel in each layer, in nanoseconds for one patch, on the result''s device; null of supernets of before times were measured.';
