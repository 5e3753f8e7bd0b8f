//! One ONNX file.
//!
//! The input is `[batch, C, D, H, W]` with a batch, depth, height and width of any
//! size; a segmentation's output is `[batch, classes, D, H, W]`, a classification's
//! `[batch, classes]`. Outputs are scores before softmax.

mod build;
mod messages;

use prost::Message;

use crate::graph::Graph;
use crate::trained::Trained;
use crate::{ExportError, pytorch};
use build::Builder;
use messages::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

/// Version of ONNX' operators.
pub const OPSET: i64 = 17;

/// Version of the file format, the one that came with [`OPSET`].
pub const IR_VERSION: i64 = 8;

/// Name of the input.
pub const INPUT: &str = "input";

/// Name of the output.
pub const OUTPUT: &str = "scores";

/// No reader takes a message of protobuf that is larger.
const BYTES_MAX: usize = i32::MAX as usize;

const NORMALISATION_RULE: &str =
    "by channel, (value - mean) / deviation; 0 where the deviation of a channel is 0";

const FRAMES_RULE: &str = "of each of so many equal parts of a clip the middle frame: of n frames, counted from 0, \
    (i + 0.5) * n / count, rounded down, for each i from 0 to count - 1; of fewer than count some more \
    than once";

const CROP_RULE: &str = "of each frame the centre: share times height and width of the largest box of the \
    patch's height to width that fits in the frame, rounded to whole pixels; then resized to the patch, \
    bilinear, antialiased";

/// The file's content.
///
/// # Errors
/// It would be larger than 2 GiB.
pub fn encode(graph: &Graph, trained: &Trained) -> Result<Vec<u8>, ExportError> {
    let entry = |(key, value)| StringStringEntryProto { key, value };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "cakes".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: pytorch::title(graph, trained),
        graph: Some(Builder::new(graph).build(&trained.architecture.digest().to_string())),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata(graph, trained).into_iter().map(entry).collect(),
    };
    if model.encoded_len() > BYTES_MAX {
        return Err(ExportError::Format {
            format: "onnx",
            problem: "the network is larger than the 2 GiB that one file can hold; use --format pytorch"
                .into(),
        });
    }
    Ok(model.encode_to_vec())
}

/// What a program that runs the file may want to know.
fn metadata(graph: &Graph, trained: &Trained) -> Vec<(String, String)> {
    let mut entries = vec![
        ("cakes.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("cakes.architecture_digest".to_owned(), trained.architecture.digest().to_string()),
        ("cakes.weights_sha256".to_owned(), trained.weights_sha256.clone()),
        ("cakes.classes".to_owned(), json(&trained.classes())),
        ("cakes.extent_multiple".to_owned(), graph.stride.to_string()),
    ];
    if let Some(step) = trained.step {
        entries.push(("cakes.step".to_owned(), step.to_string()));
    }
    if let Some(input) = &trained.input {
        entries.push(("cakes.patch".to_owned(), json(&input.patch)));
        entries.push(("cakes.input_kind".to_owned(), json(&input.kind).trim_matches('"').to_owned()));
        entries.push(("cakes.normalisation".to_owned(), json(&input.normalisation)));
        entries.push(("cakes.normalisation_rule".to_owned(), NORMALISATION_RULE.to_owned()));
        if let Some(share) = input.evaluation_crop() {
            let frames = serde_json::json!({"count": input.patch[0], "rule": FRAMES_RULE});
            entries.push(("cakes.frames".to_owned(), frames.to_string()));
            let crop = serde_json::json!({"share": share, "rule": CROP_RULE});
            entries.push(("cakes.crop".to_owned(), crop.to_string()));
        }
    }
    entries
}

/// Plain data in memory always serialises.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
