//! Small networks and batches for the tests.
#![allow(dead_code)] // each test file uses some of it

pub mod jobs;
pub mod judge;

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{
    Backbone, EncoderDecoder, Form, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem,
};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Network, SearchMode};
use cakes_trainer::nets::{Engine, Net};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

pub const EXTENT: Extent = [8, 12, 20];

pub fn backbone() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 2,
        classes: 3,
        base_width: 5,
        levels: 2,
        ..EncoderDecoder::default()
    })
}

pub fn supernet(mode: SearchMode) -> Network {
    supernet_of(&backbone(), mode)
}

pub fn supernet_of(backbone: &Backbone, mode: SearchMode) -> Network {
    backbone.network(Form::Supernet { mode, kernels: &KernelSet::volumetric() })
}

/// A ResNet for clips of colours.
pub fn video(depth: ResnetDepth, middle: MiddleLayer) -> Backbone {
    Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: 4,
        depth,
        base_width: 3,
        dropout_percent: 30,
        middle,
    })
}

/// A ResNet for volumes of one channel.
pub fn volume(depth: ResnetDepth, stem: VolumeStem, middle: MiddleLayer) -> Backbone {
    Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: 4,
        depth,
        base_width: 3,
        dropout_percent: 50,
        stem,
        middle,
    })
}

/// Each residual network with an extent that its strides do not divide.
pub fn residual_networks(middle: MiddleLayer) -> Vec<(Backbone, Extent)> {
    [ResnetDepth::R18, ResnetDepth::R50]
        .into_iter()
        .flat_map(|depth| {
            [
                (video(depth, middle), [4, 69, 37]),
                (volume(depth, VolumeStem::Compact, middle), [17, 19, 18]),
                (volume(depth, VolumeStem::Wide, middle), [33, 29, 35]),
            ]
        })
        .collect()
}

/// All of them but the one whose last norm sees a dozen values: over so few, rounding
/// grows from norm to norm.
pub fn well_conditioned(middle: MiddleLayer) -> Vec<(Backbone, Extent)> {
    let mut networks = residual_networks(middle);
    networks.truncate(5);
    networks
}

/// Images of three samples and their classes, of four.
pub fn samples(backbone: &Backbone, extent: Extent) -> (Tensor, Tensor) {
    samples_of(backbone, extent, 0)
}

/// The same; images follow from a seed.
pub fn samples_of(backbone: &Backbone, extent: Extent, seed: u64) -> (Tensor, Tensor) {
    let mut rng = ChaCha8Rng::seed_from_u64(4 + seed);
    let ([d, h, w], channels) = (extent.map(i64::from), i64::from(backbone.input_channels()));
    let image: Vec<f32> = (0..3 * channels * d * h * w).map(|_| rng.random_range(-2.0..2.0)).collect();
    (Tensor::from_slice(&image).view([3, channels, d, h, w]), Tensor::from_slice(&[0_i64, 3, 1]))
}

pub fn uniform(kernel: Kernel) -> Network {
    Architecture::even(backbone(), &[kernel]).expect("the backbone is valid").network()
}

pub fn net(network: Network, engine: Engine) -> Net {
    net_for(network, EXTENT, engine)
}

pub fn net_for(network: Network, extent: Extent, engine: Engine) -> Net {
    // Tests run side by side already.
    tch::set_num_threads(1);
    Net::new(network, extent, 7, Device::Cpu).expect("the network is valid").with_engine(engine)
}

/// Architectures with any allocation, kernels without channels included.
pub fn architectures() -> impl Strategy<Value = Architecture> {
    let layers = backbone().searchable_layers();
    let channels: usize = layers.iter().map(|layer| layer.channels as usize).sum();
    proptest::collection::vec(0_usize..Kernel::ALL.len(), channels).prop_map(move |kernels| {
        let mut kernels = kernels.into_iter();
        let layers = backbone().searchable_layers().into_iter().map(|layer| {
            let chosen = kernels.by_ref().take(layer.channels as usize);
            let counts: Vec<(Kernel, u32)> = chosen.map(|kernel| (Kernel::ALL[kernel], 1)).collect();
            let channels = ChannelAllocation::new(layer.channels, counts).expect("one per channel");
            LayerAllocation { layer: layer.name, channels }
        });
        Architecture::new(backbone(), layers.collect::<Vec<_>>()).expect("every layer is there")
    })
}

/// Images and labels of two samples.
pub fn batch(extent: Extent) -> (Tensor, Tensor) {
    batch_of(extent, 2, 0)
}

/// Images and labels that follow from a seed. libtorch's generator is shared by all
/// tests of a process, so these have their own.
pub fn batch_of(extent: Extent, samples: i64, seed: u64) -> (Tensor, Tensor) {
    let mut rng = ChaCha8Rng::seed_from_u64(3 + seed);
    let [d, h, w] = extent.map(i64::from);
    let image: Vec<f32> = (0..samples * 2 * d * h * w).map(|_| rng.random_range(-2.0..2.0)).collect();
    let label: Vec<i64> = (0..samples * d * h * w).map(|_| rng.random_range(0..3)).collect();
    (
        Tensor::from_slice(&image).view([samples, 2, d, h, w]),
        Tensor::from_slice(&label).view([samples, d, h, w]),
    )
}

/// Length of the difference, relative to the length of the values.
pub fn difference(left: &Tensor, right: &Tensor) -> f64 {
    let length = left.norm().double_value(&[]).max(1e-6);
    (left - right).norm().double_value(&[]) / length
}
