//! Which retrainings can start from the weights of their search's supernet.

use super::{InitialWeights, InvalidSpec, SearchSpec, Violation, Violations};
use crate::architecture::Architecture;
use crate::identity::{IdentityError, check_kernels};
use crate::job::{Task, TrainerJob};

/// A supernet is trained before there is one.
pub(super) fn check_supernet(weights: &InitialWeights, field: &str, found: &mut Violations) {
    found.require(*weights != InitialWeights::Supernet, field, || {
        "a supernet does not start from a supernet; its retrainings can".to_owned()
    });
}

/// What can start from the search's supernet: networks of its backbone with its
/// kernels. Derived ones are; of the baselines, those that it has all kernels of.
pub(super) fn check(spec: &SearchSpec, found: &mut Violations) {
    check_supernet(&spec.supernet.initial_weights, "supernet.initial_weights", found);
    if spec.retrain.initial_weights != InitialWeights::Supernet {
        return;
    }
    for baseline in &spec.baselines {
        let Some(architecture) = baseline.architecture(&spec.backbone, &spec.supernet.kernels) else {
            continue;
        };
        if let Err(problem) = fits(spec, &architecture) {
            found.require(false, "baselines", || {
                format!(
                    "{} cannot start from the supernet: {problem}; leave it out, or retrain from other weights",
                    baseline.name()
                )
            });
        }
    }
}

/// A single retraining of a search's kind.
pub(super) fn check_retrain(spec: &SearchSpec, job: &TrainerJob) -> Result<(), InvalidSpec> {
    let (Task::Retrain { architecture }, InitialWeights::Supernet) = (&job.task, &job.initial_weights) else {
        return Ok(());
    };
    fits(spec, architecture).map_err(|problem| {
        let problem = format!("the architecture cannot start from the supernet: {problem}");
        InvalidSpec(vec![Violation { field: "initial_weights".to_owned(), problem }])
    })
}

fn fits(spec: &SearchSpec, architecture: &Architecture) -> Result<(), IdentityError> {
    if architecture.backbone() != &spec.backbone {
        return Err(IdentityError::Backbone);
    }
    check_kernels(architecture, &spec.supernet.kernels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Kernel, KernelSet};
    use crate::spec::CheckedSearch;
    use crate::spec::tests::{problems, small_search};

    #[test]
    fn what_a_supernet_does_not_hold_cannot_start_from_it() {
        let from_supernet = |spec: &mut SearchSpec| spec.retrain.initial_weights = InitialWeights::Supernet;
        let mut spec = small_search();
        from_supernet(&mut spec);
        let checked = CheckedSearch::new(spec).unwrap();
        let (_, architecture) = checked.baselines().remove(0);
        assert_eq!(checked.retrain_job(architecture, 1).initial_weights, InitialWeights::Supernet);
        assert_eq!(
            problems(|spec| {
                from_supernet(spec);
                spec.supernet.kernels = KernelSet::named("1_2d").unwrap();
            }),
            // Neither 3x3x3 nor the other two planes.
            ["baselines", "baselines"]
        );
        assert_eq!(
            problems(|spec| spec.supernet.initial_weights = InitialWeights::Supernet),
            ["supernet.initial_weights"]
        );
        let alone = |kernels: &[Kernel]| {
            let architecture = Architecture::even(checked.spec().backbone.clone(), kernels).unwrap();
            checked.check_retrain(&checked.retrain_job(architecture, 1))
        };
        assert_eq!(alone(&[Kernel::K333, Kernel::K113]), Ok(()));
        assert_eq!(alone(&[Kernel::K111]).unwrap_err().0[0].field, "initial_weights");
        let mut job = checked.supernet_job();
        job.initial_weights = InitialWeights::Supernet;
        assert_eq!(job.check().unwrap_err().0[0].field, "initial_weights");
    }
}
