//! Whether a store does what checkpoints need of it, tried with one small object.
//!
//! | act | checkpoints need it |
//! |---|---|
//! | create | for every file |
//! | create again | so that what is there is never replaced: the store must refuse it |
//! | read | to resume |
//! | list, delete | where the coordinator deletes; workers do without |
//!
//! The object has a folder and a name of its own, and is deleted behind the trial.

mod cause;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};

pub use cause::{Cause, told};

use crate::{ArtifactError, stores};

/// Folder of the store in which trials are made.
pub const FOLDER: &str = "cakes-doctor";

/// What the object holds.
const CONTENT: &[u8] = b"written to see whether this store can be written to; may be deleted";

/// A connection may break once; whoever looks does not wait for a store to come back.
const RETRIES_MAX: usize = 1;

/// What is done with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Create,
    CreateAgain,
    Read,
    List,
    Delete,
}

/// Why an act did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{}", told(.0))]
    Store(#[from] object_store::Error),
    #[error("no answer in {} s", .0.as_secs())]
    Silence(Duration),
    #[error("an object that is there is replaced")]
    Replaced,
    #[error("what was written comes back as something else")]
    Changed,
    #[error("what was written is not listed")]
    Unlisted,
}

/// One act, how long it took and how it ended.
#[derive(Debug)]
pub struct Step {
    pub act: Act,
    pub took: Duration,
    pub outcome: Result<(), Refusal>,
}

/// All that was done, in order.
#[derive(Debug)]
pub struct Trial {
    /// Key of the object.
    pub key: String,
    /// Nothing more is tried of a store that takes no object.
    pub steps: Vec<Step>,
}

/// Tries the store at `url` with an object `name`, which must be one that nobody else uses. A
/// bucket is used with this process' `AWS_…` variables, as by [`crate::Artifacts::open`]; each act
/// gets `patience`.
///
/// # Errors
/// The store cannot be opened: its URL or its folder is wrong, or the variables are.
pub async fn run(url: &str, name: &str, patience: Duration) -> Result<Trial, ArtifactError> {
    run_with(url, stores::environment(), name, patience).await
}

/// The same with these variables instead of those of the environment.
///
/// # Errors
/// As of [`run`].
pub async fn run_with(
    url: &str,
    variables: impl Iterator<Item = (String, String)>,
    name: &str,
    patience: Duration,
) -> Result<Trial, ArtifactError> {
    let retry = RetryConfig { max_retries: RETRIES_MAX, ..RetryConfig::default() };
    let store = stores::open(url, variables, retry)?;
    let (store, key) = (&*store, Path::from_iter([FOLDER, name]));
    let created = step(Act::Create, patience, create(store, &key)).await;
    // A store that was silent may have taken it all the same.
    let may_be_there = matches!(created.outcome, Ok(()) | Err(Refusal::Silence(_)));
    let is_there = created.outcome.is_ok();
    let mut steps = vec![created];
    if is_there {
        steps.push(step(Act::CreateAgain, patience, create_again(store, &key)).await);
        steps.push(step(Act::Read, patience, read(store, &key)).await);
        steps.push(step(Act::List, patience, list(store, &key)).await);
    }
    if may_be_there {
        steps.push(step(Act::Delete, patience, delete(store, &key)).await);
    }
    Ok(Trial { key: key.to_string(), steps })
}

async fn step(act: Act, patience: Duration, work: impl Future<Output = Result<(), Refusal>>) -> Step {
    let begin = Instant::now();
    let outcome = tokio::time::timeout(patience, work).await;
    Step { act, took: begin.elapsed(), outcome: outcome.unwrap_or(Err(Refusal::Silence(patience))) }
}

async fn put(store: &dyn ObjectStore, key: &Path) -> Result<(), object_store::Error> {
    store.put_opts(key, PutPayload::from_static(CONTENT), PutMode::Create.into()).await?;
    Ok(())
}

async fn create(store: &dyn ObjectStore, key: &Path) -> Result<(), Refusal> {
    match put(store, key).await {
        // By an earlier try of this very request: nobody else has this name.
        Ok(()) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn create_again(store: &dyn ObjectStore, key: &Path) -> Result<(), Refusal> {
    match put(store, key).await {
        Ok(()) => Err(Refusal::Replaced),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn read(store: &dyn ObjectStore, key: &Path) -> Result<(), Refusal> {
    let content = store.get(key).await?.bytes().await?;
    if content == CONTENT { Ok(()) } else { Err(Refusal::Changed) }
}

async fn list(store: &dyn ObjectStore, key: &Path) -> Result<(), Refusal> {
    let mut objects = store.list(Some(&Path::from(FOLDER)));
    while let Some(object) = objects.next().await {
        if object?.location == *key {
            return Ok(());
        }
    }
    Err(Refusal::Unlisted)
}

async fn delete(store: &dyn ObjectStore, key: &Path) -> Result<(), Refusal> {
    match store.delete(key).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
