//! What a training would hand in, without the training.

use anyhow::{Context, Result};
use cakes::backbone::SearchableLayer;
use cakes::cost::cost;
use cakes::derive::{LatencyTable, LayerLatency};
use cakes::frame::{ClassificationQuality, Quality, SegmentationQuality};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::scores::{ChannelScores, LayerScores};
use cakes::spec::TaskKind;
use cakes_proto::convert::quality_to_wire;
use cakes_proto::v1;

/// A result that fits a job.
#[derive(Clone, Debug, PartialEq)]
pub struct NoOp {
    /// Optimizer steps of the whole job.
    pub step_count: u64,
    pub result: v1::JobResult,
    /// Empty for a retraining.
    pub scores_json: String,
    /// Empty for a retraining.
    pub latency_json: String,
}

impl NoOp {
    /// The result of the job that a grant holds.
    ///
    /// # Errors
    /// The text is no trainer's job.
    pub fn of_json(trainer_job: &str) -> Result<Self> {
        Self::of(&serde_json::from_str(trainer_job).context("a grant holds no trainer's job")?)
    }

    /// # Errors
    /// The network does not fit its patch.
    pub fn of(job: &TrainerJob) -> Result<Self> {
        let cost = cost(&job.task.network(), job.patch)?;
        let result = v1::JobResult {
            param_count: cost.param_count,
            mac_count: cost.mac_count,
            latency_ms: matches!(job.task, Task::Retrain { .. }).then_some(1.0),
            peak_memory_mib: 1.0,
            train_duration_s: 0.0,
            ..quality_to_wire(&quality(job.task.backbone().task()))
        };
        let (scores, latency) = (scores(job)?, latency(job));
        Ok(NoOp {
            step_count: job.training.steps_total(),
            result,
            scores_json: scores.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default(),
            latency_json: latency.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default(),
        })
    }
}

fn quality(task: TaskKind) -> Quality {
    match task {
        TaskKind::Segmentation => Quality::Segmentation(SegmentationQuality {
            mean_dice: 0.5,
            dice_per_class: vec![0.5],
            case_count: 1,
        }),
        TaskKind::Classification => Quality::Classification(ClassificationQuality {
            top1: 0.5,
            top5: 1.0,
            balanced_accuracy: 0.5,
            auc: None,
            recall_per_class: vec![Some(0.5)],
            loss: 1.0,
            sample_count: 1,
        }),
    }
}

/// Scores that differ between channels and between kernels, so that every rule
/// has something to decide.
fn scores(job: &TrainerJob) -> Result<Option<ChannelScores>> {
    let Task::Supernet { backbone, kernels, .. } = &job.task else { return Ok(None) };
    let layers = backbone.searchable_layers().into_iter().map(|layer| LayerScores {
        scores: kernels
            .iter()
            .map(|kernel| (1..=layer.channels).map(|channel| (channel * kernel.taps()) as f32).collect())
            .collect(),
        layer: layer.name,
    });
    Ok(Some(ChannelScores::new(backbone.clone(), kernels.clone(), layers.collect())?))
}

/// Times that rise with the taps of a kernel.
fn latency(job: &TrainerJob) -> Option<LatencyTable> {
    let Task::Supernet { backbone, .. } = &job.task else { return None };
    let price = |kernel: Kernel| (kernel, 1000 * (9 + u64::from(kernel.taps())));
    let row = |layer: SearchableLayer| LayerLatency {
        layer: layer.name,
        channel_ns: Kernel::ALL.into_iter().map(price).collect(),
    };
    let known = backbone.searchable_layers();
    let channels: u64 = known.iter().map(|layer| u64::from(layer.channels)).sum();
    let layers = known.into_iter().map(row).collect();
    Some(LatencyTable { fixed_ns: 100_000, reference_ns: 100_000 + 36_000 * channels, layers })
}
