//! Architectures, backbones and costs.

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::cost::Cost;
use cakes::kernel::Kernel;
use cakes::spec::Violation;

use crate::v1;

#[expect(clippy::needless_pass_by_value, reason = "errors are passed as they come")]
fn violation(field: impl Into<String>, problem: impl ToString) -> Violation {
    Violation { field: field.into(), problem: problem.to_string() }
}

/// An extent; zeros are left for the check of what it is used for.
///
/// # Errors
/// The message is missing.
pub fn extent_from_wire(wire: Option<v1::Extent>, field: &str) -> Result<Extent, Violation> {
    let v1::Extent { depth, height, width } =
        wire.ok_or_else(|| violation(field, "give depth, height and width in voxels"))?;
    Ok([depth, height, width])
}

pub(super) fn extent_to_wire([depth, height, width]: Extent) -> v1::Extent {
    v1::Extent { depth, height, width }
}

/// A backbone with defaults filled in, not checked yet.
///
/// # Errors
/// No family is given.
pub fn backbone_from_wire(wire: Option<v1::Backbone>) -> Result<Backbone, Violation> {
    match wire.and_then(|backbone| backbone.family) {
        Some(v1::backbone::Family::EncoderDecoder(config)) => Ok(Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: config.input_channels.unwrap_or(1),
            classes: config.classes,
            base_width: config.base_width.unwrap_or(16),
            levels: config.levels.unwrap_or(3),
        })),
        None => {
            Err(violation("backbone", "give a family, for example {\"encoder_decoder\": {\"classes\": 3}}"))
        }
    }
}

pub(super) fn backbone_to_wire(backbone: &Backbone) -> v1::Backbone {
    let Backbone::EncoderDecoder(config) = backbone;
    let family = v1::backbone::Family::EncoderDecoder(v1::EncoderDecoder {
        input_channels: Some(config.input_channels),
        classes: config.classes,
        base_width: Some(config.base_width),
        levels: Some(config.levels),
    });
    v1::Backbone { family: Some(family) }
}

/// An architecture from its backbone and layers; no layers mean `3x3x3`
/// everywhere.
///
/// # Errors
/// An unknown kernel, a wrong sum, an unknown or missing layer, by field.
pub fn architecture_from_wire(
    backbone: Option<v1::Backbone>,
    layers: Vec<v1::LayerAllocation>,
) -> Result<Architecture, Violation> {
    let backbone = backbone_from_wire(backbone)?;
    let built = if layers.is_empty() {
        Architecture::even(backbone, &[Kernel::K333])
    } else {
        let layers = layers.into_iter().enumerate().map(|(index, layer)| layer_from_wire(index, layer));
        Architecture::new(backbone, layers.collect::<Result<Vec<_>, _>>()?)
    };
    built.map_err(|error| match error {
        cakes::architecture::ArchitectureError::Backbone(error) => {
            violation(format!("backbone.encoder_decoder.{}", error.field), error.problem)
        }
        other => violation("layers", other),
    })
}

fn layer_from_wire(index: usize, wire: v1::LayerAllocation) -> Result<LayerAllocation, Violation> {
    let field = || format!("layers[{index}].channels");
    let mut counts = Vec::with_capacity(wire.channels.len());
    for (name, count) in wire.channels {
        let kernel: Kernel = name.parse().map_err(|error| violation(field(), error))?;
        counts.push((kernel, count));
    }
    let channels = ChannelAllocation::from_counts(counts).map_err(|error| violation(field(), error))?;
    Ok(LayerAllocation { layer: wire.layer, channels })
}

/// An architecture with its digest; cost, time and origins are the caller's.
pub fn architecture_to_wire(architecture: &Architecture) -> v1::Architecture {
    let layers = architecture.layers().map(|layer| v1::LayerAllocation {
        layer: layer.layer,
        channels: layer.channels.iter().map(|(kernel, count)| (kernel.to_string(), count)).collect(),
    });
    v1::Architecture {
        digest: architecture.digest().to_string(),
        backbone: Some(backbone_to_wire(architecture.backbone())),
        layers: layers.collect(),
        ..v1::Architecture::default()
    }
}

/// A cost beside the multiply-accumulates of the all-`3x3x3` network.
pub fn cost_to_wire(cost: &Cost, extent: Extent, reference_mac_count: u64) -> v1::Cost {
    let layers = cost.layers.iter().map(|layer| v1::LayerCost {
        layer: layer.layer.clone(),
        output_channels: layer.output_channels,
        output_extent: Some(extent_to_wire(layer.output_extent)),
        param_count: layer.param_count,
        mac_count: layer.mac_count,
    });
    v1::Cost {
        extent: Some(extent_to_wire(extent)),
        param_count: cost.param_count,
        mac_count: cost.mac_count,
        activation_count: cost.activation_count,
        mac_fraction: cost.mac_count as f64 / reference_mac_count.max(1) as f64,
        layers: layers.collect(),
    }
}
