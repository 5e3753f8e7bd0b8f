//! An architecture: a backbone and one channel allocation per searchable layer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::allocation::{AllocationError, ChannelAllocation};
use crate::backbone::{Backbone, BackboneError, Form};
use crate::kernel::Kernel;
use crate::network::Network;

/// The allocation of one layer, as it stands in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerAllocation {
    pub layer: String,
    pub channels: ChannelAllocation,
}

/// A backbone whose searchable layers all have their allocation.
///
/// Layers stand in the order in which they run, whatever order they were given
/// in, so equal architectures have equal JSON and equal digests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "ArchitectureParts", into = "ArchitectureParts")]
pub struct Architecture {
    backbone: Backbone,
    allocations: Vec<ChannelAllocation>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArchitectureParts {
    backbone: Backbone,
    layers: Vec<LayerAllocation>,
}

/// Why parts do not make an architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchitectureError {
    #[error("backbone.{0}")]
    Backbone(#[from] BackboneError),
    #[error("the backbone has no searchable layer '{0}'; known are {1}")]
    UnknownLayer(String, String),
    #[error("layer '{0}' is given twice")]
    RepeatedLayer(String),
    #[error("layer '{0}' has no allocation")]
    MissingLayer(String),
    #[error("layer '{layer}': the counts {counts} sum to {sum}, but the layer has {width} channels")]
    WrongSum { layer: String, counts: String, sum: u32, width: u32 },
}

impl Architecture {
    /// Binds allocations to the layers that they name.
    ///
    /// # Errors
    /// A layer that is unknown, missing, given twice, or of another width.
    pub fn new(
        backbone: Backbone,
        layers: impl IntoIterator<Item = LayerAllocation>,
    ) -> Result<Self, ArchitectureError> {
        backbone.check()?;
        let known = backbone.searchable_layers();
        let mut slots: Vec<Option<ChannelAllocation>> = vec![None; known.len()];
        for LayerAllocation { layer, channels } in layers {
            let Some(position) = known.iter().position(|candidate| candidate.name == layer) else {
                let names: Vec<&str> = known.iter().map(|layer| layer.name.as_str()).collect();
                return Err(ArchitectureError::UnknownLayer(layer, names.join(", ")));
            };
            if channels.width() != known[position].channels {
                return Err(ArchitectureError::WrongSum {
                    layer,
                    counts: channels.to_string(),
                    sum: channels.width(),
                    width: known[position].channels,
                });
            }
            if slots[position].replace(channels).is_some() {
                return Err(ArchitectureError::RepeatedLayer(layer));
            }
        }
        let allocations = slots
            .into_iter()
            .zip(&known)
            .map(|(slot, layer)| slot.ok_or_else(|| ArchitectureError::MissingLayer(layer.name.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Architecture { backbone, allocations })
    }

    /// Shares every layer's channels evenly among `kernels`; one kernel gives
    /// a uniform network such as C3D.
    ///
    /// # Errors
    /// The backbone's configuration is out of range.
    pub fn even(backbone: Backbone, kernels: &[Kernel]) -> Result<Self, ArchitectureError> {
        Self::shared(backbone, |width| ChannelAllocation::even(kernels, width))
    }

    /// Splits every layer as the published code does without a configuration; see
    /// [`ChannelAllocation::manual`].
    ///
    /// # Errors
    /// The backbone's configuration is out of range.
    pub fn manual(backbone: Backbone, kernels: &[Kernel]) -> Result<Self, ArchitectureError> {
        Self::shared(backbone, |width| ChannelAllocation::manual(kernels, width))
    }

    fn shared(
        backbone: Backbone,
        share: impl Fn(u32) -> Result<ChannelAllocation, AllocationError>,
    ) -> Result<Self, ArchitectureError> {
        backbone.check()?;
        let layers: Vec<LayerAllocation> = backbone
            .searchable_layers()
            .into_iter()
            .filter_map(|layer| {
                let channels = share(layer.channels).ok()?;
                Some(LayerAllocation { layer: layer.name, channels })
            })
            .collect();
        Self::new(backbone, layers)
    }

    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// Layers with their allocations, in the order in which they run.
    pub fn layers(&self) -> impl Iterator<Item = LayerAllocation> + '_ {
        self.backbone
            .searchable_layers()
            .into_iter()
            .zip(&self.allocations)
            .map(|(layer, channels)| LayerAllocation { layer: layer.name, channels: channels.clone() })
    }

    pub fn network(&self) -> Network {
        self.backbone.network(Form::Derived(&self.allocations))
    }

    /// SHA-256 of the compact JSON form.
    pub fn digest(&self) -> ArchitectureDigest {
        // Serialising plain data into memory cannot fail.
        let json = serde_json::to_vec(self).unwrap_or_default();
        ArchitectureDigest(Sha256::digest(json).into())
    }

    /// Channels of the whole network per kernel, in canonical order, kernels
    /// without channels left out.
    pub fn composition(&self) -> Vec<(Kernel, u32)> {
        Kernel::ALL
            .into_iter()
            .map(|kernel| (kernel, self.allocations.iter().map(|layer| layer.count(kernel)).sum()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Layers in which two architectures of one backbone differ; layers that
    /// only one of them has are listed with `None` on the other side.
    pub fn diff(&self, other: &Architecture) -> Vec<LayerDifference> {
        let mine: Vec<LayerAllocation> = self.layers().collect();
        let theirs: Vec<LayerAllocation> = other.layers().collect();
        let find = |list: &[LayerAllocation], name: &str| {
            list.iter().find(|layer| layer.layer == name).map(|layer| layer.channels.clone())
        };
        let only_theirs = theirs.iter().filter(|layer| find(&mine, &layer.layer).is_none());
        mine.iter()
            .chain(only_theirs)
            .map(|layer| LayerDifference {
                layer: layer.layer.clone(),
                left: find(&mine, &layer.layer),
                right: find(&theirs, &layer.layer),
            })
            .filter(|difference| difference.left != difference.right)
            .collect()
    }
}

/// One layer in which two architectures differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerDifference {
    pub layer: String,
    pub left: Option<ChannelAllocation>,
    pub right: Option<ChannelAllocation>,
}

impl TryFrom<ArchitectureParts> for Architecture {
    type Error = ArchitectureError;

    fn try_from(parts: ArchitectureParts) -> Result<Self, Self::Error> {
        Architecture::new(parts.backbone, parts.layers)
    }
}

impl From<Architecture> for ArchitectureParts {
    fn from(architecture: Architecture) -> Self {
        let layers = architecture.layers().collect();
        ArchitectureParts { backbone: architecture.backbone, layers }
    }
}

/// Identity of an architecture: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchitectureDigest([u8; 32]);

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no architecture digest; it has 64 hexadecimal digits")]
pub struct InvalidDigest(String);

impl fmt::Display for ArchitectureDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for ArchitectureDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchitectureDigest({self})")
    }
}

impl FromStr for ArchitectureDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidDigest(text.to_owned()))?;
        Ok(ArchitectureDigest(bytes))
    }
}

impl TryFrom<String> for ArchitectureDigest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ArchitectureDigest> for String {
    fn from(digest: ArchitectureDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::EncoderDecoder;

    fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 3,
            base_width: 4,
            levels: 2,
            ..EncoderDecoder::default()
        })
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_layers() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
        let mut layers: Vec<LayerAllocation> = architecture.layers().collect();
        layers.reverse();
        let reversed = Architecture::new(backbone(), layers).unwrap();
        assert_eq!(reversed.digest(), architecture.digest());
        let other = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        assert_ne!(other.digest(), architecture.digest());
        assert_eq!(architecture.digest().to_string().parse(), Ok(architecture.digest()));
    }

    #[test]
    fn the_digest_is_pinned_because_databases_hold_it() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        let digest = "4650aa08568a09b53d6e03121fbb341d023d5b4908af4c229e627ac464f17c31";
        assert_eq!(architecture.digest().to_string(), digest);
    }

    #[test]
    fn json_with_a_wrong_layer_is_refused_with_its_name() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        let mut value = serde_json::to_value(&architecture).unwrap();
        value["layers"][0]["channels"]["3x3x3"] = 3.into();
        let error = serde_json::from_value::<Architecture>(value.clone()).unwrap_err().to_string();
        assert!(error.contains("'encoder.0.conv1'") && error.contains("sum to 3"), "{error}");
        value["layers"][0]["layer"] = "encoder.9.conv1".into();
        assert!(serde_json::from_value::<Architecture>(value).is_err());
    }

    #[test]
    fn a_diff_names_only_layers_that_differ() {
        let left = Architecture::even(backbone(), &[Kernel::K333]).unwrap();
        let mut layers: Vec<LayerAllocation> = left.layers().collect();
        layers[2].channels = ChannelAllocation::uniform(Kernel::K111, 8).unwrap();
        let right = Architecture::new(backbone(), layers).unwrap();
        let diff = left.diff(&right);
        assert_eq!(diff.len(), 1);
        assert_eq!(diff[0].layer, "encoder.1.conv1");
        assert_eq!(left.diff(&left), []);
    }
}
