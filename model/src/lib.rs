//! The protocol of leases, checked exhaustively.
//!
//! | module | holds |
//! |---|---|
//! | [`database`] | the coordinator's transactions on its rows, in pure code |
//! | [`daemon`] | a worker's daemon: what it does, what it journals, what it forgets in a crash |
//! | [`system`] | coordinators, daemons, database, store, people and a bad network as one model |
//! | [`property`] | what always holds (S1 to S15), and what must be able to happen |
//! | [`gang`] | attempts on two slots, as a model of their own |
//! | [`bounds`] | how far each check goes |
//! | [`mutant`] | faults, each of which breaks a property |
//!
//! The decisions are the coordinator's own pure code. The transactions in
//! [`database`] are compared with a real Postgres by the coordinator's tests.

pub mod bounds;
pub mod daemon;
pub mod database;
pub mod gang;
pub mod mutant;
pub mod property;
pub mod system;
