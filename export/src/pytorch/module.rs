//! `model.py`.

use cakes::input::InputNormalisation;
use cakes::spec::TaskKind;

use super::forward;
use super::syntax::{block, call, extent, identifier, in_docstring};
use super::title;
use crate::graph::{Graph, Layer, LayerOp};
use crate::text::{fill, list};
use crate::trained::Trained;

/// The module's source. `weights` is the file beside it that `load` reads; without it
/// there is no `load`.
pub fn source(graph: &Graph, trained: &Trained, weights: Option<&str>) -> String {
    let mut parts = vec![header(graph, trained, weights.is_some())];
    parts.extend(constants(trained));
    parts.extend(normalisation(trained));
    if has_branches(graph) {
        parts.push(include_str!("mixed_conv.py").trim_end().to_owned());
    }
    parts.push(network(graph));
    parts.extend(weights.map(|weights| include_str!("load.py").trim_end().replace("WEIGHTS", weights)));
    parts.join("\n\n\n") + "\n"
}

fn header(graph: &Graph, trained: &Trained, loads: bool) -> String {
    let shapes = match graph.task {
        TaskKind::Segmentation => format!(
            "Maps [N, {}, D, H, W] to scores before softmax, [N, {}, D, H, W]; every axis must be a\nmultiple of {}.",
            graph.input_channels, graph.classes, graph.stride
        ),
        TaskKind::Classification => format!(
            "Maps [N, {}, D, H, W] to scores before softmax, [N, {}]; D of a clip is time.",
            graph.input_channels, graph.classes
        ),
    };
    let digest = trained.architecture.digest();
    let version = env!("CARGO_PKG_VERSION");
    let path = if loads { "from pathlib import Path\n\n" } else { "" };
    format!(
        "\"\"\"{}.\n\n{shapes}\n\nArchitecture {digest},\nwritten by cakes {version}.\n\"\"\"\n\n{path}import torch\nimport torch.nn.functional as F\nfrom torch import nn",
        in_docstring(&title(graph, trained))
    )
}

fn constants(trained: &Trained) -> Option<String> {
    let input = trained.input.as_ref()?;
    let [d, h, w] = input.patch;
    let classes = list(&trained.classes());
    let crop = input.evaluation_crop().map(|share| {
        format!("\n\n# Of a frame: this share of the largest box of PATCH's form, from the centre.\nCROP = {share:?}")
    });
    Some(format!(
        "# Names of the scores, in their order.\nCLASSES = {classes}\n\n# What it was trained on: depth (or time), height and width.\nPATCH = ({d}, {h}, {w}){}",
        crop.unwrap_or_default()
    ))
}

fn normalisation(trained: &Trained) -> Option<String> {
    let input = trained.input.as_ref()?;
    Some(match &input.normalisation {
        InputNormalisation::PerSample => include_str!("per_sample.py").trim_end().to_owned(),
        InputNormalisation::Fixed { mean, deviation } => fill(
            include_str!("fixed.py").trim_end(),
            &[("MEANS", list(mean)), ("DEVIATIONS", list(deviation))],
        ),
    })
}

fn has_branches(graph: &Graph) -> bool {
    graph.layers.iter().any(|layer| matches!(&layer.op, LayerOp::Conv { branches, .. } if branches.len() > 1))
}

fn network(graph: &Graph) -> String {
    let mut lines = vec![
        "class Network(nn.Module):".to_owned(),
        "    def __init__(self):".to_owned(),
        "        super().__init__()".to_owned(),
    ];
    let mut current = "";
    for layer in &graph.layers {
        let Some(line) = definition(graph, layer) else { continue };
        let block = block(&layer.name);
        if block != current {
            current = block;
            lines.push(String::new());
            lines.push(format!("        # {}", describe(graph, block)));
        }
        lines.push(line);
    }
    lines.push(String::new());
    lines.push("    def forward(self, x):".to_owned());
    lines.extend(forward::body(graph));
    lines.join("\n")
}

/// A block and the channels that it ends with.
fn describe(graph: &Graph, name: &str) -> String {
    let last = graph.layers.iter().rfind(|layer| block(&layer.name) == name);
    let channels = last.map_or(0, |layer| layer.channels);
    match graph.layers.last().is_some_and(|layer| block(&layer.name) == name) {
        true => format!("{name}: {channels} classes"),
        false => format!("{name}: {channels} channels"),
    }
}

/// The line that makes a layer; none for one that needs no module.
fn definition(graph: &Graph, layer: &Layer) -> Option<String> {
    let target = format!("self.{}", identifier(&layer.name));
    let channels = layer.channels;
    let inputs = layer.inputs.first().map_or(0, |input| graph.layers[*input].channels);
    Some(match &layer.op {
        LayerOp::Conv { branches, stride } => {
            let has_bias = branches.iter().any(|branch| branch.bias.is_some());
            let strides = (*stride != [1; 3]).then(|| format!("stride={}", extent(*stride)));
            if let [branch] = branches.as_slice() {
                let mut arguments = vec![inputs.to_string(), channels.to_string(), extent(branch.size)];
                arguments.extend(strides);
                if branch.padding() != [0; 3] {
                    arguments.push(format!("padding={}", extent(branch.padding())));
                }
                arguments.extend((!has_bias).then(|| "bias=False".to_owned()));
                return Some(call(8, &target, "nn.Conv3d", &arguments));
            }
            let counts: Vec<String> = branches
                .iter()
                .map(|branch| {
                    format!("\"{}\": {}", branch.kernel.as_deref().unwrap_or_default(), branch.channels())
                })
                .collect();
            let mut arguments = vec![inputs.to_string(), format!("{{{}}}", counts.join(", "))];
            arguments.extend(strides);
            arguments.extend(has_bias.then(|| "bias=True".to_owned()));
            call(8, &target, "MixedConv3d", &arguments)
        }
        LayerOp::Norm(_) => call(8, &target, "nn.BatchNorm3d", &[channels.to_string()]),
        LayerOp::Linear { bias, .. } => {
            let mut arguments = vec![inputs.to_string(), channels.to_string()];
            arguments.extend(bias.is_none().then(|| "bias=False".to_owned()));
            call(8, &target, "nn.Linear", &arguments)
        }
        _ => return None,
    })
}
