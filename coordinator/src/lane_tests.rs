//! A store of numbers that passes over odd ones and breaks at 13.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[derive(Clone, Default)]
struct Numbers {
    gate: Arc<Mutex<Option<Arc<Semaphore>>>>,
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
    alone: Arc<AtomicUsize>,
}

impl Calls for Numbers {
    type Call = u32;
    type Answer = u32;
    const WEIGHT_MAX: usize = 4;

    fn weight(_: &u32) -> usize {
        1
    }

    async fn together(&self, calls: &[u32]) -> Result<Answers<u32>, Error> {
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.batches.lock().unwrap().push(calls.to_vec());
        if calls.contains(&13) {
            return Err(Error::Refused("13".to_owned()));
        }
        Ok(calls.iter().map(|call| call.is_multiple_of(2).then_some(Ok(call * 10))).collect())
    }

    async fn alone(&self, call: &u32) -> Result<u32, Error> {
        self.alone.fetch_add(1, Ordering::Relaxed);
        if *call == 13 { Err(Error::Refused("13".to_owned())) } else { Ok(call * 10) }
    }
}

async fn all(lane: &Lane<Numbers>, calls: &[u32]) -> Vec<Result<u32, LaneError>> {
    futures::future::join_all(calls.iter().map(|call| lane.call(*call))).await
}

#[tokio::test]
async fn what_waits_goes_together_and_what_does_not_fit_goes_alone() {
    let (numbers, tasks) = (Numbers::default(), TaskTracker::new());
    let gate = Arc::new(Semaphore::new(0));
    *numbers.gate.lock().unwrap() = Some(gate.clone());
    let lane = Lane::new(&numbers, &tasks);
    let calls = all(&lane, &[2, 4, 5, 6, 8, 10]);
    // The server is at the gate before it may go on.
    let (answers, ()) = tokio::join!(calls, async { gate.add_permits(10) });
    let answers: Vec<u32> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [20, 40, 50, 60, 80, 100], "to each its own");
    assert_eq!(*numbers.batches.lock().unwrap(), [vec![2, 4, 5, 6], vec![8, 10]], "up to the weight");
    assert_eq!(numbers.alone.load(Ordering::Relaxed), 1, "only the odd one");
    drop(lane);
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn one_call_that_breaks_the_batch_fails_by_itself() {
    let (numbers, tasks) = (Numbers::default(), TaskTracker::new());
    let lane = Lane::new(&numbers, &tasks);
    let answers = all(&lane, &[2, 13, 4]).await;
    let texts: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.map_or_else(|error| error.to_string(), |value| value.to_string()))
        .collect();
    assert_eq!(texts, ["20", "13", "40"]);
}

#[tokio::test]
async fn who_has_gone_before_its_turn_is_left_out() {
    let (numbers, tasks) = (Numbers::default(), TaskTracker::new());
    let gate = Arc::new(Semaphore::new(0));
    *numbers.gate.lock().unwrap() = Some(gate.clone());
    let lane = Lane::new(&numbers, &tasks);
    let mut gone = Box::pin(lane.call(4));
    assert!(futures::poll!(gone.as_mut()).is_pending());
    drop(gone);
    gate.add_permits(10);
    assert_eq!(lane.call(6).await.unwrap(), 60);
    assert!(numbers.batches.lock().unwrap().iter().all(|batch| !batch.contains(&4)));
}
