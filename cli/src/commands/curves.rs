//! Fetches the learning curves of a search.

use cakes::metric::Metric;
use cakes_proto::v1;

use crate::client::{Client, rpc};
use crate::error::CommandError;
use crate::plot::curves::{JobCurves, Series};
use crate::quality::{self, Quality};

const LOSS: &str = Metric::Loss.key();
const VALIDATION_LOSS: &str = Metric::ValidationLoss.key();
/// More than a picture can show.
const POINT_COUNT_MAX: i32 = 1000;

/// What the jobs of a search are compared by; none before the first validation.
pub fn metric(search: &v1::Search) -> Option<String> {
    search.jobs.iter().find_map(Quality::of_job).map(|quality| quality.metric)
}

/// Curves of all jobs that have reported any.
///
/// # Errors
/// The coordinator is away or refuses.
pub async fn of_search(client: &Client, search: &v1::Search) -> Result<Vec<JobCurves>, CommandError> {
    let quality_key = metric(search).map(|metric| quality::curve_key(&metric));
    let keys: Vec<String> =
        [LOSS.to_owned(), VALIDATION_LOSS.to_owned()].into_iter().chain(quality_key.clone()).collect();
    let mut all = Vec::new();
    for job in &search.jobs {
        let request = v1::ListMetricsRequest {
            id: job.id.clone(),
            keys: keys.clone(),
            point_count_max: POINT_COUNT_MAX,
        };
        let response = rpc!(client, jobs.list_metrics, "JobService/ListMetrics", request)?;
        let curves = JobCurves {
            label: job.label.clone(),
            loss: series(&response, LOSS),
            validation_loss: series(&response, VALIDATION_LOSS),
            quality: quality_key.as_deref().map(|key| series(&response, key)).unwrap_or_default(),
        };
        if !curves.loss.is_empty() || !curves.quality.is_empty() {
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
