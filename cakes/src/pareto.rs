//! The Pareto front: results that no other result beats.

/// One result: `quality` is better when higher, every cost when lower.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub quality: f64,
    pub costs: Vec<f64>,
}

impl Point {
    /// Whether `self` is at least as good as `other` everywhere and better
    /// somewhere. Values that are not numbers dominate nothing.
    pub fn dominates(&self, other: &Point) -> bool {
        let no_worse = self.quality >= other.quality
            && self.costs.len() == other.costs.len()
            && self.costs.iter().zip(&other.costs).all(|(mine, theirs)| mine <= theirs);
        let better = self.quality > other.quality
            || self.costs.iter().zip(&other.costs).any(|(mine, theirs)| mine < theirs);
        no_worse && better
    }

    fn is_number(&self) -> bool {
        !self.quality.is_nan() && self.costs.iter().all(|cost| !cost.is_nan())
    }
}

/// Positions of the points that nobody dominates, in their given order. Equal
/// points are all kept; points with a value that is not a number are not.
pub fn front(points: &[Point]) -> Vec<usize> {
    (0..points.len())
        .filter(|index| points[*index].is_number())
        .filter(|index| !points.iter().any(|other| other.dominates(&points[*index])))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(quality: f64, costs: &[f64]) -> Point {
        Point { quality, costs: costs.to_vec() }
    }

    #[test]
    fn the_front_keeps_the_best_at_each_cost() {
        let points = [
            point(0.9, &[10.0]),
            point(0.8, &[5.0]),
            point(0.7, &[6.0]),
            point(0.8, &[5.0]),
            point(f64::NAN, &[1.0]),
        ];
        assert_eq!(front(&points), [0, 1, 3]);
    }

    fn arbitrary_points() -> impl Strategy<Value = Vec<Point>> {
        let coordinate = (0_u8..6).prop_map(f64::from);
        let point = (coordinate.clone(), proptest::collection::vec(coordinate, 2))
            .prop_map(|(quality, costs)| Point { quality, costs });
        proptest::collection::vec(point, 1..30)
    }

    proptest! {
        #[test]
        fn nobody_beats_the_front_and_everybody_else_is_beaten_by_it(points in arbitrary_points()) {
            let kept = front(&points);
            prop_assert!(!kept.is_empty());
            for index in 0..points.len() {
                let beaten = kept.iter().any(|best| points[*best].dominates(&points[index]));
                prop_assert_eq!(beaten, !kept.contains(&index));
            }
        }
    }
}
