//! How |gamma| is spread over the candidate channels, and which of them are kept.

use cakes::architecture::Architecture;
use cakes::kernel::Kernel;
use cakes::scores::ChannelScores;
use serde::Serialize;

/// Most bins of a histogram.
pub const BINS_MAX: usize = 200;

/// Candidate channels by their |gamma|.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Every bin is as wide as the highest score over the number of bins.
    pub max: f32,
    pub bins: usize,
    /// In canonical order.
    pub kernels: Vec<KernelHistogram>,
}

/// Those of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelHistogram {
    pub kernel: Kernel,
    pub candidate_count: usize,
    pub kept_count: usize,
    /// Candidates whose score is exactly zero; they are in no bin.
    pub zero_count: usize,
    /// Candidates per bin.
    pub counts: Vec<usize>,
    /// Those of them that the architecture keeps.
    pub kept: Vec<usize>,
    /// The lowest score that is kept. Of several layers, which have a cut each, the
    /// lowest of all; none if nothing is kept.
    pub cut: Option<f32>,
}

/// The histogram of one layer, or of all; `None` if there is no such layer.
///
/// An architecture says how many channels of a kernel are kept: those are the ones
/// that score highest.
pub fn histogram(
    scores: &ChannelScores,
    architecture: &Architecture,
    layer: Option<&str>,
    bins: usize,
) -> Option<Histogram> {
    let layers: Vec<_> = architecture.layers().collect();
    let wanted: Vec<_> =
        scores.layers().iter().filter(|known| layer.is_none_or(|name| known.layer == name)).collect();
    if wanted.is_empty() {
        return None;
    }
    let all = wanted.iter().flat_map(|layer| layer.scores.iter().flatten());
    let max = all.copied().fold(0.0_f32, f32::max);
    let kernels = scores.kernels().iter().enumerate().map(|(place, kernel)| {
        let mut found = KernelHistogram {
            kernel,
            candidate_count: 0,
            kept_count: 0,
            zero_count: 0,
            counts: vec![0; bins],
            kept: vec![0; bins],
            cut: None,
        };
        for layer in &wanted {
            let Some(candidates) = layer.scores.get(place) else { continue };
            let allocation = layers.iter().find(|known| known.layer == layer.layer);
            let keep = allocation.map_or(0, |known| known.channels.count(kernel) as usize);
            found.add(candidates, keep, max);
        }
        found
    });
    Some(Histogram { max, bins, kernels: kernels.collect() })
}

impl KernelHistogram {
    fn add(&mut self, candidates: &[f32], keep: usize, max: f32) {
        let mut sorted = candidates.to_vec();
        sorted.sort_by(|left, right| right.total_cmp(left));
        let bins = self.counts.len();
        for (rank, score) in sorted.into_iter().enumerate() {
            let is_kept = rank < keep;
            self.candidate_count += 1;
            if is_kept {
                self.kept_count += 1;
                self.cut = Some(self.cut.map_or(score, |cut| cut.min(score)));
            }
            if score == 0.0 {
                self.zero_count += 1;
                continue;
            }
            let bin = ((score / max * bins as f32) as usize).min(bins.saturating_sub(1));
            self.counts[bin] += 1;
            self.kept[bin] += usize::from(is_kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use cakes::backbone::{Backbone, EncoderDecoder};
    use cakes::derive::derive_per_layer;
    use cakes::kernel::KernelSet;
    use cakes::scores::LayerScores;

    use super::*;

    fn scores() -> ChannelScores {
        let config = EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        };
        let backbone = Backbone::EncoderDecoder(config);
        let kernels = KernelSet::new([Kernel::K333, Kernel::K133]).unwrap();
        let layers = backbone.searchable_layers().into_iter().map(|layer| {
            let channels = layer.channels as usize;
            let falling = (0..channels).map(|channel| 1.0 - channel as f32 / channels as f32).collect();
            LayerScores { layer: layer.name, scores: vec![falling, vec![0.0; channels]] }
        });
        ChannelScores::new(backbone, kernels, layers.collect()).unwrap()
    }

    #[test]
    fn every_candidate_is_counted_once_and_the_best_are_kept() {
        let scores = scores();
        let kept = derive_per_layer(&scores).unwrap();
        let first = scores.layers()[0].layer.clone();
        let found = histogram(&scores, &kept, Some(&first), 4).unwrap();
        let [cube, plane] = &found.kernels[..] else { panic!("{found:?}") };
        assert_eq!((found.max, found.bins), (1.0, 4));
        assert_eq!((cube.candidate_count, cube.kept_count, cube.zero_count), (4, 4, 0));
        assert_eq!(cube.counts, [0, 1, 1, 2], "scores are 1, 3/4, 1/2 and 1/4");
        assert_eq!(cube.kept, cube.counts);
        assert_eq!(cube.cut, Some(0.25));
        assert_eq!((plane.candidate_count, plane.kept_count, plane.zero_count), (4, 0, 4));
        assert_eq!((plane.cut, plane.counts.iter().sum::<usize>()), (None, 0));
    }

    #[test]
    fn all_layers_together_are_the_sum_of_each() {
        let scores = scores();
        let kept = derive_per_layer(&scores).unwrap();
        let together = histogram(&scores, &kept, None, 7).unwrap();
        let sum: usize = scores
            .layers()
            .iter()
            .map(|layer| histogram(&scores, &kept, Some(&layer.layer), 7).unwrap().kernels[0].candidate_count)
            .sum();
        assert_eq!(together.kernels[0].candidate_count, sum);
        assert_eq!(histogram(&scores, &kept, Some("no such layer"), 7), None);
    }
}
