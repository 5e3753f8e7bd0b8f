//! Fills a database as many searches would have.

use std::path::Path;

use anyhow::{Result, ensure};
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use super::root;
use crate::bench::postgres::Database;

/// Architectures of a search.
const PER_SEARCH: u64 = 100;
/// Points of one statement.
const BATCH: u64 = 4_000_000;
/// Points of one step.
const KEYS: u64 = 4;

/// How much is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Each is retrained once; a hundred are a search.
    pub architectures: u64,
    /// Points of learning curves: four fifths of retrainings, one fifth of twenty
    /// long trainings.
    pub points: u64,
}

impl Size {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.architectures >= 200 && self.architectures.is_multiple_of(PER_SEARCH),
            "--architectures: must be a multiple of {PER_SEARCH}, at least 200"
        );
        ensure!(
            self.points / self.architectures >= 100,
            "--points: must be at least 100 for each architecture"
        );
        Ok(())
    }

    fn searches(&self) -> u64 {
        self.architectures / PER_SEARCH
    }

    /// Of a retraining; a multiple of ten.
    fn steps(&self) -> u64 {
        self.points * 4 / 5 / KEYS / self.architectures / 10 * 10
    }

    fn long_jobs(&self) -> u64 {
        self.searches().min(20)
    }

    fn long_steps(&self) -> u64 {
        self.points / 5 / KEYS / self.long_jobs()
    }

    fn put_into(&self, text: &str) -> String {
        let numbers = [
            ("architectures", self.architectures),
            ("searches", self.searches()),
            ("workers", (self.searches() / 5).max(2)),
            ("steps", self.steps()),
            ("long_jobs", self.long_jobs()),
            ("long_steps", self.long_steps()),
        ];
        numbers.iter().fold(text.to_owned(), |text, (name, number)| {
            text.replace(&format!("{{{name}}}"), &number.to_string())
        })
    }
}

/// Makes the tables and fills them.
pub(super) async fn fill(database: &Database, url: &str, size: &Size) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let migrator = Migrator::new(Path::new(&root().join("migrations"))).await?;
    migrator.run(&mut connection).await?;
    connection.close().await?;
    database.run(&size.put_into(include_str!("fill.sql"))).await?;

    let total = size.architectures.div_ceil(128) * 128 * size.steps() * KEYS;
    let batches: Vec<String> = (0..total.div_ceil(BATCH))
        .map(|batch| {
            let text = size.put_into(include_str!("points.sql"));
            let last = ((batch + 1) * BATCH).min(total) - 1;
            text.replace("{first}", &(batch * BATCH).to_string()).replace("{last}", &last.to_string())
        })
        .collect();
    for pair in batches.chunks(2) {
        futures::future::try_join_all(pair.iter().map(|batch| database.run(batch))).await?;
    }
    database.run(&size.put_into(include_str!("long_points.sql"))).await?;
    let index = "set maintenance_work_mem = '1GB'; set max_parallel_maintenance_workers = 2;
        alter table metric add primary key (job_id, key, epoch, seq)";
    database.run(index).await?;
    database.run("vacuum analyze").await.map(drop)
}
