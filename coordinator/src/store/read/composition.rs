//! What a supernet would have become, validation by validation.

use std::collections::BTreeMap;

use cakes::allocation::ChannelAllocation;
use cakes::architecture::LayerAllocation;
use cakes::kernel::Kernel;
use cakes::metric::channels_key;
use cakes::spec::SearchSpec;
use cakes_proto::ids::JobId;
use sqlx::PgPool;

use super::metrics::curves;
use crate::store::Error;

/// Validations that are read at most.
const EVALUATIONS_MAX: i64 = 10_000;

/// What the paper's rule would have derived behind a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub step: i64,
    /// Epochs that were done.
    pub epoch: i64,
    /// All searchable layers, in the order in which they run.
    pub layers: Vec<LayerAllocation>,
}

/// Evaluations of a supernet, by rising step. Steps at which a layer's counts do not
/// sum to its width are left out.
///
/// # Errors
/// The database fails.
pub async fn of_supernet(pool: &PgPool, job: JobId, spec: &SearchSpec) -> Result<Vec<Evaluation>, Error> {
    let known = spec.backbone.searchable_layers();
    let parts = known.iter().enumerate().flat_map(|(place, layer)| {
        spec.supernet.kernels.iter().map(move |kernel| (channels_key(&layer.name, kernel), (place, kernel)))
    });
    let by_key: BTreeMap<String, (usize, Kernel)> = parts.collect();
    let keys: Vec<String> = by_key.keys().cloned().collect();
    let mut by_step: BTreeMap<i64, Vec<Vec<(Kernel, u32)>>> = BTreeMap::new();
    for point in curves(pool, job, &keys, EVALUATIONS_MAX).await? {
        let Some((place, kernel)) = by_key.get(&point.key) else { continue };
        let layers = by_step.entry(point.step).or_insert_with(|| vec![Vec::new(); known.len()]);
        layers[*place].push((*kernel, point.value as u32));
    }
    let steps_per_epoch = i64::from(spec.supernet.training.steps_per_epoch).max(1);
    let evaluations = by_step.into_iter().filter_map(|(step, counts)| {
        let layers = known.iter().zip(counts).map(|(layer, counts)| {
            let channels = ChannelAllocation::new(layer.channels, counts).ok()?;
            Some(LayerAllocation { layer: layer.name.clone(), channels })
        });
        Some(Evaluation { step, epoch: step / steps_per_epoch, layers: layers.collect::<Option<_>>()? })
    });
    Ok(evaluations.collect())
}
