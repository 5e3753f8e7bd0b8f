//! Every way to compute a convolution in host memory gives what one `conv3d` per
//! branch through libtorch gives in float64, to a hundred-thousandth: the output and
//! all gradients, for every kernel, stride, odd extent and allocation.

mod common;

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Conv, ConvKernels, Network, Node, NodeId, Op, SearchMode};
use cakes_trainer::nets::direct::conv::{Branch, Convolution, Row};
use cakes_trainer::nets::direct::geometry::Geometry;
use common::judge::{TOLERANCE, Trial, length, methods_are_exact};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// A convolution; `kernels` says which kernel each output channel has.
#[derive(Clone, Debug)]
struct Case {
    samples: usize,
    inputs: usize,
    kernels: Vec<usize>,
    extent: [usize; 3],
    stride: [usize; 3],
}

fn cases() -> impl Strategy<Value = Case> {
    let kernels = prop_oneof![
        proptest::collection::vec(0..Kernel::ALL.len(), 1..40),
        (0..Kernel::ALL.len(), 1_usize..40).prop_map(|(kernel, channels)| vec![kernel; channels]),
    ];
    let size = || 1_usize..10;
    (1_usize..4, 1_usize..36, kernels, [size(), size(), size()], [1_usize..4, 1_usize..4, 1_usize..4])
        .prop_map(|(samples, inputs, kernels, extent, stride)| Case {
            samples,
            inputs,
            kernels,
            extent,
            stride,
        })
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    Tensor::from_slice(&values).view(shape.as_slice())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().to_kind(Kind::Float).contiguous().view(-1)).unwrap()
}

/// Values of float32, in float64.
fn exact(shape: &[usize], seed: u64) -> Tensor {
    random(shape, seed).to_kind(Kind::Double)
}

/// How far `found` is from `expected`, relative to its length.
fn apart(found: &[f32], expected: &Tensor) -> f64 {
    let found = Tensor::from_slice(found).view_as(expected).to_kind(Kind::Double);
    length(&(found - expected)) / length(expected).max(1e-6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_method_computes_what_libtorch_computes(case in cases()) {
        tch::set_num_threads(1);
        let Case { samples, inputs, kernels, extent: [d, h, w], stride } = case;
        let x = exact(&[samples, inputs, d, h, w], 1).set_requires_grad(true);
        let mut branches = Vec::new();
        let mut outputs = Vec::new();
        let mut order = Vec::new();
        for (index, kernel) in Kernel::ALL.into_iter().enumerate() {
            let channels: Vec<usize> =
                (0..kernels.len()).filter(|channel| kernels[*channel] == index).collect();
            if channels.is_empty() {
                continue;
            }
            let [kd, kh, kw] = kernel.size().map(|size| size as usize);
            let weight = exact(&[channels.len(), inputs, kd, kh, kw], 2 + index as u64).set_requires_grad(true);
            let padding = [kd, kh, kw].map(|size| (size / 2) as i64);
            let stride = stride.map(|step| step as i64);
            outputs.push(x.conv3d(&weight, None::<&Tensor>, stride, padding, [1; 3], 1));
            order.extend(channels.iter().map(|channel| *channel as i64));
            branches.push((kernel, weight, channels));
        }
        // Channels in the order of the list, their branches' rows spread over it.
        let mut place = vec![0_i64; order.len()];
        for (position, channel) in order.iter().enumerate() {
            place[*channel as usize] = position as i64;
        }
        let expected = Tensor::cat(&outputs, 1).index_select(1, &Tensor::from_slice(&place));
        let shape: Vec<usize> = expected.size().iter().map(|size| *size as usize).collect();
        let gradient = exact(&shape, 20);
        (&expected * &gradient).sum(Kind::Double).backward();

        let weights: Vec<Vec<f32>> = branches.iter().map(|(_, weight, _)| values(weight)).collect();
        let convolution = Convolution {
            geometry: Geometry::new([d, h, w], stride),
            samples,
            inputs,
            outputs: kernels.len(),
            branches: branches
                .iter()
                .zip(&weights)
                .map(|((kernel, _, channels), weight)| Branch {
                    kernel: *kernel,
                    weight,
                    rows: channels.iter().enumerate().map(|(row, channel)| Row { row, channel: *channel }).collect(),
                })
                .collect(),
        };
        let (x_values, arrived) = (values(&x), values(&gradient));
        for blocked in [false, true] {
            let mut output = vec![f32::NAN; arrived.len()];
            let mut of_x = vec![if blocked { f32::NAN } else { 0.0 }; x_values.len()];
            let mut of_weights: Vec<Vec<f32>> = weights.iter().map(|values| vec![f32::NAN; values.len()]).collect();
            let mut targets: Vec<&mut [f32]> = of_weights.iter_mut().map(Vec::as_mut_slice).collect();
            if blocked {
                convolution.forward_blocked(&x_values, None, &mut output);
                convolution.input_gradient_blocked(&arrived, &mut of_x);
                convolution.weight_gradients_blocked(&x_values, &arrived, &mut targets);
            } else {
                convolution.forward(&x_values, None, &mut output);
                let bordered = convolution.bordered(&arrived);
                convolution.input_gradient(&bordered, &mut of_x);
                convolution.weight_gradients(&x_values, &bordered, &mut targets);
            }
            prop_assert!(apart(&output, &expected) < TOLERANCE, "output, blocked: {blocked}");
            prop_assert!(apart(&of_x, &x.grad()) < TOLERANCE, "input, blocked: {blocked}");
            for ((kernel, weight, _), of_weight) in branches.iter().zip(&of_weights) {
                prop_assert!(apart(of_weight, &weight.grad()) < TOLERANCE, "{kernel}, blocked: {blocked}");
            }
        }
    }
}

/// A convolution in a network: behind a pointwise one, so that the gradient of what
/// it reads shows in a weight.
#[derive(Clone, Debug)]
struct Layer {
    samples: usize,
    inputs: u32,
    conv: Conv,
    extent: Extent,
}

/// Uniform, mixed with empty branches, and the candidates of both search modes.
fn kernels() -> impl Strategy<Value = (u32, ConvKernels)> {
    let kernel = (0..Kernel::ALL.len()).prop_map(|index| Kernel::ALL[index]);
    let each = proptest::collection::vec(kernel.clone(), 1..20);
    let set = proptest::sample::subsequence(Kernel::ALL.to_vec(), 2..=Kernel::ALL.len())
        .prop_map(|kernels| KernelSet::new(kernels).unwrap());
    let mode = prop_oneof![Just(SearchMode::CostPriority), Just(SearchMode::PerformancePriority)];
    prop_oneof![
        (1_u32..20, kernel).prop_map(|(channels, kernel)| (channels, ConvKernels::Uniform(kernel))),
        // The only one that a matrix product can do.
        (1_u32..20).prop_map(|channels| (channels, ConvKernels::Uniform(Kernel::K111))),
        each.prop_map(|each| {
            let counts = each.iter().map(|kernel| (*kernel, 1));
            (each.len() as u32, ConvKernels::Mixed(ChannelAllocation::from_counts(counts).unwrap()))
        }),
        (1_u32..10, set, mode)
            .prop_map(|(channels, kernels, mode)| (channels, ConvKernels::Candidates { kernels, mode })),
    ]
}

fn layers(extent: std::ops::Range<u32>) -> impl Strategy<Value = Layer> {
    let size = || extent.clone();
    let strides = [1_u32..3, 1_u32..3, 1_u32..3];
    (1_usize..3, 1_u32..12, kernels(), [size(), size(), size()], strides, any::<bool>()).prop_map(
        |(samples, inputs, (channels, kernels), extent, stride, bias)| Layer {
            samples,
            inputs,
            conv: Conv { channels, kernels, stride, bias },
            extent,
        },
    )
}

/// One layer behind the other.
fn chain(ops: Vec<Op>) -> Network {
    let nodes = ops.into_iter().enumerate().map(|(index, op)| Node {
        name: format!("layer{index}"),
        op,
        inputs: index.checked_sub(1).map(NodeId).into_iter().collect(),
    });
    Network { nodes: nodes.collect() }
}

fn pointwise(channels: u32) -> Op {
    let kernels = ConvKernels::Uniform(Kernel::K111);
    Op::Conv(Conv { channels, kernels, stride: [1; 3], bias: false })
}

/// Trains the layers for one step, each output towards a number of its own.
fn is_exact_in(layer: &Layer, network: &Network) {
    let Layer { samples, inputs, extent, .. } = layer;
    let [d, h, w] = extent.map(|size| size as usize);
    let images = |seed| random(&[*samples, *inputs as usize, d, h, w], 40 + seed);
    let loss = |output: &Tensor| {
        let shape: Vec<usize> = output.size().iter().map(|size| *size as usize).collect();
        Ok((output - exact(&shape, 30).to_kind(output.kind())).square().sum(output.kind()))
    };
    methods_are_exact(&Trial { network, extent: *extent, images: &images, loss: &loss, deep: false });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_of_every_kind_are_exact_in_a_network(layer in layers(1..10)) {
        let ops = vec![Op::Input { channels: layer.inputs }, pointwise(layer.inputs), Op::Conv(layer.conv.clone())];
        is_exact_in(&layer, &chain(ops));
    }

    /// With the norm, the ReLU and the sum of candidates that one pass does together. A
    /// norm takes away what a bias adds, and the length of what a filter is multiplied
    /// with: then there is no gradient to compare.
    #[test]
    fn layers_with_what_follows_them_are_exact(layer in layers(5..12)) {
        let layer = Layer { inputs: layer.inputs + 2, conv: Conv { bias: false, ..layer.conv }, ..layer };
        let mut ops = vec![Op::Input { channels: layer.inputs }, Op::Conv(layer.conv.clone())];
        match &layer.conv.kernels {
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                ops.extend([Op::Norm { candidates: 1 }, Op::Relu, Op::Fold { groups: kernels.len() as u32 }]);
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                ops.extend([Op::Norm { candidates: kernels.len() as u32 }, Op::Relu]);
            }
            _ => ops.extend([Op::Norm { candidates: 1 }, Op::Relu]),
        }
        ops.push(pointwise(3));
        is_exact_in(&layer, &chain(ops));
    }
}
