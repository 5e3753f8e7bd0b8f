//! What attempts run with, as their reports tell it bit by bit.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::report::Environment;
use crate::store::error::{Error, failed};

/// What reports tell of their attempts, later words over earlier ones.
#[derive(Debug, Default)]
pub(super) struct EnvironmentRows(BTreeMap<(Uuid, i64), Told>);

/// What an attempt told, and in which entries.
#[derive(Debug, Default)]
struct Told {
    environment: Environment,
    seqs: Vec<i64>,
}

impl EnvironmentRows {
    pub(super) fn add(&mut self, job: Uuid, epoch: i64, seq: i64, environment: &Environment) {
        let Told { environment: known, seqs } = self.0.entry((job, epoch)).or_default();
        seqs.push(seq);
        let Environment { libtorch, device, worker_version, data } = environment.clone();
        known.libtorch = libtorch.or(known.libtorch.take());
        known.device = device.or(known.device.take());
        known.worker_version = worker_version.or(known.worker_version.take());
        known.data = data.or(known.data.take());
    }

    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        for ((job, epoch), Told { environment, seqs }) in &self.0 {
            let Environment { libtorch, device, worker_version, data } = environment;
            let data = data.as_ref();
            sqlx::query!(
                "insert into attempt_environment as known
                     (job_id, epoch, libtorch, device, worker_version, data_sha256, data_file_count, data_bytes,
                      entry_seqs)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 on conflict (job_id, epoch) do update set
                     libtorch = coalesce(excluded.libtorch, known.libtorch),
                     device = coalesce(excluded.device, known.device),
                     worker_version = coalesce(excluded.worker_version, known.worker_version),
                     data_sha256 = coalesce(excluded.data_sha256, known.data_sha256),
                     data_file_count = coalesce(excluded.data_file_count, known.data_file_count),
                     data_bytes = coalesce(excluded.data_bytes, known.data_bytes),
                     entry_seqs = known.entry_seqs || excluded.entry_seqs",
                job,
                epoch,
                libtorch.as_deref(),
                device.as_deref(),
                worker_version.as_deref(),
                data.map(|data| data.sha256.as_str()),
                data.map(|data| data.file_count),
                data.map(|data| data.bytes),
                &seqs
            )
            .execute(&mut *connection)
            .await
            .map_err(failed("record what an attempt runs with"))?;
        }
        Ok(())
    }
}
