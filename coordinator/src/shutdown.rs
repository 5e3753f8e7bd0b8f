//! Stopping: one signal asks, a second one insists.
//!
//! ```text
//!  serving ── SIGINT, SIGTERM ──► draining ── --drain-time ──► stopping ── all tasks ended, or 10 s ──► stopped
//!                                    └────────────────────────────┴──────────── second signal ────────► stopped
//! ```
//!
//! While draining, everything goes on, but the health service says that this coordinator does
//! not serve, so that whoever goes by it leads nobody here any more. While stopping, no new
//! request is taken, open requests are answered, and watch streams end with UNAVAILABLE. Writes to the database are never torn:
//! what a deadline or a second signal cuts off is rolled back by Postgres.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a polite stop may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What every long-lived task listens to, and what waits for them all.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Cancelled by the first signal, and with `stop`: say that you are about to stop.
    pub draining: CancellationToken,
    /// Cancelled when the time to drain is over: finish what you do.
    pub stop: CancellationToken,
    /// Cancelled by the second signal: nobody waits for you any more.
    pub abort: CancellationToken,
    /// Tasks that are waited for.
    pub tasks: TaskTracker,
}

impl Default for Shutdown {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Shutdown {
            draining: stop.child_token(),
            stop,
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }
}

impl Shutdown {
    /// Turns signals into the tokens, for the rest of the process's life.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn listen_to_signals(&self, drain_time: Duration) -> io::Result<()> {
        let mut signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        let Shutdown { draining, stop, abort, .. } = self.clone();
        tokio::spawn(async move {
            signals.next().await;
            draining.cancel();
            let insists = tokio::select! {
                () = signals.next() => true,
                () = tokio::time::sleep(drain_time) => false,
            };
            stop.cancel();
            if !insists {
                signals.next().await;
            }
            abort.cancel();
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

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Waits for somebody who asks to stop.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
