//! `README.md` of the folder.

use cakes::input::{InputKind, InputNormalisation, NetworkInput};
use cakes::spec::TaskKind;

use super::title;
use crate::graph::Graph;
use crate::text::class_rows;
use crate::trained::Trained;

pub(super) fn text(graph: &Graph, trained: &Trained) -> String {
    let mut parts = vec![
        format!("# {}", title(graph, trained)),
        "| file | holds |\n|---|---|\n| `model.py` | the network, layer by layer; needs PyTorch alone |\n| `weights.safetensors` | its weights, by the names of `state_dict()` |"
            .to_owned(),
        "## Use it\n\n```sh\npip install torch safetensors\n```".to_owned(),
        example(graph, trained),
        labels(trained),
    ];
    parts.extend(trained.input.as_ref().map(|input| reads(graph, input)));
    parts.push(origin(trained));
    parts.join("\n\n") + "\n"
}

fn example(graph: &Graph, trained: &Trained) -> String {
    let [d, h, w] = trained.input.as_ref().map_or([graph.stride.max(16); 3], |input| input.patch);
    let channels = graph.input_channels;
    let (import, input) = match trained.input {
        Some(_) => (
            "from model import CLASSES, load, normalise",
            format!("normalise(torch.rand(1, {channels}, {d}, {h}, {w}) * 255)"),
        ),
        None => ("from model import load", format!("torch.rand(1, {channels}, {d}, {h}, {w})")),
    };
    let answer = match (graph.task, &trained.input) {
        (TaskKind::Segmentation, _) => "labels = scores.argmax(dim=1)  # [1, D, H, W], numbers of classes",
        (TaskKind::Classification, Some(_)) => {
            "probabilities = scores.softmax(dim=1)[0]\nprint(dict(zip(CLASSES, probabilities.tolist())))"
        }
        (TaskKind::Classification, None) => "probabilities = scores.softmax(dim=1)[0]",
    };
    format!(
        "```python\nimport torch\n{import}\n\nnetwork = load()\nwith torch.inference_mode():\n    scores = network({input})\n{answer}\n```"
    )
}

fn labels(trained: &Trained) -> String {
    format!("## Classes\n\n| score | class |\n|---|---|\n{}", class_rows(&trained.classes()))
}

fn reads(graph: &Graph, input: &NetworkInput) -> String {
    let [d, h, w] = input.patch;
    let range = match &input.normalisation {
        InputNormalisation::PerSample => {
            "zero mean and unit variance of each channel over the whole sample".to_owned()
        }
        InputNormalisation::Fixed { mean, deviation } => {
            format!(
                "less the mean {mean:?}, divided by {deviation:?}, channel by channel, in stored values; a\nchannel with a deviation of 0 becomes 0"
            )
        }
    };
    let form = match (graph.task, input.kind) {
        (TaskKind::Segmentation, _) => format!(
            "Volumes, axes to the patient's right, front and top (RAS+). Trained on patches of {d}x{h}x{w}\nvoxels; any extent that is a multiple of {} along every axis can be read, and large volumes are\nbest read in overlapping windows of that size.",
            graph.stride
        ),
        (_, InputKind::Volume) => {
            format!("Volumes of {d}x{h}x{w} voxels, cut from the middle of larger ones.")
        }
        (_, InputKind::Clip) => format!(
            "Clips: {d} frames, the middle one of each of {d} equal parts. {}\nIt is resized to {h}x{w} pixels (bilinear, antialiased).",
            crop(input)
        ),
    };
    format!("## What it reads\n\n{form}\n\nValues: {range}; `normalise` in `model.py` does that.")
}

/// What validation cuts out of a frame.
fn crop(input: &NetworkInput) -> String {
    let [_, h, w] = input.patch;
    let largest = format!("the largest box of the form {h}:{w} (height to width)");
    match input.evaluation_crop() {
        Some(share) if share < 1.0 => format!(
            "Of each frame the centre is read:\n{share} times the height and the width of {largest} that fits in it,\nrounded to whole pixels."
        ),
        _ => format!("Of each frame {largest}\nthat fits in it is read, from the centre, in whole pixels."),
    }
}

fn origin(trained: &Trained) -> String {
    let step = trained.step.map(|step| format!(", {step} steps")).unwrap_or_default();
    format!(
        "## Where it is from\n\nArchitecture `{}`{step}, cakes {}. SHA-256 of the trained weights:\n`{}`.",
        trained.architecture.digest(),
        env!("CARGO_PKG_VERSION"),
        trained.weights_sha256
    )
}
