//! How good a network is, both ways.

use cakes::frame::{ClassificationQuality, Quality, SegmentationQuality};

use crate::v1;

/// The figures of a classification.
pub fn classification_to_wire(quality: &ClassificationQuality) -> v1::Classification {
    v1::Classification {
        top1: quality.top1,
        top5: quality.top5,
        balanced_accuracy: quality.balanced_accuracy,
        auc: quality.auc,
        recall_per_class: quality.recall_per_class.iter().map(|recall| recall.unwrap_or(f64::NAN)).collect(),
        loss: quality.loss,
        sample_count: quality.sample_count,
    }
}

fn classification_from_wire(wire: v1::Classification) -> ClassificationQuality {
    let recall = |recall: f64| Some(recall).filter(|recall| !recall.is_nan());
    ClassificationQuality {
        top1: wire.top1,
        top5: wire.top5,
        balanced_accuracy: wire.balanced_accuracy,
        auc: wire.auc,
        recall_per_class: wire.recall_per_class.into_iter().map(recall).collect(),
        loss: wire.loss,
        sample_count: wire.sample_count,
    }
}

/// A result with its quality; everything else is the caller's.
pub fn quality_to_wire(quality: &Quality) -> v1::JobResult {
    let result = v1::JobResult {
        quality: quality.value(),
        quality_metric: quality.metric().to_owned(),
        ..v1::JobResult::default()
    };
    match quality {
        Quality::Segmentation(quality) => v1::JobResult {
            mean_dice: Some(quality.mean_dice),
            dice_per_class: quality.dice_per_class.clone(),
            case_count: quality.case_count,
            ..result
        },
        Quality::Classification(quality) => {
            v1::JobResult { classification: Some(classification_to_wire(quality)), ..result }
        }
    }
}

/// The quality of a result, its values not checked; none if it tells of neither
/// task, or of both.
pub fn quality_from_wire(wire: &v1::JobResult) -> Option<Quality> {
    match (wire.mean_dice, &wire.classification) {
        (Some(mean_dice), None) => Some(Quality::Segmentation(SegmentationQuality {
            mean_dice,
            dice_per_class: wire.dice_per_class.clone(),
            case_count: wire.case_count,
        })),
        (None, Some(figures)) => Some(Quality::Classification(classification_from_wire(figures.clone()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quality_of_either_task_round_trips_under_the_name_of_its_metric() {
        let segmentation = Quality::Segmentation(SegmentationQuality {
            mean_dice: 0.8,
            dice_per_class: vec![0.7, 0.9],
            case_count: 4,
        });
        let classification = Quality::Classification(ClassificationQuality {
            top1: 0.75,
            top5: 1.0,
            balanced_accuracy: 0.6,
            auc: None,
            recall_per_class: vec![Some(0.2), None, Some(1.0)],
            loss: 0.5,
            sample_count: 8,
        });
        for (quality, metric) in [(segmentation, "mean_dice"), (classification, "top1")] {
            let wire = quality_to_wire(&quality);
            assert_eq!((wire.quality, wire.quality_metric.as_str()), (quality.value(), metric));
            assert_eq!(quality_from_wire(&wire), Some(quality));
        }
        assert_eq!(quality_from_wire(&v1::JobResult::default()), None);
    }
}
