//! Small networks and batches for the tests.
#![allow(dead_code)] // each test file uses some of it

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{Backbone, EncoderDecoder, Form};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Network, SearchMode};
use cakes_trainer::nets::{Engine, Net};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

pub const EXTENT: Extent = [8, 12, 20];

pub fn backbone() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder { input_channels: 2, classes: 3, base_width: 5, levels: 2 })
}

pub fn supernet(mode: SearchMode) -> Network {
    backbone().network(Form::Supernet { mode, kernels: &KernelSet::volumetric() })
}

pub fn uniform(kernel: Kernel) -> Network {
    Architecture::even(backbone(), &[kernel]).expect("the backbone is valid").network()
}

pub fn net(network: Network, engine: Engine) -> Net {
    Net::new(network, EXTENT, 7, Device::Cpu).expect("the network is valid").with_engine(engine)
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
    tch::manual_seed(3);
    let [d, h, w] = extent.map(i64::from);
    let images = Tensor::randn([2, 2, d, h, w], (Kind::Float, Device::Cpu));
    (images, Tensor::randint(3, [2, d, h, w], (Kind::Int64, Device::Cpu)))
}

/// Largest difference, relative to the largest value.
pub fn difference(left: &Tensor, right: &Tensor) -> f64 {
    let scale = right.abs().max().double_value(&[]).max(1e-6);
    (left - right).abs().max().double_value(&[]) / scale
}
