//! The residual 3D encoder-decoder for segmentation.
//!
//! ```text
//! input ─ stem ─ block ─────────────────────────────── concat ─ block ─ head
//!                  └─ block /2 ──────────── concat ─ block ─┘ resize
//!                        └─ block /2 ─ … ─┘ resize
//!
//! block:  ── conv ─ norm ─ ReLU ─ conv ─ norm ─ + ─ ReLU ──
//!          └──────── (1x1x1 ─ norm, if the shape changes) ─┘
//! ```
//!
//! Level `l` has `base_width · 2^l` channels. Stem and head are fixed (a
//! `3x3x3` and a `1x1x1` convolution); both convolutions of every block are
//! searchable.

use serde::{Deserialize, Serialize};

use super::{BackboneError, Form, FormBuilder, SearchableLayer};
use crate::Extent;
use crate::kernel::Kernel;
use crate::network::{Conv, ConvKernels, Network, NodeId, Op};

/// Configuration of the residual encoder-decoder.
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
}

impl EncoderDecoder {
    const WIDTH_MAX: u32 = 4096;

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
        Ok(())
    }

    fn blocks(&self) -> impl Iterator<Item = (String, u32)> + '_ {
        let encoder = (0..self.levels).map(|level| (format!("encoder.{level}"), level));
        let decoder = (0..self.levels - 1).rev().map(|level| (format!("decoder.{level}"), level));
        encoder.chain(decoder)
    }

    pub(super) fn searchable_layers(&self) -> Vec<SearchableLayer> {
        self.blocks()
            .flat_map(|(block, level)| {
                ["conv1", "conv2"].map(|conv| SearchableLayer {
                    name: format!("{block}.{conv}"),
                    channels: self.width(level),
                })
            })
            .collect()
    }

    pub(super) fn network(&self, form: Form<'_>) -> Network {
        let mut builder = FormBuilder::new(form);
        let input = builder.net.add("input", Op::Input { channels: self.input_channels }, &[]);
        let mut x =
            builder.fixed("stem", input, ConvKernels::Uniform(Kernel::K333), self.base_width, [1; 3], true);
        let mut skips: Vec<NodeId> = Vec::new();
        for level in 0..self.levels {
            let stride = if level == 0 { [1; 3] } else { [2; 3] };
            let shortcut = level > 0;
            x = residual_block(
                &mut builder,
                &format!("encoder.{level}"),
                x,
                self.width(level),
                stride,
                shortcut,
            );
            skips.push(x);
        }
        skips.pop();
        for level in (0..self.levels - 1).rev() {
            let name = format!("decoder.{level}");
            let resized = builder.net.add(format!("{name}.resize"), Op::Resize { factor: [2; 3] }, &[x]);
            let Some(skip) = skips.pop() else { break };
            let joined = builder.net.add(format!("{name}.concat"), Op::Concat, &[skip, resized]);
            x = residual_block(&mut builder, &name, joined, self.width(level), [1; 3], true);
        }
        let head = Conv {
            channels: self.classes,
            kernels: ConvKernels::Uniform(Kernel::K111),
            stride: [1; 3],
            bias: true,
        };
        builder.net.add("head", Op::Conv(head), &[x]);
        builder.net.build()
    }
}

fn residual_block(
    builder: &mut FormBuilder<'_>,
    name: &str,
    input: NodeId,
    channels: u32,
    stride: Extent,
    project: bool,
) -> NodeId {
    let hidden = builder.searchable(&format!("{name}.conv1"), input, channels, stride, true);
    let residual = builder.searchable(&format!("{name}.conv2"), hidden, channels, [1; 3], false);
    let shortcut = if project {
        builder.fixed(
            &format!("{name}.shortcut"),
            input,
            ConvKernels::Uniform(Kernel::K111),
            channels,
            stride,
            false,
        )
    } else {
        input
    };
    let sum = builder.net.add(format!("{name}.add"), Op::Add, &[residual, shortcut]);
    builder.net.add(format!("{name}.relu"), Op::Relu, &[sum])
}

#[cfg(test)]
mod tests {
    use crate::backbone::{Backbone, EncoderDecoder, Form};
    use crate::kernel::KernelSet;
    use crate::network::SearchMode;

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder { input_channels: 1, classes: 3, base_width: 8, levels: 3 })
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
        let error = backbone().check_extent([32, 30, 32]).unwrap_err();
        assert!(error.contains("30 along H") && error.contains("use 28 or 32"), "{error}");
        let network = backbone()
            .network(Form::Supernet { mode: SearchMode::CostPriority, kernels: &KernelSet::volumetric() });
        assert!(network.shapes([32, 30, 32]).unwrap_err().problem.contains("divisible"));
    }

    #[test]
    fn absurd_widths_are_refused_before_anything_is_built() {
        let config = EncoderDecoder { input_channels: 1, classes: 3, base_width: 512, levels: 7 };
        let error = Backbone::EncoderDecoder(config).check().unwrap_err();
        assert_eq!(error.field, "base_width");
    }
}
