//! The record of what people ask for, on the page and over the API: what changes something
//! is written down before it is done, and its outcome after.

use cakes_proto::v1;

use crate::core::access::is_recorded;
use crate::core::project::Terms;
use crate::store::access::{self as stored, Asker, AuditEntry};
use crate::store::{Error, PgPool};

/// Writes the record. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    pool: PgPool,
}

/// An answer by its name, and what it said.
pub(crate) type Outcome<'a> = (&'a str, &'a str);

/// The outcome of what was done.
pub(crate) const DONE: Outcome<'static> = ("ok", "");

/// The outcome of what was done, with the limits that it set.
pub(crate) fn done(limits: &str) -> Outcome<'_> {
    let (answer, _) = DONE;
    (answer, limits)
}

/// The limit that whoever resumes a job sets, if they do: a word of the record.
pub(crate) fn limits_of_job(request: &v1::ResumeJobRequest) -> String {
    let limit = request.cost_limit_device_hours;
    limit.map_or_else(String::new, |hours| format!("cost_limit_device_hours={hours}"))
}

/// What whoever sets a project gives it. Nothing of what is going to be refused.
pub(crate) fn limits_of_project(request: &v1::SetProjectRequest) -> String {
    let v1::SetProjectRequest { share, device_quota, device_hours_quota, period_days, .. } = request;
    let terms = Terms::check(*share, *device_quota, *device_hours_quota, *period_days);
    terms.map_or_else(|_| String::new(), |terms| terms.to_string())
}

impl Audit {
    pub(crate) fn new(pool: PgPool) -> Self {
        Audit { pool }
    }

    /// Adds a row that says what is about to be done, and what limits it sets; its number.
    ///
    /// # Errors
    /// It cannot be recorded, and so must not be done.
    pub(crate) async fn begin(
        &self,
        asker: Asker<'_>,
        action: &str,
        object: &str,
        limits: &str,
    ) -> Result<i64, Error> {
        let entry = AuditEntry { asker, action, object, answer: stored::BEGUN, detail: limits, begun: None };
        stored::record(&self.pool, &entry).await.inspect_err(|error| {
            tracing::error!(%error, ?entry, "what is to be done cannot be recorded");
        })
    }

    /// Adds a row that says how it ended, what was `begun` or nothing. Of callers that nobody
    /// knows only so many are kept, so that nobody fills the disk.
    pub(crate) async fn end(
        &self,
        asker: Asker<'_>,
        action: &str,
        object: &str,
        (answer, detail): Outcome<'_>,
        begun: Option<i64>,
    ) {
        let entry = AuditEntry { asker, action, object, answer, detail, begun };
        let written = async {
            if asker.role.is_none() && !is_recorded(stored::failures(&self.pool, asker.peer, action).await?) {
                return Ok(());
            }
            stored::record(&self.pool, &entry).await.map(drop)
        };
        if let Err(error) = written.await {
            tracing::error!(%error, ?entry, "what was done cannot be recorded");
        }
    }
}
