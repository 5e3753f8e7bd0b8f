//! Watching a search or a job until it has ended.

use std::future::Future;
use std::time::Duration;

use cakes_proto::v1;
use chrono::Utc;
use tonic::{Response, Status, Streaming};

use super::follow::Patience;
use crate::args::GlobalArguments;
use crate::client::Client;
use crate::commands::search::{front, print_front};
use crate::error::{CommandError, Outcome};
use crate::output;
use crate::progress::{Snapshot, Viewer};
use crate::tables;

/// Follows a search and prints its front.
///
/// # Errors
/// The coordinator refuses, or the output cannot be written.
pub async fn search(global: &GlobalArguments, client: &Client, id: String) -> Result<Outcome, CommandError> {
    let request = v1::WatchSearchRequest { id: id.clone(), resume_token: String::new() };
    client.show_equivalent("SearchService/WatchSearch", &request);
    let open = |seen: Option<&v1::Search>| {
        let resume_token = seen.map(|search| search.resume_token.clone()).unwrap_or_default();
        let request = v1::WatchSearchRequest { id: id.clone(), resume_token };
        let mut searches = client.searches();
        async move { searches.watch_search(request).await }
    };
    let ended = follow(open, |search: &v1::Search| Snapshot::of_search(search)).await?;
    let Some(search) = ended else {
        output::note(&format!("the search goes on; follow it with\n  cakes search watch {id}"));
        return Ok(Outcome::Interrupted);
    };
    output::note("");
    print_front(global.output, &front(client, search.id.clone()).await?)?;
    Ok(match search.state() {
        v1::SearchState::Succeeded => Outcome::Done,
        v1::SearchState::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    })
}

/// Follows a job and prints what it left behind.
///
/// # Errors
/// The coordinator refuses, or the output cannot be written.
pub async fn job(global: &GlobalArguments, client: &Client, id: String) -> Result<Outcome, CommandError> {
    let request = v1::WatchJobRequest { id: id.clone(), resume_token: String::new() };
    client.show_equivalent("JobService/WatchJob", &request);
    let open = |seen: Option<&v1::Job>| {
        let resume_token = seen.map(|job| job.resume_token.clone()).unwrap_or_default();
        let request = v1::WatchJobRequest { id: id.clone(), resume_token };
        let mut jobs = client.jobs();
        async move { jobs.watch_job(request).await }
    };
    let ended = follow(open, |job: &v1::Job| Snapshot::of_job(job)).await?;
    let Some(job) = ended else {
        output::note(&format!("the job goes on; follow it with\n  cakes job watch {id}"));
        return Ok(Outcome::Interrupted);
    };
    output::print(global.output, &job, |job| tables::job_details(job, Utc::now()))?;
    Ok(match job.state() {
        v1::JobState::Succeeded => Outcome::Done,
        v1::JobState::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    })
}

/// Shows every message of a stream until the last; opens the stream again behind the last
/// message when it breaks. `None` if the user pressed Ctrl-C.
async fn follow<T, O>(
    open: impl Fn(Option<&T>) -> O,
    snapshot: impl for<'a> Fn(&'a T) -> Snapshot<'a>,
) -> Result<Option<T>, CommandError>
where
    O: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let mut viewer = Viewer::new();
    let mut patience = Patience::default();
    let mut redraw = tokio::time::interval(Duration::from_secs(1));
    let mut latest: Option<T> = None;
    // One listener for the whole time, so that no Ctrl-C is lost between two waits.
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let opened = tokio::select! {
            _ = &mut interrupted => return Ok(None),
            opened = open(latest.as_ref()) => opened,
        };
        let status = match opened {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    let message = tokio::select! {
                        _ = &mut interrupted => return Ok(None),
                        _ = redraw.tick() => {
                            if let Some(latest) = &latest {
                                viewer.show(&snapshot(latest), Utc::now());
                            }
                            continue;
                        }
                        message = stream.message() => message,
                    };
                    match message {
                        Ok(Some(message)) => {
                            patience.refill();
                            viewer.show(&snapshot(&message), Utc::now());
                            if snapshot(&message).has_ended {
                                return Ok(Some(message));
                            }
                            latest = Some(message);
                        }
                        Ok(None) => break Status::unavailable("the stream ended early"),
                        Err(status) => break status,
                    }
                }
            }
        };
        tokio::select! {
            _ = &mut interrupted => return Ok(None),
            waited = patience.wait(status, |text| viewer.say(text)) => waited?,
        }
    }
}
