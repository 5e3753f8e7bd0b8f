//! What validations and derivations find, as points of curves.

use std::collections::HashMap;

use cakes::architecture::LayerAllocation;
use cakes::frame::Quality;
use cakes::metric::{Metric, channels_key};

/// Channels of one layer by kernel; kernels without channels are left out.
pub(super) fn composition_metrics(layer: &LayerAllocation) -> HashMap<String, f64> {
    let channels = layer.channels.iter();
    channels.map(|(kernel, count)| (channels_key(&layer.layer, kernel), f64::from(count))).collect()
}

/// What a validation found, by the keys of curves.
pub(super) fn quality_metrics(quality: &Quality) -> HashMap<String, f64> {
    match quality {
        Quality::Segmentation(quality) => {
            let classes = quality.dice_per_class.iter().enumerate();
            let classes = classes.map(|(index, dice)| (Metric::DiceOfClass.of_class(index + 1), *dice));
            classes.chain([(Metric::MeanDice.key().to_owned(), quality.mean_dice)]).collect()
        }
        Quality::Classification(quality) => {
            let recall = quality.recall_per_class.iter().enumerate();
            let recall = recall
                .filter_map(|(class, recall)| Some((Metric::RecallOfClass.of_class(class), (*recall)?)));
            let shares = [
                (Metric::Top1, quality.top1),
                (Metric::Top5, quality.top5),
                (Metric::BalancedAccuracy, quality.balanced_accuracy),
                (Metric::ValidationLoss, quality.loss),
            ];
            let auc = quality.auc.map(|auc| (Metric::Auc, auc));
            let shares = shares.into_iter().chain(auc);
            recall.chain(shares.map(|(metric, value)| (metric.key().to_owned(), value))).collect()
        }
    }
}
