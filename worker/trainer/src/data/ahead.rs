//! Work done ahead of the loop that needs it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::TrainerError;

/// Results that each thread holds ready.
const AHEAD_PER_THREAD: usize = 2;

/// Results of numbered pieces of work, in their order, made by several threads.
/// What a piece gives must follow from its number alone; then the number of
/// threads changes nothing.
#[derive(Debug)]
pub struct Ahead<T> {
    /// One per thread; they take turns.
    receivers: Vec<Receiver<Result<T, TrainerError>>>,
    next: usize,
    waited: Duration,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts `threads` threads, which make the pieces of `numbers`. They end with
    /// the pieces, or when nobody takes them any more.
    pub fn start(
        threads: usize,
        numbers: Range<u64>,
        make: impl Fn(u64) -> Result<T, TrainerError> + Send + Sync + 'static,
    ) -> Self {
        let (make, threads) = (Arc::new(make), threads.max(1));
        let start = |first: usize| {
            let (sender, receiver) = sync_channel(AHEAD_PER_THREAD);
            let (make, own) = (make.clone(), numbers.clone().skip(first).step_by(threads));
            std::thread::spawn(move || {
                for number in own {
                    if sender.send(make(number)).is_err() {
                        break;
                    }
                }
            });
            receiver
        };
        Ahead { receivers: (0..threads).map(start).collect(), next: 0, waited: Duration::ZERO }
    }

    /// The next result, in order.
    ///
    /// # Errors
    /// It could not be made.
    pub fn take_next(&mut self) -> Result<T, TrainerError> {
        let start = Instant::now();
        let result = self.receivers[self.next].recv();
        self.waited += start.elapsed();
        self.next = (self.next + 1) % self.receivers.len();
        result.map_err(|_| TrainerError::Report("a thread that reads data has ended".into()))?
    }

    /// Time waited for results since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_number_of_threads_and_the_time_each_takes() {
        for threads in [0, 1, 3, 8] {
            let mut ahead = Ahead::start(threads, 5..25, |number| {
                std::thread::sleep(Duration::from_millis(number * 7 % 5));
                if number == 24 { Err(TrainerError::User("the last one".into())) } else { Ok(number) }
            });
            for number in 5..24 {
                assert_eq!(ahead.take_next().unwrap(), number);
            }
            assert!(ahead.take_next().unwrap_err().to_string().contains("the last one"));
            assert!(ahead.take_next().unwrap_err().to_string().contains("has ended"));
        }
    }

    #[test]
    fn waiting_is_counted() {
        let mut ahead = Ahead::start(1, 0..1, |_| {
            std::thread::sleep(Duration::from_millis(30));
            Ok(())
        });
        ahead.take_next().unwrap();
        assert!(ahead.take_waited() >= Duration::from_millis(5));
        assert_eq!(ahead.take_waited(), Duration::ZERO);
    }
}
