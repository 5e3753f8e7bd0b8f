//! A client that asks something ordinary, one question after the other.

use std::time::{Duration, Instant};

use anyhow::Result;
use cakes_proto::v1::ListWorkersRequest;
use cakes_proto::v1::fleet_service_client::FleetServiceClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::bench::Sorted;
use crate::fake::connect;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that asks until it is stopped.
#[derive(Debug)]
pub(super) struct Client {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Calls>,
}

/// What it was told.
#[derive(Debug)]
pub(super) struct Calls {
    pub took: Sorted,
    pub failures: usize,
}

impl Client {
    pub(super) fn start(url: &str) -> Result<Self> {
        let mut workers = FleetServiceClient::new(connect(url)?);
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut took, mut failures) = (Vec::new(), 0);
            while stopped.try_recv().is_err() {
                let began = Instant::now();
                let asked = workers.list_workers(ListWorkersRequest::default());
                match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(Ok(_)) => took.push(began.elapsed()),
                    Ok(Err(_)) | Err(_) => failures += 1,
                }
                tokio::time::sleep(PAUSE).await;
            }
            Calls { took: Sorted::new(took), failures }
        });
        Ok(Client { stop, task })
    }

    pub(super) async fn stop(self) -> Result<Calls> {
        let _ = self.stop.send(());
        Ok(self.task.await?)
    }
}
