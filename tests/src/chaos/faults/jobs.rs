//! Jobs that are themselves the fault.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Chaos, Proof, seen};

/// Such jobs wait in the queue like others, and are tried several times.
const PATIENCE: Duration = Duration::from_secs(150);

/// F7.
pub(super) async fn runs_away(chaos: &Chaos) -> Result<Proof> {
    let job = chaos.clients.submit_runaway().await?;
    let ended = seen(PATIENCE, async || {
        let statement = "select coalesce(body->>'reason', ''), (
                select count(*) from attempt where job_id = $1 and failure_class = 'numeric'
            ) from event where job_id = $1 and kind = 'job_failed' limit 1";
        let query = sqlx::query_as(statement).bind(job);
        let ended: Option<(String, i64)> = query.fetch_optional(&chaos.plant.pool).await?;
        Ok(ended)
    })
    .await;
    let Some((reason, count)) = ended else { return Ok(None) };
    let statement = "select count(*) from metric join attempt using (job_id, epoch)
        join checkpoint on checkpoint.job_id = metric.job_id and checkpoint.epoch = metric.epoch
        where metric.job_id = $1 and metric.key = 'train/loss' and metric.step <= checkpoint.step
            and metric.value in ('NaN', 'Infinity')";
    let bad: i64 = sqlx::query_scalar(statement).bind(job).fetch_one(&chaos.plant.pool).await.unwrap_or(0);
    ensure!(bad == 0, "job {job} has a checkpoint behind a loss that is not finite");
    Ok((count > 0).then(|| format!("{count} numeric failures, then: {}", short(&reason))))
}

/// F36.
pub(super) async fn poison(chaos: &Chaos) -> Result<Proof> {
    let job = chaos.clients.submit_poison().await?;
    let ended = seen(PATIENCE, async || {
        let statement = "select state_reason, epoch from job where id = $1 and state = 'failed'";
        let query = sqlx::query_as(statement).bind(job);
        let ended: Option<(String, i64)> = query.fetch_optional(&chaos.plant.pool).await?;
        Ok(ended)
    })
    .await;
    let Some((reason, attempts)) = ended else { return Ok(None) };
    ensure!(attempts <= 20, "poison job {job} had {attempts} attempts");
    Ok(reason.contains("quarantined").then(|| format!("{attempts} attempts, then: {}", short(&reason))))
}

fn short(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}
