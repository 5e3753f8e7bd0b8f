//! Long curves summed up in ranges of steps, as they are reported.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::report::Entry;
use super::report_rows::Reporting;
use crate::store::error::{Error, failed};

/// Most ranges of a curve; jobs with fewer steps have none.
const RANGE_COUNT: i64 = 256;

/// What reports add to ranges.
#[derive(Debug, Default)]
pub(super) struct CurveRows {
    ranges: BTreeMap<(Uuid, String, i32), Range>,
    rewound: Rewound,
}

/// Attempts whose first entries these are, with the step that they went on from.
#[derive(Debug, Default)]
struct Rewound {
    jobs: Vec<Uuid>,
    resume_steps: Vec<i64>,
}

/// Points of one range.
#[derive(Clone, Debug, PartialEq)]
struct Range {
    epoch: i64,
    first_seq: i64,
    first_step: i64,
    last_step: i64,
    value_count: i64,
    finite_count: i64,
    value_sum: f64,
    value_min: Option<f64>,
    value_max: Option<f64>,
    time: chrono::DateTime<chrono::Utc>,
}

/// Range that a step lies in, as the function of the same name in the database;
/// `None` where the job has so few steps that nothing is summed up.
fn range_number(step: i64, step_count: i64) -> Option<i32> {
    if step_count <= RANGE_COUNT {
        return None;
    }
    let width = step_count / RANGE_COUNT + i64::from(step_count % RANGE_COUNT > 0);
    let number = ((step - 1).max(0) / width).min(RANGE_COUNT - 1);
    i32::try_from(number).ok()
}

impl CurveRows {
    /// Adds an entry that is not stored yet.
    pub(super) fn add(&mut self, attempt: &Reporting, seq: i64, entry: &Entry) {
        let Entry::Metric { step, values, time } = entry else { return };
        let Some(number) = range_number(*step, attempt.step_count) else { return };
        for (key, value) in values {
            let range = self.ranges.entry((attempt.job, key.clone(), number)).or_insert_with(|| Range {
                epoch: attempt.epoch,
                first_seq: seq,
                first_step: *step,
                last_step: *step,
                value_count: 0,
                finite_count: 0,
                value_sum: 0.0,
                value_min: None,
                value_max: None,
                time: *time,
            });
            range.add(*step, *value);
            range.time = *time;
        }
    }

    /// Notes that these are the first entries of an attempt.
    pub(super) fn begin(&mut self, attempt: &Reporting) {
        if attempt.epoch > 1 && attempt.step_count > RANGE_COUNT {
            self.rewound.jobs.push(attempt.job);
            self.rewound.resume_steps.push(attempt.resume_step);
        }
    }

    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if !self.rewound.jobs.is_empty() {
            rewind(connection, &self.rewound).await?;
        }
        if self.ranges.is_empty() {
            return Ok(());
        }
        self.write_ranges(connection).await
    }

    async fn write_ranges(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let column = |of: fn(&Range) -> i64| -> Vec<i64> { self.ranges.values().map(of).collect() };
        let finite =
            |of: fn(&Range) -> Option<f64>| -> Vec<Option<f64>> { self.ranges.values().map(of).collect() };
        let jobs: Vec<Uuid> = self.ranges.keys().map(|(job, ..)| *job).collect();
        let keys: Vec<String> = self.ranges.keys().map(|(_, key, _)| key.clone()).collect();
        let numbers: Vec<i32> = self.ranges.keys().map(|(.., number)| *number).collect();
        let sums: Vec<f64> = self.ranges.values().map(|range| range.value_sum).collect();
        let times: Vec<_> = self.ranges.values().map(|range| range.time).collect();
        sqlx::query!(
            "insert into metric_range as known
                 (job_id, key, number, first_step, last_step, value_count, finite_count, value_sum, value_min,
                  value_max, first_epoch, first_seq, time)
             select * from unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                 $7::bigint[], $8::float8[], $9::float8[], $10::float8[], $11::bigint[], $12::bigint[],
                 $13::timestamptz[])
             on conflict (job_id, key, number) do update set
                 first_step = least(known.first_step, excluded.first_step),
                 last_step = greatest(known.last_step, excluded.last_step),
                 value_count = known.value_count + excluded.value_count,
                 finite_count = known.finite_count + excluded.finite_count,
                 value_sum = known.value_sum + excluded.value_sum,
                 value_min = least(known.value_min, excluded.value_min),
                 value_max = greatest(known.value_max, excluded.value_max),
                 time = excluded.time",
            &jobs,
            &keys,
            &numbers,
            &column(|range| range.first_step),
            &column(|range| range.last_step),
            &column(|range| range.value_count),
            &column(|range| range.finite_count),
            &sums,
            &finite(|range| range.value_min) as _,
            &finite(|range| range.value_max) as _,
            &column(|range| range.epoch),
            &column(|range| range.first_seq),
            &times
        )
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("sum up curves"))
    }
}

impl Range {
    fn add(&mut self, step: i64, value: f64) {
        self.first_step = self.first_step.min(step);
        self.last_step = self.last_step.max(step);
        self.value_count += 1;
        if value.is_finite() {
            self.finite_count += 1;
            self.value_sum += value;
            self.value_min = Some(self.value_min.map_or(value, |least| least.min(value)));
            self.value_max = Some(self.value_max.map_or(value, |most| most.max(value)));
        }
    }
}

/// Takes out what earlier attempts reported beyond the steps that these went on from:
/// whole ranges, and from the range in between by summing up its points again.
async fn rewind(connection: &mut PgConnection, rewound: &Rewound) -> Result<(), Error> {
    // S14: up to the step from which the next attempt went on.
    sqlx::query!(
        "with cut as (
             delete from metric_range
             using unnest($1::uuid[], $2::bigint[]) as resumed (job_id, step)
             where metric_range.job_id = resumed.job_id and metric_range.last_step > resumed.step
             returning metric_range.*, resumed.step as resume_step
         )
         insert into metric_range
             (job_id, key, number, first_step, last_step, value_count, finite_count, value_sum, value_min,
              value_max, first_epoch, first_seq, time)
         select cut.job_id, cut.key, cut.number, min(point.step), max(point.step), count(*), count(point.value),
             coalesce(sum(point.value), 0), min(point.value), max(point.value), cut.first_epoch, cut.first_seq,
             max(point.time)
         from cut cross join lateral (
             select distinct on (metric.step) metric.step, metric.time,
                 nullif(nullif(nullif(metric.value, 'NaN'), 'Infinity'), '-Infinity') as value
             from metric
             where metric.job_id = cut.job_id and metric.key = cut.key
                 and (metric.epoch, metric.seq) >= (cut.first_epoch, cut.first_seq)
                 and metric.step between cut.first_step and cut.resume_step
                 and metric.step <= coalesce(
                     (select min(later.resume_step) from attempt later
                      where later.job_id = metric.job_id and later.epoch > metric.epoch),
                     metric.step
                 )
             order by metric.step, metric.epoch desc, metric.seq desc
         ) point
         group by cut.job_id, cut.key, cut.number, cut.first_epoch, cut.first_seq",
        &rewound.jobs,
        &rewound.resume_steps
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed("take superseded points out of curves"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_has_256_ranges_at_most_and_a_short_one_none() {
        assert_eq!(range_number(1, 256), None);
        for step_count in [257, 511, 512, 1000, 250_000, i64::MAX] {
            assert_eq!(range_number(0, step_count), Some(0));
            assert_eq!(range_number(1, step_count), Some(0));
            let last = range_number(step_count, step_count).unwrap();
            assert!((128..256).contains(&last), "{step_count}: {last}");
            assert_eq!(range_number(i64::MAX, step_count), Some(255));
        }
    }
}
