//! Workers, for the people who operate them.

use cakes_proto::v1;
use cakes_proto::v1::fleet_service_server::FleetService;
use tonic::{Request, Response, Status};

use super::{Api, lookup, wire};
use crate::core::worker::Schedule;
use crate::store::read::workers;
use crate::store::workers as writes;

#[tonic::async_trait]
impl FleetService for Api {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let found = workers::list(self.reader(), self.policy.lease_ttl).await?;
        let workers = found.into_iter().map(wire::worker).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        self.schedule(&request.into_inner().id, Schedule::Draining).await
    }

    async fn cordon_worker(
        &self,
        request: Request<v1::CordonWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        self.schedule(&request.into_inner().id, Schedule::Cordoned).await
    }

    async fn uncordon_worker(
        &self,
        request: Request<v1::UncordonWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        self.schedule(&request.into_inner().id, Schedule::Ready).await
    }
}

impl Api {
    async fn schedule(&self, id: &str, schedule: Schedule) -> Result<Response<v1::Worker>, Status> {
        let id = lookup::worker("id", id)?;
        let worker = id.clone();
        self.write(move |pool| async move { writes::schedule(&pool, &worker, schedule).await }).await?;
        let record = workers::get(self.reader(), &id, self.policy.lease_ttl).await?;
        Ok(Response::new(wire::worker(record)))
    }
}
