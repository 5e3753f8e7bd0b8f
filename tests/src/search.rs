//! Searches that take seconds.

use serde_json::{Value, json};

/// How long the trainings of a search are.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub epochs: u32,
    pub steps_per_epoch: u32,
    /// Epochs between checkpoints.
    pub checkpoint_every_epochs: u32,
}

/// A few steps, to see the whole path.
pub const SHORT: Length = Length { epochs: 2, steps_per_epoch: 4, checkpoint_every_epochs: 1 };

/// Some seconds, to interrupt it.
pub const LONG: Length = Length { epochs: 30, steps_per_epoch: 20, checkpoint_every_epochs: 3 };

/// A training of tiny steps.
pub fn training(length: Length) -> Value {
    json!({
        "epochs": length.epochs,
        "steps_per_epoch": length.steps_per_epoch,
        "batch_size": 1,
        "warmup_steps": 2,
        "validate_every_epochs": length.epochs,
        "checkpoint_every_epochs": length.checkpoint_every_epochs,
    })
}

/// A search file on tiny phantoms: two budgets that give one architecture, one
/// that gives another, and all baselines.
pub fn tiny(name: &str, supernet: Length, retrain: Length) -> Value {
    let extent = json!({ "depth": 16, "height": 16, "width": 16 });
    json!({
        "request_id": format!("{name}-request"),
        "search": {
            "name": name,
            "dataset": { "phantoms": { "cases": 4, "validation_cases": 1, "extent": extent } },
            "backbone": { "encoder_decoder": { "classes": 4, "base_width": 4, "levels": 2 } },
            "patch": extent,
            "supernet": { "training": training(supernet) },
            "budgets": [0.4, 0.4000001, 0.7],
            "baselines": ["c3d", "even_split", "planes"],
            "retrain": { "training": training(retrain), "seeds": [0] },
        }
    })
}
