//! Fetches the learning curves of a search.

use cakes_proto::v1;

use crate::client::{Client, rpc};
use crate::error::CommandError;
use crate::plot::curves::{JobCurves, Series};

const LOSS: &str = "train/loss";
const DICE: &str = "validation/mean_dice";
/// More than a picture can show.
const POINT_COUNT_MAX: i32 = 1000;

/// Curves of all jobs that have reported any.
///
/// # Errors
/// The coordinator is away or refuses.
pub async fn of_search(client: &Client, search: &v1::Search) -> Result<Vec<JobCurves>, CommandError> {
    let mut all = Vec::new();
    for job in &search.jobs {
        let request = v1::ListMetricsRequest {
            id: job.id.clone(),
            keys: vec![LOSS.to_owned(), DICE.to_owned()],
            point_count_max: POINT_COUNT_MAX,
        };
        let response = rpc!(client, jobs.list_metrics, "JobService/ListMetrics", request)?;
        let curves = JobCurves {
            label: job.label.clone(),
            loss: series(&response, LOSS),
            dice: series(&response, DICE),
        };
        if !curves.loss.is_empty() || !curves.dice.is_empty() {
            all.push(curves);
        }
    }
    Ok(all)
}

fn series(response: &v1::ListMetricsResponse, key: &str) -> Series {
    let curve = response.curves.iter().find(|curve| curve.key == key);
    let points = |curve: &v1::MetricCurve| {
        let steps = curve.steps.iter().map(|step| *step as f64);
        steps.zip(curve.values.iter().copied()).filter(|(_, value)| value.is_finite()).collect()
    };
    curve.map(points).unwrap_or_default()
}
