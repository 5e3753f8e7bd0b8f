//! What a submitter may do to their own things alone, and members alone in their projects.

use cakes_proto::ids::{JobId, SearchId};
use tonic::{Extensions, Status};

use super::{Api, gate, status};
use crate::core::access::Role;
use crate::core::member::{Belongs, Standing, may_change, may_submit, role_in};
use crate::core::project::ProjectName;
use crate::core::rights::Caller;
use crate::store::projects;
use crate::store::read::owners;

impl Api {
    /// Refuses whoever may not change what is of others, if the job is.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such job.
    pub(super) async fn refuse_others_job(&self, extensions: &Extensions, id: JobId) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        let Some(found) = self.whose_job(caller, id).await? else { return Ok(()) };
        may_change(caller, &found).map_err(|refused| status::not_theirs(&refused))
    }

    /// Refuses whoever may add nothing to the project of a job.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such job.
    pub(super) async fn refuse_outsider_of_job(
        &self,
        extensions: &Extensions,
        id: JobId,
    ) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        let Some(found) = self.whose_job(caller, id).await? else { return Ok(()) };
        may_submit(caller, &found.project, found.standing).map_err(|refused| status::not_member(&refused))
    }

    /// None where it does not matter: to a caller who may do everything.
    async fn whose_job(&self, caller: &Caller, id: JobId) -> Result<Option<Belongs>, Status> {
        match may_all(caller) {
            true => Ok(None),
            false => Ok(Some(owners::of_job(self.reader(), id, caller.owner()).await?)),
        }
    }

    /// Refuses whoever may not change what is of others, if the search is.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such search.
    pub(super) async fn refuse_others_search(
        &self,
        extensions: &Extensions,
        id: SearchId,
    ) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        let Some(found) = self.whose_search(caller, id).await? else { return Ok(()) };
        may_change(caller, &found).map_err(|refused| status::not_theirs(&refused))
    }

    /// Refuses whoever may add nothing to the project of a search.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such search.
    pub(super) async fn refuse_outsider_of_search(
        &self,
        extensions: &Extensions,
        id: SearchId,
    ) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        let Some(found) = self.whose_search(caller, id).await? else { return Ok(()) };
        may_submit(caller, &found.project, found.standing).map_err(|refused| status::not_member(&refused))
    }

    /// None where it does not matter: to a caller who may do everything.
    async fn whose_search(&self, caller: &Caller, id: SearchId) -> Result<Option<Belongs>, Status> {
        match may_all(caller) {
            true => Ok(None),
            false => Ok(Some(owners::of_search(self.reader(), id, caller.owner()).await?)),
        }
    }

    /// Refuses whoever may add nothing to a project.
    ///
    /// # Errors
    /// The caller is such a one.
    pub(super) async fn refuse_outsider(
        &self,
        extensions: &Extensions,
        project: &ProjectName,
    ) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        if may_all(caller) {
            return Ok(());
        }
        let project = project.as_str();
        let standing = projects::standing(self.reader(), project, caller.owner()).await?;
        may_submit(caller, project, standing).map_err(|refused| status::not_member(&refused))
    }
}

/// Whoever may do everything where they are no member may do so everywhere.
fn may_all(caller: &Caller) -> bool {
    role_in(caller, Standing::Outsider) == Some(Role::Operator)
}
