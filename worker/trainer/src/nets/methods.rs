//! Which of several ways to compute a pass of a convolution is the fastest:
//! measured once, remembered.
//!
//! Ways differ in the order of their sums, so the choice decides about last bits.
//! It is kept with the job (in its checkpoints), which is what a resumed run
//! looks at first; then comes what this machine has measured before, in this
//! process or, if there is a file for it, in any other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::TrainerError;

/// A way to compute a pass of a convolution in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Positions side by side.
    Rows,
    /// Channels side by side.
    Blocked,
    /// A matrix product of libtorch, for a kernel of one tap.
    Matrix,
    /// The same product in pieces, of which each thread computes some.
    Pieces,
}

/// Methods by what they are for: pass, kernels, channels, extents, samples.
pub type Table = BTreeMap<String, Method>;

/// The choices of one job.
#[derive(Debug, Default)]
pub struct Methods {
    own: Mutex<Table>,
    only: Option<Method>,
}

impl Methods {
    /// Always this one, where it can do what is asked.
    pub fn only(method: Method) -> Self {
        Methods { own: Mutex::default(), only: Some(method) }
    }

    /// The choices that were made so far, for the checkpoint.
    pub fn table(&self) -> Table {
        lock(&self.own).clone()
    }

    /// Takes over choices that were made before.
    pub fn adopt(&self, table: Table) {
        lock(&self.own).extend(table);
    }

    /// Computes with the method that is remembered for `what`, or with the
    /// fastest of `candidates`.
    pub(super) fn compute<T>(
        &self,
        what: &str,
        candidates: &[Method],
        with: impl FnMut(Method) -> Result<T, TrainerError>,
    ) -> Result<T, TrainerError> {
        self.compute_on(&MACHINE, what, candidates, with)
    }

    fn compute_on<T>(
        &self,
        machine: &Machine,
        what: &str,
        candidates: &[Method],
        mut with: impl FnMut(Method) -> Result<T, TrainerError>,
    ) -> Result<T, TrainerError> {
        if let [single] = candidates {
            return with(*single);
        }
        if let Some(only) = self.only {
            return with(if candidates.contains(&only) { only } else { candidates[0] });
        }
        let known = lock(&self.own).get(what).copied().filter(|method| candidates.contains(method));
        if let Some(method) = known {
            return with(method);
        }
        let method = match machine.find(what).filter(|method| candidates.contains(method)) {
            Some(method) => method,
            None => machine.remember(what, fastest(candidates, &mut with)?),
        };
        lock(&self.own).insert(what.to_owned(), method);
        with(method)
    }
}

/// The least of some runs each, in turn, so that other load meets all alike.
fn fastest<T>(
    candidates: &[Method],
    with: &mut impl FnMut(Method) -> Result<T, TrainerError>,
) -> Result<Method, TrainerError> {
    const RUNS: usize = 3;
    let began = Instant::now();
    let mut least = vec![Duration::MAX; candidates.len()];
    for _ in 0..RUNS {
        for (method, least) in candidates.iter().zip(&mut least) {
            let start = Instant::now();
            with(*method)?;
            *least = start.elapsed().min(*least);
        }
    }
    let mut measured = lock(&MEASURED);
    *measured = (measured.0 + 1, measured.1 + began.elapsed());
    drop(measured);
    let best = candidates.iter().zip(&least).min_by_key(|(_, least)| **least);
    Ok(best.map_or(candidates[0], |(method, _)| *method))
}

/// How often this process has measured since it was asked last, and how long that took.
static MEASURED: Mutex<(u64, Duration)> = Mutex::new((0, Duration::ZERO));

/// Choices that were measured since this was asked last, and how long that took in all.
pub fn take_measured() -> (u64, Duration) {
    std::mem::take(&mut lock(&MEASURED))
}

/// What this machine has measured.
struct Machine(Mutex<Memory>);

static MACHINE: Machine = Machine::new();

struct Memory {
    /// By a person, for every job of this process.
    given: Table,
    table: Table,
    file: Option<PathBuf>,
}

/// The file of a machine.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Of whom and of what the figures are: others are not read.
    subject: String,
    methods: Table,
}

/// Remembers what is measured in `folder`, for other processes on this machine.
/// A file that cannot be read or written is done without.
pub fn remember_in(folder: &Path) {
    MACHINE.remember_in(folder);
}

/// Takes the methods that a checkpoint's manifest, or the file of a machine, lists.
///
/// # Errors
/// The file cannot be read or lists none.
pub fn repeat_from(file: &Path) -> Result<(), TrainerError> {
    #[derive(Deserialize)]
    struct Listed {
        methods: Table,
    }
    let wrong = |problem: String| {
        TrainerError::User(format!(
            "--methods {}: {problem}; give the manifest.json of a checkpoint",
            file.display()
        ))
    };
    let text = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let listed: Listed = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    lock(&MACHINE.0).given = listed.methods;
    Ok(())
}

impl Machine {
    const fn new() -> Self {
        Machine(Mutex::new(Memory { given: Table::new(), table: Table::new(), file: None }))
    }

    fn remember_in(&self, folder: &Path) {
        let mut memory = lock(&self.0);
        memory.file = fs::create_dir_all(folder).is_ok().then(|| folder.join("methods.json"));
        let stored = memory.file.as_deref().map_or_else(Table::new, read);
        memory.table.extend(stored);
    }

    fn find(&self, what: &str) -> Option<Method> {
        let memory = lock(&self.0);
        memory.given.get(what).or_else(|| memory.table.get(what)).copied()
    }

    /// Returns what is remembered in the end: whoever was first decides, so that
    /// jobs that start together choose alike.
    fn remember(&self, what: &str, measured: Method) -> Method {
        let mut memory = lock(&self.0);
        if let Some(file) = memory.file.clone() {
            // Held until it is dropped.
            let _turn = take_turn(&file);
            memory.table.extend(read(&file));
            memory.table.entry(what.to_owned()).or_insert(measured);
            write(&file, &memory.table);
        }
        *memory.table.entry(what.to_owned()).or_insert(measured)
    }
}

/// Waits for the lock beside `file`; none where locks are not to be had.
fn take_turn(file: &Path) -> Option<File> {
    let lock = File::create(file.with_extension("lock")).ok()?;
    lock.lock().ok()?;
    Some(lock)
}

fn read(file: &Path) -> Table {
    let stored: Option<Stored> = fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    stored.filter(|stored| stored.subject == subject()).map_or_else(Table::new, |stored| stored.methods)
}

fn write(file: &Path, table: &Table) {
    let stored = Stored { subject: subject(), methods: table.clone() };
    let Ok(text) = serde_json::to_vec_pretty(&stored) else { return };
    let Some(folder) = file.parent() else { return };
    let Ok(mut temporary) = tempfile::NamedTempFile::new_in(folder) else { return };
    if temporary.write_all(&text).is_ok() {
        // Without it the next process measures again.
        let _ = temporary.persist(file);
    }
}

/// This trainer on this processor.
fn subject() -> String {
    /// Rises when a method is added or changed: what was measured without it is
    /// measured again.
    const METHODS: u32 = 3;
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = information.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let version = env!("CARGO_PKG_VERSION");
    format!("cakes-trainer {version}, methods {METHODS}, {}", processor.unwrap_or(std::env::consts::ARCH))
}

/// Nothing that holds these locks can leave a table half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_unless(best: Method) -> impl FnMut(Method) -> Result<Method, TrainerError> {
        move |method| {
            if method != best {
                std::thread::sleep(Duration::from_millis(3));
            }
            Ok(method)
        }
    }

    #[test]
    fn a_choice_is_measured_once_and_then_the_same_for_every_job_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        // One of its own: the process's is written by whatever else computes.
        let machine = Machine::new();
        machine.remember_in(folder.path());
        let both = [Method::Rows, Method::Blocked];
        let first = Methods::default();
        assert_eq!(
            first.compute_on(&machine, "a test", &both, slow_unless(Method::Blocked)).unwrap(),
            Method::Blocked
        );
        // Were it measured again, the other one would win.
        let second = Methods::default();
        assert_eq!(
            second.compute_on(&machine, "a test", &both, slow_unless(Method::Rows)).unwrap(),
            Method::Blocked
        );
        assert_eq!(read(&folder.path().join("methods.json"))["a test"], Method::Blocked);
        // What comes with a job is stronger.
        let resumed = Methods::default();
        resumed.adopt(Table::from([("a test".to_owned(), Method::Rows)]));
        assert_eq!(
            resumed.compute_on(&machine, "a test", &both, slow_unless(Method::Blocked)).unwrap(),
            Method::Rows
        );
        assert_eq!(resumed.table().len(), 1);
        // Another process was faster to remember.
        write(&folder.path().join("methods.json"), &Table::from([("another".to_owned(), Method::Rows)]));
        let late = Methods::default();
        assert_eq!(
            late.compute_on(&machine, "another", &both, slow_unless(Method::Blocked)).unwrap(),
            Method::Rows
        );
    }

    #[test]
    fn a_method_that_cannot_do_it_is_never_taken() {
        let only = Methods::only(Method::Matrix);
        let rows = [Method::Rows, Method::Blocked];
        assert_eq!(only.compute("x", &rows, slow_unless(Method::Rows)).unwrap(), Method::Rows);
        let all = [Method::Rows, Method::Matrix];
        assert_eq!(only.compute("x", &all, slow_unless(Method::Rows)).unwrap(), Method::Matrix);
    }
}
