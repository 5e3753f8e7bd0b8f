//! What is written out for the CPU computes what libtorch computes.

mod common;

use std::collections::BTreeMap;

use cakes::kernel::Kernel;
use cakes::network::{Network, SearchMode};
use cakes_trainer::loss::segmentation_loss;
use cakes_trainer::nets::{Engine, Net, Use};
use common::{EXTENT, architectures, backbone, batch, difference, net, supernet, uniform};
use proptest::prelude::*;
use tch::{Device, Tensor};

/// Loss, gradients, running statistics and the output of evaluation.
fn outcome(network: &Network, engine: Engine) -> (f64, BTreeMap<String, Tensor>, Tensor, u64) {
    let mut net: Net = net(network.clone(), engine);
    let (images, labels) = batch(EXTENT);
    let draws = net.draw(1, 2).unwrap();
    let (loss, mut all) =
        net.gradients(&images, &draws, |output| segmentation_loss(output, &labels)).unwrap();
    let counted = net.last_count().mac_count;
    for (name, tensor) in net.state().filter(|(name, _)| name.contains("running")) {
        all.insert(name.clone(), tensor.copy());
    }
    let output = tch::no_grad(|| net.forward(&images, Use::Evaluate(&draws)).unwrap());
    assert_eq!(net.last_count().mac_count, counted, "training and evaluation run the same convolutions");
    (loss, all, output, counted)
}

fn engines_agree(network: &Network) {
    let (direct, torch) = (outcome(network, Engine::Direct), outcome(network, Engine::Torch));
    assert!((direct.0 - torch.0).abs() < 1e-5, "loss {} and {}", direct.0, torch.0);
    assert_eq!(direct.3, torch.3, "multiply-accumulates");
    assert_eq!(direct.1.keys().collect::<Vec<_>>(), torch.1.keys().collect::<Vec<_>>());
    for (name, value) in &direct.1 {
        // Both round differently, so that now and then a ReLU that stands at
        // zero lets one gradient of some thousands pass in one of them only.
        let apart = difference(value, &torch.1[name]);
        assert!(apart < 2e-2, "{name}: {apart}");
    }
    assert!(difference(&direct.2, &torch.2) < 1e-4, "output");
}

#[test]
fn uniform_networks() {
    for kernel in Kernel::ALL {
        engines_agree(&uniform(kernel));
    }
}

#[test]
fn supernets() {
    engines_agree(&supernet(SearchMode::CostPriority));
    engines_agree(&supernet(SearchMode::PerformancePriority));
}

#[test]
fn evaluation_takes_volumes_of_other_extents_than_the_patch() {
    let extent = [10, 6, 14];
    let (images, _) = batch(extent);
    let run = |engine| {
        let mut net = net(uniform(Kernel::K333), engine);
        let draws = net.best_draw().unwrap();
        tch::no_grad(|| net.forward(&images, Use::Evaluate(&draws)).unwrap())
    };
    let (direct, torch) = (run(Engine::Direct), run(Engine::Torch));
    assert_eq!(direct.size(), [2, 3, 10, 6, 14]);
    assert!(difference(&direct, &torch) < 1e-4);
    assert_eq!(backbone().classes(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn derived_networks(architecture in architectures()) {
        engines_agree(&architecture.network());
    }
}

/// The result must not depend on how many threads share the work.
#[test]
fn gradients_are_the_same_bits_with_any_number_of_threads() {
    let network = supernet(SearchMode::CostPriority);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| outcome(&network, Engine::Direct))
    };
    let (one, four) = (with(1), with(4));
    for (name, value) in &one.1 {
        assert!(value.equal(&four.1[name]), "{name}");
    }
    assert_eq!(one.0, four.0);
    assert!(one.2.equal(&four.2) && one.2.device() == Device::Cpu);
}
