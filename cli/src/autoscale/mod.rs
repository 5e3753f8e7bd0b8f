//! Keeps the allocations that a batch system gives to workers in step with the queue.
//!
//! ```text
//! queue, workers (gRPC) ─┐
//!                        ├─► Facts ─► plan::plan ─► submit n, cancel these
//! squeue ────────────────┘              ▲   │
//!                                     Memory ◄┘   how long things have been so
//! ```
//!
//! [`plan`] decides and does nothing; [`slurm`] does and decides nothing. What a
//! decision rests on is read anew each time, so that one who starts again goes on
//! where another was: the memory only makes it wait.

pub mod facts;
pub mod plan;
pub mod slurm;
