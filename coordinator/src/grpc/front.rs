//! The front of a search, computed from results when somebody asks.

use std::collections::BTreeMap;

use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes::frame::{ClassificationQuality, Quality, SegmentationQuality};
use cakes_proto::convert::classification_to_wire;
use cakes_proto::v1;

use super::wire;
use crate::core::front::{mean, unbeaten};
use crate::store::read::architectures::ArchitectureRecord;
use crate::store::read::front::RetrainResult;

/// Entries by rising multiply-accumulates: means over the seeds of each
/// architecture, and which of them nobody beats. `predicted_ms` is what an
/// architecture should take, where that is known.
pub(super) fn entries(
    results: &[RetrainResult],
    architectures: &[ArchitectureRecord],
    predicted_ms: impl Fn(&Architecture) -> Option<f64>,
) -> Vec<v1::FrontEntry> {
    let mut by_digest: BTreeMap<ArchitectureDigest, Vec<&RetrainResult>> = BTreeMap::new();
    for result in results {
        by_digest.entry(result.architecture).or_default().push(result);
    }
    let mut known: Vec<&ArchitectureRecord> = architectures.iter().collect();
    known.sort_by_key(|record| (record.cost.mac_count, record.digest));
    let found = known.into_iter().filter_map(|record| Some((record, by_digest.get(&record.digest)?)));
    let mut entries: Vec<v1::FrontEntry> = found
        .map(|(record, seeds)| v1::FrontEntry {
            predicted_latency_ms: predicted_ms(&record.architecture),
            ..entry(record, seeds)
        })
        .collect();
    mark_front(&mut entries);
    entries
}

fn entry(record: &ArchitectureRecord, seeds: &[&RetrainResult]) -> v1::FrontEntry {
    let values: Vec<f64> = seeds.iter().map(|seed| seed.quality.value()).collect();
    let segmentations: Vec<&SegmentationQuality> = seeds.iter().filter_map(|seed| dice(seed)).collect();
    let classifications: Vec<&ClassificationQuality> = seeds.iter().filter_map(|seed| shares(seed)).collect();
    // All jobs of a search have one task, and the first tells which.
    let is_segmentation = !segmentations.is_empty();
    let latencies: Vec<f64> = seeds.iter().filter_map(|seed| seed.latency_ms).collect();
    let mut devices: Vec<&str> = seeds.iter().map(|seed| seed.device.as_str()).collect();
    devices.sort_unstable();
    devices.dedup();
    v1::FrontEntry {
        architecture: Some(wire::architecture(record)),
        quality: mean(&values),
        quality_deviation: deviation(&values),
        quality_metric: seeds.first().map(|seed| seed.quality.metric()).unwrap_or_default().to_owned(),
        mean_dice: is_segmentation.then(|| mean(&values)),
        mean_dice_deviation: is_segmentation.then(|| deviation(&values)),
        dice_per_class: mean_dice_per_class(&segmentations),
        classification: mean_classification(&classifications).as_ref().map(classification_to_wire),
        latency_ms: mean(&latencies),
        predicted_latency_ms: None,
        device: devices.join(", "),
        seed_count: u32::try_from(seeds.len()).unwrap_or(u32::MAX),
        on_front: false,
        job_ids: seeds.iter().map(|seed| seed.job.to_string()).collect(),
    }
}

fn mark_front(entries: &mut [v1::FrontEntry]) {
    let mac_count = |entry: &v1::FrontEntry| {
        let cost = entry.architecture.as_ref().and_then(|architecture| architecture.cost.as_ref());
        cost.map_or(f64::NAN, |cost| cost.mac_count as f64)
    };
    for index in unbeaten(entries.iter().map(|entry| (entry.quality, mac_count(entry)))) {
        entries[index].on_front = true;
    }
}

/// Standard deviation of a sample; 0 for a single value.
fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

fn dice(result: &RetrainResult) -> Option<&SegmentationQuality> {
    match &result.quality {
        Quality::Segmentation(quality) => Some(quality),
        Quality::Classification(_) => None,
    }
}

fn shares(result: &RetrainResult) -> Option<&ClassificationQuality> {
    match &result.quality {
        Quality::Classification(quality) => Some(quality),
        Quality::Segmentation(_) => None,
    }
}

fn mean_dice_per_class(seeds: &[&SegmentationQuality]) -> Vec<f64> {
    let classes = seeds.iter().map(|seed| seed.dice_per_class.len()).max().unwrap_or(0);
    let of_class = |class: usize| -> Vec<f64> {
        seeds.iter().filter_map(|seed| seed.dice_per_class.get(class).copied()).collect()
    };
    (0..classes).map(|class| mean(&of_class(class))).collect()
}

/// Means over seeds of every figure, each over the seeds that have it.
fn mean_classification(seeds: &[&ClassificationQuality]) -> Option<ClassificationQuality> {
    let first = seeds.first()?;
    let over = |of: &dyn Fn(&ClassificationQuality) -> f64| {
        mean(&seeds.iter().map(|seed| of(seed)).collect::<Vec<f64>>())
    };
    let over_known = |of: &dyn Fn(&ClassificationQuality) -> Option<f64>| {
        let known: Vec<f64> = seeds.iter().filter_map(|seed| of(seed)).collect();
        (!known.is_empty()).then(|| mean(&known))
    };
    let classes = seeds.iter().map(|seed| seed.recall_per_class.len()).max().unwrap_or(0);
    let recall = |class: usize| over_known(&|seed| seed.recall_per_class.get(class).copied().flatten());
    Some(ClassificationQuality {
        top1: over(&|seed| seed.top1),
        top5: over(&|seed| seed.top5),
        balanced_accuracy: over(&|seed| seed.balanced_accuracy),
        auc: over_known(&|seed| seed.auc),
        recall_per_class: (0..classes).map(recall).collect(),
        loss: over(&|seed| seed.loss),
        // All seeds validate on the same samples.
        sample_count: first.sample_count,
    })
}

#[cfg(test)]
mod tests {
    use cakes::architecture::Architecture;
    use cakes::backbone::{Backbone, EncoderDecoder};
    use cakes::cost::cost;
    use cakes::kernel::Kernel;
    use cakes_proto::ids::JobId;

    use super::*;

    fn record(kernel: Kernel) -> ArchitectureRecord {
        let config = EncoderDecoder {
            input_channels: 1,
            classes: 3,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        };
        let architecture = Architecture::even(Backbone::EncoderDecoder(config), &[kernel]).unwrap();
        ArchitectureRecord {
            digest: architecture.digest(),
            cost: cost(&architecture.network(), [8; 3]).unwrap(),
            architecture,
            patch: [8; 3],
            mac_fraction: 1.0,
            create_time: chrono::DateTime::UNIX_EPOCH,
            origins: vec![],
        }
    }

    fn result(record: &ArchitectureRecord, mean_dice: f64) -> RetrainResult {
        let dice_per_class = vec![mean_dice, 0.5];
        let quality = SegmentationQuality { mean_dice, dice_per_class, case_count: 4 };
        result_of(record, Quality::Segmentation(quality))
    }

    fn result_of(record: &ArchitectureRecord, quality: Quality) -> RetrainResult {
        RetrainResult {
            job: JobId::generate(),
            architecture: record.digest,
            quality,
            latency_ms: Some(4.0),
            device: "cpu".to_owned(),
        }
    }

    #[test]
    fn seeds_are_averaged_and_dear_worse_networks_are_off_the_front() {
        let (heavy, middle, light) = (record(Kernel::K333), record(Kernel::K133), record(Kernel::K113));
        let results = [
            result(&heavy, 0.8),
            result(&light, 0.7),
            result(&light, 0.8),
            result(&middle, 0.85),
            result(&light, 0.75),
        ];
        let known = [heavy, middle, light, record(Kernel::K111)];
        let predicted =
            |architecture: &Architecture| (architecture.composition()[0].0 != Kernel::K133).then_some(3.5);
        let entries = entries(&results, &known, predicted);
        let predicted: Vec<Option<f64>> = entries.iter().map(|entry| entry.predicted_latency_ms).collect();
        assert_eq!(predicted, [Some(3.5), None, Some(3.5)]);
        let dice: Vec<f64> = entries.iter().filter_map(|entry| entry.mean_dice).collect();
        assert_eq!(entries.len(), 3, "an architecture without results is no entry");
        assert!((dice[0] - 0.75).abs() < 1e-12 && dice[1..] == [0.85, 0.8], "{dice:?}");
        assert!((entries[0].mean_dice_deviation.unwrap() - 0.05).abs() < 1e-12);
        assert_eq!((entries[0].quality, entries[0].quality_metric.as_str()), (dice[0], "mean_dice"));
        assert_eq!(entries[0].classification, None);
        assert!((entries[0].dice_per_class[0] - 0.75).abs() < 1e-12);
        assert_eq!((entries[0].seed_count, entries[0].device.as_str()), (3, "cpu"));
        let on_front: Vec<bool> = entries.iter().map(|entry| entry.on_front).collect();
        assert_eq!(on_front, [true, true, false]);
    }

    #[test]
    fn classification_is_compared_by_top1_and_averaged_figure_by_figure() {
        let record = record(Kernel::K333);
        let seed = |top1: f64, auc: Option<f64>, recall: [Option<f64>; 3]| {
            let quality = ClassificationQuality {
                top1,
                top5: 1.0,
                balanced_accuracy: top1 - 0.1,
                auc,
                recall_per_class: recall.to_vec(),
                loss: 0.5,
                sample_count: 98,
            };
            result_of(&record, Quality::Classification(quality))
        };
        let results = [
            seed(0.5, None, [Some(0.25), None, None]),
            seed(0.75, Some(0.875), [Some(0.5), None, Some(1.0)]),
        ];
        let entries = entries(&results, &[record], |_| None);
        let entry = &entries[0];
        assert_eq!((entry.quality, entry.quality_metric.as_str(), entry.mean_dice), (0.625, "top1", None));
        assert!((entry.quality_deviation - 0.25 / 2_f64.sqrt()).abs() < 1e-12);
        let figures = entry.classification.as_ref().unwrap();
        assert_eq!((figures.top1, figures.auc, figures.sample_count), (0.625, Some(0.875), 98));
        let recall = &figures.recall_per_class;
        assert!(recall[0] == 0.375 && recall[1].is_nan() && recall[2] == 1.0, "{recall:?}");
    }
}
