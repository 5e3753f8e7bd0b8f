//! `cakes search`: from a description to a front of retrained networks.

use std::path::{Path, PathBuf};

use cakes_proto::v1;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::derive::{DeriveArguments, derive};
use super::remark::{LabelArguments, ListFilter, NoteArguments, each_once, pair};
use super::repeat::{self, Repeat};
use super::{compare, curves, exchange, watch};
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
        after_help = "Examples:\n  cakes search submit search.json --wait\n  cakes search submit search.yaml --dry-run\n  cakes search submit urgent.yaml --project radiology --priority 10"
    )]
    Submit(SubmitArguments),
    /// Show one search with its jobs.
    #[command(after_help = "Example:\n  cakes search get 0198f3a2-7c1e")]
    Get(SearchId),
    /// List searches, newest first.
    #[command(
        after_help = "Examples:\n  cakes search list --limit 20\n  cakes search list --label owner=ada --label keep=\n  cakes search list --filter 'spec.name = hippo* AND NOT state = FAILED'\n  cakes search list --watch"
    )]
    List {
        /// Most searches to list.
        #[arg(long, default_value_t = 100, value_parser = super::at_least_one)]
        limit: usize,
        #[command(flatten)]
        filter: ListFilter,
        #[command(flatten)]
        repeat: Repeat,
    },
    /// Set and remove labels of a search, by which lists are filtered.
    #[command(after_help = "Example:\n  cakes search label 0198f3a2-7c1e owner=ada paper-")]
    Label(LabelArguments),
    /// Add a note to a search; it stays for good.
    #[command(after_help = "Example:\n  cakes search note 0198f3a2-7c1e the one for the paper")]
    Note(NoteArguments),
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
        #[arg(long, value_name = "DIR", conflicts_with = "watch")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        repeat: Repeat,
    },
    /// Compare searches: what was asked of each, and their networks in one table.
    ///
    /// JOINT marks the networks that no network of any of these searches beats, in
    /// quality and multiply-accumulates.
    #[command(after_help = "Example:\n  cakes search compare 0198f3a2-7c1e 0198f3a2-7c1e")]
    Compare {
        /// Ids of the searches, or prefixes that only one has each.
        #[arg(required = true, num_args = 2.., value_name = "ID")]
        ids: Vec<String>,
    },
    /// Derive more architectures from the scores of a search, without training.
    ///
    /// The search needs a finished supernet, nothing else. What is derived is
    /// recorded; `--retrain` or `cakes job retrain` trains it. Budgets are fractions of
    /// multiply-accumulates, parameters, or the time that `cakes search latency` shows.
    #[command(
        after_help = "Examples:\n  cakes search derive 0198f3a2-7c1e --budget 0.3 --budget 0.2\n  cakes search derive 0198f3a2-7c1e --budgets 0.1..0.9:0.1 --unconstrained\n  cakes search derive 0198f3a2-7c1e --budget 0.5 --measure param --multiple 8 --retrain\n  cakes search derive 0198f3a2-7c1e --budgets 0.3..0.9:0.1 --measure latency"
    )]
    Derive(DeriveArguments),
    /// Print what a channel of each kernel takes in each layer, as it was measured.
    ///
    /// The trainer of the supernet measured it on its device, for one patch; budgets of
    /// latency are fractions of the time of the all-3x3x3 network.
    #[command(after_help = "Example:\n  cakes search latency 0198f3a2-7c1e")]
    Latency(SearchId),
    /// Write the search as one file, to look into or to import elsewhere.
    ///
    /// A zip of JSON lines: description, seeds, digests of the data, versions,
    /// architectures, scores, results, events and all points of the learning curves; no
    /// weights. A search that has not ended is exported as it is now.
    #[command(after_help = "Example:\n  cakes search export 0198f3a2-7c1e --out search.zip")]
    Export(exchange::ExportArguments),
    /// Take in a search that was exported, all of it or nothing.
    ///
    /// It keeps its id and is read like all others, but never run: its weights stay where
    /// it was made. The same file again changes nothing.
    #[command(after_help = "Example:\n  cakes search import search.zip")]
    Import(exchange::ImportArguments),
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
    pub id: String,
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
    /// Project whose quotas and share its jobs count for [default: that of the file, else default].
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Of its jobs, -1000 to 1000; higher goes first [default: that of the file, else 0].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Only workers with this label get its jobs; several times for several labels [default: those of the
    /// file, else any worker].
    #[arg(long = "worker-label", value_name = "KEY=VALUE", value_parser = pair)]
    worker_labels: Vec<(String, String)>,
    /// When its jobs are wanted to be done; near that time they go before others of their project
    /// [default: that of the file, else none].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    deadline: Option<DateTime<Utc>>,
    /// Most device-hours that each of its jobs may take; one that has taken them is paused
    /// [default: that of the file, else none].
    #[arg(long, value_name = "HOURS")]
    cost_limit: Option<f64>,
    /// The same id returns the first search instead of a second one.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// # Errors
/// The file is wrong, the coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: SearchCommand) -> Result<Outcome, CommandError> {
    if let SearchCommand::Submit(arguments) = command {
        return Box::pin(submit(global, arguments)).await;
    }
    let client = Client::connect(global).await?;
    match command {
        SearchCommand::Submit(_) => {}
        SearchCommand::List { limit, filter, repeat } => {
            let fetch = async || list(&client, limit, &filter).await;
            let text = |all: &_| list_text(all, &filter);
            return repeat::print(global.output, repeat, fetch, text).await;
        }
        SearchCommand::Get(SearchId { id }) => {
            let search = rpc!(
                client,
                searches.get_search,
                "SearchService/GetSearch",
                v1::GetSearchRequest { id, ..v1::GetSearchRequest::default() }
            )?;
            print_search(global, &search)?;
        }
        SearchCommand::Watch(SearchId { id }) => return Box::pin(watch::search(global, &client, id)).await,
        SearchCommand::Cancel { search: SearchId { id }, reason } => {
            let request = v1::CancelSearchRequest { id, reason, ..v1::CancelSearchRequest::default() };
            let search = rpc!(client, searches.cancel_search, "SearchService/CancelSearch", request)?;
            print_search(global, &search)?;
        }
        SearchCommand::Label(arguments) => {
            let (set, remove) = arguments.change()?;
            let request =
                v1::LabelSearchRequest { id: arguments.id, set, remove, ..v1::LabelSearchRequest::default() };
            let search = rpc!(client, searches.label_search, "SearchService/LabelSearch", request)?;
            print_remarks(global, &search)?;
        }
        SearchCommand::Note(arguments) => {
            let request = v1::AddSearchNoteRequest::from(arguments);
            let search = rpc!(client, searches.add_search_note, "SearchService/AddSearchNote", request)?;
            print_remarks(global, &search)?;
        }
        SearchCommand::Front { search: SearchId { id }, plot: None, repeat } => {
            let fetch = async || front(&client, id.clone()).await;
            return repeat::print(global.output, repeat, fetch, front_text).await;
        }
        SearchCommand::Front { search: SearchId { id }, plot, .. } => {
            let front = front(&client, id).await?;
            print_front(global.output, &front)?;
            if let Some(folder) = plot {
                plot_front(&folder, &front)?;
            }
        }
        SearchCommand::Compare { ids } => {
            let compared = compare::compare(&client, &ids).await?;
            let width = output::terminal_width();
            output::print(global.output, &compared, |compared| tables::compare(compared, width))?;
        }
        SearchCommand::Derive(arguments) => derive(global, &client, arguments).await?,
        SearchCommand::Export(arguments) => return exchange::export(global, &client, &arguments).await,
        SearchCommand::Import(arguments) => return exchange::import(global, &client, &arguments).await,
        SearchCommand::Latency(SearchId { id }) => {
            let table = latency_table(&client, id).await?;
            output::print(global.output, &table, |table| tables::latency(table, output::terminal_width()))?;
        }
        SearchCommand::Plot { search: SearchId { id }, out } => plot_all(&client, id, &out).await?,
    }
    Ok(Outcome::Done)
}

fn print_search(global: &GlobalArguments, search: &v1::Search) -> Result<(), CommandError> {
    output::print(global.output, search, |search| tables::search_details(search, Utc::now()))
}

/// As [`print_search`], for people without the jobs, which nobody has asked for.
fn print_remarks(global: &GlobalArguments, search: &v1::Search) -> Result<(), CommandError> {
    output::print(global.output, search, |search| {
        tables::search_details(&v1::Search { jobs: Vec::new(), ..search.clone() }, Utc::now())
    })
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
    if let Some(project) = arguments.project {
        request.project = project;
    }
    request.priority = arguments.priority.unwrap_or(request.priority);
    if !arguments.worker_labels.is_empty() {
        request.worker_labels = each_once("--worker-label", arguments.worker_labels)?;
    }
    request.deadline = arguments.deadline.map(Into::into).or(request.deadline);
    request.cost_limit_device_hours = arguments.cost_limit.or(request.cost_limit_device_hours);
    request.validate_only |= arguments.dry_run;
    let is_dry = request.validate_only;
    let spread = request.search.as_ref().map(tables::spread).unwrap_or_default();
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
            return format!("valid; nothing was recorded\n{plan}{spread}");
        }
        format!("search {id} submitted; {plan}\n\nfollow it with\n  cakes search watch {id}")
    })?;
    Ok(Outcome::Done)
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let moment = DateTime::parse_from_rfc3339(text);
    let problem = |error| format!("{error}; write it as 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00");
    moment.map(|moment| moment.to_utc()).map_err(problem)
}

async fn list(
    client: &Client,
    limit: usize,
    filter: &ListFilter,
) -> Result<v1::ListSearchesResponse, CommandError> {
    let mut all = v1::ListSearchesResponse::default();
    loop {
        let request = v1::ListSearchesRequest {
            page_size: i32::try_from(limit - all.searches.len()).unwrap_or(i32::MAX),
            page_token: all.next_page_token,
            labels: filter.labels.labels(),
            filter: filter.expression.clone(),
            ..v1::ListSearchesRequest::default()
        };
        let page = rpc!(client, searches.list_searches, "SearchService/ListSearches", request)?;
        all.searches.extend(page.searches);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.searches.len() >= limit {
            return Ok(all);
        }
    }
}

fn list_text(all: &v1::ListSearchesResponse, filter: &ListFilter) -> String {
    if all.searches.is_empty() {
        if filter.is_any() {
            return "no such searches".to_owned();
        }
        return "no searches; submit one with `cakes search submit FILE`".to_owned();
    }
    let mut text = tables::searches(&all.searches, Utc::now()).render(output::terminal_width());
    if !all.next_page_token.is_empty() {
        text += &format!("\n\nthe first {} searches; more with --limit", all.searches.len());
    }
    text
}

/// Results of a search so far.
pub async fn front(client: &Client, id: String) -> Result<v1::ParetoFront, CommandError> {
    let request = v1::GetParetoFrontRequest { id };
    rpc!(client, searches.get_pareto_front, "SearchService/GetParetoFront", request)
}

/// What channels of a search's networks take.
///
/// # Errors
/// The coordinator is away, or the search has no such table; its message says why.
pub async fn latency_table(client: &Client, id: String) -> Result<v1::LatencyTable, CommandError> {
    let request = v1::GetLatencyTableRequest { id };
    rpc!(client, searches.get_latency_table, "SearchService/GetLatencyTable", request)
}

/// # Errors
/// The output cannot be written.
pub fn print_front(format: Format, front: &v1::ParetoFront) -> Result<(), CommandError> {
    output::print(format, front, front_text)
}

fn front_text(front: &v1::ParetoFront) -> String {
    tables::front_text(front, output::terminal_width())
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
    let request = v1::GetSearchRequest { id: id.clone(), ..v1::GetSearchRequest::default() };
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
