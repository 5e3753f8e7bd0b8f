//! Networks are what their description says: size, cost, names, and what a step
//! of a supernet touches.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{Backbone, Form, MiddleLayer};
use cakes::cost::cost;
use cakes::frame::Quality;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, Pool, SearchMode};
use cakes_data::LoadedCase;
use cakes_trainer::evaluate::{Windows, validate};
use cakes_trainer::loss::segmentation_loss;
use cakes_trainer::nets::{Draws, Engine, Net, Use};
use cakes_trainer::optim::{Optimizer, Step};
use common::judge::{Trial, methods_are_exact};
use common::{
    EXTENT, architectures, backbone, batch, batch_of, net, net_for, residual_networks, samples, supernet,
    supernet_of,
};
use ndarray::{Array3, Array4};
use proptest::prelude::*;
use tch::{Device, Tensor};

const ENGINES: [Engine; 2] = [Engine::Direct, Engine::Torch];
const MODES: [SearchMode; 2] = [SearchMode::CostPriority, SearchMode::PerformancePriority];

/// MACs that a forward pass really made.
fn counted_macs(net: &mut Net, draws: &Draws) -> u64 {
    let (images, _) = batch(EXTENT);
    let _ = tch::no_grad(|| net.forward(&images, Use::Evaluate(draws))).unwrap();
    net.last_count().mac_count
}

/// The architecture that draws give, each channel its kernel.
fn drawn_architecture(draws: &Draws) -> Architecture {
    let kernels: Vec<Kernel> = KernelSet::volumetric().iter().collect();
    let layers = draws.layers.iter().map(|(layer, draw)| {
        let counts = draw.kernel_of_channel.iter().map(|kernel| (kernels[*kernel], 1));
        LayerAllocation { layer: layer.clone(), channels: ChannelAllocation::from_counts(counts).unwrap() }
    });
    Architecture::new(backbone(), layers.collect::<Vec<_>>()).unwrap()
}

#[test]
fn supernets_have_the_parameters_and_macs_of_the_cost_model() {
    for engine in ENGINES {
        for mode in MODES {
            let network = supernet(mode);
            let expected = cost(&network, EXTENT).unwrap();
            let mut net = net(network, engine);
            assert_eq!(net.param_count(), expected.param_count);
            let draws = net.draw(5, 9).unwrap();
            let macs = match mode {
                SearchMode::CostPriority => expected.mac_count,
                SearchMode::PerformancePriority => {
                    cost(&drawn_architecture(&draws).network(), EXTENT).unwrap().mac_count
                }
            };
            assert_eq!(counted_macs(&mut net, &draws), macs);
        }
    }
}

#[test]
fn residual_networks_have_the_parameters_and_macs_of_the_cost_model() {
    for engine in ENGINES {
        for (backbone, extent) in residual_networks(MiddleLayer::P3d) {
            is_as_the_cost_model_says(&backbone, backbone.network(Form::Derived(&[])), extent, engine);
        }
        for (backbone, extent) in residual_networks(MiddleLayer::Searchable) {
            let even = Architecture::even(backbone.clone(), &[Kernel::K333, Kernel::K133, Kernel::K311]);
            is_as_the_cost_model_says(&backbone, even.unwrap().network(), extent, engine);
            let supernet = supernet_of(&backbone, SearchMode::CostPriority);
            is_as_the_cost_model_says(&backbone, supernet, extent, engine);
        }
    }
}

/// Linear layers have no part in the count of convolutions.
fn is_as_the_cost_model_says(backbone: &Backbone, network: Network, extent: Extent, engine: Engine) {
    let expected = cost(&network, extent).unwrap();
    let linear = expected.layers.iter().find(|layer| layer.layer == "head").unwrap().mac_count;
    let mut net = net_for(network, extent, engine);
    assert_eq!(net.param_count(), expected.param_count);
    let (images, _) = samples(backbone, extent);
    let output = tch::no_grad(|| net.forward(&images, Use::Evaluate(&Draws::new()))).unwrap();
    assert_eq!(output.size(), [3, 4, 1, 1, 1]);
    assert_eq!(net.last_count().mac_count + linear, expected.mac_count, "{backbone:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn derived_networks_have_the_parameters_and_macs_of_the_cost_model(architecture in architectures()) {
        let network = architecture.network();
        let expected = cost(&network, EXTENT).unwrap();
        let mut net = net(network, Engine::Torch);
        prop_assert_eq!(net.param_count(), expected.param_count);
        prop_assert_eq!(counted_macs(&mut net, &Draws::new()), expected.mac_count);
        let mut net = net.with_engine(Engine::Direct);
        prop_assert_eq!(counted_macs(&mut net, &Draws::new()), expected.mac_count);
    }
}

/// Layers that no backbone uses yet, at extents that nothing divides.
fn odd_network(pool: Pool) -> Network {
    let conv = |channels, kernels, stride, bias| Op::Conv(Conv { channels, kernels, stride, bias });
    let mixed =
        |counts: [(Kernel, u32); 3]| ConvKernels::Mixed(ChannelAllocation::from_counts(counts).unwrap());
    let first = mixed([(Kernel::K333, 2), (Kernel::K113, 1), (Kernel::K311, 2)]);
    let second = mixed([(Kernel::K331, 3), (Kernel::K133, 1), (Kernel::K111, 2)]);
    let ops = [
        Op::Input { channels: 2 },
        // A norm takes away what a bias adds.
        conv(5, first, [2, 1, 3], false),
        Op::Norm { candidates: 1 },
        Op::Relu,
        conv(6, second, [1, 2, 1], true),
        Op::Fold { groups: 2 },
        Op::Relu,
        Op::Pool { kind: pool, size: [3, 1, 2], stride: [2, 1, 2], padding: [1, 0, 0] },
        Op::Mean { axes: [false, true, false] },
        Op::Resize { factor: [1, 3, 2] },
        conv(4, ConvKernels::Uniform(Kernel::K131), [1, 2, 1], true),
        conv(3, ConvKernels::Window([3, 1, 5]), [1, 2, 1], true),
        Op::Relu,
        conv(4, ConvKernels::Window([3, 3, 1]), [1; 3], true),
        Op::Dropout { percent: 40 },
        Op::Linear { features: 3, bias: true },
    ];
    let nodes = ops.into_iter().enumerate().map(|(index, op)| Node {
        name: format!("layer{index}"),
        op,
        inputs: index.checked_sub(1).map(NodeId).into_iter().collect(),
    });
    Network { nodes: nodes.collect() }
}

#[test]
fn odd_extents_come_out_as_described_and_both_engines_agree_on_them() {
    let extent = [11, 7, 13];
    let (images, _) = batch(extent);
    for pool in [Pool::Max, Pool::Average] {
        let network = odd_network(pool);
        let net = Net::new(network.clone(), extent, 3, Device::Cpu).unwrap();
        assert_eq!(net.param_count(), cost(&network, extent).unwrap().param_count);
        methods_are_exact(&Trial {
            network: &network,
            extent,
            images: &|seed| batch_of(extent, 2, seed).0,
            loss: &|output| Ok((output * output).sum(output.kind())),
            deep: false,
        });
    }
    // Each layer's output, cut off behind it.
    for last in 1..odd_network(Pool::Max).nodes.len() {
        let network = Network { nodes: odd_network(Pool::Max).nodes[..=last].to_vec() };
        let shape = *network.shapes(extent).unwrap().last().unwrap();
        for engine in ENGINES {
            let mut net = Net::new(network.clone(), extent, 3, Device::Cpu).unwrap().with_engine(engine);
            let output = tch::no_grad(|| net.forward(&images, Use::Evaluate(&Draws::new()))).unwrap();
            let [d, h, w] = shape.extent.map(i64::from);
            assert_eq!(output.size(), [2, i64::from(shape.channels), d, h, w], "behind layer {last}");
        }
    }
}

/// Checkpoints and exports are read by these names.
#[test]
fn names_and_shapes_of_weights_are_a_contract() {
    let names = |network: Network| -> Vec<String> {
        let net = net(network, Engine::Direct);
        net.state().map(|(name, tensor)| format!("{name} {:?}", tensor.size())).collect()
    };
    let even = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
    let derived = names(even.network());
    let of = |names: &[String], prefix: &str| -> Vec<String> {
        names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    };
    assert_eq!(
        of(&derived, "encoder.1."),
        [
            "encoder.1.conv1.1x1x3.weight [5, 5, 1, 1, 3]",
            "encoder.1.conv1.3x3x3.weight [5, 5, 3, 3, 3]",
            "encoder.1.conv1.norm.bias [10]",
            "encoder.1.conv1.norm.weight [10]",
            "encoder.1.conv2.1x1x3.weight [5, 10, 1, 1, 3]",
            "encoder.1.conv2.3x3x3.weight [5, 10, 3, 3, 3]",
            "encoder.1.conv2.norm.bias [10]",
            "encoder.1.conv2.norm.weight [10]",
            "encoder.1.shortcut.norm.bias [10]",
            "encoder.1.shortcut.norm.weight [10]",
            "encoder.1.shortcut.weight [10, 5, 1, 1, 1]",
            "encoder.1.conv1.norm.running_mean [10]",
            "encoder.1.conv1.norm.running_var [10]",
            "encoder.1.conv2.norm.running_mean [10]",
            "encoder.1.conv2.norm.running_var [10]",
            "encoder.1.shortcut.norm.running_mean [10]",
            "encoder.1.shortcut.norm.running_var [10]",
        ]
    );
    assert_eq!(
        of(&derived, "stem."),
        [
            "stem.norm.bias [5]",
            "stem.norm.weight [5]",
            "stem.weight [5, 2, 3, 3, 3]",
            "stem.norm.running_mean [5]",
            "stem.norm.running_var [5]",
        ]
    );
    assert_eq!(of(&derived, "head."), ["head.bias [3]", "head.weight [3, 5, 1, 1, 1]"]);
    for mode in MODES {
        let supernet = names(supernet(mode));
        assert_eq!(
            of(&supernet, "encoder.0.conv1."),
            [
                "encoder.0.conv1.1x1x3.weight [5, 5, 1, 1, 3]",
                "encoder.0.conv1.1x3x1.weight [5, 5, 1, 3, 1]",
                "encoder.0.conv1.1x3x3.weight [5, 5, 1, 3, 3]",
                "encoder.0.conv1.3x1x1.weight [5, 5, 3, 1, 1]",
                "encoder.0.conv1.3x1x3.weight [5, 5, 3, 1, 3]",
                "encoder.0.conv1.3x3x1.weight [5, 5, 3, 3, 1]",
                "encoder.0.conv1.3x3x3.weight [5, 5, 3, 3, 3]",
                "encoder.0.conv1.norm.bias [35]",
                "encoder.0.conv1.norm.weight [35]",
                "encoder.0.conv1.norm.running_mean [35]",
                "encoder.0.conv1.norm.running_var [35]",
            ]
        );
    }
}

fn copies(net: &Net) -> BTreeMap<String, Tensor> {
    net.state().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect()
}

/// Indices along the first axis in which two tensors differ.
fn moved(before: &Tensor, after: &Tensor) -> BTreeSet<usize> {
    let rows = before.size()[0];
    let differs = before.ne_tensor(after).view([rows, -1]).any_dim(1, false);
    (0..rows).filter(|row| differs.int64_value(&[*row]) != 0).map(|row| row as usize).collect()
}

fn train_step(net: &mut Net, optimizer: &mut Optimizer, draws: &Draws, index: u64) {
    let (images, labels) = batch(EXTENT);
    let (_, gradients) = net.gradients(&images, draws, |output| segmentation_loss(output, &labels)).unwrap();
    let step = Step { index, learning_rate: 0.01, clip_norm: 1.0, l1_strength: 0.0, draws };
    optimizer.step(net, &gradients, step).unwrap();
}

/// Neither statistics nor weights, momentum or decay of a candidate move in a
/// step in which it was not drawn; those of a drawn one do.
#[test]
fn a_step_moves_what_was_drawn_and_nothing_else() {
    let optimizers = [
        cakes::spec::OptimizerSpec::Sgd {
            learning_rate: 0.01,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 0.1,
        },
        cakes::spec::OptimizerSpec::AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
        },
    ];
    for spec in optimizers {
        let mut net = net(supernet(SearchMode::PerformancePriority), Engine::Direct);
        let mut optimizer = Optimizer::new(spec, &net).unwrap();
        // Momentum from a step in which others were drawn.
        let earlier = net.draw(1, 0).unwrap();
        train_step(&mut net, &mut optimizer, &earlier, 0);
        let draws = net.draw(1, 1).unwrap();
        let before = copies(&net);
        train_step(&mut net, &mut optimizer, &draws, 1);
        let after = copies(&net);
        for (layer, draw) in &draws.layers {
            let channels = draw.kernel_of_channel.len();
            let drawn: BTreeSet<usize> = draw
                .kernel_of_channel
                .iter()
                .enumerate()
                .map(|(channel, kernel)| kernel * channels + channel)
                .collect();
            for name in ["running_mean", "running_var", "weight", "bias"] {
                let name = format!("{layer}.norm.{name}");
                assert_eq!(moved(&before[&name], &after[&name]), drawn, "{name}");
            }
            for (position, kernel) in KernelSet::volumetric().iter().enumerate() {
                let own: BTreeSet<usize> =
                    (0..channels).filter(|channel| draw.kernel_of_channel[*channel] == position).collect();
                let name = format!("{layer}.{kernel}.weight");
                assert_eq!(moved(&before[&name], &after[&name]), own, "{name}");
            }
        }
    }
}

/// A candidate that is drawn for the first time late moves as far as one that is
/// drawn in the first step: Adam's averages count the steps of each row.
#[test]
fn a_late_first_draw_moves_a_weight_by_one_learning_rate() {
    let mut net = net(supernet(SearchMode::PerformancePriority), Engine::Direct);
    let spec = cakes::spec::OptimizerSpec::AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-12,
        weight_decay: 0.0,
    };
    let mut optimizer = Optimizer::new(spec, &net).unwrap();
    let before = copies(&net);
    let draws = net.draw(1, 77).unwrap();
    train_step(&mut net, &mut optimizer, &draws, 1000);
    let name = "decoder.0.conv2.norm.bias";
    let distance = (&copies(&net)[name] - &before[name]).abs();
    assert!((distance.max().double_value(&[]) - 0.01).abs() < 1e-5);
}

#[test]
fn evaluation_uses_the_running_statistics_of_the_chosen_candidates() {
    for engine in ENGINES {
        let mut net = net(supernet(SearchMode::PerformancePriority), engine);
        let (images, _) = batch(EXTENT);
        let draws = net.best_draw().unwrap();
        let mut run = || tch::no_grad(|| net.forward(&images, Use::Evaluate(&draws))).unwrap();
        let before = run();
        assert!(run().equal(&before), "evaluation must not move statistics");
        let layer = "encoder.1.conv1";
        let chosen = &draws.layers[layer].kernel_of_channel;
        let (used, unused) = (chosen[0] * chosen.len(), (chosen[0] + 1) % 7 * chosen.len());
        let mut shift = |feature: usize| {
            let (_, mean) =
                net.state().find(|(name, _)| *name == &format!("{layer}.norm.running_mean")).unwrap();
            let _ = mean.get(feature as i64).f_add_scalar_(3.0).unwrap();
            tch::no_grad(|| net.forward(&images, Use::Evaluate(&draws))).unwrap()
        };
        assert!(shift(unused).equal(&before));
        assert!(!shift(used).equal(&before));
    }
}

#[test]
fn supernets_can_be_validated() {
    let case = |id: &str, d, h, w| LoadedCase {
        id: id.into(),
        image: Array4::from_shape_fn((2, d, h, w), |(c, x, y, z)| ((c + x * 3 + y * 5 + z) % 7) as f32 - 3.0),
        label: Array3::from_shape_fn((d, h, w), |(x, y, z)| ((x + y + z) % 3) as u8),
        spacing_mm: [1.0; 3],
    };
    // Smaller than the patch, larger than it, and much larger along one axis.
    let cases = [case("a", 7, 12, 20), case("b", 9, 13, 21), case("c", 8, 12, 70)];
    for mode in MODES {
        let mut net = net(supernet(mode), Engine::Direct);
        let windows = Windows { patch: EXTENT, stride: 2 };
        let quality = validate(&mut net, &cases, windows, |_| true).unwrap();
        let Some(Quality::Segmentation(quality)) = quality else { panic!("{quality:?}") };
        assert_eq!((quality.case_count, quality.dice_per_class.len()), (3, 2));
        assert!(quality.dice_per_class.iter().all(|dice| (0.0..=1.0).contains(dice)));
        assert_eq!(validate(&mut net, &cases, windows, |done| done < 1).unwrap(), None);
    }
}
