//! How long a waiting job is going to train, by the time that it or jobs like it took for a step.
//!
//! ```text
//!  its own last attempt          ──► its seconds for a step  ┐
//!  else retrainings of its search,                           ├─► × the steps behind its checkpoint
//!   of its architecture, if any  ──► the slowest of them     │
//!   of others, else              ──► the slowest of them,    ┘
//!                                    slower still by MACs
//!  else                          ──► nobody knows
//! ```
//!
//! Of jobs that are like it those that have ended count, and what runs only where none has: an
//! attempt that has just begun knows little. The slowest, since devices may be lent until a moment
//! that was promised to somebody else, and a job that takes longer breaks that promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use uuid::Uuid;

/// What a search trains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub search: Uuid,
    /// Of the architecture, in hexadecimal.
    pub digest: String,
}

/// What a job that waits has before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Optimizer steps behind its last checkpoint.
    pub step_count: i64,
    /// Seconds that a step took its own last attempt, with its part of the validations; none if
    /// that did not come so far.
    pub step_s: Option<f64>,
    /// What retrainings it is like. None of a supernet, of which a search has one.
    pub kind: Option<Kind>,
}

/// How fast another job was, or is.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    pub kind: Kind,
    pub device_count: i32,
    /// Whether it is over: how fast a job was is surer than how fast one is.
    pub has_ended: bool,
    /// Seconds of a step, with its part of the validations.
    pub step_s: f64,
}

/// What is known of jobs that others may be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    paces: BTreeMap<Uuid, Vec<Pace>>,
    mac_counts: BTreeMap<Kind, i64>,
}

/// Time that a waiting job has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Of training and validations, in seconds; to load data and to start come on top.
    pub train_s: u64,
    pub by: By,
}

/// What an estimate is by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The job's own last attempt.
    Itself,
    /// The slowest of so many jobs like it.
    Alike { count: usize },
}

impl By {
    /// Other jobs that it is by.
    pub fn count(self) -> u32 {
        match self {
            By::Itself => 0,
            By::Alike { count } => u32::try_from(count).unwrap_or(u32::MAX),
        }
    }
}

impl Known {
    /// From the paces of other jobs; those that are no time are left out.
    pub fn new(paces: impl IntoIterator<Item = Pace>) -> Self {
        let mut known = Known::default();
        for pace in paces.into_iter().filter(|pace| is_time(pace.step_s)) {
            known.paces.entry(pace.kind.search).or_default().push(pace);
        }
        known
    }

    /// With what architectures cost for one patch of their search.
    pub fn with_mac_counts(self, mac_counts: impl IntoIterator<Item = (Kind, i64)>) -> Self {
        Known { mac_counts: mac_counts.into_iter().collect(), ..self }
    }

    /// Searches of whose architectures the MACs matter: those in which a kind of job is known by
    /// other kinds alone.
    pub fn searches_to_scale<'a>(&self, kinds: impl IntoIterator<Item = &'a Kind>) -> BTreeSet<Uuid> {
        let is_unlike = |kind: &&Kind| {
            let paces = self.paces.get(&kind.search);
            paces.is_some_and(|paces| paces.iter().all(|pace| pace.kind != **kind))
        };
        kinds.into_iter().filter(is_unlike).map(|kind| kind.search).collect()
    }

    /// The estimate of a job on so many devices.
    pub fn estimate(&self, work: &Work, device_count: i32) -> Option<Estimate> {
        let (step_s, by) = match work.step_s.filter(|step_s| is_time(*step_s)) {
            Some(step_s) => (step_s, By::Itself),
            None => self.slowest_alike(work.kind.as_ref()?, device_count)?,
        };
        // Whoever has all steps behind it validates and saves once more.
        let train_s = step_s * work.step_count.max(1) as f64;
        Some(Estimate { train_s: train_s.ceil() as u64, by })
    }

    fn slowest_alike(&self, wanted: &Kind, device_count: i32) -> Option<(f64, By)> {
        let paces = self.paces.get(&wanted.search)?;
        let paces: Vec<&Pace> = paces.iter().filter(|pace| pace.device_count == device_count).collect();
        let unlikeness = |pace: &Pace| (pace.kind != *wanted, !pace.has_ended);
        let least = paces.iter().map(|pace| unlikeness(pace)).min()?;
        let chosen = paces.into_iter().filter(|pace| unlikeness(pace) == least);
        let steps_s: Vec<f64> = chosen.map(|pace| pace.step_s * self.slowdown(&pace.kind, wanted)).collect();
        let slowest_s = steps_s.iter().copied().fold(0.0, f64::max);
        Some((slowest_s, By::Alike { count: steps_s.len() }))
    }

    /// By how much a step of more MACs takes longer. One of fewer is not taken for faster: on some
    /// devices a layer that is split among kernels takes longer than a whole one.
    fn slowdown(&self, of: &Kind, wanted: &Kind) -> f64 {
        match (self.mac_counts.get(of), self.mac_counts.get(wanted)) {
            (Some(of), Some(wanted)) if *of > 0 => (*wanted as f64 / *of as f64).max(1.0),
            _ => 1.0,
        }
    }
}

fn is_time(step_s: f64) -> bool {
    step_s.is_finite() && step_s > 0.0
}

impl Display for Estimate {
    /// `about 2 h 10 min of training, by 3 jobs like it`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "about {} of training, by ", span(self.train_s))?;
        match self.by {
            By::Itself => formatter.write_str("its last attempt"),
            By::Alike { count: 1 } => formatter.write_str("1 job like it"),
            By::Alike { count } => write!(formatter, "{count} jobs like it"),
        }
    }
}

/// In two units at most, rounded up.
fn span(seconds: u64) -> String {
    const MINUTE_S: u64 = 60;
    const HOUR_S: u64 = 60 * MINUTE_S;
    const DAY_S: u64 = 24 * HOUR_S;
    let of = |unit_s: u64, unit: &str, part_s: u64, part: &str| {
        let parts = seconds.div_ceil(part_s);
        let per_unit = unit_s / part_s;
        match (parts / per_unit, parts % per_unit) {
            (units, 0) => format!("{units} {unit}"),
            (units, parts) => format!("{units} {unit} {parts} {part}"),
        }
    };
    match seconds {
        0..MINUTE_S => format!("{seconds} s"),
        MINUTE_S..HOUR_S => format!("{} min", seconds.div_ceil(MINUTE_S)),
        HOUR_S..DAY_S => of(HOUR_S, "h", MINUTE_S, "min"),
        _ => of(DAY_S, "d", HOUR_S, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(search: u128, digest: &str) -> Kind {
        Kind { search: Uuid::from_u128(search), digest: digest.to_owned() }
    }

    fn ended(digest: &str, step_s: f64) -> Pace {
        Pace { kind: kind(1, digest), device_count: 1, has_ended: true, step_s }
    }

    fn runs(digest: &str, step_s: f64) -> Pace {
        Pace { has_ended: false, ..ended(digest, step_s) }
    }

    /// A retraining of architecture `a` that has not run yet.
    fn fresh() -> Work {
        Work { step_count: 100, step_s: None, kind: Some(kind(1, "a")) }
    }

    #[track_caller]
    fn takes(known: &Known, work: &Work, train_s: u64, by: By) {
        assert_eq!(known.estimate(work, 1), Some(Estimate { train_s, by }));
    }

    #[test]
    fn what_a_job_took_itself_says_more_than_what_others_took() {
        let known = Known::new([ended("a", 3.0)]);
        takes(&known, &Work { step_count: 40, step_s: Some(2.5), ..fresh() }, 100, By::Itself);
        // A supernet is like no other job.
        let supernet = Work { kind: None, ..fresh() };
        takes(&known, &Work { step_s: Some(2.5), ..supernet.clone() }, 250, By::Itself);
        assert_eq!(known.estimate(&supernet, 1), None);
        // Its last attempt did not come to a step, or told nonsense.
        for step_s in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            takes(&known, &Work { step_s, ..fresh() }, 300, By::Alike { count: 1 });
        }
    }

    #[test]
    fn the_slowest_of_those_that_are_most_alike_counts() {
        let others = [ended("b", 7.0), runs("b", 9.0), runs("c", 8.0)];
        takes(&Known::new(others.clone()), &fresh(), 700, By::Alike { count: 1 });
        takes(&Known::new(others[1..].to_vec()), &fresh(), 900, By::Alike { count: 2 });
        let same = [runs("a", 4.0), runs("a", 5.0)];
        let known = others.iter().chain(&same).cloned();
        takes(&Known::new(known.clone()), &fresh(), 500, By::Alike { count: 2 });
        let ended = [ended("a", 2.0), ended("a", 2.4), ended("a", 1.0)];
        takes(&Known::new(known.chain(ended)), &fresh(), 240, By::Alike { count: 3 });
    }

    #[test]
    fn nothing_is_said_where_nothing_is_like_it() {
        let elsewhere = Pace { kind: kind(2, "a"), ..ended("a", 3.0) };
        let on_two = Pace { device_count: 2, ..ended("a", 3.0) };
        let known = Known::new([elsewhere, on_two, ended("a", 0.0), ended("a", f64::NAN)]);
        assert_eq!(known.estimate(&fresh(), 1), None);
        assert!(known.estimate(&fresh(), 2).is_some());
    }

    #[test]
    fn more_macs_take_longer_and_fewer_take_no_less() {
        let known = Known::new([ended("b", 2.0)]);
        assert_eq!(
            known.searches_to_scale([&kind(1, "a"), &kind(2, "a")]),
            BTreeSet::from([Uuid::from_u128(1)])
        );
        assert!(known.searches_to_scale([&kind(1, "b")]).is_empty(), "it is known by its own kind");
        let costs = |of, wanted| known.clone().with_mac_counts([(kind(1, "b"), of), (kind(1, "a"), wanted)]);
        takes(&costs(1000, 1500), &fresh(), 300, By::Alike { count: 1 });
        takes(&costs(1000, 500), &fresh(), 200, By::Alike { count: 1 });
        takes(&known, &fresh(), 200, By::Alike { count: 1 });
    }

    #[test]
    fn a_job_that_has_done_all_steps_has_something_left_to_do() {
        let done = Work { step_count: 0, step_s: Some(2.5), ..fresh() };
        takes(&Known::default(), &done, 3, By::Itself);
    }

    #[test]
    fn an_estimate_is_told_in_two_units() {
        let told = |train_s, by| Estimate { train_s, by }.to_string();
        assert_eq!(told(7741, By::Alike { count: 3 }), "about 2 h 10 min of training, by 3 jobs like it");
        assert_eq!(told(7200, By::Alike { count: 1 }), "about 2 h of training, by 1 job like it");
        assert_eq!(told(59, By::Itself), "about 59 s of training, by its last attempt");
        let lasts = [(61, "2 min"), (3600, "1 h"), (86_399, "24 h"), (86_400, "1 d"), (90_001, "1 d 2 h")];
        for (train_s, text) in lasts {
            assert!(told(train_s, By::Itself).contains(&format!("about {text} of")), "{train_s}");
        }
        assert!(told(u64::MAX, By::Itself).contains(" d "));
    }
}
