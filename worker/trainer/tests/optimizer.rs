//! The optimizer step against libtorch's own, and what L1 and clipping do.

mod common;

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::kernel::KernelSet;
use cakes::network::SearchMode;
use cakes::spec::OptimizerSpec;
use cakes_trainer::nets::{Draws, Engine, Gradients, Net};
use cakes_trainer::optim::{Optimizer, Step};
use common::{difference, net, supernet, uniform};
use tch::Tensor;
use tch::nn::OptimizerConfig;

fn step(index: u64, learning_rate: f64, draws: &Draws) -> Step<'_> {
    Step { index, learning_rate, clip_norm: 0.0, l1_strength: 0.0, draws }
}

/// A gradient for every parameter that differs from step to step.
fn gradients(net: &Net, index: u64) -> Gradients {
    let of = |tensor: &Tensor| ((tensor.detach() * 3.0 + index as f64).sin() + 0.1) * 0.01;
    net.params().iter().map(|(name, param)| (name.clone(), of(&param.tensor))).collect()
}

/// Steps parameters with the optimizer and copies of them with libtorch's.
fn compare(spec: OptimizerSpec, reference: impl Fn(&tch::nn::VarStore) -> tch::nn::Optimizer, decays: bool) {
    let mut net = net(uniform(cakes::kernel::Kernel::K113), Engine::Direct);
    let mut optimizer = Optimizer::new(spec, &net).unwrap();
    let store = tch::nn::VarStore::new(tch::Device::Cpu);
    let chosen: Vec<String> = net
        .params()
        .iter()
        .filter(|(_, param)| param.decays == decays)
        .map(|(name, _)| name.clone())
        .collect();
    let copies: Vec<Tensor> = chosen
        .iter()
        .map(|name| store.root().var_copy(&name.replace('.', "_"), &net.params()[name].tensor.detach()))
        .collect();
    let mut theirs = reference(&store);
    let draws = Draws::new();
    for index in 0..4 {
        let rate = 0.02 / (index + 1) as f64;
        let gradients = gradients(&net, index);
        theirs.zero_grad();
        let products =
            chosen.iter().zip(&copies).map(|(name, copy)| (copy * &gradients[name]).sum(tch::Kind::Float));
        Tensor::stack(&products.collect::<Vec<_>>(), 0).sum(tch::Kind::Float).backward();
        theirs.set_lr(rate);
        theirs.step();
        optimizer.step(&mut net, &gradients, step(index, rate, &draws)).unwrap();
        for (name, copy) in chosen.iter().zip(&copies) {
            let apart = difference(&net.params()[name].tensor.detach(), &copy.detach());
            assert!(apart < 1e-5, "step {index}, {name}: {apart}");
        }
    }
}

#[test]
fn sgd_steps_like_that_of_libtorch() {
    for nesterov in [false, true] {
        let spec =
            |weight_decay| OptimizerSpec::Sgd { learning_rate: 0.02, momentum: 0.9, nesterov, weight_decay };
        let theirs = move |wd: f64| {
            move |store: &tch::nn::VarStore| tch::nn::sgd(0.9, 0.0, wd, nesterov).build(store, 0.02).unwrap()
        };
        compare(spec(0.05), theirs(0.05), true);
        // Norms and biases are not decayed.
        compare(spec(0.05), theirs(0.0), false);
    }
}

#[test]
fn adam_w_steps_like_that_of_libtorch() {
    let spec = OptimizerSpec::AdamW {
        learning_rate: 0.02,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };
    let theirs = |wd: f64| {
        move |store: &tch::nn::VarStore| tch::nn::adamw(0.8, 0.95, wd).eps(1e-8).build(store, 0.02).unwrap()
    };
    compare(spec.clone(), theirs(0.1), true);
    compare(spec, theirs(0.0), false);
}

fn plain_sgd() -> OptimizerSpec {
    OptimizerSpec::Sgd { learning_rate: 1.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
}

#[test]
fn clipping_limits_the_norm_over_all_parameters_and_spares_smaller_ones() {
    let change = |clip_norm: f64| {
        let mut net = net(uniform(cakes::kernel::Kernel::K111), Engine::Direct);
        let before: Vec<Tensor> = net.params().values().map(|param| param.tensor.detach().copy()).collect();
        let gradients = gradients(&net, 1);
        let norm = |tensors: &mut dyn Iterator<Item = Tensor>| {
            tensors.map(|tensor| tensor.square().sum(tch::Kind::Double).double_value(&[])).sum::<f64>().sqrt()
        };
        let wanted = norm(&mut gradients.values().map(Tensor::shallow_clone));
        let draws = Draws::new();
        let mut optimizer = Optimizer::new(plain_sgd(), &net).unwrap();
        optimizer.step(&mut net, &gradients, Step { clip_norm, ..step(0, 1.0, &draws) }).unwrap();
        let moved = norm(
            &mut net.params().values().zip(&before).map(|(param, before)| param.tensor.detach() - before),
        );
        (wanted, moved)
    };
    let (wanted, moved) = change(0.01);
    assert!(wanted > 0.02 && (moved - 0.01).abs() < 1e-4, "{wanted} {moved}");
    let (wanted, moved) = change(100.0);
    assert!((moved - wanted).abs() < 1e-4 * wanted);
    let (wanted, moved) = change(0.0);
    assert!((moved - wanted).abs() < 1e-4 * wanted);
}

#[test]
fn a_gradient_that_is_not_finite_is_a_numeric_failure() {
    let mut net = net(uniform(cakes::kernel::Kernel::K111), Engine::Direct);
    let mut gradients = gradients(&net, 0);
    gradients.insert("head.bias".into(), Tensor::from_slice(&[f32::NAN, 0.0, 0.0]));
    let draws = Draws::new();
    let mut optimizer = Optimizer::new(plain_sgd(), &net).unwrap();
    let error =
        optimizer.step(&mut net, &gradients, Step { clip_norm: 1.0, ..step(0, 1.0, &draws) }).unwrap_err();
    assert_eq!(error.class(), cakes::frame::FailureClass::Numeric);
}

/// γ starts at 1/√7 and nothing but L1 acts on it.
#[test]
fn l1_takes_scales_to_exact_zeros_in_proportion_to_their_taps() {
    let mut net = net(supernet(SearchMode::CostPriority), Engine::Direct);
    let zeros: Gradients =
        net.params().iter().map(|(name, param)| (name.clone(), param.tensor.detach().zeros_like())).collect();
    let mut optimizer = Optimizer::new(plain_sgd(), &net).unwrap();
    let draws = Draws::new();
    let name = "encoder.0.conv1.norm.weight";
    let start = 1.0 / 7_f64.sqrt();
    let (rate, l1_strength) = (0.1, 1.0);
    for index in 0..8 {
        optimizer.step(&mut net, &zeros, Step { l1_strength, ..step(index, rate, &draws) }).unwrap();
        for (position, kernel) in KernelSet::volumetric().iter().enumerate() {
            let shrunk = f64::from(kernel.taps()) / 63.0 * rate * l1_strength * (index + 1) as f64;
            let value = net.params()[name].tensor.double_value(&[position as i64 * 5]);
            assert!((value - (start - shrunk).max(0.0)).abs() < 1e-5, "{kernel} step {index}: {value}");
        }
    }
    // 8 · 0.1 · 27/63 is less than 1/√7, 9 of these are more.
    optimizer.step(&mut net, &zeros, Step { l1_strength, ..step(8, 0.1, &draws) }).unwrap();
    assert_eq!(net.params()[name].tensor.double_value(&[0]), 0.0);
    assert!(net.params()[name].tensor.double_value(&[5]) > 0.0);
    // Norms that no candidate follows are left alone.
    assert_eq!(net.params()["stem.norm.weight"].tensor.double_value(&[0]), 1.0);
}

const MODES: [SearchMode; 2] = [SearchMode::CostPriority, SearchMode::PerformancePriority];

fn every_rule() -> [OptimizerSpec; 3] {
    let sgd =
        |nesterov| OptimizerSpec::Sgd { learning_rate: 0.02, momentum: 0.9, nesterov, weight_decay: 0.05 };
    let adam = OptimizerSpec::AdamW {
        learning_rate: 0.02,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };
    [sgd(false), sgd(true), adam]
}

/// Parameters and state of an optimizer after some steps of a supernet, one gradient
/// missing in each. Before, both are set in place, as by a checkpoint.
fn after_steps(
    mode: SearchMode,
    make: impl Fn(&Net) -> Optimizer,
) -> std::collections::BTreeMap<String, Tensor> {
    let mut net = net(supernet(mode), Engine::Direct);
    let mut optimizer = make(&net);
    let first = optimizer.state().find(|(name, _)| name == "first.head.weight").unwrap().1;
    for (restored, value) in [(&net.params()["head.weight"].tensor, 0.25), (first, 1e-3)] {
        let _ = tch::no_grad(|| restored.shallow_clone().fill_(value));
    }
    for index in 0..4 {
        let draws = net.draw(1, index).unwrap();
        let mut gradients = gradients(&net, index);
        assert!(gradients.remove("encoder.0.conv1.3x3x3.weight").is_some());
        let step = Step { clip_norm: 0.05, l1_strength: 0.3, ..step(index, 0.02, &draws) };
        optimizer.step(&mut net, &gradients, step).unwrap();
    }
    let params = net.params().iter().map(|(name, param)| (name.clone(), param.tensor.detach().copy()));
    params.chain(optimizer.state().map(|(name, tensor)| (name, tensor.copy()))).collect()
}

/// On a GPU all parameters are one vector; what a step makes of them is the same.
#[test]
fn parameters_in_one_vector_step_like_those_in_host_memory() {
    for mode in MODES {
        for spec in every_rule() {
            let host = after_steps(mode, |net| Optimizer::new(spec.clone(), net).unwrap());
            let flat = after_steps(mode, |net| Optimizer::flat(spec.clone(), net).unwrap());
            assert_eq!(host.keys().collect::<Vec<_>>(), flat.keys().collect::<Vec<_>>());
            for (name, value) in &host {
                assert_eq!(value.size(), flat[name].size(), "{name}");
                let apart = difference(value, &flat[name]);
                assert!(apart < 1e-5, "{name}: {apart} ({mode:?}, {spec:?})");
            }
        }
    }
}

/// Layers so large that a step cuts their parameters in several parts.
#[test]
fn a_step_is_the_same_bits_with_any_number_of_threads() {
    let backbone = Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 2,
        classes: 3,
        base_width: 40,
        levels: 2,
        ..EncoderDecoder::default()
    });
    let network = Architecture::even(backbone, &[cakes::kernel::Kernel::K333]).unwrap().network();
    for spec in every_rule() {
        let train = || {
            let mut net = net(network.clone(), Engine::Direct);
            let mut optimizer = Optimizer::new(spec.clone(), &net).unwrap();
            for index in 0..2 {
                let gradients = gradients(&net, index);
                let draws = Draws::new();
                let step = Step { clip_norm: 0.05, ..step(index, 0.02, &draws) };
                optimizer.step(&mut net, &gradients, step).unwrap();
            }
            net
        };
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(train)
        };
        let (one, three) = (with(1), with(3));
        for (name, param) in one.params() {
            assert!(param.tensor.equal(&three.params()[name].tensor), "{name} ({spec:?})");
        }
    }
}
