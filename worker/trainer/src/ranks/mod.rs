//! Several processes that train one network, each on a part of every batch.
//!
//! ```text
//!  batch of B samples ─► rank r takes samples r·B/R to (r+1)·B/R
//!  its share of the loss = (its samples / B) · loss of its samples    all shares sum to the loss
//!  forward:  moments of norms  ◄── gathered ──►   backward: their sums  ◄── summed ──►
//!  gradients ◄── summed ──► the same step everywhere, from the same state
//! ```
//!
//! Every rank draws the same kernels and drops what a single process would drop, as both
//! follow from seed and step. With synchronised statistics a step is that of one process
//! with the whole batch but for rounding. Validations, checkpoints and results are rank
//! 0's; the others wait for it.

pub mod launch;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cakes::spec::BatchStatistics;
use cakes_ranks::{Group, Seat};
use tch::{Device, Tensor};

use crate::TrainerError;
use crate::nets::Gradients;
use crate::nets::direct::norm::Moments;

/// Values that are summed in one go: their copy, one behind the other, is no larger,
/// unless one parameter is.
const BUCKET: usize = 1 << 20;

/// The processes of a job, as one of them sees them.
#[derive(Debug)]
pub struct Ranks {
    /// One call at a time: their order is what all processes agree on.
    group: Mutex<Group>,
    seat: Seat,
    batch_size: u64,
    statistics: BatchStatistics,
}

/// Samples of every batch that this process computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Of the whole batch.
    pub batch_size: u64,
}

impl Share {
    /// All of a batch.
    pub fn whole(batch_size: u32) -> Self {
        Share { first: 0, count: batch_size.into(), batch_size: batch_size.into() }
    }

    /// That of one of `size` processes.
    pub fn of(rank: u32, size: u32, batch_size: u64) -> Self {
        let edge = |rank: u32| u64::from(rank) * batch_size / u64::from(size.max(1));
        Share { first: edge(rank), count: edge(rank + 1) - edge(rank), batch_size }
    }

    pub fn samples(self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Of the loss, where the loss is a mean over samples.
    pub fn weight(self) -> f64 {
        self.count as f64 / self.batch_size.max(1) as f64
    }
}

impl Ranks {
    /// # Errors
    /// There are more processes than samples in a batch.
    pub fn new(group: Group, batch_size: u32, statistics: BatchStatistics) -> Result<Self, TrainerError> {
        let seat = group.seat();
        if seat.size() > batch_size {
            return Err(TrainerError::User(format!(
                "training.batch_size is {batch_size}, but {} devices train together and each needs a sample",
                seat.size()
            )));
        }
        Ok(Ranks { group: Mutex::new(group), seat, batch_size: batch_size.into(), statistics })
    }

    pub fn rank(&self) -> u32 {
        self.seat.rank()
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn share(&self) -> Share {
        Share::of(self.rank(), self.seat.size(), self.batch_size)
    }

    /// Whether norms use the statistics of the whole batch.
    pub fn synchronises(&self) -> bool {
        self.statistics == BatchStatistics::Synchronised
    }

    /// The sums of numbers over all processes.
    ///
    /// # Errors
    /// A process has ended.
    pub fn sum_of(&self, values: &[f64]) -> Result<Vec<f64>, TrainerError> {
        Ok(self.group().sum_of(values)?)
    }

    /// The sum over all processes, for a loss of which each computes a share.
    ///
    /// # Errors
    /// A process has ended.
    pub fn summed(&self, tensor: &Tensor) -> Result<Tensor, TrainerError> {
        let group = self.group();
        if group.sums_on(tensor.device()) {
            return Ok(group.summed(tensor)?);
        }
        drop(group);
        // Autograd walks back over the copies.
        let sum = self.group().summed(&tensor.f_to(Device::Cpu)?)?;
        Ok(sum.f_to(tensor.device())?)
    }

    /// Replaces gradients by their sums over all processes.
    ///
    /// # Errors
    /// A process has ended.
    pub fn sum_gradients(&self, gradients: &mut Gradients) -> Result<(), TrainerError> {
        let _no_grad = tch::no_grad_guard();
        let names: Vec<String> = gradients.keys().cloned().collect();
        let mut next = 0;
        while next < names.len() {
            let mut values = 0;
            let bucket = names[next..].iter().take_while(|name| {
                let fits = values == 0 || values + gradients[*name].numel() <= BUCKET;
                values += gradients[*name].numel();
                fits
            });
            let bucket: Vec<&String> = bucket.collect();
            next += bucket.len();
            let group = self.group();
            let flat = bucket.iter().map(|name| {
                let gradient = &gradients[*name];
                let place = if group.sums_on(gradient.device()) { gradient.device() } else { Device::Cpu };
                Ok(gradient.f_reshape([-1])?.f_to(place)?)
            });
            let mut flat = Tensor::f_cat(&flat.collect::<Result<Vec<_>, TrainerError>>()?, 0)?;
            group.sum(&mut flat)?;
            drop(group);
            let mut first = 0;
            for name in bucket {
                let Some(gradient) = gradients.get_mut(name) else { continue };
                let (count, shape, device) = (gradient.numel() as i64, gradient.size(), gradient.device());
                *gradient = flat.f_narrow(0, first, count)?.f_view(shape.as_slice())?.f_to(device)?;
                first += count;
            }
        }
        Ok(())
    }

    /// Moments of the whole batch from those of this process' `count` values of every
    /// channel, and how many values the whole has (Chan, Golub and LeVeque 1979).
    ///
    /// # Errors
    /// A process has ended.
    pub fn join_moments(&self, own: &Moments, count: usize) -> Result<(Moments, usize), TrainerError> {
        let channels = own.mean.len();
        let numbers = own.mean.iter().chain(&own.variance).map(|value| f64::from(*value));
        let numbers: Vec<f64> = std::iter::once(count as f64).chain(numbers).collect();
        let all = self.group().gather(&numbers)?;
        let total: f64 = all.iter().map(|one| one[0]).sum();
        let of = |channel: usize| {
            let mean = all.iter().map(|one| one[0] * one[1 + channel]).sum::<f64>() / total;
            let squares = all.iter().map(|one| {
                let distance = one[1 + channel] - mean;
                one[0] * (one[1 + channels + channel] + distance * distance)
            });
            (mean as f32, (squares.sum::<f64>() / total) as f32)
        };
        let (mean, variance) = (0..channels).map(of).unzip();
        Ok((Moments { mean, variance }, total as usize))
    }

    /// Looks whether all processes hold the same values, which nothing but a fault can
    /// change.
    ///
    /// # Errors
    /// They do not, or a process has ended.
    pub fn check_same(&self, values: &[f64]) -> Result<(), TrainerError> {
        let all = self.group().gather(values)?;
        let same =
            |one: &Vec<f64>| one.iter().zip(&all[0]).all(|(one, first)| one.to_bits() == first.to_bits());
        match all.iter().position(|one| !same(one)) {
            None => Ok(()),
            Some(rank) => Err(TrainerError::Report(format!(
                "rank {rank} trains from another state than rank 0; do all devices run the same programs?"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_the_batch_without_gap_or_overlap_and_nearly_even(size in 1_u32..9, batch in 1_u64..99) {
            let shares: Vec<Share> = (0..size).map(|rank| Share::of(rank, size, batch)).collect();
            let samples: Vec<u64> = shares.iter().flat_map(|share| share.samples()).collect();
            prop_assert_eq!(samples, (0..batch).collect::<Vec<_>>());
            let counts = shares.iter().map(|share| share.count);
            prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
            let weight: f64 = shares.iter().map(|share| share.weight()).sum();
            prop_assert!((weight - 1.0).abs() < 1e-12);
        }
    }
}
