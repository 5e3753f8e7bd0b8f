//! Every way to compute a convolution in host memory gives what one `conv3d` per
//! branch through libtorch gives: the output and both gradients.

mod common;

use cakes::kernel::Kernel;
use cakes_trainer::nets::direct::conv::{Branch, Convolution, Row};
use cakes_trainer::nets::direct::geometry::Geometry;
use common::difference;
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
    Vec::try_from(tensor.detach().contiguous().view(-1)).unwrap()
}

/// How far `found` is from `expected`, relative to its length.
fn apart(found: &[f32], expected: &Tensor) -> f64 {
    let found = Tensor::from_slice(found).view_as(expected).to_kind(Kind::Double);
    difference(&expected.to_kind(Kind::Double), &found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_method_computes_what_libtorch_computes(case in cases()) {
        tch::set_num_threads(1);
        let Case { samples, inputs, kernels, extent: [d, h, w], stride } = case;
        let x = random(&[samples, inputs, d, h, w], 1).set_requires_grad(true);
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
            let weight = random(&[channels.len(), inputs, kd, kh, kw], 2 + index as u64).set_requires_grad(true);
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
        let gradient = random(&shape, 20);
        (&expected * &gradient).sum(Kind::Float).backward();

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
            let of_weights = if blocked {
                convolution.forward_blocked(&x_values, None, &mut output);
                convolution.input_gradient_blocked(&arrived, &mut of_x);
                convolution.weight_gradients_blocked(&x_values, &arrived)
            } else {
                convolution.forward(&x_values, None, &mut output);
                convolution.input_gradient(&arrived, &mut of_x);
                convolution.weight_gradients(&x_values, &arrived)
            };
            prop_assert!(apart(&output, &expected) < 1e-5, "output, blocked: {blocked}");
            prop_assert!(apart(&of_x, &x.grad()) < 1e-5, "input, blocked: {blocked}");
            for ((kernel, weight, _), of_weight) in branches.iter().zip(&of_weights) {
                prop_assert!(apart(of_weight, &weight.grad()) < 1e-5, "{kernel}, blocked: {blocked}");
            }
        }
    }
}
