//! What a submitter may do to their own things alone.

use cakes_proto::ids::{JobId, SearchId};
use tonic::{Extensions, Status};

use super::{Api, gate, status};
use crate::core::rights::{Caller, may_change};
use crate::store::read::owners;

impl Api {
    /// Refuses whoever neither submitted the job, or its search, nor is an operator.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such job.
    pub(super) async fn refuse_others_job(&self, extensions: &Extensions, id: JobId) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        if may_all(caller) {
            return Ok(());
        }
        let owner = owners::of_job(self.reader(), id).await?;
        may_change(caller, owner.as_deref()).map_err(|refused| status::not_owner(&refused))
    }

    /// Refuses whoever neither submitted the search nor is an operator.
    ///
    /// # Errors
    /// The caller is such a one, or there is no such search.
    pub(super) async fn refuse_others_search(
        &self,
        extensions: &Extensions,
        id: SearchId,
    ) -> Result<(), Status> {
        let caller = gate::caller(extensions)?;
        if may_all(caller) {
            return Ok(());
        }
        let owner = owners::of_search(self.reader(), id).await?;
        may_change(caller, owner.as_deref()).map_err(|refused| status::not_owner(&refused))
    }
}

/// Whoever may change what nobody owns may change everything.
fn may_all(caller: &Caller) -> bool {
    may_change(caller, None).is_ok()
}
