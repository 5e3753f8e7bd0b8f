//! Which job runs where, and why the others wait.
//!
//! Facts in, a plan out: [`plan`] reads no clock, no file and no table, draws no random
//! number and remembers nothing. Equal facts give equal plans; ties are settled by submit
//! time, then by id.
//!
//! ```text
//!  facts                          a round                                  plan
//!  ─────                          ───────                                  ────
//!  projects: share, quotas, ┐
//!            decayed use    │   for each waiting job, in order:            placements
//!  nodes: devices, labels,  │    1 a limit of its own, no node, a quota?   stops (who, for whom)
//!         data, schedule    ├─►  2 free devices? it starts            ──►  reservations, for the
//!  running: where, since    │    3 somebody of lower priority? told to       next round's facts
//!  waiting: what they want  │      save a checkpoint and stop              waiting: position, reason
//!  reservations, last round ┘    4 next in line? devices are kept          late: deadlines not to be met
//! ```
//!
//! A stopped job's devices are free in a later round only, when it has stopped.
//!
//! # Cost
//!
//! With D devices, W waiting jobs and S different shapes among them (devices, memory,
//! labels), a round takes O(W log W) to sort, O(D) for every start, reservation and
//! preemption, and O(D) for every shape that finds no place, which is then remembered
//! for the round. A running job's preemption is looked for once per shape and priority.
//!
//! [`sim`] runs the planner against a cluster that exists as data.
//!

mod baseline;
mod board;
mod facts;
mod fit;
mod line;
mod order;
mod plan;
mod policy;
mod preempt;
mod reason;
mod reserve;
mod round;
mod shape;
pub mod sim;
mod spread;
mod standing;
pub mod usage;
mod waits;

pub use baseline::{plan_fifo, plan_queue};
pub use facts::{
    CheckedFacts, DataNo, Device, Facts, FactsError, Job, JobId, LabelNo, Names, Node, NodeNo, Part, Project,
    ProjectNo, Running, Schedule,
};
pub use line::line;
pub use plan::{Placement, Plan, Reservation, Stop, StopReason, Waiting};
pub use policy::Policy;
pub use reason::Reason;
pub use round::plan;
