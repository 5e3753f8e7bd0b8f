//! Checkpoints, as stores and disks hold them.

use std::path::Path;

use cakes::architecture::Architecture;
use cakes::kernel::Kernel;
use cakes_artifacts::{Artifacts, StoredCheckpoint};
use cakes_export::Trained;
use cakes_export::graph::Graph;
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::networks::SMALL;
use crate::place::{files, with_file, with_folder};

/// Of the object that every store here holds.
const WEIGHTS: &str = "weights.safetensors";

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime of one thread");
}

/// A manifest in the store: whatever it names is written into the folder that was asked for.
pub fn manifest(bytes: &[u8]) {
    with_folder(|folder| {
        let key = "00000000-0000-4000-8000-000000000007/1-abcdef01/step-000000001";
        let stored = folder.join("store").join(key);
        std::fs::create_dir_all(&stored).expect("a folder can be made");
        std::fs::write(stored.join("manifest.json"), bytes).expect("a file can be written");
        std::fs::write(stored.join(WEIGHTS), b"weights").expect("a file can be written");
        let before = files(folder).len();
        let (artifacts, target) = (open(folder), folder.join("resume"));
        let checkpoint = StoredCheckpoint {
            step: 1,
            key: key.to_owned(),
            manifest_sha256: hex::encode(Sha256::digest(bytes)),
        };
        let fetched = RUNTIME.with(|runtime| runtime.block_on(artifacts.download(&checkpoint, &target)));
        let written = files(&target);
        assert_eq!(files(folder).len(), before + written.len(), "files were written elsewhere");
        assert!(written.iter().all(|file| file.parent() == Some(target.as_path())));
        assert_eq!(fetched.is_ok(), target.join("manifest.json").is_file());
    });
}

fn open(folder: &Path) -> Artifacts {
    let url = format!("file://{}", folder.join("store").display());
    Artifacts::open_with(&url, std::iter::empty()).expect("the folder is there")
}

/// A file of weights, for a network that it may or may not fit.
pub fn weights(bytes: &[u8]) {
    let architecture =
        Architecture::even(SMALL.clone(), &[Kernel::K333]).expect("one kernel has all channels");
    with_file(WEIGHTS, bytes, |path| {
        let Ok(trained) = Trained::from_file(path, architecture) else { return };
        for tensor in trained.weights.values() {
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.values.len());
        }
        let _ = Graph::new(&trained.architecture, &trained.weights);
    });
}
