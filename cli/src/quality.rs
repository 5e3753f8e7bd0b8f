//! The figure that networks are compared by: what people call it, by the name
//! that comes with it.

use cakes_proto::v1;

use crate::format;

/// A value under its metric's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    pub value: f64,
    /// "mean_dice", "top1".
    pub metric: String,
}

impl Quality {
    /// Of a job's result, else of its last validation.
    pub fn of_job(job: &v1::Job) -> Option<Self> {
        let result = job.result.as_ref().map(|result| (result.quality, &result.quality_metric));
        let progress = job.progress.as_ref();
        let validated = progress.and_then(|progress| Some((progress.quality?, &progress.quality_metric)));
        result.or(validated).map(|(value, metric)| Quality { value, metric: metric.clone() })
    }

    pub fn of_entry(entry: &v1::FrontEntry) -> Self {
        Quality { value: entry.quality, metric: entry.quality_metric.clone() }
    }

    /// `Dice 0.871`, `top-1 0.816`.
    pub fn text(&self) -> String {
        format!("{} {}", short_name(&self.metric), format::share(self.value))
    }
}

/// In lines and tables: `Dice`, `top-1`.
pub fn short_name(metric: &str) -> &str {
    match metric {
        "mean_dice" => "Dice",
        "top1" => "top-1",
        other => other,
    }
}

/// At the axis of a picture: `mean Dice`, `top-1 accuracy`.
pub fn title(metric: &str) -> String {
    match metric {
        "mean_dice" => "mean Dice".to_owned(),
        "top1" => "top-1 accuracy".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Key of its curve.
pub fn curve_key(metric: &str) -> String {
    format!("validation/{metric}")
}

/// The metric that all of these share; none without any or with several.
pub fn common_metric<'a>(metrics: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut metrics = metrics.into_iter().filter(|metric| !metric.is_empty());
    let first = metrics.next()?;
    metrics.all(|metric| metric == first).then_some(first)
}
