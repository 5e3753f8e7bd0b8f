//! Workers and projects, for the people who operate them.

use cakes_proto::v1;
use cakes_proto::v1::fleet_service_server::FleetService;
use tonic::{Request, Response, Status};

use super::status::invalid_field;
use super::{Api, lookup, wire};
use crate::core::project::{ProjectName, Terms};
use crate::core::worker::Schedule;
use crate::store::projects::ProjectRecord;
use crate::store::read::workers;
use crate::store::{projects, workers as writes};

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

    async fn list_projects(
        &self,
        _: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        Ok(Response::new(v1::ListProjectsResponse { projects: self.projects(None).await? }))
    }

    async fn set_project(
        &self,
        request: Request<v1::SetProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let v1::SetProjectRequest { name, share, device_quota, device_hours_quota, period_days } =
            request.into_inner();
        let name: ProjectName = name.parse().map_err(|problem| invalid_field("name", problem))?;
        let terms = Terms::check(share, device_quota, device_hours_quota, period_days)
            .map_err(|(field, problem)| invalid_field(field, problem))?;
        let written = name.clone();
        self.write(move |pool| async move { projects::set(&pool, &written, &terms).await }).await?;
        self.project(&name).await
    }

    async fn set_project_member(
        &self,
        request: Request<v1::SetProjectMemberRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let v1::SetProjectMemberRequest { name, member, role } = request.into_inner();
        let role = wire::project_role_from_wire(role).ok_or_else(|| {
            invalid_field(
                "role",
                "must be PROJECT_ROLE_VIEWER, PROJECT_ROLE_SUBMITTER or PROJECT_ROLE_OPERATOR",
            )
        })?;
        let name: ProjectName = name.parse().map_err(|problem| invalid_field("name", problem))?;
        let project = name.clone();
        self.write(move |pool| async move { projects::grant(&pool, &project, &member, role).await }).await?;
        self.project(&name).await
    }

    async fn remove_project_member(
        &self,
        request: Request<v1::RemoveProjectMemberRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let v1::RemoveProjectMemberRequest { name, member } = request.into_inner();
        let name: ProjectName = name.parse().map_err(|problem| invalid_field("name", problem))?;
        let project = name.clone();
        self.write(move |pool| async move { projects::revoke(&pool, &project, &member).await }).await?;
        self.project(&name).await
    }
}

impl Api {
    /// Projects with their members; only that one, if one is named.
    async fn projects(&self, name: Option<&str>) -> Result<Vec<v1::Project>, Status> {
        let found = projects::list(self.reader(), name).await?;
        let mut members = projects::members(self.reader(), name).await?;
        let with_members = |project: ProjectRecord| {
            let own = members.extract_if(.., |member| member.project == project.name).collect();
            wire::project(project, own)
        };
        Ok(found.into_iter().map(with_members).collect())
    }

    /// The project as it is now.
    async fn project(&self, name: &ProjectName) -> Result<Response<v1::Project>, Status> {
        let found = self.projects(Some(name.as_str())).await?.pop();
        Ok(Response::new(found.unwrap_or_default()))
    }

    async fn schedule(&self, id: &str, schedule: Schedule) -> Result<Response<v1::Worker>, Status> {
        let id = lookup::worker("id", id)?;
        let worker = id.clone();
        self.write(move |pool| async move { writes::schedule(&pool, &worker, schedule).await }).await?;
        let record = workers::get(self.reader(), &id, self.policy.lease_ttl).await?;
        Ok(Response::new(wire::worker(record)))
    }
}
