//! What a GPU may be told about numbers and layout, through libtorch on the CPU.

mod common;

use cakes::backbone::MiddleLayer;
use cakes::network::{Network, SearchMode};
use cakes::spec::{MemoryFormat, OptimizerSpec, Precision};
use cakes_trainer::loss::{classification_loss, segmentation_loss};
use cakes_trainer::nets::{Engine, Net, Numbers, Use};
use cakes_trainer::optim::{Optimizer, Step};
use common::judge::{Outcome, Trial, is_exact, outcome};
use common::{
    EXTENT, batch, batch_of, net_for, residual_networks, samples, samples_of, supernet, supernet_of,
};
use tch::Kind;

const MODES: [SearchMode; 2] = [SearchMode::CostPriority, SearchMode::PerformancePriority];

fn numbers(precision: Precision, memory_format: MemoryFormat) -> Numbers {
    Numbers { precision, memory_format }
}

fn torch(trial: &Trial<'_>, numbers: Numbers) -> Outcome {
    let net = net_for(trial.network.clone(), trial.extent, Engine::Torch).with_numbers(numbers);
    outcome(net, trial, &(trial.images)(0))
}

/// Runs `check` on an encoder-decoder and on a residual network, as supernets.
fn for_each_network(check: impl Fn(&Trial<'_>)) {
    for mode in MODES {
        let (_, labels) = batch(EXTENT);
        check(&Trial {
            network: &supernet(mode),
            extent: EXTENT,
            images: &|seed| batch_of(EXTENT, 2, seed).0,
            loss: &|output| segmentation_loss(output, &labels),
            deep: false,
        });
        for (backbone, extent) in residual_networks(MiddleLayer::Searchable).into_iter().take(2) {
            let (_, labels) = samples(&backbone, extent);
            check(&Trial {
                network: &supernet_of(&backbone, mode),
                extent,
                images: &|seed| samples_of(&backbone, extent, seed).0,
                loss: &|output| classification_loss(output, &labels),
                deep: true,
            });
        }
    }
}

#[test]
fn channels_last_is_as_exact_as_contiguous() {
    let last = numbers(Precision::Float32, MemoryFormat::ChannelsLast);
    for_each_network(|trial| {
        is_exact(trial, "channels last", &|network| {
            net_for(network.clone(), trial.extent, Engine::Torch).with_numbers(last)
        });
    });
}

/// bfloat16 keeps 8 bits of a number.
#[test]
fn bfloat16_comes_near_float32_and_leaves_weights_and_gradients_float32() {
    for_each_network(|trial| {
        let exact = torch(trial, Numbers::default());
        for memory_format in [MemoryFormat::Contiguous, MemoryFormat::ChannelsLast] {
            let rounded = torch(trial, numbers(Precision::Bf16, memory_format));
            let apart = (rounded.loss - exact.loss).abs() / exact.loss;
            assert!(apart > 0.0 && apart < 0.03, "loss {} and {}: {apart}", rounded.loss, exact.loss);
            for (name, tensor) in &rounded.tensors {
                assert_eq!(tensor.kind(), Kind::Float, "{name}");
            }
        }
    });
}

/// What is trained in bfloat16 learns as what is trained in float32.
#[test]
fn a_training_in_bfloat16_follows_one_in_float32() {
    let losses = |numbers| {
        let (images, labels) = batch(EXTENT);
        let mut net =
            net_for(supernet(SearchMode::CostPriority), EXTENT, Engine::Torch).with_numbers(numbers);
        let spec =
            OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, nesterov: true, weight_decay: 0.0 };
        let mut optimizer = Optimizer::flat(spec, &net).unwrap();
        let losses = (0..12).map(|index| {
            let draws = net.draw(1, index).unwrap();
            let (loss, gradients) =
                net.gradients(&images, &draws, |output| segmentation_loss(output, &labels)).unwrap();
            let step = Step { index, learning_rate: 0.05, clip_norm: 1.0, l1_strength: 0.0, draws: &draws };
            optimizer.step(&mut net, &gradients, step).unwrap();
            loss
        });
        losses.collect::<Vec<f64>>()
    };
    let exact = losses(Numbers::default());
    let rounded = losses(numbers(Precision::Bf16, MemoryFormat::ChannelsLast));
    assert!(exact[11] < 0.97 * exact[0], "{exact:?}");
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.03 * exact, "{exact} {rounded}");
    }
}

#[test]
fn bfloat16_is_computed_through_libtorch_and_all_else_on_the_cpu_by_its_own_loops() {
    let engine = |numbers| {
        let network: Network = supernet(SearchMode::CostPriority);
        let mut net = Net::new(network, EXTENT, 1, tch::Device::Cpu).unwrap().with_numbers(numbers);
        let draws = net.best_draw().unwrap();
        let output = tch::no_grad(|| net.forward(&batch(EXTENT).0, Use::Evaluate(&draws))).unwrap();
        assert_eq!(output.kind(), Kind::Float);
        net.engine()
    };
    assert_eq!(engine(numbers(Precision::Bf16, MemoryFormat::Contiguous)), Engine::Torch);
    for precision in [Precision::Float32, Precision::Tf32] {
        assert_eq!(engine(numbers(precision, MemoryFormat::ChannelsLast)), Engine::Direct);
    }
}
