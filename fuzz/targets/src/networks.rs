//! Networks, jobs and searches: what passes its checks can be built, priced and sent.

use std::sync::LazyLock;

use cakes::architecture::{Architecture, ArchitectureDigest};
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::cost::cost;
use cakes::derive::LatencyTable;
use cakes::job::TrainerJob;
use cakes::kernel::Kernel;
use cakes::published::{self, kernel_name};
use cakes::scores::ChannelScores;
use cakes::spec::CheckedSearch;
use cakes_coordinator::core::memory::job_mib;
use cakes_proto::convert::{
    architecture_from_wire, architecture_to_wire, latency_from_wire, latency_to_wire, search_from_wire,
    search_to_wire,
};
use cakes_proto::v1;
use prost::Message;

use crate::text;

/// A network that is small enough to be built for every input.
pub(crate) static SMALL: LazyLock<Backbone> = LazyLock::new(|| {
    Backbone::EncoderDecoder(EncoderDecoder { base_width: 4, levels: 2, ..EncoderDecoder::default() })
});

/// An architecture as JSON.
pub fn architecture(bytes: &[u8]) {
    if let Ok(architecture) = serde_json::from_slice::<Architecture>(bytes) {
        check_architecture(&architecture);
    }
    // What supernets leave behind is as large, and names the same layers.
    if let Ok(scores) = serde_json::from_slice::<ChannelScores>(bytes) {
        assert_eq!(scores.layers().len(), scores.backbone().searchable_layers().len());
    }
    if let Ok(table) = serde_json::from_slice::<LatencyTable>(bytes) {
        let wire = latency_to_wire(&table, &SMALL, "a device".to_owned());
        assert_eq!(latency_from_wire(wire), Ok(table.clone()));
        let even = Architecture::even(SMALL.clone(), &[Kernel::K333, Kernel::K133]);
        let _ = table.predicted_ns(&SMALL, &even.expect("two kernels share four channels"));
    }
}

fn check_architecture(architecture: &Architecture) {
    let digest = architecture.digest();
    assert_eq!(digest.to_string().parse::<ArchitectureDigest>().ok(), Some(digest));
    let json = serde_json::to_vec(architecture).expect("an architecture is JSON");
    let again: Architecture = serde_json::from_slice(&json).expect("what is printed is read");
    assert_eq!((&again, again.digest()), (architecture, digest));
    let wire = architecture_to_wire(architecture);
    assert_eq!(architecture_from_wire(wire.backbone, wire.layers).as_ref(), Ok(architecture));
    assert!(architecture.diff(&again).is_empty());
    let channels: u32 = architecture.layers().map(|layer| layer.channels.width()).sum();
    let of_kernels: u32 = architecture.composition().iter().map(|(_, count)| count).sum();
    assert_eq!(channels, of_kernels);
    let extent = [architecture.backbone().total_stride(); 3];
    let _ = cost(&architecture.network(), extent);
}

/// A file of configurations in the form of the paper's authors.
pub fn published(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(found) = published::parse(text) else { return };
    assert!(!found.is_empty());
    let _ = published::find(&found, None).and_then(|only| only.architecture(&SMALL));
    for configuration in &found {
        let layer = |layer: &published::PublishedLayer| {
            let counts =
                layer.channels.iter().map(|(kernel, count)| format!("'{}': {count}", kernel_name(kernel)));
            format!("{{{}}}", counts.collect::<Vec<_>>().join(", "))
        };
        let layers: Vec<String> = configuration.layers.iter().map(layer).collect();
        let again = published::parse(&format!("c['n'] = [{}]", layers.join(", ")));
        let again = again.expect("what is printed is read").remove(0).layers;
        assert_eq!(again.len(), configuration.layers.len());
        assert!(again.iter().zip(&configuration.layers).all(|(left, right)| left.channels == right.channels));
    }
}

/// What a trainer is to do, as JSON.
pub fn trainer_job(bytes: &[u8]) {
    let Ok(job) = serde_json::from_slice::<TrainerJob>(bytes) else { return };
    if job.check().is_ok() {
        check_job(&job);
    }
}

fn check_job(job: &TrainerJob) {
    let json = serde_json::to_vec(job).expect("a job is JSON");
    let again: TrainerJob = serde_json::from_slice(&json).expect("what is printed is read");
    assert_eq!(&again, job, "a trainer gets another job than the one that was checked");
    let network = job.task.network();
    cost(&network, job.patch).expect("the patch was checked");
    job_mib(job).expect("the patch was checked");
    let steps = job.training.steps_total();
    for step in [0, 1, steps / 2, steps.saturating_sub(1), steps] {
        let rate = job.training.learning_rate(step);
        assert!(rate.is_finite() && rate >= 0.0, "learning rate {rate} in step {step} of {steps}");
        let _ = (job.training.saves_after(step), job.training.validates_after(step));
    }
}

/// A search as the database keeps it.
pub fn search_json(bytes: &[u8]) {
    if let Ok(search) = serde_json::from_slice::<CheckedSearch>(bytes) {
        let json = serde_json::to_vec(&search).expect("a search is JSON");
        let again: CheckedSearch = serde_json::from_slice(&json).expect("what is printed is read");
        assert_eq!(again, search);
        check_search(&search);
    }
}

/// A search as it is submitted.
pub fn search_wire(bytes: &[u8]) {
    let Ok(wire) = v1::SearchSpec::decode(bytes) else { return };
    match search_from_wire(Some(wire)) {
        Ok(search) => check_search(&search),
        Err(error) => assert!(!error.0.is_empty() && !error.to_string().is_empty()),
    }
}

fn check_search(search: &CheckedSearch) {
    let again = search_from_wire(Some(search_to_wire(search.spec())));
    assert_eq!(again.as_ref(), Ok(search));
    check_job(&search.supernet_job());
    for (_, architecture) in search.baselines() {
        check_architecture(&architecture);
        let job = search.retrain_job(architecture, 1);
        assert_eq!(job.check(), Ok(()), "a search asks for a job that no trainer takes");
    }
}
