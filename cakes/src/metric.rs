//! What jobs report by step, and under which keys: those of the page, of the view
//! `learning_curves`, and of the plots.

use crate::kernel::Kernel;

/// A quantity that a job reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Loss,
    LearningRate,
    SamplesPerSecond,
    DataWaitShare,
    CheckpointStall,
    CheckpointSave,
    MeanDice,
    DiceOfClass,
    Top1,
    Top5,
    BalancedAccuracy,
    Auc,
    RecallOfClass,
    ValidationLoss,
    Channels,
}

/// When a job reports a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Step,
    Checkpoint,
    Validation,
}

/// What a reader of a curve has to know.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its key; `CLASS`, `LAYER` and `KERNEL` stand for what varies.
    pub key: &'static str,
    pub moment: Moment,
    pub unit: &'static str,
    pub meaning: &'static str,
}

const fn of(key: &'static str, moment: Moment, unit: &'static str, meaning: &'static str) -> Description {
    Description { key, moment, unit, meaning }
}

impl Metric {
    /// All of them, in the order of the reference.
    pub const ALL: [Metric; 15] = [
        Metric::Loss,
        Metric::LearningRate,
        Metric::SamplesPerSecond,
        Metric::DataWaitShare,
        Metric::CheckpointStall,
        Metric::CheckpointSave,
        Metric::MeanDice,
        Metric::DiceOfClass,
        Metric::Top1,
        Metric::Top5,
        Metric::BalancedAccuracy,
        Metric::Auc,
        Metric::RecallOfClass,
        Metric::ValidationLoss,
        Metric::Channels,
    ];

    pub const fn describe(self) -> Description {
        use Moment::{Checkpoint, Step, Validation};
        match self {
            Metric::Loss => of(
                "train/loss",
                Step,
                "",
                "Loss of the step on its batch. The L1 penalty of a cost-priority supernet is not part of it.",
            ),
            Metric::LearningRate => of("train/learning_rate", Step, "", "Learning rate of the step."),
            Metric::SamplesPerSecond => of(
                "train/samples_per_s",
                Step,
                "1/s",
                "Training samples per second, over the last second or so.",
            ),
            Metric::DataWaitShare => of(
                "train/data_wait_share",
                Step,
                "0 to 1",
                "Share of that time in which steps waited for data.",
            ),
            Metric::CheckpointStall => of(
                "train/checkpoint_stall_seconds",
                Checkpoint,
                "s",
                "Time for which saving held the training.",
            ),
            Metric::CheckpointSave => of(
                "train/checkpoint_save_seconds",
                Checkpoint,
                "s",
                "Time from the first copied tensor until the checkpoint stood on disk.",
            ),
            Metric::MeanDice => of(
                "validation/mean_dice",
                Validation,
                "0 to 1",
                "Mean Dice over the classes but the background, and over cases. What segmentation is compared by.",
            ),
            Metric::DiceOfClass => of(
                "validation/dice_CLASS",
                Validation,
                "0 to 1",
                "Dice of one class, mean over cases; the first class behind the background is 1.",
            ),
            Metric::Top1 => of(
                "validation/top1",
                Validation,
                "0 to 1",
                "Share of samples whose class scores highest. What classification is compared by.",
            ),
            Metric::Top5 => of(
                "validation/top5",
                Validation,
                "0 to 1",
                "Share of samples whose class is among the five that score highest.",
            ),
            Metric::BalancedAccuracy => of(
                "validation/balanced_accuracy",
                Validation,
                "0 to 1",
                "Mean of the recall over the classes that occur.",
            ),
            Metric::Auc => of(
                "validation/auc",
                Validation,
                "0 to 1",
                "Area under the ROC curve, one class against the rest, mean over classes; absent where one class alone occurs.",
            ),
            Metric::RecallOfClass => of(
                "validation/recall_CLASS",
                Validation,
                "0 to 1",
                "Recall of one class, from 0; absent for a class that does not occur.",
            ),
            Metric::ValidationLoss => {
                of("validation/loss", Validation, "", "Mean cross-entropy over the validation samples.")
            }
            Metric::Channels => of(
                "composition/LAYER/KERNEL",
                Validation,
                "channels",
                "Supernets: channels of a layer that the paper's rule would give a kernel now; a kernel without channels is absent.",
            ),
        }
    }

    /// Its key, or the pattern of its keys.
    pub const fn key(self) -> &'static str {
        self.describe().key
    }

    /// The key for one class.
    pub fn of_class(self, class: usize) -> String {
        self.key().replace("CLASS", &class.to_string())
    }
}

/// Whether a key counts the channels of some layer and kernel.
pub fn is_channels_key(key: &str) -> bool {
    let prefix = Metric::Channels.key().split("LAYER").next();
    prefix.is_some_and(|prefix| key.starts_with(prefix))
}

/// The key under which a supernet's trainer reports the channels of a kernel.
pub fn channels_key(layer: &str, kernel: Kernel) -> String {
    Metric::Channels.key().replace("LAYER", layer).replace("KERNEL", &kernel.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_name_what_varies() {
        let mut keys: Vec<&str> = Metric::ALL.iter().map(|metric| metric.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), Metric::ALL.len());
        assert_eq!(Metric::DiceOfClass.of_class(2), "validation/dice_2");
        assert_eq!(channels_key("encoder1.conv2", Kernel::K133), "composition/encoder1.conv2/1x3x3");
        let of_channels = Metric::ALL.iter().filter(|metric| is_channels_key(metric.key()));
        assert_eq!(of_channels.collect::<Vec<_>>(), [&Metric::Channels]);
    }
}
