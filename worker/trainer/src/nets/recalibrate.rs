//! Running statistics of one child of a performance-priority supernet.
//!
//! While such a supernet trains, every step runs another child. The running
//! statistics of a layer are then means over all of them: a norm behind a layer that
//! nobody searches has seen each channel before it computed by every kernel, and a
//! candidate's own norm moves only in the few steps in which it is drawn. None of
//! this is what the child measures that validation runs. Its statistics are
//! therefore taken afresh from training batches, as slimmable networks (Yu and Huang
//! 2019) and once-for-all networks (Cai et al. 2020) do, and put back behind the
//! validation: training does not see any of it.

use std::collections::BTreeMap;

use tch::Tensor;

use super::draw::Draws;
use super::net::{NORM_MOMENTUM, Net, Use};
use crate::TrainerError;

/// Running statistics of a network, put aside.
#[derive(Debug)]
pub struct Statistics(BTreeMap<String, Tensor>);

impl Net {
    /// Whether each step runs another child of the network.
    pub fn draws_kernels(&self) -> bool {
        self.sampled_layers().next().is_some()
    }

    /// Sets running statistics to the mean over what `batches` measure in the child
    /// that `draws` choose; those of candidates that are not drawn become 0. Returns
    /// what they were. Without batches nothing changes.
    ///
    /// # Shapes
    /// Batches: `[N, C, D, H, W]`.
    ///
    /// # Errors
    /// A batch cannot be made, libtorch fails, or a draw is missing.
    pub fn recalibrate(
        &mut self,
        draws: &Draws,
        batches: impl IntoIterator<Item = Result<Tensor, TrainerError>>,
    ) -> Result<Statistics, TrainerError> {
        let _no_grad = tch::no_grad_guard();
        let copies = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.f_detach_copy()?));
        let kept = self.params.statistics.iter().map(copies).collect::<Result<_, TrainerError>>()?;
        let mut sums: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut count = 0.0;
        for images in batches {
            let images = images?;
            for statistic in self.params.statistics.values_mut() {
                let _ = statistic.f_zero_()?;
            }
            let _ = self.forward(&images, Use::Train(draws))?;
            for (name, statistic) in &self.params.statistics {
                let sum = match sums.get(name) {
                    Some(sum) => sum.f_add(statistic)?,
                    None => statistic.f_detach_copy()?,
                };
                sums.insert(name.clone(), sum);
            }
            count += 1.0;
        }
        for (name, sum) in &sums {
            // From 0 a pass moves a statistic by this share of what the batch measures.
            let mean = sum.f_div_scalar(NORM_MOMENTUM * count)?;
            self.params.statistics[name].shallow_clone().f_copy_(&mean)?;
        }
        Ok(Statistics(kept))
    }

    /// Puts running statistics back.
    ///
    /// # Errors
    /// They are of another network.
    pub fn restore_statistics(&mut self, kept: &Statistics) -> Result<(), TrainerError> {
        let _no_grad = tch::no_grad_guard();
        for (name, tensor) in &kept.0 {
            self.statistic(name)?.shallow_clone().f_copy_(tensor)?;
        }
        Ok(())
    }
}
