//! Networks and batches whose training step is measured.

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, BlockKind, EncoderDecoder, Form, MiddleLayer, ResnetDepth, VideoResnet};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Network, SearchMode};
use cakes::spec::TaskKind;
use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Reduction, Tensor};

use crate::TrainerError;
use crate::loss::segmentation_loss;

/// A backbone with the batch that it is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Config {
    /// Video ResNet-50 of a quarter of the width, 4 clips of 8x64x64.
    #[value(name = "video_r50_w0.25_8x64")]
    VideoQuarter,
    /// Video ResNet-50, one clip of 8x112x112.
    #[value(name = "video_r50_w1_8x112")]
    VideoWhole,
    /// Plain encoder-decoder of widths 16 to 128, 2 volumes of 32x32x32.
    #[value(name = "unet_32")]
    Unet,
    /// The residual encoder-decoder of the example search, 4 patches of 32x48x32.
    #[value(name = "hippocampus")]
    Hippocampus,
}

/// Which network of the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mode {
    C3d,
    C2d,
    /// Channels of every layer shared evenly among the kernels.
    Derived,
    SupernetCost,
    SupernetPerf,
}

/// Its name on the command line and in the results.
pub fn name<T: ValueEnum + Copy>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Config {
    fn backbone(self) -> Backbone {
        let video = |base_width| {
            Backbone::VideoResnet(VideoResnet {
                input_channels: 3,
                classes: 174,
                depth: ResnetDepth::R50,
                base_width,
                dropout_percent: 0,
                middle: MiddleLayer::Searchable,
            })
        };
        let volume = |classes, base_width, levels, block| {
            let topology = Vec::new();
            let config = EncoderDecoder { input_channels: 1, classes, base_width, levels, block, topology };
            Backbone::EncoderDecoder(config)
        };
        match self {
            Config::VideoQuarter => video(16),
            Config::VideoWhole => video(64),
            Config::Unet => volume(2, 16, 4, BlockKind::Plain),
            Config::Hippocampus => volume(3, 8, 3, BlockKind::Residual),
        }
    }

    /// Samples of a batch, and the extent of each.
    pub fn batch(self) -> (usize, Extent) {
        match self {
            Config::VideoQuarter => (4, [8, 64, 64]),
            Config::VideoWhole => (1, [8, 112, 112]),
            Config::Unet => (2, [32; 3]),
            Config::Hippocampus => (4, [32, 48, 32]),
        }
    }

    fn kernels(self) -> Result<KernelSet, TrainerError> {
        match self.backbone().task() {
            TaskKind::Segmentation => Ok(KernelSet::volumetric()),
            TaskKind::Classification => KernelSet::new([Kernel::K333, Kernel::K133, Kernel::K311])
                .map_err(|error| TrainerError::User(error.to_string())),
        }
    }

    pub fn network(self, mode: Mode) -> Result<Network, TrainerError> {
        let (backbone, kernels) = (self.backbone(), self.kernels()?);
        let split = |kernels: &[Kernel]| {
            let even = Architecture::even(backbone.clone(), kernels);
            even.map(|even| even.network()).map_err(|error| TrainerError::User(error.to_string()))
        };
        let supernet = |mode| backbone.network(Form::Supernet { mode, kernels: &kernels });
        match mode {
            Mode::C3d => split(&[Kernel::K333]),
            Mode::C2d => split(&[Kernel::K133]),
            Mode::Derived => split(&kernels.iter().collect::<Vec<_>>()),
            Mode::SupernetCost => Ok(supernet(SearchMode::CostPriority)),
            Mode::SupernetPerf => Ok(supernet(SearchMode::PerformancePriority)),
        }
    }

    /// Fresh random inputs and labels for one step.
    ///
    /// # Shapes
    /// `[N, C, D, H, W]` float; `[N]` or `[N, D, H, W]` int64.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn data(self, step: u64) -> Result<(Tensor, Tensor), TrainerError> {
        let mut rng = ChaCha8Rng::seed_from_u64(step);
        let backbone = self.backbone();
        let (samples, [d, h, w]) = self.batch();
        let positions = (d * h * w) as usize;
        let channels = backbone.input_channels() as usize;
        let values: Vec<f32> =
            (0..samples * channels * positions).map(|_| rng.random_range(-2.0..2.0)).collect();
        let (label_count, label_shape) = match backbone.task() {
            TaskKind::Segmentation => {
                (samples * positions, vec![samples as i64, d.into(), h.into(), w.into()])
            }
            TaskKind::Classification => (samples, vec![samples as i64]),
        };
        let classes = i64::from(backbone.classes());
        let labels: Vec<i64> = (0..label_count).map(|_| rng.random_range(0..classes)).collect();
        let shape = [samples as i64, channels as i64, d.into(), h.into(), w.into()];
        Ok((
            Tensor::f_from_slice(&values)?.f_view(shape)?.f_to(Device::Cpu)?,
            Tensor::f_from_slice(&labels)?.f_view(label_shape.as_slice())?,
        ))
    }

    /// # Errors
    /// libtorch fails.
    pub fn loss(self, output: &Tensor, labels: &Tensor) -> Result<Tensor, TrainerError> {
        match self.backbone().task() {
            TaskKind::Segmentation => segmentation_loss(output, labels),
            TaskKind::Classification => {
                let scores = output.f_flatten(1, -1)?;
                Ok(scores.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)?)
            }
        }
    }
}
