//! `cakes worker`: the machines that train.

use cakes_proto::v1;
use chrono::Utc;
use clap::{Args, Subcommand};

use super::autoscale::{self, AutoscaleArguments};
use super::repeat::{self, Repeat};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::{output, tables};

#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List the workers that were heard of in the last day.
    #[command(after_help = "Examples:\n  cakes worker list\n  cakes worker list --watch=10")]
    List(Repeat),
    /// Let a worker save its jobs, hand them back and take no more.
    #[command(after_help = "Example:\n  cakes worker drain gpu-01")]
    Drain(WorkerName),
    /// Let a worker finish its jobs and take no more.
    #[command(after_help = "Example:\n  cakes worker cordon gpu-01")]
    Cordon(WorkerName),
    /// Let a drained, cordoned or suspect worker take jobs again.
    #[command(after_help = "Example:\n  cakes worker uncordon gpu-01")]
    Uncordon(WorkerName),
    /// Submit workers to Slurm as jobs wait, and give them back when none do.
    #[command(
        after_help = "\
Examples:
  cakes worker autoscale --script deploy/slurm/worker.sbatch --max 8 --once --dry-run
  cakes worker autoscale --script deploy/slurm/worker.sbatch --pool a100 --max 16 -- --partition=gpu --gpus-per-node=1

It needs sbatch, squeue and scancel, and runs until Ctrl-C; its allocations stay then, and
the next one goes on with them. What it does it prints, one line each.",
        arg_required_else_help = true
    )]
    Autoscale(AutoscaleArguments),
}

#[derive(Debug, Args)]
pub struct WorkerName {
    /// Name of the worker.
    name: String,
}

/// # Errors
/// The coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: WorkerCommand) -> Result<Outcome, CommandError> {
    let client = Client::connect(global).await?;
    let worker = match command {
        WorkerCommand::List(repeat) => {
            return repeat::print(global.output, repeat, async || list(&client).await, list_text).await;
        }
        WorkerCommand::Autoscale(arguments) => {
            return Box::pin(autoscale::run(client, global.output, arguments)).await;
        }
        WorkerCommand::Drain(WorkerName { name: id }) => {
            rpc!(client, fleet.drain_worker, "FleetService/DrainWorker", v1::DrainWorkerRequest { id })?
        }
        WorkerCommand::Cordon(WorkerName { name: id }) => {
            rpc!(client, fleet.cordon_worker, "FleetService/CordonWorker", v1::CordonWorkerRequest { id })?
        }
        WorkerCommand::Uncordon(WorkerName { name: id }) => rpc!(
            client,
            fleet.uncordon_worker,
            "FleetService/UncordonWorker",
            v1::UncordonWorkerRequest { id }
        )?,
    };
    output::print(global.output, &worker, |worker| {
        tables::workers(std::slice::from_ref(worker), Utc::now()).render(output::terminal_width())
    })?;
    Ok(Outcome::Done)
}

async fn list(client: &Client) -> Result<v1::ListWorkersResponse, CommandError> {
    rpc!(client, fleet.list_workers, "FleetService/ListWorkers", v1::ListWorkersRequest {})
}

fn list_text(response: &v1::ListWorkersResponse) -> String {
    match response.workers.as_slice() {
        [] => "no workers; start one with `cakes-worker`".to_owned(),
        workers => tables::workers(workers, Utc::now()).render(output::terminal_width()),
    }
}
