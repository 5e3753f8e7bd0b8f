//! Calls for people take turns, caller by caller, while they read and write rows: whoever calls
//! without a pause waits for itself, and others for one of its calls at the most.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::core;
use crate::core::throttle::Who;

/// A caller waits for its own slow call with its next one only if it has as many under way.
const ONE_CALLER_MIN: usize = 2;

type Waiting = core::turns::Turns<Who, oneshot::Sender<Turn>>;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Mutex<Waiting>>);

/// A call is served while this lives.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    /// None where there is no place to give to somebody else.
    who: Option<Who>,
}

impl Turns {
    /// So many calls are served at a time. Of one caller no more than there are processors: with
    /// more it would take them all, however many connections to the database are left.
    pub(super) fn new(places: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(ONE_CALLER_MIN, NonZeroUsize::get);
        let most = processors.max(ONE_CALLER_MIN);
        Turns(Arc::new(Mutex::new(core::turns::Turns::new(places, most))))
    }

    /// Waits for the caller's turn.
    pub(super) async fn wait(&self, who: &Who) -> Turn {
        let (tell, told) = oneshot::channel();
        let entered = self.lock().enter(who, tell);
        if entered.is_some() {
            return Turn { turns: self.clone(), who: Some(who.clone()) };
        }
        // Whoever waits is told. If not, it has no place that it could give back.
        told.await.unwrap_or_else(|_| Turn { turns: self.clone(), who: None })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut leaving = self.who.take();
        while let Some(who) = leaving {
            let next = self.turns.lock().leave(&who);
            let Some((who, tell)) = next else { return };
            let turn = Turn { turns: self.turns.clone(), who: Some(who) };
            // Nobody waits for it any more, where the caller has gone.
            leaving = tell.send(turn).err().and_then(|mut turn| turn.who.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_has_gone_keeps_nobody_waiting() {
        let turns = Turns::new(1);
        let who = |last: u8| Who::Trusted(IpAddr::from([10, 0, 0, last]));
        let first = turns.wait(&who(1)).await;
        let waiting = |last: u8| {
            let (turns, who) = (turns.clone(), who(last));
            tokio::spawn(async move { turns.wait(&who).await })
        };
        let given_up: Vec<_> = (0..100).map(|_| waiting(1)).collect();
        tokio::task::yield_now().await;
        given_up.iter().for_each(|task| task.abort());
        let patient = waiting(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!patient.is_finished());
        drop(first);
        drop(patient.await.unwrap());
        assert!(turns.lock().enter(&who(3), oneshot::channel().0).is_some(), "a place is lost");
    }
}
