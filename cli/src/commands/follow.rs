//! Following a stream over restarts of the coordinator, and the logs of a job.

use std::time::Duration;

use cakes_proto::v1;
use console::style;
use tonic::Status;

use crate::client::{Client, is_interruption};
use crate::error::{CommandError, Outcome};
use crate::{format, output};

/// Longest pause between two attempts to reach the coordinator.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long to wait before the coordinator is asked again.
#[derive(Debug, Default)]
pub struct Patience {
    attempts: u32,
}

impl Patience {
    /// Something came: the next trouble is a new one.
    pub fn refill(&mut self) {
        self.attempts = 0;
    }

    /// Waits if `status` says that the coordinator went away; says so once.
    ///
    /// # Errors
    /// The status says anything else.
    pub async fn wait(&mut self, status: Status, say: impl FnOnce(&str)) -> Result<(), CommandError> {
        if !is_interruption(&status) {
            return Err(CommandError::Server(Box::new(status)));
        }
        if self.attempts == 0 {
            say("the coordinator went away; waiting for it to come back");
        }
        tokio::time::sleep(Duration::from_millis(500 << self.attempts.min(4)).min(PAUSE_MAX)).await;
        self.attempts += 1;
        Ok(())
    }
}

/// Prints the log of a job. A line that was printed before the connection broke
/// is not printed again.
///
/// # Errors
/// The coordinator refuses, or the output cannot be written.
pub async fn logs(client: &Client, id: String, follow: bool) -> Result<Outcome, CommandError> {
    let mut request = v1::StreamJobLogsRequest { id, follow, resume_token: String::new() };
    client.show_equivalent("JobService/StreamJobLogs", &request);
    let mut patience = Patience::default();
    loop {
        let status = match client.jobs().stream_job_logs(request.clone()).await {
            Err(status) => status,
            Ok(response) => {
                let mut lines = response.into_inner();
                loop {
                    match lines.message().await {
                        Ok(None) => return Ok(Outcome::Done),
                        Err(status) => break status,
                        Ok(Some(line)) => {
                            output::line(&log_line(&line))?;
                            request.resume_token = line.resume_token;
                            patience.refill();
                        }
                    }
                }
            }
        };
        patience.wait(status, output::note).await?;
    }
}

fn log_line(line: &v1::LogLine) -> String {
    let time = format::time(line.time.as_ref()).map(|time| time.format("%H:%M:%S").to_string());
    let stamp = format!("{} #{}", time.unwrap_or_default(), line.attempt);
    format!("{} {}", style(stamp).dim(), line.text)
}
