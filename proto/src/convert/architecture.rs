//! Architectures, backbones and costs.

use cakes::Extent;
use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{
    Backbone, BlockKind, EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem,
};
use cakes::cost::Cost;
use cakes::kernel::Kernel;
use cakes::spec::Violation;

use super::violation;
use crate::v1;

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
            levels: config
                .levels
                .unwrap_or_else(|| config.topology.iter().max().map_or(3, |level| level.saturating_add(1))),
            block: match config.block.as_str() {
                "" | "residual" => BlockKind::Residual,
                "plain" => BlockKind::Plain,
                other => {
                    let problem = format!("'{other}' is no block; known are residual and plain");
                    return Err(violation("backbone.encoder_decoder.block", problem));
                }
            },
            topology: config.topology,
        })),
        Some(v1::backbone::Family::VideoResnet(config)) => Ok(Backbone::VideoResnet(VideoResnet {
            input_channels: config.input_channels.unwrap_or(3),
            classes: config.classes,
            depth: depth_from_wire(config.depth.unwrap_or(50), "backbone.video_resnet.depth")?,
            base_width: config.base_width.unwrap_or(64),
            dropout_percent: config.dropout_percent.unwrap_or(30),
            middle: middle_from_wire(&config.middle, "backbone.video_resnet.middle")?,
        })),
        Some(v1::backbone::Family::VolumeResnet(config)) => Ok(Backbone::VolumeResnet(VolumeResnet {
            input_channels: config.input_channels.unwrap_or(1),
            classes: config.classes,
            depth: depth_from_wire(config.depth.unwrap_or(18), "backbone.volume_resnet.depth")?,
            base_width: config.base_width.unwrap_or(64),
            dropout_percent: config.dropout_percent.unwrap_or(0),
            stem: match config.stem.as_str() {
                "" | "compact" => VolumeStem::Compact,
                "wide" => VolumeStem::Wide,
                other => {
                    let problem = format!("'{other}' is no stem; known are compact and wide");
                    return Err(violation("backbone.volume_resnet.stem", problem));
                }
            },
            middle: middle_from_wire(&config.middle, "backbone.volume_resnet.middle")?,
        })),
        None => Err(violation(
            "backbone",
            "give a family, for example {\"encoder_decoder\": {\"classes\": 3}} or {\"video_resnet\": {\"classes\": 3}}",
        )),
    }
}

fn depth_from_wire(depth: u32, field: &str) -> Result<ResnetDepth, Violation> {
    ResnetDepth::try_from(depth).map_err(|problem| violation(field, problem))
}

fn middle_from_wire(name: &str, field: &str) -> Result<MiddleLayer, Violation> {
    match name {
        "" | "searchable" => Ok(MiddleLayer::Searchable),
        "p3d" => Ok(MiddleLayer::P3d),
        other => Err(violation(field, format!("'{other}' is no middle layer; known are searchable and p3d"))),
    }
}

fn middle_to_wire(middle: MiddleLayer) -> String {
    match middle {
        MiddleLayer::Searchable => "searchable",
        MiddleLayer::P3d => "p3d",
    }
    .to_owned()
}

pub(super) fn backbone_to_wire(backbone: &Backbone) -> v1::Backbone {
    let family = match backbone {
        Backbone::EncoderDecoder(config) => v1::backbone::Family::EncoderDecoder(v1::EncoderDecoder {
            input_channels: Some(config.input_channels),
            classes: config.classes,
            base_width: Some(config.base_width),
            levels: Some(config.levels),
            block: match config.block {
                BlockKind::Residual => "residual",
                BlockKind::Plain => "plain",
            }
            .to_owned(),
            topology: config.topology.clone(),
        }),
        Backbone::VideoResnet(config) => v1::backbone::Family::VideoResnet(v1::VideoResnet {
            input_channels: Some(config.input_channels),
            classes: config.classes,
            depth: Some(config.depth.into()),
            base_width: Some(config.base_width),
            dropout_percent: Some(config.dropout_percent),
            middle: middle_to_wire(config.middle),
        }),
        Backbone::VolumeResnet(config) => v1::backbone::Family::VolumeResnet(v1::VolumeResnet {
            input_channels: Some(config.input_channels),
            classes: config.classes,
            depth: Some(config.depth.into()),
            base_width: Some(config.base_width),
            dropout_percent: Some(config.dropout_percent),
            stem: match config.stem {
                VolumeStem::Compact => "compact",
                VolumeStem::Wide => "wide",
            }
            .to_owned(),
            middle: middle_to_wire(config.middle),
        }),
    };
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
    let family = backbone.family();
    let built = if layers.is_empty() {
        Architecture::even(backbone, &[Kernel::K333])
    } else {
        let layers = layers.into_iter().enumerate().map(|(index, layer)| layer_from_wire(index, layer));
        Architecture::new(backbone, layers.collect::<Result<Vec<_>, _>>()?)
    };
    built.map_err(|error| match error {
        cakes::architecture::ArchitectureError::Backbone(error) => {
            violation(format!("backbone.{family}.{}", error.field), error.problem)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder_decoder(json: &str) -> Result<Backbone, Violation> {
        let config: v1::EncoderDecoder = serde_json::from_str(json).unwrap();
        let family = Some(v1::backbone::Family::EncoderDecoder(config));
        backbone_from_wire(Some(v1::Backbone { family }))
    }

    #[test]
    fn another_topology_is_configuration_and_round_trips() {
        let json = r#"{"classes": 4, "block": "plain", "topology": [0, 0, 1, 2, 3, 2, 1, 1, 0]}"#;
        let backbone = encoder_decoder(json).unwrap();
        assert_eq!(backbone.check(), Ok(()));
        let Backbone::EncoderDecoder(config) = &backbone else { panic!("another family") };
        assert_eq!((config.levels, config.block), (4, BlockKind::Plain));
        assert_eq!(config.topology, [0, 0, 1, 2, 3, 2, 1, 1, 0]);
        assert_eq!(backbone_from_wire(Some(backbone_to_wire(&backbone))).unwrap(), backbone);

        let usual = encoder_decoder(r#"{"classes": 4}"#).unwrap();
        let expected = EncoderDecoder { classes: 4, ..EncoderDecoder::default() };
        assert_eq!(usual, Backbone::EncoderDecoder(expected));
        assert_eq!(backbone_from_wire(Some(backbone_to_wire(&usual))).unwrap(), usual);
    }

    #[test]
    fn an_unknown_block_is_named_by_its_field() {
        let error = encoder_decoder(r#"{"classes": 4, "block": "dense"}"#).unwrap_err();
        assert_eq!(error.field, "backbone.encoder_decoder.block");
        assert!(error.problem.contains("residual and plain"), "{error}");
    }
}
