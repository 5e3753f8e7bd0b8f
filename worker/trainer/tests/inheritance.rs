//! Networks that start from a supernet, channel by channel.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{Backbone, BlockKind, EncoderDecoder, MiddleLayer, ResnetDepth, VolumeStem};
use cakes::frame::TrainerEvent;
use cakes::identity::ChannelIdentity;
use cakes::job::{Task, TrainerJob};
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{NodeId, SearchMode};
use cakes::spec::{ArrayKind, InitialWeights};
use cakes_trainer::TrainerError;
use cakes_trainer::checkpoint::Progress;
use cakes_trainer::checkpoint::snapshot::Snapshot;
use cakes_trainer::checkpoint::write::Place;
use cakes_trainer::nets::{Draws, Engine, LayerDraw, Net, Use};
use cakes_trainer::optim::Optimizer;
use cakes_trainer::weights::{Sources, start_from};
use common::jobs::{Manner, adam_w, bars_job, newest, run_job, write_bars};
use common::{difference, net_for, video, volume};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};
use tempfile::TempDir;

const EXTENT: [u32; 3] = [8, 12, 8];

fn encoder_decoder(block: BlockKind, topology: Vec<u32>) -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 2,
        classes: 3,
        base_width: 5,
        levels: 2,
        block,
        topology,
    })
}

/// Sums of one, two and three searchable layers, joins, bottlenecks, no sums.
fn backbones() -> Vec<Backbone> {
    vec![
        encoder_decoder(BlockKind::Residual, Vec::new()),
        encoder_decoder(BlockKind::Residual, vec![0, 0, 1, 1, 1, 0, 0]),
        encoder_decoder(BlockKind::Plain, Vec::new()),
        volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable),
        video(ResnetDepth::R50, MiddleLayer::Searchable),
    ]
}

/// Allocations at random, kernels without channels included.
fn architecture(backbone: &Backbone, kernels: &KernelSet, rng: &mut ChaCha8Rng) -> Architecture {
    let kernels: Vec<Kernel> = kernels.iter().collect();
    let layers = backbone.searchable_layers().into_iter().map(|layer| {
        let counts: Vec<(Kernel, u32)> =
            (0..layer.channels).map(|_| (kernels[rng.random_range(0..kernels.len())], 1)).collect();
        let channels = ChannelAllocation::new(layer.channels, counts).unwrap();
        LayerAllocation { layer: layer.name, channels }
    });
    Architecture::new(backbone.clone(), layers.collect::<Vec<_>>()).unwrap()
}

fn supernet_task(backbone: &Backbone, mode: SearchMode) -> Task {
    Task::Supernet {
        backbone: backbone.clone(),
        mode,
        kernels: KernelSet::volumetric(),
        l1_strength: 0.1,
        early_stop_validations: None,
    }
}

fn job(task: Task) -> TrainerJob {
    TrainerJob { initial_weights: InitialWeights::Supernet, ..bars_job(task, ArrayKind::Volume, 1) }
}

/// A supernet none of whose tensors is even, as after a training.
fn trained(task: &Task, rng: &mut ChaCha8Rng) -> Net {
    let net = net_for(task.network(), EXTENT, Engine::Direct);
    for (name, tensor) in net.state() {
        let values: Vec<f32> = (0..tensor.numel()).map(|_| rng.random_range(-0.5..0.5)).collect();
        let noise = Tensor::from_slice(&values).view(tensor.size().as_slice());
        let shifted = if name.contains(".norm.") { tensor + noise } else { tensor * (noise + 1.0) };
        tch::no_grad(|| tensor.shallow_clone().copy_(&shifted));
    }
    net
}

fn save(folder: &TempDir, task: &Task, net: &Net) -> PathBuf {
    let optimizer = Optimizer::new(adam_w(), net).unwrap();
    let progress = Progress { step: 7, early_stop: None };
    let job = bars_job(task.clone(), ArrayKind::Volume, 1);
    let snapshot = Snapshot::take(progress, net, &optimizer, None).unwrap();
    Place::new(folder.path().to_owned(), &job).write(&snapshot).unwrap().directory
}

/// The network of an architecture with the weights of a supernet's checkpoint.
fn started(architecture: &Architecture, supernet: &PathBuf) -> Result<Net, TrainerError> {
    let job = job(Task::Retrain { architecture: architecture.clone() });
    let net = net_for(job.task.network(), EXTENT, Engine::Direct);
    let sources = Sources { data_root: supernet, supernet: Some(supernet) };
    let notes = start_from(&job.initial_weights, sources, &job, &net)?;
    assert!(notes.len() == 1 && notes[0].contains("behind step 7"), "{notes:?}");
    Ok(net)
}

/// What keeps a network from a supernet's weights; it still has those that it was made with.
fn refused(architecture: &Architecture, supernet: &Path) -> TrainerError {
    let job = job(Task::Retrain { architecture: architecture.clone() });
    let [net, untouched] = [(); 2].map(|()| net_for(job.task.network(), EXTENT, Engine::Direct));
    let sources = Sources { data_root: supernet, supernet: Some(supernet) };
    let error = start_from(&job.initial_weights, sources, &job, &net).expect_err("must be refused");
    for ((name, tensor), (_, before)) in net.state().zip(untouched.state()) {
        assert!(tensor.equal(before), "'{name}' was written, but: {error}");
    }
    error
}

/// Gives a checkpoint other weights, of which its manifest tells.
fn alter(checkpoint: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = checkpoint.join("weights.safetensors");
    let mut weights: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(&path).unwrap().into_iter().collect();
    change(&mut weights);
    let list: Vec<(&str, &Tensor)> = weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&list, &path).unwrap();
    seal(checkpoint);
}

/// Lets the manifest of a checkpoint tell of the weights that are there.
fn seal(checkpoint: &Path) {
    let content = fs::read(checkpoint.join("weights.safetensors")).unwrap();
    retell(checkpoint, |manifest| {
        let files = manifest["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["name"] == "weights.safetensors").unwrap();
        file["bytes"] = json!(content.len());
        file["sha256"] = json!(hex::encode(Sha256::digest(&content)));
    });
}

fn retell(checkpoint: &Path, change: impl FnOnce(&mut Value)) {
    let path = checkpoint.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

fn output(net: &mut Net, draws: &Draws) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let ([d, h, w], channels) = (EXTENT.map(i64::from), i64::from(net.input_channels()));
    let values: Vec<f32> = (0..2 * channels * d * h * w).map(|_| rng.random_range(-2.0..2.0)).collect();
    let images = Tensor::from_slice(&values).view([2, channels, d, h, w]);
    tch::no_grad(|| net.forward(&images, Use::Evaluate(draws))).unwrap()
}

/// The identity, and by layer the channels in their places with their kernels'
/// positions.
fn places(
    supernet: &Net,
    architecture: &Architecture,
    mode: SearchMode,
) -> Vec<(LayerAllocation, Vec<(usize, usize)>)> {
    let kernels = KernelSet::volumetric();
    let scores = supernet.scores(architecture.backbone(), &kernels).unwrap();
    let identity = ChannelIdentity::new(architecture, &scores, mode).unwrap();
    let of_layer = |layer: LayerAllocation| {
        let node = identity.network().nodes.iter().position(|node| node.name == layer.layer).unwrap();
        let at = |kernel| kernels.iter().position(|own| own == kernel).unwrap();
        let of_place = layer.channels.iter().flat_map(|(kernel, count)| vec![at(kernel); count as usize]);
        let channels = identity.channels(NodeId(node)).iter().map(|channel| *channel as usize);
        let places = channels.zip(of_place).collect();
        (layer, places)
    };
    architecture.layers().map(of_layer).collect()
}

/// Through sums, joins, norms and classifiers: the same child, the same numbers.
#[test]
fn a_network_starts_as_the_child_that_it_was_in_a_performance_priority_supernet() {
    for (index, backbone) in backbones().into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
        let mode = SearchMode::PerformancePriority;
        let task = supernet_task(&backbone, mode);
        let mut supernet = trained(&task, &mut rng);
        let architecture = architecture(&backbone, &KernelSet::volumetric(), &mut rng);
        let folder = TempDir::new().unwrap();
        let mut net = started(&architecture, &save(&folder, &task, &supernet)).unwrap();
        let mut draws = Draws::new();
        for (layer, places) in places(&supernet, &architecture, mode) {
            let mut kernel_of_channel = vec![usize::MAX; places.len()];
            for (channel, kernel) in places {
                kernel_of_channel[channel] = kernel;
            }
            let draw = LayerDraw::new(kernel_of_channel, 7, Device::Cpu).unwrap();
            draws.layers.insert(layer.layer, draw);
        }
        let (was, is) = (output(&mut supernet, &draws), output(&mut net, &Draws::new()));
        assert!(difference(&was, &is) < 1e-5, "{backbone:?}: {}", difference(&was, &is));
    }
}

/// Candidates that are not kept have a scale and shift of zero, as L1 leaves them.
#[test]
fn a_network_starts_as_the_candidates_that_a_cost_priority_supernet_keeps() {
    for (index, backbone) in backbones().into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
        let mode = SearchMode::CostPriority;
        let task = supernet_task(&backbone, mode);
        let mut supernet = trained(&task, &mut rng);
        let architecture = architecture(&backbone, &KernelSet::volumetric(), &mut rng);
        let mut twice = 0;
        for (layer, places) in places(&supernet, &architecture, mode) {
            let width = places.len();
            let mut kept = vec![0_f32; 7 * width];
            for (channel, kernel) in &places {
                kept[kernel * width + channel] = 1.0;
            }
            let channels: std::collections::BTreeSet<usize> =
                places.iter().map(|(channel, _)| *channel).collect();
            twice += width - channels.len();
            let kept = Tensor::from_slice(&kept);
            for part in ["weight", "bias"] {
                let name = format!("{}.norm.{part}", layer.layer);
                let param = &supernet.params()[&name].tensor;
                tch::no_grad(|| param.shallow_clone().copy_(&(param * &kept)));
            }
        }
        assert!(twice > 0, "{backbone:?}: no channel was kept twice");
        let folder = TempDir::new().unwrap();
        let mut net = started(&architecture, &save(&folder, &task, &supernet)).unwrap();
        let (was, is) = (output(&mut supernet, &Draws::new()), output(&mut net, &Draws::new()));
        assert!(difference(&was, &is) < 1e-5, "{backbone:?}: {}", difference(&was, &is));
    }
}

#[test]
fn weights_that_do_not_fit_are_named_and_nothing_is_written() {
    let backbone = encoder_decoder(BlockKind::Residual, Vec::new());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let task = supernet_task(&backbone, SearchMode::PerformancePriority);
    let supernet = trained(&task, &mut rng);
    let folder = TempDir::new().unwrap();
    let checkpoint = save(&folder, &task, &supernet);
    let own = architecture(&backbone, &KernelSet::volumetric(), &mut rng);
    let refusal =
        |architecture: &Architecture, checkpoint: &Path| refused(architecture, checkpoint).to_string();

    let other = encoder_decoder(BlockKind::Plain, Vec::new());
    let other = architecture(&other, &KernelSet::volumetric(), &mut rng);
    assert!(refusal(&other, &checkpoint).contains("backbone"));
    let pointwise = Architecture::even(backbone.clone(), &[Kernel::K333, Kernel::K111]).unwrap();
    assert!(refusal(&pointwise, &checkpoint).contains("no 1x1x1"));

    let retrained = Task::Retrain { architecture: own.clone() };
    let elsewhere = TempDir::new().unwrap();
    let net = net_for(retrained.network(), EXTENT, Engine::Direct);
    assert!(refusal(&own, &save(&elsewhere, &retrained, &net)).contains("is of a retraining"));

    // A network of other layers under the supernet's name.
    let elsewhere = TempDir::new().unwrap();
    let narrow = Backbone::EncoderDecoder(match &backbone {
        Backbone::EncoderDecoder(config) => EncoderDecoder { classes: 4, ..config.clone() },
        _ => unreachable!(),
    });
    let foreign = trained(&supernet_task(&narrow, SearchMode::PerformancePriority), &mut rng);
    let error = refusal(&own, &save(&elsewhere, &task, &foreign));
    assert!(error.contains("'head.weight' is [4, 5, 1, 1, 1]") && error.contains("has 3"), "{error}");
    let elsewhere = TempDir::new().unwrap();
    let error = refusal(&own, &save(&elsewhere, &task, &net));
    assert!(error.contains("encoder.0.conv1") && error.contains("7 lists of 5 scores"), "{error}");

    fs::remove_file(checkpoint.join("weights.safetensors")).unwrap();
    assert!(refusal(&own, &checkpoint).contains("weights.safetensors"));
    let job = job(Task::Retrain { architecture: own });
    let net = net_for(job.task.network(), EXTENT, Engine::Direct);
    let sources = Sources { data_root: folder.path(), supernet: None };
    let error = start_from(&job.initial_weights, sources, &job, &net).unwrap_err().to_string();
    assert!(error.contains("--supernet"), "{error}");
}

/// A supernet of the same layers whose checkpoint was changed by somebody.
#[test]
fn names_that_are_missing_or_unknown_and_shapes_that_are_others_are_listed() {
    let backbone = encoder_decoder(BlockKind::Residual, Vec::new());
    let task = supernet_task(&backbone, SearchMode::PerformancePriority);
    let supernet = trained(&task, &mut ChaCha8Rng::seed_from_u64(6));
    let own = Architecture::even(backbone, &[Kernel::K333, Kernel::K133]).unwrap();
    let folder = TempDir::new().unwrap();
    let refusal = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let checkpoint = save(&folder, &task, &supernet);
        alter(&checkpoint, change);
        let error = refused(&own, &checkpoint);
        assert!(matches!(error, TrainerError::User(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(&checkpoint.display().to_string()), "{error}");
        error
    };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (tch::Kind::Float, Device::Cpu));
    let first = "encoder.0.conv1.3x3x3.weight";

    let error = refusal(&|weights| {
        drop(weights.remove(first).unwrap());
        drop(weights.remove("head.bias").unwrap());
    });
    assert!(error.contains(&format!("it lacks '{first}', 'head.bias'")), "{error}");
    let error = refusal(&|weights| {
        drop(weights.remove("encoder.0.conv1.norm.weight").unwrap());
    });
    assert!(error.contains("lacks 'encoder.0.conv1.norm.weight'"), "{error}");
    // Two kernels in six layers; the first eight of them are named.
    let error = refusal(&|weights| {
        weights.retain(|name, _| ![".3x3x3.weight", ".1x3x3.weight"].iter().any(|end| name.ends_with(end)));
    });
    assert!(error.matches("x3x3.weight'").count() == 8 && error.contains(" and 4 more"), "{error}");

    let error = refusal(&|weights| {
        weights.insert("encoder.0.conv1.5x5x5.weight".into(), zeros(&[5, 5, 5, 5, 5]));
        weights.insert("fc.weight".into(), zeros(&[3, 5]));
    });
    assert!(error.contains("the network has no 'encoder.0.conv1.5x5x5.weight', 'fc.weight'"), "{error}");

    // Rows, columns and taps.
    for (shape, problem) in [
        ([6, 5, 3, 3, 3], format!("'{first}' is [6, 5, 3, 3, 3], the supernet's layer has 5 of 5 channels")),
        ([5, 4, 3, 3, 3], format!("'{first}' is [5, 4, 3, 3, 3], the supernet's layer has 5 of 5 channels")),
        ([5, 5, 1, 3, 3], format!("'{first}' would be [3, 5, 1, 3, 3]")),
    ] {
        let error = refusal(&|weights| drop(weights.insert(first.into(), zeros(&shape))));
        assert!(error.contains(&problem), "{error}");
    }

    let error = refusal(&|weights| {
        drop(weights.remove("head.bias").unwrap());
        weights.insert("fc.bias".into(), zeros(&[3]));
        weights.insert("stem.weight".into(), zeros(&[5, 1, 3, 3, 3]));
    });
    for part in ["lacks 'head.bias'", "no 'fc.bias'", "'stem.weight' is [5, 1, 3, 3, 3]", "5 of 2 channels"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_no_checkpoint_of_a_supernet_is_refused_by_its_file() {
    let backbone = encoder_decoder(BlockKind::Residual, Vec::new());
    let task = supernet_task(&backbone, SearchMode::PerformancePriority);
    let supernet = trained(&task, &mut ChaCha8Rng::seed_from_u64(7));
    let own = Architecture::even(backbone, &[Kernel::K333]).unwrap();
    let folder = TempDir::new().unwrap();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 7] = [
        ("weights.safetensors is not what manifest.json says", &|checkpoint| {
            let path = checkpoint.join("weights.safetensors");
            let content = fs::read(&path).unwrap();
            fs::write(path, &content[..content.len() / 2]).unwrap();
        }),
        // A pickle, of which the manifest tells.
        ("weights.safetensors: ", &|checkpoint| {
            fs::write(checkpoint.join("weights.safetensors"), b"\x80\x02}q\x00.").unwrap();
            seal(checkpoint);
        }),
        ("no manifest.json", &|checkpoint| fs::remove_file(checkpoint.join("manifest.json")).unwrap()),
        ("manifest.json: ", &|checkpoint| fs::write(checkpoint.join("manifest.json"), "{").unwrap()),
        ("has format 2, this trainer reads 1", &|checkpoint| {
            retell(checkpoint, |manifest| manifest["format"] = json!(2));
        }),
        ("does not list weights.safetensors", &|checkpoint| {
            retell(checkpoint, |manifest| manifest["files"] = json!([]));
        }),
        ("was written by an older version", &|checkpoint| {
            retell(checkpoint, |manifest| drop(manifest.as_object_mut().unwrap().remove("task")));
        }),
    ];
    for (problem, damage) in damages {
        let checkpoint = save(&folder, &task, &supernet);
        damage(&checkpoint);
        let error = refused(&own, &checkpoint).to_string();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains(&checkpoint.display().to_string()), "{error}");
    }
    // The file in place of its folder.
    let file = save(&folder, &task, &supernet).join("weights.safetensors");
    assert!(refused(&own, &file).to_string().contains("weights.safetensors: no manifest.json"));
}

/// Whole jobs: a supernet, and a retraining that goes on from it and is resumed
/// without it.
#[test]
fn a_retraining_starts_from_the_checkpoint_of_its_search() {
    let folder = TempDir::new().unwrap();
    write_bars(&folder.path().join("bars"), None);
    let backbone = volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable);
    let Backbone::VolumeResnet(config) = backbone else { panic!() };
    let backbone = Backbone::VolumeResnet(cakes::backbone::VolumeResnet { classes: 3, ..config });
    let search = bars_job(supernet_task(&backbone, SearchMode::PerformancePriority), ArrayKind::Volume, 2);
    run_job(&folder.path().join("search"), folder.path(), &search, Manner::default()).unwrap();
    let supernet = newest(&folder.path().join("search"));
    let architecture = architecture(&backbone, &KernelSet::volumetric(), &mut ChaCha8Rng::seed_from_u64(1));
    let job = TrainerJob {
        initial_weights: InitialWeights::Supernet,
        ..bars_job(Task::Retrain { architecture }, ArrayKind::Volume, 2)
    };
    let run = |name: &str, manner: Manner| run_job(&folder.path().join(name), folder.path(), &job, manner);
    let inherits = || Manner { supernet: Some(supernet.clone()), ..Manner::default() };
    let first_loss = |events: &[TrainerEvent]| {
        events.iter().find_map(|event| match event {
            TrainerEvent::Step { loss, .. } => Some(*loss),
            _ => None,
        })
    };
    let heir = run("heir", inherits()).unwrap();
    assert!(heir.notes.iter().any(|note| note.contains("performance-priority supernet behind step 2")));
    let random = TrainerJob { initial_weights: InitialWeights::Random, ..job.clone() };
    let random = run_job(&folder.path().join("random"), folder.path(), &random, Manner::default()).unwrap();
    assert_ne!(first_loss(&heir.events), first_loss(&random.events));
    let error = run("nothing", Manner::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("--supernet"), "{error}");
    // What is resumed has its weights.
    let resume = Manner { resume: Some(newest(&folder.path().join("heir"))), ..Manner::default() };
    run("heir", resume).unwrap();
}
