//! Quotas of projects, held in the transaction that grants: whatever was planned before,
//! and whoever else grants at the same time.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::core::assign::Candidate;
use crate::core::project::Room;
use crate::store::error::{Error, failed};

/// What projects with quotas may still take. Read when the first of their jobs is to be
/// granted; their rows are locked from then until the transaction ends.
#[derive(Default)]
pub(super) struct Rooms(Option<BTreeMap<String, Room>>);

impl Rooms {
    /// Whether the project of a job has room for it, which is then taken.
    pub(super) async fn admit(
        &mut self,
        connection: &mut PgConnection,
        job: &Candidate,
    ) -> Result<bool, Error> {
        if !job.has_quota {
            return Ok(true);
        }
        let rooms = match &mut self.0 {
            Some(rooms) => rooms,
            none => none.insert(lock(connection).await?),
        };
        // Without a row the quota was taken away meanwhile.
        Ok(rooms.get_mut(&job.project).is_none_or(|room| room.take(job.device_count)))
    }
}

/// All of them, in one order: nobody who holds one waits for another. Who holds them waits
/// for nobody, so this wait is short.
async fn lock(connection: &mut PgConnection) -> Result<BTreeMap<String, Room>, Error> {
    let projects = sqlx::query!(
        r#"select name, device_quota, coalesce(used_device_s >= device_s_quota, false) as "is_used_up!"
           from project where device_quota is not null or device_s_quota is not null
           order by name for no key update"#
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("lock projects"))?;
    // Behind the locks: what others have granted is there.
    let in_use = sqlx::query!(
        r#"select job.project, sum(job.device_count) as "devices!"
           from attempt join job on job.id = attempt.job_id
           where attempt.end_time is null
           group by job.project"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed("count the devices of projects"))?;
    let in_use: BTreeMap<String, i64> = in_use.into_iter().map(|row| (row.project, row.devices)).collect();
    let room = |quota: Option<i32>, name: &str| {
        quota.map(|quota| i64::from(quota) - in_use.get(name).copied().unwrap_or(0))
    };
    let rooms = projects.into_iter().map(|project| {
        let devices = room(project.device_quota, &project.name);
        (project.name, Room { devices, is_used_up: project.is_used_up })
    });
    Ok(rooms.collect())
}
