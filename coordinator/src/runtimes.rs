//! Which threads do what: those that serve, and two kinds that let them go first.
//!
//! A runtime goes round among its tasks, so whoever keeps hundreds of connections busy has everybody
//! wait behind all of them. The system's scheduler knows better: a thread of low priority stops
//! as soon as another one has something to do. So accepting, which a flood of connections keeps
//! busy, and the connections of an address that has many are left to threads that give way. What
//! they are asked to do is done by those that serve: connections to the database, whose callers
//! took turns, must not wait for anybody who gives way.

use std::io;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle, Runtime};

/// What threads that give way are to the others, from 0 for equal ones to 19: a ninth of their
/// share where all are busy.
const NICE: i32 = 10;

/// Where things are done. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtimes {
    pub serving: Handle,
    pub accepting: Handle,
    /// For the connections of an address that has many.
    pub crowded: Handle,
}

impl Runtimes {
    /// Everything where this is called.
    pub fn one() -> Self {
        let current = Handle::current();
        Runtimes { serving: current.clone(), accepting: current.clone(), crowded: current }
    }
}

/// The threads that give way. Dropped, they end with whatever they do.
#[derive(Debug)]
pub struct GivingWay {
    accepting: Option<Runtime>,
    crowded: Option<Runtime>,
}

impl GivingWay {
    /// # Errors
    /// The system has no more threads.
    pub fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism()?.get();
        Ok(GivingWay {
            accepting: Some(runtime("cakes-accept", 1)?),
            crowded: Some(runtime("cakes-crowded", processors)?),
        })
    }

    /// All, with the caller's for what is served.
    pub fn runtimes(&self) -> Runtimes {
        let handle = |runtime: &Option<Runtime>| {
            runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
        };
        Runtimes {
            serving: Handle::current(),
            accepting: handle(&self.accepting),
            crowded: handle(&self.crowded),
        }
    }
}

impl Drop for GivingWay {
    fn drop(&mut self) {
        // Waiting for threads would block the one that drops this, which serves.
        for runtime in [&mut self.accepting, &mut self.crowded] {
            if let Some(runtime) = runtime.take() {
                runtime.shutdown_background();
            }
        }
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(threads)
        .on_thread_start(|| {
            // Of this thread alone: Linux has a priority for each. Without it all are equal.
            let given = getpriority_process(None).and_then(|own| setpriority_process(None, own.max(NICE)));
            if let Err(error) = given {
                tracing::warn!(%error, "threads that should give way do not");
            }
        })
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_accepts_and_what_serves_crowds_gives_way_and_what_serves_does_not() {
        let giving_way = GivingWay::start().unwrap();
        let Runtimes { serving, accepting, crowded } = giving_way.runtimes();
        let own = getpriority_process(None).unwrap();
        for (handle, nice) in [(serving, own), (accepting, NICE.max(own)), (crowded, NICE.max(own))] {
            let found = handle.spawn(async { getpriority_process(None) }).await.unwrap().unwrap();
            assert_eq!(found, nice);
        }
    }
}
