//! `cakes job`: one training each.

use cakes_proto::v1;
use chrono::Utc;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::remark::{GivenLabels, LabelArguments, ListFilter, NoteArguments};
use super::repeat::{self, Repeat};
use super::reproduce::{self, ReproduceArguments};
use super::{follow, watch};
use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::{output, tables};

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs, newest first.
    #[command(
        after_help = "Examples:\n  cakes job list --search 0198f3a2-7c1e --state running,queued\n  cakes job list --label keep=\n  cakes job list --filter 'result.quality >= 0.8 AND labels.team = vision'\n  cakes job list --watch"
    )]
    List(ListArguments),
    /// Show one job.
    #[command(after_help = "Example:\n  cakes job get 0198f3a2-7c1e")]
    Get(JobId),
    /// Follow a job until it has ended; the exit code says how.
    #[command(after_help = "Example:\n  cakes job watch 0198f3a2-7c1e")]
    Watch(JobId),
    /// Print what a job's trainer and worker wrote.
    #[command(after_help = "Example:\n  cakes job logs 0198f3a2-7c1e -f")]
    Logs(LogsArguments),
    /// Train an architecture that a search has recorded, as the search trains.
    #[command(
        after_help = "Examples:\n  cakes job retrain 4650aa08568a --search 0198f3a2-7c1e --seed 3 --wait\n  \
                      cakes job retrain 4650aa08568a --search 0198f3a2-7c1e --initial-weights supernet\n  \
                      cakes job retrain 4650aa08568a --search 0198f3a2-7c1e --seed 4 --label paper=miccai-2026"
    )]
    Retrain(RetrainArguments),
    /// Write what is needed to repeat a job without the service, and print the command.
    ///
    /// With --check, what that command has left behind is compared with what was
    /// recorded; the exit code is 1 if it differs. On the same kind of machine, with the
    /// same version, it is the same to the last bit.
    #[command(
        after_help = "Examples:\n  cakes job reproduce 0198f3a2-7c1e --out again\n  cakes job reproduce 0198f3a2-7c1e --out again --check"
    )]
    Reproduce(ReproduceArguments),
    /// Set and remove labels of a job, by which lists are filtered.
    #[command(after_help = "Example:\n  cakes job label 0198f3a2-7c1e keep= owner-")]
    Label(LabelArguments),
    /// Add a note to a job; it stays for good.
    #[command(after_help = "Example:\n  cakes job note 0198f3a2-7c1e overfits from epoch 30 on")]
    Note(NoteArguments),
    /// Say why a job is where it is.
    #[command(after_help = "Example:\n  cakes job explain 0198f3a2-7c1e")]
    Explain(JobId),
    /// List the checkpoints of a job, and why each is kept or was given up.
    #[command(after_help = "Example:\n  cakes job checkpoints 0198f3a2-7c1e")]
    Checkpoints(JobId),
    /// Keep a checkpoint until it is unpinned.
    #[command(after_help = "Example:\n  cakes job pin 0198f3a2-7c1e --step 4000")]
    Pin(CheckpointId),
    /// Take a pin away; what nothing else keeps is given up soon.
    #[command(after_help = "Example:\n  cakes job unpin 0198f3a2-7c1e --step 4000")]
    Unpin(CheckpointId),
    /// Cancel a job.
    #[command(after_help = "Example:\n  cakes job cancel 0198f3a2-7c1e --reason mistake")]
    Cancel(CancelArguments),
    /// Take a job off its device after a checkpoint, or out of the queue.
    #[command(after_help = "Example:\n  cakes job pause 0198f3a2-7c1e")]
    Pause(JobId),
    /// Queue a paused job again.
    #[command(
        after_help = "Examples:\n  cakes job resume 0198f3a2-7c1e\n  cakes job resume 0198f3a2-7c1e --cost-limit 20"
    )]
    Resume {
        #[command(flatten)]
        job: JobId,
        /// Most device-hours that it may take from now on, those that it has taken included [default: as
        /// it was].
        #[arg(long, value_name = "HOURS")]
        cost_limit: Option<f64>,
    },
    /// Queue a failed or cancelled job again, from its last checkpoint.
    #[command(after_help = "Example:\n  cakes job retry 0198f3a2-7c1e")]
    Retry(JobId),
}

#[derive(Debug, Args)]
pub struct JobId {
    /// Id of the job, or a prefix that only one has.
    id: String,
}

#[derive(Debug, Args)]
pub struct CheckpointId {
    /// Id of the job, or a prefix that only one has.
    id: String,
    /// Optimizer steps done in the checkpoint.
    #[arg(long, value_name = "N")]
    step: u64,
}

#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only jobs of this search.
    #[arg(long, value_name = "ID", default_value = "")]
    search: String,
    /// Only jobs in these states.
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<JobStateName>,
    /// Most jobs to list.
    #[arg(long, default_value_t = 200, value_parser = super::at_least_one)]
    limit: usize,
    #[command(flatten)]
    filter: ListFilter,
    #[command(flatten)]
    repeat: Repeat,
}

impl ListArguments {
    /// Whether there may be jobs that are not listed.
    fn leaves_out(&self) -> bool {
        !self.search.is_empty() || !self.state.is_empty() || self.filter.is_any()
    }
}

#[derive(Debug, Args)]
pub struct RetrainArguments {
    /// Digest of the architecture, or a prefix of at least 6 digits that only one has.
    digest: String,
    /// The search whose data set, patch and training are used.
    #[arg(long, value_name = "ID")]
    search: String,
    /// Everything random follows from it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What to start from, instead of what the search says.
    #[arg(long, value_enum, value_name = "WHAT")]
    initial_weights: Option<InitialWeightsName>,
    #[command(flatten)]
    labels: GivenLabels,
    /// Follow the job until it has ended; the exit code says how.
    #[arg(long)]
    wait: bool,
}

/// What a retraining starts from, as people type it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum InitialWeightsName {
    /// Random weights that follow from the seed.
    Random,
    /// Those that the search's supernet ended with, channel by channel.
    Supernet,
}

impl From<InitialWeightsName> for v1::InitialWeights {
    fn from(name: InitialWeightsName) -> Self {
        match name {
            InitialWeightsName::Random => v1::InitialWeights::Random,
            InitialWeightsName::Supernet => v1::InitialWeights::Supernet,
        }
    }
}

#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Id of the job, or a prefix that only one has.
    id: String,
    /// Go on until the job has ended.
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Args)]
pub struct CancelArguments {
    /// Id of the job, or a prefix that only one has.
    id: String,
    /// Kept with the job.
    #[arg(long, default_value = "")]
    reason: String,
}

/// States as people type them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum JobStateName {
    Queued,
    Leased,
    Running,
    Succeeded,
    Failed,
    Cancelling,
    Cancelled,
    Pausing,
    Paused,
}

impl From<JobStateName> for v1::JobState {
    fn from(name: JobStateName) -> Self {
        match name {
            JobStateName::Queued => v1::JobState::Queued,
            JobStateName::Leased => v1::JobState::Leased,
            JobStateName::Running => v1::JobState::Running,
            JobStateName::Succeeded => v1::JobState::Succeeded,
            JobStateName::Failed => v1::JobState::Failed,
            JobStateName::Cancelling => v1::JobState::Cancelling,
            JobStateName::Cancelled => v1::JobState::Cancelled,
            JobStateName::Pausing => v1::JobState::Pausing,
            JobStateName::Paused => v1::JobState::Paused,
        }
    }
}

/// # Errors
/// The coordinator is away or refuses.
pub async fn run(global: &GlobalArguments, command: JobCommand) -> Result<Outcome, CommandError> {
    let client = Client::connect(global).await?;
    let job = match command {
        JobCommand::List(arguments) => {
            let fetch = async || list(&client, &arguments).await;
            let text = |all: &_| list_text(all, arguments.leaves_out());
            return repeat::print(global.output, arguments.repeat, fetch, text).await;
        }
        JobCommand::Watch(JobId { id }) => return Box::pin(watch::job(global, &client, id)).await,
        JobCommand::Logs(LogsArguments { id, follow }) => return follow::logs(&client, id, follow).await,
        JobCommand::Reproduce(arguments) => return reproduce::run(global, &client, &arguments).await,
        JobCommand::Explain(JobId { id }) => return explain(global, &client, id).await,
        JobCommand::Checkpoints(JobId { id }) => {
            let request = v1::ListCheckpointsRequest { id };
            let found = rpc!(client, jobs.list_checkpoints, "JobService/ListCheckpoints", request)?;
            return print_checkpoints(global, &found);
        }
        JobCommand::Pin(CheckpointId { id, step }) => {
            let request = v1::PinCheckpointRequest { id, step };
            let found = rpc!(client, jobs.pin_checkpoint, "JobService/PinCheckpoint", request)?;
            return print_checkpoints(global, &found);
        }
        JobCommand::Unpin(CheckpointId { id, step }) => {
            let request = v1::UnpinCheckpointRequest { id, step };
            let found = rpc!(client, jobs.unpin_checkpoint, "JobService/UnpinCheckpoint", request)?;
            return print_checkpoints(global, &found);
        }
        JobCommand::Retrain(arguments) => {
            let RetrainArguments { digest, search, seed, initial_weights, labels, wait } = arguments;
            let request = v1::SubmitRetrainRequest {
                initial_weights: initial_weights.map(v1::InitialWeights::from).unwrap_or_default().into(),
                labels: labels.labels()?,
                ..retraining(&digest, &search, seed)
            };
            let job = submit_retrain(&client, request).await?;
            if wait {
                output::note(&format!("job {} submitted", job.id));
                return Box::pin(watch::job(global, &client, job.id)).await;
            }
            job
        }
        JobCommand::Get(JobId { id }) => rpc!(
            client,
            jobs.get_job,
            "JobService/GetJob",
            v1::GetJobRequest { id, ..v1::GetJobRequest::default() }
        )?,
        JobCommand::Cancel(CancelArguments { id, reason }) => rpc!(
            client,
            jobs.cancel_job,
            "JobService/CancelJob",
            v1::CancelJobRequest { id, reason, ..v1::CancelJobRequest::default() }
        )?,
        JobCommand::Label(arguments) => {
            let (set, remove) = arguments.change()?;
            let request =
                v1::LabelJobRequest { id: arguments.id, set, remove, ..v1::LabelJobRequest::default() };
            rpc!(client, jobs.label_job, "JobService/LabelJob", request)?
        }
        JobCommand::Note(arguments) => {
            let request = v1::AddJobNoteRequest::from(arguments);
            rpc!(client, jobs.add_job_note, "JobService/AddJobNote", request)?
        }
        JobCommand::Pause(JobId { id }) => rpc!(
            client,
            jobs.pause_job,
            "JobService/PauseJob",
            v1::PauseJobRequest { id, ..v1::PauseJobRequest::default() }
        )?,
        JobCommand::Resume { job: JobId { id }, cost_limit } => rpc!(
            client,
            jobs.resume_job,
            "JobService/ResumeJob",
            v1::ResumeJobRequest {
                id,
                cost_limit_device_hours: cost_limit,
                ..v1::ResumeJobRequest::default()
            }
        )?,
        JobCommand::Retry(JobId { id }) => rpc!(
            client,
            jobs.retry_job,
            "JobService/RetryJob",
            v1::RetryJobRequest { id, ..v1::RetryJobRequest::default() }
        )?,
    };
    output::print(global.output, &job, |job| tables::job_details(job, Utc::now()))?;
    Ok(Outcome::Done)
}

/// The retraining of an architecture outside its search's plan, as the search trains.
pub(super) fn retraining(digest: &str, search_id: &str, seed: u64) -> v1::SubmitRetrainRequest {
    v1::SubmitRetrainRequest {
        request_id: Uuid::new_v4().to_string(),
        architecture_digest: digest.to_owned(),
        search_id: search_id.to_owned(),
        seed,
        ..v1::SubmitRetrainRequest::default()
    }
}

/// Queues a retraining.
///
/// # Errors
/// The coordinator is away or refuses.
pub(super) async fn submit_retrain(
    client: &Client,
    request: v1::SubmitRetrainRequest,
) -> Result<v1::Job, CommandError> {
    rpc!(client, jobs.submit_retrain, "JobService/SubmitRetrain", request)
}

async fn list(client: &Client, arguments: &ListArguments) -> Result<v1::ListJobsResponse, CommandError> {
    let states: Vec<i32> = arguments.state.iter().map(|name| v1::JobState::from(*name).into()).collect();
    let mut all = v1::ListJobsResponse::default();
    loop {
        let request = v1::ListJobsRequest {
            search_id: arguments.search.clone(),
            states: states.clone(),
            page_size: i32::try_from(arguments.limit - all.jobs.len()).unwrap_or(i32::MAX),
            page_token: all.next_page_token,
            labels: arguments.filter.labels.labels(),
            filter: arguments.filter.expression.clone(),
            ..v1::ListJobsRequest::default()
        };
        let page = rpc!(client, jobs.list_jobs, "JobService/ListJobs", request)?;
        all.jobs.extend(page.jobs);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.jobs.len() >= arguments.limit {
            return Ok(all);
        }
    }
}

fn list_text(all: &v1::ListJobsResponse, leaves_out: bool) -> String {
    if all.jobs.is_empty() {
        return if leaves_out { "no such jobs" } else { "no jobs" }.to_owned();
    }
    let mut text = tables::jobs(&all.jobs, Utc::now()).render(output::terminal_width());
    if !all.next_page_token.is_empty() {
        text += &format!("\n\nthe first {} jobs; more with --limit", all.jobs.len());
    }
    text
}

async fn explain(global: &GlobalArguments, client: &Client, id: String) -> Result<Outcome, CommandError> {
    let request = v1::ExplainJobRequest { id };
    let response = rpc!(client, jobs.explain_job, "JobService/ExplainJob", request)?;
    output::print(global.output, &response, |response| tables::explanation(response, Utc::now()))?;
    Ok(Outcome::Done)
}

fn print_checkpoints(
    global: &GlobalArguments,
    found: &v1::ListCheckpointsResponse,
) -> Result<Outcome, CommandError> {
    output::print(global.output, found, |found| tables::checkpoints(found, Utc::now()))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_says_whether_others_were_left_out() {
        let all = ListArguments {
            search: String::new(),
            state: Vec::new(),
            limit: 200,
            filter: ListFilter::default(),
            repeat: Repeat::default(),
        };
        let text =
            |arguments: &ListArguments| list_text(&v1::ListJobsResponse::default(), arguments.leaves_out());
        assert_eq!(text(&all), "no jobs");
        let filter = ListFilter { expression: "owner = ada".to_owned(), ..ListFilter::default() };
        assert_eq!(text(&ListArguments { filter, ..all }), "no such jobs");
    }
}
