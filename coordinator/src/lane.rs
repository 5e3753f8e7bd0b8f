//! One queue for many callers, served in batches: whatever waits when a turn
//! begins shares one transaction, and so one write to the disk. Nobody is made to
//! wait for company.
//!
//! ```text
//!  callers ──► queue ──► take all that waits ─► together ─► answers
//!   (refused when full)                           └─ passed over ─► alone ─► answer
//! ```
//!
//! One batch is under way at a time: a second one beside it would make both smaller,
//! and most of what a small transaction costs does not depend on how many share it.
//!
//! A call that has left the queue is carried to its end even if its caller goes
//! away; one whose caller went away before is dropped, like a message that never
//! came.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::store::Error;
use crate::store::attempts::Answers;

/// Calls of one kind.
pub(crate) trait Calls: Clone + Send + Sync + 'static {
    type Call: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// Calls that share a transaction at the most, by weight.
    const WEIGHT_MAX: usize;

    /// How much work a call is; 1 for a small one.
    fn weight(call: &Self::Call) -> usize;

    /// Makes calls in one transaction that waits for nobody's locks.
    fn together(
        &self,
        calls: &[Self::Call],
    ) -> impl Future<Output = Result<Answers<Self::Answer>, Error>> + Send;

    /// Makes one call.
    fn alone(&self, call: &Self::Call) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}

/// Calls that may wait; more are refused.
const QUEUE_MAX: usize = 8192;

/// Calls that are made alone at a time.
const ALONE_MAX: usize = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("{QUEUE_MAX} calls of this kind are waiting; try again")]
    Full,
    #[error("the task that serves calls has ended")]
    Ended,
    #[error(transparent)]
    Store(#[from] Error),
}

struct Waiting<C: Calls> {
    call: C::Call,
    answer: oneshot::Sender<Result<C::Answer, Error>>,
}

/// The callers' end of a queue. Its server ends with the last clone of it.
pub(crate) struct Lane<C: Calls> {
    queue: mpsc::Sender<Waiting<C>>,
}

impl<C: Calls> Clone for Lane<C> {
    fn clone(&self) -> Self {
        Lane { queue: self.queue.clone() }
    }
}

impl<C: Calls> Lane<C> {
    /// A queue with its server, which is among `tasks`.
    pub(crate) fn new(calls: &C, tasks: &TaskTracker) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let alone = Arc::new(Semaphore::new(ALONE_MAX));
        let server = Server { calls: calls.clone(), waiting, alone, tasks: tasks.clone() };
        tasks.spawn(server.run());
        Lane { queue }
    }

    /// Makes a call, with others if there are any.
    pub(crate) async fn call(&self, call: C::Call) -> Result<C::Answer, LaneError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { call, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LaneError::Full,
            mpsc::error::TrySendError::Closed(_) => LaneError::Ended,
        })?;
        Ok(answered.await.map_err(|_| LaneError::Ended)??)
    }
}

struct Server<C: Calls> {
    calls: C,
    waiting: mpsc::Receiver<Waiting<C>>,
    alone: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl<C: Calls> Server<C> {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            self.serve(batch).await;
        }
    }

    /// All that waits, but for those who have gone; `None` when nobody can come.
    async fn next_batch(&mut self) -> Option<Vec<Waiting<C>>> {
        let mut batch = vec![self.waiting.recv().await?];
        let mut weight = C::weight(&batch[0].call);
        while weight < C::WEIGHT_MAX {
            let Ok(next) = self.waiting.try_recv() else { break };
            weight += C::weight(&next.call);
            batch.push(next);
        }
        batch.retain(|waiting| !waiting.answer.is_closed());
        Some(batch)
    }

    async fn serve(&self, batch: Vec<Waiting<C>>) {
        let (calls, askers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { call, answer }| (call, answer)).unzip();
        if calls.is_empty() {
            return;
        }
        let answers = match self.calls.together(&calls).await {
            Ok(answers) => answers,
            Err(error) => {
                // Either nobody can be served, or one of them spoils it for all.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    calls = calls.len(),
                    "a batch failed"
                );
                calls.iter().map(|_| error.for_all().map(Err)).collect()
            }
        };
        for ((call, asker), answer) in calls.into_iter().zip(askers).zip(answers) {
            match answer {
                // The caller may be gone; the call was made all the same.
                Some(answer) => drop(asker.send(answer)),
                None => self.serve_alone(call, asker),
            }
        }
    }

    /// Beside the batches, which must not wait for whoever holds its rows.
    fn serve_alone(&self, call: C::Call, asker: oneshot::Sender<Result<C::Answer, Error>>) {
        let (calls, alone) = (self.calls.clone(), self.alone.clone());
        self.tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = alone.acquire_owned().await;
            if !asker.is_closed() {
                let answer = calls.alone(&call).await;
                drop(asker.send(answer));
            }
        });
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
