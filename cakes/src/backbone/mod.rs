//! Families of networks. Each is a configuration and one function that returns
//! a [`Network`]; nothing else in the workspace knows a family by name.

mod encoder_decoder;
mod resnet;

use serde::{Deserialize, Serialize};

pub use encoder_decoder::{BlockKind, EncoderDecoder};
pub use resnet::{MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem};

use crate::Extent;
use crate::allocation::ChannelAllocation;
use crate::kernel::KernelSet;
use crate::network::{Conv, ConvKernels, Network, NetworkBuilder, NodeId, Op, SearchMode};
use crate::spec::TaskKind;

/// A family of networks with its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Backbone {
    EncoderDecoder(EncoderDecoder),
    VideoResnet(VideoResnet),
    VolumeResnet(VolumeResnet),
}

/// A layer whose kernels may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchableLayer {
    pub name: String,
    /// Channels C that an allocation must sum to.
    pub channels: u32,
}

/// Which network of a family to build.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// Every searchable layer holds all `kernels`.
    Supernet { mode: SearchMode, kernels: &'a KernelSet },
    /// Searchable layers, in their order, get these allocations.
    Derived(&'a [ChannelAllocation]),
}

/// A configuration value out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BackboneError {
    pub field: &'static str,
    pub problem: String,
}

impl Backbone {
    /// Layers whose kernels may be chosen, in the order in which they run.
    pub fn searchable_layers(&self) -> Vec<SearchableLayer> {
        match self {
            Backbone::EncoderDecoder(config) => config.searchable_layers(),
            Backbone::VideoResnet(config) => config.searchable_layers(),
            Backbone::VolumeResnet(config) => config.searchable_layers(),
        }
    }

    /// The network in the given form.
    ///
    /// A [`Form::Derived`] must hold one allocation per searchable layer;
    /// [`crate::architecture::Architecture`] guarantees it.
    pub fn network(&self, form: Form<'_>) -> Network {
        match self {
            Backbone::EncoderDecoder(config) => config.network(form),
            Backbone::VideoResnet(config) => config.network(form),
            Backbone::VolumeResnet(config) => config.network(form),
        }
    }

    pub fn input_channels(&self) -> u32 {
        match self {
            Backbone::EncoderDecoder(config) => config.input_channels,
            Backbone::VideoResnet(config) => config.input_channels,
            Backbone::VolumeResnet(config) => config.input_channels,
        }
    }

    pub fn classes(&self) -> u32 {
        match self {
            Backbone::EncoderDecoder(config) => config.classes,
            Backbone::VideoResnet(config) => config.classes,
            Backbone::VolumeResnet(config) => config.classes,
        }
    }

    /// What the networks of this family tell of a sample.
    pub fn task(&self) -> TaskKind {
        match self {
            Backbone::EncoderDecoder(_) => TaskKind::Segmentation,
            Backbone::VideoResnet(_) | Backbone::VolumeResnet(_) => TaskKind::Classification,
        }
    }

    /// Name of the family, as it stands in a search file.
    pub fn family(&self) -> &'static str {
        match self {
            Backbone::EncoderDecoder(_) => "encoder_decoder",
            Backbone::VideoResnet(_) => "video_resnet",
            Backbone::VolumeResnet(_) => "volume_resnet",
        }
    }

    /// What every axis of an input must be a multiple of.
    pub fn total_stride(&self) -> u32 {
        match self {
            Backbone::EncoderDecoder(config) => config.total_stride(),
            Backbone::VideoResnet(_) | Backbone::VolumeResnet(_) => 1,
        }
    }

    /// The same network with a `1x3x3` and a `3x1x1` for every searchable layer;
    /// none for a family that has no such form.
    pub fn factorised(&self) -> Option<Backbone> {
        match self {
            Backbone::EncoderDecoder(_) => None,
            Backbone::VideoResnet(config) => {
                Some(Backbone::VideoResnet(VideoResnet { middle: MiddleLayer::P3d, ..config.clone() }))
            }
            Backbone::VolumeResnet(config) => {
                Some(Backbone::VolumeResnet(VolumeResnet { middle: MiddleLayer::P3d, ..config.clone() }))
            }
        }
    }

    /// The network of which budgets are fractions: this one with a searchable layer
    /// wherever a [`MiddleLayer`] is something else.
    pub fn searchable(&self) -> Backbone {
        let middle = MiddleLayer::Searchable;
        match self {
            Backbone::EncoderDecoder(_) => self.clone(),
            Backbone::VideoResnet(config) => Backbone::VideoResnet(VideoResnet { middle, ..config.clone() }),
            Backbone::VolumeResnet(config) => {
                Backbone::VolumeResnet(VolumeResnet { middle, ..config.clone() })
            }
        }
    }

    /// Checks the configuration itself.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn check(&self) -> Result<(), BackboneError> {
        match self {
            Backbone::EncoderDecoder(config) => config.check(),
            Backbone::VideoResnet(config) => config.check(),
            Backbone::VolumeResnet(config) => config.check(),
        }
    }

    /// Checks that the network can take an input of `extent` voxels.
    ///
    /// # Errors
    /// An axis that the depth of the network cannot divide, with the nearest
    /// sizes that it can.
    pub fn check_extent(&self, extent: Extent) -> Result<(), String> {
        let stride = self.total_stride();
        for (axis, size) in ["D", "H", "W"].into_iter().zip(extent) {
            if size == 0 || size % stride != 0 {
                let below = size / stride * stride;
                let nearest = match (below, below.checked_add(stride)) {
                    (0, _) => stride.to_string(),
                    (below, Some(above)) => format!("{below} or {above}"),
                    (below, None) => below.to_string(),
                };
                return Err(format!(
                    "{size} along {axis} is not a multiple of {stride}, which this network's depth needs; use {nearest}"
                ));
            }
        }
        Ok(())
    }
}

/// Assembles the parts that a searchable layer has in each form.
pub(crate) struct FormBuilder<'a> {
    pub(crate) net: NetworkBuilder,
    form: Form<'a>,
    searchable_seen: usize,
}

impl<'a> FormBuilder<'a> {
    pub(crate) fn new(form: Form<'a>) -> Self {
        FormBuilder { net: NetworkBuilder::default(), form, searchable_seen: 0 }
    }

    /// A convolution that no search changes, its norm, and a ReLU if `active`.
    pub(crate) fn fixed(
        &mut self,
        name: &str,
        input: NodeId,
        kernels: ConvKernels,
        channels: u32,
        stride: Extent,
        active: bool,
    ) -> NodeId {
        self.conv_norm(name, input, kernels, channels, stride, 1, active)
    }

    /// A convolution with nothing behind it.
    pub(crate) fn plain(
        &mut self,
        name: &str,
        input: NodeId,
        kernels: ConvKernels,
        channels: u32,
        stride: Extent,
    ) -> NodeId {
        self.net.add(name, Op::Conv(Conv { channels, kernels, stride, bias: false }), &[input])
    }

    /// A searchable convolution, its norm, a ReLU if `active`, and in a
    /// cost-priority supernet the sum over candidates.
    ///
    /// The published supernet widens the next layer K times and starts its K
    /// copies equal. Summing the activated candidates is that supernet with the
    /// copies tied: each candidate reaches the next layer through the weights of
    /// its channel, so |γ| alone scales its part, and widths do not multiply.
    pub(crate) fn searchable(
        &mut self,
        name: &str,
        input: NodeId,
        channels: u32,
        stride: Extent,
        active: bool,
    ) -> NodeId {
        let position = self.searchable_seen;
        self.searchable_seen += 1;
        let (kernels, candidates) = match self.form {
            Form::Derived(allocations) => (ConvKernels::Mixed(allocations[position].clone()), 1),
            Form::Supernet { mode, kernels } => {
                let candidates = match mode {
                    SearchMode::PerformancePriority => kernels.len() as u32,
                    SearchMode::CostPriority => 1,
                };
                (ConvKernels::Candidates { kernels: kernels.clone(), mode }, candidates)
            }
        };
        let output = self.conv_norm(name, input, kernels, channels, stride, candidates, active);
        match self.form {
            Form::Supernet { mode: SearchMode::CostPriority, kernels } => {
                let groups = kernels.len() as u32;
                self.net.add(format!("{name}.fold"), Op::Fold { groups }, &[output])
            }
            _ => output,
        }
    }

    #[allow(clippy::too_many_arguments)] // private; the two callers above name them all
    fn conv_norm(
        &mut self,
        name: &str,
        input: NodeId,
        kernels: ConvKernels,
        channels: u32,
        stride: Extent,
        candidates: u32,
        active: bool,
    ) -> NodeId {
        let conv = self.plain(name, input, kernels, channels, stride);
        let norm = self.net.add(format!("{name}.norm"), Op::Norm { candidates }, &[conv]);
        if active { self.net.add(format!("{name}.relu"), Op::Relu, &[norm]) } else { norm }
    }
}
