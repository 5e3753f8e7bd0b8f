//! Residual networks for classification (He et al. 2016), of clips and of
//! volumes.
//!
//! ```text
//! stem ─ stage1 ─ stage2 ─ stage3 ─ stage4 ─ head
//!         w        2w       4w       8w        channels of the middle layers
//!
//! basic:       ── 3x3x3 ─ norm ─ ReLU ─ 3x3x3 ─ norm ─ + ─ ReLU ──
//! bottleneck:  ── 1x1x1 ─ norm ─ ReLU ─ 3x3x3 ─ norm ─ ReLU ─ 1x1x1 ─ norm ─ + ─ ReLU ──
//! ```
//!
//! Every `3x3x3` of a block is searchable; the stride sits in the first of a
//! basic block and in the middle layer of a bottleneck. Widths, depths and the
//! place of the stride are those of torchvision's networks.

use serde::{Deserialize, Serialize};

use super::{BackboneError, Form, FormBuilder, SearchableLayer};
use crate::Extent;
use crate::kernel::Kernel;
use crate::network::{ConvKernels, Network, NodeId, Op, Pool};

/// Layers with weights on the longest path, as the networks are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum ResnetDepth {
    R18,
    R50,
    R101,
}

impl ResnetDepth {
    /// Blocks of each stage.
    fn blocks(self) -> [u32; 4] {
        match self {
            ResnetDepth::R18 => [2, 2, 2, 2],
            ResnetDepth::R50 => [3, 4, 6, 3],
            ResnetDepth::R101 => [3, 4, 23, 3],
        }
    }

    /// Whether blocks are bottlenecks, whose output is four times as wide.
    pub fn has_bottlenecks(self) -> bool {
        self != ResnetDepth::R18
    }
}

impl TryFrom<u32> for ResnetDepth {
    type Error = String;

    fn try_from(depth: u32) -> Result<Self, Self::Error> {
        match depth {
            18 => Ok(ResnetDepth::R18),
            50 => Ok(ResnetDepth::R50),
            101 => Ok(ResnetDepth::R101),
            _ => Err(format!("there is no ResNet of depth {depth}; known are 18, 50 and 101")),
        }
    }
}

impl From<ResnetDepth> for u32 {
    fn from(depth: ResnetDepth) -> Self {
        match depth {
            ResnetDepth::R18 => 18,
            ResnetDepth::R50 => 50,
            ResnetDepth::R101 => 101,
        }
    }
}

/// What stands where a `3x3x3` can stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MiddleLayer {
    /// One layer whose channels may have kernels of their own.
    #[default]
    Searchable,
    /// P3D (Qiu et al. 2017) as the paper's baseline has it: a `1x3x3` and behind
    /// it a `3x1x1`, nothing between; there is nothing to search.
    P3d,
}

impl MiddleLayer {
    fn is_searchable(&self) -> bool {
        *self == MiddleLayer::Searchable
    }
}

/// A ResNet that never shrinks time and classifies each frame by itself: the
/// paper's network for video. Scores of frames are averaged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoResnet {
    /// Channels of a frame: 3 for colour.
    pub input_channels: u32,
    pub classes: u32,
    pub depth: ResnetDepth,
    /// Channels of the first stage's middle layers; the published networks have 64.
    pub base_width: u32,
    /// Share of a frame's features that training drops before the classifier, in percent.
    pub dropout_percent: u32,
    #[serde(default, skip_serializing_if = "MiddleLayer::is_searchable")]
    pub middle: MiddleLayer,
}

/// A ResNet for volumes, which strides along all three axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeResnet {
    pub input_channels: u32,
    pub classes: u32,
    pub depth: ResnetDepth,
    /// Channels of the first stage's middle layers.
    pub base_width: u32,
    /// Share of the features that training drops before the classifier, in percent.
    pub dropout_percent: u32,
    pub stem: VolumeStem,
    #[serde(default, skip_serializing_if = "MiddleLayer::is_searchable")]
    pub middle: MiddleLayer,
}

/// How a volume enters the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeStem {
    /// A `3x3x3` at full resolution, for small volumes (28³).
    Compact,
    /// A `7x7x7` with stride 2 and a pool with stride 2, as in the ResNets for
    /// images.
    Wide,
}

/// What the two families have in common.
struct Plan {
    input_channels: u32,
    classes: u32,
    depth: ResnetDepth,
    base_width: u32,
    dropout_percent: u32,
    middle: MiddleLayer,
    /// Stride between stages.
    stride: Extent,
    /// Window and stride of the first convolution.
    stem: (Extent, Extent),
    /// Window, stride and padding of the pool behind it.
    pool: Option<(Extent, Extent, Extent)>,
    /// Whether frames are classified one by one.
    per_frame: bool,
}

impl VideoResnet {
    fn plan(&self) -> Plan {
        Plan {
            input_channels: self.input_channels,
            classes: self.classes,
            depth: self.depth,
            base_width: self.base_width,
            dropout_percent: self.dropout_percent,
            middle: self.middle,
            stride: [1, 2, 2],
            stem: ([1, 7, 7], [1, 2, 2]),
            pool: Some(([1, 3, 3], [1, 2, 2], [0, 1, 1])),
            per_frame: true,
        }
    }
}

impl VolumeResnet {
    fn plan(&self) -> Plan {
        let (stem, pool) = match self.stem {
            VolumeStem::Compact => (([3; 3], [1; 3]), None),
            VolumeStem::Wide => (([7; 3], [2; 3]), Some(([3; 3], [2; 3], [1; 3]))),
        };
        Plan {
            input_channels: self.input_channels,
            classes: self.classes,
            depth: self.depth,
            base_width: self.base_width,
            dropout_percent: self.dropout_percent,
            middle: self.middle,
            stride: [2; 3],
            stem,
            pool,
            per_frame: false,
        }
    }
}

macro_rules! through_its_plan {
    ($family:ty) => {
        impl $family {
            pub(super) fn check(&self) -> Result<(), BackboneError> {
                self.plan().check()
            }

            pub(super) fn searchable_layers(&self) -> Vec<SearchableLayer> {
                self.plan().searchable_layers()
            }

            pub(super) fn network(&self, form: Form<'_>) -> Network {
                self.plan().network(form)
            }
        }
    };
}

through_its_plan!(VideoResnet);
through_its_plan!(VolumeResnet);

/// Position of a block in the network.
struct Block {
    name: String,
    /// Channels of its middle layers.
    width: u32,
    stride: Extent,
    is_first_of_stage: bool,
}

impl Plan {
    const WIDTH_MAX: u32 = 512;

    fn check(&self) -> Result<(), BackboneError> {
        let fail = |field, problem: String| Err(BackboneError { field, problem });
        if !(1..=64).contains(&self.input_channels) {
            return fail("input_channels", format!("must be 1 to 64, got {}", self.input_channels));
        }
        if !(2..=10_000).contains(&self.classes) {
            return fail("classes", format!("must be 2 to 10000, got {}", self.classes));
        }
        if !(1..=Self::WIDTH_MAX).contains(&self.base_width) {
            return fail("base_width", format!("must be 1 to {}, got {}", Self::WIDTH_MAX, self.base_width));
        }
        if self.dropout_percent > 95 {
            return fail("dropout_percent", format!("must be 0 to 95, got {}", self.dropout_percent));
        }
        Ok(())
    }

    fn expansion(&self) -> u32 {
        if self.depth.has_bottlenecks() { 4 } else { 1 }
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.depth.blocks().into_iter().zip(0_u32..).flat_map(move |(count, stage)| {
            (0..count).map(move |index| Block {
                name: format!("stage{}.{index}", stage + 1),
                width: self.base_width << stage,
                stride: if stage > 0 && index == 0 { self.stride } else { [1; 3] },
                is_first_of_stage: index == 0,
            })
        })
    }

    fn searchable_layers(&self) -> Vec<SearchableLayer> {
        if self.middle == MiddleLayer::P3d {
            return Vec::new();
        }
        let convs: &[&str] = if self.depth.has_bottlenecks() { &["conv2"] } else { &["conv1", "conv2"] };
        self.blocks()
            .flat_map(|block| {
                convs.iter().map(move |conv| SearchableLayer {
                    name: format!("{}.{conv}", block.name),
                    channels: block.width,
                })
            })
            .collect()
    }

    fn network(&self, form: Form<'_>) -> Network {
        let mut builder = FormBuilder::new(form);
        let input = builder.net.add("input", Op::Input { channels: self.input_channels }, &[]);
        let (window, stride) = self.stem;
        let kernels = ConvKernels::Window(window);
        let mut x = builder.fixed("stem", input, kernels, self.base_width, stride, true);
        if let Some((size, stride, padding)) = self.pool {
            x = builder.net.add("stem.pool", Op::Pool { kind: Pool::Max, size, stride, padding }, &[x]);
        }
        let mut channels = self.base_width;
        for block in self.blocks() {
            // A shortcut is projected where the shape changes.
            let output = block.width * self.expansion();
            let projects = block.is_first_of_stage && (block.stride != [1; 3] || channels != output);
            x = self.block(&mut builder, &block, x, projects);
            channels = output;
        }
        self.head(&mut builder, x);
        builder.net.build()
    }

    fn block(&self, builder: &mut FormBuilder<'_>, block: &Block, input: NodeId, projects: bool) -> NodeId {
        let Block { name, width, stride, .. } = block;
        let pointwise = || ConvKernels::Uniform(Kernel::K111);
        let output = width * self.expansion();
        let residual = if self.depth.has_bottlenecks() {
            let x = builder.fixed(&format!("{name}.conv1"), input, pointwise(), *width, [1; 3], true);
            let x = self.middle_layer(builder, &format!("{name}.conv2"), x, *width, *stride, true);
            builder.fixed(&format!("{name}.conv3"), x, pointwise(), output, [1; 3], false)
        } else {
            let x = self.middle_layer(builder, &format!("{name}.conv1"), input, *width, *stride, true);
            self.middle_layer(builder, &format!("{name}.conv2"), x, *width, [1; 3], false)
        };
        let shortcut = if projects {
            builder.fixed(&format!("{name}.shortcut"), input, pointwise(), output, *stride, false)
        } else {
            input
        };
        let sum = builder.net.add(format!("{name}.add"), Op::Add, &[residual, shortcut]);
        builder.net.add(format!("{name}.relu"), Op::Relu, &[sum])
    }

    fn middle_layer(
        &self,
        builder: &mut FormBuilder<'_>,
        name: &str,
        input: NodeId,
        channels: u32,
        stride: Extent,
        active: bool,
    ) -> NodeId {
        match self.middle {
            MiddleLayer::Searchable => builder.searchable(name, input, channels, stride, active),
            MiddleLayer::P3d => {
                let spatial = ConvKernels::Uniform(Kernel::K133);
                let [time, height, width] = stride;
                let spatial =
                    builder.plain(&format!("{name}.spatial"), input, spatial, channels, [1, height, width]);
                let temporal = ConvKernels::Uniform(Kernel::K311);
                builder.fixed(name, spatial, temporal, channels, [time, 1, 1], active)
            }
        }
    }

    fn head(&self, builder: &mut FormBuilder<'_>, x: NodeId) {
        let axes = if self.per_frame { [false, true, true] } else { [true; 3] };
        let mut x = builder.net.add("head.pool", Op::Mean { axes }, &[x]);
        if self.dropout_percent > 0 {
            let percent = self.dropout_percent;
            x = builder.net.add("head.dropout", Op::Dropout { percent }, &[x]);
        }
        let scores = builder.net.add("head", Op::Linear { features: self.classes, bias: true }, &[x]);
        if self.per_frame {
            builder.net.add("head.mean", Op::Mean { axes: [true, false, false] }, &[scores]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::architecture::Architecture;
    use crate::backbone::Backbone;
    use crate::cost::cost;
    use crate::kernel::KernelSet;
    use crate::network::{FeatureShape, SearchMode};

    fn video(depth: ResnetDepth, middle: MiddleLayer, classes: u32) -> Backbone {
        Backbone::VideoResnet(VideoResnet {
            input_channels: 3,
            classes,
            depth,
            base_width: 64,
            dropout_percent: 30,
            middle,
        })
    }

    /// torchvision's ResNets for images, counted by torchvision.
    #[test]
    fn one_frame_of_the_2d_networks_is_torchvisions() {
        for (depth, params) in
            [(ResnetDepth::R18, 11_689_512), (ResnetDepth::R50, 25_557_032), (ResnetDepth::R101, 44_549_160)]
        {
            let backbone = video(depth, MiddleLayer::Searchable, 1000);
            let planes = Architecture::even(backbone, &[Kernel::K133]).unwrap();
            assert_eq!(cost(&planes.network(), [1, 224, 224]).unwrap().param_count, params);
        }
    }

    fn volume(depth: ResnetDepth, stem: VolumeStem, middle: MiddleLayer) -> Backbone {
        Backbone::VolumeResnet(VolumeResnet {
            input_channels: 1,
            classes: 5,
            depth,
            base_width: 2,
            dropout_percent: 0,
            stem,
            middle,
        })
    }

    /// Shapes behind every node, by name; every name is there once.
    fn shapes(network: &Network, extent: Extent) -> std::collections::BTreeMap<String, FeatureShape> {
        let shapes = network.shapes(extent).unwrap();
        let named: std::collections::BTreeMap<String, FeatureShape> =
            network.nodes.iter().map(|node| node.name.clone()).zip(shapes).collect();
        assert_eq!(named.len(), network.nodes.len());
        named
    }

    /// Blocks are counted from 0 within stages that are counted from 1; weights,
    /// published configurations and pictures go by these names.
    #[test]
    fn searchable_layers_are_the_3x3x3_of_every_block() {
        let names = |depth| -> Vec<(String, u32)> {
            let layers = video(depth, MiddleLayer::Searchable, 10).searchable_layers();
            layers.into_iter().map(|layer| (layer.name, layer.channels)).collect()
        };
        let deep = names(ResnetDepth::R50);
        assert_eq!(deep.len(), 16);
        assert_eq!(deep[0], ("stage1.0.conv2".to_owned(), 64));
        assert_eq!(deep[15], ("stage4.2.conv2".to_owned(), 512));
        let shallow = names(ResnetDepth::R18);
        assert_eq!(shallow.len(), 16);
        assert_eq!(shallow[..2], [("stage1.0.conv1".to_owned(), 64), ("stage1.0.conv2".to_owned(), 64)]);
        assert_eq!(names(ResnetDepth::R101).len(), 33);
        assert_eq!(video(ResnetDepth::R50, MiddleLayer::P3d, 10).searchable_layers(), []);
    }

    #[test]
    fn an_absurd_extent_is_refused_before_costs_overflow() {
        let network =
            Architecture::even(video(ResnetDepth::R50, MiddleLayer::Searchable, 7), &[Kernel::K333]);
        let network = network.unwrap().network();
        assert!(cost(&network, [1 << 16, 1 << 8, 1 << 8]).is_ok());
        let error = cost(&network, [u32::MAX; 3]).unwrap_err();
        assert_eq!(error.layer, "input");
    }

    proptest! {
        /// Any clip: its frames stay what they are up to the classifier, which scores
        /// each, and the scores are averaged; height and width fall 32 times.
        #[test]
        fn a_clip_of_any_size_is_classified_frame_by_frame(
            frames in 1_u32..20,
            height in 1_u32..80,
            width in 1_u32..80,
            depth in 0_usize..2,
            middle in 0_usize..2,
        ) {
            let depth = [ResnetDepth::R18, ResnetDepth::R50][depth];
            let middle = [MiddleLayer::Searchable, MiddleLayer::P3d][middle];
            let network = Architecture::even(video(depth, middle, 7), &[Kernel::K333]).unwrap().network();
            let shapes = shapes(&network, [frames, height, width]);
            prop_assert!(shapes.iter().all(|(name, shape)| shape.extent[0] == frames || name == "head.mean"));
            let last = &shapes[if depth == ResnetDepth::R18 { "stage4.1.relu" } else { "stage4.2.relu" }];
            prop_assert_eq!(last.extent, [frames, height.div_ceil(32), width.div_ceil(32)]);
            prop_assert_eq!(shapes["head"], FeatureShape { channels: 7, extent: [frames, 1, 1] });
            prop_assert_eq!(shapes["head.mean"], FeatureShape { channels: 7, extent: [1; 3] });
        }

        /// Any volume, in every form: all three axes fall, and one score is left for
        /// each class.
        #[test]
        fn a_volume_of_any_size_gives_one_score_for_each_class(
            extent in proptest::array::uniform3(1_u32..40),
            depth in 0_usize..2,
            wide in any::<bool>(),
            mode in 0_usize..3,
        ) {
            let depth = [ResnetDepth::R18, ResnetDepth::R50][depth];
            let stem = if wide { VolumeStem::Wide } else { VolumeStem::Compact };
            let kernels = KernelSet::named("volume_pointwise").unwrap();
            let modes = [SearchMode::CostPriority, SearchMode::PerformancePriority];
            let network = match modes.get(mode) {
                Some(mode) => volume(depth, stem, MiddleLayer::Searchable)
                    .network(Form::Supernet { mode: *mode, kernels: &kernels }),
                None => volume(depth, stem, MiddleLayer::P3d).network(Form::Derived(&[])),
            };
            let shapes = shapes(&network, extent);
            prop_assert_eq!(shapes["head"], FeatureShape { channels: 5, extent: [1; 3] });
            let stride = if wide { 32 } else { 8 };
            let last = &shapes[if depth == ResnetDepth::R18 { "stage4.1.relu" } else { "stage4.2.relu" }];
            prop_assert_eq!(last.extent, extent.map(|size| size.div_ceil(stride)));
        }
    }
}
