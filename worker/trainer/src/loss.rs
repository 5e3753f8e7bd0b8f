//! What training minimises.

use tch::{Reduction, Tensor};

use crate::TrainerError;
use crate::ranks::Ranks;

/// Keeps a class that occurs nowhere in the batch from dividing by zero.
const DICE_SMOOTHING: f64 = 1e-5;

/// Mean cross-entropy over voxels plus one minus the mean soft Dice over the
/// classes but the background, the batch taken as one volume (Isensee et al.
/// 2021).
///
/// # Shapes
/// `logits`: `[N, K, D, H, W]` float, `labels`: `[N, D, H, W]` int64; a scalar.
///
/// # Errors
/// libtorch fails.
pub fn segmentation_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor, TrainerError> {
    segmentation_loss_over(None, logits, labels)
}

/// As [`segmentation_loss`] on a part of the batch, the others of which `ranks` have:
/// weighted by their shares of the batch, the parts sum to the loss of the whole.
///
/// # Errors
/// libtorch fails, or another process has ended.
pub fn segmentation_loss_over(
    ranks: Option<&Ranks>,
    logits: &Tensor,
    labels: &Tensor,
) -> Result<Tensor, TrainerError> {
    let (classes, kind) = (logits.size()[1], logits.f_kind()?);
    let cross_entropy = logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)?;
    let probabilities = logits.f_softmax(1, kind)?;
    let truth = labels.f_one_hot(classes)?.f_permute([0, 4, 1, 2, 3])?.f_to_kind(kind)?;
    let over = [0_i64, 2, 3, 4];
    let sum = |tensor: &Tensor| -> Result<Tensor, TrainerError> {
        let own = tensor.f_sum_dim_intlist(over.as_slice(), false, None)?;
        ranks.map_or(Ok(own.shallow_clone()), |ranks| ranks.summed(&own))
    };
    let overlap = sum(&(&probabilities * &truth))?;
    let size = sum(&probabilities)?.f_add(&sum(&truth)?)?;
    let dice = (overlap * 2.0 + DICE_SMOOTHING) / (size + DICE_SMOOTHING);
    let foreground = dice.f_narrow(0, 1, classes - 1)?.f_mean(kind)?;
    Ok(cross_entropy + (1.0 - foreground))
}

/// Mean cross-entropy over samples.
///
/// # Shapes
/// `logits`: `[N, K, 1, 1, 1]` float, `labels`: `[N]` int64; a scalar.
///
/// # Errors
/// libtorch fails, or the logits are not one score per class.
pub fn classification_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor, TrainerError> {
    let logits = class_scores(logits)?;
    Ok(logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)?)
}

/// `[N, K, 1, 1, 1]` as `[N, K]`.
pub(crate) fn class_scores(output: &Tensor) -> Result<Tensor, TrainerError> {
    match output.size().as_slice() {
        [samples, classes, 1, 1, 1] => Ok(output.f_view([*samples, *classes])?),
        other => Err(TrainerError::Report(format!("expected one score per class, got {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn the_loss_is_near_zero_for_a_sure_and_right_answer_and_large_for_a_wrong_one() {
        let labels = Tensor::from_slice(&[0_i64, 1, 2, 1, 0, 2, 1, 0]).view([1, 2, 2, 2]);
        let sure = labels.one_hot(3).permute([0, 4, 1, 2, 3]).to_kind(Kind::Float) * 20.0;
        let right = segmentation_loss(&sure, &labels).unwrap().double_value(&[]);
        let wrong = segmentation_loss(&sure.roll([1], [1]), &labels).unwrap().double_value(&[]);
        assert!(right < 1e-3, "{right}");
        assert!(wrong > 10.0, "{wrong}");
    }

    /// Two samples at odds of 3 to 1 for and against: (ln 4/3 + ln 4) / 2.
    #[test]
    fn cross_entropy_is_the_mean_over_samples() {
        let odds = 3_f32.ln();
        let logits = Tensor::from_slice(&[odds, 0.0, odds, 0.0]).view([2, 2, 1, 1, 1]);
        let loss = classification_loss(&logits, &Tensor::from_slice(&[0_i64, 1])).unwrap();
        let expected = ((4.0_f64 / 3.0).ln() + 4_f64.ln()) / 2.0;
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6);
        assert!(classification_loss(&logits.view([1, 2, 2, 1, 1]), &Tensor::from_slice(&[0_i64])).is_err());
    }

    /// Written out by hand for two voxels and two classes at equal odds:
    /// cross-entropy ln 2; Dice of class 1: 2 · 0.5 / (1 + 1) = 0.5.
    #[test]
    fn the_loss_has_the_value_that_a_pencil_gives() {
        let labels = Tensor::from_slice(&[0_i64, 1]).view([1, 1, 1, 2]);
        let loss =
            segmentation_loss(&Tensor::zeros([1, 2, 1, 1, 2], (Kind::Float, tch::Device::Cpu)), &labels)
                .unwrap();
        assert!((loss.double_value(&[]) - (2_f64.ln() + 0.5)).abs() < 1e-4);
    }
}
