//! Searches leave in a file and come in with one.

mod export;
mod guard;
mod import;
mod insert;
mod remarks;

pub use export::export;
pub use import::{Imported, Sound, import};

pub(super) use guard::{refuse_imported_job, refuse_imported_search};
