-- What came out of searches, for dashboards, and the role that reads it.

create view dashboard.architectures as
select given.search_id,
       search.name as search_name,
       given.origin,
       given.digest as architecture_digest,
       (select jsonb_object_keys(architecture.spec -> 'backbone') limit 1) as backbone,
       given.retrain as is_retrained,
       given.param_count,
       given.mac_count,
       given.mac_fraction as mac_share,
       given.create_time
from search_architecture given
join search on search.id = given.search_id
join architecture on architecture.digest = given.digest;

comment on view dashboard.architectures is 'One row per search and origin: architectures that searches hold. One architecture may have several origins.';
comment on column dashboard.architectures.search_id is 'Search that holds it.';
comment on column dashboard.architectures.search_name is 'Name of that search.';
comment on column dashboard.architectures.origin is 'Where it came from: ''budget 0.5'', ''paper rule'', ''baseline c3d''.';
comment on column dashboard.architectures.architecture_digest is 'SHA-256 of the architecture in hexadecimal; equal architectures have equal ones.';
comment on column dashboard.architectures.backbone is 'Family of the network: encoder_decoder, video_resnet, volume_resnet, ...';
comment on column dashboard.architectures.is_retrained is 'Whether the search trains it; others were only derived on request.';
comment on column dashboard.architectures.param_count is 'Parameters.';
comment on column dashboard.architectures.mac_count is 'Multiply-accumulates of one patch of the search.';
comment on column dashboard.architectures.mac_share is 'mac_count over that of the network of 3x3x3 kernels alone.';
comment on column dashboard.architectures.create_time is 'When the search got it.';

create view dashboard.layer_composition as
select architecture.digest as architecture_digest,
       layer.number as layer_number,
       layer.name as layer,
       part.kernel,
       array_position(
           array['3x3x3', '1x3x3', '3x1x3', '3x3x1', '3x1x1', '1x3x1', '1x1x3', '1x1x1'], part.kernel
       ) as kernel_number,
       part.channel_count::integer as channel_count,
       layer.channel_count as layer_channel_count,
       part.channel_count::double precision / layer.channel_count as channel_share
from architecture
cross join lateral (
    select element.number::integer as number, element.value ->> 'layer' as name, element.value -> 'channels' as channels,
           (select sum(count.value::integer) from jsonb_each_text(element.value -> 'channels') count)::integer
               as channel_count
    from jsonb_array_elements(architecture.spec -> 'layers') with ordinality as element (value, number)
    offset 0
) layer
cross join lateral jsonb_each_text(layer.channels) as part (kernel, channel_count);

comment on view dashboard.layer_composition is 'One row per architecture, layer and kernel: how the channels of each layer are shared out. Filter by architecture_digest.';
comment on column dashboard.layer_composition.architecture_digest is 'Architecture.';
comment on column dashboard.layer_composition.layer_number is 'Place of the layer in the order in which layers run, from 1.';
comment on column dashboard.layer_composition.layer is 'Name of the layer.';
comment on column dashboard.layer_composition.kernel is 'Kernel, by its taps along D (or T), H and W: 3x3x3, 1x3x3, ..., 1x1x1. Kernels without channels have no row.';
comment on column dashboard.layer_composition.kernel_number is 'Place of the kernel in the canonical order, from 1 for 3x3x3: the order to stack them in.';
comment on column dashboard.layer_composition.channel_count is 'Output channels of the layer that this kernel computes.';
comment on column dashboard.layer_composition.layer_channel_count is 'Output channels of the whole layer.';
comment on column dashboard.layer_composition.channel_share is 'channel_count over layer_channel_count.';

create view dashboard.pareto_front as
select search.id as search_id,
       search.name as search_name,
       ranked.architecture_digest,
       ranked.origins,
       ranked.quality,
       ranked.quality_deviation,
       ranked.quality_metric,
       ranked.seed_count,
       ranked.param_count,
       ranked.mac_count,
       ranked.mac_fraction as mac_share,
       ranked.latency_ms,
       ranked.device,
       coalesce(ranked.rank = best_at_mac and ranked.rank > coalesce(best_below_mac, '-Infinity'), false)
           as is_on_mac_front,
       coalesce(ranked.rank = best_at_param and ranked.rank > coalesce(best_below_param, '-Infinity'), false)
           as is_on_param_front,
       coalesce(
           latency_ms is not null and ranked.rank = best_at_latency
               and ranked.rank > coalesce(best_below_latency, '-Infinity'),
           false
       ) as is_on_latency_front,
       ranked.end_time
-- Search by search, so that whoever asks for some does not pay for all.
from search cross join lateral (
    -- Beaten is whoever has a better one at the same cost, or as good a one at less.
    select costed.*,
           max(rank) over (partition by mac_count) as best_at_mac,
           max(rank) over (order by mac_count groups between unbounded preceding and 1 preceding) as best_below_mac,
           max(rank) over (partition by param_count) as best_at_param,
           max(rank) over (order by param_count groups between unbounded preceding and 1 preceding) as best_below_param,
           max(rank) over (partition by latency_ms) as best_at_latency,
           max(rank) over (order by latency_ms groups between unbounded preceding and 1 preceding)
               as best_below_latency
    from (
        select entry.*, nullif(entry.quality, 'NaN') as rank, given.origins, given.param_count, given.mac_count,
               given.mac_fraction
        from (
            select job.architecture_digest,
                   count(*) as seed_count,
                   avg(result.quality) as quality,
                   coalesce(stddev_samp(result.quality), 0) as quality_deviation,
                   max(result.quality_metric) as quality_metric,
                   avg(result.latency_ms) as latency_ms,
                   string_agg(distinct result.device, ', ' order by result.device) as device,
                   max(result.end_time) as end_time
            from job join result on result.job_id = job.id
            where job.search_id = search.id and job.kind = 'retrain' and job.state = 'succeeded'
            group by job.architecture_digest
        ) entry cross join lateral (
            select string_agg(origin, ', ' order by position) as origins, min(param_count) as param_count,
                   min(mac_count) as mac_count, min(mac_fraction) as mac_fraction
            from search_architecture
            where search_architecture.digest = entry.architecture_digest
                and search_architecture.search_id = search.id
        ) given
    ) costed
) ranked;

comment on view dashboard.pareto_front is 'One row per search and retrained architecture with a result: means over its seeds, and whether no other architecture of the search beats it.';
comment on column dashboard.pareto_front.search_id is 'Search.';
comment on column dashboard.pareto_front.search_name is 'Name of that search.';
comment on column dashboard.pareto_front.architecture_digest is 'Architecture.';
comment on column dashboard.pareto_front.origins is 'Where it came from, comma-separated: ''budget 0.5'', ''baseline c3d''.';
comment on column dashboard.pareto_front.quality is 'Mean quality over the seeds, 0 to 1, higher is better.';
comment on column dashboard.pareto_front.quality_deviation is 'Sample standard deviation over the seeds; 0 for a single one.';
comment on column dashboard.pareto_front.quality_metric is 'Name of the quality: mean_dice or top1.';
comment on column dashboard.pareto_front.seed_count is 'Retrainings that have a result.';
comment on column dashboard.pareto_front.param_count is 'Parameters.';
comment on column dashboard.pareto_front.mac_count is 'Multiply-accumulates of one patch.';
comment on column dashboard.pareto_front.mac_share is 'mac_count over that of the network of 3x3x3 kernels alone.';
comment on column dashboard.pareto_front.latency_ms is 'Mean over the seeds of the median time of a forward pass over one patch at batch 1; null where none was measured.';
comment on column dashboard.pareto_front.device is 'Devices that the latencies were measured on, comma-separated.';
comment on column dashboard.pareto_front.is_on_mac_front is 'Whether no architecture of the search is as good with fewer MACs or better with as many.';
comment on column dashboard.pareto_front.is_on_param_front is 'The same for parameters.';
comment on column dashboard.pareto_front.is_on_latency_front is 'The same for latency; false where none was measured. Compares only what ran on one kind of device.';
comment on column dashboard.pareto_front.end_time is 'When its last retraining ended.';

-- The role is of the whole server, and other databases of it may create it at the
-- same moment. Where this user may not create roles, an administrator does.
create function grant_dashboard(reader name default 'cakes_dashboard') returns void language plpgsql as $$
begin
    -- Of two who grant at once one would fail.
    perform pg_advisory_xact_lock(hashtext('grant_dashboard'));
    if not exists (select from pg_roles where rolname = reader) then
        begin
            execute format('create role %I nologin', reader);
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise warning 'user % may not create roles, so nobody else reads the schema dashboard yet; '
                    'let an administrator create the role, and then give it its rights: '
                    'create role % nologin; select grant_dashboard(%);',
                    current_user, quote_ident(reader), quote_literal(reader);
                return;
        end;
    end if;
    execute format('grant usage on schema dashboard to %I', reader);
    execute format('grant select on all tables in schema dashboard to %I', reader);
end
$$;

comment on function grant_dashboard(name) is
    'Creates a role if it is missing and lets it read the views of the schema dashboard, and nothing else.';
revoke execute on function grant_dashboard(name) from public;

select grant_dashboard();
