//! The search that suits a data set, from what `cakes dataset check` says of it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// The part of the report that decides.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub case_count: u64,
    pub channels: u64,
    pub classes: Vec<Class>,
    /// Voxels along D, H and W.
    pub extent_median: [u64; 3],
    pub findings: Vec<Finding>,
}

/// Something that is wrong with a file.
#[derive(Debug, Deserialize)]
pub struct Finding {
    severity: String,
    file: String,
    problem: String,
}

impl Report {
    /// Fails if training would refuse a file.
    pub fn refuse_errors(&self) -> Result<()> {
        let errors = self.findings.iter().filter(|finding| finding.severity == "error");
        let lines: Vec<String> = errors.map(|error| format!("  {} {}", error.file, error.problem)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        bail!("mend these files, or take them out of dataset.json:\n{}", lines.join("\n"))
    }
}

#[derive(Debug, Deserialize)]
pub struct Class {}

const LEVELS: u32 = 3;
const BASE_WIDTH: u32 = 8;
/// What every axis of a patch must be a multiple of.
const STRIDE: u64 = 1 << (LEVELS - 1);
/// Largest patch: two cores train on it at some patches per second.
const PATCH_VOXELS_MAX: u64 = 72_000;
const PATCH_SIDE_MIN: u64 = 4 * STRIDE;

/// A search file for the data set in `folder`.
pub fn for_dataset(report: &Report, folder: &Path) -> Result<Value> {
    let path = folder.to_str().with_context(|| format!("{} is no UTF-8", folder.display()))?;
    let patch = patch(report.extent_median);
    let [depth, height, width] = patch;
    let mut dataset = json!({ "path": path, "pad_small_volumes": true });
    let validation = if folder.join("splits.json").is_file() { "splits_file" } else { "fold" };
    dataset[validation] = json!({});
    Ok(json!({
        "search": {
            "name": "quickstart",
            "dataset": { "folder": dataset },
            "backbone": { "encoder_decoder": {
                "input_channels": report.channels,
                "classes": report.classes.len(),
                "base_width": BASE_WIDTH,
                "levels": LEVELS,
            } },
            "patch": { "depth": depth, "height": height, "width": width },
            "supernet": { "l1_strength": 0.1, "training": training(12) },
            "budgets": [0.2, 0.3, 0.4, 0.5],
            "baselines": ["c3d", "even_split", "planes"],
            "retrain": { "training": training(20), "seeds": [0] },
        }
    }))
}

fn training(epochs: u32) -> Value {
    json!({
        "epochs": epochs,
        "steps_per_epoch": 20,
        "batch_size": 1,
        // Far ahead of the default where there is time for a few hundred steps only.
        "adam_w": { "learning_rate": 0.01 },
        "validate_every_epochs": epochs,
        "checkpoint_every_epochs": 2,
    })
}

/// The median volume, so that one window covers most cases, brought to a
/// multiple of the network's stride and cut along its longest axis to what a
/// CPU can train on.
fn patch(extent_median: [u64; 3]) -> [u64; 3] {
    let mut patch = extent_median.map(|size| size.next_multiple_of(STRIDE).max(PATCH_SIDE_MIN));
    while patch.iter().product::<u64>() > PATCH_VOXELS_MAX {
        let longest = (0..3).max_by_key(|axis| patch[*axis]).unwrap_or_default();
        patch[longest] -= STRIDE;
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_fit_the_volumes_the_network_and_the_machine() {
        assert_eq!(patch([35, 50, 35]), [36, 52, 36]);
        // Thin slices stay as thick as the network needs.
        assert_eq!(patch([5, 512, 512])[0], 16);
        for extent in [[512, 512, 300], [20, 320, 320], [240, 240, 155]] {
            let patch = patch(extent);
            assert!(patch.iter().product::<u64>() <= PATCH_VOXELS_MAX, "{patch:?}");
            assert!(patch.iter().all(|side| side % STRIDE == 0 && *side >= PATCH_SIDE_MIN), "{patch:?}");
        }
    }

    #[test]
    fn a_data_set_with_its_own_split_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"case_count": 9, "channels": 4, "classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
            "extent_median": [35, 50, 35], "findings": [{"severity": "warning", "file": "f", "problem": "p"}], "more": 1}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        report.refuse_errors().unwrap();
        let without = for_dataset(&report, folder.path()).unwrap();
        assert!(without.pointer("/search/dataset/folder/fold").is_some());
        assert_eq!(without["search"]["backbone"]["encoder_decoder"]["classes"], 3);
        assert_eq!(without["search"]["backbone"]["encoder_decoder"]["input_channels"], 4);
        std::fs::write(folder.path().join("splits.json"), "{}").unwrap();
        let with = for_dataset(&report, folder.path()).unwrap();
        assert!(with.pointer("/search/dataset/folder/splits_file").is_some());
        assert!(with.pointer("/search/dataset/folder/fold").is_none());
    }
}
