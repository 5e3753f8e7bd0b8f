//! Several processes that train one network: what they compute is what one computes with
//! the whole batch, and one that dies or is asked to stop ends the training of all.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, MiddleLayer, ResnetDepth, VolumeStem};
use cakes::frame::{RANKS_GONE, TrainerEvent, decode};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::network::{Network, SearchMode};
use cakes::spec::{ArrayKind, BatchStatistics, OptimizerSpec};
use cakes_ranks::{Group, Meeting, Seat};
use cakes_trainer::loss::{classification_loss, segmentation_loss_over};
use cakes_trainer::nets::{Engine, Method, Methods, Net};
use cakes_trainer::ranks::{Ranks, Share};
use common::jobs::{bars_job, bits, newest, phantoms_job, write_bars};
use common::judge::length;
use common::{EXTENT, batch_of, net_for, samples_of, supernet, uniform, video, volume};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tch::{Kind, Tensor};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

/// Loss, gradients and running statistics of one step.
type Found = (f64, BTreeMap<String, Tensor>);

/// A batch, which threads can share, and how to judge what a network makes of it.
struct Batch {
    images: Vec<f32>,
    labels: Vec<i64>,
    image_shape: Vec<i64>,
    label_shape: Vec<i64>,
}

impl Batch {
    fn new((images, labels): (Tensor, Tensor)) -> Self {
        Batch {
            image_shape: images.size(),
            label_shape: labels.size(),
            images: Vec::try_from(images.reshape([-1])).unwrap(),
            labels: Vec::try_from(labels.reshape([-1])).unwrap(),
        }
    }

    /// What one process finds: its share of the loss, and what all of them together find
    /// of the others.
    fn step(&self, mut net: Net, ranks: Option<&Arc<Ranks>>) -> Found {
        let size = self.image_shape[0] as u32;
        let share = ranks.map_or(Share::whole(size), |ranks| ranks.share());
        let own = |tensor: Tensor| tensor.narrow(0, share.first as i64, share.count as i64);
        let images = own(Tensor::from_slice(&self.images).view(self.image_shape.as_slice()));
        let labels = own(Tensor::from_slice(&self.labels).view(self.label_shape.as_slice()));
        let kind = net.params().values().next().map_or(Kind::Float, |param| param.tensor.kind());
        net = net.with_ranks(ranks.cloned());
        let draws = net.draw(1, 2).unwrap();
        let loss = |output: &Tensor| {
            let loss = match self.label_shape.len() {
                1 => classification_loss(output, &labels),
                _ => segmentation_loss_over(ranks.map(Arc::as_ref), output, &labels),
            };
            Ok(loss? * share.weight())
        };
        let (loss, mut found) = net.gradients(&images.to_kind(kind), &draws, loss).unwrap();
        for (name, tensor) in net.state().filter(|(name, _)| name.contains("running")) {
            found.insert(name.clone(), tensor.copy());
        }
        (loss, found)
    }

    /// What `size` processes find, by rank.
    fn step_of(&self, size: u32, statistics: BatchStatistics, make: &(dyn Fn() -> Net + Sync)) -> Vec<Found> {
        let (tell, told) = channel();
        let batch_size = self.image_shape[0] as u32;
        let one = |rank: u32, meeting: Meeting| {
            let group = Group::join(meeting, Seat::new(rank, size).unwrap(), LIMIT).unwrap();
            let ranks = Ranks::new(group, batch_size, statistics).unwrap();
            self.step(make(), Some(&Arc::new(ranks)))
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let meeting = Meeting::host("127.0.0.1", LIMIT).unwrap();
                (1..size).for_each(|_| tell.send(meeting.port()).unwrap());
                one(0, meeting)
            });
            let others = (1..size).zip(&told).map(|(rank, port)| {
                let one = &one;
                scope.spawn(move || one(rank, Meeting::visit("127.0.0.1", port, LIMIT).unwrap()))
            });
            let others: Vec<_> = others.collect();
            std::iter::once(first).chain(others).map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// Compares a step of one process with one of several, and those with each other.
fn is_the_step_of_one(what: &str, batch: &Batch, size: u32, tolerance: f64, make: &(dyn Fn() -> Net + Sync)) {
    let (loss, whole) = batch.step(make(), None);
    let several = batch.step_of(size, BatchStatistics::Synchronised, make);
    let sum: f64 = several.iter().map(|(loss, _)| loss).sum();
    assert!((sum - loss).abs() <= tolerance * loss.abs().max(1.0), "{what}: loss {sum}, not {loss}");
    let longest = whole.values().map(length).fold(0.0, f64::max);
    for (name, expected) in &whole {
        let found = &several[0].1[name];
        for (rank, (_, other)) in several.iter().enumerate() {
            assert_eq!(found, &other[name], "{what}: {name} differs at rank {rank}");
        }
        // What a norm takes away again has no gradient but what rounding leaves.
        let scale = length(expected).max(1e-3 * longest);
        let apart = length(&(found - expected)) / scale;
        assert!(apart <= tolerance, "{what}: {name} is {apart} apart");
    }
}

/// In float64 nothing but the order of sums is different.
#[test]
fn a_step_of_several_processes_is_that_of_one() {
    let segmentation = |samples: i64| Batch::new(batch_of(EXTENT, samples, 0));
    let networks: [(&str, Network); 3] = [
        ("planes", uniform(Kernel::K133)),
        ("cost priority", supernet(SearchMode::CostPriority)),
        ("performance priority", supernet(SearchMode::PerformancePriority)),
    ];
    for (what, network) in &networks {
        for (size, samples) in [(2, 4), (3, 5)] {
            let make = |engine| net_for(network.clone(), EXTENT, engine);
            let double = || make(Engine::Torch).in_double().unwrap();
            // One method for all shapes: where a value is next to nothing, other sums round it to
            // the other side of an activation's bend, and a gradient jumps. By rows one does.
            let direct = || make(Engine::Direct).with_methods(Methods::only(Method::Blocked));
            is_the_step_of_one(&format!("{what}, float64"), &segmentation(samples), size, 1e-10, &double);
            is_the_step_of_one(&format!("{what}, loops"), &segmentation(samples), size, 1e-5, &direct);
        }
    }
}

/// Theirs have dropouts, of which each process must drop what belongs to its samples.
#[test]
fn dropouts_and_classes_are_shared_too() {
    for (backbone, extent) in [
        (video(ResnetDepth::R18, MiddleLayer::Searchable), [4, 33, 37]),
        (volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable), [17, 19, 18]),
    ] {
        let batch = Batch::new(samples_of(&backbone, extent, 0));
        let network = Architecture::even(backbone, &[Kernel::K333, Kernel::K133]).unwrap().network();
        let double = || net_for(network.clone(), extent, Engine::Torch).in_double().unwrap();
        is_the_step_of_one("classes, float64", &batch, 3, 1e-9, &double);
    }
}

#[test]
fn statistics_of_their_own_differ_and_gradients_are_summed_all_the_same() {
    let batch = Batch::new(batch_of(EXTENT, 4, 0));
    let make = || net_for(uniform(Kernel::K133), EXTENT, Engine::Direct);
    let found = batch.step_of(2, BatchStatistics::Local, &make);
    for (name, first) in &found[0].1 {
        assert_eq!(first == &found[1].1[name], !name.contains("running"), "{name}");
    }
}

#[test]
fn more_processes_than_samples_and_a_missing_one_are_refused() {
    let short = Duration::from_secs(2);
    let meeting = Meeting::host("127.0.0.1", short).unwrap();
    let error = Group::join(meeting, Seat::new(0, 2).unwrap(), short).unwrap_err();
    assert!(error.to_string().contains("meet the other ranks"), "{error}");
    assert!(Seat::new(2, 2).is_err());
    let alone =
        Group::join(Meeting::host("127.0.0.1", LIMIT).unwrap(), Seat::new(0, 1).unwrap(), LIMIT).unwrap();
    assert!(Ranks::new(alone, 0, BatchStatistics::Local).is_err());
}

/// A job of both kinds of data: segmentation with drawn kernels, and classes.
fn jobs(root: &Path, steps: u32) -> [TrainerJob; 2] {
    write_bars(&root.join("bars"), None);
    let supernet = phantoms_job(4, steps, 0.0, None);
    let backbone = volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable);
    let Backbone::VolumeResnet(mut resnet) = backbone else { panic!("a ResNet for volumes") };
    resnet.classes = 3;
    let architecture =
        Architecture::even(Backbone::VolumeResnet(resnet), &[Kernel::K333, Kernel::K133]).unwrap();
    let classes = bars_job(Task::Retrain { architecture }, ArrayKind::Volume, steps);
    [supernet, classes].map(|mut job| {
        job.training.optimizer =
            OptimizerSpec::Sgd { learning_rate: 0.01, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
        job.training.batch_size = 4;
        job
    })
}

fn trainer(root: &Path, job: &TrainerJob, out: &str, devices: u32, more: &[&str]) -> Command {
    let mut job = job.clone();
    job.training.devices = devices;
    let file = root.join(format!("{out}.json"));
    fs::write(&file, serde_json::to_vec(&job).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-trainer"));
    command.arg("run").arg(file).arg("--out").arg(root.join(out)).arg("--data-root").arg(root);
    command.arg("--cache-dir").arg(root.join("cache")).args(["--threads", "2"]).args(more);
    command.env("OMP_WAIT_POLICY", "PASSIVE").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn weights(out: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(newest(out).join("weights.safetensors")).unwrap().into_iter().collect()
}

#[test]
fn two_devices_end_with_the_weights_of_one() {
    let root = TempDir::new().unwrap();
    for (number, job) in jobs(root.path(), 6).iter().enumerate() {
        let [one, two] = [1, 2].map(|devices| {
            let out = format!("job-{number}-on-{devices}");
            finish(trainer(root.path(), job, &out, devices, &[]));
            weights(&root.path().join(out))
        });
        for (name, expected) in &one {
            let apart = (expected - &two[name]).abs().max().double_value(&[]);
            assert!(apart <= 1e-5, "job {number}: {name} is {apart} apart");
        }
    }
}

/// The part of one of two machines, as its daemon starts it.
fn part(root: &Path, job: &TrainerJob, out: &str, first_rank: u32, more: &[&str]) -> Child {
    let mut job = job.clone();
    (job.training.devices, job.training.spread) = (2, true);
    let file = root.join(format!("{out}.json"));
    fs::write(&file, serde_json::to_vec(&job).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-trainer"));
    command.arg("attempt").arg(file).arg("--out").arg(root.join(out)).arg("--data-root").arg(root);
    command.arg("--cache-dir").arg(root.join("cache")).args(["--device", "cpu", "--threads", "1"]);
    command.args(["--world-size", "2", "--first-rank", &first_rank.to_string(), "--rank-count", "1"]);
    command.args(["--own-address", "127.0.0.1"]).args(more).env("OMP_WAIT_POLICY", "PASSIVE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// What a trainer says to its daemon, as it comes.
fn said(child: &mut Child) -> std::sync::mpsc::Receiver<TrainerEvent> {
    let mut output = child.stdout.take().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = output.read(&mut chunk) {
            buffer.extend_from_slice(&chunk[..read]);
            while let Some(event) = decode(&mut buffer).unwrap() {
                let _ = tell.send(event);
            }
        }
    });
    told
}

#[test]
fn two_machines_end_with_the_weights_of_one_and_only_the_first_tells_of_it() {
    let root = TempDir::new().unwrap();
    let [_, job] = jobs(root.path(), 6);
    finish(trainer(root.path(), &job, "one", 1, &[]));
    let mut leader = part(root.path(), &job, "leader", 0, &[]);
    // Without their daemons they would end.
    let leads = (leader.stdin.take(), said(&mut leader));
    let event = leads.1.recv_timeout(LIMIT).unwrap();
    let TrainerEvent::Meets { port } = event else { panic!("{event:?} before anybody can meet") };
    let mut follower = part(root.path(), &job, "follower", 1, &["--meeting", &format!("127.0.0.1:{port}")]);
    let follows = (follower.stdin.take(), said(&mut follower));
    for child in [&mut leader, &mut follower] {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(follows.1.iter().count(), 0, "how the job goes is told once");
    let events: Vec<TrainerEvent> = leads.1.iter().collect();
    assert!(events.iter().any(|event| matches!(event, TrainerEvent::Completed(_))));
    assert!(!root.path().join("follower/checkpoints").exists(), "the leader saves");
    let [one, two] = ["one", "leader"].map(|out| weights(&root.path().join(out)));
    for (name, expected) in &one {
        let apart = (expected - &two[name]).abs().max().double_value(&[]);
        assert!(apart <= 1e-5, "{name} is {apart} apart");
    }
    drop((leads.0, follows.0));
}

#[test]
fn a_machine_that_is_gone_ends_the_ranks_of_the_other() {
    let root = TempDir::new().unwrap();
    let [_, job] = jobs(root.path(), 4000);
    let mut leader = part(root.path(), &job, "leader", 0, &[]);
    let leads = (leader.stdin.take(), said(&mut leader));
    let event = leads.1.recv_timeout(LIMIT).unwrap();
    let TrainerEvent::Meets { port } = event else { panic!("{event:?} before anybody can meet") };
    let mut follower = part(root.path(), &job, "follower", 1, &["--meeting", &format!("127.0.0.1:{port}")]);
    let _follower_lives = follower.stdin.take();
    while !matches!(leads.1.recv_timeout(LIMIT).unwrap(), TrainerEvent::Step { .. }) {}
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(leader.wait().unwrap().code(), Some(1));
    let last = leads.1.iter().last();
    let Some(TrainerEvent::Failed { message, .. }) = last else { panic!("{last:?}") };
    assert!(message.starts_with(RANKS_GONE), "{message}");
}

/// Processes whose parent is `parent`.
fn children_of(parent: u32) -> Vec<Pid> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A long job on two devices, behind its first checkpoint, and its second process.
fn begun(root: &Path, job: &TrainerJob, out: &str) -> (Child, Pid) {
    let first = trainer(root, job, out, 2, &[]).spawn().unwrap();
    let second = wait_until("the second process", || children_of(first.id()).pop());
    let folder = root.join(out).join("checkpoints");
    wait_until("a checkpoint", || {
        let names = fs::read_dir(&folder).ok()?.map(|entry| entry.unwrap().file_name());
        names.into_iter().find(|name| name.to_str().unwrap().starts_with("step-"))
    });
    (first, second)
}

fn saves_often(mut job: TrainerJob) -> TrainerJob {
    (job.training.checkpoint_every_epochs, job.training.checkpoint_every_steps) = (None, Some(5));
    job
}

fn is_gone(pid: Pid) -> bool {
    // What has ended but is not waited for has no memory.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.contains("VmRSS")
}

#[test]
fn a_killed_device_ends_the_attempt_and_the_job_goes_on_with_the_same_bits() {
    let root = TempDir::new().unwrap();
    let [_, job] = jobs(root.path(), 60);
    let job = saves_often(job);
    finish(trainer(root.path(), &job, "whole", 2, &[]));
    let methods = newest(&root.path().join("whole")).join("manifest.json");
    let (first, second) = begun(root.path(), &job, "killed");
    kill(second, Signal::SIGKILL).unwrap();
    let output = first.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("rank 1: was ended by signal 9"), "{said}");
    let methods = ["--methods", methods.to_str().unwrap(), "--resume", "latest"];
    finish(trainer(root.path(), &job, "killed", 2, &methods));
    let [whole, killed] = ["whole", "killed"].map(|out| bits(&newest(&root.path().join(out))));
    for (name, values) in &whole {
        assert!(*values == killed[name], "{name} differs");
    }
}

#[test]
fn a_stop_saves_behind_one_step_and_a_dead_parent_ends_the_others() {
    let root = TempDir::new().unwrap();
    let [job, _] = jobs(root.path(), 4000);
    let job = saves_often(job);
    let (first, second) = begun(root.path(), &job, "stopped");
    // The other process alone: they agree on it.
    kill(second, Signal::SIGINT).unwrap();
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("stopped behind a checkpoint"));
    wait_until("the end of the second process", || is_gone(second).then_some(()));

    let (mut first, second) = begun(root.path(), &job, "orphaned");
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until("the end of the orphan", || is_gone(second).then_some(()));
}

#[test]
fn devices_that_do_not_fit_the_job_are_named() {
    let root = TempDir::new().unwrap();
    let [_, job] = jobs(root.path(), 4);
    let told = |devices: u32, more: &[&str]| {
        let output = trainer(root.path(), &job, "refused", devices, more).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let said = told(2, &["--device", "cpu,cpu,cpu"]);
    assert!(said.contains("--device cpu,cpu,cpu: the job's training.devices is 2"), "{said}");
    let said = told(5, &[]);
    assert!(said.contains("training.devices") && said.contains("batch_size, which is 4"), "{said}");
}
