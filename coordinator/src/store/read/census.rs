//! How many there are of everything, for metrics.

use std::time::Duration;

use sqlx::PgPool;

use super::{failed, workers::interval};
use crate::store::Error;

/// One count: of which family, and by what.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub family: String,
    pub first: String,
    pub second: String,
    pub value: f64,
}

/// Families `searches`, `jobs`, `waiting`, `oldest` (age in seconds), `workers` and `devices`.
///
/// # Errors
/// The database fails.
pub async fn take(pool: &PgPool, lease_ttl: Duration) -> Result<Vec<Count>, Error> {
    sqlx::query_as!(
        Count,
        r#"with fleet as (
               select id, devices,
                   case when last_seen_time < clock_timestamp() - $1::interval then 'lost'
                        when suspect_until > clock_timestamp() then 'suspect'
                        else schedule end as state
               from worker
               where last_seen_time > clock_timestamp() - interval '1 day'
           ), waiting as (
               select reason, age_s from dashboard.queue
           )
           select 'searches' as "family!", state as "first!", '' as "second!", count(*)::float8 as "value!"
               from search group by state
           union all select 'jobs', state, '', count(*)::float8 from job group by state
           union all select 'waiting', reason, '', count(*)::float8 from waiting group by reason
           union all select 'oldest', '', '', coalesce(max(age_s), 0) from waiting
           union all select 'workers', state, '', count(*)::float8 from fleet group by state
           union all select 'devices', kind, use, sum(width)::float8 from (
               select split_part(split_part(device.name, '+', 1), ':', 1) as kind,
                   coalesce(device.count, 1) as width,
                   case when fleet.state = 'lost' then 'absent'
                        when exists (
                            select from live_slot
                            where live_slot.worker_id = fleet.id and live_slot.device = device.name
                        ) then 'busy'
                        else 'idle' end as use
               from fleet cross join lateral jsonb_to_recordset(fleet.devices) as device (name text, count integer)
           ) device group by kind, use"#,
        interval(lease_ttl)?
    )
    .fetch_all(pool)
    .await
    .map_err(failed("count everything for metrics"))
}
