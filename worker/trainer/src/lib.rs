//! One training job on libtorch.
//!
//! ```text
//! TrainerJob ─► data ─► nets (network description ─► modules)
//!                 │        │
//!                 └─► train loop ─► checkpoint, events ─► daemon or person
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`nets`] | builds a network description with libtorch and runs it |
//! | [`data`] | opens the data set, prepares batches ahead of the loop |
//! | [`loss`], [`optim`] | what is minimised, and how |
//! | [`weights`] | weights that a network starts with |
//! | [`evaluate`], [`classify`] | validation of volumes and of samples, latency |
//! | [`predict`] | what a trained network says of new volumes |
//! | [`profile`] | what a channel of each kernel takes, for budgets of time |
//! | [`checkpoint`] | everything that a resumed run needs, atomically |
//! | [`train`] | the loop, which obeys the job's specification |
//! | [`bench`] | speed of training steps, fast path against reference |
//! | [`report`], [`spans`] | who is told: frames for the daemon, lines for a person |
//! | [`job_file`], [`folder`] | the job and the folder that a person names |
//!
//! Everything random follows from the job's seed and the step, so a job can be
//! resumed anywhere and repeats bit by bit on one kind of device.

pub mod bench;
pub mod checkpoint;
pub mod classify;
pub mod data;
pub mod device;
mod error;
pub mod evaluate;
pub mod folder;
pub mod job_file;
pub mod loss;
pub mod nets;
pub mod optim;
pub mod predict;
pub mod profile;
pub mod ranks;
pub mod report;
pub mod spans;
pub mod throughput;
pub mod train;
pub mod weights;

pub use error::TrainerError;
