//! The 3D encoder-decoder for segmentation, residual or plain.
//!
//! ```text
//! input ─ stem ─ block ─────────────────────────────── concat ─ block ─ head
//!                  └─ block /2 ──────────── concat ─ block ─┘ resize
//!                        └─ block /2 ─ … ─┘ resize
//!
//! residual:  ── conv ─ norm ─ ReLU ─ conv ─ norm ─ + ─ ReLU ──
//!             └──────── (1x1x1 ─ norm, if the shape changes) ─┘
//!
//! plain:     ── conv ─ norm ─ ReLU ─ conv ─ norm ─ ReLU ──
//! ```
//!
//! Level `l` has `base_width · 2^l` channels. Both convolutions of every block are
//! searchable; the head (a `1x1x1` convolution) is fixed. A residual network has a
//! fixed stem (a `3x3x3`). A plain one has none: its first block reads the volume,
//! and what comes up from below is narrowed to the level's width before it is
//! resized (U-Net; Çiçek et al. 2016, with trilinear resizing for the transposed
//! convolution).
//!
//! The picture is the network that `levels` alone describes. Any other way through
//! the levels is a *topology*, one level per block: `[0, 0, 1, 1, 2, 1, 0]`. A step
//! down strides; a step up resizes and joins the last feature map of its level.
//! C2FNAS (Yu et al. 2020), from which the paper starts, searches such a sequence.

use serde::{Deserialize, Serialize};

use super::{BackboneError, Form, FormBuilder, SearchableLayer};
use crate::Extent;
use crate::kernel::Kernel;
use crate::network::{Conv, ConvKernels, Network, NodeId, Op};

/// Configuration of the encoder-decoder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderDecoder {
    /// Channels of the input volume: 1 for one MRI sequence.
    pub input_channels: u32,
    /// Classes of the output, background included.
    pub classes: u32,
    /// Channels at full resolution.
    pub base_width: u32,
    /// Resolutions, full resolution included; each halves every axis.
    pub levels: u32,
    #[serde(default, skip_serializing_if = "BlockKind::is_residual")]
    pub block: BlockKind,
    /// Level of each block, 0 for full resolution: begins and ends there, and goes
    /// up or down by at most one. Empty for straight down and up again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology: Vec<u32>,
}

/// What a block of an encoder-decoder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Two convolutions and a shortcut around them (He et al. 2016).
    #[default]
    Residual,
    /// Two convolutions.
    Plain,
}

impl BlockKind {
    fn is_residual(&self) -> bool {
        *self == BlockKind::Residual
    }
}

impl Default for EncoderDecoder {
    fn default() -> Self {
        EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 16,
            levels: 3,
            block: BlockKind::Residual,
            topology: Vec::new(),
        }
    }
}

/// One block on the way through the levels.
struct Step {
    name: String,
    level: u32,
    turn: Turn,
}

/// How a block's level follows from that of the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Stay,
    Down,
    Up,
}

impl EncoderDecoder {
    const WIDTH_MAX: u32 = 4096;
    const BLOCKS_MAX: usize = 64;

    pub(super) fn total_stride(&self) -> u32 {
        1 << (self.levels - 1).min(30)
    }

    fn width(&self, level: u32) -> u32 {
        self.base_width << level
    }

    pub(super) fn check(&self) -> Result<(), BackboneError> {
        let fail = |field, problem: String| Err(BackboneError { field, problem });
        if !(1..=64).contains(&self.input_channels) {
            return fail("input_channels", format!("must be 1 to 64, got {}", self.input_channels));
        }
        if !(2..=256).contains(&self.classes) {
            return fail("classes", format!("must be 2 to 256 with the background, got {}", self.classes));
        }
        if !(2..=7).contains(&self.levels) {
            return fail("levels", format!("must be 2 to 7, got {}", self.levels));
        }
        if !(1..=512).contains(&self.base_width) {
            return fail("base_width", format!("must be 1 to 512, got {}", self.base_width));
        }
        let deepest = u64::from(self.base_width) << (self.levels - 1);
        if deepest > u64::from(Self::WIDTH_MAX) {
            return fail(
                "base_width",
                format!(
                    "{} doubled over {} levels is {deepest} channels, more than {}",
                    self.base_width,
                    self.levels,
                    Self::WIDTH_MAX
                ),
            );
        }
        self.check_topology().or_else(|problem| fail("topology", problem))
    }

    fn check_topology(&self) -> Result<(), String> {
        let path = &self.topology;
        let (Some(first), Some(last), Some(deepest)) = (path.first(), path.last(), path.iter().max()) else {
            return Ok(());
        };
        if path.len() > Self::BLOCKS_MAX {
            return Err(format!("has {} blocks, at most {} are accepted", path.len(), Self::BLOCKS_MAX));
        }
        if (*first, *last) != (0, 0) {
            return Err(format!("must begin and end at level 0, goes from {first} to {last}"));
        }
        if let Some(index) = path.windows(2).position(|pair| pair[0].abs_diff(pair[1]) > 1) {
            let (from, to) = (path[index], path[index + 1]);
            return Err(format!(
                "jumps from level {from} to {to} at position {}; a step is at most one level",
                index + 1
            ));
        }
        if *deepest + 1 != self.levels {
            return Err(format!("reaches level {deepest}, so levels must be {}", deepest + 1));
        }
        if *path == self.straight() {
            return Err("is what levels alone describes; leave it out".to_owned());
        }
        Ok(())
    }

    /// Down to the deepest level and up again.
    fn straight(&self) -> Vec<u32> {
        (0..self.levels).chain((0..self.levels - 1).rev()).collect()
    }

    /// Blocks in the order in which they run.
    fn steps(&self) -> Vec<Step> {
        let is_straight = self.topology.is_empty();
        let path = if is_straight { self.straight() } else { self.topology.clone() };
        let mut before = 0;
        let mut step = |(index, level): (usize, u32)| {
            let turn = match level.cmp(&before) {
                std::cmp::Ordering::Equal => Turn::Stay,
                std::cmp::Ordering::Greater => Turn::Down,
                std::cmp::Ordering::Less => Turn::Up,
            };
            before = level;
            let name = match (is_straight, turn) {
                (true, Turn::Up) => format!("decoder.{level}"),
                (true, _) => format!("encoder.{level}"),
                (false, _) => format!("block.{index}"),
            };
            Step { name, level, turn }
        };
        path.into_iter().enumerate().map(&mut step).collect()
    }

    pub(super) fn searchable_layers(&self) -> Vec<SearchableLayer> {
        let layers = |step: Step| {
            let channels = self.width(step.level);
            ["conv1", "conv2"].map(|conv| SearchableLayer { name: format!("{}.{conv}", step.name), channels })
        };
        self.steps().into_iter().flat_map(layers).collect()
    }

    pub(super) fn network(&self, form: Form<'_>) -> Network {
        let mut builder = FormBuilder::new(form);
        let mut x = builder.net.add("input", Op::Input { channels: self.input_channels }, &[]);
        if self.block == BlockKind::Residual {
            let kernels = ConvKernels::Uniform(Kernel::K333);
            x = builder.fixed("stem", x, kernels, self.base_width, [1; 3], true);
        }
        let mut last_of_level: Vec<Option<NodeId>> = vec![None; self.levels as usize];
        for Step { name, level, turn } in self.steps() {
            let skip = last_of_level.get(level as usize).copied().flatten();
            if let (Turn::Up, Some(skip)) = (turn, skip) {
                x = self.join(&mut builder, &name, level, x, skip);
            }
            let stride = if turn == Turn::Down { [2; 3] } else { [1; 3] };
            x = self.block(&mut builder, &name, x, self.width(level), stride, turn != Turn::Stay);
            if let Some(last) = last_of_level.get_mut(level as usize) {
                *last = Some(x);
            }
        }
        let kernels = ConvKernels::Uniform(Kernel::K111);
        let head = Conv { channels: self.classes, kernels, stride: [1; 3], bias: true };
        builder.net.add("head", Op::Conv(head), &[x]);
        builder.net.build()
    }

    /// What comes from the level below, at this level's resolution, behind `skip`.
    fn join(
        &self,
        builder: &mut FormBuilder<'_>,
        name: &str,
        level: u32,
        below: NodeId,
        skip: NodeId,
    ) -> NodeId {
        let mut x = below;
        if self.block == BlockKind::Plain {
            // Before the resize, which it commutes with, it computes an eighth.
            let kernels = ConvKernels::Uniform(Kernel::K111);
            let narrow = Conv { channels: self.width(level), kernels, stride: [1; 3], bias: true };
            x = builder.net.add(format!("{name}.narrow"), Op::Conv(narrow), &[x]);
        }
        let resized = builder.net.add(format!("{name}.resize"), Op::Resize { factor: [2; 3] }, &[x]);
        builder.net.add(format!("{name}.concat"), Op::Concat, &[skip, resized])
    }

    /// `changes` says whether the block's input has another shape than its output.
    fn block(
        &self,
        builder: &mut FormBuilder<'_>,
        name: &str,
        input: NodeId,
        channels: u32,
        stride: Extent,
        changes: bool,
    ) -> NodeId {
        let hidden = builder.searchable(&format!("{name}.conv1"), input, channels, stride, true);
        let is_plain = self.block == BlockKind::Plain;
        let output = builder.searchable(&format!("{name}.conv2"), hidden, channels, [1; 3], is_plain);
        if is_plain {
            return output;
        }
        let shortcut = if changes {
            let kernels = ConvKernels::Uniform(Kernel::K111);
            builder.fixed(&format!("{name}.shortcut"), input, kernels, channels, stride, false)
        } else {
            input
        };
        let sum = builder.net.add(format!("{name}.add"), Op::Add, &[output, shortcut]);
        builder.net.add(format!("{name}.relu"), Op::Relu, &[sum])
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
    use crate::network::SearchMode;

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder { classes: 3, base_width: 8, ..EncoderDecoder::default() })
    }

    #[test]
    fn every_form_maps_a_volume_to_one_score_per_class_and_voxel() {
        let kernels = KernelSet::volumetric();
        for mode in [SearchMode::CostPriority, SearchMode::PerformancePriority] {
            let network = backbone().network(Form::Supernet { mode, kernels: &kernels });
            let shapes = network.shapes([32, 40, 24]).unwrap();
            let output = shapes.last().unwrap();
            assert_eq!((output.channels, output.extent), (3, [32, 40, 24]));
        }
    }

    #[test]
    fn an_extent_that_the_depth_cannot_divide_is_refused_with_a_remedy() {
        assert_eq!(backbone().check_extent([32, 32, 32]), Ok(()));
        // The next size above the largest is none.
        let error = backbone().check_extent([u32::MAX; 3]).unwrap_err();
        assert!(error.ends_with("use 4294967292"), "{error}");
        let error = backbone().check_extent([32, 30, 32]).unwrap_err();
        assert!(error.contains("30 along H") && error.contains("use 28 or 32"), "{error}");
        let network = backbone()
            .network(Form::Supernet { mode: SearchMode::CostPriority, kernels: &KernelSet::volumetric() });
        assert!(network.shapes([32, 30, 32]).unwrap_err().problem.contains("divisible"));
    }

    #[test]
    fn absurd_widths_are_refused_before_anything_is_built() {
        let config = EncoderDecoder { classes: 3, base_width: 512, levels: 7, ..EncoderDecoder::default() };
        let error = Backbone::EncoderDecoder(config).check().unwrap_err();
        assert_eq!(error.field, "base_width");
    }

    #[test]
    fn a_residual_network_without_a_topology_is_written_as_ever() {
        let json = r#"{"encoder_decoder":{"input_channels":1,"classes":3,"base_width":8,"levels":3}}"#;
        assert_eq!(serde_json::to_string(&backbone()).unwrap(), json);
        assert_eq!(serde_json::from_str::<Backbone>(json).unwrap(), backbone());
    }

    /// Counted by hand: a U-Net of widths 16, 32, 64 and 128 whose two samples of
    /// 32³ voxels take 3.46 GMAC with `3x3x3` everywhere.
    #[test]
    fn a_plain_network_costs_what_a_pencil_says() {
        let config =
            EncoderDecoder { classes: 3, levels: 4, block: BlockKind::Plain, ..EncoderDecoder::default() };
        let full = Architecture::even(Backbone::EncoderDecoder(config.clone()), &[Kernel::K333]).unwrap();
        let widths = [16_u64, 32, 64, 128];
        let positions = [32_768_u64, 4096, 512, 64];
        let block = |level: usize, from: u64| {
            27 * (from * widths[level] + widths[level] * widths[level]) * positions[level]
        };
        let encoder: u64 = block(0, 1) + (1..4).map(|level| block(level, widths[level - 1])).sum::<u64>();
        let decoder: u64 = (0..3).map(|level| block(level, 2 * widths[level])).sum();
        let narrow: u64 = (0..3).map(|level| widths[level + 1] * widths[level] * positions[level + 1]).sum();
        let head = 16 * 3 * positions[0];
        let of = |architecture: &Architecture| cost(&architecture.network(), [32; 3]).unwrap();
        assert_eq!(of(&full).mac_count, encoder + decoder + narrow + head);
        assert_eq!(2 * of(&full).mac_count, 3_464_495_104);
        let even = Architecture::even(
            Backbone::EncoderDecoder(config),
            &KernelSet::volumetric().iter().collect::<Vec<_>>(),
        );
        assert_eq!(2 * of(&even.unwrap()).mac_count, 1_265_483_776);
    }

    #[test]
    fn a_topology_that_is_no_way_through_the_levels_is_refused() {
        let problem = |topology: &[u32], levels| {
            let config = EncoderDecoder { topology: topology.to_vec(), levels, ..EncoderDecoder::default() };
            let error = config.check().unwrap_err();
            assert_eq!(error.field, "topology");
            error.problem
        };
        assert!(problem(&[0, 1, 2, 1], 3).contains("begin and end at level 0"));
        assert!(problem(&[0, 2, 1, 0], 3).contains("jumps from level 0 to 2 at position 1"));
        assert!(problem(&[0, 1, 1, 0], 3).contains("levels must be 2"));
        assert!(problem(&[0, 1, 2, 1, 0], 3).contains("leave it out"));
        assert!(problem(&[0; 65], 1 + 1).contains("65 blocks"));
    }

    /// A random walk over levels that begins and ends at full resolution.
    fn walks() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0_u8..3, 2..14).prop_map(|turns| {
            let mut path = vec![0_u32];
            for turn in turns {
                let level = path[path.len() - 1];
                path.push(match turn {
                    0 => level,
                    1 => (level + 1).min(3),
                    _ => level.saturating_sub(1),
                });
            }
            while path[path.len() - 1] > 0 {
                path.push(path[path.len() - 1] - 1);
            }
            path
        })
    }

    proptest! {
        /// Whatever the way through the levels: two searchable layers a block, of
        /// the width of its level, at its resolution, and full resolution at the end.
        #[test]
        fn blocks_run_at_the_levels_of_the_topology(path in walks(), plain in any::<bool>()) {
            let deepest = path.iter().copied().max().unwrap();
            prop_assume!(deepest > 0);
            let block = if plain { BlockKind::Plain } else { BlockKind::Residual };
            let mut config = EncoderDecoder {
                base_width: 2,
                levels: deepest + 1,
                block,
                topology: path.clone(),
                ..EncoderDecoder::default()
            };
            if path == config.straight() {
                config.topology.clear();
            }
            let backbone = Backbone::EncoderDecoder(config);
            prop_assert_eq!(backbone.check(), Ok(()));
            let json = serde_json::to_string(&backbone).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Backbone>(&json).unwrap(), &backbone);
            let layers = backbone.searchable_layers();
            prop_assert_eq!(layers.len(), 2 * path.len());
            let network = Architecture::even(backbone, &[Kernel::K133]).unwrap().network();
            let shapes = network.shapes([16, 24, 8]).unwrap();
            for (index, layer) in layers.iter().enumerate() {
                let position = network.nodes.iter().position(|node| node.name == layer.name).unwrap();
                let level = path[index / 2];
                prop_assert_eq!(shapes[position].channels, 2 << level);
                prop_assert_eq!(shapes[position].extent, [16 >> level, 24 >> level, 8 >> level]);
                prop_assert_eq!(layer.channels, 2 << level);
            }
            prop_assert_eq!(shapes.last().unwrap().extent, [16, 24, 8]);
            // A step up joins the last block before it on its level.
            let block = |index: usize| layers[2 * index].name.trim_end_matches(".conv1").to_owned();
            let output = if plain { "conv2.relu" } else { "relu" };
            let mut joins = 0;
            for (index, pair) in path.windows(2).enumerate().filter(|(_, pair)| pair[1] < pair[0]) {
                let name = format!("{}.concat", block(index + 1));
                let join = network.nodes.iter().find(|node| node.name == name).unwrap();
                let last = path[..=index].iter().rposition(|level| *level == pair[1]).unwrap();
                prop_assert_eq!(&network.nodes[join.inputs[0].0].name, &format!("{}.{output}", block(last)));
                joins += 1;
            }
            prop_assert_eq!(network.nodes.iter().filter(|node| node.op == Op::Concat).count(), joins);
            let mut names: Vec<&str> = network.nodes.iter().map(|node| node.name.as_str()).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), count);
        }
    }
}
