//! What a search will do and cost, before anything runs.

use cakes::architecture::Architecture;
use cakes::cost::cost;
use cakes::kernel::Kernel;
use cakes::spec::{CheckedSearch, InvalidSpec, Violation};
use cakes_proto::convert::cost_to_wire;
use cakes_proto::v1;

use crate::core::memory;
use crate::core::search::architecture_count_max;

/// The plan of a search.
///
/// # Errors
/// The network does not fit the patch; a [`CheckedSearch`] rules it out.
pub(super) fn plan(search: &CheckedSearch) -> Result<v1::SearchPlan, InvalidSpec> {
    let spec = search.spec();
    let supernet = search.supernet_job();
    let reference = Architecture::even(spec.backbone.clone(), &[Kernel::K333])
        .map_err(|error| misfit("backbone", &error))?
        .network();
    let retrain = &spec.retrain.training;
    let supernet_cost =
        cost(&supernet.task.network(), spec.patch).map_err(|error| misfit("patch", &error))?;
    let reference_cost = cost(&reference, spec.patch).map_err(|error| misfit("patch", &error))?;
    let supernet_memory = memory::job_mib(&supernet);
    let reference_memory = memory::training_mib(&reference, spec.patch, retrain);
    let macs = reference_cost.mac_count;

    let retrain_count = architecture_count_max(search) as u64 * spec.retrain.seeds.len() as u64;
    Ok(v1::SearchPlan {
        supernet_memory_mib: supernet_memory.map_err(|error| misfit("patch", &error))?,
        reference_memory_mib: reference_memory.map_err(|error| misfit("patch", &error))?,
        supernet_cost: Some(cost_to_wire(&supernet_cost, spec.patch, macs)),
        reference_cost: Some(cost_to_wire(&reference_cost, spec.patch, macs)),
        job_count_max: u32::try_from(retrain_count + 1).unwrap_or(u32::MAX),
        step_count_max: supernet.training.steps_total() + retrain_count * retrain.steps_total(),
    })
}

fn misfit(field: &str, error: &impl ToString) -> InvalidSpec {
    InvalidSpec(vec![Violation { field: field.to_owned(), problem: error.to_string() }])
}

#[cfg(test)]
mod tests {
    use cakes_proto::convert::search_from_wire;

    use super::*;

    fn plan_of(change: &str) -> v1::SearchPlan {
        let json = format!(
            r#"{{"name": "p", "dataset": {{"phantoms": {{}}}},
                "backbone": {{"encoder_decoder": {{"classes": 4, "base_width": 8}}}},
                "patch": {{"depth": 32, "height": 32, "width": 32}} {change}}}"#
        );
        let wire: v1::SearchSpec = serde_json::from_str(&json).unwrap();
        plan(&search_from_wire(Some(wire)).unwrap()).unwrap()
    }

    #[test]
    fn jobs_and_steps_are_counted_for_every_architecture_and_seed() {
        let change = r#", "budgets": [0.3, 0.5], "baselines": ["c3d"], "derive_unconstrained": true,
            "supernet": {"training": {"epochs": 3, "steps_per_epoch": 10}},
            "retrain": {"seeds": [1, 2, 3], "training": {"epochs": 2, "steps_per_epoch": 5}}"#;
        let plan = plan_of(change);
        assert_eq!(plan.job_count_max, 1 + 4 * 3);
        assert_eq!(plan.step_count_max, 30 + 12 * 10);
        let reference = plan.reference_cost.unwrap();
        assert!((reference.mac_fraction - 1.0).abs() < 1e-12);
        assert!(plan.supernet_cost.unwrap().param_count > reference.param_count);
    }

    #[test]
    fn a_random_network_is_counted_for_every_derived_one() {
        let change = r#", "budgets": [0.3, 0.5], "derive_unconstrained": true,
            "baselines": ["c3d", "random"], "retrain": {"seeds": [1, 2]}"#;
        assert_eq!(plan_of(change).job_count_max, 1 + (1 + 3 + 3) * 2);
    }

    #[test]
    fn a_supernet_needs_more_memory_than_the_network_that_it_contains() {
        let plan = plan_of(r#", "supernet": {"mode": "SEARCH_MODE_COST_PRIORITY"}"#);
        assert!(plan.supernet_memory_mib > plan.reference_memory_mib);
    }
}
