//! The rows of one job and its workers as Postgres has them, in the model's form.

use cakes_coordinator::core::job::EndReason;
use cakes_coordinator::core::retry::Counters;
use cakes_model::database::{
    AttemptRow, Checkpoint, CheckpointRow, JobRow, Lease, Life, ResultRow, Rows, WorkerRow,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Scene;

fn small(row: &PgRow, column: &str) -> u8 {
    u8::try_from(row.get::<i64, _>(column)).unwrap()
}

fn checkpoint(row: &PgRow, epoch: &str, step: &str) -> Option<Checkpoint> {
    let epoch: Option<i64> = row.get(epoch);
    epoch.map(|epoch| Checkpoint { epoch: u8::try_from(epoch).unwrap(), step: small(row, step) })
}

/// Number of an id from 1.
fn number(ids: &[Uuid], id: Uuid) -> u8 {
    u8::try_from(1 + ids.iter().position(|known| *known == id).unwrap()).unwrap()
}

impl Scene {
    pub(super) async fn read(&self) -> Rows {
        Rows { workers: self.worker_rows().await, jobs: vec![self.job_row().await] }
    }

    async fn ask(&self, statement: &'static str) -> Vec<PgRow> {
        sqlx::query(statement).bind(self.job.0).fetch_all(&self.pool).await.unwrap()
    }

    async fn worker_rows(&self) -> Vec<Option<WorkerRow>> {
        let mut rows = Vec::new();
        for id in &self.workers {
            let statement = "select incarnation, register_request_id, schedule from worker where id = $1";
            let found = sqlx::query(statement).bind(id.as_str()).fetch_optional(&self.pool).await.unwrap();
            rows.push(found.map(|row| WorkerRow {
                incarnation: small(&row, "incarnation"),
                register_request: number(&self.registrations, row.get("register_request_id")),
                schedule: row.get::<&str, _>("schedule").parse().unwrap(),
            }));
        }
        rows
    }

    async fn job_row(&self) -> JobRow {
        let row = &self.ask("select * from job where id = $1").await[0];
        let count = |column: &str| row.get::<i32, _>(column).unsigned_abs();
        let results = self
            .ask("select epoch, last_seq, checkpoint_epoch, checkpoint_step from result where job_id = $1");
        let checkpoints = self.ask(
            "select epoch, step, key, condemn_time is not null as condemned from checkpoint
                 where job_id = $1 order by commit_time",
        );
        JobRow {
            state: row.get::<&str, _>("state").parse().unwrap(),
            epoch: small(row, "epoch"),
            counters: Counters {
                lost: count("lost_count"),
                infrastructure: count("infrastructure_count"),
                resource: count("resource_count"),
                numeric: count("numeric_count"),
                no_progress: count("no_progress_count"),
                furthest_step: row.get("furthest_step"),
            },
            checkpoint: checkpoint(row, "checkpoint_epoch", "checkpoint_step"),
            request: None,
            attempts: self.attempt_rows().await,
            checkpoints: checkpoints
                .await
                .iter()
                .map(|row| CheckpointRow {
                    epoch: small(row, "epoch"),
                    nonce: self.writer(row.get("key")),
                    step: small(row, "step"),
                    condemned: row.get("condemned"),
                })
                .collect(),
            results: results
                .await
                .iter()
                .map(|row| ResultRow {
                    epoch: small(row, "epoch"),
                    last_seq: small(row, "last_seq"),
                    checkpoint: checkpoint(row, "checkpoint_epoch", "checkpoint_step").unwrap(),
                })
                .collect(),
        }
    }

    /// Number of the grant under whose prefix a key lies.
    fn writer(&self, key: &str) -> u8 {
        let index =
            self.grants.iter().position(|grant| key.starts_with(&format!("{}/", grant.artifact_prefix)));
        u8::try_from(1 + index.unwrap()).unwrap()
    }

    async fn attempt_rows(&self) -> Vec<AttemptRow> {
        let rows = self.ask(
            "select attempt.*, deadline <= clock_timestamp() as ran_out,
                 (select coalesce(array_agg(seq order by seq), '{}') from metric
                  where metric.job_id = attempt.job_id and metric.epoch = attempt.epoch) as seqs,
                 (select coalesce(array_agg(metric.step order by seq), '{}') from metric
                  where metric.job_id = attempt.job_id and metric.epoch = attempt.epoch) as steps
             from attempt left join attempt_lease using (job_id, epoch)
             where attempt.job_id = $1 order by attempt.epoch",
        );
        rows.await.iter().map(|row| self.attempt_row(row)).collect()
    }

    fn attempt_row(&self, row: &PgRow) -> AttemptRow {
        let end: Option<&str> = row.get("end_reason");
        let end = end.map(|end| end.parse::<EndReason>().unwrap());
        let life = match (row.get::<&str, _>("state"), end) {
            ("offered", None) => Life::Offered,
            ("running", None) => Life::Running,
            ("ended", Some(end)) => Life::Ended(end),
            other => panic!("an attempt is {other:?}"),
        };
        let nonce: &[u8] = row.get("nonce");
        let grant = self.grants.iter().position(|grant| grant.token.nonce.0[..] == *nonce);
        let worker: &str = row.get("worker_id");
        let numbers =
            |column: &str| row.get::<Vec<i64>, _>(column).into_iter().map(|n| u8::try_from(n).unwrap());
        let lease = match row.get::<Option<bool>, _>("ran_out") {
            Some(true) => Some(Lease::RanOut),
            Some(false) => Some(Lease::Lasts),
            None => None,
        };
        AttemptRow {
            epoch: small(row, "epoch"),
            nonce: u8::try_from(1 + grant.unwrap()).unwrap(),
            worker: u8::try_from(self.workers.iter().position(|id| id.as_str() == worker).unwrap()).unwrap(),
            incarnation: small(row, "incarnation"),
            request: number(&self.questions, row.get("acquire_request_id")),
            life,
            class: row.get::<Option<&str>, _>("failure_class").map(|class| class.parse().unwrap()),
            resume: checkpoint(row, "resume_epoch", "resume_step"),
            last_step: small(row, "last_step"),
            last_seq: small(row, "last_seq"),
            entries: numbers("seqs").zip(numbers("steps")).collect(),
            lease,
        }
    }
}
