//! `configs/metadata.json`, valid by MONAI's schema of 2024-07-25.

use std::collections::BTreeMap;

use cakes::input::NetworkInput;
use serde::Serialize;

use crate::graph::Graph;
use crate::pytorch;
use crate::trained::Trained;

/// Where MONAI keeps the schema.
const SCHEMA: &str = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json";

/// In the order in which people read it.
#[derive(Serialize)]
struct Metadata {
    schema: &'static str,
    version: &'static str,
    changelog: BTreeMap<&'static str, String>,
    monai_version: &'static str,
    pytorch_version: &'static str,
    numpy_version: &'static str,
    required_packages_version: BTreeMap<&'static str, &'static str>,
    name: String,
    task: String,
    description: String,
    authors: &'static str,
    copyright: &'static str,
    data_source: String,
    data_type: &'static str,
    network_data_format: DataFormat,
}

#[derive(Serialize)]
struct DataFormat {
    inputs: BTreeMap<&'static str, TensorFormat>,
    outputs: BTreeMap<&'static str, TensorFormat>,
}

#[derive(Serialize)]
struct TensorFormat {
    r#type: &'static str,
    format: &'static str,
    num_channels: usize,
    spatial_shape: [String; 3],
    dtype: &'static str,
    value_range: Vec<f32>,
    is_patch_data: bool,
    channel_def: BTreeMap<String, String>,
}

pub(super) fn text(graph: &Graph, trained: &Trained, input: &NetworkInput) -> String {
    let digest = trained.architecture.digest().to_string();
    let format = |format, channels: BTreeMap<String, String>| TensorFormat {
        r#type: "image",
        format,
        num_channels: channels.len(),
        spatial_shape: ["d", "h", "w"].map(|axis| format!("{}*{axis}", graph.stride)),
        dtype: "float32",
        value_range: Vec::new(),
        is_patch_data: true,
        channel_def: channels,
    };
    let numbered =
        |names: Vec<String>| names.into_iter().enumerate().map(|(at, name)| (at.to_string(), name));
    let channels = numbered((0..graph.input_channels).map(|_| "image".to_owned()).collect()).collect();
    let classes = numbered(trained.classes()).collect();
    let metadata = Metadata {
        schema: SCHEMA,
        version: "0.1.0",
        changelog: BTreeMap::from([(
            "0.1.0",
            format!("architecture {digest}, weights {}", trained.weights_sha256),
        )]),
        monai_version: "1.6.1",
        pytorch_version: "2.11.0",
        numpy_version: "2.4.6",
        required_packages_version: BTreeMap::from([
            ("fire", "0.7.1"),
            ("nibabel", "5.4.2"),
            ("pytorch-ignite", "0.5.5"),
        ]),
        name: pytorch::title(graph, trained),
        task: format!("Segmentation of {}", input.dataset),
        description: format!(
            "A network whose channels each have the kernel that a search found for them, trained on patches of {:?} voxels",
            input.patch
        ),
        authors: "whoever trained it with cakes",
        copyright: "of whoever trained it; the code is under the MIT license",
        data_source: input.dataset.clone(),
        data_type: "nibabel",
        network_data_format: DataFormat {
            inputs: BTreeMap::from([("image", format("magnitude", channels))]),
            outputs: BTreeMap::from([("pred", format("segmentation", classes))]),
        },
    };
    serde_json::to_string_pretty(&metadata).unwrap_or_default() + "\n"
}
