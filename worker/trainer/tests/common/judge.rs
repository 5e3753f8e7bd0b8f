//! Networks in float32 against the same networks in float64.
//!
//! At a kink (a ReLU that reads nearly zero, a maximum of two values that are nearly
//! equal) rounding decides which way a gradient goes, and float32 may differ from
//! float64 however exact it is. Such a batch is replaced by another one, but only if
//! a kink shows and all that is no gradient agrees.

use std::collections::BTreeMap;

use cakes::Extent;
use cakes::network::{Network, Op, Pool};
use cakes_trainer::TrainerError;
use cakes_trainer::nets::{Engine, Method, Methods, Net, Use};
use tch::{Kind, Tensor};

use super::net_for;

/// Every way to compute a convolution in host memory.
pub const METHODS: [Method; 4] = [Method::Rows, Method::Blocked, Method::Matrix, Method::Pieces];

/// How far float32 may be from float64, relative to the length of a tensor.
pub const TOLERANCE: f64 = 1e-5;

/// What a network is trained on for one step.
pub struct Trial<'a> {
    pub network: &'a Network,
    pub extent: Extent,
    /// Images that follow from a seed.
    pub images: &'a dyn Fn(u64) -> Tensor,
    pub loss: &'a dyn Fn(&Tensor) -> Result<Tensor, TrainerError>,
    /// Many norms one behind the other, over few values: there rounding grows, also in
    /// float32 through libtorch, which is what is asked for then.
    pub deep: bool,
}

/// Loss, every gradient, running statistics and the output of evaluation; what was
/// counted.
pub struct Outcome {
    pub loss: f64,
    pub tensors: BTreeMap<String, Tensor>,
    pub mac_count: u64,
}

pub fn reference(trial: &Trial<'_>) -> Net {
    net_for(trial.network.clone(), trial.extent, Engine::Torch).in_double().unwrap()
}

pub fn outcome(mut net: Net, trial: &Trial<'_>, images: &Tensor) -> Outcome {
    let draws = net.draw(1, 2).unwrap();
    let images = images.to_kind(kind(&net));
    let (loss, gradients) = net.gradients(&images, &draws, trial.loss).unwrap();
    let mac_count = net.last_count().mac_count;
    let mut tensors: BTreeMap<String, Tensor> =
        gradients.into_iter().map(|(name, gradient)| (format!("gradient of {name}"), gradient)).collect();
    for (name, tensor) in net.state().filter(|(name, _)| name.contains("running")) {
        tensors.insert(name.clone(), tensor.copy());
    }
    let output = tch::no_grad(|| net.forward(&images, Use::Evaluate(&draws)).unwrap());
    tensors.insert("output".into(), output);
    assert_eq!(net.last_count().mac_count, mac_count, "training and evaluation run the same convolutions");
    Outcome { loss, tensors, mac_count }
}

/// What the loops of the CPU compute, by each method, is what libtorch computes in
/// float64.
pub fn methods_are_exact(trial: &Trial<'_>) {
    for method in METHODS {
        is_exact(trial, &format!("{method:?}"), &|network| {
            net_for(network.clone(), trial.extent, Engine::Direct).with_methods(Methods::only(method))
        });
    }
}

/// Makes a network as it is to be judged.
pub type Maker<'a> = &'a dyn Fn(&Network) -> Net;

/// What a network in float32 computes is what libtorch computes in float64, to
/// [`TOLERANCE`]; in a deep one to thrice the distance of float32 through libtorch,
/// where that is more. Only gradients are excused, and only at a kink.
pub fn is_exact(trial: &Trial<'_>, who: &str, make: Maker<'_>) {
    const BATCHES: u64 = 12;
    let torch: Maker<'_> = &|network| net_for(network.clone(), trial.extent, Engine::Torch);
    for seed in 0..BATCHES {
        let images = (trial.images)(seed);
        let exact = outcome(reference(trial), trial, &images);
        let judged = |make: Maker<'_>| farthest(&outcome(make(trial.network), trial, &images), &exact);
        let [values, gradient] = judged(make);
        if values.1 <= TOLERANCE && gradient.1 <= TOLERANCE {
            return;
        }
        let near = |found: &(String, f64), torch: &(String, f64)| {
            let allowed = if trial.deep { (3.0 * torch.1).max(TOLERANCE) } else { TOLERANCE };
            let distance = found.1;
            assert!(
                distance <= allowed,
                "{who}, batch {seed}: {found:?}; float32 through libtorch: {torch:?}"
            );
        };
        let [torch_values, torch_gradient] = judged(torch);
        near(&values, &torch_values);
        let kink = |make| rounds_over_a_kink(trial, &images, make);
        let is_excused = kink(make) || (trial.deep && kink(torch));
        if !is_excused {
            near(&gradient, &torch_gradient);
            return;
        }
    }
    panic!("{who}: {BATCHES} batches are rounded over a kink; this trial shows nothing");
}

/// What differs most, and how much: of all values, and of all gradients.
fn farthest(found: &Outcome, exact: &Outcome) -> [(String, f64); 2] {
    assert_eq!(found.mac_count, exact.mac_count, "multiply-accumulates");
    assert_eq!(found.tensors.keys().collect::<Vec<_>>(), exact.tensors.keys().collect::<Vec<_>>());
    let longest = exact.tensors.iter().filter(|(name, _)| name.starts_with("gradient"));
    let longest = longest.map(|(_, tensor)| length(tensor)).fold(0.0, f64::max);
    // Near zero it is a difference of larger numbers.
    let loss = ("loss".to_owned(), (found.loss - exact.loss).abs() / exact.loss.abs().max(1.0));
    let tensors = exact.tensors.iter().map(|(name, value)| {
        let scale = match name.rsplit_once("running_mean") {
            // A mean is as exact as the values are that it is of.
            Some((norm, _)) => length(&exact.tensors[&format!("{norm}running_var")].sqrt()),
            // A bias gathers one sum over all positions, whose terms may cancel.
            None if name.starts_with("gradient") && name.ends_with("bias") => {
                length(value).max(1e-2 * longest)
            }
            // What a norm takes away again has no gradient but what rounding leaves.
            None if name.starts_with("gradient") => length(value).max(1e-3 * longest),
            None => length(value),
        };
        (name.clone(), length(&(found.tensors[name].to_kind(Kind::Double) - value)) / scale)
    });
    let (gradients, others): (Vec<_>, Vec<_>) = tensors.partition(|(name, _)| name.starts_with("gradient"));
    let most = |all: Vec<(String, f64)>, first: (String, f64)| {
        all.into_iter().fold(first, |most, next| if next.1 > most.1 || next.1.is_nan() { next } else { most })
    };
    [most(others, loss), most(gradients, ("no gradient".to_owned(), 0.0))]
}

pub fn length(values: &Tensor) -> f64 {
    values.to_kind(Kind::Double).norm().double_value(&[])
}

pub fn kind(net: &Net) -> Kind {
    net.params().values().next().map_or(Kind::Float, |param| param.tensor.kind())
}

/// Whether rounding may be the reason that a ReLU or a maximum decides otherwise in
/// float32 than in float64.
fn rounds_over_a_kink(trial: &Trial<'_>, images: &Tensor, make: Maker<'_>) -> bool {
    const NEAR: f64 = 1e-4;
    let farthest = farthest_kink(trial, images, make);
    farthest > 0.0 && farthest < NEAR
}

/// How far from the kink a ReLU or a maximum decides otherwise in float32 than in
/// float64, relative to the values that it reads; 0 if none does.
pub fn farthest_kink(trial: &Trial<'_>, images: &Tensor, make: Maker<'_>) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let mut reference = reference(trial);
    let draws = reference.draw(1, 2).unwrap();
    let exact = reference.outputs(&images.to_kind(Kind::Double), Use::Train(&draws)).unwrap();
    let decide = |op: &Op| matches!(op, Op::Relu | Op::Pool { kind: Pool::Max, .. });
    let distances = trial.network.nodes.iter().filter(|node| decide(&node.op)).map(|node| {
        let exact = &exact[node.inputs[0].0];
        // Cut off there, nothing is done in one pass with what follows.
        let mut cut = make(&Network { nodes: trial.network.nodes[..=node.inputs[0].0].to_vec() });
        let found = cut.forward(images, Use::Train(&draws)).unwrap().to_kind(Kind::Double);
        let lead = match node.op {
            Op::Pool { size, stride, padding, .. } => {
                lead(exact, &found, [size, stride, padding].map(|axes| axes.map(i64::from)))
            }
            _ => exact.abs().masked_fill(&exact.gt(0.0).eq_tensor(&found.gt(0.0)), 0.0),
        };
        lead.max().double_value(&[]) / exact.square().mean(Kind::Double).sqrt().double_value(&[])
    });
    distances.fold(0.0, f64::max)
}

/// By how much the largest value of a window is above the one that `found` chooses.
fn lead(exact: &Tensor, found: &Tensor, [size, stride, padding]: [[i64; 3]; 3]) -> Tensor {
    let (largest, _) = exact.max_pool3d_with_indices(size, stride, padding, [1; 3], false);
    let (_, chosen) = found.max_pool3d_with_indices(size, stride, padding, [1; 3], false);
    largest.flatten(2, -1) - exact.flatten(2, -1).gather(2, &chosen.flatten(2, -1), false)
}
