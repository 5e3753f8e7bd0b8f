//! What an operator may set.

use serde::Deserialize;

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;

/// The knobs of a round. The defaults are for jobs that last minutes to days.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Time after which a use of devices counts half.
    pub half_life_s: u64,
    /// A device in use counts as if it had been used for so long already; what makes a
    /// project's second job of a round stand behind another's first.
    pub lookahead_s: u64,
    /// Time that lifts a waiting job by one priority, up to the highest that waits or runs.
    pub age_step_s: u64,
    /// A job that has waited for longer, while younger ones of its project run, goes before
    /// jobs of other projects; one of each project at a time.
    pub patience_s: u64,
    /// Most blocked jobs of several devices for which devices are kept free. Jobs that others
    /// make way for are not counted.
    pub reservation_count: usize,
    /// Several devices are collected for a job that spreads only if the last of them is expected
    /// to be free within so long, or the job has waited for `patience_s`: they stand empty until then.
    pub collect_s: u64,
    /// How often a reservation may move to where it can be honoured earlier.
    pub move_count_max: u32,
    /// Runtime of a job that gives no estimate.
    pub assumed_runtime_s: u64,
    /// Time that a job takes to save a checkpoint and stop.
    pub checkpoint_s: u64,
    /// Whether jobs of a higher priority may take devices from others.
    pub preempts: bool,
    /// By how much a priority must be higher for that; smaller differences only order the
    /// queue. 1 or more.
    pub preemption_gap: u32,
    /// A job that has run for less is left alone.
    pub min_run_s: u64,
    /// A job that has made way so often is left alone.
    pub preemption_count_max: u32,
    /// A job goes before others of its project so long before the last moment at which
    /// it must start to meet its deadline.
    pub urgency_s: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            half_life_s: 7 * DAY_S,
            lookahead_s: HOUR_S,
            age_step_s: 12 * HOUR_S,
            patience_s: DAY_S,
            reservation_count: 4,
            collect_s: HOUR_S,
            move_count_max: 4,
            assumed_runtime_s: DAY_S,
            checkpoint_s: 120,
            preempts: true,
            preemption_gap: 5,
            min_run_s: HOUR_S / 2,
            preemption_count_max: 3,
            urgency_s: 6 * HOUR_S,
        }
    }
}
