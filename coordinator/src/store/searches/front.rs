//! Notices architectures that enter the front of their search.

use cakes_proto::ids::SearchId;
use sqlx::PgConnection;

use crate::core::front::{FrontPoint, Scored, front_points};
use crate::core::webhook::WebhookEvent;
use crate::store::error::{Error, corrupt, failed};
use crate::store::webhooks::{Happening, record};

/// Tells of every architecture that is on the front for the first time. The search is
/// locked.
pub(super) async fn announce(connection: &mut PgConnection, id: SearchId) -> Result<(), Error> {
    let (results, metric) = read_results(connection, id).await?;
    let points = front_points(&results);
    let digests: Vec<String> = points.iter().map(|point| point.architecture.to_string()).collect();
    let entered = sqlx::query_scalar!(
        "insert into search_front_point (search_id, architecture_digest)
         select $1, digest from unnest($2::text[]) as row (digest)
         on conflict do nothing
         returning architecture_digest",
        id.0,
        &digests
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("record points of a front"))?;
    let is_new = |point: &&FrontPoint| entered.contains(&point.architecture.to_string());
    for point in points.iter().filter(is_new) {
        let happening = Happening {
            event: WebhookEvent::FrontPoint,
            search: Some(id),
            job: None,
            point: Some((point, &metric)),
        };
        record(connection, happening).await?;
    }
    Ok(())
}

/// Results of the retrainings so far, and the name of their quality.
async fn read_results(connection: &mut PgConnection, id: SearchId) -> Result<(Vec<Scored>, String), Error> {
    let rows = sqlx::query!(
        r#"select job.architecture_digest as "digest!", result.quality, result.quality_metric,
               coalesce(
                   (select min(given.mac_count) from search_architecture given
                    where given.search_id = job.search_id and given.digest = job.architecture_digest),
                   result.mac_count
               ) as "mac_count!"
           from job join result on result.job_id = job.id
           where job.search_id = $1 and job.kind = 'retrain' and job.state = 'succeeded'"#,
        id.0
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the results of a search"))?;
    let metric = rows.first().map(|row| row.quality_metric.clone()).unwrap_or_default();
    let results = rows.into_iter().map(|row| {
        Ok(Scored {
            architecture: row.digest.parse().map_err(|error| corrupt("a digest", &error))?,
            quality: row.quality,
            mac_count: u64::try_from(row.mac_count).unwrap_or(0),
        })
    });
    Ok((results.collect::<Result<_, Error>>()?, metric))
}
