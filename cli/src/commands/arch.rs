//! `cakes arch`: which kernel computes how many channels of which layer.

mod export;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cakes::Extent;
use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, Form, MiddleLayer, ResnetDepth, VideoResnet};
use cakes::cost::{Cost, cost};
use cakes::derive::reference_macs;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::published;
use cakes::spec::CheckedSearch;
use cakes_proto::convert::{architecture_from_wire, cost_to_wire};
use cakes_proto::v1;
use chrono::Utc;
use clap::{Args, Subcommand};
use export::ExportArguments;

use super::remark::NoteArguments;
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::input::{NetworkFile, Text, parse_extent};
use crate::plot::composition;
use crate::{format, output, tables};

#[derive(Debug, Subcommand)]
pub enum ArchCommand {
    /// List architectures, newest first.
    #[command(after_help = "Example:\n  cakes arch list --search 0198f3a2-7c1e")]
    List {
        /// Only those of this search.
        #[arg(long, value_name = "ID", default_value = "")]
        search: String,
        /// Most architectures to list.
        #[arg(long, default_value_t = 200, value_parser = super::at_least_one)]
        limit: usize,
    },
    /// Show one architecture; with -o json its file.
    #[command(
        after_help = "Examples:\n  cakes arch get 4650aa08568a\n  cakes arch get 4650aa08568a -o json > net.json"
    )]
    Get {
        /// Digest, or a prefix of at least 6 digits that only one has.
        digest: String,
    },
    /// Add a note to an architecture; it stays for good.
    #[command(after_help = "Example:\n  cakes arch note 4650aa08568a runs well on the small scanner")]
    Note(NoteArguments),
    /// Show the layers in which two architectures differ.
    #[command(after_help = "Example:\n  cakes arch diff 4650aa08568a net.json")]
    Diff {
        /// Digest or file.
        left: String,
        /// Digest or file.
        right: String,
    },
    /// Count parameters and multiply-accumulates, layer by layer.
    ///
    /// A file needs no server. Of a search file or a backbone the costs of the
    /// all-3x3x3 network and of the supernet are given. A file of configurations as
    /// the paper's authors write them is read with --published; they are those of a
    /// video ResNet-50.
    #[command(
        after_help = "Examples:\n  cakes arch cost net.json --extent 32x32x32\n  cakes arch cost search.json\n  cakes arch cost 4650aa08568a\n  cakes arch cost --published deploy/examples/published.txt --name CAKES12D_C --frames 8"
    )]
    Cost(CostArguments),
    /// Write a trained network for PyTorch, ONNX Runtime or MONAI.
    ///
    /// The weights of a job come from the artifact store and are compared with the hashes
    /// that the coordinator knows. With a folder (runs/net/checkpoints/step-000000400) or a file
    /// of weights, and a file of the architecture, no server is needed. The output
    /// appears whole or not at all.
    #[command(
        after_help = "Examples:\n  cakes arch export 4650aa08568a --format onnx --weights 0198f3a2-7c1e --out net.onnx\n  cakes arch export 4650aa08568a --format pytorch --weights 0198f3a2-7c1e --out net --fold-norms\n  cakes arch export net.json --format monai-bundle --weights 0198f3a2-7c1e --out bundle"
    )]
    Export(ExportArguments),
    /// Draw the channels of every layer by kernel.
    #[command(after_help = "Example:\n  cakes arch plot 4650aa08568a --out net.svg")]
    Plot {
        /// Digest or file.
        #[arg(value_name = "DIGEST_OR_FILE")]
        what: String,
        /// Where to; the ending says whether SVG or PNG.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct CostArguments {
    /// File of an architecture, a search or a backbone, or a digest.
    #[arg(
        value_name = "FILE_OR_DIGEST",
        required_unless_present = "published",
        conflicts_with = "published"
    )]
    what: Option<String>,
    /// Extent of one sample in voxels; the patch if the search or service knows it.
    #[arg(long, value_name = "DxHxW", value_parser = parse_extent)]
    extent: Option<Extent>,
    /// File of configurations in the text format of the paper's authors.
    #[arg(long, value_name = "FILE")]
    published: Option<PathBuf>,
    /// Which configuration of the file; the only one if there is one alone.
    #[arg(long, requires = "published")]
    name: Option<String>,
    /// Frames of a clip of 224x224 pixels.
    #[arg(long, requires = "published", conflicts_with = "extent", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    frames: u32,
    /// Classes that a published network tells apart.
    #[arg(long, requires = "published", default_value_t = 174)]
    classes: u32,
}

/// # Errors
/// A file is wrong, or the coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: ArchCommand) -> Result<Outcome, CommandError> {
    match command {
        ArchCommand::List { search, limit } => list(global, search, limit).await?,
        ArchCommand::Get { digest } => get(global, digest).await?,
        ArchCommand::Note(arguments) => note(global, arguments).await?,
        ArchCommand::Diff { left, right } => diff(global, &left, &right).await?,
        ArchCommand::Cost(arguments) => count(global, &arguments).await?,
        ArchCommand::Export(arguments) => export::run(global, &arguments).await?,
        ArchCommand::Plot { what, out } => plot(global, &what, &out).await?,
    }
    Ok(Outcome::Done)
}

async fn list(global: &GlobalArguments, search_id: String, limit: usize) -> Result<(), CommandError> {
    let client = Client::connect(global).await?;
    let mut all = v1::ListArchitecturesResponse::default();
    loop {
        let request = v1::ListArchitecturesRequest {
            search_id: search_id.clone(),
            page_size: i32::try_from(limit - all.architectures.len()).unwrap_or(i32::MAX),
            page_token: all.next_page_token,
        };
        let page =
            rpc!(client, architectures.list_architectures, "ArchitectureService/ListArchitectures", request)?;
        all.architectures.extend(page.architectures);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.architectures.len() >= limit {
            break;
        }
    }
    output::print(global.output, &all, |all| match all.architectures.as_slice() {
        [] => "no architectures; a search derives them when its supernet is trained".to_owned(),
        list => tables::architectures(list, Utc::now()).render(output::terminal_width()),
    })?;
    if !all.next_page_token.is_empty() {
        output::note(&format!("the first {} architectures; more with --limit", all.architectures.len()));
    }
    Ok(())
}

/// An architecture, and what the service says of it if it came from there.
struct Found {
    architecture: Architecture,
    message: Option<v1::Architecture>,
}

/// Finds an architecture by file or by digest.
async fn find(global: &GlobalArguments, what: &str) -> Result<Found, CommandError> {
    match network(global, what).await? {
        Network::Known(found) => Ok(*found),
        Network::File(NetworkFile::Architecture(architecture)) => Ok(Found { architecture, message: None }),
        Network::File(_) => Err(CommandError::invalid(format!(
            "{what}: holds no architecture; it needs the keys backbone and layers"
        ))),
    }
}

enum Network {
    Known(Box<Found>),
    File(NetworkFile),
}

async fn network(global: &GlobalArguments, what: &str) -> Result<Network, CommandError> {
    if Path::new(what).exists() || what == "-" {
        return NetworkFile::parse(&Text::read(Path::new(what))?).map(Network::File);
    }
    let is_digest = (6..=64).contains(&what.len()) && what.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return Err(CommandError::invalid(format!("{what}: there is no such file, and it is no digest")));
    }
    let message = fetch(global, what).await?;
    let architecture = domain(message.clone())?;
    Ok(Network::Known(Box::new(Found { architecture, message: Some(message) })))
}

async fn fetch(global: &GlobalArguments, digest: &str) -> Result<v1::Architecture, CommandError> {
    let client = Client::connect(global).await?;
    let request = v1::GetArchitectureRequest { digest: digest.to_owned() };
    rpc!(client, architectures.get_architecture, "ArchitectureService/GetArchitecture", request)
}

fn domain(message: v1::Architecture) -> Result<Architecture, CommandError> {
    architecture_from_wire(message.backbone, message.layers).map_err(|violation| {
        CommandError::Failed(format!("the coordinator sent no architecture: {violation}"))
    })
}

async fn get(global: &GlobalArguments, digest: String) -> Result<(), CommandError> {
    let message = fetch(global, &digest).await?;
    let architecture = domain(message.clone())?;
    output::print(global.output, &architecture, |architecture| {
        let mut lines = vec![
            format!("architecture  {}", message.digest),
            format!("origin        {}", tables::origins(&message)),
        ];
        lines.extend(tables::notes(&message.notes, Utc::now()));
        if let Some(extent) = message.cost.as_ref().and_then(|cost| cost.extent) {
            let extent = [extent.depth, extent.height, extent.width];
            if let Ok(cost) = cost(&architecture.network(), extent) {
                let (params, macs) = (format::si(cost.param_count, ""), format::macs(cost.mac_count));
                lines.push(format!("cost          {params} params, {macs} for {}", format::extent(extent)));
                lines.push(String::new());
                lines.push(tables::layers(architecture, &cost).render(output::terminal_width()));
            }
        }
        lines.join("\n")
    })
}

async fn note(global: &GlobalArguments, arguments: NoteArguments) -> Result<(), CommandError> {
    let client = Client::connect(global).await?;
    let request = v1::AddArchitectureNoteRequest::from(arguments);
    let message = rpc!(
        client,
        architectures.add_architecture_note,
        "ArchitectureService/AddArchitectureNote",
        request
    )?;
    output::print(global.output, &message, |message| tables::notes(&message.notes, Utc::now()).join("\n"))
}

async fn diff(global: &GlobalArguments, left: &str, right: &str) -> Result<(), CommandError> {
    let left = find(global, left).await?.architecture;
    let right = find(global, right).await?.architecture;
    output::print(global.output, &left.diff(&right), |differences| {
        if differences.is_empty() {
            let digest = left.digest().to_string();
            return format!("equal; both are {}", format::short_digest(&digest));
        }
        let layers = left.layers().count().max(right.layers().count());
        let table = tables::differences(&left, &right).render(output::terminal_width());
        format!("{table}\n{} of {layers} layers differ", differences.len())
    })
}

/// Named networks to count.
type Costs = Vec<(String, Cost)>;

/// A published configuration as the video ResNet-50 that it is of.
fn count_published(
    global: &GlobalArguments,
    file: &Path,
    arguments: &CostArguments,
) -> Result<(), CommandError> {
    let text = Text::read(file)?;
    let backbone = Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: arguments.classes,
        depth: ResnetDepth::R50,
        base_width: 64,
        dropout_percent: 30,
        middle: MiddleLayer::Searchable,
    });
    let architecture = published::parse(&text.content)
        .and_then(|all| published::find(&all, arguments.name.as_deref())?.architecture(&backbone));
    let architecture =
        architecture.map_err(|error| CommandError::invalid(format!("{}: {error}", text.name)))?;
    print_architecture(global, &architecture, arguments.extent.unwrap_or([arguments.frames, 224, 224]))
}

async fn count(global: &GlobalArguments, arguments: &CostArguments) -> Result<(), CommandError> {
    if let Some(file) = &arguments.published {
        return count_published(global, file, arguments);
    }
    let what = arguments.what.as_deref().unwrap_or_default();
    let missing =
        || CommandError::invalid(format!("{what}: say for which sample, for example --extent 32x32x32"));
    match network(global, what).await? {
        Network::Known(found) => {
            let known = found.message.and_then(|message| message.cost?.extent);
            let extent = arguments.extent.or(known.map(|extent| [extent.depth, extent.height, extent.width]));
            print_architecture(global, &found.architecture, extent.ok_or_else(missing)?)
        }
        Network::File(NetworkFile::Architecture(architecture)) => {
            print_architecture(global, &architecture, arguments.extent.ok_or_else(missing)?)
        }
        Network::File(NetworkFile::Search(search)) => {
            let extent = arguments.extent.unwrap_or(search.spec().patch);
            let costs = costs_of_search(&search, extent)?;
            print_costs(global, &search.spec().backbone, extent, &costs)
        }
        Network::File(NetworkFile::Backbone(backbone)) => {
            let extent = arguments.extent.ok_or_else(missing)?;
            let (kernels, mode) = (KernelSet::volumetric(), SearchMode::CostPriority);
            let costs = vec![uniform(&backbone, extent)?, supernet(&backbone, &kernels, mode, extent)?];
            print_costs(global, &backbone, extent, &costs)
        }
    }
}

fn invalid(error: impl std::fmt::Display) -> CommandError {
    CommandError::invalid(error.to_string())
}

fn fits(backbone: &Backbone, extent: Extent) -> Result<(), CommandError> {
    backbone.check_extent(extent).map_err(|problem| CommandError::invalid(format!("--extent: {problem}")))
}

fn print_architecture(
    global: &GlobalArguments,
    architecture: &Architecture,
    extent: Extent,
) -> Result<(), CommandError> {
    fits(architecture.backbone(), extent)?;
    let total = cost(&architecture.network(), extent).map_err(invalid)?;
    let reference = reference_macs(architecture.backbone(), extent).map_err(invalid)?;
    let message = cost_to_wire(&total, extent, reference);
    output::print(global.output, &message, |message| {
        format!(
            "{}\n\n{} parameters, {} multiply-accumulates for {}, {} of the all-3x3x3 network",
            tables::layers(architecture, &total).render(output::terminal_width()),
            message.param_count,
            message.mac_count,
            format::extent(extent),
            format::percent(message.mac_fraction),
        )
    })
}

fn uniform(backbone: &Backbone, extent: Extent) -> Result<(String, Cost), CommandError> {
    let network = Architecture::even(backbone.clone(), &[Kernel::K333]).map_err(invalid)?.network();
    Ok(("all 3x3x3".to_owned(), cost(&network, extent).map_err(invalid)?))
}

fn supernet(
    backbone: &Backbone,
    kernels: &KernelSet,
    mode: SearchMode,
    extent: Extent,
) -> Result<(String, Cost), CommandError> {
    let network = backbone.network(Form::Supernet { mode, kernels });
    Ok(("supernet".to_owned(), cost(&network, extent).map_err(invalid)?))
}

fn costs_of_search(search: &CheckedSearch, extent: Extent) -> Result<Costs, CommandError> {
    let spec = search.spec();
    fits(&spec.backbone, extent)?;
    let mut costs = vec![
        uniform(&spec.backbone, extent)?,
        supernet(&spec.backbone, &spec.supernet.kernels, spec.supernet.mode, extent)?,
    ];
    for (baseline, architecture) in search.baselines() {
        let total = cost(&architecture.network(), extent).map_err(invalid)?;
        costs.push((format!("baseline {}", baseline.name()), total));
    }
    Ok(costs)
}

fn print_costs(
    global: &GlobalArguments,
    backbone: &Backbone,
    extent: Extent,
    costs: &Costs,
) -> Result<(), CommandError> {
    fits(backbone, extent)?;
    let reference = reference_macs(backbone, extent).map_err(invalid)?;
    let messages: BTreeMap<&str, v1::Cost> =
        costs.iter().map(|(name, cost)| (name.as_str(), cost_to_wire(cost, extent, reference))).collect();
    output::print(global.output, &messages, |_| {
        let table = tables::costs(costs, reference).render(output::terminal_width());
        format!("{table}\nfor one sample of {} voxels", format::extent(extent))
    })
}

async fn plot(global: &GlobalArguments, what: &str, out: &Path) -> Result<(), CommandError> {
    crate::plot::check_ending(out)?;
    let found = find(global, what).await?;
    let card = match &found.message {
        Some(message) => composition::Card::of_message(message, None)?,
        None => composition::Card::new(what.to_owned(), &found.architecture),
    };
    composition::draw(&[card])?.write(out)?;
    output::note(&format!("wrote {}", out.display()));
    Ok(())
}
