//! The front of a search: means over seeds, and which of them nobody beats in quality
//! and multiply-accumulates.

use std::collections::BTreeMap;

use cakes::architecture::ArchitectureDigest;
use cakes::pareto::{Point, front};

/// The result of one retraining.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub architecture: ArchitectureDigest,
    pub quality: f64,
    pub mac_count: u64,
}

/// An architecture that nobody beats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrontPoint {
    pub architecture: ArchitectureDigest,
    /// Mean over its seeds.
    pub quality: f64,
    pub mac_count: u64,
    pub seed_count: u32,
}

/// The front by rising multiply-accumulates.
pub fn front_points(results: &[Scored]) -> Vec<FrontPoint> {
    let mut by_digest: BTreeMap<(u64, ArchitectureDigest), Vec<f64>> = BTreeMap::new();
    for result in results {
        by_digest.entry((result.mac_count, result.architecture)).or_default().push(result.quality);
    }
    let points: Vec<FrontPoint> = by_digest
        .into_iter()
        .map(|((mac_count, architecture), qualities)| FrontPoint {
            architecture,
            quality: mean(&qualities),
            mac_count,
            seed_count: u32::try_from(qualities.len()).unwrap_or(u32::MAX),
        })
        .collect();
    let on_front = unbeaten(points.iter().map(|point| (point.quality, point.mac_count as f64)));
    on_front.into_iter().map(|index| points[index]).collect()
}

/// Positions of the pairs of quality and multiply-accumulates that nobody beats.
pub fn unbeaten(pairs: impl Iterator<Item = (f64, f64)>) -> Vec<usize> {
    let points: Vec<Point> =
        pairs.map(|(quality, mac_count)| Point { quality, costs: vec![mac_count] }).collect();
    front(&points)
}

/// 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(digit: char, quality: f64, mac_count: u64) -> Scored {
        let architecture = digit.to_string().repeat(64).parse().unwrap();
        Scored { architecture, quality, mac_count }
    }

    #[test]
    fn means_over_seeds_decide_who_is_on_the_front() {
        let results = [
            scored('a', 0.8, 100),
            scored('b', 0.9, 50),
            scored('b', 0.5, 50),
            scored('c', 0.75, 60),
            scored('d', 0.6, 70),
            scored('e', f64::NAN, 10),
        ];
        let points = front_points(&results);
        let found: Vec<(u64, f64, u32)> =
            points.iter().map(|point| (point.mac_count, point.quality, point.seed_count)).collect();
        assert_eq!(found, [(50, 0.7, 2), (60, 0.75, 1), (100, 0.8, 1)]);
        assert_eq!(front_points(&[]), []);
    }
}
