//! The coordinator: plans searches, leases jobs, keeps the truth in Postgres.
//!
//! [`core`] decides, [`store`] reads and writes, [`reconcile`] brings what is
//! recorded and what is decided together.

pub mod accept;
pub mod access_command;
pub mod app;
mod audit;
pub mod command;
pub mod config;
pub mod core;
pub mod database;
pub mod exchange;
pub mod grpc;
mod lane;
pub mod metrics;
mod metrics_port;
pub mod pki;
pub mod pki_command;
pub mod reconcile;
mod refusals;
pub mod runtimes;
pub mod shutdown;
pub mod simulate_command;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod web;
