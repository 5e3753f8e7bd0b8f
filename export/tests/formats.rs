//! What is written, and what is refused. Whether the networks compute the same is tested
//! beside the trainer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use cakes::architecture::Architecture;
use cakes::backbone::{
    Backbone, EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem,
};
use cakes::input::{InputKind, InputNormalisation, NetworkInput};
use cakes::kernel::KernelSet;
use cakes::network::{ConvKernels, Op};
use cakes::spec::Augmentation;
use cakes_export::trained::{Tensor, Weights};
use cakes_export::{ExportError, Format, Options, Trained, export};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use sha2::Digest;

fn encoder_decoder() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder { classes: 3, base_width: 9, ..EncoderDecoder::default() })
}

fn video() -> Backbone {
    Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: 2,
        depth: ResnetDepth::R50,
        base_width: 7,
        dropout_percent: 30,
        middle: MiddleLayer::Searchable,
    })
}

fn p3d() -> Backbone {
    Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: 2,
        depth: ResnetDepth::R18,
        base_width: 4,
        dropout_percent: 0,
        stem: VolumeStem::Wide,
        middle: MiddleLayer::P3d,
    })
}

/// Weights as a trainer names them, each value another one.
fn weights(architecture: &Architecture) -> Weights {
    let network = architecture.network();
    let shapes = network.shapes([64; 3]).unwrap();
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|at: usize| 0.5 + at as f32 / 1000.0).collect();
        weights.insert(name, Tensor { shape: shape.to_vec(), values });
    };
    for (node, shape) in network.nodes.iter().zip(&shapes) {
        let (name, out) = (&node.name, shape.channels as usize);
        let inputs = node.inputs.first().map_or(0, |id| shapes[id.0].channels as usize);
        let of = |size: [u32; 3], count: usize| {
            let [d, h, w] = size.map(|taps| taps as usize);
            [count, inputs, d, h, w]
        };
        match &node.op {
            Op::Conv(conv) => {
                match &conv.kernels {
                    ConvKernels::Uniform(kernel) => add(format!("{name}.weight"), &of(kernel.size(), out)),
                    ConvKernels::Window(size) => add(format!("{name}.weight"), &of(*size, out)),
                    ConvKernels::Mixed(allocation) => {
                        for (kernel, count) in allocation.iter() {
                            add(format!("{name}.{kernel}.weight"), &of(kernel.size(), count as usize));
                        }
                    }
                    ConvKernels::Candidates { .. } => unreachable!(),
                }
                if conv.bias {
                    add(format!("{name}.bias"), &[out]);
                }
            }
            Op::Norm { .. } => {
                for part in ["weight", "bias", "running_mean", "running_var"] {
                    add(format!("{name}.{part}"), &[out]);
                }
            }
            Op::Linear { .. } => {
                add(format!("{name}.weight"), &[out, inputs]);
                add(format!("{name}.bias"), &[out]);
            }
            _ => {}
        }
    }
    weights
}

fn trained(backbone: Backbone) -> Trained {
    let kernels: Vec<_> = KernelSet::volumetric().iter().collect();
    let architecture = Architecture::even(backbone, &kernels).unwrap();
    let is_clip = architecture.backbone().family() == "video_resnet";
    let classes = (0..architecture.backbone().classes()).map(|class| format!("class \"{class}\"")).collect();
    Trained {
        weights: weights(&architecture),
        weights_sha256: "ab".repeat(32),
        step: Some(400),
        input: Some(NetworkInput {
            dataset: "Hippocampus".into(),
            kind: if is_clip { InputKind::Clip } else { InputKind::Volume },
            patch: [32, 48, 32],
            normalisation: match is_clip {
                true => InputNormalisation::Fixed { mean: vec![1.5, 2.0, 3.0], deviation: vec![4.0; 3] },
                false => InputNormalisation::PerSample,
            },
            classes,
            crop_scales: if is_clip { Augmentation::video().crop_scales } else { Vec::new() },
            validation_cases: vec!["hippocampus_001".into(), "hippocampus_007".into()],
        }),
        architecture,
    }
}

fn python(arguments: &[&str], folder: &Path) {
    let output = Command::new("python3").args(arguments).current_dir(folder).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_format_is_written_whole_for_every_family() {
    let root = tempfile::tempdir().unwrap();
    for (name, backbone) in [("unet", encoder_decoder()), ("video", video()), ("p3d", p3d())] {
        let trained = trained(backbone);
        for fold_norms in [false, true] {
            let options = Options { fold_norms, force: false };
            let place = |what: &str| root.path().join(format!("{name}-{fold_norms}-{what}"));
            export(&trained, Format::Onnx, options, &place("net.onnx")).unwrap();
            let folder = place("pytorch");
            let written = export(&trained, Format::Pytorch, options, &folder).unwrap();
            assert_eq!(written.files.len(), 3);
            python(&["-m", "py_compile", "model.py"], &folder);
            let bytes = fs::read(folder.join("weights.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let has_norms = tensors.names().iter().any(|name| name.ends_with("running_var"));
            assert_eq!(has_norms, !fold_norms, "{name}");
            assert!(tensors.names().iter().all(|name| !name.contains("dropout")));
        }
    }
}

#[test]
fn the_module_shows_every_layer_with_its_channels() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("net");
    export(&trained(encoder_decoder()), Format::Pytorch, Options::default(), &folder).unwrap();
    let source = fs::read_to_string(folder.join("model.py")).unwrap();
    for line in [
        "        self.stem = nn.Conv3d(1, 9, 3, padding=1, bias=False)",
        "        # encoder.1: 18 channels",
        "        self.encoder_1_conv1_norm = nn.BatchNorm3d(18)",
        "        self.head = nn.Conv3d(9, 3, 1)",
        "        x = F.relu(self.stem_norm(self.stem(x)))",
        "        x = F.relu(self.encoder_1_conv1_norm(self.encoder_1_conv1(encoder_0)))",
        "        x = torch.cat([encoder_0, x], dim=1)",
        "CLASSES = [\"class \\\"0\\\"\", \"class \\\"1\\\"\", \"class \\\"2\\\"\"]",
    ] {
        assert!(source.lines().any(|found| found == line), "no line '{line}' in\n{source}");
    }
    assert!(
        source.contains("\"3x3x3\": 3, \"1x3x3\": 3, \"3x1x3\": 3, \"3x3x1\": 3, \"3x1x1\": 2"),
        "{source}"
    );
    assert!(source.lines().all(|line| line.chars().count() <= 110), "{source}");
}

#[test]
fn a_bundle_has_metadata_by_monais_schema_and_configurations_that_name_its_scripts() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("bundle");
    export(&trained(encoder_decoder()), Format::MonaiBundle, Options::default(), &folder).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join("configs").join(name)).unwrap()).unwrap()
    };
    let metadata = read("metadata.json");
    // What the schema of 2024-07-25 requires.
    for key in [
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    ] {
        assert!(metadata[key].is_string(), "{key}");
    }
    assert!(metadata["required_packages_version"].is_object());
    let output = &metadata["network_data_format"]["outputs"]["pred"];
    assert_eq!(output["num_channels"], 3);
    assert_eq!(output["channel_def"]["2"], "class \"2\"");
    assert_eq!(output["spatial_shape"], json!(["4*d", "4*h", "4*w"]));
    let evaluate = read("evaluate.json");
    assert_eq!(evaluate["validation_cases"], json!(["hippocampus_001", "hippocampus_007"]));
    assert_eq!(evaluate["inferer"]["patch"], json!([32, 48, 32]));
    assert_eq!(evaluate["inferer"]["multiple"], 4);
    assert_eq!(read("inference.json")["inferer"], evaluate["inferer"]);
    for script in fs::read_dir(folder.join("scripts")).unwrap() {
        let script = script.unwrap().path();
        python(&["-m", "py_compile", script.to_str().unwrap()], &folder);
    }
    // Python reads the pickle's structure without PyTorch.
    let unpickle = "
import pickle, zipfile
archive = zipfile.ZipFile('models/model.pt')
class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return dict if name == 'OrderedDict' else (lambda storage, offset, size, *rest: (storage, size))
    def persistent_load(self, identity):
        return identity[2], identity[4]
state = Reader(archive.open('model/data.pkl')).load()
(number, count), size = state['head.weight']
assert size == (3, 9, 1, 1, 1) and count == 27, (size, count)
assert len(archive.read(f'model/data/{number}')) == 4 * count
";
    python(&["-c", unpickle], &folder);
    for name in ["LICENSE", "docs/README.md"] {
        assert!(fs::metadata(folder.join(name)).unwrap().len() > 500, "{name}");
    }
}

#[test]
fn a_bundle_reads_volumes_by_a_script_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("bundle");
    export(&trained(encoder_decoder()), Format::MonaiBundle, Options::default(), &folder).unwrap();
    assert!(folder.join("scripts/volumes.py").is_file());
    for name in ["evaluate.json", "inference.json"] {
        let config = fs::read(folder.join("configs").join(name)).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let load = &config["preprocessing"]["transforms"][0];
        assert_eq!(load["_target_"], "LoadImaged", "{name}");
        assert_eq!(load["reader"]["_target_"], "scripts.volumes.Reader", "{name}");
    }
}

#[test]
fn names_may_hold_what_python_markdown_and_templates_mean_something_by() {
    let root = tempfile::tempdir().unwrap();
    let mut trained = trained(encoder_decoder());
    let input = trained.input.as_mut().unwrap();
    input.dataset = "C:\\Users \"\"\"; raise 1 {cases}\n{classes}".into();
    input.classes = vec!["a,b,".into(), "PATCH, MULTIPLE".into(), "{digest}|\"\\".into()];
    input.validation_cases = vec!["CLASSES".into(), "case,1,\"2".into()];
    let input = input.clone();
    let (module, bundle) = (root.path().join("net"), root.path().join("bundle"));
    export(&trained, Format::Pytorch, Options::default(), &module).unwrap();
    export(&trained, Format::MonaiBundle, Options::default(), &bundle).unwrap();

    let read = "
import ast, json, sys
tree = ast.parse(open(sys.argv[1], encoding='utf-8').read())
(classes,) = [ast.literal_eval(part.value) for part in tree.body
              if isinstance(part, ast.Assign) and part.targets[0].id == 'CLASSES']
assert classes == json.loads(sys.argv[2]), classes
assert sys.argv[3] in ast.get_docstring(tree), ast.get_docstring(tree)
";
    let (classes, dataset) = (json!(input.classes).to_string(), input.dataset.replace('\n', ""));
    for (folder, source) in [(&module, "model.py"), (&bundle, "scripts/network.py")] {
        python(&["-c", read, source, &classes, &dataset], folder);
    }
    let config: Value =
        serde_json::from_slice(&fs::read(bundle.join("configs/evaluate.json")).unwrap()).unwrap();
    assert_eq!(config["classes"], json!(input.classes));
    assert_eq!(config["validation_cases"], json!(input.validation_cases));
    assert_eq!(config["inferer"]["patch"], json!([32, 48, 32]));
    for readme in [module.join("README.md"), bundle.join("docs/README.md")] {
        let text = fs::read_to_string(&readme).unwrap();
        assert!(text.lines().next().unwrap().ends_with(&dataset), "{text}");
        assert!(text.lines().any(|line| line == "| 2 | {digest}\\|\"\\\\ |"), "{text}");
    }
}

#[test]
fn exports_for_clips_say_what_part_of_a_frame_is_read() {
    let root = tempfile::tempdir().unwrap();
    let written = |trained: &Trained| {
        let (file, folder) = (root.path().join("net.onnx"), root.path().join("net"));
        let options = Options { fold_norms: false, force: true };
        export(trained, Format::Onnx, options, &file).unwrap();
        export(trained, Format::Pytorch, options, &folder).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        (fs::read(&file).unwrap(), read("README.md"), read("model.py"))
    };
    let mut clips = trained(video());
    let (onnx, readme, module) = written(&clips);
    assert!(holds(&onnx, "cakes.crop") && holds(&onnx, "\"share\":0.875"));
    assert!(holds(&onnx, "cakes.frames") && holds(&onnx, "\"count\":32"));
    assert!(
        readme.contains("0.875 times the height and the width of the largest box of the form 48:32"),
        "{readme}"
    );
    assert!(module.lines().any(|line| line == "CROP = 0.875"), "{module}");

    clips.input.as_mut().unwrap().crop_scales = vec![1.0];
    let (onnx, readme, module) = written(&clips);
    assert!(holds(&onnx, "\"share\":1.0"));
    assert!(readme.contains("Of each frame the largest box of the form 48:32"), "{readme}");
    assert!(module.lines().any(|line| line == "CROP = 1.0"), "{module}");

    let (onnx, _, module) = written(&trained(p3d()));
    assert!(!holds(&onnx, "cakes.crop") && !holds(&onnx, "cakes.frames") && !module.contains("CROP"));
}

fn holds(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn a_channel_that_was_the_same_everywhere_becomes_zeros() {
    let root = tempfile::tempdir().unwrap();
    let mut trained = trained(video());
    let deviation = vec![4.0, 0.0, 0.5];
    trained.input.as_mut().unwrap().normalisation =
        InputNormalisation::Fixed { mean: vec![1.5, 2.0, 3.0], deviation };
    let (file, folder) = (root.path().join("net.onnx"), root.path().join("net"));
    export(&trained, Format::Onnx, Options::default(), &file).unwrap();
    export(&trained, Format::Pytorch, Options::default(), &folder).unwrap();
    assert!(holds(&fs::read(&file).unwrap(), "0 where the deviation of a channel is 0"));
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(readme.contains("channel with a deviation of 0 becomes 0"), "{readme}");
    let source = fs::read_to_string(folder.join("model.py")).unwrap();
    assert!(source.contains("torch.tensor([4.0, 0.0, 0.5])"), "{source}");
    assert!(source.contains("torch.where(deviation > 0, (x.float() - mean) / deviation, 0.0)"), "{source}");

    let program = std::env::var_os("CAKES_PYTHON").unwrap_or("python3".into());
    let run = |code: &str| Command::new(&program).args(["-c", code]).current_dir(&folder).output().unwrap();
    if !run("import torch").status.success() {
        eprintln!("left out: PyTorch's part; name a Python with torch in CAKES_PYTHON");
        return;
    }
    let output = run("import torch, model
print(model.normalise(torch.full((1, 3, 1, 1, 1), 2.0)).flatten().tolist())");
    let found = String::from_utf8_lossy(&output.stdout);
    assert_eq!(found.trim(), "[0.125, 0.0, -2.0]", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_bundle_is_for_segmentation() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("bundle");
    let error = export(&trained(video()), Format::MonaiBundle, Options::default(), &out).unwrap_err();
    assert!(error.to_string().contains("--format onnx"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("net.onnx");
    let refused = |change: &dyn Fn(&mut Weights)| {
        let mut trained = trained(encoder_decoder());
        change(&mut trained.weights);
        export(&trained, Format::Onnx, Options::default(), &out).unwrap_err().to_string()
    };
    let missing = refused(&|weights| drop(weights.remove("encoder.1.conv2.1x3x1.weight")));
    assert!(missing.contains("'encoder.1.conv2.1x3x1.weight' is missing"), "{missing}");
    let odd = refused(&|weights| weights.get_mut("head.bias").unwrap().shape = vec![4]);
    assert!(odd.contains("'head.bias' has the shape [4], the architecture's has [3]"), "{odd}");
    let extra = |weights: &mut Weights| {
        weights.insert("other".into(), Tensor { shape: vec![1], values: vec![0.0] });
    };
    assert!(refused(&extra).contains("belong to no layer"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing half-written is left");
}

#[test]
fn what_is_there_is_replaced_only_by_force_and_then_whole() {
    let root = tempfile::tempdir().unwrap();
    let trained = trained(p3d());
    let (file, folder) = (root.path().join("net.onnx"), root.path().join("net"));
    for (format, out) in [(Format::Onnx, &file), (Format::Pytorch, &folder)] {
        export(&trained, format, Options::default(), out).unwrap();
        let error = export(&trained, format, Options::default(), out).unwrap_err();
        assert!(
            matches!(error, ExportError::Exists { .. }) && error.to_string().contains("--force"),
            "{error}"
        );
        let forced = Options { fold_norms: true, force: true };
        export(&trained, format, forced, out).unwrap();
    }
    let source = fs::read_to_string(folder.join("model.py")).unwrap();
    assert!(!source.contains("BatchNorm"), "{source}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
}

/// A checkpoint as a trainer writes it, but for its weights, of which it has none.
fn checkpoint(folder: &Path, task: &Value, spoilt: bool) {
    let empty = BTreeMap::<String, TensorView<'_>>::new();
    let bytes = safetensors::serialize(empty, None).unwrap();
    let sha256 = hex::encode(sha2::Sha256::digest(&bytes));
    fs::create_dir_all(folder).unwrap();
    let stored = if spoilt { [bytes.as_slice(), b" "].concat() } else { bytes };
    fs::write(folder.join("weights.safetensors"), stored).unwrap();
    let manifest = json!({
        "format": 1, "step": 7, "job_sha256": "", "task": task, "libtorch": "", "device": "cpu",
        "files": [{"name": "weights.safetensors", "bytes": 0, "sha256": sha256}],
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

#[test]
fn a_checkpoint_that_is_damaged_or_of_another_network_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("step-000000007");
    let (mine, other) = (trained(encoder_decoder()).architecture, trained(p3d()).architecture);
    let task = json!({"retrain": {"architecture": mine}});
    checkpoint(&folder, &task, false);
    let read = Trained::from_checkpoint(&folder, Some(&mine)).unwrap();
    assert_eq!((read.step, read.architecture), (Some(7), mine.clone()));
    let problem = |architecture| Trained::from_checkpoint(&folder, architecture).unwrap_err().to_string();
    assert!(problem(Some(&other)).contains(&other.digest().to_string()));
    checkpoint(&folder, &task, true);
    assert!(problem(None).contains("damaged"));
    let supernet = json!({"supernet": {"backbone": mine.backbone(), "mode": "cost_priority",
        "kernels": ["3x3x3", "1x3x3"], "l1_strength": 0.1}});
    checkpoint(&folder, &supernet, false);
    assert!(problem(None).contains("retrained"));
}
