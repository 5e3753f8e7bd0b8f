//! How much memory a training needs, roughly: enough to keep a job off a device
//! that is far too small, and to warn before hours are spent.

use cakes::Extent;
use cakes::cost::cost;
use cakes::job::TrainerJob;
use cakes::network::{Network, ShapeError};
use cakes::spec::{OptimizerSpec, Precision, TrainingSpec};

/// Of a weight, its gradient and what the optimizer keeps: always float32.
const WEIGHT_BYTES: u64 = 4;
/// Libraries, buffers of the data pipeline, work space of the convolutions.
const BASE_MIB: u64 = 400;

/// Estimated peak memory of training `network` on patches of `patch`, in MiB, on each
/// device of the training.
///
/// Weights, gradients and the optimizer's state; every layer's output once for
/// the backward pass and once as a gradient. bfloat16 halves the outputs and needs a
/// second, smaller copy of the weights.
///
/// # Errors
/// The network does not fit the patch.
pub fn training_mib(network: &Network, patch: Extent, training: &TrainingSpec) -> Result<u64, ShapeError> {
    let cost = cost(network, patch)?;
    let copies = match training.optimizer {
        OptimizerSpec::Sgd { .. } => 3,
        OptimizerSpec::AdamW { .. } => 4,
    };
    let (output_bytes, copy_bytes) = match training.precision {
        Precision::Float32 | Precision::Tf32 => (4, 0),
        Precision::Bf16 => (2, 2),
    };
    // Of each device, where several share a batch.
    let samples = u64::from(training.batch_size.div_ceil(training.devices.max(1)));
    let outputs = cost.activation_count.saturating_mul(2 * samples);
    let bytes = cost
        .param_count
        .saturating_mul(copies * WEIGHT_BYTES + copy_bytes)
        .saturating_add(outputs.saturating_mul(output_bytes));
    Ok(BASE_MIB + (bytes >> 20))
}

/// Estimated peak memory of a job, in MiB.
///
/// # Errors
/// The job's network does not fit its patch.
pub fn job_mib(job: &TrainerJob) -> Result<u64, ShapeError> {
    training_mib(&job.task.network(), job.patch, &job.training)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cakes::architecture::Architecture;
    use cakes::backbone::{Backbone, EncoderDecoder, Form, MiddleLayer, ResnetDepth, VideoResnet};
    use cakes::kernel::{Kernel, KernelSet};
    use cakes::network::SearchMode;

    #[test]
    fn memory_grows_with_the_batch_and_the_patch() {
        let backbone = Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 3,
            base_width: 16,
            levels: 3,
            ..EncoderDecoder::default()
        });
        let network = Architecture::even(backbone, &[Kernel::K333]).unwrap().network();
        let mib = |batch_size, patch| {
            let training = TrainingSpec { batch_size, ..TrainingSpec::default() };
            training_mib(&network, patch, &training).unwrap() - BASE_MIB
        };
        let small = mib(2, [32, 32, 32]);
        assert!(small > 0);
        assert!(mib(4, [32, 32, 32]) > small);
        assert!(mib(2, [64, 64, 64]) > 6 * small);
        let halved = TrainingSpec { batch_size: 2, precision: Precision::Bf16, ..TrainingSpec::default() };
        let halved = training_mib(&network, [64, 64, 64], &halved).unwrap() - BASE_MIB;
        assert!((45..60).contains(&(100 * halved / mib(2, [64, 64, 64]))), "{halved}");
    }

    #[test]
    fn networks_that_classify_are_estimated_in_every_form() {
        let config = VideoResnet {
            input_channels: 3,
            classes: 5,
            depth: ResnetDepth::R50,
            base_width: 64,
            dropout_percent: 30,
            middle: MiddleLayer::Searchable,
        };
        let backbone = Backbone::VideoResnet(config);
        let training = TrainingSpec { batch_size: 1, ..TrainingSpec::default() };
        let mib = |network: &Network| training_mib(network, [8, 112, 112], &training).unwrap();
        let kernels = KernelSet::named("1_2_3d").unwrap();
        let c3d = mib(&Architecture::even(backbone.clone(), &[Kernel::K333]).unwrap().network());
        let p3d = mib(&Architecture::new(backbone.factorised().unwrap(), []).unwrap().network());
        let supernet = |mode| mib(&backbone.network(Form::Supernet { mode, kernels: &kernels }));
        // Its weights and their gradients alone are three times 46 million values.
        assert!((900..4000).contains(&c3d), "{c3d}");
        assert!(p3d > BASE_MIB && p3d < c3d, "{p3d} {c3d}");
        assert!(supernet(SearchMode::CostPriority) > c3d, "{c3d}");
        assert!(supernet(SearchMode::PerformancePriority) > p3d, "{p3d}");
    }
}
