//! The truth, in Postgres. The only module that names sqlx.
//!
//! One operation per file. Each write is one transaction, short, without any
//! call to the outside; time is the database's (`clock_timestamp()`, which goes
//! on inside a transaction, so that waiting for a lock does not stretch a
//! lease).
//!
//! Who writes for an attempt proves it in the same transaction: [`fence`] locks
//! the attempt's row and compares epoch and nonce. Locks are taken in one order:
//! search, worker, job, project, attempt, lease, member. What skips locked rows waits for nobody and
//! stands outside that order.
//!
//! Callers run writes to their end: a transaction that is dropped half-way costs
//! a connection.

mod architecture_rows;
mod connect;
mod error;
mod etag;
mod event;
mod fence;
mod job_row;
mod kept;
mod labels;
mod quality;
mod text;
mod traces;

pub mod access;
pub mod attempts;
pub mod checkpoints;
pub mod exchange;
pub mod jobs;
pub mod notes;
pub mod projects;
pub mod read;
pub mod schedule;
pub mod searches;
pub mod webhooks;
pub mod workers;

pub use connect::{PoolSizes, Pools, connect, limited};
pub use error::Error;
pub use kept::Kept;
pub use sqlx::PgPool;

/// All migrations, oldest first.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");
