//! `cakes search derive`: more architectures from one supernet.

use cakes::derive::ChannelCosts;
use cakes::kernel::KernelSet;
use cakes::spec::CostMeasure;
use cakes_proto::convert::{latency_from_wire, measure_to_wire, search_from_wire};
use cakes_proto::v1;
use chrono::Utc;
use clap::Args;

use super::job::{retraining, submit_retrain};
use super::search::{SearchId, latency_table};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::CommandError;
use crate::{output, tables};

#[derive(Debug, Args)]
pub struct DeriveArguments {
    #[command(flatten)]
    search: SearchId,
    /// Fraction of what the all-3x3x3 network costs; may be given several times.
    #[arg(
        long,
        value_name = "SHARE",
        value_delimiter = ',',
        required_unless_present_any = ["unconstrained", "budgets"]
    )]
    budget: Vec<f64>,
    /// Evenly spaced fractions, both ends included; those below the lightest
    /// architecture of the search space are left out.
    #[arg(long, value_name = "FROM..TO:STEP", value_parser = Budgets::parse)]
    budgets: Option<Budgets>,
    /// Also by the paper's rule, without a budget.
    #[arg(long)]
    unconstrained: bool,
    /// What budgets are fractions of [default: what the search says].
    #[arg(long, value_enum)]
    measure: Option<MeasureName>,
    /// Counts of channels are multiples of it [default: what the search says].
    #[arg(long, value_name = "N")]
    multiple: Option<u32>,
    /// Queue a retraining of each, as the search trains.
    #[arg(long)]
    retrain: bool,
    /// Seed of the retrainings; may be given several times.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0", requires = "retrain")]
    seed: Vec<u64>,
}

/// Measures as people type them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MeasureName {
    /// Multiply-accumulates.
    Mac,
    /// Parameters.
    Param,
    /// Time for one patch, as it was measured when the supernet had been trained.
    Latency,
}

impl From<MeasureName> for CostMeasure {
    fn from(name: MeasureName) -> Self {
        match name {
            MeasureName::Mac => CostMeasure::Mac,
            MeasureName::Param => CostMeasure::Param,
            MeasureName::Latency => CostMeasure::Latency,
        }
    }
}

/// Evenly spaced budgets: `0.1..0.9:0.1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets(Vec<f64>);

impl Budgets {
    /// # Errors
    /// Not two rising shares with a step that leaves at most as many as a call takes.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no range; give FROM..TO:STEP, for example 0.1..0.9:0.1");
        let (from, rest) = text.split_once("..").ok_or_else(wrong)?;
        let (to, step) = rest.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<f64>().map_err(|_| wrong());
        let (from, to, step) = (number(from)?, number(to)?, number(step)?);
        if !(from > 0.0 && from <= to && to <= 1.0 && step > 0.0) {
            return Err(format!("'{text}': shares rise from above 0 to at most 1, by a step above 0"));
        }
        let count = ((to - from) / step + 1e-9).floor() + 1.0;
        if count > BUDGETS_MAX {
            return Err(format!("'{text}' are {count} budgets; at most {BUDGETS_MAX} at a time"));
        }
        // Rounded, so that the third of 0.1..0.9:0.1 is 0.3.
        let budget = |index: u32| ((from + f64::from(index) * step) * 1e9).round() / 1e9;
        Ok(Budgets((0..count as u32).map(budget).collect()))
    }

    /// The budgets that some architecture of the search stays within, and a note on
    /// the others; all of them where none does, so that the service says why.
    fn within_reach(self, kernels: &KernelSet, costs: &ChannelCosts) -> Vec<f64> {
        let fits = |budget: &f64| costs.check_budget(kernels, *budget).is_ok();
        let Some(first) = self.0.iter().position(fits) else { return self.0 };
        if first > 0 {
            let left_out: Vec<String> = self.0[..first].iter().map(f64::to_string).collect();
            output::note(&format!(
                "no architecture of this search space is so light: left out {}",
                left_out.join(", ")
            ));
        }
        self.0[first..].to_vec()
    }
}

/// What budgets of a search are compared with.
///
/// # Errors
/// The coordinator is away or sent what is no search; times are asked for and the
/// search has none.
async fn costs_of(
    client: &Client,
    id: &str,
    measure: Option<MeasureName>,
) -> Result<(KernelSet, ChannelCosts), CommandError> {
    let request = v1::GetSearchRequest { id: id.to_owned(), ..v1::GetSearchRequest::default() };
    let search = rpc!(client, searches.get_search, "SearchService/GetSearch", request)?;
    let unusable = |what: &str, error: &dyn std::fmt::Display| {
        CommandError::Failed(format!("the coordinator sent no {what}: {error}"))
    };
    let search = search_from_wire(search.spec).map_err(|error| unusable("search", &error))?;
    let spec = search.spec();
    let measure = measure.map_or(spec.budget_measure, CostMeasure::from);
    let table = match measure {
        CostMeasure::Latency => Some(
            latency_from_wire(latency_table(client, id.to_owned()).await?)
                .map_err(|error| unusable("table of times", &error))?,
        ),
        CostMeasure::Mac | CostMeasure::Param => None,
    };
    let kernels = spec.supernet.kernels.clone();
    let costs = ChannelCosts::by(measure, &spec.backbone, &kernels, spec.patch, table.as_ref())
        .map_err(|error| unusable("search that has costs", &error))?;
    Ok((kernels, costs))
}

/// As many as the service takes in one call.
const BUDGETS_MAX: f64 = 64.0;

/// # Errors
/// The coordinator is away or refuses; a budget cannot be met.
pub async fn derive(
    global: &GlobalArguments,
    client: &Client,
    arguments: DeriveArguments,
) -> Result<(), CommandError> {
    let search_id = arguments.search.id;
    let mut budgets = arguments.budget;
    if let Some(range) = arguments.budgets {
        let (kernels, costs) = costs_of(client, &search_id, arguments.measure).await?;
        budgets.extend(range.within_reach(&kernels, &costs));
    }
    let request = v1::DeriveArchitecturesRequest {
        id: search_id.clone(),
        budgets,
        unconstrained: arguments.unconstrained,
        measure: arguments.measure.map(|name| measure_to_wire(name.into())).unwrap_or_default().into(),
        count_multiple: arguments.multiple,
        validate_only: false,
    };
    let response = rpc!(client, searches.derive_architectures, "SearchService/DeriveArchitectures", request)?;
    let table = |response: &v1::DeriveArchitecturesResponse| {
        tables::derivations(response).render(output::terminal_width())
    };
    if !arguments.retrain {
        return output::print(global.output, &response, table);
    }
    let mut digests: Vec<&str> = response.architectures.iter().map(|found| found.digest.as_str()).collect();
    digests.sort_unstable();
    digests.dedup();
    let mut jobs = Vec::new();
    for digest in digests {
        for seed in &arguments.seed {
            let request = retraining(digest, &search_id, *seed);
            jobs.push(submit_retrain(client, request).await?);
        }
    }
    output::print(global.output, &Retrained { derived: response, jobs }, |retrained| {
        let jobs = tables::jobs(&retrained.jobs, Utc::now()).render(output::terminal_width());
        format!("{}\n\n{jobs}", table(&retrained.derived))
    })
}

/// What was derived and the jobs that train it.
#[derive(serde::Serialize)]
struct Retrained {
    derived: v1::DeriveArchitecturesResponse,
    jobs: Vec<v1::Job>,
}

#[cfg(test)]
mod tests {
    use cakes::backbone::{Backbone, EncoderDecoder};

    use super::*;

    #[test]
    fn a_range_leaves_out_what_no_architecture_stays_within_unless_that_is_all_of_it() {
        let backbone = Backbone::EncoderDecoder(EncoderDecoder { classes: 4, ..EncoderDecoder::default() });
        let kernels = KernelSet::named("2_3d").unwrap();
        let costs = ChannelCosts::new(&backbone, [32; 3], CostMeasure::Mac).unwrap();
        let within = |range: &str| Budgets::parse(range).unwrap().within_reach(&kernels, &costs);
        // The lightest costs 0.351.
        assert_eq!(within("0.3..0.5:0.1"), [0.4, 0.5]);
        assert_eq!(within("0.1..0.2:0.1"), [0.1, 0.2]);
    }

    #[test]
    fn ranges_of_budgets_include_both_ends_and_hold_round_numbers() {
        assert_eq!(
            Budgets::parse("0.1..0.9:0.1"),
            Ok(Budgets(vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
        );
        assert_eq!(Budgets::parse("0.5..0.5:0.1"), Ok(Budgets(vec![0.5])));
        assert_eq!(Budgets::parse("0.25..1:0.5"), Ok(Budgets(vec![0.25, 0.75])));
        for wrong in [
            "",
            "0.1",
            "0.1..0.9",
            "a..b:c",
            "0.9..0.1:0.1",
            "0..0.5:0.1",
            "0.5..2:0.1",
            "0.1..0.9:0",
            "0.1..1:0.001",
        ] {
            assert!(Budgets::parse(wrong).is_err(), "{wrong}");
        }
    }
}
