//! Every statement that writes, against a Postgres of its own per test.
//!
//! `DATABASE_URL` names a server on which databases may be created;
//! `cargo xtask test` starts one.

mod support;

mod acquire;
mod at_hand;
mod census;
mod checkpoint;
mod complete;
mod dashboard;
mod estimates;
mod exchange;
mod expire;
mod fail;
mod filters;
mod flat;
mod gang_parts;
mod gang_slots;
mod gangs;
mod intents;
mod kept;
mod plan;
mod projects;
mod random_walk;
mod reconcile;
mod remarks;
mod report;
mod retention;
mod rounds;
mod same_as_model;
mod schema;
mod submit;
mod suspect;
mod tasks;
mod traces;
mod webhooks;
