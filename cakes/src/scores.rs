//! What a supernet says of its channels: |γ| of every candidate.

use serde::{Deserialize, Serialize};

use crate::backbone::Backbone;
use crate::kernel::{Kernel, KernelSet};

/// Scores of one searchable layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerScores {
    pub layer: String,
    /// One list per kernel of the search space, in its order; `[C]` each.
    pub scores: Vec<Vec<f32>>,
}

/// Scores of all searchable layers of a supernet, complete and finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ScoresParts", into = "ScoresParts")]
pub struct ChannelScores {
    backbone: Backbone,
    kernels: KernelSet,
    layers: Vec<LayerScores>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoresParts {
    backbone: Backbone,
    kernels: KernelSet,
    layers: Vec<LayerScores>,
}

/// Why lists are no scores of a supernet.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScoresError {
    #[error("scores are given for layers [{given}], but the supernet has [{expected}]")]
    Layers { given: String, expected: String },
    #[error("layer '{layer}': expected {kernels} lists of {channels} scores")]
    Shape { layer: String, kernels: usize, channels: u32 },
    #[error(
        "layer '{layer}', kernel {kernel}, channel {channel}: {value} is no score (finite, not negative)"
    )]
    Value { layer: String, kernel: Kernel, channel: usize, value: f32 },
}

impl ChannelScores {
    /// Binds scores to the supernet that gave them.
    ///
    /// # Errors
    /// A layer, kernel or channel is missing, or a value is negative or not finite.
    pub fn new(
        backbone: Backbone,
        kernels: KernelSet,
        layers: Vec<LayerScores>,
    ) -> Result<Self, ScoresError> {
        let expected = backbone.searchable_layers();
        if !layers.iter().map(|layer| &layer.layer).eq(expected.iter().map(|layer| &layer.name)) {
            let join = |names: Vec<&str>| names.join(", ");
            return Err(ScoresError::Layers {
                given: join(layers.iter().map(|layer| layer.layer.as_str()).collect()),
                expected: join(expected.iter().map(|layer| layer.name.as_str()).collect()),
            });
        }
        for (layer, expected) in layers.iter().zip(&expected) {
            check_layer(layer, &kernels, expected.channels)?;
        }
        Ok(ChannelScores { backbone, kernels, layers })
    }

    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    pub fn kernels(&self) -> &KernelSet {
        &self.kernels
    }

    /// Layers in the order in which they run.
    pub fn layers(&self) -> &[LayerScores] {
        &self.layers
    }
}

fn check_layer(layer: &LayerScores, kernels: &KernelSet, channels: u32) -> Result<(), ScoresError> {
    let complete = layer.scores.len() == kernels.len()
        && layer.scores.iter().all(|scores| scores.len() == channels as usize);
    if !complete {
        return Err(ScoresError::Shape { layer: layer.layer.clone(), kernels: kernels.len(), channels });
    }
    for (kernel, scores) in kernels.iter().zip(&layer.scores) {
        if let Some(channel) = scores.iter().position(|score| !score.is_finite() || *score < 0.0) {
            let value = scores[channel];
            return Err(ScoresError::Value { layer: layer.layer.clone(), kernel, channel, value });
        }
    }
    Ok(())
}

impl TryFrom<ScoresParts> for ChannelScores {
    type Error = ScoresError;

    fn try_from(parts: ScoresParts) -> Result<Self, Self::Error> {
        ChannelScores::new(parts.backbone, parts.kernels, parts.layers)
    }
}

impl From<ChannelScores> for ScoresParts {
    fn from(scores: ChannelScores) -> Self {
        ScoresParts { backbone: scores.backbone, kernels: scores.kernels, layers: scores.layers }
    }
}
