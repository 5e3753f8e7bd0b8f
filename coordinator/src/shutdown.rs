//! Stopping: one signal asks, a second one insists.
//!
//! ```text
//!  serving ── SIGINT, SIGTERM ──► stopping ── all tasks ended, or 10 s ──► stopped
//!                                    └──────── second signal ────────────► stopped
//! ```
//!
//! While stopping, no new request is taken, open requests are answered, and
//! watch streams end with UNAVAILABLE. Writes to the database are never torn:
//! what a deadline or a second signal cuts off is rolled back by Postgres.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a polite stop may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What every long-lived task listens to, and what waits for them all.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled by the first signal: finish what you do.
    pub stop: CancellationToken,
    /// Cancelled by the second signal: nobody waits for you any more.
    pub abort: CancellationToken,
    /// Tasks that are waited for.
    pub tasks: TaskTracker,
}

impl Shutdown {
    /// Turns signals into the two tokens, for the rest of the process's life.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn listen_to_signals(&self) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        tokio::spawn(async move {
            for token in [stop, abort] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(())
    }

    /// Waits until every task has ended, but not past the deadline or a second
    /// signal. Says whether all ended.
    pub async fn wait(&self) -> bool {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => true,
            () = self.abort.cancelled() => false,
            () = tokio::time::sleep(DEADLINE) => false,
        }
    }
}
