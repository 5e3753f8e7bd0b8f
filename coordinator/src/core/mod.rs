//! Decisions: facts in, decision out. No clock, no socket, no database, nothing
//! asynchronous; `tests/core_is_pure.rs` holds this module to it.
//!
//! | module | decides |
//! |---|---|
//! | [`job`] | where a job goes from here |
//! | [`retry`] | whether and when a job is tried again |
//! | [`assign`] | which of several workers gets which job |
//! | [`schedule`] | which jobs go first, why the others wait, who makes way |
//! | [`gang`] | which slots train one job together, and what becomes of each |
//! | [`ranks`] | how the order of the queue is written down |
//! | [`project`] | what a project may use |
//! | [`lease`] | how long a lease lasts, whether late ones are taken |
//! | [`retention`] | which checkpoints are kept |
//! | [`search`] | what a search does next |
//! | [`memory`] | how much memory a training needs |
//! | [`suspect`] | whether a machine is at fault |
//! | [`etag`] | whether something is still as its reader saw it |
//! | [`note`] | how much people may remark |
//! | [`worker`] | what a worker may take |
//! | [`identity`] | who calls |
//! | [`spiffe`] | whom a certificate is for, and which authority may say so |
//! | [`rights`] | who may call what |
//! | [`member`] | who may do what in a project, and to what of others |
//! | [`access`] | what tokens are good for, what the web page's actions are |
//! | [`throttle`] | how fast one caller may call, and how much it may have under way |
//! | [`crowd`] | whether one more of a kind may come |
//! | [`address`] | what counts as one address |
//! | [`turns`] | whose call is served next |
//! | [`size`] | how long a request may be |
//! | [`explain`] | why a job is where it is, in words |
//! | [`filter`] | what a filter of a list means |
//! | [`front`] | which networks of a search nobody beats |
//! | [`webhook`] | where webhooks may point, how they are signed, when they are tried again |
//! | [`histogram`] | how scores are spread, and which channels are kept |

mod text;

pub mod access;
pub mod address;
pub mod assign;
pub mod crowd;
pub mod etag;
pub mod explain;
pub mod filter;
pub mod front;
pub mod gang;
pub mod histogram;
pub mod identity;
pub mod job;
pub mod lease;
pub mod member;
pub mod memory;
pub mod note;
pub mod project;
pub mod ranks;
pub mod retention;
pub mod retry;
pub mod rights;
pub mod schedule;
pub mod search;
pub mod size;
pub mod spiffe;
pub mod suspect;
pub mod throttle;
pub mod turns;
pub mod webhook;
pub mod worker;

pub use text::UnknownName;
