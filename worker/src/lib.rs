//! The worker daemon: leases jobs for the devices of one machine and runs one
//! trainer process per attempt. It links no libtorch; whatever a job does to its
//! trainer, the daemon lives on and says what happened.
//!
//! ```text
//!  main ─▶ app ─▶ session ───────── Register, Reconcile ──────────▶ coordinator
//!           │        ▲                                               ▲   ▲
//!           └▶ slot (one per device) ── Acquire ─────────────────────┘   │
//!                 └▶ runner ── Start, Report, Commit, Complete, Fail ────┘
//!                      │  ▲
//!               effects│  │events
//!                      ▼  │
//!                    attempt (pure)          supervisor ◀─frames─▶ cakes-trainer
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`config`], [`devices`], [`telemetry`], [`metrics`], [`spans`] | what the daemon is told, what the machine has, what it logs, counts and traces |
//! | [`client`], [`session`] | calls with deadlines and retries; who this daemon is to the coordinator |
//! | [`attempt`], [`outbox`] | every decision about a running job, without touching anything |
//! | [`runner`], [`supervisor`], [`memory`], [`artifacts`], [`journal`] | the acts: calls, processes and what they take, checkpoints, what survives `kill -9` |
//! | [`at_hand`] | which data sets lie ready here |
//! | [`gangs`] | where ranks of other machines reach those of this one |
//! | [`doctor`] | whether this machine can do it |
//! | [`slot`], [`recovery`], [`app`] | one device's loop; what an earlier daemon left; start and end |

pub mod app;
pub mod at_hand;
pub mod attempt;
pub mod calls;
pub mod client;
pub mod clock;
pub mod config;
pub mod devices;
pub mod doctor;
pub mod gangs;
pub mod journal;
pub mod memory;
pub mod metrics;
pub mod outbox;
pub mod process;
pub mod recovery;
pub mod runner;
pub mod session;
pub mod slot;
pub mod spans;
pub mod supervisor;
pub mod telemetry;
pub mod wire;

pub use cakes_artifacts as artifacts;
