//! What is written out for the CPU computes what libtorch computes, to a
//! hundred-thousandth: whole networks here, single layers in `convolutions.rs`.

mod common;

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, BlockKind, EncoderDecoder, Form, MiddleLayer};
use cakes::kernel::Kernel;
use cakes::network::{Network, SearchMode};
use cakes_trainer::loss::{classification_loss, segmentation_loss};
use cakes_trainer::nets::{Engine, Method, Methods, Use};
use common::judge::{Outcome, Trial, methods_are_exact, outcome};
use common::{
    EXTENT, architectures, backbone, batch, batch_of, difference, net, net_for, samples_of, supernet,
    supernet_of, uniform, well_conditioned,
};
use proptest::prelude::*;
use tch::{Device, Tensor};

const MODES: [SearchMode; 2] = [SearchMode::CostPriority, SearchMode::PerformancePriority];

/// A network of the tests' encoder-decoder, on two volumes.
fn engines_agree(network: &Network) {
    engines_agree_at(network, EXTENT, 2);
}

fn engines_agree_at(network: &Network, extent: Extent, samples: i64) {
    let (_, labels) = batch_of(extent, samples, 0);
    let loss = |output: &Tensor| segmentation_loss(output, &labels);
    let images = |seed| batch_of(extent, samples, seed).0;
    methods_are_exact(&Trial { network, extent, images: &images, loss: &loss, deep: false });
}

/// The same for a classification of three samples.
fn engines_agree_on(backbone: &Backbone, network: &Network, extent: Extent) {
    let (_, labels) = samples_of(backbone, extent, 0);
    let loss = |output: &Tensor| classification_loss(output, &labels);
    let images = |seed| samples_of(backbone, extent, seed).0;
    methods_are_exact(&Trial { network, extent, images: &images, loss: &loss, deep: true });
}

#[test]
fn uniform_networks() {
    for kernel in Kernel::ALL {
        engines_agree(&uniform(kernel));
    }
}

#[test]
fn supernets() {
    for mode in MODES {
        engines_agree(&supernet(mode));
    }
}

#[test]
fn single_volumes() {
    for mode in MODES {
        engines_agree_at(&supernet(mode), [6, 10, 14], 1);
    }
    engines_agree_at(&uniform(Kernel::K133), [6, 10, 14], 1);
}

#[test]
fn plain_encoder_decoders() {
    let plain = Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 2,
        classes: 3,
        base_width: 5,
        levels: 3,
        block: BlockKind::Plain,
        ..EncoderDecoder::default()
    });
    let even = Architecture::even(plain.clone(), &Kernel::ALL[..7]).unwrap();
    for network in [even.network(), supernet_of(&plain, MODES[0]), supernet_of(&plain, MODES[1])] {
        engines_agree(&network);
    }
}

#[test]
fn residual_networks_of_every_form() {
    for (backbone, extent) in well_conditioned(MiddleLayer::Searchable) {
        let even = Architecture::even(backbone.clone(), &[Kernel::K333, Kernel::K133, Kernel::K311]);
        engines_agree_on(&backbone, &even.unwrap().network(), extent);
    }
    for (backbone, extent) in well_conditioned(MiddleLayer::P3d) {
        engines_agree_on(&backbone, &backbone.network(Form::Derived(&[])), extent);
    }
}

#[test]
fn residual_supernets() {
    for mode in MODES {
        for (backbone, extent) in well_conditioned(MiddleLayer::Searchable).into_iter().take(4) {
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
    assert!(difference(&direct, &torch) < 1e-5);
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
    for method in [Method::Rows, Method::Blocked, Method::Pieces] {
        let train = || {
            let (images, labels) = batch(EXTENT);
            let loss = |output: &Tensor| segmentation_loss(output, &labels);
            let trial = Trial {
                network: &network,
                extent: EXTENT,
                images: &|_| images.copy(),
                loss: &loss,
                deep: false,
            };
            let net = net_for(network.clone(), EXTENT, Engine::Direct).with_methods(Methods::only(method));
            outcome(net, &trial, &images)
        };
        let with = |threads| -> Outcome {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(train)
        };
        let (one, four) = (with(1), with(4));
        for (name, value) in &one.tensors {
            assert!(value.equal(&four.tensors[name]), "{method:?} {name}");
        }
        assert_eq!(one.loss, four.loss);
        assert!(one.tensors.values().all(|tensor| tensor.device() == Device::Cpu));
    }
}
