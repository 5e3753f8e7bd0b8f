//! Gradients are what central differences of the loss in float64 say, in tiny networks
//! of every family: those of libtorch's autograd, and those that are written out for
//! the CPU.

mod common;

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, BlockKind, EncoderDecoder, Form, MiddleLayer, ResnetDepth, VolumeStem};
use cakes::kernel::Kernel;
use cakes::network::{Network, SearchMode};
use cakes_trainer::loss::{classification_loss, segmentation_loss};
use cakes_trainer::nets::{Draws, Engine, Gradients, Net, Use};
use common::judge::{Maker, Trial, farthest_kink, reference};
use common::{batch, batch_of, net_for, samples, samples_of, supernet_of, video, volume};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// Halves of the distance of the two points of a difference. Between far points a ReLU
/// may open, and norms make it many; between near ones the difference may be lost in
/// rounding. The right gradient agrees with one of them.
const STEPS: [f64; 4] = [1e-7, 1e-8, 1e-9, 1e-10];

/// Parameters of a network that are tried, each in one place.
const PLACES: usize = 10;

/// Compares in random places, to `tolerance` in float32. Errors are relative to the
/// largest value of a parameter's gradient, or to a hundredth of the largest of all.
fn gradients_are_differences(what: &str, trial: &Trial<'_>, tolerance: f64) {
    let make: Maker<'_> = &|network| net_for(network.clone(), trial.extent, Engine::Direct);
    let batches = (0..12).map(trial.images);
    let images = batches.into_iter().find(|images| farthest_kink(trial, images, make) == 0.0);
    let images = images.expect("a batch that is not rounded over a kink");
    let (mut net, mut direct) = (reference(trial), make(trial.network));
    let draws = net.draw(1, 2).unwrap();
    let (_, written) = direct.gradients(&images, &draws, trial.loss).unwrap();
    let images = images.to_kind(Kind::Double);
    let (_, torch) = net.gradients(&images, &draws, trial.loss).unwrap();
    assert_eq!(torch.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
    let largest = |gradient: &Tensor| gradient.abs().max().double_value(&[]);
    let overall = torch.values().map(largest).fold(0.0, f64::max);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for (name, place) in places(&torch, &mut rng) {
        let mut loss = loss_along(&mut net, &name, place, &images, &draws, trial);
        let differences = STEPS.map(|step| (loss(step) - loss(-step)) / (2.0 * step));
        loss(0.0);
        let scale = largest(&torch[&name]).max(1e-2 * overall);
        let at = |gradients: &Gradients| gradients[&name].reshape([-1]).double_value(&[place]);
        for (who, found, tolerance) in
            [("libtorch", at(&torch), 1e-5), ("the CPU's", at(&written), tolerance)]
        {
            let apart = differences.map(|difference| (found - difference).abs() / scale);
            let nearest = apart.into_iter().fold(f64::INFINITY, f64::min);
            assert!(
                nearest < tolerance,
                "{what}, {name}[{place}], {who}: {found}, not {differences:?}: {nearest}"
            );
        }
    }
}

/// Random places of random parameters; in supernets those that are drawn.
fn places(gradients: &Gradients, rng: &mut ChaCha8Rng) -> Vec<(String, i64)> {
    let names: Vec<&String> = gradients.keys().collect();
    let chosen: Vec<&&String> = names.sample(rng, PLACES).collect();
    let place = |name: &&&String| ((**name).clone(), rng.random_range(0..gradients[**name].numel() as i64));
    chosen.iter().map(place).collect()
}

/// The loss as a function of how far one value of a parameter is moved.
fn loss_along<'a>(
    net: &'a mut Net,
    name: &str,
    place: i64,
    images: &'a Tensor,
    draws: &'a Draws,
    trial: &'a Trial<'_>,
) -> impl FnMut(f64) -> f64 + 'a {
    let value = net.params()[name].tensor.detach().reshape([-1]).get(place);
    let start = value.double_value(&[]);
    move |moved| {
        let _no_grad = tch::no_grad_guard();
        let _ = value.shallow_clone().fill_(start + moved);
        let output = net.forward(images, Use::Train(draws)).unwrap();
        (trial.loss)(&output).unwrap().double_value(&[])
    }
}

/// Derived, with empty branches, and as a supernet of both modes.
fn forms(backbone: &Backbone, kernels: &[Kernel]) -> Vec<(String, Network)> {
    let even = Architecture::even(backbone.clone(), kernels).unwrap().network();
    let mut forms = vec![("derived".to_owned(), even)];
    for mode in [SearchMode::CostPriority, SearchMode::PerformancePriority] {
        forms.push((format!("{mode:?}"), supernet_of(backbone, mode)));
    }
    forms
}

fn classifiers(backbone: &Backbone, extent: Extent, forms: Vec<(String, Network)>) {
    let (_, labels) = samples(backbone, extent);
    for (form, network) in forms {
        let loss = |output: &Tensor| classification_loss(output, &labels);
        let images = |seed| samples_of(backbone, extent, seed).0;
        let trial = Trial { network: &network, extent, images: &images, loss: &loss, deep: true };
        // In twenty norms, one behind the other, rounding in float32 grows so far, also
        // in libtorch's own.
        gradients_are_differences(&format!("{} {form}", backbone.family()), &trial, 1e-3);
    }
}

#[test]
fn video_resnets() {
    let extent = [4, 45, 33];
    let backbone = video(ResnetDepth::R18, MiddleLayer::Searchable);
    classifiers(&backbone, extent, forms(&backbone, &[Kernel::K333, Kernel::K133, Kernel::K311]));
    let deep = video(ResnetDepth::R50, MiddleLayer::Searchable);
    classifiers(&deep, extent, forms(&deep, &[Kernel::K133, Kernel::K311]));
    let p3d = video(ResnetDepth::R18, MiddleLayer::P3d);
    classifiers(&p3d, extent, vec![("P3D".into(), p3d.network(Form::Derived(&[])))]);
}

#[test]
fn volume_resnets() {
    let compact = volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable);
    classifiers(&compact, [17, 19, 18], forms(&compact, &Kernel::ALL[1..]));
    let wide = volume(ResnetDepth::R50, VolumeStem::Wide, MiddleLayer::Searchable);
    classifiers(&wide, [33, 35, 37], forms(&wide, &[Kernel::K331, Kernel::K113]));
}

#[test]
fn encoder_decoders() {
    for block in [BlockKind::Residual, BlockKind::Plain] {
        let backbone = Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 2,
            classes: 3,
            base_width: 4,
            levels: 2,
            block,
            ..EncoderDecoder::default()
        });
        let extent = [4, 6, 10];
        let (_, labels) = batch(extent);
        for (form, network) in forms(&backbone, &Kernel::ALL[..3]) {
            let loss = |output: &Tensor| segmentation_loss(output, &labels);
            let images = |seed| batch_of(extent, 2, seed).0;
            let trial = Trial { network: &network, extent, images: &images, loss: &loss, deep: false };
            gradients_are_differences(&format!("{block:?} {form}"), &trial, 1e-5);
        }
    }
}
