//! A folder with one readable module and its weights.

mod forward;
pub mod module;
mod readme;
mod syntax;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use cakes::spec::TaskKind;
use safetensors::Dtype;
use safetensors::tensor::View;

use crate::ExportError;
use crate::graph::{Graph, LayerOp};
use crate::publish::Part;
use crate::text::one_line;
use crate::trained::Trained;

/// The folder's files.
///
/// # Errors
/// Two layers would get one name.
pub fn files(graph: &Graph, trained: &Trained) -> Result<Vec<Part>, ExportError> {
    Ok(vec![
        ("model.py".to_owned(), module::source(graph, trained, Some("weights.safetensors")).into_bytes()),
        ("weights.safetensors".to_owned(), weights(graph, trained)?),
        ("README.md".to_owned(), readme::text(graph, trained).into_bytes()),
    ])
}

/// One line that says what a network is.
pub fn title(graph: &Graph, trained: &Trained) -> String {
    let digest = trained.architecture.digest().to_string();
    let verb = match graph.task {
        TaskKind::Segmentation => "segments volumes into",
        TaskKind::Classification => "tells",
    };
    let family = trained.architecture.backbone().family();
    let on = trained.input.as_ref().map(|input| format!(", trained on {}", one_line(&input.dataset)));
    let on = on.unwrap_or_default();
    format!("cakes {} {family} that {verb} {} classes{on}", &digest[..12], graph.classes)
}

/// A tensor for safetensors.
pub(crate) struct Entry<'a> {
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// What the module's `state_dict` holds, in the order of the layers.
///
/// # Errors
/// Two layers would get one name.
pub(crate) fn state(graph: &Graph) -> Result<Vec<(String, Entry<'_>)>, ExportError> {
    let mut entries: Vec<(String, Entry<'_>)> = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, values| entries.push((name, Entry { shape, values }));
    for layer in &graph.layers {
        let name = syntax::identifier(&layer.name);
        match &layer.op {
            LayerOp::Conv { branches, .. } => {
                for branch in branches {
                    let prefix = match (&branch.kernel, branches.len()) {
                        (Some(kernel), 2..) => format!("{name}.{kernel}"),
                        _ => name.clone(),
                    };
                    add(format!("{prefix}.weight"), branch.weight.shape.clone(), &branch.weight.values[..]);
                    if let Some(bias) = &branch.bias {
                        add(format!("{prefix}.bias"), vec![bias.len()], &bias[..]);
                    }
                }
            }
            LayerOp::Norm(norm) => {
                let parts = [
                    ("weight", &norm.scale),
                    ("bias", &norm.shift),
                    ("running_mean", &norm.mean),
                    ("running_var", &norm.variance),
                ];
                for (part, values) in parts {
                    add(format!("{name}.{part}"), vec![values.len()], &values[..]);
                }
            }
            LayerOp::Linear { weight, bias } => {
                add(format!("{name}.weight"), weight.shape.clone(), &weight.values[..]);
                if let Some(bias) = bias {
                    add(format!("{name}.bias"), vec![bias.len()], &bias[..]);
                }
            }
            _ => {}
        }
    }
    let names: BTreeMap<&String, usize> = entries.iter().map(|(name, _)| (name, 1)).collect();
    if names.len() == entries.len() {
        return Ok(entries);
    }
    let problem = "two layers would get one name".to_owned();
    Err(ExportError::Format { format: "pytorch", problem })
}

fn weights(graph: &Graph, trained: &Trained) -> Result<Vec<u8>, ExportError> {
    let metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("cakes.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("cakes.architecture_digest".to_owned(), trained.architecture.digest().to_string()),
    ]);
    safetensors::serialize(state(graph)?, Some(metadata))
        .map_err(|error| ExportError::Format { format: "pytorch", problem: error.to_string() })
}
