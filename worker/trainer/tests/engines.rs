//! What is written out for the CPU computes what libtorch computes.

mod common;

use std::collections::BTreeMap;

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, Form, MiddleLayer};
use cakes::kernel::Kernel;
use cakes::network::{Network, SearchMode};
use cakes_trainer::TrainerError;
use cakes_trainer::loss::{classification_loss, segmentation_loss};
use cakes_trainer::nets::{Engine, Method, Methods, Use};
use common::{
    EXTENT, architectures, backbone, batch, difference, net, net_for, residual_networks, samples, supernet,
    supernet_of, uniform,
};
use proptest::prelude::*;
use tch::{Device, Tensor};

/// Loss, gradients and running statistics, the output of evaluation,
/// multiply-accumulates.
type Outcome = (f64, BTreeMap<String, Tensor>, Tensor, u64);

fn outcome(network: &Network, engine: Engine, method: Method) -> Outcome {
    let (images, labels) = batch(EXTENT);
    outcome_of(network, EXTENT, engine, method, &images, |output| segmentation_loss(output, &labels))
}

/// Every way to compute a convolution in host memory.
const METHODS: [Method; 3] = [Method::Rows, Method::Blocked, Method::Matrix];

fn outcome_of(
    network: &Network,
    extent: Extent,
    engine: Engine,
    method: Method,
    images: &Tensor,
    loss: impl Fn(&Tensor) -> Result<Tensor, TrainerError>,
) -> Outcome {
    let mut net = net_for(network.clone(), extent, engine).with_methods(Methods::only(method));
    let draws = net.draw(1, 2).unwrap();
    let (loss, mut all) = net.gradients(images, &draws, loss).unwrap();
    let counted = net.last_count().mac_count;
    for (name, tensor) in net.state().filter(|(name, _)| name.contains("running")) {
        all.insert(name.clone(), tensor.copy());
    }
    let output = tch::no_grad(|| net.forward(images, Use::Evaluate(&draws)).unwrap());
    assert_eq!(net.last_count().mac_count, counted, "training and evaluation run the same convolutions");
    (loss, all, output, counted)
}

fn engines_agree(network: &Network) {
    let torch = outcome(network, Engine::Torch, Method::Rows);
    for method in METHODS {
        agree(&outcome(network, Engine::Direct, method), &torch);
    }
}

/// The same for a classification of samples.
fn engines_agree_on(backbone: &Backbone, network: &Network, extent: Extent) {
    let (images, labels) = samples(backbone, extent);
    let run = |engine, method| {
        outcome_of(network, extent, engine, method, &images, |output| classification_loss(output, &labels))
    };
    let torch = run(Engine::Torch, Method::Rows);
    for method in METHODS {
        agree(&run(Engine::Direct, method), &torch);
    }
}

fn agree(direct: &Outcome, torch: &Outcome) {
    assert!((direct.0 - torch.0).abs() < 1e-4 * torch.0.max(1.0), "loss {} and {}", direct.0, torch.0);
    assert_eq!(direct.3, torch.3, "multiply-accumulates");
    assert_eq!(direct.1.keys().collect::<Vec<_>>(), torch.1.keys().collect::<Vec<_>>());
    // A shift before a norm has no gradient but what rounding leaves.
    let longest = direct.1.values().map(length).fold(0.0, f64::max);
    for (name, value) in &direct.1 {
        // Both round differently, so that now and then a ReLU that stands at
        // zero lets one gradient of some thousands pass in one of them only.
        let scale = length(value).max(1e-4 * longest);
        let apart = length(&(value - &torch.1[name])) / scale;
        assert!(apart < 2e-2, "{name}: {apart}");
    }
    assert!(difference(&direct.2, &torch.2) < 1e-4, "output");
}

fn length(values: &Tensor) -> f64 {
    values.norm().double_value(&[])
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
fn residual_networks_of_every_form() {
    for (backbone, extent) in residual_networks(MiddleLayer::Searchable) {
        let even = Architecture::even(backbone.clone(), &[Kernel::K333, Kernel::K133, Kernel::K311]);
        engines_agree_on(&backbone, &even.unwrap().network(), extent);
    }
    for (backbone, extent) in residual_networks(MiddleLayer::P3d) {
        engines_agree_on(&backbone, &backbone.network(Form::Derived(&[])), extent);
    }
}

#[test]
fn residual_supernets() {
    for mode in [SearchMode::CostPriority, SearchMode::PerformancePriority] {
        for (backbone, extent) in residual_networks(MiddleLayer::Searchable) {
            engines_agree_on(&backbone, &supernet_of(&backbone, mode), extent);
        }
    }
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
    for method in [Method::Rows, Method::Blocked] {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| outcome(&network, Engine::Direct, method))
        };
        let (one, four) = (with(1), with(4));
        for (name, value) in &one.1 {
            assert!(value.equal(&four.1[name]), "{method:?} {name}");
        }
        assert_eq!(one.0, four.0);
        assert!(one.2.equal(&four.2) && one.2.device() == Device::Cpu);
    }
}
