//! Validation of networks that tell one class of a sample.

use std::sync::Arc;

use cakes::frame::{ClassificationQuality, Quality};
use cakes_data::classification::evaluate;
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::data::samples::ClassSamples;
use crate::loss::class_scores;
use crate::nets::{Net, Use};

/// Classifies every validation sample, `batch_size` at a time, and compares with
/// its class. None if `keep_going`, which is told how many samples are done, says
/// no.
///
/// # Errors
/// A sample cannot be read, libtorch fails, or a score is not finite.
pub fn validate(
    net: &mut Net,
    samples: &Arc<ClassSamples>,
    batch_size: usize,
    threads: usize,
    mut keep_going: impl FnMut(usize) -> bool,
) -> Result<Option<Quality>, TrainerError> {
    let draws = net.best_draw()?;
    let _no_grad = tch::no_grad_guard();
    let (count, batch_size) = (samples.validation_count(), batch_size.max(1));
    let mut batches = samples.validation(batch_size, threads);
    let (mut scores, mut labels): (Vec<f32>, Vec<i64>) = (Vec::new(), Vec::new());
    while labels.len() < count {
        if !keep_going(labels.len()) {
            return Ok(None);
        }
        let batch = batches.take_next()?;
        let output = net.forward(&batch.images.f_to(net.device())?, Use::Evaluate(&draws))?;
        scores.extend(floats(&class_scores(&output)?)?);
        labels.extend(Vec::<i64>::try_from(&batch.labels)?);
    }
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(TrainerError::Numeric(
            "a score of validation is not finite; try a lower learning rate".into(),
        ));
    }
    let labels: Vec<usize> = labels.into_iter().map(|label| label as usize).collect();
    let found = evaluate(&scores, &labels, samples.classes);
    Ok(Some(Quality::Classification(ClassificationQuality {
        top1: found.top1,
        top5: found.top5,
        balanced_accuracy: found.balanced_accuracy,
        auc: found.auc,
        recall_per_class: found.recall_per_class,
        loss: found.loss,
        sample_count: found.sample_count as u64,
    })))
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, TrainerError> {
    let tensor = tensor.f_to(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0_f32; tensor.numel()];
    let length = values.len();
    tensor.f_copy_data(&mut values, length)?;
    Ok(values)
}
