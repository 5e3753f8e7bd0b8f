//! The digest of a job's data, while the job begins.

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cakes::frame::DataContent;
use cakes::job::TrainerJob;
use cakes::spec::DatasetSpec;
use cakes_data::content::{self, Content, Hashed};

use super::{DataOptions, cases, samples};
use crate::TrainerError;

/// How often the log hears of data that take long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// More threads than this only make a disk seek.
const THREADS_MAX: usize = 4;

/// A digest that is being worked out.
#[derive(Debug)]
pub struct Hashing(Receiver<News>);

/// What there is to say of it.
#[derive(Debug)]
pub enum News {
    /// For the log.
    Progress(String),
    Found(DataContent),
    /// Trainings go on without a digest; what is wrong with a file they say themselves.
    Failed(String),
}

impl Hashing {
    /// Begins.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(job: &TrainerJob, options: &DataOptions<'_>) -> Result<Self, TrainerError> {
        let (sender, receiver) = channel();
        let (dataset, root) = (job.dataset.clone(), options.root.to_owned());
        let memory = options.cache.folder().join("hashes");
        let threads = options.loader_threads.min(THREADS_MAX);
        let work = move || {
            let last = Mutex::new((Instant::now(), sender.clone()));
            let progress = |hashed: Hashed| {
                let Ok(mut last) = last.try_lock() else { return };
                if last.0.elapsed() >= PROGRESS_INTERVAL {
                    last.0 = Instant::now();
                    let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
                    let (done, total) = (gib(hashed.bytes), gib(hashed.total_bytes));
                    let text = format!("hashed {done:.1} of {total:.1} GiB of the data set");
                    let _ = last.1.send(News::Progress(text));
                }
            };
            let news = match content(&dataset, &root, &memory, threads, &progress) {
                Ok(found) => News::Found(found),
                Err(error) => News::Failed(format!("the data set has no digest: {}", error.message())),
            };
            // Nobody hears it of a training that has ended.
            let _ = sender.send(news);
        };
        std::thread::Builder::new()
            .name("hash data".to_owned())
            .spawn(work)
            .map_err(|error| TrainerError::io("cannot start a thread that hashes the data set", error))?;
        Ok(Hashing(receiver))
    }

    /// What is new within `limit`; none after it.
    pub fn wait(&self, limit: Duration) -> Option<News> {
        match self.0.recv_timeout(limit) {
            Ok(news) => Some(news),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(News::Failed("the data set has no digest: its thread has ended".to_owned()))
            }
        }
    }
}

fn content(
    dataset: &DatasetSpec,
    root: &Path,
    memory: &Path,
    threads: usize,
    progress: &(dyn Fn(Hashed) + Sync),
) -> Result<DataContent, TrainerError> {
    let files = match dataset {
        DatasetSpec::Folder(_) | DatasetSpec::Phantoms(_) => {
            let (volumes, split, _) = cases::open(dataset, root)?;
            volumes.content_files(&split)
        }
        DatasetSpec::Arrays(_) | DatasetSpec::Video(_) => {
            Some(cakes_data::samples::content_files(&samples::source(dataset)?, root)?)
        }
    };
    let Content { sha256, file_count, bytes } = match files {
        Some(files) => content::hash(&files, memory, threads, progress)?,
        None => {
            let text =
                serde_json::to_string(dataset).map_err(|error| TrainerError::Report(error.to_string()))?;
            content::of_text(&text)
        }
    };
    Ok(DataContent { sha256, file_count, bytes })
}
