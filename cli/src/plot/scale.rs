//! Scales with round ticks.

/// A range of values and where its ticks lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    /// Distance of two ticks.
    step: f64,
    /// What a value is divided by for its label.
    unit: f64,
}

impl Scale {
    /// A scale that holds all `values` with `margin` (a share of their range) on
    /// both sides, and about `count` ticks.
    pub fn around(values: impl IntoIterator<Item = f64>, margin: f64, count: usize) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) = finite
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Scale::between(0.0, 1.0, count);
        }
        // A single value gets a tenth of itself around it.
        let range = if high > low { high - low } else { (high.abs() * 0.2).max(1e-3) };
        let (low, high) = if high > low { (low, high) } else { (low - range / 2.0, high + range / 2.0) };
        Scale::between(low - margin * range, high + margin * range, count)
    }

    pub fn between(low: f64, high: f64, count: usize) -> Self {
        Scale { low, high, step: round_step((high - low) / count.max(1) as f64), unit: 1.0 }
    }

    /// The same scale cut off below `least`.
    pub fn at_least(self, least: f64) -> Self {
        Scale { low: self.low.max(least), ..self }
    }

    /// The same scale cut off above `most`.
    pub fn at_most(self, most: f64) -> Self {
        Scale { high: self.high.min(most), ..self }
    }

    /// Labels in thousands, millions, …; also returns the word for it.
    pub fn with_si_unit(self) -> (Self, &'static str) {
        let units = [(1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands")];
        match units.into_iter().find(|(unit, _)| self.high >= *unit) {
            Some((unit, name)) => (Scale { unit, ..self }, name),
            None => (self, ""),
        }
    }

    /// Where `value` lies, 0 to 1 inside the scale.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Ticks with their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let first = (self.low / self.step - 1e-9).ceil();
        let last = (self.high / self.step + 1e-9).floor();
        let decimals = decimals_of(self.step / self.unit);
        let mut ticks = Vec::new();
        let mut index = first;
        while index <= last && ticks.len() < 100 {
            // Adding 0 turns -0 into 0.
            let value = index * self.step + 0.0;
            ticks.push((value, format!("{:.decimals$}", value / self.unit)));
            index += 1.0;
        }
        ticks
    }
}

/// 1, 2, 2.5 or 5 times a power of ten, at least `rough`.
fn round_step(rough: f64) -> f64 {
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= rough * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Decimals that show multiples of `step` exactly.
fn decimals_of(step: f64) -> usize {
    (0..9)
        .find(|decimals| {
            let shifted = step * 10_f64.powi(*decimals);
            (shifted - shifted.round()).abs() < 1e-6 * shifted.max(1.0)
        })
        .unwrap_or(9) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_labels_have_just_the_decimals_they_need() {
        assert_eq!(labels(&Scale::between(0.82, 0.91, 5)), ["0.82", "0.84", "0.86", "0.88", "0.90"]);
        assert_eq!(labels(&Scale::between(0.0, 1.0, 4)), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(&Scale::between(-0.1, 0.1, 2)), ["-0.1", "0.0", "0.1"]);
        let (scale, unit) = Scale::between(1e6, 11e6, 5).with_si_unit();
        assert_eq!(
            (labels(&scale), unit),
            (vec!["2".into(), "4".into(), "6".into(), "8".into(), "10".into()], "millions")
        );
    }

    #[test]
    fn one_value_or_none_still_gives_a_scale() {
        let one = Scale::around([5.0], 0.1, 4);
        assert!(one.low < 5.0 && one.high > 5.0 && one.ticks().len() >= 2);
        assert!(Scale::around([], 0.1, 4).ticks().len() >= 2);
        assert!(Scale::around([f64::NAN, 0.0], 0.1, 4).ticks().len() >= 2);
    }

    proptest! {
        #[test]
        fn every_value_lies_inside_and_ticks_are_few_and_distinct(
            values in proptest::collection::vec(-1e9_f64..1e9, 1..20),
            count in 2_usize..8,
        ) {
            let scale = Scale::around(values.iter().copied(), 0.05, count);
            for value in values {
                prop_assert!((0.0..=1.0).contains(&scale.share(value)));
            }
            let shown = labels(&scale);
            prop_assert!(!shown.is_empty() && shown.len() <= count + 1, "{shown:?}");
            prop_assert!(shown.windows(2).all(|pair| pair[0] != pair[1]), "{shown:?}");
        }
    }
}
