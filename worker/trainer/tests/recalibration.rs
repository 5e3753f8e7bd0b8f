//! Validation of a supernet whose steps run other children than validation does.

mod common;

use std::collections::BTreeMap;

use cakes::backbone::{Backbone, MiddleLayer, ResnetDepth, VolumeResnet, VolumeStem};
use cakes::job::{Task, TrainerJob};
use cakes::kernel::KernelSet;
use cakes::network::SearchMode;
use cakes::spec::{ArrayKind, TrainingSpec};
use cakes_trainer::nets::{Draws, Engine, Net, Use};
use common::jobs::{Manner, bars_job, bits, run_job, write_bars};
use common::{EXTENT, batch, difference, net, supernet, volume};
use tch::Tensor;
use tempfile::TempDir;

const ENGINES: [Engine; 2] = [Engine::Direct, Engine::Torch];

fn statistics(net: &Net) -> BTreeMap<String, Tensor> {
    let running = net.state().filter(|(name, _)| name.contains("running"));
    running.map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
}

fn run(net: &mut Net, images: &Tensor, purpose: Use<'_>) -> Tensor {
    tch::no_grad(|| net.forward(images, purpose)).unwrap()
}

/// Steps of other children leave statistics that are no one's; taken afresh they are
/// the child's own, and what training had is put back to the last bit.
#[test]
fn a_child_is_evaluated_with_what_it_measures_itself() {
    let (images, _) = batch(EXTENT);
    for engine in ENGINES {
        let mut net = net(supernet(SearchMode::PerformancePriority), engine);
        let draws = net.best_draw().unwrap();
        for step in 0..5 {
            let other = net.draw(3, step).unwrap();
            let _ = run(&mut net, &images, Use::Train(&other));
        }
        let trained = statistics(&net);
        let mixed = run(&mut net, &images, Use::Evaluate(&draws));
        let batches = [Ok(images.copy()), Ok(images.copy())];
        let kept = net.recalibrate(&draws, batches).unwrap();
        let own = run(&mut net, &images, Use::Evaluate(&draws));
        net.restore_statistics(&kept).unwrap();
        for (name, tensor) in statistics(&net) {
            assert!(tensor.equal(&trained[&name]), "{engine:?} {name}");
        }
        let measured = run(&mut net, &images, Use::Train(&draws));
        // Variances of a batch are biased, running ones are not.
        assert!(difference(&measured, &own) < 0.02, "{engine:?}: {}", difference(&measured, &own));
        assert!(difference(&measured, &mixed) > 0.2, "{engine:?}: {}", difference(&measured, &mixed));
    }
}

#[test]
fn without_batches_statistics_stay() {
    let mut net = net(supernet(SearchMode::PerformancePriority), Engine::Direct);
    let before = statistics(&net);
    net.recalibrate(&Draws::new(), []).unwrap();
    assert!(statistics(&net).iter().all(|(name, tensor)| tensor.equal(&before[name])));
}

/// Behind an epoch a job that has validated holds the bits of one that has not.
#[test]
fn validation_leaves_no_trace_in_the_training() {
    let folder = TempDir::new().unwrap();
    write_bars(&folder.path().join("bars"), None);
    let Backbone::VolumeResnet(config) =
        volume(ResnetDepth::R18, VolumeStem::Compact, MiddleLayer::Searchable)
    else {
        panic!()
    };
    let task = Task::Supernet {
        // It drops values, in the passes that measure too.
        backbone: Backbone::VolumeResnet(VolumeResnet { classes: 3, ..config }),
        mode: SearchMode::PerformancePriority,
        kernels: KernelSet::volumetric(),
        l1_strength: 0.0,
        early_stop_validations: None,
    };
    let job = bars_job(task, ArrayKind::Volume, 2);
    let bits_of = |validate_every_epochs: u32| {
        let training = TrainingSpec { epochs: 3, validate_every_epochs, ..job.training.clone() };
        let job = TrainerJob { training, ..job.clone() };
        let out = folder.path().join(format!("every-{validate_every_epochs}"));
        run_job(&out, folder.path(), &job, Manner::default()).unwrap();
        ["step-000000004", "step-000000006"].map(|step| bits(&out.join("checkpoints").join(step)))
    };
    assert_eq!(bits_of(1), bits_of(3));
}
