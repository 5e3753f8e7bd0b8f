//! `cakes search`: from a description to a front of retrained networks.

use std::path::{Path, PathBuf};

use cakes::derive::check_budget;
use cakes::spec::CostMeasure;
use cakes_proto::convert::search_from_wire;
use cakes_proto::v1;
use chrono::Utc;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{curves, watch};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::dataset_note::{DatasetNote, look_at_dataset};
use crate::error::{CommandError, Outcome};
use crate::input::{Text, search_file};
use crate::output::{self, Format};
use crate::{plot, tables};

#[derive(Debug, Subcommand)]
pub enum SearchCommand {
    /// Submit a search file: the JSON that grpcurl takes, or the same as YAML.
    ///
    /// Everything that is wrong with the file is said before anything is sent.
    #[command(
        after_help = "Examples:\n  cakes search submit search.json --wait\n  cakes search submit search.yaml --dry-run"
    )]
    Submit(SubmitArguments),
    /// Show one search with its jobs.
    #[command(after_help = "Example:\n  cakes search get 0198f3a2-7c1e")]
    Get(SearchId),
    /// List searches, newest first.
    #[command(after_help = "Example:\n  cakes search list --limit 20")]
    List {
        /// Most searches to list.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Follow a search until it has ended, then print its front.
    ///
    /// Ctrl-C stops the watching, never the search. The exit code says how the
    /// search ended.
    #[command(after_help = "Example:\n  cakes search watch 0198f3a2-7c1e")]
    Watch(SearchId),
    /// Cancel a search and its jobs.
    #[command(after_help = "Example:\n  cakes search cancel 0198f3a2-7c1e --reason mistake")]
    Cancel {
        #[command(flatten)]
        search: SearchId,
        /// Kept with the search.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Print the retrained architectures and which of them nobody beats.
    #[command(after_help = "Example:\n  cakes search front 0198f3a2-7c1e --plot plots")]
    Front {
        #[command(flatten)]
        search: SearchId,
        /// Also draw front and channels into this folder, as SVG and PNG.
        #[arg(long, value_name = "DIR")]
        plot: Option<PathBuf>,
    },
    /// Derive more architectures from the scores of a search, without training.
    ///
    /// The search needs a finished supernet, nothing else. What is derived is
    /// recorded; `--retrain` or `cakes job retrain` trains it.
    #[command(
        after_help = "Examples:\n  cakes search derive 0198f3a2-7c1e --budget 0.3 --budget 0.2\n  cakes search derive 0198f3a2-7c1e --budgets 0.1..0.9:0.1 --unconstrained\n  cakes search derive 0198f3a2-7c1e --budget 0.5 --measure param --multiple 8 --retrain"
    )]
    Derive(DeriveArguments),
    /// Draw front, channels and learning curves, as SVG and PNG.
    #[command(after_help = "Example:\n  cakes search plot 0198f3a2-7c1e --out plots")]
    Plot {
        #[command(flatten)]
        search: SearchId,
        /// Folder for the files; made if it is missing.
        #[arg(long, value_name = "DIR", default_value = "plots")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct SearchId {
    /// Id of the search, or a prefix that only one has.
    id: String,
}

#[derive(Debug, Args)]
pub struct SubmitArguments {
    /// The search file; - reads the standard input as JSON.
    file: PathBuf,
    /// Check and plan without recording anything: costs, memory, jobs.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Follow the search until it has ended, then print its front.
    #[arg(long)]
    wait: bool,
    /// The same id returns the first search instead of a second one.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

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
}

impl From<MeasureName> for v1::CostMeasure {
    fn from(name: MeasureName) -> Self {
        match name {
            MeasureName::Mac => v1::CostMeasure::Mac,
            MeasureName::Param => v1::CostMeasure::Param,
        }
    }
}

impl From<MeasureName> for CostMeasure {
    fn from(name: MeasureName) -> Self {
        match name {
            MeasureName::Mac => CostMeasure::Mac,
            MeasureName::Param => CostMeasure::Param,
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
    ///
    /// # Errors
    /// The coordinator sent no valid search.
    fn within_reach(
        self,
        search: v1::Search,
        measure: Option<MeasureName>,
    ) -> Result<Vec<f64>, CommandError> {
        let search = search_from_wire(search.spec)
            .map_err(|error| CommandError::Failed(format!("the coordinator sent no search: {error}")))?;
        let spec = search.spec();
        let measure = measure.map_or(spec.budget_measure, CostMeasure::from);
        let fits = |budget: &f64| {
            check_budget(&spec.backbone, &spec.supernet.kernels, spec.patch, measure, *budget).is_ok()
        };
        let Some(first) = self.0.iter().position(fits) else { return Ok(self.0) };
        if first > 0 {
            let left_out: Vec<String> = self.0[..first].iter().map(f64::to_string).collect();
            output::note(&format!(
                "no architecture of this search space is so light: left out {}",
                left_out.join(", ")
            ));
        }
        Ok(self.0[first..].to_vec())
    }
}

/// As many as the service takes in one call.
const BUDGETS_MAX: f64 = 64.0;

/// # Errors
/// The file is wrong, the coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: SearchCommand) -> Result<Outcome, CommandError> {
    if let SearchCommand::Submit(arguments) = command {
        return Box::pin(submit(global, arguments)).await;
    }
    let client = Client::connect(global).await?;
    match command {
        SearchCommand::Submit(_) => {}
        SearchCommand::List { limit } => list(global, &client, limit).await?,
        SearchCommand::Get(SearchId { id }) => {
            let search =
                rpc!(client, searches.get_search, "SearchService/GetSearch", v1::GetSearchRequest { id })?;
            print_search(global, &search)?;
        }
        SearchCommand::Watch(SearchId { id }) => return Box::pin(watch::search(global, &client, id)).await,
        SearchCommand::Cancel { search: SearchId { id }, reason } => {
            let request = v1::CancelSearchRequest { id, reason };
            let search = rpc!(client, searches.cancel_search, "SearchService/CancelSearch", request)?;
            print_search(global, &search)?;
        }
        SearchCommand::Front { search: SearchId { id }, plot } => {
            let front = front(&client, id).await?;
            print_front(global.output, &front)?;
            if let Some(folder) = plot {
                plot_front(&folder, &front)?;
            }
        }
        SearchCommand::Derive(arguments) => derive(global, &client, arguments).await?,
        SearchCommand::Plot { search: SearchId { id }, out } => plot_all(&client, id, &out).await?,
    }
    Ok(Outcome::Done)
}

fn print_search(global: &GlobalArguments, search: &v1::Search) -> Result<(), CommandError> {
    output::print(global.output, search, |search| tables::search_details(search, Utc::now()))
}

async fn submit(global: &GlobalArguments, arguments: SubmitArguments) -> Result<Outcome, CommandError> {
    let text = Text::read(&arguments.file)?;
    let (mut request, search) = search_file(&text)?;
    match look_at_dataset(&search) {
        DatasetNote::Usable(what) => output::note(&format!("data set: {what}")),
        DatasetNote::Elsewhere(what) => output::note(&format!("note: data set {what}")),
        DatasetNote::Broken(misfit) => {
            return Err(CommandError::invalid(format!("{}: {misfit}", arguments.file.display())));
        }
    }
    if let Some(id) = arguments.request_id {
        request.request_id = id;
    } else if request.request_id.is_empty() {
        request.request_id = Uuid::new_v4().to_string();
    }
    request.validate_only |= arguments.dry_run;
    let is_dry = request.validate_only;
    let client = Client::connect(global).await?;
    let response = rpc!(client, searches.submit_search, "SearchService/SubmitSearch", request)?;
    let id = response.search.as_ref().map(|search| search.id.clone()).unwrap_or_default();
    if arguments.wait && !is_dry {
        output::note(&format!("search {id} submitted"));
        return Box::pin(watch::search(global, &client, id)).await;
    }
    output::print(global.output, &response, |response| {
        let plan = response.plan.as_ref().map(tables::plan).unwrap_or_default();
        if is_dry {
            return format!("valid; nothing was recorded\n{plan}");
        }
        format!("search {id} submitted; {plan}\n\nfollow it with\n  cakes search watch {id}")
    })?;
    Ok(Outcome::Done)
}

async fn list(global: &GlobalArguments, client: &Client, limit: usize) -> Result<(), CommandError> {
    let mut all = v1::ListSearchesResponse::default();
    loop {
        let request = v1::ListSearchesRequest {
            page_size: i32::try_from(limit - all.searches.len()).unwrap_or(i32::MAX),
            page_token: all.next_page_token,
        };
        let page = rpc!(client, searches.list_searches, "SearchService/ListSearches", request)?;
        all.searches.extend(page.searches);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.searches.len() >= limit {
            break;
        }
    }
    output::print(global.output, &all, |all| match all.searches.as_slice() {
        [] => "no searches; submit one with `cakes search submit FILE`".to_owned(),
        searches => tables::searches(searches, Utc::now()).render(output::terminal_width()),
    })?;
    if !all.next_page_token.is_empty() {
        output::note(&format!("the first {} searches; more with --limit", all.searches.len()));
    }
    Ok(())
}

/// Results of a search so far.
pub async fn front(client: &Client, id: String) -> Result<v1::ParetoFront, CommandError> {
    let request = v1::GetParetoFrontRequest { id };
    rpc!(client, searches.get_pareto_front, "SearchService/GetParetoFront", request)
}

/// # Errors
/// The output cannot be written.
pub fn print_front(format: Format, front: &v1::ParetoFront) -> Result<(), CommandError> {
    output::print(format, front, |front| tables::front_text(front, output::terminal_width()))
}

async fn derive(
    global: &GlobalArguments,
    client: &Client,
    arguments: DeriveArguments,
) -> Result<(), CommandError> {
    let search_id = arguments.search.id;
    let mut budgets = arguments.budget;
    if let Some(range) = arguments.budgets {
        let request = v1::GetSearchRequest { id: search_id.clone() };
        let search = rpc!(client, searches.get_search, "SearchService/GetSearch", request)?;
        budgets.extend(range.within_reach(search, arguments.measure)?);
    }
    let request = v1::DeriveArchitecturesRequest {
        id: search_id.clone(),
        budgets,
        unconstrained: arguments.unconstrained,
        measure: arguments.measure.map(v1::CostMeasure::from).unwrap_or_default().into(),
        count_multiple: arguments.multiple,
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
            jobs.push(super::job::submit_retrain(client, digest, &search_id, *seed).await?);
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

fn plot_front(folder: &Path, front: &v1::ParetoFront) -> Result<(), CommandError> {
    if front.entries.is_empty() {
        output::note("no retrained architecture yet, so there is nothing to draw");
        return Ok(());
    }
    let title = plot::front::quality_title(front);
    write(&plot::front::draw(&plot::front::results(front), &title)?, folder, "front")?;
    let cards = plot::composition::cards_of_front(front)?;
    write(&plot::composition::draw(&cards)?, folder, "composition")
}

async fn plot_all(client: &Client, id: String, folder: &Path) -> Result<(), CommandError> {
    let request = v1::GetSearchRequest { id: id.clone() };
    let search = rpc!(client, searches.get_search, "SearchService/GetSearch", request)?;
    plot_front(folder, &front(client, id).await?)?;
    let curves = curves::of_search(client, &search).await?;
    if curves.is_empty() {
        output::note("no job has reported a loss yet, so there are no curves to draw");
        return Ok(());
    }
    let metric = curves::metric(&search);
    write(&plot::curves::draw(&curves, metric.as_deref())?, folder, "curves")
}

fn write(picture: &plot::Picture, folder: &Path, name: &str) -> Result<(), CommandError> {
    std::fs::create_dir_all(folder).map_err(|error| CommandError::file(folder, error))?;
    for ending in ["svg", "png"] {
        let path = folder.join(name).with_extension(ending);
        picture.write(&path)?;
        output::note(&format!("wrote {}", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_leaves_out_what_no_architecture_stays_within_unless_that_is_all_of_it() {
        let json = r#"{"spec": {"name": "p", "dataset": {"phantoms": {}}, "supernet": {"space": "2_3d"},
            "backbone": {"encoder_decoder": {"classes": 4}}, "patch": {"depth": 32, "height": 32, "width": 32}}}"#;
        let search: v1::Search = serde_json::from_str(json).unwrap();
        let within = |range: &str| Budgets::parse(range).unwrap().within_reach(search.clone(), None).unwrap();
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
