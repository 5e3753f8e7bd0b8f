//! How many output channels of one layer each kernel computes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;

/// The channels of one layer, shared out among kernels.
///
/// Holds only non-zero counts; their sum is the layer's width, so a wrong sum
/// cannot be expressed. JSON: `{"3x3x3": 5, "1x3x3": 11}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Kernel, u32>", into = "BTreeMap<Kernel, u32>")]
pub struct ChannelAllocation {
    counts: BTreeMap<Kernel, u32>,
}

/// Why counts are no allocation of a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    #[error("the allocation gives no channel to any kernel")]
    Empty,
    #[error("the counts {counts} sum to {sum}, but the layer has {width} channels")]
    WrongSum { counts: String, sum: u64, width: u32 },
    #[error("{0} channels are more than a layer can have")]
    TooWide(u64),
}

impl ChannelAllocation {
    /// Widest layer that is accepted, in channels.
    pub const WIDTH_MAX: u32 = 65_536;

    /// An allocation of a layer of `width` channels.
    ///
    /// # Errors
    /// The counts do not sum to exactly `width`, or `width` is 0.
    pub fn new(width: u32, counts: impl IntoIterator<Item = (Kernel, u32)>) -> Result<Self, AllocationError> {
        let allocation = Self::from_counts(counts)?;
        if allocation.width() == width {
            return Ok(allocation);
        }
        Err(AllocationError::WrongSum {
            counts: allocation.to_string(),
            sum: allocation.width().into(),
            width,
        })
    }

    /// An allocation whose width is whatever the counts sum to.
    ///
    /// # Errors
    /// All counts are 0, or the sum passes [`Self::WIDTH_MAX`].
    pub fn from_counts(counts: impl IntoIterator<Item = (Kernel, u32)>) -> Result<Self, AllocationError> {
        let mut merged: BTreeMap<Kernel, u32> = BTreeMap::new();
        let mut sum = 0_u64;
        for (kernel, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            sum += u64::from(count);
            if sum > u64::from(Self::WIDTH_MAX) {
                return Err(AllocationError::TooWide(sum));
            }
            *merged.entry(kernel).or_default() += count;
        }
        if merged.is_empty() {
            return Err(AllocationError::Empty);
        }
        Ok(ChannelAllocation { counts: merged })
    }

    /// All channels on one kernel.
    ///
    /// # Errors
    /// `width` is 0 or more than [`Self::WIDTH_MAX`].
    pub fn uniform(kernel: Kernel, width: u32) -> Result<Self, AllocationError> {
        Self::new(width, [(kernel, width)])
    }

    /// Channels shared evenly; what does not divide goes to the first kernels.
    ///
    /// # Errors
    /// No kernels, or a width of 0 or more than [`Self::WIDTH_MAX`].
    pub fn even(kernels: &[Kernel], width: u32) -> Result<Self, AllocationError> {
        let parts = u32::try_from(kernels.len()).unwrap_or(u32::MAX);
        if parts == 0 {
            return Err(AllocationError::Empty);
        }
        let share = |index: u32| width / parts + u32::from(index < width % parts);
        Self::new(width, kernels.iter().copied().zip(0_u32..).map(|(kernel, index)| (kernel, share(index))))
    }

    /// The published code's split of a layer that no search has seen: each kernel
    /// gets the width over their number, and the first all that does not divide.
    /// Where it differs from [`Self::even`] the first kernel has a channel or two
    /// more (44/42/42 of 128, not 43/43/42).
    ///
    /// # Errors
    /// No kernels, or a width of 0 or more than [`Self::WIDTH_MAX`].
    pub fn manual(kernels: &[Kernel], width: u32) -> Result<Self, AllocationError> {
        let parts = u32::try_from(kernels.len()).unwrap_or(u32::MAX);
        let share = width.checked_div(parts).ok_or(AllocationError::Empty)?;
        let rest = kernels.first().map(|first| (*first, width - share * parts));
        Self::new(width, kernels.iter().map(|kernel| (*kernel, share)).chain(rest))
    }

    /// Number of output channels of the layer.
    pub fn width(&self) -> u32 {
        self.counts.values().sum()
    }

    /// Channels that `kernel` computes, 0 if it has none.
    pub fn count(&self, kernel: Kernel) -> u32 {
        self.counts.get(&kernel).copied().unwrap_or(0)
    }

    /// Kernels that have channels, in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (Kernel, u32)> + '_ {
        self.counts.iter().map(|(kernel, count)| (*kernel, *count))
    }

    /// Taps summed over all output channels: weights per input channel.
    pub fn taps(&self) -> u64 {
        self.iter().map(|(kernel, count)| u64::from(kernel.taps()) * u64::from(count)).sum()
    }
}

impl fmt::Display for ChannelAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(kernel, count)| format!("{kernel}:{count}")).collect();
        f.pad(&parts.join(" "))
    }
}

impl TryFrom<BTreeMap<Kernel, u32>> for ChannelAllocation {
    type Error = AllocationError;

    fn try_from(counts: BTreeMap<Kernel, u32>) -> Result<Self, Self::Error> {
        Self::from_counts(counts)
    }
}

impl From<ChannelAllocation> for BTreeMap<Kernel, u32> {
    fn from(allocation: ChannelAllocation) -> Self {
        allocation.counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrong_sum_names_both_numbers() {
        let error = ChannelAllocation::new(16, [(Kernel::K333, 5), (Kernel::K133, 10)]).unwrap_err();
        assert_eq!(error.to_string(), "the counts 3x3x3:5 1x3x3:10 sum to 15, but the layer has 16 channels");
        assert_eq!(ChannelAllocation::new(0, []), Err(AllocationError::Empty));
        assert!(serde_json::from_str::<ChannelAllocation>("{}").is_err());
        assert!(serde_json::from_str::<ChannelAllocation>(r#"{"3x3x3":-1}"#).is_err());
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        let counts = Kernel::ALL.map(|kernel| (kernel, u32::MAX));
        assert!(matches!(ChannelAllocation::from_counts(counts), Err(AllocationError::TooWide(_))));
    }

    #[test]
    fn the_published_split_gives_the_first_kernel_what_remains() {
        let counts = |kernels: &[Kernel], width| {
            let allocation = ChannelAllocation::manual(kernels, width).unwrap();
            kernels.iter().map(|kernel| allocation.count(*kernel)).collect::<Vec<u32>>()
        };
        let video = [Kernel::K333, Kernel::K133, Kernel::K311];
        assert_eq!(counts(&video, 64), [22, 21, 21]);
        assert_eq!(counts(&video, 128), [44, 42, 42]);
        assert_eq!(counts(&[Kernel::K331, Kernel::K313, Kernel::K133], 128), [44, 42, 42]);
        assert_eq!(counts(&Kernel::ALL[..7], 512), [74, 73, 73, 73, 73, 73, 73]);
        assert_eq!(ChannelAllocation::manual(&[], 4), Err(AllocationError::Empty));
    }

    proptest! {
        #[test]
        fn even_shares_sum_to_the_width_and_differ_by_one(width in 1_u32..600, kinds in 1_usize..=8) {
            let kernels = &Kernel::ALL[..kinds];
            let allocation = ChannelAllocation::even(kernels, width).unwrap();
            prop_assert_eq!(allocation.width(), width);
            let counts: Vec<u32> = kernels.iter().map(|kernel| allocation.count(*kernel)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }

        #[test]
        fn json_round_trips(counts in proptest::collection::vec(0_u32..300, 8)) {
            prop_assume!(counts.iter().any(|count| *count > 0));
            let allocation = ChannelAllocation::from_counts(Kernel::ALL.into_iter().zip(counts)).unwrap();
            let json = serde_json::to_string(&allocation).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChannelAllocation>(&json).unwrap(), allocation);
        }
    }
}
