//! Weights of a 2D ResNet in networks for clips and volumes.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, MiddleLayer, ResnetDepth, VideoResnet, VolumeResnet, VolumeStem};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{Network, SearchMode};
use cakes::spec::{ArrayKind, InitialWeights};
use cakes_trainer::TrainerError;
use cakes_trainer::nets::{Draws, Engine, Net, Use};
use cakes_trainer::weights::{Sources, start_from};
use common::jobs::bars_job;
use common::{difference, net_for};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};
use tempfile::TempDir;

const WIDTH: i64 = 4;
const EXTENT: [u32; 3] = [3, 32, 32];

fn random(shape: &[i64], rng: &mut ChaCha8Rng) -> Tensor {
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-0.5..0.5)).collect();
    Tensor::from_slice(&values).view(shape)
}

/// A 2D ResNet under torchvision's names, with its counters of batches.
fn resnet(depth: ResnetDepth, width: i64, classes: i64) -> BTreeMap<String, Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut all = BTreeMap::new();
    let (blocks, expansion) = match depth {
        ResnetDepth::R18 => ([2, 2, 2, 2], 1),
        ResnetDepth::R50 => ([3, 4, 6, 3], 4),
        ResnetDepth::R101 => ([3, 4, 23, 3], 4),
    };
    let mut conv = |conv: &str, bn: &str, outputs: i64, inputs: i64, size: i64| {
        all.insert(format!("{conv}.weight"), random(&[outputs, inputs, size, size], &mut rng));
        for part in ["weight", "bias", "running_mean"] {
            all.insert(format!("{bn}.{part}"), random(&[outputs], &mut rng) + 0.6);
        }
        all.insert(format!("{bn}.running_var"), random(&[outputs], &mut rng) + 1.0);
        all.insert(format!("{bn}.num_batches_tracked"), Tensor::from(7_i64));
    };
    conv("conv1", "bn1", width, 3, 7);
    let mut channels = width;
    for (stage, count) in blocks.into_iter().enumerate() {
        let middle = width << stage;
        for block in 0..count {
            let prefix = format!("layer{}.{block}", stage + 1);
            let layers: Vec<(i64, i64, i64)> = if expansion == 4 {
                vec![(middle, channels, 1), (middle, middle, 3), (4 * middle, middle, 1)]
            } else {
                vec![(middle, channels, 3), (middle, middle, 3)]
            };
            for (number, (outputs, inputs, size)) in layers.into_iter().enumerate() {
                let number = number + 1;
                conv(
                    &format!("{prefix}.conv{number}"),
                    &format!("{prefix}.bn{number}"),
                    outputs,
                    inputs,
                    size,
                );
            }
            if block == 0 && (stage > 0 || channels != middle * expansion) {
                let name = format!("{prefix}.downsample");
                conv(&format!("{name}.0"), &format!("{name}.1"), middle * expansion, channels, 1);
            }
            channels = middle * expansion;
        }
    }
    all.insert("fc.weight".into(), random(&[classes, channels], &mut rng));
    all.insert("fc.bias".into(), random(&[classes], &mut rng));
    all
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let list: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&list, path).unwrap();
}

fn video(depth: ResnetDepth, classes: u32, middle: MiddleLayer) -> VideoResnet {
    VideoResnet { input_channels: 3, classes, depth, base_width: WIDTH as u32, dropout_percent: 0, middle }
}

fn uniform(config: VideoResnet, kernel: Kernel) -> Task {
    Task::Retrain { architecture: Architecture::even(Backbone::VideoResnet(config), &[kernel]).unwrap() }
}

/// The network of a task with the weights of a file of `stored`.
fn started(task: Task, stored: &BTreeMap<String, Tensor>) -> Result<(Net, Vec<String>), TrainerError> {
    let root = TempDir::new().unwrap();
    write(&root.path().join("resnet.safetensors"), stored);
    let job: TrainerJob = bars_job(task, ArrayKind::Video, 1);
    let net = net_for(job.task.network(), EXTENT, Engine::Direct);
    let initial = InitialWeights::Imagenet { path: "resnet.safetensors".into() };
    let notes = start_from(&initial, below(&root), &job, &net)?;
    Ok((net, notes))
}

fn below(root: &TempDir) -> Sources<'_> {
    Sources { data_root: root.path(), supernet: None }
}

fn state(net: &Net) -> BTreeMap<String, Tensor> {
    net.state().map(|(name, tensor)| (name.clone(), tensor.detach())).collect()
}

fn same(left: &Tensor, right: &Tensor) -> bool {
    left.size() == right.size() && difference(left, right) < 1e-6
}

#[test]
fn every_channel_keeps_its_place_in_a_derived_network() {
    let stored = resnet(ResnetDepth::R50, WIDTH, 4);
    let kernels = [Kernel::K333, Kernel::K133, Kernel::K311];
    let backbone = Backbone::VideoResnet(video(ResnetDepth::R50, 4, MiddleLayer::Searchable));
    let architecture = Architecture::even(backbone, &kernels).unwrap();
    let allocation = architecture.layers().next().unwrap().channels;
    assert_eq!([2, 1, 1], kernels.map(|kernel| allocation.count(kernel)));
    let (net, notes) = started(Task::Retrain { architecture }, &stored).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    let own = state(&net);
    let filters = &stored["layer1.0.conv2.weight"];
    let name = |kernel: &str| format!("stage1.0.conv2.{kernel}.weight");
    for tap in 0..3 {
        let plane = own[&name("3x3x3")].select(2, tap);
        assert!(same(&plane, &(filters.narrow(0, 0, 2) / 3.0)));
        let plane = own[&name("3x1x1")].select(2, tap).squeeze();
        let summed = filters.narrow(0, 3, 1).sum_dim_intlist([2_i64, 3].as_slice(), false, None) / 3.0;
        assert!(same(&plane, &summed.squeeze()));
    }
    assert!(same(&own[&name("1x3x3")].select(2, 0), &filters.narrow(0, 2, 1)));
    for (ours, theirs) in [
        ("stem.weight", "conv1.weight"),
        ("stage4.2.conv3.weight", "layer4.2.conv3.weight"),
        ("stage2.0.shortcut.weight", "layer2.0.downsample.0.weight"),
    ] {
        assert!(same(&own[ours].select(2, 0), &stored[theirs]), "{ours}");
    }
    for (ours, theirs) in [
        ("stem.norm.running_mean", "bn1.running_mean"),
        ("stage1.0.conv2.norm.weight", "layer1.0.bn2.weight"),
        ("stage3.5.conv3.norm.running_var", "layer3.5.bn3.running_var"),
        ("stage2.0.shortcut.norm.bias", "layer2.0.downsample.1.bias"),
        ("head.weight", "fc.weight"),
        ("head.bias", "fc.bias"),
    ] {
        assert!(same(&own[ours], &stored[theirs]), "{ours}");
    }
}

/// Any kernel: what it lacks along H and W is summed, what it has along D shared.
#[test]
fn every_kernel_answers_a_constant_input_as_its_filter_does() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 4);
    let total = |weight: &Tensor| weight.sum_dim_intlist([-1_i64, -2].as_slice(), false, None);
    for kernel in Kernel::ALL {
        let task = uniform(video(ResnetDepth::R18, 4, MiddleLayer::Searchable), kernel);
        let (net, _) = started(task, &stored).unwrap();
        let weight = &state(&net)[&format!("stage3.1.conv2.{kernel}.weight")];
        assert_eq!(weight.size()[2..], kernel.size().map(i64::from));
        let sum = total(weight).sum_dim_intlist([-1_i64].as_slice(), false, None);
        assert!(difference(&sum, &total(&stored["layer3.1.conv2.weight"])) < 1e-5, "{kernel}");
    }
}

/// The network without its head, and the output of a frame in the middle.
fn features(task: &Task, stored: &BTreeMap<String, Tensor>, clip: &Tensor) -> Tensor {
    let (mut net, _) = started(task.clone(), stored).unwrap();
    let network = task.network();
    let end = network.nodes.iter().position(|node| node.name == "stage2.0.relu").unwrap();
    let cut = Network { nodes: network.nodes[..=end].to_vec() };
    let short = net_for(cut, EXTENT, Engine::Direct);
    let all = state(&net);
    tch::no_grad(|| {
        for (name, tensor) in short.state() {
            tensor.shallow_clone().copy_(&all[name]);
        }
    });
    net = short;
    let output = tch::no_grad(|| net.forward(clip, Use::Evaluate(&Draws::new())).unwrap());
    output.select(2, output.size()[2] / 2)
}

/// Zero padding in time reaches as many frames from either end as there are
/// temporal layers; between them a clip that stands still is its frame.
#[test]
fn a_clip_that_stands_still_gives_what_the_2d_network_gives_for_its_frame() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 4);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let frame = random(&[2, 3, 1, 32, 32], &mut rng);
    let config = || video(ResnetDepth::R18, 4, MiddleLayer::Searchable);
    let flat = features(&uniform(config(), Kernel::K133), &stored, &frame);
    let still = frame.repeat([1, 1, 15, 1, 1]);
    let c3d = features(&uniform(config(), Kernel::K333), &stored, &still);
    assert!(difference(&flat, &c3d) < 1e-4, "{}", difference(&flat, &c3d));
    let backbone = Backbone::VideoResnet(video(ResnetDepth::R18, 4, MiddleLayer::P3d));
    let p3d = Task::Retrain { architecture: Architecture::new(backbone, []).unwrap() };
    // The identity looks at no other frame, so the clip need not stand still.
    let moving = random(&[2, 3, 3, 32, 32], &mut rng);
    let p3d = features(&p3d, &stored, &moving);
    let flat = features(&uniform(config(), Kernel::K133), &stored, &moving.narrow(2, 1, 1));
    assert!(difference(&flat, &p3d) < 1e-5, "{}", difference(&flat, &p3d));
}

/// The first block by libtorch's own 2D layers.
#[test]
fn the_2d_network_is_torchvisions() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 4);
    let frame = random(&[2, 3, 1, 32, 32], &mut ChaCha8Rng::seed_from_u64(1));
    let config = video(ResnetDepth::R18, 4, MiddleLayer::Searchable);
    let ours = features(&uniform(config, Kernel::K133), &stored, &frame);
    let conv = |x: &Tensor, name: &str, stride: i64| {
        let weight = &stored[&format!("{name}.weight")];
        let padding = weight.size()[2] / 2;
        x.conv2d(weight, None::<&Tensor>, [stride; 2], [padding; 2], [1; 2], 1)
    };
    let norm = |x: &Tensor, name: &str| {
        let part = |part: &str| Some(&stored[&format!("{name}.{part}")]);
        let (mean, variance) = (part("running_mean"), part("running_var"));
        x.batch_norm(part("weight"), part("bias"), mean, variance, false, 0.1, 1e-5, false)
    };
    let block = |x: &Tensor, prefix: &str, stride: i64| {
        let y = norm(&conv(x, &format!("{prefix}.conv1"), stride), &format!("{prefix}.bn1")).relu();
        let y = norm(&conv(&y, &format!("{prefix}.conv2"), 1), &format!("{prefix}.bn2"));
        let name = format!("{prefix}.downsample");
        let shortcut = match stride {
            1 => x.shallow_clone(),
            _ => norm(&conv(x, &format!("{name}.0"), stride), &format!("{name}.1")),
        };
        (y + shortcut).relu()
    };
    let x = norm(&conv(&frame.squeeze_dim(2), "conv1", 2), "bn1").relu();
    let x = x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false);
    let x = block(&block(&x, "layer1.0", 1), "layer1.1", 1);
    let theirs = block(&x, "layer2.0", 2);
    assert!(difference(&theirs, &ours) < 1e-5, "{}", difference(&theirs, &ours));
}

#[test]
fn supernets_start_with_every_filter_for_every_kernel() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 4);
    let kernels = KernelSet::new([Kernel::K333, Kernel::K133, Kernel::K311]).unwrap();
    for mode in [SearchMode::CostPriority, SearchMode::PerformancePriority] {
        let task = Task::Supernet {
            backbone: Backbone::VideoResnet(video(ResnetDepth::R18, 4, MiddleLayer::Searchable)),
            mode,
            kernels: kernels.clone(),
            l1_strength: 0.1,
            early_stop_validations: None,
        };
        let (net, _) = started(task, &stored).unwrap();
        let own = state(&net);
        let filters = &stored["layer1.0.conv1.weight"];
        assert!(same(&own["stage1.0.conv1.1x3x3.weight"].select(2, 0), filters));
        assert!(same(&own["stage1.0.conv1.3x3x3.weight"].select(2, 1), &(filters / 3.0)));
        let share = if mode == SearchMode::CostPriority { 1.0 / 3.0 } else { 1.0 };
        let scale = stored["layer1.0.bn1.weight"].repeat([3]) * share;
        assert!(same(&own["stage1.0.conv1.norm.weight"], &scale));
        let mean = stored["layer1.0.bn1.running_mean"].repeat([3]);
        assert!(same(&own["stage1.0.conv1.norm.running_mean"], &mean));
    }
}

/// One candidate three times over, so that the sum over candidates is the layer.
#[test]
fn a_cost_priority_supernet_of_equal_candidates_computes_the_2d_network() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 4);
    let frame = random(&[2, 3, 1, 32, 32], &mut ChaCha8Rng::seed_from_u64(1));
    let config = || video(ResnetDepth::R18, 4, MiddleLayer::Searchable);
    let flat = features(&uniform(config(), Kernel::K133), &stored, &frame);
    let supernet = Task::Supernet {
        backbone: Backbone::VideoResnet(config()),
        mode: SearchMode::CostPriority,
        kernels: KernelSet::new([Kernel::K333, Kernel::K133]).unwrap(),
        l1_strength: 0.1,
        early_stop_validations: None,
    };
    let still = frame.repeat([1, 1, 15, 1, 1]);
    let summed = features(&supernet, &stored, &still);
    assert!(difference(&flat, &summed) < 1e-4, "{}", difference(&flat, &summed));
}

#[test]
fn grey_input_and_other_classes_are_served_and_said() {
    let stored = resnet(ResnetDepth::R18, WIDTH, 1000);
    let grey = VideoResnet { input_channels: 1, ..video(ResnetDepth::R18, 4, MiddleLayer::Searchable) };
    let (net, notes) = started(uniform(grey, Kernel::K333), &stored).unwrap();
    let own = state(&net);
    let summed = stored["conv1.weight"].sum_dim_intlist([1_i64].as_slice(), true, None);
    assert!(same(&own["stem.weight"].select(2, 0), &summed));
    assert!(notes.len() == 1 && notes[0].contains("4 classes") && notes[0].contains("1000"), "{notes:?}");
    let volume = |stem| VolumeResnet {
        input_channels: 1,
        classes: 1000,
        depth: ResnetDepth::R18,
        base_width: WIDTH as u32,
        dropout_percent: 0,
        stem,
        middle: MiddleLayer::Searchable,
    };
    let task = |stem| {
        let backbone = Backbone::VolumeResnet(volume(stem));
        Task::Retrain { architecture: Architecture::even(backbone, &[Kernel::K333]).unwrap() }
    };
    let (net, notes) = started(task(VolumeStem::Wide), &stored).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert!(same(&state(&net)["stem.weight"].select(2, 3), &(&summed / 7.0)));
    let (net, notes) = started(task(VolumeStem::Compact), &stored).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("stem stays random"), "{notes:?}");
    let fresh = net_for(task(VolumeStem::Compact).network(), EXTENT, Engine::Direct);
    for name in ["stem.weight", "stem.norm.weight", "stem.norm.running_mean"] {
        assert!(state(&net)[name].equal(&state(&fresh)[name]), "{name}");
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let task = || uniform(video(ResnetDepth::R18, 4, MiddleLayer::Searchable), Kernel::K333);
    let sound = resnet(ResnetDepth::R18, WIDTH, 4);
    let refusal = |stored: &BTreeMap<String, Tensor>| match started(task(), stored) {
        Err(error @ TrainerError::User(_)) => error.to_string(),
        other => panic!("{:?}", other.map(|(_, notes)| notes)),
    };
    let error = refusal(&resnet(ResnetDepth::R50, WIDTH, 4));
    for part in ["resnet.safetensors", "has no", "layer1.0.conv3.weight", "more"] {
        assert!(error.contains(part), "{error}");
    }
    let error = refusal(&resnet(ResnetDepth::R18, 2 * WIDTH, 4));
    assert!(error.contains("'conv1.weight' is [8, 3, 7, 7]") && error.contains("4 filters"), "{error}");
    let mut stored = sound.clone_all();
    stored.remove("layer2.1.bn2.bias");
    stored.insert("extra.weight".into(), Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)));
    let error = refusal(&stored);
    assert!(error.contains("lacks 'layer2.1.bn2.bias'") && error.contains("no 'extra.weight'"), "{error}");
    let mut stored = sound.clone_all();
    stored.insert("fc.bias".into(), Tensor::from_slice(&[f32::NAN; 4]));
    assert!(refusal(&stored).contains("'fc.bias' holds values that are not finite"));
    stored.insert("fc.bias".into(), Tensor::from_slice(&[0.0_f64; 4]));
    assert!(refusal(&stored).contains("32-bit"));
}

trait CloneAll {
    fn clone_all(&self) -> Self;
}

impl CloneAll for BTreeMap<String, Tensor> {
    fn clone_all(&self) -> Self {
        self.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }
}

#[test]
fn a_file_that_is_none_is_refused_before_anything_is_trained() {
    let root = TempDir::new().unwrap();
    let job = bars_job(
        uniform(video(ResnetDepth::R18, 4, MiddleLayer::Searchable), Kernel::K333),
        ArrayKind::Video,
        1,
    );
    let net = net_for(job.task.network(), EXTENT, Engine::Direct);
    let path = root.path().join("w.safetensors");
    let refusal = || {
        let initial = InitialWeights::Imagenet { path: path.display().to_string() };
        start_from(&initial, below(&root), &job, &net).unwrap_err().to_string()
    };
    assert!(refusal().contains("cannot be opened"));
    std::fs::write(&path, b"\x80\x02}q\x00.").unwrap();
    assert!(refusal().contains("no safetensors file"));
    let random = start_from(&InitialWeights::Random, below(&root), &job, &net).unwrap();
    assert_eq!(random, Vec::<String>::new());
}
