//! A folder in the layout of MONAI's bundles, which evaluates as cakes validates.

mod metadata;
mod torch_file;

use cakes::input::{InputNormalisation, NetworkInput};
use cakes::spec::TaskKind;

use crate::ExportError;
use crate::graph::Graph;
use crate::publish::Part;
use crate::pytorch;
use crate::text::{class_rows, fill, list, one_line};
use crate::trained::Trained;

/// The folder's files.
///
/// # Errors
/// The network classifies, or nothing says what it reads.
pub fn files(graph: &Graph, trained: &Trained) -> Result<Vec<Part>, ExportError> {
    let refuse = |problem: &str| ExportError::Format { format: "monai-bundle", problem: problem.to_owned() };
    if graph.task != TaskKind::Segmentation {
        return Err(refuse(
            "is for networks that segment; use --format onnx or pytorch for one that classifies",
        ));
    }
    let input = trained.input.as_ref().ok_or_else(|| {
        refuse("the weights do not say on what patches they were trained; give the folder of a checkpoint that this version of the trainer wrote")
    })?;
    if input.normalisation != InputNormalisation::PerSample {
        return Err(refuse("is for volumes that are normalised one by one; use --format onnx or pytorch"));
    }
    let state = pytorch::state(graph)?;
    let weights = torch_file::encode(&state).map_err(|error| refuse(&error.to_string()))?;
    let text = |name: &str, content: String| (name.to_owned(), content.into_bytes());
    Ok(vec![
        text("configs/metadata.json", metadata::text(graph, trained, input)),
        text("configs/inference.json", config(include_str!("inference.json"), graph, trained, input)),
        text("configs/evaluate.json", config(include_str!("evaluate.json"), graph, trained, input)),
        ("models/model.pt".to_owned(), weights),
        text("scripts/__init__.py", include_str!("init.py").to_owned()),
        text("scripts/network.py", pytorch::module::source(graph, trained, None)),
        text("scripts/volumes.py", include_str!("volumes.py").to_owned()),
        text("scripts/windows.py", include_str!("windows.py").to_owned()),
        text("scripts/cases.py", include_str!("cases.py").to_owned()),
        text("scripts/report.py", include_str!("report.py").to_owned()),
        text("docs/README.md", readme(graph, trained, input)),
        text("LICENSE", include_str!("../../../LICENSE").to_owned()),
    ])
}

fn config(template: &str, graph: &Graph, trained: &Trained, input: &NetworkInput) -> String {
    let values = [
        ("VALIDATION_CASES", list(&input.validation_cases)),
        ("CLASSES", list(&trained.classes())),
        ("PATCH", list(&input.patch)),
        ("MULTIPLE", graph.stride.to_string()),
    ];
    fill(template, &values)
}

fn readme(graph: &Graph, trained: &Trained, input: &NetworkInput) -> String {
    let values = [
        ("{title}", pytorch::title(graph, trained)),
        ("{dataset}", one_line(&input.dataset)),
        ("{cases}", input.validation_cases.len().to_string()),
        ("{classes}", class_rows(&trained.classes())),
        ("{digest}", trained.architecture.digest().to_string()),
        ("{sha256}", trained.weights_sha256.clone()),
        ("{version}", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    fill(include_str!("readme.md"), &values)
}
