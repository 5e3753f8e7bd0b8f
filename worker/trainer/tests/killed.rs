//! Real trainers that are killed at every step boundary and resumed each time: in the
//! result nothing of it shows.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, MiddleLayer, ResnetDepth, VolumeResnet, VolumeStem};
use cakes::frame::{TrainerEvent, decode};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::spec::{ArrayKind, OptimizerSpec};
use cakes_trainer::checkpoint::Manifest;
use common::jobs::{CLASSES, bars_job, bits, phantoms_job, write_bars};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const STEPS: u64 = 30;

/// A trainer as a daemon starts it, killed with this value.
struct Trainer {
    child: Child,
    /// Its end would end the trainer.
    _input: ChildStdin,
    buffer: Vec<u8>,
}

impl Trainer {
    fn start(root: &Path, out: &str, more: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-trainer"));
        command.arg("attempt").arg(root.join("job.json")).arg("--out").arg(root.join(out));
        command.arg("--data-root").arg(root).arg("--cache-dir").arg(root.join("cache"));
        command.args(["--threads", "1", "--loader-threads", "3"]);
        command.args(more.iter().flat_map(|(flag, path)| [flag.as_ref(), path.as_os_str()]));
        // Otherwise it starts itself again with it.
        command.env("OMP_WAIT_POLICY", "PASSIVE");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        Trainer { _input: child.stdin.take().unwrap(), child, buffer: Vec::new() }
    }

    /// What it reports next; none when it has ended.
    fn next(&mut self) -> Option<TrainerEvent> {
        loop {
            if let Some(event) = decode(&mut self.buffer).unwrap() {
                return Some(event);
            }
            let mut chunk = [0; 4096];
            match self.child.stdout.as_mut().unwrap().read(&mut chunk).unwrap() {
                0 => return None,
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a whole run reports.
#[derive(Default)]
struct Course {
    /// By step. It depends on the batch, the drawn kernels, the masks of dropouts and
    /// all weights.
    losses: BTreeMap<u64, f64>,
    /// Scores of the channels and quality, at the end.
    end: Vec<TrainerEvent>,
}

impl Course {
    /// Takes in an event; computed again, a step has the loss that it had before.
    fn take(&mut self, event: &TrainerEvent) {
        match event {
            TrainerEvent::Step { step, loss, .. } => {
                let before = self.losses.insert(*step, *loss);
                assert!(before.is_none_or(|before| before == *loss), "step {step}: {loss}, was {before:?}");
            }
            TrainerEvent::Scores(_) | TrainerEvent::Validation { step: STEPS, .. } => {
                self.end.push(event.clone());
            }
            TrainerEvent::Failed { message, .. } => panic!("{message}"),
            _ => {}
        }
    }
}

/// The newest checkpoint below `out`. Whatever bears the name of a checkpoint is one.
fn newest(out: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(out.join("checkpoints")).ok()?;
    let mut named: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    named.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"));
    named.sort();
    for checkpoint in &named {
        for file in manifest(checkpoint).files {
            let content = fs::read(checkpoint.join(&file.name)).unwrap();
            assert_eq!(hex::encode(Sha256::digest(&content)), file.sha256, "{}", checkpoint.display());
        }
    }
    named.pop()
}

fn manifest(checkpoint: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(checkpoint.join("manifest.json")).unwrap()).unwrap()
}

/// Runs `job` once as it is, and once killed behind every step: in turn as soon as the
/// step is done, while its checkpoint is being written, and behind its checkpoint.
fn leaves_no_trace(root: &Path, job: &TrainerJob) {
    fs::write(root.join("job.json"), serde_json::to_vec(job).unwrap()).unwrap();
    let mut whole = Course::default();
    let mut trainer = Trainer::start(root, "whole", &[]);
    while let Some(event) = trainer.next() {
        whole.take(&event);
    }
    assert!(trainer.child.wait().unwrap().success());
    let expected = newest(&root.join("whole")).unwrap();
    assert!(expected.ends_with(format!("step-{STEPS:09}")));

    let methods = expected.join("manifest.json");
    let out = root.join("killed");
    let mut killed = Course::default();
    for boundary in 1..=STEPS + 1 {
        let resume = newest(&out);
        let mut arguments = vec![("--methods", methods.as_path())];
        arguments.extend(resume.as_deref().map(|checkpoint| ("--resume", checkpoint)));
        let mut trainer = Trainer::start(root, "killed", &arguments);
        while let Some(event) = trainer.next() {
            killed.take(&event);
            match event {
                TrainerEvent::Ready { resumed_step, .. } => {
                    // The save of the last step, and of the one before it, may have been under way.
                    assert!(resumed_step + 3 >= boundary, "{resumed_step}, killed behind {}", boundary - 1);
                }
                TrainerEvent::Step { step, .. } if step == boundary && step % 2 == 1 => break,
                TrainerEvent::Checkpoint { step, .. } if step == boundary && step % 2 == 0 => break,
                _ => {}
            }
        }
    }

    assert_eq!(killed.losses.keys().copied().collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>());
    assert!(killed.losses == whole.losses, "losses differ: {:?}, {:?}", killed.losses, whole.losses);
    // The last run reports its end; one that was killed behind the last step may have, too.
    assert!(!whole.end.is_empty() && killed.end.ends_with(&whole.end), "{:?}", killed.end);
    let found = newest(&out).unwrap();
    let (expected_bits, found_bits) = (bits(&expected), bits(&found));
    assert_eq!(expected_bits.keys().collect::<Vec<_>>(), found_bits.keys().collect::<Vec<_>>());
    for (name, values) in &expected_bits {
        assert!(*values == found_bits[name], "{name} differs");
    }
    let (expected, found) = (manifest(&expected), manifest(&found));
    assert_eq!((found.step, &found.early_stop), (STEPS, &expected.early_stop));
    let left = fs::read_dir(out.join("checkpoints")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| !name.starts_with("step-")).collect::<Vec<_>>(), [""; 0]);
}

/// Six epochs of five steps, saved behind every step.
fn thirty_steps(mut job: TrainerJob) -> TrainerJob {
    (job.training.epochs, job.training.steps_per_epoch) = (6, 5);
    job.training.validate_every_epochs = 2;
    (job.training.checkpoint_every_epochs, job.training.checkpoint_every_steps) = (None, Some(1));
    job
}

#[test]
fn a_supernet_killed_at_every_step_boundary_ends_with_the_same_bits() {
    let root = TempDir::new().unwrap();
    // An early stop is never reached, but counted.
    let job = phantoms_job(3, 30, 0.1, Some(100));
    leaves_no_trace(root.path(), &thirty_steps(job));
}

#[test]
fn a_retraining_killed_at_every_step_boundary_ends_with_the_same_bits() {
    let root = TempDir::new().unwrap();
    write_bars(&root.path().join("bars"), None);
    let backbone = Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: CLASSES as u32,
        depth: ResnetDepth::R18,
        base_width: 2,
        dropout_percent: 30,
        stem: VolumeStem::Compact,
        middle: MiddleLayer::Searchable,
    });
    let architecture = Architecture::even(backbone, &[Kernel::K333, Kernel::K133]).unwrap();
    let mut job = bars_job(Task::Retrain { architecture }, ArrayKind::Volume, 30);
    job.training.optimizer =
        OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    leaves_no_trace(root.path(), &thirty_steps(job));
}
